/* util.h: a store in a scratch directory, on a disk that can fail (tests/lib/faultio.h), and short names for what tests do
 * often. */
#ifndef DMT_TESTS_STORE_UTIL_H
#define DMT_TESTS_STORE_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/base/limits.h"
#include "fs/store/internal.h"
#include "tests/lib/faultio.h"

#define TS_SMALL_MAX 16384u /* so that files of a few blocks are of either kind */

#define OK(call) assert_int_equal((call), 0)

struct ts {
    char dir[64];
    struct faultio *fio;
    struct dmt_store_conf conf;
    struct dmt_store_ident id;
    struct dmt_store *st;
    uint64_t seq;
    pthread_mutex_t mutex;
    struct dmt_lockfn lk;
};

/* Appends to a text of TS_TEXT bytes that a callback fills. */
#define TS_TEXT 256
__attribute__((format(printf, 2, 3))) static inline void ts_say(char *text, const char *fmt, ...)
{
    size_t n = strlen(text);
    va_list ap;
    va_start(ap, fmt);
    int more = vsnprintf(text + n, TS_TEXT - n, fmt, ap);
    va_end(ap);
    assert_in_range(more, 0, TS_TEXT - n - 1);
}

static inline void ts_lock(void *ctx)
{
    pthread_mutex_lock(ctx);
}
static inline void ts_unlock(void *ctx)
{
    pthread_mutex_unlock(ctx);
}

static inline void ts_open(struct ts *t)
{
    struct dmt_err err = {0};
    if (dmt_store_open(&t->st, &t->conf, &err) < 0)
        fail_msg("open: %s", err.msg);
}

