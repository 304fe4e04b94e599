/* connection.c: one FUSE connection: /dev/fuse, mount(2), the answer to INIT, and its end.
 *
 * Happy path of a mount:
 *   1. a loop device stands ready (fuseblk) or not (plain); a stale mount of the same workspace is
 * detached;
 *   2. open /dev/fuse, mount(2) with that descriptor: the kernel queues INIT;
 *   3. read INIT, keep its bytes (each workspace process feeds them to its own libfuse), answer it
 * here, so that every flag is ours whatever the library supports (storage D, A6);
 *   4. raise the read-ahead, which INIT can only lower.
 * From 3 on users may call; their requests wait in the kernel until the workspace process reads
 * them.
 *
 * Failure modes: no /dev/fuse; a mountpoint that is gone; mount(2) refused. A fuseblk mount that
 * fails falls back to a plain one and says so in the log: then sync(2) and syncfs(2) do not reach
 * the workspace (dumont doctor says it too). The end of an unserved mount: closing the last
 * descriptor aborts the connection, users get ENOTCONN, then the mount is detached. Thread: the
 * holder's loop; holder_conn_umount() from the umount thread.
 */
#include "fs/holder/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "fs/base/clock.h"
#include "fs/base/fuse_init.h"
#include "fs/base/io.h"
#include "fs/base/log.h"
#include "fs/base/mountinfo.h"
#include "fs/base/options.h"

#define READ_AHEAD_KB "1024"

static bool kernel_passes_syncfs(void)
{
    struct utsname u;
    unsigned major = 0, minor = 0;
    if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &major, &minor) != 2)
        return false;
    return major > 6 || (major == 6 && minor >= 18);
}

/* A fuseblk superblock waits for the server's answer to DESTROY. If a mount namespace dies together
 * with the server (a container is killed), the last thread of the server drops the mount while it
 * exits, and waits for itself for ever; every sync(2) of the machine then waits for it
 * (docs/decisions/0011). So fuseblk only in the namespaces that live as long as the machine; their
 * inode numbers are fixed. */
static bool namespaces_outlive_us(void)
{
    static const struct {
        const char *path;
        ino_t initial;
    } ns[] = {{"/proc/self/ns/pid", 0xEFFFFFFCu}, {"/proc/self/ns/mnt", 0xEFFFFFF8u}};
    struct stat st;
    for (size_t i = 0; i < sizeof(ns) / sizeof(ns[0]); i++)
        if (stat(ns[i].path, &st) != 0 || st.st_ino != ns[i].initial)
            return false;
    return true;
}

void holder_conn_init(struct holder_conn *c, const char *name, const struct dmt_conf *conf)
{
    const char *syncfs = dmt_conf_get(conf, "syncfs");
    struct dmt_err err = {0};

    memset(c, 0, sizeof(*c));
    c->fd = c->loop.fd = -1;
    (void)snprintf(c->name, sizeof(c->name), "%s", name);
    if (syncfs && strcmp(syncfs, "off") == 0)
        return;
    if (!kernel_passes_syncfs()) {
        dmt_warn("this kernel is older than 6.18: sync(2) and syncfs(2) will not reach the "
                 "workspace; fsync of any file or directory is the barrier for everything before");
        return;
    }
    if (!namespaces_outlive_us()) {
        dmt_warn(
            "in a container, or a mount namespace of its own: sync(2) and syncfs(2) will not reach the "
            "workspace; fsync of any file or directory is the barrier for everything before");
        return;
    }
    c->fuseblk = holder_loop_open(&c->loop, name, &err) == 0;
    if (!c->fuseblk)
        dmt_warn("%s: mounting without a block device, so sync(2) and syncfs(2) will not reach "
                 "the workspace; fsync of any file or directory is the barrier",
                 err.msg);
}

/* INIT can lower the read-ahead of a mount (128 KiB by default) but not raise it. Best effort: /sys
 * may be read-only. */
static void raise_read_ahead(const struct holder_conn *c)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u%s/read_ahead_kb", major(c->dev),
                   minor(c->dev), c->fuseblk ? "-fuseblk" : "");
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = write(fd, READ_AHEAD_KB, strlen(READ_AHEAD_KB));
    (void)n;
    close(fd);
}

static unsigned long flags_of(const struct dmt_conf *conf)
{
    unsigned long f = MS_NOATIME;
    if (dmt_conf_get(conf, "ro"))
        f |= MS_RDONLY;
    if (dmt_conf_get(conf, "nosuid"))
        f |= MS_NOSUID;
    if (dmt_conf_get(conf, "nodev"))
        f |= MS_NODEV;
    if (dmt_conf_get(conf, "noexec"))
        f |= MS_NOEXEC;
    return f;
}

/* mount(2) of c->fd on c->dir. A fuseblk mount that the kernel refuses is tried again as a plain
 * one. */
static int call_mount(struct holder_conn *c, unsigned long flags)
{
    char data[160];
    const char *common = "rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other";

    if (c->fuseblk) {
        (void)snprintf(data, sizeof(data), "fd=%d,%s,blksize=4096", c->fd, common);
        if (mount(c->loop.link, c->dir, "fuseblk.dumont", flags, data) == 0)
            return 0;
        dmt_warn("fuseblk mount on %s failed (%s): mounting without a block device, so sync(2) and "
                 "syncfs(2) will not reach the workspace",
                 c->loop.dev, strerror(errno));
        holder_loop_close(&c->loop, true);
        c->fuseblk = false;
    }
    (void)snprintf(data, sizeof(data), "fd=%d,%s", c->fd, common);
    return mount(c->name, c->dir, "fuse.dumont", flags, data) == 0 ? 0 : -errno;
}

