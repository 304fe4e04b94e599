/* test_resend.c: a process that takes a mount over: what its predecessor did is not done twice, and
 * what the kernel may hold stays. */
#include "tests/unit/workspace/fixture.h"

#define MOUNT 77u

static struct dmt_op op_of(uint64_t unique, bool resent)
{
    return (struct dmt_op){.umask = 022, .unique = unique, .instance = MOUNT, .resent = resent};
}

/* The next process goes on with the mount. */
static void take_over(struct fx *f)
{
    f->conf.resume = MOUNT;
    fx_crash(f);
    f->conf.resume = 0;
}

static uint64_t made(struct fx *f, uint64_t unique, bool resent, const char *name, uint32_t mode)
{
    struct dmt_op op = op_of(unique, resent);
    struct dmt_attr a;
    assert_int_equal(
        dmt_ws_make(f->ws, &op, DMT_ROOT, name, mode, 0, S_ISLNK(mode) ? "t" : NULL, &a), 0);
    assert_true(op.seq > 0);
    return a.node;
}

static uint64_t linked(struct fx *f, uint64_t unique, bool resent, uint64_t ino, const char *name)
{
    struct dmt_op op = op_of(unique, resent);
    struct dmt_attr a;
    assert_int_equal(dmt_ws_link(f->ws, &op, ino, DMT_ROOT, name, &a), 0);
    return (uint64_t)a.st.st_nlink;
}

static void renamed(struct fx *f, uint64_t unique, bool resent, const char *a, const char *b,
                    uint32_t flags)
{
    struct dmt_op op = op_of(unique, resent);
    assert_int_equal(dmt_ws_rename(f->ws, &op, DMT_ROOT, a, DMT_ROOT, b, flags), 0);
}

static void removed(struct fx *f, uint64_t unique, bool resent, const char *name, bool dir)
{
    struct dmt_op op = op_of(unique, resent);
    assert_int_equal(dmt_ws_unlink(f->ws, &op, DMT_ROOT, name, dir), 0);
}

struct made_all {
    uint64_t file, dir, link, tmp;
};

/* One of each request; the second time they are resent. */
static void run_all(struct fx *f, bool resent, uint64_t attrs, struct made_all *m)
{
    struct dmt_op op;
    struct dmt_attr a;
    struct dmt_setattr sa = {.mask = DMT_SET_SIZE, .size = 3};
    m->file = made(f, 100, resent, "file", S_IFREG | 0644);
    m->dir = made(f, 102, resent, "dir", S_IFDIR | 0755);
    m->link = made(f, 104, resent, "sym", S_IFLNK | 0777);
    m->tmp = made(f, 106, resent, NULL, S_IFREG | 0600);
    assert_int_equal(linked(f, 108, resent, m->file, "hard"), 2);
    renamed(f, 110, resent, "a", "b", 0);
    renamed(f, 112, resent, "x", "y", RENAME_EXCHANGE);
    removed(f, 114, resent, "gone", false);
    removed(f, 116, resent, "gonedir", true);
    op = op_of(118, resent);
    assert_int_equal(dmt_ws_write(f->ws, &op, m->file, "hello", 5, 0, false), 0);
    assert_true(op.seq > 0);
    op = op_of(120, resent);
    assert_int_equal(dmt_ws_setattr(f->ws, &op, m->file, &sa, &a), 0);
    assert_int_equal(a.st.st_size, 3);
    op = op_of(122, resent);
    assert_int_equal(dmt_ws_fallocate(f->ws, &op, m->file,
                                      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1, false),
                     0);
    op = op_of(124, resent);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, m->file, "user.k", "v", 1, XATTR_CREATE), 0);
    op = op_of(126, resent);
    assert_int_equal(dmt_ws_removexattr(f->ws, &op, attrs, "user.d"), 0);
}

/* Returns the inode that run_all takes an attribute from. */
static uint64_t set_up(struct fx *f)
{
    static const char *const files[] = {"a", "x", "y", "gone"};
    f->conf.keep_recent = true;
    fx_reopen(f);
    for (int i = 0; i < 4; i++)
        fx_file(f, DMT_ROOT, files[i]);
    fx_dir(f, DMT_ROOT, "gonedir");
    uint64_t d = fx_dir(f, DMT_ROOT, "attrs");
    fx_setxattr(f, d, "user.d", "v");
    return d;
}

static void digest(struct fx *f, char hex[65])
{
    struct dmt_err err = {0};
    fx_check(dmt_ws_digest(f->ws, DMT_LIVE, hex, &err), &err);
}

