/* test_object.c: the bytes of an archive object (docs/formats-archive.md): the documented vector,
 * every damage refused, and any LZ4 program can read the payload. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <lz4frame.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/archive/object.h"
#include "fs/archive/series.h"
#include "fs/base/hash.h"

static const char payload[] = "Hello, archive.\n";

static struct archive_hdr sample(void)
{
    struct archive_hdr h = {
        .kind = ARCHIVE_JOURNAL,
        .flags = ARCHIVE_OPENS,
        .n = 7,
        .epoch = 0x300000001,
        .first_seq = 101,
        .last_seq = 150,
        .first_time = 1700000000000000001,
        .last_time = 1700000002000000002,
        .chain_before = 0x1111111111111111,
        .chain_after = 0x2222222222222222,
        .parent = 0x200000005,
        .switch_seq = 100,
        .switch_chain = 0x1111111111111111,
        .run_n = 4,
        .base_n = 4,
        .base_parts = 2,
        .prev_n = 88,
        .items = 50,
        .node = "gpu-1",
        .prev_node = "cpu",
    };
    for (int i = 0; i < 16; i++)
        h.lineage[i] = (uint8_t)(0xa0 + i);
    return h;
}

/* The vector of docs/formats-archive.md, byte for byte. */
static const char vector[] =
    "502a4d1840010000444d5441524348310100020002000000a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
    "070000000000000001000000030000006500000000000000960000000000000001002a36fe9c9717"
    "02945fadfe9c97171111111111111111222222222222222205000000020000006400000000000000"
    "11111111111111110400000000000000040000000000000058000000000000001000000000000000"
    "2b000000000000006e3120d1895090b48f1203ffed848d7432000000020000006770752d31000000"
    "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "00000000000000000000000000000000637075000000000000000000000000000000000000000000"
    "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "a80457630efeee4b04224d186c401000000000000000831000008048656c6c6f2c20617263686976"
    "652e0a000000001ddedca3";

static void documented_vector(void **state)
{
    (void)state;
    struct archive_hdr h = sample();
    struct dmt_buf b;
    dmt_buf_init(&b);
    assert_int_equal(archive_object_encode(&h, payload, sizeof(payload) - 1, &b), 0);
    char *hex = malloc(b.len * 2 + 1);
    dmt_hex(b.p, b.len, hex);
    assert_string_equal(hex, vector);
    free(hex);
    dmt_buf_free(&b);
}

static void round_trip(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 100, 65536, 1 << 20, (8 << 20) + 12345};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct archive_hdr h = sample(), g;
        struct dmt_buf b, out;
        uint8_t *p = calloc(1, sizes[i] + 1);
        for (size_t k = 0; k < sizes[i]; k += 7)
            p[k] = (uint8_t)(k * 31);
        dmt_buf_init(&b);
        dmt_buf_init(&out);
        dmt_put_u8(&out, 'x'); /* the payload is appended */
        assert_int_equal(archive_object_encode(&h, p, sizes[i], &b), 0);
        assert_int_equal(archive_hdr_decode(b.p, ARCHIVE_HDR_BYTES, &g), 0);
        assert_memory_equal(&g, &h, sizeof(g));
        assert_int_equal(archive_object_decode(b.p, b.len, &g, &out), 0);
        assert_memory_equal(&g, &h, sizeof(g));
        assert_int_equal(out.len, sizes[i] + 1);
        assert_memory_equal(out.p + 1, p, sizes[i]);
        dmt_buf_free(&out);
        dmt_buf_free(&b);
        free(p);
    }
}

/* What `lz4 -d` does: skip the skippable frame, unpack the next. */
static void plain_lz4_reads_it(void **state)
{
    (void)state;
    struct archive_hdr h = sample();
    struct dmt_buf b;
    LZ4F_dctx *d;
    char out[64] = "";
    size_t at = 0, got = 0;
    dmt_buf_init(&b);
    assert_int_equal(archive_object_encode(&h, payload, sizeof(payload) - 1, &b), 0);
    assert_false(LZ4F_isError(LZ4F_createDecompressionContext(&d, LZ4F_VERSION)));
    while (at < b.len) {
        size_t in = b.len - at, n = sizeof(out) - got;
        size_t r = LZ4F_decompress(d, out + got, &n, b.p + at, &in, NULL);
        assert_false(LZ4F_isError(r));
        at += in;
        got += n;
    }
    LZ4F_freeDecompressionContext(d);
    assert_int_equal(got, sizeof(payload) - 1);
    assert_memory_equal(out, payload, got);
    dmt_buf_free(&b);
}

/* A1: each single flipped bit and each cut is refused; buffers are exact so that the sanitizer sees
 * an overrun. */
