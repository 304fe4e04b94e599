/* local_cloud.c: the server of the local cloud (`dumontd local-cloud`).
 *
 * Owns the hosts' table, the bridge, the socket. One thread, one poll loop; requests are JSON
 * lines, one answer each:
 *   {"op":"create","name":N,"label":L?,"address":A?,"files":{PATH:TEXT},"cloud":true?}   idempotent
 * by label (default: the name)
 *   {"op":"list"}  {"op":"kill"|"stop"|"destroy"|"pause"|"resume"|"link-up"|"link-down","name":N}
 * Answer: {"ok":true, ...} or {"ok":false,"error":SENTENCE}. kill = the power is cut (link first,
 * so that no FIN or RST gets out; then SIGKILL of pid 1), the disk stays and create starts it
 * again; stop = SIGTERM to pid 1; destroy = kill and the disk is gone. Failure modes: a host that
 * does not come up is torn down before the answer. On SIGTERM, SIGINT, SIGHUP or any error all
 * hosts, links, the bridge and (without --keep) the disks are removed. If this process is killed,
 * its hosts die with it (PDEATHSIG) and take links and mounts along; a bridge in this namespace
 * stays and is replaced by the next cloud of that name.
 */
#include "daemon/provider/local.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/common/jline.h"
#include "fs/base/io.h"
#include "fs/base/log.h"
#include "fs/base/options.h"

#define CLIENTS_MAX  32
#define FIRST_NUMBER 11
#define KILL_SOON_MS 500
#define KILL_WAIT_MS 15000
#define STOP_WAIT_MS 50000

struct cloud {
    struct local_cloud_conf conf;
    struct local_host hosts[LOCAL_HOSTS_MAX];
    struct {
        int fd;
        struct dmt_buf in;
    } clients[CLIENTS_MAX];
    int listener, signals;
    bool net;
};

/* --- hosts --- */

static struct local_host *host_find(struct cloud *c, const char *name)
{
    for (int i = 0; i < LOCAL_HOSTS_MAX; i++)
        if (c->hosts[i].number && strcmp(c->hosts[i].name, name) == 0)
            return &c->hosts[i];
    return NULL;
}

static int free_number(const struct cloud *c)
{
    for (int n = FIRST_NUMBER; n < 255; n++) {
        bool used = false;
        for (int i = 0; i < LOCAL_HOSTS_MAX; i++)
            used |= c->hosts[i].number == n;
        if (!used)
            return n;
    }
    return 0;
}

/* Its processes are gone; now its mounts may go. Not before: a file system that is taken down by
 * the very process that serves it waits for itself (local_rest.c). */
static void host_is_off(struct local_host *h)
{
    if (h->mounts >= 0)
        close(h->mounts);
    h->mounts = -1;
    h->pid = 0;
    h->paused = false;
}

static void keep_mounts(struct local_host *h)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)h->pid);
    h->mounts = open(path, O_RDONLY | O_CLOEXEC);
}

/* Waits until pid 1 is reaped, which is when the kernel has taken the whole host down. */
static bool host_reaped(struct local_host *h, int timeout_ms)
{
    int pfd = pidfd_open(h->pid, 0);
    if (pfd >= 0) {
        struct pollfd p = {.fd = pfd, .events = POLLIN};
        (void)poll(&p, 1, timeout_ms);
        close(pfd);
    }
    if (waitpid(h->pid, NULL, WNOHANG) == 0)
        return false;
    host_is_off(h);
    return true;
}

static int host_kill(struct cloud *c, struct local_host *h, struct dmt_err *err)
{
    if (h->pid == 0)
        return 0;
    struct local_rest rest;
    (void)local_net_link(&c->conf, h, false, NULL);
    local_rest_look(h->pid, &rest);
    (void)kill(h->pid, SIGKILL);
    bool gone = host_reaped(h, KILL_SOON_MS);
    if (!gone) {
        local_rest_abort(&rest);
        gone = host_reaped(h, KILL_WAIT_MS);
    }
    local_rest_detach(&rest);
    local_net_detach(&c->conf, h);
    h->link_up = false;
    return gone ? 0 : dmt_err_set(err, -EBUSY, "%s: a process of it does not die", h->name);
}

