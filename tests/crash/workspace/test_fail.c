/* test_fail.c: every disk operation of every short sequence fails: once with EIO, once with ENOSPC,
 * or from it on for good.
 *
 * The operations go on after the failure and are compared with the model: one that returns 0 has
 * happened, one that returns -ENOSPC or -EROFS has not, one that returns another error may or may
 * not have. A workspace that gave up says why, is read-only, and still shows what it holds; one
 * that did not works on as soon as the disk does: a new file can be made, written, synced, and a
 * checkpoint comes through. Then the power is cut with nothing unsynced kept: everything that a
 * sync acknowledged is there (a failed fdatasync has dropped its pages: a silent retry would be
 * found out), and the check finds nothing. Failing reads likewise, while the store is opened as
 * well. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/crash/workspace/recover.h"

struct fault {
    unsigned mask;
    uint64_t nth, times;
    int err;
};

#define PAST_MAX 24

/* What may be found: v[from .. n-1]; the last may not have happened when maybe. */
struct past {
    struct tree v[PAST_MAX];
    int n, acked, last; /* last: what the last operation gave */
    bool maybe;
    /* The operation that led here wrote this file by reference, and no sync came since. */
    const char *bulk[PAST_MAX];
};

static void past_free(struct past *h)
{
    for (int i = 0; i < h->n; i++)
        tree_free(&h->v[i]);
    memset(h, 0, sizeof(*h));
}

static bool gave_up(struct dmt_ws *ws)
{
    struct dmt_ws_status st;
    dmt_ws_status(ws, &st);
    return st.failed;
}

/* A sync of that file (NULL: of all) returned 0. */
static void acknowledged(struct past *h, const char *file)
{
    h->acked = h->n - 1;
    for (int i = 0; i < h->n; i++)
        if (h->bulk[i] && (!file || strcmp(h->bulk[i], file) == 0))
            h->bulk[i] = NULL;
}

/* Runs one operation on both; false with why when the result can not be right. */
static bool step(struct bench *b, struct dmt_ws *ws, const struct cop *o, int i, struct past *h,
                 char why[300])
{
    bool ended = h->maybe;
    int r = h->last = op_ws(ws, o, i);
    if (r == 0 && ended && o->kind != C_CKPT) {
        snprintf(why, 300, "%s succeeds after the workspace gave up", o->text);
        return false;
    }
    if (r == 0 && (o->kind == C_SYNC || o->kind == C_FSYNC))
        acknowledged(h, o->a);
    if (r == -ENOSPC || r == -EROFS || ended || o->kind == C_CKPT || o->kind == C_SYNC ||
        o->kind == C_FSYNC)
        return true;
    if (r == -EIO || r == -EBUSY) {
        h->maybe = gave_up(ws);
        if (!h->maybe)
            return true;
        (void)op_native(b->native, o, i);
    } else {
        int want = op_native(b->native, o, i);
        if (want != r) {
            snprintf(why, 300, "%s gave %d, natively %d", o->text, r, want);
            return false;
        }
        if (r < 0)
            return true;
    }
    h->bulk[h->n] = o->kind == C_BULK ? o->a : NULL;
    tree_of_dir(&h->v[h->n++], b->native);
    return true;
}

/* A workspace that works on, on a disk that works again. */
static bool works(struct dmt_ws *ws, char why[300])
{
    struct dmt_op op = {.umask = 022};
    struct dmt_attr a;
    struct dmt_err err = {0};
    const char *what = "make";
    int r = dmt_ws_make(ws, &op, DMT_ROOT, "later", S_IFREG | 0644, 0, NULL, &a);
    if (r == 0 && (what = "write"))
        r = dmt_ws_write(ws, &op, a.node, "later", 5, 0, false);
    if (r == 0 && (what = "fsync"))
        r = dmt_ws_sync_wait(ws, a.node);
    if (r == 0 && (what = "checkpoint"))
        r = dmt_ws_checkpoint(ws, &err);
    if (r == 0 && (what = "unlink"))
        r = dmt_ws_unlink(ws, &op, DMT_ROOT, "later", false);
    if (r < 0)
        snprintf(why, 300, "on a good disk again: %s gives %d %.150s", what, r, err.msg);
    return r == 0;
}

