/* ping.c: the ping channel: a stream of its own between the two workspace processes, so that a
 * queue of data never delays a heartbeat.
 *
 * Owns the channels (lease thread) and the dialling of one (thread lease-dial). Either side dials;
 * after both hellos it does not matter who did. A frame is u16 length, u8 kind, fields
 * (docs/formats-lease.md). Happy path: hello, then PING and PONG. The newest channel with a hello
 * is the one we send on. Failure modes: a channel that fails, breaks the format, belongs to another
 * lineage or is silent for 5 s is dropped and, if ours, dialled again; nothing is concluded from
 * that (F19). A send that cannot go at once (full socket) drops the channel too: a late ping is
 * worth less than a new connection. TCP_USER_TIMEOUT bounds what a dead link can hold back.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/base/log.h"
#include "fs/lease/internal.h"

#define HELLO           0u
#define KEEPALIVE       255u
#define VERSION         1u
#define FRAME_MAX       512u
#define SILENCE_NS      (5 * DMT_S)
#define KEEPALIVE_NS    (1 * DMT_S)
#define SEND_MS         20
#define USER_TIMEOUT_MS 2000
#define DIAL_MS         2000
#define REDIAL_MS       200

/* --- sockets --- */

static int connect_one(const struct addrinfo *ai, int timeout_ms, atomic_bool *stop)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int on = 1, ms = USER_TIMEOUT_MS;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
    int r = connect(fd, ai->ai_addr, ai->ai_addrlen) < 0 ? -errno : 0;
    for (int left = timeout_ms; r == -EINPROGRESS && left > 0 && !atomic_load(stop); left -= 50) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        if (poll(&p, 1, 50) > 0) {
            socklen_t n = sizeof(r);
            if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &r, &n) < 0)
                r = errno;
            r = -r;
        }
    }
    if (r == -EINPROGRESS)
        r = -ETIMEDOUT;
    if (r < 0)
        close(fd);
    return r < 0 ? r : fd;
}

