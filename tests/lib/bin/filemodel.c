/* filemodel.c: random operations on a few files, compared with a copy in memory.
 *
 *   filemodel DIR STATE SEED OPS
 *
 * Happy path: STATE (on another filesystem) holds what the files of DIR must contain; it is read
 * and compared first, if it exists. Then OPS operations, each in one of many ways (write, append,
 * mapped store, O_DIRECT, truncate, punch, zero, allocate, copy_file_range, rename over, reopen,
 * sync), on the file and on the copy; reads of all kinds compare; what SEEK_HOLE calls a hole must
 * be zeros. At the end all is compared, synced, and STATE written. So the caller may unmount, kill
 * or snapshot between two runs. Failure: the first difference is told with file, offset, seed and
 * number of the operation, exit 1; the same SEED does the same again. Thread: main. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES    4
#define FILE_MAX ((size_t)6 << 20)
#define PAGE     4096u

struct file {
    char name[16];
    int fd, append, direct;
    uint8_t *model;
    size_t size;
};

static struct file files[FILES];
static uint8_t *scratch; /* page aligned, FILE_MAX bytes */
static unsigned long seed, step;
static bool compares_only; /* no operations, so DIR may be a snapshot */
static uint64_t rnd_state;

__attribute__((noreturn, format(printf, 1, 2))) static void bad(const char *fmt, ...)
{
    va_list ap;
    printf("seed %lu, operation %lu: ", seed, step);
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    exit(1);
}

#define MUST(cond, f)                                             \
    do {                                                          \
        if (!(cond))                                              \
            bad("%s: %s: %s", (f)->name, #cond, strerror(errno)); \
    } while (0)

static uint64_t rnd(uint64_t n)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 7;
    rnd_state ^= rnd_state << 17;
    return n ? rnd_state % n : 0;
}

/* Mostly small, sometimes long enough to go by reference. */
static size_t some_len(void)
{
    uint64_t kind = rnd(20);
    return 1 + (size_t)rnd(kind == 0 ? 1u << 20 : kind < 5 ? 1u << 16 : kind < 12 ? 9000 : 300);
}

static size_t some_off(const struct file *f)
{
    if (rnd(30) == 0)
        return (size_t)rnd(FILE_MAX);
    return (size_t)rnd(f->size + 5000 < FILE_MAX ? f->size + 5000 : FILE_MAX);
}

static void fill(uint8_t *p, size_t n)
{
    uint64_t v = rnd(0) + 1;
    v = rnd_state;
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (i % 8 * 8)) ^ (uint8_t)(i >> 3);
}

static void model_size(struct file *f, size_t size)
{
    if (size < f->size)
        memset(f->model + size, 0, f->size - size);
    f->size = size;
}

static void model_put(struct file *f, const uint8_t *p, size_t len, size_t off)
{
    memcpy(f->model + off, p, len);
    if (off + len > f->size)
        f->size = off + len;
}

static void open_all(struct file *f)
{
    f->fd = open(f->name, compares_only ? O_RDONLY : O_RDWR | O_CREAT, 0644);
    f->append = open(f->name, compares_only ? O_RDONLY : O_WRONLY | O_APPEND);
    f->direct = open(f->name, compares_only ? O_RDONLY : O_RDWR | O_DIRECT);
    MUST(f->fd >= 0 && f->append >= 0 && f->direct >= 0, f);
}

static void close_all(struct file *f)
{
    MUST(close(f->fd) == 0 && close(f->append) == 0 && close(f->direct) == 0, f);
}

static void same(const struct file *f, const uint8_t *got, size_t off, size_t len, const char *how)
{
    if (memcmp(got, f->model + off, len) == 0)
        return;
    size_t i = 0;
    while (got[i] == f->model[off + i])
        i++;
    bad("%s differs at %zu (%s of %zu bytes from %zu; size %zu): %02x, wanted %02x", f->name,
        off + i, how, len, off, f->size, got[i], f->model[off + i]);
}

/* --- operations --------------------------------------------------------------------------- */

static void op_write(struct file *f)
{
    size_t off = some_off(f), len = some_len();
    if (off + len > FILE_MAX)
        return;
    fill(scratch, len);
    MUST(pwrite(f->fd, scratch, len, (off_t)off) == (ssize_t)len, f);
    model_put(f, scratch, len, off);
}

