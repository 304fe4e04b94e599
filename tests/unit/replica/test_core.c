/* test_core.c: the decisions of one connection and of its bulk lane, event by event, without a
 * network. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "fs/replica/core.h"
#include "fs/replica/lane.h"

#define EPOCH(major, minor) ((uint64_t)(major) << 32 | (minor))
#define E1                  EPOCH(1, 0)
#define E2                  EPOCH(2, 0)
#define E3                  EPOCH(3, 1)
#define STEP(c, ...)        step(c, &(struct replica_event){__VA_ARGS__})

static struct replica_actions as;

static void step(struct replica_core *c, const struct replica_event *ev)
{
    struct replica_event e = *ev;
    e.type = ev->type;
    replica_step(c, &e, &as);
}

static const struct replica_action *find(enum replica_action_type t)
{
    for (int i = 0; i < as.n; i++)
        if (as.v[i].type == t)
            return &as.v[i];
    return NULL;
}

#define ASSERT_ACT(t)      assert_non_null(find(REPLICA_AC_##t))
#define ASSERT_NONE(t)     assert_null(find(REPLICA_AC_##t))
#define ASSERT_PHASE(c, p) assert_int_equal(replica_core_phase(c), REPLICA_##p)

static struct dmt_replica_peer peer_of(enum dmt_replica_role role, uint64_t epoch, uint64_t seen,
                                       uint64_t tail)
{
    struct dmt_replica_peer p = {
        .role = role, .epoch = epoch, .seen = seen, .tail = {seen, tail, tail * 7}};
    memcpy(p.node, "peer", 5);
    memset(p.store_id, 0xbb, 16);
    return p;
}

static struct dmt_pos at(uint64_t epoch, uint64_t seq)
{
    return (struct dmt_pos){epoch, seq, seq * 7};
}

/* Hello and verdict exchanged. */
static void greet(struct replica_core *c, uint64_t our_tail, bool empty,
                  const struct dmt_replica_peer *p, enum replica_relation about_peer,
                  enum replica_relation about_us, uint64_t fork)
{
    STEP(c, .type = REPLICA_EV_OPEN, .pos = at(E1, our_tail), .flag = empty);
    ASSERT_PHASE(c, GREETING);
    STEP(c, .type = REPLICA_EV_GOT_HELLO, .peer = p, .relation = about_peer, .fork = fork);
    ASSERT_ACT(VERDICT);
    ASSERT_NONE(UP);
    STEP(c, .type = REPLICA_EV_GOT_VERDICT, .relation = about_us);
    ASSERT_ACT(UP);
}

static void role(struct replica_core *c, enum dmt_replica_role r, uint64_t epoch, bool alone)
{
    STEP(c, .type = REPLICA_EV_ROLE, .role = r, .epoch = epoch, .flag = alone, .seen = epoch);
}

static void streaming_sender(struct replica_core *c, uint64_t tail)
{
    replica_core_init(c);
    role(c, DMT_REPLICA_SENDER, E2, true);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_RECEIVER, 0, E1, 10);
    greet(c, tail, false, &p, REPLICA_ON, REPLICA_BEYOND, REPLICA_NO_FORK);
    ASSERT_PHASE(c, AWAIT_READY);
    STEP(c, .type = REPLICA_EV_GOT_READY, .epoch = E2, .pos = at(E1, 10), .relation = REPLICA_ON,
         .tail = at(E2, tail));
    ASSERT_PHASE(c, STREAMING);
    ASSERT_ACT(START_STREAM);
}

static void receiving(struct replica_core *c)
{
    replica_core_init(c);
    role(c, DMT_REPLICA_RECEIVER, 0, false);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_SENDER, E2, E2, 30);
    greet(c, 10, false, &p, REPLICA_BEYOND, REPLICA_ON, 20);
    ASSERT_PHASE(c, AWAIT_FOLLOW);
    STEP(c, .type = REPLICA_EV_FOLLOW, .epoch = E2, .tail = at(E1, 10));
    ASSERT_PHASE(c, AWAIT_STREAM);
    STEP(c, .type = REPLICA_EV_GOT_STREAM, .epoch = E2, .pos = at(E1, 10), .tail = at(E1, 10));
    ASSERT_PHASE(c, RECEIVING);
    ASSERT_ACT(RECEIVE);
}

/* --- sender ----------------------------------------------------------------------------------- */

static void nothing_counts_before_ready(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    role(&c, DMT_REPLICA_SENDER, E2, true);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_RECEIVER, E1, E1, 10);
    greet(&c, 10, false, &p, REPLICA_ON, REPLICA_ON, REPLICA_NO_FORK);
    /* The hello already says that the peer is equal: that is not an acknowledgement (rule 9). */
    ASSERT_NONE(ACKED);
    ASSERT_NONE(PAIR_READY);
    STEP(&c, .type = REPLICA_EV_GOT_ACK, .epoch = E2, .seq = 10, .sent = 10, .chain_ok = true,
         .pos = at(E2, 10), .tail = at(E2, 10));
    assert_int_equal(as.n, 0);
    STEP(&c, .type = REPLICA_EV_GOT_READY, .epoch = E2, .pos = at(E1, 10), .relation = REPLICA_ON,
         .tail = at(E1, 10));
    ASSERT_ACT(START_STREAM);
    assert_int_equal(find(REPLICA_AC_ACKED)->seq, 10);
    assert_int_equal(find(REPLICA_AC_ACKED)->epoch, E2);
    ASSERT_ACT(PAIR_READY);
}

