/* test_content.c: content that a file takes from elsewhere: what comes out of a branch with a
 * rollback in it, rollbacks to bytes that not every machine has, heal. */
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

/* b has every record and not all bytes of a file, takes over and gives them up; a still has them,
 * and follows. In `early`, a snapshot before that, another file is not whole on b either. */
static uint64_t given_up(struct pair *p)
{
    struct dmt_err err = {0};
    uint64_t seq, x = fx_file(&p->a, DMT_ROOT, "x"), l = fx_file(&p->a, DMT_ROOT, "large");
    fx_fill(&p->a, x, LARGE, 0, 256u << 10, 6);
    snap(&p->a, "early");
    fresh(&p->a, x, "replaced");
    fx_fill(&p->a, l, LARGE, 0, 256u << 10, 5);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_pull(&p->a, &p->b, 1);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    assert_int_equal(dmt_ws_settle(p->b.ws, false, &err), 1);
    dmt_ws_demote(p->a.ws);
    fx_check(dmt_ws_keep_own(p->a.ws, &seq, &err), &err);
    pair_send(&p->b, &p->a, UINT64_MAX);
    pair_apply(&p->a);
    pair_pull(&p->b, &p->a, 1 << 20);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    return l;
}

static void follow(struct fx *from, struct fx *to)
{
    pair_send(from, to, UINT64_MAX);
    pair_apply(to);
    pair_pull(from, to, 1 << 20);
}

static void hand_back(struct pair *p)
{
    struct dmt_err err = {0};
    dmt_ws_demote(p->b.ws);
    pair_promote(&p->a, "alpha", FX_EPOCH(3, 0));
    assert_int_equal(dmt_ws_settle(p->a.ws, false, &err), 0);
    follow(&p->a, &p->b);
}

/* a holds the workspace again and rolls back: b must not take for the content what it has there
 * itself. */
static void a_rollback_to_what_the_other_gave_up(void **state)
{
    struct pair *p = *state;
    uint64_t l = given_up(p);
    hand_back(p);
    rollback(&p->a, "switch/epoch-2.0");
    fx_expect_pattern(&p->a, l, LARGE, 0, 5);
    follow(&p->a, &p->b);
    assert_false(dmt_ws_missing_ino(p->b.ws, l, UINT64_MAX));
    pair_equal(&p->a, &p->b, DMT_LIVE);
    rollback(&p->a, "early"); /* of this one no file that lives told */
    fx_expect_pattern(&p->a, fx_lookup(&p->a, DMT_ROOT, "x"), LARGE, 0, 6);
    follow(&p->a, &p->b);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    fx_checkpoint(&p->a);
    fx_checkpoint(&p->b);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    dmt_ws_demote(p->a.ws); /* it can be lived on */
    pair_promote(&p->b, "beta", FX_EPOCH(4, 0));
    fx_expect_pattern(&p->b, fx_lookup(&p->b, DMT_ROOT, "x"), LARGE, 0, 6);
}

/* Bytes of a view that reading it gives, and that it refuses. */
static void read_through(struct fx *f, uint64_t view, uint64_t ino, uint64_t *ret_good,
                         uint64_t *ret_lost)
{
    static uint8_t got[4096], want[4096];
    *ret_good = *ret_lost = 0;
    for (uint64_t off = 0; off < LARGE; off += sizeof(got)) {
        ssize_t n = ws_view_read(f->ws, view, ino, got, sizeof(got), off, false);
        if (n == DMT_E_GONE) {
            *ret_lost += sizeof(got);
            continue;
        }
        fx_pattern(want, sizeof(want), off, 6);
        assert_int_equal(n, sizeof(got));
        assert_memory_equal(got, want, sizeof(want));
        *ret_good += sizeof(got);
    }
}

static uint64_t lost_bytes(struct fx *f, uint64_t view)
{
    ws_lock(f->ws);
    uint64_t n = dmt_store_lost_bytes(dmt_ws_store(f->ws), view);
    ws_unlock(f->ws);
    return n;
}

/* A rollback to bytes that are still on their way: until they have come, what the file held before
 * is what a failover falls back to. */
