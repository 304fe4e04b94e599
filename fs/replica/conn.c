/* conn.c: one TCP connection: TLS through memory, frames in, frames out.
 *
 * Owns the socket, the TLS object and three buffers: plaintext that has arrived (in), encoded
 * frames that wait for encryption (ctl), and ciphertext that the kernel has not taken yet (out).
 * Happy path: connected -> TLS handshake -> preamble (who dials says whether this is a replica or a
 * ping channel) -> frames until the end. A dialled connection is a replica's at once; an accepted
 * one is read one TLS record at a time until its preamble is known, because a ping channel is
 * handed over with its socket and nothing of it may have been swallowed here.
 *
 * Writing keeps rule R6: only what the socket takes is asked for. As long as a write waits nothing
 * else is encoded; TCP_NOTSENT_LOWAT keeps what the kernel takes but has not sent small. Lanes are
 * asked for their next frame one at a time, by rank (replica_session_fill).
 *
 * Failure modes: anything that is not a frame, is too long, or is said out of turn closes the
 * connection; the reason is sent as BYE when the connection got so far. Memory: `in` holds at most
 * one frame and one read, `ctl` at most CONN_CTL_MAX, then the peer does not read and is dropped. A
 * connection is freed in its close callback; `closing` guards everything before that. Thread: loop.
 */
#include "fs/replica/int.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/log.h"

#define RECV_CHUNK (16u << 10)
#define PUMP_TURNS 16 /* frames written before other handles of the loop get their turn */

struct replica_conn *replica_conn_new(struct dmt_replica *r, bool dialled)
{
    struct replica_conn *c = calloc(1, sizeof(*c));
    DMT_ASSERT(c);
    c->r = r;
    c->dialled = dialled;
    c->born_ms = c->heard_ms = replica_now_ms(r);
    c->tcp.data = c;
    DMT_ASSERT(uv_tcp_init(r->uv, &c->tcp) == 0);
    r->handles++;
    dmt_list_add_tail(&r->conns, &c->node);
    return c;
}

/* --- end -------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *h)
{
    struct replica_conn *c = h->data;
    struct dmt_replica *r = c->r;
    dmt_tls_free(c->tls);
    dmt_buf_free(&c->in);
    dmt_buf_free(&c->ctl);
    dmt_buf_free(&c->out);
    free(c->record);
    free(c->peer_epochs);
    free(c);
    replica_handle_closed(r);
}

/* Takes the connection out of all books and closes its handle. */
static void detach(struct replica_conn *c, const char *why)
{
    struct dmt_replica *r = c->r;
    c->closing = true;
    dmt_list_del(&c->node);
    if (!c->dialled && !c->joined)
        r->pending_n--;
    uv_close((uv_handle_t *)&c->tcp, on_closed);
    bool was_dialling = r->dialling == c;
    if (was_dialling)
        r->dialling = NULL;
    if (r->conn == c)
        replica_session_closed(c, why);
    else if (was_dialling)
        replica_net_failed(r, why);
}

static int encrypt(struct replica_conn *c, const void *p, size_t n)
{
    if (!c->tls) {
        dmt_put_raw(&c->out, p, n);
        return c->out.bad ? -ENOMEM : 0;
    }
    int rc = dmt_tls_send(c->tls, p, n);
    return rc < 0 ? rc : dmt_tls_drain(c->tls, &c->out);
}

void replica_conn_close(struct replica_conn *c, int err, const char *text)
{
    if (c->closing)
        return;
    struct dmt_replica *r = c->r;
    char why[REPLICA_TEXT_MAX + 1];
    (void)snprintf(why, sizeof(why), "%s", text);
    if (err < 0 && c->secure && c->chosen && !c->writing && c->out_at == c->out.len) {
        /* Best effort, and only at a frame's boundary: the socket takes it now or never. */
        struct replica_msg m = {.type = REPLICA_BYE};
        m.BYE.code = (uint32_t)-err;
        m.BYE.epoch = r->core.seen;
        m.BYE.text = replica_span_of(why);
        dmt_buf_reset(&c->out);
        c->out_at = 0;
        struct dmt_buf bye;
        dmt_buf_init(&bye);
        replica_encode(&m, &bye);
        if (!bye.bad && encrypt(c, bye.p, bye.len) == 0) {
            uv_buf_t b = uv_buf_init((char *)c->out.p, (unsigned)c->out.len);
            (void)uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
        }
        dmt_buf_free(&bye);
    }
    if (c->hello_got || c->dialled || (err < 0 && err != DMT_E_CLOSED))
        (void)snprintf(r->last_error, sizeof(r->last_error), "%.191s", why);
    detach(c, why);
}

