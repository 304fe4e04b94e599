/* content.c: the content of files: what is where, changed and read.
 *
 * Three layers per inode, looked through from the top: the active layer (changes since the last
 * freeze), the frozen layer (being checkpointed), and the base (rows of the last commit, loaded on
 * first use). A layer's pieces are bytes in memory, ranges of data files, or explicit holes; where
 * no layer has a piece, there is a hole. So a freeze is a swap of pointers, and an error of the
 * checkpoint puts the frozen pieces back below the active ones. A write, step by step: (1) the same
 * range again, still unfrozen and ours alone: overwrite in memory; (2) else walk what is there:
 * count the bytes that stop being allocated, keep what a pinned position shows as history; (3) cut
 * the range out of the active layer; bytes of data files that only this layer knew are free after
 * the next commit; (4) append to the neighbour's chunk, or make a new one. The missing list is
 * trimmed with the map (rule 23). Clean bytes are never cached but for small files: the kernel
 * caches what is read. Failure modes: SQLite errors while the base is loaded, before anything has
 * changed. Thread: workspace lock.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

#define CHUNK_MIN 256u
#define CHUNK_MAX 65536u /* growth by appending ends here */

struct piece store_extent_row(sqlite3_stmt *s)
{
    uint64_t off = store_col(s, 0);
    return (struct piece){.off = off,
                          .end = off + store_col(s, 1),
                          .owner = store_col(s, 2),
                          .serial = store_col32(s, 3),
                          .foff = store_col(s, 4),
                          .flags = (uint8_t)store_col32(s, 5),
                          .born = store_col(s, 6),
                          .kind = PIECE_FILE};
}

/* A row of table content: data, born, map. map NULL: one piece from 0; else packed u32 off, u32
 * len, u64 born. */
int store_small_read(sqlite3_stmt *s, struct pmap *m)
{
    uint32_t len = (uint32_t)sqlite3_column_bytes(s, 0);
    const uint8_t *map = sqlite3_column_blob(s, 2);
    size_t n = (size_t)sqlite3_column_bytes(s, 2);
    struct piece p = {
        .kind = PIECE_MEM, .flags = PIECE_INLINE, .end = len, .born = store_col(s, 1)};
    if (len == 0)
        return 0;
    p.c = store_chunk_from(sqlite3_column_blob(s, 0), len);
    if (!map) {
        store_pmap_put(m, &p);
    } else {
        struct dmt_cur c = dmt_cur_of(map, n);
        uint64_t at = 0;
        while (c.p < c.end && !c.bad) {
            p.off = p.foff = dmt_get_u32(&c);
            p.end = p.off + dmt_get_u32(&c);
            p.born = dmt_get_u64(&c);
            if (c.bad || p.off < at || p.end <= p.off || p.end > len) {
                store_chunk_unref(p.c);
                return DMT_E_CORRUPT;
            }
            at = p.end;
            store_pmap_put(m, &p);
        }
    }
    store_chunk_unref(p.c);
    return 0;
}

int store_base_read(struct store_db *db, uint64_t ino, struct pmap *m)
{
    sqlite3_stmt *s;
    int r = store_sql(db, SQL_CONTENT_GET, &s, "i", ino);
    if (r == 0 && (r = store_sql_step(db, s)) > 0) {
        r = store_small_read(s, m);
        store_sql_done(s);
        return r;
    }
    if (r == 0)
        r = store_sql(db, SQL_EXTENT_OF, &s, "i", ino);
    uint64_t at = 0;
    while (r == 0 && (r = store_sql_step(db, s)) > 0) {
        struct piece p = store_extent_row(s);
        if (p.off < at || p.end <= p.off) {
            store_sql_done(s);
            return DMT_E_CORRUPT;
        }
        at = p.end;
        store_pmap_put(m, &p);
        r = 0;
    }
    return r;
}

static int find_hi(void *ctx, const struct piece *p)
{
    if (p->kind != PIECE_HOLE)
        *(uint64_t *)ctx = p->end;
    return 0;
}

int store_base_load(struct dmt_store *st, struct node *n)
{
    if (n->base_loaded)
        return 0;
    int r = store_base_read(&st->rd, n->ino, &n->base);
    if (r < 0) {
        store_pmap_clear(&n->base);
        return r;
    }
    n->base_loaded = true;
    st->base_cost += n->base.cost;
    n->map_hi = 0;
    store_compose(n, 0, UINT64_MAX, find_hi, &n->map_hi);
    return 0;
}

int store_compose(struct node *n, uint64_t off, uint64_t end, compose_fn fn, void *ctx)
{
    const struct pmap *layers[3] = {n->layer[ACTIVE], n->layer[FROZEN], &n->base};
    return store_pmap_compose(layers, 3, off, end, fn, ctx);
}

static void alloc_add(struct dmt_store *st, struct node *n, int64_t bytes)
{
    n->alloc += (uint64_t)bytes;
    if (n->live)
        st->count.live_bytes += (uint64_t)bytes;
}

/* --- change */

