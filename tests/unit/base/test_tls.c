/* Mutual TLS and the small CA, with real handshakes: over socket pairs, through memory, and from
 * one to the other; and everything that must not get in: another CA, no certificate, an expired
 * one, an old protocol, a key that others can read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "fs/base/clock.h"
#include "fs/base/io.h"
#include "fs/base/thread.h"
#include "fs/base/tls.h"

#define LONG_MS 20000

static char dir[] = "/var/tmp/test_tls.XXXXXX";
static struct dmt_tls_ctx *alice, *bob, *mallory; /* mallory has another CA */
static struct dmt_err err;

/* A path in the scratch directory; each call has its own memory until the test program ends a few
 * calls later. */
static const char *at(const char *name)
{
    static char path[16][128];
    static unsigned turn;
    char *p = path[turn++ % 16];
    (void)snprintf(p, 128, "%s/%s", dir, name);
    return p;
}

static int issue(const char *ca, const char *node)
{
    char c[64], k[64], cert[64], key[64];
    (void)snprintf(c, sizeof(c), "%s.crt", ca);
    (void)snprintf(k, sizeof(k), "%s.key", ca);
    (void)snprintf(cert, sizeof(cert), "%s.crt", node);
    (void)snprintf(key, sizeof(key), "%s.key", node);
    return dmt_ca_issue(at(c), at(k), node, 30, at(cert), at(key), &err);
}

static int context(struct dmt_tls_ctx **ret, const char *ca, const char *cert, const char *key)
{
    memset(&err, 0, sizeof(err));
    return dmt_tls_ctx_new(ret, at(ca), at(cert), at(key), &err);
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir) || dmt_ca_create(at("ca.crt"), at("ca.key"), "Dumont CA", 365, &err) < 0 ||
        dmt_ca_create(at("evil.crt"), at("evil.key"), "Dumont CA", 365, &err) < 0 ||
        issue("ca", "alice") < 0 || issue("ca", "bob") < 0 || issue("evil", "mallory") < 0 ||
        context(&alice, "ca.crt", "alice.crt", "alice.key") ||
        context(&bob, "ca.crt", "bob.crt", "bob.key") ||
        context(&mallory, "evil.crt", "mallory.crt", "mallory.key")) {
        print_error("%s\n", err.msg);
        return -1;
    }
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st;
    (void)flag;
    (void)f;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    dmt_tls_ctx_free(alice);
    dmt_tls_ctx_free(bob);
    dmt_tls_ctx_free(mallory);
    dmt_tls_ctx_free(NULL);
    return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* --- a server in a thread --- */

struct server {
    pthread_t thread;
    struct dmt_tls_ctx *ctx;
    int fd, result;
    struct dmt_err err;
    char peer[80];
    bool echo, slam; /* slam: close without goodbye */
};

static void *serve(void *arg)
{
    struct server *s = arg;
    struct dmt_tls *t;
    char buf[8192];
    assert_int_equal(dmt_tls_new(&t, s->ctx, s->fd, true, &s->err), 0);
    assert_null(dmt_tls_peer(t));
    s->result = dmt_tls_handshake(t, LONG_MS, &s->err);
    if (s->result == 0) {
        (void)snprintf(s->peer, sizeof(s->peer), "%s", dmt_tls_peer(t));
        ssize_t n;
        while (s->echo && (n = dmt_tls_read(t, buf, sizeof(buf), LONG_MS)) > 0)
            if (dmt_tls_write(t, buf, (size_t)n, LONG_MS) < 0)
                break;
    }
    if (s->slam)
        shutdown(s->fd, SHUT_RDWR);
    dmt_tls_free(t);
    close(s->fd);
    return NULL;
}

