/* test_recover.c: opening after damage: torn ends are cut, damage of what was durable is refused
 * with its place (J6), content of earlier lives of a recycled file is never taken for records. */
#include "tests/unit/journal/util.h"

#include "fs/base/bytes.h"
#include "fs/base/hash.h"

static uint64_t serial_of(const char *path)
{
    return strtoull(strrchr(path, '/') + 1, NULL, 16);
}

/* A journal whose process has died without closing: unsynced records are in the files. */
static void kill_it(struct tj *t)
{
    faultio_cut(t->f);
    tj_close(t);
    faultio_restore(t->f, FAULTIO_KILL);
}

static void write_block(const char *path, uint64_t off, const void *p, size_t n)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, p, n, (off_t)off), (ssize_t)n);
    close(fd);
}

/* The last group reached the disk up to some byte, for every byte: what remains is the longest
 * whole prefix. */
static void torn_at_each_byte(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    char path[JOURNAL_PATH_MAX], saved[100];
    uint8_t img[SMALL_SEGMENT];
    tj_open(t);
    tj_append(t, 5);
    tj_sync(t);
    tj_append(t, 4);
    kill_it(t);
    snprintf(saved, sizeof(saved), "%s/saved", t->root);
    tj_copy(t->dir, saved);
    tj_segment(t, -1, path);
    uint64_t starts[6], end;
    for (uint64_t i = 0; i < 4; i++)
        starts[i] = tj_offset_of(path, 6 + i, &end);
    starts[4] = end;
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, img, sizeof(img), 0), (ssize_t)sizeof(img));
    close(fd);
    for (uint64_t i = starts[0]; i < sizeof(img); i++)
        img[i] ^= 0xff; /* no byte of these is right */
    unsigned whole = 0;
    for (uint64_t at = starts[0]; at <= end; at++) {
        while (whole < 4 && starts[whole + 1] <= at)
            whole++;
        tj_copy(saved, t->dir);
        write_block(path, at, img + at, sizeof(img) - at);
        tj_open(t);
        assert_int_equal(tj_check_all(t, 0), 5 + whole);
        tj_append(t, 2);
        tj_close(t);
        tj_open(t);
        assert_int_equal(tj_check_all(t, 0), 7 + whole);
        tj_close(t);
    }
    assert_int_equal(whole, 4);
    tj_free(t);
}

/* A torn record in front of whole ones: those behind it go too, and do not come back when the very
 * same record is appended again, although they then stand right behind it, whole and chained. */
static void hole_in_the_last_group(void **state)
{
    (void)state;
    struct tj *t = tj_new(256u << 10, 1);
    char path[JOURNAL_PATH_MAX];
    tj_open(t);
    tj_append(t, 5);
    tj_sync(t);
    tj_append(t, 20);
    kill_it(t);
    tj_segment(t, -1, path);
    uint64_t at = tj_offset_of(path, 6, NULL);
    tj_flip(path, at + 60);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 5);
    tj_append(t, 1);
    kill_it(t);
    assert_int_equal(tj_offset_of(path, 6, NULL), at); /* where it was before */
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 6);
    tj_append(t, 1);
    assert_int_equal(tj_check_all(t, 0), 7);
    tj_free(t);
}

/* Flips one byte of each record of a closed journal of many groups: every one is refused, with its
 * number. */
static void damage_in_the_middle_is_refused(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    tj_open(t);
    for (int i = 0; i < 12; i++) {
        tj_append(t, 13);
        tj_sync(t);
    }
    tj_append(t, 3);
    tj_close(t);
    char path[JOURNAL_PATH_MAX], expect[64];
    struct dmt_journal_stats st;
    tj_open(t);
    dmt_journal_stats(t->j, &st);
    tj_close(t);
    assert_true(st.segments >= 2);
    int refused = 0;
    uint64_t last = 12 * 13 + 3;
    for (int i = 0; i < (int)st.segments; i++) {
        tj_segment(t, i, path);
        for (uint64_t seq = 1; seq <= last; seq++) {
            uint64_t off = tj_offset_of(path, seq, NULL);
            if (off == 0)
                continue;
            tj_flip(path, off + seq % 56);
            assert_int_equal(tj_try_open(t), DMT_E_CORRUPT);
            snprintf(expect, sizeof(expect), "offset %llu: record %llu ", (unsigned long long)off,
                     (unsigned long long)seq);
            assert_non_null(strstr(t->err.msg, expect));
            assert_non_null(strstr(t->err.msg, strrchr(path, '/') + 1));
            tj_flip(path, off + seq % 56);
            refused++;
        }
    }
    assert_int_equal(refused, (int)last);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), last);
    tj_free(t);
}

/* A killed journal: only what a later group or the floor proves durable can be told from a torn
 * end. */
