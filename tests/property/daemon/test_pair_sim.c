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
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/controller/decide.h"
#include "fs/lease/core.h"

#define MS         DMT_MS
#define RECS_MAX   6000
#define EPOCHS_MAX 800
#define QUEUE_MAX  65536
#define RUN_NS     (60 * DMT_S)
#define HEAL_NS    (60 * DMT_S)

struct rec {
    uint64_t epoch;
    uint32_t id;
};

enum msg_kind {
    M_PING,
    M_HELLO,
    M_EPOCH,
    M_READY,
    M_STREAM,
    M_REC,
    M_ACK,
    M_ORDER,
    M_WANT,
    M_STATE
};
enum role { R_NONE, R_START, R_SENDER, R_RECEIVER };

/* Something between the two nodes. */
struct msg {
    enum msg_kind kind;
    struct lease_msg ping;
    struct lease_id from;
    enum role role;
    uint64_t epoch, seen, pos;
    bool alone;
    struct rec rec;
    struct rec *snap; /* HELLO, EPOCH, STATE: whole journal */
    int snap_n;
};

enum what {
    W_STEP,
    W_MSG,
    W_IO,
    W_CONNECT,
    W_PEER_LOST,
    W_ASK,
    W_ANSWER,
    W_CLIENT,
    W_FSYNC,
    W_DONE,
    W_RESTART,
    W_FAULT,
    W_HEAL,
    W_PUSH,
    W_DEATH
};

struct item {
    uint64_t at, order;
    enum what what;
    int node;      /* 0, 1; -1: nobody's */
    uint32_t life; /* of the node; older: dropped */
    uint32_t conn; /* W_MSG, W_PEER_LOST */
    struct msg *msg;
    struct lease_event *ev;
    struct lease_ask ask;
    struct lease_id from; /* W_ASK: who asked; by now its disk may be another one */
    uint64_t n;
};

struct node {
    char name[8];
    struct lease_state s;
    struct lease_record disk;
    bool has_disk, up, arb_link;
    uint64_t thaw_at; /* > now: frozen */
    uint32_t life;
    uint64_t off;
    double rate;
    struct rec j[RECS_MAX];
    int tail, durable,
        keep_from; /* keep_from: journal starts there (trimmed); a peer before it needs a resync */
    /* io queue of the driver: actions wait and are done in order */
    struct lease_action *io[256];
    int io_n;
    bool io_busy, fsyncing;
    /* gate */
    enum lease_gate_mode mode;
    uint64_t gen, gate_epoch, acked, deadline;
    uint8_t gate_peer[16];
    /* replica */
    enum role role;
    uint64_t role_epoch, follow, ready_epoch;
    bool role_alone, streaming, resyncing, opened;
    int sent;
    struct rec *peer_snap;
    int peer_snap_n;
    uint64_t next_step;
    int want_sync; /* position of the oldest sync waiting, 0 none */
};

static struct world {
    uint64_t now, order, seed, rnd;
    struct node n[2];
    struct item *heap[QUEUE_MAX];
    int heap_n;
    struct item *held[QUEUE_MAX]; /* messages on a link that is down */
    int held_n;
    bool link;
    uint32_t conn; /* 0: not connected */
    uint32_t conn_next;
    uint64_t fifo[2][2]; /* last delivery per receiver, ping / data */
    /* arbiter */
    struct lease_register reg;
    uint64_t heard[2];
    bool heard_dead[2];
    bool arb_up;
    /* judge */
    uint32_t next_id;
    bool acked[RECS_MAX];
    uint64_t acked_epoch[RECS_MAX];
    bool branch[RECS_MAX];
    struct {
        uint64_t epoch;
        int node;
        bool has[RECS_MAX];
    } opened[EPOCHS_MAX];
    int opened_n;
    struct {
        uint64_t epoch;
        int node;
    } acker[EPOCHS_MAX];
    int acker_n;
    bool frozen_ever, disks, healed;
    uint64_t acks, plains, promotions, pairs, solos, handovers, last_ack;
    char bad[512];
    bool verbose;
} w;

/* --- helpers --- */

static uint64_t rnd(uint64_t n)
{
    w.rnd ^= w.rnd << 13;
    w.rnd ^= w.rnd >> 7;
    w.rnd ^= w.rnd << 17;
    return n ? w.rnd % n : 0;
}