static bool readable(struct dmt_ws *ws, const struct past *h, char why[300])
{
    struct tree t;
    tree_of_ws(&t, ws);
    bool ok = false;
    for (int i = h->n - 1; i >= h->n - 1 - (int)h->maybe && !ok; i--)
        ok = !t.bad && tree_equal(&h->v[i], &t, false, true, NULL, NULL, why);
    if (t.bad)
        snprintf(why, 300, "cannot be read: %s", t.why);
    tree_free(&t);
    return ok;
}

static bool bulk_pending(void *ctx, const struct leaf *want, const struct leaf *got)
{
    (void)ctx, (void)want;
    return got->incomplete; /* which contents are allowed is the matter of test_cut.c */
}

static bool recovered(struct bench *b, const struct past *h, char why[300])
{
    struct tree t;
    struct dmt_ws *ws = bench_open(b, dmt_io_real(), b->work, false);
    char one[200] = "";
    bool ok = false;
    if (!ws) {
        snprintf(why, 300, "does not open after the cut: %.250s", b->err.msg);
        return false;
    }
    tree_of_ws(&t, ws);
    tree_drop(&t, "later"); /* no part of the model */
    for (int i = h->n - 1; i >= h->acked && !ok; i--) {
        bool pending = false;
        for (int k = 0; k <= i; k++)
            pending |= h->bulk[k] != NULL;
        ok = !t.bad &&
             tree_equal(&h->v[i], &t, false, true, pending ? bulk_pending : NULL, NULL, one);
        if (!ok && i == h->n - 1)
            snprintf(why, 300, "after the cut nothing from %d to %d fits; %d: %.150s", h->acked, i,
                     i, t.bad ? t.why : one);
    }
    ok = ok && check_store(ws, why);
    tree_free(&t);
    (void)dmt_ws_close(ws, &b->err);
    return ok;
}

static bool after_fault(struct faultio *f, struct dmt_ws *ws, struct past *h, const struct fault *x,
                        char why[300])
{
    struct dmt_ws_status st;
    faultio_fail(f, 0, 0, 0, 0);
    if (!readable(ws, h, why))
        return false;
    dmt_ws_status(ws, &st);
    if (st.failed && !st.failed_why[0]) {
        snprintf(why, 300, "read-only without a reason");
        return false;
    }
    if (st.failed && x->err == ENOSPC) {
        snprintf(why, 300, "read-only for want of space: %.200s", st.failed_why);
        return false;
    }
    if (st.failed || works(ws, why))
        return true;
    /* A journal that failed in the last sync is known to the workspace a moment later. */
    dmt_ws_status(ws, &st);
    return st.failed && st.failed_why[0] && x->err == EIO;
}

/* One run with one fault. False when the fault did not come up. */
static bool fail_once(struct bench *b, const struct seq *q, const struct fault *x, unsigned n)
{
    struct past h = {.n = 1};
    char why[300] = "";
    bool ok = true;
    native_setup(b->native);
    tree_of_dir(&h.v[0], b->native);
    faultio_state_write(b->start, b->work);
    struct faultio *f = faultio_new(b->work, n);
    faultio_fail(f, x->mask, x->nth, x->times, x->err);
    struct dmt_ws *ws = bench_open(b, faultio_io(f), b->work, true);
    if (!ws) { /* opening failed: it says so, and the next try on a good disk opens */
        ok = b->err.msg[0] != '\0';
        if (!ok)
            snprintf(why, sizeof(why), "does not open and does not say why");
        faultio_fail(f, 0, 0, 0, 0);
        ws = ok ? bench_open(b, faultio_io(f), b->work, true) : NULL;
        if (ok && !ws)
            snprintf(why, sizeof(why), "does not open on a good disk again: %.200s", b->err.msg);
        ok = ws != NULL;
    }
    for (int i = 0; ok && i < q->n; i++)
        ok = step(b, ws, q->op[i], i, &h, why);
    bool hit = faultio_failed(f) > 0;
    if (ok)
        ok = after_fault(f, ws, &h, x, why);
    if (ok && !gave_up(ws))
        acknowledged(&h, "later"); /* was synced just now */
    if (ok && n % 2 && dmt_ws_sync_wait(ws, 0) == 0)
        acknowledged(&h, NULL);
    faultio_cut(f);
    if (ws)
        (void)dmt_ws_close(ws, &b->err);
    faultio_restore(f, FAULTIO_DROP);
    faultio_free(f);
    if (ok)
        ok = recovered(b, &h, why);
    if (!ok)
        report(q, "%s%s at operation %llu of kinds %#x: %s", x->err == EIO ? "EIO" : "ENOSPC",
               x->times == 1 ? "" : " for good", (unsigned long long)x->nth, x->mask, why);
    past_free(&h);
    atomic_fetch_add(&g_tally->recovered, 1);
    return hit;
}

