/* session.c: the conversation with the peer: hello, the messages that the core decides about, and
 * carrying out what it decides.
 *
 * Owns r->conn (the session: the one connection that both sides have agreed on) and the lists of
 * epochs. Happy path: a connection is secure -> our HELLO goes out as soon as everything up to our
 * tail is durable -> the peer's HELLO -> the connection becomes the session -> VERDICTs -> core.
 * Every other message is turned into an event (with what only the journal knows: relation of a
 * position, fork of two histories) or handed to a lane after replica_core_takes() said yes.
 *
 * Failure modes: another workspace, lineage, version, name or our own store at the other end: BYE
 * with the sentence. Two connections with the same peer: both ends keep the same one
 * (replica_prefer_second). A second peer while there is a session: BYE "busy". Thread: loop.
 */
#include "fs/replica/int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/base/log.h"

/* --- our own history -------------------------------------------------------------------------- */

struct dmt_pos replica_tail(struct dmt_replica *r)
{
    return r->ws ? dmt_journal_tail(dmt_ws_journal(r->ws)) : (struct dmt_pos){0};
}

enum replica_relation replica_relate(struct dmt_replica *r, const struct dmt_pos *pos, bool empty)
{
    if (!r->ws || empty)
        return REPLICA_EMPTY;
    struct dmt_journal *j = dmt_ws_journal(r->ws);
    struct dmt_pos ours;
    int rc = dmt_journal_pos_at(j, pos->seq, &ours);
    if (rc == DMT_E_GONE)
        return REPLICA_OLD;
    if (rc == -ENOENT)
        return REPLICA_BEYOND;
    if (rc < 0)
        return REPLICA_OFF;
    return ours.chain == pos->chain ? REPLICA_ON : REPLICA_OFF;
}

void replica_epochs_add(struct dmt_replica *r, const struct replica_epoch *e)
{
    if (r->epochs_n > 0 && r->epochs[r->epochs_n - 1].epoch >= e->epoch)
        return; /* heard before */
    if (r->epochs_n == REPLICA_EPOCHS_MAX) {
        memmove(r->epochs, r->epochs + 1, (REPLICA_EPOCHS_MAX - 1) * sizeof(r->epochs[0]));
        r->epochs_n--;
    }
    r->epochs[r->epochs_n++] = *e;
}

/* An epoch's own record stands right after its switch point: cut away with it. */
void replica_epochs_trim(struct dmt_replica *r, uint64_t tail_seq)
{
    while (r->epochs_n > 0 && r->epochs[r->epochs_n - 1].switch_seq >= tail_seq)
        r->epochs_n--;
}

struct epoch_list {
    struct replica_epoch *v;
    size_t n;
};

static int list_add(void *ctx, const struct dmt_epoch_row *e)
{
    struct epoch_list *l = ctx;
    if (l->n > 0 && l->v[l->n - 1].epoch >= e->epoch)
        return 0;
    if (l->n == REPLICA_EPOCHS_MAX) {
        memmove(l->v, l->v + 1, (REPLICA_EPOCHS_MAX - 1) * sizeof(l->v[0]));
        l->n--;
    }
    l->v[l->n++] = (struct replica_epoch){e->epoch, e->switch_seq, e->switch_chain};
    return 0;
}

