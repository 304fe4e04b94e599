/* test_wire.c: the messages of the replica protocol: every field survives the way over the wire,
 * and nothing else is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "fs/base/err.h"
#include "fs/base/hash.h"
#include "fs/replica/wire.h"

/* One value for each kind of field, made from a counter so that no two fields are alike. */
static uint64_t next_value;
static uint64_t value(void)
{
    return ++next_value * 0x0123456789abcdefull;
}
static struct dmt_pos value_pos(void)
{
    uint64_t a = value(), b = value(), c = value();
    return (struct dmt_pos){a, b, c};
}
static void value_id(uint8_t id[16])
{
    for (int i = 0; i < 16; i++)
        id[i] = (uint8_t)(value() >> 13);
}

#define SET_U8(f)     v->f = (uint8_t)value();
#define SET_U32(f)    v->f = (uint32_t)value();
#define SET_U64(f)    v->f = value();
#define SET_ID(f)     value_id(v->f);
#define SET_POS(f)    v->f = value_pos();
#define SET_STR(f)    v->f = replica_span_of("text of " #f);
#define SET_BYTES(f)  v->f = (struct replica_span){(const uint8_t *)"\0\1\2bytes", 8};
#define F(kind, name) SET_##kind(name)
#define MSG(NAME, num, most, fields)                     \
    static void set_##NAME(struct replica_msg_##NAME *v) \
    {                                                    \
        fields                                           \
    }
REPLICA_MESSAGES(MSG)
#undef MSG
#undef F

#define SAME(f) assert_memory_equal(&a->f, &b->f, sizeof(a->f));
#define SAME_SPAN(f)                  \
    assert_int_equal(a->f.n, b->f.n); \
    assert_memory_equal(a->f.p, b->f.p, a->f.n);
#define EQ_U8(f)      SAME(f)
#define EQ_U32(f)     SAME(f)
#define EQ_U64(f)     SAME(f)
#define EQ_ID(f)      SAME(f)
#define EQ_POS(f)     SAME(f)
#define EQ_STR(f)     SAME_SPAN(f)
#define EQ_BYTES(f)   SAME_SPAN(f)
#define F(kind, name) EQ_##kind(name)
#define MSG(NAME, num, most, fields)                            \
    static void same_##NAME(const struct replica_msg_##NAME *a, \
                            const struct replica_msg_##NAME *b) \
    {                                                           \
        fields                                                  \
    }
REPLICA_MESSAGES(MSG)
#undef MSG
#undef F

static void make(uint8_t type, struct replica_msg *m)
{
    memset(m, 0, sizeof(*m));
    m->type = type;
    switch (type) {
#define MSG(NAME, num, most, fields) \
    case num:                        \
        set_##NAME(&m->NAME);        \
        break;
        REPLICA_MESSAGES(MSG)
#undef MSG
    default:
        fail();
    }
}

static void same(const struct replica_msg *a, const struct replica_msg *b)
{
    assert_int_equal(a->type, b->type);
    switch (a->type) {
#define MSG(NAME, num, most, fields)     \
    case num:                            \
        same_##NAME(&a->NAME, &b->NAME); \
        break;
        REPLICA_MESSAGES(MSG)
#undef MSG
    default:
        fail();
    }
}

static const uint8_t types[] = {
#define MSG(NAME, num, most, fields) num,
    REPLICA_MESSAGES(MSG)
#undef MSG
};
#define TYPES (sizeof(types) / sizeof(types[0]))

static void every_message_survives(void **state)
{
    (void)state;
    for (size_t i = 0; i < TYPES; i++) {
        struct replica_msg m, back;
        struct dmt_buf b;
        uint8_t type;
        uint32_t len;
        dmt_buf_init(&b);
        make(types[i], &m);
        replica_encode(&m, &b);
        assert_false(b.bad);
        assert_int_equal(replica_head(b.p, b.len, &type, &len), 1);
        assert_int_equal(type, types[i]);
        assert_int_equal(len + REPLICA_HEAD, b.len);
        assert_int_equal(replica_decode(type, b.p + REPLICA_HEAD, len, &back), 0);
        same(&m, &back);
        dmt_buf_free(&b);
    }
}

/* A body that is one byte short or long, anywhere, is no message. */
static void every_cut_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < TYPES; i++) {
        struct replica_msg m, back;
        struct dmt_buf b;
        dmt_buf_init(&b);
        make(types[i], &m);
        replica_encode(&m, &b);
        size_t body = b.len - REPLICA_HEAD;
        for (size_t n = 0; n < body; n++) {
            uint8_t *cut =
                malloc(n ? n : 1); /* on the heap, so that a sanitizer sees a step too far */
            memcpy(cut, b.p + REPLICA_HEAD, n);
            assert_int_equal(replica_decode(types[i], cut, n, &back), DMT_E_CORRUPT);
            free(cut);
        }
        dmt_put_u8(&b, 0);
        assert_int_equal(replica_decode(types[i], b.p + REPLICA_HEAD, body + 1, &back),
                         DMT_E_CORRUPT);
        dmt_buf_free(&b);
    }
}

