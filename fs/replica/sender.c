/* sender.c: the ordered lane out: reads the journal, ships frames of records, keeps account of
 * acknowledgements and of what syncs wait for.
 *
 * Owns the journal reader, the ring of frames under way, the table of wants and the drain. Happy
 * path: the socket has room -> replica_sender_fill reads what is there (at most REPLICA_BATCH_MAX;
 * one record if only one is there) -> one LZ4 frame. At the tail it collects for SEND_GAP_MS what
 * nobody waits for: a frame costs both sides wake-ups, a TLS record and an LZ4 block however small
 * it is. A sync (dmt_replica_need) ends the gap; NEED tells the peer to sync its disk now, too.
 * After a gap in which nothing came it sets idle_sender, looks once more, and sleeps;
 * dmt_replica_appended wakes it. ACKs pop frames off the
 * ring and move what the gate sees. A lone COMMIT follows when our own disk is later than the last
 * frame (the standby applies no further than that).
 *
 * A record of an epoch that L4 has not told us about yet is held back until dmt_replica_set_role:
 * so no frame ever carries records above its epoch. Failure modes: the reader's next record is gone
 * (recycled): the connection is dropped and the next hello finds the standby too old.
 * Memory: one batch, one packed frame, FLIGHTS_MAX numbers; the rest stays in the journal. Thread:
 * loop; the want table is under pub_lock.
 */
#include "fs/replica/int.h"

#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"

#define RECORD_GUESS  256u /* bytes of a record, before any was sent */
#define FLOOR_KEEP_MS (10u * 60u * 1000u)

/* --- stream ----------------------------------------------------------------------------------- */

static struct replica_flight *flight(struct replica_sender *s, unsigned i)
{
    return &s->flights[(s->flight_at + i) % FLIGHTS_MAX];
}

static void publish_stream(struct dmt_replica *r, bool on)
{
    pthread_mutex_lock(&r->pub_lock);
    lane_stream(&r->wants, on);
    if (on)
        memcpy(r->pub_store, r->core.peer.store_id, 16);
    pthread_mutex_unlock(&r->pub_lock);
    if (r->ws)
        dmt_ws_bulk_sending(r->ws, on);
}

void replica_sender_start(struct dmt_replica *r, uint64_t epoch, const struct dmt_pos *after,
                          uint64_t serve_upto)
{
    struct replica_sender *s = &r->sender;
    DMT_ASSERT(!s->reader && r->ws);
    struct dmt_err err = {0};
    replica_threads_rebase(r);
    if (!s->flights)
        s->flights = calloc(FLIGHTS_MAX, sizeof(*s->flights));
    DMT_ASSERT(s->flights);
    if (dmt_jreader_open(&s->reader, dmt_ws_journal(r->ws), after->seq, &err) < 0) {
        s->reader = NULL;
        replica_event(r, "error", "cannot read the journal after %llu: %s",
                      (unsigned long long)after->seq, err.msg);
        replica_conn_close(r->conn, DMT_E_GONE, "the journal cannot be read from there");
        return;
    }
    s->epoch = epoch;
    s->serve_upto = serve_upto;
    s->sent_seq = s->verified_seq = after->seq;
    s->sent_chain = s->verified_chain = after->chain;
    s->held = NULL;
    s->caught_up = false;
    s->flight_at = s->flight_n = 0;
    s->flight_bytes = 0;
    s->commit_sent = s->need_sent = 0;
    /* numbers of a tail that was cut; who still waits has the tick */
    atomic_store(&r->need_seq, 0);
    s->gap = s->at_tail = false;
    memset(&s->last_ack, 0, sizeof(s->last_ack));
    replica_serve_reset(r);
    if (serve_upto == 0) {
        r->resync.floor_ms = 0;
        publish_stream(r, true);
    }
}

