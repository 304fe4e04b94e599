/* node.c: the driver of the lease core, and the program around it.
 *
 * The counterpart of fs/lease/lease.c, io.c, gate.c and of fs/dumontfs_roles.c: what may not wait
 * is done in the step; the rest goes through the io queue, one by one, in order, and is lost with
 * the process; what takes long is posted to the program's main thread. Also the client: calls that
 * are logged and then wait for the gate, and syncs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

static void act(struct node *n, const struct lease_action *a);

/* --- the lease thread --- */

void feed(struct node *n, struct lease_event *e)
{
    static struct lease_actions out;
    e->tail = n->has_ws ? (uint64_t)n->tail : 0;
    enum dmt_lease_state was = lease_core_state(&n->s);
    lease_step(&n->s, e, local(n), &out);
    if (was != lease_core_state(&n->s))
        say("%s: %s -> %s, epoch %s", n->name, dmt_lease_state_name(was),
            dmt_lease_state_name(lease_core_state(&n->s)), epoch_text(n->s.rec.seen));
    if (was == DMT_LEASE_FOLLOWER && lease_core_state(&n->s) == DMT_LEASE_CANDIDATE) {
        w.candidate_at = w.candidate_at ? w.candidate_at : w.now;
        judge_candidate(n);
    }
    if (was == DMT_LEASE_CANDIDATE && lease_core_state(&n->s) != DMT_LEASE_CANDIDATE)
        w.decided_at = w.decided_at ? w.decided_at : w.now;
    int k = out.n;
    struct lease_action copy[LEASE_ACTIONS_MAX]; /* acting may step again */
    memcpy(copy, out.a, sizeof(copy[0]) * (size_t)k);
    for (int i = 0; i < k; i++)
        act(n, &copy[i]);
    if (n->s.next == UINT64_MAX)
        return;
    uint64_t at = (uint64_t)((double)(n->s.next - n->off) / n->rate) + 1;
    if (n->s.next < n->off || at <= w.now)
        at = w.now + MS / 2;
    if (n->next_step <= w.now || at < n->next_step) {
        n->next_step = at;
        push(at, W_STEP, idx(n));
    }
}

void feed_type(struct node *n, enum lease_ev type)
{
    struct lease_event e = {.type = type};
    feed(n, &e);
}

/* lease_post: served soon, in order. */
struct lease_event *post(struct node *n, enum lease_ev type)
{
    uint64_t at = w.now + rnd(one_in(30) ? 10 * MS : MS / 5);
    if (at <= n->ev_at)
        at = n->ev_at + 1;
    n->ev_at = at;
    struct item *it = push(at, W_EVENT, idx(n));
    it->ev = calloc(1, sizeof(*it->ev));
    DMT_ASSERT(it->ev);
    it->ev->type = type;
    return it->ev;
}

/* --- the gate --- */

static void apply_gate(struct node *n, const struct lease_action *a)
{
    if (a->gen <= n->gen)
        return;
    n->gen = a->gen;
    if (a->epoch != n->gate_epoch || memcmp(a->peer.store, n->gate_peer, 16) != 0) {
        bool early = a->epoch == n->heard_epoch && memcmp(a->peer.store, n->heard_store, 16) == 0;
        n->acked = early ? n->heard_durable : 0; /* R3 */
    }
    n->gate_epoch = a->epoch;
    memcpy(n->gate_peer, a->peer.store, 16);
    n->mode = a->mode;
    node_synced(n);
}

static int gate_plain(struct node *n)
{
    switch (n->mode) {
    case LEASE_GATE_CLOSED:
        return -EIO;
    case LEASE_GATE_WAIT:
        return 1;
    case LEASE_GATE_PAIR:
        return local(n) < n->deadline ? 0 : 1;
    default:
        return 0;
    }
}

/* fs/dumontfs_gate.c and fs/lease/gate.c. */
static int gate_sync(struct node *n, const struct waiting *q)
{
    int p = gate_plain(n);
    if (p != 0 || w.level == DMT_SYNC_LOCAL)
        return p;
    bool dual = n->s.rec.hold != 0 && !n->s.rec.alone;
    if (dual && q->ref_seq != 0 && !bulk_have(n, q->ino, q->ref_seq))
        return 1;
    return n->mode == LEASE_GATE_PAIR && n->acked < (uint64_t)q->seq ? 1 : 0;
}

