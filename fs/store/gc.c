/* gc.c: what goes: history rows that no pinned position falls into, ranges and files that no row
 * refers to.
 *
 * Sweep: after a snapshot went, each checkpoint looks through a bounded number of history rows,
 * table by table, from where the last one stopped, and deletes those that the positions pinned at
 * the freeze do not need. Space: rows that were cut or deleted name ranges that may be free
 * (`freed`). A data file goes as a whole when no row refers to it and nothing can any more (its
 * inode is gone or it is of an older serial). Of other ranges only runs of 64 KiB and more are
 * worth a punch (144 us each with discard), and only what no row refers to. What is free is written
 * to table garbage in the same transaction and done after the COMMIT (D3); a crash between the two
 * does it after the next open: places are never reused, so doing it twice is harmless. Readers that
 * still hold a reference to the file, and exports, postpone it. Failure modes: SQLite errors end
 * the checkpoint; a failed punch or unlink is tried again next time. Thread: the checkpointer's;
 * store_gc_files takes the lock for a moment.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

#define SWEEP_ROWS_MAX 20000u /* looked at per checkpoint */
#define SWEEP_STEP     256u
#define PUNCH_ALIGN    4096u
#define FILES_MAX      4096u /* unlinked or punched after one checkpoint */

/* --- sweep */

struct victim { /* a history row to look at */
    uint64_t a, died, born, off;
    struct piece p;
    bool inline_data;
    uint8_t name[DMT_XATTR_NAME_MAX];
    uint32_t name_len;
};
struct sweep_kind {
    enum store_sql select, del;
};
enum { KIND_INODE = 1, KIND_DENTRY, KIND_XATTR, KIND_EXTENT, KIND_END };
static const struct sweep_kind g_kinds[KIND_END] = {
    [KIND_INODE] = {SQL_SWEEP_INODE, SQL_SWEEP_INODE_DEL},
    [KIND_DENTRY] = {SQL_SWEEP_DENTRY, SQL_SWEEP_DENTRY_DEL},
    [KIND_XATTR] = {SQL_SWEEP_XATTR, SQL_SWEEP_XATTR_DEL},
    [KIND_EXTENT] = {SQL_SWEEP_EXTENT, SQL_EXTENT_H_DEL},
};

static void read_extent(sqlite3_stmt *s, struct victim *v)
{
    v->p = store_extent_row(s);
    v->off = v->p.off;
    v->born = v->p.born;
    v->died = store_col(s, 7);
    v->inline_data = store_col(s, 8) != 0;
}

static int read_victims(struct ckpt *c, struct victim *v, size_t limit, size_t *ret_n)
{
    struct sweep *sw = &c->sweep;
    const struct sweep_kind *kind = &g_kinds[sw->kind];
    bool named = sw->kind == KIND_DENTRY || sw->kind == KIND_XATTR;
    sqlite3_stmt *s;
    int r =
        named ? store_sql(c->db, kind->select, &s, "iiib", sw->a, sw->died, (uint64_t)limit,
                          sw->name ? sw->name->data : NULL, sw->name ? (size_t)sw->name->used : 0)
        : sw->kind == KIND_EXTENT
            ? store_sql(c->db, kind->select, &s, "iiii", sw->a, sw->died, (uint64_t)limit, sw->off)
            : store_sql(c->db, kind->select, &s, "iii", sw->a, sw->died, (uint64_t)limit);
    *ret_n = 0;
    while (r == 0 && (r = store_sql_step(c->db, s)) > 0) {
        struct victim *x = &v[(*ret_n)++];
        r = 0;
        if (sw->kind == KIND_EXTENT) {
            read_extent(s, x);
            x->a = store_col(s, 9);
            continue;
        }
        x->a = store_col(s, 0);
        x->died = store_col(s, 1);
        x->born = store_col(s, 2);
        if (named) {
            size_t len = (size_t)sqlite3_column_bytes(s, 3);
            if (len > sizeof(x->name)) {
                store_sql_done(s);
                return DMT_E_CORRUPT;
            }
            x->name_len = (uint32_t)len;
            memcpy(x->name, sqlite3_column_blob(s, 3), len);
        }
    }
    return r;
}

