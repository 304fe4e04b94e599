/* fixture.h: a workspace in a scratch directory, and short forms of the operations, for the tests of fs/workspace.
 *
 * Each helper asserts success; where an error is the point the tests call dmt_ws_* themselves. A crash is made by copying the
 * store directory as it stands (fx_crash): whatever the process has not yet given to the kernel is lost, nothing is drained. */
#ifndef DMT_TESTS_WORKSPACE_FIXTURE_H
#define DMT_TESTS_WORKSPACE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "fs/workspace/ws.h"

#define FX_EPOCH(major, minor) ((uint64_t)(major) << 32 | (minor))
#define FX_OP(u) {.uid = (u), .gid = (u), .umask = 022}

struct fx {
    char dir[64];  /* scratch, removed at the end */
    char store[96];
    int generation; /* of store: a crash makes a new copy */
    struct dmt_ws *ws;
    struct dmt_pool *pool;
    struct dmt_ws_conf conf;
    uint32_t major, minor; /* epoch begun last */
    uint64_t invalidated;
    bool failed;
    bool keep_all; /* the journal keeps every record */
};

static inline void fx_check(int r, const struct dmt_err *err)
{
    if (r < 0)
        fail_msg("%d: %s", r, err && err->msg[0] ? err->msg : dmt_strerror(r));
}

static inline void fx_shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline void fx_shell(const char *fmt, ...)
{
    char cmd[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(cmd, sizeof(cmd), fmt, ap);
    va_end(ap);
    assert_int_equal(system(cmd), 0);
}

static inline void fx_invalidate(void *ctx, const uint64_t *inos, size_t n, bool all)
{
    (void)inos, (void)all;
    ((struct fx *)ctx)->invalidated += n;
}

static inline void fx_failed(void *ctx, const char *why)
{
    (void)why;
    ((struct fx *)ctx)->failed = true;
}

static inline void fx_create_store(const char *dir, uint8_t lineage, uint8_t id)
{
    struct dmt_err err = {0};
    struct dmt_store_ident ident = {.name = "test"};
    struct dmt_store_conf sc = {.io = dmt_io_real(), .clock = dmt_clock_real(), .dir = dir};
    memset(ident.lineage, lineage, 16);
    memset(ident.store_id, id, 16);
    assert_int_equal(mkdir(dir, 0700), 0);
    fx_check(dmt_store_create(&sc, &ident, S_IFDIR | 0755, 0, 0, 1000, &err), &err);
}

static inline void fx_open(struct fx *f, bool follower)
{
    struct dmt_err err = {0};
    f->conf.io = dmt_io_real();
    f->conf.clock = dmt_clock_real();
    f->conf.dir = f->store;
    f->conf.pool = f->pool;
    f->conf.level = f->conf.level ? f->conf.level : DMT_SYNC_LOCAL;
    f->conf.segment_bytes = f->conf.segment_bytes ? f->conf.segment_bytes : 4u << 20;
    f->conf.small_max = 16384; /* files of a few blocks are of either kind */
    f->conf.follower = follower;
    f->conf.invalidate = fx_invalidate;
    f->conf.failed = fx_failed;
    f->conf.ctx = f;
    fx_check(dmt_ws_open(&f->ws, &f->conf, &err), &err);
    dmt_ws_set_retention(f->ws, f->keep_all ? 0 : UINT64_MAX, UINT64_MAX);
}

/* Opens as holder with the next minor epoch. */
static inline void fx_serve(struct fx *f)
{
    struct dmt_err err = {0};
    fx_open(f, false);
    f->minor++;
    fx_check(dmt_ws_begin_epoch(f->ws, FX_EPOCH(f->major, f->minor), "alpha", "test", &err), &err);
}

static inline void fx_close(struct fx *f)
{
    struct dmt_err err = {0};
    fx_check(dmt_ws_close(f->ws, &err), &err);
    f->ws = NULL;
}

static inline void fx_scratch(struct fx *f, const char *store_name, uint8_t id)
{
    memset(f, 0, sizeof(*f));
    f->major = 1;
    strcpy(f->dir, "/var/tmp/dmt-ws-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->store, sizeof(f->store), "%s/%s", f->dir, store_name);
    fx_create_store(f->store, 7, id);
    assert_int_equal(dmt_pool_new(&f->pool, "pool", 2, 64), 0);
}

static inline int fx_setup(void **state)
{
    struct fx *f = malloc(sizeof(*f));
    assert_non_null(f);
    (void)dmt_log_init("test", NULL, DMT_LOG_ERROR);
    fx_scratch(f, "store", 1);
    fx_serve(f);
    *state = f;
    return 0;
}

static inline int fx_teardown(void **state)
{
    struct fx *f = *state;
    if (f->ws)
        fx_close(f);
    dmt_pool_free(f->pool);
    fx_shell("rm -rf %s", f->dir);
    free(f);
    return 0;
}

static inline void fx_reopen(struct fx *f)
{
    fx_close(f);
    fx_serve(f);
}

/* The store as a killed process leaves it becomes the store from now on; the old one is closed and dropped. */
static inline void fx_crash(struct fx *f)
{
    char next[96], old[96], copy[512];
    strcpy(old, f->store);
    (void)snprintf(next, sizeof(next), "%s/crash%d", f->dir, ++f->generation);
    pthread_mutex_lock(&f->ws->ckpt_run); /* not in the middle of SQLite's writing: cp is no snapshot */
    /* again when the journal's helper has renamed a file under cp */
    (void)snprintf(copy, sizeof(copy), "for i in 1 2 3 4 5; do cp -a %s %s && exit 0; rm -rf %s; done; exit 1", old, next, next);
    int r = system(copy);
    pthread_mutex_unlock(&f->ws->ckpt_run);
    assert_int_equal(r, 0);
    fx_close(f);
    fx_shell("rm -rf %s", old);
    strcpy(f->store, next);
    fx_serve(f);
}

/* --- operations ------------------------------------------------------------------------------------------ */

static inline uint64_t fx_make(struct fx *f, uint64_t parent, const char *name, uint32_t mode)
{
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    assert_int_equal(dmt_ws_make(f->ws, &op, parent, name, mode, 0, S_ISLNK(mode) ? "target" : NULL, &a), 0);
    assert_true(op.seq > 0);
    return a.node;
}

static inline uint64_t fx_file(struct fx *f, uint64_t parent, const char *name)
{
    return fx_make(f, parent, name, S_IFREG | 0644);
}

static inline uint64_t fx_dir(struct fx *f, uint64_t parent, const char *name)
{
    return fx_make(f, parent, name, S_IFDIR | 0755);
}

static inline void fx_write(struct fx *f, uint64_t ino, const void *p, size_t len, uint64_t off)
{
    struct dmt_op op = FX_OP(0);
    assert_int_equal(dmt_ws_write(f->ws, &op, ino, p, len, off, false), 0);
}

static inline void fx_text(struct fx *f, uint64_t ino, const char *text, uint64_t off)
{
    fx_write(f, ino, text, strlen(text), off);
}

/* len bytes of a pattern that depends on seed and offset. */
static inline void fx_pattern(uint8_t *p, size_t len, uint64_t off, uint32_t seed)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)((off + i) * 31 + ((off + i) >> 8) * 7 + seed * 101 + 1);
}

