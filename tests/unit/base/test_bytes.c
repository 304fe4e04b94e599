/* Buffers and cursors: what is put is got, and no length, however wrong, leads outside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "fs/base/bytes.h"
#include "fs/base/err.h"

static void round_trip(void **state)
{
    (void)state;
    struct dmt_buf b;
    dmt_buf_init(&b);
    dmt_put_u8(&b, 0x12);
    dmt_put_u16(&b, 0x3456);
    dmt_put_u32(&b, 0x789abcde);
    dmt_put_u64(&b, 0x0123456789abcdef);
    dmt_put_raw(&b, "raw", 3);
    dmt_put_bytes(&b, "by\0es", 5);
    dmt_put_str(&b, "string");
    dmt_put_str(&b, "");
    static const uint8_t head[] = {0x12, 0x56, 0x34, 0xde, 0xbc, 0x9a, 0x78, 0xef,
                                   0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 'r',
                                   'a',  'w',  5,    0,    0,    0,    'b'};
    assert_memory_equal(b.p, head, sizeof(head));

    struct dmt_cur c = dmt_cur_of(b.p, b.len);
    char s[7];
    uint32_t n;
    assert_int_equal(dmt_get_u8(&c), 0x12);
    assert_int_equal(dmt_get_u16(&c), 0x3456);
    assert_int_equal(dmt_get_u32(&c), 0x789abcde);
    assert_true(dmt_get_u64(&c) == 0x0123456789abcdef);
    assert_memory_equal(dmt_get_raw(&c, 3), "raw", 3);
    assert_memory_equal(dmt_get_bytes(&c, &n), "by\0es", 5);
    assert_int_equal(n, 5);
    assert_int_equal(dmt_cur_end(&c), DMT_E_CORRUPT); /* not all read */
    dmt_get_str(&c, s, sizeof(s));
    assert_string_equal(s, "string");
    dmt_get_str(&c, s, sizeof(s));
    assert_string_equal(s, "");
    assert_int_equal(dmt_cur_end(&c), 0);
    dmt_buf_free(&b);
    assert_null(b.p);
}

static void reading_past_the_end_is_sticky(void **state)
{
    (void)state;
    uint8_t *p = malloc(3); /* exact size, so that the sanitizer sees a byte too many */
    memcpy(p, "\1\2\3", 3);
    struct dmt_cur c = dmt_cur_of(p, 3);
    assert_int_equal(dmt_get_u32(&c), 0);
    assert_true(c.bad);
    assert_int_equal(dmt_get_u8(&c), 0);
    assert_null(dmt_get_raw(&c, 0));
    assert_int_equal(dmt_cur_end(&c), DMT_E_CORRUPT);
    free(p);
}

static void lengths_that_lie(void **state)
{
    (void)state;
    static const uint32_t lies[] = {5, 0x7fffffff, 0x80000000, 0xfffffffb, 0xffffffff};
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        uint8_t *p = calloc(1, 8);
        dmt_st32(p, lies[i]);
        struct dmt_cur c = dmt_cur_of(p, 8);
        uint32_t n = 9;
        assert_null(dmt_get_bytes(&c, &n));
        assert_int_equal(n, 0);
        assert_true(c.bad);
        c = dmt_cur_of(p, 8);
        assert_null(dmt_get_raw(&c, SIZE_MAX));
        free(p);
    }
}

static void strings_with_limits(void **state)
{
    (void)state;
    struct dmt_buf b;
    dmt_buf_init(&b);
    dmt_put_str(&b, "1234");
    char s[5], small[4] = "zzz";
    struct dmt_cur c = dmt_cur_of(b.p, b.len);
    dmt_get_str(&c, s, sizeof(s));
    assert_string_equal(s, "1234");
    assert_false(c.bad);
    c = dmt_cur_of(b.p, b.len);
    dmt_get_str(&c, small, sizeof(small));
    assert_true(c.bad);
    assert_string_equal(small, "");
    dmt_buf_reset(&b);
    dmt_put_bytes(&b, "a\0b", 3);
    c = dmt_cur_of(b.p, b.len);
    dmt_get_str(&c, s, sizeof(s));
    assert_true(c.bad);
    assert_string_equal(s, "");
    dmt_buf_free(&b);
}

static void growing_and_reserving(void **state)
{
    (void)state;
    struct dmt_buf b;
    dmt_buf_init(&b);
    assert_non_null(dmt_buf_reserve(&b, 0));
    for (uint32_t i = 0; i < 100000; i++)
        dmt_put_u32(&b, i);
    assert_int_equal(b.len, 400000);
    for (uint32_t i = 0; i < 100000; i++)
        assert_int_equal(dmt_le32(b.p + 4 * i), i);
    const uint8_t *p = b.p;
    dmt_buf_reset(&b);
    assert_int_equal(b.len, 0);
    uint8_t *at = dmt_buf_reserve(&b, 10);
    assert_ptr_equal(at, p);
    assert_int_equal(b.len, 10);
    assert_null(dmt_buf_reserve(&b, SIZE_MAX - 5));
    assert_true(b.bad);
    assert_int_equal(b.len, 10);
    dmt_put_u8(&b, 1); /* does nothing */
    assert_int_equal(b.len, 10);
    dmt_buf_free(&b);
    dmt_buf_free(NULL);
}

static void nothing_at_all(void **state)
{
    (void)state;
    struct dmt_cur c = dmt_cur_of(NULL, 0);
    assert_int_equal(dmt_cur_end(&c), 0);
    assert_non_null(dmt_get_raw(&c, 0));
    c = dmt_cur_of(NULL, 1);
    assert_int_equal(dmt_cur_end(&c), DMT_E_CORRUPT);
    struct dmt_buf b;
    dmt_buf_init(&b);
    dmt_put_raw(&b, NULL, 0);
    dmt_put_bytes(&b, NULL, 0);
    assert_int_equal(b.len, 4);
    dmt_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(reading_past_the_end_is_sticky),
        cmocka_unit_test(lengths_that_lie),
        cmocka_unit_test(strings_with_limits),
        cmocka_unit_test(growing_and_reserving),
        cmocka_unit_test(nothing_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
