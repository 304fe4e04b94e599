/* share.c: content of one file taken from another file or another time, without moving bytes
 * (rollback, fallback, heal).
 *
 * Happy path: the source's map at the asked position is copied; where the target differs from it,
 * the target's ranges are replaced by those pieces, born now. Pieces in data files get the mark
 * "shared" on both sides, because the rule "a range belongs to one row" no longer holds for them:
 * they are never overwritten in place and never punched, only unlinked with their whole file. Bytes
 * that the source lacks are missing in the target too, at the new position and the same place.
 * Ranges that are equal stay untouched, so rolling back a large file costs what changed in it.
 * Failure modes: a position that is no longer pinned, or shows what is lost here, is DMT_E_GONE;
 * SQLite errors; in all cases nothing has changed. Thread: workspace lock.
 */
#include <stdlib.h>

#include "fs/store/internal.h"

static int copy_piece(void *ctx, const struct piece *p)
{
    if (p->kind == PIECE_HOLE)
        return 0;
    struct piece *put = store_pmap_put(ctx, p);
    if (put->kind == PIECE_FILE)
        put->flags |= PIECE_SHARED;
    return 0;
}

struct differ {
    const struct pmap *want;
    struct pmap *todo; /* ranges to replace, as HOLE pieces */
    const struct piece *have;
};

static int compare_want(void *ctx, const struct piece *want)
{
    struct differ *d = ctx;
    struct piece have = store_piece_clip(d->have, want->off, want->end);
    if (store_piece_same_place(&have, want))
        return 0;
    struct tnode *tail = store_tree_last(&d->todo->t);
    if (tail && PIECE_OF(tail)->end == want->off) {
        PIECE_OF(tail)->end = want->end;
    } else {
        struct piece p = {.kind = PIECE_HOLE, .off = want->off, .end = want->end};
        store_pmap_put(d->todo, &p);
    }
    return 0;
}

static int compare_have(void *ctx, const struct piece *have)
{
    struct differ *d = ctx;
    d->have = have;
    return store_pmap_compose(&d->want, 1, have->off, have->end, compare_want, d);
}

/* --- missing ranges come along */

struct inherit {
    const struct piece *p;
    struct pmap *lacks; /* FILE pieces: the missing parts of what is taken over */
};

static int inherit_row(void *ctx, struct mrow *m)
{
    struct inherit *in = ctx;
    const struct piece *p = in->p;
    if (m->owner != p->owner || m->serial != p->serial)
        return 0;
    uint64_t m_end = m->foff + (m->end - m->off), p_end = p->foff + (p->end - p->off);
    uint64_t lo = m->foff > p->foff ? m->foff : p->foff, hi = m_end < p_end ? m_end : p_end;
    if (lo >= hi)
        return 0;
    struct piece part = store_piece_clip(p, p->off + (lo - p->foff), p->off + (hi - p->foff));
    store_pmap_set(in->lacks, &part); /* two rows may name the same place */
    return 0;
}

static void find_lacks(struct dmt_store *st, struct node *src, const struct pmap *want,
                       const struct pmap *todo, struct pmap *lacks)
{
    for (const struct piece *t = store_pmap_first(todo); t; t = store_pmap_next(t))
        for (const struct piece *w = store_pmap_at(want, t->off); w && w->off < t->end;
             w = store_pmap_next(w)) {
            struct piece part = store_piece_clip(w, t->off, t->end);
            struct inherit in = {.p = &part, .lacks = lacks};
            if (part.kind ==
                PIECE_FILE) /* shared pieces keep their offset, so rows of these bytes lie at it */
                store_missing_each_in(st, src->ino, part.off, part.end, inherit_row, &in);
        }
}

/* --- marks at the source */

/* A live piece of the source that is now used twice: the same piece again, with the mark, in the
 * active layer. */
static int mark_live(void *ctx, const struct piece *p)
{
    if (p->kind == PIECE_FILE && !(p->flags & PIECE_SHARED)) {
        struct piece *put = store_pmap_put(ctx, p);
        put->flags |= PIECE_SHARED;
    }
    return 0;
}

