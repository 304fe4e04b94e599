/* locate.c: where the archiver goes on.
 *
 * Happy path at every start: (1) our claim node/<k> is there (or is made); (2) objects put but not
 * recorded before a crash are found by walking our own series from the recorded number to the first
 * absent one; (3) among all nodes' series the object is looked for that reaches furthest on our own
 * history: same (seq, chain) in our journal. If it is the newest of our own series, the run is
 * continued; if it belongs to another node (we were promoted) or to an older stretch (we came
 * back), a new run starts that names it; if our journal no longer reaches back to it, a base is
 * needed (st.in_run = false). Failure modes: a claim that this store recorded and that is gone
 * means that the archive is not the one we wrote to (a disk not mounted, an emptied bucket):
 * refused with a sentence, never silently begun anew. Network errors go up and are retried by the
 * caller. Thread: the archiver's. */
#include <stdio.h>
#include <string.h>
#include "fs/archive/archiver.h"
#include "fs/base/log.h"

#define NODES_MAX 1000

enum on_chain { CHAIN_NO, CHAIN_YES, CHAIN_OLDER };

/* Is (seq, chain) a position of our own history? CHAIN_OLDER: our journal starts later, it cannot
 * be known. */
static enum on_chain on_chain(struct dmt_archiver *a, uint64_t seq, uint64_t chain)
{
    struct dmt_pos p;
    int r = dmt_journal_pos_at(a->journal, seq, &p);
    if (r == DMT_E_GONE)
        return CHAIN_OLDER;
    return !r && p.chain == chain ? CHAIN_YES : CHAIN_NO;
}

static bool is_position(const struct archive_hdr *h)
{
    return h->kind == ARCHIVE_JOURNAL ||
           (h->kind == ARCHIVE_BASE && (h->flags & ARCHIVE_BASE_LAST));
}

struct found {
    bool any;
    struct archive_hdr h;
    bool newest; /* of its series: nothing that counts comes after it */
};

static bool further(const struct archive_hdr *a, const struct archive_hdr *b)
{
    return a->epoch != b->epoch ? a->epoch > b->epoch : a->last_seq > b->last_seq;
}

/* Walks a series back from its end for the newest position on our history; positions too old to be
 * judged go to *older. */
static int search_series(struct dmt_archiver *a, const char *node, uint64_t end, struct found *best,
                         struct found *older, struct dmt_err *err)
{
    struct series_src src = remote_src(a->net);
    bool newest = true;
    for (uint64_t n = end; n-- > 0;) {
        struct archive_hdr h;
        int r = series_hdr(&src, a->conf.lineage, node, n, &h, err);
        if (r == -ENOENT || r == DMT_E_CORRUPT) {
            dmt_warn("archive: %s; restores will stop there", err->msg);
            newest = false;
            continue;
        }
        if (r)
            return r;
        if (!is_position(&h))
            continue;
        enum on_chain c = on_chain(a, h.last_seq, h.chain_after);
        if (c == CHAIN_YES) {
            bool own = !strcmp(node, a->node);
            if (!best->any || h.last_seq > best->h.last_seq ||
                (h.last_seq == best->h.last_seq && own))
                *best = (struct found){true, h, newest};
            return 0;
        }
        if (c == CHAIN_OLDER) {
            if (!older->any || further(&h, &older->h))
                *older = (struct found){true, h, newest};
            return 0;
        }
        newest = false;
    }
    return 0;
}

static int claim_put(struct dmt_archiver *a, uint64_t k, struct dmt_err *err)
{
    char key[SERIES_KEY_MAX];
    struct series_claim c = {.k = k};
    struct dmt_buf b;
    memcpy(c.lineage, a->conf.lineage, 16);
    memcpy(c.from, a->conf.forced_from, 16);
    snprintf(c.node, sizeof(c.node), "%s", a->node);
    series_node_key(key, k);
    dmt_buf_init(&b);
    int r = series_claim_encode(&c, &b);
    if (!r)
        r = remote_put(a->net, key, &b, err);
    dmt_buf_free(&b);
    return r;
}

