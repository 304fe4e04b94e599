/* check_files.c: the files of the store against the rows: from the rows to the files, and from the
 * files to the rows.
 *
 * Happy path: per data file that has a mark, the ranges that rows name, in the order of their
 * place: no byte belongs to two rows unless both say "shared" (D2, D3), and the file is long enough
 * for all but the ranges that are missing (their bytes need not be there). Then, when nobody has
 * the store open, every name in the directory: a data file of an inode that lives may be there
 * without a row (a write that a crash cut off; the next one takes it over), one of an inode that is
 * gone may not. While the journal has records that the rows do not have, inode numbers beyond those
 * of the rows are not judged: the files may be theirs. Memory does not grow with files or ranges.
 * Failure modes: a file or folder that cannot be read is a finding. Thread: as check.c.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/store/check.h"

#define THEN_STRAY  "--repair moves it to lost+found in the store: nothing refers to it."
#define THEN_FOLDER "--repair makes it."

/* Ranges of one data file, each with its mark. */
static const char g_ranges[] =
    "SELECT foff, len, flags & 1 FROM extent WHERE owner=?1 AND serial=?2 AND ino=?1 UNION ALL "
    "SELECT foff, len, 1 FROM extent WHERE owner=?1 AND serial=?2 AND ino<>?1 AND flags & 1 UNION ALL "
    "SELECT foff, len, flags & 1 FROM extent_h WHERE owner=?1 AND serial=?2 AND ino=?1 AND data IS NULL UNION ALL "
    "SELECT foff, len, 1 FROM extent_h WHERE owner=?1 AND serial=?2 AND ino<>?1 AND flags & 1 AND data IS NULL ORDER BY 1, 2";

/* --- how long must a data file be? */

struct runs { /* rows of (off, len) in order, joined where they touch */
    struct store_db *db;
    sqlite3_stmt *s;
    uint64_t off, end; /* the row read last */
    bool row;
};

static int read_row(struct runs *u)
{
    int r = store_sql_step(u->db, u->s);
    u->row = r > 0;
    if (r > 0) {
        u->off = store_col(u->s, 0);
        u->end = u->off + store_col(u->s, 1);
    }
    return r;
}

static int runs_begin(struct runs *u, struct store_db *db, enum store_sql id, uint64_t ino,
                      uint32_t serial)
{
    u->db = db;
    int r = store_sql(db, id, &u->s, "ii", ino, (uint64_t)serial);
    return r == 0 ? read_row(u) : r;
}

/* The next run: 1, 0 at the end, < 0. */
static int runs_next(struct runs *u, uint64_t *off, uint64_t *end)
{
    if (!u->row)
        return 0;
    *off = u->off;
    *end = u->end;
    int r = 1;
    while (u->row && u->off <= *end && r > 0) {
        if (u->end > *end)
            *end = u->end;
        r = read_row(u);
    }
    return r < 0 ? r : 1;
}

/* Behind the last byte of [off, end) that no missing run covers. The runs go along. */
static int uncovered(struct runs *missing, uint64_t hole[2], uint64_t at, uint64_t end,
                     uint64_t *last)
{
    while (at < end) {
        while (hole[1] <= at) {
            int r = runs_next(missing, &hole[0], &hole[1]);
            if (r < 0)
                return r;
            if (r == 0)
                hole[0] = hole[1] = UINT64_MAX;
        }
        if (hole[0] > at)
            *last = hole[0] < end ? hole[0] : end;
        at = hole[0] < end ? (hole[1] < end ? hole[1] : end) : end;
    }
    return 0;
}

/* Behind the last byte of the file that must be there. */
static int needed_end(struct check *c, uint64_t ino, uint32_t serial, uint64_t *ret)
{
    struct runs places, missing;
    uint64_t off, end, hole[2] = {0, 0};
    *ret = 0;
    int r = runs_begin(&places, &c->db, SQL_FILE_PLACES, ino, serial);
    if (r >= 0)
        r = runs_begin(&missing, &c->db, SQL_MISSING_AT, ino, serial);
    while (r >= 0 && (r = runs_next(&places, &off, &end)) > 0)
        r = uncovered(&missing, hole, off, end, ret);
    return r < 0 ? r : 0;
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
            check_found(c, "twice", CHECK_THEN_COPY, false,
                        "data file %llu.%u: bytes at %llu belong to two rows",
                        (unsigned long long)ino, serial, (unsigned long long)foff);
        if (to > end) {
            end = to;
            end_shared = shared;
        }
    }
    if (rc != SQLITE_DONE)
        check_found(c, "database", CHECK_THEN_COPY, false, "database: %s", sqlite3_errmsg(c->db.h));
    sqlite3_reset(ranges);
}

