/* fuse_init.c: reads and answers the INIT request of a FUSE connection.
 *
 * Why not libfuse: 3.14 cannot ask for HANDLE_KILLPRIV_V2 (without it each write is preceded by a
 * GETXATTR) and sets ATOMIC_O_TRUNC by itself (with it an open(O_TRUNC) loses the truncation, since
 * OPEN is not answered). What is wanted: reads in parallel, writes of 1 MiB, readdirplus, no OPEN
 * and OPENDIR round trips, data and symlinks kept until told, ACLs and umask left to the server
 * (who is told when an ACL must clear the setgid bit).
 * Not wanted: locks (the kernel keeps them), export, writeback cache (a write must reach the
 * journal before it returns), automatic data invalidation, splice.
 *
 * Failure: no INIT within INIT_TIMEOUT_MS, a protocol that is not 7.31 or later. Thread: any.
 */
#include "fs/base/fuse_init.h"

#include <linux/fuse.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>
#include "fs/base/limits.h"

#define INIT_TIMEOUT_MS 10000
#define MINOR_MIN       31u
#define MINOR_MAX       44u /* protocol 7.x that this code was written against */
#define INIT_EXT        (1u << 30)
#define INIT2_RESEND    (1u << 7) /* bit 39 of all; newer than the headers this is built with */

void dmt_fuse_init_answer(const struct fuse_init_in *in, struct fuse_init_out *out)
{
    const uint32_t want = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES |
                          FUSE_PARALLEL_DIROPS | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |
                          FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT |
                          FUSE_EXPLICIT_INVAL_DATA | FUSE_CACHE_SYMLINKS | FUSE_HANDLE_KILLPRIV_V2 |
                          FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT;
    memset(out, 0, sizeof(*out));
    out->major = FUSE_KERNEL_VERSION;
    out->minor = in->minor < MINOR_MAX ? in->minor : MINOR_MAX;
    out->max_readahead = in->max_readahead;
    out->flags = in->flags & want;
    out->max_background = 64;
    out->congestion_threshold = 48;
    out->max_write = DMT_WRITE_MAX;
    out->time_gran = 1;
    out->max_pages = DMT_WRITE_MAX / 4096;
}

int dmt_fuse_init_serve(int fd, uint8_t *buf, size_t size, uint32_t *ret_len, struct dmt_err *err)
{
    uint8_t request[FUSE_MIN_READ_BUFFER] __attribute__((aligned(8)));
    struct {
        struct fuse_out_header h;
        struct fuse_init_out out;
    } reply;
    struct fuse_in_header head;
    struct fuse_init_in in = {0};
    struct pollfd p = {.fd = fd, .events = POLLIN};

    if (poll(&p, 1, INIT_TIMEOUT_MS) <= 0)
        return dmt_err_set(err, -ETIMEDOUT, "the kernel sent no INIT");
    ssize_t n = read(fd, request, sizeof(request));
    if (n < 0)
        return dmt_err_set(err, -errno, "cannot read INIT: %s", strerror(errno));
    if ((size_t)n < sizeof(head) + 16 || (size_t)n > size)
        return dmt_err_set(err, -EPROTO, "INIT of %zd bytes is not understood", n);
    memcpy(&head, request, sizeof(head));
    size_t body = (size_t)n - sizeof(head);
    memcpy(&in, request + sizeof(head), body < sizeof(in) ? body : sizeof(in));
    if (head.opcode != FUSE_INIT || in.major != FUSE_KERNEL_VERSION || in.minor < MINOR_MIN)
        return dmt_err_set(err, -EPROTO, "FUSE protocol %u.%u is not understood", in.major,
                           in.minor);
    memcpy(buf, request, (size_t)n);
    *ret_len = (uint32_t)n;
    dmt_fuse_init_answer(&in, &reply.out);
    reply.h.len = sizeof(reply);
    reply.h.error = 0;
    reply.h.unique = head.unique;
    if (write(fd, &reply, sizeof(reply)) < 0)
        return dmt_err_set(err, -errno, "the kernel refused the answer to INIT: %s",
                           strerror(errno));
    return 0;
}

bool dmt_fuse_init_resends(const uint8_t *init, size_t len)
{
    struct fuse_init_in in = {0};
    size_t body = len > sizeof(struct fuse_in_header) ? len - sizeof(struct fuse_in_header) : 0;
    memcpy(&in, init + sizeof(struct fuse_in_header), body < sizeof(in) ? body : sizeof(in));
    return in.flags & INIT_EXT && in.flags2 & INIT2_RESEND;
}
