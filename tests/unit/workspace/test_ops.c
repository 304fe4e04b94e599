/* test_ops.c: every operation against what POSIX and ext4 say. One behaviour a test; each has a
 * workspace of its own. */
#include "tests/unit/workspace/fixture.h"

static void make_file_has_owner_mode_and_times(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = {.uid = 1000, .gid = 100, .umask = 027};
    struct dmt_attr a, dir = fx_attr(f, DMT_ROOT);
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, "f", S_IFREG | 0666, 0, NULL, &a), 0);
    assert_int_equal(a.st.st_mode, S_IFREG | 0640);
    assert_int_equal(a.st.st_uid, 1000);
    assert_int_equal(a.st.st_gid, 100);
    assert_int_equal(a.st.st_nlink, 1);
    assert_int_equal(a.st.st_size, 0);
    assert_true(a.st.st_ino == a.node);
    struct dmt_attr after = fx_attr(f, DMT_ROOT);
    assert_memory_equal(&after.st.st_mtim, &a.st.st_mtim, sizeof(struct timespec));
    assert_true(after.st.st_mtim.tv_sec > dir.st.st_mtim.tv_sec);
}

static void make_refuses_taken_bad_and_long_names(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    char name[300];
    fx_file(f, DMT_ROOT, "f");
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, "f", S_IFREG, 0, NULL, &a), -EEXIST);
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, ".snapshots", S_IFDIR, 0, NULL, &a),
                     -EEXIST);
    assert_int_equal(dmt_ws_make(f->ws, &op, 999, "x", S_IFREG, 0, NULL, &a), -ENOENT);
    assert_int_equal(
        dmt_ws_make(f->ws, &op, fx_lookup(f, DMT_ROOT, "f"), "x", S_IFREG, 0, NULL, &a), -ENOTDIR);
    memset(name, 'n', sizeof(name));
    name[256] = '\0';
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, name, S_IFREG, 0, NULL, &a), -ENAMETOOLONG);
    assert_int_equal(dmt_ws_lookup(f->ws, DMT_ROOT, name, &a), -ENAMETOOLONG);
    assert_int_equal(op.seq, 0);
    name[255] = '\0';
    fx_file(f, DMT_ROOT, name);
    assert_true(fx_lookup(f, DMT_ROOT, name) > 0);
}

static void directories_count_their_links(void **state)
{
    struct fx *f = *state;
    uint64_t d = fx_dir(f, DMT_ROOT, "d");
    assert_int_equal(fx_attr(f, d).st.st_nlink, 2);
    assert_int_equal(fx_attr(f, DMT_ROOT).st.st_nlink, 3);
    uint64_t e = fx_dir(f, d, "e");
    fx_file(f, d, "f");
    assert_int_equal(fx_attr(f, d).st.st_nlink, 3);
    fx_rename(f, d, "e", DMT_ROOT, "e");
    assert_int_equal(fx_attr(f, d).st.st_nlink, 2);
    assert_int_equal(fx_attr(f, DMT_ROOT).st.st_nlink, 4);
    fx_rmdir(f, DMT_ROOT, "e");
    assert_int_equal(fx_attr(f, DMT_ROOT).st.st_nlink, 3);
    struct dmt_attr a;
    assert_int_equal(dmt_ws_getattr(f->ws, e, &a), -ENOENT);
}

static void setgid_directory_gives_group_and_bit(void **state)
{
    struct fx *f = *state;
    uint64_t d = fx_dir(f, DMT_ROOT, "d");
    struct dmt_op op = FX_OP(0), user = FX_OP(7);
    struct dmt_setattr sa = {.mask = DMT_SET_GID, .gid = 50};
    struct dmt_attr a;
    assert_int_equal(dmt_ws_setattr(f->ws, &op, d, &sa, &a), 0);
    fx_chmod(f, d, 02775);
    assert_int_equal(dmt_ws_make(f->ws, &user, d, "f", S_IFREG | 0644, 0, NULL, &a), 0);
    assert_int_equal(a.st.st_gid, 50);
    assert_int_equal(a.st.st_mode, S_IFREG | 0644);
    assert_int_equal(dmt_ws_make(f->ws, &user, d, "e", S_IFDIR | 0755, 0, NULL, &a), 0);
    assert_int_equal(a.st.st_gid, 50);
    assert_int_equal(a.st.st_mode, S_IFDIR | 02755);
}

static void symlinks_and_devices(void **state)
{
    struct fx *f = *state;
    char buf[4096], target[4200];
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    uint64_t l = fx_make(f, DMT_ROOT, "l", S_IFLNK);
    assert_int_equal(dmt_ws_readlink(f->ws, l, buf), 0);
    assert_string_equal(buf, "target");
    assert_int_equal(fx_attr(f, l).st.st_size, 6);
    assert_int_equal(fx_attr(f, l).st.st_mode, S_IFLNK | 0777);
    memset(target, 't', sizeof(target));
    target[4096] = '\0';
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, "m", S_IFLNK, 0, target, &a), -ENAMETOOLONG);
    target[4095] = '\0';
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, "m", S_IFLNK, 0, target, &a), 0);
    fx_reopen(f);
    assert_int_equal(dmt_ws_readlink(f->ws, a.node, buf), 0);
    assert_string_equal(buf, target);
    assert_int_equal(dmt_ws_readlink(f->ws, DMT_ROOT, buf), -EINVAL);
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, "dev", S_IFCHR | 0600, 0x0105, NULL, &a), 0);
    assert_int_equal(a.st.st_rdev, 0x0105);
    fx_make(f, DMT_ROOT, "fifo", S_IFIFO | 0600);
}

