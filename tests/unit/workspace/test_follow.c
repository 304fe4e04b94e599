/* test_follow.c: following, promotion, the loser's branch, first synchronisation. */
#include "fs/workspace/branch_copy.h"
#include "tests/unit/workspace/settle.h"

static void some_work(struct fx *f, const char *name)
{
    uint64_t d = fx_dir(f, DMT_ROOT, name), x = fx_file(f, d, "x");
    fx_text(f, x, name, 0);
    fx_setxattr(f, x, "user.name", name);
    fx_link(f, x, d, "y");
    fx_make(f, d, "l", S_IFLNK);
}

static void follower_equals_holder(void **state)
{
    struct pair *p = *state;
    some_work(&p->a, "one");
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    some_work(&p->a, "two");
    fx_checkpoint(&p->a);
    fx_checkpoint(&p->b);
    some_work(&p->a, "three");
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    struct dmt_op op = FX_OP(0);
    struct dmt_attr at;
    assert_int_equal(dmt_ws_make(p->b.ws, &op, DMT_ROOT, "no", S_IFREG, 0, NULL, &at), -EROFS);
}

static void follower_applies_no_further_than_told(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    some_work(&p->a, "one");
    uint64_t seq = dmt_ws_applied(p->a.ws);
    some_work(&p->a, "two");
    pair_send(&p->a, &p->b, UINT64_MAX);
    fx_check(dmt_ws_apply_upto(p->b.ws, seq, &err), &err);
    assert_true(dmt_ws_applied(p->b.ws) == seq);
    assert_int_equal(fx_lookup(&p->b, DMT_ROOT, "two"), 0);
    pair_apply(&p->b);
    pair_equal(&p->a, &p->b, DMT_LIVE);
}

static void restarted_follower_goes_on(void **state)
{
    struct pair *p = *state;
    some_work(&p->a, "one");
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    fx_close(&p->b);
    some_work(&p->a, "two");
    fx_open(&p->b, true);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_equal(&p->a, &p->b, DMT_LIVE);
}

static void other_history_is_refused(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    some_work(&p->a, "one");
    pair_send(&p->a, &p->b, 3);
    struct dmt_jreader *rd;
    struct dmt_rec r;
    const uint8_t *raw;
    size_t len;
    fx_check(dmt_jreader_open(&rd, dmt_ws_journal(p->a.ws), 5, &err), &err);
    assert_int_equal(dmt_jreader_next(rd, &r, &raw, &len, &err), 1);
    assert_int_equal(dmt_ws_receive(p->b.ws, raw, len, &err), DMT_E_HISTORY);
    dmt_jreader_close(rd);
}

static void promotion_applies_all_that_is_here(void **state)
{
    struct pair *p = *state;
    some_work(&p->a, "one");
    pair_send(&p->a, &p->b, UINT64_MAX); /* never told to apply */
    fx_close(&p->a);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    assert_true(fx_lookup(&p->b, DMT_ROOT, "one") > 0);
    some_work(&p->b, "two");
    struct dmt_ws_status s;
    dmt_ws_status(p->b.ws, &s);
    assert_true(s.holder && s.epoch == FX_EPOCH(2, 0));
    struct dmt_snapshot snap;
    assert_int_equal(dmt_store_snap_get(dmt_ws_store(p->b.ws), "switch/epoch-2.0", &snap), 0);
}

/* From the first moment of a promotion on nothing of the old holder's counts, whatever its
 * connection still brings: no record gets between what is applied and the new epoch, no bytes come
 * into a file that is being settled, and that nothing is missing any more is no word about what has
 * come. */
