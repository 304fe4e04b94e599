/* missing.c: the ranges whose bytes this store lacks (rules 21-24), as rows of the position's
 * transaction (S2).
 *
 * On the holder a range is "missing" from its by-reference write until a MARK says it is durable;
 * on other readers until the bytes have been pulled, written to their place and synced. All rows
 * are in memory, in a tree by (ino, off, seq); changes go to the checkpoint through the log of
 * small changes. A row is never changed: trimming removes it and adds what is left. When a missing
 * range is overwritten while a pinned position shows it, the part stays, marked with the position
 * it died at, until it arrives or nobody needs it. A promotion that gives such parts up makes them
 * lost, rows of a tree of their own: nobody is asked for them, and who reads them through that
 * position gets an error.
 * Fill: bytes are taken only where a row asks for exactly that position; the row goes after
 * fill_sync. Failure modes: write errors leave the row; a failed sync makes its rows "missing"
 * again, so that the bytes are pulled and written once more.
 * Thread: workspace lock; dmt_store_fill_sync takes it itself.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/store/internal.h"

#define MROW_OF(tn_) DMT_CONTAINER((tn_), struct mrow, tn)

static int key_cmp(uint64_t ino, uint64_t off, uint64_t seq, const struct mrow *m)
{
    if (ino != m->ino)
        return ino < m->ino ? -1 : 1;
    if (off != m->off)
        return off < m->off ? -1 : 1;
    return seq == m->seq ? 0 : seq < m->seq ? -1 : 1;
}

/* First row >= (ino, off, seq). */
static struct mrow *row_in(const struct tree *t, uint64_t ino, uint64_t off, uint64_t seq)
{
    struct tnode *n = t->root;
    struct mrow *best = NULL;
    while (n) {
        struct mrow *m = MROW_OF(n);
        if (key_cmp(ino, off, seq, m) <= 0) {
            best = m;
            n = n->left;
        } else {
            n = n->right;
        }
    }
    return best;
}

static struct mrow *row_from(const struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t seq)
{
    return row_in(&st->missing, ino, off, seq);
}

static struct mrow *row_next(const struct mrow *m)
{
    struct tnode *n = store_tree_next(&m->tn);
    return n ? MROW_OF(n) : NULL;
}

static void row_link(struct dmt_store *st, struct mrow *m)
{
    struct tree *t = m->lost ? &st->lost : &st->missing;
    struct tnode **link = &t->root, *up = NULL;
    while (*link) {
        up = *link;
        int c = key_cmp(m->ino, m->off, m->seq, MROW_OF(up));
        DMT_ASSERT(c != 0);
        link = c < 0 ? &up->left : &up->right;
    }
    store_tree_link(t, up, link, &m->tn);
    st->missing_bytes += m->lost ? 0 : m->end - m->off;
    if (m->end - m->off > st->missing_len_max)
        st->missing_len_max = m->end - m->off;
    st->missing_shared_n += m->shared;
    dmt_list_init(&m->fill_link);
    if (m->fill != FILL_NONE)
        dmt_list_add_tail(&st->filled, &m->fill_link);
}

/* A new row like *like, over [off, end). */
static struct mrow *row_add(struct dmt_store *st, const struct mrow *like, uint64_t off,
                            uint64_t end)
{
    struct mrow *m = store_zalloc(sizeof(*m));
    *m = *like;
    m->foff += off - like->off;
    m->off = off;
    m->end = end;
    row_link(st, m);
    m->op = store_op(st, OP_MISSING_PUT);
    m->op->mrow = m;
    m->op->missing.ino = m->ino;
    m->op->missing.off = m->off;
    m->op->missing.len = m->end - m->off;
    m->op->missing.seq = m->seq;
    m->op->missing.owner = m->owner;
    m->op->missing.serial = m->serial;
    m->op->missing.foff = m->foff;
    m->op->missing.died = m->died;
    m->op->missing.flags =
        (uint8_t)((m->shared ? STORE_ROW_SHARED : 0) | (m->lost ? STORE_ROW_LOST : 0));
    return m;
}

static void row_remove(struct dmt_store *st, struct mrow *m)
{
    if (m->op) {
        store_op_cancel(st, m->op); /* the database never heard of it */
    } else {
        struct op *op = store_op(st, OP_MISSING_DEL);
        op->missing.ino = m->ino;
        op->missing.off = m->off;
        op->missing.seq = m->seq;
    }
    st->missing_bytes -= m->lost ? 0 : m->end - m->off;
    st->missing_shared_n -= m->shared;
    store_tree_erase(m->lost ? &st->lost : &st->missing, &m->tn);
    dmt_list_del(&m->fill_link);
    free(m);
}

