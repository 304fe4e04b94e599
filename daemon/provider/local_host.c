/* local_host.c: what a local host is from within: namespaces, a root of its own, a small init as
 * pid 1.
 *
 * The root is a tmpfs with this machine's programs in it (/usr, with the install root laid over it
 * read-only) and the host's own disk at /etc, /etc/dumont, /var, /home, /root, /mnt, /srv, /media,
 * /tmp; /run and /dev/shm are fresh. pivot_root leaves nothing of the old tree but the shared
 * directories. Happy path: the server clones pid 1, moves the network link into it, lets it go on,
 * reads "+" when all is mounted; pid 1 then starts dumontd if the host has a configuration for it,
 * and reaps. Failure modes: each step's error goes to the server as text. SIGKILL of pid 1 is the
 * power cut: the kernel kills everything in the host and drops every mount and interface. pid 1
 * asks for SIGKILL when the server dies, so hosts never outlive their cloud. SIGTERM is an orderly
 * shutdown. Thread: the only one of its process.
 */
#include "daemon/provider/local.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fs/base/io.h"

#define HOST_NAMESPACES  (CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC)
#define START_TIMEOUT_MS 20000
#define SHUTDOWN_S       45 /* a drain may take 30 s */

/* What the mount steps need. */
struct inside {
    const struct local_cloud_conf *c;
    const struct local_host *h;
    char root[PATH_MAX];
    struct dmt_err err;
};

/* --- mounts --- */

static int fail(struct inside *in, const char *what, const char *path)
{
    int e = errno;
    return dmt_err_set(&in->err, -e, "%s %s: %s", what, path, strerror(e));
}

static int under_root(struct inside *in, const char *in_host, char ret[PATH_MAX])
{
    int n = snprintf(ret, PATH_MAX, "%s%s", in->root, in_host);
    return n < PATH_MAX ? 0 : dmt_err_set(&in->err, -ENAMETOOLONG, "%s: path too long", in_host);
}

static int host_dir(struct inside *in, const char *in_host, char ret[PATH_MAX])
{
    int r = under_root(in, in_host, ret);
    if (r == 0 && (r = dmt_io_mkdirs(dmt_io_real(), ret, 0755)) < 0)
        dmt_err_set(&in->err, r, "cannot make %s: %s", ret, strerror(-r));
    return r;
}

static int bind_dir(struct inside *in, const char *from, const char *in_host)
{
    char to[PATH_MAX];
    int r = host_dir(in, in_host, to);
    if (r == 0 && mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0)
        r = fail(in, "cannot bind", from);
    return r;
}

static int bind_file(struct inside *in, const char *from, const char *in_host)
{
    char to[PATH_MAX];
    int r = under_root(in, in_host, to);
    if (r < 0)
        return r;
    int fd = open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0)
        return fail(in, "cannot make", to);
    close(fd);
    return mount(from, to, NULL, MS_BIND, NULL) < 0 ? fail(in, "cannot bind", from) : 0;
}

static int mount_fs(struct inside *in, const char *type, const char *in_host, unsigned long flags,
                    const char *data)
{
    char to[PATH_MAX];
    int r = host_dir(in, in_host, to);
    if (r == 0 && mount(type, to, type, flags, data) < 0)
        r = fail(in, "cannot mount", to);
    return r;
}

/* Programs: this machine's /usr, below the build's. */
static int mount_usr(struct inside *in)
{
    if (!in->c->install_root[0])
        return bind_dir(in, "/usr", "/usr");
    char data[PATH_MAX];
    (void)snprintf(data, sizeof(data), "lowerdir=%.*s/usr:/usr", LOCAL_PATH_MAX,
                   in->c->install_root);
    int r = mount_fs(in, "overlay", "/usr", 0, data);
    if (r < 0)
        dmt_err_hint(&in->err, "overlayfs is needed for --install-root; without it, install "
                               "Dumont on this machine and leave the option away");
    return r;
}

