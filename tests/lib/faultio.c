/* faultio.c: see faultio.h. The operations of the seam, and what tests ask of them.
 *
 * Each operation takes the lock, asks faultio_enter whether it may happen, does it on the real
 * file, and notes in the disk model (faultio_disk.c) what is now pending or durable. A cut is
 * restored by emptying the real directory and writing files anew.
 *
 * Failure modes: the twin itself aborts when the real disk does not do as told: a test could not
 * mean anything then. Thread: any; f->lock around everything, given up only while an operation is
 * held.
 */
#include "tests/lib/faultio_int.h"

/* --- passing, failing, cutting, holding ------------------------------------------------------- */

static int log2_of(unsigned kind)
{
    int i = 0;
    while (kind >>= 1)
        i++;
    return i;
}

/* Called with the lock at the start of each operation: 0, or the error it fails with. *cut: it is
 * the one that was cut. */
int faultio_enter(struct faultio *f, unsigned kind, const char *path, bool *cut)
{
    *cut = false;
    bool concerned = !f->match || (path && strstr(path, f->match));
    if ((f->hold_mask & kind) && concerned && !f->is_cut) {
        f->held++;
        pthread_cond_broadcast(&f->cond);
        while ((f->hold_mask & kind) && !f->is_cut)
            pthread_cond_wait(&f->cond, &f->lock);
        f->held--;
    }
    if (f->is_cut)
        return -EIO;
    if (kind & FAULTIO_ALL) {
        if (f->watch)
            f->watch(f->watch_ctx, kind, path);
        f->counts[log2_of(kind)]++;
        if (f->cut_in > 0 && --f->cut_in == 0) {
            f->is_cut = true;
            *cut = true;
            pthread_cond_broadcast(&f->cond);
            return -EIO;
        }
    }
    concerned = !f->match || (path && strstr(path, f->match));
    if ((f->fail_mask & kind) && concerned && f->fail_times > 0) {
        if (f->fail_in > 1) {
            f->fail_in--;
            return 0;
        }
        if (f->fail_times != UINT64_MAX)
            f->fail_times--;
        f->failed++;
        return -f->fail_errno;
    }
    return 0;
}

int faultio_take(struct faultio *f, uint64_t from, uint64_t to)
{
    if (f->space == UINT64_MAX || to <= from)
        return 0;
    if (to - from > f->space)
        return -ENOSPC;
    f->space -= to - from;
    return 0;
}

void faultio_give(struct faultio *f, uint64_t from, uint64_t to)
{
    if (f->space != UINT64_MAX && to < from)
        f->space += from - to;
}

const char *faultio_below(const struct faultio *f, const char *path)
{
    return strncmp(path, f->root, f->root_len) == 0 ? path + f->root_len : NULL;
}

/* Names outside the root are no part of the disk. */
static void note_name(struct faultio *f, enum dirop_kind kind, const char *from, const char *to,
                      struct file *file)
{
    to = faultio_below(f, to);
    from = from ? faultio_below(f, from) : NULL;
    if (to && (from || kind != DIROP_RENAME))
        faultio_dirop(&f->disk, kind, from, to, file);
}

static const char *path_of(const struct faultio *f, int fd)
{
    return fd >= 0 && fd < FDS_MAX ? f->fd_paths[fd] : NULL;
}

static int f_open(void *ctx, const char *path, int flags, mode_t mode)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    bool exists = access(path, F_OK) == 0;
    bool counted = (flags & O_CREAT && !exists) || (flags & O_TRUNC);
    int r = counted ? faultio_enter(f, FAULTIO_CREATE, path, &cut) : f->is_cut ? -EIO : 0;
    if (r < 0)
        goto out;
    struct stat st;
    int fd = open(path, flags | O_CLOEXEC, mode);
    r = fd < 0 ? -errno : fd;
    if (fd < 0)
        goto out;
    MUST(fd < FDS_MAX && fstat(fd, &st) == 0);
    if (!S_ISREG(st.st_mode))
        goto out;
    struct file *file = faultio_file(&f->disk, st.st_ino);
    file->users++;
    f->fds[fd] = file;
    f->fd_paths[fd] = faultio_dup(path);
    if (!exists)
        note_name(f, DIROP_CREATE, NULL, path, file);
    else if (flags & O_TRUNC)
        faultio_change(file, 0, NULL, 0);
