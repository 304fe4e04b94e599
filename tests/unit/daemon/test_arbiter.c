/* test_arbiter.c: the register: its decisions, its database, and the address check of the API. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/api/api.h"
#include "daemon/controller/db.h"
#include "daemon/controller/decide.h"

#define LINEAGE "00112233445566778899aabbccddeeff"

static struct lease_id an_id(const char *node, uint8_t store)
{
    struct lease_id id = {.store = {store}};
    memcpy(id.node, node, strlen(node) + 1);
    return id;
}

static struct ctl_verdict decide(const struct lease_register *reg, const char *node, uint8_t store,
                                 enum lease_op op, uint32_t base, uint32_t seen, uint64_t heard_ms)
{
    struct ctl_view v = {.reg = *reg, .holder_heard_ms = heard_ms};
    struct lease_ask q = {.op = op,
                          .base = base,
                          .first = 1,
                          .seen = DMT_EPOCH(seen, 0),
                          .peer = an_id("B", 2),
                          .lease_ms = 600};
    struct lease_id from = an_id(node, store);
    struct ctl_verdict r;
    ctl_decide(&v, &from, &q, &r);
    return r;
}

static struct lease_register pair_at(uint32_t epoch)
{
    struct lease_register r = {.epoch = epoch, .holder = an_id("A", 1), .insync_n = 2};
    r.insync[0] = r.holder;
    r.insync[1] = an_id("B", 2);
    return r;
}

#define NEVER UINT64_MAX

/* R1, F5 */
static void only_requests_based_on_the_current_epoch_change_anything(void **state)
{
    (void)state;
    struct lease_register reg = pair_at(5);
    for (uint32_t base = 1; base < 9; base++) {
        struct ctl_verdict r = decide(&reg, "A", 1, LEASE_SOLO, base, 5, NEVER);
        assert_int_equal(r.granted, base == 5);
        assert_int_equal(r.next.epoch, base == 5 ? 6 : 5);
    }
    struct ctl_verdict r = decide(&reg, "A", 1, LEASE_SOLO, 5, 5, NEVER);
    r = decide(&r.next, "A", 1, LEASE_SOLO, 5, 5, NEVER); /* the same again, late */
    assert_false(r.granted);
    assert_int_equal(r.next.epoch, 6);
}

/* R7: only a member of the in-sync set, and the old holder is out in the same change. */
static void promote_is_for_the_in_sync_standby_and_leaves_it_alone(void **state)
{
    (void)state;
    struct lease_register reg = pair_at(5);
    struct ctl_verdict r = decide(&reg, "B", 2, LEASE_PROMOTE, 5, 5, NEVER);
    assert_true(r.granted && r.next.epoch == 6 && r.next.insync_n == 1);
    assert_string_equal(r.next.holder.node, "B");
    assert_false(
        decide(&reg, "B", 3, LEASE_PROMOTE, 5, 5, NEVER).granted); /* its disk was replaced (F8a) */
    assert_false(decide(&reg, "C", 4, LEASE_PROMOTE, 5, 5, NEVER).granted);
    assert_false(decide(&reg, "A", 1, LEASE_PROMOTE, 5, 5, NEVER).granted);
    reg.insync_n = 1;
    assert_false(decide(&reg, "B", 2, LEASE_PROMOTE, 5, 5, NEVER).granted);
}

/* F23 */
static void the_incumbent_comes_first_while_it_is_heard(void **state)
{
    (void)state;
    struct lease_register reg = pair_at(5);
    struct ctl_verdict r = decide(&reg, "B", 2, LEASE_PROMOTE, 5, 5, 100);
    assert_false(r.granted);
    assert_int_equal(r.retry_ms, 501);
    assert_true(decide(&reg, "B", 2, LEASE_PROMOTE, 5, 5, 600).granted);
    struct ctl_view v = {.reg = reg, .holder_heard_ms = 0};
    struct lease_ask q = {
        .op = LEASE_PROMOTE, .base = 5, .seen = DMT_EPOCH(5, 0), .lease_ms = 600, .word = true};
    struct lease_id b = an_id("B", 2);
    ctl_decide(&v, &b, &q, &r);
    assert_true(r.granted);
}

