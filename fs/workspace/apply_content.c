/* apply_content.c: what WRITE, WRITE_REF, ALLOC, MARK and CONTENT do to the state.
 *
 * Owns nothing. The store keeps the map from file ranges to bytes; here the inode's size, times,
 * mode and version follow. CONTENT takes the content of an inode in another view by sharing. A
 * machine whose store no longer has that view (its copy was complete, so the old content was let
 * go) takes the new content as a by-reference write instead: every byte is then on its list of
 * missing ranges, at the record's position, and is pulled like any other bulk. Thread: whoever
 * applies, lock held.
 */
#include <errno.h>
#include <linux/falloc.h>

#include "fs/workspace/ws.h"

static void written(struct dmt_inode *n, const struct dmt_rec *r, uint64_t end, uint32_t mode)
{
    if (end > n->size)
        n->size = end;
    if (mode != DMT_MODE_KEEP)
        n->mode = (n->mode & S_IFMT) | (mode & 07777);
    n->mtime = r->time_ns;
    ws_touch(n, r);
}

static int apply_write(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_rec_WRITE *w)
{
    struct dmt_inode n;
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, w->ino, &n);
    if (e == 0)
        e = dmt_store_write(ws->st, w->ino, w->off, w->data.p, w->data.n, r->seq);
    if (e == 0 && w->drop_caps)
        e = ws_drop_caps(ws, r, &n);
    if (e < 0)
        return e;
    written(&n, r, w->off + w->data.n, w->mode);
    return dmt_store_inode_put(ws->st, &n);
}

static int apply_write_ref(struct dmt_ws *ws, const struct dmt_rec *r,
                           const struct dmt_rec_WRITE_REF *w)
{
    struct dmt_inode n;
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, w->ino, &n);
    if (e == 0)
        e = dmt_store_write_ref(ws->st, w->ino, w->off, w->length, r->seq);
    if (e == 0 && w->drop_caps)
        e = ws_drop_caps(ws, r, &n);
    if (e < 0)
        return e;
    written(&n, r, w->off + w->length, w->mode);
    return dmt_store_inode_put(ws->st, &n);
}

static int apply_alloc(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_rec_ALLOC *a)
{
    struct dmt_inode n;
    bool clears = a->flags & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, a->ino, &n);
    if (e == 0 && clears)
        e = dmt_store_unmap(ws->st, a->ino, a->off, a->length, r->seq);
    if (e < 0)
        return e;
    uint64_t mtime = clears || a->size != n.size ? r->time_ns : n.mtime;
    written(&n, r, a->size, a->mode);
    n.mtime = mtime;
    return dmt_store_inode_put(ws->st, &n);
}

/* Without a position it says nothing of the disk: what the file holds now was acknowledged. */
static int apply_mark(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_rec_MARK *m)
{
    return dmt_store_mark(ws->st, m->ino, m->upto ? m->upto : r->seq, m->upto && ws->epoch_mine,
                          ws->own_after, r->seq);
}

/* The whole content on the list of missing ranges (see the essay). */
static int content_missing(struct dmt_ws *ws, const struct dmt_rec *r,
                           const struct dmt_rec_CONTENT *c)
{
    int e = dmt_store_truncate(ws->st, c->ino, 0, r->seq);
    if (e == 0 && c->size > 0)
        e = dmt_store_write_ref(ws->st, c->ino, 0, c->size, r->seq);
    return e;
}

static int apply_content(struct dmt_ws *ws, const struct dmt_rec *r,
                         const struct dmt_rec_CONTENT *c)
{
    struct dmt_inode n;
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, c->ino, &n);
    if (e < 0)
        return e;
    e = dmt_store_content_from(ws->st, c->ino, c->src, c->view, r->seq);
    if (e == DMT_E_GONE)
        e = content_missing(ws, r, c);
    if (e < 0)
        return e;
    n.size = c->size;
    n.mtime = c->mtime;
    ws_touch(&n, r);
    return dmt_store_inode_put(ws->st, &n);
}

/* Bytes that a reader may lack and a sync is about: written by reference, or put in place from
 * where a reader has not kept them. */
static int note_ref(struct dmt_ws *ws, uint64_t ino, uint64_t seq, int r)
{
    if (r < 0 || ws->role != WS_HOLDER)
        return r;
    ws->ref_last = seq;
    return ws_map_put(&ws->ref_seqs, ino, seq);
}

int ws_apply_content(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b)
{
    switch (b->type) {
    case DMT_REC_WRITE:
        return apply_write(ws, r, &b->WRITE);
    case DMT_REC_WRITE_REF:
        return note_ref(ws, b->WRITE_REF.ino, r->seq, apply_write_ref(ws, r, &b->WRITE_REF));
    case DMT_REC_ALLOC:
        return apply_alloc(ws, r, &b->ALLOC);
    case DMT_REC_MARK:
        return apply_mark(ws, r, &b->MARK);
    default:
        DMT_ASSERT(b->type == DMT_REC_CONTENT);
        return note_ref(ws, b->CONTENT.ino, r->seq, apply_content(ws, r, &b->CONTENT));
    }
}
