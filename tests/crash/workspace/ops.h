/* ops.h: the operations that sequences are made of, each on a fixed name of a small tree, on a workspace and on a native
 * directory.
 *
 * The tree: a = small file in the database (5,000 bytes, an xattr), b = 40,000 inline bytes in a data file, c = 128 KiB by
 * reference, d/x = a file with two names (d/y), e = empty directory, l = symlink. n, m, k, s do not exist at first. */
#ifndef DMT_TESTS_CRASH_OPS_H
#define DMT_TESTS_CRASH_OPS_H

#include "tests/crash/workspace/tree.h"

enum cop_kind {
    C_MAKE, C_WRITE, C_BULK, C_TRUNC, C_RENAME, C_SWAP, C_LINK, C_UNLINK, C_UNLINK_OPEN, C_MKDIR, C_RMDIR, C_SYMLINK, C_SETX,
    C_RMX, C_PUNCH, C_ZERO, C_CHMOD, C_SNAP, C_UNSNAP, C_ROLLBACK, C_CKPT, C_FSYNC, C_SYNC
};
struct cop {
    const char *text; /* for messages */
    enum cop_kind kind;
    const char *a, *b; /* names */
    uint32_t off, len; /* or size, or mode */
};

static const struct cop g_ops[] = {
    {"create n", C_MAKE, "n", 0, 0, 0},
    {"write n", C_WRITE, "n", 0, 0, 300},
    {"write a", C_WRITE, "a", 0, 100, 200},
    {"grow a", C_WRITE, "a", 0, 16000, 2000},
    {"write b", C_WRITE, "b", 0, 9000, 5000},
    {"write c", C_WRITE, "c", 0, 10000, 3000},
    {"bulk n", C_BULK, "n", 0, 0, 98304},
    {"bulk b", C_BULK, "b", 0, 0, 65536},
    {"bulk c", C_BULK, "c", 0, 0, 131072},
    {"append bulk c", C_BULK, "c", 0, 131072, 65536},
    {"truncate a", C_TRUNC, "a", 0, 50, 0},
    {"truncate b", C_TRUNC, "b", 0, 10000, 0},
    {"truncate c to 0", C_TRUNC, "c", 0, 0, 0},
    {"rename a b", C_RENAME, "a", "b", 0, 0},
    {"rename c n", C_RENAME, "c", "n", 0, 0},
    {"rename n c", C_RENAME, "n", "c", 0, 0},
    {"rename d m", C_RENAME, "d", "m", 0, 0},
    {"exchange a c", C_SWAP, "a", "c", 0, 0},
    {"link a k", C_LINK, "a", "k", 0, 0},
    {"unlink a", C_UNLINK, "a", 0, 0, 0},
    {"unlink c", C_UNLINK, "c", 0, 0, 0},
    {"unlink c while open", C_UNLINK_OPEN, "c", 0, 0, 0},
    {"unlink d/x", C_UNLINK, "d/x", 0, 0, 0},
    {"mkdir m", C_MKDIR, "m", 0, 0, 0},
    {"rmdir e", C_RMDIR, "e", 0, 0, 0},
    {"symlink s", C_SYMLINK, "s", "target", 0, 0},
    {"setxattr a", C_SETX, "a", "two", 0, 0},
    {"removexattr a", C_RMX, "a", 0, 0, 0},
    {"punch b", C_PUNCH, "b", 0, 5000, 20000},
    {"punch c", C_PUNCH, "c", 0, 0, 65536},
    {"zero c", C_ZERO, "c", 0, 100000, 50000},
    {"chmod b", C_CHMOD, "b", 0, 0600, 0},
    {"checkpoint", C_CKPT, 0, 0, 0, 0},
    {"fsync c", C_FSYNC, "c", 0, 0, 0},
};
#define OPS_N ((int)(sizeof(g_ops) / sizeof(g_ops[0])))

static const struct cop g_sync = {"sync", C_SYNC, 0, 0, 0, 0}, g_ckpt = {"checkpoint", C_CKPT, 0, 0, 0, 0},
                        g_snap = {"snapshot s1", C_SNAP, "s1", 0, 0, 0},
                        g_unsnap = {"delete snapshot s1", C_UNSNAP, "s1", 0, 0, 0},
                        g_rollback = {"rollback s1", C_ROLLBACK, "s1", 0, 0, 0};

