/* reply.c: replies, now or when the workspace says so.
 *
 * Owns: fuse_pending, the list of those parked, and the rule that each request is answered exactly
 * once.
 *
 * Happy path: a handler fills a fuse_pending, does the operation, and calls fuse_acknowledge().
 * Mostly the workspace says "go" at once; then the reader replies and keeps the pending as its
 * spare, so that the fast path allocates nothing. Otherwise the pending is parked and the workspace
 * calls back (committer, loop or pool thread) with the outcome, which may happen before
 * dmt_ws_ack() has even returned. Who flips `answered` replies; the pending is freed with the last
 * of its references (the handler's, the callback's).
 *
 * Killed waiters. The kernel sends INTERRUPT when a signal comes to a waiting task, and from then
 * on waits for our answer whatever happens. A fsync that an ordinary signal turned into EINTR would
 * surprise programs, so the answer waits; but a task that is being killed must not hang in D state.
 * So interrupted requests are watched by the watch thread (not notify: that one may wait for a
 * directory lock that a parked waiter holds): when /proc/TID shows a pending SIGKILL (fatal signals
 * become one), or the task cannot be seen, the request is answered EINTR. What the operation did
 * stays done; the kernel, which takes EINTR for "perhaps", is told to forget the name and the
 * attributes.
 *
 * Failure modes: a reply that the kernel refuses (connection gone): an entry that was counted is
 * forgotten again. Threads: any. f->lock guards the list; it is not held while replying.
 */
#include "fs/fuse/internal.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/log.h"

double fuse_attr_timeout(uint64_t node)
{
    /* The list of snapshots changes without a request that passes here, and all of a view does. */
    return node == DMT_NODE_SNAPSHOTS || (fuse_me && fuse_me->f->conf.view) ? 0 : FUSE_FOREVER_S;
}

void fuse_fresh_list(struct dmt_attr *a)
{
    if (a->node == DMT_NODE_SNAPSHOTS)
        clock_gettime(CLOCK_REALTIME, &a->st.st_mtim);
}

void fuse_entry_of(const struct dmt_attr *a, uint64_t parent, struct fuse_entry_param *e)
{
    memset(e, 0, sizeof(*e));
    e->ino = a->node;
    e->attr = a->st;
    e->attr_timeout = fuse_attr_timeout(a->node);
    e->entry_timeout = parent == DMT_NODE_SNAPSHOTS ? 0 : e->attr_timeout;
}

int fuse_raw_reply(struct dmt_fuse *f, uint64_t unique, int err, const void *body, size_t len)
{
    struct fuse_out_header h = {.unique = unique, .error = err};
    struct iovec iov[2] = {{.iov_base = &h, .iov_len = sizeof(h)},
                           {.iov_base = (void *)(uintptr_t)body, .iov_len = len}};
    int n = err == 0 && len > 0 ? 2 : 1;
    h.len = (uint32_t)(sizeof(h) + (n == 2 ? len : 0));
    return writev(f->fd, iov, n) < 0 ? -errno : 0;
}

void fuse_fail(fuse_req_t req, int err)
{
    (void)fuse_reply_err(req, err < 0 ? -dmt_err_errno(err) : 0);
}

void fuse_live_inc(struct dmt_fuse *f)
{
    pthread_mutex_lock(&f->lock);
    f->live++;
    pthread_mutex_unlock(&f->lock);
}

void fuse_live_dec(struct dmt_fuse *f)
{
    pthread_mutex_lock(&f->lock);
    DMT_ASSERT(f->live > 0);
    if (--f->live == 0)
        pthread_cond_broadcast(&f->idle);
    pthread_mutex_unlock(&f->lock);
}

struct fuse_pending *fuse_pending_new(struct dmt_fuse *f, fuse_req_t req, enum fuse_reply_kind kind,
                                      uint64_t parent, const char *name)
{
    struct fuse_pending *p = fuse_me->spare;
    fuse_me->spare = NULL;
    if (!p)
        p = malloc(sizeof(*p));
    DMT_ASSERT(p);
    p->f = f;
    p->req = req;
    p->kind = kind;
    p->unique = fuse_me->h->unique;
    p->pid = fuse_me->h->pid;
    p->node = fuse_me->h->nodeid;
    p->parent = parent;
    p->linked = p->interrupted = false;
    p->written = 0;
    p->name[0] = '\0';
    if (name)
        (void)snprintf(p->name, sizeof(p->name), "%s", name);
    atomic_init(&p->refs, 1);
    atomic_init(&p->answered, false);
    return p;
}

static void unref(struct fuse_pending *p)
{
    if (atomic_fetch_sub(&p->refs, 1) == 1)
        free(p);
}