out:
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_close(void *ctx, int fd)
{
    struct faultio *f = ctx;
    pthread_mutex_lock(&f->lock);
    if (fd >= 0 && fd < FDS_MAX && f->fds[fd]) {
        faultio_forget(&f->disk, f->fds[fd]);
        f->fds[fd] = NULL;
        free(f->fd_paths[fd]);
        f->fd_paths[fd] = NULL;
    }
    int r = close(fd) < 0 ? -errno : 0;
    pthread_mutex_unlock(&f->lock);
    return r;
}

static ssize_t f_pread(void *ctx, int fd, void *buf, size_t len, uint64_t off)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    ssize_t r = faultio_enter(f, FAULTIO_READ, path_of(f, fd), &cut);
    pthread_mutex_unlock(&f->lock);
    return r < 0 ? r : dmt_io_real()->pread(NULL, fd, buf, len, off);
}

static uint64_t size_of(int fd)
{
    struct stat st;
    MUST(fstat(fd, &st) == 0);
    return (uint64_t)st.st_size;
}

static uint64_t end_of(const struct iovec *iov, int n, uint64_t off)
{
    for (int i = 0; i < n; i++)
        off += iov[i].iov_len;
    return off;
}

static ssize_t f_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t off)
{
    struct faultio *f = ctx;
    bool cut;
    uint64_t at = off;
    pthread_mutex_lock(&f->lock);
    ssize_t r = faultio_enter(f, FAULTIO_WRITE, path_of(f, fd), &cut);
    if (r == 0)
        r = faultio_take(f, size_of(fd), end_of(iov, n, off));
    for (int i = 0; (r == 0 || cut) && i < n; i++) {
        if (iov[i].iov_len == 0)
            continue;
        MUST(f->fds[fd]);
        faultio_change(f->fds[fd], at, iov[i].iov_base, iov[i].iov_len);
        ssize_t w = dmt_io_real()->pwrite(NULL, fd, iov[i].iov_base, iov[i].iov_len, at);
        MUST(w == (ssize_t)iov[i].iov_len);
        at += iov[i].iov_len;
    }
    pthread_mutex_unlock(&f->lock);
    return r < 0 ? r : (ssize_t)(at - off);
}

static ssize_t f_pwrite(void *ctx, int fd, const void *buf, size_t len, uint64_t off)
{
    struct iovec iov = {(void *)(uintptr_t)buf, len};
    return f_pwritev(ctx, fd, &iov, 1, off);
}

static ssize_t f_pwrite_long(void *ctx, int fd, const void *buf, size_t len, uint64_t off,
                             bool keep)
{
    (void)keep;
    return f_pwrite(ctx, fd, buf, len, off);
}

