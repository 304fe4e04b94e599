/* The real disk, and whole small files through a disk that fails at each step in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/base/io.h"

static char dir[] = "/var/tmp/test_io.XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[4][PATH_MAX];
    static int turn;
    char *p = path[turn++ % 4];
    (void)snprintf(p, PATH_MAX, "%s/%s", dir, name);
    return p;
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char cmd[] = "rm";
    char flag[] = "-rf";
    char *argv[] = {cmd, flag, dir, NULL};
    pid_t pid = fork();
    if (pid == 0) {
        execv("/bin/rm", argv);
        _exit(127);
    }
    return waitpid(pid, NULL, 0) == pid ? 0 : -1;
}

static void write_and_read(void **state)
{
    (void)state;
    const struct dmt_io *io = dmt_io_real();
    char buf[64] = "";
    struct stat st;
    int fd = io->open(io->ctx, in_dir("a"), O_RDWR | O_CREAT | O_EXCL, 0640);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(io->pwrite(io->ctx, fd, "hello world", 11, 5), 11);
    assert_int_equal(io->pread(io->ctx, fd, buf, 64, 5), 11); /* short at the end only */
    assert_memory_equal(buf, "hello world", 11);
    assert_int_equal(io->pread(io->ctx, fd, buf, 5, 100), 0);
    assert_int_equal(io->fdatasync(io->ctx, fd), 0);
    assert_int_equal(io->fsync(io->ctx, fd), 0);
    assert_int_equal(io->ftruncate(io->ctx, fd, 7), 0);
    assert_int_equal(io->fallocate(io->ctx, fd, 0, 0, 4096), 0);
    assert_int_equal(io->fstat(io->ctx, fd, &st), 0);
    assert_int_equal(st.st_size, 4096);
    assert_int_equal(io->close(io->ctx, fd), 0);
    assert_int_equal(io->sync_dir(io->ctx, dir), 0);
    assert_int_equal(io->rename(io->ctx, in_dir("a"), in_dir("b")), 0);
    assert_int_equal(io->unlink(io->ctx, in_dir("b")), 0);
    assert_int_equal(io->unlink(io->ctx, in_dir("b")), -ENOENT);
    assert_int_equal(io->mkdir(io->ctx, in_dir("d"), 0755), 0);
    assert_int_equal(io->mkdir(io->ctx, in_dir("d"), 0755), -EEXIST);
}

static void errors_are_negative_errnos(void **state)
{
    (void)state;
    const struct dmt_io *io = dmt_io_real();
    struct stat st;
    struct iovec v = {(void *)"x", 1};
    char c;
    assert_int_equal(io->open(io->ctx, in_dir("none"), O_RDONLY, 0), -ENOENT);
    assert_int_equal(io->close(io->ctx, -1), -EBADF);
    assert_int_equal(io->pread(io->ctx, -1, &c, 1, 0), -EBADF);
    assert_int_equal(io->pwrite(io->ctx, -1, "x", 1, 0), -EBADF);
    assert_int_equal(io->pwritev(io->ctx, -1, &v, 1, 0), -EBADF);
    assert_int_equal(io->fdatasync(io->ctx, -1), -EBADF);
    assert_int_equal(io->fsync(io->ctx, -1), -EBADF);
    assert_int_equal(io->ftruncate(io->ctx, -1, 0), -EBADF);
    assert_int_equal(io->fallocate(io->ctx, -1, 0, 0, 1), -EBADF);
    assert_int_equal(io->fstat(io->ctx, -1, &st), -EBADF);
    assert_int_equal(io->rename(io->ctx, in_dir("none"), in_dir("x")), -ENOENT);
    assert_int_equal(io->sync_dir(io->ctx, in_dir("none")), -ENOENT);
    /* full disk */
    int fd = io->open(io->ctx, "/dev/full", O_WRONLY, 0);
    assert_true(fd >= 0);
    assert_int_equal(io->pwrite(io->ctx, fd, "x", 1, 0), -ENOSPC);
    assert_int_equal(io->pwritev(io->ctx, fd, &v, 1, 0), -ENOSPC);
    io->close(io->ctx, fd);
}

