/* posix_data.c: what files hold: append, O_DIRECT, mmap, fallocate, holes, copies
 * (tests/lib/posix.h).
 *
 * Owns nothing. Each case writes in one way and reads in another, or lets several processes at one
 * file. Collapse and insert range may be refused (EOPNOTSUPP), nothing else may. Thread: main. */
#include "tests/lib/posix.h"

#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#define PAGE    4096
#define WRITERS 8
#define APPENDS 400
#define TIB     (1ll << 40)

static char big[1 << 20];

static void fill(char *p, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (char)((seed = seed * 1103515245u + 12345u) >> 16);
}

/* Record i of writer w: its length differs, all its bytes are the writer's letter but the
 * newline. */
static size_t record(char *buf, int w, int i)
{
    size_t n = (size_t)(1 + (w * 131 + i * 17) % 300);
    memset(buf, 'a' + w, n);
    buf[n] = '\n';
    return n + 1;
}

static bool append_all(int w)
{
    char buf[512];
    int fd = open("f", O_WRONLY | O_APPEND | (w == 0 ? O_SYNC : w == 1 ? O_DSYNC : 0));
    bool good = fd >= 0;
    for (int i = 0; good && i < (w < 2 ? 30 : APPENDS); i++) {
        size_t n = record(buf, w, i);
        good = write(fd, buf, n) == (ssize_t)n;
    }
    return good;
}

static void append_many(void)
{
    int next[WRITERS] = {0}, status;
    size_t len = 0, cap = 0;
    char *line = NULL, want[512];
    WANT(posix_file("f", NULL, 0) >= 0);
    for (int w = 0; w < WRITERS; w++)
        if (fork() == 0)
            _exit(append_all(w) ? 0 : 1);
    for (int w = 0; w < WRITERS; w++)
        WANT(wait(&status) > 0 && status == 0);
    FILE *f = fopen("f", "r");
    WANT(f);
    while ((len = (size_t)getline(&line, &cap, f)) != (size_t)-1) {
        int w = line[0] - 'a';
        WANT(w >= 0 && w < WRITERS);
        WANT(len == record(want, w, next[w]++) && memcmp(line, want, len) == 0);
    }
    for (int w = 0; w < WRITERS; w++)
        WANT(next[w] == (w < 2 ? 30 : APPENDS));
}

static void append_pwrite(void)
{
    WANT(posix_file("f", "0123456789", 10) >= 0);
    int fd = open("f", O_RDWR | O_APPEND);
    struct iovec v = {"xy", 2};
    WANT(fd >= 0 && pwrite(fd, "ab", 2, 0) == 2); /* Linux: appends all the same */
    WANT(posix_reads(fd, 0, "0123456789ab", 12));
    int plain = open("f", O_RDWR);
    WANT(pwritev2(plain, &v, 1, 0, RWF_APPEND | RWF_DSYNC) == 2);
    WANT(posix_reads(plain, 0, "0123456789abxy", 14));
}

static void direct(void)
{
    char *p, *q;
    struct stat st;
    WANT(posix_memalign((void **)&p, PAGE, 1 << 20) == 0 &&
         posix_memalign((void **)&q, PAGE, 1 << 20) == 0);
    int fd = open("f", O_CREAT | O_RDWR | O_DIRECT, 0644), buffered = open("f", O_RDWR);
    WANT(fd >= 0 && buffered >= 0);
    fill(p, 1 << 20, 1);
    WANT(pwrite(fd, p, 1 << 20, 0) == 1 << 20 && posix_reads(buffered, 0, p, 1 << 20));
    WANT(pwrite(buffered, "buffered", 8, 5000) == 8);
    memcpy(p + 5000, "buffered", 8);
    WANT(pread(fd, q, 1 << 20, 0) == 1 << 20 && memcmp(p, q, 1 << 20) == 0);
    fill(p, PAGE, 2);
    WANT(pwrite(fd, p, PAGE, 8192) == PAGE && posix_reads(buffered, 8192, p, PAGE));
    /* at the end, and past it */
    WANT(pwrite(fd, p, PAGE, (1 << 20) + PAGE) == PAGE && posix_zeros(buffered, 1 << 20, PAGE));
    WANT(fstat(fd, &st) == 0 && st.st_size == (1 << 20) + 2 * PAGE);
    WANT(pread(fd, q, PAGE, st.st_size) == 0);
    WANT(ftruncate(fd, (1 << 20) + 100) == 0 && pread(fd, q, PAGE, 1 << 20) == 100);
    int append = open("f", O_WRONLY | O_APPEND | O_DIRECT | O_DSYNC);
    WANT(ftruncate(fd, PAGE) == 0 && write(append, p, PAGE) == PAGE &&
         posix_reads(buffered, PAGE, p, PAGE));
}

