/* replica.c: start and stop, the workspace given and taken away, the tick, what other threads leave
 * for the loop, status.
 *
 * Owns struct dmt_replica. The loop is woken by one uv_async (poke): replica_poll then looks at
 * what the threads have left (durable, applied, appended, wants, state stream) and pumps the
 * socket. The tick (TICK_MS) does what needs a clock: pings, silence, slow greeters, the kick of a
 * journal nobody syncs, GONE ranges, status.
 *
 * Failure modes: a workspace that refuses what it must not refuse: replica_fail tells L4 once,
 * closes the connection and accepts none until the workspace is set anew. dmt_replica_set_ws(NULL)
 * and stop wait for jobs and threads that are in the workspace; each of those ends by itself: a
 * wait for the journal within one flush (kicked here), an export because its queue is aborted, a
 * pool job because it is short; only a name server that does not answer can hold stop up for
 * longer. Threads: loop, unless the comment at a function says otherwise.
 */
#include "fs/replica/int.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"

#define PING_MS 1000u
#define RATE_MS 2000u

/* --- small things ----------------------------------------------------------------------------- */

void replica_event(struct dmt_replica *r, const char *kind, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    r->conf.ops->event(r->conf.ctx, kind, text);
}

void replica_fail(struct dmt_replica *r, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (r->failed)
        return;
    r->failed = true;
    if (r->conn)
        replica_conn_close(r->conn, -EIO, "the workspace of this machine failed");
    r->conf.ops->failed(r->conf.ctx, text);
}

void replica_handle_closed(struct dmt_replica *r)
{
    r->handles--;
    pthread_mutex_lock(&r->lock);
    r->open_handles = r->handles;
    pthread_cond_broadcast(&r->idle);
    pthread_mutex_unlock(&r->lock);
}

void replica_job_start(struct dmt_replica *r, bool uses_ws)
{
    pthread_mutex_lock(&r->lock);
    r->ws_jobs += uses_ws;
    r->other_jobs += !uses_ws;
    pthread_mutex_unlock(&r->lock);
}

void replica_job_end(struct dmt_replica *r, bool uses_ws)
{
    pthread_mutex_lock(&r->lock);
    r->ws_jobs -= uses_ws;
    r->other_jobs -= !uses_ws;
    pthread_cond_broadcast(&r->idle);
    pthread_mutex_unlock(&r->lock);
}

/* --- poll and tick ---------------------------------------------------------------------------- */

static void take_status(struct dmt_replica *r)
{
    struct dmt_replica_status s = {0};
    enum replica_phase p = replica_core_phase(&r->core);
    s.role = r->core.role;
    s.epoch = r->core.epoch;
    s.connected = r->core.up;
    s.streaming = p == REPLICA_STREAMING || p == REPLICA_RECEIVING;
    s.resyncing = p == REPLICA_EXPORTING || r->resync.importing;
    if (s.resyncing) {
        const struct replica_resync *x = &r->resync;
        uint64_t ms = replica_now_ms(r) - x->start_ms;
        s.resync_done = x->importing ? x->got_off : x->sent_off;
        s.resync_total = x->total;
        if (s.resync_done > 0 && x->total > s.resync_done)
            s.resync_eta_ms =
                (uint64_t)((double)(x->total - s.resync_done) * (double)ms / (double)s.resync_done);
    }
    s.fetching = p == REPLICA_FETCHING || p == REPLICA_SERVING;
    s.peer = r->core.peer;
    if (p == REPLICA_STREAMING) {
        s.received = r->sender.last_ack.received;
        s.durable = r->core.acked;
        s.applied = r->sender.last_ack.applied;
        s.sent = r->sender.sent_seq;
        s.missing_bytes = r->sender.last_ack.missing_bytes;
    } else if (p == REPLICA_RECEIVING && r->ws) {
        s.received = r->receiver.tail.seq;
        s.durable = dmt_journal_durable(dmt_ws_journal(r->ws));
        s.applied = r->applied;
        s.whole = r->pull.whole;
    }
    s.holder_durable = r->core.role == DMT_REPLICA_RECEIVER ? r->receiver.holder_durable : 0;
    if (r->ws && r->core.role == DMT_REPLICA_RECEIVER) {
        struct dmt_ws_status st;
        dmt_ws_status(r->ws, &st);
        s.missing_bytes = st.missing_bytes;
    }
    s.raw_bytes = r->raw_bytes;
    s.wire_bytes = r->wire_bytes;
    s.bulk_bytes = r->bulk_bytes;
    s.state_bytes = r->state_bytes;
    s.rate_bytes_s = r->rate_bytes_s;
    s.rtt_us = r->rtt_us;
    s.ack_us = r->ack_us;
    s.connects = r->connects;
    s.refused = r->refused;
    (void)snprintf(s.last_error, sizeof(s.last_error), "%s", r->last_error);
    pthread_mutex_lock(&r->pub_lock);
    if (p == REPLICA_STREAMING)
        s.whole = r->wants.whole;
    r->status = s;
    pthread_mutex_unlock(&r->pub_lock);
}

