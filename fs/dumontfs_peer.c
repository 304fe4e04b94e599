/* dumontfs_peer.c: what the replica reports about the other machine, told to the lease. Pure
 * translation: every line here is one fact in the replica's words put into the lease's. Threads:
 * the ops run on the loop thread; they only call functions that return at once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/base/log.h"
#include "fs/dumontfs.h"

static void peer_up(void *ctx, const struct dmt_replica_peer *p)
{
    struct app *a = ctx;
    dmt_lease_peer_up(a->lease, p->node, p->store_id, p->seen, p->tail.seq, p->ahead);
}

static void peer_down(void *ctx, const char *why)
{
    struct app *a = ctx;
    dmt_info("connection to the other machine lost: %s", why);
    dmt_lease_peer_down(a->lease);
}

static void peer_acked(void *ctx, const uint8_t store_id[16], uint64_t epoch, uint64_t durable,
                       uint64_t whole)
{
    struct app *a = ctx;
    atomic_store(&a->peer_durable, durable);
    atomic_store(&a->peer_whole, whole);
    dmt_lease_peer_acked(a->lease, store_id, epoch, durable, whole);
}

static void pair_ready(void *ctx, const uint8_t store_id[16], uint64_t epoch, uint64_t seq)
{
    struct app *a = ctx;
    (void)store_id;
    dmt_info("the standby is equal at position %llu of epoch %u.%u", (unsigned long long)seq,
             DMT_EPOCH_MAJOR(epoch), DMT_EPOCH_MINOR(epoch));
    (void)a;
}

static void changed(void *ctx)
{
    roles_ops.gate_changed(ctx);
}

static void peer_epoch(void *ctx, const struct dmt_replica_peer *p, uint64_t epoch, bool alone,
                       uint64_t switch_seq, uint64_t tail_seq)
{
    struct app *a = ctx;
    dmt_lease_peer_epoch(a->lease, &(struct dmt_lease_claim){.node = p->node,
                                                             .store_id = p->store_id,
                                                             .epoch = epoch,
                                                             .switch_seq = switch_seq,
                                                             .tail_seq = tail_seq,
                                                             .alone = alone,
                                                             .lineage = &p->lineage,
                                                             .newer = p->newer});
}

static void following(void *ctx, uint64_t epoch, uint64_t seq)
{
    struct app *a = ctx;
    dmt_info("following epoch %u.%u from position %llu", DMT_EPOCH_MAJOR(epoch),
             DMT_EPOCH_MINOR(epoch), (unsigned long long)seq);
    roles_following(a);
}

static void higher_epoch(void *ctx, uint64_t epoch)
{
    struct app *a = ctx;
    dmt_lease_higher_epoch(a->lease, epoch);
}

static void resync_needed(void *ctx, const char *why)
{
    struct app *a = ctx;
    dmt_info("the standby needs a resync: %s", why);
    dmt_lease_resync_needed(a->lease);
}

static void resync_ordered(void *ctx, const struct dmt_replica_peer *p, uint64_t epoch, bool alone,
                           uint64_t common)
{
    struct app *a = ctx;
    atomic_store(&a->resync_common, common);
    dmt_lease_resync_ordered(a->lease, epoch, alone, &p->lineage);
}

static void resync_imported(void *ctx, int err, const struct dmt_pos *pos,
                            const uint8_t lineage[16], const char *why)
{
    (void)pos;
    (void)lineage; /* it is in the store's identity now */
    roles_imported(ctx, err, why);
}

static void fetched(void *ctx, int err)
{
    roles_fetched(ctx, err);
}

static void ping_accepted(void *ctx, struct dmt_tls *tls, int fd)
{
    struct app *a = ctx;
    dmt_lease_accept_ping(a->lease, tls, fd);
}

static void failed(void *ctx, const char *why)
{
    roles_ops.failed(ctx, why);
}

static void event(void *ctx, const char *kind, const char *text)
{
    roles_ops.event(ctx, kind, text);
}

static const struct dmt_replica_ops ops = {.peer_up = peer_up,
                                           .peer_down = peer_down,
                                           .peer_acked = peer_acked,
                                           .pair_ready = pair_ready,
                                           .changed = changed,
                                           .peer_epoch = peer_epoch,
                                           .following = following,
                                           .higher_epoch = higher_epoch,
                                           .resync_needed = resync_needed,
                                           .resync_ordered = resync_ordered,
                                           .resync_imported = resync_imported,
                                           .fetched = fetched,
                                           .ping_accepted = ping_accepted,
                                           .failed = failed,
                                           .event = event};

int peer_start(struct app *a, struct dmt_err *err)
{
    char listen_host[256] = "", dial_host[256] = "";
    uint16_t listen_port = 0, dial_port = 0;
    const char *listen = dmt_conf_get(a->conf, "listen"), *dial = dmt_conf_get(a->conf, "standby");
    if (listen && *listen)
        app_split_addr(listen, listen_host, &listen_port);
    if (dial && *dial)
        app_split_addr(dial, dial_host, &dial_port);
    int rc = dmt_loop_new(&a->loop);
    if (rc != 0)
        return dmt_err_set(err, rc, "cannot start the loop thread: %s", dmt_strerror(rc));
    struct dmt_replica_conf rc_conf = {.clock = dmt_clock_real(),
                                       .io = dmt_io_real(),
                                       .loop = a->loop,
                                       .workspace = a->name,
                                       .node = a->node,
                                       .listen_host = *listen_host ? listen_host : NULL,
                                       .listen_port = listen_port,
                                       .dial_host = *dial_host ? dial_host : NULL,
                                       .dial_port = dial_port,
                                       .peer_node = dmt_conf_get(a->conf, "peer"),
                                       .tls = a->tls,
                                       .ops = &ops,
                                       .ctx = a};
    memcpy(rc_conf.store_id, a->ident.store_id, 16);
    app_lineage(a, &rc_conf.lineage);
    struct dmt_replica *r = NULL;
    if ((rc = dmt_replica_start(&r, &rc_conf, err)) != 0)
        return rc;
    a->replica = r;
    dmt_replica_set_ws(r, a->ws);
    dmt_replica_set_role(r, roles_is_holder(a) ? DMT_REPLICA_START : DMT_REPLICA_RECEIVER, 0, false,
                         dmt_lease_seen(a->lease));
    return 0;
}

void peer_resync(struct app *a)
{
    struct dmt_store_conf sc = app_store_conf(a);
    dmt_replica_resync(a->replica, &sc, &a->ident);
}

void peer_quiet(struct app *a)
{
    if (!a->replica)
        return;
    /* drops the connection, greets nobody */
    dmt_replica_set_role(a->replica, DMT_REPLICA_NONE, 0, false, 0);
    dmt_replica_set_ws(a->replica, NULL);
}

void peer_stop(struct app *a)
{
    struct dmt_replica *r = a->replica;
    if (r)
        dmt_replica_stop(r);
    a->replica = NULL;
    dmt_loop_free(a->loop);
    a->loop = NULL;
}

bool app_peer_has(struct app *a, uint64_t seq)
{
    struct dmt_replica_status s;
    if (!a->replica)
        return false;
    dmt_replica_status(a->replica, &s);
    return s.connected && s.role == DMT_REPLICA_SENDER && s.durable >= seq && s.whole >= seq &&
           s.applied >= seq;
}
