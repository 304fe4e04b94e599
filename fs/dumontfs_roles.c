/* dumontfs_roles.c: what the lease decides, done: epochs opened, promotion, losing, resync, fetch,
 * handover.
 *
 * The ops marked [io] come on the lease's io thread in the order of its decisions. What may take
 * long, or changes which parts exist, is posted to the main thread; a handover's waiting runs on
 * the pool. Failure of a step goes back to the lease (…_done with an error), which knows what
 * follows.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include "fs/base/log.h"
#include "fs/base/mountinfo.h"
#include "fs/dumontfs_past.h"

/* kept for a standby that is away, or on a standby for the archive of its later epoch */
#define PRECOPY_MS 600000
#define FROZEN_MS  10000

struct decision {
    uint64_t epoch, seq;
    bool alone, forced;
    char text[DMT_REASON_MAX + 1];
};

static struct decision *decision(uint64_t epoch, uint64_t seq, const char *text)
{
    struct decision *d = calloc(1, sizeof *d);
    DMT_ASSERT(d);
    d->epoch = epoch;
    d->seq = seq;
    snprintf(d->text, sizeof d->text, "%s", text);
    return d;
}

bool roles_is_holder(struct app *a)
{
    struct dmt_lease_status s;
    dmt_lease_status(a->lease, &s);
    return s.holder;
}

static void say_role(struct app *a, enum dmt_replica_role role, uint64_t epoch, bool alone)
{
    if (a->replica)
        dmt_replica_set_role(a->replica, role, epoch, alone, dmt_lease_seen(a->lease));
}

void roles_say_standby(struct app *a)
{
    char text[256], epoch[40];
    struct dmt_lease_status s;
    dmt_lease_status(a->lease, &s);
    if (!a->user_mount) {
        mount_say(a, DMT_HP_READY, 0, "", "");
        return;
    }
    snprintf(epoch, sizeof epoch, "%u", DMT_EPOCH_MAJOR(s.seen));
    snprintf(text, sizeof text, "%s is held by %s since epoch %s; standby started here", a->name,
             s.holder_node[0] ? s.holder_node : "another machine", epoch);
    mount_say(
        a, DMT_HP_READY, 32, text,
        "It mounts here by itself if that machine is lost; `dumont handover` there moves it now.");
}

/* --- retention: called every second on main --------------------------------------------------- */
uint64_t roles_commit(struct app *a)
{
    struct dmt_ws *ws = app_ws_get(a);
    if (!ws)
        return 0;
    uint64_t durable = dmt_journal_durable(dmt_ws_journal(ws)), stable = dmt_lease_stable(a->lease);
    app_ws_put(a);
    return durable < stable ? durable : stable;
}

static void retain(struct app *a, const struct dmt_ws_status *s)
{
    uint64_t standby = UINT64_MAX, archive = UINT64_MAX;
    bool full = s->journal.bytes > a->journal_keep;
    if (a->replica) {
        uint64_t r = dmt_replica_retain(a->replica);
        /* Away: its last position is kept for as long as the journal may grow; beyond that it needs
         * a resync. */
        standby = r != UINT64_MAX ? r : full ? UINT64_MAX : atomic_load(&a->peer_durable);
    }
    uint64_t peer = atomic_load(&a->peer_durable);
    if (peer > 0)
        dmt_ws_set_peer(a->ws, peer);
    if (a->archiver)
        archive = atomic_load(&a->archived);
    else if (a->archive_url[0] && !full)
        archive = 0; /* a standby: its later archive goes on from the other machine's */
    dmt_ws_set_retention(a->ws, standby, archive);
}

void roles_archived(struct app *a, uint64_t seq)
{
    atomic_store(&a->archived, seq);
}

/* Trouble with the archive is told once when it begins and once when it ends. */
static void watch_archive(struct app *a)
{
    struct dmt_archive_status s;
    if (!a->archive_url[0] || !atomic_load(&a->epoch_open))
        return;
    if (!a->archiver && dmt_clock_real()->monotonic_ns(NULL) >= a->archive_retry_ns)
        app_start_archiver(a);
    if (!app_archive_status(a, &s) || (s.error_since_ns != 0) == a->archive_failing)
        return;
    a->archive_failing = !a->archive_failing;
    if (a->archive_failing)
        events_add(a, "archive-error", s.last_error);
    else
        events_add(a, "archive-well", "uploads go on");
}

