/* file.c: the archive in a plain directory (file:///DIR).
 *
 * Owns: nothing but names. An object is the file DIR/KEY. Happy path of put: write
 * DIR/…/.NAME.RANDOM.tmp, fsync it, link(2) it to its final name (link never overwrites:
 * immutability is the kernel's), fsync the directory, drop the temporary name, read the object back
 * and compare. Failure modes: a crash leaves at most a file whose name starts with '.': it is no
 * object and may be deleted by anybody. A filesystem without hard links (exFAT, some network ones)
 * gets renameat2(RENAME_NOREPLACE). DIR itself is created, but not its parents: a backup disk that
 * is not mounted must be an error, not a full root disk. link(2), renameat2 and readdir are not in
 * the io seam; everything that moves bytes or makes them durable is. Thread: the caller's. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/archive/objstore_int.h"
#include "fs/base/hash.h"
#include "fs/base/limits.h"

struct file_store {
    struct dmt_objstore os;
    char dir[DMT_OBJ_KEY_MAX];
};

static const struct file_store *file_of(const struct dmt_objstore *os)
{
    return (const struct file_store *)(const void *)os;
}

static void file_path(const struct dmt_objstore *os, const char *key, char path[DMT_PATH_MAX])
{
    snprintf(path, DMT_PATH_MAX, "%s/%s", file_of(os)->dir, key);
}

static int file_error(struct dmt_err *err, int r, const char *what, const char *path)
{
    return dmt_err_set(err, r, "archive directory: cannot %s %s: %s", what, path, dmt_strerror(r));
}

/* Opens an object for reading and tells its size. */
static int object_open(const struct dmt_objstore *os, const char *path, uint64_t *ret_size,
                       struct dmt_err *err)
{
    const struct dmt_io *io = os->conf.io;
    struct stat st;
    int fd = io->open(io->ctx, path, O_RDONLY, 0);
    if (fd == -ENOENT) {
        /* "Not there" only if the archive's place is: a disk that is not mounted must not look like
         * an empty archive. */
        char parent[DMT_OBJ_KEY_MAX];
        snprintf(parent, sizeof(parent), "%s", file_of(os)->dir);
        char *slash = strrchr(parent, '/');
        slash[slash == parent ? 1 : 0] = 0;
        int top = io->open(io->ctx, parent, O_RDONLY | O_DIRECTORY, 0);
        if (top < 0) {
            dmt_err_set(err, DMT_E_CONFIG, "archive directory %s is not there", file_of(os)->dir);
            dmt_err_hint(err, "%s must exist; is its disk mounted?", parent);
            return DMT_E_CONFIG;
        }
        io->close(io->ctx, top);
        return dmt_err_set(err, -ENOENT, "no object %s", path);
    }
    if (fd < 0)
        return file_error(err, fd, "open", path);
    int r = io->fstat(io->ctx, fd, &st);
    if (r || !S_ISREG(st.st_mode)) {
        io->close(io->ctx, fd);
        return file_error(err, r ? r : -EINVAL, "read", path);
    }
    *ret_size = (uint64_t)st.st_size;
    return fd;
}

/* 0 when the object holds exactly p[0..len), 1 when it holds something else, < 0 error (-ENOENT:
 * absent). */
static int object_compare(const struct dmt_objstore *os, const char *path, const uint8_t *p,
                          size_t len, struct dmt_err *err)
{
    const struct dmt_io *io = os->conf.io;
    uint8_t buf[65536];
    uint64_t size;
    int fd = object_open(os, path, &size, err);
    if (fd < 0)
        return fd;
    int r = size != len;
    for (size_t at = 0; at < len && !r;) {
        size_t want = len - at < sizeof(buf) ? len - at : sizeof(buf);
        ssize_t n = io->pread(io->ctx, fd, buf, want, at);
        if (n < 0)
            r = file_error(err, (int)n, "read", path);
        else if (n == 0 || memcmp(buf, p + at, (size_t)n) != 0)
            r = 1;
        else
            at += (size_t)n;
    }
    io->close(io->ctx, fd);
    return r;
}

