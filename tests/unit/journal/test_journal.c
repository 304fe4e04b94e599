/* test_journal.c: the journal in ordinary life: append, reopen, raw records, positions, truncation,
 * reset, release and recycling. */
#include "tests/unit/journal/util.h"

static void append_and_reopen(void **state)
{
    (void)state;
    struct tj *t = tj_new(1u << 20, 1);
    tj_open(t);
    assert_int_equal(dmt_journal_tail(t->j).seq, 0);
    assert_int_equal(dmt_journal_tail(t->j).chain, 0);
    struct dmt_pos tail = {0};
    for (int round = 0; round < 4; round++) {
        tj_append(t, 50);
        tail = dmt_journal_tail(t->j);
        tj_close(t);
        tj_open(t);
        assert_int_equal(dmt_journal_tail(t->j).seq, tail.seq);
        assert_int_equal(dmt_journal_tail(t->j).chain, tail.chain);
        assert_int_equal(dmt_journal_tail(t->j).epoch, tail.epoch);
        assert_int_equal(dmt_journal_durable(t->j), tail.seq);
        assert_int_equal(tj_check_all(t, 0), tail.seq);
        t->epoch++;
    }
    assert_int_equal(tail.seq, 200);
    tj_free(t);
}

static void many_segments(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    struct dmt_journal_stats st;
    tj_open(t);
    tj_append(t, 2000);
    dmt_journal_stats(t->j, &st);
    assert_true(st.segments > 8);
    assert_int_equal(st.records, 2000);
    assert_int_equal(tj_check_all(t, 0), 2000);
    assert_int_equal(tj_check_all(t, 1234), 2000);
    for (uint64_t seq = 0; seq <= 2000; seq += 7) {
        struct dmt_pos p;
        assert_int_equal(dmt_journal_pos_at(t->j, seq, &p), 0);
        assert_int_equal(p.seq, seq);
    }
    tj_close(t);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 2000);
    tj_free(t);
}

static void empty_journal_starts_at_floor(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    t->conf.floor = (struct dmt_pos){EPOCH(1, 0), 500, 0xabc};
    tj_open(t);
    assert_int_equal(dmt_journal_first(t->j).seq, 500);
    assert_int_equal(dmt_journal_tail(t->j).chain, 0xabc);
    tj_append(t, 3);
    tj_close(t);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 500), 503);
    tj_close(t);
    /* Another history at the floor, and a floor that the journal no longer reaches. */
    t->conf.floor.chain++;
    assert_int_equal(tj_try_open(t), DMT_E_HISTORY);
    t->conf.floor = (struct dmt_pos){EPOCH(1, 0), 499, 0};
    assert_int_equal(tj_try_open(t), DMT_E_GONE);
    tj_free(t);
}

static void bad_arguments(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    tj_open(t);
    tj_append(t, 1);
    struct dmt_pos tail = dmt_journal_tail(t->j);
    uint8_t *big = calloc(1, DMT_RECORD_MAX);
    struct iovec iov = {big, DMT_RECORD_MAX};
    struct dmt_rec r = {.epoch = t->epoch, .type = 1};
    assert_int_equal(dmt_journal_append(t->j, &r, &iov, 1, &t->err), -EMSGSIZE);
    iov.iov_len = SMALL_SEGMENT;
    assert_int_equal(dmt_journal_append(t->j, &r, &iov, 1, &t->err), -EMSGSIZE);
    r.type = 0;
    assert_int_equal(dmt_journal_append(t->j, &r, NULL, 0, &t->err), -EINVAL);
    r.type = 1;
    r.epoch = t->epoch - 1;
    assert_int_equal(dmt_journal_append(t->j, &r, NULL, 0, &t->err), DMT_E_STALE);
    assert_int_equal(dmt_journal_tail(t->j).chain, tail.chain);
    assert_int_equal(dmt_journal_wait(t->j, 2), -EINVAL);
    free(big);
    tj_close(t);
    t->conf.segment_bytes = 12345;
    assert_int_equal(tj_try_open(t), -EINVAL);
    tj_free(t);
}

