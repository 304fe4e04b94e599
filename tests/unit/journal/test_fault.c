/* test_fault.c: a disk that fails: EIO on fdatasync (J5), failed writes, a full disk, a preparer
 * that cannot prepare. */
#include "tests/unit/journal/util.h"

struct told {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    uint64_t durable;
    int err, calls;
};

static void on_durable(void *ctx, uint64_t durable_seq, int err)
{
    struct told *told = ctx;
    pthread_mutex_lock(&told->lock);
    told->durable = durable_seq;
    told->err = err;
    told->calls++;
    pthread_cond_broadcast(&told->cond);
    pthread_mutex_unlock(&told->lock);
}

static struct tj *tj_told(uint64_t segment_bytes, struct told *told)
{
    struct tj *t = tj_new(segment_bytes, 1);
    *told = (struct told){.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    t->conf.on_durable = on_durable;
    t->conf.ctx = told;
    faultio_match(t->f, ".seg"); /* faults hit segments, not what is being prepared */
    return t;
}

static void wait_told(struct told *told, uint64_t durable, int err)
{
    pthread_mutex_lock(&told->lock);
    while (told->durable < durable || told->err != err)
        pthread_cond_wait(&told->cond, &told->lock);
    pthread_mutex_unlock(&told->lock);
}

static void power_cut(struct tj *t, enum faultio_mode mode)
{
    faultio_cut(t->f);
    tj_close(t);
    faultio_restore(t->f, mode);
}

/* J5: what was reported durable after a failed fdatasync survives a power cut that keeps nothing
 * unsynced. */
static void eio_on_fdatasync_rewrites(void **state)
{
    (void)state;
    struct told told;
    struct tj *t = tj_told(SMALL_SEGMENT, &told);
    uint64_t seq = 0;
    for (int round = 0; round < 8; round++) {
        tj_open(t);
        assert_int_equal(tj_check_all(t, 0), seq);
        tj_append(t, 10);
        tj_sync(t);
        tj_append(t, 20 + 100 * (unsigned)(round % 3)); /* within a segment, and over several */
        faultio_fail(t->f, FAULTIO_SYNC, 1, 1, EIO);
        tj_sync(t);
        tj_append(t, 10);
        seq = dmt_journal_tail(t->j).seq;
        dmt_journal_kick(t->j, seq);
        wait_told(&told, seq, 0);
        assert_int_equal(dmt_journal_error(t->j), 0);
        tj_check_all(t, 0);
        power_cut(t, FAULTIO_DROP);
        t->epoch++;
    }
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), seq);
    tj_free(t);
}

/* Records appended while the failing fdatasync runs move as well. */
static void *sync_thread(void *arg)
{
    struct tj *t = arg;
    tj_sync(t);
    return NULL;
}

static void eio_with_appends_under_way(void **state)
{
    (void)state;
    struct told told;
    struct tj *t = tj_told(SMALL_SEGMENT, &told);
    pthread_t thread;
    tj_open(t);
    tj_append(t, 10);
    tj_sync(t);
    tj_append(t, 10);
    faultio_hold(t->f, FAULTIO_SYNC);
    assert_int_equal(pthread_create(&thread, NULL, sync_thread, t), 0);
    faultio_wait_held(t->f, 1);
    tj_append(t, 200);
    faultio_fail(t->f, FAULTIO_SYNC, 1, 1, EIO);
    faultio_release(t->f);
    pthread_join(thread, NULL);
    tj_sync(t);
    power_cut(t, FAULTIO_DROP);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 220);
    tj_free(t);
}

