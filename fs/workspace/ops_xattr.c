/* ops_xattr.c: extended attributes, POSIX ACLs among them.
 *
 * Owns nothing. Namespaces: user, trusted, security, and the two ACL names of system; permissions
 * on them are the kernel's. An access ACL changes the mode in the same record; one that says no
 * more than the mode bits is stored as the mode alone, as ext4 does. An empty default ACL or a
 * removal takes it away. Thread: any.
 */
#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#include "fs/workspace/ws.h"

static bool starts(const char *s, const char *with)
{
    return strncmp(s, with, strlen(with)) == 0 && s[strlen(with)] != '\0';
}

static int name_check(const char *name)
{
    if (strnlen(name, DMT_XATTR_NAME_MAX + 1) > DMT_XATTR_NAME_MAX)
        return -ERANGE;
    if (strcmp(name, "user.") == 0 || strcmp(name, "trusted.") == 0 ||
        strcmp(name, "security.") == 0)
        return -EINVAL;
    bool known = starts(name, "user.") || starts(name, "trusted.") || starts(name, "security.") ||
                 strcmp(name, WS_ACL_ACCESS) == 0 || strcmp(name, WS_ACL_DEFAULT) == 0;
    return known ? 0 : -EOPNOTSUPP;
}

ssize_t dmt_ws_getxattr(struct dmt_ws *ws, uint64_t node, const char *name, void *buf, size_t size)
{
    struct dmt_inode n;
    struct ws_at at;
    size_t len = 0;
    int r = name_check(name);
    if (r < 0)
        return r;
    ws_lock(ws);
    r = ws_inode(ws, node, &at, &n);
    if (r == 0)
        r = n.flags & DMT_INO_XATTR
                ? dmt_store_xattr_get(ws->st, at.view, at.ino, name, buf, size, &len)
                : -ENODATA;
    ws_unlock(ws);
    if (r == -EISDIR)
        return -ENODATA; /* .snapshots itself */
    return r < 0 ? dmt_err_errno(r) : (ssize_t)len;
}

struct lister {
    char *buf;
    size_t size, len;
    bool trusted;
};

static int list_one(void *ctx, const char *name, const void *val, size_t len)
{
    struct lister *l = ctx;
    size_t n = strlen(name) + 1;
    (void)val, (void)len;
    if (!l->trusted && starts(name, "trusted."))
        return 0;
    if (l->size >= l->len + n)
        memcpy(l->buf + l->len, name, n);
    l->len += n;
    return 0;
}

ssize_t dmt_ws_listxattr(struct dmt_ws *ws, uint64_t node, char *buf, size_t size, bool trusted)
{
    struct dmt_inode n;
    struct ws_at at;
    struct lister l = {buf, size, 0, trusted};
    ws_lock(ws);
    int r = ws_inode(ws, node, &at, &n);
    if (r == 0 && n.flags & DMT_INO_XATTR)
        r = dmt_store_xattr_each(ws->st, at.view, at.ino, list_one, &l);
    ws_unlock(ws);
    if (r == -EISDIR)
        return 0;
    if (r < 0)
        return dmt_err_errno(r);
    return size > 0 && l.len > size ? -ERANGE : (ssize_t)l.len;
}

/* CREATE and REPLACE against what is there. */
static int flags_check(struct dmt_ws *ws, const struct dmt_inode *n, const char *name, int flags)
{
    size_t len;
    int r = -ENODATA;
    if (n->flags & DMT_INO_XATTR)
        r = dmt_store_xattr_get(ws->st, DMT_LIVE, n->ino, name, NULL, 0, &len);
    if (r < 0 && r != -ENODATA)
        return r;
    if (flags & XATTR_CREATE && r == 0)
        return -EEXIST;
    return flags & XATTR_REPLACE && r < 0 ? -ENODATA : 0;
}

/* Mode that comes with an access ACL; *drop: the mode says it all, no xattr is kept. */
static int acl_mode(const struct dmt_inode *n, const char *name, struct dmt_span acl,
                    uint32_t *mode, bool *drop)
{
    if (strcmp(name, WS_ACL_DEFAULT) == 0)
        return !S_ISDIR(n->mode) ? -EACCES : ws_acl_check(acl);
    if (strcmp(name, WS_ACL_ACCESS) != 0)
        return 0;
    if (S_ISLNK(n->mode))
        return -EOPNOTSUPP;
    *mode = n->mode & 07777;
    return ws_acl_mode(acl, mode, drop);
}

static int remove_one(struct dmt_ws *ws, struct dmt_op *op, const struct dmt_inode *n,
                      const char *name, uint32_t mode)
{
    struct dmt_body b = {
        .type = DMT_REC_DELXATTR,
        .DELXATTR = {.ino = n->ino, .name = ws_span(name), .mode = mode},
    };
    size_t len;
    int r = dmt_store_xattr_get(ws->st, DMT_LIVE, n->ino, name, NULL, 0, &len);
    return r < 0 ? r : ws_log(ws, op, &b, 0);
}

static int set_mode_only(struct dmt_ws *ws, struct dmt_op *op, const struct dmt_inode *n,
                         uint32_t mode)
{
    int r = remove_one(ws, op, n, WS_ACL_ACCESS, mode);
    struct dmt_body b = {.type = DMT_REC_SETATTR,
                         .SETATTR = {.ino = n->ino, .mask = DMT_SET_MODE, .mode = mode}};
    return r == -ENODATA ? ws_log(ws, op, &b, 0) : r;
}

static int set_one(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const char *name,
                   struct dmt_span val, int flags)
{
    struct dmt_inode n;
    uint32_t mode = DMT_MODE_KEEP;
    bool drop = false;
    int r = ws_begin(ws, true);
    if (r == 0)
        r = ws_live(ws, node, &n);
    if (r == 0)
        r = flags_check(ws, &n, name, flags);
    if (r == 0)
        r = acl_mode(&n, name, val, &mode, &drop);
    if (flags & DMT_XATTR_KILL_SGID && mode != DMT_MODE_KEEP)
        mode &= ~(uint32_t)S_ISGID;
    if (r == 0)
        r = ws_room(ws, val.n + 4096, val.n + 4096);
    if (r < 0)
        return r;
    if (drop)
        return set_mode_only(ws, op, &n, mode);
    struct dmt_body b = {
        .type = DMT_REC_SETXATTR,
        .SETXATTR = {.ino = node, .name = ws_span(name), .value = val, .mode = mode},
    };
    return ws_log(ws, op, &b, 0);
}

int dmt_ws_setxattr(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const char *name,
                    const void *val, size_t len, int flags)
{
    int r = name_check(name);
    op->seq = 0;
    if (r < 0)
        return r;
    if (len > DMT_XATTR_VALUE_MAX)
        return -E2BIG;
    ws_lock(ws);
    r = ws_done(ws, op, NULL)
            ? 0
            : set_one(ws, op, node, name, (struct dmt_span){val, (uint32_t)len}, flags);
    ws_unlock(ws);
    return dmt_err_errno(r);
}

int dmt_ws_removexattr(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const char *name)
{
    struct dmt_inode n;
    int r = name_check(name);
    op->seq = 0;
    if (r < 0)
        return r;
    ws_lock(ws);
    bool done = ws_done(ws, op, NULL);
    r = done ? 0 : ws_begin(ws, false);
    if (r == 0 && !done)
        r = ws_live(ws, node, &n);
    if (r == 0 && !done)
        r = remove_one(ws, op, &n, name, DMT_MODE_KEEP);
    ws_unlock(ws);
    return dmt_err_errno(r);
}
