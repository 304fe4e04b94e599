/* import.c: fills a store from a state stream (export.c): first synchronisation, restore.
 *
 * Happy path: begin marks the directory "resync" durably, before anything is lost, and empties it;
 * feed takes the stream in any chunks, writes rows in transactions of some thousand and bytes to
 * the same places they had at the source (a by-reference write's place follows from serial and
 * high-water mark, so they must be the same everywhere); finish demands the END item with the right
 * hash, makes the data files durable, and in one last transaction sets identity, position and
 * counters and removes the mark. So a store is either complete or marked. Failure modes: damage in
 * the stream is DMT_E_CORRUPT; every error leaves the mark; nothing of the old content is left
 * then. Thread: one at a time, any.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/hash.h"
#include "fs/store/internal.h"
#include "fs/store/stream.h"
#include "fs/store/stream_int.h"

#define ROWS_PER_COMMIT 20000u

struct dmt_import {
    struct dmt_store_conf conf;
    char *dir;
    int lock_fd,
        /* sync_fd: of the data directory, opened first, so that syncfs reports every error since */
        sync_fd;
    struct store_db db;
    struct dmt_store_ident ident;
    struct dmt_buf pending; /* an item not yet whole */
    uint64_t hash;
    struct dmt_pos pos;
    uint64_t inodes, live_bytes, pinned_bytes;
    uint64_t rows; /* since the last commit */
    bool head, end;
    int fd; /* of the data file written last */
    uint64_t fd_ino;
    uint32_t fd_serial;
};

/* --- begin */

const char store_wipe_sql[] =
    "BEGIN IMMEDIATE; DELETE FROM inode; DELETE FROM inode_h; DELETE FROM dentry; DELETE FROM dentry_h; DELETE FROM xattr;"
    "DELETE FROM xattr_h; DELETE FROM content; DELETE FROM extent; DELETE FROM extent_h; DELETE FROM datafile;"
    "DELETE FROM garbage; DELETE FROM missing; DELETE FROM keep; DELETE FROM snapshot; DELETE FROM epoch;"
    "DELETE FROM meta WHERE key<>'resync'; COMMIT;";

/* The old database, marked; or a new one with the mark in it before it gets its name. */
static int open_marked(struct dmt_import *im, struct dmt_err *err)
{
    const struct dmt_io *io = im->conf.io;
    char path[PATH_MAX], fresh[PATH_MAX + 8];
    snprintf(path, sizeof(path), "%s/workspace.db", im->dir);
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    if (access(path, F_OK) == 0 && store_db_open(&im->db, im->dir, STORE_DB_WRITE, NULL) == 0) {
        if (store_db_meta_put_u64(&im->db, "resync", 1) == 0)
            return 0;
        store_db_close(&im->db);
    }
    unlink(fresh);
    int r = store_db_open(&im->db, im->dir, STORE_DB_CREATE, err);
    if (r < 0)
        return r;
    if ((r = store_db_meta_put_u64(&im->db, "resync", 1)) < 0)
        store_db_fail(&im->db, err, "new store");
    store_db_close(&im->db);
    if (r < 0)
        return r;
    /* The log of a database that could not be opened must not be taken for the new one's. */
    char log[PATH_MAX + 8];
    snprintf(log, sizeof(log), "%s-wal", path);
    unlink(log);
    snprintf(log, sizeof(log), "%s-shm", path);
    unlink(log);
    if ((r = io->rename(io->ctx, fresh, path)) < 0 || (r = io->sync_dir(io->ctx, im->dir)) < 0)
        return dmt_err_set(err, r, "%s: %s", path, dmt_strerror(r));
    return store_db_open(&im->db, im->dir, STORE_DB_WRITE, err);
}

