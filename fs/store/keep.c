/* keep.c: the fallback of files whose bulk data may not have arrived (rules 21, 22): "content of
 * inode src at position view".
 *
 * A keep is made when a complete file is truncated to nothing, starts to be written by reference or
 * takes content that is not all here (CONTENT), and when an incomplete file is renamed over another
 * one (it inherits that file's content, or that file's own keep; its own stays if that is more than
 * the beginning of what it holds, or was acknowledged by a sync, or may have been: a start does not
 * remember). It pins the position for the content of the source only, so it must be made before the
 * record changes the source. It goes as soon as the file was complete once: when the last missing
 * range goes, or, if nothing was ever missing (a small file rewritten inline), at the next freeze
 * or MARK; then neither it nor the history it pinned ever reaches SQLite.
 *
 * A file that is written to without a pause may never be complete. So what a sync acknowledged of
 * an incomplete one is due: a keep as well, but some of its bytes are not here yet. When all are it
 * takes the place of the fallback. On a reader two are due at most: the oldest, so that one gets
 * whole, and the newest, which stands for those between (dmt_store_keep_covers). If bytes that a
 * due content lacks are overwritten or cut off, the other machine may not have them any more: it
 * moves to behind that record. The holder has them itself, so there it stays until they are
 * durable, and there are as many as syncs are under way. In the database a keep is due if ranges of
 * its own file that it shows are missing.
 *
 * A content without bytes is no fallback: the incomplete file is cut at its first missing byte
 * instead. Failure modes: SQLite errors while the source is loaded. Thread: workspace lock.
 */
#include <stdlib.h>

#include "fs/store/internal.h"

#define KEEP_OF_SRC(l) DMT_CONTAINER((l), struct keep, of_src)
#define KEEP_OF_ALL(l) DMT_CONTAINER((l), struct keep, all)

static struct keep *keep_new(struct dmt_store *st, struct node *n, struct node *src, uint64_t view,
                             uint64_t size, uint64_t mtime)
{
    struct keep *k = store_zalloc(sizeof(*k));
    *k = (struct keep){
        .node = n, .src = src, .view = view, .size = size, .mtime = mtime, .dirty = true};
    dmt_list_add_tail(&st->keeps, &k->all);
    dmt_list_add_tail(&src->keeps_here, &k->of_src);
    store_node_pin(st, n);
    store_node_pin(st, src);
    return k;
}

static void log_del(struct dmt_store *st, const struct keep *k)
{
    struct op *op = store_op(st, OP_KEEP_DEL);
    op->keep.ino = k->node->ino;
    op->keep.src = k->src->ino;
    op->keep.view = k->view;
}

/* The position that was k's is no longer pinned by it: what is missing of it goes with the next
 * freeze. */
static void unpinned(struct dmt_store *st, const struct keep *k)
{
    if (k->disk)
        log_del(st, k);
    store_views_drop(st);
    st->unpinned = true;
}

static void keep_drop(struct dmt_store *st, struct keep **at)
{
    struct keep *k = *at;
    if (!k)
        return;
    *at = k->next;
    dmt_list_del(&k->all);
    dmt_list_del(&k->of_src);
    unpinned(st, k);
    store_node_unpin(st, k->src);
    store_node_unpin(st, k->node);
    free(k);
}

static struct keep **keep_at(const struct keep *k)
{
    struct keep **at = &k->node->due;
    if (k == k->node->keep)
        return &k->node->keep;
    while (*at != k)
        at = &(*at)->next;
    return at;
}

void store_keeps_undue(struct dmt_store *st, struct node *n)
{
    while (n->due)
        keep_drop(st, &n->due);
}

void store_keeps_drop(struct dmt_store *st, struct node *n)
{
    store_keeps_undue(st, n);
    keep_drop(st, &n->keep);
}

/* Size of the content at `view`: of the row, unless this record has changed the row already. */
static uint64_t size_at(const struct node *n, uint64_t view)
{
    return n->live && n->row.seq <= view ? n->row.size : n->map_hi;
}

int store_keep_self(struct dmt_store *st, struct node *n, uint64_t view, bool replace)
{
    int r = store_base_load(st, n);
    if (r < 0 || !n->map_hi || (n->keep && !replace) || store_missing_any(st, n->ino))
        return r;
    keep_drop(st, &n->keep);
    n->keep = keep_new(st, n, n, view, size_at(n, view), n->row.mtime);
    n->keep->own = n->own || !n->known;
    return 0;
}

