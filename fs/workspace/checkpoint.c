/* checkpoint.c: the thread `ckpt`: when to write the dirty layer to disk, and when the journal may
 * let go.
 *
 * Happy path of one checkpoint: under the lock save the derived values and freeze the store at
 * `applied`; without it wait until the journal is durable past that position (D1), let the store
 * write blocks, data and one transaction, then release journal segments up to min(checkpoint, what
 * the standby and the archive still need).
 * When: the layer has some MiB, since memory that is used again soon stays warm; the log has many
 * records that it lacks, five seconds passed since the last change, or someone asks. An
 * unhurried checkpoint waits until the peer has acknowledged the position, because a checkpoint
 * past a switch point costs a loser a full resync; when the layer is full it goes on without.
 * By-reference data that lies unsynced for five seconds is made durable and marked (D5).
 * Failure: the store merges the frozen layer back; the thread tries again every second, writers
 * stop (ws_begin) when the layer reaches twice its limit, and get the error. A failed workspace
 * makes no checkpoints.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fs/workspace/ws.h"

#define TICK_NS  (250 * DMT_MS)
#define RETRY_NS DMT_S

bool ws_layer_full(struct dmt_ws *ws, uint64_t times)
{
    struct dmt_store_load load;
    dmt_store_load(ws->st, &load);
    return load.dirty_rows >= times * DMT_DIRTY_ROWS_MAX ||
           load.dirty_bytes >= times * DMT_DIRTY_BYTES_MAX;
}

bool ws_layer_worth(struct dmt_ws *ws)
{
    struct dmt_store_load load;
    dmt_store_load(ws->st, &load);
    return load.dirty_bytes >= DMT_DIRTY_BYTES_MIN || ws_layer_full(ws, 1);
}

static void wait_on(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    uint64_t t = (uint64_t)ts.tv_sec * DMT_S + (uint64_t)ts.tv_nsec + ns;
    ts.tv_sec = (time_t)(t / DMT_S);
    ts.tv_nsec = (long)(t % DMT_S);
    pthread_cond_timedwait(cond, lock, &ts);
}

static uint64_t stable(struct dmt_ws *ws)
{
    return ws->gate.stable(ws->gate.ctx);
}

/* True when what is applied now can no longer be cut off; waits a little for it. */
static bool wait_stable(struct dmt_ws *ws)
{
    for (int i = 0; i < WS_STABLE_WAIT_MS / 10; i++) {
        ws_lock(ws);
        uint64_t seq = ws->applied.seq;
        bool yes = ws->role == WS_FOLLOWER || stable(ws) >= seq;
        ws_unlock(ws);
        if (yes)
            return true;
        dmt_journal_kick(ws->j, seq);
        pthread_mutex_lock(&ws->ckpt_lock);
        if (!ws->ckpt_stop)
            wait_on(&ws->ckpt_cond, &ws->ckpt_lock, 10 * DMT_MS);
        pthread_mutex_unlock(&ws->ckpt_lock);
    }
    return false;
}

static void release(struct dmt_ws *ws)
{
    ws_lock(ws);
    uint64_t seq = ws->checkpointed;
    if (ws->keep_standby < seq)
        seq = ws->keep_standby;
    if (ws->keep_archive < seq)
        seq = ws->keep_archive;
    if (ws->conf.keep_recent && ws->role != WS_FOLLOWER && ws->recent.floor < seq)
        seq = ws->recent.floor;
    ws_unlock(ws);
    dmt_journal_release(ws->j, seq);
}

void dmt_ws_set_retention(struct dmt_ws *ws, uint64_t standby_durable, uint64_t archived)
{
    ws_lock(ws);
    ws->keep_standby = standby_durable;
    ws->keep_archive = archived;
    ws_unlock(ws);
    release(ws);
}

void dmt_ws_set_peer(struct dmt_ws *ws, uint64_t seq)
{
    ws_lock(ws);
    dmt_store_set_peer(ws->st, seq);
    ws_unlock(ws);
}

/* Freezes at `applied`. 1 = frozen, 0 = nothing to write. */
static int freeze(struct dmt_ws *ws, struct dmt_pos *pos, struct dmt_err *err)
{
    struct dmt_store_load load;
    int r = 0;
    ws_lock(ws);
    *pos = ws->applied;
    dmt_store_load(ws->st, &load);
    if (ws->failed)
        r = dmt_err_set(err, -EIO, "no checkpoint: %s", ws->failed_why);
    else if (pos->seq != ws->checkpointed || load.dirty_rows > 0) {
        r = ws_meta_save(ws);
        if (r == 0)
            r = dmt_store_freeze(ws->st, pos);
        if (r < 0)
            r = dmt_err_set(err, r, "cannot freeze the dirty layer: %s", dmt_strerror(r));
        else
            r = 1;
    }
    ws_unlock(ws);
    return r;
}

