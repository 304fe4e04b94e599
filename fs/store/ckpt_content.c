/* ckpt_content.c: the content part of a checkpoint: where frozen bytes go, and the rows that say
 * so.
 *
 * Per inode, in the order of inode numbers: (1) old pieces that a pinned position shows become rows
 * of extent_h; bytes still in memory go into the row itself when small. (2) The frozen layer is
 * applied to the rows it touches. A file of at most small_max bytes that never had a range in a
 * data file is one row of table content. Otherwise every run of bytes goes in place, where the rows
 * it covers are this inode's own, live, unshared, seen by no pinned position and no export (D3); or
 * else to new space at the end of the side file. (3) The touched rows before and after are
 * compared, and only differences are written. In place is what keeps a database file from falling
 * apart: its map does not change. It needs the intent (store.c) once per checkpoint. Neighbours in
 * map and storage are joined; births only of bytes that came inline and with neither a pinned
 * position nor that of the other machine between. Failure modes: any error ends the attempt; bytes
 * written by then are in ranges that recovery rewrites or nobody refers to. Thread: the
 * checkpointer's, without the lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

#define IOV_N 64

/* Gathers writes that go on where the last one ended. */
struct gather {
    struct ckpt *c;
    struct dfile *f;
    uint64_t at, len;
    struct iovec iov[IOV_N];
    int n;
};

struct file_work { /* one inode */
    struct ckpt *c;
    struct fz_node *fz;
    uint64_t ino;
    struct pmap old, now; /* touched rows, before and after */
    struct gather g;
    const struct piece *putting; /* what replaces a range being cut */
};

static int flush(struct gather *g)
{
    if (!g->n)
        return 0;
    const struct dmt_io *io = g->c->st->conf.io;
    ssize_t r = io->pwritev(io->ctx, g->f->fd, g->iov, g->n, g->at);
    g->n = 0;
    g->len = 0;
    return r < 0 ? (int)r : 0;
}

static int gather(struct gather *g, struct dfile *f, uint64_t at, const uint8_t *p, uint64_t len)
{
    int r = 0;
    if (g->n && (g->f != f || g->at + g->len != at || g->n == IOV_N))
        r = flush(g);
    if (!g->n) {
        g->f = f;
        g->at = at;
    }
    g->iov[g->n++] = (struct iovec){.iov_base = (void *)(uintptr_t)p, .iov_len = len};
    g->len += len;
    return r;
}

/* New space at the end of the side file. */
static int side_space(struct file_work *w, uint64_t len, struct dfile **ret_f, uint64_t *ret_foff)
{
    struct ckpt_file *cf;
    int r = store_ckpt_file(w->c, w->ino, 0, &cf);
    if (r < 0)
        return r;
    if (!cf->side_used) {
        sqlite3_stmt *s;
        r = store_sql(w->c->db, SQL_DATAFILE_GET, &s, "ii", w->ino, (uint64_t)0);
        if (r == 0 && (r = store_sql_step(w->c->db, s)) > 0) {
            cf->side_end = store_col(s, 0);
            store_sql_done(s);
        }
        if (r < 0)
            return r;
        if (cf->side_end < cf->side_from)
            cf->side_end = cf->side_from;
        cf->side_used = true;
    }
    *ret_f = cf->f;
    *ret_foff = cf->side_end;
    cf->side_end += len;
    return 0;
}

/* --- (1) history */

static int write_history(struct file_work *w)
{
    int r = 0;
    for (const struct chist *h = w->fz->chist; r == 0 && h; h = h->next) {
        struct piece p = h->p;
        uint64_t len = p.end - p.off;
        const void *data = NULL;
        if (p.kind == PIECE_MEM && len <= w->c->st->conf.small_max) {
            data = p.c->data + p.foff;
            p.owner = p.foff = p.serial = 0;
        } else if (p.kind == PIECE_MEM) {
            struct dfile *f;
            uint64_t foff;
            if ((r = side_space(w, len, &f, &foff)) < 0 ||
                (r = gather(&w->g, f, foff, p.c->data + p.foff, len)) < 0)
                return r;
            p.owner = w->ino;
            p.serial = 0;
            p.foff = foff;
        }
        const char *fmt = data ? "iiiiiiiiib" : "iiiiiiiiin";
        r = store_exec(w->c->db, SQL_EXTENT_H_PUT, fmt, w->ino, p.off, len, p.owner,
                       (uint64_t)p.serial, p.foff, (uint64_t)p.flags, p.born, h->died, data,
                       (size_t)len);
        w->c->pinned_delta += (int64_t)len;
    }
    return r;
}