/* The rows of the store know what is applied; the rest is read from the journal. [blocks] */
int replica_epochs_load(struct dmt_ws *ws, struct replica_epoch *v, size_t *ret_n,
                        struct dmt_err *err)
{
    struct epoch_list l = {.v = v};
    uint64_t applied = dmt_ws_applied(ws);
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    lk.lock(lk.ctx);
    int rc = dmt_store_epoch_each(dmt_ws_store(ws), list_add, &l);
    lk.unlock(lk.ctx);
    if (rc < 0)
        return dmt_err_set(err, rc, "cannot read the epochs of this workspace: %s",
                           dmt_strerror(rc));
    struct dmt_jreader *rd;
    rc = dmt_jreader_open(&rd, dmt_ws_journal(ws), applied, err);
    while (rc >= 0) {
        struct dmt_rec rec;
        struct dmt_body body;
        const uint8_t *raw;
        size_t raw_len;
        rc = dmt_jreader_next(rd, &rec, &raw, &raw_len, err);
        if (rc <= 0) {
            dmt_jreader_close(rd);
            break;
        }
        if (rec.type == DMT_REC_EPOCH &&
            dmt_body_decode(rec.type, rec.body, rec.body_len, &body) == 0) {
            struct dmt_epoch_row row = {.epoch = body.EPOCH.epoch,
                                        .switch_seq = body.EPOCH.switch_seq,
                                        .switch_chain = body.EPOCH.switch_chain};
            list_add(&l, &row);
        }
    }
    *ret_n = l.n;
    return rc < 0 ? rc : 0;
}

/* --- hello ------------------------------------------------------------------------------------ */

static void send_hello(struct replica_conn *c)
{
    struct dmt_replica *r = c->r;
    struct dmt_buf epochs;
    dmt_buf_init(&epochs);
    replica_epochs_encode(r->epochs, r->epochs_n, &epochs);
    struct replica_msg m = {.type = REPLICA_HELLO};
    struct replica_msg_HELLO *h = &m.HELLO;
    h->version = REPLICA_VERSION;
    h->instance = r->instance;
    memcpy(h->store_id, r->conf.store_id, 16);
    memcpy(h->lineage, r->conf.lineage.id, 16);
    h->first = r->conf.lineage.first;
    h->past = (struct replica_span){r->conf.lineage.past[0], r->conf.lineage.past_n * 16};
    h->workspace = replica_span_of(r->workspace);
    h->node = replica_span_of(r->node);
    h->role = (uint8_t)r->core.role;
    h->flags = (uint8_t)((r->core.alone ? REPLICA_HELLO_ALONE : 0) |
                         (c->hello_empty ? REPLICA_HELLO_EMPTY : 0));
    h->epoch = r->core.epoch;
    h->seen = r->core.seen;
    h->tail = c->hello_pos;
    h->epochs = (struct replica_span){epochs.p, (uint32_t)epochs.len};
    c->hello_sent = true;
    replica_conn_send(c, &m);
    dmt_buf_free(&epochs);
}

static bool is_zero(const uint8_t id[16])
{
    static const uint8_t zero[16];
    return memcmp(id, zero, 16) == 0;
}

static void join_session(struct replica_conn *c);

/* A HELLO states only what is durable (R3 begins here). */
void replica_session_hello(struct replica_conn *c)
{
    struct dmt_replica *r = c->r;
    if (c->hello_sent)
        return;
    c->hello_wait = true;
    if (r->core.role == DMT_REPLICA_NONE)
        return; /* there is nothing to say yet */
    if (!c->hello_posed) {
        c->hello_posed = true;
        c->hello_pos = replica_tail(r);
        /* A store without a lineage is a new standby's: it becomes one of the workspace by the
         * state stream, which names it. */
        c->hello_empty = r->ws == NULL || is_zero(dmt_store_ident(dmt_ws_store(r->ws))->lineage);
        if (r->ws)
            replica_threads_rebase(r);
        if (r->ws && dmt_journal_durable(dmt_ws_journal(r->ws)) < c->hello_pos.seq) {
            dmt_journal_kick(dmt_ws_journal(r->ws), c->hello_pos.seq);
            replica_sync_want(r, c->hello_pos.seq);
        }
    }
    if (r->ws && dmt_journal_durable(dmt_ws_journal(r->ws)) < c->hello_pos.seq)
        return;
    c->hello_wait = false;
    send_hello(c);
    if (c->hello_got && !c->closing)
        join_session(c);
}

void replica_session_secure(struct replica_conn *c)
{
    replica_session_hello(c);
}

