/* export.c: everything at the last checkpoint's position, as a stream of items.
 *
 * Happy path: under the lock, between two checkpoints, the export announces itself (from then on
 * nothing is overwritten in place and nothing freed) and opens a read transaction of its own; both
 * stay until the end, so rows and bytes belong together however long it takes. Then every table is
 * walked in key order, and after the row of a data file come the ranges that any row refers to,
 * once each, without those that are missing at this position: the receiver gets their rows and
 * pulls them. Failure modes: a checkpoint that died after it had begun to overwrite in place makes
 * the position inexact until the next one succeeds (DMT_E_RETRY); a data file shorter than its rows
 * is DMT_E_CORRUPT; emit's error ends it. Thread: any, without the lock; one export per call,
 * several at a time are fine.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>

#include "fs/base/hash.h"
#include "fs/store/internal.h"
#include "fs/store/stream.h"
#include "fs/store/stream_int.h"

void store_item_begin(struct export *x, enum stream_kind kind)
{
    x->item = x->out.len;
    dmt_put_u8(&x->out, (uint8_t)kind);
    dmt_put_u32(&x->out, 0);
}

int store_item_end(struct export *x)
{
    if (x->out.bad)
        return -ENOMEM;
    uint8_t *p = x->out.p + x->item;
    size_t len = x->out.len - x->item;
    DMT_ASSERT(len - STREAM_HEADER <= STREAM_ITEM_MAX);
    dmt_st32(p + 1, (uint32_t)(len - STREAM_HEADER));
    if (x->dry) {
        x->total += len;
        x->out.len = x->item;
        return 0;
    }
    x->hash = dmt_hash64(x->hash, p, len);
    if (x->out.len < EXPORT_EMIT_BYTES)
        return 0;
    int r = x->emit(x->ctx, x->out.p, x->out.len);
    dmt_buf_reset(&x->out);
    return r;
}

static void put_blob(struct export *x, sqlite3_stmt *s, int col)
{
    dmt_put_bytes(&x->out, sqlite3_column_blob(s, col), (size_t)sqlite3_column_bytes(s, col));
}
static void put_u64s(struct export *x, sqlite3_stmt *s, int from, int to)
{
    for (int i = from; i < to; i++)
        dmt_put_u64(&x->out, store_col(s, i));
}
static void put_u32s(struct export *x, sqlite3_stmt *s, int from, int to)
{
    for (int i = from; i < to; i++)
        dmt_put_u32(&x->out, store_col32(s, i));
}

/* --- one function per table: builds the item of a row */

void store_row_meta(struct export *x, sqlite3_stmt *s, bool old)
{
    (void)old;
    put_blob(x, s, 0);
    put_blob(x, s, 1);
}
void store_row_epoch(struct export *x, sqlite3_stmt *s, bool old)
{
    (void)old;
    put_u64s(x, s, 0, 5);
    put_blob(x, s, 5);
    put_blob(x, s, 6);
}
void store_row_snap(struct export *x, sqlite3_stmt *s, bool old)
{
    (void)old;
    put_u64s(x, s, 0, 4);
    put_blob(x, s, 4);
    put_blob(x, s, 5);
}
void store_row_inode(struct export *x, sqlite3_stmt *s, bool old)
{
    dmt_put_u64(&x->out, old ? store_col(s, 17) : 0);
    put_u64s(x, s, 16, 17);
    put_u32s(x, s, 0, 6);
    put_u64s(x, s, 6, 12);
    put_u32s(x, s, 12, 13);
    put_u64s(x, s, 13, 16);
}
void store_row_dentry(struct export *x, sqlite3_stmt *s, bool old)
{
    dmt_put_u64(&x->out, old ? store_col(s, 6) : 0);
    put_u64s(x, s, 5, 6);
    put_blob(x, s, 0);
    put_u64s(x, s, 1, 2);
    put_u32s(x, s, 2, 4);
    put_u64s(x, s, 4, 5);
}
void store_row_xattr(struct export *x, sqlite3_stmt *s, bool old)
{
    dmt_put_u64(&x->out, old ? store_col(s, 4) : 0);
    put_u64s(x, s, 3, 4);
    put_blob(x, s, 0);
    put_blob(x, s, 1);
    put_u64s(x, s, 2, 3);
}
static void row_content(struct export *x, sqlite3_stmt *s, bool old)
{
    (void)old;
    put_u64s(x, s, 3, 4);
    put_u64s(x, s, 1, 2);
    put_blob(x, s, 0);
    put_blob(x, s, 2);
}
static void row_extent(struct export *x, sqlite3_stmt *s, bool old)
{
    dmt_put_u64(&x->out, old ? store_col(s, 7) : 0);
    put_u64s(x, s, old ? 9 : 7, old ? 10 : 8); /* ino */
    put_u64s(x, s, 0, 3);
    put_u32s(x, s, 3, 4);
    put_u64s(x, s, 4, 5);
    put_u32s(x, s, 5, 6);
    put_u64s(x, s, 6, 7);
    bool data = old && sqlite3_column_type(s, 8) != SQLITE_NULL;
    dmt_put_u8(&x->out, data);
    if (data)
        put_blob(x, s, 8);
    else
        dmt_put_u32(&x->out, 0);
}
static void row_missing(struct export *x, sqlite3_stmt *s, bool old)
{
    (void)old;
    put_u64s(x, s, 0, 5);
    put_u32s(x, s, 5, 6);
    put_u64s(x, s, 6, 8);
    put_u32s(x, s, 8, 9);
}
void store_row_keep(struct export *x, sqlite3_stmt *s, bool old)
{
    (void)old;
    put_u64s(x, s, 0, 5);
}

