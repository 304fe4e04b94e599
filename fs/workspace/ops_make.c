/* ops_make.c: new names: make (file, directory, symlink, device, O_TMPFILE), link, unlink, rmdir.
 *
 * Owns nothing. Each checks all that can fail under the lock, then logs one record with results:
 * the inode number, the final mode after umask or default ACL, the group after the directory's
 * setgid bit. Failure modes are the errnos of POSIX; ENOSPC is decided before logging. unlink and
 * rmdir need no room: they must work on a full disk. Thread: any.
 */
#include <errno.h>
#include <string.h>

#include "fs/workspace/ws.h"

/* A name that a new entry may take. */
static int free_name(struct dmt_ws *ws, uint64_t parent, const char *name)
{
    struct dmt_dentry d;
    int r = ws_name_check(name);
    if (r < 0)
        return r;
    if (ws_reserved(parent, name))
        return -EEXIST;
    r = dmt_store_dentry_get(ws->st, DMT_LIVE, parent, name, strlen(name), &d);
    return r == 0 ? -EEXIST : r == -ENOENT ? 0 : r;
}

/* Mode and ACLs of a new inode: the directory's default ACL if it has one, else the umask. dflt and
 * access are buffers that b points into. */
static int inherit(struct dmt_ws *ws, const struct dmt_op *op, const struct dmt_inode *dir,
                   struct dmt_rec_MAKE *m, uint8_t dflt[WS_ACL_BYTES_MAX],
                   uint8_t access[WS_ACL_BYTES_MAX])
{
    size_t len = 0, access_len = 0;
    int r = -ENODATA;
    if (dir->flags & DMT_INO_XATTR && !S_ISLNK(m->mode))
        r = dmt_store_xattr_get(ws->st, DMT_LIVE, dir->ino, WS_ACL_DEFAULT, dflt, WS_ACL_BYTES_MAX,
                                &len);
    if (r == -ENODATA) {
        if (!S_ISLNK(m->mode))
            m->mode &= ~(op->umask & 0777u);
        return 0;
    }
    if (r == 0)
        r = ws_acl_inherit((struct dmt_span){dflt, (uint32_t)len}, access, &access_len, &m->mode);
    if (r < 0)
        return r;
    m->acl_access = (struct dmt_span){access, (uint32_t)access_len};
    if (S_ISDIR(m->mode))
        m->acl_default = (struct dmt_span){dflt, (uint32_t)len};
    return 0;
}

static int make(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, struct dmt_body *b,
                const char *name)
{
    struct dmt_rec_MAKE *m = &b->MAKE;
    struct dmt_inode dir;
    uint8_t dflt[WS_ACL_BYTES_MAX], access[WS_ACL_BYTES_MAX];
    int r = ws_begin(ws, true);
    if (r == 0)
        r = ws_live_dir(ws, parent, &dir);
    if (r == 0 && name)
        r = free_name(ws, parent, name);
    if (r == 0)
        r = ws_room(ws, 4096, 4096);
    if (r < 0)
        return r;
    if (ws->next_ino >> DMT_INO_BITS)
        return -ENOSPC;
    m->ino = ws->next_ino;
    m->uid = op->uid;
    m->gid = op->gid;
    if (dir.mode & S_ISGID) {
        m->gid = dir.gid;
        m->mode |= S_ISDIR(m->mode) ? S_ISGID : 0;
    }
    r = inherit(ws, op, &dir, m, dflt, access);
    return r < 0 ? r : ws_log(ws, op, b, 0);
}

