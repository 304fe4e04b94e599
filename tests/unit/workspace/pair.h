/* pair.h: a holder and a follower of one workspace in one process; the test is the wire between them. */
#ifndef DMT_TESTS_WORKSPACE_PAIR_H
#define DMT_TESTS_WORKSPACE_PAIR_H

#include "tests/unit/workspace/fixture.h"

struct pair {
    struct fx a, b; /* a starts as holder */
};

static inline int pair_setup(void **state)
{
    struct pair *p = calloc(1, sizeof(*p));
    assert_non_null(p);
    (void)dmt_log_init("test", NULL, DMT_LOG_ERROR);
    fx_scratch(&p->a, "a", 1);
    fx_scratch(&p->b, "b", 2);
    p->a.keep_all = p->b.keep_all = true;
    fx_serve(&p->a);
    fx_open(&p->b, true);
    *state = p;
    return 0;
}

static inline int pair_teardown(void **state)
{
    struct pair *p = *state;
    struct fx *both[2] = {&p->a, &p->b};
    for (int i = 0; i < 2; i++) {
        if (both[i]->ws)
            fx_close(both[i]);
        dmt_pool_free(both[i]->pool);
        fx_shell("rm -rf %s", both[i]->dir);
    }
    free(p);
    return 0;
}

/* Sends up to `n` records that `to` lacks; they are durable there when it returns. */
static inline void pair_send(struct fx *from, struct fx *to, uint64_t n)
{
    struct dmt_journal *jf = dmt_ws_journal(from->ws), *jt = dmt_ws_journal(to->ws);
    struct dmt_jreader *rd;
    struct dmt_err err = {0};
    struct dmt_rec r;
    const uint8_t *raw;
    size_t len;
    fx_check(dmt_jreader_open(&rd, jf, dmt_journal_tail(jt).seq, &err), &err);
    while (n-- > 0 && dmt_jreader_next(rd, &r, &raw, &len, &err) == 1)
        fx_check(dmt_ws_receive(to->ws, raw, len, &err), &err);
    dmt_jreader_close(rd);
    assert_int_equal(dmt_journal_wait(jt, dmt_journal_tail(jt).seq), 0);
}

static inline void pair_apply(struct fx *to)
{
    struct dmt_err err = {0};
    fx_check(dmt_ws_apply_upto(to->ws, UINT64_MAX, &err), &err);
}

/* Pulls missing ranges from the holder, at most max of them, in passes until nothing more comes. Returns ranges that came. */
static inline int pair_pull(struct fx *from, struct fx *to, int max)
{
    struct dmt_missing m;
    int count = 0, before;
    uint8_t *buf = malloc(16u << 20);
    assert_non_null(buf);
    do {
        uint64_t ino = 0, off = 0, n;
        before = count;
        while (count < max && dmt_ws_missing_next(to->ws, ino, off, &m) == 1) {
            ino = m.ino;
            off = m.off + m.len;
            assert_true(m.len <= 16u << 20);
            int r = dmt_ws_bulk_read(from->ws, m.ino, m.off, m.len, m.seq, buf, &n);
            if (r == DMT_E_GONE)
                continue;
            assert_int_equal(r, 0);
            m.len = n;
            assert_int_equal(dmt_ws_missing_fill(to->ws, &m, buf), 0);
            count++;
        }
    } while (count > before && count < max);
    assert_int_equal(dmt_ws_missing_sync(to->ws), 0);
    free(buf);
    return count;
}

static inline void pair_equal(struct fx *a, struct fx *b, uint64_t view)
{
    char da[65], db[65];
    struct dmt_err err = {0};
    fx_check(dmt_ws_digest(a->ws, view, da, &err), &err);
    fx_check(dmt_ws_digest(b->ws, view, db, &err), &err);
    assert_string_equal(da, db);
}

static inline int pair_feed(void *ctx, const void *p, size_t len)
{
    return dmt_store_import_feed(ctx, p, len, NULL);
}

/* The state of `from` as a store made anew for `to`, open as follower. */
static inline void pair_resync(struct fx *from, struct fx *to)
{
    struct dmt_err err = {0};
    struct dmt_import *im;
    struct dmt_pos at, got;
    struct dmt_store_ident id = *dmt_store_ident(dmt_ws_store(to->ws));
    struct dmt_store_conf sc = {.io = dmt_io_real(), .clock = dmt_clock_real(), .dir = to->store};
    fx_close(to);
    fx_check(dmt_store_import_begin(&im, &sc, &id, &err), &err);
    fx_check(dmt_ws_export(from->ws, &at, pair_feed, im, &err), &err);
    fx_check(dmt_store_import_finish(im, &got, &err), &err);
    assert_true(at.seq == got.seq && at.chain == got.chain);
    fx_shell("rm -rf %s/journal", to->store);
    fx_open(to, true);
}

static inline void pair_promote(struct fx *f, const char *node, uint64_t epoch)
{
    struct dmt_err err = {0};
    fx_check(dmt_ws_promote(f->ws, &err), &err);
    fx_check(dmt_ws_begin_epoch(f->ws, epoch, node, "test", &err), &err);
    f->major = (uint32_t)(epoch >> 32);
    f->minor = (uint32_t)epoch;
}

#endif
