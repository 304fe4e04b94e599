/* bulk.c: the driver of the bulk lane of a node, both sides.
 *
 * The counterpart of fs/replica/pull.c and serve.c and of sender.c's wants, around the real
 * decisions (fs/replica/lane.h): jobs take their time; a range is read from the file as it is then,
 * in pieces; frames go over the same connection as everything else, in order, behind the ordered
 * lane. Bytes that nobody asked for end the connection. Owns pull, wants, serve and serving of a
 * node.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

static uint64_t now_ms(const struct node *n)
{
    return local(n) / MS;
}

static void send(struct node *n, const struct msg *m)
{
    wire_send(n, CH_DATA, m);
}

/* --- the side that lacks bytes --- */

static bool op_connected(void *ctx)
{
    const struct node *n = ctx;
    return n->g.id != 0;
}

static void op_pull(void *ctx, const struct dmt_missing *m, bool urgent)
{
    struct node *n = ctx;
    send(n, &(struct msg){.kind = M_PULL, .epoch = n->rc.peer.epoch, .range = *m, .flag = urgent});
}

static void op_have(void *ctx, uint64_t ino, uint64_t seq)
{
    struct node *n = ctx;
    send(n, &(struct msg){
                .kind = M_HAVE, .epoch = n->rc.peer.epoch, .range = {.ino = ino, .seq = seq}});
}

static struct item *job(struct node *n, enum what what, uint64_t most, uint64_t gen)
{
    struct item *it = push(w.now + MS / 10 + rnd(most), what, idx(n));
    it->gen = gen;
    it->m.seq = n->jgen; /* the journal was cut or replaced meanwhile: nothing is done */
    return it;
}

static void op_plan(void *ctx, uint64_t gen)
{
    job(ctx, W_PLAN, 2 * MS, gen);
}

static void op_sync(void *ctx, uint64_t gen, uint64_t no)
{
    struct node *n = ctx;
    files_fill_begin(n);
    job(n, W_BSYNC, one_in(10) ? 200 * MS : 2 * w.fsync_max, gen)->n = no;
}

static void op_fill(void *ctx, uint64_t gen, struct replica_chunk *list)
{
    job(ctx, W_FILL, 5 * MS, gen)->chunks = list;
}

static const struct pull_ops ops = {.connected = op_connected,
                                    .missing_next = files_missing_next,
                                    .covers = files_covers,
                                    .pull = op_pull,
                                    .have = op_have,
                                    .plan = op_plan,
                                    .sync = op_sync,
                                    .fill = op_fill};

static void plan(struct node *n, const struct item *it)
{
    struct replica_plan_ino *v = calloc(PLAN_INOS_MAX, sizeof(*v));
    DMT_ASSERT(v);
    size_t k = n->has_ws ? pull_plan(&ops, n, v) : 0;
    pull_planned(&n->pull, it->gen, v, k, now_ms(n));
}

static void fill(struct node *n, struct item *it)
{
    int rc = n->opened ? DMT_E_STALE : n->full_until > w.now ? -28 : 0;
    for (struct replica_chunk *c = it->chunks; c && rc == 0 && it->m.seq == n->jgen; c = c->next) {
        uint64_t bytes[BLOCKS];
        memcpy(bytes, c->data, (size_t)(c->m.len / BLOCK) * sizeof(bytes[0]));
        files_fill(n, &c->m, bytes);
    }
    struct replica_chunk *list = it->chunks;
    it->chunks = NULL;
    bool current = pull_filled(&n->pull, it->gen, list, rc);
    if (rc == DMT_E_STALE)
        wire_close(n, CH_DATA, true);
    else if (current && rc < 0)
        node_break_down(n, "bulk data cannot be stored");
}

static void synced(struct node *n, const struct item *it)
{
    int rc = n->full_until > w.now ? -28 : 0;
    if (rc == 0 && it->m.seq == n->jgen)
        files_fill_end(n);
    if (!pull_synced(&n->pull, it->gen, it->n, rc))
        return;
    if (rc < 0) {
        node_break_down(n, "bulk data cannot be made durable");
        return;
    }
    bulk_applied(n);
    peer_ack(n, false);
}

static void bulk_frame(struct node *n, const struct msg *m)
{
    struct replica_ask *a =
        pull_asked(&n->pull, m->range.ino, m->range.off, m->range.len, m->range.seq);
    if (!a) {
        say("%s was sent bytes that it did not ask for", n->name);
        wire_close(n, CH_DATA, true);
        return;
    }
    size_t size = (size_t)(m->range.len / BLOCK) * sizeof(m->bytes[0]);
    struct replica_chunk *c = malloc(sizeof(*c) + size);
    DMT_ASSERT(c);
    memcpy(c->data, m->bytes, size);
    pull_arrived(&n->pull, a, c, m->range.len);
}

void bulk_applied(struct node *n)
{
    if (n->has_ws)
        pull_applied(&n->pull, (uint64_t)n->f.seq, now_ms(n));
}

void bulk_receive(struct node *n)
{
    n->holder_durable = 0;
    pull_start(&n->pull, (uint64_t)n->f.seq, now_ms(n));
    push(w.now + 50 * MS, W_LANE, idx(n))->gen = n->pull.gen;
}

void bulk_stop(struct node *n)
{
    pull_stop(&n->pull);
}

/* --- the side that has them --- */

void bulk_stream(struct node *n, bool on)
{
    lane_stream(&n->wants, on);
    lane_clear(&n->serve);
    n->serving = false;
    n->serve_gen++;
    n->commit_sent = 0;
}

void bulk_commit(struct node *n)
{
    if (!n->streaming || n->g.id == 0 || (uint64_t)n->durable <= n->commit_sent)
        return;
    n->commit_sent = (uint64_t)n->durable;
    send(n, &(struct msg){
                .kind = M_COMMIT, .epoch = n->stream_epoch, .durable = (uint64_t)n->durable});
}

