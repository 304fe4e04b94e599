/* libs3.c: the driver over the packaged libs3 2.0 (libs3://): Signature V2, for gateways that still
 * take it. B2, R2 and new AWS regions do not; there s3.c serves.
 *
 * Owns: the bucket context and the keys; libs3 itself is initialised once a process. Happy path:
 * one synchronous libs3 call an attempt, its callbacks fill struct call; put goes through put.c's
 * loop like the other network driver. Failure modes: libs3's status is mapped to our codes by
 * status_code(); temporary ones are repeated. libs3 cuts a transfer that stays below 1 KiB/s for 15
 * s and has no other timeout; it follows redirects by itself. Thread: the caller's. */
#include <libs3.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/archive/objstore_int.h"
#include "fs/base/log.h"

struct libs3_store {
    struct dmt_objstore os;
    struct objstore_url u;
    struct objstore_keys keys;
    S3BucketContext bucket;
    bool keys_refused;
};

/* One call under way. */
struct call {
    S3Status status;
    char message[200];
    uint64_t size;
    char etag[128];
    const uint8_t *out; /* put: what is still to be sent */
    size_t out_left;
    struct dmt_buf *in; /* get */
    size_t in_max;
    /* list */
    dmt_obj_key_fn fn;
    void *ctx;
    size_t skip;
    int fn_result;
    bool truncated;
    char marker[DMT_OBJ_KEY_MAX * 2];
};

static pthread_once_t g_once = PTHREAD_ONCE_INIT;
static S3Status g_status;

static void global_init(void)
{
    g_status = S3_initialize("dumont", S3_INIT_ALL, "s3.amazonaws.com");
}

static struct libs3_store *libs3_of(struct dmt_objstore *os)
{
    return (struct libs3_store *)(void *)os;
}

static S3Status on_properties(const S3ResponseProperties *p, void *arg)
{
    struct call *c = arg;
    c->size = p->contentLength;
    if (p->eTag) {
        const char *e = p->eTag;
        size_t n = strlen(e);
        if (n > 1 && e[0] == '"') {
            e++;
            n -= 2;
        }
        snprintf(c->etag, sizeof(c->etag), "%.*s", (int)n, e);
    }
    return S3StatusOK;
}

static void on_complete(S3Status status, const S3ErrorDetails *d, void *arg)
{
    struct call *c = arg;
    c->status = status;
    snprintf(c->message, sizeof(c->message), "%s%s%s", S3_get_status_name(status),
             d && d->message ? ": " : "", d && d->message ? d->message : "");
}

static int on_send(int size, char *buf, void *arg)
{
    struct call *c = arg;
    size_t n = c->out_left < (size_t)size ? c->out_left : (size_t)size;
    memcpy(buf, c->out, n);
    c->out += n;
    c->out_left -= n;
    return (int)n;
}

static S3Status on_recv(int size, const char *buf, void *arg)
{
    struct call *c = arg;
    if (c->in->len + (size_t)size > c->in_max)
        return S3StatusAbortedByCallback;
    dmt_put_raw(c->in, buf, (size_t)size);
    return c->in->bad ? S3StatusOutOfMemory : S3StatusOK;
}

static S3Status on_list(int truncated, const char *next, int n, const S3ListBucketContent *v,
                        int np, const char **prefixes, void *arg)
{
    struct call *c = arg;
    (void)np;
    (void)prefixes;
    c->truncated = truncated;
    c->marker[0] = 0;
    for (int i = 0; i < n && !c->fn_result; i++) {
        snprintf(c->marker, sizeof(c->marker), "%s", v[i].key);
        if (strlen(v[i].key) > c->skip)
            c->fn_result = c->fn(c->ctx, v[i].key + c->skip, v[i].size);
    }
    if (next && *next)
        snprintf(c->marker, sizeof(c->marker), "%s", next);
    return c->fn_result ? S3StatusAbortedByCallback : S3StatusOK;
}

