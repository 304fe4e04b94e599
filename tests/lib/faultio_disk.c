/* faultio_disk.c: the disk that the double pretends to have: what is durable, what is pending, and
 * what a power cut may make of both.
 *
 * Owns, per file that was ever touched, an object with the durable content and the pending changes
 * (found by inode number), the durable names, and the changes of names not yet synced. A disk can
 * be copied at any moment; durable bytes and pending bytes are shared by the copies, so that a copy
 * before each operation of a run is cheap. Settling decides about everything pending; writing out
 * empties the regular files of a real directory and writes what the disk holds.
 *
 * Failure modes: aborts when the real disk does not do as told: a test could not mean anything
 * then. Thread: whoever holds the lock of the double, or owns the copy.
 */
#include <sys/stat.h>

#include "fs/base/hash.h"

#include "tests/lib/faultio_int.h"

#define PAGE   4096u
#define SECTOR 512u

static uint64_t next_random(uint64_t *random)
{
    uint64_t x = *random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *random = x;
}

void *faultio_alloc(size_t n)
{
    void *p = calloc(1, n ? n : 1);
    MUST(p);
    return p;
}

char *faultio_dup(const char *s)
{
    char *p = strdup(s);
    MUST(p);
    return p;
}

/* --- content ---------------------------------------------------------------------------------- */

static struct blob *blob_new(const void *p, uint64_t size)
{
    struct blob *b = faultio_alloc(sizeof(*b));
    b->refs = 1;
    b->size = size;
    b->p = faultio_alloc(size);
    if (p)
        memcpy(b->p, p, size);
    return b;
}

static struct blob *blob_ref(struct blob *b)
{
    if (b)
        __atomic_add_fetch(&b->refs, 1, __ATOMIC_RELAXED);
    return b;
}

