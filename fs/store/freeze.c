/* freeze.c: from the active half to a batch, and from a batch back: taken over after its COMMIT, or
 * merged back after an error.
 *
 * Freeze copies the values of dirty rows into arrays and moves pointers for everything immutable
 * (layers, history, small ops), so it costs memory traffic only, no disk. The objects stay pinned
 * until the batch ends, because their rows are not in SQLite yet. What nobody needs any more at
 * this moment (history of positions that were pinned only in passing, fallbacks of files that are
 * complete) is dropped here and never written. After the COMMIT the objects not changed again
 * become clean. After an error everything frozen is dirty again, below what was changed since;
 * `disk` flags still tell what the last successful commit holds. Failure modes: none. Thread:
 * workspace lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

/* --- history that nobody needs any more */

static void filter_content(struct dmt_store *st, const struct batch *b, struct node *n)
{
    for (struct chist **at = &n->chist[ACTIVE]; *at;) {
        struct chist *h = *at;
        if (store_batch_needed(b, n->ino, h->p.born, h->died)) {
            at = &h->next;
            continue;
        }
        if (h->p.kind == PIECE_FILE)
            store_spaces_add(&st->freed, h->p.owner, h->p.serial, h->p.foff,
                             h->p.flags & PIECE_SHARED ? 0 : h->p.end - h->p.off);
        *at = h->next;
        h->next = NULL;
        store_chist_free(h);
    }
}

static void filter_rows(const struct batch *b, struct node *n)
{
    for (struct ihist **at = &n->ihist[ACTIVE]; *at;) {
        struct ihist *h = *at;
        if (store_batch_needed(b, 0, h->row.seq, h->died)) {
            at = &h->next;
            continue;
        }
        *at = h->next;
        free(h);
    }
}

static void filter_xattr(const struct batch *b, struct xattr *x)
{
    for (struct xhist **at = &x->hist[ACTIVE]; *at;) {
        struct xhist *h = *at;
        if (store_batch_needed(b, 0, h->born, h->died)) {
            at = &h->next;
            continue;
        }
        *at = h->next;
        store_chunk_unref(h->value);
        free(h);
    }
}

static void filter_dent(const struct batch *b, struct dent *d)
{
    for (struct dhist **at = &d->hist[ACTIVE]; *at;) {
        struct dhist *h = *at;
        if (store_batch_needed(b, 0, h->v.born, h->died)) {
            at = &h->next;
            continue;
        }
        *at = h->next;
        store_tree_erase(&d->dir->old_kids, &h->tn);
        free(h);
    }
}

/* --- freeze */

static int keep_pin_cmp(const void *a, const void *b)
{
    const struct keep_pin *x = a, *y = b;
    return x->src != y->src    ? (x->src < y->src ? -1 : 1)
           : x->view < y->view ? -1
                               : x->view > y->view;
}

static void copy_pins(struct dmt_store *st, struct batch *b)
{
    for (size_t i = 0; i < st->pins.n; i++)
        store_pins_add(&b->pins, st->pins.v[i]);
    size_t n = 0;
    DMT_LIST_EACH(l, tmp, &st->keeps)
    n++;
    b->keeps = store_alloc((n + 1) * sizeof(*b->keeps));
    DMT_LIST_EACH(l, tmp, &st->keeps)
    {
        const struct keep *k = DMT_CONTAINER(l, struct keep, all);
        b->keeps[b->n_keeps++] = (struct keep_pin){.src = k->src->ino, .view = k->view};
    }
    qsort(b->keeps, b->n_keeps, sizeof(*b->keeps), keep_pin_cmp);
}

static void freeze_xattrs(struct batch *b, struct node *n)
{
    for (struct xattr *x = n->xattrs; x; x = x->next) {
        if (!x->dirty)
            continue;
        filter_xattr(b, x);
        if (b->n_xattrs == b->cap_xattrs) {
            b->cap_xattrs = b->cap_xattrs ? b->cap_xattrs * 2 : 64;
            b->xattrs = realloc(b->xattrs, b->cap_xattrs * sizeof(*b->xattrs));
            DMT_ASSERT(b->xattrs);
        }
        struct fz_xattr *f = &b->xattrs[b->n_xattrs++];
        *f = (struct fz_xattr){.x = x,
                               .n = n,
                               .value = x->value ? store_chunk_ref(x->value) : NULL,
                               .born = x->born,
                               .hist = x->hist[ACTIVE]};
        x->hist[FROZEN] = x->hist[ACTIVE];
        x->hist[ACTIVE] = NULL;
        x->dirty = false;
        x->frozen = true;
        x->frozen_live = x->value != NULL;
    }
}

