/* pull_want.c: what may be called had: the waits of the bulk lane on the side that lacks bytes
 * (lane.h).
 *
 * Owns the list `waiting`, and `whole`. Happy path: a WANT is looked at when its record is applied:
 * all that was missing then has come or was replaced by something that has come, and is durable ->
 * HAVE.
 *
 * A WANT waits for everything missing of its file below `hi`, the end of the last missing range at
 * the time its record was applied: so what replaces an awaited range is awaited, too
 * (docs/protocol.md, two lanes), while an appending writer does not extend the wait. And if the
 * file is not complete then, what it falls back to must be that new, too. Our own WANT of
 * everything moves `whole`.
 *
 * Failure modes: more files than can be told apart: the wait ends when nothing is missing at all.
 * The list cannot be read, or is no reader's any more (this machine is being promoted): nothing is
 * called had. More waits than agreed: -EPROTO.
 * Pure: no I/O, no clock, no thread; only its own memory. Thread: the caller's.
 */
#include "fs/replica/pull_int.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/base/log.h"

static void add_hull(struct replica_waiting *w, uint64_t ino, uint64_t hi)
{
    struct replica_hull *v = realloc(w->hulls, (w->n + 1) * sizeof(*v));
    DMT_ASSERT(v);
    w->hulls = v;
    v[w->n++] = (struct replica_hull){ino, hi};
}

/* Of what an earlier stream has filled in we know no ranges any more: until a sync has covered all
 * of it no wait can be judged. */
static bool is_clean(const struct replica_pull *p)
{
    return p->synced_no >= p->dirty_no && p->fill_jobs <= p->filling;
}

/* The list no longer tells of a range that is filled in, but it is only there once it is
 * durable. */
static bool is_undurable(const struct replica_ask *a, const struct replica_hull *h)
{
    return (h->ino == 0 || (a->ino == h->ino && a->off < h->hi)) &&
           (a->state == ASK_ARRIVED || a->state == ASK_FILLED ||
            (a->state == ASK_OUT && a->got > 0));
}

static bool any_undurable(struct replica_pull *p, const struct replica_hull *h)
{
    if (h->ino == 0) {
        DMT_LIST_EACH(it, tmp, &p->asks)
        {
            if (is_undurable(DMT_CONTAINER(it, struct replica_ask, all), h))
                return true;
        }
        return false;
    }
    DMT_LIST_EACH(it, tmp, pull_asks_of(p, h->ino))
    {
        if (is_undurable(DMT_CONTAINER(it, struct replica_ask, bucket), h))
            return true;
    }
    return false;
}

/* Ranges that are filled in and not durable yet count like missing ones: their files' hulls reach
 * over them. */
static void add_hulls_of_asks(struct replica_pull *p, struct replica_waiting *w)
{
    struct replica_hull all = {w->ino, UINT64_MAX};
    DMT_LIST_EACH(it, tmp, &p->asks)
    {
        const struct replica_ask *a = DMT_CONTAINER(it, struct replica_ask, all);
        if (!is_undurable(a, &all))
            continue;
        struct replica_hull *h = NULL;
        for (size_t i = 0; i < w->n && !h; i++)
            h = w->hulls[i].ino == a->ino ? &w->hulls[i] : NULL;
        if (!h && w->n < HULLS_MAX) {
            add_hull(w, a->ino, 0);
            h = &w->hulls[w->n - 1];
        }
        if (!h) { /* too many to tell apart */
            w->n = 0;
            add_hull(w, 0, UINT64_MAX);
            return;
        }
        if (h->hi < a->off + a->len)
            h->hi = a->off + a->len;
    }
}

