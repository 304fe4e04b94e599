/* settle.c: after a promotion or a power cut: what becomes of files whose by-reference bytes are
 * missing here (rules 21, 22).
 *
 * Names, links and attributes are exact and stay. Happy path, per file with a missing range: if
 * there is a complete content to fall back to, a CONTENT record gives it that (with its size and
 * time); else, or if the file only grew since, a SETATTR record cuts it at the first missing byte.
 * Before that an INCOMPLETE record reports it, and the xattr user.dumont.incomplete tells programs.
 * What had arrived stays readable in the snapshot of the switch point. After a crash of this
 * process alone (same boot) the page cache still has everything: the data files are synced and the
 * ranges marked instead.
 * A checkpoint comes before the first CONTENT record: which old contents are kept is part of it, so
 * a replay finds them again. Until this ran, nothing may be marked durable here (bulk_ok). Failure:
 * can be called again; files already settled have no missing ranges any more. Thread: pool or
 * control; blocks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/workspace/settle.h"
#include "fs/workspace/ws.h"

#define CHUNK (1u << 20)

struct lost {
    uint64_t ino, bytes, first; /* first missing byte */
};
struct losses {
    struct lost *v;
    size_t n, cap;
};

/* A row counts if the live file shows that range; others belong to snapshots. Lock held. */
static bool is_live(struct dmt_ws *ws, const struct dmt_missing *m)
{
    struct dmt_pieces ps = {0};
    uint8_t byte;
    bool live = dmt_store_map(ws->st, DMT_LIVE, m->ino, m->off, &byte, 1, &ps) == 0 && ps.n == 1 &&
                ps.v[0].born == m->seq;
    dmt_store_pieces_free(ws->st, &ps);
    return live;
}

static int note_lost(struct losses *l, const struct dmt_missing *m, uint64_t bytes)
{
    if (l->n == 0 || l->v[l->n - 1].ino != m->ino) {
        if (l->n == l->cap) {
            size_t cap = l->cap ? l->cap * 2 : 64;
            struct lost *v = realloc(l->v, cap * sizeof(*v));
            if (!v)
                return -ENOMEM;
            l->v = v;
            l->cap = cap;
        }
        l->v[l->n++] = (struct lost){.ino = m->ino, .first = m->off};
    }
    l->v[l->n - 1].bytes += bytes;
    return 0;
}

/* Lock held. */
static int find_losses(struct dmt_ws *ws, struct losses *l)
{
    struct dmt_missing m;
    struct dmt_inode n;
    uint64_t ino = 0, off = 0;
    int r;
    while ((r = dmt_store_missing_next(ws->st, ino, off, &m)) == 1) {
        ino = m.ino;
        off = m.off + m.len;
        if (dmt_store_inode_get(ws->st, DMT_LIVE, ino, &n) < 0 || m.off >= n.size ||
            !is_live(ws, &m))
            continue;
        r = note_lost(l, &m, m.len < n.size - m.off ? m.len : n.size - m.off);
        if (r < 0)
            break;
    }
    return r;
}

/* Is the older content still there, unchanged, as the beginning of the file? Lock held. */
static int old_unchanged(struct dmt_ws *ws, const struct lost *f, const struct dmt_rec_CONTENT *old)
{
    uint8_t *buf = malloc(CHUNK);
    int r = buf ? old->src == f->ino && f->first >= old->size : -ENOMEM;
    for (uint64_t off = 0; r == 1 && off < old->size; off += CHUNK) {
        struct dmt_pieces ps = {0};
        uint64_t n = old->size - off < CHUNK ? old->size - off : CHUNK;
        int e = dmt_store_map(ws->st, DMT_LIVE, f->ino, off, buf, n, &ps);
        for (int i = 0; e == 0 && i < ps.n; i++)
            r &= ps.v[i].born <= old->view;
        dmt_store_pieces_free(ws->st, &ps);
        r = e < 0 ? e : r;
    }
    free(buf);
    return r;
}

