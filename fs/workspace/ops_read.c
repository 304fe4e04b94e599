/* ops_read.c: read and seek, in the live tree and in snapshots.
 *
 * Owns nothing. Two steps: under the lock the map is asked, bytes in memory are copied and holes
 * zeroed; without it the pieces that lie in data files are read (nowait: -EAGAIN instead of waiting
 * for the disk, and the caller gives the read to the pool). The pieces hold their files, so a
 * checkpoint meanwhile takes nothing away. Thread: any.
 */
#include <errno.h>
#include <unistd.h>

#include "fs/workspace/ws.h"

static ssize_t read_inode(struct dmt_ws *ws, uint64_t view, const struct dmt_inode *n, void *buf,
                          size_t len, uint64_t off, bool nowait)
{
    struct dmt_pieces ps = {0};
    if (off >= n->size || len == 0) {
        ws_unlock(ws);
        return 0;
    }
    if (len > n->size - off)
        len = n->size - off;
    int r = dmt_store_map(ws->st, view, n->ino, off, buf, len, &ps);
    ws_unlock(ws);
    if (r == 0)
        r = dmt_store_pieces_read(ws->st, &ps, off, buf, nowait);
    ws_lock(ws);
    dmt_store_pieces_free(ws->st, &ps);
    ws_unlock(ws);
    return r < 0 ? r : (ssize_t)len;
}

ssize_t ws_view_read(struct dmt_ws *ws, uint64_t view, uint64_t ino, void *buf, size_t len,
                     uint64_t off, bool nowait)
{
    struct dmt_inode n;
    ws_lock(ws);
    int r = dmt_store_inode_get(ws->st, view, ino, &n);
    if (r < 0) {
        ws_unlock(ws);
        return r;
    }
    return read_inode(ws, view, &n, buf, len, off, nowait);
}

/* A look at a standby: what is still on its way must not be read as zeros. Lock held. */
static bool on_its_way(struct dmt_ws *ws, const struct ws_at *at, const struct dmt_inode *n,
                       size_t len, uint64_t off)
{
    if (ws->role != WS_FOLLOWER || off >= n->size)
        return false;
    uint64_t left = n->size - off;
    return dmt_store_missing_at(ws->st, at->view, at->ino, off, len < left ? len : left);
}

ssize_t dmt_ws_read(struct dmt_ws *ws, uint64_t node, void *buf, size_t len, uint64_t off,
                    bool nowait)
{
    struct dmt_inode n;
    struct ws_at at;
    ws_lock(ws);
    int r = ws_inode(ws, node, &at, &n);
    if (r == 0 && !S_ISREG(n.mode))
        r = S_ISDIR(n.mode) ? -EISDIR : -EINVAL;
    if (r == 0 && on_its_way(ws, &at, &n, len, off))
        r = -EIO;
    if (r < 0) {
        ws_unlock(ws);
        return dmt_err_errno(r);
    }
    ssize_t got = read_inode(ws, at.view, &n, buf, len, off, nowait);
    return got < 0 ? dmt_err_errno((int)got) : got;
}

int64_t dmt_ws_seek(struct dmt_ws *ws, uint64_t node, uint64_t off, int whence)
{
    struct dmt_inode n;
    struct ws_at at;
    int64_t r;
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return -EINVAL;
    ws_lock(ws);
    r = ws_inode(ws, node, &at, &n);
    if (r == 0 && off >= n.size)
        r = -ENXIO;
    if (r == 0)
        r = dmt_store_seek(ws->st, at.view, at.ino, off, n.size, whence == SEEK_DATA);
    ws_unlock(ws);
    return r < 0 ? dmt_err_errno((int)r) : r;
}
