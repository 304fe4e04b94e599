/* The log: levels, the shape of a line, lines of many threads, and what an assert leaves behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/base/err.h"
#include "fs/base/io.h"
#include "fs/base/log.h"
#include "fs/base/sm.h"
#include "fs/base/thread.h"

static char dir[] = "/var/tmp/test_log.XXXXXX";
static char path[64];

static char *slurp(void)
{
    char *p;
    size_t n;
    assert_int_equal(dmt_io_read_file(dmt_io_real(), path, 1 << 20, &p, &n), 0);
    return p;
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    (void)snprintf(path, sizeof(path), "%s/log", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    dmt_log_init("test", NULL, DMT_LOG_INFO);
    unlink(path);
    return rmdir(dir);
}

static int fresh(void **state)
{
    (void)state;
    unlink(path);
    return dmt_log_init("prog", path, DMT_LOG_INFO);
}

static void a_line_says_when_who_what(void **state)
{
    (void)state;
    pthread_setname_np(pthread_self(), "main-thread");
    errno = EDOM;
    dmt_info("value %d\nnext", 42);
    assert_int_equal(errno, EDOM);
    char *s = slurp();
    int year, month, day, h, m, sec, ms, end = 0;
    assert_int_equal(sscanf(s,
                            "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ prog info [main-thread] value 42 next%n",
                            &year, &month, &day, &h, &m, &sec, &ms, &end),
                     7);
    assert_true(end > 0);
    assert_string_equal(s + end, "\n");
    free(s);
}

static void levels(void **state)
{
    (void)state;
    dmt_debug("hidden");
    dmt_log_set_level(DMT_LOG_DEBUG);
    dmt_debug("shown");
    dmt_log_set_level(DMT_LOG_ERROR);
    dmt_warn("hidden");
    dmt_error("also shown");
    char *s = slurp();
    assert_null(strstr(s, "hidden"));
    assert_non_null(strstr(s, "debug [main-thread] shown\n"));
    assert_non_null(strstr(s, "error [main-thread] also shown\n"));
    free(s);
    assert_int_equal(dmt_log_level_parse("error"), DMT_LOG_ERROR);
    assert_int_equal(dmt_log_level_parse("warn"), DMT_LOG_WARN);
    assert_int_equal(dmt_log_level_parse("info"), DMT_LOG_INFO);
    assert_int_equal(dmt_log_level_parse("debug"), DMT_LOG_DEBUG);
    assert_int_equal(dmt_log_level_parse("loud"), -EINVAL);
}

static void long_lines_are_cut(void **state)
{
    (void)state;
    char big[5000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    dmt_info("%s", big);
    dmt_info("after");
    char *s = slurp();
    size_t first = strcspn(s, "\n");
    assert_true(first > 1900 && first < 2048);
    assert_non_null(strstr(s + first, "after\n"));
    free(s);
}

static void *chatter(void *arg)
{
    for (int i = 0; i < 500; i++)
        dmt_info("thread %d line %d end", *(int *)arg, i);
    return NULL;
}

static void threads_do_not_mix(void **state)
{
    (void)state;
    pthread_t t[4];
    int id[4] = {0, 1, 2, 3}, lines = 0;
    for (int i = 0; i < 4; i++)
        assert_int_equal(dmt_thread_start(&t[i], "chatter", chatter, &id[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    char *s = slurp();
    for (char *at = s, *line; (line = strsep(&at, "\n")) && *line; lines++) {
        assert_non_null(strstr(line, " prog info [chatter] thread "));
        assert_string_equal(line + strlen(line) - 4, " end");
    }
    assert_int_equal(lines, 2000);
    free(s);
}

static void a_log_that_cannot_be_opened(void **state)
{
    (void)state;
    assert_int_equal(dmt_log_init("prog", "/nonexistent/dir/log", DMT_LOG_INFO), -ENOENT);
    dmt_info("still here");
    char *s = slurp();
    assert_non_null(strstr(s, "still here"));
    free(s);
}

/* Runs fn in a child; it must die by SIGABRT. */
static void dies(void (*fn)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL); /* cmocka catches it */
        fn();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void fail_assert(void)
{
    int one = 1;
    DMT_ASSERT(one == 2);
}

static void a_failed_assert_is_in_the_log(void **state)
{
    (void)state;
    DMT_ASSERT(1 + 1 == 2);
    dies(fail_assert);
    char *s = slurp();
    assert_non_null(strstr(s, "assertion failed: one == 2 ("));
    assert_non_null(strstr(s, "test_log.c:"));
    free(s);
}

/* --- sm.h, whose failures are seen in the log too --- */

enum { IDLE, BUSY, DONE };
static const struct dmt_sm_state table[] = {
    [IDLE] = {"idle", 1u << BUSY},
    [BUSY] = {"busy", 1u << IDLE | 1u << DONE},
    [DONE] = {"done", 0},
};
static struct dmt_sm sm;
static int work;

static bool invariant(const void *ctx, int state)
{
    return state != BUSY || *(const int *)ctx > 0;
}

static void idle_to_done(void)
{
    dmt_sm_init(&sm, table, 3, IDLE, NULL, NULL);
    dmt_sm_move(&sm, DONE);
}

static void busy_without_work(void)
{
    work = 0;
    dmt_sm_init(&sm, table, 3, IDLE, invariant, &work);
    dmt_sm_move(&sm, BUSY);
}

static void no_such_state(void)
{
    dmt_sm_init(&sm, table, 3, IDLE, NULL, NULL);
    dmt_sm_move(&sm, 3);
}

static void state_machine(void **state)
{
    (void)state;
    work = 1;
    dmt_sm_init(&sm, table, 3, IDLE, invariant, &work);
    assert_string_equal(dmt_sm_name(&sm), "idle");
    dmt_sm_move(&sm, BUSY);
    dmt_sm_move(&sm, IDLE);
    dmt_sm_move(&sm, BUSY);
    dmt_sm_move(&sm, DONE);
    assert_string_equal(dmt_sm_name(&sm), "done");
    dies(idle_to_done);
    dies(busy_without_work);
    dies(no_such_state);
    char *s = slurp();
    assert_non_null(strstr(s, "move from idle to done is not allowed"));
    assert_non_null(strstr(s, "invariant of state busy is broken (came from idle)"));
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_line_says_when_who_what, fresh),
        cmocka_unit_test_setup(levels, fresh),
        cmocka_unit_test_setup(long_lines_are_cut, fresh),
        cmocka_unit_test_setup(threads_do_not_mix, fresh),
        cmocka_unit_test_setup(a_log_that_cannot_be_opened, fresh),
        cmocka_unit_test_setup(a_failed_assert_is_in_the_log, fresh),
        cmocka_unit_test_setup(state_machine, fresh),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