static int wipe_data(struct dmt_import *im)
{
    const struct dmt_io *io = im->conf.io;
    char path[PATH_MAX + 300];
    int r = 0;
    for (unsigned i = 0; r == 0 && i < 256; i++) {
        snprintf(path, sizeof(path), "%s/data/%02x", im->dir, i);
        DIR *d = opendir(path);
        if (!d)
            return -errno;
        for (const struct dirent *e; r == 0 && (e = readdir(d)) != NULL;) {
            if (e->d_name[0] == '.')
                continue;
            snprintf(path, sizeof(path), "%s/data/%02x/%s", im->dir, i, e->d_name);
            r = io->unlink(io->ctx, path);
        }
        closedir(d);
    }
    snprintf(path, sizeof(path), "%s/intent", im->dir);
    if (r == 0 && (r = io->unlink(io->ctx, path)) == -ENOENT)
        r = 0;
    return r;
}

int dmt_store_import_begin(struct dmt_import **ret, const struct dmt_store_conf *conf,
                           const struct dmt_store_ident *id, struct dmt_err *err)
{
    if (strlen(conf->dir) > PATH_MAX - 64)
        return dmt_err_set(err, -ENAMETOOLONG, "path of the store is too long");
    int r = dmt_io_mkdirs(conf->io, conf->dir, 0700);
    if (r < 0)
        return dmt_err_set(err, r, "%s: %s", conf->dir, dmt_strerror(r));
    struct dmt_import *im = store_zalloc(sizeof(*im));
    im->conf = *conf;
    im->dir = strdup(conf->dir);
    DMT_ASSERT(im->dir);
    im->conf.dir = im->dir;
    im->ident = *id;
    im->lock_fd = im->sync_fd = im->fd = -1;
    dmt_buf_init(&im->pending);
    if ((r = store_lock(conf, &im->lock_fd, err)) < 0 ||
        (r = store_make_dirs(conf->io, im->dir, err)) < 0 || (r = open_marked(im, err)) < 0)
        goto fail;
    if (sqlite3_exec(im->db.h, store_wipe_sql, NULL, NULL, NULL) != SQLITE_OK) {
        r = store_db_fail(&im->db, err, "emptying the store");
        goto fail;
    }
    if ((r = wipe_data(im)) < 0) {
        dmt_err_set(err, r, "emptying %s/data: %s", im->dir, dmt_strerror(r));
        goto fail;
    }
    im->sync_fd = open(im->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (im->sync_fd < 0) {
        r = dmt_err_set(err, -errno, "%s: %s", im->dir, dmt_strerror(-errno));
        goto fail;
    }
    *ret = im;
    return 0;
fail:
    dmt_store_import_abort(im);
    return r;
}

/* --- data */

/* With a test's disk each file is synced through its table; on a real one a single syncfs at the
 * end does for all. */
static int leave_file(struct dmt_import *im)
{
    const struct dmt_io *io = im->conf.io;
    if (im->fd < 0)
        return 0;
    int r = io == dmt_io_real() ? 0 : io->fdatasync(io->ctx, im->fd);
    int r_close = io->close(io->ctx, im->fd);
    im->fd = -1;
    return r < 0 ? r : r_close;
}

static int take_data(struct dmt_import *im, struct dmt_cur *c)
{
    const struct dmt_io *io = im->conf.io;
    uint64_t ino = dmt_get_u64(c);
    uint32_t serial = dmt_get_u32(c), n;
    uint64_t foff = dmt_get_u64(c);
    const uint8_t *p = dmt_get_bytes(c, &n);
    if (dmt_cur_end(c) || foff > DMT_FILE_SIZE_MAX || n > STREAM_DATA_MAX)
        return DMT_E_CORRUPT;
    if (im->fd < 0 || im->fd_ino != ino || im->fd_serial != serial) {
        int r = leave_file(im);
        if (r < 0)
            return r;
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s/data/%02x/%llu.%u", im->dir, (unsigned)(ino & 0xff),
                 (unsigned long long)ino, serial);
        if ((im->fd = io->open(io->ctx, path, O_RDWR | O_CREAT, 0600)) < 0)
            return im->fd;
        im->fd_ino = ino;
        im->fd_serial = serial;
    }
    ssize_t w = io->pwrite(io->ctx, im->fd, p, n, foff);
    return w < 0 ? (int)w : 0;
}

/* --- rows */

