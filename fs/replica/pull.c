/* pull.c: the driver of the bulk lane on the side that lacks bytes: carries out what pull_core.c
 * and pull_want.c decide.
 *
 * Owns nothing but its jobs. Happy path: PULL leaves on the session; BULK is unpacked, compared
 * with its checksum and handed to the core, which has it filled in by a pool job
 * (dmt_ws_missing_fill) and made durable by another (dmt_ws_missing_sync); the list of what is
 * missing is the workspace's (dmt_ws_missing_next). Failure modes: bytes that nobody asked for, or
 * with a wrong checksum: the connection is closed (R5). So it is when this machine is being
 * promoted, and does not know it here yet. A fill or sync that fails is ops.failed.
 * Threads: loop; pool jobs touch only their own structs and the workspace.
 */
#include "fs/replica/int.h"

#include <stdlib.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/base/log.h"

/* --- what the core asks for ------------------------------------------------------------------- */

static bool op_connected(void *ctx)
{
    struct dmt_replica *r = ctx;
    return r->conn != NULL;
}

static int op_missing_next(void *ctx, uint64_t ino, uint64_t off, struct dmt_missing *ret)
{
    struct dmt_replica *r = ctx;
    return dmt_ws_missing_next(r->ws, ino, off, ret);
}

static bool op_covers(void *ctx, uint64_t ino, uint64_t seq)
{
    struct dmt_replica *r = ctx;
    return dmt_ws_keep_covers(r->ws, ino, seq);
}

static void op_pull(void *ctx, const struct dmt_missing *m, bool urgent)
{
    struct dmt_replica *r = ctx;
    struct replica_msg msg = {.type = REPLICA_PULL};
    msg.PULL.epoch = r->core.peer.epoch;
    msg.PULL.ino = m->ino;
    msg.PULL.off = m->off;
    msg.PULL.length = m->len;
    msg.PULL.seq = m->seq;
    msg.PULL.urgent = urgent;
    replica_conn_send(r->conn, &msg);
}

static void op_have(void *ctx, uint64_t ino, uint64_t seq)
{
    struct dmt_replica *r = ctx;
    struct replica_msg m = {.type = REPLICA_HAVE};
    m.HAVE.epoch = r->core.peer.epoch;
    m.HAVE.ino = ino;
    m.HAVE.seq = seq;
    replica_post_send(r, &m);
}

struct plan_job {
    uv_work_t work;
    struct dmt_replica *r;
    struct dmt_ws *ws;
    uint64_t gen;
    struct replica_plan_ino *v;
    size_t n;
};

static int plan_missing_next(void *ctx, uint64_t ino, uint64_t off, struct dmt_missing *ret)
{
    return dmt_ws_missing_next(ctx, ino, off, ret);
}

static void plan_work(uv_work_t *w)
{
    static const struct pull_ops list = {.missing_next = plan_missing_next};
    struct plan_job *job = w->data;
    job->n = pull_plan(&list, job->ws, job->v);
}

static void plan_done(uv_work_t *w, int status)
{
    struct plan_job *job = w->data;
    struct dmt_replica *r = job->r;
    (void)status;
    replica_job_end(r, true);
    pull_planned(&r->pull, job->gen, job->v, job->n, replica_now_ms(r));
    free(job);
}

static void op_plan(void *ctx, uint64_t gen)
{
    struct dmt_replica *r = ctx;
    struct plan_job *job = calloc(1, sizeof(*job));
    DMT_ASSERT(job);
    job->work.data = job;
    job->r = r;
    job->ws = r->ws;
    job->gen = gen;
    job->v = calloc(PLAN_INOS_MAX, sizeof(job->v[0]));
    DMT_ASSERT(job->v);
    replica_job_start(r, true);
    DMT_ASSERT(uv_queue_work(r->uv, &job->work, plan_work, plan_done) == 0);
}

struct sync_job {
    uv_work_t work;
    struct dmt_replica *r;
    struct dmt_ws *ws;
    uint64_t gen, no;
    int rc;
};

static void sync_work(uv_work_t *w)
{
    struct sync_job *job = w->data;
    job->rc = dmt_ws_missing_sync(job->ws);
}

static void sync_done(uv_work_t *w, int status)
{
    struct sync_job *job = w->data;
    struct dmt_replica *r = job->r;
    int rc = job->rc;
    uint64_t gen = job->gen, no = job->no;
    (void)status;
    free(job);
    replica_job_end(r, true);
    if (!pull_synced(&r->pull, gen, no, rc))
        return;
    if (rc < 0) {
        replica_fail(r, "cannot make bulk data durable: %s", dmt_strerror(rc));
        return;
    }
    replica_pull_applied(r);
    if (r->conn)
        replica_receiver_ack(r, false);
}

