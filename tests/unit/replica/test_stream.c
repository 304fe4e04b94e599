/* test_stream.c: the ordered lane between two real workspaces over loopback TLS: streaming,
 * catching up, acknowledging, cuts. */
#include "tests/unit/replica/pair.h"

static void records_follow_and_are_acknowledged(void **state)
{
    struct pair *p = *state;
    pair_connect(p, false);
    WAIT_FOR(p->a.acks > 0 && p->b.follows == 1);
    for (int i = 0; i < 200; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "file-%d", i);
        write_text(&p->a, name, name);
    }
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
    assert_int_equal(p->a.acked_epoch, EPOCH(1, 0));
    pthread_mutex_lock(&p->a.lock);
    assert_memory_equal(p->a.acked_store, p->b.ident.store_id, 16);
    pthread_mutex_unlock(&p->a.lock);
    assert_int_equal(dmt_replica_peer_durable(p->a.r, p->b.ident.store_id), tail_of(&p->a));
    assert_int_equal(dmt_replica_peer_durable(p->a.r, p->a.ident.store_id),
                     0); /* not the store that was named */
    WAIT_FOR(dmt_replica_unacked_bytes(p->a.r) == 0);
    assert_int_equal(dmt_replica_retain(p->a.r), tail_of(&p->a));
    struct dmt_replica_status s;
    WAIT_FOR((dmt_replica_status(p->a.r, &s), s.whole == tail_of(&p->a) && s.rtt_us > 0));
    assert_true(s.connected && s.streaming && s.raw_bytes > 0 && s.wire_bytes > 0);
    assert_string_equal(s.peer.node, "cpu");
}

static void equal_positions_are_reported_once(void **state)
{
    struct pair *p = *state;
    pair_connect(p, false);
    WAIT_FOR(p->a.pairs == 1);
    assert_int_equal(p->a.pair_seq, tail_of(&p->a));
    write_text(&p->a, "x", "x");
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_int_equal(p->a.pairs, 1);
    /* A new epoch on the same connection is proved anew (rule 9). */
    node_begin(&p->a, EPOCH(2, 0), false);
    WAIT_FOR(p->a.pairs == 2 && p->a.acked_epoch == EPOCH(2, 0));
    assert_int_equal(p->b.following_epoch, EPOCH(2, 0));
    assert_int_equal(p->a.ups, 1);
}

/* R3: what the standby has received but not made durable is not acknowledged, whatever else it
 * says. */
static void received_is_not_durable(void **state)
{
    struct pair *p = *state;
    pair_connect(p, false);
    WAIT_FOR(same_place(&p->a, &p->b));
    atomic_store(&p->b.hold_sync, true);
    write_text(&p->a, "x", "not durable there yet");
    uint64_t tail = tail_of(&p->a), before = p->a.acked_durable;
    WAIT_FOR(tail_of(&p->b) == tail);
    /* Let several acknowledgements of other things pass (free space, every second). */
    unsigned acks = p->a.acks;
    WAIT_FOR(p->a.acks >= acks + 2);
    assert_true(dmt_replica_peer_durable(p->a.r, p->b.ident.store_id) < tail);
    assert_true(p->a.acked_durable < tail && p->a.acked_durable >= before);
    assert_true(dmt_ws_applied(p->b.ws) < tail); /* and nothing of it is applied */
    assert_true(dmt_replica_unacked_bytes(p->a.r) > 0);
    atomic_store(&p->b.hold_sync, false);
    WAIT_FOR(same_place(&p->a, &p->b));
}

/* R4: what is durable at the standby but not at the holder is acknowledged and not applied. */
static void nothing_is_applied_that_the_holder_may_lose(void **state)
{
    struct pair *p = *state;
    pair_connect(p, false);
    WAIT_FOR(same_place(&p->a, &p->b));
    uint64_t before = tail_of(&p->a);
    atomic_store(&p->a.hold_sync, true);
    write_text(&p->a, "x", "durable only there");
    uint64_t tail = tail_of(&p->a);
    WAIT_FOR(dmt_replica_peer_durable(p->a.r, p->b.ident.store_id) == tail);
    assert_int_equal(dmt_journal_durable(dmt_ws_journal(p->b.ws)), tail);
    unsigned acks = p->a.acks;
    WAIT_FOR(p->a.acks >= acks + 2);
    assert_int_equal(dmt_ws_applied(p->b.ws), before);
    atomic_store(&p->a.hold_sync, false);
    WAIT_FOR(same_place(&p->a, &p->b));
}

