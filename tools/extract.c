/* extract.c: writes a workspace's tree as plain files. Happy path: walk the directories depth
 * first; make each entry; a second name of an inode becomes a hard link; owners, modes, xattrs and
 * times last (directories after their children, or their mtime would not stay).
 * Failure: the first one ends it, with the path in the message; what is there stays for a look. One
 * thread.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "fs/base/limits.h"
#include "tools/restore.h"

#define CHUNK (1u << 20)

struct entry {
    char name[256];
    struct dmt_attr at;
};

struct listing {
    struct entry *v;
    size_t n, cap;
    int err;
};

struct seen {
    uint64_t node;
    char *path;
};

struct extract {
    struct dmt_ws *ws;
    struct dmt_err *err;
    uint8_t *buf;
    struct seen *seen; /* open addressing; files with more than one name */
    size_t seen_n, seen_cap;
    uint64_t files;
};

static int whine(struct extract *x, int code, const char *path)
{
    return dmt_err_set(x->err, code, "cannot write %s: %s", path, dmt_strerror(code));
}

static const char **seen_slot(struct extract *x, uint64_t node)
{
    if (2 * x->seen_n >= x->seen_cap) {
        size_t cap = x->seen_cap ? 2 * x->seen_cap : 1024;
        struct seen *old = x->seen;
        size_t old_cap = x->seen_cap;
        x->seen = calloc(cap, sizeof *x->seen);
        x->seen_cap = cap;
        for (size_t i = 0; i < old_cap; i++) {
            size_t k = (size_t)(old[i].node * 0x9e3779b97f4a7c15ull) & (cap - 1);
            while (old[i].node && x->seen[k].node)
                k = (k + 1) & (cap - 1);
            if (old[i].node)
                x->seen[k] = old[i];
        }
        free(old);
    }
    size_t k = (size_t)(node * 0x9e3779b97f4a7c15ull) & (x->seen_cap - 1);
    while (x->seen[k].node && x->seen[k].node != node)
        k = (k + 1) & (x->seen_cap - 1);
    if (!x->seen[k].node) {
        x->seen[k].node = node;
        x->seen_n++;
    }
    return (const char **)&x->seen[k].path;
}

static int copy_xattrs(struct extract *x, uint64_t node, const char *path)
{
    char names[65536], value[65536];
    ssize_t n = dmt_ws_listxattr(x->ws, node, names, sizeof names, true);
    for (ssize_t i = 0; i < n; i += (ssize_t)strlen(names + i) + 1) {
        ssize_t k = dmt_ws_getxattr(x->ws, node, names + i, value, sizeof value);
        if (k < 0)
            return whine(x, (int)k, path);
        if (lsetxattr(path, names + i, value, (size_t)k, 0) != 0 && errno != ENOTSUP)
            return whine(x, -errno, path);
    }
    return n < 0 && n != -ENOTSUP ? whine(x, (int)n, path) : 0;
}

/* Owner, mode, xattrs, times: in this order, since chown clears bits and xattrs change nothing
 * after. */
static int finish(struct extract *x, const struct dmt_attr *at, const char *path)
{
    const struct stat *st = &at->st;
    struct timespec ts[2] = {st->st_atim, st->st_mtim};
    if (lchown(path, st->st_uid, st->st_gid) != 0)
        return whine(x, -errno, path);
    int rc = copy_xattrs(x, at->node, path);
    if (rc != 0)
        return rc;
    if (!S_ISLNK(st->st_mode) && chmod(path, st->st_mode & 07777) != 0)
        return whine(x, -errno, path);
    if (utimensat(AT_FDCWD, path, ts, AT_SYMLINK_NOFOLLOW) != 0)
        return whine(x, -errno, path);
    x->files++;
    return 0;
}

