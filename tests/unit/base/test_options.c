/* test_options.c: the option table: what is accepted where, what is refused with which sentence,
 * and that what is joined reads back the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "fs/base/options.h"

static struct dmt_conf *parsed(const char *list)
{
    struct dmt_conf *c = dmt_conf_new();
    assert_int_equal(dmt_conf_options(c, list, NULL), 0);
    return c;
}

/* Cleans a mount list; returns the joined result, or the error's message. Caller frees. */
static char *cleaned(const char *list, bool sloppy)
{
    struct dmt_conf *c = parsed(list);
    struct dmt_err err = {0};
    int rc = dmt_options_clean(c, DMT_OPT_IN_MOUNT, sloppy, &err);
    char *s = rc == 0 ? dmt_options_join(c) : strdup(err.msg);
    assert_non_null(s);
    if (rc != 0) {
        assert_int_equal(rc, DMT_E_CONFIG);
        assert_int_equal(err.code, DMT_E_CONFIG);
    }
    dmt_conf_free(c);
    return s;
}

static void expect(const char *list, const char *want)
{
    char *got = cleaned(list, false);
    assert_string_equal(got, want);
    free(got);
}

static void fstab_words_are_dropped(void **state)
{
    (void)state;
    expect("rw,nofail,_netdev,noauto,x-systemd.mount-timeout=60s,X-mount.mkdir,defaults,comment=a,"
           "user,owner",
           "rw");
    expect("allow_other,default_permissions,suid,dev,noatime", "suid,dev");
}

static void of_opposites_the_later_stays(void **state)
{
    (void)state;
    expect("ro,rw", "rw");
    expect("rw,nosuid,ro,suid", "ro,suid");
}

static void values_are_checked(void **state)
{
    (void)state;
    expect("sync=fsync,lag_max=64M,solo_after=10s,mount_timeout=60",
           "sync=fsync,lag_max=64M,solo_after=10s,mount_timeout=60");
    expect("sync=fast", "option sync: 'fast' is not local|fsync|write");
    expect("sync", "option sync needs a value: local|fsync|write");
    expect("lag_max=-1", "option lag_max: '-1' is not a size like 500M or 2T");
    expect("solo_after=soon", "option solo_after: 'soon' is not a time like 10s or 2m");
    expect("store=rel/dir", "option store: 'rel/dir' is not an absolute path");
    expect("standby=cpu", "option standby: 'cpu' is not HOST:PORT");
    expect("standby=cpu:0", "option standby: 'cpu:0' is not HOST:PORT");
    expect("standby=cpu:65536", "option standby: 'cpu:65536' is not HOST:PORT");
    expect("standby=,listen=[::1]:7410", "standby=,listen=[::1]:7410");
    expect("foreground=maybe", "option foreground: 'maybe' is not yes or no");
    expect("foreground=no,nonempty=yes", "nonempty");
}

static void urls_are_checked(void **state)
{
    (void)state;
    expect("archive=file:///srv/a", "archive=file:///srv/a");
    expect("archive=s3://b/p?endpoint=h&region=r", "archive=s3://b/p?endpoint=h&region=r");
    expect("arbiter=bucket", "arbiter=bucket");
    expect("arbiter=controller://ctl:7402", "arbiter=controller://ctl:7402");
    char *got = cleaned("archive=file://rel", false);
    assert_non_null(strstr(got, "option archive"));
    free(got);
    got = cleaned("archive=ftp://x/y", false);
    assert_non_null(strstr(got, "'ftp://x/y'"));
    free(got);
    got = cleaned("arbiter=controller://ctl", false);
    assert_non_null(strstr(got, "option arbiter"));
    free(got);
    got = cleaned("arbiter=bucket://x", false);
    assert_non_null(strstr(got, "option arbiter"));
    free(got);
    got = cleaned("archive=s3:///x", false);
    assert_non_null(strstr(got, "option archive"));
    free(got);
}

static void unknown_options_are_refused_with_a_guess(void **state)
{
    struct dmt_conf *c = parsed("sinc=fsync");
    struct dmt_err err = {0};
    (void)state;
    assert_int_equal(dmt_options_clean(c, DMT_OPT_IN_MOUNT, false, &err), DMT_E_CONFIG);
    assert_string_equal(err.msg, "unknown option 'sinc'");
    assert_non_null(strstr(err.hint, "did you mean 'sync'"));
    assert_string_equal(dmt_conf_get(c, "sinc"), "fsync"); /* a failed clean changes nothing */
    assert_int_equal(dmt_options_clean(c, DMT_OPT_IN_MOUNT, true, &err), 0);
    assert_int_equal(dmt_conf_count(c), 0);
    dmt_conf_free(c);
    expect("no-such-thing-at-all", "unknown option 'no-such-thing-at-all'");
}