/* A holder that was killed leaves its dead mount behind; the workspace process has the store's
 * lock, so this one is nobody's. */
static void detach_stale(const struct holder_conn *c, const char *dir)
{
    struct dmt_mount *m = malloc(sizeof(*m));
    while (m && dmt_mountinfo_at(dir, m) == 1 && strcmp(m->workspace, c->name) == 0) {
        dmt_warn("detaching a dead mount of %s at %s", c->name, dir);
        if (umount2(dir, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
            break;
    }
    free(m);
}

static int open_mountpoint(struct holder_conn *c, const char *dir, struct dmt_err *err)
{
    char *real;
    int rc;

    detach_stale(c, dir);
    rc = dmt_io_mkdirs(dmt_io_real(), dir, 0755);
    real = rc < 0 ? NULL : realpath(dir, NULL);
    if (rc == 0 && !real)
        rc = -errno;
    if (rc == 0 && strlen(real) >= sizeof(c->dir))
        rc = -ENAMETOOLONG;
    if (rc < 0) {
        free(real);
        dmt_err_set(err, rc, "the mountpoint %s cannot be used: %s", dir, dmt_strerror(rc));
        return rc;
    }
    (void)snprintf(c->dir, sizeof(c->dir), "%s", real);
    free(real);
    return 0;
}

int holder_conn_mount(struct holder_conn *c, const char *dir, const struct dmt_conf *conf,
                      struct dmt_err *err)
{
    struct dmt_mount *m = NULL;
    int rc;

    if (c->mounted)
        return dmt_err_set(err, -EBUSY, "%s is already mounted on %s", c->name, c->dir);
    rc = open_mountpoint(c, dir, err);
    if (rc < 0)
        return rc;
    if (c->fuseblk && c->loop.fd < 0 && holder_loop_open(&c->loop, c->name, err) < 0) {
        dmt_warn("%s: mounting without a block device", err->msg);
        c->fuseblk = false;
    }
    c->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (c->fd < 0) {
        rc = dmt_err_set(err, -errno, "cannot open /dev/fuse: %s", strerror(errno));
        dmt_err_hint(err, "load the kernel module (modprobe fuse), or start the container with "
                          "--device /dev/fuse");
        return rc;
    }
    rc = call_mount(c, flags_of(conf));
    if (rc < 0) {
        close(c->fd);
        c->fd = -1;
        return dmt_err_set(err, rc, "mount on %s failed: %s", c->dir, dmt_strerror(rc));
    }
    c->mounted = true;
    c->ro = flags_of(conf) & MS_RDONLY;
    holder_loop_close(&c->loop, false);
    rc = dmt_fuse_init_serve(c->fd, c->init, sizeof(c->init), &c->init_len, err);
    if (rc < 0) {
        holder_conn_abort(c);
        return rc;
    }
    dmt_random(&c->instance, sizeof(c->instance));
    m = malloc(sizeof(*m));
    if (m && dmt_mountinfo_at(c->dir, m) == 1)
        c->dev = m->dev;
    free(m);
    raise_read_ahead(c);
    return 0;
}

/* Is our mount the one on top at its directory? Another may cover it, or it may be gone already. */
static bool on_top(const struct holder_conn *c)
{
    struct dmt_mount *m = malloc(sizeof(*m));
    bool ours = m && dmt_mountinfo_at(c->dir, m) == 1 && (c->dev == 0 || m->dev == c->dev) &&
                strcmp(m->workspace, c->name) == 0;
    free(m);
    return ours;
}

int holder_conn_umount(const struct holder_conn *c, bool lazy)
{
    if (!on_top(c))
        return 0; /* somebody else (umount(8)) was faster */
    if (umount2(c->dir, (lazy ? MNT_DETACH : 0) | UMOUNT_NOFOLLOW) == 0)
        return 0;
    return errno == EINVAL || errno == ENOENT ? 0 : -errno;
}

void holder_conn_release(struct holder_conn *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->mounted = false;
    c->dev = 0;
    holder_loop_close(&c->loop, true);
}

void holder_conn_abort(struct holder_conn *c)
{
    if (!c->mounted) {
        holder_conn_release(c);
        return;
    }
    /* The descriptor first: its last close aborts the connection, and a fuseblk umount must find
     * nobody to wait for. */
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    if (on_top(c) && umount2(c->dir, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
        dmt_error("cannot detach %s: %s", c->dir, strerror(errno));
    holder_conn_release(c);
}

void holder_conn_describe(const struct holder_conn *c, struct dmt_hp_msg *m)
{
    memset(m, 0, sizeof(*m));
    m->type = DMT_HP_FUSE;
    m->flags = (c->fuseblk ? DMT_HP_SYNCFS : 0) | (c->ro ? DMT_HP_RDONLY : 0);
    m->instance = c->instance;
    m->dev = c->dev;
    (void)snprintf(m->dir, sizeof(m->dir), "%s", c->dir);
    memcpy(m->init, c->init, c->init_len);
    m->init_len = c->init_len;
    m->fd = c->fd;
}
