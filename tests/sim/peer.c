/* peer.c: the driver of the replica core: looks up what the core cannot know, carries out what it
 * decides.
 *
 * The counterpart of fs/replica/session.c, sender.c, receiver.c and resync.c, with their order of
 * things: a hello states only what is durable; orders of the program come through a queue of the
 * loop; a hello that is out before a role changes ends its connection; records must continue the
 * tail in number and chain. Owns the greeting, the stream and the import of a node.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

static void close_conn(struct node *n)
{
    wire_close(n, CH_DATA, true);
}

static void send(struct node *n, const struct msg *m)
{
    wire_send(n, CH_DATA, m);
}

static struct dmt_pos tail_of(const struct node *n)
{
    return n->has_ws ? pos_of(n, n->tail) : (struct dmt_pos){0};
}

/* --- orders from the program: the loop's queue --- */

static struct item *loop_item(struct node *n)
{
    uint64_t at = w.now + rnd(one_in(20) ? 20 * MS : MS / 2);
    if (at <= n->loop_at)
        at = n->loop_at + 1;
    n->loop_at = at;
    return push(at, W_LOOP, idx(n));
}

struct replica_event *peer_post(struct node *n, enum replica_event_type type)
{
    struct item *it = loop_item(n);
    it->rev.type = type;
    return &it->rev;
}

void peer_post_follow(struct node *n, uint64_t epoch)
{
    struct item *it = loop_item(n);
    it->follow = true;
    it->rev.epoch = epoch;
}

void peer_loop(struct node *n, const struct item *it)
{
    struct replica_event ev = it->rev;
    ev.tail = tail_of(n);
    if (it->follow) {
        n->follow_pending = ev.epoch;
        fsync_soon(n);
        peer_durable(n);
        return;
    }
    if (ev.type == REPLICA_EV_ROLE && (ev.role != n->rc.role || ev.epoch != n->rc.epoch) &&
        n->g.sent && !n->g.joined)
        close_conn(n);
    peer_do(n, &ev);
    peer_durable(n);
}

/* --- hello --- */

static void hello(struct node *n);

static void join(struct node *n)
{
    n->g.joined = true;
    peer_do(n,
            &(struct replica_event){.type = REPLICA_EV_OPEN, .flag = n->g.empty, .pos = n->g.pos});
    struct replica_event ev = {.type = REPLICA_EV_GOT_HELLO, .peer = &n->g.peer};
    ev.relation = relate(n, &n->g.peer.tail, n->g.peer.empty);
    ev.fork = replica_fork(n->ep, (size_t)n->ep_n, n->peer_ep, (size_t)n->peer_ep_n);
    peer_do(n, &ev);
}

static void hello(struct node *n)
{
    struct greeting *g = &n->g;
    if (g->id == 0 || g->sent || n->rc.role == DMT_REPLICA_NONE)
        return;
    if (!g->posed) {
        g->posed = true;
        g->pos = tail_of(n);
        g->empty = !n->has_ws || n->empty;
        fsync_soon(n);
    }
    if (n->has_ws && (uint64_t)n->durable < g->pos.seq)
        return;
    struct msg m = {.kind = M_HELLO, .n = n->has_ws ? n->ep_n : 0};
    m.peer = calloc(1, sizeof(*m.peer));
    m.epochs = malloc(sizeof(n->ep[0]) * (size_t)(m.n + 1));
    DMT_ASSERT(m.peer && m.epochs);
    memcpy(m.epochs, n->ep, sizeof(n->ep[0]) * (size_t)m.n);
    memcpy(m.peer->node, n->name, sizeof(n->name));
    memcpy(m.peer->store_id, n->disk.self.store, 16);
    m.peer->role = n->rc.role;
    m.peer->alone = n->rc.alone;
    m.peer->empty = g->empty;
    m.peer->epoch = n->rc.epoch;
    m.peer->seen = n->rc.seen;
    m.peer->tail = g->pos;
    m.peer->lineage = memcmp(n->lin.id, n->disk.lineage.id, 16) == 0 ? n->disk.lineage : n->lin;
    g->sent = true;
    send(n, &m);
    if (g->got)
        join(n);
}

