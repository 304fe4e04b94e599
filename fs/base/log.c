/* log.c: the log of a program.
 *
 * Owns one process-wide file descriptor, the level and the program's name. Happy path: format a
 * whole line on the stack, then one write(2), so that lines of threads and of processes appending
 * to one file do not mix (O_APPEND). Failure: a log that cannot be written is dropped; logging
 * never stops the program. Before dmt_log_init(), lines of level info and above go to stderr.
 * Thread: any. The level is atomic; the mutex covers the descriptor and is the last one in the lock
 * order.
 */
#include "fs/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/clock.h"

#define LOG_LINE_MAX 2048

static struct {
    pthread_mutex_t lock;
    const char *program; /* protected by lock */
    int fd;              /* protected by lock */
    atomic_int level;
} g_log = {.lock = PTHREAD_MUTEX_INITIALIZER,
           .program = "dumont",
           .fd = STDERR_FILENO,
           .level = DMT_LOG_INFO};

static const char *const level_names[] = {"error", "warn", "info", "debug"};

int dmt_log_init(const char *program, const char *path, enum dmt_log_level level)
{
    int fd = STDERR_FILENO;
    if (path) {
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
        if (fd < 0)
            return -errno;
    }
    pthread_mutex_lock(&g_log.lock);
    int old = g_log.fd;
    g_log.fd = fd;
    g_log.program = program;
    pthread_mutex_unlock(&g_log.lock);
    if (old != STDERR_FILENO)
        close(old);
    atomic_store(&g_log.level, (int)level);
    return 0;
}

void dmt_log_set_level(enum dmt_log_level level)
{
    atomic_store(&g_log.level, (int)level);
}

int dmt_log_level_parse(const char *s)
{
    for (int i = 0; i < (int)(sizeof(level_names) / sizeof(level_names[0])); i++)
        if (strcmp(s, level_names[i]) == 0)
            return i;
    return -EINVAL;
}

/* Everything after the header that would break "one line per call" becomes a space. */
static void flatten(char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] == '\n' || p[i] == '\r')
            p[i] = ' ';
}

static void log_write(const char *line, size_t len, int fd)
{
    while (len > 0) {
        ssize_t n = write(fd, line, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        line += n;
        len -= (size_t)n;
    }
}

void dmt_log(enum dmt_log_level level, const char *fmt, ...)
{
    if ((int)level > atomic_load(&g_log.level))
        return;
    int saved_errno = errno; /* callers log between a failed call and their use of errno */
    char line[LOG_LINE_MAX], when[32], thread[16] = "?";
    const struct dmt_clock *clock = dmt_clock_real();
    (void)pthread_getname_np(pthread_self(), thread, sizeof(thread));
    dmt_time_format(clock->realtime_ns(clock->ctx), when);

    pthread_mutex_lock(&g_log.lock);
    int head = snprintf(line, sizeof(line), "%s %s %s [%s] ", when, g_log.program,
                        level_names[level], thread);
    size_t used = head < 0 ? 0 : (size_t)head;
    if (used > sizeof(line) / 2)
        used = sizeof(line) / 2;
    va_list ap;
    va_start(ap, fmt);
    int body = vsnprintf(line + used, sizeof(line) - used - 1, fmt, ap);
    va_end(ap);
    size_t room = sizeof(line) - used - 2; /* vsnprintf's NUL and our newline */
    size_t n = body < 0 ? 0 : (size_t)body < room ? (size_t)body : room;
    flatten(line + used, n);
    line[used + n] = '\n';
    log_write(line, used + n + 1, g_log.fd);
    pthread_mutex_unlock(&g_log.lock);
    errno = saved_errno;
}

void dmt_assert_fail(const char *cond, const char *file, int line)
{
    dmt_log(DMT_LOG_ERROR, "assertion failed: %s (%s:%d)", cond, file, line);
    abort();
}