/* --- mmap --------------------------------------------------------------------------------- */

/* A store at p kills. */
static bool store_is_fatal(volatile char *p)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        (void)signal(SIGBUS, SIG_DFL); /* a sanitizer would make an exit of it */
        *p = 1;
        _exit(0);
    }
    return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS;
}

static void mmap_shared(void)
{
    struct stat before, after;
    int fd = posix_file("f", big, sizeof(big));
    char *m = mmap(NULL, sizeof(big), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    WANT(fd >= 0 && m != MAP_FAILED && fstat(fd, &before) == 0);
    memcpy(m + 10000, "stored", 6);
    WANT(posix_reads(fd, 10000, "stored", 6)); /* before any msync */
    WANT(pwrite(fd, "written", 7, 20000) == 7 && memcmp(m + 20000, "written", 7) == 0);
    WANT(msync(m, sizeof(big), MS_SYNC) == 0);
    WANT(fstat(fd, &after) == 0);
    WANT(after.st_mtim.tv_sec > before.st_mtim.tv_sec ||
         after.st_mtim.tv_nsec > before.st_mtim.tv_nsec);
    int direct_fd = open("f", O_RDONLY | O_DIRECT);
    char *p;
    WANT(posix_memalign((void **)&p, PAGE, PAGE) == 0 && pread(direct_fd, p, PAGE, 8192) == PAGE);
    WANT(memcmp(p + 10000 - 8192, "stored", 6) == 0);
    memcpy(m + 30000, "closed", 6); /* a store survives munmap and close without msync */
    WANT(munmap(m, sizeof(big)) == 0 && close(fd) == 0);
    fd = open("f", O_RDONLY);
    WANT(posix_reads(fd, 30000, "closed", 6));
}

static void mmap_two_processes(void)
{
    int fd = posix_file("f", big, PAGE), status;
    volatile char *m = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    WANT(m != MAP_FAILED);
    pid_t pid = fork();
    if (pid == 0) {
        int f = open("f", O_RDWR);
        volatile char *mine = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
        mine[1] = 'c';
        while (mine[0] != 'p')
            usleep(1000);
        _exit(0);
    }
    while (m[1] != 'c')
        usleep(1000);
    m[0] = 'p';
    WANT(waitpid(pid, &status, 0) == pid && status == 0);
    WANT(posix_reads(fd, 0, "pc", 2));
}

static void mmap_end(void)
{
    int fd = posix_file("f", "0123456789", 10);
    volatile char *m = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    WANT(m != MAP_FAILED && m[9] == '9' && m[10] == 0);
    WANT(ftruncate(fd, PAGE) == 0 && posix_zeros(fd, 10, PAGE - 10));
    WANT(store_is_fatal(m + PAGE));
    WANT(ftruncate(fd, 2 * PAGE) == 0);
    m[PAGE] = 'y';
    WANT(posix_reads(fd, PAGE, "y", 1));
    /* cut in the middle of a page, grown again: zeros, in file and mapping */
    m[PAGE - 1] = 'z';
    WANT(ftruncate(fd, 5) == 0 && ftruncate(fd, 2 * PAGE) == 0);
    WANT(m[PAGE - 1] == 0 && m[PAGE] == 0 && posix_zeros(fd, 5, 2 * PAGE - 5));
}

static void mmap_private(void)
{
    int fd = posix_file("f", "0123456789", 10);
    char *m = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    WANT(m != MAP_FAILED);
    m[0] = 'x';
    WANT(posix_reads(fd, 0, "0", 1) && close(fd) == 0 && unlink("f") == 0 && m[9] == '9');
}

/* --- fallocate, holes ----------------------------------------------------------------------- */

static void fallocate_modes(void)
{
    struct stat st;
    int fd = posix_file("f", "0123456789", 10), ro = open("f", O_RDONLY);
    WANT(fallocate(fd, 0, 0, 100000) == 0 && fstat(fd, &st) == 0 && st.st_size == 100000);
    WANT(posix_reads(fd, 0, "0123456789", 10) && posix_zeros(fd, 10, 99990));
    WANT(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 200000) == 0 && fstat(fd, &st) == 0 &&
         st.st_size == 100000);
    fill(big, 100000, 3);
    WANT(pwrite(fd, big, 100000, 0) == 100000);
    WANT(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5000, 20001) == 0);
    WANT(posix_reads(fd, 0, big, 5000) && posix_zeros(fd, 5000, 20001) &&
         posix_reads(fd, 25001, big + 25001, 74999));
    WANT(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 99990, 1 << 20) == 0);
    WANT(fstat(fd, &st) == 0 && st.st_size == 100000 && posix_zeros(fd, 99990, 10));
    WANT(fallocate(fd, FALLOC_FL_ZERO_RANGE, 30000, 9) == 0 && posix_zeros(fd, 30000, 9));
    WANT(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 90000, 50000) == 0);
    WANT(fstat(fd, &st) == 0 && st.st_size == 100000 && posix_zeros(fd, 90000, 10000));
    WANT(fallocate(fd, FALLOC_FL_ZERO_RANGE, 90000, 50000) == 0 && fstat(fd, &st) == 0 &&
         st.st_size == 140000);
    FAILS(fallocate(fd, 0, 0, 0), EINVAL);
    FAILS(fallocate(fd, 0, -1, 10), EINVAL);
    FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 10), EOPNOTSUPP);
    FAILS(fallocate(ro, 0, 0, 10), EBADF);
    FAILS(fallocate(fd, 0, INT64_MAX - 10, 100), EFBIG);
    FAILS(fallocate(open(".", O_RDONLY), 0, 0, 10), EBADF);
}

