/* test_crash.c: the journal against every crash point.
 *
 * A workload (groups of records over many small segments, syncs, releases, truncations, reopening)
 * runs on the fault-injecting disk and is cut at its 1st, 2nd, 3rd ... operation. What the disk may
 * then hold is made in several ways (process killed; power cut with nothing, all, or random parts
 * of what was not synced), and the journal is opened again, in some runs with a second cut during
 * that recovery. Each time: the open succeeds; the history is a prefix of what was appended that
 * contains everything reported durable; after a kill it contains everything whose append returned;
 * after a truncation that returned nothing behind the cut; and what this open reports durable
 * survives a further power cut that keeps nothing.
 */
#include "tests/unit/journal/util.h"

#define SEQ_MAX 4000

/* Instrumented builds are slow here (each journal has 16 MiB of ring): they take every 5th cut
 * point. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STRIDE 5u
#else
#define STRIDE 1u
#endif

/* What may and must be found. */
struct model {
    uint64_t chain[SEQ_MAX]; /* of every record of the history, by seq */
    uint64_t tail;           /* last whose append returned 0 */
    uint64_t durable;        /* reported */
    bool attempt;            /* one more append was called and failed */
    bool cutting;            /* truncate_to(cut) was called and has not returned 0 */
    uint64_t cut;
    struct dmt_pos floor; /* applied position of the store */
    char name[100];       /* of the run, for messages */
};

static uint64_t g_random;
static unsigned dice(unsigned n)
{
    g_random = g_random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(g_random >> 33) % n;
}

/* Each step returns false when the disk has stopped. */
static bool do_append(struct tj *t, struct model *m, unsigned n)
{
    for (; n > 0; n--) {
        int r = tj_try_append(t);
        if (r != 0) {
            m->attempt = true;
            return false;
        }
        struct dmt_pos tail = dmt_journal_tail(t->j);
        m->tail = tail.seq;
        assert_true(m->tail < SEQ_MAX);
        m->chain[m->tail] = tail.chain;
    }
    return true;
}

static void note_durable(struct tj *t, struct model *m)
{
    uint64_t durable = dmt_journal_durable(t->j);
    assert_true(durable <= m->tail);
    if (durable > m->durable)
        m->durable = durable;
}

static bool do_sync(struct tj *t, struct model *m)
{
    int r = dmt_journal_wait(t->j, m->tail);
    note_durable(t, m);
    return r == 0;
}

static bool do_release(struct tj *t, struct model *m)
{
    if (m->durable <= m->floor.seq + 30)
        return true;
    struct dmt_pos pos;
    if (dmt_journal_pos_at(t->j, m->durable - 20, &pos) != 0)
        return false;
    m->floor = pos;
    dmt_journal_release(t->j, pos.seq);
    return true;
}

/* What an open tells without reading. */
static void check_positions(struct tj *t, struct model *m, bool killed)
{
    struct dmt_pos tail = dmt_journal_tail(t->j);
    if (m->cutting && tail.seq == m->cut && m->cut < m->tail) {
        m->tail = m->durable = m->cut; /* it had come through */
        m->attempt = false;
    }
    m->cutting = false;
    if (tail.seq < m->durable || tail.seq > m->tail + m->attempt || (killed && tail.seq < m->tail))
        print_error("%s: tail %lu, appended %lu, durable %lu, cut %lu\n", m->name,
                    (unsigned long)tail.seq, (unsigned long)m->tail, (unsigned long)m->durable,
                    (unsigned long)m->cut);
    assert_true(tail.seq >= m->durable);
    assert_true(tail.seq <= m->tail + m->attempt);
    if (killed)
        assert_true(tail.seq >= m->tail);
    if (tail.seq <= m->tail)
        assert_int_equal(tail.chain, m->chain[tail.seq]);
    assert_true(dmt_journal_first(t->j).seq <= m->floor.seq);
    assert_int_equal(dmt_journal_durable(t->j), tail.seq);
    m->tail = m->durable = tail.seq;
    m->chain[tail.seq] = tail.chain;
    m->attempt = false;
}

