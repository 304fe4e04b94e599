/* test_branch_copy.c: branches as files: read piece by piece, copied, checked, removed; and what a
 * former holder keeps of the files that the new one lacked bytes of. */
#include "fs/workspace/branch_copy.h"
#include "tests/unit/workspace/pair.h"

#define BRANCH "epoch-1.0-alpha"

/* a has written what b never got: two segments of a branch, and b goes on. */
static void part(struct pair *p)
{
    struct dmt_err err = {0};
    fx_text(&p->a, fx_file(&p->a, DMT_ROOT, "both"), "both", 0);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    uint64_t at = dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq;
    fx_text(&p->a, fx_file(&p->a, DMT_ROOT, "lost"), "lost", 0);
    fx_fill(&p->a, fx_file(&p->a, DMT_ROOT, "big"), 10u << 20, 0, 256u << 10, 9);
    fx_check(dmt_ws_promote(p->b.ws, &err), &err);
    fx_check(dmt_ws_begin_epoch(p->b.ws, FX_EPOCH(2, 0), "beta", "test", &err), &err);
    dmt_ws_demote(p->a.ws);
    fx_check(dmt_ws_branch_and_cut(p->a.ws, at, BRANCH, &err), &err);
}

/* Asks and puts up to `pieces` of them; 1 when all is there: then *files and *tail are the end. */
static int copy_some(struct pair *p, unsigned pieces, uint32_t *files, struct dmt_pos *tail)
{
    static uint8_t buf[64u << 10];
    struct dmt_branch_piece at;
    assert_int_equal(dmt_ws_branch_copy_open(p->b.ws, BRANCH, &at), 0);
    for (; pieces > 0; pieces--) {
        struct dmt_branch_piece got = {.file = at.file, .off = at.off};
        assert_int_equal(dmt_ws_branch_read(p->a.ws, BRANCH, &got, buf, sizeof(buf), tail), 0);
        if (got.len == 0) {
            *files = got.file;
            return 1;
        }
        assert_int_equal(dmt_ws_branch_copy_put(p->b.ws, BRANCH, &got, buf), 0);
        at = got;
        at.off += got.len;
    }
    return 0;
}

static int names_of(void *ctx, const char *name, bool removed)
{
    char *text = ctx;
    size_t n = strlen(text);
    (void)snprintf(text + n, 256 - n, "%s%s ", removed ? "-" : "+", name);
    return 0;
}

static void expect_names(struct fx *f, const char *want)
{
    char text[256] = "";
    assert_int_equal(dmt_ws_branch_names(f->ws, names_of, text), 0);
    assert_string_equal(text, want);
}

static int never(void *ctx, const char *name, uint64_t first, uint64_t last, uint64_t bytes)
{
    (void)ctx, (void)name, (void)first, (void)last, (void)bytes;
    fail();
    return 0;
}

static void a_copy_is_the_branch(void **state)
{
    struct pair *p = *state;
    uint32_t files = 0;
    struct dmt_pos tail = {0};
    char out[160];
    struct dmt_err err = {0};
    part(p);
    /* in turns, as after cuts and restarts: it goes on where it was */
    int turns = 0;
    while (copy_some(p, 20, &files, &tail) == 0) {
        turns++;
        expect_names(&p->b, "");
        assert_int_equal(dmt_ws_branches(p->b.ws, never, NULL), 0);
    }
    assert_true(turns > 5 && files >= 2 && tail.seq > 0);
    fx_check(dmt_ws_branch_copy_end(p->b.ws, BRANCH, files, &tail), NULL);
    expect_names(&p->b, "+" BRANCH " ");
    fx_shell("test ! -e %s/branches/" BRANCH ".copy", p->b.store);
    fx_shell("cd %s/branches/" BRANCH " && for f in *.seg; do cmp $f %s/branches/" BRANCH
             "/$f; done",
             p->b.store, p->a.store);
    (void)snprintf(out, sizeof(out), "%s/out", p->b.dir);
    assert_int_equal(mkdir(out, 0700), 0);
    fx_check(dmt_ws_branch_extract(p->b.ws, BRANCH, out, NULL, &err), &err);
    fx_shell("test \"$(cat %s/lost)\" = lost && test $(stat -c %%s %s/big) = 10485760", out, out);
}

