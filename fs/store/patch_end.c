/* patch_end.c: the end of a resync: compared, complete, in the old store's place.
 *
 * The result is compared with what the sender counted. Then resync.db becomes workspace.db.next,
 * which is complete, and, once the caller has taken the old journal away, workspace.db; data files
 * that it does not name go. Failure modes: a result that differs is DMT_E_HISTORY: the next attempt
 * begins from nothing. The switch can be called again after an interruption. Thread: one at a time.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/base/hash.h"
#include "fs/store/patch_int.h"

static int one_number(struct store_db *db, const char *text, uint64_t *ret)
{
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(db->h, text, -1, &s, NULL) != SQLITE_OK)
        return store_db_code(db);
    int rc = sqlite3_step(s);
    *ret = rc == SQLITE_ROW ? store_col(s, 0) : 0;
    sqlite3_finalize(s);
    return rc == SQLITE_ROW ? 0 : store_db_code(db);
}

/* The same inodes at the same versions, with as many entries and bytes. */
static int compare(struct dmt_patch *p)
{
    uint64_t inodes = 0, live = 0, versions = 0, dentries = 0;
    sqlite3_stmt *s;
    int r = store_sql(&p->db, SQL_INODE_VERSIONS, &s, "");
    while (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        uint8_t v[24];
        for (int i = 0; i < 3; i++)
            dmt_st64(v + 8 * i, store_col(s, i));
        versions = dmt_hash64(versions, v, sizeof(v));
        live += store_col(s, 3);
        inodes++;
        r = 0;
    }
    if (r == 0)
        r = one_number(&p->db, "SELECT count(*) FROM dentry", &dentries);
    if (r < 0)
        return r;
    bool equal = inodes == p->inodes && live == p->live_bytes && versions == p->versions &&
                 dentries == p->dentries;
    return equal ? 0 : DMT_E_HISTORY;
}

/* Marks of data files that belong to no inode, or that its inode writes no more, and that no row
 * refers to. */
static int drop_idle(struct dmt_patch *p)
{
    struct spaces idle = {0};
    sqlite3_stmt *s;
    int r = store_sql(&p->db, SQL_DATAFILE_IDLE, &s, "");
    while (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        store_spaces_add(&idle, store_col(s, 0), store_col32(s, 1), 0, 0);
        r = 0;
    }
    for (size_t i = 0; r == 0 && i < idle.n; i++) {
        const struct space *sp = &idle.v[i];
        r = store_sql(&p->db, SQL_FILE_USED, &s, "ii", sp->ino, (uint64_t)sp->serial);
        if (r == 0)
            r = store_sql_step(&p->db, s);
        bool used = r > 0 && store_col(s, 0);
        if (r > 0)
            store_sql_done(s);
        if (r > 0)
            r = used ? 0
                     : store_exec(&p->db, SQL_DATAFILE_DEL, "ii", sp->ino, (uint64_t)sp->serial);
    }
    free(idle.v);
    return r;
}

/* Of the ranges that were cut out only those are free that nothing refers to. */
static int settle_garbage(struct dmt_patch *p)
{
    struct spaces cut = {0};
    sqlite3_stmt *s;
    int r = store_sql(&p->db, SQL_GARBAGE_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        store_spaces_add(&cut, store_col(s, 1), store_col32(s, 2), store_col(s, 3),
                         store_col(s, 4));
        r = 0;
    }
    if (r == 0)
        r = store_exec(&p->db, SQL_GARBAGE_CLEAR, "");
    for (size_t i = 0; r == 0 && i < cut.n; i++) {
        const struct space *sp = &cut.v[i];
        struct piece g = {.kind = PIECE_HOLE, .off = sp->foff, .end = sp->foff + sp->len};
        struct pmap m;
        store_pmap_init(&m);
        store_pmap_put(&m, &g);
        r = store_sql(&p->db, SQL_FILE_PLACES, &s, "ii", sp->ino, (uint64_t)sp->serial);
        while (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
            store_pmap_cut(&m, store_col(s, 0), store_col(s, 0) + store_col(s, 1), NULL, NULL);
            r = 0;
        }
        for (const struct piece *q = store_pmap_first(&m); r == 0 && q; q = store_pmap_next(q))
            if (q->end - q->off >= STORE_PUNCH_MIN)
                r = store_exec(&p->db, SQL_GARBAGE_PUT, "iiii", sp->ino, (uint64_t)sp->serial,
                               q->off, q->end - q->off);
        store_pmap_clear(&m);
    }
    free(cut.v);
    return r;
}