/* Why this HELLO is refused, or NULL. */
static const char *refuse_hello(struct replica_conn *c, const struct replica_msg_HELLO *h)
{
    struct dmt_replica *r = c->r;
    if (h->version != REPLICA_VERSION)
        return "the other side speaks another version of the replica protocol";
    if (h->workspace.n != strlen(r->workspace) ||
        memcmp(h->workspace.p, r->workspace, h->workspace.n) != 0)
        return "the other side serves another workspace";
    if (h->node.n == 0 || h->node.n > DMT_NODE_NAME_MAX || h->role > DMT_REPLICA_RECEIVER)
        return "the hello makes no sense";
    if (c->tls && strcmp(c->peer.node, c->peer_name) != 0)
        return "the node name is not the one of the certificate";
    if (r->peer_node && strcmp(c->peer.node, r->peer_node) != 0)
        return "this node is not the peer named in the configuration";
    if (memcmp(h->store_id, r->conf.store_id, 16) == 0)
        return "the other side is this very store";
    switch (dmt_lineage_relate(&r->conf.lineage, DMT_EPOCH_MAJOR(r->core.seen), &c->peer.lineage,
                               DMT_EPOCH_MAJOR(h->seen))) {
    case DMT_LINEAGE_FOREIGN:
        return "the other side's workspace of this name is another one (its lineage differs)";
    case DMT_LINEAGE_BEYOND:
        return "one side's lineage was forced out of the other's, which has gone on beyond that: "
               "keep the copy that is right, and make the other machine anew as its standby";
    case DMT_LINEAGE_NEWER:
        c->peer.newer = true;
        break;
    default:
        break;
    }
    if (r->conn && r->conn != c && memcmp(r->core.peer.store_id, h->store_id, 16) != 0)
        return "busy with another peer";
    return NULL;
}

static void take_hello(struct replica_conn *c, const struct replica_msg_HELLO *h)
{
    struct dmt_replica *r = c->r;
    if (c->hello_got) {
        replica_conn_close(c, -EPROTO, "a second hello");
        return;
    }
    c->hello_got = true;
    struct dmt_replica_peer *p = &c->peer;
    replica_span_text(h->node, p->node, sizeof(p->node));
    memcpy(p->store_id, h->store_id, 16);
    memcpy(p->lineage.id, h->lineage, 16);
    p->lineage.first = h->first;
    p->lineage.past_n =
        h->past.n / 16 < DMT_LINEAGE_PAST_MAX ? h->past.n / 16 : DMT_LINEAGE_PAST_MAX;
    if (p->lineage.past_n > 0)
        memcpy(p->lineage.past, h->past.p, (size_t)p->lineage.past_n * 16);
    p->role = (enum dmt_replica_role)h->role;
    p->alone = (h->flags & REPLICA_HELLO_ALONE) != 0;
    p->empty = (h->flags & REPLICA_HELLO_EMPTY) != 0;
    p->epoch = h->epoch;
    p->seen = h->seen;
    p->tail = h->tail;
    c->peer_epochs = calloc(REPLICA_EPOCHS_MAX, sizeof(*c->peer_epochs));
    DMT_ASSERT(c->peer_epochs);
    c->peer_epochs_n = replica_epochs_decode(h->epochs, c->peer_epochs);
    const char *why = c->peer_epochs_n < 0 ? "the hello makes no sense" : refuse_hello(c, h);
    if (why) {
        r->refused++;
        replica_event(r, "refused", "%s: %s", p->node, why);
        replica_conn_close(c, DMT_E_AUTH, why);
        return;
    }
    if (c->hello_sent)
        join_session(c);
    else
        replica_session_hello(c);
}

