/* ack.c: when a reply may go. Parked acks, and the sync flow (D5).
 *
 * Owns the list of parked acks, under a lock of its own, so that the committer never waits for a
 * handler. Happy path of a sync: a pool thread makes the file's by-reference data durable and logs
 * MARK; the journal is kicked; the ack parks with the MARK's sequence number; when the committer
 * reports that position durable and the gate says 0 (peer, lease), fn(0) runs on the thread that
 * noticed. Nothing to make durable but the journal: no pool thread, no MARK. A plain call only asks
 * the gate; with sync=write it waits like a sync (such a workspace writes everything inline, so the
 * journal is all there is). The gate hears of a sync before the journal is kicked, so that the peer
 * works meanwhile.
 * Each parked ack is answered exactly once: removing it from the list under the lock gives the
 * right to call fn, without the lock.
 * Failure: journal gone, demotion, failed workspace: everything parked gets -EIO. A failed
 * fdatasync of bulk data fails that sync only; its ranges stay missing.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/workspace/ws.h"

/* 0 = answer now with *err, 1 = wait. Ack lock held. */
static int decide(struct dmt_ws *ws, const struct ws_ack *a, int *err)
{
    int r = 0;
    *err = 0;
    if (a->sync) {
        if (dmt_journal_durable(ws->j) < a->seq)
            r = 1;
        else
            r = ws->gate.sync(ws->gate.ctx, a->seq, a->ino, a->ref_seq);
    } else {
        r = ws->gate.plain(ws->gate.ctx);
    }
    if (r < 0)
        *err = dmt_err_errno(r);
    return r > 0;
}

static void answer(struct dmt_list *done)
{
    DMT_LIST_EACH(it, tmp, done)
    {
        struct ws_ack *a = DMT_CONTAINER(it, struct ws_ack, link);
        a->fn(a->arg, a->err);
        free(a);
    }
}

void ws_acks_evaluate(struct dmt_ws *ws)
{
    struct dmt_list done;
    dmt_list_init(&done);
    pthread_mutex_lock(&ws->ack_lock);
    DMT_LIST_EACH(it, tmp, &ws->acks)
    {
        struct ws_ack *a = DMT_CONTAINER(it, struct ws_ack, link);
        if (decide(ws, a, &a->err))
            continue;
        dmt_list_del(&a->link);
        dmt_list_add_tail(&done, &a->link);
        ws->parked--;
    }
    pthread_mutex_unlock(&ws->ack_lock);
    answer(&done);
}

void ws_acks_fail(struct dmt_ws *ws, int err)
{
    struct dmt_list done;
    dmt_list_init(&done);
    pthread_mutex_lock(&ws->ack_lock);
    DMT_LIST_EACH(it, tmp, &ws->acks)
    {
        struct ws_ack *a = DMT_CONTAINER(it, struct ws_ack, link);
        dmt_list_del(&a->link);
        dmt_list_add_tail(&done, &a->link);
        a->err = err;
    }
    ws->parked = 0;
    pthread_mutex_unlock(&ws->ack_lock);
    answer(&done);
}

void dmt_ws_poke(struct dmt_ws *ws)
{
    ws_acks_evaluate(ws);
}

void ws_on_durable(void *ctx, uint64_t durable_seq, int err)
{
    struct dmt_ws *ws = ctx;
    (void)durable_seq;
    if (err < 0) {
        ws_lock(ws);
        ws_fail(ws, "journal: %s", dmt_strerror(err));
        ws_unlock(ws);
        return;
    }
    ws_acks_evaluate(ws);
}

/* 1 = may go now, 0 = parked, < 0 = fails with that. */
static int park(struct dmt_ws *ws, const struct ws_ack *want)
{
    int err = 0, r = 1;
    struct ws_ack *a = NULL;
    pthread_mutex_lock(&ws->ack_lock);
    if (decide(ws, want, &err)) {
        a = malloc(sizeof(*a));
        if (a) {
            *a = *want;
            a->since_ns = ws_mono(ws);
            dmt_list_add_tail(&ws->acks, &a->link);
            ws->parked++;
            r = 0;
        } else {
            err = -ENOMEM;
        }
    }
    pthread_mutex_unlock(&ws->ack_lock);
    return err < 0 ? err : r;
}

/* Whether waiting makes sense at all. */
static bool dead(struct dmt_ws *ws)
{
    ws_lock(ws);
    bool r = ws->failed || ws->role == WS_DEMOTED;
    ws_unlock(ws);
    return r;
}

/* A failure between looking and parking would leave the ack behind for ever: look again. */
static int park_safely(struct dmt_ws *ws, const struct ws_ack *want)
{
    if (dead(ws))
        return -EIO;
    int r = park(ws, want);
    if (r == 0 && dead(ws))
        ws_acks_fail(ws, -EIO);
    return r;
}

int dmt_ws_ack(struct dmt_ws *ws, uint64_t seq, dmt_ack_fn fn, void *arg)
{
    struct ws_ack a = {.seq = seq, .fn = fn, .arg = arg};
    if (seq == 0)
        return 1;
    if (ws->conf.level == DMT_SYNC_WRITE) {
        a.sync = true;
        ws->gate.wanted(ws->gate.ctx, seq);
        dmt_journal_kick(ws->j, seq);
        return park_safely(ws, &a);
    }
    int r = ws->gate.plain(ws->gate.ctx);
    if (r <= 0)
        return r < 0 ? dmt_err_errno(r) : 1;
    return park_safely(ws, &a);
}

/* --- sync ------------------------------------------------------------------------------------- */

static int add_ino(void *ctx, uint64_t ino)
{
    dmt_put_u64(ctx, ino);
    return 0;
}

