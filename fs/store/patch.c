/* patch.c: the life of a store that is being made equal to another one's: begun, interrupted, gone
 * on with, closed. patch_begin.c makes the database that it begins with, patch_end.c the end.
 *
 * Items are applied (patch_rows.c) to STORE/resync.db in transactions of some thousand. The basis
 * (basis.c, meta key resync.basis) says what the rows show; each transaction commits it with them,
 * after the data files are durable, so an interruption costs what came since the last one. The old
 * database and every byte it refers to stay as they are until the end.
 *
 * Failure modes: DMT_E_HISTORY at an item or at the end: what is here is not what it should be; the
 * next attempt begins from nothing. Any other error: what was committed counts. Thread: one at a
 * time.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/store/patch_int.h"

#define ROWS_PER_COMMIT 20000u
#define DATA_PER_COMMIT (64u << 20)
#define NS_PER_COMMIT   (2 * DMT_S)

void patch_path(const char *dir, const char *name, const char *suffix, char buf[PATH_MAX])
{
    (void)snprintf(buf, PATH_MAX, "%.*s/%s%s", PATH_MAX - 64, dir, name, suffix);
}

void patch_remove_db(const struct dmt_io *io, const char *dir, const char *name)
{
    static const char *const parts[] = {"", "-wal", "-shm"};
    char path[PATH_MAX];
    for (size_t i = 0; i < 3; i++) {
        patch_path(dir, name, parts[i], path);
        if (access(path, F_OK) == 0)
            (void)io->unlink(io->ctx, path);
    }
}

enum dmt_patch_state dmt_patch_state(const char *dir)
{
    char path[PATH_MAX];
    patch_path(dir, PATCH_DB_NEXT, "", path);
    if (access(path, F_OK) == 0)
        return DMT_PATCH_COMPLETE;
    patch_path(dir, PATCH_DB, "", path);
    return access(path, F_OK) == 0 ? DMT_PATCH_PARTIAL : DMT_PATCH_NONE;
}

void dmt_patch_drop(const struct dmt_store_conf *conf)
{
    patch_remove_db(conf->io, conf->dir, PATCH_DB);
}

int patch_run(struct store_db *db, const char *text)
{
    return sqlite3_exec(db->h, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_db_code(db);
}

/* --- basis and commit */

int patch_basis_write(struct dmt_patch *p)
{
    struct dmt_buf b;
    dmt_buf_init(&b);
    basis_encode(&p->basis, &b);
    basis_encode(&p->hist, &b);
    int r = b.bad ? -ENOMEM : store_exec(&p->db, SQL_META_PUT, "tb", "resync.basis", b.p, b.len);
    dmt_buf_free(&b);
    return r < 0 ? r : store_db_meta_put_u64(&p->db, "resync", 1);
}

/* A database that has no basis is one that was finished and did not get its name: a whole state. */
static int basis_read(struct dmt_patch *p)
{
    sqlite3_stmt *s;
    struct dmt_pos pos;
    int r = store_sql(&p->db, SQL_META_GET, &s, "t", "resync.basis");
    if (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        struct dmt_cur c =
            dmt_cur_of(sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0));
        r = basis_decode(&p->basis, &c);
        if (r == 0)
            r = basis_decode(&p->hist, &c);
        store_sql_done(s);
        return r;
    }
    if (r == 0 && (r = store_db_pos(&p->db, &pos)) == 0) {
        basis_init(&p->basis, pos.epoch, pos.seq);
        basis_init(&p->hist, pos.epoch, pos.seq);
    }
    return r;
}

static int sync_data(struct dmt_patch *p)
{
    const struct dmt_io *io = p->conf.io;
    int r = patch_file_leave(p);
    if (r == 0 && io == dmt_io_real() && p->bytes > 0 && syncfs(p->sync_fd) < 0)
        r = -errno;
    for (unsigned i = 0; r == 0 && io != dmt_io_real() && i < 256; i++) {
        char path[PATH_MAX];
        if (!p->dirs[i])
            continue;
        snprintf(path, sizeof(path), "%s/data/%02x", p->dir, i);
        r = io->sync_dir(io->ctx, path);
        p->dirs[i] = r < 0;
    }
    p->bytes = r == 0 ? 0 : p->bytes;
    return r;
}

static uint64_t now_ns(struct dmt_patch *p)
{
    return p->conf.clock->monotonic_ns(p->conf.clock->ctx);
}

