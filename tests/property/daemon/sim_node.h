/* sim_node.h: one simulated node: the core fed, its actions carried out, journal, gate, and the replica's conversation.
 * Included by test_pair_sim.c only. */
#ifndef DMT_TEST_SIM_NODE_H
#define DMT_TEST_SIM_NODE_H

#include "tests/property/daemon/sim_world.h"

/* --- feeding the core --- */

static void act(struct node *n, const struct lease_action *a);
static void do_io(struct node *n);

static void step(struct node *n, struct lease_event *e)
{
    static struct lease_actions out;
    e->tail = (uint64_t)n->tail;
    enum dmt_lease_state was = lease_core_state(&n->s);
    lease_step(&n->s, e, local(n), &out);
    if (was != lease_core_state(&n->s))
        say("%s: %s -> %s, epoch %u.%u", n->name, dmt_lease_state_name(was), dmt_lease_state_name(lease_core_state(&n->s)),
            DMT_EPOCH_MAJOR(n->s.rec.seen), DMT_EPOCH_MINOR(n->s.rec.seen));
    /* The list is copied first: acting may step again. */
    int k = out.n;
    struct lease_action *copy = malloc(sizeof(*copy) * (size_t)(k + 1));
    assert_non_null(copy);
    memcpy(copy, out.a, sizeof(*copy) * (size_t)k);
    for (int i = 0; i < k; i++)
        act(n, &copy[i]);
    free(copy);
    if (n->s.next != UINT64_MAX) {
        uint64_t at = (uint64_t)((double)(n->s.next - n->off) / n->rate) + 1;
        if (at <= w.now)
            at = w.now + MS / 2;
        if (n->next_step <= w.now || at < n->next_step) {
            n->next_step = at;
            push(at, W_STEP, idx(n));
        }
    }
}

static void feed(struct node *n, enum lease_ev type)
{
    struct lease_event e = {.type = type};
    step(n, &e);
}

/* An event that some part of the driver or L4 posts a little later. */
static struct lease_event *post(struct node *n, enum lease_ev type, uint64_t delay)
{
    struct item *it = push(w.now + delay, W_DONE, idx(n));
    it->ev = calloc(1, sizeof(*it->ev));
    assert_non_null(it->ev);
    it->ev->type = type;
    return it->ev;
}

/* --- links --- */

static struct lease_id id_of(const struct node *n)
{
    return n->s.rec.self;
}

static struct msg *msg_new(struct node *from, enum msg_kind kind)
{
    struct msg *m = calloc(1, sizeof(*m));
    assert_non_null(m);
    m->kind = kind;
    m->from = id_of(from);
    m->role = from->role;
    m->alone = from->role_alone;
    m->seen = from->disk.seen;
    m->epoch = from->role == R_SENDER ? from->role_epoch : 0;
    return m;
}

static void send_msg(struct node *from, struct msg *m)
{
    int to = 1 - idx(from), lane = m->kind == M_PING ? 0 : 1;
    if (w.conn == 0) {
        msg_free(m);
        return;
    }
    uint64_t at = w.now + 200000 + rnd(rnd(20) == 0 ? 60 * MS : 2 * MS);
    if (at <= w.fifo[to][lane])
        at = w.fifo[to][lane] + 1;
    w.fifo[to][lane] = at;
    struct item *it = push(at, W_MSG, to);
    it->msg = m;
    it->conn = w.conn;
}

static void with_journal(struct node *n, struct msg *m)
{
    m->snap = malloc(sizeof(struct rec) * (size_t)(n->tail + 1));
    assert_non_null(m->snap);
    memcpy(m->snap, n->j, sizeof(struct rec) * (size_t)n->tail);
    m->snap_n = n->tail;
    m->pos = (uint64_t)n->durable;
}

static void hello(struct node *n, enum msg_kind kind)
{
    struct msg *m = msg_new(n, kind);
    with_journal(n, m);
    send_msg(n, m);
}

