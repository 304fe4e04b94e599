/* plan.c: from "last Tuesday" to a list of objects.
 *
 * Happy path: the claims node/<k> name the nodes; each series' end is found; the tip is the
 * position object with the highest (epoch, seq) of all nodes, for epochs only grow along the
 * surviving history. From the tip back: a run is contiguous (A3), so the object that holds the
 * wanted moment is bisected in it; the run's head names its base or the object of another series
 * that it continues (prev), where (seq, chain) must meet exactly. The first base at or before the
 * moment ends the search. Records that only a loser uploaded are on no such path: they are never
 * restored.
 *
 * Failure modes. A missing object inside a series is told from the end by LIST and by looking a few
 * numbers further; objects behind the wanted moment do not matter. Damage in the way is reported
 * with its key and the last position before it. A moment that falls between the end of a run and
 * the base of the next (the journal had been cut to its cap) is DMT_E_GONE with both ends. Thread:
 * any; one plan belongs to one caller. */
#include "fs/archive/plan.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/base/clock.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"

#define NODES_MAX    1000
#define LINEAGES_MAX 16
#define RUNS_MAX     100000

struct nodes {
    struct {
        char name[DMT_NODE_NAME_MAX + 1];
        uint64_t listed; /* numbers below are said to exist by LIST */
    } * v;
    size_t n;
};

static bool is_position(const struct archive_hdr *h)
{
    return h->kind == ARCHIVE_JOURNAL ||
           (h->kind == ARCHIVE_BASE && (h->flags & ARCHIVE_BASE_LAST));
}

static bool within(const struct plan *p, uint64_t seq, uint64_t time)
{
    return seq <= p->to_seq && time <= p->to_time;
}

/* --- damage */

int plan_damaged(const char *key, bool missing, const struct archive_hdr *h, struct dmt_err *err)
{
    const char *what = missing ? "missing" : "damaged";
    char t[32];
    if (!h) {
        dmt_err_set(err, DMT_E_CORRUPT, "object %s is %s; nothing before it can be restored either",
                    key, what);
        return DMT_E_CORRUPT;
    }
    dmt_err_set(err, DMT_E_CORRUPT,
                "object %s is %s; the archive can be restored up to position %" PRIu64 " (%s)", key,
                what, h->last_seq, dmt_time_format(h->last_time, t));
    dmt_err_hint(err, "ask for that moment with --to %s", t);
    return DMT_E_CORRUPT;
}

int plan_base_damaged(const struct plan *p, const char *key, bool missing, struct dmt_err *err)
{
    struct archive_hdr h;
    const struct archive_hdr *b = &p->base_hdr;
    if (b->prev_n != ARCHIVE_NONE &&
        !series_hdr(&p->src, p->lineage, b->prev_node, b->prev_n, &h, NULL) && is_position(&h))
        return plan_damaged(key, missing, &h, err);
    return plan_damaged(key, missing, NULL, err);
}

static bool is_damage(int r)
{
    return r == -ENOENT || r == DMT_E_CORRUPT;
}

/* --- nodes and lineages */

static int nodes_add(struct nodes *ns, const char *name, uint64_t listed)
{
    for (size_t i = 0; i < ns->n; i++) {
        if (!strcmp(ns->v[i].name, name)) {
            if (listed > ns->v[i].listed)
                ns->v[i].listed = listed;
            return 0;
        }
    }
    if (ns->n >= NODES_MAX)
        return -E2BIG;
    void *v = realloc(ns->v, (ns->n + 1) * sizeof(*ns->v));
    if (!v)
        return -ENOMEM;
    ns->v = v;
    snprintf(ns->v[ns->n].name, sizeof(ns->v[0].name), "%s", name);
    ns->v[ns->n++].listed = listed;
    return 0;
}

/* log/<lineage>/<node>/<n>.lz4 */
static int on_listed(void *ctx, const char *key, uint64_t size)
{
    char name[DMT_NODE_NAME_MAX + 1];
    uint64_t n;
    int used = 0;
    (void)size;
    if (strlen(key) < 37 ||
        sscanf(key + 37, "%64[A-Za-z0-9._-]/%12" SCNu64 ".lz4%n", name, &n, &used) != 2 || !used)
        return 0;
    return nodes_add(ctx, name, n + 1);
}