static void mark_source(struct dmt_store *st, struct node *src, const struct pmap *want,
                        uint64_t view)
{
    struct pmap marked;
    store_pmap_init(&marked);
    for (const struct piece *w = store_pmap_first(want); w; w = store_pmap_next(w)) {
        struct pmap live;
        store_pmap_init(&live);
        if (w->kind == PIECE_FILE)
            store_compose(src, w->off, w->end, mark_live, &live);
        for (const struct piece *p = store_pmap_first(&live); p; p = store_pmap_next(p)) {
            struct piece same = store_piece_clip(w, p->off, p->end);
            if (store_piece_same_place(&same, p))
                store_pmap_put(&marked, p);
        }
        store_pmap_clear(&live);
    }
    for (const struct piece *p = store_pmap_first(&marked); p; p = store_pmap_next(p))
        store_content_overlay(st, src, p);
    store_pmap_clear(&marked);
    store_node_dirty(st, src, NODE_SHARE);
    if (view == DMT_LIVE)
        return;
    for (struct chist *h = src->chist[ACTIVE]; h; h = h->next)
        if (h->p.kind == PIECE_FILE && h->p.born <= view && view < h->died)
            h->p.flags |= PIECE_SHARED;
    struct op *op = store_op(st, OP_SHARE);
    op->share.ino = src->ino;
    op->share.view = view;
}

/* --- */

/* The source's map at the position, as a copy marked shared. */
static int source_map(struct dmt_store *st, struct node *src, uint64_t view, struct pmap *want)
{
    int r = store_base_load(st, src);
    if (r < 0)
        return r;
    if (view == DMT_LIVE)
        return store_compose(src, 0, UINT64_MAX, copy_piece, want);
    const struct pmap *m;
    r = store_view(st, src, view, &m);
    for (const struct piece *p = r == 0 ? store_pmap_first(m) : NULL; p; p = store_pmap_next(p)) {
        if (store_missing_lost(st, view, src->ino, p))
            return DMT_E_GONE; /* the caller asks for all of it anew */
        copy_piece(want, p);
    }
    return r;
}

int dmt_store_content_from(struct dmt_store *st, uint64_t ino, uint64_t src_ino, uint64_t src_view,
                           uint64_t seq)
{
    struct node *n, *src;
    struct pmap want, todo, lacks;
    store_pmap_init(&want);
    store_pmap_init(&lacks);
    store_pmap_init(&todo);
    int r = store_node(st, ino, &n);
    if (r == 0)
        r = store_node(st, src_ino, &src);
    if (r == 0)
        r = store_base_load(st, n);
    if (r == 0)
        r = source_map(st, src, src_view, &want);
    if (r < 0)
        goto out;
    struct differ d = {.want = &want, .todo = &todo};
    store_compose(n, 0, UINT64_MAX, compare_have, &d);
    find_lacks(st, src, &want, &todo, &lacks);
    /* From complete to incomplete: until those have come, what it holds now is fallen back to. */
    if (store_pmap_first(&lacks) && (r = store_keep_self(st, n, seq - 1, true)) < 0)
        goto out;
    for (const struct piece *t = store_pmap_first(&todo); t; t = store_pmap_next(t)) {
        r = store_content_unmap(st, n, t->off, t->end, seq);
        DMT_ASSERT(r == 0); /* the base is loaded */
        for (const struct piece *w = store_pmap_at(&want, t->off); w && w->off < t->end;
             w = store_pmap_next(w)) {
            struct piece put = store_piece_clip(w, t->off, t->end);
            put.born = seq;
            store_content_change(st, n, put.off, put.end, seq);
            store_content_put(st, n, &put);
        }
    }
    if (src != n || src_view != DMT_LIVE)
        mark_source(st, src, &want, src_view);
    for (const struct piece *l = store_pmap_first(&lacks); l; l = store_pmap_next(l)) {
        struct dmt_place pl = {.ino = l->owner, .serial = l->serial, .foff = l->foff};
        store_missing_add(st, ino, l->off, l->end - l->off, seq, &pl, true);
    }
    store_keeps_settle(st, n);
out:
    store_pmap_clear(&want);
    store_pmap_clear(&todo);
    store_pmap_clear(&lacks);
    return r;
}
