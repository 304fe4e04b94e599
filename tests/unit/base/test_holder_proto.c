/* test_holder_proto.c: the datagrams between holder and workspace process, the ready line, the
 * mount table's lines and the answer to INIT. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <dirent.h>
#include <linux/fuse.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "fs/base/fuse_init.h"
#include "fs/base/holder_proto.h"
#include "fs/base/mountinfo.h"

static struct dmt_hp_msg in, out;
static uint8_t data[DMT_HP_MSG_MAX];

static const enum dmt_hp_type types[] = {DMT_HP_HELLO,   DMT_HP_MOUNT,     DMT_HP_UNMOUNT,
                                         DMT_HP_READY,   DMT_HP_FAILED,    DMT_HP_FUSE,
                                         DMT_HP_NOMOUNT, DMT_HP_UNMOUNTED, DMT_HP_TERMINATE};

static void fill(enum dmt_hp_type type)
{
    memset(&in, 0, sizeof(in));
    in.type = type;
    in.pid = 4711;
    in.flags = DMT_HP_SYNCFS | DMT_HP_LAZY;
    in.code = 32;
    in.instance = 0xdeadbeef;
    in.dev = 0x123456789abcull;
    memset(in.dir, 'd', sizeof(in.dir) - 1);
    snprintf(in.options, sizeof(in.options), "%s", "ro,nosuid");
    snprintf(in.text, sizeof(in.text), "%s", "held by gpu since epoch 7; standby started here");
    snprintf(in.hint, sizeof(in.hint), "%s", "wait");
    in.init_len = sizeof(in.init);
    memset(in.init, 0x5a, sizeof(in.init));
    in.fd = -1;
}

static unsigned fds_open(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void every_type_survives(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        fill(types[i]);
        ssize_t n = dmt_hp_encode(&in, data, sizeof(data));
        assert_true(n > 0);
        assert_int_equal(dmt_hp_decode(data, (size_t)n, &out), 0);
        assert_int_equal(out.type, types[i]);
        /* What came through equals what went in; what the type does not have is empty. */
        assert_true(out.pid == in.pid || out.pid == 0);
        assert_true(out.instance == in.instance || out.instance == 0);
        assert_true(!out.dir[0] || strcmp(out.dir, in.dir) == 0);
        assert_true(!out.text[0] || strcmp(out.text, in.text) == 0);
        /* Encoding it again gives the same bytes: nothing was lost. */
        static uint8_t again[DMT_HP_MSG_MAX];
        assert_int_equal(dmt_hp_encode(&out, again, sizeof(again)), n);
        assert_memory_equal(again, data, (size_t)n);
    }
}

static void cut_or_lengthened_is_corrupt(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        fill(types[i]);
        ssize_t n = dmt_hp_encode(&in, data, sizeof(data) - 1);
        for (ssize_t cut = 0; cut < n; cut++)
            assert_true(dmt_hp_decode(data, (size_t)cut, &out) < 0);
        data[n] = 0;
        assert_int_equal(dmt_hp_decode(data, (size_t)n + 1, &out), DMT_E_CORRUPT);
    }
}

static void other_versions_and_types_are_told_apart(void **state)
{
    (void)state;
    fill(DMT_HP_HELLO);
    ssize_t n = dmt_hp_encode(&in, data, sizeof(data));
    data[2]++;
    assert_int_equal(dmt_hp_decode(data, (size_t)n, &out), DMT_E_VERSION);
    data[2]--;
    data[4] = 200;
    assert_int_equal(dmt_hp_decode(data, (size_t)n, &out), DMT_E_CORRUPT);
    in.type = (enum dmt_hp_type)200;
    assert_int_equal(dmt_hp_encode(&in, data, sizeof(data)), -EINVAL);
    fill(DMT_HP_FUSE);
    assert_int_equal(dmt_hp_encode(&in, data, 16), -EMSGSIZE);
}

static void the_descriptor_rides_along(void **state)
{
    int s[2], p[2];
    char c = 0;
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s), 0);
    assert_int_equal(pipe(p), 0);
    unsigned before = fds_open();
    fill(DMT_HP_FUSE);
    in.fd = p[1];
    assert_int_equal(dmt_hp_send(s[0], &in), 0);
    assert_int_equal(dmt_hp_recv(s[1], &out), 0);
    assert_true(out.fd >= 0 && out.fd != p[1]);
    assert_int_equal(out.init_len, DMT_HP_INIT_MAX);
    assert_memory_equal(out.init, in.init, DMT_HP_INIT_MAX);
    assert_int_equal(write(out.fd, "x", 1), 1);
    assert_int_equal(read(p[0], &c, 1), 1);
    close(out.fd);
    /* FUSE without its descriptor is refused. */
    in.fd = -1;
    assert_int_equal(dmt_hp_send(s[0], &in), 0);
    assert_int_equal(dmt_hp_recv(s[1], &out), DMT_E_CORRUPT);
    assert_int_equal(fds_open(), before);
    close(s[0]);
    assert_int_equal(dmt_hp_recv(s[1], &out), DMT_E_CLOSED);
    fill(DMT_HP_HELLO);
    assert_int_equal(dmt_hp_send(s[1], &in), -EPIPE);
    close(s[1]);
    close(p[0]);
    close(p[1]);
}