static void check_file(struct check *c, uint64_t ino, uint32_t serial)
{
    const struct dmt_io *io = c->st->conf.io;
    char path[PATH_MAX];
    uint64_t end;
    struct stat sb = {0};
    int r = needed_end(c, ino, serial, &end);
    if (r == 0 && end == 0)
        return;
    if (r == 0) {
        store_file_path(c->st, ino, serial, path, sizeof(path));
        r = io->open(io->ctx, path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0);
    }
    if (r >= 0) {
        int fd = r;
        r = io->fstat(io->ctx, fd, &sb);
        io->close(io->ctx, fd);
    }
    if (r < 0)
        check_found(c, "file", CHECK_THEN_COPY, false,
                    "data file %llu.%u, with %llu bytes of inode %llu, cannot be read: %s",
                    (unsigned long long)ino, serial, (unsigned long long)end,
                    (unsigned long long)ino, dmt_strerror(r));
    else if (!S_ISREG(sb.st_mode))
        check_found(c, "file", CHECK_THEN_COPY, false, "data file %llu.%u is no file",
                    (unsigned long long)ino, serial);
    else if ((uint64_t)sb.st_size < end)
        check_found(c, "short", CHECK_THEN_COPY, false,
                    "data file %llu.%u has %lld bytes, its rows name %llu", (unsigned long long)ino,
                    serial, (long long)sb.st_size, (unsigned long long)end);
}

/* --- what lies in the directory */

static bool hex16(const char *p)
{
    return strspn(p, "0123456789abcdef") >= 16;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n > k && strcmp(name + n - k, end) == 0;
}

/* Why a name of the store's directory should not be there; NULL: it may. */
static const char *why_in_store(const char *name)
{
    static const char *const known[] = {
        "workspace.db",
        "workspace.db-wal",
        "workspace.db-shm",
        "data",
        "intent",
        "journal",
        "branches",
        "ballast",
        "lock",
        "node.state",
        "bucket.state",
        "archive.state",
        "boot_id",
        "whole",
        "whole.tmp",
        "proved",
        "node.state.tmp",
        "bucket.state.tmp",
        "archive.state.tmp",
        "boot_id.tmp",
        "proved.tmp",
        "lost+found",
        "suspect",
        "suspect.tmp",
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(name, known[i]) == 0)
            return NULL;
    if (strncmp(name, "workspace.db.new", 16) == 0 || strncmp(name, "resync.db", 9) == 0 ||
        strcmp(name, "scratch") == 0 || strcmp(name, "scratch-heal") == 0 ||
        strcmp(name, "scratch-diff") == 0)
        return "is left of something that did not come to its end";
    return "is no part of a store";
}

static const char *why_in_journal(const char *name)
{
    bool segment = strlen(name) == 20 && hex16(name) && ends_with(name, ".seg");
    bool spare = strlen(name) == 22 && strncmp(name, "spare-", 6) == 0 && hex16(name + 6);
    return segment || spare || strcmp(name, "prepare.tmp") == 0 ? NULL : "is no part of a journal";
}

static const char *why_in_branches(const char *name)
{
    /* NAME.copy goes on when the other machine is there; NAME.removed is what is left of one */
    return ends_with(name, ".new") || ends_with(name, ".scratch") || ends_with(name, ".tmp") ||
                   strncmp(name, ".", 1) == 0
               ? "is left of something that did not come to its end"
               : NULL;
}

/* Rows that know about a data file: (mark, inode, greatest serial marked, garbage). */
static const char g_file[] =
    "SELECT EXISTS(SELECT 1 FROM datafile WHERE ino=?1 AND serial=?2), EXISTS(SELECT 1 FROM inode WHERE ino=?1), "
    "(SELECT coalesce(max(serial),0) FROM datafile WHERE ino=?1), EXISTS(SELECT 1 FROM garbage WHERE ino=?1 AND serial=?2)";

struct listing {
    struct check *c;
    sqlite3_stmt *file;
    uint64_t ino_max;
    unsigned folder;
};

static const char *why_in_data(struct listing *l, const char *name)
{
    unsigned long long ino, serial;
    char again[48];
    if (sscanf(name, "%20llu.%10llu", &ino, &serial) != 2 || serial > UINT32_MAX)
        return "is no data file";
    snprintf(again, sizeof(again), "%llu.%llu", ino, serial);
    if (strcmp(name, again) != 0 || (ino & 0xff) != l->folder)
        return "is no data file";
    if (!l->c->settled && ino > l->ino_max)
        return NULL;
    sqlite3_bind_int64(l->file, 1, (sqlite3_int64)ino);
    sqlite3_bind_int64(l->file, 2, (sqlite3_int64)serial);
    const char *why = NULL;
    if (sqlite3_step(l->file) == SQLITE_ROW && !store_col(l->file, 0) && !store_col(l->file, 3)) {
        if (!store_col(l->file, 1))
            why = "is of an inode that is gone";
        else if (serial && serial < store_col(l->file, 2))
            why = "is of an earlier time of its inode";
    }
    sqlite3_reset(l->file);
    return why;
}

