/* check.c: are the rows and files of the last checkpoint sound? One sentence per finding.
 *
 * Happy path: the database's own check; its schema; then questions in SQL, each of which answers
 * with sentences, none when all is well (check_rows.c: what is now, check_past.c: what snapshots
 * show); small content and ranges row by row; every data file against the rows that refer to it
 * and, when nobody has the store open, the directory against the rows (check_files.c). One read
 * transaction, on a connection of its own that leaves the WAL as it is; sorting goes to temporary
 * files, so memory does not grow with the workspace. Of one kind some findings are said one by one,
 * the others are counted. Failure modes: a question that cannot be answered is itself a finding;
 * only the database of an open store that cannot be opened is an error. Thread: any, without the
 * lock; while checkpoints run it may report files that one of them has just unlinked.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/store/check.h"

static void say(struct check *c, const char *kind, const char *todo, bool repairable,
                const char *text)
{
    const struct dmt_finding f = {
        .kind = kind, .text = text, .todo = todo, .repairable = repairable};
    c->fn(c->ctx, &f);
}

void check_kind_end(struct check *c)
{
    char text[96];
    if (c->of_kind > CHECK_SAID_MAX) {
        snprintf(text, sizeof(text), "and %llu more like the last one",
                 (unsigned long long)(c->of_kind - CHECK_SAID_MAX));
        say(c, c->kind, "", true, text);
    }
    c->kind = NULL;
    c->of_kind = 0;
}

void check_found(struct check *c, const char *kind, const char *todo, bool repairable,
                 const char *fmt, ...)
{
    char text[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++) /* names hold anything */
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    if (!c->kind || strcmp(c->kind, kind) != 0)
        check_kind_end(c);
    c->kind = kind;
    c->findings++;
    c->lossy += !repairable;
    if (++c->of_kind <= CHECK_SAID_MAX)
        say(c, kind, todo, repairable, text);
}

static void database(struct check *c)
{
    check_found(c, "database", CHECK_THEN_COPY, false, "database: %s", sqlite3_errmsg(c->db.h));
}

static void ask(struct check *c, const struct question *q)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(c->db.h, q->ask, -1, &s, NULL);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc == SQLITE_ROW)
            check_found(c, q->kind, q->todo, q->repair != NULL, "%s",
                        (const char *)sqlite3_column_text(s, 0));
    }
    if (rc != SQLITE_DONE)
        database(c);
    sqlite3_finalize(s);
    check_kind_end(c);
}

void check_ask(struct check *c, const struct question *q)
{
    for (; q->kind; q++)
        ask(c, q);
}

/* Is the message about an index alone? An index that holds more than its table may be the trace of
 * a lost row; one that lacks rows which the table has is not. */
static bool index_only(const char *msg, char lacks[512])
{
    static const char missing[] = " missing from index ", wrong[] = "wrong # of entries in index ";
    const char *at = strstr(msg, missing);
    char name[80];
    if (at && strncmp(msg, "row ", 4) == 0) {
        snprintf(name, sizeof(name), "[%s]", at + strlen(missing));
        size_t n = strlen(lacks);
        if (!strstr(lacks, name) && n + strlen(name) < 512)
            snprintf(lacks + n, 512 - n, "%s", name);
        return true;
    }
    if (strncmp(msg, wrong, strlen(wrong)) != 0)
        return false;
    snprintf(name, sizeof(name), "[%s]", msg + strlen(wrong));
    return strstr(lacks, name) != NULL;
}

static void check_integrity(struct check *c)
{
    char lacks[512] = "";
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(c->db.h,
                                "SELECT integrity_check FROM pragma_integrity_check "
                                "WHERE integrity_check<>'ok'",
                                -1, &s, NULL);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc != SQLITE_ROW)
            continue;
        const char *msg = (const char *)sqlite3_column_text(s, 0);
        if (index_only(msg, lacks)) {
            c->reindex = true;
            check_found(c, "index", CHECK_THEN_INDEX, true, "database: %s", msg);
        } else {
            check_found(c, "database", CHECK_THEN_COPY, false, "database: %s", msg);
        }
    }
    if (rc != SQLITE_DONE)
        database(c);
    sqlite3_finalize(s);
    check_kind_end(c);
}

