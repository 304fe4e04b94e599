/* test_holder.c: the holder's decisions, one test a rule or finding of docs/protocol.md. */
#include "tests/unit/lease/core.h"

#define E(major, minor) DMT_EPOCH(major, minor)

/* F1, R2 */
static void a_start_never_continues_an_epoch(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_record();
    r.hold = r.seen = E(3, 4);
    r.alone = true;
    t_start(&t, &r);
    int write = t_find(&t, LEASE_ACT_WRITE), open = t_find(&t, LEASE_ACT_OPEN_EPOCH),
        gate = t_find(&t, LEASE_ACT_GATE);
    assert_true(write >= 0 && write < open && open < gate); /* durable before the first append */
    assert_int_equal(t.out.a[write].record.hold, E(3, 5));
    assert_int_equal(t.out.a[open].epoch, E(3, 5));
}

/* R6 */
static void a_paired_holder_looks_at_the_standby_first(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_paired_record();
    t_start(&t, &r);
    assert_int_equal(t_find(&t, LEASE_ACT_OPEN_EPOCH), -1);
    assert_int_equal(t.s.gate, LEASE_GATE_WAIT);
    t_peer_up(&t, 2, E(5, 0), true);
    assert_true(t_find(&t, LEASE_ACT_FETCH) >= 0);
    assert_int_equal(t_find(&t, LEASE_ACT_OPEN_EPOCH), -1);
    t_feed(&t, LEASE_EV_FETCH_DONE);
    assert_int_equal(t_action(&t, LEASE_ACT_OPEN_EPOCH)->epoch, E(5, 1));
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_PAIRED);
}

/* Another disk in the standby: it is not the store that the epoch names (R3). */
static void another_store_does_not_start_the_pair(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_paired_record();
    t_start(&t, &r);
    t_peer_up(&t, 3, E(5, 0), false);
    assert_int_equal(t_state(&t), DMT_LEASE_START);
    assert_int_equal(t_find(&t, LEASE_ACT_OPEN_EPOCH), -1);
}

static void the_lease_is_a_part_of_what_was_promised(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    t.now += 10 * DMT_MS;
    t_pong(&t, E(5, 0));
    /* send time + f * H */
    assert_int_equal(t_action(&t, LEASE_ACT_LEASE)->deadline_ns, t.now - DMT_MS + 450 * DMT_MS);
}

/* R3, second line: only the store named in the epoch lengthens what plain calls rely on. */
static void a_promise_of_another_store_is_no_lease(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    t.now += 10 * DMT_MS;
    struct lease_event e = {.type = LEASE_EV_MSG};
    e.msg = (struct lease_msg){.type = LEASE_PONG,
                               .from = an_id("B", 9),
                               .epoch = E(5, 0),
                               .sent_ns = t.now - DMT_MS,
                               .promise_ms = 600};
    t_event(&t, &e);
    assert_int_equal(t_find(&t, LEASE_ACT_LEASE), -1);
}

/* R8 */
static void solo_starts_only_when_it_is_recorded(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    t_feed(&t, LEASE_EV_PEER_DOWN);
    assert_false(t_wait_ask(&t, LEASE_SOLO, 9900));
    assert_true(t_wait_ask(&t, LEASE_SOLO, 1500));
    assert_int_equal(t_action(&t, LEASE_ACT_ASK)->ask.base, 5);
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_PAIRED);
    t_answer(&t, LEASE_UNANSWERED, NULL);
    assert_int_equal(t_find(&t, LEASE_ACT_GATE), -1);
    assert_true(t_wait_ask(&t, LEASE_SOLO, 2000)); /* repeated, unchanged */
    struct lease_register reg = a_register(6, "A", 1, NULL, 0);
    t_answer(&t, LEASE_GRANTED, &reg);
    int write = t_find(&t, LEASE_ACT_WRITE), open = t_find(&t, LEASE_ACT_OPEN_EPOCH),
        gate = t_find(&t, LEASE_ACT_GATE);
    assert_true(write >= 0 && write < open && open < gate);
    assert_true(t.out.a[write].record.alone);
    assert_int_equal(t.out.a[open].epoch, E(6, 0));
    assert_int_equal(t.out.a[gate].mode, LEASE_GATE_ALONE);
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_ALONE);
}