static int delete_extent(struct ckpt *c, uint64_t ino, const struct victim *v)
{
    int r = store_exec(c->db, SQL_EXTENT_H_DEL, "iii", ino, v->off, v->died);
    if (r < 0)
        return r;
    c->pinned_delta -= (int64_t)(v->p.end - v->p.off);
    if (!v->inline_data)
        store_spaces_add(&c->freed, v->p.owner, v->p.serial, v->p.foff,
                         v->p.flags & PIECE_SHARED ? 0 : v->p.end - v->p.off);
    return 0;
}

static int sweep_step(struct ckpt *c, struct victim *v, size_t n)
{
    struct sweep *sw = &c->sweep;
    int r = 0;
    for (size_t i = 0; r == 0 && i < n; i++) {
        if (store_batch_needed(c->b, sw->kind == KIND_EXTENT ? v[i].a : 0, v[i].born, v[i].died))
            continue;
        if (sw->kind == KIND_EXTENT)
            r = delete_extent(c, v[i].a, &v[i]);
        else
            r = store_exec(c->db, g_kinds[sw->kind].del, sw->kind == KIND_INODE ? "ii" : "iib",
                           v[i].a, v[i].died, (const void *)v[i].name, (size_t)v[i].name_len);
    }
    if (n) {
        sw->a = v[n - 1].a;
        sw->died = v[n - 1].died;
        sw->off = v[n - 1].off;
        store_chunk_unref(sw->name);
        sw->name = store_chunk_from(v[n - 1].name, v[n - 1].name_len);
    }
    return r;
}

static void sweep_to(struct sweep *sw, int kind)
{
    store_chunk_unref(sw->name);
    *sw = (struct sweep){.kind = kind, .again = sw->again};
}

int store_gc_sweep(struct ckpt *c)
{
    struct sweep *sw = &c->sweep;
    if (c->b->sweep) {
        if (sw->kind)
            sw->again = true;
        else
            sweep_to(sw, KIND_INODE);
    }
    struct victim *v = sw->kind ? store_zalloc(SWEEP_STEP * sizeof(*v)) : NULL;
    int r = 0;
    for (size_t seen = 0; r == 0 && sw->kind && seen < SWEEP_ROWS_MAX;) {
        size_t n;
        r = read_victims(c, v, SWEEP_STEP, &n);
        if (r == 0)
            r = sweep_step(c, v, n);
        seen += n;
        if (r < 0 || n == SWEEP_STEP)
            continue;
        int next = sw->kind + 1;
        if (next == KIND_END) {
            next = sw->again ? KIND_INODE : 0;
            sw->again = false;
        }
        sweep_to(sw, next);
        seen++; /* so that a pass over empty tables ends too */
    }
    free(v);
    return r;
}

/* A keep of this source went: only its content can have become needless. */
int store_gc_ino(struct ckpt *c, uint64_t ino)
{
    struct victim *v = NULL;
    size_t n = 0, cap = 0;
    sqlite3_stmt *s;
    int r = store_sql(c->db, SQL_EXTENT_H_INO, &s, "i", ino);
    while (r == 0 && (r = store_sql_step(c->db, s)) > 0) {
        if (n == cap) {
            cap = cap ? cap * 2 : 16;
            v = realloc(v, cap * sizeof(*v));
            DMT_ASSERT(v);
        }
        read_extent(s, &v[n]);
        if (!store_batch_needed(c->b, ino, v[n].born, v[n].died))
            n++;
        r = 0;
    }
    for (size_t i = 0; r == 0 && i < n; i++)
        r = delete_extent(c, ino, &v[i]);
    free(v);
    return r;
}