void replica_sender_stop(struct dmt_replica *r)
{
    struct replica_sender *s = &r->sender;
    if (s->reader)
        dmt_jreader_close(s->reader);
    s->reader = NULL;
    s->held = NULL;
    dmt_timer_stop(r->commit_timer);
    dmt_timer_stop(r->pace_timer);
    s->gap = false;
    replica_serve_reset(r);
    publish_stream(r, false);
    replica_sender_drain_check(r, DMT_E_CLOSED);
    replica_sender_publish(r);
    r->conf.ops->changed(r->conf.ctx); /* writers that were slowed by the lag must look again */
}

void replica_sender_free(struct dmt_replica *r)
{
    free(r->sender.flights);
    dmt_buf_free(&r->sender.batch);
    dmt_buf_free(&r->sender.packed);
}

/* --- frames of records ------------------------------------------------------------------------ */

/* Next record into held. 1, 0 none to send now, < 0. */
static int read_held(struct dmt_replica *r, struct dmt_err *err)
{
    struct replica_sender *s = &r->sender;
    if (!s->held) {
        uint64_t counter = atomic_load(&r->appended_bytes);
        int rc = dmt_jreader_next(s->reader, &s->held_rec, &s->held, &s->held_len, err);
        if (rc <= 0) {
            s->held = NULL;
            if (rc == 0) {
                s->caught_up = true;
                s->taken_bytes = counter;
            }
            return rc;
        }
    }
    if (s->serve_upto > 0)
        return s->held_rec.seq <= s->serve_upto;
    return s->held_rec.epoch <= s->epoch;
}

/* Collects records into the batch. 1 there are some, 0 none, < 0. */
static int read_batch(struct dmt_replica *r, uint64_t *ret_first, struct dmt_err *err)
{
    struct replica_sender *s = &r->sender;
    int rc;
    dmt_buf_reset(&s->batch);
    while ((rc = read_held(r, err)) == 1) {
        if (s->batch.len > 0 && s->batch.len + s->held_len > REPLICA_BATCH_MAX)
            break;
        if (s->batch.len == 0)
            *ret_first = s->held_rec.seq;
        DMT_ASSERT(s->held_rec.seq == s->sent_seq + 1);
        dmt_put_raw(&s->batch, s->held, s->held_len);
        s->sent_seq = s->held_rec.seq;
        s->sent_chain = s->held_rec.chain;
        s->taken_bytes += s->held_len;
        s->records++;
        s->held = NULL;
    }
    s->at_tail = rc == 0;
    if (s->batch.bad)
        return -ENOMEM;
    return rc < 0 ? rc : s->batch.len > 0;
}

static void note_flight(struct dmt_replica *r)
{
    struct replica_sender *s = &r->sender;
    if (s->serve_upto > 0)
        return;
    if (s->flight_n == FLIGHTS_MAX) {
        struct replica_flight *last = flight(s, s->flight_n - 1);
        last->last_seq = s->sent_seq; /* the ring is full: two frames are counted as one */
        last->chain = s->sent_chain;
        last->bytes += s->batch.len;
    } else {
        *flight(s, s->flight_n++) =
            (struct replica_flight){s->sent_seq, s->sent_chain, s->batch.len, replica_now_ns(r)};
    }
    s->flight_bytes += s->batch.len;
}

static void end_of_serving(struct dmt_replica *r, struct dmt_buf *out)
{
    struct replica_msg m = {.type = REPLICA_FETCHED};
    m.FETCHED.epoch = r->sender.epoch;
    m.FETCHED.tail = replica_tail(r);
    replica_encode(&m, out);
    dmt_jreader_close(r->sender.reader);
    r->sender.reader = NULL;
    r->sender.held = NULL;
    replica_do(r, &(struct replica_event){.type = REPLICA_EV_SERVED});
}