/* --- writing ---------------------------------------------------------------------------------- */

static void on_written(uv_write_t *req, int status)
{
    struct replica_conn *c = req->data;
    c->writing = false;
    if (c->closing)
        return;
    dmt_buf_reset(&c->out);
    c->out_at = 0;
    if (status < 0) {
        replica_conn_close(c, 0, uv_strerror(status));
        return;
    }
    replica_conn_pump(c);
}

/* 1 all is with the kernel, 0 a write is under way, < 0 closed. */
static int write_out(struct replica_conn *c)
{
    uv_buf_t b = uv_buf_init((char *)c->out.p + c->out_at, (unsigned)(c->out.len - c->out_at));
    int n = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
    if (n < 0 && n != UV_EAGAIN) {
        replica_conn_close(c, 0, uv_strerror(n));
        return n;
    }
    c->out_at += n > 0 ? (size_t)n : 0;
    if (c->out_at == c->out.len) {
        dmt_buf_reset(&c->out);
        c->out_at = 0;
        return 1;
    }
    b = uv_buf_init((char *)c->out.p + c->out_at, (unsigned)(c->out.len - c->out_at));
    c->write_req.data = c;
    n = uv_write(&c->write_req, (uv_stream_t *)&c->tcp, &b, 1, on_written);
    if (n < 0) {
        replica_conn_close(c, 0, uv_strerror(n));
        return n;
    }
    c->writing = true;
    return 0;
}

/* Puts the next bytes into `out`: control frames first, then one frame of the lanes. false: nothing
 * to say. */
static bool fill_out(struct replica_conn *c)
{
    if (!c->secure)
        return false;
    if (c->ctl.len == 0 && (c->r->conn != c || !replica_session_fill(c->r, &c->ctl)))
        return false;
    if (c->closing)
        return false; /* reading a lane can find a reason to hang up */
    int rc = c->ctl.bad ? -ENOMEM : encrypt(c, c->ctl.p, c->ctl.len);
    dmt_buf_reset(&c->ctl);
    if (rc < 0) {
        replica_conn_close(c, 0, dmt_strerror(rc));
        return false;
    }
    return true;
}

void replica_conn_pump(struct replica_conn *c)
{
    if (c->closing || !c->connected || c->writing)
        return;
    for (int i = 0; i < PUMP_TURNS; i++) {
        if (c->out_at == c->out.len && !fill_out(c))
            return;
        if (write_out(c) != 1)
            return;
    }
    uv_async_send(&c->r->poke);
}

void replica_conn_raw(struct replica_conn *c, const void *p, size_t n)
{
    if (c->closing)
        return;
    dmt_put_raw(&c->ctl, p, n);
    if (c->ctl.len > CONN_CTL_MAX || c->ctl.bad)
        replica_conn_close(c, 0, "the peer does not read what it asked for");
}

void replica_conn_send(struct replica_conn *c, const struct replica_msg *m)
{
    if (c->closing)
        return;
    replica_encode(m, &c->ctl);
    if (c->ctl.len > CONN_CTL_MAX || c->ctl.bad) {
        replica_conn_close(c, 0, "the peer does not read what it asked for");
        return;
    }
    replica_conn_pump(c);
}

/* --- reading: frames -------------------------------------------------------------------------- */

static void take_frames(struct replica_conn *c)
{
    size_t at = 0;
    while (!c->closing && !c->paused) {
        uint8_t type;
        uint32_t len;
        int rc = replica_head(c->in.p + at, c->in.len - at, &type, &len);
        if (rc == 0 || (rc == 1 && c->in.len - at < REPLICA_HEAD + len))
            break;
        struct replica_msg m;
        if (rc == 1 && !c->hello_got && type != REPLICA_HELLO && type != REPLICA_BYE)
            rc = DMT_E_CORRUPT; /* nothing else is even decoded before we know who it is */
        if (rc == 1)
            rc = replica_decode(type, c->in.p + at + REPLICA_HEAD, len, &m);
        if (rc < 0) {
            c->r->refused++;
            replica_conn_close(c, -EPROTO, "what came is not the replica protocol");
            break;
        }
        at += REPLICA_HEAD + len;
        replica_session_message(c, &m);
    }
    if (c->closing)
        return; /* the buffers go with the handle */
    if (at > 0) {
        memmove(c->in.p, c->in.p + at, c->in.len - at);
        c->in.len -= at;
    }
}

/* Gives the connection to the lease: its socket leaves libuv by a duplicate, so that closing our
 * handle does not end it. */
