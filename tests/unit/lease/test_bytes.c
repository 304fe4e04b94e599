/* test_bytes.c: what the lease writes down: node.state, ping messages, arbiter JSON; and rule
 * 25. */
#include "tests/unit/lease/core.h"

#include <jansson.h>
#include <stdlib.h>

#include "fs/base/bytes.h"
#include "fs/base/clock.h"
#include "fs/base/hash.h"
#include "fs/lease/arbiter.h"

/* The vectors of docs/formats-lease.md, computed from that page by an independent program. */
static const char vector_record[] =
    "444e535402000000000102030405060708090a0b0c0d0e0f0100000000000000"
    "03000000677075a0a1a2a3a4a5a6a7a8a9aaabacadaeaf010000000300000001"
    "000000030000004000000003000000637075b0b1b2b3b4b5b6b7b8b9babbbcbd"
    "bebfd6449a84";
static const char vector_ping[] = "210001010000000300000015cd5b070000000000000000520300000c00000000"
                                  "000000";
static const char vector_record_1[] =
    "444e535401000000000102030405060708090a0b0c0d0e0f03000000677075a0"
    "a1a2a3a4a5a6a7a8a9aaabacadaeaf0100000003000000010000000300000040"
    "00000003000000637075b0b1b2b3b4b5b6b7b8b9babbbcbdbebf4136bb59";
static const char vector_pong[] = "210002010000000300000015cd5b070000000058020000000000000000000000"
                                  "000000";
static const char vector_nack[] = "210003000000000400000015cd5b070000000000000000000000000000000000"
                                  "000000";
static const char vector_ask[] =
    "{\"base\":8,\"first\":1,\"id\":4,\"lease_ms\":600,\"op\":\"pair\",\"peer\":{\"node\":\"B\","
    "\"store\":\"02000000000000000000000000000000\"},\"seen\":\"0000000800000001\","
    "\"word\":false}";
static const char vector_register[] =
    "{\"epoch\":9,\"holder\":{\"node\":\"A\","
    "\"store\":\"01000000000000000000000000000000\"},\"insync\":[{\"node\":\"A\","
    "\"store\":\"01000000000000000000000000000000\"},{\"node\":\"B\","
    "\"store\":\"02000000000000000000000000000000\"}]}";

static void assert_hex(const void *p, size_t n, const char *hex)
{
    char got[512];
    assert_true(n < sizeof(got) / 2);
    dmt_hex(p, n, got);
    assert_string_equal(got, hex);
}

static void bytes_of_a_record(void **state)
{
    (void)state;
    struct lease_record r = {
        .seen = DMT_EPOCH(3, 1), .hold = DMT_EPOCH(3, 1), .ever_paired = true, .lineage.first = 1};
    struct dmt_buf b;
    r.self = an_id("gpu", 0xa0);
    r.peer = an_id("cpu", 0xb0);
    for (uint8_t i = 0; i < 16; i++) {
        r.lineage.id[i] = i;
        r.self.store[i] = (uint8_t)(0xa0 + i);
        r.peer.store[i] = (uint8_t)(0xb0 + i);
    }
    dmt_buf_init(&b);
    assert_int_equal(lease_record_encode(&r, &b), 0);
    assert_hex(b.p, b.len, vector_record);
    dmt_buf_free(&b);
}

/* A message in its frame: the length goes before it. */
static void assert_frame(const struct lease_msg *m, const char *hex)
{
    struct dmt_buf b;
    dmt_buf_init(&b);
    dmt_put_u16(&b, 0);
    lease_msg_encode(m, &b);
    dmt_st16(b.p, (uint16_t)(b.len - 2));
    assert_hex(b.p, b.len, hex);
    dmt_buf_free(&b);
}

static void bytes_of_pings(void **state)
{
    (void)state;
    struct lease_msg m = {.type = LEASE_PING,
                          .epoch = DMT_EPOCH(3, 1),
                          .sent_ns = 123456789,
                          .rtt_us = 850,
                          .oldest_sync_ms = 12};
    assert_frame(&m, vector_ping);
    m = (struct lease_msg){
        .type = LEASE_PONG, .epoch = DMT_EPOCH(3, 1), .sent_ns = 123456789, .promise_ms = 600};
    assert_frame(&m, vector_pong);
    m = (struct lease_msg){.type = LEASE_NACK, .epoch = DMT_EPOCH(4, 0), .sent_ns = 123456789};
    assert_frame(&m, vector_nack);
}

