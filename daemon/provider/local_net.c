/* local_net.c: the network of the local cloud: one bridge, one veth pair a host.
 *
 * Owns names only: bridge, "dh<hash>-<n>" for the cloud's end of host n's link (15 bytes at most,
 * so names of hosts are not used), eth0 inside. Everything is done with ip(8). Happy path: bridge
 * up with address PREFIX.1; attach makes the pair with one end already in the host's network
 * namespace; link down = the cloud's end is set down, which is what an unplugged cable looks like.
 * Failure modes: a bridge of an earlier cloud that was killed is recognised by its alias and
 * replaced, a foreign interface of that name is refused. Without --bridge the server lives in a
 * network namespace of its own, and nothing can be left behind at all. Thread: main.
 */
#include "daemon/provider/local.h"

#include <fcntl.h>
#include <net/if.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/base/hash.h"

#define ALIAS "dumont-local-cloud"

extern char **environ;

/* Reads what the child says until it closes the pipe; keeps the beginning. */
static void collect(int fd, char *buf, size_t size)
{
    size_t used = 0;
    char c[256];
    ssize_t n;
    while ((n = read(fd, c, sizeof(c))) > 0 || (n < 0 && errno == EINTR)) {
        for (ssize_t i = 0; i < n && used < size - 1; i++)
            buf[used++] = c[i];
    }
    while (used && buf[used - 1] == '\n')
        used--;
    buf[used] = '\0';
}

int local_run(const char *const argv[], struct dmt_err *err)
{
    int p[2];
    if (pipe2(p, O_CLOEXEC) < 0)
        return dmt_err_set(err, -errno, "pipe: %s", strerror(errno));
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, p[1], 1);
    posix_spawn_file_actions_adddup2(&fa, p[1], 2);
    posix_spawnattr_t at;
    posix_spawnattr_init(&at);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&at, &none);
    posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK);
    pid_t pid;
    int r = posix_spawnp(&pid, argv[0], &fa, &at, (char *const *)argv, environ);
    posix_spawnattr_destroy(&at);
    posix_spawn_file_actions_destroy(&fa);
    close(p[1]);
    char said[400] = "";
    if (r == 0)
        collect(p[0], said, sizeof(said));
    close(p[0]);
    if (r != 0) {
        dmt_err_set(err, -r, "cannot run %s: %s", argv[0], strerror(r));
        return err && r == ENOENT ? dmt_err_hint(err, "install iproute2") : -r;
    }
    int st;
    while (waitpid(pid, &st, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(st) && WEXITSTATUS(st) == 0)
        return 0;
    char line[300] = "";
    size_t used = 0;
    for (int i = 0; argv[i] && used + strlen(argv[i]) + 2 < sizeof(line); i++)
        used += (size_t)snprintf(line + used, sizeof(line) - used, "%s%s", i ? " " : "", argv[i]);
    return dmt_err_set(err, -EIO, "%s: %s", line, said[0] ? said : "failed");
}

#define RUN(err, ...) local_run((const char *const[]){__VA_ARGS__, NULL}, err)

static const char *bridge_name(const struct local_cloud_conf *c)
{
    return c->bridge[0] ? c->bridge : "br0";
}

/* The cloud's directory makes the name its own when several clouds share a network namespace. */
static void port_name(const struct local_cloud_conf *c, const struct local_host *h,
                      char ret[IFNAMSIZ])
{
    uint32_t id = dmt_crc32c(0, c->dir, strlen(c->dir));
    (void)snprintf(ret, IFNAMSIZ, "dh%08x-%d", id, h->number % 1000);
}

static bool is_leftover(const char *bridge)
{
    char path[128], alias[64] = "";
    (void)snprintf(path, sizeof(path), "/sys/class/net/%s/ifalias", bridge);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ours = fgets(alias, sizeof(alias), f) && strncmp(alias, ALIAS, strlen(ALIAS)) == 0;
    fclose(f);
    return ours;
}

int local_net_up(const struct local_cloud_conf *c, struct dmt_err *err)
{
    const char *br = bridge_name(c);
    if (c->bridge[0] && if_nametoindex(br)) {
        if (!is_leftover(br))
            return dmt_err_set(err, -EEXIST, "an interface %s exists and is not ours", br);
        RUN(NULL, "ip", "link", "del", br);
    }
    char addr[40];
    (void)snprintf(addr, sizeof(addr), "%s.1/24", c->prefix);
    int r = RUN(err, "ip", "link", "add", br, "type", "bridge");
    if (r < 0)
        return r;
    r = RUN(err, "ip", "link", "set", br, "alias", ALIAS);
    if (r == 0)
        r = RUN(err, "ip", "addr", "add", addr, "dev", br);
    if (r == 0)
        r = RUN(err, "ip", "link", "set", "lo", "up");
    if (r == 0)
        r = RUN(err, "ip", "link", "set", br, "up");
    if (r < 0)
        local_net_down(c);
    return r;
}

void local_net_down(const struct local_cloud_conf *c)
{
    RUN(NULL, "ip", "link", "del", bridge_name(c));
}

int local_net_attach(const struct local_cloud_conf *c, const struct local_host *h,
                     struct dmt_err *err)
{
    char port[IFNAMSIZ], pid[16];
    port_name(c, h, port);
    (void)snprintf(pid, sizeof(pid), "%d", (int)h->pid);
    /* A port of an earlier life of this host may not have gone yet: namespaces die in the
     * background. */
    if (if_nametoindex(port))
        RUN(NULL, "ip", "link", "del", port);
    int r =
        RUN(err, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", pid);
    if (r < 0)
        return r;
    r = RUN(err, "ip", "link", "set", port, "master", bridge_name(c), "up");
    if (r < 0)
        local_net_detach(c, h);
    return r;
}

void local_net_detach(const struct local_cloud_conf *c, const struct local_host *h)
{
    char port[IFNAMSIZ];
    port_name(c, h, port);
    if (if_nametoindex(port))
        RUN(NULL, "ip", "link", "del", port);
}

int local_net_link(const struct local_cloud_conf *c, const struct local_host *h, bool up,
                   struct dmt_err *err)
{
    char port[IFNAMSIZ];
    port_name(c, h, port);
    return RUN(err, "ip", "link", "set", port, up ? "up" : "down");
}

int local_net_inside(const char *prefix, int number, struct dmt_err *err)
{
    char addr[40], gw[40];
    (void)snprintf(addr, sizeof(addr), "%s.%d/24", prefix, number);
    (void)snprintf(gw, sizeof(gw), "%s.1", prefix);
    int r = RUN(err, "ip", "link", "set", "lo", "up");
    if (r == 0)
        r = RUN(err, "ip", "addr", "add", addr, "dev", "eth0");
    if (r == 0)
        r = RUN(err, "ip", "link", "set", "eth0", "up");
    if (r == 0)
        r = RUN(err, "ip", "route", "add", "default", "via", gw);
    return r;
}
