/* local_rest.c: what a host whose power was cut may leave in the kernel, and its removal.
 *
 * Two things outlive the SIGKILL of pid 1. (1) A FUSE file system on a block device: when its last
 * user is a dying thread of the very process that serves it, the kernel sends DESTROY and waits for
 * an answer that cannot come any more, the host's pid 1 is never reaped, and sync(2) hangs on the
 * whole machine. The cloud holds each host's mount namespace until its processes are gone, which
 * avoids that; if it happens all the same, aborting the connection (fusectl) ends the wait. (2)
 * Loop devices, which belong to the machine, not to a namespace: those whose backing file lies on
 * one of the host's own tmpfs are detached. Both are looked up while the host lives, because
 * afterwards nothing names them. Happy path: both lists are empty. Failure modes: what cannot be
 * removed is left; never anything that is not the host's. Thread: main.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "daemon/provider/local.h"

#define FUSECTL "/sys/fs/fuse/connections"

void local_rest_prepare(void)
{
    /* Mounted already, or no FUSE in this kernel: both are fine. */
    (void)mount("fusectl", FUSECTL, "fusectl", 0, NULL);
}

void local_rest_look(pid_t pid, struct local_rest *ret)
{
    char path[64], line[2048];
    memset(ret, 0, sizeof(*ret));
    (void)snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    while (fgets(line, sizeof(line), f)) {
        unsigned major, minor;
        const char *type = strstr(line, " - ");
        if (!type || sscanf(line, "%*d %*d %u:%u", &major, &minor) != 2)
            continue;
        if (strncmp(type + 3, "fuse", 4) == 0 && strncmp(type + 3, "fusectl", 7) != 0 &&
            ret->fuse_n < LOCAL_REST_MAX)
            ret->fuse[ret->fuse_n++] = major << 20 | minor; /* as the kernel numbers devices */
        if (strncmp(type + 3, "tmpfs ", 6) == 0 && major == 0 && ret->tmpfs_n < LOCAL_REST_MAX)
            ret->tmpfs[ret->tmpfs_n++] = minor;
    }
    fclose(f);
}

void local_rest_abort(const struct local_rest *r)
{
    for (int i = 0; i < r->fuse_n; i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), FUSECTL "/%u/abort", r->fuse[i]);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0) {
            (void)!write(fd, "1", 1);
            close(fd);
        }
    }
}

/* The kernel's encoding of a device number in the loop ioctls. */
static unsigned minor_of(uint64_t dev)
{
    return (unsigned)((dev & 0xff) | ((dev >> 12) & 0xfff00));
}

static unsigned major_of(uint64_t dev)
{
    return (unsigned)((dev >> 8) & 0xfff);
}

static void detach_if_ours(const char *name, const struct local_rest *r)
{
    char path[300];
    struct loop_info64 info;
    (void)snprintf(path, sizeof(path), "/dev/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    bool ours = false;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) == 0 && major_of(info.lo_device) == 0)
        for (int i = 0; i < r->tmpfs_n; i++)
            ours |= minor_of(info.lo_device) == r->tmpfs[i];
    if (ours)
        (void)ioctl(fd, LOOP_CLR_FD, 0);
    close(fd);
}

void local_rest_detach(const struct local_rest *r)
{
    DIR *d = r->tmpfs_n ? opendir("/sys/block") : NULL;
    struct dirent *e;
    while (d && (e = readdir(d)))
        if (strncmp(e->d_name, "loop", 4) == 0)
            detach_if_ours(e->d_name, r);
    if (d)
        closedir(d);
}