static void read_what_was_written(void **state)
{
    struct fx *f = *state;
    char buf[64];
    uint64_t x = fx_file(f, DMT_ROOT, "f");
    fx_text(f, x, "hello world", 0);
    fx_text(f, x, "W", 6);
    fx_expect_text(f, x, "hello World");
    assert_int_equal(fx_attr(f, x).st.st_size, 11);
    assert_int_equal(dmt_ws_read(f->ws, x, buf, sizeof(buf), 11, false), 0);
    assert_int_equal(dmt_ws_read(f->ws, x, buf, 3, 4, true), 3);
    assert_memory_equal(buf, "o W", 3);
    assert_int_equal(dmt_ws_read(f->ws, DMT_ROOT, buf, 3, 0, false), -EISDIR);
    struct dmt_op op = FX_OP(0);
    assert_int_equal(dmt_ws_write(f->ws, &op, DMT_ROOT, "x", 1, 0, false), -EISDIR);
    assert_int_equal(dmt_ws_write(f->ws, &op, x, "x", 1, DMT_FILE_SIZE_MAX, false), -EFBIG);
}

static void sparse_files_read_zeros(void **state)
{
    struct fx *f = *state;
    uint8_t buf[100], zero[100] = {0};
    uint64_t x = fx_file(f, DMT_ROOT, "f");
    fx_text(f, x, "end", 1u << 20);
    assert_int_equal(fx_attr(f, x).st.st_size, (1 << 20) + 3);
    assert_int_equal(dmt_ws_read(f->ws, x, buf, 100, 5000, false), 100);
    assert_memory_equal(buf, zero, 100);
    assert_int_equal(dmt_ws_seek(f->ws, x, 0, SEEK_HOLE), 0);
    assert_true(dmt_ws_seek(f->ws, x, 0, SEEK_DATA) > 0);
    assert_true(dmt_ws_seek(f->ws, x, 0, SEEK_DATA) <= 1 << 20);
    assert_int_equal(dmt_ws_seek(f->ws, x, (1 << 20) + 3, SEEK_DATA), -ENXIO);
    fx_reopen(f);
    assert_int_equal(dmt_ws_read(f->ws, x, buf, 100, 5000, false), 100);
    assert_memory_equal(buf, zero, 100);
    assert_int_equal(dmt_ws_read(f->ws, x, buf, 100, 1u << 20, false), 3);
    assert_memory_equal(buf, "end", 3);
}

static void truncate_cuts_and_extends_with_zeros(void **state)
{
    struct fx *f = *state;
    char buf[16];
    uint64_t x = fx_file(f, DMT_ROOT, "f");
    fx_text(f, x, "0123456789", 0);
    fx_truncate(f, x, 4);
    fx_expect_text(f, x, "0123");
    fx_truncate(f, x, 8);
    assert_int_equal(dmt_ws_read(f->ws, x, buf, 16, 0, false), 8);
    assert_memory_equal(buf, "0123\0\0\0\0", 8);
    fx_truncate(f, x, 0);
    assert_int_equal(fx_attr(f, x).st.st_size, 0);
    struct dmt_op op = FX_OP(0);
    struct dmt_setattr sa = {.mask = DMT_SET_SIZE, .size = DMT_FILE_SIZE_MAX + 1};
    struct dmt_attr a;
    assert_int_equal(dmt_ws_setattr(f->ws, &op, x, &sa, &a), -EFBIG);
    sa.size = 0;
    assert_int_equal(dmt_ws_setattr(f->ws, &op, DMT_ROOT, &sa, &a), -EISDIR);
}

static int falloc(struct fx *f, uint64_t x, int flags, uint64_t off, uint64_t len)
{
    struct dmt_op op = FX_OP(0);
    return dmt_ws_fallocate(f->ws, &op, x, flags, off, len, false);
}