static void take_hello(struct node *n, const struct msg *m)
{
    if (n->g.got) {
        close_conn(n);
        return;
    }
    n->g.got = true;
    n->g.peer = *m->peer;
    enum dmt_lineage_relation rel = dmt_lineage_relate(
        &n->lin, DMT_EPOCH_MAJOR(n->rc.seen), &m->peer->lineage, DMT_EPOCH_MAJOR(m->peer->seen));
    if (rel == DMT_LINEAGE_FOREIGN || rel == DMT_LINEAGE_BEYOND) {
        close_conn(n);
        return;
    }
    n->g.peer.newer = rel == DMT_LINEAGE_NEWER;
    memcpy(n->peer_ep, m->epochs, sizeof(n->ep[0]) * (size_t)m->n);
    n->peer_ep_n = m->n;
    if (n->g.sent)
        join(n);
    else
        hello(n);
}

void peer_connected(struct node *n, uint32_t conn)
{
    n->g = (struct greeting){.id = conn, .heard = w.now};
    hello(n);
}

void peer_closed(struct node *n)
{
    bool joined = n->g.joined;
    n->g = (struct greeting){0};
    n->follow_pending = 0;
    if (n->streaming)
        bulk_stream(n, false);
    n->streaming = false;
    bulk_stop(n);
    n->importing = false; /* it starts over; what has arrived whole is with the program */
    if (joined)
        peer_do(n, &(struct replica_event){.type = REPLICA_EV_CLOSED, .text = "closed"});
}

/* --- the stream --- */

static void stream(struct node *n)
{
    while (n->streaming && n->g.id && n->sent < n->serve_to) {
        int k = n->serve_to - n->sent;
        k = k > 64 ? 64 : k;
        struct msg m = {.kind = M_RECORDS, .epoch = n->stream_epoch, .n = k};
        m.recs = malloc(sizeof(struct rec) * (size_t)k);
        DMT_ASSERT(m.recs);
        memcpy(m.recs, n->j + n->sent, sizeof(struct rec) * (size_t)k);
        m.pos = pos_of(n, n->sent);
        m.durable = (uint64_t)n->durable;
        n->sent += k;
        send(n, &m);
    }
}

static void start_stream(struct node *n, uint64_t epoch, int from, int to)
{
    n->streaming = true;
    n->stream_epoch = epoch;
    n->sent = from;
    n->serve_to = to;
    stream(n);
}

void peer_appended(struct node *n)
{
    if (replica_core_phase(&n->rc) != REPLICA_STREAMING || !n->streaming)
        return;
    n->serve_to = n->tail;
    stream(n);
    bulk_wants(n);
}

void peer_ack(struct node *n, bool always)
{
    if (replica_core_phase(&n->rc) != REPLICA_RECEIVING || n->g.id == 0)
        return;
    if (!always && n->durable <= n->acked_durable && n->pull.whole <= n->acked_whole)
        return;
    n->acked_durable = n->durable;
    n->acked_whole = n->pull.whole;
    struct msg m = {.kind = M_ACK,
                    .epoch = n->rc.peer.epoch,
                    .seq = (uint64_t)n->durable,
                    .whole = n->pull.whole};
    m.pos = pos_of(n, n->durable);
    send(n, &m);
}

/* Up to what is durable on both disks (that limits apply, never the journal). */
static void apply_what_may_be(struct node *n)
{
    if (replica_core_phase(&n->rc) != REPLICA_RECEIVING || !n->has_ws)
        return;
    int upto = (uint64_t)n->durable < n->holder_durable ? n->durable : (int)n->holder_durable;
    if (upto <= n->f.seq)
        return;
    files_apply(n, upto);
    bulk_applied(n);
    peer_ack(n, false);
}

/* Our durable position has moved, or may have. */
void peer_durable(struct node *n)
{
    hello(n);
    if (n->follow_pending && (!n->has_ws || n->durable == n->tail)) {
        uint64_t epoch = n->follow_pending;
        n->follow_pending = 0;
        peer_do(n, &(struct replica_event){
                       .type = REPLICA_EV_FOLLOW, .epoch = epoch, .tail = tail_of(n)});
    }
    peer_ack(n, false);
    apply_what_may_be(n);
    bulk_commit(n);
    if (n->storing && n->durable >= n->store_to) {
        n->storing = false;
        files_apply(n, n->tail);
        peer_do(n, &(struct replica_event){.type = REPLICA_EV_STORED});
    }
}