static int copy_data(struct extract *x, const struct dmt_attr *at, const char *path)
{
    uint64_t size = (uint64_t)at->st.st_size, off = 0;
    int rc = 0, fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return whine(x, -errno, path);
    while (rc == 0 && off < size) {
        int64_t data = dmt_ws_seek(x->ws, at->node, off, SEEK_DATA);
        if (data == -ENXIO)
            break;
        off = data < 0 ? off : (uint64_t)data;
        ssize_t n = dmt_ws_read(x->ws, at->node, x->buf, CHUNK, off, false);
        if (n <= 0)
            rc = n < 0 ? (int)n : 0;
        if (n <= 0)
            break;
        if (pwrite(fd, x->buf, (size_t)n, (off_t)off) != n)
            rc = errno ? -errno : -EIO;
        off += (uint64_t)n;
    }
    if (rc == 0 && ftruncate(fd, (off_t)size) != 0)
        rc = -errno;
    if (close(fd) != 0 && rc == 0)
        rc = -errno;
    return rc == 0 ? 0 : whine(x, rc, path);
}

static int add(void *ctx, const char *name, uint64_t node, uint32_t type, uint64_t cookie,
               const struct dmt_attr *at)
{
    struct listing *l = ctx;
    (void)node;
    (void)type;
    (void)cookie;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || !at)
        return 0;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        struct entry *v = realloc(l->v, cap * sizeof *v);
        if (!v) {
            l->err = -ENOMEM;
            return 1;
        }
        l->v = v;
        l->cap = cap;
    }
    snprintf(l->v[l->n].name, sizeof l->v[l->n].name, "%s", name);
    l->v[l->n++].at = *at;
    return 0;
}

static int extract_dir(struct extract *x, uint64_t node, const char *path);

static int extract_one(struct extract *x, const struct entry *e, const char *path)
{
    const struct stat *st = &e->at.st;
    int rc = 0;
    if (S_ISDIR(st->st_mode)) {
        if (mkdir(path, 0700) != 0)
            return whine(x, -errno, path);
        rc = extract_dir(x, e->at.node, path);
        return rc == 0 ? finish(x, &e->at, path) : rc;
    }
    if (st->st_nlink > 1) {
        const char **first = seen_slot(x, e->at.node);
        if (*first)
            return link(*first, path) == 0 ? 0 : whine(x, -errno, path);
        *first = strdup(path);
    }
    if (S_ISREG(st->st_mode)) {
        rc = copy_data(x, &e->at, path);
    } else if (S_ISLNK(st->st_mode)) {
        char target[4096];
        rc = dmt_ws_readlink(x->ws, e->at.node, target);
        if (rc != 0 || symlink(target, path) != 0)
            return whine(x, rc != 0 ? rc : -errno, path);
    } else if (mknod(path, st->st_mode, st->st_rdev) != 0) {
        return whine(x, -errno, path);
    }
    return rc == 0 ? finish(x, &e->at, path) : rc;
}

static int extract_dir(struct extract *x, uint64_t node, const char *path)
{
    struct listing l = {0};
    char *child = malloc(DMT_PATH_MAX);
    int rc = dmt_ws_readdir(x->ws, node, 0, true, add, &l);
    if (rc == 0)
        rc = child ? l.err : -ENOMEM;
    if (rc != 0)
        whine(x, rc, path);
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        if (snprintf(child, DMT_PATH_MAX, "%s/%s", path, l.v[i].name) >= (int)DMT_PATH_MAX)
            rc = whine(x, -ENAMETOOLONG, path);
        else
            rc = extract_one(x, &l.v[i], child);
    }
    free(l.v);
    free(child);
    return rc;
}

int extract_tree(struct dmt_ws *ws, uint64_t view, const char *dir, uint64_t *ret_files,
                 struct dmt_err *err)
{
    struct extract x = {.ws = ws, .err = err, .buf = malloc(CHUNK)};
    struct dmt_attr root;
    uint64_t node = view == DMT_LIVE ? DMT_ROOT : view;
    int rc = x.buf ? dmt_ws_getattr(ws, node, &root) : -ENOMEM;
    if (rc == 0)
        rc = extract_dir(&x, node, dir);
    else
        dmt_err_set(err, rc, "cannot read the workspace: %s", dmt_strerror(rc));
    if (rc == 0)
        rc = finish(&x, &root, dir);
    for (size_t i = 0; i < x.seen_cap; i++)
        free(x.seen[i].path);
    free(x.seen);
    free(x.buf);
    if (rc == 0 && ret_files)
        *ret_files = x.files;
    return rc;
}
