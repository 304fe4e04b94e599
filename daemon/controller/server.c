/* server.c: the controller's life and its connections on port 7402.
 *
 * Owns the listening socket and a thread a connection (agents and workspace processes: a few per
 * machine). Happy path: accept, handshake, hello, lines until the end. The hello says what the peer
 * is; the certificate says who; who shows none may only join (join.c). Failure modes: a connection
 * that says nothing for HELLO_MS, breaks the format or whose certificate is not of our CA is
 * closed; the thread cleans up and everybody who waited for an answer of that agent gets an error.
 * Lock: ctl->lock around every line's effect; never around waiting for the network.
 */
#include <errno.h>
#include <netdb.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "daemon/controller/internal.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "fs/base/thread.h"
#include "fs/lease/arbiter.h"

#define HELLO_MS   5000
#define ROUND_MS   1000
#define CONNS_MAX  512
#define NEW_MAX    128 /* connections that have not said who they are, together */
#define FROM_MAX   32  /* and from one address */
#define GUEST_LINE (16 << 10)
#define LOG_BURST  10

uint64_t ctl_now(void)
{
    const struct dmt_clock *c = dmt_clock_real();
    return c->monotonic_ns(c->ctx);
}

/* --- agents --- */

static int agent_hello(struct ctl_conn *k)
{
    struct dmt_err err = {0};
    k->kind = CTL_AGENT;
    k->heard_ns = ctl_now();
    json_t *nodes = ctl_db_nodes(k->c->db), *n;
    bool known = false;
    size_t i;
    json_array_foreach(nodes, i, n)
    {
        const char *name = json_string_value(json_object_get(n, "name"));
        known |= name && strcmp(name, k->node) == 0;
    }
    json_decref(nodes);
    if (!known && ctl_db_node_set(k->c->db, k->node, "", "", "joined", &err) < 0)
        dmt_error("%s", err.msg);
    if (!known)
        (void)ctl_db_event(k->c->db, "", k->node, "node-joined", "its agent has connected", NULL);
    return 0;
}

static void agent_answer(struct ctl_conn *k, const json_t *v)
{
    uint64_t id = (uint64_t)json_integer_value(json_object_get(v, "re"));
    DMT_LIST_EACH(n, tmp, &k->c->waiters)
    {
        struct ctl_waiter *w = DMT_CONTAINER(n, struct ctl_waiter, link);
        if (w->id == id && w->conn == k && !w->answer)
            w->answer = json_deep_copy(v);
    }
    pthread_cond_broadcast(&k->c->answered);
}

/* What happened to a workspace process there; not answered if it could not be written, so that it
 * comes again. */
static void agent_event(struct ctl_conn *k, const json_t *v)
{
    struct dmt_err err = {0};
    const char *ws = json_string_value(json_object_get(v, "workspace"));
    uint64_t instance = 0;
    struct ctl_told e = {.n = json_integer_value(json_object_get(v, "n")),
                         .at_ns = json_integer_value(json_object_get(v, "at_ns")),
                         .kind = json_string_value(json_object_get(v, "kind")),
                         .text = json_string_value(json_object_get(v, "text"))};
    if (!ws || !e.kind || !e.text || !lease_u64_parse(json_object_get(v, "instance"), &instance))
        return;
    if (ctl_db_node_event(k->c->db, ws, k->node, instance, &e, &err) < 0)
        dmt_error("%s", err.msg);
    else
        tlsline_send(k->line,
                     json_pack("{s:s s:s s:o s:I}", "ev", "taken", "workspace", ws, "instance",
                               lease_u64_json(instance), "n", (json_int_t)e.n));
}

static int agent_line(struct ctl_conn *k, const json_t *v)
{
    const char *op = json_string_value(json_object_get(v, "op"));
    k->heard_ns = ctl_now();
    if (json_object_get(v, "re")) {
        agent_answer(k, v);
    } else if (op && strcmp(op, "status") == 0) {
        json_decref(k->status);
        k->status = json_deep_copy(v);
    } else if (op && strcmp(op, "death") == 0) {
        ctl_on_death(k, v);
    } else if (op && strcmp(op, "event") == 0) {
        agent_event(k, v);
    } else if (op && strcmp(op, "renew") == 0) {
        ctl_renew(k, v);
    }
    return 0;
}

/* --- connections --- */