static void assert_json(json_t *v, const char *want)
{
    char *got = json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(v);
    assert_non_null(got);
    assert_string_equal(got, want);
    free(got);
}

static void text_of_a_request_and_a_register(void **state)
{
    (void)state;
    struct lease_register r = a_register(9, "A", 1, "B", 2);
    struct lease_ask q = {.op = LEASE_PAIR,
                          .id = 4,
                          .base = 8,
                          .first = 1,
                          .seen = DMT_EPOCH(8, 1),
                          .lease_ms = 600,
                          .peer = an_id("B", 2)};
    assert_json(lease_ask_json(&q), vector_ask);
    assert_json(lease_register_json(&r), vector_register);
}

static struct lease_record full_record(void)
{
    struct lease_record r = a_paired_record();
    memset(r.lineage.id, 0xab, 16);
    r.lineage.first = 7;
    r.lineage.past_n = 2;
    memset(r.lineage.past[0], 1, 16);
    memset(r.lineage.past[1], 2, 16);
    r.dual_ack = r.fenced = r.peer_stopped = true;
    return r;
}

static void a_record_comes_back_as_it_was(void **state)
{
    (void)state;
    struct lease_record r = full_record(), back;
    struct dmt_buf b;
    dmt_buf_init(&b);
    assert_int_equal(lease_record_encode(&r, &b), 0);
    assert_int_equal(lease_record_decode(b.p, b.len, &back, NULL), 0);
    assert_memory_equal(&back.lineage, &r.lineage, sizeof(r.lineage));
    assert_true(lease_id_eq(&back.self, &r.self) && lease_id_eq(&back.peer, &r.peer));
    assert_true(back.seen == r.seen && back.hold == r.hold);
    assert_true(back.dual_ack && back.fenced && back.peer_stopped && back.ever_paired);
    assert_false(back.alone || back.gave_up || back.resync || back.readonly);
    dmt_buf_free(&b);
}

/* Version 1, as it was written before lineages had a first epoch. */
static void a_record_of_version_1_is_read(void **state)
{
    (void)state;
    struct lease_record back;
    uint8_t v1[128];
    size_t n = strlen(vector_record_1) / 2;
    assert_true(n <= sizeof(v1));
    assert_int_equal(dmt_unhex(vector_record_1, v1, n), 0);
    assert_int_equal(lease_record_decode(v1, n, &back, NULL), 0);
    assert_int_equal(back.lineage.id[15], 15);
    assert_true(back.lineage.first == 1 && back.lineage.past_n == 0);
    assert_true(back.seen == DMT_EPOCH(3, 1) && strcmp(back.peer.node, "cpu") == 0);
    /* never paired, so restored from an archive: no arbiter has heard of its lineage */
    v1[63] = 1;
    dmt_st32(v1 + n - 4, dmt_crc32c(0, v1, n - 4));
    assert_int_equal(lease_record_decode(v1, n, &back, NULL), 0);
    assert_int_equal(back.lineage.first, 3);
}

