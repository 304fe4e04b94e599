/* pull_core.c: the decisions of the bulk lane on the side that lacks bytes (lane.h): what to ask
 * for next, what an answer is worth, when to make it durable.
 *
 * The list of what is missing is the workspace's (ops.missing_next): rows appear when a WRITE_REF
 * is applied, shrink when the range is overwritten or cut, and go when what was filled is durable.
 * This file owns what it has done about them: `asks`, each a range from PULL to the end of its
 * row.
 *
 *   1. pump: ranges that a WANT waits for first, then files by the size of what they lack, small
 *      ones first (`plan`). At most PULL_WINDOW_BYTES and PULLS_MAX are outstanding.
 *   2. BULK must be the next bytes of an outstanding ask, of its position; it is filled in.
 *   3. what was filled is synced when there is much of it, when nothing else is under way, or a
 *      WANT waits only for that.
 *   4. after it, asks that it covered are forgotten, and each WANT is looked at (pull_want.c).
 *
 * Failure modes: GONE (overwritten at the holder): the record that replaced it is on its way; the
 * range is held back until it is applied. The stream ends: all asks are forgotten; rows stay in the
 * list and are asked for again; those that were filled in but not synced are no longer told of, so
 * nothing is called durable before the first sync of the next stream.
 * Pure: no I/O, no clock, no thread; only its own memory. Thread: the caller's.
 */
#include "fs/replica/pull_int.h"

#include <stdlib.h>

#include "fs/base/log.h"

static void pump(struct replica_pull *p);
static void maybe_sync(struct replica_pull *p);

static bool on(const struct replica_pull *p)
{
    return p->on && p->ops->connected(p->ctx);
}

/* --- asks ------------------------------------------------------------------------------------- */

static struct replica_ask *ask_new(struct replica_pull *p, const struct dmt_missing *m, bool urgent)
{
    struct replica_ask *a = calloc(1, sizeof(*a));
    DMT_ASSERT(a);
    a->ino = m->ino;
    a->off = m->off;
    a->len = m->len;
    a->seq = m->seq;
    a->urgent = urgent;
    dmt_list_add_tail(pull_asks_of(p, a->ino), &a->bucket);
    dmt_list_add_tail(&p->asks, &a->all);
    p->asks_n++;
    return a;
}

static void ask_free(struct replica_pull *p, struct replica_ask *a)
{
    dmt_list_del(&a->bucket);
    dmt_list_del(&a->all);
    p->asks_n--;
    free(a);
}

/* The first part of row at or after pos that no ask covers: 1 and *ret, or 0. */
static int uncovered(struct replica_pull *p, const struct dmt_missing *row, uint64_t pos,
                     struct dmt_missing *ret)
{
    uint64_t end = row->off + row->len;
    if (pos < row->off)
        pos = row->off;
    for (bool moved = true; moved && pos < end;) {
        moved = false;
        DMT_LIST_EACH(it, tmp, pull_asks_of(p, row->ino))
        {
            const struct replica_ask *a = DMT_CONTAINER(it, struct replica_ask, bucket);
            if (a->ino == row->ino && a->seq == row->seq && a->off <= pos &&
                pos < a->off + a->len) {
                pos = a->off + a->len;
                moved = true;
            }
        }
    }
    if (pos >= end)
        return 0;
    if (end - pos > PULL_LEN_MAX)
        end = pos + PULL_LEN_MAX;
    DMT_LIST_EACH(it, tmp, pull_asks_of(p, row->ino))
    {
        const struct replica_ask *a = DMT_CONTAINER(it, struct replica_ask, bucket);
        if (a->ino == row->ino && a->seq == row->seq && a->off > pos && a->off < end)
            end = a->off;
    }
    *ret = (struct dmt_missing){row->ino, pos, end - pos, row->seq};
    return 1;
}

