/* relay.c: a TCP relay that misbehaves on order, for the tests of everything that talks over a
 * network.
 *
 *   relay [ADDR:]PORT HOST:PORT CONTROL [http]     relays; PORT 0 picks a free one. HOST is a
 * numeric IPv4 address relay -c CONTROL WORD...                       sends one command to a
 * running relay, prints its answer
 *
 * Owns: the listening socket, all relayed connections, the control socket (a Unix socket; when it
 * exists, the relay serves). One thread, one poll loop. Each connection has two directions (up =
 * client to target, down = back), each a queue of chunks with the moment they are due. A link model
 * per direction, shared by all connections as a real link is: bytes leave at `rate` and arrive
 * `delay` later; the relay reads only while the link's transmit queue is shorter than QUEUE_NS, so
 * that the senders feel the bottleneck and the relay is no hidden buffer.
 *
 * Commands (each answers "ok ..." or "error ..."):
 *   pass                    clears every fault, delay and rate below
 *   delay MS [up|down]      one-way delay (both directions unless named)
 *   rate BYTES [up|down]    bytes a second; 0 = no limit
 *   cut                     resets (RST) all connections now
 *   cut-up N | cut-down N   after N more bytes in that direction the connection that carries them
 * is reset; once. `cut-down 0` = the request arrives, its answer is lost refuse resets all
 * connections and stops listening blackhole               nothing moves any more, nothing is
 * closed; `pass` goes on from there answer STATUS COUNT CODE [RETRY_AFTER]   (http) the next COUNT
 * requests are answered here: an S3 error body with CODE truncate N COUNT        (http) of the next
 * COUNT answers to GET only N bytes of the body pass, then an orderly close lose METHOD COUNT
 * (http) the next COUNT requests of METHOD arrive, their answers become a reset port | stats | quit
 *
 * Failure modes: a target that refuses gives the client a reset. Bad arguments end the program
 * with 2. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CONN_MAX  256
#define CHUNK_MAX 16384u
#define HEAD_MAX  32768u
#define QUEUE_NS  10000000ull
#define HELD_MAX  (64u << 20) /* bytes under way in one direction of one connection */
#define LINK_RCVBUF \
    (32 << 10) /* of sockets in front of a link with a rate; the kernel doubles it */
#define FOREVER UINT64_MAX

enum { UP, DOWN };

struct chunk {
    struct chunk *next;
    uint64_t due_ns;
    size_t len, off;
    uint8_t data[];
};

struct flow {
    struct chunk *first, **last;
    size_t held;
    bool eof_in, eof_out;  /* source ended; the end was passed on */
    bool kill_when_empty;  /* reset the connection once the queue is out */
    bool close_when_empty; /* orderly end once the queue is out */
    /* http: the message being read */
    uint8_t *head;
    size_t head_len;
    uint64_t body_left;
    bool in_body, swallow, cut_body;
};

struct conn {
    int fd[2]; /* [UP] = client, [DOWN] = target: bytes of flow f come from fd[f] and go to fd[!f]
                */
    bool used, connecting;
    bool get;  /* http: the last request was a GET */
    bool lose; /* http: its answer is to be lost */
    struct flow flow[2];
};

static struct {
    struct sockaddr_in listen_at, target;
    int listener, control;
    bool http, blackhole, refuse, quit;
    uint64_t delay_ns[2], rate[2], link_free_ns[2];
    uint64_t cut_left[2];
    int answer_status, answer_count;
    long answer_retry_after;
    char answer_code[64];
    uint64_t truncate_bytes;
    int truncate_count;
    char lose_method[16];
    int lose_count;
    uint64_t connections, requests, answered, bytes[2];
    struct conn conn[CONN_MAX];
} relay;

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void flow_clear(struct flow *f)
{
    while (f->first) {
        struct chunk *c = f->first;
        f->first = c->next;
        free(c);
    }
    free(f->head);
    memset(f, 0, sizeof(*f));
    f->last = &f->first;
}

