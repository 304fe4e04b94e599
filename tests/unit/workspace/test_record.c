/* test_record.c: bodies of records byte by byte, the hash map, ACL arithmetic. No workspace is
 * needed. */
#include "tests/unit/workspace/fixture.h"

#include "fs/base/hash.h"

static void every_type_comes_back_as_it_went(void **state)
{
    (void)state;
    static const char text[] = "some/text", data[] = "\0\1\2 data";
    const struct dmt_span s = {text, sizeof(text) - 1}, d = {data, sizeof(data) - 1};
    const struct dmt_body all[] = {
        {.type = DMT_REC_EPOCH, .EPOCH = {7, 6, 5, 4, {1, 2, 3}, s, s}},
        {.type = DMT_REC_MAKE, .MAKE = {1, s, 3, 4, 5, 6, 7, d, d, d}},
        {.type = DMT_REC_LINK, .LINK = {1, 2, s}},
        {.type = DMT_REC_UNLINK, .UNLINK = {1, s, 2, 1}},
        {.type = DMT_REC_RENAME, .RENAME = {1, s, 2, s, 3, 4, 5, 1}},
        {.type = DMT_REC_SETATTR, .SETATTR = {1, 2, 3, 4, 5, 6, 7, 8}},
        {.type = DMT_REC_SETXATTR, .SETXATTR = {1, s, d, DMT_MODE_KEEP}},
        {.type = DMT_REC_DELXATTR, .DELXATTR = {1, s, 0644}},
        {.type = DMT_REC_WRITE, .WRITE = {1, 2, DMT_MODE_KEEP, 1, d}},
        {.type = DMT_REC_WRITE_REF, .WRITE_REF = {1, 2, 3, 4, 5, 0}},
        {.type = DMT_REC_ALLOC, .ALLOC = {1, 2, 3, 4, 5, 6}},
        {.type = DMT_REC_MARK, .MARK = {1, 2}},
        {.type = DMT_REC_REAP, .REAP = {1}},
        {.type = DMT_REC_SNAP, .SNAP = {s, 2, s}},
        {.type = DMT_REC_SNAP_DEL, .SNAP_DEL = {s}},
        {.type = DMT_REC_BEGIN, .BEGIN = {s}},
        {.type = DMT_REC_END, .END = {1, 2}},
        {.type = DMT_REC_CONTENT, .CONTENT = {1, 2, 3, 4, 5}},
        {.type = DMT_REC_INCOMPLETE, .INCOMPLETE = {1, 1, 2, 3, s}},
    };
    assert_int_equal(sizeof(all) / sizeof(all[0]), DMT_REC_INCOMPLETE);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct dmt_buf a, b;
        struct dmt_body back;
        char line[512];
        dmt_buf_init(&a);
        dmt_buf_init(&b);
        dmt_body_encode(&all[i], &a);
        assert_int_equal(dmt_body_decode(all[i].type, a.p, a.len, &back), 0);
        dmt_body_encode(&back, &b);
        assert_int_equal(a.len, b.len);
        assert_memory_equal(a.p, b.p, a.len);
        assert_memory_equal(dmt_body_print(&back, line, sizeof(line)), dmt_rec_name(all[i].type),
                            strlen(dmt_rec_name(all[i].type)));
        for (size_t cut = 0; cut < a.len; cut++) /* every shorter body is refused */
            assert_int_equal(dmt_body_decode(all[i].type, a.p, cut, &back), DMT_E_CORRUPT);
        dmt_put_u8(&a, 0);
        assert_int_equal(dmt_body_decode(all[i].type, a.p, a.len, &back), DMT_E_CORRUPT);
        dmt_buf_free(&a);
        dmt_buf_free(&b);
    }
}

/* The vectors of docs/formats-records.md, computed from that page by an independent program. */
static const char vector_epoch[] =
    "0000000004000000010000000300000064000000000000001111000000000000"
    "b0b1b2b3b4b5b6b7b8b9babbbcbdbebf030000006370750800000070726f6d6f"
    "746564";
static const char vector_rename[] =
    "0100000000000000010000006101000000000000000100000062000000000500"
    "000000000000060000000000000001";
