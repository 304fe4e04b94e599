/* fixture.h: fs/fuse between a real kernel and a workspace in memory (fakews.h). Needs root and /dev/fuse; mounts in a mount
 * namespace of its own. Clients are child processes: a client in the server's own process could not be killed if the server had a
 * bug. */
#ifndef DMT_TESTS_FUSE_FIXTURE_H
#define DMT_TESTS_FUSE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/fuse_init.h"
#include "fs/fuse/fuse.h"
#include "tests/unit/fuse/fakews.h"

#define WAIT_S 20

static char scratch[64], dir[96], loop_dev[64];
static struct dmt_fuse *fuse;
static int fuse_fd;
static atomic_int destroyed, ended, end_err;

/* --- the mount ------------------------------------------------------------------------------- */

static inline void on_destroy(void *ctx)
{
    (void)ctx;
    atomic_fetch_add(&destroyed, 1);
}

static inline void on_end(void *ctx, int err)
{
    (void)ctx;
    atomic_store(&end_err, err);
    atomic_fetch_add(&ended, 1);
}

static inline void attach_loop(void)
{
    char line[300];
    (void)snprintf(line, sizeof(line), "truncate -s 1M %s/img && losetup -f --show %s/img", scratch,
                   scratch);
    FILE *p = popen(line, "re");
    assert_non_null(p);
    assert_non_null(fgets(loop_dev, sizeof(loop_dev), p));
    loop_dev[strcspn(loop_dev, "\n")] = '\0';
    (void)pclose(p);
}

static bool hold_latency;

static inline void serve(bool block, int readers)
{
    static uint8_t init[512];
    struct dmt_fuse_conf conf = {.init = init,
                                 .instance = 77,
                                 .dir = dir,
                                 .syncfs = block,
                                 .readers = readers,
                                 .on_destroy = on_destroy,
                                 .on_end = on_end};
    struct dmt_err err = {0};
    struct statx sx;
    char data[128];
    uint32_t len;

    conf.dma_latency = hold_latency;
    fake_reset();
    atomic_store(&destroyed, 0);
    atomic_store(&ended, 0);
    conf.fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    assert_true(conf.fd >= 0);
    fuse_fd = conf.fd;
    if (block)
        attach_loop();
    (void)snprintf(data, sizeof(data),
                   "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other%s",
                   conf.fd, block ? ",blksize=4096" : "");
    assert_int_equal(mount(block ? loop_dev : "t", dir, block ? "fuseblk.dumont" : "fuse.dumont",
                           MS_NOATIME, data),
                     0);
    assert_int_equal(dmt_fuse_init_serve(conf.fd, init, sizeof(init), &len, &err), 0);
    conf.init_len = len;
    assert_int_equal(statx(AT_FDCWD, dir, AT_STATX_DONT_SYNC, STATX_TYPE, &sx), 0);
    conf.dev = makedev(sx.stx_dev_major, sx.stx_dev_minor);
    assert_int_equal(dmt_fuse_start(&fuse, &fake, &conf, &err), 0);
}

static inline bool wait_for(bool (*fn)(void))
{
    for (int i = 0; i < WAIT_S * 200; i++) {
        if (fn())
            return true;
        usleep(5000);
    }
    return false;
}

static inline bool has_ended(void)
{
    return atomic_load(&ended) == 1;
}

static inline void end(void)
{
    char line[64];
    assert_int_equal(umount2(dir, 0), 0);
    assert_true(wait_for(has_ended));
    assert_int_equal(atomic_load(&end_err), 0);
    dmt_fuse_stop(fuse);
    fuse = NULL;
    if (loop_dev[0]) {
        (void)snprintf(line, sizeof(line), "losetup -d %.40s", loop_dev);
        FILE *p = popen(line, "re");
        assert_non_null(p);
        assert_int_equal(pclose(p), 0);
        loop_dev[0] = '\0';
    }
}

static inline int plain_one(void **state)
{
    (void)state;
    serve(false, 1);
    return 0;
}

static inline int plain_two(void **state)
{
    (void)state;
    serve(false, 2);
    return 0;
}

static inline int block_one(void **state)
{
    (void)state;
    serve(true, 1);
    return 0;
}

static inline int plain_latency(void **state)
{
    (void)state;
    hold_latency = true;
    serve(false, 1);
    hold_latency = false;
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    if (fuse)
        end();
    return 0;
}

/* --- clients --------------------------------------------------------------------------------- */

/* In a child: line number of the first thing that is not so is its exit status (0: all is well). */
#define SO(cond)                                                                             \
    do {                                                                                     \
        if (!(cond)) {                                                                       \
            fprintf(stderr, "client, line %d: %s (%s)\n", __LINE__, #cond, strerror(errno)); \
            _exit(1);                                                                        \
        }                                                                                    \
    } while (0)

static inline pid_t begin(void (*fn)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(fuse_fd); /* the connection must end with the server */
        if (chdir(dir) != 0)
            _exit(2);
        fn();
        _exit(0);
    }
    return pid;
}

/* Exit status, or 1000 + signal. A client that hangs is freed by breaking the connection. */
static inline int finish(pid_t pid)
{
    int status;
    for (int i = 0; i < WAIT_S * 200; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
        usleep(5000);
    }
    (void)umount2(dir, MNT_FORCE | MNT_DETACH);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, &status, 0);
    return 2000;
}

static inline void client(void (*fn)(void))
{
    assert_int_equal(finish(begin(fn)), 0);
}

static inline void put_file(const char *name, const char *text)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    SO(fd >= 0);
    SO(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    SO(close(fd) == 0);
}

static inline bool file_is(const char *name, const char *text)
{
    char buf[4096];
    int fd = open(name, O_RDONLY);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, buf, sizeof(buf));
    close(fd);
    return n == (ssize_t)strlen(text) && memcmp(buf, text, (size_t)n) == 0;
}

static inline void make_f(void)
{
    put_file("f", "cached");
}

static inline void on_usr1(int sig)
{
    (void)sig;
}

static inline void fsync_f(void)
{
    struct sigaction sa = {.sa_handler = on_usr1};
    SO(sigaction(SIGUSR1, &sa, NULL) == 0);
    int fd = open("f", O_WRONLY);
    SO(fd >= 0 && fsync(fd) == 0);
}

static inline void mkdir_w(void)
{
    SO(mkdir("w", 0755) == 0);
}

static inline bool one_parked(void)
{
    return fake_parked() == 1;
}

/* --- the group ------------------------------------------------------------------------------- */

/* 0: tests can run; what main returns else. */
static inline int group_begin(void)
{
    if (geteuid() != 0 || access("/dev/fuse", F_OK) != 0) {
        printf("skip: needs root and /dev/fuse\n");
        return 77;
    }
    snprintf(scratch, sizeof(scratch), "%s", "/var/tmp/dumont-test-fuse.XXXXXX");
    if (!mkdtemp(scratch) || unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return 1;
    (void)snprintf(dir, sizeof(dir), "%s/m", scratch);
    (void)mkdir(dir, 0755);
    return 0;
}

static inline int group_end(int rc)
{
    (void)umount2(dir, MNT_DETACH);
    (void)rmdir(dir);
    char img[80];
    (void)snprintf(img, sizeof(img), "%s/img", scratch);
    (void)unlink(img);
    (void)rmdir(scratch);
    return rc;
}

#endif
