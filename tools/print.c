/* print.c: how the verbs talk: errors with hints, sizes, times in the user's zone, a progress bar.
 * One thread. With --json errors are one JSON object on stderr, so that scripts read both outcomes
 * alike.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/clock.h"
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

/* --- progress: shown on a terminal only, from the second second on ---------------------------- */
static uint64_t progress_since;
static bool progress_shown;

void progress(const char *what, uint64_t done, uint64_t total)
{
    char a[32], b[32], bar[31];
    const struct dmt_clock *clk = dmt_clock_real();
    uint64_t now = clk->monotonic_ns(clk->ctx);
    if (progress_since == 0)
        progress_since = now;
    if (!isatty(STDERR_FILENO) || now - progress_since < DMT_S)
        return;
    progress_shown = true;
    if (total == 0) {
        fprintf(stderr, "\r\033[K%s: %s", what, human_bytes(done, a));
        return;
    }
    size_t fill = (size_t)(done >= total ? 30 : done * 30 / total);
    memset(bar, '-', 30);
    memset(bar, '#', fill);
    bar[30] = '\0';
    fprintf(stderr, "\r\033[K%s [%s] %s of %s", what, bar, human_bytes(done, a),
            human_bytes(total, b));
}

void progress_end(void)
{
    if (progress_shown)
        fprintf(stderr, "\r\033[K");
    progress_shown = false;
    progress_since = 0;
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