/* The same of checkpoints: the mount goes on until what waits for them fills the memory it may. */
static void watch_checkpoints(struct app *a, const struct dmt_ws_status *s)
{
    if ((s->checkpoint_error[0] != '\0') == a->checkpoint_failing)
        return;
    a->checkpoint_failing = !a->checkpoint_failing;
    if (a->checkpoint_failing)
        events_add(a, "checkpoint-error", s->checkpoint_error);
    else
        events_add(a, "checkpoint-well", "the database takes what waited for it");
}

void roles_tick(struct app *a)
{
    struct dmt_ws_status s;
    if (a->ws) {
        dmt_ws_status(a->ws, &s);
        retain(a, &s);
        watch_checkpoints(a, &s);
    }
    watch_archive(a);
    branch_tick(a);
}

/* --- ops -------------------------------------------------------------------------------------- */
/* after_promotion=readonly, and the operator has looked and opened it: the kernel's side of it. */
static void open_mount(struct app *a, void *unused)
{
    (void)unused;
    static const struct {
        const char *word;
        unsigned long bit;
    } kept[] = {{"nosuid", MS_NOSUID}, {"nodev", MS_NODEV}, {"noexec", MS_NOEXEC}};
    struct dmt_lease_status s;
    unsigned long flags = MS_REMOUNT | MS_NOATIME;
    dmt_lease_status(a->lease, &s);
    struct dmt_mount *m = calloc(1, sizeof *m);
    if (m && !s.readonly && atomic_load(&a->closed_mount) &&
        dmt_mountinfo_at(a->mounted_dir, m) == 1) {
        for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
            flags |= strstr(m->options, kept[i].word) ? kept[i].bit : 0;
        if (mount(m->source, a->mounted_dir, m->type, flags, "") == 0)
            atomic_store(&a->closed_mount, false);
        else
            dmt_error("%s stays read-only: %s; mount -o remount,rw %s opens it", a->mounted_dir,
                      strerror(errno), a->mounted_dir);
    }
    free(m);
}

static void gate_changed(void *ctx)
{
    struct app *a = ctx;
    struct dmt_ws *ws = app_ws_get(a);
    if (!ws)
        return;
    dmt_ws_poke(ws);
    app_ws_put(a);
    if (atomic_load(&a->epoch_open) && !atomic_load(&a->mounted))
        app_post(a, mount_try, NULL);
    else if (atomic_load(&a->mounted) && atomic_load(&a->closed_mount))
        app_post(a, open_mount, NULL);
}

static void holding(struct app *a, void *unused)
{
    (void)unused;
    app_start_archiver(a);
    mount_try(a, NULL);
}

static int open_epoch(void *ctx, uint64_t epoch, bool alone, const char *reason)
{
    struct app *a = ctx;
    struct dmt_err err = {0};
    struct dmt_ws *ws = app_ws_get(a);
    if (!ws)
        return -EAGAIN;
    bool first = !atomic_load(&a->epoch_open);
    /* What came from the other machine is applied first: to a holder that had given up, or by a
     * fetch that was cut off. */
    int rc = first ? dmt_ws_promote(ws, &err) : 0;
    if (rc == 0)
        rc = dmt_ws_begin_epoch(ws, epoch, a->node, reason, &err);
    /* The first epoch of a process settles what its predecessor left behind. Not while users wait:
     * in the same boot all there is to do is to sync, which goes on beside them. */
    if (rc == 0 && first && !a->resume && dmt_ws_settle(ws, a->same_boot, &err) < 0)
        rc = err.code ? err.code : -EIO;
    if (rc == 0 && first && !a->resume)
        app_settled(a);
    app_ws_put(a);
    if (rc != 0) {
        dmt_error("cannot open epoch %u.%u: %s", DMT_EPOCH_MAJOR(epoch), DMT_EPOCH_MINOR(epoch),
                  err.msg);
        return rc;
    }
    say_role(a, DMT_REPLICA_SENDER, epoch, alone);
    atomic_store(&a->own_bulk, true);
    atomic_store(&a->epoch_open, true);
    app_post(a, holding, NULL);
    return 0;
}