static void check(struct tj *t, struct model *m, bool killed)
{
    check_positions(t, m, killed);
    uint64_t first = dmt_journal_first(t->j).seq;
    tj_check_all(t, first); /* bodies and chain */
    for (uint64_t seq = first > 0 ? first : 1; seq <= m->tail; seq += 17) {
        struct dmt_pos pos;
        assert_int_equal(dmt_journal_pos_at(t->j, seq, &pos), 0);
        assert_int_equal(pos.chain, m->chain[seq]);
    }
}

/* Opens; an injected error may hit the first try. */
static bool open_twice(struct tj *t, struct model *m)
{
    t->conf.floor = m->floor;
    if (tj_try_open(t) == 0 || (!faultio_is_cut(t->f) && tj_try_open(t) == 0))
        return true;
    t->j = NULL;
    return false;
}

static bool do_truncate(struct tj *t, struct model *m)
{
    m->cut = m->floor.seq + (m->tail - m->floor.seq) / 2;
    m->cutting = true;
    if (dmt_journal_truncate_to(t->j, m->cut, &t->err) != 0) {
        note_durable(t, m);
        if (faultio_is_cut(t->f))
            return false;
        /* An injected error: the journal has failed for good, the cut has happened or not. */
        tj_close(t);
        if (!open_twice(t, m))
            return false;
        check_positions(t, m, true);
        t->epoch += EPOCH(1, 0);
        return true;
    }
    m->cutting = false;
    m->tail = m->durable = m->cut;
    t->epoch += EPOCH(1, 0);
    return true;
}

static bool do_reopen(struct tj *t, struct model *m)
{
    tj_close(t);
    if (faultio_is_cut(t->f))
        return false;
    if (!open_twice(t, m))
        return false;
    assert_int_equal(dmt_journal_tail(t->j).seq, m->tail);
    note_durable(t, m);
    t->epoch++;
    return true;
}

static bool workload(struct tj *t, struct model *m)
{
    if (!open_twice(t, m))
        return false;
    for (int i = 0; i < 14; i++) {
        bool ok = do_append(t, m, 1 + dice(25));
        if (ok && dice(3) > 0)
            ok = do_sync(t, m);
        if (ok && dice(3) == 0)
            ok = do_release(t, m);
        if (ok && i % 5 == 4)
            ok = do_truncate(t, m);
        if (ok && i == 7)
            ok = do_reopen(t, m);
        if (!ok)
            return false;
    }
    return do_sync(t, m);
}

/* Goes on after a recovery, then loses power with nothing unsynced kept. */
static void go_on(struct tj *t, struct model *m)
{
    t->epoch += EPOCH(1, 0);
    if (dice(2)) {
        assert_true(do_append(t, m, 1 + dice(60)));
        if (dice(2))
            assert_true(do_sync(t, m));
    }
    faultio_cut(t->f);
    tj_close(t);
    faultio_restore(t->f, FAULTIO_DROP);
    t->conf.floor = m->floor;
    tj_open(t);
    check(t, m, false);
}

/* One run: false when the workload went through without reaching the cut. */
static bool run(uint64_t cut, enum faultio_mode mode, uint64_t seed, unsigned eio_at,
                unsigned recovery_cuts)
{
    struct tj *t = tj_new(JOURNAL_SEGMENT_MIN, seed);
    struct model *m = calloc(1, sizeof(*m));
    g_random = seed;
    snprintf(m->name, sizeof(m->name), "cut %lu mode %d seed %lu eio %u recovery cuts %u",
             (unsigned long)cut, mode, (unsigned long)seed, eio_at, recovery_cuts);
    if (eio_at > 0) {
        faultio_match(t->f, ".seg");
        faultio_fail(t->f, FAULTIO_SYNC, eio_at, 1, EIO);
    }
    faultio_cut_at(t->f, cut);
    bool done = workload(t, m);
    bool reached = faultio_is_cut(t->f);
    if (!done && !reached)
        print_error("%s: the workload failed: %s\n", m->name, t->err.msg);
    assert_true(done || reached);
    faultio_cut(t->f);
    if (t->j)
        tj_close(t);
    faultio_restore(t->f, mode);
    t->conf.floor = m->floor;
    bool killed = mode == FAULTIO_KILL;
    for (unsigned i = 0; i < recovery_cuts; i++) {
        faultio_cut_at(t->f, 1 + dice(14));
        t->j = NULL;
        if (tj_try_open(t) == 0) {
            check_positions(t, m, killed);
            faultio_cut(t->f);
            tj_close(t);
        } else {
            assert_true(faultio_is_cut(t->f));
        }
        faultio_restore(t->f, mode);
    }
    int r = tj_try_open(t);
    if (r != 0)
        print_error("%s: %s\n", m->name, t->err.msg);
    assert_int_equal(r, 0);
    check(t, m, killed);
    go_on(t, m);
    free(m);
    tj_free(t);
    return reached;
}

