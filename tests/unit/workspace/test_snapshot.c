/* test_snapshot.c: snapshots stay bit-exact, .snapshots, diff, rollback and its undo; all of it
 * also on a follower. */
#include "tests/unit/workspace/pair.h"

static void digest_of(struct fx *f, uint64_t view, char ret[65])
{
    struct dmt_err err = {0};
    fx_check(dmt_ws_digest(f->ws, view, ret, &err), &err);
}

static struct dmt_snapshot snap(struct fx *f, const char *name)
{
    struct dmt_snapshot s;
    struct dmt_err err = {0};
    fx_check(dmt_ws_snap_create(f->ws, name, "note", &s, &err), &err);
    return s;
}

static uint64_t rollback(struct fx *f, const char *name, char saved[129])
{
    struct dmt_err err = {0};
    struct dmt_rollback rb = {.snapshot = name};
    fx_check(dmt_ws_rollback(f->ws, &rb, &err), &err);
    assert_true(rb.saved_as[0]);
    if (saved)
        strcpy(saved, rb.saved_as);
    return rb.changed;
}

/* A tree with one of everything. */
static void build(struct fx *f)
{
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    uint64_t d = fx_dir(f, DMT_ROOT, "dir"), sub = fx_dir(f, d, "sub"),
             deep = fx_dir(f, sub, "deep");
    fx_text(f, fx_file(f, DMT_ROOT, "readme"), "hello", 0);
    fx_text(f, fx_file(f, d, "one"), "one", 0);
    fx_text(f, fx_file(f, sub, "two"), "two", 0);
    fx_text(f, fx_file(f, deep, "three"), "three", 0);
    fx_link(f, fx_lookup(f, d, "one"), deep, "uno");
    fx_make(f, sub, "link", S_IFLNK);
    assert_int_equal(dmt_ws_make(f->ws, &op, d, "null", S_IFCHR | 0666, 0x103, NULL, &a), 0);
    fx_setxattr(f, fx_lookup(f, sub, "two"), "user.color", "red");
    fx_fill(f, fx_file(f, d, "big"), 3u << 20, 0, 256u << 10, 1);
    fx_fill(f, fx_file(f, d, "medium"), 100000, 0, 10000, 2);
    fx_fill(f, fx_file(f, d, "sparse"), 10, 1u << 22, 10, 3);
    fx_chmod(f, sub, 0700);
}

/* Changes of every kind. */
static void havoc(struct fx *f)
{
    uint64_t d = fx_lookup(f, DMT_ROOT, "dir"), sub = fx_lookup(f, d, "sub"),
             deep = fx_lookup(f, sub, "deep");
    fx_text(f, fx_lookup(f, DMT_ROOT, "readme"), "HELLO, more", 0);
    fx_fill(f, fx_lookup(f, d, "big"), 2u << 20, 512u << 10, 128u << 10, 9);
    fx_truncate(f, fx_lookup(f, d, "medium"), 5000);
    fx_truncate(f, fx_lookup(f, d, "sparse"), 0);
    fx_unlink(f, d, "null");
    fx_unlink(f, sub, "link");
    fx_setxattr(f, fx_lookup(f, sub, "two"), "user.color", "blue");
    fx_setxattr(f, fx_lookup(f, sub, "two"), "user.new", "x");
    fx_rename(f, deep, "three", DMT_ROOT, "3");
    fx_unlink(f, deep, "uno");
    fx_unlink(f, d, "one");
    fx_rmdir(f, sub, "deep");
    fx_rename(f, d, "sub", DMT_ROOT, "moved");
    uint64_t n = fx_dir(f, DMT_ROOT, "new");
    fx_text(f, fx_file(f, n, "file"), "fresh", 0);
    fx_rename(f, DMT_ROOT, "dir", n, "dir"); /* the old tree below a new one */
    fx_text(f, fx_file(f, DMT_ROOT, "dir"), "a file now", 0);
}

