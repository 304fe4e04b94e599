/* fakews.h: a workspace in memory with hooks, so that fs/fuse can be tested alone: what it was
 * told, and when it may acknowledge, is in the hands of the test. Included by one test program,
 * which so has its own dmt_ws_* instead of fs/workspace's. */
#ifndef DMT_TESTS_UNIT_FUSE_FAKEWS_H
#define DMT_TESTS_UNIT_FUSE_FAKEWS_H

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/base/limits.h"
#include "fs/base/log.h"
#include "fs/workspace/workspace.h"

#define FAKE_NODES  256
#define FAKE_PARKED 64

struct fake_node {
    bool used;
    uint64_t parent;
    char name[DMT_NAME_MAX + 1];
    struct stat st;
    char *data;
    char target[4096], xattr[64];
    size_t xattr_len;
    int64_t refs;
};

struct dmt_ws {
    pthread_mutex_t lock;
    pthread_cond_t unheld;
    struct fake_node n[FAKE_NODES]; /* index = inode number */
    uint64_t seq;
    /* hooks */
    enum { ACK_AT_ONCE, ACK_PARK, ACK_FAIL } acks;
    bool park_syncs, cold, syncs_due;
    int snapshots; /* so many in .snapshots: s0, s1 ... */
    bool hold_cold; /* a read that may wait does, until this is false */
    int held_cold;
    void (*handles)(uint64_t node, const char *name); /* called inside write (NULL) and unlink */
    /* what happened */
    struct dmt_op last;
    bool last_kill;
    uint64_t truncates, syncs_all, syncs_ino, writes, ahead_seq, ahead_here;
    struct {
        dmt_ack_fn fn;
        void *arg;
    } parked[FAKE_PARKED];
    int n_parked;
};

static struct dmt_ws fake;

static void fake_reset(void)
{
    for (int i = 0; i < FAKE_NODES; i++)
        free(fake.n[i].data);
    memset(&fake, 0, sizeof(fake));
    pthread_mutex_init(&fake.lock, NULL);
    pthread_cond_init(&fake.unheld, NULL);
    fake.n[1].used = true;
    fake.n[1].st = (struct stat){.st_ino = 1, .st_mode = S_IFDIR | 0755, .st_nlink = 2};
}

/* Reading and setting one field while the server runs. */
#define FAKE_GET(field)                                                                            \
    ({                                                                                             \
        pthread_mutex_lock(&fake.lock);                                                            \
        __typeof__(fake.field) got_ = fake.field;                                                  \
        pthread_mutex_unlock(&fake.lock);                                                          \
        got_;                                                                                      \
    })
#define FAKE_SET(field, value)                                                                     \
    do {                                                                                           \
        pthread_mutex_lock(&fake.lock);                                                            \
        fake.field = (value);                                                                      \
        pthread_mutex_unlock(&fake.lock);                                                          \
    } while (0)

static inline void fake_rename(uint64_t ino, const char *name)
{
    pthread_mutex_lock(&fake.lock);
    snprintf(fake.n[ino].name, sizeof(fake.n[ino].name), "%s", name);
    pthread_mutex_unlock(&fake.lock);
}

static inline void fake_let_read(void)
{
    pthread_mutex_lock(&fake.lock);
    fake.hold_cold = false;
    pthread_cond_broadcast(&fake.unheld);
    pthread_mutex_unlock(&fake.lock);
}

static inline int fake_parked(void)
{
    pthread_mutex_lock(&fake.lock);
    int n = fake.n_parked;
    pthread_mutex_unlock(&fake.lock);
    return n;
}

/* Answers everything that was parked, on this thread. */
static void fake_release(int err)
{
    for (;;) {
        pthread_mutex_lock(&fake.lock);
        int i = --fake.n_parked;
        dmt_ack_fn fn = i >= 0 ? fake.parked[i].fn : NULL;
        void *arg = i >= 0 ? fake.parked[i].arg : NULL;
        if (i < 0)
            fake.n_parked = 0;
        pthread_mutex_unlock(&fake.lock);
        if (!fn)
            return;
        fn(arg, err);
    }
}

static struct fake_node *fake_find(uint64_t parent, const char *name)
{
    for (int i = 2; i < FAKE_NODES; i++)
        if (fake.n[i].used && fake.n[i].parent == parent && strcmp(fake.n[i].name, name) == 0)
            return &fake.n[i];
    return NULL;
}

static struct fake_node *fake_get(uint64_t ino)
{
    return ino > 0 && ino < FAKE_NODES && fake.n[ino].used ? &fake.n[ino] : NULL;
}

static void fake_attr(const struct fake_node *n, struct dmt_attr *ret)
{
    ret->node = n->st.st_ino;
    ret->st = n->st;
}