void node_acked(struct node *n, const uint8_t store[16], uint64_t epoch, uint64_t durable,
                uint64_t whole)
{
    n->heard_epoch = epoch;
    n->heard_durable = durable;
    memcpy(n->heard_store, store, 16);
    if (epoch != 0 && epoch == n->gate_epoch && memcmp(store, n->gate_peer, 16) == 0 &&
        durable > n->acked)
        n->acked = durable;
    enum dmt_lease_state st = lease_core_state(&n->s);
    if (st == DMT_LEASE_HOLDER_ALONE || st == DMT_LEASE_LEAVING) {
        struct lease_event *e = post(n, LEASE_EV_PEER_ACK);
        memcpy(e->id.node, n->rc.peer.node, sizeof(e->id.node));
        memcpy(e->id.store, store, 16);
        e->epoch = epoch;
        e->durable = durable;
        e->whole = whole;
    }
    node_synced(n);
}

/* --- client --- */

void node_synced(struct node *n)
{
    for (int i = 0; i < SYNCS_MAX; i++) {
        struct waiting *q = &n->waiting[i];
        if (q->seq == 0 || q->preparing || n->durable < q->seq)
            continue;
        int r = gate_sync(n, q);
        if (r == 0)
            judge_ack(n, q);
        if (r <= 0)
            q->seq = 0;
    }
}

static void forget_waiting(struct node *n)
{
    memset(n->waiting, 0, sizeof(n->waiting));
}

static struct waiting *free_place(struct node *n)
{
    for (int i = 0; i < SYNCS_MAX; i++)
        if (n->waiting[i].seq == 0)
            return &n->waiting[i];
    return NULL;
}

/* The bytes are durable here: MARK says so, then the gate is asked. */
void node_data(struct node *n, int i)
{
    struct waiting *q = &n->waiting[i];
    if (q->seq == 0 || !q->preparing)
        return;
    files_data_durable(n, q->ino);
    q->preparing = false;
    if (!n->opened || !files_mark(n, q->ino, q->called)) {
        q->seq = 0;
        return;
    }
    q->seq = n->tail;
    peer_appended(n);
    node_synced(n);
}

/* fsync of one file, or of all. */
static void call_sync(struct node *n, uint32_t ino)
{
    struct waiting *q = free_place(n);
    if (!q || n->tail == 0)
        return;
    *q = (struct waiting){.seq = n->tail, .called = n->tail, .ino = ino};
    for (int i = 0; i < NAMES; i++)
        n->f.v[i].synced = n->f.v[i].synced || ino == 0 || n->f.v[i].ino == ino;
    if (!w.bulk)
        return;
    q->ref_seq = files_ref_seq(n, ino);
    q->preparing = files_unmarked(n, ino);
    if (q->preparing)
        push(w.now + MS / 2 + rnd(w.fsync_max), W_DATA, idx(n))->n = (uint64_t)(q - n->waiting);
}

/* What programs do next with their files, also with one that another of them is syncing. */
static struct rec next_op(struct node *n)
{
    struct rec r = {.op = OP_PLAIN};
    if (!w.bulk || rnd(3) == 0)
        return r;
    int name = (int)rnd(NAMES), to = (int)rnd(NAMES);
    const struct file *f = &n->f.v[name];
    if (f->ino == 0)
        return (struct rec){.op = OP_CREATE, .name = (uint8_t)name};
    r.ino = f->ino;
    r.off = (uint8_t)(rnd(3) && f->c.size < BLOCKS ? f->c.size : (int)rnd(BLOCKS));
    if (r.off > f->c.size)
        r.off = (uint8_t)f->c.size;
    if (r.off == BLOCKS)
        r.off = BLOCKS - 1;
    uint64_t what = rnd(16);
    if (what < 8 && w.next_ref < REFS_MAX - 1) {
        r.op = OP_REF;
        r.len = (uint8_t)(1 + rnd((uint64_t)(BLOCKS - r.off)));
        r.ref = ++w.next_ref;
    } else if (what < 11) {
        r.op = OP_WRITE;
        r.len = 1;
    } else if (what == 11) {
        r.op = OP_TRUNC;
        r.off = (uint8_t)(rnd(3) ? 0 : rnd((uint64_t)f->c.size + 1));
    } else if (what < 14 && to != name) {
        r.op = OP_RENAME;
        r.name = (uint8_t)name;
        r.to = (uint8_t)to;
    } else if (what == 14) {
        r.op = OP_UNLINK;
        r.name = (uint8_t)name;
    }
    return r;
}

