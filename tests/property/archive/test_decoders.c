/* test_decoders.c: whatever bytes an object store hands us, the decoders of fs/archive end, stay
 * inside their input and say what is wrong. Valid inputs are damaged at random, from a fixed seed;
 * headers get their hash mended half of the time, so that the fields behind it are reached. Run
 * under the sanitizers this is the fuzz test of these formats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/archive/object.h"
#include "fs/archive/objstore_int.h"
#include "fs/archive/s3_xml.h"
#include "fs/archive/series.h"
#include "fs/base/hash.h"

#define ROUNDS 30000

static uint64_t g_x = 0x853c49e6748fea9bull;

static uint64_t rnd(uint64_t n)
{
    g_x ^= g_x << 13;
    g_x ^= g_x >> 7;
    g_x ^= g_x << 17;
    return g_x % n;
}

/* A damaged copy in a buffer of exactly its size. */
static uint8_t *damaged(const void *p, size_t n, size_t *ret_n)
{
    size_t m = rnd(4) ? n : rnd(n + 1);
    uint8_t *d = malloc(m ? m : 1);
    assert_non_null(d);
    memcpy(d, p, m);
    for (uint64_t i = rnd(4); m && i > 0; i--) {
        size_t at = rnd(m), len = rnd(8) + 1;
        if (at + len > m)
            len = m - at;
        switch (rnd(3)) {
        case 0:
            d[at] ^= (uint8_t)(1u << rnd(8));
            break;
        case 1:
            memset(d + at, rnd(2) ? 0xff : 0, len);
            break;
        default:
            memmove(d + rnd(m - len + 1), d + at, len);
        }
    }
    *ret_n = m;
    return d;
}

static void objects(void **state)
{
    (void)state;
    struct dmt_buf b, out, bulk;
    struct archive_hdr h = {
        .kind = ARCHIVE_BULK, .n = 3, .node = "n", .first_seq = 1, .last_seq = 9};
    dmt_buf_init(&b);
    dmt_buf_init(&out);
    dmt_buf_init(&bulk);
    for (uint64_t i = 0; i < 20; i++)
        archive_bulk_put(&bulk, i, i * 100, i, "some bytes of a file, some bytes", 32);
    assert_int_equal(archive_object_encode(&h, bulk.p, bulk.len, &b), 0);
    for (int i = 0; i < ROUNDS; i++) {
        struct archive_hdr g;
        struct archive_bulk item;
        size_t n;
        uint8_t *d = damaged(b.p, b.len, &n);
        if (n >= ARCHIVE_HDR_BYTES && rnd(2)) {
            if (n > ARCHIVE_HDR_BYTES && rnd(2)) {
                dmt_st64(d + 160, n - ARCHIVE_HDR_BYTES);
                dmt_st64(d + 176, dmt_hash64(0, d + ARCHIVE_HDR_BYTES, n - ARCHIVE_HDR_BYTES));
            }
            dmt_st64(d + ARCHIVE_HDR_BYTES - 8, dmt_hash64(0, d + 8, ARCHIVE_HDR_BYTES - 16));
        }
        dmt_buf_reset(&out);
        int r = archive_object_decode(d, n, &g, &out);
        assert_true(r == 0 || r == DMT_E_CORRUPT || r == DMT_E_VERSION);
        assert_true(r == 0 || out.len == 0);
        if (!r)
            assert_true(strlen(g.node) <= DMT_NODE_NAME_MAX);
        free(d);
        /* The payload has no hash of its own once it is unpacked: its items are checked by bounds
         * alone. */
        d = damaged(bulk.p, bulk.len, &n);
        struct dmt_cur c = dmt_cur_of(d, n);
        uint64_t sum = 0;
        while ((r = archive_bulk_next(&c, &item)) == 1)
            for (uint32_t k = 0; k < item.len; k++)
                sum += item.bytes[k];
        assert_true(r == 0 || r == DMT_E_CORRUPT || sum);
        free(d);
    }
    dmt_buf_free(&bulk);
    dmt_buf_free(&out);
    dmt_buf_free(&b);
}

static int on_key(void *ctx, const char *key, uint64_t size)
{
    *(uint64_t *)ctx += strlen(key) + size;
    return 0;
}

static void xml(void **state)
{
    (void)state;
    static const char list[] =
        "<ListBucketResult><Contents><Key>log/0a%2Fb&amp;c&#x41;</Key><Size>12</Size></Contents>"
        "<Contents><Key>k%</Key><Size>18446744073709551615</Size></Contents>"
        "<NextContinuationToken>abc==</NextContinuationToken></ListBucketResult>";
    static const char err[] = "<Error><Code>NoSuchKey</Code><Message>m&lt;&#9;</Message></Error>";
    for (int i = 0; i < ROUNDS; i++) {
        char code[64], msg[256], token[2048];
        uint64_t sum = 0;
        size_t n;
        uint8_t *d = damaged(list, sizeof(list) - 1, &n);
        int r = s3_xml_list(d, n, on_key, &sum, token);
        assert_true(r == 0 || r == DMT_E_CORRUPT);
        free(d);
        d = damaged(err, sizeof(err) - 1, &n);
        s3_xml_error(d, n, code, msg);
        assert_true(strlen(code) < 64 && strlen(msg) < 256);
        free(d);
    }
}

static void urls(void **state)
{
    (void)state;
    static const char url[] =
        "s3://bucket/pre/fix?endpoint=s3.eu-1.backblazeb2.com:443&region=r&tls=off&ca=/x";
    for (int i = 0; i < ROUNDS; i++) {
        struct objstore_url u;
        size_t n;
        uint8_t *d = damaged(url, sizeof(url) - 1, &n);
        char *s = calloc(1, n + 1);
        memcpy(s, d, n);
        int r = objstore_url_parse(s, &u, NULL);
        assert_true(r == 0 || r == DMT_E_CONFIG);
        free(s);
        free(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(objects), cmocka_unit_test(xml),
                                       cmocka_unit_test(urls)};
    return cmocka_run_group_tests_name("archive: decoders", tests, NULL, NULL);
}
