/* db.c: the controller's SQLite database.
 *
 * Owns the connection. Happy path of a register change: BEGIN IMMEDIATE, compare the epoch, write,
 * event row, COMMIT; with synchronous=FULL the commit has reached the disk when it returns, so an
 * answer given after it survives kill -9 and a power cut. Failure modes: any error rolls back and
 * is returned with SQLite's words; the caller then answers nothing (an unanswered request is safe,
 * a wrong answer is not). Thread: the caller's, one at a time.
 */
#include "daemon/controller/db.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/clock.h"
#include "fs/base/tls.h"
#include "fs/lease/arbiter.h"

#define EVENTS_KEPT "100000"
#define NS          1000000000ll
#define WEEK_NS     (7 * 24 * 3600 * NS)

struct ctl_db {
    sqlite3 *sq;
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS register("
    "  lineage TEXT PRIMARY KEY, epoch INTEGER NOT NULL, holder_node TEXT NOT NULL,"
    "  holder_store TEXT NOT NULL, body TEXT NOT NULL, changed_ns INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS workspace("
    "  name TEXT PRIMARY KEY, lineage TEXT NOT NULL, since_ns INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS event("
    "  id INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, workspace TEXT NOT NULL, node TEXT NOT NULL,"
    "  kind TEXT NOT NULL, text TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS event_of ON event(workspace, id);"
    "CREATE TABLE IF NOT EXISTS told("
    "  workspace TEXT NOT NULL, node TEXT NOT NULL, instance INTEGER NOT NULL, n INTEGER NOT NULL,"
    "  PRIMARY KEY(workspace, node)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS node("
    "  name TEXT PRIMARY KEY, provider TEXT NOT NULL, address TEXT NOT NULL, state TEXT NOT NULL,"
    "  since_ns INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS token("
    "  hash TEXT PRIMARY KEY, node TEXT NOT NULL, expires_ns INTEGER NOT NULL,"
    "  used_ns INTEGER NOT NULL, used_from TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS over("
    "  lineage TEXT PRIMARY KEY, by TEXT NOT NULL, since_ns INTEGER NOT NULL) WITHOUT ROWID;";

static int64_t now_ns(void)
{
    const struct dmt_clock *c = dmt_clock_real();
    return (int64_t)c->realtime_ns(c->ctx);
}

static int fail(struct ctl_db *db, struct dmt_err *err, const char *what)
{
    return dmt_err_set(err, -EIO, "the controller's database: %s: %s", what,
                       sqlite3_errmsg(db->sq));
}

static int exec(struct ctl_db *db, const char *sql, struct dmt_err *err)
{
    return sqlite3_exec(db->sq, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(db, err, sql);
}

/* Prepares and binds: 's' const char *, 'i' int64_t. */
static sqlite3_stmt *prepare(struct ctl_db *db, const char *sql, const char *types, ...)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(db->sq, sql, -1, &st, NULL) != SQLITE_OK)
        return NULL;
    va_list ap;
    va_start(ap, types);
    for (int i = 0; types[i]; i++) {
        if (types[i] == 's')
            (void)sqlite3_bind_text(st, i + 1, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
        else
            (void)sqlite3_bind_int64(st, i + 1, va_arg(ap, int64_t));
    }
    va_end(ap);
    return st;
}

/* Runs a statement without result. */
static int run(struct ctl_db *db, sqlite3_stmt *st, struct dmt_err *err)
{
    int r = st && sqlite3_step(st) == SQLITE_DONE ? 0 : fail(db, err, "write");
    sqlite3_finalize(st);
    return r;
}

int ctl_db_open(struct ctl_db **ret, const char *path, struct dmt_err *err)
{
    struct ctl_db *db = calloc(1, sizeof(*db));
    if (!db)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
    int r = sqlite3_open_v2(path, &db->sq, flags, NULL) == SQLITE_OK ? 0 : fail(db, err, path);
    if (r == 0)
        (void)sqlite3_busy_timeout(db->sq, 5000);
    if (r == 0)
        r = exec(db, "PRAGMA journal_mode=WAL", err);
    if (r == 0)
        r = exec(db, "PRAGMA synchronous=FULL", err);
    if (r == 0)
        r = exec(db, schema, err);
    if (r < 0)
        ctl_db_close(db);
    else
        *ret = db;
    return r;
}

void ctl_db_close(struct ctl_db *db)
{
    if (!db)
        return;
    sqlite3_close(db->sq);
    free(db);
}

int ctl_db_register(struct ctl_db *db, const char *lineage, struct lease_register *ret,
                    struct dmt_err *err)
{
    memset(ret, 0, sizeof(*ret));
    sqlite3_stmt *st = prepare(db, "SELECT body FROM register WHERE lineage=?", "s", lineage);
    int k = st ? sqlite3_step(st) : SQLITE_ERROR, r = 0;
    if (k == SQLITE_ROW) {
        json_t *v = json_loads((const char *)sqlite3_column_text(st, 0), 0, NULL);
        if (!v || !lease_register_parse(v, ret) || ret->epoch == 0)
            r = dmt_err_set(err, DMT_E_CORRUPT, "the register of %s is not readable", lineage);
        json_decref(v);
    } else if (k != SQLITE_DONE) {
        r = fail(db, err, "read");
    }
    sqlite3_finalize(st);
    return r;
}

static int add_event_at(struct ctl_db *db, int64_t at_ns, const char *ws, const char *node,
                        const char *kind, const char *text, struct dmt_err *err)
{
    return run(db,
               prepare(db, "INSERT INTO event(at_ns,workspace,node,kind,text) VALUES(?,?,?,?,?)",
                       "issss", at_ns, ws, node, kind, text),
               err);
}

static int add_event(struct ctl_db *db, const char *ws, const char *node, const char *kind,
                     const char *text, struct dmt_err *err)
{
    return add_event_at(db, now_ns(), ws, node, kind, text, err);
}

static int write_register(struct ctl_db *db, const char *lineage, uint32_t base,
                          const struct lease_register *next, struct dmt_err *err)
{
    struct lease_register now;
    int r = ctl_db_register(db, lineage, &now, err);
    if (r < 0)
        return r;
    if (now.epoch != base)
        return dmt_err_set(err, DMT_E_CONFLICT, "the register is at epoch %u", now.epoch);
    json_t *v = lease_register_json(next);
    char *body = json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS);
    const json_t *holder = json_object_get(v, "holder");
    r = body ? run(db,
                   prepare(db, "REPLACE INTO register VALUES(?,?,?,?,?,?)", "sisssi", lineage,
                           (int64_t)next->epoch, next->holder.node,
                           json_string_value(json_object_get(holder, "store")), body, now_ns()),
                   err)
             : dmt_err_set(err, -ENOMEM, "out of memory");
    free(body);
    json_decref(v);
    return r;
}

int ctl_db_change(struct ctl_db *db, const char *lineage, const char *workspace, uint32_t base,
                  const struct lease_register *next, const char *node, const char *kind,
                  const char *text, struct dmt_err *err)
{
    int r = exec(db, "BEGIN IMMEDIATE", err);
    if (r < 0)
        return r;
    r = write_register(db, lineage, base, next, err);
    if (r == 0)
        r = add_event(db, workspace, node, kind, text, err);
    if (r == 0)
        r = exec(db, "COMMIT", err);
    if (r < 0)
        (void)sqlite3_exec(db->sq, "ROLLBACK", NULL, NULL, NULL);
    return r;
}

int ctl_db_workspace(struct ctl_db *db, const char *workspace, const char *lineage,
                     struct dmt_err *err)
{
    char now[33];
    int r = ctl_db_lineage_of(db, workspace, now, err);
    if (r < 0 || (r == 1 && strcmp(now, lineage) == 0))
        return r < 0 ? r : 0;
    return run(
        db,
        prepare(db, "REPLACE INTO workspace VALUES(?,?,?)", "ssi", workspace, lineage, now_ns()),
        err);
}

int ctl_db_lineage_of(struct ctl_db *db, const char *workspace, char ret[33], struct dmt_err *err)
{
    sqlite3_stmt *st = prepare(db, "SELECT lineage FROM workspace WHERE name=?", "s", workspace);
    int k = st ? sqlite3_step(st) : SQLITE_ERROR, r = 0;
    if (k == SQLITE_ROW) {
        (void)snprintf(ret, 33, "%s", (const char *)sqlite3_column_text(st, 0));
        r = 1;
    } else if (k != SQLITE_DONE) {
        r = fail(db, err, "read");
    }
    sqlite3_finalize(st);
    return r;
}

int ctl_db_over(struct ctl_db *db, const char *lineage, const char *by, struct dmt_err *err)
{
    return run(
        db, prepare(db, "INSERT OR IGNORE INTO over VALUES(?,?,?)", "ssi", lineage, by, now_ns()),
        err);
}

int ctl_db_is_over(struct ctl_db *db, const char *lineage, struct dmt_err *err)
{
    sqlite3_stmt *st = prepare(db, "SELECT 1 FROM over WHERE lineage=?", "s", lineage);
    int k = st ? sqlite3_step(st) : SQLITE_ERROR;
    int r = k == SQLITE_ROW ? 1 : k == SQLITE_DONE ? 0 : fail(db, err, "read");
    sqlite3_finalize(st);
    return r;
}

static int forget_old(struct ctl_db *db, struct dmt_err *err)
{
    if (sqlite3_last_insert_rowid(db->sq) % 1000 != 0)
        return 0;
    return exec(db, "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - " EVENTS_KEPT,
                err);
}

int ctl_db_event(struct ctl_db *db, const char *workspace, const char *node, const char *kind,
                 const char *text, struct dmt_err *err)
{
    int r = add_event(db, workspace, node, kind, text, err);
    return r == 0 ? forget_old(db, err) : r;
}

/* 1: this event, or a later one of the same process, is in the history. */
static int is_told(struct ctl_db *db, const char *workspace, const char *node, uint64_t instance,
                   int64_t n, struct dmt_err *err)
{
    sqlite3_stmt *st =
        prepare(db, "SELECT 1 FROM told WHERE workspace=? AND node=? AND instance=? AND n>=?",
                "ssii", workspace, node, (int64_t)instance, n);
    int k = st ? sqlite3_step(st) : SQLITE_ERROR;
    int r = k == SQLITE_ROW ? 1 : k == SQLITE_DONE ? 0 : fail(db, err, "read");
    sqlite3_finalize(st);
    return r;
}

int ctl_db_node_event(struct ctl_db *db, const char *workspace, const char *node, uint64_t instance,
                      const struct ctl_told *e, struct dmt_err *err)
{
    int r = is_told(db, workspace, node, instance, e->n, err);
    if (r != 0)
        return r < 0 ? r : 0;
    if ((r = exec(db, "BEGIN IMMEDIATE", err)) < 0)
        return r;
    r = add_event_at(db, e->at_ns, workspace, node, e->kind, e->text, err);
    if (r == 0)
        r = forget_old(db, err);
    if (r == 0)
        r = run(db,
                prepare(db, "REPLACE INTO told VALUES(?,?,?,?)", "ssii", workspace, node,
                        (int64_t)instance, e->n),
                err);
    if (r == 0)
        r = exec(db, "COMMIT", err);
    if (r < 0)
        (void)sqlite3_exec(db->sq, "ROLLBACK", NULL, NULL, NULL);
    return r;
}

int ctl_db_token_add(struct ctl_db *db, const char *hash, const char *node, int64_t expires_ns,
                     struct dmt_err *err)
{
    int r = run(db, prepare(db, "DELETE FROM token WHERE expires_ns < ?", "i", now_ns() - WEEK_NS),
                err);
    return r < 0 ? r
                 : run(db,
                       prepare(db, "INSERT INTO token VALUES(?,?,?,0,'')", "ssi", hash, node,
                               expires_ns),
                       err);
}

int ctl_db_token_check(struct ctl_db *db, const char *hash, const char *node, struct dmt_err *err)
{
    char date[DMT_CERT_TIME];
    sqlite3_stmt *st =
        prepare(db, "SELECT node,expires_ns,used_ns,used_from FROM token WHERE hash=?", "s", hash);
    int k = st ? sqlite3_step(st) : SQLITE_ERROR, r = 0;
    if (k == SQLITE_DONE) {
        r = dmt_err_set(err, DMT_E_AUTH, "it is not known here (a wrong secret, or long expired)");
    } else if (k != SQLITE_ROW) {
        r = fail(db, err, "read");
    } else {
        const char *whose = (const char *)sqlite3_column_text(st, 0);
        int64_t expires = sqlite3_column_int64(st, 1), used = sqlite3_column_int64(st, 2);
        if (strcmp(whose, node) != 0)
            r = dmt_err_set(err, DMT_E_AUTH, "it is for the node %s, not for %s", whose, node);
        else if (used)
            r = dmt_err_set(err, DMT_E_AUTH, "it was used on %s, from %s",
                            dmt_cert_time(used / NS, date),
                            (const char *)sqlite3_column_text(st, 3));
        else if (expires <= now_ns())
            r = dmt_err_set(err, DMT_E_AUTH, "it has expired on %s",
                            dmt_cert_time(expires / NS, date));
    }
    sqlite3_finalize(st);
    return r;
}

int ctl_db_token_use(struct ctl_db *db, const char *hash, const char *node, const char *from,
                     struct dmt_err *err)
{
    int r = exec(db, "BEGIN IMMEDIATE", err);
    if (r < 0)
        return r;
    r = ctl_db_token_check(db, hash, node, err);
    if (r == 0)
        r = run(db,
                prepare(db, "UPDATE token SET used_ns=?, used_from=? WHERE hash=?", "iss", now_ns(),
                        from, hash),
                err);
    if (r == 0)
        r = add_event(db, "", node, "joined", from, err);
    if (r == 0)
        r = exec(db, "COMMIT", err);
    if (r < 0)
        (void)sqlite3_exec(db->sq, "ROLLBACK", NULL, NULL, NULL);
    return r;
}

int ctl_db_node_set(struct ctl_db *db, const char *name, const char *provider, const char *address,
                    const char *state, struct dmt_err *err)
{
    return run(db,
               prepare(db, "REPLACE INTO node VALUES(?,?,?,?,?)", "ssssi", name, provider, address,
                       state, now_ns()),
               err);
}

int ctl_db_node_drop(struct ctl_db *db, const char *name, struct dmt_err *err)
{
    return run(db, prepare(db, "DELETE FROM node WHERE name=?", "s", name), err);
}

/* --- for the API --- */

/* Rows as objects, by column name. */
static json_t *rows(sqlite3_stmt *st)
{
    json_t *list = json_array();
    int k;
    while (st && (k = sqlite3_step(st)) == SQLITE_ROW) {
        json_t *o = json_object();
        for (int i = 0; i < sqlite3_column_count(st); i++) {
            bool num = sqlite3_column_type(st, i) == SQLITE_INTEGER;
            json_object_set_new(o, sqlite3_column_name(st, i),
                                num ? json_integer(sqlite3_column_int64(st, i))
                                    : json_string((const char *)sqlite3_column_text(st, i)));
        }
        json_array_append_new(list, o);
    }
    if (!st || k != SQLITE_DONE) {
        json_decref(list);
        list = NULL;
    }
    sqlite3_finalize(st);
    return list;
}

json_t *ctl_db_nodes(struct ctl_db *db)
{
    return rows(
        prepare(db, "SELECT name,provider,address,state,since_ns FROM node ORDER BY name", ""));
}

json_t *ctl_db_workspaces(struct ctl_db *db)
{
    json_t *list =
               rows(prepare(db,
                            "SELECT w.name, w.lineage, r.body AS register, r.changed_ns "
                            "FROM workspace w LEFT JOIN register r USING(lineage) ORDER BY w.name",
                            "")),
           *o;
    size_t i;
    json_array_foreach(list, i, o)
    {
        const char *body = json_string_value(json_object_get(o, "register"));
        json_t *reg = body ? json_loads(body, 0, NULL) : NULL;
        json_object_set_new(o, "register", reg ? reg : json_null());
    }
    return list;
}

/* The newest by arrival, so that what an agent tells late is among them; then by the time at which
 * it was: around a failover one machine's events come at once and the other's when it is back. */
json_t *ctl_db_events(struct ctl_db *db, const char *workspace, int max)
{
    if (workspace)
        return rows(prepare(db,
                            "SELECT * FROM (SELECT id,at_ns,workspace,node,kind,text FROM event "
                            "WHERE workspace=? ORDER BY id DESC LIMIT ?) ORDER BY at_ns, id",
                            "si", workspace, (int64_t)max));
    return rows(prepare(db,
                        "SELECT * FROM (SELECT id,at_ns,workspace,node,kind,text FROM event "
                        "ORDER BY id DESC LIMIT ?) ORDER BY at_ns, id",
                        "i", (int64_t)max));
}

json_t *ctl_db_event_counts(struct ctl_db *db)
{
    return rows(
        prepare(db, "SELECT kind, count(*) AS n FROM event GROUP BY kind ORDER BY kind", ""));
}
