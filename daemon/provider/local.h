/* local.h: the local cloud: "machines" on this machine, each a set of network, mount, pid, uts and ipc namespaces. Shared by
 * its files: local_cloud.c (server: life of hosts, requests), local_net.c (bridge, links), local_host.c (what happens inside
 * a new host: mounts, init), local_disk.c (a host's files), local_cli.c (command line). local.c is the provider driver of
 * dumontd; it is a client. */
#ifndef DMT_DAEMON_PROVIDER_LOCAL_H
#define DMT_DAEMON_PROVIDER_LOCAL_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "fs/base/err.h"
#include "fs/base/limits.h"

#define LOCAL_HOSTS_MAX      64
#define LOCAL_SHARES_MAX     16
#define LOCAL_PATH_MAX       3072 /* of directories given by the user; what is put behind stays below PATH_MAX */
#define LOCAL_SOCKET_IN_HOST "/run/dumont-cloud.sock"

/* One cloud, as its command line says. */
struct local_cloud_conf {
    char socket[108];
    char dir[LOCAL_PATH_MAX];          /* disks of the hosts */
    char bridge[16];                   /* "" : the cloud has a network namespace of its own */
    char prefix[16];                   /* "10.83.0" */
    char install_root[LOCAL_PATH_MAX]; /* laid over /usr in the hosts; "" = as this machine is */
    const char *shares[LOCAL_SHARES_MAX];
    int shares_n;
    bool keep; /* leave the disks at the end */
};

struct local_host {
    char name[DMT_NODE_NAME_MAX + 1];
    char label[DMT_NODE_NAME_MAX + 1];
    int number; /* last byte of the address; 0 = slot free */
    pid_t pid;  /* of its pid 1, as seen here; 0 = powered off */
    int mounts;   /* its mount namespace, kept until all its processes are gone; -1 when it is off */
    bool link_up, paused;
    bool cloud; /* may talk to the cloud (the controller's host) */
};

/* --- local_host.c --- */
/* Starts the host's pid 1, which waits until `go` is called with the network in place. pipes[0]: for go, pipes[1]: for
 * ready. */
int local_host_start(const struct local_cloud_conf *c, struct local_host *h, int pipes[2], struct dmt_err *err);
/* Lets it go on and waits until its mounts and addresses are there. */
int local_host_go(int pipes[2], struct dmt_err *err);
/* Runs argv in the host of pid 1 `pid`; returns its exit status (128 + signal), or 125 with a message when it could not
 * start. */
int local_host_exec(pid_t pid, char *const argv[]);

/* --- local_disk.c --- */
void local_disk_path(const struct local_cloud_conf *c, const char *name, const char *sub, char ret[PATH_MAX]);
int local_disk_make(const struct local_cloud_conf *c, const struct local_host *h, struct dmt_err *err);
/* files: {"/etc/dumont/x": "content"}; keys and certificates get mode 0600. Written to the host's disk. */
int local_disk_inject(const struct local_cloud_conf *c, const char *name, const json_t *files, struct dmt_err *err);
void local_disk_remove(const struct local_cloud_conf *c, const char *name);
/* Writes name and address of every host into the file they all see as /etc/hosts. */
int local_disk_hosts(const struct local_cloud_conf *c, const struct local_host *h, int n, struct dmt_err *err);
int local_rm_rf(const char *path);

/* --- local_rest.c --- */
#define LOCAL_REST_MAX 64
struct local_rest {
    unsigned fuse[LOCAL_REST_MAX], tmpfs[LOCAL_REST_MAX];
    int fuse_n, tmpfs_n;
};
void local_rest_prepare(void);
void local_rest_look(pid_t pid, struct local_rest *ret);
void local_rest_abort(const struct local_rest *r);
void local_rest_detach(const struct local_rest *r);

/* --- local_net.c --- */
int local_net_up(const struct local_cloud_conf *c, struct dmt_err *err);
void local_net_down(const struct local_cloud_conf *c);
int local_net_attach(const struct local_cloud_conf *c, const struct local_host *h, struct dmt_err *err);
void local_net_detach(const struct local_cloud_conf *c, const struct local_host *h);
int local_net_link(const struct local_cloud_conf *c, const struct local_host *h, bool up, struct dmt_err *err);
/* Inside the host: lo, eth0, default route. */
int local_net_inside(const char *prefix, int number, struct dmt_err *err);
/* Runs a program; its standard error becomes the message. 0, or -EIO. */
int local_run(const char *const argv[], struct dmt_err *err);

/* --- local.c: the provider driver, a client of the socket --- */
struct provider;
struct provider *local_provider_open(const char *socket, struct dmt_err *err);

/* --- command lines (programs within dumontd) --- */
int local_cloud_main(int argc, char **argv);
int local_cli_main(int argc, char **argv);

#endif
