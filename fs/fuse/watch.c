/* watch.c: the watch thread: who is being killed, and whether requests still come.
 *
 * Happy path: it sleeps for good. It wakes up when a parked request is interrupted, and looks every
 * WATCH_MS whether its task is being killed (reply.c); and when cpu_dma_latency has been opened, to
 * close it again after IDLE_MS without a request.
 *
 * cpu_dma_latency (option dma_latency=hold): an idle core that must be woken up for each request
 * costs five times the request itself (storage A2.11). Holding the file open with a 0 keeps idle
 * cores polling; that burns power, so only while requests come. Failure modes: no such file, or no
 * right to it: the option has no effect, said once in the log. Thread: watch. It takes f->lock for
 * moments and nothing else that a handler could want.
 */
#include "fs/fuse/internal.h"

#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/log.h"

#define WATCH_MS 50
#define IDLE_MS  10

#define LATENCY_CLOSED  (-1)
#define LATENCY_USELESS (-2)

void fuse_latency_touch(struct dmt_fuse *f)
{
    int32_t zero = 0;
    int expected = LATENCY_CLOSED;

    atomic_store_explicit(&f->busy, true, memory_order_relaxed);
    if (atomic_load_explicit(&f->latency_fd, memory_order_relaxed) != LATENCY_CLOSED)
        return;
    int fd = open("/dev/cpu_dma_latency", O_RDWR | O_CLOEXEC);
    if (fd < 0 || write(fd, &zero, sizeof(zero)) != sizeof(zero)) {
        dmt_warn("dma_latency=hold has no effect: /dev/cpu_dma_latency: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        atomic_store(&f->latency_fd, LATENCY_USELESS);
        return;
    }
    if (!atomic_compare_exchange_strong(&f->latency_fd, &expected, fd)) {
        close(fd); /* the other reader was faster */
        return;
    }
    pthread_mutex_lock(&f->lock);
    pthread_cond_signal(&f->watch_wake);
    pthread_mutex_unlock(&f->lock);
}

static void latency_tick(struct dmt_fuse *f)
{
    int fd = atomic_load(&f->latency_fd);
    if (fd < 0 || atomic_exchange(&f->busy, false))
        return;
    if (atomic_compare_exchange_strong(&f->latency_fd, &fd, LATENCY_CLOSED))
        close(fd);
}

static void wait_ms(struct dmt_fuse *f, long ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_cond_timedwait(&f->watch_wake, &f->lock, &until);
}

void *fuse_watch_main(void *arg)
{
    struct dmt_fuse *f = arg;

    pthread_mutex_lock(&f->lock);
    while (!f->threads_stop) {
        bool latency = atomic_load(&f->latency_fd) >= 0;
        if (f->interrupted == 0 && !latency) {
            (void)pthread_cond_wait(&f->watch_wake, &f->lock);
            continue;
        }
        wait_ms(f, latency ? IDLE_MS : WATCH_MS);
        bool look = f->interrupted > 0;
        pthread_mutex_unlock(&f->lock);
        if (look)
            fuse_watch_killed(f);
        latency_tick(f);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    int fd = atomic_exchange(&f->latency_fd, LATENCY_USELESS);
    if (fd >= 0)
        close(fd);
    return NULL;
}
