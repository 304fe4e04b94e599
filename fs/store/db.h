/* db.h: one SQLite connection with its prepared statements. */
#ifndef DMT_STORE_DB_H
#define DMT_STORE_DB_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/base/err.h"
#include "fs/store/sql.h"

struct store_db {
    sqlite3 *h;
    sqlite3_stmt *st[SQL_COUNT];
};

enum store_db_mode { STORE_DB_CREATE, STORE_DB_WRITE, STORE_DB_READ, STORE_DB_CHECK };
/* CREATE makes workspace.db.new with the schema, to be renamed when it is filled and closed. WRITE: synchronous=FULL, own
 * checkpoints. READ: query_only. CHECK: for temporary tables, on disk; changes nothing else, not even the WAL when it is
 * closed. */
int store_db_open(struct store_db *db, const char *dir, enum store_db_mode mode, struct dmt_err *err);
int store_db_open_as(struct store_db *db, const char *dir, const char *name, enum store_db_mode mode, struct dmt_err *err);
void store_db_close(struct store_db *db);
/* An empty database in memory, with the schema. NULL: no memory. */
sqlite3 *store_db_model(void);
/* A negative code for the connection's last error. */
int store_db_code(const struct store_db *db);
int store_db_fail(const struct store_db *db, struct dmt_err *err, const char *what);

/* A reading connection stays in one transaction: all its statements see the same commit, and none of them takes locks of its own.
 * This leaves it; the next statement sees the newest commit. */
int store_db_renew(struct store_db *db);

/* Binds and leaves the statement ready to step. fmt: i = uint64_t, b = const void *, size_t (blob), t = const char *, n = NULL.
 * Blobs and texts must stay valid until the statement is reset. */
int store_sql(struct store_db *db, enum store_sql id, sqlite3_stmt **ret, const char *fmt, ...);
/* 1 row, 0 end (statement reset), < 0 error (statement reset). */
int store_sql_step(struct store_db *db, sqlite3_stmt *s);
void store_sql_done(sqlite3_stmt *s);
/* Binds and runs to the end; rows are ignored. */
int store_exec(struct store_db *db, enum store_sql id, const char *fmt, ...);

static inline uint64_t store_col(sqlite3_stmt *s, int i)
{
    return (uint64_t)sqlite3_column_int64(s, i);
}
static inline uint32_t store_col32(sqlite3_stmt *s, int i)
{
    return (uint32_t)sqlite3_column_int64(s, i);
}

#endif