static void blob_unref(struct blob *b)
{
    if (!b || __atomic_sub_fetch(&b->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    free(b->p);
    free(b);
}

static struct blob *own(struct file *file)
{
    struct blob *b = file->disk;
    if (__atomic_load_n(&b->refs, __ATOMIC_ACQUIRE) > 1) {
        file->disk = blob_new(b->p, b->size);
        blob_unref(b);
    }
    file->disk->hash = 0;
    return file->disk;
}

static uint64_t blob_hash(struct blob *b)
{
    uint64_t h = __atomic_load_n(&b->hash, __ATOMIC_RELAXED);
    if (h == 0) {
        h = dmt_hash64(b->size, b->p, b->size) | 1;
        __atomic_store_n(&b->hash, h, __ATOMIC_RELAXED);
    }
    return h;
}

static void set_size(struct file *file, uint64_t to)
{
    struct blob *b = file->disk->size == to ? NULL : own(file);
    if (!b)
        return;
    b->p = realloc(b->p, to + 1);
    MUST(b->p);
    if (to > b->size)
        memset(b->p + b->size, 0, to - b->size);
    b->size = to;
}

static void put_bytes(struct file *file, uint64_t off, const uint8_t *p, uint64_t n)
{
    if (off + n > file->disk->size)
        set_size(file, off + n);
    memcpy(own(file)->p + off, p, n);
}

static void apply_change(struct file *file, const struct change *c)
{
    if (c->data)
        put_bytes(file, c->off, c->data->p, c->len);
    else
        set_size(file, c->len);
}

void faultio_synced(struct file *file, bool apply)
{
    while (file->changes) {
        struct change *c = file->changes;
        if (apply)
            apply_change(file, c);
        file->changes = c->next;
        blob_unref(c->data);
        free(c);
    }
    file->changes_end = &file->changes;
}

static void append_change(struct file *file, uint64_t off, uint64_t len, struct blob *data)
{
    struct change *c = faultio_alloc(sizeof(*c));
    *c = (struct change){.off = off, .len = len, .data = data};
    *file->changes_end = c;
    file->changes_end = &c->next;
}

void faultio_change(struct file *file, uint64_t off, const void *data, uint64_t len)
{
    append_change(file, off, len, data ? blob_new(data, len) : NULL);
}

static faultio_pages_fn pages_fn;

void faultio_watch_pages(faultio_pages_fn fn)
{
    pages_fn = fn;
}

/* One page of a pending write: there, not there, or some sectors of it. */
static void settle_page(uint64_t *random, struct file *file, const struct change *c, uint64_t at,
                        uint64_t n, struct faultio_pages *pages)
{
    uint64_t dice = next_random(random) % 8;
    if (dice < 3) {
        pages->lost++;
        if (dice == 0 && c->off + at + n > file->disk->size) {
            set_size(file, c->off + at + n);
            pages->zeroed++;
        }
        return;
    }
    if (dice > 3) {
        put_bytes(file, c->off + at, c->data->p + at, n);
        pages->kept++;
        pages->late += pages->lost + pages->torn > 0;
        return;
    }
    pages->torn++;
    for (uint64_t s = 0; s < n;) {
        uint64_t pos = c->off + at + s, len = SECTOR - pos % SECTOR;
        if (len > n - s)
            len = n - s;
        if (next_random(random) & 1)
            put_bytes(file, pos, c->data->p + at + s, len);
        s += len;
    }
}

static void settle_change(uint64_t *random, struct file *file, const struct change *c,
                          struct faultio_pages *pages)
{
    if (!c->data) {
        if (next_random(random) & 1)
            apply_change(file, c);
        return;
    }
    for (uint64_t at = 0; at < c->len;) {
        uint64_t n = PAGE - (c->off + at) % PAGE;
        if (n > c->len - at)
            n = c->len - at;
        settle_page(random, file, c, at, n, pages);
        at += n;
    }
}

/* --- files and names -------------------------------------------------------------------------- */

struct file *faultio_file(struct disk *d, ino_t ino)
{
    for (struct file *x = d->files; x; x = x->next)
        if (x->ino == ino)
            return x;
    struct file *x = faultio_alloc(sizeof(*x));
    x->ino = ino;
    x->disk = blob_new(NULL, 0);
    x->changes_end = &x->changes;
    x->next = d->files;
    d->files = x;
    return x;
}

void faultio_forget(struct disk *d, struct file *file)
{
    if (--file->users > 0)
        return;
    struct file **at = &d->files;
    while (*at != file)
        at = &(*at)->next;
    *at = file->next;
    faultio_synced(file, false);
    blob_unref(file->disk);
    free(file);
}

static struct name **find_name(struct disk *d, const char *path)
{
    struct name **at = &d->names;
    while (*at && strcmp((*at)->path, path) != 0)
        at = &(*at)->next;
    return at;
}

static void unset_name(struct disk *d, const char *path)
{
    struct name **at = find_name(d, path), *n = *at;
    if (!n)
        return;
    *at = n->next;
    faultio_forget(d, n->file);
    free(n->path);
    free(n);
}

static void set_name(struct disk *d, const char *path, struct file *file)
{
    file->users++;
    unset_name(d, path);
    struct name *n = faultio_alloc(sizeof(*n));
    n->path = faultio_dup(path);
    n->file = file;
    n->next = d->names;
    d->names = n;
}

/* --- changes of names ------------------------------------------------------------------------- */

static void apply_dirop(struct disk *d, const struct dirop *op)
{
    if (op->kind == DIROP_RENAME)
        unset_name(d, op->from);
    if (op->kind == DIROP_UNLINK)
        unset_name(d, op->to);
    else
        set_name(d, op->to, op->file);
}

/* The oldest change of a name is durable, or never happened. */
static void pop_dirop(struct disk *d, bool apply)
{
    struct dirop *op = d->dirops;
    if (apply)
        apply_dirop(d, op);
    d->dirops = op->next;
    if (op->file)
        faultio_forget(d, op->file);
    free(op->from);
    free(op->to);
    free(op);
}

void faultio_dirop(struct disk *d, enum dirop_kind kind, const char *from, const char *to,
                   struct file *file)
{
    struct dirop *op = faultio_alloc(sizeof(*op)), **at = &d->dirops;
    op->kind = kind;
    op->from = from ? faultio_dup(from) : NULL;
    op->to = faultio_dup(to);
    op->file = file;
    if (file)
        file->users++;
    while (*at)
        at = &(*at)->next;
    *at = op;
}

static bool in_dir(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return path && strncmp(path, dir, n) == 0 && path[n] == '/' && !strchr(path + n + 1, '/');
}

/* Changes of names up to the last one that concerns dir become durable: file systems with a journal
 * keep their order. */
void faultio_sync_names(struct disk *d, const char *dir)
{
    size_t n = 0, upto = 0;
    for (const struct dirop *op = d->dirops; op; op = op->next) {
        n++;
        if (in_dir(op->to, dir) || in_dir(op->from, dir))
            upto = n;
    }
    for (; upto > 0; upto--)
        pop_dirop(d, true);
}

/* --- copying, settling ------------------------------------------------------------------------ */

static struct file *copy_of(struct disk *to, struct file *from)
{
    if (from->copy)
        return from->copy;
    struct file *x = faultio_alloc(sizeof(*x));
    x->disk = blob_ref(from->disk);
    x->changes_end = &x->changes;
    for (const struct change *c = from->changes; c; c = c->next)
        append_change(x, c->off, c->len, blob_ref(c->data));
    x->next = to->files;
    to->files = x;
    return from->copy = x;
}

void faultio_disk_copy(struct disk *to, const struct disk *from)
{
    *to = (struct disk){0};
    for (struct name *n = from->names; n; n = n->next)
        set_name(to, n->path, copy_of(to, n->file));
    for (struct dirop *op = from->dirops; op; op = op->next)
        faultio_dirop(to, op->kind, op->from, op->to, op->file ? copy_of(to, op->file) : NULL);
    for (struct file *x = from->files; x; x = x->next)
        x->copy = NULL;
}

void faultio_disk_free(struct disk *d)
{
    while (d->dirops)
        pop_dirop(d, false);
    while (d->names)
        unset_name(d, d->names->path);
    while (d->files) {
        d->files->users = 1;
        faultio_forget(d, d->files);
    }
}

/* Names first: which changes of folders had reached the disk. */
void faultio_settle(struct disk *d, enum faultio_mode mode, uint64_t *random)
{
    uint64_t n = 0, keep = 0;
    for (const struct dirop *op = d->dirops; op; op = op->next)
        n++;
    if (mode == FAULTIO_KEEP || mode == FAULTIO_KILL)
        keep = n;
    else if (mode == FAULTIO_RANDOM)
        keep = next_random(random) % (n + 1);
    while (d->dirops) {
        pop_dirop(d, keep > 0);
        keep -= keep > 0;
    }
    for (struct name *at = d->names; at; at = at->next) {
        struct file *file = at->file;
        struct faultio_pages pages = {0};
        if (mode == FAULTIO_RANDOM)
            for (const struct change *c = file->changes; c; c = c->next)
                settle_change(random, file, c, &pages);
        if (pages_fn && pages.kept + pages.lost + pages.torn > 0)
            pages_fn(at->path, &pages);
        faultio_synced(file, mode == FAULTIO_KEEP || mode == FAULTIO_KILL);
    }
}

/* --- the real directory ----------------------------------------------------------------------- */

/* Calls fn for each regular file below dir. */
static void each_file(void *ctx, const char *dir,
                      void (*fn)(void *ctx, const char *path, const struct stat *st))
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
        if (e->d_type == DT_DIR)
            each_file(ctx, path, fn);
        else if (lstat(path, &st) == 0 && S_ISREG(st.st_mode))
            fn(ctx, path, &st);
    }
    closedir(d);
}