void store_spaces_add(struct spaces *v, uint64_t ino, uint32_t serial, uint64_t foff, uint64_t len)
{
    struct space *last = v->n ? &v->v[v->n - 1] : NULL;
    if (last && len && last->len && last->ino == ino && last->serial == serial &&
        last->foff + last->len == foff) {
        last->len += len;
        return;
    }
    if (v->n == v->cap) {
        v->cap = v->cap ? v->cap * 2 : 16;
        v->v = realloc(v->v, v->cap * sizeof(*v->v));
        DMT_ASSERT(v->v);
    }
    v->v[v->n++] = (struct space){.ino = ino, .serial = serial, .foff = foff, .len = len};
}

struct change {
    struct dmt_store *st;
    struct node *n;
    uint64_t seq;
    uint64_t covered;
};

static int leave_old(void *ctx, const struct piece *p)
{
    struct change *ch = ctx;
    if (p->kind == PIECE_HOLE)
        return 0;
    ch->covered += p->end - p->off;
    if (store_content_needed(ch->st, ch->n, p->born, ch->seq))
        store_chist_add(ch->st, ch->n, p, ch->seq);
    return 0;
}

/* A piece leaves the active layer. A data file range that only this layer knew is free, unless
 * it became history. */
static void drop_active(void *ctx, const struct piece *p)
{
    struct change *ch = ctx;
    if (p->kind == PIECE_FILE && !store_content_needed(ch->st, ch->n, p->born, ch->seq))
        store_spaces_add(&ch->st->freed, p->owner, p->serial, p->foff,
                         p->flags & PIECE_SHARED ? 0 : p->end - p->off);
}

static void layer_cost(struct dmt_store *st, const struct pmap *m, int sign)
{
    st->dirty_cost += sign > 0 ? m->cost : -m->cost;
    st->dirty_piece_n += sign > 0 ? m->n : -m->n;
}

static void cut_active(struct change *ch, uint64_t off, uint64_t end)
{
    struct pmap *m = ch->n->layer[ACTIVE];
    if (m) {
        layer_cost(ch->st, m, -1);
        store_pmap_cut(m, off, end, drop_active, ch);
        layer_cost(ch->st, m, 1);
    }
    store_missing_cut(ch->st, ch->n, off, end, ch->seq);
}

/* What is in [off, end) goes: history, accounts, missing ranges. The base is loaded. */
static void change_range(struct dmt_store *st, struct node *n, uint64_t off, uint64_t end,
                         uint64_t seq)
{
    struct change ch = {.st = st, .n = n, .seq = seq};
    if (n->due)
        store_keeps_move(st, n, off, end, seq);
    if (off < n->map_hi)
        store_compose(n, off, end < n->map_hi ? end : n->map_hi, leave_old, &ch);
    alloc_add(st, n, -(int64_t)ch.covered);
    cut_active(&ch, off, end);
}

int store_content_change(struct dmt_store *st, struct node *n, uint64_t off, uint64_t end,
                         uint64_t seq)
{
    int r = store_base_load(st, n);
    if (r == 0)
        change_range(st, n, off, end, seq);
    return r;
}

/* Puts a piece where store_content_change made room. */
void store_content_put(struct dmt_store *st, struct node *n, const struct piece *p)
{
    struct pmap **m = &n->layer[ACTIVE];
    if (!*m)
        *m = store_pmap_new();
    else
        layer_cost(st, *m, -1);
    store_pmap_put(*m, p);
    layer_cost(st, *m, 1);
    if (p->kind != PIECE_HOLE) {
        alloc_add(st, n, (int64_t)(p->end - p->off));
        if (p->end > n->map_hi)
            n->map_hi = p->end;
    }
    store_node_dirty(st, n, NODE_CONTENT | (n->live ? NODE_ROW : 0));
}

int store_content_unmap(struct dmt_store *st, struct node *n, uint64_t off, uint64_t end,
                        uint64_t seq)
{
    int r = store_content_change(st, n, off, end, seq);
    if (r < 0 || off >= end)
        return r;
    const struct piece *below = store_pmap_at(&n->base, off);
    if (n->layer[FROZEN] || (below && below->off < end)) {
        struct piece hole = {.kind = PIECE_HOLE, .off = off, .end = end, .born = seq};
        store_content_put(st, n, &hole);
    }
    if (n->live)
        store_node_dirty(st, n, NODE_ROW);
    if (end >= n->map_hi && off < n->map_hi)
        n->map_hi = off;
    return 0;
}

/* The inode goes. What no pinned position can show need not be looked at: a hole over everything
 * stands for it until the checkpoint, and `alloc` knows how much it was. */
int store_content_gone(struct dmt_store *st, struct node *n, uint64_t seq)
{
    if (n->base_loaded || st->pins.n || !dmt_list_empty(&n->keeps_here))
        return store_content_unmap(st, n, 0, UINT64_MAX, seq);
    struct change ch = {.st = st, .n = n, .seq = seq};
    cut_active(&ch, 0, UINT64_MAX);
    alloc_add(st, n, -(int64_t)n->alloc);
    struct piece hole = {.kind = PIECE_HOLE, .off = 0, .end = UINT64_MAX, .born = seq};
    store_content_put(st, n, &hole);
    return 0;
}