static void ready_off_our_chain_never_streams(void **state)
{
    (void)state;
    for (enum replica_relation rel = REPLICA_BEYOND; rel < REPLICA_RELATIONS; rel++) {
        struct replica_core c;
        replica_core_init(&c);
        role(&c, DMT_REPLICA_SENDER, E2, true);
        struct dmt_replica_peer p = peer_of(DMT_REPLICA_RECEIVER, E1, E1, 10);
        greet(&c, 30, false, &p, rel, REPLICA_OFF, 5);
        STEP(&c, .type = REPLICA_EV_GOT_READY, .epoch = E2, .pos = at(E1, 10), .relation = rel,
             .tail = at(E2, 30));
        ASSERT_PHASE(&c, DIVERGED);
        ASSERT_ACT(RESYNC_NEEDED);
        ASSERT_NONE(START_STREAM);
        ASSERT_NONE(ACKED);
    }
}

static void acks_of_another_epoch_do_not_count(void **state)
{
    (void)state;
    struct replica_core c;
    streaming_sender(&c, 30);
    STEP(&c, .type = REPLICA_EV_GOT_ACK, .epoch = E1, .seq = 20, .sent = 30, .chain_ok = true,
         .pos = at(E2, 20), .tail = at(E2, 30));
    assert_int_equal(as.n, 0);
    assert_int_equal(c.acked, 10);
    /* A new epoch on the same connection: the acks of the old one are over until READY. */
    role(&c, DMT_REPLICA_SENDER, E3, false);
    ASSERT_ACT(STOP_STREAM);
    assert_int_equal(find(REPLICA_AC_SEND_EPOCH)->epoch, E3);
    ASSERT_PHASE(&c, AWAIT_READY);
    STEP(&c, .type = REPLICA_EV_GOT_ACK, .epoch = E2, .seq = 30, .sent = 30, .chain_ok = true,
         .pos = at(E2, 30), .tail = at(E3, 31));
    assert_int_equal(as.n, 0);
    STEP(&c, .type = REPLICA_EV_GOT_READY, .epoch = E2, .pos = at(E2, 30), .relation = REPLICA_ON,
         .tail = at(E3, 31));
    assert_int_equal(as.n, 0);
    STEP(&c, .type = REPLICA_EV_GOT_READY, .epoch = E3, .pos = at(E2, 30), .relation = REPLICA_ON,
         .tail = at(E3, 31));
    ASSERT_PHASE(&c, STREAMING);
    ASSERT_NONE(PAIR_READY);
    STEP(&c, .type = REPLICA_EV_GOT_ACK, .epoch = E3, .seq = 31, .sent = 31, .chain_ok = true,
         .pos = at(E3, 31), .tail = at(E3, 31));
    assert_int_equal(find(REPLICA_AC_PAIR_READY)->seq, 31);
    /* Once an epoch. */
    STEP(&c, .type = REPLICA_EV_GOT_ACK, .epoch = E3, .seq = 32, .sent = 32, .chain_ok = true,
         .pos = at(E3, 32), .tail = at(E3, 32));
    ASSERT_ACT(ACKED);
    ASSERT_NONE(PAIR_READY);
}

static void pair_needs_the_chain(void **state)
{
    (void)state;
    struct replica_core c;
    streaming_sender(&c, 30);
    STEP(&c, .type = REPLICA_EV_GOT_ACK, .epoch = E2, .seq = 30, .sent = 30, .chain_ok = true,
         .pos = at(E2, 20), .tail = at(E2, 30));
    ASSERT_ACT(ACKED);
    ASSERT_NONE(PAIR_READY);
    STEP(&c, .type = REPLICA_EV_GOT_ACK, .epoch = E2, .seq = 30, .sent = 30, .chain_ok = false,
         .pos = at(E2, 30), .tail = at(E2, 30));
    assert_int_equal(find(REPLICA_AC_CLOSE)->err, DMT_E_HISTORY);
}

static void impossible_acks_end_the_connection(void **state)
{
    (void)state;
    struct replica_core c;
    streaming_sender(&c, 30);
    STEP(&c, .type = REPLICA_EV_GOT_ACK, .epoch = E2, .seq = 31, .sent = 30, .chain_ok = true,
         .tail = at(E2, 31));
    ASSERT_ACT(CLOSE);
    ASSERT_NONE(ACKED);
    streaming_sender(&c, 30);
    STEP(&c, .type = REPLICA_EV_GOT_ACK, .epoch = E2, .seq = 9, .sent = 30, .chain_ok = true,
         .tail = at(E2, 31));
    ASSERT_ACT(CLOSE);
}