/* Blocks are written whole: a recycled file need be in no cache. */
static void new_blocks_are_written_whole(void **state)
{
    (void)state;
    enum { BLOCKS = 6 };
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    static uint8_t body[2 * JOURNAL_BLOCK], old[BLOCKS * JOURNAL_BLOCK], now[sizeof(old)];
    tj_open(t);
    struct journal_segment *s = journal_current(t->j);
    const struct dmt_io *io = t->conf.io;
    memset(old, 0xee, sizeof(old));
    assert_int_equal(io->pwrite(io->ctx, s->fd, old, sizeof(old), JOURNAL_SEG_HDR), sizeof(old));
    /* Ends in a block that it enters; in the same; enters two; ends on a boundary; and one more. */
    const size_t lens[] = {100, 200, JOURNAL_BLOCK + 500, 0, 100};
    for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
        size_t len = lens[i] ? lens[i] : JOURNAL_BLOCK - s->end % JOURNAL_BLOCK - DMT_REC_HDR;
        struct iovec iov = {body, len};
        struct dmt_rec r = {.epoch = t->epoch, .type = 2};
        assert_int_equal(dmt_journal_append(t->j, &r, &iov, 1, &t->err), 0);
        uint64_t end = s->end - JOURNAL_SEG_HDR;
        uint64_t block = (end + JOURNAL_BLOCK - 1) / JOURNAL_BLOCK * JOURNAL_BLOCK;
        assert_int_equal(io->pread(io->ctx, s->fd, now, sizeof(now), JOURNAL_SEG_HDR), sizeof(now));
        for (uint64_t k = end; k < sizeof(now); k++)
            assert_int_equal(now[k], k < block ? 0 : 0xee);
        assert_true(lens[i] || end == block);
    }
    tj_close(t);
    tj_open(t);
    assert_int_equal(dmt_journal_tail(t->j).seq, sizeof(lens) / sizeof(*lens));
    tj_free(t);
}

/* The longest record, in segments that hold few of them. */
static void longest_records(void **state)
{
    (void)state;
    struct tj *t = tj_new(4u << 20, 1);
    uint8_t *body = malloc(DMT_RECORD_MAX);
    memset(body, 0x5a, DMT_RECORD_MAX);
    tj_open(t);
    /* Twice the ring, so that appends have to wait for syncs. */
    for (uint64_t i = 1; i <= 32; i++) {
        struct iovec iov = {body, DMT_RECORD_MAX - DMT_REC_HDR - (i % 5)};
        struct dmt_rec r = {.epoch = t->epoch, .type = 2};
        assert_int_equal(dmt_journal_append(t->j, &r, &iov, 1, &t->err), 0);
    }
    tj_close(t);
    tj_open(t);
    struct dmt_jreader *reader;
    struct dmt_rec rec;
    assert_int_equal(dmt_jreader_open(&reader, t->j, 0, &t->err), 0);
    for (uint64_t i = 1; i <= 32; i++) {
        assert_int_equal(dmt_jreader_next(reader, &rec, NULL, NULL, &t->err), 1);
        assert_int_equal(rec.body_len, DMT_RECORD_MAX - DMT_REC_HDR - (i % 5));
        assert_memory_equal(rec.body, body, rec.body_len);
    }
    assert_int_equal(dmt_jreader_next(reader, &rec, NULL, NULL, &t->err), 0);
    dmt_jreader_close(reader);
    free(body);
    tj_free(t);
}

/* All records of t after after_seq as one piece of memory. */
static uint8_t *read_raw(struct tj *t, uint64_t after_seq, size_t *ret_n)
{
    struct dmt_jreader *r;
    struct dmt_rec rec;
    const uint8_t *raw;
    size_t len;
    uint8_t *all = NULL;
    *ret_n = 0;
    assert_int_equal(dmt_jreader_open(&r, t->j, after_seq, &t->err), 0);
    while (dmt_jreader_next(r, &rec, &raw, &len, &t->err) == 1) {
        all = realloc(all, *ret_n + len);
        memcpy(all + *ret_n, raw, len);
        *ret_n += len;
    }
    dmt_jreader_close(r);
    return all;
}