static int ready(const char *bytes, int *code, struct dmt_err *err)
{
    int p[2];
    assert_int_equal(pipe(p), 0);
    if (bytes)
        assert_int_equal(write(p[1], bytes, strlen(bytes)), (int)strlen(bytes));
    close(p[1]);
    int rc = dmt_ready_read(p[0], 2000, NULL, code, err);
    close(p[0]);
    return rc;
}

static void ready_lines(void **state)
{
    struct dmt_err err = {0};
    int p[2], code = -1;
    volatile int stop = 1;
    (void)state;
    assert_int_equal(pipe(p), 0);
    dmt_ready_write(p[1], 32, "held by gpu", "wait");
    assert_int_equal(dmt_ready_read(p[0], 1000, NULL, &code, &err), 0);
    assert_int_equal(code, 32);
    assert_string_equal(err.msg, "held by gpu");
    assert_string_equal(err.hint, "wait");
    close(p[0]);
    assert_int_equal(ready("0\n\n\n", &code, &err), 0);
    assert_int_equal(code, 0);
    assert_string_equal(err.hint, "");
    assert_int_equal(ready(NULL, &code, &err), DMT_E_CLOSED);
    assert_int_equal(ready("0\nhalf", &code, &err), DMT_E_CORRUPT);
    assert_int_equal(ready("x\na\nb\n", &code, &err), DMT_E_CORRUPT);
    assert_int_equal(ready("999\na\nb\n", &code, &err), DMT_E_CORRUPT);
    assert_int_equal(pipe(p), 0);
    assert_int_equal(dmt_ready_read(p[0], 30, NULL, &code, &err), -ETIMEDOUT);
    assert_int_equal(dmt_ready_read(p[0], 5000, &stop, &code, &err), -EINTR);
    close(p[0]);
    close(p[1]);
}

static void mountinfo_lines(void **state)
{
    static struct dmt_mount m;
    (void)state;
    assert_true(dmt_mountinfo_parse("63 43 0:54 / /mnt/a\\040b rw,noatime shared:5 master:1 - "
                                    "fuse.dumont train-42 rw,user_id=0",
                                    &m));
    assert_string_equal(m.dir, "/mnt/a b");
    assert_string_equal(m.workspace, "train-42");
    assert_true(m.dev == makedev(0, 54));
    assert_false(m.ro);
    assert_true(dmt_mountinfo_parse(
        "63 43 7:3 / /m rw,noatime - fuseblk.dumont /run/dumont/dev/w1 ro,user_id=0", &m));
    assert_string_equal(m.workspace, "w1");
    assert_true(m.ro);
    assert_true(m.dev == makedev(7, 3));
    assert_true(dmt_mountinfo_parse("24 1 254:1 / / rw,relatime - ext4 /dev/root rw", &m));
    assert_string_equal(m.workspace, "");
    assert_false(dmt_mountinfo_parse("", &m));
    assert_false(dmt_mountinfo_parse("24 1 254:1 / / rw,relatime", &m));
    assert_false(dmt_mountinfo_parse("24 1 x / / rw - ext4 /dev/root rw", &m));
    assert_int_equal(dmt_mountinfo_at("/proc", &m), 1);
    assert_string_equal(m.type, "proc");
    assert_int_equal(dmt_mountinfo_at("/no/such/place", &m), 0);
}

/* The flags that a wrong answer would lose data or speed by (storage D). */
static void init_answer(void **state)
{
    struct fuse_init_in i = {.major = 7, .minor = 45, .max_readahead = 131072, .flags = ~0u};
    struct fuse_init_out o;
    (void)state;
    dmt_fuse_init_answer(&i, &o);
    assert_int_equal(o.flags & (FUSE_ATOMIC_O_TRUNC | FUSE_AUTO_INVAL_DATA | FUSE_WRITEBACK_CACHE |
                                FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_EXPORT_SUPPORT |
                                FUSE_SPLICE_READ | FUSE_SPLICE_WRITE | FUSE_SPLICE_MOVE |
                                FUSE_HANDLE_KILLPRIV | FUSE_INIT_EXT),
                     0);
    const uint32_t must = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES |
                          FUSE_PARALLEL_DIROPS | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |
                          FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT |
                          FUSE_EXPLICIT_INVAL_DATA | FUSE_CACHE_SYMLINKS | FUSE_HANDLE_KILLPRIV_V2 |
                          FUSE_POSIX_ACL | FUSE_DONT_MASK;
    assert_int_equal(o.flags & must, must);
    assert_int_equal(o.max_write, 1 << 20);
    assert_int_equal(o.max_pages, 256);
    assert_int_equal(o.time_gran, 1);
    i.flags = FUSE_ASYNC_READ;
    dmt_fuse_init_answer(&i, &o);
    assert_int_equal(o.flags, FUSE_ASYNC_READ); /* nothing that the kernel did not offer */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_survives),
        cmocka_unit_test(cut_or_lengthened_is_corrupt),
        cmocka_unit_test(other_versions_and_types_are_told_apart),
        cmocka_unit_test(the_descriptor_rides_along),
        cmocka_unit_test(ready_lines),
        cmocka_unit_test(mountinfo_lines),
        cmocka_unit_test(init_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
