/* s3.c: the driver for S3 stores that check Signature V4: Backblaze B2, Cloudflare R2, AWS, Ceph
 * (s3://).
 *
 * Owns: one HTTP client (its connections), the keys, the learned clock offset. Happy path of a
 * request: build the URL (path style, everything percent-encoded by us), hash the payload, sign,
 * send, classify the answer by s3_classify(). Failure modes follow one table (s3_classify):
 * temporary ones are repeated with growing, jittered waits on a new connection ("no tomes
 * available" is B2's daily life and speaks only for that connection); 501 and the like are final; a
 * 403 RequestTimeTooSkewed moves our clock offset once; keys refused are read again at the next
 * call, so that an operator can mend them while we run. "Absent" is only what a body with NoSuchKey
 * says: a HEAD's bare 404 is asked again by GET. Thread: the caller's; one handle, one thread at a
 * time. */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "fs/archive/objstore_int.h"
#include "fs/archive/s3.h"
#include "fs/archive/s3_xml.h"
#include "fs/archive/sigv4.h"
#include "fs/base/hash.h"
#include "fs/base/http.h"
#include "fs/base/log.h"

#define XML_MAX (4u << 20) /* one page of a listing */

struct s3_store {
    struct dmt_objstore os;
    struct objstore_url u;
    struct objstore_keys keys;
    struct dmt_http *http;
    int64_t skew_s;    /* server's clock minus ours */
    bool keys_refused; /* read them again before the next call */
    bool fresh;        /* next request on a new connection */
};

struct s3_req {
    const char *method;
    const char *key;   /* NULL: the bucket itself */
    const char *query; /* encoded and sorted; "" for none */
    const void *body;
    size_t len;
    const char *content_md5; /* base64, or NULL */
    uint64_t off, range;     /* GET: bytes [off, off + range); range 0 = all */
    bool ranged;
    uint64_t response_max;
};

static struct s3_store *s3_of(struct dmt_objstore *os)
{
    return (struct s3_store *)(void *)os;
}

enum s3_verdict s3_classify(long status, const char *code, int *ret)
{
    static const struct {
        long status;      /* 0 = any */
        const char *code; /* NULL = any, "" = no body */
        enum s3_verdict verdict;
        int err;
    } table[] = {
        {404, "NoSuchKey", S3_ABSENT, 0},
        {404, "", S3_ABSENT, 0},
        {404, NULL, S3_CONFIG, 0},
        {416, NULL, S3_PAST_END, 0},
        {403, "RequestTimeTooSkewed", S3_SKEW, 0},
        {403, "RequestExpired", S3_SKEW, 0},
        {403, "QuotaExceeded", S3_FINAL, -EDQUOT},
        {403, NULL, S3_AUTH, 0},
        {401, NULL, S3_AUTH, 0},
        {400, "RequestTimeout", S3_RETRY, 0},
        {400, "IncompleteBody", S3_RETRY, 0},
        {400, "BadDigest", S3_RETRY, 0},                 /* bytes changed on the way */
        {400, "XAmzContentSHA256Mismatch", S3_RETRY, 0}, /* the same */
        {400, "RequestTimeTooSkewed", S3_SKEW, 0},
        {400, "ExpiredToken", S3_AUTH, 0},
        {400, "InvalidToken", S3_AUTH, 0},
        {400, "InvalidAccessKeyId", S3_AUTH, 0},
        {400, "AuthorizationHeaderMalformed", S3_CONFIG, 0}, /* another region */
        {400, "InvalidBucketName", S3_CONFIG, 0},
        {301, NULL, S3_CONFIG, 0},
        {307, NULL, S3_CONFIG, 0},
        {408, NULL, S3_RETRY, 0},
        {409, "ConditionalRequestConflict", S3_RETRY, 0},
        {409, "OperationAborted", S3_RETRY, 0},
        {412, NULL, S3_FINAL, -EEXIST},
        {429, NULL, S3_RETRY, 0},
        {500, NULL, S3_RETRY, 0},
        {501, NULL, S3_FINAL, -EOPNOTSUPP},
        {502, NULL, S3_RETRY, 0},
        {503, NULL, S3_RETRY, 0},
        {504, NULL, S3_RETRY, 0},
    };
    *ret = -EINVAL;
    if (status >= 200 && status < 300)
        return S3_OK;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (table[i].status == status && (!table[i].code || !strcmp(table[i].code, code))) {
            if (table[i].err)
                *ret = table[i].err;
            return table[i].verdict;
        }
    }
    return S3_FINAL;
}