static void hand_over_ping(struct replica_conn *c)
{
    struct dmt_replica *r = c->r;
    uv_os_fd_t fd;
    int rc = uv_fileno((uv_handle_t *)&c->tcp, &fd);
    int own = rc == 0 ? dup(fd) : -1;
    struct dmt_tls *tls = c->tls;
    if (own >= 0 && tls)
        rc = dmt_tls_attach(tls, own);
    if (own < 0 || rc < 0 || c->in.len > 0 || c->writing || r->stopping) {
        if (own >= 0)
            close(own);
        replica_conn_close(c, 0, "the ping channel cannot be handed over");
        return;
    }
    c->tls = NULL;
    detach(c, "ping channel");
    r->conf.ops->ping_accepted(r->conf.ctx, tls, own);
}

static void take_preamble(struct replica_conn *c)
{
    if (c->in.len < DMT_REPLICA_PREAMBLE_LEN)
        return;
    if (memcmp(c->in.p, DMT_REPLICA_PREAMBLE, DMT_REPLICA_PREAMBLE_LEN) == 0) {
        c->chosen = true;
        c->in.len -= DMT_REPLICA_PREAMBLE_LEN;
        memmove(c->in.p, c->in.p + DMT_REPLICA_PREAMBLE_LEN, c->in.len);
        return;
    }
    if (memcmp(c->in.p, DMT_REPLICA_PING_PREAMBLE, DMT_REPLICA_PREAMBLE_LEN) == 0) {
        c->in.len = 0; /* exactly these 8 bytes: we read no more than that */
        hand_over_ping(c);
        return;
    }
    c->r->refused++;
    replica_conn_close(c, 0, "what came is not the replica protocol");
}

static void take_plain(struct replica_conn *c)
{
    if (!c->closing && !c->chosen)
        take_preamble(c);
    if (!c->closing && c->chosen)
        take_frames(c);
}

/* --- reading: TLS ----------------------------------------------------------------------------- */

static void become_secure(struct replica_conn *c)
{
    c->secure = true;
    if (c->tls)
        (void)snprintf(c->peer_name, sizeof(c->peer_name), "%s", dmt_tls_peer(c->tls));
    if (c->dialled) {
        c->chosen = true;
        replica_conn_raw(c, DMT_REPLICA_PREAMBLE, DMT_REPLICA_PREAMBLE_LEN);
        if (!c->closing)
            replica_hello_secure(c);
    }
}

static void shake_hands(struct replica_conn *c)
{
    struct dmt_err err = {0};
    int rc = dmt_tls_step(c->tls, &err);
    /* Also after a failure: the alert tells the peer why. */
    int drained = dmt_tls_drain(c->tls, &c->out);
    if (rc < 0) {
        c->r->refused++;
        if (drained == 0 && !c->writing && c->out.len > c->out_at) {
            uv_buf_t b =
                uv_buf_init((char *)c->out.p + c->out_at, (unsigned)(c->out.len - c->out_at));
            (void)uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
        }
        replica_event(c->r, "refused", "%s", err.msg);
        (void)snprintf(c->r->last_error, sizeof(c->r->last_error), "%.191s", err.msg);
        replica_conn_close(c, 0, err.msg);
        return;
    }
    if (rc == 1)
        become_secure(c);
    replica_conn_pump(c);
}

/* Ciphertext (or, with tls=off, plaintext) has arrived. */
static void take_bytes(struct replica_conn *c, const void *p, size_t n)
{
    if (!c->tls) {
        dmt_put_raw(&c->in, p, n);
        take_plain(c);
        return;
    }
    int rc = dmt_tls_feed(c->tls, p, n);
    if (rc == 0 && !c->secure)
        shake_hands(c);
    while (rc == 0 && !c->closing && c->secure) {
        /* Until the preamble is known not a byte more than it: what follows may be for the
         * lease. */
        size_t room = c->chosen ? RECV_CHUNK : DMT_REPLICA_PREAMBLE_LEN - c->in.len;
        uint8_t *dst = dmt_buf_reserve(&c->in, room);
        ssize_t got = dst ? dmt_tls_recv(c->tls, dst, room) : -ENOMEM;
        if (dst)
            c->in.len -= room - (got > 0 ? (size_t)got : 0);
        if (got <= 0) {
            rc = (int)got;
            break;
        }
        take_plain(c);
    }
    if (!c->closing && rc < 0) {
        if (rc == DMT_E_AUTH) {
            replica_event(c->r, "refused", "%s", dmt_tls_why(c->tls));
            (void)snprintf(c->r->last_error, sizeof(c->r->last_error), "%.191s",
                           dmt_tls_why(c->tls));
        }
        replica_conn_close(c, 0,
                           rc == DMT_E_CLOSED ? "the peer closed the connection"
                           : rc == DMT_E_AUTH ? dmt_tls_why(c->tls)
                                              : dmt_strerror(rc));
        return;
    }
    if (!c->closing)
        replica_conn_pump(c); /* TLS may owe an answer */
}

