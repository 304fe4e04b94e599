/* core_receiver.c: what a receiver decides: whether it may follow the holder that it meets, its
 * resync, and what a restarted holder may fetch from it.
 *
 * Happy path: the holder's epoch (hello or EPOCH) -> PEER_EPOCH to the lease -> FOLLOW -> READY
 * with our tail -> STREAM -> RECEIVING. Where the tail is not on the holder's chain: READY says so,
 * an ORDER comes, the workspace is closed, the import runs. Failure modes: as in core.c; an epoch
 * that is over is answered with STALE. Thread: the caller's.
 */
#include "fs/replica/core_int.h"

static void send_ready(struct replica_core *c, struct replica_actions *as, const struct dmt_pos *at,
                       const char *cannot)
{
    struct replica_action *a = replica_core_act(as, REPLICA_AC_SEND_READY);
    a->epoch = c->peer.epoch;
    a->flag = cannot != NULL;
    a->text = cannot ? cannot : "";
    if (!cannot)
        a->pos = *at;
    replica_core_move(c, cannot ? REPLICA_AWAIT_ORDER : REPLICA_AWAIT_STREAM);
}

/* The peer holds peer.epoch: may we follow? tail: ours. */
void replica_recv_meet(struct replica_core *c, struct replica_actions *as,
                       const struct dmt_pos *tail)
{
    if (c->peer.epoch < c->seen) {
        replica_core_close(as, DMT_E_STALE, "this epoch is over");
        return;
    }
    bool followed = c->epoch == c->peer.epoch && c->epoch == c->seen && c->epoch != 0;
    struct replica_action *a = replica_core_act(as, REPLICA_AC_PEER_EPOCH);
    a->epoch = c->peer.epoch;
    a->flag = c->peer.alone;
    /* The chain decides where it is known; an epoch that we follow already never cuts (rule 5). */
    a->seq = c->about_us == REPLICA_ON || followed || c->fork > tail->seq ? tail->seq : c->fork;
    replica_core_move(c, REPLICA_AWAIT_FOLLOW);
    if (followed)
        send_ready(c, as, tail, c->empty ? "no store yet" : NULL);
}

void replica_recv_epoch(struct replica_core *c, const struct replica_event *ev,
                        struct replica_actions *as)
{
    if (c->role != DMT_REPLICA_RECEIVER) {
        replica_core_higher(c, as, ev->epoch);
        return;
    }
    if (ev->epoch < c->seen) {
        replica_core_close(as, DMT_E_STALE, "this epoch is over");
        return;
    }
    if (!c->up || (c->peer.role == DMT_REPLICA_SENDER && ev->epoch <= c->peer.epoch) ||
        replica_core_phase(c) == REPLICA_IMPORTING || replica_core_phase(c) == REPLICA_SERVING) {
        replica_core_close(as, -EPROTO, "an epoch was announced out of place");
        return;
    }
    if (replica_core_phase(c) == REPLICA_RECEIVING)
        replica_core_act(as, REPLICA_AC_STOP_RECEIVING);
    c->peer.role = DMT_REPLICA_SENDER;
    c->peer.epoch = ev->epoch;
    c->peer.alone = ev->flag;
    if (ev->epoch > c->peer.seen)
        c->peer.seen = ev->epoch;
    c->ordered = false;
    c->fork = ev->fork;
    /* The verdict of the hello was about another epoch. But once the holder has streamed on this
     * connection, our tail is its own, whatever epochs it opened unseen between its hello and now:
     * its list, as we know it, may lack some of them. */
    c->about_us = c->on_chain ? REPLICA_ON : REPLICA_BEYOND;
    replica_recv_meet(c, as, &ev->tail);
}

void replica_recv_follow(struct replica_core *c, const struct replica_event *ev,
                         struct replica_actions *as)
{
    if (c->role != DMT_REPLICA_RECEIVER || ev->epoch < c->seen)
        return;
    c->epoch = c->seen = ev->epoch;
    if (replica_core_phase(c) == REPLICA_AWAIT_FOLLOW && ev->epoch == c->peer.epoch)
        send_ready(c, as, &ev->tail, c->empty ? "no store yet" : NULL);
}

