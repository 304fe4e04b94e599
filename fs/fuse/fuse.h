/* fuse.h: the kernel's side of a workspace: requests in, workspace calls out, replies back.
 *
 * The connection comes mounted and with INIT already answered by the holder (fs/holder); this module reads it with a receive
 * loop of its own around libfuse's low-level API, because the raw header carries what 3.14 hides: the request's unique, the
 * KILL_SUIDGID bits, and opcodes 50 (SYNCFS), 51 (TMPFILE) and 52 (STATX).
 *
 * Threads: `fuse` readers (one; two from four cores on) run check -> log -> apply and reply at once where the workspace allows
 * it; slow calls (fsync, cold reads, calls that must wait for a gate) are completed by the workspace's threads or the pool.
 * `notify` sends kernel invalidations and polls for killed waiters; it holds no lock that a handler can want (storage A9).
 * All functions here may be called from any thread but the module's own readers. */
#ifndef DMT_FUSE_FUSE_H
#define DMT_FUSE_FUSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/base/err.h"

struct dmt_ws;   /* fs/workspace/workspace.h */
struct dmt_fuse;
struct dmt_pool; /* fs/base/thread.h */

struct dmt_fuse_conf {
    int fd;                  /* /dev/fuse of the mount; owned by dmt_fuse from a successful start on */
    const uint8_t *init;     /* the INIT request as the kernel sent it (DMT_HP_FUSE) */
    size_t init_len;
    uint32_t instance;       /* mount instance: with the unique it goes into every record */
    uint64_t dev;            /* st_dev of the mount: dmt_fuse_syncfs checks that it syncs the right one */
    const char *dir;         /* mountpoint, copied */
    bool syncfs;             /* DMT_HP_SYNCFS: fuseblk, SYNCFS and DESTROY arrive */
    bool view;               /* of a standby, read-only: it changes without a request, so the kernel keeps nothing of it */
    bool dma_latency;        /* hold /dev/cpu_dma_latency at 0 while requests come (option dma_latency=hold) */
    bool resume;             /* a dead process served it before: what it had not answered is sent again, and is not done twice */
    int readers;             /* 0 = by the number of cores */
    struct dmt_pool *pool;   /* for cold reads; the caller's, outlives dmt_fuse. NULL: one of its own */
    /* All callbacks: called on a thread of this module, no lock held. */
    /* The kernel wants the mount gone and waits (fuseblk): make everything durable (the drain), then return. */
    void (*on_destroy)(void *ctx);
    /* The connection is over: unmounted (err = 0) or broken (err < 0). The last call; dmt_fuse_stop follows, elsewhere. */
    void (*on_end)(void *ctx, int err);
    void *ctx;
};

/* Starts the readers; with resume, once the workspace is what the dead process left. 0, or < 0 with nothing started (fd stays the
 * caller's). */
int dmt_fuse_start(struct dmt_fuse **ret, struct dmt_ws *ws, const struct dmt_fuse_conf *conf, struct dmt_err *err);
/* Stops reading, answers what still waits with EIO, joins the readers,
 * closes fd, frees. NULL is fine. Not from a callback. */
void dmt_fuse_stop(struct dmt_fuse *f);

/* What the kernel must forget (after rollback, heal, a write that did not come through this mount). */
enum dmt_fuse_inval_kind {
    DMT_FUSE_INVAL_INODE, /* ino: attributes and cached data (directories: cached entries) */
    DMT_FUSE_INVAL_ENTRY, /* ino = parent, name: that name (expired, never detached) */
    DMT_FUSE_INVAL_ALL,   /* every name is looked up again once (epoch bump; old kernels: unused names are dropped) */
};
struct dmt_fuse_inval {
    enum dmt_fuse_inval_kind kind;
    uint64_t ino;
    char name[256];
};
/* Queues the list (copied) for the notify thread, in the right order: ALL, entries, inodes; done (may be NULL) is called
 * there when the kernel has taken them all. 0 or -ENOMEM. */
int dmt_fuse_invalidate(struct dmt_fuse *f, const struct dmt_fuse_inval *v, size_t n, void (*done)(void *ctx), void *ctx);
/* True when the kernel knows the epoch bump (protocol 7.44). Without it ALL cannot reach names in use: list those as entries. */
bool dmt_fuse_has_epoch(const struct dmt_fuse *f);

/* Makes dirty mmap pages arrive as WRITEs: syncfs of our own mount (D7). Blocks: not from a reader, no lock held. 0 or -errno;
 * -ENOENT when the mountpoint no longer shows this mount. */
int dmt_fuse_syncfs(struct dmt_fuse *f);
/* True once the kernel has sent a SYNCFS: sync(2) and syncfs(2) are promises here. */
bool dmt_fuse_syncfs_seen(const struct dmt_fuse *f);

struct dmt_fuse_stats {
    uint64_t requests, writes, reads, read_bytes, write_bytes, deferred, killed;
};
void dmt_fuse_stats(const struct dmt_fuse *f, struct dmt_fuse_stats *ret);

#endif
