/* ledger.c: the witness outside the failure. Clients write into a filesystem and note elsewhere
 * what was done and what was acknowledged; after the crash the judge compares what is there with
 * what must be there.
 *
 *   ledger write --dir D --ledger FILE [--clients N] [--seed S] [--sync-every K] [--size BYTES]
 *                [--bulk BYTES] [--ops N] [--pause-us N]
 *   ledger judge --dir D --ledger FILE [--quiet]
 *
 * write: N threads (default 4), thread i alone in D/ci, do the operations of ledger_model.h one
 * after the other, until SIGTERM or SIGINT, an error, or N operations each. After each one it
 * appends a record to FILE (which must not exist yet, and must be on a filesystem that survives)
 * before it begins the next. After every K operations (default 25, 0 = never) it fsyncs a file it
 * just touched or its directory, and notes the acknowledgement. --bulk: also files of BYTES,
 * written in chunks (see the model). A client whose operation or sync fails notes the errno and
 * stops. Exit 0 also then; 2 if the ledger itself fails.
 *
 * judge: per client the tree must equal the model after its first k operations, for some k (names,
 * types, modes, links, xattrs, bytes of small files). These k must satisfy: (1) every operation of
 * any client that ended before an acknowledged sync of any client began is in; (2) if b is in, and
 * a ended before b began, a is in. Several k of a client can look the same; what is accepted is the
 * greatest choice that satisfies (2), which exists if any does, since both kinds of rule survive
 * taking the greater of two choices. (3) A bulk file has: a version from its latest acknowledged
 * fsync on; without one, a version from the moment it replaced another on, or what that one may
 * have; without either, or if nothing of that one was acknowledged (a standby may never have had it
 * whole), any version cut anywhere. Never other bytes. Prints a line a client, a line a bulk file
 * that is not whole, and the verdict. Exit 0 = good, 1 = not, 2 = cannot judge.
 *
 * FILE: a header of 128 bytes, then records of 64, text padded with blanks, so that no record
 * crosses a page and a killed writer leaves no half of one: "TYPE client k start_ns end_ns
 * [errno]". Types: o operation done, s sync acknowledged, b fsync of the bulk file acknowledged, e
 * operation failed, f sync failed. Times are CLOCK_BOOTTIME: write on the machine that judges, or
 * its boot. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/base/clock.h"
#include "fs/base/conf.h"
#include "fs/base/thread.h"
#include "tests/lib/ledger_judge.h"

static uint64_t now_ns(void)
{
    const struct dmt_clock *c = dmt_clock_real();
    return c->monotonic_ns(c->ctx);
}

/* --- write --- */

struct writer {
    pthread_t thread;
    struct model m;
    char dir[PATH_LEN];
    uint64_t syncs, rng;
    int error;
};

static int g_ledger_fd;
static dev_t g_dev; /* of the directory at the start */
static atomic_bool g_stop;
static atomic_uint g_running;

static void record(char type, const struct writer *w, uint64_t start, uint64_t end, int error)
{
    char line[RECORD + 1];
    int n = snprintf(line, sizeof(line), "%c %u %u %llu %llu %d", type, w->m.client, w->m.k,
                     (unsigned long long)start, (unsigned long long)end, error);
    DMT_ASSERT(n > 0 && n < RECORD);
    memset(line + n, ' ', (size_t)(RECORD - n));
    line[RECORD - 1] = '\n';
    if (write(g_ledger_fd, line, RECORD) != RECORD) {
        perror("ledger: cannot write the ledger");
        _exit(2);
    }
}

/* 0 or the errno, for calls that answer -1. */
static int sys(long r)
{
    return r < 0 ? errno : 0;
}

/* What no entry explains may be the mount that went away between two operations: the path then
 * leads to the directory below it. That is an end like any other of the file system. */
static int told(int error)
{
    struct stat st;
    if (error != ENOENT || (stat(cfg.dir, &st) == 0 && st.st_dev == g_dev))
        return error;
    return ENODEV;
}

static int write_file(const char *path, const struct writer *w, const struct op *op)
{
    uint8_t *p = malloc(op->len);
    DMT_ASSERT(p);
    fill(w->m.client, op->k, op->off, p, op->len);
    int fd = open(path, O_WRONLY | O_CLOEXEC), r = sys(fd);
    if (r == 0) {
        ssize_t n = pwrite(fd, p, op->len, (off_t)op->off);
        r = n == (ssize_t)op->len ? 0 : n < 0 ? errno : ENOSPC;
        int c = sys(close(fd));
        r = r ? r : c;
    }
    free(p);
    return r;
}

static int create_file(const char *path, unsigned mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    return fd < 0 ? errno : sys(close(fd));
}