static int on_line(void *ctx, const json_t *v)
{
    struct ctl_conn *k = ctx;
    const char *op = json_string_value(json_object_get(v, "op"));
    int r = -EBADMSG;
    pthread_mutex_lock(&k->c->lock);
    if (k->kind == CTL_WORKSPACE) {
        r = ctl_workspace_line(k, v);
    } else if (k->kind == CTL_AGENT) {
        r = agent_line(k, v);
    } else if (k->node[0] == '\0') {
        r = ctl_guest_line(k, v);
    } else if (op && strcmp(op, "hello") == 0) {
        const char *kind = json_string_value(json_object_get(v, "kind"));
        if (kind && strcmp(kind, "workspace") == 0)
            r = ctl_workspace_hello(k, v);
        else if (kind && strcmp(kind, "agent") == 0)
            r = agent_hello(k);
    }
    pthread_mutex_unlock(&k->c->lock);
    return r;
}

static void conn_end(struct ctl_conn *k)
{
    struct ctl *c = k->c;
    pthread_mutex_lock(&c->lock);
    dmt_list_del(&k->link);
    DMT_LIST_EACH(n, tmp, &c->waiters)
    {
        struct ctl_waiter *w = DMT_CONTAINER(n, struct ctl_waiter, link);
        if (w->conn == k)
            w->conn = NULL;
    }
    pthread_cond_broadcast(&c->answered);
    pthread_mutex_unlock(&c->lock);
    tlsline_free(k->line);
    json_decref(k->status);
    free(k);
    OPENSSL_thread_stop(); /* what this thread has there is freed before the process may end */
    pthread_mutex_lock(&c->lock);
    c->conns_n--;
    pthread_cond_signal(&c->idle);
    pthread_mutex_unlock(&c->lock);
}

static void *conn_main(void *arg)
{
    struct ctl_conn *k = arg;
    struct ctl *c = k->c;
    struct dmt_err err = {0};
    struct tlsline *line = NULL;
    uint64_t start = ctl_now();
    int r = tlsline_open(&line, c->tls, k->fd, true, HELLO_MS, &err);
    if (r < 0) {
        pthread_mutex_lock(&c->lock);
        bool say = ctl_take(&c->logged, LOG_BURST);
        pthread_mutex_unlock(&c->lock);
        if (say)
            dmt_warn("connection from %s refused: %s", k->from, err.msg);
    } else {
        pthread_mutex_lock(&c->lock);
        k->line = line;
        (void)snprintf(k->node, sizeof(k->node), "%s", tlsline_peer(line));
        if (k->node[0] == '\0')
            tlsline_limit(line, GUEST_LINE);
        pthread_mutex_unlock(&c->lock);
    }
    while (r == 0 && !atomic_load(&c->stop)) {
        r = tlsline_run(line, ROUND_MS, on_line, k);
        if (k->kind == CTL_NEW && ctl_now() - start > HELLO_MS * DMT_MS)
            r = -ETIMEDOUT;
    }
    if (k->kind == CTL_AGENT)
        dmt_info("agent of %s: connection ended: %s", k->node, tlsline_why(line, r));
    conn_end(k);
    return NULL;
}

/* Whether there is room for one more that nobody knows yet. Under the lock. */
static bool has_room(struct ctl *c, const char *from)
{
    int fresh = 0, same = 0;
    DMT_LIST_EACH(n, tmp, &c->conns)
    {
        const struct ctl_conn *k = DMT_CONTAINER(n, struct ctl_conn, link);
        fresh += k->kind == CTL_NEW;
        same += k->kind == CTL_NEW && strcmp(k->from, from) == 0;
    }
    return c->conns_n < CONNS_MAX && fresh < NEW_MAX && same < FROM_MAX;
}

static void accept_one(struct ctl *c)
{
    struct sockaddr_storage ss;
    socklen_t ss_len = sizeof(ss);
    int fd = accept4(c->listen_fd, (struct sockaddr *)&ss, &ss_len, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct ctl_conn *k = calloc(1, sizeof(*k));
    pthread_t t;
    if (!k) {
        close(fd);
        return;
    }
    k->c = c;
    k->fd = fd;
    if (getnameinfo((struct sockaddr *)&ss, ss_len, k->from, sizeof(k->from), NULL, 0,
                    NI_NUMERICHOST) != 0)
        (void)snprintf(k->from, sizeof(k->from), "?");
    pthread_mutex_lock(&c->lock);
    bool room = has_room(c, k->from);
    if (room) {
        c->conns_n++;
        dmt_list_add_tail(&c->conns, &k->link);
    }
    pthread_mutex_unlock(&c->lock);
    if (room && dmt_thread_start(&t, "ctl-conn", conn_main, k) == 0) {
        pthread_detach(t);
        return;
    }
    close(fd);
    if (room)
        conn_end(k);
    else
        free(k);
}

static void *accept_main(void *arg)
{
    struct ctl *c = arg;
    while (!atomic_load(&c->stop)) {
        struct pollfd p = {.fd = c->listen_fd, .events = POLLIN};
        if (poll(&p, 1, 200) > 0)
            accept_one(c);
        ctl_own_certificate(c);
    }
    return NULL;
}

/* --- life --- */

int ctl_start(struct ctl **ret, const struct ctl_conf *conf, struct dmt_err *err)
{
    struct ctl *c = calloc(1, sizeof(*c));
    if (!c)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&c->answered, &ca);
    pthread_cond_init(&c->idle, &ca);
    dmt_list_init(&c->conns);
    dmt_list_init(&c->heard);
    dmt_list_init(&c->waiters);
    c->tls = conf->tls;
    c->cert_life_s = conf->cert_life_s;
    (void)snprintf(c->ca, sizeof(c->ca), "%s", conf->ca ? conf->ca : "");
    (void)snprintf(c->ca_key, sizeof(c->ca_key), "%s", conf->ca_key ? conf->ca_key : "");
    dmt_tls_ctx_admit_guests(c->tls);
    c->listen_fd = -1;
    int r = ctl_db_open(&c->db, conf->db, err);
    if (r == 0) {
        c->listen_fd = tlsline_listen(conf->listen, err);
        r = c->listen_fd < 0 ? c->listen_fd : 0;
    }
    if (r == 0) {
        r = dmt_thread_start(&c->accept_thread, "ctl-accept", accept_main, c);
        if (r < 0)
            dmt_err_set(err, r, "cannot start a thread");
    }
    if (r < 0) {
        if (c->listen_fd >= 0)
            close(c->listen_fd);
        ctl_db_close(c->db);
        free(c);
        return r;
    }
    *ret = c;
    return 0;
}