struct adoption {
    struct disk *d;
    size_t root_len;
};

static void adopt(void *ctx, const char *path, const struct stat *st)
{
    struct adoption *a = ctx;
    struct file *file = faultio_file(a->d, st->st_ino);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0);
    faultio_synced(file, false);
    set_size(file, (uint64_t)st->st_size);
    MUST(dmt_io_real()->pread(NULL, fd, own(file)->p, file->disk->size, 0) ==
         (ssize_t)file->disk->size);
    close(fd);
    set_name(a->d, path + a->root_len, file);
}

void faultio_adopt(struct disk *d, const char *root)
{
    struct adoption a = {d, strlen(root)};
    each_file(&a, root, adopt);
}

static void remove_file(void *ctx, const char *path, const struct stat *st)
{
    (void)ctx;
    (void)st;
    MUST(unlink(path) == 0);
}

void faultio_write_out(struct disk *d, const char *root)
{
    char path[4096];
    struct stat st;
    each_file(NULL, root, remove_file);
    for (struct file *x = d->files; x; x = x->next)
        x->ino = 0;
    for (struct name *n = d->names; n; n = n->next) {
        const struct blob *b = n->file->disk;
        MUST((size_t)snprintf(path, sizeof(path), "%s%s", root, n->path) < sizeof(path));
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        MUST(fd >= 0);
        MUST(dmt_io_real()->pwrite(NULL, fd, b->p, b->size, 0) == (ssize_t)b->size);
        MUST(fstat(fd, &st) == 0);
        n->file->ino = st.st_ino;
        close(fd);
    }
}

/* --- copies for the tests --------------------------------------------------------------------- */

struct faultio_state {
    struct disk disk;
};

struct faultio_state *faultio_state(struct faultio *f)
{
    struct faultio_state *s = faultio_alloc(sizeof(*s));
    pthread_mutex_lock(&f->lock);
    faultio_disk_copy(&s->disk, &f->disk);
    pthread_mutex_unlock(&f->lock);
    return s;
}

void faultio_state_free(struct faultio_state *s)
{
    if (s)
        faultio_disk_free(&s->disk);
    free(s);
}

struct faultio_state *faultio_state_settle(const struct faultio_state *s, enum faultio_mode mode,
                                           uint64_t seed, uint64_t *ret_hash)
{
    struct faultio_state *out = faultio_alloc(sizeof(*out));
    uint64_t random = seed * 2654435761u + 88172645463325252ull, sum = 0;
    faultio_disk_copy(&out->disk, &s->disk);
    faultio_settle(&out->disk, mode, &random);
    for (const struct name *n = out->disk.names; n; n = n->next) /* in any order */
        sum += dmt_hash64(blob_hash(n->file->disk), n->path, strlen(n->path));
    *ret_hash = sum;
    return out;
}

void faultio_state_write(struct faultio_state *s, const char *dir)
{
    faultio_write_out(&s->disk, dir);
}