/* Both hellos are through: this is the session, unless a better connection to the same peer is. */
static void join_session(struct replica_conn *c)
{
    struct dmt_replica *r = c->r;
    struct replica_conn *old = r->conn;
    if (old &&
        !replica_prefer_second(r->conf.store_id, c->peer.store_id, old->dialled, c->dialled)) {
        replica_conn_close(c, DMT_E_CONFLICT, "the other connection stays");
        return;
    }
    if (old)
        replica_conn_close(old, DMT_E_CONFLICT, "the other connection stays");
    if (!c->dialled)
        r->pending_n--;
    c->joined = true;
    r->conn = c;
    if (r->dialling == c) {
        r->dialling = NULL;
    } else if (r->dialling) {
        replica_conn_close(r->dialling, DMT_E_CONFLICT, "the other connection stays");
    }
    memcpy(r->peer_epochs, c->peer_epochs, (size_t)c->peer_epochs_n * sizeof(r->peer_epochs[0]));
    r->peer_epochs_n = (size_t)c->peer_epochs_n;
    free(c->peer_epochs);
    c->peer_epochs = NULL;
    if (!dmt_lineage_known(&r->conf.lineage))
        r->conf.lineage = c->peer.lineage;
    r->connects++;
    r->up_ms = replica_now_ms(r);
    replica_do(r, &(struct replica_event){
                      .type = REPLICA_EV_OPEN, .flag = c->hello_empty, .pos = c->hello_pos});
    struct replica_event ev = {.type = REPLICA_EV_GOT_HELLO, .peer = &c->peer};
    ev.relation = replica_relate(r, &c->peer.tail, c->peer.empty);
    ev.fork = replica_fork(r->epochs, r->epochs_n, r->peer_epochs, r->peer_epochs_n);
    replica_do(r, &ev);
}

void replica_session_closed(struct replica_conn *c, const char *why)
{
    struct dmt_replica *r = c->r;
    r->conn = NULL;
    r->follow_pending = 0;
    replica_export_stop(r);
    replica_import_stop(r);
    replica_branches_stop(r);
    replica_sender_stop(r); /* also what was served */
    replica_do(r, &(struct replica_event){.type = REPLICA_EV_CLOSED, .text = why});
    if (replica_now_ms(r) - r->up_ms > 1000)
        r->backoff_ms = 0;
    replica_net_dial(r, false);
}

/* --- actions of the core ---------------------------------------------------------------------- */

void replica_post_send(struct dmt_replica *r, const struct replica_msg *m)
{
    if (r->conn)
        replica_conn_send(r->conn, m);
}

static void do_send(struct dmt_replica *r, const struct replica_action *a)
{
    struct replica_msg m = {0};
    switch (a->type) {
    case REPLICA_AC_VERDICT:
        m.type = REPLICA_VERDICT;
        m.VERDICT.relation = (uint8_t)a->relation;
        break;
    case REPLICA_AC_SEND_EPOCH:
        m.type = REPLICA_EPOCH;
        m.EPOCH.epoch = a->epoch;
        m.EPOCH.alone = a->flag;
        for (size_t i = 0; i < r->epochs_n; i++)
            if (r->epochs[i].epoch == a->epoch) {
                m.EPOCH.switch_seq = r->epochs[i].switch_seq;
                m.EPOCH.switch_chain = r->epochs[i].switch_chain;
            }
        break;
    case REPLICA_AC_SEND_READY:
        m.type = REPLICA_READY;
        m.READY.epoch = a->epoch;
        m.READY.cannot = a->flag;
        m.READY.at = a->pos;
        m.READY.why = replica_span_of(a->text);
        break;
    case REPLICA_AC_SEND_ORDER:
        m.type = REPLICA_ORDER;
        m.ORDER.epoch = a->epoch;
        m.ORDER.alone = r->core.alone;
        break;
    default:
        m.type = REPLICA_FETCH;
        m.FETCH.epoch = a->epoch;
        m.FETCH.after = replica_tail(r);
        r->receiver.tail = m.FETCH.after;
        break;
    }
    replica_post_send(r, &m);
}