static void damage_is_refused(void **state)
{
    (void)state;
    struct archive_hdr h = sample(), g;
    struct dmt_buf b, out;
    dmt_buf_init(&b);
    dmt_buf_init(&out);
    assert_int_equal(archive_object_encode(&h, payload, sizeof(payload) - 1, &b), 0);
    for (size_t bit = 0; bit < b.len * 8; bit++) {
        b.p[bit / 8] ^= (uint8_t)(1 << (bit % 8));
        dmt_buf_reset(&out);
        int r = archive_object_decode(b.p, b.len, &g, &out);
        if (r != DMT_E_CORRUPT && r != DMT_E_VERSION)
            fail_msg("bit %zu: %d", bit, r);
        assert_int_equal(out.len, 0);
        b.p[bit / 8] ^= (uint8_t)(1 << (bit % 8));
    }
    for (size_t n = 0; n < b.len; n++) {
        uint8_t *cut = malloc(n + 1);
        memcpy(cut, b.p, n);
        assert_int_equal(archive_object_decode(cut, n, &g, &out), DMT_E_CORRUPT);
        free(cut);
    }
    dmt_put_u8(&b, 0);
    assert_int_equal(archive_object_decode(b.p, b.len, &g, &out), DMT_E_CORRUPT);
    dmt_buf_free(&out);
    dmt_buf_free(&b);
}

/* A header can be made right and still lie about its sizes: bounded before anything is allocated.
 */
static void lying_sizes(void **state)
{
    (void)state;
    struct archive_hdr h = sample(), g;
    struct dmt_buf b, out;
    dmt_buf_init(&b);
    dmt_buf_init(&out);
    assert_int_equal(archive_object_encode(&h, payload, sizeof(payload) - 1, &b), 0);
    uint8_t *raw_bytes = b.p + 8 + 8 + 8 + 16 + 14 * 8;
    assert_int_equal(dmt_le64(raw_bytes), sizeof(payload) - 1);
    for (int i = 0; i < 3; i++) {
        static const uint64_t lie[] = {UINT64_MAX, 5, 17};
        dmt_st64(raw_bytes, lie[i]);
        dmt_st64(b.p + ARCHIVE_HDR_BYTES - 8, dmt_hash64(0, b.p + 8, ARCHIVE_HDR_BYTES - 16));
        assert_int_equal(archive_object_decode(b.p, b.len, &g, &out), DMT_E_CORRUPT);
    }
    dmt_buf_free(&out);
    dmt_buf_free(&b);
}

static void bulk_items(void **state)
{
    (void)state;
    struct dmt_buf b;
    struct archive_bulk i;
    dmt_buf_init(&b);
    archive_bulk_put(&b, 5, 100, 9, "abc", 3);
    archive_bulk_put(&b, 6, 0, 10, "d", 1);
    assert_int_equal(b.len, 2 * ARCHIVE_BULK_HDR + 4);
    struct dmt_cur c = dmt_cur_of(b.p, b.len);
    assert_int_equal(archive_bulk_next(&c, &i), 1);
    assert_true(i.ino == 5 && i.off == 100 && i.seq == 9 && i.len == 3 &&
                !memcmp(i.bytes, "abc", 3));
    assert_int_equal(archive_bulk_next(&c, &i), 1);
    assert_int_equal(archive_bulk_next(&c, &i), 0);
    for (size_t n = 1; n < b.len; n++) {
        if (n == ARCHIVE_BULK_HDR + 3)
            continue;
        int r = 1;
        for (c = dmt_cur_of(b.p, n); r == 1;)
            r = archive_bulk_next(&c, &i);
        assert_int_equal(r, DMT_E_CORRUPT);
    }
    dmt_buf_free(&b);
}

static void names_and_keys(void **state)
{
    (void)state;
    char key[SERIES_KEY_MAX];
    struct archive_hdr h = sample();
    series_key(key, h.lineage, "gpu-1", 7);
    assert_string_equal(key, "log/a0a1a2a3a4a5a6a7a8a9aaabacadaeaf/gpu-1/000000000007.lz4");
    series_node_key(key, 12);
    assert_string_equal(key, "node/12");
    assert_true(series_name_ok("gpu-1.example_x"));
    assert_false(series_name_ok(""));
    assert_false(series_name_ok(".."));
    assert_false(series_name_ok("a/b"));
    char longest[66];
    memset(longest, 'a', 65);
    longest[65] = 0;
    assert_false(series_name_ok(longest));
    longest[64] = 0;
    assert_true(series_name_ok(longest));
    /* A name of full length fills its field and comes back whole. */
    struct dmt_buf b;
    struct archive_hdr g;
    dmt_buf_init(&b);
    memcpy(h.node, longest, 65);
    assert_int_equal(archive_object_encode(&h, "", 0, &b), 0);
    assert_int_equal(archive_hdr_decode(b.p, b.len, &g), 0);
    assert_string_equal(g.node, longest);
    dmt_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documented_vector),  cmocka_unit_test(round_trip),
        cmocka_unit_test(plain_lz4_reads_it), cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(lying_sizes),        cmocka_unit_test(bulk_items),
        cmocka_unit_test(names_and_keys),
    };
    return cmocka_run_group_tests_name("archive: objects", tests, NULL, NULL);
}
