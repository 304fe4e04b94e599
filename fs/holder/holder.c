/* holder.c: dumont-holder, the parent of one workspace process.
 *
 *   dumont-holder --name NAME [--conf FILE] [-o OPTIONS] [--mountpoint DIR] [--foreground]
 * [--ready-fd N]
 *
 * Owns: the FUSE connection and its mount (connection.c), the child (dumontfs), the socket pair to
 * it, and the promise to whoever started it (ready-fd). It reads no request and holds no data, so
 * it has next to nothing that can fail; that is why the connection belongs to it and not to the
 * process that does the work.
 *
 * Happy path: 1. check options, take the log; 2. set the loop device up; 3. start dumontfs; 4.
 * MOUNT -> mount, FUSE; 5. READY -> tell the starter; 6. wait; 7. UNMOUNT -> umount(2) on a thread
 * (it may wait for the drain), UNMOUNTED; 8. the child exits 0: clean up, exit 0.
 *
 * Failure modes: the child dies while it serves: a new one takes the mount over (child.c). It
 * fails, or that does not help: end the mount (abort, detach), free the loop device, tell the
 * starter if it still waits, exit 1. This is the word of death that a failover goes by.
 * SIGTERM, SIGINT: TERMINATE to the child; a child that has not ended TERMINATE_MAX_MS later is
 * killed. SIGHUP is ignored: mounts outlive terminals.
 *
 * Threads: one poll loop; umount(2) has a thread of its own while it runs.
 */
#include "fs/holder/internal.h"

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "fs/base/clock.h"
#include "fs/base/io.h"
#include "fs/base/log.h"
#include "fs/base/options.h"
#include "fs/base/thread.h"

#define TERMINATE_MAX_MS 45000 /* a drain takes at most 30 s (design 12) */
#define EXIT_MOUNT_FAIL  32    /* mount(8) */

/* --- start -------------------------------------------------------------------------------- */

static int usage(const char *why)
{
    (void)fprintf(stderr,
                  "dumont-holder: %s\nusage: dumont-holder --name NAME [--conf FILE] [-o OPTIONS] "
                  "[--mountpoint DIR] [--foreground] [--ready-fd N]\n",
                  why);
    return 1;
}

static int parse_args(struct holder_args *a, int argc, char **argv)
{
    static const struct option longs[] = {{"name", required_argument, NULL, 'n'},
                                          {"conf", required_argument, NULL, 'c'},
                                          {"options", required_argument, NULL, 'o'},
                                          {"mountpoint", required_argument, NULL, 'm'},
                                          {"ready-fd", required_argument, NULL, 'r'},
                                          {"foreground", no_argument, NULL, 'f'},
                                          {NULL, 0, NULL, 0}};
    int c;
    memset(a, 0, sizeof(*a));
    a->ready_fd = -1;
    while ((c = getopt_long(argc, argv, "o:", longs, NULL)) != -1) {
        if (c == 'n')
            a->name = optarg;
        else if (c == 'c')
            a->conf_file = optarg;
        else if (c == 'o')
            a->options = optarg;
        else if (c == 'm')
            a->mountpoint = optarg;
        else if (c == 'r')
            a->ready_fd = atoi(optarg);
        else if (c == 'f')
            a->foreground = true;
        else
            return usage("unknown argument");
    }
    if (optind < argc)
        return usage("too many arguments");
    return a->name ? 0 : usage("--name is missing");
}

static int load_options(struct holder *h, struct dmt_err *err)
{
    struct dmt_conf *over = dmt_conf_new();
    int rc = dmt_workspace_name_check(h->a.name, err);

    h->conf = dmt_conf_new();
    if (rc == 0 && h->a.conf_file)
        rc = dmt_conf_load(h->conf, h->a.conf_file, err);
    if (rc == -ENOENT)
        rc = 0; /* a workspace may have all defaults */
    if (rc == 0)
        rc = dmt_options_clean(h->conf, DMT_OPT_IN_CONF, false, err);
    if (rc == 0 && h->a.options)
        rc = dmt_conf_options(over, h->a.options, err);
    if (rc == 0)
        rc = dmt_options_clean(over, DMT_OPT_IN_BOTH, false, err);
    if (rc == 0) {
        dmt_options_merge(h->conf, over);
        rc = dmt_options_consistent(h->conf, err);
    }
    if (rc == 0 && !h->a.mountpoint)
        h->a.mountpoint = dmt_conf_get(h->conf, "mountpoint");
    dmt_conf_free(over);
    return rc;
}

