/* receiver.c: the ordered lane in: appends frames to the journal, acknowledges what is durable,
 * applies what may be applied.
 *
 * Owns the unpacker, the ring of frame ends that are not durable yet, and two threads. Happy path:
 * RECORDS -> unpack -> every record checked (numbers, epochs, chain) -> dmt_ws_receive appends ->
 * the committer is kicked by NEED (a sync waits at the holder), by UNSYNCED_MAX bytes or by the
 * tick -> `rep-sync` sleeps in dmt_journal_watch and pokes the loop -> ACK with the new durable
 * position -> `applier` applies up to min(holder's durable, ours) (R4) -> pull.c looks
 * for missing ranges.
 *
 * An ACK goes out at once when durable moved and carries what else is new; applied and whole alone
 * wait for the next tick. It states the chain at the newest frame end that is durable, so that the
 * sender can compare histories without a look at its disk.
 *
 * Failure modes: a frame that does not extend our tail, or whose records do not hold together: the
 * connection is closed and nothing of the bad record is kept (the journal checks again). Append,
 * sync or apply fails: ops.failed, nothing is acknowledged any more.
 * Threads: loop; rep-sync and applier touch only the fields under r->lock and a workspace pointer
 * that dmt_replica_set_ws takes away from them.
 */
#include "fs/replica/int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"

#define ENDS_MAX \
    (sizeof(((struct replica_receiver *)0)->ends) / sizeof(((struct replica_receiver *)0)->ends[0]))

/* --- rep-sync and applier --------------------------------------------------------------------- */

