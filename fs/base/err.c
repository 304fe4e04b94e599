/* err.c: the error struct and the sentences of the codes.
 *
 * Owns nothing but constant tables. The happy path never comes here: a function that succeeds
 * returns 0 and leaves its caller's struct alone. On failure the deepest function that knows
 * something a person can use calls dmt_err_set(), callers put their context in front with
 * dmt_err_wrap(), and the program prints the whole once. Messages too long for the struct are cut
 * at its end; newlines become spaces, because a message is one line of a log. Thread: any.
 */
#include "fs/base/err.h"

#include <stdio.h>
#include <string.h>

/* Messages carry file names and server replies; neither may break the one-line form. */
static void one_line(char *s)
{
    for (; *s; s++)
        if (*s == '\n' || *s == '\r')
            *s = ' ';
}

/* Adds as much of `more` as fits. */
static void append(char *s, size_t size, const char *more)
{
    size_t used = strlen(s), n = strlen(more);
    if (n > size - used - 1)
        n = size - used - 1;
    memcpy(s + used, more, n);
    s[used + n] = '\0';
}

int dmt_err_set(struct dmt_err *e, int code, const char *fmt, ...)
{
    if (!e)
        return code;
    /* The arguments may point into *e (a message repeated with more context), so format aside
     * first. */
    char msg[sizeof(e->msg)];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    one_line(msg);
    memcpy(e->msg, msg, sizeof(msg));
    e->hint[0] = '\0';
    e->code = code;
    return code;
}

int dmt_err_hint(struct dmt_err *e, const char *fmt, ...)
{
    if (!e)
        return 0;
    char hint[sizeof(e->hint)];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(hint, sizeof(hint), fmt, ap);
    va_end(ap);
    one_line(hint);
    memcpy(e->hint, hint, sizeof(hint));
    return e->code;
}

int dmt_err_wrap(struct dmt_err *e, const char *fmt, ...)
{
    if (!e)
        return 0;
    char msg[sizeof(e->msg)];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    append(msg, sizeof(msg), ": ");
    append(msg, sizeof(msg), e->msg);
    one_line(msg);
    memcpy(e->msg, msg, sizeof(msg));
    return e->code;
}

const char *dmt_strerror(int code)
{
    switch (code) {
#define X(name, num, text)                                                                         \
    case -(num):                                                                                   \
        return text;
        DMT_ERR_MAP(X)
#undef X
    default:
        break;
    }
    if (code == 0)
        return "success";
    /* strerrordesc_np, unlike strerror, is static text and the same in every locale. */
    const char *text = strerrordesc_np(code < 0 ? -code : code);
    return text ? text : "unknown error";
}

int dmt_err_errno(int code)
{
    if (code <= -4096 || code > 0)
        return -EIO; /* the kernel takes -1 .. -4095 only */
    return code;
}
