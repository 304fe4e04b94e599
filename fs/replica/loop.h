/* loop.h: the libuv loop of the workspace process (one thread, named "loop"): the replica and its timers.
 *
 * A thin wrapper: dmt_loop_uv() is an ordinary uv_loop_t for handles that live on the loop thread. Other threads enter by
 * dmt_loop_post (queued, run in order) or dmt_loop_call (waits). Nothing that runs on the loop may wait for a disk flush, the
 * network, or a thread that itself waits in dmt_loop_call.
 */
#ifndef DMT_REPLICA_LOOP_H
#define DMT_REPLICA_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct dmt_loop;
struct uv_loop_s;

/* Makes the loop and starts its thread. 0 or -errno. */
int dmt_loop_new(struct dmt_loop **ret);
/* Runs what is queued, stops and joins the thread, frees. All handles of others must have been closed before. Not from the loop.
 * [blocks] */
void dmt_loop_free(struct dmt_loop *l);

struct uv_loop_s *dmt_loop_uv(struct dmt_loop *l); /* loop thread only, but for uv_async_send */
bool dmt_loop_here(const struct dmt_loop *l);      /* are we on the loop thread? */

/* Runs fn(arg) on the loop thread, later, in the order of posting. Any thread, the loop's own too. Aborts when out of memory. */
void dmt_loop_post(struct dmt_loop *l, void (*fn)(void *arg), void *arg);
/* Runs fn(arg) on the loop thread and waits for its end; on the loop thread: at once. [blocks] */
void dmt_loop_call(struct dmt_loop *l, void (*fn)(void *arg), void *arg);

/* A timer. set and free on the loop thread only. fn may set or free it. */
struct dmt_timer;
struct dmt_timer *dmt_timer_new(struct dmt_loop *l, void (*fn)(void *arg), void *arg);
void dmt_timer_set(struct dmt_timer *t, uint64_t delay_ms); /* once; replaces what was set */
void dmt_timer_stop(struct dmt_timer *t);
void dmt_timer_free(struct dmt_timer *t); /* NULL is fine */

#endif