static void fallocate_modes(void **state)
{
    struct fx *f = *state;
    char buf[32];
    uint64_t x = fx_file(f, DMT_ROOT, "f");
    fx_text(f, x, "0123456789", 0);
    assert_int_equal(falloc(f, x, 0, 0, 20), 0);
    assert_int_equal(fx_attr(f, x).st.st_size, 20);
    assert_int_equal(falloc(f, x, FALLOC_FL_KEEP_SIZE, 0, 100), 0);
    assert_int_equal(fx_attr(f, x).st.st_size, 20);
    assert_int_equal(falloc(f, x, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2, 3), 0);
    assert_int_equal(dmt_ws_read(f->ws, x, buf, 32, 0, false), 20);
    assert_memory_equal(buf,
                        "01\0\0\0"
                        "56789\0\0\0\0\0\0\0\0\0\0",
                        20);
    assert_int_equal(falloc(f, x, FALLOC_FL_ZERO_RANGE, 8, 32), 0);
    assert_int_equal(fx_attr(f, x).st.st_size, 40);
    assert_int_equal(dmt_ws_read(f->ws, x, buf, 32, 0, false), 32);
    assert_memory_equal(buf,
                        "01\0\0\0"
                        "567\0\0\0",
                        11);
    assert_int_equal(falloc(f, x, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 38, 100), 0);
    assert_int_equal(fx_attr(f, x).st.st_size, 40);
    assert_int_equal(falloc(f, x, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), -EOPNOTSUPP);
    assert_int_equal(falloc(f, x, FALLOC_FL_PUNCH_HOLE, 0, 4096), -EOPNOTSUPP);
    assert_int_equal(falloc(f, x, 0, 0, 0), -EINVAL);
    assert_int_equal(falloc(f, DMT_ROOT, 0, 0, 1), -ENODEV);
    fx_reopen(f);
    assert_int_equal(dmt_ws_read(f->ws, x, buf, 32, 0, false), 32);
    assert_memory_equal(buf,
                        "01\0\0\0"
                        "567\0\0\0",
                        11);
}

static void hard_links_share_one_inode(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    uint64_t x = fx_file(f, DMT_ROOT, "a"), d = fx_dir(f, DMT_ROOT, "d");
    fx_link(f, x, d, "b");
    assert_true(fx_lookup(f, d, "b") == x);
    assert_int_equal(fx_attr(f, x).st.st_nlink, 2);
    assert_int_equal(dmt_ws_link(f->ws, &op, d, DMT_ROOT, "e", &a), -EPERM);
    assert_int_equal(dmt_ws_link(f->ws, &op, x, DMT_ROOT, "a", &a), -EEXIST);
    fx_unlink(f, DMT_ROOT, "a");
    assert_int_equal(fx_attr(f, x).st.st_nlink, 1);
    fx_unlink(f, d, "b");
    assert_int_equal(dmt_ws_getattr(f->ws, x, &a), -ENOENT);
}

static void too_many_links(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    char name[16];
    uint64_t x = fx_file(f, DMT_ROOT, "a");
    for (unsigned i = 1; i < DMT_LINK_MAX; i++) {
        (void)snprintf(name, sizeof(name), "l%u", i);
        fx_link(f, x, DMT_ROOT, name);
    }
    assert_int_equal(dmt_ws_link(f->ws, &op, x, DMT_ROOT, "more", &a), -EMLINK);
}

static void unlink_and_rmdir_check_types(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = FX_OP(0);
    uint64_t d = fx_dir(f, DMT_ROOT, "d");
    fx_file(f, d, "f");
    assert_int_equal(dmt_ws_unlink(f->ws, &op, DMT_ROOT, "d", false), -EISDIR);
    assert_int_equal(dmt_ws_unlink(f->ws, &op, DMT_ROOT, "d", true), -ENOTEMPTY);
    assert_int_equal(dmt_ws_unlink(f->ws, &op, d, "f", true), -ENOTDIR);
    assert_int_equal(dmt_ws_unlink(f->ws, &op, d, "g", false), -ENOENT);
    fx_unlink(f, d, "f");
    fx_rmdir(f, DMT_ROOT, "d");
    assert_int_equal(fx_lookup(f, DMT_ROOT, "d"), 0);
}

static void unlinked_open_file_lives_until_forgotten(void **state)
{
    struct fx *f = *state;
    struct dmt_attr a;
    uint64_t x = fx_file(f, DMT_ROOT, "f");
    fx_text(f, x, "still here", 0);
    dmt_ws_ref(f->ws, x);
    dmt_ws_ref(f->ws, x);
    fx_unlink(f, DMT_ROOT, "f");
    assert_int_equal(fx_attr(f, x).st.st_nlink, 0);
    fx_text(f, x, "S", 0);
    fx_expect_text(f, x, "Still here");
    dmt_ws_forget(f->ws, x, 1);
    fx_expect_text(f, x, "Still here");
    dmt_ws_forget(f->ws, x, 1);
    assert_int_equal(dmt_ws_getattr(f->ws, x, &a), -ENOENT);
}

static void orphans_are_reaped_at_the_next_start(void **state)
{
    struct fx *f = *state;
    struct dmt_attr a;
    struct dmt_op op = FX_OP(0);
    uint64_t x = fx_file(f, DMT_ROOT, "f"), d = fx_dir(f, DMT_ROOT, "d");
    dmt_ws_ref(f->ws, x);
    dmt_ws_ref(f->ws, d);
    fx_unlink(f, DMT_ROOT, "f");
    fx_rmdir(f, DMT_ROOT, "d");
    assert_int_equal(dmt_ws_make(f->ws, &op, d, "x", S_IFREG, 0, NULL, &a), -ENOENT);
    fx_checkpoint(f);
    fx_crash(f);
    assert_int_equal(dmt_ws_getattr(f->ws, x, &a), -ENOENT);
    assert_int_equal(dmt_ws_getattr(f->ws, d, &a), -ENOENT);
}