static void do_promote(struct app *a, void *arg)
{
    struct decision *d = arg;
    struct dmt_err err = {0};
    uint64_t t0 = dmt_clock_real()->monotonic_ns(NULL);
    view_undo(a);
    int rc = d->forced ? app_new_lineage(a, &err) : 0;
    if (rc == 0)
        rc = a->ws ? dmt_ws_promote(a->ws, &err) : -EAGAIN;
    if (rc == 0)
        rc = dmt_ws_begin_epoch(a->ws, d->epoch, a->node, d->text, &err);
    /* A former holder, forced: what it wrote in this boot is here, synced or not. */
    if (rc == 0 && (rc = dmt_ws_settle(a->ws, atomic_load(&a->own_bulk), &err)) > 0) {
        dmt_warn("%d files lost unsynced bulk data: dumont log %s --incomplete", rc, a->name);
        rc = 0;
    }
    if (rc == 0) {
        app_settled(a);
        say_role(a, DMT_REPLICA_SENDER, d->epoch, d->alone);
        atomic_store(&a->own_bulk, true);
        atomic_store(&a->epoch_open, true);
    }
    /* Only now: a demotion may follow at once, on the io thread, and has the last word. */
    dmt_lease_promote_done(a->lease, rc);
    if (rc == 0) {
        mount_try(a, NULL);
        app_start_archiver(a);
        dmt_info("promoted: epoch %u.%u after %llu ms", DMT_EPOCH_MAJOR(d->epoch),
                 DMT_EPOCH_MINOR(d->epoch),
                 (unsigned long long)((dmt_clock_real()->monotonic_ns(NULL) - t0) / DMT_MS));
    } else {
        dmt_error("promotion failed: %s", err.msg[0] ? err.msg : dmt_strerror(rc));
    }
    free(d);
}

static void promote(void *ctx, uint64_t epoch, bool alone, bool forced, const char *reason)
{
    struct decision *d = decision(epoch, 0, reason);
    d->alone = alone;
    d->forced = forced;
    app_post(ctx, do_promote, d);
}

static void do_leave(struct app *a, void *unused)
{
    (void)unused;
    app_stop_archiver(a);
    mount_undo(a);
    roles_say_standby(a); /* to a mount.dumont that still waits */
}

static void demote(void *ctx)
{
    struct app *a = ctx;
    atomic_store(&a->epoch_open, false);
    struct dmt_ws *ws = app_ws_get(a);
    if (ws) {
        dmt_ws_demote(ws);
        app_ws_put(a);
    }
    say_role(a, DMT_REPLICA_RECEIVER, 0, false);
    app_post(a, do_leave, NULL);
}

/* The first steps of a former holder: what the other machine may have given up is here (R15, R24).
 * Then `heal` can put it back; without it the ranges would be asked of a machine that never had
 * them. */
static void do_follow(struct app *a, void *arg)
{
    struct decision *d = arg;
    struct dmt_err err = {0};
    uint64_t seq;
    if (atomic_exchange(&a->own_bulk, false) && a->ws) {
        if (dmt_ws_keep_own(a->ws, &seq, &err) == 0) {
            app_note_whole(a, seq);
            branch_look(a);
        } else {
            dmt_warn("%s", err.msg);
        }
    }
    app_follows(a);
    if (a->replica)
        dmt_replica_follow(a->replica, d->epoch);
    free(d);
}

static void follow(void *ctx, uint64_t epoch)
{
    struct app *a = ctx;
    if (atomic_load(&a->own_bulk)) {
        app_post(a, do_follow, decision(epoch, 0, ""));
        return;
    }
    app_follows(a);
    if (a->replica)
        dmt_replica_follow(a->replica, epoch);
}

/* The other machine was forced out of our lineage: what only this one has is kept, the rest is the
 * resync's. Not kept (the disk is full): nothing is replaced, and the next contact tries again. */
static void do_leave_lineage(struct app *a, const struct decision *d)
{
    struct dmt_err err = {0};
    int rc = d->text[0] && a->ws ? dmt_ws_branch(a->ws, d->seq, d->text, &err) : 0;
    if (rc != 0)
        dmt_error("what only this machine has cannot be kept: %s", err.msg);
    dmt_lease_lose_done(a->lease, rc);
    if (rc == 0 && a->replica)
        dmt_replica_ask_resync(a->replica, "of the lineage before the force");
}

static void do_lose(struct app *a, void *arg)
{
    struct decision *d = arg;
    struct dmt_err err = {0};
    if (d->forced) {
        do_leave_lineage(a, d);
        free(d);
        return;
    }
    int rc = a->ws ? dmt_ws_branch_and_cut(a->ws, d->seq, d->text, &err) : -EAGAIN;
    if (rc == 0) {
        dmt_warn("records after position %llu were not in the other machine's history: kept as %s",
                 (unsigned long long)d->seq, d->text);
    } else {
        dmt_error("cannot join the other machine's history by cutting: %s", err.msg);
    }
    /* The lease first: the order that may follow finds it done with losing. */
    dmt_lease_lose_done(a->lease, rc);
    if (rc != 0 && a->replica)
        dmt_replica_ask_resync(a->replica, err.msg);
    free(d);
}

