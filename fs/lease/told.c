/* told.c: what L4 tells the lease, turned into events. Owns nothing; every function posts one event
 * and returns. Threads: any.
 */
#include <stdio.h>
#include <string.h>

#include "fs/lease/internal.h"

static void post_err(struct dmt_lease *l, enum lease_ev type, int err)
{
    struct lease_event e = {.type = type, .err = err};
    lease_post(l, &e);
}

static void set_id(struct lease_id *id, const char *node, const uint8_t store_id[16])
{
    (void)snprintf(id->node, sizeof(id->node), "%s", node);
    memcpy(id->store, store_id, 16);
}

void dmt_lease_stop_begin(struct dmt_lease *l)
{
    post_err(l, LEASE_EV_STOP, 0);
}

void dmt_lease_peer_up(struct dmt_lease *l, const char *node, const uint8_t store_id[16],
                       uint64_t epoch, uint64_t seq, bool ahead)
{
    struct lease_event e = {
        .type = LEASE_EV_PEER_UP, .epoch = epoch, .durable = seq, .ahead = ahead};
    set_id(&e.id, node, store_id);
    lease_post(l, &e);
}

void dmt_lease_peer_down(struct dmt_lease *l)
{
    post_err(l, LEASE_EV_PEER_DOWN, 0);
}

void dmt_lease_peer_epoch(struct dmt_lease *l, const struct dmt_lease_claim *c)
{
    struct lease_event e = {.type = LEASE_EV_PEER_EPOCH,
                            .epoch = c->epoch,
                            .alone = c->alone,
                            .switch_seq = c->switch_seq,
                            .durable = c->tail_seq,
                            .lineage = *c->lineage,
                            .newer = c->newer};
    set_id(&e.id, c->node, c->store_id);
    lease_post(l, &e);
}

void dmt_lease_higher_epoch(struct dmt_lease *l, uint64_t epoch)
{
    struct lease_event e = {.type = LEASE_EV_HIGHER, .epoch = epoch};
    lease_post(l, &e);
}

void dmt_lease_resync_needed(struct dmt_lease *l)
{
    post_err(l, LEASE_EV_RESYNC_NEEDED, 0);
}

void dmt_lease_resync_ordered(struct dmt_lease *l, uint64_t epoch, bool alone,
                              const struct dmt_lineage *lineage)
{
    struct lease_event e = {
        .type = LEASE_EV_RESYNC_ORDERED, .epoch = epoch, .alone = alone, .lineage = *lineage};
    lease_post(l, &e);
}

void dmt_lease_resync_done(struct dmt_lease *l, uint64_t order, int err)
{
    struct lease_event e = {.type = LEASE_EV_RESYNC_DONE, .gen = order, .err = err};
    lease_post(l, &e);
}

void dmt_lease_promote_done(struct dmt_lease *l, int err)
{
    post_err(l, LEASE_EV_PROMOTE_DONE, err);
}

void dmt_lease_lose_done(struct dmt_lease *l, int err)
{
    post_err(l, LEASE_EV_LOSE_DONE, err);
}

void dmt_lease_fetch_done(struct dmt_lease *l, int err)
{
    post_err(l, LEASE_EV_FETCH_DONE, err);
}

void dmt_lease_freeze(struct dmt_lease *l)
{
    post_err(l, LEASE_EV_FREEZE, 0);
}

void dmt_lease_drained(struct dmt_lease *l, int err)
{
    post_err(l, LEASE_EV_DRAINED, err);
}

void dmt_lease_spot_notice(struct dmt_lease *l, bool pending)
{
    struct lease_event e = {.type = LEASE_EV_SPOT, .spot = pending};
    lease_post(l, &e);
}

int dmt_lease_command_check(struct dmt_lease *l, enum dmt_lease_command cmd, struct dmt_err *err)
{
    struct dmt_lease_status v;
    struct dmt_lineage lineage;
    dmt_lease_status(l, &v);
    dmt_lease_lineage(l, &lineage);
    if (cmd == DMT_LEASE_CMD_FORCE && !dmt_lineage_known(&lineage)) {
        (void)dmt_err_set(err, -EINVAL,
                          "this copy has nothing of the workspace yet: it would begin empty");
        (void)dmt_err_hint(err, "Restore from the archive: dumont workspace create NEW --from URL");
        return -EINVAL;
    }
    return lease_command_check(v.state, v.readonly, v.peer_silent_ms, cmd, err);
}

int dmt_lease_command(struct dmt_lease *l, enum dmt_lease_command cmd, struct dmt_err *err)
{
    int r = dmt_lease_command_check(l, cmd, err);
    if (r < 0)
        return r;
    struct lease_event e = {.type = LEASE_EV_COMMAND, .command = cmd};
    if (cmd == DMT_LEASE_CMD_FORCE)
        dmt_random(e.lineage.id, sizeof(e.lineage.id));
    lease_post(l, &e);
    return 0;
}
