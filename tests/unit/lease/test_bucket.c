/* test_bucket.c: the core of the arbiter `bucket`: the order of record, mark and answer, what an
 * unanswered request means, restarts in the midst; and bucket.state as bytes. That two of them
 * exclude each other under every order of events is shown by tests/sim. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "fs/lease/bucket.h"

struct b {
    struct bucket_state s;
    struct bucket_record disk;
    struct bucket_actions out;
    uint64_t now;
};

static struct lease_id id(const char *node, uint8_t store)
{
    struct lease_id i = {.store = {store}};
    memcpy(i.node, node, strlen(node) + 1);
    return i;
}

/* Steps, and keeps what was written as the disk would. */
static void step(struct b *b, const struct bucket_event *e)
{
    bucket_step(&b->s, e, b->now, &b->out);
    for (int i = 0; i < b->out.n; i++)
        if (b->out.a[i].type == BUCKET_ACT_WRITE)
            b->disk = b->out.a[i].record;
}

static void start(struct b *b)
{
    struct bucket_event e = {.type = BUCKET_EV_START, .nonce = 7};
    bucket_init(&b->s, &b->disk);
    step(b, &e);
}

static void done(struct b *b, enum bucket_result r)
{
    struct bucket_event e = {.type = BUCKET_EV_DONE, .result = r};
    b->now += 3 * DMT_S;
    step(b, &e);
}

static void tick(struct b *b)
{
    struct bucket_event e = {.type = BUCKET_EV_TICK};
    b->now += 3 * DMT_S;
    step(b, &e);
}

static int find(const struct b *b, enum bucket_act type)
{
    for (int i = 0; i < b->out.n; i++)
        if (b->out.a[i].type == type)
            return i;
    return -1;
}

static void expect(const struct b *b, enum bucket_act type, const char *key)
{
    int i = find(b, type);
    assert_true(i >= 0);
    assert_string_equal(b->out.a[i].key, key);
}

static void pass_check(struct b *b)
{
    expect(b, BUCKET_ACT_GET, "test/0000000000000007");
    done(b, BUCKET_ABSENT);
    expect(b, BUCKET_ACT_PUT, "test/0000000000000007");
    done(b, BUCKET_STORED);
    done(b, BUCKET_FOUND);
    assert_true(b->out.a[find(b, BUCKET_ACT_UP)].up);
}

/* The pair of epoch 5; A holds. */
static void pair(struct b *b, const char *self, uint8_t store)
{
    memset(b, 0, sizeof(*b));
    b->now = 1000 * DMT_S;
    b->disk.self = id(self, store);
    b->disk.reg = (struct lease_register){
        .epoch = 5, .holder = id("A", 1), .insync = {id("A", 1), id("B", 2)}, .insync_n = 2};
    b->disk.confirmed = true;
    start(b);
    pass_check(b);
}

static void ask(struct b *b, enum lease_op op, uint32_t base)
{
    struct bucket_event e = {.type = BUCKET_EV_ASK};
    e.ask = (struct lease_ask){.op = op,
                               .id = 9,
                               .base = base,
                               .first = 1,
                               .seen = DMT_EPOCH(base, 0),
                               .peer = id("B", 2)};
    step(b, &e);
}

static void a_claim_is_recorded_put_confirmed_then_looked(void **state)
{
    (void)state;
    struct b b;
    pair(&b, "B", 2);
    ask(&b, LEASE_PROMOTE, 5);
    assert_true(find(&b, BUCKET_ACT_WRITE) < find(&b, BUCKET_ACT_PUT));
    assert_int_equal(b.disk.attempt, BUCKET_CLAIM);
    expect(&b, BUCKET_ACT_PUT, "claim/5");
    done(&b, BUCKET_STORED);
    expect(&b, BUCKET_ACT_GET, "claim/5");
    done(&b, BUCKET_FOUND);
    expect(&b, BUCKET_ACT_GET, "solo/5");
    done(&b, BUCKET_ABSENT);
    int write = find(&b, BUCKET_ACT_WRITE), answer = find(&b, BUCKET_ACT_ANSWER);
    assert_true(write >= 0 && write < answer);
    assert_int_equal(b.out.a[answer].answer, LEASE_GRANTED);
    assert_int_equal(b.disk.reg.epoch, 6);
    assert_string_equal(b.disk.reg.holder.node, "B");
    assert_int_equal(b.disk.reg.insync_n, 1);
}