#define SPACE_KINDS (FAULTIO_WRITE | FAULTIO_FALLOCATE | FAULTIO_CREATE | FAULTIO_RENAME)

/* every: of the operations that fail, one in so many. */
static void fail_all(struct bench *b, const struct seq *q, unsigned every, uint64_t seed)
{
    static const struct fault kinds[] = {
        {FAULTIO_ALL, 0, 1, EIO},          {SPACE_KINDS, 0, 1, ENOSPC},
        {FAULTIO_ALL, 0, UINT64_MAX, EIO}, {FAULTIO_SYNC | FAULTIO_SYNC_DIR, 0, 1, EIO},
        {FAULTIO_READ, 0, 1, EIO},
    };
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        struct fault x = kinds[k];
        bool hit = true;
        for (x.nth = 1 + seed % every; hit; x.nth += every)
            hit = fail_once(b, q, &x, (unsigned)(x.nth + k));
    }
    atomic_fetch_add(&g_tally->sequences, 1);
}

static void run(struct bench *b, const int *ops, int n, unsigned every, uint64_t seed)
{
    struct seq *q = calloc(1, sizeof(*q));
    for (int i = 0; i < n; i++)
        q->op[q->n++] = &g_ops[ops[i]];
    q->op[q->n++] = &g_sync;
    q->op[q->n++] = &g_ckpt;
    fail_all(b, q, every, seed);
    free(q);
}

static void one(struct bench *b, size_t i)
{
    int op = (int)i;
    run(b, &op, 1, (unsigned)from_env("DMT_FAIL_ONE", 3), i);
}

static void two(struct bench *b, size_t i)
{
    uint64_t drawn = from_env("DMT_FAIL_PAIRS", 60), all = (uint64_t)OPS_N * OPS_N;
    uint64_t at = drawn ? (i * (all / drawn) + from_env("DMT_SEED", 1) * 7919 + i * 11) % all : i;
    int ops[2] = {(int)(at / OPS_N), (int)(at % OPS_N)};
    run(b, ops, 2, (unsigned)from_env("DMT_FAIL_PAIR", 12), i);
}

/* --- a full disk ------------------------------------------------------------------------------ */

#define BALLAST (256u << 10)

/* What goes on when not one byte is left: nothing of it makes the workspace larger. */
static bool goes_on_full(const struct cop *o)
{
    return o->kind == C_UNLINK || o->kind == C_UNLINK_OPEN || o->kind == C_RMDIR ||
           o->kind == C_RENAME || o->kind == C_SWAP || o->kind == C_TRUNC || o->kind == C_UNSNAP ||
           o->kind == C_PUNCH || o->kind == C_CHMOD || o->kind == C_RMX || o->kind == C_SYNC ||
           o->kind == C_FSYNC || o->kind == C_CKPT;
}

