/* wire.c: two connections between the nodes: the ping channel and the replica's.
 *
 * Owns which connection each node believes in. They are streams: in order, nothing doubled, and
 * what a direction that is down holds back comes later, unless the connection ends first. Each side
 * has its own belief: a close reaches the other end only as a message (or by 10 s of silence), so
 * half-open connections exist. Messages of an older connection are dropped at the door. In lossy
 * runs single pings are lost, doubled or late, as if they were datagrams: nothing may rely on their
 * order.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

#define HELD_MAX (QUEUE_MAX / 8)

uint32_t *wire_conn(struct node *n, enum channel ch)
{
    return ch == CH_PING ? &n->ping_conn : &n->g.id;
}

static void put(int to, enum channel ch, uint32_t conn, uint64_t at, const struct msg *m)
{
    struct item *it = push(at, W_MSG, to);
    it->n = ch;
    it->conn = conn;
    it->m = *m;
}

/* The ping channel was opened in another lineage than the one that is ours now
 * (fs/lease/ping.c). */
static bool of_before(const struct node *n)
{
    return n->ping_line && n->disk.lineage.id[0] && n->ping_line != n->disk.lineage.id[0];
}

/* Takes what m points to. */
void wire_send(struct node *from, enum channel ch, const struct msg *m)
{
    int to = 1 - idx(from);
    if (ch == CH_PING && of_before(from) && from->ping_conn) {
        wire_close(from, CH_PING, false);
        return;
    }
    uint32_t conn = *wire_conn(from, ch);
    if (conn == 0) {
        free(m->peer);
        free(m->epochs);
        free(m->recs);
        return;
    }
    uint64_t at = w.now + MS / 5 + rnd(one_in(20) ? w.delay_max : 2 * MS);
    if (ch == CH_PING && m->kind == M_PING && one_in(w.lossy)) {
        switch (rnd(3)) {
        case 0:
            return;
        case 1:
            put(to, ch, conn, at + rnd(400 * MS), m);
            break;
        default:
            put(to, ch, conn, w.now + rnd(3 * DMT_S), m);
            return;
        }
    }
    if (at <= w.fifo[to][ch])
        at = w.fifo[to][ch] + 1;
    w.fifo[to][ch] = at;
    put(to, ch, conn, at, m);
}

void wire_close(struct node *n, enum channel ch, bool tell)
{
    uint32_t *conn = wire_conn(n, ch);
    if (*conn == 0)
        return;
    if (tell)
        wire_send(n, ch, &(struct msg){.kind = M_FIN});
    if (ch == CH_DATA) {
        peer_closed(n);
        return;
    }
    *conn = 0;
    (void)post(n, LEASE_EV_PING_DOWN);
}

static bool greets(const struct node *n)
{
    return usable(n) && n->full_until <= w.now;
}

/* fs/lease/ping.c: a hello of another lineage is refused. */
static bool same_lineage(const struct node *a, const struct node *b)
{
    uint8_t x = a->disk.lineage.id[0], y = b->disk.lineage.id[0];
    return x == 0 || y == 0 || x == y;
}

/* Somebody dials: it needs both directions, and both ends take the new connection for the old. */
void wire_try(void)
{
    struct node *a = &w.n[0], *b = &w.n[1];
    if (w.dir[0] && w.dir[1] && usable(a) && usable(b)) {
        if (same_lineage(a, b) && (a->ping_conn == 0 || a->ping_conn != b->ping_conn)) {
            uint32_t id = ++w.conn_next;
            for (int i = 0; i < 2; i++) {
                wire_close(&w.n[i], CH_PING, false);
                w.n[i].ping_conn = id;
                w.n[i].ping_line = w.n[1 - i].disk.lineage.id[0];
                w.n[i].ping_heard = w.now;
                (void)post(&w.n[i], LEASE_EV_PING_UP);
            }
        }
        if (greets(a) && greets(b) && (a->g.id == 0 || a->g.id != b->g.id)) {
            uint32_t id = ++w.conn_next;
            for (int i = 0; i < 2; i++)
                wire_close(&w.n[i], CH_DATA, false);
            for (int i = 0; i < 2; i++)
                peer_connected(&w.n[i], id);
        }
    }
    push(w.now + 30 * MS + rnd(150 * MS), W_CONNECT, -1);
}

void wire_deliver(struct node *n, struct item *it)
{
    enum channel ch = (enum channel)it->n;
    if (*wire_conn(n, ch) != it->conn)
        return; /* a connection that is over */
    if (it->m.kind == M_FIN) {
        wire_close(n, ch, false);
    } else if (ch == CH_PING && of_before(n)) {
        wire_close(n, CH_PING, true);
    } else if (ch == CH_PING) {
        struct lease_event e = {.type = LEASE_EV_MSG, .msg = it->m.ping};
        struct bucket_event b = {.type = BUCKET_EV_MSG, .msg = it->m.ping};
        n->ping_heard = w.now;
        if (it->m.ping.type != LEASE_BUCKET)
            feed(n, &e);
        else if (w.bucket)
            object_feed(n, &b);
    } else {
        n->g.heard = w.now;
        peer_message(n, &it->m);
    }
}

void wire_direction(int to, bool up)
{
    if (w.dir[to] == up)
        return;
    w.dir[to] = up;
    for (int i = 0; up && i < w.held_n[to]; i++) {
        w.held[to][i]->at = w.now;
        put_back(w.held[to][i]);
    }
    if (up)
        w.held_n[to] = 0;
}

void wire_drop_held(void)
{
    for (int to = 0; to < 2; to++)
        for (int i = 0; i < w.held_n[to]; i++)
            item_free(w.held[to][i]);
    w.held_n[0] = w.held_n[1] = 0;
}