/* Cuts m at [off, end); the part inside becomes a row of its own with that fill state and death,
 * or none (drop). */
static void row_split(struct dmt_store *st, struct mrow *m, uint64_t off, uint64_t end, bool drop,
                      uint8_t fill, uint64_t died)
{
    struct mrow old = *m;
    uint64_t lo = off > old.off ? off : old.off, hi = end < old.end ? end : old.end;
    row_remove(st, m);
    if (old.off < lo)
        row_add(st, &old, old.off, lo);
    if (hi < old.end)
        row_add(st, &old, hi, old.end);
    if (drop)
        return;
    struct mrow inside = old;
    inside.fill = fill;
    inside.died = died;
    row_add(st, &inside, lo, hi);
}

/* The bytes of m are durable here: m goes, and so do other rows as far as they name the same
 * place. */
static void row_arrived(struct dmt_store *st, struct mrow *m)
{
    const struct mrow old = *m;
    uint64_t len = old.end - old.off;
    row_remove(st, m);
    for (struct mrow *o = st->missing_shared_n || old.shared ? row_from(st, 0, 0, 0) : NULL; o;) {
        uint64_t ino = o->ino, off = o->off, seq = o->seq;
        if (o->owner == old.owner && o->serial == old.serial && o->foff < old.foff + len &&
            old.foff < o->foff + (o->end - o->off)) {
            uint64_t lo = old.foff > o->foff ? old.foff - o->foff : 0;
            row_split(st, o, off + lo, off + (old.foff + len - o->foff), true, FILL_NONE, 0);
        }
        o = row_from(st, ino, off, seq + 1);
    }
}

void store_missing_add(struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t len, uint64_t seq,
                       const struct dmt_place *pl, bool shared)
{
    struct mrow m = {.ino = ino,
                     .off = off,
                     .end = off + len,
                     .seq = seq,
                     .owner = pl->ino,
                     .serial = pl->serial,
                     .foff = pl->foff,
                     .shared = shared};
    row_add(st, &m, m.off, m.end);
}

void store_missing_cut(struct dmt_store *st, struct node *n, uint64_t off, uint64_t end,
                       uint64_t seq)
{
    if (!st->missing.root || off >= end)
        return;
    /* Rows of the live file do not overlap each other, so at most one that starts before the
     * range reaches into it. */
    struct mrow *m = row_from(st, n->ino, off, 0);
    struct tnode *before = m ? store_tree_prev(&m->tn) : store_tree_last(&st->missing);
    while (before && MROW_OF(before)->ino == n->ino && MROW_OF(before)->died)
        before = store_tree_prev(before);
    if (before && MROW_OF(before)->ino == n->ino && MROW_OF(before)->end > off)
        m = MROW_OF(before);
    while (m && m->ino == n->ino && m->off < end) {
        uint64_t at = m->off, at_seq = m->seq;
        if (!m->died && m->end > off)
            row_split(st, m, off, end, !store_content_needed(st, n, m->seq, seq), m->fill, seq);
        m = row_from(st, n->ino, at, at_seq + 1);
        while (m && m->ino == n->ino && m->off < end && (m->died || m->end <= off))
            m = row_next(m);
    }
}

int store_missing_each(struct dmt_store *st, uint64_t ino, int (*fn)(void *ctx, struct mrow *m),
                       void *ctx)
{
    for (struct mrow *m = row_from(st, ino, 0, 0); m && (!ino || m->ino == ino); m = row_next(m)) {
        int r = fn(ctx, m);
        if (r)
            return r;
    }
    return 0;
}

int store_missing_each_in(struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t end,
                          int (*fn)(void *ctx, struct mrow *m), void *ctx)
{
    uint64_t from = off > st->missing_len_max ? off - st->missing_len_max : 0;
    for (struct mrow *m = row_from(st, ino, from, 0); m && m->ino == ino && m->off < end;
         m = row_next(m)) {
        int r = m->end > off ? fn(ctx, m) : 0;
        if (r)
            return r;
    }
    return 0;
}

static int is_live(void *ctx, struct mrow *m)
{
    return m->died == 0 && m->seq <= *(const uint64_t *)ctx;
}

bool dmt_store_missing_ino(struct dmt_store *st, uint64_t ino, uint64_t upto_seq)
{
    return store_missing_each(st, ino, is_live, &upto_seq) != 0;
}

