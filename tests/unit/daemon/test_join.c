/* Join tokens: the line, and what the controller's database makes of one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/common/token.h"
#include "daemon/controller/db.h"
#include "fs/base/clock.h"

static void a_line_there_and_back(void **state)
{
    (void)state;
    struct token t = {.node = "gpu",
                      .controller = "ctl",
                      .address = "[fd00::1]:7402",
                      .fingerprint = {1, 2, 255},
                      .secret = "0123456789abcdef0123456789abcdef"},
                 u;
    char text[TOKEN_MAX], cut[TOKEN_MAX];
    struct dmt_err err = {0};
    assert_int_equal(token_text(&t, text, &err), 0);
    assert_string_equal(text, "dumont1/gpu/ctl@[fd00::1]:7402/"
                              "0102ff0000000000000000000000000000000000000000000000000000000000/"
                              "0123456789abcdef0123456789abcdef");
    memset(&u, 0, sizeof(u));
    assert_int_equal(token_parse(text, &u, &err), 0);
    assert_string_equal(u.node, t.node);
    assert_string_equal(u.controller, t.controller);
    assert_string_equal(u.address, t.address);
    assert_string_equal(u.secret, t.secret);
    assert_memory_equal(u.fingerprint, t.fingerprint, DMT_FINGERPRINT);
    for (size_t n = 0; n < strlen(text); n++) {
        memcpy(cut, text, n);
        cut[n] = '\0';
        assert_int_equal(token_parse(cut, &u, &err), -EINVAL);
    }
    static const char *const bad[] = {
        "dumont2/gpu/ctl@h:1/00/00",
        "dumont1/../ctl@h:1/"
        "0102ff0000000000000000000000000000000000000000000000000000000000/"
        "0123456789abcdef0123456789abcdef",
        "dumont1/gpu/ctl@h:1/"
        "0102ff000000000000000000000000000000000000000000000000000000000g/"
        "0123456789abcdef0123456789abcdef",
        "dumont1/gpu/ctl@h:1/"
        "0102ff0000000000000000000000000000000000000000000000000000000000/"
        "0123456789abcdef0123456789abcdef0"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(token_parse(bad[i], &u, &err), -EINVAL);
}

static void a_token_is_good_once(void **state)
{
    (void)state;
    char dir[] = "/var/tmp/test_join.XXXXXX", path[64], hash[2 * DMT_FINGERPRINT + 1];
    const struct dmt_clock *c = dmt_clock_real();
    int64_t now = (int64_t)c->realtime_ns(c->ctx);
    struct dmt_err err = {0};
    struct ctl_db *db = NULL;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/db", dir);
    assert_int_equal(ctl_db_open(&db, path, &err), 0);
    token_hash("secret", hash);
    assert_string_equal(hash, "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b");
    assert_int_equal(ctl_db_token_check(db, hash, "gpu", &err), DMT_E_AUTH);
    assert_non_null(strstr(err.msg, "not known"));
    assert_int_equal(ctl_db_token_add(db, hash, "gpu", now + 3600ll * 1000000000, &err), 0);
    assert_int_equal(ctl_db_token_check(db, hash, "cpu", &err), DMT_E_AUTH);
    assert_non_null(strstr(err.msg, "for the node gpu, not for cpu"));
    assert_int_equal(ctl_db_token_check(db, hash, "gpu", &err), 0);
    assert_int_equal(ctl_db_token_use(db, hash, "cpu", "10.0.0.2", &err), DMT_E_AUTH);
    assert_int_equal(ctl_db_token_use(db, hash, "gpu", "10.0.0.1", &err), 0);
    assert_int_equal(ctl_db_token_use(db, hash, "gpu", "10.0.0.1", &err), DMT_E_AUTH);
    assert_non_null(strstr(err.msg, "it was used on"));
    assert_non_null(strstr(err.msg, "from 10.0.0.1"));
    token_hash("late", hash);
    assert_int_equal(ctl_db_token_add(db, hash, "gpu", now - 1, &err), 0);
    assert_int_equal(ctl_db_token_use(db, hash, "gpu", "10.0.0.1", &err), DMT_E_AUTH);
    assert_non_null(strstr(err.msg, "it has expired on"));
    ctl_db_close(db);
    for (size_t i = 0; i < 3; i++) {
        static const char *const more[] = {"", "-wal", "-shm"};
        (void)snprintf(path, sizeof(path), "%s/db%s", dir, more[i]);
        (void)unlink(path);
    }
    (void)rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_line_there_and_back),
                                       cmocka_unit_test(a_token_is_good_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
