/* test_cut.c: power cuts and kills at every disk operation of every short sequence of operations.
 *
 * All sequences of one operation are enumerated in full; all of two, with at most DMT_CUT_PAIR
 * recovered disks each (0 = all); of the sequences of three, DMT_CUT_TRIPLES are drawn (0 = all),
 * with at most DMT_CUT_TRIPLE disks each. Every sequence ends in a sync and a checkpoint, and
 * closing belongs to it. DMT_SEQ=A,B,C (and DMT_SEGMENT) runs one sequence of operation numbers
 * alone. What is judged and how: recover.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/crash/workspace/recover.h"

static void add(struct seq *q, const struct cop *o)
{
    DMT_ASSERT(q->n < SEQ_MAX);
    q->op[q->n++] = o;
}

static void run(struct bench *b, const int *ops, int n, const struct limits *lim, uint64_t seed)
{
    struct seq *q = calloc(1, sizeof(*q));
    for (int i = 0; i < n; i++)
        add(q, &g_ops[ops[i]]);
    add(q, &g_sync);
    add(q, &g_ckpt);
    cut_sequence(b, q, lim, seed);
    free(q);
}

static int op_numbered(const char *text)
{
    for (int i = 0; i < OPS_N; i++)
        if (strcmp(g_ops[i].text, text) == 0)
            return i;
    DMT_ASSERT(false);
}

static void one(struct bench *b, size_t i)
{
    const struct limits lim = {.randoms = 2, .nest_every = 12, .nest_max = 5};
    int op = (int)i;
    run(b, &op, 1, &lim, i);
}

static void two(struct bench *b, size_t i)
{
    const struct limits lim = {.randoms = 2,
                               .disks_max = (unsigned)from_env("DMT_CUT_PAIR", 3),
                               .nest_every = 24,
                               .nest_max = 4};
    int ops[2] = {(int)i / OPS_N, (int)i % OPS_N};
    run(b, ops, 2, &lim, i);
}

static void three(struct bench *b, size_t i)
{
    const struct limits lim = {.randoms = 2,
                               .disks_max = (unsigned)from_env("DMT_CUT_TRIPLE", 8),
                               .nest_every = 24,
                               .nest_max = 4};
    uint64_t all = (uint64_t)OPS_N * OPS_N * OPS_N, drawn = from_env("DMT_CUT_TRIPLES", 120);
    /* evenly over all of them, and another set with another seed */
    uint64_t at = drawn ? (i * (all / drawn) + from_env("DMT_SEED", 1) * 7919 + i * 101) % all : i;
    int ops[3] = {(int)(at / OPS_N / OPS_N), (int)(at / OPS_N % OPS_N), (int)(at % OPS_N)};
    run(b, ops, 3, &lim, i);
}

/* What settling does with lost bytes is cut at each of its own operations. */
static void settled(struct bench *b, size_t i)
{
    static const char *const ops[] = {"append bulk c", "bulk c", "bulk b", "zero c"};
    const struct limits lim = {.randoms = 2, .disks_max = 10, .nest_every = 1, .nest_max = 100};
    int pair[2] = {op_numbered(ops[i / 2]), op_numbered(i % 2 ? "write a" : "rename c n")};
    run(b, pair, 2, &lim, i);
}

/* A store whose making was cut is there, sound and empty, or can be made. */
static bool made_or_makeable(struct bench *b, char why[300])
{
    const struct dmt_store_ident id = {.name = "crash", .lineage = {7}, .store_id = {1}};
    struct dmt_store_conf conf = {.io = dmt_io_real(), .clock = &g_clock, .dir = b->out};
    struct dmt_err err = {0};
    struct tree t;
    int r = dmt_store_create(&conf, &id, S_IFDIR | 0755, 0, 0, 1000, &err);
    if (r < 0 && r != -EEXIST) {
        snprintf(why, 300, "cannot be made again: %.250s", err.msg);
        return false;
    }
    struct dmt_ws *ws = bench_open(b, dmt_io_real(), b->out, false);
    if (!ws) {
        snprintf(why, 300, "does not open: %.250s", b->err.msg);
        return false;
    }
    tree_of_ws(&t, ws);
    bool ok = t.n == 0 && !t.bad && check_store(ws, why);
    if (!ok && !*why)
        snprintf(why, 300, "is not empty");
    tree_free(&t);
    (void)dmt_ws_close(ws, &b->err);
    return ok;
}

