/* sim_world.h: the simulated world of test_pair_sim.c: time, event queue, nodes, and the judge. One program includes it. */
#ifndef DMT_TEST_SIM_WORLD_H
#define DMT_TEST_SIM_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/controller/decide.h"
#include "fs/lease/core.h"

#define MS         DMT_MS
#define RECS_MAX   6000
#define EPOCHS_MAX 800
#define QUEUE_MAX  65536
#define RUN_NS     (60 * DMT_S)
#define HEAL_NS    (60 * DMT_S)

struct rec {
    uint64_t epoch;
    uint32_t id;
};

enum msg_kind { M_PING, M_HELLO, M_EPOCH, M_READY, M_STREAM, M_REC, M_ACK, M_ORDER, M_WANT, M_STATE };
enum role { R_NONE, R_START, R_SENDER, R_RECEIVER };

/* Something between the two nodes. */
struct msg {
    enum msg_kind kind;
    struct lease_msg ping;
    struct lease_id from;
    enum role role;
    uint64_t epoch, seen, pos;
    bool alone;
    struct rec rec;
    struct rec *snap; /* HELLO, EPOCH, STATE: whole journal */
    int snap_n;
};

enum what {
    W_STEP,
    W_MSG,
    W_IO,
    W_CONNECT,
    W_PEER_LOST,
    W_ASK,
    W_ANSWER,
    W_CLIENT,
    W_FSYNC,
    W_DONE,
    W_RESTART,
    W_FAULT,
    W_HEAL,
    W_PUSH,
    W_DEATH
};

struct item {
    uint64_t at, order;
    enum what what;
    int node;      /* 0, 1; -1: nobody's */
    uint32_t life; /* of the node; older: dropped */
    uint32_t conn; /* W_MSG, W_PEER_LOST */
    struct msg *msg;
    struct lease_event *ev;
    struct lease_ask ask;
    struct lease_id from; /* W_ASK: who asked; by now its disk may be another one */
    uint64_t n;
};

struct node {
    char name[8];
    struct lease_state s;
    struct lease_record disk;
    bool has_disk, up, arb_link;
    uint64_t thaw_at; /* > now: frozen */
    uint32_t life;
    uint64_t off;
    double rate;
    struct rec j[RECS_MAX];
    int tail, durable, keep_from; /* keep_from: journal starts there (trimmed); a peer before it needs a resync */
    /* io queue of the driver: actions wait and are done in order */
    struct lease_action *io[256];
    int io_n;
    bool io_busy, fsyncing;
    /* gate */
    enum lease_gate_mode mode;
    uint64_t gen, gate_epoch, acked, deadline;
    uint8_t gate_peer[16];
    /* replica */
    enum role role;
    uint64_t role_epoch, follow, ready_epoch;
    bool role_alone, streaming, resyncing, opened;
    int sent;
    struct rec *peer_snap;
    int peer_snap_n;
    uint64_t next_step;
    int want_sync; /* position of the oldest sync waiting, 0 none */
};

static struct world {
    uint64_t now, order, seed, rnd;
    struct node n[2];
    struct item *heap[QUEUE_MAX];
    int heap_n;
    struct item *held[QUEUE_MAX]; /* messages on a link that is down */
    int held_n;
    bool link;
    uint32_t conn; /* 0: not connected */
    uint32_t conn_next;
    uint64_t fifo[2][2]; /* last delivery per receiver, ping / data */
    /* arbiter */
    struct lease_register reg;
    uint64_t heard[2];
    bool heard_dead[2];
    bool arb_up;
    /* judge */
    uint32_t next_id;
    bool acked[RECS_MAX];
    uint64_t acked_epoch[RECS_MAX];
    bool branch[RECS_MAX];
    struct {
        uint64_t epoch;
        int node;
        bool has[RECS_MAX];
    } opened[EPOCHS_MAX];
    int opened_n;
    struct {
        uint64_t epoch;
        int node;
    } acker[EPOCHS_MAX];
    int acker_n;
    bool frozen_ever, disks, healed;
    uint64_t acks, plains, promotions, pairs, solos, handovers, last_ack;
    char bad[512];
    bool verbose;
} w;

/* --- helpers --- */

static uint64_t rnd(uint64_t n)
{
    w.rnd ^= w.rnd << 13;
    w.rnd ^= w.rnd >> 7;
    w.rnd ^= w.rnd << 17;
    return n ? w.rnd % n : 0;
}