static int take_head(struct dmt_import *im, struct dmt_cur *c)
{
    char name[DMT_WS_NAME_MAX + 1];
    uint64_t magic = dmt_get_u64(c);
    uint32_t version = dmt_get_u32(c);
    if (c->bad || magic != STREAM_MAGIC)
        return DMT_E_CORRUPT;
    if (version != STREAM_VERSION)
        return DMT_E_VERSION;
    dmt_get_raw(
        c, sizeof(im->ident.lineage)); /* of the source; this store's own is the caller's choice */
    dmt_get_str(c, name, sizeof(name));
    im->pos = (struct dmt_pos){.epoch = dmt_get_u64(c)};
    im->pos.seq = dmt_get_u64(c);
    im->pos.chain = dmt_get_u64(c);
    im->head = true;
    return dmt_cur_end(c);
}

int store_take_meta(struct store_db *db, struct dmt_cur *c)
{
    char key[DMT_XATTR_NAME_MAX + 1];
    uint32_t n;
    dmt_get_str(c, key, sizeof(key));
    const uint8_t *v = dmt_get_bytes(c, &n);
    if (dmt_cur_end(c) || key[0] == '.' || strcmp(key, "resync") == 0)
        return DMT_E_CORRUPT;
    return store_exec(db, SQL_META_PUT, "tb", key, v, (size_t)n);
}

int store_take_epoch(struct store_db *db, struct dmt_cur *c)
{
    struct dmt_epoch_row e = {.epoch = dmt_get_u64(c)};
    e.parent = dmt_get_u64(c);
    e.switch_seq = dmt_get_u64(c);
    e.switch_chain = dmt_get_u64(c);
    e.time_ns = dmt_get_u64(c);
    dmt_get_str(c, e.node, sizeof(e.node));
    dmt_get_str(c, e.reason, sizeof(e.reason));
    if (dmt_cur_end(c))
        return DMT_E_CORRUPT;
    return store_exec(db, SQL_EPOCH_PUT, "iiiiitt", e.epoch, e.parent, e.switch_seq, e.switch_chain,
                      e.time_ns, e.node, e.reason);
}

int store_take_snap(struct store_db *db, struct dmt_cur *c)
{
    struct dmt_snapshot s = {.serial = dmt_get_u64(c)};
    s.seq = dmt_get_u64(c);
    s.epoch = dmt_get_u64(c);
    s.time_ns = dmt_get_u64(c);
    dmt_get_str(c, s.name, sizeof(s.name));
    dmt_get_str(c, s.note, sizeof(s.note));
    if (dmt_cur_end(c))
        return DMT_E_CORRUPT;
    return store_exec(db, SQL_SNAP_PUT, "iiiitt", s.serial, s.seq, s.epoch, s.time_ns, s.name,
                      s.note);
}

int store_get_inode(struct dmt_cur *c, struct dmt_inode *n, uint64_t *ret_alloc, uint64_t *ret_died)
{
    *ret_died = dmt_get_u64(c);
    *n = (struct dmt_inode){.ino = dmt_get_u64(c)};
    n->mode = dmt_get_u32(c);
    n->nlink = dmt_get_u32(c);
    n->uid = dmt_get_u32(c);
    n->gid = dmt_get_u32(c);
    n->rdev = dmt_get_u32(c);
    n->flags = dmt_get_u32(c);
    n->size = dmt_get_u64(c);
    n->atime = dmt_get_u64(c);
    n->mtime = dmt_get_u64(c);
    n->ctime = dmt_get_u64(c);
    n->btime = dmt_get_u64(c);
    n->parent = dmt_get_u64(c);
    n->next_cookie = dmt_get_u32(c);
    n->epoch = dmt_get_u64(c);
    n->seq = dmt_get_u64(c);
    *ret_alloc = dmt_get_u64(c);
    bool bad = dmt_cur_end(c) || n->ino == 0 || n->ino >> DMT_INO_BITS || n->size > INT64_MAX;
    return bad ? DMT_E_CORRUPT : 0;
}

