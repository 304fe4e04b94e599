/* lane.c: the decisions of the bulk lane on the side that has the bytes (lane.h): the table of what
 * syncs wait for, and the order in which ranges are served.
 *
 * Happy path: a sync asks lane_have; what the peer has not said it has is wanted, and sent once as
 * WANT behind the records it is about; HAVE, or an ACK whose `whole` is far enough, ends the wait.
 * Ranges for which a sync waits are served before all others. Failure modes: a stream that ends
 * takes with it what was said on it; who still waits asks again on the next. More files at once
 * than the table has places: the sync waits for everything instead. Pure; the caller's lock, if
 * any.
 */
#include "fs/replica/lane.h"

#include "fs/base/log.h"

/* --- wants ------------------------------------------------------------------------------------ */

void lane_stream(struct lane_wants *t, bool streaming)
{
    t->streaming = streaming;
    t->durable = t->whole = 0;
    for (unsigned i = 0; i < WANTS_MAX; i++) {
        struct replica_want *w = &t->v[i];
        /* What was had belongs to the stream it was said on; what is wanted is asked for again. */
        if (w->used && w->want <= w->have)
            w->used = false;
        w->have = w->sent = 0;
        t->ask = t->ask || w->used;
    }
}

/* Entry of ino, or a new one; NULL when all are busy. Entry 0 is for ino 0. */
static struct replica_want *want_of(struct lane_wants *t, uint64_t ino)
{
    struct replica_want *spare = NULL;
    for (unsigned i = ino == 0 ? 0 : 1; i < (ino == 0 ? 1 : WANTS_MAX); i++) {
        struct replica_want *w = &t->v[i];
        if (w->used && w->ino == ino)
            return w;
        bool rests = !w->used || w->want <= w->have;
        if (rests && (!spare || !w->used || w->asked_ms < spare->asked_ms))
            spare = w;
    }
    if (spare)
        *spare = (struct replica_want){.ino = ino, .used = true};
    return spare;
}

bool lane_have(struct lane_wants *t, uint64_t ino, uint64_t ref_seq, uint64_t now_ms, bool *wake)
{
    *wake = false;
    if (ref_seq == 0 || (t->streaming && t->whole >= ref_seq))
        return true;
    struct replica_want *w = want_of(t, ino);
    if (!w)
        w = want_of(t, 0); /* too many files at once: wait for everything instead */
    DMT_ASSERT(w);
    w->asked_ms = now_ms;
    if (t->streaming && w->have >= ref_seq)
        return true;
    if (w->want < ref_seq) {
        w->want = ref_seq;
        *wake = !t->ask;
        t->ask = true;
    }
    return false;
}

unsigned lane_collect(struct lane_wants *t, uint64_t sent_seq, struct replica_want *ret)
{
    unsigned n = 0;
    t->ask = false;
    for (unsigned i = 0; i < WANTS_MAX; i++) {
        struct replica_want *w = &t->v[i];
        if (!w->used || w->want <= w->have || w->sent >= w->want)
            continue;
        if (w->want > sent_seq) {
            t->ask = true; /* its record goes first */
            continue;
        }
        w->sent = w->want;
        ret[n++] = *w;
    }
    return n;
}

void lane_got(struct lane_wants *t, uint64_t ino, uint64_t seq)
{
    for (unsigned i = 0; i < WANTS_MAX; i++) {
        struct replica_want *w = &t->v[i];
        /* Only what was asked for on this stream (sent) can be answered. */
        if (w->used && w->ino == ino && seq <= w->sent && seq > w->have)
            w->have = seq;
    }
    if (ino == 0 && seq <= t->v[0].sent && seq > t->whole)
        t->whole = seq;
}

uint64_t lane_acked(struct lane_wants *t, uint64_t durable, uint64_t whole)
{
    t->durable = durable;
    if (whole > t->whole)
        t->whole = whole;
    return t->whole;
}

/* --- the order of serving --------------------------------------------------------------------- */

void lane_clear(struct lane_queue *q)
{
    q->at[0] = q->at[1] = q->n[0] = q->n[1] = 0;
}

bool lane_push(struct lane_queue *q, const struct replica_served *want, bool urgent)
{
    /* One place is kept for the rest of the range that is being read. */
    if (q->n[urgent] >= PULLS_MAX - 1)
        return false;
    q->v[urgent][(q->at[urgent] + q->n[urgent]++) % PULLS_MAX] = *want;
    return true;
}

bool lane_next(struct lane_queue *q, struct replica_served *ret, bool *urgent)
{
    *urgent = q->n[1] > 0;
    if (q->n[*urgent] == 0)
        return false;
    *ret = q->v[*urgent][q->at[*urgent]];
    q->at[*urgent] = (q->at[*urgent] + 1) % PULLS_MAX;
    q->n[*urgent]--;
    return true;
}

/* The rest of a range goes back to the front of its ring. */
void lane_rest(struct lane_queue *q, const struct replica_served *rest, bool urgent)
{
    unsigned *at = &q->at[urgent];
    DMT_ASSERT(q->n[urgent] < PULLS_MAX);
    *at = (*at + PULLS_MAX - 1) % PULLS_MAX;
    q->v[urgent][*at] = *rest;
    q->n[urgent]++;
}
