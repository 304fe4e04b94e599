/* child.c: the workspace process: how it is started, and its successor when it dies under a mount.
 *
 * A mount outlives its server: the kernel keeps the connection as long as somebody has its
 * descriptor open, and this process has. Happy path of a takeover: the dead process is reaped
 * (waitpid says so only when all of its threads are gone: none writes any more); a new one is
 * started with --resume; it recovers, opens its epoch and asks for the mount as the first one did;
 * it gets the same connection, has the unanswered requests sent again, and serves. Users have
 * waited, no more. An upgrade is the same: the process makes everything durable and exits with
 * DMT_HP_EXIT_RESTART.
 *
 * Not taken over, so that the holder ends as it always did: a process that was told to stop, ended
 * in order, or said FAILED; a mount that is being ended, or is gone by now; lives that end again
 * and again within a moment (a request that kills whoever serves it); a successor that does not
 * serve within mount_timeout. A kernel that cannot send requests again (before 6.9) fails those
 * under way: the connection is ended and the new process mounts anew.
 * Thread: the holder's loop.
 */
#include "fs/holder/internal.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "fs/base/clock.h"
#include "fs/base/fuse_init.h"
#include "fs/base/log.h"

#define QUICK_NS         DMT_S /* a life that ends within that was none */
#define QUICK_MAX        5     /* so many in a row, and no more is tried */
#define SERVE_DEFAULT_MS 60000

static uint64_t now_ns(void)
{
    return dmt_clock_real()->monotonic_ns(NULL);
}

/* --- start -------------------------------------------------------------------------------- */

static void find_program(char *path, size_t size)
{
    const char *dir = getenv("DUMONT_LIBDIR");
    char self[512];
    ssize_t n;

    if (dir) {
        (void)snprintf(path, size, "%s/dumontfs", dir);
        return;
    }
    n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n > 0) {
        self[n] = '\0';
        *strrchr(self, '/') = '\0';
        (void)snprintf(path, size, "%s/dumontfs", self);
        if (access(path, X_OK) == 0)
            return;
    }
    (void)snprintf(path, size, "%s/dumontfs", DMT_LIBDIR);
}

/* In the child: between fork and exec, only what is safe there (the holder has one thread then). */
static void exec_workspace(const struct holder *h, const char *program, int sock, bool resume)
{
    char fd_text[16], instance[16];
    const char *argv[20];
    sigset_t none;
    int n = 0;

    (void)snprintf(fd_text, sizeof(fd_text), "%d", sock);
    argv[n++] = "dumontfs";
    argv[n++] = "--name";
    argv[n++] = h->a.name;
    argv[n++] = "--holder-fd";
    argv[n++] = fd_text;
    if (h->a.mountpoint) {
        argv[n++] = "--mountpoint";
        argv[n++] = h->a.mountpoint;
    }
    if (h->a.conf_file) {
        argv[n++] = "--conf";
        argv[n++] = h->a.conf_file;
    }
    if (h->a.options && h->a.options[0]) {
        argv[n++] = "-o";
        argv[n++] = h->a.options;
    }
    if (h->a.foreground)
        argv[n++] = "--foreground";
    (void)snprintf(instance, sizeof(instance), "%u", h->conn.instance);
    if (resume) {
        argv[n++] = "--resume";
        argv[n++] = instance;
    }
    argv[n] = NULL;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGHUP, SIG_IGN);
    (void)setpgid(
        0, 0); /* Ctrl-C in the foreground is for the holder, which then asks for an orderly end */
    (void)fcntl(sock, F_SETFD, 0);
    execv(program, (char *const *)argv);
    (void)fprintf(stderr, "dumont-holder: cannot run %s: %s\n", program, strerror(errno));
    _exit(127);
}

int holder_start_workspace(struct holder *h, bool resume, struct dmt_err *err)
{
    char program[600];
    int pair[2];

    find_program(program, sizeof(program));
    if (access(program, X_OK) < 0) {
        dmt_err_set(err, -errno, "the workspace program %s cannot be run: %s", program,
                    strerror(errno));
        return dmt_err_hint(
            err, "the installation is incomplete: install Dumont again, or set DUMONT_LIBDIR");
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return dmt_err_set(err, -errno, "socketpair: %s", strerror(errno));
    h->child = fork();
    if (h->child < 0) {
        int rc =
            dmt_err_set(err, -errno, "cannot start the workspace process: %s", strerror(errno));
        close(pair[0]);
        close(pair[1]);
        return rc;
    }
    if (h->child == 0)
        exec_workspace(h, program, pair[1], resume);
    close(pair[1]);
    h->sock = pair[0];
    h->started_ns = now_ns();
    h->child_gone = h->closed = false;
    return 0;
}

/* --- takeover ----------------------------------------------------------------------------- */

/* False: unmounted or aborted meanwhile. */
static bool connection_lives(const struct holder *h)
{
    struct pollfd p = {.fd = h->conn.fd};
    return h->conn.mounted && h->conn.fd >= 0 && poll(&p, 1, 0) == 0;
}

static bool ended_well(const struct holder *h)
{
    return WIFEXITED(h->child_status) && WEXITSTATUS(h->child_status) == 0;
}

static uint64_t serve_ms(const struct holder *h)
{
    const char *v = dmt_conf_get(h->conf, "mount_timeout");
    uint64_t ms = 0;
    if (v && strspn(v, "0123456789") == strlen(v))
        ms = strtoull(v, NULL, 10) * 1000;
    else if (v)
        (void)dmt_parse_duration_ms(v, &ms);
    return ms > 0 && ms < INT_MAX ? ms : SERVE_DEFAULT_MS;
}

/* A life too short to count? The sixth in a row is the last. */
static bool dies_again_and_again(struct holder *h)
{
    if (now_ns() - h->started_ns >= QUICK_NS)
        h->quick = 0;
    else
        h->quick++;
    return h->quick > QUICK_MAX;
}

bool holder_take_over(struct holder *h)
{
    bool asked = WIFEXITED(h->child_status) && WEXITSTATUS(h->child_status) == DMT_HP_EXIT_RESTART;
    struct dmt_err err = {0};

    if (!h->told || h->failed || h->terminating || ended_well(h) || !connection_lives(h))
        return false;
    if (!asked && dies_again_and_again(h)) {
        dmt_error("the workspace process ends again and again: giving up");
        return false;
    }
    if (asked)
        dmt_info("starting the workspace process anew, as it asks");
    else if (WIFSIGNALED(h->child_status))
        dmt_error("the workspace process was killed by signal %d (%s): starting a new one",
                  WTERMSIG(h->child_status), strsignal(WTERMSIG(h->child_status)));
    else
        dmt_error("the workspace process ended with status %d: starting a new one",
                  WEXITSTATUS(h->child_status));
    h->resume = dmt_fuse_init_resends(h->conn.init, h->conn.init_len);
    if (!h->resume) {
        dmt_warn(
            "this kernel is older than 6.9: calls under way fail, the workspace is mounted anew");
        holder_conn_abort(&h->conn);
    }
    close(h->sock);
    h->sock = -1;
    h->kill_at_ns = 0;
    h->serve_by_ns = now_ns() + serve_ms(h) * DMT_MS;
    if (holder_start_workspace(h, h->resume, &err) < 0) {
        dmt_error("%s", err.msg);
        h->serve_by_ns = 0;
        return false;
    }
    return true;
}