static void a_damaged_copy_is_no_branch(void **state)
{
    struct pair *p = *state;
    uint32_t files = 0;
    struct dmt_pos tail = {0};
    part(p);
    assert_int_equal(copy_some(p, UINT32_MAX, &files, &tail), 1);
    struct dmt_pos other = tail;
    other.chain++;
    assert_int_equal(dmt_ws_branch_copy_end(p->b.ws, BRANCH, files, &other), DMT_E_HISTORY);
    assert_int_equal(dmt_ws_branch_copy_end(p->b.ws, BRANCH, files + 1, &tail), DMT_E_CORRUPT);
    /* as after a power cut: a block of the first file that came is not what was written */
    fx_shell("f=$(ls %s/branches/" BRANCH
             ".copy/*.seg | head -n 1); dd if=/dev/zero of=$f bs=4096 seek=20 count=1 conv=notrunc "
             "2>/dev/null",
             p->b.store);
    assert_true(dmt_ws_branch_copy_end(p->b.ws, BRANCH, files, &tail) < 0);
    expect_names(&p->b, "");
    dmt_ws_branch_copy_drop(p->b.ws, BRANCH);
    fx_shell("test ! -e %s/branches/" BRANCH ".copy", p->b.store);
    assert_int_equal(copy_some(p, UINT32_MAX, &files, &tail), 1);
    assert_int_equal(dmt_ws_branch_copy_end(p->b.ws, BRANCH, files, &tail), 0);
    expect_names(&p->b, "+" BRANCH " ");
}

/* The end of a file is missing, and it is still a journal: the position tells. */
static void a_short_copy_is_no_branch(void **state)
{
    struct pair *p = *state;
    uint32_t files = 0;
    struct dmt_pos tail = {0};
    part(p);
    assert_int_equal(copy_some(p, UINT32_MAX, &files, &tail), 1);
    fx_shell("truncate -s 65536 %s/branches/" BRANCH ".copy/0000000000000002.seg", p->b.store);
    assert_true(dmt_ws_branch_copy_end(p->b.ws, BRANCH, files, &tail) < 0);
    expect_names(&p->b, "");
}

/* A disk that knows which files of the copy are not durable, and looks at the rename. */
static char undurable[8][256];
static unsigned undurable_n, named;
static bool folder_synced, parent_synced;

static void path_of_fd(int fd, char path[256])
{
    char link[64];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 255);
    path[n > 0 ? n : 0] = '\0';
}

static unsigned place_of(const char *path)
{
    unsigned i = 0;
    while (i < undurable_n && strcmp(undurable[i], path) != 0)
        i++;
    return i;
}

static void changed(int fd)
{
    char path[256];
    path_of_fd(fd, path);
    if (place_of(path) < undurable_n)
        return;
    assert_true(undurable_n < 8);
    strcpy(undurable[undurable_n++], path);
    folder_synced = false;
}

static ssize_t watch_write(void *ctx, int fd, const void *buf, size_t len, uint64_t off, bool keep)
{
    changed(fd);
    return dmt_io_real()->pwrite_long(ctx, fd, buf, len, off, keep);
}

static int watch_truncate(void *ctx, int fd, uint64_t len)
{
    changed(fd);
    return dmt_io_real()->ftruncate(ctx, fd, len);
}

static int watch_sync(void *ctx, int fd)
{
    char path[256];
    path_of_fd(fd, path);
    unsigned i = place_of(path);
    if (i < undurable_n)
        memmove(undurable[i], undurable[--undurable_n], sizeof(undurable[0]));
    return dmt_io_real()->fdatasync(ctx, fd);
}