static int is_one(void *ctx, uint64_t ino)
{
    (void)ctx, (void)ino;
    return 1;
}

/* Inodes with missing ranges, also those that only a snapshot shows any more: it must be complete
 * after a crash too; and those with an older content to fall back to, which a sync puts behind
 * them. Lock held. */
static int unmarked(struct dmt_ws *ws, uint64_t ino, struct dmt_buf *ret)
{
    struct dmt_missing m;
    uint64_t at = ino;
    int r;
    while ((r = dmt_store_missing_next(ws->st, at, 0, &m)) == 1 && (ino == 0 || m.ino == ino)) {
        dmt_put_u64(ret, m.ino);
        at = m.ino + 1;
        if (ino)
            break;
    }
    if (r >= 0 && ws->bulk_ok)
        r = dmt_store_kept_each(ws->st, ino, add_ino, ret);
    return r < 0 ? r : ret->bad ? -ENOMEM : 0;
}

static bool is_unmarked(struct dmt_ws *ws, uint64_t ino)
{
    struct dmt_missing m;
    return (dmt_store_missing_next(ws->st, ino, 0, &m) == 1 && (ino == 0 || m.ino == ino)) ||
           (ws->bulk_ok && dmt_store_kept_each(ws->st, ino, is_one, NULL) != 0);
}

static int log_mark(struct dmt_ws *ws, uint64_t ino, uint64_t upto, uint64_t *ret_seq)
{
    struct dmt_op op = {0};
    struct dmt_body b = {.type = DMT_REC_MARK, .MARK = {.ino = ino, .upto = upto}};
    ws_lock(ws);
    int r = ws->role != WS_HOLDER || ws->failed ? -EIO : ws_log(ws, &op, &b, 0);
    ws_unlock(ws);
    *ret_seq = r == 0 ? op.seq : *ret_seq;
    return r;
}

int ws_bulk_sync(struct dmt_ws *ws, uint64_t ino, bool after_crash, uint64_t *ret_seq)
{
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    struct dmt_buf inos;
    dmt_buf_init(&inos);
    ws_lock(ws);
    uint64_t upto = *ret_seq = ws->applied.seq;
    bool mine = ws->bulk_ok;
    int r = unmarked(ws, ino, &inos);
    for (size_t i = 0; r == 0 && i < inos.len; i += 8)
        ws_run_under_sync(ws, dmt_le64(inos.p + i));
    ws_unlock(ws);
    if (r == 0 && inos.len > 0 && !mine)
        r = -EIO; /* ranges of an earlier holder: settle decides about them first */
    for (size_t i = 0; r == 0 && i < inos.len; i += 8) {
        uint64_t one = dmt_le64(inos.p + i);
        r = dmt_store_ref_sync(ws->st, &lk, one);
        if (r == -ENOENT && after_crash)
            r = 0; /* a file that never came: its ranges were given up before */
        r = r < 0 ? dmt_err_errno(r) : log_mark(ws, one, upto, ret_seq);
    }
    dmt_buf_free(&inos);
    return r;
}

struct sync_job {
    struct dmt_ws *ws;
    struct ws_ack ack;
};

void dmt_ws_sync_ahead(struct dmt_ws *ws, uint64_t seq, bool here)
{
    ws->gate.wanted(ws->gate.ctx, seq);
    if (here)
        dmt_journal_sync(ws->j, seq);
    else
        dmt_journal_kick(ws->j, seq);
}

/* Journal part: both disks at the same time, then answer or park. */
static void sync_journal(struct dmt_ws *ws, const struct ws_ack *a)
{
    dmt_ws_sync_ahead(ws, a->seq, false);
    int r = park_safely(ws, a);
    if (r != 0)
        a->fn(a->arg, r < 0 ? r : 0);
}

static void sync_job(void *arg)
{
    struct sync_job *job = arg;
    int r = ws_bulk_sync(job->ws, job->ack.ino, false, &job->ack.seq);
    if (r < 0)
        job->ack.fn(job->ack.arg, r);
    else
        sync_journal(job->ws, &job->ack);
    free(job);
}

void dmt_ws_sync(struct dmt_ws *ws, uint64_t ino, dmt_ack_fn fn, void *arg)
{
    struct ws_ack a = {.sync = true, .ino = ino, .fn = fn, .arg = arg};
    struct dmt_inode n;
    bool bulk = false;
    ws_lock(ws);
    a.seq = ws->applied.seq;
    bool names_only = ino >> 63 || (ino && dmt_store_inode_get(ws->st, DMT_LIVE, ino, &n) == 0 &&
                                    !S_ISREG(n.mode));
    if (!names_only) {
        a.ref_seq = ws_ref_seq(ws, ino);
        bulk = ws->role == WS_HOLDER && is_unmarked(ws, ino);
        ws_runs_synced(ws, ino);
    }
    ws_unlock(ws);
    if (!bulk) {
        sync_journal(ws, &a);
        return;
    }
    struct sync_job *job = malloc(sizeof(*job));
    if (!job) {
        fn(arg, -ENOMEM);
        return;
    }
    *job = (struct sync_job){ws, a};
    if (!ws->conf.pool || dmt_pool_submit(ws->conf.pool, sync_job, job) < 0)
        sync_job(job); /* no pool, or it is full: this thread pays */
}

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    int err;
};

static void wake(void *arg, int err)
{
    struct waiter *w = arg;
    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->err = err;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

int dmt_ws_sync_wait(struct dmt_ws *ws, uint64_t ino)
{
    struct waiter w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0};
    dmt_ws_sync(ws, ino, wake, &w);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    return w.err;
}