static void who_is_promoted_takes_nothing_more(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    struct dmt_missing m, any;
    struct dmt_rec rec;
    struct dmt_jreader *rd;
    const uint8_t *raw;
    size_t len;
    uint64_t x = fx_file(&p->a, DMT_ROOT, "x");
    fx_fill(&p->a, x, 2u << 20, 0, 256u << 10, 1);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    assert_int_equal(dmt_ws_missing_next(p->b.ws, x, 0, &m), 1);
    uint64_t tail = dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq;
    some_work(&p->a, "late");
    fx_check(dmt_jreader_open(&rd, dmt_ws_journal(p->a.ws), tail, &err), &err);
    assert_int_equal(dmt_jreader_next(rd, &rec, &raw, &len, &err), 1);
    uint8_t *bytes = calloc(1, m.len);
    assert_non_null(bytes);
    fx_check(dmt_ws_promote(p->b.ws, &err), &err);
    for (int when = 0; when < 3; when++) {
        assert_int_equal(dmt_ws_receive(p->b.ws, raw, len, NULL), DMT_E_STALE);
        assert_int_equal(dmt_ws_missing_fill(p->b.ws, &m, bytes), DMT_E_STALE);
        assert_int_equal(dmt_ws_missing_next(p->b.ws, 0, 0, &any), DMT_E_STALE);
        if (when == 0)
            fx_check(dmt_ws_begin_epoch(p->b.ws, FX_EPOCH(2, 0), "beta", "test", &err), &err);
        if (when == 1)
            assert_int_equal(dmt_ws_settle(p->b.ws, false, &err), 1);
    }
    dmt_jreader_close(rd);
    free(bytes);
    assert_int_equal(fx_attr(&p->b, x).st.st_size, m.off); /* cut where bytes are missing */
    /* a loser follows again */
    dmt_ws_demote(p->b.ws);
    assert_int_equal(dmt_ws_missing_next(p->b.ws, 0, 0, &any), 0);
}

static void promotion_reaps_what_was_open_there(void **state)
{
    struct pair *p = *state;
    struct dmt_attr at;
    uint64_t x = fx_file(&p->a, DMT_ROOT, "x");
    dmt_ws_ref(p->a.ws, x);
    fx_unlink(&p->a, DMT_ROOT, "x");
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    assert_int_equal(dmt_ws_getattr(p->b.ws, x, &at), 0);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    assert_int_equal(dmt_ws_getattr(p->b.ws, x, &at), -ENOENT);
}

/* --- bulk ------------------------------------------------------------------------------------- */

static void bulk_is_pulled_and_becomes_equal(void **state)
{
    struct pair *p = *state;
    uint64_t x = fx_file(&p->a, DMT_ROOT, "x"), y = fx_file(&p->a, DMT_ROOT, "y");
    fx_fill(&p->a, x, 6u << 20, 0, 512u << 10, 1);
    fx_fill(&p->a, y, 3u << 20, 0, 256u << 10, 2);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    assert_true(dmt_ws_missing_ino(p->b.ws, x, UINT64_MAX));
    assert_true(pair_pull(&p->a, &p->b, 1000) > 0);
    assert_false(dmt_ws_missing_ino(p->b.ws, 0, UINT64_MAX));
    pair_equal(&p->a, &p->b, DMT_LIVE);
    fx_close(&p->b);
    fx_open(&p->b, true);
    pair_equal(&p->a, &p->b, DMT_LIVE);
}

/* `node` read on that machine at off, one byte. */
static ssize_t read_at(struct fx *f, uint64_t node, uint64_t off)
{
    char byte;
    return dmt_ws_read(f->ws, node, &byte, 1, off, false);
}

/* Who looks at a standby gets what is there, and an error for what is still on its way. */
static void what_is_on_its_way_is_not_read_as_zeros(void **state)
{
    struct pair *p = *state;
    struct dmt_missing m;
    struct dmt_snapshot snap;
    struct dmt_err err = {0};
    uint64_t x = fx_file(&p->a, DMT_ROOT, "x");
    fx_fill(&p->a, x, 2u << 20, 0, 256u << 10, 1);
    fx_text(&p->a, x, "the end", 3u << 20);
    fx_check(dmt_ws_snap_create(p->a.ws, "s", "", &snap, &err), &err);
    fx_fill(&p->a, x, 256u << 10, 1u << 20, 256u << 10, 2); /* in the snapshot it is another one */
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    uint64_t past = dmt_ws_snap_node(&snap, x);
    assert_int_equal(dmt_ws_missing_next(p->b.ws, x, 0, &m), 1);
    assert_int_equal(m.off, 1u << 20); /* what came before was short enough for records */
    assert_int_equal(read_at(&p->a, x, m.off), 1);
    assert_int_equal(read_at(&p->b, x, m.off - 1), 1);
    assert_int_equal(read_at(&p->b, x, m.off), -EIO);
    assert_int_equal(read_at(&p->b, x, m.off + m.len), -EIO);
    assert_int_equal(read_at(&p->b, x, 5u << 19), 1); /* a hole */
    assert_int_equal(read_at(&p->b, x, 3u << 20), 1);
    assert_int_equal(pair_pull(&p->a, &p->b, 1), 1);
    assert_int_equal(read_at(&p->b, x, m.off), 1);
    assert_int_equal(read_at(&p->b, x, m.off + m.len), -EIO);
    assert_int_equal(read_at(&p->b, past, m.off), -EIO);
    assert_int_equal(read_at(&p->b, past, 3u << 20), 1);
    pair_pull(&p->a, &p->b, 1000);
    assert_int_equal(read_at(&p->b, x, m.off + m.len), 1);
    assert_int_equal(read_at(&p->b, past, m.off), 1);
}

