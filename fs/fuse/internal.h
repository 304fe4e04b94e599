/* internal.h: what the files of fs/fuse share.
 *
 *   session.c  start, stop, the receive loop, the opcodes that libfuse 3.14 does not know
 *   names.c    requests about names: lookup, forget, make, link, unlink, rename, readlink, readdir
 *   files.c    requests about content and attributes: getattr, setattr, read, write, fsync, fallocate, lseek, xattr, statfs
 *   reply.c    replies that wait for the workspace's word, and killed waiters
 *   notify.c   the notify thread: kernel invalidations; syncfs of our own mount
 *   watch.c    the watch thread: killed waiters, cpu_dma_latency
 *
 * Lock order: f->lock is a leaf; it is not held over a call into the workspace, libfuse or the kernel. */
#ifndef DMT_FUSE_INTERNAL_H
#define DMT_FUSE_INTERNAL_H

#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "fs/base/limits.h"
#include "fs/base/list.h"
#include "fs/fuse/fuse.h"
#include "fs/workspace/workspace.h"

#define FUSE_FOREVER_S      1e9   /* cache timeout: one writer, and we tell the kernel about the rest */
#define FUSE_READERS_MAX    2
#define FUSE_ALONE          16    /* so many requests in a row from one thread: there is no other */
#define FUSE_UNMATCHED      64u   /* interrupts that came before their request was parked */
#define FUSE_SYNCERS_MAX    8     /* own processes inside syncfs() at once */
#define FUSE_OP_STATX       52u   /* newer than the headers this is built with */
#define FUSE_CODE_INC_EPOCH 8     /* notify code, protocol 7.44 */
#define FUSE_MINOR_EPOCH    44u
#define FUSE_CODE_RESEND    7     /* notify code, protocol 7.40: everything read and not answered is sent again */
#define FUSE_RESENT         (1ull << 63) /* set in the unique of what is sent again */

struct fuse_pending;

struct fuse_reader {
    struct dmt_fuse *f;
    pthread_t thread;
    uint8_t *map;                   /* receive buffer, so placed that a WRITE's payload is page aligned */
    size_t map_bytes;
    uint8_t *out;                   /* DMT_WRITE_MAX bytes for read and readdir replies */
    const struct fuse_in_header *h; /* the request being handled, raw */
    struct fuse_pending *spare;
    atomic_bool running;
    uint32_t caller, alone;         /* thread of the last request; how many came from it in a row before this one */
};
/* The reader that runs on this thread. */
extern __thread struct fuse_reader *fuse_me;

struct fuse_job; /* one dmt_fuse_invalidate() */

struct dmt_fuse {
    struct dmt_ws *ws;
    struct dmt_fuse_conf conf;
    char dir[DMT_PATH_MAX];
    struct fuse_session *se;
    int fd;
    uint32_t proto_minor;
    bool feeding_init;              /* libfuse answers INIT a second time: swallowed */
    bool setxattr_ext;              /* SETXATTR carries flags that libfuse 3.14 does not know */
    struct dmt_pool *own_pool;
    atomic_bool stopping, ended;
    struct fuse_reader reader[FUSE_READERS_MAX];
    int readers;
    atomic_int readers_left;

    pthread_mutex_t lock;
    pthread_cond_t idle;            /* live fell to 0 */
    int live;                       /* replies not yet given: pending + cold reads (lock) */
    struct dmt_list pending;        /* parked replies that an interrupt may reach (lock) */
    int interrupted;                /* of those, how many to watch (lock) */
    uint64_t unmatched[FUSE_UNMATCHED]; /* lock */
    unsigned unmatched_next;

    pthread_t notifier, watcher;
    pthread_cond_t job_wake, watch_wake;
    struct dmt_list jobs;           /* lock */
    bool threads_stop;              /* lock */
    uint32_t syncers[FUSE_SYNCERS_MAX]; /* processes inside dmt_fuse_syncfs (lock) */

    atomic_bool syncfs_seen, busy;
    atomic_int latency_fd;          /* /dev/cpu_dma_latency or -1 */
    struct {
        atomic_uint_fast64_t requests, writes, reads, read_bytes, write_bytes, deferred, killed;
    } n;
};

/* The kernel knows this inode once more. In a view nothing hangs on it: what is unlinked on the other machine is gone. */
static inline void fuse_ref(struct dmt_fuse *f, uint64_t node)
{
    if (!f->conf.view)
        dmt_ws_ref(f->ws, node);
}