/* --- (2) the layer */

/* A row gives up a range of its file. */
static void drop_row(void *ctx, const struct piece *p)
{
    struct file_work *w = ctx;
    if (p->kind != PIECE_FILE)
        return;
    struct piece same = w->putting ? store_piece_clip(w->putting, p->off, p->end)
                                   : (struct piece){.kind = PIECE_HOLE};
    if (store_piece_same_place(&same, p))
        return;
    bool alone = !(p->flags & PIECE_SHARED) && !(w->fz->bits & NODE_SHARE);
    store_spaces_add(&w->c->freed, p->owner, p->serial, p->foff, alone ? p->end - p->off : 0);
}

static bool may_go_in_place(struct file_work *w, const struct piece *row, const struct piece *bytes)
{
    return w->c->in_place_ok && !(w->fz->bits & NODE_SHARE) && row->kind == PIECE_FILE &&
           row->owner == w->ino && !(row->flags & PIECE_SHARED) &&
           !store_batch_needed(w->c->b, w->ino, row->born, bytes->born);
}

static int say_in_place(struct ckpt *c)
{
    if (c->in_place_said)
        return 0;
    c->in_place_said = true;
    int r = store_intent_write(c->st, &c->b->pos);
    if (r == 0) {
        c->lk->lock(c->lk->ctx);
        c->st->floor = c->b->pos;
        c->lk->unlock(c->lk->ctx);
    }
    return r;
}

struct placing {
    struct file_work *w;
    const struct piece *mem;
    struct pmap *out;
};

/* The bytes over a range that `under` describes: in place or to the side. */
static int place_part(void *ctx, const struct piece *under)
{
    struct placing *pl = ctx;
    struct file_work *w = pl->w;
    struct piece part = store_piece_clip(pl->mem, under->off, under->end);
    struct piece put = {.kind = PIECE_FILE,
                        .flags = PIECE_INLINE,
                        .off = part.off,
                        .end = part.end,
                        .born = part.born,
                        .owner = w->ino};
    struct dfile *f = NULL;
    int r = 0;
    if (may_go_in_place(w, under, &part)) {
        struct ckpt_file *cf;
        if ((r = store_ckpt_file(w->c, w->ino, under->serial, &cf)) < 0)
            return r;
        if (!cf->tainted) {
            if ((r = say_in_place(w->c)) < 0)
                return r;
            f = cf->f;
            put.serial = under->serial;
            put.foff = under->foff;
        }
    }
    if (!f && (r = side_space(w, part.end - part.off, &f, &put.foff)) < 0)
        return r;
    store_pmap_put(pl->out, &put);
    return gather(&w->g, f, put.foff, part.c->data + part.foff, part.end - part.off);
}

/* Puts the layer's piece p into w->now, its bytes into data files. */
static int apply_piece(struct file_work *w, const struct piece *p)
{
    if (p->kind != PIECE_MEM) {
        w->putting = p;
        store_pmap_cut(&w->now, p->off, p->end, drop_row, w);
        if (p->kind == PIECE_FILE)
            store_pmap_put(&w->now, p);
        return 0;
    }
    struct pmap out;
    store_pmap_init(&out);
    const struct pmap *now = &w->now;
    struct placing pl = {.w = w, .mem = p, .out = &out};
    int r = store_pmap_compose(&now, 1, p->off, p->end, place_part, &pl);
    for (const struct piece *q = r == 0 ? store_pmap_first(&out) : NULL; q;
         q = store_pmap_next(q)) {
        w->putting = q;
        store_pmap_cut(&w->now, q->off, q->end, drop_row, w);
        store_pmap_put(&w->now, q);
    }
    store_pmap_clear(&out);
    return r;
}