static inline void fx_fill(struct fx *f, uint64_t ino, size_t len, uint64_t off, size_t step, uint32_t seed)
{
    uint8_t *p = malloc(step);
    assert_non_null(p);
    for (size_t done = 0; done < len; done += step) {
        size_t n = len - done < step ? len - done : step;
        fx_pattern(p, n, off + done, seed);
        fx_write(f, ino, p, n, off + done);
    }
    free(p);
}

static inline void fx_expect_pattern(struct fx *f, uint64_t node, size_t len, uint64_t off, uint32_t seed)
{
    uint8_t *want = malloc(len), *got = malloc(len);
    assert_non_null(want);
    assert_non_null(got);
    fx_pattern(want, len, off, seed);
    assert_int_equal(dmt_ws_read(f->ws, node, got, len, off, false), (ssize_t)len);
    for (size_t i = 0; i < len; i++)
        if (want[i] != got[i])
            fail_msg("byte %zu of %zu at offset %llu differs", i, len, (unsigned long long)off);
    free(want);
    free(got);
}

static inline struct dmt_attr fx_attr(struct fx *f, uint64_t node)
{
    struct dmt_attr a;
    assert_int_equal(dmt_ws_getattr(f->ws, node, &a), 0);
    return a;
}

static inline uint64_t fx_lookup(struct fx *f, uint64_t parent, const char *name)
{
    struct dmt_attr a;
    int r = dmt_ws_lookup(f->ws, parent, name, &a);
    if (r == -ENOENT)
        return 0;
    assert_int_equal(r, 0);
    return a.node;
}

static inline void fx_expect_text(struct fx *f, uint64_t node, const char *text)
{
    char buf[4096];
    ssize_t n = dmt_ws_read(f->ws, node, buf, sizeof(buf) - 1, 0, false);
    assert_true(n >= 0);
    buf[n] = '\0';
    assert_string_equal(buf, text);
}

static inline int fx_try_rename(struct fx *f, uint64_t d1, const char *n1, uint64_t d2, const char *n2, uint32_t flags)
{
    struct dmt_op op = FX_OP(0);
    return dmt_ws_rename(f->ws, &op, d1, n1, d2, n2, flags);
}

static inline void fx_rename(struct fx *f, uint64_t d1, const char *n1, uint64_t d2, const char *n2)
{
    assert_int_equal(fx_try_rename(f, d1, n1, d2, n2, 0), 0);
}

static inline void fx_unlink(struct fx *f, uint64_t dir, const char *name)
{
    struct dmt_op op = FX_OP(0);
    assert_int_equal(dmt_ws_unlink(f->ws, &op, dir, name, false), 0);
}

static inline void fx_rmdir(struct fx *f, uint64_t dir, const char *name)
{
    struct dmt_op op = FX_OP(0);
    assert_int_equal(dmt_ws_unlink(f->ws, &op, dir, name, true), 0);
}

static inline void fx_link(struct fx *f, uint64_t ino, uint64_t dir, const char *name)
{
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    assert_int_equal(dmt_ws_link(f->ws, &op, ino, dir, name, &a), 0);
}

static inline void fx_truncate(struct fx *f, uint64_t ino, uint64_t size)
{
    struct dmt_op op = FX_OP(0);
    struct dmt_setattr sa = {.mask = DMT_SET_SIZE, .size = size};
    struct dmt_attr a;
    assert_int_equal(dmt_ws_setattr(f->ws, &op, ino, &sa, &a), 0);
}

static inline void fx_chmod(struct fx *f, uint64_t ino, uint32_t mode)
{
    struct dmt_op op = FX_OP(0);
    struct dmt_setattr sa = {.mask = DMT_SET_MODE, .mode = mode};
    struct dmt_attr a;
    assert_int_equal(dmt_ws_setattr(f->ws, &op, ino, &sa, &a), 0);
}

static inline void fx_setxattr(struct fx *f, uint64_t ino, const char *name, const char *val)
{
    struct dmt_op op = FX_OP(0);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, ino, name, val, strlen(val), 0), 0);
}

static inline void fx_checkpoint(struct fx *f)
{
    struct dmt_err err = {0};
    fx_check(dmt_ws_checkpoint(f->ws, &err), &err);
}

#endif