static void a_higher_epoch_is_told_and_ends_the_stream(void **state)
{
    (void)state;
    struct replica_core c;
    streaming_sender(&c, 30);
    STEP(&c, .type = REPLICA_EV_GOT_ACK, .epoch = E3, .seq = 20, .sent = 30, .chain_ok = true);
    assert_int_equal(find(REPLICA_AC_HIGHER)->epoch, E3);
    ASSERT_ACT(CLOSE);
    ASSERT_NONE(ACKED);
    /* A holder whose peer has seen more does not even begin. */
    replica_core_init(&c);
    role(&c, DMT_REPLICA_SENDER, E2, false);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_RECEIVER, E3, E3, 10);
    greet(&c, 30, false, &p, REPLICA_ON, REPLICA_BEYOND, REPLICA_NO_FORK);
    assert_int_equal(find(REPLICA_AC_HIGHER)->epoch, E3);
    ASSERT_PHASE(&c, IDLE);
}

static void two_holders(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    role(&c, DMT_REPLICA_SENDER, E2, false);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_SENDER, E3, E3, 10);
    greet(&c, 30, false, &p, REPLICA_OFF, REPLICA_OFF, 5);
    assert_int_equal(find(REPLICA_AC_HIGHER)->epoch, E3);
    ASSERT_PHASE(&c, IDLE);
    replica_core_init(&c);
    role(&c, DMT_REPLICA_SENDER, E3, false);
    greet(&c, 30, false, &p, REPLICA_OFF, REPLICA_OFF, 5);
    assert_int_equal(find(REPLICA_AC_CLOSE)->err, DMT_E_CONFLICT);
}

static void a_late_role_is_announced(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    role(&c, DMT_REPLICA_START, E1, false);
    STEP(&c, .type = REPLICA_EV_OPEN, .pos = at(E1, 30));
    role(&c, DMT_REPLICA_SENDER, E2, false);
    assert_int_equal(as.n, 0);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_RECEIVER, E1, E1, 30);
    STEP(&c, .type = REPLICA_EV_GOT_HELLO, .peer = &p, .relation = REPLICA_ON,
         .fork = REPLICA_NO_FORK);
    STEP(&c, .type = REPLICA_EV_GOT_VERDICT, .relation = REPLICA_ON);
    assert_int_equal(find(REPLICA_AC_SEND_EPOCH)->epoch, E2);
    ASSERT_PHASE(&c, AWAIT_READY);
}

/* --- receiver --------------------------------------------------------------------------------- */

static void lower_epochs_are_refused_for_ever(void **state)
{
    (void)state;
    struct replica_core c;
    receiving(&c);
    static const uint8_t frames[] = {REPLICA_RECORDS, REPLICA_COMMIT, REPLICA_WANT, REPLICA_BULK,
                                     REPLICA_GONE};
    for (size_t i = 0; i < sizeof(frames); i++) {
        assert_int_equal(replica_core_takes(&c, frames[i], E2), 0);
        assert_int_equal(replica_core_takes(&c, frames[i], E1), DMT_E_STALE);
        assert_int_equal(replica_core_takes(&c, frames[i], E3), -EPROTO);
    }
    /* Also after the connection is gone, and from a new one. */
    STEP(&c, .type = REPLICA_EV_CLOSED, .text = "cut");
    ASSERT_ACT(STOP_RECEIVING);
    ASSERT_ACT(PEER_GONE);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_SENDER, E1, E1, 30);
    greet(&c, 10, false, &p, REPLICA_BEYOND, REPLICA_ON, REPLICA_NO_FORK);
    assert_int_equal(find(REPLICA_AC_CLOSE)->err, DMT_E_STALE);
    ASSERT_NONE(PEER_EPOCH);
    assert_int_equal(replica_core_takes(&c, REPLICA_RECORDS, E1), DMT_E_STALE);
}

/* Of branches: in a stream, by both sides; outside of one late, and never wrong. */
static void branches_go_both_ways(void **state)
{
    (void)state;
    struct replica_core c;
    static const uint8_t frames[] = {REPLICA_BRANCH, REPLICA_BRANCH_GET, REPLICA_BRANCH_DATA,
                                     REPLICA_BRANCH_END};
    for (size_t i = 0; i < sizeof(frames); i++) {
        receiving(&c);
        assert_int_equal(replica_core_takes(&c, frames[i], E2), 0);
        assert_int_equal(replica_core_takes(&c, frames[i], E1), DMT_E_STALE);
        assert_int_equal(replica_core_takes(&c, frames[i], E3), 1);
        STEP(&c, .type = REPLICA_EV_CANNOT, .text = "no", .tail = at(E2, 40));
        assert_int_equal(replica_core_takes(&c, frames[i], E2), 1);
        streaming_sender(&c, 30);
        assert_int_equal(replica_core_takes(&c, frames[i], c.epoch), 0);
        assert_int_equal(replica_core_takes(&c, frames[i], c.epoch - 1), 1);
        assert_int_equal(replica_core_takes(&c, frames[i], c.epoch + 1), 1);
    }
}