/* Bytes of the step-th write of a run: every write differs from all others at every place. */
static inline void op_bytes(uint8_t *p, const struct cop *o, int step)
{
    for (uint32_t i = 0; i < o->len; i++)
        p[i] = (uint8_t)((o->off + i) * 31 + ((o->off + i) >> 8) * 7 + (uint32_t)(step + 1) * 37 + 1);
}

/* --- on a workspace --------------------------------------------------------------------------------------------------------- */

static inline int ws_node_of(struct dmt_ws *ws, const char *path, uint64_t *ret)
{
    char full[64];
    snprintf(full, sizeof(full), "/%.60s", path);
    return dmt_ws_resolve(ws, DMT_LIVE, full, ret);
}

/* Directory and last component. */
static inline int ws_parent_of(struct dmt_ws *ws, const char *path, uint64_t *dir, const char **name)
{
    char buf[64];
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    *dir = DMT_ROOT;
    if (!slash)
        return 0;
    snprintf(buf, sizeof(buf), "%.*s", (int)(slash - path), path);
    return ws_node_of(ws, buf, dir);
}

/* Makes the next write of the file go by reference, as after a megabyte. */
static inline void ws_force_bulk(struct dmt_ws *ws, uint64_t ino, uint64_t off)
{
    ws_lock(ws);
    ws->runs[ino % WS_RUNS] = (struct ws_run){
        .ino = ino, .end = off, .length = DMT_REF_RUN_MIN, .unsynced = DMT_INLINE_BUDGET, .sync_gen = ws->sync_gen};
    ws_unlock(ws);
}

static inline int op_write_ws(struct dmt_ws *ws, const struct cop *o, uint64_t node, int step)
{
    struct dmt_op op = {.umask = 022};
    uint8_t *p = malloc(o->len);
    op_bytes(p, o, step);
    if (o->kind == C_BULK)
        ws_force_bulk(ws, node, o->off);
    int r = dmt_ws_write(ws, &op, node, p, o->len, o->off, false);
    free(p);
    return r;
}

static inline int op_node_ws(struct dmt_ws *ws, const struct cop *o, uint64_t node, int step)
{
    struct dmt_op op = {.umask = 022};
    struct dmt_attr a;
    struct dmt_setattr sa = {.mask = o->kind == C_CHMOD ? DMT_SET_MODE : DMT_SET_SIZE, .mode = S_IFREG | o->off, .size = o->off};
    switch (o->kind) {
    case C_WRITE:
    case C_BULK:
        return op_write_ws(ws, o, node, step);
    case C_TRUNC:
    case C_CHMOD:
        return dmt_ws_setattr(ws, &op, node, &sa, &a);
    case C_SETX:
        return dmt_ws_setxattr(ws, &op, node, XATTR_NAME, o->b, strlen(o->b), 0);
    case C_RMX:
        return dmt_ws_removexattr(ws, &op, node, XATTR_NAME);
    case C_PUNCH:
        return dmt_ws_fallocate(ws, &op, node, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, o->off, o->len, false);
    case C_ZERO:
        return dmt_ws_fallocate(ws, &op, node, FALLOC_FL_ZERO_RANGE, o->off, o->len, false);
    case C_FSYNC:
        return dmt_ws_sync_wait(ws, node);
    default:
        return -EINVAL;
    }
}

static inline int op_name_ws(struct dmt_ws *ws, const struct cop *o)
{
    struct dmt_op op = {.umask = 022};
    struct dmt_attr a;
    uint64_t dir, other, node;
    const char *name, *name2 = o->b;
    int r = ws_parent_of(ws, o->a, &dir, &name);
    if (r < 0)
        return r;
    switch (o->kind) {
    case C_MAKE:
        return dmt_ws_make(ws, &op, dir, name, S_IFREG | 0644, 0, NULL, &a);
    case C_MKDIR:
        return dmt_ws_make(ws, &op, dir, name, S_IFDIR | 0755, 0, NULL, &a);
    case C_SYMLINK:
        return dmt_ws_make(ws, &op, dir, name, S_IFLNK | 0777, 0, o->b, &a);
    case C_UNLINK_OPEN:
        r = ws_node_of(ws, o->a, &node);
        if (r == 0)
            dmt_ws_ref(ws, node);
        return r < 0 ? r : dmt_ws_unlink(ws, &op, dir, name, false);
    case C_UNLINK:
        return dmt_ws_unlink(ws, &op, dir, name, false);
    case C_RMDIR:
        return dmt_ws_unlink(ws, &op, dir, name, true);
    case C_LINK:
        r = ws_node_of(ws, o->a, &node);
        return r < 0 ? r : dmt_ws_link(ws, &op, node, DMT_ROOT, o->b, &a);
    default:
        r = ws_parent_of(ws, o->b, &other, &name2);
        return r < 0 ? r : dmt_ws_rename(ws, &op, dir, name, other, name2, o->kind == C_SWAP ? RENAME_EXCHANGE : 0);
    }
}