static void snapshot_stays_exact(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    char before[65], after[65];
    build(f);
    digest_of(f, DMT_LIVE, before);
    struct dmt_snapshot s = snap(f, "s1");
    havoc(f);
    digest_of(f, s.seq, after);
    assert_string_equal(before, after);
    fx_checkpoint(f);
    digest_of(f, s.seq, after);
    assert_string_equal(before, after);
    fx_fill(f, fx_lookup(f, DMT_ROOT, "readme"), 2u << 20, 0, 128u << 10, 4);
    fx_crash(f);
    digest_of(f, s.seq, after);
    assert_string_equal(before, after);
}

static void many_snapshots_each_show_their_time(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    char name[16], text[16];
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    struct dmt_snapshot s[20];
    for (int i = 0; i < 20; i++) {
        (void)snprintf(name, sizeof(name), "s%d", i);
        (void)snprintf(text, sizeof(text), "version %02d", i);
        fx_text(f, x, text, 0);
        s[i] = snap(f, name);
        if (i % 6 == 5)
            fx_checkpoint(f);
    }
    struct dmt_err err = {0};
    for (int i = 0; i < 20; i += 2) {
        (void)snprintf(name, sizeof(name), "s%d", i);
        fx_check(dmt_ws_snap_delete(f->ws, name, &err), &err);
    }
    fx_checkpoint(f);
    fx_checkpoint(f);
    fx_reopen(f);
    for (int i = 1; i < 20; i += 2) {
        (void)snprintf(text, sizeof(text), "version %02d", i);
        fx_expect_text(f, 1ull << 63 | s[i].serial << 40 | x, text);
    }
}

static void snapshot_names_are_checked(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    struct dmt_err err = {0};
    snap(f, "ok");
    assert_int_equal(dmt_ws_snap_create(f->ws, "ok", "", NULL, &err), -EEXIST);
    assert_int_equal(dmt_ws_snap_create(f->ws, "a/b", "", NULL, &err), -EINVAL);
    assert_int_equal(dmt_ws_snap_create(f->ws, ".hidden", "", NULL, &err), -EINVAL);
    assert_int_equal(dmt_ws_snap_create(f->ws, "", "", NULL, &err), -EINVAL);
    assert_int_equal(dmt_ws_snap_delete(f->ws, "none", &err), -ENOENT);
    assert_true(strstr(err.msg, "none") != NULL);
}

static int names_in(void *ctx, const char *name, uint64_t node, uint32_t type, uint64_t cookie,
                    const struct dmt_attr *attr)
{
    (void)cookie, (void)type, (void)attr;
    assert_true(node >> 63 || strcmp(name, "..") == 0);
    strcat(strcat(ctx, name), " ");
    return 0;
}

