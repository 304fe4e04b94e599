/* http.c: blocking HTTP client over libcurl.
 *
 * Owns one easy handle, and with it its connections, between new and free. Happy path: reset the
 * handle's options (connections stay), set them from the request, perform, hand over the body. A
 * response of any status is success here; only a response that did not arrive whole is an error.
 * Failure modes: no connection, a stall, a body cut short or larger than the caller allows; each
 * becomes one errno and a sentence that names the URL without its query, because queries carry
 * signatures. Redirects are not followed: a signed request is for one host. Proxies from the
 * environment are not used: that would send credentials of a daemon through whatever its
 * environment says. Thread: pool threads; a handle belongs to one caller at a time.
 */
#include "fs/base/http.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define CONNECT_TIMEOUT_MS 10000l
#define STALL_TIMEOUT_S    30l
#define STALL_BYTES_S      1024l
#define RETRY_AFTER_MAX_S  86400l

struct dmt_http {
    CURL *curl;
};

/* One request under way. */
struct transfer {
    const struct dmt_http_req *req;
    struct dmt_http_res *res;
    size_t sent;
    int error; /* ours, which curl only knows as "aborted" */
};

static pthread_once_t g_once = PTHREAD_ONCE_INIT;

static void global_init(void)
{
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

struct dmt_http *dmt_http_new(void)
{
    pthread_once(&g_once, global_init);
    struct dmt_http *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->curl = curl_easy_init();
    if (!h->curl) {
        free(h);
        return NULL;
    }
    return h;
}

void dmt_http_free(struct dmt_http *h)
{
    if (!h)
        return;
    curl_easy_cleanup(h->curl);
    free(h);
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    struct dmt_buf *b = &t->res->body;
    n *= size;
    if (n > t->req->response_max - b->len) {
        t->error = -EFBIG;
        return 0;
    }
    dmt_put_raw(b, p, n);
    if (b->bad) {
        t->error = -ENOMEM;
        return 0;
    }
    return n;
}

static size_t on_send(char *p, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    size_t left = t->req->body_len - t->sent;
    n *= size;
    if (n > left)
        n = left;
    if (n > 0)
        memcpy(p, (const char *)t->req->body + t->sent, n);
    t->sent += n;
    return n;
}

/* curl rewinds when a reused connection turns out to be dead and the request goes out again. */
static int on_seek(void *arg, curl_off_t offset, int origin)
{
    struct transfer *t = arg;
    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > t->req->body_len)
        return CURL_SEEKFUNC_FAIL;
    t->sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* "Name: value\r\n": the value if the name is `name`, without blanks around it. */
static const char *header_value(const char *line, size_t n, const char *name, size_t *ret_n)
{
    size_t name_len = strlen(name);
    if (n <= name_len || line[name_len] != ':' || strncasecmp(line, name, name_len) != 0)
        return NULL;
    const char *v = line + name_len + 1, *end = line + n;
    while (v < end && (*v == ' ' || *v == '\t'))
        v++;
    while (end > v && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *ret_n = (size_t)(end - v);
    return v;
}

static void copy_value(char *dst, size_t size, const char *v, size_t n)
{
    if (n >= size)
        n = 0; /* a cut etag would compare wrongly; none is honest */
    memcpy(dst, v, n);
    dst[n] = '\0';
}

/* Digits only, up to max; -1 for anything else. */
static int64_t parse_count(const char *v, size_t n, int64_t max)
{
    int64_t count = 0;
    if (n == 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (v[i] < '0' || v[i] > '9')
            return -1;
        count = count * 10 + (v[i] - '0');
        if (count > max)
            return max;
    }
    return count;
}

static size_t on_header(char *p, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;
    struct dmt_http_res *res = t->res;
    size_t n = size * count, vn;
    const char *v;
    if (n >= 5 && memcmp(p, "HTTP/", 5) == 0) {
        /* A new status line: what a "100 Continue" before it said does not count. */
        res->etag[0] = res->date[0] = '\0';
        res->retry_after_s = 0;
        res->content_length = -1;
        return n;
    }
    if ((v = header_value(p, n, "ETag", &vn))) {
        if (vn >= 2 && v[0] == '"' && v[vn - 1] == '"') {
            v++;
            vn -= 2;
        }
        copy_value(res->etag, sizeof(res->etag), v, vn);
    } else if ((v = header_value(p, n, "Date", &vn))) {
        copy_value(res->date, sizeof(res->date), v, vn);
    } else if ((v = header_value(p, n, "Retry-After", &vn))) {
        /* The date form gives 0: callers fall back to their own waiting. */
        int64_t s = parse_count(v, vn, RETRY_AFTER_MAX_S);
        res->retry_after_s = s > 0 ? (long)s : 0;
    } else if ((v = header_value(p, n, "Content-Length", &vn))) {
        res->content_length = parse_count(v, vn, INT64_MAX / 16);
    }
    return n;
}

/* A list for CURLOPT_HTTPHEADER; 0 or -ENOMEM (the list is freed then). */
static int make_headers(const struct dmt_http_req *req, struct curl_slist **ret)
{
    /* "Name:" without a value tells curl not to send the header. Expect would cost a round trip for
     * each upload. */
    struct curl_slist *list = curl_slist_append(NULL, "Expect:");
    for (const char *const *h = req->headers; list && h && *h; h++) {
        if (strncasecmp(*h, "Expect:", 7) == 0)
            continue;
        struct curl_slist *longer = curl_slist_append(list, *h);
        if (!longer) {
            curl_slist_free_all(list);
            return -ENOMEM;
        }
        list = longer;
    }
    *ret = list;
    return list ? 0 : -ENOMEM;
}

static int curl_to_errno(CURLcode c)
{
    switch (c) {
    case CURLE_OPERATION_TIMEDOUT:
        return -ETIMEDOUT;
    case CURLE_COULDNT_CONNECT:
        return -ECONNREFUSED;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return -EHOSTUNREACH;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
        return DMT_E_AUTH;
    case CURLE_SSL_CACERT_BADFILE:
        return DMT_E_CONFIG;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return -EINVAL;
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return -ECONNRESET;
    default:
        return -EIO;
    }
}

static void set_method(CURL *c, const struct dmt_http_req *req, struct transfer *t)
{
    if (strcmp(req->method, "HEAD") == 0) {
        curl_easy_setopt(c, CURLOPT_NOBODY, 1L); /* a length is announced, and no body comes */
    } else if (req->body_len > 0 || strcmp(req->method, "PUT") == 0 ||
               strcmp(req->method, "POST") == 0) {
        /* A length is sent for an empty PUT or POST too; servers that check signatures want one. */
        curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE, (curl_off_t)req->body_len);
        curl_easy_setopt(c, CURLOPT_READFUNCTION, on_send);
        curl_easy_setopt(c, CURLOPT_READDATA, t);
        curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(c, CURLOPT_SEEKDATA, t);
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, req->method);
    } else {
        curl_easy_setopt(c, CURLOPT_HTTPGET, 1L);
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, req->method);
    }
}