static void each_option_has_its_places(void **state)
{
    struct dmt_err err = {0};
    (void)state;
    assert_int_equal(dmt_option_check("role", "standby", DMT_OPT_IN_CONF, &err), 0);
    assert_int_equal(dmt_option_check("role", "standby", DMT_OPT_IN_MOUNT, &err), DMT_E_CONFIG);
    assert_int_equal(dmt_option_check("create", "", DMT_OPT_IN_MOUNT, &err), 0);
    assert_int_equal(dmt_option_check("create", "", DMT_OPT_IN_CONF, &err), DMT_E_CONFIG);
    assert_int_equal(dmt_option_check("owner", "", DMT_OPT_IN_MOUNT, &err), 0);
    assert_int_equal(dmt_option_check("owner", "ana:users", DMT_OPT_IN_MOUNT, &err), 0);
    /* Every entry is found by its own name, and has a help line unless it is dropped. */
    for (const struct dmt_option *o = dmt_option_table(); o->key; o++) {
        assert_ptr_equal(dmt_option_find(o->key), o);
        assert_true(o->kind == DMT_OPT_DROP || o->help);
        assert_true(o->where & DMT_OPT_IN_BOTH);
    }
}

static int consistent(const char *list, char *msg, size_t size)
{
    struct dmt_conf *c = parsed(list);
    struct dmt_err err = {0};
    int rc = dmt_options_consistent(c, &err);
    strncpy(msg, err.msg, size - 1);
    dmt_conf_free(c);
    return rc;
}

static void the_whole_is_checked(void **state)
{
    char m[600] = "";
    (void)state;
    assert_int_equal(consistent("", m, sizeof(m)), 0);
    assert_int_equal(consistent("sync=local", m, sizeof(m)), 0);
    assert_int_equal(consistent("standby=", m, sizeof(m)), DMT_E_CONFIG);
    assert_string_equal(m, "a standby needs an arbiter that says who may write");
    assert_int_equal(consistent("listen=0.0.0.0:7410", m, sizeof(m)), DMT_E_CONFIG);
    assert_int_equal(consistent("standby=a:1,arbiter=controller://c:2,sync=write", m, sizeof(m)),
                     0);
    assert_int_equal(consistent("sync=write", m, sizeof(m)), DMT_E_CONFIG);
    assert_int_equal(consistent("standby=a:1,arbiter=bucket", m, sizeof(m)), DMT_E_CONFIG);
    assert_int_equal(consistent("standby=a:1,arbiter=bucket,archive=file:///x", m, sizeof(m)),
                     0);
    assert_int_equal(consistent("standby=a:1,arbiter=bucket,archive=s3://b/p", m, sizeof(m)), 0);
    assert_int_equal(consistent("standby-view", m, sizeof(m)), DMT_E_CONFIG);
    assert_int_equal(consistent("standby-view,ro", m, sizeof(m)), 0);
}

static void merge_lets_the_mount_line_win(void **state)
{
    struct dmt_conf *c = parsed("ro,lag_max=1M,quota=2G"), *over = parsed("rw,lag_max=2M");
    (void)state;
    dmt_options_merge(c, over);
    assert_null(dmt_conf_get(c, "ro"));
    assert_non_null(dmt_conf_get(c, "rw"));
    assert_string_equal(dmt_conf_get(c, "lag_max"), "2M");
    assert_string_equal(dmt_conf_get(c, "quota"), "2G");
    dmt_conf_free(c);
    dmt_conf_free(over);
}

static void join_reads_back(void **state)
{
    static const char *const values[] = {"/a b", "/a,b", "/a\"b", "/a\\b,\"", "/a=b"};
    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct dmt_conf *c = dmt_conf_new(), *back;
        dmt_conf_set(c, "store", values[i]);
        dmt_conf_set(c, "ro", "");
        char *s = dmt_options_join(c);
        back = parsed(s);
        assert_int_equal(dmt_conf_count(back), 2);
        assert_string_equal(dmt_conf_get(back, "store"), values[i]);
        assert_string_equal(dmt_conf_get(back, "ro"), "");
        free(s);
        dmt_conf_free(c);
        dmt_conf_free(back);
    }
}

static void names_of_workspaces(void **state)
{
    static const char *const good[] = {"a", "train-42", "A.b_c-9", "0"};
    static const char *const bad[] = {"", ".a", "-a", "a/b", "a b", "..", "\xc3\xa4"};
    char longest[66];
    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(dmt_workspace_name_check(good[i], NULL), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(dmt_workspace_name_check(bad[i], NULL), DMT_E_CONFIG);
    memset(longest, 'a', 65);
    longest[65] = '\0';
    assert_int_equal(dmt_workspace_name_check(longest, NULL), DMT_E_CONFIG);
    longest[64] = '\0';
    assert_int_equal(dmt_workspace_name_check(longest, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fstab_words_are_dropped),
        cmocka_unit_test(of_opposites_the_later_stays),
        cmocka_unit_test(values_are_checked),
        cmocka_unit_test(urls_are_checked),
        cmocka_unit_test(unknown_options_are_refused_with_a_guess),
        cmocka_unit_test(each_option_has_its_places),
        cmocka_unit_test(the_whole_is_checked),
        cmocka_unit_test(merge_lets_the_mount_line_win),
        cmocka_unit_test(join_reads_back),
        cmocka_unit_test(names_of_workspaces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