static void fake_snapshot_attr(uint64_t node, struct dmt_attr *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->node = ret->st.st_ino = node;
    ret->st.st_mode = S_IFDIR | 0555;
    ret->st.st_nlink = 2;
}

static uint64_t fake_snapshot(int i)
{
    return 1ull << 63 | (uint64_t)(i + 1) << DMT_INO_BITS | 1;
}

static void fake_logged(struct dmt_op *op)
{
    op->seq = ++fake.seq;
    fake.last = *op;
}

static int fake_done(int rc)
{
    pthread_mutex_unlock(&fake.lock);
    return rc;
}

/* --- acknowledging ------------------------------------------------------------------------- */

static void fake_park(dmt_ack_fn fn, void *arg)
{
    DMT_ASSERT(fake.n_parked < FAKE_PARKED);
    fake.parked[fake.n_parked].fn = fn;
    fake.parked[fake.n_parked++].arg = arg;
}

int dmt_ws_ack(struct dmt_ws *ws, uint64_t seq, dmt_ack_fn fn, void *arg)
{
    (void)seq;
    pthread_mutex_lock(&ws->lock);
    if (ws->acks == ACK_PARK)
        fake_park(fn, arg);
    return fake_done(ws->acks == ACK_AT_ONCE ? 1 : ws->acks == ACK_PARK ? 0 : -EIO);
}

void dmt_ws_sync(struct dmt_ws *ws, uint64_t ino, dmt_ack_fn fn, void *arg)
{
    pthread_mutex_lock(&ws->lock);
    if (ino)
        ws->syncs_ino++;
    else
        ws->syncs_all++;
    bool park = ws->park_syncs;
    if (park)
        fake_park(fn, arg);
    pthread_mutex_unlock(&ws->lock);
    if (!park)
        fn(arg, 0);
}

void dmt_ws_sync_ahead(struct dmt_ws *ws, uint64_t seq, bool here)
{
    pthread_mutex_lock(&ws->lock);
    ws->ahead_seq = seq;
    ws->ahead_here += here;
    pthread_mutex_unlock(&ws->lock);
}

/* --- operations ----------------------------------------------------------------------------- */

int dmt_ws_lookup(struct dmt_ws *ws, uint64_t parent, const char *name, struct dmt_attr *ret)
{
    int i;
    if (parent == 1 && strcmp(name, ".snapshots") == 0) {
        fake_snapshot_attr(DMT_NODE_SNAPSHOTS, ret);
        return 0;
    }
    pthread_mutex_lock(&ws->lock);
    if (parent == DMT_NODE_SNAPSHOTS && sscanf(name, "s%d", &i) == 1 && i < ws->snapshots) {
        fake_snapshot_attr(fake_snapshot(i), ret);
        return fake_done(0);
    }
    struct fake_node *n = fake_find(parent, name);
    if (n)
        fake_attr(n, ret);
    return fake_done(n ? 0 : -ENOENT);
}

int dmt_ws_getattr(struct dmt_ws *ws, uint64_t node, struct dmt_attr *ret)
{
    if (node >> 63) {
        fake_snapshot_attr(node, ret);
        return 0;
    }
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_get(node);
    if (n)
        fake_attr(n, ret);
    return fake_done(n ? 0 : -ENOENT);
}

int dmt_ws_setattr(struct dmt_ws *ws, struct dmt_op *op, uint64_t node,
                   const struct dmt_setattr *sa, struct dmt_attr *ret)
{
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_get(node);
    if (!n)
        return fake_done(-ENOENT);
    ws->last_kill = sa->kill_suidgid;
    if (sa->mask & DMT_SET_MODE)
        n->st.st_mode = (n->st.st_mode & S_IFMT) | (sa->mode & 07777);
    if (sa->mask & DMT_SET_UID)
        n->st.st_uid = sa->uid;
    if (sa->mask & DMT_SET_SIZE) {
        ws->truncates++;
        n->data = realloc(n->data, sa->size + 1);
        if ((uint64_t)n->st.st_size < sa->size)
            memset(n->data + n->st.st_size, 0, sa->size - (uint64_t)n->st.st_size);
        n->st.st_size = (off_t)sa->size;
    }
    if (sa->mask & DMT_SET_MTIME)
        n->st.st_mtim.tv_sec = sa->mtime_now ? 1 : (time_t)(sa->mtime / 1000000000u);
    fake_attr(n, ret);
    fake_logged(op);
    return fake_done(0);
}

