/* objstore.c: opens the driver that an archive URL names, and the small things all drivers share.
 *
 * Owns: URL syntax, key syntax, the defaults, the waiting between attempts. Happy path:
 * dmt_objstore_open() parses the URL, asks the driver for a handle and fills in defaults; every
 * call checks its key and goes through the vtable. Failure modes: a URL or key that is not
 * well-formed is DMT_E_CONFIG / -EINVAL before anything is sent. Thread: the caller's; a handle
 * belongs to one thread at a time. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "fs/archive/objstore_int.h"
#include "fs/base/log.h"
#include "fs/base/options.h"

#define STEP_FIRST_NS (100 * DMT_MS)
#define STEP_MAX_NS   (5 * DMT_S)
#define NAP_NS        (50 * DMT_MS) /* how often a wait looks at the stop flag */

static int url_error(struct dmt_err *err, const char *url, const char *what)
{
    dmt_err_set(err, DMT_E_CONFIG, "archive URL %s: %s", url, what);
    dmt_err_hint(err, "write file:///DIR or s3://BUCKET/PREFIX?endpoint=HOST&region=REGION");
    return DMT_E_CONFIG;
}

static bool copy_part(char *dst, size_t size, const char *s, size_t n)
{
    if (n >= size || memchr(s, 0, n))
        return false;
    memcpy(dst, s, n);
    dst[n] = 0;
    return true;
}

static int url_option(struct objstore_url *u, const char *url, const char *s, size_t n,
                      struct dmt_err *err)
{
    const char *eq = memchr(s, '=', n);
    size_t kn = eq ? (size_t)(eq - s) : n;
    const char *v = eq ? eq + 1 : "";
    size_t vn = eq ? n - kn - 1 : 0;
    bool ok = true;
    if (kn == 8 && !memcmp(s, "endpoint", 8))
        ok = copy_part(u->endpoint, sizeof(u->endpoint), v, vn) && vn;
    else if (kn == 6 && !memcmp(s, "region", 6))
        ok = copy_part(u->region, sizeof(u->region), v, vn) && vn;
    else if (kn == 2 && !memcmp(s, "ca", 2))
        ok = copy_part(u->ca, sizeof(u->ca), v, vn) && vn;
    else if (kn == 3 && !memcmp(s, "tls", 3))
        ok = (vn == 3 && !memcmp(v, "off", 3) && (u->tls = false, true)) ||
             (vn == 2 && !memcmp(v, "on", 2));
    else
        ok = false;
    if (!ok) {
        char what[160];
        snprintf(what, sizeof(what), "option \"%.*s\" is not understood", (int)(n > 100 ? 100 : n),
                 s);
        return url_error(err, url, what);
    }
    return 0;
}

/* The region that an endpoint's own name carries: s3.REGION.backblazeb2.com,
 * s3.REGION.amazonaws.com, R2's is "auto". */
static void region_guess(struct objstore_url *u)
{
    static const char *const suffix[] = {".backblazeb2.com", ".amazonaws.com"};
    const char *host = u->endpoint;
    size_t n = strcspn(host, ":");
    snprintf(u->region, sizeof(u->region), "us-east-1");
    for (size_t i = 0; i < sizeof(suffix) / sizeof(suffix[0]); i++) {
        size_t sn = strlen(suffix[i]);
        if (!strncmp(host, "s3.", 3) && n > 3 + sn && !strncmp(host + n - sn, suffix[i], sn))
            copy_part(u->region, sizeof(u->region), host + 3, n - 3 - sn);
    }
    static const char r2[] = ".r2.cloudflarestorage.com";
    if (n > sizeof(r2) - 1 && !strncmp(host + n - (sizeof(r2) - 1), r2, sizeof(r2) - 1))
        snprintf(u->region, sizeof(u->region), "auto");
}

