/* test_threads.c: group commit, callbacks, waiting, the timer, and many threads at once (also run
 * under TSan). */
#include "tests/unit/journal/util.h"

#define THREADS 8

struct shared {
    struct tj *t;
    pthread_mutex_t lock; /* the workspace lock: one appender at a time */
    pthread_cond_t cond;
    uint64_t durable; /* as on_durable said */
    int calls;
    pthread_t teller;
    unsigned per_thread;
    bool kick, lone;
    atomic_bool stop;
};

static void on_durable(void *ctx, uint64_t durable_seq, int err)
{
    struct shared *s = ctx;
    pthread_mutex_lock(&s->lock);
    assert_int_equal(err, 0);
    assert_true(durable_seq > s->durable);
    s->durable = durable_seq;
    s->calls++;
    s->teller = pthread_self();
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
}

static void start(struct shared *s, uint64_t segment_bytes)
{
    *s = (struct shared){.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    s->t = tj_new(segment_bytes, 1);
    s->t->conf.on_durable = on_durable;
    s->t->conf.ctx = s;
}

static uint64_t append_one(struct shared *s)
{
    uint8_t body[TJ_BODY_MAX];
    pthread_mutex_lock(&s->lock);
    uint64_t seq = dmt_journal_tail(s->t->j).seq + 1;
    struct dmt_rec r = {
        .epoch = s->t->epoch, .time_ns = seq * 10, .unique = seq + 7, .instance = 3, .type = 5};
    struct iovec iov = {body, tj_body(s->t->epoch, seq, TJ_BODY_MAX, body)};
    int res = dmt_journal_append(s->t->j, &r, &iov, 1, NULL);
    pthread_mutex_unlock(&s->lock);
    assert_int_equal(res, 0);
    assert_int_equal(r.seq, seq);
    return seq;
}

static void *append_and_wait(void *arg)
{
    struct shared *s = arg;
    for (unsigned i = 0; i < s->per_thread; i++) {
        uint64_t seq = append_one(s);
        if (s->kick) {
            (s->lone ? dmt_journal_sync : dmt_journal_kick)(s->t->j, seq);
            pthread_mutex_lock(&s->lock);
            while (s->durable < seq)
                pthread_cond_wait(&s->cond, &s->lock);
            pthread_mutex_unlock(&s->lock);
        } else {
            assert_int_equal(dmt_journal_wait(s->t->j, seq), 0);
        }
        assert_true(dmt_journal_durable(s->t->j) >= seq);
    }
    return NULL;
}

static void run_threads(struct shared *s, void *(*fn)(void *))
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fn, s), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void group_commit(bool kick, bool lone)
{
    struct shared s;
    struct dmt_journal_stats st;
    start(&s, 256u << 10);
    s.per_thread = 200;
    s.kick = kick;
    s.lone = lone;
    tj_open(s.t);
    run_threads(&s, append_and_wait);
    dmt_journal_stats(s.t->j, &st);
    assert_int_equal(st.records, THREADS * 200);
    assert_true(st.syncs <= st.records);
    assert_int_equal(tj_check_all(s.t, 0), THREADS * 200);
    tj_close(s.t);
    assert_int_equal(s.durable, THREADS * 200);
    tj_open(s.t);
    assert_int_equal(tj_check_all(s.t, 0), THREADS * 200);
    tj_free(s.t);
}

static void group_commit_waiters(void **state)
{
    (void)state;
    group_commit(false, false);
}

static void group_commit_kicks(void **state)
{
    (void)state;
    group_commit(true, false);
}

/* Each thinks that it is alone. */
static void group_commit_lone_ones(void **state)
{
    (void)state;
    group_commit(true, true);
}

/* One fdatasync serves all who came while the one before it ran. */
static void one_sync_serves_all(void **state)
{
    (void)state;
    struct shared s;
    struct dmt_journal_stats st;
    pthread_t first, others[THREADS];
    start(&s, 1u << 20);
    s.per_thread = 1;
    tj_open(s.t);
    faultio_match(s.t->f, ".seg");
    faultio_hold(s.t->f, FAULTIO_SYNC);
    assert_int_equal(pthread_create(&first, NULL, append_and_wait, &s), 0);
    faultio_wait_held(s.t->f, 1);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&others[i], NULL, append_and_wait, &s), 0);
    while (dmt_journal_tail(s.t->j).seq < 1 + THREADS)
        usleep(500);
    assert_int_equal(dmt_journal_durable(s.t->j), 0);
    faultio_release(s.t->f);
    pthread_join(first, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(others[i], NULL);
    dmt_journal_stats(s.t->j, &st);
    assert_int_equal(st.syncs, 2);
    tj_free(s.t);
}

