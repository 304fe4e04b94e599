/* test_record.c: frames, PADs, segment headers and the ring as bytes, against the vectors of
 * docs/formats-journal.md. */
#include "tests/unit/journal/util.h"

#include "fs/base/bytes.h"
#include "fs/base/hash.h"

/* docs/formats-journal.md, 7; computed there by an independent program. */
static const char *const vector_1 =
    "40000000316fe6340100000001000000010000000000000000002a36fe9c9717"
    "072cdabcc4f812242a00000000000000070000000300030068656c6c6f000000";
static const char *const vector_2 =
    "38000000473d0f1b0100000001000000020000000000000001002a36fe9c9717"
    "f7322f21446ffea900000000000000000000000009000000";
static const char *const vector_pad =
    "50000000e5b25f6d010000000100000000000000000000000000000000000000"
    "f7322f21446ffea9000000000000000000000000000000001f00000000000000"
    "01000000000000000200000000000000";
static const char *const vector_hdr =
    "444d544a534547310100000001000000000102030405060708090a0b0c0d0e0f"
    "1f0000000000000003000000000000000100000001000000f7322f21446ffea9"
    "010000000000000000002a36fe9c97170000000400000000";
#define CHAIN_1 0x2412f8c4bcda2c07u
#define CHAIN_2 0xa9fe6f44212f32f7u
#define T0      1700000000000000000u

static const struct dmt_rec rec_1 = {.epoch = EPOCH(1, 1),
                                     .seq = 1,
                                     .time_ns = T0,
                                     .unique = 42,
                                     .instance = 7,
                                     .type = 3,
                                     .body_len = 5};
static const struct dmt_rec rec_2 = {.epoch = EPOCH(1, 1), .seq = 2, .time_ns = T0 + 1, .type = 9};

static void assert_hex(const void *p, size_t n, const char *hex)
{
    char buf[1024];
    assert_int_equal(strlen(hex), 2 * n);
    dmt_hex(p, n, buf);
    assert_string_equal(buf, hex);
}

static void vectors_of_records(void **state)
{
    (void)state;
    uint8_t p[64] = {0};
    memcpy(p + DMT_REC_HDR, "hello", 5);
    assert_int_equal(journal_frame_seal(p, &rec_1, 0, 0), CHAIN_1);
    assert_hex(p, 64, vector_1);
    assert_int_equal(dmt_rec_chain(0, p, 64), CHAIN_1);
    uint8_t q[56];
    assert_int_equal(journal_frame_seal(q, &rec_2, CHAIN_1, 0), CHAIN_2);
    assert_hex(q, 56, vector_2);
    assert_int_equal(journal_salt(0x1f), 0x28b7bc6f);
    journal_frame_resalt(q, 0, journal_salt(0x1f));
    assert_hex(q + 4, 4, "2881b833");
}

static void vectors_decode(void **state)
{
    (void)state;
    uint8_t p[80];
    struct dmt_rec r;
    size_t used;
    assert_int_equal(dmt_unhex(vector_1, p, 64), 0);
    assert_int_equal(dmt_rec_decode(p, 64, &r, &used), 0);
    assert_int_equal(used, 64);
    assert_int_equal(r.epoch, EPOCH(1, 1));
    assert_int_equal(r.seq, 1);
    assert_int_equal(r.time_ns, T0);
    assert_int_equal(r.chain, CHAIN_1);
    assert_int_equal(r.unique, 42);
    assert_int_equal(r.instance, 7);
    assert_int_equal(r.type, 3);
    assert_int_equal(r.flags, 0);
    assert_int_equal(r.body_len, 5);
    assert_memory_equal(r.body, "hello", 5);
    struct journal_pad pad;
    assert_int_equal(dmt_unhex(vector_pad, p, 80), 0);
    assert_int_equal(journal_frame_decode(p, 80, journal_salt(0x1f), &r, &used), 0);
    assert_true(journal_pad_get(&r, &pad));
    assert_int_equal(pad.serial, 0x1f);
    assert_int_equal(pad.durable_seq, 1);
    assert_int_equal(pad.last_seq, 2);
    uint8_t made[80];
    struct dmt_pos at = {EPOCH(1, 1), 2, CHAIN_2};
    journal_pad_put(made, 80, &pad, &at);
    assert_memory_equal(made, p, 80);
}

