/* linkio.c: what `make bench-link` and `make bench-peers` measure with, each timed inside one
 * process.
 *
 *   linkio fsyncs DIR SECONDS        a new file of 4 KiB, written and synced, again and again;
 *                                    prints "COUNT P50 P99 MAX" in ms
 *   linkio bulk FILE MIB [text]      incompressible bytes (or lines of text), 1 MiB at a time, no
 *                                    sync; with `sync` as the last word one at the end. Prints MB/s
 *   linkio serve PORT FILE           on 127.0.0.1: echoes (E), or stores (S) and syncs what comes
 *   linkio rtt PORT N                "COUNT P50 P99 MAX" of a byte to serve and back, in ms
 *   linkio copy PORT FILE            FILE to serve's; ends when it is synced there. Prints MB/s
 *   linkio probe FILE FILE           writes and syncs both, whichever can be opened, until a signal
 *                                    TERM; prints one line for each change from one to the other:
 *                                    the ms between the last that was done there and the first here
 *
 * probe never creates a file: an unmounted mount point has none. Failure modes: exit 1 with the
 * reason on stderr. Threads: main; of probe one for each file.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX 200000u

static char block[1 << 20];
static double samples[SAMPLES_MAX];
static size_t samples_n;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
    fprintf(stderr, "linkio: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void sample(double seconds)
{
    if (samples_n < SAMPLES_MAX)
        samples[samples_n++] = seconds * 1000;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_samples(void)
{
    qsort(samples, samples_n, sizeof samples[0], by_value);
    if (samples_n == 0)
        die("nothing was measured");
    printf("%zu %.2f %.2f %.2f\n", samples_n, samples[samples_n / 2], samples[samples_n * 99 / 100],
           samples[samples_n - 1]);
}

static void write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0)
            die("write");
        p += w;
        n -= (size_t)w;
    }
}

/* --- files ------------------------------------------------------------------------------------ */

static void fsyncs(const char *dir, double seconds)
{
    char path[4096];
    if (getrandom(block, 4096, 0) != 4096)
        die("random");
    double end = now_s() + seconds;
    for (unsigned i = 0; now_s() < end; i++) {
        snprintf(path, sizeof path, "%s/s%d-%u", dir, (int)getpid(), i);
        double t = now_s();
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0 || write(fd, block, 4096) != 4096 || fsync(fd) != 0 || close(fd) != 0)
            die(path);
        sample(now_s() - t);
    }
    print_samples();
}

/* What LZ4 makes a third or so of: lines of words and numbers. */
static void fill_text(uint64_t *seed)
{
    static const char *const words[] = {"epoch",     "loss=",  "step ",
                                        "accuracy ", "batch/", "[info] "};
    for (size_t at = 0; at + 64 < sizeof block;) {
        *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
        at += (size_t)snprintf(block + at, 64, "%s%05u.%04u%s", words[(*seed >> 40) % 6],
                               (unsigned)(*seed >> 33) % 100000, (unsigned)(*seed >> 20) % 10000,
                               (*seed >> 60) ? " " : "\n");
    }
}

static void fill_random(uint64_t *x)
{
    for (size_t i = 0; i + 8 <= sizeof block; i += 8) {
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        memcpy(block + i, x, 8);
    }
}

static void bulk(const char *path, unsigned long mib, bool text, bool sync)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        die("random");
    seed |= 1;
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (fd < 0)
        die(path);
    double t = now_s();
    for (unsigned long i = 0; i < mib; i++) {
        if (text)
            fill_text(&seed);
        else
            fill_random(&seed);
        write_all(fd, block, sizeof block);
    }
    if ((sync && fsync(fd) != 0) || close(fd) != 0)
        die(path);
    printf("%.1f\n", (double)mib * 1.048576 / (now_s() - t));
}

/* --- the plain copy and the round trip -------------------------------------------------------- */