/* Starts the server and returns the client's end. */
static int start_server(struct server *s, struct dmt_tls_ctx *ctx)
{
    int sv[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    s->ctx = ctx;
    s->fd = sv[1];
    assert_int_equal(dmt_thread_start(&s->thread, "server", serve, s), 0);
    return sv[0];
}

static struct dmt_tls *connect_to(int fd, struct dmt_tls_ctx *ctx)
{
    struct dmt_tls *t;
    assert_int_equal(dmt_tls_new(&t, ctx, fd, false, &err), 0);
    if (dmt_tls_handshake(t, LONG_MS, &err) < 0)
        fail_msg("%s", err.msg);
    return t;
}

static void names(void **state)
{
    (void)state;
    assert_string_equal(dmt_tls_ctx_name(alice), "alice");
    assert_string_equal(dmt_tls_ctx_name(mallory), "mallory");
}

static void stream_both_ways(void **state)
{
    (void)state;
    struct server s = {.echo = true};
    int fd = start_server(&s, alice);
    struct dmt_tls *t = connect_to(fd, bob);
    assert_string_equal(dmt_tls_peer(t), "alice");
    size_t size = 60000;
    char *out = malloc(size), *in = calloc(1, size);
    for (int round = 0; round < 20; round++) {
        memset(out, 'a' + round, size);
        assert_int_equal(dmt_tls_write(t, out, size, LONG_MS), 0);
        assert_int_equal(dmt_tls_read_full(t, in, size, LONG_MS), 0);
        assert_memory_equal(in, out, size);
    }
    assert_int_equal(dmt_tls_write(t, out, 0, LONG_MS), 0);
    assert_int_equal(dmt_tls_read(t, in, 1, 0), -ETIMEDOUT);
    dmt_tls_free(t); /* says goodbye, so that the server's read ends cleanly */
    close(fd);
    pthread_join(s.thread, NULL);
    assert_string_equal(s.peer, "bob");
    free(out);
    free(in);
}

static void a_clean_end_and_an_unclean_one(void **state)
{
    (void)state;
    char c[4];
    for (int slam = 0; slam < 2; slam++) {
        struct server s = {.slam = slam};
        int fd = start_server(&s, alice);
        struct dmt_tls *t = connect_to(fd, bob);
        if (slam)
            assert_int_equal(dmt_tls_read_full(t, c, 1, LONG_MS), -ECONNRESET);
        else
            assert_int_equal(dmt_tls_read_full(t, c, 1, LONG_MS), DMT_E_CLOSED);
        assert_int_equal(dmt_tls_read(t, c, 1, LONG_MS), slam ? -ECONNRESET : 0);
        dmt_tls_free(t);
        close(fd);
        pthread_join(s.thread, NULL);
    }
}

static void a_client_of_another_ca_is_refused(void **state)
{
    (void)state;
    struct server s = {0};
    struct dmt_tls *t;
    struct dmt_tls_ctx *naive; /* trusts alice's CA, but shows mallory's certificate */
    assert_int_equal(context(&naive, "ca.crt", "mallory.crt", "mallory.key"), 0);
    int fd = start_server(&s, alice);
    assert_int_equal(dmt_tls_new(&t, naive, fd, false, &err), 0);
    /* TLS 1.3: the client's handshake may end before it hears of the refusal; its first read tells.
     */
    int r = dmt_tls_handshake(t, LONG_MS, &err);
    char c;
    if (r == 0)
        r = (int)dmt_tls_read(t, &c, 1, LONG_MS);
    assert_int_equal(r, DMT_E_AUTH);
    assert_int_equal(dmt_tls_write(t, &c, 1, LONG_MS), DMT_E_AUTH); /* and it stays so */
    pthread_join(s.thread, NULL);
    assert_int_equal(s.result, DMT_E_AUTH);
    assert_string_equal(s.peer, "");
    assert_non_null(strstr(s.err.msg, "certificate is refused"));
    dmt_tls_free(t);
    close(fd);
    dmt_tls_ctx_free(naive);
}

static void a_server_of_another_ca_is_refused(void **state)
{
    (void)state;
    struct server s = {0};
    struct dmt_tls *t;
    int fd = start_server(&s, mallory);
    assert_int_equal(dmt_tls_new(&t, bob, fd, false, &err), 0);
    assert_int_equal(dmt_tls_handshake(t, LONG_MS, &err), DMT_E_AUTH);
    assert_null(dmt_tls_peer(t));
    assert_int_equal(dmt_tls_handshake(t, LONG_MS, &err), DMT_E_AUTH);
    assert_non_null(strstr(err.msg, "failed before"));
    pthread_join(s.thread, NULL);
    assert_int_equal(s.result, DMT_E_AUTH); /* told by the alert */
    dmt_tls_free(t);
    close(fd);
}

/* A plain OpenSSL client on fd: with the newest protocol `max`, and no certificate. Ends when the
 * server has decided. */
static void foreign_client(int fd, int max)
{
    SSL_CTX *c = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(c, max);
    SSL *ssl = SSL_new(c);
    SSL_set_fd(ssl, fd);
    char b;
    if (SSL_connect(ssl) == 1)
        assert_true(SSL_read(ssl, &b, 1) <= 0);
    SSL_free(ssl);
    SSL_CTX_free(c);
}

static void no_certificate_or_an_old_protocol(void **state)
{
    (void)state;
    struct server s = {0}, old = {0};
    int fd = start_server(&s, alice);
    foreign_client(fd, TLS1_3_VERSION);
    pthread_join(s.thread, NULL);
    close(fd);
    assert_int_equal(s.result, DMT_E_AUTH);
    assert_string_equal(s.err.msg, "the peer shows no certificate");
    fd = start_server(&old, alice);
    foreign_client(fd, TLS1_2_VERSION);
    pthread_join(old.thread, NULL);
    close(fd);
    assert_int_equal(old.result, -EPROTO);
}

/* Alice's certificate again, but over since an hour, signed by the real CA. */
static void an_expired_certificate(void **state)
{
    (void)state;
    FILE *f = fopen(at("alice.crt"), "r");
    X509 *cert = PEM_read_X509(f, NULL, NULL, NULL);
    (void)fclose(f);
    f = fopen(at("ca.key"), "r");
    EVP_PKEY *ca = PEM_read_PrivateKey(f, NULL, NULL, NULL);
    (void)fclose(f);
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(cert), -3600));
    assert_true(X509_sign(cert, ca, EVP_sha256()) > 0);
    f = fopen(at("expired.crt"), "w");
    assert_int_equal(PEM_write_X509(f, cert), 1);
    (void)fclose(f);
    X509_free(cert);
    EVP_PKEY_free(ca);

    struct dmt_tls_ctx *late;
    struct dmt_tls *t;
    struct server s = {0};
    assert_int_equal(context(&late, "ca.crt", "expired.crt", "alice.key"), 0);
    int fd = start_server(&s, late);
    assert_int_equal(dmt_tls_new(&t, bob, fd, false, &err), 0);
    assert_int_equal(dmt_tls_handshake(t, LONG_MS, &err), DMT_E_AUTH);
    assert_non_null(strstr(err.msg, "expired"));
    pthread_join(s.thread, NULL);
    dmt_tls_free(t);
    close(fd);
    dmt_tls_ctx_free(late);
}