/* Raw records give the same history on another machine with other segments and pads. */
static void raw_records_make_an_equal_history(void **state)
{
    (void)state;
    struct tj *a = tj_new(SMALL_SEGMENT, 1), *b = tj_new(48u << 10, 2);
    size_t n;
    tj_open(a);
    for (int i = 0; i < 40; i++) {
        tj_append(a, 37);
        if (i % 3 == 0)
            tj_sync(a);
    }
    uint8_t *raw = read_raw(a, 0, &n);
    tj_open(b);
    assert_int_equal(dmt_journal_append_raw(b->j, raw, n, &b->err), 0);
    assert_int_equal(dmt_journal_tail(b->j).seq, dmt_journal_tail(a->j).seq);
    assert_int_equal(dmt_journal_tail(b->j).chain, dmt_journal_tail(a->j).chain);
    tj_check_all(b, 0);
    tj_close(b);
    tj_open(b);
    size_t m;
    uint8_t *again = read_raw(b, 0, &m);
    assert_int_equal(m, n);
    assert_memory_equal(again, raw, n);
    free(raw);
    free(again);
    tj_free(a);
    tj_free(b);
}

static void raw_records_are_checked(void **state)
{
    (void)state;
    struct tj *a = tj_new(SMALL_SEGMENT, 1), *b = tj_new(SMALL_SEGMENT, 2);
    size_t n, first;
    struct dmt_rec rec;
    tj_open(a);
    tj_append(a, 10);
    uint8_t *raw = read_raw(a, 0, &n);
    assert_int_equal(dmt_rec_decode(raw, n, &rec, &first), 0);
    tj_open(b);
    /* A gap; a bad checksum behind good records; a cut one; a PAD. */
    assert_int_equal(dmt_journal_append_raw(b->j, raw + first, n - first, &b->err), DMT_E_HISTORY);
    assert_int_equal(dmt_journal_tail(b->j).seq, 0);
    raw[n - 1] ^= 1;
    assert_int_equal(dmt_journal_append_raw(b->j, raw, n, &b->err), DMT_E_CORRUPT);
    assert_int_equal(dmt_journal_tail(b->j).seq, 9);
    raw[n - 1] ^= 1;
    size_t nine;
    free(read_raw(b, 0, &nine));
    assert_int_equal(dmt_journal_append_raw(b->j, raw + nine, n - nine - 8, &b->err),
                     DMT_E_CORRUPT);
    uint8_t pad[JOURNAL_PAD_MIN];
    struct journal_pad p = {0, 1, 9};
    struct dmt_pos at = dmt_journal_tail(b->j);
    journal_pad_put(pad, sizeof(pad), &p, &at);
    assert_int_equal(dmt_journal_append_raw(b->j, pad, sizeof(pad), &b->err), DMT_E_CORRUPT);
    assert_int_equal(dmt_journal_append_raw(b->j, raw + nine, n - nine, &b->err), 0);
    assert_int_equal(tj_check_all(b, 0), 10);
    /* Right number, other history: a record of b's own stands at 11. */
    tj_append(a, 2);
    b->epoch += 1;
    tj_append(b, 1);
    free(raw);
    raw = read_raw(a, 11, &n);
    assert_int_equal(dmt_journal_append_raw(b->j, raw, n, &b->err), DMT_E_HISTORY);
    free(raw);
    tj_free(a);
    tj_free(b);
}

