/* image.c: a file as a disk image is: some threads write to it without a pause while others sync
 * it, so it is never still. What a sync was about must be there after a failover.
 *
 *   image write FILE LEDGER [MIB [MS]]   makes FILE of MIB blocks of 1 MiB (32) and works on it
 *                                        until SIGTERM or the first error, each of two writers a
 *                                        block every MS (10); LEDGER must lie elsewhere: 8 bytes
 *                                        for each block, the version that a sync acknowledged last,
 *                                        and before them how many syncs had news
 *   image judge FILE LEDGER              is each block at least as new as LEDGER says? Prints what
 *                                        it saw
 *
 * Each page of 4 KiB is noise made of its block and of the block's version, which does not
 * compress, so a link is as slow as it is, and a page of other bytes is seen; a block may have
 * pages of two versions, as a write that nobody has synced may have reached half of its block. A
 * writer notes a version when its write has returned; a syncer notes all versions, syncs, and then
 * they are acknowledged.
 *
 * Exit 0; 1 for a judgement, or an error of the file (write: its errno is printed, and how many
 * syncs there were); 2 bad arguments.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK   (1u << 20)
#define WORDS   512u /* of a page */
#define MAX     1024
#define WRITERS 2
#define SYNCERS 2
#define AHEAD   4 /* pauses of a writer between two syncs: less, and all goes inline */

static struct {
    int fd;
    unsigned blocks;
    useconds_t pause;
    _Atomic uint64_t *ledger; /* [0] syncs, [1 + block] acknowledged version */
    _Atomic uint64_t written[MAX];
    _Atomic int stop, error;
} g;

static uint64_t word_of(uint64_t block, uint64_t version)
{
    return (block << 40 | version) * 0x9e3779b97f4a7c15u;
}

/* The inverse of the multiplication. */
static uint64_t unword(uint64_t word)
{
    return word * 0xf1de83e19937733du;
}

static void fill_page(uint64_t page[WORDS], uint64_t word)
{
    for (size_t i = 0; i < WORDS; i++) {
        page[i] = word;
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
    }
}

static int fail(int error)
{
    atomic_store(&g.error, error);
    atomic_store(&g.stop, 1);
    return -1;
}

static int write_block(uint64_t *buf, unsigned block)
{
    uint64_t version = atomic_load(&g.written[block]) + 1;
    for (size_t i = 0; i < BLOCK / sizeof(*buf); i += WORDS)
        fill_page(buf + i, word_of(block, version));
    ssize_t n = pwrite(g.fd, buf, BLOCK, (off_t)block * BLOCK);
    if (n != BLOCK)
        return fail(n < 0 ? errno : EIO);
    atomic_store(&g.written[block], version);
    return 0;
}

/* A block has one writer. */
static void *writer(void *arg)
{
    unsigned id = (unsigned)(uintptr_t)arg, seed = id + 1;
    uint64_t *buf = malloc(BLOCK);
    while (buf && !atomic_load(&g.stop)) {
        unsigned block = (unsigned)rand_r(&seed) % (g.blocks / WRITERS) * WRITERS + id;
        if (write_block(buf, block) < 0)
            break;
        usleep(g.pause);
    }
    free(buf);
    return NULL;
}

static void *syncer(void *arg)
{
    uint64_t had[MAX];
    (void)arg;
    while (!atomic_load(&g.stop)) {
        for (unsigned b = 0; b < g.blocks; b++)
            had[b] = atomic_load(&g.written[b]);
        if (fsync(g.fd) < 0) {
            (void)fail(errno);
            break;
        }
        bool news = false;
        for (unsigned b = 0; b < g.blocks; b++) {
            uint64_t old = atomic_load(&g.ledger[1 + b]);
            news |= old < had[b];
            while (old < had[b] && !atomic_compare_exchange_weak(&g.ledger[1 + b], &old, had[b]))
                ;
        }
        atomic_fetch_add(&g.ledger[0], news);
        usleep(AHEAD * g.pause);
    }
    return NULL;
}

static void on_term(int sig)
{
    (void)sig;
    atomic_store(&g.stop, 1);
}

