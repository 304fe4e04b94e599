/* net.c: the listening socket and the dialler.
 *
 * Owns the listener and at most one connection being dialled. Happy path: accepted sockets become
 * connections at once (at most CONN_PENDING_MAX that have not said who they are); the dialler
 * resolves the name, tries one address with DIAL_TIMEOUT_MS, and tries again with a doubled,
 * jittered pause as long as there is no session. Which of two simultaneous connections stays is
 * decided in session.c.
 * Failure modes: a name that does not resolve, a refused or silent address: last_error and the next
 * attempt. tls=off never leaves the machine: an address that is not loopback is refused at start,
 * at dialling (after resolving) and at accepting. Thread: loop; start blocks its caller.
 */
#include "fs/replica/int.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"

bool replica_is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof(in));
        return ntohl(in.sin_addr.s_addr) >> 24 == 127;
    }
    if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof(in6));
        return IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
    }
    return false;
}

/* --- accepting -------------------------------------------------------------------------------- */

static void on_connection(uv_stream_t *s, int status)
{
    struct dmt_replica *r = s->data;
    if (status < 0 || r->stopping)
        return;
    struct replica_conn *c = replica_conn_new(r, false);
    r->pending_n++;
    struct sockaddr_storage ss;
    int n = sizeof(ss);
    if (uv_accept(s, (uv_stream_t *)&c->tcp) < 0) {
        replica_conn_close(c, 0, "cannot accept");
    } else if (r->pending_n > CONN_PENDING_MAX || r->failed) {
        replica_conn_close(c, 0, "too many connections that say nothing");
    } else if (r->conf.tls_off && (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&ss, &n) < 0 ||
                                   !replica_is_loopback((struct sockaddr *)&ss))) {
        r->refused++;
        replica_conn_close(c, 0, "tls=off is for loopback addresses only");
    } else {
        replica_conn_connected(c);
    }
}

static void on_listener_closed(uv_handle_t *h)
{
    replica_handle_closed(h->data);
}

/* Resolves the listening address; numeric addresses need no resolver, names are for "localhost" and
 * the like. */