static int watch_sync_dir(void *ctx, const char *path)
{
    folder_synced |= strstr(path, ".copy") != NULL;
    parent_synced |= named > 0 && strstr(path, ".copy") == NULL;
    return dmt_io_real()->sync_dir(ctx, path);
}

static int watch_rename(void *ctx, const char *from, const char *to)
{
    assert_int_equal(undurable_n, 0);
    assert_true(folder_synced);
    named++;
    return dmt_io_real()->rename(ctx, from, to);
}

static void a_copy_has_its_name_when_it_is_durable(void **state)
{
    struct pair *p = *state;
    uint32_t files = 0;
    struct dmt_pos tail = {0};
    struct dmt_io io = *dmt_io_real();
    const struct dmt_io *was = p->b.ws->conf.io;
    part(p);
    undurable_n = named = 0;
    folder_synced = parent_synced = false;
    io.pwrite_long = watch_write;
    io.ftruncate = watch_truncate;
    io.fdatasync = watch_sync;
    io.sync_dir = watch_sync_dir;
    io.rename = watch_rename;
    p->b.ws->conf.io = &io;
    assert_int_equal(copy_some(p, UINT32_MAX, &files, &tail), 1);
    assert_true(undurable_n == files && named == 0);
    assert_int_equal(dmt_ws_branch_copy_end(p->b.ws, BRANCH, files, &tail), 0);
    assert_int_equal(named, 1);
    assert_true(parent_synced);
    p->b.ws->conf.io = was;
}

static void a_piece_in_the_wrong_place_is_refused(void **state)
{
    struct pair *p = *state;
    uint8_t byte = 1;
    struct dmt_branch_piece at, piece = {.serial = 1, .size = 100, .off = 10, .len = 1};
    assert_int_equal(dmt_ws_branch_copy_open(p->b.ws, BRANCH, &at), 0);
    assert_int_equal(dmt_ws_branch_copy_put(p->b.ws, BRANCH, &piece, &byte), DMT_E_CORRUPT);
}

static void a_removed_branch_is_gone(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    struct dmt_branch_piece piece = {0};
    struct dmt_pos tail;
    uint8_t buf[16];
    part(p);
    assert_int_equal(dmt_ws_branch_remove(p->a.ws, "epoch-9.9-x", true, &err), -ENOENT);
    assert_non_null(strstr(err.msg, "there is no branch"));
    assert_int_equal(dmt_ws_branch_remove(p->a.ws, "../branches/" BRANCH, true, &err), -EINVAL);
    fx_check(dmt_ws_branch_remove(p->a.ws, BRANCH, true, &err), &err);
    expect_names(&p->a, "-" BRANCH " ");
    assert_int_equal(dmt_ws_branches(p->a.ws, never, NULL), 0);
    assert_int_equal(dmt_ws_branch_read(p->a.ws, BRANCH, &piece, buf, sizeof(buf), &tail), -ENOENT);
    assert_int_equal(dmt_ws_branch_remove(p->a.ws, BRANCH, true, &err), -ENOENT);
    fx_check(dmt_ws_branch_remove(p->a.ws, BRANCH, false, &err), &err); /* heard of again */
    /* b, which has the beginning of a copy only */
    assert_int_equal(dmt_ws_branch_copy_open(p->b.ws, BRANCH, &piece), 0);
    fx_check(dmt_ws_branch_remove(p->b.ws, BRANCH, false, &err), &err);
    expect_names(&p->b, "-" BRANCH " ");
    fx_shell("test ! -e %s/branches/" BRANCH ".copy", p->b.store);
}

