/* test_fuse.c: requests, answers, what the kernel may keep and must forget, the end of a mount. */
#include "tests/unit/fuse/fixture.h"

/* --- names and content ----------------------------------------------------------------------- */

static void every_call(void)
{
    char buf[4096], longname[300];
    struct stat st;
    struct statvfs sv;
    umask(027);
    put_file("a", "hello");
    SO(file_is("a", "hello"));
    SO(stat("a", &st) == 0 && st.st_size == 5 && (st.st_mode & 07777) == 0640);
    SO(open("a", O_CREAT | O_EXCL | O_WRONLY, 0600) < 0 && errno == EEXIST);
    SO(stat("nothing", &st) < 0 && errno == ENOENT);
    SO(mkdir("d", 0777) == 0 && stat("d", &st) == 0 && (st.st_mode & 07777) == 0750);
    SO(rename("a", "d/b") == 0 && stat("a", &st) < 0 && errno == ENOENT && file_is("d/b", "hello"));
    SO(syscall(SYS_renameat2, AT_FDCWD, "d/b", AT_FDCWD, "d/b2", 0) == 0);
    SO(symlink("d/b2", "l") == 0 && readlink("l", buf, sizeof(buf)) == 4 && file_is("l", "hello"));
    SO(mknod("fifo", S_IFIFO | 0644, 0) == 0 && lstat("fifo", &st) == 0 && S_ISFIFO(st.st_mode));
    SO(mknod("dev", S_IFCHR | 0600, makedev(1, 3)) == 0 && stat("dev", &st) == 0 &&
       st.st_rdev == makedev(1, 3));
    memset(longname, 'x', sizeof(longname));
    longname[256] = '\0';
    SO(stat(longname, &st) < 0 && errno == ENAMETOOLONG);
    SO(mkdir(longname, 0700) < 0 && errno == ENAMETOOLONG);
    longname[255] = '\0';
    SO(mkdir(longname, 0700) == 0 && rmdir(longname) == 0);
    SO(unlink("d") < 0 && errno == EISDIR && rmdir("d/b2") < 0 && errno == ENOTDIR);
    SO(setxattr("d/b2", "user.x", "val", 3, 0) == 0);
    SO(getxattr("d/b2", "user.x", NULL, 0) == 3 && getxattr("d/b2", "user.x", buf, 2) < 0 &&
       errno == ERANGE);
    SO(getxattr("d/b2", "user.x", buf, sizeof(buf)) == 3 && memcmp(buf, "val", 3) == 0);
    SO(listxattr("d/b2", buf, sizeof(buf)) == 7 && strcmp(buf, "user.x") == 0);
    SO(removexattr("d/b2", "user.x") == 0 && getxattr("d/b2", "user.x", buf, 9) < 0 &&
       errno == ENODATA);
    SO(truncate("d/b2", 3) == 0 && file_is("d/b2", "hel"));
    SO(chmod("d/b2", 0600) == 0 && stat("d/b2", &st) == 0 && (st.st_mode & 07777) == 0600);
    SO(statvfs(".", &sv) == 0 && sv.f_blocks == 1000 && sv.f_namemax == 255);
    put_file("d/b2", "n"); /* O_TRUNC must reach the server, or the rest of the old shows */
    SO(file_is("d/b2", "n"));
    SO(unlink("l") == 0 && unlink("fifo") == 0 && unlink("dev") == 0);
}

static void all_calls_arrive(void **state)
{
    (void)state;
    client(every_call);
    assert_int_equal(FAKE_GET(last.instance), 77);
    assert_true(FAKE_GET(last.unique) != 0);
    assert_true(FAKE_GET(truncates) >= 1);
}

static void many_entries(void)
{
    char name[32];
    int seen = 0, dots = 0;
    struct dirent *e;
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "file-%d", i);
        put_file(name, "x");
    }
    for (int pass = 0; pass < 2; pass++) {
        DIR *d = opendir(".");
        SO(d);
        while ((e = readdir(d))) {
            dots += e->d_name[0] == '.';
            seen += e->d_name[0] != '.';
        }
        closedir(d);
    }
    SO(seen == 400 && dots == 4);
}

static void directories_are_read_whole(void **state)
{
    (void)state;
    client(many_entries);
}

static void read_it(void)
{
    SO(file_is("f", "cached"));
}