static int host_stop(struct cloud *c, struct local_host *h, struct dmt_err *err)
{
    if (h->pid == 0)
        return 0;
    (void)kill(h->pid, SIGTERM);
    if (!host_reaped(h, STOP_WAIT_MS))
        return host_kill(c, h, err);
    local_net_detach(&c->conf, h);
    h->link_up = false;
    return 0;
}

static int host_up(struct cloud *c, struct local_host *h, struct dmt_err *err)
{
    int pipes[2];
    int r = local_disk_make(&c->conf, h, err);
    if (r == 0)
        r = local_disk_hosts(&c->conf, c->hosts, LOCAL_HOSTS_MAX, err);
    if (r == 0)
        r = local_host_start(&c->conf, h, pipes, err);
    if (r < 0)
        return r;
    r = local_net_attach(&c->conf, h, err);
    if (r < 0) {
        close(pipes[0]);
        close(pipes[1]);
    } else {
        h->link_up = true;
        r = local_host_go(pipes, err);
        keep_mounts(h);
    }
    if (r < 0)
        (void)host_kill(c, h, NULL);
    return r;
}

/* The pid namespace of a process, as the kernel names it. */
static bool pidns_of(const char *pid, char ret[64])
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%.16s/ns/pid", pid);
    ssize_t n = readlink(path, ret, 63);
    if (n < 0)
        return false;
    ret[n] = '\0';
    return true;
}

static bool is_stopped(const char *pid)
{
    char path[64], line[512];
    (void)snprintf(path, sizeof(path), "/proc/%.16s/stat", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return true;
    const char *p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
    fclose(f);
    /* D: it waits in the kernel, often for a server of this host that has stopped already; it stops
     * on its way back. */
    return !p || strchr("TZXD", p[2]);
}

/* One signal to all of the host; how many were not stopped before. */
static int signal_all(const struct local_host *h, int sig)
{
    char own[64], other[64], pid1[16];
    (void)snprintf(pid1, sizeof(pid1), "%d", (int)h->pid);
    DIR *d = opendir("/proc");
    int running = 0;
    if (!d || !pidns_of(pid1, own)) {
        if (d)
            closedir(d);
        return 0;
    }
    struct dirent *e;
    while ((e = readdir(d))) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9' || !pidns_of(e->d_name, other) ||
            strcmp(own, other) != 0)
            continue;
        running += !is_stopped(e->d_name);
        (void)kill((pid_t)atoi(e->d_name), sig);
    }
    closedir(d);
    return running;
}

/* A process may fork while the others are being stopped, so: until a whole round finds nothing
 * running. */
static int host_pause(struct local_host *h, struct dmt_err *err)
{
    struct timespec tick = {.tv_nsec = 1000000};
    for (int i = 0; i < 2000; i++) {
        if (signal_all(h, SIGSTOP) == 0) {
            h->paused = true;
            return 0;
        }
        nanosleep(&tick, NULL);
    }
    return dmt_err_set(err, -EBUSY, "%s: a process of it does not stop", h->name);
}

/* --- requests --- */

static int op_create(struct cloud *c, const json_t *q, json_t *a, struct dmt_err *err)
{
    const char *name = jline_str(q, "name", ""), *label = jline_str(q, "label", name);
    const char *address = jline_str(q, "address", "");
    int r = dmt_workspace_name_check(name, NULL);
    if (r < 0 || strlen(label) > DMT_NODE_NAME_MAX)
        return dmt_err_set(err, -EINVAL, "'%s' is not a name for a host", name);
    struct local_host *h = host_find(c, name);
    if (h && h->pid && strcmp(h->label, label) != 0)
        return dmt_err_set(err, -EEXIST, "a host %s exists, made with another label", name);
    bool fresh = !h, was_off = !h || h->pid == 0;
    int want = 0;
    if (address[0]) {
        size_t n = strlen(c->conf.prefix);
        want = strncmp(address, c->conf.prefix, n) == 0 && address[n] == '.' ? atoi(address + n + 1)
                                                                             : 0;
        if (want < 2 || want > 254)
            return dmt_err_set(err, -EINVAL, "the address %s is not in %s.2-254", address,
                               c->conf.prefix);
        for (int i = 0; i < LOCAL_HOSTS_MAX; i++)
            if (c->hosts[i].number == want && &c->hosts[i] != h)
                return dmt_err_set(err, -EADDRINUSE, "%s belongs to %s", address, c->hosts[i].name);
    }
    for (int i = 0; !h && i < LOCAL_HOSTS_MAX; i++)
        if (c->hosts[i].number == 0)
            h = &c->hosts[i];
    if (!h)
        return dmt_err_set(err, -ENOSPC, "no more than %d hosts", LOCAL_HOSTS_MAX);
    if (was_off) {
        if (fresh) {
            memset(h, 0, sizeof(*h));
            h->mounts = -1;
            h->number = want ? want : free_number(c);
            (void)snprintf(h->name, sizeof(h->name), "%s", name);
        }
        (void)snprintf(h->label, sizeof(h->label), "%s", label);
        h->cloud = jline_bool(q, "cloud", h->cloud);
        r = local_disk_make(&c->conf, h, err);
        if (r == 0)
            r = local_disk_inject(&c->conf, name, json_object_get(q, "files"), err);
        if (r == 0)
            r = host_up(c, h, err);
        if (r < 0 && fresh) {
            local_disk_remove(&c->conf, name);
            h->number = 0;
        }
        if (r < 0)
            return r;
        dmt_info("host %s is up at %s.%d", name, c->conf.prefix, h->number);
    }
    char addr[40];
    (void)snprintf(addr, sizeof(addr), "%s.%d", c->conf.prefix, h->number);
    json_object_set_new(a, "address", json_string(addr));
    json_object_set_new(a, "created", json_boolean(was_off));
    return 0;
}