/* (1) of the essay: the range lies in one unfrozen piece that nobody else refers to. */
static bool write_in_memory(struct dmt_store *st, struct node *n, uint64_t off, const void *p,
                            size_t len, uint64_t seq)
{
    struct piece *at = n->layer[ACTIVE] ? store_pmap_at(n->layer[ACTIVE], off) : NULL;
    if (!at || at->kind != PIECE_MEM || at->off > off || at->end < off + len ||
        !store_chunk_private(at->c) || store_content_needed(st, n, at->born, seq))
        return false;
    memcpy(at->c->data + at->foff + (off - at->off), p, len);
    at->born = seq;
    return true;
}

/* (4): goes on where an unfrozen piece of our own ends. */
static bool write_append(struct dmt_store *st, struct node *n, uint64_t off, const void *p,
                         size_t len, uint64_t seq)
{
    struct pmap *m = n->layer[ACTIVE];
    struct piece *at = m && off ? store_pmap_at(m, off - 1) : NULL;
    if (!at || at->kind != PIECE_MEM || at->end != off || !store_chunk_private(at->c))
        return false;
    uint64_t used = at->foff + (at->end - at->off), need = used + len;
    if (used != at->c->used || need > CHUNK_MAX || store_content_needed(st, n, at->born, seq))
        return false;
    if (need > at->c->cap) {
        uint32_t cap = at->c->cap * 2;
        store_chunk_grow(&at->c, cap > need ? cap : (uint32_t)need);
    }
    memcpy(at->c->data + used, p, len);
    at->c->used = (uint32_t)need;
    at->end += len;
    at->born = seq;
    m->cost += len;
    st->dirty_cost += len;
    alloc_add(st, n, (int64_t)len);
    if (at->end > n->map_hi)
        n->map_hi = at->end;
    store_node_dirty(st, n, NODE_CONTENT | (n->live ? NODE_ROW : 0));
    return true;
}

int dmt_store_write(struct dmt_store *st, uint64_t ino, uint64_t off, const void *p, size_t len,
                    uint64_t seq)
{
    struct node *n;
    int r = store_node(st, ino, &n);
    if (r < 0 || len == 0)
        return r;
    if (len > DMT_FILE_SIZE_MAX || off > DMT_FILE_SIZE_MAX - len)
        return -EFBIG;
    if (write_in_memory(st, n, off, p, len, seq))
        return 0;
    if ((r = store_content_change(st, n, off, off + len, seq)) < 0)
        return r;
    if (write_append(st, n, off, p, len, seq))
        return 0;
    struct piece piece = {
        .kind = PIECE_MEM, .flags = PIECE_INLINE, .off = off, .end = off + len, .born = seq};
    piece.c = store_chunk_new(len < CHUNK_MIN ? CHUNK_MIN : (uint32_t)len);
    memcpy(piece.c->data, p, len);
    piece.c->used = (uint32_t)len;
    store_content_put(st, n, &piece);
    store_chunk_unref(piece.c);
    return 0;
}

int dmt_store_unmap(struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t len, uint64_t seq)
{
    struct node *n;
    int r = store_node(st, ino, &n);
    if (r < 0)
        return r;
    return store_content_unmap(st, n, off, len > UINT64_MAX - off ? UINT64_MAX : off + len, seq);
}

int dmt_store_truncate(struct dmt_store *st, uint64_t ino, uint64_t size, uint64_t seq)
{
    struct node *n;
    int r = store_node(st, ino, &n);
    if (r == 0 && size == 0) {
        r = store_file_marks_load(st, n);
        if (r == 0)
            r = store_base_load(st, n);
        if (r == 0)
            r = store_keep_self(st, n, seq - 1, true);
        n->own = false;
        n->known = true;
    }
    if (r == 0)
        r = store_content_unmap(st, n, size, UINT64_MAX, seq);
    if (r == 0 && size == 0)
        store_keeps_undue(st, n);
    if (r == 0 && size == 0 && n->hwm) {
        struct op *op = store_op(st, OP_FILE);
        op->file.ino = ino;
        op->file.serial = n->serial;
        op->file.hwm = n->hwm;
        store_spaces_add(&st->freed, ino, n->serial, 0, 0);
        n->serial++;
        n->hwm = 0;
        store_node_dirty(st, n, NODE_FILE);
    }
    return r;
}

int dmt_store_allocated(struct dmt_store *st, uint64_t ino, uint64_t *ret_bytes)
{
    struct node *n;
    int r = store_node(st, ino, &n);
    if (r == 0)
        *ret_bytes = n->alloc;
    return r;
}

void store_content_overlay(struct dmt_store *st, struct node *n, const struct piece *p)
{
    struct pmap **m = &n->layer[ACTIVE];
    if (!*m)
        *m = store_pmap_new();
    layer_cost(st, *m, -1);
    store_pmap_set(*m, p);
    layer_cost(st, *m, 1);
    store_node_dirty(st, n, NODE_CONTENT);
}
