/* check.c: are the rows and files of the last checkpoint sound? One sentence per finding.
 *
 * Happy path: a list of questions in SQL, each of which answers with sentences, none when all is
 * well; then every data file against the rows that refer to it: it is there, long enough, and no
 * range belongs to two rows unless both say "shared" (D2, D3). Missing ranges are no fault: their
 * bytes need not be there. Failure modes: a question that cannot be answered is itself a finding;
 * only a database that cannot be opened is an error. Thread: any, without the lock, on a connection
 * of its own; while checkpoints run it may report files that one of them has just unlinked.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include "fs/store/internal.h"

static const char *const g_questions[] = {
    "SELECT 'database: ' || quick_check FROM pragma_quick_check WHERE quick_check <> 'ok'",
    "SELECT 'the root directory is missing' WHERE NOT EXISTS(SELECT 1 FROM inode WHERE ino=1 AND mode>>12=4)",
    "SELECT 'entry ' || quote(d.name) || ' of directory ' || d.parent || ' names inode ' || d.ino || ', which does not exist' "
    "FROM dentry d LEFT JOIN inode i ON i.ino=d.ino WHERE i.ino IS NULL",
    "SELECT 'entry ' || quote(d.name) || ' of directory ' || d.parent || ' has another type than its inode ' || d.ino "
    "FROM dentry d JOIN inode i ON i.ino=d.ino WHERE d.type<>i.mode & 0xf000",
    "SELECT 'entry ' || quote(d.name) || ' lies in ' || d.parent || ', which is no directory' "
    "FROM dentry d LEFT JOIN inode i ON i.ino=d.parent WHERE i.ino IS NULL OR i.mode>>12<>4",
    "SELECT 'entry ' || quote(d.name) || ' of directory ' || d.parent || ' has cookie ' || d.cookie || ', not below ' || i.next_cookie "
    "FROM dentry d JOIN inode i ON i.ino=d.parent WHERE d.cookie>=i.next_cookie OR d.cookie<3",
    "SELECT 'inode ' || i.ino || ' has ' || coalesce(c.n,0) || ' names and says ' || i.nlink FROM inode i "
    "LEFT JOIN (SELECT ino, count(*) AS n FROM dentry GROUP BY ino) c ON c.ino=i.ino "
    "WHERE i.mode>>12<>4 AND coalesce(c.n,0)<>i.nlink",
    "SELECT 'inode ' || ino || ' has no name and is no orphan' FROM inode WHERE nlink=0 AND NOT flags & 1",
    "SELECT 'directory ' || i.ino || ' has ' || coalesce(c.n,0) || ' names' FROM inode i "
    "LEFT JOIN (SELECT ino, count(*) AS n FROM dentry GROUP BY ino) c ON c.ino=i.ino "
    "WHERE i.mode>>12=4 AND i.ino<>1 AND i.nlink>0 AND coalesce(c.n,0)<>1",
    "SELECT 'directory ' || d.ino || ' lies in ' || d.parent || ' and says ' || i.parent FROM dentry d JOIN inode i ON i.ino=d.ino "
    "WHERE i.mode>>12=4 AND i.parent<>d.parent",
    "SELECT 'inode ' || ino || ' has content both in a row and in data files' FROM content WHERE ino IN (SELECT ino FROM extent)",
    "SELECT 'content of inode ' || ino || ' has no inode' FROM content WHERE ino NOT IN (SELECT ino FROM inode)",
    "SELECT DISTINCT 'content of inode ' || ino || ' has no inode' FROM extent WHERE ino NOT IN (SELECT ino FROM inode)",
    "SELECT 'small content of inode ' || ino || ' has ' || length(data) || ' bytes' FROM content "
    "WHERE length(data)=0 OR length(data)>16384 OR length(map)%16<>0",
    "SELECT DISTINCT 'attributes of inode ' || ino || ' have no inode' FROM xattr WHERE ino NOT IN (SELECT ino FROM inode)",
    "SELECT 'ranges of inode ' || ino || ' overlap at ' || off FROM (SELECT ino, off, lag(off+len) OVER (PARTITION BY ino ORDER BY off) "
    "AS before FROM extent) WHERE before>off",
    "SELECT 'range of inode ' || ino || ' at ' || off || ' is empty' FROM extent WHERE len<=0",
    "SELECT 'history of inode ' || ino || ' ends before it begins' FROM inode_h WHERE seq>=died",
    "SELECT 'history of entry ' || quote(name) || ' ends before it begins' FROM dentry_h WHERE born>=died",
    "SELECT 'history of content of inode ' || ino || ' ends before it begins' FROM extent_h WHERE born>=died OR len<=0",
    "SELECT 'a range of inode ' || e.ino || ' lies behind the mark of data file ' || e.owner || '.' || e.serial FROM "
    "(SELECT ino,owner,serial,foff,len FROM extent UNION ALL SELECT ino,owner,serial,foff,len FROM extent_h WHERE data IS NULL) e "
    "LEFT JOIN datafile f ON f.ino=e.owner AND f.serial=e.serial WHERE f.hwm IS NULL OR e.foff+e.len>f.hwm",
    "SELECT 'a range of inode ' || e.ino || ' is in a file of inode ' || e.owner || ' without the mark shared' FROM "
    "(SELECT ino,owner,flags FROM extent UNION ALL SELECT ino,owner,flags FROM extent_h WHERE data IS NULL) e "
    "WHERE e.ino<>e.owner AND NOT e.flags & 1",
    "SELECT 'the fallback of inode ' || ino || ' is of no inode' FROM keep WHERE ino NOT IN (SELECT ino FROM inode)",
    "SELECT 'the number of inodes is noted as ' || val || ' and is ' || (SELECT count(*) FROM inode) FROM meta "
    "WHERE key='.inodes' AND val<>(SELECT count(*) FROM inode)",
    "SELECT 'the sum of allocated bytes is noted as ' || val || ' and is ' || (SELECT coalesce(sum(alloc),0) FROM inode) FROM meta "
    "WHERE key='.live_bytes' AND val<>(SELECT coalesce(sum(alloc),0) FROM inode)",
    "SELECT 'the sum of pinned bytes is noted as ' || val || ' and is ' || (SELECT coalesce(sum(len),0) FROM extent_h) FROM meta "
    "WHERE key='.pinned_bytes' AND val<>(SELECT coalesce(sum(len),0) FROM extent_h)",
    "SELECT 'inode ' || i.ino || ' says ' || i.alloc || ' allocated bytes and has ' || coalesce(e.n,0) FROM inode i "
    "LEFT JOIN (SELECT ino, sum(len) AS n FROM extent GROUP BY ino) e ON e.ino=i.ino "
    "WHERE i.alloc<>coalesce(e.n,0) AND i.ino NOT IN (SELECT ino FROM content)",
};

/* Ranges of one data file, each with its mark. */
static const char g_ranges[] =
    "SELECT foff, len, flags & 1, ino FROM extent WHERE owner=?1 AND serial=?2 AND (ino=?1 OR flags & 1) UNION ALL "
    "SELECT foff, len, flags & 1, ino FROM extent_h WHERE owner=?1 AND serial=?2 AND (ino=?1 OR flags & 1) AND data IS NULL ORDER BY 1, 2";

