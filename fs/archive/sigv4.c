/* sigv4.c: AWS Signature Version 4 as AWS documents it ("Signature Version 4 signing process"), for
 * S3's rules: the path is encoded once and not normalised.
 *
 * Happy path: canonical request (method, path, query, headers sorted by name, signed names, payload
 * hash) -> its SHA-256 in the string to sign (algorithm, date, scope) -> HMAC chain over date,
 * region, service, "aws4_request" gives the key -> signature. Failure modes: only memory and
 * impossible arguments. The secret and the derived key are wiped. Thread: any; no state. libcurl's
 * own CURLOPT_AWS_SIGV4 is not used: Debian 12's has holes (empty Expect header signed, query
 * unsorted). */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "fs/archive/sigv4.h"
#include "fs/base/err.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"

static void put_text(struct dmt_buf *b, const char *s)
{
    dmt_put_raw(b, s, strlen(s));
}

void sigv4_sha256_hex(const void *p, size_t n, char ret[65])
{
    uint8_t md[32];
    unsigned int len = sizeof(md);
    DMT_ASSERT(EVP_Digest(p, n, md, &len, EVP_sha256(), NULL) == 1 && len == 32);
    dmt_hex(md, 32, ret);
}

void sigv4_encode(struct dmt_buf *out, const char *s, int keep_slash)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    for (; *s; s++) {
        if (strchr(plain, *s) || (keep_slash && *s == '/')) {
            dmt_put_u8(out, (uint8_t)*s);
        } else {
            char hex[4];
            snprintf(hex, sizeof(hex), "%%%02X", (unsigned)(uint8_t)*s);
            dmt_put_raw(out, hex, 3);
        }
    }
}

static void hmac(const void *key, size_t key_len, const char *s, uint8_t ret[32])
{
    unsigned int n = 32;
    DMT_ASSERT(HMAC(EVP_sha256(), key, (int)key_len, (const uint8_t *)s, strlen(s), ret, &n) &&
               n == 32);
}

static int by_name(const void *a, const void *b)
{
    const struct sigv4_header *const *x = a, *const *y = b;
    return strcasecmp((*x)->name, (*y)->name);
}

static void put_lower(struct dmt_buf *b, const char *s)
{
    for (; *s; s++)
        dmt_put_u8(b, (uint8_t)(*s >= 'A' && *s <= 'Z' ? *s + 32 : *s));
}

static void put_value(struct dmt_buf *b, const char *s)
{
    s += strspn(s, " \t");
    while (*s) {
        size_t n = strcspn(s, " \t"), blanks = strspn(s + n, " \t");
        dmt_put_raw(b, s, n);
        s += n + blanks;
        if (blanks && *s)
            dmt_put_u8(b, ' ');
    }
}

/* The names of the signed headers, "a;b;c". */
static void put_names(struct dmt_buf *b, const struct sigv4_header **h, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (i)
            dmt_put_u8(b, ';');
        put_lower(b, h[i]->name);
    }
}

static void put_canonical(struct dmt_buf *b, const struct sigv4_req *q,
                          const struct sigv4_header **h)
{
    put_text(b, q->method);
    put_text(b, "\n");
    put_text(b, q->path);
    put_text(b, "\n");
    put_text(b, q->query);
    put_text(b, "\n");
    for (size_t i = 0; i < q->n_headers; i++) {
        put_lower(b, h[i]->name);
        put_text(b, ":");
        put_value(b, h[i]->value);
        put_text(b, "\n");
    }
    put_text(b, "\n");
    put_names(b, h, q->n_headers);
    put_text(b, "\n");
    put_text(b, q->payload_sha256);
}

static void signature(const struct sigv4_req *q, const char *date, const char *to_sign,
                      char ret[65])
{
    char first[512];
    uint8_t k[32], sig[32];
    snprintf(first, sizeof(first), "AWS4%s", q->secret);
    hmac(first, strlen(first), date, k);
    hmac(k, sizeof(k), q->region, k);
    hmac(k, sizeof(k), q->service, k);
    hmac(k, sizeof(k), "aws4_request", k);
    hmac(k, sizeof(k), to_sign, sig);
    dmt_hex(sig, sizeof(sig), ret);
    OPENSSL_cleanse(first, sizeof(first));
    OPENSSL_cleanse(k, sizeof(k));
}

int sigv4_authorization(const struct sigv4_req *q, char *ret, size_t size)
{
    const struct sigv4_header *h[SIGV4_HEADERS_MAX];
    char date[9], scope[256], hash[65], sig[65], to_sign[512];
    struct dmt_buf b;
    if (q->n_headers > SIGV4_HEADERS_MAX || strlen(q->amz_date) != 16 || strlen(q->secret) > 256)
        return -EINVAL;
    for (size_t i = 0; i < q->n_headers; i++)
        h[i] = &q->headers[i];
    qsort(h, q->n_headers, sizeof(h[0]), by_name);
    snprintf(date, sizeof(date), "%.8s", q->amz_date);
    int sn = snprintf(scope, sizeof(scope), "%s/%s/%s/aws4_request", date, q->region, q->service);
    if (sn < 0 || (size_t)sn >= sizeof(scope))
        return -EINVAL;

    dmt_buf_init(&b);
    put_canonical(&b, q, h);
    sigv4_sha256_hex(b.p, b.len, hash);
    bool bad = b.bad;
    dmt_buf_reset(&b);
    snprintf(to_sign, sizeof(to_sign), "AWS4-HMAC-SHA256\n%s\n%s\n%s", q->amz_date, scope, hash);
    signature(q, date, to_sign, sig);
    put_names(&b, h, q->n_headers);
    dmt_put_u8(&b, 0);
    bad |= b.bad;
    int n =
        bad ? 0
            : snprintf(ret, size, "AWS4-HMAC-SHA256 Credential=%s/%s,SignedHeaders=%s,Signature=%s",
                       q->access, scope, (const char *)b.p, sig);
    dmt_buf_free(&b);
    if (bad)
        return -ENOMEM;
    return n < 0 || (size_t)n >= size ? -EINVAL : 0;
}