/* Nobody asks: durable within about a second all the same. */
static void timer_syncs(void **state)
{
    (void)state;
    struct shared s;
    start(&s, 1u << 20);
    tj_open(s.t);
    uint64_t began = journal_now_ns();
    append_one(&s);
    append_one(&s);
    pthread_mutex_lock(&s.lock);
    while (s.durable < 2)
        pthread_cond_wait(&s.cond, &s.lock);
    pthread_mutex_unlock(&s.lock);
    assert_true(journal_now_ns() - began < 20 * DMT_S); /* generous: a busy machine */
    assert_int_equal(s.calls, 1);
    tj_free(s.t);
}

static void wait_durable(struct shared *s, uint64_t seq)
{
    struct timespec until;
    int r = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20; /* generous: a busy machine */
    pthread_mutex_lock(&s->lock);
    while (s->durable < seq && r == 0)
        r = pthread_cond_timedwait(&s->cond, &s->lock, &until);
    pthread_mutex_unlock(&s->lock);
    assert_int_equal(r, 0);
}

static void *sync_first(void *arg)
{
    struct shared *s = arg;
    dmt_journal_sync(s->t->j, 1);
    return NULL;
}

static bool flag(struct shared *s, const bool *of_journal)
{
    pthread_mutex_lock(&s->t->j->lock);
    bool set = *of_journal;
    pthread_mutex_unlock(&s->t->j->lock);
    return set;
}

/* *ctx ns pass between two looks at it. */
static uint64_t own_clock(void *ctx)
{
    static atomic_uint_fast64_t now;
    return atomic_fetch_add(&now, *(const uint64_t *)ctx);
}

/* Who is alone syncs and tells on its own thread. What comes meanwhile is not forgotten, also when
 * the committer has just looked, and waits without end since somebody was syncing. */
static void a_lone_caller_syncs(void **state)
{
    (void)state;
    struct shared s;
    pthread_t first;
    uint64_t step = 0; /* what is held below shall not count as slow */
    struct dmt_clock own = {&step, dmt_clock_real()->realtime_ns, own_clock};
    start(&s, 1u << 20);
    s.t->conf.clock = &own;
    tj_open(s.t);
    faultio_match(s.t->f, ".seg");
    append_one(&s);
    faultio_hold(s.t->f, FAULTIO_SYNC);
    assert_int_equal(pthread_create(&first, NULL, sync_first, &s), 0);
    faultio_wait_held(s.t->f, 1);
    while (flag(&s, &s.t->j->watching)) /* until its period is over: it has looked */
        usleep(500);
    append_one(&s);
    faultio_release(s.t->f);
    pthread_join(first, NULL);
    wait_durable(&s, 2);
    while (flag(&s, &s.t->j->telling))
        usleep(500);

    uint64_t seq = append_one(&s);
    dmt_journal_sync(s.t->j, seq);
    assert_int_equal(dmt_journal_durable(s.t->j), seq);
    assert_true(s.durable == seq && pthread_equal(s.teller, pthread_self()));
    int calls = s.calls;
    dmt_journal_sync(s.t->j, seq); /* it is */
    assert_int_equal(s.calls, calls);
    tj_free(s.t);
}

/* Where a sync takes long it is the committer's: the caller has others to serve. */
static void slow_syncs_are_left_to_the_committer(void **state)
{
    (void)state;
    struct shared s;
    uint64_t step = 5 * DMT_MS;
    struct dmt_clock own = {&step, dmt_clock_real()->realtime_ns, own_clock};
    start(&s, 1u << 20);
    s.t->conf.clock = &own;
    tj_open(s.t);
    for (int i = 0; i < 16; i++) {
        uint64_t seq = append_one(&s);
        dmt_journal_sync(s.t->j, seq);
        wait_durable(&s, seq);
    }
    assert_false(pthread_equal(s.teller, pthread_self()));
    tj_free(s.t);
}

/* More than the ring holds, syncs held: the appender waits, and goes on when they are let go. */
static void *let_go(void *arg)
{
    struct tj *t = arg;
    faultio_wait_held(t->f, 1);
    pthread_mutex_lock(&t->j->lock);
    while (t->j->ring.tail - t->j->ring.head + (1u << 20) < t->j->ring.cap) {
        pthread_mutex_unlock(&t->j->lock);
        usleep(1000);
        pthread_mutex_lock(&t->j->lock);
    }
    assert_int_equal(t->j->durable.seq, 0);
    pthread_mutex_unlock(&t->j->lock);
    faultio_release(t->f);
    return NULL;
}

