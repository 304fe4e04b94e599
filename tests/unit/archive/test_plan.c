/* test_plan.c: finding the way through an archive: which objects make up a moment, with one node
 * and several, and what is said when objects are missing or damaged. The archives are made of
 * headers (payloads do not matter here) in a directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/archive/plan.h"
#include "fs/base/clock.h"

static const uint8_t lineage[16] = {1, 2, 3};

struct fixture {
    char dir[64];
    struct dmt_objstore *os;
    uint64_t claims;
};

/* A series under construction: what the archiver's state is. */
struct run {
    struct fixture *f;
    const char *node;
    uint64_t next, epoch;
    uint64_t seq, chain; /* archived so far */
    uint64_t run_n, base_n, prev_n;
    uint32_t base_parts;
    const char *prev_node;
};

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st;
    (void)flag;
    (void)f;
    return remove(path);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    char url[96];
    snprintf(f->dir, sizeof(f->dir), "/var/tmp/dumont-plan.XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    snprintf(url, sizeof(url), "file://%s", f->dir);
    *state = f;
    return dmt_objstore_open(&f->os, url, NULL, NULL);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    dmt_objstore_close(f->os);
    nftw(f->dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
    free(f);
    return 0;
}

/* Record seq was made at this time; the chain value after it on branch b. */
static uint64_t time_of(uint64_t seq)
{
    return 1000 * DMT_S + seq * DMT_S;
}
static uint64_t chain_of(uint64_t seq, uint64_t branch)
{
    return seq * 1000 + branch;
}

static void put(struct run *r, struct archive_hdr *h)
{
    char key[SERIES_KEY_MAX];
    struct dmt_buf b;
    dmt_buf_init(&b);
    memcpy(h->lineage, lineage, 16);
    snprintf(h->node, sizeof(h->node), "%s", r->node);
    snprintf(h->prev_node, sizeof(h->prev_node), "%s", r->prev_node ? r->prev_node : "");
    h->n = r->next;
    h->epoch = r->epoch;
    h->run_n = r->run_n;
    h->base_n = r->base_n;
    h->base_parts = r->base_parts;
    h->prev_n = r->prev_n;
    series_key(key, lineage, r->node, r->next++);
    assert_int_equal(archive_object_encode(h, "x", 1, &b), 0);
    assert_int_equal(dmt_objstore_put(r->f->os, key, b.p, b.len, NULL), 0);
    dmt_buf_free(&b);
}

static void claim(struct fixture *f, const char *node)
{
    char key[SERIES_KEY_MAX];
    struct series_claim c = {.k = f->claims};
    struct dmt_buf b;
    dmt_buf_init(&b);
    memcpy(c.lineage, lineage, 16);
    snprintf(c.node, sizeof(c.node), "%s", node);
    series_node_key(key, f->claims++);
    assert_int_equal(series_claim_encode(&c, &b), 0);
    assert_int_equal(dmt_objstore_put(f->os, key, b.p, b.len, NULL), 0);
    dmt_buf_free(&b);
}

static struct run start(struct fixture *f, const char *node, uint64_t epoch)
{
    claim(f, node);
    return (struct run){.f = f,
                        .node = node,
                        .epoch = epoch,
                        .run_n = ARCHIVE_NONE,
                        .base_n = ARCHIVE_NONE,
                        .prev_n = ARCHIVE_NONE};
}

static void put_base(struct run *r, uint64_t seq, uint32_t parts, uint64_t branch)
{
    r->run_n = r->base_n = r->next;
    r->base_parts = 0;
    for (uint32_t i = 0; i < parts; i++) {
        struct archive_hdr h = {.kind = ARCHIVE_BASE, .items = i};
        if (i == parts - 1) {
            h.flags = ARCHIVE_BASE_LAST;
            h.first_seq = h.last_seq = seq;
            h.first_time = h.last_time = time_of(seq);
            h.chain_before = h.chain_after = chain_of(seq, branch);
            r->base_parts = parts;
        }
        put(r, &h);
    }
    r->seq = seq;
    r->chain = chain_of(seq, branch);
}

static void put_journal(struct run *r, uint64_t records, int bulk, uint64_t branch)
{
    struct archive_hdr h = {.kind = ARCHIVE_BULK,
                            .first_seq = r->seq + 1,
                            .last_seq = r->seq + records,
                            .first_time = time_of(r->seq + 1),
                            .last_time = time_of(r->seq + records),
                            .chain_before = r->chain,
                            .chain_after = chain_of(r->seq + records, branch)};
    for (int i = 0; i < bulk; i++)
        put(r, &h);
    h.kind = ARCHIVE_JOURNAL;
    put(r, &h);
    r->seq = h.last_seq;
    r->chain = h.chain_after;
}

/* A run of r that continues where `from` stands (its newest object). */
static void go_on(struct run *r, const struct run *from)
{
    r->run_n = r->next;
    r->base_n = ARCHIVE_NONE;
    r->base_parts = 0;
    r->prev_node = from->node;
    r->prev_n = from->next - 1;
    r->seq = from->seq;
    r->chain = from->chain;
}

static int plan(struct fixture *f, struct plan *p, uint64_t to_seq, uint64_t to_time,
                struct dmt_err *err)
{
    memset(p, 0, sizeof(*p));
    memset(err, 0, sizeof(*err));
    p->src = series_src_of(f->os);
    p->os = f->os;
    p->to_seq = to_seq;
    p->to_time = to_time;
    int r = plan_lineage(p, NULL, err);
    if (!r)
        r = plan_make(p, err);
    return r;
}

static void drop(struct fixture *f, const char *node, uint64_t n)
{
    char key[SERIES_KEY_MAX];
    series_key(key, lineage, node, n);
    assert_int_equal(dmt_objstore_delete(f->os, key, NULL), 0);
}

static void spoil(struct fixture *f, const char *node, uint64_t n)
{
    char key[SERIES_KEY_MAX], path[256];
    series_key(key, lineage, node, n);
    snprintf(path, sizeof(path), "%s/%s", f->dir, key);
    uint8_t c;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && pread(fd, &c, 1, 60) == 1);
    c ^= 0xff;
    assert_int_equal(pwrite(fd, &c, 1, 60), 1);
    close(fd);
}