/* R8, F18 */
static void no_solo_while_this_machine_is_about_to_go(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    struct lease_event e = {.type = LEASE_EV_SPOT, .spot = true};
    t_event(&t, &e);
    t_feed(&t, LEASE_EV_PEER_DOWN);
    assert_false(t_wait_ask(&t, LEASE_SOLO, 60000));
    e.spot = false;
    t_event(&t, &e);
    assert_true(t_asks(&t, LEASE_SOLO) || t_wait_ask(&t, LEASE_SOLO, 1000));
}

static void degrade_block_never_asks_solo(void **state)
{
    (void)state;
    struct t t = {.conf.degrade = DMT_DEGRADE_BLOCK};
    t_paired(&t);
    t_feed(&t, LEASE_EV_PEER_DOWN);
    assert_false(t_wait_ask(&t, LEASE_SOLO, 60000));
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_PAIRED);
}

static void get_to_leaving(struct t *t)
{
    t->tail = 100;
    t_alone(t);
    t_peer_up(t, 2, E(5, 1), false);
    t_pong(t, E(5, 1));
    t_acked(t, E(5, 1), 100, 100);
    assert_int_equal(t_state(t), DMT_LEASE_LEAVING);
}

/* R9, F6, F7, F8b */
static void pair_is_asked_when_both_disks_are_needed_already_and_equal(void **state)
{
    (void)state;
    struct t t = {0};
    get_to_leaving(&t);
    int write = t_find(&t, LEASE_ACT_WRITE), gate = t_find(&t, LEASE_ACT_GATE);
    assert_true(write >= 0 && write < gate);
    assert_true(t.out.a[write].record.dual_ack && !t.out.a[write].record.alone);
    assert_int_equal(t.out.a[gate].mode, LEASE_GATE_PAIR);
    assert_false(t_asks(&t, LEASE_PAIR)); /* the gate is not applied yet */
    /* Between the acknowledgement and the gate 20 records were acknowledged alone. */
    t.tail = 120;
    struct lease_event e = {.type = LEASE_EV_GATE, .gen = t.s.gate_gen};
    t_event(&t, &e);
    assert_false(t_asks(&t, LEASE_PAIR));
    t_acked(&t, E(5, 0), 120, 120); /* of an older epoch: counts for nothing */
    assert_false(t_asks(&t, LEASE_PAIR));
    t_acked(&t, E(5, 1), 120, 110); /* bulk data is missing there */
    assert_false(t_asks(&t, LEASE_PAIR));
    t_acked(&t, E(5, 1), 120, 120);
    assert_true(t_asks(&t, LEASE_PAIR));
    struct lease_register reg = a_register(6, "A", 1, "B", 2);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_PAIRED);
    assert_int_equal(t_action(&t, LEASE_ACT_OPEN_EPOCH)->epoch, E(6, 0));
}

/* A peer that comes back is behind what was written alone: syncs do not wait for all of that. */
static void alone_until_the_peer_is_a_moment_behind(void **state)
{
    (void)state;
    struct t t = {.tail = 10000};
    t_alone(&t);
    t_peer_up(&t, 2, E(5, 1), false);
    for (uint64_t has = 0; has <= 9000; has += 1000) { /* 1000 records in 150 ms, ten are written */
        t_pong(&t, E(5, 1));
        t_acked(&t, E(5, 1), has, has);
        assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_ALONE);
        t_pass(&t, 150);
        t.tail += 10;
    }
    t_pong(&t, E(5, 1));
    t_acked(&t, E(5, 1), 10000, 10000); /* what was the tail when it came back; it took long */
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_ALONE);
    t_pass(&t, 15);
    t.tail += 1;
    t_acked(&t, E(5, 1), 10100, 10050); /* its bulk data is behind */
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_ALONE);
    t_acked(&t, E(5, 1), 10100, 10100);
    assert_int_equal(t_state(&t), DMT_LEASE_LEAVING);
}

/* One that stays behind is not waited for for ever; one that is far behind is. */
static void a_peer_that_gets_no_closer_is_taken_in_the_end(void **state)
{
    (void)state;
    struct t t = {.tail = 30000};
    t_alone(&t);
    t_peer_up(&t, 2, E(5, 1), false);
    for (int ms = 0; ms < 20000; ms += 200) {
        t_pong(&t, E(5, 1));
        t_acked(&t, E(5, 1), t.tail - 25000, t.tail - 25000);
        t_pass(&t, 200);
        t.tail += 100;
        assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_ALONE);
    }
    for (int ms = 0; ms < 4800; ms += 200) {
        t_pong(&t, E(5, 1));
        t_acked(&t, E(5, 1), t.tail - 500, t.tail - 500);
        t_pass(&t, 200);
        t.tail += 100;
        assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_ALONE);
    }
    t_pong(&t, E(5, 1));
    t_pass(&t, 300);
    assert_int_equal(t_state(&t), DMT_LEASE_LEAVING);
}