static const char vector_write[] = "22110000000000003300000000000000a4810000010300000078797a";
static const char vector_mark[] = "05000000000000007500000000000000";
static const char vector_incomplete[] =
    "0500000000000000010000010000000000e8030000000000000d000000626967"
    "2f6d6f64656c2e62696e";

static void assert_body(const struct dmt_body *b, const char *hex)
{
    struct dmt_buf out;
    char got[256];
    dmt_buf_init(&out);
    dmt_body_encode(b, &out);
    assert_true(out.len < sizeof(got) / 2);
    dmt_hex(out.p, out.len, got);
    assert_string_equal(got, hex);
    dmt_buf_free(&out);
}

static void bytes_are_as_documented(void **state)
{
    (void)state;
    struct dmt_body b = {
        .type = DMT_REC_EPOCH,
        .EPOCH = {0x400000000, 0x300000001, 100, 0x1111, {0}, {"cpu", 3}, {"promoted", 8}}};
    for (uint8_t i = 0; i < 16; i++)
        b.EPOCH.store_id[i] = (uint8_t)(0xb0 + i);
    assert_body(&b, vector_epoch);
    b = (struct dmt_body){.type = DMT_REC_RENAME, .RENAME = {1, {"a", 1}, 1, {"b", 1}, 0, 5, 6, 1}};
    assert_body(&b, vector_rename);
    b = (struct dmt_body){.type = DMT_REC_WRITE, .WRITE = {0x1122, 0x33, 0x81a4, 1, {"xyz", 3}}};
    assert_body(&b, vector_write);
    b = (struct dmt_body){.type = DMT_REC_MARK, .MARK = {5, 117}};
    assert_body(&b, vector_mark);
    b = (struct dmt_body){.type = DMT_REC_INCOMPLETE,
                          .INCOMPLETE = {5, 1, 65536, 1000, {"big/model.bin", 13}}};
    assert_body(&b, vector_incomplete);
}

/* As people write them: epochs MAJOR.MINOR, modes octal, and no byte of a name that a terminal
 * obeys. */
static void a_line_of_the_log_reads_as_people_write(void **state)
{
    (void)state;
    char line[400];
    struct dmt_body b = {
        .type = DMT_REC_EPOCH,
        .EPOCH = {0x400000000, 0x300000001, 100, 0x1111, {0}, {"cpu", 3}, {"promoted", 8}}};
    assert_string_equal(dmt_body_print(&b, line, sizeof(line)),
                        "EPOCH epoch=4.0 parent=3.1 switch_seq=100 switch_chain=4369 "
                        "store_id=00000000000000000000000000000000 node=\"cpu\" "
                        "reason=\"promoted\"");
    b = (struct dmt_body){.type = DMT_REC_MAKE,
                          .MAKE = {.parent = 0x300000001,
                                   .name = {"a\033[2J\"", 6},
                                   .ino = 7,
                                   .mode = 0100644,
                                   .uid = 1000}};
    assert_string_equal(dmt_body_print(&b, line, sizeof(line)),
                        "MAKE parent=12884901889 name=\"a\\x1b[2J\\x22\" ino=7 mode=0100644 "
                        "uid=1000 gid=0 rdev=0 target=[0] acl_access=[0] acl_default=[0]");
}

static void names_with_nul_and_unknown_types_are_refused(void **state)
{
    (void)state;
    struct dmt_body b = {.type = DMT_REC_SNAP_DEL, .SNAP_DEL.name = {"a\0b", 3}}, back;
    struct dmt_buf out;
    dmt_buf_init(&out);
    dmt_body_encode(&b, &out);
    assert_int_equal(dmt_body_decode(DMT_REC_SNAP_DEL, out.p, out.len, &back), DMT_E_CORRUPT);
    assert_int_equal(dmt_body_decode(200, out.p, out.len, &back), DMT_E_VERSION);
    assert_int_equal(dmt_body_decode(0, out.p, out.len, &back), DMT_E_VERSION);
    dmt_buf_free(&out);
}

/* What the log really holds for each write is what the encoder says: the payload travels apart from
 * the rest. */
