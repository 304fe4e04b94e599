/* strict.c: programs that must not notice anything: every call must do exactly what it should,
 * once.
 *
 *   strict DIR CLIENTS        until SIGTERM; then "N rounds" and exit 0. The first call that fails,
 *                             or was done twice or not at all, is said with its place and ends
 *                             everything with exit 1.
 *
 * Each client is a process with a directory of its own. Calls that are not the same when done twice
 * (mkdir, link, rename, exchange, O_EXCL, XATTR_CREATE ...) come first; after each the state is
 * looked at. One file is open all the time and has no name, one is mapped, one is locked (fcntl and
 * flock): they must go on working. Written for servers that are killed and replaced under the
 * mount.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static volatile sig_atomic_t stop;
static int client;
static unsigned long round_n;

static void on_term(int sig)
{
    (void)sig;
    stop = 1;
}

static void failed(const char *what, int line)
{
    (void)printf("client %d, round %lu, line %d: %s: %s\n", client, round_n, line, what,
                 strerror(errno));
    (void)fflush(stdout);
    _exit(1);
}
#define MUST(cond)                   \
    do {                             \
        errno = 0;                   \
        if (!(cond))                 \
            failed(#cond, __LINE__); \
    } while (0)

static bool absent(const char *name)
{
    struct stat st;
    return lstat(name, &st) < 0 && errno == ENOENT;
}

static unsigned links(const char *name)
{
    struct stat st;
    return lstat(name, &st) < 0 ? 0 : (unsigned)st.st_nlink;
}

static uint64_t inode(const char *name)
{
    struct stat st;
    return lstat(name, &st) < 0 ? 0 : st.st_ino;
}

static void put(const char *name, const char *text)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    MUST(fd >= 0);
    MUST(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    MUST(close(fd) == 0);
}

static bool holds(const char *name, const char *text)
{
    char buf[64];
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf));
    if (fd >= 0)
        close(fd);
    return n == (ssize_t)strlen(text) && memcmp(buf, text, (size_t)n) == 0;
}

static int entries(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;
    MUST(d != NULL);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

/* Names: each call once. */
static void names(void)
{
    uint64_t a, b;
    MUST(mkdir("d", 0755) == 0);
    MUST(mkdir("d/e", 0700) == 0);
    put("d/a", "first");
    MUST(link("d/a", "d/l") == 0);
    MUST(links("d/a") == 2);
    MUST(symlink("a", "d/s") == 0);
    MUST(mknod("d/fifo", S_IFIFO | 0600, 0) == 0);
    MUST(rename("d/a", "d/b") == 0);
    MUST(absent("d/a") && holds("d/b", "first"));
    put("d/c", "second");
    a = inode("d/b");
    b = inode("d/c");
    MUST(syscall(SYS_renameat2, AT_FDCWD, "d/b", AT_FDCWD, "d/c", RENAME_EXCHANGE) == 0);
    MUST(inode("d/b") == b && inode("d/c") == a && holds("d/b", "second"));
    MUST(syscall(SYS_renameat2, AT_FDCWD, "d/b", AT_FDCWD, "d/n", RENAME_NOREPLACE) == 0);
    MUST(rename("d/n", "d/c") == 0); /* over another */
    MUST(holds("d/c", "second") && links("d/l") == 1);
    MUST(rename("d/e", "d/f") == 0);
    MUST(entries("d") == 5); /* c f fifo l s */
    MUST(unlink("d/l") == 0 && unlink("d/s") == 0 && unlink("d/fifo") == 0 && unlink("d/c") == 0);
    MUST(rmdir("d/f") == 0);
    MUST(rmdir("d") == 0);
    MUST(absent("d"));
}