static void nothing_is_taken_before_follow_and_stream(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    role(&c, DMT_REPLICA_RECEIVER, 0, false);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_SENDER, E2, E2, 30);
    greet(&c, 10, false, &p, REPLICA_BEYOND, REPLICA_ON, 20);
    assert_int_equal(find(REPLICA_AC_PEER_EPOCH)->epoch, E2);
    assert_int_equal(find(REPLICA_AC_PEER_EPOCH)->seq,
                     10); /* our tail is on its chain: nothing to cut */
    ASSERT_NONE(SEND_READY);
    assert_int_equal(replica_core_takes(&c, REPLICA_RECORDS, E2), -EPROTO);
    STEP(&c, .type = REPLICA_EV_GOT_STREAM, .epoch = E2, .pos = at(E1, 10), .tail = at(E1, 10));
    ASSERT_ACT(CLOSE);
    receiving(&c);
    /* Another epoch than the one that was asked about is not followed on this connection. */
    replica_core_init(&c);
    role(&c, DMT_REPLICA_RECEIVER, 0, false);
    greet(&c, 10, false, &p, REPLICA_BEYOND, REPLICA_ON, 20);
    STEP(&c, .type = REPLICA_EV_FOLLOW, .epoch = E3, .tail = at(E1, 10));
    ASSERT_NONE(SEND_READY);
    ASSERT_PHASE(&c, AWAIT_FOLLOW);
    assert_int_equal(replica_core_takes(&c, REPLICA_RECORDS, E2), DMT_E_STALE);
}

static void a_divergent_tail_is_cut_where_histories_part(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    role(&c, DMT_REPLICA_RECEIVER, 0, false);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_SENDER, E2, E2, 50);
    greet(&c, 30, false, &p, REPLICA_BEYOND, REPLICA_OFF, 20);
    assert_int_equal(find(REPLICA_AC_PEER_EPOCH)->seq, 20);
    STEP(&c, .type = REPLICA_EV_FOLLOW, .epoch = E2, .tail = at(E1, 20));
    assert_int_equal(find(REPLICA_AC_SEND_READY)->pos.seq, 20);
    /* The same epoch again, on a new connection: followed already, so it never cuts (rule 5) and
     * nobody has to be asked. */
    STEP(&c, .type = REPLICA_EV_CLOSED, .text = "cut");
    greet(&c, 20, false, &p, REPLICA_BEYOND, REPLICA_OFF, 10);
    assert_int_equal(find(REPLICA_AC_PEER_EPOCH)->seq, 20);
    assert_int_equal(find(REPLICA_AC_SEND_READY)->pos.seq, 20);
}

static void a_new_epoch_on_the_same_connection(void **state)
{
    (void)state;
    struct replica_core c;
    receiving(&c);
    STEP(&c, .type = REPLICA_EV_GOT_EPOCH, .epoch = E3, .flag = true, .fork = 40,
         .tail = at(E2, 40));
    ASSERT_ACT(STOP_RECEIVING);
    assert_int_equal(find(REPLICA_AC_PEER_EPOCH)->epoch, E3);
    assert_int_equal(find(REPLICA_AC_PEER_EPOCH)->seq, 40);
    assert_true(find(REPLICA_AC_PEER_EPOCH)->flag);
    assert_int_equal(replica_core_takes(&c, REPLICA_RECORDS, E2), -EPROTO);
    STEP(&c, .type = REPLICA_EV_FOLLOW, .epoch = E3, .tail = at(E2, 40));
    assert_int_equal(find(REPLICA_AC_SEND_READY)->epoch, E3);
    STEP(&c, .type = REPLICA_EV_GOT_STREAM, .epoch = E3, .pos = at(E2, 40), .tail = at(E2, 40));
    assert_int_equal(replica_core_takes(&c, REPLICA_RECORDS, E3), 0);
    assert_int_equal(replica_core_takes(&c, REPLICA_RECORDS, E2), DMT_E_STALE);
    /* An epoch that does not rise is no epoch. */
    STEP(&c, .type = REPLICA_EV_GOT_EPOCH, .epoch = E3, .fork = 40, .tail = at(E3, 41));
    ASSERT_ACT(CLOSE);
    STEP(&c, .type = REPLICA_EV_GOT_EPOCH, .epoch = E1, .fork = 40, .tail = at(E3, 41));
    assert_int_equal(find(REPLICA_AC_CLOSE)->err, DMT_E_STALE);
}

/* The holder opened an epoch between its hello and now that we got as a record only: its list of
 * epochs, as we know it, lacks that one, and so seems to part from ours before our tail. */
static void an_epoch_that_was_never_announced_cuts_nothing(void **state)
{
    (void)state;
    struct replica_core c;
    receiving(&c);
    STEP(&c, .type = REPLICA_EV_GOT_EPOCH, .epoch = E3, .flag = true, .fork = 20,
         .tail = at(E2, 40));
    assert_int_equal(find(REPLICA_AC_PEER_EPOCH)->seq, 40);
}

/* --- resync ----------------------------------------------------------------------------------- */