static int resolve_listen(const struct dmt_replica_conf *conf, struct sockaddr_storage *ret,
                          struct dmt_err *err)
{
    char port[8];
    (void)snprintf(port, sizeof(port), "%u", conf->listen_port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *ai = NULL;
    int rc = getaddrinfo(conf->listen_host, port, &hints, &ai);
    if (rc != 0)
        return dmt_err_set(err, DMT_E_CONFIG, "cannot resolve listen address %s: %s",
                           conf->listen_host, gai_strerror(rc));
    memset(ret, 0, sizeof(*ret));
    memcpy(ret, ai->ai_addr, ai->ai_addrlen);
    freeaddrinfo(ai);
    return 0;
}

struct listening {
    struct dmt_replica *r;
    struct sockaddr_storage at;
    int rc;
};

static void listen_on_loop(void *arg)
{
    struct listening *l = arg;
    struct dmt_replica *r = l->r;
    r->listener.data = r;
    l->rc = uv_tcp_init(r->uv, &r->listener);
    if (l->rc < 0)
        return;
    r->handles++;
    r->listening = true;
    l->rc = uv_tcp_bind(&r->listener, (struct sockaddr *)&l->at, 0);
    if (l->rc == 0)
        l->rc = uv_listen((uv_stream_t *)&r->listener, 16, on_connection);
    struct sockaddr_storage ss;
    int n = sizeof(ss);
    if (l->rc == 0)
        l->rc = uv_tcp_getsockname(&r->listener, (struct sockaddr *)&ss, &n);
    if (l->rc == 0) {
        struct sockaddr_in in; /* the port stands at the same place for both families */
        memcpy(&in, &ss, sizeof(in));
        r->port = ntohs(in.sin_port);
    }
}

int replica_net_start(struct dmt_replica *r, struct dmt_err *err)
{
    if (!r->conf.listen_host)
        return 0;
    struct listening l = {.r = r};
    int rc = resolve_listen(&r->conf, &l.at, err);
    if (rc < 0)
        return rc;
    if (r->conf.tls_off && !replica_is_loopback((struct sockaddr *)&l.at)) {
        (void)dmt_err_set(err, DMT_E_CONFIG, "tls=off with the address %s, which is not loopback",
                          r->conf.listen_host);
        return dmt_err_hint(err, "make certificates with `dumontd ca`, or listen on 127.0.0.1"),
               DMT_E_CONFIG;
    }
    dmt_loop_call(r->loop, listen_on_loop, &l);
    if (l.rc < 0)
        return dmt_err_set(err, l.rc, "cannot listen on %s port %u: %s", r->conf.listen_host,
                           r->conf.listen_port, uv_strerror(l.rc));
    return 0;
}

void replica_net_stop(struct dmt_replica *r)
{
    if (r->listening)
        uv_close((uv_handle_t *)&r->listener, on_listener_closed);
    r->listening = false;
    if (r->resolving)
        uv_cancel((uv_req_t *)&r->resolve_req);
    dmt_timer_stop(r->dial_timer);
}

/* --- dialling --------------------------------------------------------------------------------- */

static void dial_later(struct dmt_replica *r)
{
    uint32_t most = r->conf.backoff_max_ms;
    r->backoff_ms = r->backoff_ms ? r->backoff_ms * 2 : DIAL_BACKOFF_MS;
    if (r->backoff_ms > most)
        r->backoff_ms = most;
    uint32_t dice;
    dmt_random(&dice, sizeof(dice));
    r->dial_set = true;
    dmt_timer_set(r->dial_timer, r->backoff_ms / 2 + dice % (r->backoff_ms / 2 + 1));
}

void replica_net_failed(struct dmt_replica *r, const char *why)
{
    if (why[0])
        (void)snprintf(r->last_error, sizeof(r->last_error), "%.191s", why);
    r->dial_turn++;
    replica_net_dial(r, false);
}

static void on_connect(uv_connect_t *req, int status)
{
    struct replica_conn *c = req->data;
    if (c->closing)
        return;
    if (status < 0)
        replica_conn_close(c, 0, uv_strerror(status));
    else
        replica_conn_connected(c);
}

static void dial_address(struct dmt_replica *r, const struct sockaddr *sa)
{
    if (r->conf.tls_off && !replica_is_loopback(sa)) {
        replica_net_failed(r, "tls=off is for loopback addresses only");
        return;
    }
    struct replica_conn *c = replica_conn_new(r, true);
    r->dialling = c;
    c->connect_req.data = c;
    int rc = uv_tcp_connect(&c->connect_req, &c->tcp, sa, on_connect);
    if (rc < 0)
        replica_conn_close(c, 0, uv_strerror(rc));
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *ai)
{
    struct dmt_replica *r = req->data;
    r->resolving = false;
    unsigned n = 0;
    for (struct addrinfo *a = ai; a; a = a->ai_next)
        n++;
    if (!r->stopping && r->dial_host) {
        if (status < 0 || n == 0) {
            replica_net_failed(r, status < 0 ? uv_strerror(status) : "the name has no address");
        } else if (!r->conn && !r->dialling) {
            struct addrinfo *a = ai;
            for (unsigned i = r->dial_turn % n; i > 0; i--)
                a = a->ai_next;
            dial_address(r, a->ai_addr);
        }
    }
    uv_freeaddrinfo(ai);
    replica_job_end(r, false);
}

static void dial_now(struct dmt_replica *r)
{
    char port[8];
    (void)snprintf(port, sizeof(port), "%u", r->dial_port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    r->resolve_req.data = r;
    int rc = uv_getaddrinfo(r->uv, &r->resolve_req, on_resolved, r->dial_host, port, &hints);
    if (rc < 0) {
        replica_net_failed(r, uv_strerror(rc));
        return;
    }
    r->resolving = true;
    replica_job_start(r, false);
}

void replica_net_dial(struct dmt_replica *r, bool soon)
{
    if (r->stopping || r->failed || !r->dial_host || r->conn || r->dialling || r->resolving)
        return;
    if (soon) {
        dmt_timer_stop(r->dial_timer);
        r->dial_set = false;
        dial_now(r);
    } else if (!r->dial_set) {
        dial_later(r);
    }
}
