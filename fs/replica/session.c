/* session.c: the conversation with the peer: the messages that the core decides about, and carrying
 * out what it decides.
 *
 * Happy path: a message of the session is turned into an event (with what only the journal knows:
 * relation of a position, fork of two histories) or handed to a lane after replica_core_takes()
 * said yes. Failure modes: a message at the wrong time ends the connection, with the reason in the
 * BYE. Thread: loop.
 */
#include "fs/replica/int.h"

#include <stdio.h>
#include <string.h>

#include "fs/base/log.h"

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
        replica_hello_take(c, &m->HELLO);
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
            replica_hello_send(c);
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