static uint64_t now_ms(void)
{
    return dmt_clock_real()->monotonic_ns(NULL) / DMT_MS;
}

static void deadlines(void **state)
{
    (void)state;
    int sv[2];
    struct dmt_tls *t;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    assert_int_equal(dmt_tls_new(&t, bob, sv[0], false, &err), 0);
    uint64_t began = now_ms();
    assert_int_equal(dmt_tls_handshake(t, 50, &err), -ETIMEDOUT);
    assert_true(now_ms() - began >= 50);
    assert_int_equal(dmt_tls_handshake(t, 50, &err), -ETIMEDOUT);
    dmt_tls_free(t);
    close(sv[0]);
    close(sv[1]);

    struct server s = {.echo = true};
    int fd = start_server(&s, alice);
    t = connect_to(fd, bob);
    char buf[8];
    assert_int_equal(dmt_tls_read(t, buf, 8, 30), -ETIMEDOUT);
    assert_int_equal(dmt_tls_write(t, "again", 5, LONG_MS),
                     0); /* a read that found nothing does no harm */
    assert_int_equal(dmt_tls_read_full(t, buf, 5, LONG_MS), 0);
    assert_memory_equal(buf, "again", 5);
    /* half a message and then nothing: the rest could be taken for a new one, so the connection is
     * over */
    assert_int_equal(dmt_tls_write(t, "half", 4, LONG_MS), 0);
    assert_int_equal(dmt_tls_read_full(t, buf, 8, 200), -ETIMEDOUT);
    assert_int_equal(dmt_tls_write(t, "x", 1, LONG_MS), -ETIMEDOUT);
    dmt_tls_free(t);
    close(fd);
    pthread_join(s.thread, NULL);
}

struct mute {
    pthread_t thread;
    int fd, wake;
    int result;
};

/* Shakes hands, then reads nothing until woken. */
static void *mute_server(void *arg)
{
    struct mute *s = arg;
    struct dmt_tls *t;
    char c;
    assert_int_equal(dmt_tls_new(&t, alice, s->fd, true, NULL), 0);
    s->result = dmt_tls_handshake(t, LONG_MS, NULL);
    assert_int_equal(read(s->wake, &c, 1), 0);
    dmt_tls_free(t);
    return NULL;
}

static void a_peer_that_does_not_read(void **state)
{
    (void)state;
    int sv[2], wake[2];
    struct mute s;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    assert_int_equal(pipe(wake), 0);
    s.fd = sv[1];
    s.wake = wake[0];
    assert_int_equal(dmt_thread_start(&s.thread, "mute", mute_server, &s), 0);
    struct dmt_tls *t = connect_to(sv[0], bob);
    size_t size = 4 << 20;
    char *p = calloc(1, size);
    assert_int_equal(dmt_tls_write(t, p, size, 100), -ETIMEDOUT);
    assert_int_equal(dmt_tls_write(t, p, 1, 100), -ETIMEDOUT);
    dmt_tls_free(t);
    close(wake[1]);
    pthread_join(s.thread, NULL);
    assert_int_equal(s.result, 0);
    close(wake[0]);
    close(sv[0]);
    close(sv[1]);
    free(p);
}

