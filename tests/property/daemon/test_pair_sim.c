/* test_pair_sim.c: two nodes, the register and the links between them under virtual time, from a
 * seed.
 *
 * Real: the lease core of both nodes (fs/lease/core*.c), their durable records, the register's
 * decisions (daemon/controller/decide.c). Modelled: journals (records of (epoch, id), durable up to
 * a point), the replica's conversation, the io queue of the driver, the gate, links, clocks with
 * rate errors. Faults: power cuts (the undurable tail is lost, and what the io thread had not done
 * yet), process crashes, freezes, cut links, an arbiter that is away or loses answers, requests
 * that arrive late and twice, handovers, orderly stops, word of death, and in every third run an
 * empty disk.
 *
 * Checked always: (1) an acknowledged sync is in the history of every later epoch (R14); (2) in one
 * epoch one node acknowledges; (3) one record per (epoch, position); (4) without freezes: plain
 * calls return nowhere once another node has opened a higher epoch (R12), within the gate-to-reply
 * allowance; (5) nothing is cut that no branch keeps. Checked at the end, all faults healed, no
 * disk lost: somebody serves, acknowledges syncs, and the pair is in sync again.
 *
 * PAIR_SIM_SEEDS=N, PAIR_SIM_FIRST=SEED, PAIR_SIM_VERBOSE=1. */
#include "tests/property/daemon/sim_node.h"

/* --- arbiter --- */

static void on_ask(struct node *n, const struct lease_ask *q, const struct lease_id *from)
{
    struct ctl_view v = {.reg = w.reg, .holder_heard_ms = UINT64_MAX};
    struct ctl_verdict r;
    if (!w.arb_up)
        return;
    for (int i = 0; i < 2; i++) {
        struct lease_id id = id_of(&w.n[i]);
        if (lease_id_eq(&id, &w.reg.holder) && !w.heard_dead[i] && w.heard[i])
            v.holder_heard_ms = (w.now - w.heard[i]) / MS;
    }
    ctl_decide(&v, from, q, &r);
    if (r.changed) {
        w.reg = r.next;
        say("register: %s by %s: epoch %u, %s holds, %d in sync", lease_op_name(q->op), n->name,
            w.reg.epoch, w.reg.holder.node, w.reg.insync_n);
        if (rnd(3)) {
            struct item *it = push(w.now + rnd(20 * MS), W_PUSH, 1 - idx(n));
            it->ev = calloc(1, sizeof(*it->ev));
            assert_non_null(it->ev);
            it->ev->type = LEASE_EV_REGISTER;
            it->ev->reg = w.reg;
        }
    }
    if (rnd(15) == 0 && !w.healed)
        return; /* the answer is lost */
    struct item *it = push(w.now + MS + rnd(rnd(10) == 0 ? 2000 * MS : 5 * MS), W_ANSWER, idx(n));
    it->ev = calloc(1, sizeof(*it->ev));
    assert_non_null(it->ev);
    it->ev->type = LEASE_EV_ANSWER;
    it->ev->ask_id = q->id;
    it->ev->answer = r.granted ? LEASE_GRANTED : LEASE_REFUSED;
    it->ev->reg = r.next;
    it->ev->retry_ms = r.retry_ms;
    (void)snprintf(it->ev->text, sizeof(it->ev->text), "%s", r.why);
}

/* --- life and faults --- */

static void new_store(struct node *n)
{
    static uint8_t serial;
    memset(&n->disk, 0, sizeof(n->disk));
    memcpy(n->disk.self.node, n->name, strlen(n->name) + 1);
    n->disk.self.store[0] = (uint8_t)(1 + idx(n));
    n->disk.self.store[1] = ++serial;
    n->tail = n->durable = 0;
    n->resyncing = false;
}

