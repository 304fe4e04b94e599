/* test_force.c: a promotion by force in the lease core, the other side's way out of its lineage,
 * and how lineages lie to each other (fs/base/lineage.c). */
#include "tests/unit/lease/core.h"

#define E DMT_EPOCH

static const uint8_t old_id[16] = {1}, new_id[16] = {2}, third_id[16] = {3};

static struct dmt_lineage a_lineage(const uint8_t id[16], uint32_t first)
{
    struct dmt_lineage l = {.first = first};
    memcpy(l.id, id, 16);
    return l;
}

/* A, standby of B in epoch 5 of the old lineage, its arbiter silent for ever. */
static void t_standby(struct t *t)
{
    struct lease_record r = a_record();
    r.seen = E(5, 2);
    r.peer = an_id("B", 2);
    r.ever_paired = true;
    r.lineage = a_lineage(old_id, 1);
    t_start(t, &r);
}

static void t_force(struct t *t)
{
    struct lease_event e = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_FORCE};
    memcpy(e.lineage.id, new_id, 16);
    t_event(t, &e);
}

static void t_newer(struct t *t, uint64_t epoch, uint64_t switch_seq, uint64_t tail)
{
    struct lease_event e = {.type = LEASE_EV_PEER_EPOCH,
                            .id = an_id("B", 2),
                            .epoch = epoch,
                            .alone = true,
                            .switch_seq = switch_seq,
                            .durable = tail,
                            .newer = true};
    e.lineage = a_lineage(old_id, 1);
    assert_true(dmt_lineage_force(&e.lineage, new_id, 5));
    t_event(t, &e);
}

static void a_force_is_recorded_before_it_is_done(void **state)
{
    (void)state;
    struct t t = {0};
    t_standby(&t);
    t_pass(&t, 4000);
    t_force(&t);
    assert_int_equal(t_state(&t), DMT_LEASE_PROMOTING);
    int write = t_find(&t, LEASE_ACT_WRITE), promote = t_find(&t, LEASE_ACT_PROMOTE);
    assert_true(write >= 0 && write < promote);
    const struct lease_record *r = &t.out.a[write].record;
    assert_memory_equal(r->lineage.id, new_id, 16);
    assert_true(r->lineage.past_n == 1 && memcmp(r->lineage.past[0], old_id, 16) == 0);
    assert_int_equal(r->lineage.first, 5 + DMT_LINEAGE_STEP);
    assert_true(r->hold == E(r->lineage.first, 0) && r->seen == r->hold && r->alone);
    assert_true(t.out.a[promote].forced && t.out.a[promote].epoch == r->hold);
    assert_non_null(t_action(&t, LEASE_ACT_EVENT));
    /* the epoch stands nowhere yet: nobody is told of it, not even who asks */
    struct lease_event ping = {.type = LEASE_EV_MSG};
    ping.msg = (struct lease_msg){
        .type = LEASE_PING, .from = an_id("B", 2), .instance = 9, .epoch = E(5, 2)};
    t_feed(&t, LEASE_EV_PING_UP);
    t_event(&t, &ping);
    assert_false(t_sends(&t, LEASE_NACK) || t_sends(&t, LEASE_PING));
    t_feed(&t, LEASE_EV_PROMOTE_DONE);
    t_event(&t, &ping);
    assert_true(t_sends(&t, LEASE_NACK));
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_ALONE);
}

/* The epoch lies above the register's, too, as far as it is known. */
static void a_force_goes_beyond_what_the_register_said(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_register reg = a_register(9, "B", 2, NULL, 0);
    t_standby(&t);
    assert_true(t_wait_ask(&t, LEASE_READ, 2000));
    t_answer(&t, LEASE_GRANTED, &reg);
    t_pass(&t, 4000);
    t_force(&t);
    assert_int_equal(t.s.rec.lineage.first, 9 + DMT_LINEAGE_STEP);
    /* a word of the old register, late, means nothing */
    struct lease_event e = {.type = LEASE_EV_REGISTER};
    e.reg = a_register(11, "B", 2, NULL, 0);
    t_event(&t, &e);
    assert_int_equal(t_state(&t), DMT_LEASE_PROMOTING);
}