static void lose(void *ctx, uint64_t epoch, uint64_t switch_seq, bool forced, const char *branch)
{
    struct decision *d = decision(epoch, switch_seq, branch);
    d->forced = forced;
    app_post(ctx, do_lose, d);
}

static void fetch(void *ctx)
{
    struct app *a = ctx;
    if (a->replica)
        dmt_replica_fetch(a->replica);
    else
        dmt_lease_fetch_done(a->lease, -ENOTCONN);
}

static void do_fetched(struct app *a, void *arg)
{
    struct decision *d = arg;
    struct dmt_err err = {0};
    int rc = (int)(int64_t)d->seq;
    if (rc == 0 && a->ws)
        rc = dmt_ws_apply_upto(a->ws, UINT64_MAX, &err);
    dmt_lease_fetch_done(a->lease, rc);
    free(d);
}

void roles_fetched(struct app *a, int err)
{
    app_post(a, do_fetched, decision(0, (uint64_t)(int64_t)err, ""));
}

static void order_resync(void *ctx)
{
    struct app *a = ctx;
    if (a->replica)
        dmt_replica_order_resync(a->replica);
}

/* --- resync: the workspace is closed, made equal to the holder's, and opened again ------------ */
/* What has come and is the holder's history as well is applied first: it need not be sent again. */
static void close_ws(struct app *a)
{
    struct dmt_err err = {0};
    uint64_t common = atomic_load(&a->resync_common);
    if (a->replica)
        dmt_replica_set_ws(a->replica, NULL);
    if (a->ws && common > 0 && dmt_ws_apply_upto(a->ws, common, &err) != 0)
        dmt_warn("before the resync: %s", err.msg);
    pthread_rwlock_wrlock(&a->ws_lock);
    struct dmt_ws *ws = a->ws;
    a->ws = NULL;
    pthread_rwlock_unlock(&a->ws_lock);
    if (ws && dmt_ws_close(ws, &err) != 0)
        dmt_warn("closing before the resync: %s", err.msg);
}

static void do_resync(struct app *a, void *arg)
{
    struct decision *d = arg;
    if (!a->replica) {
        dmt_lease_resync_done(a->lease, d->seq, -ENOTCONN);
        free(d);
        return;
    }
    view_undo(a);
    close_ws(a); /* from here on nothing proves what came by an order before */
    atomic_store(&a->resync_waits, false);
    atomic_store(&a->resync_order, d->seq);
    atomic_store(&a->own_bulk, false);
    peer_resync(a);
    free(d);
}

static void resync(void *ctx, uint64_t order)
{
    app_post(ctx, do_resync, decision(0, order, ""));
}

static void do_imported(struct app *a, void *arg)
{
    struct decision *d = arg;
    struct dmt_err err = {0};
    int rc = (int)(int64_t)d->seq;
    if (rc == 0)
        rc = app_switch_store(a, &err);
    if (rc == 0)
        rc = app_open_ws(a, &err);
    if (rc != 0) {
        dmt_error("resync failed: %s", err.msg[0] ? err.msg : d->text);
        dmt_lease_resync_done(a->lease, atomic_load(&a->resync_order), rc);
    } else {
        struct dmt_lineage l;
        atomic_store(&a->resync_waits, true);
        app_lineage(a, &l);
        dmt_replica_set_lineage(a->replica, &l);
        dmt_replica_set_ws(a->replica, a->ws);
    }
    free(d);
}

void roles_imported(struct app *a, int err, const char *why)
{
    app_post(a, do_imported, decision(0, (uint64_t)(int64_t)err, why ? why : ""));
}

void roles_following(struct app *a)
{
    if (atomic_exchange(&a->resync_waits, false))
        dmt_lease_resync_done(a->lease, atomic_load(&a->resync_order), 0);
}

/* --- handover --------------------------------------------------------------------------------- */
struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    int err;
};