static void each_request_is_done_once(void **state)
{
    struct fx *f = *state;
    struct made_all one, two;
    char before[65], after[65];
    uint64_t attrs = set_up(f), x = fx_lookup(f, DMT_ROOT, "x");
    run_all(f, false, attrs, &one);
    assert_int_equal(fx_lookup(f, DMT_ROOT, "y"), x);
    digest(f, before);
    take_over(f);
    run_all(f, true, attrs, &two);
    digest(f, after);
    assert_string_equal(before, after);
    assert_memory_equal(&one, &two, sizeof(one));
    assert_int_equal(fx_lookup(f, DMT_ROOT, "y"), x);
}

static void also_what_a_checkpoint_covers(void **state)
{
    struct fx *f = *state;
    struct made_all one, two;
    char before[65], after[65];
    uint64_t attrs = set_up(f);
    run_all(f, false, attrs, &one);
    fx_checkpoint(f);
    digest(f, before);
    take_over(f);
    take_over(f); /* and the next one dies, too, after a checkpoint of its own */
    fx_checkpoint(f);
    take_over(f);
    run_all(f, true, attrs, &two);
    digest(f, after);
    assert_string_equal(before, after);
    assert_memory_equal(&one, &two, sizeof(one));
}

/* Segments end all the time here: the journal lets go of old ones and keeps the last records. */
static void the_journal_keeps_the_last_records(void **state)
{
    struct fx *f = *state;
    uint8_t *p = calloc(1, 1u << 20);
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    f->conf.keep_recent = true;
    fx_reopen(f);
    uint64_t start = dmt_ws_applied(f->ws);
    for (int i = 0; i < 100; i++) {
        fx_write(f, x, p, 1u << 20, 0);
        assert_int_equal(dmt_ws_sync_wait(f->ws, x), 0);
    }
    uint64_t d = made(f, 300, false, "d", S_IFDIR | 0755), record = dmt_ws_applied(f->ws);
    for (int i = 0; i < 10; i++) {
        fx_write(f, x, p, 1u << 20, 0);
        assert_int_equal(dmt_ws_sync_wait(f->ws, x), 0);
    }
    fx_checkpoint(f);
    uint64_t first = dmt_journal_first(dmt_ws_journal(f->ws)).seq;
    assert_true(first > start + 20);
    assert_true(first < record);
    /* not by a crash: segments are being recycled, which a copy of the folder would catch
     * halfway */
    f->conf.resume = MOUNT;
    fx_reopen(f);
    f->conf.resume = 0;
    assert_int_equal(made(f, 300, true, "d", S_IFDIR | 0755), d);
    free(p);
}

static void what_is_not_there_is_done_now(void **state)
{
    struct fx *f = *state;
    (void)set_up(f);
    uint64_t d = made(f, 300, false, "d", S_IFDIR | 0755);
    take_over(f);
    /* never got to the journal; and an old number of another mount says nothing */
    uint64_t e = made(f, 302, true, "e", S_IFDIR | 0755);
    assert_int_not_equal(e, d);
    f->conf.resume = MOUNT + 1;
    fx_crash(f);
    struct dmt_op op = op_of(302, true);
    struct dmt_attr a;
    op.instance = MOUNT + 1;
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, "e", S_IFDIR | 0755, 0, NULL, &a), -EEXIST);
    f->conf.resume = 0;
}

/* --- what the kernel may hold --- */

static void open_files_live_on(void **state)
{
    struct fx *f = *state;
    struct dmt_attr a;
    uint64_t x = fx_file(f, DMT_ROOT, "x"), y = fx_file(f, DMT_ROOT, "y"),
             d = fx_dir(f, DMT_ROOT, "d");
    f->conf.keep_recent = true;
    fx_reopen(f);
    fx_text(f, x, "open", 0);
    dmt_ws_ref(f->ws, x);
    dmt_ws_ref(f->ws, y);
    dmt_ws_ref(f->ws, d);
    fx_unlink(f, DMT_ROOT, "x");
    fx_checkpoint(f);
    take_over(f);
    fx_expect_text(f, x, "open"); /* unlinked before */
    fx_unlink(f, DMT_ROOT, "y");  /* unlinked after: nobody knows by now that it is open */
    fx_rmdir(f, DMT_ROOT, "d");
    fx_text(f, y, "still", 0);
    assert_int_equal(fx_attr(f, d).st.st_nlink, 0);
    /* a number that says nothing raises the question */
    assert_true(dmt_ws_forget(f->ws, x, 1));
    fx_expect_text(f, x, "open");
    dmt_ws_forgotten(f->ws, x);
    assert_int_equal(dmt_ws_getattr(f->ws, x, &a), -ENOENT);
    fx_expect_text(f, y, "still");
    /* new ones count exactly */
    uint64_t z = fx_file(f, DMT_ROOT, "z");
    dmt_ws_ref(f->ws, z);
    fx_unlink(f, DMT_ROOT, "z");
    assert_false(dmt_ws_forget(f->ws, z, 1));
    assert_int_equal(dmt_ws_getattr(f->ws, z, &a), -ENOENT);
    /* without a mount that goes on nobody has anything open */
    fx_crash(f);
    assert_int_equal(dmt_ws_getattr(f->ws, y, &a), -ENOENT);
    assert_int_equal(dmt_ws_getattr(f->ws, d, &a), -ENOENT);
}