static void opens_cost_no_request(void **state)
{
    struct dmt_fuse_stats a, b;
    (void)state;
    client(make_f);
    client(read_it);
    dmt_fuse_stats(fuse, &a);
    client(read_it);
    client(read_it);
    dmt_fuse_stats(fuse, &b);
    assert_int_equal(a.requests, b.requests);
}

static void write_200(void)
{
    char block[4096] = {0};
    int fd = open("f", O_WRONLY);
    SO(fd >= 0);
    for (int i = 0; i < 200; i++)
        SO(pwrite(fd, block, sizeof(block), (off_t)i * 4096) == 4096);
}

/* The kernel asks for security.capability before each write unless the server clears it itself. */
static void writes_cost_one_request(void **state)
{
    struct dmt_fuse_stats a, b;
    (void)state;
    client(make_f);
    dmt_fuse_stats(fuse, &a);
    client(write_200);
    dmt_fuse_stats(fuse, &b);
    assert_in_range(b.requests - a.requests, 200, 220);
}

static void write_as_nobody(void)
{
    int fd = open("s", O_WRONLY);
    SO(fd >= 0 && setgid(65534) == 0 && setuid(65534) == 0);
    SO(write(fd, "x", 1) == 1);
}

static void make_setuid(void)
{
    put_file("s", "abc");
    SO(chmod("s", 04777) == 0);
}

/* As coreutils' stat asks: for the mode alone, which the kernel thinks it knows. */
static void mode_is_777(void)
{
    struct statx sx;
    SO(statx(AT_FDCWD, "s", 0, STATX_MODE, &sx) == 0 && (sx.stx_mode & 07777) == 0777);
}

static void kill_suidgid_is_seen(void **state)
{
    (void)state;
    client(make_setuid);
    assert_false(FAKE_GET(last_kill));
    client(write_as_nobody);
    assert_true(FAKE_GET(last_kill));
    client(mode_is_777);
}

