/* gate.c: "may this reply go?", asked for every call.
 *
 * Owns the gate box: what the core decided last, in a form that other threads can read. plain() and
 * begin() are two or three atomic loads and a look at the clock; sync() takes a leaf lock. Happy
 * path: PAIR, lease running, peer has acknowledged. Failure modes: told to wait, the caller parks
 * and is woken by gate_changed, which comes after every change that can make an answer better. A
 * lease that ends by itself changes nothing here: the clock does it, in the very call that asks
 * (R14: plain writes stop when the lease ends on the holder's own clock). Order: a gate with a
 * lower gen than the applied one is late and ignored. Threads: any.
 */
#include <errno.h>
#include <string.h>

#include "fs/lease/internal.h"

int lease_gate_init(struct lease_gate_box *g)
{
    atomic_init(&g->mode, LEASE_GATE_CLOSED);
    atomic_init(&g->deadline_ns, 0);
    atomic_init(&g->waited, false);
    return -pthread_mutex_init(&g->lock, NULL);
}

void lease_gate_apply(struct dmt_lease *l, const struct lease_action *a)
{
    struct lease_gate_box *g = &l->gate;
    pthread_mutex_lock(&g->lock);
    bool fresh = a->gen > g->gen;
    if (fresh) {
        g->gen = a->gen;
        if (a->epoch != g->epoch || memcmp(a->peer.store, g->peer, 16) != 0) {
            /* R3: acks of another epoch or store count for nothing. One of this epoch may have
             * come before its gate, and a peer that has everything may never send another. */
            bool early = a->epoch == g->heard_epoch && memcmp(a->peer.store, g->heard, 16) == 0;
            g->acked = early ? g->heard_durable : 0;
        }
        g->epoch = a->epoch;
        memcpy(g->peer, a->peer.store, 16);
        atomic_store(&g->mode, (int)a->mode);
    }
    pthread_mutex_unlock(&g->lock);
    if (fresh) {
        atomic_store(&g->waited, false);
        l->conf.ops->gate_changed(l->conf.ctx);
    }
}

void lease_gate_deadline(struct dmt_lease *l, uint64_t deadline_ns)
{
    atomic_store(&l->gate.deadline_ns, deadline_ns);
    if (atomic_exchange(&l->gate.waited, false))
        l->conf.ops->gate_changed(l->conf.ctx);
}

static bool lease_runs(struct dmt_lease *l)
{
    return lease_now(l) < atomic_load(&l->gate.deadline_ns);
}

/* True: answer "wait". False: look once more, because the mark that makes a change wake somebody
 * was not set when we looked. */
static bool must_wait(struct dmt_lease *l)
{
    return atomic_exchange(&l->gate.waited, true);
}

int dmt_lease_plain(struct dmt_lease *l)
{
    for (;;) {
        switch ((enum lease_gate_mode)atomic_load(&l->gate.mode)) {
        case LEASE_GATE_CLOSED:
            return -EIO;
        case LEASE_GATE_ALONE:
        case LEASE_GATE_READONLY:
            return 0;
        case LEASE_GATE_PAIR:
            if (lease_runs(l))
                return 0;
            break;
        case LEASE_GATE_WAIT:
            break;
        }
        if (must_wait(l))
            return 1;
    }
}

int dmt_lease_begin(struct dmt_lease *l)
{
    switch ((enum lease_gate_mode)atomic_load(&l->gate.mode)) {
    case LEASE_GATE_CLOSED:
    case LEASE_GATE_READONLY:
        return -EROFS;
    default:
        return dmt_lease_plain(l);
    }
}

static bool acked(struct dmt_lease *l, uint64_t seq)
{
    pthread_mutex_lock(&l->gate.lock);
    bool yes = l->gate.acked >= seq;
    pthread_mutex_unlock(&l->gate.lock);
    return yes;
}

int dmt_lease_sync(struct dmt_lease *l, uint64_t seq)
{
    for (;;) {
        switch ((enum lease_gate_mode)atomic_load(&l->gate.mode)) {
        case LEASE_GATE_CLOSED:
            return -EIO;
        case LEASE_GATE_ALONE:
        case LEASE_GATE_READONLY:
            return 0;
        case LEASE_GATE_PAIR:
            if (lease_runs(l) && (l->conf.sync_local || acked(l, seq)))
                return 0;
            break;
        case LEASE_GATE_WAIT:
            break;
        }
        if (must_wait(l))
            return 1;
    }
}

uint64_t dmt_lease_stable(struct dmt_lease *l)
{
    switch ((enum lease_gate_mode)atomic_load(&l->gate.mode)) {
    case LEASE_GATE_ALONE:
    case LEASE_GATE_READONLY:
        return UINT64_MAX;
    default:
        break;
    }
    pthread_mutex_lock(&l->gate.lock);
    uint64_t seq = l->gate.acked;
    pthread_mutex_unlock(&l->gate.lock);
    return seq;
}

bool dmt_lease_dual(struct dmt_lease *l)
{
    return atomic_load(&l->epoch) != 0 && !atomic_load(&l->alone);
}

void dmt_lease_peer_acked(struct dmt_lease *l, const uint8_t store_id[16], uint64_t epoch,
                          uint64_t durable_seq, uint64_t whole_seq)
{
    struct lease_gate_box *g = &l->gate;
    pthread_mutex_lock(&g->lock);
    g->heard_epoch = epoch;
    g->heard_durable = durable_seq;
    memcpy(g->heard, store_id, 16);
    bool counts = epoch != 0 && epoch == g->epoch && memcmp(store_id, g->peer, 16) == 0;
    bool moved = counts && durable_seq > g->acked;
    if (moved)
        g->acked = durable_seq;
    pthread_mutex_unlock(&g->lock);
    if (moved && atomic_exchange(&g->waited, false))
        l->conf.ops->gate_changed(l->conf.ctx);
    /* The core needs acknowledgements only to leave solo. */
    int state = atomic_load(&l->state);
    if (state != DMT_LEASE_HOLDER_ALONE && state != DMT_LEASE_LEAVING)
        return;
    struct lease_event e = {
        .type = LEASE_EV_PEER_ACK, .epoch = epoch, .durable = durable_seq, .whole = whole_seq};
    memcpy(e.id.store, store_id, 16);
    lease_post(l, &e);
}
