/* test_keep.c: what an incomplete file falls back to, the contents that are due, and when one takes
 * the other's place (rules 21, 22). Whole workspaces: unit/workspace/test_fallback. */
#include "tests/unit/store/util.h"

#define MB (1u << 20)

/* Inode 2, whole: 4 MB of 'a', which a sync has acknowledged. */
static struct ts *with_file(bool mine)
{
    struct ts *t = ts_new();
    dmt_store_set_mine(t->st, true);
    ts_file(t, 2);
    ts_ref(t, 2, 0, 4 * MB, 'a', true);
    OK(dmt_store_ref_sync(t->st, &t->lk, 2));
    OK(dmt_store_mark(t->st, 2, t->seq, true, 0, t->seq + 1));
    t->seq++;
    ts_checkpoint(t);
    dmt_store_set_mine(t->st, mine);
    return t;
}

/* Record of a sync that is about all up to `upto`. mine: those bytes are durable. */
static uint64_t mark(struct ts *t, uint64_t upto, bool mine)
{
    t->seq++;
    OK(dmt_store_mark(t->st, 2, upto ? upto : t->seq, mine && upto, 0, t->seq));
    return t->seq;
}

/* The bytes of the record at `seq` come and are made durable. */
static void arrive(struct ts *t, uint64_t seq, int byte)
{
    static uint8_t buf[4 * MB];
    struct dmt_missing m;
    uint64_t used;
    memset(buf, byte, sizeof(buf));
    for (uint64_t off = 0; dmt_store_missing_next(t->st, 2, off, &m) == 1; off = m.off + m.len)
        if (m.seq == seq)
            OK(dmt_store_missing_fill(t->st, &m, buf, &used));
    OK(dmt_store_fill_sync(t->st, &t->lk));
}

/* Where the content stands that it falls back to; 0: nowhere. */
static uint64_t falls_back_to(struct ts *t)
{
    uint64_t src, view, size, mtime;
    int r = dmt_store_fallback(t->st, 2, &src, &view, &size, &mtime);
    if (r == -ENOENT)
        return 0;
    OK(r);
    assert_true(src == 2 && size >= 2 * MB);
    return view;
}

/* What a sync was about is fallen back to when its own bytes are here, whatever is on its way of
 * what was written behind it. */
static void due_until_all_of_it_is_here(void **state)
{
    (void)state;
    struct ts *t = with_file(false);
    uint64_t whole = t->seq, b = ts_ref(t, 2, 0, MB, 'b', false), at = mark(t, b, false);
    uint64_t c = ts_ref(t, 2, 2 * MB, MB, 'c', false);
    assert_true(falls_back_to(t) == whole);
    assert_false(dmt_store_keep_covers(t->st, 2, b));
    arrive(t, c, 'c'); /* the wrong one */
    assert_true(falls_back_to(t) == whole);
    uint64_t d = ts_ref(t, 2, 3 * MB, MB, 'd', false);
    arrive(t, b, 'b');
    assert_true(falls_back_to(t) == at);
    assert_true(dmt_store_keep_covers(t->st, 2, b));
    ts_checkpoint(t);
    assert_true(dmt_store_keep_covers(t->st, 2, b));
    assert_true(dmt_store_keep_covers(t->st, 2, c));
    assert_false(dmt_store_missing_ino(t->st, 2, c));
    ts_expect(t, at, 2, 0, MB, 'b');
    ts_expect(t, at, 2, MB, 3 * MB, 'a');
    arrive(t, d, 'd');
    assert_int_equal(falls_back_to(t), 0);
    assert_true(dmt_store_keep_covers(t->st, 2, b));
    ts_checkpoint(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM keep"), 0);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM extent_h"), 0);
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

/* The other machine need not have what was overwritten there: what replaced it must come. */
static void due_moves_with_what_it_lacks(void **state)
{
    (void)state;
    struct ts *t = with_file(false);
    uint64_t whole = t->seq, b = ts_ref(t, 2, 0, 2 * MB, 'b', false);
    (void)mark(t, b, false);
    uint64_t c = ts_ref(t, 2, MB, 2 * MB, 'c', false);
    uint64_t d = ts_ref(t, 2, 3 * MB, MB, 'd', false);
    arrive(t, b, 'b');
    assert_true(falls_back_to(t) == whole);
    arrive(t, c, 'c');
    assert_true(falls_back_to(t) == c);
    assert_false(dmt_store_keep_covers(t->st, 2, b)); /* a power cut may forget that */
    ts_checkpoint(t);
    assert_true(dmt_store_keep_covers(t->st, 2, b));
    ts_expect(t, c, 2, 0, MB, 'b');
    ts_expect(t, c, 2, MB, 2 * MB, 'c');
    ts_expect(t, c, 2, 3 * MB, MB, 'a');
    assert_true(dmt_store_missing_ino(t->st, 2, d));
    ts_free(t);
}