/* The plan as text: "base a:0-1; a:2-5 b:0-3". */
static const char *text(const struct plan *p)
{
    static char s[512];
    int n = snprintf(s, sizeof(s), "base %s:%d-%d;", p->base.node, (int)p->base.first_n,
                     (int)p->base.last_n);
    for (size_t i = p->n_seg; i-- > 0;)
        n += snprintf(s + n, sizeof(s) - (size_t)n, " %s:%d-%d", p->seg[i].node,
                      (int)p->seg[i].first_n, (int)p->seg[i].last_n);
    return s;
}

static void expect(struct fixture *f, uint64_t to_seq, uint64_t to_time, const char *want)
{
    struct plan p;
    struct dmt_err err;
    int r = plan(f, &p, to_seq, to_time, &err);
    if (r)
        fail_msg("seq %llu: %d %s", (unsigned long long)to_seq, r, err.msg);
    assert_string_equal(text(&p), want);
    plan_free(&p);
}

static void expect_error(struct fixture *f, uint64_t to_seq, uint64_t to_time, int code,
                         const char *word, const char *word2)
{
    struct plan p;
    struct dmt_err err;
    int r = plan(f, &p, to_seq, to_time, &err);
    plan_free(&p);
    if (r != code || !strstr(err.msg, word) || (word2 && !strstr(err.msg, word2)))
        fail_msg("got %d \"%s\", wanted %d with \"%s\", \"%s\"", r, err.msg, code, word,
                 word2 ? word2 : "");
}

#define ANY UINT64_MAX

static void one_node(void **state)
{
    struct fixture *f = *state;
    expect_error(f, ANY, ANY, -ENOENT, "no Dumont archive", NULL);
    struct run a = start(f, "a", 1);
    expect_error(f, ANY, ANY, -ENOENT, "holds nothing", NULL);
    put_base(&a, 10, 2, 0);
    expect(f, ANY, ANY, "base a:0-1;");
    expect_error(f, 11, ANY, -ENOENT, "ends at position 10", NULL);
    put_journal(&a, 5, 0, 0);  /* n 2: 11-15 */
    put_journal(&a, 5, 2, 0);  /* n 3, 4 bulk, 5: 16-20 */
    put_journal(&a, 80, 1, 0); /* n 6 bulk, 7: 21-100 */
    expect(f, ANY, ANY, "base a:0-1; a:2-7");
    expect(f, 100, ANY, "base a:0-1; a:2-7");
    expect(f, 21, ANY, "base a:0-1; a:2-7");
    expect(f, 20, ANY, "base a:0-1; a:2-5");
    expect(f, 16, ANY, "base a:0-1; a:2-5");
    expect(f, 15, ANY, "base a:0-1; a:2-2");
    expect(f, 11, ANY, "base a:0-1; a:2-2");
    expect(f, 10, ANY, "base a:0-1;");
    expect_error(f, 9, ANY, -ENOENT, "begins at position 10", NULL);
    expect(f, ANY, time_of(16) + 1, "base a:0-1; a:2-5");
    expect(f, ANY, time_of(16) - 1, "base a:0-1; a:2-2");
    expect(f, ANY, time_of(10), "base a:0-1;");
    expect(f, ANY, time_of(5000), "base a:0-1; a:2-7");
    expect_error(f, ANY, time_of(10) - 1, -ENOENT, "begins at", NULL);
}