static void a_peer_that_lives_is_not_forced_out(void **state)
{
    (void)state;
    struct t t = {0};
    t_standby(&t);
    struct lease_event e = {.type = LEASE_EV_MSG};
    e.msg = (struct lease_msg){
        .type = LEASE_PING, .from = an_id("B", 2), .instance = 9, .epoch = E(5, 2)};
    t_event(&t, &e);
    t_pass(&t, 2500);
    t_force(&t);
    assert_int_not_equal(t_state(&t), DMT_LEASE_PROMOTING);
    t_pass(&t, 1000);
    t_force(&t);
    assert_int_equal(t_state(&t), DMT_LEASE_PROMOTING);
}

static void who_may_be_forced(void **state)
{
    (void)state;
    static const enum dmt_lease_state yes[] = {DMT_LEASE_START, DMT_LEASE_GIVEN_UP,
                                               DMT_LEASE_FOLLOWER, DMT_LEASE_CANDIDATE,
                                               DMT_LEASE_LOSER};
    static const enum dmt_lease_state no[] = {DMT_LEASE_HOLDER_PAIRED, DMT_LEASE_HOLDER_ALONE,
                                              DMT_LEASE_LEAVING, DMT_LEASE_PROMOTING,
                                              DMT_LEASE_RESYNC};
    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
        assert_int_equal(lease_command_check(yes[i], false, UINT64_MAX, DMT_LEASE_CMD_FORCE, NULL),
                         0);
    for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
        assert_true(lease_command_check(no[i], false, UINT64_MAX, DMT_LEASE_CMD_FORCE, NULL) < 0);
}

/* A fenced holder has a mount still; a holder that waits for its peer at its start may have. */
static void what_is_mounted_goes_first(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_paired_record();
    r.lineage = a_lineage(old_id, 1);
    t_start(&t, &r);
    assert_int_equal(t_state(&t), DMT_LEASE_START);
    t_force(&t);
    assert_int_equal(t_state(&t), DMT_LEASE_PROMOTING);
    assert_true(t_find(&t, LEASE_ACT_DEMOTE) >= 0 &&
                t_find(&t, LEASE_ACT_DEMOTE) < t_find(&t, LEASE_ACT_PROMOTE));
}

/* Fenced, in a lineage that another machine was forced out of meanwhile: neither its register nor
 * its pings will ever tell, only the replica's connection does. */
static void who_gave_up_learns_of_a_force(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_paired_record();
    r.alone = true;
    r.lineage = a_lineage(old_id, 1);
    t_start(&t, &r);
    struct lease_event fence = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_FENCE};
    t_event(&t, &fence);
    assert_int_equal(t_state(&t), DMT_LEASE_GIVEN_UP);
    struct lease_event e = {.type = LEASE_EV_HIGHER, .epoch = t.s.rec.seen};
    t_event(&t, &e);
    assert_int_equal(t_state(&t), DMT_LEASE_GIVEN_UP);
    e.epoch = E(5 + DMT_LINEAGE_STEP, 0);
    t_event(&t, &e);
    assert_int_equal(t_state(&t), DMT_LEASE_FOLLOWER);
    assert_non_null(t_action(&t, LEASE_ACT_DEMOTE));
    t_newer(&t, e.epoch, 100, 100);
    assert_int_equal(t_state(&t), DMT_LEASE_LOSER);
}

/* The other side: gate closed, branch saved, and only then its record says the new lineage. Nothing
 * is followed, though nothing would have to be cut. */
