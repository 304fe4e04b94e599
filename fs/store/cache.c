/* cache.c: the memory layer's objects: nodes (inodes) and dents (directory entries), their hash
 * tables and LRU lists.
 *
 * Happy path: a look-up hits the hash table. A miss asks SQLite once and makes an object of the
 * answer, also of "there is none": that negative object saves the next question, which for a create
 * is the put that follows the check. Numbers above ino_high are known not to be in SQLite and are
 * not asked for at all, nor are names in a `whole` directory: one made since the store was opened,
 * all of whose entries are still here. It lists them itself (kids) and stays whole until the first
 * of them is evicted. Invariant: an object is in its LRU list if and only if nothing pins it
 * (dirty, frozen, entries below it, keeps); only those are evicted,
 * from the cold end, when there are too many. Eviction runs when an object joins the list, so a
 * pointer just looked up stays good until the next few thousand look-ups: no function holds one
 * longer than one call from outside. Failure modes: SQLite's errors are returned and leave nothing
 * behind. Thread: under the workspace lock.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/store/internal.h"

#define NODES_MAX     65536u
#define DENTS_MAX     131072u
#define BASE_COST_MAX (96u << 20) /* memory of loaded content maps */

void *store_alloc(size_t n)
{
    void *p = malloc(n);
    DMT_ASSERT(p);
    return p;
}

void *store_zalloc(size_t n)
{
    void *p = calloc(1, n);
    DMT_ASSERT(p);
    return p;
}

void store_hash_init(struct hash *h)
{
    h->cap = 1024;
    h->n = 0;
    h->slot = store_zalloc(h->cap * sizeof(*h->slot));
}

void store_hash_free(struct hash *h)
{
    free(h->slot);
    memset(h, 0, sizeof(*h));
}

static uint64_t mix(uint64_t x)
{
    x *= 0x9e3779b97f4a7c15ull;
    return x ^ x >> 32;
}

static struct node **node_slot(struct hash *h, uint64_t ino)
{
    return (struct node **)(void *)&h->slot[mix(ino) & (h->cap - 1)];
}

static struct dent **dent_slot(struct hash *h, uint32_t hash)
{
    return (struct dent **)(void *)&h->slot[hash & (h->cap - 1)];
}

/* Doubles the table when it is full; how: moves one object. */
static void hash_grow(struct hash *h, void **(*next_of)(void *obj),
                      void **(*slot_for)(struct hash *h, void *obj))
{
    struct hash bigger = {.cap = h->cap * 2, .n = h->n};
    bigger.slot = store_zalloc(bigger.cap * sizeof(*bigger.slot));
    for (size_t i = 0; i < h->cap; i++)
        for (void *obj = h->slot[i], *next; obj; obj = next) {
            next = *next_of(obj);
            void **slot = slot_for(&bigger, obj);
            *next_of(obj) = *slot;
            *slot = obj;
        }
    free(h->slot);
    *h = bigger;
}

static void **node_next(void *n)
{
    return (void **)(void *)&((struct node *)n)->hash_next;
}
static void **node_slot_for(struct hash *h, void *n)
{
    return (void **)(void *)node_slot(h, ((struct node *)n)->ino);
}
static void **dent_next(void *d)
{
    return (void **)(void *)&((struct dent *)d)->hash_next;
}
static void **dent_slot_for(struct hash *h, void *d)
{
    return (void **)(void *)dent_slot(h, ((struct dent *)d)->hash);
}

/* --- nodes */

struct node *store_node_cached(struct dmt_store *st, uint64_t ino)
{
    struct node *n = *node_slot(&st->nodes, ino);
    while (n && n->ino != ino)
        n = n->hash_next;
    return n;
}

void dmt_store_inodes_soon(struct dmt_store *st, const uint64_t *ino, size_t n)
{
    for (size_t i = 0; i < n; i++)
        __builtin_prefetch(node_slot(&st->nodes, ino[i]));
    for (size_t i = 0; i < n; i++) {
        const struct node *first = *node_slot(&st->nodes, ino[i]);
        for (size_t off = 0; first && off < offsetof(struct node, alloc); off += 64)
            __builtin_prefetch((const char *)first + off);
    }
}

static struct node *node_new(struct dmt_store *st, uint64_t ino)
{
    struct node *n = store_zalloc(sizeof(*n));
    n->ino = n->row.ino = ino;
    n->serial = 1;
    dmt_list_init(&n->lru);
    dmt_list_init(&n->dirty_link);
    dmt_list_init(&n->keeps_here);
    if (st->nodes.n >= st->nodes.cap)
        hash_grow(&st->nodes, node_next, node_slot_for);
    struct node **slot = node_slot(&st->nodes, ino);
    n->hash_next = *slot;
    *slot = n;
    st->nodes.n++;
    return n;
}

void store_base_unload(struct dmt_store *st, struct node *n)
{
    if (!n->base_loaded)
        return;
    st->base_cost -= n->base.cost;
    store_pmap_clear(&n->base);
    n->base_loaded = false;
}