static void start(struct node *n)
{
    struct lease_core_conf c = {.solo_after_ms = 3000,
                                .degrade = DMT_DEGRADE_SOLO,
                                .has_peer = true,
                                .instance = rnd(0) | 1};
    c.instance = w.rnd | 1;
    assert_int_equal(dmt_lease_timers_check(&c.timers, NULL), 0);
    n->life++;
    n->up = true;
    n->next_step = 0;
    n->io_busy = n->fsyncing = n->streaming = n->opened = false;
    n->mode = LEASE_GATE_CLOSED;
    n->gen = n->gate_epoch = n->acked = n->deadline = n->follow = n->ready_epoch = 0;
    n->want_sync = 0;
    n->resyncing = false;
    bool holds = n->disk.hold != 0 && !n->disk.resync && !n->disk.gave_up;
    n->role = holds ? R_START : R_RECEIVER;
    lease_core_init(&n->s, &c, &n->disk);
    say("%s starts", n->name);
    feed(n, LEASE_EV_START);
    if (n->arb_link && w.arb_up)
        (void)post(n, LEASE_EV_ARB_UP, 20 * MS);
    push(w.now + rnd(50 * MS), W_CLIENT, idx(n));
}

/* power: what was not synced is gone. The io queue is gone in both cases. */
static void stop(struct node *n, bool power)
{
    if (!n->up)
        return;
    say("%s %s", n->name, power ? "loses power" : "crashes");
    if (power)
        n->tail = n->durable;
    n->up = false;
    n->life++;
    n->thaw_at = 0;
    drop_io(n);
    if (w.conn) {
        w.conn = 0;
        peer_gone(other(n));
    }
    free(n->peer_snap);
    n->peer_snap = NULL;
    n->fsyncing = false;
}

static void arb_links(void)
{
    for (int i = 0; i < 2; i++)
        if (w.n[i].up)
            (void)post(&w.n[i], w.n[i].arb_link && w.arb_up ? LEASE_EV_ARB_UP : LEASE_EV_ARB_DOWN,
                       0);
}

static void fault(void)
{
    struct node *n = &w.n[rnd(2)];
    static const uint64_t spans[] = {50, 400, 900, 2500, 8000, 15000};
    uint64_t span = (spans[rnd(6)] + rnd(300)) * MS;
    switch (rnd(11)) {
    case 0:
    case 1:
        say("link down for %llu ms", (unsigned long long)(span / MS));
        w.link = false;
        push(w.now + span, W_HEAL, -1)->n = 0;
        if (rnd(2))
            push(w.now + span / 2, W_PEER_LOST, -1)->conn = w.conn;
        break;
    case 2:
        n->arb_link = false;
        arb_links();
        push(w.now + span, W_HEAL, -1)->n = 1 + (uint64_t)idx(n);
        break;
    case 3:
        w.arb_up = false;
        arb_links();
        push(w.now + span, W_HEAL, -1)->n = 3;
        break;
    case 4:
    case 5:
        if (n->up) {
            stop(n, rnd(2));
            if (rnd(2))
                push(w.now + 5 * MS, W_DEATH, 1 - idx(n))->n = n->s.conf.instance;
            push(w.now + span, W_RESTART, -1)->n = (uint64_t)idx(n);
        }
        break;
    case 6:
        if (n->up && n->thaw_at <= w.now && rnd(2)) {
            say("%s is frozen for %llu ms", n->name, (unsigned long long)(span / MS));
            n->thaw_at = w.now + span;
            w.frozen_ever = true;
        }
        break;
    case 7:
        if (usable(n)) {
            struct lease_event e = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_HANDOVER};
            step(n, &e);
        }
        break;
    case 8:
        if (w.disks && rnd(3) == 0) {
            stop(n, true);
            say("%s gets an empty disk", n->name);
            new_store(n);
            other(n)->keep_from = other(n)->tail;
            push(w.now + span, W_RESTART, -1)->n = (uint64_t)idx(n);
        }
        break;
    case 9:
        if (rnd(2) && usable(n)) {
            feed(n, LEASE_EV_STOP);
            push(w.now + 200 * MS, W_HEAL, -1)->n = 10 + (uint64_t)idx(n);
            push(w.now + 200 * MS + span, W_RESTART, -1)->n = (uint64_t)idx(n);
        }
        break;
    case 10:
        if (rnd(2) && usable(n)) { /* an operator who is in a hurry */
            struct lease_event e = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_PROMOTE};
            w.frozen_ever = true; /* he vouches for the old holder's death; the plain check does not
                                     hold then */
            step(n, &e);
        }
        break;
    }
    if (!w.healed)
        push(w.now + 200 * MS + rnd(4000 * MS), W_FAULT, -1);
}

