/* follow.c: epochs, following another holder, promotion, giving up.
 *
 * Owns the role and the follower's reader. Happy path of a follower: dmt_ws_receive appends the
 * holder's records byte for byte (the caller kicks the journal when it must be durable);
 * dmt_ws_apply_upto applies what is durable
 * on both sides; dmt_ws_promote applies all that is durable here (the holder's commit position
 * limits apply only, never the journal); dmt_ws_begin_epoch writes the EPOCH record that makes this
 * store the holder: parent and switch position are facts of the log from then on. From the moment
 * that dmt_ws_promote looks at the tail, nothing of the old holder's comes in any more, however
 * late its connection ends: no record, no bulk bytes, and no word about what is missing, which
 * settling is about to change (DMT_E_STALE). When the epoch
 * comes from another machine's, a snapshot of the switch point is taken first thing, so that both
 * sides have it (branches are read against it), and every orphan is reaped: nobody has it open
 * here.
 * Failure: records that do not extend the chain are refused by the journal (DMT_E_HISTORY). A
 * promotion that fails leaves a workspace that neither follows nor serves. A
 * follower that cannot apply is failed; its journal still holds the records. Demotion fails what is
 * parked with -EIO and later calls with -EROFS.
 * Threads: loop (receive), applier (apply_upto), whoever the lease uses (promote, begin_epoch,
 * demote).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/branch_copy.h"
#include "fs/workspace/ws.h"

uint64_t dmt_ws_applied(struct dmt_ws *ws)
{
    ws_lock(ws);
    uint64_t seq = ws->applied.seq;
    ws_unlock(ws);
    return seq;
}

/* --- following -------------------------------------------------------------------------------- */

int dmt_ws_receive(struct dmt_ws *ws, const void *records, size_t len, struct dmt_err *err)
{
    ws_lock(ws);
    int r = ws->failed ? dmt_err_set(err, -EIO, "%s", ws->failed_why) : 0;
    if (r == 0 && !ws_may_follow(ws))
        r = dmt_err_set(err, DMT_E_STALE, "this workspace is not a follower");
    if (r == 0) {
        /* Opened as holder, or demoted: from the first record of another it follows. */
        ws->role = WS_FOLLOWER;
        r = dmt_journal_append_raw(ws->j, records, len, err);
    }
    ws_unlock(ws);
    return r;
}

/* apply_lock held. */
static int apply_received(struct dmt_ws *ws, uint64_t seq, struct dmt_err *err)
{
    int r = 0;
    ws_lock(ws);
    uint64_t from = ws->group_begin ? ws->read_seq : ws->applied.seq;
    ws_unlock(ws);
    if (seq <= from)
        return 0;
    if (!ws->reader || ws->read_seq != from) {
        dmt_jreader_close(ws->reader);
        ws->reader = NULL;
        r = dmt_jreader_open(&ws->reader, ws->j, from, err);
        ws->read_seq = from;
    }
    if (r == 0)
        r = ws_apply_from(ws, ws->reader, &ws->read_seq, seq, false, err);
    if (r < 0) {
        dmt_jreader_close(ws->reader);
        ws->reader = NULL;
    }
    return r;
}

int ws_apply_tail(struct dmt_ws *ws, uint64_t seq, struct dmt_err *err)
{
    ws_lock(ws);
    bool follower = ws->role == WS_FOLLOWER;
    ws_unlock(ws);
    return follower ? apply_received(ws, seq, err) : 0;
}

int dmt_ws_apply_upto(struct dmt_ws *ws, uint64_t seq, struct dmt_err *err)
{
    uint64_t durable = dmt_journal_durable(ws->j);
    pthread_mutex_lock(&ws->apply_lock);
    int r = ws_apply_tail(ws, seq < durable ? seq : durable, err);
    pthread_mutex_unlock(&ws->apply_lock);
    return r;
}

int dmt_ws_promote(struct dmt_ws *ws, struct dmt_err *err)
{
    ws_lock(ws);
    bool follower = ws->role == WS_FOLLOWER; /* else all that is here is applied */
    ws->role = WS_PROMOTING;
    uint64_t tail = dmt_journal_tail(ws->j).seq;
    ws_unlock(ws);
    if (!follower)
        return 0;
    dmt_journal_kick(ws->j, tail);
    int r = dmt_journal_wait(ws->j, tail);
    if (r < 0)
        return dmt_err_set(err, r, "the journal cannot be made durable: %s", dmt_strerror(r));
    pthread_mutex_lock(&ws->apply_lock);
    r = apply_received(ws, tail, err);
    pthread_mutex_unlock(&ws->apply_lock);
    return r;
}