/* --- reading: socket -------------------------------------------------------------------------- */

/* How much may be read before the preamble is known: to the end of the TLS record under way, or of
 * the preamble. */
static size_t careful_room(const struct replica_conn *c)
{
    if (!c->tls)
        return DMT_REPLICA_PREAMBLE_LEN - c->in.len;
    if (c->record_n < 5)
        return 5 - c->record_n;
    size_t len = 5u + ((size_t)c->record[3] << 8 | c->record[4]);
    return len > CONN_TLS_RECORD_MAX || len <= c->record_n ? 0 : len - c->record_n;
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct replica_conn *c = h->data;
    (void)suggested;
    if (c->chosen) {
        *buf = uv_buf_init((char *)c->r->read_buf, CONN_READ_MAX);
        return;
    }
    if (!c->record) {
        c->record = malloc(CONN_TLS_RECORD_MAX);
        DMT_ASSERT(c->record);
    }
    *buf = uv_buf_init((char *)c->record + c->record_n, (unsigned)careful_room(c));
}

static void take_careful(struct replica_conn *c, size_t n)
{
    if (!c->tls) {
        take_bytes(c, c->record, n);
        return;
    }
    c->record_n += n;
    if (c->record_n < 5 || careful_room(c) > 0)
        return;
    size_t len = c->record_n;
    c->record_n = 0;
    take_bytes(c, c->record, len);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct replica_conn *c = s->data;
    if (c->closing)
        return;
    if (n == UV_ENOBUFS) { /* careful_room was 0: no such TLS record */
        c->r->refused++;
        replica_conn_close(c, 0, "what came is not TLS");
        return;
    }
    if (n < 0) {
        replica_conn_close(c, 0,
                           n == UV_EOF ? "the peer closed the connection" : uv_strerror((int)n));
        return;
    }
    if (n == 0)
        return;
    c->heard_ms = replica_now_ms(c->r);
    if (c->chosen)
        take_bytes(c, buf->base, (size_t)n);
    else
        take_careful(c, (size_t)n);
}

void replica_conn_pause(struct replica_conn *c, bool pause)
{
    if (c->closing || c->paused == pause)
        return;
    c->paused = pause;
    if (pause) {
        uv_read_stop((uv_stream_t *)&c->tcp);
        return;
    }
    c->heard_ms = replica_now_ms(c->r);
    take_frames(c);
    if (!c->closing && !c->paused && uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) < 0)
        replica_conn_close(c, 0, "cannot read from the socket");
}

static void set_frame_bytes(struct replica_conn *c, unsigned bytes)
{
    uv_os_fd_t fd;
    int lowat = (int)bytes;
    if (c->frame_bytes == bytes)
        return;
    c->frame_bytes = bytes; /* never 0 once it is connected: a frame of nothing would mean GONE */
    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) == 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
}

void replica_conn_tick(struct replica_conn *c)
{
    uv_os_fd_t fd;
    if (!c->closing && c->connected && uv_fileno((uv_handle_t *)&c->tcp, &fd) == 0)
        set_frame_bytes(c, replica_frame_bytes(fd, c->frame_bytes));
}

/* The socket is there, dialled or accepted. */
void replica_conn_connected(struct replica_conn *c)
{
    struct dmt_replica *r = c->r;
    c->connected = true;
    uv_tcp_nodelay(&c->tcp, 1);
    uv_tcp_keepalive(&c->tcp, 1, 5);
    set_frame_bytes(c, FRAME_BYTES_MAX);
    int rc = 0;
    struct dmt_err err = {0};
    if (r->conf.tls)
        rc = dmt_tls_new(&c->tls, r->conf.tls, -1, !c->dialled, &err);
    /* Who dials is sure of the protocol; who accepts finds out first (see on_alloc). */
    if (c->dialled)
        c->chosen = true;
    if (rc == 0)
        rc = uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    if (rc < 0) {
        replica_conn_close(c, 0, "cannot start the connection");
        return;
    }
    if (!c->tls)
        become_secure(c);
    else if (c->dialled)
        shake_hands(c);
}