/* Creates the directories of path below (and with) the archive's own, each made durable in its
 * parent. */
static int dirs_make(const struct dmt_objstore *os, const char *path, struct dmt_err *err)
{
    const struct dmt_io *io = os->conf.io;
    char dir[DMT_PATH_MAX], parent[DMT_PATH_MAX];
    size_t top = strlen(file_of(os)->dir);
    for (const char *p = path + top; (p = strchr(p, '/')); p++) {
        snprintf(dir, sizeof(dir), "%.*s", (int)(p - path), path);
        int r = io->mkdir(io->ctx, dir, 0700);
        if (r == -EEXIST)
            continue;
        snprintf(parent, sizeof(parent), "%s", dir);
        char *slash = strrchr(parent, '/');
        slash[slash == parent ? 1 : 0] = 0;
        if (!r)
            r = io->sync_dir(io->ctx, parent);
        if (r) {
            file_error(err, r == -ENOENT ? DMT_E_CONFIG : r, "create", dir);
            dmt_err_hint(err, "%s must exist; is its disk mounted?", parent);
            return r == -ENOENT ? DMT_E_CONFIG : r;
        }
    }
    return 0;
}

static int publish(const char *tmp, const char *path)
{
    if (!link(tmp, path))
        return 0;
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EMLINK)
        return -errno;
    return renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_NOREPLACE) ? -errno : 0;
}

