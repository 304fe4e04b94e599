/* apply_attrs.c: what SETATTR, SETXATTR and DELXATTR do to the state.
 *
 * Owns nothing. A new mode is also written into the access ACL where there is one, so that the two
 * never disagree: this is a pure function of the state before, hence the same on every machine.
 * security.capability goes with SETATTR and writes that say so. Thread: whoever applies, workspace
 * lock held.
 */
#include <errno.h>

#include "fs/workspace/ws.h"

int ws_put_xattr(struct dmt_ws *ws, const struct dmt_rec *r, struct dmt_inode *n,
                 struct dmt_span name, struct dmt_span val)
{
    char cname[DMT_XATTR_NAME_MAX + 1];
    if (name.n > DMT_XATTR_NAME_MAX)
        return DMT_E_CORRUPT;
    __builtin_memcpy(cname, name.p, name.n);
    cname[name.n] = '\0';
    n->flags |= DMT_INO_XATTR;
    return dmt_store_xattr_put(ws->st, n->ino, cname, val.p, val.n, r->seq);
}

static int saw_one(void *ctx, const char *name, const void *val, size_t len)
{
    (void)name, (void)val, (void)len;
    *(bool *)ctx = true;
    return 1;
}

int ws_del_xattr(struct dmt_ws *ws, const struct dmt_rec *r, struct dmt_inode *n,
                 struct dmt_span name)
{
    char cname[DMT_XATTR_NAME_MAX + 1];
    bool any = false;
    if (name.n > DMT_XATTR_NAME_MAX)
        return DMT_E_CORRUPT;
    __builtin_memcpy(cname, name.p, name.n);
    cname[name.n] = '\0';
    int e = dmt_store_xattr_del(ws->st, n->ino, cname, r->seq);
    if (e < 0)
        return e;
    e = dmt_store_xattr_each(ws->st, DMT_LIVE, n->ino, saw_one, &any);
    if (e >= 0 && !any)
        n->flags &= ~DMT_INO_XATTR;
    return e < 0 ? e : 0;
}

int ws_drop_caps(struct dmt_ws *ws, const struct dmt_rec *r, struct dmt_inode *n)
{
    int e = ws_del_xattr(ws, r, n, ws_span(WS_CAPS));
    return e == -ENODATA ? 0 : e;
}

static int acl_follows_mode(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_inode *n)
{
    uint8_t acl[WS_ACL_BYTES_MAX];
    size_t len;
    int e = dmt_store_xattr_get(ws->st, DMT_LIVE, n->ino, WS_ACL_ACCESS, acl, sizeof(acl), &len);
    if (e == -ENODATA)
        return 0;
    if (e == 0)
        e = ws_acl_chmod(acl, len, n->mode);
    return e < 0 ? e : dmt_store_xattr_put(ws->st, n->ino, WS_ACL_ACCESS, acl, len, r->seq);
}

static int set_size(struct dmt_ws *ws, const struct dmt_rec *r, struct dmt_inode *n, uint64_t size)
{
    int e = size < n->size ? dmt_store_truncate(ws->st, n->ino, size, r->seq) : 0;
    n->size = size;
    n->mtime = r->time_ns;
    return e;
}

static int apply_setattr(struct dmt_ws *ws, const struct dmt_rec *r,
                         const struct dmt_rec_SETATTR *s)
{
    struct dmt_inode n;
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, s->ino, &n);
    if (e == 0 && s->mask & DMT_SET_SIZE)
        e = set_size(ws, r, &n, s->size);
    if (e == 0 && s->mask & DMT_SET_DROP_CAPS)
        e = ws_drop_caps(ws, r, &n);
    if (e < 0)
        return e;
    if (s->mask & DMT_SET_MODE) {
        n.mode = (n.mode & S_IFMT) | (s->mode & 07777);
        e = n.flags & DMT_INO_XATTR ? acl_follows_mode(ws, r, &n) : 0;
    }
    if (s->mask & DMT_SET_UID)
        n.uid = s->uid;
    if (s->mask & DMT_SET_GID)
        n.gid = s->gid;
    if (s->mask & DMT_SET_ATIME)
        n.atime = s->atime;
    if (s->mask & DMT_SET_MTIME)
        n.mtime = s->mtime;
    ws_touch(&n, r);
    return e < 0 ? e : dmt_store_inode_put(ws->st, &n);
}

static void set_mode(struct dmt_inode *n, uint32_t mode)
{
    if (mode != DMT_MODE_KEEP)
        n->mode = (n->mode & S_IFMT) | (mode & 07777);
}

int ws_apply_attrs(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b)
{
    struct dmt_inode n;
    if (b->type == DMT_REC_SETATTR)
        return apply_setattr(ws, r, &b->SETATTR);
    bool set = b->type == DMT_REC_SETXATTR;
    DMT_ASSERT(set || b->type == DMT_REC_DELXATTR);
    int e = dmt_store_inode_get(ws->st, DMT_LIVE, set ? b->SETXATTR.ino : b->DELXATTR.ino, &n);
    if (e < 0)
        return e;
    if (set)
        e = ws_put_xattr(ws, r, &n, b->SETXATTR.name, b->SETXATTR.value);
    else
        e = ws_del_xattr(ws, r, &n, b->DELXATTR.name);
    if (e < 0)
        return e;
    set_mode(&n, set ? b->SETXATTR.mode : b->DELXATTR.mode);
    ws_touch(&n, r);
    return dmt_store_inode_put(ws->st, &n);
}