/* The bytes of one message as docs/formats-wire.md states them: a change of the format must not go
 * unnoticed. */
static void bytes_of_a_commit(void **state)
{
    (void)state;
    static const uint8_t want[] = {16, 0, 0, 0, 7,    0, 0, 0, 0x04, 0x03, 0x02, 0x01,
                                   0,  0, 0, 0, 0x2a, 0, 0, 0, 0,    0,    0,    0};
    struct replica_msg m = {.type = REPLICA_COMMIT};
    m.COMMIT.epoch = 0x01020304;
    m.COMMIT.durable = 42;
    struct dmt_buf b;
    dmt_buf_init(&b);
    replica_encode(&m, &b);
    assert_int_equal(b.len, sizeof(want));
    assert_memory_equal(b.p, want, sizeof(want));
    dmt_buf_free(&b);
}

/* The vectors of docs/formats-wire.md, computed from that page by an independent program. */
static const char vector_hello[] =
    "a200000001000000070000000700000000000000a0a1a2a3a4a5a6a7a8a9aaab"
    "acadaeaf000102030405060708090a0b0c0d0e0f05000000747261696e030000"
    "0067707502010100000003000000010000000300000001000000030000006400"
    "00000000000011110000000000003000000000000000020000000a0000000000"
    "0000220000000000000000000000030000005a00000000000000330000000000"
    "00000100000000000000";
static const char vector_ack[] = "4800000008000000010000000300000078000000000000007600000000000000"
                                 "6e00000000000000760000000000000076000000000000004444000000000000"
                                 "00000040000000000000100000000000";
static const char vector_pull[] = "290000000b00000001000000030000002a000000000000000000010000000000"
                                  "0000020000000000750000000000000001";
static const char vector_bye[] = "22000000160000000710000000000000040000001200000065706f636820342e"
                                 "30206973206e65776572";

static void assert_frame(const struct replica_msg *m, const char *hex)
{
    struct dmt_buf b;
    dmt_buf_init(&b);
    replica_encode(m, &b);
    char *got = malloc(2 * b.len + 1);
    dmt_hex(b.p, b.len, got);
    assert_string_equal(got, hex);
    free(got);
    dmt_buf_free(&b);
}

static void bytes_are_as_documented(void **state)
{
    (void)state;
    const uint64_t e = 0x300000001;
    const struct replica_epoch list[] = {{0x200000000, 10, 0x22}, {0x300000000, 90, 0x33}};
    struct dmt_buf epochs;
    dmt_buf_init(&epochs);
    replica_epochs_encode(list, 2, &epochs);
    struct replica_msg m = {.type = REPLICA_HELLO};
    m.HELLO = (struct replica_msg_HELLO){.version = REPLICA_VERSION,
                                         .instance = 7,
                                         .workspace = replica_span_of("train"),
                                         .node = replica_span_of("gpu"),
                                         .role = 2,
                                         .flags = REPLICA_HELLO_ALONE,
                                         .epoch = e,
                                         .seen = e,
                                         .tail = {e, 100, 0x1111},
                                         .epochs = {epochs.p, (uint32_t)epochs.len},
                                         .first = 1};
    for (uint8_t i = 0; i < 16; i++) {
        m.HELLO.store_id[i] = (uint8_t)(0xa0 + i);
        m.HELLO.lineage[i] = i;
    }
    assert_frame(&m, vector_hello);
    dmt_buf_free(&epochs);
    m = (struct replica_msg){.type = REPLICA_ACK};
    m.ACK = (struct replica_msg_ACK){e, 120, 118, 110, 118, 118, 0x4444, 1 << 30, 1 << 20};
    assert_frame(&m, vector_ack);
    m = (struct replica_msg){.type = REPLICA_PULL};
    m.PULL = (struct replica_msg_PULL){e, 42, 65536, 131072, 117, 1};
    assert_frame(&m, vector_pull);
    m = (struct replica_msg){.type = REPLICA_BYE};
    m.BYE = (struct replica_msg_BYE){4103, 0x400000000, replica_span_of("epoch 4.0 is newer")};
    assert_frame(&m, vector_bye);
}