/* The URL and, within it, the path that is signed. */
static int build_url(const struct s3_store *s, const struct s3_req *q, struct dmt_buf *url,
                     size_t *path_at)
{
    const char *scheme = s->u.tls ? "https://" : "http://";
    dmt_put_raw(url, scheme, strlen(scheme));
    dmt_put_raw(url, s->u.endpoint, strlen(s->u.endpoint));
    *path_at = url->len;
    dmt_put_u8(url, '/');
    sigv4_encode(url, s->u.bucket, 0);
    if (q->key) {
        dmt_put_u8(url, '/');
        sigv4_encode(url, s->u.prefix, 1);
        sigv4_encode(url, q->key, 1);
    }
    dmt_put_u8(url, 0);
    return url->bad ? -ENOMEM : 0;
}

/* Host as curl sends it: a default port is left out. */
static void host_of(const struct objstore_url *u, char host[256])
{
    const char *dflt = u->tls ? ":443" : ":80";
    size_t n = strlen(u->endpoint), dn = strlen(dflt);
    if (n > dn && !strcmp(u->endpoint + n - dn, dflt))
        n -= dn;
    snprintf(host, 256, "%.*s", (int)n, u->endpoint);
}

struct s3_headers {
    char host[256], date[17], sha[65];
    struct sigv4_header sign[8];
    size_t n_sign;
    char line[8][2400];
    const char *lines[9];
    size_t n_lines;
};

static void add_line(struct s3_headers *h, const char *name, const char *value)
{
    snprintf(h->line[h->n_lines], sizeof(h->line[0]), "%s: %s", name, value);
    h->lines[h->n_lines] = h->line[h->n_lines];
    h->n_lines++;
}

static void add_signed(struct s3_headers *h, const char *name, const char *value)
{
    h->sign[h->n_sign++] = (struct sigv4_header){name, value};
    if (strcmp(name, "host") != 0)
        add_line(h, name, value);
}

static int sign(const struct s3_store *s, const struct s3_req *q, const char *path,
                struct s3_headers *h)
{
    const struct dmt_clock *c = s->os.conf.clock;
    time_t now = (time_t)(c->realtime_ns(c->ctx) / DMT_S) + s->skew_s;
    char auth[1024], range[64];
    struct tm tm;
    strftime(h->date, sizeof(h->date), "%Y%m%dT%H%M%SZ", gmtime_r(&now, &tm));
    sigv4_sha256_hex(q->body ? q->body : "", q->len, h->sha);
    host_of(&s->u, h->host);
    add_signed(h, "host", h->host);
    add_signed(h, "x-amz-content-sha256", h->sha);
    add_signed(h, "x-amz-date", h->date);
    if (s->keys.token[0])
        add_signed(h, "x-amz-security-token", s->keys.token);
    if (q->content_md5)
        add_signed(h, "content-md5", q->content_md5);
    if (q->ranged) {
        if (q->range)
            snprintf(range, sizeof(range), "bytes=%llu-%llu", (unsigned long long)q->off,
                     (unsigned long long)(q->off + q->range - 1));
        else
            snprintf(range, sizeof(range), "bytes=%llu-", (unsigned long long)q->off);
        add_signed(h, "range", range);
    }
    struct sigv4_req sq = {
        .access = s->keys.access,
        .secret = s->keys.secret,
        .region = s->u.region,
        .service = "s3",
        .amz_date = h->date,
        .method = q->method,
        .path = path,
        .query = q->query,
        .headers = h->sign,
        .n_headers = h->n_sign,
        .payload_sha256 = h->sha,
    };
    int r = sigv4_authorization(&sq, auth, sizeof(auth));
    if (!r)
        add_line(h, "Authorization", auth);
    return r;
}

/* One exchange. 0 when an answer arrived (res filled, caller frees its body), DMT_E_RETRY or a
 * final error otherwise. */
