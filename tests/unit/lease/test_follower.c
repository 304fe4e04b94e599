/* test_follower.c: the standby's decisions, one test a rule or finding of docs/protocol.md. */
#include "tests/unit/lease/core.h"

#define E(major, minor) DMT_EPOCH(major, minor)

static const struct lease_action *sent(const struct t *t, enum lease_msg_type type)
{
    for (int i = 0; i < t->out.n; i++)
        if (t->out.a[i].type == LEASE_ACT_SEND && t->out.a[i].msg.type == type)
            return &t->out.a[i];
    return NULL;
}

static void be_a_candidate(struct t *t)
{
    struct lease_register reg = a_register(5, "B", 2, "A", 1);
    t_follower(t);
    t_pass(t, 3000); /* what an earlier life may have promised */
    for (int i = 0; i < 50 && t_state(t) == DMT_LEASE_FOLLOWER; i++) {
        if (t_wait_ask(t, LEASE_READ, 1000))
            t_answer(t, LEASE_GRANTED, &reg);
    }
    assert_int_equal(t_state(t), DMT_LEASE_CANDIDATE);
}

/* R12 */
static void every_pong_promises_h(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    t.now += 50 * DMT_MS;
    t_ping(&t, E(5, 0), 9);
    assert_non_null(sent(&t, LEASE_PONG));
    assert_int_equal(sent(&t, LEASE_PONG)->msg.promise_ms, 600);
    assert_true(t.s.promise_ns >= t.now + 600 * DMT_MS);
}

/* R13: without an answer of the register it stays follower and goes on promising. */
static void no_answer_no_candidate(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    for (int i = 0; i < 20; i++) {
        (void)t_wait_ask(&t, LEASE_READ, 600);
        t_answer(&t, LEASE_UNANSWERED, NULL);
        assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
    }
    t_ping(&t, E(5, 0), 9);
    assert_non_null(sent(&t, LEASE_PONG));
}

/* R13: an answer that is older than H is none. */
static void an_old_answer_makes_no_candidate(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    struct lease_register reg = a_register(5, "B", 2, "A", 1);
    assert_true(t_wait_ask(&t, LEASE_READ, 5000));
    t.now += 10 * DMT_S; /* frozen meanwhile; then the answer is read */
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
}

static void silence_makes_a_candidate_when_the_promise_is_over(void **state)
{
    (void)state;
    struct t t = {0};
    be_a_candidate(&t);
    assert_true(t.now >= t.s.promise_ns);
    assert_int_equal(t.s.ask.op, LEASE_PROMOTE);
    assert_int_equal(t.s.ask.base, 5);
}

/* F20 */
static void a_candidate_sends_no_pong_until_it_is_answered(void **state)
{
    (void)state;
    struct t t = {0};
    be_a_candidate(&t);
    t_ping(&t, E(5, 0), 9);
    assert_null(sent(&t, LEASE_PONG));
    t_answer(&t, LEASE_UNANSWERED, NULL);
    t_ping(&t, E(5, 0), 9);
    assert_null(sent(&t, LEASE_PONG)); /* not known is not "no" */
    struct lease_register reg = a_register(5, "B", 2, "A", 1);
    t_answer(&t, LEASE_REFUSED, &reg);
    assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
    t_ping(&t, E(5, 0), 9);
    assert_non_null(sent(&t, LEASE_PONG));
}

/* R7, F3: alone in the same transaction, whatever degrade says. */
static void a_promoted_node_is_alone_at_once(void **state)
{
    (void)state;
    struct t t = {.conf.degrade = DMT_DEGRADE_BLOCK};
    be_a_candidate(&t);
    struct lease_register reg = a_register(6, "A", 1, NULL, 0);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_int_equal(t_state(&t), DMT_LEASE_PROMOTING);
    int write = t_find(&t, LEASE_ACT_WRITE), promote = t_find(&t, LEASE_ACT_PROMOTE);
    assert_true(write >= 0 && write < promote);
    assert_int_equal(t.out.a[promote].epoch, E(6, 0));
    assert_true(t.out.a[write].record.alone);
    t_feed(&t, LEASE_EV_PROMOTE_DONE);
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_ALONE);
    assert_int_equal(t.s.gate, LEASE_GATE_ALONE);
}

