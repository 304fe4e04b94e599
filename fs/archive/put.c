/* put.c: how a network driver stores an immutable object and knows that it did.
 *
 * One loop, shared by s3.c and libs3.c: look (HEAD) -> there and right: done -> absent: PUT -> look
 * again. So every put ends with the store's own word about size and digest, a PUT whose answer was
 * lost is noticed by the next look, and a key that is taken is never written over. The digest is
 * the ETag when that is an MD5 (B2, AWS, Ceph for single PUTs); where it is something else
 * (server-side encryption with keys) the object is read back and compared. Failure modes: temporary
 * errors are repeated until retry_ms is used up, then DMT_E_RETRY with the last reason; an object
 * that differs after our own successful PUT is DMT_E_CORRUPT, otherwise -EEXIST. Thread: the
 * caller's. */
#include <openssl/evp.h>
#include <string.h>
#include "fs/archive/objstore_int.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"

/* 1 the same, 0 different, < 0 error. */
static int read_back(struct dmt_objstore *os, const char *key, const void *p, size_t len,
                     struct dmt_err *err)
{
    struct dmt_buf b;
    dmt_buf_init(&b);
    int r = os->ops->get(os, key, 0, 0, &b, err);
    if (!r)
        r = b.len == len && !memcmp(b.p, p, len);
    dmt_buf_free(&b);
    return r;
}

/* The object is there: is it ours? 0 yes; -EEXIST or DMT_E_CORRUPT no. */
static int judge(struct dmt_objstore *os, const char *key, const void *p, size_t len,
                 const uint8_t md5[16], uint64_t size, const char *etag, bool put_done,
                 struct dmt_err *err)
{
    uint8_t theirs[16];
    int same = size == len;
    if (same && !(strlen(etag) == 32 && !dmt_unhex(etag, theirs, 16) && !memcmp(theirs, md5, 16)))
        same = read_back(os, key, p, len, err);
    if (same < 0)
        return same;
    if (same)
        return 0;
    if (put_done)
        return dmt_err_set(
            err, DMT_E_CORRUPT,
            "object %s: the store took %zu bytes and holds something else (%llu bytes)", key, len,
            (unsigned long long)size);
    return dmt_err_set(err, -EEXIST,
                       "object %s exists with other content; archive objects are never replaced",
                       key);
}

int objstore_put_verified(struct dmt_objstore *os, const struct objstore_once *once,
                          const char *key, const void *p, size_t len, struct dmt_err *err)
{
    struct objstore_tries t;
    uint8_t md5[16];
    unsigned int mn = sizeof(md5);
    bool put_done = false;
    DMT_ASSERT(EVP_Digest(p, len, md5, &mn, EVP_md5(), NULL) == 1 && mn == 16);
    objstore_tries_begin(&t, os);
    for (;;) {
        uint64_t size = 0;
        char etag[128] = "";
        long after = 0;
        int r = once->head(os, key, &size, etag, &after, err);
        if (!r)
            return judge(os, key, p, len, md5, size, etag, put_done, err);
        if (r == -ENOENT && !put_done) {
            r = once->put(os, key, p, len, md5, &after, err);
            if (!r) {
                put_done = true;
                continue;
            }
        } else if (r == -ENOENT) {
            /* Said yes, then shows nothing: a store that lags. Look again later. */
            r = dmt_err_set(err, DMT_E_RETRY, "object %s was accepted but is not visible yet", key);
        }
        if (r != DMT_E_RETRY || !objstore_tries_again(&t, after))
            return r;
    }
}
