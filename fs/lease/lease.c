/* lease.c: the driver's life and the lease thread.
 *
 * Owns struct dmt_lease. The lease thread is the only one that runs the core: it waits for an
 * event, a message on a ping channel or the core's next time, steps, and carries out the actions
 * that may not wait (send, restrict the gate, move the lease); all others go to lease-io in order.
 * It does no disk I/O, holds no lock while it works, and asks for a raised priority, because its
 * stalls are what makes false failovers. Failure modes: an event that cannot be queued for lack of
 * memory aborts; everything else is an event to the core. Other threads only post events and read
 * the status copy.
 */
#include "fs/lease/lease.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fs/base/log.h"
#include "fs/lease/internal.h"

#define SOLO_AFTER_MS 10000u
#define IDLE_POLL_MS  1000
#define THREAD_NICE   (-15)

struct queued {
    struct dmt_list link;
    struct lease_event e;
    bool send; /* no event: e.msg goes to the peer */
};

uint64_t lease_now(const struct dmt_lease *l)
{
    return l->conf.clock->monotonic_ns(l->conf.clock->ctx);
}

void lease_wake(int fd)
{
    (void)eventfd_write(fd, 1);
}

static void queue(struct dmt_lease *l, const struct lease_event *e, bool send)
{
    struct queued *q = malloc(sizeof(*q));
    DMT_ASSERT(q);
    q->e = *e;
    q->send = send;
    pthread_mutex_lock(&l->lock);
    dmt_list_add_tail(&l->events, &q->link);
    pthread_mutex_unlock(&l->lock);
    lease_wake(l->wake_fd);
}

void lease_post(struct dmt_lease *l, const struct lease_event *e)
{
    queue(l, e, false);
}

void lease_post_send(struct dmt_lease *l, const struct lease_msg *m)
{
    struct lease_event e = {.msg = *m};
    queue(l, &e, true);
}

/* --- the lease thread --- */

static void publish(struct dmt_lease *l)
{
    const struct lease_state *s = l->core;
    const struct lease_record *r = &s->rec;
    uint64_t now = lease_now(l);
    enum dmt_lease_state st = lease_core_state(s);
    struct dmt_lease_status v = {.state = st,
                                 .epoch = r->hold ? r->hold : r->seen,
                                 .seen = r->seen,
                                 .instance = l->instance,
                                 .holder = lease_holding(s),
                                 .one_copy = lease_holding(s) && r->alone,
                                 .resync = r->resync,
                                 .spot = s->spot,
                                 .readonly = r->readonly,
                                 .arbiter_up = s->arb_up,
                                 .ping_up = s->ping_up,
                                 .peer_up = s->peer_up,
                                 .lease_ms = s->lease_ms,
                                 .rtt_us = s->rtt_us,
                                 .solo_in_ms = lease_core_solo_in_ms(s, now),
                                 .peer_oldest_sync_ms = s->peer_sync_ms,
                                 .peer_silent_ms = lease_core_silent_ms(s, now)};
    v.lease_left_ms = ((int64_t)s->lease_end_ns - (int64_t)now) / (int64_t)DMT_MS;
    bool known = s->reg_known && s->reg.epoch != 0;
    v.reg_epoch = known ? s->reg.epoch : 0;
    v.reg_named = known && lease_register_has(&s->reg, &r->self);
    l->published_ns = now;
    (void)snprintf(v.holder_node, sizeof(v.holder_node), "%s",
                   lease_holding(s) || st == DMT_LEASE_PROMOTING ? r->self.node
                   : known                                       ? s->reg.holder.node
                                                                 : r->peer.node);
    (void)snprintf(v.peer_node, sizeof(v.peer_node), "%s",
                   s->peer_up ? s->peer_id.node : r->peer.node);
    if (v.solo_in_ms)
        (void)snprintf(v.waiting, sizeof(v.waiting), "waiting for %s, solo in %llu s", r->peer.node,
                       (unsigned long long)(v.solo_in_ms + 999) / 1000);
    else if (st == DMT_LEASE_START || (st == DMT_LEASE_HOLDER_PAIRED && !lease_peer_ok(s, now)))
        (void)snprintf(v.waiting, sizeof(v.waiting), "waiting for %s%s", r->peer.node,
                       s->asking && !s->arb_up ? ", the arbiter does not answer" : "");
    else if (st == DMT_LEASE_CANDIDATE)
        (void)snprintf(v.waiting, sizeof(v.waiting), "asked the arbiter for promotion%s",
                       s->arb_up ? "" : ", it does not answer");
    pthread_mutex_lock(&l->lock);
    l->status = v;
    pthread_mutex_unlock(&l->lock);
    atomic_store(&l->state, (int)st);
}