static void logged_bodies_equal_encoded_bodies(void **state)
{
    struct fx *f = *state;
    struct dmt_jreader *rd;
    struct dmt_rec r;
    struct dmt_body b;
    struct dmt_buf out;
    int seen = 0;
    fx_fill(f, fx_file(f, DMT_ROOT, "x"), 100000, 3, 40000, 1);
    fx_setxattr(f, DMT_ROOT, "user.a", "b");
    dmt_buf_init(&out);
    assert_int_equal(dmt_jreader_open(&rd, dmt_ws_journal(f->ws), 0, NULL), 0);
    while (dmt_jreader_next(rd, &r, NULL, NULL, NULL) == 1) {
        dmt_buf_reset(&out);
        assert_int_equal(dmt_body_decode(r.type, r.body, r.body_len, &b), 0);
        dmt_body_encode(&b, &out);
        assert_int_equal(out.len, r.body_len);
        assert_memory_equal(out.p, r.body, out.len);
        seen++;
    }
    assert_true(seen >= 6);
    dmt_jreader_close(rd);
    dmt_buf_free(&out);
}

static void map_keeps_what_it_is_given(void **state)
{
    (void)state;
    struct ws_map m = {0};
    uint64_t x = 1;
    for (uint64_t i = 1; i <= 20000; i++)
        assert_int_equal(ws_map_put(&m, i * 3, i), 0);
    for (int round = 0; round < 50000; round++) {
        x = x * 6364136223846793005ull + 1;
        uint64_t k = (x >> 40) % 20000 + 1;
        if (ws_map_has(&m, k * 3)) {
            assert_true(ws_map_get(&m, k * 3) == k);
            ws_map_del(&m, k * 3);
            assert_false(ws_map_has(&m, k * 3));
        } else {
            assert_int_equal(ws_map_put(&m, k * 3, k), 0);
        }
    }
    size_t n = 0;
    for (uint64_t i = 1; i <= 60000; i++)
        n += ws_map_has(&m, i);
    assert_int_equal(n, m.n);
    ws_map_clear(&m);
}

static void acl_lists_are_checked(void **state)
{
    (void)state;
    static const struct {
        uint16_t tag, perm;
    } good[] = {{1, 6}, {2, 4}, {4, 4}, {16, 4}, {32, 0}};
    uint8_t acl[44];
    uint32_t mode = S_IFREG;
    bool minimal;
    dmt_st32(acl, 2);
    for (int i = 0; i < 5; i++) {
        dmt_st16(acl + 4 + i * 8, good[i].tag);
        dmt_st16(acl + 6 + i * 8, good[i].perm);
        dmt_st32(acl + 8 + i * 8, 5);
    }
    struct dmt_span s = {acl, 44};
    assert_int_equal(ws_acl_mode(s, &mode, &minimal), 0);
    assert_int_equal(mode, S_IFREG | 0640);
    assert_false(minimal);
    dmt_st16(acl + 4 + 24, 8); /* a group after the mask's place: no mask for named entries */
    assert_int_equal(ws_acl_check(s), -EINVAL);
    dmt_st16(acl + 4 + 24, 16);
    dmt_st16(acl + 6, 9);
    assert_int_equal(ws_acl_check(s), -EINVAL);
    dmt_st16(acl + 6, 6);
    dmt_st32(acl, 3);
    assert_int_equal(ws_acl_check(s), -EINVAL);
    s.n = 3;
    assert_int_equal(ws_acl_check(s), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_comes_back_as_it_went),
        cmocka_unit_test(bytes_are_as_documented),
        cmocka_unit_test(a_line_of_the_log_reads_as_people_write),
        cmocka_unit_test(names_with_nul_and_unknown_types_are_refused),
        cmocka_unit_test_setup_teardown(logged_bodies_equal_encoded_bodies, fx_setup, fx_teardown),
        cmocka_unit_test(map_keeps_what_it_is_given),
        cmocka_unit_test(acl_lists_are_checked),
    };
    return cmocka_run_group_tests_name("workspace records", tests, NULL, NULL);
}
