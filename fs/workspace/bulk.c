/* bulk.c: the workspace's end of the bulk lane, for replica and archive; and the state stream.
 *
 * Owns nothing. The reader of a range asks for bytes as written at exactly one position; it gets
 * the longest right prefix, or DMT_E_GONE when they were overwritten, cut or deleted since. What
 * the live file no longer shows a snapshot may still have.
 * A piece counts if it was born no later than the position: nothing changed it since, so it is what
 * was there then; a hole only if the file did not change at all since, for a hole does not tell
 * when it was made. The map is looked at before and after the bytes are read. Thread: pool or loop;
 * blocks on the disk without the lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/ws.h"

struct range {
    uint64_t view, ino, off, len, seq;
    bool last; /* nobody reads it from here again soon */
};

/* How many bytes from the start of the range are right, by the map. Lock held; ps to be freed by
 * the caller. */
static int right_bytes(struct dmt_ws *ws, const struct range *g, void *buf, struct dmt_pieces *ps,
                       uint64_t *ret_n)
{
    struct dmt_inode n;
    uint64_t len = g->len;
    *ret_n = 0;
    int r = dmt_store_inode_get(ws->st, g->view, g->ino, &n);
    if (r < 0)
        return r == -ENOENT ? DMT_E_GONE : r;
    if (g->off >= n.size)
        return DMT_E_GONE;
    if (len > n.size - g->off)
        len = n.size - g->off;
    r = dmt_store_map(ws->st, g->view, g->ino, g->off, buf, len, ps);
    if (r == DMT_E_GONE && dmt_store_lost_at(ws->st, g->view, g->ino, g->off, len)) {
        /* Lost at a promotion, here: what asks for it must come to an end, and gets zeros; not for
         * what lies around it, nor where only the snapshot has gone a moment ago. */
        uint64_t step = DMT_LOST_STEP - g->off % DMT_LOST_STEP;
        len = len < step ? len : step;
        if (dmt_store_lost_at(ws->st, g->view, g->ino, g->off, len)) {
            memset(buf, 0, len);
            *ret_n = len;
            return 0;
        }
        r = dmt_store_map(ws->st, g->view, g->ino, g->off, buf, len, ps);
    }
    for (int i = 0; r == 0 && i < ps->n; i++) {
        const struct dmt_piece *p = &ps->v[i];
        bool right = p->born ? p->born <= g->seq : n.seq <= g->seq;
        if (!right || p->off != g->off + *ret_n)
            break;
        *ret_n += p->len;
    }
    return r < 0 ? r : *ret_n > 0 ? 0 : DMT_E_GONE;
}

static int read_range(struct dmt_ws *ws, const struct range *g, void *buf, uint64_t *ret_n)
{
    struct dmt_pieces ps = {0}, again = {0};
    uint64_t n = 0, still = 0;
    ws_lock(ws);
    int r = right_bytes(ws, g, buf, &ps, &n);
    ws_unlock(ws);
    if (r == 0)
        r = dmt_store_pieces_read(ws->st, &ps, g->off, buf, false);
    if (r == 0 && g->last)
        dmt_store_pieces_drop(ws->st, &ps);
    ws_lock(ws);
    if (r == 0) {
        /* Bytes in memory are copied once more, which does no harm: they are right, or the count
         * says so. */
        struct range part = *g;
        part.len = n;
        uint8_t *scratch = malloc(n);
        r = scratch ? right_bytes(ws, &part, scratch, &again, &still) : -ENOMEM;
        free(scratch);
    }
    dmt_store_pieces_free(ws->st, &ps);
    dmt_store_pieces_free(ws->st, &again);
    ws_unlock(ws);
    *ret_n = still < n ? still : n;
    return r;
}

struct next_view {
    uint64_t after, seq;
};

static int first_after(void *ctx, const struct dmt_snapshot *s)
{
    struct next_view *v = ctx;
    if (s->seq < v->after)
        return 0;
    v->seq = s->seq;
    return 1;
}