static void snapshots_directory_is_read_only_and_apart(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    char list[256] = "", buf[4096];
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    build(f);
    struct dmt_snapshot s = snap(f, "first");
    havoc(f);
    snap(f, "second");
    assert_int_equal(dmt_ws_lookup(f->ws, DMT_ROOT, ".snapshots", &a), 0);
    assert_true(a.node == DMT_NODE_SNAPSHOTS && S_ISDIR(a.st.st_mode));
    assert_int_equal(dmt_ws_readdir(f->ws, a.node, 0, true, names_in, list), 0);
    assert_string_equal(list, ". .. first second ");
    assert_int_equal(dmt_ws_lookup(f->ws, a.node, "nope", &a), -ENOENT);
    uint64_t top = fx_lookup(f, DMT_NODE_SNAPSHOTS, "first");
    assert_true(top == (1ull << 63 | s.serial << 40 | DMT_ROOT));
    uint64_t d = fx_lookup(f, top, "dir"), sub = fx_lookup(f, d, "sub"),
             two = fx_lookup(f, sub, "two");
    assert_true(fx_attr(f, two).st.st_ino == two);
    fx_expect_text(f, fx_lookup(f, fx_lookup(f, sub, "deep"), "three"), "three");
    fx_expect_text(f, fx_lookup(f, top, "readme"), "hello");
    assert_int_equal(dmt_ws_getxattr(f->ws, two, "user.color", buf, sizeof(buf)), 3);
    assert_memory_equal(buf, "red", 3);
    assert_int_equal(dmt_ws_readlink(f->ws, fx_lookup(f, sub, "link"), buf), 0);
    assert_string_equal(buf, "target");
    list[0] = '\0';
    assert_int_equal(dmt_ws_readdir(f->ws, sub, 0, true, names_in, list), 0);
    assert_string_equal(list, ". .. deep two link ");
    assert_int_equal(dmt_ws_write(f->ws, &op, two, "x", 1, 0, false), -EROFS);
    assert_int_equal(dmt_ws_make(f->ws, &op, sub, "x", S_IFREG, 0, NULL, &a), -EROFS);
    assert_int_equal(dmt_ws_make(f->ws, &op, DMT_NODE_SNAPSHOTS, "x", S_IFDIR, 0, NULL, &a),
                     -EROFS);
    assert_int_equal(dmt_ws_unlink(f->ws, &op, sub, "two", false), -EROFS);
    assert_int_equal(dmt_ws_unlink(f->ws, &op, DMT_NODE_SNAPSHOTS, "first", true), -EROFS);
    assert_int_equal(dmt_ws_link(f->ws, &op, two, DMT_ROOT, "x", &a), -EXDEV);
    assert_int_equal(dmt_ws_rename(f->ws, &op, sub, "two", DMT_ROOT, "x", 0), -EXDEV);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, two, "user.a", "1", 1, 0), -EROFS);
    struct dmt_err err = {0};
    fx_check(dmt_ws_snap_delete(f->ws, "first", &err), &err);
    assert_int_equal(dmt_ws_getattr(f->ws, two, &a), -ENOENT);
}

/* --- diff ------------------------------------------------------------------------------------- */

struct lines {
    char text[4096];
};

static int on_line(void *ctx, char kind, const char *path, const char *from)
{
    struct lines *l = ctx;
    size_t n = strlen(l->text);
    (void)snprintf(l->text + n, sizeof(l->text) - n, "%c %s%s%s\n", kind, path, from ? " < " : "",
                   from ? from : "");
    return 0;
}

static void diff_names_what_changed(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    struct dmt_err err = {0};
    struct lines l = {""};
    build(f);
    struct dmt_snapshot s1 = snap(f, "s1");
    havoc(f);
    fx_check(dmt_ws_diff(f->ws, s1.seq, DMT_LIVE, on_line, &l, &err), &err);
    assert_string_equal(l.text, "R /3 < /dir/sub/deep/three\n"
                                "T /dir\n"
                                "D /dir/null\n"
                                "D /dir/one\n"
                                "D /dir/sub/deep\n"
                                "D /dir/sub/deep/uno\n"
                                "D /dir/sub/link\n"
                                "R /moved < /dir/sub\n"
                                "m /moved/two\n"
                                "A /new\n"
                                "R /new/dir < /dir\n"
                                "M /new/dir/big\n"
                                "M /new/dir/medium\n"
                                "M /new/dir/sparse\n"
                                "A /new/file\n"
                                "M /readme\n");
}

static void diff_of_a_saved_file_is_one_change(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    struct dmt_err err = {0};
    struct lines l = {""}, none = {""};
    fx_text(f, fx_file(f, DMT_ROOT, "doc"), "old", 0);
    fx_text(f, fx_file(f, DMT_ROOT, "touched"), "same", 0);
    struct dmt_snapshot s1 = snap(f, "s1");
    fx_text(f, fx_file(f, DMT_ROOT, "doc.tmp"), "new", 0);
    fx_rename(f, DMT_ROOT, "doc.tmp", DMT_ROOT, "doc");
    fx_text(f, fx_lookup(f, DMT_ROOT, "touched"), "same", 0);
    struct dmt_snapshot s2 = snap(f, "s2");
    fx_check(dmt_ws_diff(f->ws, s1.seq, s2.seq, on_line, &l, &err), &err);
    assert_string_equal(l.text, "M /doc\nm /touched\n");
    fx_check(dmt_ws_diff(f->ws, s2.seq, s2.seq, on_line, &none, &err), &err);
    assert_string_equal(none.text, "");
}

