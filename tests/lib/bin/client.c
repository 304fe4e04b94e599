/* client.c: a client of a workspace, wherever that is served at the moment: writes a little and
 * syncs it, again and again, and notes each answer outside.
 *
 *   client DIR LOG NAME [--size BYTES] [--threads N] [--pause-us N]
 *
 * Owns: the files DIR/.client-NAME-I, one a thread, each written over and over. One runs on every
 * host that may serve DIR. Happy path: whenever a FUSE filesystem is mounted on DIR: open (creating
 * if needed), write of BYTES (4096), fsync, close = one operation; when all of it succeeded, one
 * line "end_us start_us bytes NAME I" is appended to LOG, in one write. Times are CLOCK_REALTIME,
 * so that a script can compare them with its own. Failure modes: an operation that failed, or
 * nothing mounted: tried again after a moment, for ever; it is noted once it succeeds, with the
 * time of its first try. What is not written in the directory below a mount: the directory is
 * looked at first, and all goes through that descriptor. Ends by a signal; 2 for usage or if LOG
 * cannot be written. Threads: N (1), and main, which waits for them. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define FUSE_MAGIC  0x65735546
#define THREADS_MAX 16
#define SIZE_MAX_B  (4l << 20)
#define AGAIN_US    2000

static struct {
    const char *dir, *name;
    int log;
    size_t size;
    unsigned threads, pause_us;
} cfg = {.size = 4096, .threads = 1};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* True if all of it was done. */
static bool operation(const char *file, const void *data)
{
    struct statfs fs;
    int dir = open(cfg.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = dir >= 0 && fstatfs(dir, &fs) == 0 && fs.f_type == FUSE_MAGIC;
    int fd = ok ? openat(dir, file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644) : -1;
    ok = fd >= 0 && pwrite(fd, data, cfg.size, 0) == (ssize_t)cfg.size && fsync(fd) == 0;
    if (fd >= 0)
        ok = close(fd) == 0 && ok;
    if (dir >= 0)
        close(dir);
    return ok;
}

static void note(uint64_t start, unsigned thread)
{
    char line[128];
    int n = snprintf(line, sizeof(line), "%llu %llu %zu %s %u\n", (unsigned long long)now_us(),
                     (unsigned long long)start, cfg.size, cfg.name, thread);
    if (write(cfg.log, line, (size_t)n) != n) {
        perror("client: cannot write the log");
        _exit(2);
    }
}

static void *run(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    char file[128];
    snprintf(file, sizeof(file), ".client-%s-%u", cfg.name, thread);
    uint8_t *data = malloc(cfg.size);
    if (!data)
        abort();
    uint64_t rng = now_us() * 2654435761u + thread;
    for (size_t i = 0; i < cfg.size; i++) { /* what does not compress */
        rng = rng * 6364136223846793005ull + 1442695040888963407ull;
        data[i] = (uint8_t)(rng >> 56);
    }
    for (;;) {
        uint64_t start = now_us();
        while (!operation(file, data))
            usleep(AGAIN_US);
        note(start, thread);
        if (cfg.pause_us)
            usleep(cfg.pause_us);
    }
    return NULL;
}

static unsigned long number(const char *s, unsigned long lo, unsigned long hi)
{
    char *end;
    unsigned long n = strtoul(s, &end, 10);
    if (*end || n < lo || n > hi) {
        fprintf(stderr, "client: '%s' is not a number from %lu to %lu\n", s, lo, hi);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"size", 1, NULL, 's'}, {"threads", 1, NULL, 't'}, {"pause-us", 1, NULL, 'p'}, {0}};
    int opt;
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt == 's')
            cfg.size = number(optarg, 1, SIZE_MAX_B);
        else if (opt == 't')
            cfg.threads = (unsigned)number(optarg, 1, THREADS_MAX);
        else if (opt == 'p')
            cfg.pause_us = (unsigned)number(optarg, 0, 1000000);
        else
            return 2;
    }
    if (optind != argc - 3 || strlen(argv[optind + 2]) > 32) {
        fputs("usage: client DIR LOG NAME [--size BYTES] [--threads N] [--pause-us N]\n", stderr);
        return 2;
    }
    cfg.dir = argv[optind];
    cfg.name = argv[optind + 2];
    cfg.log = open(argv[optind + 1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (cfg.log < 0) {
        perror(argv[optind + 1]);
        return 2;
    }
    pthread_t t[THREADS_MAX];
    for (unsigned i = 0; i < cfg.threads; i++)
        if (pthread_create(&t[i], NULL, run, (void *)(uintptr_t)i) != 0)
            abort();
    for (unsigned i = 0; i < cfg.threads; i++)
        pthread_join(t[i], NULL);
    return 0;
}
