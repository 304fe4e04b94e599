/* fuse_init.h: the answer to the kernel's INIT, in one place: the holder gives it, and so does the do-nothing filesystem of the
 * benchmarks, so that both run under the same flags. Pure; any thread. */
#ifndef DMT_BASE_FUSE_INIT_H
#define DMT_BASE_FUSE_INIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/base/err.h"

struct fuse_init_in;
struct fuse_init_out;

/* Flags of docs/architecture.md ("FUSE") that the kernel offers, max_write DMT_WRITE_MAX, time granularity 1 ns. */
void dmt_fuse_init_answer(const struct fuse_init_in *in, struct fuse_init_out *out);

/* Reads INIT from a freshly mounted connection, keeps its bytes in buf (*ret_len), and answers it. 0 or < 0 with err. */
int dmt_fuse_init_serve(int fd, uint8_t *buf, size_t size, uint32_t *ret_len, struct dmt_err *err);

/* Does the kernel that sent this INIT send unanswered requests again when asked (Linux 6.9, FUSE_HAS_RESEND)? */
bool dmt_fuse_init_resends(const uint8_t *init, size_t len);

#endif