static int take_inode(struct store_db *db, struct dmt_cur *c)
{
    struct dmt_inode n;
    uint64_t alloc, died;
    int r = store_get_inode(c, &n, &alloc, &died);
    return r < 0 ? r
                 : store_inode_bind(db, died ? SQL_INODE_H_PUT : SQL_INODE_PUT, &n, alloc, died);
}

int store_take_dentry(struct store_db *db, struct dmt_cur *c)
{
    uint64_t died = dmt_get_u64(c), parent = dmt_get_u64(c);
    uint32_t n;
    const uint8_t *name = dmt_get_bytes(c, &n);
    uint64_t ino = dmt_get_u64(c);
    uint64_t cookie = dmt_get_u32(c), type = dmt_get_u32(c), born = dmt_get_u64(c);
    if (dmt_cur_end(c) || n == 0 || n > DMT_NAME_MAX)
        return DMT_E_CORRUPT;
    if (died)
        return store_exec(db, SQL_DENTRY_H_PUT, "ibiiiii", parent, name, (size_t)n, ino, cookie,
                          type, born, died);
    return store_exec(db, SQL_DENTRY_PUT, "ibiiii", parent, name, (size_t)n, ino, cookie, type,
                      born);
}

int store_take_xattr(struct store_db *db, struct dmt_cur *c)
{
    uint64_t died = dmt_get_u64(c), ino = dmt_get_u64(c);
    uint32_t n, len;
    const uint8_t *name = dmt_get_bytes(c, &n), *value = dmt_get_bytes(c, &len);
    uint64_t born = dmt_get_u64(c);
    if (dmt_cur_end(c) || n == 0 || n > DMT_XATTR_NAME_MAX || len > DMT_XATTR_VALUE_MAX)
        return DMT_E_CORRUPT;
    if (died)
        return store_exec(db, SQL_XATTR_H_PUT, "ibbii", ino, name, (size_t)n, value, (size_t)len,
                          born, died);
    return store_exec(db, SQL_XATTR_PUT, "ibbi", ino, name, (size_t)n, value, (size_t)len, born);
}

static int take_content(struct store_db *db, struct dmt_cur *c)
{
    uint64_t ino = dmt_get_u64(c), born = dmt_get_u64(c);
    uint32_t n, map_n;
    const uint8_t *data = dmt_get_bytes(c, &n), *map = dmt_get_bytes(c, &map_n);
    if (dmt_cur_end(c) || n > DMT_SMALL_MAX)
        return DMT_E_CORRUPT;
    return store_exec(db, SQL_CONTENT_PUT, map_n ? "ibib" : "ibin", ino, data, (size_t)n, born, map,
                      (size_t)map_n);
}

static int take_extent(struct store_db *db, struct dmt_cur *c)
{
    uint64_t died = dmt_get_u64(c), ino = dmt_get_u64(c), off = dmt_get_u64(c),
             len = dmt_get_u64(c), owner = dmt_get_u64(c);
    uint64_t serial = dmt_get_u32(c), foff = dmt_get_u64(c), flags = dmt_get_u32(c),
             born = dmt_get_u64(c);
    bool has_data = dmt_get_u8(c) != 0;
    uint32_t n;
    const uint8_t *data = dmt_get_bytes(c, &n);
    if (dmt_cur_end(c) || len == 0 || off > DMT_FILE_SIZE_MAX || len > DMT_FILE_SIZE_MAX ||
        foff > DMT_FILE_SIZE_MAX || flags > 3 || n > DMT_SMALL_MAX || (has_data && n != len) ||
        (has_data && !died))
        return DMT_E_CORRUPT;
    if (!died)
        return store_exec(db, SQL_EXTENT_PUT, "iiiiiiii", ino, off, len, owner, serial, foff, flags,
                          born);
    return store_exec(db, SQL_EXTENT_H_PUT, has_data ? "iiiiiiiiib" : "iiiiiiiiin", ino, off, len,
                      owner, serial, foff, flags, born, died, data, (size_t)n);
}