/* stdout and stderr become LOG/NAME.log, for this process and the child. */
static void take_log(const struct holder *h)
{
    const char *word = dmt_conf_get(h->conf, "log");
    int level = word ? dmt_log_level_parse(word) : DMT_LOG_INFO;
    char path[512];
    int fd, null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null_fd >= 0)
        (void)dup2(null_fd, 0);
    if (!h->a.foreground) {
        (void)snprintf(path, sizeof(path), "%s/%s.log", dmt_dir_log(), h->a.name);
        (void)dmt_io_mkdirs(dmt_io_real(), dmt_dir_log(), 0755);
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
        if (fd < 0)
            fd = null_fd; /* a log that cannot be written must not keep a workspace from being
                             mounted */
        if (fd >= 0) {
            (void)dup2(fd, 1);
            (void)dup2(fd, 2);
        }
        if (fd > 2 && fd != null_fd)
            close(fd);
    }
    if (null_fd > 2)
        close(null_fd);
    (void)dmt_log_init("dumont-holder", NULL, (enum dmt_log_level)level);
}

/* --- messages ----------------------------------------------------------------------------- */

static void tell_starter(struct holder *h, int code, const char *text, const char *hint)
{
    if (!h->told && h->a.ready_fd >= 0)
        dmt_ready_write(h->a.ready_fd, code, text, hint);
    h->told = true;
    if (code)
        dmt_warn("%s%s%s", text, hint && hint[0] ? "; " : "", hint ? hint : "");
    else
        dmt_info("ready%s%s", text[0] ? ": " : "", text);
}

static void send_to_workspace(struct holder *h, const struct dmt_hp_msg *m)
{
    int rc = dmt_hp_send(h->sock, m);
    if (rc < 0 && rc != -EPIPE)
        dmt_error("message %d to the workspace process: %s", (int)m->type, dmt_strerror(rc));
}

static void answer_code(struct holder *h, enum dmt_hp_type type, int rc)
{
    memset(&h->msg, 0, sizeof(h->msg));
    h->msg.type = type;
    h->msg.code = (uint32_t)-rc;
    h->msg.fd = -1;
    send_to_workspace(h, &h->msg);
}

/* A successor says that it can serve: it gets the connection as it is. */
static void go_on(struct holder *h)
{
    h->resume = false;
    holder_conn_describe(&h->conn, &h->msg);
    h->msg.flags |= DMT_HP_RESUME;
    send_to_workspace(h, &h->msg);
}

static void on_mount(struct holder *h)
{
    if (h->resume && h->conn.mounted && h->conn.fd >= 0) {
        go_on(h);
        return;
    }
    const char *dir = h->msg.dir[0] ? h->msg.dir : h->a.mountpoint;
    struct dmt_conf *conf = dmt_conf_new();
    struct dmt_err err = {0};
    int rc = 0;

    dmt_options_merge(conf, h->conf);
    if (h->msg.options[0]) {
        struct dmt_conf *over = dmt_conf_new();
        rc = dmt_conf_options(over, h->msg.options, &err);
        dmt_options_merge(conf, over);
        dmt_conf_free(over);
    }
    if (rc == 0 && !dir)
        rc = dmt_err_set(&err, -EINVAL, "no directory to mount %s on", h->a.name);
    if (rc == 0)
        rc = holder_conn_mount(&h->conn, dir, conf, &err);
    if (rc == 0) {
        dmt_info("mounted %s on %s (%s)", h->a.name, h->conn.dir,
                 h->conn.fuseblk ? "sync and syncfs reach it" : "plain");
        holder_conn_describe(&h->conn, &h->msg);
        send_to_workspace(h, &h->msg);
    } else {
        dmt_error("%s", err.msg);
        memset(&h->msg, 0, sizeof(h->msg));
        h->msg.type = DMT_HP_NOMOUNT;
        h->msg.code = (uint32_t)-dmt_err_errno(rc);
        h->msg.fd = -1;
        (void)snprintf(h->msg.text, sizeof(h->msg.text), "%s", err.msg);
        (void)snprintf(h->msg.hint, sizeof(h->msg.hint), "%s", err.hint);
        send_to_workspace(h, &h->msg);
    }
    dmt_conf_free(conf);
}