static void freeze_node(struct dmt_store *st, struct batch *b, struct node *n)
{
    filter_content(st, b, n);
    filter_rows(b, n);
    if (n->dirty & NODE_XATTR)
        freeze_xattrs(b, n);
    struct fz_node *f = &b->nodes[b->n_nodes++];
    *f = (struct fz_node){.n = n,
                          .ino = n->ino,
                          .bits = n->dirty,
                          .live = n->live,
                          .serial = n->serial,
                          .hwm = n->hwm,
                          .alloc = n->alloc,
                          .row = n->row,
                          .layer = n->layer[ACTIVE],
                          .ihist = n->ihist[ACTIVE],
                          .chist = n->chist[ACTIVE]};
    n->layer[FROZEN] = n->layer[ACTIVE];
    n->ihist[FROZEN] = n->ihist[ACTIVE];
    n->chist[FROZEN] = n->chist[ACTIVE];
    n->layer[ACTIVE] = NULL;
    n->ihist[ACTIVE] = NULL;
    n->chist[ACTIVE] = NULL;
    n->frozen = n->dirty;
    n->frozen_live = n->live;
    n->dirty = 0;
    dmt_list_del(&n->dirty_link);
}

static void freeze_dent(struct batch *b, struct dent *d)
{
    filter_dent(b, d);
    b->dents[b->n_dents++] = (struct fz_dent){
        .d = d, .v = d->v, .live = d->live, .disk = d->disk, .hist = d->hist[ACTIVE]};
    d->hist[FROZEN] = d->hist[ACTIVE];
    d->hist[ACTIVE] = NULL;
    d->dirty = false;
    d->frozen = true;
    d->frozen_live = d->live;
    d->dir->dir_fresh = false; /* from the COMMIT on SQLite has entries of it */
    dmt_list_del(&d->dirty_link);
}

int dmt_store_freeze(struct dmt_store *st, const struct dmt_pos *pos)
{
    if (st->batch)
        return -EBUSY;
    struct batch *b = store_zalloc(sizeof(*b));
    b->pos = *pos;
    b->number = ++st->freezes;
    store_keeps_freeze(st);
    if (st->sweep_wanted || st->unpinned)
        store_missing_filter(st);
    copy_pins(st, b);
    b->nodes = store_alloc((st->dirty_node_n + 1) * sizeof(*b->nodes));
    b->dents = store_alloc((st->dirty_dent_n + 1) * sizeof(*b->dents));
    while (!dmt_list_empty(&st->dirty_nodes))
        freeze_node(st, b, DMT_CONTAINER(st->dirty_nodes.next, struct node, dirty_link));
    while (!dmt_list_empty(&st->dirty_dents))
        freeze_dent(b, DMT_CONTAINER(st->dirty_dents.next, struct dent, dirty_link));
    store_ops_detach(st, &b->ops);
    b->freed = st->freed;
    memset(&st->freed, 0, sizeof(st->freed));
    b->peer = st->peer;
    b->sweep = st->sweep_wanted;
    b->count = st->count;
    b->suspect_high = st->suspect_high;
    if (st->suspect_high == UINT64_MAX)
        st->suspect_high = st->ino_high; /* the journal was replayed by now */
    st->sweep_wanted = st->unpinned = false;
    st->dirty_node_n = st->dirty_dent_n = st->dirty_piece_n = st->dirty_cost = 0;
    st->batch = b;
    return 0;
}