/* --- what is due */

/* Behind the newest that is due. */
static struct keep **due_end(struct node *n)
{
    struct keep **at = &n->due;
    while (*at)
        at = &(*at)->next;
    return at;
}

void store_keep_due(struct dmt_store *st, struct node *n, uint64_t upto_seq, uint64_t seq)
{
    struct keep *last = n->due ? n->due : n->keep;
    while (last && last->next)
        last = last->next;
    if (n->row.size == 0 || (last && last->src == n && last->view >= upto_seq))
        return; /* that is what this sync was about: what was written since is on its own */
    if (!st->mine && n->due && n->due->next) {
        n->due_skipped = last->view;
        keep_drop(st, keep_at(last));
    }
    struct keep *k = keep_new(st, n, n, seq, n->row.size, n->row.mtime);
    k->own = true;
    *due_end(n) = k;
}

static int is_older(void *ctx, struct mrow *m)
{
    return !m->died && m->seq <= *(const uint64_t *)ctx;
}

void store_keeps_move(struct dmt_store *st, struct node *n, uint64_t off, uint64_t end,
                      uint64_t seq)
{
    for (struct keep **at = &n->due; *at && !st->mine;) {
        struct keep *k = *at;
        if (k->view != seq && store_missing_each_in(st, n->ino, off, end, is_older, &k->view)) {
            unpinned(st, k);
            k->disk = false;
            k->dirty = true;
            k->sure_from = UINT64_MAX;
            k->view = seq;
        }
        if (k->view == seq && k->next)
            keep_drop(st, at); /* what is newer has moved, too, or does now: to the same place */
        else
            at = &k->next;
    }
}

void store_keeps_moved(struct dmt_store *st, struct node *n)
{
    for (struct keep *k = n->due; k; k = k->next)
        if (k->view == n->row.seq) {
            k->size = n->row.size;
            k->mtime = n->row.mtime;
        }
    store_keeps_settle(st, n);
}

void store_keeps_settle(struct dmt_store *st, struct node *n)
{
    bool whole = !store_missing_any(st, n->ino);
    struct keep *newest = NULL;
    for (struct keep *k = whole ? NULL : n->due; k; k = k->next)
        newest = store_missing_in(st, n->ino, k->view) ? newest : k;
    if (newest) {
        while (n->due != newest)
            keep_drop(st, &n->due);
        keep_drop(st, &n->keep);
        n->keep = newest;
        if (newest->sure_from)
            newest->sure_from = st->freezes + 1;
        n->due = newest->next;
        newest->next = NULL;
        n->own = true;
    }
    if (whole) {
        n->own |= n->due != NULL;
        store_keeps_drop(st, n);
    }
    store_node_settle(st, n);
}

static int is_replaced(void *ctx, struct mrow *m)
{
    const uint64_t view = *(const uint64_t *)ctx;
    return m->seq <= view && view < m->died;
}

/* What is due, or only that which lacks bytes that were replaced since. */
static void drop_due(struct dmt_store *st, bool all)
{
    DMT_LIST_EACH(l, tmp, &st->keeps)
    {
        struct keep *k = KEEP_OF_ALL(l);
        struct node *n = k->node;
        if (k == n->keep || (!all && !store_missing_each(st, n->ino, is_replaced, &k->view)))
            continue;
        keep_drop(st, keep_at(k));
    }
}

void dmt_store_set_mine(struct dmt_store *st, bool mine)
{
    st->mine = mine;
    if (!mine)
        drop_due(st, false); /* a copy of the holder's store has what is due there */
}

void dmt_store_keep_undue(struct dmt_store *st)
{
    drop_due(st, true);
}

bool dmt_store_keep_covers(struct dmt_store *st, uint64_t ino, uint64_t seq)
{
    const struct node *n = store_node_cached(st, ino); /* a keep pins its node */
    const struct keep *own = n && n->keep && n->keep->src == n ? n->keep : NULL;
    /* A content that has moved needs bytes behind those of the sync; any other is found again by
     * the journal. */
    if (own && own->sure_from > st->committed)
        return false;
    return !n || !n->due || (own && own->view >= seq && own->view >= n->due_skipped);
}

/* --- what it falls back to */