/* --- the opening of an epoch ------------------------------------------------------------------ */

static int log_epoch(struct dmt_ws *ws, uint64_t epoch, const char *node, const char *reason,
                     uint64_t *ret_switch)
{
    struct dmt_pos tail = dmt_journal_tail(ws->j);
    struct dmt_op op = {0};
    struct dmt_body b = {
        .type = DMT_REC_EPOCH,
        .EPOCH = {.epoch = epoch,
                  .parent = tail.epoch,
                  .switch_seq = tail.seq,
                  .switch_chain = tail.chain,
                  .node = ws_span(node),
                  .reason = ws_span(reason)},
    };
    memcpy(b.EPOCH.store_id, dmt_store_ident(ws->st)->store_id, 16);
    int r = ws_log(ws, &op, &b, 0);
    ws->epoch_seq = tail.seq > 0 ? op.seq : 0;
    *ret_switch = tail.seq;
    return r;
}

void dmt_switch_name(uint64_t epoch, char name[DMT_SWITCH_NAME_MAX])
{
    (void)snprintf(name, DMT_SWITCH_NAME_MAX, "switch/epoch-%" PRIu64 ".%" PRIu64, epoch >> 32,
                   epoch & UINT32_MAX);
}

/* "epoch-MAJOR.MINOR..."; 0: not of that form. */
static uint64_t epoch_named(const char *name)
{
    uint32_t major, minor;
    return sscanf(name, "epoch-%" SCNu32 ".%" SCNu32, &major, &minor) == 2
               ? (uint64_t)major << 32 | minor
               : 0;
}

/* The epochs in which the branches on this machine were written. */
struct branch_epochs {
    uint64_t *v;
    size_t n;
};

static int note_branch(void *ctx, const char *name, bool removed)
{
    struct branch_epochs *be = ctx;
    uint64_t epoch = epoch_named(name);
    if (removed || epoch == 0)
        return 0;
    uint64_t *v = realloc(be->v, (be->n + 1) * sizeof(*v));
    if (!v)
        return -ENOMEM;
    be->v = v;
    be->v[be->n++] = epoch;
    return 0;
}

struct switches {
    const struct branch_epochs *branches;
    uint64_t before; /* epoch of the switch before the one that is looked at */
    char oldest[DMT_SNAP_NAME_MAX + 1];
    int n;
};

/* Counts those that no branch needs. A branch starts where the first epoch after its own began. */
static int count_switch(void *ctx, const struct dmt_snapshot *s)
{
    struct switches *sw = ctx;
    bool needed = false;
    if (strncmp(s->name, "switch/", 7) != 0)
        return 0;
    uint64_t epoch = epoch_named(s->name + 7);
    for (size_t i = 0; i < sw->branches->n; i++)
        needed |= sw->branches->v[i] >= sw->before && sw->branches->v[i] < epoch;
    sw->before = epoch;
    if (!needed && sw->n++ == 0)
        memcpy(sw->oldest, s->name, sizeof(sw->oldest));
    return 0;
}

/* They pin old content: those of long ago go, but not while a branch can only be written out from
 * them. */
static int drop_old_switches(struct dmt_ws *ws, const struct branch_epochs *branches)
{
    for (;;) {
        struct switches sw = {.branches = branches};
        int r = dmt_store_snap_each(ws->st, count_switch, &sw);
        if (r < 0 || sw.n <= WS_SWITCHES_MAX)
            return r < 0 ? r : 0;
        struct dmt_body del = {.type = DMT_REC_SNAP_DEL, .SNAP_DEL.name = ws_span(sw.oldest)};
        r = ws_log(ws, NULL, &del, 0);
        if (r < 0)
            return r;
    }
}

/* Snapshot of the switch point. */
static int keep_switch(struct dmt_ws *ws, uint64_t epoch, const char *from,
                       const struct branch_epochs *branches)
{
    char name[DMT_SWITCH_NAME_MAX], note[128];
    dmt_switch_name(epoch, name);
    (void)snprintf(note, sizeof(note), "state taken over from %s", from);
    struct dmt_body b = {
        .type = DMT_REC_SNAP,
        .SNAP = {.name = ws_span(name), .serial = ws->next_snap, .note = ws_span(note)},
    };
    int r = ws_log(ws, NULL, &b, 0);
    return r < 0 ? r : drop_old_switches(ws, branches);
}