static int op_list(struct cloud *c, json_t *a)
{
    json_t *list = json_array();
    for (int i = 0; i < LOCAL_HOSTS_MAX; i++) {
        const struct local_host *h = &c->hosts[i];
        if (!h->number)
            continue;
        char addr[40];
        (void)snprintf(addr, sizeof(addr), "%s.%d", c->conf.prefix, h->number);
        json_array_append_new(list,
                              json_pack("{s:s s:s s:s s:i s:s s:b}", "name", h->name, "label",
                                        h->label, "state",
                                        h->pid == 0 ? "off"
                                        : h->paused ? "paused"
                                                    : "running",
                                        "pid", (int)h->pid, "address", addr, "link", h->link_up));
    }
    return json_object_set_new(a, "hosts", list) < 0 ? -ENOMEM : 0;
}

static int op_on_host(struct cloud *c, const char *op, const char *name, struct dmt_err *err)
{
    struct local_host *h = host_find(c, name);
    if (!h) /* destroying what is not there is done already */
        return strcmp(op, "destroy") == 0 ? 0 : dmt_err_set(err, -ENOENT, "no host %s", name);
    int r;
    if (strcmp(op, "kill") == 0)
        return host_kill(c, h, err);
    if (strcmp(op, "stop") == 0)
        return host_stop(c, h, err);
    if (strcmp(op, "destroy") == 0) {
        r = host_kill(c, h, err);
        if (r < 0)
            return r;
        local_disk_remove(&c->conf, h->name);
        h->number = 0;
        dmt_info("host %s is gone", name);
        return local_disk_hosts(&c->conf, c->hosts, LOCAL_HOSTS_MAX, err);
    }
    if (h->pid == 0)
        return dmt_err_set(err, -EHOSTDOWN, "%s is off", name);
    if (strcmp(op, "pause") == 0)
        return host_pause(h, err);
    if (strcmp(op, "resume") == 0) {
        (void)signal_all(h, SIGCONT);
        h->paused = false;
        return 0;
    }
    bool up = strcmp(op, "link-up") == 0;
    if (!up && strcmp(op, "link-down") != 0)
        return dmt_err_set(err, -EINVAL, "unknown operation %s", op);
    r = local_net_link(&c->conf, h, up, err);
    if (r == 0)
        h->link_up = up;
    return r;
}

static json_t *answer(struct cloud *c, const json_t *q)
{
    struct dmt_err err = {0};
    json_t *a = json_object();
    const char *op = jline_str(q, "op", "");
    int r = strcmp(op, "create") == 0 ? op_create(c, q, a, &err)
            : strcmp(op, "list") == 0 ? op_list(c, a)
                                      : op_on_host(c, op, jline_str(q, "name", ""), &err);
    json_object_set_new(a, "ok", json_boolean(r == 0));
    if (r < 0) {
        char text[1024];
        (void)snprintf(text, sizeof(text), "%s%s%s", err.msg, err.hint[0] ? "; " : "", err.hint);
        json_object_set_new(a, "error", json_string(text));
        json_object_set_new(a, "code", json_integer(-r));
    }
    return a;
}

