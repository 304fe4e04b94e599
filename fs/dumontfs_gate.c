/* dumontfs_gate.c: "may I acknowledge?", answered from lease and replica. Every method is a few
 * loads: they run on the FUSE reader and under the workspace's ack lock. The lease says who may
 * write; the replica says what is durable there; lag_max slows plain calls. Threads: any.
 */
#include "fs/dumontfs.h"

/* At the end nobody is kept waiting: what could not be proved by then is not acknowledged. */
static int waits(struct app *a, int rc)
{
    return rc == 1 && atomic_load(&a->closing) ? -EIO : rc;
}

static int plain(void *ctx)
{
    struct app *a = ctx;
    int rc = dmt_lease_plain(a->lease);
    /* A slow standby slows the writers instead of letting the unacknowledged tail grow; alone there
     * is nobody to wait for. */
    if (rc == 0 && a->replica && dmt_lease_dual(a->lease) &&
        dmt_replica_unacked_bytes(a->replica) > a->lag_max) {
        dmt_replica_need(a->replica, UINT64_MAX);
        rc = 1;
    }
    return waits(a, rc);
}

static int begin(void *ctx)
{
    struct app *a = ctx;
    return dmt_lease_begin(a->lease);
}

static int sync_gate(void *ctx, uint64_t seq, uint64_t ino, uint64_t ref_seq)
{
    struct app *a = ctx;
    if (a->replica && a->level != DMT_SYNC_LOCAL && dmt_lease_dual(a->lease) && ref_seq != 0 &&
        !dmt_replica_have(a->replica, ino, ref_seq))
        return waits(a, 1);
    return waits(a, dmt_lease_sync(a->lease, seq));
}

static void appended(void *ctx, uint64_t tail_seq, uint64_t bytes)
{
    struct app *a = ctx;
    if (a->replica)
        dmt_replica_appended(a->replica, tail_seq, bytes);
}

static void wanted(void *ctx, uint64_t seq)
{
    struct app *a = ctx;
    if (a->replica && a->level != DMT_SYNC_LOCAL && dmt_lease_dual(a->lease))
        dmt_replica_need(a->replica, seq);
}

static uint64_t stable(void *ctx)
{
    struct app *a = ctx;
    return dmt_lease_stable(a->lease);
}

static uint64_t peer_free(void *ctx)
{
    struct app *a = ctx;
    return a->replica ? dmt_replica_peer_free(a->replica) : UINT64_MAX;
}

void gate_init(struct app *a)
{
    a->gate = (struct dmt_gate){.ctx = a,
                                .plain = plain,
                                .begin = begin,
                                .sync = sync_gate,
                                .appended = appended,
                                .wanted = wanted,
                                .stable = stable,
                                .peer_free = peer_free};
}