int lease_connect(const char *host, uint16_t port, int timeout_ms, atomic_bool *stop)
{
    char service[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    (void)snprintf(service, sizeof(service), "%u", port);
    if (getaddrinfo(host, service, &hints, &list) != 0)
        return -EHOSTUNREACH;
    int fd = -EHOSTUNREACH;
    for (struct addrinfo *ai = list; ai && fd < 0 && !atomic_load(stop); ai = ai->ai_next)
        fd = connect_one(ai, timeout_ms, stop);
    freeaddrinfo(list);
    return fd;
}

/* --- frames --- */

static void drop(struct dmt_lease *l, struct lease_channel *c)
{
    if (c->dialled) {
        pthread_mutex_lock(&l->lock);
        l->dialled = false;
        pthread_cond_signal(&l->dial_cond);
        pthread_mutex_unlock(&l->lock);
    }
    if (l->current == (int)(c - l->chan))
        l->current = -1;
    dmt_tls_free(c->tls);
    close(c->fd);
    dmt_buf_free(&c->in);
    memset(c, 0, sizeof(*c));
    c->fd = -1;
}

static int send_frame(struct dmt_lease *l, struct lease_channel *c, const struct dmt_buf *body)
{
    uint8_t frame[2 + FRAME_MAX];
    DMT_ASSERT(!body->bad && body->len <= FRAME_MAX);
    dmt_st16(frame, (uint16_t)body->len);
    memcpy(frame + 2, body->p, body->len);
    c->said_ns = lease_now(l);
    if (c->tls)
        return dmt_tls_write(c->tls, frame, body->len + 2, SEND_MS);
    ssize_t n = send(c->fd, frame, body->len + 2, MSG_NOSIGNAL | MSG_DONTWAIT);
    return n == (ssize_t)body->len + 2 ? 0 : -EIO;
}

static int send_hello(struct dmt_lease *l, struct lease_channel *c)
{
    struct dmt_buf b;
    struct dmt_lineage lineage;
    dmt_lease_lineage(l, &lineage);
    dmt_buf_init(&b);
    dmt_put_u8(&b, HELLO);
    dmt_put_u32(&b, VERSION);
    dmt_put_str(&b, l->conf.workspace);
    dmt_put_raw(&b, lineage.id, 16);
    dmt_put_str(&b, l->conf.node);
    dmt_put_raw(&b, l->conf.store_id, 16);
    dmt_put_u64(&b, l->instance);
    int r = send_frame(l, c, &b);
    dmt_buf_free(&b);
    return r;
}

/* Asked of each message, too: a force, or a resync into another lineage, may come while a channel
 * is open. A new standby learns it later. Two of one family: the replica's connection tells who is
 * over. */
static bool same_lineage(struct dmt_lease *l, const uint8_t *lineage)
{
    struct dmt_lineage ours;
    static const uint8_t none[16];
    dmt_lease_lineage(l, &ours);
    return memcmp(lineage, ours.id, 16) == 0 || memcmp(lineage, none, 16) == 0 ||
           !dmt_lineage_known(&ours);
}

void lease_ping_send(struct dmt_lease *l, const struct lease_msg *m)
{
    if (l->current < 0)
        return;
    struct lease_channel *c = &l->chan[l->current];
    struct dmt_buf b;
    if (!same_lineage(l, c->lineage)) {
        drop(l, c);
        return;
    }
    dmt_buf_init(&b);
    lease_msg_encode(m, &b);
    if (send_frame(l, c, &b) < 0)
        drop(l, c);
    dmt_buf_free(&b);
}

static int on_hello(struct dmt_lease *l, struct lease_channel *c, const uint8_t *p, size_t n)
{
    char ws[DMT_WS_NAME_MAX + 1];
    struct dmt_cur cur = dmt_cur_of(p, n);
    (void)dmt_get_u8(&cur);
    uint32_t version = dmt_get_u32(&cur);
    dmt_get_str(&cur, ws, sizeof(ws));
    const uint8_t *lineage = dmt_get_raw(&cur, 16);
    dmt_get_str(&cur, c->peer.node, sizeof(c->peer.node));
    const uint8_t *store = dmt_get_raw(&cur, 16);
    c->instance = dmt_get_u64(&cur);
    if (dmt_cur_end(&cur) < 0 || version != VERSION || !lineage || !store)
        return DMT_E_VERSION;
    memcpy(c->peer.store, store, 16);
    memcpy(c->lineage, lineage, 16);
    if (strcmp(ws, l->conf.workspace) != 0 || !same_lineage(l, lineage) ||
        (c->tls && strcmp(c->peer.node, dmt_tls_peer(c->tls)) != 0) ||
        strcmp(c->peer.node, l->conf.node) == 0) {
        dmt_warn("ping channel refused: %s is not our peer in workspace %s", c->peer.node,
                 l->conf.workspace);
        return DMT_E_AUTH;
    }
    c->known = true;
    l->current = (int)(c - l->chan);
    return 0;
}

static int on_frame(struct dmt_lease *l, struct lease_channel *c, const uint8_t *p, size_t n,
                    void (*fn)(struct dmt_lease *l, const struct lease_event *e))
{
    if (n == 1 && p[0] == KEEPALIVE)
        return 0;
    if (n > 0 && p[0] == HELLO)
        return c->known ? DMT_E_CORRUPT : on_hello(l, c, p, n);
    struct lease_event e = {.type = LEASE_EV_MSG};
    int r = c->known ? lease_msg_decode(p, n, &e.msg) : DMT_E_CORRUPT;
    if (r == 0 && !same_lineage(l, c->lineage))
        r = DMT_E_STALE; /* ours is another since */
    if (r < 0)
        return r;
    e.msg.from = c->peer;
    e.msg.instance = c->instance;
    fn(l, &e);
    return 0;
}

static ssize_t read_some(struct lease_channel *c, uint8_t *buf, size_t size)
{
    ssize_t n;
    if (c->tls) {
        n = dmt_tls_read(c->tls, buf, size, 0);
        return n == -ETIMEDOUT ? -EAGAIN : n;
    }
    n = recv(c->fd, buf, size, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

/* Takes everything that has come. 0, or < 0: drop the channel. */
static int receive(struct dmt_lease *l, struct lease_channel *c,
                   void (*fn)(struct dmt_lease *l, const struct lease_event *e))
{
    for (;;) {
        uint8_t chunk[4096];
        ssize_t n = read_some(c, chunk, sizeof(chunk));
        if (n == -EAGAIN || n == -EINTR)
            return 0;
        if (n <= 0)
            return n < 0 ? (int)n : DMT_E_CLOSED;
        c->heard_ns = lease_now(l);
        dmt_put_raw(&c->in, chunk, (size_t)n);
        size_t used = 0;
        while (!c->in.bad && c->in.len - used >= 2) {
            size_t len = dmt_le16(c->in.p + used);
            if (len == 0 || len > FRAME_MAX)
                return DMT_E_CORRUPT;
            if (c->in.len - used < 2 + len)
                break;
            int r = on_frame(l, c, c->in.p + used + 2, len, fn);
            /* The answer to it may have found the channel dead and dropped it. */
            if (r < 0 || c->fd < 0)
                return c->fd < 0 ? 0 : r;
            used += 2 + len;
        }
        if (c->in.bad)
            return -ENOMEM;
        memmove(c->in.p, c->in.p + used, c->in.len - used);
        c->in.len -= used;
    }
}

/* --- the lease thread's part --- */

static void take_new(struct dmt_lease *l)
{
    for (;;) {
        pthread_mutex_lock(&l->lock);
        struct lease_channel c = {.fd = -1};
        if (l->handed_n > 0)
            c = l->handed[--l->handed_n];
        pthread_mutex_unlock(&l->lock);
        if (c.fd < 0)
            return;
        int slot = -1, oldest = 0;
        for (int i = 0; i < LEASE_CHANNELS_MAX; i++) {
            if (l->chan[i].fd < 0)
                slot = i;
            if (l->chan[i].heard_ns < l->chan[oldest].heard_ns)
                oldest = i;
        }
        if (slot < 0) {
            drop(l, &l->chan[oldest]);
            slot = oldest;
        }
        l->chan[slot] = c;
        dmt_buf_init(&l->chan[slot].in);
        l->chan[slot].heard_ns = lease_now(l);
        if (send_hello(l, &l->chan[slot]) < 0)
            drop(l, &l->chan[slot]);
    }
}

int lease_ping_poll(struct dmt_lease *l, struct pollfd *p)
{
    int n = 0;
    for (int i = 0; i < LEASE_CHANNELS_MAX; i++)
        if (l->chan[i].fd >= 0)
            p[n++] = (struct pollfd){.fd = l->chan[i].fd, .events = POLLIN};
    return n;
}

void lease_ping_run(struct dmt_lease *l,
                    void (*fn)(struct dmt_lease *l, const struct lease_event *e))
{
    bool was_up = l->current >= 0;
    take_new(l);
    for (int i = 0; i < LEASE_CHANNELS_MAX; i++) {
        struct lease_channel *c = &l->chan[i];
        if (c->fd < 0)
            continue;
        uint64_t now = lease_now(l);
        int r = receive(l, c, fn);
        if (c->fd >= 0 && (r < 0 || now > c->heard_ns + SILENCE_NS))
            drop(l, c);
        if (c->fd >= 0 && now > c->said_ns + KEEPALIVE_NS) {
            struct dmt_buf b;
            dmt_buf_init(&b);
            dmt_put_u8(&b, KEEPALIVE);
            if (send_frame(l, c, &b) < 0)
                drop(l, c);
            dmt_buf_free(&b);
        }
    }
    for (int i = 0; l->current < 0 && i < LEASE_CHANNELS_MAX; i++)
        if (l->chan[i].fd >= 0 && l->chan[i].known)
            l->current = i;
    bool is_up = l->current >= 0;
    struct lease_event e = {.type = is_up ? LEASE_EV_PING_UP : LEASE_EV_PING_DOWN};
    if (is_up != was_up)
        fn(l, &e);
}

void lease_ping_close(struct dmt_lease *l)
{
    for (int i = 0; i < LEASE_CHANNELS_MAX; i++)
        if (l->chan[i].fd >= 0)
            drop(l, &l->chan[i]);
    pthread_mutex_lock(&l->lock); /* another thread may just be handing one over */
    for (int i = 0; i < l->handed_n; i++) {
        dmt_tls_free(l->handed[i].tls);
        close(l->handed[i].fd);
    }
    l->handed_n = 0;
    pthread_mutex_unlock(&l->lock);
}

/* --- from other threads --- */

static void hand_over(struct dmt_lease *l, const struct lease_channel *c)
{
    pthread_mutex_lock(&l->lock);
    bool room = l->handed_n < LEASE_CHANNELS_MAX && !atomic_load(&l->stop);
    if (room)
        l->handed[l->handed_n++] = *c;
    if (room && c->dialled)
        l->dialled = true;
    pthread_mutex_unlock(&l->lock);
    if (room) {
        lease_wake(l->wake_fd);
    } else {
        dmt_tls_free(c->tls);
        close(c->fd);
    }
}

void dmt_lease_accept_ping(struct dmt_lease *l, struct dmt_tls *tls, int fd)
{
    struct lease_channel c = {.fd = fd, .tls = tls};
    int on = 1, ms = USER_TIMEOUT_MS;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
    hand_over(l, &c);
}

void dmt_lease_dial(struct dmt_lease *l, const char *host, uint16_t port)
{
    char *copy = host ? strdup(host) : NULL;
    pthread_mutex_lock(&l->lock);
    free(l->dial_host);
    l->dial_host = copy;
    l->dial_port = port;
    pthread_cond_signal(&l->dial_cond);
    pthread_mutex_unlock(&l->lock);
}

static void dial_once(struct dmt_lease *l, const char *host, uint16_t port)
{
    struct lease_channel c = {.dialled = true};
    c.fd = lease_connect(host, port, DIAL_MS, &l->stop);
    if (c.fd < 0)
        return;
    int r = 0;
    if (l->conf.tls) {
        r = dmt_tls_new(&c.tls, l->conf.tls, c.fd, false, NULL);
        if (r == 0)
            r = dmt_tls_handshake(c.tls, DIAL_MS, NULL);
        if (r == 0)
            r = dmt_tls_write(c.tls, DMT_LEASE_PREAMBLE, DMT_LEASE_PREAMBLE_LEN, DIAL_MS);
    } else if (send(c.fd, DMT_LEASE_PREAMBLE, DMT_LEASE_PREAMBLE_LEN, MSG_NOSIGNAL) !=
               DMT_LEASE_PREAMBLE_LEN) {
        r = -EIO;
    }
    if (r < 0) {
        dmt_tls_free(c.tls);
        close(c.fd);
        return;
    }
    hand_over(l, &c);
}

void *lease_dial_main(void *arg)
{
    struct dmt_lease *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!atomic_load(&l->stop)) {
        if (l->dial_host && !l->dialled) {
            char *host = strdup(l->dial_host);
            uint16_t port = l->dial_port;
            pthread_mutex_unlock(&l->lock);
            if (host)
                dial_once(l, host, port);
            free(host);
            pthread_mutex_lock(&l->lock);
        }
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += REDIAL_MS * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (!atomic_load(&l->stop))
            pthread_cond_timedwait(&l->dial_cond, &l->lock, &until);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}
