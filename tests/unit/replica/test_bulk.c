/* test_bulk.c: the bulk lane: by-reference bytes are pulled behind the ordered lane, a sync waits
 * for its own file's bytes only. */
#include "tests/unit/replica/pair.h"

static void bulk_bytes_arrive(void **state)
{
    struct pair *p = *state;
    pair_connect(p, false);
    uint64_t ino = make_file(&p->a, "big");
    write_bulk(&p->a, ino, 0, 24u << 20, 1);
    for (int i = 0; i < 20; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "mid-%d", i);
        write_bulk(&p->a, make_file(&p->a, name), 0, 2u << 20, 2);
    }
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
    struct dmt_replica_status s;
    WAIT_FOR((dmt_replica_status(p->a.r, &s), s.whole == tail_of(&p->a)));
    assert_true(s.bulk_bytes > 20u << 20); /* it did go by reference */
    WAIT_FOR((dmt_replica_status(p->a.r, &s), s.missing_bytes == 0));
    assert_true(dmt_replica_have(p->a.r, ino, tail_of(&p->a)));
    assert_true(dmt_replica_have(p->a.r, 0, tail_of(&p->a)));
}

static void a_sync_waits_for_the_bytes(void **state)
{
    struct pair *p = *state;
    pair_connect(p, false);
    WAIT_FOR(p->a.acks > 0);
    p->a.dual = true;
    for (int i = 0; i < 5; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "f%d", i);
        uint64_t ino = make_file(&p->a, name);
        write_bulk(&p->a, ino, 0, 5u << 20, (uint32_t)i);
        uint64_t tail = tail_of(&p->a);
        assert_int_equal(dmt_ws_sync_wait(p->a.ws, ino), 0);
        assert_false(dmt_ws_missing_ino(p->b.ws, ino, tail));
        assert_true(dmt_ws_applied(p->b.ws) >= tail);
    }
    write_bulk(&p->a, make_file(&p->a, "last"), 0, 5u << 20, 9);
    uint64_t tail = tail_of(&p->a);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, 0), 0);
    assert_false(dmt_ws_missing_ino(p->b.ws, 0, tail));
}

/* Bytes that are filled in but not durable are not "had", on this connection or on the next. */
static void filled_is_not_durable(void **state)
{
    struct pair *p = *state;
    struct dmt_missing m;
    pair_connect(p, true);
    WAIT_FOR(same_place(&p->a, &p->b));
    atomic_store(&p->b.hold_data, true);
    uint64_t ino = make_file(&p->a, "bulk");
    write_bulk(&p->a, ino, 0, 5u << 20, 1);
    uint64_t tail = tail_of(&p->a);
    WAIT_FOR(dmt_ws_applied(p->b.ws) == tail && dmt_ws_missing_next(p->b.ws, 0, 0, &m) == 0);
    assert_true(dmt_ws_missing_ino(p->b.ws, ino, tail));
    for (int round = 0; round < 2; round++) {
        assert_false(dmt_replica_have(p->a.r, ino, tail));
        assert_false(dmt_replica_have(p->a.r, 0, tail));
        unsigned acks = p->a.acks;
        WAIT_FOR(p->a.acks >= acks + 2);
        assert_false(dmt_replica_have(p->a.r, ino, tail));
        assert_false(dmt_replica_have(p->a.r, 0, tail));
        assert_true(p->a.acked_whole < tail);
        unsigned ups = p->a.ups;
        if (round == 0) {
            atomic_store(&p->relay.cut_after, 1);
            WAIT_FOR(p->a.ups > ups && p->a.up);
        }
    }
    atomic_store(&p->b.hold_data, false);
    WAIT_FOR(dmt_replica_have(p->a.r, ino, tail));
    WAIT_FOR(dmt_replica_have(p->a.r, 0, tail));
    assert_false(dmt_ws_missing_ino(p->b.ws, 0, tail));
}

/* R6 and the two lanes: on a slow link a small file's fsync does not wait for the bulk bytes queued
 * before it. */
