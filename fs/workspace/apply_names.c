/* apply_names.c: what MAKE, LINK, UNLINK, RENAME and REAP do to the state.
 *
 * Owns nothing. Everything that could fail for a reason of the user's was checked before the record
 * was logged, so a failure here means memory or disk, or drift between log and state; the caller
 * fails the workspace. Each record changes the inode it names and the directories it touches, all
 * with the record's time and position. The directory counter gives each new entry its cookie, in
 * record order, so cookies are equal on every machine. Thread: whoever applies, workspace lock
 * held.
 */
#include <errno.h>
#include <linux/fs.h>
#include <string.h>

#include "fs/workspace/ws.h"

/* cookie 0: the directory's next one. */
static int dir_add(struct dmt_ws *ws, const struct dmt_rec *r, uint64_t parent,
                   struct dmt_span name, uint64_t ino, uint32_t type, uint32_t cookie)
{
    struct dmt_inode dir;
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, parent, &dir);
    if (e < 0)
        return e;
    e = dmt_store_dentry_put(ws->st, parent, name.p, name.n, ino, type,
                             cookie ? cookie : dir.next_cookie, r->seq);
    if (e < 0)
        return e;
    dir.next_cookie += cookie == 0;
    dir.nlink += S_ISDIR(type) ? 1 : 0;
    dir.mtime = r->time_ns;
    ws_touch(&dir, r);
    ws_hint(ws, ino, parent);
    return dmt_store_inode_put(ws->st, &dir);
}

static int dir_del(struct dmt_ws *ws, const struct dmt_rec *r, uint64_t parent,
                   struct dmt_span name, uint32_t type)
{
    struct dmt_inode dir;
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, parent, &dir);
    if (e < 0)
        return e;
    e = dmt_store_dentry_del(ws->st, parent, name.p, name.n, r->seq);
    if (e < 0)
        return e;
    dir.nlink -= S_ISDIR(type) ? 1 : 0;
    dir.mtime = r->time_ns;
    ws_touch(&dir, r);
    return dmt_store_inode_put(ws->st, &dir);
}

static int inode_gone(struct dmt_ws *ws, const struct dmt_rec *r, uint64_t ino)
{
    ws_map_del(&ws->orphans, ino);
    ws_map_del(&ws->ref_seqs, ino);
    return dmt_store_inode_del(ws->st, ino, r->seq);
}

/* One name less. The last one: the inode goes, or becomes an orphan when the record says that it is
 * still in use. */
static int drop_link(struct dmt_ws *ws, const struct dmt_rec *r, struct dmt_inode *n, bool orphan)
{
    n->nlink = S_ISDIR(n->mode) || n->nlink == 0 ? 0 : n->nlink - 1;
    ws_touch(n, r);
    if (n->nlink > 0)
        return dmt_store_inode_put(ws->st, n);
    if (!orphan)
        return inode_gone(ws, r, n->ino);
    n->flags |= DMT_INO_ORPHAN;
    int e = ws_map_put(&ws->orphans, n->ino, 1);
    return e < 0 ? e : dmt_store_inode_put(ws->st, n);
}

static int apply_make(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_rec_MAKE *m)
{
    bool dir = S_ISDIR(m->mode), named = m->name.n > 0;
    struct dmt_inode n = {
        .ino = m->ino,
        .mode = m->mode,
        .nlink = !named ? 0
                 : dir  ? 2
                        : 1,
        .uid = m->uid,
        .gid = m->gid,
        .rdev = m->rdev,
        .flags = named ? 0 : DMT_INO_ORPHAN,
        .size = m->target.n,
        .atime = r->time_ns,
        .mtime = r->time_ns,
        .btime = r->time_ns,
        .parent = dir ? m->parent : 0,
        .next_cookie = dir ? 3 : 0,
    };
    ws_touch(&n, r);
    if (m->ino >= ws->next_ino)
        ws->next_ino = m->ino + 1;
    int e = dmt_store_inode_put(ws->st, &n);
    if (e == 0 && m->target.n > 0)
        e = dmt_store_write(ws->st, n.ino, 0, m->target.p, m->target.n, r->seq);
    if (e == 0 && m->acl_access.n > 0)
        e = ws_put_xattr(ws, r, &n, ws_span(WS_ACL_ACCESS), m->acl_access);
    if (e == 0 && m->acl_default.n > 0)
        e = ws_put_xattr(ws, r, &n, ws_span(WS_ACL_DEFAULT), m->acl_default);
    if (e == 0 && n.flags & DMT_INO_XATTR)
        e = dmt_store_inode_put(ws->st, &n);
    if (e == 0 && !named)
        e = ws_map_put(&ws->orphans, n.ino, 1);
    if (e == 0 && named)
        e = dir_add(ws, r, m->parent, m->name, m->ino, m->mode & S_IFMT, 0);
    return e;
}