static int nodes_find(const struct plan *p, struct nodes *ns, struct dmt_err *err)
{
    char prefix[64] = "log/";
    struct dmt_err lost;
    for (uint64_t k = 0; k < NODES_MAX; k++) {
        struct series_claim c;
        int r = series_claim_get(&p->src, k, &c, err);
        if (r == -ENOENT)
            break;
        if (r == DMT_E_CORRUPT) {
            dmt_warn("archive: object node/%" PRIu64
                     " is damaged; its series is looked for by listing",
                     k);
            continue;
        }
        if (!r && !memcmp(c.lineage, p->lineage, 16))
            r = nodes_add(ns, c.node, 0);
        if (r)
            return r;
    }
    dmt_hex(p->lineage, 16, prefix + 4);
    strncat(prefix, "/", 2);
    if (p->os && dmt_objstore_list(p->os, prefix, on_listed, ns, &lost))
        dmt_warn("archive: listing failed (%s); going by single objects", lost.msg);
    return ns->n
               ? 0
               : dmt_err_set(err, -ENOENT, "the archive holds no node's series of this workspace");
}

/* A lineage that another one was forced out of is the past of that one. */
static size_t drop_past(uint8_t found[][16], size_t n, uint8_t past[][16], size_t past_n)
{
    for (size_t i = 0; i < n;) {
        size_t k = 0;
        while (k < past_n && memcmp(found[i], past[k], 16) != 0)
            k++;
        if (k < past_n)
            memmove(found[i], found[--n], 16);
        else
            i++;
    }
    return n;
}

int plan_lineage(struct plan *p, const char *hex, struct dmt_err *err)
{
    uint8_t found[LINEAGES_MAX][16], past[LINEAGES_MAX][16];
    static const uint8_t none[16];
    size_t n = 0, past_n = 0;
    if (hex)
        return dmt_unhex(hex, p->lineage, 16)
                   ? dmt_err_set(err, DMT_E_CONFIG, "%s is not a lineage: 32 hex digits", hex)
                   : 0;
    for (uint64_t k = 0; k < NODES_MAX; k++) {
        struct series_claim c;
        size_t i = 0;
        int r = series_claim_get(&p->src, k, &c, err);
        if (r == -ENOENT)
            break;
        if (r == DMT_E_CORRUPT)
            continue;
        if (r)
            return r;
        while (i < n && memcmp(found[i], c.lineage, 16) != 0)
            i++;
        if (i == n && n < LINEAGES_MAX)
            memcpy(found[n++], c.lineage, 16);
        if (memcmp(c.from, none, 16) != 0 && past_n < LINEAGES_MAX)
            memcpy(past[past_n++], c.from, 16);
    }
    n = drop_past(found, n, past, past_n);
    if (!n)
        return dmt_err_set(err, -ENOENT, "there is no Dumont archive (no object node/0)");
    memcpy(p->lineage, found[0], 16);
    if (n == 1)
        return 0;
    char all[LINEAGES_MAX * 34 + 1] = "";
    for (size_t i = 0; i < n; i++) {
        char h[34] = " ";
        dmt_hex(found[i], 16, h + 1);
        strncat(all, h, sizeof(all) - strlen(all) - 1);
    }
    dmt_err_set(err, DMT_E_CONFIG, "the archive holds %zu workspaces:%.400s", n, all);
    dmt_err_hint(err, "name one of these lineages with --lineage");
    return DMT_E_CONFIG;
}

/* --- the tip */

/* First number behind everything that any evidence shows. */
static int furthest_end(const struct plan *p, const char *node, uint64_t listed, uint64_t *ret,
                        struct dmt_err *err)
{
    uint64_t end = listed;
    bool hole = true;
    while (hole) {
        int r = series_end(&p->src, p->lineage, node, end, &end, &hole, err);
        if (r)
            return r;
        if (hole)
            end++; /* the absent number; what lies behind it is found by the next round */
    }
    *ret = end;
    return 0;
}