/* Joins neighbours where that changes nothing for anybody. */
static void coalesce(struct file_work *w)
{
    for (struct piece *p = store_pmap_first(&w->now), *next; p; p = next) {
        next = store_pmap_next(p);
        if (!next || !store_piece_adjoins(p, next))
            continue;
        uint64_t lo = p->born < next->born ? p->born : next->born,
                 hi = p->born < next->born ? next->born : p->born;
        uint64_t peer = w->c->b->peer;
        if (lo != hi && (!(p->flags & PIECE_INLINE) || (lo <= peer && peer < hi) ||
                         store_batch_needed(w->c->b, w->ino, lo, hi)))
            continue;
        uint64_t end = next->end;
        store_pmap_cut(&w->now, next->off, next->end, NULL, NULL);
        p->end = end;
        p->born = hi;
        next = p;
    }
}

static int load_row(struct file_work *w, const struct piece *p)
{
    const struct piece *at = store_pmap_at(&w->old, p->off);
    if (at && at->off < p->end)
        return 0; /* loaded for the piece before */
    store_pmap_put(&w->old, p);
    store_pmap_put(&w->now, p);
    return 0;
}

/* Rows that touch [off, end), and the neighbours on both sides, to be joined with. */
static int load_rows(struct file_work *w, uint64_t off, uint64_t end)
{
    sqlite3_stmt *s;
    struct store_db *db = w->c->db;
    uint64_t limit = end > INT64_MAX - 1 ? (uint64_t)INT64_MAX : end + 1;
    int r = store_sql(db, SQL_EXTENT_BEFORE, &s, "ii", w->ino, off);
    if (r == 0 && (r = store_sql_step(db, s)) > 0) {
        struct piece p = store_extent_row(s);
        store_sql_done(s);
        r = p.end >= off ? load_row(w, &p) : 0;
    }
    if (r == 0)
        r = store_sql(db, SQL_EXTENT_FROM, &s, "iii", w->ino, off, limit);
    while (r == 0 && (r = store_sql_step(db, s)) > 0) {
        struct piece p = store_extent_row(s);
        r = load_row(w, &p);
    }
    return r;
}

static bool all_memory(const struct file_work *w, const struct pmap *m)
{
    for (const struct piece *p = store_pmap_first(m); p; p = store_pmap_next(p))
        if (p->kind == PIECE_FILE)
            return false;
    return store_pmap_end(m) <= w->c->st->conf.small_max;
}

/* The whole content as one row. */
static int write_small(struct file_work *w, const struct pmap *m)
{
    uint32_t len = (uint32_t)store_pmap_end(m);
    const struct piece *first = store_pmap_first(m);
    if (!first)
        return store_exec(w->c->db, SQL_CONTENT_DEL, "i", w->ino);
    uint8_t *data = store_zalloc(len);
    struct dmt_buf map;
    dmt_buf_init(&map);
    uint64_t born = 0;
    for (const struct piece *p = first; p; p = store_pmap_next(p)) {
        memcpy(data + p->off, p->c->data + p->foff, p->end - p->off);
        born = p->born > born ? p->born : born;
        /* joins the piece before if births may be merged */
        const struct piece *prev = store_pmap_prev(p);
        uint64_t last_born = map.len ? dmt_le64(map.p + map.len - 8) : 0;
        uint64_t lo = p->born < last_born ? p->born : last_born,
                 hi = p->born < last_born ? last_born : p->born;
        if (prev && prev->end == p->off && !store_batch_needed(w->c->b, w->ino, lo, hi)) {
            uint8_t *rec = map.p + map.len - 16;
            dmt_st32(rec + 4, (uint32_t)(p->end - dmt_le32(rec)));
            dmt_st64(rec + 8, hi);
        } else {
            dmt_put_u32(&map, (uint32_t)p->off);
            dmt_put_u32(&map, (uint32_t)(p->end - p->off));
            dmt_put_u64(&map, p->born);
        }
    }
    bool plain = map.len == 16 && first->off == 0;
    int r = store_exec(w->c->db, SQL_CONTENT_PUT, plain ? "ibin" : "ibib", w->ino, data,
                       (size_t)len, plain ? dmt_le64(map.p + 8) : born, map.p, map.len);
    dmt_buf_free(&map);
    free(data);
    return r;
}

