/* print.c: how the verbs talk: errors with hints, sizes, times in the user's zone, progress. With
 * --json errors are one JSON object on stderr, so that scripts read both outcomes alike.
 * Failure: nobody to draw the progress (no thread): it is left out. Threads: the verb's, and
 * `progress`, which draws what the verb said last.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/clock.h"
#include "fs/base/thread.h"
#include "tools/dumont.h"

int fail(int exit_code, const struct dmt_err *err)
{
    progress_end();
    if (opt_json) {
        json_t *o =
            json_pack("{s:s, s:s, s:i}", "error", err->msg, "hint", err->hint, "code", err->code);
        json_dumpf(o, stderr, JSON_COMPACT);
        fputc('\n', stderr);
        json_decref(o);
        return exit_code;
    }
    fprintf(stderr, "dumont: %s\n", err->msg[0] ? err->msg : dmt_strerror(err->code));
    if (err->hint[0])
        fprintf(stderr, "  %s\n", err->hint);
    return exit_code;
}

int failf(int exit_code, const char *hint, const char *fmt, ...)
{
    struct dmt_err err = {.code = -EINVAL};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err.msg, sizeof err.msg, fmt, ap);
    va_end(ap);
    if (hint)
        snprintf(err.hint, sizeof err.hint, "%s", hint);
    return fail(exit_code, &err);
}

int fail_conf(int rc, const struct dmt_err *err)
{
    return fail(rc == -ENOENT ? EXIT_ABSENT : EXIT_USAGE, err);
}

int fail_call(int rc, const struct dmt_err *err)
{
    return fail(rc == CALL_ABSENT    ? EXIT_ABSENT
                : rc == DMT_E_CONFIG ? EXIT_USAGE
                                     : EXIT_FAILED,
                err);
}

const char *human_bytes(uint64_t n, char buf[32])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double v = (double)n;
    unsigned u = 0;
    while (v >= 1024 && u < 5) {
        v /= 1024;
        u++;
    }
    snprintf(buf, 32, u == 0 || v >= 100 ? "%.0f %s" : "%.1f %s", v, unit[u]);
    return buf;
}

const char *human_ms(uint64_t ms, char buf[32])
{
    if (ms < 1000)
        snprintf(buf, 32, "%" PRIu64 " ms", ms);
    else if (ms < 120000)
        snprintf(buf, 32, "%.1f s", (double)ms / 1000);
    else if (ms < 7200000)
        snprintf(buf, 32, "%" PRIu64 " min", ms / 60000);
    else
        snprintf(buf, 32, "%" PRIu64 " h", ms / 3600000);
    return buf;
}

const char *local_time(uint64_t ns, char buf[32])
{
    time_t t = (time_t)(ns / DMT_S);
    struct tm tm;
    if (!localtime_r(&t, &tm) || strftime(buf, 32, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        snprintf(buf, 32, "?");
    return buf;
}

/* --- progress ---------------------------------------------------------------------------------
 * On a terminal a thread of its own redraws the line, so that a step without numbers shows at least
 * how long it takes already. Elsewhere one sentence is said once, when a step takes long: whoever
 * reads the log of a script learns what it waits for. */
#define DRAW_AFTER_NS DMT_S
#define DRAW_EVERY_NS 200000000L
#define SAY_AFTER_NS  (3 * DMT_S)

static struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    pthread_t thread;
    bool on, shown, said;
    char what[256], unit[16];
    uint64_t done, total, since;
} bar = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static uint64_t now_ns(void)
{
    const struct dmt_clock *clk = dmt_clock_real();
    return clk->monotonic_ns(clk->ctx);
}

static const char *amount(uint64_t n, char buf[32])
{
    if (bar.unit[0] == 'B')
        return human_bytes(n, buf);
    snprintf(buf, 32, "%" PRIu64, n);
    return buf;
}

static void draw(void)
{
    char a[32], b[32], fill[31];
    const char *unit = bar.unit[0] == 'B' ? "" : bar.unit;
    uint64_t s = (now_ns() - bar.since) / DMT_S;
    fprintf(stderr, "\r\033[K%.200s", bar.what);
    if (bar.total) {
        size_t n = (size_t)(bar.done >= bar.total ? 30 : bar.done * 30 / bar.total);
        memset(fill, '-', 30);
        memset(fill, '#', n);
        fill[30] = '\0';
        fprintf(stderr, " [%s] %s of %s%s%s", fill, amount(bar.done, a), amount(bar.total, b),
                *unit ? " " : "", unit);
    } else if (bar.done) {
        fprintf(stderr, ": %s%s%s", amount(bar.done, a), *unit ? " " : "", unit);
    }
    fprintf(stderr, " (%" PRIu64 " s)", s);
    bar.shown = true;
}

static void say_once(void)
{
    if (bar.said)
        return;
    bar.said = true;
    if (opt_json) {
        json_t *o = json_pack("{s:s}", "waiting", bar.what);
        json_dumpf(o, stderr, JSON_COMPACT);
        fputc('\n', stderr);
        json_decref(o);
    } else {
        fprintf(stderr, "dumont: %s ...\n", bar.what);
    }
}

static void *drawing(void *unused)
{
    (void)unused;
    bool tty = isatty(STDERR_FILENO);
    pthread_mutex_lock(&bar.lock);
    while (bar.on) {
        struct timespec t;
        uint64_t past = now_ns() - bar.since;
        if (tty && past >= DRAW_AFTER_NS)
            draw();
        else if (!tty && past >= SAY_AFTER_NS)
            say_once();
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += DRAW_EVERY_NS;
        t.tv_sec += t.tv_nsec / 1000000000L;
        t.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&bar.cond, &bar.lock, &t);
    }
    pthread_mutex_unlock(&bar.lock);
    return NULL;
}

void progress(const char *what, uint64_t done, uint64_t total, const char *unit)
{
    pthread_mutex_lock(&bar.lock);
    snprintf(bar.what, sizeof bar.what, "%s", what);
    snprintf(bar.unit, sizeof bar.unit, "%s", unit);
    bar.done = done;
    bar.total = total;
    bool start = !bar.on;
    if (start) {
        bar.on = true;
        bar.shown = bar.said = false;
        bar.since = now_ns();
        if (dmt_thread_start(&bar.thread, "progress", drawing, NULL) != 0)
            bar.on = false;
    }
    pthread_mutex_unlock(&bar.lock);
}

void progress_end(void)
{
    pthread_mutex_lock(&bar.lock);
    bool was = bar.on;
    bar.on = false;
    pthread_cond_signal(&bar.cond);
    pthread_mutex_unlock(&bar.lock);
    if (!was)
        return;
    pthread_join(bar.thread, NULL);
    if (bar.shown)
        fprintf(stderr, "\r\033[K");
}

json_t *json_bytes(const char *s)
{
    json_t *v = json_string(s);
    size_t n = strlen(s);
    char *wide = v ? NULL : malloc(2 * n + 1), *w = wide;
    if (!wide)
        return v;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c >= 0x80)
            *w++ = (char)(0xc0 | c >> 6);
        *w++ = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
    }
    *w = '\0';
    v = json_string(wide);
    free(wide);
    return v;
}

int print_json(const json_t *v)
{
    json_dumpf(v, stdout, JSON_INDENT(2));
    fputc('\n', stdout);
    return EXIT_OK;
}

uint64_t json_u64(const json_t *obj, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(obj, key));
}

const char *json_str(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));
    return s ? s : "";
}

bool json_bool(const json_t *obj, const char *key)
{
    return json_is_true(json_object_get(obj, key));
}