/* What may not wait is done here; the rest goes to lease-io, in order. */
static void act(struct dmt_lease *l, const struct lease_action *a)
{
    switch (a->type) {
    case LEASE_ACT_CLOSE:
        lease_gate_apply(l, a);
        break;
    case LEASE_ACT_LEASE:
        lease_gate_deadline(l, a->deadline_ns);
        break;
    case LEASE_ACT_SEND:
        lease_ping_send(l, &a->msg);
        break;
    case LEASE_ACT_BEAT:
        pthread_mutex_lock(&l->arb.lock);
        l->arb.beat = true;
        pthread_mutex_unlock(&l->arb.lock);
        lease_wake(l->arb.wake_fd);
        break;
    case LEASE_ACT_EVENT:
        l->conf.ops->event(l->conf.ctx, a->kind, a->text);
        break;
    case LEASE_ACT_MAY_STOP:
        l->conf.ops->may_stop(l->conf.ctx);
        break;
    default:
        lease_io_queue(l, a);
        break;
    }
}

static void feed(struct dmt_lease *l, const struct lease_event *event)
{
    if (event->type == LEASE_EV_MSG && event->msg.type == LEASE_BUCKET) {
        lease_bucket_word(l, &event->msg);
        return;
    }
    struct lease_event e = *event;
    e.tail = l->conf.ops->tail(l->conf.ctx);
    e.oldest_sync_ms = l->conf.ops->oldest_sync_ms(l->conf.ctx);
    enum dmt_lease_state before = lease_core_state(l->core);
    lease_step(l->core, &e, lease_now(l), l->acts);
    enum dmt_lease_state after = lease_core_state(l->core);
    if (before != after)
        dmt_info("lease: %s -> %s, epoch %u.%u", dmt_lease_state_name(before),
                 dmt_lease_state_name(after), DMT_EPOCH_MAJOR(l->core->rec.seen),
                 DMT_EPOCH_MINOR(l->core->rec.seen));
    publish(l);
    for (int i = 0; i < l->acts->n; i++)
        act(l, &l->acts->a[i]);
}

static bool next_event(struct dmt_lease *l, struct lease_event *ret, bool *ret_send)
{
    struct queued *q = NULL;
    pthread_mutex_lock(&l->lock);
    if (!dmt_list_empty(&l->events)) {
        q = DMT_CONTAINER(l->events.next, struct queued, link);
        dmt_list_del(&q->link);
    }
    pthread_mutex_unlock(&l->lock);
    if (!q)
        return false;
    *ret = q->e;
    *ret_send = q->send;
    free(q);
    return true;
}

static int wait_ms(const struct dmt_lease *l)
{
    uint64_t now = lease_now(l);
    if (l->core->next <= now)
        return 0;
    uint64_t ms = (l->core->next - now + DMT_MS - 1) / DMT_MS;
    return ms < IDLE_POLL_MS ? (int)ms : IDLE_POLL_MS;
}