static void take_thread_news(struct dmt_replica *r)
{
    pthread_mutex_lock(&r->lock);
    uint64_t durable = r->sync_done, applied = r->apply_done;
    int sync_err = r->sync_err, apply_err = r->apply_err;
    pthread_mutex_unlock(&r->lock);
    bool durable_moved = durable > r->durable;
    bool applied_moved = applied > r->applied;
    if (durable > r->durable)
        r->durable = durable;
    if (applied_moved)
        r->applied = applied;
    if (sync_err < 0 || apply_err < 0) {
        replica_fail(r,
                     sync_err < 0 ? "the journal cannot be made durable: %s" : "cannot apply: %s",
                     sync_err < 0 ? dmt_strerror(sync_err) : r->apply_why);
        return;
    }
    if (durable_moved) {
        replica_session_durable(r);
        replica_sender_commit(r, false);
    }
    if (applied_moved)
        replica_pull_applied(r);
    if (durable_moved || applied_moved)
        replica_receiver_moved(r);
}

void replica_poll(struct dmt_replica *r)
{
    if (r->stopping)
        return;
    if (r->ws)
        take_thread_news(r);
    pthread_mutex_lock(&r->pub_lock);
    bool ask = r->wants.ask;
    pthread_mutex_unlock(&r->pub_lock);
    if (ask)
        replica_sender_wants(r);
    if (r->conn)
        replica_conn_pump(r->conn);
    replica_sender_need(r);
}

static void on_poke(uv_async_t *h)
{
    replica_poll(h->data);
}

static void tick_conns(struct dmt_replica *r, uint64_t now)
{
    for (struct dmt_list *it = r->conns.next; it != &r->conns;) {
        struct replica_conn *c = DMT_CONTAINER(it, struct replica_conn, node);
        uint64_t age = now - c->born_ms;
        const char *why = NULL;
        if (!c->connected && age > DIAL_TIMEOUT_MS)
            why = "no answer to the attempt to connect";
        else if (c->connected && !c->joined && age > CONN_GREET_MS)
            why = "no hello in time";
        else if (c->joined && !c->paused && now - c->heard_ms > r->conf.silence_ms)
            why = "the peer has been silent for too long";
        it = it->next;
        if (why) {
            replica_conn_close(c, -ETIMEDOUT, why);
            it = r->conns.next; /* closing may have closed others */
        }
    }
}

static void tick_rate(struct dmt_replica *r, uint64_t now)
{
    uint64_t total = r->wire_bytes + r->bulk_bytes + r->state_bytes + r->branch_bytes;
    if (now - r->rate_mark_ms < RATE_MS)
        return;
    r->rate_bytes_s = (total - r->rate_mark_bytes) * 1000 / (now - r->rate_mark_ms);
    r->rate_mark_bytes = total;
    r->rate_mark_ms = now;
}

static void on_tick(void *arg)
{
    struct dmt_replica *r = arg;
    uint64_t now = replica_now_ms(r);
    tick_conns(r, now);
    tick_rate(r, now);
    if (r->conn)
        replica_conn_tick(r->conn);
    if (r->conn && now - r->ping_ms >= PING_MS) {
        r->ping_ms = now;
        struct replica_msg m = {.type = REPLICA_PING};
        m.PING.stamp = replica_now_ns(r);
        replica_post_send(r, &m);
        uint64_t total;
        if (r->ws && dmt_store_space(dmt_ws_store(r->ws), &total, &r->receiver.free_bytes) == 0)
            r->receiver.ack_due = true;
    }
    if (r->ws) {
        replica_sender_tick(r);
        replica_audit_tick(r);
        replica_branches_tick(r);
        replica_receiver_tick(r);
        replica_pull_tick(r);
        replica_receiver_ack(r, true);
    }
    replica_net_dial(r, false);
    replica_poll(r);
    take_status(r);
    dmt_timer_set(r->tick, TICK_MS);
}