bool store_missing_any(struct dmt_store *st, uint64_t ino)
{
    return st->missing.root && dmt_store_missing_ino(st, ino, UINT64_MAX);
}

struct place_end {
    uint64_t owner, end;
    uint32_t serial;
};
static int max_end(void *ctx, struct mrow *m)
{
    struct place_end *p = ctx;
    if (m->owner == p->owner && m->serial == p->serial && m->foff + (m->end - m->off) > p->end)
        p->end = m->foff + (m->end - m->off);
    return 0;
}

/* Behind the last missing byte of a data file. */
uint64_t store_missing_place_end(struct dmt_store *st, uint64_t owner, uint32_t serial)
{
    struct place_end p = {.owner = owner, .serial = serial};
    store_missing_each(st, 0, max_end, &p);
    return p.end;
}

/* Does a pinned position still show the range of this died row? */
static bool still_needed(struct dmt_store *st, const struct mrow *m)
{
    struct node *n = store_node_cached(st, m->ino); /* a keep pins its source's node */
    return n ? store_content_needed(st, n, m->seq, m->died) : store_needed(st, m->seq, m->died);
}

static int is_live_unfilled(void *ctx, struct mrow *m)
{
    (void)ctx;
    return m->died == 0 && m->fill == FILL_NONE;
}

/* Ranges that only a pinned position shows may overlap those of the live file, so they wait until
 * that is complete: what missing_next tells of one inode does not overlap. Those that nobody shows
 * any more wait for the next freeze to drop them. */
static bool worth_asking(struct dmt_store *st, const struct mrow *m)
{
    if (m->fill != FILL_NONE)
        return false;
    return !m->died ||
           (still_needed(st, m) && !store_missing_each(st, m->ino, is_live_unfilled, NULL));
}

int dmt_store_missing_next(struct dmt_store *st, uint64_t ino, uint64_t off,
                           struct dmt_missing *ret)
{
    struct mrow *m = row_from(st, ino, off, 0);
    while (m && !worth_asking(st, m))
        m = row_next(m);
    if (!m)
        return 0;
    *ret =
        (struct dmt_missing){.ino = m->ino, .off = m->off, .len = m->end - m->off, .seq = m->seq};
    return 1;
}

uint64_t dmt_store_missing_bytes(struct dmt_store *st)
{
    return st->missing_bytes;
}

/* A row that asks for these bytes and overlaps [off, end): the first, or NULL. */
static struct mrow *wanted(struct dmt_store *st, const struct dmt_missing *want, uint64_t off,
                           uint64_t end)
{
    struct mrow *exact = row_from(st, want->ino, off, want->seq); /* nearly always */
    if (exact && exact->ino == want->ino && exact->off == off && exact->seq == want->seq &&
        exact->fill == FILL_NONE)
        return exact;
    for (struct mrow *m = row_from(st, want->ino, 0, 0); m && m->ino == want->ino && m->off < end;
         m = row_next(m))
        if (m->seq == want->seq && m->end > off && m->fill == FILL_NONE)
            return m;
    return NULL;
}

static int fill_row(struct dmt_store *st, const struct mrow *m, uint64_t lo, uint64_t hi,
                    const uint8_t *bytes)
{
    struct dfile *f = store_file_get(st, m->owner, m->serial);
    int r = store_file_open(st, f, true);
    if (r == 0) {
        f->unsynced = true;
        f->writes++;
        ssize_t n =
            st->conf.io->pwrite(st->conf.io->ctx, f->fd, bytes, hi - lo, m->foff + (lo - m->off));
        r = n < 0 ? (int)n : 0;
    }
    store_file_put(st, f);
    return r;
}

int dmt_store_missing_fill(struct dmt_store *st, const struct dmt_missing *want, const void *p,
                           uint64_t *ret_used)
{
    *ret_used = 0;
    uint64_t end = want->off + want->len;
    for (struct mrow *m; *ret_used < want->len && (m = wanted(st, want, want->off, end)) != NULL;) {
        uint64_t lo = m->off > want->off ? m->off : want->off, hi = m->end < end ? m->end : end;
        int r = fill_row(st, m, lo, hi, (const uint8_t *)p + (lo - want->off));
        if (r < 0)
            return r;
        *ret_used += hi - lo;
        row_split(st, m, lo, hi, false, FILL_DONE, m->died);
    }
    return 0;
}

