/* test_resync.c: a store is made equal to another one by what differs: behind, parted, interrupted.
 *
 * Random work on the holder, a standby that stopped at some moment, and the difference between the
 * two; after it all views of both are equal, the standby's store is sound, and it follows again.
 */
#include "tests/unit/workspace/pair.h"

#include <linux/falloc.h>

#define NAMES 24
#define SEEDS 8

struct work { /* a random user */
    uint32_t x;
    unsigned snaps;
};

static uint32_t rnd(struct work *w, uint32_t n)
{
    w->x ^= w->x << 13;
    w->x ^= w->x >> 17;
    w->x ^= w->x << 5;
    return w->x % n;
}

static uint64_t a_file(struct fx *f, struct work *w, uint64_t *ret_dir, char name[16])
{
    char dir[16];
    snprintf(dir, sizeof(dir), "d%u", rnd(w, 3));
    snprintf(name, 16, "f%u", rnd(w, NAMES));
    *ret_dir = fx_lookup(f, DMT_ROOT, dir);
    if (!*ret_dir)
        *ret_dir = fx_dir(f, DMT_ROOT, dir);
    uint64_t ino = fx_lookup(f, *ret_dir, name);
    return ino ? ino : fx_file(f, *ret_dir, name);
}

static void snapshots(struct fx *f, struct work *w)
{
    char name[32];
    struct dmt_err err = {0};
    struct dmt_snapshot s;
    snprintf(name, sizeof(name), "s%u", rnd(w, 4));
    if (dmt_ws_snap_delete(f->ws, name, &err) < 0)
        fx_check(dmt_ws_snap_create(f->ws, name, "", &s, &err), &err);
}

static void one_step(struct fx *f, struct work *w)
{
    char name[16], other[16];
    uint64_t dir, dir2, ino = a_file(f, w, &dir, name);
    struct dmt_op op = FX_OP(0);
    switch (rnd(w, 16)) {
    case 0:
        fx_unlink(f, dir, name);
        break;
    case 1:
        (void)a_file(f, w, &dir2, other);
        (void)fx_try_rename(f, dir, name, dir2, other, 0);
        break;
    case 2:
        fx_truncate(f, ino, rnd(w, 3) ? rnd(w, 300000) : 0);
        break;
    case 3:
        fx_setxattr(f, ino, "user.a", name);
        break;
    case 4:
        fx_chmod(f, ino, 0600 + rnd(w, 8));
        break;
    case 5:
        snapshots(f, w);
        break;
    case 6:
        fx_fill(f, ino, 128u << 10, rnd(w, 5) * 100000, 128u << 10, w->x);
        break;
    case 7:
        /* the later part goes by reference */
        fx_fill(f, ino, 2u << 20, rnd(w, 3) * (512u << 10), 256u << 10, w->x);
        break;
    case 8:
        assert_int_equal(dmt_ws_fallocate(f->ws, &op, ino,
                                          FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, rnd(w, 40000),
                                          1 + rnd(w, 200000), false),
                         0);
        break;
    case 9:
        fx_checkpoint(f);
        break;
    case 10: /* a name that is free, or not */
        snprintf(other, sizeof(other), "f%u", rnd(w, NAMES));
        (void)fx_try_rename(f, dir, name, dir, other, 0);
        break;
    default:
        fx_fill(f, ino, 1 + rnd(w, 12000), rnd(w, 8) ? rnd(w, 20000) : rnd(w, 400000), 4096, w->x);
        break;
    }
}

static void work(struct fx *f, struct work *w, unsigned steps)
{
    while (steps-- > 0)
        one_step(f, w);
    assert_int_equal(dmt_ws_sync_wait(f->ws, 0), 0); /* all marked: no bytes are pending */
}

/* --- the standby's side ----------------------------------------------------------------------- */

struct wire {
    struct dmt_patch *p;
    long left; /* bytes until it is cut; < 0: never */
    uint64_t bytes;
};