static void peer_gone(struct node *n)
{
    n->streaming = false;
    n->ready_epoch = n->follow = 0;
    free(n->peer_snap);
    n->peer_snap = NULL;
    if (usable(n)) {
        feed(n, LEASE_EV_PEER_DOWN);
        feed(n, LEASE_EV_PING_DOWN);
    } else if (n->up) {
        struct lease_event *e = post(n, LEASE_EV_PEER_DOWN, 0);
        (void)e;
        (void)post(n, LEASE_EV_PING_DOWN, 0);
    }
}

static void disconnect(void)
{
    if (w.conn == 0)
        return;
    w.conn = 0;
    for (int i = 0; i < 2; i++)
        peer_gone(&w.n[i]);
}

static void try_connect(void)
{
    if (w.conn == 0 && w.link && usable(&w.n[0]) && usable(&w.n[1])) {
        w.conn = ++w.conn_next;
        for (int i = 0; i < 2; i++)
            w.fifo[i][0] = w.fifo[i][1] = w.now;
        for (int i = 0; i < 2; i++) {
            feed(&w.n[i], LEASE_EV_PING_UP);
            hello(&w.n[i], M_HELLO);
        }
    }
    push(w.now + 50 * MS + rnd(200 * MS), W_CONNECT, -1);
}

/* --- journal and client --- */

static void fsync_soon(struct node *n)
{
    if (n->fsyncing || n->durable == n->tail)
        return;
    n->fsyncing = true;
    push(w.now + 500000 + rnd(rnd(30) == 0 ? 80 * MS : 5 * MS), W_FSYNC, idx(n))->n = (uint64_t)n->tail;
}

static void stream(struct node *n)
{
    for (; n->streaming && n->sent < n->tail; n->sent++) {
        struct msg *m = msg_new(n, M_REC);
        m->pos = (uint64_t)n->sent;
        m->rec = n->j[n->sent];
        send_msg(n, m);
    }
}

static void append(struct node *n, uint64_t epoch)
{
    assert_true(n->tail < RECS_MAX && w.next_id + 1 < RECS_MAX);
    n->j[n->tail++] = (struct rec){epoch, ++w.next_id};
    judge_records();
    stream(n);
    fsync_soon(n);
}

static int gate_plain(struct node *n)
{
    switch (n->mode) {
    case LEASE_GATE_CLOSED:
        return -1;
    case LEASE_GATE_WAIT:
        return 1;
    case LEASE_GATE_PAIR:
        return local(n) < n->deadline ? 0 : 1;
    default:
        return 0;
    }
}

static int gate_sync(struct node *n, int seq)
{
    int p = gate_plain(n);
    return p != 0 ? p : n->mode == LEASE_GATE_PAIR && n->acked < (uint64_t)seq ? 1 : 0;
}

static void look_at_syncs(struct node *n)
{
    if (n->want_sync == 0 || n->durable < n->want_sync)
        return;
    int r = gate_sync(n, n->want_sync);
    if (r == 0)
        judge_ack(n, n->want_sync);
    if (r <= 0)
        n->want_sync = 0;
}

static void client(struct node *n)
{
    if (n->opened && n->mode != LEASE_GATE_CLOSED && n->mode != LEASE_GATE_READONLY && n->role == R_SENDER &&
        w.next_id < RECS_MAX - 300) {
        /* R: a call that begins while it must wait has its record logged and waits then. */
        if (gate_plain(n) >= 0) {
            append(n, n->role_epoch);
            if (gate_plain(n) == 0)
                judge_plain(n);
            if (n->want_sync == 0 && rnd(2) == 0)
                n->want_sync = n->tail;
        }
    }
    look_at_syncs(n);
    push(w.now + 10 * MS + rnd(80 * MS), W_CLIENT, idx(n));
}

/* --- driver: actions --- */

