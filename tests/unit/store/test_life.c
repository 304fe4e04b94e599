/* test_life.c: making, opening, locking, reloading a store; small values; snapshots and epochs as
 * rows. */
#include <sys/wait.h>

#include "tests/unit/store/util.h"

static void create_and_open(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_err err = {0};
    struct dmt_inode root;
    assert_int_equal(dmt_store_create(&t->conf, &t->id, 0, 0, 0, 0, &err), -EEXIST);
    assert_memory_equal(dmt_store_ident(t->st)->lineage, t->id.lineage, 16);
    assert_memory_equal(dmt_store_ident(t->st)->store_id, t->id.store_id, 16);
    assert_string_equal(dmt_store_ident(t->st)->name, "unit");
    assert_int_equal(dmt_store_applied(t->st).seq, 0);
    OK(dmt_store_inode_get(t->st, DMT_LIVE, DMT_ROOT, &root));
    assert_int_equal(root.mode, S_IFDIR | 0755);
    assert_int_equal(root.uid, 10);
    assert_int_equal(root.gid, 20);
    assert_int_equal(root.mtime, 30);
    assert_int_equal(root.next_cookie, 3);
    assert_int_equal(root.parent, DMT_ROOT);
    uint64_t total, spare;
    OK(dmt_store_space(t->st, &total, &spare));
    assert_true(total >= spare && spare > 0);
    struct dmt_store_load load;
    dmt_store_load(t->st, &load);
    assert_int_equal(load.inodes, 1);
    assert_int_equal(load.dirty_rows, 0);
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

static void one_process_at_a_time(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_store *other;
    struct dmt_err err = {0};
    char pid[32];
    assert_int_equal(dmt_store_open(&other, &t->conf, &err), -EBUSY);
    snprintf(pid, sizeof(pid), "process %ld", (long)getpid());
    assert_non_null(strstr(err.msg, pid));
    assert_string_not_equal(err.hint, "");
    struct dmt_import *im;
    assert_int_equal(dmt_store_import_begin(&im, &t->conf, &t->id, &err), -EBUSY);
    ts_reopen(t); /* closing gives it free */
    ts_free(t);
}

/* Who holds the store opens it more than once, and nobody comes in between. */
static void held_between_two_opens(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_store *st;
    struct dmt_err err = {0};
    struct dmt_store_conf mine = t->conf, theirs = t->conf;
    int fd;
    assert_int_equal(dmt_store_lock(t->conf.dir, &fd, &err), -EBUSY);
    dmt_store_close(t->st);
    OK(dmt_store_lock(t->conf.dir, &fd, &err));
    assert_int_equal(dmt_store_lock("/nowhere", &mine.lock_fd, NULL), -ENOENT);
    mine.lock_fd = fd;
    for (int i = 0; i < 2; i++) {
        OK(dmt_store_open(&st, &mine, &err));
        dmt_store_close(st);
        assert_int_equal(dmt_store_open(&st, &theirs, &err), -EBUSY);
    }
    close(fd);
    OK(dmt_store_open(&t->st, &theirs, &err));
    ts_free(t);
}

static void not_a_store(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_store *st;
    struct dmt_err err = {0};
    char path[96];
    dmt_store_close(t->st);
    ts_sql(t, "PRAGMA user_version=99");
    assert_int_equal(dmt_store_open(&st, &t->conf, &err), DMT_E_VERSION);
    assert_string_not_equal(err.hint, "");
    ts_sql(t, "PRAGMA user_version=2");
    ts_sql(t, "DELETE FROM meta WHERE key='.store_id'");
    assert_int_equal(dmt_store_open(&st, &t->conf, &err), DMT_E_CORRUPT);
    snprintf(path, sizeof(path), "%s/workspace.db", t->dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(
        "this is not a database, whatever its name says; it is long enough to have a header, though, were it one......",
        f);
    fclose(f);
    assert_int_equal(dmt_store_open(&st, &t->conf, &err), DMT_E_CORRUPT);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(dmt_store_open(&st, &t->conf, &err), -ENOENT);
    OK(dmt_store_create(&t->conf, &t->id, S_IFDIR | 0755, 0, 0, 1, &err));
    ts_open(t);
    ts_free(t);
}

static void reload_drops_what_is_dirty(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_inode n;
    struct dmt_err err = {0};
    ts_file(t, 5);
    ts_checkpoint(t);
    uint64_t at = t->seq;
    ts_file(t, 6);
    ts_fill(t, 5, 0, 100, 'x');
    OK(dmt_store_meta_put_u64(t->st, "k", 5));
    ts_freeze(t); /* a batch under way is dropped, too */
    ts_file(t, 7);
    OK(dmt_store_reload(t->st, &err));
    assert_int_equal(dmt_store_applied(t->st).seq, at);
    assert_int_equal(dmt_store_applied(t->st).chain, at + 100);
    assert_int_equal(dmt_store_floor(t->st).seq, at);
    assert_int_equal(dmt_store_inode_get(t->st, DMT_LIVE, 6, &n), -ENOENT);
    assert_int_equal(dmt_store_inode_get(t->st, DMT_LIVE, 7, &n), -ENOENT);
    OK(dmt_store_inode_get(t->st, DMT_LIVE, 5, &n));
    assert_int_equal(n.size, 0);
    struct dmt_store_load load;
    dmt_store_load(t->st, &load);
    assert_int_equal(load.dirty_rows, 0);
    assert_int_equal(load.dirty_bytes, 0);
    assert_int_equal(load.inodes, 2);
    assert_int_equal(load.live_bytes, 0);
    ts_free(t);
}

static void small_values(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    void *p;
    size_t len;
    uint64_t v;
    assert_int_equal(dmt_store_meta_get(t->st, "none", &p, &len), -ENOENT);
    OK(dmt_store_meta_u64(t->st, "none", 42, &v));
    assert_int_equal(v, 42);
    OK(dmt_store_meta_put(t->st, "text", "hello", 5));
    OK(dmt_store_meta_put(t->st, "text", "longer than before", 18));
    OK(dmt_store_meta_put(t->st, "empty", "", 0));
    for (uint64_t i = 0; i < 1000; i++)
        OK(dmt_store_meta_put_u64(t->st, "counter", i));
    struct dmt_store_load load;
    dmt_store_load(t->st, &load);
    assert_int_equal(load.dirty_rows, 3); /* a counter is one row, however often it is set */
    ts_freeze(t);
    OK(dmt_store_meta_put_u64(t->st, "counter", 5000)); /* of the next batch */
    ts_checkpoint(t);
    ts_reopen(t);
    OK(dmt_store_meta_u64(t->st, "counter", 0, &v));
    assert_int_equal(v, 999);
    OK(dmt_store_meta_put_u64(t->st, "counter", 7));
    ts_cold(t);
    OK(dmt_store_meta_u64(t->st, "counter", 0, &v));
    assert_int_equal(v, 7);
    OK(dmt_store_meta_get(t->st, "text", &p, &len));
    assert_int_equal(len, 18);
    assert_string_equal(p, "longer than before");
    free(p);
    OK(dmt_store_meta_get(t->st, "empty", &p, &len));
    assert_int_equal(len, 0);
    free(p);
    assert_int_equal(dmt_store_meta_u64(t->st, "text", 0, &v), DMT_E_CORRUPT);
    ts_free(t);
}

static int list_snap(void *ctx, const struct dmt_snapshot *s)
{
    ts_say(ctx, "%s ", s->name);
    return 0;
}
static int list_epoch(void *ctx, const struct dmt_epoch_row *e)
{
    ts_say(ctx, "%llu/%s/%s ", (unsigned long long)e->epoch, e->node, e->reason);
    return 0;
}

static void snapshots_and_epochs(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_snapshot s = {.serial = 3,
                             .seq = 30,
                             .epoch = 9,
                             .time_ns = 99,
                             .name = "b",
                             .note = "why"},
                        got;
    OK(dmt_store_snap_put(t->st, &s));
    assert_int_equal(dmt_store_snap_put(t->st, &s), -EEXIST);
    s.serial = 2, s.seq = 10, strcpy(s.name, "a");
    OK(dmt_store_snap_put(t->st, &s));
    s.serial = 4, s.seq = 40, strcpy(s.name, "c");
    OK(dmt_store_snap_put(t->st, &s));
    OK(dmt_store_snap_del(t->st, "a"));
    assert_int_equal(dmt_store_snap_del(t->st, "a"), -ENOENT);
    struct dmt_epoch_row e = {.epoch = 2ull << 32,
                              .parent = 1,
                              .switch_seq = 5,
                              .switch_chain = UINT64_MAX,
                              .node = "n2",
                              .reason = "r2"};
    OK(dmt_store_epoch_put(t->st, &e));
    e.epoch = 1ull << 32, strcpy(e.node, "n1");
    OK(dmt_store_epoch_put(t->st, &e));
    strcpy(e.reason, "again"); /* the same epoch: replaced */
    OK(dmt_store_epoch_put(t->st, &e));
    for (int cold = 0; cold < 2; cold++) {
        char text[TS_TEXT] = "";
        OK(dmt_store_snap_each(t->st, list_snap, text));
        assert_string_equal(text, "b c ");
        text[0] = '\0';
        OK(dmt_store_epoch_each(t->st, list_epoch, text));
        assert_string_equal(text, "4294967296/n1/again 8589934592/n2/r2 ");
        OK(dmt_store_snap_get(t->st, "b", &got));
        assert_int_equal(got.serial, 3);
        assert_int_equal(got.time_ns, 99);
        assert_string_equal(got.note, "why");
        OK(dmt_store_snap_by_serial(t->st, 4, &got));
        assert_string_equal(got.name, "c");
        assert_int_equal(dmt_store_snap_get(t->st, "a", &got), -ENOENT);
        assert_int_equal(dmt_store_snap_by_serial(t->st, 2, &got), -ENOENT);
        ts_cold(t);
    }
    ts_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(create_and_open),
                                       cmocka_unit_test(one_process_at_a_time),
                                       cmocka_unit_test(held_between_two_opens),
                                       cmocka_unit_test(not_a_store),
                                       cmocka_unit_test(reload_drops_what_is_dirty),
                                       cmocka_unit_test(small_values),
                                       cmocka_unit_test(snapshots_and_epochs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