static bool mutate(struct node *n)
{
    struct rec r = next_op(n);
    struct file *f = files_of(&n->f, r.ino);
    if (f && f->c.size == 0)
        f->synced = false;
    if (n->tail >= RECS_MAX - 700 || (r.op == OP_REF && !files_end_generation(n, r.ino)) ||
        !journal_append(n, n->write_epoch, false, &r))
        return false;
    peer_appended(n);
    return true;
}

/* sync=write: every call is acknowledged like a sync, and the next one waits for it. */
static void client_of_write(struct node *n)
{
    if (n->waiting[0].seq || !mutate(n))
        return;
    n->waiting[0] = (struct waiting){.seq = n->tail, .called = n->tail, .plain = true};
}

void node_client(struct node *n)
{
    bool writes = n->opened && n->mode != LEASE_GATE_CLOSED && n->mode != LEASE_GATE_READONLY;
    /* A call that begins while it must wait has its record logged and waits then. */
    if (writes && gate_plain(n) >= 0 && w.level == DMT_SYNC_WRITE) {
        client_of_write(n);
    } else if (writes && gate_plain(n) >= 0 && mutate(n)) {
        if (gate_plain(n) == 0)
            judge_plain(n);
        if (w.all_sync || rnd(2) == 0)
            call_sync(n, w.bulk && rnd(4) ? n->f.v[rnd(NAMES)].ino : 0);
    } else if (writes && n->waiting[0].seq == 0) {
        call_sync(n, 0);
    }
    node_synced(n);
    push(w.now + MS + rnd(w.think), W_CLIENT, idx(n));
}

/* --- actions of the lease core --- */

static void queue_io(struct node *n, const struct lease_action *a)
{
    DMT_ASSERT(n->io_n < IO_MAX);
    struct lease_action *q = malloc(sizeof(*q));
    DMT_ASSERT(q);
    *q = *a;
    n->io[n->io_n++] = q;
    if (!n->io_busy) {
        n->io_busy = true;
        push(w.now + rnd(3 * MS), W_IO, idx(n));
    }
}

static void act(struct node *n, const struct lease_action *a)
{
    struct msg m = {.kind = M_PING};
    switch (a->type) {
    case LEASE_ACT_CLOSE:
        apply_gate(n, a);
        return;
    case LEASE_ACT_LEASE:
        n->deadline = a->deadline_ns;
        node_synced(n);
        return;
    case LEASE_ACT_SEND:
        m.ping = a->msg;
        m.ping.from = n->disk.self;
        m.ping.instance = n->s.conf.instance;
        wire_send(n, CH_PING, &m);
        return;
    case LEASE_ACT_BEAT:
        arbiter_beat(n);
        return;
    case LEASE_ACT_EVENT:
        say("%s: %s: %s", n->name, a->kind, a->text);
        return;
    case LEASE_ACT_MAY_STOP:
        return;
    default:
        queue_io(n, a);
        return;
    }
}

void node_break_down(struct node *n, const char *why)
{
    struct lease_event *e = post(n, LEASE_EV_BROKEN);
    memcpy(e->text, why, strlen(why) + 1);
    n->stuck = true;
    node_restart_soon(n, (n->full_until > w.now ? n->full_until - w.now : 0) + DMT_S);
}

static void say_role(struct node *n, enum dmt_replica_role role, uint64_t epoch, bool alone)
{
    struct replica_event *e = peer_post(n, REPLICA_EV_ROLE);
    e->role = role;
    e->epoch = epoch;
    e->flag = alone;
    e->seen = n->disk.seen;
}