int dmt_ws_make(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, const char *name,
                uint32_t mode, uint32_t rdev, const char *target, struct dmt_attr *ret)
{
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = NULL;
    if (name && fake_find(parent, name))
        return fake_done(-EEXIST);
    for (unsigned i = 2; i < FAKE_NODES && !n; i++) {
        if (fake.n[i].used)
            continue;
        n = &fake.n[i];
        memset(n, 0, sizeof(*n));
        n->used = true;
        n->st.st_ino = i;
    }
    if (!n)
        return fake_done(-ENOSPC);
    n->parent = name ? parent : 0;
    snprintf(n->name, sizeof(n->name), "%s", name ? name : "");
    n->st.st_mode = mode & ~(S_ISLNK(mode) ? 0 : op->umask);
    n->st.st_nlink = name ? 1 : 0;
    n->st.st_uid = op->uid;
    n->st.st_gid = op->gid;
    n->st.st_rdev = rdev;
    if (target) {
        snprintf(n->target, sizeof(n->target), "%s", target);
        n->st.st_size = (off_t)strlen(target);
    }
    fake_attr(n, ret);
    fake_logged(op);
    return fake_done(0);
}

/* One node has one name here: a link moves it. Enough for O_TMPFILE. */
int dmt_ws_link(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, uint64_t parent,
                const char *name, struct dmt_attr *ret)
{
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_get(node);
    if (!n || fake_find(parent, name))
        return fake_done(n ? -EEXIST : -ENOENT);
    n->parent = parent;
    n->st.st_nlink++;
    snprintf(n->name, sizeof(n->name), "%s", name);
    fake_attr(n, ret);
    fake_logged(op);
    return fake_done(0);
}

int dmt_ws_unlink(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, const char *name, bool dir)
{
    void (*handles)(uint64_t node, const char *name) = FAKE_GET(handles);
    if (handles)
        handles(parent, name);
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_find(parent, name);
    if (!n)
        return fake_done(-ENOENT);
    if (dir != S_ISDIR(n->st.st_mode))
        return fake_done(dir ? -ENOTDIR : -EISDIR);
    n->parent = 0;
    n->name[0] = '\0';
    n->st.st_nlink = 0;
    fake_logged(op);
    return fake_done(0);
}

int dmt_ws_rename(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, const char *name,
                  uint64_t newparent, const char *newname, uint32_t flags)
{
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_find(parent, name), *old = fake_find(newparent, newname);
    if (!n || (old && (flags & 1)))
        return fake_done(n ? -EEXIST : -ENOENT);
    if (old) {
        old->parent = 0;
        old->name[0] = '\0';
        old->st.st_nlink = 0;
    }
    n->parent = newparent;
    snprintf(n->name, sizeof(n->name), "%s", newname);
    fake_logged(op);
    return fake_done(0);
}

int dmt_ws_readlink(struct dmt_ws *ws, uint64_t node, char buf[4096])
{
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_get(node);
    if (n)
        memcpy(buf, n->target, sizeof(n->target));
    return fake_done(n ? 0 : -ENOENT);
}

void dmt_ws_ref(struct dmt_ws *ws, uint64_t node)
{
    pthread_mutex_lock(&ws->lock);
    if (node < FAKE_NODES)
        fake.n[node].refs++;
    pthread_mutex_unlock(&ws->lock);
}

bool dmt_ws_forget(struct dmt_ws *ws, uint64_t node, uint64_t n)
{
    pthread_mutex_lock(&ws->lock);
    if (node > 1 && node < FAKE_NODES) {
        fake.n[node].refs -= (int64_t)n;
        DMT_ASSERT(fake.n[node].refs >= 0);
    }
    pthread_mutex_unlock(&ws->lock);
    return false;
}

void dmt_ws_forgotten(struct dmt_ws *ws, uint64_t node)
{
    (void)ws, (void)node;
}

int dmt_ws_doubtful(struct dmt_ws *ws, uint64_t **ret, size_t *ret_n)
{
    (void)ws;
    *ret = NULL;
    *ret_n = 0;
    return 0;
}

int dmt_ws_stale(struct dmt_ws *ws, uint64_t **ret, size_t *ret_n)
{
    return dmt_ws_doubtful(ws, ret, ret_n);
}

int dmt_ws_write(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const void *p, size_t len,
                 uint64_t off, bool kill_suidgid)
{
    void (*handles)(uint64_t node, const char *name) = FAKE_GET(handles);
    if (handles)
        handles(node, NULL);
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_get(node);
    if (!n)
        return fake_done(-ENOENT);
    if (off + len > (uint64_t)n->st.st_size) {
        n->data = realloc(n->data, off + len + 1);
        memset(n->data + n->st.st_size, 0, off + len - (uint64_t)n->st.st_size);
        n->st.st_size = (off_t)(off + len);
    }
    memcpy(n->data + off, p, len);
    ws->last_kill = kill_suidgid;
    if (kill_suidgid)
        n->st.st_mode &= ~(mode_t)(S_ISUID | S_ISGID);
    ws->writes++;
    fake_logged(op);
    op->sync_due = ws->syncs_due;
    return fake_done(0);
}