/* Attributes and content: each call once. */
static void content(int tmp_dir)
{
    struct stat st;
    char buf[8192], name[64];
    int fd = open("w", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    MUST(fd >= 0);
    memset(buf, 'a' + (int)(round_n % 26), sizeof(buf));
    for (int i = 0; i < 4; i++)
        MUST(write(fd, buf, sizeof(buf)) == sizeof(buf));
    MUST(fstat(fd, &st) == 0 && st.st_size == 4 * sizeof(buf));
    MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0);
    MUST(pread(fd, buf, 1, 0) == 1 && buf[0] == 0);
    MUST(pread(fd, buf, 1, 4096) == 1 && buf[0] == 'a' + (int)(round_n % 26));
    MUST(fallocate(fd, 0, 0, 100000) == 0);
    MUST(ftruncate(fd, 5000) == 0);
    MUST(fstat(fd, &st) == 0 && st.st_size == 5000);
    MUST(fsetxattr(fd, "user.k", "v", 1, XATTR_CREATE) == 0);
    MUST(fsetxattr(fd, "user.k", "w", 1, XATTR_REPLACE) == 0);
    MUST(fgetxattr(fd, "user.k", buf, sizeof(buf)) == 1 && buf[0] == 'w');
    MUST(fremovexattr(fd, "user.k") == 0);
    MUST(fchmod(fd, 0640) == 0);
    MUST(fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0640);
    if (round_n % 8 == 0)
        MUST(fsync(fd) == 0);
    MUST(close(fd) == 0);
    MUST(unlink("w") == 0);
    fd = openat(tmp_dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    MUST(fd >= 0);
    MUST(write(fd, "tmp", 3) == 3);
    (void)snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    MUST(linkat(AT_FDCWD, name, AT_FDCWD, "t", AT_SYMLINK_FOLLOW) == 0);
    MUST(close(fd) == 0);
    MUST(holds("t", "tmp") && links("t") == 1);
    MUST(unlink("t") == 0);
}

/* What is open over many rounds. */
struct kept {
    int nameless, late, locked, flocked, append, dir;
    char *map;
};

static int make_open(const char *name, bool remove)
{
    int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    MUST(fd >= 0);
    MUST(ftruncate(fd, 65536) == 0);
    if (remove)
        MUST(unlink(name) == 0);
    return fd;
}

static void keep(struct kept *k)
{
    struct flock lk = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
    k->nameless = make_open("nameless", true);
    k->late = make_open("late", false);
    k->locked = make_open("locked", false);
    k->flocked = make_open("flocked", false);
    k->append = open("append", O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
    k->dir = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(k->append >= 0 && k->dir >= 0);
    MUST(fcntl(k->locked, F_SETLK, &lk) == 0);
    MUST(flock(k->flocked, LOCK_EX) == 0);
    int fd = make_open("mapped", false);
    k->map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(k->map != MAP_FAILED);
    MUST(close(fd) == 0);
}

/* The number of the round stands everywhere where it was put. */
static void look_after(struct kept *k)
{
    uint64_t n = round_n, got = 0;
    off_t at = (off_t)(8 * (round_n % 1000));
    struct stat st;
    MUST(pwrite(k->nameless, &n, 8, at) == 8);
    MUST(pread(k->nameless, &got, 8, at) == 8 && got == n);
    MUST(fstat(k->nameless, &st) == 0 && st.st_nlink == 0 && st.st_size == 65536);
    MUST(pwrite(k->late, &n, 8, at) == 8);
    MUST(pread(k->late, &got, 8, at) == 8 && got == n);
    memcpy(k->map + at, &n, 8);
    if (round_n % 16 == 0)
        MUST(msync(k->map, 65536, MS_SYNC) == 0);
    MUST(write(k->append, &n, 8) == 8);
    MUST(fstat(k->append, &st) == 0 && st.st_size == (off_t)(8 * (round_n + 1)));
}

/* Another process is refused both locks. */
static void locks_hold(void)
{
    int status = 0;
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        struct flock lk = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 12, .l_len = 1};
        int a = open("locked", O_RDWR | O_CLOEXEC), b = open("flocked", O_RDWR | O_CLOEXEC);
        MUST(a >= 0 && b >= 0);
        MUST(fcntl(a, F_SETLK, &lk) < 0 && (errno == EAGAIN || errno == EACCES));
        MUST(flock(b, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
        _exit(0);
    }
    while (waitpid(pid, &status, 0) < 0) {
        int why = errno;
        MUST(why == EINTR);
    }
    MUST(status == 0);
}

static void map_is_in_the_file(const struct kept *k)
{
    static char buf[65536];
    int fd = open("mapped", O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0 && msync(k->map, 65536, MS_SYNC) == 0);
    MUST(read(fd, buf, sizeof(buf)) == sizeof(buf));
    MUST(memcmp(buf, k->map, sizeof(buf)) == 0);
    MUST(close(fd) == 0);
}

static void run_client(const char *dir)
{
    struct kept k;
    char path[64];
    (void)snprintf(path, sizeof(path), "strict%d", client);
    MUST(chdir(dir) == 0);
    MUST(mkdir(path, 0755) == 0 && chdir(path) == 0);
    keep(&k);
    for (round_n = 0; !stop; round_n++) {
        names();
        content(k.dir);
        look_after(&k);
        if (round_n == 20)
            MUST(unlink("late") == 0);
        if (round_n % 32 == 31)
            locks_hold();
    }
    map_is_in_the_file(&k);
    (void)printf("client %d: %lu rounds\n", client, round_n);
    (void)fflush(stdout);
    _exit(0);
}

int main(int argc, char **argv)
{
    struct sigaction sa = {.sa_handler = on_term};
    int n = argc == 3 ? atoi(argv[2]) : 0, status, bad = 0;
    pid_t pids[64];

    if (n < 1 || n > 64) {
        (void)fprintf(stderr, "usage: strict DIR CLIENTS\n");
        return 2;
    }
    (void)sigaction(SIGTERM, &sa, NULL);
    for (client = 0; client < n; client++) {
        pids[client] = fork();
        if (pids[client] == 0)
            run_client(argv[1]);
    }
    bool told = false;
    for (int left = n; left > 0;) {
        pid_t pid = wait(&status);
        if (pid > 0) {
            left--;
            bad |= status != 0;
        }
        if ((stop || bad) && !told) {
            told = true;
            for (int i = 0; i < n; i++)
                (void)kill(pids[i], SIGTERM);
        }
    }
    return bad ? 1 : 0;
}
