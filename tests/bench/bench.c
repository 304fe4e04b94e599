/* bench.c: the workloads of `make bench`, each timed inside one process on one directory.
 *
 *   bench DIR WORKLOAD [N]      prints "WORKLOAD VALUE UNIT": microseconds per operation, or MB/s
 *
 * Workloads: create (open+write 4 KiB+close), stat (first), restat (cached), readsmall
 * (open+read+close, cached), readdir, rename, unlink, mkdir, seqwrite (1 MiB writes, fsync at the
 * end), seqread (cached), coldread (caches dropped before), syncwrite (4 KiB random write + fsync,
 * one thread), syncwrite8 (eight threads, a file each), small (write 4 KiB without sync), sqlitewal
 * and sqlitejournal (transactions of one row, synchronous=FULL). create leaves its files for stat,
 * restat, readsmall, rename and unlink, seqwrite its file for seqread and coldread; they must
 * follow in one directory. Thread: main, and the eight.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PER_DIR 1000

static char dir[3000];
static char block[1 << 20];

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
    fprintf(stderr, "bench: %s in %s: %s\n", what, dir, strerror(errno));
    exit(1);
}

static void file_name(char *buf, size_t size, const char *prefix, long i)
{
    snprintf(buf, size, "%s/d%ld/%s%ld", dir, i / PER_DIR, prefix, i % PER_DIR);
}

static double per_op(double t0, long n)
{
    return (now_s() - t0) * 1e6 / (double)n;
}

static double create(long n)
{
    char p[4096];
    for (long d = 0; d * PER_DIR < n; d++) {
        snprintf(p, sizeof p, "%s/d%ld", dir, d);
        if (mkdir(p, 0755) != 0)
            die("mkdir");
    }
    double t0 = now_s();
    for (long i = 0; i < n; i++) {
        file_name(p, sizeof p, "f", i);
        int fd = open(p, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0 || write(fd, block, 4096) != 4096 || close(fd) != 0)
            die("create");
    }
    return per_op(t0, n);
}

static double stat_all(long n)
{
    char p[4096];
    struct stat st;
    double t0 = now_s();
    for (long i = 0; i < n; i++) {
        file_name(p, sizeof p, "f", i);
        if (stat(p, &st) != 0 || st.st_size != 4096)
            die("stat");
    }
    return per_op(t0, n);
}

static double read_small(long n)
{
    char p[4096], buf[4096];
    double t0 = 0;
    for (int pass = 0; pass < 2; pass++) { /* the first fills the cache */
        t0 = now_s();
        for (long i = 0; i < n; i++) {
            file_name(p, sizeof p, "f", i);
            int fd = open(p, O_RDONLY);
            if (fd < 0 || read(fd, buf, sizeof buf) != 4096)
                die("read");
            close(fd);
        }
    }
    return per_op(t0, n);
}

static double read_dir(long n)
{
    char p[4096];
    double t0 = now_s();
    long seen = 0;
    for (long d = 0; d * PER_DIR < n; d++) {
        snprintf(p, sizeof p, "%s/d%ld", dir, d);
        DIR *h = opendir(p);
        if (!h)
            die("opendir");
        while (readdir(h))
            seen++;
        closedir(h);
    }
    return per_op(t0, seen ? seen : 1);
}

static double rename_all(long n)
{
    char p[4096], q[4096];
    double t0 = now_s();
    for (long i = 0; i < n; i++) {
        file_name(p, sizeof p, "f", i);
        file_name(q, sizeof q, "g", i);
        if (rename(p, q) != 0)
            die("rename");
    }
    return per_op(t0, n);
}

static double unlink_all(long n)
{
    char p[4096];
    double t0 = now_s();
    for (long i = 0; i < n; i++) {
        file_name(p, sizeof p, "g", i);
        if (unlink(p) != 0)
            die("unlink");
    }
    return per_op(t0, n);
}

static double make_dirs(long n)
{
    char p[4096];
    double t0 = now_s();
    for (long i = 0; i < n; i++) {
        snprintf(p, sizeof p, "%s/m%ld", dir, i);
        if (mkdir(p, 0755) != 0)
            die("mkdir");
    }
    return per_op(t0, n);
}