static void sync_needs_both_disks(void **state)
{
    struct pair *p = *state;
    pair_connect(p, false);
    WAIT_FOR(p->a.acks > 0);
    p->a.dual = true;
    for (int i = 0; i < 20; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "f%d", i);
        uint64_t ino = make_file(&p->a, name);
        write_at(&p->a, ino, name, strlen(name), 0);
        uint64_t tail = tail_of(&p->a);
        assert_int_equal(dmt_ws_sync_wait(p->a.ws, ino), 0);
        assert_true(dmt_journal_durable(dmt_ws_journal(p->b.ws)) >= tail);
    }
}

static void late_standby_catches_up_from_the_journal(void **state)
{
    struct pair *p = *state;
    node_tls(&p->a, p->dir);
    node_tls(&p->b, p->dir);
    node_create(&p->a);
    node_create(&p->b);
    node_open(&p->a, false);
    node_begin(&p->a, EPOCH(1, 0), true);
    dmt_ws_set_retention(p->a.ws, 0, UINT64_MAX);
    uint64_t ino = make_file(&p->a, "log");
    char text[5000];
    memset(text, 'x', sizeof(text));
    for (int i = 0; i < 2000; i++)
        write_at(&p->a, ino, text, sizeof(text),
                 (uint64_t)(i * 37 % 100) * sizeof(text)); /* scattered: stays inline */
    node_listen(&p->a);
    dmt_replica_set_role(p->a.r, DMT_REPLICA_SENDER, EPOCH(1, 0), true, EPOCH(1, 0));
    node_open(&p->b, true);
    node_dial(&p->b, dmt_replica_port(p->a.r));
    node_receive(&p->b, 0);
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
    assert_int_equal(p->b.following_seq, 0);
    struct dmt_replica_status s;
    WAIT_FOR((dmt_replica_status(p->a.r, &s), s.raw_bytes > 9000000));
    assert_true(s.wire_bytes < s.raw_bytes / 10); /* it compresses */
}

static atomic_bool writer_stop;
static void *writer_main(void *arg)
{
    struct node *n = arg;
    for (unsigned i = 0; !atomic_load(&writer_stop); i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "w%u", i);
        write_text(n, name, "some text that goes along");
        if (i % 50 == 49)
            usleep(2000);
    }
    return NULL;
}

/* The connection is reset after a random number of bytes, again and again, while a writer goes
 * on. */
static void cuts_at_random_places(void **state)
{
    struct pair *p = *state;
    pair_connect(p, true);
    dmt_ws_set_retention(p->a.ws, 0, UINT64_MAX);
    pthread_t writer;
    atomic_store(&writer_stop, false);
    assert_int_equal(pthread_create(&writer, NULL, writer_main, &p->a), 0);
    uint64_t x = 42;
    for (unsigned i = 0; i < 25; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        /* Some cuts fall into the handshake, some into the hello, most into the stream. */
        atomic_store(&p->relay.cut_after, (long)(x % (i % 3 == 0 ? 4000 : 60000)));
        WAIT_FOR(atomic_load(&p->relay.cuts) > i);
    }
    atomic_store(&writer_stop, true);
    pthread_join(writer, NULL);
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
    assert_true(said(&p->a, p->a.failed, ""));
    assert_true(said(&p->b, p->b.failed, ""));
    assert_int_equal(p->b.cuts, 0);
    assert_int_equal(p->a.needed, 0);
}

