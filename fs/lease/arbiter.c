/* arbiter.c: the lease-arb thread: the connection to the controller.
 *
 * Owns that connection. Happy path: connect, mutual TLS, hello, then one line a request and one
 * line an answer; heartbeats go the same way; the controller may also tell the register and a word
 * of death unasked (docs/formats-lease.md). Failure modes: no connection or a broken one: a waiting
 * request is answered UNANSWERED (nothing is known about it: the core repeats it), and the
 * connection is tried again after 250 ms. A line that is not understood ends the connection.
 * Nothing here decides anything.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fs/base/hash.h"
#include "fs/base/log.h"
#include "fs/lease/internal.h"

#define CONNECT_MS   2000
#define SEND_MS      2000
#define RECONNECT_MS 250

struct link {
    struct dmt_lease *l;
    int fd; /* -1: none */
    struct dmt_tls *tls;
    struct dmt_buf in;
    bool warned;
    uint8_t lineage[16]; /* as its hello said */
};

static int send_line(struct link *k, json_t *v)
{
    char *s = v ? json_dumps(v, JSON_COMPACT) : NULL;
    json_decref(v);
    if (!s)
        return -ENOMEM;
    size_t n = strlen(s);
    s[n] = '\n';
    int r = dmt_tls_write(k->tls, s, n + 1, SEND_MS);
    free(s);
    return r;
}

static json_t *hello(struct link *k)
{
    struct dmt_lease *l = k->l;
    struct dmt_lineage now;
    char lineage[33];
    struct lease_id self = {0};
    json_t *past = json_array();
    strncpy(self.node, l->conf.node, sizeof(self.node) - 1);
    memcpy(self.store, l->conf.store_id, 16);
    dmt_lease_lineage(l, &now);
    memcpy(k->lineage, now.id, 16);
    for (uint32_t i = 0; i < now.past_n; i++) {
        dmt_hex(now.past[i], 16, lineage);
        json_array_append_new(past, json_string(lineage));
    }
    dmt_hex(now.id, 16, lineage);
    return json_pack("{s:s s:i s:s s:s s:s s:o s:o s:o}", "op", "hello", "v", LEASE_ARBITER_VERSION,
                     "kind", "workspace", "workspace", l->conf.workspace, "lineage", lineage, "id",
                     lease_id_json(&self), "instance", lease_u64_json(l->instance), "past", past);
}

static void set_up(struct dmt_lease *l, bool up)
{
    struct lease_event e = {.type = up ? LEASE_EV_ARB_UP : LEASE_EV_ARB_DOWN};
    pthread_mutex_lock(&l->arb.lock);
    bool change = l->arb.up != up;
    l->arb.up = up;
    pthread_mutex_unlock(&l->arb.lock);
    if (change)
        lease_post(l, &e);
}

static void hang_up(struct link *k)
{
    if (k->fd >= 0) {
        dmt_tls_free(k->tls);
        close(k->fd);
    }
    k->fd = -1;
    k->tls = NULL;
    dmt_buf_reset(&k->in);
    set_up(k->l, false);
}

static int connect_to(struct link *k)
{
    struct dmt_lease *l = k->l;
    struct dmt_err err = {0};
    k->fd = lease_connect(l->conf.arbiter_host, l->conf.arbiter_port, CONNECT_MS, &l->stop);
    if (k->fd < 0) {
        int r = k->fd;
        k->fd = -1;
        return r;
    }
    int r = dmt_tls_new(&k->tls, l->conf.tls, k->fd, false, &err);
    if (r == 0)
        r = dmt_tls_handshake(k->tls, CONNECT_MS, &err);
    if (r == 0)
        r = send_line(k, hello(k));
    if (r < 0) {
        hang_up(k);
        if (!k->warned && err.msg[0])
            dmt_warn("controller %s: %s", l->conf.arbiter_host, err.msg);
        k->warned = true;
        return r;
    }
    set_up(l, true);
    return 0;
}

/* The record on disk is of another lineage since the hello: what is asked on this connection would
 * be asked of the old one's register. */
static void introduce_again(struct link *k)
{
    struct dmt_lineage now;
    dmt_lease_lineage(k->l, &now);
    if (k->fd >= 0 && memcmp(now.id, k->lineage, 16) != 0)
        hang_up(k);
}