static int f_sync(void *ctx, int fd)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = faultio_enter(f, FAULTIO_SYNC, path_of(f, fd), &cut);
    MUST(r < 0 || f->fds[fd]);
    if (!f->is_cut)
        faultio_synced(f->fds[fd], r == 0);
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_ftruncate(void *ctx, int fd, uint64_t len)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = faultio_enter(f, FAULTIO_TRUNCATE, path_of(f, fd), &cut);
    if (r == 0) {
        faultio_give(f, size_of(fd), len);
        r = dmt_io_real()->ftruncate(NULL, fd, len);
        if (r == 0)
            faultio_change(f->fds[fd], 0, NULL, len);
    }
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_fallocate(void *ctx, int fd, int mode, uint64_t off, uint64_t len)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = faultio_enter(f, FAULTIO_FALLOCATE, path_of(f, fd), &cut);
    if (r == 0 && !(mode & FALLOC_FL_PUNCH_HOLE))
        r = faultio_take(f, size_of(fd), off + len);
    if (r == 0)
        r = dmt_io_real()->fallocate(NULL, fd, mode, off, len);
    struct stat st;
    if (r == 0 && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        uint8_t *zeros = faultio_alloc(len);
        MUST(fstat(fd, &st) == 0);
        uint64_t end = off + len < (uint64_t)st.st_size ? off + len : (uint64_t)st.st_size;
        if (off < end)
            faultio_change(f->fds[fd], off, zeros, end - off);
        free(zeros);
    } else if (r == 0 && !(mode & FALLOC_FL_KEEP_SIZE)) {
        MUST(fstat(fd, &st) == 0);
        faultio_change(f->fds[fd], 0, NULL, (uint64_t)st.st_size);
    }
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_fstat(void *ctx, int fd, struct stat *st)
{
    struct faultio *f = ctx;
    pthread_mutex_lock(&f->lock);
    int r = f->is_cut ? -EIO : fstat(fd, st) < 0 ? -errno : 0;
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_rename(void *ctx, const char *from, const char *to)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = faultio_enter(f, FAULTIO_RENAME, to, &cut);
    struct stat st;
    ino_t replaced = r == 0 && stat(to, &st) == 0 && S_ISREG(st.st_mode) ? st.st_ino : 0;
    if (r == 0)
        r = rename(from, to) < 0 ? -errno : 0;
    if (r == 0) {
        /* As for unlink: the kernel may give the number of the replaced file away. */
        if (replaced != 0)
            faultio_file(&f->disk, replaced)->ino = 0;
        MUST(stat(to, &st) == 0);
        if (S_ISREG(st.st_mode))
            note_name(f, DIROP_RENAME, from, to, faultio_file(&f->disk, st.st_ino));
    }
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_unlink(void *ctx, const char *path)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = access(path, F_OK) < 0 && !f->is_cut ? -errno
                                                 : faultio_enter(f, FAULTIO_UNLINK, path, &cut);
    struct stat st;
    if (r == 0) {
        /* Held by the operation, so that the inode number means this file as long as a crash may
         * bring it back. */
        MUST(stat(path, &st) == 0 && st.st_nlink == 1);
        struct file *file = faultio_file(&f->disk, st.st_ino);
        note_name(f, DIROP_UNLINK, NULL, path, file);
        file->ino = 0;
        faultio_give(f, (uint64_t)st.st_size, 0);
        MUST(unlink(path) == 0);
    }
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_mkdir(void *ctx, const char *path, mode_t mode)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = access(path, F_OK) == 0 ? -EEXIST : faultio_enter(f, FAULTIO_MKDIR, path, &cut);
    if (r == 0)
        r = mkdir(path, mode) < 0 ? -errno : 0;
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_sync_dir(void *ctx, const char *path)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = faultio_enter(f, FAULTIO_SYNC_DIR, path, &cut);
    if (r == 0 && faultio_below(f, path))
        faultio_sync_names(&f->disk, faultio_below(f, path));
    pthread_mutex_unlock(&f->lock);
    return r;
}

/* --- life ------------------------------------------------------------------------------------- */

struct faultio *faultio_new(const char *root, uint64_t seed)
{
    pthread_mutexattr_t attr;
    struct faultio *f = faultio_alloc(sizeof(*f));
    f->io = (struct dmt_io){f,        f_open,  f_close,     f_pread,      f_pwrite, f_pwritev,
                            f_sync,   f_sync,  f_ftruncate, f_fallocate,  f_fstat,  f_rename,
                            f_unlink, f_mkdir, f_sync_dir,  f_pwrite_long};
    f->root = faultio_dup(root);
    f->root_len = strlen(root);
    f->space = UINT64_MAX;
    f->random = seed * 2654435761u + 88172645463325252ull;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&f->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    pthread_cond_init(&f->cond, NULL);
    faultio_adopt(&f->disk, root);
    faultvfs_add(f);
    return f;
}

