/* test_history.c: views at pinned positions, shared content, the sweep after a snapshot went,
 * changed inodes. */
#include "tests/unit/store/util.h"

static int note_name(void *ctx, const char *name, size_t len, const struct dmt_dentry *d)
{
    ts_say(ctx, "%.*s=%llu ", (int)len, name, (unsigned long long)d->ino);
    return 0;
}
static int note_xattr(void *ctx, const char *name, const void *val, size_t len)
{
    ts_say(ctx, "%s=%.*s ", name, (int)len, (const char *)val);
    return 0;
}

/* One story, looked at from memory, while frozen, and from disk. */
static void views(void **state)
{
    (void)state;
    for (int how = 0; how < 4; how++) {
        struct ts *t = ts_new();
        struct dmt_inode n;
        struct dmt_dentry d;
        char text[TS_TEXT];
        ts_file(t, 2);
        ts_entry(t, 1, "a", 2, 3);
        ts_fill(t, 2, 0, 30000, 'a');
        OK(dmt_store_xattr_put(t->st, 2, "user.k", "old", 3, t->seq));
        OK(dmt_store_xattr_put(t->st, 2, "user.gone", "g", 1, t->seq));
        if (how & 1)
            ts_checkpoint(t);
        ts_snap(t, "s1");
        uint64_t s1 = t->seq;
        ts_fill(t, 2, 10000, 10000, 'b');
        OK(dmt_store_xattr_put(t->st, 2, "user.k", "new", 3, t->seq));
        OK(dmt_store_xattr_del(t->st, 2, "user.gone", t->seq));
        OK(dmt_store_dentry_del(t->st, 1, "a", 1, ++t->seq));
        ts_entry(t, 1, "b", 2, 4);
        if (how & 2)
            ts_freeze(t);
        ts_snap(t, "s2");
        uint64_t s2 = t->seq;
        OK(dmt_store_dentry_del(t->st, 1, "b", 1, ++t->seq));
        OK(dmt_store_inode_del(t->st, 2, t->seq));
        for (int cold = 0; cold < 3; cold++) {
            assert_int_equal(dmt_store_inode_get(t->st, DMT_LIVE, 2, &n), -ENOENT);
            OK(dmt_store_inode_get(t->st, s1, 2, &n));
            assert_int_equal(n.size, 30000);
            OK(dmt_store_inode_get(t->st, s2, 2, &n));
            ts_expect(t, s1, 2, 0, 30000, 'a');
            ts_expect(t, s2, 2, 0, 10000, 'a');
            ts_expect(t, s2, 2, 10000, 10000, 'b');
            OK(dmt_store_dentry_get(t->st, s1, 1, "a", 1, &d));
            assert_int_equal(dmt_store_dentry_get(t->st, s1, 1, "b", 1, &d), -ENOENT);
            assert_int_equal(dmt_store_dentry_get(t->st, s2, 1, "a", 1, &d), -ENOENT);
            OK(dmt_store_dentry_get(t->st, s2, 1, "b", 1, &d));
            text[0] = '\0';
            OK(dmt_store_readdir(t->st, s1, 1, 0, note_name, text));
            OK(dmt_store_readdir(t->st, s2, 1, 0, note_name, text));
            OK(dmt_store_readdir(t->st, DMT_LIVE, 1, 0, note_name, text));
            assert_string_equal(text, "a=2 b=2 ");
            text[0] = '\0';
            OK(dmt_store_xattr_each(t->st, s2, 2, note_xattr, text));
            assert_string_equal(text, "user.k=new ");
            size_t len;
            OK(dmt_store_xattr_get(t->st, s1, 2, "user.gone", text, sizeof(text), &len));
            OK(dmt_store_xattr_get(t->st, s1, 2, "user.k", text, sizeof(text), &len));
            assert_memory_equal(text, "old", 3);
            if (cold == 0 && (how & 2))
                ts_checkpoint(t);
            else
                ts_cold(t);
        }
        ts_free(t);
    }
}

static void only_what_is_needed(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    ts_file(t, 2);
    for (int i = 0; i < 50; i++) { /* no snapshot: no history */
        ts_fill(t, 2, 0, 30000, i);
        if (i % 10 == 0)
            ts_checkpoint(t);
    }
    ts_snap(t, "s");
    OK(dmt_store_snap_del(t->st, "s"));
    ts_snap(t, "passing"); /* gone before the next freeze: its history is not written either */
    ts_fill(t, 2, 0, 30000, 'x');
    ts_truncate(t, 2, 0);
    OK(dmt_store_snap_del(t->st, "passing"));
    ts_checkpoint(t);
    assert_int_equal(
        ts_sql(t, "SELECT (SELECT count(*) FROM inode_h)+(SELECT count(*) FROM extent_h)"), 0);
    ts_free(t);
}