static void encode_batch(struct dmt_replica *r, uint64_t first, uint64_t chain_before,
                         struct dmt_buf *out)
{
    struct replica_sender *s = &r->sender;
    struct replica_msg m = {.type = REPLICA_RECORDS};
    m.RECORDS.epoch = s->epoch;
    m.RECORDS.first = first;
    m.RECORDS.last = s->sent_seq;
    m.RECORDS.chain_before = chain_before;
    m.RECORDS.chain_after = s->sent_chain;
    m.RECORDS.durable = s->serve_upto > 0 ? 0 : dmt_journal_durable(dmt_ws_journal(r->ws));
    m.RECORDS.raw_len = (uint32_t)s->batch.len;
    m.RECORDS.data = (struct replica_span){s->packed.p, (uint32_t)s->packed.len};
    size_t before = out->len;
    replica_encode(&m, out);
    r->raw_bytes += s->batch.len;
    r->wire_bytes += out->len - before;
    s->commit_sent = m.RECORDS.durable;
}

/* Somebody waits for records that are not out yet. */
static bool needed(const struct dmt_replica *r)
{
    return atomic_load(&r->need_seq) > r->sender.sent_seq;
}

/* The next NEED, if somebody waits for what is out. */
static bool next_need(struct dmt_replica *r, struct replica_msg *m)
{
    struct replica_sender *s = &r->sender;
    uint64_t need = atomic_load(&r->need_seq);
    if (!s->reader || s->serve_upto > 0 || need <= s->need_sent || need > s->sent_seq)
        return false;
    s->need_sent = need;
    *m = (struct replica_msg){.type = REPLICA_NEED};
    m->NEED.epoch = s->epoch;
    m->NEED.seq = need;
    return true;
}

void replica_sender_need(struct dmt_replica *r)
{
    struct replica_msg m;
    if (r->conn && next_need(r, &m))
        replica_conn_send(r->conn, &m);
}

/* A frame of records is out. What follows at once is collected for a moment. */
static void begin_gap(struct dmt_replica *r)
{
    struct replica_sender *s = &r->sender;
    if (s->serve_upto > 0 || !s->at_tail || s->gap)
        return;
    s->gap = true;
    dmt_timer_set(r->pace_timer, SEND_GAP_MS);
}

bool replica_sender_fill(struct dmt_replica *r, struct dmt_buf *out)
{
    struct replica_sender *s = &r->sender;
    if (!s->reader || (s->gap && !needed(r)))
        return false;
    struct dmt_err err = {0};
    uint64_t first = 0, chain_before = s->sent_chain;
    atomic_store(&r->idle_sender, false);
    int rc = read_batch(r, &first, &err);
    if (rc == 0) {
        if (s->serve_upto > 0) {
            end_of_serving(r, out);
            return true;
        }
        /* An append between our look and this store would wake nobody: look again. */
        atomic_store(&r->idle_sender, true);
        rc = read_batch(r, &first, &err);
        if (rc == 0)
            return false;
        atomic_store(&r->idle_sender, false);
    }
    dmt_buf_reset(&s->packed);
    if (rc > 0)
        rc = replica_pack(s->batch.p, s->batch.len, &s->packed);
    if (rc < 0) {
        replica_event(r, "error", "cannot ship records after %llu: %s",
                      (unsigned long long)s->sent_seq, err.msg[0] ? err.msg : dmt_strerror(rc));
        replica_conn_close(r->conn, rc == DMT_E_STALE ? DMT_E_RETRY : rc,
                           "the journal cannot be read on from here");
        return false;
    }
    note_flight(r);
    encode_batch(r, first, chain_before, out);
    struct replica_msg need;
    if (next_need(r, &need))
        replica_encode(&need, out);
    if (s->serve_upto == 0)
        replica_sync_want(r, s->sent_seq);
    begin_gap(r);
    replica_sender_publish(r);
    return true;
}

/* --- COMMIT ----------------------------------------------------------------------------------- */

