/* test_rows.c: inodes, directory entries, extended attributes: memory and SQLite seen as one. */
#include "tests/unit/store/util.h"

static uint64_t dirty_rows(struct ts *t)
{
    struct dmt_store_load load;
    dmt_store_load(t->st, &load);
    return load.dirty_rows;
}

static void inode_fields_survive(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    static struct dmt_inode n = {.ino = 9,
                                 .mode = S_IFCHR | 0600,
                                 .nlink = 2,
                                 .uid = 3,
                                 .gid = UINT32_MAX,
                                 .rdev = 0x12345678,
                                 .flags = 0,
                                 .size = 1ull << 43,
                                 .atime = 1,
                                 .mtime = 1795473600123456789ull,
                                 .ctime = 3,
                                 .btime = 4,
                                 .parent = 5,
                                 .next_cookie = 6,
                                 .epoch = 7ull << 32,
                                 .seq = 8};
    struct dmt_inode got;
    OK(dmt_store_inode_put(t->st, &n));
    ts_cold(t);
    OK(dmt_store_inode_get(t->st, DMT_LIVE, 9, &got));
    assert_memory_equal(&n, &got, sizeof(n));
    assert_int_equal(dmt_store_inode_get(t->st, DMT_LIVE, 10, &got), -ENOENT);
    assert_int_equal(dmt_store_inode_get(t->st, DMT_LIVE, 8, &got), -ENOENT);
    assert_int_equal(dmt_store_inode_del(t->st, 8, 9), -ENOENT);
    ts_free(t);
}