static struct sockaddr_in address(const char *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static void serve_one(int s, const char *path)
{
    char what;
    ssize_t n;
    if (read(s, &what, 1) != 1)
        return;
    if (what == 'E') {
        while ((n = read(s, &what, 1)) == 1)
            write_all(s, &what, 1);
        return;
    }
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (fd < 0)
        die(path);
    while ((n = read(s, block, sizeof block)) > 0)
        write_all(fd, block, (size_t)n);
    if (n < 0 || fsync(fd) != 0 || close(fd) != 0)
        die(path);
    write_all(s, "k", 1);
}

static void serve(const char *port, const char *path)
{
    int one = 1, l = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = address(port);
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(l, (struct sockaddr *)&a, sizeof a) != 0 || listen(l, 8) != 0)
        die("listen");
    for (;;) {
        int s = accept(l, NULL, NULL);
        if (s < 0)
            die("accept");
        setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        serve_one(s, path);
        close(s);
    }
}

static int call(const char *port, char what)
{
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = address(port);
    if (connect(s, (struct sockaddr *)&a, sizeof a) != 0)
        die("connect");
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    write_all(s, &what, 1);
    return s;
}

static void rtt(const char *port, unsigned long n)
{
    char c = 0;
    int s = call(port, 'E');
    while (n-- > 0) {
        double t = now_s();
        write_all(s, &c, 1);
        if (read(s, &c, 1) != 1)
            die("echo");
        sample(now_s() - t);
    }
    print_samples();
}

static void copy(const char *port, const char *path)
{
    int fd = open(path, O_RDONLY), s = call(port, 'S');
    if (fd < 0)
        die(path);
    double t = now_s(), bytes = 0;
    ssize_t n;
    while ((n = read(fd, block, sizeof block)) > 0) {
        write_all(s, block, (size_t)n);
        bytes += (double)n;
    }
    if (n < 0 || shutdown(s, SHUT_WR) != 0 || read(s, block, 1) != 1)
        die("copy");
    printf("%.1f\n", bytes / 1e6 / (now_s() - t));
}

/* --- probe ------------------------------------------------------------------------------------ */

static atomic_bool stopping;
static struct {
    pthread_mutex_t lock;
    int side;
    double last; /* when a sync was last done, on `side` */
} done = {.lock = PTHREAD_MUTEX_INITIALIZER, .side = -1};

struct side {
    const char *path;
    int no;
};

static bool write_once(const char *path)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return false;
    bool good = pwrite(fd, block, 512, 0) == 512 && fsync(fd) == 0;
    return close(fd) == 0 && good;
}

static void *probe_side(void *arg)
{
    const struct side *s = arg;
    while (!stopping) {
        double began = now_s();
        if (!write_once(s->path)) {
            usleep(1000);
            continue;
        }
        double t = now_s();
        pthread_mutex_lock(&done.lock);
        /* one that had begun before the other side's last was done says nothing of a change back */
        if (done.side == s->no || began >= done.last) {
            if (done.side >= 0 && done.side != s->no) {
                printf("%.1f\n", (t - done.last) * 1000);
                fflush(stdout);
            }
            done.side = s->no;
            done.last = t;
        }
        pthread_mutex_unlock(&done.lock);
    }
    return NULL;
}

static void on_term(int sig)
{
    (void)sig;
    stopping = true;
}

static void probe(const char *a, const char *b)
{
    struct side sides[2] = {{a, 0}, {b, 1}};
    pthread_t t[2];
    signal(SIGTERM, on_term);
    for (int i = 0; i < 2; i++)
        if (pthread_create(&t[i], NULL, probe_side, &sides[i]) != 0)
            die("thread");
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
}

int main(int argc, char **argv)
{
    const char *verb = argc > 3 ? argv[1] : "";
    bool text = argc > 4 && !strcmp(argv[4], "text");
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(verb, "fsyncs"))
        fsyncs(argv[2], atof(argv[3]));
    else if (!strcmp(verb, "bulk"))
        bulk(argv[2], strtoul(argv[3], NULL, 10), text, !strcmp(argv[argc - 1], "sync"));
    else if (!strcmp(verb, "serve"))
        serve(argv[2], argv[3]);
    else if (!strcmp(verb, "rtt"))
        rtt(argv[2], strtoul(argv[3], NULL, 10));
    else if (!strcmp(verb, "copy"))
        copy(argv[2], argv[3]);
    else if (!strcmp(verb, "probe"))
        probe(argv[2], argv[3]);
    else {
        fprintf(stderr, "linkio: the words are at the top of tests/bench/linkio.c\n");
        return 2;
    }
    return 0;
}