static int bulk_read(struct dmt_ws *ws, struct range *g, void *buf, uint64_t *ret_n)
{
    struct next_view v = {.after = g->seq};
    int r = read_range(ws, g, buf, ret_n);
    if (r != DMT_E_GONE)
        return r;
    /* The oldest snapshot not before the write is the one that would show it. */
    ws_lock(ws);
    (void)dmt_store_snap_each(ws->st, first_after, &v);
    ws_unlock(ws);
    if (!v.seq)
        return r;
    g->view = v.seq;
    return read_range(ws, g, buf, ret_n);
}

int dmt_ws_bulk_read(struct dmt_ws *ws, uint64_t ino, uint64_t off, uint64_t len, uint64_t seq,
                     void *buf, uint64_t *ret_n)
{
    struct range g = {.view = DMT_LIVE, .ino = ino, .off = off, .len = len, .seq = seq};
    return bulk_read(ws, &g, buf, ret_n);
}

int dmt_ws_bulk_send(struct dmt_ws *ws, uint64_t ino, uint64_t off, uint64_t len, uint64_t seq,
                     void *buf, uint64_t *ret_n)
{
    struct range g = {
        .view = DMT_LIVE, .ino = ino, .off = off, .len = len, .seq = seq, .last = true};
    return bulk_read(ws, &g, buf, ret_n);
}

void dmt_ws_bulk_sending(struct dmt_ws *ws, bool on)
{
    dmt_store_ref_read_back(ws->st, on);
}

int dmt_ws_missing_next(struct dmt_ws *ws, uint64_t ino, uint64_t off, struct dmt_missing *ret)
{
    ws_lock(ws);
    int r = ws_may_follow(ws) ? dmt_store_missing_next(ws->st, ino, off, ret) : DMT_E_STALE;
    ws_unlock(ws);
    return r;
}

int dmt_ws_missing_fill(struct dmt_ws *ws, const struct dmt_missing *m, const void *p)
{
    uint64_t used;
    ws_lock(ws);
    int r = ws_may_follow(ws) ? dmt_store_missing_fill(ws->st, m, p, &used) : DMT_E_STALE;
    ws->filled |= r == 0 && used > 0;
    ws_unlock(ws);
    return r;
}

/* What the reader acknowledges after this must also be known here after a power cut: bytes on the
 * disk of which the table of missing ranges says they are not there would be thrown away at a
 * promotion. So the rows go in a checkpoint at once. */
int dmt_ws_missing_sync(struct dmt_ws *ws)
{
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    ws_lock(ws);
    bool filled = ws->filled;
    ws->filled = false;
    ws_unlock(ws);
    if (!filled)
        return 0;
    int r = dmt_store_fill_sync(ws->st, &lk);
    return r < 0 ? r : ws_ckpt_now(ws, false, NULL);
}

bool dmt_ws_missing_ino(struct dmt_ws *ws, uint64_t ino, uint64_t upto_seq)
{
    ws_lock(ws);
    bool r = dmt_store_missing_ino(ws->st, ino, upto_seq);
    ws_unlock(ws);
    return r;
}

bool dmt_ws_keep_covers(struct dmt_ws *ws, uint64_t ino, uint64_t seq)
{
    ws_lock(ws);
    bool r = dmt_store_keep_covers(ws->st, ino, seq);
    ws_unlock(ws);
    return r;
}

int dmt_ws_export(struct dmt_ws *ws, struct dmt_pos *ret_pos,
                  int (*emit)(void *ctx, const void *p, size_t len), void *ctx, struct dmt_err *err)
{
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    int r = dmt_ws_checkpoint(ws, err);
    return r < 0 ? r : dmt_store_export(ws->st, &lk, ret_pos, emit, ctx, err);
}

int dmt_ws_export_diff(struct dmt_ws *ws, const void *statement, size_t len,
                       struct dmt_pos *ret_pos,
                       void (*sized)(void *ctx, const struct dmt_diff_size *size),
                       int (*emit)(void *ctx, const void *p, size_t len), void *ctx,
                       struct dmt_err *err)
{
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    int r = dmt_ws_checkpoint(ws, err);
    return r < 0 ? r : dmt_store_diff(ws->st, &lk, statement, len, ret_pos, sized, emit, ctx, err);
}