static void op_append(struct file *f)
{
    size_t len = some_len();
    if (f->size + len > FILE_MAX)
        return;
    fill(scratch, len);
    MUST(write(f->append, scratch, len) == (ssize_t)len, f);
    model_put(f, scratch, len, f->size);
}

static void op_direct(struct file *f)
{
    size_t off = some_off(f) / PAGE * PAGE, len = (some_len() + PAGE - 1) / PAGE * PAGE;
    if (off + len > FILE_MAX)
        return;
    if (rnd(2) == 0) {
        ssize_t n = pread(f->direct, scratch, len, (off_t)off);
        size_t want = off >= f->size ? 0 : len < f->size - off ? len : f->size - off;
        MUST(n == (ssize_t)want, f);
        same(f, scratch, off, want, "direct read");
        return;
    }
    fill(scratch, len);
    MUST(pwrite(f->direct, scratch, len, (off_t)off) == (ssize_t)len, f);
    model_put(f, scratch, len, off);
}

static void op_read(struct file *f)
{
    size_t off = some_off(f), len = some_len() * 2;
    size_t want = off >= f->size ? 0 : len < f->size - off ? len : f->size - off;
    MUST(pread(f->fd, scratch, len, (off_t)off) == (ssize_t)want, f);
    same(f, scratch, off, want, "read");
}

static void op_mmap(struct file *f)
{
    if (f->size == 0)
        return;
    size_t off = (size_t)rnd(f->size), len = some_len();
    if (len > f->size - off)
        len = f->size - off;
    size_t from = off / PAGE * PAGE;
    uint8_t *m =
        mmap(NULL, off + len - from, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, (off_t)from);
    MUST(m != MAP_FAILED, f);
    same(f, m + (off - from), off, len, "mapped read");
    if (rnd(2) == 0) {
        fill(m + (off - from), len);
        memcpy(f->model + off, m + (off - from), len);
        if (rnd(3) == 0)
            MUST(msync(m, off + len - from, MS_SYNC) == 0, f);
    }
    MUST(munmap(m, off + len - from) == 0, f);
}

static void op_truncate(struct file *f)
{
    size_t size = rnd(6) == 0 ? 0 : some_off(f);
    if (rnd(3) == 0)
        MUST(truncate(f->name, (off_t)size) == 0, f);
    else
        MUST(ftruncate(f->fd, (off_t)size) == 0, f);
    model_size(f, size);
}

static void op_fallocate(struct file *f)
{
    static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
    int mode = modes[rnd(5)];
    size_t off = some_off(f), len = some_len() * 2;
    if (off + len > FILE_MAX)
        return;
    MUST(fallocate(f->fd, mode, (off_t)off, (off_t)len) == 0, f);
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        memset(f->model + off, 0, len);
    if (!(mode & FALLOC_FL_KEEP_SIZE) && off + len > f->size)
        f->size = off + len;
}

static void op_copy(struct file *to)
{
    struct file *from = &files[rnd(FILES)];
    size_t in = (size_t)rnd(from->size + 1), out = some_off(to), len = some_len() * 2;
    if (len > from->size - in)
        len = from->size - in;
    if (out + len > FILE_MAX || (from == to && (in < out ? in + len > out : out + len > in)))
        return;
    while (len > 0) {
        off_t a = (off_t)in, b = (off_t)out;
        ssize_t n = copy_file_range(from->fd, &a, to->fd, &b, len, 0);
        MUST(n > 0, to);
        memmove(to->model + out, from->model + in, (size_t)n);
        in += (size_t)n, out += (size_t)n, len -= (size_t)n;
        if (out > to->size)
            to->size = out;
    }
}

/* As editors save: a new file under the old name; what was open is another file then. */
static void op_replace(struct file *f)
{
    size_t len = some_len();
    int old = dup(f->fd), fd = open("new", O_RDWR | O_CREAT | O_EXCL, 0644);
    fill(scratch, len);
    MUST(fd >= 0 && write(fd, scratch, len) == (ssize_t)len && (rnd(4) || fsync(fd) == 0), f);
    MUST(close(fd) == 0 && rename("new", f->name) == 0, f);
    close_all(f);
    uint8_t *m = f->size ? mmap(NULL, f->size, PROT_READ, MAP_SHARED, old, 0) : NULL;
    MUST(m != MAP_FAILED, f);
    if (m) {
        same(f, m, 0, f->size, "read of what was replaced");
        MUST(munmap(m, f->size) == 0, f);
    }
    MUST(close(old) == 0, f);
    model_size(f, 0);
    model_put(f, scratch, len, 0);
    open_all(f);
}