static void apply_gate(struct node *n, const struct lease_action *a)
{
    if (a->gen <= n->gen)
        return;
    n->gen = a->gen;
    if (a->epoch != n->gate_epoch || memcmp(a->peer.store, n->gate_peer, 16) != 0)
        n->acked = 0;
    n->gate_epoch = a->epoch;
    memcpy(n->gate_peer, a->peer.store, 16);
    n->mode = a->mode;
    look_at_syncs(n);
}

static void act(struct node *n, const struct lease_action *a)
{
    struct msg *m;
    switch (a->type) {
    case LEASE_ACT_CLOSE:
        apply_gate(n, a);
        return;
    case LEASE_ACT_LEASE:
        n->deadline = a->deadline_ns;
        look_at_syncs(n);
        return;
    case LEASE_ACT_SEND:
        m = msg_new(n, M_PING);
        m->ping = a->msg;
        m->ping.from = id_of(n);
        m->ping.instance = n->s.conf.instance;
        send_msg(n, m);
        return;
    case LEASE_ACT_BEAT:
        if (n->arb_link && w.arb_up) {
            w.heard[idx(n)] = w.now;
            w.heard_dead[idx(n)] = false;
        }
        return;
    case LEASE_ACT_EVENT:
        say("%s: %s: %s", n->name, a->kind, a->text);
        return;
    case LEASE_ACT_MAY_STOP:
        return;
    default:
        break;
    }
    assert_true(n->io_n < 256);
    n->io[n->io_n] = malloc(sizeof(*a));
    assert_non_null(n->io[n->io_n]);
    *n->io[n->io_n++] = *a;
    if (!n->io_busy) {
        n->io_busy = true;
        push(w.now + rnd(3 * MS), W_IO, idx(n));
    }
}

static void drop_io(struct node *n)
{
    for (int i = 0; i < n->io_n; i++)
        free(n->io[i]);
    n->io_n = 0;
    n->io_busy = false;
}

static void set_role(struct node *n, enum role role, uint64_t epoch, bool alone)
{
    bool drop = n->role != role;
    n->role = role;
    n->role_epoch = epoch;
    n->role_alone = alone;
    n->ready_epoch = 0;
    n->streaming = false;
    if (drop)
        disconnect();
    else if (role == R_SENDER && w.conn)
        hello(n, M_EPOCH);
}

/* EPOCH record, durable on return. */
static void open_epoch(struct node *n, uint64_t epoch, bool alone)
{
    append(n, epoch);
    n->durable = n->tail;
    n->opened = true;
    judge_opened(n, epoch);
    set_role(n, R_SENDER, epoch, alone);
}

static void send_ask(struct node *n, const struct lease_ask *q)
{
    if (!n->arb_link || !w.arb_up) {
        struct lease_event *e = post(n, LEASE_EV_ANSWER, 5 * MS);
        e->ask_id = q->id;
        e->answer = LEASE_UNANSWERED;
        return;
    }
    /* Sometimes late, sometimes twice. */
    int copies = rnd(12) == 0 ? 2 : 1;
    for (int i = 0; i < copies; i++) {
        struct item *it = push(w.now + MS + rnd(rnd(10) == 0 ? 3000 * MS : 10 * MS), W_ASK, idx(n));
        it->ask = *q;
        it->from = id_of(n);
    }
}

static void lose(struct node *n, int keep)
{
    for (int i = keep; i < n->tail; i++)
        w.branch[n->j[i].id] = true;
    n->tail = keep;
    n->durable = n->durable < keep ? n->durable : keep;
}