static void on_pace_timer(void *arg)
{
    struct dmt_replica *r = arg;
    r->sender.gap = false;
    replica_poll(r);
}

static void on_commit_timer(void *arg)
{
    struct dmt_replica *r = arg;
    if (r->ws)
        replica_sender_commit(r, true);
}

static void on_dial_timer(void *arg)
{
    struct dmt_replica *r = arg;
    r->dial_set = false;
    replica_net_dial(r, true);
}

/* --- status ----------------------------------------------------------------------------------- */

void dmt_replica_status(struct dmt_replica *r, struct dmt_replica_status *ret)
{
    pthread_mutex_lock(&r->pub_lock);
    *ret = r->status;
    /* What moves with every acknowledgement is not left to the tick. */
    if (ret->streaming && ret->role == DMT_REPLICA_SENDER && r->wants.streaming) {
        ret->durable = r->wants.durable > ret->durable ? r->wants.durable : ret->durable;
        ret->whole = r->wants.whole;
    }
    pthread_mutex_unlock(&r->pub_lock);
    ret->unacked_bytes = dmt_replica_unacked_bytes(r);
}

uint16_t dmt_replica_port(const struct dmt_replica *r)
{
    return r->port;
}

/* --- the workspace: taken away and given ------------------------------------------------------ */

struct ws_change {
    struct dmt_replica *r;
    struct dmt_ws *ws;
    struct replica_epoch epochs[REPLICA_EPOCHS_MAX];
    size_t n;
};

static void take_ws_away(void *arg)
{
    struct dmt_replica *r = ((struct ws_change *)arg)->r;
    for (struct dmt_list *it = r->conns.next; it != &r->conns;) {
        struct replica_conn *c = DMT_CONTAINER(it, struct replica_conn, node);
        it = it->next;
        if (c->hello_sent || c->hello_wait) {
            replica_conn_close(c, DMT_E_RETRY, "the workspace is being closed or opened");
            it = r->conns.next;
        }
    }
    r->backoff_ms = 0;
    struct dmt_ws *was = r->ws;
    r->ws = NULL;
    r->receiver.storing = false;
    r->epochs_n = 0;
    pthread_mutex_lock(&r->lock);
    r->shared_ws = NULL;
    pthread_mutex_unlock(&r->lock);
    if (was) { /* ends the wait of rep-sync */
        struct dmt_journal *j = dmt_ws_journal(was);
        dmt_journal_kick(j, dmt_journal_tail(j).seq);
    }
}

static void give_ws(void *arg)
{
    struct ws_change *w = arg;
    struct dmt_replica *r = w->r;
    memcpy(r->epochs, w->epochs, w->n * sizeof(w->epochs[0]));
    r->epochs_n = w->n;
    struct dmt_journal *j = dmt_ws_journal(w->ws);
    pthread_mutex_lock(&r->lock);
    r->durable = r->sync_done = r->sync_target = dmt_journal_durable(j);
    r->applied = r->apply_done = r->apply_target = dmt_ws_applied(w->ws);
    r->sync_err = r->apply_err = 0;
    r->shared_ws = w->ws;
    pthread_mutex_unlock(&r->lock);
    const uint8_t *lineage = dmt_store_ident(dmt_ws_store(w->ws))->lineage;
    if (memcmp(r->conf.lineage.id, lineage, 16) != 0) {
        memset(&r->conf.lineage, 0, sizeof(r->conf.lineage));
        memcpy(r->conf.lineage.id, lineage, 16);
    }
    r->ws = w->ws;
    r->failed = false;
    /* Whoever connected meanwhile was told that there is nothing here. */
    for (struct dmt_list *it = r->conns.next; it != &r->conns;) {
        struct replica_conn *c = DMT_CONTAINER(it, struct replica_conn, node);
        it = it->next;
        if (c->hello_sent || c->hello_wait) {
            replica_conn_close(c, DMT_E_RETRY, "the workspace is being closed or opened");
            it = r->conns.next;
        }
    }
    r->backoff_ms = 0;
    replica_net_dial(r, true);
}

/* Not on the loop. */
static void wait_ws_unused(struct dmt_replica *r)
{
    pthread_mutex_lock(&r->lock);
    while (r->sync_busy || r->apply_busy || r->ws_jobs > 0)
        pthread_cond_wait(&r->idle, &r->lock);
    pthread_mutex_unlock(&r->lock);
}

