/* thread.h: named threads, a small work pool, and the table of threads and locks of the workspace process.
 *
 * Threads of dumontfs                 | owns / does
 *   fuse     (1; a 2nd from 4 cores)  | reads requests, runs check -> log -> apply, replies at once where allowed
 *   commit   (fs/journal)             | fdatasync of the journal; calls on_durable (a fuse reader does both for a lone caller)
 *   ckpt     (fs/workspace)           | checkpoints
 *   loop     (fs/replica, libuv)      | peer connection and its timers
 *   control  (fs/dumontfs_control.c)  | accepts; one thread more per connection runs its commands
 *   lease    (fs/lease)               | decisions and pings; no disk; lease-io writes and acts, lease-arb asks the arbiter
 *   applier  (standby only)           | applies records <= the holder's durable position
 *   main     (fs/dumontfs.c)          | promotion, resync, mounting: what changes which parts exist
 *   archive  (fs/archive)             | packs and uploads
 *   pool     (4)                      | cold reads, bulk reads and writes, a handover's waiting
 *   notify   (fs/fuse)                | kernel invalidations; holds no lock a handler can want
 *
 * Lock order (take left before right, never the other way):
 *   ws->lock  ->  journal lock  ->  ack lock  ->  log.      The lease lock is a leaf of its own.
 * No lock is held over fdatasync, COMMIT, a network call, or a callback into another module, except where a header says so.
 */
#ifndef DMT_BASE_THREAD_H
#define DMT_BASE_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* Starts fn(arg) with all signals blocked and the name shown in /proc (15 chars). 0 or -errno. */
int dmt_thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *arg);

/* Runs fn(arg) in a process of its own, which has our memory but none of our descriptors above 2, and waits for it. For calls on
 * our own mount: they wait for an answer of ours, and a thread of ours that waits so cannot die, nor can we; a process of its own
 * can stay behind. fn makes system calls only. Its result, 0 to 255, or -errno. Any thread. */
int dmt_apart(int (*fn)(void *arg), void *arg);

struct dmt_pool;
int dmt_pool_new(struct dmt_pool **ret, const char *name, int threads, size_t queue_max);
/* Runs queued work to its end, then joins. */
void dmt_pool_free(struct dmt_pool *p);
/* 0, or -EAGAIN when queue_max items wait. */
int dmt_pool_submit(struct dmt_pool *p, void (*fn)(void *arg), void *arg);

#endif