/* Orphans that nobody can have open: those of a time before this process, unless it goes on with a
 * mount. An epoch may also begin while files are open. */
static int reap_orphans(struct dmt_ws *ws)
{
    uint64_t *v = calloc(ws->orphans.n + 1, sizeof(*v));
    size_t n = 0;
    int r = v ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < ws->orphans.cap; i++)
        if (ws->orphans.keys[i] && !ws_in_use(ws, ws->orphans.keys[i]))
            v[n++] = ws->orphans.keys[i];
    for (size_t i = 0; r == 0 && i < n; i++) {
        struct dmt_body b = {.type = DMT_REC_REAP, .REAP.ino = v[i]};
        r = ws_log(ws, NULL, &b, 0);
    }
    free(v);
    return r;
}

static int check_epoch(struct dmt_ws *ws, uint64_t epoch, struct dmt_err *err)
{
    struct dmt_pos tail = dmt_journal_tail(ws->j);
    if (ws->failed)
        return dmt_err_set(err, -EIO, "%s", ws->failed_why);
    if (epoch <= ws->epoch || epoch <= tail.epoch)
        return dmt_err_set(err, DMT_E_STALE,
                           "epoch %" PRIu64 ".%" PRIu64 " is not higher than that of the journal",
                           epoch >> 32, epoch & UINT32_MAX);
    if (ws->applied.seq != tail.seq && !ws->group_begin)
        return dmt_err_set(err, -EINVAL, "records are not applied yet: promote first");
    return 0;
}

int dmt_ws_begin_epoch(struct dmt_ws *ws, uint64_t epoch, const char *node, const char *reason,
                       struct dmt_err *err)
{
    char before[sizeof(ws->epoch_node)];
    struct dmt_missing any;
    uint64_t switch_seq = 0;
    struct branch_epochs branches = {0};
    /* A folder that cannot be read costs old snapshots at most, and no failover. */
    (void)dmt_ws_branch_names(ws, note_branch, &branches);
    ws_lock(ws);
    int r = check_epoch(ws, epoch, err);
    if (r < 0) {
        ws_unlock(ws);
        free(branches.v);
        return r;
    }
    memcpy(before, ws->epoch_node, sizeof(before));
    bool other = before[0] && strcmp(before, node) != 0 && ws->epoch >> 32 != epoch >> 32;
    r = log_epoch(ws, epoch, node, reason, &switch_seq);
    if (r == 0 && other)
        r = keep_switch(ws, epoch, before, &branches);
    free(branches.v);
    if (r == 0)
        r = reap_orphans(ws);
    /* Ranges of a time before are settled first. But a mount that goes on says that the machine did
     * not go down: all bytes are here. */
    if (ws->role != WS_HOLDER) {
        ws->bulk_ok = ws->conf.resume || dmt_store_missing_next(ws->st, 0, 0, &any) == 0;
        ws_runs_forget(ws);
    }
    if (ws->conf.resume)
        dmt_store_give_up_pinned(ws->st, ws->own_after); /* no checkpoint may know it yet */
    if (ws->conf.resume && ws->bulk_since_ns == 0)
        ws->bulk_since_ns = ws_mono(ws);
    uint64_t seq = ws->applied.seq;
    ws_unlock(ws);
    if (r == 0) {
        dmt_journal_kick(ws->j, seq);
        r = dmt_journal_wait(ws->j, seq);
    }
    if (r < 0)
        return dmt_err_set(err, r, "epoch %" PRIu64 ".%" PRIu64 " cannot be opened: %s",
                           epoch >> 32, epoch & UINT32_MAX, dmt_strerror(r));
    ws_lock(ws);
    ws->role = WS_HOLDER;
    ws_unlock(ws);
    return 0;
}

void dmt_ws_demote(struct dmt_ws *ws)
{
    ws_lock(ws);
    if (ws->role != WS_FOLLOWER)
        ws->role = WS_DEMOTED;
    ws->conf.resume = 0; /* the mount ends with the role */
    ws->lost_before = 0;
    pthread_cond_broadcast(&ws->unheld);
    ws_unlock(ws);
    ws_acks_fail(ws, -EIO);
}