static void a_small_sync_overtakes_bulk(void **state)
{
    struct pair *p = *state;
    atomic_store(&p->relay.rate, 2l << 20);
    pair_connect(p, true);
    WAIT_FOR(p->a.acks > 0);
    p->a.dual = true;
    uint64_t bulk = make_file(&p->a, "bulk");
    write_bulk(&p->a, bulk, 0, 12u << 20, 3); /* 6 s of this link */
    struct dmt_missing m;
    WAIT_FOR(dmt_ws_missing_next(p->b.ws, 0, 0, &m) == 1);
    struct dmt_replica_status s;
    WAIT_FOR((dmt_replica_status(p->a.r, &s), s.bulk_bytes > 0));
    WAIT_FOR((dmt_replica_status(p->a.r, &s), s.missing_bytes > 0)); /* the holder's status, too */
    uint64_t worst = 0;
    for (int i = 0; i < 8; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "small%d", i);
        uint64_t ino = make_file(&p->a, name), begun = test_ms();
        write_at(&p->a, ino, name, strlen(name), 0);
        assert_int_equal(dmt_ws_sync_wait(p->a.ws, ino), 0);
        uint64_t took = test_ms() - begun;
        worst = took > worst ? took : worst;
    }
    bool still_missing = dmt_ws_missing_ino(p->b.ws, bulk, UINT64_MAX);
    print_message("slowest of 8 small syncs beside 12 MiB of bulk on 2 MiB/s: %llu ms\n",
                  (unsigned long long)worst);
    assert_true(still_missing); /* else the link was not slow enough to mean anything */
    assert_true(worst < 1500);
    atomic_store(&p->relay.rate, 0);
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
}

/* A sync of one bulk file goes before the bulk of files nobody waits for. */
static void what_is_waited_for_goes_first(void **state)
{
    struct pair *p = *state;
    atomic_store(&p->relay.rate, 6l << 20);
    pair_connect(p, true);
    WAIT_FOR(p->a.acks > 0);
    uint64_t big = make_file(&p->a, "big");
    write_bulk(&p->a, big, 0, 24u << 20, 3);
    struct dmt_replica_status s;
    WAIT_FOR((dmt_replica_status(p->a.r, &s), s.bulk_bytes > 0));
    p->a.dual = true;
    uint64_t ino = make_file(&p->a, "wanted");
    write_bulk(&p->a, ino, 0, 3u << 20, 4);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, ino), 0);
    assert_true(dmt_ws_missing_ino(p->b.ws, big, UINT64_MAX));
    assert_false(dmt_ws_missing_ino(p->b.ws, ino, UINT64_MAX));
    atomic_store(&p->relay.rate, 0);
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
}

/* Files are rewritten, cut and deleted while their bytes are under way: what is gone is let go, the
 * rest is right. */
static void ranges_that_change_under_way(void **state)
{
    struct pair *p = *state;
    atomic_store(&p->relay.rate, 8l << 20);
    pair_connect(p, true);
    uint64_t inos[4];
    for (int i = 0; i < 4; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "f%d", i);
        inos[i] = make_file(&p->a, name);
        write_bulk(&p->a, inos[i], 0, 4u << 20, (uint32_t)i);
    }
    for (uint32_t round = 0; round < 12; round++) {
        struct dmt_op op = {.umask = 022};
        struct dmt_attr at;
        struct dmt_setattr sa = {.mask = DMT_SET_SIZE, .size = (1u << 20) * (round % 4)};
        usleep(
            20000); /* so that some of each is under way; whatever is, the end must be the same */
        write_bulk(&p->a, inos[0], (uint64_t)(round % 5) << 19, 1u << 20, 100 + round);
        assert_int_equal(dmt_ws_setattr(p->a.ws, &op, inos[1], &sa, &at), 0);
        write_bulk(&p->a, inos[1], 0, 3u << 20, 200 + round);
        write_bulk(&p->a, inos[2], (uint64_t)round << 20, 2u << 20, 300 + round);
        if (round == 6) {
            assert_int_equal(dmt_ws_unlink(p->a.ws, &op, DMT_ROOT, "f3", false), 0);
        }
    }
    atomic_store(&p->relay.rate, 0);
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
    assert_true(said(&p->b, p->b.failed, ""));
}

