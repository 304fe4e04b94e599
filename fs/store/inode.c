/* inode.c: inode rows: look-up now and at a position, change, removal.
 *
 * Happy path: put replaces the value in the node and marks it dirty; if a pinned position lies
 * between the old value's birth and this record, the old value joins the node's history list and
 * becomes a row of inode_h at the next checkpoint. Removal takes everything of the inode with it:
 * xattrs, content, missing ranges, its fallback. An inode made and removed between two freezes
 * leaves nothing to write. Failure modes: SQLite errors on a cold look-up; nothing has changed
 * then. Thread: workspace lock.
 */
#include <stdlib.h>

#include "fs/store/internal.h"

void store_inode_from_row(sqlite3_stmt *s, struct dmt_inode *n, uint64_t *alloc)
{
    n->mode = store_col32(s, 0);
    n->nlink = store_col32(s, 1);
    n->uid = store_col32(s, 2);
    n->gid = store_col32(s, 3);
    n->rdev = store_col32(s, 4);
    n->flags = store_col32(s, 5);
    n->size = store_col(s, 6);
    n->atime = store_col(s, 7);
    n->mtime = store_col(s, 8);
    n->ctime = store_col(s, 9);
    n->btime = store_col(s, 10);
    n->parent = store_col(s, 11);
    n->next_cookie = store_col32(s, 12);
    n->epoch = store_col(s, 13);
    n->seq = store_col(s, 14);
    *alloc = store_col(s, 15);
    n->ino = store_col(s, 16);
}

int store_inode_bind(struct store_db *db, enum store_sql id, const struct dmt_inode *n,
                     uint64_t alloc, uint64_t died)
{
    return store_exec(db, id, id == SQL_INODE_H_PUT ? "iiiiiiiiiiiiiiiiii" : "iiiiiiiiiiiiiiiii",
                      (uint64_t)n->mode, (uint64_t)n->nlink, (uint64_t)n->uid, (uint64_t)n->gid,
                      (uint64_t)n->rdev, (uint64_t)n->flags, n->size, n->atime, n->mtime, n->ctime,
                      n->btime, n->parent, (uint64_t)n->next_cookie, n->epoch, n->seq, alloc,
                      n->ino, died);
}

static int inode_at(struct dmt_store *st, struct node *n, uint64_t view, struct dmt_inode *ret)
{
    if (n->live && n->row.seq <= view) {
        *ret = n->row;
        return 0;
    }
    for (int half = 0; half < 2; half++)
        for (struct ihist *h = n->ihist[half]; h; h = h->next)
            if (h->row.seq <= view && view < h->died) {
                *ret = h->row;
                return 0;
            }
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_INODE_H_AT, &s, "ii", n->ino, view);
    if (r == 0)
        r = store_sql_step(&st->rd, s);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    uint64_t alloc;
    struct dmt_inode row;
    store_inode_from_row(s, &row, &alloc);
    store_sql_done(s);
    if (row.seq > view)
        return -ENOENT;
    *ret = row;
    return 0;
}

int dmt_store_inode_get(struct dmt_store *st, uint64_t view, uint64_t ino, struct dmt_inode *ret)
{
    struct node *n;
    int r = store_node(st, ino, &n);
    if (r < 0)
        return r;
    if (view != DMT_LIVE)
        return inode_at(st, n, view, ret);
    if (!n->live)
        return -ENOENT;
    *ret = n->row;
    return 0;
}

/* Keeps the current value if a pinned position shows it. */
static void keep_old_row(struct dmt_store *st, struct node *n, uint64_t died)
{
    if (!n->live || !store_needed(st, n->row.seq, died))
        return;
    struct ihist *h = store_alloc(sizeof(*h));
    *h = (struct ihist){.next = n->ihist[ACTIVE], .row = n->row, .alloc = n->alloc, .died = died};
    n->ihist[ACTIVE] = h;
    store_node_dirty(st, n, NODE_HIST);
}

int dmt_store_inode_put(struct dmt_store *st, const struct dmt_inode *row)
{
    struct node *n;
    int r = store_node(st, row->ino, &n);
    if (r < 0)
        return r;
    keep_old_row(st, n, row->seq);
    if (!n->live) {
        n->known = !n->disk;
        st->count.inodes++;
        st->count.live_bytes += n->alloc;
    }
    n->row = *row;
    n->live = true;
    if (row->ino > st->ino_high)
        st->ino_high = row->ino;
    store_node_dirty(st, n, NODE_ROW);
    if (n->due)
        store_keeps_moved(st, n);
    return 0;
}

int dmt_store_inode_del(struct dmt_store *st, uint64_t ino, uint64_t seq)
{
    struct node *n;
    int r = store_node(st, ino, &n);
    if (r < 0)
        return r;
    if (!n->live)
        return -ENOENT;
    /* All that can fail comes first. */
    if ((n->row.flags & DMT_INO_XATTR) && (r = store_xattrs_load(st, n)) < 0)
        return r;
    if ((r = store_file_marks_load(st, n)) < 0 || (r = store_content_gone(st, n, seq)) < 0)
        return r;
    if ((r = store_xattrs_delete(st, n, seq)) < 0)
        return r;
    keep_old_row(st, n, seq);
    store_keeps_drop(st, n);
    st->count.inodes--;
    n->live = false;
    n->alloc = 0;
    n->map_hi = 0;
    /* Until the first checkpoint a process that was killed may have made files of it. */
    bool unsure = st->commits == st->commits_found;
    if (n->disk || n->frozen || n->hwm || n->serial > 1 || (n->dirty & NODE_HIST) || unsure) {
        store_node_dirty(st, n, NODE_ROW | NODE_DEAD);
    } else {
        /* SQLite never heard of it, and need not. */
        store_pmap_free(n->layer[ACTIVE]);
        n->layer[ACTIVE] = NULL;
        store_xattrs_free(n);
        if (n->dirty) {
            dmt_list_del(&n->dirty_link);
            st->dirty_node_n--;
            n->dirty = 0;
        }
        store_node_settle(st, n);
    }
    return 0;
}

int dmt_store_inode_near(struct dmt_store *st, uint64_t ino, struct dmt_inode *ret)
{
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_INODE_NEAR, &s, "i", ino);
    if (r == 0)
        r = store_sql_step(&st->rd, s);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    ino = store_col(s, 0);
    store_sql_done(s);
    return dmt_store_inode_get(st, DMT_LIVE, ino, ret);
}