/* The rows of a snapshot that went are freed by later checkpoints, its neighbours' stay; the space
 * goes, too. */
static void sweep(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    char path[128], name[32];
    struct stat sb;
    ts_file(t, 2);
    ts_fill(t, 2, 0, 200000, 'a');
    for (uint32_t i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "e%u", i);
        ts_entry(t, 1, name, 2, 3 + i);
    }
    ts_checkpoint(t);
    ts_snap(t, "s1");
    uint64_t s1 = t->seq;
    ts_fill(t, 2, 0, 100000, 'b');
    OK(dmt_store_dentry_del(t->st, 1, "e1", 2, ++t->seq));
    ts_snap(t, "s2");
    uint64_t s2 = t->seq;
    ts_fill(t, 2, 0, 200000, 'c');
    OK(dmt_store_dentry_del(t->st, 1, "e2", 2, ++t->seq));
    OK(dmt_store_xattr_put(t->st, 2, "user.k", "v", 1, t->seq));
    ts_cold(t);
    assert_int_equal(t->st->pinned_bytes, 300000);
    OK(dmt_store_snap_del(t->st, "s1"));
    uint8_t byte;
    assert_int_equal(ts_read(t, s1, 2, 0, &byte, 1), DMT_E_GONE);
    ts_cold(t);
    ts_expect(t, s2, 2, 0, 100000, 'b');
    ts_expect(t, s2, 2, 100000, 100000, 'a');
    ts_expect(t, DMT_LIVE, 2, 0, 200000, 'c');
    assert_int_equal(t->st->pinned_bytes, 200000);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM dentry_h"), 1);
    OK(dmt_store_snap_del(t->st, "s2"));
    ts_cold(t);
    assert_int_equal(t->st->pinned_bytes, 0);
    assert_int_equal(
        ts_sql(
            t,
            "SELECT (SELECT count(*) FROM inode_h)+(SELECT count(*) FROM dentry_h)+(SELECT count(*) FROM extent_h)"),
        0);
    snprintf(path, sizeof(path), "%s/data/02/2.0", t->dir);
    assert_int_equal(stat(path, &sb), 0);
    assert_true(sb.st_blocks * 512 < 300000); /* what was pinned has been punched */
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

/* More history than one checkpoint looks at: it goes on after a restart, and a second deletion
 * starts it over. */
