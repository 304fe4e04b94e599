/* dumontfs_mount.c: the holder's channel: ask for the mount when this machine may serve, serve the
 * connection that comes back, let go of it at the end.
 *
 * Happy path: the lease opened an epoch -> mount_try sends MOUNT -> the holder mounts and answers
 * FUSE -> dmt_fuse_start -> READY 0. At umount the kernel's DESTROY waits for the drain (fuseblk),
 * the connection ends, on_end stops the process. After a predecessor's death (--resume) MOUNT gets
 * the connection that is there. Failure: NOMOUNT becomes FAILED with the holder's words; a lost
 * holder means drain, unmount, exit. Threads: `holder-rx` reads the channel and posts; everything
 * else on main.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/base/fuse_init.h"
#include "fs/base/log.h"
#include "fs/dumontfs.h"

#define DRAIN_MAX_MS 30000

static pthread_t rx_thread;

void mount_say(struct app *a, enum dmt_hp_type type, int code, const char *text, const char *hint)
{
    if (a->ready_said)
        return;
    struct dmt_hp_msg *m = calloc(1, sizeof *m);
    if (!m)
        return;
    m->type = type;
    m->code = (uint32_t)code;
    m->fd = -1;
    snprintf(m->text, sizeof m->text, "%s", text);
    snprintf(m->hint, sizeof m->hint, "%s", hint ? hint : "");
    a->ready_said = true;
    dmt_hp_send(a->holder_fd, m);
    free(m);
}

void mount_send(struct app *a, enum dmt_hp_type type, uint32_t flags, const char *dir,
                const char *options)
{
    struct dmt_hp_msg *m = calloc(1, sizeof *m);
    if (!m)
        return;
    m->type = type;
    m->flags = flags;
    m->pid = (uint32_t)getpid();
    m->fd = -1;
    snprintf(m->dir, sizeof m->dir, "%s", dir);
    snprintf(m->options, sizeof m->options, "%s", options);
    dmt_hp_send(a->holder_fd, m);
    free(m);
}

/* A workspace nobody has written to yet takes owner and mode of the directory it is mounted on. */
static void adopt_root(struct app *a, const char *dir)
{
    struct stat st;
    struct dmt_attr at;
    struct dmt_op op = {0};
    if (dmt_conf_get(a->conf, "owner") || stat(dir, &st) != 0 ||
        dmt_ws_getattr(a->ws, DMT_ROOT, &at) != 0)
        return;
    struct dmt_inode root;
    struct dmt_lockfn lk = dmt_ws_lockfn(a->ws);
    lk.lock(lk.ctx);
    int rc = dmt_store_inode_get(dmt_ws_store(a->ws), DMT_LIVE, DMT_ROOT, &root);
    lk.unlock(lk.ctx);
    if (rc != 0 || root.seq != 0)
        return;
    struct dmt_setattr sa = {.mask = DMT_SET_MODE | DMT_SET_UID | DMT_SET_GID,
                             .mode = st.st_mode & 07777,
                             .uid = st.st_uid,
                             .gid = st.st_gid};
    rc = dmt_ws_setattr(a->ws, &op, DMT_ROOT, &sa, &at);
    if (rc != 0)
        dmt_warn("cannot give the root directory the owner of %s: %s", dir, dmt_strerror(rc));
}

void mount_try(struct app *a, void *unused)
{
    (void)unused;
    struct dmt_lease_status ls;
    if (a->mount_asked || a->unmounting || a->mountpoint[0] == '\0' || !a->ws ||
        !atomic_load(&a->epoch_open) || a->stopping)
        return;
    dmt_lease_status(a->lease, &ls);
    if (!ls.readonly && dmt_lease_begin(a->lease) != 0)
        return; /* the gate opens a moment after the epoch; gate_changed comes back here */
    a->mount_asked = true;
    atomic_store(&a->closed_mount, ls.readonly && !a->readonly);
    if (!a->resume) /* else the mount is there, and a look at it would wait for us */
        adopt_root(a, a->mountpoint);
    mount_send(a, DMT_HP_MOUNT, 0, a->mountpoint, a->readonly || ls.readonly ? "ro" : "");
}

/* --- drain: durable here, and on the standby by the sync= level; at most DRAIN_MAX_MS --------- */
struct drain {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done, left; /* left: the waiter is gone, the callback frees */
    int err;
};

static void drained(void *arg, int err)
{
    struct drain *d = arg;
    pthread_mutex_lock(&d->lock);
    d->done = true;
    d->err = err;
    bool left = d->left;
    pthread_cond_signal(&d->cond);
    pthread_mutex_unlock(&d->lock);
    if (left)
        free(d);
}