static void a_rollback_that_has_not_come_whole(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    uint64_t x = fx_file(&p->a, DMT_ROOT, "x");
    fx_fill(&p->a, x, LARGE, 0, 256u << 10, 1);
    snap(&p->a, "s");
    fresh(&p->a, x, "");
    fx_fill(&p->a, x, LARGE, 0, 256u << 10, 2);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    while (dmt_ws_missing_ino(p->b.ws, x, UINT64_MAX))
        assert_int_equal(pair_pull(&p->a, &p->b, 1), 1);
    rollback(&p->a, "s");
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    assert_true(dmt_ws_missing_ino(p->b.ws, x, UINT64_MAX));
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    assert_int_equal(dmt_ws_settle(p->b.ws, false, &err), 1);
    fx_expect_pattern(&p->b, x, LARGE, 0, 2);
}

/* The same while what a sync acknowledged has not come either: the last whole content stays. */
static void a_rollback_of_what_has_not_come(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    uint64_t x = fx_file(&p->a, DMT_ROOT, "x");
    fx_fill(&p->a, x, LARGE, 0, 256u << 10, 1);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    common(p);
    fresh(&p->a, x, "");
    fx_fill(&p->a, x, LARGE, 0, 256u << 10, 2);
    snap(&p->a, "s");
    fresh(&p->a, x, "");
    fx_fill(&p->a, x, LARGE, 0, 256u << 10, 3);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    rollback(&p->a, "s");
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    assert_true(dmt_ws_missing_ino(p->b.ws, x, UINT64_MAX));
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    assert_int_equal(dmt_ws_settle(p->b.ws, false, &err), 1);
    fx_expect_pattern(&p->b, x, LARGE, 0, 1);
}

/* What a snapshot shows and this machine has lost is an error, to the byte, never zeros; for as
 * long as that snapshot is there, over restarts. The machine that wrote it reads it. */
static void lost_bytes_of_a_snapshot_are_an_error(void **state)
{
    struct pair *p = *state;
    struct dmt_snapshot early;
    struct dmt_err err = {0};
    uint64_t good, lost, all;
    (void)given_up(p);
    uint64_t x = fx_lookup(&p->b, DMT_ROOT, "x");
    assert_int_equal(dmt_store_snap_get(dmt_ws_store(p->b.ws), "early", &early), 0);
    read_through(&p->b, early.seq, x, &good, &lost);
    assert_true(good >= 1u << 20 && lost >= 1u << 20 && good + lost == LARGE);
    assert_int_equal(lost_bytes(&p->b, early.seq), lost);
    read_through(&p->a, early.seq, x, &all, &lost);
    assert_int_equal(all, LARGE);
    assert_int_equal(lost_bytes(&p->a, early.seq), 0);
    fx_crash(&p->b); /* before any checkpoint */
    assert_int_equal(dmt_ws_settle(p->b.ws, true, &err), 0);
    read_through(&p->b, early.seq, x, &all, &lost);
    assert_int_equal(all, good);
    fx_close(&p->b);
    fx_serve(&p->b);
    assert_int_equal(dmt_ws_settle(p->b.ws, true, &err), 0);
    read_through(&p->b, early.seq, x, &all, &lost);
    assert_int_equal(all, good);
    struct dmt_ws_status s;
    dmt_ws_status(p->b.ws, &s);
    assert_int_equal(s.missing_bytes, 0); /* nobody is asked for them */
    pair_resync(&p->b, &p->a);
    read_through(&p->a, early.seq, x, &all, &lost);
    assert_int_equal(all, good);
    assert_int_equal(pair_pull(&p->b, &p->a, 1 << 20), 0);
    fx_check(dmt_ws_snap_delete(p->b.ws, "early", &err), &err);
    fx_checkpoint(&p->b);
    fx_checkpoint(&p->b);
    assert_int_equal(lost_bytes(&p->b, early.seq), 0);
}

/* b rolls back to what it gave up itself: it says so, keeps what is there; both have the same. */
static void a_rollback_to_what_is_given_up(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    struct dmt_snapshot early;
    uint64_t good, lost, zeros = 0;
    uint8_t page[4096];
    (void)given_up(p);
    assert_int_equal(dmt_store_snap_get(dmt_ws_store(p->b.ws), "early", &early), 0);
    rollback(&p->b, "switch/epoch-2.0");
    follow(&p->b, &p->a);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    uint64_t x = fx_lookup(&p->b, DMT_ROOT, "x");
    read_through(&p->b, early.seq, x, &good, &lost);
    struct dmt_rollback rb = {.snapshot = "early"};
    fx_check(dmt_ws_rollback(p->b.ws, &rb, &err), &err);
    assert_int_equal(rb.incomplete, 1);
    for (uint64_t off = 0; off < LARGE; off += sizeof(page)) {
        assert_int_equal(dmt_ws_read(p->b.ws, x, page, sizeof(page), off, false), sizeof(page));
        zeros += page[0] == 0 && memcmp(page, page + 1, sizeof(page) - 1) == 0 ? sizeof(page) : 0;
    }
    assert_int_equal(zeros, lost);
    follow(&p->b, &p->a);
    pair_equal(&p->a, &p->b, DMT_LIVE);
}

