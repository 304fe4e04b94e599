/* test_recovery.c: what a crash leaves, acks and syncs, by-reference writing, checkpoints, failure
 * of the journal. */
#include "tests/unit/workspace/fixture.h"
#include <signal.h>
#include <sys/wait.h>

static void digest(struct fx *f, uint64_t view, char ret[65])
{
    struct dmt_err err = {0};
    fx_check(dmt_ws_digest(f->ws, view, ret, &err), &err);
}

/* A bit of everything. */
static void mixed_work(struct fx *f)
{
    uint64_t d = fx_dir(f, DMT_ROOT, "d"), x = fx_file(f, d, "x"), y = fx_file(f, DMT_ROOT, "y");
    fx_text(f, x, "some text", 0);
    fx_fill(f, y, 100000, 5000, 7777, 3);
    fx_truncate(f, y, 60000);
    fx_link(f, x, DMT_ROOT, "x2");
    fx_make(f, d, "l", S_IFLNK);
    fx_setxattr(f, x, "user.k", "v");
    fx_rename(f, DMT_ROOT, "y", d, "z");
    fx_unlink(f, d, "x");
    fx_chmod(f, d, 0711);
}

static void crash_loses_nothing_that_was_logged(void **state)
{
    struct fx *f = *state;
    char before[65], after[65];
    mixed_work(f);
    digest(f, DMT_LIVE, before);
    fx_crash(f);
    digest(f, DMT_LIVE, after);
    assert_string_equal(before, after);
}

static void crash_after_checkpoint_replays_only_the_rest(void **state)
{
    struct fx *f = *state;
    char before[65], after[65];
    struct dmt_ws_status s;
    mixed_work(f);
    fx_checkpoint(f);
    dmt_ws_status(f->ws, &s);
    assert_true(s.checkpointed == s.applied);
    fx_file(f, DMT_ROOT, "later");
    digest(f, DMT_LIVE, before);
    fx_crash(f);
    digest(f, DMT_LIVE, after);
    assert_string_equal(before, after);
}

static void clean_close_leaves_nothing_to_replay(void **state)
{
    struct fx *f = *state;
    char before[65], after[65];
    mixed_work(f);
    digest(f, DMT_LIVE, before);
    fx_close(f);
    struct dmt_err err = {0};
    fx_open(f, false);
    struct dmt_ws_status s;
    dmt_ws_status(f->ws, &s);
    assert_true(s.checkpointed == s.tail.seq);
    digest(f, DMT_LIVE, after);
    assert_string_equal(before, after);
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    /* no epoch yet */
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, "no", S_IFREG, 0, NULL, &a), -EROFS);
    assert_int_equal(dmt_ws_begin_epoch(f->ws, FX_EPOCH(1, f->minor), "alpha", "again", &err),
                     DMT_E_STALE);
}

/* Runs as a program of its own (main below), so that no thread of this process is forked. */
static int doomed(const char *store)
{
    struct dmt_ws_conf conf = {
        .io = dmt_io_real(), .clock = dmt_clock_real(), .dir = store, .segment_bytes = 4u << 20};
    struct dmt_ws *ws;
    char name[16], text[64];
    if (dmt_ws_open(&ws, &conf, NULL) < 0 ||
        dmt_ws_begin_epoch(ws, FX_EPOCH(1, 50), "alpha", "child", NULL) < 0)
        return 2;
    for (int i = 0; i < 500; i++) {
        struct dmt_op op = FX_OP(0);
        struct dmt_attr a;
        (void)snprintf(name, sizeof(name), "f%d", i);
        int n = snprintf(text, sizeof(text), "file number %d", i);
        if (dmt_ws_make(ws, &op, DMT_ROOT, name, S_IFREG | 0644, 0, NULL, &a) < 0 ||
            dmt_ws_write(ws, &op, a.node, text, (size_t)n, 0, false) < 0)
            return 3;
    }
    (void)kill(getpid(), SIGKILL);
    return 4;
}

static void killed_process_recovers(void **state)
{
    struct fx *f = *state;
    char name[16], text[64];
    int status;
    fx_close(f);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "test_recovery", "doomed", f->store, (char *)NULL);
        _exit(1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    f->minor = 50;
    fx_serve(f);
    for (int i = 0; i < 500; i++) {
        (void)snprintf(name, sizeof(name), "f%d", i);
        (void)snprintf(text, sizeof(text), "file number %d", i);
        fx_expect_text(f, fx_lookup(f, DMT_ROOT, name), text);
    }
}

