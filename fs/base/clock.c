/* clock.c: the real clock, randomness, and times as people write them.
 *
 * Owns nothing. CLOCK_BOOTTIME is the monotonic clock because a lease must also run out while a
 * machine sleeps or is frozen by its hypervisor and thawed. Times outside 1970..2554 are refused
 * when parsed and shown as they fall when formatted. Failure: a kernel that cannot give time or
 * random bytes leaves nothing sensible to do, so that aborts. Thread: any.
 */
#include "fs/base/clock.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "fs/base/log.h"

#define TIME_MAX_S 18446744072ll /* 2554-07-21T23:34:32Z: nanoseconds beyond it do not fit */
#define FILE_MIN_S (-2147483648ll)
#define FILE_MAX_S 15032385535ll

static uint64_t read_clock(clockid_t id)
{
    struct timespec ts;
    int r = clock_gettime(id, &ts);
    DMT_ASSERT(r == 0);
    return (uint64_t)ts.tv_sec * DMT_S + (uint64_t)ts.tv_nsec;
}

static uint64_t real_realtime(void *ctx)
{
    (void)ctx;
    return read_clock(CLOCK_REALTIME);
}

static uint64_t real_monotonic(void *ctx)
{
    (void)ctx;
    return read_clock(CLOCK_BOOTTIME);
}

const struct dmt_clock *dmt_clock_real(void)
{
    static const struct dmt_clock real = {NULL, real_realtime, real_monotonic};
    return &real;
}

uint64_t dmt_file_time_ns(struct timespec t)
{
    if (t.tv_sec < FILE_MIN_S)
        t = (struct timespec){.tv_sec = FILE_MIN_S};
    if (t.tv_sec > FILE_MAX_S)
        t = (struct timespec){.tv_sec = FILE_MAX_S};
    return (uint64_t)t.tv_sec * DMT_S + (uint64_t)t.tv_nsec;
}

struct timespec dmt_file_time(uint64_t ns)
{
    const uint64_t before_1970 = (uint64_t)FILE_MIN_S * DMT_S;
    struct timespec t = {.tv_sec = (time_t)(ns / DMT_S), .tv_nsec = (long)(ns % DMT_S)};
    if (ns >= before_1970) {
        uint64_t since_min = ns - before_1970;
        t.tv_sec = FILE_MIN_S + (time_t)(since_min / DMT_S);
        t.tv_nsec = (long)(since_min % DMT_S);
    }
    return t;
}

void dmt_random(void *buf, size_t len)
{
    char *p = buf;
    while (len > 0) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        DMT_ASSERT(n > 0);
        p += n;
        len -= (size_t)n;
    }
}

char *dmt_time_format(uint64_t realtime_ns, char buf[32])
{
    time_t s = (time_t)(realtime_ns / DMT_S);
    unsigned ms = (unsigned)(realtime_ns % DMT_S / DMT_MS);
    struct tm tm;
    size_t n = gmtime_r(&s, &tm) ? strftime(buf, 25, "%Y-%m-%dT%H:%M:%S", &tm) : 0;
    (void)snprintf(buf + n, 32 - n, ".%03uZ", ms);
    return buf;
}

/* Reads ".digits" if there is one; nanoseconds beyond the ninth digit are dropped. Returns the new
 * position, or NULL. */
static const char *parse_fraction(const char *s, uint64_t *ret_ns)
{
    *ret_ns = 0;
    if (*s != '.')
        return s;
    s++;
    if (!isdigit((unsigned char)*s))
        return NULL;
    uint64_t scale = DMT_S / 10;
    for (; isdigit((unsigned char)*s); s++, scale /= 10)
        *ret_ns += (uint64_t)(*s - '0') * scale;
    return s;
}

/* n digits at s as a number within [lo, hi]. */
static bool parse_digits(const char *s, int n, int lo, int hi, int *ret)
{
    int v = 0;
    for (int i = 0; i < n; i++) {
        if (!isdigit((unsigned char)s[i]))
            return false;
        v = v * 10 + (s[i] - '0');
    }
    *ret = v;
    return v >= lo && v <= hi;
}

static int parse_epoch_seconds(const char *s, uint64_t *ret_ns)
{
    if (!isdigit((unsigned char)*s))
        return -EINVAL;
    uint64_t sec = 0, frac;
    for (; isdigit((unsigned char)*s); s++) {
        sec = sec * 10 + (uint64_t)(*s - '0');
        if (sec > (uint64_t)TIME_MAX_S)
            return -EINVAL;
    }
    s = parse_fraction(s, &frac);
    if (!s || *s)
        return -EINVAL;
    *ret_ns = sec * DMT_S + frac;
    return 0;
}

