/* ops_write.c: write and fallocate, and the choice between inline and by reference.
 *
 * Owns the table of runs: per file how far its last write reached, how long the current run of
 * adjoining writes is, how many bytes it has written since its last sync, and in how many writes,
 * which tells when the next sync is due. A write goes by
 * reference when its file has DMT_INLINE_BUDGET unsynced bytes and the run has DMT_REF_RUN_MIN:
 * bytes to fresh space of the data file first (D2), then a record without them. All else is inline:
 * one copy into the store's memory, one pwritev of the payload from where it lies. The table is
 * direct-mapped: two busy files that share a slot stay inline, which is slower and never wrong.
 * With sync=write everything is inline, because each call waits for its own bytes anyway.
 * Failure: no room is found out before anything is logged; bytes put by reference whose record then
 * fails lie in space that nothing refers to. Thread: any, workspace lock held inside.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/workspace/ws.h"

static void end_run(struct ws_run *run)
{
    run->regular = run->writes > 0 && run->writes == run->usual ? run->regular + 1 : 0;
    run->usual = run->writes;
    run->writes = 0;
    run->unsynced = 0;
    run->synced = true;
}

static struct ws_run *run_of(struct dmt_ws *ws, uint64_t ino)
{
    struct ws_run *run = &ws->runs[ino % WS_RUNS];
    if (run->ino != ino)
        *run = (struct ws_run){.ino = ino, .sync_gen = ws->sync_gen, .synced = true};
    if (run->sync_gen != ws->sync_gen) {
        run->sync_gen = ws->sync_gen;
        end_run(run);
    }
    return run;
}

void ws_runs_synced(struct dmt_ws *ws, uint64_t ino)
{
    struct ws_run *run = ino ? run_of(ws, ino) : NULL;
    if (!run) {
        ws->sync_gen++;
        return;
    }
    end_run(run);
}

void ws_run_under_sync(struct dmt_ws *ws, uint64_t ino)
{
    run_of(ws, ino)->synced = true;
}

void ws_runs_forget(struct dmt_ws *ws)
{
    memset(ws->runs, 0, WS_RUNS * sizeof(*ws->runs));
}

/* Whoever has synced after equally many writes a few times will do so again (decision 0027). */
static bool sync_is_due(struct dmt_ws *ws, uint64_t ino)
{
    const struct ws_run *run = run_of(ws, ino);
    return run->regular >= WS_REGULAR && run->writes == run->usual &&
           run->unsynced <= DMT_INLINE_BUDGET;
}

uint64_t ws_ref_seq(struct dmt_ws *ws, uint64_t ino)
{
    uint64_t seq = ino ? ws_map_get(&ws->ref_seqs, ino) : ws->ref_last;
    /* What was written before this process began is not known per file: all of it counts. */
    return seq > ws->epoch_seq ? seq : ws->epoch_seq;
}

static bool by_reference(struct dmt_ws *ws, const struct dmt_inode *n, uint64_t off, size_t len)
{
    struct ws_run *run = run_of(ws, n->ino);
    if (n->size == 0)
        run->synced = false;
    bool over = run->unsynced >= DMT_INLINE_BUDGET;
    run->writes++;
    run->length = off == run->end ? run->length + len : len;
    run->end = off + len;
    run->unsynced += len;
    return over && run->length >= DMT_REF_RUN_MIN && ws->conf.level != DMT_SYNC_WRITE;
}

/* What a sync acknowledged of a file that is about to become incomplete is what it falls back to. A
 * sync of inline data leaves no trace in the journal, so a MARK says it now; without one a file
 * that no checkpoint knows falls back to nothing. And a sync that is still under way says its own
 * MARK behind this write: what it is about is what the file holds now. */
static int end_generation(struct dmt_ws *ws, uint64_t ino)
{
    struct ws_run *run = run_of(ws, ino);
    if (!run->synced)
        return 0;
    run->synced = false;
    struct dmt_body b = {.type = DMT_REC_MARK, .MARK = {.ino = ino, .upto = 0}};
    return ws_log(ws, NULL, &b, 0);
}

static int write_ref(struct dmt_ws *ws, struct dmt_op *op, uint64_t ino, const void *p, size_t len,
                     uint64_t off, uint32_t mode, bool drop_caps)
{
    struct dmt_place pl;
    int r = end_generation(ws, ino);
    if (r == 0)
        r = dmt_store_ref_place(ws->st, ino, off, len, &pl);
    if (r == 0)
        r = dmt_store_ref_put(ws->st, &pl, p, len);
    if (r < 0)
        return r;
    struct dmt_body b = {
        .type = DMT_REC_WRITE_REF,
        .WRITE_REF = {.ino = ino,
                      .off = off,
                      .length = len,
                      .hash = dmt_hash64(0, p, len),
                      .mode = mode,
                      .drop_caps = drop_caps},
    };
    r = ws_log(ws, op, &b, 0);
    if (r < 0)
        return r;
    if (ws->bulk_since_ns == 0)
        ws->bulk_since_ns = ws_mono(ws);
    return 0;
}