static int take_file(struct store_db *db, struct dmt_cur *c)
{
    uint64_t ino = dmt_get_u64(c), serial = dmt_get_u32(c), hwm = dmt_get_u64(c);
    return dmt_cur_end(c) ? DMT_E_CORRUPT
                          : store_exec(db, SQL_DATAFILE_PUT, "iii", ino, serial, hwm);
}

static int take_missing(struct store_db *db, struct dmt_cur *c)
{
    uint64_t ino = dmt_get_u64(c), off = dmt_get_u64(c), seq = dmt_get_u64(c), len = dmt_get_u64(c),
             owner = dmt_get_u64(c);
    uint64_t serial = dmt_get_u32(c), foff = dmt_get_u64(c), died = dmt_get_u64(c),
             shared = dmt_get_u32(c);
    if (dmt_cur_end(c) || len == 0 || len > DMT_FILE_SIZE_MAX || off > DMT_FILE_SIZE_MAX)
        return DMT_E_CORRUPT;
    return store_exec(db, SQL_MISSING_PUT, "iiiiiiiii", ino, off, seq, len, owner, serial, foff,
                      died, shared);
}

int store_take_keep(struct store_db *db, struct dmt_cur *c)
{
    uint64_t ino = dmt_get_u64(c), src = dmt_get_u64(c), view = dmt_get_u64(c),
             size = dmt_get_u64(c), mtime = dmt_get_u64(c);
    return dmt_cur_end(c) ? DMT_E_CORRUPT
                          : store_exec(db, SQL_KEEP_PUT, "iiiii", ino, src, view, size, mtime);
}

static int take_end(struct dmt_import *im, struct dmt_cur *c)
{
    im->inodes = dmt_get_u64(c);
    im->live_bytes = dmt_get_u64(c);
    im->pinned_bytes = dmt_get_u64(c);
    uint64_t sum = dmt_get_u64(c);
    if (dmt_cur_end(c) || sum != im->hash)
        return DMT_E_CORRUPT;
    im->end = true;
    return 0;
}

static int (*const g_rows[])(struct store_db *db, struct dmt_cur *c) = {
    [STREAM_META] = store_take_meta,     [STREAM_EPOCH] = store_take_epoch,
    [STREAM_SNAP] = store_take_snap,     [STREAM_INODE] = take_inode,
    [STREAM_DENTRY] = store_take_dentry, [STREAM_XATTR] = store_take_xattr,
    [STREAM_CONTENT] = take_content,     [STREAM_EXTENT] = take_extent,
    [STREAM_FILE] = take_file,           [STREAM_MISSING] = take_missing,
    [STREAM_KEEP] = store_take_keep,     [STREAM_END] = NULL,
};

static int take_payload(struct dmt_import *im, uint8_t kind, struct dmt_cur *c)
{
    switch (kind) {
    case STREAM_HEAD:
        return take_head(im, c);
    case STREAM_DATA:
        return take_data(im, c);
    case STREAM_END:
        return take_end(im, c);
    default:
        return g_rows[kind](&im->db, c);
    }
}

