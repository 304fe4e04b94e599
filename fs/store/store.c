/* store.c: the life of a store: made, opened, reloaded, closed; its lock, its identity, its
 * position.
 *
 * Happy path of open: take STORE/lock; open the database for writing (SQLite recovers its WAL),
 * refuse a store whose resync was not finished; load the small tables; everything else comes on
 * demand. What was dirty when the process died is in the journal. STORE/intent: before a checkpoint
 * overwrites live ranges in place it writes its position there, durably. If it then dies before its
 * COMMIT, some live bytes are newer than the database; they are exact again only after replay up to
 * that position, which is what dmt_store_floor says. Two slots, written in turn, so that a torn
 * write leaves the older one. Failure modes: in use (-EBUSY with the pid), not a store, unfinished
 * resync (DMT_E_CORRUPT with a hint). An open that fails leaves nothing behind. Thread: one, before
 * and after all others.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fs/base/hash.h"
#include "fs/store/internal.h"

#define READ_BACK_MAX (1ull << 30)

#define INTENT_MAGIC 0x31544e49544d44ull /* "DMTINT1" */
#define INTENT_BYTES 40u
#define INTENT_STEP  4096u

int dmt_store_lock(const char *dir, int *ret_fd, struct dmt_err *err)
{
    char path[PATH_MAX], pid[32] = "";
    if ((size_t)snprintf(path, sizeof(path), "%s/lock", dir) >= sizeof(path))
        return dmt_err_set(err, -ENAMETOOLONG, "path of the store is too long");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return dmt_err_set(err, -errno, "%s: %s", path, dmt_strerror(-errno));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int r = errno == EWOULDBLOCK ? -EBUSY : -errno;
        ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
        pid[n > 0 ? n : 0] = '\0';
        close(fd);
        dmt_err_set(err, r, "the store %s is in use by process %s", dir, *pid ? pid : "?");
        return dmt_err_hint(err, "stop that process first; the lock goes with it");
    }
    int n = snprintf(pid, sizeof(pid), "%ld", (long)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)n, 0) != n) {
        int r = -errno;
        close(fd);
        return dmt_err_set(err, r, "%s: %s", path, dmt_strerror(r));
    }
    *ret_fd = fd;
    return 0;
}