static inline int op_ws(struct dmt_ws *ws, const struct cop *o, int step)
{
    struct dmt_err err = {0};
    struct dmt_rollback rb = {.snapshot = o->a};
    uint64_t node;
    int r;
    switch (o->kind) {
    case C_SYNC:
        return dmt_ws_sync_wait(ws, 0);
    case C_CKPT:
        return dmt_ws_checkpoint(ws, &err);
    case C_SNAP:
        return dmt_ws_snap_create(ws, o->a, "", NULL, &err);
    case C_UNSNAP:
        return dmt_ws_snap_delete(ws, o->a, &err);
    case C_ROLLBACK:
        return dmt_ws_rollback(ws, &rb, &err);
    case C_WRITE:
    case C_BULK:
    case C_TRUNC:
    case C_CHMOD:
    case C_SETX:
    case C_RMX:
    case C_PUNCH:
    case C_ZERO:
    case C_FSYNC:
        r = ws_node_of(ws, o->a, &node);
        return r < 0 ? r : op_node_ws(ws, o, node, step);
    default:
        return op_name_ws(ws, o);
    }
}

/* --- on a native directory -------------------------------------------------------------------------------------------------- */

static inline int op_content_native(const char *path, const struct cop *o, int step)
{
    int fd = open(path, O_RDWR | O_CLOEXEC), r = 0;
    if (fd < 0)
        return -errno;
    if (o->kind == C_TRUNC)
        r = ftruncate(fd, o->off);
    else if (o->kind == C_PUNCH)
        r = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, o->off, o->len);
    else if (o->kind != C_FSYNC) { /* tmpfs has no zero-range: what it would do is a write of zeros */
        uint8_t *p = calloc(1, o->len);
        if (o->kind != C_ZERO)
            op_bytes(p, o, step);
        r = pwrite(fd, p, o->len, o->off) == (ssize_t)o->len ? 0 : -1;
        free(p);
    }
    r = r < 0 ? -errno : 0;
    close(fd);
    return r;
}

static inline int op_native(const char *root, const struct cop *o, int step)
{
    char a[256], b[256];
    int fd, r = 0;
    snprintf(a, sizeof(a), "%s/%s", root, o->a ? o->a : "");
    snprintf(b, sizeof(b), "%s/%s", root, o->b ? o->b : "");
    switch (o->kind) {
    case C_MAKE:
        fd = open(a, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
        r = fd < 0 ? -1 : close(fd);
        break;
    case C_MKDIR:
        r = mkdir(a, 0755);
        break;
    case C_SYMLINK:
        r = symlink(o->b, a);
        break;
    case C_UNLINK:
    case C_UNLINK_OPEN:
        r = unlink(a);
        break;
    case C_RMDIR:
        r = rmdir(a);
        break;
    case C_LINK:
        r = link(a, b);
        break;
    case C_RENAME:
        r = rename(a, b);
        break;
    case C_SWAP:
        r = renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
        break;
    case C_CHMOD:
        r = chmod(a, o->off);
        break;
    case C_SETX:
        r = setxattr(a, XATTR_NAME, o->b, strlen(o->b), 0);
        break;
    case C_RMX:
        r = removexattr(a, XATTR_NAME);
        break;
    case C_WRITE:
    case C_BULK:
    case C_TRUNC:
    case C_PUNCH:
    case C_ZERO:
    case C_FSYNC:
        return op_content_native(a, o, step);
    default:
        break; /* no file changes */
    }
    return r < 0 ? -errno : 0;
}

#endif