/* More than one value of the store's meta table holds. */
static void many_orphans_survive_a_checkpoint(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a, first;
    for (int round = 0; round < 2; round++) {
        int n = round ? 10 : 20000;
        for (int i = 0; i < n; i++) {
            assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, NULL, S_IFREG, 0, NULL, &a), 0);
            dmt_ws_ref(f->ws, a.node);
            if (i == 0)
                first = a;
        }
        fx_checkpoint(f);
        fx_crash(f);
        assert_int_equal(dmt_ws_getattr(f->ws, first.node, &first), -ENOENT);
        assert_int_equal(dmt_ws_getattr(f->ws, a.node, &a), -ENOENT);
    }
    fx_checkpoint(f);
    fx_reopen(f);
}

static void tmpfile_gets_a_name_by_link(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_ROOT, NULL, S_IFREG | 0600, 0, NULL, &a), 0);
    dmt_ws_ref(f->ws, a.node);
    assert_int_equal(a.st.st_nlink, 0);
    fx_text(f, a.node, "tmp", 0);
    fx_link(f, a.node, DMT_ROOT, "named");
    dmt_ws_forget(f->ws, a.node, 1);
    assert_int_equal(fx_attr(f, a.node).st.st_nlink, 1);
    fx_crash(f);
    fx_expect_text(f, fx_lookup(f, DMT_ROOT, "named"), "tmp");
}

/* --- rename ----------------------------------------------------------------------------------- */

static void rename_matrix(void **state)
{
    struct fx *f = *state;
    uint64_t a = fx_dir(f, DMT_ROOT, "a"), b = fx_dir(f, DMT_ROOT, "b"),
             full = fx_dir(f, DMT_ROOT, "full");
    uint64_t x = fx_file(f, DMT_ROOT, "x"), y = fx_file(f, DMT_ROOT, "y");
    fx_file(f, full, "f");
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "nope", DMT_ROOT, "z", 0), -ENOENT);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "x", DMT_ROOT, "a", 0), -EISDIR);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "a", DMT_ROOT, "x", 0), -ENOTDIR);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "a", DMT_ROOT, "full", 0), -ENOTEMPTY);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "a", a, "self", 0), -EINVAL);
    uint64_t deep = fx_dir(f, a, "deep");
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "a", deep, "c", 0), -EINVAL);
    assert_int_equal(fx_try_rename(f, a, "deep", DMT_ROOT, "a", 0), -ENOTEMPTY);
    fx_rename(f, DMT_ROOT, "x", DMT_ROOT, "y");
    assert_true(fx_lookup(f, DMT_ROOT, "y") == x);
    struct dmt_attr gone;
    assert_int_equal(dmt_ws_getattr(f->ws, y, &gone), -ENOENT);
    fx_rename(f, DMT_ROOT, "a", DMT_ROOT, "b");
    assert_int_equal(dmt_ws_getattr(f->ws, b, &gone), -ENOENT);
    assert_true(fx_lookup(f, DMT_ROOT, "b") == a);
    assert_true(fx_lookup(f, a, "deep") == deep);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "y", DMT_ROOT, ".snapshots", 0), -EBUSY);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "y", DMT_ROOT, "w", RENAME_WHITEOUT), -EINVAL);
    assert_int_equal(
        fx_try_rename(f, DMT_ROOT, "y", DMT_ROOT, "w", RENAME_EXCHANGE | RENAME_NOREPLACE),
        -EINVAL);
}

static void rename_noreplace_and_exchange(void **state)
{
    struct fx *f = *state;
    uint64_t d = fx_dir(f, DMT_ROOT, "d"), x = fx_file(f, DMT_ROOT, "x"), y = fx_file(f, d, "y");
    uint64_t e = fx_dir(f, d, "e");
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "x", d, "y", RENAME_NOREPLACE), -EEXIST);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "x", d, "z", RENAME_EXCHANGE), -ENOENT);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "d", d, "e", RENAME_EXCHANGE), -EINVAL);
    assert_int_equal(fx_try_rename(f, d, "e", DMT_ROOT, "d", RENAME_EXCHANGE), -EINVAL);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "x", d, "y", RENAME_EXCHANGE), 0);
    assert_true(fx_lookup(f, DMT_ROOT, "x") == y);
    assert_true(fx_lookup(f, d, "y") == x);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "x", d, "e", RENAME_EXCHANGE), 0);
    assert_true(fx_lookup(f, DMT_ROOT, "x") == e);
    assert_int_equal(fx_attr(f, d).st.st_nlink, 2);
    assert_int_equal(fx_attr(f, DMT_ROOT).st.st_nlink, 4);
    fx_reopen(f);
    assert_true(fx_lookup(f, DMT_ROOT, "x") == e);
    assert_true(fx_lookup(f, d, "e") == y);
}