static void *sync_main(void *arg)
{
    struct dmt_replica *r = arg;
    pthread_mutex_lock(&r->lock);
    while (!r->stop_threads) {
        if (!r->shared_ws || r->sync_target <= r->sync_done || r->sync_err < 0) {
            pthread_cond_wait(&r->sync_work, &r->lock);
            continue;
        }
        struct dmt_journal *j = dmt_ws_journal(r->shared_ws);
        uint64_t target = r->sync_target;
        r->sync_busy = true;
        pthread_mutex_unlock(&r->lock);
        int rc = dmt_journal_watch(j, target);
        uint64_t durable = rc == 0 ? dmt_journal_durable(j) : 0;
        pthread_mutex_lock(&r->lock);
        r->sync_busy = false;
        if (rc < 0)
            r->sync_err = rc;
        else
            r->sync_done = durable > target ? durable : target;
        pthread_cond_broadcast(&r->idle);
        uv_async_send(&r->poke);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static void *apply_main(void *arg)
{
    struct dmt_replica *r = arg;
    pthread_mutex_lock(&r->lock);
    while (!r->stop_threads) {
        if (!r->shared_ws || r->apply_target <= r->apply_done || r->apply_err < 0) {
            pthread_cond_wait(&r->apply_work, &r->lock);
            continue;
        }
        struct dmt_ws *ws = r->shared_ws;
        /* In steps, so that progress is seen and a workspace can be taken away in time. */
        uint64_t upto = r->apply_target - r->apply_done > APPLY_STEP ? r->apply_done + APPLY_STEP
                                                                     : r->apply_target;
        r->apply_busy = true;
        pthread_mutex_unlock(&r->lock);
        struct dmt_err err = {0};
        int rc = dmt_ws_apply_upto(ws, upto, &err);
        pthread_mutex_lock(&r->lock);
        r->apply_busy = false;
        if (rc < 0) {
            r->apply_err = rc;
            (void)snprintf(r->apply_why, sizeof(r->apply_why), "%.190s",
                           err.msg[0] ? err.msg : dmt_strerror(rc));
        } else {
            r->apply_done = upto;
        }
        pthread_cond_broadcast(&r->idle);
        uv_async_send(&r->poke);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

int replica_threads_start(struct dmt_replica *r)
{
    int rc = dmt_thread_start(&r->sync_thread, "rep-sync", sync_main, r);
    if (rc < 0)
        return rc;
    rc = dmt_thread_start(&r->apply_thread, "applier", apply_main, r);
    if (rc < 0) {
        pthread_mutex_lock(&r->lock);
        r->stop_threads = true;
        pthread_cond_broadcast(&r->sync_work);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->sync_thread, NULL);
    }
    return rc;
}

void replica_threads_stop(struct dmt_replica *r)
{
    pthread_mutex_lock(&r->lock);
    r->stop_threads = true;
    pthread_cond_broadcast(&r->sync_work);
    pthread_cond_broadcast(&r->apply_work);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->sync_thread, NULL);
    pthread_join(r->apply_thread, NULL);
}

/* A cut may have taken back what the threads had counted as done: a lower number than before must
 * wake them again. */
void replica_threads_rebase(struct dmt_replica *r)
{
    struct dmt_journal *j = dmt_ws_journal(r->ws);
    uint64_t tail = dmt_journal_tail(j).seq, durable = dmt_journal_durable(j),
             applied = dmt_ws_applied(r->ws);
    pthread_mutex_lock(&r->lock);
    if (r->sync_done > durable)
        r->sync_done = durable;
    if (r->sync_target > tail)
        r->sync_target = tail;
    if (r->apply_done > applied)
        r->apply_done = applied;
    if (r->apply_target > tail)
        r->apply_target = tail;
    r->durable = durable;
    r->applied = applied;
    pthread_mutex_unlock(&r->lock);
}

/* Tell me when everything up to seq is durable (somebody else kicks the committer). */
void replica_sync_want(struct dmt_replica *r, uint64_t seq)
{
    pthread_mutex_lock(&r->lock);
    if (seq > r->sync_target) {
        r->sync_target = seq;
        pthread_cond_broadcast(&r->sync_work);
    }
    pthread_mutex_unlock(&r->lock);
}

void replica_apply_want(struct dmt_replica *r, uint64_t seq)
{
    pthread_mutex_lock(&r->lock);
    if (seq > r->apply_target) {
        r->apply_target = seq;
        pthread_cond_broadcast(&r->apply_work);
    }
    pthread_mutex_unlock(&r->lock);
}

/* --- life ------------------------------------------------------------------------------------- */

int replica_receiver_init(struct dmt_replica *r)
{
    return replica_unpack_new(&r->receiver.unpack);
}

void replica_receiver_free(struct dmt_replica *r)
{
    replica_unpack_free(r->receiver.unpack);
    dmt_buf_free(&r->receiver.raw);
}

static void start_at_tail(struct dmt_replica *r)
{
    struct replica_receiver *v = &r->receiver;
    replica_threads_rebase(r);
    v->tail = replica_tail(r);
    v->chain_seq = v->tail.seq;
    v->chain = v->tail.chain;
    v->end_at = v->end_n = 0;
    v->holder_durable = 0;
    v->acked_durable = v->acked_applied = v->acked_whole = 0;
    v->storing = v->ack_due = false;
    v->unsynced_bytes = 0;
}

void replica_receiver_start(struct dmt_replica *r)
{
    start_at_tail(r);
    replica_pull_start(r);
    r->receiver.ack_due = true; /* so that the holder hears applied and free space, too */
    replica_receiver_ack(r, true);
}

void replica_receiver_stop(struct dmt_replica *r)
{
    replica_pull_stop(r);
}

/* --- ACK -------------------------------------------------------------------------------------- */

void replica_receiver_ack(struct dmt_replica *r, bool now)
{
    struct replica_receiver *v = &r->receiver;
    if (replica_core_phase(&r->core) != REPLICA_RECEIVING || !r->conn)
        return;
    uint64_t durable = dmt_journal_durable(dmt_ws_journal(r->ws));
    if (durable > v->tail.seq)
        durable = v->tail.seq;
    bool moved = durable > v->acked_durable || r->pull.whole > v->acked_whole;
    if (!v->ack_due && !moved && (!now || r->applied == v->acked_applied))
        return;
    while (v->end_n > 0 && v->ends[v->end_at].seq <= durable) {
        v->chain_seq = v->ends[v->end_at].seq;
        v->chain = v->ends[v->end_at].chain;
        v->end_at = (v->end_at + 1) % ENDS_MAX;
        v->end_n--;
    }
    struct replica_msg m = {.type = REPLICA_ACK};
    m.ACK.epoch = r->core.peer.epoch;
    m.ACK.received = v->tail.seq;
    m.ACK.durable = durable;
    m.ACK.applied = r->applied;
    m.ACK.whole = r->pull.whole;
    m.ACK.chain_seq = v->chain_seq;
    m.ACK.chain = v->chain;
    m.ACK.free_bytes = v->free_bytes;
    m.ACK.missing_bytes = r->status.missing_bytes; /* as of the last tick */
    v->acked_durable = durable;
    v->acked_applied = r->applied;
    v->acked_whole = r->pull.whole;
    v->ack_due = false;
    replica_conn_send(r->conn, &m);
}

/* --- RECORDS ---------------------------------------------------------------------------------- */

static void note_epoch(struct dmt_replica *r, const struct dmt_rec *rec)
{
    struct dmt_body body;
    if (rec->type != DMT_REC_EPOCH ||
        dmt_body_decode(rec->type, rec->body, rec->body_len, &body) < 0)
        return;
    struct replica_epoch e = {body.EPOCH.epoch, body.EPOCH.switch_seq, body.EPOCH.switch_chain};
    replica_epochs_add(r, &e);
}

/* Do these records continue our tail and say what the frame says? The pair of the journal's own
 * check (pair assertion across the wire). */
static int check_records(struct dmt_replica *r, const struct replica_msg_RECORDS *m,
                         struct dmt_pos *ret_tail, bool *ret_epochs)
{
    struct replica_receiver *v = &r->receiver;
    struct dmt_pos at = v->tail;
    size_t off = 0;
    *ret_epochs = false;
    if (m->first != at.seq + 1 || m->chain_before != at.chain)
        return DMT_E_HISTORY;
    while (off < v->raw.len) {
        struct dmt_rec rec;
        size_t used;
        int rc = dmt_rec_decode(v->raw.p + off, v->raw.len - off, &rec, &used);
        if (rc < 0)
            return rc;
        if (rec.seq != at.seq + 1 || rec.epoch < at.epoch || rec.epoch > m->epoch ||
            rec.type == DMT_REC_PAD)
            return DMT_E_HISTORY;
        at = (struct dmt_pos){rec.epoch, rec.seq, rec.chain};
        *ret_epochs = *ret_epochs || rec.type == DMT_REC_EPOCH;
        off += used;
    }
    if (at.seq != m->last || at.chain != m->chain_after || at.seq == v->tail.seq)
        return DMT_E_HISTORY;
    *ret_tail = at;
    return 0;
}

/* The frame is appended: our history has these epochs now. */
static void note_epochs(struct dmt_replica *r)
{
    size_t off = 0, used;
    struct dmt_rec rec;
    while (off < r->receiver.raw.len &&
           dmt_rec_decode(r->receiver.raw.p + off, r->receiver.raw.len - off, &rec, &used) == 0) {
        note_epoch(r, &rec);
        off += used;
    }
}

void replica_receiver_records(struct dmt_replica *r, const struct replica_msg_RECORDS *m)
{
    struct replica_receiver *v = &r->receiver;
    int rc = m->raw_len > REPLICA_RAW_MAX ? DMT_E_CORRUPT : 0;
    dmt_buf_reset(&v->raw);
    uint8_t *raw = rc == 0 ? dmt_buf_reserve(&v->raw, m->raw_len) : NULL;
    if (rc == 0)
        rc = raw ? replica_unpack(r->receiver.unpack, m->data, raw, m->raw_len) : -ENOMEM;
    struct dmt_pos tail;
    bool epochs = false;
    if (rc == 0)
        rc = check_records(r, m, &tail, &epochs);
    if (rc < 0) {
        replica_event(r, "refused", "records %llu to %llu: %s", (unsigned long long)m->first,
                      (unsigned long long)m->last, dmt_strerror(rc));
        replica_conn_close(r->conn, rc, "these records do not continue our journal");
        return;
    }
    struct dmt_err err = {0};
    rc = dmt_ws_receive(r->ws, v->raw.p, v->raw.len, &err);
    if (rc == DMT_E_STALE) {
        /* Promoted a moment ago; our own role is still on its way to this thread. */
        replica_conn_close(r->conn, rc, "this machine follows nobody any more");
        return;
    }
    if (rc < 0) {
        replica_fail(r, "cannot append what was received: %s",
                     err.msg[0] ? err.msg : dmt_strerror(rc));
        return;
    }
    v->tail = tail;
    if (epochs)
        note_epochs(r);
    r->raw_bytes += v->raw.len;
    r->wire_bytes += m->data.n;
    v->unsynced_bytes += v->raw.len;
    if (v->unsynced_bytes > UNSYNCED_MAX)
        replica_receiver_need(r, v->tail.seq);
    if (v->end_n == ENDS_MAX) {
        v->end_at = (v->end_at + 1) % ENDS_MAX; /* only an occasion to compare chains is lost */
        v->end_n--;
    }
    unsigned i = (unsigned)((v->end_at + v->end_n++) % ENDS_MAX);
    v->ends[i].seq = v->tail.seq;
    v->ends[i].chain = v->tail.chain;
    replica_sync_want(r, v->tail.seq);
    if (m->durable > v->holder_durable)
        replica_receiver_commit(r, m->durable);
}

void replica_receiver_need(struct dmt_replica *r, uint64_t seq)
{
    r->receiver.unsynced_bytes = 0;
    dmt_journal_kick(dmt_ws_journal(r->ws), seq);
}

void replica_receiver_tick(struct dmt_replica *r)
{
    if (r->ws && replica_core_phase(&r->core) == REPLICA_RECEIVING &&
        dmt_journal_durable(dmt_ws_journal(r->ws)) < r->receiver.tail.seq)
        replica_receiver_need(r, r->receiver.tail.seq);
}

static void apply_what_may_be(struct dmt_replica *r)
{
    uint64_t durable = dmt_journal_durable(dmt_ws_journal(r->ws));
    uint64_t holder = r->receiver.holder_durable;
    replica_apply_want(r, holder < durable ? holder : durable); /* R4 */
}

void replica_receiver_commit(struct dmt_replica *r, uint64_t durable)
{
    struct replica_receiver *v = &r->receiver;
    if (durable <= v->holder_durable)
        return;
    v->holder_durable = durable;
    apply_what_may_be(r);
}

/* Our own durable or applied position moved. */
void replica_receiver_moved(struct dmt_replica *r)
{
    struct replica_receiver *v = &r->receiver;
    if (!r->ws)
        return;
    if (replica_core_phase(&r->core) == REPLICA_RECEIVING) {
        replica_receiver_ack(r, false);
        if (r->conn)
            apply_what_may_be(r);
    }
    if (v->storing && r->durable >= v->store_upto.seq) {
        replica_apply_want(r, v->store_upto.seq);
        if (r->applied >= v->store_upto.seq) {
            v->storing = false;
            replica_do(r, &(struct replica_event){.type = REPLICA_EV_STORED});
        }
    }
}

/* What was fetched ends at upto: have it durable and applied, then say so. */
void replica_receiver_store(struct dmt_replica *r, const struct dmt_pos *upto)
{
    struct replica_receiver *v = &r->receiver;
    if (upto->seq != v->tail.seq || upto->chain != v->tail.chain) {
        replica_conn_close(r->conn, DMT_E_HISTORY, "the fetch did not end where it should");
        return;
    }
    v->store_upto = *upto;
    v->storing = true;
    dmt_journal_kick(dmt_ws_journal(r->ws), upto->seq);
    replica_sync_want(r, upto->seq);
    replica_receiver_moved(r);
}