static void link_up(void)
{
    w.link = true;
    for (int i = 0; i < w.held_n; i++) {
        w.held[i]->at = w.now;
        heap_put(w.held[i]);
    }
    w.held_n = 0;
}

static void heal(uint64_t what)
{
    switch (what) {
    case 0:
        link_up();
        break;
    case 1:
    case 2:
        w.n[what - 1].arb_link = true;
        arb_links();
        break;
    case 3:
        w.arb_up = true;
        w.heard[0] = w.heard[1] = 0; /* it has restarted */
        arb_links();
        break;
    case 10:
    case 11:
        stop(&w.n[what - 10], false);
        break;
    default:
        break;
    }
}

/* Is everything the holder has at the other side? Then hand over. */
static void drain_check(struct node *n)
{
    if (lease_core_state(&n->s) != DMT_LEASE_HOLDER_PAIRED || !n->s.draining)
        return;
    bool all = n->mode == LEASE_GATE_WAIT && n->acked >= (uint64_t)n->tail && n->durable == n->tail;
    struct lease_event e = {.type = LEASE_EV_DRAINED, .err = all ? 0 : -ETIMEDOUT};
    if (all || rnd(20) == 0 || !w.conn)
        step(n, &e);
    else
        push(w.now + 20 * MS, W_DONE, idx(n))->n = 1;
}

static void run_item(struct item *it)
{
    struct node *n = it->node >= 0 ? &w.n[it->node] : NULL;
    switch (it->what) {
    case W_STEP:
        n->next_step = 0;
        feed(n, LEASE_EV_TICK);
        break;
    case W_MSG:
        on_msg(n, it->msg);
        break;
    case W_IO:
        do_io(n);
        break;
    case W_CONNECT:
        try_connect();
        break;
    case W_PEER_LOST:
        if (it->conn == w.conn)
            disconnect();
        break;
    case W_ASK:
        break; /* handled by the caller: the node need not live */
    case W_ANSWER:
    case W_PUSH:
        if (n->arb_link && w.arb_up)
            step(n, it->ev);
        break;
    case W_CLIENT:
        client(n);
        break;
    case W_FSYNC:
        n->fsyncing = false;
        if ((int)it->n <= n->tail && (int)it->n > n->durable)
            n->durable = (int)it->n;
        if (n->role == R_RECEIVER)
            send_ack(n);
        look_at_syncs(n);
        fsync_soon(n);
        break;
    case W_DONE:
        if (it->ev)
            step(n, it->ev);
        else
            drain_check(n);
        break;
    case W_DEATH: {
        struct lease_event e = {.type = LEASE_EV_DEATH, .id = id_of(other(n)), .instance = it->n};
        if (!other(n)->up)
            w.heard_dead[1 - idx(n)] = true;
        if (n->arb_link && w.arb_up)
            step(n, &e);
        break;
    }
    case W_RESTART:
        if (!w.n[it->n].up)
            start(&w.n[it->n]);
        break;
    case W_FAULT:
        if (!w.healed)
            fault();
        break;
    case W_HEAL:
        heal(it->n);
        break;
    }
}

static void advance(uint64_t until)
{
    struct item *it;
    while (!w.bad[0] && (it = heap_get())) {
        if (it->at > until) {
            heap_put(it);
            break;
        }
        w.now = it->at;
        struct node *n = it->node >= 0 ? &w.n[it->node] : NULL;
        bool keep = false;
        if (it->what == W_ASK) { /* on its way: the sender may be gone by now */
            on_ask(n, &it->ask, &it->from);
        } else if (it->what == W_MSG && (it->conn != w.conn || it->life != n->life)) {
            ; /* a connection that is over */
        } else if (n && (it->life != n->life || !n->up)) {
            ;
        } else if (it->what == W_MSG && !w.link) {
            assert_true(w.held_n < QUEUE_MAX); /* TCP holds it back, in order */
            w.held[w.held_n++] = it;
            continue;
        } else if (n && n->thaw_at > w.now) {
            it->at = n->thaw_at;
            keep = true;
        } else {
            run_item(it);
        }
        if (keep)
            heap_put(it);
        else
            item_free(it);
    }
    if (!w.bad[0])
        w.now = until;
}