ssize_t dmt_ws_read(struct dmt_ws *ws, uint64_t node, void *buf, size_t len, uint64_t off,
                    bool nowait)
{
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_get(node);
    if (!n || (ws->cold && nowait))
        return fake_done(n ? -EAGAIN : -ENOENT);
    ws->held_cold += ws->hold_cold;
    while (ws->hold_cold)
        pthread_cond_wait(&ws->unheld, &ws->lock);
    uint64_t size = (uint64_t)n->st.st_size;
    size_t left = off >= size ? 0 : size - off < len ? (size_t)(size - off) : len;
    memcpy(buf, n->data ? n->data + off : "", left);
    return fake_done((int)left);
}

int dmt_ws_fallocate(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, int flags, uint64_t off,
                     uint64_t len, bool kill_suidgid)
{
    (void)kill_suidgid;
    (void)ws, (void)op, (void)node, (void)flags, (void)off, (void)len;
    return -EOPNOTSUPP;
}

int64_t dmt_ws_seek(struct dmt_ws *ws, uint64_t node, uint64_t off, int whence)
{
    (void)ws, (void)node;
    return whence == SEEK_DATA ? (int64_t)off : -ENXIO;
}

int dmt_ws_readdir(struct dmt_ws *ws, uint64_t node, uint64_t after, bool plus, dmt_readdir_fn fn,
                   void *ctx)
{
    struct dmt_attr a;
    pthread_mutex_lock(&ws->lock);
    int stop = 0;
    if (after < 1)
        stop = fn(ctx, ".", node, S_IFDIR, 1, NULL);
    if (!stop && after < 2)
        stop = fn(ctx, "..", node, S_IFDIR, 2, NULL);
    for (int i = 0; node == DMT_NODE_SNAPSHOTS && i < ws->snapshots && !stop; i++) {
        char name[16];
        if ((uint64_t)i + 3 <= after)
            continue;
        snprintf(name, sizeof(name), "s%d", i);
        fake_snapshot_attr(fake_snapshot(i), &a);
        stop = fn(ctx, name, a.node, S_IFDIR, (uint64_t)i + 3, plus ? &a : NULL);
    }
    for (unsigned i = 2; i < FAKE_NODES && !stop; i++) {
        const struct fake_node *n = &fake.n[i];
        if (!n->used || n->parent != node || i + 1 <= after)
            continue;
        fake_attr(n, &a);
        stop = fn(ctx, n->name, i, n->st.st_mode & S_IFMT, i + 1, plus ? &a : NULL);
    }
    return fake_done(0);
}

ssize_t dmt_ws_getxattr(struct dmt_ws *ws, uint64_t node, const char *name, void *buf, size_t size)
{
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_get(node);
    if (!n || strcmp(name, "user.x") != 0 || !n->xattr_len)
        return fake_done(-ENODATA);
    if (size && size < n->xattr_len)
        return fake_done(-ERANGE);
    if (size)
        memcpy(buf, n->xattr, n->xattr_len);
    return fake_done((int)n->xattr_len);
}

ssize_t dmt_ws_listxattr(struct dmt_ws *ws, uint64_t node, char *buf, size_t size, bool trusted)
{
    (void)trusted;
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_get(node);
    if (!n || !n->xattr_len)
        return fake_done(0);
    if (size >= 7)
        memcpy(buf, "user.x", 7);
    return fake_done(size && size < 7 ? -ERANGE : 7);
}

int dmt_ws_setxattr(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const char *name,
                    const void *val, size_t len, int flags)
{
    (void)flags;
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_get(node);
    if (!n || strcmp(name, "user.x") != 0 || len > sizeof(n->xattr))
        return fake_done(-EOPNOTSUPP);
    memcpy(n->xattr, val, len);
    n->xattr_len = len;
    fake_logged(op);
    return fake_done(0);
}

int dmt_ws_removexattr(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const char *name)
{
    (void)name;
    pthread_mutex_lock(&ws->lock);
    struct fake_node *n = fake_get(node);
    if (!n || !n->xattr_len)
        return fake_done(-ENODATA);
    n->xattr_len = 0;
    fake_logged(op);
    return fake_done(0);
}

int dmt_ws_statfs(struct dmt_ws *ws, struct statvfs *ret)
{
    (void)ws;
    ret->f_bsize = ret->f_frsize = 4096;
    ret->f_blocks = 1000;
    ret->f_bfree = ret->f_bavail = 500;
    ret->f_namemax = DMT_NAME_MAX;
    return 0;
}

#endif
