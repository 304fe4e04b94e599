/* thread.c: starting threads, and a pool with a bounded queue.
 *
 * Owns the queue and the pool's threads. Happy path: submit puts an item at the tail, a sleeping
 * thread takes it from the head and runs it without the lock. Full queue: -EAGAIN at once; the
 * caller decides whether to wait, drop or answer "busy". Free runs what is queued, then joins;
 * submitting from inside an item is allowed, also while the pool is being freed. Threads start with
 * all signals blocked, so that only the main thread's sigwait or signalfd sees them.
 */
#include "fs/base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/base/log.h"

struct start {
    void *(*fn)(void *);
    void *arg;
    char name[16];
};

static void *thread_main(void *p)
{
    struct start s = *(struct start *)p;
    free(p);
    (void)pthread_setname_np(pthread_self(), s.name);
    return s.fn(s.arg);
}

int dmt_thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *arg)
{
    struct start *s = malloc(sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->fn = fn;
    s->arg = arg;
    (void)snprintf(s->name, sizeof(s->name), "%.15s", name);
    /* The mask is inherited, so it is set here around the creation: inside the thread would leave a
     * gap. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(t, NULL, thread_main, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r != 0)
        free(s);
    return -r;
}

#ifdef __SANITIZE_THREAD__
/* ThreadSanitizer makes a fork of vfork, and what fn says in memory would be lost. Nobody kills an
 * instrumented program and expects it to be gone at once. */
int dmt_apart(int (*fn)(void *arg), void *arg)
{
    return fn(arg);
}
#else
int dmt_apart(int (*fn)(void *arg), void *arg)
{
    int status = 0;
    /* vfork: no copy of our memory; this thread waits until the child has ended, or we are
     * killed. */
    pid_t pid = vfork();
    if (pid == 0) {
        (void)close_range(3, ~0u, 0);
        _exit(fn(arg));
    }
    if (pid < 0)
        return -errno;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -EIO;
}
#endif

struct item {
    void (*fn)(void *);
    void *arg;
};
struct dmt_pool {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct item *ring; /* protected by lock, like all below */
    size_t head, count, size;
    bool stop;
    int threads;
    pthread_t t[];
};

static void *pool_main(void *arg)
{
    struct dmt_pool *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->count == 0 && !p->stop)
            pthread_cond_wait(&p->more, &p->lock);
        if (p->count == 0)
            break;
        struct item it = p->ring[p->head];
        p->head = (p->head + 1) % p->size;
        p->count--;
        pthread_mutex_unlock(&p->lock);
        it.fn(it.arg);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int dmt_pool_new(struct dmt_pool **ret, const char *name, int threads, size_t queue_max)
{
    DMT_ASSERT(threads > 0 && queue_max > 0);
    struct dmt_pool *p = calloc(1, sizeof(*p) + (size_t)threads * sizeof(p->t[0]));
    if (!p)
        return -ENOMEM;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    p->size = queue_max;
    p->ring = calloc(queue_max, sizeof(*p->ring));
    int r = p->ring ? 0 : -ENOMEM;
    while (r == 0 && p->threads < threads) {
        char numbered[32];
        (void)snprintf(numbered, sizeof(numbered), "%.12s/%d", name, p->threads);
        r = dmt_thread_start(&p->t[p->threads], numbered, pool_main, p);
        if (r == 0)
            p->threads++;
    }
    if (r < 0) {
        dmt_pool_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

void dmt_pool_free(struct dmt_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->threads; i++)
        pthread_join(p->t[i], NULL);
    DMT_ASSERT(p->count == 0);
    pthread_cond_destroy(&p->more);
    pthread_mutex_destroy(&p->lock);
    free(p->ring);
    free(p);
}

int dmt_pool_submit(struct dmt_pool *p, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&p->lock);
    int r = -EAGAIN;
    if (p->count < p->size) {
        p->ring[(p->head + p->count) % p->size] = (struct item){fn, arg};
        p->count++;
        pthread_cond_signal(&p->more);
        r = 0;
    }
    pthread_mutex_unlock(&p->lock);
    return r;
}
