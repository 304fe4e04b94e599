/* branch_copy.c: branches as files: read for the other machine, copied from it, removed.
 *
 * Happy path of a copy: dmt_ws_branch_copy_open says where its files end, _put appends pieces (past
 * the page cache, zeros as holes), _end makes all of it durable, reads it as a journal (checksums,
 * chain), compares where it ends, and renames the folder. A crash in between leaves NAME.copy,
 * which goes on; should its files be wrong after a power cut, _end says so, and the caller drops
 * it.
 * Happy path of a removal: NAME.removed is made, durable, then the folder's files go; a crash in
 * between leaves a folder that counts as removed and goes with the next listing. Failure: the
 * disk's errors as they are; a disk with less than a sixteenth free is full for a copy, so that it
 * never takes the workspace's last room.
 * Thread: any, blocks; one writer of a copy at a time (its caller).
 */
#include "fs/workspace/branch_copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/io.h"
#include "fs/workspace/ws.h"

#define KEEP_FREE 16 /* one such part of the disk is left to the workspace */

static const char *const suffixes[] = {".new", ".copy", ".scratch", ".removed", ".tmp"};

static bool ends_with(const char *name, size_t n, const char *end)
{
    size_t k = strlen(end);
    return n >= k && memcmp(name + n - k, end, k) == 0;
}

bool dmt_branch_name_ok(const char *name, size_t n)
{
    if (n == 0 || n > DMT_BRANCH_NAME_MAX || name[0] == '.')
        return false;
    for (size_t i = 0; i < n; i++)
        if (name[i] < '!' || name[i] > '~' || name[i] == '/')
            return false;
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++)
        if (ends_with(name, n, suffixes[i]))
            return false;
    return true;
}

static int path_of(struct dmt_ws *ws, const char *name, const char *suffix, char path[DMT_PATH_MAX])
{
    return dmt_branch_name_ok(name, strlen(name)) ? ws_branch_path(ws, name, suffix, path)
                                                  : -EINVAL;
}

static bool there(const char *path)
{
    return access(path, F_OK) == 0;
}

/* A folder of a branch: it has files only. */
static int remove_folder(const struct dmt_io *io, const char *dir)
{
    char path[DMT_PATH_MAX + 256];
    DIR *d = opendir(dir);
    int r = d ? 0 : -errno;
    for (struct dirent *e; r == 0 && (e = readdir(d));) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            r = io->unlink(io->ctx, path);
    }
    if (d)
        closedir(d);
    if (r == 0 && rmdir(dir) < 0)
        r = -errno;
    return r == -ENOENT ? 0 : r;
}

/* --- what there is ---------------------------------------------------------------------------- */

int dmt_ws_branch_names(struct dmt_ws *ws, int (*fn)(void *ctx, const char *name, bool removed),
                        void *ctx)
{
    char dir[DMT_PATH_MAX], path[DMT_PATH_MAX], name[DMT_BRANCH_NAME_MAX + 1];
    (void)snprintf(dir, sizeof(dir), "%s/branches", ws->conf.dir);
    DIR *d = opendir(dir);
    int r = d || errno == ENOENT ? 0 : -errno;
    for (struct dirent *e; r == 0 && d && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        bool removed = ends_with(e->d_name, n, ".removed");
        n -= removed ? strlen(".removed") : 0;
        if (!dmt_branch_name_ok(e->d_name, n))
            continue;
        memcpy(name, e->d_name, n);
        name[n] = '\0';
        if (!removed && ws_branch_path(ws, name, ".removed", path) == 0 && there(path)) {
            if (ws_branch_path(ws, name, "", path) == 0)
                (void)remove_folder(ws->conf.io, path);
            continue;
        }
        r = fn(ctx, name, removed);
    }
    if (d)
        closedir(d);
    return r;
}

int dmt_ws_branch_remove(struct dmt_ws *ws, const char *name, bool must_be, struct dmt_err *err)
{
    const struct dmt_io *io = ws->conf.io;
    char dir[DMT_PATH_MAX], mark[DMT_PATH_MAX], copy[DMT_PATH_MAX], parent[DMT_PATH_MAX];
    int r = path_of(ws, name, "", dir);
    if (r == 0)
        r = path_of(ws, name, ".removed", mark);
    if (r == 0)
        r = path_of(ws, name, ".copy", copy);
    if (r < 0 || (must_be && (!there(dir) || there(mark)))) {
        dmt_err_set(err, r < 0 ? r : -ENOENT, "there is no branch \"%.210s\" here", name);
        return dmt_err_hint(err, "`dumont snapshot list` shows them");
    }
    (void)snprintf(parent, sizeof(parent), "%s", dir);
    *strrchr(parent, '/') = '\0';
    r = dmt_io_mkdirs(io, parent, 0700);
    if (r == 0)
        r = dmt_io_write_file(io, mark, "", 0, 0600);
    if (r == 0)
        r = remove_folder(io, dir);
    if (r == 0)
        r = remove_folder(io, copy);
    if (r == 0)
        r = io->sync_dir(io->ctx, parent);
    return r < 0 ? dmt_err_set(err, r, "the branch %s cannot be removed: %s", name, dmt_strerror(r))
                 : 0;
}