static int deliver(void *ctx, const void *p, size_t len)
{
    struct wire *w = ctx;
    struct dmt_err err = {0};
    size_t n = w->left >= 0 && (size_t)w->left < len ? (size_t)w->left : len;
    if (w->left >= 0)
        w->left -= (long)n;
    w->bytes += n;
    fx_check(dmt_patch_feed(w->p, p, n, &err), &err);
    return n < len ? -EPIPE : 0;
}

static struct dmt_store_conf conf_of(struct fx *f)
{
    return (struct dmt_store_conf){.io = dmt_io_real(), .clock = dmt_clock_real(), .dir = f->store};
}

/* One attempt: 0, or -EPIPE when it was cut. `to` is closed. */
static int attempt(struct fx *from, struct fx *to, struct dmt_store_ident *id, uint64_t common,
                   struct wire *w)
{
    struct dmt_err err = {0};
    struct dmt_buf said;
    struct dmt_pos at, got;
    struct dmt_store_conf sc = conf_of(to);
    dmt_buf_init(&said);
    fx_check(dmt_patch_open(&w->p, &sc, id, common, &err), &err);
    fx_check(dmt_patch_statement(w->p, &said, &err), &err);
    int r = dmt_ws_export_diff(from->ws, said.p, said.len, &at, NULL, deliver, w, &err);
    dmt_buf_free(&said);
    if (r == -EPIPE) {
        dmt_patch_close(w->p);
        assert_int_equal(dmt_patch_state(to->store), DMT_PATCH_PARTIAL);
        return r;
    }
    fx_check(r, &err);
    fx_check(dmt_patch_finish(w->p, &got, &err), &err);
    assert_true(at.seq == got.seq && at.chain == got.chain);
    assert_int_equal(dmt_patch_state(to->store), DMT_PATCH_COMPLETE);
    return 0;
}

static void say_finding(void *ctx, const struct dmt_finding *f)
{
    (void)ctx;
    print_error("  %s\n", f->text);
}

static void take_over(struct fx *to)
{
    struct dmt_err err = {0};
    struct dmt_store_conf sc = conf_of(to);
    fx_shell("rm -rf %s/journal", to->store);
    fx_check(dmt_patch_switch(&sc, &err), &err);
    assert_int_equal(dmt_patch_state(to->store), DMT_PATCH_NONE);
    fx_open(to, true);
    assert_int_equal(dmt_store_check(dmt_ws_store(to->ws), say_finding, NULL, &err), 0);
}

static int equal_view(void *ctx, const struct dmt_snapshot *s)
{
    struct pair *p = ctx;
    struct dmt_snapshot other;
    assert_int_equal(dmt_store_snap_get(dmt_ws_store(p->b.ws), s->name, &other), 0);
    pair_equal(&p->a, &p->b, s->seq);
    return 0;
}

static int count_view(void *ctx, const struct dmt_snapshot *s)
{
    (void)s;
    ++*(unsigned *)ctx;
    return 0;
}

/* Live and all snapshots, of p->a and p->b. */
static void all_equal(struct pair *p)
{
    unsigned na = 0, nb = 0;
    pair_equal(&p->a, &p->b, DMT_LIVE);
    assert_int_equal(dmt_ws_snap_each(p->a.ws, equal_view, p), 0);
    assert_int_equal(dmt_ws_snap_each(p->a.ws, count_view, &na), 0);
    assert_int_equal(dmt_ws_snap_each(p->b.ws, count_view, &nb), 0);
    assert_int_equal(na, nb);
}

static struct dmt_store_ident stop(struct fx *f)
{
    struct dmt_store_ident id = *dmt_store_ident(dmt_ws_store(f->ws));
    fx_close(f);
    return id;
}