struct table {
    enum store_sql id;
    enum stream_kind kind;
    bool old;
    void (*row)(struct export *x, sqlite3_stmt *s, bool old);
};
static const struct table g_tables[] = {
    {SQL_META_ALL, STREAM_META, false, store_row_meta},
    {SQL_EPOCH_ALL, STREAM_EPOCH, false, store_row_epoch},
    {SQL_SNAP_ALL, STREAM_SNAP, false, store_row_snap},
    {SQL_INODE_ALL, STREAM_INODE, false, store_row_inode},
    {SQL_INODE_H_ALL, STREAM_INODE, true, store_row_inode},
    {SQL_DENTRY_ALL, STREAM_DENTRY, false, store_row_dentry},
    {SQL_DENTRY_H_ALL, STREAM_DENTRY, true, store_row_dentry},
    {SQL_XATTR_ALL, STREAM_XATTR, false, store_row_xattr},
    {SQL_XATTR_H_ALL, STREAM_XATTR, true, store_row_xattr},
    {SQL_CONTENT_ALL, STREAM_CONTENT, false, row_content},
    {SQL_EXTENT_ALL, STREAM_EXTENT, false, row_extent},
    {SQL_EXTENT_H_ALL, STREAM_EXTENT, true, row_extent},
    {SQL_MISSING_ALL, STREAM_MISSING, false, row_missing},
    {SQL_KEEP_ALL, STREAM_KEEP, false, store_row_keep},
};

static int export_table(struct export *x, const struct table *t)
{
    sqlite3_stmt *s;
    int r = store_sql(&x->db, t->id, &s, "");
    while (r == 0 && (r = store_sql_step(&x->db, s)) > 0) {
        r = 0;
        const char *key = t->kind == STREAM_META ? (const char *)sqlite3_column_text(s, 0) : "";
        if (key[0] == '.')
            continue; /* the store's own: in HEAD and END */
        store_item_begin(x, t->kind);
        t->row(x, s, t->old);
        r = store_item_end(x);
    }
    store_sql_done(s);
    return r;
}

/* --- data files */

/* Ranges of a data file that rows refer to, and that are not missing: as HOLE pieces of a map. */
static int places(struct export *x, uint64_t ino, uint32_t serial, struct pmap *m)
{
    sqlite3_stmt *s;
    int r = store_sql(&x->db, SQL_FILE_PLACES, &s, "ii", ino, (uint64_t)serial);
    struct piece p = {.kind = PIECE_HOLE};
    while (r == 0 && (r = store_sql_step(&x->db, s)) > 0) {
        uint64_t off = store_col(s, 0), end = off + store_col(s, 1);
        r = 0;
        if (p.end && off <= p.end) { /* they come in order */
            p.end = end > p.end ? end : p.end;
            continue;
        }
        if (p.end)
            store_pmap_put(m, &p);
        p.off = off;
        p.end = end;
    }
    if (p.end)
        store_pmap_put(m, &p);
    if (r == 0)
        r = store_sql(&x->db, SQL_MISSING_AT, &s, "ii", ino, (uint64_t)serial);
    while (r == 0 && (r = store_sql_step(&x->db, s)) > 0) {
        store_pmap_cut(m, store_col(s, 0), store_col(s, 0) + store_col(s, 1), NULL, NULL);
        r = 0;
    }
    return r;
}

static int export_range(struct export *x, int fd, uint64_t ino, uint32_t serial, uint64_t off,
                        uint64_t end)
{
    const struct dmt_io *io = x->st->conf.io;
    int r = 0;
    for (uint64_t n; r == 0 && off < end; off += n) {
        n = end - off < STREAM_DATA_MAX ? end - off : STREAM_DATA_MAX;
        store_item_begin(x, STREAM_DATA);
        dmt_put_u64(&x->out, ino);
        dmt_put_u32(&x->out, serial);
        dmt_put_u64(&x->out, off);
        dmt_put_u32(&x->out, (uint32_t)n);
        uint8_t *to = dmt_buf_reserve(&x->out, n);
        if (!to)
            return -ENOMEM;
        ssize_t got = io->pread(io->ctx, fd, to, n, off);
        if (got < 0)
            return (int)got;
        if ((uint64_t)got != n)
            return dmt_err_set(x->err, DMT_E_CORRUPT,
                               "data file %llu.%u ends before the bytes its rows name",
                               (unsigned long long)ino, serial);
        r = store_item_end(x);
    }
    return r;
}