/* Freezes and writes: 1 = written, 0 = nothing to write. */
static int write_layer(struct dmt_ws *ws, struct dmt_pos *pos, struct dmt_err *err)
{
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    int r = freeze(ws, pos, err);
    if (r < 0) {
        ws_lock(ws);
        ws->ckpt_err = r; /* who waits for room is told */
        pthread_cond_broadcast(&ws->unheld);
        ws_unlock(ws);
    }
    if (r <= 0)
        return r;
    dmt_journal_kick(ws->j, pos->seq);
    r = dmt_journal_wait(ws->j, pos->seq);
    if (r < 0)
        return dmt_err_set(err, r, "the journal cannot be made durable: %s", dmt_strerror(r));
    r = dmt_store_checkpoint(ws->st, &lk, err);
    ws_lock(ws);
    if (r == 0)
        ws->checkpointed = pos->seq;
    ws->ckpt_err = r;
    pthread_cond_broadcast(&ws->unheld);
    ws_unlock(ws);
    return r < 0 ? r : 1;
}

/* For the status: the last failure, and since when they follow each other. News are logged. That a
 * failed workspace makes none is no news. */
static void note_outcome(struct dmt_ws *ws, int r, const struct dmt_err *err)
{
    char why[sizeof(ws->ckpt_trouble)] = "";
    ws_lock(ws);
    bool failed = ws->failed;
    ws_unlock(ws);
    if (failed)
        return;
    if (r < 0)
        (void)snprintf(why, sizeof(why), "%.255s", err && err->msg[0] ? err->msg : dmt_strerror(r));
    pthread_mutex_lock(&ws->ckpt_lock);
    bool news = strcmp(why, ws->ckpt_trouble) != 0;
    memcpy(ws->ckpt_trouble, why, sizeof(why));
    if (r >= 0)
        ws->ckpt_trouble_ns = 0;
    else if (ws->ckpt_trouble_ns == 0)
        ws->ckpt_trouble_ns = ws->conf.clock->realtime_ns(ws->conf.clock->ctx);
    pthread_mutex_unlock(&ws->ckpt_lock);
    if (news && r < 0)
        dmt_warn("checkpoint failed: %s", why);
}

int ws_ckpt_now(struct dmt_ws *ws, bool patient, struct dmt_err *err)
{
    struct dmt_pos pos;
    int r = -EAGAIN;
    pthread_mutex_lock(&ws->ckpt_run);
    if (!patient || wait_stable(ws)) {
        r = write_layer(ws, &pos, err);
        if (r == -ENOSPC && dmt_store_ballast_drop(ws->st)) {
            dmt_warn("the disk is full: the ballast of the store is given up for a checkpoint");
            if (err)
                *err = (struct dmt_err){0};
            r = write_layer(ws, &pos, err);
        }
    }
    if (r != -EAGAIN)
        note_outcome(ws, r, err);
    if (r > 0) {
        release(ws);
        dmt_store_ballast_keep(ws->st);
        r = 0;
    }
    pthread_mutex_unlock(&ws->ckpt_run);
    return r;
}

void ws_ckpt_nudge(struct dmt_ws *ws)
{
    pthread_mutex_lock(&ws->ckpt_lock);
    ws->ckpt_nudged = true;
    pthread_cond_signal(&ws->ckpt_cond);
    pthread_mutex_unlock(&ws->ckpt_lock);
}

int dmt_ws_checkpoint(struct dmt_ws *ws, struct dmt_err *err)
{
    pthread_mutex_lock(&ws->ckpt_lock);
    uint64_t want = ++ws->ckpt_wanted;
    pthread_cond_signal(&ws->ckpt_cond);
    while (ws->ckpt_done < want && !ws->ckpt_stop)
        pthread_cond_wait(&ws->ckpt_done_cond, &ws->ckpt_lock);
    int r = ws->ckpt_done < want ? -ESHUTDOWN : ws->ckpt_errmsg.code;
    if (r < 0 && err)
        *err = ws->ckpt_errmsg;
    pthread_mutex_unlock(&ws->ckpt_lock);
    return r;
}

/* --- the thread ------------------------------------------------------------------------------- */

struct due {
    bool full, idle, bulk; /* idle: time for one that is in no hurry */
};