int patch_commit(struct dmt_patch *p)
{
    struct basis_seg s = {.epoch = p->pos.epoch, .seq = p->pos.seq}, none = {0};
    uint64_t at = p->live && !p->small ? p->at : 0;
    if (!p->begun)
        return 0;
    int r = patch_marks_write(p);
    if (r == 0)
        r = sync_data(p);
    if (r == 0 && p->ino) {
        basis_set(&p->basis, 0, 0, p->ino, at, &s);
        if (p->live && p->absent) /* what is still to come of it was not here before */
            basis_set(&p->basis, p->ino, at, p->ino + 1, 0, &none);
        basis_set(&p->hist, 0, 0, p->live ? p->ino + 1 : p->ino, p->live ? 0 : p->hist_at, &s);
    }
    if (r == 0)
        r = patch_basis_write(p);
    if (r == 0)
        r = store_exec(&p->db, SQL_COMMIT, "");
    if (r < 0)
        return r;
    p->begun = false;
    p->rows = 0;
    p->commit_ns = now_ns(p);
    sqlite3_wal_checkpoint_v2(p->db.h, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    return 0;
}

int patch_commit_when_due(struct dmt_patch *p)
{
    bool due = p->rows >= ROWS_PER_COMMIT || p->bytes >= DATA_PER_COMMIT ||
               now_ns(p) - p->commit_ns >= NS_PER_COMMIT;
    return due ? patch_commit(p) : 0;
}

/* The marks of the data files stay: the old database refers to what lies before them. */
int patch_restart(struct dmt_patch *p)
{
    basis_free(&p->basis);
    basis_free(&p->hist);
    basis_init(&p->basis, 0, 0);
    basis_init(&p->hist, 0, 0);
    return patch_run(
        &p->db,
        "DELETE FROM inode; DELETE FROM inode_h; DELETE FROM dentry; DELETE FROM dentry_h;"
        "DELETE FROM xattr; DELETE FROM xattr_h; DELETE FROM content; DELETE FROM extent;"
        "DELETE FROM extent_h; DELETE FROM garbage; DELETE FROM missing; DELETE FROM keep;");
}

/* --- begun, gone on with */

int dmt_patch_open(struct dmt_patch **ret, const struct dmt_store_conf *conf,
                   const struct dmt_store_ident *id, uint64_t common, struct dmt_err *err)
{
    if (strlen(conf->dir) > PATH_MAX - 64)
        return dmt_err_set(err, -ENAMETOOLONG, "path of the store is too long");
    int r = dmt_io_mkdirs(conf->io, conf->dir, 0700);
    if (r < 0)
        return dmt_err_set(err, r, "%s: %s", conf->dir, dmt_strerror(r));
    struct dmt_patch *p = store_zalloc(sizeof(*p));
    p->conf = *conf;
    p->dir = strdup(conf->dir);
    DMT_ASSERT(p->dir);
    p->conf.dir = p->dir;
    p->ident = *id;
    p->lock_fd = p->sync_fd = p->fd = -1;
    dmt_buf_init(&p->pending);
    if ((r = store_lock(conf, &p->lock_fd, err)) == 0)
        r = store_make_dirs(conf->io, p->dir, err);
    if (r == 0 && dmt_patch_state(p->dir) != DMT_PATCH_PARTIAL)
        r = patch_make(p, common, err);
    basis_free(&p->basis);
    basis_free(&p->hist);
    if (r == 0)
        r = store_db_open_as(&p->db, p->dir, PATCH_DB, STORE_DB_WRITE, err);
    if (r == 0 && (r = basis_read(p)) < 0)
        dmt_err_set(err, r, "%s: %s", PATCH_DB, dmt_strerror(r));
    if (r == 0 && (p->sync_fd = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        r = dmt_err_set(err, -errno, "%s: %s", p->dir, dmt_strerror(-errno));
    p->commit_ns = now_ns(p);
    if (r < 0) {
        dmt_patch_close(p);
        return r;
    }
    *ret = p;
    return 0;
}

int dmt_patch_statement(struct dmt_patch *p, struct dmt_buf *ret, struct dmt_err *err)
{
    int r = basis_statement(&p->db, &p->basis, &p->hist, ret);
    return r < 0 ? store_db_fail(&p->db, err, PATCH_DB) : 0;
}

/* --- taking */

/* What is here is not what the sender was told: everything is to be sent. */
static void distrust(struct dmt_patch *p)
{
    (void)store_exec(&p->db, SQL_ROLLBACK, "");
    p->begun = false;
    p->ino = 0;
    int r = store_exec(&p->db, SQL_BEGIN_WRITE, "");
    if (r == 0)
        r = patch_restart(p);
    if (r == 0)
        r = patch_basis_write(p);
    if (r == 0)
        r = store_exec(&p->db, SQL_COMMIT, "");
    if (r < 0)
        dmt_warn("%s/%s: SQLite: %s", p->dir, PATCH_DB, sqlite3_errmsg(p->db.h));
}

int patch_failed(struct dmt_patch *p, int r)
{
    if (r == DMT_E_HISTORY)
        distrust(p);
    p->failed = true;
    return r;
}

int dmt_patch_feed(struct dmt_patch *p, const void *data, size_t len, struct dmt_err *err)
{
    int r = p->failed ? DMT_E_CORRUPT : store_items_feed(&p->pending, data, len, patch_item, p);
    if (r < 0)
        r = dmt_err_set(err, patch_failed(p, r), "difference: %s", dmt_strerror(r));
    return r;
}

void dmt_patch_close(struct dmt_patch *p)
{
    if (!p)
        return;
    if (p->begun && !p->failed && patch_commit(p) < 0)
        dmt_warn("%s/%s: what came since the last commit is not kept", p->dir, PATCH_DB);
    if (p->fd >= 0)
        p->conf.io->close(p->conf.io->ctx, p->fd);
    store_pmap_clear(&p->small_map);
    store_db_close(&p->db); /* an open transaction is rolled back */
    basis_free(&p->basis);
    basis_free(&p->hist);
    dmt_buf_free(&p->pending);
    if (p->sync_fd >= 0)
        close(p->sync_fd);
    if (p->lock_fd >= 0)
        close(p->lock_fd);
    free(p->dir);
    free(p);
}