/* --- loop --- */

static void client_drop(struct cloud *c, int i)
{
    close(c->clients[i].fd);
    c->clients[i].fd = -1;
    dmt_buf_free(&c->clients[i].in);
}

static void client_accept(struct cloud *c)
{
    int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    for (int i = 0; i < CLIENTS_MAX; i++) {
        if (c->clients[i].fd < 0) {
            c->clients[i].fd = fd;
            dmt_buf_init(&c->clients[i].in);
            return;
        }
    }
    close(fd);
}

static void client_read(struct cloud *c, int i)
{
    uint8_t chunk[16384];
    ssize_t n = recv(c->clients[i].fd, chunk, sizeof(chunk), MSG_DONTWAIT);
    if (n <= 0) {
        client_drop(c, i);
        return;
    }
    dmt_put_raw(&c->clients[i].in, chunk, (size_t)n);
    json_t *q;
    int r;
    while ((r = jline_take(&c->clients[i].in, &q)) == 1) {
        json_t *a = answer(c, q);
        json_decref(q);
        int w = jline_send(c->clients[i].fd, a);
        json_decref(a);
        if (w < 0)
            break;
    }
    if (r < 0)
        client_drop(c, i);
}

/* A host whose init ended by itself (shutdown from within). */
static void reap(struct cloud *c)
{
    for (int i = 0; i < LOCAL_HOSTS_MAX; i++) {
        struct local_host *h = &c->hosts[i];
        if (h->number && h->pid && waitpid(h->pid, NULL, WNOHANG) > 0) {
            host_is_off(h);
            h->link_up = false;
            local_net_detach(&c->conf, h);
        }
    }
}

static void serve(struct cloud *c)
{
    for (;;) {
        struct pollfd p[CLIENTS_MAX + 2] = {{.fd = c->signals, .events = POLLIN},
                                            {.fd = c->listener, .events = POLLIN}};
        for (int i = 0; i < CLIENTS_MAX; i++)
            p[i + 2] = (struct pollfd){.fd = c->clients[i].fd, .events = POLLIN};
        if (poll(p, CLIENTS_MAX + 2, -1) < 0)
            continue;
        if (p[0].revents) {
            struct signalfd_siginfo s;
            if (read(c->signals, &s, sizeof(s)) == sizeof(s) && s.ssi_signo != SIGCHLD)
                return;
            reap(c);
        }
        for (int i = 0; i < CLIENTS_MAX; i++)
            if (p[i + 2].revents && c->clients[i].fd >= 0)
                client_read(c, i);
        if (p[1].revents)
            client_accept(c);
    }
}

static int cloud_up(struct cloud *c, struct dmt_err *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%.*s/hosts", LOCAL_PATH_MAX, c->conf.dir);
    int r = dmt_io_mkdirs(dmt_io_real(), path, 0755);
    if (r < 0)
        return dmt_err_set(err, r, "cannot make %s: %s", path, strerror(-r));
    if (!c->conf.bridge[0] && unshare(CLONE_NEWNET) < 0)
        return dmt_err_set(err, -errno, "cannot make a network namespace: %s", strerror(errno));
    /* Our own view of the mounts, which still gets what is mounted outside: fusectl is needed here
     * and nowhere else. */
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return dmt_err_set(err, -errno, "cannot make a mount namespace: %s", strerror(errno));
    local_rest_prepare();
    sigset_t set;
    sigemptyset(&set);
    for (const int *s = (const int[]){SIGTERM, SIGINT, SIGHUP, SIGCHLD, 0}; *s; s++)
        sigaddset(&set, *s);
    sigprocmask(SIG_BLOCK, &set, NULL);
    c->signals = signalfd(-1, &set, SFD_CLOEXEC);
    c->listener = jline_listen(c->conf.socket, 0600, err);
    if (c->listener < 0)
        return c->listener;
    r = local_net_up(&c->conf, err);
    c->net = r == 0;
    return r;
}

