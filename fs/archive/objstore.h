/* objstore.h: one interface to all places an archive can live in: put, get, head, list, delete of whole objects under keys.
 *
 *   file:///DIR                                              a directory (a second disk, NFS)
 *   s3://BUCKET[/PREFIX]?endpoint=HOST[:PORT][&region=R][&tls=off][&ca=FILE]      own Signature V4: B2, R2, AWS, Ceph
 *   libs3://BUCKET[/PREFIX]?endpoint=HOST[:PORT][&tls=off]                        the packaged libs3 2.0, Signature V2
 *
 * Objects are immutable: a key is written once. put() of a key that holds the same bytes is success (so that a repeat after a
 * lost answer is harmless); other bytes are -EEXIST and are never replaced. Nothing relies on LIST or on conditional PUT.
 *
 * Codes, the same for all drivers:
 *   -ENOENT        the object is not there: a true 404 NoSuchKey, never a guess from another failure
 *   -EEXIST        put: the key holds other bytes
 *   DMT_E_RETRY    temporary (network, 408, 429, 5xx but 501, timeouts) and the call's patience (retry_ms) is used up
 *   DMT_E_AUTH     credentials missing or refused
 *   DMT_E_CONFIG   URL, bucket or credentials file wrong: somebody must change something
 *   DMT_E_CORRUPT  what is stored is not what was sent
 *   -EFBIG         larger than the caller's limit
 *   -ENOSPC -EDQUOT and other errno: the store says no for good
 *
 * Keys: 1-512 bytes of [A-Za-z0-9._/-], no leading '/', no empty, "." or ".." component.
 * Thread: a handle belongs to one thread at a time; calls block (pool and archiver threads only). */
#ifndef DMT_ARCHIVE_OBJSTORE_H
#define DMT_ARCHIVE_OBJSTORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "fs/base/bytes.h"
#include "fs/base/clock.h"
#include "fs/base/err.h"
#include "fs/base/io.h"

#define DMT_OBJ_KEY_MAX   512u
#define DMT_OBJ_BYTES_MAX (64u << 20) /* one object; ours are 8 MiB and a little */

struct dmt_objstore;

struct dmt_objstore_conf {
    const struct dmt_io *io;       /* NULL = dmt_io_real() */
    const struct dmt_clock *clock; /* NULL = dmt_clock_real() */
    const char *credentials;       /* NULL = dmt_dir_etc()/credentials */
    uint64_t retry_ms;             /* how long one call goes on trying; 0 = 20 s */
    long connect_timeout_ms;       /* 0 = 5 s */
    long stall_timeout_s;          /* a transfer slower than 1 KiB/s for so long is cut; 0 = 20 s */
    const atomic_bool *stop;       /* true: calls stop waiting and return DMT_E_RETRY; may be NULL */
};

/* Opens a handle; no network traffic yet. */
int dmt_objstore_open(struct dmt_objstore **ret, const char *url, const struct dmt_objstore_conf *conf, struct dmt_err *err);
void dmt_objstore_close(struct dmt_objstore *os);

/* Stores p[0..len) and returns 0 only after the store confirmed size and digest of what it holds. */
int dmt_objstore_put(struct dmt_objstore *os, const char *key, const void *p, size_t len, struct dmt_err *err);
/* Appends bytes [off, off + len) of the object to out (len 0 = to its end, at most DMT_OBJ_BYTES_MAX). A range that starts
 * beyond the end gives no bytes; one that ends beyond it gives what there is. */
int dmt_objstore_get(struct dmt_objstore *os, const char *key, uint64_t off, uint64_t len, struct dmt_buf *out,
                     struct dmt_err *err);
int dmt_objstore_head(struct dmt_objstore *os, const char *key, uint64_t *ret_size, struct dmt_err *err);
/* A hint only: may lag behind. fn gets each key that starts with prefix, in any order; non-zero stops and is returned. */
typedef int (*dmt_obj_key_fn)(void *ctx, const char *key, uint64_t size);
int dmt_objstore_list(struct dmt_objstore *os, const char *prefix, dmt_obj_key_fn fn, void *ctx, struct dmt_err *err);
/* Absent is success. */
int dmt_objstore_delete(struct dmt_objstore *os, const char *key, struct dmt_err *err);
/* Does the store know a version or a delete marker of exactly this key? 1, 0, -EOPNOTSUPP where there is no such question, or
 * another error. Evidence that a key which answers 404 was there once; never evidence that it was not. */
int dmt_objstore_versions(struct dmt_objstore *os, const char *key, struct dmt_err *err);

#endif