static void a_standby_whose_records_are_recycled_needs_a_resync(void **state)
{
    struct pair *p = *state;
    pair_connect(p, true);
    atomic_store(&p->a.order, false);
    WAIT_FOR(same_place(&p->a, &p->b));
    atomic_store(&p->relay.refuse, true);
    atomic_store(&p->relay.cut_after, 1);
    WAIT_FOR(!p->a.up);
    uint64_t ino = make_file(&p->a, "big");
    uint8_t *text = malloc(100000);
    memset(text, 1, 100000);
    struct dmt_err err = {0};
    dmt_ws_set_retention(p->a.ws, UINT64_MAX, UINT64_MAX);
    for (int i = 0; i < 60; i++) {
        write_at(&p->a, ino, text, 100000, 0);
        if (i % 20 == 19)
            check(dmt_ws_checkpoint(p->a.ws, &err), &err);
    }
    free(text);
    WAIT_FOR(dmt_journal_first(dmt_ws_journal(p->a.ws)).seq > tail_of(&p->b));
    atomic_store(&p->relay.refuse, false);
    WAIT_FOR(p->a.needed == 1);
    assert_int_equal(p->b.resyncs, 0);
    assert_true(tail_of(&p->b) < tail_of(&p->a));
}

struct drained {
    atomic_bool done;
    int err;
};
static void on_drained(void *arg, int err)
{
    struct drained *d = arg;
    d->err = err;
    atomic_store(&d->done, true);
    something_happened();
}
static void drain_tells_when_all_is_there(void **state)
{
    struct pair *p = *state;
    pair_connect(p, true);
    struct drained d = {.err = 1};
    dmt_replica_drain(p->b.r, 5, 1000, on_drained, &d); /* a standby drains nowhere */
    WAIT_FOR(atomic_load(&d.done));
    assert_int_equal(d.err, DMT_E_CLOSED);
    WAIT_FOR(same_place(&p->a, &p->b));
    uint64_t ino = make_file(&p->a, "bulk");
    write_bulk(&p->a, ino, 0, 6u << 20, 1);
    d = (struct drained){.err = 1};
    dmt_replica_drain(p->a.r, tail_of(&p->a), 20000, on_drained, &d);
    WAIT_FOR(atomic_load(&d.done));
    assert_int_equal(d.err, 0);
    assert_true(same_place(&p->a, &p->b));
    /* The standby's disk hangs: nothing is drained. */
    atomic_store(&p->b.hold_sync, true);
    write_text(&p->a, "y", "y");
    d = (struct drained){.err = 1};
    dmt_replica_drain(p->a.r, tail_of(&p->a), 200, on_drained, &d);
    WAIT_FOR(atomic_load(&d.done));
    assert_int_equal(d.err, -ETIMEDOUT);
    atomic_store(&p->b.hold_sync, false);
    d = (struct drained){.err = 1};
    atomic_store(&p->b.hold_sync, true);
    write_text(&p->a, "z", "z");
    dmt_replica_drain(p->a.r, tail_of(&p->a), 20000, on_drained, &d);
    atomic_store(&p->relay.cut_after, 1);
    WAIT_FOR(atomic_load(&d.done));
    assert_int_equal(d.err, DMT_E_CLOSED);
    atomic_store(&p->b.hold_sync, false);
}

/* The workspace is promoted, and the thread of the connection does not know yet: what still comes
 * from the old holder is refused, and breaks nothing here. */
static void records_for_who_was_just_promoted_are_no_failure(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    pair_connect(p, true);
    write_text(&p->a, "x", "x");
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_int_equal(dmt_ws_promote(p->b.ws, &err), 0);
    check(dmt_ws_begin_epoch(p->b.ws, DMT_EPOCH(9, 0), "cpu", "promoted", &err), &err);
    write_text(&p->a, "y", "y");
    WAIT_FOR(said(&p->b, p->b.down_why, "follows nobody any more"));
    assert_string_equal(p->b.failed, "");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)
    const struct CMUnitTest tests[] = {
        T(records_follow_and_are_acknowledged),
        T(equal_positions_are_reported_once),
        T(records_for_who_was_just_promoted_are_no_failure),
        T(received_is_not_durable),
        T(nothing_is_applied_that_the_holder_may_lose),
        T(sync_needs_both_disks),
        T(late_standby_catches_up_from_the_journal),
        T(cuts_at_random_places),
        T(a_standby_whose_records_are_recycled_needs_a_resync),
        T(drain_tells_when_all_is_there),
    };
    cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