static void after_promotion_readonly_waits_for_a_person(void **state)
{
    (void)state;
    struct t t = {.conf.after_promotion = DMT_AFTER_READONLY};
    be_a_candidate(&t);
    struct lease_register reg = a_register(6, "A", 1, NULL, 0);
    t_answer(&t, LEASE_GRANTED, &reg);
    t_feed(&t, LEASE_EV_PROMOTE_DONE);
    assert_int_equal(t.s.gate, LEASE_GATE_READONLY);
    struct lease_event e = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_PROMOTE};
    t_event(&t, &e);
    assert_int_equal(t.s.gate, LEASE_GATE_ALONE);
}

static void a_copy_that_is_not_in_sync_is_never_a_candidate(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    struct lease_register reg = a_register(5, "B", 2, NULL, 0);
    for (int i = 0; i < 10; i++) {
        if (t_wait_ask(&t, LEASE_READ, 2000))
            t_answer(&t, LEASE_GRANTED, &reg);
        assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
    }
    struct lease_register other_disk = a_register(5, "B", 2, "A", 9); /* our node, another store */
    assert_true(t_wait_ask(&t, LEASE_READ, 3000));
    t_answer(&t, LEASE_GRANTED, &other_disk);
    t_pass(&t, 1000);
    assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
}

/* F19 */
static void a_reset_is_not_death(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    t_pass(&t, 3000);
    t_ping(&t, E(5, 0), 9);
    t_feed(&t, LEASE_EV_PING_DOWN);
    t_feed(&t, LEASE_EV_PEER_DOWN);
    struct lease_register reg = a_register(5, "B", 2, "A", 1);
    uint64_t start = t.now;
    while (t_state(&t) == DMT_LEASE_FOLLOWER && t.now < start + 2 * DMT_S)
        if (t_wait_ask(&t, LEASE_READ, 100))
            t_answer(&t, LEASE_GRANTED, &reg);
    assert_true(t.now >= start + 600 * DMT_MS);
}

static void word_of_death_ends_the_wait_but_not_the_read(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    t_ping(&t, E(5, 0), 9);
    struct lease_event e = {.type = LEASE_EV_DEATH, .id = an_id("B", 2), .instance = 8};
    t_event(&t, &e);
    assert_false(t_asks(&t, LEASE_READ)); /* of another life: that one is over, this one pings */
    e.instance = 9;
    t_event(&t, &e);
    assert_true(t_asks(&t, LEASE_READ));
    assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
    t_ping(&t, E(5, 0), 9); /* sent before it died, on a long way */
    struct lease_register reg = a_register(5, "B", 2, "A", 1);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_int_equal(t_state(&t), DMT_LEASE_CANDIDATE);
    assert_true(t.s.ask.word);
}

static void a_holder_that_lives_again_is_not_dead(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    t_ping(&t, E(5, 0), 9);
    struct lease_event e = {.type = LEASE_EV_DEATH, .id = an_id("B", 2), .instance = 9};
    t_event(&t, &e);
    assert_true(t_asks(&t, LEASE_READ));
    t_ping(&t, E(5, 1), 10); /* the next process */
    struct lease_register reg = a_register(5, "B", 2, "A", 1);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
}

static void an_orderly_stop_of_the_holder_is_no_failure(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    struct lease_event e = {.type = LEASE_EV_MSG};
    e.msg = (struct lease_msg){.type = LEASE_BYE, .from = an_id("B", 2), .flags = LEASE_F_HOLDER};
    t_event(&t, &e);
    assert_true(
        t_action(&t, LEASE_ACT_WRITE)->record.peer_stopped); /* also after a restart of ours */
    assert_non_null(sent(&t, LEASE_BYE_OK));
    /* It looks at the register now and then (a PROMOTE of an earlier life may stand there), and
     * asks for nothing. */
    assert_true(t_wait_ask(&t, LEASE_READ, 10000));
    struct lease_register reg = a_register(5, "B", 2, "A", 1);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_false(t_wait_ask(&t, LEASE_PROMOTE, 30000));
    t_answer(&t, LEASE_GRANTED, &reg);
    struct lease_event p = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_PROMOTE};
    t_event(&t, &p);
    assert_true(t_wait_ask(&t, LEASE_PROMOTE, 1000) || t_asks(&t, LEASE_READ));
}