/* The mark was durable, the files were not gone yet when it was killed. */
static void a_removal_cut_off_is_finished(void **state)
{
    struct pair *p = *state;
    part(p);
    fx_shell("touch %s/branches/" BRANCH ".removed", p->a.store);
    assert_int_equal(dmt_ws_branches(p->a.ws, never, NULL), 0);
    expect_names(&p->a, "-" BRANCH " ");
    fx_shell("test ! -e %s/branches/" BRANCH, p->a.store);
}

/* What is not a branch's name does not show, and is not touched. */
static void other_names_are_left_alone(void **state)
{
    struct pair *p = *state;
    fx_shell(
        "mkdir -p %s/branches/x.new %s/branches/y.copy %s/branches/z.scratch && touch %s/branches/w.removed.tmp",
        p->a.store, p->a.store, p->a.store, p->a.store);
    expect_names(&p->a, "");
    fx_shell("test -d %s/branches/x.new && test -d %s/branches/y.copy", p->a.store, p->a.store);
}

/* --- what the new holder lacked --------------------------------------------------------------- */

static int find_turn(void *ctx, const struct dmt_epoch_row *e)
{
    if (e->epoch == FX_EPOCH(2, 0))
        *(struct dmt_epoch_row *)ctx = *e;
    return 0;
}

static int keep_bulk(struct fx *f)
{
    struct dmt_epoch_row turn = {0};
    struct dmt_err err = {0};
    atomic_bool stop = false;
    assert_int_equal(dmt_store_epoch_each(f->ws->st, find_turn, &turn), 0);
    int r = dmt_ws_branch_keep_bulk(f->ws, &turn, "alpha", &stop, &err);
    fx_check(r, &err);
    return r;
}

static void copy_whole(struct pair *p, const char *name)
{
    static uint8_t buf[64u << 10];
    struct dmt_branch_piece at;
    struct dmt_pos tail;
    assert_int_equal(dmt_ws_branch_copy_open(p->b.ws, name, &at), 0);
    for (;;) {
        struct dmt_branch_piece got = {.file = at.file, .off = at.off};
        assert_int_equal(dmt_ws_branch_read(p->a.ws, name, &got, buf, sizeof(buf), &tail), 0);
        if (got.len == 0)
            break;
        assert_int_equal(dmt_ws_branch_copy_put(p->b.ws, name, &got, buf), 0);
        at = got;
        at.off += got.len;
    }
    assert_int_equal(dmt_ws_branch_copy_end(p->b.ws, name, at.file + 1, &tail), 0);
}

static void expect_file(const char *dir, const char *name, size_t len, uint32_t seed,
                        const char *word, size_t at)
{
    char path[256];
    uint8_t *want = malloc(len), *got = malloc(len + 1);
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    fx_pattern(want, len, 0, seed);
    memcpy(want + at, word, strlen(word));
    assert_int_equal(read(fd, got, len + 1), len);
    close(fd);
    assert_memory_equal(got, want, len);
    free(want);
    free(got);
}

/* Of two files b has every record and not all bytes; then a goes on alone, and changes a word of
 * one. b settles them, a follows and gives what it has. */