static const S3ResponseHandler plain_handler = {on_properties, on_complete};

/* libs3's word in ours. The 404 of a HEAD is weak, like everywhere. */
static int status_code(S3Status s)
{
    switch (s) {
    case S3StatusOK:
        return 0;
    case S3StatusErrorNoSuchKey:
    case S3StatusHttpErrorNotFound:
        return -ENOENT;
    case S3StatusErrorAccessDenied:
    case S3StatusErrorAccountProblem:
    case S3StatusErrorExpiredToken:
    case S3StatusErrorInvalidAccessKeyId:
    case S3StatusErrorInvalidSecurity:
    case S3StatusErrorInvalidToken:
    case S3StatusErrorNotSignedUp:
    case S3StatusErrorRequestTimeTooSkewed:
    case S3StatusErrorSignatureDoesNotMatch:
    case S3StatusHttpErrorForbidden:
        return DMT_E_AUTH;
    case S3StatusErrorNoSuchBucket:
    case S3StatusErrorInvalidBucketName:
    case S3StatusErrorPermanentRedirect:
    case S3StatusErrorRedirect:
    case S3StatusErrorTemporaryRedirect:
    case S3StatusServerFailedVerification:
        return DMT_E_CONFIG;
    case S3StatusErrorNotImplemented:
        return -EOPNOTSUPP;
    case S3StatusErrorInvalidRange:
        return -ERANGE;
    case S3StatusOutOfMemory:
        return -ENOMEM;
    /* Broken on the way, or busy. */
    case S3StatusInternalError:
    case S3StatusInterrupted:
    case S3StatusNameLookupError:
    case S3StatusFailedToConnect:
    case S3StatusConnectionFailed:
    case S3StatusXmlParseFailure:
    case S3StatusErrorBadDigest:
    case S3StatusErrorIncompleteBody:
    case S3StatusErrorInternalError:
    case S3StatusErrorOperationAborted:
    case S3StatusErrorRequestTimeout:
    case S3StatusErrorSlowDown:
    case S3StatusErrorUnknown: /* codes libs3 2.0 does not know, ServiceUnavailable among them */
    case S3StatusHttpErrorConflict:
    case S3StatusHttpErrorUnknown: /* an HTTP status without a body it knows: 5xx of a HEAD */
        return DMT_E_RETRY;
    default:
        return S3_status_is_retryable(s) ? DMT_E_RETRY : -EINVAL;
    }
}

static int finish(struct libs3_store *s, const struct call *c, const char *what, const char *key,
                  struct dmt_err *err)
{
    int r = status_code(c->status);
    if (!r)
        return 0;
    dmt_err_set(err, r, "%s: %s of %s: %s", s->u.endpoint, what, key, c->message);
    if (r == DMT_E_AUTH) {
        s->keys_refused = true;
        dmt_err_hint(err,
                     "check the keys for bucket %s in %s, this machine's clock, and that the "
                     "server takes Signature V2",
                     s->u.bucket, s->os.conf.credentials);
    } else if (r == DMT_E_CONFIG) {
        dmt_err_hint(err, "create the bucket %s, or correct bucket and endpoint of the archive URL",
                     s->u.bucket);
    }
    return r;
}

static int begin(struct dmt_objstore *os, struct dmt_err *err)
{
    struct libs3_store *s = libs3_of(os);
    if (!s->keys_refused)
        return 0;
    int r = objstore_keys_load(os->conf.credentials, s->u.bucket, &s->keys, err);
    s->keys_refused = r != 0;
    return r;
}

static void full_key(const struct libs3_store *s, const char *key, char ret[DMT_OBJ_KEY_MAX * 2])
{
    snprintf(ret, DMT_OBJ_KEY_MAX * 2, "%s%s", s->u.prefix, key);
}