static int execute(const struct writer *w, const struct op *op)
{
    char a[2 * PATH_LEN], b[2 * PATH_LEN];
    (void)snprintf(a, sizeof(a), "%s/%s", w->dir, op->path);
    (void)snprintf(b, sizeof(b), "%s/%s", w->dir, op->path2);
    switch (op->kind) {
    case OP_CREATE:
        return create_file(a, op->mode);
    case OP_WRITE:
        return write_file(a, w, op);
    case OP_TRUNCATE:
        return sys(truncate(a, (off_t)op->off));
    case OP_RENAME:
        return sys(rename(a, b));
    case OP_EXCHANGE:
        return sys(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE));
    case OP_MKDIR:
        return sys(mkdir(a, op->mode));
    case OP_RMDIR:
        return sys(rmdir(a));
    case OP_UNLINK:
        return sys(unlink(a));
    case OP_LINK:
        return sys(link(a, b));
    case OP_SYMLINK:
        return sys(symlink(op->path2, a));
    case OP_SETXATTR:
        return sys(setxattr(a, op->name, op->value, strlen(op->value), 0));
    case OP_REMOVEXATTR:
        return sys(removexattr(a, op->name));
    case OP_CHMOD:
        return sys(chmod(a, op->mode));
    }
    return EINVAL;
}

