/* test_waits.c: replies that wait for an acknowledgement or a sync; killed waiters. */
#include "tests/unit/fuse/fixture.h"

static void replies_wait_for_the_acknowledgement(void **state)
{
    int status;
    (void)state;
    FAKE_SET(acks, ACK_PARK);
    pid_t pid = begin(mkdir_w);
    assert_true(wait_for(one_parked));
    usleep(50000);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    fake_release(0);
    assert_int_equal(finish(pid), 0);
}

static void mkdir_fails(void)
{
    SO(mkdir("w", 0755) < 0 && errno == EIO);
}

static bool uncounted(void)
{
    return FAKE_GET(n[2].refs) == 0;
}

static void a_refused_acknowledgement_is_the_answer(void **state)
{
    (void)state;
    FAKE_SET(acks, ACK_FAIL);
    client(mkdir_fails);
    assert_true(wait_for(uncounted)); /* counted back after the reply */
    FAKE_SET(acks, ACK_PARK);
    FAKE_SET(n[2].used, false);
    pid_t pid = begin(mkdir_fails);
    assert_true(wait_for(one_parked));
    fake_release(-EIO);
    assert_int_equal(finish(pid), 0);
}

static void stat_w_gone(void)
{
    struct stat st;
    SO(stat("w", &st) < 0 && errno == ENOENT);
}

static void stat_w_there(void)
{
    struct stat st;
    SO(stat("w", &st) == 0 && S_ISDIR(st.st_mode));
}

static bool belief_is_forgotten(void)
{
    pid_t pid = begin(stat_w_there);
    return finish(pid) == 0;
}

static void a_killed_waiter_is_freed(void **state)
{
    struct dmt_fuse_stats s;
    (void)state;
    client(stat_w_gone); /* the kernel now believes for ever that there is no w */
    FAKE_SET(acks, ACK_PARK);
    pid_t pid = begin(mkdir_w);
    assert_true(wait_for(one_parked));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(finish(pid), 1000 + SIGKILL);
    dmt_fuse_stats(fuse, &s);
    assert_int_equal(s.killed, 1);
    fake_release(0); /* the late acknowledgement finds nobody, and harms nobody */
    FAKE_SET(acks, ACK_AT_ONCE);
    assert_true(wait_for(belief_is_forgotten));
}

/* A client whose fsync waits, and who has got a signal that is not deadly. */
static pid_t signalled_fsync(void)
{
    client(make_f);
    FAKE_SET(park_syncs, true);
    pid_t pid = begin(fsync_f);
    assert_true(wait_for(one_parked));
    assert_int_equal(kill(pid, SIGUSR1), 0);
    return pid;
}

static void an_ordinary_signal_does_not_end_an_fsync(void **state)
{
    struct dmt_fuse_stats s;
    int status;
    (void)state;
    pid_t pid = signalled_fsync();
    usleep(200000);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    fake_release(0);
    assert_int_equal(finish(pid), 0);
    dmt_fuse_stats(fuse, &s);
    assert_int_equal(s.killed, 0);
    assert_int_equal(FAKE_GET(syncs_ino), 1);
}

/* The second signal, a deadly one, comes after the kernel has sent its one INTERRUPT. */
static void killed_after_an_ordinary_signal(void **state)
{
    (void)state;
    pid_t pid = signalled_fsync();
    usleep(100000);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(finish(pid), 1000 + SIGKILL);
    fake_release(0);
}

static bool begun_ahead(void)
{
    return FAKE_GET(ahead_seq) > 0;
}

static void a_foreseen_sync_is_begun(void **state)
{
    (void)state;
    client(make_f);
    assert_false(begun_ahead());
    FAKE_SET(syncs_due, true);
    client(make_f);
    assert_true(wait_for(begun_ahead));
    assert_int_equal(FAKE_GET(ahead_seq), FAKE_GET(last.seq));
    assert_int_equal(FAKE_GET(ahead_here), 0);
}

static void write_and_sync(void)
{
    int fd = open("f", O_WRONLY);
    for (int i = 0; i < 20; i++)
        SO(fd >= 0 && pwrite(fd, "x", 1, 0) == 1 && fsync(fd) == 0);
}

static void write_and_sync_among_others(void)
{
    struct stat st;
    int fd = open("f", O_WRONLY);
    for (int i = 0; i < 20; i++) {
        pid_t other = fork();
        if (other == 0)
            _exit(stat("nobody", &st) < 0 && fsync(fd) == 0 ? 0 : 1);
        int status = 1;
        SO(other > 0 && waitpid(other, &status, 0) == other && status == 0);
        SO(pwrite(fd, "x", 1, 0) == 1 && fsync(fd) == 0);
    }
}

/* By the reader itself where nobody else has asked for anything lately. */
static void a_lone_caller_is_synced_here(void **state)
{
    (void)state;
    client(make_f);
    FAKE_SET(syncs_due, true);
    client(write_and_sync);
    assert_true(FAKE_GET(ahead_here) > 0);
    uint64_t n = FAKE_GET(ahead_here);
    client(write_and_sync_among_others);
    assert_int_equal(FAKE_GET(ahead_here), n);
}

static void fsync_fails(void)
{
    int fd = open("f", O_WRONLY);
    SO(fd >= 0 && fsync(fd) < 0 && errno == EIO);
}

static void stop_answers_what_waits(void **state)
{
    (void)state;
    client(make_f);
    FAKE_SET(park_syncs, true);
    pid_t pid = begin(fsync_fails);
    assert_true(wait_for(one_parked));
    dmt_fuse_stop(fuse);
    fuse = NULL;
    assert_int_equal(finish(pid), 0);
    assert_int_equal(atomic_load(&ended), 0);
    fake_release(0);
    assert_int_equal(umount2(dir, MNT_DETACH), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(replies_wait_for_the_acknowledgement, plain_one, teardown),
        cmocka_unit_test_setup_teardown(a_refused_acknowledgement_is_the_answer, plain_one,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_killed_waiter_is_freed, plain_one, teardown),
        cmocka_unit_test_setup_teardown(a_killed_waiter_is_freed, plain_two, teardown),
        cmocka_unit_test_setup_teardown(an_ordinary_signal_does_not_end_an_fsync, plain_one,
                                        teardown),
        cmocka_unit_test_setup_teardown(killed_after_an_ordinary_signal, plain_one, teardown),
        cmocka_unit_test_setup_teardown(a_foreseen_sync_is_begun, plain_one, teardown),
        cmocka_unit_test_setup_teardown(a_lone_caller_is_synced_here, plain_one, teardown),
        cmocka_unit_test_setup_teardown(stop_answers_what_waits, plain_one, teardown),
    };
    int rc = group_begin();
    return rc ? rc : group_end(cmocka_run_group_tests(tests, NULL, NULL));
}