static void overwritten_ranges_are_gone_for_the_reader(void **state)
{
    struct pair *p = *state;
    struct dmt_missing m;
    uint64_t n, x = fx_file(&p->a, DMT_ROOT, "x");
    uint8_t *buf = malloc(1u << 20);
    fx_fill(&p->a, x, 4u << 20, 0, 256u << 10, 1);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    assert_int_equal(dmt_ws_missing_next(p->b.ws, x, 0, &m), 1);
    assert_true(m.len <= 1u << 20);
    fx_text(&p->a, x, "changed", m.off);
    assert_int_equal(dmt_ws_bulk_read(p->a.ws, x, m.off, m.len, m.seq, buf, &n), DMT_E_GONE);
    assert_int_equal(dmt_ws_bulk_read(p->a.ws, x, m.off + 7, m.len - 7, m.seq, buf, &n), 0);
    assert_true(n == m.len - 7);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_pull(&p->a, &p->b, 1000);
    assert_false(dmt_ws_missing_ino(p->b.ws, 0, UINT64_MAX));
    pair_equal(&p->a, &p->b, DMT_LIVE);
    fx_unlink(&p->a, DMT_ROOT, "x");
    assert_int_equal(dmt_ws_bulk_read(p->a.ws, x, m.off, m.len, m.seq, buf, &n), DMT_E_GONE);
    free(buf);
}

static void marks_of_the_holder_do_not_complete_the_follower(void **state)
{
    struct pair *p = *state;
    uint64_t x = fx_file(&p->a, DMT_ROOT, "x");
    fx_fill(&p->a, x, 4u << 20, 0, 256u << 10, 1);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    assert_false(dmt_ws_missing_ino(p->a.ws, x, UINT64_MAX));
    assert_true(dmt_ws_missing_ino(p->b.ws, x, UINT64_MAX));
}

/* --- the loser -------------------------------------------------------------------------------- */

/* b was promoted at b's tail; a gives up and follows b. */
static void lose(struct pair *p, uint64_t switch_seq)
{
    struct dmt_err err = {0};
    dmt_ws_demote(p->a.ws);
    fx_check(dmt_ws_branch_and_cut(p->a.ws, switch_seq, "epoch-1-alpha", &err), &err);
    pair_send(&p->b, &p->a, UINT64_MAX);
    pair_apply(&p->a);
}

struct branches {
    int n;
    uint64_t first, last;
};

static int on_branch(void *ctx, const char *name, uint64_t first, uint64_t last, uint64_t bytes)
{
    struct branches *b = ctx;
    assert_string_equal(name, "epoch-1-alpha");
    assert_true(bytes > 0);
    b->n++;
    b->first = first;
    b->last = last;
    return 0;
}

static void read_file(const char *dir, const char *name, char *buf, size_t size)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(buf, 1, size - 1, f);
    buf[n] = '\0';
    (void)fclose(f);
}