struct synced {
    struct dfile *f;
    uint64_t writes, names;
    int r;
};

static struct synced *synced_find(struct synced *v, size_t n, const struct mrow *m)
{
    for (size_t i = n; i-- > 0;)
        if (v[i].f->ino == m->owner && v[i].f->serial == m->serial)
            return &v[i];
    return NULL;
}

static size_t fill_collect(struct dmt_store *st, struct synced **ret)
{
    struct synced *v = NULL;
    size_t n = 0, cap = 0;
    DMT_LIST_EACH(l, tmp, &st->filled)
    {
        struct mrow *m = DMT_CONTAINER(l, struct mrow, fill_link);
        m->fill = FILL_SYNCING;
        if (synced_find(v, n, m))
            continue;
        if (n == cap) {
            cap = cap ? cap * 2 : 16;
            v = realloc(v, cap * sizeof(*v));
            DMT_ASSERT(v);
        }
        struct dfile *f = store_file_get(st, m->owner, m->serial);
        v[n++] = (struct synced){.f = f,
                                 .writes = f->writes,
                                 .names = store_file_dir_pending(st, f),
                                 .r = f->fd < 0 ? -EIO : 0};
    }
    *ret = v;
    return n;
}

/* Rows whose file is durable go; the others are missing again. */
static int fill_settle(struct dmt_store *st, struct synced *v, size_t n)
{
    int result = 0;
    DMT_LIST_EACH(l, tmp, &st->filled)
    {
        struct mrow *m = DMT_CONTAINER(l, struct mrow, fill_link);
        if (m->fill != FILL_SYNCING)
            continue;
        struct synced *s = synced_find(v, n, m);
        if (!s || s->r < 0) {
            m->fill = FILL_NONE;
            dmt_list_del(&m->fill_link);
            continue;
        }
        struct node *file;
        int r = store_node(st, m->ino, &file);
        /* The list may lose any row, also the next one of this walk: from the start again. */
        row_arrived(st, m);
        if (r == 0)
            store_keeps_settle(st, file);
        tmp = st->filled.next;
    }
    for (size_t i = 0; i < n; i++) {
        if (v[i].r == 0) {
            store_file_dir_done(st, v[i].f, v[i].names);
            v[i].f->unsynced &= v[i].f->writes != v[i].writes;
        }
        result = result < 0 ? result : v[i].r;
        store_file_put(st, v[i].f);
    }
    return result;
}

int dmt_store_fill_sync(struct dmt_store *st, const struct dmt_lockfn *lk)
{
    struct synced *v;
    lk->lock(lk->ctx);
    size_t n = fill_collect(st, &v);
    lk->unlock(lk->ctx);
    const struct dmt_io *io = st->conf.io;
    for (size_t i = 0; i < n; i++) {
        if (v[i].r == 0)
            v[i].r = io->fdatasync(io->ctx, v[i].f->fd);
        if (v[i].r == 0 && v[i].names)
            v[i].r = store_file_sync_dir(st, v[i].f);
    }
    lk->lock(lk->ctx);
    int r = fill_settle(st, v, n);
    lk->unlock(lk->ctx);
    free(v);
    return r;
}

static void row_lose(struct dmt_store *st, struct mrow *m)
{
    struct mrow lost = *m;
    lost.lost = true;
    row_remove(st, m);
    row_add(st, &lost, lost.off, lost.end);
}

int dmt_store_mark(struct dmt_store *st, uint64_t ino, uint64_t upto_seq, bool complete_here,
                   uint64_t own_after, uint64_t seq)
{
    struct node *n;
    int r = store_node(st, ino, &n);
    if (r < 0)
        return r;
    n->marked = true;
    struct mrow *first = complete_here ? row_from(st, ino, 0, 0) : NULL;
    for (struct mrow *m = first; m && m->ino == ino;) {
        uint64_t off = m->off, born = m->seq;
        if (born <= upto_seq && m->died && !store_needed(st, born, m->died))
            row_remove(
                st,
                /* nobody shows it any more: what a replay does must not hang on whether it was
                 * swept */
                m);
        else if (born <= upto_seq && born <= own_after && m->died && m->fill == FILL_NONE)
            row_lose(st, m);
        else if (born <= upto_seq)
            row_arrived(st, m);
        m = row_from(st, ino, off, born + 1);
    }
    if (store_missing_any(st, ino))
        store_keep_due(st, n, upto_seq, seq);
    else
        n->own = true;
    store_keeps_settle(st, n);
    return 0;
}