static uint64_t file_size(struct bench *b, const char *name)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", b->work, name);
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* The disk is full before the operation; then things are deleted; then there is room again. */
static bool full_run(struct bench *b, struct faultio *f, struct dmt_ws *ws, const struct cop *o,
                     struct past *h, char why[300])
{
    static const struct cop unlink_c = {"unlink c", C_UNLINK, "c", 0, 0, 0};
    static const struct cop *const before[] = {&g_snap, &g_ops[4], &g_sync, &g_ckpt};
    const struct cop *const then[] = {o, &g_sync, &g_ckpt, &g_unsnap, &unlink_c, &g_sync, &g_ckpt};
    const struct fault none = {.err = ENOSPC};
    bool ok = true;
    int i = 0;
    for (size_t k = 0; ok && k < 4; k++)
        ok = step(b, ws, before[k], i++, h, why);
    faultio_space(f, 0);
    for (size_t k = 0; ok && k < 7; k++) {
        ok = step(b, ws, then[k], i, h, why);
        /* Only where the journal's segment ends and no next one was prepared: a checkpoint lets
         * older ones go, and one of them becomes the next. */
        for (int tries = 0; ok && h->last == -ENOSPC && then[k] != &g_ckpt && tries < 1000 &&
                            goes_on_full(then[k]) && op_ws(ws, &g_ckpt, 0) == 0;
             tries++)
            ok = step(b, ws, then[k], i, h, why);
        i++;
        if (ok && h->last < 0 && h->last != -ENOENT && goes_on_full(then[k])) {
            snprintf(why, 300, "on a full disk %s gives %d", then[k]->text, h->last);
            ok = false;
        }
    }
    /* The ballast is there, or free; what used it up was less than c. */
    uint64_t left = faultio_space_left(f) + file_size(b, "ballast");
    if (ok && tree_find(&h->v[h->n - 2], "c") && left < 131072) {
        snprintf(why, 300, "what was deleted gives no room: %lu", (unsigned long)left);
        ok = false;
    }
    faultio_space(f, UINT64_MAX);
    return ok && after_fault(f, ws, h, &none, why);
}

static void full(struct bench *b, size_t i)
{
    struct seq q = {.op = {&g_ops[i]}, .n = 1};
    struct past h = {.n = 1};
    char why[300] = "";
    native_setup(b->native);
    tree_of_dir(&h.v[0], b->native);
    faultio_state_write(b->start, b->work);
    struct faultio *f = faultio_new(b->work, 1);
    b->ballast_bytes = BALLAST;
    struct dmt_ws *ws = bench_open(b, faultio_io(f), b->work, true);
    bool ok = ws && full_run(b, f, ws, &g_ops[i], &h, why);
    if (ok)
        acknowledged(&h, "later");
    faultio_cut(f);
    if (ws)
        (void)dmt_ws_close(ws, &b->err);
    faultio_restore(f, FAULTIO_DROP);
    faultio_free(f);
    b->ballast_bytes = 0;
    if (!ok || !recovered(b, &h, why))
        report(&q, "disk full: %s", why);
    past_free(&h);
    atomic_fetch_add(&g_tally->sequences, 1);
}

static void full_disk(void **state)
{
    (void)state;
    assert_int_equal(each_in_processes("full disk", (size_t)OPS_N, full, false), 0);
}

static void given(struct bench *b, size_t i)
{
    int ops[SEQ_MAX], n = 0;
    char *text = strdup(getenv("DMT_SEQ"));
    (void)i;
    for (char *save = NULL, *s = strtok_r(text, ",", &save); s; s = strtok_r(NULL, ",", &save))
        ops[n++] = atoi(s);
    run(b, ops, n, 1, 0);
    free(text);
}

static void every_operation(void **state)
{
    (void)state;
    assert_int_equal(each_in_processes("one operation", (size_t)OPS_N, one, false), 0);
}

static void pairs(void **state)
{
    (void)state;
    size_t drawn = from_env("DMT_FAIL_PAIRS", 60);
    assert_int_equal(
        each_in_processes("two operations", drawn ? drawn : (size_t)(OPS_N * OPS_N), two, false),
        0);
}

static void given_sequence(void **state)
{
    (void)state;
    assert_int_equal(each_in_processes("given", 1, given, false), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(full_disk),
                                       cmocka_unit_test(every_operation), cmocka_unit_test(pairs)};
    const struct CMUnitTest alone[] = {cmocka_unit_test(given_sequence)};
    g_log = "/dev/null";
    if (getenv("DMT_SEQ"))
        return cmocka_run_group_tests_name("failing disk", alone, NULL, NULL);
    return cmocka_run_group_tests_name("failing disk", tests, NULL, NULL);
}
