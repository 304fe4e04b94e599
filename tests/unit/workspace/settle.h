/* settle.h: what every test of a settling looks at: the reports, and that nobody who asks meets an error. */
#ifndef DMT_TESTS_WORKSPACE_SETTLE_H
#define DMT_TESTS_WORKSPACE_SETTLE_H

#include "tests/unit/workspace/pair.h"

struct reports {
    int n, fallback;
    uint64_t size;
    char path[64];
};

static inline int on_report(void *ctx, const struct dmt_rec_INCOMPLETE *r)
{
    struct reports *x = ctx;
    x->n++;
    x->fallback = r->fallback;
    x->size = r->size;
    (void)snprintf(x->path, sizeof(x->path), "%.*s", (int)r->path.n, (const char *)r->path.p);
    return 0;
}

/* The other machine asks for what it lacks of the time before: it gets bytes or hears that they are
 * gone, but nothing fails. */
static inline void others_may_ask(struct fx *f)
{
    static uint8_t buf[256u << 10];
    uint64_t n, tail = dmt_journal_tail(dmt_ws_journal(f->ws)).seq;
    for (uint64_t ino = DMT_ROOT + 1; ino < DMT_ROOT + 8; ino++)
        for (uint64_t off = 0; off < 5u << 20; off += sizeof(buf))
            for (uint64_t seq = 1; seq <= tail; seq += 1 + tail / 16) {
                int r = dmt_ws_bulk_read(f->ws, ino, off, sizeof(buf), seq, buf, &n);
                assert_true(r == 0 || r == DMT_E_GONE);
            }
}

static inline void on_finding(void *ctx, const struct dmt_finding *f)
{
    print_error("%s\n", f->text);
    ++*(int *)ctx;
}

static inline int swallow(void *ctx, const void *p, size_t len)
{
    (void)ctx, (void)p, (void)len;
    return 0;
}

/* What was given up is in the snapshot of the switch point still: a new standby, an archive and the
 * check of the store meet it there. */
static inline void others_may_copy(struct fx *f)
{
    struct dmt_err err = {0};
    struct dmt_pos pos;
    int findings = 0;
    fx_check(dmt_ws_export(f->ws, &pos, swallow, NULL, &err), &err);
    fx_check(dmt_store_check(dmt_ws_store(f->ws), on_finding, &findings, &err), &err);
    assert_int_equal(findings, 0);
}

static inline struct reports settle(struct fx *f, int want)
{
    struct dmt_err err = {0};
    struct reports r = {0};
    int n = dmt_ws_settle(f->ws, false, &err);
    fx_check(n, &err);
    assert_int_equal(n, want);
    assert_int_equal(dmt_ws_incomplete_each(f->ws, on_report, &r), 0);
    assert_int_equal(r.n, want);
    assert_false(dmt_ws_missing_ino(f->ws, 0, UINT64_MAX));
    others_may_ask(f);
    others_may_copy(f);
    return r;
}

/* x complete on both sides with pattern 1. */
static inline uint64_t complete_file(struct pair *p, const char *name)
{
    uint64_t x = fx_file(&p->a, DMT_ROOT, name);
    fx_fill(&p->a, x, 3u << 20, 0, 256u << 10, 1);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, x), 0);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_pull(&p->a, &p->b, 1000);
    assert_false(dmt_ws_missing_ino(p->b.ws, x, UINT64_MAX));
    return x;
}

#endif