static int url_parse_s3(const char *url, const char *rest, struct objstore_url *u,
                        struct dmt_err *err)
{
    size_t n = strcspn(rest, "?");
    size_t bn = strcspn(rest, "/?");
    if (bn < 3 || !copy_part(u->bucket, sizeof(u->bucket), rest, bn))
        return url_error(err, url, "a bucket name of 3 to 127 characters must follow s3://");
    const char *p = rest + bn, *end = rest + n;
    while (p < end && *p == '/')
        p++;
    while (end > p && end[-1] == '/')
        end--;
    if (p < end) {
        if (!copy_part(u->prefix, sizeof(u->prefix) - 1, p, (size_t)(end - p)))
            return url_error(err, url, "the prefix is too long");
        u->prefix[end - p] = '/';
        u->prefix[end - p + 1] = 0;
        if (strspn(u->prefix,
                   "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/") !=
            strlen(u->prefix))
            return url_error(err, url, "a prefix has letters, digits and . _ - / only");
    }
    for (p = rest + n; *p;) {
        p++; /* the ? or & */
        size_t on = strcspn(p, "&");
        int r = on ? url_option(u, url, p, on, err) : 0;
        if (r)
            return r;
        p += on;
    }
    if (!u->endpoint[0])
        return url_error(err, url, "endpoint=HOST is missing");
    if (strspn(u->endpoint,
               "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-:[]") !=
        strlen(u->endpoint))
        return url_error(err, url,
                         "the endpoint is a host name with an optional :PORT, without https://");
    if (!u->region[0])
        region_guess(u);
    return 0;
}

int objstore_url_parse(const char *url, struct objstore_url *ret, struct dmt_err *err)
{
    memset(ret, 0, sizeof(*ret));
    ret->tls = true;
    const char *sep = strstr(url, "://");
    if (!sep || !copy_part(ret->scheme, sizeof(ret->scheme), url, (size_t)(sep - url)))
        return url_error(err, url, "it has no scheme");
    const char *rest = sep + 3;
    if (!strcmp(ret->scheme, "file")) {
        size_t n = strlen(rest);
        while (n > 1 && rest[n - 1] == '/')
            n--;
        if (rest[0] != '/' || !copy_part(ret->path, sizeof(ret->path) / 2, rest, n))
            return url_error(err, url, "an absolute directory must follow file://");
        return 0;
    }
    if (!strcmp(ret->scheme, "s3") || !strcmp(ret->scheme, "libs3"))
        return url_parse_s3(url, rest, ret, err);
    return url_error(err, url, "the scheme is none of file, s3, libs3");
}

int dmt_objstore_open(struct dmt_objstore **ret, const char *url,
                      const struct dmt_objstore_conf *conf, struct dmt_err *err)
{
    static const struct dmt_objstore_conf none;
    struct objstore_url u;
    char cred[DMT_OBJ_KEY_MAX];
    if (conf && conf->credentials)
        snprintf(cred, sizeof(cred), "%s", conf->credentials);
    else
        snprintf(cred, sizeof(cred), "%s/credentials", dmt_dir_etc());
    int r = objstore_url_parse(url, &u, err);
    if (r)
        return r;
    if (!strcmp(u.scheme, "file"))
        r = objstore_file_open(ret, &u, err);
    else if (!strcmp(u.scheme, "s3"))
        r = objstore_s3_open(ret, &u, cred, err);
    else
        r = objstore_libs3_open(ret, &u, cred, err);
    if (r)
        return r;
    struct dmt_objstore_conf *c = &(*ret)->conf;
    *c = conf ? *conf : none;
    if (!c->io)
        c->io = dmt_io_real();
    if (!c->clock)
        c->clock = dmt_clock_real();
    if (!c->retry_ms)
        c->retry_ms = 20000;
    if (!c->connect_timeout_ms)
        c->connect_timeout_ms = 5000;
    if (!c->stall_timeout_s)
        c->stall_timeout_s = 20;
    snprintf((*ret)->credentials, sizeof((*ret)->credentials), "%s", cred);
    c->credentials = (*ret)->credentials;
    return 0;
}

void dmt_objstore_close(struct dmt_objstore *os)
{
    if (os)
        os->ops->close(os);
}

