/* test_history.c: two histories that are not the same: first synchronisation, a standby ahead, a
 * divergent tail, promotion there and back. */
#include "tests/unit/replica/pair.h"

/* b has no store at all: a workspace that is not empty is shipped whole, then the journal from
 * there. */
static void connect_with_empty(struct pair *p, bool relay, int files)
{
    node_tls(&p->a, p->dir);
    node_tls(&p->b, p->dir);
    memset(p->b.ident.lineage, 0, 16);
    node_create(&p->a);
    node_open(&p->a, false);
    node_begin(&p->a, EPOCH(3, 0), true);
    for (int i = 0; i < files; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "old-%d", i);
        write_text(&p->a, name, name);
    }
    write_bulk(&p->a, make_file(&p->a, "old-bulk"), 0, 9u << 20, 5);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, 0), 0);
    node_listen(&p->a);
    dmt_replica_set_role(p->a.r, DMT_REPLICA_SENDER, EPOCH(3, 0), true, EPOCH(3, 0));
    uint16_t port = dmt_replica_port(p->a.r);
    node_dial(&p->b, relay ? relay_start(&p->relay, port) : port);
    node_receive(&p->b, 0);
}

static void connect_with_empty_b(struct pair *p, bool relay)
{
    connect_with_empty(p, relay, 300);
}

static void an_empty_standby_is_made_equal(void **state)
{
    struct pair *p = *state;
    connect_with_empty_b(p, false);
    WAIT_FOR(p->b.imports == 1 && p->b.follows == 1);
    write_text(&p->a, "new", "after the resync");
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
    assert_memory_equal(p->b.ident.lineage, p->a.ident.lineage, 16);
    assert_int_equal(p->b.resyncs, 1);
    WAIT_FOR(p->a.pairs == 1);
    struct dmt_replica_status s;
    dmt_replica_status(p->a.r, &s);
    assert_true(s.state_bytes > 9u << 20);
}

/* A disk that loses what it was given: the audit finds the file, and that file comes anew. */
static void the_audit_finds_what_differs(void **state)
{
    struct pair *p = *state;
    atomic_store(&p->b.spoil, true);
    connect_with_empty(p, false, 0);
    WAIT_FOR(p->b.imports == 2 && p->b.follows >= 2);
    write_text(&p->a, "new", "after the resync");
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
}

static void a_resync_survives_cuts(void **state)
{
    struct pair *p = *state;
    connect_with_empty_b(p, true);
    for (unsigned i = 0; i < 4; i++) {
        atomic_store(&p->relay.cut_after, 300000l * (i + 1) * (i + 1));
        WAIT_FOR(atomic_load(&p->relay.cuts) > i || p->b.follows > 0);
    }
    WAIT_FOR(p->b.follows >= 1);
    write_text(&p->a, "new", "after the resync");
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
    assert_int_equal(p->b.imports, 1);
    assert_true(atomic_load(&p->relay.cuts) >= 2);
}

/* Rule 11: a holder that is not alone in the register orders nothing, so the standby keeps what it
 * has. */
static void a_holder_that_is_not_alone_orders_no_resync(void **state)
{
    struct pair *p = *state;
    connect_with_empty_b(p, false);
    WAIT_FOR(p->b.imports == 1 && p->b.follows == 1);
    node_begin(&p->a, EPOCH(4, 0), false);
    WAIT_FOR(p->b.follows == 2);
    dmt_replica_ask_resync(p->b.r, "just so");
    WAIT_FOR(p->a.needed >= 2);
    dmt_replica_order_resync(p->a.r);
    write_text(&p->a, "x", "x");
    unsigned events = p->b.resyncs;
    node_begin(&p->a, EPOCH(5, 0),
               true); /* alone again: READY verifies, and the stream goes on without a resync */
    WAIT_FOR(p->b.follows == 3);
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_int_equal(p->b.resyncs, events);
}

static void writes_during_the_resync_arrive(void **state)
{
    struct pair *p = *state;
    atomic_store(&p->relay.rate, 4l << 20);
    connect_with_empty_b(p, true);
    for (int i = 0; p->b.follows == 0 && i < 20000; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "during-%d", i);
        write_text(&p->a, name, name);
        usleep(1000);
    }
    atomic_store(&p->relay.rate, 0);
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
    assert_int_equal(p->b.imports, 1);
}