/* What the file becomes: *ret is the record that makes it so, *ret_size its size then. */
static int decide(struct dmt_ws *ws, const struct lost *f, struct dmt_body *ret, bool *fallback,
                  uint64_t *ret_size)
{
    struct dmt_inode n;
    struct dmt_rec_CONTENT c = {.ino = f->ino};
    int r = dmt_store_inode_get(ws->st, DMT_LIVE, f->ino, &n);
    if (r < 0)
        return r;
    r = dmt_store_fallback(ws->st, f->ino, &c.src, &c.view, &c.size, &c.mtime);
    int unchanged = r == 0 ? old_unchanged(ws, f, &c) : 0;
    if (unchanged < 0 || (r < 0 && r != -ENOENT))
        return unchanged < 0 ? unchanged : r;
    *fallback = settle_falls_back(&(struct settle_case){.has_old = r == 0,
                                                        .same_file = c.src == f->ino,
                                                        .old_size = c.size,
                                                        .first = f->first,
                                                        .old_unchanged = unchanged});
    *ret_size = *fallback ? c.size : f->first;
    if (*fallback)
        *ret = (struct dmt_body){.type = DMT_REC_CONTENT, .CONTENT = c};
    else
        *ret = (struct dmt_body){
            .type = DMT_REC_SETATTR,
            .SETATTR = {.ino = f->ino,
                        .mask = DMT_SET_SIZE | DMT_SET_MTIME,
                        .size = f->first,
                        .mtime = n.mtime},
        };
    return 0;
}

/* The marks come before the change: a crash in between leaves a file that is settled again, never
 * one that was cut and does not say so. */
static int settle_file(struct dmt_ws *ws, const struct lost *f, const char *path)
{
    struct dmt_body change;
    char note[128];
    bool fallback = false;
    uint64_t size = 0;
    int r = decide(ws, f, &change, &fallback, &size);
    if (r < 0)
        return r;
    (void)snprintf(note, sizeof(note), "%" PRIu64 " bytes missing; %s; at position %" PRIu64,
                   f->bytes, fallback ? "older content" : "cut at the first missing byte",
                   ws->applied.seq + 3); /* the change's: the file's version from then on */
    struct dmt_body attr = {
        .type = DMT_REC_SETXATTR,
        .SETXATTR = {.ino = f->ino,
                     .name = ws_span(WS_INCOMPLETE_ATTR),
                     .value = ws_span(note),
                     .mode = DMT_MODE_KEEP},
    };
    struct dmt_body report = {
        .type = DMT_REC_INCOMPLETE,
        .INCOMPLETE = {.ino = f->ino,
                       .fallback = fallback,
                       .missing_bytes = f->bytes,
                       .size = size,
                       .path = ws_span(path ? path : "")},
    };
    r = ws_log(ws, NULL, &attr, 0);
    if (r == 0)
        r = ws_log(ws, NULL, &report, 0);
    return r < 0 ? r : ws_log(ws, NULL, &change, 0);
}

/* Says of each inode whose bytes are given up that they are: what a snapshot shows of it is not the
 * same everywhere from now on (rollback.c). Those settled have been reported. Lock held. */
static int report_rest(struct dmt_ws *ws)
{
    struct dmt_missing m;
    uint64_t ino = 0, off = 0;
    struct dmt_body b = {.type = DMT_REC_INCOMPLETE};
    int r = 0, more = 1;
    while (r == 0 && more > 0) {
        more = dmt_store_missing_next(ws->st, ino, off, &m);
        bool same = more > 0 && m.ino == b.INCOMPLETE.ino;
        if (!same && b.INCOMPLETE.ino && !ws_map_has(&ws->reported, b.INCOMPLETE.ino))
            r = ws_log(ws, NULL, &b, 0);
        if (more <= 0)
            break;
        b.INCOMPLETE.missing_bytes = m.len + (same ? b.INCOMPLETE.missing_bytes : 0);
        b.INCOMPLETE.ino = ino = m.ino;
        off = m.off + m.len;
    }
    return r < 0 ? r : more;
}

/* Ranges that only snapshots show (the switch point's among them) will not come any more: they are
 * lost here, and this store stops asking for them. Its own list, so no record. Lock held. */
