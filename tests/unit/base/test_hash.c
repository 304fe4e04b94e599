/* Checksums against published values and against each other; hexadecimal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "fs/base/err.h"
#include "fs/base/hash.h"
#include "fs/base/internal.h"

/* RFC 3720, appendix B.4 */
static void crc32c_published_values(void **state)
{
    (void)state;
    uint8_t b[32];
    assert_int_equal(dmt_crc32c(0, "123456789", 9), 0xe3069283);
    memset(b, 0, sizeof(b));
    assert_int_equal(dmt_crc32c(0, b, 32), 0x8a9136aa);
    memset(b, 0xff, sizeof(b));
    assert_int_equal(dmt_crc32c(0, b, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        b[i] = (uint8_t)i;
    assert_int_equal(dmt_crc32c(0, b, 32), 0x46dd794e);
    assert_int_equal(dmt_crc32c(0, b, 0), 0);
    assert_int_equal(dmt_crc32c(7, NULL, 0), 7);
}

/* All lengths round the borders of the three-stream loop, at odd addresses. */
static void crc32c_forms_agree(void **state)
{
    (void)state;
    size_t size = 20000;
    uint8_t *p = malloc(size);
    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)(i * 131 + i / 251);
    for (size_t n = 0; n < 300; n++)
        assert_int_equal(dmt_crc32c(1, p + n % 9, n), base_crc32c_portable(1, p + n % 9, n));
    for (size_t n = 3060; n < 3090; n++)
        assert_int_equal(dmt_crc32c(2, p + 1, n), base_crc32c_portable(2, p + 1, n));
    for (size_t n = 9200; n < 9230; n++)
        assert_int_equal(dmt_crc32c(3, p + 3, n), base_crc32c_portable(3, p + 3, n));
    assert_int_equal(dmt_crc32c(4, p, size), base_crc32c_portable(4, p, size));
    free(p);
}

static void crc32c_in_pieces(void **state)
{
    (void)state;
    uint8_t p[10000];
    for (size_t i = 0; i < sizeof(p); i++)
        p[i] = (uint8_t)(i ^ (i >> 5));
    uint32_t whole = dmt_crc32c(0, p, sizeof(p));
    for (size_t cut = 0; cut <= sizeof(p); cut += 97)
        assert_int_equal(dmt_crc32c(dmt_crc32c(0, p, cut), p + cut, sizeof(p) - cut), whole);
    p[5000] ^= 1;
    assert_int_not_equal(dmt_crc32c(0, p, sizeof(p)), whole);
}

static void hash64(void **state)
{
    (void)state;
    assert_true(dmt_hash64(0, "", 0) ==
                0x2d06800538d394c2); /* XXH3_64bits of nothing, as specified */
    assert_true(dmt_hash64(1, "abc", 3) != dmt_hash64(2, "abc", 3));
    assert_true(dmt_hash64(1, "abc", 3) == dmt_hash64(1, "abc", 3));
}

static void hexadecimal(void **state)
{
    (void)state;
    char s[9];
    uint8_t b[4] = {0};
    dmt_hex("\x00\x9f\xAb\xff", 4, s);
    assert_string_equal(s, "009fabff");
    assert_int_equal(dmt_unhex("009FaBff", b, 4), 0);
    assert_memory_equal(b, "\x00\x9f\xab\xff", 4);
    static const char *const bad[] = {"",         "009fabf",  "009fabff0",
                                      "009fabfg", "009fab f", "0x9fabff"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(dmt_unhex(bad[i], b, 4), -EINVAL);
    assert_memory_equal(b, "\x00\x9f\xab\xff", 4); /* untouched by what was refused */
    dmt_hex("", 0, s);
    assert_string_equal(s, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc32c_published_values),
        cmocka_unit_test(crc32c_forms_agree),
        cmocka_unit_test(crc32c_in_pieces),
        cmocka_unit_test(hash64),
        cmocka_unit_test(hexadecimal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
