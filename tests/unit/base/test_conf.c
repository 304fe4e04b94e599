/* Configuration text: both written forms, what is refused, sizes and durations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/conf.h"
#include "fs/base/io.h"

static char dir[] = "/var/tmp/test_conf.XXXXXX";
static char path[64];
static struct dmt_err err;

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    (void)snprintf(path, sizeof(path), "%s/w.conf", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static int load(struct dmt_conf *c, const char *text, size_t n)
{
    assert_int_equal(dmt_io_write_file(dmt_io_real(), path, text, n, 0600), 0);
    memset(&err, 0, sizeof(err));
    return dmt_conf_load(c, path, &err);
}
#define LOAD(c, text) load(c, text, sizeof(text) - 1)

static void lines(void **state)
{
    (void)state;
    struct dmt_conf *c = dmt_conf_new();
    assert_int_equal(
        LOAD(c,
             "# comment\n\nstore = /var/x y \n  sync=fsync\r\nempty=\nurl=s3://b?a=1\nsync=local"),
        0);
    assert_int_equal(dmt_conf_count(c), 4);
    assert_string_equal(dmt_conf_get(c, "store"), "/var/x y");
    assert_string_equal(dmt_conf_get(c, "sync"), "local"); /* the later one */
    assert_string_equal(dmt_conf_get(c, "empty"), "");
    assert_string_equal(dmt_conf_get(c, "url"), "s3://b?a=1");
    assert_null(dmt_conf_get(c, "none"));
    assert_string_equal(dmt_conf_key(c, 1), "sync"); /* in its first place */
    assert_string_equal(dmt_conf_value(c, 3), "s3://b?a=1");
    dmt_conf_free(c);
}

static void bad_lines_are_named(void **state)
{
    (void)state;
    struct dmt_conf *c = dmt_conf_new();
    char want[128];
    assert_int_equal(LOAD(c, "a=1\n\nnonsense\n"), DMT_E_CONFIG);
    (void)snprintf(want, sizeof(want), "%s:3: 'nonsense' is not key=value", path);
    assert_string_equal(err.msg, want);
    assert_int_equal(LOAD(c, "=x\n"), DMT_E_CONFIG);
    assert_int_equal(LOAD(c, "a b=x\n"), DMT_E_CONFIG);
    assert_int_equal(LOAD(c, "a=x\0y\n"), DMT_E_CONFIG);
    assert_int_equal(dmt_conf_load(c, "/nonexistent/x.conf", &err), -ENOENT);
    assert_non_null(strstr(err.msg, "/nonexistent/x.conf"));
    assert_int_equal(dmt_conf_load(c, "/nonexistent/x.conf", NULL), -ENOENT);
    dmt_conf_free(c);
}

static void options(void **state)
{
    (void)state;
    struct dmt_conf *c = dmt_conf_new();
    assert_int_equal(
        dmt_conf_options(c, "rw,store=/x,standby=a:1,,archive=\"s3://b/p,q=r\",sync=fsync,nodev,",
                         &err),
        0);
    assert_int_equal(dmt_conf_count(c), 6);
    assert_string_equal(dmt_conf_get(c, "rw"), "");
    assert_string_equal(dmt_conf_get(c, "archive"), "s3://b/p,q=r");
    assert_string_equal(dmt_conf_get(c, "standby"), "a:1");
    assert_string_equal(dmt_conf_get(c, "nodev"), "");
    assert_int_equal(dmt_conf_options(c, "x=\"a\\\"b\\\\\",y=a=b", &err), 0);
    assert_string_equal(dmt_conf_get(c, "x"), "a\"b\\");
    assert_string_equal(dmt_conf_get(c, "y"), "a=b");
    assert_int_equal(dmt_conf_options(c, "", &err), 0);
    assert_int_equal(dmt_conf_options(c, "a=\"unclosed,b=c", &err), DMT_E_CONFIG);
    assert_non_null(strstr(err.msg, "quote"));
    assert_int_equal(dmt_conf_options(c, "=x", &err), DMT_E_CONFIG);
    assert_int_equal(dmt_conf_options(c, "a b=x", &err), DMT_E_CONFIG);
    dmt_conf_free(c);
}