/* Everything the node still holds goes, pinned or not. */
static void node_free(struct dmt_store *st, struct node *n)
{
    struct node **slot = node_slot(&st->nodes, n->ino);
    while (*slot != n)
        slot = &(*slot)->hash_next;
    *slot = n->hash_next;
    st->nodes.n--;
    if (!dmt_list_empty(&n->lru)) {
        dmt_list_del(&n->lru);
        st->node_lru_n--;
    }
    dmt_list_del(&n->dirty_link);
    store_base_unload(st, n);
    store_kids_free(n->kids);
    store_xattrs_free(n);
    for (int half = 0; half < 2; half++) {
        store_pmap_free(n->layer[half]);
        store_ihist_free(n->ihist[half]);
        store_chist_free(n->chist[half]);
    }
    free(n);
}

static bool node_pinned(const struct node *n)
{
    return n->dirty || n->frozen || n->pins;
}

static void evict_nodes(struct dmt_store *st)
{
    while (st->node_lru_n > NODES_MAX)
        node_free(st, DMT_CONTAINER(st->node_lru.prev, struct node, lru));
    if (st->base_cost <= BASE_COST_MAX)
        return;
    for (struct dmt_list *l = st->node_lru.prev;
         l != &st->node_lru && st->base_cost > BASE_COST_MAX / 4 * 3; l = l->prev)
        store_base_unload(st, DMT_CONTAINER(l, struct node, lru));
}

void store_node_settle(struct dmt_store *st, struct node *n)
{
    bool listed = !dmt_list_empty(&n->lru), pinned = node_pinned(n);
    if (pinned && listed) {
        dmt_list_del(&n->lru);
        st->node_lru_n--;
    } else if (!pinned && !listed) {
        dmt_list_add_head(&st->node_lru, &n->lru);
        st->node_lru_n++;
        evict_nodes(st);
    }
}

void store_node_touch(struct dmt_store *st, struct node *n)
{
    if (!dmt_list_empty(&n->lru) && st->node_lru.next != &n->lru) {
        dmt_list_del(&n->lru);
        dmt_list_add_head(&st->node_lru, &n->lru);
    }
}

static struct node *node_fresh(struct dmt_store *st, uint64_t ino)
{
    struct node *n = node_new(st, ino);
    n->base_loaded = n->xattrs_loaded = n->file_loaded = n->dir_fresh = n->whole = true;
    store_node_settle(st, n);
    return n;
}

int store_node(struct dmt_store *st, uint64_t ino, struct node **ret)
{
    struct node *n = store_node_cached(st, ino);
    if (n) {
        store_node_touch(st, n);
        *ret = n;
        return 0;
    }
    if (ino > st->ino_high) {
        *ret = node_fresh(st, ino);
        return 0;
    }
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_INODE_GET, &s, "i", ino);
    if (r == 0)
        r = store_sql_step(&st->rd, s);
    if (r < 0)
        return r;
    n = node_new(st, ino);
    if (r > 0) {
        store_inode_from_row(s, &n->row, &n->alloc);
        store_sql_done(s);
        n->live = n->disk = true;
    }
    store_node_settle(st, n);
    *ret = n;
    return 0;
}

void store_node_dirty(struct dmt_store *st, struct node *n, uint32_t bits)
{
    if (!n->dirty) {
        dmt_list_add_tail(&st->dirty_nodes, &n->dirty_link);
        st->dirty_node_n++;
    }
    n->dirty |= bits;
    store_node_settle(st, n);
}

void store_node_pin(struct dmt_store *st, struct node *n)
{
    n->pins++;
    store_node_settle(st, n);
}

void store_node_unpin(struct dmt_store *st, struct node *n)
{
    DMT_ASSERT(n->pins > 0);
    n->pins--;
    store_node_settle(st, n);
}

/* --- dents */

static uint32_t dent_hash(uint64_t parent, const char *name, size_t len)
{
    return (uint32_t)dmt_hash64(parent, name, len);
}

struct dent *store_dent_cached(struct dmt_store *st, uint64_t parent, const char *name, size_t len)
{
    struct dent *d = *dent_slot(&st->dents, dent_hash(parent, name, len));
    while (d && (d->parent != parent || d->len != len || memcmp(d->name, name, len) != 0))
        d = d->hash_next;
    return d;
}

static void leave_dir(struct dmt_store *st, struct dent *d)
{
    struct node *dir = d->dir;
    store_kid_unlink(dir, d);
    d->dir = NULL;
    store_node_unpin(st, dir);
}

/* An entry of it goes from memory: SQLite has to be asked from now on, and what it says as well
 * need not be listed here. */
static void not_whole(struct dmt_store *st, struct node *dir)
{
    struct kids *all = dir->kids;
    struct kids_at at = {.kids = all};
    dir->whole = false;
    dir->kids = NULL;
    for (struct dent *d; (d = store_kids_peek(&at)); store_kids_step(&at)) {
        d->in_kids = false;
        if (d->dirty || d->frozen)
            store_kid_link(dir, d);
        else
            leave_dir(st, d);
    }
    store_kids_free(all);
}