void mount_drain(struct app *a)
{
    struct dmt_ws *ws = app_ws_get(a);
    struct drain *d = ws ? calloc(1, sizeof *d) : NULL;
    struct timespec until;
    int rc = 0;
    if (!d) {
        if (ws)
            app_ws_put(a);
        return;
    }
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->cond, NULL);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DRAIN_MAX_MS / 1000;
    dmt_ws_sync(ws, 0, drained, d);
    pthread_mutex_lock(&d->lock);
    while (!d->done && rc == 0)
        rc = pthread_cond_timedwait(&d->cond, &d->lock, &until);
    bool done = d->done;
    d->left = !done;
    rc = done ? d->err : -ETIMEDOUT;
    pthread_mutex_unlock(&d->lock);
    if (done)
        free(d);
    if (rc == -ETIMEDOUT) {
        struct dmt_ws_status s;
        dmt_ws_status(ws, &s);
        dmt_error(
            "gave up draining after %d s: position %llu of %llu is durable here; %llu calls wait",
            DRAIN_MAX_MS / 1000, (unsigned long long)s.durable, (unsigned long long)s.tail.seq,
            (unsigned long long)s.parked_acks);
    } else if (rc != 0) {
        dmt_error("unmounting, but not everything could be made durable: %s", dmt_strerror(rc));
    }
    app_ws_put(a);
}

/* --- callbacks of fs/fuse (its threads) ------------------------------------------------------- */
static void on_destroy(void *ctx)
{
    struct app *a = ctx;
    if (!a->view) /* nothing was written through it */
        mount_drain(a);
}

static void ended(struct app *a, void *unused)
{
    (void)unused;
    atomic_store(&a->mounted, false);
    if (a->view)
        mount_undo(a);
    else if (a->fuse)
        app_stop(a, 0);
}

static void on_end(void *ctx, int err)
{
    if (err != 0)
        dmt_warn("the FUSE connection broke: %s", dmt_strerror(err));
    app_post(ctx, ended, NULL);
}

/* Pool: what the predecessor had written by reference is synced and marked, beside the users. */
static void settle(void *arg)
{
    struct app *a = arg;
    struct dmt_err err = {0};
    struct dmt_ws *ws = app_ws_get(a);
    if (!ws)
        return;
    if (dmt_ws_settle(ws, true, &err) < 0)
        dmt_warn("%s", err.msg);
    else
        (void)dmt_ws_checkpoint(ws, NULL); /* the next one, should it come, finds less to replay */
    app_ws_put(a);
}

static void serve(struct app *a, struct dmt_hp_msg *m)
{
    struct dmt_err err = {0};
    struct dmt_fuse_conf fc = {.fd = m->fd,
                               .init = m->init,
                               .init_len = m->init_len,
                               .instance = m->instance,
                               .dev = m->dev,
                               .dir = m->dir,
                               .syncfs = (m->flags & DMT_HP_SYNCFS) != 0,
                               .view = a->view,
                               .resume = (m->flags & DMT_HP_RESUME) != 0,
                               .on_destroy = on_destroy,
                               .on_end = on_end,
                               .ctx = a};
    const char *dma = dmt_conf_get(a->conf, "dma_latency");
    fc.dma_latency = dma && strcmp(dma, "hold") == 0;
    struct dmt_fuse *f = NULL;
    int rc = dmt_fuse_start(&f, a->ws, &fc, &err);
    if (rc != 0 && a->view) {
        close(m->fd);
        view_answer(a, rc, err.msg, err.hint);
        mount_undo(a);
        return;
    }
    if (rc != 0) {
        close(m->fd);
        mount_say(a, DMT_HP_FAILED, 32, err.msg, err.hint);
        app_stop(a, 1);
        return;
    }
    pthread_rwlock_wrlock(&a->parts_lock);
    a->fuse = f;
    snprintf(a->mounted_dir, sizeof a->mounted_dir, "%s", m->dir);
    a->mounted_dev = m->dev;
    pthread_rwlock_unlock(&a->parts_lock);
    atomic_store(&a->resends, dmt_fuse_init_resends(m->init, m->init_len));
    atomic_store(&a->mounted, true);
    a->resume = 0;
    dmt_info("%s %s at %s",
             a->view     ? "a view of"
             : fc.resume ? "going on with"
                         : "serving",
             a->name, m->dir);
    if (a->view) {
        view_answer(a, 0, "", "");
        return;
    }
    /* Whom a predecessor had stopped for a handover that it did not live to see. */
    users_continue(a);
    mount_say(a, DMT_HP_READY, 0, "", "");
    if (fc.resume && dmt_pool_submit(a->pool, settle, a) != 0)
        settle(a);
}