struct tip {
    bool any;
    struct archive_hdr h;
    char bad_key[SERIES_KEY_MAX]; /* damage between this position and the end of its series */
    bool bad_missing;
};

static int tip_of(const struct plan *p, const char *node, uint64_t listed, struct tip *t,
                  struct dmt_err *err)
{
    uint64_t n;
    int r = furthest_end(p, node, listed, &n, err);
    while (!r && n-- > 0) {
        struct archive_hdr h;
        r = series_hdr(&p->src, p->lineage, node, n, &h, err);
        if (is_damage(r)) {
            series_key(t->bad_key, p->lineage, node, n);
            t->bad_missing = r == -ENOENT;
            r = 0;
            continue;
        }
        if (!r && is_position(&h)) {
            t->any = true;
            t->h = h;
            return 0;
        }
    }
    return r;
}

static int find_tip(const struct plan *p, struct tip *best, struct dmt_err *err)
{
    struct nodes ns = {0};
    struct tip t;
    int r = nodes_find(p, &ns, err);
    memset(best, 0, sizeof(*best));
    for (size_t i = 0; i < ns.n && !r; i++) {
        memset(&t, 0, sizeof(t));
        r = tip_of(p, ns.v[i].name, ns.v[i].listed, &t, err);
        if (r)
            break;
        bool higher = t.any && (!best->any || t.h.epoch > best->h.epoch ||
                                (t.h.epoch == best->h.epoch && t.h.last_seq > best->h.last_seq));
        if (higher || (!best->any && t.bad_key[0]))
            *best = t;
    }
    free(ns.v);
    if (r)
        return r;
    if (!best->any && best->bad_key[0])
        return plan_damaged(best->bad_key, best->bad_missing, NULL, err);
    if (!best->any)
        return dmt_err_set(err, -ENOENT, "the archive holds nothing of this workspace yet");
    /* Damage behind the tip matters only if the moment asked for may lie there. */
    if (best->bad_key[0] && within(p, best->h.last_seq, best->h.last_time) &&
        (p->to_seq > best->h.last_seq && p->to_time > best->h.last_time))
        return plan_damaged(best->bad_key, best->bad_missing, &best->h, err);
    return 0;
}

/* --- runs, from the tip back */