/* If the new place fails too the journal is failed for good, and says so to everybody. */
static void eio_twice_fails_for_good(void **state)
{
    (void)state;
    struct told told;
    struct tj *t = tj_told(SMALL_SEGMENT, &told);
    tj_open(t);
    tj_append(t, 10);
    tj_sync(t);
    tj_append(t, 10);
    faultio_fail(t->f, FAULTIO_SYNC, 1, 2, EIO);
    assert_int_equal(dmt_journal_wait(t->j, 20), -EIO);
    wait_told(&told, 0, -EIO);
    assert_int_equal(dmt_journal_error(t->j), -EIO);
    assert_int_equal(dmt_journal_durable(t->j), 10);
    assert_int_equal(tj_try_append(t), -EIO);
    assert_int_equal(dmt_journal_wait(t->j, 20), -EIO);
    assert_int_equal(dmt_journal_wait(t->j, 10), 0);
    assert_int_equal(dmt_journal_truncate_to(t->j, 5, &t->err), -EIO);
    tj_check_all(t, 0); /* reading goes on */
    power_cut(t, FAULTIO_DROP);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 10);
    tj_free(t);
}

/* The process dies between the failed fdatasync and the rewrite: the kernel shows the records,
 * calls them clean, and would let the next fdatasync succeed. What the next open reports durable
 * must be so nevertheless. */
static void eio_then_kill_then_power_cut(void **state)
{
    (void)state;
    struct told told;
    struct tj *t = tj_told(SMALL_SEGMENT, &told);
    tj_open(t);
    tj_append(t, 10);
    tj_sync(t);
    tj_append(t, 10);
    faultio_fail(t->f, FAULTIO_SYNC | FAULTIO_WRITE, 2, UINT64_MAX,
                 EIO); /* the PAD's write is the first */
    assert_int_equal(dmt_journal_wait(t->j, 20), -EIO);
    power_cut(t, FAULTIO_KILL);
    tj_open(t);
    uint64_t durable = dmt_journal_durable(t->j);
    assert_int_equal(durable, 20);
    power_cut(t, FAULTIO_DROP);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), durable);
    tj_free(t);
}

/* A failed write appends nothing: the number is used by the next record, and a recovery finds no
 * trace. */
static void failed_write_appends_nothing(void **state)
{
    (void)state;
    struct told told;
    struct tj *t = tj_told(SMALL_SEGMENT, &told);
    tj_open(t);
    for (int i = 0; i < 50; i++) {
        tj_append(t, 3);
        struct dmt_pos tail = dmt_journal_tail(t->j);
        faultio_fail(t->f, FAULTIO_WRITE, 1, 1, i % 2 ? EIO : ENOSPC);
        assert_int_equal(tj_try_append(t), i % 2 ? -EIO : -ENOSPC);
        assert_int_equal(dmt_journal_tail(t->j).chain, tail.chain);
        assert_int_equal(dmt_journal_error(t->j), 0);
        if (i % 10 == 0) {
            power_cut(t, FAULTIO_KILL);
            tj_open(t);
            assert_int_equal(dmt_journal_tail(t->j).chain, tail.chain);
        }
    }
    assert_int_equal(tj_check_all(t, 0), 150);
    tj_free(t);
}

/* A full disk: append says so with nothing appended, and works again as soon as there is space. */
static void full_disk(void **state)
{
    (void)state;
    struct told told;
    struct tj *t = tj_told(SMALL_SEGMENT, &told);
    tj_open(t);
    faultio_match(t->f, NULL);
    for (int round = 0; round < 3; round++) {
        faultio_fail(t->f, FAULTIO_FALLOCATE, 1, UINT64_MAX, ENOSPC);
        struct dmt_pos tail;
        int r = 0;
        /* A segment that was being filled when the disk became full may still come in between. */
        do {
            for (int i = 0; r == 0 && i < 2000; i++)
                r = tj_try_append(t);
            assert_int_equal(r, -ENOSPC);
            assert_non_null(strstr(t->err.hint, "free space"));
            tail = dmt_journal_tail(t->j);
        } while ((r = tj_try_append(t)) == 0);
        assert_int_equal(r, -ENOSPC);
        assert_int_equal(dmt_journal_tail(t->j).chain, tail.chain);
        tj_sync(t); /* what was appended can be made durable: nothing grows for that */
        assert_int_equal(dmt_journal_error(t->j), 0);
        faultio_fail(t->f, 0, 0, 0, 0);
        tj_append(t, 10);
        tj_check_all(t, 0);
        tj_close(t);
        tj_open(t);
        assert_int_equal(dmt_journal_tail(t->j).seq, tail.seq + 10);
    }
    /* Releasing segments gives space back without any new file. */
    faultio_fail(t->f, FAULTIO_FALLOCATE | FAULTIO_CREATE, 1, UINT64_MAX, ENOSPC);
    int r = 0;
    for (int i = 0; r == 0 && i < 2000; i++)
        r = tj_try_append(t);
    assert_int_equal(r, -ENOSPC);
    tj_sync(t);
    dmt_journal_release(t->j, dmt_journal_tail(t->j).seq);
    while ((r = tj_try_append(t)) == -ENOSPC)
        usleep(1000); /* until the preparer has recycled one */
    assert_int_equal(r, 0);
    tj_free(t);
}