static void only_a_holder_that_is_alone_orders(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    role(&c, DMT_REPLICA_SENDER, E2, false);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_RECEIVER, 0, 0, 0);
    p.empty = true;
    greet(&c, 30, false, &p, REPLICA_EMPTY, REPLICA_EMPTY, 0);
    STEP(&c, .type = REPLICA_EV_GOT_READY, .epoch = E2, .flag = true, .relation = REPLICA_EMPTY,
         .text = "no store yet");
    ASSERT_ACT(RESYNC_NEEDED);
    STEP(&c, .type = REPLICA_EV_DO_ORDER);
    ASSERT_NONE(SEND_ORDER); /* rule 11 */
    role(&c, DMT_REPLICA_SENDER, E3, true);
    ASSERT_ACT(SEND_EPOCH);
    STEP(&c, .type = REPLICA_EV_GOT_READY, .epoch = E3, .flag = true, .relation = REPLICA_EMPTY,
         .text = "no store yet");
    STEP(&c, .type = REPLICA_EV_DO_ORDER);
    ASSERT_ACT(SEND_ORDER);
    STEP(&c, .type = REPLICA_EV_GOT_GO, .epoch = E3);
    ASSERT_ACT(EXPORT);
    ASSERT_PHASE(&c, EXPORTING);
    /* The same store comes back before it is done: the order stands. */
    STEP(&c, .type = REPLICA_EV_CLOSED, .text = "cut");
    p.seen = E3;
    greet(&c, 30, false, &p, REPLICA_EMPTY, REPLICA_EMPTY, 0);
    STEP(&c, .type = REPLICA_EV_GOT_READY, .epoch = E3, .flag = true, .relation = REPLICA_EMPTY,
         .text = "no store yet");
    ASSERT_ACT(SEND_ORDER);
    ASSERT_NONE(RESYNC_NEEDED);
    /* Another store is another matter. */
    STEP(&c, .type = REPLICA_EV_CLOSED, .text = "cut");
    memset(p.store_id, 0xcc, 16);
    greet(&c, 30, false, &p, REPLICA_EMPTY, REPLICA_EMPTY, 0);
    STEP(&c, .type = REPLICA_EV_GOT_READY, .epoch = E3, .flag = true, .relation = REPLICA_EMPTY,
         .text = "no store yet");
    ASSERT_ACT(RESYNC_NEEDED);
    ASSERT_NONE(SEND_ORDER);
}

static void a_resync_is_taken_only_when_ordered_and_allowed(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    role(&c, DMT_REPLICA_RECEIVER, 0, false);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_SENDER, E2, E2, 30);
    greet(&c, 0, true, &p, REPLICA_EMPTY, REPLICA_EMPTY, 0);
    STEP(&c, .type = REPLICA_EV_FOLLOW, .epoch = E2);
    assert_true(find(REPLICA_AC_SEND_READY)->flag);
    ASSERT_PHASE(&c, AWAIT_ORDER);
    assert_int_equal(replica_core_takes(&c, REPLICA_STATE, E2), -EPROTO);
    STEP(&c, .type = REPLICA_EV_GOT_ORDER, .epoch = E2, .flag = false);
    ASSERT_ACT(CLOSE);
    ASSERT_NONE(RESYNC_ORDERED);
    STEP(&c, .type = REPLICA_EV_GOT_ORDER, .epoch = E2, .flag = true);
    ASSERT_ACT(RESYNC_ORDERED);
    ASSERT_NONE(IMPORT);
    assert_int_equal(replica_core_takes(&c, REPLICA_STATE, E2), -EPROTO);
    STEP(&c, .type = REPLICA_EV_RESYNC_READY);
    ASSERT_ACT(IMPORT);
    assert_int_equal(replica_core_takes(&c, REPLICA_STATE, E2), 0);
    assert_int_equal(replica_core_takes(&c, REPLICA_STATE, E1), DMT_E_STALE);
    STEP(&c, .type = REPLICA_EV_IMPORTED);
    assert_int_equal(replica_core_takes(&c, REPLICA_STATE, E2), -EPROTO);
    /* With the store there, on the next connection, nobody needs to be asked again: this epoch is
     * followed. */
    STEP(&c, .type = REPLICA_EV_CLOSED, .text = "reopened");
    greet(&c, 30, false, &p, REPLICA_ON, REPLICA_ON, REPLICA_NO_FORK);
    assert_int_equal(find(REPLICA_AC_SEND_READY)->pos.seq, 30);
    assert_false(find(REPLICA_AC_SEND_READY)->flag);
}

/* The order closes the workspace, which ends the connection; the next hello has no store, and until
 * everything is closed a second order can come. It must not make all that is here useless. */
static void an_order_without_a_store_keeps_what_was_known_to_be_common(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    role(&c, DMT_REPLICA_RECEIVER, 0, false);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_SENDER, E2, E2, 30);
    greet(&c, 20, false, &p, REPLICA_BEYOND, REPLICA_OLD, 10);
    STEP(&c, .type = REPLICA_EV_FOLLOW, .epoch = E2, .tail = at(E1, 10));
    STEP(&c, .type = REPLICA_EV_GOT_ORDER, .epoch = E2, .flag = true);
    assert_int_equal(find(REPLICA_AC_RESYNC_ORDERED)->seq, 10);
    STEP(&c, .type = REPLICA_EV_CLOSED, .text = "the workspace is being closed");
    greet(&c, 0, true, &p, REPLICA_EMPTY, REPLICA_EMPTY, 0);
    STEP(&c, .type = REPLICA_EV_FOLLOW, .epoch = E2);
    STEP(&c, .type = REPLICA_EV_GOT_ORDER, .epoch = E2, .flag = true);
    assert_int_equal(find(REPLICA_AC_RESYNC_ORDERED)->seq, 10);
    STEP(&c, .type = REPLICA_EV_RESYNC_READY);
    ASSERT_ACT(IMPORT);
    assert_int_equal(c.common, 10);
}

