/* resync.c: the state stream: everything of a workspace at one position, from the holder into the
 * standby's empty store.
 *
 * Out: a thread of its own runs dmt_ws_export; what it emits goes into a bounded queue, from which
 * the loop takes STATE frames whenever the other lanes have nothing to send; at the end STATE_END
 * states length and position. In: frames are collected and handed to dmt_store_import_feed by one
 * pool job at a time; while too much waits the socket is not read, so the holder's queue fills and
 * its export waits: the slowest disk sets the pace and memory stays bounded. dmt_store_import_*
 * marks the directory before its first change, so a stop in the midst leaves a store that says so;
 * it begins again from the start on the next connection.
 *
 * Failure modes: the export fails: the connection is closed with the reason. The import fails (disk
 * full, bad stream): ops.resync_imported with the error; L4 decides. The connection ends: export
 * and import are abandoned; `resync_ready` stays, so the next ORDER begins anew.
 * Threads: loop; "export" shares only the block under resync.lock; import jobs touch the import,
 * never two at a time.
 */
#include "fs/replica/int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"

void replica_resync_init(struct dmt_replica *r)
{
    pthread_mutex_init(&r->resync.lock, NULL);
    pthread_cond_init(&r->resync.room, NULL);
}

void replica_resync_free(struct dmt_replica *r)
{
    struct replica_resync *x = &r->resync;
    DMT_ASSERT(!x->joinable && !x->import);
    dmt_buf_free(&x->queue);
    dmt_buf_free(&x->fed);
    free(x->dir);
    pthread_mutex_destroy(&x->lock);
    pthread_cond_destroy(&x->room);
}

/* --- out -------------------------------------------------------------------------------------- */

static int emit(void *ctx, const void *p, size_t len)
{
    struct dmt_replica *r = ctx;
    struct replica_resync *x = &r->resync;
    pthread_mutex_lock(&x->lock);
    while (!x->abort && x->queue.len - x->queue_at > STATE_QUEUE_MAX)
        pthread_cond_wait(&x->room, &x->lock);
    int rc = x->abort ? -ECANCELED : 0;
    if (rc == 0) {
        dmt_put_raw(&x->queue, p, len);
        rc = x->queue.bad ? -ENOMEM : 0;
    }
    bool wake = x->queue.len - x->queue_at >= REPLICA_STATE_MAX;
    pthread_mutex_unlock(&x->lock);
    if (wake)
        uv_async_send(&r->poke);
    return rc;
}

static void *export_main(void *arg)
{
    struct dmt_replica *r = arg;
    struct replica_resync *x = &r->resync;
    struct dmt_err err = {0};
    struct dmt_pos pos = {0};
    pthread_mutex_lock(&r->lock);
    struct dmt_ws *ws = r->shared_ws;
    pthread_mutex_unlock(&r->lock);
    int rc = ws ? dmt_ws_export(ws, &pos, emit, r, &err) : -ECANCELED;
    pthread_mutex_lock(&x->lock);
    x->finished = true;
    x->err = rc;
    x->pos = pos;
    (void)snprintf(x->why, sizeof(x->why), "%.190s", err.msg[0] ? err.msg : dmt_strerror(rc));
    pthread_mutex_unlock(&x->lock);
    pthread_mutex_lock(&r->lock);
    r->ws_jobs--;
    pthread_cond_broadcast(&r->idle);
    pthread_mutex_unlock(&r->lock);
    uv_async_send(&r->poke);
    return NULL;
}

void replica_export_start(struct dmt_replica *r, uint64_t epoch)
{
    struct replica_resync *x = &r->resync;
    DMT_ASSERT(!x->exporting);
    pthread_mutex_lock(&x->lock);
    bool busy = x->joinable && !x->finished;
    pthread_mutex_unlock(&x->lock);
    if (busy) {
        replica_conn_close(r->conn, DMT_E_RETRY, "the last attempt is still being cleaned up");
        return;
    }
    if (x->joinable)
        pthread_join(x->thread, NULL);
    x->joinable = false;
    dmt_buf_reset(&x->queue);
    x->queue_at = 0;
    x->finished = x->abort = x->end_sent = false;
    x->err = 0;
    x->sent_off = 0;
    x->epoch = epoch;
    /* The stream shows a checkpoint not older than the last one: from there on records are
     * needed. */
    struct dmt_ws_status st;
    dmt_ws_status(r->ws, &st);
    x->floor = st.checkpointed;
    x->floor_ms = replica_now_ms(r);
    replica_job_start(r, true);
    int rc = dmt_thread_start(&x->thread, "export", export_main, r);
    if (rc < 0) {
        replica_job_end(r, true);
        replica_conn_close(r->conn, rc, "cannot start a thread for the state stream");
        return;
    }
    x->exporting = x->joinable = true;
    replica_event(r, "resync", "sending the whole workspace to %s", r->core.peer.node);
}