static void set_unset_save(void **state)
{
    (void)state;
    struct dmt_conf *c = dmt_conf_new(), *d = dmt_conf_new();
    char key[16];
    for (int i = 0; i < 40; i++) {
        (void)snprintf(key, sizeof(key), "key%d", i);
        dmt_conf_set(c, key, "v");
    }
    for (int i = 0; i < 40; i += 2) {
        (void)snprintf(key, sizeof(key), "key%d", i);
        dmt_conf_unset(c, key);
    }
    dmt_conf_unset(c, "none");
    assert_int_equal(dmt_conf_count(c), 20);
    dmt_conf_set(c, "key1", "other value");
    dmt_conf_set(c, "key3", dmt_conf_get(c, "key3")); /* its own value */
    assert_int_equal(dmt_conf_save(c, path, &err), 0);
    assert_int_equal(dmt_conf_load(d, path, &err), 0);
    assert_int_equal(dmt_conf_count(d), 20);
    for (size_t i = 0; i < 20; i++) {
        assert_string_equal(dmt_conf_key(c, i), dmt_conf_key(d, i));
        assert_string_equal(dmt_conf_value(c, i), dmt_conf_value(d, i));
    }
    /* what would read back differently is not written */
    static const char *const bad[] = {"a\nb", " a", "a ", "\r"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        dmt_conf_set(c, "key1", bad[i]);
        assert_int_equal(dmt_conf_save(c, path, &err), DMT_E_CONFIG);
    }
    dmt_conf_set(c, "key1", "");
    assert_int_equal(dmt_conf_save(c, "/nonexistent/x", &err), -ENOENT);
    dmt_conf_free(c);
    dmt_conf_free(d);
    dmt_conf_free(NULL);
}

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        uint64_t v;
    } good[] = {
        {"0", 0},
        {"10", 10},
        {"10B", 10},
        {"1K", 1024},
        {"64M", 64ull << 20},
        {"64m", 64ull << 20},
        {"64MB", 64ull << 20},
        {"64MiB", 64ull << 20},
        {"1.5G", 3ull << 29},
        {"2TiB", 2ull << 40},
        {"0.5K", 512},
        {"18446744073709551615", UINT64_MAX},
        {"15.999E", 18445591152204944769ull},
    };
    static const char *const bad[] = {"",
                                      "M",
                                      "-1",
                                      "1.5",
                                      "1.",
                                      ".5K",
                                      "1KK",
                                      "1Ki B",
                                      "1X",
                                      " 1",
                                      "1 ",
                                      "18446744073709551616",
                                      "16E",
                                      "99999999999999999999",
                                      "1.1234567891K"};
    uint64_t v;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(dmt_parse_size(good[i].s, &v), 0);
        if (v != good[i].v)
            fail_msg("'%s' is %llu", good[i].s, (unsigned long long)v);
    }
    v = 7;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (dmt_parse_size(bad[i], &v) != -EINVAL || v != 7)
            fail_msg("'%s' was taken", bad[i]);
}

static void durations(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        uint64_t v;
    } good[] = {{"0", 0},         {"500ms", 500},  {"10s", 10000},   {"1.5s", 1500}, {"2m", 120000},
                {"2min", 120000}, {"1h", 3600000}, {"1d", 86400000}, {"0s", 0}};
    static const char *const bad[] = {"",
                                      "10",
                                      "s",
                                      "-1s",
                                      "1x",
                                      "1 s",
                                      "1sec.",
                                      "99999999999999999999s",
                                      "18446744073709551615s"};
    uint64_t v;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(dmt_parse_duration_ms(good[i].s, &v), 0);
        if (v != good[i].v)
            fail_msg("'%s' is %llu", good[i].s, (unsigned long long)v);
    }
    v = 7;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (dmt_parse_duration_ms(bad[i], &v) != -EINVAL || v != 7)
            fail_msg("'%s' was taken", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines),   cmocka_unit_test(bad_lines_are_named),
        cmocka_unit_test(options), cmocka_unit_test(set_unset_save),
        cmocka_unit_test(sizes),   cmocka_unit_test(durations),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