static void creation(struct bench *b, size_t i)
{
    const struct seq none = {0};
    struct progress now = {0};
    struct points pts = {.now = &now};
    char dir[80], why[300] = "";
    snprintf(dir, sizeof(dir), "%s/made%zu", b->dir, i);
    DMT_ASSERT(mkdir(dir, 0700) == 0);
    pts.f = faultio_new(dir, i + 1);
    faultio_watch(pts.f, points_add, &pts);
    const struct dmt_store_ident id = {.name = "crash", .lineage = {7}, .store_id = {1}};
    struct dmt_store_conf conf = {.io = faultio_io(pts.f), .clock = &g_clock, .dir = dir};
    if (dmt_store_create(&conf, &id, S_IFDIR | 0755, 0, 0, 1000, &b->err) < 0)
        report(&none, "a store cannot be made: %s", b->err.msg);
    points_add(&pts, 0, NULL);
    faultio_free(pts.f);
    for (size_t k = 0; k < pts.n * 3; k++) {
        static const enum faultio_mode modes[] = {FAULTIO_DROP, FAULTIO_KILL, FAULTIO_RANDOM};
        uint64_t hash;
        if (pts.v[k / 3].kind == FAULTIO_MKDIR && k / 3 % 64 != 0)
            continue; /* 256 folders: all the same */
        struct faultio_state *d =
            faultio_state_settle(pts.v[k / 3].disk, modes[k % 3], k + i * 1000, &hash);
        faultio_state_write(d, b->out);
        faultio_state_free(d);
        if (!made_or_makeable(b, why))
            report(&none, "a store whose making was cut before operation %zu (%s), %s: %s", k / 3,
                   pts.v[k / 3].path, mode_name(modes[k % 3]), why);
        atomic_fetch_add(&g_tally->recovered, 1);
    }
    atomic_fetch_add(&g_tally->moments, pts.n);
    points_free(&pts);
}

static void given(struct bench *b, size_t i)
{
    const struct limits lim = {.randoms = 6, .nest_every = 3, .nest_max = 20};
    int ops[SEQ_MAX], n = 0;
    char *text = strdup(getenv("DMT_SEQ"));
    (void)i;
    for (char *save = NULL, *s = strtok_r(text, ",", &save); s; s = strtok_r(NULL, ",", &save))
        ops[n++] = atoi(s);
    b->segment_bytes = from_env("DMT_SEGMENT", b->segment_bytes);
    run(b, ops, n, &lim, from_env("DMT_SEED", 1));
    free(text);
}

static void settling(void **state)
{
    (void)state;
    assert_int_equal(each_in_processes("settling", 8, settled, true), 0);
}

static void making_a_store(void **state)
{
    (void)state;
    assert_int_equal(each_in_processes("making a store", 2, creation, false), 0);
}

static void every_operation(void **state)
{
    (void)state;
    assert_int_equal(each_in_processes("one operation", (size_t)OPS_N, one, true), 0);
}

static void every_pair(void **state)
{
    (void)state;
    assert_int_equal(each_in_processes("two operations", (size_t)(OPS_N * OPS_N), two, true), 0);
}

static void triples(void **state)
{
    (void)state;
    size_t drawn = from_env("DMT_CUT_TRIPLES", 120);
    assert_int_equal(each_in_processes("three operations",
                                       drawn ? drawn : (size_t)(OPS_N * OPS_N * OPS_N), three,
                                       true),
                     0);
}

static void given_sequence(void **state)
{
    (void)state;
    assert_int_equal(each_in_processes("given", 1, given, false), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(making_a_store),  cmocka_unit_test(settling),
        cmocka_unit_test(every_operation), cmocka_unit_test(every_pair),
        cmocka_unit_test(triples),
    };
    const struct CMUnitTest alone[] = {cmocka_unit_test(given_sequence)};
    if (getenv("DMT_SEQ"))
        return cmocka_run_group_tests_name("cuts", alone, NULL, NULL);
    return cmocka_run_group_tests_name("cuts", tests, NULL, NULL);
}