struct check {
    struct dmt_store *st;
    struct store_db db;
    void (*fn)(void *ctx, const char *finding);
    void *ctx;
    int findings;
};

__attribute__((format(printf, 2, 3))) static void found(struct check *c, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    c->fn(c->ctx, text);
    c->findings++;
}

static void ask(struct check *c, const char *question)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(c->db.h, question, -1, &s, NULL);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc == SQLITE_ROW)
            found(c, "%s", (const char *)sqlite3_column_text(s, 0));
    }
    if (rc != SQLITE_DONE)
        found(c, "database: %s", sqlite3_errmsg(c->db.h));
    sqlite3_finalize(s);
}

/* Behind the last byte of the file that must be there: missing ranges need not. */
static int needed_end(struct check *c, uint64_t ino, uint32_t serial, uint64_t *ret)
{
    struct pmap m;
    store_pmap_init(&m);
    sqlite3_stmt *s;
    int r = store_sql(&c->db, SQL_FILE_PLACES, &s, "ii", ino, (uint64_t)serial);
    while (r == 0 && (r = store_sql_step(&c->db, s)) > 0) {
        struct piece p = {.kind = PIECE_HOLE, .off = store_col(s, 0)};
        p.end = p.off + store_col(s, 1);
        if (p.end > p.off)
            store_pmap_set(&m, &p);
        r = 0;
    }
    if (r == 0)
        r = store_sql(&c->db, SQL_MISSING_AT, &s, "ii", ino, (uint64_t)serial);
    while (r == 0 && (r = store_sql_step(&c->db, s)) > 0) {
        store_pmap_cut(&m, store_col(s, 0), store_col(s, 0) + store_col(s, 1), NULL, NULL);
        r = 0;
    }
    *ret = store_pmap_end(&m);
    store_pmap_clear(&m);
    return r;
}