static void loser_keeps_its_tail_as_a_branch_and_follows(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    char out[96], text[64];
    some_work(&p->a, "one");
    uint64_t x = fx_lookup(&p->a, fx_lookup(&p->a, DMT_ROOT, "one"), "x");
    struct dmt_op op = {0};
    struct dmt_attr link;
    assert_int_equal(dmt_ws_make(p->a.ws, &op, DMT_ROOT, "link", S_IFLNK | 0777, 0, "one/x", &link),
                     0);
    pair_send(&p->a, &p->b, UINT64_MAX);
    uint64_t at = dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq;
    some_work(&p->a, "lost");
    fx_text(&p->a, x, "late", 0);
    assert_int_equal(dmt_ws_rename(p->a.ws, &op, DMT_ROOT, "link", DMT_ROOT, "moved", 0), 0);
    uint64_t big = fx_file(&p->a, DMT_ROOT, "big");
    fx_fill(&p->a, big, 4u << 20, 0, 256u << 10, 9);
    uint64_t end = dmt_journal_tail(dmt_ws_journal(p->a.ws)).seq;
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    some_work(&p->b, "two");
    lose(p, at);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    assert_int_equal(fx_lookup(&p->a, DMT_ROOT, "lost"), 0);
    struct branches b = {0};
    assert_int_equal(dmt_ws_branches(p->a.ws, on_branch, &b), 0);
    assert_int_equal(b.n, 1);
    assert_true(b.first == at + 1 && b.last == end);
    (void)snprintf(out, sizeof(out), "%s/out", p->a.dir);
    assert_int_equal(mkdir(out, 0700), 0);
    fx_check(dmt_ws_branch_extract(p->a.ws, "epoch-1-alpha", out, NULL, &err), &err);
    read_file(out, "lost/x", text, sizeof(text));
    assert_string_equal(text, "lost");
    read_file(out, "one/x", text, sizeof(text));
    assert_string_equal(text, "late");
    struct stat st;
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/moved", out);
    assert_int_equal(readlink(path, text, sizeof(text)), 5);
    assert_memory_equal(text, "one/x", 5);
    (void)snprintf(path, sizeof(path), "%s/big", out);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 4u << 20);
    uint8_t *want = malloc(4u << 20), *got = malloc(4u << 20);
    fx_pattern(want, 4u << 20, 0, 9);
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, got, 4u << 20), 4 << 20);
    close(fd);
    assert_memory_equal(want, got, 4u << 20);
    free(want);
    free(got);
}

static void checkpoint_beyond_the_switch_asks_for_resync(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    some_work(&p->a, "one");
    pair_send(&p->a, &p->b, UINT64_MAX);
    uint64_t at = dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq;
    some_work(&p->a, "lost");
    fx_checkpoint(&p->a);
    dmt_ws_demote(p->a.ws);
    assert_int_equal(dmt_ws_branch_and_cut(p->a.ws, at, "epoch-1-alpha", &err), DMT_E_HISTORY);
    struct branches b = {0};
    assert_int_equal(dmt_ws_branches(p->a.ws, on_branch, &b), 0);
    assert_int_equal(b.n, 1);
}

static void roles_change_back_and_forth(void **state)
{
    struct pair *p = *state;
    some_work(&p->a, "one");
    complete_file(p, "big");
    pair_send(&p->a, &p->b, UINT64_MAX);
    uint64_t at = dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq;
    some_work(&p->a, "lost");
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    settle(&p->b, 0);
    uint64_t x = fx_lookup(&p->b, DMT_ROOT, "big");
    fx_fill(&p->b, x, 3u << 20, 0, 256u << 10, 5);
    some_work(&p->b, "two");
    lose(p, at);
    pair_pull(&p->b, &p->a, 1000);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    /* handover: everything is there */
    dmt_ws_demote(p->b.ws);
    pair_promote(&p->a, "alpha", FX_EPOCH(3, 0));
    settle(&p->a, 0);
    some_work(&p->a, "three");
    fx_expect_pattern(&p->a, x, 3u << 20, 0, 5);
    struct dmt_err err = {0};
    fx_check(dmt_ws_branch_and_cut(p->b.ws, dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq,
                                   "epoch-2-beta", &err),
             &err);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_equal(&p->a, &p->b, DMT_LIVE);
}

/* The loser had the bytes and has let the old content go; the winner fell back to it. */
static void loser_pulls_fallback_content_it_no_longer_has(void **state)
{
    struct pair *p = *state;
    uint64_t x = complete_file(p, "x");
    fx_truncate(&p->a, x, 0);
    fx_fill(&p->a, x, 4u << 20, 0, 256u << 10, 2);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0); /* complete on a */
    pair_send(&p->a, &p->b, UINT64_MAX);
    fx_checkpoint(&p->a);
    uint64_t at = dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq;
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    struct reports r = settle(&p->b, 1);
    assert_int_equal(r.fallback, 1);
    lose(p, at);
    assert_true(dmt_ws_missing_ino(p->a.ws, x, UINT64_MAX));
    pair_pull(&p->b, &p->a, 1000);
    assert_false(dmt_ws_missing_ino(p->a.ws, x, UINT64_MAX));
    pair_equal(&p->a, &p->b, DMT_LIVE);
}

