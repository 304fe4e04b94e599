/* io.c: the real disk, and whole small files through any disk.
 *
 * Owns nothing: descriptors belong to the callers. The happy path is one system call a method.
 * Short reads and writes and EINTR are finished here, so that callers see all or an error. fsync
 * and fdatasync are NOT retried after EIO: the kernel has dropped the dirty pages by then and a
 * second call would report success for data that is gone. Thread: any.
 */
#include "fs/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/limits.h"
#include "fs/base/log.h"

static int real_open(void *ctx, const char *path, int flags, mode_t mode)
{
    (void)ctx;
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

static int real_close(void *ctx, int fd)
{
    (void)ctx;
    /* Linux frees the descriptor even when close is interrupted; calling again could close somebody
     * else's. */
    return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

static ssize_t real_pread(void *ctx, int fd, void *buf, size_t len, uint64_t off)
{
    (void)ctx;
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(off + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static ssize_t real_pwrite(void *ctx, int fd, const void *buf, size_t len, uint64_t off)
{
    (void)ctx;
    size_t done = 0;
    while (done < len) {
        ssize_t n = pwrite(fd, (const char *)buf + done, len - done, (off_t)(off + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80 /* Linux 6.14 */
#endif

static ssize_t real_pwrite_long(void *ctx, int fd, const void *buf, size_t len, uint64_t off,
                                bool keep)
{
    struct iovec iov = {(void *)(uintptr_t)buf, len};
    ssize_t n = keep ? -1 : pwritev2(fd, &iov, 1, (off_t)off, RWF_DONTCACHE);
    if (n == (ssize_t)len)
        return n;
    /* Wanted in memory; or an older kernel, a filesystem without it, or not all at once: errors
     * come from the ordinary call. */
    n = real_pwrite(ctx, fd, buf, len, off);
    if (n == (ssize_t)len)
        (void)sync_file_range(fd, (off_t)off, (off_t)len, SYNC_FILE_RANGE_WRITE);
    return n;
}

/* Finishes a pwritev that stopped after `done` bytes, piece by piece. */
static ssize_t finish_pwritev(int fd, const struct iovec *iov, int n, uint64_t off, size_t done)
{
    size_t before = 0;
    for (int i = 0; i < n; i++) {
        size_t len = iov[i].iov_len;
        if (done < before + len) {
            size_t skip = done - before;
            ssize_t w =
                real_pwrite(NULL, fd, (const char *)iov[i].iov_base + skip, len - skip, off + done);
            if (w < 0)
                return w;
            done += (size_t)w;
        }
        before += len;
    }
    return (ssize_t)done;
}

static ssize_t real_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t off)
{
    (void)ctx;
    size_t total = 0;
    for (int at = 0; at < n; at += IOV_MAX) {
        int part = n - at < IOV_MAX ? n - at : IOV_MAX;
        size_t want = 0;
        for (int i = 0; i < part; i++)
            want += iov[at + i].iov_len;
        ssize_t w;
        do
            w = pwritev(fd, iov + at, part, (off_t)(off + total));
        while (w < 0 && errno == EINTR);
        if (w < 0)
            return -errno;
        if ((size_t)w < want) {
            w = finish_pwritev(fd, iov + at, part, off + total, (size_t)w);
            if (w < 0)
                return w;
        }
        total += want;
    }
    return (ssize_t)total;
}

static int real_fdatasync(void *ctx, int fd)
{
    (void)ctx;
    return fdatasync(fd) < 0 ? -errno : 0;
}

static int real_fsync(void *ctx, int fd)
{
    (void)ctx;
    return fsync(fd) < 0 ? -errno : 0;
}

static int real_ftruncate(void *ctx, int fd, uint64_t len)
{
    (void)ctx;
    int r;
    do
        r = ftruncate(fd, (off_t)len);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

static int real_fallocate(void *ctx, int fd, int mode, uint64_t off, uint64_t len)
{
    (void)ctx;
    int r;
    do
        r = fallocate(fd, mode, (off_t)off, (off_t)len);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

static int real_fstat(void *ctx, int fd, struct stat *st)
{
    (void)ctx;
    return fstat(fd, st) < 0 ? -errno : 0;
}

static int real_rename(void *ctx, const char *from, const char *to)
{
    (void)ctx;
    return rename(from, to) < 0 ? -errno : 0;
}

static int real_unlink(void *ctx, const char *path)
{
    (void)ctx;
    return unlink(path) < 0 ? -errno : 0;
}

static int real_mkdir(void *ctx, const char *path, mode_t mode)
{
    (void)ctx;
    return mkdir(path, mode) < 0 ? -errno : 0;
}

static int real_sync_dir(void *ctx, const char *path)
{
    int fd = real_open(ctx, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    int r = real_fsync(ctx, fd);
    (void)real_close(ctx, fd);
    return r;
}

const struct dmt_io *dmt_io_real(void)
{
    static const struct dmt_io real = {
        .open = real_open,
        .close = real_close,
        .pread = real_pread,
        .pwrite = real_pwrite,
        .pwritev = real_pwritev,
        .fdatasync = real_fdatasync,
        .fsync = real_fsync,
        .ftruncate = real_ftruncate,
        .fallocate = real_fallocate,
        .fstat = real_fstat,
        .rename = real_rename,
        .unlink = real_unlink,
        .mkdir = real_mkdir,
        .sync_dir = real_sync_dir,
        .pwrite_long = real_pwrite_long,
    };
    return &real;
}

int dmt_io_read_file(const struct dmt_io *io, const char *path, size_t size_max, char **ret_buf,
                     size_t *ret_len)
{
    char *buf = NULL;
    int fd = io->open(io->ctx, path, O_RDONLY, 0);
    if (fd < 0)
        return fd;
    /* st_size is only where to begin: files of /proc say 0, and a file may grow while it is read.
     */
    struct stat st;
    int r = io->fstat(io->ctx, fd, &st);
    if (r < 0)
        goto out;
    r = -EISDIR;
    if (S_ISDIR(st.st_mode))
        goto out;
    r = -EFBIG;
    if (st.st_size > 0 && (uint64_t)st.st_size > size_max)
        goto out;
    size_t len = 0, room = st.st_size > 0 ? (size_t)st.st_size + 1 : 4096;
    for (;;) {
        if (room > size_max + 1)
            room = size_max + 1; /* one byte too many shows that the file is too long */
        char *grown = realloc(buf, room + 1);
        r = -ENOMEM;
        if (!grown)
            goto out;
        buf = grown;
        ssize_t n = io->pread(io->ctx, fd, buf + len, room - len, len);
        r = (int)n;
        if (n < 0)
            goto out;
        len += (size_t)n;
        r = -EFBIG;
        if (len > size_max)
            goto out;
        if (len < room)
            break;
        room *= 2;
    }
    buf[len] = '\0';
    *ret_buf = buf;
    if (ret_len)
        *ret_len = len;
    buf = NULL;
    r = 0;
out:
    free(buf);
    (void)io->close(io->ctx, fd);
    return r;
}

/* The directory part of path, "." for none; 0 or -ENAMETOOLONG. */
static int parent_of(const char *path, char ret[DMT_PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= DMT_PATH_MAX)
        return -ENAMETOOLONG;
    if (!slash)
        n = (size_t)snprintf(ret, DMT_PATH_MAX, ".");
    else if (n == 0)
        n = (size_t)snprintf(ret, DMT_PATH_MAX, "/");
    else
        memcpy(ret, path, n);
    ret[n] = '\0';
    return 0;
}

int dmt_io_write_file(const struct dmt_io *io, const char *path, const void *buf, size_t len,
                      mode_t mode)
{
    char tmp[DMT_PATH_MAX], dir[DMT_PATH_MAX];
    int n = snprintf(tmp, sizeof(tmp), "%s.tmp", path);
    if (n < 0 || (size_t)n >= sizeof(tmp))
        return -ENAMETOOLONG;
    int r = parent_of(path, dir);
    if (r < 0)
        return r;
    /* A leftover of a crash may have other permissions; a new file gets exactly `mode` (before
     * umask). */
    r = io->unlink(io->ctx, tmp);
    if (r < 0 && r != -ENOENT)
        return r;
    int fd = io->open(io->ctx, tmp, O_WRONLY | O_CREAT | O_EXCL, mode);
    if (fd < 0)
        return fd;
    ssize_t w = len > 0 ? io->pwrite(io->ctx, fd, buf, len, 0) : 0;
    r = w < 0 ? (int)w : io->fsync(io->ctx, fd);
    int r_close = io->close(io->ctx, fd);
    if (r == 0)
        r = r_close;
    if (r == 0)
        r = io->rename(io->ctx, tmp, path);
    if (r < 0) {
        (void)io->unlink(io->ctx, tmp);
        return r;
    }
    return io->sync_dir(io->ctx, dir);
}

int dmt_io_mkdirs(const struct dmt_io *io, const char *path, mode_t mode)
{
    char part[DMT_PATH_MAX];
    size_t len = strlen(path);
    if (len == 0)
        return -EINVAL;
    if (len >= sizeof(part))
        return -ENAMETOOLONG;
    memcpy(part, path, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        char keep = part[i];
        part[i] = '\0';
        int r = io->mkdir(io->ctx, part, mode);
        /* EROFS, EACCES: the kernel may say so for a directory that is there; the next component or
         * use will tell. */
        if (r < 0 && r != -EEXIST && !(keep == '/' && (r == -EROFS || r == -EACCES || r == -EPERM)))
            return r;
        part[i] = keep;
    }
    /* EEXIST also stands for a plain file of that name. */
    int fd = io->open(io->ctx, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    return io->close(io->ctx, fd);
}