void store_batch_free(struct batch *b)
{
    for (size_t i = 0; i < b->n_nodes; i++)
        store_pmap_free(b->nodes[i].placed);
    for (size_t i = 0; i < b->n_xattrs; i++)
        store_chunk_unref(b->xattrs[i].value);
    DMT_LIST_EACH(l, tmp, &b->ops)
    store_op_free(DMT_CONTAINER(l, struct op, link));
    free(b->nodes);
    free(b->dents);
    free(b->xattrs);
    free(b->freed.v);
    free(b->pins.v);
    free(b->keeps);
    free(b);
}

/* --- after the COMMIT */

static void commit_base(struct dmt_store *st, struct fz_node *f)
{
    struct node *n = f->n;
    if (!(f->bits & (NODE_CONTENT | NODE_DEAD)) || !n->base_loaded)
        return;
    if (f->bits & NODE_DEAD) {
        st->base_cost -= n->base.cost;
        store_pmap_clear(&n->base);
    } else if (!f->placed) {
        store_base_unload(st, n);
    } else {
        st->base_cost -= n->base.cost;
        for (const struct piece *p = store_pmap_first(f->placed); p; p = store_pmap_next(p)) {
            store_pmap_cut(&n->base, p->off, p->end, NULL, NULL);
            if (p->kind != PIECE_HOLE)
                store_pmap_put(&n->base, p);
        }
        st->base_cost += n->base.cost;
    }
}

static void commit_node(struct dmt_store *st, struct fz_node *f)
{
    struct node *n = f->n;
    commit_base(st, f);
    store_pmap_free(n->layer[FROZEN]);
    n->layer[FROZEN] = NULL;
    store_ihist_free(n->ihist[FROZEN]);
    n->ihist[FROZEN] = NULL;
    store_chist_free(n->chist[FROZEN]);
    n->chist[FROZEN] = NULL;
    if (n->frozen & (NODE_ROW | NODE_DEAD))
        n->disk = n->frozen_live;
    n->frozen = 0;
    store_node_settle(st, n);
}

static void xhist_free(struct xhist *h)
{
    while (h) {
        struct xhist *next = h->next;
        store_chunk_unref(h->value);
        free(h);
        h = next;
    }
}

static void commit_xattr(struct fz_xattr *f)
{
    struct xattr *x = f->x;
    xhist_free(x->hist[FROZEN]);
    x->hist[FROZEN] = NULL;
    x->disk = x->frozen_live;
    x->frozen = false;
}

/* Removed attributes whose rows are gone now. */
static void drop_removed(struct node *n)
{
    for (struct xattr **at = &n->xattrs; *at;) {
        struct xattr *x = *at;
        if (x->value || x->dirty || x->frozen || x->hist[ACTIVE]) {
            at = &x->next;
            continue;
        }
        *at = x->next;
        free(x);
    }
}

static void commit_dent(struct dmt_store *st, struct fz_dent *f)
{
    struct dent *d = f->d;
    for (struct dhist *h = d->hist[FROZEN], *next; h; h = next) {
        next = h->next;
        store_tree_erase(&d->dir->old_kids, &h->tn);
        free(h);
    }
    d->hist[FROZEN] = NULL;
    d->disk = d->frozen_live;
    d->frozen = false;
    store_dent_settle(st, d);
}

void store_batch_commit(struct dmt_store *st, struct batch *b)
{
    for (size_t i = 0; i < b->n_xattrs; i++)
        commit_xattr(&b->xattrs[i]);
    for (size_t i = 0; i < b->n_xattrs; i++)
        if (i == 0 || b->xattrs[i].n != b->xattrs[i - 1].n)
            drop_removed(b->xattrs[i].n);
    for (size_t i = 0; i < b->n_dents; i++)
        commit_dent(st, &b->dents[i]);
    for (size_t i = 0; i < b->n_nodes; i++)
        commit_node(st, &b->nodes[i]);
    st->applied = b->pos;
    if (st->floor.seq < b->pos.seq)
        st->floor = b->pos;
    st->committed = b->number;
    st->batch = NULL;
    store_batch_free(b);
}

/* --- after an error */

struct hidden {
    struct dmt_store *st;
    struct node *n;
    const struct piece *above;
};

/* A frozen piece that an active one covers: its place in a data file never got a row. Free,
 * unless history refers to it. */
