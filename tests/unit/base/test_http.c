/* The HTTP client against a small server in a thread of this program, which answers from a script
 * and keeps what it was sent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "fs/base/http.h"
#include "fs/base/thread.h"
#include "fs/base/tls.h"

#define ANSWERS_MAX 8
#define REQUEST_MAX (1 << 20)

enum after {
    KEEP,
    CLOSE,
    SILENCE
}; /* what the server does after an answer; SILENCE: waits until it is stopped */

struct answer {
    const char *text;
    enum after after;
};

static struct server {
    pthread_t thread;
    int listener, stop[2];
    unsigned short port;
    struct answer answers[ANSWERS_MAX];
    int next; /* answer */
    atomic_int connections;
    char *requests[ANSWERS_MAX]; /* head and body */
    SSL_CTX *tls;
} srv;

static char dir[] = "/var/tmp/test_http.XXXXXX";
static struct dmt_http *http;
static struct dmt_http_res res;
static struct dmt_err err;

/* --- the server --- */

struct conn {
    int fd;
    SSL *ssl;
};

static ssize_t conn_read(struct conn *c, char *p, size_t n)
{
    return c->ssl ? SSL_read(c->ssl, p, (int)n) : read(c->fd, p, n);
}

static void conn_write(struct conn *c, const char *p, size_t n)
{
    if (c->ssl)
        (void)SSL_write(c->ssl, p, (int)n);
    else
        (void)send(c->fd, p, n, MSG_NOSIGNAL);
}

/* A whole request, or NULL when the client has gone. */
static char *read_request(struct conn *c)
{
    char *p = calloc(1, REQUEST_MAX);
    size_t have = 0;
    for (;;) {
        char *end = strstr(p, "\r\n\r\n");
        if (end) {
            const char *length = strcasestr(p, "\r\nContent-Length:");
            size_t body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
            if (have >= (size_t)(end + 4 - p) + body)
                return p;
        }
        ssize_t n = conn_read(c, p + have, REQUEST_MAX - 1 - have);
        if (n <= 0)
            break;
        have += (size_t)n;
    }
    free(p);
    return NULL;
}

static void serve_connection(struct conn *c)
{
    char *request;
    while (srv.answers[srv.next].text && (request = read_request(c))) {
        struct answer a = srv.answers[srv.next];
        free(srv.requests[srv.next]);
        srv.requests[srv.next++] = request;
        conn_write(c, a.text, strlen(a.text));
        if (a.after == SILENCE) {
            char b;
            assert_int_equal(read(srv.stop[0], &b, 1), 0);
        }
        if (a.after != KEEP)
            return;
    }
}

static void *server_main(void *arg)
{
    (void)arg;
    while (srv.answers[srv.next].text) {
        struct conn c = {.fd = accept(srv.listener, NULL, NULL)};
        if (c.fd < 0)
            break;
        atomic_fetch_add(&srv.connections, 1);
        if (srv.tls) {
            c.ssl = SSL_new(srv.tls);
            SSL_set_fd(c.ssl, c.fd);
            if (SSL_accept(c.ssl) == 1)
                serve_connection(&c);
            else
                srv.next++;
            SSL_free(c.ssl);
        } else {
            serve_connection(&c);
        }
        close(c.fd);
    }
    return NULL;
}

static void start(const struct answer *answers, int n, const char *unix_path)
{
    memset(srv.answers, 0, sizeof(srv.answers));
    memcpy(srv.answers, answers, (size_t)n * sizeof(*answers));
    srv.next = 0;
    atomic_store(&srv.connections, 0);
    assert_int_equal(pipe(srv.stop), 0);
    if (unix_path) {
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        (void)snprintf(un.sun_path, sizeof(un.sun_path), "%s", unix_path);
        srv.listener = socket(AF_UNIX, SOCK_STREAM, 0);
        assert_int_equal(bind(srv.listener, (struct sockaddr *)&un, sizeof(un)), 0);
    } else {
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof(in);
        srv.listener = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(bind(srv.listener, (struct sockaddr *)&in, sizeof(in)), 0);
        assert_int_equal(getsockname(srv.listener, (struct sockaddr *)&in, &len), 0);
        srv.port = ntohs(in.sin_port);
    }
    assert_int_equal(listen(srv.listener, 8), 0);
    assert_int_equal(dmt_thread_start(&srv.thread, "server", server_main, NULL), 0);
}
#define START(...)                                                                                 \
    start((struct answer[]){__VA_ARGS__},                                                          \
          sizeof((struct answer[]){__VA_ARGS__}) / sizeof(struct answer), NULL)