void replica_sender_commit(struct dmt_replica *r, bool now)
{
    struct replica_sender *s = &r->sender;
    if (!s->reader || s->serve_upto > 0 || !r->conn)
        return;
    uint64_t durable = dmt_journal_durable(dmt_ws_journal(r->ws));
    if (durable <= s->commit_sent)
        return;
    uint64_t t = replica_now_ms(r);
    if (!now && t - s->commit_ms < COMMIT_GAP_MS) {
        dmt_timer_set(r->commit_timer, COMMIT_GAP_MS);
        return;
    }
    s->commit_ms = t;
    s->commit_sent = durable;
    struct replica_msg m = {.type = REPLICA_COMMIT};
    m.COMMIT.epoch = s->epoch;
    m.COMMIT.durable = durable;
    replica_conn_send(r->conn, &m);
}

/* --- acknowledgements ------------------------------------------------------------------------- */

void replica_sender_ack(struct dmt_replica *r, const struct replica_msg_ACK *a)
{
    struct replica_sender *s = &r->sender;
    struct replica_event ev = {
        .type = REPLICA_EV_GOT_ACK, .epoch = a->epoch, .seq = a->durable, .whole = a->whole};
    ev.sent = s->sent_seq;
    ev.tail = replica_tail(r);
    ev.pos = (struct dmt_pos){0, a->chain_seq, a->chain};
    ev.chain_ok = a->chain_seq != s->verified_seq || a->chain == s->verified_chain;
    for (unsigned i = 0; i < s->flight_n && a->chain_seq > s->verified_seq; i++) {
        const struct replica_flight *f = flight(s, i);
        if (f->last_seq == a->chain_seq) {
            ev.chain_ok = f->chain == a->chain;
            break;
        }
    }
    if (s->reader && a->epoch == s->epoch && ev.chain_ok) {
        if (a->chain_seq > s->verified_seq) {
            s->verified_seq = a->chain_seq;
            s->verified_chain = a->chain;
        }
        s->last_ack = *a;
        atomic_store(&r->pub_peer_free, a->free_bytes);
    }
    replica_do(r, &ev);
}

/* The core accepted it: this far the peer's disk is ours, too. */
void replica_sender_acked(struct dmt_replica *r, uint64_t durable, uint64_t whole)
{
    struct replica_sender *s = &r->sender;
    uint64_t sent_ns = 0;
    while (s->flight_n > 0 && flight(s, 0)->last_seq <= durable) {
        s->flight_bytes -= flight(s, 0)->bytes;
        sent_ns = flight(s, 0)->sent_ns;
        s->flight_at = (s->flight_at + 1) % FLIGHTS_MAX;
        s->flight_n--;
    }
    if (sent_ns) {
        uint64_t us = (replica_now_ns(r) - sent_ns) / 1000;
        r->ack_us = r->ack_us ? (7 * r->ack_us + us) / 8 : us;
    }
    pthread_mutex_lock(&r->pub_lock);
    whole = lane_acked(&r->wants, durable, whole);
    pthread_mutex_unlock(&r->pub_lock);
    if (r->ws && whole >= replica_tail(r).seq)
        dmt_ws_bulk_sending(r->ws, true); /* what was overwritten unread counts no more */
    replica_sender_publish(r);
    r->conf.ops->peer_acked(r->conf.ctx, r->core.peer.store_id, s->epoch, durable, whole);
    r->conf.ops->changed(r->conf.ctx);
    replica_sender_drain_check(r, 0);
}

void replica_sender_publish(struct dmt_replica *r)
{
    struct replica_sender *s = &r->sender;
    uint64_t unacked = 0, taken = UINT64_MAX, retain = UINT64_MAX;
    if (s->reader && s->serve_upto == 0) {
        unacked = s->flight_bytes;
        uint64_t tail = replica_tail(r).seq;
        if (s->caught_up)
            taken = s->taken_bytes;
        else if (tail > s->sent_seq)
            unacked +=
                (tail - s->sent_seq) * (s->records ? r->raw_bytes / s->records + 1 : RECORD_GUESS);
        retain = r->core.acked;
    } else if (r->core.up && !r->core.peer.empty) {
        retain = r->core.peer.tail.seq;
    }
    struct replica_resync *rs = &r->resync;
    if (rs->floor_ms && replica_now_ms(r) - rs->floor_ms > FLOOR_KEEP_MS)
        rs->floor_ms = 0; /* the standby that wanted it does not come back */
    if (rs->floor_ms && rs->floor < retain)
        retain = rs->floor;
    atomic_store(&r->pub_unacked, unacked);
    atomic_store(&r->pub_taken, taken);
    atomic_store(&r->pub_retain, retain);
}

