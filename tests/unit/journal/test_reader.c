/* test_reader.c: readers that follow a writer, meet recycling (GONE), truncation (STALE), damage,
 * and records that move. */
#include "tests/unit/journal/util.h"

static struct dmt_jreader *reader_at(struct tj *t, uint64_t after_seq)
{
    struct dmt_jreader *r;
    assert_int_equal(dmt_jreader_open(&r, t->j, after_seq, &t->err), 0);
    return r;
}

static void expect_next(struct tj *t, struct dmt_jreader *r, uint64_t seq)
{
    struct dmt_rec rec;
    const uint8_t *raw;
    size_t len;
    int res = dmt_jreader_next(r, &rec, &raw, &len, &t->err);
    if (res != 1)
        print_error("record %lu: %d %s\n", (unsigned long)seq, res, t->err.msg);
    assert_int_equal(res, 1);
    tj_check_rec(&rec, seq);
    struct dmt_rec again;
    size_t used;
    assert_int_equal(dmt_rec_decode(raw, len, &again, &used), 0); /* raw is canonical */
    assert_int_equal(used, len);
    assert_int_equal(again.chain, rec.chain);
}

static void expect(struct tj *t, struct dmt_jreader *r, int result)
{
    struct dmt_rec rec;
    assert_int_equal(dmt_jreader_next(r, &rec, NULL, NULL, &t->err), result);
}

static void follows_across_segments(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    tj_open(t);
    struct dmt_jreader *r = reader_at(t, 0);
    expect(t, r, 0);
    uint64_t seq = 0;
    for (unsigned i = 0; i < 200; i++) {
        tj_append(t, i % 17);
        if (i % 5 == 0)
            tj_sync(t);
        for (unsigned k = 0; k < i % 17; k++)
            expect_next(t, r, ++seq);
        expect(t, r, 0);
    }
    assert_int_equal(seq, dmt_journal_tail(t->j).seq);
    dmt_jreader_close(r);
    tj_free(t);
}

static void opens_in_range_only(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    struct dmt_jreader *r;
    t->conf.floor = (struct dmt_pos){1, 100, 0};
    tj_open(t);
    tj_append(t, 10);
    assert_int_equal(dmt_jreader_open(&r, t->j, 99, &t->err), DMT_E_GONE);
    assert_int_equal(dmt_jreader_open(&r, t->j, 111, &t->err), -ENOENT);
    r = reader_at(t, 110);
    expect(t, r, 0);
    dmt_jreader_close(r);
    r = reader_at(t, 100);
    expect_next(t, r, 101);
    dmt_jreader_close(r);
    tj_free(t);
}

static void meets_recycling(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    tj_open(t);
    tj_append(t, 600);
    tj_sync(t);
    struct dmt_jreader *slow = reader_at(t, 0), *fast = reader_at(t, 599);
    expect_next(t, slow, 1); /* has the first segment in its buffer now */
    dmt_journal_release(t->j, 590);
    uint64_t first = dmt_journal_first(t->j).seq;
    assert_true(first > 400);
    /* Let the files be used again under the reader, several times. */
    for (int i = 0; i < 10; i++) {
        tj_append(t, 300);
        tj_sync(t);
        dmt_journal_release(t->j, dmt_journal_tail(t->j).seq - 10);
    }
    int res;
    uint64_t seq = 1;
    struct dmt_rec rec;
    while ((res = dmt_jreader_next(slow, &rec, NULL, NULL, &t->err)) == 1)
        tj_check_rec(&rec, ++seq); /* the rest of its buffer is right still */
    assert_int_equal(res, DMT_E_GONE);
    expect(t, slow, DMT_E_GONE);
    expect(t, fast, DMT_E_GONE);
    dmt_jreader_close(slow);
    dmt_jreader_close(fast);
    tj_free(t);
}

static void meets_truncation(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    tj_open(t);
    tj_append(t, 500);
    struct dmt_jreader *before = reader_at(t, 40), *at = reader_at(t, 0), *beyond = reader_at(t, 0),
                       *end = reader_at(t, 500);
    expect_next(t, before, 41);
    for (uint64_t i = 1; i <= 300; i++)
        expect_next(t, at, i);
    for (uint64_t i = 1; i <= 301; i++)
        expect_next(t, beyond, i);
    assert_int_equal(dmt_journal_truncate_to(t->j, 300, &t->err), 0);
    expect(t, at, 0);
    expect(t, beyond, DMT_E_STALE);
    expect(t, end, DMT_E_STALE);
    t->epoch = EPOCH(2, 0);
    tj_append(t, 50);
    for (uint64_t i = 301; i <= 350; i++)
        expect_next(t, at, i);
    for (uint64_t i = 42; i <= 350; i++)
        expect_next(t, before, i);
    expect(t, beyond, DMT_E_STALE);
    struct dmt_pos pos = {EPOCH(3, 0), 1000, 1};
    assert_int_equal(dmt_journal_reset(t->j, &pos, &t->err), 0);
    expect(t, at, DMT_E_STALE);
    expect(t, before, DMT_E_STALE);
    dmt_jreader_close(before);
    dmt_jreader_close(at);
    dmt_jreader_close(beyond);
    dmt_jreader_close(end);
    tj_free(t);
}

/* Damage under a running journal: CORRUPT with the number, not a skipped record; the others can be
 * read. */