static void set_options(CURL *c, const struct dmt_http_req *req, struct transfer *t, char *why)
{
    curl_easy_reset(c); /* options only: connections and their TLS sessions stay */
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(c, CURLOPT_URL, req->url);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "dumont/" DMT_VERSION);
    curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS,
                     req->connect_timeout_ms ? req->connect_timeout_ms : CONNECT_TIMEOUT_MS);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, STALL_BYTES_S);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME,
                     req->stall_timeout_s ? req->stall_timeout_s : STALL_TIMEOUT_S);
    if (req->unix_socket)
        curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, req->unix_socket);
    if (req->ca_file)
        curl_easy_setopt(c, CURLOPT_CAINFO, req->ca_file);
    if (req->fresh) {
        curl_easy_setopt(c, CURLOPT_FRESH_CONNECT, 1L);
        curl_easy_setopt(c, CURLOPT_FORBID_REUSE, 1L);
    }
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    set_method(c, req, t);
}

/* One sentence; the URL without its query. */
static int report(const struct dmt_http_req *req, int code, const char *why, struct dmt_err *err)
{
    int url_len = (int)strcspn(req->url, "?");
    return dmt_err_set(err, code, "%s %.*s%s%s: %s", req->method, url_len > 256 ? 256 : url_len,
                       req->url, req->unix_socket ? " on " : "",
                       req->unix_socket ? req->unix_socket : "", why);
}

int dmt_http_do(struct dmt_http *h, const struct dmt_http_req *req, struct dmt_http_res *res,
                struct dmt_err *err)
{
    char why[CURL_ERROR_SIZE] = "";
    struct transfer t = {.req = req, .res = res};
    struct curl_slist *headers;
    *res = (struct dmt_http_res){.content_length = -1};
    int r = make_headers(req, &headers);
    if (r < 0)
        return dmt_err_set(err, r, "out of memory");
    set_options(h->curl, req, &t, why);
    curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, headers);
    CURLcode c = curl_easy_perform(h->curl);
    if (c == CURLE_OK) {
        curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &res->status);
    } else {
        long os = 0;
        curl_easy_getinfo(h->curl, CURLINFO_OS_ERRNO, &os);
        r = t.error ? t.error : curl_to_errno(c);
        if (c == CURLE_COULDNT_CONNECT && os > 0)
            r = -(int)os; /* ENOENT and EACCES of a Unix socket say more than "refused" */
        const char *text = t.error ? dmt_strerror(t.error) : why[0] ? why : curl_easy_strerror(c);
        report(req, r, text, err);
        dmt_buf_free(&res->body);
    }
    /* The handle must not keep pointers into this call's stack. */
    curl_easy_reset(h->curl);
    curl_slist_free_all(headers);
    return r;
}