void ctl_stop(struct ctl *c)
{
    if (!c)
        return;
    atomic_store(&c->stop, true);
    pthread_join(c->accept_thread, NULL);
    close(c->listen_fd);
    pthread_mutex_lock(&c->lock);
    DMT_LIST_EACH(n, tmp, &c->conns)
    {
        struct ctl_conn *k = DMT_CONTAINER(n, struct ctl_conn, link);
        if (k->line)
            tlsline_wake(k->line);
    }
    while (c->conns_n > 0)
        pthread_cond_wait(&c->idle, &c->lock);
    DMT_LIST_EACH(n, tmp, &c->heard) free(DMT_CONTAINER(n, struct ctl_heard, link));
    pthread_mutex_unlock(&c->lock);
    ctl_db_close(c->db);
    free(c);
}

/* --- commands --- */

/* The newest: that of a machine which is gone may stay open until its silence is noticed. */
static struct ctl_conn *agent_of(struct ctl *c, const char *node)
{
    struct ctl_conn *newest = NULL;
    DMT_LIST_EACH(n, tmp, &c->conns)
    {
        struct ctl_conn *k = DMT_CONTAINER(n, struct ctl_conn, link);
        if (k->kind == CTL_AGENT && strcmp(k->node, node) == 0)
            newest = k;
    }
    return newest;
}

static int take_answer(json_t *answer, json_t **ret, struct dmt_err *err)
{
    json_t *result = json_object_get(answer, "result");
    int r = 0;
    if (result) {
        *ret = json_incref(result);
    } else {
        const json_t *e = json_object_get(answer, "error");
        const char *msg = json_string_value(json_object_get(e, "message"));
        const char *hint = json_string_value(json_object_get(e, "hint"));
        json_int_t code = json_integer_value(json_object_get(e, "code"));
        r = code < 0 && code > -5000 ? (int)code : -EIO;
        dmt_err_set(err, r, "%s", msg ? msg : "the agent gave no reason");
        if (hint)
            dmt_err_hint(err, "%s", hint);
    }
    json_decref(answer);
    return r;
}

int ctl_command(struct ctl *c, const char *node, json_t *request, int timeout_ms, json_t **ret,
                struct dmt_err *err)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000 + 1;
    pthread_mutex_lock(&c->lock);
    struct ctl_waiter w = {.id = ++c->next_id, .conn = agent_of(c, node)};
    if (!w.conn) {
        pthread_mutex_unlock(&c->lock);
        json_decref(request);
        return dmt_err_set(err, -EHOSTDOWN, "the agent of %s is not connected", node);
    }
    json_object_set_new(request, "id", json_integer((json_int_t)w.id));
    dmt_list_add_tail(&c->waiters, &w.link);
    tlsline_send(w.conn->line, request);
    while (!w.answer && w.conn &&
           pthread_cond_timedwait(&c->answered, &c->lock, &until) != ETIMEDOUT)
        ;
    dmt_list_del(&w.link);
    bool gone = !w.conn;
    pthread_mutex_unlock(&c->lock);
    if (w.answer)
        return take_answer(w.answer, ret, err);
    return gone ? dmt_err_set(err, -EHOSTDOWN, "the agent of %s went away meanwhile", node)
                : dmt_err_set(err, -ETIMEDOUT, "the agent of %s does not answer", node);
}