/* --- memory mode --- */

struct pair {
    struct dmt_tls *c, *s;
};

/* Carries what `from` has to say to `to`, `step` bytes at a time. Returns how many. */
static size_t carry(struct dmt_tls *from, struct dmt_tls *to, size_t step)
{
    struct dmt_buf b;
    dmt_buf_init(&b);
    assert_int_equal(dmt_tls_drain(from, &b), 0);
    for (size_t i = 0; i < b.len; i += step)
        assert_int_equal(dmt_tls_feed(to, b.p + i, b.len - i < step ? b.len - i : step), 0);
    size_t n = b.len;
    dmt_buf_free(&b);
    return n;
}

static struct pair shake_in_memory(size_t step)
{
    struct pair p;
    int c = 0, s = 0;
    assert_int_equal(dmt_tls_new(&p.c, bob, -1, false, &err), 0);
    assert_int_equal(dmt_tls_new(&p.s, alice, -1, true, &err), 0);
    assert_int_equal(dmt_tls_send(p.c, "x", 1), -ENOTCONN);
    assert_int_equal(dmt_tls_recv(p.c, &c, 1), -ENOTCONN);
    for (int i = 0; i < 10 && !(c && s); i++) {
        c = dmt_tls_step(p.c, &err);
        carry(p.c, p.s, step);
        s = dmt_tls_step(p.s, &err);
        carry(p.s, p.c, step);
    }
    assert_int_equal(c, 1);
    assert_int_equal(s, 1);
    assert_string_equal(dmt_tls_peer(p.c), "alice");
    assert_string_equal(dmt_tls_peer(p.s), "bob");
    return p;
}

static void free_pair(struct pair *p)
{
    dmt_tls_free(p->c);
    dmt_tls_free(p->s);
}

static void through_memory(void **state)
{
    (void)state;
    for (size_t step = 1; step < 100000; step *= 37) {
        struct pair p = shake_in_memory(step);
        char buf[16];
        assert_int_equal(dmt_tls_recv(p.s, buf, sizeof(buf)), 0);
        assert_int_equal(dmt_tls_send(p.c, "ping", 4), 0);
        carry(p.c, p.s, step);
        assert_int_equal(dmt_tls_recv(p.s, buf, sizeof(buf)), 4);
        assert_memory_equal(buf, "ping", 4);
        assert_int_equal(dmt_tls_recv(p.s, buf, sizeof(buf)), 0);
        free_pair(&p);
    }
}

static void much_through_memory(void **state)
{
    (void)state;
    struct pair p = shake_in_memory(4096);
    size_t size = 3 << 20, have = 0;
    char *out = malloc(size), *in = malloc(size);
    for (size_t i = 0; i < size; i++)
        out[i] = (char)(i * 31 + i / 977);
    assert_int_equal(dmt_tls_send(p.s, out, size), 0);
    assert_int_equal(dmt_tls_send(p.s, out, 0), 0);
    carry(p.s, p.c, 100000);
    ssize_t n;
    while ((n = dmt_tls_recv(p.c, in + have, size - have)) > 0) {
        have += (size_t)n;
        if (have == size)
            break;
    }
    assert_int_equal(have, size);
    assert_memory_equal(in, out, size);
    free(out);
    free(in);
    free_pair(&p);
}

static void tampered_ciphertext(void **state)
{
    (void)state;
    struct pair p = shake_in_memory(4096);
    struct dmt_buf b;
    char buf[16];
    dmt_buf_init(&b);
    assert_int_equal(dmt_tls_send(p.c, "secret", 6), 0);
    assert_int_equal(dmt_tls_drain(p.c, &b), 0);
    b.p[b.len - 1] ^= 1;
    assert_int_equal(dmt_tls_feed(p.s, b.p, b.len), 0);
    assert_int_equal(dmt_tls_recv(p.s, buf, sizeof(buf)), -EPROTO);
    assert_int_equal(dmt_tls_recv(p.s, buf, sizeof(buf)), -EPROTO);
    assert_int_equal(dmt_tls_send(p.s, buf, 1), -EPROTO);
    dmt_buf_free(&b);
    free_pair(&p);
}

