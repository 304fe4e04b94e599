/* patch.c: the life of a store that is being made equal to another one's: begun, interrupted, gone
 * on with, finished, put in the old one's place.
 *
 * STORE/resync.db begins as a copy of workspace.db, without what the sender's history does not
 * have: inodes changed since the histories parted go, and all rows of the past if they did part.
 * What is there then is a state of the sender's, and the basis (basis.c, meta key resync.basis)
 * says which. Items are applied (patch_rows.c) in transactions of some thousand; each commits the
 * basis with them, after the data files are durable, so an interruption costs what came since the
 * last one. At the end the result is compared with what the sender counted; then resync.db becomes
 * workspace.db.next, and, once the caller has taken the old journal away, workspace.db.
 * The old database and every byte it refers to stay as they are until that.
 *
 * Failure modes: a damaged old store, or one whose last checkpoint did not finish, is not used: all
 * is sent. DMT_E_HISTORY at an item or at the end: what is here is not what it should be; the next
 * attempt begins from nothing. Any other error: what was committed counts. Thread: one at a time.
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
#include "fs/store/patch_int.h"

#define DB_NAME         "resync.db"
#define DB_FRESH        "resync.db.new"
#define DB_NEXT         "workspace.db.next"
#define ROWS_PER_COMMIT 20000u
#define DATA_PER_COMMIT (64u << 20)
#define SUSPECT_MAX     4096u
#define NS_PER_COMMIT   (2 * DMT_S)

static void path_of(const char *dir, const char *name, const char *suffix, char buf[PATH_MAX])
{
    (void)snprintf(buf, PATH_MAX, "%.*s/%s%s", PATH_MAX - 64, dir, name, suffix);
}

static void remove_db(const struct dmt_io *io, const char *dir, const char *name)
{
    static const char *const parts[] = {"", "-wal", "-shm"};
    char path[PATH_MAX];
    for (size_t i = 0; i < 3; i++) {
        path_of(dir, name, parts[i], path);
        if (access(path, F_OK) == 0)
            (void)io->unlink(io->ctx, path);
    }
}

enum dmt_patch_state dmt_patch_state(const char *dir)
{
    char path[PATH_MAX];
    path_of(dir, DB_NEXT, "", path);
    if (access(path, F_OK) == 0)
        return DMT_PATCH_COMPLETE;
    path_of(dir, DB_NAME, "", path);
    return access(path, F_OK) == 0 ? DMT_PATCH_PARTIAL : DMT_PATCH_NONE;
}

void dmt_patch_drop(const struct dmt_store_conf *conf)
{
    remove_db(conf->io, conf->dir, DB_NAME);
}

static int run(struct store_db *db, const char *text)
{
    return sqlite3_exec(db->h, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_db_code(db);
}

/* --- basis and commit */

static int basis_write(struct dmt_patch *p)
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
        r = basis_write(p);
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
    return run(&p->db,
               "DELETE FROM inode; DELETE FROM inode_h; DELETE FROM dentry; DELETE FROM dentry_h;"
               "DELETE FROM xattr; DELETE FROM xattr_h; DELETE FROM content; DELETE FROM extent;"
               "DELETE FROM extent_h; DELETE FROM garbage; DELETE FROM missing; DELETE FROM keep;");
}

/* --- beginning */

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
    return r == 0 ? run(&p->db,
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
        r = run(&p->db, text);
    if (r == 0)
        r = run(&p->db, "DELETE FROM garbage");
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
    path_of(p->dir, "suspect", "", path);
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
    path_of(dir, "suspect", "", path);
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
        r = basis_write(p);
    return r == 0 ? store_exec(&p->db, SQL_COMMIT, "") : r;
}