struct bytes {
    const uint8_t *p;
    size_t n, bad_at; /* 0: never */
    struct fx *f;
    uint64_t touch; /* a file to write to on the way */
};

static ssize_t give(void *ctx, void *buf, size_t n, uint64_t off)
{
    struct bytes *b = ctx;
    if (b->bad_at && off >= b->bad_at)
        return -EIO;
    if (b->touch && off > 0)
        fx_text(b->f, b->touch, "!", 0);
    n = off < b->n ? n < b->n - off ? n : b->n - off : 0;
    memcpy(buf, b->p + off, n);
    return (ssize_t)n;
}

static uint64_t orphans(struct fx *f)
{
    uint64_t n = 0;
    for (size_t i = 0; i < f->ws->orphans.cap; i++)
        n += f->ws->orphans.keys[i] != 0;
    return n;
}

/* All of it or nothing, and nothing over what somebody has changed meanwhile. */
static void a_file_is_healed_at_once(void **state)
{
    struct pair *p = *state;
    uint64_t l = given_up(p);
    uint8_t *want = malloc(LARGE);
    struct dmt_attr was = fx_attr(&p->b, l);
    char note[128];
    fx_pattern(want, LARGE, 0, 5);
    struct bytes b = {.p = want, .n = LARGE, .f = &p->b};
    ssize_t len = dmt_ws_getxattr(p->b.ws, l, DMT_INCOMPLETE_ATTR, note, sizeof(note) - 1);
    assert_true(len > 0);
    note[len] = '\0';
    uint64_t at = strtoull(strrchr(note, ' '), NULL, 10);
    b.bad_at = 1u << 20;
    assert_int_equal(dmt_ws_heal(p->b.ws, l, at, give, &b, LARGE, 77 * DMT_S), -EIO);
    assert_int_equal(fx_attr(&p->b, l).st.st_size, was.st.st_size);
    assert_int_equal(orphans(&p->b), 0);
    b.bad_at = 0;
    assert_int_equal(dmt_ws_heal(p->b.ws, l, at, give, &b, LARGE, 77 * DMT_S), 0);
    fx_expect_pattern(&p->b, l, LARGE, 0, 5);
    assert_int_equal(fx_attr(&p->b, l).st.st_mtim.tv_sec, 77);
    assert_int_equal(fx_attr(&p->b, l).st.st_mode, was.st.st_mode);
    assert_int_equal(dmt_ws_getxattr(p->b.ws, l, DMT_INCOMPLETE_ATTR, note, 0), -ENODATA);
    assert_int_equal(orphans(&p->b), 0);
    follow(&p->b, &p->a);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    fx_crash(&p->b);
    fx_expect_pattern(&p->b, l, LARGE, 0, 5);
    free(want);
}

static void healing_leaves_alone_what_changes_meanwhile(void **state)
{
    struct pair *p = *state;
    uint64_t l = given_up(p);
    uint8_t first = 0, *want = malloc(LARGE);
    struct dmt_inode n;
    fx_pattern(want, LARGE, 0, 5);
    struct bytes b = {.p = want, .n = LARGE, .f = &p->b, .touch = l};
    assert_int_equal(dmt_store_inode_get(dmt_ws_store(p->b.ws), DMT_LIVE, l, &n), 0);
    assert_int_equal(dmt_ws_heal(p->b.ws, l, n.seq, give, &b, LARGE, 0), -EEXIST);
    assert_int_equal(fx_attr(&p->b, l).st.st_size, n.size);
    assert_int_equal(dmt_ws_read(p->b.ws, l, &first, 1, 0, false), 1);
    assert_int_equal(first, '!');
    assert_int_equal(orphans(&p->b), 0);
    free(want);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, pair_setup, pair_teardown)
    const struct CMUnitTest tests[] = {
        T(a_rollback_to_before_the_switch),
        T(a_rollback_within_the_branch),
        T(a_rollback_to_what_the_other_gave_up),
        T(a_rollback_that_has_not_come_whole),
        T(a_rollback_of_what_has_not_come),
        T(lost_bytes_of_a_snapshot_are_an_error),
        T(a_rollback_to_what_is_given_up),
        T(a_file_is_healed_at_once),
        T(healing_leaves_alone_what_changes_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
