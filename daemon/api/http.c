/* http.c: the HTTP server: libmicrohttpd around api_route.
 *
 * Owns the listening socket (made here, so that its address has been checked and a Unix socket has
 * its mode from the start) and one thread a connection, because commands may wait. Happy path:
 * collect the body (at most BODY_MAX), parse, route, answer. Failure modes: bad JSON 400, too large
 * 413. A web page in somebody's browser must not be able to use a loopback API: requests whose Host
 * is not this machine, or that carry a foreign Origin, are refused (403), and a body must be
 * application/json.
 */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/api/api.h"
#include "daemon/common/jline.h"
#include "fs/base/log.h"

#define BODY_MAX    (1u << 20)
#define TIMEOUT_S   180u
#define CONNECTIONS 128u

struct api {
    struct dumontd *d;
    struct MHD_Daemon *mhd;
    char socket[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "" : TCP */
};

struct request {
    struct dmt_buf body;
    bool large;
};

void api_printf(struct dmt_buf *out, const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0)
        out->bad = true;
    else
        dmt_put_raw(out, s, (size_t)n);
    if (n >= 0)
        free(s);
}

/* --- addresses --- */

/* "ADDR:PORT" into a socket address; only loopback. */
static int parse_tcp(const char *where, struct sockaddr_storage *sa, socklen_t *len)
{
    char host[64];
    const char *colon = strrchr(where, ':');
    size_t n = colon ? (size_t)(colon - where) : 0;
    long port = colon ? strtol(colon + 1, NULL, 10) : 0;
    if (n == 0 || n >= sizeof(host) || port < 1 || port > 65535)
        return -EINVAL;
    memcpy(host, where, n);
    host[n] = '\0';
    memset(sa, 0, sizeof(*sa));
    struct sockaddr_in *v4 = (struct sockaddr_in *)sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)sa;
    if (strcmp(host, "[::1]") == 0) {
        *v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
        v6->sin6_addr = in6addr_loopback;
        *len = sizeof(*v6);
        return 0;
    }
    *v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    *len = sizeof(*v4);
    if (strcmp(host, "localhost") == 0)
        v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else if (inet_pton(AF_INET, host, &v4->sin_addr) != 1)
        return -EADDRNOTAVAIL;
    return ntohl(v4->sin_addr.s_addr) >> 24 == 127 ? 0 : -EADDRNOTAVAIL;
}

int api_check_address(const char *where, struct dmt_err *err)
{
    struct sockaddr_storage sa;
    socklen_t len;
    if (strncmp(where, "unix:/", 6) == 0)
        return 0;
    int r = strncmp(where, "unix:", 5) == 0 ? -EINVAL : parse_tcp(where, &sa, &len);
    if (r == 0)
        return 0;
    if (r == -EINVAL)
        return dmt_err_set(err, DMT_E_CONFIG, "http=%s is neither ADDRESS:PORT nor unix:/PATH",
                           where);
    dmt_err_set(err, DMT_E_CONFIG,
                "http=%s is not a loopback address: the API has no accounts yet, so it serves this "
                "machine only",
                where);
    dmt_err_hint(
        err,
        "use 127.0.0.1:7400, or unix:/run/dumont/dumontd.sock, and ssh to reach it from elsewhere");
    return DMT_E_CONFIG;
}

static int listen_on(struct api *a, const char *where, struct dmt_err *err)
{
    struct sockaddr_storage sa;
    socklen_t len;
    int on = 1, r = api_check_address(where, err);
    if (r < 0)
        return r;
    if (strncmp(where, "unix:", 5) == 0) {
        (void)snprintf(a->socket, sizeof(a->socket), "%s", where + 5);
        char dir[sizeof(a->socket)];
        memcpy(dir, a->socket, sizeof(dir));
        *strrchr(dir, '/') = '\0';
        if (dir[0])
            (void)mkdir(dir, 0755);
        return jline_listen(a->socket, 0600, err);
    }
    (void)parse_tcp(where, &sa, &len);
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) < 0 || listen(fd, 64) < 0) {
        r = dmt_err_set(err, -errno, "cannot listen on %s: %s", where, strerror(errno));
        if (fd >= 0)
            close(fd);
        return r;
    }
    return fd;
}

/* --- requests --- */

static bool is_local_host(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    if (!host)
        return true; /* HTTP/1.0 and curl over a Unix socket; a browser always sends one */
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t n = strlen(names[i]);
        if (strncmp(host, names[i], n) == 0 && (host[n] == '\0' || host[n] == ':'))
            return true;
    }
    return false;
}

static const char *header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

