/* db.c: connections to STORE/workspace.db: schema, pragmas, prepared statements.
 *
 * Happy path: a store has one writing connection (the checkpointer's) and one reading connection
 * (used under the workspace lock); exports, checks and comparisons open their own. A statement is
 * prepared at its first use on a connection and kept. Pragmas: WAL with synchronous FULL on the
 * writer, because a COMMIT is what allows journal segments to go (NORMAL would make it durable only
 * at the next wal_checkpoint); no automatic checkpoints, they would stall a COMMIT; busy_timeout 0,
 * because nobody else writes; mmap off, an I/O error must not become a signal. Failure modes:
 * SQLite's codes become errno-like ones; a file of another format is refused by application_id and
 * user_version. Thread: a connection belongs to one thread at a time.
 */
#include "fs/store/db.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/log.h"
#include "fs/store/internal.h"

#define APPLICATION_ID 0x444d5453 /* "DMTS" */
#define FORMAT_VERSION 2
#define TABLE_KEEP                                                                                                \
    "CREATE TABLE keep(ino INTEGER NOT NULL, src INTEGER NOT NULL, view INTEGER NOT NULL, size INTEGER NOT NULL," \
    " mtime INTEGER NOT NULL, PRIMARY KEY(ino, src, view)) WITHOUT ROWID;"

static const char *const g_sql[SQL_COUNT] = {
#define X(id, text) [SQL_##id] = text,
    STORE_SQL(X)
#undef X
};

#define INODE_FIELDS                                                                                    \
    "mode INTEGER NOT NULL, nlink INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, "       \
    "rdev INTEGER NOT NULL, flags INTEGER NOT NULL, size INTEGER NOT NULL, atime INTEGER NOT NULL, "    \
    "mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, btime INTEGER NOT NULL, parent INTEGER NOT NULL, " \
    "next_cookie INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, alloc INTEGER NOT NULL"
#define DENTRY_FIELDS \
    "ino INTEGER NOT NULL, cookie INTEGER NOT NULL, type INTEGER NOT NULL, born INTEGER NOT NULL"
#define EXTENT_FIELDS                                                                                \
    "len INTEGER NOT NULL, owner INTEGER NOT NULL, serial INTEGER NOT NULL, foff INTEGER NOT NULL, " \
    "flags INTEGER NOT NULL, born INTEGER NOT NULL"

/* Key columns come first: quick_check of SQLite 3.40 reports false NULLs in tables WITHOUT ROWID
 * otherwise. */
static const char g_schema[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, val) WITHOUT ROWID;"
    "CREATE TABLE inode(ino INTEGER PRIMARY KEY, " INODE_FIELDS ");"
    "CREATE TABLE inode_h(ino INTEGER NOT NULL, died INTEGER NOT NULL, " INODE_FIELDS
    ", PRIMARY KEY(ino, died)) WITHOUT ROWID;"
    "CREATE TABLE dentry(parent INTEGER NOT NULL, name BLOB NOT NULL, " DENTRY_FIELDS
    ", PRIMARY KEY(parent, name)) WITHOUT ROWID;"
    "CREATE UNIQUE INDEX dentry_cookie ON dentry(parent, cookie);"
    "CREATE TABLE dentry_h(parent INTEGER NOT NULL, name BLOB NOT NULL, died INTEGER NOT NULL, " DENTRY_FIELDS
    ", PRIMARY KEY(parent, name, died)) WITHOUT ROWID;"
    "CREATE INDEX dentry_h_cookie ON dentry_h(parent, cookie);"
    "CREATE TABLE xattr(ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, born INTEGER NOT NULL,"
    " PRIMARY KEY(ino, name)) WITHOUT ROWID;"
    "CREATE TABLE xattr_h(ino INTEGER NOT NULL, name BLOB NOT NULL, died INTEGER NOT NULL, value BLOB NOT NULL,"
    " born INTEGER NOT NULL, PRIMARY KEY(ino, name, died)) WITHOUT ROWID;"
    "CREATE TABLE content(ino INTEGER PRIMARY KEY, data BLOB NOT NULL, born INTEGER NOT NULL, map BLOB);"
    "CREATE TABLE extent(ino INTEGER NOT NULL, off INTEGER NOT NULL, " EXTENT_FIELDS
    ", PRIMARY KEY(ino, off)) WITHOUT ROWID;"
    "CREATE INDEX extent_shared ON extent(owner, serial) WHERE flags & 1;"
    "CREATE TABLE extent_h(ino INTEGER NOT NULL, off INTEGER NOT NULL, died INTEGER NOT NULL, " EXTENT_FIELDS
    ", data BLOB,"
    " PRIMARY KEY(ino, off, died)) WITHOUT ROWID;"
    "CREATE INDEX extent_h_shared ON extent_h(owner, serial) WHERE flags & 1;"
    "CREATE TABLE datafile(ino INTEGER NOT NULL, serial INTEGER NOT NULL, hwm INTEGER NOT NULL,"
    " PRIMARY KEY(ino, serial)) WITHOUT ROWID;"
    "CREATE TABLE garbage(ino INTEGER NOT NULL, serial INTEGER NOT NULL, foff INTEGER NOT NULL, len INTEGER NOT NULL);"
    "CREATE TABLE missing(ino INTEGER NOT NULL, off INTEGER NOT NULL, seq INTEGER NOT NULL, len INTEGER NOT NULL,"
    " owner INTEGER NOT NULL, serial INTEGER NOT NULL, foff INTEGER NOT NULL, died INTEGER NOT NULL,"
    " shared INTEGER NOT NULL, PRIMARY KEY(ino, off, seq)) WITHOUT ROWID;"
    "CREATE INDEX missing_other ON missing(owner, serial) WHERE owner<>ino;" TABLE_KEEP
    "CREATE TABLE snapshot(serial INTEGER PRIMARY KEY, seq INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    " time_ns INTEGER NOT NULL, name TEXT NOT NULL UNIQUE, note TEXT NOT NULL);"
    "CREATE TABLE epoch(epoch INTEGER PRIMARY KEY, parent INTEGER NOT NULL, switch_seq INTEGER NOT NULL,"
    " switch_chain INTEGER NOT NULL, time_ns INTEGER NOT NULL, node TEXT NOT NULL, reason TEXT NOT NULL);";

