/* audit.c: after a resync a sample is compared: does the standby really show what the holder has?
 *
 * The holder, once the standby has applied what the difference showed: AUDIT_SAMPLES times a pool
 * job picks an inode (dmt_ws_sample) and AUDIT carries its number, version and hash; the next goes
 * when AUDITED has come. The standby computes its own in a pool job. If they differ at the same
 * version, it notes the inode (STORE/suspect), stops following and asks for a resync, which takes
 * that inode anew; both sides say so in an event. What moved on meanwhile says nothing and is only
 * counted.
 * Failure modes: the connection ends: the rest of the audit is not done. A sample that cannot be
 * read counts as moved on. Thread: loop; a pool job touches only its own struct and the workspace.
 */
#include "fs/replica/int.h"

#include <stdlib.h>

#include "fs/base/log.h"

struct audit_job {
    uv_work_t work;
    struct dmt_replica *r;
    struct dmt_ws *ws;
    struct replica_conn *conn;
    bool check;
    uint64_t random;
    struct dmt_sample s;
    int rc;
};

static void audit_work(uv_work_t *w)
{
    struct audit_job *job = w->data;
    job->rc = job->check ? dmt_ws_sample_check(job->ws, &job->s)
                         : dmt_ws_sample(job->ws, job->random, &job->s);
    if (job->check && job->rc == DMT_E_HISTORY && dmt_ws_suspect(job->ws, job->s.ino) < 0)
        dmt_warn("the file that differs cannot be noted: all is sent anew");
}

static void send_sample(struct dmt_replica *r, const struct dmt_sample *s)
{
    struct replica_msg m = {.type = REPLICA_AUDIT};
    m.AUDIT.epoch = r->sender.epoch;
    m.AUDIT.ino = s->ino;
    m.AUDIT.off = s->off;
    m.AUDIT.length = s->length;
    m.AUDIT.version_epoch = s->epoch;
    m.AUDIT.version_seq = s->seq;
    m.AUDIT.hash = s->hash;
    replica_post_send(r, &m);
}

static void send_result(struct dmt_replica *r, const struct audit_job *job)
{
    struct replica_msg m = {.type = REPLICA_AUDITED};
    m.AUDITED.epoch = r->core.peer.epoch;
    m.AUDITED.ino = job->s.ino;
    m.AUDITED.result = job->rc == 0 ? 0 : job->rc == DMT_E_HISTORY ? 2 : 1;
    replica_post_send(r, &m);
    if (job->rc != DMT_E_HISTORY)
        return;
    replica_event(r, "audit", "file %llu differs from the holder's at the same version",
                  (unsigned long long)job->s.ino);
    replica_do(r, &(struct replica_event){.type = REPLICA_EV_CANNOT,
                                          .text = "the audit found a file that differs",
                                          .tail = replica_tail(r)});
}

static void audit_done(uv_work_t *w, int status)
{
    struct audit_job *job = w->data;
    struct dmt_replica *r = job->r;
    (void)status;
    bool current = r->conn && r->conn == job->conn && r->ws == job->ws;
    enum replica_phase p = replica_core_phase(&r->core);
    if (job->check && current && p == REPLICA_RECEIVING)
        send_result(r, job);
    if (!job->check) {
        r->audit.busy = false;
        if (current && p == REPLICA_STREAMING && job->rc == 0) {
            r->audit.asked = true;
            send_sample(r, &job->s);
        } else {
            r->audit.moved++;
        }
    }
    free(job);
    replica_job_end(r, true);
}

static void start(struct dmt_replica *r, const struct dmt_sample *s)
{
    struct audit_job *job = calloc(1, sizeof(*job));
    DMT_ASSERT(job);
    job->work.data = job;
    job->r = r;
    job->ws = r->ws;
    job->conn = r->conn;
    job->check = s != NULL;
    if (s)
        job->s = *s;
    else
        dmt_random(&job->random, sizeof(job->random));
    replica_job_start(r, true);
    DMT_ASSERT(uv_queue_work(r->uv, &job->work, audit_work, audit_done) == 0);
}

void replica_audit_begin(struct dmt_replica *r, uint64_t seq)
{
    struct replica_audit *x = &r->audit;
    x->from = seq;
    x->left = AUDIT_SAMPLES;
    x->equal = x->moved = 0;
    x->asked = false;
}

void replica_audit_tick(struct dmt_replica *r)
{
    struct replica_audit *x = &r->audit;
    if (replica_core_phase(&r->core) != REPLICA_STREAMING)
        x->asked = false; /* an answer of this connection does not come any more */
    else if (x->left > 0 && !x->busy && !x->asked && r->ws &&
             r->sender.last_ack.applied >= x->from && r->sender.last_ack.applied > 0) {
        x->left--;
        x->busy = true;
        start(r, NULL);
    } else if (x->left == 0 && !x->busy && !x->asked && x->equal + x->moved > 0) {
        replica_event(r, "audit", "after the resync: %u samples are equal, %u moved on meanwhile",
                      x->equal, x->moved);
        x->equal = x->moved = 0;
    }
}

void replica_audit_check(struct dmt_replica *r, const struct replica_msg_AUDIT *m)
{
    struct dmt_sample s = {.ino = m->ino,
                           .off = m->off,
                           .length = m->length,
                           .epoch = m->version_epoch,
                           .seq = m->version_seq,
                           .hash = m->hash};
    start(r, &s);
}

void replica_audit_result(struct dmt_replica *r, const struct replica_msg_AUDITED *m)
{
    struct replica_audit *x = &r->audit;
    if (!x->asked)
        return;
    x->asked = false;
    x->equal += m->result == 0;
    x->moved += m->result == 1;
    if (m->result < 2)
        return;
    x->left = x->equal = x->moved = 0;
    replica_event(r, "audit",
                  "file %llu of the standby differs at the same version: resynchronising it",
                  (unsigned long long)m->ino);
}