static int file_write(const struct dmt_objstore *os, const char *path, const void *p, size_t len,
                      struct dmt_err *err)
{
    const struct dmt_io *io = os->conf.io;
    char dir[DMT_PATH_MAX], tmp[DMT_PATH_MAX + 64], hex[17];
    uint8_t rnd[8];
    dmt_random(rnd, sizeof(rnd));
    dmt_hex(rnd, sizeof(rnd), hex);
    const char *name = strrchr(path, '/') + 1;
    snprintf(dir, sizeof(dir), "%.*s", (int)(name - 1 - path), path);
    snprintf(tmp, sizeof(tmp), "%s/.%s.%s.tmp", dir, name, hex);
    int fd = io->open(io->ctx, tmp, O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (fd < 0)
        return file_error(err, fd, "create", tmp);
    ssize_t n = len ? io->pwrite(io->ctx, fd, p, len, 0) : 0;
    int r = n < 0 ? (int)n : io->fsync(io->ctx, fd);
    int rc = io->close(io->ctx, fd);
    if (!r)
        r = rc;
    if (r)
        file_error(err, r, "write", tmp);
    if (!r && (r = publish(tmp, path)) && r != -EEXIST)
        file_error(err, r, "name", path);
    io->unlink(io->ctx, tmp);
    if (!r && (r = io->sync_dir(io->ctx, dir)))
        file_error(err, r, "sync", dir);
    return r;
}

static int file_put(struct dmt_objstore *os, const char *key, const void *p, size_t len,
                    struct dmt_err *err)
{
    char path[DMT_PATH_MAX];
    file_path(os, key, path);
    int r = dirs_make(os, path, err);
    if (r)
        return r;
    r = object_compare(os, path, p, len, NULL);
    if (r == -ENOENT) {
        r = file_write(os, path, p, len, err);
        if (r && r != -EEXIST)
            return r;
        r = object_compare(os, path, p, len, err);
        if (r == 1)
            return dmt_err_set(err, DMT_E_CORRUPT,
                               "object %s reads back differently from what was written", path);
    }
    if (r == 1)
        return dmt_err_set(
            err, -EEXIST, "object %s exists with other content; archive objects are never replaced",
            path);
    return r;
}

static int file_get(struct dmt_objstore *os, const char *key, uint64_t off, uint64_t len,
                    struct dmt_buf *out, struct dmt_err *err)
{
    const struct dmt_io *io = os->conf.io;
    char path[DMT_PATH_MAX];
    uint64_t size;
    file_path(os, key, path);
    int fd = object_open(os, path, &size, err), r = 0;
    if (fd < 0)
        return fd;
    uint64_t n = off < size ? size - off : 0;
    if (len && len < n)
        n = len;
    if (n > DMT_OBJ_BYTES_MAX)
        r = dmt_err_set(err, -EFBIG, "object %s is larger than any of ours", path);
    uint8_t *dst = r ? NULL : dmt_buf_reserve(out, (size_t)n);
    if (!r && !dst)
        r = -ENOMEM;
    for (uint64_t at = 0; at < n && !r;) {
        ssize_t got = io->pread(io->ctx, fd, dst + at, (size_t)(n - at), off + at);
        if (got < 0)
            r = file_error(err, (int)got, "read", path);
        else if (!got)
            r = dmt_err_set(err, DMT_E_CORRUPT, "object %s became shorter while it was read", path);
        else
            at += (uint64_t)got;
    }
    io->close(io->ctx, fd);
    return r;
}

static int file_head(struct dmt_objstore *os, const char *key, uint64_t *ret_size,
                     struct dmt_err *err)
{
    char path[DMT_PATH_MAX];
    file_path(os, key, path);
    int fd = object_open(os, path, ret_size, err);
    if (fd < 0)
        return fd;
    os->conf.io->close(os->conf.io->ctx, fd);
    return 0;
}

/* Depth-first over rel (below the archive directory, "" or "a/b"). */
static int list_dir(const struct dmt_objstore *os, const char *rel, const char *prefix,
                    dmt_obj_key_fn fn, void *ctx)
{
    char path[DMT_PATH_MAX], key[DMT_OBJ_KEY_MAX + 257];
    int r = 0;
    file_path(os, rel, path);
    DIR *d = opendir(path);
    if (!d)
        return errno == ENOENT ? 0 : -errno;
    for (struct dirent *e; !r && (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] == '.')
            continue;
        int n = snprintf(key, sizeof(key), "%s%s%s", rel, rel[0] ? "/" : "", e->d_name);
        if (n < 0 || (size_t)n > DMT_OBJ_KEY_MAX ||
            fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
            continue;
        size_t pn = strlen(prefix), kn = (size_t)n;
        if (S_ISDIR(st.st_mode) && !strncmp(key, prefix, pn < kn ? pn : kn))
            r = list_dir(os, key, prefix, fn, ctx);
        else if (S_ISREG(st.st_mode) && !strncmp(key, prefix, pn))
            r = fn(ctx, key, (uint64_t)st.st_size);
    }
    closedir(d);
    return r;
}

static int file_list(struct dmt_objstore *os, const char *prefix, dmt_obj_key_fn fn, void *ctx,
                     struct dmt_err *err)
{
    int r = list_dir(os, "", prefix, fn, ctx);
    return r < 0 ? file_error(err, r, "list", file_of(os)->dir) : r;
}

static int file_del(struct dmt_objstore *os, const char *key, struct dmt_err *err)
{
    char path[DMT_PATH_MAX];
    file_path(os, key, path);
    int r = os->conf.io->unlink(os->conf.io->ctx, path);
    return r && r != -ENOENT ? file_error(err, r, "delete", path) : 0;
}

static void file_close(struct dmt_objstore *os)
{
    free(os);
}

static const struct objstore_ops file_ops = {
    .scheme = "file",
    .put = file_put,
    .get = file_get,
    .head = file_head,
    .list = file_list,
    .del = file_del,
    .close = file_close,
};

int objstore_file_open(struct dmt_objstore **ret, const struct objstore_url *u, struct dmt_err *err)
{
    struct file_store *f = calloc(1, sizeof(*f));
    if (!f)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    f->os.ops = &file_ops;
    snprintf(f->dir, sizeof(f->dir), "%s", u->path);
    *ret = &f->os;
    return 0;
}