static void tmpfile_is_linked(void)
{
    char path[64];
    struct stat st;
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    SO(fd >= 0 && write(fd, "tmp", 3) == 3 && fstat(fd, &st) == 0 && st.st_nlink == 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    SO(linkat(AT_FDCWD, path, AT_FDCWD, "t", AT_SYMLINK_FOLLOW) == 0);
    SO(close(fd) == 0 && file_is("t", "tmp") && stat("t", &st) == 0 && st.st_nlink == 1);
}

static void o_tmpfile(void **state)
{
    (void)state;
    client(tmpfile_is_linked);
}

static void cold_reads_go_to_the_pool(void **state)
{
    (void)state;
    client(make_f);
    FAKE_SET(cold, true);
    struct dmt_fuse_inval v = {.kind = DMT_FUSE_INVAL_INODE, .ino = 2};
    assert_int_equal(dmt_fuse_invalidate(fuse, &v, 1, NULL, NULL), 0);
    client(read_it);
}

/* --- what the kernel must forget ---------------------------------------------------------- */

static atomic_int inval_done;

static void on_inval(void *ctx)
{
    (void)ctx;
    atomic_fetch_add(&inval_done, 1);
}

static bool inval_is_done(void)
{
    return atomic_load(&inval_done) > 0;
}

static void forget(enum dmt_fuse_inval_kind kind, uint64_t ino, const char *name)
{
    struct dmt_fuse_inval v = {.kind = kind, .ino = ino};
    snprintf(v.name, sizeof(v.name), "%s", name);
    atomic_store(&inval_done, 0);
    assert_int_equal(dmt_fuse_invalidate(fuse, &v, 1, on_inval, NULL), 0);
    assert_true(wait_for(inval_is_done));
}

static void read_changed(void)
{
    SO(file_is("f", "CHANGED"));
}

static void stat_g(void)
{
    struct stat st;
    SO(stat("g", &st) == 0);
}

static void stat_g_gone(void)
{
    struct stat st;
    SO(stat("g", &st) < 0 && errno == ENOENT);
}

static void changes_behind_the_kernel(void **state)
{
    (void)state;
    client(make_f);
    client(read_it);
    pthread_mutex_lock(&fake.lock);
    free(fake.n[2].data);
    fake.n[2].data = strdup("CHANGED");
    fake.n[2].st.st_size = 7;
    pthread_mutex_unlock(&fake.lock);
    client(read_it); /* still the cached one: that is what endless timeouts mean */
    forget(DMT_FUSE_INVAL_INODE, 2, "");
    client(read_changed);

    client(stat_g_gone);
    fake_rename(2, "g");
    client(stat_g_gone);
    forget(DMT_FUSE_INVAL_ENTRY, 1, "g");
    client(stat_g);

    fake_rename(2, "h");
    client(stat_g);
    forget(DMT_FUSE_INVAL_ALL, 0, "");
    client(stat_g_gone);
}

static bool read_is_held(void)
{
    return FAKE_GET(held_cold) == 1;
}

/* One reader: what waits for a disk must not keep it from those that need none. */
static void slow_calls_leave_the_reader(void **state)
{
    (void)state;
    client(make_f);
    FAKE_SET(cold, true);
    FAKE_SET(hold_cold, true);
    FAKE_SET(park_syncs, true);
    forget(DMT_FUSE_INVAL_INODE, 2, "");
    pid_t reading = begin(read_it);
    bool held = wait_for(read_is_held);
    pid_t syncing = begin(fsync_f);
    bool parked = wait_for(one_parked);
    int between = finish(begin(mkdir_w));
    fake_let_read();
    fake_release(0);
    assert_true(held && parked);
    assert_int_equal(between, 0);
    assert_int_equal(finish(reading), 0);
    assert_int_equal(finish(syncing), 0);
}

static void told_inside(uint64_t node, const char *name)
{
    struct dmt_fuse_inval v = {.kind = name ? DMT_FUSE_INVAL_ENTRY : DMT_FUSE_INVAL_INODE,
                               .ino = node};
    snprintf(v.name, sizeof(v.name), "%s", name ? name : "");
    DMT_ASSERT(dmt_fuse_invalidate(fuse, &v, 1, NULL, NULL) == 0);
}

static void write_and_unlink(void)
{
    int fd = open("f", O_RDWR);
    SO(fd >= 0 && file_is("f", "cached"));
    SO(pwrite(fd, "C", 1, 0) == 1 && pwrite(fd, "D", 1, 5) == 1);
    SO(file_is("f", "CacheD") && unlink("f") == 0);
}

/* The client of a write holds the lock of the page, that of an unlink the one of the directory,
 * until it is answered; the kernel wants both for what it is told to forget. */
static void handlers_may_tell_the_kernel(void **state)
{
    (void)state;
    client(make_f);
    FAKE_SET(handles, told_inside);
    client(write_and_unlink);
}

static int entries_of(const char *name)
{
    int n = 0;
    DIR *d = opendir(name);
    SO(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void one_snapshot(void)
{
    struct stat st;
    SO(entries_of(".snapshots") == 3 && stat(".snapshots/s0", &st) == 0 && st.st_ino >> 63);
    SO(stat(".snapshots/s1", &st) < 0 && errno == ENOENT);
}

static void two_snapshots(void)
{
    struct stat st;
    SO(entries_of(".snapshots") == 4 && stat(".snapshots/s1", &st) == 0);
}

/* They come and go without a request through this mount. */
static void snapshots_are_never_cached(void **state)
{
    (void)state;
    FAKE_SET(snapshots, 1);
    client(one_snapshot);
    client(one_snapshot);
    FAKE_SET(snapshots, 2);
    client(two_snapshots);
    FAKE_SET(snapshots, 1);
    client(one_snapshot);
}

/* --- fuseblk: sync and the end --------------------------------------------------------------- */

static void syncfs_here(void)
{
    int fd = open(".", O_RDONLY | O_DIRECTORY);
    SO(fd >= 0 && syncfs(fd) == 0);
}

static int pipe_to[2], pipe_from[2];

/* Dirties a mapped page, says so, and keeps it mapped until told to end. */
static void hold_dirty_page(void)
{
    char c;
    int fd = open("f", O_RDWR);
    SO(fd >= 0);
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    SO(p != MAP_FAILED);
    p[0] = 'C';
    SO(write(pipe_from[1], "x", 1) == 1);
    SO(read(pipe_to[0], &c, 1) == 1);
}

static void syncfs_and_destroy_arrive(void **state)
{
    char c;
    (void)state;
    client(make_f);
    client(syncfs_here);
    if (!dmt_fuse_syncfs_seen(fuse))
        skip(); /* a kernel before 6.18 */
    assert_int_equal(FAKE_GET(syncs_all), 1);

    assert_int_equal(pipe(pipe_to), 0);
    assert_int_equal(pipe(pipe_from), 0);
    pid_t pid = begin(hold_dirty_page);
    assert_int_equal(read(pipe_from[0], &c, 1), 1);
    uint64_t writes = FAKE_GET(writes);
    FAKE_SET(park_syncs, true); /* ours must not wait for anybody */
    assert_int_equal(dmt_fuse_syncfs(fuse), 0);
    assert_true(FAKE_GET(writes) > writes);
    assert_int_equal(FAKE_GET(n[2].data[0]), 'C');
    assert_int_equal(FAKE_GET(syncs_all), 1);
    FAKE_SET(park_syncs, false);
    assert_int_equal(write(pipe_to[1], "x", 1), 1);
    assert_int_equal(finish(pid), 0);
    assert_int_equal(umount2(dir, 0), 0);
    assert_int_equal(atomic_load(&destroyed), 1);         /* before umount returned */
    assert_int_equal(mount("x", dir, "tmpfs", 0, ""), 0); /* something for teardown to unmount */
}

/* --- the rest ------------------------------------------------------------------------------ */

static bool latency_is_held(void)
{
    char path[64], target[64];
    for (int fd = 3; fd < 64; fd++) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, target, sizeof(target) - 1);
        if (n > 0 && (target[n] = '\0', strcmp(target, "/dev/cpu_dma_latency") == 0))
            return true;
    }
    return false;
}

static bool latency_is_free(void)
{
    return !latency_is_held();
}

static void stat_much(void)
{
    char name[32];
    for (int i = 0; i < 20000; i++) {
        struct stat st;
        snprintf(name, sizeof(name), "no-%d", i);
        SO(stat(name, &st) < 0);
    }
}

static void latency_is_held_while_requests_come(void **state)
{
    (void)state;
    if (access("/dev/cpu_dma_latency", W_OK) != 0)
        skip();
    assert_true(wait_for(latency_is_free));
    pid_t pid = begin(stat_much);
    assert_true(wait_for(latency_is_held));
    assert_int_equal(finish(pid), 0);
    assert_true(wait_for(latency_is_free));
}

static void a_bad_init_leaves_the_descriptor(void **state)
{
    static const uint8_t junk[104];
    struct dmt_fuse_conf conf = {.init = junk, .init_len = sizeof(junk), .dir = "/"};
    struct dmt_fuse *f = NULL;
    struct dmt_err err = {0};
    int p[2];
    (void)state;
    assert_int_equal(pipe(p), 0);
    conf.fd = p[0];
    assert_true(dmt_fuse_start(&f, &fake, &conf, &err) < 0);
    assert_null(f);
    assert_true(err.msg[0]);
    conf.init_len = 20;
    assert_true(dmt_fuse_start(&f, &fake, &conf, &err) < 0);
    assert_true(fcntl(p[0], F_GETFD) >= 0);
    close(p[0]);
    close(p[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_calls_arrive, plain_one, teardown),
        cmocka_unit_test_setup_teardown(all_calls_arrive, plain_two, teardown),
        cmocka_unit_test_setup_teardown(directories_are_read_whole, plain_one, teardown),
        cmocka_unit_test_setup_teardown(opens_cost_no_request, plain_one, teardown),
        cmocka_unit_test_setup_teardown(writes_cost_one_request, plain_one, teardown),
        cmocka_unit_test_setup_teardown(kill_suidgid_is_seen, plain_one, teardown),
        cmocka_unit_test_setup_teardown(o_tmpfile, plain_one, teardown),
        cmocka_unit_test_setup_teardown(cold_reads_go_to_the_pool, plain_one, teardown),
        cmocka_unit_test_setup_teardown(slow_calls_leave_the_reader, plain_one, teardown),
        cmocka_unit_test_setup_teardown(changes_behind_the_kernel, plain_one, teardown),
        cmocka_unit_test_setup_teardown(handlers_may_tell_the_kernel, plain_one, teardown),
        cmocka_unit_test_setup_teardown(snapshots_are_never_cached, plain_one, teardown),
        cmocka_unit_test_setup_teardown(syncfs_and_destroy_arrive, block_one, teardown),
        cmocka_unit_test_setup_teardown(latency_is_held_while_requests_come, plain_latency,
                                        teardown),
        cmocka_unit_test(a_bad_init_leaves_the_descriptor),
    };
    int rc = group_begin();
    return rc ? rc : group_end(cmocka_run_group_tests(tests, NULL, NULL));
}