static void meets_damage(void **state)
{
    (void)state;
    struct tj *t = tj_new(256u << 10, 1);
    char path[JOURNAL_PATH_MAX];
    tj_open(t);
    tj_append(t, 100);
    tj_sync(t);
    tj_segment(t, -1, path);
    uint64_t off = tj_offset_of(path, 50, NULL);
    for (uint64_t byte = 0; byte < 64; byte++) { /* the length too */
        tj_flip(path, off + byte);
        struct dmt_jreader *r = reader_at(t, 0);
        for (uint64_t i = 1; i < 50; i++)
            expect_next(t, r, i);
        expect(t, r, DMT_E_CORRUPT);
        assert_non_null(strstr(t->err.msg, "record 50"));
        tj_flip(path, off + byte);
        expect_next(t, r, 50); /* put right: the reader goes on */
        dmt_jreader_close(r);
    }
    tj_free(t);
}

/* Frames across the borders of the read buffer, and records longer than it. */
static void long_records(void **state)
{
    (void)state;
    struct tj *t = tj_new(8u << 20, 1);
    uint8_t *body = calloc(1, 1u << 20);
    struct dmt_rec rec;
    tj_open(t);
    for (uint32_t i = 1; i <= 14; i++) {
        struct dmt_rec r = {.epoch = 1, .type = 1};
        struct iovec iov = {body, 77777u * i % (1u << 20)};
        memset(body, (int)i, iov.iov_len);
        t->epoch = EPOCH(1, 1);
        r.epoch = t->epoch;
        assert_int_equal(dmt_journal_append(t->j, &r, &iov, 1, &t->err), 0);
    }
    for (uint64_t after = 0; after < 14; after++) {
        struct dmt_jreader *r = reader_at(t, after);
        for (uint64_t i = after + 1; i <= 14; i++) {
            assert_int_equal(dmt_jreader_next(r, &rec, NULL, NULL, &t->err), 1);
            assert_int_equal(rec.seq, i);
            assert_int_equal(rec.body_len, 77777u * i % (1u << 20));
            for (uint32_t k = 0; k < rec.body_len; k += 4093)
                assert_int_equal(rec.body[k], i);
        }
        expect(t, r, 0);
        dmt_jreader_close(r);
    }
    free(body);
    tj_free(t);
}

/* Records that are not durable move to another file after a failed fdatasync: readers before, at
 * and in them do not notice. */
static void records_move(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    tj_open(t);
    tj_append(t, 30);
    tj_sync(t);
    faultio_match(t->f, ".seg"); /* not what is being prepared */
    faultio_hold(t->f, FAULTIO_SYNC);
    tj_append(t, 300);
    struct dmt_jreader *a = reader_at(t, 0), *b = reader_at(t, 30), *c = reader_at(t, 100),
                       *d = reader_at(t, 330);
    expect_next(t, a, 1);
    expect_next(t, b, 31);
    expect_next(t, c, 101);
    faultio_fail(t->f, FAULTIO_SYNC, 1, 1, EIO);
    uint64_t layout = atomic_load(&t->j->layout);
    faultio_release(t->f);
    tj_sync(t);
    assert_true(atomic_load(&t->j->layout) > layout);
    tj_append(t, 5);
    for (uint64_t i = 2; i <= 335; i++)
        expect_next(t, a, i);
    for (uint64_t i = 32; i <= 335; i++)
        expect_next(t, b, i);
    for (uint64_t i = 102; i <= 335; i++)
        expect_next(t, c, i);
    for (uint64_t i = 331; i <= 335; i++)
        expect_next(t, d, i);
    dmt_jreader_close(a);
    dmt_jreader_close(b);
    dmt_jreader_close(c);
    dmt_jreader_close(d);
    tj_free(t);
}

/* A record that cannot be read and is not durable yet: the reader waits for the move instead of
 * calling it damage. */
static void *fail_the_sync(void *arg)
{
    struct tj *t = arg;
    faultio_wait_held(t->f, 1);
    faultio_fail(t->f, FAULTIO_SYNC, 1, 1, EIO);
    faultio_release(t->f);
    return NULL;
}

static void waits_for_the_move(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    char path[JOURNAL_PATH_MAX];
    pthread_t thread;
    tj_open(t);
    tj_append(t, 3);
    tj_sync(t);
    tj_append(t, 10);
    tj_segment(t, -1, path);
    tj_flip(path,
            tj_offset_of(path, 7, NULL) + 30); /* what the kernel may show after a failed write */
    faultio_match(t->f, ".seg");
    faultio_hold(t->f, FAULTIO_SYNC);
    assert_int_equal(pthread_create(&thread, NULL, fail_the_sync, t), 0);
    struct dmt_jreader *r = reader_at(t, 0);
    for (uint64_t i = 1; i <= 13; i++)
        expect_next(t, r, i);
    pthread_join(thread, NULL);
    assert_int_equal(dmt_journal_durable(t->j), 13);
    dmt_jreader_close(r);
    tj_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_across_segments),
        cmocka_unit_test(opens_in_range_only),
        cmocka_unit_test(meets_recycling),
        cmocka_unit_test(meets_truncation),
        cmocka_unit_test(meets_damage),
        cmocka_unit_test(long_records),
        cmocka_unit_test(records_move),
        cmocka_unit_test(waits_for_the_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
