/* test_extract.c: what comes out of a branch whose records took content from a snapshot. */
#include <sys/stat.h>
#include "tests/unit/workspace/pair.h"

#define BRANCH "epoch-1-alpha"
#define LARGE  (3u << 20)

static void snap(struct fx *f, const char *name)
{
    struct dmt_snapshot s;
    struct dmt_err err = {0};
    fx_check(dmt_ws_snap_create(f->ws, name, "", &s, &err), &err);
}

static void rollback(struct fx *f, const char *name)
{
    struct dmt_err err = {0};
    struct dmt_rollback rb = {.snapshot = name};
    fx_check(dmt_ws_rollback(f->ws, &rb, &err), &err);
    assert_true(rb.changed > 0);
}

static void fresh(struct fx *f, uint64_t ino, const char *text)
{
    struct dmt_op op = FX_OP(0);
    struct dmt_attr at;
    struct dmt_setattr cut = {.mask = DMT_SET_SIZE};
    assert_int_equal(dmt_ws_setattr(f->ws, &op, ino, &cut, &at), 0);
    fx_text(f, ino, text, 0);
}

/* a's tail from here on is what it loses. */
static uint64_t common(struct pair *p)
{
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    while (pair_pull(&p->a, &p->b, 1 << 20) > 0)
        continue;
    return dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq;
}

/* b takes over at `at` and gets a's branch, which is written to *out. */
static void lose(struct pair *p, uint64_t at, char out[96])
{
    struct dmt_err err = {0};
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    dmt_ws_demote(p->a.ws);
    fx_check(dmt_ws_branch(p->a.ws, at, BRANCH, &err), &err);
    fx_shell("mkdir -p %s/branches && cp -r %s/branches/" BRANCH " %s/branches/", p->b.store,
             p->a.store, p->b.store);
    (void)snprintf(out, 96, "%s/out", p->b.dir);
    assert_int_equal(mkdir(out, 0700), 0);
    fx_check(dmt_ws_branch_extract(p->b.ws, BRANCH, out, NULL, &err), &err);
}

static void expect_text(const char *dir, const char *name, const char *want)
{
    char path[256], text[64];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    text[n] = '\0';
    (void)fclose(f);
    assert_string_equal(text, want);
}

static void expect_large(const char *dir, const char *name, uint32_t seed)
{
    char path[256];
    uint8_t *want = malloc(LARGE), *got = malloc(LARGE + 1);
    assert_true(want && got);
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    fx_pattern(want, LARGE, 0, seed);
    assert_int_equal(read(fd, got, LARGE + 1), LARGE);
    close(fd);
    assert_memory_equal(want, got, LARGE);
    free(want);
    free(got);
}

static void a_rollback_to_before_the_switch(void **state)
{
    struct pair *p = *state;
    char out[96];
    uint64_t s = fx_file(&p->a, DMT_ROOT, "small"), l = fx_file(&p->a, DMT_ROOT, "large");
    fx_text(&p->a, fx_file(&p->a, DMT_ROOT, "removed"), "removed", 0);
    fx_text(&p->a, s, "old", 0);
    fx_fill(&p->a, l, LARGE, 0, 256u << 10, 1);
    snap(&p->a, "good");
    fresh(&p->a, s, "newer");
    fx_fill(&p->a, l, LARGE, 0, 256u << 10, 2);
    fx_unlink(&p->a, DMT_ROOT, "removed");
    uint64_t at = common(p);
    rollback(&p->a, "good");
    fx_expect_text(&p->a, s, "old");
    lose(p, at, out);
    expect_text(out, "small", "old");
    expect_text(out, "removed", "removed");
    expect_large(out, "large", 1);
}

static void a_rollback_within_the_branch(void **state)
{
    struct pair *p = *state;
    char out[96];
    uint64_t s = fx_file(&p->a, DMT_ROOT, "small"), l = fx_file(&p->a, DMT_ROOT, "large");
    fx_text(&p->a, s, "common", 0);
    fx_text(&p->a, fx_file(&p->a, DMT_ROOT, "untouched"), "common", 0);
    uint64_t at = common(p);
    fresh(&p->a, s, "one");
    fx_fill(&p->a, l, LARGE, 0, 256u << 10, 3);
    snap(&p->a, "within");
    fresh(&p->a, s, "three");
    fx_fill(&p->a, l, LARGE, 0, 256u << 10, 4);
    fx_text(&p->a, fx_lookup(&p->a, DMT_ROOT, "untouched"), "COM", 0);
    rollback(&p->a, "within");
    fx_text(&p->a, s, "O", 0); /* and goes on */
    lose(p, at, out);
    expect_text(out, "small", "One");
    expect_text(out, "untouched", "common");
    expect_large(out, "large", 3);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, pair_setup, pair_teardown)
    const struct CMUnitTest tests[] = {
        T(a_rollback_to_before_the_switch),
        T(a_rollback_within_the_branch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