static void times_go_forward_over_a_restart(void **state)
{
    struct fx *f = *state;
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    struct timespec t0 = fx_attr(f, x).st.st_ctim;
    fx_crash(f);
    uint64_t y = fx_file(f, DMT_ROOT, "y");
    assert_true(y > x);
    struct timespec t1 = fx_attr(f, y).st.st_ctim;
    assert_true(t1.tv_sec > t0.tv_sec || (t1.tv_sec == t0.tv_sec && t1.tv_nsec > t0.tv_nsec));
}

static uint64_t clock_ns;

static uint64_t test_realtime(void *ctx)
{
    (void)ctx;
    return clock_ns;
}

static uint64_t test_monotonic(void *ctx)
{
    (void)ctx;
    return dmt_clock_real()->monotonic_ns(NULL);
}

/* The machine's clock is set back, and is behind after a restart. */
static void times_never_go_back(void **state)
{
    struct fx *f = *state;
    static const struct dmt_clock clock = {NULL, test_realtime, test_monotonic};
    struct dmt_err err = {0};
    char name[8];
    int64_t last = 0;
    clock_ns = dmt_clock_real()->realtime_ns(NULL) + 3600 * DMT_S;
    fx_close(f);
    f->conf.clock = &clock;
    for (int i = 0; i < 6; i++) {
        if (i % 3 == 0) {
            if (f->ws)
                fx_close(f);
            fx_check(dmt_ws_open(&f->ws, &f->conf, &err), &err);
            fx_check(dmt_ws_begin_epoch(f->ws, FX_EPOCH(2, (uint32_t)i), "alpha", "test", &err),
                     &err);
        }
        (void)snprintf(name, sizeof(name), "f%d", i);
        struct timespec t = fx_attr(f, fx_file(f, DMT_ROOT, name)).st.st_mtim;
        int64_t ns = t.tv_sec * (int64_t)DMT_S + t.tv_nsec;
        assert_true(ns > last);
        last = ns;
        clock_ns -= 100 * DMT_S;
    }
    f->conf.clock = dmt_clock_real();
}

/* --- bulk ------------------------------------------------------------------------------------- */

static int count_type(void *ctx, const struct dmt_rec *r)
{
    ((uint64_t *)ctx)[r->type]++;
    return 0;
}

static void count_records(struct fx *f, uint64_t counts[64])
{
    char dir[128];
    struct dmt_err err = {0};
    memset(counts, 0, 64 * sizeof(*counts));
    (void)snprintf(dir, sizeof(dir), "%s/journal", f->store);
    fx_check(dmt_journal_scan(dmt_io_real(), dir, count_type, counts, &err), &err);
}

static void long_runs_go_by_reference(void **state)
{
    struct fx *f = *state;
    uint64_t counts[64], x = fx_file(f, DMT_ROOT, "x");
    fx_fill(f, x, 8u << 20, 0, 128u << 10, 5);
    count_records(f, counts);
    assert_int_equal(counts[DMT_REC_WRITE], 8);
    assert_int_equal(counts[DMT_REC_WRITE_REF], 56);
    fx_expect_pattern(f, x, 8u << 20, 0, 5);
    assert_true(dmt_ws_missing_ino(f->ws, x, UINT64_MAX));
    assert_int_equal(dmt_ws_sync_wait(f->ws, x), 0);
    assert_false(dmt_ws_missing_ino(f->ws, x, UINT64_MAX));
    count_records(f, counts);
    assert_int_equal(counts[DMT_REC_MARK], 1);
    fx_crash(f);
    fx_expect_pattern(f, x, 8u << 20, 0, 5);
}

static void small_buffers_do_not_defeat_it(void **state)
{
    struct fx *f = *state;
    uint64_t counts[64], x = fx_file(f, DMT_ROOT, "x");
    fx_fill(f, x, 3u << 20, 0, 4096, 6);
    count_records(f, counts);
    assert_true(counts[DMT_REC_WRITE_REF] > 400);
    fx_expect_pattern(f, x, 3u << 20, 0, 6);
    fx_crash(f);
    fx_expect_pattern(f, x, 3u << 20, 0, 6);
}