/* Cut off, so nothing of it is missing any more; and a file that is empty has nothing due. */
static void due_moves_with_what_is_cut_off(void **state)
{
    (void)state;
    struct ts *t = with_file(false);
    uint64_t b = ts_ref(t, 2, 3 * MB, MB, 'b', false);
    (void)mark(t, b, false);
    (void)ts_ref(t, 2, 0, MB, 'c', false);
    ts_truncate(t, 2, 3 * MB);
    uint64_t whole = falls_back_to(t);
    assert_true(whole < b);
    arrive(t, b + 2, 'c');
    assert_int_equal(falls_back_to(t), 0);
    b = ts_ref(t, 2, 0, MB, 'b', false);
    (void)mark(t, b, false);
    ts_truncate(t, 2, 0);
    (void)ts_ref(t, 2, 0, MB, 'c', false);
    ts_checkpoint(t);
    assert_true(dmt_store_keep_covers(t->st, 2, b)); /* nothing is due */
    assert_true(falls_back_to(t) == b - 1);
    ts_free(t);
}

/* Who syncs faster than the bytes come: the oldest gets whole first, then the newest. */
static void oldest_and_newest_are_due(void **state)
{
    (void)state;
    struct ts *t = with_file(false);
    uint64_t seq[3], at[3], whole = t->seq;
    for (unsigned i = 0; i < 3; i++) {
        seq[i] = ts_ref(t, 2, i * MB, MB, 'b' + (int)i, false);
        at[i] = mark(t, seq[i], false);
    }
    (void)ts_ref(t, 2, 3 * MB, MB, 'x', false);
    assert_true(falls_back_to(t) == whole);
    arrive(t, seq[0], 'b');
    assert_true(falls_back_to(t) == at[0]);
    assert_false(dmt_store_keep_covers(t->st, 2, seq[1]));
    /* nor a sync after `at[1]` of bytes up to seq[0], which is known by those alone */
    assert_false(dmt_store_keep_covers(t->st, 2, seq[0]));
    ts_cold(t);
    assert_false(dmt_store_keep_covers(t->st, 2, seq[0]));
    arrive(t, seq[1], 'c');
    assert_true(falls_back_to(t) == at[0]);
    arrive(t, seq[2], 'd');
    assert_true(falls_back_to(t) == at[2]);
    ts_checkpoint(t);
    assert_true(dmt_store_keep_covers(t->st, 2, seq[1]));
    ts_expect(t, at[2], 2, MB, MB, 'c');
    ts_free(t);
}

/* Two syncs at once, and a third program that overwrites what they are about: the bytes are here,
 * and are made durable although nobody sees them any more. */