static int exchange(struct s3_store *s, const struct s3_req *q, struct dmt_http_res *res,
                    struct dmt_err *err)
{
    struct s3_headers *h = calloc(1, sizeof(*h));
    struct dmt_buf url;
    size_t path_at = 0;
    dmt_buf_init(&url);
    int r = h ? build_url(s, q, &url, &path_at) : -ENOMEM;
    if (!r)
        r = sign(s, q, (const char *)url.p + path_at, h);
    if (!r && q->query[0]) {
        url.len--; /* the NUL */
        dmt_put_u8(&url, '?');
        dmt_put_raw(&url, q->query, strlen(q->query) + 1);
        r = url.bad ? -ENOMEM : 0;
    }
    if (r) {
        dmt_err_set(err, r, "cannot build the request: %s", dmt_strerror(r));
        goto out;
    }
    struct dmt_http_req req = {
        .method = q->method,
        .url = (const char *)url.p,
        .headers = h->lines,
        .body = q->body,
        .body_len = q->len,
        .response_max = q->response_max,
        .connect_timeout_ms = s->os.conf.connect_timeout_ms,
        .stall_timeout_s = s->os.conf.stall_timeout_s,
        .fresh = s->fresh,
        .ca_file = s->u.ca[0] ? s->u.ca : NULL,
    };
    r = dmt_http_do(s->http, &req, res, err);
    s->fresh = r != 0;
    /* What no repetition can mend stays; everything else the network did is temporary. */
    if (r && r != DMT_E_AUTH && r != DMT_E_CONFIG && r != -EFBIG && r != -EINVAL && r != -ENOMEM) {
        if (err)
            err->code = DMT_E_RETRY;
        r = DMT_E_RETRY;
    }
out:
    dmt_buf_free(&url);
    free(h);
    return r;
}

/* The server's clock from its Date header; false when there is none to learn from. */
static bool learn_skew(struct s3_store *s, const char *date)
{
    const struct dmt_clock *c = s->os.conf.clock;
    struct tm tm = {0};
    if (!date[0] || !strptime(date, "%a, %d %b %Y %H:%M:%S", &tm))
        return false;
    s->skew_s = (int64_t)timegm(&tm) - (int64_t)(c->realtime_ns(c->ctx) / DMT_S);
    dmt_warn("archive: this machine's clock is %lld s off the object store's; requests are dated "
             "by the store's clock",
             (long long)-s->skew_s);
    return true;
}

static int refuse(struct s3_store *s, const struct s3_req *q, enum s3_verdict v, int code,
                  long status, const char *xml, const char *msg, struct dmt_err *err)
{
    const char *key = q->key ? q->key : "(list)";
    if (v == S3_AUTH || v == S3_SKEW) {
        s->keys_refused = true;
        dmt_err_set(err, DMT_E_AUTH, "%s refused %s of %s: HTTP %ld %s %s", s->u.endpoint,
                    q->method, key, status, xml, msg);
        dmt_err_hint(err,
                     v == S3_SKEW ? "set this machine's clock"
                                  : "check the keys for bucket %s in %s and their rights",
                     s->u.bucket, s->os.conf.credentials);
        return DMT_E_AUTH;
    }
    if (v == S3_CONFIG) {
        dmt_err_set(err, DMT_E_CONFIG, "%s has no bucket %s in region %s: HTTP %ld %s %s",
                    s->u.endpoint, s->u.bucket, s->u.region, status, xml, msg);
        dmt_err_hint(
            err, "create the bucket, or correct bucket, endpoint and region of the archive URL");
        return DMT_E_CONFIG;
    }
    return dmt_err_set(err, code, "%s refused %s of %s: HTTP %ld %s %s", s->u.endpoint, q->method,
                       key, status, xml, msg);
}

/* One request with the clock mended once. 0 with res filled; -ENOENT (weak for HEAD); -ERANGE =
 * past the end; DMT_E_RETRY. */
static int attempt(struct s3_store *s, const struct s3_req *q, struct dmt_http_res *res,
                   long *after, struct dmt_err *err)
{
    for (int mended = 0;; mended++) {
        char xml[64], msg[256];
        int code;
        memset(res, 0, sizeof(*res));
        *after = 0;
        int r = exchange(s, q, res, err);
        if (r)
            return r;
        s3_xml_error(res->body.p, res->status < 300 ? 0 : res->body.len, xml, msg);
        enum s3_verdict v = s3_classify(res->status, xml, &code);
        if (v == S3_OK) {
            s->keys_refused = false;
            return 0;
        }
        long status = res->status;
        *after = res->retry_after_s;
        bool again = v == S3_SKEW && !mended && learn_skew(s, res->date);
        dmt_buf_free(&res->body);
        if (again)
            continue;
        switch (v) {
        case S3_ABSENT:
            return dmt_err_set(err, -ENOENT, "no object %s in bucket %s", q->key ? q->key : "",
                               s->u.bucket);
        case S3_PAST_END:
            return -ERANGE;
        case S3_RETRY:
            s->fresh = true;
            return dmt_err_set(err, DMT_E_RETRY, "%s answers HTTP %ld %s %s", s->u.endpoint, status,
                               xml, msg);
        default:
            return refuse(s, q, v, code, status, xml, msg, err);
        }
    }
}