/* --- its files -------------------------------------------------------------------------------- */

struct files {
    uint64_t *serial;
    uint32_t n;
};

static int by_serial(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int list_files(const char *dir, struct files *ret)
{
    DIR *d = opendir(dir);
    int r = d ? 0 : -errno;
    *ret = (struct files){0};
    for (struct dirent *e; r == 0 && (e = readdir(d));) {
        char again[32];
        uint64_t serial = strtoull(e->d_name, NULL, 16);
        (void)snprintf(again, sizeof(again), "%016" PRIx64 ".seg", serial);
        if (strcmp(again, e->d_name) != 0)
            continue;
        uint64_t *v =
            ret->n < DMT_BRANCH_FILES_MAX ? realloc(ret->serial, (ret->n + 1) * sizeof(*v)) : NULL;
        if (!v) {
            r = ret->n < DMT_BRANCH_FILES_MAX ? -ENOMEM : -EFBIG;
            break;
        }
        ret->serial = v;
        v[ret->n++] = serial;
    }
    if (d)
        closedir(d);
    if (ret->n > 0)
        qsort(ret->serial, ret->n, sizeof(ret->serial[0]), by_serial);
    return r;
}

/* A descriptor; *ret_size: of the file. */
static int open_file(const struct dmt_io *io, const char *dir, uint64_t serial, int flags,
                     uint64_t *ret_size)
{
    char path[DMT_PATH_MAX + 32];
    struct stat st;
    (void)snprintf(path, sizeof(path), "%s/%016" PRIx64 ".seg", dir, serial);
    int fd = io->open(io->ctx, path, flags, 0600);
    if (fd < 0)
        return fd;
    int r = io->fstat(io->ctx, fd, &st);
    if (r < 0)
        io->close(io->ctx, fd);
    *ret_size = r < 0 ? 0 : (uint64_t)st.st_size;
    return r < 0 ? r : fd;
}

/* --- reading ---------------------------------------------------------------------------------- */

static int read_piece(const struct dmt_io *io, const char *dir, const struct files *f,
                      struct dmt_branch_piece *p, void *buf, uint64_t most)
{
    for (p->len = 0; p->file < f->n; p->file++, p->off = 0) {
        p->serial = f->serial[p->file];
        int fd = open_file(io, dir, p->serial, O_RDONLY, &p->size);
        if (fd < 0)
            return fd;
        uint64_t left = p->size > p->off ? p->size - p->off : 0;
        ssize_t n = left == 0
                        ? 0
                        : io->pread(io->ctx, fd, buf, (size_t)(left < most ? left : most), p->off);
        io->close(io->ctx, fd);
        if (n != 0 || p->size > DMT_BRANCH_FILE_MAX) {
            p->len = n > 0 ? (uint64_t)n : 0;
            return n < 0 ? (int)n : p->size > DMT_BRANCH_FILE_MAX ? -EFBIG : 0;
        }
    }
    return 0;
}

static int nothing(void *ctx, const struct dmt_rec *r)
{
    (void)ctx;
    (void)r;
    return 0;
}

int dmt_ws_branch_read(struct dmt_ws *ws, const char *name, struct dmt_branch_piece *p, void *buf,
                       uint64_t most, struct dmt_pos *tail)
{
    const struct dmt_io *io = ws->conf.io;
    char dir[DMT_PATH_MAX], mark[DMT_PATH_MAX];
    struct files f = {0};
    int r = path_of(ws, name, "", dir);
    if (r == 0)
        r = path_of(ws, name, ".removed", mark);
    if (r == 0 && there(mark))
        r = -ENOENT;
    if (r == 0)
        r = list_files(dir, &f);
    if (r == 0)
        r = read_piece(io, dir, &f, p, buf, most);
    if (r == 0 && p->len == 0) {
        p->file = f.n;
        r = dmt_journal_check(io, dir, NULL, NULL, tail, nothing, NULL, NULL);
        r = r == 0 ? -ENOENT : r < 0 ? r : 0;
    }
    free(f.serial);
    return r;
}

/* --- copying ---------------------------------------------------------------------------------- */

int dmt_ws_branch_copy_open(struct dmt_ws *ws, const char *name, struct dmt_branch_piece *ret)
{
    const struct dmt_io *io = ws->conf.io;
    char dir[DMT_PATH_MAX];
    struct files f = {0};
    *ret = (struct dmt_branch_piece){0};
    int r = path_of(ws, name, ".copy", dir);
    if (r == 0)
        r = dmt_io_mkdirs(io, dir, 0700);
    if (r == 0)
        r = list_files(dir, &f);
    if (r == 0 && f.n > 0) {
        ret->file = f.n - 1;
        ret->serial = f.serial[f.n - 1];
        int fd = open_file(io, dir, ret->serial, O_RDONLY, &ret->off);
        if (fd >= 0)
            io->close(io->ctx, fd);
        r = fd < 0 ? fd : 0;
    }
    free(f.serial);
    return r;
}

static bool is_zero(const uint8_t *p, uint64_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, (size_t)n - 1) == 0);
}