static void take_records(struct node *n, const struct msg *m)
{
    int rc = replica_core_takes(&n->rc, REPLICA_RECORDS, m->epoch);
    if (rc == 1)
        return;
    struct dmt_pos at = tail_of(n);
    if (rc < 0 || m->pos.seq != at.seq || m->pos.chain != at.chain) {
        close_conn(n);
        return;
    }
    for (int i = 0; i < m->n; i++) {
        if (m->recs[i].epoch > m->epoch || m->recs[i].epoch < tail_of(n).epoch ||
            !journal_receive(n, &m->recs[i])) {
            close_conn(n);
            return;
        }
    }
    if (m->durable > n->holder_durable && replica_core_phase(&n->rc) == REPLICA_RECEIVING)
        n->holder_durable = m->durable;
    apply_what_may_be(n);
}

static void take_ack(struct node *n, const struct msg *m)
{
    struct replica_event ev = {.type = REPLICA_EV_GOT_ACK,
                               .epoch = m->epoch,
                               .seq = m->seq,
                               .whole = m->whole,
                               .sent = (uint64_t)n->sent,
                               .pos = m->pos,
                               .tail = tail_of(n)};
    ev.chain_ok = m->seq <= (uint64_t)n->tail && pos_of(n, (int)m->seq).chain == m->pos.chain;
    peer_do(n, &ev);
}

/* --- resync --- */

static void export_state(struct node *n, uint64_t epoch)
{
    struct msg m = {.kind = M_STATE, .epoch = epoch, .n = n->durable};
    m.recs = malloc(sizeof(struct rec) * (size_t)(m.n + 1));
    DMT_ASSERT(m.recs);
    memcpy(m.recs, n->j, sizeof(struct rec) * (size_t)m.n);
    w.fifo[1 - idx(n)][CH_DATA] += 10 * MS + rnd(300 * MS);
    send(n, &m);
    peer_do(n, &(struct replica_event){.type = REPLICA_EV_EXPORTED});
}

static void take_state(struct node *n, struct msg *m)
{
    if (replica_core_takes(&n->rc, REPLICA_STATE_END, m->epoch) != 0 || !n->importing ||
        n->full_until > w.now) {
        close_conn(n);
        return;
    }
    n->importing = false;
    free(n->import);
    n->import = m->recs;
    n->import_n = m->n;
    n->import_lin = n->rc.peer.lineage;
    m->recs = NULL;
    peer_do(n, &(struct replica_event){.type = REPLICA_EV_IMPORTED});
    app_post(n, APP_IMPORTED, 50 * MS);
}

/* The workspace is taken away from the replica, or given to it. */
void peer_ws(struct node *n, bool has)
{
    if (n->g.id && (n->g.sent || n->g.posed))
        close_conn(n);
    n->has_ws = has;
}

/* --- actions --- */

static void tell_peer_epoch(struct node *n, const struct replica_action *a)
{
    struct lease_event *e = post(n, LEASE_EV_PEER_EPOCH);
    memcpy(e->id.node, n->rc.peer.node, sizeof(e->id.node));
    memcpy(e->id.store, n->rc.peer.store_id, 16);
    e->epoch = a->epoch;
    e->alone = a->flag;
    e->switch_seq = a->seq;
    e->durable = tail_of(n).seq;
    e->newer = n->rc.peer.newer;
    e->lineage = n->rc.peer.lineage;
}

static void tell_up(struct node *n)
{
    const struct replica_core *c = &n->rc;
    struct lease_event *e = post(n, LEASE_EV_PEER_UP);
    memcpy(e->id.node, c->peer.node, sizeof(e->id.node));
    memcpy(e->id.store, c->peer.store_id, 16);
    e->epoch = c->peer.seen;
    e->durable = c->peer.tail.seq;
    e->ahead = c->peer.ahead;
}

static void send_epoch(struct node *n, const struct replica_action *a)
{
    struct msg m = {.kind = M_EPOCH, .epoch = a->epoch, .flag = a->flag};
    for (int i = 0; i < n->ep_n; i++)
        if (n->ep[i].epoch == a->epoch)
            m.at = (struct dmt_pos){a->epoch, n->ep[i].switch_seq, n->ep[i].switch_chain};
    send(n, &m);
}