void replica_export_stop(struct dmt_replica *r)
{
    struct replica_resync *x = &r->resync;
    if (!x->exporting)
        return;
    pthread_mutex_lock(&x->lock);
    x->abort = true;
    pthread_cond_broadcast(&x->room);
    pthread_mutex_unlock(&x->lock);
    x->exporting = false; /* the thread is joined before the next one, or at the end */
}

static void export_ended(struct dmt_replica *r, struct dmt_buf *out, int err)
{
    struct replica_resync *x = &r->resync;
    struct replica_msg m = {.type = REPLICA_STATE_END};
    m.STATE_END.epoch = x->epoch;
    m.STATE_END.length = x->sent_off;
    m.STATE_END.at = x->pos;
    if (err == 0)
        replica_encode(&m, out);
    x->exporting = false;
    struct replica_event ev = {.type = REPLICA_EV_EXPORTED, .err = err, .text = x->why};
    replica_do(r, &ev);
}

bool replica_export_fill(struct dmt_replica *r, struct dmt_buf *out)
{
    struct replica_resync *x = &r->resync;
    if (!x->exporting || !replica_serve_tokens(r, 0))
        return false;
    struct replica_msg m = {.type = REPLICA_STATE};
    struct dmt_buf *packed = &r->sender.packed;
    dmt_buf_reset(packed);
    pthread_mutex_lock(&x->lock);
    size_t n = x->queue.len - x->queue_at;
    bool finished = x->finished;
    int rc = x->err;
    if (n > REPLICA_STATE_MAX)
        n = REPLICA_STATE_MAX;
    else if (!finished && n < REPLICA_STATE_MAX)
        n = 0; /* small pieces are collected */
    if (n > 0 && rc == 0) {
        rc = replica_pack(x->queue.p + x->queue_at, n, packed);
        x->queue_at += n;
        if (x->queue_at == x->queue.len || x->queue_at > STATE_QUEUE_MAX) {
            memmove(x->queue.p, x->queue.p + x->queue_at, x->queue.len - x->queue_at);
            x->queue.len -= x->queue_at;
            x->queue_at = 0;
        }
        pthread_cond_signal(&x->room);
    }
    pthread_mutex_unlock(&x->lock);
    x->floor_ms = replica_now_ms(r);
    if (rc < 0 || (n == 0 && finished)) {
        export_ended(r, out, rc);
        return rc == 0;
    }
    if (n == 0)
        return false;
    m.STATE.epoch = x->epoch;
    m.STATE.off = x->sent_off;
    m.STATE.raw_len = (uint32_t)n;
    m.STATE.data = (struct replica_span){packed->p, (uint32_t)packed->len};
    replica_encode(&m, out);
    (void)replica_serve_tokens(r, packed->len);
    x->sent_off += n;
    r->state_bytes += n;
    return true;
}

/* --- in --------------------------------------------------------------------------------------- */

struct feed_job {
    uv_work_t work;
    struct dmt_replica *r;
    struct dmt_import *import; /* NULL: begin one first */
    struct dmt_store_conf conf;
    struct dmt_store_ident ident;
    struct dmt_buf data;
    bool finish, abort;
    struct dmt_pos pos;
    int rc;
    struct dmt_err err;
};

static void feed_next(struct dmt_replica *r);

void replica_import_prepare(struct dmt_replica *r, const struct dmt_store_conf *conf,
                            const struct dmt_store_ident *ident)
{
    struct replica_resync *x = &r->resync;
    free(x->dir);
    x->dir = strdup(conf->dir);
    DMT_ASSERT(x->dir);
    x->conf = *conf;
    x->conf.dir = x->dir;
    x->ident = *ident;
}

void replica_import_start(struct dmt_replica *r)
{
    struct replica_resync *x = &r->resync;
    if (x->feeding || x->import) {
        /* The import of the connection before is still being abandoned: the holder sends again on
         * the next one. */
        replica_conn_close(r->conn, DMT_E_RETRY, "the last attempt is still being cleaned up");
        return;
    }
    x->importing = true;
    x->ending = false;
    x->got_off = 0;
    dmt_buf_reset(&x->fed);
    memcpy(x->ident.lineage, r->core.peer.lineage, 16);
    replica_event(r, "resync", "taking the whole workspace from %s", r->core.peer.node);
    struct replica_msg m = {.type = REPLICA_GO};
    m.GO.epoch = r->core.peer.epoch;
    replica_post_send(r, &m);
}