/* Each table and index is as this program makes it. */
static void check_schema(struct check *c)
{
    static const char *const list = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL";
    sqlite3 *want = store_db_model();
    sqlite3_stmt *s = NULL, *have = NULL;
    bool ok = want && sqlite3_prepare_v2(want, list, -1, &s, NULL) == SQLITE_OK &&
              sqlite3_prepare_v2(c->db.h, "SELECT sql FROM sqlite_schema WHERE name=?1", -1, &have,
                                 NULL) == SQLITE_OK;
    while (ok && sqlite3_step(s) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(s, 0);
        sqlite3_bind_text(have, 1, name, -1, SQLITE_STATIC);
        const char *sql =
            sqlite3_step(have) == SQLITE_ROW ? (const char *)sqlite3_column_text(have, 0) : NULL;
        if (!sql || strcmp(sql, (const char *)sqlite3_column_text(s, 1)) != 0)
            check_found(c, "schema", CHECK_THEN_COPY, false, "database: %s is %s", name,
                        sql ? "not as this version makes it" : "missing");
        sqlite3_reset(have);
    }
    if (!ok)
        database(c);
    sqlite3_finalize(s);
    sqlite3_finalize(have);
    sqlite3_close(want);
    check_kind_end(c);
}

static void run(struct check *c)
{
    check_integrity(c);
    check_schema(c);
    check_ask(c, g_check_rows);
    check_small(c);
    if (check_past_begin(c) < 0)
        database(c);
    check_ask(c, g_check_past);
    check_overlaps(c);
    check_files(c);
    check_kind_end(c);
}

int dmt_store_check(struct dmt_store *st, dmt_finding_fn fn, void *ctx, struct dmt_err *err)
{
    struct check c = {.st = st, .fn = fn, .ctx = ctx};
    int r = store_db_open(&c.db, st->dir, STORE_DB_CHECK, err);
    if (r < 0)
        return r;
    if ((r = store_exec(&c.db, SQL_BEGIN, "")) < 0)
        store_db_fail(&c.db, err, "check");
    else
        run(&c);
    store_db_close(&c.db);
    return r < 0 ? r : c.findings > INT32_MAX ? INT32_MAX : (int)c.findings;
}

/* --- a store that nobody has open */

static int identify(struct dmt_checker *k, struct dmt_err *err)
{
    uint64_t resync = 0;
    struct store_db *db = &k->c.db;
    /* Data files may hold what only the database beside this one knows of. */
    if ((store_db_meta_u64(db, "resync", &resync) > 0 && resync) ||
        dmt_patch_state(k->st.dir) != DMT_PATCH_NONE) {
        dmt_err_set(err, DMT_E_CORRUPT,
                    "this store was being made equal to another machine's and is not complete");
        return dmt_err_hint(err, "Start or mount it: the synchronisation goes on.");
    }
    int r = store_ident_load(db, &k->state.ident, &k->state.applied);
    if (r < 0) {
        dmt_err_set(err, r, "the database does not say whose it is and where it stands");
        return dmt_err_hint(err, "%s", CHECK_THEN_COPY);
    }
    k->st.applied = k->state.applied;
    unsigned slot;
    k->st.floor = k->st.applied;
    store_intent_read(k->st.conf.io, k->st.dir, &k->st.floor, &slot);
    k->state.floor = k->st.floor;
    k->state.open = true;
    return 0;
}