static void a_receiver_gives_up_in_the_midst_of_the_stream(void **state)
{
    (void)state;
    struct replica_core c;
    receiving(&c);
    STEP(&c, .type = REPLICA_EV_CANNOT, .text = "the checkpoint is beyond the switch point");
    ASSERT_ACT(STOP_RECEIVING);
    assert_true(find(REPLICA_AC_SEND_READY)->flag);
    streaming_sender(&c, 30);
    STEP(&c, .type = REPLICA_EV_GOT_READY, .epoch = E2, .flag = true, .relation = REPLICA_EMPTY,
         .text = "cannot");
    ASSERT_ACT(STOP_STREAM);
    ASSERT_ACT(RESYNC_NEEDED);
    assert_int_equal(replica_core_takes(&c, REPLICA_PULL, E2), -EPROTO);
}

/* --- fetch ------------------------------------------------------------------------------------ */

static void a_restarted_holder_fetches_what_the_standby_has_more(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    STEP(&c, .type = REPLICA_EV_ROLE, .role = DMT_REPLICA_START, .epoch = 0, .seen = E2);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_RECEIVER, E2, E2, 40);
    greet(&c, 30, false, &p, REPLICA_BEYOND, REPLICA_ON, REPLICA_NO_FORK);
    assert_true(c.peer.ahead);
    STEP(&c, .type = REPLICA_EV_DO_FETCH);
    assert_int_equal(find(REPLICA_AC_SEND_FETCH)->epoch, E2);
    assert_int_equal(replica_core_takes(&c, REPLICA_RECORDS, E2), 0);
    assert_int_equal(replica_core_takes(&c, REPLICA_RECORDS, E1), DMT_E_STALE);
    STEP(&c, .type = REPLICA_EV_GOT_FETCHED, .epoch = E2, .pos = at(E2, 40));
    ASSERT_ACT(STORE);
    STEP(&c, .type = REPLICA_EV_STORED);
    assert_int_equal(find(REPLICA_AC_FETCH_ENDED)->err, 0);
    role(&c, DMT_REPLICA_SENDER, E3, false);
    assert_int_equal(find(REPLICA_AC_SEND_EPOCH)->epoch, E3);
}

static void a_tail_of_another_history_is_not_ahead(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    STEP(&c, .type = REPLICA_EV_ROLE, .role = DMT_REPLICA_START, .epoch = E2, .seen = E2);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_RECEIVER, E2, E2, 40);
    greet(&c, 30, false, &p, REPLICA_BEYOND, REPLICA_OFF, 10);
    assert_false(c.peer.ahead);
    STEP(&c, .type = REPLICA_EV_DO_FETCH);
    ASSERT_NONE(SEND_FETCH);
    assert_int_equal(find(REPLICA_AC_FETCH_ENDED)->err, 0);
}

static void a_fetch_that_is_cut_ends(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    STEP(&c, .type = REPLICA_EV_ROLE, .role = DMT_REPLICA_START, .epoch = E2, .seen = E2);
    STEP(&c, .type = REPLICA_EV_DO_FETCH);
    assert_int_equal(find(REPLICA_AC_FETCH_ENDED)->err, DMT_E_CLOSED);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_RECEIVER, E2, E2, 40);
    greet(&c, 30, false, &p, REPLICA_BEYOND, REPLICA_ON, REPLICA_NO_FORK);
    STEP(&c, .type = REPLICA_EV_DO_FETCH);
    STEP(&c, .type = REPLICA_EV_CLOSED, .text = "cut");
    assert_int_equal(find(REPLICA_AC_FETCH_ENDED)->err, DMT_E_CLOSED);
}

static void a_standby_serves_a_fetch(void **state)
{
    (void)state;
    struct replica_core c;
    replica_core_init(&c);
    STEP(&c, .type = REPLICA_EV_ROLE, .role = DMT_REPLICA_RECEIVER, .seen = E2);
    struct dmt_replica_peer p = peer_of(DMT_REPLICA_START, E2, E2, 30);
    greet(&c, 40, false, &p, REPLICA_ON, REPLICA_BEYOND, REPLICA_NO_FORK);
    ASSERT_PHASE(&c, IDLE);
    STEP(&c, .type = REPLICA_EV_GOT_FETCH, .epoch = E1, .pos = at(E1, 30), .relation = REPLICA_ON);
    assert_int_equal(find(REPLICA_AC_CLOSE)->err, DMT_E_STALE);
    STEP(&c, .type = REPLICA_EV_GOT_FETCH, .epoch = E2, .pos = at(E1, 30), .relation = REPLICA_OFF);
    ASSERT_ACT(CLOSE);
    STEP(&c, .type = REPLICA_EV_GOT_FETCH, .epoch = E2, .pos = at(E1, 30), .relation = REPLICA_ON);
    assert_int_equal(find(REPLICA_AC_SERVE)->pos.seq, 30);
    STEP(&c, .type = REPLICA_EV_SERVED);
    ASSERT_PHASE(&c, IDLE);
    STEP(&c, .type = REPLICA_EV_GOT_EPOCH, .epoch = E3, .fork = 40, .tail = at(E2, 40));
    assert_int_equal(find(REPLICA_AC_PEER_EPOCH)->epoch, E3);
}