/* Next range of ino in [*off, hi) that is missing and not asked for; *off moves past it. */
static int next_unasked(struct replica_pull *p, uint64_t ino, uint64_t *off, uint64_t hi,
                        struct dmt_missing *ret)
{
    struct dmt_missing row;
    uint64_t at = *off;
    /* A row that began before `off` was looked at when `off` passed its beginning; what is left of
     * it follows there. */
    while (p->ops->missing_next(p->ctx, ino, at, &row) == 1 && row.ino == ino && row.off < hi) {
        if (uncovered(p, &row, *off, ret)) {
            /* Stay in this row: the next look begins at its start and skips what is asked for by
             * then. */
            *off = row.off;
            return 1;
        }
        at = *off = row.off + row.len;
    }
    return 0;
}

static void send_pull(struct replica_pull *p, const struct dmt_missing *m, bool urgent)
{
    ask_new(p, m, urgent);
    p->outstanding_n++;
    p->outstanding_bytes += m->len;
    p->urgent_n += urgent;
    p->ops->pull(p->ctx, m, urgent);
}

/* --- plan: which files first ------------------------------------------------------------------ */

static int by_bytes(const void *a, const void *b)
{
    const struct replica_plan_ino *x = a, *y = b;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

size_t pull_plan(const struct pull_ops *ops, void *ctx, struct replica_plan_ino *v)
{
    struct dmt_missing m = {0};
    uint64_t ino = 0, off = 0;
    unsigned of_this = 0;
    size_t n = 0;
    for (unsigned rows = 0; rows < PLAN_ROWS_MAX && ops->missing_next(ctx, ino, off, &m) == 1;
         rows++) {
        if (n == 0 || v[n - 1].ino != m.ino) {
            if (n == PLAN_INOS_MAX)
                break;
            v[n++] = (struct replica_plan_ino){m.ino, 0};
            of_this = 0;
        }
        v[n - 1].bytes += m.len;
        bool enough =
            ++of_this == 64; /* that many rows are a large file: where it ends does not matter */
        ino = enough ? m.ino + 1 : m.ino;
        off = enough ? 0 : m.off + m.len;
    }
    qsort(v, n, sizeof(v[0]), by_bytes);
    return n;
}

void pull_planned(struct replica_pull *p, uint64_t gen, struct replica_plan_ino *v, size_t n,
                  uint64_t now_ms)
{
    if (gen == p->gen && p->on) {
        p->planning = false;
        free(p->plan);
        p->plan = v;
        p->plan_n = n;
        p->plan_at = 0;
        p->plan_off = 0;
        p->plan_ms = p->now_ms = now_ms;
    } else {
        free(v);
    }
    pump(p);
}

static void plan_start(struct replica_pull *p)
{
    struct dmt_missing m;
    p->plan_stale = false;
    if (p->ops->missing_next(p->ctx, 0, 0, &m) != 1)
        return;
    p->planning = true;
    p->ops->plan(p->ctx, p->gen);
}

/* --- pump ------------------------------------------------------------------------------------- */

static bool room(const struct replica_pull *p)
{
    return p->outstanding_n < PULLS_MAX && p->outstanding_bytes < PULL_WINDOW_BYTES &&
           p->asks_n < ASKS_MAX && p->filled_bytes < 4ull * FILLED_SYNC_BYTES;
}

static bool ask_for_waiting(struct replica_pull *p, struct replica_waiting *w)
{
    struct dmt_missing m;
    if (!w->started || w->own)
        return false;
    for (size_t i = w->n; i-- > 0;) {
        uint64_t off = i + 1 == w->n ? w->off : 0;
        if (w->hulls[i].ino == 0 || !next_unasked(p, w->hulls[i].ino, &off, w->hulls[i].hi, &m))
            continue;
        if (i + 1 == w->n)
            w->off = off;
        send_pull(p, &m, true);
        return true;
    }
    return false;
}

static bool ask_next(struct replica_pull *p)
{
    DMT_LIST_EACH(it, tmp, &p->waiting)
    {
        if (ask_for_waiting(p, DMT_CONTAINER(it, struct replica_waiting, node)))
            return true;
    }
    struct dmt_missing m;
    for (; p->plan_at < p->plan_n; p->plan_at++, p->plan_off = 0)
        if (next_unasked(p, p->plan[p->plan_at].ino, &p->plan_off, UINT64_MAX, &m)) {
            send_pull(p, &m, false);
            return true;
        }
    return false;
}

static void pump(struct replica_pull *p)
{
    while (on(p) && room(p) && ask_next(p))
        ;
    if (!on(p))
        return;
    bool old_plan = p->plan_at >= p->plan_n || p->now_ms - p->plan_ms > 1000;
    if (p->plan_stale && !p->planning && old_plan)
        plan_start(p);
    maybe_sync(p);
}

/* --- sync ------------------------------------------------------------------------------------- */

static void forget_synced(struct replica_pull *p, uint64_t no)
{
    DMT_LIST_EACH(it, tmp, &p->asks)
    {
        struct replica_ask *a = DMT_CONTAINER(it, struct replica_ask, all);
        if (a->state == ASK_FILLED && a->sync_no <= no) {
            p->filled_bytes -= a->len;
            ask_free(p, a);
        }
    }
}

bool pull_synced(struct replica_pull *p, uint64_t gen, uint64_t no, int rc)
{
    bool current = gen == p->gen && p->on;
    if (rc >= 0 && no > p->synced_no)
        p->synced_no = no;
    p->sync_job = false;
    if (current && rc >= 0)
        forget_synced(p, no);
    if (!current)
        pump(p);
    return current;
}

static void maybe_sync(struct replica_pull *p)
{
    bool dirty = p->synced_no < p->dirty_no;
    if (p->sync_job || p->fill_jobs > 0 || (p->filled_bytes == 0 && !dirty))
        return;
    bool asked_for = dirty || (p->wanted_n > 0 && p->urgent_n == 0);
    if (p->filled_bytes < FILLED_SYNC_BYTES && p->outstanding_n > 0 && !asked_for)
        return;
    p->sync_job = true;
    p->ops->sync(p->ctx, p->gen, ++p->sync_no);
}

/* --- fill ------------------------------------------------------------------------------------- */

/* All that came of it is filled in? The next sync to start makes it durable. */
static void note_filled(struct replica_pull *p, struct replica_ask *a)
{
    if (a->state != ASK_ARRIVED || a->filled < a->len)
        return;
    a->state = ASK_FILLED;
    a->sync_no = p->sync_no + 1;
    p->filled_bytes += a->len;
    p->urgent_n -= a->urgent;
}

static void fill_start(struct replica_pull *p)
{
    if (p->filling || !p->arrived)
        return;
    struct replica_chunk *list = p->arrived;
    p->arrived = NULL;
    p->arrived_tail = &p->arrived;
    p->filling = true;
    p->fill_jobs++;
    p->ops->fill(p->ctx, p->gen, list);
}

bool pull_filled(struct replica_pull *p, uint64_t gen, struct replica_chunk *list, int rc)
{
    bool current = gen == p->gen && p->on;
    for (struct replica_chunk *c = list, *next; c; c = next) {
        next = c->next;
        if (current) {
            c->ask->filled += c->m.len;
            note_filled(p, c->ask);
        }
        free(c);
    }
    p->fill_jobs--;
    if (!current) {
        p->dirty_no = p->sync_no + 1;
        pump(p);
        return false;
    }
    p->filling = false;
    if (rc < 0)
        return true;
    fill_start(p);
    pump(p);
    return true;
}

/* --- BULK and GONE ---------------------------------------------------------------------------- */

struct replica_ask *pull_asked(struct replica_pull *p, uint64_t ino, uint64_t off, uint64_t len,
                               uint64_t seq)
{
    DMT_LIST_EACH(it, tmp, pull_asks_of(p, ino))
    {
        struct replica_ask *a = DMT_CONTAINER(it, struct replica_ask, bucket);
        if (a->state == ASK_OUT && a->ino == ino && a->seq == seq && a->off + a->got == off &&
            len <= a->len - a->got)
            return a;
    }
    return NULL;
}

void pull_arrived(struct replica_pull *p, struct replica_ask *a, struct replica_chunk *c,
                  uint64_t len)
{
    c->next = NULL;
    c->m = (struct dmt_missing){a->ino, a->off + a->got, len, a->seq};
    c->ask = a;
    a->got += len;
    p->outstanding_bytes -= len;
    if (a->got == a->len) {
        p->outstanding_n--;
        a->state = ASK_ARRIVED;
    }
    *p->arrived_tail = c;
    p->arrived_tail = &c->next;
    fill_start(p);
    pump(p);
}

int pull_gone(struct replica_pull *p, const struct dmt_missing *m, uint64_t tail, uint64_t now_ms)
{
    struct replica_ask *a = pull_asked(p, m->ino, m->off, 0, m->seq);
    if (!a || m->len != a->len - a->got)
        return -EPROTO;
    /* What came before the gap counts; the rest is held until the record that replaced it is
     * applied. */
    p->outstanding_n--;
    p->outstanding_bytes -= m->len;
    if (a->got > 0) {
        struct dmt_missing rest = {a->ino, a->off + a->got, m->len, a->seq};
        a->len = a->got;
        a->state = ASK_ARRIVED;
        note_filled(p, a);
        a = ask_new(p, &rest, false);
    } else {
        p->urgent_n -= a->urgent;
        a->urgent = false;
    }
    a->state = ASK_GONE;
    a->until = tail;
    a->until_ms = now_ms + GONE_HOLD_MS;
    p->now_ms = now_ms;
    pump(p);
    return 0;
}

/* --- life ------------------------------------------------------------------------------------- */

void pull_init(struct replica_pull *p, const struct pull_ops *ops, void *ctx)
{
    p->ops = ops;
    p->ctx = ctx;
    for (unsigned i = 0; i < 256; i++)
        dmt_list_init(&p->buckets[i]);
    dmt_list_init(&p->asks);
    dmt_list_init(&p->waiting);
    p->arrived_tail = &p->arrived;
}

void pull_start(struct replica_pull *p, uint64_t applied, uint64_t now_ms)
{
    DMT_ASSERT(!p->on && p->asks_n == 0);
    p->on = true;
    p->whole = 0;
    p->plan_stale = true;
    p->dirty_no = p->sync_no + 1;
    pull_applied(p, applied, now_ms);
}

void pull_applied(struct replica_pull *p, uint64_t applied, uint64_t now_ms)
{
    p->applied = applied;
    p->now_ms = now_ms;
    if (!on(p))
        return;
    p->plan_stale = true;
    pull_waiting_check(p);
    if (on(p))
        pump(p);
}

void pull_stop(struct replica_pull *p)
{
    p->on = false;
    p->gen++;
    DMT_LIST_EACH(it, tmp, &p->asks)
    {
        ask_free(p, DMT_CONTAINER(it, struct replica_ask, all));
    }
    DMT_LIST_EACH(it, tmp, &p->waiting)
    {
        pull_waiting_free(p, DMT_CONTAINER(it, struct replica_waiting, node));
    }
    for (struct replica_chunk *c = p->arrived, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    p->arrived = NULL;
    p->arrived_tail = &p->arrived;
    free(p->plan);
    p->plan = NULL;
    p->plan_n = p->plan_at = 0;
    p->outstanding_n = p->urgent_n = 0;
    p->outstanding_bytes = p->filled_bytes = 0;
    p->planning = p->filling = false;
}

void pull_tick(struct replica_pull *p, uint64_t now_ms)
{
    if (!on(p))
        return;
    p->now_ms = now_ms;
    DMT_LIST_EACH(it, tmp, &p->asks)
    {
        struct replica_ask *a = DMT_CONTAINER(it, struct replica_ask, all);
        if (a->state == ASK_GONE && p->applied >= a->until && now_ms >= a->until_ms) {
            ask_free(p, a);
            p->plan_stale = true;
        }
    }
    pump(p);
}