/* /etc: a layer of the host's own over this machine's; where overlayfs cannot write to the disk (a
 * disk on overlayfs), a copy. */
static int mount_etc(struct inside *in)
{
    char etc[PATH_MAX], work[PATH_MAX], to[PATH_MAX], hosts[PATH_MAX];
    local_disk_path(in->c, in->h->name, "etc", etc);
    local_disk_path(in->c, in->h->name, "work", work);
    int r = host_dir(in, "/etc", to);
    if (r < 0)
        return r;
    char *data = NULL;
    if (asprintf(&data, "lowerdir=/etc,upperdir=%s,workdir=%s", etc, work) < 0)
        return dmt_err_set(&in->err, -ENOMEM, "out of memory");
    bool layered = mount("overlay", to, "overlay", 0, data) == 0;
    free(data);
    if (!layered) {
        const char *const cp[] = {"cp", "-an", "/etc/.", etc, NULL};
        r = local_run(cp, &in->err);
        if (r == 0)
            r = bind_dir(in, etc, "/etc");
        if (r < 0)
            return r;
    }
    local_disk_path(in->c, in->h->name, "dumont", etc);
    r = bind_dir(in, etc, "/etc/dumont");
    (void)snprintf(hosts, sizeof(hosts), "%.*s/hosts.txt", LOCAL_PATH_MAX, in->c->dir);
    return r < 0 ? r : bind_file(in, hosts, "/etc/hosts");
}

static int mount_disk(struct inside *in)
{
    static const char *const own[][2] = {{"var", "/var"}, {"home", "/home"}, {"root-home", "/root"},
                                         {"mnt", "/mnt"}, {"srv", "/srv"},   {"media", "/media"},
                                         {"tmp", "/tmp"}};
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof(own) / sizeof(own[0]); i++) {
        char from[PATH_MAX];
        local_disk_path(in->c, in->h->name, own[i][0], from);
        r = bind_dir(in, from, own[i][1]);
    }
    return r;
}