static void vector_of_header(void **state)
{
    (void)state;
    uint8_t p[JOURNAL_SEG_HDR];
    struct journal_seg_hdr h = {.flags = JOURNAL_SEG_RESET,
                                .serial = 0x1f,
                                .prev = {EPOCH(1, 1), 2, CHAIN_2},
                                .durable_seq = 1,
                                .created_ns = T0,
                                .bytes = 64u << 20};
    for (unsigned i = 0; i < 16; i++)
        h.lineage[i] = (uint8_t)i;
    journal_hdr_put(p, &h);
    assert_hex(p, 88, vector_hdr);
    assert_hex(p + 4092, 4, "9660bb53");
    struct journal_seg_hdr back;
    assert_int_equal(journal_hdr_get(p, sizeof(p), 0x1f, &back), 0);
    assert_memory_equal(&back, &h, sizeof(h));
    assert_int_equal(journal_hdr_get(p, sizeof(p), 0x20, &back), DMT_E_CORRUPT);
    assert_int_equal(journal_hdr_get(p, sizeof(p) - 1, 0x1f, &back), DMT_E_CORRUPT);
    for (size_t bit = 0; bit < 8 * 128; bit++) {
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(journal_hdr_get(p, sizeof(p), 0x1f, &back), DMT_E_CORRUPT);
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    dmt_st32(p + 8, 2);
    dmt_st32(p + 4092, dmt_crc32c(0, p, 4092));
    assert_int_equal(journal_hdr_get(p, sizeof(p), 0x1f, &back), DMT_E_VERSION);
}

static void body_lengths_are_exact(void **state)
{
    (void)state;
    uint8_t p[128], body[64];
    memset(body, 0,
           sizeof(body)); /* zeros: the padding must not be taken for body or the reverse */
    for (uint32_t n = 0; n <= 64; n++) {
        struct dmt_rec r = rec_2, back;
        size_t used;
        r.body_len = n;
        memcpy(p + DMT_REC_HDR, body, n);
        journal_frame_seal(p, &r, 1, 0);
        assert_int_equal(journal_frame_size(n) % 8, 0);
        assert_int_equal(dmt_rec_decode(p, sizeof(p), &back, &used), 0);
        assert_int_equal(back.body_len, n);
        assert_int_equal(used, journal_frame_size(n));
    }
}

static void every_bit_counts(void **state)
{
    (void)state;
    uint8_t p[64];
    struct dmt_rec r;
    size_t used;
    assert_int_equal(dmt_unhex(vector_1, p, 64), 0);
    for (size_t bit = 0; bit < 8 * 64; bit++) {
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(dmt_rec_decode(p, 64, &r, &used), DMT_E_CORRUPT);
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t n = 0; n < 64; n++)
        assert_int_equal(dmt_rec_decode(p, n, &r, &used), DMT_E_CORRUPT);
}

/* Fields that no writer produces are refused even with a right checksum. */
static void impossible_fields_are_refused(void **state)
{
    (void)state;
    uint8_t p[64];
    struct dmt_rec r;
    size_t used;
    struct {
        size_t at;
        uint16_t value;
    } bad[] = {{54, 8 | 3}, {54, 0x8003}, {54, 7}, {52, 0}, {16, 0}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(dmt_unhex(vector_1, p, 64), 0);
        dmt_st16(p + bad[i].at, bad[i].value);
        journal_frame_reseal(p, 64, 0);
        assert_int_equal(dmt_rec_decode(p, 64, &r, &used), DMT_E_CORRUPT);
    }
    assert_int_equal(dmt_unhex(vector_1, p, 64), 0);
    journal_frame_reseal(p, 64, 0);
    assert_int_equal(dmt_rec_decode(p, 64, &r, &used), 0);
}

static void chain_covers_all_but_len_crc_chain(void **state)
{
    (void)state;
    uint8_t p[64];
    assert_int_equal(dmt_unhex(vector_1, p, 64), 0);
    for (size_t i = 0; i < 64; i++) {
        bool covered = i >= 8 && !(i >= 32 && i < 40);
        p[i] ^= 1;
        assert_int_equal(dmt_rec_chain(0, p, 64) != CHAIN_1, covered);
        p[i] ^= 1;
    }
    assert_int_not_equal(dmt_rec_chain(1, p, 64), CHAIN_1);
    assert_int_not_equal(dmt_rec_chain(0, p, 56), CHAIN_1);
}

/* A frame of one life never passes in another. */
static void salt_tells_lives_apart(void **state)
{
    (void)state;
    uint8_t p[64];
    struct dmt_rec r;
    size_t used;
    assert_int_equal(dmt_unhex(vector_1, p, 64), 0);
    journal_frame_resalt(p, 0, journal_salt(1000));
    for (uint64_t serial = 1; serial < 5000; serial++)
        assert_int_equal(journal_frame_decode(p, 64, journal_salt(serial), &r, &used) == 0,
                         serial == 1000);
    journal_frame_reseal(p, 64, journal_salt(77));
    assert_int_equal(journal_frame_decode(p, 64, journal_salt(77), &r, &used), 0);
}

static void pads_end_at_blocks(void **state)
{
    (void)state;
    uint8_t p[JOURNAL_PAD_MAX];
    struct dmt_pos at = {1, 9, 5};
    for (uint64_t off = 4096; off <= 8192; off += 8) {
        size_t n = journal_pad_size(off);
        assert_true(n >= JOURNAL_PAD_MIN && n <= JOURNAL_PAD_MAX);
        assert_int_equal((off + n) % JOURNAL_BLOCK, 0);
        struct journal_pad pad = {3, 4, 9}, back;
        struct dmt_rec r;
        size_t used;
        memset(p, 0xff, sizeof(p));
        journal_pad_put(p, n, &pad, &at);
        assert_int_equal(journal_frame_decode(p, n, journal_salt(3), &r, &used), 0);
        assert_true(journal_pad_get(&r, &back));
        assert_memory_equal(&back, &pad, sizeof(pad));
    }
}

static void claims_are_found_anywhere(void **state)
{
    (void)state;
    static uint8_t img[65536];
    struct journal_pad pad = {3, 40, 90};
    struct dmt_pos at = {1, 90, 5};
    for (uint64_t off = 4096; off < 20000; off += 1000) {
        memset(img, 0, sizeof(img));
        journal_pad_put(img + off, 80, &pad, &at);
        assert_int_equal(journal_image_claim(img, sizeof(img), 3, 4096), 40);
        assert_int_equal(journal_image_claim(img, sizeof(img), 3, off), 40);
        assert_int_equal(journal_image_claim(img, sizeof(img), 3, off + 1), 0);
        assert_int_equal(journal_image_claim(img, sizeof(img), 4, 4096), 0); /* of another life */
        img[off + 70] ^= 1;
        assert_int_equal(journal_image_claim(img, sizeof(img), 3, 4096), 0);
    }
    assert_int_equal(journal_image_claim(img, 0, 3, 4096), 0);
}

static void ring_wraps_and_fills(void **state)
{
    (void)state;
    struct journal_ring r;
    assert_int_equal(journal_ring_init(&r, 1024), 0);
    uint64_t put = 0, got = 0;
    for (int round = 0; round < 2000; round++) {
        uint32_t len = 56 + 8 * (uint32_t)((put * 7) % 20);
        uint8_t *p = journal_ring_reserve(&r, len);
        if (p) {
            assert_true(p >= r.p && p + len <= r.p + r.cap);
            memset(p, (int)(put & 0xff), len);
            dmt_st32(p, len);
            put++;
            continue;
        }
        /* Full: everything is there, in order; let half of it go. */
        uint64_t at = r.head, seen = got;
        size_t n;
        while ((p = journal_ring_next(&r, &at, &n)) != NULL) {
            assert_int_equal(n, 56 + 8 * ((seen * 7) % 20));
            assert_int_equal(p[8], seen & 0xff);
            assert_int_equal(p[n - 1], seen & 0xff);
            seen++;
        }
        assert_int_equal(seen, put);
        assert_int_equal(at, r.tail);
        at = r.head;
        for (uint64_t i = (put - got) / 2 + 1; i > 0; i--, got++)
            assert_non_null(journal_ring_next(&r, &at, &n));
        r.head = at;
    }
    assert_true(got > 500);
    journal_ring_free(&r);
}

static void an_empty_ring_starts_over(void **state)
{
    (void)state;
    struct journal_ring r;
    assert_int_equal(journal_ring_init(&r, 1024), 0);
    uint8_t *first = journal_ring_reserve(&r, 64);
    uint64_t mark = r.tail;
    assert_ptr_equal(journal_ring_reserve(&r, 64), first + 64);
    /* One is still needed: the next goes behind it, not over it. */
    journal_ring_let_go(&r, mark);
    assert_int_equal(r.tail - r.head, 64);
    assert_ptr_equal(journal_ring_reserve(&r, 64), first + 128);
    for (int i = 0; i < 3; i++) {
        journal_ring_let_go(&r, r.tail);
        assert_int_equal(r.tail, r.head);
        assert_ptr_equal(journal_ring_reserve(&r, 64), first);
    }
    /* Room for all of it, whatever was there before. */
    journal_ring_let_go(&r, r.tail);
    assert_ptr_equal(journal_ring_reserve(&r, 1024), first);
    assert_null(journal_ring_reserve(&r, 8));
    journal_ring_let_go(&r, r.tail);
    journal_ring_let_go(&r, r.tail);
    assert_ptr_equal(journal_ring_reserve(&r, 8), first);
    journal_ring_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_of_records),
        cmocka_unit_test(vectors_decode),
        cmocka_unit_test(vector_of_header),
        cmocka_unit_test(body_lengths_are_exact),
        cmocka_unit_test(every_bit_counts),
        cmocka_unit_test(impossible_fields_are_refused),
        cmocka_unit_test(chain_covers_all_but_len_crc_chain),
        cmocka_unit_test(salt_tells_lives_apart),
        cmocka_unit_test(pads_end_at_blocks),
        cmocka_unit_test(claims_are_found_anywhere),
        cmocka_unit_test(ring_wraps_and_fills),
        cmocka_unit_test(an_empty_ring_starts_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