static void fill_raw_attr(const struct stat *st, struct fuse_attr *a)
{
    a->ino = st->st_ino;
    a->size = (uint64_t)st->st_size;
    a->blocks = (uint64_t)st->st_blocks;
    a->atime = (uint64_t)st->st_atim.tv_sec;
    a->mtime = (uint64_t)st->st_mtim.tv_sec;
    a->ctime = (uint64_t)st->st_ctim.tv_sec;
    a->atimensec = (uint32_t)st->st_atim.tv_nsec;
    a->mtimensec = (uint32_t)st->st_mtim.tv_nsec;
    a->ctimensec = (uint32_t)st->st_ctim.tv_nsec;
    a->mode = st->st_mode;
    a->nlink = (uint32_t)st->st_nlink;
    a->uid = st->st_uid;
    a->gid = st->st_gid;
    a->rdev = (uint32_t)st->st_rdev;
    a->blksize = (uint32_t)st->st_blksize;
}

static int reply_tmpfile(struct fuse_pending *p)
{
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out;
    memset(&out, 0, sizeof(out));
    out.entry.nodeid = p->attr.node;
    out.entry.entry_valid = out.entry.attr_valid = (uint64_t)FUSE_FOREVER_S;
    fill_raw_attr(&p->attr.st, &out.entry.attr);
    out.open.open_flags = FOPEN_KEEP_CACHE;
    return fuse_raw_reply(p->f, p->unique, 0, &out, sizeof(out));
}

/* Sends the reply; the caller has the right to (it flipped `answered`, or nobody else knows of p).
 */
static void send_reply(struct fuse_pending *p, int err)
{
    struct fuse_entry_param e;
    struct dmt_fuse *f = p->f;
    bool counted = p->kind == FUSE_REPLY_ENTRY || p->kind == FUSE_REPLY_RAW_TMPFILE;
    int rc = 0, code = err < 0 ? dmt_err_errno(err) : 0;

    if (p->kind == FUSE_REPLY_RAW || (p->kind == FUSE_REPLY_RAW_TMPFILE && code < 0)) {
        rc = fuse_raw_reply(f, p->unique, code, NULL, 0);
    } else if (p->kind == FUSE_REPLY_RAW_TMPFILE) {
        rc = reply_tmpfile(p);
    } else if (code < 0 || p->kind == FUSE_REPLY_DONE) {
        rc = fuse_reply_err(p->req, -code);
    } else if (p->kind == FUSE_REPLY_ENTRY) {
        fuse_entry_of(&p->attr, p->parent, &e);
        rc = fuse_reply_entry(p->req, &e);
    } else if (p->kind == FUSE_REPLY_ATTR) {
        rc = fuse_reply_attr(p->req, &p->attr.st, fuse_attr_timeout(p->attr.node));
    } else {
        rc = fuse_reply_write(p->req, p->written);
    }
    if (counted && (code < 0 || rc < 0))
        dmt_ws_forget(f->ws, p->attr.node, 1);
}

/* The kernel was told EINTR for something that is done: what it believes about it may be wrong now.
 */
static void forget_belief(struct fuse_pending *p)
{
    struct dmt_fuse_inval v[3];
    size_t n = 0;
    memset(v, 0, sizeof(v));
    if (p->name[0]) {
        v[n].kind = DMT_FUSE_INVAL_ENTRY;
        v[n].ino = p->parent;
        memcpy(v[n++].name, p->name, sizeof(p->name));
        v[n].kind = DMT_FUSE_INVAL_INODE;
        v[n++].ino = p->parent;
    }
    if (p->node) {
        v[n].kind = DMT_FUSE_INVAL_INODE;
        v[n++].ino = p->node;
    }
    if (n > 0)
        (void)dmt_fuse_invalidate(p->f, v, n, NULL, NULL);
}

/* Replies if nobody has; takes p off the list. */
static void answer(struct fuse_pending *p, int err)
{
    struct dmt_fuse *f = p->f;
    if (atomic_exchange(&p->answered, true))
        return; /* f may be gone by now: it is not touched */
    pthread_mutex_lock(&f->lock);
    if (p->linked) {
        dmt_list_del(&p->link);
        p->linked = false;
        f->interrupted -= p->interrupted;
    }
    pthread_mutex_unlock(&f->lock);
    send_reply(p, err);
    fuse_live_dec(f);
}

/* From the workspace: commit, loop or pool thread. */
static void on_ack(void *arg, int err)
{
    struct fuse_pending *p = arg;
    answer(p, err);
    unref(p);
}