static int take_snapshot(void *ctx, const struct dmt_snapshot *s)
{
    *(struct dmt_snapshot *)ctx = *s;
    return 0;
}

/* A snapshot pins what was pending: its bytes come, too, although the file has others by then. */
static void a_snapshot_gets_the_bytes_it_shows(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    struct dmt_snapshot a = {0}, b = {0};
    char x[65], y[65];
    atomic_store(&p->relay.rate, 2l << 20);
    pair_connect(p, true);
    uint64_t ino = make_file(&p->a, "f");
    write_bulk(&p->a, ino, 0, 5u << 20, 1);
    check(dmt_ws_snap_create(p->a.ws, "then", "", &a, &err), &err);
    write_bulk(&p->a, ino, 0, 5u << 20, 2);
    atomic_store(&p->relay.rate, 0);
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
    assert_int_equal(dmt_ws_snap_each(p->b.ws, take_snapshot, &b), 0);
    assert_string_equal(b.name, "then");
    check(dmt_ws_digest(p->a.ws, a.seq, x, &err), &err);
    check(dmt_ws_digest(p->b.ws, b.seq, y, &err), &err);
    assert_string_equal(x, y);
}

/* Cut in the midst of bulk transfers; syncs go on and come true in the end. */
static void bulk_survives_cuts(void **state)
{
    struct pair *p = *state;
    pair_connect(p, true);
    dmt_ws_set_retention(p->a.ws, 0, UINT64_MAX);
    WAIT_FOR(p->a.acks > 0);
    p->a.dual = true;
    uint64_t x = 7;
    for (unsigned i = 0; i < 10; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "f%u", i);
        uint64_t ino = make_file(&p->a, name);
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        atomic_store(&p->relay.cut_after, (long)(x % (4u << 20)));
        write_bulk(&p->a, ino, 0, 6u << 20, i);
        uint64_t tail = tail_of(&p->a);
        assert_int_equal(dmt_ws_sync_wait(p->a.ws, ino), 0);
        assert_false(dmt_ws_missing_ino(p->b.ws, ino, tail));
    }
    assert_true(atomic_load(&p->relay.cuts) > 5);
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
}

static void bandwidth_is_kept(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    node_tls(&p->a, p->dir);
    node_tls(&p->b, p->dir);
    node_create(&p->a);
    node_create(&p->b);
    node_open(&p->a, false);
    node_open(&p->b, true);
    struct dmt_replica_conf c = node_conf(&p->a);
    c.listen_host = "127.0.0.1";
    c.bandwidth_bytes_s = 4u << 20;
    struct dmt_replica *r;
    check(dmt_replica_start(&r, &c, &err), &err);
    p->a.r = r;
    dmt_replica_set_ws(p->a.r, p->a.ws);
    node_begin(&p->a, EPOCH(1, 0), true);
    write_bulk(&p->a, make_file(&p->a, "bulk"), 0, 9u << 20, 1);
    uint64_t begun = test_ms();
    node_dial(&p->b, dmt_replica_port(p->a.r));
    node_receive(&p->b, 0);
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_true(test_ms() - begun >
                1000); /* 8 MiB go by reference; a fifth of a second may go at once */
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)
    const struct CMUnitTest tests[] = {
        T(bulk_bytes_arrive),
        T(a_sync_waits_for_the_bytes),
        T(filled_is_not_durable),
        T(a_small_sync_overtakes_bulk),
        T(what_is_waited_for_goes_first),
        T(ranges_that_change_under_way),
        T(a_snapshot_gets_the_bytes_it_shows),
        T(bulk_survives_cuts),
        T(bandwidth_is_kept),
    };
    cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
