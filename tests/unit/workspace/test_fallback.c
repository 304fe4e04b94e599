/* test_fallback.c: what a failover makes of files whose bytes have not all come (rules 21, 22): an
 * older content, that of the file whose place they took, or their own beginning. */
#include "tests/unit/workspace/settle.h"

static void ship(struct pair *p)
{
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
}

/* b has every record, but not every byte, of what a did. */
static struct reports take_over(struct pair *p)
{
    ship(p);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    return settle(&p->b, 1);
}

/* Beside x, which both have whole: x.tmp, of which a sync has acknowledged 4 MiB and b has none. */
static uint64_t synced_tmp(struct pair *p)
{
    (void)complete_file(p, "x");
    uint64_t t = fx_file(&p->a, DMT_ROOT, "x.tmp");
    fx_fill(&p->a, t, 4u << 20, 0, 256u << 10, 2);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, t), 0);
    ship(p);
    return t;
}

static void new_file_is_cut_at_the_first_missing_byte(void **state)
{
    struct pair *p = *state;
    uint64_t d = fx_dir(&p->a, DMT_ROOT, "d"), x = fx_file(&p->a, d, "x");
    fx_fill(&p->a, x, 4u << 20, 0, 256u << 10, 1);
    ship(p);
    pair_pull(&p->a, &p->b, 2);
    struct reports r = take_over(p);
    assert_int_equal(r.fallback, 0);
    assert_string_equal(r.path, "/d/x");
    struct dmt_attr at = fx_attr(&p->b, x), src = fx_attr(&p->a, x);
    assert_int_equal(at.st.st_size, r.size);
    assert_true(r.size >= 1u << 20 && r.size < 4u << 20);
    assert_memory_equal(&at.st.st_mtim, &src.st.st_mtim, sizeof(struct timespec));
    fx_expect_pattern(&p->b, x, r.size, 0, 1);
    assert_true(dmt_ws_getxattr(p->b.ws, x, WS_INCOMPLETE_ATTR, NULL, 0) > 0);
    fx_fill(&p->b, x, 4u << 20, 0, 256u << 10, 2); /* life goes on */
    assert_int_equal(dmt_ws_sync_wait(p->b.ws, x), 0);
    fx_expect_pattern(&p->b, x, 4u << 20, 0, 2);
}

static void file_rewritten_in_place_falls_back(void **state)
{
    struct pair *p = *state;
    uint64_t x = complete_file(p, "x");
    struct dmt_attr was = fx_attr(&p->a, x);
    fx_truncate(&p->a, x, 0);
    fx_fill(&p->a, x, 4u << 20, 0, 256u << 10, 2);
    ship(p);
    pair_pull(&p->a, &p->b, 3);
    struct reports r = take_over(p);
    assert_int_equal(r.fallback, 1);
    struct dmt_attr at = fx_attr(&p->b, x);
    assert_int_equal(at.st.st_size, 3u << 20);
    assert_memory_equal(&at.st.st_mtim, &was.st.st_mtim, sizeof(struct timespec));
    fx_expect_pattern(&p->b, x, 3u << 20, 0, 1);
}

static void file_renamed_over_falls_back_to_the_replaced_content(void **state)
{
    struct pair *p = *state;
    uint64_t x = complete_file(p, "x"), t = fx_file(&p->a, DMT_ROOT, "x.tmp");
    struct dmt_attr was = fx_attr(&p->a, x);
    fx_fill(&p->a, t, 4u << 20, 0, 256u << 10, 2);
    fx_rename(&p->a, DMT_ROOT, "x.tmp", DMT_ROOT, "x");
    struct reports r = take_over(p);
    assert_int_equal(r.fallback, 1);
    assert_true(fx_lookup(&p->b, DMT_ROOT, "x") == t); /* the name is never undone */
    assert_int_equal(fx_lookup(&p->b, DMT_ROOT, "x.tmp"), 0);
    struct dmt_attr at = fx_attr(&p->b, t);
    assert_memory_equal(&at.st.st_mtim, &was.st.st_mtim, sizeof(struct timespec));
    fx_expect_pattern(&p->b, t, 3u << 20, 0, 1);
    fx_crash(&p->b);
    fx_expect_pattern(&p->b, t, 3u << 20, 0, 1);
}