static int export_file(struct export *x, uint64_t ino, uint32_t serial, uint64_t hwm)
{
    store_item_begin(x, STREAM_FILE);
    dmt_put_u64(&x->out, ino);
    dmt_put_u32(&x->out, serial);
    dmt_put_u64(&x->out, hwm);
    int r = store_item_end(x);
    struct pmap m;
    store_pmap_init(&m);
    if (r == 0)
        r = places(x, ino, serial, &m);
    const struct dmt_io *io = x->st->conf.io;
    int fd = -1;
    if (r == 0 && m.n) {
        char path[PATH_MAX];
        store_file_path(x->st, ino, serial, path, sizeof(path));
        fd = io->open(io->ctx, path, O_RDONLY, 0);
        if (fd < 0)
            r = dmt_err_set(x->err, fd, "%s: %s", path, dmt_strerror(fd));
    }
    for (const struct piece *p = r == 0 ? store_pmap_first(&m) : NULL; r == 0 && p;
         p = store_pmap_next(p))
        r = export_range(x, fd, ino, serial, p->off, p->end);
    if (fd >= 0)
        io->close(io->ctx, fd);
    store_pmap_clear(&m);
    return r;
}

static int export_files(struct export *x)
{
    sqlite3_stmt *s;
    int r = store_sql(&x->db, SQL_DATAFILE_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(&x->db, s)) > 0)
        r = export_file(x, store_col(s, 0), store_col32(s, 1), store_col(s, 2));
    store_sql_done(s);
    return r;
}

/* --- the whole */

static int export_head(struct export *x, const struct dmt_pos *pos)
{
    store_item_begin(x, STREAM_HEAD);
    dmt_put_u64(&x->out, STREAM_MAGIC);
    dmt_put_u32(&x->out, STREAM_VERSION);
    dmt_put_raw(&x->out, x->st->ident.lineage, sizeof(x->st->ident.lineage));
    dmt_put_str(&x->out, x->st->ident.name);
    dmt_put_u64(&x->out, pos->epoch);
    dmt_put_u64(&x->out, pos->seq);
    dmt_put_u64(&x->out, pos->chain);
    return store_item_end(x);
}

static int export_end(struct export *x)
{
    static const char *const keys[] = {".inodes", ".live_bytes", ".pinned_bytes"};
    uint64_t sum = x->hash;
    store_item_begin(x, STREAM_END);
    for (size_t i = 0; i < 3; i++) {
        uint64_t v = 0;
        int r = store_db_meta_u64(&x->db, keys[i], &v);
        if (r < 0)
            return r;
        dmt_put_u64(&x->out, v);
    }
    dmt_put_u64(&x->out, sum);
    int r = store_item_end(x);
    if (r == 0 && x->out.len)
        r = x->emit(x->ctx, x->out.p, x->out.len);
    return r;
}

/* Waits for a moment without a running checkpoint, pins, and opens the read transaction there. */
int store_export_pin(struct export *x, const struct dmt_lockfn *lk, struct dmt_pos *ret_pos)
{
    struct dmt_store *st = x->st;
    for (;;) {
        lk->lock(lk->ctx);
        if (!st->running)
            break;
        lk->unlock(lk->ctx);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    int r;
    if (st->floor.seq > st->applied.seq) {
        r = dmt_err_set(x->err, DMT_E_RETRY,
                        "the last checkpoint did not finish; another one must come first");
    } else if ((r = store_exec(&x->db, SQL_BEGIN, "")) < 0 ||
               (r = store_db_pos(&x->db, ret_pos)) < 0) {
        r = store_db_fail(&x->db, x->err, "export");
    } else {
        DMT_ASSERT(ret_pos->seq == st->applied.seq);
        st->exports++;
    }
    lk->unlock(lk->ctx);
    return r;
}

int dmt_store_export(struct dmt_store *st, const struct dmt_lockfn *lk, struct dmt_pos *ret_pos,
                     int (*emit)(void *ctx, const void *p, size_t len), void *ctx,
                     struct dmt_err *err)
{
    struct dmt_err detail = {0};
    struct export x = {.st = st, .emit = emit, .ctx = ctx, .err = &detail};
    dmt_buf_init(&x.out);
    int r = store_db_open(&x.db, st->dir, STORE_DB_READ, err);
    if (r < 0)
        return r;
    r = store_export_pin(&x, lk, ret_pos);
    if (r < 0)
        goto out;
    r = export_head(&x, ret_pos);
    for (size_t i = 0; r == 0 && i < sizeof(g_tables) / sizeof(g_tables[0]); i++)
        r = export_table(&x, &g_tables[i]);
    if (r == 0)
        r = export_files(&x);
    if (r == 0)
        r = export_end(&x);
    lk->lock(lk->ctx);
    st->exports--;
    lk->unlock(lk->ctx);
out:
    store_db_close(&x.db);
    dmt_buf_free(&x.out);
    if (r < 0)
        dmt_err_set(err, r, "export: %s", detail.code ? detail.msg : dmt_strerror(r));
    return r < 0 ? r : 0;
}