static void do_one(struct node *n, const struct lease_action *a)
{
    switch (a->type) {
    case LEASE_ACT_WRITE:
        n->disk = a->record;
        return;
    case LEASE_ACT_GATE:
        apply_gate(n, a);
        post(n, LEASE_EV_GATE, 0)->gen = a->gen;
        return;
    case LEASE_ACT_ASK:
        send_ask(n, &a->ask);
        return;
    case LEASE_ACT_OPEN_EPOCH:
        say("%s opens epoch %u.%u (%s)", n->name, DMT_EPOCH_MAJOR(a->epoch), DMT_EPOCH_MINOR(a->epoch), a->text);
        w.solos += strcmp(a->text, "solo") == 0;
        w.pairs += strcmp(a->text, "pair") == 0;
        open_epoch(n, a->epoch, a->alone);
        return;
    case LEASE_ACT_PROMOTE:
        say("%s is promoted, epoch %u.%u (%s)", n->name, DMT_EPOCH_MAJOR(a->epoch), DMT_EPOCH_MINOR(a->epoch), a->text);
        if (a->alone)
            w.promotions++;
        else
            w.handovers++;
        open_epoch(n, a->epoch, a->alone); /* all that was received counts (R6) */
        (void)post(n, LEASE_EV_PROMOTE_DONE, rnd(50 * MS));
        return;
    case LEASE_ACT_DEMOTE:
        n->opened = false;
        n->want_sync = 0;
        set_role(n, R_RECEIVER, 0, false);
        return;
    case LEASE_ACT_FOLLOW:
        if (w.conn && n->role == R_RECEIVER) {
            struct msg *m = msg_new(n, M_READY);
            n->follow = a->epoch;
            m->epoch = a->epoch;
            m->pos = (uint64_t)n->tail;
            if (n->tail)
                m->rec = n->j[n->tail - 1];
            send_msg(n, m);
        }
        return;
    case LEASE_ACT_LOSE:
        say("%s keeps %d records as branch %s", n->name, n->tail - (int)a->switch_seq, a->text);
        lose(n, (int)a->switch_seq);
        post(n, LEASE_EV_LOSE_DONE, rnd(30 * MS));
        return;
    case LEASE_ACT_FETCH:
        if (w.conn && n->peer_snap && n->peer_snap_n > n->tail) {
            for (; n->tail < n->peer_snap_n; n->tail++)
                n->j[n->tail] = n->peer_snap[n->tail];
            n->durable = n->tail;
            post(n, LEASE_EV_FETCH_DONE, rnd(30 * MS));
        } else {
            post(n, LEASE_EV_FETCH_DONE, rnd(30 * MS))->err = -1;
        }
        return;
    case LEASE_ACT_ORDER_RESYNC: {
        struct msg *m = msg_new(n, M_ORDER);
        say("%s orders a resync", n->name);
        send_msg(n, m);
        return;
    }
    case LEASE_ACT_RESYNC:
        n->resyncing = true;
        lose(n, 0); /* the old state is kept as a snapshot */
        if (w.conn)
            send_msg(n, msg_new(n, M_WANT));
        else
            post(n, LEASE_EV_RESYNC_DONE, MS)->err = -1;
        return;
    case LEASE_ACT_DRAIN:
        (void)post(n, LEASE_EV_FREEZE, rnd(20 * MS));
        push(w.now + 100 * MS, W_DONE, idx(n))->n = 1; /* looks whether the peer has all */
        return;
    default:
        fail();
    }
}

static void do_io(struct node *n)
{
    if (n->io_n == 0) {
        n->io_busy = false;
        return;
    }
    struct lease_action *a = n->io[0];
    memmove(n->io, n->io + 1, sizeof(n->io[0]) * (size_t)(--n->io_n));
    uint32_t life = n->life;
    do_one(n, a);
    free(a);
    if (n->life == life && n->io_n) {
        push(w.now + rnd(3 * MS), W_IO, idx(n));
    } else if (n->life == life) {
        n->io_busy = false;
    }
}

/* --- the replica's conversation --- */

static int common(const struct node *n, const struct msg *m)
{
    int i = 0;
    while (i < n->tail && i < m->snap_n && n->j[i].epoch == m->snap[i].epoch && n->j[i].id == m->snap[i].id)
        i++;
    return i;
}

static void on_claim(struct node *n, const struct msg *m)
{
    struct lease_event e = {.type = LEASE_EV_PEER_EPOCH,
                            .id = m->from,
                            .epoch = m->epoch,
                            .alone = m->alone,
                            .switch_seq = (uint64_t)common(n, m),
                            .durable = (uint64_t)n->tail};
    if (n->role == R_RECEIVER)
        step(n, &e);
    else if (m->epoch > n->disk.seen) {
        e.type = LEASE_EV_HIGHER;
        step(n, &e);
    }
}