/* fsync or fdatasync of a path relative to the client's directory ("" = the directory). */
static int sync_path(const struct writer *w, const char *path, bool data_only)
{
    char full[2 * PATH_LEN];
    (void)snprintf(full, sizeof(full), "%s/%s", w->dir, path);
    int fd = open(full, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int r = sys(data_only ? fdatasync(fd) : fsync(fd));
    int c = sys(close(fd));
    return r ? r : c;
}

/* An entry of the model a sync can be asked of, "" for the directory itself. Outside the model's
 * random numbers. */
static void choose_sync(struct writer *w, char *ret)
{
    w->rng = mix(w->rng);
    int e = (int)((w->rng >> 8) % ENTRIES_MAX);
    ret[0] = '\0';
    if (w->rng % 3 != 0 && e > 0 && w->m.e[e].used && strchr("fd", inode_of(&w->m, e)->type))
        path_of(&w->m, e, ret);
}

static int sync_some(struct writer *w)
{
    char path[PATH_LEN];
    bool bulk = w->m.bulk_sync >= 0;
    if (!bulk && (cfg.sync_every == 0 || w->m.k % cfg.sync_every != 0))
        return 0;
    if (bulk && cfg.sync_every == 0)
        return 0;
    if (bulk)
        path_of(&w->m, w->m.bulk_sync, path);
    else
        choose_sync(w, path);
    uint64_t start = now_ns();
    int r = told(sync_path(w, path, !bulk && path[0] && w->rng & 64));
    record(r ? 'f' : bulk ? 'b' : 's', w, start, now_ns(), r);
    w->syncs += r == 0;
    return r;
}

static void *client(void *arg)
{
    struct writer *w = arg;
    struct op op;
    w->error = told(mkdir(w->dir, 0755) < 0 ? errno : 0);
    while (w->error == 0 && !atomic_load(&g_stop) && w->m.k < cfg.ops) {
        model_next(&w->m, &op);
        uint64_t start = now_ns();
        w->error = told(execute(w, &op));
        record(w->error ? 'e' : 'o', w, start, now_ns(), w->error);
        if (w->error == 0)
            w->error = sync_some(w);
        if (cfg.pause_us)
            usleep(cfg.pause_us);
    }
    atomic_fetch_sub(&g_running, 1);
    return NULL;
}

static void start_ledger(void)
{
    char header[HEADER + 1];
    g_ledger_fd = open(cfg.ledger, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    if (g_ledger_fd < 0)
        fatal("cannot create %s: %s", cfg.ledger, strerror(errno));
    int n =
        snprintf(header, sizeof(header), "ledger 1 seed=%llu clients=%u size=%u bulk=%llu",
                 (unsigned long long)cfg.seed, cfg.clients, cfg.size, (unsigned long long)cfg.bulk);
    memset(header + n, ' ', (size_t)(HEADER - n));
    header[HEADER - 1] = '\n';
    if (write(g_ledger_fd, header, HEADER) != HEADER)
        fatal("cannot write %s: %s", cfg.ledger, strerror(errno));
}

/* Waits until all clients ended or a signal asks them to; then gives a client stuck in a system
 * call 5 more seconds. */
static void wait_for_end(const sigset_t *signals)
{
    struct timespec tick = {0, 20000000};
    int stuck = 250;
    while (atomic_load(&g_running) > 0 && stuck > 0) {
        if (sigtimedwait(signals, NULL, &tick) > 0)
            atomic_store(&g_stop, true);
        if (atomic_load(&g_stop))
            stuck--;
    }
}

static int ledger_write(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    struct stat st;
    umask(0);
    if (stat(cfg.dir, &st) < 0)
        fatal("cannot look at %s: %s", cfg.dir, strerror(errno));
    g_dev = st.st_dev;
    start_ledger();
    struct writer *all = calloc(cfg.clients, sizeof(*all));
    DMT_ASSERT(all);
    atomic_store(&g_running, cfg.clients);
    for (unsigned i = 0; i < cfg.clients; i++) {
        struct writer *w = &all[i];
        model_init(&w->m, cfg.seed, i, cfg.size, cfg.bulk);
        w->rng = mix(cfg.seed + i);
        (void)snprintf(w->dir, sizeof(w->dir), "%s/c%u", cfg.dir, i);
        if (dmt_thread_start(&w->thread, "client", client, w) < 0)
            fatal("cannot start a thread");
    }
    wait_for_end(&signals);
    uint64_t ops = 0, syncs = 0;
    unsigned stopped = 0, stuck = atomic_load(&g_running);
    for (unsigned i = 0; i < cfg.clients; i++) {
        if (stuck == 0)
            pthread_join(all[i].thread, NULL);
        ops += all[i].m.k;
        syncs += all[i].syncs;
        if (all[i].error) {
            stopped++;
            printf("client %u stopped at operation %u: %s\n", i, all[i].m.k,
                   strerror(all[i].error));
        }
    }
    printf("%llu operations, %llu acknowledged syncs, %u clients stopped by errors, %u stuck\n",
           (unsigned long long)ops, (unsigned long long)syncs, stopped, stuck);
    fflush(stdout);
    if (stuck > 0)
        _exit(0); /* their threads still use what would be freed */
    for (unsigned i = 0; i < cfg.clients; i++)
        model_free(&all[i].m);
    free(all);
    return 0;
}

/* --- main --- */

static void __attribute__((noreturn)) usage(void)
{
    fputs("usage: ledger write --dir D --ledger FILE [--clients N] [--seed S] [--sync-every K] "
          "[--size BYTES]\n"
          "                    [--bulk BYTES] [--ops N] [--pause-us N]\n"
          "       ledger judge --dir D --ledger FILE [--quiet]\n",
          stderr);
    exit(2);
}

static uint64_t number(const char *s, uint64_t lo, uint64_t hi)
{
    uint64_t n;
    if (dmt_parse_size(s, &n) < 0 || n < lo || n > hi)
        fatal("'%s' is not a number from %llu to %llu", s, (unsigned long long)lo,
              (unsigned long long)hi);
    return n;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"dir", 1, NULL, 'd'},
        {"ledger", 1, NULL, 'l'},
        {"clients", 1, NULL, 'c'},
        {"seed", 1, NULL, 's'},
        {"sync-every", 1, NULL, 'k'},
        {"size", 1, NULL, 'z'},
        {"bulk", 1, NULL, 'b'},
        {"ops", 1, NULL, 'o'},
        {"pause-us", 1, NULL, 'p'},
        {"quiet", 0, NULL, 'q'},
        {0},
    };
    int opt;
    dmt_random(&cfg.seed, sizeof(cfg.seed));
    if (argc < 2)
        usage();
    while ((opt = getopt_long(argc - 1, argv + 1, "", options, NULL)) != -1) {
        switch (opt) {
        case 'd':
            cfg.dir = optarg;
            break;
        case 'l':
            cfg.ledger = optarg;
            break;
        case 'c':
            cfg.clients = (unsigned)number(optarg, 1, CLIENTS_MAX);
            break;
        case 's':
            cfg.seed = number(optarg, 0, UINT64_MAX);
            break;
        case 'k':
            cfg.sync_every = (unsigned)number(optarg, 0, K_MAX);
            break;
        case 'z':
            cfg.size = (unsigned)number(optarg, 1, WRITE_MAX);
            break;
        case 'b':
            cfg.bulk = number(optarg, 0, BULK_MAX);
            break;
        case 'o':
            cfg.ops = (uint32_t)number(optarg, 1, K_MAX);
            break;
        case 'p':
            cfg.pause_us = (unsigned)number(optarg, 0, 1000000);
            break;
        case 'q':
            cfg.quiet = true;
            break;
        default:
            usage();
        }
    }
    if (!cfg.dir || !cfg.ledger || optind != argc - 1 || strlen(cfg.dir) + 8 > PATH_LEN)
        usage();
    if (strcmp(argv[1], "write") == 0)
        return ledger_write();
    if (strcmp(argv[1], "judge") == 0)
        return ledger_judge();
    usage();
}