/* A PROMOTE of an earlier life was recorded, its answer lost; the old holder lives on our PONGs. */
static void a_promotion_learned_late_waits_for_the_promise(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    t_pass(&t, 3000);
    t_ping(&t, E(5, 0), 9);
    uint64_t promised = t.s.promise_ns;
    assert_true(t_wait_ask(&t, LEASE_READ, 500));
    struct lease_register reg = a_register(6, "A", 1, NULL, 0);
    t_answer(&t, LEASE_GRANTED, &reg);
    assert_int_equal(t_state(&t), DMT_LEASE_CANDIDATE);
    t_ping(&t, E(5, 0), 9);
    assert_null(sent(&t, LEASE_PONG));
    while (t_state(&t) == DMT_LEASE_CANDIDATE) {
        t.now += 5 * DMT_MS;
        t_feed(&t, LEASE_EV_TICK);
    }
    assert_int_equal(t_state(&t), DMT_LEASE_PROMOTING);
    assert_true(t.now >= promised);
}

static void a_handover_is_taken_at_once_and_paired(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    struct lease_register reg = a_register(6, "A", 1, "B", 2);
    struct lease_event e = {.type = LEASE_EV_REGISTER, .reg = reg};
    t_event(&t, &e);
    assert_int_equal(t_state(&t), DMT_LEASE_PROMOTING);
    assert_false(t.s.rec.alone);
    t_feed(&t, LEASE_EV_PROMOTE_DONE);
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_PAIRED);
}

/* R4 */
static void a_lower_epoch_is_refused_for_ever(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    t_claim(&t, E(4, 7), 10, 10);
    assert_int_equal(t_find(&t, LEASE_ACT_FOLLOW), -1);
    t_ping(&t, E(4, 7), 9);
    assert_null(sent(&t, LEASE_PONG));
    assert_int_equal(sent(&t, LEASE_NACK)->msg.epoch, E(5, 0));
}

/* R4 */
static void a_new_epoch_is_durable_before_it_is_followed(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    t_claim(&t, E(5, 3), 10, 10);
    int write = t_find(&t, LEASE_ACT_WRITE), follow = t_find(&t, LEASE_ACT_FOLLOW);
    assert_true(write >= 0 && write < follow);
    assert_int_equal(t.out.a[write].record.seen, E(5, 3));
}

/* R5, F4: a frame of an epoch already followed cuts nothing. */
static void an_epoch_already_followed_cuts_nothing(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    t_claim(&t, E(5, 0), 5, 10);
    assert_int_equal(t_find(&t, LEASE_ACT_LOSE), -1);
    assert_int_equal(t_find(&t, LEASE_ACT_FOLLOW), -1);
}

/* R5, R15 */
static void a_tail_beyond_the_switch_is_saved_cut_and_then_followed(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    t_claim(&t, E(6, 0), 5, 10);
    const struct lease_action *lose = t_action(&t, LEASE_ACT_LOSE);
    assert_non_null(lose);
    assert_int_equal(lose->switch_seq, 5);
    assert_string_equal(lose->text, "epoch-5.0-A");
    assert_int_equal(t_find(&t, LEASE_ACT_FOLLOW), -1);
    assert_int_equal(t.s.rec.seen, E(5, 0)); /* a crash in between starts over */
    t_feed(&t, LEASE_EV_LOSE_DONE);
    int write = t_find(&t, LEASE_ACT_WRITE), follow = t_find(&t, LEASE_ACT_FOLLOW);
    assert_true(write >= 0 && write < follow);
    assert_int_equal(t.out.a[follow].epoch, E(6, 0));
    assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
}

