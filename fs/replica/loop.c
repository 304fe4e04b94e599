/* loop.c: the libuv loop and its thread; posting from other threads; timers.
 *
 * Owns the uv_loop_t, one uv_async_t and the queue of posted calls (a list under a mutex that is
 * never held while a call runs).
 * Happy path: post appends and wakes; the loop takes the whole list and runs it in order. Failure
 * modes: a queue node that cannot be allocated aborts, because a lost call would be a lost
 * acknowledgement or a waiter that never wakes. dmt_loop_free stops the loop only after everything
 * posted before it has run.
 * Thread: the loop's own, named "loop"; post and call from any.
 */
#include "fs/replica/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include <uv.h>

#include "fs/base/log.h"
#include "fs/base/thread.h"

struct call {
    struct call *next;
    void (*fn)(void *arg);
    void *arg;
};

struct dmt_loop {
    uv_loop_t uv;
    uv_async_t wake;
    pthread_t thread;
    pthread_mutex_t lock;
    struct call *head, **tail; /* protected by lock */
};

struct dmt_timer {
    uv_timer_t uv;
    void (*fn)(void *arg);
    void *arg;
};

static void on_wake(uv_async_t *h)
{
    struct dmt_loop *l = h->data;
    pthread_mutex_lock(&l->lock);
    struct call *c = l->head;
    l->head = NULL;
    l->tail = &l->head;
    pthread_mutex_unlock(&l->lock);
    while (c) {
        struct call *next = c->next;
        c->fn(c->arg);
        free(c);
        c = next;
    }
}

static void *loop_main(void *arg)
{
    struct dmt_loop *l = arg;
    uv_run(&l->uv, UV_RUN_DEFAULT);
    return NULL;
}

int dmt_loop_new(struct dmt_loop **ret)
{
    struct dmt_loop *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->tail = &l->head;
    int r = uv_loop_init(&l->uv);
    if (r < 0) {
        free(l);
        return r;
    }
    pthread_mutex_init(&l->lock, NULL);
    l->wake.data = l;
    r = uv_async_init(&l->uv, &l->wake, on_wake);
    if (r == 0)
        r = dmt_thread_start(&l->thread, "loop", loop_main, l);
    if (r < 0) {
        if (uv_loop_alive(&l->uv))
            uv_close((uv_handle_t *)&l->wake, NULL);
        uv_run(&l->uv, UV_RUN_DEFAULT);
        uv_loop_close(&l->uv);
        pthread_mutex_destroy(&l->lock);
        free(l);
        return r;
    }
    *ret = l;
    return 0;
}

static void close_wake(void *arg)
{
    struct dmt_loop *l = arg;
    uv_close((uv_handle_t *)&l->wake, NULL); /* the last handle: uv_run returns */
}

void dmt_loop_free(struct dmt_loop *l)
{
    if (!l)
        return;
    DMT_ASSERT(!dmt_loop_here(l));
    dmt_loop_post(l, close_wake, l);
    pthread_join(l->thread, NULL);
    on_wake(&l->wake); /* what was posted after the loop had taken its last list */
    DMT_ASSERT(uv_loop_close(&l->uv) == 0);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

struct uv_loop_s *dmt_loop_uv(struct dmt_loop *l)
{
    return &l->uv;
}

bool dmt_loop_here(const struct dmt_loop *l)
{
    return pthread_equal(pthread_self(), l->thread) != 0;
}

void dmt_loop_post(struct dmt_loop *l, void (*fn)(void *arg), void *arg)
{
    struct call *c = malloc(sizeof(*c));
    DMT_ASSERT(c);
    *c = (struct call){NULL, fn, arg};
    pthread_mutex_lock(&l->lock);
    bool first = !l->head;
    *l->tail = c;
    l->tail = &c->next;
    if (first)
        uv_async_send(
            /* under the lock: the handle cannot be closed by a call that is still queued */
            &l->wake);
    pthread_mutex_unlock(&l->lock);
}

struct waiter {
    void (*fn)(void *arg);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    bool done;
};

static void run_waiter(void *arg)
{
    struct waiter *w = arg;
    w->fn(w->arg);
    pthread_mutex_lock(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->done_cond);
    pthread_mutex_unlock(&w->lock);
}

void dmt_loop_call(struct dmt_loop *l, void (*fn)(void *arg), void *arg)
{
    if (dmt_loop_here(l)) {
        fn(arg);
        return;
    }
    struct waiter w = {.fn = fn, .arg = arg};
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.done_cond, NULL);
    dmt_loop_post(l, run_waiter, &w);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.done_cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.done_cond);
    pthread_mutex_destroy(&w.lock);
}

/* --- timers ----------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *h)
{
    struct dmt_timer *t = h->data;
    t->fn(t->arg);
}

struct dmt_timer *dmt_timer_new(struct dmt_loop *l, void (*fn)(void *arg), void *arg)
{
    struct dmt_timer *t = calloc(1, sizeof(*t));
    DMT_ASSERT(t);
    t->fn = fn;
    t->arg = arg;
    t->uv.data = t;
    DMT_ASSERT(uv_timer_init(&l->uv, &t->uv) == 0);
    return t;
}

void dmt_timer_set(struct dmt_timer *t, uint64_t delay_ms)
{
    DMT_ASSERT(uv_timer_start(&t->uv, on_timer, delay_ms, 0) == 0);
}

void dmt_timer_stop(struct dmt_timer *t)
{
    uv_timer_stop(&t->uv);
}

static void timer_closed(uv_handle_t *h)
{
    free(h->data);
}

void dmt_timer_free(struct dmt_timer *t)
{
    if (t)
        uv_close((uv_handle_t *)&t->uv, timer_closed);
}
