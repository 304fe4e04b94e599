/* notify.c: telling the kernel what to forget.
 *
 * Cache timeouts are endless, because every change comes through this mount; rollback, heal and the
 * list of snapshots are the exceptions. They queue a list here and the notify thread writes the
 * notifications to /dev/fuse, in the order that is safe (storage A10): first the epoch (every name
 * is looked up once more), then single names (expired, never detached: a detached directory takes
 * the working directory of its users away), then inodes.
 *
 * Why a thread of its own: a notification takes page and directory locks that a client holds while
 * it waits for our reply (A9). The readers must go on meanwhile, and nothing that a handler can
 * want may be held here. For the same reason syncfs of our own mount (D7) runs on the thread that
 * asks for it, which must not be a reader.
 *
 * Failure modes: ENOENT is the normal answer for what the kernel does not know. Kernels before
 * protocol 7.44 have no epoch: there unused dentries and inodes are dropped machine-wide
 * (drop_caches), which a rollback is rare enough for.
 *
 * After a takeover the same answer tells whether the kernel still holds an inode whose lookup count
 * died with the process before us.
 *
 * Our own syncfs runs in a process of its own (dmt_apart): a thread of ours that waits for an
 * answer to it could not die when we are killed, we would not be gone, and nobody could take the
 * mount over to give that answer. Thread: notify; dmt_fuse_syncfs: the caller's.
 */
#include "fs/fuse/internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>
#include "fs/base/log.h"
#include "fs/base/thread.h"

#define EXPIRE_MINOR 38u /* protocol 7.38 knows FUSE_EXPIRE_ONLY */

struct fuse_job {
    struct dmt_list link;
    struct dmt_fuse_inval *v;
    size_t n;
    void (*done)(void *ctx);
    void *ctx;
    uint64_t *ask; /* inodes to ask about, instead */
    size_t ask_n;
};

static int notify(struct dmt_fuse *f, int code, struct iovec *iov, int n)
{
    struct fuse_out_header h = {.error = code, .unique = 0};
    size_t len = sizeof(h);

    iov[0].iov_base = &h;
    iov[0].iov_len = sizeof(h);
    for (int i = 1; i < n; i++)
        len += iov[i].iov_len;
    h.len = (uint32_t)len;
    return writev(f->fd, iov, n) < 0 ? -errno : 0;
}

