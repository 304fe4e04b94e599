/* hello.c: from a secure connection to the session, and its end.
 *
 * Owns r->conn (the session: the one connection that both sides have agreed on). Happy path: a
 * connection is secure -> our HELLO goes out as soon as everything up to our tail is durable -> the
 * peer's HELLO -> the connection becomes the session -> VERDICTs -> core.
 *
 * Failure modes: another workspace, lineage, version, name or our own store at the other end: BYE
 * with the sentence. Two connections with the same peer: both ends keep the same one
 * (replica_prefer_second). A second peer while there is a session: BYE "busy". Thread: loop.
 */
#include "fs/replica/int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"

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
void replica_hello_send(struct replica_conn *c)
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

void replica_hello_secure(struct replica_conn *c)
{
    replica_hello_send(c);
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

void replica_hello_take(struct replica_conn *c, const struct replica_msg_HELLO *h)
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
        replica_hello_send(c);
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