static void fallocate_shift(void)
{
    int fd = posix_file("f", big, 16384);
    int flags[] = {FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE};
    struct stat st;
    for (int i = 0; i < 2; i++) {
        int rc = fallocate(fd, flags[i], 4096, 4096), e = errno;
        if (rc == 0)
            continue;
        WANT(e == EOPNOTSUPP && fstat(fd, &st) == 0 && st.st_size == 16384);
    }
}

static void seek_holes(void)
{
    int fd = posix_file("f", "", 0);
    FAILS(lseek(fd, 0, SEEK_DATA), ENXIO);
    WANT(ftruncate(fd, 40 << 20) == 0);
    FAILS(lseek(fd, 0, SEEK_DATA), ENXIO);
    WANT(lseek(fd, 0, SEEK_HOLE) == 0);
    WANT(pwrite(fd, big, 65536, 8 << 20) == 65536 && pwrite(fd, big, 65536, 16 << 20) == 65536);
    WANT(fsync(fd) == 0);
    off_t data = lseek(fd, 0, SEEK_DATA);
    WANT(data > 0 && data <= 8 << 20);
    off_t hole = lseek(fd, data, SEEK_HOLE);
    WANT(hole >= (8 << 20) + 65536 && hole < 16 << 20);
    data = lseek(fd, hole, SEEK_DATA);
    WANT(data > hole && data <= 16 << 20);
    WANT(lseek(fd, 16 << 20, SEEK_DATA) == 16 << 20); /* inside data: where it is */
    FAILS(lseek(fd, 30 << 20, SEEK_DATA), ENXIO);
    WANT(lseek(fd, 30 << 20, SEEK_HOLE) == 30 << 20);
    FAILS(lseek(fd, 40 << 20, SEEK_HOLE), ENXIO);
    WANT(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 << 20, 65536) == 0);
    data = lseek(fd, 0, SEEK_DATA);
    WANT(data > 8 << 20 && data <= 16 << 20);
    WANT(posix_file("g", big, 100) >= 0);
    WANT(lseek(open("g", O_RDONLY), 0, SEEK_HOLE) == 100); /* the end is a hole */
}