static void conn_close(struct conn *c, bool reset)
{
    struct linger l = {.l_onoff = 1, .l_linger = 0};
    for (int i = 0; i < 2; i++) {
        if (reset)
            setsockopt(c->fd[i], SOL_SOCKET, SO_LINGER, &l, sizeof(l));
        close(c->fd[i]);
        flow_clear(&c->flow[i]);
    }
    c->used = false;
}

static void cut_all(void)
{
    for (int i = 0; i < CONN_MAX; i++)
        if (relay.conn[i].used)
            conn_close(&relay.conn[i], true);
}

static int listen_open(void)
{
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&relay.listen_at, sizeof(relay.listen_at)) < 0 ||
        listen(fd, 64) < 0)
        die("listen");
    socklen_t n = sizeof(relay.listen_at);
    getsockname(fd, (struct sockaddr *)&relay.listen_at, &n);
    return fd;
}

/* What the kernel would take from a sender ahead of the link is a queue that no link has. */
static void conn_shape(const struct conn *c)
{
    int n = LINK_RCVBUF;
    for (int i = 0; i < 2; i++)
        if (relay.rate[i])
            setsockopt(c->fd[i], SOL_SOCKET, SO_RCVBUF, &n, sizeof(n));
}

static void conn_accept(void)
{
    int one = 1;
    int fd = accept4(relay.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct conn *c = NULL;
    for (int i = 0; i < CONN_MAX && !c; i++)
        if (!relay.conn[i].used)
            c = &relay.conn[i];
    if (!c) {
        close(fd);
        return;
    }
    memset(c, 0, sizeof(*c));
    flow_clear(&c->flow[UP]);
    flow_clear(&c->flow[DOWN]);
    c->used = true;
    c->connecting = true;
    c->fd[UP] = fd;
    c->fd[DOWN] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    relay.connections++;
    setsockopt(c->fd[UP], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(c->fd[DOWN], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    conn_shape(c);
    if (connect(c->fd[DOWN], (struct sockaddr *)&relay.target, sizeof(relay.target)) < 0 &&
        errno != EINPROGRESS)
        conn_close(c, true);
}

/* Queues bytes on a flow through the link model. */
static void flow_put(struct conn *c, int dir, const void *p, size_t n)
{
    struct flow *f = &c->flow[dir];
    if (f->kill_when_empty || f->close_when_empty)
        return;
    if (relay.cut_left[dir] != FOREVER) {
        if (n >= relay.cut_left[dir]) {
            n = (size_t)relay.cut_left[dir];
            relay.cut_left[dir] = FOREVER;
            f->kill_when_empty = true;
        } else {
            relay.cut_left[dir] -= n;
        }
    }
    uint64_t t = now_ns();
    if (relay.link_free_ns[dir] < t)
        relay.link_free_ns[dir] = t;
    if (relay.rate[dir])
        relay.link_free_ns[dir] += n * 1000000000ull / relay.rate[dir];
    if (!n)
        return;
    struct chunk *k = malloc(sizeof(*k) + n);
    if (!k)
        die("malloc");
    k->next = NULL;
    k->due_ns = relay.link_free_ns[dir] + relay.delay_ns[dir];
    k->len = n;
    k->off = 0;
    memcpy(k->data, p, n);
    *f->last = k;
    f->last = &k->next;
    f->held += n;
    relay.bytes[dir] += n;
}

static void answer_here(struct conn *c)
{
    char body[256], res[768], date[64], retry[48] = "";
    time_t t = time(NULL);
    struct tm tm;
    strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&t, &tm));
    int bn = snprintf(
        body, sizeof(body),
        "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>relay says so</Message></Error>",
        relay.answer_code);
    if (relay.answer_retry_after)
        snprintf(retry, sizeof(retry), "Retry-After: %ld\r\n", relay.answer_retry_after);
    int n = snprintf(res, sizeof(res),
                     "HTTP/1.1 %d Answer\r\nDate: %s\r\n%sContent-Type: application/xml\r\n"
                     "Content-Length: %d\r\n\r\n%s",
                     relay.answer_status, date, retry, bn, body);
    flow_put(c, DOWN, res, (size_t)n);
    relay.answered++;
}

static uint64_t head_content_length(const uint8_t *head)
{
    const char *p = (const char *)head;
    while ((p = strstr(p, "\r\n")) && p[2]) {
        p += 2;
        if (!strncasecmp(p, "content-length:", 15))
            return strtoull(p + 15, NULL, 10);
    }
    return 0;
}

/* A request head is complete: pass it on, or swallow it and its body and answer here. */
static void request_begin(struct conn *c)
{
    struct flow *f = &c->flow[UP];
    relay.requests++;
    c->get = !memcmp(f->head, "GET ", 4);
    size_t ln = strlen(relay.lose_method);
    c->lose = relay.lose_count > 0 && !memcmp(f->head, relay.lose_method, ln) && f->head[ln] == ' ';
    if (c->lose)
        relay.lose_count--;
    f->swallow = relay.answer_count > 0;
    if (f->swallow)
        relay.answer_count--;
    else
        flow_put(c, UP, f->head, f->head_len);
    f->body_left = head_content_length(f->head);
    if (f->swallow && !f->body_left)
        answer_here(c);
}

static void response_begin(struct conn *c)
{
    struct flow *f = &c->flow[DOWN];
    f->body_left = c->get ? head_content_length(f->head) : 0;
    flow_put(c, DOWN, f->head, f->head_len);
    f->cut_body = c->get && relay.truncate_count > 0 && !memcmp(f->head + 8, " 2", 2);
    if (f->cut_body) {
        relay.truncate_count--;
        f->body_left = relay.truncate_bytes;
        f->close_when_empty = !f->body_left;
    }
}

/* Feeds bytes of an HTTP flow: heads are gathered whole, bodies pass. Answers to HEAD carry a
 * length and no body, so only answers to GET are followed by length; what else comes with a body
 * starts no head ("<?xml...") and is passed as it is. */
static void http_feed(struct conn *c, int dir, const uint8_t *p, size_t n)
{
    struct flow *f = &c->flow[dir];
    while (n) {
        if (f->body_left) {
            size_t take = n < f->body_left ? n : (size_t)f->body_left;
            if (!f->swallow)
                flow_put(c, dir, p, take);
            f->body_left -= take;
            p += take;
            n -= take;
            if (!f->body_left && f->swallow)
                answer_here(c);
            if (!f->body_left && f->cut_body)
                f->close_when_empty = true;
            continue;
        }
        f->swallow = false;
        if (!f->head && !(f->head = malloc(HEAD_MAX + 1)))
            die("malloc");
        f->head[f->head_len++] = *p++;
        n--;
        f->head[f->head_len] = 0;
        bool no_head = dir == DOWN && f->head_len == 5 && memcmp(f->head, "HTTP/", 5) != 0;
        bool done = f->head_len >= 4 && !memcmp(f->head + f->head_len - 4, "\r\n\r\n", 4);
        if (no_head || f->head_len == HEAD_MAX) {
            flow_put(c, dir, f->head, f->head_len);
            f->head_len = 0;
            flow_put(c, dir, p, n);
            return;
        }
        if (done) {
            if (dir == UP)
                request_begin(c);
            else
                response_begin(c);
            f->head_len = 0;
        }
    }
}

static bool flow_wants_input(const struct conn *c, int dir, uint64_t t)
{
    const struct flow *f = &c->flow[dir];
    return !relay.blackhole && !f->eof_in && !f->kill_when_empty && !f->close_when_empty &&
           f->held < HELD_MAX && !c->connecting && relay.link_free_ns[dir] <= t + QUEUE_NS;
}

static void flow_read(struct conn *c, int dir)
{
    uint8_t buf[CHUNK_MAX];
    size_t want = sizeof(buf);
    if (relay.rate[dir] && relay.rate[dir] / 200 < want) /* at most 5 ms of the link in one piece */
        want = relay.rate[dir] / 200 > 512 ? (size_t)(relay.rate[dir] / 200) : 512;
    ssize_t n = recv(c->fd[dir], buf, want, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        conn_close(c, true);
        return;
    }
    if (n == 0) {
        struct flow *f = &c->flow[dir];
        f->eof_in = true;
        if (relay.http && f->head_len) /* an end inside a head: pass on what there is */
            flow_put(c, dir, f->head, f->head_len);
        return;
    }
    if (dir == DOWN && c->lose)
        conn_close(c, true);
    else if (relay.http)
        http_feed(c, dir, buf, (size_t)n);
    else
        flow_put(c, dir, buf, (size_t)n);
}

/* Writes what is due; handles the three ends a flow can have. */
static void flow_write(struct conn *c, int dir, uint64_t t)
{
    struct flow *f = &c->flow[dir];
    while (f->first && f->first->due_ns <= t) {
        struct chunk *k = f->first;
        ssize_t n = send(c->fd[!dir], k->data + k->off, k->len - k->off, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0) {
            conn_close(c, true);
            return;
        }
        k->off += (size_t)n;
        f->held -= (size_t)n;
        if (k->off < k->len)
            return;
        f->first = k->next;
        if (!f->first)
            f->last = &f->first;
        free(k);
    }
    if (f->first)
        return;
    if (f->kill_when_empty || f->close_when_empty) {
        conn_close(c, f->kill_when_empty);
    } else if (f->eof_in && !f->eof_out) {
        f->eof_out = true;
        shutdown(c->fd[!dir], SHUT_WR);
        if (c->flow[!dir].eof_out)
            conn_close(c, false);
    }
}

static int command_fault(int n, char **w, char *out, size_t size)
{
    uint64_t v = n > 1 ? strtoull(w[1], NULL, 10) : 0;
    bool up = n < 3 || !strcmp(w[2], "up"), down = n < 3 || !strcmp(w[2], "down");
    if (!strcmp(w[0], "delay") && n > 1) {
        if (up)
            relay.delay_ns[UP] = v * 1000000ull;
        if (down)
            relay.delay_ns[DOWN] = v * 1000000ull;
    } else if (!strcmp(w[0], "rate") && n > 1) {
        if (up)
            relay.rate[UP] = v;
        if (down)
            relay.rate[DOWN] = v;
        for (int i = 0; i < CONN_MAX; i++)
            if (relay.conn[i].used)
                conn_shape(&relay.conn[i]);
    } else if (!strcmp(w[0], "cut")) {
        cut_all();
    } else if (!strcmp(w[0], "cut-up") && n > 1) {
        relay.cut_left[UP] = v;
    } else if (!strcmp(w[0], "cut-down") && n > 1) {
        relay.cut_left[DOWN] = v;
    } else if (!strcmp(w[0], "refuse")) {
        relay.refuse = true;
        cut_all();
        if (relay.listener >= 0)
            close(relay.listener);
        relay.listener = -1;
    } else if (!strcmp(w[0], "blackhole")) {
        relay.blackhole = true;
    } else if (!strcmp(w[0], "answer") && n > 3 && relay.http) {
        relay.answer_status = (int)v;
        relay.answer_count = atoi(w[2]);
        snprintf(relay.answer_code, sizeof(relay.answer_code), "%s", w[3]);
        relay.answer_retry_after = n > 4 ? atol(w[4]) : 0;
    } else if (!strcmp(w[0], "lose") && n > 2 && relay.http) {
        snprintf(relay.lose_method, sizeof(relay.lose_method), "%s", w[1]);
        relay.lose_count = atoi(w[2]);
    } else if (!strcmp(w[0], "truncate") && n > 2 && relay.http) {
        relay.truncate_bytes = v;
        relay.truncate_count = atoi(w[2]);
    } else {
        snprintf(out, size, "error: not understood: %s\n", w[0]);
        return -1;
    }
    return 0;
}

static void command_pass(void)
{
    if (relay.listener < 0)
        relay.listener = listen_open();
    relay.blackhole = relay.refuse = false;
    relay.answer_count = relay.truncate_count = relay.lose_count = 0;
    for (int i = 0; i < 2; i++) {
        relay.delay_ns[i] = relay.rate[i] = relay.link_free_ns[i] = 0;
        relay.cut_left[i] = FOREVER;
    }
}

static void command_run(char *line, char *out, size_t size)
{
    char *w[8], *save = NULL;
    int n = 0;
    for (char *p = strtok_r(line, " \n", &save); p && n < 8; p = strtok_r(NULL, " \n", &save))
        w[n++] = p;
    snprintf(out, size, "ok\n");
    if (!n) {
        snprintf(out, size, "error: empty\n");
    } else if (!strcmp(w[0], "pass")) {
        command_pass();
    } else if (!strcmp(w[0], "port")) {
        snprintf(out, size, "%u\n", (unsigned)ntohs(relay.listen_at.sin_port));
    } else if (!strcmp(w[0], "quit")) {
        relay.quit = true;
    } else if (!strcmp(w[0], "stats")) {
        snprintf(out, size, "connections=%llu requests=%llu answered=%llu up=%llu down=%llu\n",
                 (unsigned long long)relay.connections, (unsigned long long)relay.requests,
                 (unsigned long long)relay.answered, (unsigned long long)relay.bytes[UP],
                 (unsigned long long)relay.bytes[DOWN]);
    } else {
        command_fault(n, w, out, size);
    }
}

/* One command a connection; the client sends it whole and at once, so a blocking read is short. */
static void control_accept(void)
{
    char line[512], out[512];
    int fd = accept4(relay.control, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = recv(fd, line, sizeof(line) - 1, 0);
    if (n > 0) {
        line[n] = 0;
        command_run(line, out, sizeof(out));
        send(fd, out, strlen(out), MSG_NOSIGNAL);
    }
    close(fd);
}

static void conn_connected(struct conn *c)
{
    int e = 0;
    socklen_t n = sizeof(e);
    getsockopt(c->fd[DOWN], SOL_SOCKET, SO_ERROR, &e, &n);
    if (e)
        conn_close(c, true);
    else
        c->connecting = false;
}

struct slot {
    int conn, side;
};

/* Fills the poll set; *wake = the next moment a queued chunk is due or a link is free again. */
static nfds_t poll_fill(struct pollfd *pfd, struct slot *slot, uint64_t t, uint64_t *wake)
{
    nfds_t n = 0;
    pfd[n] = (struct pollfd){.fd = relay.control, .events = POLLIN};
    slot[n++].conn = -1;
    pfd[n] = (struct pollfd){.fd = relay.blackhole ? -1 : relay.listener, .events = POLLIN};
    slot[n++].conn = -2;
    *wake = t + 1000000000ull;
    for (int i = 0; i < CONN_MAX; i++) {
        struct conn *c = &relay.conn[i];
        if (!c->used || relay.blackhole)
            continue;
        for (int s = 0; s < 2; s++) {
            short ev = 0;
            const struct flow *in = &c->flow[s], *out = &c->flow[!s];
            if (flow_wants_input(c, s, t))
                ev |= POLLIN;
            else if (!in->eof_in && relay.link_free_ns[s] > t &&
                     relay.link_free_ns[s] - QUEUE_NS + 1 < *wake)
                *wake = relay.link_free_ns[s] - QUEUE_NS + 1;
            if ((s == DOWN && c->connecting) || (out->first && out->first->due_ns <= t))
                ev |= POLLOUT;
            else if (out->first && out->first->due_ns < *wake)
                *wake = out->first->due_ns;
            pfd[n] = (struct pollfd){.fd = ev ? c->fd[s] : -1, .events = ev};
            slot[n].conn = i;
            slot[n++].side = s;
        }
    }
    return n;
}

static void relay_loop(void)
{
    static struct pollfd pfd[2 * CONN_MAX + 2];
    static struct slot slot[2 * CONN_MAX + 2];
    while (!relay.quit) {
        uint64_t wake, t = now_ns();
        nfds_t n = poll_fill(pfd, slot, t, &wake);
        struct timespec ts = {.tv_sec = (time_t)((wake - t) / 1000000000ull),
                              .tv_nsec = (long)((wake - t) % 1000000000ull)};
        if (wake <= t)
            ts.tv_sec = ts.tv_nsec = 0;
        if (ppoll(pfd, n, &ts, NULL) < 0 && errno != EINTR)
            die("poll");
        for (nfds_t i = 2; i < n; i++) {
            struct conn *c = &relay.conn[slot[i].conn];
            int s = slot[i].side;
            if (!c->used || pfd[i].fd < 0 || pfd[i].fd != c->fd[s])
                continue;
            if (c->connecting) {
                if (s == DOWN && pfd[i].revents)
                    conn_connected(c);
            } else if (pfd[i].revents & (POLLIN | POLLHUP | POLLERR) && flow_wants_input(c, s, t)) {
                flow_read(c, s);
            }
        }
        t = now_ns();
        for (int i = 0; i < CONN_MAX && !relay.blackhole; i++)
            for (int d = 0; d < 2; d++)
                if (relay.conn[i].used && !relay.conn[i].connecting)
                    flow_write(&relay.conn[i], d, t);
        if (pfd[1].revents & POLLIN)
            conn_accept();
        if (pfd[0].revents & POLLIN)
            control_accept();
    }
}

static struct sockaddr_in addr_parse(const char *s, const char *dflt)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    char host[64];
    const char *colon = strrchr(s, ':');
    snprintf(host, sizeof(host), "%.*s", colon ? (int)(colon - s) : 63, colon ? s : dflt);
    a.sin_port = htons((uint16_t)atoi(colon ? colon + 1 : s));
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
        fprintf(stderr, "relay: not an address: %s\n", s);
        exit(2);
    }
    return a;
}