static struct due what_is_due(struct dmt_ws *ws)
{
    struct dmt_store_load load;
    struct due d = {0};
    ws_lock(ws);
    uint64_t now = ws_mono(ws);
    if (!ws->failed) {
        dmt_store_load(ws->st, &load);
        bool again = ws->ckpt_err < 0;
        d.full = ws_layer_full(ws, 1);
        bool behind = ws->applied.seq != ws->checkpointed || load.dirty_rows > 0;
        if (!behind || !ws->behind_since_ns)
            ws->behind_since_ns = behind ? now : 0;
        bool worth = ws_layer_worth(ws) && now >= ws->worth_after_ns;
        d.idle = behind && (again || worth || now - ws->last_change_ns >= WS_IDLE_NS ||
                            ws->applied.seq - ws->checkpointed >= WS_REPLAY_RECORDS ||
                            now - ws->behind_since_ns >= (ws->room_short ? WS_ROOM_NS : WS_AGE_NS));
        if (d.idle) {
            ws->behind_since_ns = now;
            ws->room_short = false;
        }
        d.bulk = ws->role == WS_HOLDER && ws->bulk_ok && ws->bulk_since_ns &&
                 now - ws->bulk_since_ns >= WS_BULK_NS;
    }
    ws_unlock(ws);
    return d;
}

static void sync_bulk(struct dmt_ws *ws)
{
    uint64_t seq;
    ws_lock(ws);
    ws->bulk_since_ns = 0; /* a write from here on starts the five seconds anew */
    ws_unlock(ws);
    int r = ws_bulk_sync(ws, 0, false, &seq);
    if (r < 0)
        dmt_warn("bulk data cannot be made durable: %s", dmt_strerror(r));
    else
        dmt_journal_kick(ws->j, seq);
}

/* One round. Returns how long to rest before the next. */
static uint64_t round_of(struct dmt_ws *ws, bool asked, struct dmt_err *err)
{
    struct due d = what_is_due(ws);
    if (d.bulk)
        sync_bulk(ws);
    *err = (struct dmt_err){0};
    if (!asked && !d.full && !d.idle)
        return TICK_NS;
    bool hurry = asked || d.full;
    int r = ws_ckpt_now(ws, !hurry, err);
    if (r == -EAGAIN) {
        /* The peer lags: to wait again at each look would only make the journal sync. */
        ws_lock(ws);
        ws->worth_after_ns = ws_mono(ws) + RETRY_NS;
        ws_unlock(ws);
    }
    if (r == 0 || r == -EAGAIN)
        return TICK_NS;
    if (err->code == 0)
        dmt_err_set(err, r, "checkpoint: %s", dmt_strerror(r));
    return RETRY_NS;
}

static void *ckpt_main(void *arg)
{
    struct dmt_ws *ws = arg;
    struct dmt_err err;
    uint64_t rest = TICK_NS;
    pthread_mutex_lock(&ws->ckpt_lock);
    while (!ws->ckpt_stop) {
        if (ws->ckpt_wanted == ws->ckpt_done && !(ws->ckpt_nudged && rest == TICK_NS))
            wait_on(&ws->ckpt_cond, &ws->ckpt_lock, rest);
        ws->ckpt_nudged = false;
        if (ws->ckpt_stop)
            break;
        uint64_t want = ws->ckpt_wanted;
        bool asked = want > ws->ckpt_done;
        pthread_mutex_unlock(&ws->ckpt_lock);
        rest = round_of(ws, asked, &err);
        pthread_mutex_lock(&ws->ckpt_lock);
        if (asked) {
            ws->ckpt_done = want;
            ws->ckpt_errmsg = err;
            pthread_cond_broadcast(&ws->ckpt_done_cond);
        }
    }
    pthread_mutex_unlock(&ws->ckpt_lock);
    return NULL;
}

int ws_ckpt_start(struct dmt_ws *ws)
{
    int r = dmt_thread_start(&ws->ckpt, "ckpt", ckpt_main, ws);
    ws->ckpt_running = r == 0;
    return r;
}

void ws_ckpt_stop(struct dmt_ws *ws)
{
    if (!ws->ckpt_running)
        return;
    pthread_mutex_lock(&ws->ckpt_lock);
    ws->ckpt_stop = true;
    pthread_cond_broadcast(&ws->ckpt_cond);
    pthread_cond_broadcast(&ws->ckpt_done_cond);
    pthread_mutex_unlock(&ws->ckpt_lock);
    pthread_join(ws->ckpt, NULL);
    ws->ckpt_running = false;
}
