/* tlsline.c: JSON lines over mutual TLS.
 *
 * Owns socket, TLS state, the queue of outgoing lines. Happy path: the owner's thread loops over
 * tlsline_run; others queue and wake it through an eventfd, because a TLS connection belongs to one
 * thread at a time. Failure modes: a line that is no JSON object or is too long, a peer that does
 * not read (SEND_MS, or more than QUEUE_MAX bytes waiting) end the connection; the owner then frees
 * it. TCP_USER_TIMEOUT bounds how long a dead link goes unnoticed while something is being sent.
 */
#include "daemon/common/tlsline.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/common/jline.h"
#include "fs/base/bytes.h"

#define SEND_MS         3000
#define QUEUE_MAX       (16u << 20)
#define USER_TIMEOUT_MS 3000

struct tlsline {
    int fd, wake_fd;
    struct dmt_tls *tls;
    struct dmt_buf in;
    size_t line_max;
    bool looked; /* at what came in one piece with the end of the handshake: poll does not see it */
    pthread_mutex_t lock;
    struct dmt_buf out; /* protected by lock */
};

static void tune(int fd)
{
    int on = 1, ms = USER_TIMEOUT_MS;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

int tlsline_open(struct tlsline **ret, struct dmt_tls_ctx *ctx, int fd, bool server, int timeout_ms,
                 struct dmt_err *err)
{
    struct tlsline *t = calloc(1, sizeof(*t));
    if (!t) {
        close(fd);
        return dmt_err_set(err, -ENOMEM, "out of memory");
    }
    t->fd = fd;
    t->line_max = SIZE_MAX; /* jline_take has a limit of its own */
    t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&t->lock, NULL);
    dmt_buf_init(&t->in);
    dmt_buf_init(&t->out);
    tune(fd);
    int r = dmt_tls_new(&t->tls, ctx, fd, server, err);
    if (r == 0)
        r = dmt_tls_handshake(t->tls, timeout_ms, err);
    if (r < 0)
        tlsline_free(t);
    else
        *ret = t;
    return r;
}