static int parse_ago(const char *s, uint64_t now_ns, uint64_t *ret_ns)
{
    static const struct {
        const char *unit;
        uint64_t seconds;
    } units[] = {
        {"second", 1},  {"sec", 1},   {"s", 1},         {"minute", 60},
        {"min", 60},    {"m", 60},    {"hour", 3600},   {"h", 3600},
        {"day", 86400}, {"d", 86400}, {"week", 604800}, {"w", 604800},
    };
    unsigned long long count;
    char unit[16], ago[8];
    int end = 0;
    if (!isdigit((unsigned char)*s))
        return -EINVAL;
    if (sscanf(s, "%9llu%*[ ]%15[a-z] %7[a-z]%n", &count, unit, ago, &end) != 3 &&
        sscanf(s, "%9llu%15[a-z] %7[a-z]%n", &count, unit, ago, &end) != 3)
        return -EINVAL;
    if (s[end] || strcmp(ago, "ago") != 0)
        return -EINVAL;
    size_t len = strlen(unit);
    if (len > 1 && unit[len - 1] == 's')
        unit[len - 1] = '\0';
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(unit, units[i].unit) != 0)
            continue;
        uint64_t back_s = count * units[i].seconds;
        if (back_s > now_ns / DMT_S)
            return -EINVAL;
        *ret_ns = now_ns - back_s * DMT_S;
        return 0;
    }
    return -EINVAL;
}

/* "Z", "" (local zone) or "+hh:mm" / "-hhmm" after a date: the seconds since 1970, or -1. */
static long long resolve_zone(const char *s, struct tm *tm)
{
    struct tm asked = *tm;
    long long sec;
    if (*s == '\0') {
        tm->tm_isdst = -1;
        sec = (long long)mktime(tm);
    } else if (strcmp(s, "Z") == 0) {
        sec = (long long)timegm(tm);
    } else if (*s == '+' || *s == '-') {
        int h, m;
        if (!parse_digits(s + 1, 2, 0, 14, &h))
            return -1;
        const char *minutes = s[3] == ':' ? s + 4 : s + 3;
        if (!parse_digits(minutes, 2, 0, 59, &m) || minutes[2])
            return -1;
        long long off = (h * 60 + m) * 60;
        sec = (long long)timegm(tm) - (*s == '+' ? off : -off);
    } else {
        return -1;
    }
    /* timegm and mktime turn February 30th into March 2nd without a word; a person who asks for it
     * made a mistake. */
    if (tm->tm_mday != asked.tm_mday || tm->tm_mon != asked.tm_mon)
        return -1;
    return sec;
}

static int parse_calendar(const char *s, uint64_t *ret_ns)
{
    struct tm tm = {0};
    uint64_t frac = 0;
    if (!parse_digits(s, 4, 1970, 9999, &tm.tm_year) || s[4] != '-' ||
        !parse_digits(s + 5, 2, 1, 12, &tm.tm_mon) || s[7] != '-' ||
        !parse_digits(s + 8, 2, 1, 31, &tm.tm_mday))
        return -EINVAL;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    s += 10;
    if (*s == 'T' || *s == ' ') {
        if (!parse_digits(s + 1, 2, 0, 23, &tm.tm_hour) || s[3] != ':' ||
            !parse_digits(s + 4, 2, 0, 59, &tm.tm_min))
            return -EINVAL;
        s += 6;
        if (*s == ':') {
            if (!parse_digits(s + 1, 2, 0, 59, &tm.tm_sec))
                return -EINVAL;
            s = parse_fraction(s + 3, &frac);
            if (!s)
                return -EINVAL;
        }
    } else if (*s) {
        return -EINVAL;
    }
    long long sec = resolve_zone(s, &tm);
    if (sec < 0 || sec > TIME_MAX_S)
        return -EINVAL;
    *ret_ns = (uint64_t)sec * DMT_S + frac;
    return 0;
}

int dmt_time_parse(const char *s, uint64_t now_ns, uint64_t *ret_ns)
{
    uint64_t ns;
    int r;
    if (strcmp(s, "now") == 0) {
        ns = now_ns;
        r = 0;
    } else if (*s == '@') {
        r = parse_epoch_seconds(s + 1, &ns);
    } else {
        r = parse_calendar(s, &ns);
        if (r < 0)
            r = parse_ago(s, now_ns, &ns);
    }
    if (r == 0)
        *ret_ns = ns;
    return r;
}
