/* util.h: what the journal's tests share: a scratch folder on the real disk with a fault-injecting
 * io over it, a journal in it, records whose body follows from their number, and a check of a whole
 * history. */
#ifndef DMT_TESTS_JOURNAL_UTIL_H
#define DMT_TESTS_JOURNAL_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/log.h"
#include "fs/journal/internal.h"
#include "tests/lib/faultio.h"

#define EPOCH(major, minor) ((uint64_t)(major) << 32 | (minor))
#define SMALL_SEGMENT       (32u << 10)

struct tj {
    char root[64], dir[80];
    struct faultio *f;
    struct dmt_journal *j;
    struct dmt_journal_conf conf;
    struct dmt_err err;
    uint64_t epoch;
};

static inline int tj_remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

/* One scratch folder a program, removed at its end: a test that fails does not clean up after itself. */
static inline char *tj_scratch(void)
{
    static char dir[40];
    return dir;
}

static inline void tj_remove_scratch(void)
{
    nftw(tj_scratch(), tj_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline struct tj *tj_new(uint64_t segment_bytes, uint64_t seed)
{
    struct tj *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    if (tj_scratch()[0] == '\0') {
        strcpy(tj_scratch(), "/var/tmp/dmt-journal-XXXXXX");
        assert_non_null(mkdtemp(tj_scratch()));
        atexit(tj_remove_scratch);
    }
    snprintf(t->root, sizeof(t->root), "%s/XXXXXX", tj_scratch());
    assert_non_null(mkdtemp(t->root));
    snprintf(t->dir, sizeof(t->dir), "%s/journal", t->root);
    t->f = faultio_new(t->root, seed);
    t->epoch = EPOCH(1, 1);
    t->conf = (struct dmt_journal_conf){.io = faultio_io(t->f),
                                        .clock = dmt_clock_real(),
                                        .dir = t->dir,
                                        .segment_bytes = segment_bytes};
    memcpy(t->conf.lineage, "lineage-of-tests", 16);
    dmt_log_init("test", "/dev/null", DMT_LOG_DEBUG);
    return t;
}

static inline int tj_try_open(struct tj *t)
{
    memset(&t->err, 0, sizeof(t->err));
    return dmt_journal_open(&t->j, &t->conf, &t->err);
}

static inline void tj_open(struct tj *t)
{
    int r = tj_try_open(t);
    if (r != 0)
        print_error("open: %d %s\n", r, t->err.msg);
    assert_int_equal(r, 0);
}

static inline void tj_close(struct tj *t)
{
    dmt_journal_close(t->j);
    t->j = NULL;
}

static inline void tj_free(struct tj *t)
{
    if (t->j)
        tj_close(t);
    faultio_free(t->f);
    nftw(t->root, tj_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(t);
}

/* Body of record seq in an epoch: its length and bytes follow from both. */
static inline size_t tj_body(uint64_t epoch, uint64_t seq, size_t max, uint8_t *ret)
{
    uint64_t x = (epoch * 1000003u + seq) * 0x9E3779B97F4A7C15u;
    size_t n = (size_t)(x >> 33) % (max + 1);
    for (size_t i = 0; i < n; i++)
        ret[i] = (uint8_t)(x >> (i % 8 * 8)) ^ (uint8_t)i;
    return n;
}

#define TJ_BODY_MAX 300u

static inline int tj_try_append(struct tj *t)
{
    uint8_t body[16384];
    uint64_t seq = dmt_journal_tail(t->j).seq + 1;
    struct dmt_rec r = {
        .epoch = t->epoch, .time_ns = seq * 10, .unique = seq + 7, .instance = 3, .type = 5};
    size_t n = tj_body(t->epoch, seq, TJ_BODY_MAX, body);
    struct iovec iov[2] = {{body, n / 2}, {body + n / 2, n - n / 2}};
    int res = dmt_journal_append(t->j, &r, iov, 2, &t->err);
    if (res == 0)
        assert_int_equal(r.seq, seq);
    return res;
}

static inline void tj_append(struct tj *t, unsigned n)
{
    while (n-- > 0)
        assert_int_equal(tj_try_append(t), 0);
}

static inline void tj_sync(struct tj *t)
{
    assert_int_equal(dmt_journal_wait(t->j, dmt_journal_tail(t->j).seq), 0);
}

/* Fails the test unless r is the record that tj_append makes at its place. */
static inline void tj_check_rec(const struct dmt_rec *r, uint64_t seq)
{
    uint8_t body[16384];
    assert_int_equal(r->seq, seq);
    assert_int_equal(r->type, 5);
    assert_int_equal(r->time_ns, seq * 10);
    assert_int_equal(r->unique, seq + 7);
    assert_int_equal(r->instance, 3);
    size_t n = tj_body(r->epoch, seq, TJ_BODY_MAX, body);
    assert_int_equal(r->body_len, n);
    assert_memory_equal(r->body, body, n);
}

/* Reads everything after after_seq with a new reader: returns the last seq. Checks chain and
 * bodies. */
static inline uint64_t tj_check_all(struct tj *t, uint64_t after_seq)
{
    struct dmt_jreader *r;
    struct dmt_rec rec;
    struct dmt_pos pos;
    const uint8_t *raw;
    size_t len;
    int res;
    assert_int_equal(dmt_journal_pos_at(t->j, after_seq, &pos), 0);
    assert_int_equal(dmt_jreader_open(&r, t->j, after_seq, &t->err), 0);
    while ((res = dmt_jreader_next(r, &rec, &raw, &len, &t->err)) == 1) {
        tj_check_rec(&rec, pos.seq + 1);
        assert_int_equal(rec.chain, dmt_rec_chain(pos.chain, raw, len));
        pos = (struct dmt_pos){rec.epoch, rec.seq, rec.chain};
    }
    if (res < 0)
        print_error("reader: %d %s\n", res, t->err.msg);
    assert_int_equal(res, 0);
    assert_int_equal(pos.seq, dmt_journal_tail(t->j).seq);
    assert_int_equal(pos.chain, dmt_journal_tail(t->j).chain);
    dmt_jreader_close(r);
    return pos.seq;
}

/* Path of the nth (0 = oldest) segment file with a header; n = -1 the newest. */
static inline void tj_segment(struct tj *t, int n, char ret[JOURNAL_PATH_MAX])
{
    struct journal_survey s = {.io = dmt_io_real(), .dir = t->dir, .list_only = true};
    assert_int_equal(journal_survey(&s, NULL), 0);
    int found = 0;
    ret[0] = '\0';
    for (size_t i = 0; i < s.found_n; i++) {
        char path[JOURNAL_PATH_MAX];
        uint8_t block[JOURNAL_SEG_HDR];
        struct journal_seg_hdr h;
        journal_survey_path(&s, "", s.found[i].serial, ".seg", path);
        int fd = open(path, O_RDONLY);
        assert_true(fd >= 0);
        bool valid = read(fd, block, sizeof(block)) == (ssize_t)sizeof(block) &&
                     journal_hdr_get(block, sizeof(block), s.found[i].serial, &h) == 0;
        close(fd);
        if (valid && (n < 0 || found == n))
            memcpy(ret, path, sizeof(path));
        found += valid;
    }
    journal_survey_free(&s);
    assert_true(ret[0] != '\0');
}

/* Where record seq starts in a segment file; 0 if it is not there. */
struct tj_find {
    uint64_t seq, off;
};
static inline int tj_find_rec(void *ctx, const struct dmt_rec *r, uint64_t off)
{
    struct tj_find *f = ctx;
    if (r->seq == f->seq)
        f->off = off;
    return 0;
}
static inline uint64_t tj_offset_of(const char *path, uint64_t seq, uint64_t *ret_end)
{
    static uint8_t img[1 << 20];
    uint64_t serial = strtoull(strrchr(path, '/') + 1, NULL, 16);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t n = read(fd, img, sizeof(img));
    close(fd);
    struct journal_seg_hdr h;
    assert_true(n > 0);
    assert_int_equal(journal_hdr_get(img, (size_t)n, serial, &h), 0);
    struct journal_walk w = {.pos = h.prev, .off = JOURNAL_SEG_HDR};
    struct tj_find f = {seq, 0};
    journal_image_walk(img, (size_t)n, serial, UINT64_MAX, &w, tj_find_rec, &f);
    if (ret_end)
        *ret_end = w.off;
    return f.off;
}

/* Flips a bit on the real disk. */
static inline void tj_flip(const char *path, uint64_t off)
{
    uint8_t b;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &b, 1, (off_t)off), 1);
    b ^= 4;
    assert_int_equal(pwrite(fd, &b, 1, (off_t)off), 1);
    close(fd);
}

/* A copy of the journal folder under another name, and back: to try many damages on one state. */
static inline void tj_copy(const char *from, const char *to)
{
    char cmd[600];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s' && cp -r --sparse=never '%s' '%s'", to, from, to);
    assert_int_equal(system(cmd), 0);
}

#endif