/* Puts p where an interrupt finds it; one may have come already. */
static void park(struct fuse_pending *p)
{
    struct dmt_fuse *f = p->f;
    pthread_mutex_lock(&f->lock);
    if (!atomic_load(&p->answered)) {
        dmt_list_add_tail(&f->pending, &p->link);
        p->linked = true;
        for (unsigned i = 0; i < FUSE_UNMATCHED && !p->interrupted; i++)
            if (f->unmatched[i] == p->unique)
                p->interrupted = true;
        if (p->interrupted) {
            f->interrupted++;
            pthread_cond_signal(&f->watch_wake);
        }
    }
    pthread_mutex_unlock(&f->lock);
    atomic_fetch_add_explicit(&f->n.deferred, 1, memory_order_relaxed);
}

void fuse_pending_drop(struct fuse_pending *p)
{
    if (fuse_me->spare)
        free(p);
    else
        fuse_me->spare = p;
}

/* Nobody else knows of p: reply here, keep it as the reader's spare. */
static void reply_at_once(struct fuse_pending *p, int err)
{
    send_reply(p, err);
    fuse_pending_drop(p);
}

void fuse_acknowledge(struct fuse_pending *p, uint64_t seq)
{
    if (seq == 0) {
        reply_at_once(p, 0);
        return;
    }
    fuse_live_inc(p->f);
    atomic_store(&p->refs, 2);
    int rc = dmt_ws_ack(p->f->ws, seq, on_ack, p);
    if (rc == 0) {
        park(p);
        unref(p);
        return;
    }
    /* The callback will not come: its reference goes, and the reply is ours. */
    atomic_store(&p->refs, 1);
    struct dmt_fuse *f = p->f;
    reply_at_once(p, rc < 0 ? rc : 0);
    fuse_live_dec(f);
}

void fuse_sync_reply(struct fuse_pending *p, uint64_t ino)
{
    fuse_live_inc(p->f);
    atomic_store(&p->refs, 2);
    dmt_ws_sync(p->f->ws, ino, on_ack, p);
    park(p);
    unref(p);
}

/* --- interrupts --------------------------------------------------------------------------- */

void fuse_interrupt(struct dmt_fuse *f, uint64_t unique)
{
    bool found = false;
    pthread_mutex_lock(&f->lock);
    DMT_LIST_EACH(it, tmp, &f->pending)
    {
        struct fuse_pending *p = DMT_CONTAINER(it, struct fuse_pending, link);
        if (p->unique != unique)
            continue;
        found = true;
        if (!p->interrupted) {
            p->interrupted = true;
            f->interrupted++;
            pthread_cond_signal(&f->watch_wake);
        }
        break;
    }
    /* The other reader may be about to park it. */
    if (!found)
        f->unmatched[f->unmatched_next++ % FUSE_UNMATCHED] = unique;
    pthread_mutex_unlock(&f->lock);
}

/* Is SIGKILL on its way to this task, or is the task not to be seen (another pid namespace, already
 * gone)? */
static bool being_killed(uint32_t tid)
{
    char path[64], line[256];
    bool killed = true;
    if (tid == 0)
        return true;
    (void)snprintf(path, sizeof(path), "/proc/%u/status", tid);
    FILE *file = fopen(path, "re");
    if (!file)
        return true;
    while (fgets(line, sizeof(line), file)) {
        unsigned long long set;
        if (sscanf(line, "SigPnd: %llx", &set) == 1)
            killed = set >> 8 & 1;
    }
    fclose(file);
    return killed;
}

void fuse_watch_killed(struct dmt_fuse *f)
{
    struct fuse_pending *batch[64];
    int n = 0;

    pthread_mutex_lock(&f->lock);
    DMT_LIST_EACH(it, tmp, &f->pending)
    {
        struct fuse_pending *p = DMT_CONTAINER(it, struct fuse_pending, link);
        if (p->interrupted && n < 64) {
            atomic_fetch_add(&p->refs, 1);
            batch[n++] = p;
        }
    }
    pthread_mutex_unlock(&f->lock);
    for (int i = 0; i < n; i++) {
        if (being_killed(batch[i]->pid) && !atomic_load(&batch[i]->answered)) {
            forget_belief(batch[i]);
            atomic_fetch_add_explicit(&f->n.killed, 1, memory_order_relaxed);
            answer(batch[i], -EINTR);
        }
        unref(batch[i]);
    }
}

void fuse_fail_pending(struct dmt_fuse *f, int err)
{
    for (;;) {
        struct fuse_pending *p = NULL;
        pthread_mutex_lock(&f->lock);
        if (!dmt_list_empty(&f->pending)) {
            p = DMT_CONTAINER(f->pending.next, struct fuse_pending, link);
            atomic_fetch_add(&p->refs, 1);
        }
        pthread_mutex_unlock(&f->lock);
        if (!p)
            return;
        if (atomic_load(&p->answered)) {
            /* Its callback is between the flag and the list: let it pass. */
            sched_yield();
        }
        answer(p, err);
        unref(p);
    }
}