void faultio_free(struct faultio *f)
{
    faultvfs_remove(f);
    for (int fd = 0; fd < FDS_MAX; fd++)
        free(f->fd_paths[fd]);
    faultio_disk_free(&f->disk);
    pthread_cond_destroy(&f->cond);
    pthread_mutex_destroy(&f->lock);
    free(f->root);
    free(f);
}

const struct dmt_io *faultio_io(struct faultio *f)
{
    return &f->io;
}

uint64_t faultio_count(struct faultio *f, unsigned mask)
{
    uint64_t n = 0;
    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < 16; i++)
        if (mask & (1u << i))
            n += f->counts[i];
    pthread_mutex_unlock(&f->lock);
    return n;
}

void faultio_fail(struct faultio *f, unsigned mask, uint64_t nth, uint64_t times, int errno_code)
{
    pthread_mutex_lock(&f->lock);
    f->fail_mask = mask;
    f->fail_in = nth;
    f->fail_times = times;
    f->fail_errno = errno_code;
    pthread_mutex_unlock(&f->lock);
}

uint64_t faultio_failed(struct faultio *f)
{
    pthread_mutex_lock(&f->lock);
    uint64_t n = f->failed;
    pthread_mutex_unlock(&f->lock);
    return n;
}

void faultio_match(struct faultio *f, const char *part)
{
    pthread_mutex_lock(&f->lock);
    f->match = part;
    pthread_mutex_unlock(&f->lock);
}

void faultio_cut_at(struct faultio *f, uint64_t nth)
{
    pthread_mutex_lock(&f->lock);
    f->cut_in = nth;
    pthread_mutex_unlock(&f->lock);
}

bool faultio_is_cut(struct faultio *f)
{
    pthread_mutex_lock(&f->lock);
    bool cut = f->is_cut;
    pthread_mutex_unlock(&f->lock);
    return cut;
}

void faultio_cut(struct faultio *f)
{
    pthread_mutex_lock(&f->lock);
    f->is_cut = true;
    f->cut_in = 0;
    pthread_cond_broadcast(&f->cond);
    pthread_mutex_unlock(&f->lock);
}

void faultio_restore(struct faultio *f, enum faultio_mode mode)
{
    pthread_mutex_lock(&f->lock);
    if (mode != FAULTIO_KILL) {
        faultio_settle(&f->disk, mode, &f->random);
        faultio_write_out(&f->disk, f->root);
    }
    f->is_cut = false;
    f->cut_in = 0;
    f->fail_mask = 0;
    f->fail_times = 0;
    f->hold_mask = 0;
    f->space = UINT64_MAX;
    pthread_mutex_unlock(&f->lock);
}

void faultio_space(struct faultio *f, uint64_t bytes)
{
    pthread_mutex_lock(&f->lock);
    f->space = bytes;
    pthread_mutex_unlock(&f->lock);
}

uint64_t faultio_space_left(struct faultio *f)
{
    pthread_mutex_lock(&f->lock);
    uint64_t left = f->space;
    pthread_mutex_unlock(&f->lock);
    return left;
}

void faultio_watch(struct faultio *f, faultio_watch_fn fn, void *ctx)
{
    pthread_mutex_lock(&f->lock);
    f->watch = fn;
    f->watch_ctx = ctx;
    pthread_mutex_unlock(&f->lock);
}

void faultio_hold(struct faultio *f, unsigned mask)
{
    pthread_mutex_lock(&f->lock);
    f->hold_mask = mask;
    pthread_mutex_unlock(&f->lock);
}

void faultio_release(struct faultio *f)
{
    pthread_mutex_lock(&f->lock);
    f->hold_mask = 0;
    pthread_cond_broadcast(&f->cond);
    pthread_mutex_unlock(&f->lock);
}

void faultio_wait_held(struct faultio *f, unsigned n)
{
    pthread_mutex_lock(&f->lock);
    while (f->held < n)
        pthread_cond_wait(&f->cond, &f->lock);
    pthread_mutex_unlock(&f->lock);
}
