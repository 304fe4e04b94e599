/* test_content.c: what bytes are where: memory, rows, data files, holes; in place or redirected. */
#include <limits.h>
#include <unistd.h>

#include "tests/unit/store/util.h"

static uint64_t allocated(struct ts *t, uint64_t ino)
{
    uint64_t v;
    OK(dmt_store_allocated(t->st, ino, &v));
    return v;
}

static uint64_t dirty_bytes(struct ts *t)
{
    struct dmt_store_load load;
    dmt_store_load(t->st, &load);
    return load.dirty_bytes;
}

/* A file of at most TS_SMALL_MAX bytes is one row; one byte more and it is a data file; cut and
 * rewritten, a row again. */
static void small_and_large(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    ts_file(t, 2);
    ts_fill(t, 2, 0, TS_SMALL_MAX, 'a');
    ts_cold(t);
    assert_int_equal(ts_sql(t, "SELECT length(data) FROM content"), TS_SMALL_MAX);
    assert_int_equal(ts_sql(t, "SELECT map IS NULL FROM content"), 1);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM datafile"), 0);
    ts_fill(t, 2, TS_SMALL_MAX, 1, 'b');
    ts_expect(t, DMT_LIVE, 2, 0, TS_SMALL_MAX, 'a');
    ts_cold(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM content"), 0);
    assert_int_equal(ts_sql(t, "SELECT sum(len) FROM extent WHERE serial=0"), TS_SMALL_MAX + 1);
    ts_expect(t, DMT_LIVE, 2, 0, TS_SMALL_MAX, 'a');
    ts_expect(t, DMT_LIVE, 2, TS_SMALL_MAX, 1, 'b');
    ts_truncate(t, 2, 0);
    ts_fill(t, 2, 100, 50, 'c');
    assert_int_equal(allocated(t, 2), 50);
    ts_cold(t);
    assert_int_equal(ts_sql(t, "SELECT length(data) FROM content"), 150);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM extent"), 0);
    ts_expect(t, DMT_LIVE, 2, 0, 100, 0);
    ts_expect(t, DMT_LIVE, 2, 100, 50, 'c');
    /* the hole is still one */
    assert_int_equal(dmt_store_seek(t->st, DMT_LIVE, 2, 0, 150, true), 100);
    assert_int_equal(allocated(t, 2), 50);
    ts_truncate(t, 2, 0);
    ts_cold(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM content"), 0);
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

/* A database file written over and over costs what it is long, not what was written. */
static void rewriting_is_bounded(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    ts_file(t, 2);
    for (int round = 0; round < 200; round++)
        for (uint64_t block = 0; block < 16; block++)
            ts_fill(t, 2, block * 4096, 4096, round & 0xff);
    assert_in_range(dirty_bytes(t), 65536, 65536 + 16 * 1024);
    ts_expect(t, DMT_LIVE, 2, 0, 65536, 199);
    ts_truncate(t, 2, 0);
    for (int i = 0; i < 65536; i++)
        ts_fill(t, 2, (uint64_t)i, 1, 'q'); /* appended byte by byte: one chunk */
    assert_in_range(dirty_bytes(t), 65536, 65536 + 1024);
    ts_expect(t, DMT_LIVE, 2, 0, 65536, 'q');
    ts_free(t);
}

static void holes_and_seek(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    ts_file(t, 2);
    ts_fill(t, 2, 100000, 1000, 'a');
    ts_fill(t, 2, 300000, 1000, 'b');
    for (int round = 0; round < 3; round++) {
        assert_int_equal(dmt_store_seek(t->st, DMT_LIVE, 2, 0, 301000, true), 100000);
        assert_int_equal(dmt_store_seek(t->st, DMT_LIVE, 2, 100500, 301000, true), 100500);
        assert_int_equal(dmt_store_seek(t->st, DMT_LIVE, 2, 100500, 301000, false), 101000);
        assert_int_equal(dmt_store_seek(t->st, DMT_LIVE, 2, 101000, 301000, true), 300000);
        assert_int_equal(dmt_store_seek(t->st, DMT_LIVE, 2, 300000, 301000, false), 301000);
        assert_int_equal(dmt_store_seek(t->st, DMT_LIVE, 2, 301000, 301000, false), -ENXIO);
        assert_int_equal(dmt_store_seek(t->st, DMT_LIVE, 2, 301000, 400000, true), -ENXIO);
        ts_expect(t, DMT_LIVE, 2, 0, 100000, 0);
        ts_expect(t, DMT_LIVE, 2, 101000, 199000, 0);
        assert_int_equal(allocated(t, 2), 2000);
        if (round == 0)
            ts_freeze(t);
        else if (round == 1)
            ts_cold(t);
    }
    OK(dmt_store_unmap(t->st, 2, 100100, 50, ++t->seq));
    assert_int_equal(allocated(t, 2), 1950);
    ts_expect(t, DMT_LIVE, 2, 100100, 50, 0);
    OK(dmt_store_unmap(t->st, 2, 200000, UINT64_MAX, ++t->seq));
    assert_int_equal(allocated(t, 2), 950);
    ts_cold(t);
    assert_int_equal(allocated(t, 2), 950);
    ts_expect(t, DMT_LIVE, 2, 100100, 50, 0);
    ts_expect(t, DMT_LIVE, 2, 100150, 850, 'a');
    /* cut and extended again: zeros, not what was there */
    ts_truncate(t, 2, 100010);
    ts_expect(t, DMT_LIVE, 2, 100010, 200000, 0);
    ts_fill(t, 2, 300000, 10, 'c');
    ts_cold(t);
    ts_expect(t, DMT_LIVE, 2, 100000, 10, 'a');
    ts_expect(t, DMT_LIVE, 2, 100010, 199990, 0);
    assert_int_equal(dmt_store_write(t->st, 2, DMT_FILE_SIZE_MAX - 1, "ab", 2, ++t->seq), -EFBIG);
    ts_free(t);
}

/* D3: inline bytes over a range that only the live file shows go in place; the map stays as it
 * is. */
static void in_place(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    ts_file(t, 2);
    ts_fill(t, 2, 0, 100000, 'a');
    ts_checkpoint(t);
    assert_int_equal(ts_sql(t, "SELECT hwm FROM datafile WHERE ino=2 AND serial=0"), 100000);
    assert_int_equal(dmt_store_floor(t->st).seq, t->seq);
    ts_fill(t, 2, 50000, 4096, 'b');
    ts_fill(t, 2, 90000, 20000, 'c'); /* partly behind the end */
    ts_cold(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM extent"), 1);
    assert_int_equal(ts_sql(t, "SELECT hwm FROM datafile WHERE ino=2 AND serial=0"), 110000);
    ts_expect(t, DMT_LIVE, 2, 0, 50000, 'a');
    ts_expect(t, DMT_LIVE, 2, 50000, 4096, 'b');
    ts_expect(t, DMT_LIVE, 2, 90000, 20000, 'c');
    ts_free(t);
}

static void redirected_when_pinned(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    ts_file(t, 2);
    ts_fill(t, 2, 0, 100000, 'a');
    ts_checkpoint(t);
    ts_snap(t, "s");
    uint64_t view = t->seq;
    ts_fill(t, 2, 50000, 4096, 'b');
    ts_cold(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM extent"), 3);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM extent_h"), 1);
    assert_int_equal(ts_sql(t, "SELECT hwm FROM datafile WHERE ino=2 AND serial=0"), 104096);
    ts_expect(t, view, 2, 0, 100000, 'a');
    ts_expect(t, DMT_LIVE, 2, 50000, 4096, 'b');
    ts_fill(t, 2, 50000, 4096, 'c'); /* no snapshot shows 'b': in place again */
    ts_fill(t, 2, 10, 10, 'd');
    ts_cold(t);
    assert_int_equal(ts_sql(t, "SELECT hwm FROM datafile WHERE ino=2 AND serial=0"), 104106);
    ts_expect(t, view, 2, 0, 100000, 'a');
    ts_expect(t, DMT_LIVE, 2, 50000, 4096, 'c');
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

/* Blocks of a by-reference file overwritten inline keep the positions of the others, which readers
 * may still ask for. */
static void births_are_exact(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_pieces ps;
    static uint8_t buf[3 << 20];
    ts_file(t, 2);
    uint64_t a = ts_ref(t, 2, 0, 1 << 20, 'a', true), b = ts_ref(t, 2, 1 << 20, 1 << 20, 'b', true);
    ts_checkpoint(t);
    ts_fill(t, 2, 4096, 4096, 'c');
    uint64_t c = t->seq;
    for (int cold = 0; cold < 2; cold++) {
        OK(dmt_store_map(t->st, DMT_LIVE, 2, 0, buf, 2 << 20, &ps));
        assert_int_equal(ps.n, 4);
        assert_int_equal(ps.v[0].born, a);
        assert_int_equal(ps.v[1].born, c);
        assert_int_equal(ps.v[1].off, 4096);
        assert_int_equal(ps.v[1].len, 4096);
        assert_int_equal(ps.v[2].born, a);
        assert_int_equal(ps.v[3].born, b);
        assert_int_equal(ps.v[3].off, 1 << 20);
        dmt_store_pieces_free(t->st, &ps);
        ts_cold(t);
    }
    /* it went in place */
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM datafile WHERE serial=0"), 0);
    ts_expect(t, DMT_LIVE, 2, 4096, 4096, 'c');
    ts_expect(t, DMT_LIVE, 2, 8192, (1 << 20) - 8192, 'a');
    ts_free(t);
}

static void changed_while_frozen(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_pos pos = {.epoch = 1};
    ts_file(t, 2);
    ts_fill(t, 2, 0, 40000, 'a');
    ts_freeze(t);
    assert_int_equal(dmt_store_freeze(t->st, &pos), -EBUSY);
    ts_fill(t, 2, 10000, 10000, 'b');
    ts_expect(t, DMT_LIVE, 2, 0, 10000, 'a');
    ts_expect(t, DMT_LIVE, 2, 10000, 10000, 'b');
    ts_checkpoint(t);
    ts_expect(t, DMT_LIVE, 2, 10000, 10000, 'b');
    ts_expect(t, DMT_LIVE, 2, 20000, 20000, 'a');
    ts_reopen(t); /* what came after the freeze was not in the checkpoint */
    ts_expect(t, DMT_LIVE, 2, 0, 40000, 'a');
    ts_free(t);
}

/* A read that has been mapped sees what it mapped, also after the range was replaced, checkpointed
 * and freed. */
static void mapped_reads_stay_valid(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_pieces ps;
    static uint8_t buf[1 << 20];
    ts_file(t, 2);
    ts_ref(t, 2, 0, 1 << 20, 'a', true);
    OK(dmt_store_ref_sync(t->st, &t->lk, 2));
    OK(dmt_store_mark(t->st, 2, t->seq, true, 0, t->seq));
    ts_checkpoint(t);
    OK(dmt_store_map(t->st, DMT_LIVE, 2, 0, buf, sizeof(buf), &ps));
    ts_ref(t, 2, 0, 1 << 20, 'b', true);
    OK(dmt_store_ref_sync(t->st, &t->lk, 2));
    OK(dmt_store_mark(t->st, 2, t->seq, true, 0, t->seq));
    uint64_t punches = faultio_count(t->fio, FAULTIO_FALLOCATE);
    ts_checkpoint(t);
    assert_int_equal(faultio_count(t->fio, FAULTIO_FALLOCATE), punches); /* waits for the reader */
    assert_int_equal(dmt_store_pieces_read(t->st, &ps, 0, buf, true), 0);
    for (size_t i = 0; i < sizeof(buf); i++)
        assert_int_equal(buf[i], 'a');
    dmt_store_pieces_free(t->st, &ps);
    ts_checkpoint(t);
    assert_int_equal(faultio_count(t->fio, FAULTIO_FALLOCATE), punches + 1);
    ts_expect(t, DMT_LIVE, 2, 0, 1 << 20, 'b');
    OK(dmt_store_map(t->st, DMT_LIVE, 2, 0, buf, sizeof(buf), &ps));
    dmt_store_truncate(t->st, 2, 0, ++t->seq);
    ts_inode(t, 2, 0);
    ts_checkpoint(t); /* the file is gone, the descriptor is not */
    OK(dmt_store_pieces_read(t->st, &ps, 0, buf, false));
    assert_int_equal(buf[12345], 'b');
    dmt_store_pieces_free(t->st, &ps);
    ts_free(t);
}

static void *checkpoint_thread(void *arg)
{
    ts_checkpoint(arg);
    return NULL;
}

/* Rows are read on a connection of its own, and a change needs none: while the transaction of a
 * checkpoint is open, and its COMMIT waits for the disk, nobody else does. */
static void others_go_on_during_a_commit(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct dmt_inode n;
    pthread_t checkpointer;
    for (uint64_t ino = 2; ino < 300; ino++)
        ts_file(t, ino);
    ts_cold(t);
    for (uint64_t ino = 2; ino < 100; ino++)
        ts_inode(t, ino, 10);
    ts_freeze(t);
    faultio_match(t->fio, "workspace.db");
    faultio_hold(t->fio, FAULTIO_SYNC);
    OK(pthread_create(&checkpointer, NULL, checkpoint_thread, t));
    faultio_wait_held(t->fio, 1);
    (void)alarm(60); /* whoever waits here waits for ever */
    pthread_mutex_lock(&t->mutex);
    for (uint64_t ino = 2; ino < 300; ino++) {
        OK(dmt_store_inode_get(t->st, DMT_LIVE, ino, &n));
        assert_int_equal(n.size, ino < 100 ? 10 : 0);
    }
    ts_fill(t, 200, 0, 40000, 'a');
    pthread_mutex_unlock(&t->mutex);
    (void)alarm(0);
    faultio_release(t->fio);
    OK(pthread_join(checkpointer, NULL));
    ts_expect(t, DMT_LIVE, 200, 0, 40000, 'a');
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

struct wal_order {
    bool unsynced;
    unsigned removals, early;
};

static void watch_wal(void *ctx, unsigned kind, const char *path)
{
    struct wal_order *o = ctx;
    if (strstr(path, "workspace.db-wal") && kind == FAULTIO_WRITE)
        o->unsynced = true;
    else if (strstr(path, "workspace.db-wal") && kind == FAULTIO_SYNC)
        o->unsynced = false;
    else if (strstr(path, "/data/") && kind == FAULTIO_UNLINK) {
        o->removals++;
        o->early += o->unsynced;
    }
}

/* What a COMMIT frees goes when that COMMIT is on the disk, and not with the next sync of the
 * WAL. */
static void commits_are_durable_at_once(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    struct wal_order o = {.unsynced = false};
    ts_file(t, 2);
    ts_ref(t, 2, 0, 1 << 20, 'a', true);
    OK(dmt_store_ref_sync(t->st, &t->lk, 2));
    OK(dmt_store_mark(t->st, 2, t->seq, true, 0, t->seq));
    ts_checkpoint(t);
    faultio_watch(t->fio, watch_wal, &o);
    OK(dmt_store_inode_del(t->st, 2, ++t->seq));
    ts_checkpoint(t);
    faultio_watch(t->fio, NULL, NULL);
    assert_int_equal(o.removals, 1);
    assert_int_equal(o.early, 0);
    ts_free(t);
}

static void freed_space_survives_a_crash(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    char path[128];
    ts_file(t, 2);
    ts_fill(t, 2, 0, 100000, 'a');
    ts_checkpoint(t);
    snprintf(path, sizeof(path), "%s/data/02/2.0", t->dir);
    assert_int_equal(access(path, F_OK), 0);
    OK(dmt_store_inode_del(t->st, 2, ++t->seq));
    faultio_fail(t->fio, FAULTIO_UNLINK, 1, 1, EIO); /* as if the process had died before it */
    ts_checkpoint(t);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM garbage"), 1);
    ts_reopen(t);
    ts_checkpoint(t);
    assert_int_equal(access(path, F_OK), -1);
    ts_checkpoint(t);
    assert_int_equal(ts_sql(t, "SELECT count(*) FROM garbage"), 0);
    ts_free(t);
}

/* A file that a killed process made, and of which no row knows: it goes with its inode, also with
 * one that no checkpoint has seen. */
static void unknown_files_go_with_their_inode(void **state)
{
    (void)state;
    struct ts *t = ts_new();
    ts_file(t, 5);
    ts_cold(t);
    ts_file(t, 7);
    static const struct {
        uint64_t ino;
        uint32_t serial;
    } left[] = {{5, 0}, {5, 1}, {7, 0}, {7, 1}};
    char path[PATH_MAX];
    for (size_t i = 0; i < 4; i++) {
        store_file_path(t->st, left[i].ino, left[i].serial, path, sizeof(path));
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        assert_int_equal(fclose(f), 0);
    }
    OK(dmt_store_inode_del(t->st, 5, ++t->seq));
    OK(dmt_store_inode_del(t->st, 7, ++t->seq));
    ts_checkpoint(t);
    ts_file(t, 8);
    ts_checkpoint(t);
    for (size_t i = 0; i < 4; i++) {
        store_file_path(t->st, left[i].ino, left[i].serial, path, sizeof(path));
        assert_int_equal(access(path, F_OK), -1);
    }
    assert_int_equal(ts_findings(t), 0);
    ts_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(small_and_large),
                                       cmocka_unit_test(rewriting_is_bounded),
                                       cmocka_unit_test(holes_and_seek),
                                       cmocka_unit_test(in_place),
                                       cmocka_unit_test(redirected_when_pinned),
                                       cmocka_unit_test(births_are_exact),
                                       cmocka_unit_test(changed_while_frozen),
                                       cmocka_unit_test(mapped_reads_stay_valid),
                                       cmocka_unit_test(others_go_on_during_a_commit),
                                       cmocka_unit_test(commits_are_durable_at_once),
                                       cmocka_unit_test(unknown_files_go_with_their_inode),
                                       cmocka_unit_test(freed_space_survives_a_crash)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
