/* resync.c: what a standby lacks to show one position of the holder, from the holder into the
 * standby's store: everything, for a new one; what was born since the last common position, for one
 * that was away too long or wrote in a history of its own.
 *
 * The standby, when ordered: a pool job opens its store's new database (dmt_patch_open) and says
 * what is there; GO tells the length of that list, LIST frames carry it. Out: with the list
 * complete a thread of its own runs dmt_ws_export_diff; what it emits goes into a bounded queue,
 * from which the loop takes STATE frames whenever the other lanes have nothing to send; at the end
 * STATE_END states length and position. In: frames are collected and handed to dmt_patch_feed by
 * one pool job at a time; while too much waits the socket is not read, so the holder's queue fills
 * and its export waits: the slowest disk sets the pace and memory stays bounded. What came is
 * committed every two seconds and when the connection ends; the next attempt's list says so. The
 * old state of the standby stays until L4, told of the end, puts the new one in its place.
 *
 * Failure modes: the export fails: the connection is closed with the reason. The patch fails (disk
 * full, bad stream): ops.resync_imported with the error; L4 decides. The result is not what the
 * holder has (DMT_E_HISTORY): it begins again, from nothing. The connection ends: `resync_ready`
 * stays, so the next ORDER goes on.
 * Threads: loop; "export" shares only the block under resync.lock, and has the list while it runs;
 * patch jobs touch the patch, never two at a time.
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
    DMT_ASSERT(!x->joinable && !x->patch);
    dmt_buf_free(&x->queue);
    dmt_buf_free(&x->list);
    dmt_buf_free(&x->said);
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

static void sized(void *ctx, const struct dmt_diff_size *size)
{
    struct dmt_replica *r = ctx;
    struct replica_resync *x = &r->resync;
    pthread_mutex_lock(&x->lock);
    x->size = *size;
    x->sized = true;
    pthread_mutex_unlock(&x->lock);
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
    int rc = ws ? dmt_ws_export_diff(ws, x->list.p, x->list.len, &pos, sized, emit, r, &err)
                : -ECANCELED;
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

void replica_export_await(struct dmt_replica *r, uint64_t epoch)
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
    x->epoch = epoch;
    x->listing = true;
    dmt_buf_reset(&x->list);
    if (x->list_len == 0 || x->list_len > REPLICA_LIST_MAX)
        replica_conn_close(r->conn, -EPROTO, "the list of what the standby has is too long");
}

static void export_start(struct dmt_replica *r)
{
    struct replica_resync *x = &r->resync;
    dmt_buf_reset(&x->queue);
    x->queue_at = 0;
    x->finished = x->abort = x->end_sent = x->sized = false;
    x->err = 0;
    x->sent_off = x->sent_wire = x->total = 0;
    x->start_ms = replica_now_ms(r);
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
}

/* Unpacks a frame's bytes behind what is in buf. */
static int append_payload(struct dmt_replica *r, struct dmt_buf *buf, struct replica_span data,
                          uint32_t raw_len)
{
    uint8_t *dst = raw_len <= REPLICA_STATE_MAX ? dmt_buf_reserve(buf, raw_len) : NULL;
    if (!dst)
        return raw_len <= REPLICA_STATE_MAX ? -ENOMEM : DMT_E_CORRUPT;
    return replica_unpack(r->receiver.unpack, data, dst, raw_len);
}

void replica_export_list(struct dmt_replica *r, const struct replica_msg_LIST *m)
{
    struct replica_resync *x = &r->resync;
    int rc = !x->listing || m->off != x->list.len || m->raw_len == 0 ||
                     x->list.len + m->raw_len > x->list_len
                 ? DMT_E_CORRUPT
                 : append_payload(r, &x->list, m->data, m->raw_len);
    if (rc < 0) {
        r->refused++;
        replica_conn_close(r->conn, rc, "the list of what the standby has is damaged");
        return;
    }
    if (x->list.len < x->list_len)
        return;
    x->listing = false;
    export_start(r);
}

void replica_export_stop(struct dmt_replica *r)
{
    struct replica_resync *x = &r->resync;
    x->listing = false;
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
    if (err == 0) {
        replica_encode(&m, out);
        uint64_t there = x->size.live_bytes > x->size.data ? x->size.live_bytes - x->size.data : 0;
        replica_event(
            r, "resync",
            "sent %llu bytes (%llu packed) in %llu s; %llu bytes of the workspace were there",
            (unsigned long long)x->sent_off, (unsigned long long)x->sent_wire,
            (unsigned long long)(replica_now_ms(r) - x->start_ms) / 1000,
            (unsigned long long)there);
    }
    if (err == 0)
        replica_audit_begin(r, x->pos.seq);
    x->exporting = false;
    struct replica_event ev = {.type = REPLICA_EV_EXPORTED, .err = err, .text = x->why};
    replica_do(r, &ev);
}

