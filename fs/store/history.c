/* history.c: who needs old values, and content as it was at a pinned position.
 *
 * A position is pinned by a snapshot (for everything) or by a keep (for the content of one inode).
 * An old value with lifetime [born, died) is needed while some pinned p satisfies born <= p < died.
 * The question is asked when a value is replaced, again at the freeze (what nobody needs any more
 * is dropped and never written), and by the sweep after a snapshot went. Views: the content of an
 * inode at p is put together once (live pieces born by then, history from memory and SQLite) and
 * kept in a small list; it cannot change while p is pinned, because nothing that p shows is
 * overwritten in place or freed. Failure modes: SQLite errors while a view is built. Thread:
 * workspace lock; store_batch_needed from the checkpointer too.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

#define VIEWS_MAX 16u

/* First index with v[i] >= pos. */
static size_t lower_bound(const struct pin_set *ps, uint64_t pos)
{
    size_t lo = 0, hi = ps->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (ps->v[mid] < pos)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

void store_pins_add(struct pin_set *ps, uint64_t pos)
{
    if (ps->n == ps->cap) {
        ps->cap = ps->cap ? ps->cap * 2 : 16;
        ps->v = realloc(ps->v, ps->cap * sizeof(*ps->v));
        DMT_ASSERT(ps->v);
    }
    size_t i = lower_bound(ps, pos);
    memmove(ps->v + i + 1, ps->v + i, (ps->n - i) * sizeof(*ps->v));
    ps->v[i] = pos;
    ps->n++;
}

void store_pins_del(struct pin_set *ps, uint64_t pos)
{
    size_t i = lower_bound(ps, pos);
    DMT_ASSERT(i < ps->n && ps->v[i] == pos);
    ps->n--;
    memmove(ps->v + i, ps->v + i + 1, (ps->n - i) * sizeof(*ps->v));
}

bool store_pins_hit(const struct pin_set *ps, uint64_t born, uint64_t died)
{
    size_t i = lower_bound(ps, born);
    return i < ps->n && ps->v[i] < died;
}

bool store_needed(const struct dmt_store *st, uint64_t born, uint64_t died)
{
    return st->pins.n && store_pins_hit(&st->pins, born, died);
}

bool store_content_needed(const struct dmt_store *st, const struct node *n, uint64_t born,
                          uint64_t died)
{
    if (store_needed(st, born, died))
        return true;
    for (const struct dmt_list *l = n->keeps_here.next; l != &n->keeps_here; l = l->next) {
        const struct keep *k =
            (const struct keep *)(const void *)((const char *)l - offsetof(struct keep, of_src));
        if (born <= k->view && k->view < died)
            return true;
    }
    return false;
}

bool store_batch_needed(const struct batch *b, uint64_t src, uint64_t born, uint64_t died)
{
    if (store_pins_hit(&b->pins, born, died))
        return true;
    size_t lo = 0, hi = src ? b->n_keeps : 0;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (b->keeps[mid].src < src)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; src && lo < b->n_keeps && b->keeps[lo].src == src; lo++)
        if (born <= b->keeps[lo].view && b->keeps[lo].view < died)
            return true;
    return false;
}

void store_ihist_free(struct ihist *h)
{
    while (h) {
        struct ihist *next = h->next;
        free(h);
        h = next;
    }
}

void store_chist_free(struct chist *h)
{
    while (h) {
        struct chist *next = h->next;
        if (h->p.kind == PIECE_MEM)
            store_chunk_unref(h->p.c);
        free(h);
        h = next;
    }
}

void store_chist_add(struct dmt_store *st, struct node *n, const struct piece *p, uint64_t died)
{
    struct chist *h = store_alloc(sizeof(*h));
    *h = (struct chist){.next = n->chist[ACTIVE], .p = *p, .died = died};
    if (p->kind == PIECE_MEM)
        store_chunk_ref(p->c);
    n->chist[ACTIVE] = h;
    store_node_dirty(st, n, NODE_HIST);
}

/* Can the content at `view` still be put together? Yes when it is pinned, or when nothing
 * changed since. */
bool store_viewable(struct dmt_store *st, const struct node *n, uint64_t view)
{
    return store_content_needed(st, n, view, view + 1) || (n->live && n->row.seq <= view);
}

struct build {
    struct pmap *map;
    uint64_t view;
};

static int take_live(void *ctx, const struct piece *p)
{
    struct build *b = ctx;
    if (p->kind != PIECE_HOLE && p->born <= b->view)
        store_pmap_put(b->map, p);
    return 0;
}

static int take_history(struct dmt_store *st, struct node *n, uint64_t view, struct pmap *m)
{
    for (int half = 0; half < 2; half++)
        for (struct chist *h = n->chist[half]; h; h = h->next)
            if (h->p.born <= view && view < h->died)
                store_pmap_set(m, &h->p);
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_EXTENT_H_OF, &s, "ii", n->ino, view);
    while (r == 0 && (r = store_sql_step(&st->rd, s)) > 0) {
        struct piece p = store_extent_row(s);
        if (sqlite3_column_type(s, 8) != SQLITE_NULL) {
            p.kind = PIECE_MEM;
            p.foff = 0;
            p.c = store_chunk_from(sqlite3_column_blob(s, 8), (uint32_t)sqlite3_column_bytes(s, 8));
            store_pmap_set(m, &p);
            store_chunk_unref(p.c);
        } else {
            store_pmap_set(m, &p);
        }
        r = 0;
    }
    return r;
}

static void view_free(struct dmt_store *st, struct viewmap *v)
{
    dmt_list_del(&v->link);
    st->view_n--;
    store_pmap_clear(&v->map);
    free(v);
}

void store_views_drop(struct dmt_store *st)
{
    while (st->view_n)
        view_free(st, DMT_CONTAINER(st->views.next, struct viewmap, link));
}

int store_view(struct dmt_store *st, struct node *n, uint64_t view, const struct pmap **ret)
{
    if (!store_viewable(st, n, view))
        return DMT_E_GONE;
    DMT_LIST_EACH(l, tmp, &st->views)
    {
        struct viewmap *v = DMT_CONTAINER(l, struct viewmap, link);
        if (v->ino == n->ino && v->view == view) {
            dmt_list_del(l);
            dmt_list_add_head(&st->views, l);
            *ret = &v->map;
            return 0;
        }
    }
    int r = store_base_load(st, n);
    if (r < 0)
        return r;
    struct viewmap *v = store_zalloc(sizeof(*v));
    v->ino = n->ino;
    v->view = view;
    struct build b = {.map = &v->map, .view = view};
    store_compose(n, 0, UINT64_MAX, take_live, &b);
    dmt_list_add_head(&st->views, &v->link);
    st->view_n++;
    if ((r = take_history(st, n, view, &v->map)) < 0) {
        view_free(st, v);
        return r;
    }
    if (st->view_n > VIEWS_MAX)
        view_free(st, DMT_CONTAINER(st->views.prev, struct viewmap, link));
    *ret = &v->map;
    return 0;
}