int dmt_ws_make(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, const char *name,
                uint32_t mode, uint32_t rdev, const char *target, struct dmt_attr *ret)
{
    struct dmt_body b = {
        .type = DMT_REC_MAKE,
        .MAKE = {.parent = parent, .name = ws_span(name), .mode = mode, .target = ws_span(target)},
    };
    struct dmt_inode n;
    struct ws_at at;
    op->seq = 0;
    if (S_ISCHR(mode) || S_ISBLK(mode))
        b.MAKE.rdev = rdev;
    if (S_ISLNK(mode)) {
        b.MAKE.mode = S_IFLNK | 0777;
        if (!target || b.MAKE.target.n > DMT_SYMLINK_MAX)
            return -ENAMETOOLONG;
        if (b.MAKE.target.n == 0)
            return -ENOENT;
    }
    ws_lock(ws);
    int r = ws_done(ws, op, &b.MAKE.ino) ? 0 : make(ws, op, parent, &b, name);
    if (r == 0)
        r = ws_inode(ws, b.MAKE.ino, &at, &n);
    if (r == 0)
        ws_fill(ws, &at, &n, ret);
    ws_unlock(ws);
    return dmt_err_errno(r);
}

static int link_node(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, uint64_t parent,
                     const char *name)
{
    struct dmt_inode n, dir;
    if ((node ^ parent) >> 63)
        return -EXDEV;
    int r = ws_begin(ws, true);
    if (r == 0)
        r = ws_live(ws, node, &n);
    if (r == 0)
        r = ws_live_dir(ws, parent, &dir);
    if (r < 0)
        return r;
    if (S_ISDIR(n.mode))
        return -EPERM;
    if (n.nlink >= DMT_LINK_MAX)
        return -EMLINK;
    r = free_name(ws, parent, name);
    if (r == 0)
        r = ws_room(ws, 4096, 4096);
    struct dmt_body b = {
        .type = DMT_REC_LINK,
        .LINK = {.ino = node, .parent = parent, .name = ws_span(name)},
    };
    return r < 0 ? r : ws_log(ws, op, &b, 0);
}

int dmt_ws_link(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, uint64_t parent,
                const char *name, struct dmt_attr *ret)
{
    struct dmt_inode n;
    struct ws_at at;
    op->seq = 0;
    ws_lock(ws);
    int r = ws_done(ws, op, NULL) ? 0 : link_node(ws, op, node, parent, name);
    if (r == 0)
        r = ws_inode(ws, node, &at, &n);
    if (r == 0)
        ws_fill(ws, &at, &n, ret);
    ws_unlock(ws);
    return dmt_err_errno(r);
}

static int unlink_name(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, const char *name,
                       bool want_dir)
{
    struct dmt_dentry d;
    struct dmt_inode dir, n;
    int r = ws_begin(ws, false);
    if (r == 0)
        r = ws_live(ws, parent, &dir);
    if (r < 0)
        return r;
    if (!S_ISDIR(dir.mode))
        return -ENOTDIR;
    r = ws_name_check(name);
    if (r < 0)
        return r;
    if (ws_reserved(parent, name))
        return -EROFS;
    r = dmt_store_dentry_get(ws->st, DMT_LIVE, parent, name, strlen(name), &d);
    if (r == 0)
        r = dmt_store_inode_get(ws->st, DMT_LIVE, d.ino, &n);
    if (r < 0)
        return r;
    if (want_dir && !S_ISDIR(n.mode))
        return -ENOTDIR;
    if (!want_dir && S_ISDIR(n.mode))
        return -EISDIR;
    if (want_dir) {
        r = dmt_store_dir_empty(ws->st, d.ino);
        if (r <= 0)
            return r < 0 ? r : -ENOTEMPTY;
    }
    bool last = S_ISDIR(n.mode) || n.nlink <= 1;
    struct dmt_body b = {
        .type = DMT_REC_UNLINK,
        .UNLINK = {.parent = parent,
                   .name = ws_span(name),
                   .ino = d.ino,
                   .orphan = last && ws_in_use(ws, d.ino)},
    };
    return ws_log(ws, op, &b, 0);
}

int dmt_ws_unlink(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, const char *name, bool dir)
{
    op->seq = 0;
    ws_lock(ws);
    int r = ws_done(ws, op, NULL) ? 0 : unlink_name(ws, op, parent, name, dir);
    ws_unlock(ws);
    return dmt_err_errno(r);
}