static void do_start_stream(struct dmt_replica *r, const struct replica_action *a)
{
    struct replica_msg m = {.type = REPLICA_STREAM};
    m.STREAM.epoch = a->epoch;
    m.STREAM.after = a->pos;
    replica_post_send(r, &m);
    replica_sender_start(r, a->epoch, &a->pos, 0);
    replica_sender_commit(r,
                          true); /* what is there may be applied, even if nothing new is written */
    replica_branches_start(r);
}

static void do_close(struct dmt_replica *r, const struct replica_action *a)
{
    if (!r->conn)
        return;
    if (a->err == DMT_E_RETRY)
        r->backoff_ms =
            0; /* nothing is wrong with the connection: the other side may come back at once */
    replica_conn_close(r->conn, a->err, a->text);
}

/* Events for L4. */
static void do_tell(struct dmt_replica *r, const struct replica_action *a)
{
    const struct dmt_replica_ops *ops = r->conf.ops;
    void *ctx = r->conf.ctx;
    switch (a->type) {
    case REPLICA_AC_UP:
        replica_event(r, "connected", "%s (%s)", r->core.peer.node,
                      replica_relation_text(r->core.about_peer));
        ops->peer_up(ctx, &r->core.peer);
        break;
    case REPLICA_AC_PEER_GONE:
        replica_event(r, "disconnected", "%s: %s", r->core.peer.node, a->text);
        ops->peer_down(ctx, a->text);
        break;
    case REPLICA_AC_PEER_EPOCH:
        ops->peer_epoch(ctx, &r->core.peer, a->epoch, a->flag, a->seq, replica_tail(r).seq);
        break;
    case REPLICA_AC_HIGHER:
        ops->higher_epoch(ctx, a->epoch);
        break;
    case REPLICA_AC_PAIR_READY:
        ops->pair_ready(ctx, r->core.peer.store_id, a->epoch, a->seq);
        break;
    case REPLICA_AC_RESYNC_NEEDED: {
        char why[REPLICA_TEXT_MAX + 1];
        (void)snprintf(why, sizeof(why), "%s", a->text);
        replica_event(r, "resync", "%s is needed by %s: its position is %s", "resynchronisation",
                      r->core.peer.node, why);
        ops->resync_needed(ctx, why);
        break;
    }
    case REPLICA_AC_RESYNC_ORDERED:
        ops->resync_ordered(ctx, &r->core.peer, a->epoch, a->flag, a->seq);
        break;
    default:
        ops->fetched(ctx, a->err);
        break;
    }
}

static void do_action(struct dmt_replica *r, const struct replica_action *a)
{
    switch (a->type) {
    case REPLICA_AC_VERDICT:
    case REPLICA_AC_SEND_EPOCH:
    case REPLICA_AC_SEND_READY:
    case REPLICA_AC_SEND_ORDER:
    case REPLICA_AC_SEND_FETCH:
        do_send(r, a);
        break;
    case REPLICA_AC_START_STREAM:
        do_start_stream(r, a);
        break;
    case REPLICA_AC_STOP_STREAM:
        replica_branches_stop(r);
        replica_sender_stop(r);
        break;
    case REPLICA_AC_RECEIVE:
        replica_receiver_start(r);
        r->conf.ops->following(r->conf.ctx, a->epoch, a->seq);
        replica_branches_start(r);
        break;
    case REPLICA_AC_STOP_RECEIVING:
        replica_branches_stop(r);
        replica_receiver_stop(r);
        break;
    case REPLICA_AC_ACKED:
        replica_sender_acked(r, a->seq, a->whole);
        break;
    case REPLICA_AC_IMPORT:
        replica_import_start(r);
        break;
    case REPLICA_AC_EXPORT:
        replica_export_await(r, a->epoch);
        break;
    case REPLICA_AC_SERVE:
        replica_sender_start(r, a->epoch, &a->pos, replica_tail(r).seq);
        break;
    case REPLICA_AC_STORE:
        replica_receiver_store(r, &a->pos);
        break;
    case REPLICA_AC_CLOSE:
        do_close(r, a);
        break;
    default:
        do_tell(r, a);
        break;
    }
}