static bool begin_epoch(struct node *n, uint64_t epoch)
{
    if (!n->has_ws)
        return false;
    files_apply(n, n->tail);
    if (!n->opened)
        files_forget_syncs(n);
    if (!journal_append(n, epoch, true, NULL))
        return false;
    journal_sync(n);
    n->write_epoch = epoch;
    judge_opened(n, epoch);
    return true;
}

static void open_epoch(struct node *n, const struct lease_action *a)
{
    say("%s opens epoch %s (%s)", n->name, epoch_text(a->epoch), a->text);
    bool good = begin_epoch(n, a->epoch);
    if (good && !n->settled) /* what the process before left behind */
        good = n->unsettled ? files_settle(n, a->epoch) : files_take_up(n, a->epoch);
    if (!good) {
        node_break_down(n, "the epoch cannot be opened");
        return;
    }
    n->settled = n->own_bulk = true;
    total.solos += strcmp(a->text, "solo") == 0;
    total.pairs += strcmp(a->text, "pair") == 0;
    if (strcmp(a->text, "pair") == 0)
        judge_files_paired(n);
    n->opened = true;
    say_role(n, DMT_REPLICA_SENDER, a->epoch, a->alone);
}

static void write_record(struct node *n, const struct lease_record *r)
{
    if (n->full_until > w.now) {
        node_break_down(n, "node.state cannot be written");
        return;
    }
    judge_record_written(n, r);
    bool news = w.forces && w.bucket && memcmp(n->disk.lineage.id, r->lineage.id, 16) != 0;
    n->disk = *r;
    if (news)
        push(w.now + rnd(20 * MS), W_BUCKET, idx(n));
}

static void do_one(struct node *n, const struct lease_action *a)
{
    switch (a->type) {
    case LEASE_ACT_WRITE:
        write_record(n, &a->record);
        return;
    case LEASE_ACT_GATE:
        apply_gate(n, a);
        post(n, LEASE_EV_GATE)->gen = a->gen;
        return;
    case LEASE_ACT_ASK:
        arbiter_ask(n, &a->ask);
        return;
    case LEASE_ACT_OPEN_EPOCH:
        open_epoch(n, a);
        return;
    case LEASE_ACT_PROMOTE:
        n->app = *a;
        app_post(n, APP_PROMOTE, 50 * MS);
        return;
    case LEASE_ACT_DEMOTE:
        n->opened = false;
        forget_waiting(n);
        say_role(n, DMT_REPLICA_RECEIVER, 0, false);
        return;
    case LEASE_ACT_FOLLOW:
        files_keep_own(n);
        n->unsettled = true; /* from now on what is missing here is another's */
        peer_post_follow(n, a->epoch);
        return;
    case LEASE_ACT_LOSE:
        n->app = *a;
        app_post(n, APP_LOSE, 30 * MS);
        return;
    case LEASE_ACT_FETCH:
        (void)peer_post(n, REPLICA_EV_DO_FETCH);
        return;
    case LEASE_ACT_ORDER_RESYNC:
        (void)peer_post(n, REPLICA_EV_DO_ORDER);
        return;
    case LEASE_ACT_RESYNC:
        n->resync_next = a->gen;
        app_post(n, APP_RESYNC, 30 * MS);
        return;
    case LEASE_ACT_DRAIN:
        n->frozen_drain = false;
        app_post(n, APP_DRAIN, 20 * MS);
        return;
    default:
        DMT_ASSERT(false);
    }
}

void node_io(struct node *n)
{
    if (n->io_n == 0) {
        n->io_busy = false;
        return;
    }
    struct lease_action *a = n->io[0];
    memmove(n->io, n->io + 1, sizeof(n->io[0]) * (size_t)(--n->io_n));
    uint32_t life = n->life;
    if (!n->stuck)
        do_one(n, a);
    free(a);
    if (n->life != life)
        return;
    n->io_busy = n->io_n > 0;
    if (n->io_busy)
        push(w.now + rnd(one_in(20) ? 30 * MS : 3 * MS), W_IO, idx(n));
}

/* --- the main thread --- */