static void noise_instead_of_a_handshake(void **state)
{
    (void)state;
    struct dmt_tls *t;
    assert_int_equal(dmt_tls_new(&t, alice, -1, true, &err), 0);
    assert_int_equal(dmt_tls_feed(t, "GET / HTTP/1.1\r\n\r\n", 18), 0);
    assert_int_equal(dmt_tls_step(t, &err), -EPROTO);
    assert_int_equal(dmt_tls_step(t, NULL), -EPROTO);
    dmt_tls_free(t);
}

static void refusal_through_memory(void **state)
{
    (void)state;
    struct dmt_tls *c, *s;
    assert_int_equal(dmt_tls_new(&c, bob, -1, false, &err), 0);
    assert_int_equal(dmt_tls_new(&s, mallory, -1, true, &err), 0);
    assert_int_equal(dmt_tls_step(c, &err), 0);
    carry(c, s, 4096);
    assert_int_equal(dmt_tls_step(s, &err), 0);
    carry(s, c, 4096);
    assert_int_equal(dmt_tls_step(c, &err), DMT_E_AUTH);
    assert_true(carry(c, s, 4096) > 0); /* the alert */
    assert_int_equal(dmt_tls_step(s, &err), DMT_E_AUTH);
    assert_null(dmt_tls_peer(c));
    assert_null(dmt_tls_peer(s));
    dmt_tls_free(c);
    dmt_tls_free(s);
}

/* An accepted connection that began in an event loop goes on as a stream. */
static void from_memory_to_a_stream(void **state)
{
    (void)state;
    struct server s = {.echo = true};
    int fd = start_server(&s, alice);
    struct dmt_tls *t;
    char cipher[4096], buf[8];
    assert_int_equal(dmt_tls_new(&t, bob, -1, false, &err), 0);
    assert_int_equal(dmt_tls_attach(t, fd), -ENOTCONN);
    int done;
    for (;;) {
        struct dmt_buf b;
        dmt_buf_init(&b);
        done = dmt_tls_step(t, &err);
        assert_true(done >= 0);
        assert_int_equal(dmt_tls_drain(t, &b), 0);
        assert_int_equal(send(fd, b.p, b.len, 0), b.len);
        dmt_buf_free(&b);
        if (done)
            break;
        ssize_t n = recv(fd, cipher, sizeof(cipher), 0);
        assert_true(n > 0);
        assert_int_equal(dmt_tls_feed(t, cipher, (size_t)n), 0);
    }
    assert_int_equal(dmt_tls_send(t, "x", 1), 0);
    assert_int_equal(dmt_tls_attach(t, fd), -EINVAL); /* ciphertext is pending */
    struct dmt_buf b;
    dmt_buf_init(&b);
    assert_int_equal(dmt_tls_drain(t, &b), 0);
    assert_int_equal(send(fd, b.p, b.len, 0), b.len);
    dmt_buf_free(&b);
    assert_int_equal(dmt_tls_attach(t, fd), 0);
    assert_int_equal(dmt_tls_attach(t, fd), -EINVAL); /* once */
    assert_int_equal(dmt_tls_read_full(t, buf, 1, LONG_MS), 0);
    assert_int_equal(buf[0], 'x');
    assert_int_equal(dmt_tls_write(t, "stream", 6, LONG_MS), 0);
    assert_int_equal(dmt_tls_read_full(t, buf, 6, LONG_MS), 0);
    assert_memory_equal(buf, "stream", 6);
    dmt_tls_free(t);
    close(fd);
    pthread_join(s.thread, NULL);
}

/* --- files --- */

static void a_key_that_others_can_read(void **state)
{
    (void)state;
    static const mode_t modes[] = {0644, 0640, 0604, 0620};
    struct dmt_tls_ctx *c = NULL;
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        assert_int_equal(chmod(at("alice.key"), modes[i]), 0);
        assert_int_equal(context(&c, "ca.crt", "alice.crt", "alice.key"), DMT_E_AUTH);
        assert_non_null(strstr(err.msg, "can be read by others"));
        assert_non_null(strstr(err.hint, "chmod 600"));
    }
    assert_int_equal(chmod(at("alice.key"), 0400), 0);
    assert_int_equal(context(&c, "ca.crt", "alice.crt", "alice.key"), 0);
    dmt_tls_ctx_free(c);
    if (geteuid() == 0) {
        c = NULL;
        assert_int_equal(chown(at("alice.key"), 12345, 0), 0);
        assert_int_equal(context(&c, "ca.crt", "alice.crt", "alice.key"), DMT_E_AUTH);
        assert_non_null(strstr(err.msg, "belongs to another user"));
        assert_int_equal(chown(at("alice.key"), 0, 0), 0);
    }
    assert_int_equal(chmod(at("alice.key"), 0600), 0);
    assert_int_equal(chmod(at("ca.key"), 0644), 0);
    assert_int_equal(issue("ca", "carol"), DMT_E_AUTH);
    assert_int_equal(chmod(at("ca.key"), 0600), 0);
}