/* An old holder came back first and was followed against; then the register turns out to name us
 * since an earlier life. The tail could not be cut, which is just as well. */
static void a_loser_that_the_register_names_takes_over(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    struct lease_event e = {.type = LEASE_EV_PEER_EPOCH,
                            .id = an_id("B", 2),
                            .epoch = E(5, 9),
                            .switch_seq = 10,
                            .durable = 20};
    t_event(&t, &e);
    assert_int_equal(t_state(&t), DMT_LEASE_LOSER);
    struct lease_event done = {.type = LEASE_EV_LOSE_DONE, .err = -EIO};
    t_event(&t, &done);
    assert_int_equal(t_state(&t), DMT_LEASE_LOSER);
    assert_true(t_wait_ask(&t, LEASE_READ, 3000));
    struct lease_register reg = a_register(6, "A", 1, NULL, 0);
    t_answer(&t, LEASE_GRANTED, &reg);
    t_pass(&t, 4000); /* the promise that was given runs out first */
    assert_int_equal(t_state(&t), DMT_LEASE_PROMOTING);
}

/* R12: a PONG cannot be taken back, whatever this node becomes meanwhile. */
static void a_promise_outlives_a_cut(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    uint64_t given = t.s.promise_ns;
    assert_true(given > t.now);
    struct lease_event e = {.type = LEASE_EV_PEER_EPOCH,
                            .id = an_id("B", 2),
                            .epoch = E(6, 0),
                            .switch_seq = 10,
                            .durable = 20};
    t_event(&t, &e);
    assert_int_equal(t_state(&t), DMT_LEASE_LOSER);
    t_feed(&t, LEASE_EV_LOSE_DONE);
    assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
    assert_true(t.s.promise_ns >= given);
}

/* R11, F12 */
static void a_resync_needs_a_lone_holder_and_a_durable_flag(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    struct lease_event e = {
        .type = LEASE_EV_RESYNC_ORDERED, .id = an_id("B", 2), .epoch = E(5, 0), .alone = false};
    t_event(&t, &e);
    assert_int_equal(t_find(&t, LEASE_ACT_RESYNC), -1);
    e.alone = true;
    e.epoch = E(4, 0);
    t_event(&t, &e);
    assert_int_equal(t_find(&t, LEASE_ACT_RESYNC), -1);
    e.epoch = E(6, 0);
    t_event(&t, &e);
    int write = t_find(&t, LEASE_ACT_WRITE), go = t_find(&t, LEASE_ACT_RESYNC);
    assert_true(write >= 0 && write < go);
    assert_true(t.out.a[write].record.resync);
    /* Not promotable until it is verified, also not by its operator. */
    struct lease_register reg = a_register(6, "B", 2, "A", 1);
    struct lease_event r = {.type = LEASE_EV_REGISTER, .reg = reg};
    t_event(&t, &r);
    t_pass(&t, 5000);
    assert_int_equal(t_state(&t), DMT_LEASE_RESYNC);
    /* Ordered again meanwhile: what came by the first order counts no more. */
    e.epoch = E(7, 0);
    t_event(&t, &e);
    assert_true(t_find(&t, LEASE_ACT_RESYNC) >= 0);
    struct lease_event done = {.type = LEASE_EV_RESYNC_DONE, .gen = 1};
    t_event(&t, &done);
    assert_int_equal(t_state(&t), DMT_LEASE_RESYNC);
    assert_true(t.s.rec.resync);
    done.gen = t.s.resync_order;
    t_event(&t, &done);
    assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
    assert_false(t.s.rec.resync);
}

/* The store may have been paired just before the flag was cleared: it is looked at, not thrown away
 * (F12). */
