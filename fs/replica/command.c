/* command.c: the public functions for any thread: commands for the loop, and the answers for the
 * gate.
 *
 * Owns nothing. Every order of L4 becomes a command posted to the loop, in order; so the core sees
 * one thing at a time and no callback of L4 can find it in the midst of a step. What the gate asks
 * is answered from numbers that the loop publishes: atomics, or (peer_durable) a leaf lock.
 * Failure modes: after stop has begun commands are dropped; a drain gets its answer (DMT_E_CLOSED).
 * Threads: any; run_cmd: loop.
 */
#include "fs/replica/int.h"

#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"

enum cmd_type { CMD_EVENT, CMD_DIAL, CMD_FOLLOW, CMD_RESYNC, CMD_DRAIN };
struct cmd {
    struct dmt_replica *r;
    enum cmd_type type;
    struct replica_event ev;
    char *text;
    uint16_t port;
    struct dmt_store_conf conf;
    struct dmt_store_ident ident;
    uint64_t timeout_ms;
    void (*fn)(void *arg, int err);
    void *arg;
};

static void set_role(struct dmt_replica *r, const struct replica_event *ev)
{
    /* The epoch just opened is in the store: our list must have it before it is announced. */
    if (r->ws && ev->role == DMT_REPLICA_SENDER && ev->epoch != r->core.epoch) {
        struct dmt_err err = {0};
        if (replica_epochs_load(r->ws, r->epochs, &r->epochs_n, &err) < 0)
            replica_event(r, "error", "%s", err.msg);
    }
    /* A hello that is out on a connection without session states the old role. */
    if (ev->role != r->core.role || ev->epoch != r->core.epoch)
        for (struct dmt_list *it = r->conns.next; it != &r->conns;) {
            struct replica_conn *c = DMT_CONTAINER(it, struct replica_conn, node);
            it = it->next;
            if (c->hello_sent && !c->joined) {
                replica_conn_close(c, DMT_E_RETRY, "the role of this machine changed");
                it = r->conns.next;
            }
        }
    replica_do(r, ev);
    replica_session_durable(r); /* greetings wait for the first role */
}

static void dial_changed(struct dmt_replica *r, char *host, uint16_t port)
{
    free(r->dial_host);
    r->dial_host = host;
    r->dial_port = port;
    r->backoff_ms = 0;
    if (r->dialling)
        replica_conn_close(r->dialling, 0, "the address changed");
    replica_net_dial(r, true);
}

static void start_drain(struct dmt_replica *r, struct cmd *c)
{
    struct replica_sender *s = &r->sender;
    if (s->drain_fn || replica_core_phase(&r->core) != REPLICA_STREAMING) {
        c->fn(c->arg, s->drain_fn ? -EBUSY : DMT_E_CLOSED);
        return;
    }
    s->drain_fn = c->fn;
    s->drain_arg = c->arg;
    s->drain_seq = c->ev.seq;
    s->drain_deadline_ms = replica_now_ms(r) + c->timeout_ms;
    dmt_journal_kick(dmt_ws_journal(r->ws), s->drain_seq);
    dmt_replica_need(r, s->drain_seq);
    (void)dmt_replica_have(r, 0, s->drain_seq);
    replica_sender_drain_check(r, 0);
    replica_poll(r);
}

static void run_cmd(void *arg)
{
    struct cmd *c = arg;
    struct dmt_replica *r = c->r;
    c->ev.tail = replica_tail(r);
    c->ev.text = c->text;
    if (r->stopping) {
        if (c->type == CMD_DRAIN)
            c->fn(c->arg, DMT_E_CLOSED);
    } else {
        switch (c->type) {
        case CMD_EVENT:
            if (c->ev.type == REPLICA_EV_ROLE)
                set_role(r, &c->ev);
            else
                replica_do(r, &c->ev);
            break;
        case CMD_DIAL:
            dial_changed(r, c->text, c->port);
            c->text = NULL;
            break;
        case CMD_FOLLOW:
            r->follow_pending = c->ev.epoch;
            if (r->ws) {
                dmt_journal_kick(dmt_ws_journal(r->ws), c->ev.tail.seq);
                replica_sync_want(r, c->ev.tail.seq);
            }
            replica_session_durable(r);
            break;
        case CMD_RESYNC:
            replica_import_prepare(r, &c->conf, &c->ident);
            replica_do(r, &c->ev);
            break;
        case CMD_DRAIN:
            start_drain(r, c);
            break;
        }
        replica_poll(r);
    }
    free(c->text);
    free(c);
}

