/* test_bytes.c: the vectors of docs/formats-store.md, byte for byte: the file `intent`, the state
 * stream. They were computed from that page by an independent program;
 * tests/integration/05_formats.sh compares them with the page. */
#include "tests/unit/store/util.h"

#include "fs/base/hash.h"
#include "fs/store/stream.h"

#define EPOCH_3_1 0x300000001u

static const char vector_intent[] =
    "444d54494e543100010000000300000075000000000000004444000000000000"
    "bba8f2a600000000";

static const char vector_stream[] =
    "013c00000054444d535441544501000000010101010101010101010101010101"
    "0104000000756e69740100000003000000140000000000000044440000000000"
    "00020a000000010000006b010000007603370000000100000003000000000000"
    "0000000000000000000000000000000000000000000500000000000000030000"
    "00677075040000006d616465042a00000001000000000000000e000000000000"
    "00010000000300000009000000000000000100000073010000006e0574000000"
    "00000000000000000100000000000000ed410000020000000a00000014000000"
    "000000000000000000000000000000001e000000000000001e00000000000000"
    "1e000000000000001e0000000000000001000000000000000300000000000000"
    "0000000000000000000000000000000000000000057400000000000000000000"
    "000300000000000000a481000001000000000000000000000000000000000000"
    "0004000000000000000000000000000000100000000000000000000000000000"
    "0000000000000000000000000000000000000000000100000003000000100000"
    "0000000000040000000000000005740000001300000000000000020000000000"
    "0000a48100000100000000000000000000000000000000000000050000000000"
    "000000000000000000000b000000000000000000000000000000000000000000"
    "000000000000000000000000000001000000030000000b000000000000000000"
    "000000000000062d000000000000000000000001000000000000000100000062"
    "030000000000000004000000008000000f00000000000000062d000000130000"
    "0000000000010000000000000001000000610200000000000000030000000080"
    "00000c0000000000000007270000001300000000000000020000000000000006"
    "000000757365722e7801000000790d0000000000000009450000000000000000"
    "0000000300000000000000000000000000000004000000000000000300000000"
    "0000000100000000000000000000000000000010000000000000000000000000"
    "094a000000130000000000000002000000000000000000000000000000050000"
    "00000000000000000000000000000000000000000000000000020000000b0000"
    "0000000000010500000068656c6c6f0a14000000030000000000000001000000"
    "04000000000000000d1c00000003000000000000000100000000000000000000"
    "000400000062756c6b0e20000000020000000000000004000000000000000500"
    "000000000000a2aa4997582087c4";

static void assert_hex(const void *p, size_t n, const char *hex)
{
    char *got = malloc(2 * n + 1);
    assert_non_null(got);
    dmt_hex(p, n, got);
    assert_string_equal(got, hex);
    free(got);
}

static void intent(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_pos pos = {EPOCH_3_1, 117, 0x4444};
    uint8_t rec[40];
    char path[96];
    OK(store_intent_write(t->st, &pos));
    snprintf(path, sizeof(path), "%s/intent", t->dir);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(rec, 1, sizeof(rec), f), sizeof(rec));
    fclose(f);
    assert_hex(rec, sizeof(rec), vector_intent);
    ts_reopen(t); /* a reader takes it */
    assert_int_equal(dmt_store_floor(t->st).seq, 117);
    ts_free(t);
}

static void put_file(struct ts *t, uint64_t ino, uint64_t size, uint64_t seq)
{
    struct dmt_inode n = {.ino = ino,
                          .mode = S_IFREG | 0644,
                          .nlink = 1,
                          .size = size,
                          .mtime = seq,
                          .epoch = EPOCH_3_1,
                          .seq = seq};
    OK(dmt_store_inode_put(t->st, &n));
}