static void op_sync(struct file *f)
{
    if (rnd(4) == 0)
        MUST((rnd(2) ? fsync(f->fd) : fdatasync(f->fd)) == 0, f);
}

static void op_reopen(struct file *f)
{
    close_all(f);
    open_all(f);
    if (rnd(8) == 0) {
        int fd = open(f->name, O_WRONLY | O_TRUNC);
        MUST(fd >= 0 && close(fd) == 0, f);
        model_size(f, 0);
    }
}

/* Whatever is called a hole reads as zeros, and the walk ends at the size. */
static void op_holes(struct file *f)
{
    off_t at = 0, size = (off_t)f->size;
    while (at < size) {
        off_t data = lseek(f->fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            data = size;
        MUST(data >= at, f);
        for (off_t i = at; i < data && i < size; i++)
            if (f->model[i])
                bad("%s: byte %lld is in a hole from %lld to %lld", f->name, (long long)i,
                    (long long)at, (long long)data);
        if (data >= size)
            break;
        at = lseek(f->fd, data, SEEK_HOLE);
        MUST(at > data, f);
    }
}

static void verify(struct file *f)
{
    struct stat st;
    MUST(fstat(f->fd, &st) == 0, f);
    if (st.st_size != (off_t)f->size)
        bad("%s: size is %lld, wanted %zu", f->name, (long long)st.st_size, f->size);
    MUST(pread(f->fd, scratch, FILE_MAX, 0) == (ssize_t)f->size, f);
    same(f, scratch, 0, f->size, "read");
}

/* --- state -------------------------------------------------------------------------------- */

static void load(const char *path)
{
    FILE *in = fopen(path, "r");
    for (int i = 0; in && i < FILES; i++)
        if (fread(&files[i].size, sizeof(files[i].size), 1, in) != 1 ||
            fread(files[i].model, 1, files[i].size, in) != files[i].size)
            bad("%s cannot be read", path);
    if (in)
        (void)fclose(in);
}

static void save(const char *path)
{
    FILE *out = fopen(path, "w");
    for (int i = 0; out && i < FILES; i++)
        if (fwrite(&files[i].size, sizeof(files[i].size), 1, out) != 1 ||
            fwrite(files[i].model, 1, files[i].size, out) != files[i].size)
            bad("%s cannot be written", path);
    if (!out || fclose(out) != 0)
        bad("%s cannot be written", path);
}

static void one(struct file *f)
{
    static void (*const ops[])(struct file *) = {
        op_write, op_write, op_write,  op_append,  op_append,   op_direct,
        op_read,  op_read,  op_mmap,   op_mmap,    op_truncate, op_fallocate,
        op_copy,  op_sync,  op_reopen, op_replace, op_holes};
    ops[rnd(sizeof(ops) / sizeof(ops[0]))](f);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: filemodel DIR STATE SEED OPS\n");
        return 2;
    }
    seed = strtoul(argv[3], NULL, 10);
    unsigned long n = strtoul(argv[4], NULL, 10);
    compares_only = n == 0;
    rnd_state = seed * 0x9e3779b97f4a7c15u + 1;
    if (posix_memalign((void **)&scratch, PAGE, FILE_MAX) != 0)
        bad("out of memory");
    for (int i = 0; i < FILES; i++) {
        (void)snprintf(files[i].name, sizeof(files[i].name), "f%d", i);
        files[i].model = calloc(1, FILE_MAX);
        if (!files[i].model)
            bad("out of memory");
    }
    load(argv[2]);
    if (chdir(argv[1]) < 0)
        bad("%s: %s", argv[1], strerror(errno));
    for (int i = 0; i < FILES; i++) {
        open_all(&files[i]);
        verify(&files[i]);
    }
    for (; step < n; step++) {
        struct file *f = &files[rnd(FILES)];
        one(f);
        if (rnd(200) == 0)
            verify(f);
    }
    for (int i = 0; i < FILES; i++) {
        verify(&files[i]);
        close_all(&files[i]);
    }
    if (!compares_only)
        save(argv[2]);
    return 0;
}