static int open_both(const char *file, const char *ledger, int flags)
{
    int fd = open(ledger, O_RDWR | O_CREAT, 0600);
    g.fd = open(file, flags, 0600);
    if (fd < 0 || g.fd < 0 || ftruncate(fd, (1 + MAX) * 8) < 0)
        return -1;
    g.ledger = mmap(NULL, (1 + MAX) * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return g.ledger == MAP_FAILED ? -1 : 0;
}

static int write_all(void)
{
    pthread_t t[WRITERS + SYNCERS];
    uint64_t *buf = malloc(BLOCK);
    struct sigaction sa = {.sa_handler = on_term};
    sigaction(SIGTERM, &sa, NULL);
    for (unsigned b = 0; buf && b < g.blocks && !atomic_load(&g.stop); b++)
        (void)write_block(buf, b);
    free(buf);
    for (unsigned i = 0; i < WRITERS + SYNCERS; i++)
        if (pthread_create(&t[i], NULL, i < WRITERS ? writer : syncer, (void *)(uintptr_t)i) != 0)
            return 1;
    for (unsigned i = 0; i < WRITERS + SYNCERS; i++)
        pthread_join(t[i], NULL);
    int error = atomic_load(&g.error);
    printf("%llu syncs%s%s\n", (unsigned long long)atomic_load(&g.ledger[0]),
           error ? ", then: " : "", error ? strerror(error) : "");
    return error != 0;
}

/* The oldest version of a block's pages; 0 and a message if one is no page of it. */
static uint64_t oldest(const uint64_t *buf, unsigned block, uint64_t *newest)
{
    uint64_t low = UINT64_MAX, page[WORDS];
    *newest = 0;
    for (size_t i = 0; i < BLOCK / sizeof(*buf); i += WORDS) {
        uint64_t w = unword(buf[i]), version = w & 0xffffffffffu;
        fill_page(page, buf[i]);
        if (w >> 40 != block || memcmp(page, buf + i, sizeof(page)) != 0) {
            printf("block %u has other bytes at %zu\n", block, i * sizeof(*buf));
            return 0;
        }
        low = version < low ? version : low;
        *newest = version > *newest ? version : *newest;
    }
    return low;
}

static int judge(void)
{
    uint64_t *buf = malloc(BLOCK), newest;
    unsigned bad = 0, newer = 0, torn = 0, blocks = 0;
    while (buf && blocks < MAX && atomic_load(&g.ledger[1 + blocks]))
        blocks++;
    for (unsigned b = 0; b < blocks; b++) {
        uint64_t acked = atomic_load(&g.ledger[1 + b]);
        ssize_t n = pread(g.fd, buf, BLOCK, (off_t)b * BLOCK);
        if (n != BLOCK) {
            printf("block %u: %s\n", b, n < 0 ? strerror(errno) : "the file ends before it");
            bad++;
            continue;
        }
        uint64_t version = oldest(buf, b, &newest);
        if (version < acked)
            printf("block %u is of version %llu, a sync acknowledged %llu\n", b,
                   (unsigned long long)version, (unsigned long long)acked);
        bad += version < acked;
        newer += version > acked;
        torn += version != newest;
    }
    free(buf);
    printf("%u blocks, %llu syncs: %u newer than their last sync, %u half written, %u wrong\n",
           blocks, (unsigned long long)atomic_load(&g.ledger[0]), newer, torn, bad);
    return bad > 0 || blocks == 0;
}

int main(int argc, char **argv)
{
    bool writes = argc >= 4 && argc <= 6 && strcmp(argv[1], "write") == 0;
    if (!writes && !(argc == 4 && strcmp(argv[1], "judge") == 0)) {
        fprintf(stderr, "usage: image write FILE LEDGER [MIB [MS]] | image judge FILE LEDGER\n");
        return 2;
    }
    g.blocks = argc > 4 ? (unsigned)atoi(argv[4]) : 32;
    g.pause = argc > 5 ? (useconds_t)atoi(argv[5]) * 1000 : 10000;
    if (g.blocks < WRITERS || g.blocks > MAX) {
        fprintf(stderr, "image: from %d to %d blocks\n", WRITERS, MAX);
        return 2;
    }
    if (open_both(argv[2], argv[3], writes ? O_RDWR | O_CREAT : O_RDONLY) < 0) {
        perror("image");
        return 1;
    }
    return writes ? write_all() : judge();
}
