/* map.c: content maps (map.h) and the shared chunks their memory pieces point into.
 *
 * A map is a tree of disjoint pieces ordered by offset. Everything that changes a range is "cut
 * what is there, put what comes": a piece that sticks out of the range is split, and both parts go
 * on referring to the same chunk or data file. Layers are composed by recursion through the gaps of
 * the upper one. Failure modes: none but memory, which aborts (a logged operation must apply, and a
 * machine without a few hundred bytes is as good as dead). Thread: the owner of the map.
 */
#include "fs/store/map.h"

#include <stdlib.h>
#include <string.h>

#include "fs/base/list.h"
#include "fs/base/log.h"
#include "fs/store/internal.h"

struct chunk *store_chunk_new(uint32_t cap)
{
    struct chunk *c = store_alloc(sizeof(*c) + cap);
    c->refs = 1;
    c->cap = cap;
    c->used = 0;
    return c;
}

struct chunk *store_chunk_from(const void *p, uint32_t len)
{
    struct chunk *c = store_chunk_new(len);
    if (len)
        memcpy(c->data, p, len);
    c->used = len;
    return c;
}

struct chunk *store_chunk_ref(struct chunk *c)
{
    __atomic_add_fetch(&c->refs, 1, __ATOMIC_RELAXED);
    return c;
}