static void scattered_small_writes_stay_inline(void **state)
{
    struct fx *f = *state;
    uint64_t counts[64], x = fx_file(f, DMT_ROOT, "x");
    uint8_t p[4096];
    for (unsigned i = 0; i < 600; i++) {
        uint64_t off = (i * 37u % 600) * 8192;
        fx_pattern(p, sizeof(p), off, 7);
        fx_write(f, x, p, sizeof(p), off);
    }
    count_records(f, counts);
    assert_int_equal(counts[DMT_REC_WRITE_REF], 0);
    for (unsigned i = 0; i < 600; i++)
        fx_expect_pattern(f, x, 4096, i * 8192, 7);
}

static void syncing_starts_the_budget_anew(void **state)
{
    struct fx *f = *state;
    uint64_t counts[64], x = fx_file(f, DMT_ROOT, "x");
    for (uint64_t off = 0; off < 4u << 20; off += 512u << 10) {
        fx_fill(f, x, 512u << 10, off, 128u << 10, 8);
        assert_int_equal(dmt_ws_sync_wait(f->ws, x), 0);
    }
    count_records(f, counts);
    assert_int_equal(counts[DMT_REC_WRITE_REF], 0);
    fx_expect_pattern(f, x, 4u << 20, 0, 8);
}

/* Writes n blocks, says of each whether a sync was foreseen, and syncs. */
static const char *written(struct fx *f, uint64_t x, int n, uint64_t sync_of)
{
    static char due[16];
    assert_true(n < (int)sizeof(due));
    for (int i = 0; i < n; i++) {
        struct dmt_op op = FX_OP(0);
        assert_int_equal(dmt_ws_write(f->ws, &op, x, "block", 5, (uint64_t)i * 4096, false), 0);
        due[i] = op.sync_due ? '!' : '.';
    }
    due[n] = '\0';
    assert_int_equal(dmt_ws_sync_wait(f->ws, sync_of), 0);
    return due;
}

static void a_sync_is_foreseen_where_it_is_regular(void **state)
{
    struct fx *f = *state;
    uint64_t x = fx_file(f, DMT_ROOT, "x"), y = fx_file(f, DMT_ROOT, "y");
    assert_string_equal(written(f, x, 3, x), "...");
    assert_string_equal(written(f, x, 3, x), "...");
    assert_string_equal(written(f, x, 3, x), "...");
    assert_string_equal(written(f, x, 3, x), "..!");
    assert_string_equal(written(f, y, 3, y), "...");    /* each file for itself */
    assert_string_equal(written(f, x, 5, x), "..!.."); /* wrong once, then it is learnt anew */
    assert_string_equal(written(f, x, 3, x), "...");
    assert_string_equal(written(f, x, 3, x), "...");
    assert_string_equal(written(f, x, 3, 0), "...");
    assert_string_equal(written(f, x, 3, 0), "..!"); /* a sync of everything is one, too */
    for (int i = 0; i < 4; i++) {                    /* nothing between two syncs is no habit */
        assert_string_equal(written(f, x, 0, x), "");
    }
    assert_string_equal(written(f, x, 3, x), "...");
}

static void sync_write_keeps_everything_inline(void **state)
{
    struct fx *f = *state;
    fx_close(f);
    f->conf.level = DMT_SYNC_WRITE;
    fx_serve(f);
    uint64_t counts[64], x = fx_file(f, DMT_ROOT, "x");
    fx_fill(f, x, 4u << 20, 0, 1u << 20, 9);
    count_records(f, counts);
    assert_int_equal(counts[DMT_REC_WRITE_REF], 0);
    fx_expect_pattern(f, x, 4u << 20, 0, 9);
}

static void rewriting_in_bulk_and_inline_mixes_exactly(void **state)
{
    struct fx *f = *state;
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    fx_fill(f, x, 4u << 20, 0, 256u << 10, 1);
    fx_fill(f, x, 3u << 20, 0, 256u << 10, 2);
    fx_fill(f, x, 10000, 1u << 20, 10000, 3); /* small, into a pending range */
    fx_checkpoint(f);
    fx_fill(f, x, 2u << 20, 512u << 10, 64u << 10, 4);
    fx_crash(f);
    fx_expect_pattern(f, x, 512u << 10, 0, 2);
    fx_expect_pattern(f, x, 2u << 20, 512u << 10, 4);
    fx_expect_pattern(f, x, 512u << 10, (2u << 20) + (512u << 10), 2);
    fx_expect_pattern(f, x, 1u << 20, 3u << 20, 1);
}

