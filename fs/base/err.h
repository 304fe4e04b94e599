/* err.h: one error idiom for the whole program.
 *
 * Functions return 0 (or a count) or a negative code: -errno, or one of DMT_E_* below. Paths whose failure a person
 * will read also take a `struct dmt_err *` (may be NULL): message = what happened, hint = what to do next. Context is
 * added on the way up with dmt_err_wrap(). Libraries return, programs log. Thread: any; a struct belongs to one caller.
 */
#ifndef DMT_BASE_ERR_H
#define DMT_BASE_ERR_H

#include <errno.h>
#include <stdarg.h>

/* Codes beyond errno: name, number, sentence. */
#define DMT_ERR_MAP(X)                                                                             \
    X(CORRUPT, 4101, "stored data fails its checksum or breaks an invariant")                      \
    X(VERSION, 4102, "format or protocol version not understood")                                  \
    X(STALE, 4103, "a higher epoch exists")                                                        \
    X(HISTORY, 4104, "histories differ")                                                           \
    X(AUTH, 4105, "credentials or certificate refused")                                            \
    X(GONE, 4106, "the range or record asked for is no longer there")                              \
    X(CONFIG, 4107, "configuration error")                                                         \
    X(HELD, 4108, "held by another machine")                                                       \
    X(RETRY, 4109, "temporary failure, try again")                                                 \
    X(CLOSED, 4110, "connection closed")                                                           \
    X(CONFLICT, 4111, "based on an epoch that is no longer current")                               \
    X(WORD, 4112, "this loses something: a person has to say the word first")

enum dmt_err_code {
#define X(name, num, text) DMT_E_##name = -(num),
    DMT_ERR_MAP(X)
#undef X
};

struct dmt_err {
    int code;       /* 0 or the negative code */
    char msg[512];  /* one sentence, no newline */
    char hint[384]; /* what to do next; may be empty */
};

/* Sets message and code; returns code, so that `return dmt_err_set(...)` reads well. e may be NULL. */
int dmt_err_set(struct dmt_err *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Sets the hint; returns e->code (0 when e is NULL). */
int dmt_err_hint(struct dmt_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Puts "context: " before the message; returns e->code. */
int dmt_err_wrap(struct dmt_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Static text for any code, errno ones included. */
const char *dmt_strerror(int code);
/* The code as an errno for the kernel: DMT_E_* become EIO. Takes and returns a negative number. */
int dmt_err_errno(int code);

#endif