static void rename_onto_own_link_does_nothing(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = FX_OP(0);
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    fx_link(f, x, DMT_ROOT, "y");
    assert_int_equal(dmt_ws_rename(f->ws, &op, DMT_ROOT, "x", DMT_ROOT, "y", 0), 0);
    assert_int_equal(op.seq, 0);
    assert_true(fx_lookup(f, DMT_ROOT, "x") == x && fx_lookup(f, DMT_ROOT, "y") == x);
}

static void rename_over_open_file_makes_an_orphan(void **state)
{
    struct fx *f = *state;
    struct dmt_attr a;
    uint64_t x = fx_file(f, DMT_ROOT, "x"), y = fx_file(f, DMT_ROOT, "y");
    fx_text(f, y, "old", 0);
    dmt_ws_ref(f->ws, y);
    fx_rename(f, DMT_ROOT, "x", DMT_ROOT, "y");
    assert_true(fx_lookup(f, DMT_ROOT, "y") == x);
    fx_expect_text(f, y, "old");
    dmt_ws_forget(f->ws, y, 1);
    assert_int_equal(dmt_ws_getattr(f->ws, y, &a), -ENOENT);
}

/* --- attributes ------------------------------------------------------------------------------- */

static void utimens_sets_nanoseconds(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    struct dmt_setattr sa = {
        .mask = DMT_SET_ATIME | DMT_SET_MTIME, .atime = 1000000001, .mtime_now = true};
    assert_int_equal(dmt_ws_setattr(f->ws, &op, x, &sa, &a), 0);
    assert_int_equal(a.st.st_atim.tv_sec, 1);
    assert_int_equal(a.st.st_atim.tv_nsec, 1);
    assert_memory_equal(&a.st.st_mtim, &a.st.st_ctim, sizeof(struct timespec));
    fx_crash(f);
    struct dmt_attr b = fx_attr(f, x);
    assert_memory_equal(&a.st, &b.st, sizeof(a.st));
}

static void chown_and_writes_kill_setuid(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = FX_OP(0);
    struct dmt_setattr own = {.mask = DMT_SET_UID, .uid = 5},
                       cut = {.mask = DMT_SET_SIZE, .kill_suidgid = true};
    struct dmt_attr a;
    uint64_t x = fx_file(f, DMT_ROOT, "x"), d = fx_dir(f, DMT_ROOT, "d");
    fx_chmod(f, x, 06755);
    fx_setxattr(f, x, "security.capability", "cap");
    assert_int_equal(dmt_ws_write(f->ws, &op, x, "w", 1, 0, false), 0);
    assert_int_equal(fx_attr(f, x).st.st_mode & 07777, 06755);
    assert_int_equal(dmt_ws_getxattr(f->ws, x, "security.capability", NULL, 0), -ENODATA);
    assert_int_equal(dmt_ws_write(f->ws, &op, x, "w", 1, 0, true), 0);
    assert_int_equal(fx_attr(f, x).st.st_mode & 07777, 0755);
    fx_chmod(f, x, 06755);
    assert_int_equal(dmt_ws_fallocate(f->ws, &op, x, 0, 0, 9, false), 0);
    assert_int_equal(fx_attr(f, x).st.st_mode & 07777, 06755);
    assert_int_equal(dmt_ws_fallocate(f->ws, &op, x, 0, 0, 9, true), 0);
    assert_int_equal(fx_attr(f, x).st.st_mode & 07777, 0755);
    fx_chmod(f, x, 06644);
    assert_int_equal(dmt_ws_setattr(f->ws, &op, x, &own, &a), 0);
    assert_int_equal(a.st.st_mode & 07777, 02644); /* no group execution: setgid stays */
    fx_chmod(f, x, 04755);
    fx_setxattr(f, x, "security.capability", "cap");
    assert_int_equal(dmt_ws_setattr(f->ws, &op, x, &cut, &a), 0);
    assert_int_equal(a.st.st_mode & 07777, 0755);
    assert_int_equal(dmt_ws_getxattr(f->ws, x, "security.capability", NULL, 0), -ENODATA);
    fx_chmod(f, d, 02755);
    assert_int_equal(dmt_ws_setattr(f->ws, &op, d, &own, &a), 0);
    assert_int_equal(a.st.st_mode & 07777, 02755);
}