/* What had arrived when a checkpoint came is content of its own, but only the beginning of a file
 * that was never whole: it does not stand against what the name had before. */
static void half_written_file_renamed_over_falls_back_to_the_replaced_content(void **state)
{
    struct pair *p = *state;
    uint64_t t = fx_file(&p->a, DMT_ROOT, "x.tmp");
    complete_file(p, "x");
    fx_fill(&p->a, t, 2u << 20, 0, 256u << 10, 2);
    ship(p);
    pair_pull(&p->a, &p->b, 1000);
    assert_false(dmt_ws_missing_ino(p->b.ws, t, UINT64_MAX));
    fx_checkpoint(&p->b);
    fx_fill(&p->a, t, 2u << 20, 2u << 20, 256u << 10, 2);
    fx_rename(&p->a, DMT_ROOT, "x.tmp", DMT_ROOT, "x");
    fx_fill(&p->a, t, 2u << 20, 0, 256u << 10, 3);
    struct reports r = take_over(p);
    assert_int_equal(r.fallback, 1);
    assert_int_equal(r.size, 3u << 20);
    fx_expect_pattern(&p->b, t, 3u << 20, 0, 1);
    fx_crash(&p->b);
    fx_expect_pattern(&p->b, t, 3u << 20, 0, 1);
}

/* The same, but a sync had acknowledged the first half. A start between the checkpoint and the
 * rename does not remember that, and may not take it for unacknowledged. */
static void synced_half_stands_against_the_replaced_content_after_a_start(void **state)
{
    struct pair *p = *state;
    uint64_t t = fx_file(&p->a, DMT_ROOT, "x.tmp");
    complete_file(p, "x");
    fx_fill(&p->a, t, 2u << 20, 0, 256u << 10, 2);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, t), 0);
    ship(p);
    pair_pull(&p->a, &p->b, 1000);
    assert_false(dmt_ws_missing_ino(p->b.ws, t, UINT64_MAX));
    fx_fill(&p->a, t, 2u << 20, 2u << 20, 256u << 10, 2);
    ship(p);
    fx_checkpoint(&p->b);
    fx_close(&p->b);
    fx_open(&p->b, true);
    fx_rename(&p->a, DMT_ROOT, "x.tmp", DMT_ROOT, "x");
    struct reports r = take_over(p);
    assert_int_equal(r.fallback, 0);
    assert_true(r.size >= 2u << 20);
    fx_expect_pattern(&p->b, t, 2u << 20, 0, 2);
}

static void appended_file_keeps_all_up_to_the_first_missing_byte(void **state)
{
    struct pair *p = *state;
    uint64_t x = complete_file(p, "x");
    fx_fill(&p->a, x, 3u << 20, 3u << 20, 256u << 10, 1);
    struct reports r = take_over(p);
    assert_int_equal(r.fallback, 0);
    assert_int_equal(r.size, 4u << 20); /* what came inline counts, too */
    fx_expect_pattern(&p->b, x, r.size, 0, 1);
}

static void overwritten_in_place_falls_back(void **state)
{
    struct pair *p = *state;
    uint64_t x = complete_file(p, "x");
    fx_fill(&p->a, x, 3u << 20, 0, 256u << 10, 2);
    struct reports r = take_over(p);
    assert_int_equal(r.fallback, 1);
    uint8_t got[4];
    assert_int_equal(dmt_ws_read(p->b.ws, x, got, 4, 2u << 20, false), 4);
    fx_expect_pattern(&p->b, x, 1u << 20, 2u << 20, 1);
}

/* What a sync acknowledged inline is what a file falls back to, also before any checkpoint knows
 * it. */
