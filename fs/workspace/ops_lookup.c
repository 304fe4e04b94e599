/* ops_lookup.c: finding things: lookup, getattr, readlink, lookup counts, statfs.
 *
 * Owns the table of the kernel's lookup counts. Happy path: all in the store's memory or one of its
 * reading connections, under the lock for a few microseconds. `.snapshots` exists in the root by
 * name only. An orphan whose count falls to 0 is reaped by a record, so that every machine frees
 * the same. Nothing here waits for a flush. Thread: any.
 */
#include <errno.h>
#include <string.h>

#include "fs/workspace/ws.h"

/* Names of internal snapshots have a '/', which a directory entry cannot: '~' stands for it. */
static int lookup_snapshot(struct dmt_ws *ws, const char *name, struct dmt_snapshot *s)
{
    char other[DMT_SNAP_NAME_MAX + 1];
    int r = dmt_store_snap_get(ws->st, name, s);
    if (r != -ENOENT || !strchr(name, '~') || strlen(name) >= sizeof(other))
        return r;
    memcpy(other, name, strlen(name) + 1);
    *strchr(other, '~') = '/';
    return dmt_store_snap_get(ws->st, other, s);
}

static int lookup_in_snapdir(struct dmt_ws *ws, const char *name, struct dmt_attr *ret)
{
    struct dmt_snapshot s;
    struct dmt_inode n;
    struct ws_at at;
    int r = lookup_snapshot(ws, name, &s);
    if (r < 0)
        return r;
    r = ws_inode(ws, 1ull << 63 | s.serial << DMT_INO_BITS | DMT_ROOT, &at, &n);
    if (r == 0)
        ws_fill(ws, &at, &n, ret);
    return r;
}

static int lookup(struct dmt_ws *ws, uint64_t parent, const char *name, struct dmt_attr *ret)
{
    struct ws_at at;
    struct dmt_inode dir, n;
    struct dmt_dentry d;
    int r = ws_at(ws, parent, &at);
    if (r < 0)
        return r;
    if (at.snapdir)
        return lookup_in_snapdir(ws, name, ret);
    if (parent == DMT_ROOT && strcmp(name, DMT_SNAPSHOTS_NAME) == 0) {
        ws_fill_snapdir(ws, ret);
        return 0;
    }
    r = dmt_store_dentry_get(ws->st, at.view, at.ino, name, strlen(name), &d);
    if (r == -ENOENT && dmt_store_inode_get(ws->st, at.view, at.ino, &dir) == 0 &&
        !S_ISDIR(dir.mode))
        return -ENOTDIR;
    if (r == 0)
        r = dmt_store_inode_get(ws->st, at.view, d.ino, &n);
    if (r < 0)
        return r;
    if (at.view == DMT_LIVE)
        ws_hint(ws, d.ino, at.ino);
    ws_fill(ws, &at, &n, ret);
    return 0;
}

int dmt_ws_lookup(struct dmt_ws *ws, uint64_t parent, const char *name, struct dmt_attr *ret)
{
    if (strnlen(name, DMT_NAME_MAX + 1) > DMT_NAME_MAX)
        return -ENAMETOOLONG;
    ws_lock(ws);
    int r = lookup(ws, parent, name, ret);
    ws_unlock(ws);
    return dmt_err_errno(r);
}

int dmt_ws_getattr(struct dmt_ws *ws, uint64_t node, struct dmt_attr *ret)
{
    struct ws_at at;
    struct dmt_inode n;
    int r = 0;
    ws_lock(ws);
    if (node == DMT_NODE_SNAPSHOTS) {
        ws_fill_snapdir(ws, ret);
    } else {
        r = ws_inode(ws, node, &at, &n);
        if (r == 0)
            ws_fill(ws, &at, &n, ret);
    }
    ws_unlock(ws);
    return dmt_err_errno(r);
}

int ws_view_link_locked(struct dmt_ws *ws, uint64_t view, const struct dmt_inode *n, char buf[4096])
{
    struct dmt_pieces ps = {0};
    if (!S_ISLNK(n->mode))
        return -EINVAL;
    if (n->size > DMT_SYMLINK_MAX)
        return -EIO;
    int r = dmt_store_map(ws->st, view, n->ino, 0, buf, n->size, &ps);
    /* Targets are small content: they are in memory or in the database, never in a data file. */
    for (int i = 0; r == 0 && i < ps.n; i++)
        if (ps.v[i].file)
            r = -EIO;
    dmt_store_pieces_free(ws->st, &ps);
    buf[n->size] = '\0';
    return r;
}

int dmt_ws_readlink(struct dmt_ws *ws, uint64_t node, char buf[4096])
{
    struct ws_at at;
    struct dmt_inode n;
    ws_lock(ws);
    int r = ws_inode(ws, node, &at, &n);
    if (r == 0)
        r = ws_view_link_locked(ws, at.view, &n, buf);
    ws_unlock(ws);
    return dmt_err_errno(r);
}

/* --- the kernel's counts ---------------------------------------------------------------------- */

void dmt_ws_ref(struct dmt_ws *ws, uint64_t node)
{
    if (node >> 63)
        return; /* snapshots keep what they show; nothing hangs on the count */
    ws_lock(ws);
    if (ws_map_put(&ws->refs, node, ws_map_get(&ws->refs, node) + 1) < 0)
        ws_fail(ws, "out of memory for the kernel's lookup counts");
    ws_unlock(ws);
}

void ws_reap(struct dmt_ws *ws, uint64_t ino)
{
    struct dmt_body b = {.type = DMT_REC_REAP, .REAP.ino = ino};
    if (ws->role != WS_HOLDER || ws->failed)
        return;                    /* the next holder reaps what is left */
    (void)ws_log(ws, NULL, &b, 0); /* a full journal leaves the orphan to the next start */
}

bool dmt_ws_forget(struct dmt_ws *ws, uint64_t node, uint64_t n)
{
    bool doubt = false;
    if (node >> 63)
        return false;
    ws_lock(ws);
    uint64_t have = ws_map_get(&ws->refs, node);
    if (have > n) {
        (void)ws_map_put(&ws->refs, node, have - n);
    } else {
        ws_map_del(&ws->refs, node);
        doubt = ws_map_has(&ws->orphans, node);
        if (doubt && node >= ws->lost_before) {
            ws_reap(ws, node);
            doubt = false;
        }
    }
    ws_unlock(ws);
    return doubt;
}

int dmt_ws_statfs(struct dmt_ws *ws, struct statvfs *ret)
{
    struct dmt_store_load load;
    uint64_t total = 0, left = 0;
    ws_lock(ws);
    int r = dmt_store_space(ws->st, &total, &left);
    dmt_store_load(ws->st, &load);
    uint64_t peer = ws->gate.peer_free(ws->gate.ctx), quota = ws->conf.quota_bytes;
    ws_unlock(ws);
    if (r < 0)
        return dmt_err_errno(r);
    left = peer < left ? peer : left;
    left = left > WS_RESERVE_BYTES ? left - WS_RESERVE_BYTES : 0;
    if (quota) {
        uint64_t rest = quota > load.live_bytes ? quota - load.live_bytes : 0;
        left = rest < left ? rest : left;
        total = quota;
    }
    *ret = (struct statvfs){
        .f_bsize = 4096,
        .f_frsize = 4096,
        .f_blocks = total / 4096,
        .f_bfree = left / 4096,
        .f_bavail = left / 4096,
        .f_files = load.inodes + left / 4096,
        .f_ffree = left / 4096,
        .f_favail = left / 4096,
        .f_namemax = DMT_NAME_MAX,
    };
    return 0;
}