/* What is only said: to the other side, or to the lease. */
static bool says(struct node *n, const struct replica_action *a)
{
    struct lease_event *e;
    switch (a->type) {
    case REPLICA_AC_VERDICT:
        send(n, &(struct msg){.kind = M_VERDICT, .relation = a->relation});
        return true;
    case REPLICA_AC_SEND_EPOCH:
        send_epoch(n, a);
        return true;
    case REPLICA_AC_SEND_READY:
        send(n, &(struct msg){.kind = M_READY, .epoch = a->epoch, .flag = a->flag, .pos = a->pos});
        return true;
    case REPLICA_AC_SEND_ORDER:
        say("%s orders a resync", n->name);
        send(n, &(struct msg){.kind = M_ORDER, .epoch = a->epoch, .flag = n->rc.alone});
        return true;
    case REPLICA_AC_SEND_FETCH:
        send(n, &(struct msg){.kind = M_FETCH, .epoch = a->epoch, .pos = tail_of(n)});
        return true;
    case REPLICA_AC_UP:
        tell_up(n);
        return true;
    case REPLICA_AC_PEER_GONE:
        (void)post(n, LEASE_EV_PEER_DOWN);
        return true;
    case REPLICA_AC_PEER_EPOCH:
        tell_peer_epoch(n, a);
        return true;
    case REPLICA_AC_ACKED:
        node_acked(n, n->rc.peer.store_id, a->epoch, a->seq,
                   lane_acked(&n->wants, a->seq, a->whole));
        return true;
    case REPLICA_AC_HIGHER:
        post(n, LEASE_EV_HIGHER)->epoch = a->epoch;
        return true;
    case REPLICA_AC_RESYNC_NEEDED:
        (void)post(n, LEASE_EV_RESYNC_NEEDED);
        return true;
    case REPLICA_AC_RESYNC_ORDERED:
        e = post(n, LEASE_EV_RESYNC_ORDERED);
        e->epoch = a->epoch;
        e->alone = a->flag;
        e->lineage = n->rc.peer.lineage;
        return true;
    default:
        return false;
    }
}

static void carry_out(struct node *n, const struct replica_action *a)
{
    struct dmt_pos tail = tail_of(n);
    if (says(n, a))
        return;
    switch (a->type) {
    case REPLICA_AC_START_STREAM:
        send(n, &(struct msg){.kind = M_STREAM, .epoch = a->epoch, .pos = a->pos});
        bulk_stream(n, true);
        start_stream(n, a->epoch, (int)a->pos.seq, n->tail);
        bulk_wants(n);
        bulk_commit(n);
        return;
    case REPLICA_AC_STOP_STREAM:
        bulk_stream(n, false);
        n->streaming = false;
        return;
    case REPLICA_AC_STOP_RECEIVING:
        bulk_stop(n);
        return;
    case REPLICA_AC_RECEIVE:
        n->acked_durable = 0;
        n->acked_whole = 0;
        bulk_receive(n);
        if (n->resync_waits)
            post(n, LEASE_EV_RESYNC_DONE)->gen = n->resync_order;
        n->resync_waits = false;
        peer_ack(n, true);
        return;
    case REPLICA_AC_IMPORT:
        n->importing = true;
        send(n, &(struct msg){.kind = M_GO, .epoch = a->epoch});
        return;
    case REPLICA_AC_EXPORT:
        export_state(n, a->epoch);
        return;
    case REPLICA_AC_SERVE:
        start_stream(n, a->epoch, (int)a->pos.seq, n->tail);
        n->streaming = false;
        send(n, &(struct msg){.kind = M_FETCHED, .epoch = a->epoch, .pos = tail});
        peer_do(n, &(struct replica_event){.type = REPLICA_EV_SERVED});
        return;
    case REPLICA_AC_STORE:
        n->storing = true;
        n->store_to = n->tail;
        fsync_soon(n);
        peer_durable(n);
        return;
    case REPLICA_AC_FETCH_ENDED:
        n->storing = false;
        n->app.switch_seq = a->err < 0;
        app_post(n, APP_FETCHED, 20 * MS);
        return;
    case REPLICA_AC_CLOSE:
        say("%s hangs up: %s", n->name, a->text ? a->text : "");
        if (a->err == DMT_E_STALE)
            send(n, &(struct msg){.kind = M_BYE, .epoch = n->rc.seen, .err = a->err});
        close_conn(n);
        return;
    default:
        return;
    }
}