/* The first epoch of a lineage is its founder's: 6 of one that was restored from an archive. */
static void a_lineage_may_begin_above_epoch_1(void **state)
{
    (void)state;
    struct b b;
    struct bucket_record none = {.self = id("A", 1)};
    memset(&b, 0, sizeof(b));
    b.disk = none;
    start(&b);
    pass_check(&b);
    struct bucket_event e = {.type = BUCKET_EV_ASK};
    e.ask = (struct lease_ask){
        .op = LEASE_SOLO, .id = 9, .base = 6, .first = 5, .seen = DMT_EPOCH(6, 0)};
    step(&b, &e);
    assert_int_equal(b.out.a[find(&b, BUCKET_ACT_ANSWER)].answer, LEASE_REFUSED);
    e.ask.first = 6;
    e.ask.id = 10;
    step(&b, &e);
    assert_int_equal(b.out.a[find(&b, BUCKET_ACT_ANSWER)].answer, LEASE_GRANTED);
    assert_int_equal(b.disk.reg.epoch, 7);
}

/* R17, R20 */
static void no_answer_decides_nothing(void **state)
{
    (void)state;
    struct b b;
    pair(&b, "B", 2);
    ask(&b, LEASE_PROMOTE, 5);
    done(&b, BUCKET_UNKNOWN); /* it may be there, it may come later */
    tick(&b);
    expect(&b, BUCKET_ACT_PUT, "claim/5");
    done(&b, BUCKET_STORED);
    done(&b, BUCKET_UNKNOWN);
    tick(&b);
    expect(&b, BUCKET_ACT_GET, "claim/5");
    done(&b, BUCKET_ABSENT); /* a store that forgets: once more from the beginning */
    expect(&b, BUCKET_ACT_PUT, "claim/5");
    done(&b, BUCKET_STORED);
    done(&b, BUCKET_FOUND);
    done(&b, BUCKET_UNKNOWN);
    assert_int_equal(find(&b, BUCKET_ACT_ANSWER), -1);
    tick(&b);
    expect(&b, BUCKET_ACT_GET, "solo/5");
    done(&b, BUCKET_FOUND); /* the holder was here: only its yield lets us go on */
    expect(&b, BUCKET_ACT_GET, "yield/5");
    done(&b, BUCKET_ABSENT);
    expect(&b, BUCKET_ACT_GET, "epoch/6/A");
    done(&b, BUCKET_ABSENT);
    tick(&b);
    expect(&b, BUCKET_ACT_GET, "yield/5");
    done(&b, BUCKET_FOUND);
    assert_int_equal(b.out.a[find(&b, BUCKET_ACT_ANSWER)].answer, LEASE_GRANTED);
}

/* R18 */
static void a_holder_that_reads_a_claim_yields_for_good(void **state)
{
    (void)state;
    struct b b;
    pair(&b, "A", 1);
    ask(&b, LEASE_SOLO, 5);
    expect(&b, BUCKET_ACT_PUT, "solo/5");
    done(&b, BUCKET_STORED);
    done(&b, BUCKET_FOUND);
    expect(&b, BUCKET_ACT_GET, "claim/5");
    done(&b, BUCKET_FOUND);
    assert_true(b.disk.yielded);
    assert_true(find(&b, BUCKET_ACT_WRITE) < find(&b, BUCKET_ACT_PUT));
    expect(&b, BUCKET_ACT_PUT, "yield/5");
    start(&b); /* also after a restart */
    expect(&b, BUCKET_ACT_PUT, "yield/5");
    done(&b, BUCKET_STORED);
    expect(&b, BUCKET_ACT_GET, "epoch/6/B");
    done(&b, BUCKET_FOUND);
    assert_int_equal(b.out.a[find(&b, BUCKET_ACT_REGISTER)].record.reg.epoch, 6);
    assert_string_equal(b.disk.reg.holder.node, "B");
}

