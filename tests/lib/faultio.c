/* faultio.c: see faultio.h.
 *
 * Owns, per file that was ever touched, an object with the durable content and the pending changes
 * (found by inode number), and two lists of names: what the directory shows is in the real
 * directory, what a power cut would leave is `names`, with the changes not yet synced in `dirops`.
 * A cut is restored by emptying the real directory and writing files anew.
 *
 * Failure modes: the twin itself aborts when the real disk does not do as told: a test could not
 * mean anything then. Thread: any; f->lock around everything, given up only while an operation is
 * held.
 */
#include "tests/lib/faultio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/log.h"

#define PAGE    4096u
#define SECTOR  512u
#define FDS_MAX 4096

/* A change of a file that no sync has covered: bytes, or (data NULL) a new size. */
struct change {
    struct change *next;
    uint64_t off, len;
    uint8_t *data;
};

struct file {
    struct file *next;
    ino_t ino;
    int users;     /* descriptors and names; 0: may be forgotten */
    uint8_t *disk; /* durable content */
    uint64_t size;
    struct change *changes, **changes_end;
};

struct name {
    struct name *next;
    char *path;
    struct file *file;
};

enum dirop_kind { DIROP_CREATE, DIROP_RENAME, DIROP_UNLINK };
struct dirop {
    struct dirop *next;
    enum dirop_kind kind;
    char *from, *to; /* to: the name concerned; from: of a rename */
    struct file *file;
};

struct faultio {
    struct dmt_io io;
    char *root;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    uint64_t random;
    struct file *files;
    struct name *names; /* durable */
    struct dirop *dirops, **dirops_end;
    struct file *fds[FDS_MAX];
    char *fd_paths[FDS_MAX];
    const char *match; /* see faultio_match */
    uint64_t counts[16];
    uint64_t cut_in; /* counted operations until the cut; 0 none */
    bool is_cut;
    unsigned fail_mask, hold_mask, held;
    uint64_t fail_in, fail_times;
    int fail_errno;
};

/* The real disk must do what it is told. */
#define MUST(cond) DMT_ASSERT(cond)

static uint64_t next_random(struct faultio *f)
{
    uint64_t x = f->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return f->random = x;
}

static void *must_alloc(size_t n)
{
    void *p = calloc(1, n ? n : 1);
    MUST(p);
    return p;
}

static char *must_dup(const char *s)
{
    char *p = strdup(s);
    MUST(p);
    return p;
}

/* --- content
 * ------------------------------------------------------------------------------------------ */

static void set_size(uint8_t **data, uint64_t *size, uint64_t to)
{
    if (to == *size)
        return;
    *data = realloc(*data, to + 1);
    MUST(*data);
    if (to > *size)
        memset(*data + *size, 0, to - *size);
    *size = to;
}

static void put_bytes(struct file *file, uint64_t off, const uint8_t *p, uint64_t n)
{
    if (off + n > file->size)
        set_size(&file->disk, &file->size, off + n);
    memcpy(file->disk + off, p, n);
}

static void apply_change(struct file *file, const struct change *c)
{
    if (c->data)
        put_bytes(file, c->off, c->data, c->len);
    else
        set_size(&file->disk, &file->size, c->len);
}

static void drop_changes(struct file *file, bool apply)
{
    while (file->changes) {
        struct change *c = file->changes;
        if (apply)
            apply_change(file, c);
        file->changes = c->next;
        free(c->data);
        free(c);
    }
    file->changes_end = &file->changes;
}

static void add_change(struct file *file, uint64_t off, const uint8_t *data, uint64_t len)
{
    struct change *c = must_alloc(sizeof(*c));
    c->off = off;
    c->len = len;
    if (data) {
        c->data = must_alloc(len);
        memcpy(c->data, data, len);
    }
    *file->changes_end = c;
    file->changes_end = &c->next;
}

/* One page of a pending write: there, not there, or some sectors of it. */
static void settle_page(struct faultio *f, struct file *file, const struct change *c, uint64_t at,
                        uint64_t n)
{
    uint64_t dice = next_random(f) % 8;
    if (dice < 3)
        return;
    if (dice > 3) {
        put_bytes(file, c->off + at, c->data + at, n);
        return;
    }
    for (uint64_t s = 0; s < n;) {
        uint64_t pos = c->off + at + s, len = SECTOR - pos % SECTOR;
        if (len > n - s)
            len = n - s;
        if (next_random(f) & 1)
            put_bytes(file, pos, c->data + at + s, len);
        s += len;
    }
}