/* --- first synchronisation -------------------------------------------------------------------- */

static void resynchronised_store_follows_and_takes_over(void **state)
{
    struct pair *p = *state;
    struct dmt_snapshot s;
    struct dmt_err err = {0};
    some_work(&p->a, "one");
    complete_file(p, "big");
    fx_check(dmt_ws_snap_create(p->a.ws, "s", "", &s, &err), &err);
    some_work(&p->a, "two");
    fx_unlink(&p->a, DMT_ROOT, "big");
    uint64_t open_file = fx_file(&p->a, DMT_ROOT, "open");
    dmt_ws_ref(p->a.ws, open_file);
    fx_unlink(&p->a, DMT_ROOT, "open");
    pair_resync(&p->a, &p->b);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    pair_equal(&p->a, &p->b, s.seq);
    some_work(&p->a, "three");
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    uint64_t last = fx_file(&p->a, DMT_ROOT, "last");
    dmt_ws_demote(p->a.ws);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    struct dmt_attr at;
    /* the orphan came along and was reaped */
    assert_int_equal(dmt_ws_getattr(p->b.ws, open_file, &at), -ENOENT);
    /* numbers go on where they were */
    assert_true(fx_file(&p->b, DMT_ROOT, "next") > last);
    fx_check(dmt_ws_snap_create(p->b.ws, "t", "", &s, &err), &err);
    assert_true(s.serial > 1);
}

static bool has_switch(struct fx *f, unsigned major)
{
    char name[64];
    struct dmt_snapshot snap;
    (void)snprintf(name, sizeof(name), "switch/epoch-%u.0", major);
    return dmt_store_snap_get(dmt_ws_store(f->ws), name, &snap) == 0;
}

/* A branch can be written out as long as it is there: the snapshot that it starts from stays, and
 * no other of long ago. */
static void switch_snapshots_stay_while_a_branch_needs_them(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    static const char *node[] = {"alpha", "beta"};
    some_work(&p->a, "one");
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    fx_shell("mkdir -p %s/branches/epoch-3.2-alpha", p->b.store);
    fx_shell("mkdir -p %s/branches/epoch-3.2-alpha.bulk", p->b.store);
    for (unsigned major = 3; major < 10; major++)
        fx_check(dmt_ws_begin_epoch(p->b.ws, FX_EPOCH(major, 0), node[major % 2], "test", &err),
                 &err);
    for (unsigned major = 2; major < 10; major++)
        assert_int_equal(has_switch(&p->b, major), major == 4 || major >= 7);
    fx_check(dmt_ws_branch_remove(p->b.ws, "epoch-3.2-alpha", true, &err), &err);
    fx_check(dmt_ws_branch_remove(p->b.ws, "epoch-3.2-alpha.bulk", true, &err), &err);
    fx_check(dmt_ws_begin_epoch(p->b.ws, FX_EPOCH(10, 0), node[0], "test", &err), &err);
    for (unsigned major = 2; major < 11; major++)
        assert_int_equal(has_switch(&p->b, major), major >= 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)
        T(follower_equals_holder),
        T(follower_applies_no_further_than_told),
        T(restarted_follower_goes_on),
        T(other_history_is_refused),
        T(promotion_applies_all_that_is_here),
        T(who_is_promoted_takes_nothing_more),
        T(promotion_reaps_what_was_open_there),
        T(bulk_is_pulled_and_becomes_equal),
        T(what_is_on_its_way_is_not_read_as_zeros),
        T(overwritten_ranges_are_gone_for_the_reader),
        T(marks_of_the_holder_do_not_complete_the_follower),
        T(loser_keeps_its_tail_as_a_branch_and_follows),
        T(checkpoint_beyond_the_switch_asks_for_resync),
        T(roles_change_back_and_forth),
        T(loser_pulls_fallback_content_it_no_longer_has),
        T(resynchronised_store_follows_and_takes_over),
        T(switch_snapshots_stay_while_a_branch_needs_them),
    };
    return cmocka_run_group_tests_name("workspace following", tests, NULL, NULL);
}