static void settle_after_a_crash_on_the_same_boot_marks(void **state)
{
    struct fx *f = *state;
    struct dmt_err err = {0};
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    fx_fill(f, x, 4u << 20, 0, 256u << 10, 1);
    fx_crash(f);
    assert_true(dmt_ws_missing_ino(f->ws, x, UINT64_MAX));
    /* not settled yet: nobody may call it durable */
    assert_int_equal(dmt_ws_sync_wait(f->ws, x), -EIO);
    fx_check(dmt_ws_settle(f->ws, true, &err), &err);
    assert_false(dmt_ws_missing_ino(f->ws, x, UINT64_MAX));
    assert_int_equal(dmt_ws_sync_wait(f->ws, x), 0);
    fx_expect_pattern(f, x, 4u << 20, 0, 1);
}

/* --- checkpoints under load ------------------------------------------------------------------- */

static void many_changes_make_checkpoints_by_themselves(void **state)
{
    struct fx *f = *state;
    char name[24], before[65], after[65];
    struct dmt_ws_status s;
    for (int i = 0; i < 30000; i++) {
        (void)snprintf(name, sizeof(name), "file%d", i);
        fx_file(f, DMT_ROOT, name);
    }
    for (int i = 0; i < 10000 && (dmt_ws_status(f->ws, &s), s.checkpointed == 0); i++)
        usleep(1000); /* nobody asked for one */
    assert_true(s.checkpointed > 0);
    digest(f, DMT_LIVE, before);
    fx_crash(f);
    digest(f, DMT_LIVE, after);
    assert_string_equal(before, after);
}

static void journal_lets_go_only_what_all_allow(void **state)
{
    struct fx *f = *state;
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    dmt_ws_set_retention(f->ws, 2, UINT64_MAX);
    uint8_t *p = calloc(1, 1u << 20);
    for (int i = 0; i < 40; i++) {
        fx_write(f, x, p, 1u << 20, 0);
        assert_int_equal(dmt_ws_sync_wait(f->ws, x), 0);
    }
    fx_checkpoint(f);
    assert_true(dmt_journal_first(dmt_ws_journal(f->ws)).seq <= 2);
    struct dmt_journal_stats before, after;
    dmt_journal_stats(dmt_ws_journal(f->ws), &before);
    dmt_ws_set_retention(f->ws, UINT64_MAX, UINT64_MAX);
    dmt_journal_stats(dmt_ws_journal(f->ws), &after);
    assert_true(dmt_journal_first(dmt_ws_journal(f->ws)).seq > 20);
    free(p);
}

/* --- acks ------------------------------------------------------------------------------------- */

struct test_gate {
    int plain, begin, sync;
    uint64_t stable;
    uint64_t asked_seq, asked_ino, asked_ref;
};

static int tg_plain(void *ctx)
{
    return __atomic_load_n(&((struct test_gate *)ctx)->plain, __ATOMIC_SEQ_CST);
}

static int tg_begin(void *ctx)
{
    return __atomic_load_n(&((struct test_gate *)ctx)->begin, __ATOMIC_SEQ_CST);
}

static int tg_sync(void *ctx, uint64_t seq, uint64_t ino, uint64_t ref_seq)
{
    struct test_gate *g = ctx;
    __atomic_store_n(&g->asked_ino, ino, __ATOMIC_SEQ_CST);
    __atomic_store_n(&g->asked_ref, ref_seq, __ATOMIC_SEQ_CST);
    __atomic_store_n(&g->asked_seq, seq, __ATOMIC_SEQ_CST);
    return __atomic_load_n(&g->sync, __ATOMIC_SEQ_CST);
}

static uint64_t tg_stable(void *ctx)
{
    return __atomic_load_n(&((struct test_gate *)ctx)->stable, __ATOMIC_SEQ_CST);
}

static void set_gate(struct fx *f, struct test_gate *g)
{
    struct dmt_gate gate = *dmt_gate_open();
    gate.ctx = g;
    gate.plain = tg_plain;
    gate.begin = tg_begin;
    gate.sync = tg_sync;
    gate.stable = tg_stable;
    dmt_ws_set_gate(f->ws, &gate);
}

struct acked {
    int n, err;
};