/* What the WANT waits for: the ends of what is missing now, file by file. */
static void find_hulls(struct replica_pull *p, struct replica_waiting *w)
{
    struct dmt_missing m;
    uint64_t ino = w->ino, off = 0;
    unsigned rows = 0;
    w->started = true;
    int r;
    while ((r = p->ops->missing_next(p->ctx, ino, off, &m)) == 1 &&
           (w->ino == 0 || m.ino == w->ino)) {
        if (w->n == 0 || w->hulls[w->n - 1].ino != m.ino) {
            if (w->n == HULLS_MAX) { /* too many to tell apart: until nothing is missing at all */
                w->n = 0;
                add_hull(w, 0, UINT64_MAX);
                return;
            }
            add_hull(w, m.ino, 0);
        }
        bool enough = ++rows >= HULL_ROWS_MAX;
        w->hulls[w->n - 1].hi = enough ? UINT64_MAX : m.off + m.len;
        ino = enough ? m.ino + 1 : m.ino;
        off = enough ? 0 : m.off + m.len;
    }
    if (r < 0) { /* the list cannot be read: nothing is known to be here */
        w->n = 0;
        add_hull(w, 0, UINT64_MAX);
        return;
    }
    /* Nothing is missing, but is all of it durable? */
    struct replica_hull all = {w->ino, UINT64_MAX};
    if (any_undurable(p, &all))
        add_hulls_of_asks(p, w);
}

static bool hull_done(struct replica_pull *p, const struct replica_hull *h, uint64_t seq)
{
    struct dmt_missing m;
    int r = p->ops->missing_next(p->ctx, h->ino, 0, &m);
    bool more = r == 1 && (h->ino == 0 || (m.ino == h->ino && m.off < h->hi));
    return r >= 0 && !more && !any_undurable(p, h) &&
           (h->ino == 0 || p->ops->covers(p->ctx, h->ino, seq));
}

void pull_waiting_free(struct replica_pull *p, struct replica_waiting *w)
{
    dmt_list_del(&w->node);
    p->waiting_n--;
    p->wanted_n -= !w->own;
    free(w->hulls);
    free(w);
}

static struct replica_waiting *waiting_new(struct replica_pull *p, uint64_t ino, uint64_t seq,
                                           bool own)
{
    struct replica_waiting *w = calloc(1, sizeof(*w));
    DMT_ASSERT(w);
    w->ino = ino;
    w->seq = seq;
    w->own = own;
    dmt_list_add_tail(&p->waiting, &w->node);
    p->waiting_n++;
    p->wanted_n += !own;
    return w;
}

void pull_waiting_check(struct replica_pull *p)
{
    bool own = false;
    if (!is_clean(p))
        return;
    DMT_LIST_EACH(it, tmp, &p->waiting)
    {
        struct replica_waiting *w = DMT_CONTAINER(it, struct replica_waiting, node);
        if (!w->started && p->applied >= w->seq)
            find_hulls(p, w);
        for (; w->started && w->n > 0 && hull_done(p, &w->hulls[w->n - 1], w->seq); w->n--)
            w->off = 0;
        if (!w->started || w->n > 0) {
            own = own || w->own;
            continue;
        }
        uint64_t ino = w->ino, seq = w->seq;
        bool is_own = w->own;
        /* before anything is sent: a connection that ends frees the whole list */
        pull_waiting_free(p, w);
        if (is_own)
            p->whole = seq;
        else
            p->ops->have(p->ctx, ino, seq);
        if (!p->on)
            return;
    }
    if (own || p->whole >= p->applied)
        return;
    struct replica_hull all = {0, UINT64_MAX};
    uint64_t applied =
        p->applied; /* read before the look: what comes later is not part of the claim */
    if (hull_done(p, &all, 0))
        p->whole = applied;
    else
        find_hulls(p, waiting_new(p, 0, applied, true));
}

int pull_want(struct replica_pull *p, uint64_t ino, uint64_t seq, uint64_t now_ms)
{
    DMT_LIST_EACH(it, tmp, &p->waiting)
    {
        struct replica_waiting *w = DMT_CONTAINER(it, struct replica_waiting, node);
        if (!w->own && !w->started && w->ino == ino) {
            w->seq = seq > w->seq ? seq : w->seq;
            return 0;
        }
    }
    if (p->waiting_n >= WAITING_MAX)
        return -EPROTO;
    waiting_new(p, ino, seq, false);
    pull_applied(p, p->applied, now_ms);
    return 0;
}