static void a_lineage_that_is_over_is_left_by_a_resync(void **state)
{
    (void)state;
    struct t t = {0};
    struct lease_record r = a_paired_record();
    r.alone = true;
    r.lineage = a_lineage(old_id, 1);
    t_start(&t, &r);
    assert_int_equal(t_state(&t), DMT_LEASE_HOLDER_ALONE);
    uint64_t epoch = E(5 + DMT_LINEAGE_STEP, 0);
    struct lease_event up = {.type = LEASE_EV_PEER_UP, .id = an_id("B", 2), .epoch = epoch};
    t_event(&t, &up);
    assert_int_equal(t_state(&t), DMT_LEASE_LOSER);
    t_newer(&t, epoch, 100, 100);
    assert_null(t_action(&t, LEASE_ACT_FOLLOW));
    const struct lease_action *lose = t_action(&t, LEASE_ACT_LOSE);
    assert_true(lose && lose->forced);
    assert_string_equal(lose->text, "epoch-5.1-A");
    assert_memory_equal(t.s.rec.lineage.id, old_id, 16);
    /* the old register, meanwhile, says what it likes */
    struct lease_event e = {.type = LEASE_EV_REGISTER};
    e.reg = a_register(6, "A", 1, NULL, 0);
    t_event(&t, &e);
    assert_int_equal(t_state(&t), DMT_LEASE_LOSER);
    t_feed(&t, LEASE_EV_LOSE_DONE);
    const struct lease_action *w = t_action(&t, LEASE_ACT_WRITE);
    assert_memory_equal(w->record.lineage.id, new_id, 16);
    assert_true(w->record.seen == epoch && w->record.hold == 0);
    assert_null(t_action(&t, LEASE_ACT_FOLLOW));
    /* its holder has started again: no second branch */
    t_newer(&t, epoch + 1, 100, 100);
    assert_string_equal(t_action(&t, LEASE_ACT_LOSE)->text, "");
    t_feed(&t, LEASE_EV_LOSE_DONE);
    struct lease_event order = {.type = LEASE_EV_RESYNC_ORDERED, .epoch = epoch + 1, .alone = true};
    t_event(&t, &order);
    assert_int_equal(t_state(&t), DMT_LEASE_RESYNC);
    /* with its store closed it waits to be filled, and follows nothing before */
    t_newer(&t, epoch + 1, 100, 0);
    assert_non_null(t_action(&t, LEASE_ACT_FOLLOW));
    assert_null(t_action(&t, LEASE_ACT_RESYNC));
}

static void how_lineages_lie_to_each_other(void **state)
{
    (void)state;
    struct dmt_lineage l1 = a_lineage(old_id, 1), l2 = l1, other, none = {0};
    assert_true(dmt_lineage_force(&l2, new_id, 5));
    struct dmt_lineage l3 = l2;
    assert_true(dmt_lineage_force(&l3, third_id, l2.first + 4));
    assert_int_equal(dmt_lineage_relate(&l1, 5, &l1, 9), DMT_LINEAGE_SAME);
    assert_int_equal(dmt_lineage_relate(&l1, 5, &none, 0), DMT_LINEAGE_UNKNOWN);
    assert_int_equal(dmt_lineage_relate(&l1, 7, &l2, l2.first), DMT_LINEAGE_NEWER);
    assert_int_equal(dmt_lineage_relate(&l2, l2.first, &l1, 7), DMT_LINEAGE_OLDER);
    assert_int_equal(dmt_lineage_relate(&l3, l3.first, &l1, 7), DMT_LINEAGE_OLDER);
    /* a machine that has obeyed more than the force left room for: no number can tell the two
     * apart */
    assert_int_equal(dmt_lineage_relate(&l1, l2.first, &l2, l2.first), DMT_LINEAGE_BEYOND);
    assert_int_equal(dmt_lineage_relate(&l2, l2.first, &l1, l2.first), DMT_LINEAGE_BEYOND);
    /* both forced: neither came from the other */
    other = l1;
    assert_true(dmt_lineage_force(&other, third_id, 5));
    assert_int_equal(dmt_lineage_relate(&l2, l2.first, &other, other.first), DMT_LINEAGE_FOREIGN);
    /* only so many are remembered, and epochs end */
    for (int i = 0; i < 20; i++)
        assert_true(dmt_lineage_force(&l3, l3.past[0], 7));
    assert_int_equal(l3.past_n, DMT_LINEAGE_PAST_MAX);
    assert_false(dmt_lineage_force(&l3, new_id, UINT32_MAX - DMT_LINEAGE_STEP));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_force_is_recorded_before_it_is_done),
        cmocka_unit_test(a_force_goes_beyond_what_the_register_said),
        cmocka_unit_test(a_peer_that_lives_is_not_forced_out),
        cmocka_unit_test(who_may_be_forced),
        cmocka_unit_test(what_is_mounted_goes_first),
        cmocka_unit_test(who_gave_up_learns_of_a_force),
        cmocka_unit_test(a_lineage_that_is_over_is_left_by_a_resync),
        cmocka_unit_test(how_lineages_lie_to_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