static int make(struct dmt_patch *p, uint64_t common, struct dmt_err *err)
{
    const struct dmt_io *io = p->conf.io;
    char from[PATH_MAX], to[PATH_MAX];
    struct store_db old = {0};
    remove_db(io, p->dir, DB_FRESH);
    path_of(p->dir, "workspace.db", "", from);
    if (access(from, F_OK) == 0)
        (void)store_db_open(&old, p->dir, STORE_DB_READ, NULL); /* or it is of no use */
    int r = store_db_open_as(&p->db, p->dir, DB_FRESH, STORE_DB_CREATE, err);
    if (r == 0 && (r = fill(p, &old, common)) < 0)
        store_db_fail(&p->db, err, DB_FRESH);
    store_db_close(&p->db);
    store_db_close(&old);
    path_of(p->dir, DB_FRESH, "", from);
    path_of(p->dir, DB_NAME, "", to);
    if (r == 0 &&
        ((r = io->rename(io->ctx, from, to)) < 0 || (r = io->sync_dir(io->ctx, p->dir)) < 0))
        dmt_err_set(err, r, "%s: %s", to, dmt_strerror(r));
    return r;
}

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
        r = make(p, common, err);
    basis_free(&p->basis);
    basis_free(&p->hist);
    if (r == 0)
        r = store_db_open_as(&p->db, p->dir, DB_NAME, STORE_DB_WRITE, err);
    if (r == 0 && (r = basis_read(p)) < 0)
        dmt_err_set(err, r, "%s: %s", DB_NAME, dmt_strerror(r));
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
    return r < 0 ? store_db_fail(&p->db, err, DB_NAME) : 0;
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
        r = basis_write(p);
    if (r == 0)
        r = store_exec(&p->db, SQL_COMMIT, "");
    if (r < 0)
        dmt_warn("%s/%s: SQLite: %s", p->dir, DB_NAME, sqlite3_errmsg(p->db.h));
}

static int failed(struct dmt_patch *p, int r)
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
        r = dmt_err_set(err, failed(p, r), "difference: %s", dmt_strerror(r));
    return r;
}

void dmt_patch_close(struct dmt_patch *p)
{
    if (!p)
        return;
    if (p->begun && !p->failed && patch_commit(p) < 0)
        dmt_warn("%s/%s: what came since the last commit is not kept", p->dir, DB_NAME);
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

/* --- end */

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
        r = run(&p->db, "DELETE FROM meta WHERE key LIKE 'resync%'");
    return r == 0 ? store_exec(&p->db, SQL_COMMIT, "") : r;
}

static int to_next(struct dmt_patch *p)
{
    const struct dmt_io *io = p->conf.io;
    char from[PATH_MAX], to[PATH_MAX];
    store_db_close(&p->db); /* the last connection: the log goes into the file and is removed */
    path_of(p->dir, DB_NAME, "-wal", from);
    if (access(from, F_OK) == 0)
        return -EBUSY;
    path_of(p->dir, DB_NAME, "", from);
    path_of(p->dir, DB_NEXT, "", to);
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
        dmt_err_set(err, r, "%s/%s: %s", p->dir, DB_NEXT, dmt_strerror(r));
    *ret_pos = p->pos;
    if (r < 0)
        failed(p, r);
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
    int r = store_db_open_as(&db, conf->dir, DB_NEXT, STORE_DB_READ, err);
    if (r < 0)
        return r;
    r = sweep_files(conf, &db);
    store_db_close(&db);
    path_of(conf->dir, "intent", "", to);
    if (r == 0 && (r = io->unlink(io->ctx, to)) == -ENOENT)
        r = 0;
    path_of(conf->dir, "suspect", "", to);
    if (r == 0 && (r = io->unlink(io->ctx, to)) == -ENOENT)
        r = 0;
    if (r == 0) {
        remove_db(io, conf->dir, DB_NAME);
        path_of(conf->dir, "workspace.db", "-wal", to);
        if (access(to, F_OK) == 0)
            r = io->unlink(io->ctx, to);
    }
    path_of(conf->dir, DB_NEXT, "", from);
    path_of(conf->dir, "workspace.db", "", to);
    if (r == 0)
        r = io->rename(io->ctx, from, to);
    if (r == 0)
        r = io->sync_dir(io->ctx, conf->dir);
    return r < 0 ? dmt_err_set(err, r, "%s: %s", to, dmt_strerror(r)) : 0;
}