int store_lock(const struct dmt_store_conf *conf, int *ret_fd, struct dmt_err *err)
{
    if (conf->lock_fd == 0)
        return dmt_store_lock(conf->dir, ret_fd, err);
    int fd = fcntl(conf->lock_fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return dmt_err_set(err, -errno, "the lock of %s: %s", conf->dir, dmt_strerror(-errno));
    *ret_fd = fd;
    return 0;
}

int store_make_dirs(const struct dmt_io *io, const char *dir, struct dmt_err *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/data", dir);
    int r = dmt_io_mkdirs(io, path, 0700);
    for (unsigned i = 0; r == 0 && i < 256; i++) {
        snprintf(path, sizeof(path), "%s/data/%02x", dir, i);
        r = io->mkdir(io->ctx, path, 0700);
        if (r == -EEXIST)
            r = 0;
    }
    snprintf(path, sizeof(path), "%s/data", dir);
    if (r == 0)
        r = io->sync_dir(io->ctx, path);
    if (r == 0)
        r = io->sync_dir(io->ctx, dir);
    return r < 0 ? dmt_err_set(err, r, "%s: %s", path, dmt_strerror(r)) : 0;
}

int store_ident_write(struct store_db *db, const struct dmt_store_ident *id,
                      const struct dmt_pos *pos)
{
    int r = store_exec(db, SQL_META_PUT, "tb", ".lineage", id->lineage, sizeof(id->lineage));
    if (r == 0)
        r = store_exec(db, SQL_META_PUT, "tb", ".store_id", id->store_id, sizeof(id->store_id));
    if (r == 0)
        r = store_exec(db, SQL_META_PUT, "tt", ".name", id->name);
    if (r == 0)
        r = store_db_meta_put_u64(db, ".epoch", pos->epoch);
    if (r == 0)
        r = store_db_meta_put_u64(db, ".seq", pos->seq);
    if (r == 0)
        r = store_db_meta_put_u64(db, ".chain", pos->chain);
    return r;
}

int store_db_pos(struct store_db *db, struct dmt_pos *ret)
{
    int a = store_db_meta_u64(db, ".epoch", &ret->epoch);
    int b = store_db_meta_u64(db, ".seq", &ret->seq);
    int c = store_db_meta_u64(db, ".chain", &ret->chain);
    if (a < 0 || b < 0 || c < 0)
        return a < 0 ? a : b < 0 ? b : c;
    return a && b && c ? 0 : DMT_E_CORRUPT;
}

int dmt_store_create(const struct dmt_store_conf *conf, const struct dmt_store_ident *id,
                     uint32_t root_mode, uint32_t uid, uint32_t gid, uint64_t time_ns,
                     struct dmt_err *err)
{
    char path[PATH_MAX], fresh[PATH_MAX + 8];
    if ((size_t)snprintf(path, sizeof(path), "%s/workspace.db", conf->dir) >= sizeof(path) - 16)
        return dmt_err_set(err, -ENAMETOOLONG, "path of the store is too long");
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    if (access(path, F_OK) == 0)
        return dmt_err_set(err, -EEXIST, "there is a store in %s already", conf->dir);
    int r = dmt_io_mkdirs(conf->io, conf->dir, 0700);
    if (r < 0)
        return dmt_err_set(err, r, "%s: %s", conf->dir, dmt_strerror(r));
    if ((r = store_make_dirs(conf->io, conf->dir, err)) < 0)
        return r;
    unlink(fresh); /* of a creation that did not come to its end */
    struct store_db db;
    if ((r = store_db_open(&db, conf->dir, STORE_DB_CREATE, err)) < 0)
        return r;
    const struct dmt_pos zero = {0};
    struct dmt_inode root = {.ino = DMT_ROOT,
                             .mode = root_mode,
                             .nlink = 2,
                             .uid = uid,
                             .gid = gid,
                             .atime = time_ns,
                             .mtime = time_ns,
                             .ctime = time_ns,
                             .btime = time_ns,
                             .parent = DMT_ROOT,
                             .next_cookie = 3};
    r = store_exec(&db, SQL_BEGIN_WRITE, "");
    if (r == 0)
        r = store_ident_write(&db, id, &zero);
    if (r == 0)
        r = store_db_meta_put_u64(&db, ".inodes", 1);
    if (r == 0)
        r = store_inode_bind(&db, SQL_INODE_PUT, &root, 0, 0);
    if (r == 0)
        r = store_exec(&db, SQL_COMMIT, "");
    if (r < 0)
        store_db_fail(&db, err, "new store");
    store_db_close(&db); /* the last connection takes the WAL into the file */
    if (r == 0 && ((r = conf->io->rename(conf->io->ctx, fresh, path)) < 0 ||
                   (r = conf->io->sync_dir(conf->io->ctx, conf->dir)) < 0))
        dmt_err_set(err, r, "%s: %s", path, dmt_strerror(r));
    return r;
}

/* --- intent */

static void intent_path(const char *dir, char buf[PATH_MAX])
{
    snprintf(buf, PATH_MAX, "%s/intent", dir);
}

int store_intent_write(struct dmt_store *st, const struct dmt_pos *pos)
{
    const struct dmt_io *io = st->conf.io;
    char path[PATH_MAX];
    uint8_t rec[INTENT_BYTES];
    intent_path(st->dir, path);
    dmt_st64(rec, INTENT_MAGIC);
    dmt_st64(rec + 8, pos->epoch);
    dmt_st64(rec + 16, pos->seq);
    dmt_st64(rec + 24, pos->chain);
    dmt_st64(rec + 32, dmt_crc32c(0, rec, 32));
    bool fresh = access(path, F_OK) < 0;
    int fd = io->open(io->ctx, path, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return fd;
    ssize_t n =
        io->pwrite(io->ctx, fd, rec, sizeof(rec), (uint64_t)INTENT_STEP * (st->intent_slot & 1));
    int r = n < 0 ? (int)n : io->fdatasync(io->ctx, fd);
    io->close(io->ctx, fd);
    if (r == 0 && fresh)
        r = io->sync_dir(io->ctx, st->dir);
    if (r == 0)
        st->intent_slot++;
    return r;
}

void store_intent_read(const struct dmt_io *io, const char *dir, struct dmt_pos *floor,
                       unsigned *ret_slot)
{
    char path[PATH_MAX];
    intent_path(dir, path);
    int fd = io->open(io->ctx, path, O_RDONLY, 0);
    if (fd < 0)
        return;
    for (unsigned slot = 0; slot < 2; slot++) {
        uint8_t rec[INTENT_BYTES];
        if (io->pread(io->ctx, fd, rec, sizeof(rec), (uint64_t)INTENT_STEP * slot) !=
            (ssize_t)sizeof(rec))
            continue;
        struct dmt_pos pos = {
            .epoch = dmt_le64(rec + 8), .seq = dmt_le64(rec + 16), .chain = dmt_le64(rec + 24)};
        if (dmt_le64(rec) != INTENT_MAGIC || dmt_le64(rec + 32) != dmt_crc32c(0, rec, 32) ||
            pos.seq <= floor->seq)
            continue;
        *floor = pos;
        *ret_slot = slot + 1; /* the next one goes to the other slot */
    }
    io->close(io->ctx, fd);
}

/* --- open, close */

static int load_blob(struct store_db *db, const char *key, void *buf, size_t size, bool text)
{
    sqlite3_stmt *s;
    int r = store_sql(db, SQL_META_GET, &s, "t", key);
    if (r == 0)
        r = store_sql_step(db, s);
    if (r <= 0)
        return r < 0 ? r : DMT_E_CORRUPT;
    size_t n = (size_t)sqlite3_column_bytes(s, 0);
    bool fits = text ? n < size : n == size;
    if (fits)
        memcpy(buf, sqlite3_column_blob(s, 0), n);
    if (fits && text)
        ((char *)buf)[n] = '\0';
    store_sql_done(s);
    return fits ? 0 : DMT_E_CORRUPT;
}

int store_ident_load(struct store_db *db, struct dmt_store_ident *id, struct dmt_pos *pos)
{
    int r = load_blob(db, ".lineage", id->lineage, sizeof(id->lineage), false);
    if (r == 0)
        r = load_blob(db, ".store_id", id->store_id, sizeof(id->store_id), false);
    if (r == 0)
        r = load_blob(db, ".name", id->name, sizeof(id->name), true);
    return r == 0 ? store_db_pos(db, pos) : r;
}

static int load_garbage(struct dmt_store *st)
{
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_GARBAGE_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(&st->rd, s)) > 0) {
        store_spaces_add(&st->later, store_col(s, 1), store_col32(s, 2), store_col(s, 3),
                         store_col(s, 4));
        st->garbage_rows = true;
        r = 0;
    }
    return r;
}