static void on_ack(void *arg, int err)
{
    struct acked *a = arg;
    __atomic_store_n(&a->err, err, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&a->n, 1, __ATOMIC_SEQ_CST);
}

static int acks(struct acked *a)
{
    return __atomic_load_n(&a->n, __ATOMIC_SEQ_CST);
}

static void wait_acks(struct acked *a, int n)
{
    for (int i = 0; i < 10000 && acks(a) < n; i++)
        usleep(1000);
    assert_int_equal(acks(a), n);
}

static void plain_calls_wait_for_the_gate(void **state)
{
    struct fx *f = *state;
    struct test_gate g = {0};
    struct acked a = {0}, b = {0};
    set_gate(f, &g);
    assert_int_equal(dmt_ws_ack(f->ws, 5, on_ack, &a), 1);
    __atomic_store_n(&g.plain, 1, __ATOMIC_SEQ_CST);
    assert_int_equal(dmt_ws_ack(f->ws, 5, on_ack, &a), 0);
    assert_int_equal(dmt_ws_ack(f->ws, 0, on_ack, &a), 1); /* nothing was logged */
    dmt_ws_poke(f->ws);
    assert_int_equal(acks(&a), 0);
    struct dmt_ws_status s;
    dmt_ws_status(f->ws, &s);
    assert_int_equal(s.parked_acks, 1);
    __atomic_store_n(&g.plain, 0, __ATOMIC_SEQ_CST);
    dmt_ws_poke(f->ws);
    wait_acks(&a, 1); /* the committer may be the one that looks */
    assert_int_equal(a.err, 0);
    __atomic_store_n(&g.plain, 1, __ATOMIC_SEQ_CST);
    assert_int_equal(dmt_ws_ack(f->ws, 5, on_ack, &b), 0);
    __atomic_store_n(&g.plain, -EIO, __ATOMIC_SEQ_CST);
    dmt_ws_poke(f->ws);
    wait_acks(&b, 1);
    assert_int_equal(b.err, -EIO);
    assert_int_equal(dmt_ws_ack(f->ws, 5, on_ack, &b), -EIO);
    __atomic_store_n(&g.begin, -EROFS, __ATOMIC_SEQ_CST);
    struct dmt_op op = FX_OP(0);
    struct dmt_attr at;
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, "x", S_IFREG, 0, NULL, &at), -EROFS);
    dmt_ws_set_gate(f->ws, dmt_gate_open());
}

/* --- half a layer ----------------------------------------------------------------------------- */

/* So many bytes more, in small files. */
static void add_bytes(struct fx *f, uint64_t bytes)
{
    enum { LEN = 60 << 10 };
    static unsigned n;
    char name[24];
    uint8_t *p = calloc(1, LEN);
    for (uint64_t done = 0; done < bytes; done += LEN) {
        (void)snprintf(name, sizeof(name), "bytes%u", n++);
        fx_write(f, fx_file(f, DMT_ROOT, name), p, LEN, 0);
    }
    free(p);
}

/* Waits for it while something changes all the time, so that no pause is the reason. */
static void expect_checkpoint(struct fx *f, uint64_t beyond)
{
    struct dmt_ws_status s;
    uint64_t x = fx_file(f, DMT_ROOT, "busy");
    for (int i = 0; i < 15000 && (dmt_ws_status(f->ws, &s), s.checkpointed <= beyond); i++) {
        usleep(1000);
        fx_write(f, x, "x", 1, 0);
    }
    assert_true(s.checkpointed > beyond);
    struct dmt_op op = FX_OP(0);
    assert_int_equal(dmt_ws_unlink(f->ws, &op, DMT_ROOT, "busy", false), 0);
}

static void half_a_layer_is_written_when_the_peer_has_it(void **state)
{
    struct fx *f = *state;
    struct test_gate g = {0};
    struct dmt_ws_status s;
    uint64_t given_up = 0;
    set_gate(f, &g);
    add_bytes(f, DMT_DIRTY_BYTES_MIN);
    for (int i = 0; i < 4000 && given_up == 0; i++) {
        usleep(1000);
        ws_lock(f->ws);
        given_up = f->ws->worth_after_ns;
        ws_unlock(f->ws);
    }
    assert_true(given_up > 0);
    dmt_ws_status(f->ws, &s);
    assert_int_equal(s.checkpointed, 0);
    __atomic_store_n(&g.stable, UINT64_MAX, __ATOMIC_SEQ_CST);
    expect_checkpoint(f, 0);
    /* the whole layer: whatever the peer has */
    __atomic_store_n(&g.stable, 0, __ATOMIC_SEQ_CST);
    dmt_ws_status(f->ws, &s);
    add_bytes(f, DMT_DIRTY_BYTES_MAX + DMT_DIRTY_BYTES_MIN);
    expect_checkpoint(f, s.tail.seq);
    dmt_ws_set_gate(f->ws, dmt_gate_open());
}

