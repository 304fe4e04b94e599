/* extract_write.c: what was extracted of a branch, as plain files below a directory.
 *
 * Every file that the branch touched is written at its path: the names that the branch gave it
 * first, then those of the snapshot; further names become links. Owner, mode, xattrs and times
 * follow as far as the caller may set them. Files whose content may not be whole here are left out
 * and counted. Failure: the first error ends it; `where` says at which file. Thread: pool; blocks.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/workspace/extract_int.h"

static int make_parents(char *path, size_t from)
{
    for (char *p = path + from + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        int r = mkdir(path, 0755);
        *p = '/';
        if (r < 0 && errno != EEXIST)
            return -errno;
    }
    return 0;
}

static int write_bytes(struct extract *x, const struct dmt_inode *n, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int r = fd < 0 ? -errno : 0;
    for (uint64_t off = 0; r == 0 && off < n->size;) {
        int64_t data = dmt_store_seek(x->scratch.st, DMT_LIVE, n->ino, off, n->size, true);
        if (data == -ENXIO)
            break;
        ssize_t got = data < 0 ? (ssize_t)data
                               : ws_view_read(&x->scratch, DMT_LIVE, n->ino, x->chunk,
                                              EXTRACT_CHUNK, (uint64_t)data, false);
        if (got <= 0 || pwrite(fd, x->chunk, (size_t)got, data) != got)
            r = got < 0 ? (int)got : -EIO;
        off = (uint64_t)(data + got);
    }
    if (r == 0 && ftruncate(fd, (off_t)n->size) < 0)
        r = -errno;
    if (fd >= 0 && close(fd) < 0 && r == 0)
        r = -errno;
    return r;
}

/* Owner and xattrs as far as the caller may set them; the content is what counts. */
static void write_attrs(struct extract *x, const struct dmt_inode *n, const char *path)
{
    struct timespec ts[2] = {dmt_file_time(n->atime), dmt_file_time(n->mtime)};
    struct ws_xattrs xs = {0};
    if (n->flags & DMT_INO_XATTR)
        (void)ws_xattrs(&x->scratch, DMT_LIVE, n->ino, &xs);
    for (size_t i = 0; i < xs.n; i++)
        (void)lsetxattr(path, xs.v[i].name, xs.v[i].val, xs.v[i].len, 0);
    ws_xattrs_free(&xs);
    if (lchown(path, n->uid, n->gid) < 0)
        dmt_debug("%s: owner not set: %s", path, strerror(errno));
    if (!S_ISLNK(n->mode))
        (void)chmod(path, n->mode & 07777);
    (void)utimensat(AT_FDCWD, path, ts, AT_SYMLINK_NOFOLLOW);
}

static int write_one(struct extract *x, const struct dmt_inode *n, const char *path)
{
    char target[4096];
    int r = 0;
    if (S_ISLNK(n->mode)) {
        r = ws_view_link_locked(&x->scratch, DMT_LIVE, n, target);
        if (r == 0 && symlink(target, path) < 0)
            r = -errno;
    } else if (S_ISREG(n->mode)) {
        r = write_bytes(x, n, path);
    } else {
        return 0; /* devices and sockets have no content to save */
    }
    if (r == 0)
        write_attrs(x, n, path);
    return r;
}

static char *path_of(struct extract *x, uint64_t ino, unsigned depth);

static char *named_path(struct extract *x, const struct extract_name *n, unsigned depth)
{
    char *path = NULL, *dir = path_of(x, n->parent, depth + 1);
    if (dir && asprintf(&path, "%s/%s", dir, n->name) < 0)
        path = NULL;
    free(dir);
    return path;
}

/* Path below the workspace: names given by the branch first, then those of the snapshot. */
static char *path_of(struct extract *x, uint64_t ino, unsigned depth)
{
    char **paths = NULL;
    if (depth > DMT_PATH_MAX)
        return NULL;
    if (ino == DMT_ROOT)
        return strdup("");
    for (size_t at = ws_map_get(&x->named, ino); at; at = x->names[at - 1].next)
        if (x->names[at - 1].name)
            return named_path(x, &x->names[at - 1], depth);
    if (ws_paths(x->ws, x->view, &ino, 1, &paths) < 0)
        return NULL;
    char *path = paths[0];
    free(paths);
    return path;
}

/* The file at its path, and its other names that the branch gave as links. */
static int write_names(struct extract *x, const struct dmt_inode *n, const char *dir)
{
    char *first = NULL, *path = NULL, *below = path_of(x, n->ino, 0);
    int r = 0;
    if (!below)
        return 0;
    if (asprintf(&first, "%s%s", dir, below) < 0)
        first = NULL;
    r = first ? make_parents(first, strlen(dir)) : -ENOMEM;
    if (r == 0)
        r = write_one(x, n, first);
    if (r < 0)
        (void)snprintf(x->where, sizeof(x->where), "inode %" PRIu64 " at %.256s", n->ino, below);
    for (size_t at = ws_map_get(&x->named, n->ino); r == 0 && at; at = x->names[at - 1].next) {
        free(below);
        below = x->names[at - 1].name ? named_path(x, &x->names[at - 1], 0) : NULL;
        if (!below || asprintf(&path, "%s%s", dir, below) < 0)
            continue;
        r = make_parents(path, strlen(dir));
        if (r == 0 && link(first, path) < 0 && errno != EEXIST && errno != ENOENT)
            r = -errno;
        free(path);
    }
    free(below);
    free(first);
    return r;
}

int ws_extract_write(struct extract *x, const char *dir)
{
    struct dmt_inode n;
    int r = 0;
    for (size_t i = 0; r == 0 && i < x->seen.cap; i++) {
        uint64_t ino = x->seen.keys[i];
        if (!ino || x->seen.vals[i] != 1 ||
            dmt_store_inode_get(x->scratch.st, DMT_LIVE, ino, &n) < 0 || n.nlink == 0)
            continue;
        if (!x->have_bulk && ws_extract_is_lost(x, ino))
            x->left_out++;
        else
            r = write_names(x, &n, dir);
    }
    return r;
}