static int load_tables(struct dmt_store *st)
{
    sqlite3_stmt *s;
    uint64_t sweep = 0;
    int r = store_sql(&st->rd, SQL_INODE_MAX, &s, "");
    if (r == 0)
        r = store_sql_step(&st->rd, s);
    if (r <= 0)
        return r < 0 ? r : DMT_E_CORRUPT;
    st->ino_high = store_col(s, 0);
    store_sql_done(s);
    if ((r = store_db_meta_u64(&st->rd, ".inodes", &st->count.inodes)) < 0 ||
        (r = store_db_meta_u64(&st->rd, ".live_bytes", &st->count.live_bytes)) < 0 ||
        (r = store_db_meta_u64(&st->rd, ".pinned_bytes", &st->pinned_bytes)) < 0 ||
        (r = store_db_meta_u64(&st->rd, ".commits", &st->commits)) < 0 ||
        (r = store_db_meta_u64(&st->rd, ".sweep", &sweep)) < 0 ||
        (r = store_db_meta_u64(&st->rd, ".peer", &st->peer)) < 0)
        return r;
    st->commits_found = st->commits;
    st->sweep_wanted = sweep != 0;
    if ((r = store_meta_load(st, &st->rd)) < 0 || (r = store_snap_load(st)) < 0 ||
        (r = store_missing_load(st)) < 0 || (r = store_keep_load(st)) < 0)
        return r;
    return load_garbage(st);
}

static void state_init(struct dmt_store *st)
{
    st->punch_min = STORE_PUNCH_MIN;
    st->suspect_high =
        UINT64_MAX; /* the journal may bring more than the rows say, until the first freeze */
    for (unsigned i = 0; i < 256; i++)
        st->dir_names[i] = 1; /* what earlier processes made may not be durable */
    store_hash_init(&st->nodes);
    store_hash_init(&st->dents);
    store_hash_init(&st->files);
    dmt_list_init(&st->node_lru);
    dmt_list_init(&st->dent_lru);
    dmt_list_init(&st->file_lru);
    dmt_list_init(&st->dirty_nodes);
    dmt_list_init(&st->dirty_dents);
    dmt_list_init(&st->ops);
    dmt_list_init(&st->keeps);
    dmt_list_init(&st->views);
    dmt_list_init(&st->filled);
}

/* Everything but the configuration, the lock and the store's struct itself. */
static void state_free(struct dmt_store *st)
{
    if (st->batch)
        store_batch_free(st->batch);
    store_views_drop(st);
    store_keeps_free(st);
    store_missing_drop(st);
    store_cache_drop(st);
    store_files_drop(st);
    DMT_LIST_EACH(l, tmp, &st->ops)
    store_op_free(DMT_CONTAINER(l, struct op, link));
    store_meta_free(st);
    store_chunk_unref(st->sweep.name);
    free(st->freed.v);
    free(st->later.v);
    free(st->snaps);
    free(st->epochs);
    free(st->pins.v);
    store_hash_free(&st->nodes);
    store_hash_free(&st->dents);
    store_hash_free(&st->files);
    store_db_close(&st->rd);
    store_db_close(&st->wr);
    /* What stands in front of it stays, and may be read meanwhile (dmt_store_space). */
    size_t from = offsetof(struct dmt_store, ident);
    memset((char *)st + from, 0, sizeof(*st) - from);
}