static void xattr_flags_sizes_and_list(void **state)
{
    struct fx *f = *state;
    struct dmt_op op = FX_OP(0);
    char buf[64], *big = calloc(1, DMT_XATTR_VALUE_MAX + 1);
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    assert_int_equal(dmt_ws_listxattr(f->ws, x, NULL, 0, true), 0);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, "user.a", "1", 1, XATTR_REPLACE), -ENODATA);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, "user.a", "1", 1, XATTR_CREATE), 0);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, "user.a", "2", 1, XATTR_CREATE), -EEXIST);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, "user.a", "22", 2, XATTR_REPLACE), 0);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, "user.empty", "", 0, 0), 0);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, "bogus.a", "1", 1, 0), -EOPNOTSUPP);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, "user.", "1", 1, 0), -EINVAL);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, "user.big", big, DMT_XATTR_VALUE_MAX + 1, 0),
                     -E2BIG);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, "user.big", big, DMT_XATTR_VALUE_MAX, 0), 0);
    assert_int_equal(dmt_ws_getxattr(f->ws, x, "user.a", NULL, 0), 2);
    assert_int_equal(dmt_ws_getxattr(f->ws, x, "user.a", buf, 1), -ERANGE);
    assert_int_equal(dmt_ws_getxattr(f->ws, x, "user.a", buf, 64), 2);
    assert_memory_equal(buf, "22", 2);
    assert_int_equal(dmt_ws_getxattr(f->ws, x, "user.empty", buf, 64), 0);
    ssize_t n = dmt_ws_listxattr(f->ws, x, NULL, 0, true);
    assert_int_equal(n, strlen("user.a") + strlen("user.empty") + strlen("user.big") + 3);
    assert_int_equal(dmt_ws_listxattr(f->ws, x, buf, 3, true), -ERANGE);
    assert_int_equal(dmt_ws_listxattr(f->ws, x, buf, 64, true), n);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, "trusted.t", "1", 1, 0), 0);
    assert_int_equal(dmt_ws_listxattr(f->ws, x, NULL, 0, true), n + 10);
    assert_int_equal(dmt_ws_listxattr(f->ws, x, buf, 64, false), n);
    assert_int_equal(dmt_ws_removexattr(f->ws, &op, x, "trusted.t"), 0);
    assert_int_equal(dmt_ws_removexattr(f->ws, &op, x, "user.none"), -ENODATA);
    assert_int_equal(dmt_ws_removexattr(f->ws, &op, x, "user.big"), 0);
    assert_int_equal(dmt_ws_removexattr(f->ws, &op, x, "user.empty"), 0);
    fx_crash(f);
    assert_int_equal(dmt_ws_listxattr(f->ws, x, buf, 64, true), strlen("user.a") + 1);
    free(big);
}

/* --- ACLs ------------------------------------------------------------------------------------- */

struct acl_entry {
    uint16_t tag, perm;
    uint32_t id;
};

static size_t acl_bytes(uint8_t *buf, const struct acl_entry *e, size_t n)
{
    dmt_st32(buf, 2);
    for (size_t i = 0; i < n; i++) {
        dmt_st16(buf + 4 + i * 8, e[i].tag);
        dmt_st16(buf + 6 + i * 8, e[i].perm);
        dmt_st32(buf + 8 + i * 8, e[i].id);
    }
    return 4 + n * 8;
}

static const struct acl_entry full_acl[] = {
    {1, 7, ~0u}, {2, 7, 1000}, {4, 5, ~0u}, {16, 7, ~0u}, {32, 5, ~0u}};

static void default_acl_is_inherited_masked_by_mode(void **state)
{
    struct fx *f = *state;
    uint8_t acl[64], got[64];
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    uint64_t d = fx_dir(f, DMT_ROOT, "d");
    size_t n = acl_bytes(acl, full_acl, 5);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, d, WS_ACL_DEFAULT, acl, n, 0), 0);
    assert_int_equal(dmt_ws_make(f->ws, &op, d, "f", S_IFREG | 0640, 0, NULL, &a), 0);
    assert_int_equal(a.st.st_mode & 0777, 0640); /* umask is not applied; group bits are the mask */
    assert_int_equal(dmt_ws_getxattr(f->ws, a.node, WS_ACL_ACCESS, got, sizeof(got)), (ssize_t)n);
    assert_int_equal(dmt_le16(got + 4 + 2), 6);      /* owner: 7 & 6 */
    assert_int_equal(dmt_le16(got + 4 + 8 + 2), 7);  /* named user: as it was */
    assert_int_equal(dmt_le16(got + 4 + 24 + 2), 4); /* mask: 7 & 4 */
    assert_int_equal(dmt_le16(got + 4 + 32 + 2), 0); /* others: 5 & 0 */
    assert_int_equal(dmt_ws_getxattr(f->ws, a.node, WS_ACL_DEFAULT, NULL, 0), -ENODATA);
    assert_int_equal(dmt_ws_make(f->ws, &op, d, "sub", S_IFDIR | 0777, 0, NULL, &a), 0);
    assert_int_equal(dmt_ws_getxattr(f->ws, a.node, WS_ACL_DEFAULT, got, sizeof(got)), (ssize_t)n);
    assert_memory_equal(got, acl, n);
    assert_int_equal(a.st.st_mode & 0777, 0775);
    assert_int_equal(
        dmt_ws_setxattr(f->ws, &op, fx_file(f, DMT_ROOT, "x"), WS_ACL_DEFAULT, acl, n, 0), -EACCES);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, d, WS_ACL_DEFAULT, acl, n - 1, 0), -EINVAL);
}