void bulk_wants(struct node *n)
{
    static struct replica_want news[WANTS_MAX];
    if (!n->streaming || n->g.id == 0 || !n->wants.ask)
        return;
    unsigned k = lane_collect(&n->wants, (uint64_t)n->sent, news);
    if (k)
        bulk_commit(n);
    for (unsigned i = 0; i < k && n->g.id; i++)
        send(n, &(struct msg){.kind = M_WANT,
                              .epoch = n->stream_epoch,
                              .range = {.ino = news[i].ino, .seq = news[i].want}});
}

bool bulk_have(struct node *n, uint32_t ino, int ref_seq)
{
    bool wake;
    bool have = lane_have(&n->wants, ino, (uint64_t)ref_seq, now_ms(n), &wake);
    if (wake)
        bulk_wants(n);
    return have;
}

static void serve_next(struct node *n)
{
    struct replica_served want;
    bool urgent;
    if (n->serving || !lane_next(&n->serve, &want, &urgent))
        return;
    struct item *it = job(n, W_SERVE, one_in(8) ? w.bulk_ns * 4 : w.bulk_ns, n->serve_gen);
    it->served = want;
    it->urgent = urgent;
    n->serving = true;
}

/* As fs/workspace/bulk.c: what the file holds now, as far as it is still that write's. */
static int read_range(const struct node *n, const struct replica_served *want, uint64_t *bytes)
{
    struct files *all = (struct files *)(uintptr_t)&n->f;
    const struct file *f = files_of(all, (uint32_t)want->ino);
    int from = (int)(want->off / BLOCK), most = (int)(want->len / BLOCK), k = 0;
    most = most > 1 && rnd(2) ? 1 + (int)rnd((uint64_t)most) : most;
    for (; f && k < most && from + k < f->c.size; k++) {
        if (f->c.blk[from + k] != (int)want->seq)
            break;
        bytes[k] = n->place[rec_at(n, (int)want->seq)->ref][from + k].bytes;
    }
    return k;
}

static void serve(struct node *n, const struct item *it)
{
    if (it->gen != n->serve_gen)
        return;
    n->serving = false;
    struct replica_served want = it->served;
    struct msg m = {.kind = M_BULK, .epoch = n->stream_epoch};
    m.range = (struct dmt_missing){want.ino, want.off, want.len, want.seq};
    int k = it->m.seq == n->jgen ? read_range(n, &want, m.bytes) : 0;
    if (k > 0) {
        m.range.len = (uint64_t)k * BLOCK;
        want.off += m.range.len;
        want.len -= m.range.len;
        if (want.len)
            lane_rest(&n->serve, &want, it->urgent);
    } else {
        total.gone++;
        m.kind = M_GONE;
        m.seq = (uint64_t)n->tail;
    }
    send(n, &m);
    serve_next(n);
}

/* --- messages and jobs --- */

static uint8_t type_of(enum msg_kind kind)
{
    static const uint8_t types[] = {
        [M_COMMIT] = REPLICA_COMMIT, [M_WANT] = REPLICA_WANT, [M_HAVE] = REPLICA_HAVE,
        [M_PULL] = REPLICA_PULL,     [M_BULK] = REPLICA_BULK, [M_GONE] = REPLICA_GONE};
    return types[kind];
}

bool bulk_message(struct node *n, struct msg *m)
{
    if (m->kind < M_COMMIT)
        return false;
    int rc = replica_core_takes(&n->rc, type_of(m->kind), m->epoch);
    if (rc < 0)
        wire_close(n, CH_DATA, true);
    if (rc)
        return true;
    struct replica_served want = {m->range.ino, m->range.off, m->range.len, m->range.seq};
    switch (m->kind) {
    case M_COMMIT:
        if (m->durable > n->holder_durable)
            n->holder_durable = m->durable;
        peer_durable(n);
        return true;
    case M_WANT:
        if (pull_want(&n->pull, m->range.ino, m->range.seq, now_ms(n)) < 0)
            wire_close(n, CH_DATA, true);
        return true;
    case M_HAVE:
        lane_got(&n->wants, m->range.ino, m->range.seq);
        node_synced(n);
        return true;
    case M_PULL:
        if (!lane_push(&n->serve, &want, m->flag))
            wire_close(n, CH_DATA, true);
        else
            serve_next(n);
        return true;
    case M_BULK:
        bulk_frame(n, m);
        return true;
    default:
        if (pull_gone(&n->pull, &m->range, m->seq, now_ms(n)) < 0)
            wire_close(n, CH_DATA, true);
        return true;
    }
}

void bulk_item(struct node *n, struct item *it)
{
    switch (it->what) {
    case W_PLAN:
        plan(n, it);
        return;
    case W_FILL:
        fill(n, it);
        return;
    case W_BSYNC:
        synced(n, it);
        return;
    case W_SERVE:
        serve(n, it);
        return;
    default: /* the tick */
        if (it->gen != n->pull.gen)
            return;
        push(w.now + 50 * MS, W_LANE, idx(n))->gen = n->pull.gen;
        pull_tick(&n->pull, now_ms(n));
        return;
    }
}

/* --- life --- */

void bulk_init(struct node *n)
{
    memset(&n->pull, 0, sizeof(n->pull));
    memset(&n->wants, 0, sizeof(n->wants));
    lane_clear(&n->serve);
    n->serving = false;
    n->holder_durable = n->commit_sent = n->acked_whole = 0;
    pull_init(&n->pull, &ops, n);
}

void bulk_end(struct node *n)
{
    if (n->pull.ops)
        pull_stop(&n->pull);
}