void replica_do(struct dmt_replica *r, const struct replica_event *ev)
{
    struct replica_actions as;
    replica_step(&r->core, ev, &as);
    struct replica_conn *c = r->conn;
    for (int i = 0; i < as.n; i++) {
        do_action(r, &as.v[i]);
        /* Carrying out one action may have ended the connection (the socket failed): what follows
         * was meant for it. */
        if (r->conn != c)
            break;
    }
    replica_sender_publish(r);
}

/* --- messages --------------------------------------------------------------------------------- */

static void take_epoch(struct dmt_replica *r, const struct replica_msg_EPOCH *e)
{
    struct replica_epoch entry = {e->epoch, e->switch_seq, e->switch_chain};
    if (r->peer_epochs_n > 0 && r->peer_epochs[r->peer_epochs_n - 1].epoch < e->epoch) {
        if (r->peer_epochs_n == REPLICA_EPOCHS_MAX) {
            memmove(r->peer_epochs, r->peer_epochs + 1, (REPLICA_EPOCHS_MAX - 1) * sizeof(entry));
            r->peer_epochs_n--;
        }
        r->peer_epochs[r->peer_epochs_n++] = entry;
    } else if (r->peer_epochs_n == 0) {
        r->peer_epochs[r->peer_epochs_n++] = entry;
    }
    struct replica_event ev = {
        .type = REPLICA_EV_GOT_EPOCH, .epoch = e->epoch, .flag = e->alone != 0};
    ev.fork = replica_fork(r->epochs, r->epochs_n, r->peer_epochs, r->peer_epochs_n);
    ev.tail = replica_tail(r);
    replica_do(r, &ev);
}

static void take_ready(struct dmt_replica *r, const struct replica_msg_READY *m)
{
    char why[REPLICA_TEXT_MAX + 1];
    replica_span_text(m->why, why, sizeof(why));
    struct replica_event ev = {
        .type = REPLICA_EV_GOT_READY, .epoch = m->epoch, .flag = m->cannot != 0, .pos = m->at};
    ev.relation = replica_relate(r, &m->at, m->cannot != 0);
    ev.tail = replica_tail(r);
    ev.text = why;
    replica_do(r, &ev);
}

static void take_bye(struct replica_conn *c, const struct replica_msg_BYE *m)
{
    struct dmt_replica *r = c->r;
    char text[REPLICA_TEXT_MAX + 1], why[REPLICA_TEXT_MAX + 64];
    replica_span_text(m->text, text, sizeof(text));
    (void)snprintf(why, sizeof(why), "the peer hung up: %s", text);
    int code = m->code <= INT32_MAX ? -(int)m->code : -EPROTO;
    if (code == DMT_E_RETRY)
        r->backoff_ms = 0;
    if (!c->joined && code != DMT_E_CONFLICT && code != DMT_E_RETRY)
        replica_event(r, "refused", "%s", why);
    if (r->conn == c && code == DMT_E_STALE)
        replica_do(r, &(struct replica_event){.type = REPLICA_EV_GOT_STALE, .epoch = m->epoch});
    if (!c->closing)
        replica_conn_close(c, 0, why);
}

static void take_ping(struct dmt_replica *r, const struct replica_msg *m)
{
    if (m->type == REPLICA_PING) {
        struct replica_msg pong = {.type = REPLICA_PONG};
        pong.PONG.stamp = m->PING.stamp;
        replica_post_send(r, &pong);
        return;
    }
    uint64_t now = replica_now_ns(r);
    if (m->PONG.stamp == 0 || m->PONG.stamp > now)
        return;
    uint64_t us = (now - m->PONG.stamp) / 1000;
    r->rtt_us = r->rtt_us ? (7 * r->rtt_us + us) / 8 : us;
}

