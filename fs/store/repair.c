/* repair.c: puts right what the check found, where the store itself says beyond doubt what is
 * right.
 *
 * Happy path: one transaction at synchronous=FULL: indexes, then each question that has a repair
 * and still finds something, then what the workspace adds; COMMIT. After that folders are made and
 * strays move to STORE/lost+found, under their path with dashes; nothing is ever deleted. Each step
 * is told before it is done. Cut off anywhere, the store is as before or further on, and the repair
 * may be repeated. Failure modes: an error before the COMMIT leaves the rows as they were; a file
 * that cannot be moved ends the repair. The caller has made sure that nothing is found that has no
 * repair, and that the journal has nothing that is not in the rows: what a replay needs (marks of
 * data files, counters) must not be touched under it. Thread: the checker's.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/store/check.h"

struct mend {
    struct dmt_checker *k;
    dmt_tell_fn tell;
    void *ctx;
    bool folder; /* lost+found is there */
};

__attribute__((format(printf, 2, 3))) static void told(struct mend *m, const char *fmt, ...)
{
    char text[PATH_MAX + 256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    m->tell(m->ctx, text);
}

static int execute(struct dmt_checker *k, const char *text)
{
    return sqlite3_exec(k->wr.h, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_db_code(&k->wr);
}

/* How many rows a question finds; the first sentence into text. */
static int count_rows(struct dmt_checker *k, const struct question *q, char text[512], uint64_t *n)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(k->wr.h, q->ask, -1, &s, NULL);
    *n = 0;
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc == SQLITE_ROW && (*n)++ == 0)
            snprintf(text, 512, "%s", (const char *)sqlite3_column_text(s, 0));
    }
    int r = rc == SQLITE_DONE ? 0 : store_db_code(&k->wr);
    sqlite3_finalize(s);
    return r;
}

static int mend_rows(struct mend *m)
{
    int r = 0;
    for (const struct question *q = g_check_rows; r == 0 && q->kind; q++) {
        char text[512];
        uint64_t n;
        if (!q->repair || (r = count_rows(m->k, q, text, &n)) < 0 || n == 0)
            continue;
        if (n == 1)
            told(m, "%s: %s", text, q->todo + strlen("--repair "));
        else
            told(m, "%s, and %llu more like it: %s", text, (unsigned long long)(n - 1),
                 q->todo + strlen("--repair "));
        r = execute(m->k, q->repair);
    }
    return r;
}

static int mend_database(struct mend *m, int (*more)(void *ctx), struct dmt_err *err)
{
    struct dmt_checker *k = m->k;
    int r = store_db_open(&k->wr, k->st.dir, STORE_DB_WRITE, err);
    if (r < 0)
        return r;
    r = store_exec(&k->wr, SQL_BEGIN_WRITE, "");
    if (r == 0 && k->c.reindex) {
        told(m, "an index lacks rows that its table has: builds the indexes again");
        r = execute(k, "REINDEX");
    }
    if (r == 0)
        r = mend_rows(m);
    if (r == 0 && more)
        r = more(m->ctx);
    if (r == 0)
        r = store_exec(&k->wr, SQL_COMMIT, "");
    if (r < 0) {
        dmt_err_set(err, r, "the database cannot be repaired: %s",
                    sqlite3_errcode(k->wr.h) ? sqlite3_errmsg(k->wr.h) : dmt_strerror(r));
        sqlite3_exec(k->wr.h, "ROLLBACK", NULL, NULL, NULL);
    }
    store_db_close(&k->wr);
    return r;
}

static int make_folder(void *ctx, const char *path)
{
    struct mend *m = ctx;
    told(m, "the folder %s is missing: makes it", path);
    const struct dmt_io *io = m->k->st.conf.io;
    return dmt_io_mkdirs(io, path, 0700);
}

/* A name in lost+found that is free: the path with dashes, and a number if it is taken. */
static int free_name(struct mend *m, const char *path, char to[PATH_MAX])
{
    char flat[NAME_MAX + 1];
    snprintf(flat, sizeof(flat), "%.*s", NAME_MAX - 16, path);
    for (char *p = flat; *p; p++)
        if (*p == '/')
            *p = '-';
    for (unsigned i = 0; i < 1000; i++) {
        int n = i ? snprintf(to, PATH_MAX, "%s/lost+found/%s.%u", m->k->st.dir, flat, i)
                  : snprintf(to, PATH_MAX, "%s/lost+found/%s", m->k->st.dir, flat);
        if (n >= PATH_MAX)
            return -ENAMETOOLONG;
        if (faccessat(AT_FDCWD, to, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
            return 0;
    }
    return -EEXIST;
}

static int move_stray(void *ctx, const char *path, const char *why)
{
    struct mend *m = ctx;
    const struct dmt_io *io = m->k->st.conf.io;
    char from[PATH_MAX], to[PATH_MAX];
    snprintf(from, sizeof(from), "%s/lost+found", m->k->st.dir);
    int r = m->folder ? 0 : dmt_io_mkdirs(io, from, 0700);
    m->folder = r == 0;
    if (r == 0)
        r = free_name(m, path, to);
    if (r < 0)
        return r;
    snprintf(from, sizeof(from), "%s/%s", m->k->st.dir, path);
    told(m, "%s %s: moves it to %s", path, why, to);
    return io->rename(io->ctx, from, to);
}

int dmt_checker_repair(struct dmt_checker *k, int (*more)(void *ctx), dmt_tell_fn tell, void *ctx,
                       struct dmt_err *err)
{
    struct mend m = {.k = k, .tell = tell, .ctx = ctx};
    DMT_ASSERT(k->state.open && k->c.lossy == 0 && k->c.settled);
    (void)store_exec(&k->c.db, SQL_COMMIT, ""); /* what it has read is about to change */
    int r = mend_database(&m, more, err);
    if (r < 0)
        return r;
    r = check_folders(&k->c, make_folder, &m);
    if (r == 0)
        r = check_strays(&k->c, move_stray, &m);
    if (r == 0 && m.folder)
        r = k->st.conf.io->sync_dir(k->st.conf.io->ctx, k->st.dir);
    return r < 0 ? dmt_err_set(err, r, "the files of the store cannot be put in order: %s",
                               dmt_strerror(r))
                 : 0;
}