void dmt_replica_set_ws(struct dmt_replica *r, struct dmt_ws *ws)
{
    DMT_ASSERT(!dmt_loop_here(r->loop));
    struct ws_change *w = calloc(1, sizeof(*w));
    DMT_ASSERT(w);
    w->r = r;
    w->ws = ws;
    dmt_loop_call(r->loop, take_ws_away, w);
    wait_ws_unused(r);
    if (ws) {
        struct dmt_err err = {0};
        if (replica_epochs_load(ws, w->epochs, &w->n, &err) < 0) {
            dmt_warn(
                "replica: %s",
                err.msg); /* without the list a cut cannot be proposed; the chain still decides */
            w->n = 0;
        }
        dmt_loop_call(r->loop, give_ws, w);
    }
    free(w);
}

struct lineage_change {
    struct dmt_replica *r;
    const struct dmt_lineage *lineage;
};

static void take_lineage(void *arg)
{
    struct lineage_change *c = arg;
    c->r->conf.lineage = *c->lineage;
}

void dmt_replica_set_lineage(struct dmt_replica *r, const struct dmt_lineage *lineage)
{
    dmt_loop_call(r->loop, take_lineage, &(struct lineage_change){r, lineage});
}

/* --- start and stop --------------------------------------------------------------------------- */

static void start_on_loop(void *arg)
{
    struct dmt_replica *r = arg;
    r->poke.data = r;
    DMT_ASSERT(uv_async_init(r->uv, &r->poke, on_poke) == 0);
    r->handles++;
    r->tick = dmt_timer_new(r->loop, on_tick, r);
    r->commit_timer = dmt_timer_new(r->loop, on_commit_timer, r);
    r->pace_timer = dmt_timer_new(r->loop, on_pace_timer, r);
    r->dial_timer = dmt_timer_new(r->loop, on_dial_timer, r);
    dmt_timer_set(r->tick, TICK_MS);
}

static void begin_on_loop(void *arg)
{
    replica_net_dial(arg, true);
}

static void on_poke_closed(uv_handle_t *h)
{
    replica_handle_closed(h->data);
}

static void stop_on_loop(void *arg)
{
    struct dmt_replica *r = arg;
    r->stopping = true;
    while (!dmt_list_empty(&r->conns))
        replica_conn_close(DMT_CONTAINER(r->conns.next, struct replica_conn, node), DMT_E_RETRY,
                           "the other machine's workspace process stops");
    replica_net_stop(r);
    replica_sender_drain_check(r, DMT_E_CLOSED);
    replica_import_stop(r);
    replica_pull_stop(r);
    dmt_timer_free(r->tick);
    dmt_timer_free(r->commit_timer);
    dmt_timer_free(r->pace_timer);
    dmt_timer_free(r->dial_timer);
    r->tick = r->commit_timer = r->pace_timer = r->dial_timer = NULL;
    struct dmt_ws *ws = r->ws;
    r->ws = NULL;
    pthread_mutex_lock(&r->lock);
    r->shared_ws = NULL;
    pthread_mutex_unlock(&r->lock);
    if (ws) {
        struct dmt_journal *j = dmt_ws_journal(ws);
        dmt_journal_kick(j, dmt_journal_tail(j).seq);
    }
}

/* The last thing: threads are gone, nobody pokes any more. */
static void close_poke(void *arg)
{
    struct dmt_replica *r = arg;
    pthread_mutex_lock(&r->lock);
    r->open_handles = r->handles;
    pthread_mutex_unlock(&r->lock);
    uv_close((uv_handle_t *)&r->poke, on_poke_closed);
}

static void nothing(void *arg)
{
    (void)arg;
}

static void free_all(struct dmt_replica *r)
{
    replica_sender_free(r);
    replica_receiver_free(r);
    replica_pull_free(r);
    replica_serve_reset(r);
    replica_resync_free(r);
    replica_branches_free(r);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->pub_lock);
    pthread_cond_destroy(&r->sync_work);
    pthread_cond_destroy(&r->apply_work);
    pthread_cond_destroy(&r->idle);
    free(r->workspace);
    free(r->node);
    free(r->peer_node);
    free(r->dial_host);
    free(r->read_buf);
    free(r);
}