static void *lease_main(void *arg)
{
    struct dmt_lease *l = arg;
    struct lease_event e = {.type = LEASE_EV_START};
    /* Both may be refused (no privilege): it only means more false alarms, H adapts. */
    (void)setpriority(PRIO_PROCESS, 0, THREAD_NICE);
    feed(l, &e);
    while (!atomic_load(&l->stop)) {
        struct pollfd p[1 + LEASE_CHANNELS_MAX] = {{.fd = l->wake_fd, .events = POLLIN}};
        int n = lease_ping_poll(l, p + 1);
        if (poll(p, (nfds_t)n + 1, wait_ms(l)) < 0 && errno != EINTR)
            break;
        eventfd_t v;
        if (p[0].revents)
            (void)eventfd_read(l->wake_fd, &v);
        lease_ping_run(l, feed);
        bool send;
        while (!atomic_load(&l->stop) && next_event(l, &e, &send)) {
            if (send)
                lease_ping_send(l, &e.msg);
            else
                feed(l, &e);
        }
        if (l->core->next <= lease_now(l)) {
            e = (struct lease_event){.type = LEASE_EV_TICK};
            feed(l, &e);
        }
    }
    lease_ping_close(l);
    return NULL;
}

/* --- life --- */

static int check_conf(const struct dmt_lease_conf *c, struct dmt_lease_timers *t,
                      struct dmt_err *err)
{
    int r = dmt_lease_timers_check(t, err);
    if (r < 0)
        return r;
    if (c->solo_after_ms && c->solo_after_ms < 3ull * t->lease_ms)
        return dmt_err_set(err, DMT_E_CONFIG, "solo_after=%llu ms is below three leases (%u ms)",
                           (unsigned long long)c->solo_after_ms, 3 * t->lease_ms);
    if (c->arbiter_host && !c->tls) {
        dmt_err_set(err, DMT_E_CONFIG, "the arbiter at %s needs certificates", c->arbiter_host);
        return err ? dmt_err_hint(err,
                                  "on the controller: dumontd token %s; here: dumontd join TOKEN",
                                  c->node)
                   : DMT_E_CONFIG;
    }
    if ((c->peer_host || c->standby) && !c->arbiter_host && !c->bucket)
        return dmt_err_set(err, DMT_E_CONFIG, "a standby needs an arbiter: set arbiter=");
    return 0;
}

static void new_record(const struct dmt_lease_conf *c, struct lease_record *r)
{
    memset(r, 0, sizeof(*r));
    memcpy(r->lineage.id, c->lineage, 16);
    (void)snprintf(r->self.node, sizeof(r->self.node), "%s", c->node);
    memcpy(r->self.store, c->store_id, 16);
    if (!c->standby) {
        /* A new workspace is alone, in an epoch that no arbiter needs to know yet; its start makes
         * it 1.1. One restored from an archive goes on from the epoch of its last record. */
        uint64_t first = DMT_EPOCH(1, 0);
        r->hold = r->seen = c->store_epoch > first ? c->store_epoch : first;
        r->alone = true;
        r->lineage.first = DMT_EPOCH_MAJOR(r->hold);
    }
}

static enum dmt_lease_state state_of(const struct lease_record *r)
{
    if (r->resync)
        return DMT_LEASE_RESYNC;
    if (r->gave_up)
        return DMT_LEASE_GIVEN_UP;
    if (r->hold == 0)
        return DMT_LEASE_FOLLOWER;
    return r->alone ? DMT_LEASE_HOLDER_ALONE : DMT_LEASE_START;
}

static int load_or_make(struct dmt_lease *l, struct lease_record *rec, struct dmt_err *err)
{
    const struct dmt_lease_conf *c = &l->conf;
    int r = lease_io_load(l, rec, err);
    if (r == -ENOENT) {
        new_record(c, rec);
        r = lease_io_save(l, rec);
        return r < 0 ? dmt_err_set(err, r, "cannot write %s: %s", l->path, dmt_strerror(r)) : 0;
    }
    if (r < 0)
        return r;
    if (memcmp(rec->self.store, c->store_id, 16) != 0)
        return dmt_err_set(err, DMT_E_CONFIG, "%s belongs to another store", l->path);
    if (!dmt_lineage_known(&rec->lineage))
        memcpy(rec->lineage.id, c->lineage, 16); /* a standby of version 1 has not noted it */
    /* The store may be one lineage behind: a promotion by force or a resync has not ended. */
    struct dmt_lineage of_store = {0};
    memcpy(of_store.id, c->lineage, 16);
    enum dmt_lineage_relation rel = dmt_lineage_relate(&rec->lineage, 0, &of_store, 0);
    if (rel == DMT_LINEAGE_FOREIGN)
        return dmt_err_set(err, DMT_E_CONFIG, "%s belongs to another workspace", l->path);
    if (strcmp(rec->self.node, c->node) != 0) {
        dmt_err_set(err, DMT_E_CONFIG, "%s says that this store is on node %s, not %s", l->path,
                    rec->self.node, c->node);
        return err ? dmt_err_hint(err,
                                  "a node that was in a pair keeps its name; copying a store to "
                                  "another machine is not supported")
                   : DMT_E_CONFIG;
    }
    return 0;
}