static void truncation(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    struct dmt_pos p, q;
    tj_open(t);
    tj_append(t, 1000);
    assert_int_equal(dmt_journal_pos_at(t->j, 333, &p), 0);
    assert_int_equal(dmt_journal_truncate_to(t->j, 1001, &t->err), -ENOENT);
    assert_int_equal(dmt_journal_truncate_to(t->j, 1000, &t->err), 0);
    assert_int_equal(dmt_journal_truncate_to(t->j, 333, &t->err), 0);
    q = dmt_journal_tail(t->j);
    assert_int_equal(q.seq, 333);
    assert_int_equal(q.chain, p.chain);
    assert_int_equal(q.epoch, p.epoch);
    assert_int_equal(dmt_journal_durable(t->j), 333);
    assert_int_equal(tj_check_all(t, 0), 333);
    assert_int_equal(dmt_journal_pos_at(t->j, 334, &q), -ENOENT);
    t->epoch = EPOCH(2, 0);
    tj_append(t, 500);
    tj_close(t);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 833);
    assert_int_equal(dmt_journal_pos_at(t->j, 333, &q), 0);
    assert_int_equal(q.chain, p.chain);
    /* Down to the very beginning. */
    assert_int_equal(dmt_journal_truncate_to(t->j, 0, &t->err), 0);
    assert_int_equal(dmt_journal_tail(t->j).seq, 0);
    tj_close(t);
    tj_open(t);
    assert_int_equal(dmt_journal_tail(t->j).seq, 0);
    t->epoch = EPOCH(3, 0);
    tj_append(t, 10);
    assert_int_equal(tj_check_all(t, 0), 10);
    tj_free(t);
}

/* The cut records are in the files still, their numbers and chain would fit: they must not come
 * back, whatever file is used next. */
static void truncated_records_stay_away(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    tj_open(t);
    for (int round = 0; round < 12; round++) {
        tj_append(t, 400);
        tj_sync(t);
        assert_int_equal(dmt_journal_truncate_to(t->j, 100, &t->err), 0);
        faultio_cut(t->f);
        tj_close(t);
        faultio_restore(t->f, round % 2 ? FAULTIO_DROP : FAULTIO_KEEP);
        tj_open(t);
        assert_int_equal(dmt_journal_tail(t->j).seq, 100);
        assert_int_equal(tj_check_all(t, 0), 100);
        /* The very same records again, so that chain and numbers of the leftovers fit. */
    }
    tj_free(t);
}

static void reset_starts_anew(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    struct dmt_pos to = {EPOCH(7, 0), 12345, 0x1122334455667788};
    tj_open(t);
    tj_append(t, 700);
    assert_int_equal(dmt_journal_reset(t->j, &to, &t->err), 0);
    assert_int_equal(dmt_journal_tail(t->j).seq, 12345);
    assert_int_equal(dmt_journal_first(t->j).seq, 12345);
    assert_int_equal(dmt_journal_durable(t->j), 12345);
    t->epoch = EPOCH(7, 1);
    tj_append(t, 100);
    assert_int_equal(tj_check_all(t, 12345), 12445);
    tj_close(t);
    t->conf.floor = to;
    tj_open(t);
    assert_int_equal(tj_check_all(t, 12345), 12445);
    /* And to a lower number. */
    struct dmt_pos low = {EPOCH(8, 0), 5, 5};
    assert_int_equal(dmt_journal_reset(t->j, &low, &t->err), 0);
    t->epoch = EPOCH(8, 1);
    tj_append(t, 3);
    tj_close(t);
    t->conf.floor = low;
    tj_open(t);
    assert_int_equal(tj_check_all(t, 5), 8);
    tj_close(t);
    /* start_over does the same when the store was replaced while the journal was closed. */
    t->conf.floor = to;
    assert_int_equal(tj_try_open(t), DMT_E_CORRUPT);
    t->conf.start_over = true;
    tj_open(t);
    assert_int_equal(dmt_journal_tail(t->j).seq, 12345);
    t->epoch = EPOCH(9, 0);
    tj_append(t, 5);
    tj_close(t);
    t->conf.start_over = false;
    tj_open(t);
    assert_int_equal(tj_check_all(t, 12345), 12350);
    tj_free(t);
}

/* Waits until the helper thread has dealt with all discarded files and made the next one. */
static void wait_recycled(struct tj *t)
{
    for (;;) {
        pthread_mutex_lock(&t->j->lock);
        bool done = dmt_list_empty(&t->j->discards) && t->j->next;
        pthread_mutex_unlock(&t->j->lock);
        if (done)
            return;
        usleep(1000);
    }
}