/* --- forks, two connections ------------------------------------------------------------------- */

static void where_histories_part(void **state)
{
    (void)state;
    struct replica_epoch a[] = {{E1, 0, 1}, {E2, 20, 2}, {E3, 40, 3}},
                         b[] = {{E1, 0, 1}, {EPOCH(1, 1), 15, 9}};
    assert_int_equal(replica_fork(a, 3, a, 3), REPLICA_NO_FORK);
    assert_int_equal(replica_fork(a, 3, a, 2), 40);
    assert_int_equal(replica_fork(a, 2, a, 3), 40);
    assert_int_equal(replica_fork(a, 3, b, 2),
                     15); /* the restart of b came before the switch to epoch 2 */
    assert_int_equal(replica_fork(b, 2, a, 3), 15);
    b[1].switch_seq = 25;
    assert_int_equal(replica_fork(a, 3, b, 2), 20);
    b[0].switch_chain = 77; /* nothing common */
    assert_int_equal(replica_fork(a, 3, b, 2), 0);
    assert_int_equal(replica_fork(NULL, 0, NULL, 0), REPLICA_NO_FORK);
    assert_int_equal(replica_fork(a, 3, NULL, 0), 0);
}

static void where_long_histories_part(void **state)
{
    (void)state;
    static struct replica_epoch a[REPLICA_EPOCHS_MAX], b[REPLICA_EPOCHS_MAX];
    for (unsigned i = 0; i < REPLICA_EPOCHS_MAX; i++) {
        a[i] = (struct replica_epoch){i + 100, 10 * i, i};
        b[i] = (struct replica_epoch){i + 150, 10 * (i + 50), i + 50};
    }
    assert_int_equal(replica_fork(a, REPLICA_EPOCHS_MAX, b, REPLICA_EPOCHS_MAX),
                     10 * REPLICA_EPOCHS_MAX);
    b[100].switch_chain = 1;
    assert_int_equal(replica_fork(a, REPLICA_EPOCHS_MAX, b, REPLICA_EPOCHS_MAX), 1500);
    assert_int_equal(replica_fork(b, REPLICA_EPOCHS_MAX, a, REPLICA_EPOCHS_MAX), 1500);
    for (unsigned i = 0; i < REPLICA_EPOCHS_MAX; i++)
        b[i].epoch += 1000;
    assert_int_equal(replica_fork(a, REPLICA_EPOCHS_MAX, b, REPLICA_EPOCHS_MAX), 0);
}

static void both_sides_keep_the_same_connection(void **state)
{
    (void)state;
    uint8_t x[16] = {1}, y[16] = {2};
    /* X dialled P, Y dialled Q. Whatever the order in which they become known, X and Y keep the
     * same one. */
    bool x_keeps_q = replica_prefer_second(x, y, true, false),
         y_keeps_q = replica_prefer_second(y, x, false, true);
    assert_int_equal(x_keeps_q, y_keeps_q);
    bool x_keeps_p = replica_prefer_second(x, y, false, true),
         y_keeps_p = replica_prefer_second(y, x, true, false);
    assert_int_equal(x_keeps_p, y_keeps_p);
    assert_int_not_equal(x_keeps_p, x_keeps_q);
    assert_true(replica_prefer_second(x, y, true, true));
    assert_true(replica_prefer_second(x, y, false, false));
}

/* --- any order of events ---------------------------------------------------------------------- */

/* Whatever comes, in whatever order: no assert fires, no forbidden move, and a frame below `seen`
 * is never taken. */
static void random_events(void **state)
{
    (void)state;
    uint64_t x = 1;
    static const uint64_t epochs[] = {0, E1, E2, E3, EPOCH(3, 2), EPOCH(4, 0)};
    struct replica_core c;
    replica_core_init(&c);
    bool open = false;
    uint64_t most_seen = 0;
    for (unsigned i = 0; i < 400000; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        struct dmt_replica_peer p =
            peer_of((enum dmt_replica_role)(x >> 8 & 3), epochs[(x >> 10) % 6],
                    epochs[(x >> 13) % 6], x >> 16 & 63);
        struct replica_event ev = {.type = (enum replica_event_type)(x % REPLICA_EVENT_COUNT)};
        ev.epoch = epochs[(x >> 20) % 6];
        ev.relation = (enum replica_relation)((x >> 23) % REPLICA_RELATIONS);
        ev.flag = x >> 26 & 1;
        ev.chain_ok = x >> 27 & 1;
        ev.pos = at(E1, x >> 28 & 63);
        ev.tail = x >> 34 & 1 ? ev.pos : at(E1, x >> 35 & 63);
        ev.seq = x >> 41 & 63;
        ev.sent = x >> 47 & 63;
        ev.fork = x >> 50 & 1 ? REPLICA_NO_FORK : x >> 51 & 63;
        ev.role = (enum dmt_replica_role)(x >> 57 & 3);
        ev.peer = &p;
        ev.text = "random";
        /* What the driver never does: open twice, say something on a connection that is not there,
         * take back an epoch. */
        if (ev.type == REPLICA_EV_OPEN ? open : !open && ev.type <= REPLICA_EV_GOT_STALE)
            continue;
        if (ev.type == REPLICA_EV_ROLE && ev.role == DMT_REPLICA_SENDER && ev.epoch < c.seen)
            continue;
        open = ev.type == REPLICA_EV_OPEN || (open && ev.type != REPLICA_EV_CLOSED);
        step(&c, &ev);
        if (find(REPLICA_AC_CLOSE) && open) {
            STEP(&c, .type = REPLICA_EV_CLOSED, .text = "closed");
            open = false;
        }
        assert_true(c.seen >= most_seen);
        most_seen = c.seen;
        for (unsigned e = 0; e < 6; e++)
            if (epochs[e] < c.seen)
                assert_int_not_equal(replica_core_takes(&c, REPLICA_RECORDS, epochs[e]), 0);
        if (most_seen == EPOCH(4, 0) && x >> 60 == 0) {
            replica_core_init(&c);
            open = false;
            most_seen = 0;
        }
    }
}