static double seq_write(long mib)
{
    char p[4096];
    snprintf(p, sizeof p, "%s/big", dir);
    int fd = open(p, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    double t0 = now_s();
    for (long i = 0; i < mib; i++) {
        memcpy(block, &i, sizeof i);
        if (write(fd, block, sizeof block) != (ssize_t)sizeof block)
            die("write");
    }
    if (fsync(fd) != 0 || close(fd) != 0)
        die("fsync");
    return (double)mib * 1.048576 / (now_s() - t0);
}

/* Clean pages of every filesystem, the one below a mount included. */
static void drop_caches(void)
{
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
    if (fd < 0 || write(fd, "1", 1) != 1)
        die("drop_caches");
    close(fd);
}

static double seq_read(long mib, bool cold)
{
    char p[4096];
    double t0 = 0;
    long got = 0;
    snprintf(p, sizeof p, "%s/big", dir);
    if (cold)
        drop_caches();
    for (int pass = cold; pass < 2; pass++) { /* the first fills the cache */
        int fd = open(p, O_RDONLY);
        t0 = now_s();
        for (got = 0; got < mib && read(fd, block, sizeof block) == (ssize_t)sizeof block;)
            got++;
        close(fd);
    }
    if (got != mib)
        die("read");
    return (double)mib * 1.048576 / (now_s() - t0);
}

struct job {
    long n;
    int id;
};

static void *sync_writer(void *arg)
{
    struct job *j = arg;
    char p[4096], b[4096];
    uint64_t x = 88172645463325252ull + (unsigned long long)j->id;
    memset(b, j->id + 1, sizeof b);
    snprintf(p, sizeof p, "%s/sync%d", dir, j->id);
    int fd = open(p, O_WRONLY);
    if (fd < 0)
        die("open");
    for (long i = 0; i < j->n; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        if (pwrite(fd, b, sizeof b, (off_t)(x % 4096) * 4096) != (ssize_t)sizeof b ||
            fsync(fd) != 0)
            die("write+fsync");
    }
    close(fd);
    return NULL;
}

static double sync_write(long n, int threads)
{
    pthread_t t[8];
    struct job j[8];
    char p[4096];
    for (int i = 0; i < threads; i++) {
        /* 16 MiB files, written and synced before the clock starts */
        snprintf(p, sizeof p, "%s/sync%d", dir, i);
        int fd = open(p, O_CREAT | O_WRONLY, 0644);
        for (int k = 0; k < 16; k++)
            if (fd < 0 || write(fd, block, sizeof block) != (ssize_t)sizeof block)
                die("prepare");
        if (fsync(fd) != 0)
            die("fsync");
        close(fd);
    }
    double t0 = now_s();
    for (int i = 0; i < threads; i++) {
        j[i] = (struct job){n, i};
        pthread_create(&t[i], NULL, sync_writer, &j[i]);
    }
    for (int i = 0; i < threads; i++)
        pthread_join(t[i], NULL);
    return per_op(t0, n * threads);
}

static void sql(sqlite3 *db, const char *text)
{
    char *why = NULL;
    if (sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK) {
        fprintf(stderr, "bench: %s: %s\n", text, why);
        exit(1);
    }
}

static double sqlite_commits(long n, const char *mode)
{
    char p[4096], pragma[64];
    sqlite3 *db;
    snprintf(p, sizeof p, "%s/%s.db", dir, mode);
    if (sqlite3_open(p, &db) != SQLITE_OK)
        die("sqlite3_open");
    snprintf(pragma, sizeof pragma, "PRAGMA journal_mode=%s; PRAGMA synchronous=FULL", mode);
    sql(db, pragma);
    sql(db, "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)");
    double t0 = now_s();
    for (long i = 0; i < n; i++)
        sql(db,
            "INSERT INTO t(v) VALUES('some seventy bytes of text, as a row of results may have them')");
    double r = per_op(t0, n);
    sqlite3_close(db);
    return r;
}

static double small_writes(long n)
{
    char p[4096];
    snprintf(p, sizeof p, "%s/small", dir);
    int fd = open(p, O_CREAT | O_WRONLY, 0644);
    double t0 = now_s();
    for (long i = 0; i < n; i++)
        if (pwrite(fd, block, 4096, (off_t)(i * 7919 % 4096) * 4096) != 4096)
            die("write");
    double r = per_op(t0, n);
    close(fd);
    return r;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: bench DIR WORKLOAD [N]\n");
        return 2;
    }
    snprintf(dir, sizeof dir, "%s", argv[1]);
    const char *w = argv[2];
    long n = argc > 3 ? atol(argv[3]) : 10000;
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (char)(i * 2654435761u >> 13); /* LZ4 finds little in it */
    double v = 0;
    const char *unit = "us/op";
    if (strcmp(w, "create") == 0)
        v = create(n);
    else if (strcmp(w, "stat") == 0)
        v = stat_all(n);
    else if (strcmp(w, "readsmall") == 0)
        v = read_small(n);
    else if (strcmp(w, "readdir") == 0)
        v = read_dir(n);
    else if (strcmp(w, "rename") == 0)
        v = rename_all(n);
    else if (strcmp(w, "unlink") == 0)
        v = unlink_all(n);
    else if (strcmp(w, "mkdir") == 0)
        v = make_dirs(n);
    else if (strcmp(w, "seqwrite") == 0)
        v = seq_write(n), unit = "MB/s";
    else if (strcmp(w, "seqread") == 0)
        v = seq_read(n, false), unit = "MB/s";
    else if (strcmp(w, "coldread") == 0)
        v = seq_read(n, true), unit = "MB/s";
    else if (strcmp(w, "restat") == 0)
        v = (stat_all(n), stat_all(n));
    else if (strcmp(w, "sqlitewal") == 0)
        v = sqlite_commits(n, "WAL");
    else if (strcmp(w, "sqlitejournal") == 0)
        v = sqlite_commits(n, "DELETE");
    else if (strcmp(w, "syncwrite") == 0)
        v = sync_write(n, 1);
    else if (strcmp(w, "syncwrite8") == 0)
        v = sync_write(n, 8);
    else if (strcmp(w, "small") == 0)
        v = small_writes(n);
    else
        return fprintf(stderr, "bench: no workload %s\n", w), 2;
    printf("%s %.3f %s\n", w, v, unit);
    return 0;
}