static void bad(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void bad(const char *fmt, ...)
{
    if (w.bad[0])
        return;
    int n = snprintf(w.bad, sizeof(w.bad), "seed %llu at %.3f s: ", (unsigned long long)w.seed, (double)w.now / 1e9);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(w.bad + n, sizeof(w.bad) - (size_t)n, fmt, ap);
    va_end(ap);
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
    if (!w.verbose)
        return;
    printf("%9.3f ", (double)w.now / 1e9);
    va_list ap;
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

static bool before(const struct item *a, const struct item *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void heap_put(struct item *it)
{
    assert_true(w.heap_n < QUEUE_MAX);
    int i = w.heap_n++;
    while (i > 0 && before(it, w.heap[(i - 1) / 2])) {
        w.heap[i] = w.heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w.heap[i] = it;
}

static struct item *heap_get(void)
{
    if (w.heap_n == 0)
        return NULL;
    struct item *top = w.heap[0], *last = w.heap[--w.heap_n];
    int i = 0;
    for (;;) {
        int c = 2 * i + 1;
        if (c >= w.heap_n)
            break;
        if (c + 1 < w.heap_n && before(w.heap[c + 1], w.heap[c]))
            c++;
        if (!before(w.heap[c], last))
            break;
        w.heap[i] = w.heap[c];
        i = c;
    }
    if (w.heap_n)
        w.heap[i] = last;
    return top;
}

static struct item *push(uint64_t at, enum what what, int node)
{
    struct item *it = calloc(1, sizeof(*it));
    assert_non_null(it);
    it->at = at;
    it->order = ++w.order;
    it->what = what;
    it->node = node;
    it->life = node >= 0 ? w.n[node].life : 0;
    heap_put(it);
    return it;
}

static void msg_free(struct msg *m)
{
    if (m)
        free(m->snap);
    free(m);
}

static void item_free(struct item *it)
{
    msg_free(it->msg);
    free(it->ev);
    free(it);
}

static uint64_t local(const struct node *n)
{
    return n->off + (uint64_t)((double)w.now * n->rate);
}

static struct node *other(struct node *n)
{
    return n == &w.n[0] ? &w.n[1] : &w.n[0];
}

static int idx(const struct node *n)
{
    return (int)(n - w.n);
}

static bool usable(const struct node *n)
{
    return n->up && n->thaw_at <= w.now;
}

/* --- the judge --- */

static void judge_opened(struct node *n, uint64_t epoch)
{
    assert_true(w.opened_n < EPOCHS_MAX);
    int k = w.opened_n++;
    w.opened[k].epoch = epoch;
    w.opened[k].node = idx(n);
    memset(w.opened[k].has, 0, sizeof(w.opened[k].has));
    for (int i = 0; i < n->tail; i++)
        w.opened[k].has[n->j[i].id] = true;
    for (uint32_t id = 1; id <= w.next_id; id++)
        if (w.acked[id] && w.acked_epoch[id] < epoch && !w.opened[k].has[id])
            bad("%s opens epoch %u.%u without record %u, acknowledged in %u.%u", n->name, DMT_EPOCH_MAJOR(epoch),
                DMT_EPOCH_MINOR(epoch), id, DMT_EPOCH_MAJOR(w.acked_epoch[id]), DMT_EPOCH_MINOR(w.acked_epoch[id]));
    for (int i = 0; i < k; i++)
        if (w.opened[i].epoch == epoch)
            bad("epoch %u.%u is opened twice", DMT_EPOCH_MAJOR(epoch), DMT_EPOCH_MINOR(epoch));
}

static void judge_ack(struct node *n, int upto)
{
    uint64_t epoch = n->gate_epoch;
    w.acks++;
    w.last_ack = w.now;
    bool known = false;
    for (int i = 0; i < w.acker_n; i++) {
        if (w.acker[i].epoch != epoch)
            continue;
        known = true;
        if (w.acker[i].node != idx(n))
            bad("epoch %u.%u is acknowledged by both nodes", DMT_EPOCH_MAJOR(epoch), DMT_EPOCH_MINOR(epoch));
    }
    if (!known) {
        assert_true(w.acker_n < EPOCHS_MAX);
        w.acker[w.acker_n].epoch = epoch;
        w.acker[w.acker_n++].node = idx(n);
    }
    for (int i = 0; i < upto; i++) {
        uint32_t id = n->j[i].id;
        if (!w.acked[id]) {
            w.acked[id] = true;
            w.acked_epoch[id] = epoch;
            for (int k = 0; k < w.opened_n; k++)
                if (w.opened[k].epoch > epoch && !w.opened[k].has[id])
                    bad("%s acknowledges record %u in epoch %u.%u, but epoch %u.%u was opened "
                        "without it",
                        n->name, id, DMT_EPOCH_MAJOR(epoch), DMT_EPOCH_MINOR(epoch), DMT_EPOCH_MAJOR(w.opened[k].epoch),
                        DMT_EPOCH_MINOR(w.opened[k].epoch));
        }
    }
    if (n->resyncing || n->disk.resync)
        bad("%s acknowledges while it is being resynchronised", n->name);
}

static void judge_plain(struct node *n)
{
    w.plains++;
    if (w.frozen_ever)
        return;
    for (int k = 0; k < w.opened_n; k++)
        if (w.opened[k].epoch > n->gate_epoch && w.opened[k].node != idx(n))
            bad("a plain call returns on %s in epoch %u.%u after epoch %u.%u was opened", n->name,
                DMT_EPOCH_MAJOR(n->gate_epoch), DMT_EPOCH_MINOR(n->gate_epoch), DMT_EPOCH_MAJOR(w.opened[k].epoch),
                DMT_EPOCH_MINOR(w.opened[k].epoch));
}

static void judge_records(void)
{
    for (int i = 0; i < w.n[0].tail && i < w.n[1].tail; i++)
        if (w.n[0].j[i].epoch == w.n[1].j[i].epoch && w.n[0].j[i].id != w.n[1].j[i].id)
            bad("two records under epoch %u.%u, position %d", DMT_EPOCH_MAJOR(w.n[0].j[i].epoch),
                DMT_EPOCH_MINOR(w.n[0].j[i].epoch), i + 1);
}

#endif