static void woken(void *arg, int err)
{
    struct waiter *w = arg;
    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->err = err;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static int drain_to(struct app *a, uint64_t seq, uint64_t timeout_ms)
{
    struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    dmt_replica_drain(a->replica, seq, timeout_ms, woken, &w);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    return w.err;
}

/* Pool: pre-copy while people work, then freeze, then the little that is left. */
static void do_drain(void *arg)
{
    struct app *a = arg;
    struct dmt_ws *ws = app_ws_get(a);
    int rc = ws && a->replica ? 0 : -ENOTCONN;
    if (rc == 0) {
        mount_flush_mmap(a);
        dmt_ws_sync_wait(ws, 0);
        rc = drain_to(a, dmt_journal_tail(dmt_ws_journal(ws)).seq, PRECOPY_MS);
    }
    if (rc == 0) {
        uint64_t t0 = dmt_clock_real()->monotonic_ns(NULL);
        mount_flush_mmap(a);
        dmt_lease_freeze(a->lease);
        dmt_journal_wait(dmt_ws_journal(ws), dmt_journal_tail(dmt_ws_journal(ws)).seq);
        rc = drain_to(a, dmt_journal_tail(dmt_ws_journal(ws)).seq, FROZEN_MS);
        dmt_info("handover: frozen and drained in %llu ms",
                 (unsigned long long)((dmt_clock_real()->monotonic_ns(NULL) - t0) / DMT_MS));
    }
    if (ws)
        app_ws_put(a);
    /* only bulk data is missing: those files fall back there, the bytes stay here as a branch */
    if (rc == DMT_E_RETRY)
        rc = 0;
    dmt_lease_drained(a->lease, rc);
}

static void drain(void *ctx)
{
    struct app *a = ctx;
    if (dmt_pool_submit(a->pool, do_drain, a) != 0)
        dmt_lease_drained(a->lease, -EAGAIN);
}

/* --- small answers ---------------------------------------------------------------------------- */
static uint64_t tail(void *ctx)
{
    struct app *a = ctx;
    struct dmt_ws *ws = app_ws_get(a);
    uint64_t seq = ws ? dmt_journal_tail(dmt_ws_journal(ws)).seq : 0;
    if (ws)
        app_ws_put(a);
    return seq;
}

static uint64_t oldest_sync_ms(void *ctx)
{
    struct app *a = ctx;
    struct dmt_ws_status s = {.oldest_sync_ms = 0};
    struct dmt_ws *ws = app_ws_get(a);
    if (ws) {
        dmt_ws_status(ws, &s);
        app_ws_put(a);
    }
    return s.oldest_sync_ms;
}

static void event(void *ctx, const char *kind, const char *text)
{
    events_add(ctx, kind, text);
}

/* Whoever waits for the mount need not wait for what will not come. */
static void failed_before_serving(struct app *a, void *unused)
{
    (void)unused;
    if (a->ready_said)
        return; /* stays readable, and says so in its status */
    char text[512];
    pthread_mutex_lock(&a->q_lock);
    snprintf(text, sizeof text, "%s cannot be written: %.400s", a->name, a->failed_why);
    pthread_mutex_unlock(&a->q_lock);
    mount_say(a, DMT_HP_FAILED, 32, text,
              "nothing was changed; the log of the workspace has more, and so has: dumont check");
    app_stop(a, 1);
}

static void failed(void *ctx, const char *why)
{
    struct app *a = ctx;
    dmt_error("closed for writing: %s", why);
    pthread_mutex_lock(&a->q_lock);
    snprintf(a->failed_why, sizeof a->failed_why, "%s", why);
    pthread_mutex_unlock(&a->q_lock);
    app_post(a, failed_before_serving, NULL);
}

static void may_stop(void *ctx)
{
    struct app *a = ctx;
    pthread_mutex_lock(&a->q_lock);
    a->may_stop = true;
    pthread_cond_broadcast(&a->stop_cond);
    pthread_mutex_unlock(&a->q_lock);
}

/* Tells the other machine that this is an orderly stop, and waits (the lease answers within 5
 * s). */
void roles_stop_begin(struct app *a)
{
    if (!a->lease_runs || !a->has_peer)
        return;
    dmt_lease_stop_begin(a->lease);
    pthread_mutex_lock(&a->q_lock);
    while (!a->may_stop)
        pthread_cond_wait(&a->stop_cond, &a->q_lock);
    pthread_mutex_unlock(&a->q_lock);
}

const struct dmt_lease_ops roles_ops = {.gate_changed = gate_changed,
                                        .open_epoch = open_epoch,
                                        .promote = promote,
                                        .demote = demote,
                                        .follow = follow,
                                        .lose = lose,
                                        .fetch = fetch,
                                        .order_resync = order_resync,
                                        .resync = resync,
                                        .drain = drain,
                                        .tail = tail,
                                        .oldest_sync_ms = oldest_sync_ms,
                                        .event = event,
                                        .failed = failed,
                                        .may_stop = may_stop};
