/* node.c: node ids, and inodes as callers see them.
 *
 * Owns nothing. A node id is the inode number for the live tree; bit 63 | snapshot serial << 40 |
 * inode number inside a snapshot; DMT_NODE_SNAPSHOTS for the directory that holds them. No table
 * stands behind it, so ids survive a restart, and st_ino = node id keeps tools from taking a file
 * and its snapshot for one hard link. Also: the memory of which directory an inode was last seen
 * in, a direct-mapped table that only ever saves a walk. Thread: any, workspace lock held.
 */
#include <errno.h>
#include <string.h>

#include "fs/workspace/ws.h"

#define NODE_VIEW_BIT (1ull << 63)
#define INO_MASK      ((1ull << DMT_INO_BITS) - 1)

int ws_at(struct dmt_ws *ws, uint64_t node, struct ws_at *ret)
{
    struct dmt_snapshot s;
    *ret = (struct ws_at){.node = node, .view = DMT_LIVE, .ino = node};
    if (!(node & NODE_VIEW_BIT))
        return 0;
    ret->ino = node & INO_MASK;
    ret->serial = (node & ~NODE_VIEW_BIT) >> DMT_INO_BITS;
    ret->snapdir = node == DMT_NODE_SNAPSHOTS;
    if (ret->snapdir)
        return 0;
    if (ret->serial != ws->snap_serial || ret->serial == 0) {
        int r = dmt_store_snap_by_serial(ws->st, ret->serial, &s);
        if (r < 0)
            return r;
        ws->snap_serial = s.serial;
        ws->snap_seq = s.seq;
    }
    ret->view = ws->snap_seq;
    return 0;
}

uint64_t ws_node(const struct ws_at *at, uint64_t ino)
{
    return at->view == DMT_LIVE ? ino : NODE_VIEW_BIT | at->serial << DMT_INO_BITS | ino;
}

uint64_t dmt_ws_snap_node(const struct dmt_snapshot *s, uint64_t ino)
{
    return NODE_VIEW_BIT | s->serial << DMT_INO_BITS | ino;
}

int ws_inode(struct dmt_ws *ws, uint64_t node, struct ws_at *at, struct dmt_inode *ret)
{
    int r = ws_at(ws, node, at);
    if (r == 0 && at->snapdir)
        return -EISDIR;
    return r < 0 ? r : dmt_store_inode_get(ws->st, at->view, at->ino, ret);
}

int ws_live(struct dmt_ws *ws, uint64_t node, struct dmt_inode *ret)
{
    if (node & NODE_VIEW_BIT)
        return -EROFS;
    return dmt_store_inode_get(ws->st, DMT_LIVE, node, ret);
}

int ws_live_dir(struct dmt_ws *ws, uint64_t node, struct dmt_inode *ret)
{
    int r = ws_live(ws, node, ret);
    if (r < 0)
        return r;
    if (!S_ISDIR(ret->mode))
        return -ENOTDIR;
    if (ret->next_cookie >= INT32_MAX)
        return -ENOSPC; /* 32-bit programs read cookies as signed offsets */
    return ret->nlink == 0 ? -ENOENT : 0;
}

int ws_name_check(const char *name)
{
    size_t n = strnlen(name, DMT_NAME_MAX + 1);
    if (n > DMT_NAME_MAX)
        return -ENAMETOOLONG;
    if (n == 0)
        return -ENOENT;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || memchr(name, '/', n))
        return -EINVAL;
    return 0;
}

bool ws_reserved(uint64_t parent, const char *name)
{
    return parent == DMT_ROOT && strcmp(name, DMT_SNAPSHOTS_NAME) == 0;
}

void ws_fill(struct dmt_ws *ws, const struct ws_at *at, const struct dmt_inode *n,
             struct dmt_attr *ret)
{
    uint64_t bytes = n->size;
    if (S_ISDIR(n->mode))
        bytes = 4096;
    else if (!S_ISREG(n->mode))
        bytes = 0;
    else if (at->view == DMT_LIVE && dmt_store_allocated(ws->st, n->ino, &bytes) < 0)
        bytes = n->size;
    *ret = (struct dmt_attr){.node = ws_node(at, n->ino)};
    ret->st = (struct stat){
        .st_ino = ret->node,
        .st_mode = n->mode,
        .st_nlink = n->nlink,
        .st_uid = n->uid,
        .st_gid = n->gid,
        .st_rdev = n->rdev,
        .st_size = (off_t)(S_ISDIR(n->mode) ? 4096 : n->size),
        .st_blksize = 4096,
        .st_blocks = (blkcnt_t)((bytes + 511) / 512),
        .st_atim = dmt_file_time(n->atime),
        .st_mtim = dmt_file_time(n->mtime),
        .st_ctim = dmt_file_time(n->ctime),
    };
}

void ws_fill_snapdir(struct dmt_ws *ws, struct dmt_attr *ret)
{
    struct dmt_inode root;
    struct ws_at live = {.node = DMT_ROOT, .view = DMT_LIVE, .ino = DMT_ROOT};
    if (dmt_store_inode_get(ws->st, DMT_LIVE, DMT_ROOT, &root) < 0)
        root = (struct dmt_inode){.mode = S_IFDIR};
    ws_fill(ws, &live, &root, ret);
    ret->node = ret->st.st_ino = DMT_NODE_SNAPSHOTS;
    ret->st.st_mode = S_IFDIR | 0555;
    ret->st.st_nlink = 2;
}

void ws_hint(struct dmt_ws *ws, uint64_t ino, uint64_t parent)
{
    if (ws->hints)
        ws->hints[ino % WS_HINTS] = (struct ws_hint){ino, parent};
}