static void proof_by_pad_and_by_floor(void **state)
{
    (void)state;
    struct tj *t = tj_new(256u << 10, 1);
    char path[JOURNAL_PATH_MAX];
    tj_open(t);
    tj_append(t, 10);
    tj_sync(t);
    tj_append(t, 10);
    tj_sync(t);
    kill_it(t);
    tj_segment(t, -1, path);
    uint64_t off_7 = tj_offset_of(path, 7, NULL), off_17 = tj_offset_of(path, 17, NULL);
    /* The PAD of the second group proves the first. */
    tj_flip(path, off_7 + 20);
    assert_int_equal(tj_try_open(t), DMT_E_CORRUPT);
    tj_flip(path, off_7 + 20);
    /* Nothing in the journal proves the second; the store's applied position does. */
    struct dmt_journal_conf saved = t->conf;
    tj_flip(path, off_17 + 20);
    t->conf.floor = (struct dmt_pos){t->epoch, 17, 1};
    assert_int_equal(tj_try_open(t), DMT_E_CORRUPT);
    assert_non_null(strstr(t->err.msg, "applied position"));
    t->conf = saved;
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 16);
    tj_free(t);
}

/* Damaged headers: of a segment in the middle, of the first, of the last, of an unused one. */
static void damaged_headers(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    char path[JOURNAL_PATH_MAX];
    tj_open(t);
    for (int i = 0; i < 20; i++) {
        tj_append(t, 30);
        tj_sync(t);
    }
    tj_close(t);
    for (int i = 0; i < 2; i++) {
        tj_segment(t, i, path);
        tj_flip(path, 100);
        assert_int_equal(tj_try_open(t), DMT_E_CORRUPT);
        tj_flip(path, 100);
    }
    tj_segment(t, -1, path);
    tj_flip(path, 100);
    assert_int_equal(tj_try_open(t), DMT_E_CORRUPT);
    tj_flip(path, 100);
    /* Header and first frames gone at once. */
    uint8_t saved[2 * JOURNAL_BLOCK], zeros[2 * JOURNAL_BLOCK] = {0};
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, saved, sizeof(saved), 0), (ssize_t)sizeof(saved));
    close(fd);
    write_block(path, 0, zeros, sizeof(zeros));
    assert_int_equal(tj_try_open(t), DMT_E_CORRUPT);
    write_block(path, 0, saved, sizeof(saved));
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 600);
    tj_free(t);
}

static int any_record(void *ctx, const struct dmt_rec *r)
{
    (void)ctx;
    (void)r;
    return 0;
}

static int check_with_floor(struct tj *t)
{
    struct dmt_pos tail;
    memset(&t->err, 0, sizeof(t->err));
    return dmt_journal_check(t->conf.io, t->dir, NULL, &t->conf.floor, &tail, any_record, NULL,
                             &t->err);
}

/* The header of a segment whose records are all applied: an open lets go of it, a check tells. What
 * stands in a file that was never begun, or whose records a later one took over, is no damage. */
static void damaged_header_of_applied_records(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    char path[JOURNAL_PATH_MAX], later[JOURNAL_PATH_MAX];
    tj_open(t);
    for (int i = 0; i < 20; i++) {
        tj_append(t, 30);
        tj_sync(t);
    }
    assert_int_equal(dmt_journal_pos_at(t->j, 590, &t->conf.floor), 0);
    tj_close(t);
    assert_int_equal(check_with_floor(t), 1);
    tj_segment(t, 0, path);
    tj_flip(path, 100);
    assert_int_equal(check_with_floor(t), DMT_E_CORRUPT);
    assert_non_null(strstr(t->err.msg, strrchr(path, '/') + 1));
    assert_non_null(strstr(t->err.hint, "Mount it"));
    /* records of a later segment in it, as after a failed sync */
    uint8_t img[SMALL_SEGMENT], saved[SMALL_SEGMENT], zeros[JOURNAL_BLOCK] = {0};
    uint64_t from = JOURNAL_SEG_HDR;
    tj_segment(t, 1, later);
    int fd = open(later, O_RDONLY);
    assert_int_equal(pread(fd, img, sizeof(img), 0), (ssize_t)sizeof(img));
    close(fd);
    fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, saved, sizeof(saved), 0), (ssize_t)sizeof(saved));
    close(fd);
    journal_frame_resalt(img + from, journal_salt(serial_of(later)), journal_salt(serial_of(path)));
    write_block(path, from, img + from, dmt_le32(img + from));
    assert_int_equal(check_with_floor(t), 1);
    write_block(path, from, zeros, sizeof(zeros));
    assert_int_equal(check_with_floor(t), 1);
    write_block(path, 0, saved, sizeof(saved));
    assert_int_equal(check_with_floor(t), DMT_E_CORRUPT);
    tj_open(t);
    uint64_t first = dmt_journal_first(t->j).seq;
    assert_true(first > 0 && first <= 590);
    assert_int_equal(tj_check_all(t, first), 600);
    tj_close(t);
    assert_int_equal(check_with_floor(t), 1);
    tj_free(t);
}