static void free_strings(struct dmt_lease *l)
{
    free((void *)(uintptr_t)l->conf.workspace);
    free((void *)(uintptr_t)l->conf.node);
    free((void *)(uintptr_t)l->conf.arbiter_host);
    free((void *)(uintptr_t)l->conf.dir);
    free(l->dial_host);
}

/* The status before the lease thread runs: L4 opens the workspace by it. */
static void publish_record(struct dmt_lease *l, const struct lease_record *r)
{
    struct dmt_lease_status *v = &l->status;
    v->state = state_of(r);
    v->epoch = r->hold ? r->hold : r->seen;
    v->seen = r->seen;
    v->instance = l->instance;
    v->holder = v->state == DMT_LEASE_HOLDER_ALONE || v->state == DMT_LEASE_START;
    v->one_copy = v->holder && r->alone;
    v->resync = r->resync;
    v->readonly = r->readonly;
    (void)snprintf(v->holder_node, sizeof(v->holder_node), "%s",
                   v->holder ? r->self.node : r->peer.node);
    (void)snprintf(v->peer_node, sizeof(v->peer_node), "%s", r->peer.node);
    atomic_store(&l->state, (int)v->state);
}

static int set_up(struct dmt_lease *l, const struct dmt_lease_conf *conf, struct dmt_err *err)
{
    l->conf = *conf;
    l->conf.workspace = strdup(conf->workspace);
    l->conf.node = strdup(conf->node);
    l->conf.dir = strdup(conf->dir);
    l->conf.arbiter_host = conf->arbiter_host ? strdup(conf->arbiter_host) : NULL;
    l->dial_host = conf->peer_host ? strdup(conf->peer_host) : NULL;
    l->dial_port = conf->peer_port;
    l->conf.peer_host = NULL;
    l->core = calloc(1, sizeof(*l->core));
    l->acts = calloc(1, sizeof(*l->acts));
    if (!l->conf.workspace || !l->conf.node || !l->conf.dir || !l->core || !l->acts)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    if (snprintf(l->path, sizeof(l->path), "%s/node.state", conf->dir) >= (int)sizeof(l->path))
        return dmt_err_set(err, -ENAMETOOLONG, "%s is too long", conf->dir);
    dmt_random(&l->instance, sizeof(l->instance));
    l->current = -1;
    for (int i = 0; i < LEASE_CHANNELS_MAX; i++)
        l->chan[i].fd = -1;
    dmt_list_init(&l->events);
    l->set_up = true;
    dmt_list_init(&l->io.queue);
    dmt_list_init(&l->arb.words);
    pthread_mutex_init(&l->lock, NULL);
    pthread_mutex_init(&l->io.lock, NULL);
    pthread_mutex_init(&l->arb.lock, NULL);
    pthread_cond_init(&l->io.cond, NULL);
    pthread_cond_init(&l->dial_cond, NULL);
    (void)lease_gate_init(&l->gate);
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->arb.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return l->wake_fd < 0 || l->arb.wake_fd < 0
               ? dmt_err_set(err, -errno, "eventfd: %s", strerror(errno))
               : 0;
}

