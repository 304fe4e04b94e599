/* ledger_common.h: what writer and judge of the ledger share: the options and the shape of the
 * file. Included by tests/lib/bin/ledger.c and ledger_judge.h only; the file's format is described
 * in ledger.c. */
#ifndef DMT_TESTS_LEDGER_COMMON_H
#define DMT_TESTS_LEDGER_COMMON_H

#include <stdarg.h>

#include "tests/lib/ledger_model.h"

#define HEADER      128
#define RECORD      64
#define CLIENTS_MAX 64
#define PAGE        4096u

static struct {
    const char *dir, *ledger;
    uint64_t seed, bulk;
    unsigned clients, sync_every, size, pause_us;
    uint32_t ops;
    bool quiet;
} cfg = {.clients = 4, .sync_every = 25, .size = 1024, .ops = K_MAX};

static void __attribute__((noreturn, format(printf, 1, 2))) fatal(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("ledger: ", stderr);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(2);
}

#endif
