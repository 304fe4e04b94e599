/* tls.c: mutual TLS 1.3, as a stream on a socket or through memory.
 *
 * Owns, per connection, one SSL object between two memory BIOs (contexts: tls_ctx.c). Both modes
 * are the same machine: in memory mode the caller carries ciphertext in (feed) and out (drain); in
 * stream mode the small pump below carries it between the BIOs and the socket with poll(2), so that
 * every call has a deadline whatever the socket's own blocking mode is. dmt_tls_attach() is
 * therefore no more than setting the descriptor.
 *
 * Happy path: handshake (both sides show a certificate of the same CA; the CN becomes the peer's
 * name), then reads and writes. Failure modes: a refused certificate, ours or theirs, is
 * DMT_E_AUTH. In TLS 1.3 a client's handshake ends before the server has looked at its certificate,
 * so a client may learn of it only at its first read. A timeout of a plain read may be tried again;
 * a timeout in the midst of a message (write, read_full) leaves the two sides at different places,
 * so the connection is dead then and says the same error ever after. An end without close_notify is
 * -ECONNRESET, never a clean end. No session tickets: a resumption would skip looking at
 * certificates, and they would be ciphertext nobody asked for. Thread: a context may be shared; a
 * connection belongs to one thread at a time. OpenSSL's error queue is per thread and emptied
 * before each call.
 */
#include "fs/base/tls.h"

#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "fs/base/clock.h"
#include "fs/base/internal.h"
#include "fs/base/limits.h"

#define CIPHER_CHUNK (16u << 10) /* ciphertext moved from the socket at a time */
#define PLAIN_CHUNK  (64u << 10) /* plaintext encrypted before it is sent: keeps memory small */
#define PENDING_MAX  (1 << 30)   /* ciphertext a connection may hold in memory mode */

struct dmt_tls {
    SSL *ssl;
    BIO *in, *out; /* owned by ssl */
    int fd;        /* -1: memory mode */
    bool done;     /* handshake finished and the peer's name taken */
    int dead;      /* error after which nothing works any more, or 0 */
    struct dmt_tls_ctx *ctx;
    char peer[DMT_NODE_NAME_MAX + 1]; /* "": a guest */
    char refused[160];                /* why we refuse the peer's certificate */
    char why[256];                    /* dead: in words; "" if there are none */
};

/* --- connection --- */

int dmt_tls_new(struct dmt_tls **ret, struct dmt_tls_ctx *c, int fd, bool server,
                struct dmt_err *err)
{
    struct dmt_tls *t = calloc(1, sizeof(*t));
    if (!t)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    t->fd = fd;
    t->ctx = c;
    t->ssl = base_tls_ctx_ssl(c);
    t->in = BIO_new(BIO_s_mem());
    t->out = BIO_new(BIO_s_mem());
    if (!t->ssl || !t->in || !t->out) {
        ERR_clear_error();
        SSL_free(t->ssl);
        BIO_free(t->in);
        BIO_free(t->out);
        free(t);
        return dmt_err_set(err, -ENOMEM, "out of memory");
    }
    BIO_set_mem_eof_return(t->in, -1); /* empty means "later", not "end" */
    SSL_set_bio(t->ssl, t->in, t->out);
    SSL_set_app_data(t->ssl, t);
    if (server)
        SSL_set_accept_state(t->ssl);
    else
        SSL_set_connect_state(t->ssl);
    *ret = t;
    return 0;
}

/* One attempt to hand ciphertext to the socket, without waiting. 0, -EAGAIN when some is left,
 * -errno. */