static void sync_waits_for_disk_and_gate(void **state)
{
    struct fx *f = *state;
    struct test_gate g = {.sync = 1};
    struct acked a = {0};
    set_gate(f, &g);
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    fx_fill(f, x, 4u << 20, 0, 256u << 10, 1);
    uint64_t tail = dmt_journal_tail(dmt_ws_journal(f->ws)).seq;
    dmt_ws_sync(f->ws, x, on_ack, &a);
    uint64_t asked = 0;
    for (int i = 0; i < 10000 && asked <= tail; i++) {
        usleep(1000);
        asked = __atomic_load_n(&g.asked_seq, __ATOMIC_SEQ_CST);
    }
    assert_true(asked > tail); /* the MARK */
    assert_true(__atomic_load_n(&g.asked_ino, __ATOMIC_SEQ_CST) == x);
    assert_true(__atomic_load_n(&g.asked_ref, __ATOMIC_SEQ_CST) == tail);
    assert_true(dmt_journal_durable(dmt_ws_journal(f->ws)) >= asked);
    assert_int_equal(acks(&a), 0);
    __atomic_store_n(&g.sync, 0, __ATOMIC_SEQ_CST);
    dmt_ws_poke(f->ws);
    wait_acks(&a, 1);
    assert_int_equal(a.err, 0);
    dmt_ws_set_gate(f->ws, dmt_gate_open());
}

static void sync_of_a_directory_is_about_names(void **state)
{
    struct fx *f = *state;
    struct test_gate g = {0};
    uint64_t d = fx_dir(f, DMT_ROOT, "d"), x = fx_file(f, d, "x");
    fx_fill(f, x, 4u << 20, 0, 256u << 10, 1);
    set_gate(f, &g);
    assert_int_equal(dmt_ws_sync_wait(f->ws, d), 0);
    assert_int_equal(__atomic_load_n(&g.asked_ref, __ATOMIC_SEQ_CST), 0);
    assert_true(dmt_ws_missing_ino(f->ws, x, UINT64_MAX));
    assert_int_equal(dmt_ws_sync_wait(f->ws, 0), 0);
    assert_true(__atomic_load_n(&g.asked_ref, __ATOMIC_SEQ_CST) > 0);
    assert_false(dmt_ws_missing_ino(f->ws, x, UINT64_MAX));
    dmt_ws_set_gate(f->ws, dmt_gate_open());
}

/* What a rollback puts in place the other machine may have had, and not kept. */
static void sync_after_a_rollback_is_about_its_bytes(void **state)
{
    struct fx *f = *state;
    struct test_gate g = {0};
    struct dmt_err err = {0};
    struct dmt_rollback rb = {.snapshot = "s"};
    struct dmt_snapshot made;
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    fx_fill(f, x, 4u << 20, 0, 256u << 10, 1);
    fx_check(dmt_ws_snap_create(f->ws, "s", "", &made, &err), &err);
    fx_fill(f, x, 4u << 20, 0, 256u << 10, 2);
    assert_int_equal(dmt_ws_sync_wait(f->ws, x), 0);
    uint64_t before = dmt_ws_applied(f->ws);
    fx_check(dmt_ws_rollback(f->ws, &rb, &err), &err);
    set_gate(f, &g);
    assert_int_equal(dmt_ws_sync_wait(f->ws, x), 0);
    assert_true(__atomic_load_n(&g.asked_ref, __ATOMIC_SEQ_CST) > before);
    assert_int_equal(dmt_ws_sync_wait(f->ws, 0), 0);
    assert_true(__atomic_load_n(&g.asked_ref, __ATOMIC_SEQ_CST) > before);
    dmt_ws_set_gate(f->ws, dmt_gate_open());
}