static void feed_work(uv_work_t *w)
{
    struct feed_job *job = w->data;
    if (job->abort) {
        dmt_store_import_abort(job->import);
        job->import = NULL;
        return;
    }
    if (!job->import)
        job->rc = dmt_store_import_begin(&job->import, &job->conf, &job->ident, &job->err);
    if (job->rc == 0 && job->data.len > 0)
        job->rc = dmt_store_import_feed(job->import, job->data.p, job->data.len, &job->err);
    if (job->rc == 0 && job->finish) {
        job->rc = dmt_store_import_finish(job->import, &job->pos, &job->err);
        job->import = NULL;
    } else if (job->rc < 0 && job->import) {
        dmt_store_import_abort(job->import);
        job->import = NULL;
    }
}

static void import_over(struct dmt_replica *r, int rc, const struct dmt_pos *pos, const char *why)
{
    struct replica_resync *x = &r->resync;
    x->importing = false;
    if (rc == 0 && (pos->seq != x->end_pos.seq || pos->chain != x->end_pos.chain))
        rc = DMT_E_HISTORY;
    replica_do(r, &(struct replica_event){.type = REPLICA_EV_IMPORTED, .err = rc});
    if (rc == 0)
        replica_event(r, "resync", "the workspace is here, at %llu", (unsigned long long)pos->seq);
    else
        replica_event(r, "error", "the resynchronisation failed: %s", why);
    r->conf.ops->resync_imported(r->conf.ctx, rc, pos, x->ident.lineage, rc == 0 ? "" : why);
}

static void feed_done(uv_work_t *w, int status)
{
    struct feed_job *job = w->data;
    struct dmt_replica *r = job->r;
    struct replica_resync *x = &r->resync;
    (void)status;
    x->feeding = false;
    x->import = job->import;
    bool over = x->importing && !job->abort && (job->rc < 0 || job->finish);
    int rc = job->rc;
    struct dmt_pos pos = job->pos;
    char why[192];
    (void)snprintf(why, sizeof(why), "%.190s", job->err.msg[0] ? job->err.msg : dmt_strerror(rc));
    dmt_buf_free(&job->data);
    free(job);
    replica_job_end(r, false);
    if (over)
        import_over(r, rc, &pos, why);
    else
        feed_next(r);
}

/* Starts a job for what has arrived, for the end, or for abandoning the import. */
static void feed_next(struct dmt_replica *r)
{
    struct replica_resync *x = &r->resync;
    bool abort = !x->importing && x->import;
    if (x->feeding || (!abort && (!x->importing || (x->fed.len == 0 && !x->ending))))
        return;
    struct feed_job *job = calloc(1, sizeof(*job));
    DMT_ASSERT(job);
    job->work.data = job;
    job->r = r;
    job->import = x->import;
    job->conf = x->conf;
    job->ident = x->ident;
    job->abort = abort;
    job->data = x->fed;
    job->finish = x->ending;
    dmt_buf_init(&x->fed);
    x->import = NULL; /* the job has it */
    x->feeding = true;
    replica_job_start(r, false);
    DMT_ASSERT(uv_queue_work(r->uv, &job->work, feed_work, feed_done) == 0);
    if (r->conn && x->importing)
        replica_conn_pause(r->conn, false);
}

void replica_import_data(struct dmt_replica *r, const struct replica_msg_STATE *m)
{
    struct replica_resync *x = &r->resync;
    uint8_t *dst = NULL;
    int rc =
        m->off != x->got_off || m->raw_len > REPLICA_STATE_MAX || x->ending ? DMT_E_CORRUPT : 0;
    if (rc == 0)
        dst = dmt_buf_reserve(&x->fed, m->raw_len);
    if (rc == 0)
        rc = dst ? replica_unpack(r->receiver.unpack, m->data, dst, m->raw_len) : -ENOMEM;
    if (rc < 0) {
        r->refused++;
        replica_conn_close(r->conn, rc, "the state stream is damaged");
        return;
    }
    x->got_off += m->raw_len;
    r->state_bytes += m->raw_len;
    feed_next(r);
    if (r->conn && x->fed.len > STATE_QUEUE_MAX)
        replica_conn_pause(r->conn, true);
}

void replica_import_end(struct dmt_replica *r, const struct replica_msg_STATE_END *m)
{
    struct replica_resync *x = &r->resync;
    if (m->length != x->got_off || x->ending) {
        replica_conn_close(r->conn, DMT_E_CORRUPT, "the state stream is damaged");
        return;
    }
    x->ending = true;
    x->end_pos = m->at;
    feed_next(r);
}

void replica_import_stop(struct dmt_replica *r)
{
    struct replica_resync *x = &r->resync;
    /* Once everything has arrived it does not matter that the connection is gone. */
    if (!x->importing || (x->ending && !r->stopping))
        return;
    x->importing = false;
    dmt_buf_reset(&x->fed);
    feed_next(r);
}