static int state_open(struct dmt_store *st, struct dmt_err *err)
{
    state_init(st);
    int r = store_db_open(&st->wr, st->dir, STORE_DB_WRITE, err);
    if (r < 0)
        return r;
    uint64_t resync = 0;
    if (store_db_meta_u64(&st->wr, "resync", &resync) > 0 && resync) {
        dmt_err_set(err, DMT_E_CORRUPT,
                    "the store %s was being filled from another machine and is not complete",
                    st->dir);
        return dmt_err_hint(err, "let the synchronisation start again; the old content is gone");
    }
    if ((r = store_ident_load(&st->wr, &st->ident, &st->applied)) < 0) {
        dmt_err_set(err, r, "the store %s has no valid identity", st->dir);
        return dmt_err_hint(err, "restore it from the archive, or make it anew from the standby");
    }
    if ((r = store_db_open(&st->rd, st->dir, STORE_DB_READ, err)) < 0)
        return r;
    if ((r = store_db_renew(&st->rd)) < 0)
        return store_db_fail(&st->rd, err, "workspace.db");
    st->floor = st->applied;
    store_intent_read(st->conf.io, st->dir, &st->floor, &st->intent_slot);
    store_ballast_find(st);
    if ((r = load_tables(st)) < 0)
        return store_db_fail(&st->rd, err, "store tables");
    return 0;
}

/* How much of the page cache may wait for who reads long writes back (ref.c). */
static uint64_t spare_memory(void)
{
    uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    return all / 16 < READ_BACK_MAX ? all / 16 : READ_BACK_MAX;
}

int dmt_store_open(struct dmt_store **ret, const struct dmt_store_conf *conf, struct dmt_err *err)
{
    if (strlen(conf->dir) > PATH_MAX - 64)
        return dmt_err_set(err, -ENAMETOOLONG, "path of the store is too long");
    struct dmt_store *st = store_zalloc(sizeof(*st));
    st->conf = *conf;
    st->dir = strdup(conf->dir);
    st->lock_fd = -1;
    DMT_ASSERT(st->dir);
    st->conf.dir = st->dir;
    if (!conf->small_max)
        st->conf.small_max = DMT_SMALL_MAX;
    st->ref_window = spare_memory();
    int r = store_lock(conf, &st->lock_fd, err);
    if (r == 0) {
        r = state_open(st, err);
        if (r < 0)
            state_free(st);
    }
    if (r < 0) {
        if (st->lock_fd >= 0)
            close(st->lock_fd);
        free(st->dir);
        free(st);
        return r;
    }
    *ret = st;
    return 0;
}

void dmt_store_close(struct dmt_store *st)
{
    if (!st)
        return;
    DMT_ASSERT(!st->running && st->exports == 0);
    state_free(st);
    close(st->lock_fd);
    free(st->dir);
    free(st);
}

int dmt_store_reload(struct dmt_store *st, struct dmt_err *err)
{
    DMT_ASSERT(!st->running && st->exports == 0);
    state_free(st);
    return state_open(st, err);
}

const struct dmt_store_ident *dmt_store_ident(const struct dmt_store *st)
{
    return &st->ident;
}

struct dmt_pos dmt_store_applied(const struct dmt_store *st)
{
    return st->applied;
}

int dmt_store_set_lineage(struct dmt_store *st, const uint8_t lineage[16], struct dmt_err *err)
{
    int r = store_exec(&st->wr, SQL_META_PUT, "tb", ".lineage", lineage, (size_t)16);
    if (r < 0)
        return store_db_fail(&st->wr, err, "new lineage");
    memcpy(st->ident.lineage, lineage, 16);
    return 0;
}

void dmt_store_set_peer(struct dmt_store *st, uint64_t seq)
{
    st->peer = seq;
}

struct dmt_pos dmt_store_floor(const struct dmt_store *st)
{
    return st->floor;
}

void dmt_store_load(struct dmt_store *st, struct dmt_store_load *ret)
{
    *ret = (struct dmt_store_load){
        .dirty_rows = st->dirty_node_n + st->dirty_dent_n + st->dirty_piece_n + st->op_n,
        .dirty_bytes = st->dirty_cost,
        .pinned_bytes = st->pinned_bytes,
        .live_bytes = st->count.live_bytes,
        .inodes = st->count.inodes,
    };
}

int dmt_store_space(struct dmt_store *st, uint64_t *ret_total, uint64_t *ret_free)
{
    char path[PATH_MAX];
    struct statvfs v;
    snprintf(path, sizeof(path), "%s/data", st->dir);
    if (statvfs(path, &v) < 0)
        return -errno;
    *ret_total = (uint64_t)v.f_blocks * v.f_frsize;
    *ret_free = (uint64_t)v.f_bavail * v.f_frsize;
    return 0;
}