static void level_write_acks_like_a_sync(void **state)
{
    struct fx *f = *state;
    struct test_gate g = {.sync = 1};
    struct acked a = {0};
    fx_close(f);
    f->conf.level = DMT_SYNC_WRITE;
    fx_serve(f);
    set_gate(f, &g);
    struct dmt_op op = FX_OP(0);
    struct dmt_attr at;
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, "x", S_IFREG, 0, NULL, &at), 0);
    assert_int_equal(dmt_ws_ack(f->ws, op.seq, on_ack, &a), 0);
    for (int i = 0; i < 10000 && dmt_journal_durable(dmt_ws_journal(f->ws)) < op.seq; i++)
        usleep(1000);
    assert_int_equal(acks(&a), 0);
    __atomic_store_n(&g.sync, 0, __ATOMIC_SEQ_CST);
    dmt_ws_poke(f->ws);
    wait_acks(&a, 1);
    dmt_ws_set_gate(f->ws, dmt_gate_open());
}

static void demotion_fails_what_waits(void **state)
{
    struct fx *f = *state;
    struct test_gate g = {.sync = 1, .plain = 1};
    struct acked a = {0}, b = {0};
    set_gate(f, &g);
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    fx_text(f, x, "read me", 0);
    dmt_ws_sync(f->ws, x, on_ack, &a);
    assert_int_equal(dmt_ws_ack(f->ws, 3, on_ack, &b), 0);
    dmt_ws_demote(f->ws);
    wait_acks(&a, 1);
    assert_int_equal(a.err, -EIO);
    assert_int_equal(b.err, -EIO);
    struct dmt_op op = FX_OP(0);
    assert_int_equal(dmt_ws_write(f->ws, &op, x, "w", 1, 0, false), -EROFS);
    assert_int_equal(dmt_ws_ack(f->ws, 3, on_ack, &b), -EIO);
    fx_expect_text(f, x, "read me");
}

/* --- a disk that fails ------------------------------------------------------------------------ */

static struct dmt_io broken;
static bool break_writes;

static ssize_t broken_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t off)
{
    (void)ctx;
    return break_writes ? -EIO : dmt_io_real()->pwritev(dmt_io_real()->ctx, fd, iov, n, off);
}

static ssize_t broken_pwrite(void *ctx, int fd, const void *p, size_t n, uint64_t off)
{
    (void)ctx;
    return break_writes ? -EIO : dmt_io_real()->pwrite(dmt_io_real()->ctx, fd, p, n, off);
}

/* The workspace anew on `broken`, with a file in it; and once more on the disk as it is. */
static uint64_t open_on_broken(struct fx *f)
{
    struct dmt_err err = {0};
    fx_close(f);
    f->conf.io = &broken;
    fx_check(dmt_ws_open(&f->ws, &f->conf, &err), &err);
    fx_check(dmt_ws_begin_epoch(f->ws, FX_EPOCH(2, 0), "alpha", "test", &err), &err);
    return fx_file(f, DMT_ROOT, "x");
}

static void open_on_mended(struct fx *f)
{
    struct dmt_err err = {0};
    fx_close(f);
    break_writes = false;
    f->minor = 100;
    f->conf.io = dmt_io_real();
    fx_check(dmt_ws_open(&f->ws, &f->conf, &err), &err);
}

static void broken_journal_makes_it_read_only(void **state)
{
    struct fx *f = *state;
    struct acked a = {0};
    struct dmt_ws_status s;
    broken = *dmt_io_real();
    broken.pwritev = broken_pwritev;
    broken.pwrite = broken_pwrite;
    uint64_t x = open_on_broken(f);
    fx_text(f, x, "before", 0);
    assert_int_equal(dmt_ws_sync_wait(f->ws, 0), 0);
    break_writes = true;
    struct dmt_op op = FX_OP(0);
    assert_int_equal(dmt_ws_write(f->ws, &op, x, "after!", 6, 0, false), -EIO);
    assert_true(f->failed);
    assert_int_equal(dmt_ws_write(f->ws, &op, x, "after!", 6, 0, false), -EROFS);
    fx_expect_text(f, x, "before");
    dmt_ws_sync(f->ws, x, on_ack, &a);
    wait_acks(&a, 1);
    assert_int_equal(a.err, -EIO);
    dmt_ws_status(f->ws, &s);
    assert_true(s.failed && s.failed_why[0]);
    open_on_mended(f);
    fx_expect_text(f, x, "before");
}

