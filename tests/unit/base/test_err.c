/* The error idiom: codes, sentences, wrapping, and that a message stays one line within its struct.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "fs/base/err.h"

static void set_hint_and_wrap(void **state)
{
    (void)state;
    struct dmt_err e = {0};
    assert_int_equal(dmt_err_set(&e, -ENOENT, "no file %s", "x"), -ENOENT);
    assert_int_equal(dmt_err_hint(&e, "create %s", "x"), -ENOENT);
    assert_int_equal(dmt_err_wrap(&e, "opening store %d", 7), -ENOENT);
    assert_int_equal(e.code, -ENOENT);
    assert_string_equal(e.msg, "opening store 7: no file x");
    assert_string_equal(e.hint, "create x");
    dmt_err_set(&e, -EIO, "another");
    assert_string_equal(e.hint, "");
}

static void null_struct_keeps_the_code(void **state)
{
    (void)state;
    assert_int_equal(dmt_err_set(NULL, DMT_E_STALE, "x"), DMT_E_STALE);
    assert_int_equal(dmt_err_hint(NULL, "x"), 0);
    assert_int_equal(dmt_err_wrap(NULL, "x"), 0);
}

static void messages_are_one_line_and_bounded(void **state)
{
    (void)state;
    char big[2000];
    struct dmt_err e = {0};
    memset(big, 'a', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    big[5] = '\n';
    dmt_err_set(&e, -EIO, "%s", big);
    assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
    assert_null(strchr(e.msg, '\n'));
    dmt_err_wrap(&e, "%s", "context");
    assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
    assert_memory_equal(e.msg, "context: aaaaa a", 16);
    dmt_err_wrap(&e, "%s", big);
    assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
    dmt_err_hint(&e, "%s", big);
    assert_int_equal(strlen(e.hint), sizeof(e.hint) - 1);
}

static void a_message_may_quote_itself(void **state)
{
    (void)state;
    struct dmt_err e = {0};
    dmt_err_set(&e, -EIO, "inner");
    dmt_err_set(&e, -EIO, "outer of %s", e.msg);
    assert_string_equal(e.msg, "outer of inner");
}

static void every_code_has_a_sentence(void **state)
{
    (void)state;
    assert_string_equal(dmt_strerror(0), "success");
    assert_string_equal(dmt_strerror(-ENOENT), "No such file or directory");
    assert_string_equal(dmt_strerror(ENOENT), "No such file or directory");
    assert_string_equal(dmt_strerror(DMT_E_STALE), "a higher epoch exists");
    assert_string_equal(dmt_strerror(-99999), "unknown error");
}

static void codes_become_errnos_for_the_kernel(void **state)
{
    (void)state;
    assert_int_equal(dmt_err_errno(0), 0);
    assert_int_equal(dmt_err_errno(-ENOSPC), -ENOSPC);
#define X(name, num, text) assert_int_equal(dmt_err_errno(DMT_E_##name), -EIO);
    DMT_ERR_MAP(X)
#undef X
    assert_int_equal(dmt_err_errno(5), -EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_hint_and_wrap),
        cmocka_unit_test(null_struct_keeps_the_code),
        cmocka_unit_test(messages_are_one_line_and_bounded),
        cmocka_unit_test(a_message_may_quote_itself),
        cmocka_unit_test(every_code_has_a_sentence),
        cmocka_unit_test(codes_become_errnos_for_the_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