/* R19 */
static void a_restart_goes_on_with_an_attempt(void **state)
{
    (void)state;
    struct b b;
    pair(&b, "A", 1);
    ask(&b, LEASE_SOLO, 5);
    start(&b);
    expect(&b, BUCKET_ACT_PUT, "solo/5");
    done(&b, BUCKET_STORED);
    done(&b, BUCKET_FOUND);
    done(&b, BUCKET_ABSENT);
    assert_int_equal(b.out.a[find(&b, BUCKET_ACT_REGISTER)].record.reg.epoch, 6);
    assert_int_equal(b.disk.attempt, BUCKET_NO_ATTEMPT);
    ask(&b, LEASE_PROMOTE, 5);
    assert_int_equal(b.out.a[find(&b, BUCKET_ACT_ANSWER)].answer, LEASE_REFUSED);
}

static void only_the_store_that_is_meant_opens_a_pair(void **state)
{
    (void)state;
    struct b b;
    struct bucket_event e = {.type = BUCKET_EV_MSG};
    pair(&b, "B", 2);
    e.msg = (struct lease_msg){
        .type = LEASE_BUCKET, .from = id("A", 1), .flags = BUCKET_OPEN, .epoch = 8, .sent_ns = 3};
    step(&b, &e);
    assert_int_equal(b.disk.reg.epoch, 5);
    e.msg.sent_ns = 2; /* the first bytes of B's store id */
    step(&b, &e);
    assert_int_equal(b.disk.reg.epoch, 8);
    int write = find(&b, BUCKET_ACT_WRITE), conf = find(&b, BUCKET_ACT_SEND);
    assert_true(write >= 0 && write < conf);
    assert_int_equal(b.out.a[conf].msg.flags, BUCKET_CONF);
    e.msg.epoch = 7; /* late */
    step(&b, &e);
    assert_int_equal(b.out.n == 0 || find(&b, BUCKET_ACT_SEND) < 0, 1);
}

static void a_bucket_that_forgets_is_refused(void **state)
{
    (void)state;
    struct b b = {.now = DMT_S};
    b.disk.self = id("A", 1);
    start(&b);
    done(&b, BUCKET_ABSENT);
    done(&b, BUCKET_STORED);
    done(&b, BUCKET_ABSENT);
    int up = find(&b, BUCKET_ACT_UP);
    assert_true(up >= 0);
    assert_false(b.out.a[up].up);
}

/* docs/formats-lease.md */
static void the_record_as_bytes(void **state)
{
    (void)state;
    struct bucket_record r = {.self = id("B", 2), .attempt = BUCKET_CLAIM, .confirmed = true}, back;
    memset(r.lineage, 9, 16);
    struct dmt_buf buf;
    struct dmt_err err = {0};
    r.reg = (struct lease_register){
        .epoch = 5, .holder = id("A", 1), .insync = {id("A", 1), id("B", 2)}, .insync_n = 2};
    dmt_buf_init(&buf);
    assert_int_equal(bucket_record_encode(&r, &buf), 0);
    assert_memory_equal(buf.p, "DBST\2\0\0\0\x9\x9\x9\x9", 12);
    assert_memory_equal((char *)buf.p + 24, "\1\0\0\0B\2", 6);
    assert_int_equal(bucket_record_decode(buf.p, buf.len, &back, &err), 0);
    assert_memory_equal(&back, &r, sizeof(r));
    for (size_t i = 0; i < buf.len; i++) { /* no byte may change unseen */
        buf.p[i] ^= 0x10;
        assert_true(bucket_record_decode(buf.p, buf.len, &back, &err) < 0);
        buf.p[i] ^= 0x10;
        assert_true(bucket_record_decode(buf.p, i, &back, &err) < 0);
    }
    dmt_buf_free(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_claim_is_recorded_put_confirmed_then_looked),
        cmocka_unit_test(a_lineage_may_begin_above_epoch_1),
        cmocka_unit_test(no_answer_decides_nothing),
        cmocka_unit_test(a_holder_that_reads_a_claim_yields_for_good),
        cmocka_unit_test(a_restart_goes_on_with_an_attempt),
        cmocka_unit_test(only_the_store_that_is_meant_opens_a_pair),
        cmocka_unit_test(a_bucket_that_forgets_is_refused),
        cmocka_unit_test(the_record_as_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