/* F6: the way back to one disk is a new epoch, never a lost answer. */
static void leaving_ends_alone_only_by_solo(void **state)
{
    (void)state;
    struct t t = {0};
    get_to_leaving(&t);
    struct lease_event e = {.type = LEASE_EV_GATE, .gen = t.s.gate_gen};
    t_event(&t, &e);
    assert_true(t_asks(&t, LEASE_PAIR));
    t_feed(&t, LEASE_EV_PEER_DOWN);
    assert_true(t_wait_ask(&t, LEASE_SOLO, 2000));
    assert_int_equal(t_state(&t), DMT_LEASE_LEAVING);
    assert_int_equal(t.s.gate, LEASE_GATE_PAIR);
    /* F5: the late PAIR had landed first: that is what counts. */
    struct lease_register reg = a_register(6, "A", 1, "B", 2);
    t_answer(&t, LEASE_REFUSED, &reg);
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_PAIRED);
    assert_false(t.s.rec.alone);
}

static void a_crash_while_leaving_restarts_with_both_disks(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_paired_record();
    r.dual_ack = true;
    t_start(&t, &r);
    assert_int_equal(t.s.gate, LEASE_GATE_WAIT);
    t_peer_up(&t, 2, E(5, 0), false);
    assert_int_equal(t_state(&t), DMT_LEASE_LEAVING);
    assert_int_equal(t.s.gate, LEASE_GATE_PAIR);
}

/* R10, F13 */
static void handover_gives_up_before_it_asks(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    struct lease_event e = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_HANDOVER};
    t_event(&t, &e);
    assert_true(t_find(&t, LEASE_ACT_DRAIN) >= 0);
    t_feed(&t, LEASE_EV_FREEZE);
    assert_int_equal(t.s.gate, LEASE_GATE_WAIT);
    t_feed(&t, LEASE_EV_DRAINED);
    int write = t_find(&t, LEASE_ACT_WRITE), ask = t_find(&t, LEASE_ACT_ASK);
    assert_true(write >= 0 && write < ask);
    assert_true(t.out.a[write].record.gave_up && t.out.a[write].record.hold == 0);
    assert_int_equal(t.out.a[ask].ask.op, LEASE_HANDOVER);
    assert_int_equal(t.s.gate, LEASE_GATE_CLOSED);
    assert_int_equal(t_state(&t), DMT_LEASE_GIVEN_UP);
    /* No answer for long: back only by RETAKE, which kills the HANDOVER still under way. */
    assert_true(t_wait_ask(&t, LEASE_RETAKE, 10000));
    assert_int_equal(t.s.gate, LEASE_GATE_CLOSED);
    struct lease_register reg = a_register(6, "A", 1, "B", 2);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_PAIRED);
    assert_int_equal(t_action(&t, LEASE_ACT_OPEN_EPOCH)->epoch, E(6, 0));
}

static void a_handover_that_arrived_makes_a_follower(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_paired_record();
    r.hold = 0;
    r.gave_up = true;
    t_start(&t, &r);
    assert_int_equal(t_state(&t), DMT_LEASE_GIVEN_UP);
    t_feed(&t, LEASE_EV_ARB_UP);
    assert_true(t_asks(&t, LEASE_READ));
    struct lease_register reg = a_register(6, "B", 2, "A", 1);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
    assert_false(t.s.rec.gave_up);
}

/* Fenced and opened again before any request was ever recorded, and restarted meanwhile: nobody
 * else can have the right. */
static void without_a_register_it_is_taken_back(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_paired_record();
    r.seen = E(1, 1);
    r.hold = 0;
    r.gave_up = true;
    t_start(&t, &r);
    t_feed(&t, LEASE_EV_ARB_UP);
    assert_true(t_asks(&t, LEASE_READ));
    struct lease_register none = {0};
    t_answer(&t, LEASE_GRANTED, &none);
    assert_true(t_asks(&t, LEASE_RETAKE));
}