static void files_that_do_not_fit(void **state)
{
    (void)state;
    struct dmt_tls_ctx *c = NULL;
    assert_int_equal(context(&c, "none.crt", "alice.crt", "alice.key"), -ENOENT);
    assert_int_equal(context(&c, "ca.crt", "none.crt", "alice.key"), -ENOENT);
    assert_int_equal(context(&c, "ca.crt", "alice.crt", "none.key"), -ENOENT);
    assert_non_null(strstr(err.msg, "none.key"));
    assert_int_equal(context(&c, "ca.crt", "alice.crt", "bob.key"), DMT_E_AUTH);
    assert_non_null(strstr(err.msg, "is not the key of"));
    assert_int_equal(
        dmt_io_write_file(dmt_io_real(), at("noise"), "-----BEGIN NOISE-----\n", 22, 0600), 0);
    assert_int_equal(context(&c, "ca.crt", "noise", "alice.key"), DMT_E_AUTH);
    assert_int_equal(context(&c, "ca.crt", "alice.crt", "noise"), DMT_E_AUTH);
    /* the CA's own certificate has a name no node can have */
    assert_int_equal(context(&c, "ca.crt", "ca.crt", "ca.key"), DMT_E_AUTH);
    assert_non_null(strstr(err.msg, "does not name a node"));
    assert_null(c);
}

static void an_encrypted_key_is_refused_not_asked_for(void **state)
{
    (void)state;
    struct dmt_tls_ctx *c = NULL;
    FILE *f = fopen(at("alice.key"), "r");
    EVP_PKEY *key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
    (void)fclose(f);
    int fd = open(at("locked.key"), O_WRONLY | O_CREAT, 0600);
    f = fdopen(fd, "w");
    static unsigned char pw[] = "password";
    assert_int_equal(
        PEM_write_PKCS8PrivateKey(f, key, EVP_aes_128_cbc(), (char *)pw, 8, NULL, NULL), 1);
    (void)fclose(f);
    EVP_PKEY_free(key);
    assert_int_equal(context(&c, "ca.crt", "alice.crt", "locked.key"), DMT_E_AUTH);
    assert_non_null(strstr(err.msg, "encrypted with a password"));
}

/* What a node does to get its certificate, step by step, and what does not fit. */
static void a_request_is_signed(void **state)
{
    (void)state;
    char *key = NULL, *other = NULL, *csr = NULL, *cert = NULL, *ca = NULL, *evil = NULL;
    size_t n;
    struct dmt_cert_life life;
    assert_int_equal(dmt_key_pem(at("dave.key"), &key, &err), 0);
    assert_int_equal(access(at("dave.key"), F_OK), -1); /* nothing is written */
    assert_int_equal(dmt_key_pem(at("alice.key"), &other, &err), 0);
    assert_int_equal(dmt_csr_pem(key, "dave", &csr, &err), 0);
    assert_int_equal(dmt_io_read_file(dmt_io_real(), at("ca.crt"), 1 << 16, &ca, &n), 0);
    assert_int_equal(dmt_io_read_file(dmt_io_real(), at("evil.crt"), 1 << 16, &evil, &n), 0);
    /* for another name than the one in the request; noise */
    assert_int_equal(dmt_ca_sign(at("ca.crt"), at("ca.key"), csr, "eve", 60, &cert, &err),
                     DMT_E_AUTH);
    assert_int_equal(dmt_ca_sign(at("ca.crt"), at("ca.key"), ca, "dave", 60, &cert, &err),
                     DMT_E_AUTH);
    assert_int_equal(dmt_ca_sign(at("ca.crt"), at("ca.key"), csr, "dave", 0, &cert, &err), -EINVAL);
    assert_null(cert);
    assert_int_equal(dmt_ca_sign(at("ca.crt"), at("ca.key"), csr, "dave", 60, &cert, &err), 0);
    assert_int_equal(dmt_cert_fits(cert, ca, key, "dave", &err), 0);
    assert_int_equal(dmt_cert_fits(cert, evil, key, "dave", &err), DMT_E_AUTH);
    assert_int_equal(dmt_cert_fits(cert, ca, other, "dave", &err), DMT_E_AUTH);
    assert_int_equal(dmt_cert_fits(cert, ca, key, "eve", &err), DMT_E_AUTH);
    assert_int_equal(dmt_io_write_file(dmt_io_real(), at("dave.crt"), cert, strlen(cert), 0600), 0);
    assert_int_equal(dmt_cert_life(at("dave.crt"), &life, &err), 0);
    assert_string_equal(life.node, "dave");
    assert_int_equal(life.life_s, 60);
    assert_false(dmt_cert_due(&life));
    life.until_s -= 41;
    assert_true(dmt_cert_due(&life));
    free(key);
    free(other);
    free(csr);
    free(cert);
    free(ca);
    free(evil);
}