void app_post(struct node *n, enum app_op op, uint64_t most)
{
    uint64_t at = w.now + rnd(most);
    if (at <= n->app_at)
        at = n->app_at + 1;
    n->app_at = at;
    push(at, W_APP, idx(n))->n = op;
}

/* fs/dumontfs_lineage.c: everything is applied, an empty journal begins in the record's lineage. */
static void new_lineage(struct node *n)
{
    int from = n->lin.id[0];
    if (from == 0 || from == n->disk.lineage.id[0])
        return;
    journal_sync(n);
    files_apply(n, n->tail);
    peer_ws(n, false);
    n->lin = n->disk.lineage;
    n->oldest = n->tail;
    if (w.bulk)
        files_checkpoint(n);
    peer_ws(n, true);
    judge_forced(n, from);
    say("%s is of lineage %d from record %d on", n->name, n->lin.id[0], n->tail);
}

static void promote(struct node *n)
{
    const struct lease_action *a = &n->app;
    if (a->forced && n->has_ws)
        new_lineage(n);
    say("%s is promoted, epoch %s (%s)", n->name, epoch_text(a->epoch), a->text);
    if (n->has_ws)
        journal_sync(n); /* all that was received counts (R6) */
    if (!begin_epoch(n, a->epoch) ||
        !(n->own_bulk ? files_take_up(n, a->epoch) : files_settle(n, a->epoch))) {
        post(n, LEASE_EV_PROMOTE_DONE)->err = -ENOSPC;
        n->stuck = true;
        node_restart_soon(n, (n->full_until > w.now ? n->full_until - w.now : 0) + DMT_S);
        return;
    }
    if (a->alone)
        total.promotions++;
    else
        total.handovers++;
    n->opened = n->settled = true;
    (void)post(n, LEASE_EV_PROMOTE_DONE);
    say_role(n, DMT_REPLICA_SENDER, a->epoch, a->alone);
}

static void lose(struct node *n)
{
    const struct lease_action *a = &n->app;
    if (a->forced) { /* the branch is kept, the rest is the resync's */
        total.branches += a->text[0] && n->tail > (int)a->switch_seq;
        (void)post(n, LEASE_EV_LOSE_DONE);
        (void)peer_post(n, REPLICA_EV_CANNOT);
        return;
    }
    /* Not with degrade=block: a pair then waits for a person (docs/protocol.md, "Weakest
     * arguments"). */
    if (!n->has_ws || (!w.block && (n->full_until > w.now || one_in(40))) ||
        !files_can_cut(n, (int)a->switch_seq)) {
        post(n, LEASE_EV_LOSE_DONE)->err = -EIO;
        (void)peer_post(n, REPLICA_EV_CANNOT);
        return;
    }
    say("%s keeps %d records as branch %s", n->name, n->tail - (int)a->switch_seq, a->text);
    journal_cut(n, (int)a->switch_seq);
    journal_sync(n);
    (void)post(n, LEASE_EV_LOSE_DONE);
}

static void resync(struct node *n)
{
    peer_ws(n, false);
    n->resync_waits = false;
    n->resync_order = n->resync_next;
    judge_resync(n);
    journal_clear(n);
    (void)peer_post(n, REPLICA_EV_RESYNC_READY);
}

static void imported(struct node *n)
{
    if (!n->import)
        return;
    total.resyncs++;
    judge_files_replaced(n);
    n->tail = n->ep_n = 0;
    n->jgen++;
    for (int i = 0; i < n->import_n; i++) {
        const struct rec *r = &n->import[i];
        n->j[n->tail++] = *r;
        if (r->fork)
            n->ep[n->ep_n++] =
                (struct replica_epoch){r->epoch, r->fork - 1, pos_of(n, (int)r->fork - 1).chain};
    }
    n->durable = n->oldest = n->tail;
    files_import(n);
    free(n->import);
    n->import = NULL;
    n->empty = false;
    total.lines_left += n->lin.id[0] && n->lin.id[0] != n->import_lin.id[0];
    n->lin = n->import_lin;
    n->resync_waits = true;
    peer_ws(n, true);
}