int dmt_store_kept_each(struct dmt_store *st, uint64_t ino, int (*fn)(void *ctx, uint64_t ino),
                        void *ctx)
{
    DMT_LIST_EACH(l, tmp, &st->keeps)
    {
        uint64_t one = KEEP_OF_ALL(l)->node->ino;
        int r = (!ino || one == ino) && !store_missing_any(st, one) ? fn(ctx, one) : 0;
        if (r)
            return r;
    }
    return 0;
}

static int born_later(void *ctx, const struct piece *p)
{
    return p->born > *(const uint64_t *)ctx;
}

/* Is what n falls back to only the beginning of what it holds now, as it stood at some checkpoint
 * while the file was being written? */
static bool only_grew(struct node *n)
{
    struct keep *k = n->keep;
    return k->src == n && !store_compose(n, 0, k->size, born_later, &k->view);
}

int dmt_store_keep_replace(struct dmt_store *st, uint64_t ino, uint64_t replaced, uint64_t seq)
{
    struct node *n, *old;
    int r = store_node(st, ino, &n);
    if (r == 0)
        r = store_node(st, replaced, &old);
    if (r == 0)
        r = store_base_load(st, old);
    if (r == 0)
        r = store_base_load(st, n);
    if (r < 0 || n == old || !store_missing_any(st, ino) ||
        (n->keep && (n->keep->own || !only_grew(n))))
        return r; /* complete, or falls back to whole content of its own, or is cut behind that */
    struct keep from = {.src = old, .view = seq - 1};
    if (!store_missing_any(st, replaced)) {
        from.size = old->map_hi ? size_at(old, seq - 1) : 0;
        from.mtime = old->row.mtime;
    } else if (old->keep) {
        from = *old->keep;
    }
    if (from.size == 0)
        return 0;
    keep_drop(st, &n->keep);
    n->keep = keep_new(st, n, from.src, from.view, from.size, from.mtime);
    return 0;
}

int dmt_store_fallback(struct dmt_store *st, uint64_t ino, uint64_t *ret_src, uint64_t *ret_view,
                       uint64_t *ret_size, uint64_t *ret_mtime)
{
    struct node *n;
    int r = store_node(st, ino, &n);
    if (r < 0)
        return r;
    const struct keep *k = n->keep;
    if (!k || !store_missing_any(st, ino))
        return -ENOENT;
    *ret_src = k->src->ino;
    *ret_view = k->view;
    *ret_size = k->size;
    *ret_mtime = k->mtime;
    return 0;
}

/* Drops what has become needless and logs the rest for the batch. */
void store_keeps_freeze(struct dmt_store *st)
{
    DMT_LIST_EACH(l, tmp, &st->keeps)
    {
        struct keep *k = KEEP_OF_ALL(l);
        if (!store_missing_any(st, k->node->ino)) {
            keep_drop(st, keep_at(k));
        } else if (k->dirty) {
            struct op *op = store_op(st, OP_KEEP_PUT);
            op->keep.ino = k->node->ino;
            op->keep.src = k->src->ino;
            op->keep.view = k->view;
            op->keep.size = k->size;
            op->keep.mtime = k->mtime;
            k->dirty = false;
            k->disk = true;
        }
    }
}

int store_keep_load(struct dmt_store *st)
{
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_KEEP_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(&st->rd, s)) > 0) {
        struct node *n, *src;
        uint64_t ino = store_col(s, 0), from = store_col(s, 1);
        r = store_node(st, ino, &n);
        if (r == 0) {
            store_node_pin(st, n);
            r = store_node(st, from, &src);
            store_node_unpin(st, n);
        }
        if (r < 0) {
            store_sql_done(s);
            return r;
        }
        uint64_t view = store_col(s, 2);
        bool due = from == ino && store_missing_in(st, ino, view);
        struct keep **at = due ? due_end(n) : &n->keep;
        keep_drop(st, at); /* in a copy what is due elsewhere may be here: the newest counts */
        *at = keep_new(st, n, src, view, store_col(s, 3), store_col(s, 4));
        (*at)->own = from == ino;
        (*at)->disk = true;
        (*at)->dirty = false;
        if (due)
            n->due_skipped = view; /* whether there were others is not remembered */
    }
    return r;
}

void store_keeps_free(struct dmt_store *st)
{
    DMT_LIST_EACH(l, tmp, &st->keeps)
    {
        struct keep *k = KEEP_OF_ALL(l);
        k->node->keep = k->node->due = NULL;
        dmt_list_del(&k->all);
        dmt_list_del(&k->of_src);
        free(k);
    }
}