static void stop(void)
{
    close(srv.stop[1]);
    shutdown(srv.listener, SHUT_RDWR);
    pthread_join(srv.thread, NULL);
    close(srv.listener);
    close(srv.stop[0]);
}

static const char *url(const char *path)
{
    static char s[256];
    (void)snprintf(s, sizeof(s), "%s://127.0.0.1:%u%s", srv.tls ? "https" : "http", srv.port, path);
    return s;
}

static int ask(struct dmt_http_req req)
{
    if (!req.response_max)
        req.response_max = 1 << 20;
    dmt_buf_free(&res.body);
    memset(&err, 0, sizeof(err));
    return dmt_http_do(http, &req, &res, &err);
}
#define ASK(...) ask((struct dmt_http_req){__VA_ARGS__})

static void body_is(const char *want)
{
    assert_int_equal(res.body.len, strlen(want));
    if (*want)
        assert_memory_equal(res.body.p, want, res.body.len);
}

/* --- tests --- */

static int each(void **state)
{
    (void)state;
    http = dmt_http_new();
    return http ? 0 : -1;
}

static int after_each(void **state)
{
    (void)state;
    dmt_http_free(http);
    dmt_buf_free(&res.body);
    for (int i = 0; i < ANSWERS_MAX; i++) {
        free(srv.requests[i]);
        srv.requests[i] = NULL;
    }
    return 0;
}

static void get(void **state)
{
    (void)state;
    START({"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"abc-1\"\r\ndate:  Mon, 23 Nov 2026 "
           "10:00:00 GMT \r\n\r\nhello",
           KEEP});
    const char *const headers[] = {"X-One: 1", "Authorization: secret", "Expect: 100-continue",
                                   NULL};
    assert_int_equal(ASK(.method = "GET", .url = url("/a/../b%2Fc//d?x=1&y"), .headers = headers),
                     0);
    assert_int_equal(res.status, 200);
    body_is("hello");
    assert_string_equal(res.etag, "abc-1");
    assert_string_equal(res.date, "Mon, 23 Nov 2026 10:00:00 GMT");
    assert_int_equal(res.content_length, 5);
    assert_int_equal(res.retry_after_s, 0);
    stop();
    const char *r = srv.requests[0];
    assert_memory_equal(r, "GET /a/../b%2Fc//d?x=1&y HTTP/1.1\r\n", 35);
    assert_non_null(strstr(r, "\r\nX-One: 1\r\n"));
    assert_non_null(strstr(r, "\r\nAuthorization: secret\r\n"));
    assert_null(strcasestr(r, "\r\nExpect:"));
}

#define OK_EMPTY "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

static void put(void **state)
{
    (void)state;
    size_t size = 300000;
    char *body = malloc(size + 1);
    memset(body, 'b', size);
    body[size] = '\0';
    START({OK_EMPTY, KEEP}, {OK_EMPTY, KEEP}, {OK_EMPTY, KEEP}, {OK_EMPTY, KEEP});
    assert_int_equal(ASK(.method = "PUT", .url = url("/big"), .body = body, .body_len = size), 0);
    assert_int_equal(res.status, 200);
    assert_int_equal(ASK(.method = "PUT", .url = url("/empty")), 0);
    assert_int_equal(
        ASK(.method = "POST", .url = url("/post?delete"), .body = "<x/>", .body_len = 4), 0);
    assert_int_equal(ASK(.method = "POST", .url = url("/post0")), 0);
    stop();
    assert_int_equal(srv.connections, 1);
    assert_memory_equal(srv.requests[0], "PUT /big HTTP/1.1\r\n", 19);
    assert_non_null(strstr(srv.requests[0], "\r\nContent-Length: 300000\r\n"));
    assert_null(strcasestr(srv.requests[0], "Expect:"));
    assert_null(strcasestr(srv.requests[0], "Transfer-Encoding:"));
    assert_string_equal(strstr(srv.requests[0], "\r\n\r\n") + 4, body);
    assert_non_null(strstr(srv.requests[1], "\r\nContent-Length: 0\r\n"));
    assert_memory_equal(srv.requests[2], "POST /post?delete HTTP/1.1\r\n", 28);
    assert_string_equal(strstr(srv.requests[2], "\r\n\r\n") + 4, "<x/>");
    assert_non_null(strstr(srv.requests[3], "\r\nContent-Length: 0\r\n"));
    free(body);
}