/* True when a page of another site could have caused this request. */
static bool is_foreign(struct MHD_Connection *c)
{
    const char *host = header(c, "Host"), *origin = header(c, "Origin");
    if (!is_local_host(host))
        return true;
    if (!origin)
        return false;
    return strncmp(origin, "http://", 7) != 0 || !host || strcmp(origin + 7, host) != 0;
}

static enum MHD_Result send_reply(struct MHD_Connection *c, struct api_reply *r)
{
    struct MHD_Response *m = MHD_create_response_from_buffer(
        r->body.len, r->body.p ? (void *)r->body.p : (void *)(uintptr_t) "", MHD_RESPMEM_MUST_COPY);
    if (!m)
        return MHD_NO;
    (void)MHD_add_response_header(m, "Content-Type", r->type);
    (void)MHD_add_response_header(m, "Cache-Control", "no-store");
    (void)MHD_add_response_header(m, "X-Content-Type-Options", "nosniff");
    (void)MHD_add_response_header(m, "Content-Security-Policy",
                                  "default-src 'none'; style-src 'unsafe-inline'");
    enum MHD_Result ok = MHD_queue_response(c, (unsigned)r->status, m);
    MHD_destroy_response(m);
    return ok;
}

static void refuse(struct api_reply *r, int status, const char *text)
{
    api_reply_json(r, status, json_pack("{s:s s:s}", "error", text, "hint", ""));
}

/* MHD hands us the decoded query piece by piece; the routes want one string. */
static enum MHD_Result add_query(void *ctx, enum MHD_ValueKind kind, const char *key,
                                 const char *value)
{
    (void)kind;
    api_printf(ctx, "%s=%s&", key, value ? value : "");
    return MHD_YES;
}

static void respond(struct api *a, struct MHD_Connection *c, const char *path, const char *method,
                    const struct request *q, struct api_reply *r)
{
    json_t *body = NULL;
    const char *type = header(c, "Content-Type");
    if (is_foreign(c)) {
        refuse(r, 403, "requests from other sites are refused");
        return;
    }
    if (q->large) {
        refuse(r, 413, "the request is too large");
        return;
    }
    if (q->body.len) {
        body = json_loadb((const char *)q->body.p, q->body.len, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(body) || !type || strncmp(type, "application/json", 16) != 0) {
            json_decref(body);
            refuse(r, 400, "the body must be one JSON object, sent as application/json");
            return;
        }
    }
    struct dmt_buf query;
    dmt_buf_init(&query);
    (void)MHD_get_connection_values(c, MHD_GET_ARGUMENT_KIND, add_query, &query);
    dmt_put_u8(&query, 0);
    api_route(a->d, method, path, query.bad ? "" : (const char *)query.p, body, r);
    dmt_buf_free(&query);
    json_decref(body);
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state)
{
    (void)version;
    struct request *q = *state;
    if (!q) {
        *state = q = calloc(1, sizeof(*q));
        return q ? MHD_YES : MHD_NO;
    }
    if (*size) {
        if (q->body.len + *size <= BODY_MAX)
            dmt_put_raw(&q->body, data, *size);
        else
            q->large = true;
        *size = 0;
        return MHD_YES;
    }
    struct api_reply r = {.status = 500, .type = "text/plain; charset=utf-8"};
    dmt_buf_init(&r.body);
    respond(ctx, c, path, method, q, &r);
    if (r.body.bad)
        r.status = 500;
    enum MHD_Result ok = send_reply(c, &r);
    dmt_buf_free(&r.body);
    return ok;
}

static void on_completed(void *ctx, struct MHD_Connection *c, void **state,
                         enum MHD_RequestTerminationCode why)
{
    (void)ctx;
    (void)c;
    (void)why;
    struct request *q = *state;
    if (q)
        dmt_buf_free(&q->body);
    free(q);
    *state = NULL;
}

/* --- life --- */

int api_start(struct api **ret, struct dumontd *d, const char *where, struct dmt_err *err)
{
    struct api *a = calloc(1, sizeof(*a));
    if (!a)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    a->d = d;
    int fd = listen_on(a, where, err);
    if (fd < 0) {
        free(a);
        return fd;
    }
    a->mhd = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL, 0, NULL,
        NULL, on_request, a, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, NULL, MHD_OPTION_CONNECTION_TIMEOUT, TIMEOUT_S, MHD_OPTION_CONNECTION_LIMIT,
        CONNECTIONS, MHD_OPTION_END);
    if (!a->mhd) {
        close(fd);
        free(a);
        return dmt_err_set(err, -EIO, "cannot start the HTTP server on %s", where);
    }
    dmt_info("HTTP API on %s", where);
    *ret = a;
    return 0;
}

void api_stop(struct api *a)
{
    if (!a)
        return;
    MHD_stop_daemon(a->mhd);
    if (a->socket[0])
        (void)unlink(a->socket);
    free(a);
}
