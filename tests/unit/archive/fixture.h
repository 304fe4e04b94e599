/* fixture.h: a workspace with an archiver in a scratch directory, for the tests of fs/archive. Short forms assert success. */
#ifndef DMT_TESTS_ARCHIVE_FIXTURE_H
#define DMT_TESTS_ARCHIVE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "fs/archive/archive.h"
#include "fs/archive/series.h"

extern char **environ;

struct machine {
    char dir[64];   /* scratch of the whole test, not owned */
    char store[160];
    char node[16];
    struct dmt_pool *pool;
    struct dmt_ws *ws;
    struct dmt_archiver *ar;
    uint64_t epoch;
    _Atomic uint64_t archived;
    _Atomic uint64_t hold; /* limit() gives at most this; 0 = no such bound */
};

struct fx {
    char dir[64];
    char url[192];
    struct machine a, b;
    /* small objects make many of them */
    uint32_t pack_bytes, pack_ms, part_bytes;
};

static inline void fx_ok(int r, const struct dmt_err *err)
{
    if (r < 0)
        fail_msg("%d: %s", r, err && err->msg[0] ? err->msg : dmt_strerror(r));
}

static inline int fx_rm_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st, (void)flag, (void)f;
    return remove(path);
}

static inline void fx_rm(const char *dir)
{
    nftw(dir, fx_rm_one, 32, FTW_DEPTH | FTW_PHYS);
}

static inline void fx_run(const char *prog, const char *x, const char *y, const char *z)
{
    char *argv[] = {(char *)(uintptr_t)prog, (char *)(uintptr_t)x, (char *)(uintptr_t)y, (char *)(uintptr_t)z, NULL};
    pid_t pid;
    int st = -1;
    assert_int_equal(posix_spawnp(&pid, prog, NULL, NULL, argv, environ), 0);
    assert_int_equal(waitpid(pid, &st, 0), pid);
    assert_int_equal(st, 0);
}

static inline uint64_t fx_limit(void *ctx)
{
    struct machine *m = ctx;
    uint64_t d = dmt_journal_durable(dmt_ws_journal(m->ws)), hold = atomic_load(&m->hold);
    return hold && hold < d ? hold : d;
}

static inline void fx_archived(void *ctx, uint64_t seq)
{
    struct machine *m = ctx;
    atomic_store(&m->archived, seq);
    dmt_ws_set_retention(m->ws, UINT64_MAX, seq);
}

static inline void fx_open_ws(struct machine *m)
{
    struct dmt_err err = {0};
    struct dmt_ws_conf conf = {.io = dmt_io_real(),
                               .clock = dmt_clock_real(),
                               .dir = m->store,
                               .gate = dmt_gate_open(),
                               .pool = m->pool,
                               .level = DMT_SYNC_LOCAL,
                               .segment_bytes = 2u << 20};
    fx_ok(dmt_ws_open(&m->ws, &conf, &err), &err);
}

/* Opens as holder under the next epoch: minor for the same machine, major = true after a failover. */
static inline void fx_serve(struct machine *m, bool major)
{
    struct dmt_err err = {0};
    fx_open_ws(m);
    uint64_t tail = dmt_journal_tail(dmt_ws_journal(m->ws)).epoch;
    m->epoch = major || !tail ? ((tail >> 32) + 1) << 32 : tail + 1;
    dmt_ws_set_retention(m->ws, UINT64_MAX, 0);
    fx_ok(dmt_ws_begin_epoch(m->ws, m->epoch, m->node, "test", &err), &err);
}

static inline void fx_close_ws(struct machine *m)
{
    struct dmt_err err = {0};
    fx_ok(dmt_ws_close(m->ws, &err), &err);
    m->ws = NULL;
}

static inline void fx_machine(struct fx *f, struct machine *m, const char *node)
{
    memset(m, 0, sizeof(*m));
    memcpy(m->dir, f->dir, sizeof(m->dir));
    snprintf(m->node, sizeof(m->node), "%s", node);
    snprintf(m->store, sizeof(m->store), "%.60s/store-%s", f->dir, node);
    assert_int_equal(dmt_pool_new(&m->pool, "pool", 2, 64), 0);
}