int dmt_lease_new(struct dmt_lease **ret, const struct dmt_lease_conf *conf, struct dmt_err *err)
{
    struct dmt_lease_timers t = conf->timers;
    struct lease_record rec;
    int r = check_conf(conf, &t, err);
    if (r < 0)
        return r;
    struct dmt_lease *l = calloc(1, sizeof(*l));
    if (!l)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    l->wake_fd = l->arb.wake_fd = -1;
    r = set_up(l, conf, err);
    if (r == 0)
        r = load_or_make(l, &rec, err);
    if (r < 0) {
        dmt_lease_free(l);
        return r;
    }
    struct lease_core_conf cc = {
        .timers = t,
        .solo_after_ms = conf->solo_after_ms ? conf->solo_after_ms : SOLO_AFTER_MS,
        .degrade = conf->degrade,
        .after_promotion = conf->after_promotion,
        .has_peer = conf->arbiter_host || conf->bucket || rec.ever_paired || !rec.alone,
        .instance = l->instance};
    l->lineage = rec.lineage;
    lease_core_init(l->core, &cc, &rec);
    publish_record(l, &rec);
    *ret = l;
    return 0;
}

int dmt_lease_start(struct dmt_lease *l, struct dmt_err *err)
{
    int r = dmt_thread_start(&l->io_thread, "lease-io", lease_io_main, l);
    l->has_io = r == 0;
    if (r == 0 && (l->conf.arbiter_host || l->conf.bucket)) {
        r = dmt_thread_start(&l->arb_thread, "lease-arb",
                             l->conf.bucket ? lease_bucket_main : lease_arb_main, l);
        l->has_arb = r == 0;
    }
    if (r == 0 && (l->conf.tls || l->conf.tls_off)) {
        r = dmt_thread_start(&l->dial_thread, "lease-dial", lease_dial_main, l);
        l->has_dial = r == 0;
    }
    if (r == 0) {
        r = dmt_thread_start(&l->thread, "lease", lease_main, l);
        l->started = r == 0;
    }
    if (r == 0)
        return 0;
    dmt_lease_stop(l);
    return dmt_err_set(err, r, "cannot start the lease's threads: %s", strerror(-r));
}

void dmt_lease_stop(struct dmt_lease *l)
{
    atomic_store(&l->stop, true);
    lease_wake(l->wake_fd);
    lease_wake(l->arb.wake_fd);
    pthread_mutex_lock(&l->lock);
    pthread_cond_broadcast(&l->dial_cond);
    pthread_mutex_unlock(&l->lock);
    pthread_mutex_lock(&l->io.lock);
    pthread_cond_broadcast(&l->io.cond);
    pthread_mutex_unlock(&l->io.lock);
    if (l->started)
        pthread_join(l->thread, NULL);
    if (l->has_io)
        pthread_join(l->io_thread, NULL);
    if (l->has_arb)
        pthread_join(l->arb_thread, NULL);
    if (l->has_dial)
        pthread_join(l->dial_thread, NULL);
    l->started = l->has_io = l->has_arb = l->has_dial = false;
}

void dmt_lease_free(struct dmt_lease *l)
{
    if (!l)
        return;
    if (l->set_up) {
        dmt_lease_stop(l);
        lease_ping_close(l);
        DMT_LIST_EACH(n, tmp, &l->events) free(DMT_CONTAINER(n, struct queued, link));
        lease_bucket_free(l);
    }
    if (l->wake_fd >= 0)
        close(l->wake_fd);
    if (l->arb.wake_fd >= 0)
        close(l->arb.wake_fd);
    free_strings(l);
    free(l->core);
    free(l->acts);
    free(l);
}

enum dmt_lease_state dmt_lease_state(const struct dmt_lease *l)
{
    return (enum dmt_lease_state)atomic_load(&l->state);
}

void dmt_lease_lineage(struct dmt_lease *l, struct dmt_lineage *ret)
{
    pthread_mutex_lock(&l->lock);
    *ret = l->lineage;
    pthread_mutex_unlock(&l->lock);
}

uint64_t dmt_lease_seen(const struct dmt_lease *l)
{
    return atomic_load(&l->seen);
}

void dmt_lease_status(struct dmt_lease *l, struct dmt_lease_status *ret)
{
    pthread_mutex_lock(&l->lock);
    *ret = l->status;
    if (ret->peer_silent_ms > 0 && ret->peer_silent_ms < UINT64_MAX)
        ret->peer_silent_ms += (lease_now(l) - l->published_ns) / DMT_MS;
    pthread_mutex_unlock(&l->lock);
}