static void synced_inline_content_is_fallen_back_to(void **state)
{
    struct pair *p = *state;
    uint64_t x = fx_file(&p->a, DMT_ROOT, "x");
    for (uint64_t off = 0; off < 4u << 20; off += 512u << 10) {
        fx_fill(&p->a, x, 512u << 10, off, 128u << 10, 1);
        assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    }
    fx_fill(&p->a, x, 4u << 20, 0, 128u << 10, 2);
    struct reports r = take_over(p);
    assert_true(r.size == 4u << 20);
    fx_expect_pattern(&p->b, x, 2u << 20, 2u << 20, 1);
}

/* What the other machine's sync acknowledged meanwhile: who holds the workspace again does not go
 * by what he remembers of the file, so what it replaces then does not come back. */
static void what_the_other_one_synced_is_not_given_up(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    uint64_t at, y = complete_file(p, "y"), x = fx_file(&p->a, DMT_ROOT, "x");
    fx_fill(&p->a, x, 3u << 20, 0, 256u << 10, 1); /* and no sync */
    ship(p);
    pair_pull(&p->a, &p->b, 1000);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    settle(&p->b, 0);
    dmt_ws_demote(p->a.ws);
    fx_check(dmt_ws_keep_own(p->a.ws, &at, &err), &err);
    fx_fill(&p->b, x, 512u << 10, 3u << 20, 128u << 10, 1);
    assert_int_equal(dmt_ws_sync_wait(p->b.ws, x), 0);
    pair_send(&p->b, &p->a, UINT64_MAX);
    pair_apply(&p->a);
    dmt_ws_demote(p->b.ws);
    pair_promote(&p->a, "alpha", FX_EPOCH(3, 0));
    settle(&p->a, 0);
    fx_fill(&p->a, x, 4u << 20, 7u << 19, 256u << 10, 1);
    fx_rename(&p->a, DMT_ROOT, "x", DMT_ROOT, "y");
    fx_check(dmt_ws_keep_own(p->b.ws, &at, &err), &err);
    ship(p);
    assert_true(dmt_ws_missing_ino(p->b.ws, x, UINT64_MAX));
    pair_promote(&p->b, "beta", FX_EPOCH(4, 0));
    struct reports r = settle(&p->b, 1);
    assert_true(y != x && r.size >= 7u << 19);
    fx_expect_pattern(&p->b, x, 7u << 19, 0, 1);
}

/* A sync after "truncate, write a little" is a new generation: the one before does not come
 * back. */
static void synced_small_content_is_not_given_up_for_an_older_one(void **state)
{
    struct pair *p = *state;
    uint64_t x = complete_file(p, "x");
    fx_truncate(&p->a, x, 0);
    fx_fill(&p->a, x, 512u << 10, 0, 128u << 10, 2);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    fx_fill(&p->a, x, 4u << 20, 512u << 10, 128u << 10, 2);
    struct reports r = take_over(p);
    assert_true(r.size >= 512u << 10);
    fx_expect_pattern(&p->b, x, 512u << 10, 0, 2);
}

/* What a sync acknowledged has come; what is missing was written later: the replaced content does
 * not come back. */
static void synced_content_is_not_given_up_while_more_is_written(void **state)
{
    struct pair *p = *state;
    (void)complete_file(p, "x");
    uint64_t t = fx_file(&p->a, DMT_ROOT, "x.tmp");
    fx_fill(&p->a, t, 4u << 20, 0, 256u << 10, 2);
    fx_rename(&p->a, DMT_ROOT, "x.tmp", DMT_ROOT, "x");
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, t), 0);
    uint64_t mark = dmt_ws_applied(p->a.ws);
    fx_fill(&p->a, t, 3u << 20, 4u << 20, 256u << 10, 2);
    ship(p);
    while (dmt_ws_missing_ino(p->b.ws, t, mark))
        assert_true(pair_pull(&p->a, &p->b, 1) > 0);
    assert_true(dmt_ws_missing_ino(p->b.ws, t, UINT64_MAX));
    struct reports r = take_over(p);
    assert_int_equal(r.fallback, 0);
    assert_true(r.size >= 4u << 20);
    fx_expect_pattern(&p->b, t, r.size, 0, 2);
}