static void *umount_thread(void *arg)
{
    struct holder *h = arg;
    h->umount_rc = holder_conn_umount(&h->conn, h->lazy);
    uint64_t one = 1;
    ssize_t n = write(h->umount_fd, &one, sizeof(one));
    DMT_ASSERT(n == sizeof(one));
    return NULL;
}

static void on_unmount(struct holder *h)
{
    if (h->umounting)
        return; /* one answer for both */
    if (!h->conn.mounted) {
        answer_code(h, DMT_HP_UNMOUNTED, 0);
        return;
    }
    h->lazy = h->msg.flags & DMT_HP_LAZY;
    if (h->lazy && h->conn.fd >= 0) {
        /* Nobody will serve it again once the workspace process stops: its descriptor must then be
         * the last one, so that users get errors and a DESTROY that umount(2) waits for ends with
         * it. */
        close(h->conn.fd);
        h->conn.fd = -1;
    }
    int rc = dmt_thread_start(&h->umounter, "umount", umount_thread, h);
    if (rc < 0)
        answer_code(h, DMT_HP_UNMOUNTED, rc);
    else
        h->umounting = true;
}

static void on_umount_done(struct holder *h)
{
    uint64_t n;
    if (read(h->umount_fd, &n, sizeof(n)) != sizeof(n))
        return;
    (void)pthread_join(h->umounter, NULL);
    h->umounting = false;
    if (h->umount_rc == 0) {
        dmt_info("unmounted %s from %s", h->a.name, h->conn.dir);
        holder_conn_release(&h->conn);
    }
    answer_code(h, DMT_HP_UNMOUNTED, h->umount_rc);
}

/* One message. False when the workspace process has closed its end or speaks nonsense. */
static bool on_message(struct holder *h)
{
    int rc = dmt_hp_recv(h->sock, &h->msg);
    if (rc == DMT_E_CLOSED)
        return false;
    if (rc < 0) {
        dmt_error("message from the workspace process: %s", dmt_strerror(rc));
        return false;
    }
    switch (h->msg.type) {
    case DMT_HP_HELLO:
        dmt_debug("workspace process %u", h->msg.pid);
        return true;
    case DMT_HP_MOUNT:
        on_mount(h);
        return true;
    case DMT_HP_UNMOUNT:
        on_unmount(h);
        return true;
    case DMT_HP_READY:
    case DMT_HP_FAILED:
        h->failed = h->msg.type == DMT_HP_FAILED;
        h->serve_by_ns = 0;
        tell_starter(h, (int)h->msg.code, h->msg.text, h->msg.hint);
        return true;
    default:
        dmt_error("message of type %d from the workspace process", (int)h->msg.type);
        if (h->msg.fd >= 0)
            close(h->msg.fd);
        return false;
    }
}

/* --- supervision -------------------------------------------------------------------------- */

static void on_signal(struct holder *h)
{
    struct signalfd_siginfo si;
    if (read(h->sig_fd, &si, sizeof(si)) != sizeof(si))
        return;
    if (si.ssi_signo == SIGCHLD) {
        if (!h->child_gone && waitpid(h->child, &h->child_status, WNOHANG) == h->child)
            h->child_gone = true;
        return;
    }
    if (h->terminating)
        return;
    h->terminating = true;
    dmt_info("signal %u: stopping", si.ssi_signo);
    h->kill_at_ns = dmt_clock_real()->monotonic_ns(NULL) + TERMINATE_MAX_MS * DMT_MS;
    answer_code(h, DMT_HP_TERMINATE, 0);
}

static int poll_timeout_ms(struct holder *h)
{
    uint64_t now = dmt_clock_real()->monotonic_ns(NULL);
    if (h->serve_by_ns && now >= h->serve_by_ns && !h->terminating) {
        dmt_error("the new workspace process did not serve in time: giving up");
        h->failed = true;
        h->kill_at_ns = now;
        h->serve_by_ns = 0;
    }
    if (h->kill_at_ns && now >= h->kill_at_ns) {
        dmt_error("the workspace process did not stop in time: killing it");
        (void)kill(h->child, SIGKILL);
        h->kill_at_ns = now + DMT_S;
    }
    uint64_t next = h->kill_at_ns;
    if (h->serve_by_ns && (!next || h->serve_by_ns < next))
        next = h->serve_by_ns;
    return next ? (int)((next > now ? next - now : 0) / DMT_MS) + 1 : -1;
}