static int write_rows(struct file_work *w)
{
    struct store_db *db = w->c->db;
    int r = 0;
    for (const struct piece *p = store_pmap_first(&w->old); r == 0 && p; p = store_pmap_next(p)) {
        const struct piece *q = store_pmap_at(&w->now, p->off);
        if (!q || q->off != p->off)
            r = store_exec(db, SQL_EXTENT_DEL, "ii", w->ino, p->off);
    }
    for (const struct piece *p = store_pmap_first(&w->now); r == 0 && p; p = store_pmap_next(p)) {
        const struct piece *q = store_pmap_at(&w->old, p->off);
        if (q && q->off == p->off && q->end == p->end && q->born == p->born &&
            q->flags == p->flags && store_piece_same_place(p, q))
            continue;
        r = store_exec(db, SQL_EXTENT_PUT, "iiiiiiii", w->ino, p->off, p->end - p->off, p->owner,
                       (uint64_t)p->serial, p->foff, (uint64_t)p->flags, p->born);
    }
    return r;
}

/* What the layer has become, for the loaded base: committed places and holes. */
static int note_placed(void *ctx, const struct piece *p)
{
    store_pmap_put(ctx, p);
    return 0;
}

static void note_layer(struct file_work *w)
{
    const struct pmap *now = &w->now;
    w->fz->placed = store_pmap_new();
    for (const struct piece *p = store_pmap_first(w->fz->layer); p; p = store_pmap_next(p))
        store_pmap_compose(&now, 1, p->off, p->end, note_placed, w->fz->placed);
}

/* Rows of this inode, counted up to limit + 1. */
static int count_rows(struct file_work *w, size_t limit, size_t *ret)
{
    sqlite3_stmt *s;
    int r = store_sql(w->c->db, SQL_EXTENT_OF, &s, "i", w->ino);
    if (r < 0)
        return r;
    for (*ret = 0; *ret <= limit && (r = store_sql_step(w->c->db, s)) > 0;)
        ++*ret;
    store_sql_done(s);
    return r < 0 ? r : 0;
}

/* 1: the result was written as one row; 0: it is no small file. `m`: the small content so far
 * (nothing when there are extents). */
static int try_small(struct file_work *w, struct pmap *m, bool extents)
{
    if (extents) {
        /* Only if no row lies outside what the layer replaces. */
        struct pmap left;
        store_pmap_init(&left);
        for (const struct piece *p = store_pmap_first(&w->old); p; p = store_pmap_next(p))
            store_pmap_put(&left, p);
        for (const struct piece *p = store_pmap_first(w->fz->layer); p; p = store_pmap_next(p))
            store_pmap_cut(&left, p->off, p->end, NULL, NULL);
        bool covered = left.n == 0;
        store_pmap_clear(&left);
        size_t rows = 0;
        int r = covered ? count_rows(w, w->old.n, &rows) : 0;
        if (r < 0 || !covered || rows > w->old.n)
            return r;
    }
    for (const struct piece *p = store_pmap_first(w->fz->layer); p; p = store_pmap_next(p)) {
        store_pmap_cut(m, p->off, p->end, NULL, NULL);
        if (p->kind != PIECE_HOLE)
            store_pmap_put(m, p);
    }
    if (!all_memory(w, m))
        return 0;
    w->putting = NULL;
    store_pmap_cut(&w->now, 0, UINT64_MAX, drop_row, w);
    int r = write_rows(w);
    if (r == 0)
        r = write_small(w, m);
    return r < 0 ? r : 1;
}

/* 1: nothing is left of a file that was one row; its bytes need not be read for that. */
static int drop_small(struct file_work *w)
{
    const struct piece *p = store_pmap_first(w->fz->layer);
    if (!p || p->kind != PIECE_HOLE || p->off != 0 || p->end != UINT64_MAX)
        return 0;
    int r = store_exec(w->c->db, SQL_CONTENT_DEL, "i", w->ino);
    return r < 0 ? r : sqlite3_changes(w->c->db->h) > 0;
}