/* F17 */
static void a_register_that_lost_epochs_refuses_everything(void **state)
{
    (void)state;
    struct lease_register reg = pair_at(5), none = {0};
    for (enum lease_op op = LEASE_READ; op <= LEASE_RETAKE; op++) {
        struct ctl_verdict r = decide(&reg, "A", 1, op, 5, 6, NEVER);
        assert_true(!r.granted && r.behind && !r.changed);
        assert_true(decide(&none, "A", 1, op, 5, 5, NEVER).behind);
    }
}

static void a_new_lineage_starts_with_its_holders_first_change(void **state)
{
    (void)state;
    struct lease_register none = {0};
    assert_true(decide(&none, "A", 1, LEASE_READ, 0, 1, NEVER).granted);
    struct ctl_verdict r = decide(&none, "A", 1, LEASE_PAIR, 1, 1, NEVER);
    assert_true(r.granted && r.next.epoch == 2 && r.next.insync_n == 2);
    assert_false(decide(&none, "A", 1, LEASE_HANDOVER, 1, 1, NEVER).granted);
    assert_false(decide(&none, "B", 2, LEASE_PROMOTE, 1, 1, NEVER).granted);
}

/* A workspace restored from an archive, or forced, begins above epoch 1, in a lineage of its
 * own. */
static void a_lineage_may_begin_above_epoch_1(void **state)
{
    (void)state;
    struct ctl_view v = {.holder_heard_ms = NEVER};
    struct lease_ask q = {
        .op = LEASE_PAIR, .base = 6, .first = 6, .seen = DMT_EPOCH(6, 3), .peer = an_id("B", 2)};
    struct lease_id a = an_id("A", 1), b = an_id("B", 2);
    struct ctl_verdict r;
    ctl_decide(&v, &a, &q, &r);
    assert_true(r.granted && r.next.epoch == 7 && r.next.insync_n == 2);
    assert_true(lease_id_eq(&r.next.holder, &a));
    /* its standby reads before there is a register, without knowing where the lineage began */
    struct lease_ask read = {.op = LEASE_READ, .seen = DMT_EPOCH(6, 3)};
    ctl_decide(&v, &b, &read, &r);
    assert_true(r.granted && !r.behind && r.next.epoch == 0);
    /* F17 as ever: somebody has obeyed more than what needs no register */
    for (enum lease_op op = LEASE_READ; op <= LEASE_RETAKE; op++) {
        q.op = op;
        q.seen = DMT_EPOCH(7, 0);
        q.base = op == LEASE_READ ? 0 : 7;
        ctl_decide(&v, &a, &q, &r);
        assert_true(r.behind && !r.granted && !r.changed);
    }
    /* and only its founder, who speaks for that epoch, makes the register */
    q = (struct lease_ask){.op = LEASE_SOLO, .base = 5, .first = 6, .seen = DMT_EPOCH(5, 0)};
    ctl_decide(&v, &a, &q, &r);
    assert_false(r.granted);
    q = (struct lease_ask){.op = LEASE_SOLO, .seen = DMT_EPOCH(1, 0)};
    ctl_decide(&v, &a, &q, &r);
    assert_false(r.granted);
}

static void nothing_is_granted_in_a_lineage_that_is_over(void **state)
{
    (void)state;
    struct ctl_view v = {.reg = pair_at(5), .holder_heard_ms = NEVER, .over = true};
    struct lease_id a = an_id("A", 1), b = an_id("B", 2);
    for (enum lease_op op = LEASE_READ; op <= LEASE_RETAKE; op++) {
        struct lease_ask q = {.op = op, .base = 5, .first = 1, .seen = DMT_EPOCH(5, 0), .peer = b};
        struct ctl_verdict r;
        ctl_decide(&v, op == LEASE_PROMOTE ? &b : &a, &q, &r);
        assert_false(r.granted || r.changed || r.behind);
        assert_int_equal(r.next.epoch, 5);
    }
}