static char *text_of(const char *name)
{
    char *text = NULL;
    size_t n;
    assert_int_equal(dmt_io_read_file(dmt_io_real(), at(name), 1 << 16, &text, &n), 0);
    return text;
}

/* A CA's new certificate is of the same key: what either has signed is good under the other. One of
 * another key, or one that ends earlier, takes nobody's place. */
static void a_renewed_ca_succeeds_the_old_one(void **state)
{
    (void)state;
    struct dmt_tls_ctx *c = NULL;
    struct dmt_cert_life life;
    char *csr = NULL, *before = NULL, *after = NULL, *key, *old, *now, *evil, *there;
    assert_int_equal(dmt_ca_create(at("auth.crt"), at("auth.key"), "dumont", 1, &err), 0);
    assert_int_equal(issue("auth", "hugo"), 0);
    assert_int_equal(context(&c, "auth.crt", "hugo.crt", "hugo.key"), 0);
    assert_int_equal(dmt_tls_ctx_csr(c, &csr, &err), 0);
    assert_int_equal(dmt_ca_sign(at("auth.crt"), at("auth.key"), csr, "hugo", 60, &before, &err),
                     0);
    old = text_of("auth.crt");
    key = text_of("hugo.key");
    evil = text_of("evil.crt");
    assert_int_equal(dmt_cert_life(at("auth.crt"), &life, &err), 0);
    assert_false(dmt_cert_due(&life) || dmt_ca_late(&life));
    life.until_s -= life.life_s * 7 / 8 + 1;
    assert_true(dmt_cert_due(&life) && dmt_ca_late(&life));
    assert_int_equal(dmt_ca_renew(at("auth.crt"), at("evil.key"), 100, &err), DMT_E_AUTH);
    assert_int_equal(dmt_ca_renew(at("auth.crt"), at("auth.key"), 100, &err), 0);
    now = text_of("auth.crt");
    assert_int_equal(dmt_cert_life(at("auth.crt"), &life, &err), 0);
    assert_int_equal(life.life_s, 100 * 86400);
    assert_string_equal(life.node, "dumont");
    assert_int_equal(dmt_ca_sign(at("auth.crt"), at("auth.key"), csr, "hugo", 60, &after, &err), 0);
    assert_int_equal(dmt_cert_fits(before, now, key, "hugo", &err), 0);
    assert_int_equal(dmt_cert_fits(after, old, key, "hugo", &err), 0);
    assert_true(dmt_ca_succeeds(now, old));
    assert_true(dmt_ca_succeeds(now, now));
    assert_false(dmt_ca_succeeds(old, now) || dmt_ca_succeeds(evil, old));
    assert_false(dmt_ca_succeeds("noise", old) || dmt_ca_succeeds(before, old));
    /* with a certificate its CA comes; only a successor is taken */
    assert_int_equal(dmt_io_write_file(dmt_io_real(), at("auth.crt"), old, strlen(old), 0600), 0);
    assert_int_equal(dmt_tls_ctx_renew(c, after, evil, &err), 0);
    there = text_of("auth.crt");
    assert_string_equal(there, old);
    free(there);
    assert_int_equal(dmt_tls_ctx_renew(c, after, now, &err), 0);
    there = text_of("auth.crt");
    assert_string_equal(there, now);
    dmt_tls_ctx_free(c);
    free(there), free(csr), free(before), free(after), free(key), free(old), free(now), free(evil);
}