static void dent_free(struct dmt_store *st, struct dent *d)
{
    if (d->dir && !d->dirty && !d->frozen)
        not_whole(st, d->dir);
    struct dent **slot = dent_slot(&st->dents, d->hash);
    while (*slot != d)
        slot = &(*slot)->hash_next;
    *slot = d->hash_next;
    st->dents.n--;
    if (!dmt_list_empty(&d->lru)) {
        dmt_list_del(&d->lru);
        st->dent_lru_n--;
    }
    dmt_list_del(&d->dirty_link);
    for (int half = 0; half < 2; half++)
        for (struct dhist *h = d->hist[half], *next; h; h = next) {
            next = h->next;
            free(h);
        }
    free(d);
}

void store_dent_settle(struct dmt_store *st, struct dent *d)
{
    bool listed = !dmt_list_empty(&d->lru), pinned = d->dirty || d->frozen;
    if (pinned && listed) {
        dmt_list_del(&d->lru);
        st->dent_lru_n--;
    } else if (!pinned && !listed) {
        if (d->dir && !(d->live && d->dir->whole))
            leave_dir(st, d);
        dmt_list_add_head(&st->dent_lru, &d->lru);
        st->dent_lru_n++;
        while (st->dent_lru_n > DENTS_MAX)
            dent_free(st, DMT_CONTAINER(st->dent_lru.prev, struct dent, lru));
    }
}

static struct dent *dent_new(struct dmt_store *st, uint64_t parent, const char *name, size_t len)
{
    struct dent *d = store_zalloc(sizeof(*d) + len + 1);
    d->parent = parent;
    d->hash = dent_hash(parent, name, len);
    d->len = (uint8_t)len;
    memcpy(d->name, name, len);
    dmt_list_init(&d->lru);
    dmt_list_init(&d->dirty_link);
    if (st->dents.n >= st->dents.cap)
        hash_grow(&st->dents, dent_next, dent_slot_for);
    struct dent **slot = dent_slot(&st->dents, d->hash);
    d->hash_next = *slot;
    *slot = d;
    st->dents.n++;
    return d;
}

int store_dent(struct dmt_store *st, uint64_t parent, const char *name, size_t len,
               struct dent **ret)
{
    if (len == 0 || len > DMT_NAME_MAX)
        return len ? -ENAMETOOLONG : -EINVAL;
    struct dent *d = store_dent_cached(st, parent, name, len);
    if (d) {
        if (!dmt_list_empty(&d->lru) && st->dent_lru.next != &d->lru) {
            dmt_list_del(&d->lru);
            dmt_list_add_head(&st->dent_lru, &d->lru);
        }
        *ret = d;
        return 0;
    }
    struct node *dir = store_node_cached(st, parent);
    struct dent_value v = {0};
    int r = 0;
    if (!dir || !dir->whole) {
        sqlite3_stmt *s;
        r = store_sql(&st->rd, SQL_DENTRY_GET, &s, "ib", parent, name, len);
        if (r == 0)
            r = store_sql_step(&st->rd, s);
        if (r < 0)
            return r;
        if (r > 0) {
            v = (struct dent_value){.ino = store_col(s, 0),
                                    .cookie = store_col32(s, 1),
                                    .type = store_col32(s, 2),
                                    .born = store_col(s, 3)};
            store_sql_done(s);
        }
    }
    d = dent_new(st, parent, name, len);
    d->v = v;
    d->live = d->disk = r > 0;
    store_dent_settle(st, d);
    *ret = d;
    return 0;
}

/* Pins d as changed. Loads its directory's node, which keeps the list of changed entries. */
int store_dent_dirty(struct dmt_store *st, struct dent *d)
{
    if (!d->dir) {
        int r = store_node(st, d->parent, &d->dir);
        if (r < 0) {
            d->dir = NULL;
            return r;
        }
        store_node_pin(st, d->dir);
    }
    if (!d->dirty) {
        d->dirty = true;
        dmt_list_add_tail(&st->dirty_dents, &d->dirty_link);
        st->dirty_dent_n++;
    }
    store_dent_settle(st, d);
    return 0;
}

void store_cache_drop(struct dmt_store *st)
{
    /* Directories go, too: nobody may walk their lists while these are taken apart. */
    for (size_t i = 0; i < st->dents.cap; i++)
        for (struct dent *d = st->dents.slot[i]; d; d = d->hash_next)
            d->dir = NULL;
    for (size_t i = 0; i < st->dents.cap; i++)
        while (st->dents.slot[i])
            dent_free(st, st->dents.slot[i]);
    for (size_t i = 0; i < st->nodes.cap; i++)
        while (st->nodes.slot[i])
            node_free(st, st->nodes.slot[i]);
    dmt_list_init(&st->dirty_nodes);
    dmt_list_init(&st->dirty_dents);
    st->dirty_node_n = st->dirty_dent_n = st->dirty_piece_n = st->dirty_cost = 0;
}