static bool holds(const uint64_t *v, size_t n, uint64_t ino)
{
    for (size_t i = 0; i < n; i++)
        if (v[i] == ino)
            return true;
    return false;
}

static void what_to_ask_the_kernel_about(void **state)
{
    struct fx *f = *state;
    uint64_t *v, x = fx_file(f, DMT_ROOT, "x"), y = fx_file(f, DMT_ROOT, "y"),
                 w = fx_file(f, DMT_ROOT, "w");
    size_t n;
    f->conf.keep_recent = true;
    fx_reopen(f);
    dmt_ws_ref(f->ws, x);
    dmt_ws_ref(f->ws, y);
    removed(f, 400, false, "x", false);
    removed(f, 402, false, "y", false);
    uint64_t tmp = made(f, 404, false, NULL, S_IFREG | 0600);
    fx_text(f, w, "by nobody's request", 0);
    take_over(f);
    dmt_ws_ref(f->ws, y); /* its entry was asked for again */
    assert_int_equal(dmt_ws_doubtful(f->ws, &v, &n), 0);
    assert_true(holds(v, n, x));
    assert_false(holds(v, n, y));
    assert_false(holds(v, n, tmp)); /* its maker still waits for the reply */
    free(v);
    assert_int_equal(dmt_ws_stale(f->ws, &v, &n), 0);
    assert_true(holds(v, n, w));
    assert_false(holds(v, n, x));
    free(v);
    assert_int_equal(dmt_ws_stale(f->ws, &v, &n), 0);
    assert_int_equal(n, 0);
    free(v);
}

/* The standby goes, the holder opens an epoch for itself: what is open stays, and bulk data goes on
 * being marked. */
static void an_epoch_under_open_files(void **state)
{
    struct fx *f = *state;
    struct dmt_err err = {0};
    uint64_t x = fx_file(f, DMT_ROOT, "x"), y = fx_file(f, DMT_ROOT, "y");
    fx_text(f, x, "open", 0);
    dmt_ws_ref(f->ws, x);
    fx_unlink(f, DMT_ROOT, "x");
    fx_fill(f, y, 4u << 20, 0, 256u << 10, 3);
    assert_true(dmt_ws_missing_ino(f->ws, y, UINT64_MAX));
    fx_check(dmt_ws_begin_epoch(f->ws, FX_EPOCH(++f->major, 0), "alpha", "solo", &err), &err);
    fx_expect_text(f, x, "open");
    assert_int_equal(dmt_ws_sync_wait(f->ws, y), 0);
}

/* Bulk data of the predecessor is in the page cache: it is synced like our own, when somebody asks
 * or soon. */
static void bulk_data_goes_on(void **state)
{
    struct fx *f = *state;
    uint64_t y = fx_file(f, DMT_ROOT, "y");
    f->conf.keep_recent = true;
    fx_reopen(f);
    fx_fill(f, y, 4u << 20, 0, 256u << 10, 3);
    assert_true(dmt_ws_missing_ino(f->ws, y, UINT64_MAX));
    take_over(f);
    fx_expect_pattern(f, y, 4u << 20, 0, 3);
    assert_int_equal(dmt_ws_sync_wait(f->ws, y), 0);
    assert_false(dmt_ws_missing_ino(f->ws, y, UINT64_MAX));
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, fx_setup, fx_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(each_request_is_done_once),
        T(also_what_a_checkpoint_covers),
        T(the_journal_keeps_the_last_records),
        T(what_is_not_there_is_done_now),
        T(open_files_live_on),
        T(what_to_ask_the_kernel_about),
        T(an_epoch_under_open_files),
        T(bulk_data_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