static void sparse_1tib(void)
{
    struct stat st;
    int fd = posix_file("f", "head", 4);
    WANT(ftruncate(fd, TIB) == 0 && fstat(fd, &st) == 0 && st.st_size == TIB);
    WANT(pwrite(fd, "tail", 4, TIB - 4) == 4 && pwrite(fd, "middle", 6, TIB / 2) == 6 &&
         fsync(fd) == 0);
    WANT(posix_reads(fd, TIB - 4, "tail", 4) && posix_reads(fd, TIB / 2, "middle", 6));
    WANT(posix_zeros(fd, TIB / 4, 1 << 20) && posix_zeros(fd, TIB - 4 - 65536, 65536));
    WANT(fstat(fd, &st) == 0 && st.st_size == TIB && st.st_blocks < 4096);
    off_t data = lseek(fd, 1 << 20, SEEK_DATA);
    WANT(data > TIB / 2 - (1 << 20) && data <= TIB / 2);
    char *m = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, TIB / 8 * 7);
    WANT(m != MAP_FAILED);
    m[0] = 'm';
    WANT(msync(m, PAGE, MS_SYNC) == 0 && posix_reads(fd, TIB / 8 * 7, "m", 1));
    WANT(ftruncate(fd, 4) == 0 && fstat(fd, &st) == 0 && st.st_blocks <= 16 &&
         posix_reads(fd, 0, "head", 4));
}

static void size_limits(void)
{
    struct rlimit lim = {8192, 8192};
    int fd = posix_file("f", "x", 1);
    FAILS(pwrite(fd, "x", 1, 1ll << 62), EFBIG);
    FAILS(ftruncate(fd, -1), EINVAL);
    signal(SIGXFSZ, SIG_IGN);
    WANT(setrlimit(RLIMIT_FSIZE, &lim) == 0);
    FAILS(pwrite(fd, "x", 1, 8192), EFBIG);
    FAILS(ftruncate(fd, 8193), EFBIG);
    WANT(pwrite(fd, big, 200, 8092) == 100); /* what fits */
}

/* --- copies, other ways to write -------------------------------------------------------------- */

static void copy_ranges(void)
{
    off_t in = 1000, out = 777;
    fill(big, sizeof(big), 4);
    int a = posix_file("a", big, sizeof(big)), b = posix_file("b", NULL, 0);
    size_t want = 500000, done = 0;
    while (done < want) {
        ssize_t n = copy_file_range(a, &in, b, &out, want - done, 0);
        WANT(n > 0);
        done += (size_t)n;
    }
    WANT(in == 501000 && out == 500777 && posix_zeros(b, 0, 777) &&
         posix_reads(b, 777, big + 1000, want));
    in = (off_t)sizeof(big) - 10, out = 0;
    WANT(copy_file_range(a, &in, b, &out, 1000, 0) == 10); /* to the end of the source */
    WANT(copy_file_range(a, &in, b, &out, 1000, 0) == 0);
    in = 0, out = 600000; /* within one file */
    WANT(copy_file_range(a, &in, a, &out, 65536, 0) == 65536 && posix_reads(a, 600000, big, 65536));
    in = 0, out = 100;
    FAILS(copy_file_range(a, &in, a, &out, 65536, 0), EINVAL); /* overlap */
    int app = open("b", O_WRONLY | O_APPEND);
    FAILS(copy_file_range(a, &in, app, NULL, 10, 0), EBADF);
    FAILS(copy_file_range(a, &in, b, &out, 10, 1), EINVAL);
}

static void sendfile_splice(void)
{
    int p[2], a = posix_file("a", big, 100000), b = posix_file("b", NULL, 0),
              c = posix_file("c", NULL, 0);
    off_t off = 0;
    WANT(pipe(p) == 0);
    while (off < 100000)
        WANT(sendfile(b, a, &off, 100000) > 0);
    WANT(posix_reads(b, 0, big, 100000));
    for (loff_t in = 0, out = 0; in < 65536;) {
        ssize_t n = splice(a, &in, p[1], NULL, 4096, 0);
        WANT(n > 0 && splice(p[0], NULL, c, &out, (size_t)n, 0) == n);
    }
    WANT(posix_reads(c, 0, big, 65536));
}

