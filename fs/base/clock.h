/* clock.h: the clock and randomness seams. Real twin: dmt_clock_real(), dmt_random(). Tests put in their own vtable.
 * Any thread. */
#ifndef DMT_BASE_CLOCK_H
#define DMT_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct dmt_clock {
    void *ctx;
    uint64_t (*realtime_ns)(void *ctx);  /* CLOCK_REALTIME */
    uint64_t (*monotonic_ns)(void *ctx); /* CLOCK_BOOTTIME: goes on while the machine sleeps */
};
const struct dmt_clock *dmt_clock_real(void);

#define DMT_MS 1000000ull
#define DMT_S  1000000000ull

/* Cryptographic random bytes from getrandom(2); never fails (aborts if the kernel cannot). */
void dmt_random(void *buf, size_t len);
/* Times of files, as records and stores keep them: ns since 1970 modulo 2^64. The range is ext4's, 1901-12-13 to 2446-05-10; what
 * lies outside becomes the nearest end of it. */
uint64_t dmt_file_time_ns(struct timespec t);
struct timespec dmt_file_time(uint64_t ns);
/* Formats ns since 1970 as RFC 3339 UTC with milliseconds; buf >= 32 bytes. Returns buf. */
char *dmt_time_format(uint64_t realtime_ns, char buf[32]);
/* Parses "2026-11-23T10:00:00[.frac][Z]", "2026-11-23 10:00[:00]" (local zone unless Z), "@SECONDS[.frac]", "10 minutes ago",
 * "now"; 0 or -EINVAL. now_ns: the reference for relative forms. */
int dmt_time_parse(const char *s, uint64_t now_ns, uint64_t *ret_ns);

#endif