static int flush_now(struct dmt_tls *t)
{
    char *p;
    long n;
    while ((n = BIO_get_mem_data(t->out, &p)) > 0) {
        ssize_t w = send(t->fd, p, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return errno == EWOULDBLOCK ? -EAGAIN : -errno;
        /* A memory BIO is advanced by reading from it; the bytes go nowhere. */
        char sink[CIPHER_CHUNK];
        for (ssize_t left = w; left > 0;) {
            int part = left < (ssize_t)sizeof(sink) ? (int)left : (int)sizeof(sink);
            int got = BIO_read(t->out, sink, part);
            if (got <= 0)
                return -EIO;
            left -= got;
        }
    }
    return 0;
}

void dmt_tls_free(struct dmt_tls *t)
{
    if (!t)
        return;
    if (t->fd >= 0 && t->done && !t->dead) {
        /* Best effort: a peer that does not read gets no goodbye. */
        ERR_clear_error();
        if (SSL_shutdown(t->ssl) >= 0)
            (void)flush_now(t);
        ERR_clear_error();
    }
    SSL_free(t->ssl);
    free(t);
}

const char *dmt_tls_peer(const struct dmt_tls *t)
{
    return t->done ? t->peer : NULL;
}

const char *dmt_tls_why(const struct dmt_tls *t)
{
    return t->why[0] ? t->why : dmt_strerror(t->dead);
}

void base_tls_refused(X509_STORE_CTX *x, const char *why)
{
    const SSL *ssl = X509_STORE_CTX_get_ex_data(x, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct dmt_tls *t = ssl ? SSL_get_app_data(ssl) : NULL;
    if (t)
        (void)snprintf(t->refused, sizeof(t->refused), "%s", why);
}

int base_tls_verify(int ok, X509_STORE_CTX *x)
{
    struct dmt_cert_life life;
    char text[160], date[DMT_CERT_TIME];
    X509 *cert = ok ? NULL : X509_STORE_CTX_get_current_cert(x);
    int code = X509_STORE_CTX_get_error(x);
    if (!cert || base_pem_life(cert, &life) < 0)
        return ok;
    if (code == X509_V_ERR_CERT_HAS_EXPIRED)
        (void)snprintf(text, sizeof(text), "that of %s has expired on %s", life.node,
                       dmt_cert_time(life.until_s, date));
    else
        (void)snprintf(text, sizeof(text), "%s", X509_verify_cert_error_string(code));
    base_tls_refused(x, text);
    return ok;
}

/* The peer says that it does not accept our certificate. */
static int refused_by_peer(struct dmt_tls *t, int reason, const char *why, struct dmt_err *err)
{
    struct dmt_cert_life life;
    char date[DMT_CERT_TIME];
    dmt_tls_ctx_life(t->ctx, &life);
    if (reason - SSL_AD_REASON_OFFSET != SSL_AD_CERTIFICATE_EXPIRED)
        return dmt_err_set(err, DMT_E_AUTH, "the peer refuses our certificate: %s", why);
    dmt_err_set(err, DMT_E_AUTH, "the peer refuses our certificate: that of %s has expired on %s",
                life.node, dmt_cert_time(life.until_s, date));
    dmt_err_hint(err, "on the controller: dumontd token %s; here: dumontd join TOKEN", life.node);
    return DMT_E_AUTH;
}

/* Alerts by which a peer says that it does not accept our certificate. */
static bool is_auth_alert(int reason)
{
    switch (reason - SSL_AD_REASON_OFFSET) {
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_CERTIFICATE_REQUIRED:
    case SSL_AD_DECRYPT_ERROR:
        return true;
    default:
        return false;
    }
}

/* Why nothing works any more; takes what OpenSSL has noted. */
static int reason_of(struct dmt_tls *t, struct dmt_err *err)
{
    char why[256];
    int reason = ERR_GET_REASON(ERR_peek_last_error());
    long verify = SSL_get_verify_result(t->ssl);
    base_openssl_reason(why);
    if (verify != X509_V_OK)
        return dmt_err_set(err, DMT_E_AUTH, "the peer's certificate is refused: %s",
                           t->refused[0] ? t->refused : X509_verify_cert_error_string(verify));
    if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        return dmt_err_set(err, DMT_E_AUTH, "the peer shows no certificate");
    if (is_auth_alert(reason))
        return refused_by_peer(t, reason, why, err);
    return dmt_err_set(err, -EPROTO, "TLS failed: %s", why);
}

/* After SSL_x() returned n <= 0: -EAGAIN when it needs ciphertext, DMT_E_CLOSED at a clean end,
 * else the error, for good. */
static int tls_result(struct dmt_tls *t, int n, struct dmt_err *err)
{
    struct dmt_err own = {0};
    switch (SSL_get_error(t->ssl, n)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return DMT_E_CLOSED;
    default:
        break;
    }
    t->dead = reason_of(t, &own);
    (void)snprintf(t->why, sizeof(t->why), "%.255s", own.msg);
    if (err)
        *err = own;
    return t->dead;
}

/* Continues the handshake with what is there. 0 when finished, -EAGAIN, or the error. */
static int handshake_some(struct dmt_tls *t, struct dmt_err *err)
{
    if (t->dead)
        return dmt_err_set(err, t->dead, "the connection has failed before: %s",
                           dmt_strerror(t->dead));
    if (t->done)
        return 0;
    ERR_clear_error();
    int n = SSL_do_handshake(t->ssl);
    if (n != 1) {
        int r = tls_result(t, n, err);
        if (r == DMT_E_CLOSED)
            r = t->dead = dmt_err_set(err, -ECONNRESET, "the peer ended the TLS handshake");
        return r;
    }
    X509 *cert = SSL_get0_peer_certificate(t->ssl);
    if (!cert && base_tls_ctx_guests(t->ctx)) {
        t->done = true; /* its name is "" */
        return 0;
    }
    if (!cert || base_pem_node_name(cert, t->peer) < 0) {
        t->dead = dmt_err_set(err, DMT_E_AUTH, "the peer's certificate does not name a node");
        return t->dead;
    }
    t->done = true;
    return 0;
}

/* Decrypts. > 0 bytes, -EAGAIN, DMT_E_CLOSED, or the error. */
static ssize_t recv_some(struct dmt_tls *t, void *buf, size_t len)
{
    if (t->dead)
        return t->dead;
    if (!t->done)
        return -ENOTCONN;
    if (len == 0)
        return -EINVAL;
    ERR_clear_error();
    int n = SSL_read(t->ssl, buf, len > INT_MAX ? INT_MAX : (int)len);
    return n > 0 ? n : tls_result(t, n, NULL);
}

/* Encrypts all of p into the outgoing BIO. */
static int send_some(struct dmt_tls *t, const void *p, size_t n)
{
    if (t->dead)
        return t->dead;
    if (!t->done)
        return -ENOTCONN;
    ERR_clear_error();
    while (n > 0) {
        int part = n > PLAIN_CHUNK ? (int)PLAIN_CHUNK : (int)n;
        int w = SSL_write(t->ssl, p, part);
        if (w <= 0) {
            int r = tls_result(t, w, NULL);
            return r == -EAGAIN ? -EIO : r; /* a memory BIO is never full */
        }
        p = (const char *)p + w;
        n -= (size_t)w;
    }
    return 0;
}

/* --- stream mode: the pump --- */

static uint64_t now_ms(void)
{
    const struct dmt_clock *clock = dmt_clock_real();
    return clock->monotonic_ns(clock->ctx) / DMT_MS;
}

static uint64_t deadline_of(int timeout_ms)
{
    return timeout_ms < 0 ? UINT64_MAX : now_ms() + (uint64_t)timeout_ms;
}

static int wait_fd(int fd, short events, uint64_t deadline_ms)
{
    for (;;) {
        int wait = -1;
        if (deadline_ms != UINT64_MAX) {
            uint64_t now = now_ms();
            if (now >= deadline_ms)
                return -ETIMEDOUT;
            uint64_t left = deadline_ms - now;
            wait = left > INT_MAX ? INT_MAX : (int)left;
        }
        struct pollfd p = {.fd = fd, .events = events};
        int r = poll(&p, 1, wait);
        if (r > 0)
            return 0; /* errors and hang-ups show in the recv or send that follows */
        if (r < 0 && errno != EINTR)
            return -errno;
    }
}

static int flush_until(struct dmt_tls *t, uint64_t deadline_ms)
{
    for (;;) {
        int r = flush_now(t);
        if (r == -EAGAIN)
            r = wait_fd(t->fd, POLLOUT, deadline_ms);
        else
            return r;
        if (r < 0)
            return r;
    }
}

/* Waits for ciphertext and feeds it. A deadline of now still takes what has arrived. */
static int fill_until(struct dmt_tls *t, uint64_t deadline_ms)
{
    char buf[CIPHER_CHUNK];
    for (;;) {
        ssize_t n = recv(t->fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n > 0)
            return dmt_tls_feed(t, buf, (size_t)n);
        if (n == 0)
            return -ECONNRESET;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return -errno;
        int r = wait_fd(t->fd, POLLIN, deadline_ms);
        if (r < 0)
            return r;
    }
}

int dmt_tls_handshake(struct dmt_tls *t, int timeout_ms, struct dmt_err *err)
{
    uint64_t deadline_ms = deadline_of(timeout_ms);
    for (;;) {
        int r = handshake_some(t, err);
        bool failed = r < 0 && r != -EAGAIN;
        /* Also after a failure: the alert tells the peer why. */
        int w = failed ? flush_now(t) : flush_until(t, deadline_ms);
        if (failed || (r == 0 && w == 0))
            return r;
        if (w == 0)
            w = fill_until(t, deadline_ms);
        if (w < 0) {
            t->dead = w;
            t->done = false;
            return dmt_err_set(err, w, "the TLS handshake did not finish: %s", dmt_strerror(w));
        }
    }
}

static ssize_t read_until(struct dmt_tls *t, void *buf, size_t len, uint64_t deadline_ms)
{
    for (;;) {
        ssize_t n = recv_some(t, buf, len);
        if (n > 0)
            return n;
        if (n == DMT_E_CLOSED)
            return 0;
        if (n != -EAGAIN)
            return n;
        /* A read can owe the peer an answer (key update). */
        int r = flush_until(t, deadline_ms);
        if (r == 0)
            r = fill_until(t, deadline_ms);
        if (r < 0) {
            if (r != -ETIMEDOUT)
                t->dead = r;
            return r;
        }
    }
}

ssize_t dmt_tls_read(struct dmt_tls *t, void *buf, size_t len, int timeout_ms)
{
    return read_until(t, buf, len, deadline_of(timeout_ms));
}

int dmt_tls_read_full(struct dmt_tls *t, void *buf, size_t len, int timeout_ms)
{
    uint64_t deadline_ms = deadline_of(timeout_ms);
    size_t have = 0;
    while (have < len) {
        ssize_t n = read_until(t, (char *)buf + have, len - have, deadline_ms);
        if (n > 0) {
            have += (size_t)n;
            continue;
        }
        int r = n == 0 ? DMT_E_CLOSED : (int)n;
        /* Those bytes are gone; a second try would start in the midst of a message. */
        if (have > 0)
            t->dead = r;
        return r;
    }
    return 0;
}

int dmt_tls_write(struct dmt_tls *t, const void *buf, size_t len, int timeout_ms)
{
    uint64_t deadline_ms = deadline_of(timeout_ms);
    const char *p = buf;
    while (len > 0) {
        size_t part = len < PLAIN_CHUNK ? len : PLAIN_CHUNK;
        int r = send_some(t, p, part);
        if (r < 0)
            return r;
        r = flush_until(t, deadline_ms);
        if (r < 0) {
            t->dead = r;
            return r;
        }
        p += part;
        len -= part;
    }
    return 0;
}

/* --- memory mode --- */

int dmt_tls_feed(struct dmt_tls *t, const void *p, size_t n)
{
    if (n > PENDING_MAX || BIO_pending(t->in) > PENDING_MAX - (int)n)
        return -ENOBUFS;
    if (n > 0 && BIO_write(t->in, p, (int)n) != (int)n)
        return -ENOMEM;
    return 0;
}

int dmt_tls_step(struct dmt_tls *t, struct dmt_err *err)
{
    int r = handshake_some(t, err);
    return r == 0 ? 1 : r == -EAGAIN ? 0 : r;
}

ssize_t dmt_tls_recv(struct dmt_tls *t, void *buf, size_t len)
{
    ssize_t n = recv_some(t, buf, len);
    return n == -EAGAIN ? 0 : n;
}

int dmt_tls_send(struct dmt_tls *t, const void *p, size_t n)
{
    if (n > PENDING_MAX || BIO_pending(t->out) > PENDING_MAX - (int)n)
        return -ENOBUFS;
    return send_some(t, p, n);
}

int dmt_tls_drain(struct dmt_tls *t, struct dmt_buf *out)
{
    int n = BIO_pending(t->out);
    if (n <= 0)
        return 0;
    size_t before = out->len;
    uint8_t *p = dmt_buf_reserve(out, (size_t)n);
    if (!p)
        return -ENOMEM;
    int got = BIO_read(t->out, p, n);
    out->len = before + (got > 0 ? (size_t)got : 0);
    return got == n ? 0 : -EIO;
}

int dmt_tls_attach(struct dmt_tls *t, int fd)
{
    if (t->dead)
        return t->dead;
    if (!t->done)
        return -ENOTCONN;
    if (t->fd >= 0 || fd < 0 || BIO_pending(t->in) > 0 || BIO_pending(t->out) > 0)
        return -EINVAL;
    t->fd = fd;
    return 0;
}
