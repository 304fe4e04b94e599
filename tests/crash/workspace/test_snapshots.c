/* test_snapshots.c: snapshots, rollback and their deletion, cut at every disk operation.
 *
 * Sequences: a change, a snapshot, a change behind it, and then one of: checkpoint; deletion and
 * checkpoints (what only the snapshot showed is freed); rollback; checkpoint and rollback; rollback
 * and a rollback of the rollback. The snapshot shows the same for ever, bit by bit, whatever was
 * cut when; a rollback has happened or has not; a deleted snapshot is there or is not, and the live
 * tree never notices. DMT_CUT_SNAPSHOT is the most disks recovered a sequence (0 = all). Judged as
 * all sequences: recover.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/crash/workspace/recover.h"

static const char *const g_before[] = {"",        "write a",   "bulk c", "truncate c to 0",
                                       "write b", "rename c n"};
static const char *const g_after[] = {
    "write a",         "write b",    "write c",      "bulk c",     "append bulk c", "truncate b",
    "truncate c to 0", "punch b",    "punch c",      "unlink a",   "unlink c",      "rename a b",
    "rename c n",      "rename d m", "exchange a c", "setxattr a", "chmod b",       "mkdir m"};
#define BEFORE_N (sizeof(g_before) / sizeof(g_before[0]))
#define AFTER_N  (sizeof(g_after) / sizeof(g_after[0]))
#define END_N    5u

static const struct cop *op_named(const char *text)
{
    for (int i = 0; i < OPS_N; i++)
        if (strcmp(g_ops[i].text, text) == 0)
            return &g_ops[i];
    DMT_ASSERT(false);
}

static void add(struct seq *q, const struct cop *o)
{
    DMT_ASSERT(q->n < SEQ_MAX);
    q->op[q->n++] = o;
}

static void ending(struct seq *q, unsigned which)
{
    const struct cop *const ends[END_N][4] = {
        {&g_sync, &g_ckpt},
        {&g_ckpt, &g_unsnap, &g_sync, &g_ckpt},
        {&g_rollback, &g_sync, &g_ckpt},
        {&g_sync, &g_ckpt, &g_rollback, &g_sync},
        {&g_unsnap, &g_snap, &g_ckpt, &g_sync},
    };
    for (int i = 0; i < 4 && ends[which][i]; i++)
        add(q, ends[which][i]);
}

static void run(struct bench *b, size_t i)
{
    const struct limits lim = {.randoms = 2,
                               .disks_max = (unsigned)from_env("DMT_CUT_SNAPSHOT", 6),
                               .nest_every = 30,
                               .nest_max = 4};
    struct seq *q = calloc(1, sizeof(*q));
    size_t before = i / END_N / AFTER_N, after = i / END_N % AFTER_N;
    if (*g_before[before])
        add(q, op_named(g_before[before]));
    add(q, &g_snap);
    add(q, op_named(g_after[after]));
    ending(q, (unsigned)(i % END_N));
    cut_sequence(b, q, &lim, i);
    free(q);
}

static void snapshots_stay_exact(void **state)
{
    (void)state;
    assert_int_equal(each_in_processes("snapshots", BEFORE_N * AFTER_N * END_N, run, true), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(snapshots_stay_exact)};
    return cmocka_run_group_tests_name("snapshots and cuts", tests, NULL, NULL);
}