/* What waits: fails without a connection. */
static void serve_requests(struct link *k)
{
    struct dmt_lease *l = k->l;
    pthread_mutex_lock(&l->arb.lock);
    bool pending = l->arb.pending, beat = l->arb.beat;
    struct lease_ask ask = l->arb.ask;
    l->arb.pending = l->arb.beat = false;
    pthread_mutex_unlock(&l->arb.lock);
    int r = k->fd < 0 ? -ENOTCONN : 0;
    if (r == 0 && beat)
        r = send_line(k, json_pack("{s:s s:s s:o}", "op", "beat", "state",
                                   dmt_lease_state_name(dmt_lease_state(l)), "epoch",
                                   lease_u64_json(atomic_load(&l->epoch))));
    if (r == 0 && pending)
        r = send_line(k, lease_ask_json(&ask));
    if (r < 0 && pending) {
        struct lease_event e = {
            .type = LEASE_EV_ANSWER, .ask_id = ask.id, .answer = LEASE_UNANSWERED};
        lease_post(l, &e);
    }
    if (r < 0)
        hang_up(k);
}

static int on_answer(struct dmt_lease *l, const json_t *v)
{
    struct lease_event e = {.type = LEASE_EV_ANSWER};
    const char *why = json_string_value(json_object_get(v, "why"));
    e.ask_id = (uint64_t)json_integer_value(json_object_get(v, "re"));
    e.answer = json_is_true(json_object_get(v, "ok")) ? LEASE_GRANTED : LEASE_REFUSED;
    e.retry_ms = (uint32_t)json_integer_value(json_object_get(v, "retry_ms"));
    if (why)
        strncpy(e.text, why, sizeof(e.text) - 1);
    if (!lease_register_parse(json_object_get(v, "register"), &e.reg))
        return DMT_E_CORRUPT;
    lease_post(l, &e);
    return 0;
}

static int on_line(struct dmt_lease *l, const json_t *v)
{
    const char *ev = json_string_value(json_object_get(v, "ev"));
    struct lease_event e = {0};
    if (!ev)
        return on_answer(l, v);
    if (strcmp(ev, "register") == 0) {
        e.type = LEASE_EV_REGISTER;
        if (!lease_register_parse(json_object_get(v, "register"), &e.reg))
            return DMT_E_CORRUPT;
        lease_post(l, &e);
    } else if (strcmp(ev, "death") == 0) {
        e.type = LEASE_EV_DEATH;
        if (!lease_id_parse(json_object_get(v, "id"), &e.id) ||
            !lease_u64_parse(json_object_get(v, "instance"), &e.instance))
            return DMT_E_CORRUPT;
        lease_post(l, &e);
    }
    return 0; /* what a later controller may tell is none of our business */
}

/* Everything that has come. < 0: hang up. */
static int receive(struct link *k)
{
    for (;;) {
        char chunk[8192];
        ssize_t n = dmt_tls_read(k->tls, chunk, sizeof(chunk), 0);
        if (n == -ETIMEDOUT)
            return 0;
        if (n == DMT_E_AUTH && !k->warned) {
            dmt_warn("controller %s: %s", k->l->conf.arbiter_host, dmt_tls_why(k->tls));
            k->warned = true;
        }
        if (n <= 0)
            return n < 0 ? (int)n : DMT_E_CLOSED;
        dmt_put_raw(&k->in, chunk, (size_t)n);
        const uint8_t *nl;
        while (!k->in.bad && k->in.len && (nl = memchr(k->in.p, '\n', k->in.len))) {
            size_t len = (size_t)(nl - k->in.p);
            json_t *v = json_loadb((const char *)k->in.p, len, 0, NULL);
            memmove(k->in.p, nl + 1, k->in.len - len - 1);
            k->in.len -= len + 1;
            int r = json_is_object(v) ? on_line(k->l, v) : DMT_E_CORRUPT;
            k->warned = false;
            json_decref(v);
            if (r < 0)
                return r;
        }
        if (k->in.bad || k->in.len > LEASE_LINE_MAX)
            return DMT_E_CORRUPT;
    }
}

void *lease_arb_main(void *arg)
{
    struct dmt_lease *l = arg;
    struct link k = {.l = l, .fd = -1};
    dmt_buf_init(&k.in);
    while (!atomic_load(&l->stop)) {
        int wait_ms = 1000;
        introduce_again(&k);
        if (k.fd < 0 && connect_to(&k) < 0)
            wait_ms = RECONNECT_MS;
        serve_requests(&k);
        struct pollfd p[2] = {{.fd = l->arb.wake_fd, .events = POLLIN},
                              {.fd = k.fd, .events = POLLIN}};
        if (poll(p, 2, wait_ms) < 0 && errno != EINTR)
            break;
        if (p[0].revents) {
            eventfd_t v;
            (void)eventfd_read(l->arb.wake_fd, &v);
        }
        if (k.fd >= 0 && p[1].revents && receive(&k) < 0)
            hang_up(&k);
    }
    hang_up(&k);
    dmt_buf_free(&k.in);
    return NULL;
}
