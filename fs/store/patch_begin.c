/* patch_begin.c: the database that a resync begins with.
 *
 * STORE/resync.db begins as a copy of workspace.db, without what the sender's history does not
 * have: inodes changed since the histories parted go, and all rows of the past if they did part.
 * What is there then is a state of the sender's, and the basis says which. Ranges that never came
 * and inodes that an audit found different are no part of it: they are asked for.
 * Failure modes: a damaged old store, or one whose last checkpoint did not finish, is not used: all
 * is sent, into fresh space (the marks of the data files are copied in any case). Thread: one at a
 * time.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/store/patch_int.h"

#define SUSPECT_MAX 4096u

/* Of the sender's history: which of what we have does it have, too? *ret: the position; 0:
 * nothing. */
static int common_state(struct dmt_patch *p, struct store_db *old, uint64_t common,
                        struct dmt_pos *ret)
{
    struct dmt_pos pos;
    unsigned slot;
    int r = store_db_pos(old, &pos);
    struct dmt_pos floor = pos;
    if (r < 0)
        return r;
    store_intent_read(p->conf.io, p->dir, &floor, &slot);
    *ret = pos;
    ret->seq = pos.seq < common ? pos.seq : common;
    if (floor.seq > pos.seq) /* bytes of later positions may be in place already */
        ret->seq = 0;
    return 0;
}

/* Bytes that never came: those ranges are asked for like what was never here. */
static int take_missing_out(struct dmt_patch *p)
{
    struct basis_seg none = {0};
    sqlite3_stmt *s;
    int r = store_sql(&p->db, SQL_MISSING_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        uint64_t ino = store_col(s, 0), off = store_col(s, 1), died = store_col(s, 7);
        r = 0;
        if (died) /* the past of this inode, whole */
            basis_set(&p->hist, ino, 0, ino + 1, 0, &none);
        else
            basis_set(&p->basis, ino, off, ino, off + store_col(s, 3), &none);
    }
    return r == 0 ? patch_run(
                        &p->db,
                        "DELETE FROM extent_h WHERE ino IN (SELECT ino FROM missing WHERE died<>0);"
                        "DELETE FROM missing")
                  : r;
}

/* The copy becomes a state of the sender's. */
static int trim(struct dmt_patch *p, uint64_t applied, uint64_t seq)
{
    char text[1400];
    sqlite3_stmt *s;
    uint64_t epoch = 0;
    int r = store_sql(&p->db, SQL_EPOCH_OF_SEQ, &s, "i", seq);
    if (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        epoch = store_col(s, 0);
        store_sql_done(s);
        r = 0;
    }
    bool parted = seq < applied;
    (void)snprintf(
        text, sizeof(text),
        "CREATE TEMP TABLE parted AS SELECT ino FROM inode WHERE seq>%lld;"
        "DELETE FROM dentry WHERE parent IN parted; DELETE FROM xattr WHERE ino IN parted;"
        "DELETE FROM content WHERE ino IN parted; DELETE FROM extent WHERE ino IN parted;"
        "DELETE FROM missing WHERE ino IN parted OR died<>0; DELETE FROM inode WHERE ino IN parted;"
        "DELETE FROM inode_h; DELETE FROM dentry_h; DELETE FROM xattr_h; DELETE FROM extent_h;"
        "DROP TABLE parted;",
        (long long)seq);
    if (r == 0 && parted)
        r = patch_run(&p->db, text);
    if (r == 0)
        r = patch_run(&p->db, "DELETE FROM garbage");
    basis_init(&p->basis, epoch, seq);
    basis_init(&p->hist, parted ? 0 : epoch, parted ? 0 : seq);
    return r == 0 ? take_missing_out(p) : r;
}

/* Inodes that an audit found different: 8 bytes each, little-endian. */
static int take_suspects_out(struct dmt_patch *p)
{
    struct basis_seg none = {0};
    char path[PATH_MAX], *text = NULL;
    size_t n = 0;
    patch_path(p->dir, "suspect", "", path);
    int r = dmt_io_read_file(p->conf.io, path, SUSPECT_MAX, &text, &n);
    if (r == -ENOENT)
        return 0;
    for (size_t i = 0; r == 0 && i + 8 <= n; i += 8) {
        uint64_t ino = dmt_le64(text + i);
        basis_set(&p->basis, ino, 0, ino + 1, 0, &none);
        basis_set(&p->hist, ino, 0, ino + 1, 0, &none);
        r = store_exec(&p->db, SQL_EXTENT_H_FORGET, "iiii", ino, (uint64_t)0, (uint64_t)0,
                       (uint64_t)INT64_MAX);
    }
    free(text);
    return r;
}