static void a_failed_drain_unfreezes(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    struct lease_event e = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_HANDOVER};
    t_event(&t, &e);
    t_feed(&t, LEASE_EV_FREEZE);
    struct lease_event d = {.type = LEASE_EV_DRAINED, .err = -ETIMEDOUT};
    t_event(&t, &d);
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_PAIRED);
    assert_int_equal(t.s.gate, LEASE_GATE_PAIR);
    assert_false(t_asks(&t, LEASE_HANDOVER));
}

/* A machine that was frozen and replaced: the first answer tells it. */
static void any_sign_of_a_higher_epoch_makes_a_loser(void **state)
{
    (void)state;
    for (int way = 0; way < 4; way++) {
        struct t t = {0};
        t_paired(&t);
        struct lease_register reg = a_register(6, "B", 2, NULL, 0);
        struct lease_event e = {.type = LEASE_EV_REGISTER, .reg = reg, .epoch = E(6, 0)};
        if (way == 0) {
            e.type = LEASE_EV_MSG;
            e.msg = (struct lease_msg){.type = LEASE_NACK, .from = an_id("B", 2), .epoch = E(6, 0)};
        } else if (way == 1) {
            e.type = LEASE_EV_HIGHER;
        } else if (way == 2) {
            e.type = LEASE_EV_PEER_UP;
            e.id = an_id("B", 2);
        }
        t_event(&t, &e);
        assert_int_equal(t_state(&t), DMT_LEASE_LOSER);
        int close = t_find(&t, LEASE_ACT_CLOSE), write = t_find(&t, LEASE_ACT_WRITE),
            demote = t_find(&t, LEASE_ACT_DEMOTE);
        assert_true(close >= 0 && close < write && write < demote);
        assert_int_equal(t.out.a[write].record.hold, 0);
    }
}

/* F15: adopted once; F8a: by the named store only. */
static void a_grant_counts_once_and_for_its_store_only(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    t_feed(&t, LEASE_EV_PEER_DOWN);
    assert_true(t_wait_ask(&t, LEASE_SOLO, 12000));
    uint64_t id = t.s.ask.id;
    struct lease_register other_disk = a_register(6, "A", 9, NULL, 0);
    struct lease_event e = {
        .type = LEASE_EV_ANSWER, .ask_id = id, .answer = LEASE_GRANTED, .reg = other_disk};
    t_event(&t, &e);
    assert_int_not_equal(t_state(&t), DMT_LEASE_HOLDER_ALONE);

    struct t u = {0};
    t_paired(&u);
    t_feed(&u, LEASE_EV_PEER_DOWN);
    assert_true(t_wait_ask(&u, LEASE_SOLO, 12000));
    struct lease_register reg = a_register(6, "A", 1, NULL, 0);
    t_answer(&u, LEASE_GRANTED, &reg);
    assert_int_equal(u.s.rec.hold, E(6, 0));
    struct lease_event again = {
        .type = LEASE_EV_ANSWER, .ask_id = u.s.ask.id, .answer = LEASE_GRANTED, .reg = reg};
    t_event(&u, &again);
    assert_int_equal(t_find(&u, LEASE_ACT_OPEN_EPOCH), -1);
}

/* F17 */
static void a_register_behind_us_changes_nothing(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    struct lease_register reg = a_register(3, "B", 2, NULL, 0);
    struct lease_event e = {.type = LEASE_EV_REGISTER, .reg = reg};
    t_event(&t, &e);
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_PAIRED);
    assert_int_equal(t.s.gate, LEASE_GATE_PAIR);
}

/* The core asks without wanting the reason: the state may have moved on since a command was
 * accepted. */
static void a_command_that_is_late_is_refused_without_a_reason_too(void **state)
{
    (void)state;
    assert_true(lease_command_check(DMT_LEASE_FOLLOWER, false, UINT64_MAX, DMT_LEASE_CMD_HANDOVER,
                                    NULL) < 0);
    assert_true(
        lease_command_check(DMT_LEASE_FOLLOWER, false, UINT64_MAX, DMT_LEASE_CMD_FENCE, NULL) < 0);
    assert_true(
        lease_command_check(DMT_LEASE_LOSER, false, UINT64_MAX, DMT_LEASE_CMD_PROMOTE, NULL) < 0);
}