static void full_ring_waits(void **state)
{
    (void)state;
    struct tj *t = tj_new(DMT_SEGMENT_BYTES, 1);
    uint8_t *body = calloc(1, 900000);
    pthread_t thread;
    tj_open(t);
    faultio_match(t->f, ".seg");
    faultio_hold(t->f, FAULTIO_SYNC);
    assert_int_equal(pthread_create(&thread, NULL, let_go, t), 0);
    for (uint64_t i = 1; i <= 40; i++) {
        struct dmt_rec r = {.epoch = 1, .type = 1};
        struct iovec iov = {body, 900000};
        assert_int_equal(dmt_journal_append(t->j, &r, &iov, 1, &t->err), 0);
    }
    pthread_join(thread, NULL);
    tj_sync(t);
    free(body);
    tj_free(t);
}

/* A reader at where the journal begins now; returns the number before it. */
static uint64_t open_at_first(struct shared *s, struct dmt_jreader **ret)
{
    uint64_t seq;
    int res;
    do {
        seq = dmt_journal_first(s->t->j).seq;
        res = dmt_jreader_open(ret, s->t->j, seq, NULL);
    } while (res == DMT_E_GONE);
    assert_int_equal(res, 0);
    return seq;
}

static void *follow(void *arg)
{
    struct shared *s = arg;
    struct dmt_jreader *r;
    struct dmt_rec rec;
    uint64_t seq = open_at_first(s, &r);
    while (!atomic_load(&s->stop)) {
        int res = dmt_jreader_next(r, &rec, NULL, NULL, NULL);
        if (res == DMT_E_GONE) { /* too slow: start again where it begins now */
            dmt_jreader_close(r);
            seq = open_at_first(s, &r);
        } else if (res == 0) {
            usleep(200);
        } else {
            assert_int_equal(res, 1);
            tj_check_rec(&rec, ++seq);
        }
    }
    dmt_jreader_close(r);
    return NULL;
}

static void *release_all_the_time(void *arg)
{
    struct shared *s = arg;
    struct dmt_journal_stats st;
    while (!atomic_load(&s->stop)) {
        uint64_t durable = dmt_journal_durable(s->t->j);
        dmt_journal_release(s->t->j, durable > 300 ? durable - 300 : 0);
        dmt_journal_stats(s->t->j, &st);
        struct dmt_pos p;
        int r = dmt_journal_pos_at(s->t->j, durable, &p);
        assert_true(r == 0 || r == DMT_E_GONE);
        usleep(300);
    }
    return NULL;
}

/* Writers, readers, releases and syncs at once, through many segments. */
static void everything_at_once(void **state)
{
    (void)state;
    struct shared s;
    pthread_t threads[4];
    start(&s, SMALL_SEGMENT);
    s.per_thread = 400;
    tj_open(s.t);
    for (int i = 0; i < 4; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, i < 3 ? follow : release_all_the_time, &s), 0);
    run_threads(&s, append_and_wait);
    s.kick = true;
    /* Failing syncs among it: records move under the readers. */
    faultio_match(s.t->f, ".seg");
    for (int i = 0; i < 5; i++) {
        faultio_fail(s.t->f, FAULTIO_SYNC, 3, 1, EIO);
        s.per_thread = 50;
        run_threads(&s, append_and_wait);
    }
    atomic_store(&s.stop, true);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    uint64_t tail = THREADS * 650;
    assert_int_equal(tj_check_all(s.t, dmt_journal_first(s.t->j).seq), tail);
    struct dmt_pos floor;
    assert_int_equal(dmt_journal_pos_at(s.t->j, tail, &floor), 0);
    tj_close(s.t);
    s.t->conf.floor = floor;
    tj_open(s.t);
    assert_int_equal(dmt_journal_tail(s.t->j).seq, tail);
    tj_free(s.t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(group_commit_waiters),
        cmocka_unit_test(group_commit_kicks),
        cmocka_unit_test(group_commit_lone_ones),
        cmocka_unit_test(one_sync_serves_all),
        cmocka_unit_test(timer_syncs),
        cmocka_unit_test(full_ring_waits),
        cmocka_unit_test(everything_at_once),
        cmocka_unit_test(a_lone_caller_syncs),
        cmocka_unit_test(slow_syncs_are_left_to_the_committer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