/* --- space */

static int space_cmp(const void *a, const void *b)
{
    const struct space *x = a, *y = b;
    if (x->ino != y->ino)
        return x->ino < y->ino ? -1 : 1;
    if (x->serial != y->serial)
        return x->serial < y->serial ? -1 : 1;
    return x->foff < y->foff ? -1 : x->foff > y->foff;
}

/* 1 if no row refers to the file and none ever can again. */
static int file_dead(struct ckpt *c, uint64_t ino, uint32_t serial)
{
    sqlite3_stmt *s;
    uint32_t current = 0;
    int r = store_sql(c->db, SQL_INODE_GET, &s, "i", ino);
    if (r == 0)
        r = store_sql_step(c->db, s);
    if (r < 0)
        return r;
    bool live = r > 0;
    store_sql_done(s);
    r = store_sql(c->db, SQL_DATAFILE_OF, &s, "i", ino);
    while (r == 0 && (r = store_sql_step(c->db, s)) > 0) {
        current = store_col32(s, 0);
        r = 0;
    }
    if (r < 0 || (live && (serial == 0 || serial >= current)))
        return r;
    if ((r = store_sql(c->db, SQL_FILE_USED, &s, "ii", ino, (uint64_t)serial)) < 0 ||
        (r = store_sql_step(c->db, s)) < 0)
        return r;
    bool used = r > 0 && store_col(s, 0);
    store_sql_done(s);
    return !used;
}

static void add_punch(struct ckpt *c, const struct space *sp, uint64_t from, uint64_t to)
{
    from = (from + PUNCH_ALIGN - 1) / PUNCH_ALIGN * PUNCH_ALIGN;
    to = to / PUNCH_ALIGN * PUNCH_ALIGN;
    if (from < to && to - from >= c->st->punch_min)
        store_spaces_add(&c->garbage, sp->ino, sp->serial, from, to - from);
}

/* Places of a file that rows refer to, live or old, as HOLE pieces of a map. Also live ones: a
 * range may have been given up by history and have been overwritten in place by the same batch. */
static int used_places(struct ckpt *c, uint64_t ino, uint32_t serial, struct pmap *used)
{
    sqlite3_stmt *s;
    int r = store_sql(c->db, SQL_FILE_PLACES, &s, "ii", ino, (uint64_t)serial);
    while (r == 0 && (r = store_sql_step(c->db, s)) > 0) {
        struct piece p = {.kind = PIECE_HOLE, .off = store_col(s, 0)};
        p.end = p.off + store_col(s, 1);
        if (p.end > p.off)
            store_pmap_set(used, &p);
        r = 0;
    }
    return r;
}

/* The parts of a range that no row refers to. */
static void free_range(struct ckpt *c, const struct space *sp, const struct pmap *used)
{
    uint64_t from = sp->foff, end = sp->foff + sp->len;
    for (const struct piece *p = store_pmap_at(used, from); p && p->off < end;
         p = store_pmap_next(p)) {
        if (p->off > from)
            add_punch(c, sp, from, p->off);
        from = p->end;
    }
    if (from < end)
        add_punch(c, sp, from, end);
}

/* v[0..n): what one file has given up, in order. */
static int free_ranges(struct ckpt *c, const struct space *v, size_t n)
{
    struct space run = v[0];
    struct spaces runs = {0};
    for (size_t i = 1; i <= n; i++) {
        if (i < n && v[i].foff <= run.foff + run.len) { /* neighbours are one run */
            uint64_t end = v[i].foff + v[i].len;
            run.len = end > run.foff + run.len ? end - run.foff : run.len;
            continue;
        }
        if (run.len >= c->st->punch_min)
            store_spaces_add(&runs, run.ino, run.serial, run.foff, run.len);
        if (i < n)
            run = v[i];
    }
    struct pmap used;
    store_pmap_init(&used);
    int r = runs.n ? used_places(c, run.ino, run.serial, &used) : 0;
    for (size_t i = 0; r == 0 && i < runs.n; i++)
        free_range(c, &runs.v[i], &used);
    store_pmap_clear(&used);
    free(runs.v);
    return r;
}