static void sweep_is_bounded(void **state)
{
    (void)state;
    enum { COUNT = 25000 };
    struct ts *t = ts_new();
    for (uint64_t i = 2; i < COUNT; i++)
        ts_file(t, i);
    ts_checkpoint(t);
    ts_snap(t, "s1");
    for (uint64_t i = 2; i < COUNT; i++)
        ts_file(t, i);
    ts_checkpoint(t);
    ts_snap(t, "s2");
    ts_file(t, 2);
    ts_checkpoint(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM inode_h"), COUNT - 1);
    OK(dmt_store_snap_del(t->st, "s1"));
    ts_checkpoint(t);
    int64_t left = ts_sql(t, "SELECT count(*) FROM inode_h");
    assert_in_range(left, 1000, COUNT - 10000);
    assert_int_equal(ts_sql(t, "SELECT val FROM meta WHERE key='.sweep'"), 1);
    ts_reopen(t);
    OK(dmt_store_snap_del(t->st, "s2"));
    for (int i = 0; i < 4; i++)
        ts_checkpoint(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM inode_h"), 0);
    assert_int_equal(ts_sql(t, "SELECT val FROM meta WHERE key='.sweep'"), 0);
    ts_free(t);
}

static void count_data_writes(void *ctx, unsigned kind, const char *path)
{
    *(unsigned *)ctx += kind == FAULTIO_WRITE && strstr(path, "/data/");
}

/* Rollback of one file: no byte moves, both keep what they share whatever happens to the other. */
static void shared_content(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    ts_file(t, 2);
    ts_file(t, 3);
    ts_ref(t, 2, 0, 1 << 20, 'a', true);
    OK(dmt_store_ref_sync(t->st, &t->lk, 2));
    OK(dmt_store_mark(t->st, 2, t->seq, true, 0, t->seq));
    ts_checkpoint(t);
    ts_snap(t, "s");
    uint64_t s = t->seq;
    ts_fill(t, 2, 0, 300000, 'b');
    ts_checkpoint(t);
    unsigned writes = 0;
    faultio_watch(t->fio, count_data_writes, &writes);
    OK(dmt_store_content_from(t->st, 3, 2, s, ++t->seq));
    ts_inode(t, 3, 1 << 20);
    OK(dmt_store_content_from(t->st, 2, 2, s, ++t->seq));
    ts_inode(t, 2, 1 << 20);
    ts_checkpoint(t);
    assert_int_equal(writes, 0);
    faultio_watch(t->fio, NULL, NULL);
    ts_expect(t, DMT_LIVE, 2, 0, 1 << 20, 'a');
    ts_expect(t, DMT_LIVE, 3, 0, 1 << 20, 'a');
    uint64_t bytes;
    OK(dmt_store_allocated(t->st, 3, &bytes));
    assert_int_equal(bytes, 1 << 20);
    ts_fill(t, 2, 500000, 100000, 'c'); /* must not go in place */
    OK(dmt_store_snap_del(t->st, "s"));
    ts_cold(t);
    ts_expect(t, DMT_LIVE, 3, 0, 1 << 20, 'a');
    ts_expect(t, DMT_LIVE, 2, 500000, 100000, 'c');
    OK(dmt_store_inode_del(t->st, 2, ++t->seq)); /* the owner goes, its file must stay */
    ts_cold(t);
    ts_expect(t, DMT_LIVE, 3, 0, 1 << 20, 'a');
    assert_int_equal(ts_findings(t), 0);
    OK(dmt_store_inode_del(t->st, 3, ++t->seq));
    ts_cold(t);
    ts_checkpoint(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM datafile"), 0);
    char cmd[160];
    snprintf(cmd, sizeof(cmd), "test -z \"$(find %s/data -type f)\"", t->dir);
    assert_int_equal(system(cmd), 0);
    assert_int_equal(dmt_store_content_from(t->st, 3, 2, s, ++t->seq), DMT_E_GONE);
    ts_free(t);
}

/* Shared and changed at once, before SQLite knows of the sharing. */
static void shared_in_one_batch(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        struct ts *t = ts_new();
        ts_file(t, 2);
        ts_file(t, 3);
        ts_fill(t, 2, 0, 400000, 'a');
        ts_checkpoint(t);
        OK(dmt_store_content_from(t->st, 3, 2, DMT_LIVE, ++t->seq));
        ts_inode(t, 3, 400000);
        if (how == 0)
            ts_fill(t, 2, 0, 200000, 'b');
        else if (how == 1)
            ts_truncate(t, 2, 0);
        else
            OK(dmt_store_inode_del(t->st, 2, ++t->seq));
        ts_cold(t);
        ts_checkpoint(t);
        ts_expect(t, DMT_LIVE, 3, 0, 400000, 'a');
        if (how == 0)
            ts_expect(t, DMT_LIVE, 2, 0, 200000, 'b');
        assert_int_equal(ts_findings(t), 0);
        ts_free(t);
    }
}

static int note_ino(void *ctx, uint64_t ino)
{
    *(uint64_t *)ctx |= 1ull << ino;
    return 0;
}

static void changed_inodes(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    ts_file(t, 2);
    ts_file(t, 3);
    ts_file(t, 4);
    ts_snap(t, "a");
    uint64_t a = t->seq, set;
    ts_file(t, 3);
    ts_file(t, 5);
    ts_snap(t, "b");
    uint64_t b = t->seq;
    OK(dmt_store_inode_del(t->st, 4, ++t->seq));
    ts_file(t, 5);
    ts_checkpoint(t);
    set = 0;
    OK(dmt_store_changed(t->st, a, b, note_ino, &set));
    assert_int_equal(set, 1u << 3 | 1u << 5);
    set = 0;
    OK(dmt_store_changed(t->st, b, DMT_LIVE, note_ino, &set));
    assert_int_equal(set, 1u << 4 | 1u << 5);
    set = 0;
    OK(dmt_store_changed(t->st, a, DMT_LIVE, note_ino, &set));
    assert_int_equal(set, 1u << 3 | 1u << 4 | 1u << 5);
    ts_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views),          cmocka_unit_test(only_what_is_needed),
        cmocka_unit_test(sweep),          cmocka_unit_test(sweep_is_bounded),
        cmocka_unit_test(shared_content), cmocka_unit_test(shared_in_one_batch),
        cmocka_unit_test(changed_inodes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