/* Attempts until an answer that counts, or patience ends. */
static int request(struct s3_store *s, const struct s3_req *q, struct dmt_http_res *res,
                   struct dmt_err *err)
{
    struct objstore_tries t;
    long after;
    int r;
    objstore_tries_begin(&t, &s->os);
    do {
        r = attempt(s, q, res, &after, err);
    } while (r == DMT_E_RETRY && objstore_tries_again(&t, after));
    return r;
}

static int begin(struct dmt_objstore *os, struct dmt_err *err)
{
    struct s3_store *s = s3_of(os);
    if (!s->keys_refused)
        return 0;
    int r = objstore_keys_load(os->conf.credentials, s->u.bucket, &s->keys, err);
    s->keys_refused = r != 0;
    return r;
}

static int s3_head_once(struct dmt_objstore *os, const char *key, uint64_t *ret_size,
                        char etag[128], long *after, struct dmt_err *err)
{
    struct s3_req q = {.method = "HEAD", .key = key, .query = ""};
    struct dmt_http_res res;
    int r = attempt(s3_of(os), &q, &res, after, err);
    if (r == DMT_E_AUTH) /* a HEAD carries no reason: let the PUT that follows say which */
        return -ENOENT;
    if (r)
        return r;
    *ret_size = res.content_length < 0 ? 0 : (uint64_t)res.content_length;
    memcpy(etag, res.etag, 128);
    dmt_buf_free(&res.body);
    return 0;
}

static int s3_put_once(struct dmt_objstore *os, const char *key, const void *p, size_t len,
                       const uint8_t md5[16], long *after, struct dmt_err *err)
{
    char b64[32];
    EVP_EncodeBlock((uint8_t *)b64, md5, 16);
    struct s3_req q = {.method = "PUT",
                       .key = key,
                       .query = "",
                       .body = p,
                       .len = len,
                       .content_md5 = b64,
                       .response_max = XML_MAX};
    struct dmt_http_res res;
    int r = attempt(s3_of(os), &q, &res, after, err);
    if (!r)
        dmt_buf_free(&res.body);
    return r == -ENOENT ? dmt_err_set(err, DMT_E_CONFIG, "the endpoint answers 404 to PUT %s", key)
                        : r;
}

static int s3_put(struct dmt_objstore *os, const char *key, const void *p, size_t len,
                  struct dmt_err *err)
{
    static const struct objstore_once once = {s3_head_once, s3_put_once};
    int r = begin(os, err);
    return r ? r : objstore_put_verified(os, &once, key, p, len, err);
}

static int s3_get(struct dmt_objstore *os, const char *key, uint64_t off, uint64_t len,
                  struct dmt_buf *out, struct dmt_err *err)
{
    struct s3_req q = {.method = "GET",
                       .key = key,
                       .query = "",
                       .off = off,
                       .range = len,
                       .ranged = off || len,
                       .response_max = DMT_OBJ_BYTES_MAX};
    struct dmt_http_res res;
    int r = begin(os, err);
    if (!r)
        r = request(s3_of(os), &q, &res, err);
    if (r)
        return r == -ERANGE ? 0 : r;
    const uint8_t *p = res.body.p;
    size_t n = res.body.len;
    if (q.ranged && res.status == 200) { /* Range was not understood: all of it came */
        size_t skip = off < n ? (size_t)off : n;
        p += skip;
        n -= skip;
        if (len && n > len)
            n = (size_t)len;
    }
    dmt_put_raw(out, p, n);
    dmt_buf_free(&res.body);
    return out->bad ? dmt_err_set(err, -ENOMEM, "out of memory") : 0;
}

static int s3_head(struct dmt_objstore *os, const char *key, uint64_t *ret_size,
                   struct dmt_err *err)
{
    struct s3_req q = {.method = "HEAD", .key = key, .query = ""};
    struct dmt_http_res res;
    int r = begin(os, err);
    if (!r)
        r = request(s3_of(os), &q, &res, err);
    if (!r) {
        *ret_size = res.content_length < 0 ? 0 : (uint64_t)res.content_length;
        dmt_buf_free(&res.body);
    } else if (r == -ENOENT || r == DMT_E_AUTH) {
        /* Only a body tells NoSuchKey from NoSuchBucket, a skewed clock from wrong keys. */
        struct dmt_buf b;
        dmt_buf_init(&b);
        r = s3_get(os, key, 0, 1, &b, err);
        dmt_buf_free(&b);
        if (!r)
            r = dmt_err_set(err, DMT_E_RETRY, "%s answers HEAD and GET of %s differently",
                            s3_of(os)->u.endpoint, key);
    }
    return r;
}

struct list_ctx {
    dmt_obj_key_fn fn;
    void *ctx;
    size_t skip; /* our prefix */
};