/* --- rollback --------------------------------------------------------------------------------- */

static void rollback_and_undo_and_redo(void **state)
{
    struct pair *p = *state;
    struct fx *f = &p->a;
    char was[65], wild[65], now[65], saved[129], saved2[129];
    build(f);
    digest_of(f, DMT_LIVE, was);
    snap(f, "good");
    havoc(f);
    digest_of(f, DMT_LIVE, wild);
    assert_true(rollback(f, "good", saved) > 10);
    digest_of(f, DMT_LIVE, now);
    assert_string_equal(was, now);
    assert_true(f->invalidated > 0);
    (void)rollback(f, saved, saved2); /* the undo of the undo */
    digest_of(f, DMT_LIVE, now);
    assert_string_equal(wild, now);
    (void)rollback(f, saved2, NULL);
    digest_of(f, DMT_LIVE, now);
    assert_string_equal(was, now);
    fx_crash(f);
    digest_of(f, DMT_LIVE, now);
    assert_string_equal(was, now);
    uint64_t d = fx_lookup(f, DMT_ROOT, "dir"), deep = fx_lookup(f, fx_lookup(f, d, "sub"), "deep");
    assert_true(fx_lookup(f, d, "one") == fx_lookup(f, deep, "uno")); /* still one inode */
    fx_text(f, fx_lookup(f, d, "one"), "ONE", 0);
    fx_expect_text(f, fx_lookup(f, deep, "uno"), "ONE");
    pair_send(f, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_pull(f, &p->b, 10000);
    pair_equal(f, &p->b, DMT_LIVE);
}

static void rollback_of_nothing_changes_nothing(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    char was[65], now[65];
    build(f);
    digest_of(f, DMT_LIVE, was);
    snap(f, "s");
    assert_int_equal(rollback(f, "s", NULL), 0);
    digest_of(f, DMT_LIVE, now);
    assert_string_equal(was, now);
}

static void rollback_dry_run_only_tells(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    struct dmt_err err = {0};
    struct lines l = {""};
    char was[65], now[65];
    fx_text(f, fx_file(f, DMT_ROOT, "a"), "a", 0);
    fx_file(f, DMT_ROOT, "gone");
    snap(f, "s");
    fx_unlink(f, DMT_ROOT, "gone");
    fx_file(f, DMT_ROOT, "extra");
    digest_of(f, DMT_LIVE, was);
    struct dmt_rollback rb = {.snapshot = "s", .dry_run = true, .fn = on_line, .ctx = &l};
    fx_check(dmt_ws_rollback(f->ws, &rb, &err), &err);
    assert_string_equal(l.text, "D /extra\nA /gone\n");
    assert_int_equal(rb.changed, 2);
    assert_string_equal(rb.saved_as, "");
    digest_of(f, DMT_LIVE, now);
    assert_string_equal(was, now);
    rb.snapshot = "none";
    assert_int_equal(dmt_ws_rollback(f->ws, &rb, &err), -ENOENT);
}

static void rollback_of_paths_leaves_the_rest(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    struct dmt_err err = {0};
    uint64_t in = fx_dir(f, DMT_ROOT, "in"), out = fx_dir(f, DMT_ROOT, "out"),
             sub = fx_dir(f, in, "sub");
    fx_text(f, fx_file(f, in, "edited"), "v1", 0);
    fx_text(f, fx_file(f, in, "deleted"), "d", 0);
    fx_text(f, fx_file(f, sub, "leaf"), "leaf", 0);
    fx_text(f, fx_file(f, in, "fled"), "fled v1", 0);
    fx_text(f, fx_file(f, out, "other"), "o1", 0);
    snap(f, "s");
    fx_text(f, fx_lookup(f, in, "edited"), "v2", 0);
    fx_unlink(f, in, "deleted");
    fx_text(f, fx_lookup(f, in, "fled"), "fled v2", 0);
    fx_rename(f, in, "fled", out, "fled");
    fx_rename(f, in, "sub", out, "sub");
    fx_text(f, fx_file(f, in, "extra"), "x", 0);
    fx_text(f, fx_lookup(f, out, "other"), "o2", 0);
    const char *paths[] = {"/in/", NULL};
    struct dmt_rollback rb = {.snapshot = "s", .paths = paths};
    fx_check(dmt_ws_rollback(f->ws, &rb, &err), &err);
    fx_expect_text(f, fx_lookup(f, in, "edited"), "v1");
    fx_expect_text(f, fx_lookup(f, in, "deleted"), "d");
    fx_expect_text(f, fx_lookup(f, in, "fled"), "fled v1");
    fx_expect_text(f, fx_lookup(f, fx_lookup(f, in, "sub"), "leaf"), "leaf");
    assert_int_equal(fx_lookup(f, in, "extra"), 0);
    fx_expect_text(f, fx_lookup(f, out, "other"), "o2");
    fx_expect_text(f, fx_lookup(f, out, "fled"), "fled v2"); /* stays where it went */
    fx_expect_text(f, fx_lookup(f, fx_lookup(f, out, "sub"), "leaf"), "leaf");
    assert_true(fx_lookup(f, out, "fled") != fx_lookup(f, in, "fled"));
    fx_crash(f);
    fx_expect_text(f, fx_lookup(f, in, "edited"), "v1");
}

static void rollback_with_open_files(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    struct dmt_attr a;
    uint64_t x = fx_file(f, DMT_ROOT, "x");
    fx_text(f, x, "old", 0);
    snap(f, "s");
    fx_text(f, x, "NEW", 0);
    uint64_t y = fx_file(f, DMT_ROOT, "y");
    fx_text(f, y, "newer", 0);
    dmt_ws_ref(f->ws, x);
    dmt_ws_ref(f->ws, y);
    (void)rollback(f, "s", NULL);
    fx_expect_text(f, x, "old");
    fx_expect_text(f, y, "newer"); /* an orphan now */
    assert_int_equal(fx_lookup(f, DMT_ROOT, "y"), 0);
    assert_int_equal(fx_attr(f, y).st.st_nlink, 0);
    dmt_ws_forget(f->ws, y, 1);
    assert_int_equal(dmt_ws_getattr(f->ws, y, &a), -ENOENT);
}

static struct {
    uint64_t ino;
    const char *text;
} mapped;

/* What the kernel does when it is asked for the dirty pages of the mount. */
static int page_arrives(void *ctx)
{
    if (mapped.text)
        fx_text(ctx, mapped.ino, mapped.text, 0);
    mapped.text = NULL;
    return 0;
}

/* Stores through mapped memory that nobody has heard of yet: a snapshot has them, and a rollback
 * does away with them, where they would come back with the next writeback (D7). */
static void mapped_stores_come_first(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    char saved[129];
    f->conf.flush_mmap = page_arrives;
    fx_reopen(f);
    mapped.ino = fx_file(f, DMT_ROOT, "x");
    fx_text(f, mapped.ino, "before", 0);
    mapped.text = "stored";
    snap(f, "s");
    assert_null(mapped.text);
    fx_text(f, mapped.ino, "later!", 0);
    mapped.text = "unseen";
    (void)rollback(f, "s", saved);
    assert_null(mapped.text);
    fx_expect_text(f, mapped.ino, "stored");
    (void)rollback(f, saved, NULL);
    fx_expect_text(f, mapped.ino, "unseen");
}

static void rollback_to_a_snapshot_with_acls_and_swapped_directories(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    char was[65], now[65];
    uint8_t acl[44];
    struct dmt_op op = FX_OP(0);
    const uint16_t e[5][2] = {{1, 7}, {2, 6}, {4, 5}, {16, 7}, {32, 5}};
    dmt_st32(acl, 2);
    for (int i = 0; i < 5; i++) {
        dmt_st16(acl + 4 + i * 8, e[i][0]);
        dmt_st16(acl + 6 + i * 8, e[i][1]);
        dmt_st32(acl + 8 + i * 8, e[i][0] == 2 ? 1000 : ~0u);
    }
    uint64_t a = fx_dir(f, DMT_ROOT, "a"), b = fx_dir(f, DMT_ROOT, "b"), c = fx_dir(f, a, "c");
    fx_file(f, c, "in-c");
    fx_file(f, b, "in-b");
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, a, WS_ACL_DEFAULT, acl, sizeof(acl), 0), 0);
    assert_int_equal(dmt_ws_setxattr(f->ws, &op, c, WS_ACL_ACCESS, acl, sizeof(acl), 0), 0);
    digest_of(f, DMT_LIVE, was);
    snap(f, "s");
    assert_int_equal(dmt_ws_removexattr(f->ws, &op, a, WS_ACL_DEFAULT), 0);
    fx_chmod(f, c, 0700);
    assert_int_equal(fx_try_rename(f, DMT_ROOT, "a", DMT_ROOT, "b", RENAME_EXCHANGE), 0);
    fx_rename(f, a, "c", b, "c");
    fx_rename(f, DMT_ROOT, "b", c, "a"); /* a/c/in-c has become a(b)/c/a(a) */
    (void)rollback(f, "s", NULL);
    digest_of(f, DMT_LIVE, now);
    assert_string_equal(was, now);
}