static void from_holder(struct app *a, void *arg)
{
    struct dmt_hp_msg *m = arg;
    switch (m->type) {
    case DMT_HP_FUSE:
        serve(a, m);
        break;
    case DMT_HP_NOMOUNT:
        dmt_error("cannot mount: %s", m->text);
        if (a->view) {
            a->view = a->mount_asked = false;
            view_answer(a, m->code ? -(int)m->code : -EIO, m->text, m->hint);
            break;
        }
        mount_say(a, DMT_HP_FAILED, 32, m->text, m->hint);
        a->mount_asked = false;
        if (a->user_mount)
            app_stop(a, 1);
        break;
    case DMT_HP_UNMOUNTED:
        a->unmounting = false;
        if (m->code != 0)
            dmt_warn("the holder could not unmount: %s", strerror((int)m->code));
        mount_try(a, NULL); /* this machine may have become the holder meanwhile */
        break;
    case DMT_HP_TERMINATE:
        app_stop(a, 0);
        break;
    default:
        break;
    }
    free(m);
}

static void holder_gone(struct app *a, void *unused)
{
    (void)unused;
    if (a->stopping)
        return;
    dmt_error("the holder process is gone: draining and leaving");
    a->holder_lost = true;
    app_stop(a, 1);
}

static void *holder_rx(void *arg)
{
    struct app *a = arg;
    for (;;) {
        struct dmt_hp_msg *m = calloc(1, sizeof *m);
        if (!m || dmt_hp_recv(a->holder_fd, m) != 0) {
            free(m);
            break;
        }
        app_post(a, from_holder, m);
    }
    app_post(a, holder_gone, NULL);
    return NULL;
}

int mount_start(struct app *a, struct dmt_err *err)
{
    if (a->holder_fd < 0)
        return 0;
    mount_send(a, DMT_HP_HELLO, 0, "", "");
    int rc = dmt_thread_start(&rx_thread, "holder-rx", holder_rx, a);
    if (rc != 0)
        return dmt_err_set(err, rc, "cannot start a thread: %s", dmt_strerror(rc));
    pthread_detach(rx_thread);
    return 0;
}

void mount_undo(struct app *a)
{
    if (!a->fuse && !a->mount_asked && !a->resume)
        return;
    a->resume = 0;
    /* Lazily: what programs still hold open gets errors from the ended connection, but the
     * directory is free at once. */
    a->unmounting = !a->holder_lost && a->holder_fd >= 0;
    mount_send(a, DMT_HP_UNMOUNT, DMT_HP_LAZY, "", "");
    pthread_rwlock_wrlock(&a->parts_lock);
    char dir[DMT_PATH_MAX];
    struct dmt_fuse *f = a->fuse;
    a->fuse = NULL;
    snprintf(dir, sizeof dir, "%s", a->mounted_dir);
    a->mounted_dir[0] = '\0';
    pthread_rwlock_unlock(&a->parts_lock);
    dmt_fuse_stop(f);
    /* Ours to do now. Not before the connection has ended: the kernel would ask this process for a
     * DESTROY, and wait for it for ever, unkillable, should it be killed just then. */
    if (a->holder_lost && *dir)
        umount2(dir, MNT_DETACH);
    atomic_store(&a->mounted, false);
    a->mount_asked = a->view = false;
    view_answer(a, -ECANCELED, "the role of this machine changed meanwhile", "");
}

struct forgotten {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void forgotten(void *arg)
{
    struct forgotten *w = arg;
    pthread_mutex_lock(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

/* Waits until the kernel has forgotten: a rollback that has returned must not be followed by a read
 * of the old bytes. The caller holds nothing that a handler can want. */
void mount_invalidate(void *ctx, const uint64_t *inos, size_t n, bool all)
{
    struct app *a = ctx;
    struct forgotten w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct dmt_fuse_inval *v = calloc(n + 1, sizeof *v);
    size_t k = 0;
    if (!v)
        return;
    if (all)
        v[k++].kind = DMT_FUSE_INVAL_ALL;
    for (size_t i = 0; i < n; i++) {
        v[k].kind = DMT_FUSE_INVAL_INODE;
        v[k++].ino = inos[i];
    }
    pthread_rwlock_rdlock(&a->parts_lock);
    if (a->fuse && dmt_fuse_invalidate(a->fuse, v, k, forgotten, &w) == 0) {
        pthread_mutex_lock(&w.lock);
        while (!w.done)
            pthread_cond_wait(&w.cond, &w.lock);
        pthread_mutex_unlock(&w.lock);
    }
    pthread_rwlock_unlock(&a->parts_lock);
    free(v);
}

int mount_flush_mmap(void *ctx)
{
    struct app *a = ctx;
    pthread_rwlock_rdlock(&a->parts_lock);
    int rc = a->fuse ? dmt_fuse_syncfs(a->fuse) : 0;
    pthread_rwlock_unlock(&a->parts_lock);
    return rc;
}