int dmt_patch_suspect(const struct dmt_io *io, const char *dir, uint64_t ino)
{
    char path[PATH_MAX];
    uint8_t all[SUSPECT_MAX + 8];
    char *text = NULL;
    size_t n = 0;
    patch_path(dir, "suspect", "", path);
    int r = dmt_io_read_file(io, path, SUSPECT_MAX, &text, &n);
    if (r < 0 && r != -ENOENT)
        return r;
    if (n > SUSPECT_MAX - 8)
        n = 0;
    if (n > 0)
        memcpy(all, text, n);
    free(text);
    dmt_st64(all + n, ino);
    return dmt_io_write_file(io, path, all, n + 8, 0600);
}

static int copy_pages(struct store_db *to, struct store_db *from)
{
    sqlite3_backup *b = sqlite3_backup_init(to->h, "main", from->h, "main");
    if (!b)
        return store_db_code(to);
    (void)sqlite3_backup_step(b, -1);
    return sqlite3_backup_finish(b) == SQLITE_OK ? 0 : store_db_code(to);
}

static int copy_marks(struct store_db *to, struct store_db *from)
{
    sqlite3_stmt *s;
    int r = from->h ? store_sql(from, SQL_DATAFILE_ALL, &s, "") : 0;
    while (r == 0 && from->h && (r = store_sql_step(from, s)) > 0)
        r = store_exec(to, SQL_DATAFILE_PUT, "iii", store_col(s, 0), store_col(s, 1),
                       store_col(s, 2));
    return r;
}

static int fill(struct dmt_patch *p, struct store_db *old, uint64_t common)
{
    struct dmt_pos at = {0}, pos = {0};
    int r = 0;
    if (old->h && (common_state(p, old, common, &at) < 0 || store_db_pos(old, &pos) < 0))
        at.seq = 0;
    if (at.seq > 0) {
        r = copy_pages(&p->db, old);
        if (r == 0)
            r = store_exec(&p->db, SQL_BEGIN_WRITE, "");
        if (r == 0)
            r = trim(p, pos.seq, at.seq);
        if (r == 0)
            r = take_suspects_out(p);
    } else {
        basis_init(&p->basis, 0, 0);
        basis_init(&p->hist, 0, 0);
        r = store_exec(&p->db, SQL_BEGIN_WRITE, "");
        if (r == 0)
            r = copy_marks(&p->db, old);
    }
    if (r == 0)
        r = patch_basis_write(p);
    return r == 0 ? store_exec(&p->db, SQL_COMMIT, "") : r;
}

int patch_make(struct dmt_patch *p, uint64_t common, struct dmt_err *err)
{
    const struct dmt_io *io = p->conf.io;
    char from[PATH_MAX], to[PATH_MAX];
    struct store_db old = {0};
    patch_remove_db(io, p->dir, PATCH_DB_FRESH);
    patch_path(p->dir, "workspace.db", "", from);
    if (access(from, F_OK) == 0)
        (void)store_db_open(&old, p->dir, STORE_DB_READ, NULL); /* or it is of no use */
    int r = store_db_open_as(&p->db, p->dir, PATCH_DB_FRESH, STORE_DB_CREATE, err);
    if (r == 0 && (r = fill(p, &old, common)) < 0)
        store_db_fail(&p->db, err, PATCH_DB_FRESH);
    store_db_close(&p->db);
    store_db_close(&old);
    patch_path(p->dir, PATCH_DB_FRESH, "", from);
    patch_path(p->dir, PATCH_DB, "", to);
    if (r == 0 &&
        ((r = io->rename(io->ctx, from, to)) < 0 || (r = io->sync_dir(io->ctx, p->dir)) < 0))
        dmt_err_set(err, r, "%s: %s", to, dmt_strerror(r));
    return r;
}
