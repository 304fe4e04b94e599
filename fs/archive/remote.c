/* remote.c: the worker thread between the archiver and its object store.
 *
 * Owns: the handle, one thread, one slot for a call. Happy path: the caller fills the slot and
 * waits; the worker runs the call and marks it done. Failure mode it exists for: a server that
 * accepts connections and then says nothing. A caller that is told to stop waits LEAVE_MS for the
 * call under way and then walks off; the two references on the struct (caller, worker) decide who
 * frees it. Nothing in here points to the caller's memory: bytes go in and out through the slot's
 * own buffers. Threads: the worker ("archive-net"), one caller, remote_stop from anywhere. */
#include "fs/archive/remote.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "fs/base/log.h"
#include "fs/base/thread.h"

#define LEAVE_MS 1000

enum slot_state { IDLE, WAITING, RUNNING, DONE };

struct remote {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct dmt_objstore *os;
    atomic_bool stop;
    bool closing;
    int refs;
    enum slot_state state;
    /* the call */
    bool put;
    char key[DMT_OBJ_KEY_MAX + 1];
    uint64_t off, len;
    struct dmt_buf buf;
    int result;
    struct dmt_err err;
};

static void unref(struct remote *r) /* lock held; releases it */
{
    bool last = --r->refs == 0;
    pthread_mutex_unlock(&r->lock);
    if (!last)
        return;
    dmt_objstore_close(r->os);
    dmt_buf_free(&r->buf);
    pthread_cond_destroy(&r->cond);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static void *worker(void *arg)
{
    struct remote *r = arg;
    pthread_mutex_lock(&r->lock);
    while (!r->closing) {
        if (r->state != WAITING) {
            pthread_cond_wait(&r->cond, &r->lock);
            continue;
        }
        r->state = RUNNING;
        pthread_mutex_unlock(&r->lock);
        memset(&r->err, 0, sizeof(r->err));
        int result = r->put ? dmt_objstore_put(r->os, r->key, r->buf.p, r->buf.len, &r->err)
                            : dmt_objstore_get(r->os, r->key, r->off, r->len, &r->buf, &r->err);
        pthread_mutex_lock(&r->lock);
        r->result = result;
        r->state = DONE;
        pthread_cond_broadcast(&r->cond);
    }
    unref(r);
    return NULL;
}

int remote_open(struct remote **ret, const char *url, const struct dmt_objstore_conf *conf,
                struct dmt_err *err)
{
    struct dmt_objstore_conf c = *conf;
    pthread_condattr_t ca;
    pthread_t t;
    struct remote *r = calloc(1, sizeof(*r));
    if (!r)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    c.stop = &r->stop;
    int rc = dmt_objstore_open(&r->os, url, &c, err);
    if (rc) {
        free(r);
        return rc;
    }
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&r->cond, &ca);
    pthread_condattr_destroy(&ca);
    dmt_buf_init(&r->buf);
    r->refs = 2;
    rc = dmt_thread_start(&t, "archive-net", worker, r);
    if (rc) {
        r->refs = 1;
        pthread_mutex_lock(&r->lock);
        unref(r);
        return dmt_err_set(err, rc, "cannot start a thread");
    }
    pthread_detach(t);
    *ret = r;
    return 0;
}

void remote_close(struct remote *r)
{
    if (!r)
        return;
    remote_stop(r);
    pthread_mutex_lock(&r->lock);
    r->closing = true;
    pthread_cond_broadcast(&r->cond);
    unref(r);
}

void remote_stop(struct remote *r)
{
    atomic_store(&r->stop, true);
    pthread_mutex_lock(&r->lock);
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

/* Runs the call in the slot (lock held). The result, or -ECANCELED when it was left behind. */
static int run(struct remote *r)
{
    struct timespec until = {0};
    r->state = WAITING;
    pthread_cond_broadcast(&r->cond);
    while (r->state != DONE) {
        if (!atomic_load(&r->stop)) {
            pthread_cond_wait(&r->cond, &r->lock);
            continue;
        }
        if (!until.tv_sec) {
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_sec += LEAVE_MS / 1000;
        }
        if (pthread_cond_timedwait(&r->cond, &r->lock, &until) == ETIMEDOUT && r->state != DONE)
            return -ECANCELED;
    }
    r->state = IDLE;
    return r->result;
}

static int begin(struct remote *r, bool put, const char *key, struct dmt_err *err)
{
    pthread_mutex_lock(&r->lock);
    if (atomic_load(&r->stop) || r->state != IDLE) {
        pthread_mutex_unlock(&r->lock);
        return dmt_err_set(err, -ECANCELED, "stopped");
    }
    r->put = put;
    snprintf(r->key, sizeof(r->key), "%s", key);
    return 0;
}

static int finish(struct remote *r, int rc, struct dmt_err *err)
{
    if (rc == -ECANCELED)
        dmt_err_set(err, rc, "stopped");
    else if (rc && err)
        *err = r->err;
    pthread_mutex_unlock(&r->lock);
    return rc;
}

static void swap(struct dmt_buf *a, struct dmt_buf *b)
{
    struct dmt_buf t = *a;
    *a = *b;
    *b = t;
}

int remote_put(struct remote *r, const char *key, struct dmt_buf *body, struct dmt_err *err)
{
    int rc = begin(r, true, key, err);
    if (rc)
        return rc;
    dmt_buf_reset(&r->buf);
    swap(&r->buf, body);
    rc = run(r);
    if (rc != -ECANCELED)
        swap(&r->buf, body);
    return finish(r, rc, err);
}

int remote_get(struct remote *r, const char *key, uint64_t off, uint64_t len, struct dmt_buf *out,
               struct dmt_err *err)
{
    int rc = begin(r, false, key, err);
    if (rc)
        return rc;
    dmt_buf_reset(&r->buf);
    r->off = off;
    r->len = len;
    rc = run(r);
    if (!rc) {
        dmt_put_raw(out, r->buf.p, r->buf.len);
        if (out->bad)
            rc = -ENOMEM;
    }
    return finish(r, rc, err);
}

static int src_get(void *ctx, const char *key, uint64_t off, uint64_t len, struct dmt_buf *out,
                   struct dmt_err *err)
{
    return remote_get(ctx, key, off, len, out, err);
}

struct series_src remote_src(struct remote *r)
{
    return (struct series_src){src_get, r};
}