static void supervise(struct holder *h)
{
    while (!h->child_gone || !h->closed) {
        struct pollfd p[3] = {{.fd = h->closed ? -1 : h->sock, .events = POLLIN},
                              {.fd = h->sig_fd, .events = POLLIN},
                              {.fd = h->umount_fd, .events = POLLIN}};
        if (poll(p, 3, poll_timeout_ms(h)) < 0 && errno != EINTR)
            break;
        if (p[1].revents)
            on_signal(h);
        if (p[2].revents)
            on_umount_done(h);
        if (p[0].revents && !on_message(h)) {
            h->closed = true;
            /* An end of file from a process that lives on is a process that cannot be led any more.
             */
            if (!h->child_gone && !h->kill_at_ns)
                h->kill_at_ns = dmt_clock_real()->monotonic_ns(NULL) + 5 * DMT_S;
        }
    }
}

static int finish(struct holder *h)
{
    bool good = WIFEXITED(h->child_status) && WEXITSTATUS(h->child_status) == 0;
    char text[128], hint[DMT_HP_TEXT_MAX];

    if (!good && WIFSIGNALED(h->child_status))
        (void)snprintf(text, sizeof(text), "the workspace process was killed by signal %d (%s)",
                       WTERMSIG(h->child_status), strsignal(WTERMSIG(h->child_status)));
    else
        (void)snprintf(text, sizeof(text), "the workspace process ended with status %d",
                       WEXITSTATUS(h->child_status));
    if (!h->told || !good) {
        (void)snprintf(hint, sizeof(hint), "the reason is in %s/%s.log", dmt_dir_log(), h->a.name);
        tell_starter(h, EXIT_MOUNT_FAIL, text, hint);
    }
    if (h->umounting && h->conn.fd >= 0) {
        /* umount(2) may be waiting for a DESTROY that nobody will answer: the last close ends that
         * wait. */
        close(h->conn.fd);
        h->conn.fd = -1;
    }
    if (h->umounting)
        (void)pthread_join(h->umounter, NULL);
    holder_conn_abort(&h->conn);
    return good ? 0 : 1;
}

static int prepare(struct holder *h)
{
    sigset_t set;
    struct rlimit nofile;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    if (!h->a.foreground)
        (void)setsid();
    (void)chdir("/");
    (void)umask(022);
    /* The workspace process keeps a descriptor for each file with unsynced data. */
    if (getrlimit(RLIMIT_NOFILE, &nofile) == 0) {
        nofile.rlim_cur = nofile.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &nofile);
    }
    /* Users of the mount wait for these two processes: the kernel should kill them late. */
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = write(fd, "-500", 4);
        (void)n;
        close(fd);
    }
    h->sig_fd = signalfd(-1, &set, SFD_CLOEXEC);
    h->umount_fd = eventfd(0, EFD_CLOEXEC);
    return h->sig_fd < 0 || h->umount_fd < 0 ? -errno : 0;
}

int main(int argc, char **argv)
{
    static struct holder h;
    struct dmt_err err = {0};
    int rc = parse_args(&h.a, argc, argv);

    if (rc)
        return rc;
    h.sock = -1;
    if (h.a.ready_fd >= 0)
        (void)fcntl(h.a.ready_fd, F_SETFD, FD_CLOEXEC);
    rc = load_options(&h, &err);
    if (rc == 0)
        take_log(&h);
    if (rc == 0)
        rc = prepare(&h);
    if (rc == 0 && dmt_holder_mark(h.a.name) < 0)
        dmt_warn(
            "%s/%s.holder cannot be locked: during a restart of the workspace process, tools take "
            "the mount for dead",
            dmt_dir_run(), h.a.name);
    if (rc == 0) {
        holder_conn_init(&h.conn, h.a.name, h.conf);
        rc = holder_start_workspace(&h, false, &err);
        if (rc < 0)
            holder_conn_release(&h.conn);
    }
    if (rc < 0) {
        tell_starter(&h,
                     rc == DMT_E_CONFIG ? 1
                     : rc == -ENOMEM    ? 2
                                        : EXIT_MOUNT_FAIL,
                     err.msg, err.hint);
        dmt_conf_free(h.conf);
        return 1;
    }
    do {
        supervise(&h);
    } while (holder_take_over(&h));
    rc = finish(&h);
    dmt_conf_free(h.conf);
    return rc;
}