static int on_key(void *ctx, const char *key, uint64_t size)
{
    const struct list_ctx *l = ctx;
    return strlen(key) > l->skip ? l->fn(l->ctx, key + l->skip, size) : 0;
}

static int s3_list(struct dmt_objstore *os, const char *prefix, dmt_obj_key_fn fn, void *ctx,
                   struct dmt_err *err)
{
    struct s3_store *s = s3_of(os);
    struct list_ctx l = {fn, ctx, strlen(s->u.prefix)};
    char token[2048] = "";
    struct dmt_buf query;
    dmt_buf_init(&query);
    int r = begin(os, err);
    while (!r) {
        static const char fixed[] = "encoding-type=url&list-type=2&prefix=";
        struct dmt_http_res res;
        dmt_buf_reset(&query);
        if (token[0]) {
            dmt_put_raw(&query, "continuation-token=", 19);
            sigv4_encode(&query, token, 0);
            dmt_put_u8(&query, '&');
        }
        dmt_put_raw(&query, fixed, sizeof(fixed) - 1);
        sigv4_encode(&query, s->u.prefix, 0);
        sigv4_encode(&query, prefix, 0);
        dmt_put_u8(&query, 0);
        if (query.bad) {
            r = -ENOMEM;
            break;
        }
        struct s3_req q = {
            .method = "GET", .query = (const char *)query.p, .response_max = XML_MAX};
        r = request(s, &q, &res, err);
        if (r)
            break;
        r = s3_xml_list(res.body.p, res.body.len, on_key, &l, token);
        dmt_buf_free(&res.body);
        if (r == DMT_E_CORRUPT)
            dmt_err_set(err, r, "%s: the listing is not understood", s->u.endpoint);
        if (!token[0])
            break;
    }
    dmt_buf_free(&query);
    return r;
}

static int s3_del(struct dmt_objstore *os, const char *key, struct dmt_err *err)
{
    struct s3_req q = {.method = "DELETE", .key = key, .query = "", .response_max = XML_MAX};
    struct dmt_http_res res;
    int r = begin(os, err);
    if (!r)
        r = request(s3_of(os), &q, &res, err);
    if (!r)
        dmt_buf_free(&res.body);
    return r == -ENOENT ? 0 : r;
}

/* The exact key sorts before all others with this prefix: one page is enough. */
static int s3_versions(struct dmt_objstore *os, const char *key, struct dmt_err *err)
{
    struct s3_store *s = s3_of(os);
    struct dmt_buf query;
    struct dmt_http_res res;
    char full[2 * DMT_OBJ_KEY_MAX];
    dmt_buf_init(&query);
    int r = begin(os, err);
    (void)snprintf(full, sizeof(full), "%s%s", s->u.prefix, key);
    dmt_put_raw(&query, "prefix=", 7);
    sigv4_encode(&query, full, 0);
    dmt_put_raw(&query, "&versions=", 11); /* with its NUL */
    if (!r && query.bad)
        r = -ENOMEM;
    struct s3_req q = {.method = "GET", .query = (const char *)query.p, .response_max = XML_MAX};
    if (!r)
        r = request(s, &q, &res, err);
    if (!r) {
        r = s3_xml_versions(res.body.p, res.body.len, full);
        dmt_buf_free(&res.body);
        if (r == DMT_E_CORRUPT)
            dmt_err_set(err, r, "%s: the list of versions is not understood", s->u.endpoint);
    }
    dmt_buf_free(&query);
    return r;
}

static void s3_close(struct dmt_objstore *os)
{
    struct s3_store *s = s3_of(os);
    dmt_http_free(s->http);
    explicit_bzero(&s->keys, sizeof(s->keys));
    free(s);
}

static const struct objstore_ops s3_ops = {
    .scheme = "s3",
    .put = s3_put,
    .get = s3_get,
    .head = s3_head,
    .list = s3_list,
    .del = s3_del,
    .versions = s3_versions,
    .close = s3_close,
};

int objstore_s3_open(struct dmt_objstore **ret, const struct objstore_url *u,
                     const char *credentials, struct dmt_err *err)
{
    struct s3_store *s = calloc(1, sizeof(*s));
    if (!s)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    s->os.ops = &s3_ops;
    s->u = *u;
    int r = objstore_keys_load(credentials, u->bucket, &s->keys, err);
    if (!r && !(s->http = dmt_http_new()))
        r = dmt_err_set(err, -ENOMEM, "cannot start the HTTP client");
    if (r) {
        free(s);
        return r;
    }
    *ret = &s->os;
    return 0;
}