/* Writes to data files fail, those to the journal do not. */
static bool fails_now(int fd)
{
    char link[64], path[512] = "";
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    return break_writes && readlink(link, path, sizeof(path) - 1) > 0 && strstr(path, "/data/");
}

static ssize_t data_pwrite(void *ctx, int fd, const void *p, size_t n, uint64_t off)
{
    return fails_now(fd) ? -EIO : dmt_io_real()->pwrite(ctx, fd, p, n, off);
}

static ssize_t data_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t off)
{
    return fails_now(fd) ? -EIO : dmt_io_real()->pwritev(ctx, fd, iov, n, off);
}

static ssize_t data_long(void *ctx, int fd, const void *p, size_t n, uint64_t off, bool keep)
{
    return fails_now(fd) ? -EIO : dmt_io_real()->pwrite_long(ctx, fd, p, n, off, keep);
}

/* A data file cannot be written: the status says why and since when, the workspace goes on, and
 * when the disk is well again so is the checkpoint, by itself. */
static void a_failing_checkpoint_is_told(void **state)
{
    struct fx *f = *state;
    struct dmt_err err = {0};
    struct dmt_ws_status s;
    broken = *dmt_io_real();
    broken.pwrite = data_pwrite;
    broken.pwritev = data_pwritev;
    broken.pwrite_long = data_long;
    uint64_t x = open_on_broken(f);
    dmt_ws_status(f->ws, &s);
    assert_string_equal(s.checkpoint_error, "");
    for (uint64_t at = 0; at < 200000; at += 10)
        fx_text(f, x, "some words", at);
    break_writes = true;
    assert_true(dmt_ws_checkpoint(f->ws, &err) < 0);
    dmt_ws_status(f->ws, &s);
    assert_true(s.checkpoint_error[0] && !s.failed);
    uint64_t since = s.checkpoint_error_since_ns;
    assert_true(since > 0);
    fx_text(f, x, "meanwhile", 0);
    assert_int_equal(dmt_ws_sync_wait(f->ws, 0), 0);
    assert_true(dmt_ws_checkpoint(f->ws, &err) < 0);
    dmt_ws_status(f->ws, &s);
    assert_true(s.checkpoint_error[0] && s.checkpoint_error_since_ns == since);
    break_writes = false;
    for (int i = 0; i < 10000 && s.checkpoint_error[0]; i++) {
        usleep(1000);
        dmt_ws_status(f->ws, &s);
    }
    assert_string_equal(s.checkpoint_error, "");
    assert_int_equal(s.checkpoint_error_since_ns, 0);
    assert_int_equal(s.checkpointed, s.applied);
    open_on_mended(f);
    char got[20] = "";
    assert_int_equal(dmt_ws_read(f->ws, x, got, 19, 0, false), 19);
    assert_string_equal(got, "meanwhilessome word"); /* "meanwhile" over "some words" */
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "doomed") == 0)
        return doomed(argv[2]);
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
        T(crash_loses_nothing_that_was_logged),
        T(crash_after_checkpoint_replays_only_the_rest),
        T(clean_close_leaves_nothing_to_replay),
        T(killed_process_recovers),
        T(times_go_forward_over_a_restart),
        T(times_never_go_back),
        T(long_runs_go_by_reference),
        T(small_buffers_do_not_defeat_it),
        T(scattered_small_writes_stay_inline),
        T(syncing_starts_the_budget_anew),
        T(a_sync_is_foreseen_where_it_is_regular),
        T(sync_write_keeps_everything_inline),
        T(rewriting_in_bulk_and_inline_mixes_exactly),
        T(settle_after_a_crash_on_the_same_boot_marks),
        T(many_changes_make_checkpoints_by_themselves),
        T(half_a_layer_is_written_when_the_peer_has_it),
        T(journal_lets_go_only_what_all_allow),
        T(plain_calls_wait_for_the_gate),
        T(sync_waits_for_disk_and_gate),
        T(sync_of_a_directory_is_about_names),
        T(sync_after_a_rollback_is_about_its_bytes),
        T(level_write_acks_like_a_sync),
        T(demotion_fails_what_waits),
        T(broken_journal_makes_it_read_only),
        T(a_failing_checkpoint_is_told),
    };
    return cmocka_run_group_tests_name("workspace recovery and acks", tests, NULL, NULL);
}