/* Every name in a folder of the store. */
static int each_name(struct listing *l, const char *folder, stray_fn fn, void *ctx)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s", l->c->st->dir, folder);
    DIR *d = opendir(path);
    int r = d || errno == ENOENT ? 0 : -errno;
    for (const struct dirent *e; r == 0 && d && (e = readdir(d)) != NULL;) {
        const char *name = e->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        const char *why = !*folder                          ? why_in_store(name)
                          : strcmp(folder, "journal") == 0  ? why_in_journal(name)
                          : strcmp(folder, "branches") == 0 ? why_in_branches(name)
                                                            : why_in_data(l, name);
        snprintf(path, sizeof(path), "%s%s%s", folder, *folder ? "/" : "", name);
        if (why)
            r = fn(ctx, path, why);
    }
    if (d)
        closedir(d);
    return r;
}

static int data_names(struct listing *l, stray_fn fn, void *ctx)
{
    char path[PATH_MAX], folder[16];
    int r = 0;
    for (l->folder = 0; r == 0 && l->folder < 256; l->folder++) {
        snprintf(folder, sizeof(folder), "data/%02x", l->folder);
        r = each_name(l, folder, fn, ctx);
    }
    snprintf(path, sizeof(path), "%s/data", l->c->st->dir);
    DIR *d = r == 0 ? opendir(path) : NULL;
    for (const struct dirent *e; d && r == 0 && (e = readdir(d)) != NULL;) {
        unsigned n;
        if (e->d_name[0] == '.' || (sscanf(e->d_name, "%2x", &n) == 1 && strlen(e->d_name) == 2))
            continue;
        snprintf(path, sizeof(path), "data/%s", e->d_name);
        r = fn(ctx, path, "is no folder of data files");
    }
    if (d)
        closedir(d);
    return r;
}

int check_strays(struct check *c, stray_fn fn, void *ctx)
{
    struct listing l = {.c = c};
    sqlite3_stmt *s;
    int r = store_sql(&c->db, SQL_INODE_MAX, &s, "");
    if (r == 0 && (r = store_sql_step(&c->db, s)) > 0) {
        l.ino_max = store_col(s, 0);
        store_sql_done(s);
        r = 0;
    }
    if (r == 0 && sqlite3_prepare_v2(c->db.h, g_file, -1, &l.file, NULL) != SQLITE_OK)
        r = store_db_code(&c->db);
    if (r == 0)
        r = each_name(&l, "", fn, ctx);
    if (r == 0)
        r = each_name(&l, "journal", fn, ctx);
    if (r == 0)
        r = each_name(&l, "branches", fn, ctx);
    if (r == 0)
        r = data_names(&l, fn, ctx);
    sqlite3_finalize(l.file);
    return r;
}

int check_folders(struct check *c, int (*fn)(void *ctx, const char *path), void *ctx)
{
    char path[PATH_MAX];
    int r = 0;
    for (unsigned i = 0; r == 0 && i < 256; i++) {
        struct stat sb;
        snprintf(path, sizeof(path), "%s/data/%02x", c->st->dir, i);
        if (stat(path, &sb) < 0 && errno == ENOENT)
            r = fn(ctx, path);
    }
    return r;
}

/* --- as findings */

static int found_stray(void *ctx, const char *path, const char *why)
{
    check_found(ctx, "stray", THEN_STRAY, true, "%s %s", path, why);
    return 0;
}

static int found_no_folder(void *ctx, const char *path)
{
    check_found(ctx, "folder", THEN_FOLDER, true, "the folder %s is missing", path);
    return 0;
}

void check_files(struct check *c)
{
    sqlite3_stmt *s, *ranges = NULL;
    int r = sqlite3_prepare_v2(c->db.h, g_ranges, -1, &ranges, NULL) == SQLITE_OK
                ? store_sql(&c->db, SQL_DATAFILE_ALL, &s, "")
                : store_db_code(&c->db);
    while (r == 0 && (r = store_sql_step(&c->db, s)) > 0) {
        uint64_t ino = store_col(s, 0);
        uint32_t serial = store_col32(s, 1);
        check_ranges(c, ranges, ino, serial);
        check_file(c, ino, serial);
        r = 0;
    }
    sqlite3_finalize(ranges);
    if (r == 0 && c->whole)
        r = check_strays(c, found_stray, c);
    if (r == 0 && c->whole)
        r = check_folders(c, found_no_folder, c);
    if (r < 0)
        check_found(c, "database", CHECK_THEN_COPY, false, "the store cannot be read: %s",
                    dmt_strerror(r));
    check_kind_end(c);
}