void dmt_replica_stop(struct dmt_replica *r)
{
    if (!r)
        return;
    DMT_ASSERT(!dmt_loop_here(r->loop));
    dmt_loop_call(r->loop, stop_on_loop, r);
    replica_threads_stop(r);
    pthread_mutex_lock(&r->lock);
    while (r->ws_jobs > 0 || r->other_jobs > 0)
        pthread_cond_wait(&r->idle, &r->lock);
    pthread_mutex_unlock(&r->lock);
    if (r->resync.joinable)
        pthread_join(r->resync.thread, NULL);
    r->resync.joinable = false;
    dmt_loop_call(r->loop, close_poke, r);
    pthread_mutex_lock(&r->lock);
    while (r->open_handles > 0)
        pthread_cond_wait(&r->idle, &r->lock);
    pthread_mutex_unlock(&r->lock);
    dmt_loop_call(r->loop, nothing,
                  NULL); /* the last close callback may still be unlocking: now it has returned */
    free_all(r);
}

static int check_conf(const struct dmt_replica_conf *conf, struct dmt_err *err)
{
    if (!conf->tls && !conf->tls_off) {
        (void)dmt_err_set(err, DMT_E_CONFIG, "a standby needs certificates");
        (void)dmt_err_hint(err, "get them by `dumontd join`, or use tls=off on loopback addresses");
        return DMT_E_CONFIG;
    }
    if (conf->tls && conf->tls_off)
        return dmt_err_set(err, DMT_E_CONFIG, "tls=off and a certificate at the same time");
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    bool numeric4 = conf->dial_host && uv_ip4_addr(conf->dial_host, conf->dial_port, &in) == 0;
    bool numeric6 = conf->dial_host && uv_ip6_addr(conf->dial_host, conf->dial_port, &in6) == 0;
    if (conf->tls_off && ((numeric4 && !replica_is_loopback((struct sockaddr *)&in)) ||
                          (numeric6 && !replica_is_loopback((struct sockaddr *)&in6)))) {
        (void)dmt_err_set(err, DMT_E_CONFIG, "tls=off with the address %s, which is not loopback",
                          conf->dial_host);
        (void)dmt_err_hint(err, "make certificates with `dumontd ca`");
        return DMT_E_CONFIG;
    }
    return 0;
}

static struct dmt_replica *replica_alloc(const struct dmt_replica_conf *conf)
{
    struct dmt_replica *r = calloc(1, sizeof(*r));
    DMT_ASSERT(r);
    r->conf = *conf;
    r->loop = conf->loop;
    r->uv = dmt_loop_uv(conf->loop);
    r->workspace = strdup(conf->workspace);
    r->node = strdup(conf->node);
    r->peer_node = conf->peer_node && conf->peer_node[0] ? strdup(conf->peer_node) : NULL;
    r->dial_host = conf->dial_host ? strdup(conf->dial_host) : NULL;
    r->dial_port = conf->dial_port;
    r->read_buf = malloc(CONN_READ_MAX);
    DMT_ASSERT(r->workspace && r->node && r->read_buf);
    if (r->conf.backoff_max_ms == 0)
        r->conf.backoff_max_ms = DIAL_BACKOFF_MAX_MS;
    if (r->conf.silence_ms == 0)
        r->conf.silence_ms = SILENCE_MS;
    dmt_random(&r->instance, sizeof(r->instance));
    dmt_list_init(&r->conns);
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_init(&r->pub_lock, NULL);
    pthread_cond_init(&r->sync_work, NULL);
    pthread_cond_init(&r->apply_work, NULL);
    pthread_cond_init(&r->idle, NULL);
    atomic_store(&r->pub_taken, UINT64_MAX);
    atomic_store(&r->pub_peer_free, UINT64_MAX);
    r->receiver.free_bytes = UINT64_MAX; /* not measured yet */
    atomic_store(&r->pub_retain, UINT64_MAX);
    replica_core_init(&r->core);
    replica_pull_init(r);
    replica_resync_init(r);
    return r;
}

int dmt_replica_start(struct dmt_replica **ret, const struct dmt_replica_conf *conf,
                      struct dmt_err *err)
{
    int rc = check_conf(conf, err);
    if (rc < 0)
        return rc;
    struct dmt_replica *r = replica_alloc(conf);
    rc = replica_receiver_init(r);
    if (rc == 0)
        rc = replica_threads_start(r);
    if (rc < 0) {
        free_all(r);
        return dmt_err_set(err, rc, "cannot start the replica: %s", dmt_strerror(rc));
    }
    dmt_loop_call(r->loop, start_on_loop, r);
    rc = replica_net_start(r, err);
    if (rc < 0) {
        dmt_replica_stop(r);
        return rc;
    }
    dmt_loop_call(r->loop, begin_on_loop, r);
    *ret = r;
    return 0;
}