/* a loses its connection, writes on alone without telling anybody, is taken for dead; b is
 * promoted; a comes back: its tail becomes a branch, and it follows b. */
static void a_divergent_tail_is_cut_and_kept(void **state)
{
    struct pair *p = *state;
    pair_connect(p, true);
    atomic_store(&p->a.stable, 0); /* checkpoints of a stay behind what could be cut */
    write_text(&p->a, "both", "on both machines");
    WAIT_FOR(same_place(&p->a, &p->b));
    uint64_t common = tail_of(&p->a);
    atomic_store(&p->a.stable, common);
    atomic_store(&p->relay.refuse, true);
    atomic_store(&p->relay.cut_after, 1);
    WAIT_FOR(!p->a.up && !p->b.up);
    write_text(&p->a, "lost", "never shipped");
    /* Promotion of b. */
    struct dmt_err err = {0};
    check(dmt_ws_promote(p->b.ws, &err), &err);
    node_begin(&p->b, EPOCH(2, 0), true);
    write_text(&p->b, "won", "by the new holder");
    /* a comes back, first in the belief that it holds. */
    atomic_store(&p->relay.refuse, false);
    WAIT_FOR(p->a.higher == EPOCH(2, 0));
    assert_int_equal(p->b.cuts, 0);
    dmt_ws_demote(p->a.ws);
    node_receive(&p->a, EPOCH(1, 0));
    WAIT_FOR(p->a.cuts == 1);
    assert_int_equal(p->a.cut_seq, common);
    WAIT_FOR(p->a.follows == 1);
    write_text(&p->b, "more", "more");
    WAIT_FOR(same_place(&p->b, &p->a));
    assert_equal_trees(&p->b, &p->a);
    assert_int_equal(p->a.following_epoch, EPOCH(2, 0));
    assert_int_equal(p->b.needed, 0);
}

/* The same, but a has checkpointed what it wrote alone: it cannot be cut off. The branch is kept,
 * and the rest is made equal by what differs. */
static void a_divergent_checkpoint_is_resynchronised(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    pair_connect(p, true);
    write_bulk(&p->a, make_file(&p->a, "bulk"), 0, 6u << 20, 3);
    uint64_t changed = make_file(&p->a, "changed");
    write_bulk(&p->a, changed, 0, 1u << 20, 4);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, 0), 0);
    WAIT_FOR(same_place(&p->a, &p->b));
    WAIT_FOR(dmt_replica_have(p->a.r, 0, tail_of(&p->a)));
    atomic_store(&p->relay.refuse, true);
    atomic_store(&p->relay.cut_after, 1);
    WAIT_FOR(!p->a.up && !p->b.up);
    write_text(&p->a, "lost", "never shipped");
    write_bulk(&p->a, changed, 0, 256u << 10, 5);
    atomic_store(&p->a.stable, UINT64_MAX);
    check(dmt_ws_checkpoint(p->a.ws, &err), &err);
    check(dmt_ws_promote(p->b.ws, &err), &err);
    node_begin(&p->b, EPOCH(2, 0), true);
    write_text(&p->b, "won", "by the new holder");
    atomic_store(&p->relay.refuse, false);
    WAIT_FOR(p->a.higher == EPOCH(2, 0));
    dmt_ws_demote(p->a.ws);
    node_receive(&p->a, EPOCH(1, 0));
    for (unsigned i = 0; i < 3; i++) {
        atomic_store(&p->relay.cut_after, 150000l * (i + 1));
        WAIT_FOR(atomic_load(&p->relay.cuts) > i + 1 || p->a.follows > 0);
    }
    WAIT_FOR(p->a.imports == 1 && p->a.follows >= 1);
    write_text(&p->b, "more", "more");
    WAIT_FOR(same_place(&p->b, &p->a));
    assert_equal_trees(&p->b, &p->a);
    shell("test -d %s/branches/epoch-1.0-gpu", p->a.store);
    struct dmt_replica_status s;
    dmt_replica_status(p->b.r, &s);
    assert_true(s.state_bytes < 6u << 20); /* all attempts together: not the other file */
}