/* x.tmp, of which a sync has acknowledged 4 MiB and b has nothing, is written on by `more`, and
 * behind that by reference. b gets all but the last; then x.tmp takes the place of x, whose content
 * must not come back. */
static void expect_not_replaced(struct pair *p, void (*more)(struct fx *f, uint64_t t))
{
    uint64_t t = synced_tmp(p);
    assert_true(dmt_ws_missing_ino(p->b.ws, t, UINT64_MAX));
    more(&p->a, t);
    uint64_t had = dmt_ws_applied(p->a.ws);
    fx_fill(&p->a, t, 3u << 20, 4u << 20, 256u << 10, 2);
    ship(p);
    while (dmt_ws_missing_ino(p->b.ws, t, had))
        assert_true(pair_pull(&p->a, &p->b, 1) > 0);
    fx_rename(&p->a, DMT_ROOT, "x.tmp", DMT_ROOT, "x");
    struct reports r = take_over(p);
    assert_true(r.size >= 4u << 20);
    fx_expect_pattern(&p->b, t, 4u << 20, 0, 2);
}

/* What the cache may let go, it lets go. */
static void turn_over_cache(struct fx *f)
{
    struct dmt_lockfn lk = dmt_ws_lockfn(f->ws);
    struct dmt_inode n;
    fx_checkpoint(f);
    lk.lock(lk.ctx);
    for (uint64_t ino = 1; ino < 100000; ino++)
        assert_int_equal(dmt_store_inode_get(dmt_ws_store(f->ws), DMT_LIVE, ino << 20, &n),
                         -ENOENT);
    lk.unlock(lk.ctx);
}

/* A file that is always a little behind: what its syncs acknowledged is not forgotten because
 * others are worked on. */
static void synced_bytes_of_a_file_that_nobody_touched_since(void **state)
{
    struct pair *p = *state;
    uint64_t t = synced_tmp(p), mark = dmt_ws_applied(p->a.ws);
    fx_fill(&p->a, t, 3u << 20, 4u << 20, 256u << 10, 2);
    ship(p);
    turn_over_cache(&p->b);
    while (dmt_ws_missing_ino(p->b.ws, t, mark))
        assert_true(pair_pull(&p->a, &p->b, 1) > 0);
    turn_over_cache(&p->b);
    assert_true(dmt_ws_missing_ino(p->b.ws, t, UINT64_MAX));
    fx_rename(&p->a, DMT_ROOT, "x.tmp", DMT_ROOT, "x");
    struct reports r = take_over(p);
    assert_true(r.size >= 4u << 20);
    fx_expect_pattern(&p->b, t, 4u << 20, 0, 2);
}

/* The last of what a sync acknowledged has not come, and is cut off by a truncation: the rest is
 * whole. */
static void synced_bytes_whose_rest_is_cut_off(void **state)
{
    struct pair *p = *state;
    struct dmt_missing m;
    uint64_t t = synced_tmp(p);
    while (dmt_ws_missing_next(p->b.ws, t, 0, &m) == 1 && m.off < 2u << 20)
        assert_int_equal(pair_pull(&p->a, &p->b, 1), 1);
    fx_fill(&p->a, t, 2u << 20, 4u << 20, 256u << 10, 2);
    fx_truncate(&p->a, t, 2u << 20);
    fx_fill(&p->a, t, 3u << 20, 2u << 20, 256u << 10, 2);
    fx_rename(&p->a, DMT_ROOT, "x.tmp", DMT_ROOT, "x");
    struct reports r = take_over(p);
    assert_true(r.size >= 2u << 20);
    fx_expect_pattern(&p->b, t, 2u << 20, 0, 2);
}

static void pull_behind(struct pair *p, uint64_t ino, uint64_t off)
{
    struct dmt_missing m;
    uint8_t *buf = malloc(16u << 20);
    assert_non_null(buf);
    for (; dmt_ws_missing_next(p->b.ws, ino, off, &m) == 1; off = m.off + m.len) {
        assert_true(m.len <= 16u << 20);
        assert_int_equal(dmt_ws_bulk_read(p->a.ws, ino, m.off, m.len, m.seq, buf, &m.len), 0);
        assert_int_equal(dmt_ws_missing_fill(p->b.ws, &m, buf), 0);
    }
    assert_int_equal(dmt_ws_missing_sync(p->b.ws), 0);
    free(buf);
}