void peer_do(struct node *n, const struct replica_event *ev)
{
    struct replica_actions as;
    uint32_t life = n->life, conn = n->g.id;
    replica_step(&n->rc, ev, &as);
    for (int i = 0; i < as.n && n->life == life; i++) {
        carry_out(n, &as.v[i]);
        if (n->g.id != conn)
            break; /* what follows was meant for that connection */
    }
}

/* --- messages --- */

static void take_epoch(struct node *n, const struct msg *m)
{
    struct replica_epoch e = {m->epoch, m->at.seq, m->at.chain};
    if ((n->peer_ep_n == 0 || n->peer_ep[n->peer_ep_n - 1].epoch < m->epoch) &&
        n->peer_ep_n < NODE_EPOCHS)
        n->peer_ep[n->peer_ep_n++] = e;
    struct replica_event ev = {
        .type = REPLICA_EV_GOT_EPOCH, .epoch = m->epoch, .flag = m->flag, .tail = tail_of(n)};
    ev.fork = replica_fork(n->ep, (size_t)n->ep_n, n->peer_ep, (size_t)n->peer_ep_n);
    peer_do(n, &ev);
}

static void take_conversation(struct node *n, const struct msg *m)
{
    static const enum replica_event_type types[] = {[M_VERDICT] = REPLICA_EV_GOT_VERDICT,
                                                    [M_READY] = REPLICA_EV_GOT_READY,
                                                    [M_STREAM] = REPLICA_EV_GOT_STREAM,
                                                    [M_FETCH] = REPLICA_EV_GOT_FETCH,
                                                    [M_FETCHED] = REPLICA_EV_GOT_FETCHED,
                                                    [M_ORDER] = REPLICA_EV_GOT_ORDER,
                                                    [M_GO] = REPLICA_EV_GOT_GO};
    struct replica_event ev = {.type = types[m->kind],
                               .epoch = m->epoch,
                               .flag = m->flag,
                               .pos = m->pos,
                               .relation = m->relation,
                               .tail = tail_of(n),
                               .text = "it cannot join"};
    if (m->kind == M_READY)
        ev.relation = relate(n, &m->pos, m->flag);
    if (m->kind == M_FETCH)
        ev.relation = relate(n, &m->pos, false);
    peer_do(n, &ev);
}

static void trace(const struct node *n, const struct msg *m)
{
    static const char *const names[] = {"ping",  "fin",    "keep",    "HELLO", "VERDICT", "EPOCH",
                                        "READY", "STREAM", "RECORDS", "ACK",   "FETCH",   "FETCHED",
                                        "ORDER", "GO",     "STATE",   "BYE",   "COMMIT",  "WANT",
                                        "HAVE",  "PULL",   "BULK",    "GONE"};
    if (tracing && m->kind != M_RECORDS && m->kind != M_ACK && m->kind != M_KEEP &&
        m->kind != M_COMMIT)
        say("    %s gets %s, epoch %s; it is %s", n->name, names[m->kind], epoch_text(m->epoch),
            dmt_sm_name(&n->rc.sm));
}

void peer_message(struct node *n, struct msg *m)
{
    trace(n, m);
    if (m->kind == M_HELLO) {
        take_hello(n, m);
        return;
    }
    if (m->kind == M_KEEP)
        return;
    if (m->kind == M_BYE) {
        if (n->g.joined)
            peer_do(n, &(struct replica_event){.type = REPLICA_EV_GOT_STALE, .epoch = m->epoch});
        wire_close(n, CH_DATA, false);
        return;
    }
    if (!n->g.joined) {
        close_conn(n);
        return;
    }
    if (bulk_message(n, m))
        return;
    switch (m->kind) {
    case M_EPOCH:
        take_epoch(n, m);
        return;
    case M_RECORDS:
        take_records(n, m);
        return;
    case M_ACK:
        take_ack(n, m);
        return;
    case M_STATE:
        take_state(n, m);
        return;
    default:
        take_conversation(n, m);
        return;
    }
}

void peer_start(struct node *n, bool holder)
{
    replica_core_init(&n->rc);
    n->g = (struct greeting){0};
    n->streaming = n->importing = n->storing = false;
    bulk_init(n);
    n->resync_waits = n->disk.resync;
    n->follow_pending = 0;
    n->sent = n->serve_to = n->acked_durable = 0;
    struct replica_event *e = peer_post(n, REPLICA_EV_ROLE);
    e->role = holder ? DMT_REPLICA_START : DMT_REPLICA_RECEIVER;
    e->seen = n->disk.seen;
}