static int take_item(void *ctx, const uint8_t *p, size_t len)
{
    struct dmt_import *im = ctx;
    uint8_t kind = p[0];
    if (kind < STREAM_HEAD || kind > STREAM_END || im->end || (kind == STREAM_HEAD) == im->head)
        return DMT_E_CORRUPT;
    int r = 0;
    if (im->rows == 0)
        r = store_exec(&im->db, SQL_BEGIN_WRITE, "");
    struct dmt_cur c = dmt_cur_of(p + STREAM_HEADER, len - STREAM_HEADER);
    if (r == 0)
        r = take_payload(im, kind, &c);
    if (r < 0)
        return r;
    im->hash = dmt_hash64(im->hash, p, len);
    if (++im->rows < ROWS_PER_COMMIT)
        return 0;
    im->rows = 0;
    if ((r = store_exec(&im->db, SQL_COMMIT, "")) < 0)
        return r;
    sqlite3_wal_checkpoint_v2(im->db.h, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    return 0;
}

/* Whole items at p; returns how much was used, or < 0. */
static ssize_t take_items(const uint8_t *p, size_t len, store_take_fn take, void *ctx)
{
    size_t at = 0;
    while (len - at >= STREAM_HEADER) {
        size_t n = dmt_le32(p + at + 1);
        if (n > STREAM_ITEM_MAX)
            return DMT_E_CORRUPT;
        if (len - at - STREAM_HEADER < n)
            break;
        int r = take(ctx, p + at, STREAM_HEADER + n);
        if (r < 0)
            return r;
        at += STREAM_HEADER + n;
    }
    return (ssize_t)at;
}

int store_items_feed(struct dmt_buf *pending, const void *p, size_t len, store_take_fn take,
                     void *ctx)
{
    ssize_t used;
    if (pending->len == 0) { /* the usual case takes no copy */
        used = take_items(p, len, take, ctx);
        if (used >= 0)
            dmt_put_raw(pending, (const uint8_t *)p + used, len - (size_t)used);
    } else {
        dmt_put_raw(pending, p, len);
        used = pending->bad ? -ENOMEM : take_items(pending->p, pending->len, take, ctx);
        if (used > 0) {
            pending->len -= (size_t)used;
            memmove(pending->p, pending->p + used, pending->len);
        }
    }
    return used < 0 ? (int)used : pending->bad ? -ENOMEM : 0;
}

int dmt_store_import_feed(struct dmt_import *im, const void *p, size_t len, struct dmt_err *err)
{
    int r = store_items_feed(&im->pending, p, len, take_item, im);
    return r < 0 ? dmt_err_set(err, r, "state stream: %s", dmt_strerror(r)) : 0;
}

/* --- end */

static int sync_data(struct dmt_import *im)
{
    const struct dmt_io *io = im->conf.io;
    int r = leave_file(im);
    if (r == 0 && io == dmt_io_real() && syncfs(im->sync_fd) < 0)
        r = -errno;
    for (unsigned i = 0; r == 0 && io != dmt_io_real() && i < 256; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s/data/%02x", im->dir, i);
        r = io->sync_dir(io->ctx, path);
    }
    return r;
}

static int write_last(struct dmt_import *im)
{
    int r = im->rows ? 0 : store_exec(&im->db, SQL_BEGIN_WRITE, "");
    if (r == 0)
        r = store_ident_write(&im->db, &im->ident, &im->pos);
    if (r == 0)
        r = store_db_meta_put_u64(&im->db, ".inodes", im->inodes);
    if (r == 0)
        r = store_db_meta_put_u64(&im->db, ".live_bytes", im->live_bytes);
    if (r == 0)
        r = store_db_meta_put_u64(&im->db, ".pinned_bytes", im->pinned_bytes);
    if (r == 0)
        r = store_db_meta_put_u64(
            &im->db, ".sweep",
            1); /* rows that lost their snapshot just before are looked for once */
    if (r == 0)
        r = store_exec(&im->db, SQL_META_DEL, "t", "resync");
    if (r == 0)
        r = store_exec(&im->db, SQL_COMMIT, "");
    return r;
}

int dmt_store_import_finish(struct dmt_import *im, struct dmt_pos *ret_pos, struct dmt_err *err)
{
    int r = im->end && im->pending.len == 0 ? 0 : DMT_E_CORRUPT;
    if (r < 0) {
        dmt_err_set(err, r, "the state stream ends too early");
    } else if ((r = sync_data(im)) < 0) {
        dmt_err_set(err, r, "data files: %s", dmt_strerror(r));
    } else if ((r = write_last(im)) < 0) {
        store_db_fail(&im->db, err, "state stream");
    } else {
        *ret_pos = im->pos;
    }
    dmt_store_import_abort(im);
    return r;
}

void dmt_store_import_abort(struct dmt_import *im)
{
    if (!im)
        return;
    if (im->fd >= 0)
        im->conf.io->close(im->conf.io->ctx, im->fd);
    store_db_close(&im->db); /* an open transaction is rolled back */
    dmt_buf_free(&im->pending);
    if (im->sync_fd >= 0)
        close(im->sync_fd);
    if (im->lock_fd >= 0)
        close(im->lock_fd);
    free(im->dir);
    free(im);
}