static void cloud_down(struct cloud *c)
{
    for (int i = 0; i < LOCAL_HOSTS_MAX; i++)
        if (c->hosts[i].number)
            (void)host_kill(c, &c->hosts[i], NULL);
    if (c->net)
        local_net_down(&c->conf);
    if (c->listener >= 0) {
        close(c->listener);
        (void)unlink(c->conf.socket);
    }
    for (int i = 0; i < CLIENTS_MAX; i++)
        if (c->clients[i].fd >= 0)
            client_drop(c, i);
    if (!c->conf.keep) {
        char path[PATH_MAX];
        (void)snprintf(path, sizeof(path), "%.*s/hosts", LOCAL_PATH_MAX, c->conf.dir);
        (void)local_rm_rf(path);
        (void)snprintf(path, sizeof(path), "%.*s/hosts.txt", LOCAL_PATH_MAX, c->conf.dir);
        (void)unlink(path);
    }
}

static int take_path(const char *opt, const char *value, char *dst, size_t size)
{
    if (strlen(value) >= size || value[0] != '/' || strpbrk(value, ":,\\")) {
        fprintf(stderr, "dumontd: %s needs an absolute path below %zu bytes without ':' ',' '\\'\n",
                opt, size);
        return -EINVAL;
    }
    memcpy(dst, value, strlen(value) + 1);
    return 0;
}

static int parse(struct local_cloud_conf *c, int argc, char **argv)
{
    static const struct option opts[] = {{"socket", 1, NULL, 's'},       {"dir", 1, NULL, 'd'},
                                         {"bridge", 1, NULL, 'b'},       {"prefix", 1, NULL, 'p'},
                                         {"install-root", 1, NULL, 'i'}, {"share", 1, NULL, 'S'},
                                         {"keep", 0, NULL, 'k'},         {NULL, 0, NULL, 0}};
    (void)snprintf(c->prefix, sizeof(c->prefix), "10.83.0");
    int o, r = 0;
    while (r == 0 && (o = getopt_long(argc, argv, "", opts, NULL)) != -1) {
        struct in_addr a;
        char full[32];
        switch (o) {
        case 's':
            r = take_path("--socket", optarg, c->socket, sizeof(c->socket));
            break;
        case 'd':
            r = take_path("--dir", optarg, c->dir, sizeof(c->dir));
            break;
        case 'i':
            r = take_path("--install-root", optarg, c->install_root, sizeof(c->install_root));
            break;
        case 'b':
            r = strlen(optarg) < sizeof(c->bridge) ? 0 : -EINVAL;
            if (r == 0)
                (void)snprintf(c->bridge, sizeof(c->bridge), "%s", optarg);
            break;
        case 'p':
            (void)snprintf(full, sizeof(full), "%.15s.1", optarg);
            r = strlen(optarg) < sizeof(c->prefix) && inet_pton(AF_INET, full, &a) == 1 ? 0
                                                                                        : -EINVAL;
            if (r < 0)
                fprintf(stderr, "dumontd: --prefix wants three numbers such as 10.83.0\n");
            else
                (void)snprintf(c->prefix, sizeof(c->prefix), "%s", optarg);
            break;
        case 'S':
            r = c->shares_n < LOCAL_SHARES_MAX && optarg[0] == '/' ? 0 : -EINVAL;
            if (r == 0)
                c->shares[c->shares_n++] = optarg;
            break;
        case 'k':
            c->keep = true;
            break;
        default:
            r = -EINVAL;
        }
    }
    return r == 0 && c->socket[0] && c->dir[0] && optind == argc ? 0 : -EINVAL;
}

int local_cloud_main(int argc, char **argv)
{
    static struct cloud c;
    struct dmt_err err = {0};
    c.listener = -1;
    for (int i = 0; i < CLIENTS_MAX; i++)
        c.clients[i].fd = -1;
    if (parse(&c.conf, argc, argv) < 0) {
        fprintf(stderr,
                "usage: dumontd local-cloud --socket PATH --dir DIR [--bridge NAME] "
                "[--prefix 10.83.0]\n"
                "                           [--install-root DIR] [--share DIR]... [--keep]\n");
        return 2;
    }
    umask(022);
    (void)signal(SIGPIPE, SIG_IGN);
    int r = cloud_up(&c, &err);
    if (r == 0) {
        dmt_info("local cloud serves on %s", c.conf.socket);
        serve(&c);
    } else {
        fprintf(stderr, "dumontd: %s\n", err.msg);
    }
    cloud_down(&c);
    return r == 0 ? 0 : 1;
}