/* Handover and back, on the same two processes. */
static void roles_swap_and_swap_again(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    pair_connect(p, false);
    struct node *holder = &p->a, *standby = &p->b;
    for (uint32_t i = 0; i < 4; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "turn-%u", i);
        write_text(holder, name, name);
        write_bulk(holder,
                   make_file(holder, i % 2 ? "bulk-odd"
                                     : i   ? "bulk-even"
                                           : "bulk"),
                   0, 3u << 20, i);
        WAIT_FOR(same_place(holder, standby));
        unsigned follows = holder->follows;
        dmt_ws_demote(holder->ws);
        node_receive(holder, EPOCH(1 + i, 0));
        check(dmt_ws_promote(standby->ws, &err), &err);
        node_begin(standby, EPOCH(2 + i, 0), false);
        struct node *was = holder;
        holder = standby;
        standby = was;
        WAIT_FOR(standby->follows > follows);
        if (i == 1) {
            struct dmt_op op = {.umask = 022};
            assert_int_equal(dmt_ws_unlink(holder->ws, &op, DMT_ROOT, "bulk-odd", false), 0);
        }
        if (i == 2) {
            struct dmt_op op = {.umask = 022};
            assert_int_equal(dmt_ws_unlink(holder->ws, &op, DMT_ROOT, "bulk-even", false), 0);
        }
    }
    write_text(holder, "end", "end");
    WAIT_FOR(same_place(holder, standby));
    assert_equal_trees(holder, standby);
    assert_int_equal(p->a.cuts + p->b.cuts, 0);
}

/* Rule 6: a restarted with less than b: the records that b has more are fetched before the new
 * minor epoch is opened. */
static void a_standby_ahead_is_fetched_from(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    pair_connect(p, false);
    write_text(&p->a, "both", "on both machines");
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, 0), 0);
    /* The store of a as a power cut leaves it: nothing after this line is durable there. */
    shell("cp -a %s %s.cut", p->a.store, p->a.store);
    for (int i = 0; i < 50; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "late-%d", i);
        write_text(&p->a, name, name);
    }
    WAIT_FOR(dmt_replica_peer_durable(p->a.r, p->b.ident.store_id) == tail_of(&p->a));
    uint64_t tail = tail_of(&p->a);
    node_hang_up(&p->a);
    node_close(&p->a);
    node_hang_up(&p->b);
    shell("rm -rf %s && mv %s.cut %s", p->a.store, p->a.store, p->a.store);
    node_open(&p->a, false);
    assert_true(tail_of(&p->a) < tail);
    node_listen(&p->a);
    dmt_replica_set_role(p->a.r, DMT_REPLICA_START, 0, false, EPOCH(1, 0));
    node_dial(&p->b, dmt_replica_port(p->a.r));
    node_receive(&p->b, EPOCH(1, 0));
    unsigned ups = p->a.ups;
    WAIT_FOR(p->a.ups > ups - (ups > 0) && p->a.up);
    WAIT_FOR(p->a.ahead);
    dmt_replica_fetch(p->a.r);
    WAIT_FOR(p->a.fetch_ended);
    assert_int_equal(p->a.fetch_err, 0);
    assert_int_equal(tail_of(&p->a), tail);
    assert_int_equal(dmt_journal_durable(dmt_ws_journal(p->a.ws)), tail);
    check(dmt_ws_promote(p->a.ws, &err), &err);
    node_begin(&p->a, EPOCH(1, 1), false);
    write_text(&p->a, "after", "after");
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
    assert_int_equal(p->b.cuts, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)
    const struct CMUnitTest tests[] = {
        T(an_empty_standby_is_made_equal),
        T(the_audit_finds_what_differs),
        T(a_resync_survives_cuts),
        T(a_divergent_checkpoint_is_resynchronised),
        T(a_holder_that_is_not_alone_orders_no_resync),
        T(writes_during_the_resync_arrive),
        T(a_divergent_tail_is_cut_and_kept),
        T(roles_swap_and_swap_again),
        T(a_standby_ahead_is_fetched_from),
    };
    cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