/* The export knows how much it will be. */
static void export_sized(struct dmt_replica *r)
{
    struct replica_resync *x = &r->resync;
    const struct dmt_diff_size *size = &x->size;
    x->total = size->bytes;
    replica_event(r, "resync",
                  "sending %llu bytes to the standby, of a workspace of %llu: %llu files and "
                  "directories differ",
                  (unsigned long long)size->bytes, (unsigned long long)size->live_bytes,
                  (unsigned long long)size->inodes);
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
    bool is_sized = x->sized;
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
    if (is_sized && x->total == 0)
        export_sized(r);
    if (rc < 0 || (n == 0 && finished)) {
        export_ended(r, out, rc);
        return rc == 0;
    }
    if (n == 0)
        return false;
    m.STATE.epoch = x->epoch;
    m.STATE.off = x->sent_off;
    m.STATE.total = x->total;
    m.STATE.raw_len = (uint32_t)n;
    m.STATE.data = (struct replica_span){packed->p, (uint32_t)packed->len};
    replica_encode(&m, out);
    (void)replica_serve_tokens(r, packed->len);
    x->sent_off += n;
    x->sent_wire += packed->len;
    r->state_bytes += n;
    return true;
}

/* --- in --------------------------------------------------------------------------------------- */

struct feed_job {
    uv_work_t work;
    struct dmt_replica *r;
    struct dmt_patch *patch;
    struct dmt_store_conf conf;
    struct dmt_store_ident ident;
    uint64_t common;
    struct dmt_buf data; /* in: what arrived; out, after opening: the list */
    bool open, finish, close;
    struct dmt_pos pos;
    int rc;
    struct dmt_err err;
};

static void feed_next(struct dmt_replica *r);

void replica_import_prepare(struct dmt_replica *r, const struct dmt_store_conf *conf,
                            const struct dmt_store_ident *ident)
{
    struct replica_resync *x = &r->resync;
    if (!x->dir)
        x->dir = strdup(conf->dir); /* a process has one store: a job may be reading the path */
    DMT_ASSERT(x->dir && strcmp(x->dir, conf->dir) == 0);
    x->conf = *conf;
    x->conf.dir = x->dir;
    x->ident = *ident;
    x->distrusted = 0;
}

void replica_import_start(struct dmt_replica *r)
{
    struct replica_resync *x = &r->resync;
    if (x->feeding || x->patch) {
        /* What the connection before brought is still being put away: the holder sends again on the
         * next one. */
        replica_conn_close(r->conn, DMT_E_RETRY, "the last attempt is still being cleaned up");
        return;
    }
    x->importing = true;
    x->opened = x->ending = false;
    x->got_off = x->total = 0;
    x->start_ms = replica_now_ms(r);
    dmt_buf_reset(&x->fed);
    dmt_buf_reset(&x->said);
    x->said_at = 0;
    memcpy(x->ident.lineage, r->core.peer.lineage.id, 16);
    replica_event(r, "resync", "taking what differs from %s", r->core.peer.node);
    feed_next(r);
}

bool replica_import_fill(struct dmt_replica *r, struct dmt_buf *out)
{
    struct replica_resync *x = &r->resync;
    if (!x->importing || x->said_at == x->said.len)
        return false;
    struct replica_msg m = {.type = REPLICA_LIST};
    struct dmt_buf *packed = &r->sender.packed;
    size_t n =
        x->said.len - x->said_at < REPLICA_STATE_MAX ? x->said.len - x->said_at : REPLICA_STATE_MAX;
    dmt_buf_reset(packed);
    if (replica_pack(x->said.p + x->said_at, n, packed) < 0) {
        replica_conn_close(r->conn, -ENOMEM, "no memory");
        return false;
    }
    m.LIST.epoch = r->core.peer.epoch;
    m.LIST.off = x->said_at;
    m.LIST.raw_len = (uint32_t)n;
    m.LIST.data = (struct replica_span){packed->p, (uint32_t)packed->len};
    replica_encode(&m, out);
    x->said_at += n;
    return true;
}

static void feed_work(uv_work_t *w)
{
    struct feed_job *job = w->data;
    if (job->close) {
        dmt_patch_close(job->patch);
        job->patch = NULL;
        return;
    }
    if (job->open) {
        job->rc = dmt_patch_open(&job->patch, &job->conf, &job->ident, job->common, &job->err);
        if (job->rc == 0)
            job->rc = dmt_patch_statement(job->patch, &job->data, &job->err);
    } else if (job->data.len > 0) {
        job->rc = dmt_patch_feed(job->patch, job->data.p, job->data.len, &job->err);
    }
    if (job->rc == 0 && job->finish) {
        job->rc = dmt_patch_finish(job->patch, &job->pos, &job->err);
        job->patch = NULL;
    } else if (job->rc < 0 && job->patch) {
        dmt_patch_close(job->patch);
        job->patch = NULL;
    }
}