static int key_check(const char *key, struct dmt_err *err)
{
    size_t n = strlen(key), part = 0;
    bool ok = n > 0 && n <= DMT_OBJ_KEY_MAX;
    for (size_t i = 0; i <= n && ok; i++) {
        if (i == n || key[i] == '/') {
            const char *p = key + i - part;
            ok = part && !(part == 1 && p[0] == '.') && !(part == 2 && p[0] == '.' && p[1] == '.');
            part = 0;
        } else {
            ok = isalnum((unsigned char)key[i]) || strchr("._-", key[i]);
            part++;
        }
    }
    return ok ? 0 : dmt_err_set(err, -EINVAL, "not a valid object key: %.100s", key);
}

int dmt_objstore_put(struct dmt_objstore *os, const char *key, const void *p, size_t len,
                     struct dmt_err *err)
{
    int r = key_check(key, err);
    if (!r && len > DMT_OBJ_BYTES_MAX)
        r = dmt_err_set(err, -EFBIG, "object %s has %zu bytes, more than the limit", key, len);
    return r ? r : os->ops->put(os, key, p, len, err);
}

int dmt_objstore_get(struct dmt_objstore *os, const char *key, uint64_t off, uint64_t len,
                     struct dmt_buf *out, struct dmt_err *err)
{
    int r = key_check(key, err);
    return r ? r : os->ops->get(os, key, off, len, out, err);
}

int dmt_objstore_head(struct dmt_objstore *os, const char *key, uint64_t *ret_size,
                      struct dmt_err *err)
{
    int r = key_check(key, err);
    return r ? r : os->ops->head(os, key, ret_size, err);
}

int dmt_objstore_list(struct dmt_objstore *os, const char *prefix, dmt_obj_key_fn fn, void *ctx,
                      struct dmt_err *err)
{
    return os->ops->list(os, prefix, fn, ctx, err);
}

int dmt_objstore_delete(struct dmt_objstore *os, const char *key, struct dmt_err *err)
{
    int r = key_check(key, err);
    return r ? r : os->ops->del(os, key, err);
}

int dmt_objstore_versions(struct dmt_objstore *os, const char *key, struct dmt_err *err)
{
    int r = key_check(key, err);
    if (!r && !os->ops->versions)
        r = dmt_err_set(err, -EOPNOTSUPP, "this store knows no versions");
    return r ? r : os->ops->versions(os, key, err);
}

void objstore_tries_begin(struct objstore_tries *t, const struct dmt_objstore *os)
{
    t->os = os;
    t->deadline_ns = os->conf.clock->monotonic_ns(os->conf.clock->ctx) + os->conf.retry_ms * DMT_MS;
    t->step_ns = STEP_FIRST_NS;
}

/* Sleeps by the real clock in short naps, so that a stop request ends the wait; the deadline is
 * judged by the conf's clock. */
bool objstore_tries_again(struct objstore_tries *t, long retry_after_s)
{
    const struct dmt_objstore_conf *c = &t->os->conf;
    uint64_t now = c->clock->monotonic_ns(c->clock->ctx);
    uint8_t jitter;
    dmt_random(&jitter, 1);
    uint64_t wait = t->step_ns / 2 + t->step_ns * jitter / 512; /* half to one step */
    if (retry_after_s > 0 && wait < (uint64_t)retry_after_s * DMT_S)
        wait = (uint64_t)retry_after_s * DMT_S;
    t->step_ns = t->step_ns * 2 > STEP_MAX_NS ? STEP_MAX_NS : t->step_ns * 2;
    if (now + wait > t->deadline_ns)
        return false;
    for (uint64_t end = now + wait; now < end; now = c->clock->monotonic_ns(c->clock->ctx)) {
        if (c->stop && atomic_load(c->stop))
            return false;
        uint64_t nap = end - now < NAP_NS ? end - now : NAP_NS;
        nanosleep(&(struct timespec){.tv_nsec = (long)nap}, NULL);
    }
    return !(c->stop && atomic_load(c->stop));
}