static inline void fx_create(struct machine *m)
{
    struct dmt_err err = {0};
    struct dmt_store_conf sc = {.io = dmt_io_real(), .clock = dmt_clock_real(), .dir = m->store};
    struct dmt_store_ident id = {.name = "test"};
    dmt_random(id.lineage, 16);
    dmt_random(id.store_id, 16);
    assert_int_equal(mkdir(m->store, 0700), 0);
    fx_ok(dmt_store_create(&sc, &id, S_IFDIR | 0751, 1000, 1001, dmt_clock_real()->realtime_ns(NULL), &err), &err);
}

static inline int fx_try_archive(struct fx *f, struct machine *m, struct dmt_err *err)
{
    struct dmt_archiver_conf c = {.url = f->url,
                                  .store_dir = m->store,
                                  .node = m->node,
                                  .ws = m->ws,
                                  .limit = fx_limit,
                                  .archived = fx_archived,
                                  .ctx = m,
                                  .pack_bytes = f->pack_bytes,
                                  .pack_ms = f->pack_ms,
                                  .part_bytes = f->part_bytes};
    memcpy(c.lineage, dmt_store_ident(dmt_ws_store(m->ws))->lineage, 16);
    return dmt_archiver_start(&m->ar, &c, err);
}

static inline void fx_archive(struct fx *f, struct machine *m)
{
    struct dmt_err err = {0};
    fx_ok(fx_try_archive(f, m, &err), &err);
}

static inline void fx_archive_stop(struct machine *m)
{
    dmt_archiver_stop(m->ar);
    m->ar = NULL;
}

static inline void fx_nap(void)
{
    usleep(5000);
}

/* Waits (a minute at most) for a condition. */
#define FX_WAIT(cond)                                                                                                  \
    do {                                                                                                               \
        int fx_n = 12000;                                                                                              \
        while (!(cond) && --fx_n)                                                                                      \
            fx_nap();                                                                                                  \
        if (!fx_n)                                                                                                     \
            fail_msg("waited too long for " #cond);                                                                    \
    } while (0)

static inline uint64_t fx_sync(struct machine *m)
{
    assert_int_equal(dmt_ws_sync_wait(m->ws, 0), 0);
    return dmt_journal_tail(dmt_ws_journal(m->ws)).seq;
}

/* Everything that is in the workspace now is in the archive. */
static inline uint64_t fx_flush(struct machine *m)
{
    uint64_t seq = fx_sync(m);
    int n = 12000;
    while (atomic_load(&m->archived) < seq && --n) {
        dmt_archiver_flush(m->ar);
        fx_nap();
    }
    if (!n) {
        struct dmt_archive_status s;
        dmt_archiver_status(m->ar, &s);
        fail_msg("not archived in time: %llu of %llu, %s", (unsigned long long)s.archived_seq, (unsigned long long)seq,
                 s.last_error);
    }
    return seq;
}

static inline void fx_digest(struct dmt_ws *ws, char ret[65])
{
    struct dmt_err err = {0};
    fx_ok(dmt_ws_digest(ws, DMT_LIVE, ret, &err), &err);
}

static inline uint64_t fx_make(struct machine *m, uint64_t parent, const char *name, uint32_t mode)
{
    struct dmt_op op = {.uid = 1000, .gid = 1000};
    struct dmt_attr at;
    fx_ok(dmt_ws_make(m->ws, &op, parent, name, mode, 0, NULL, &at), NULL);
    return at.node;
}

static inline void fx_write(struct machine *m, uint64_t ino, const void *p, size_t len, uint64_t off)
{
    struct dmt_op op = {0};
    fx_ok(dmt_ws_write(m->ws, &op, ino, p, len, off, false), NULL);
}

static inline void fx_fill(uint8_t *p, size_t n, uint64_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t)x;
    }
}

/* A file written in 1 MiB calls, so that most of it goes by reference. */
static inline uint64_t fx_big(struct machine *m, const char *name, size_t bytes, uint64_t seed)
{
    uint64_t ino = fx_make(m, DMT_ROOT, name, S_IFREG | 0644);
    uint8_t *p = malloc(1u << 20);
    for (size_t at = 0; at < bytes; at += 1u << 20) {
        size_t n = bytes - at < 1u << 20 ? bytes - at : 1u << 20;
        fx_fill(p, n, seed + at);
        fx_write(m, ino, p, n, at);
    }
    free(p);
    return ino;
}

