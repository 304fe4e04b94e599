/* bench.h: the place where sequences run: directories on a memory file system, the store that every run begins with, a clock that
 * stands still, and opening and closing workspaces there.
 *
 * The clock stands still so that two runs of a sequence give the same times and nothing happens by itself. One bench a
 * process. */
#ifndef DMT_TESTS_CRASH_BENCH_H
#define DMT_TESTS_CRASH_BENCH_H

#include <ftw.h>
#include "tests/crash/workspace/ops.h"
#include "tests/lib/faultio.h"

struct bench {
    char dir[48];
    char work[64], ref[64], out[64], again[64], native[64]; /* below dir */
    struct faultio_state *start; /* the store that runs begin with */
    struct dmt_pool *pool;
    uint64_t segment_bytes, ballast_bytes;
    struct dmt_err err;
};

/* Where the programs' errors go: a test whose disk fails has too many. NULL: stderr. */
static const char *g_log;

static inline uint64_t bench_time(void *ctx)
{
    (void)ctx;
    return 1000000 * DMT_S;
}

static const struct dmt_clock g_clock = {NULL, bench_time, bench_time};

__attribute__((format(printf, 1, 2))) static inline void shell(const char *fmt, ...)
{
    char cmd[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(cmd, sizeof(cmd), fmt, ap);
    va_end(ap);
    DMT_ASSERT(system(cmd) == 0);
}

/* Opens as holder with the next epoch and settles; NULL with b->err. */
static inline struct dmt_ws *bench_open(struct bench *b, const struct dmt_io *io, const char *dir, bool same_boot)
{
    struct dmt_ws *ws = NULL;
    struct dmt_ws_conf conf = {.io = io, .clock = &g_clock, .dir = dir, .pool = b->pool, .level = DMT_SYNC_LOCAL,
                               .small_max = 16384, .segment_bytes = b->segment_bytes, .ballast_bytes = b->ballast_bytes};
    memset(&b->err, 0, sizeof(b->err));
    int r = dmt_ws_open(&ws, &conf, &b->err);
    if (r < 0)
        return NULL;
    dmt_ws_set_retention(ws, UINT64_MAX, UINT64_MAX);
    dmt_store_ballast_keep(dmt_ws_store(ws));
    uint64_t tail = dmt_journal_tail(dmt_ws_journal(ws)).epoch, epoch = ws->epoch > tail ? ws->epoch : tail;
    r = dmt_ws_begin_epoch(ws, (epoch | 1ull << 32) + 1, "alpha", "test", &b->err);
    if (r == 0)
        r = dmt_ws_settle(ws, same_boot, &b->err);
    if (r >= 0)
        return ws;
    struct dmt_err why = b->err;
    (void)dmt_ws_close(ws, NULL);
    b->err = why;
    return NULL;
}

static inline void bench_skeleton(const char *dir)
{
    struct dmt_err err = {0};
    char path[96];
    struct dmt_store_ident id = {.name = "crash", .lineage = {7}, .store_id = {1}};
    struct dmt_store_conf conf = {.io = dmt_io_real(), .clock = &g_clock, .dir = dir};
    DMT_ASSERT(mkdir(dir, 0700) == 0);
    if (dmt_store_create(&conf, &id, S_IFDIR | 0755, 0, 0, 1000, &err) < 0)
        dmt_error("%s", err.msg);
    DMT_ASSERT(err.code == 0);
    snprintf(path, sizeof(path), "%s/journal", dir);
    DMT_ASSERT(mkdir(path, 0700) == 0);
    for (int i = 48; i < 256; i++) { /* inode numbers stay small, and every disk walks through all folders */
        snprintf(path, sizeof(path), "%s/data/%02x", dir, i);
        DMT_ASSERT(rmdir(path) == 0);
    }
}

/* --- the tree that sequences begin with ------------------------------------------------------------------------------------- */

static const struct cop g_setup[] = {
    {"", C_MAKE, "a", 0, 0, 0},          {"", C_WRITE, "a", 0, 0, 5000},      {"", C_SETX, "a", "one", 0, 0},
    {"", C_MAKE, "b", 0, 0, 0},          {"", C_WRITE, "b", 0, 0, 8000},      {"", C_WRITE, "b", 0, 8000, 8000},
    {"", C_WRITE, "b", 0, 16000, 8000},  {"", C_WRITE, "b", 0, 24000, 8000},  {"", C_WRITE, "b", 0, 32000, 8000},
    {"", C_MAKE, "c", 0, 0, 0},          {"", C_BULK, "c", 0, 0, 131072},     {"", C_MKDIR, "d", 0, 0, 0},
    {"", C_MAKE, "d/x", 0, 0, 0},        {"", C_WRITE, "d/x", 0, 0, 100},     {"", C_LINK, "d/x", "d/y", 0, 0},
    {"", C_MKDIR, "e", 0, 0, 0},         {"", C_SYMLINK, "l", "a", 0, 0},
};
#define SETUP_N ((int)(sizeof(g_setup) / sizeof(g_setup[0])))

static inline int native_remove(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type;
    return at->level > 0 ? remove(path) : 0;
}

static inline void native_setup(const char *dir)
{
    char a[128], b[128];
    DMT_ASSERT(nftw(dir, native_remove, 8, FTW_DEPTH | FTW_PHYS) == 0);
    for (int i = 0; i < SETUP_N; i++)
        if (g_setup[i].kind == C_LINK) { /* the link is not in the root */
            snprintf(a, sizeof(a), "%s/%s", dir, g_setup[i].a);
            snprintf(b, sizeof(b), "%s/%s", dir, g_setup[i].b);
            DMT_ASSERT(link(a, b) == 0);
        } else {
            DMT_ASSERT(op_native(dir, &g_setup[i], 100 + i) == 0);
        }
}

static inline void bench_setup_store(struct bench *b)
{
    struct dmt_op op = {.umask = 022};
    struct dmt_attr a;
    uint64_t x, d;
    struct dmt_ws *ws = bench_open(b, dmt_io_real(), b->work, true);
    DMT_ASSERT(ws);
    for (int i = 0; i < SETUP_N; i++)
        if (g_setup[i].kind == C_LINK)
            DMT_ASSERT(ws_node_of(ws, "d/x", &x) == 0 && ws_node_of(ws, "d", &d) == 0 &&
                       dmt_ws_link(ws, &op, x, d, "y", &a) == 0);
        else
            DMT_ASSERT(op_ws(ws, &g_setup[i], 100 + i) == 0);
    DMT_ASSERT(op_ws(ws, &g_sync, 0) == 0 && op_ws(ws, &g_ckpt, 0) == 0);
    DMT_ASSERT(dmt_ws_close(ws, &b->err) == 0);
}

static inline void bench_init(struct bench *b, uint64_t segment_bytes)
{
    memset(b, 0, sizeof(*b));
    umask(022);
    (void)dmt_log_init("test", getenv("DMT_VERBOSE") ? NULL : g_log, DMT_LOG_ERROR);
    strcpy(b->dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/dmt-crash-XXXXXX" : "/var/tmp/dmt-crash-XXXXXX");
    DMT_ASSERT(mkdtemp(b->dir));
    const struct { char *to; const char *name; } dirs[] = {
        {b->work, "work"}, {b->ref, "ref"}, {b->out, "out"}, {b->again, "again"}, {b->native, "native"}};
    for (size_t i = 0; i < 5; i++)
        snprintf(dirs[i].to, sizeof(b->work), "%s/%s", b->dir, dirs[i].name);
    for (size_t i = 0; i < 4; i++)
        bench_skeleton(dirs[i].to);
    DMT_ASSERT(mkdir(b->native, 0700) == 0);
    b->segment_bytes = segment_bytes;
    DMT_ASSERT(dmt_pool_new(&b->pool, "pool", 1, 64) == 0);
    bench_setup_store(b);
    struct faultio *f = faultio_new(b->work, 1);
    b->start = faultio_state(f);
    faultio_free(f);
}

static inline void bench_free(struct bench *b)
{
    dmt_pool_free(b->pool);
    faultio_state_free(b->start);
    shell("rm -rf %s", b->dir);
}

#endif