/* A series has to be walked from the recorded number only if it is ours. */
static int visit_series(struct dmt_archiver *a, const char *node, struct found *best,
                        struct found *older, struct dmt_err *err)
{
    struct series_src src = remote_src(a->net);
    struct archive_state *st = &a->st;
    bool own = !strcmp(node, a->node), hole;
    uint64_t end;
    int r = series_end(&src, a->conf.lineage, node, own ? st->next : 0, &end, &hole, err);
    if (r)
        return r;
    if (own && end == st->next && st->in_run &&
        on_chain(a, st->pos.seq, st->pos.chain) == CHAIN_YES) {
        /* The usual restart: nothing in the archive that archive.state does not know. */
        struct archive_hdr h = {.kind = ARCHIVE_JOURNAL,
                                .epoch = st->pos.epoch,
                                .last_seq = st->pos.seq,
                                .chain_after = st->pos.chain,
                                .run_n = st->run_n,
                                .base_n = st->base_n,
                                .base_parts = st->base_parts,
                                .prev_n = st->prev_n};
        snprintf(h.node, sizeof(h.node), "%s", node);
        snprintf(h.prev_node, sizeof(h.prev_node), "%s", st->prev_node);
        if (!best->any || h.last_seq >= best->h.last_seq)
            *best = (struct found){true, h, true};
        return 0;
    }
    if (own) {
        if (end > st->next)
            dmt_info("archive: found %llu objects that were stored but not recorded",
                     (unsigned long long)(end - st->next));
        st->next = end;
    }
    return search_series(a, node, end, best, older, err);
}

/* All claims, ours among them or made at the end. */
static int visit_nodes(struct dmt_archiver *a, struct found *best, struct found *older,
                       struct dmt_err *err)
{
    struct series_src src = remote_src(a->net);
    bool mine = false;
    for (uint64_t k = 0; k < NODES_MAX; k++) {
        struct series_claim c;
        int r = series_claim_get(&src, k, &c, err);
        if (r == -ENOENT) {
            if (a->st.claimed && a->st.claim_k >= k) {
                dmt_err_set(err, DMT_E_CONFIG,
                            "object node/%llu, which this node wrote, is gone from the archive",
                            (unsigned long long)k);
                dmt_err_hint(
                    err,
                    "is its disk mounted? To begin a new archive there, remove %s/archive.state",
                    a->dir);
                return DMT_E_CONFIG;
            }
            if (mine)
                return 0;
            r = claim_put(a, k, err);
            if (r == -EEXIST) { /* somebody was quicker: look at it, then go on to the next */
                k--;
                continue;
            }
            if (r)
                return r;
            a->st.claimed = mine = true;
            a->st.claim_k = k;
            r = visit_series(a, a->node, best, older, err);
            return r ? r : archiver_state_save(a, err);
        }
        if (r)
            return r;
        if (memcmp(c.lineage, a->conf.lineage, 16) != 0)
            continue;
        if (!strcmp(c.node, a->node)) {
            if (mine)
                continue; /* claimed twice after a lost answer */
            mine = true;
            a->st.claimed = true;
            a->st.claim_k = k;
        }
        r = visit_series(a, c.node, best, older, err);
        if (r)
            return r;
    }
    return dmt_err_set(err, DMT_E_CONFIG, "the archive lists more than %d nodes", NODES_MAX);
}

int archiver_locate(struct dmt_archiver *a, struct dmt_err *err)
{
    struct found best = {0}, older = {0};
    struct archive_state *st = &a->st;
    struct dmt_err local;
    int r = visit_nodes(a, &best, &older, err ? err : &local);
    if (r)
        return r;
    if (!best.any) {
        st->in_run = false;
        st->pos = (struct dmt_pos){0};
        st->prev_n = older.any ? older.h.n : ARCHIVE_NONE;
        snprintf(st->prev_node, sizeof(st->prev_node), "%s", older.any ? older.h.node : "");
        return 0;
    }
    const struct archive_hdr *h = &best.h;
    st->in_run = true;
    st->pos = (struct dmt_pos){h->epoch, h->last_seq, h->chain_after};
    if (best.newest && !strcmp(h->node, a->node)) {
        st->run_n = h->run_n;
        st->base_n = h->base_n;
        st->base_parts = h->base_parts;
        st->prev_n = h->prev_n;
        snprintf(st->prev_node, sizeof(st->prev_node), "%s", h->prev_node);
    } else {
        st->run_n = st->next;
        st->base_n = ARCHIVE_NONE;
        st->base_parts = 0;
        st->prev_n = h->n;
        snprintf(st->prev_node, sizeof(st->prev_node), "%s", h->node);
    }
    pthread_mutex_lock(&a->lock);
    a->status.archived_seq = st->pos.seq;
    pthread_mutex_unlock(&a->lock);
    r = archiver_state_save(a, err);
    if (!r)
        a->conf.archived(a->conf.ctx, st->pos.seq);
    return r;
}