static void head_and_delete(void **state)
{
    (void)state;
    START({"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: W/\"weak\"\r\n\r\n", KEEP},
          {"HTTP/1.1 204 No Content\r\n\r\n", KEEP}, {OK_EMPTY, KEEP});
    assert_int_equal(ASK(.method = "HEAD", .url = url("/x")), 0);
    assert_int_equal(res.content_length, 12345);
    assert_string_equal(res.etag, "W/\"weak\"");
    body_is("");
    assert_int_equal(ASK(.method = "DELETE", .url = url("/x")), 0);
    assert_int_equal(res.status, 204);
    assert_int_equal(res.content_length, -1);
    assert_string_equal(res.etag, "");
    assert_int_equal(ASK(.method = "GET", .url = url("/x")), 0); /* HEAD leaves nothing behind */
    stop();
    assert_memory_equal(srv.requests[0], "HEAD /x ", 8);
    assert_memory_equal(srv.requests[1], "DELETE /x ", 10);
    assert_memory_equal(srv.requests[2], "GET /x ", 7);
    assert_int_equal(srv.connections, 1);
}

static void any_status_is_an_answer(void **state)
{
    (void)state;
    START(
        {"HTTP/1.1 503 Slow Down\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy", KEEP},
        {"HTTP/1.1 429 X\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\nContent-Length: "
         "0\r\n\r\n",
         KEEP},
        {"HTTP/1.1 429 X\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n", KEEP},
        {"HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", KEEP},
        {"HTTP/1.1 100 Continue\r\nETag: \"no\"\r\n\r\nHTTP/1.1 404 None\r\nContent-Length: "
         "0\r\n\r\n",
         KEEP});
    assert_int_equal(ASK(.method = "GET", .url = url("/")), 0);
    assert_int_equal(res.status, 503);
    assert_int_equal(res.retry_after_s, 7);
    body_is("busy");
    assert_int_equal(ASK(.method = "GET", .url = url("/")), 0);
    assert_int_equal(res.retry_after_s, 0);
    assert_int_equal(ASK(.method = "GET", .url = url("/")), 0);
    assert_int_equal(res.retry_after_s, 86400);
    assert_int_equal(ASK(.method = "GET", .url = url("/")), 0);
    assert_int_equal(res.status, 301);
    assert_int_equal(ASK(.method = "GET", .url = url("/")), 0);
    assert_int_equal(res.status, 404);
    assert_string_equal(res.etag, "");
    stop();
}

static void connections_are_reused_unless_fresh(void **state)
{
    (void)state;
    START({OK_EMPTY, KEEP}, {OK_EMPTY, KEEP}, {OK_EMPTY, CLOSE}, {OK_EMPTY, KEEP},
          {OK_EMPTY, KEEP});
    assert_int_equal(ASK(.method = "GET", .url = url("/1")), 0);
    assert_int_equal(ASK(.method = "GET", .url = url("/2")), 0);
    assert_int_equal(atomic_load(&srv.connections), 1);
    assert_int_equal(ASK(.method = "GET", .url = url("/3")),
                     0); /* the server closes after this one */
    assert_int_equal(ASK(.method = "PUT", .url = url("/4"), .body = "again", .body_len = 5), 0);
    assert_int_equal(atomic_load(&srv.connections), 2);
    dmt_http_free(http); /* the one-thread server must see the kept connection end */
    http = dmt_http_new();
    assert_int_equal(ASK(.method = "GET", .url = url("/5"), .fresh = 1), 0);
    assert_int_equal(atomic_load(&srv.connections), 3);
    stop();
    assert_non_null(strstr(srv.requests[3], "\r\n\r\nagain"));
}

static void a_fresh_connection_is_not_kept(void **state)
{
    (void)state;
    START({OK_EMPTY, KEEP}, {OK_EMPTY, KEEP});
    assert_int_equal(ASK(.method = "GET", .url = url("/1"), .fresh = 1), 0);
    assert_int_equal(ASK(.method = "GET", .url = url("/2")), 0);
    assert_int_equal(atomic_load(&srv.connections), 2);
    stop();
}