void tlsline_free(struct tlsline *t)
{
    if (!t)
        return;
    dmt_tls_free(t->tls);
    close(t->fd);
    close(t->wake_fd);
    dmt_buf_free(&t->in);
    dmt_buf_free(&t->out);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void tlsline_limit(struct tlsline *t, size_t bytes)
{
    t->line_max = bytes;
}

const char *tlsline_why(const struct tlsline *t, int r)
{
    return r == DMT_E_AUTH || r == -EPROTO ? dmt_tls_why(t->tls) : dmt_strerror(r);
}

const char *tlsline_peer(const struct tlsline *t)
{
    return dmt_tls_peer(t->tls);
}

void tlsline_wake(struct tlsline *t)
{
    (void)eventfd_write(t->wake_fd, 1);
}

void tlsline_send(struct tlsline *t, json_t *v)
{
    char *s = v ? json_dumps(v, JSON_COMPACT) : NULL;
    json_decref(v);
    pthread_mutex_lock(&t->lock);
    if (s && t->out.len < QUEUE_MAX) {
        dmt_put_raw(&t->out, s, strlen(s));
        dmt_put_u8(&t->out, '\n');
    } else {
        t->out.bad = true;
    }
    pthread_mutex_unlock(&t->lock);
    free(s);
    tlsline_wake(t);
}

static int send_queued(struct tlsline *t)
{
    pthread_mutex_lock(&t->lock);
    struct dmt_buf b = t->out;
    dmt_buf_init(&t->out);
    pthread_mutex_unlock(&t->lock);
    int r = b.bad ? -ENOBUFS : b.len ? dmt_tls_write(t->tls, b.p, b.len, SEND_MS) : 0;
    dmt_buf_free(&b);
    return r;
}

static int receive(struct tlsline *t, int (*fn)(void *ctx, const json_t *v), void *ctx)
{
    for (;;) {
        char chunk[16384];
        ssize_t n = dmt_tls_read(t->tls, chunk, sizeof(chunk), 0);
        if (n == -ETIMEDOUT)
            return 0;
        if (n <= 0)
            return n < 0 ? (int)n : DMT_E_CLOSED;
        dmt_put_raw(&t->in, chunk, (size_t)n);
        if (t->in.bad)
            return -ENOMEM;
        if (t->in.len > t->line_max)
            return -EBADMSG;
        json_t *v;
        int r;
        while ((r = jline_take(&t->in, &v)) == 1) {
            r = fn(ctx, v);
            json_decref(v);
            if (r < 0)
                return r;
        }
        if (r < 0)
            return r;
    }
}

int tlsline_run(struct tlsline *t, int timeout_ms, int (*fn)(void *ctx, const json_t *v), void *ctx)
{
    int r = send_queued(t);
    if (r == 0 && !t->looked) {
        t->looked = true;
        r = receive(t, fn, ctx);
        return r < 0 ? r : send_queued(t);
    }
    if (r < 0)
        return r;
    struct pollfd p[2] = {{.fd = t->fd, .events = POLLIN}, {.fd = t->wake_fd, .events = POLLIN}};
    if (poll(p, 2, timeout_ms) < 0)
        return errno == EINTR ? 0 : -errno;
    if (p[1].revents) {
        eventfd_t v;
        (void)eventfd_read(t->wake_fd, &v);
    }
    if (p[0].revents)
        r = receive(t, fn, ctx);
    return r < 0 ? r : send_queued(t);
}

/* "HOST:PORT", "[V6]:PORT" or HOST. */
static int resolve(const char *addr, uint16_t dflt_port, bool passive, struct addrinfo **ret,
                   struct dmt_err *err)
{
    char host[256], port[16];
    const char *colon = strrchr(addr, ':'), *close_br = strrchr(addr, ']');
    bool has_port = colon && (!close_br || colon > close_br);
    (void)snprintf(port, sizeof(port), "%u", dflt_port);
    size_t n = has_port ? (size_t)(colon - addr) : strlen(addr);
    if (has_port)
        (void)snprintf(port, sizeof(port), "%.8s", colon + 1);
    const char *from = addr;
    if (n >= 2 && addr[0] == '[') {
        from++;
        n -= 2;
    }
    (void)snprintf(host, sizeof(host), "%.*s", (int)(n < 255 ? n : 255), from);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0};
    int r = getaddrinfo(host[0] ? host : NULL, port, &hints, ret);
    return r == 0 ? 0 : dmt_err_set(err, -EHOSTUNREACH, "%s: %s", addr, gai_strerror(r));
}

static int connect_one(const struct addrinfo *a, int timeout_ms)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int r = connect(fd, a->ai_addr, a->ai_addrlen) < 0 ? -errno : 0;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    if (r == -EINPROGRESS) {
        socklen_t n = sizeof(r);
        if (poll(&p, 1, timeout_ms) <= 0)
            r = -ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &r, &n) == 0)
            r = -r;
    }
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

int tlsline_connect(const char *addr, uint16_t dflt_port, int timeout_ms, struct dmt_err *err)
{
    struct addrinfo *list, *a;
    int fd = resolve(addr, dflt_port, false, &list, err);
    if (fd < 0)
        return fd;
    fd = -EHOSTUNREACH;
    for (a = list; a && fd < 0; a = a->ai_next)
        fd = connect_one(a, timeout_ms);
    freeaddrinfo(list);
    return fd < 0 ? dmt_err_set(err, fd, "cannot connect to %s: %s", addr, strerror(-fd)) : fd;
}

int tlsline_listen(const char *addr, struct dmt_err *err)
{
    struct addrinfo *list;
    int r = resolve(addr, 0, true, &list, err), on = 1;
    if (r < 0)
        return r;
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, 128) < 0) {
        r = dmt_err_set(err, -errno, "cannot listen on %s: %s", addr, strerror(errno));
        if (fd >= 0)
            close(fd);
        fd = r;
    }
    freeaddrinfo(list);
    return fd;
}