static void op_sync(void *ctx, uint64_t gen, uint64_t no)
{
    struct dmt_replica *r = ctx;
    struct sync_job *job = calloc(1, sizeof(*job));
    DMT_ASSERT(job);
    job->work.data = job;
    job->r = r;
    job->ws = r->ws;
    job->gen = gen;
    job->no = no;
    replica_job_start(r, true);
    DMT_ASSERT(uv_queue_work(r->uv, &job->work, sync_work, sync_done) == 0);
}

struct fill_job {
    uv_work_t work;
    struct dmt_replica *r;
    struct dmt_ws *ws;
    uint64_t gen;
    struct replica_chunk *list;
    int rc;
};

static void fill_work(uv_work_t *w)
{
    struct fill_job *job = w->data;
    for (struct replica_chunk *c = job->list; c && job->rc >= 0; c = c->next)
        job->rc = dmt_ws_missing_fill(job->ws, &c->m, c->data);
}

static void fill_done(uv_work_t *w, int status)
{
    struct fill_job *job = w->data;
    struct dmt_replica *r = job->r;
    int rc = job->rc;
    (void)status;
    replica_job_end(r, true);
    bool current = pull_filled(&r->pull, job->gen, job->list, rc);
    free(job);
    if (rc == DMT_E_STALE && r->conn)
        replica_conn_close(r->conn, rc, "this machine follows nobody any more");
    else if (current && rc < 0)
        replica_fail(r, "cannot store bulk data: %s", dmt_strerror(rc));
    replica_session_durable(r); /* an epoch may wait for this to be followed */
}

static void op_fill(void *ctx, uint64_t gen, struct replica_chunk *list)
{
    struct dmt_replica *r = ctx;
    struct fill_job *job = calloc(1, sizeof(*job));
    DMT_ASSERT(job);
    job->work.data = job;
    job->r = r;
    job->ws = r->ws;
    job->gen = gen;
    job->list = list;
    replica_job_start(r, true);
    DMT_ASSERT(uv_queue_work(r->uv, &job->work, fill_work, fill_done) == 0);
}

static const struct pull_ops ops = {.connected = op_connected,
                                    .missing_next = op_missing_next,
                                    .covers = op_covers,
                                    .pull = op_pull,
                                    .have = op_have,
                                    .plan = op_plan,
                                    .sync = op_sync,
                                    .fill = op_fill};

/* --- what the peer and the workspace tell ----------------------------------------------------- */

void replica_pull_want(struct dmt_replica *r, uint64_t ino, uint64_t seq)
{
    r->pull.applied = r->applied;
    if (pull_want(&r->pull, ino, seq, replica_now_ms(r)) < 0)
        replica_conn_close(r->conn, -EPROTO, "more is wanted at once than agreed");
}

void replica_pull_applied(struct dmt_replica *r)
{
    pull_applied(&r->pull, r->applied, replica_now_ms(r));
}

void replica_pull_bulk(struct dmt_replica *r, const struct replica_msg_BULK *m)
{
    struct replica_ask *a = NULL;
    if (m->raw_len > 0 && m->raw_len <= REPLICA_BULK_MAX)
        a = pull_asked(&r->pull, m->ino, m->off, m->raw_len, m->seq);
    if (!a) {
        r->refused++;
        replica_event(r, "refused", "bulk data that was not asked for (file %llu)",
                      (unsigned long long)m->ino);
        replica_conn_close(r->conn, -EPROTO, "bulk data that was not asked for");
        return;
    }
    struct replica_chunk *c = malloc(sizeof(*c) + m->raw_len);
    DMT_ASSERT(c);
    if (replica_unpack(r->receiver.unpack, m->data, c->data, m->raw_len) < 0 ||
        dmt_hash64(m->seq, c->data, m->raw_len) != m->hash) {
        free(c);
        r->refused++;
        replica_conn_close(r->conn, DMT_E_CORRUPT, "bulk data with a wrong checksum");
        return;
    }
    r->bulk_bytes += m->raw_len;
    pull_arrived(&r->pull, a, c, m->raw_len);
}

void replica_pull_gone(struct dmt_replica *r, const struct replica_msg_GONE *m)
{
    struct dmt_missing range = {m->ino, m->off, m->length, m->seq};
    if (pull_gone(&r->pull, &range, m->tail, replica_now_ms(r)) < 0)
        replica_conn_close(r->conn, -EPROTO, "an answer to what was not asked for");
}

/* --- life ------------------------------------------------------------------------------------- */

void replica_pull_init(struct dmt_replica *r)
{
    pull_init(&r->pull, &ops, r);
}

void replica_pull_start(struct dmt_replica *r)
{
    pull_start(&r->pull, r->applied, replica_now_ms(r));
}

void replica_pull_stop(struct dmt_replica *r)
{
    pull_stop(&r->pull);
}

void replica_pull_free(struct dmt_replica *r)
{
    replica_pull_stop(r);
}

void replica_pull_tick(struct dmt_replica *r)
{
    r->pull.applied = r->applied;
    pull_tick(&r->pull, replica_now_ms(r));
}