static void a_body_cut_short(void **state)
{
    (void)state;
    START({"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", CLOSE},
          {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", CLOSE},
          {"HTTP/1.1 20", CLOSE});
    assert_int_equal(ASK(.method = "GET", .url = url("/key?X-Amz-Signature=secret")), -ECONNRESET);
    assert_non_null(strstr(err.msg, "/key: "));
    assert_null(strstr(err.msg, "secret"));
    assert_null(res.body.p);
    assert_int_equal(ASK(.method = "GET", .url = url("/2")), -ECONNRESET);
    assert_true(ASK(.method = "GET", .url = url("/3")) < 0);
    stop();
}

static void a_body_too_long(void **state)
{
    (void)state;
    START({"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789", CLOSE},
          {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789", CLOSE});
    assert_int_equal(ASK(.method = "GET", .url = url("/"), .response_max = 9), -EFBIG);
    assert_null(res.body.p);
    assert_int_equal(ASK(.method = "GET", .url = url("/"), .response_max = 10), 0);
    body_is("0123456789");
    stop();
}

static void nobody_there(void **state)
{
    (void)state;
    START({OK_EMPTY, KEEP});
    stop(); /* the port is free again */
    assert_int_equal(ASK(.method = "GET", .url = url("/")), -ECONNREFUSED);
    assert_true(strlen(err.msg) > 0);
    assert_int_equal(ASK(.method = "GET", .url = "http://name.invalid/"), -EHOSTUNREACH);
    assert_int_equal(ASK(.method = "GET", .url = "ftp://127.0.0.1/"), -EINVAL);
    assert_int_equal(ASK(.method = "GET", .url = "http://["), -EINVAL);
    assert_int_equal(ASK(.method = "GET", .url = url("/"), .unix_socket = "/nonexistent/socket"),
                     -ENOENT);
    assert_non_null(strstr(err.msg, "/nonexistent/socket"));
}

static void a_stalled_server(void **state)
{
    (void)state;
    START({"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin", SILENCE});
    assert_int_equal(ASK(.method = "GET", .url = url("/"), .stall_timeout_s = 1), -ETIMEDOUT);
    stop();
}

static void the_environment_has_no_say(void **state)
{
    (void)state;
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    START({OK_EMPTY, KEEP});
    assert_int_equal(ASK(.method = "GET", .url = url("/")), 0);
    stop();
    unsetenv("http_proxy");
}

static void unix_socket(void **state)
{
    (void)state;
    char path[64];
    (void)snprintf(path, sizeof(path), "%s/socket", dir);
    start((struct answer[]){{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", KEEP}}, 1, path);
    assert_int_equal(ASK(.method = "GET", .url = "http://localhost/v1/status", .unix_socket = path),
                     0);
    body_is("ok");
    stop();
    assert_memory_equal(srv.requests[0], "GET /v1/status ", 15);
    unlink(path);
}

/* A server of our CA, whose certificate is for "localhost" only. */
static void https(void **state)
{
    (void)state;
    char ca[64], ca_key[64], cert[64], key[64], other[64], other_key[64], name_url[128];
    (void)snprintf(ca, sizeof(ca), "%s/ca.crt", dir);
    (void)snprintf(ca_key, sizeof(ca_key), "%s/ca.key", dir);
    (void)snprintf(cert, sizeof(cert), "%s/n.crt", dir);
    (void)snprintf(key, sizeof(key), "%s/n.key", dir);
    (void)snprintf(other, sizeof(other), "%s/o.crt", dir);
    (void)snprintf(other_key, sizeof(other_key), "%s/o.key", dir);
    assert_int_equal(dmt_ca_create(ca, ca_key, "CA", 9, NULL), 0);
    assert_int_equal(dmt_ca_create(other, other_key, "CA", 9, NULL), 0);
    assert_int_equal(dmt_ca_issue(ca, ca_key, "localhost", 9, cert, key, NULL), 0);
    srv.tls = SSL_CTX_new(TLS_server_method());
    assert_int_equal(SSL_CTX_use_certificate_file(srv.tls, cert, SSL_FILETYPE_PEM), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey_file(srv.tls, key, SSL_FILETYPE_PEM), 1);
    START({OK_EMPTY, CLOSE}, {OK_EMPTY, CLOSE}, {OK_EMPTY, CLOSE});
    (void)snprintf(name_url, sizeof(name_url), "https://localhost:%u/", srv.port);
    assert_int_equal(ASK(.method = "GET", .url = name_url, .ca_file = ca), 0);
    assert_int_equal(res.status, 200);
    assert_int_equal(ASK(.method = "GET", .url = name_url, .ca_file = other), DMT_E_AUTH);
    assert_int_equal(ASK(.method = "GET", .url = url("/"), .ca_file = ca),
                     DMT_E_AUTH); /* not its name */
    assert_int_equal(ASK(.method = "GET", .url = name_url, .ca_file = "/nonexistent.crt"),
                     DMT_E_CONFIG);
    stop();
    SSL_CTX_free(srv.tls);
    srv.tls = NULL;
    unlink(ca);
    unlink(ca_key);
    unlink(cert);
    unlink(key);
    unlink(other);
    unlink(other_key);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, each, after_each)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(get),
        T(put),
        T(head_and_delete),
        T(any_status_is_an_answer),
        T(connections_are_reused_unless_fresh),
        T(a_fresh_connection_is_not_kept),
        T(a_body_cut_short),
        T(a_body_too_long),
        T(nobody_there),
        T(a_stalled_server),
        T(the_environment_has_no_say),
        T(unix_socket),
        T(https),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