static int give_up_rest(struct dmt_ws *ws)
{
    struct dmt_missing m;
    int r = report_rest(ws);
    if (r < 0)
        return r;
    dmt_store_give_up_pinned(ws->st, UINT64_MAX);
    while ((r = dmt_store_missing_next(ws->st, 0, 0, &m)) == 1) {
        r = dmt_store_mark(ws->st, m.ino, UINT64_MAX, true, ws->own_after, ws->applied.seq);
        if (r < 0)
            break;
    }
    return r;
}

/* Rows first, then the checkpoint that makes it known durably: a restart must not ask again. */
int dmt_ws_keep_own(struct dmt_ws *ws, uint64_t *ret_seq, struct dmt_err *err)
{
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    struct dmt_missing m;
    uint64_t tail = dmt_journal_tail(ws->j).seq;
    dmt_journal_kick(ws->j, tail);
    int r = dmt_journal_wait(ws->j, tail);
    if (r == 0)
        r = dmt_ws_apply_upto(ws, tail, err);
    ws_lock(ws);
    if (r == 0 && dmt_store_ref_short(ws->st))
        r = dmt_err_set(err, -EIO, "data files end before what was written to them");
    ws_unlock(ws);
    if (r == 0)
        r = dmt_store_ref_sync(ws->st, &lk, 0);
    ws_lock(ws);
    *ret_seq = ws->applied.seq;
    for (uint64_t at = 0; r == 0 && dmt_store_missing_next(ws->st, at, 0, &m) == 1; at = m.ino + 1)
        r = dmt_store_mark(ws->st, m.ino, UINT64_MAX, true, ws->own_after, ws->applied.seq);
    ws_unlock(ws);
    if (r == 0)
        r = ws_ckpt_now(ws, false, err);
    return r < 0 && !(err && err->code)
               ? dmt_err_set(err, r, "its own bulk data cannot be kept: %s", dmt_strerror(r))
               : r;
}

static int settle_all(struct dmt_ws *ws, const struct losses *l)
{
    uint64_t *inos = calloc(l->n + 1, sizeof(*inos));
    char **paths = NULL;
    int r = inos ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < l->n; i++)
        inos[i] = l->v[i].ino;
    if (r == 0 && l->n > 0)
        r = ws_paths(ws, DMT_LIVE, inos, l->n, &paths);
    ws_lock(ws);
    for (size_t i = 0; r == 0 && i < l->n; i++)
        r = settle_file(ws, &l->v[i], paths[i]);
    if (r == 0)
        r = give_up_rest(ws);
    ws->bulk_ok |= r == 0;
    uint64_t seq = ws->applied.seq;
    ws_unlock(ws);
    ws_paths_free(paths, paths ? l->n : 0);
    free(inos);
    if (r == 0) {
        dmt_journal_kick(ws->j, seq);
        r = dmt_journal_wait(ws->j, seq);
    }
    return r;
}

int dmt_ws_settle(struct dmt_ws *ws, bool own_crash_same_boot, struct dmt_err *err)
{
    struct losses l = {0};
    uint64_t seq;
    int r = dmt_ws_missing_sync(ws);
    ws_lock(ws);
    if (r == 0)
        r = ws->role != WS_HOLDER || ws->failed ? -EROFS : 0;
    if (r == 0 && own_crash_same_boot && dmt_store_ref_short(ws->st)) {
        dmt_warn("data files end before what was written to them: the disk has failed meanwhile, "
                 "unsynced bulk data counts as lost");
        own_crash_same_boot = false;
    }
    if (r == 0 && own_crash_same_boot)
        ws->bulk_ok = true;
    else if (r == 0)
        r = find_losses(ws, &l);
    ws_unlock(ws);
    if (r == 0 && l.n > 0)
        r = ws_ckpt_now(ws, false, err);
    if (r == 0 && own_crash_same_boot)
        r = ws_bulk_sync(ws, 0, true, &seq);
    else if (r == 0)
        r = settle_all(ws, &l);
    int n = (int)l.n;
    free(l.v);
    return r < 0 ? dmt_err_set(err, r, "files with missing data cannot be settled: %s",
                               dmt_strerror(r))
                 : n;
}