static int libs3_head_once(struct dmt_objstore *os, const char *key, uint64_t *ret_size,
                           char etag[128], long *after, struct dmt_err *err)
{
    struct libs3_store *s = libs3_of(os);
    struct call c = {.status = S3StatusInternalError};
    char k[DMT_OBJ_KEY_MAX * 2];
    full_key(s, key, k);
    *after = 0;
    S3_head_object(&s->bucket, k, NULL, &plain_handler, &c);
    int r = finish(s, &c, "HEAD", key, err);
    if (r == DMT_E_AUTH) /* a HEAD carries no reason: let the PUT that follows say which */
        return -ENOENT;
    *ret_size = c.size;
    memcpy(etag, c.etag, sizeof(c.etag));
    return r;
}

static int libs3_put_once(struct dmt_objstore *os, const char *key, const void *p, size_t len,
                          const uint8_t md5[16], long *after, struct dmt_err *err)
{
    static const S3PutObjectHandler handler = {{on_properties, on_complete}, on_send};
    struct libs3_store *s = libs3_of(os);
    struct call c = {.status = S3StatusInternalError, .out = p, .out_left = len};
    char k[DMT_OBJ_KEY_MAX * 2], b64[32];
    full_key(s, key, k);
    *after = 0;
    EVP_EncodeBlock((uint8_t *)b64, md5, 16);
    S3PutProperties props = {.md5 = b64, .expires = -1, .cannedAcl = S3CannedAclPrivate};
    S3_put_object(&s->bucket, k, len, &props, NULL, &handler, &c);
    int r = finish(s, &c, "PUT", key, err);
    return r == -ENOENT ? dmt_err_set(err, DMT_E_CONFIG, "the endpoint answers 404 to PUT %s", key)
                        : r;
}

static int libs3_put(struct dmt_objstore *os, const char *key, const void *p, size_t len,
                     struct dmt_err *err)
{
    static const struct objstore_once once = {libs3_head_once, libs3_put_once};
    int r = begin(os, err);
    return r ? r : objstore_put_verified(os, &once, key, p, len, err);
}

static int libs3_get(struct dmt_objstore *os, const char *key, uint64_t off, uint64_t len,
                     struct dmt_buf *out, struct dmt_err *err)
{
    static const S3GetObjectHandler handler = {{on_properties, on_complete}, on_recv};
    static const S3GetConditions conditions = {-1, -1, NULL, NULL};
    struct libs3_store *s = libs3_of(os);
    struct objstore_tries t;
    size_t start = out->len;
    char k[DMT_OBJ_KEY_MAX * 2];
    full_key(s, key, k);
    int r = begin(os, err);
    if (r)
        return r;
    objstore_tries_begin(&t, os);
    do {
        struct call c = {
            .status = S3StatusInternalError, .in = out, .in_max = start + DMT_OBJ_BYTES_MAX};
        out->len = start;
        S3_get_object(&s->bucket, k, &conditions, off, len, NULL, &handler, &c);
        r = finish(s, &c, "GET", key, err);
        /* libs3 2.0 does not notice a body that ends early. */
        if (!r && c.size && out->len - start < c.size)
            r = dmt_err_set(err, DMT_E_RETRY, "%s: GET of %s ended early", s->u.endpoint, key);
        if (c.status == S3StatusAbortedByCallback)
            r = dmt_err_set(err, -EFBIG, "object %s is larger than any of ours", key);
    } while (r == DMT_E_RETRY && objstore_tries_again(&t, 0));
    if (r)
        out->len = start;
    return r == -ERANGE ? 0 : r;
}