/* Made and removed between two freezes: nothing is left to write, no row and no data file. */
static void short_lived_is_never_written(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    ts_checkpoint(t);
    ts_file(t, 2);
    ts_entry(t, 1, "tmp", 2, 3);
    ts_fill(t, 2, 0, 50000, 'x');
    OK(dmt_store_xattr_put(t->st, 2, "user.a", "v", 1, t->seq));
    OK(dmt_store_dentry_del(t->st, 1, "tmp", 3, ++t->seq));
    OK(dmt_store_inode_del(t->st, 2, t->seq));
    assert_int_equal(dirty_rows(t), 0);
    struct dmt_store_load load;
    dmt_store_load(t->st, &load);
    assert_int_equal(load.dirty_bytes, 0);
    assert_int_equal(load.live_bytes, 0);
    ts_checkpoint(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM datafile"), 0);
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

static void removed_while_frozen(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_inode n;
    struct dmt_dentry d;
    ts_file(t, 2);
    ts_entry(t, 1, "f", 2, 3);
    ts_fill(t, 2, 0, 30000, 'x');
    ts_freeze(t);
    OK(dmt_store_dentry_del(t->st, 1, "f", 1, ++t->seq));
    OK(dmt_store_inode_del(t->st, 2, t->seq));
    assert_int_equal(dmt_store_dir_empty(t->st, 1), 1);
    ts_checkpoint(t); /* writes the file */
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM inode"), 2);
    assert_int_equal(dmt_store_inode_get(t->st, DMT_LIVE, 2, &n), -ENOENT);
    assert_int_equal(dmt_store_dentry_get(t->st, DMT_LIVE, 1, "f", 1, &d), -ENOENT);
    assert_int_equal(dmt_store_dir_empty(t->st, 1), 1);
    ts_checkpoint(t); /* removes it */
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM inode"), 1);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM extent"), 0);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM datafile"), 0);
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

static void entry_comes_back_with_another_cookie(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_dentry d;
    ts_entry(t, 1, "a", 5, 3);
    ts_entry(t, 1, "b", 6, 4);
    ts_cold(t);
    OK(dmt_store_dentry_del(t->st, 1, "a", 1, ++t->seq));
    ts_entry(t, 1, "a", 7, 5);
    /* cookies change places: the unique index must not see two at a time */
    OK(dmt_store_dentry_put(t->st, 1, "b", 1, 6, S_IFREG, 3, ++t->seq));
    OK(dmt_store_dentry_get(t->st, DMT_LIVE, 1, "a", 1, &d));
    assert_int_equal(d.cookie, 5);
    for (int round = 0; round < 2; round++) {
        OK(dmt_store_dentry_get(t->st, DMT_LIVE, 1, "a", 1, &d));
        assert_int_equal(d.ino, 7);
        assert_int_equal(d.cookie, 5);
        OK(dmt_store_dentry_get(t->st, DMT_LIVE, 1, "b", 1, &d));
        assert_int_equal(d.cookie, 3);
        ts_cold(t);
    }
    assert_int_equal(dmt_store_dentry_del(t->st, 1, "c", 1, ++t->seq), -ENOENT);
    char name[300];
    memset(name, 'n', sizeof(name));
    assert_int_equal(dmt_store_dentry_get(t->st, DMT_LIVE, 1, name, 256, &d), -ENAMETOOLONG);
    OK(dmt_store_dentry_put(t->st, 1, name, 255, 9, S_IFREG, 9, ++t->seq));
    ts_cold(t);
    OK(dmt_store_dentry_get(t->st, DMT_LIVE, 1, name, 255, &d));
    ts_free(t);
}

struct walk {
    struct ts *t;
    uint32_t last, count, stop;
    uint64_t sum;
};
static int on_entry(void *ctx, const char *name, size_t len, const struct dmt_dentry *d)
{
    struct walk *w = ctx;
    struct dmt_inode n;
    char want[32];
    assert_true(d->cookie > w->last);
    assert_int_equal(len, snprintf(want, sizeof(want), "f%u", d->cookie));
    assert_memory_equal(name, want, len);
    w->last = d->cookie;
    w->count++;
    w->sum += d->ino;
    dmt_store_inode_get(w->t->st, DMT_LIVE, d->ino, &n); /* may use the store */
    return w->count == w->stop ? 5 : 0;
}

/* A large directory, partly in SQLite, partly changed in memory, walked in steps. */
static void large_directory(void **state)
{
    (void)state;
    enum { COUNT = 3000 };
    struct ts *t = ts_new();
    uint64_t sum = 0;
    uint32_t count = 0;
    char name[32];
    for (uint32_t c = 3; c < 3 + COUNT; c++) {
        snprintf(name, sizeof(name), "f%u", c);
        ts_entry(t, 1, name, c * 10, c);
        if (c == 3 + COUNT / 2)
            ts_cold(t);
        if (c == 3 + COUNT / 4 * 3)
            ts_freeze(t);
    }
    for (uint32_t c = 3; c < 3 + COUNT; c++) {
        snprintf(name, sizeof(name), "f%u", c);
        if (c % 7 == 0)
            OK(dmt_store_dentry_del(t->st, 1, name, strlen(name), ++t->seq));
        else if (c % 11 == 0)
            OK(dmt_store_dentry_put(t->st, 1, name, strlen(name), c, S_IFREG, c, ++t->seq));
        sum += c % 7 == 0 ? 0 : c % 11 == 0 ? c : c * 10;
        count += c % 7 != 0;
    }
    for (int round = 0; round < 3; round++) {
        struct walk all = {.t = t};
        OK(dmt_store_readdir(t->st, DMT_LIVE, 1, 0, on_entry, &all));
        assert_int_equal(all.count, count);
        assert_int_equal(all.sum, sum);
        struct walk parts = {.t = t};
        int r;
        do {
            parts.stop = parts.count + 37;
            r = dmt_store_readdir(t->st, DMT_LIVE, 1, parts.last, on_entry, &parts);
        } while (r == 5);
        assert_int_equal(r, 0);
        assert_int_equal(parts.count, count);
        assert_int_equal(parts.sum, sum);
        assert_int_equal(dmt_store_dir_empty(t->st, 1), 0);
        ts_checkpoint(t); /* the frozen batch, then the rest, then nothing */
    }
    for (uint32_t c = 3; c < 3 + COUNT; c++) {
        snprintf(name, sizeof(name), "f%u", c);
        if (c % 7)
            OK(dmt_store_dentry_del(t->st, 1, name, strlen(name), ++t->seq));
    }
    assert_int_equal(dmt_store_dir_empty(t->st, 1), 1);
    ts_cold(t);
    assert_int_equal(dmt_store_dir_empty(t->st, 1), 1);
    ts_free(t);
}

static void xattr_values(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    uint8_t big[65536], buf[65536];
    size_t len;
    memset(big, 'b', sizeof(big));
    ts_file(t, 2);
    OK(dmt_store_xattr_put(t->st, 2, "user.big", big, sizeof(big), ++t->seq));
    OK(dmt_store_xattr_put(t->st, 2, "user.none", "", 0, ++t->seq));
    assert_int_equal(dmt_store_xattr_put(t->st, 2, "user.x", big, sizeof(big) + 1, ++t->seq),
                     -ERANGE);
    for (int cold = 0; cold < 2; cold++) {
        OK(dmt_store_xattr_get(t->st, DMT_LIVE, 2, "user.big", NULL, 0, &len));
        assert_int_equal(len, 65536);
        assert_int_equal(dmt_store_xattr_get(t->st, DMT_LIVE, 2, "user.big", buf, 100, &len),
                         -ERANGE);
        OK(dmt_store_xattr_get(t->st, DMT_LIVE, 2, "user.big", buf, sizeof(buf), &len));
        assert_memory_equal(buf, big, sizeof(big));
        OK(dmt_store_xattr_get(t->st, DMT_LIVE, 2, "user.none", buf, sizeof(buf), &len));
        assert_int_equal(len, 0);
        assert_int_equal(
            dmt_store_xattr_get(t->st, DMT_LIVE, 2, "user.nothing", buf, sizeof(buf), &len),
            -ENODATA);
        ts_cold(t);
    }
    OK(dmt_store_xattr_del(t->st, 2, "user.big", ++t->seq));
    assert_int_equal(dmt_store_xattr_del(t->st, 2, "user.big", ++t->seq), -ENODATA);
    ts_freeze(t);
    /* while the removal is written */
    OK(dmt_store_xattr_put(t->st, 2, "user.big", "new", 3, ++t->seq));
    ts_checkpoint(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM xattr"), 1);
    OK(dmt_store_xattr_get(t->st, DMT_LIVE, 2, "user.big", buf, sizeof(buf), &len));
    assert_int_equal(len, 3);
    ts_cold(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM xattr"), 2);
    ts_free(t);
}

/* More objects than the cache keeps: evicted ones come back from SQLite. */
static void more_than_the_cache(void **state)
{
    (void)state;
    enum { COUNT = 70000 };
    struct ts *t = ts_new();
    char name[32];
    for (uint64_t i = 2; i < COUNT; i++) {
        snprintf(name, sizeof(name), "%llu", (unsigned long long)i);
        ts_file(t, i);
        ts_entry(t, 1, name, i, (uint32_t)i + 1);
    }
    ts_checkpoint(t);
    assert_true(t->st->node_lru_n <= 65536);
    for (uint64_t i = 2; i < COUNT; i += 7) {
        struct dmt_inode n;
        struct dmt_dentry d;
        snprintf(name, sizeof(name), "%llu", (unsigned long long)i);
        OK(dmt_store_dentry_get(t->st, DMT_LIVE, 1, name, strlen(name), &d));
        OK(dmt_store_inode_get(t->st, DMT_LIVE, d.ino, &n));
        assert_int_equal(n.ino, i);
    }
    ts_free(t);
}

static bool is_whole(struct ts *t, uint64_t dir)
{
    struct node *n;
    OK(store_node(t->st, dir, &n));
    return n->whole;
}

struct listing {
    struct ts *t;
    uint64_t sum;
    int n, evict_at;
};

/* Names that do not exist, in a directory that does not either: each takes a place in the cache. */
static void evict_entries(struct ts *t)
{
    char name[32];
    struct dmt_dentry d;
    for (int i = 0; i < 140000; i++) {
        snprintf(name, sizeof(name), "none%d", i);
        assert_int_equal(dmt_store_dentry_get(t->st, DMT_LIVE, 999999, name, strlen(name), &d),
                         -ENOENT);
    }
}

static int list_one(void *ctx, const char *name, size_t len, const struct dmt_dentry *d)
{
    struct listing *l = ctx;
    (void)name, (void)len;
    l->sum += d->ino;
    if (++l->n == l->evict_at)
        evict_entries(l->t);
    return 0;
}

static void expect_listing(struct ts *t, uint64_t view, int evict_at, int n, uint64_t sum)
{
    struct listing l = {.t = t, .evict_at = evict_at};
    assert_true(dmt_store_readdir(t->st, view, 2, 0, list_one, &l) >= 0);
    assert_int_equal(l.n, n);
    assert_int_equal(l.sum, sum);
}

/* A directory made here lists itself and knows what it has not, also after a checkpoint; once an
 * entry had to go it is read from SQLite, in the middle of a listing, too. */
static void whole_directory(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    char name[32];
    struct dmt_dentry d;
    ts_file(t, 2);
    for (uint64_t i = 10; i < 20; i++) {
        snprintf(name, sizeof(name), "f%d", (int)i);
        ts_file(t, i);
        ts_entry(t, 2, name, i, (uint32_t)i);
    }
    ts_checkpoint(t);
    assert_true(is_whole(t, 2));
    expect_listing(t, DMT_LIVE, 0, 10, 145);
    assert_int_equal(dmt_store_dentry_get(t->st, DMT_LIVE, 2, "f9", 2, &d), -ENOENT);
    OK(dmt_store_dentry_del(t->st, 2, "f10", 3, ++t->seq));
    ts_freeze(t);
    OK(dmt_store_dentry_del(t->st, 2, "f11", 3, ++t->seq));
    ts_entry(t, 2, "f12", 30, 30);
    expect_listing(t, DMT_LIVE, 0, 8, 145 - 10 - 11 - 12 + 30);
    ts_checkpoint(t);
    assert_true(is_whole(t, 2));
    expect_listing(t, DMT_LIVE, 0, 8, 142);
    expect_listing(t, DMT_LIVE, 3, 8, 142);
    assert_false(is_whole(t, 2));
    OK(dmt_store_dentry_get(t->st, DMT_LIVE, 2, "f12", 3, &d));
    assert_int_equal(d.ino, 30);
    assert_int_equal(dmt_store_dentry_get(t->st, DMT_LIVE, 2, "f11", 3, &d), -ENOENT);
    ts_entry(t, 2, "f31", 31, 31);
    ts_checkpoint(t);
    expect_listing(t, DMT_LIVE, 0, 9, 173);
    ts_cold(t);
    expect_listing(t, DMT_LIVE, 0, 9, 173);
    ts_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(inode_fields_survive),
                                       cmocka_unit_test(short_lived_is_never_written),
                                       cmocka_unit_test(removed_while_frozen),
                                       cmocka_unit_test(entry_comes_back_with_another_cookie),
                                       cmocka_unit_test(large_directory),
                                       cmocka_unit_test(xattr_values),
                                       cmocka_unit_test(more_than_the_cache),
                                       cmocka_unit_test(whole_directory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