static void follows_again(struct pair *p, struct work *w)
{
    work(&p->a, w, 30);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    (void)pair_pull(&p->a, &p->b, INT32_MAX);
    all_equal(p);
    fx_close(&p->b);
    fx_open(&p->b, true);
    struct dmt_err err = {0};
    assert_int_equal(dmt_store_check(dmt_ws_store(p->b.ws), say_finding, NULL, &err), 0);
    all_equal(p);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void each_seed(void (*fn)(struct pair *p, struct work *w))
{
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        void *state = NULL;
        struct work w = {.x = seed * 2654435761u};
        assert_int_equal(pair_setup(&state), 0);
        fn(state, &w);
        assert_int_equal(pair_teardown(&state), 0);
    }
}

static void behind(struct pair *p, struct work *w)
{
    struct wire wire = {.left = -1};
    work(&p->a, w, 120);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    if (rnd(w, 3))
        (void)pair_pull(&p->a, &p->b, (int)rnd(w, 12)); /* or some bytes have not come */
    struct dmt_store_ident id = stop(&p->b);
    work(&p->a, w, 60);
    assert_int_equal(attempt(&p->a, &p->b, &id, UINT64_MAX, &wire), 0);
    take_over(&p->b);
    all_equal(p);
    follows_again(p, w);
}

static void interrupted(struct pair *p, struct work *w)
{
    unsigned cuts = 0;
    work(&p->a, w, 100);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    (void)pair_pull(&p->a, &p->b, INT32_MAX);
    struct dmt_store_ident id = stop(&p->b);
    work(&p->a, w, 60);
    for (;;) {
        struct wire wire = {.left = (long)rnd(w, 4000000)};
        if (attempt(&p->a, &p->b, &id, UINT64_MAX, &wire) == 0)
            break;
        assert_true(++cuts < 200);
        if (rnd(w, 3) == 0)
            work(&p->a, w, rnd(w, 4));
    }
    take_over(&p->b);
    all_equal(p);
    follows_again(p, w);
}

/* The old holder wrote on alone and checkpointed; the other one took over before that. */
static void parted(struct pair *p, struct work *w)
{
    work(&p->a, w, 100);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    (void)pair_pull(&p->a, &p->b, INT32_MAX);
    uint64_t fork = dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq;
    struct work lost = {.x = w->x ^ 77};
    work(&p->a, &lost, 60);
    fx_checkpoint(&p->a);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    work(&p->b, w, 60);
    struct dmt_store_ident id = stop(&p->a);
    for (unsigned cuts = 0;; cuts++) {
        struct wire wire = {.left = (long)rnd(w, 6000000)};
        if (attempt(&p->b, &p->a, &id, fork, &wire) == 0)
            break;
        assert_true(cuts < 200);
    }
    take_over(&p->a);
    struct fx swap = p->a;
    p->a = p->b;
    p->b = swap;
    all_equal(p);
    follows_again(p, w);
}

static void a_standby_that_was_behind(void **state)
{
    (void)state;
    each_seed(behind);
}

static void a_transfer_cut_again_and_again(void **state)
{
    (void)state;
    each_seed(interrupted);
}

static void histories_that_parted(void **state)
{
    (void)state;
    each_seed(parted);
}

/* A new standby has nothing. */
static void from_nothing(void **state)
{
    struct pair *p = *state;
    struct work w = {.x = 5};
    struct wire wire = {.left = -1};
    work(&p->a, &w, 120);
    struct dmt_store_ident id = stop(&p->b);
    assert_int_equal(attempt(&p->a, &p->b, &id, 0, &wire), 0);
    take_over(&p->b);
    all_equal(p);
    follows_again(p, &w);
}

static uint64_t lost_bytes(struct fx *f, uint64_t view)
{
    struct dmt_ws_status s;
    dmt_ws_status(f->ws, &s);
    assert_int_equal(s.missing_bytes, 0);
    return dmt_store_lost_bytes(dmt_ws_store(f->ws), view);
}

/* What a promotion lost of a snapshot is lost on a machine that is made equal to it, too: nobody
 * has those bytes, and zeros are not what they were. */