/* The header of the next segment cannot be written: the old one takes nothing more, since the
 * header may have reached the disk. */
static void header_write_fails(void **state)
{
    (void)state;
    struct told told;
    struct tj *t = tj_told(SMALL_SEGMENT, &told);
    tj_open(t);
    for (unsigned size = 7000; size >= 1000; size -= 1000) {
        struct journal_segment *s = journal_current(t->j);
        while (s->end + 9000 < s->bytes - JOURNAL_BLOCK)
            tj_append(t, 1);
        uint8_t body[8000] = {0};
        struct dmt_rec r = {.epoch = t->epoch, .type = 5};
        struct iovec iov = {body, sizeof(body)};
        uint64_t tail = dmt_journal_tail(t->j).seq;
        while (s->end + journal_frame_size(sizeof(body)) <= s->bytes - JOURNAL_BLOCK)
            tj_append(t, 1);
        tail = dmt_journal_tail(t->j).seq;
        faultio_fail(t->f, FAULTIO_WRITE, 1, 1, EIO);
        assert_int_equal(dmt_journal_append(t->j, &r, &iov, 1, &t->err), -EIO);
        tj_append(t, 1); /* would have fit into the old segment */
        assert_true(journal_current(t->j) != s);
        tj_sync(t);
        power_cut(t, size % 2000 ? FAULTIO_DROP : FAULTIO_KEEP);
        tj_open(t);
        assert_int_equal(tj_check_all(t, 0), tail + 1);
    }
    tj_free(t);
}

/* Renames and unlinks that fail for a while: nothing is lost, and the order of recycling is kept.
 */
static void preparer_in_trouble(void **state)
{
    (void)state;
    struct told told;
    struct tj *t = tj_told(SMALL_SEGMENT, &told);
    faultio_match(t->f, NULL);
    tj_open(t);
    for (int round = 0; round < 6; round++) {
        static const unsigned kinds[] = {FAULTIO_RENAME, FAULTIO_RENAME | FAULTIO_UNLINK,
                                         FAULTIO_CREATE};
        faultio_fail(t->f, kinds[round % 3], 1, round % 3 == 2 ? 1 : 3, EIO);
        for (int i = 0; i < 600; i++)
            while (tj_try_append(t) != 0)
                usleep(1000);
        tj_sync(t);
        uint64_t tail = dmt_journal_tail(t->j).seq;
        dmt_journal_release(t->j, tail - 50);
        assert_int_equal(dmt_journal_pos_at(t->j, tail - 50, &t->conf.floor), 0);
        power_cut(t, round % 2 ? FAULTIO_RANDOM : FAULTIO_KEEP);
        tj_open(t);
        assert_int_equal(tj_check_all(t, dmt_journal_first(t->j).seq), tail);
    }
    tj_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eio_on_fdatasync_rewrites),
        cmocka_unit_test(eio_with_appends_under_way),
        cmocka_unit_test(eio_twice_fails_for_good),
        cmocka_unit_test(eio_then_kill_then_power_cut),
        cmocka_unit_test(failed_write_appends_nothing),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(header_write_fails),
        cmocka_unit_test(preparer_in_trouble),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
