/* local_disk.c: the files of a local host: DIR/hosts/NAME/.
 *
 * Owns that directory: etc (upper layer over this machine's /etc), work (overlayfs's own), dumont
 * (becomes /etc/dumont), var, home, root-home, mnt, srv, media, tmp: what survives a power cut of
 * the host. `root` is the mount point of the host's root and is empty here. DIR/hosts.txt is
 * /etc/hosts of all. Happy path: make, inject, use, remove. Making again is harmless: a host that
 * was powered off comes back with its disk. Files are injected by names below the directories above
 * only, never through "..". Thread: main.
 */
#include "daemon/provider/local.h"

#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/io.h"

void local_disk_path(const struct local_cloud_conf *c, const char *name, const char *sub,
                     char ret[PATH_MAX])
{
    (void)snprintf(ret, PATH_MAX, "%.*s/hosts/%s%s%s", LOCAL_PATH_MAX, c->dir, name,
                   sub[0] ? "/" : "", sub);
}

int local_disk_make(const struct local_cloud_conf *c, const struct local_host *h,
                    struct dmt_err *err)
{
    static const struct {
        const char *sub;
        mode_t mode;
    } dirs[] = {{"root", 0755},
                {"etc", 0755},
                {"work", 0700},
                {"dumont", 0755},
                {"dumont/tls", 0700},
                {"dumont/workspaces", 0755},
                {"var", 0755},
                {"var/lib", 0755},
                {"var/lib/dumont", 0700},
                {"var/log", 0755},
                {"var/log/dumont", 0755},
                {"var/cache", 0755},
                {"var/tmp", 01777},
                {"home", 0755},
                {"root-home", 0700},
                {"mnt", 0755},
                {"srv", 0755},
                {"media", 0755},
                {"tmp", 01777}};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
        local_disk_path(c, h->name, dirs[i].sub, path);
        int r = dmt_io_mkdirs(dmt_io_real(), path, 0755);
        if (r < 0)
            return dmt_err_set(err, r, "cannot make %s: %s", path, strerror(-r));
        (void)chmod(path, dirs[i].mode);
    }
    local_disk_path(c, h->name, "var/run", path);
    if (symlink("/run", path) < 0 && errno != EEXIST)
        return dmt_err_set(err, -errno, "symlink %s: %s", path, strerror(errno));
    /* The host starts with an fstab of its own, not this machine's. */
    local_disk_path(c, h->name, "etc/fstab", path);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0)
        return dmt_err_set(err, -errno, "cannot make %s: %s", path, strerror(errno));
    close(fd);
    /* Mount points within /etc must exist in the upper layer. */
    local_disk_path(c, h->name, "etc/dumont", path);
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return dmt_err_set(err, -errno, "cannot make %s: %s", path, strerror(errno));
    return 0;
}

/* Where a path of the host lies on its disk; 0 or -EINVAL. */
static int host_to_disk(const struct local_cloud_conf *c, const char *name, const char *in_host,
                        char ret[PATH_MAX])
{
    static const struct {
        const char *host, *sub;
    } map[] = {{"/etc/dumont/", "dumont/"}, {"/etc/", "etc/"},        {"/var/", "var/"},
               {"/home/", "home/"},         {"/root/", "root-home/"}, {"/mnt/", "mnt/"},
               {"/srv/", "srv/"},           {"/tmp/", "tmp/"}};
    if (strstr(in_host, "/../") || strlen(in_host) > 512)
        return -EINVAL;
    for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++) {
        size_t n = strlen(map[i].host);
        if (strncmp(in_host, map[i].host, n) == 0 && in_host[n]) {
            char sub[600];
            (void)snprintf(sub, sizeof(sub), "%s%s", map[i].sub, in_host + n);
            local_disk_path(c, name, sub, ret);
            return 0;
        }
    }
    return -EINVAL;
}

int local_disk_inject(const struct local_cloud_conf *c, const char *name, const json_t *files,
                      struct dmt_err *err)
{
    const char *in_host;
    json_t *v;
    json_object_foreach((json_t *)files, in_host, v)
    {
        char path[PATH_MAX], dir[PATH_MAX];
        if (!json_is_string(v) || host_to_disk(c, name, in_host, path) < 0)
            return dmt_err_set(err, -EINVAL, "cannot put a file at %s in a host", in_host);
        memcpy(dir, path, sizeof(dir));
        *strrchr(dir, '/') = '\0';
        int r = dmt_io_mkdirs(dmt_io_real(), dir, 0755);
        size_t n = strlen(in_host);
        bool secret = strstr(in_host, "/tls/") || strstr(in_host, "credentials") ||
                      (n > 4 && strcmp(in_host + n - 4, ".key") == 0);
        if (r == 0)
            r = dmt_io_write_file(dmt_io_real(), path, json_string_value(v), json_string_length(v),
                                  secret ? 0600 : 0644);
        if (r < 0)
            return dmt_err_set(err, r, "cannot write %s: %s", path, dmt_strerror(r));
    }
    return 0;
}

static int rm_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    int r = type == FTW_DP ? rmdir(path) : unlink(path);
    return r < 0 && errno != ENOENT ? -1 : 0;
}

int local_rm_rf(const char *path)
{
    /* FTW_MOUNT: never into a file system that is mounted there. */
    if (nftw(path, rm_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0 || errno == ENOENT)
        return 0;
    return -errno;
}

void local_disk_remove(const struct local_cloud_conf *c, const char *name)
{
    char path[PATH_MAX];
    local_disk_path(c, name, "", path);
    (void)local_rm_rf(path);
}

int local_disk_hosts(const struct local_cloud_conf *c, const struct local_host *h, int n,
                     struct dmt_err *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%.*s/hosts.txt", LOCAL_PATH_MAX, c->dir);
    /* Written in place: hosts have this inode mounted. */
    FILE *f = fopen(path, "we");
    if (!f)
        return dmt_err_set(err, -errno, "cannot write %s: %s", path, strerror(errno));
    fprintf(f, "127.0.0.1 localhost\n::1 localhost\n%s.1 cloud\n", c->prefix);
    for (int i = 0; i < n; i++)
        if (h[i].number)
            fprintf(f, "%s.%d %s\n", c->prefix, h[i].number, h[i].name);
    return fclose(f) == 0 ? 0 : dmt_err_set(err, -EIO, "cannot write %s", path);
}