/* What a sync acknowledged of the new content has not come, and will not: its beginning was
 * overwritten. That the rest of it has come does not make it whole. */
static void torn_content_falls_back_to_the_last_whole_one(void **state)
{
    struct pair *p = *state;
    uint64_t x = complete_file(p, "x");
    fx_truncate(&p->a, x, 0);
    fx_fill(&p->a, x, 4u << 20, 0, 256u << 10, 2);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    uint64_t mark = dmt_ws_applied(p->a.ws);
    fx_fill(&p->a, x, 2u << 20, 0, 256u << 10, 3);
    ship(p);
    pull_behind(p, x, 2u << 20);
    assert_false(dmt_ws_missing_ino(p->b.ws, x, mark));
    assert_true(dmt_ws_missing_ino(p->b.ws, x, UINT64_MAX));
    struct reports r = take_over(p);
    assert_int_equal(r.fallback, 1);
    fx_expect_pattern(&p->b, x, 3u << 20, 0, 1);
}

/* Always a little behind, and never whole again: what a sync acknowledged and has come is what a
 * failover gives, not the beginning before the first range that is on its way. */
static void synced_content_is_whole_while_its_middle_is_rewritten(void **state)
{
    struct pair *p = *state;
    uint64_t x = complete_file(p, "x");
    fx_fill(&p->a, x, 5u << 20, 3u << 20, 256u << 10, 1);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    ship(p);
    pair_pull(&p->a, &p->b, 1000);
    fx_fill(&p->a, x, 4u << 20, 4u << 20, 256u << 10, 2);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    fx_fill(&p->a, x, 4u << 20, 0, 256u << 10, 3);
    ship(p);
    pull_behind(p, x, 4u << 20);
    assert_true(dmt_ws_missing_ino(p->b.ws, x, UINT64_MAX));
    struct reports r = take_over(p);
    assert_int_equal(r.fallback, 1);
    assert_int_equal(r.size, 8u << 20);
    fx_expect_pattern(&p->b, x, 4u << 20, 4u << 20, 2);
    fx_expect_pattern(&p->b, x, 3u << 20, 1u << 20, 1);
}

/* What a sync acknowledged is known after a start, too. */
static void synced_bytes_that_come_after_a_start(void **state)
{
    struct pair *p = *state;
    uint64_t t = synced_tmp(p), mark = dmt_ws_applied(p->a.ws);
    fx_fill(&p->a, t, 3u << 20, 4u << 20, 256u << 10, 2);
    ship(p);
    fx_checkpoint(&p->b);
    fx_close(&p->b);
    fx_open(&p->b, true);
    while (dmt_ws_missing_ino(p->b.ws, t, mark))
        assert_true(pair_pull(&p->a, &p->b, 1) > 0);
    assert_true(dmt_ws_missing_ino(p->b.ws, t, UINT64_MAX));
    fx_rename(&p->a, DMT_ROOT, "x.tmp", DMT_ROOT, "x");
    struct reports r = take_over(p);
    assert_true(r.size >= 4u << 20);
    fx_expect_pattern(&p->b, t, 4u << 20, 0, 2);
}

/* --- another thread writes to the file while it is synced */

static struct {
    struct dmt_io io;
    struct fx *f;
    uint64_t x;
    bool armed;
} racer;

static int racing_fdatasync(void *ctx, int fd)
{
    char link[64], path[512] = "";
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    if (racer.armed && readlink(link, path, sizeof(path) - 1) > 0 && strstr(path, "/data/")) {
        racer.armed = false;
        fx_fill(racer.f, racer.x, 3u << 20, 1u << 20, 256u << 10, 3);
    }
    return dmt_io_real()->fdatasync(ctx, fd);
}