static void what_is_lost_stays_lost(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    struct dmt_snapshot early;
    struct dmt_setattr cut = {.mask = DMT_SET_SIZE};
    struct dmt_op op = FX_OP(0);
    struct dmt_attr at;
    struct wire wire = {.left = -1};
    char byte;
    uint64_t x = fx_file(&p->a, DMT_ROOT, "x");
    fx_fill(&p->a, x, 4u << 20, 0, 256u << 10, 6);
    fx_check(dmt_ws_snap_create(p->a.ws, "early", "", &early, &err), &err);
    assert_int_equal(dmt_ws_setattr(p->a.ws, &op, x, &cut, &at), 0);
    fx_text(&p->a, x, "replaced", 0);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_pull(&p->a, &p->b, 3);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    assert_int_equal(dmt_ws_settle(p->b.ws, false, &err), 0);
    uint64_t lost = lost_bytes(&p->b, early.seq);
    assert_true(lost > 1u << 20 && lost < 3u << 20);

    /* a is another machine from now on */
    struct dmt_store_ident id = stop(&p->a);
    fx_shell("rm -rf %s", p->a.store);
    fx_create_store(p->a.store, 7, 1);
    fx_open(&p->a, true);
    (void)stop(&p->a);
    assert_int_equal(attempt(&p->b, &p->a, &id, 0, &wire), 0);
    take_over(&p->a);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    assert_int_equal(pair_pull(&p->b, &p->a, 1000), 0);
    assert_int_equal(lost_bytes(&p->a, early.seq), lost);
    for (uint64_t off = 0; off < 4u << 20; off += 64u << 10)
        assert_int_equal(ws_view_read(p->a.ws, early.seq, x, &byte, 1, off, false),
                         ws_view_read(p->b.ws, early.seq, x, &byte, 1, off, false));
    wire = (struct wire){.left = -1}; /* and once more, with what it has itself */
    id = stop(&p->a);
    fx_text(&p->b, x, "goes on", 100);
    assert_int_equal(attempt(&p->b, &p->a, &id, UINT64_MAX, &wire), 0);
    take_over(&p->a);
    assert_int_equal(pair_pull(&p->b, &p->a, 1000), 0);
    assert_int_equal(lost_bytes(&p->a, early.seq), lost);
}

/* The old state is what it was until the new one has taken its place. */
static void the_old_state_stays(void **state)
{
    struct pair *p = *state;
    struct work w = {.x = 9};
    struct wire wire = {.left = 300000};
    char before[65], after[65];
    struct dmt_err err = {0};
    work(&p->a, &w, 100);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    (void)pair_pull(&p->a, &p->b, INT32_MAX);
    fx_check(dmt_ws_digest(p->b.ws, DMT_LIVE, before, &err), &err);
    struct dmt_store_ident id = stop(&p->b);
    work(&p->a, &w, 100);
    assert_int_equal(attempt(&p->a, &p->b, &id, UINT64_MAX, &wire), -EPIPE);
    struct dmt_store_conf sc = conf_of(&p->b);
    dmt_patch_drop(&sc);
    fx_open(&p->b, true);
    fx_check(dmt_ws_digest(p->b.ws, DMT_LIVE, after, &err), &err);
    assert_string_equal(before, after);
    follows_again(p, &w);
}