static void drain(struct node *n)
{
    if (lease_core_state(&n->s) != DMT_LEASE_HOLDER_PAIRED || !n->s.draining)
        return;
    if (!n->frozen_drain) {
        n->frozen_drain = true;
        (void)post(n, LEASE_EV_FREEZE);
        app_post(n, APP_DRAIN, 20 * MS);
        return;
    }
    bool all = n->mode == LEASE_GATE_WAIT && n->acked >= (uint64_t)n->tail && n->durable == n->tail;
    if (!all && n->g.joined && !one_in(20)) {
        app_post(n, APP_DRAIN, 20 * MS);
        return;
    }
    post(n, LEASE_EV_DRAINED)->err = all ? 0 : -ETIMEDOUT;
}

void node_app(struct node *n, enum app_op op)
{
    switch (op) {
    case APP_PROMOTE:
        promote(n);
        return;
    case APP_LOSE:
        lose(n);
        return;
    case APP_FETCHED:
        post(n, LEASE_EV_FETCH_DONE)->err = n->app.switch_seq ? -ENOTCONN : 0;
        return;
    case APP_RESYNC:
        resync(n);
        return;
    case APP_IMPORTED:
        imported(n);
        return;
    case APP_DRAIN:
        drain(n);
        return;
    }
}

/* --- life --- */

void node_start(struct node *n)
{
    struct lease_core_conf c = {.solo_after_ms = 3000,
                                .degrade = w.block ? DMT_DEGRADE_BLOCK : DMT_DEGRADE_SOLO,
                                .has_peer = true};
    c.instance = rnd(0) | 1;
    c.instance = w.rnd | 1;
    DMT_ASSERT(dmt_lease_timers_check(&c.timers, NULL) == 0);
    n->life++;
    n->up = true;
    n->stuck = false;
    n->next_step = n->ev_at = n->loop_at = n->app_at = 0;
    n->io_busy = n->fsyncing = n->opened = false;
    n->mode = LEASE_GATE_CLOSED;
    n->gen = n->gate_epoch = n->acked = n->deadline = n->heard_epoch = 0;
    forget_waiting(n);
    n->settled = false;
    n->resync_order = n->resync_next = 0;
    n->ping_conn = 0;
    bool holds = n->disk.hold != 0 && !n->disk.resync && !n->disk.gave_up;
    n->own_bulk = holds && !n->unsettled;
    lease_core_init(&n->s, &c, &n->disk);
    say("%s starts", n->name);
    if (n->has_ws)
        files_reload(n, holds ? n->tail : 0);
    if (holds && n->has_ws)
        new_lineage(n); /* begun, and not ended by the life before */
    total.restarts++;
    peer_start(n, holds);
    if (!n->has_ws) { /* a resync was cut off in the midst: it goes on, and the old state rests */
        judge_resync(n);
        (void)peer_post(n, REPLICA_EV_RESYNC_READY);
        say("%s goes on with its resync", n->name);
    }
    feed_type(n, LEASE_EV_START);
    if (w.bucket)
        object_start(n);
    else if (n->arb_link && w.arb_up)
        (void)post(n, LEASE_EV_ARB_UP);
    push(w.now + rnd(50 * MS), W_CLIENT, idx(n));
    push(w.now + DMT_S, W_TICK, idx(n));
}

/* power: what was not synced is gone. What the io thread had not done yet is gone in both cases. */
void node_stop(struct node *n, bool power)
{
    if (!n->up)
        return;
    say("%s %s", n->name, power ? "loses power" : "ends");
    bool reset = !power || one_in(2); /* the kernel of a killed process closes its sockets */
    for (enum channel ch = 0; ch < CHANNELS && reset; ch++)
        if (*wire_conn(n, ch))
            wire_send(n, ch, &(struct msg){.kind = M_FIN});
    n->g = (struct greeting){0};
    n->ping_conn = 0;
    n->life++;
    n->up = false;
    n->thaw_at = 0;
    bulk_end(n);
    if (power)
        journal_forget(n);
    for (int i = 0; i < n->io_n; i++)
        free(n->io[i]);
    n->io_n = 0;
    free(n->import);
    n->import = NULL;
}

void node_restart_soon(struct node *n, uint64_t after)
{
    push(w.now + after, W_RESTART, -1)->n = (uint64_t)idx(n);
}