static void set_up(uint64_t seed)
{
    memset(&w, 0, sizeof(w));
    w.seed = seed;
    w.rnd = seed * 0x9e3779b97f4a7c15ull + 1;
    for (int i = 0; i < 5; i++)
        (void)rnd(1);
    w.verbose = getenv("PAIR_SIM_VERBOSE") != NULL;
    w.link = w.arb_up = true;
    w.disks = seed % 3 == 0;
    for (int i = 0; i < 2; i++) {
        struct node *n = &w.n[i];
        (void)snprintf(n->name, sizeof(n->name), "%c", 'A' + i);
        n->off = (uint64_t)(i + 1) * 1000 * DMT_S;
        n->rate = 1.0 + ((double)rnd(2000) - 1000.0) / 1e5; /* within 1 % */
        n->arb_link = true;
        new_store(n);
    }
    w.n[0].disk.hold = w.n[0].disk.seen = DMT_EPOCH(1, 0);
    w.n[0].disk.alone = true;
    push(0, W_CONNECT, -1);
    push(3 * DMT_S + rnd(5 * DMT_S), W_FAULT, -1);
    start(&w.n[0]);
    start(&w.n[1]);
}

static void heal_all(void)
{
    say("--- everything is healed ---");
    w.healed = true;
    link_up();
    w.arb_up = true;
    for (int i = 0; i < 2; i++) {
        struct node *n = &w.n[i];
        n->arb_link = true;
        if (!n->up)
            start(n);
        if (n->s.rec.fenced) {
            struct lease_event e = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_PROMOTE};
            step(n, &e);
        }
    }
    arb_links();
}

static void tear_down(void)
{
    struct item *it;
    link_up();
    while ((it = heap_get()))
        item_free(it);
    for (int i = 0; i < 2; i++) {
        drop_io(&w.n[i]);
        free(w.n[i].peer_snap);
    }
}

static void one_run(uint64_t seed)
{
    set_up(seed);
    advance(RUN_NS);
    if (!w.bad[0])
        heal_all();
    advance(RUN_NS + HEAL_NS);
    judge_records();
    if (!w.bad[0] && !w.disks) {
        if (w.last_ack + 5 * DMT_S < w.now && w.next_id < RECS_MAX - 400)
            bad("nobody acknowledges: A is %s, B is %s",
                dmt_lease_state_name(lease_core_state(&w.n[0].s)),
                dmt_lease_state_name(lease_core_state(&w.n[1].s)));
        else if (w.reg.insync_n != 2)
            bad("the pair is not in sync again: A is %s, B is %s",
                dmt_lease_state_name(lease_core_state(&w.n[0].s)),
                dmt_lease_state_name(lease_core_state(&w.n[1].s)));
    }
    tear_down();
}

static void pairs_keep_their_promises(void **state)
{
    (void)state;
    const char *seeds = getenv("PAIR_SIM_SEEDS"), *first = getenv("PAIR_SIM_FIRST");
    uint64_t from = first ? strtoull(first, NULL, 10) : 1,
             n = seeds ? strtoull(seeds, NULL, 10) : 150;
    uint64_t acks = 0, promotions = 0, pairs = 0, solos = 0, handovers = 0;
    for (uint64_t s = from; s < from + n; s++) {
        one_run(s);
        acks += w.acks;
        promotions += w.promotions;
        pairs += w.pairs;
        solos += w.solos;
        handovers += w.handovers;
        if (w.bad[0])
            fail_msg("%s", w.bad);
    }
    print_message("%llu runs: %llu acknowledged syncs, %llu promotions, %llu handovers, %llu times "
                  "solo, %llu times paired\n",
                  (unsigned long long)n, (unsigned long long)acks, (unsigned long long)promotions,
                  (unsigned long long)handovers, (unsigned long long)solos,
                  (unsigned long long)pairs);
    /* A simulation in which nothing happens proves nothing. */
    if (n >= 50) {
        assert_true(promotions > n / 4);
        assert_true(handovers > 0);
        assert_true(solos > n / 4);
        assert_true(pairs > n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pairs_keep_their_promises)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