static void missing_segment_is_refused(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    char path[JOURNAL_PATH_MAX], aside[100];
    tj_open(t);
    for (int i = 0; i < 20; i++) {
        tj_append(t, 30);
        tj_sync(t);
    }
    tj_close(t);
    snprintf(aside, sizeof(aside), "%s/aside", t->root);
    tj_segment(t, 1, path);
    assert_int_equal(rename(path, aside), 0);
    assert_int_equal(tj_try_open(t), DMT_E_CORRUPT);
    assert_int_equal(rename(aside, path), 0);
    tj_segment(t, 0, path);
    assert_int_equal(rename(path, aside), 0);
    assert_int_equal(tj_try_open(t), DMT_E_GONE);
    assert_int_equal(rename(aside, path), 0);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 600);
    tj_free(t);
}

static void unknown_version_is_refused(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    char path[JOURNAL_PATH_MAX];
    uint8_t block[JOURNAL_SEG_HDR];
    tj_open(t);
    tj_append(t, 3);
    tj_close(t);
    tj_segment(t, 0, path);
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, block, sizeof(block), 0), (ssize_t)sizeof(block));
    close(fd);
    dmt_st32(block + 8, 9);
    dmt_st32(block + 4092, dmt_crc32c(0, block, 4092));
    write_block(path, 0, block, sizeof(block));
    assert_int_equal(tj_try_open(t), DMT_E_VERSION);
    tj_free(t);
}

/* Records of an earlier life stand whole, dense and chained at the very place where the next record
 * would: they do not count. With the salt of this life they would: it is what tells them apart. */
static void content_of_an_earlier_life(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    char path_1[JOURNAL_PATH_MAX], path_2[JOURNAL_PATH_MAX];
    uint8_t img[SMALL_SEGMENT];
    uint64_t end_1, end_2;
    tj_open(t);
    tj_append(t, 20);
    tj_close(t);
    tj_segment(t, -1, path_1);
    uint64_t from = tj_offset_of(path_1, 11, &end_1);
    uint32_t salt_1 = journal_salt(serial_of(path_1));
    int fd = open(path_1, O_RDONLY);
    assert_int_equal(pread(fd, img, sizeof(img), 0), (ssize_t)sizeof(img));
    close(fd);
    tj_open(t);
    assert_int_equal(dmt_journal_truncate_to(t->j, 10, &t->err), 0);
    tj_close(t);
    tj_segment(t, -1, path_2);
    tj_offset_of(path_2, 0, &end_2);
    write_block(path_2, end_2, img + from, end_1 - from);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 10);
    tj_close(t);
    for (uint64_t off = from; off < end_1; off += dmt_le32(img + off))
        journal_frame_resalt(img + off, salt_1, journal_salt(serial_of(path_2)));
    tj_offset_of(path_2, 0, &end_2);
    write_block(path_2, end_2, img + from, end_1 - from);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 20);
    tj_free(t);
}

/* Leftovers a crash can leave in the folder are cleared away. */
static void leftovers_are_cleared(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    char path[200];
    tj_open(t);
    tj_append(t, 10);
    tj_close(t);
    const char *names[] = {"prepare.tmp", "spare-00000000000000aa", "00000000000000ab.seg",
                           "spare-00000000000000ac", "notes.txt"};
    off_t sizes[] = {100, SMALL_SEGMENT, SMALL_SEGMENT, 100, 5};
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof(path), "%s/%s", t->dir, names[i]);
        int fd = open(path, O_CREAT | O_RDWR, 0600);
        assert_true(fd >= 0 && ftruncate(fd, sizes[i]) == 0);
        close(fd);
    }
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 10);
    assert_true(t->j->next_serial > 0xac);
    tj_append(t, 500);
    tj_close(t);
    snprintf(path, sizeof(path), "%s/prepare.tmp", t->dir);
    assert_int_equal(access(path, F_OK), -1);
    snprintf(path, sizeof(path), "%s/notes.txt", t->dir);
    assert_int_equal(access(path, F_OK), 0);
    tj_open(t);
    assert_int_equal(tj_check_all(t, 0), 510);
    tj_free(t);
}

/* The size of segments may change between two opens. */
static void other_segment_size(void **state)
{
    (void)state;
    struct tj *t = tj_new(SMALL_SEGMENT, 1);
    tj_open(t);
    tj_append(t, 300);
    for (int i = 0; i < 6; i++) {
        tj_close(t);
        t->conf.segment_bytes = i % 2 ? SMALL_SEGMENT : 64u << 10;
        tj_open(t);
        tj_append(t, 300);
        tj_sync(t);
        dmt_journal_release(t->j, dmt_journal_tail(t->j).seq - 250);
        tj_check_all(t, dmt_journal_first(t->j).seq);
        assert_int_equal(dmt_journal_pos_at(t->j, dmt_journal_first(t->j).seq, &t->conf.floor), 0);
    }
    tj_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torn_at_each_byte),
        cmocka_unit_test(hole_in_the_last_group),
        cmocka_unit_test(damage_in_the_middle_is_refused),
        cmocka_unit_test(proof_by_pad_and_by_floor),
        cmocka_unit_test(damaged_headers),
        cmocka_unit_test(damaged_header_of_applied_records),
        cmocka_unit_test(missing_segment_is_refused),
        cmocka_unit_test(unknown_version_is_refused),
        cmocka_unit_test(content_of_an_earlier_life),
        cmocka_unit_test(leftovers_are_cleared),
        cmocka_unit_test(other_segment_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
