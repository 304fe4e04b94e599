/* acl.c: POSIX access control lists in the form that xattrs carry (version 2: u32 version, then u16
 * tag, u16 perm, u32 id).
 *
 * Owns nothing; pure functions. The kernel checks permissions by these lists; what is left to us is
 * what a filesystem does in its own create, chmod and setxattr: a default ACL of the directory
 * becomes the new inode's access ACL, masked by the mode asked for; an access ACL and the mode's
 * bits always say the same (the group bits are the mask where there is one). Bad lists are -EINVAL.
 * Thread: any.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/workspace/ws.h"

#define ACL_VERSION 2u
#define ACL_ENTRY   8u

enum acl_tag {
    ACL_USER_OBJ = 0x01,
    ACL_USER = 0x02,
    ACL_GROUP_OBJ = 0x04,
    ACL_GROUP = 0x08,
    ACL_MASK = 0x10,
    ACL_OTHER = 0x20,
};

/* Where the three entries that mirror the mode stand; NULL when absent. */
struct acl_view {
    uint8_t *user, *group, *mask, *other;
    bool named; /* users or groups by id */
};

static uint32_t perm_of(const uint8_t *entry)
{
    return dmt_le16(entry + 2);
}

static void set_perm(uint8_t *entry, uint32_t perm)
{
    dmt_st16(entry + 2, (uint16_t)(perm & 7));
}

/* Checks the list as the kernel does: order of tags, one of each kind that must be unique, a mask
 * when there are named entries. */
static int parse(uint8_t *p, size_t len, struct acl_view *v)
{
    uint16_t last = 0;
    *v = (struct acl_view){0};
    if (len < 4 || (len - 4) % ACL_ENTRY != 0 || dmt_le32(p) != ACL_VERSION)
        return -EINVAL;
    for (uint8_t *e = p + 4; e < p + len; e += ACL_ENTRY) {
        uint16_t tag = dmt_le16(e);
        bool repeats = tag == ACL_USER || tag == ACL_GROUP;
        if (perm_of(e) > 7 || tag < last || (tag == last && !repeats))
            return -EINVAL;
        last = tag;
        switch ((enum acl_tag)tag) {
        case ACL_USER_OBJ:
            v->user = e;
            break;
        case ACL_GROUP_OBJ:
            v->group = e;
            break;
        case ACL_MASK:
            v->mask = e;
            break;
        case ACL_OTHER:
            v->other = e;
            break;
        case ACL_USER:
        case ACL_GROUP:
            v->named = true;
            break;
        default:
            return -EINVAL;
        }
    }
    return v->user && v->group && v->other && (v->mask || !v->named) ? 0 : -EINVAL;
}

int ws_acl_check(struct dmt_span acl)
{
    struct acl_view v;
    uint8_t copy[WS_ACL_BYTES_MAX];
    if (acl.n > sizeof(copy))
        return -EINVAL;
    memcpy(copy, acl.p, acl.n);
    return parse(copy, acl.n, &v);
}

int ws_acl_mode(struct dmt_span acl, uint32_t *mode, bool *ret_minimal)
{
    struct acl_view v;
    uint8_t copy[WS_ACL_BYTES_MAX];
    if (acl.n > sizeof(copy))
        return -EINVAL;
    memcpy(copy, acl.p, acl.n);
    int r = parse(copy, acl.n, &v);
    if (r < 0)
        return r;
    const uint8_t *group = v.mask ? v.mask : v.group;
    *mode =
        (*mode & ~(uint32_t)0777) | perm_of(v.user) << 6 | perm_of(group) << 3 | perm_of(v.other);
    *ret_minimal = !v.mask && !v.named;
    return 0;
}

int ws_acl_chmod(uint8_t *buf, size_t len, uint32_t mode)
{
    struct acl_view v;
    int r = parse(buf, len, &v);
    if (r < 0)
        return r;
    set_perm(v.user, mode >> 6);
    set_perm(v.mask ? v.mask : v.group, mode >> 3);
    set_perm(v.other, mode);
    return 0;
}

int ws_acl_inherit(struct dmt_span dflt, uint8_t buf[WS_ACL_BYTES_MAX], size_t *ret_len,
                   uint32_t *mode)
{
    struct acl_view v;
    if (dflt.n > WS_ACL_BYTES_MAX)
        return -EINVAL;
    memcpy(buf, dflt.p, dflt.n);
    int r = parse(buf, dflt.n, &v);
    if (r < 0)
        return r;
    uint8_t *group = v.mask ? v.mask : v.group;
    set_perm(v.user, perm_of(v.user) & (*mode >> 6));
    set_perm(group, perm_of(group) & (*mode >> 3));
    set_perm(v.other, perm_of(v.other) & *mode);
    *mode =
        (*mode & ~(uint32_t)0777) | perm_of(v.user) << 6 | perm_of(group) << 3 | perm_of(v.other);
    *ret_len = v.mask || v.named ? dflt.n : 0;
    return 0;
}