static void drop_unused_names(void)
{
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "2", 1) != 1)
        dmt_warn(
            "cached names cannot be dropped (%s): programs may see names from before the rollback",
            strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void forget_all(struct dmt_fuse *f)
{
    struct iovec iov[1];
    if (!dmt_fuse_has_epoch(f) || notify(f, FUSE_CODE_INC_EPOCH, iov, 1) < 0)
        drop_unused_names();
}

static void forget_entry(struct dmt_fuse *f, const struct dmt_fuse_inval *v)
{
    struct fuse_notify_inval_entry_out out = {.parent = v->ino,
                                              .namelen = (uint32_t)strlen(v->name)};
    struct iovec iov[3] = {{0},
                           {.iov_base = &out, .iov_len = sizeof(out)},
                           {.iov_base = (void *)(uintptr_t)v->name, .iov_len = out.namelen + 1}};
    if (f->proto_minor >= EXPIRE_MINOR)
        out.flags = FUSE_EXPIRE_ONLY;
    (void)notify(f, FUSE_NOTIFY_INVAL_ENTRY, iov, 3);
}

static int inval_attr(struct dmt_fuse *f, uint64_t ino)
{
    struct fuse_notify_inval_inode_out out = {.ino = ino, .off = -1, .len = 0};
    struct iovec iov[2] = {{0}, {.iov_base = &out, .iov_len = sizeof(out)}};
    return notify(f, FUSE_NOTIFY_INVAL_INODE, iov, 2);
}

void fuse_forget_attr(struct dmt_fuse *f, uint64_t ino)
{
    (void)inval_attr(f, ino);
}

static void forget_inode(struct dmt_fuse *f, uint64_t ino)
{
    struct fuse_notify_inval_inode_out out = {.ino = ino, .off = 0, .len = 0};
    struct iovec iov[2] = {{0}, {.iov_base = &out, .iov_len = sizeof(out)}};
    (void)notify(f, FUSE_NOTIFY_INVAL_INODE, iov, 2);
}

static void run(struct dmt_fuse *f, struct fuse_job *job)
{
    bool all = false;
    for (size_t i = 0; i < job->n; i++)
        all |= job->v[i].kind == DMT_FUSE_INVAL_ALL;
    if (all)
        forget_all(f);
    for (size_t i = 0; i < job->n; i++)
        if (job->v[i].kind == DMT_FUSE_INVAL_ENTRY)
            forget_entry(f, &job->v[i]);
    for (size_t i = 0; i < job->n; i++)
        if (job->v[i].kind == DMT_FUSE_INVAL_INODE)
            forget_inode(f, job->v[i].ino);
    for (size_t i = 0; i < job->ask_n; i++)
        if (inval_attr(f, job->ask[i]) == -ENOENT)
            dmt_ws_forgotten(f->ws, job->ask[i]);
    if (job->done)
        job->done(job->ctx);
    free(job->v);
    free(job->ask);
    free(job);
}

void *fuse_notify_main(void *arg)
{
    struct dmt_fuse *f = arg;
    pthread_mutex_lock(&f->lock);
    /* What is queued is done even when stopping: somebody may wait for `done`. */
    while (!f->threads_stop || !dmt_list_empty(&f->jobs)) {
        if (dmt_list_empty(&f->jobs)) {
            (void)pthread_cond_wait(&f->job_wake, &f->lock);
            continue;
        }
        struct fuse_job *job = DMT_CONTAINER(f->jobs.next, struct fuse_job, link);
        dmt_list_del(&job->link);
        pthread_mutex_unlock(&f->lock);
        run(f, job);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

static void queue(struct dmt_fuse *f, struct fuse_job *job)
{
    pthread_mutex_lock(&f->lock);
    dmt_list_add_tail(&f->jobs, &job->link);
    pthread_cond_signal(&f->job_wake);
    pthread_mutex_unlock(&f->lock);
}

int dmt_fuse_invalidate(struct dmt_fuse *f, const struct dmt_fuse_inval *v, size_t n,
                        void (*done)(void *ctx), void *ctx)
{
    struct fuse_job *job = calloc(1, sizeof(*job));
    if (!job)
        return -ENOMEM;
    job->v = calloc(n ? n : 1, sizeof(*v));
    if (!job->v) {
        free(job);
        return -ENOMEM;
    }
    if (n > 0)
        memcpy(job->v, v, n * sizeof(*v));
    job->n = n;
    job->done = done;
    job->ctx = ctx;
    queue(f, job);
    return 0;
}

void fuse_ask(struct dmt_fuse *f, uint64_t *inos, size_t n)
{
    struct fuse_job *job = calloc(1, sizeof(*job));
    if (!job) {
        free(inos); /* they stay until the unmount */
        return;
    }
    job->ask = inos;
    job->ask_n = n;
    queue(f, job);
}

/* --- after a takeover --------------------------------------------------------------------- */

int fuse_resend(struct dmt_fuse *f)
{
    struct iovec iov[1];
    return notify(f, FUSE_CODE_RESEND, iov, 1);
}

void fuse_find_out(struct dmt_fuse *f)
{
    uint64_t *inos = NULL;
    size_t n = 0;
    if (dmt_ws_stale(f->ws, &inos, &n) == 0 && n > 0) {
        struct dmt_fuse_inval *v = calloc(n + 1, sizeof(*v));
        if (v)
            v[0].kind = DMT_FUSE_INVAL_ALL;
        for (size_t i = 0; v && i < n; i++)
            v[i + 1] = (struct dmt_fuse_inval){.kind = DMT_FUSE_INVAL_INODE, .ino = inos[i]};
        if (!v || dmt_fuse_invalidate(f, v, n + 1, NULL, NULL) < 0)
            dmt_warn("no memory to tell the kernel what has changed: programs may see old content");
        free(v);
    }
    free(inos);
    if (dmt_ws_doubtful(f->ws, &inos, &n) == 0)
        fuse_ask(f, inos, n);
}

bool dmt_fuse_has_epoch(const struct dmt_fuse *f)
{
    return f->proto_minor >= FUSE_MINOR_EPOCH;
}

/* --- syncfs of our own mount -------------------------------------------------------------- */

bool fuse_is_syncer(struct dmt_fuse *f, uint32_t pid)
{
    bool found = false;
    if (pid == 0)
        return false;
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < FUSE_SYNCERS_MAX; i++)
        found |= f->syncers[i] == pid;
    pthread_mutex_unlock(&f->lock);
    return found;
}

/* Puts `now` where `old` is; false when there is no such place. */
static bool syncer_swap(struct dmt_fuse *f, uint32_t old, uint32_t now)
{
    bool ok = false;
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < FUSE_SYNCERS_MAX && !ok; i++) {
        if (f->syncers[i] == old) {
            f->syncers[i] = now;
            ok = true;
        }
    }
    pthread_mutex_unlock(&f->lock);
    return ok;
}

struct syncing {
    struct dmt_fuse *f;
    uint32_t pid;
};

/* In a process of its own. 0 or an errno. */
static int sync_mount(void *arg)
{
    struct syncing *s = arg;
    struct dmt_fuse *f = s->f;
    struct statx sx;
    int rc = 0;

    s->pid = (uint32_t)gettid();
    if (!syncer_swap(f, 0, s->pid))
        return EBUSY;
    int fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    /* DONT_SYNC: the device number needs no request to ourselves. */
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &sx) < 0)
        rc = errno;
    else if (f->conf.dev && makedev(sx.stx_dev_major, sx.stx_dev_minor) != f->conf.dev)
        rc = ENOENT;
    else if (syncfs(fd) < 0)
        rc = errno;
    (void)close(fd);
    return rc;
}

int dmt_fuse_syncfs(struct dmt_fuse *f)
{
    struct syncing s = {.f = f};

    DMT_ASSERT(!fuse_me);
    if (atomic_load(&f->ended))
        return -ENOENT;
    int rc = dmt_apart(sync_mount, &s);
    if (s.pid)
        (void)syncer_swap(f, s.pid, 0);
    return rc > 0 ? -rc : rc;
}