int ws_branch_room(struct dmt_ws *ws, uint64_t bytes)
{
    uint64_t total, left;
    int r = dmt_store_space(ws->st, &total, &left);
    return r == 0 && left < total / KEEP_FREE + bytes ? -ENOSPC : r;
}

int dmt_ws_branch_copy_put(struct dmt_ws *ws, const char *name, const struct dmt_branch_piece *p,
                           const void *buf)
{
    const struct dmt_io *io = ws->conf.io;
    char dir[DMT_PATH_MAX];
    uint64_t size;
    int r = path_of(ws, name, ".copy", dir);
    if (r == 0)
        r = ws_branch_room(ws, p->len);
    if (r < 0)
        return r;
    int fd = open_file(io, dir, p->serial, O_WRONLY | O_CREAT, &size);
    if (fd < 0)
        return fd;
    if (size != p->off)
        r = DMT_E_CORRUPT;         /* not what we asked to go on with */
    else if (is_zero(buf, p->len)) /* what a segment has room for, and does not use */
        r = io->ftruncate(io->ctx, fd, p->off + p->len);
    else
        r = (int)io->pwrite_long(io->ctx, fd, buf, (size_t)p->len, p->off, false);
    io->close(io->ctx, fd);
    return r < 0 ? r : 0;
}

static int sync_files(const struct dmt_io *io, const char *dir, const struct files *f)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < f->n; i++) {
        uint64_t size;
        int fd = open_file(io, dir, f->serial[i], O_RDWR, &size);
        r = fd < 0 ? fd : io->fdatasync(io->ctx, fd);
        if (fd >= 0)
            io->close(io->ctx, fd);
    }
    return r < 0 ? r : io->sync_dir(io->ctx, dir);
}

int dmt_ws_branch_copy_end(struct dmt_ws *ws, const char *name, uint32_t files,
                           const struct dmt_pos *tail)
{
    const struct dmt_io *io = ws->conf.io;
    char tmp[DMT_PATH_MAX], dir[DMT_PATH_MAX], parent[DMT_PATH_MAX];
    struct files f = {0};
    struct dmt_pos end = {0};
    int r = path_of(ws, name, ".copy", tmp);
    if (r == 0)
        r = path_of(ws, name, "", dir);
    if (r == 0)
        r = list_files(tmp, &f);
    if (r == 0 && f.n != files)
        r = DMT_E_CORRUPT;
    if (r == 0)
        r = sync_files(io, tmp, &f);
    free(f.serial);
    if (r == 0)
        r = dmt_journal_check(io, tmp, NULL, NULL, &end, nothing, NULL, NULL);
    if (r >= 0)
        r = r == 1 && end.epoch == tail->epoch && end.seq == tail->seq && end.chain == tail->chain
                ? 0
                : DMT_E_HISTORY;
    if (r < 0)
        return r;
    (void)snprintf(parent, sizeof(parent), "%s", dir);
    *strrchr(parent, '/') = '\0';
    r = io->rename(io->ctx, tmp, dir);
    return r < 0 ? r : io->sync_dir(io->ctx, parent);
}

void dmt_ws_branch_copy_drop(struct dmt_ws *ws, const char *name)
{
    char dir[DMT_PATH_MAX];
    if (path_of(ws, name, ".copy", dir) == 0)
        (void)remove_folder(ws->conf.io, dir);
}
