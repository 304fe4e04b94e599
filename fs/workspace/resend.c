/* resend.c: taking over a mount whose server died: which requests were done already, and what the
 * kernel may still hold.
 *
 * The kernel sends every request again that the dead process had read and not answered (FUSE
 * RESEND). Some of them are done: their record is in the journal, only the reply did not leave.
 * Records carry mount instance and FUSE unique, and a request logs at most one record, so the
 * record's being there means that the request is done, whole.
 *
 * Happy path: while a holder works, ws_recent_note moves a floor along behind the tail: everything
 * of the last WS_RECENT_RECORDS records, or WS_RECENT_BYTES, stays in the journal whatever the
 * checkpoints cover, and the floor goes into each checkpoint. A successor (conf.resume) reads from
 * there: ws_done_read up to the checkpoint, recovery the rest; each record of the resumed instance
 * is noted by ws_done_note. An operation that was resent asks ws_done first.
 *
 * Lookup counts died with the process. So an inode older than the takeover counts as in use when
 * its last name goes, and its FORGET, whose number cannot be trusted (an older one may still be on
 * its way), only raises the question: dmt_ws_forget says so, L3 asks the kernel, which knows, and
 * comes back with dmt_ws_forgotten. FORGETs that the dead process had read are made up for by
 * asking about all the orphans it left (dmt_ws_doubtful).
 *
 * What a rollback or a heal changed may still stand in the kernel's caches, if the process died
 * before it told the kernel: the inodes of records that no request asked for are given to L4
 * (dmt_ws_stale). Failure: out of memory fails the open. Thread: the opener; then any, under the
 * workspace lock.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/workspace/ws.h"

void ws_recent_note(struct dmt_ws *ws, uint64_t seq, uint64_t bytes)
{
    struct ws_recent *w = &ws->recent;
    w->bytes += bytes;
    if (seq - w->next < WS_RECENT_RECORDS && w->bytes < WS_RECENT_BYTES)
        return;
    w->floor = w->next;
    w->next = seq;
    w->bytes = 0;
}

/* --- what is done ----------------------------------------------------------------------------- */

bool ws_done(struct dmt_ws *ws, struct dmt_op *op, uint64_t *ret_ino)
{
    if (!op->resent || op->instance != ws->conf.resume)
        return false;
    op->seq = ws_map_get(&ws->done, op->unique);
    if (op->seq == 0)
        return false;
    if (ret_ino)
        *ret_ino = ws_map_get(&ws->made, op->unique);
    return true;
}

/* The inodes that a record changes, at most 4. */
static int inos_of(const struct dmt_body *b, uint64_t v[4])
{
    switch ((enum dmt_rec_type)b->type) {
    case DMT_REC_MAKE:
        v[0] = b->MAKE.parent;
        return 1;
    case DMT_REC_LINK:
        v[0] = b->LINK.parent;
        v[1] = b->LINK.ino;
        return 2;
    case DMT_REC_UNLINK:
        v[0] = b->UNLINK.parent;
        v[1] = b->UNLINK.ino;
        return 2;
    case DMT_REC_RENAME:
        v[0] = b->RENAME.parent;
        v[1] = b->RENAME.newparent;
        v[2] = b->RENAME.ino;
        v[3] = b->RENAME.replaced;
        return b->RENAME.replaced ? 4 : 3;
    case DMT_REC_SETATTR:
        v[0] = b->SETATTR.ino;
        return 1;
    case DMT_REC_SETXATTR:
        v[0] = b->SETXATTR.ino;
        return 1;
    case DMT_REC_DELXATTR:
        v[0] = b->DELXATTR.ino;
        return 1;
    case DMT_REC_WRITE:
        v[0] = b->WRITE.ino;
        return 1;
    case DMT_REC_WRITE_REF:
        v[0] = b->WRITE_REF.ino;
        return 1;
    case DMT_REC_ALLOC:
        v[0] = b->ALLOC.ino;
        return 1;
    case DMT_REC_CONTENT:
        v[0] = b->CONTENT.ino;
        return 1;
    default:
        return 0;
    }
}