static void only_the_holder_pairs_hands_over_and_retakes(void **state)
{
    (void)state;
    struct lease_register reg = pair_at(5), solo = pair_at(5);
    solo.insync_n = 1;
    for (enum lease_op op = LEASE_SOLO; op <= LEASE_RETAKE; op++)
        if (op != LEASE_PROMOTE)
            assert_false(decide(&reg, "B", 2, op, 5, 5, NEVER).granted);
    assert_true(decide(&solo, "A", 1, LEASE_PAIR, 5, 5, NEVER).granted);
    assert_false(decide(&reg, "A", 1, LEASE_PAIR, 5, 5, NEVER).granted); /* it has a pair */
    struct ctl_verdict r = decide(&reg, "A", 1, LEASE_HANDOVER, 5, 5, NEVER);
    assert_true(r.granted && r.next.insync_n == 2);
    assert_string_equal(r.next.holder.node, "B");
    assert_false(decide(&solo, "A", 1, LEASE_HANDOVER, 5, 5, NEVER).granted);
    r = decide(&reg, "A", 1, LEASE_RETAKE, 5, 5, NEVER);
    assert_true(r.granted && r.next.insync_n == 2 && r.next.epoch == 6);
}

/* --- database --- */

struct file {
    char dir[64], path[96];
};

static void file_init(struct file *f)
{
    (void)snprintf(f->dir, sizeof(f->dir), "/var/tmp/dumont-ctl.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->path, sizeof(f->path), "%s/controller.db", f->dir);
}

static void file_free(const struct file *f)
{
    char path[128];
    static const char *const ends[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof(path), "%s%s", f->path, ends[i]);
        (void)unlink(path);
    }
    (void)rmdir(f->dir);
}

static void a_change_is_compared_stored_and_kept(void **state)
{
    (void)state;
    struct file f;
    struct ctl_db *db;
    struct dmt_err err = {0};
    struct lease_register reg = pair_at(2), back;
    file_init(&f);
    assert_int_equal(ctl_db_open(&db, f.path, &err), 0);
    assert_int_equal(ctl_db_register(db, LINEAGE, &back, &err), 0);
    assert_int_equal(back.epoch, 0);
    assert_int_equal(ctl_db_workspace(db, "w", LINEAGE, &err), 0);
    assert_int_equal(ctl_db_change(db, LINEAGE, "w", 0, &reg, "A", "pair", "epoch 2", &err), 0);
    /* Somebody else was faster: neither the register nor the history moves. */
    reg.epoch = 9;
    assert_int_equal(ctl_db_change(db, LINEAGE, "w", 1, &reg, "A", "solo", "epoch 9", &err),
                     DMT_E_CONFLICT);
    ctl_db_close(db);
    assert_int_equal(ctl_db_open(&db, f.path, &err), 0);
    assert_int_equal(ctl_db_register(db, LINEAGE, &back, &err), 0);
    assert_true(back.epoch == 2 && back.insync_n == 2);
    json_t *events = ctl_db_events(db, "w", 10);
    assert_int_equal(json_array_size(events), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(events, 0), "kind")),
                        "pair");
    json_decref(events);
    char lineage[33];
    assert_int_equal(ctl_db_lineage_of(db, "w", lineage, &err), 1);
    assert_string_equal(lineage, LINEAGE);
    ctl_db_close(db);
    file_free(&f);
}

static void a_database_that_is_none_is_refused(void **state)
{
    (void)state;
    struct file f;
    struct ctl_db *db;
    struct dmt_err err = {0};
    file_init(&f);
    FILE *t = fopen(f.path, "we");
    assert_non_null(t);
    for (int i = 0; i < 4096; i++)
        fputc('x', t);
    fclose(t);
    assert_true(ctl_db_open(&db, f.path, &err) < 0);
    assert_true(err.msg[0]);
    file_free(&f);
}

/* What an agent tells, again until it is answered, stands in the history once and in order. */
static void an_event_told_twice_is_written_once(void **state)
{
    (void)state;
    struct file f;
    struct ctl_db *db = NULL;
    struct dmt_err err = {0};
    file_init(&f);
    assert_int_equal(ctl_db_open(&db, f.path, &err), 0);
    for (int64_t n = 1; n <= 3; n++) {
        struct ctl_told e = {.n = n, .at_ns = 100 + n, .kind = "k", .text = "t"};
        for (int again = 0; again < 3; again++)
            assert_int_equal(ctl_db_node_event(db, "w", "a", 7, &e, &err), 0);
        e.n = 1; /* the first again, after later ones */
        assert_int_equal(ctl_db_node_event(db, "w", "a", 7, &e, &err), 0);
    }
    struct ctl_told first = {.n = 1, .at_ns = 200, .kind = "k", .text = "new process"};
    assert_int_equal(ctl_db_node_event(db, "w", "a", 8, &first, &err), 0);
    assert_int_equal(ctl_db_node_event(db, "w", "b", 8, &first, &err), 0);
    ctl_db_close(db);
    assert_int_equal(ctl_db_open(&db, f.path, &err), 0);
    assert_int_equal(ctl_db_node_event(db, "w", "a", 8, &first, &err), 0);
    json_t *list = ctl_db_events(db, "w", 100);
    assert_int_equal(json_array_size(list), 5);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(json_integer_value(json_object_get(json_array_get(list, i), "at_ns")),
                         101 + (int)i);
    json_decref(list);
    ctl_db_close(db);
    file_free(&f);
}