static int write_inline(struct dmt_ws *ws, struct dmt_op *op, uint64_t ino, const void *p,
                        size_t len, uint64_t off, uint32_t mode, bool drop_caps)
{
    struct dmt_body b = {
        .type = DMT_REC_WRITE,
        .WRITE = {.ino = ino,
                  .off = off,
                  .mode = mode,
                  .drop_caps = drop_caps,
                  .data = {p, (uint32_t)len}},
    };
    return ws_log(ws, op, &b, 0);
}

/* By how much the file's own space may grow: nothing where it is overwritten, if it has no holes
 * that the range could fill. */
static uint64_t growth(struct dmt_ws *ws, const struct dmt_inode *n, uint64_t off, uint64_t len)
{
    uint64_t allocated = 0, beyond = off + len > n->size ? off + len - n->size : 0;
    if (dmt_store_allocated(ws->st, n->ino, &allocated) < 0 || allocated < n->size)
        return len;
    return beyond < len ? beyond : len;
}

/* One record's worth. */
static int write_part(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const void *p,
                      size_t len, uint64_t off, bool kill)
{
    struct dmt_inode n;
    int r = ws_begin(ws, true);
    if (r == 0)
        r = ws_live(ws, node, &n);
    if (r < 0)
        return r;
    if (!S_ISREG(n.mode))
        return S_ISDIR(n.mode) ? -EISDIR : -EINVAL;
    if (off > DMT_FILE_SIZE_MAX || len > DMT_FILE_SIZE_MAX - off)
        return -EFBIG;
    r = ws_room(ws, len, growth(ws, &n, off, len));
    int caps = r == 0 ? ws_has_caps(ws, &n) : 0;
    if (r < 0 || caps < 0)
        return r < 0 ? r : caps;
    uint32_t mode = ws_kill_mode(&n, kill);
    if (by_reference(ws, &n, off, len))
        return write_ref(ws, op, node, p, len, off, mode, caps > 0);
    return write_inline(ws, op, node, p, len, off, mode, caps > 0);
}

int dmt_ws_write(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const void *p, size_t len,
                 uint64_t off, bool kill_suidgid)
{
    int r = 0;
    op->seq = 0;
    ws_lock(ws);
    size_t done = ws_done(ws, op, NULL) ? len : 0;
    while (r == 0 && done < len) {
        size_t n = len - done < DMT_WRITE_MAX ? len - done : DMT_WRITE_MAX;
        r = write_part(ws, op, node, (const char *)p + done, n, off + done, kill_suidgid);
        done += n;
    }
    op->sync_due = r == 0 && op->seq != 0 && sync_is_due(ws, node);
    ws_unlock(ws);
    return dmt_err_errno(r);
}

static int check_alloc(const struct dmt_inode *n, int flags, uint64_t off, uint64_t len)
{
    int kind = flags & ~FALLOC_FL_KEEP_SIZE;
    if (kind != 0 && kind != FALLOC_FL_PUNCH_HOLE && kind != FALLOC_FL_ZERO_RANGE)
        return -EOPNOTSUPP;
    if (kind == FALLOC_FL_PUNCH_HOLE && !(flags & FALLOC_FL_KEEP_SIZE))
        return -EOPNOTSUPP;
    if (!S_ISREG(n->mode))
        return -ENODEV;
    if (len == 0)
        return -EINVAL;
    return off > DMT_FILE_SIZE_MAX || len > DMT_FILE_SIZE_MAX - off ? -EFBIG : 0;
}

static int do_fallocate(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, int flags,
                        uint64_t off, uint64_t len, bool kill)
{
    struct dmt_inode n;
    bool clears = flags & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);
    int r = ws_begin(ws, !clears);
    if (r == 0)
        r = ws_live(ws, node, &n);
    if (r == 0)
        r = check_alloc(&n, flags, off, len);
    if (r == 0 && !clears)
        /* nothing is written now, so the double counting of inline bytes does not apply */
        r = ws_room(ws, len / 2, growth(ws, &n, off, len));
    if (r < 0)
        return r;
    uint32_t mode = ws_kill_mode(&n, kill);
    uint32_t left = mode == DMT_MODE_KEEP ? n.mode & 07777 : mode;
    /* A setgid bit without execution goes, too, where the caller is not of the file's group, as far
     * as its first group tells. */
    if (kill && op->gid != n.gid && left & S_ISGID)
        mode = left & ~(uint32_t)S_ISGID;
    uint64_t size = n.size;
    if (!(flags & FALLOC_FL_KEEP_SIZE) && off + len > size)
        size = off + len;
    struct dmt_body b = {
        .type = DMT_REC_ALLOC,
        .ALLOC = {.ino = node,
                  .flags = (uint32_t)flags,
                  .off = off,
                  .length = len,
                  .size = size,
                  .mode = mode},
    };
    return ws_log(ws, op, &b, 0);
}

int dmt_ws_fallocate(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, int flags, uint64_t off,
                     uint64_t len, bool kill_suidgid)
{
    op->seq = 0;
    ws_lock(ws);
    int r = ws_done(ws, op, NULL) ? 0 : do_fallocate(ws, op, node, flags, off, len, kill_suidgid);
    ws_unlock(ws);
    return dmt_err_errno(r);
}