/* x, 8 MiB of pattern 1 that both have, is written from 4 MiB on; while a sync of that is under way
 * another write by reference comes, of which no sync says anything. Both are shipped. */
static uint64_t race_a_sync(struct pair *p)
{
    struct dmt_err err = {0};
    uint64_t x = complete_file(p, "x");
    fx_fill(&p->a, x, 5u << 20, 3u << 20, 256u << 10, 1);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    ship(p);
    pair_pull(&p->a, &p->b, 1000);
    racer.io = *dmt_io_real();
    racer.io.fdatasync = racing_fdatasync;
    fx_close(&p->a);
    p->a.conf.io = &racer.io;
    fx_check(dmt_ws_open(&p->a.ws, &p->a.conf, &err), &err);
    fx_check(dmt_ws_begin_epoch(p->a.ws, FX_EPOCH(1, ++p->a.minor), "alpha", "test", &err), &err);
    fx_fill(&p->a, x, 4u << 20, 4u << 20, 256u << 10, 2);
    racer.f = &p->a;
    racer.x = x;
    racer.armed = true;
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    assert_false(racer.armed);
    assert_true(dmt_ws_missing_ino(p->a.ws, x, UINT64_MAX));
    ship(p);
    return x;
}

static void expect_what_the_sync_was_about(struct fx *f, uint64_t x)
{
    struct reports r = settle(f, 1);
    assert_int_equal(r.size, 8u << 20);
    fx_expect_pattern(f, x, 4u << 20, 4u << 20, 2);
    fx_expect_pattern(f, x, 2u << 20, 2u << 20, 1);
    fx_expect_pattern(f, x, 1u << 20, 0, 1);
}

static void a_write_during_a_sync_and_a_power_cut(void **state)
{
    struct pair *p = *state;
    uint64_t x = race_a_sync(p);
    fx_crash(&p->a);
    expect_what_the_sync_was_about(&p->a, x);
}

static void a_write_during_a_sync_and_a_failover(void **state)
{
    struct pair *p = *state;
    uint64_t x = race_a_sync(p);
    pull_behind(p, x, 4u << 20);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    expect_what_the_sync_was_about(&p->b, x);
}

static void overwrite_inline(struct fx *f, uint64_t t)
{
    fx_fill(f, t, 128u << 10, 1u << 20, 128u << 10, 2);
}

static void overwrite_by_reference(struct fx *f, uint64_t t)
{
    fx_fill(f, t, 3u << 20, 0, 256u << 10, 2);
}

static void synced_bytes_overwritten_inline_before_they_came(void **state)
{
    expect_not_replaced(*state, overwrite_inline);
}

static void synced_bytes_overwritten_by_reference_before_they_came(void **state)
{
    expect_not_replaced(*state, overwrite_by_reference);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)
        T(new_file_is_cut_at_the_first_missing_byte),
        T(file_rewritten_in_place_falls_back),
        T(file_renamed_over_falls_back_to_the_replaced_content),
        T(half_written_file_renamed_over_falls_back_to_the_replaced_content),
        T(synced_half_stands_against_the_replaced_content_after_a_start),
        T(appended_file_keeps_all_up_to_the_first_missing_byte),
        T(overwritten_in_place_falls_back),
        T(synced_inline_content_is_fallen_back_to),
        T(what_the_other_one_synced_is_not_given_up),
        T(synced_small_content_is_not_given_up_for_an_older_one),
        T(synced_content_is_not_given_up_while_more_is_written),
        T(synced_bytes_whose_rest_is_cut_off),
        T(synced_bytes_of_a_file_that_nobody_touched_since),
        T(synced_content_is_whole_while_its_middle_is_rewritten),
        T(synced_bytes_that_come_after_a_start),
        T(a_write_during_a_sync_and_a_power_cut),
        T(a_write_during_a_sync_and_a_failover),
        T(torn_content_falls_back_to_the_last_whole_one),
        T(synced_bytes_overwritten_inline_before_they_came),
        T(synced_bytes_overwritten_by_reference_before_they_came),
    };
    return cmocka_run_group_tests_name("workspace fallback", tests, NULL, NULL);
}