static void a_restart_in_resync_keeps_what_is_there(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_record();
    r.seen = E(5, 0);
    r.resync = true;
    t_start(&t, &r);
    assert_int_equal(t_state(&t), DMT_LEASE_RESYNC);
    assert_int_equal(t_find(&t, LEASE_ACT_RESYNC), -1);
    /* The old state, and the holder has another history: only a lone one may have it replaced. */
    struct lease_event e = {.type = LEASE_EV_PEER_EPOCH,
                            .id = an_id("B", 2),
                            .epoch = E(6, 0),
                            .switch_seq = 10,
                            .durable = 20};
    t_event(&t, &e);
    assert_int_equal(t_find(&t, LEASE_ACT_RESYNC), -1);
    e.alone = true;
    t_event(&t, &e);
    assert_true(t_find(&t, LEASE_ACT_RESYNC) >= 0);
    assert_int_equal(t_find(&t, LEASE_ACT_LOSE), -1);
}

/* What an earlier life promised may still run. */
static void a_restarted_follower_waits_the_longest_promise(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_record();
    r.seen = E(5, 0);
    t_start(&t, &r);
    t_feed(&t, LEASE_EV_ARB_UP);
    struct lease_register reg = a_register(5, "B", 2, "A", 1);
    uint64_t start = t.now;
    while (t_state(&t) == DMT_LEASE_FOLLOWER)
        if (t_wait_ask(&t, LEASE_READ, 100))
            t_answer(&t, LEASE_GRANTED, &reg);
    assert_true(t.now >= start + LEASE_H_MAX_MS * DMT_MS);
}

/* R25 */
static void h_follows_the_holders_stalls(void **state)
{
    (void)state;
    struct t t = {0};
    t_follower(&t);
    for (int i = 0; i < 5; i++) {
        t.now += 60 * DMT_MS;
        t_ping(&t, E(5, 0), 9);
    }
    assert_int_equal(sent(&t, LEASE_PONG)->msg.promise_ms, 600);
    t.now += 300 * DMT_MS;
    t_ping(&t, E(5, 0), 9);
    assert_int_equal(sent(&t, LEASE_PONG)->msg.promise_ms, 1200);
    t.now += 2500 * DMT_MS;
    t_ping(&t, E(5, 0), 9);
    assert_int_equal(sent(&t, LEASE_PONG)->msg.promise_ms, LEASE_H_MAX_MS);
    for (int i = 0; i < 1500; i++) { /* twelve minutes later it is forgotten */
        t.now += 490 * DMT_MS;
        t_ping(&t, E(5, 0), 9);
    }
    assert_int_equal(sent(&t, LEASE_PONG)->msg.promise_ms, 4 * 490);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pong_promises_h),
        cmocka_unit_test(no_answer_no_candidate),
        cmocka_unit_test(an_old_answer_makes_no_candidate),
        cmocka_unit_test(silence_makes_a_candidate_when_the_promise_is_over),
        cmocka_unit_test(a_candidate_sends_no_pong_until_it_is_answered),
        cmocka_unit_test(a_promoted_node_is_alone_at_once),
        cmocka_unit_test(after_promotion_readonly_waits_for_a_person),
        cmocka_unit_test(a_copy_that_is_not_in_sync_is_never_a_candidate),
        cmocka_unit_test(a_reset_is_not_death),
        cmocka_unit_test(word_of_death_ends_the_wait_but_not_the_read),
        cmocka_unit_test(a_holder_that_lives_again_is_not_dead),
        cmocka_unit_test(an_orderly_stop_of_the_holder_is_no_failure),
        cmocka_unit_test(a_promotion_learned_late_waits_for_the_promise),
        cmocka_unit_test(a_handover_is_taken_at_once_and_paired),
        cmocka_unit_test(a_lower_epoch_is_refused_for_ever),
        cmocka_unit_test(a_new_epoch_is_durable_before_it_is_followed),
        cmocka_unit_test(an_epoch_already_followed_cuts_nothing),
        cmocka_unit_test(a_tail_beyond_the_switch_is_saved_cut_and_then_followed),
        cmocka_unit_test(a_loser_that_the_register_names_takes_over),
        cmocka_unit_test(a_promise_outlives_a_cut),
        cmocka_unit_test(a_resync_needs_a_lone_holder_and_a_durable_flag),
        cmocka_unit_test(a_restart_in_resync_keeps_what_is_there),
        cmocka_unit_test(a_restarted_follower_waits_the_longest_promise),
        cmocka_unit_test(h_follows_the_holders_stalls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