static int libs3_head(struct dmt_objstore *os, const char *key, uint64_t *ret_size,
                      struct dmt_err *err)
{
    struct objstore_tries t;
    char etag[128];
    long after;
    int r = begin(os, err);
    if (r)
        return r;
    objstore_tries_begin(&t, os);
    do {
        r = libs3_head_once(os, key, ret_size, etag, &after, err);
    } while (r == DMT_E_RETRY && objstore_tries_again(&t, after));
    if (r == -ENOENT) {
        /* Only a body tells NoSuchKey from NoSuchBucket or from wrong keys. */
        struct dmt_buf b;
        dmt_buf_init(&b);
        r = libs3_get(os, key, 0, 1, &b, err);
        dmt_buf_free(&b);
        if (!r)
            r = dmt_err_set(err, DMT_E_RETRY, "%s answers HEAD and GET of %s differently",
                            libs3_of(os)->u.endpoint, key);
    }
    return r;
}

static int libs3_list(struct dmt_objstore *os, const char *prefix, dmt_obj_key_fn fn, void *ctx,
                      struct dmt_err *err)
{
    static const S3ListBucketHandler handler = {{on_properties, on_complete}, on_list};
    struct libs3_store *s = libs3_of(os);
    char full[DMT_OBJ_KEY_MAX * 2], marker[DMT_OBJ_KEY_MAX * 2] = "";
    full_key(s, prefix, full);
    int r = begin(os, err);
    for (bool more = true; more && !r;) {
        struct objstore_tries t;
        struct call c;
        objstore_tries_begin(&t, os);
        do {
            c = (struct call){
                .status = S3StatusInternalError, .fn = fn, .ctx = ctx, .skip = strlen(s->u.prefix)};
            S3_list_bucket(&s->bucket, full, marker[0] ? marker : NULL, NULL, 1000, NULL, &handler,
                           &c);
            r = c.fn_result ? c.fn_result : finish(s, &c, "list", prefix, err);
        } while (r == DMT_E_RETRY && objstore_tries_again(&t, 0));
        memcpy(marker, c.marker, sizeof(marker));
        more = c.truncated && marker[0];
    }
    return r;
}

static int libs3_del(struct dmt_objstore *os, const char *key, struct dmt_err *err)
{
    struct libs3_store *s = libs3_of(os);
    struct objstore_tries t;
    char k[DMT_OBJ_KEY_MAX * 2];
    full_key(s, key, k);
    int r = begin(os, err);
    if (r)
        return r;
    objstore_tries_begin(&t, os);
    do {
        struct call c = {.status = S3StatusInternalError};
        S3_delete_object(&s->bucket, k, NULL, &plain_handler, &c);
        r = finish(s, &c, "DELETE", key, err);
    } while (r == DMT_E_RETRY && objstore_tries_again(&t, 0));
    return r == -ENOENT ? 0 : r;
}

static void libs3_close(struct dmt_objstore *os)
{
    struct libs3_store *s = libs3_of(os);
    explicit_bzero(&s->keys, sizeof(s->keys));
    free(s);
}

static const struct objstore_ops libs3_ops = {
    .scheme = "libs3",
    .put = libs3_put,
    .get = libs3_get,
    .head = libs3_head,
    .list = libs3_list,
    .del = libs3_del,
    .close = libs3_close,
};

int objstore_libs3_open(struct dmt_objstore **ret, const struct objstore_url *u,
                        const char *credentials, struct dmt_err *err)
{
    pthread_once(&g_once, global_init);
    if (g_status != S3StatusOK)
        return dmt_err_set(err, -EIO, "libs3 does not start: %s", S3_get_status_name(g_status));
    struct libs3_store *s = calloc(1, sizeof(*s));
    if (!s)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    s->os.ops = &libs3_ops;
    s->u = *u;
    int r = objstore_keys_load(credentials, u->bucket, &s->keys, err);
    if (r) {
        free(s);
        return r;
    }
    s->bucket = (S3BucketContext){
        .hostName = s->u.endpoint,
        .bucketName = s->u.bucket,
        .protocol = s->u.tls ? S3ProtocolHTTPS : S3ProtocolHTTP,
        .uriStyle = S3UriStylePath,
        .accessKeyId = s->keys.access,
        .secretAccessKey = s->keys.secret,
    };
    *ret = &s->os;
    return 0;
}