int ws_done_note(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b)
{
    uint64_t v[4];
    int e = 0;
    if (!ws->conf.resume)
        return 0;
    if (r->unique && r->instance == ws->conf.resume) {
        e = ws_map_put(&ws->done, r->unique, r->seq);
        if (e == 0 && b->type == DMT_REC_MAKE)
            e = ws_map_put(&ws->made, r->unique, b->MAKE.ino);
        if (e == 0 && b->type == DMT_REC_MAKE && b->MAKE.name.n == 0)
            e = ws_map_put(&ws->tmpfiles, b->MAKE.ino, 1);
    }
    if (r->unique == 0)
        for (int i = 0, n = inos_of(b, v); e == 0 && i < n; i++)
            e = ws_map_put(&ws->stale, v[i], 1);
    return e;
}

int ws_done_read(struct dmt_ws *ws, struct dmt_err *err)
{
    struct dmt_jreader *rd = NULL;
    struct dmt_rec rec = {.seq = 0};
    struct dmt_body b;
    uint64_t from = ws->recent.floor, first = dmt_journal_first(ws->j).seq;
    from = from < first ? first : from;
    if (!ws->conf.resume || from >= ws->applied.seq)
        return 0;
    int r = dmt_jreader_open(&rd, ws->j, from, err);
    while (r >= 0 && rec.seq < ws->applied.seq) {
        r = dmt_jreader_next(rd, &rec, NULL, NULL, err);
        if (r <= 0)
            break;
        r = dmt_body_decode(rec.type, rec.body, rec.body_len, &b);
        if (r == 0)
            r = ws_done_note(ws, &rec, &b);
        if (r < 0)
            dmt_err_set(err, r, "the last records before the checkpoint cannot be read: %s",
                        dmt_strerror(r));
    }
    dmt_jreader_close(rd);
    return r < 0 ? r : 0;
}

/* --- what the kernel may hold ----------------------------------------------------------------- */

bool ws_in_use(struct dmt_ws *ws, uint64_t ino)
{
    return ino < ws->lost_before || ws_map_has(&ws->refs, ino);
}

void dmt_ws_forgotten(struct dmt_ws *ws, uint64_t node)
{
    ws_lock(ws);
    if (ws_map_has(&ws->orphans, node) && !ws_map_has(&ws->refs, node))
        ws_reap(ws, node);
    ws_unlock(ws);
}

/* The keys of `m` that `but` and `also_but` lack, as an array of the caller's. */
static int keys_of(const struct ws_map *m, const struct ws_map *but, const struct ws_map *also_but,
                   uint64_t **ret, size_t *ret_n)
{
    uint64_t *v = calloc(m->n + 1, sizeof(*v));
    size_t n = 0;
    if (!v)
        return -ENOMEM;
    for (size_t i = 0; i < m->cap; i++)
        if (m->keys[i] && !(but && ws_map_has(but, m->keys[i])) &&
            !(also_but && ws_map_has(also_but, m->keys[i])))
            v[n++] = m->keys[i];
    *ret = v;
    *ret_n = n;
    return 0;
}

int dmt_ws_doubtful(struct dmt_ws *ws, uint64_t **ret, size_t *ret_n)
{
    ws_lock(ws);
    /* A file made by O_TMPFILE whose reply did not leave is not the kernel's yet, and will be. */
    int r = keys_of(&ws->orphans, &ws->refs, &ws->tmpfiles, ret, ret_n);
    ws_unlock(ws);
    return r;
}

int dmt_ws_stale(struct dmt_ws *ws, uint64_t **ret, size_t *ret_n)
{
    ws_lock(ws);
    int r = keys_of(&ws->stale, NULL, NULL, ret, ret_n);
    ws_map_clear(&ws->stale);
    ws_unlock(ws);
    return r;
}