static void minimal_default_acl_leaves_only_a_mode(void **state)
{
    struct fx *f = *state;
    uint8_t acl[64];
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    const struct acl_entry three[] = {{1, 7, ~0u}, {4, 7, ~0u}, {32, 4, ~0u}};
    uint64_t d = fx_dir(f, DMT_ROOT, "d");
    size_t n = acl_bytes(acl, three, 3);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, d, WS_ACL_DEFAULT, acl, n, 0), 0);
    assert_int_equal(dmt_ws_make(f->ws, &op, d, "f", S_IFREG | 0666, 0, NULL, &a), 0);
    assert_int_equal(a.st.st_mode & 0777, 0664);
    assert_int_equal(dmt_ws_getxattr(f->ws, a.node, WS_ACL_ACCESS, NULL, 0), -ENODATA);
}

static void access_acl_and_mode_agree(void **state)
{
    struct fx *f = *state;
    uint8_t acl[64], got[64];
    struct dmt_op op = FX_OP(0);
    const struct acl_entry three[] = {{1, 6, ~0u}, {4, 0, ~0u}, {32, 0, ~0u}};
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    size_t n = acl_bytes(acl, full_acl, 5);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, WS_ACL_ACCESS, acl, n, 0), 0);
    assert_int_equal(fx_attr(f, x).st.st_mode & 0777, 0775);
    fx_chmod(f, x, 0741);
    assert_int_equal(dmt_ws_getxattr(f->ws, x, WS_ACL_ACCESS, got, sizeof(got)), (ssize_t)n);
    assert_int_equal(dmt_le16(got + 4 + 16 + 2), 5); /* group entry untouched */
    assert_int_equal(dmt_le16(got + 4 + 24 + 2), 4); /* mask follows */
    assert_int_equal(dmt_le16(got + 4 + 32 + 2), 1);
    n = acl_bytes(acl, three, 3);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, x, WS_ACL_ACCESS, acl, n, 0), 0);
    assert_int_equal(fx_attr(f, x).st.st_mode & 0777, 0600);
    assert_int_equal(dmt_ws_getxattr(f->ws, x, WS_ACL_ACCESS, NULL, 0), -ENODATA);
}

/* --- readdir ---------------------------------------------------------------------------------- */

struct listing {
    int n, max;
    uint64_t last;
    char names[400][16];
};

static int list_fn(void *ctx, const char *name, uint64_t node, uint32_t type, uint64_t cookie,
                   const struct dmt_attr *attr)
{
    struct listing *l = ctx;
    if (l->n == l->max)
        return 1;
    assert_true(cookie > l->last);
    assert_true(node > 0 && type != 0);
    if (attr && name[0] != '.')
        assert_true(attr->node == node && (attr->st.st_mode & S_IFMT) == type);
    l->last = cookie;
    (void)snprintf(l->names[l->n++], 16, "%s", name);
    return 0;
}

static void readdir_gives_each_entry_once(void **state)
{
    struct fx *f = *state;
    char name[16];
    uint64_t d = fx_dir(f, DMT_ROOT, "d");
    for (int i = 0; i < 200; i++) {
        (void)snprintf(name, sizeof(name), "f%d", i);
        fx_file(f, d, name);
        if (i == 100)
            fx_checkpoint(f);
    }
    for (int plus = 0; plus < 2; plus++) {
        struct listing l = {.max = 7};
        for (int before = -1; l.n != before; l.max = l.n + 7) {
            before = l.n;
            assert_int_equal(dmt_ws_readdir(f->ws, d, l.last, plus, list_fn, &l), 0);
        }
        assert_int_equal(l.n, 202);
        assert_string_equal(l.names[0], ".");
        assert_string_equal(l.names[1], "..");
        assert_string_equal(l.names[2], "f0");
        assert_string_equal(l.names[201], "f199");
    }
}

static void readdir_goes_on_after_changes(void **state)
{
    struct fx *f = *state;
    uint64_t d = fx_dir(f, DMT_ROOT, "d");
    struct listing l = {.max = 4};
    fx_file(f, d, "a");
    fx_file(f, d, "b");
    fx_file(f, d, "c");
    assert_int_equal(dmt_ws_readdir(f->ws, d, 0, false, list_fn, &l), 0);
    fx_unlink(f, d, "a");
    fx_rename(f, d, "b", d, "z"); /* it was seen as b, and stays where it is */
    fx_file(f, d, "a");
    l.max = 100;
    assert_int_equal(dmt_ws_readdir(f->ws, d, l.last, false, list_fn, &l), 0);
    assert_int_equal(l.n, 6);
    assert_string_equal(l.names[4], "c");
    assert_string_equal(l.names[5], "a");
}

static void expect_list(struct fx *f, uint64_t dir, const char *want)
{
    struct listing l = {.max = 100};
    char got[256] = "";
    assert_int_equal(dmt_ws_readdir(f->ws, dir, 2, false, list_fn, &l), 0);
    for (int i = 0; i < l.n; i++)
        (void)snprintf(got + strlen(got), sizeof(got) - strlen(got), " %s", l.names[i]);
    assert_string_equal(got, want);
}

/* Within a directory a rename changes the name alone, also of what has been written to the database
 * or is only there; a name that is replaced stays at its place, wherever the new file comes from;
 * all else comes to the end. */