static void abandoned_uploads(void **state)
{
    struct fixture *f = *state;
    struct run a = start(f, "a", 1);
    struct archive_hdr part = {.kind = ARCHIVE_BASE};
    a.run_n = a.base_n = 0;
    put(&a, &part); /* a base without an end */
    expect_error(f, ANY, ANY, -ENOENT, "holds nothing", NULL);
    put_base(&a, 10, 1, 0);
    put_journal(&a, 5, 0, 0);
    struct archive_hdr bulk = {.kind = ARCHIVE_BULK, .first_seq = 16, .last_seq = 20};
    bulk.first_time = time_of(16);
    bulk.last_time = time_of(20);
    put(&a, &bulk); /* its journal object was never written; then more came */
    expect(f, ANY, ANY, "base a:1-1; a:2-2");
    put_journal(&a, 10, 1, 0);
    expect(f, ANY, ANY, "base a:1-1; a:2-5");
    expect(f, 16, ANY, "base a:1-1; a:2-5");
    expect(f, 15, ANY, "base a:1-1; a:2-2");
}

/* a is holder, b is promoted at 30 while a had uploaded up to 40 (which b never had); later a comes
 * back. */
static void several_nodes(void **state)
{
    struct fixture *f = *state;
    struct run a = start(f, "a", 1), b;
    put_base(&a, 0, 1, 0);
    put_journal(&a, 20, 0, 0); /* n 1 */
    put_journal(&a, 10, 1, 0); /* n 2, 3: 21-30 */
    struct run at30 = a;
    put_journal(&a, 10, 0, 7); /* n 4: 31-40, lost history */
    b = start(f, "b", 2);
    expect(f, ANY, ANY,
           "base a:0-0; a:1-4"); /* b has nothing yet: what there is is the best there is */
    go_on(&b, &at30);
    put_journal(&b, 5, 0, 0); /* n 0: 31-35 */
    put_journal(&b, 5, 1, 0); /* n 1, 2: 36-40 */
    expect(f, ANY, ANY, "base a:0-0; a:1-3 b:0-2");
    expect(f, 33, ANY, "base a:0-0; a:1-3 b:0-0");
    expect(f, 30, ANY, "base a:0-0; a:1-3");
    expect(f, 20, ANY, "base a:0-0; a:1-1");
    a.epoch = 3;
    go_on(&a, &b);
    put_journal(&a, 10, 0, 0); /* a n 5: 41-50 */
    expect(f, ANY, ANY, "base a:0-0; a:1-3 b:0-2 a:5-5");
    expect(f, 38, ANY, "base a:0-0; a:1-3 b:0-2");
    /* The head of a's new run is gone: up to 40 everything is there. */
    drop(f, "a", 5);
    put_journal(&a, 10, 0, 0);
    expect_error(f, ANY, ANY, DMT_E_CORRUPT, "/a/000000000005.lz4 is missing", NULL);
    /* An object of b that is a's past. */
    expect(f, 33, ANY, "base a:0-0; a:1-3 b:0-0");
}

static void new_base_after_a_gap(void **state)
{
    struct fixture *f = *state;
    struct run a = start(f, "a", 1);
    put_base(&a, 0, 1, 0);
    put_journal(&a, 20, 0, 0); /* n 1 */
    a.prev_node = "a";
    a.prev_n = 1;
    a.epoch = 2;
    put_base(&a, 50, 2, 0);    /* n 2, 3 */
    put_journal(&a, 10, 0, 0); /* n 4 */
    expect(f, ANY, ANY, "base a:2-3; a:4-4");
    expect(f, 50, ANY, "base a:2-3;");
    expect_error(f, 49, ANY, DMT_E_GONE, "between positions 20", "50");
    expect_error(f, ANY, time_of(21), DMT_E_GONE, "between positions 20", "50");
    expect(f, 20, ANY, "base a:0-0; a:1-1");
    expect(f, ANY, time_of(20), "base a:0-0; a:1-1");
    drop(f, "a", 3); /* the base's last part: what came before it is still reachable, and said */
    expect_error(f, ANY, ANY, DMT_E_CORRUPT, "000000000003.lz4 is missing", "position 20");
    spoil(f, "a", 1);
    expect_error(f, ANY, ANY, DMT_E_CORRUPT, "000000000003.lz4 is missing", "nothing before it");
}