static void vectors_longer_than_the_kernel_takes(void **state)
{
    (void)state;
    const struct dmt_io *io = dmt_io_real();
    enum { N = 3 * IOV_MAX + 7 };
    struct iovec *v = calloc(N, sizeof(*v));
    char *bytes = malloc(3 * N), *back = malloc(3 * N + 1);
    for (int i = 0; i < 3 * N; i++)
        bytes[i] = (char)(i * 7 + i / 100);
    for (int i = 0; i < N; i++)
        v[i] = (struct iovec){bytes + 3 * i, 3};
    int fd = io->open(io->ctx, in_dir("v"), O_RDWR | O_CREAT, 0600);
    assert_int_equal(io->pwritev(io->ctx, fd, v, N, 1000), 3 * N);
    assert_int_equal(io->pread(io->ctx, fd, back, 3 * N + 1, 1000), 3 * N);
    assert_memory_equal(back, bytes, 3 * N);
    io->close(io->ctx, fd);
    free(v);
    free(bytes);
    free(back);
}

/* A limit of the file's size makes the kernel write short first; that must become the error, not a
 * count. */
static void a_short_vector_write_is_not_a_success(void **state)
{
    (void)state;
    const struct dmt_io *io = dmt_io_real();
    static char a[3000], b[90000];
    struct iovec v[] = {{a, sizeof(a)}, {b, sizeof(b)}};
    struct rlimit old, small;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 50000;
    int fd = io->open(io->ctx, in_dir("s"), O_RDWR | O_CREAT, 0600);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    ssize_t n = io->pwritev(io->ctx, fd, v, 2, 0), m = io->pwrite(io->ctx, fd, b, sizeof(b), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(n, -EFBIG);
    assert_int_equal(m, -EFBIG);
    assert_int_equal(io->pwritev(io->ctx, fd, v, 2, 0), 93000);
    io->close(io->ctx, fd);
}

static void read_file(void **state)
{
    (void)state;
    const struct dmt_io *io = dmt_io_real();
    char *p;
    size_t n;
    assert_int_equal(dmt_io_write_file(io, in_dir("f"), "content", 7, 0600), 0);
    assert_int_equal(dmt_io_read_file(io, in_dir("f"), 7, &p, &n), 0);
    assert_int_equal(n, 7);
    assert_string_equal(p, "content");
    free(p);
    p = NULL;
    assert_int_equal(dmt_io_read_file(io, in_dir("f"), 6, &p, &n), -EFBIG);
    assert_int_equal(dmt_io_read_file(io, in_dir("none"), 10, &p, &n), -ENOENT);
    assert_int_equal(dmt_io_read_file(io, dir, 10, &p, &n), -EISDIR);
    assert_null(p);
    assert_int_equal(dmt_io_write_file(io, in_dir("f"), NULL, 0, 0600), 0);
    assert_int_equal(dmt_io_read_file(io, in_dir("f"), 0, &p, NULL), 0);
    assert_string_equal(p, "");
    free(p);
    /* says size 0, has content */
    assert_int_equal(dmt_io_read_file(io, "/proc/self/mountinfo", 1 << 20, &p, &n), 0);
    assert_true(n > 0 && strlen(p) == n);
    free(p);
    assert_int_equal(dmt_io_read_file(io, "/proc/self/mountinfo", 10, &p, &n), -EFBIG);
}

static void write_file_sets_the_mode_and_clears_leftovers(void **state)
{
    (void)state;
    const struct dmt_io *io = dmt_io_real();
    struct stat st;
    int fd = open(in_dir("m.tmp"), O_WRONLY | O_CREAT, 0666);
    assert_int_equal(write(fd, "left over from a crash", 22), 22);
    close(fd);
    assert_int_equal(dmt_io_write_file(io, in_dir("m"), "x", 1, 0600), 0);
    assert_int_equal(stat(in_dir("m"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_size, 1);
    assert_int_equal(access(in_dir("m.tmp"), F_OK), -1);
    assert_int_equal(dmt_io_write_file(io, in_dir("none/m"), "x", 1, 0600), -ENOENT);
    char *long_path = calloc(1, 6000);
    memset(long_path, 'a', 5999);
    assert_int_equal(dmt_io_write_file(io, long_path, "x", 1, 0600), -ENAMETOOLONG);
    assert_int_equal(dmt_io_mkdirs(io, long_path, 0700), -ENAMETOOLONG);
    free(long_path);
}

static void mkdirs(void **state)
{
    (void)state;
    const struct dmt_io *io = dmt_io_real();
    struct stat st;
    assert_int_equal(dmt_io_mkdirs(io, in_dir("p/q/r"), 0700), 0);
    assert_int_equal(stat(in_dir("p/q/r"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(dmt_io_mkdirs(io, in_dir("p/q/r"), 0700), 0);
    assert_int_equal(dmt_io_mkdirs(io, in_dir("p/q/r/"), 0700), 0);
    assert_int_equal(dmt_io_mkdirs(io, "/", 0700), 0);
    assert_int_equal(dmt_io_mkdirs(io, "", 0700), -EINVAL);
    assert_int_equal(dmt_io_write_file(io, in_dir("p/file"), "x", 1, 0600), 0);
    assert_int_equal(dmt_io_mkdirs(io, in_dir("p/file"), 0700), -ENOTDIR);
    assert_int_equal(dmt_io_mkdirs(io, in_dir("p/file/x"), 0700), -ENOTDIR);
}

/* --- a disk whose call number fail_at fails; the others go through --- */

static int calls, fail_at;

static bool fails(void)
{
    return ++calls == fail_at;
}
static int f_open(void *c, const char *p, int f, mode_t m)
{
    return fails() ? -EIO : dmt_io_real()->open(c, p, f, m);
}
static int f_close(void *c, int fd)
{
    bool fail = fails();
    int r = dmt_io_real()->close(c, fd);
    return fail ? -EIO : r;
}
static ssize_t f_pwrite(void *c, int fd, const void *b, size_t n, uint64_t o)
{
    return fails() ? -ENOSPC : dmt_io_real()->pwrite(c, fd, b, n, o);
}
static int f_fsync(void *c, int fd)
{
    return fails() ? -EIO : dmt_io_real()->fsync(c, fd);
}
static int f_rename(void *c, const char *a, const char *b)
{
    return fails() ? -EIO : dmt_io_real()->rename(c, a, b);
}
static int f_unlink(void *c, const char *p)
{
    return fails() ? -EIO : dmt_io_real()->unlink(c, p);
}
static int f_sync_dir(void *c, const char *p)
{
    return fails() ? -EIO : dmt_io_real()->sync_dir(c, p);
}

static void write_file_fails_whole(void **state)
{
    (void)state;
    struct dmt_io io = *dmt_io_real();
    io.open = f_open;
    io.close = f_close;
    io.pwrite = f_pwrite;
    io.fsync = f_fsync;
    io.rename = f_rename;
    io.unlink = f_unlink;
    io.sync_dir = f_sync_dir;
    assert_int_equal(dmt_io_write_file(dmt_io_real(), in_dir("w"), "old", 3, 0600), 0);
    int steps = 0, r;
    for (fail_at = 1;; fail_at++) {
        calls = 0;
        r = dmt_io_write_file(&io, in_dir("w"), "new!", 4, 0600);
        if (r == 0)
            break;
        steps++;
        assert_true(r == -EIO || r == -ENOSPC);
        char *p;
        assert_int_equal(dmt_io_read_file(dmt_io_real(), in_dir("w"), 100, &p, NULL), 0);
        /* Only the very last step, making the rename durable, comes after the new content is
         * visible. */
        assert_string_equal(p, steps == 7 ? "new!" : "old");
        free(p);
        assert_int_equal(access(in_dir("w.tmp"), F_OK), -1);
        if (steps == 7)
            assert_int_equal(dmt_io_write_file(dmt_io_real(), in_dir("w"), "old", 3, 0600), 0);
    }
    assert_int_equal(steps, 7); /* unlink open write fsync close rename sync_dir */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write_and_read),
        cmocka_unit_test(errors_are_negative_errnos),
        cmocka_unit_test(vectors_longer_than_the_kernel_takes),
        cmocka_unit_test(a_short_vector_write_is_not_a_success),
        cmocka_unit_test(read_file),
        cmocka_unit_test(write_file_sets_the_mode_and_clears_leftovers),
        cmocka_unit_test(mkdirs),
        cmocka_unit_test(write_file_fails_whole),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