int store_db_code(const struct store_db *db)
{
    switch (db->h ? sqlite3_errcode(db->h) & 0xff : SQLITE_NOMEM) {
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_SCHEMA:
    case SQLITE_CONSTRAINT:
    case SQLITE_ERROR:
        return DMT_E_CORRUPT;
    default:
        return -EIO;
    }
}

int store_db_fail(const struct store_db *db, struct dmt_err *err, const char *what)
{
    return dmt_err_set(err, store_db_code(db), "%s: SQLite: %s", what,
                       db->h ? sqlite3_errmsg(db->h) : "no memory");
}

static int pragmas(struct store_db *db, enum store_db_mode mode)
{
    char text[512];
    snprintf(
        text, sizeof(text),
        "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=%d; PRAGMA mmap_size=0;"
        "PRAGMA temp_store=%s; PRAGMA trusted_schema=OFF; PRAGMA query_only=%d;",
        mode >= STORE_DB_READ ? -16384 : -65536, mode == STORE_DB_CHECK ? "FILE" : "MEMORY",
        mode == STORE_DB_READ);
    if (mode == STORE_DB_CHECK)
        sqlite3_db_config(db->h, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return sqlite3_exec(db->h, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_db_code(db);
}

sqlite3 *store_db_model(void)
{
    sqlite3 *h = NULL;
    if (sqlite3_open(":memory:", &h) == SQLITE_OK &&
        sqlite3_exec(h, g_schema, NULL, NULL, NULL) == SQLITE_OK)
        return h;
    sqlite3_close(h);
    return NULL;
}

static int create_schema(struct store_db *db)
{
    char head[160];
    snprintf(
        head, sizeof(head),
        "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA application_id=%d; PRAGMA user_version=%d;",
        APPLICATION_ID, FORMAT_VERSION);
    if (sqlite3_exec(db->h, head, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db->h, "BEGIN", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db->h, g_schema, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db->h, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        return store_db_code(db);
    return 0;
}

static int one_int(struct store_db *db, const char *text, int64_t *ret)
{
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(db->h, text, -1, &s, NULL) != SQLITE_OK)
        return store_db_code(db);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW)
        *ret = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return rc == SQLITE_ROW ? 0 : store_db_code(db);
}

/* Format 1 had one keep a file. */
static int upgrade(struct store_db *db)
{
    static const char *const steps[] = {
        "BEGIN IMMEDIATE; ALTER TABLE keep RENAME TO keep_1;",
        TABLE_KEEP
        "INSERT INTO keep SELECT ino,src,view,size,mtime FROM keep_1; DROP TABLE keep_1;",
        "PRAGMA user_version=2; COMMIT;",
    };
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        if (sqlite3_exec(db->h, steps[i], NULL, NULL, NULL) != SQLITE_OK)
            return store_db_code(db);
    dmt_info("workspace.db was of format 1 and is of format 2 now");
    return 0;
}

static int check_format(struct store_db *db, enum store_db_mode mode, struct dmt_err *err)
{
    int64_t id = 0, version = 0;
    if (one_int(db, "PRAGMA application_id", &id) || one_int(db, "PRAGMA user_version", &version))
        return store_db_fail(db, err, "workspace.db");
    if (id != APPLICATION_ID)
        return dmt_err_set(err, DMT_E_CORRUPT, "workspace.db is not a Dumont store");
    if (version == 1 && mode == STORE_DB_WRITE)
        return upgrade(db) < 0
                   ? store_db_fail(db, err, "workspace.db cannot be brought to format 2")
                   : 0;
    if (version == FORMAT_VERSION)
        return 0;
    dmt_err_set(err, DMT_E_VERSION, "workspace.db has format %lld, this program knows %d",
                (long long)version, FORMAT_VERSION);
    return dmt_err_hint(
        err, version == 1 ? "mount the workspace once: that brings it to the new format"
                          : "use the version of Dumont that made this store, or a newer one");
}

int store_db_open_as(struct store_db *db, const char *dir, const char *name,
                     enum store_db_mode mode, struct dmt_err *err)
{
    memset(db, 0, sizeof(*db));
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, name) >= sizeof(path))
        return dmt_err_set(err, -ENAMETOOLONG, "path of the store is too long");
    if (mode != STORE_DB_CREATE && access(path, F_OK) < 0)
        return dmt_err_set(err, -errno, "%s: %s", path, dmt_strerror(-errno));
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX |
                (mode == STORE_DB_CREATE ? SQLITE_OPEN_CREATE : 0);
    int r = 0;
    if (sqlite3_open_v2(path, &db->h, flags, NULL) != SQLITE_OK) {
        r = store_db_fail(db, err, path);
        goto out;
    }
    if (mode == STORE_DB_CREATE && create_schema(db)) {
        r = store_db_fail(db, err, path);
        goto out;
    }
    r = check_format(db, mode, err);
    if (r == 0 && pragmas(db, mode))
        r = store_db_fail(db, err, path);
out:
    if (r < 0)
        store_db_close(db);
    return r;
}