static int apply_link(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_rec_LINK *l)
{
    struct dmt_inode n;
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, l->ino, &n);
    if (e < 0)
        return e;
    n.nlink++;
    n.flags &= ~DMT_INO_ORPHAN; /* O_TMPFILE that gets its first name */
    ws_map_del(&ws->orphans, l->ino);
    ws_touch(&n, r);
    e = dmt_store_inode_put(ws->st, &n);
    return e < 0 ? e : dir_add(ws, r, l->parent, l->name, l->ino, n.mode & S_IFMT, 0);
}

static int apply_unlink(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_rec_UNLINK *u)
{
    struct dmt_inode n;
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, u->ino, &n);
    if (e == 0)
        e = dir_del(ws, r, u->parent, u->name, n.mode);
    return e < 0 ? e : drop_link(ws, r, &n, u->orphan);
}

/* A moved inode: new version, and directories know their new parent. */
static int moved(struct dmt_ws *ws, const struct dmt_rec *r, struct dmt_inode *n, uint64_t parent)
{
    if (S_ISDIR(n->mode))
        n->parent = parent;
    ws_touch(n, r);
    return dmt_store_inode_put(ws->st, n);
}

static int exchange(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_rec_RENAME *m,
                    struct dmt_inode *a, struct dmt_inode *b)
{
    int e = dir_del(ws, r, m->parent, m->name, a->mode);
    if (e == 0)
        e = dir_del(ws, r, m->newparent, m->newname, b->mode);
    if (e == 0)
        e = dir_add(ws, r, m->parent, m->name, b->ino, b->mode & S_IFMT, 0);
    if (e == 0)
        e = dir_add(ws, r, m->newparent, m->newname, a->ino, a->mode & S_IFMT, 0);
    if (e == 0)
        e = moved(ws, r, a, m->newparent);
    return e < 0 ? e : moved(ws, r, b, m->parent);
}

/* The cookie of the renamed entry, 0 for a new one. Who lists the directory meanwhile sees each
 * name that is there all the time once: a replaced name stays where it was, and so does an entry
 * that only changes its name (docs/decisions/0023). */
static int place_of(struct dmt_ws *ws, const struct dmt_rec_RENAME *m, uint32_t *ret)
{
    struct dmt_dentry d = {.cookie = 0};
    int e = 0;
    if (m->flags & DMT_RENAME_PLACE && m->replaced)
        e = dmt_store_dentry_get(ws->st, DMT_LIVE, m->newparent, m->newname.p, m->newname.n, &d);
    else if (m->flags & DMT_RENAME_PLACE && m->parent == m->newparent)
        e = dmt_store_dentry_get(ws->st, DMT_LIVE, m->parent, m->name.p, m->name.n, &d);
    *ret = d.cookie;
    return e;
}

static int apply_rename(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_rec_RENAME *m)
{
    struct dmt_inode n, old;
    uint32_t cookie;
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, m->ino, &n);
    if (e == 0 && m->replaced)
        e = dmt_store_inode_get(ws->st, DMT_LIVE, m->replaced, &old);
    if (e < 0)
        return e;
    if (m->flags & RENAME_EXCHANGE)
        return exchange(ws, r, m, &n, &old);
    e = place_of(ws, m, &cookie);
    if (e == 0 && m->replaced) {
        if (S_ISREG(n.mode) && S_ISREG(old.mode))
            e = dmt_store_keep_replace(ws->st, m->ino, m->replaced, r->seq);
        if (e == 0)
            e = dir_del(ws, r, m->newparent, m->newname, old.mode);
        if (e == 0)
            e = drop_link(ws, r, &old, m->orphan);
    }
    if (e == 0)
        e = dir_del(ws, r, m->parent, m->name, n.mode);
    if (e == 0)
        e = dir_add(ws, r, m->newparent, m->newname, m->ino, n.mode & S_IFMT, cookie);
    return e < 0 ? e : moved(ws, r, &n, m->newparent);
}

int ws_apply_names(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b)
{
    switch (b->type) {
    case DMT_REC_MAKE:
        return apply_make(ws, r, &b->MAKE);
    case DMT_REC_LINK:
        return apply_link(ws, r, &b->LINK);
    case DMT_REC_UNLINK:
        return apply_unlink(ws, r, &b->UNLINK);
    case DMT_REC_RENAME:
        return apply_rename(ws, r, &b->RENAME);
    default:
        DMT_ASSERT(b->type == DMT_REC_REAP);
        return inode_gone(ws, r, b->REAP.ino);
    }
}