/* Frames of the lanes: only what the core lets through. */
static void take_lane(struct dmt_replica *r, const struct replica_msg *m)
{
    uint64_t epoch = m->RECORDS.epoch; /* the first field of each of them */
    int rc = replica_core_takes(&r->core, m->type, epoch);
    if (rc == 1)
        return;
    if (rc < 0) {
        r->refused++;
        replica_event(r, "refused", "%s of epoch %u.%u: %s", replica_type_name(m->type),
                      (unsigned)(epoch >> 32), (unsigned)epoch,
                      rc == DMT_E_STALE ? "this epoch is over" : "out of place");
        replica_conn_close(r->conn, rc,
                           rc == DMT_E_STALE ? "this epoch is over" : "a frame out of place");
        return;
    }
    switch (m->type) {
    case REPLICA_RECORDS:
        replica_receiver_records(r, &m->RECORDS);
        break;
    case REPLICA_COMMIT:
        replica_receiver_commit(r, m->COMMIT.durable);
        break;
    case REPLICA_NEED:
        replica_receiver_need(r, m->NEED.seq);
        break;
    case REPLICA_WANT:
        replica_pull_want(r, m->WANT.ino, m->WANT.seq);
        break;
    case REPLICA_BULK:
        replica_pull_bulk(r, &m->BULK);
        break;
    case REPLICA_GONE:
        replica_pull_gone(r, &m->GONE);
        break;
    case REPLICA_HAVE:
        replica_sender_have(r, &m->HAVE);
        break;
    case REPLICA_PULL:
        replica_serve_pull(r, &m->PULL);
        break;
    case REPLICA_AUDIT:
        replica_audit_check(r, &m->AUDIT);
        break;
    case REPLICA_AUDITED:
        replica_audit_result(r, &m->AUDITED);
        break;
    case REPLICA_LIST:
        replica_export_list(r, &m->LIST);
        break;
    case REPLICA_STATE:
        replica_import_data(r, &m->STATE);
        break;
    case REPLICA_BRANCH:
        replica_branches_heard(r, &m->BRANCH);
        break;
    case REPLICA_BRANCH_GET:
        replica_branches_get(r, &m->BRANCH_GET);
        break;
    case REPLICA_BRANCH_DATA:
        replica_branches_data(r, &m->BRANCH_DATA);
        break;
    case REPLICA_BRANCH_END:
        replica_branches_end(r, &m->BRANCH_END);
        break;
    default:
        replica_import_end(r, &m->STATE_END);
        break;
    }
}
_Static_assert(offsetof(struct replica_msg_RECORDS, epoch) == 0 &&
                   offsetof(struct replica_msg_PULL, epoch) == 0 &&
                   offsetof(struct replica_msg_BULK, epoch) == 0 &&
                   offsetof(struct replica_msg_GONE, epoch) == 0 &&
                   offsetof(struct replica_msg_HAVE, epoch) == 0 &&
                   offsetof(struct replica_msg_WANT, epoch) == 0 &&
                   offsetof(struct replica_msg_STATE, epoch) == 0 &&
                   offsetof(struct replica_msg_LIST, epoch) == 0 &&
                   offsetof(struct replica_msg_AUDIT, epoch) == 0 &&
                   offsetof(struct replica_msg_AUDITED, epoch) == 0 &&
                   offsetof(struct replica_msg_COMMIT, epoch) == 0 &&
                   offsetof(struct replica_msg_NEED, epoch) == 0 &&
                   offsetof(struct replica_msg_BRANCH, epoch) == 0 &&
                   offsetof(struct replica_msg_BRANCH_GET, epoch) == 0 &&
                   offsetof(struct replica_msg_BRANCH_DATA, epoch) == 0 &&
                   offsetof(struct replica_msg_BRANCH_END, epoch) == 0 &&
                   offsetof(struct replica_msg_STATE_END, epoch) == 0,
               "take_lane reads the epoch of any lane frame in one place");