int dmt_checker_open(struct dmt_checker **ret, const struct dmt_store_conf *conf,
                     struct dmt_err *err)
{
    if (strlen(conf->dir) > DMT_PATH_MAX - 600)
        return dmt_err_set(err, -ENAMETOOLONG, "path of the store is too long");
    struct dmt_checker *k = store_zalloc(sizeof(*k));
    k->st.conf = *conf;
    k->st.dir = strdup(conf->dir);
    DMT_ASSERT(k->st.dir);
    k->st.conf.dir = k->st.dir;
    k->c.st = &k->st;
    k->c.whole = true;
    k->st.lock_fd = -1;
    int r = store_lock(conf, &k->st.lock_fd, err);
    if (r < 0) {
        dmt_checker_close(k);
        return r;
    }
    *ret = k;
    return 0;
}

void dmt_checker_close(struct dmt_checker *k)
{
    store_db_close(&k->c.db);
    store_db_close(&k->wr);
    if (k->st.lock_fd >= 0)
        close(k->st.lock_fd);
    free(k->st.dir);
    free(k);
}

const struct dmt_checked *dmt_checker_state(const struct dmt_checker *k)
{
    return &k->state;
}

int dmt_checker_look(struct dmt_checker *k, struct dmt_err *err)
{
    store_db_close(&k->c.db);
    memset(&k->state, 0, sizeof(k->state));
    k->c.findings = k->c.lossy = 0;
    k->c.reindex = false;
    int r = store_db_open(&k->c.db, k->st.dir, STORE_DB_CHECK, err);
    if (r == 0 && (r = store_exec(&k->c.db, SQL_BEGIN, "")) < 0)
        store_db_fail(&k->c.db, err, "check");
    return r == 0 ? identify(k, err) : r;
}

uint64_t dmt_checker_run(struct dmt_checker *k, bool settled, dmt_finding_fn fn, void *ctx)
{
    k->c.fn = fn;
    k->c.ctx = ctx;
    k->c.settled = settled;
    if (k->state.open)
        run(&k->c);
    return k->c.findings;
}

int dmt_checker_meta(struct dmt_checker *k, const char *key, void **ret, size_t *ret_len)
{
    struct store_db *db = k->wr.h ? &k->wr : &k->c.db;
    sqlite3_stmt *s;
    int r = store_sql(db, SQL_META_GET, &s, "t", key);
    if (r == 0)
        r = store_sql_step(db, s);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    *ret_len = (size_t)sqlite3_column_bytes(s, 0);
    *ret = store_zalloc(*ret_len + 1);
    if (*ret_len)
        memcpy(*ret, sqlite3_column_blob(s, 0), *ret_len);
    store_sql_done(s);
    return 0;
}

int dmt_checker_meta_put(struct dmt_checker *k, const char *key, const void *val, size_t len)
{
    return store_exec(&k->wr, SQL_META_PUT, "tb", key, val, len);
}

int dmt_checker_orphans(struct dmt_checker *k, int (*fn)(void *ctx, uint64_t ino), void *ctx)
{
    struct store_db *db = k->wr.h ? &k->wr : &k->c.db;
    sqlite3_stmt *s;
    int r = store_sql(db, SQL_ORPHAN_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(db, s)) > 0)
        r = fn(ctx, store_col(s, 0));
    store_sql_done(s);
    return r;
}

int dmt_checker_greatest(struct dmt_checker *k, uint64_t *ret_ino, uint64_t *ret_snap)
{
    struct store_db *db = k->wr.h ? &k->wr : &k->c.db;
    sqlite3_stmt *s;
    int r = store_sql(db, SQL_INODE_MAX, &s, "");
    if (r == 0 && (r = store_sql_step(db, s)) > 0) {
        *ret_ino = store_col(s, 0);
        store_sql_done(s);
        r = store_sql(db, SQL_SNAP_MAX, &s, "");
    }
    if (r == 0 && (r = store_sql_step(db, s)) > 0) {
        *ret_snap = store_col(s, 0);
        store_sql_done(s);
        r = 0;
    }
    return r;
}