/* --- the bulk lane: what may be called had ---------------------------------------------------- */

static struct {
    int list; /* what a look at the list says: 0, 1 or an error */
    unsigned haves, syncs;
    uint64_t gen, no;
} lane;

static bool lane_connected(void *ctx)
{
    (void)ctx;
    return true;
}

static int lane_missing(void *ctx, uint64_t ino, uint64_t off, struct dmt_missing *ret)
{
    (void)ctx, (void)off;
    *ret = (struct dmt_missing){.ino = ino ? ino : 5, .len = 10, .seq = 7};
    return lane.list;
}

static void lane_has(void *ctx, uint64_t ino, uint64_t seq)
{
    (void)ctx, (void)ino, (void)seq;
    lane.haves++;
}

static bool lane_covers(void *ctx, uint64_t ino, uint64_t seq)
{
    (void)ctx, (void)ino, (void)seq;
    return true;
}

static void lane_sync(void *ctx, uint64_t gen, uint64_t no)
{
    (void)ctx;
    lane.syncs++;
    lane.gen = gen;
    lane.no = no;
}

/* A disk that fails, or a machine that is being promoted and does not know it here yet. */
static void a_list_that_cannot_be_read_says_nothing_has_come(void **state)
{
    (void)state;
    static const struct pull_ops ops = {.connected = lane_connected,
                                        .missing_next = lane_missing,
                                        .covers = lane_covers,
                                        .have = lane_has,
                                        .sync = lane_sync};
    static const int errors[] = {-EIO, DMT_E_STALE};
    for (size_t i = 0; i < 2; i++) {
        struct replica_pull p = {0};
        memset(&lane, 0, sizeof(lane));
        lane.list = errors[i];
        pull_init(&p, &ops, NULL);
        pull_start(&p, 10, 1);
        assert_int_equal(lane.syncs, 1);
        assert_true(pull_synced(&p, lane.gen, lane.no, 0));
        assert_int_equal(pull_want(&p, 5, 10, 1), 0);
        pull_applied(&p, 11, 2);
        pull_tick(&p, 3);
        assert_int_equal(lane.haves, 0);
        assert_int_equal(p.whole, 0);
        lane.list = 0;
        pull_applied(&p, 12, 4);
        assert_int_equal(lane.haves, 1);
        pull_applied(&p, 12, 5);
        assert_int_equal(p.whole, 12);
        pull_stop(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_counts_before_ready),
        cmocka_unit_test(ready_off_our_chain_never_streams),
        cmocka_unit_test(acks_of_another_epoch_do_not_count),
        cmocka_unit_test(pair_needs_the_chain),
        cmocka_unit_test(impossible_acks_end_the_connection),
        cmocka_unit_test(a_higher_epoch_is_told_and_ends_the_stream),
        cmocka_unit_test(two_holders),
        cmocka_unit_test(a_late_role_is_announced),
        cmocka_unit_test(lower_epochs_are_refused_for_ever),
        cmocka_unit_test(branches_go_both_ways),
        cmocka_unit_test(nothing_is_taken_before_follow_and_stream),
        cmocka_unit_test(a_divergent_tail_is_cut_where_histories_part),
        cmocka_unit_test(a_new_epoch_on_the_same_connection),
        cmocka_unit_test(an_epoch_that_was_never_announced_cuts_nothing),
        cmocka_unit_test(only_a_holder_that_is_alone_orders),
        cmocka_unit_test(a_resync_is_taken_only_when_ordered_and_allowed),
        cmocka_unit_test(an_order_without_a_store_keeps_what_was_known_to_be_common),
        cmocka_unit_test(a_receiver_gives_up_in_the_midst_of_the_stream),
        cmocka_unit_test(a_restarted_holder_fetches_what_the_standby_has_more),
        cmocka_unit_test(a_tail_of_another_history_is_not_ahead),
        cmocka_unit_test(a_fetch_that_is_cut_ends),
        cmocka_unit_test(a_standby_serves_a_fetch),
        cmocka_unit_test(where_histories_part),
        cmocka_unit_test(where_long_histories_part),
        cmocka_unit_test(both_sides_keep_the_same_connection),
        cmocka_unit_test(random_events),
        cmocka_unit_test(a_list_that_cannot_be_read_says_nothing_has_come),
    };
    cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