static void settle_change(struct faultio *f, struct file *file, const struct change *c)
{
    if (!c->data) {
        if (next_random(f) & 1)
            apply_change(file, c);
        return;
    }
    for (uint64_t at = 0; at < c->len;) {
        uint64_t n = PAGE - (c->off + at) % PAGE;
        if (n > c->len - at)
            n = c->len - at;
        settle_page(f, file, c, at, n);
        at += n;
    }
}

static void settle_file(struct faultio *f, struct file *file, enum faultio_mode mode)
{
    if (mode == FAULTIO_RANDOM)
        for (const struct change *c = file->changes; c; c = c->next)
            settle_change(f, file, c);
    drop_changes(file, mode == FAULTIO_KEEP);
}

/* --- files and names
 * ------------------------------------------------------------------------------------ */

static struct file *file_of(struct faultio *f, ino_t ino)
{
    for (struct file *x = f->files; x; x = x->next)
        if (x->ino == ino)
            return x;
    struct file *x = must_alloc(sizeof(*x));
    x->ino = ino;
    x->disk = must_alloc(1);
    x->changes_end = &x->changes;
    x->next = f->files;
    f->files = x;
    return x;
}

static void forget_file(struct faultio *f, struct file *file)
{
    if (--file->users > 0)
        return;
    struct file **at = &f->files;
    while (*at != file)
        at = &(*at)->next;
    *at = file->next;
    drop_changes(file, false);
    free(file->disk);
    free(file);
}

static struct name **find_name(struct faultio *f, const char *path)
{
    struct name **at = &f->names;
    while (*at && strcmp((*at)->path, path) != 0)
        at = &(*at)->next;
    return at;
}

static void unset_name(struct faultio *f, const char *path)
{
    struct name **at = find_name(f, path), *n = *at;
    if (!n)
        return;
    *at = n->next;
    forget_file(f, n->file);
    free(n->path);
    free(n);
}

static void set_name(struct faultio *f, const char *path, struct file *file)
{
    file->users++;
    unset_name(f, path);
    struct name *n = must_alloc(sizeof(*n));
    n->path = must_dup(path);
    n->file = file;
    n->next = f->names;
    f->names = n;
}

static void free_dirop(struct faultio *f, struct dirop *d)
{
    if (d->file)
        forget_file(f, d->file);
    free(d->from);
    free(d->to);
    free(d);
}

static void apply_dirop(struct faultio *f, const struct dirop *d)
{
    if (d->kind == DIROP_RENAME)
        unset_name(f, d->from);
    if (d->kind == DIROP_UNLINK)
        unset_name(f, d->to);
    else
        set_name(f, d->to, d->file);
}

static void add_dirop(struct faultio *f, enum dirop_kind kind, const char *from, const char *to,
                      struct file *file)
{
    struct dirop *d = must_alloc(sizeof(*d));
    d->kind = kind;
    d->from = from ? must_dup(from) : NULL;
    d->to = must_dup(to);
    d->file = file;
    if (file)
        file->users++;
    *f->dirops_end = d;
    f->dirops_end = &d->next;
}

static bool in_dir(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return path && strncmp(path, dir, n) == 0 && path[n] == '/' && !strchr(path + n + 1, '/');
}

/* Changes of names up to the last one that concerns dir become durable: file systems with a journal
 * keep their order. */
static void sync_names(struct faultio *f, const char *dir)
{
    struct dirop *last = NULL;
    for (struct dirop *d = f->dirops; d; d = d->next)
        if (in_dir(d->to, dir) || in_dir(d->from, dir))
            last = d;
    while (last && f->dirops) {
        struct dirop *d = f->dirops;
        bool end = d == last;
        apply_dirop(f, d);
        f->dirops = d->next;
        free_dirop(f, d);
        if (end)
            break;
    }
    if (!f->dirops)
        f->dirops_end = &f->dirops;
}

/* --- passing, failing, cutting, holding
 * ---------------------------------------------------------------- */

static int log2_of(unsigned kind)
{
    int i = 0;
    while (kind >>= 1)
        i++;
    return i;
}

/* Called with the lock at the start of each operation: 0, or the error it fails with. *cut: it is
 * the one that was cut. */