/* Any thread. */
static struct cmd *cmd_new(struct dmt_replica *r, enum cmd_type type, enum replica_event_type ev,
                           const char *text)
{
    struct cmd *c = calloc(1, sizeof(*c));
    DMT_ASSERT(c);
    c->r = r;
    c->type = type;
    c->ev.type = ev;
    c->text = text ? strdup(text) : NULL;
    DMT_ASSERT(!text || c->text);
    return c;
}

void dmt_replica_dial(struct dmt_replica *r, const char *host, uint16_t port)
{
    struct cmd *c = cmd_new(r, CMD_DIAL, 0, host);
    c->port = port;
    dmt_loop_post(r->loop, run_cmd, c);
}

void dmt_replica_set_role(struct dmt_replica *r, enum dmt_replica_role role, uint64_t epoch,
                          bool alone, uint64_t seen)
{
    struct cmd *c = cmd_new(r, CMD_EVENT, REPLICA_EV_ROLE, NULL);
    c->ev.role = role;
    c->ev.epoch = epoch;
    c->ev.flag = alone;
    c->ev.seen = seen;
    dmt_loop_post(r->loop, run_cmd, c);
}

void dmt_replica_follow(struct dmt_replica *r, uint64_t epoch)
{
    struct cmd *c = cmd_new(r, CMD_FOLLOW, REPLICA_EV_FOLLOW, NULL);
    c->ev.epoch = epoch;
    dmt_loop_post(r->loop, run_cmd, c);
}

void dmt_replica_ask_resync(struct dmt_replica *r, const char *why)
{
    dmt_loop_post(r->loop, run_cmd, cmd_new(r, CMD_EVENT, REPLICA_EV_CANNOT, why));
}

void dmt_replica_order_resync(struct dmt_replica *r)
{
    dmt_loop_post(r->loop, run_cmd, cmd_new(r, CMD_EVENT, REPLICA_EV_DO_ORDER, NULL));
}

void dmt_replica_resync(struct dmt_replica *r, const struct dmt_store_conf *conf,
                        const struct dmt_store_ident *ident)
{
    struct cmd *c = cmd_new(r, CMD_RESYNC, REPLICA_EV_RESYNC_READY, NULL);
    c->conf = *conf;
    c->conf.dir = c->text = strdup(conf->dir); /* freed with the command; prepare copies it */
    DMT_ASSERT(c->text);
    c->ident = *ident;
    dmt_loop_post(r->loop, run_cmd, c);
}

void dmt_replica_fetch(struct dmt_replica *r)
{
    dmt_loop_post(r->loop, run_cmd, cmd_new(r, CMD_EVENT, REPLICA_EV_DO_FETCH, NULL));
}

void dmt_replica_drain(struct dmt_replica *r, uint64_t seq, uint64_t timeout_ms,
                       void (*fn)(void *arg, int err), void *arg)
{
    struct cmd *c = cmd_new(r, CMD_DRAIN, 0, NULL);
    c->ev.seq = seq;
    c->timeout_ms = timeout_ms;
    c->fn = fn;
    c->arg = arg;
    dmt_loop_post(r->loop, run_cmd, c);
}

/* --- the gate: any thread --------------------------------------------------------------------- */

void dmt_replica_appended(struct dmt_replica *r, uint64_t tail_seq, uint64_t bytes)
{
    atomic_store(&r->appended_seq, tail_seq);
    atomic_fetch_add(&r->appended_bytes, bytes);
    if (atomic_exchange(&r->idle_sender, false))
        uv_async_send(&r->poke);
}

void dmt_replica_need(struct dmt_replica *r, uint64_t seq)
{
    if (seq == UINT64_MAX)
        seq = atomic_load(&r->appended_seq);
    uint64_t old = atomic_load(&r->need_seq);
    while (old < seq)
        if (atomic_compare_exchange_weak(&r->need_seq, &old, seq)) {
            uv_async_send(&r->poke);
            return;
        }
}

uint64_t dmt_replica_peer_durable(struct dmt_replica *r, const uint8_t store_id[16])
{
    pthread_mutex_lock(&r->pub_lock);
    uint64_t seq =
        r->wants.streaming && memcmp(r->pub_store, store_id, 16) == 0 ? r->wants.durable : 0;
    pthread_mutex_unlock(&r->pub_lock);
    return seq;
}

uint64_t dmt_replica_unacked_bytes(struct dmt_replica *r)
{
    uint64_t taken = atomic_load(&r->pub_taken), appended = atomic_load(&r->appended_bytes);
    return atomic_load(&r->pub_unacked) + (taken < appended ? appended - taken : 0);
}

uint64_t dmt_replica_peer_free(struct dmt_replica *r)
{
    return atomic_load(&r->pub_peer_free);
}

uint64_t dmt_replica_retain(struct dmt_replica *r)
{
    return atomic_load(&r->pub_retain);
}