static void import_over(struct dmt_replica *r, int rc, const struct dmt_pos *pos, const char *why)
{
    struct replica_resync *x = &r->resync;
    x->importing = false;
    if (rc == DMT_E_HISTORY && x->distrusted++ < DISTRUSTED_MAX) {
        replica_event(r, "resync", "%s: beginning from nothing", why);
        if (r->conn)
            replica_conn_close(r->conn, DMT_E_RETRY, "the standby begins from nothing");
        return;
    }
    if (rc == 0 && (pos->seq != x->end_pos.seq || pos->chain != x->end_pos.chain))
        rc = DMT_E_HISTORY;
    replica_do(r, &(struct replica_event){.type = REPLICA_EV_IMPORTED, .err = rc});
    if (rc == 0)
        replica_event(r, "resync", "equal with the holder at %llu, by %llu bytes in %llu s",
                      (unsigned long long)pos->seq, (unsigned long long)x->got_off,
                      (unsigned long long)(replica_now_ms(r) - x->start_ms) / 1000);
    else
        replica_event(r, "error", "the resynchronisation failed: %s", why);
    r->conf.ops->resync_imported(r->conf.ctx, rc, pos, x->ident.lineage, rc == 0 ? "" : why);
}

/* The store is open: tell the holder what is in it. */
static void say(struct dmt_replica *r, struct dmt_buf *list)
{
    struct replica_resync *x = &r->resync;
    dmt_buf_free(&x->said);
    x->said = *list;
    dmt_buf_init(list);
    x->opened = true;
    struct replica_msg m = {.type = REPLICA_GO};
    m.GO.epoch = r->core.peer.epoch;
    m.GO.length = x->said.len;
    replica_post_send(r, &m);
}

static void feed_done(uv_work_t *w, int status)
{
    struct feed_job *job = w->data;
    struct dmt_replica *r = job->r;
    struct replica_resync *x = &r->resync;
    (void)status;
    x->feeding = false;
    x->patch = job->patch;
    bool over = x->importing && !job->close && (job->rc < 0 || job->finish);
    if (x->importing && job->open && job->rc == 0)
        say(r, &job->data);
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
    if (r->conn)
        replica_conn_pump(r->conn);
}

/* Starts a job: to open the store, for what has arrived, for the end, or for putting it away. */
static void feed_next(struct dmt_replica *r)
{
    struct replica_resync *x = &r->resync;
    bool put_away = !x->importing && x->patch, open = x->importing && !x->patch && !x->opened;
    if (x->feeding || (!put_away && !open && (!x->importing || (x->fed.len == 0 && !x->ending))))
        return;
    struct feed_job *job = calloc(1, sizeof(*job));
    DMT_ASSERT(job);
    job->work.data = job;
    job->r = r;
    job->patch = x->patch;
    job->conf = x->conf;
    job->ident = x->ident;
    job->common = r->core.common;
    job->close = put_away;
    job->open = open;
    job->data = x->fed;
    job->finish = x->ending;
    dmt_buf_init(&x->fed);
    x->patch = NULL; /* the job has it */
    x->feeding = true;
    replica_job_start(r, false);
    DMT_ASSERT(uv_queue_work(r->uv, &job->work, feed_work, feed_done) == 0);
    if (r->conn && x->importing)
        replica_conn_pause(r->conn, false);
}

void replica_import_data(struct dmt_replica *r, const struct replica_msg_STATE *m)
{
    struct replica_resync *x = &r->resync;
    int rc = m->off != x->got_off || x->ending || !x->opened
                 ? DMT_E_CORRUPT
                 : append_payload(r, &x->fed, m->data, m->raw_len);
    if (rc < 0) {
        r->refused++;
        replica_conn_close(r->conn, rc, "the state stream is damaged");
        return;
    }
    x->got_off += m->raw_len;
    x->total = m->total;
    r->state_bytes += m->raw_len;
    feed_next(r);
    if (r->conn && x->fed.len > STATE_QUEUE_MAX)
        replica_conn_pause(r->conn, true);
}

void replica_import_end(struct dmt_replica *r, const struct replica_msg_STATE_END *m)
{
    struct replica_resync *x = &r->resync;
    if (m->length != x->got_off || x->ending || !x->opened) {
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
