/* ops_attr.c: setattr: chmod, chown, truncate, utimens.
 *
 * Owns nothing. chown of anything but a directory clears setuid, and setgid where the group may
 * execute (as the VFS does on other filesystems); the kernel leaves that to us. Truncate clears
 * them when the kernel says so, and both drop security.capability. All of it is one record: final
 * mode, resolved times. Thread: any.
 */
#include <errno.h>

#include "fs/workspace/ws.h"

uint32_t ws_kill_mode(const struct dmt_inode *n, bool kill)
{
    uint32_t mode = n->mode & 07777 & ~(uint32_t)S_ISUID;
    if (mode & S_IXGRP)
        mode &= ~(uint32_t)S_ISGID;
    return kill && !S_ISDIR(n->mode) && mode != (n->mode & 07777) ? mode : DMT_MODE_KEEP;
}

int ws_has_caps(struct dmt_ws *ws, const struct dmt_inode *n)
{
    size_t len;
    if (!(n->flags & DMT_INO_XATTR))
        return 0;
    int r = dmt_store_xattr_get(ws->st, DMT_LIVE, n->ino, WS_CAPS, NULL, 0, &len);
    return r == 0 ? 1 : r == -ENODATA ? 0 : r;
}

static int check_size(const struct dmt_inode *n, uint64_t size)
{
    if (S_ISDIR(n->mode))
        return -EISDIR;
    if (!S_ISREG(n->mode))
        return -EINVAL;
    return size > DMT_FILE_SIZE_MAX ? -EFBIG : 0;
}

static int set(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const struct dmt_setattr *sa)
{
    struct dmt_inode n;
    int r = ws_begin(ws, false);
    if (r == 0)
        r = ws_live(ws, node, &n);
    if (r == 0 && sa->mask & DMT_SET_SIZE)
        r = check_size(&n, sa->size);
    if (r < 0 || sa->mask == 0)
        return r;
    uint64_t t = ws_time(ws);
    bool chown = sa->mask & (DMT_SET_UID | DMT_SET_GID);
    struct dmt_body b = {
        .type = DMT_REC_SETATTR,
        .SETATTR = {.ino = node,
                    .mask = sa->mask & ~DMT_SET_DROP_CAPS,
                    .mode = sa->mode & 07777,
                    .uid = sa->uid,
                    .gid = sa->gid,
                    .size = sa->size,
                    .atime = sa->atime_now ? t : sa->atime,
                    .mtime = sa->mtime_now ? t : sa->mtime},
    };
    struct dmt_inode after = n;
    if (sa->mask & DMT_SET_MODE)
        after.mode = (n.mode & S_IFMT) | b.SETATTR.mode;
    uint32_t killed = ws_kill_mode(&after, chown || sa->kill_suidgid);
    if (killed != DMT_MODE_KEEP) {
        b.SETATTR.mask |= DMT_SET_MODE;
        b.SETATTR.mode = killed;
    }
    if (S_ISREG(n.mode) && (chown || sa->mask & DMT_SET_SIZE)) {
        r = ws_has_caps(ws, &n);
        if (r < 0)
            return r;
        b.SETATTR.mask |= r ? DMT_SET_DROP_CAPS : 0;
    }
    return ws_log(ws, op, &b, t);
}

int dmt_ws_setattr(struct dmt_ws *ws, struct dmt_op *op, uint64_t node,
                   const struct dmt_setattr *sa, struct dmt_attr *ret)
{
    struct dmt_inode n;
    struct ws_at at;
    op->seq = 0;
    ws_lock(ws);
    int r = ws_done(ws, op, NULL) ? 0 : set(ws, op, node, sa);
    if (r == 0)
        r = ws_inode(ws, node, &at, &n);
    if (r == 0)
        ws_fill(ws, &at, &n, ret);
    ws_unlock(ws);
    return dmt_err_errno(r);
}