static unsigned count_files(struct tj *t)
{
    unsigned n = 0;
    DIR *d = opendir(t->dir);
    const struct dirent *e;
    while ((e = readdir(d)) != NULL)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void release_recycles(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    struct dmt_journal_stats st;
    struct dmt_pos p;
    tj_open(t);
    for (int round = 0; round < 30; round++) {
        tj_append(t, 300);
        tj_sync(t);
        uint64_t tail = dmt_journal_tail(t->j).seq;
        dmt_journal_release(t->j, tail - 100);
        uint64_t first = dmt_journal_first(t->j).seq;
        assert_true(first <= tail - 100);
        assert_true(first + 400 > tail - 100); /* at most a segment is kept too long */
        tj_check_all(t, first);
        if (first > 0)
            assert_int_equal(dmt_journal_pos_at(t->j, first - 1, &p), DMT_E_GONE);
        wait_recycled(t);
        dmt_journal_stats(t->j, &st);
        assert_true(count_files(t) <= st.segments + 1 + JOURNAL_SPARES);
        if (round % 4 == 3) {
            assert_int_equal(dmt_journal_pos_at(t->j, tail - 100, &t->conf.floor), 0);
            tj_close(t);
            tj_open(t);
            assert_int_equal(dmt_journal_tail(t->j).seq, tail);
        }
    }
    /* What is not durable is never released, whoever asks. */
    faultio_hold(t->f, FAULTIO_SYNC);
    uint64_t durable = dmt_journal_durable(t->j);
    tj_append(t, 500);
    dmt_journal_release(t->j, UINT64_MAX);
    assert_true(dmt_journal_first(t->j).seq <= durable);
    faultio_release(t->f);
    tj_free(t);
}

/* In the steady state every segment is a recycled file, whose size never changes: the sync path
 * writes no metadata. */
static void steady_state_creates_no_files(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    tj_open(t);
    for (int round = 0; round < 60; round++) {
        if (round == 10)
            (void)faultio_fail(t->f, FAULTIO_CREATE | FAULTIO_FALLOCATE | FAULTIO_TRUNCATE, 1,
                               UINT64_MAX, ENOSPC);
        tj_append(t, 100);
        tj_sync(t);
        dmt_journal_release(t->j, dmt_journal_tail(t->j).seq);
        wait_recycled(t);
    }
    assert_int_equal(dmt_journal_tail(t->j).seq, 6000);
    tj_free(t);
}

static struct journal_segment current_of(struct tj *t)
{
    pthread_mutex_lock(&t->j->lock);
    struct journal_segment s = *journal_current(t->j);
    pthread_mutex_unlock(&t->j->lock);
    return s;
}

/* A file that is room only makes every sync slower: where syncs are many, one that was written
 * takes its place, long before it is full, and it has no next life. */
static void raw_segment_is_left(void **state)
{
    (void)state;
    struct tj *t = tj_new(4u << 20, 1);
    char path[JOURNAL_PATH_MAX];
    tj_open(t);
    uint64_t first = current_of(t).serial;
    assert_true(current_of(t).raw);
    for (unsigned i = 0; i < JOURNAL_RAW_SYNCS - 1; i++) {
        tj_append(t, 1);
        tj_sync(t);
    }
    assert_int_equal(current_of(t).serial, first);
    assert_null(t->j->next);
    tj_append(t, 1);
    tj_sync(t);
    wait_recycled(t);
    tj_append(t, 1);
    assert_true(current_of(t).serial > first);
    assert_false(current_of(t).raw);
    tj_append(t, 100);
    tj_sync(t);
    journal_path(t->j, first, path);
    wait_recycled(t); /* with a next one there a spare stays a spare */
    dmt_journal_release(t->j, dmt_journal_tail(t->j).seq);
    wait_recycled(t);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(t->j->spares_n, 0);

    uint64_t second = current_of(t).serial;
    for (unsigned i = 0; i < 2 * JOURNAL_RAW_SYNCS; i++) {
        tj_append(t, 1);
        tj_sync(t);
    }
    assert_int_equal(current_of(t).serial, second);
    assert_int_equal(dmt_journal_pos_at(t->j, dmt_journal_first(t->j).seq, &t->conf.floor), 0);
    tj_close(t);
    tj_open(t);
    assert_int_equal(current_of(t).serial, second);
    assert_false(current_of(t).raw);
    tj_check_all(t, t->conf.floor.seq);
    tj_free(t);
}

/* fsync and bytes of a durable group are never touched again: each group starts a block. */
static void groups_start_blocks(void **state)
{
    (void)state;
    struct tj *t = tj_new(256u << 10, 1);
    char path[JOURNAL_PATH_MAX];
    tj_open(t);
    for (uint64_t group = 0; group < 30; group++) {
        tj_append(t, 1 + (unsigned)group % 4);
        uint64_t first = dmt_journal_durable(t->j) + 1;
        tj_sync(t);
        tj_segment(t, -1, path);
        uint64_t end;
        assert_int_equal(tj_offset_of(path, first, &end) % JOURNAL_BLOCK, 0);
        assert_int_equal(end % JOURNAL_BLOCK, 0);
    }
    tj_free(t);
}

static int count_record(void *ctx, const struct dmt_rec *r)
{
    uint64_t *n = ctx;
    tj_check_rec(r, *n + 1);
    return ++*n == 1500 ? 42 : 0;
}

static int gone_left;

static int open_gone(void *ctx, const char *path, int flags, mode_t mode)
{
    if (gone_left > 0 && strstr(path, ".seg")) {
        gone_left--;
        return -ENOENT;
    }
    return dmt_io_real()->open(ctx, path, flags, mode);
}

/* What an owner at work does to who only looks: the listed name is another one by now. */
static void scan_looks_again(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    struct dmt_io io = *dmt_io_real();
    uint64_t n = 0;
    io.open = open_gone;
    tj_open(t);
    tj_append(t, 1000);
    tj_close(t);
    gone_left = 1;
    assert_int_equal(dmt_journal_scan(&io, t->dir, count_record, &n, &t->err), 0);
    assert_int_equal(n, 1000);
    gone_left = 1000; /* and ends when it stays away */
    assert_int_equal(dmt_journal_scan(&io, t->dir, count_record, &n, &t->err), -ENOENT);
    tj_free(t);
}

static void scan_reads_a_folder(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    uint64_t n = 0;
    tj_open(t);
    tj_append(t, 1000);
    assert_int_equal(dmt_journal_scan(dmt_io_real(), t->dir, count_record, &n, &t->err),
                     0); /* while it is open */
    assert_int_equal(n, 1000);
    tj_append(t, 700);
    tj_close(t);
    n = 0;
    assert_int_equal(dmt_journal_scan(dmt_io_real(), t->dir, count_record, &n, &t->err), 42);
    assert_int_equal(n, 1500);
    assert_int_equal(
        dmt_journal_scan(dmt_io_real(), "/var/tmp/no-such-folder", count_record, &n, &t->err),
        -ENOENT);
    tj_free(t);
}

static void lineage_is_checked(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    tj_open(t);
    tj_append(t, 5);
    tj_close(t);
    t->conf.lineage[3] ^= 1;
    assert_int_equal(tj_try_open(t), DMT_E_HISTORY);
    assert_non_null(strstr(t->err.msg, "another workspace"));
    t->conf.lineage[3] ^= 1;
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 5);
    tj_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(append_and_reopen),
        cmocka_unit_test(many_segments),
        cmocka_unit_test(empty_journal_starts_at_floor),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(new_blocks_are_written_whole),
        cmocka_unit_test(longest_records),
        cmocka_unit_test(raw_records_make_an_equal_history),
        cmocka_unit_test(raw_records_are_checked),
        cmocka_unit_test(truncation),
        cmocka_unit_test(truncated_records_stay_away),
        cmocka_unit_test(reset_starts_anew),
        cmocka_unit_test(release_recycles),
        cmocka_unit_test(steady_state_creates_no_files),
        cmocka_unit_test(raw_segment_is_left),
        cmocka_unit_test(groups_start_blocks),
        cmocka_unit_test(scan_reads_a_folder),
        cmocka_unit_test(scan_looks_again),
        cmocka_unit_test(lineage_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