void replica_recv_cannot(struct replica_core *c, const struct replica_event *ev,
                         struct replica_actions *as)
{
    switch (replica_core_phase(c)) {
    case REPLICA_RECEIVING:
        replica_core_act(as, REPLICA_AC_STOP_RECEIVING);
        /* fall through */
    case REPLICA_AWAIT_FOLLOW:
    case REPLICA_AWAIT_STREAM:
        send_ready(c, as, &ev->tail,
                   ev->text && ev->text[0] ? ev->text : "cannot join this history");
        break;
    default:
        break;
    }
}

void replica_recv_stream(struct replica_core *c, const struct replica_event *ev,
                         struct replica_actions *as)
{
    if (replica_core_phase(c) != REPLICA_AWAIT_STREAM || ev->epoch != c->peer.epoch ||
        ev->pos.seq != ev->tail.seq || ev->pos.chain != ev->tail.chain) {
        replica_core_close(as, -EPROTO, "a stream started out of place");
        return;
    }
    replica_core_move(c, REPLICA_RECEIVING);
    c->ordered = false;
    c->on_chain = true;
    struct replica_action *a = replica_core_act(as, REPLICA_AC_RECEIVE);
    a->epoch = ev->epoch;
    a->seq = ev->pos.seq;
}

static void begin_import(struct replica_core *c, struct replica_actions *as)
{
    replica_core_move(c, REPLICA_IMPORTING);
    replica_core_act(as, REPLICA_AC_IMPORT)->epoch = c->peer.epoch;
}

/* Up to where is our history the holder's, as far as both lists of epochs and its word about our
 * tail say? It checks again what we say we have. A hello without a store says nothing of it: the
 * workspace is closed for the resync already, and what the first order said still holds. */
static uint64_t common_position(const struct replica_core *c)
{
    if (c->empty)
        return c->common;
    if (c->fork != REPLICA_NO_FORK)
        return c->fork;
    return c->about_us == REPLICA_OFF ? 0 : UINT64_MAX;
}

void replica_recv_order(struct replica_core *c, const struct replica_event *ev,
                        struct replica_actions *as)
{
    enum replica_phase p = replica_core_phase(c);
    if ((p != REPLICA_AWAIT_STREAM && p != REPLICA_AWAIT_ORDER) || ev->epoch != c->peer.epoch ||
        !ev->flag) { /* rule 11: only a holder that is alone */
        replica_core_close(as, -EPROTO, "a resync was ordered out of place");
        return;
    }
    if (p == REPLICA_AWAIT_STREAM)
        replica_core_move(c, REPLICA_AWAIT_ORDER);
    c->ordered = true;
    c->common = common_position(c);
    if (c->resync_ready) {
        begin_import(c, as);
        return;
    }
    struct replica_action *a = replica_core_act(as, REPLICA_AC_RESYNC_ORDERED);
    a->epoch = ev->epoch;
    a->seq = c->common;
    a->flag = ev->flag;
}

void replica_recv_resync_ready(struct replica_core *c, struct replica_actions *as)
{
    c->resync_ready = true;
    if (replica_core_phase(c) != REPLICA_AWAIT_ORDER)
        return;
    if (c->ordered)
        begin_import(c, as);
    else if (c->import_over)
        replica_core_close(
            as, DMT_E_RETRY,
            "the resynchronisation begins again"); /* the holder has sent its stream: ask anew */
}

void replica_recv_imported(struct replica_core *c)
{
    c->resync_ready = false;
    c->ordered = false;
    c->import_over = true;
    if (replica_core_phase(c) == REPLICA_IMPORTING)
        replica_core_move(c, REPLICA_AWAIT_ORDER);
}

/* A restarted holder asks for what we have beyond its tail (rule 6). */
void replica_recv_fetch(struct replica_core *c, const struct replica_event *ev,
                        struct replica_actions *as)
{
    enum replica_phase p = replica_core_phase(c);
    if (ev->epoch < c->seen) {
        replica_core_close(as, DMT_E_STALE, "this epoch is over");
        return;
    }
    if (c->role != DMT_REPLICA_RECEIVER || p != REPLICA_IDLE ||
        !replica_core_is_holder(c->peer.role) || ev->relation != REPLICA_ON) {
        replica_core_close(as, -EPROTO, "a fetch was asked for out of place");
        return;
    }
    replica_core_move(c, REPLICA_SERVING);
    struct replica_action *a = replica_core_act(as, REPLICA_AC_SERVE);
    a->epoch = ev->epoch;
    a->pos = ev->pos;
}