static void files_that_the_new_holder_lacked_are_kept_whole(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    char out[96];
    uint64_t seq;
    uint64_t x = fx_file(&p->a, DMT_ROOT, "x"), y = fx_file(&p->a, DMT_ROOT, "y");
    fx_fill(&p->a, x, 4u << 20, 0, 256u << 10, 1);
    fx_fill(&p->a, y, 3u << 20, 0, 256u << 10, 2);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_pull(&p->a, &p->b, 2);
    uint64_t at = dmt_journal_tail(dmt_ws_journal(p->b.ws)).seq;
    fx_text(&p->a, x, "later", 1u << 20);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    assert_int_equal(dmt_ws_settle(p->b.ws, false, &err), 2);
    dmt_ws_demote(p->a.ws);
    fx_check(dmt_ws_branch_and_cut(p->a.ws, at, BRANCH, &err), &err);
    fx_check(dmt_ws_keep_own(p->a.ws, &seq, &err), &err);
    assert_int_equal(seq, at);
    pair_send(&p->b, &p->a, UINT64_MAX);
    pair_apply(&p->a);
    /* b has given those bytes up, and would answer with zeros: they would be put over a's own */
    assert_int_equal(pair_pull(&p->b, &p->a, INT32_MAX), 0);
    assert_int_equal(keep_bulk(&p->a), 1);
    assert_int_equal(keep_bulk(&p->a), 0); /* it is there */
    fx_shell("test -d %s/branches/epoch-1.1-alpha.bulk", p->a.store);
    copy_whole(p, BRANCH);
    /* without the other branch b cannot give x: it has not all that the later word was put into */
    uint64_t left_out;
    (void)snprintf(out, sizeof(out), "%s/early", p->b.dir);
    assert_int_equal(mkdir(out, 0700), 0);
    fx_check(dmt_ws_branch_extract(p->b.ws, BRANCH, out, &left_out, &err), &err);
    assert_int_equal(left_out, 1);
    fx_shell("test ! -e %s/x", out);
    copy_whole(p, "epoch-1.1-alpha.bulk");
    assert_true(dmt_ws_branch_has_bulk(p->b.ws, at));
    assert_false(dmt_ws_branch_has_bulk(p->b.ws, at + 1));
    /* as they were, without the branch's later word */
    (void)snprintf(out, sizeof(out), "%s/bulk", p->b.dir);
    assert_int_equal(mkdir(out, 0700), 0);
    fx_check(dmt_ws_branch_extract(p->b.ws, "epoch-1.1-alpha.bulk", out, NULL, &err), &err);
    expect_file(out, "x", 4u << 20, 1, "", 0);
    expect_file(out, "y", 3u << 20, 2, "", 0);
    /* the branch changes a word of one of them: the rest comes from the other branch */
    (void)snprintf(out, sizeof(out), "%s/tail", p->b.dir);
    assert_int_equal(mkdir(out, 0700), 0);
    fx_check(dmt_ws_branch_extract(p->b.ws, BRANCH, out, &left_out, &err), &err);
    assert_int_equal(left_out, 0);
    expect_file(out, "x", 4u << 20, 1, "later", 1u << 20);
}

/* Dealt with by a person, or removed: nothing is kept of it. */
static void what_nobody_lacks_is_not_kept(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    struct dmt_op op = {0};
    uint64_t seq, x = fx_file(&p->a, DMT_ROOT, "x");
    fx_fill(&p->a, x, 4u << 20, 0, 256u << 10, 1);
    pair_send(&p->a, &p->b, UINT64_MAX);
    pair_apply(&p->b);
    pair_promote(&p->b, "beta", FX_EPOCH(2, 0));
    assert_int_equal(dmt_ws_settle(p->b.ws, false, &err), 1);
    assert_int_equal(dmt_ws_removexattr(p->b.ws, &op, x, WS_INCOMPLETE_ATTR), 0);
    dmt_ws_demote(p->a.ws);
    fx_check(dmt_ws_keep_own(p->a.ws, &seq, &err), &err);
    pair_send(&p->b, &p->a, UINT64_MAX);
    pair_apply(&p->a);
    assert_int_equal(keep_bulk(&p->a), 0);
    expect_names(&p->a, "");
}

#define T(f) cmocka_unit_test_setup_teardown(f, pair_setup, pair_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_copy_is_the_branch),
        T(a_damaged_copy_is_no_branch),
        T(a_short_copy_is_no_branch),
        T(a_copy_has_its_name_when_it_is_durable),
        T(a_piece_in_the_wrong_place_is_refused),
        T(a_removed_branch_is_gone),
        T(a_removal_cut_off_is_finished),
        T(other_names_are_left_alone),
        T(files_that_the_new_holder_lacked_are_kept_whole),
        T(what_nobody_lacks_is_not_kept),
    };
    cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