/* A machine that was cut off tells later what happened before: it stands where it belongs, and is
 * not lost behind what is newer. */
static void events_stand_in_the_order_of_time(void **state)
{
    (void)state;
    static const struct {
        const char *node;
        int64_t n, at_ns;
    } told[] = {{"b", 1, 20}, {"b", 2, 40}, {"a", 1, 10}, {"a", 2, 20}, {"a", 3, 30}, {"a", 4, 50}};
    static const int64_t want[] = {10, 20, 20, 30, 40, 50};
    struct file f;
    struct ctl_db *db = NULL;
    struct dmt_err err = {0};
    file_init(&f);
    assert_int_equal(ctl_db_open(&db, f.path, &err), 0);
    for (size_t i = 0; i < 6; i++) {
        struct ctl_told e = {.n = told[i].n, .at_ns = told[i].at_ns, .kind = "k", .text = "t"};
        assert_int_equal(ctl_db_node_event(db, "w", told[i].node, 7, &e, &err), 0);
    }
    for (int all = 0; all < 2; all++) {
        json_t *list = ctl_db_events(db, all ? NULL : "w", 100);
        assert_int_equal(json_array_size(list), 6);
        for (size_t i = 0; i < 6; i++)
            assert_int_equal(json_integer_value(json_object_get(json_array_get(list, i), "at_ns")),
                             want[i]);
        json_decref(list);
        list = ctl_db_events(db, all ? NULL : "w", 4); /* what came last */
        assert_int_equal(json_array_size(list), 4);
        assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 0), "at_ns")), 10);
        json_decref(list);
    }
    ctl_db_close(db);
    file_free(&f);
}

/* --- addresses --- */

static void the_api_listens_on_this_machine_only(void **state)
{
    (void)state;
    static const char *const good[] = {"127.0.0.1:7400", "127.1.2.3:1", "localhost:7400",
                                       "[::1]:7400", "unix:/run/x.sock"};
    static const char *const wrong[] = {
        "0.0.0.0:7400", "10.0.0.1:7400",  "[::]:7400", "192.168.1.1:80", "example.org:80",
        ":7400",        "7400",           "127.0.0.1", "127.0.0.1:0",    "127.0.0.1:70000",
        "unix:x",       "128.0.0.1:7400", "",          "[::1]"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(api_check_address(good[i], NULL), 0);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct dmt_err err = {0};
        assert_int_equal(api_check_address(wrong[i], &err), DMT_E_CONFIG);
        assert_true(err.msg[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_requests_based_on_the_current_epoch_change_anything),
        cmocka_unit_test(promote_is_for_the_in_sync_standby_and_leaves_it_alone),
        cmocka_unit_test(the_incumbent_comes_first_while_it_is_heard),
        cmocka_unit_test(a_register_that_lost_epochs_refuses_everything),
        cmocka_unit_test(a_new_lineage_starts_with_its_holders_first_change),
        cmocka_unit_test(nothing_is_granted_in_a_lineage_that_is_over),
        cmocka_unit_test(a_lineage_may_begin_above_epoch_1),
        cmocka_unit_test(only_the_holder_pairs_hands_over_and_retakes),
        cmocka_unit_test(a_change_is_compared_stored_and_kept),
        cmocka_unit_test(a_database_that_is_none_is_refused),
        cmocka_unit_test(an_event_told_twice_is_written_once),
        cmocka_unit_test(events_stand_in_the_order_of_time),
        cmocka_unit_test(the_api_listens_on_this_machine_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
