/* serve.c: the bulk lane of the side that has the bytes: answers PULL with BULK or GONE, behind the
 * ordered lane.
 *
 * Owns the queue of ranges the peer asked for (lane.c: urgent ones, for which a sync waits, go
 * first) and up to SERVE_READY_MAX encoded frames.
 * Happy path: a pool job reads at most REPLICA_BULK_MAX of the first range (dmt_ws_bulk_send checks
 * before and after that these are the bytes of that position), hashes, packs and encodes it; the
 * frame waits until the ordered lane has nothing to send and the bandwidth allows it. Failure
 * modes: overwritten since: GONE for the rest of the range, with our tail, so that the peer knows
 * when to look again. A peer that asks for more than PULLS_MAX ranges at once breaks the protocol.
 * Memory: the rings are part of struct dmt_replica.
 * Threads: loop; a pool job touches only its own struct and the workspace.
 */
#include "fs/replica/int.h"

#include <stdlib.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/base/log.h"

_Static_assert(FRAME_BYTES_MAX <= REPLICA_BULK_MAX, "frames as the protocol has them");

struct read_job {
    uv_work_t work;
    struct dmt_replica *r;
    struct dmt_ws *ws;
    uint64_t gen, epoch, most;
    struct replica_served want;
    bool urgent;
    uint64_t got; /* bytes in the frame; 0: GONE */
    struct dmt_buf frame;
    int rc;
};

void replica_serve_reset(struct dmt_replica *r)
{
    struct replica_serve *s = &r->serve;
    s->gen++;
    lane_clear(&s->queue);
    for (unsigned i = 0; i < s->ready_n; i++)
        dmt_buf_free(&s->ready[i]);
    s->ready_n = 0;
    s->reading = false;
}

/* --- bandwidth -------------------------------------------------------------------------------- */

bool replica_serve_tokens(struct dmt_replica *r, size_t bytes)
{
    struct replica_serve *s = &r->serve;
    double rate = (double)r->conf.bandwidth_bytes_s;
    if (rate <= 0)
        return true;
    uint64_t now = replica_now_ms(r);
    double most = rate / 5 > 2.0 * REPLICA_BULK_MAX ? rate / 5 : 2.0 * REPLICA_BULK_MAX;
    s->tokens += rate * (double)(now - s->tokens_ms) / 1000;
    s->tokens_ms = now;
    if (s->tokens > most)
        s->tokens = most;
    if (s->tokens < 0)
        return false;           /* the tick asks again */
    s->tokens -= (double)bytes; /* one frame of debt at most */
    return true;
}

/* --- reading ---------------------------------------------------------------------------------- */

static void read_work(uv_work_t *w)
{
    struct read_job *job = w->data;
    const struct replica_served *want = &job->want;
    uint64_t len = want->len < job->most ? want->len : job->most;
    uint8_t *raw = malloc(REPLICA_BULK_MAX);
    struct dmt_buf packed;
    dmt_buf_init(&packed);
    struct replica_msg m = {0};
    job->rc = raw ? dmt_ws_bulk_send(job->ws, want->ino, want->off, len, want->seq, raw, &job->got)
                  : -ENOMEM;
    if (job->rc == 0 && job->got > 0) {
        DMT_ASSERT(job->got <= len);
        m.type = REPLICA_BULK;
        m.BULK.epoch = job->epoch;
        m.BULK.ino = want->ino;
        m.BULK.off = want->off;
        m.BULK.seq = want->seq;
        m.BULK.hash = dmt_hash64(want->seq, raw, job->got);
        m.BULK.raw_len = (uint32_t)job->got;
        job->rc = replica_pack(raw, job->got, &packed);
        m.BULK.data = (struct replica_span){packed.p, (uint32_t)packed.len};
    } else if (job->rc == 0 || job->rc == DMT_E_GONE || job->rc == -ENOENT) {
        job->rc = 0;
        job->got = 0;
        m.type = REPLICA_GONE;
        m.GONE.epoch = job->epoch;
        m.GONE.ino = want->ino;
        m.GONE.off = want->off;
        m.GONE.length = want->len;
        m.GONE.seq = want->seq;
        m.GONE.tail = dmt_journal_tail(dmt_ws_journal(job->ws))
                          .seq; /* read after: what replaced it is before this */
    }
    if (job->rc == 0)
        replica_encode(&m, &job->frame);
    dmt_buf_free(&packed);
    free(raw);
}

static void read_done(uv_work_t *w, int status)
{
    struct read_job *job = w->data;
    struct dmt_replica *r = job->r;
    struct replica_serve *s = &r->serve;
    (void)status;
    bool current = job->gen == s->gen && r->conn;
    int rc = job->frame.bad ? -ENOMEM : job->rc;
    if (current && rc == 0) {
        s->reading = false;
        if (job->got > 0 && job->got < job->want.len) {
            job->want.off += job->got;
            job->want.len -= job->got;
            lane_rest(&s->queue, &job->want, job->urgent);
        }
        s->ready[s->ready_n++] = job->frame;
    } else {
        dmt_buf_free(&job->frame);
    }
    free(job);
    replica_job_end(r, true);
    if (!current)
        return;
    if (rc < 0) {
        replica_fail(r, "cannot read bulk data: %s", dmt_strerror(rc));
        return;
    }
    replica_serve_read(r);
    replica_conn_pump(r->conn);
}

void replica_serve_read(struct dmt_replica *r)
{
    struct replica_serve *s = &r->serve;
    struct replica_served want;
    bool urgent;
    if (s->reading || s->ready_n == SERVE_READY_MAX || !r->ws ||
        !lane_next(&s->queue, &want, &urgent))
        return;
    struct read_job *job = calloc(1, sizeof(*job));
    DMT_ASSERT(job);
    job->work.data = job;
    job->r = r;
    job->ws = r->ws;
    job->gen = s->gen;
    job->epoch = r->sender.epoch;
    job->most = r->conn ? r->conn->frame_bytes : FRAME_BYTES_MIN;
    job->urgent = urgent;
    job->want = want;
    s->reading = true;
    replica_job_start(r, true);
    DMT_ASSERT(uv_queue_work(r->uv, &job->work, read_work, read_done) == 0);
}

/* --- frames ----------------------------------------------------------------------------------- */

void replica_serve_pull(struct dmt_replica *r, const struct replica_msg_PULL *m)
{
    struct replica_served want = {m->ino, m->off, m->length, m->seq};
    if (m->length == 0 || m->length > PULL_LEN_MAX || m->off > DMT_FILE_SIZE_MAX ||
        !lane_push(&r->serve.queue, &want, m->urgent != 0)) {
        replica_conn_close(r->conn, -EPROTO, "more was asked for at once than agreed");
        return;
    }
    replica_serve_read(r);
}

bool replica_serve_fill(struct dmt_replica *r, struct dmt_buf *out)
{
    struct replica_serve *s = &r->serve;
    if (s->ready_n == 0 || !replica_serve_tokens(r, s->ready[0].len))
        return false;
    dmt_put_raw(out, s->ready[0].p, s->ready[0].len);
    r->bulk_bytes += s->ready[0].len;
    dmt_buf_free(&s->ready[0]);
    memmove(&s->ready[0], &s->ready[1], (--s->ready_n) * sizeof(s->ready[0]));
    replica_serve_read(r);
    return true;
}