/* Some of everything, different for each seed. */
static inline void fx_work(struct machine *m, uint64_t seed, int n)
{
    char name[64];
    uint8_t p[9000];
    for (int i = 0; i < n; i++) {
        struct dmt_op op = {0};
        snprintf(name, sizeof(name), "d%llu-%d", (unsigned long long)seed, i);
        uint64_t d = fx_make(m, DMT_ROOT, name, S_IFDIR | 0755);
        uint64_t ino = fx_make(m, d, "file", S_IFREG | 0600);
        fx_fill(p, sizeof(p), seed * 1000 + (uint64_t)i);
        fx_write(m, ino, p, sizeof(p), 0);
        fx_write(m, ino, "changed", 7, 4000);
        fx_ok(dmt_ws_setxattr(m->ws, &op, ino, "user.k", name, strlen(name), 0), NULL);
        fx_ok(dmt_ws_rename(m->ws, &op, d, "file", DMT_ROOT, "renamed", 0), NULL);
        fx_make(m, d, "gone", S_IFREG | 0600);
        fx_ok(dmt_ws_unlink(m->ws, &op, d, "gone", false), NULL);
        struct dmt_attr at;
        fx_ok(dmt_ws_make(m->ws, &op, d, "link", S_IFLNK | 0777, 0, name, &at), NULL);
    }
}

/* Restores into scratch and returns the digest; the restored store is removed unless keep is given (its path then). */
static inline int fx_restore(struct fx *f, uint64_t to_seq, uint64_t to_time, struct dmt_restore *ret, char digest[65],
                             struct dmt_err *err)
{
    static int serial;
    char dir[96], part[128];
    struct dmt_restore r = {.url = f->url, .name = "copy", .dir = dir, .to_seq = to_seq, .to_time_ns = to_time};
    snprintf(dir, sizeof(dir), "%.60s/restored-%d", f->dir, serial++);
    snprintf(part, sizeof(part), "%s.part", dir);
    int rc = dmt_archive_restore(&r, err);
    assert_int_equal(access(part, F_OK), -1); /* nothing half-made is left, whatever happened */
    if (rc) {
        assert_int_equal(access(dir, F_OK), -1);
        return rc;
    }
    struct machine m;
    fx_machine(f, &m, "copy");
    snprintf(m.store, sizeof(m.store), "%s", dir);
    fx_serve(&m, true);
    fx_digest(m.ws, digest);
    fx_close_ws(&m);
    dmt_pool_free(m.pool);
    fx_rm(dir);
    if (ret)
        *ret = r;
    return 0;
}

static inline void fx_restore_equal(struct fx *f, uint64_t to_seq, const char *digest)
{
    struct dmt_err err = {0};
    struct dmt_restore r;
    char got[65];
    fx_ok(fx_restore(f, to_seq, 0, &r, got, &err), &err);
    if (r.incomplete)
        fail_msg("%llu files incomplete at %llu", (unsigned long long)r.incomplete, (unsigned long long)r.reached.seq);
    if (to_seq)
        assert_int_equal(r.reached.seq, to_seq);
    assert_string_equal(got, digest);
}

static inline int fx_setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));
    if (!f)
        return -1;
    snprintf(f->dir, sizeof(f->dir), "/var/tmp/dumont-archiver.XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    snprintf(f->url, sizeof(f->url), "file://%s/archive", f->dir);
    fx_machine(f, &f->a, "a");
    fx_machine(f, &f->b, "b");
    f->pack_ms = 20;
    f->pack_bytes = 64u << 10;
    f->part_bytes = 1u << 20;
    *state = f;
    return 0;
}

static inline int fx_teardown(void **state)
{
    struct fx *f = *state;
    struct machine *v[] = {&f->a, &f->b};
    for (int i = 0; i < 2; i++) {
        dmt_archiver_stop(v[i]->ar);
        if (v[i]->ws)
            dmt_ws_close(v[i]->ws, NULL);
        dmt_pool_free(v[i]->pool);
    }
    if (!getenv("KEEP"))
        fx_rm(f->dir);
    free(f);
    return 0;
}

#endif