static int seg_add(struct plan *p, const char *node, uint64_t first_n, uint64_t last_n)
{
    if (p->n_seg == p->cap_seg) {
        size_t cap = p->cap_seg ? p->cap_seg * 2 : 8;
        struct plan_seg *v = realloc(p->seg, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        p->seg = v;
        p->cap_seg = cap;
    }
    struct plan_seg *s = &p->seg[p->n_seg++];
    snprintf(s->node, sizeof(s->node), "%s", node);
    s->first_n = first_n;
    s->last_n = last_n;
    return 0;
}

/* Damage met while looking for an object of [first, ...]: name it, with the last good position
 * before it. */
static int damage_in_run(const struct plan *p, const char *node, uint64_t first, uint64_t bad,
                         struct dmt_err *err)
{
    char key[SERIES_KEY_MAX];
    struct archive_hdr h;
    int r = series_hdr(&p->src, p->lineage, node, bad, &h, NULL);
    series_key(key, p->lineage, node, bad);
    for (uint64_t n = bad; n-- > first;) {
        int rr = series_hdr(&p->src, p->lineage, node, n, &h, NULL);
        if (!rr && is_position(&h))
            return plan_damaged(key, r == -ENOENT, &h, err);
        if (is_damage(rr)) { /* an earlier one: that is the one that matters */
            series_key(key, p->lineage, node, n);
            r = rr;
        }
    }
    return plan_damaged(key, r == -ENOENT, NULL, err);
}

/* What was found in a run: the journal object with the newest record within the limits, and damage
 * behind it. */
struct look {
    bool found;
    struct archive_hdr h;
    bool damaged, missing;
    uint64_t bad_n;
};

/* The moment asked for lies behind this object. */
static bool beyond(const struct plan *p, const struct archive_hdr *h)
{
    return p->to_seq > h->last_seq && p->to_time > h->last_time;
}

static int look_damaged(const struct plan *p, const struct look *l, const char *node,
                        const struct archive_hdr *good, struct dmt_err *err)
{
    char key[SERIES_KEY_MAX];
    series_key(key, p->lineage, node, l->bad_n);
    return plan_damaged(key, l->missing, good, err);
}

static void note_damage(struct look *l, uint64_t n, int r)
{
    l->damaged = true;
    l->missing = r == -ENOENT;
    l->bad_n = n;
}

/* Takes object n if it is a journal object: 1, 0 it is none, < 0. */
static int take_journal(const struct plan *p, const char *node, uint64_t n, struct look *l,
                        struct dmt_err *err)
{
    struct archive_hdr h;
    int r = series_hdr(&p->src, p->lineage, node, n, &h, err);
    if (r || h.kind != ARCHIVE_JOURNAL)
        return r;
    l->found = true;
    l->h = h;
    return 1;
}

/* Bisects objects first..last. What cannot be read ends the search on its right: objects behind it
 * could not be used anyway. */
static int bisect(const struct plan *p, const char *node, uint64_t first, uint64_t last,
                  struct look *l, struct dmt_err *err)
{
    uint64_t lo = first, hi = last + 1; /* below lo all begin within the limits, from hi on none */
    int r = 0;
    while (lo < hi) {
        struct archive_hdr h;
        uint64_t mid = lo + (hi - lo) / 2;
        r = series_hdr(&p->src, p->lineage, node, mid, &h, err);
        if (r && !is_damage(r))
            return r;
        if (!r && within(p, h.first_seq, h.first_time)) {
            lo = mid + 1;
            continue;
        }
        hi = mid;
        if (r)
            note_damage(l, mid, r);
    }
    if (lo == first)
        return 0;
    /* Bulk objects come before theirs: forward to it or, if it is gone, back to the one before. */
    uint64_t end = l->damaged ? l->bad_n : last + 1;
    r = 0;
    for (uint64_t n = lo - 1; n < end && !r; n++) {
        r = take_journal(p, node, n, l, err);
        if (is_damage(r))
            note_damage(l, n, r);
    }
    for (uint64_t n = lo - 1; n-- > first && (!r || is_damage(r));)
        r = take_journal(p, node, n, l, err);
    return r < 0 && !is_damage(r) ? r : 0;
}

/* A run that starts with a base: done when the base is within the limits. 1 done, 0 older is
 * wanted. */
static int take_base(struct plan *p, const struct archive_hdr *h, struct dmt_err *err)
{
    char key[SERIES_KEY_MAX];
    uint64_t last = h->base_n + h->base_parts - 1;
    series_key(key, p->lineage, h->node, last);
    p->base_hdr = *h; /* for prev, should the base be damaged */
    int r = h->base_parts ? series_hdr(&p->src, p->lineage, h->node, last, &p->base_hdr, err)
                          : DMT_E_CORRUPT;
    if (is_damage(r)) {
        p->base_hdr = *h;
        return plan_base_damaged(p, key, r == -ENOENT, err);
    }
    if (r)
        return r;
    if (!within(p, p->base_hdr.last_seq, p->base_hdr.last_time))
        return 0;
    snprintf(p->base.node, sizeof(p->base.node), "%s", h->node);
    p->base.first_n = h->base_n;
    p->base.last_n = last;
    return 1;
}

static int too_old(const struct archive_hdr *h, struct dmt_err *err)
{
    char t[32];
    return dmt_err_set(
        err, -ENOENT,
        "the archive begins at position %" PRIu64 " (%s): nothing in it is as old as that",
        h->kind == ARCHIVE_BASE ? h->last_seq : h->first_seq, dmt_time_format(h->first_time, t));
}

static int gap(const struct archive_hdr *prev, const struct archive_hdr *base, struct dmt_err *err)
{
    char a[32], b[32];
    dmt_time_format(prev->last_time, a);
    dmt_time_format(base->last_time, b);
    dmt_err_set(err, DMT_E_GONE,
                "the archive has no records between positions %" PRIu64 " (%s) and %" PRIu64
                " (%s)",
                prev->last_seq, a, base->last_seq, b);
    dmt_err_hint(err, "ask for a moment up to %s or from %s on", a, b);
    return DMT_E_GONE;
}

/* The object that a run continues, from any header of the run. -ENOENT: it continues none. */
static int prev_of(const struct plan *p, const struct archive_hdr *h, struct archive_hdr *prev,
                   struct dmt_err *err)
{
    if (h->prev_n == ARCHIVE_NONE)
        return too_old(h, err);
    int r = series_hdr(&p->src, p->lineage, h->prev_node, h->prev_n, prev, err);
    if (is_damage(r))
        return damage_in_run(p, h->prev_node, 0, h->prev_n, err);
    if (!r && !is_position(prev))
        r = dmt_err_set(err, DMT_E_CORRUPT, "object %" PRIu64 " of %s refers to no position",
                        h->run_n, h->node);
    return r;
}

/* A run without a base: on to what it continues. */
static int leave_run(const struct plan *p, struct archive_hdr *h, const struct look *l,
                     struct dmt_err *err)
{
    struct archive_hdr head, prev;
    int r = prev_of(p, h, &prev, err);
    if (r)
        return r;
    r = series_hdr(&p->src, p->lineage, h->node, h->run_n, &head, err);
    if (r && !is_damage(r))
        return r;
    if (!r && (prev.last_seq + 1 != head.first_seq || prev.chain_after != head.chain_before))
        return dmt_err_set(err, DMT_E_CORRUPT,
                           "object %" PRIu64 " of %s does not continue %" PRIu64 " of %s", h->run_n,
                           h->node, h->prev_n, h->prev_node);
    struct look bad = {.missing = r == -ENOENT, .bad_n = h->run_n};
    if (r && l->found)
        return look_damaged(p, &bad, h->node, &prev, err);
    if (!l->found && l->damaged && beyond(p, &prev))
        return look_damaged(p, l, h->node, &prev, err);
    *h = prev;
    return 0;
}

/* One run, from its object h back. 1: the plan is complete; 0: *h is where to go on. */
static int plan_run(struct plan *p, struct archive_hdr *h, struct dmt_err *err)
{
    bool based = h->base_n != ARCHIVE_NONE;
    uint64_t first = based ? h->base_n + h->base_parts : h->run_n;
    struct look l = {.h = *h};
    struct archive_hdr prev;
    int r = 0;
    if (h->kind == ARCHIVE_JOURNAL && within(p, h->first_seq, h->first_time))
        l.found = true;
    else if (h->kind == ARCHIVE_JOURNAL)
        r = bisect(p, h->node, first, h->n, &l, err);
    if (r)
        return r;
    if (l.found && l.damaged && beyond(p, &l.h))
        return look_damaged(p, &l, h->node, &l.h, err);
    if (l.found && seg_add(p, h->node, first, l.h.n))
        return dmt_err_set(err, -ENOMEM, "out of memory");
    if (!based)
        return leave_run(p, h, &l, err);
    r = take_base(p, h, err);
    if (r == 1 && !l.found && l.damaged && beyond(p, &p->base_hdr))
        return look_damaged(p, &l, h->node, &p->base_hdr, err);
    if (r)
        return r;
    r = prev_of(p, &p->base_hdr, &prev, err);
    if (!r && within(p, prev.last_seq, prev.last_time) && beyond(p, &prev))
        r = gap(&prev, &p->base_hdr, err);
    *h = prev;
    return r;
}

int plan_make(struct plan *p, struct dmt_err *err)
{
    struct tip tip;
    int r = find_tip(p, &tip, err);
    if (r)
        return r;
    struct archive_hdr h = tip.h;
    if (p->to_seq != UINT64_MAX && p->to_seq > h.last_seq)
        return dmt_err_set(err, -ENOENT, "the archive ends at position %" PRIu64, h.last_seq);
    for (int runs = 0; runs < RUNS_MAX; runs++) {
        r = plan_run(p, &h, err);
        if (r)
            return r < 0 ? r : 0;
    }
    return dmt_err_set(err, DMT_E_CORRUPT,
                       "the archive's runs of objects refer to each other in a circle");
}

void plan_free(struct plan *p)
{
    free(p->seg);
    p->seg = NULL;
    p->n_seg = p->cap_seg = 0;
}