static int enter(struct faultio *f, unsigned kind, const char *path, bool *cut)
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
        return -f->fail_errno;
    }
    return 0;
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
    int r = counted ? enter(f, FAULTIO_CREATE, path, &cut) : f->is_cut ? -EIO : 0;
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
    struct file *file = file_of(f, st.st_ino);
    file->users++;
    f->fds[fd] = file;
    f->fd_paths[fd] = must_dup(path);
    if (!exists)
        add_dirop(f, DIROP_CREATE, NULL, path, file);
    else if (flags & O_TRUNC)
        add_change(file, 0, NULL, 0);
out:
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_close(void *ctx, int fd)
{
    struct faultio *f = ctx;
    pthread_mutex_lock(&f->lock);
    if (fd >= 0 && fd < FDS_MAX && f->fds[fd]) {
        forget_file(f, f->fds[fd]);
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
    ssize_t r = enter(f, FAULTIO_READ, path_of(f, fd), &cut);
    pthread_mutex_unlock(&f->lock);
    return r < 0 ? r : dmt_io_real()->pread(NULL, fd, buf, len, off);
}

static ssize_t f_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t off)
{
    struct faultio *f = ctx;
    bool cut;
    uint64_t at = off;
    pthread_mutex_lock(&f->lock);
    ssize_t r = enter(f, FAULTIO_WRITE, path_of(f, fd), &cut);
    for (int i = 0; (r == 0 || cut) && i < n; i++) {
        if (iov[i].iov_len == 0)
            continue;
        MUST(f->fds[fd]);
        add_change(f->fds[fd], at, iov[i].iov_base, iov[i].iov_len);
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

static int f_sync(void *ctx, int fd)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = enter(f, FAULTIO_SYNC, path_of(f, fd), &cut);
    MUST(r < 0 || f->fds[fd]);
    if (!f->is_cut)
        drop_changes(f->fds[fd], r == 0);
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_ftruncate(void *ctx, int fd, uint64_t len)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = enter(f, FAULTIO_TRUNCATE, path_of(f, fd), &cut);
    if (r == 0) {
        r = dmt_io_real()->ftruncate(NULL, fd, len);
        if (r == 0)
            add_change(f->fds[fd], 0, NULL, len);
    }
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_fallocate(void *ctx, int fd, int mode, uint64_t off, uint64_t len)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = enter(f, FAULTIO_FALLOCATE, path_of(f, fd), &cut);
    if (r == 0)
        r = dmt_io_real()->fallocate(NULL, fd, mode, off, len);
    struct stat st;
    if (r == 0 && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        uint8_t *zeros = must_alloc(len);
        MUST(fstat(fd, &st) == 0);
        uint64_t end = off + len < (uint64_t)st.st_size ? off + len : (uint64_t)st.st_size;
        if (off < end)
            add_change(f->fds[fd], off, zeros, end - off);
        free(zeros);
    } else if (r == 0 && !(mode & FALLOC_FL_KEEP_SIZE)) {
        MUST(fstat(fd, &st) == 0);
        add_change(f->fds[fd], 0, NULL, (uint64_t)st.st_size);
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
    int r = enter(f, FAULTIO_RENAME, to, &cut);
    struct stat st;
    ino_t replaced = r == 0 && stat(to, &st) == 0 && S_ISREG(st.st_mode) ? st.st_ino : 0;
    if (r == 0)
        r = rename(from, to) < 0 ? -errno : 0;
    if (r == 0) {
        /* As for unlink: the kernel may give the number of the replaced file away. */
        if (replaced != 0)
            file_of(f, replaced)->ino = 0;
        MUST(stat(to, &st) == 0);
        if (S_ISREG(st.st_mode))
            add_dirop(f, DIROP_RENAME, from, to, file_of(f, st.st_ino));
    }
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int f_unlink(void *ctx, const char *path)
{
    struct faultio *f = ctx;
    bool cut;
    pthread_mutex_lock(&f->lock);
    int r = access(path, F_OK) < 0 && !f->is_cut ? -errno : enter(f, FAULTIO_UNLINK, path, &cut);
    struct stat st;
    if (r == 0) {
        /* Held by the operation, so that the inode number means this file as long as a crash may
         * bring it back. */
        MUST(stat(path, &st) == 0 && st.st_nlink == 1);
        struct file *file = file_of(f, st.st_ino);
        add_dirop(f, DIROP_UNLINK, NULL, path, file);
        file->ino = 0;
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
    int r = access(path, F_OK) == 0 ? -EEXIST : enter(f, FAULTIO_MKDIR, path, &cut);
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
    int r = enter(f, FAULTIO_SYNC_DIR, path, &cut);
    if (r == 0)
        sync_names(f, path);
    pthread_mutex_unlock(&f->lock);
    return r;
}

/* --- life
 * ------------------------------------------------------------------------------------------------
 */

/* Calls fn for each regular file below dir. */
static void each_file(struct faultio *f, const char *dir,
                      void (*fn)(struct faultio *f, const char *path, ino_t ino))
{
    DIR *d = opendir(dir);
    MUST(d);
    const struct dirent *e;
    while ((e = readdir(d)) != NULL) {
        char path[4096];
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        MUST((size_t)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) < sizeof(path));
        MUST(lstat(path, &st) == 0);
        if (S_ISDIR(st.st_mode))
            each_file(f, path, fn);
        else if (S_ISREG(st.st_mode))
            fn(f, path, st.st_ino);
    }
    closedir(d);
}

static void adopt(struct faultio *f, const char *path, ino_t ino)
{
    struct file *file = file_of(f, ino);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    MUST(fd >= 0 && fstat(fd, &st) == 0);
    drop_changes(file, false);
    set_size(&file->disk, &file->size, (uint64_t)st.st_size);
    MUST(dmt_io_real()->pread(NULL, fd, file->disk, file->size, 0) == (ssize_t)file->size);
    close(fd);
    set_name(f, path, file);
}

static void remove_file(struct faultio *f, const char *path, ino_t ino)
{
    (void)f;
    (void)ino;
    MUST(unlink(path) == 0);
}

static void write_out(struct name *n)
{
    struct stat st;
    int fd = open(n->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    MUST(fd >= 0);
    MUST(dmt_io_real()->pwrite(NULL, fd, n->file->disk, n->file->size, 0) ==
         (ssize_t)n->file->size);
    MUST(fstat(fd, &st) == 0);
    n->file->ino = st.st_ino;
    close(fd);
}

struct faultio *faultio_new(const char *root, uint64_t seed)
{
    struct faultio *f = must_alloc(sizeof(*f));
    f->io = (struct dmt_io){f,         f_open,   f_close,  f_pread,     f_pwrite,
                            f_pwritev, f_sync,   f_sync,   f_ftruncate, f_fallocate,
                            f_fstat,   f_rename, f_unlink, f_mkdir,     f_sync_dir};
    f->root = must_dup(root);
    f->random = seed * 2654435761u + 88172645463325252ull;
    f->dirops_end = &f->dirops;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->cond, NULL);
    each_file(f, root, adopt);
    return f;
}

void faultio_free(struct faultio *f)
{
    while (f->dirops) {
        struct dirop *d = f->dirops;
        f->dirops = d->next;
        free_dirop(f, d);
    }
    while (f->names)
        unset_name(f, f->names->path);
    for (int fd = 0; fd < FDS_MAX; fd++)
        free(f->fd_paths[fd]);
    while (f->files) {
        f->files->users = 1;
        forget_file(f, f->files);
    }
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

/* Names first: which changes of folders had reached the disk. */
static void settle_names(struct faultio *f, enum faultio_mode mode)
{
    uint64_t n = 0, keep = 0;
    for (struct dirop *d = f->dirops; d; d = d->next)
        n++;
    if (mode == FAULTIO_KEEP)
        keep = n;
    else if (mode == FAULTIO_RANDOM)
        keep = next_random(f) % (n + 1);
    while (f->dirops) {
        struct dirop *d = f->dirops;
        if (keep > 0) {
            apply_dirop(f, d);
            keep--;
        }
        f->dirops = d->next;
        free_dirop(f, d);
    }
    f->dirops_end = &f->dirops;
}

void faultio_restore(struct faultio *f, enum faultio_mode mode)
{
    pthread_mutex_lock(&f->lock);
    if (mode != FAULTIO_KILL) {
        settle_names(f, mode);
        each_file(f, f->root, remove_file);
        for (struct file *x = f->files; x; x = x->next)
            x->ino = 0;
        for (struct name *n = f->names; n; n = n->next) {
            settle_file(f, n->file, mode);
            write_out(n);
        }
    }
    f->is_cut = false;
    f->cut_in = 0;
    f->fail_mask = 0;
    f->fail_times = 0;
    f->hold_mask = 0;
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