static void drop_hidden(void *ctx, const struct piece *p)
{
    struct hidden *hd = ctx;
    if (p->kind != PIECE_FILE)
        return;
    struct piece same = store_piece_clip(hd->above, p->off, p->end);
    if (store_piece_same_place(&same, p))
        return; /* the same bytes with other marks */
    for (int half = 0; half < 2; half++)
        for (const struct chist *h = hd->n->chist[half]; h; h = h->next)
            if (h->p.kind == PIECE_FILE && h->p.owner == p->owner && h->p.serial == p->serial &&
                h->p.foff < p->foff + (p->end - p->off) &&
                p->foff < h->p.foff + (h->p.end - h->p.off))
                return; /* part of it is needed: all of it stays until the file goes */
    store_spaces_add(&hd->st->freed, p->owner, p->serial, p->foff,
                     p->flags & PIECE_SHARED ? 0 : p->end - p->off);
}

static void merge_layer(struct dmt_store *st, struct node *n)
{
    struct pmap *below = n->layer[FROZEN], *above = n->layer[ACTIVE];
    struct hidden hd = {.st = st, .n = n};
    n->layer[FROZEN] = NULL;
    if (!below)
        return;
    if (above) {
        st->dirty_cost -= above->cost;
        st->dirty_piece_n -= above->n;
    }
    for (const struct piece *p = above ? store_pmap_first(above) : NULL; p;
         p = store_pmap_next(p)) {
        hd.above = p;
        store_pmap_cut(below, p->off, p->end, drop_hidden, &hd);
        store_pmap_put(below, p);
    }
    store_pmap_free(above);
    n->layer[ACTIVE] = below;
    st->dirty_cost += below->cost;
    st->dirty_piece_n += below->n;
}

static void merge_node(struct dmt_store *st, struct node *n)
{
    struct ihist **itail = &n->ihist[ACTIVE];
    while (*itail)
        itail = &(*itail)->next;
    *itail = n->ihist[FROZEN];
    n->ihist[FROZEN] = NULL;
    merge_layer(st, n);
    for (struct chist *h = n->dirty & NODE_SHARE ? n->chist[FROZEN] : NULL; h; h = h->next)
        if (h->p.kind == PIECE_FILE)
            h->p.flags |= PIECE_SHARED; /* the mark could not be set while it was frozen */
    struct chist **ctail = &n->chist[ACTIVE];
    while (*ctail)
        ctail = &(*ctail)->next;
    *ctail = n->chist[FROZEN];
    n->chist[FROZEN] = NULL;
    store_node_dirty(st, n, n->frozen);
    n->frozen = 0;
}

static void merge_xattr(struct xattr *x)
{
    struct xhist **tail = &x->hist[ACTIVE];
    while (*tail)
        tail = &(*tail)->next;
    *tail = x->hist[FROZEN];
    x->hist[FROZEN] = NULL;
    x->dirty = true;
    x->frozen = false;
}

static void merge_dent(struct dmt_store *st, struct dent *d)
{
    struct dhist **tail = &d->hist[ACTIVE];
    while (*tail)
        tail = &(*tail)->next;
    *tail = d->hist[FROZEN];
    d->hist[FROZEN] = NULL;
    if (!d->dirty) {
        d->dirty = true;
        dmt_list_add_tail(&st->dirty_dents, &d->dirty_link);
        st->dirty_dent_n++;
    }
    d->frozen = false;
}

void store_batch_merge(struct dmt_store *st, struct batch *b)
{
    for (size_t i = 0; i < b->n_xattrs; i++)
        merge_xattr(b->xattrs[i].x);
    for (size_t i = 0; i < b->n_dents; i++)
        merge_dent(st, b->dents[i].d);
    for (size_t i = 0; i < b->n_nodes; i++)
        merge_node(st, b->nodes[i].n);
    store_ops_merge(st, &b->ops);
    st->suspect_high = st->ino_high; /* it may have made data files */
    for (size_t i = 0; i < b->freed.n; i++)
        store_spaces_add(&st->freed, b->freed.v[i].ino, b->freed.v[i].serial, b->freed.v[i].foff,
                         b->freed.v[i].len);
    st->sweep_wanted |= b->sweep;
    st->batch = NULL;
    store_batch_free(b);
}