static void check_ranges(struct check *c, sqlite3_stmt *ranges, uint64_t ino, uint32_t serial)
{
    uint64_t end = 0;
    bool end_shared = true;
    sqlite3_bind_int64(ranges, 1, (sqlite3_int64)ino);
    sqlite3_bind_int64(ranges, 2, (sqlite3_int64)serial);
    int rc;
    while ((rc = sqlite3_step(ranges)) == SQLITE_ROW) {
        uint64_t foff = store_col(ranges, 0), to = foff + store_col(ranges, 1);
        bool shared = store_col(ranges, 2) != 0;
        if (foff < end && !(shared && end_shared))
            found(c, "data file %llu.%u: bytes at %llu belong to two rows", (unsigned long long)ino,
                  serial, (unsigned long long)foff);
        if (to > end) {
            end = to;
            end_shared = shared;
        }
    }
    if (rc != SQLITE_DONE)
        found(c, "database: %s", sqlite3_errmsg(c->db.h));
    sqlite3_reset(ranges);
}

static void check_file(struct check *c, uint64_t ino, uint32_t serial)
{
    const struct dmt_io *io = c->st->conf.io;
    char path[PATH_MAX];
    uint64_t end;
    struct stat sb;
    int r = needed_end(c, ino, serial, &end);
    if (r < 0 || end == 0) {
        if (r < 0)
            found(c, "data file %llu.%u: %s", (unsigned long long)ino, serial, dmt_strerror(r));
        return;
    }
    store_file_path(c->st, ino, serial, path, sizeof(path));
    int fd = io->open(io->ctx, path, O_RDONLY, 0);
    if (fd < 0) {
        found(c, "data file %llu.%u: %s", (unsigned long long)ino, serial, dmt_strerror(fd));
        return;
    }
    r = io->fstat(io->ctx, fd, &sb);
    io->close(io->ctx, fd);
    if (r < 0)
        found(c, "data file %llu.%u: %s", (unsigned long long)ino, serial, dmt_strerror(r));
    else if ((uint64_t)sb.st_size < end)
        found(c, "data file %llu.%u has %lld bytes, its rows name %llu", (unsigned long long)ino,
              serial, (long long)sb.st_size, (unsigned long long)end);
}

static int check_files(struct check *c)
{
    sqlite3_stmt *s, *ranges = NULL;
    if (sqlite3_prepare_v2(c->db.h, g_ranges, -1, &ranges, NULL) != SQLITE_OK)
        return store_db_code(&c->db);
    int r = store_sql(&c->db, SQL_DATAFILE_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(&c->db, s)) > 0) {
        uint64_t ino = store_col(s, 0);
        uint32_t serial = store_col32(s, 1);
        check_ranges(c, ranges, ino, serial);
        check_file(c, ino, serial);
        r = 0;
    }
    sqlite3_finalize(ranges);
    return r;
}

static void check_small(struct check *c)
{
    sqlite3_stmt *s;
    int r = store_sql(&c->db, SQL_CONTENT_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(&c->db, s)) > 0) {
        struct pmap m;
        store_pmap_init(&m);
        if (store_small_read(s, &m) < 0)
            found(c, "the map of the small content of inode %llu is damaged",
                  (unsigned long long)store_col(s, 3));
        store_pmap_clear(&m);
        r = 0;
    }
    if (r < 0)
        found(c, "database: %s", sqlite3_errmsg(c->db.h));
}

int dmt_store_check(struct dmt_store *st, void (*fn)(void *ctx, const char *finding), void *ctx,
                    struct dmt_err *err)
{
    struct check c = {.st = st, .fn = fn, .ctx = ctx};
    int r = store_db_open(&c.db, st->dir, STORE_DB_READ, err);
    if (r < 0)
        return r;
    if ((r = store_exec(&c.db, SQL_BEGIN, "")) < 0) {
        store_db_fail(&c.db, err, "check");
        store_db_close(&c.db);
        return r;
    }
    for (size_t i = 0; i < sizeof(g_questions) / sizeof(g_questions[0]); i++)
        ask(&c, g_questions[i]);
    check_small(&c);
    if (check_files(&c) < 0)
        found(&c, "database: %s", sqlite3_errmsg(c.db.h));
    store_db_close(&c.db);
    return c.findings;
}
