/* core.h: helpers to feed the lease core by hand and look at what it decides. */
#ifndef DMT_TEST_LEASE_CORE_H
#define DMT_TEST_LEASE_CORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "fs/lease/core.h"

/* One node under test: A (store 1). The other is B (store 2). */
struct t {
    struct lease_core_conf conf;
    struct lease_state s;
    struct lease_actions out;
    uint64_t now, tail;
};

static inline struct lease_id an_id(const char *node, uint8_t store)
{
    struct lease_id id = {.store = {store}};
    memcpy(id.node, node, strlen(node) + 1);
    return id;
}

static inline struct lease_record a_record(void)
{
    struct lease_record r = {.self = an_id("A", 1)};
    return r;
}

/* A holder in a pair, epoch 5.0, its register's content. */
static inline struct lease_record a_paired_record(void)
{
    struct lease_record r = a_record();
    r.hold = r.seen = DMT_EPOCH(5, 0);
    r.peer = an_id("B", 2);
    r.ever_paired = true;
    return r;
}

static inline struct lease_register a_register(uint32_t epoch, const char *holder, uint8_t store, const char *other,
                                               uint8_t other_store)
{
    struct lease_register r = {.epoch = epoch, .holder = an_id(holder, store), .insync_n = other ? 2 : 1};
    r.insync[0] = r.holder;
    if (other)
        r.insync[1] = an_id(other, other_store);
    return r;
}

static inline void t_event(struct t *t, struct lease_event *e)
{
    e->tail = t->tail;
    lease_step(&t->s, e, t->now, &t->out);
}

static inline void t_feed(struct t *t, enum lease_ev type)
{
    struct lease_event e = {.type = type};
    t_event(t, &e);
}

static inline void t_start(struct t *t, const struct lease_record *r)
{
    assert_int_equal(dmt_lease_timers_check(&t->conf.timers, NULL), 0);
    if (!t->conf.solo_after_ms)
        t->conf.solo_after_ms = 10000;
    t->conf.has_peer = true;
    t->conf.instance = 77;
    if (!t->now)
        t->now = 1000 * DMT_S;
    lease_core_init(&t->s, &t->conf, r);
    t_feed(t, LEASE_EV_START);
}

/* Index of the first action of a type, or -1. */
static inline int t_find(const struct t *t, enum lease_act type)
{
    for (int i = 0; i < t->out.n; i++)
        if (t->out.a[i].type == type)
            return i;
    return -1;
}

static inline const struct lease_action *t_action(const struct t *t, enum lease_act type)
{
    int i = t_find(t, type);
    return i < 0 ? NULL : &t->out.a[i];
}

static inline bool t_asks(const struct t *t, enum lease_op op)
{
    for (int i = 0; i < t->out.n; i++)
        if (t->out.a[i].type == LEASE_ACT_ASK && t->out.a[i].ask.op == op)
            return true;
    return false;
}

static inline bool t_sends(const struct t *t, enum lease_msg_type type)
{
    for (int i = 0; i < t->out.n; i++)
        if (t->out.a[i].type == LEASE_ACT_SEND && t->out.a[i].msg.type == type)
            return true;
    return false;
}

static inline enum dmt_lease_state t_state(const struct t *t)
{
    return lease_core_state(&t->s);
}

/* Lets time pass in small steps; true as soon as the core asks op. */
static inline bool t_wait_ask(struct t *t, enum lease_op op, uint64_t ms)
{
    for (uint64_t end = t->now + ms * DMT_MS; t->now < end;) {
        t->now += 5 * DMT_MS;
        t_feed(t, LEASE_EV_TICK);
        if (t_asks(t, op))
            return true;
    }
    return false;
}

static inline void t_pass(struct t *t, uint64_t ms)
{
    for (uint64_t end = t->now + ms * DMT_MS; t->now < end;) {
        t->now += 5 * DMT_MS;
        t_feed(t, LEASE_EV_TICK);
    }
}

static inline void t_answer(struct t *t, enum lease_answer answer, const struct lease_register *reg)
{
    struct lease_event e = {.type = LEASE_EV_ANSWER, .ask_id = t->s.ask.id, .answer = answer};
    if (reg)
        e.reg = *reg;
    t_event(t, &e);
}

static inline void t_pong(struct t *t, uint64_t seen)
{
    struct lease_event e = {.type = LEASE_EV_MSG};
    e.msg = (struct lease_msg){
        .type = LEASE_PONG, .from = an_id("B", 2), .epoch = seen, .sent_ns = t->now - DMT_MS, .promise_ms = 600};
    t_event(t, &e);
}

static inline void t_ping(struct t *t, uint64_t epoch, uint64_t instance)
{
    struct lease_event e = {.type = LEASE_EV_MSG};
    e.msg =
        (struct lease_msg){.type = LEASE_PING, .from = an_id("B", 2), .epoch = epoch, .instance = instance, .sent_ns = 1};
    t_event(t, &e);
}

static inline void t_peer_up(struct t *t, uint8_t store, uint64_t epoch, bool ahead)
{
    struct lease_event e = {.type = LEASE_EV_PEER_UP, .id = an_id("B", store), .epoch = epoch, .ahead = ahead};
    t_event(t, &e);
}

static inline void t_acked(struct t *t, uint64_t epoch, uint64_t durable, uint64_t whole)
{
    struct lease_event e = {
        .type = LEASE_EV_PEER_ACK, .id = an_id("B", 2), .epoch = epoch, .durable = durable, .whole = whole};
    t_event(t, &e);
}

static inline void t_claim(struct t *t, uint64_t epoch, uint64_t switch_seq, uint64_t tail)
{
    struct lease_event e = {
        .type = LEASE_EV_PEER_EPOCH, .id = an_id("B", 2), .epoch = epoch, .switch_seq = switch_seq, .durable = tail};
    t_event(t, &e);
}

/* A paired holder that runs: pongs come, the peer is connected. */
static inline void t_paired(struct t *t)
{
    struct lease_record r = a_paired_record();
    t_start(t, &r);
    t_feed(t, LEASE_EV_PING_UP);
    t_feed(t, LEASE_EV_ARB_UP);
    t_pong(t, r.seen);
    t_peer_up(t, 2, r.seen, false);
    assert_int_equal(t_state(t), DMT_LEASE_HOLDER_PAIRED);
}

/* A holder alone in epoch 5.1 with the arbiter up. */
static inline void t_alone(struct t *t)
{
    struct lease_record r = a_record();
    r.hold = r.seen = DMT_EPOCH(5, 0);
    r.alone = true;
    t_start(t, &r);
    t_feed(t, LEASE_EV_PING_UP);
    t_feed(t, LEASE_EV_ARB_UP);
    assert_int_equal(t_state(t), DMT_LEASE_HOLDER_ALONE);
}

/* A follower of epoch 5.0; the promise of an earlier life has run out. */
static inline void t_follower(struct t *t)
{
    struct lease_record r = a_record();
    r.seen = DMT_EPOCH(5, 0);
    r.peer = an_id("B", 2);
    t_start(t, &r);
    t_feed(t, LEASE_EV_PING_UP);
    t_feed(t, LEASE_EV_ARB_UP);
    assert_int_equal(t_state(t), DMT_LEASE_FOLLOWER);
    t_ping(t, DMT_EPOCH(5, 0), 9);
}

#endif