static void vectors(void)
{
    char x[3], y[5];
    struct iovec w[] = {{"abc", 3}, {"", 0}, {"defgh", 5}}, r[] = {{x, 3}, {y, 5}};
    int fd = posix_file("f", NULL, 0);
    WANT(pwritev(fd, w, 3, 4090) == 8 && preadv(fd, r, 2, 4090) == 8);
    WANT(memcmp(x, "abc", 3) == 0 && memcmp(y, "defgh", 5) == 0 && posix_zeros(fd, 0, 4090));
    WANT(pread(fd, x, 3, 4098) == 0 && read(fd, x, 0) == 0);
    FAILS(pread(fd, x, 3, -1), EINVAL);
}

static void sync_flags(void)
{
    int flags[] = {O_SYNC, O_DSYNC, O_SYNC | O_APPEND};
    for (int i = 0; i < 3; i++) {
        int fd = open("f", O_CREAT | O_RDWR | O_TRUNC | flags[i], 0644);
        WANT(fd >= 0 && write(fd, "0123456789", 10) == 10 && posix_reads(fd, 0, "0123456789", 10));
        WANT(fdatasync(fd) == 0 && fsync(fd) == 0 && close(fd) == 0);
    }
    int dir = open(".", O_RDONLY | O_DIRECTORY);
    WANT(fsync(dir) == 0 && syncfs(dir) == 0);
    WANT(sync_file_range(open("f", O_RDWR), 0, 0, SYNC_FILE_RANGE_WRITE) == 0);
}

/* --- files without a name ------------------------------------------------------------------- */

static void unlinked_open(void)
{
    char link[64];
    struct stat st;
    fill(big, 200000, 5);
    int fd = posix_file("f", big, 200000);
    WANT(unlink("f") == 0 && fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 200000);
    WANT(posix_reads(fd, 0, big, 200000) && pwrite(fd, "more", 4, 200000) == 4 && fsync(fd) == 0);
    char *m = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    WANT(m != MAP_FAILED);
    m[0] = 'm';
    WANT(msync(m, PAGE, MS_SYNC) == 0 && ftruncate(fd, 100) == 0 && fchmod(fd, 0600) == 0 &&
         posix_reads(fd, 0, "m", 1));
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    int again = open(link, O_RDWR);
    WANT(again >= 0 && posix_reads(again, 1, big + 1, 99));
    FAILS(linkat(AT_FDCWD, link, AT_FDCWD, "back", AT_SYMLINK_FOLLOW), ENOENT);
    WANT(posix_file("f", "new", 3) >= 0 && posix_reads(fd, 0, "m", 1)); /* its name is free */
}

/* As many as a process may have open. */
static void many_unlinked(void)
{
    struct rlimit lim;
    struct stat st;
    int fd = -1, first = -1;
    WANT(getrlimit(RLIMIT_NOFILE, &lim) == 0);
    lim.rlim_cur = lim.rlim_max;
    WANT(setrlimit(RLIMIT_NOFILE, &lim) == 0);
    rlim_t n = lim.rlim_max < 20100 ? lim.rlim_max - 100 : 20000;
    for (rlim_t i = 0; i < n; i++) {
        WANT((fd = open(".", O_TMPFILE | O_RDWR, 0600)) >= 0);
        first = i ? first : fd;
    }
    WANT(write(first, "first", 5) == 5 && write(fd, "last", 4) == 4 && syncfs(fd) == 0);
    WANT(posix_reads(first, 0, "first", 5) && fstat(fd, &st) == 0 && st.st_nlink == 0);
    for (int i = 0; i < 10000; i++)
        WANT(mknod("x", S_IFREG | 0600, 0) == 0 && unlink("x") == 0);
}

static void renamed_over(void)
{
    struct stat st;
    int old = posix_file("f", "old content", 11);
    for (int i = 0; i < 20; i++) {
        WANT(posix_file("f.tmp", "new content", 11) >= 0 && rename("f.tmp", "f") == 0);
        WANT(posix_reads(open("f", O_RDONLY), 0, "new", 3) &&
             posix_reads(old, 0, "old content", 11));
    }
    WANT(fstat(old, &st) == 0 && st.st_nlink == 0 && write(old, "OLD", 3) == 3 &&
         posix_reads(old, 0, "OLD", 3));
}