/* A context takes a renewed certificate for its next connection, and leaves another node's. */
static void a_renewed_certificate_is_used(void **state)
{
    (void)state;
    struct dmt_tls_ctx *c = NULL;
    struct dmt_cert_life before, after;
    char *csr = NULL, *cert = NULL;
    assert_int_equal(issue("ca", "frank"), 0);
    assert_int_equal(context(&c, "ca.crt", "frank.crt", "frank.key"), 0);
    dmt_tls_ctx_life(c, &before);
    assert_int_equal(dmt_tls_ctx_csr(c, &csr, &err), 0);
    assert_int_equal(dmt_ca_sign(at("ca.crt"), at("ca.key"), csr, "frank", 60, &cert, &err), 0);
    assert_int_equal(dmt_tls_ctx_renew(c, cert, "", &err), 0);
    dmt_tls_ctx_life(c, &after);
    assert_int_equal(after.life_s, 60);
    assert_int_not_equal(before.life_s, 60);
    free(cert);
    cert = NULL;
    assert_int_equal(dmt_ca_sign(at("evil.crt"), at("evil.key"), csr, "frank", 60, &cert, &err), 0);
    assert_int_equal(dmt_tls_ctx_renew(c, cert, "", &err), DMT_E_AUTH);
    /* what does not belong to the key is not taken, though the file says so */
    assert_int_equal(issue("ca", "gina"), 0);
    assert_int_equal(rename(at("gina.crt"), at("frank.crt")), 0);
    dmt_tls_ctx_life(c, &after);
    assert_string_equal(after.node, "frank");
    free(csr);
    free(cert);
    dmt_tls_ctx_free(c);
}

static void the_ca(void **state)
{
    (void)state;
    struct stat st;
    assert_int_equal(stat(at("ca.key"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(stat(at("alice.key"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(dmt_ca_create(at("ca.crt"), at("new.key"), "x", 10, &err), -EEXIST);
    assert_int_equal(dmt_ca_create(at("new.crt"), at("ca.key"), "x", 10, &err), -EEXIST);
    assert_int_equal(access(at("new.key"), F_OK), -1);
    assert_int_equal(dmt_ca_create(at("new.crt"), at("new.key"), "", 10, &err), -EINVAL);
    assert_int_equal(dmt_ca_create(at("new.crt"), at("new.key"), "x", 0, &err), -EINVAL);
    assert_int_equal(dmt_ca_create(at("no/dir.crt"), at("no/dir.key"), "x", 10, &err), -ENOENT);
    static const char *const bad[] = {
        "",    "-x",  ".x",   "a b",
        "a/b", "a,b", "a\nb", "0123456789012345678901234567890123456789012345678901234567890123X"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(
            dmt_ca_issue(at("ca.crt"), at("ca.key"), bad[i], 10, at("z.crt"), at("z.key"), &err),
            -EINVAL);
    assert_int_equal(
        dmt_ca_issue(at("ca.crt"), at("ca.key"), "z", 0, at("z.crt"), at("z.key"), &err), -EINVAL);
    assert_int_equal(
        dmt_ca_issue(at("ca.crt"), at("evil.key"), "z", 9, at("z.crt"), at("z.key"), &err),
        DMT_E_AUTH);
    assert_int_equal(
        dmt_ca_issue(at("bob.crt"), at("bob.key"), "z", 9, at("z.crt"), at("z.key"), &err),
        DMT_E_AUTH);
    assert_non_null(strstr(err.msg, "not the certificate of a CA"));
    assert_int_equal(access(at("z.key"), F_OK), -1);
    /* again for the same node: a renewal */
    assert_int_equal(issue("ca", "carol"), 0);
    assert_int_equal(issue("ca", "carol"), 0);
    struct dmt_tls_ctx *c;
    assert_int_equal(context(&c, "ca.crt", "carol.crt", "carol.key"), 0);
    assert_string_equal(dmt_tls_ctx_name(c), "carol");
    dmt_tls_ctx_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(stream_both_ways),
        cmocka_unit_test(a_clean_end_and_an_unclean_one),
        cmocka_unit_test(a_client_of_another_ca_is_refused),
        cmocka_unit_test(a_server_of_another_ca_is_refused),
        cmocka_unit_test(no_certificate_or_an_old_protocol),
        cmocka_unit_test(an_expired_certificate),
        cmocka_unit_test(deadlines),
        cmocka_unit_test(a_peer_that_does_not_read),
        cmocka_unit_test(through_memory),
        cmocka_unit_test(much_through_memory),
        cmocka_unit_test(tampered_ciphertext),
        cmocka_unit_test(noise_instead_of_a_handshake),
        cmocka_unit_test(refusal_through_memory),
        cmocka_unit_test(from_memory_to_a_stream),
        cmocka_unit_test(a_key_that_others_can_read),
        cmocka_unit_test(files_that_do_not_fit),
        cmocka_unit_test(an_encrypted_key_is_refused_not_asked_for),
        cmocka_unit_test(a_request_is_signed),
        cmocka_unit_test(a_renewed_certificate_is_used),
        cmocka_unit_test(a_renewed_ca_succeeds_the_old_one),
        cmocka_unit_test(the_ca),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