static void bad_heads_are_refused(void **state)
{
    (void)state;
    uint8_t type, h[8] = {0, 0, 0, 0, REPLICA_PING, 0, 0, 0};
    uint32_t len;
    for (size_t n = 0; n < 8; n++)
        assert_int_equal(replica_head(h, n, &type, &len), 0);
    assert_int_equal(replica_head(h, 8, &type, &len), 1);
    h[4] = 0;
    assert_int_equal(replica_head(h, 8, &type, &len), DMT_E_CORRUPT);
    h[4] = 200;
    assert_int_equal(replica_head(h, 8, &type, &len), DMT_E_CORRUPT);
    h[4] = REPLICA_PING;
    h[5] = 1;
    assert_int_equal(replica_head(h, 8, &type, &len), DMT_E_CORRUPT);
    h[5] = 0;
    h[7] = 1;
    assert_int_equal(replica_head(h, 8, &type, &len), DMT_E_CORRUPT);
    h[7] = 0;
    dmt_st32(h, REPLICA_SMALL + 1);
    assert_int_equal(replica_head(h, 8, &type, &len), DMT_E_CORRUPT);
    h[4] = REPLICA_RECORDS;
    assert_int_equal(replica_head(h, 8, &type, &len), 1);
    dmt_st32(h, DMT_FRAME_MAX + 1);
    assert_int_equal(replica_head(h, 8, &type, &len), DMT_E_CORRUPT);
}

static void epochs_are_a_list(void **state)
{
    (void)state;
    static struct replica_epoch v[REPLICA_EPOCHS_MAX + 10], back[REPLICA_EPOCHS_MAX];
    for (unsigned i = 0; i < REPLICA_EPOCHS_MAX + 10; i++)
        v[i] = (struct replica_epoch){i + 1, 10 * i, i * i};
    struct dmt_buf b;
    dmt_buf_init(&b);
    replica_epochs_encode(v, REPLICA_EPOCHS_MAX + 10, &b);
    struct replica_span s = {b.p, (uint32_t)b.len};
    assert_int_equal(replica_epochs_decode(s, back), REPLICA_EPOCHS_MAX);
    assert_memory_equal(back, v + 10, sizeof(back));
    s.n--;
    assert_int_equal(replica_epochs_decode(s, back), DMT_E_CORRUPT);
    s.n++;
    dmt_st64(b.p + 24, dmt_le64(b.p)); /* not ascending any more */
    assert_int_equal(replica_epochs_decode(s, back), DMT_E_CORRUPT);
    assert_int_equal(replica_epochs_decode((struct replica_span){0}, back), 0);
    dmt_buf_free(&b);
}

static void text_is_made_printable(void **state)
{
    (void)state;
    char t[8];
    replica_span_text(replica_span_of("a\nb\x1b[31m"), t, sizeof(t));
    assert_string_equal(t, "a?b?[31");
}

static void fill_random(uint8_t *p, size_t n)
{
    uint64_t x = 88172645463325252ull;
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        p[i] = (uint8_t)x;
    }
}

static void payload_survives_and_costs_little(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 56, 4096, 65535, 65536, 65537, 262144, 1 << 20};
    struct replica_unpack *u;
    assert_int_equal(replica_unpack_new(&u), 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (int random = 0; random < 2; random++) {
            size_t n = sizes[i];
            uint8_t *raw = malloc(n), *back = malloc(n);
            if (random)
                fill_random(raw, n);
            else
                memset(raw, 'x', n);
            struct dmt_buf b;
            dmt_buf_init(&b);
            assert_int_equal(replica_pack(raw, n, &b), 0);
            /* What cannot be compressed is stored: frame head, 4 bytes a block, end and
             * checksum. */
            assert_true(b.len <= n + 15 + 4 * (n / 65536 + 1) + 8);
            if (!random && n >= 4096)
                assert_true(b.len < n / 20);
            struct replica_span s = {b.p, (uint32_t)b.len};
            assert_int_equal(replica_unpack(u, s, back, n), 0);
            assert_memory_equal(raw, back, n);
            /* Another length than stated, a cut frame, bytes after it, a flipped bit: all
             * refused. */
            uint8_t *more = malloc(n + 1);
            assert_int_equal(replica_unpack(u, s, more, n + 1), DMT_E_CORRUPT);
            assert_int_equal(replica_unpack(u, s, more, n - 1), DMT_E_CORRUPT);
            free(more);
            s.n--;
            assert_int_equal(replica_unpack(u, s, back, n), DMT_E_CORRUPT);
            s.n++;
            dmt_put_u8(&b, 0);
            assert_int_equal(replica_unpack(u, (struct replica_span){b.p, s.n + 1}, back, n),
                             DMT_E_CORRUPT);
            b.p[b.len / 2] ^= 0x40;
            assert_int_equal(replica_unpack(u, (struct replica_span){b.p, s.n}, back, n),
                             DMT_E_CORRUPT);
            dmt_buf_free(&b);
            free(raw);
            free(back);
        }
    assert_int_equal(replica_unpack(u, (struct replica_span){0}, NULL, 0), DMT_E_CORRUPT);
    replica_unpack_free(u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_survives),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(bytes_of_a_commit),
        cmocka_unit_test(bytes_are_as_documented),
        cmocka_unit_test(bad_heads_are_refused),
        cmocka_unit_test(epochs_are_a_list),
        cmocka_unit_test(text_is_made_printable),
        cmocka_unit_test(payload_survives_and_costs_little),
    };
    cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