static inline struct ts *ts_new(void)
{
    struct ts *t = calloc(1, sizeof(*t));
    struct dmt_err err = {0};
    assert_non_null(t);
    strcpy(t->dir, "/var/tmp/dmt-store-unit-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    pthread_mutex_init(&t->mutex, NULL);
    t->lk = (struct dmt_lockfn){ts_lock, ts_unlock, &t->mutex};
    t->conf = (struct dmt_store_conf){.io = dmt_io_real(), .clock = dmt_clock_real(), .dir = t->dir, .small_max = TS_SMALL_MAX};
    memset(t->id.lineage, 1, sizeof(t->id.lineage));
    memset(t->id.store_id, 2, sizeof(t->id.store_id));
    strcpy(t->id.name, "unit");
    if (dmt_store_create(&t->conf, &t->id, S_IFDIR | 0755, 10, 20, 30, &err) < 0)
        fail_msg("create: %s", err.msg);
    t->fio = faultio_new(t->dir, 1);
    t->conf.io = faultio_io(t->fio);
    ts_open(t);
    return t;
}

static inline void ts_free(struct ts *t)
{
    char cmd[128];
    dmt_store_close(t->st);
    faultio_free(t->fio);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", t->dir);
    assert_int_equal(system(cmd), 0);
    pthread_mutex_destroy(&t->mutex);
    free(t);
}

static inline void ts_freeze(struct ts *t)
{
    struct dmt_pos pos = {.epoch = 1, .seq = t->seq, .chain = t->seq + 100};
    OK(dmt_store_freeze(t->st, &pos));
}

static inline void ts_checkpoint(struct ts *t)
{
    struct dmt_err err = {0};
    if (!t->st->batch)
        ts_freeze(t);
    if (dmt_store_checkpoint(t->st, &t->lk, &err) < 0)
        fail_msg("checkpoint: %s", err.msg);
}

static inline void ts_reopen(struct ts *t)
{
    dmt_store_close(t->st);
    ts_open(t);
}

/* checkpoint + reopen: everything comes from disk afterwards */
static inline void ts_cold(struct ts *t)
{
    ts_checkpoint(t);
    ts_reopen(t);
}

static inline void ts_inode(struct ts *t, uint64_t ino, uint64_t size)
{
    struct dmt_inode n = {.ino = ino, .mode = S_IFREG | 0644, .nlink = 1, .size = size, .mtime = 1000 + t->seq, .seq = t->seq};
    OK(dmt_store_inode_put(t->st, &n));
}

static inline void ts_file(struct ts *t, uint64_t ino)
{
    t->seq++;
    ts_inode(t, ino, 0);
}

static inline void ts_write(struct ts *t, uint64_t ino, uint64_t off, const void *p, size_t len)
{
    struct dmt_inode n;
    t->seq++;
    OK(dmt_store_write(t->st, ino, off, p, len, t->seq));
    OK(dmt_store_inode_get(t->st, DMT_LIVE, ino, &n));
    ts_inode(t, ino, off + len > n.size ? off + len : n.size);
}

static inline void ts_fill(struct ts *t, uint64_t ino, uint64_t off, size_t len, int byte)
{
    uint8_t *p = malloc(len);
    assert_non_null(p);
    memset(p, byte, len);
    ts_write(t, ino, off, p, len);
    free(p);
}

/* A by-reference write of one byte's repetition: bytes first if put, then the record. Returns its seq. */
static inline uint64_t ts_ref(struct ts *t, uint64_t ino, uint64_t off, size_t len, int byte, bool put)
{
    struct dmt_place pl;
    struct dmt_inode n;
    uint8_t *p = malloc(len);
    assert_non_null(p);
    memset(p, byte, len);
    OK(dmt_store_ref_place(t->st, ino, off, len, &pl));
    if (put)
        OK(dmt_store_ref_put(t->st, &pl, p, len));
    free(p);
    t->seq++;
    OK(dmt_store_write_ref(t->st, ino, off, len, t->seq));
    OK(dmt_store_inode_get(t->st, DMT_LIVE, ino, &n));
    ts_inode(t, ino, off + len > n.size ? off + len : n.size);
    return t->seq;
}

static inline void ts_truncate(struct ts *t, uint64_t ino, uint64_t size)
{
    t->seq++;
    OK(dmt_store_truncate(t->st, ino, size, t->seq));
    ts_inode(t, ino, size);
}

static inline int ts_read(struct ts *t, uint64_t view, uint64_t ino, uint64_t off, void *buf, size_t len)
{
    struct dmt_pieces ps;
    int r = dmt_store_map(t->st, view, ino, off, buf, len, &ps);
    if (r < 0)
        return r;
    r = dmt_store_pieces_read(t->st, &ps, off, buf, false);
    dmt_store_pieces_free(t->st, &ps);
    return r;
}

/* All of [off, off+len) is that byte? */
static inline void ts_expect(struct ts *t, uint64_t view, uint64_t ino, uint64_t off, size_t len, int byte)
{
    uint8_t *p = malloc(len);
    assert_non_null(p);
    OK(ts_read(t, view, ino, off, p, len));
    for (size_t i = 0; i < len; i++)
        if (p[i] != byte)
            fail_msg("inode %llu view %lld: byte %llu is %02x, not %02x", (unsigned long long)ino, (long long)view,
                     (unsigned long long)(off + i), p[i], (unsigned)byte);
    free(p);
}

static inline void ts_snap(struct ts *t, const char *name)
{
    struct dmt_snapshot s = {.serial = t->seq + 1, .seq = ++t->seq, .epoch = 1};
    snprintf(s.name, sizeof(s.name), "%s", name);
    OK(dmt_store_snap_put(t->st, &s));
}

static inline void ts_entry(struct ts *t, uint64_t dir, const char *name, uint64_t ino, uint32_t cookie)
{
    OK(dmt_store_dentry_put(t->st, dir, name, strlen(name), ino, S_IFREG, cookie, ++t->seq));
}

/* One number out of the database file. */
static inline int64_t ts_sql(struct ts *t, const char *text)
{
    sqlite3 *h;
    sqlite3_stmt *s;
    char path[96];
    snprintf(path, sizeof(path), "%s/workspace.db", t->dir);
    OK(sqlite3_open_v2(path, &h, SQLITE_OPEN_READWRITE, NULL));
    OK(sqlite3_prepare_v2(h, text, -1, &s, NULL));
    int rc = sqlite3_step(s);
    int64_t v = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : -1;
    sqlite3_finalize(s);
    sqlite3_close(h);
    return v;
}

/* Findings, but for those about what only records keep right (link counts, epochs ...): a bare store has none. */
static inline bool ts_of_records(const struct dmt_finding *f)
{
    static const char *const kinds[] = {"links", "cookie", "subdirs", "epoch", "snapshot", "xattr-mark"};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strncmp(f->kind, kinds[i], strlen(kinds[i])) == 0 && strcmp(f->kind, "snapshot-range") != 0)
            return true;
    return false;
}
static inline void ts_note_finding(void *ctx, const struct dmt_finding *f)
{
    if (ts_of_records(f))
        return;
    print_message("found: %s: %s\n", f->kind, f->text);
    ++*(int *)ctx;
}
static inline int ts_findings(struct ts *t)
{
    struct dmt_err err = {0};
    int n = 0;
    assert_true(dmt_store_check(t->st, ts_note_finding, &n, &err) >= n);
    return n;
}

/* Copies the database aside and back: the faulty disk knows nothing of it. */
static inline void ts_power_cut(struct ts *t, enum faultio_mode mode)
{
    char cmd[512];
    faultio_cut(t->fio);
    snprintf(cmd, sizeof(cmd), "cd %s && rm -rf ../%s.db && mkdir ../%s.db && cp workspace.db* ../%s.db/ && rm -f ../%s.db/*-shm",
             t->dir,
             t->dir + 9, t->dir + 9, t->dir + 9, t->dir + 9);
    assert_int_equal(system(cmd), 0);
    dmt_store_close(t->st);
    faultio_restore(t->fio, mode);
    snprintf(cmd, sizeof(cmd), "cd %s && rm -f workspace.db* && cp ../%s.db/* . && rm -rf ../%s.db", t->dir, t->dir + 9,
             t->dir + 9);
    assert_int_equal(system(cmd), 0);
    ts_open(t);
}

#endif
