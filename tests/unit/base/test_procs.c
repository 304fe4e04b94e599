/* Who uses a mount (here: /dev/shm): found by descriptor, directory and mapping; stopped as a
 * whole; never one that has the number of another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/base/procs.h"

enum use { BY_NOTHING, BY_FD, BY_DIR, BY_MAP };

static char file[64];
static uint64_t dev;

static void *sleeper(void *arg)
{
    pause();
    return arg;
}

/* A child with two threads that uses the mount in one way, and has said that it is ready. */
static pid_t child(enum use use)
{
    int ready[2];
    char byte;
    pthread_t t;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = use == BY_FD || use == BY_MAP ? open(file, O_RDWR) : -1;
        if (use == BY_DIR && chdir("/dev/shm") != 0)
            _exit(1);
        if (use == BY_MAP) {
            if (mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
                _exit(1);
            close(fd);
        }
        if (pthread_create(&t, NULL, sleeper, NULL) != 0 || write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static bool find(pid_t pid, pid_t caller, struct dmt_proc *ret)
{
    struct dmt_proc *all = NULL;
    int n = dmt_procs_using(dev, caller, &all);
    bool found = false;
    assert_true(n >= 0);
    for (int i = 0; i < n; i++)
        if (all[i].pid == pid) {
            *ret = all[i];
            found = true;
        }
    free(all);
    return found;
}

static int set_up(void **state)
{
    struct stat st;
    (void)state;
    snprintf(file, sizeof file, "/dev/shm/dumont-procs.%d", getpid());
    int fd = open(file, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || ftruncate(fd, 4096) != 0 || fstat(fd, &st) != 0)
        return -1;
    dev = st.st_dev;
    return close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(file);
}

static void every_way_of_using_is_found(void **state)
{
    static const enum use ways[] = {BY_FD, BY_MAP, BY_DIR};
    struct dmt_proc p;
    (void)state;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        pid_t pid = child(ways[i]);
        assert_true(find(pid, 0, &p));
        assert_string_equal(p.file, ways[i] == BY_DIR ? "/dev/shm" : file);
        assert_false(p.spared);
        assert_false(p.stopped);
        assert_true(strlen(p.command) > 0);
        assert_true(find(pid, pid, &p));
        assert_true(p.spared);
        end(pid);
        assert_false(find(pid, 0, &p));
    }
    pid_t pid = child(BY_NOTHING);
    assert_false(find(pid, 0, &p));
    end(pid);
}

static void an_ancestor_of_who_asks_is_spared(void **state)
{
    struct dmt_proc p;
    (void)state;
    assert_int_equal(chdir("/dev/shm"), 0);
    pid_t pid = child(BY_NOTHING), mine = getpid();
    assert_int_equal(chdir("/"), 0);
    assert_true(find(pid, mine, &p));
    assert_false(p.spared); /* its child is not */
    assert_true(find(pid, pid, &p));
    assert_true(p.spared);
    end(pid);
}

static void a_file_without_a_name_says_so(void **state)
{
    struct dmt_proc p;
    char want[96];
    (void)state;
    snprintf(want, sizeof want, "%s (deleted)", file);
    pid_t pid = child(BY_FD);
    assert_int_equal(unlink(file), 0);
    assert_true(find(pid, 0, &p));
    assert_string_equal(p.file, want);
    end(pid);
    assert_int_equal(set_up(NULL), 0);
}

/* What shells do all the time: the file stands at a number for a moment, then another does. */
static void the_name_is_of_what_was_found(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int other = open("/dev/null", O_RDWR);
        for (;;) {
            int fd = open(file, O_RDWR);
            if (fd < 0 || dup2(other, fd) < 0 || close(fd) < 0)
                _exit(1);
        }
    }
    struct dmt_proc p;
    int seen = 0;
    for (int i = 0; i < 3000 && seen < 300; i++)
        if (find(pid, 0, &p)) {
            seen++;
            assert_string_equal(p.file, file);
        }
    end(pid);
    assert_true(seen > 0);
}

static void stopped_means_all_threads(void **state)
{
    struct dmt_proc p;
    (void)state;
    pid_t pid = child(BY_FD);
    assert_true(find(pid, 0, &p));
    assert_int_equal(dmt_proc_state(p.pid, p.born), DMT_PROC_RUNS);
    assert_int_equal(dmt_proc_signal(p.pid, p.born, SIGSTOP), 0);
    assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid);
    for (int i = 0; i < 1000 && dmt_proc_state(p.pid, p.born) != DMT_PROC_STOPPED; i++)
        usleep(10000); /* the other thread */
    assert_int_equal(dmt_proc_state(p.pid, p.born), DMT_PROC_STOPPED);
    assert_true(find(pid, 0, &p));
    assert_true(p.stopped);
    assert_int_equal(dmt_proc_signal(p.pid, p.born, SIGCONT), 0);
    assert_int_equal(waitpid(pid, NULL, WCONTINUED), pid);
    assert_int_equal(dmt_proc_signal(p.pid, p.born + 1, SIGKILL), -ESRCH);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    end(pid);
    assert_int_equal(dmt_proc_state(p.pid, p.born), DMT_PROC_GONE);
    assert_int_equal(dmt_proc_signal(p.pid, p.born, SIGKILL), -ESRCH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_of_using_is_found),
        cmocka_unit_test(an_ancestor_of_who_asks_is_spared),
        cmocka_unit_test(a_file_without_a_name_says_so),
        cmocka_unit_test(the_name_is_of_what_was_found),
        cmocka_unit_test(stopped_means_all_threads),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