int store_db_open(struct store_db *db, const char *dir, enum store_db_mode mode,
                  struct dmt_err *err)
{
    return store_db_open_as(db, dir, mode == STORE_DB_CREATE ? "workspace.db.new" : "workspace.db",
                            mode, err);
}

void store_db_close(struct store_db *db)
{
    for (int i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(db->st[i]);
    if (db->h)
        sqlite3_close(db->h);
    memset(db, 0, sizeof(*db));
}

int store_db_renew(struct store_db *db)
{
    /* SQLite may have ended the transaction itself, after an error. */
    int r = sqlite3_get_autocommit(db->h) ? 0 : store_exec(db, SQL_COMMIT, "");
    return r < 0 ? r : store_exec(db, SQL_BEGIN, "");
}

static int bind_all(sqlite3_stmt *s, const char *fmt, va_list ap)
{
    int rc = SQLITE_OK;
    for (int i = 1; *fmt && rc == SQLITE_OK; fmt++, i++) {
        if (*fmt == 'i') {
            rc = sqlite3_bind_int64(s, i, (sqlite3_int64)va_arg(ap, uint64_t));
        } else if (*fmt == 'b') {
            const void *p = va_arg(ap, const void *);
            size_t n = va_arg(ap, size_t);
            rc = sqlite3_bind_blob64(s, i, p ? p : "", n, SQLITE_STATIC);
        } else if (*fmt == 't') {
            rc = sqlite3_bind_text(s, i, va_arg(ap, const char *), -1, SQLITE_STATIC);
        } else {
            DMT_ASSERT(*fmt == 'n');
            rc = sqlite3_bind_null(s, i);
        }
    }
    return rc;
}

static int sql_bind(struct store_db *db, enum store_sql id, sqlite3_stmt **ret, const char *fmt,
                    va_list ap)
{
    if (!db->st[id] && sqlite3_prepare_v3(db->h, g_sql[id], -1, SQLITE_PREPARE_PERSISTENT,
                                          &db->st[id], NULL) != SQLITE_OK)
        return store_db_code(db);
    *ret = db->st[id];
    sqlite3_reset(*ret);
    return bind_all(*ret, fmt, ap) == SQLITE_OK ? 0 : store_db_code(db);
}

int store_sql(struct store_db *db, enum store_sql id, sqlite3_stmt **ret, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int r = sql_bind(db, id, ret, fmt, ap);
    va_end(ap);
    return r;
}

int store_sql_step(struct store_db *db, sqlite3_stmt *s)
{
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW)
        return 1;
    int r = rc == SQLITE_DONE ? 0 : store_db_code(db);
    sqlite3_reset(s);
    return r;
}

void store_sql_done(sqlite3_stmt *s)
{
    sqlite3_reset(s);
}

int store_exec(struct store_db *db, enum store_sql id, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    sqlite3_stmt *s;
    int r = sql_bind(db, id, &s, fmt, ap);
    va_end(ap);
    if (r < 0)
        return r;
    while ((r = store_sql_step(db, s)) > 0)
        continue;
    return r;
}
