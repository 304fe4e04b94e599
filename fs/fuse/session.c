/* session.c: start, stop and the receive loop.
 *
 * Owns the descriptor, libfuse's session and the readers. libfuse parses requests and formats
 * replies; reading them is done here, because the raw header is needed (fuse.h) and because a
 * WRITE's payload can be made to land page aligned: the headers before it are 40 + 40 bytes, so
 * requests are received 80 bytes before a page.
 *
 * Start: the holder has answered INIT. Its bytes are fed to libfuse, which answers as well; that
 * answer is swallowed (write_reply) since the kernel would refuse it. Then the readers start. No
 * clone_fd: a clone's requests die with its process (A4).
 *
 * Taking over from a dead process: the same descriptor (so the kernel keeps what that process had
 * read), then RESEND before the first read: what was not answered comes again, with bit 63 set in
 * its unique; the workspace knows what of it is done (fs/workspace/resend.c).
 *
 * A reader: read(2) blocks until there is a request; one of the opcodes that libfuse does not know
 * is handled here, the rest go to fuse_session_process_buf. Errors of read: ENOENT (the request was
 * withdrawn), EINTR (a signal, our way to stop it), ENODEV (unmounted).
 *
 * End: the last reader that sees ENODEV calls on_end. On fuseblk the kernel sends DESTROY first and
 * umount(2) waits for the answer: on_destroy drains. Stop with the mount alive: readers are
 * signalled out of read(2); what is parked gets EIO, cold reads finish. Threads: fuse readers;
 * start and stop from one other thread.
 */
#include "fs/fuse/internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/log.h"
#include "fs/base/thread.h"

#define WRITE_HEADERS   80u /* fuse_in_header + fuse_write_in */
#define PAGE            4096u
#define CORES_FOR_TWO   4
#define SIGNAL_EVERY_MS 5
#define POOL_THREADS    4
#define POOL_QUEUE_MAX  256

_Static_assert(sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in) == WRITE_HEADERS,
               "payload alignment");

__thread struct fuse_reader *fuse_me;

struct dmt_op fuse_op_of(struct dmt_fuse *f)
{
    const struct fuse_in_header *h = fuse_me->h;
    struct dmt_op op = {.uid = h->uid,
                        .gid = h->gid,
                        .unique = h->unique & ~FUSE_RESENT,
                        .instance = f->conf.instance,
                        .resent = h->unique & FUSE_RESENT};
    return op;
}

const void *fuse_body(size_t n)
{
    const struct fuse_in_header *h = fuse_me->h;
    return h->len >= sizeof(*h) + n ? (const void *)(h + 1) : NULL;
}

/* --- libfuse's way out -------------------------------------------------------------------- */

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
    struct dmt_fuse *f = userdata;
    if (f->feeding_init) {
        ssize_t n = 0;
        for (int i = 0; i < count; i++)
            n += (ssize_t)iov[i].iov_len;
        return n;
    }
    return writev(fd, iov, count);
}

static ssize_t read_request(int fd, void *buf, size_t len, void *userdata)
{
    (void)userdata;
    return read(fd, buf, len);
}

/* --- the loop ----------------------------------------------------------------------------- */

static void do_destroy(struct dmt_fuse *f)
{
    if (f->conf.on_destroy)
        f->conf.on_destroy(f->conf.ctx);
    (void)fuse_raw_reply(f, fuse_me->h->unique, 0, NULL, 0);
}

static void dispatch(struct dmt_fuse *f, uint8_t *buf, size_t len)
{
    const struct fuse_in_header *h = (const struct fuse_in_header *)buf;
    const struct fuse_interrupt_in *intr;

    fuse_me->h = h;
    fuse_me->alone = h->pid == fuse_me->caller ? fuse_me->alone + 1 : 0;
    fuse_me->caller = h->pid;
    atomic_fetch_add_explicit(&f->n.requests, 1, memory_order_relaxed);
    if (f->conf.dma_latency)
        fuse_latency_touch(f);
    switch (h->opcode) {
    case FUSE_SYNCFS:
        fuse_do_syncfs(f);
        return;
    case FUSE_TMPFILE:
        fuse_do_tmpfile(f);
        return;
    case FUSE_SETXATTR:
        fuse_do_setxattr(f);
        return;
    case FUSE_OP_STATX:
        (void)fuse_raw_reply(f, h->unique, -ENOSYS, NULL, 0);
        return;
    case FUSE_INTERRUPT:
        intr = fuse_body(sizeof(*intr));
        if (intr)
            fuse_interrupt(f, intr->unique);
        return;
    case FUSE_DESTROY:
        do_destroy(f);
        return;
    default: {
        struct fuse_buf fb = {.size = len, .mem = buf};
        fuse_session_process_buf(f->se, &fb);
    }
    }
}

static void reader_end(struct dmt_fuse *f, int err)
{
    if (atomic_fetch_sub(&f->readers_left, 1) != 1 || atomic_load(&f->stopping))
        return;
    atomic_store(&f->ended, true);
    fuse_session_exit(f->se); /* late replies find nobody: libfuse need not complain */
    fuse_fail_pending(f, -ENOTCONN);
    if (f->conf.on_end)
        f->conf.on_end(f->conf.ctx, err);
}