static void renames_keep_the_place(void **state)
{
    struct fx *f = *state;
    for (int how = 0; how < 3; how++) {
        uint64_t d = fx_dir(f, DMT_ROOT, how == 0 ? "d" : how == 1 ? "e" : "f"), other;
        for (const char *n = "a\0b\0c\0d\0e\0"; *n; n += 2)
            fx_file(f, d, n);
        other = fx_dir(f, d, "s");
        fx_file(f, other, "x");
        fx_file(f, other, "y");
        if (how == 1)
            fx_checkpoint(f);
        if (how == 2)
            fx_reopen(f);
        fx_rename(f, d, "b", d, "z");
        fx_rename(f, d, "z", d, "b2");
        expect_list(f, d, " a b2 c d e s");
        fx_rename(f, d, "e", d, "c"); /* over one that is there */
        expect_list(f, d, " a b2 c d s");
        fx_rename(f, other, "x", d, "d");
        expect_list(f, d, " a b2 c d s");
        fx_rename(f, other, "y", d, "e");
        expect_list(f, d, " a b2 c d s e");
        assert_int_equal(fx_try_rename(f, d, "a", d, "c", RENAME_EXCHANGE), 0);
        expect_list(f, d, " b2 d s e a c");
        fx_checkpoint(f);
        expect_list(f, d, " b2 d s e a c");
        fx_reopen(f);
        expect_list(f, d, " b2 d s e a c");
    }
}

static void statfs_and_quota(void **state)
{
    struct fx *f = *state;
    struct statvfs s;
    assert_int_equal(dmt_ws_statfs(f->ws, &s), 0);
    assert_true(s.f_bavail > 0 && s.f_bavail <= s.f_blocks);
    fx_close(f);
    f->conf.quota_bytes = 1 << 20;
    fx_serve(f);
    assert_int_equal(dmt_ws_statfs(f->ws, &s), 0);
    assert_int_equal(s.f_blocks, 256);
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    struct dmt_op op = FX_OP(0);
    char *big = calloc(1, 1 << 20);
    assert_int_equal(dmt_ws_write(f->ws, &op, x, big, 512 << 10, 0, false), 0);
    assert_int_equal(dmt_ws_write(f->ws, &op, x, big, 1 << 20, 1, false), -EDQUOT);
    assert_int_equal(dmt_ws_write(f->ws, &op, x, big, 1 << 20, 0, false),
                     0); /* grows by what is left */
    assert_int_equal(dmt_ws_write(f->ws, &op, x, big, 1 << 20, 0, false),
                     0); /* and then not at all */
    fx_unlink(f, DMT_ROOT, "x");
    free(big);
}

static uint64_t little(void *ctx)
{
    (void)ctx;
    return WS_RESERVE_BYTES + 100000;
}

static void standby_without_space_is_enospc_before_the_write(void **state)
{
    struct fx *f = *state;
    struct dmt_gate gate = *dmt_gate_open();
    struct dmt_op op = FX_OP(0);
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    char big[60000] = {0};
    gate.peer_free = little;
    dmt_ws_set_gate(f->ws, &gate);
    uint64_t tail = dmt_journal_tail(dmt_ws_journal(f->ws)).seq;
    assert_int_equal(dmt_ws_write(f->ws, &op, x, big, sizeof(big), 0, false), -ENOSPC);
    assert_true(dmt_journal_tail(dmt_ws_journal(f->ws)).seq == tail);
    fx_rename(f, DMT_ROOT, "x", DMT_ROOT, "y");
    fx_unlink(f, DMT_ROOT, "y");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
        T(make_file_has_owner_mode_and_times),
        T(make_refuses_taken_bad_and_long_names),
        T(directories_count_their_links),
        T(setgid_directory_gives_group_and_bit),
        T(symlinks_and_devices),
        T(read_what_was_written),
        T(sparse_files_read_zeros),
        T(truncate_cuts_and_extends_with_zeros),
        T(fallocate_modes),
        T(hard_links_share_one_inode),
        T(too_many_links),
        T(unlink_and_rmdir_check_types),
        T(unlinked_open_file_lives_until_forgotten),
        T(orphans_are_reaped_at_the_next_start),
        T(many_orphans_survive_a_checkpoint),
        T(tmpfile_gets_a_name_by_link),
        T(rename_matrix),
        T(rename_noreplace_and_exchange),
        T(rename_onto_own_link_does_nothing),
        T(rename_over_open_file_makes_an_orphan),
        T(utimens_sets_nanoseconds),
        T(chown_and_writes_kill_setuid),
        T(xattr_flags_sizes_and_list),
        T(default_acl_is_inherited_masked_by_mode),
        T(minimal_default_acl_leaves_only_a_mode),
        T(access_acl_and_mode_agree),
        T(readdir_gives_each_entry_once),
        T(readdir_goes_on_after_changes),
        T(renames_keep_the_place),
        T(statfs_and_quota),
        T(standby_without_space_is_enospc_before_the_write),
    };
    return cmocka_run_group_tests_name("workspace operations", tests, NULL, NULL);
}