static int write_layer(struct file_work *w)
{
    struct store_db *db = w->c->db;
    struct pmap small;
    sqlite3_stmt *s;
    store_pmap_init(&small);
    bool was_small = false;
    int r = store_sql(db, SQL_CONTENT_GET, &s, "i", w->ino);
    if (r == 0 && (r = store_sql_step(db, s)) > 0) {
        was_small = true;
        r = store_small_read(s, &small);
        store_sql_done(s);
    }
    for (const struct piece *p = store_pmap_first(w->fz->layer); r == 0 && !was_small && p;
         p = store_pmap_next(p))
        r = load_rows(w, p->off, p->end);
    bool extents = false;
    if (r == 0 && !was_small) {
        r = store_sql(db, SQL_EXTENT_ANY, &s, "i", w->ino);
        if (r == 0 && (r = store_sql_step(db, s)) > 0) {
            extents = true;
            store_sql_done(s);
            r = 0;
        }
    }
    if (r == 0)
        r = try_small(w, &small, extents);
    if (r != 0)
        goto out;
    /* Extents. What a small row held goes below the layer as bytes to be placed; `small` has
     * both by now. */
    if (was_small) {
        r = store_exec(db, SQL_CONTENT_DEL, "i", w->ino);
        for (const struct piece *p = store_pmap_first(&small); r == 0 && p; p = store_pmap_next(p))
            r = apply_piece(w, p);
    } else {
        for (const struct piece *p = store_pmap_first(w->fz->layer); r == 0 && p;
             p = store_pmap_next(p))
            r = apply_piece(w, p);
    }
    if (r == 0)
        r = flush(&w->g); /* before the small content's bytes are let go */
    if (r < 0)
        goto out;
    if (!was_small)
        note_layer(w);
    coalesce(w);
    r = write_rows(w);
out:
    store_pmap_clear(&small);
    return r < 0 ? r : 0;
}

/* --- (3) marks of the data files */

/* A process that was killed may have made a file that no row came to know of. */
static int suspect_unknown(struct file_work *w, uint32_t serial)
{
    const struct dmt_io *io = w->c->st->conf.io;
    char path[PATH_MAX];
    store_file_path(w->c->st, w->ino, serial, path, sizeof(path));
    int fd = io->open(io->ctx, path, O_RDONLY, 0);
    if (fd == -ENOENT)
        return 0;
    if (fd < 0)
        return fd;
    (void)io->close(io->ctx, fd);
    store_spaces_add(&w->c->freed, w->ino, serial, 0, 0);
    return 0;
}

/* Every data file of this inode is to be looked at: the inode is gone, or a new serial began. */
static int suspect_files(struct file_work *w)
{
    sqlite3_stmt *s;
    bool unsure = (w->fz->bits & NODE_DEAD) && w->ino <= w->c->b->suspect_high;
    int known = unsure ? suspect_unknown(w, 0) : 0;
    if (known == 0 && unsure)
        known = suspect_unknown(w, w->fz->serial);
    if (known < 0)
        return known;
    int r = store_sql(w->c->db, SQL_DATAFILE_OF, &s, "i", w->ino);
    while (r == 0 && (r = store_sql_step(w->c->db, s)) > 0) {
        store_spaces_add(&w->c->freed, w->ino, store_col32(s, 0), 0, 0);
        r = 0;
    }
    if (r == 0 && w->fz->hwm)
        store_spaces_add(&w->c->freed, w->ino, w->fz->serial, 0, 0);
    return r;
}

static int write_marks(struct file_work *w)
{
    struct store_db *db = w->c->db;
    struct fz_node *fz = w->fz;
    int r = 0;
    for (size_t i = w->c->file_n; r == 0 && i-- > 0 && w->c->files[i]->f->ino == w->ino;)
        if (w->c->files[i]->side_used)
            r = store_exec(db, SQL_DATAFILE_PUT, "iii", w->ino, (uint64_t)0,
                           w->c->files[i]->side_end);
    if (r == 0 && (fz->bits & (NODE_FILE | NODE_DEAD)) && (fz->hwm || fz->serial > 1))
        r = store_exec(db, SQL_DATAFILE_PUT, "iii", w->ino, (uint64_t)fz->serial, fz->hwm);
    if (r == 0 && ((fz->bits & NODE_DEAD) || ((fz->bits & NODE_FILE) && fz->serial > 1)))
        r = suspect_files(w);
    return r;
}

int store_ckpt_content(struct ckpt *c)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < c->b->n_nodes; i++) {
        struct fz_node *fz = &c->b->nodes[i];
        struct file_work w = {.c = c, .fz = fz, .ino = fz->ino, .g = {.c = c}};
        if (fz->chist)
            r = write_history(&w);
        if (r == 0 && fz->layer && (r = drop_small(&w)) >= 0)
            r = r ? 0 : write_layer(&w);
        if (r == 0)
            r = flush(&w.g);
        if (r == 0 && (fz->bits & (NODE_FILE | NODE_DEAD | NODE_CONTENT | NODE_HIST)))
            r = write_marks(&w);
        store_pmap_clear(&w.old);
        store_pmap_clear(&w.now);
    }
    return r;
}