void store_chunk_unref(struct chunk *c)
{
    if (c && __atomic_sub_fetch(&c->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(c);
}

bool store_chunk_private(const struct chunk *c)
{
    return __atomic_load_n(&c->refs, __ATOMIC_ACQUIRE) == 1;
}

void store_chunk_grow(struct chunk **c, uint32_t cap)
{
    DMT_ASSERT(store_chunk_private(*c));
    struct chunk *bigger = realloc(*c, sizeof(**c) + cap);
    DMT_ASSERT(bigger);
    bigger->cap = cap;
    *c = bigger;
}

void store_pmap_init(struct pmap *m)
{
    memset(m, 0, sizeof(*m));
}

struct pmap *store_pmap_new(void)
{
    struct pmap *m = store_alloc(sizeof(*m));
    store_pmap_init(m);
    return m;
}

static void piece_free(struct piece *p)
{
    if (p->kind == PIECE_MEM)
        store_chunk_unref(p->c);
    free(p);
}

static size_t piece_cost(const struct piece *p)
{
    return PIECE_COST + (p->kind == PIECE_MEM ? (size_t)(p->end - p->off) : 0);
}

void store_pmap_clear(struct pmap *m)
{
    struct tnode *n = m->t.root;
    while (n) { /* children first, without recursion and without rebalancing */
        if (n->left) {
            n = n->left;
        } else if (n->right) {
            n = n->right;
        } else {
            struct tnode *up = n->up;
            if (up && up->left == n)
                up->left = NULL;
            else if (up)
                up->right = NULL;
            piece_free(PIECE_OF(n));
            n = up;
        }
    }
    store_pmap_init(m);
}

void store_pmap_free(struct pmap *m)
{
    if (!m)
        return;
    store_pmap_clear(m);
    free(m);
}

struct piece *store_pmap_at(const struct pmap *m, uint64_t off)
{
    struct tnode *n = m->t.root;
    struct piece *best = NULL;
    while (n) {
        struct piece *p = PIECE_OF(n);
        if (p->end > off) {
            best = p;
            n = n->left;
        } else {
            n = n->right;
        }
    }
    return best;
}

struct piece *store_pmap_first(const struct pmap *m)
{
    struct tnode *n = store_tree_first(&m->t);
    return n ? PIECE_OF(n) : NULL;
}

struct piece *store_pmap_next(const struct piece *p)
{
    struct tnode *n = store_tree_next(&p->tn);
    return n ? PIECE_OF(n) : NULL;
}

struct piece *store_pmap_prev(const struct piece *p)
{
    struct tnode *n = store_tree_prev(&p->tn);
    return n ? PIECE_OF(n) : NULL;
}

uint64_t store_pmap_end(const struct pmap *m)
{
    struct tnode *n = store_tree_last(&m->t);
    return n ? PIECE_OF(n)->end : 0;
}

struct piece store_piece_clip(const struct piece *p, uint64_t off, uint64_t end)
{
    struct piece r = *p;
    memset(&r.tn, 0, sizeof(r.tn));
    if (off > r.off) {
        r.foff += r.kind == PIECE_HOLE ? 0 : off - r.off;
        r.off = off;
    }
    if (end < r.end)
        r.end = end;
    return r;
}

bool store_piece_same_place(const struct piece *a, const struct piece *b)
{
    if (a->kind != b->kind)
        return false;
    if (a->kind == PIECE_MEM)
        return a->c == b->c && a->foff == b->foff;
    if (a->kind == PIECE_FILE)
        return a->owner == b->owner && a->serial == b->serial && a->foff == b->foff;
    return true;
}

bool store_piece_adjoins(const struct piece *a, const struct piece *b)
{
    if (a->end != b->off || a->kind != b->kind || a->flags != b->flags)
        return false;
    struct piece after = *a;
    after.foff += a->kind == PIECE_HOLE ? 0 : a->end - a->off;
    return store_piece_same_place(&after, b);
}

struct piece *store_pmap_put(struct pmap *m, const struct piece *src)
{
    DMT_ASSERT(src->off < src->end);
    struct piece *p = store_alloc(sizeof(*p));
    *p = *src;
    if (p->kind == PIECE_MEM)
        store_chunk_ref(p->c);
    struct tnode **link = &m->t.root, *up = NULL;
    while (*link) {
        up = *link;
        struct piece *at = PIECE_OF(up);
        DMT_ASSERT(p->end <= at->off || p->off >= at->end);
        link = p->off < at->off ? &up->left : &up->right;
    }
    store_tree_link(&m->t, up, link, &p->tn);
    m->n++;
    m->cost += piece_cost(p);
    return p;
}

static void pmap_remove(struct pmap *m, struct piece *p)
{
    store_tree_erase(&m->t, &p->tn);
    m->n--;
    m->cost -= piece_cost(p);
    piece_free(p);
}

void store_pmap_cut(struct pmap *m, uint64_t off, uint64_t end, piece_fn fn, void *ctx)
{
    struct piece *p = off < end ? store_pmap_at(m, off) : NULL;
    while (p && p->off < end) {
        struct piece *next = store_pmap_next(p);
        struct piece gone = store_piece_clip(p, off, end);
        if (fn)
            fn(ctx, &gone);
        bool head = p->off<off, tail = p->end> end;
        struct piece rest = store_piece_clip(p, end, UINT64_MAX);
        if (!head && !tail) {
            pmap_remove(m, p);
        } else {
            m->cost -= piece_cost(p);
            if (head)
                p->end = off;
            else
                p->off = end, p->foff = rest.foff; /* the order of the keys stays the same */
            m->cost += piece_cost(p);
            if (head && tail)
                store_pmap_put(m, &rest);
        }
        p = next;
    }
}

struct piece *store_pmap_set(struct pmap *m, const struct piece *p)
{
    store_pmap_cut(m, p->off, p->end, NULL, NULL);
    return store_pmap_put(m, p);
}

static int compose_hole(uint64_t off, uint64_t end, compose_fn fn, void *ctx)
{
    struct piece hole = {.off = off, .end = end, .kind = PIECE_HOLE};
    return fn(ctx, &hole);
}

int store_pmap_compose(const struct pmap *const *layers, int n, uint64_t off, uint64_t end,
                       compose_fn fn, void *ctx)
{
    while (n > 0 && (!layers[0] || layers[0]->n == 0)) {
        layers++;
        n--;
    }
    if (off >= end)
        return 0;
    if (n == 0)
        return compose_hole(off, end, fn, ctx);
    for (struct piece *p = store_pmap_at(layers[0], off); off < end; p = store_pmap_next(p)) {
        uint64_t gap_end = p && p->off < end ? p->off : end;
        if (off < gap_end) {
            int r = store_pmap_compose(layers + 1, n - 1, off, gap_end, fn, ctx);
            if (r)
                return r;
            off = gap_end;
        }
        if (!p || p->off >= end)
            break;
        struct piece part = store_piece_clip(p, off, end);
        int r = fn(ctx, &part);
        if (r)
            return r;
        off = part.end;
    }
    return 0;
}