static int mount_kernel(struct inside *in)
{
    int r = mount_fs(in, "proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    if (r == 0)
        r = bind_dir(in, "/dev", "/dev");
    if (r == 0)
        r = mount_fs(in, "tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
    if (r == 0)
        r = mount_fs(in, "tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
    if (r == 0 && mount_fs(in, "sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        r = bind_dir(in, "/sys", "/sys");
    return r;
}

/* What else stands at the top of this machine's tree and holds programs: /bin -> usr/bin and so on,
 * or real directories. */
static int copy_top(struct inside *in)
{
    static const char *const programs[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt"};
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof(programs) / sizeof(programs[0]); i++) {
        char from[32], to[PATH_MAX], target[PATH_MAX];
        struct stat st;
        (void)snprintf(from, sizeof(from), "/%s", programs[i]);
        if (lstat(from, &st) < 0)
            continue;
        r = under_root(in, from, to);
        if (r == 0 && S_ISLNK(st.st_mode)) {
            ssize_t n = readlink(from, target, sizeof(target) - 1);
            if (n < 0)
                return fail(in, "cannot read", from);
            target[n] = '\0';
            if (symlink(target, to) < 0)
                r = fail(in, "cannot link", to);
        } else if (r == 0) {
            r = bind_dir(in, from, from);
        }
    }
    return r;
}

static int enter_root(struct inside *in)
{
    char old[PATH_MAX];
    int r = host_dir(in, "/.old", old);
    if (r < 0)
        return r;
    if (syscall(SYS_pivot_root, in->root, old) < 0)
        return fail(in, "pivot_root", in->root);
    if (chdir("/") < 0 || umount2("/.old", MNT_DETACH) < 0 || rmdir("/.old") < 0)
        return fail(in, "cannot leave", "the old root");
    return 0;
}

static int build_root(struct inside *in)
{
    local_disk_path(in->c, in->h->name, "root", in->root);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return fail(in, "cannot make private", "/");
    if (mount("tmpfs", in->root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=16m") < 0)
        return fail(in, "cannot mount", in->root);
    int r = copy_top(in);
    if (r == 0)
        r = mount_usr(in);
    if (r == 0)
        r = mount_etc(in);
    if (r == 0)
        r = mount_disk(in);
    if (r == 0)
        r = mount_kernel(in);
    for (int i = 0; r == 0 && i < in->c->shares_n; i++)
        r = bind_dir(in, in->c->shares[i], in->c->shares[i]);
    if (r == 0 && in->h->cloud)
        r = bind_file(in, in->c->socket, LOCAL_SOCKET_IN_HOST);
    return r < 0 ? r : enter_root(in);
}

/* --- pid 1 --- */

static void clean_environment(void)
{
    clearenv();
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    setenv("LANG", "C.UTF-8", 1);
}

static void default_signals(void)
{
    for (int s = 1; s < NSIG; s++)
        (void)signal(s, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void start_dumontd(void)
{
    if (access("/etc/dumont/dumontd.conf", R_OK) < 0)
        return;
    pid_t pid = fork();
    if (pid != 0)
        return;
    (void)setsid();
    int log = open("/var/log/dumont/dumontd.log", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
    if (log >= 0) {
        dup2(log, 1);
        dup2(log, 2);
    }
    default_signals();
    execlp("dumontd", "dumontd", "--foreground", (char *)NULL);
    /* Not installed in this host: the program that made it is the same one. */
    execl("/proc/self/exe", "dumontd", "--foreground", (char *)NULL);
    perror("dumontd");
    _exit(127);
}

/* SIGTERM: everything in the host gets it, and time to drain; then pid 1 goes and with it what is
 * left. */
static void shut_down(void)
{
    (void)kill(-1, SIGTERM);
    struct timespec tick = {.tv_nsec = 20000000};
    for (int i = 0; i < SHUTDOWN_S * 50; i++) {
        int r;
        while ((r = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (r < 0)
            break;
        nanosleep(&tick, NULL);
    }
    _exit(0);
}

static void run_init(void) __attribute__((noreturn));
static void run_init(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    start_dumontd();
    for (;;) {
        int s = sigwaitinfo(&set, NULL);
        if (s == SIGTERM)
            shut_down();
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
}

/* Keeps stdio and the two given; the server's sockets must not live on in a host. */
static void close_others(int a, int b)
{
    int lo = a < b ? a : b, hi = a < b ? b : a;
    if (lo > 3)
        (void)close_range(3, (unsigned)lo - 1, 0);
    if (hi > lo + 1)
        (void)close_range((unsigned)lo + 1, (unsigned)hi - 1, 0);
    (void)close_range((unsigned)hi + 1, ~0u, 0);
}

static void host_main(const struct local_cloud_conf *c, const struct local_host *h, int go,
                      int ready) __attribute__((noreturn));
static void host_main(const struct local_cloud_conf *c, const struct local_host *h, int go,
                      int ready)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "dumont-init");
    char b;
    /* Also the end of a server that died before the line above. */
    if (read(go, &b, 1) != 1)
        _exit(1);
    close_others(go, ready);
    default_signals();
    (void)setsid();
    umask(022);
    char log[PATH_MAX];
    local_disk_path(c, h->name, "var/log/console.log", log);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int out = open(log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
    if (null >= 0)
        dup2(null, 0);
    if (out >= 0) {
        dup2(out, 1);
        dup2(out, 2);
    }
    static struct inside in;
    in.c = c;
    in.h = h;
    int r = local_net_inside(c->prefix, h->number, &in.err);
    if (r == 0 && sethostname(h->name, strlen(h->name)) < 0)
        r = fail(&in, "sethostname", h->name);
    if (r == 0)
        r = build_root(&in);
    if (r < 0) {
        dprintf(ready, "%s%s%s", in.err.msg, in.err.hint[0] ? "; " : "", in.err.hint);
        _exit(1);
    }
    clean_environment();
    (void)!write(ready, "+", 1);
    close_others(2, 2);
    run_init();
}

int local_host_start(const struct local_cloud_conf *c, struct local_host *h, int pipes[2],
                     struct dmt_err *err)
{
    int go[2], ready[2];
    if (pipe2(go, O_CLOEXEC) < 0)
        return dmt_err_set(err, -errno, "pipe: %s", strerror(errno));
    if (pipe2(ready, O_CLOEXEC) < 0) {
        close(go[0]);
        close(go[1]);
        return dmt_err_set(err, -errno, "pipe: %s", strerror(errno));
    }
    long pid = syscall(SYS_clone, HOST_NAMESPACES | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        close(go[1]);
        close(ready[0]);
        host_main(c, h, go[0], ready[1]);
    }
    int e = errno;
    close(go[0]);
    close(ready[1]);
    if (pid < 0) {
        close(go[1]);
        close(ready[0]);
        dmt_err_set(err, -e, "cannot make namespaces: %s", strerror(e));
        return err ? dmt_err_hint(err, "local hosts need root and a kernel with namespaces") : -e;
    }
    h->pid = (pid_t)pid;
    pipes[0] = go[1];
    pipes[1] = ready[0];
    return 0;
}

int local_host_go(int pipes[2], struct dmt_err *err)
{
    char said[600] = "";
    size_t n = 0;
    int r = write(pipes[0], "g", 1) == 1 ? 0 : -EPIPE;
    close(pipes[0]);
    while (r == 0 && n < sizeof(said) - 1) {
        struct pollfd p = {.fd = pipes[1], .events = POLLIN};
        int k = poll(&p, 1, START_TIMEOUT_MS);
        if (k < 0 && errno == EINTR)
            continue;
        if (k == 0) {
            (void)snprintf(said, sizeof(said), "no answer from its init");
            break;
        }
        ssize_t got = read(pipes[1], said + n, sizeof(said) - 1 - n);
        if (got <= 0)
            break;
        n += (size_t)got;
        if (said[0] == '+')
            break;
    }
    close(pipes[1]);
    if (r == 0 && said[0] == '+')
        return 0;
    return dmt_err_set(err, -EIO, "the host did not start: %s", said[0] ? said : "its init died");
}

/* --- exec --- */

static volatile sig_atomic_t exec_child;

static void forward(int sig)
{
    if (exec_child > 0)
        (void)kill((pid_t)exec_child, sig);
}

/* setns(2) leads to the root of the mount namespace. That is another than the host's where all of
 * this runs below a chroot: pivot_root then swaps what the chroot shows. */
static int enter_host(pid_t pid)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/root", (int)pid);
    int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int pfd = pidfd_open(pid, 0);
    int rc = root < 0 || pfd < 0 || setns(pfd, HOST_NAMESPACES) < 0 || fchdir(root) < 0 ||
                     chroot(".") < 0
                 ? -errno
                 : 0;
    if (root >= 0)
        close(root);
    if (pfd >= 0)
        close(pfd);
    return rc;
}

int local_host_exec(pid_t pid, char *const argv[])
{
    int rc = enter_host(pid);
    if (rc < 0) {
        fprintf(stderr, "dumontd: cannot enter the host: %s\n", strerror(-rc));
        return 125;
    }
    pid_t child = fork();
    if (child < 0) {
        fprintf(stderr, "dumontd: fork: %s\n", strerror(errno));
        return 125;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        clean_environment();
        if (chdir("/") < 0)
            _exit(125);
        execvp(argv[0], argv);
        fprintf(stderr, "dumontd: %s: %s\n", argv[0], strerror(errno));
        _exit(errno == ENOENT ? 127 : 126);
    }
    exec_child = child;
    static const int sigs[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
        (void)signal(sigs[i], forward);
    int st;
    while (waitpid(child, &st, 0) < 0) {
        if (errno != EINTR)
            return 125;
    }
    return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}