/* --- wants: what syncs wait for --------------------------------------------------------------- */

bool dmt_replica_have(struct dmt_replica *r, uint64_t ino, uint64_t ref_seq)
{
    bool wake;
    pthread_mutex_lock(&r->pub_lock);
    bool have = lane_have(&r->wants, ino, ref_seq, replica_now_ms(r), &wake);
    pthread_mutex_unlock(&r->pub_lock);
    if (wake)
        uv_async_send(&r->poke);
    return have;
}

/* Sends the wants that are new. Our durable position goes first: the standby's list is only as good
 * as what it has applied. */
void replica_sender_wants(struct dmt_replica *r)
{
    struct replica_sender *s = &r->sender;
    if (!s->reader || s->serve_upto > 0 || !r->conn)
        return;
    struct replica_want news[WANTS_MAX];
    pthread_mutex_lock(&r->pub_lock);
    unsigned n = lane_collect(&r->wants, s->sent_seq, news);
    pthread_mutex_unlock(&r->pub_lock);
    if (n > 0)
        replica_sender_commit(r, true);
    for (unsigned i = 0; i < n && r->conn; i++) {
        struct replica_msg m = {.type = REPLICA_WANT};
        m.WANT.epoch = s->epoch;
        m.WANT.ino = news[i].ino;
        m.WANT.seq = news[i].want;
        replica_conn_send(r->conn, &m);
    }
}

void replica_sender_have(struct dmt_replica *r, const struct replica_msg_HAVE *h)
{
    pthread_mutex_lock(&r->pub_lock);
    lane_got(&r->wants, h->ino, h->seq);
    pthread_mutex_unlock(&r->pub_lock);
    r->conf.ops->changed(r->conf.ctx);
    replica_sender_drain_check(r, 0);
}

/* --- drain ------------------------------------------------------------------------------------ */

/* err < 0: over. 0: look whether it is done or too late. */
void replica_sender_drain_check(struct dmt_replica *r, int err)
{
    struct replica_sender *s = &r->sender;
    if (!s->drain_fn)
        return;
    if (err == 0) {
        pthread_mutex_lock(&r->pub_lock);
        bool ordered = r->wants.streaming && r->wants.durable >= s->drain_seq;
        bool whole = ordered && r->wants.whole >= s->drain_seq;
        pthread_mutex_unlock(&r->pub_lock);
        if (!whole && replica_now_ms(r) < s->drain_deadline_ms)
            return;
        err = whole ? 0 : ordered ? DMT_E_RETRY : -ETIMEDOUT;
    }
    void (*fn)(void *arg, int err) = s->drain_fn;
    s->drain_fn = NULL;
    fn(s->drain_arg, err);
}

void replica_sender_tick(struct dmt_replica *r)
{
    struct replica_sender *s = &r->sender;
    if (s->reader && s->serve_upto == 0) {
        /* Plain writes nobody syncs: without this the standby would apply nothing (and ask for no
         * bulk bytes) until the next sync. */
        struct dmt_journal *j = dmt_ws_journal(r->ws);
        uint64_t tail = dmt_journal_tail(j).seq;
        if (dmt_journal_durable(j) < tail)
            dmt_journal_kick(j, tail);
        replica_sender_commit(r, false);
        replica_sender_wants(r);
    }
    replica_sender_drain_check(r, 0);
    replica_sender_publish(r);
}
