/* keep.c: the fallback of files whose bulk data may not have arrived (rules 21, 22): "content of
 * inode src at position view".
 *
 * A keep is made when a complete file is truncated to nothing, starts to be written by reference or
 * takes content that is not all here (CONTENT), and when an incomplete file is renamed over another
 * one (it inherits that file's content, or that
 * file's own keep; its own stays if that is more than the beginning of what it holds, or was
 * acknowledged by a sync, or may have been: a start does not remember). It pins the position for
 * the content of the source only, so it must be made before the record changes the source. It goes
 * as soon as the file was complete once: when the last missing range goes, or the last that a newer
 * sync has acknowledged (what is still missing then was written later), or, if nothing was ever
 * missing (a small file rewritten inline), at the next freeze or MARK (a sync of it says that this
 * content counts now); then neither it nor the history it pinned ever reaches SQLite. A file
 * without content is no fallback: the incomplete one is cut at its first missing byte instead.
 * Failure modes: SQLite errors while the source is loaded. Thread: workspace lock.
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
    n->keep = k;
    store_node_pin(st, n);
    store_node_pin(st, src);
    return k;
}

void store_keep_drop(struct dmt_store *st, struct node *n)
{
    struct keep *k = n->keep;
    if (!k)
        return;
    n->keep = NULL;
    dmt_list_del(&k->all);
    dmt_list_del(&k->of_src);
    if (k->disk) {
        struct op *op = store_op(st, OP_KEEP_DEL);
        op->keep.ino = n->ino;
        op->keep.src = k->src->ino;
    }
    store_views_drop(st);
    store_node_unpin(st, k->src);
    store_node_unpin(st, n);
    free(k);
}

/* Size of the content at `view`: of the row, unless this record has changed the row already. */
static uint64_t size_at(const struct node *n, uint64_t view)
{
    return n->live && n->row.seq <= view ? n->row.size : n->map_hi;
}

/* Is all here that a sync has acknowledged of n? What was missing of it need not have come: it may
 * have been overwritten or cut off. */
static bool has_synced(struct dmt_store *st, const struct node *n)
{
    return n->own || (n->mark && !dmt_store_missing_ino(st, n->ino, n->mark));
}

int store_keep_self(struct dmt_store *st, struct node *n, uint64_t view, bool replace)
{
    int r = store_base_load(st, n);
    if (r < 0 || !n->map_hi || (n->keep && !replace) || store_missing_any(st, n->ino))
        return r;
    store_keep_drop(st, n);
    keep_new(st, n, n, view, size_at(n, view), n->row.mtime)->own = has_synced(st, n) || !n->known;
    return 0;
}

void store_keep_complete(struct dmt_store *st, struct node *n)
{
    bool newer = n->mark && !dmt_store_missing_ino(st, n->ino, n->mark);
    if (newer) {
        n->mark = 0;
        n->own = true;
    }
    if (n->keep && (newer || !store_missing_any(st, n->ino)))
        store_keep_drop(st, n);
    store_node_settle(st, n);
}

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
    if (r < 0 || n == old || has_synced(st, n) || !store_missing_any(st, ino) ||
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
    store_keep_drop(st, n);
    keep_new(st, n, from.src, from.view, from.size, from.mtime);
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
            store_keep_drop(st, k->node);
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
        struct keep *k = keep_new(st, n, src, store_col(s, 2), store_col(s, 3), store_col(s, 4));
        k->own = from == ino;
        k->disk = true;
        k->dirty = false;
    }
    return r;
}

void store_keeps_free(struct dmt_store *st)
{
    DMT_LIST_EACH(l, tmp, &st->keeps)
    {
        struct keep *k = KEEP_OF_ALL(l);
        k->node->keep = NULL;
        dmt_list_del(&k->all);
        dmt_list_del(&k->of_src);
        free(k);
    }
}