/* A rename passes a place in the directory, or a name, on: to what has another one here. */
static void renamed_entries(void **state)
{
    struct pair *p = *state;
    struct fx *a = &p->a;
    struct wire wire = {.left = -1};
    uint64_t dir = fx_dir(a, DMT_ROOT, "d");
    struct dmt_snapshot s;
    struct dmt_err err = {0};
    for (const char *n = "a\0b\0c\0e\0f\0g\0h\0"; *n; n += 2)
        fx_text(a, fx_file(a, dir, n), n, 0);
    fx_check(dmt_ws_snap_create(a->ws, "s", "", &s, &err), &err);
    pair_send(a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    struct dmt_store_ident id = stop(&p->b);
    fx_rename(a, dir, "b", dir, "z"); /* its place has another name there */
    fx_unlink(a, dir, "g");
    fx_rename(a, dir, "c", dir, "g"); /* and this name has another place, further on */
    fx_rename(a, dir, "h", dir, "e"); /* this place and name are another file's */
    assert_int_equal(attempt(a, &p->b, &id, UINT64_MAX, &wire), 0);
    take_over(&p->b);
    all_equal(p);
    struct work w = {.x = 1};
    follows_again(p, &w);
}

/* 16 MiB are there, a little of it changes: a little is sent. */
static void little_is_sent_for_little(void **state)
{
    struct pair *p = *state;
    struct wire wire = {.left = -1};
    char name[16];
    uint64_t big = fx_file(&p->a, DMT_ROOT, "big"), dir = fx_dir(&p->a, DMT_ROOT, "d");
    fx_fill(&p->a, big, 8u << 20, 0, 512u << 10, 1);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "%d", i);
        fx_fill(&p->a, fx_file(&p->a, dir, name), 8192, 0, 8192, (uint32_t)i);
    }
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, 0), 0);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    (void)pair_pull(&p->a, &p->b, INT32_MAX);
    struct dmt_store_ident id = stop(&p->b);
    fx_fill(&p->a, big, 256u << 10, 4u << 20, 256u << 10, 2);
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "%d", i * 50);
        fx_fill(&p->a, fx_lookup(&p->a, dir, name), 8192, 0, 8192, 9);
    }
    fx_unlink(&p->a, dir, "7");
    for (int i = 100; i < 150; i++) { /* attributes alone: no content */
        snprintf(name, sizeof(name), "%d", i);
        fx_chmod(&p->a, fx_lookup(&p->a, dir, name), 0600);
    }
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, 0), 0);
    assert_int_equal(attempt(&p->a, &p->b, &id, UINT64_MAX, &wire), 0);
    assert_true(wire.bytes < 425984 * 12 / 10);
    take_over(&p->b);
    all_equal(p);
}

/* A file of small writes is one range in the end, but not across what the standby has. */
static void small_writes_at_the_end_are_little(void **state)
{
    struct pair *p = *state;
    struct wire wire = {.left = -1};
    uint64_t log = fx_file(&p->a, DMT_ROOT, "log");
    fx_fill(&p->a, log, 512u << 10, 0, 4096, 1);
    fx_checkpoint(&p->a);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    dmt_ws_set_peer(p->a.ws, dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq);
    struct dmt_store_ident id = stop(&p->b);
    fx_fill(&p->a, log, 8192, 512u << 10, 4096, 2);
    fx_checkpoint(&p->a);
    fx_close(&p->a); /* it outlives the process */
    fx_serve(&p->a);
    fx_fill(&p->a, log, 8192, 128u << 10, 4096, 3);
    fx_fill(&p->a, log, 8192, (512u << 10) + 8192, 4096, 4);
    assert_int_equal(attempt(&p->a, &p->b, &id, UINT64_MAX, &wire), 0);
    assert_true(wire.bytes < 3 * 8192 * 12 / 10);
    take_over(&p->b);
    all_equal(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_standby_that_was_behind),
        cmocka_unit_test(a_transfer_cut_again_and_again),
        cmocka_unit_test(histories_that_parted),
        cmocka_unit_test_setup_teardown(from_nothing, pair_setup, pair_teardown),
        cmocka_unit_test_setup_teardown(what_is_lost_stays_lost, pair_setup, pair_teardown),
        cmocka_unit_test_setup_teardown(the_old_state_stays, pair_setup, pair_teardown),
        cmocka_unit_test_setup_teardown(renamed_entries, pair_setup, pair_teardown),
        cmocka_unit_test_setup_teardown(little_is_sent_for_little, pair_setup, pair_teardown),
        cmocka_unit_test_setup_teardown(small_writes_at_the_end_are_little, pair_setup,
                                        pair_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