static void holes_and_damage(void **state)
{
    struct fixture *f = *state;
    struct run a = start(f, "a", 1);
    put_base(&a, 0, 1, 0);
    for (int i = 0; i < 40; i++)
        put_journal(&a, 10, 0, 0); /* n: (n-1)*10+1 .. n*10 */
    drop(f, "a", 40);              /* the last one: nobody can know */
    expect(f, ANY, ANY, "base a:0-0; a:1-39");
    drop(f, "a",
         38); /* seen by what is behind it; whoever applies the objects will stumble on it */
    expect(f, ANY, ANY, "base a:0-0; a:1-39");
    expect(f, 370, ANY, "base a:0-0; a:1-37");
    drop(f, "a", 39);
    expect(f, ANY, ANY, "base a:0-0; a:1-37");
    spoil(f, "a", 37); /* a damaged end is known to have been there */
    expect_error(f, ANY, ANY, DMT_E_CORRUPT, "000000000037.lz4 is damaged", "position 360");
    expect_error(f, ANY, time_of(365), DMT_E_CORRUPT, "000000000037.lz4 is damaged",
                 "position 360");
    expect(f, 360, ANY, "base a:0-0; a:1-36");
    expect(f, ANY, time_of(355), "base a:0-0; a:1-36");
    /* In the middle, wherever the bisection happens to look: objects before it are found or the
     * damage is named. */
    drop(f, "a", 20);
    for (uint64_t seq = 1; seq <= 190; seq++) {
        struct plan p;
        struct dmt_err err;
        int r = plan(f, &p, seq, ANY, &err);
        if (r)
            assert_true(r == DMT_E_CORRUPT && strstr(err.msg, "000000000020.lz4 is missing") &&
                        strstr(err.msg, "position 190"));
        else
            assert_int_equal(p.seg[0].last_n, (seq + 9) / 10);
        plan_free(&p);
    }
}

/* LIST shows what bisection of a series with a hole cannot see. */
static void hole_where_bisection_looks(void **state)
{
    struct fixture *f = *state;
    struct run a = start(f, "a", 1);
    put_base(&a, 0, 1, 0);
    for (int i = 0; i < 200; i++)
        put_journal(&a, 1, 0, 0);
    drop(f, "a", 127);
    expect(f, ANY, ANY, "base a:0-0; a:1-200");
}

static void lineages(void **state)
{
    struct fixture *f = *state;
    struct plan p = {.src = series_src_of(f->os)};
    struct dmt_err err = {0};
    struct series_claim c = {.k = 1, .lineage = {9}, .node = "z"};
    struct dmt_buf b;
    struct run a = start(f, "a", 1);
    put_base(&a, 3, 1, 0);
    dmt_buf_init(&b);
    assert_int_equal(series_claim_encode(&c, &b), 0);
    assert_int_equal(dmt_objstore_put(f->os, "node/1", b.p, b.len, NULL), 0);
    dmt_buf_free(&b);
    assert_int_equal(plan_lineage(&p, NULL, &err), DMT_E_CONFIG);
    assert_non_null(
        strstr(err.msg, "01020300000000000000000000000000 09000000000000000000000000000000"));
    assert_int_equal(plan_lineage(&p, "01020300000000000000000000000000", &err), 0);
    assert_memory_equal(p.lineage, lineage, 16);
    assert_int_equal(plan_lineage(&p, "0102", &err), DMT_E_CONFIG);
    /* one that was forced out of the first: the first is its past */
    c = (struct series_claim){.k = 2, .lineage = {9}, .node = "y"};
    memcpy(c.from, lineage, 16);
    dmt_buf_init(&b);
    assert_int_equal(series_claim_encode(&c, &b), 0);
    assert_int_equal(dmt_objstore_put(f->os, "node/2", b.p, b.len, NULL), 0);
    dmt_buf_free(&b);
    assert_int_equal(plan_lineage(&p, NULL, &err), 0);
    assert_memory_equal(p.lineage, c.lineage, 16);
}

/* A header under another key is no header of that place (A2). */
static void misplaced(void **state)
{
    struct fixture *f = *state;
    char from[256], to[256], key[SERIES_KEY_MAX];
    struct run a = start(f, "a", 1);
    put_base(&a, 0, 1, 0);
    put_journal(&a, 10, 0, 0);
    put_journal(&a, 10, 0, 0);
    series_key(key, lineage, "a", 1);
    snprintf(from, sizeof(from), "%s/%s", f->dir, key);
    series_key(key, lineage, "a", 2);
    snprintf(to, sizeof(to), "%s/%s", f->dir, key);
    assert_int_equal(unlink(to), 0);
    assert_int_equal(link(from, to), 0);
    expect_error(f, ANY, ANY, DMT_E_CORRUPT, "000000000002.lz4 is damaged", NULL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(one_node),         T(abandoned_uploads),
        T(several_nodes),    T(new_base_after_a_gap),
        T(holes_and_damage), T(hole_where_bisection_looks),
        T(lineages),         T(misplaced),
    };
    return cmocka_run_group_tests_name("archive: plans", tests, NULL, NULL);
}