/* --- reply.c ------------------------------------------------------------------------------ */
enum fuse_reply_kind {
    FUSE_REPLY_DONE,   /* error code only, 0 = done */
    FUSE_REPLY_ENTRY,
    FUSE_REPLY_ATTR,
    FUSE_REPLY_WRITE,
    FUSE_REPLY_RAW,    /* SYNCFS: header only, by hand */
    FUSE_REPLY_RAW_TMPFILE,
};
/* A reply that may have to wait. Filled before the workspace is asked, since its answer may come from another thread at once. */
struct fuse_pending {
    struct dmt_list link;           /* in f->pending */
    struct dmt_fuse *f;
    fuse_req_t req;                 /* NULL for the raw kinds */
    uint64_t unique, node, parent;  /* node, parent and name: what the kernel must forget if it is told EINTR */
    uint32_t pid;
    enum fuse_reply_kind kind;
    bool linked, interrupted;       /* f->lock */
    atomic_int refs;
    atomic_bool answered;
    struct dmt_attr attr;
    size_t written;
    char name[DMT_NAME_MAX + 1];
};
/* Starts a pending for the request at hand (fuse_me->h). name may be NULL. */
struct fuse_pending *fuse_pending_new(struct dmt_fuse *f, fuse_req_t req, enum fuse_reply_kind kind,
                                      uint64_t parent, const char *name);
/* The operation failed: p is not needed. */
void fuse_pending_drop(struct fuse_pending *p);
/* The operation was done and logged as seq (0: nothing logged): reply now, or when the workspace allows it. */
void fuse_acknowledge(struct fuse_pending *p, uint64_t seq);
/* Replies when everything of ino (0: of the workspace) is synced. */
void fuse_sync_reply(struct fuse_pending *p, uint64_t ino);
/* INTERRUPT: the request with this unique has a signal waiting. */
void fuse_interrupt(struct dmt_fuse *f, uint64_t unique);
/* Answers EINTR to those of the interrupted whose task is being killed. Called by the watch thread. */
void fuse_watch_killed(struct dmt_fuse *f);
/* Everything parked gets this error. */
void fuse_fail_pending(struct dmt_fuse *f, int err);
void fuse_live_inc(struct dmt_fuse *f);
void fuse_live_dec(struct dmt_fuse *f);
void fuse_entry_of(const struct dmt_attr *a, uint64_t parent, struct fuse_entry_param *e);
double fuse_attr_timeout(uint64_t node);
/* The kernel keeps what it read of a directory until the directory's time changes. For the list of snapshots, which changes
 * behind its back, that is each time it is looked at. */
void fuse_fresh_list(struct dmt_attr *a);
/* Raw replies. 0 or -errno. */
int fuse_raw_reply(struct dmt_fuse *f, uint64_t unique, int err, const void *body, size_t len);
/* Immediate error reply; err <= 0 of the workspace. */
void fuse_fail(fuse_req_t req, int err);

/* --- names.c, files.c --------------------------------------------------------------------- */
void fuse_names_ops(struct fuse_lowlevel_ops *ops);
void fuse_files_ops(struct fuse_lowlevel_ops *ops);
/* The caller of the request at hand. */
struct dmt_op fuse_op_of(struct dmt_fuse *f);
/* Body of the request at hand (after the header) if it has at least n bytes, else NULL. */
const void *fuse_body(size_t n);
void fuse_do_tmpfile(struct dmt_fuse *f);
void fuse_do_setxattr(struct dmt_fuse *f);
void fuse_do_syncfs(struct dmt_fuse *f);

/* --- notify.c ----------------------------------------------------------------------------- */
void *fuse_notify_main(void *f);
/* Attributes only, at once: takes no lock of the page cache or of a directory, so unlike the others a reader may send it. */
void fuse_forget_attr(struct dmt_fuse *f, uint64_t ino);
bool fuse_is_syncer(struct dmt_fuse *f, uint32_t pid);
/* The notify thread asks whether the kernel still knows these inodes; those it does not are let go. inos is taken over. */
void fuse_ask(struct dmt_fuse *f, uint64_t *inos, size_t n);
/* A connection that served before: has everything unanswered sent again; to be called before the first read. 0 or -errno. */
int fuse_resend(struct dmt_fuse *f);
/* ... and what the dead process knew about the kernel's caches is found out; with the notify thread running. */
void fuse_find_out(struct dmt_fuse *f);

/* --- watch.c ------------------------------------------------------------------------------ */
void *fuse_watch_main(void *f);
/* A request came: keeps the cores awake from now on (dma_latency=hold). */
void fuse_latency_touch(struct dmt_fuse *f);

#endif