static int control_client(int argc, char **argv)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    char line[512] = "", out[512];
    snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", argv[2]);
    for (int i = 3; i < argc; i++)
        snprintf(line + strlen(line), sizeof(line) - strlen(line), "%s ", argv[i]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0)
        die(argv[2]);
    if (send(fd, line, strlen(line), MSG_NOSIGNAL) < 0)
        die("send");
    ssize_t n = recv(fd, out, sizeof(out) - 1, 0);
    close(fd);
    if (n <= 0)
        return 1;
    out[n] = 0;
    fputs(out, stdout);
    return strncmp(out, "error", 5) ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    if (argc > 3 && !strcmp(argv[1], "-c"))
        return control_client(argc, argv);
    if (argc < 4) {
        fprintf(stderr,
                "usage: relay [ADDR:]PORT HOST:PORT CONTROL [http] | relay -c CONTROL WORD...\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    relay.listen_at = addr_parse(argv[1], "127.0.0.1");
    relay.target = addr_parse(argv[2], "127.0.0.1");
    relay.http = argc > 4 && !strcmp(argv[4], "http");
    relay.listener = -1;
    command_pass();
    /* Its name comes when it takes connections: whoever waits for the name may connect at once. */
    int n = snprintf(sun.sun_path, sizeof(sun.sun_path), "%s~", argv[3]);
    if (n >= (int)sizeof(sun.sun_path)) {
        fprintf(stderr, "relay: control path too long: %s\n", argv[3]);
        return 2;
    }
    unlink(sun.sun_path);
    relay.control = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(relay.control, (struct sockaddr *)&sun, sizeof(sun)) < 0 ||
        listen(relay.control, 16) < 0 || rename(sun.sun_path, argv[3]) < 0)
        die(argv[3]);
    relay_loop();
    unlink(argv[3]);
    return 0;
}
