/* Clock, randomness, and times as people write them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fs/base/clock.h"
#include "fs/base/err.h"

#define NOW (1790000000ull * DMT_S + 250 * DMT_MS)

static uint64_t parsed(const char *s)
{
    uint64_t ns = 77;
    assert_int_equal(dmt_time_parse(s, NOW, &ns), 0);
    return ns;
}

static void real_clock(void **state)
{
    (void)state;
    const struct dmt_clock *c = dmt_clock_real();
    uint64_t a = c->monotonic_ns(c->ctx), b = c->monotonic_ns(c->ctx), r = c->realtime_ns(c->ctx);
    assert_true(b >= a);
    assert_true(r / DMT_S - (uint64_t)time(NULL) + 1 <= 2);
}

static void random_bytes(void **state)
{
    (void)state;
    uint8_t a[1000] = {0}, b[1000] = {0}, zero[100] = {0};
    dmt_random(a, sizeof(a));
    dmt_random(b, sizeof(b) - 1);
    assert_memory_not_equal(a, b, sizeof(a) - 1);
    assert_memory_not_equal(a + 900, zero, 100);
    assert_int_equal(b[999], 0);
}

static void format(void **state)
{
    (void)state;
    char buf[32];
    assert_string_equal(dmt_time_format(0, buf), "1970-01-01T00:00:00.000Z");
    assert_string_equal(dmt_time_format(1795473751ull * DMT_S + 986999999, buf),
                        "2026-11-23T22:42:31.986Z");
    assert_ptr_equal(dmt_time_format(UINT64_MAX, buf), buf);
    assert_true(strlen(buf) < sizeof(buf));
}

static void file_times_cover_ext4s_range(void **state)
{
    (void)state;
    const struct timespec t[] = {
        {-2147483648ll, 1}, {-1, 999999999}, {0, 0}, {1795473751, 5}, {15032385535ll, 999999999}};
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct timespec back = dmt_file_time(dmt_file_time_ns(t[i]));
        assert_true(back.tv_sec == t[i].tv_sec && back.tv_nsec == t[i].tv_nsec);
    }
    assert_true(dmt_file_time_ns(t[3]) == 1795473751ull * DMT_S + 5); /* after 1970 as any time */
    assert_true(dmt_file_time(dmt_file_time_ns((struct timespec){-(1ll << 40), 7})).tv_sec ==
                -2147483648ll);
    assert_true(dmt_file_time(dmt_file_time_ns((struct timespec){1ll << 40, 7})).tv_sec ==
                15032385535ll);
}

static void parse_absolute(void **state)
{
    (void)state;
    const uint64_t t = 1795473720ull * DMT_S; /* 2026-11-23T22:42:00Z */
    assert_true(parsed("2026-11-23T22:42:00Z") == t);
    assert_true(parsed("2026-11-23 22:42Z") == t);
    assert_true(parsed("2026-11-23T22:42:00.5Z") == t + DMT_S / 2);
    assert_true(parsed("2026-11-23T22:42:00.123456789123Z") == t + 123456789);
    assert_true(parsed("2026-11-24T00:42:00+02:00") == t);
    assert_true(parsed("2026-11-23T17:12:00-0530") == t);
    assert_true(parsed("2024-02-29T00:00:00Z") == 1709164800ull * DMT_S);
    assert_true(parsed("2554-07-21T23:34:32.999Z") == 18446744072ull * DMT_S + 999 * DMT_MS);
    assert_true(parsed("@1795473720") == t);
    assert_true(parsed("@1795473720.25") == t + DMT_S / 4);
    /* without a zone: the local one */
    assert_int_equal(setenv("TZ", "XYZ-3", 1), 0); /* three hours east */
    tzset();
    assert_true(parsed("2026-11-24 01:42:00") == t);
    assert_true(parsed("2026-11-24T01:42") == t);
    assert_true(parsed("2026-11-24") == t - (3600 + 42 * 60) * DMT_S);
    assert_int_equal(unsetenv("TZ"), 0);
    tzset();
}

static void parse_relative(void **state)
{
    (void)state;
    assert_true(parsed("now") == NOW);
    assert_true(parsed("10 minutes ago") == NOW - 600 * DMT_S);
    assert_true(parsed("1 minute ago") == NOW - 60 * DMT_S);
    assert_true(parsed("90s ago") == NOW - 90 * DMT_S);
    assert_true(parsed("2 hours ago") == NOW - 7200 * DMT_S);
    assert_true(parsed("3 days ago") == NOW - 3 * 86400 * DMT_S);
    assert_true(parsed("1 week ago") == NOW - 604800 * DMT_S);
}

static void refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "yesterday",
        "10 minutes",
        "minutes ago",
        "-5 minutes ago",
        "5 parsecs ago",
        "5 minutes ago x",
        "2026-02-30T00:00:00Z",
        "2023-02-29T00:00Z",
        "2026-13-01T00:00Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T10:60:00Z",
        "2026-11-23T10:00:00.Z",
        "2026-11-23T10:00:00z",
        "2026-11-23T10",
        "2026-11-23T10:00:00Zx",
        "2026-11-2",
        "1969-12-31T23:59:59Z",
        "2026-11-23T10:00:00+",
        "2026-11-23T10:00:00+1",
        "2026-11-23T10:00:00+15:00",
        "@",
        "@x",
        "@-1",
        "@99999999999999999999",
        "@18446744073", /* nanoseconds since 1970 end in its midst */
        "2554-07-21T23:34:33Z",
        "9999-12-31T23:59:59Z",
        "@1.",
        "now ",
        "999999999 weeks ago",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint64_t ns = 77;
        if (dmt_time_parse(bad[i], NOW, &ns) != -EINVAL || ns != 77)
            fail_msg("'%s' was taken as %llu", bad[i], (unsigned long long)ns);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_clock),     cmocka_unit_test(random_bytes),
        cmocka_unit_test(format),         cmocka_unit_test(file_times_cover_ext4s_range),
        cmocka_unit_test(parse_absolute), cmocka_unit_test(parse_relative),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