static int write_last(struct dmt_patch *p)
{
    uint64_t pinned = 0;
    int r = store_exec(&p->db, SQL_BEGIN_WRITE, "");
    if (r == 0)
        r = drop_idle(p);
    if (r == 0)
        r = settle_garbage(p);
    if (r == 0)
        r = one_number(&p->db, "SELECT coalesce(sum(len),0) FROM extent_h", &pinned);
    if (r == 0)
        r = store_ident_write(&p->db, &p->ident, &p->pos);
    if (r == 0)
        r = store_db_meta_put_u64(&p->db, ".inodes", p->inodes);
    if (r == 0)
        r = store_db_meta_put_u64(&p->db, ".live_bytes", p->live_bytes);
    if (r == 0)
        r = store_db_meta_put_u64(&p->db, ".pinned_bytes", pinned);
    if (r == 0) /* rows of the past that the sender had let go are looked for once */
        r = store_db_meta_put_u64(&p->db, ".sweep", 1);
    if (r == 0)
        r = patch_run(&p->db, "DELETE FROM meta WHERE key LIKE 'resync%'");
    return r == 0 ? store_exec(&p->db, SQL_COMMIT, "") : r;
}

static int to_next(struct dmt_patch *p)
{
    const struct dmt_io *io = p->conf.io;
    char from[PATH_MAX], to[PATH_MAX];
    store_db_close(&p->db); /* the last connection: the log goes into the file and is removed */
    patch_path(p->dir, PATCH_DB, "-wal", from);
    if (access(from, F_OK) == 0)
        return -EBUSY;
    patch_path(p->dir, PATCH_DB, "", from);
    patch_path(p->dir, PATCH_DB_NEXT, "", to);
    int r = io->rename(io->ctx, from, to);
    return r < 0 ? r : io->sync_dir(io->ctx, p->dir);
}

int dmt_patch_finish(struct dmt_patch *p, struct dmt_pos *ret_pos, struct dmt_err *err)
{
    int r = p->end && p->pending.len == 0 && !p->failed ? 0 : DMT_E_CORRUPT;
    if (r < 0) {
        dmt_err_set(err, r, "the difference ends too early");
        dmt_patch_close(p);
        return r;
    }
    if ((r = patch_leave(p)) == 0) {
        p->ino = UINT64_MAX;
        r = patch_commit(p); /* all is of this position */
    }
    if (r == 0)
        r = compare(p);
    if (r == 0)
        r = write_last(p);
    if (r == DMT_E_HISTORY)
        dmt_err_set(err, r, "the result differs from what the other machine has");
    else if (r < 0)
        store_db_fail(&p->db, err, "difference");
    else if ((r = to_next(p)) < 0)
        dmt_err_set(err, r, "%s/%s: %s", p->dir, PATCH_DB_NEXT, dmt_strerror(r));
    *ret_pos = p->pos;
    if (r < 0)
        patch_failed(p, r);
    dmt_patch_close(p);
    return r;
}

/* Data files that the new database does not name. */
static int sweep_files(const struct dmt_store_conf *conf, struct store_db *db)
{
    char path[PATH_MAX];
    int r = 0;
    for (unsigned i = 0; r == 0 && i < 256; i++) {
        (void)snprintf(path, sizeof(path), "%.*s/data/%02x", PATH_MAX - 400, conf->dir, i);
        DIR *d = opendir(path);
        if (!d)
            return -errno;
        for (const struct dirent *e; r == 0 && (e = readdir(d)) != NULL;) {
            unsigned long long ino;
            unsigned serial;
            sqlite3_stmt *s;
            if (sscanf(e->d_name, "%llu.%u", &ino, &serial) != 2)
                continue;
            r = store_sql(db, SQL_DATAFILE_GET, &s, "ii", (uint64_t)ino, (uint64_t)serial);
            if (r == 0 && (r = store_sql_step(db, s)) > 0) {
                store_sql_done(s);
                r = 0;
                continue;
            }
            (void)snprintf(path, sizeof(path), "%.*s/data/%02x/%s", PATH_MAX - 400, conf->dir, i,
                           e->d_name);
            if (r == 0)
                r = conf->io->unlink(conf->io->ctx, path);
        }
        closedir(d);
    }
    return r;
}

int dmt_patch_switch(const struct dmt_store_conf *conf, struct dmt_err *err)
{
    const struct dmt_io *io = conf->io;
    char from[PATH_MAX], to[PATH_MAX];
    struct store_db db;
    int r = store_db_open_as(&db, conf->dir, PATCH_DB_NEXT, STORE_DB_READ, err);
    if (r < 0)
        return r;
    r = sweep_files(conf, &db);
    store_db_close(&db);
    patch_path(conf->dir, "intent", "", to);
    if (r == 0 && (r = io->unlink(io->ctx, to)) == -ENOENT)
        r = 0;
    patch_path(conf->dir, "suspect", "", to);
    if (r == 0 && (r = io->unlink(io->ctx, to)) == -ENOENT)
        r = 0;
    if (r == 0) {
        patch_remove_db(io, conf->dir, PATCH_DB);
        patch_path(conf->dir, "workspace.db", "-wal", to);
        if (access(to, F_OK) == 0)
            r = io->unlink(io->ctx, to);
    }
    patch_path(conf->dir, PATCH_DB_NEXT, "", from);
    patch_path(conf->dir, "workspace.db", "", to);
    if (r == 0)
        r = io->rename(io->ctx, from, to);
    if (r == 0)
        r = io->sync_dir(io->ctx, conf->dir);
    return r < 0 ? dmt_err_set(err, r, "%s: %s", to, dmt_strerror(r)) : 0;
}