static void group_without_end_is_never_applied(void **state)
{
    struct fx *f = &((struct pair *)*state)->a;
    struct dmt_rec r;
    char was[65], now[65];
    build(f);
    digest_of(f, DMT_LIVE, was);
    struct dmt_body begin = {.type = DMT_REC_BEGIN, .BEGIN.what = ws_span("torn")};
    struct dmt_body un = {
        .type = DMT_REC_UNLINK,
        .UNLINK = {.parent = DMT_ROOT,
                   .name = ws_span("readme"),
                   .ino = fx_lookup(f, DMT_ROOT, "readme")},
    };
    ws_lock(f->ws);
    assert_int_equal(ws_log(f->ws, NULL, &begin, 0), 0);
    assert_int_equal(ws_append(f->ws, NULL, &un, 0, &r), 0);
    ws_unlock(f->ws);
    fx_crash(f);
    digest_of(f, DMT_LIVE, now);
    assert_string_equal(was, now);
    fx_file(f, DMT_ROOT, "after"); /* the new epoch dropped the group */
    fx_crash(f);
    assert_true(fx_lookup(f, DMT_ROOT, "after") > 0);
    assert_true(fx_lookup(f, DMT_ROOT, "readme") > 0);
}

static void follower_has_the_same_snapshots(void **state)
{
    struct pair *p = *state;
    char saved[129];
    build(&p->a);
    struct dmt_snapshot s = snap(&p->a, "s");
    havoc(&p->a);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    fx_checkpoint(&p->b);
    pair_pull(&p->a, &p->b, 10000);
    pair_equal(&p->a, &p->b, s.seq);
    (void)rollback(&p->a, "s", saved);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_pull(&p->a, &p->b, 10000);
    pair_equal(&p->a, &p->b, DMT_LIVE);
    struct dmt_snapshot before;
    assert_int_equal(dmt_store_snap_get(dmt_ws_store(p->b.ws), saved, &before), 0);
    pair_equal(&p->a, &p->b, before.seq);
    pair_equal(&p->a, &p->b, s.seq);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)
        T(snapshot_stays_exact),
        T(many_snapshots_each_show_their_time),
        T(snapshot_names_are_checked),
        T(snapshots_directory_is_read_only_and_apart),
        T(diff_names_what_changed),
        T(diff_of_a_saved_file_is_one_change),
        T(rollback_and_undo_and_redo),
        T(rollback_of_nothing_changes_nothing),
        T(rollback_dry_run_only_tells),
        T(rollback_of_paths_leaves_the_rest),
        T(rollback_with_open_files),
        T(mapped_stores_come_first),
        T(rollback_to_a_snapshot_with_acls_and_swapped_directories),
        T(group_without_end_is_never_applied),
        T(follower_has_the_same_snapshots),
    };
    return cmocka_run_group_tests_name("workspace snapshots", tests, NULL, NULL);
}