/* The state that the page describes. */
static void make_state(struct ts *t)
{
    struct dmt_epoch_row e = {.epoch = EPOCH_3_1, .time_ns = 5, .node = "gpu", .reason = "made"};
    struct dmt_snapshot s = {
        .serial = 1, .seq = 14, .epoch = EPOCH_3_1, .time_ns = 9, .name = "s", .note = "n"};
    struct dmt_place pl;
    struct dmt_pos pos = {EPOCH_3_1, 20, 0x4444};
    struct dmt_err err = {0};
    OK(dmt_store_epoch_put(t->st, &e));
    OK(dmt_store_meta_put(t->st, "k", "v", 1));
    OK(dmt_store_write(t->st, 2, 0, "hello", 5, 11));
    put_file(t, 2, 5, 11);
    OK(dmt_store_dentry_put(t->st, 1, "a", 1, 2, S_IFREG, 3, 12));
    OK(dmt_store_xattr_put(t->st, 2, "user.x", "y", 1, 13));
    OK(dmt_store_snap_put(t->st, &s));
    put_file(t, 3, 0, 15);
    OK(dmt_store_dentry_put(t->st, 1, "b", 1, 3, S_IFREG, 4, 15));
    OK(dmt_store_ref_place(t->st, 3, 0, 4, &pl));
    OK(dmt_store_ref_put(t->st, &pl, "bulk", 4));
    OK(dmt_store_write_ref(t->st, 3, 0, 4, 16));
    put_file(t, 3, 4, 16);
    OK(dmt_store_ref_sync(t->st, &t->lk, 3));
    OK(dmt_store_mark(t->st, 3, 16, true, 0, 17));
    OK(dmt_store_dentry_del(t->st, 1, "a", 1, 19));
    OK(dmt_store_inode_del(t->st, 2, 19));
    OK(dmt_store_freeze(t->st, &pos));
    OK(dmt_store_checkpoint(t->st, &t->lk, &err));
}

static int keep_bytes(void *ctx, const void *p, size_t len)
{
    dmt_put_raw(ctx, p, len);
    return ((struct dmt_buf *)ctx)->bad ? -ENOMEM : 0;
}

static void state_stream(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_buf b;
    struct dmt_pos pos;
    struct dmt_err err = {0};
    dmt_buf_init(&b);
    make_state(t);
    OK(dmt_store_export(t->st, &t->lk, &pos, keep_bytes, &b, &err));
    assert_hex(b.p, b.len, vector_stream);
    assert_true(pos.epoch == EPOCH_3_1 && pos.seq == 20 && pos.chain == 0x4444);
    dmt_buf_free(&b);
    ts_free(t);
}

static int import(struct ts *t, const uint8_t *p, size_t n, size_t chunk)
{
    struct dmt_import *im;
    struct dmt_pos pos;
    struct dmt_err err = {0};
    int r = dmt_store_import_begin(&im, &t->conf, &t->id, &err);
    assert_int_equal(r, 0);
    for (size_t at = 0; r == 0 && at < n; at += chunk)
        r = dmt_store_import_feed(im, p + at, n - at < chunk ? n - at : chunk, &err);
    if (r < 0)
        dmt_store_import_abort(im);
    else
        r = dmt_store_import_finish(im, &pos, &err);
    return r;
}

/* A reader takes the documented bytes, in any chunks, and refuses them with a bit changed (but for
 * the three counters of END, which the sum does not cover). */
static void state_stream_is_read(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_inode n;
    size_t len = strlen(vector_stream) / 2;
    uint8_t *p = malloc(len);
    assert_non_null(p);
    OK(dmt_unhex(vector_stream, p, len));
    dmt_store_close(t->st);
    for (size_t bit = 0; bit < len * 8; bit += 97) {
        if (bit / 8 >= len - 32 && bit / 8 < len - 8)
            continue;
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(import(t, p, len, len) < 0);
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_true(import(t, p, len - 1, len) < 0);
    OK(import(t, p, len, 7));
    ts_open(t);
    OK(dmt_store_inode_get(t->st, DMT_LIVE, 3, &n));
    ts_expect(t, DMT_LIVE, 3, 3, 1, 'k');
    assert_int_equal(dmt_store_inode_get(t->st, DMT_LIVE, 2, &n), -ENOENT);
    OK(dmt_store_inode_get(t->st, 14, 2, &n));
    ts_expect(t, 14, 2, 4, 1, 'o');
    assert_int_equal(dmt_store_applied(t->st).seq, 20);
    free(p);
    ts_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(intent),
        cmocka_unit_test(state_stream),
        cmocka_unit_test(state_stream_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