static void holder_waits_for_its_own_bytes(void **state)
{
    (void)state;
    struct ts *t = with_file(true);
    uint64_t whole = t->seq, b = ts_ref(t, 2, 0, 2 * MB, 'b', true), pin = mark(t, 0, true);
    uint64_t c = ts_ref(t, 2, MB, 2 * MB, 'c', true), pin2 = mark(t, 0, true);
    (void)ts_ref(t, 2, MB, 2 * MB, 'd', true);
    OK(dmt_store_ref_sync(t->st, &t->lk, 2));
    assert_true(falls_back_to(t) == whole);
    (void)mark(t, b, true);
    assert_true(falls_back_to(t) == pin);
    ts_checkpoint(t);
    (void)mark(t, c, true);
    assert_true(falls_back_to(t) == pin2);
    ts_cold(t);
    assert_true(falls_back_to(t) == pin2);
    ts_expect(t, pin2, 2, 0, MB, 'b');
    ts_expect(t, pin2, 2, MB, 2 * MB, 'c');
    ts_expect(t, pin2, 2, 3 * MB, MB, 'a');
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

/* Each of them returns when its own bytes are durable, so each content counts. */
static void holder_knows_what_each_sync_is_about(void **state)
{
    (void)state;
    struct ts *t = with_file(true);
    uint64_t seq[4], pin[4];
    for (unsigned i = 0; i < 4; i++) {
        seq[i] = ts_ref(t, 2, i * MB, MB, 'b' + (int)i, true);
        pin[i] = mark(t, 0, true);
    }
    (void)ts_ref(t, 2, 0, MB, 'x', true);
    for (unsigned i = 0; i < 4; i++) {
        (void)mark(t, seq[i], true);
        assert_true(falls_back_to(t) == pin[i]);
        ts_expect(t, pin[i], 2, i * MB, MB, 'b' + (int)i);
        if (i == 1) { /* a start finds them again */
            ts_cold(t);
            dmt_store_set_mine(t->st, true);
        }
    }
    ts_free(t);
}

static void due_is_known_after_a_start(void **state)
{
    (void)state;
    struct ts *t = with_file(false);
    uint64_t whole = t->seq, b = ts_ref(t, 2, 0, MB, 'b', false), at = mark(t, b, false);
    uint64_t c = ts_ref(t, 2, 2 * MB, MB, 'c', false), at2 = mark(t, c, false);
    ts_cold(t);
    assert_true(falls_back_to(t) == whole);
    assert_false(dmt_store_keep_covers(t->st, 2, b));
    arrive(t, b, 'b');
    assert_true(falls_back_to(t) == at);
    ts_cold(t);
    assert_true(falls_back_to(t) == at);
    uint64_t e = ts_ref(t, 2, 5 * MB / 2, MB / 2, 'e', false); /* and it moves */
    (void)ts_ref(t, 2, 3 * MB, MB, 'f', false);
    ts_cold(t);
    arrive(t, c, 'c');
    assert_true(falls_back_to(t) == at && at2 < e);
    arrive(t, e, 'e');
    assert_true(falls_back_to(t) == e);
    ts_expect(t, e, 2, 2 * MB, MB / 2, 'c');
    ts_cold(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM keep"), 1);
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

/* What only a content that is no longer due showed is missed by nobody. */
static void missing_goes_with_what_showed_it(void **state)
{
    (void)state;
    static const bool machine[] = {true, false};
    for (unsigned i = 0; i < 2; i++) { /* due, overwritten, and deleted before it came */
        struct ts *t = with_file(machine[i]);
        uint64_t b = ts_ref(t, 2, 0, MB, 'b', true);
        (void)mark(t, machine[i] ? 0 : b, machine[i]);
        ts_checkpoint(t);
        ts_truncate(t, 2, 0);
        (void)ts_ref(t, 2, 0, MB, 'c', true);
        ts_checkpoint(t);
        OK(dmt_store_inode_del(t->st, 2, ++t->seq));
        ts_checkpoint(t);
        assert_int_equal(dmt_store_missing_bytes(t->st), 0);
        assert_int_equal(ts_sql(t, "SELECT count(*) FROM missing"), 0);
        assert_int_equal(ts_findings(t), 0);
        ts_free(t);
    }
    struct ts *t = with_file(false); /* it moves */
    uint64_t b = ts_ref(t, 2, 0, 2 * MB, 'b', false);
    (void)mark(t, b, false);
    for (unsigned i = 0; i < 4; i++) {
        (void)ts_ref(t, 2, i % 2 * MB, MB, 'c' + (int)i, false);
        ts_checkpoint(t);
        assert_int_equal(dmt_store_missing_bytes(t->st), 2 * MB);
    }
    ts_free(t);
}

/* What has not come from the holder before will not come any more. */
static void promotion_waits_for_nothing(void **state)
{
    (void)state;
    struct ts *t = with_file(false);
    uint64_t whole = t->seq, b = ts_ref(t, 2, 0, MB, 'b', false);
    (void)mark(t, b, false);
    dmt_store_set_mine(t->st, true);
    dmt_store_keep_undue(t->st);
    assert_true(falls_back_to(t) == whole);
    ts_checkpoint(t);
    assert_true(dmt_store_keep_covers(t->st, 2, b));
    ts_free(t);
}

/* A store of format 1 had one keep a file, in a table of another key. */
static void format_1_is_upgraded(void **state)
{
    (void)state;
    struct ts *t = with_file(false);
    uint64_t whole = t->seq;
    (void)ts_ref(t, 2, 0, MB, 'b', false);
    ts_checkpoint(t);
    dmt_store_close(t->st);
    (void)ts_sql(t, "ALTER TABLE keep RENAME TO k");
    (void)ts_sql(t, "CREATE TABLE keep(ino INTEGER PRIMARY KEY, src INTEGER NOT NULL, view INTEGER "
                    "NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL)");
    (void)ts_sql(t, "INSERT INTO keep SELECT ino,src,view,size,mtime FROM k");
    (void)ts_sql(t, "DROP TABLE k");
    (void)ts_sql(t, "PRAGMA user_version=1");
    ts_open(t);
    assert_int_equal(ts_sql(t, "PRAGMA user_version"), 2);
    assert_true(falls_back_to(t) == whole);
    assert_int_equal(ts_findings(t), 0); /* the schema is that of a new store */
    ts_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(due_until_all_of_it_is_here),
        cmocka_unit_test(due_moves_with_what_it_lacks),
        cmocka_unit_test(due_moves_with_what_is_cut_off),
        cmocka_unit_test(oldest_and_newest_are_due),
        cmocka_unit_test(holder_waits_for_its_own_bytes),
        cmocka_unit_test(holder_knows_what_each_sync_is_about),
        cmocka_unit_test(due_is_known_after_a_start),
        cmocka_unit_test(missing_goes_with_what_showed_it),
        cmocka_unit_test(promotion_waits_for_nothing),
        cmocka_unit_test(format_1_is_upgraded),
    };
    return cmocka_run_group_tests_name("store keep", tests, NULL, NULL);
}