static void enumerate(enum faultio_mode mode, uint64_t seed, unsigned eio_at,
                      unsigned recovery_cuts)
{
    uint64_t n = 1 + seed % STRIDE;
    while (run(n, mode, seed, eio_at, recovery_cuts))
        n += STRIDE;
    assert_true(n > 100); /* the workload is no empty one */
}

static void killed_anywhere(void **state)
{
    (void)state;
    enumerate(FAULTIO_KILL, 1, 0, 0);
    enumerate(FAULTIO_KILL, 2, 0, 1);
}

static void power_cut_keeps_nothing(void **state)
{
    (void)state;
    enumerate(FAULTIO_DROP, 3, 0, 0);
    enumerate(FAULTIO_DROP, 4, 0, 2);
}

static void power_cut_keeps_all(void **state)
{
    (void)state;
    enumerate(FAULTIO_KEEP, 5, 0, 1);
}

static void power_cut_keeps_random_parts(void **state)
{
    (void)state;
    for (unsigned seed = 10; seed < 16; seed++)
        enumerate(FAULTIO_RANDOM, seed, 0, seed % 3);
}

static void fdatasync_fails_before_the_cut(void **state)
{
    (void)state;
    for (unsigned at = 1; at <= 7; at += 2) {
        enumerate(FAULTIO_RANDOM, 30 + at, at, at % 2);
        enumerate(at % 4 == 1 ? FAULTIO_KILL : FAULTIO_DROP, 40 + at, at, 0);
    }
}

/* A reset has happened or has not; the floor that fits says which. */
static void reset_at_every_cut(void **state)
{
    (void)state;
    static const enum faultio_mode modes[] = {FAULTIO_KILL, FAULTIO_DROP, FAULTIO_KEEP,
                                              FAULTIO_RANDOM, FAULTIO_RANDOM};
    const struct dmt_pos to = {EPOCH(5, 0), 1000, 77};
    bool reached = true;
    for (uint64_t n = 1; reached; n += STRIDE) {
        for (unsigned k = 0; k < 5; k++) {
            struct tj *t = tj_new(JOURNAL_SEGMENT_MIN, n * 5 + k);
            uint64_t old_durable = 0, new_durable = 0;
            bool asked = false, done = false;
            faultio_cut_at(t->f, n);
            if (tj_try_open(t) == 0) {
                for (int i = 0; i < 90 && tj_try_append(t) == 0; i++)
                    ;
                (void)dmt_journal_wait(t->j, dmt_journal_tail(t->j).seq);
                old_durable = dmt_journal_durable(t->j);
                asked = dmt_journal_tail(t->j).seq == 90;
                done = asked && dmt_journal_reset(t->j, &to, &t->err) == 0;
                t->epoch = EPOCH(5, 1);
                for (int i = 0; done && i < 60 && tj_try_append(t) == 0; i++)
                    ;
                if (done) {
                    (void)dmt_journal_wait(t->j, dmt_journal_tail(t->j).seq);
                    new_durable = dmt_journal_durable(t->j);
                }
                reached = faultio_is_cut(t->f);
                faultio_cut(t->f);
                tj_close(t);
            }
            faultio_restore(t->f, modes[k]);
            int r = tj_try_open(t);
            assert_true(r == 0 || (r == DMT_E_GONE && asked));
            if (r == 0) {
                assert_false(done);
                assert_true(tj_check_all(t, 0) >= old_durable);
            } else {
                t->conf.floor = to;
                tj_open(t);
                assert_true(tj_check_all(t, 1000) >= new_durable);
            }
            tj_free(t);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_anywhere),
        cmocka_unit_test(power_cut_keeps_nothing),
        cmocka_unit_test(power_cut_keeps_all),
        cmocka_unit_test(power_cut_keeps_random_parts),
        cmocka_unit_test(fdatasync_fails_before_the_cut),
        cmocka_unit_test(reset_at_every_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