void dmt_store_give_up_pinned(struct dmt_store *st, uint64_t upto_seq)
{
    for (struct mrow *m = row_from(st, 0, 0, 0), *next; m; m = next) {
        next = row_next(m);
        if (m->died && m->seq <= upto_seq && m->fill == FILL_NONE && still_needed(st, m))
            row_lose(st, m);
    }
}

/* The rows of ino (0: all) in that tree that overlap [off, end), and that position `view` shows. */
static int shown_each(struct dmt_store *st, const struct tree *t, uint64_t view, uint64_t ino,
                      uint64_t off, uint64_t end, int (*fn)(void *ctx, struct mrow *m), void *ctx)
{
    uint64_t from = off > st->missing_len_max ? off - st->missing_len_max : 0;
    int r = 0;
    for (struct mrow *m = row_in(t, ino, from, 0);
         r == 0 && m && (!ino || (m->ino == ino && m->off < end)); m = row_next(m))
        if (m->end > off && m->seq <= view && (!m->died || view < m->died))
            r = fn(ctx, m);
    return r;
}

static int add_bytes(void *ctx, struct mrow *m)
{
    *(uint64_t *)ctx += m->end - m->off;
    return 0;
}

uint64_t dmt_store_lost_bytes(struct dmt_store *st, uint64_t view)
{
    uint64_t n = 0;
    (void)shown_each(st, &st->lost, view, 0, 0, UINT64_MAX, add_bytes, &n);
    return n;
}

static int is_one(void *ctx, struct mrow *m)
{
    (void)ctx, (void)m;
    return 1;
}

bool dmt_store_lost_at(struct dmt_store *st, uint64_t view, uint64_t ino, uint64_t off,
                       uint64_t len)
{
    return shown_each(st, &st->lost, view, ino, off, off + len, is_one, NULL) != 0;
}

bool store_missing_in(struct dmt_store *st, uint64_t ino, uint64_t view)
{
    return shown_each(st, &st->missing, view, ino, 0, UINT64_MAX, is_one, NULL) != 0;
}

static int is_unfilled(void *ctx, struct mrow *m)
{
    (void)ctx;
    return m->fill == FILL_NONE;
}

bool dmt_store_missing_at(struct dmt_store *st, uint64_t view, uint64_t ino, uint64_t off,
                          uint64_t len)
{
    return shown_each(st, &st->missing, view, ino, off, off + len, is_unfilled, NULL) != 0;
}

static int same_place(void *ctx, struct mrow *m)
{
    const struct piece *p = ctx;
    return m->owner == p->owner && m->serial == p->serial &&
           m->foff < p->foff + (p->end - p->off) && p->foff < m->foff + (m->end - m->off);
}

bool store_missing_lost(struct dmt_store *st, uint64_t view, uint64_t ino, const struct piece *p)
{
    struct piece place = *p;
    return st->lost.root &&
           shown_each(st, &st->lost, view, ino, p->off, p->end, same_place, &place) != 0;
}

static void filter(struct dmt_store *st, struct tree *t)
{
    for (struct mrow *m = row_in(t, 0, 0, 0), *next; m; m = next) {
        next = row_next(m);
        if (m->died && !still_needed(st, m))
            row_remove(st, m);
    }
}

void store_missing_filter(struct dmt_store *st)
{
    filter(st, &st->missing);
    filter(st, &st->lost);
}

int store_missing_load(struct dmt_store *st)
{
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_MISSING_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(&st->rd, s)) > 0) {
        struct mrow *m = store_zalloc(sizeof(*m));
        m->ino = store_col(s, 0);
        m->off = store_col(s, 1);
        m->seq = store_col(s, 2);
        m->end = m->off + store_col(s, 3);
        m->owner = store_col(s, 4);
        m->serial = store_col32(s, 5);
        m->foff = store_col(s, 6);
        m->died = store_col(s, 7);
        m->shared = store_col(s, 8) & STORE_ROW_SHARED;
        m->lost = store_col(s, 8) & STORE_ROW_LOST && m->died;
        row_link(st, m);
        r = 0;
    }
    return r;
}

static void drop(struct tree *t)
{
    struct tnode *n;
    while ((n = t->root) != NULL) {
        store_tree_erase(t, n);
        free(MROW_OF(n));
    }
}

void store_missing_drop(struct dmt_store *st)
{
    drop(&st->missing);
    drop(&st->lost);
    dmt_list_init(&st->filled);
    st->missing_bytes = st->missing_shared_n = 0;
}