static int write_garbage(struct ckpt *c)
{
    const struct spaces *lists[2] = {&c->st->later, &c->garbage};
    int r = c->st->garbage_rows ? store_exec(c->db, SQL_GARBAGE_CLEAR, "") : 0;
    for (int l = 0; l < 2; l++)
        for (size_t i = 0; r == 0 && i < lists[l]->n; i++) {
            const struct space *sp = &lists[l]->v[i];
            r = store_exec(c->db, SQL_GARBAGE_PUT, "iiii", sp->ino, (uint64_t)sp->serial, sp->foff,
                           sp->len);
        }
    return r;
}

int store_gc_rows(struct ckpt *c)
{
    for (size_t i = 0; i < c->b->freed.n; i++) {
        const struct space *sp = &c->b->freed.v[i];
        store_spaces_add(&c->freed, sp->ino, sp->serial, sp->foff, sp->len);
    }
    struct spaces *f = &c->freed;
    if (f->n)
        qsort(f->v, f->n, sizeof(*f->v), space_cmp);
    for (size_t i = 0, next; i < f->n; i = next) {
        const struct space first = f->v[i];
        for (next = i;
             next < f->n && f->v[next].ino == first.ino && f->v[next].serial == first.serial;)
            next++;
        int r = file_dead(c, first.ino, first.serial);
        if (r > 0) {
            store_spaces_add(&c->garbage, first.ino, first.serial, 0, 0);
            r = store_exec(c->db, SQL_DATAFILE_DEL, "ii", first.ino, (uint64_t)first.serial);
        } else if (r == 0) {
            r = free_ranges(c, &f->v[i], next - i);
        }
        if (r < 0)
            return r;
    }
    return write_garbage(c);
}

/* Punches one range. The file stays open in the cache. */
static int punch(struct dmt_store *st, const struct dmt_lockfn *lk, const struct space *sp)
{
    const struct dmt_io *io = st->conf.io;
    lk->lock(lk->ctx);
    struct dfile *f = store_file_get(st, sp->ino, sp->serial);
    bool read_now = f->refs > 1;
    int r = read_now ? -EBUSY : store_file_open(st, f, false);
    lk->unlock(lk->ctx);
    if (r == 0)
        r = io->fallocate(io->ctx, f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, sp->foff,
                          sp->len);
    lk->lock(lk->ctx);
    store_file_put(st, f);
    lk->unlock(lk->ctx);
    return r == -ENOENT || r == -EOPNOTSUPP ? 0 : r;
}

static int unlink_file(struct dmt_store *st, const struct dmt_lockfn *lk, const struct space *sp)
{
    char path[PATH_MAX];
    store_file_path(st, sp->ino, sp->serial, path, sizeof(path));
    lk->lock(lk->ctx);
    store_file_forget(st, sp->ino, sp->serial);
    lk->unlock(lk->ctx);
    int r = st->conf.io->unlink(st->conf.io->ctx, path);
    return r == -ENOENT ? 0 : r;
}

void store_gc_files(struct dmt_store *st, const struct dmt_lockfn *lk)
{
    size_t kept = 0;
    for (size_t i = 0; i < st->later.n; i++) {
        const struct space sp = st->later.v[i];
        lk->lock(lk->ctx);
        bool wait = st->exports > 0 || i >= FILES_MAX;
        lk->unlock(lk->ctx);
        int r = wait ? -EBUSY : sp.len ? punch(st, lk, &sp) : unlink_file(st, lk, &sp);
        if (r < 0)
            st->later.v[kept++] = sp;
    }
    st->later.n = kept;
}