static void a_record_with_any_bit_changed_is_refused(void **state)
{
    (void)state;
    struct lease_record r = full_record(), back;
    struct dmt_buf b;
    dmt_buf_init(&b);
    assert_int_equal(lease_record_encode(&r, &b), 0);
    for (size_t i = 0; i < b.len * 8; i++) {
        b.p[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_true(lease_record_decode(b.p, b.len, &back, NULL) < 0);
        b.p[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    for (size_t n = 0; n < b.len; n++)
        assert_true(lease_record_decode(b.p, n, &back, NULL) < 0);
    dmt_buf_free(&b);
}

static void messages_come_back_and_nonsense_does_not(void **state)
{
    (void)state;
    struct lease_msg m = {.type = LEASE_PONG,
                          .epoch = DMT_EPOCH(7, 3),
                          .sent_ns = 12345,
                          .promise_ms = 600,
                          .rtt_us = 4,
                          .oldest_sync_ms = 5,
                          .flags = LEASE_F_RESYNC},
                     back;
    struct dmt_buf b;
    dmt_buf_init(&b);
    lease_msg_encode(&m, &b);
    assert_int_equal(lease_msg_decode(b.p, b.len, &back), 0);
    assert_true(back.type == m.type && back.epoch == m.epoch && back.sent_ns == m.sent_ns &&
                back.promise_ms == m.promise_ms);
    assert_true(lease_msg_decode(b.p, b.len - 1, &back) < 0);
    b.p[0] = 99;
    assert_true(lease_msg_decode(b.p, b.len, &back) < 0);
    b.p[0] = LEASE_PONG;
    dmt_st32(b.p + 17,
             LEASE_H_MAX_MS + 1); /* a promise longer than any node waits for after its start */
    assert_true(lease_msg_decode(b.p, b.len, &back) < 0);
    for (int i = 0; i < 20000; i++) {
        uint8_t junk[64];
        size_t n = (size_t)(rand() % 64);
        dmt_random(junk, sizeof(junk));
        (void)lease_msg_decode(junk, n, &back);
    }
    dmt_buf_free(&b);
}

static void registers_and_requests_come_back_from_json(void **state)
{
    (void)state;
    struct lease_register r = a_register(9, "A", 1, "B", 2), rb;
    json_t *v = lease_register_json(&r);
    assert_true(lease_register_parse(v, &rb));
    assert_true(rb.epoch == 9 && rb.insync_n == 2 && lease_id_eq(&rb.holder, &r.holder) &&
                lease_id_eq(&rb.insync[1], &r.insync[1]));
    json_object_set_new(v, "epoch", json_integer(-1));
    assert_false(lease_register_parse(v, &rb));
    json_decref(v);
    struct lease_register none = {0};
    v = lease_register_json(&none);
    assert_true(json_is_null(v) && lease_register_parse(v, &rb) && rb.epoch == 0);
    json_decref(v);

    struct lease_ask q = {.op = LEASE_PAIR,
                          .id = 4,
                          .base = 8,
                          .first = 6,
                          .seen = DMT_EPOCH(0xfffffff0u, 0xffffffffu),
                          .peer = an_id("B", 2),
                          .word = true},
                     qb;
    v = lease_ask_json(&q);
    assert_true(lease_ask_parse(v, &qb));
    assert_true(qb.op == q.op && qb.id == q.id && qb.base == q.base && qb.first == q.first &&
                qb.seen == q.seen && qb.word && lease_id_eq(&qb.peer, &q.peer));
    json_object_set_new(v, "op", json_string("destroy"));
    assert_false(lease_ask_parse(v, &qb));
    json_decref(v);
    v = json_pack("{s:s s:i s:i}", "op", "solo", "id", 1, "base",
                  1); /* without seen: F17 could not be checked */
    assert_false(lease_ask_parse(v, &qb));
    json_decref(v);
}

/* R25: refused with the numbers. */
static void timers_that_break_an_inequality_are_refused(void **state)
{
    (void)state;
    struct dmt_err err;
    struct dmt_lease_timers ok = {0}, wan = {.ping_ms = 100,
                                             .lease_ms = 1500,
                                             .gate_ms = 330,
                                             .rtt_ms = 100,
                                             .stall_ms = 700};
    assert_int_equal(dmt_lease_timers_check(&ok, &err), 0);
    assert_int_equal(ok.ping_ms, 60);
    assert_int_equal(dmt_lease_timers_check(&wan, &err), 0);
    struct dmt_lease_timers unsafe = {
        .f_permille = 900}; /* the holder would still answer when the follower may ask */
    assert_int_equal(dmt_lease_timers_check(&unsafe, &err), DMT_E_CONFIG);
    assert_non_null(strstr(err.msg, "exceeds H/(1+rho) = 594"));
    struct dmt_lease_timers stalls = {.ping_ms = 200};
    assert_int_equal(dmt_lease_timers_check(&stalls, &err), DMT_E_CONFIG);
    assert_non_null(strstr(err.msg, "801"));
    struct dmt_lease_timers slow = {.lease_ms = 5000};
    assert_int_equal(dmt_lease_timers_check(&slow, &err), DMT_E_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_of_a_record),
        cmocka_unit_test(bytes_of_pings),
        cmocka_unit_test(text_of_a_request_and_a_register),
        cmocka_unit_test(a_record_comes_back_as_it_was),
        cmocka_unit_test(a_record_of_version_1_is_read),
        cmocka_unit_test(a_record_with_any_bit_changed_is_refused),
        cmocka_unit_test(messages_come_back_and_nonsense_does_not),
        cmocka_unit_test(registers_and_requests_come_back_from_json),
        cmocka_unit_test(timers_that_break_an_inequality_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