/* R11, F12 */
static void a_resync_is_ordered_only_alone(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    t_feed(&t, LEASE_EV_RESYNC_NEEDED);
    assert_int_equal(t_find(&t, LEASE_ACT_ORDER_RESYNC), -1);
    assert_true(t_wait_ask(&t, LEASE_SOLO, 12000)); /* such a peer is not well */
    struct lease_register reg = a_register(6, "A", 1, NULL, 0);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_int_equal(t_find(&t, LEASE_ACT_ORDER_RESYNC), -1); /* it says so in each epoch anew */
    for (int i = 0; i < 2; i++) { /* the first order may meet a connection that is just ending */
        t_feed(&t, LEASE_EV_RESYNC_NEEDED);
        assert_true(t_find(&t, LEASE_ACT_ORDER_RESYNC) >= 0);
    }
}

static void a_standby_that_says_goodbye_is_let_go_when_solo_is_recorded(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    struct lease_event e = {.type = LEASE_EV_MSG};
    e.msg = (struct lease_msg){.type = LEASE_BYE, .from = an_id("B", 2)};
    t_event(&t, &e);
    assert_true(t_asks(&t, LEASE_SOLO)); /* at once */
    assert_false(t_sends(&t, LEASE_BYE_OK));
    struct lease_register reg = a_register(6, "A", 1, NULL, 0);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_true(t_sends(&t, LEASE_BYE_OK));
}

static void a_fenced_holder_stops_and_does_not_come_back_by_itself(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    struct lease_event e = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_FENCE};
    t_event(&t, &e);
    assert_int_equal(t_state(&t), DMT_LEASE_GIVEN_UP);
    assert_int_equal(t.s.gate, LEASE_GATE_CLOSED);
    assert_true(t_wait_ask(&t, LEASE_READ, 3000));
    struct lease_register reg = a_register(5, "A", 1, "B", 2);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_false(t_asks(&t, LEASE_RETAKE));
    e.command = DMT_LEASE_CMD_PROMOTE;
    t_event(&t, &e);
    assert_true(t_asks(&t, LEASE_RETAKE));
}

static void a_node_that_cannot_write_its_record_does_nothing_more(void **state)
{
    (void)state;
    struct t t = {0};
    t_paired(&t);
    t_feed(&t, LEASE_EV_BROKEN);
    assert_int_equal(t.s.gate, LEASE_GATE_CLOSED);
    t_pong(&t, E(5, 0));
    assert_int_equal(t.out.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_start_never_continues_an_epoch),
        cmocka_unit_test(a_paired_holder_looks_at_the_standby_first),
        cmocka_unit_test(another_store_does_not_start_the_pair),
        cmocka_unit_test(the_lease_is_a_part_of_what_was_promised),
        cmocka_unit_test(a_promise_of_another_store_is_no_lease),
        cmocka_unit_test(solo_starts_only_when_it_is_recorded),
        cmocka_unit_test(no_solo_while_this_machine_is_about_to_go),
        cmocka_unit_test(degrade_block_never_asks_solo),
        cmocka_unit_test(pair_is_asked_when_both_disks_are_needed_already_and_equal),
        cmocka_unit_test(alone_until_the_peer_is_a_moment_behind),
        cmocka_unit_test(a_peer_that_gets_no_closer_is_taken_in_the_end),
        cmocka_unit_test(leaving_ends_alone_only_by_solo),
        cmocka_unit_test(a_crash_while_leaving_restarts_with_both_disks),
        cmocka_unit_test(handover_gives_up_before_it_asks),
        cmocka_unit_test(a_handover_that_arrived_makes_a_follower),
        cmocka_unit_test(without_a_register_it_is_taken_back),
        cmocka_unit_test(a_failed_drain_unfreezes),
        cmocka_unit_test(any_sign_of_a_higher_epoch_makes_a_loser),
        cmocka_unit_test(a_grant_counts_once_and_for_its_store_only),
        cmocka_unit_test(a_register_behind_us_changes_nothing),
        cmocka_unit_test(a_command_that_is_late_is_refused_without_a_reason_too),
        cmocka_unit_test(a_resync_is_ordered_only_alone),
        cmocka_unit_test(a_standby_that_says_goodbye_is_let_go_when_solo_is_recorded),
        cmocka_unit_test(a_fenced_holder_stops_and_does_not_come_back_by_itself),
        cmocka_unit_test(a_node_that_cannot_write_its_record_does_nothing_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
