/* driver.c: runs a fuzz entry (tests/fuzz/fuzz_*.c) without clang, so that `make test` runs it too.
 *
 *   fuzz_NAME              the seeds of tests/fuzz/corpus/NAME, then mutations of them
 *   fuzz_NAME FILE...      just these inputs: to look at what a fuzzer found
 *
 * Mutations come from a fixed seed: two runs see the same inputs. This knows nothing of coverage;
 * `make fuzz-smoke` builds the same entries with libFuzzer. Every input lies in a block of exactly
 * its size, so that a sanitizer sees the first byte beyond it. Failure: an entry aborts; the input
 * is then shown in hexadecimal. Thread: one.
 */
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/io.h"
#include "fs/base/log.h"

#define MUTATIONS 100000u
#define SEEDS_MAX 64u
#define INPUT_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    uint8_t *p;
    size_t n;
};
static struct input g_seeds[SEEDS_MAX];
static size_t g_count;
static struct input g_now; /* what the entry is working on */
static uint64_t g_x = 0x9e3779b97f4a7c15ull;

static size_t rnd(size_t n)
{
    g_x ^= g_x << 13;
    g_x ^= g_x >> 7;
    g_x ^= g_x << 17;
    return (size_t)(g_x % n);
}

static void on_death(int sig)
{
    static const char digits[] = "0123456789abcdef";
    static char text[2 * INPUT_MAX + 64];
    size_t n = 0;
    for (const char *s = "the entry died of this input: "; *s; s++)
        text[n++] = *s;
    for (size_t i = 0; i < g_now.n && i < INPUT_MAX; i++) {
        text[n++] = digits[g_now.p[i] >> 4];
        text[n++] = digits[g_now.p[i] & 15];
    }
    text[n++] = '\n';
    if (write(STDERR_FILENO, text, n) < 0)
        _exit(1);
    signal(sig, SIG_DFL);
    raise(sig);
}

/* Hands over a copy of exactly n bytes. */
static void feed(const uint8_t *p, size_t n)
{
    g_now.p = malloc(n);
    DMT_ASSERT(g_now.p || n == 0);
    g_now.n = n;
    if (n > 0)
        memcpy(g_now.p, p, n);
    int r = LLVMFuzzerTestOneInput(g_now.p, n);
    DMT_ASSERT(r == 0);
    free(g_now.p);
    g_now = (struct input){0};
}

/* Numbers at which decoders go wrong. */
static uint8_t odd_byte(void)
{
    static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff, '"', '=', ',', '/', '%', '9'};
    return rnd(2) ? odd[rnd(sizeof(odd))] : (uint8_t)rnd(256);
}

static size_t mutate(uint8_t *p, size_t n)
{
    for (size_t times = rnd(4) + 1; times > 0; times--) {
        size_t at = n ? rnd(n) : 0, len = n ? rnd(n - at < 16 ? n - at : 16) + 1 : 0;
        switch (rnd(6)) {
        case 0: /* a bit */
            if (n > 0)
                p[at] ^= (uint8_t)(1u << rnd(8));
            break;
        case 1: /* a byte */
            if (n > 0)
                p[at] = odd_byte();
            break;
        case 2: /* a stretch goes */
            memmove(p + at, p + at + len, n - at - len);
            n -= len;
            break;
        case 3: /* a stretch comes twice */
            if (n + len <= INPUT_MAX) {
                memmove(p + at + len, p + at, n - at);
                n += len;
            }
            break;
        case 4: /* a byte more */
            if (n < INPUT_MAX) {
                memmove(p + at + 1, p + at, n - at);
                p[at] = odd_byte();
                n++;
            }
            break;
        default: { /* the end of another seed */
            const struct input *s = &g_seeds[rnd(g_count)];
            size_t from = rnd(s->n + 1), more = s->n - from;
            if (at + more <= INPUT_MAX) {
                if (more > 0)
                    memcpy(p + at, s->p + from, more);
                n = at + more;
            }
        }
        }
    }
    return n;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* not alphasort: the same in every locale */
}

static void read_seeds(const char *dir)
{
    struct dirent **list;
    int n = scandir(dir, &list, NULL, by_name);
    for (int i = 0; i < n; i++) {
        char path[512], *text;
        size_t len;
        snprintf(path, sizeof(path), "%s/%s", dir, list[i]->d_name);
        if (list[i]->d_type == DT_REG && g_count < SEEDS_MAX - 1) {
            int r = dmt_io_read_file(dmt_io_real(), path, INPUT_MAX, &text, &len);
            DMT_ASSERT(r == 0);
            g_seeds[g_count++] = (struct input){(uint8_t *)text, len};
        }
        free(list[i]);
    }
    if (n >= 0)
        free(list);
    g_seeds[g_count++] = (struct input){NULL, 0};
}

static int run_files(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *text;
        size_t len;
        if (dmt_io_read_file(dmt_io_real(), argv[i], 1u << 26, &text, &len) != 0) {
            fprintf(stderr, "cannot read %s\n", argv[i]);
            return 2;
        }
        feed((uint8_t *)text, len);
        free(text);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const int deadly[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
        signal(deadly[i], on_death);
    if (argc > 1)
        return run_files(argc, argv);

    const char *name = strrchr(argv[0], '/');
    name = name ? name + 1 : argv[0];
    char dir[256];
    snprintf(dir, sizeof(dir), "tests/fuzz/corpus/%s", name + strlen("fuzz_"));
    read_seeds(dir);
    for (size_t i = 0; i < g_count; i++)
        feed(g_seeds[i].p, g_seeds[i].n);
    static uint8_t work[INPUT_MAX];
    for (unsigned i = 0; i < MUTATIONS; i++) {
        const struct input *s = &g_seeds[rnd(g_count)];
        if (s->n > 0)
            memcpy(work, s->p, s->n);
        feed(work, mutate(work, s->n));
    }
    printf("%s: %zu seeds, %u mutations\n", name, g_count - 1, MUTATIONS);
    for (size_t i = 0; i < g_count; i++)
        free(g_seeds[i].p);
    return 0;
}