static void tmpfile_linked(void)
{
    char link[64];
    struct stat st;
    int fd = open(".", O_TMPFILE | O_RDWR, 0640);
    WANT(fd >= 0 && write(fd, "anonymous", 9) == 9 && fstat(fd, &st) == 0 && st.st_nlink == 0);
    WANT((st.st_mode & 07777) == 0640);
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    WANT(linkat(AT_FDCWD, link, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
    WANT(fstat(fd, &st) == 0 && st.st_nlink == 1 &&
         posix_reads(open("named", O_RDONLY), 0, "anonymous", 9));
    FAILS(linkat(AT_FDCWD, link, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), EEXIST);
    int second = open(".", O_TMPFILE | O_RDWR, 0600);
    WANT(second >= 0 && linkat(second, "", AT_FDCWD, "second", AT_EMPTY_PATH) == 0);
    int excl = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600);
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", excl);
    FAILS(linkat(AT_FDCWD, link, AT_FDCWD, "never", AT_SYMLINK_FOLLOW), ENOENT);
    FAILS(open("named", O_TMPFILE | O_RDWR, 0600), ENOTDIR);
}

static void truncates(void)
{
    struct stat st;
    int fd = posix_file("f", "0123456789", 10);
    WANT(close(open("f", O_WRONLY | O_TRUNC)) == 0 && fstat(fd, &st) == 0 && st.st_size == 0);
    WANT(pwrite(fd, "0123456789", 10, 0) == 10 && ftruncate(fd, 3) == 0 && ftruncate(fd, 10) == 0);
    WANT(posix_reads(fd, 0, "012", 3) && posix_zeros(fd, 3, 7));
    WANT(pwrite(fd, "x", 1, 100000) == 1 && posix_zeros(fd, 10, 99990));
    FAILS(truncate(".", 0), EISDIR);
    FAILS(ftruncate(open("f", O_RDONLY), 0), EINVAL);
    WANT(symlink("f", "s") == 0 && truncate("s", 1) == 0 && fstat(fd, &st) == 0 && st.st_size == 1);
}

static bool copy_of(const char *from, const char *to)
{
    int in = open(from, O_RDONLY), out = open(to, O_CREAT | O_WRONLY, 0755);
    ssize_t n = 1;
    while (in >= 0 && out >= 0 && n > 0)
        n = sendfile(out, in, NULL, 1 << 20);
    return n == 0 && close(out) == 0 && close(in) == 0;
}

/* Returns when it runs, or could not be. */
static pid_t run_prog(const char *seconds)
{
    int ends[2];
    char c;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        execl("./prog", "sleep", seconds, (char *)NULL);
        _exit(errno);
    }
    close(ends[1]);
    bool runs = read(ends[0], &c, 1) == 0; /* exec closes the other end */
    close(ends[0]);
    return runs ? pid : -1;
}

/* A program runs from here, and while it runs it cannot be written. */
static void text_busy(void)
{
    int status, writer;
    WANT(copy_of("/bin/sleep", "prog"));
    pid_t pid = run_prog("60");
    WANT(pid > 0);
    FAILS(open("prog", O_WRONLY), ETXTBSY);
    WANT(kill(pid, SIGTERM) == 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
    WANT((writer = open("prog", O_WRONLY)) >= 0);
    pid = run_prog("0");
    WANT(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == ETXTBSY && close(writer) == 0);
}

static const struct posix_case cases[] = {
    {"append_many", append_many},
    {"append_pwrite", append_pwrite},
    {"direct", direct},
    {"mmap_shared", mmap_shared},
    {"mmap_two_processes", mmap_two_processes},
    {"mmap_end", mmap_end},
    {"mmap_private", mmap_private},
    {"fallocate_modes", fallocate_modes},
    {"fallocate_shift", fallocate_shift},
    {"seek_holes", seek_holes},
    {"sparse_1tib", sparse_1tib},
    {"size_limits", size_limits},
    {"copy_ranges", copy_ranges},
    {"sendfile_splice", sendfile_splice},
    {"vectors", vectors},
    {"sync_flags", sync_flags},
    {"unlinked_open", unlinked_open},
    {"many_unlinked", many_unlinked},
    {"renamed_over", renamed_over},
    {"tmpfile_linked", tmpfile_linked},
    {"truncates", truncates},
    {"text_busy", text_busy},
};
POSIX_MAIN(cases)