static void bad(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void bad(const char *fmt, ...)
{
    if (w.bad[0])
        return;
    int n = snprintf(w.bad, sizeof(w.bad), "seed %llu at %.3f s: ", (unsigned long long)w.seed,
                     (double)w.now / 1e9);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(w.bad + n, sizeof(w.bad) - (size_t)n, fmt, ap);
    va_end(ap);
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
    if (!w.verbose)
        return;
    printf("%9.3f ", (double)w.now / 1e9);
    va_list ap;
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

static bool before(const struct item *a, const struct item *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void heap_put(struct item *it)
{
    assert_true(w.heap_n < QUEUE_MAX);
    int i = w.heap_n++;
    while (i > 0 && before(it, w.heap[(i - 1) / 2])) {
        w.heap[i] = w.heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w.heap[i] = it;
}

static struct item *heap_get(void)
{
    if (w.heap_n == 0)
        return NULL;
    struct item *top = w.heap[0], *last = w.heap[--w.heap_n];
    int i = 0;
    for (;;) {
        int c = 2 * i + 1;
        if (c >= w.heap_n)
            break;
        if (c + 1 < w.heap_n && before(w.heap[c + 1], w.heap[c]))
            c++;
        if (!before(w.heap[c], last))
            break;
        w.heap[i] = w.heap[c];
        i = c;
    }
    if (w.heap_n)
        w.heap[i] = last;
    return top;
}

static struct item *push(uint64_t at, enum what what, int node)
{
    struct item *it = calloc(1, sizeof(*it));
    assert_non_null(it);
    it->at = at;
    it->order = ++w.order;
    it->what = what;
    it->node = node;
    it->life = node >= 0 ? w.n[node].life : 0;
    heap_put(it);
    return it;
}

static void msg_free(struct msg *m)
{
    if (m)
        free(m->snap);
    free(m);
}

static void item_free(struct item *it)
{
    msg_free(it->msg);
    free(it->ev);
    free(it);
}

static uint64_t local(const struct node *n)
{
    return n->off + (uint64_t)((double)w.now * n->rate);
}

static struct node *other(struct node *n)
{
    return n == &w.n[0] ? &w.n[1] : &w.n[0];
}

static int idx(const struct node *n)
{
    return (int)(n - w.n);
}

static bool usable(const struct node *n)
{
    return n->up && n->thaw_at <= w.now;
}

/* --- the judge --- */

static void judge_opened(struct node *n, uint64_t epoch)
{
    assert_true(w.opened_n < EPOCHS_MAX);
    int k = w.opened_n++;
    w.opened[k].epoch = epoch;
    w.opened[k].node = idx(n);
    memset(w.opened[k].has, 0, sizeof(w.opened[k].has));
    for (int i = 0; i < n->tail; i++)
        w.opened[k].has[n->j[i].id] = true;
    for (uint32_t id = 1; id <= w.next_id; id++)
        if (w.acked[id] && w.acked_epoch[id] < epoch && !w.opened[k].has[id])
            bad("%s opens epoch %u.%u without record %u, acknowledged in %u.%u", n->name,
                DMT_EPOCH_MAJOR(epoch), DMT_EPOCH_MINOR(epoch), id,
                DMT_EPOCH_MAJOR(w.acked_epoch[id]), DMT_EPOCH_MINOR(w.acked_epoch[id]));
    for (int i = 0; i < k; i++)
        if (w.opened[i].epoch == epoch)
            bad("epoch %u.%u is opened twice", DMT_EPOCH_MAJOR(epoch), DMT_EPOCH_MINOR(epoch));
}

static void judge_ack(struct node *n, int upto)
{
    uint64_t epoch = n->gate_epoch;
    w.acks++;
    w.last_ack = w.now;
    bool known = false;
    for (int i = 0; i < w.acker_n; i++) {
        if (w.acker[i].epoch != epoch)
            continue;
        known = true;
        if (w.acker[i].node != idx(n))
            bad("epoch %u.%u is acknowledged by both nodes", DMT_EPOCH_MAJOR(epoch),
                DMT_EPOCH_MINOR(epoch));
    }
    if (!known) {
        assert_true(w.acker_n < EPOCHS_MAX);
        w.acker[w.acker_n].epoch = epoch;
        w.acker[w.acker_n++].node = idx(n);
    }
    for (int i = 0; i < upto; i++) {
        uint32_t id = n->j[i].id;
        if (!w.acked[id]) {
            w.acked[id] = true;
            w.acked_epoch[id] = epoch;
            for (int k = 0; k < w.opened_n; k++)
                if (w.opened[k].epoch > epoch && !w.opened[k].has[id])
                    bad("%s acknowledges record %u in epoch %u.%u, but epoch %u.%u was opened "
                        "without it",
                        n->name, id, DMT_EPOCH_MAJOR(epoch), DMT_EPOCH_MINOR(epoch),
                        DMT_EPOCH_MAJOR(w.opened[k].epoch), DMT_EPOCH_MINOR(w.opened[k].epoch));
        }
    }
    if (n->resyncing || n->disk.resync)
        bad("%s acknowledges while it is being resynchronised", n->name);
}

static void judge_plain(struct node *n)
{
    w.plains++;
    if (w.frozen_ever)
        return;
    for (int k = 0; k < w.opened_n; k++)
        if (w.opened[k].epoch > n->gate_epoch && w.opened[k].node != idx(n))
            bad("a plain call returns on %s in epoch %u.%u after epoch %u.%u was opened", n->name,
                DMT_EPOCH_MAJOR(n->gate_epoch), DMT_EPOCH_MINOR(n->gate_epoch),
                DMT_EPOCH_MAJOR(w.opened[k].epoch), DMT_EPOCH_MINOR(w.opened[k].epoch));
}

static void judge_records(void)
{
    for (int i = 0; i < w.n[0].tail && i < w.n[1].tail; i++)
        if (w.n[0].j[i].epoch == w.n[1].j[i].epoch && w.n[0].j[i].id != w.n[1].j[i].id)
            bad("two records under epoch %u.%u, position %d", DMT_EPOCH_MAJOR(w.n[0].j[i].epoch),
                DMT_EPOCH_MINOR(w.n[0].j[i].epoch), i + 1);
}

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
        say("%s: %s -> %s, epoch %u.%u", n->name, dmt_lease_state_name(was),
            dmt_lease_state_name(lease_core_state(&n->s)), DMT_EPOCH_MAJOR(n->s.rec.seen),
            DMT_EPOCH_MINOR(n->s.rec.seen));
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
    push(w.now + 500000 + rnd(rnd(30) == 0 ? 80 * MS : 5 * MS), W_FSYNC, idx(n))->n =
        (uint64_t)n->tail;
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
    if (n->opened && n->mode != LEASE_GATE_CLOSED && n->mode != LEASE_GATE_READONLY &&
        n->role == R_SENDER && w.next_id < RECS_MAX - 300) {
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
        say("%s opens epoch %u.%u (%s)", n->name, DMT_EPOCH_MAJOR(a->epoch),
            DMT_EPOCH_MINOR(a->epoch), a->text);
        w.solos += strcmp(a->text, "solo") == 0;
        w.pairs += strcmp(a->text, "pair") == 0;
        open_epoch(n, a->epoch, a->alone);
        return;
    case LEASE_ACT_PROMOTE:
        say("%s is promoted, epoch %u.%u (%s)", n->name, DMT_EPOCH_MAJOR(a->epoch),
            DMT_EPOCH_MINOR(a->epoch), a->text);
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
    while (i < n->tail && i < m->snap_n && n->j[i].epoch == m->snap[i].epoch &&
           n->j[i].id == m->snap[i].id)
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
    bool good =
        pos <= n->tail && pos >= n->keep_from &&
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
    if (m->epoch == n->gate_epoch && memcmp(m->from.store, n->gate_peer, 16) == 0 &&
        m->pos > n->acked)
        n->acked = m->pos;
    struct lease_event e = {.type = LEASE_EV_PEER_ACK,
                            .id = m->from,
                            .epoch = m->epoch,
                            .durable = m->pos,
                            .whole = m->pos};
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
                                 .ahead = common(n, m) == n->tail && m->snap_n > n->tail &&
                                          n->peer_snap_n > n->tail};
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