static void on_ready(struct node *n, const struct msg *m)
{
    int pos = (int)m->pos;
    if (n->role != R_SENDER || m->epoch != n->role_epoch)
        return;
    bool good = pos <= n->tail && pos >= n->keep_from &&
                (pos == 0 || (n->j[pos - 1].epoch == m->rec.epoch && n->j[pos - 1].id == m->rec.id));
    if (!good) {
        feed(n, LEASE_EV_RESYNC_NEEDED);
        return;
    }
    n->ready_epoch = m->epoch;
    n->streaming = true;
    n->sent = pos;
    send_msg(n, msg_new(n, M_STREAM));
    stream(n);
}

static void send_ack(struct node *n)
{
    if (!n->follow || n->role != R_RECEIVER)
        return;
    struct msg *m = msg_new(n, M_ACK);
    m->epoch = n->follow;
    m->pos = (uint64_t)n->durable;
    send_msg(n, m);
}

static void on_data_ack(struct node *n, const struct msg *m)
{
    if (n->role != R_SENDER || m->epoch != n->role_epoch || n->ready_epoch != m->epoch)
        return;
    if (m->epoch == n->gate_epoch && memcmp(m->from.store, n->gate_peer, 16) == 0 && m->pos > n->acked)
        n->acked = m->pos;
    struct lease_event e = {.type = LEASE_EV_PEER_ACK, .id = m->from, .epoch = m->epoch, .durable = m->pos, .whole = m->pos};
    step(n, &e);
    look_at_syncs(n);
}

static void on_state(struct node *n, const struct msg *m)
{
    if (!n->resyncing)
        return;
    memcpy(n->j, m->snap, sizeof(struct rec) * (size_t)m->snap_n);
    n->tail = n->durable = m->snap_n;
    disconnect(); /* a new hello with the new position */
}

static void on_msg(struct node *n, struct msg *m)
{
    struct lease_event e = {0};
    switch (m->kind) {
    case M_PING:
        e.type = LEASE_EV_MSG;
        e.msg = m->ping;
        step(n, &e);
        return;
    case M_HELLO:
        free(n->peer_snap);
        n->peer_snap = m->snap;
        n->peer_snap_n = (int)m->pos; /* what is durable there */
        e = (struct lease_event){.type = LEASE_EV_PEER_UP,
                                 .id = m->from,
                                 .epoch = m->seen,
                                 .ahead = common(n, m) == n->tail && m->snap_n > n->tail && n->peer_snap_n > n->tail};
        step(n, &e);
        if (m->role == R_SENDER)
            on_claim(n, m);
        m->snap = NULL;
        return;
    case M_EPOCH:
        on_claim(n, m);
        return;
    case M_READY:
        on_ready(n, m);
        return;
    case M_STREAM:
        if (n->role == R_RECEIVER && m->epoch == n->follow) {
            if (n->resyncing) {
                n->resyncing = false;
                feed(n, LEASE_EV_RESYNC_DONE);
            }
            send_ack(n);
        }
        return;
    case M_REC:
        if (n->role != R_RECEIVER || m->epoch != n->follow || (int)m->pos != n->tail)
            return;
        n->j[n->tail++] = m->rec;
        fsync_soon(n);
        return;
    case M_ACK:
        on_data_ack(n, m);
        return;
    case M_ORDER:
        e.type = LEASE_EV_RESYNC_ORDERED;
        e.id = m->from;
        e.epoch = m->epoch;
        e.alone = m->alone;
        step(n, &e);
        return;
    case M_WANT:
        if (n->role == R_SENDER) {
            struct msg *r = msg_new(n, M_STATE);
            with_journal(n, r);
            send_msg(n, r);
        }
        return;
    case M_STATE:
        on_state(n, m);
        return;
    }
}

#endif
