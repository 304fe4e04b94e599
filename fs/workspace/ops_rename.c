/* ops_rename.c: rename with its flags.
 *
 * Owns nothing. The matrix: a name onto a link of the same inode does nothing; a directory only
 * onto an empty directory or a free name, never below itself; RENAME_NOREPLACE refuses a taken
 * name; RENAME_EXCHANGE needs both and swaps them, with a new cookie each; any other keeps the
 * place in the directory where it can (DMT_RENAME_PLACE). RENAME_WHITEOUT is not supported. No room
 * is asked for: a rename must work on a full disk. Thread: any.
 */
#include <errno.h>
#include <linux/fs.h>
#include <string.h>

#include "fs/workspace/ws.h"

struct ends {
    struct dmt_inode from_dir, to_dir, src, dst;
    bool have_dst;
};

/* Is `dir` the directory `top`, or below it? Walks up; the tree is finite and has no cycles, so
 * this ends. */
static int below(struct dmt_ws *ws, uint64_t dir, uint64_t top)
{
    struct dmt_inode n;
    while (dir != top) {
        if (dir == DMT_ROOT)
            return 0;
        int r = dmt_store_inode_get(ws->st, DMT_LIVE, dir, &n);
        if (r < 0)
            return r;
        dir = n.parent;
    }
    return 1;
}

static int find_ends(struct dmt_ws *ws, const struct dmt_rec_RENAME *m, const char *name,
                     const char *newname, struct ends *e)
{
    struct dmt_dentry d;
    int r = ws_live_dir(ws, m->parent, &e->from_dir);
    if (r == 0)
        r = ws_live_dir(ws, m->newparent, &e->to_dir);
    if (r == 0)
        r = ws_name_check(name);
    if (r == 0)
        r = ws_name_check(newname);
    if (r == 0)
        r = dmt_store_dentry_get(ws->st, DMT_LIVE, m->parent, name, strlen(name), &d);
    if (r == 0)
        r = dmt_store_inode_get(ws->st, DMT_LIVE, d.ino, &e->src);
    if (r < 0)
        return r;
    r = dmt_store_dentry_get(ws->st, DMT_LIVE, m->newparent, newname, strlen(newname), &d);
    if (r == -ENOENT)
        return 0;
    e->have_dst = true;
    return r < 0 ? r : dmt_store_inode_get(ws->st, DMT_LIVE, d.ino, &e->dst);
}

static int check_replace(struct dmt_ws *ws, const struct ends *e)
{
    if (!S_ISDIR(e->src.mode))
        return S_ISDIR(e->dst.mode) ? -EISDIR : 0;
    if (!S_ISDIR(e->dst.mode))
        return -ENOTDIR;
    int r = dmt_store_dir_empty(ws->st, e->dst.ino);
    return r < 0 ? r : r == 0 ? -ENOTEMPTY : 0;
}

static int check_loops(struct dmt_ws *ws, const struct dmt_rec_RENAME *m, const struct ends *e)
{
    int r = 0;
    if (m->parent == m->newparent)
        return 0;
    if (S_ISDIR(e->src.mode))
        r = below(ws, m->newparent, e->src.ino);
    if (r == 0 && m->flags & RENAME_EXCHANGE && S_ISDIR(e->dst.mode))
        r = below(ws, m->parent, e->dst.ino);
    return r > 0 ? -EINVAL : r;
}

static int do_rename(struct dmt_ws *ws, struct dmt_op *op, struct dmt_body *b, const char *name,
                     const char *newname)
{
    struct dmt_rec_RENAME *m = &b->RENAME;
    struct ends e = {.have_dst = false};
    if ((m->parent ^ m->newparent) >> 63)
        return -EXDEV;
    int r = ws_begin(ws, false);
    if (r == 0)
        r = find_ends(ws, m, name, newname, &e);
    if (r < 0)
        return r;
    if (ws_reserved(m->newparent, newname))
        return -EBUSY;
    if (e.have_dst && m->flags & RENAME_NOREPLACE)
        return -EEXIST;
    if (!e.have_dst && m->flags & RENAME_EXCHANGE)
        return -ENOENT;
    if (e.have_dst && e.dst.ino == e.src.ino)
        return 0; /* two links of one inode: nothing to do, and both names stay */
    r = check_loops(ws, m, &e);
    if (r == 0 && e.have_dst && !(m->flags & RENAME_EXCHANGE))
        r = check_replace(ws, &e);
    if (r < 0)
        return r;
    m->ino = e.src.ino;
    m->replaced = e.have_dst ? e.dst.ino : 0;
    bool last =
        e.have_dst && !(m->flags & RENAME_EXCHANGE) && (S_ISDIR(e.dst.mode) || e.dst.nlink <= 1);
    if (!(m->flags & RENAME_EXCHANGE))
        m->flags |= DMT_RENAME_PLACE;
    m->orphan = last && ws_in_use(ws, e.dst.ino);
    return ws_log(ws, op, b, 0);
}

int dmt_ws_rename(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, const char *name,
                  uint64_t newparent, const char *newname, uint32_t flags)
{
    struct dmt_body b = {
        .type = DMT_REC_RENAME,
        .RENAME = {.parent = parent,
                   .name = ws_span(name),
                   .newparent = newparent,
                   .newname = ws_span(newname),
                   .flags = flags},
    };
    op->seq = 0;
    if (flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE) ||
        (flags & RENAME_NOREPLACE && flags & RENAME_EXCHANGE))
        return -EINVAL;
    ws_lock(ws);
    int r = ws_done(ws, op, NULL) ? 0 : do_rename(ws, op, &b, name, newname);
    ws_unlock(ws);
    return dmt_err_errno(r);
}