static void *reader_main(void *arg)
{
    struct fuse_reader *r = arg;
    struct dmt_fuse *f = r->f;
    uint8_t *buf = r->map + PAGE - WRITE_HEADERS;
    size_t size = r->map_bytes - (PAGE - WRITE_HEADERS);
    sigset_t set;
    int err = 0;

    fuse_me = r;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    while (!atomic_load_explicit(&f->stopping, memory_order_relaxed)) {
        ssize_t n = read(f->fd, buf, size);
        if (n < 0) {
            if (errno == EINTR || errno == ENOENT || errno == EAGAIN)
                continue;
            err = errno == ENODEV ? 0 : -errno;
            break;
        }
        if ((size_t)n < sizeof(struct fuse_in_header)) {
            err = -EPROTO;
            break;
        }
        dispatch(f, buf, (size_t)n);
    }
    atomic_store(&r->running, false);
    reader_end(f, err);
    return NULL;
}

/* --- start and stop ----------------------------------------------------------------------- */

static void on_signal(int sig)
{
    (void)sig; /* its only effect is EINTR */
}

static int reader_init(struct dmt_fuse *f, struct fuse_reader *r)
{
    r->f = f;
    r->map_bytes = PAGE + DMT_WRITE_MAX + PAGE;
    /* All pages are there from the start: a process that is being killed gets none, and a request
     * that finds no room is answered EIO. */
    r->map = mmap(NULL, r->map_bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (r->map == MAP_FAILED) {
        r->map = NULL;
        return -ENOMEM;
    }
    r->out = malloc(DMT_WRITE_MAX);
    return r->out ? 0 : -ENOMEM;
}

static void reader_free(struct fuse_reader *r)
{
    if (r->map)
        (void)munmap(r->map, r->map_bytes);
    free(r->out);
    free(r->spare);
}

/* libfuse learns the protocol version and the sizes from the INIT that the holder answered. */
static int feed_init(struct dmt_fuse *f, struct dmt_err *err)
{
    struct fuse_buf fb = {.size = f->conf.init_len, .mem = NULL};
    const struct fuse_init_in *in;
    int rc = 0;

    if (f->conf.init_len < sizeof(struct fuse_in_header) + 16)
        return dmt_err_set(err, -EPROTO, "the saved INIT request is too short");
    fb.mem = malloc(f->conf.init_len);
    if (!fb.mem)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    memcpy(fb.mem, f->conf.init, f->conf.init_len);
    in = (const void *)((const uint8_t *)fb.mem + sizeof(struct fuse_in_header));
    if (((const struct fuse_in_header *)fb.mem)->opcode != FUSE_INIT || in->major != 7)
        rc = dmt_err_set(err, -EPROTO, "the saved INIT request is not one");
    f->proto_minor = in->minor;
    f->setxattr_ext = in->flags & FUSE_SETXATTR_EXT; /* asked for wherever it is offered */
    if (rc == 0) {
        f->feeding_init = true;
        fuse_session_process_buf(f->se, &fb);
        f->feeding_init = false;
        if (fuse_session_exited(f->se))
            rc = dmt_err_set(err, -EPROTO, "libfuse refuses the INIT request of this kernel");
    }
    free(fb.mem);
    return rc;
}

static int new_session(struct dmt_fuse *f, struct dmt_err *err)
{
    static const struct fuse_custom_io io = {.writev = write_reply, .read = read_request};
    char *argv[] = {(char *)(uintptr_t) "dumontfs", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    struct fuse_lowlevel_ops ops;

    memset(&ops, 0, sizeof(ops));
    fuse_names_ops(&ops);
    fuse_files_ops(&ops);
    f->se = fuse_session_new(&args, &ops, sizeof(ops), f);
    fuse_opt_free_args(&args);
    if (!f->se || fuse_session_custom_io(f->se, &io, f->fd) != 0)
        return dmt_err_set(err, -ENOMEM, "libfuse cannot make a session");
    return feed_init(f, err);
}

static void init_sync(struct dmt_fuse *f)
{
    pthread_condattr_t mono;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->idle, NULL);
    pthread_cond_init(&f->job_wake, NULL);
    pthread_cond_init(&f->watch_wake, &mono);
    pthread_condattr_destroy(&mono);
    dmt_list_init(&f->pending);
    dmt_list_init(&f->jobs);
    atomic_init(&f->latency_fd, -1);
}

static void free_all(struct dmt_fuse *f)
{
    dmt_pool_free(f->own_pool);
    for (int i = 0; i < FUSE_READERS_MAX; i++)
        reader_free(&f->reader[i]);
    pthread_cond_destroy(&f->idle);
    pthread_cond_destroy(&f->job_wake);
    pthread_cond_destroy(&f->watch_wake);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static void stop_helpers(struct dmt_fuse *f)
{
    pthread_mutex_lock(&f->lock);
    f->threads_stop = true;
    pthread_cond_broadcast(&f->job_wake);
    pthread_cond_broadcast(&f->watch_wake);
    pthread_mutex_unlock(&f->lock);
    (void)pthread_join(f->notifier, NULL);
    (void)pthread_join(f->watcher, NULL);
}

static int start_threads(struct dmt_fuse *f)
{
    int rc = dmt_thread_start(&f->notifier, "notify", fuse_notify_main, f);
    if (rc < 0)
        return rc;
    rc = dmt_thread_start(&f->watcher, "watch", fuse_watch_main, f);
    if (rc < 0) {
        f->threads_stop = true;
        pthread_cond_broadcast(&f->job_wake);
        (void)pthread_join(f->notifier, NULL);
        return rc;
    }
    atomic_store(&f->readers_left, f->readers);
    for (int i = 0; i < f->readers; i++) {
        atomic_store(&f->reader[i].running, true);
        rc = dmt_thread_start(&f->reader[i].thread, "fuse", reader_main, &f->reader[i]);
        if (rc < 0 && i == 0) {
            stop_helpers(f);
            return rc;
        }
        if (rc < 0) {
            /* One reader is enough. */
            atomic_fetch_sub(&f->readers_left, f->readers - i);
            f->readers = i;
        }
    }
    return 0;
}

int dmt_fuse_start(struct dmt_fuse **ret, struct dmt_ws *ws, const struct dmt_fuse_conf *conf,
                   struct dmt_err *err)
{
    struct sigaction sa = {.sa_handler = on_signal};
    struct dmt_fuse *f = calloc(1, sizeof(*f));
    int rc = 0;

    if (!f)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    f->ws = ws;
    f->conf = *conf;
    f->fd = conf->fd;
    (void)snprintf(f->dir, sizeof(f->dir), "%s", conf->dir);
    init_sync(f);
    f->readers = conf->readers > 0                                ? conf->readers
                 : sysconf(_SC_NPROCESSORS_ONLN) >= CORES_FOR_TWO ? FUSE_READERS_MAX
                                                                  : 1;
    if (f->readers > FUSE_READERS_MAX)
        f->readers = FUSE_READERS_MAX;
    for (int i = 0; i < f->readers && rc == 0; i++)
        rc = reader_init(f, &f->reader[i]);
    if (rc == 0 && !f->conf.pool) {
        rc = dmt_pool_new(&f->own_pool, "read", POOL_THREADS, POOL_QUEUE_MAX);
        f->conf.pool = f->own_pool;
    }
    if (rc < 0)
        dmt_err_set(err, rc, "cannot start: %s", dmt_strerror(rc));
    if (rc == 0)
        rc = new_session(f, err);
    if (rc == 0 && conf->resume && (rc = fuse_resend(f)) < 0)
        dmt_err_set(err, rc, "the kernel does not send the unanswered requests again: %s",
                    dmt_strerror(rc));
    if (rc == 0) {
        (void)sigaction(SIGRTMIN, &sa, NULL);
        rc = start_threads(f);
        if (rc < 0)
            dmt_err_set(err, rc, "cannot start a thread: %s", dmt_strerror(rc));
    }
    if (rc < 0) {
        /* The session would close the descriptor, which is the caller's until we succeed. */
        int keep = f->se ? dup(f->fd) : -1;
        if (f->se)
            fuse_session_destroy(f->se);
        if (keep >= 0) {
            (void)dup3(keep, conf->fd, O_CLOEXEC);
            close(keep);
        }
        free_all(f);
        return rc;
    }
    if (conf->resume)
        fuse_find_out(f);
    *ret = f;
    return 0;
}

void dmt_fuse_stop(struct dmt_fuse *f)
{
    if (!f)
        return;
    atomic_store(&f->stopping, true);
    for (int i = 0; i < f->readers; i++) {
        /* The signal may come just before read(2): again until it is out. */
        struct timespec pause = {.tv_nsec = SIGNAL_EVERY_MS * 1000000};
        while (atomic_load(&f->reader[i].running)) {
            (void)pthread_kill(f->reader[i].thread, SIGRTMIN);
            (void)nanosleep(&pause, NULL);
        }
        (void)pthread_join(f->reader[i].thread, NULL);
    }
    fuse_fail_pending(f, -EIO);
    pthread_mutex_lock(&f->lock);
    while (f->live > 0)
        (void)pthread_cond_wait(&f->idle, &f->lock);
    pthread_mutex_unlock(&f->lock);
    stop_helpers(f);
    fuse_session_destroy(f->se);
    free_all(f);
}

bool dmt_fuse_syncfs_seen(const struct dmt_fuse *f)
{
    return atomic_load(&f->syncfs_seen);
}

void dmt_fuse_stats(const struct dmt_fuse *f, struct dmt_fuse_stats *ret)
{
    ret->requests = atomic_load(&f->n.requests);
    ret->writes = atomic_load(&f->n.writes);
    ret->reads = atomic_load(&f->n.reads);
    ret->read_bytes = atomic_load(&f->n.read_bytes);
    ret->write_bytes = atomic_load(&f->n.write_bytes);
    ret->deferred = atomic_load(&f->n.deferred);
    ret->killed = atomic_load(&f->n.killed);
}