void replica_session_message(struct replica_conn *c, const struct replica_msg *m)
{
    struct dmt_replica *r = c->r;
    if (m->type == REPLICA_HELLO) {
        take_hello(c, &m->HELLO);
        return;
    }
    if (m->type == REPLICA_BYE) {
        take_bye(c, &m->BYE);
        return;
    }
    if (r->conn != c) {
        replica_conn_close(c, -EPROTO, "a message before the hello");
        return;
    }
    struct replica_event ev = {0};
    switch (m->type) {
    case REPLICA_VERDICT:
        if (m->VERDICT.relation >= REPLICA_RELATIONS) {
            replica_conn_close(c, -EPROTO, "the verdict makes no sense");
            return;
        }
        ev.type = REPLICA_EV_GOT_VERDICT;
        ev.relation = (enum replica_relation)m->VERDICT.relation;
        break;
    case REPLICA_EPOCH:
        take_epoch(r, &m->EPOCH);
        return;
    case REPLICA_READY:
        take_ready(r, &m->READY);
        return;
    case REPLICA_STREAM:
        ev.type = REPLICA_EV_GOT_STREAM;
        ev.epoch = m->STREAM.epoch;
        ev.pos = m->STREAM.after;
        ev.tail = replica_tail(r);
        break;
    case REPLICA_ACK:
        replica_sender_ack(r, &m->ACK);
        return;
    case REPLICA_FETCH:
        ev.type = REPLICA_EV_GOT_FETCH;
        ev.epoch = m->FETCH.epoch;
        ev.pos = m->FETCH.after;
        ev.relation = replica_relate(r, &m->FETCH.after, false);
        break;
    case REPLICA_FETCHED:
        ev.type = REPLICA_EV_GOT_FETCHED;
        ev.epoch = m->FETCHED.epoch;
        ev.pos = m->FETCHED.tail;
        break;
    case REPLICA_ORDER:
        ev.type = REPLICA_EV_GOT_ORDER;
        ev.epoch = m->ORDER.epoch;
        ev.flag = m->ORDER.alone != 0;
        break;
    case REPLICA_GO:
        ev.type = REPLICA_EV_GOT_GO;
        ev.epoch = m->GO.epoch;
        r->resync.list_len = m->GO.length;
        break;
    case REPLICA_PING:
    case REPLICA_PONG:
        take_ping(r, m);
        return;
    default:
        take_lane(r, m);
        return;
    }
    replica_do(r, &ev);
}

/* --- lanes by rank ---------------------------------------------------------------------------- */

bool replica_session_fill(struct dmt_replica *r, struct dmt_buf *out)
{
    if (!r->core.up)
        return false;
    return replica_sender_fill(r, out) || (r->conn && replica_serve_fill(r, out)) ||
           (r->conn && replica_export_fill(r, out)) || (r->conn && replica_import_fill(r, out)) ||
           (r->conn && replica_branches_fill(r, out));
}

void replica_session_durable(struct dmt_replica *r)
{
    /* A hello can make its connection the session, which closes others: begin again after each. */
    for (struct dmt_list *it = r->conns.next; it != &r->conns;) {
        struct replica_conn *c = DMT_CONTAINER(it, struct replica_conn, node);
        bool waited = c->hello_wait;
        if (waited)
            replica_session_hello(c);
        it = waited && (c->closing || !c->hello_wait) ? r->conns.next : it->next;
    }
    /* Bytes that an earlier stream is still filling in belong to a history that may have been cut
     * off: the next one's records may ask for the very same range at the very same position. */
    if (r->follow_pending && r->pull.fill_jobs == 0 &&
        (!r->ws || dmt_journal_durable(dmt_ws_journal(r->ws)) >= replica_tail(r).seq)) {
        uint64_t epoch = r->follow_pending;
        r->follow_pending = 0;
        struct dmt_pos tail = replica_tail(r);
        replica_epochs_trim(r, tail.seq);
        replica_do(
            r, &(struct replica_event){.type = REPLICA_EV_FOLLOW, .epoch = epoch, .tail = tail});
    }
}
