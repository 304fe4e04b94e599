/* core_follower.c: the standby: promises, suspicion, candidacy; obeying new epochs; loser and
 * resync.
 *
 * Happy path: every PING is answered by a PONG that promises "no PROMOTE of mine for H from now"
 * (R12). Silence for H/2: the register is read (and again every H/2), so that at the end of the
 * promise a fresh answer is at hand (R13). Then CANDIDATE: from the decision to ask until the
 * answer is known no PONG leaves (F20). Epochs: a frame or hello of a higher epoch is obeyed only
 * after `seen` is durable (R4); if that epoch opened before our tail, the tail is saved as a branch
 * and cut first (R5, R15): the one place where records are ever cut. Failure modes: register
 * unanswered: it stays follower and keeps promising. Not in the in-sync set: it stays follower.
 * Refused because the controller hears the holder (F23): follower again. Word of death and the
 * operator's word shorten the wait, never the read (F19).
 */
#include <stdio.h>
#include <string.h>

#include "fs/lease/core.h"

#define UNFIT_READ_MS   1000u
#define STOPPED_READ_MS 5000u
#define RESYNC_RETRY_MS 1000u
#define HUNG_DISK_MS    30000u

/* No PROMOTE of ours before `until`. Only ever later: a PONG cannot be taken back, whatever this
 * node becomes meanwhile (R12). */
static void promise(struct lease_state *s, uint64_t until)
{
    if (until > s->promise_ns)
        s->promise_ns = until;
}

/* --- pings --- */

static uint32_t widest_gap_ms(struct lease_gaps *g, uint64_t now)
{
    uint64_t minute = now / (60 * DMT_S);
    uint32_t max = 0;
    for (int i = 0; i < 10; i++)
        if (minute - g->minute[i] < 10 && g->max_ms[i] > max)
            max = g->max_ms[i];
    return max;
}

static void note_gap(struct lease_gaps *g, uint64_t gap_ms, uint64_t now)
{
    uint64_t minute = now / (60 * DMT_S);
    int i = (int)(minute % 10);
    if (g->minute[i] != minute) {
        g->minute[i] = minute;
        g->max_ms[i] = 0;
    }
    if (gap_ms > g->max_ms[i])
        g->max_ms[i] = (uint32_t)(gap_ms < LEASE_H_MAX_MS ? gap_ms : LEASE_H_MAX_MS);
}

/* R25: H adapts to the round trip and to the holder's own stalls; safe at any time, each PONG
 * states its H. */
static uint32_t adapt(struct lease_state *s, uint32_t rtt_us, uint64_t now)
{
    uint64_t h = s->conf.timers.lease_ms, by_rtt = (uint64_t)rtt_us * 10 / 1000;
    uint64_t by_gap = 4ull * widest_gap_ms(&s->gaps, now);
    if (by_rtt > 100 && by_rtt + 500 > h)
        h = by_rtt + 500;
    if (by_gap > h)
        h = by_gap;
    return (uint32_t)(h < LEASE_H_MAX_MS ? h : LEASE_H_MAX_MS);
}

void lease_answer_ping(struct lease_state *s, const struct lease_msg *m, uint64_t now,
                       struct lease_actions *out)
{
    enum dmt_lease_state st = lease_core_state(s);
    if (DMT_EPOCH_MAJOR(m->epoch) < DMT_EPOCH_MAJOR(s->rec.seen)) {
        struct lease_msg *n = &lease_act(out, LEASE_ACT_SEND)->msg;
        n->type = LEASE_NACK;
        n->epoch = s->rec.seen;
        n->sent_ns = m->sent_ns;
        return;
    }
    if (st == DMT_LEASE_GIVEN_UP && DMT_EPOCH_MAJOR(m->epoch) > DMT_EPOCH_MAJOR(s->rec.seen)) {
        lease_become_follower(s, out, now); /* told: another holds */
        st = DMT_LEASE_FOLLOWER;
    }
    if (m->instance == s->heard_instance && s->heard_ns && now > s->heard_ns)
        note_gap(&s->gaps, (now - s->heard_ns) / DMT_MS, now);
    if (s->peer_sync_ms <= HUNG_DISK_MS && m->oldest_sync_ms > HUNG_DISK_MS)
        lease_say(out, "hung-sync",
                  "a sync on %s waits for more than 30 s; handover or promotion may help",
                  m->from.node);
    s->peer_sync_ms = m->oldest_sync_ms;
    s->heard_ns = now;
    s->heard_instance = m->instance;
    if (m->instance !=
        s->dead_instance) /* else it was sent before the death, and came after the word of it */
        s->dead = false;
    if (s->rec.peer_stopped) {
        s->rec.peer_stopped = false;
        lease_write(s, out);
    }
    if (st == DMT_LEASE_CANDIDATE) /* F20 */
        return;
    s->lease_ms = adapt(s, m->rtt_us, now);
    promise(s, now + s->lease_ms * DMT_MS);
    struct lease_msg *p = &lease_act(out, LEASE_ACT_SEND)->msg;
    p->type = LEASE_PONG;
    p->epoch = s->rec.seen;
    p->sent_ns = m->sent_ns;
    p->promise_ms = s->lease_ms;
    p->flags = s->rec.resync ? LEASE_F_RESYNC : 0;
}

/* --- epochs --- */

/* Each order has a number: one may be given while what came by the last is about to be proved, and
 * that must not count for it. */
static void order_resync(struct lease_state *s, struct lease_actions *out)
{
    lease_act(out, LEASE_ACT_RESYNC)->gen = ++s->resync_order;
}

static void follow(struct lease_state *s, const struct lease_event *e, struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    /* Who opens an epoch lives, also in the process that had given up before (bucket: HAND). */
    if (e->epoch > r->seen)
        s->dead = false;
    if (e->epoch > r->seen || !lease_id_eq(&r->peer, &e->id)) {
        r->seen = e->epoch > r->seen ? e->epoch : r->seen;
        r->peer = e->id;
        lease_write(s, out); /* R4: durable before the first frame of it is obeyed */
    }
    lease_act(out, LEASE_ACT_FOLLOW)->epoch = e->epoch;
}

/* The claimant was forced out of the lineage that our store is of: that one is over. What is here
 * and not there is kept as a branch; our journal, which is of the old one, is never continued with
 * the new one's records, so a resync follows. */
static void leave_lineage(struct lease_state *s, const struct lease_event *e,
                          struct lease_actions *out)
{
    enum dmt_lease_state st = lease_core_state(s);
    struct lease_record *r = &s->rec;
    bool left = memcmp(r->lineage.id, e->lineage.id, 16) == 0; /* in an earlier life, or epoch */
    if (st == DMT_LEASE_RESYNC) {
        r->lineage = e->lineage;
        if (e->durable == 0) { /* the store is closed for it */
            follow(s, e, out);
        } else if (e->alone) { /* not begun: the old state, whole */
            r->seen = e->epoch;
            lease_write(s, out);
            order_resync(s, out);
        }
        return;
    }
    if (!s->over && !left)
        lease_say(out, "lineage-over",
                  "%s was promoted by force and holds epoch %u; our own is over", e->id.node,
                  DMT_EPOCH_MAJOR(e->epoch));
    s->over = s->losing = true;
    s->asking = false;
    s->claim = *e;
    lease_move(s, DMT_LEASE_LOSER);
    struct lease_action *a = lease_act(out, LEASE_ACT_LOSE);
    a->epoch = e->epoch;
    a->switch_seq = e->switch_seq;
    a->forced = true;
    if (!left)
        (void)snprintf(a->text, sizeof(a->text), "epoch-%u.%u-%s", DMT_EPOCH_MAJOR(r->seen),
                       DMT_EPOCH_MINOR(r->seen), r->self.node);
}

/* The branch of the old lineage is saved: from here on, over restarts too, we belong to the new
 * one (R4), and wait for its holder's order. */
static void lineage_left(struct lease_state *s, struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    if (memcmp(r->lineage.id, s->claim.lineage.id, 16) != 0)
        lease_say(out, "branch",
                  "what only this machine had is kept as a branch; waiting for a resync");
    r->lineage = s->claim.lineage;
    r->seen = s->claim.epoch;
    r->peer = s->claim.id;
    s->over = s->reg_known = false;
    lease_write(s, out);
}

static void on_claim(struct lease_state *s, const struct lease_event *e, uint64_t now,
                     struct lease_actions *out)
{
    enum dmt_lease_state st = lease_core_state(s);
    if (e->epoch < s->rec.seen) {
        lease_say(out, "refused", "%s claims epoch %u.%u, we have obeyed %u.%u", e->id.node,
                  DMT_EPOCH_MAJOR(e->epoch), DMT_EPOCH_MINOR(e->epoch),
                  DMT_EPOCH_MAJOR(s->rec.seen), DMT_EPOCH_MINOR(s->rec.seen));
        return;
    }
    uint32_t mine = s->taking ? s->reg.epoch : s->ask.base;
    if (st == DMT_LEASE_CANDIDATE && DMT_EPOCH_MAJOR(e->epoch) > mine) {
        s->asking = false; /* based on an epoch that is over: it can never be granted */
        lease_become_follower(s, out, now);
        st = DMT_LEASE_FOLLOWER;
    }
    if (st == DMT_LEASE_GIVEN_UP && DMT_EPOCH_MAJOR(e->epoch) > DMT_EPOCH_MAJOR(s->rec.seen)) {
        lease_become_follower(s, out, now);
        st = DMT_LEASE_FOLLOWER;
    }
    if (st == DMT_LEASE_CANDIDATE || s->losing) {
        s->claim = *e;
        s->claimed = st == DMT_LEASE_CANDIDATE;
        return;
    }
    if (st != DMT_LEASE_FOLLOWER && st != DMT_LEASE_LOSER && st != DMT_LEASE_RESYNC)
        return;
    if (e->newer) {
        leave_lineage(s, e, out);
        return;
    }
    if (e->switch_seq >= e->durable) {
        follow(s, e, out);
        if (st == DMT_LEASE_LOSER) {
            lease_move(s, DMT_LEASE_FOLLOWER);
            s->heard_ns = now; /* the promise stays what it is: given is given */
        }
        return;
    }
    if (st == DMT_LEASE_RESYNC) { /* ordered in an earlier life and not begun: the old state */
        if (e->alone)
            order_resync(s, out);
        return;
    }
    if (e->epoch <= s->rec.seen) { /* F4, R5 */
        lease_say(out, "refused", "%s wants records of epoch %u.%u cut that we have followed",
                  e->id.node, DMT_EPOCH_MAJOR(e->epoch), DMT_EPOCH_MINOR(e->epoch));
        return;
    }
    s->claim = *e;
    s->losing = true;
    lease_move(s, DMT_LEASE_LOSER);
    struct lease_action *a = lease_act(out, LEASE_ACT_LOSE);
    a->epoch = e->epoch;
    a->switch_seq = e->switch_seq;
    (void)snprintf(a->text, sizeof(a->text), "epoch-%u.%u-%s", DMT_EPOCH_MAJOR(s->rec.seen),
                   DMT_EPOCH_MINOR(s->rec.seen), s->rec.self.node);
}

void lease_become_follower(struct lease_state *s, struct lease_actions *out, uint64_t now)
{
    enum dmt_lease_state old = lease_core_state(s);
    s->asking = s->taking = false;
    if (old == DMT_LEASE_GIVEN_UP) {
        s->rec.gave_up = s->rec.fenced = false;
        lease_write(s, out);
        lease_act(out, LEASE_ACT_DEMOTE);
        /* The register's news may be slower than this channel. */
        lease_act(out, LEASE_ACT_SEND)->msg.type = LEASE_NOTICE;
        s->heard_ns = now;
        promise(s, now + s->lease_ms * DMT_MS);
    }
    lease_move(s, DMT_LEASE_FOLLOWER);
    if (s->claimed) {
        struct lease_event claim = s->claim;
        s->claimed = false;
        on_claim(s, &claim, now, out);
    }
}

static void on_lose_done(struct lease_state *s, const struct lease_event *e, uint64_t now,
                         struct lease_actions *out)
{
    if (!s->losing || lease_core_state(s) != DMT_LEASE_LOSER)
        return;
    s->losing = false;
    if (e->err < 0) {
        lease_say(out, "branch-failed", "the tail cannot be cut: %s; waiting for a resync",
                  dmt_strerror(e->err));
        return;
    }
    if (s->claim.newer && s->over) {
        lineage_left(s, out);
        return;
    }
    if (s->claim.newer) { /* it was claimed while an older claim was served */
        leave_lineage(s, &s->claim, out);
        return;
    }
    lease_say(out, "branch", "epoch %u: records beyond its start are kept as a branch",
              DMT_EPOCH_MAJOR(s->claim.epoch));
    follow(s, &s->claim, out);
    lease_move(s, DMT_LEASE_FOLLOWER);
    s->heard_ns = now; /* the promise stays what it is: given is given */
}

static void on_resync_ordered(struct lease_state *s, const struct lease_event *e,
                              struct lease_actions *out)
{
    enum dmt_lease_state st = lease_core_state(s);
    struct lease_record *r = &s->rec;
    if (!e->alone || e->epoch < r->seen || s->losing || st == DMT_LEASE_GIVEN_UP) { /* R11, F12 */
        lease_say(out, "refused", "a resync ordered in epoch %u%s", DMT_EPOCH_MAJOR(e->epoch),
                  e->alone ? "" : " by a holder that is not alone");
        return;
    }
    if (st == DMT_LEASE_CANDIDATE) {
        if (DMT_EPOCH_MAJOR(e->epoch) <= (s->taking ? s->reg.epoch : s->ask.base))
            return; /* our PROMOTE may still be granted */
        s->asking = s->taking = false;
    }
    r->seen = e->epoch;
    if (dmt_lineage_known(&e->lineage)) /* the store's, when it is done */
        r->lineage = e->lineage;
    r->resync = true; /* durable before the first change of the store */
    s->claimed = false;
    lease_write(s, out);
    order_resync(s, out);
    lease_move(s, DMT_LEASE_RESYNC);
}

void lease_follower_event(struct lease_state *s, const struct lease_event *e, uint64_t now,
                          struct lease_actions *out)
{
    switch (e->type) {
    case LEASE_EV_PEER_UP:
        s->peer_up = true;
        s->peer_id = e->id;
        return;
    case LEASE_EV_PEER_DOWN:
        s->peer_up = false;
        return;
    case LEASE_EV_PEER_EPOCH:
        on_claim(s, e, now, out);
        return;
    case LEASE_EV_LOSE_DONE:
        on_lose_done(s, e, now, out);
        return;
    case LEASE_EV_RESYNC_ORDERED:
        on_resync_ordered(s, e, out);
        return;
    case LEASE_EV_RESYNC_DONE:
        if (lease_core_state(s) != DMT_LEASE_RESYNC || e->gen != s->resync_order)
            return;
        if (e->err < 0) {
            s->resync_retry_ns = now + RESYNC_RETRY_MS * DMT_MS;
            return;
        }
        s->resync_retry_ns = 0;
        s->rec.resync = false;
        lease_write(s, out);
        lease_move(s, DMT_LEASE_FOLLOWER);
        promise(s, now + s->lease_ms * DMT_MS);
        lease_say(out, "resynced", "this copy is complete again");
        return;
    case LEASE_EV_DEATH: /* F19: only about the process whose pings we heard */
        if (e->instance && s->heard_instance && e->instance != s->heard_instance)
            return;
        if (s->reg_known && !lease_id_none(&s->reg.holder) &&
            strcmp(e->id.node, s->reg.holder.node) != 0)
            return;
        s->dead = true;
        s->dead_instance = e->instance;
        s->read_next_ns = s->not_before_ns = now;
        return;
    case LEASE_EV_HIGHER:
        s->read_next_ns = now;
        /* Told: another holds. In a lineage that it forced nothing else would tell: pings and
         * register are each lineage's own. */
        if (lease_core_state(s) == DMT_LEASE_GIVEN_UP &&
            DMT_EPOCH_MAJOR(e->epoch) > DMT_EPOCH_MAJOR(s->rec.seen))
            lease_become_follower(s, out, now);
        return;
    default:
        return;
    }
}

/* --- timers --- */

/* The last word of the register, if it makes us promotable. */
static bool promotable(const struct lease_state *s)
{
    return s->reg_known && s->reg.epoch != 0 && s->reg.epoch >= DMT_EPOCH_MAJOR(s->rec.seen) &&
           lease_register_has(&s->reg, &s->rec.self) && !lease_id_eq(&s->reg.holder, &s->rec.self);
}

void lease_follower_timers(struct lease_state *s, const struct lease_event *e, uint64_t now,
                           struct lease_actions *out)
{
    (void)e;
    enum dmt_lease_state st = lease_core_state(s);
    if (st == DMT_LEASE_RESYNC && s->resync_retry_ns && lease_due(s, s->resync_retry_ns, now)) {
        s->resync_retry_ns = 0;
        order_resync(s, out);
    }
    /* Waiting for an epoch to join, or for a resync: the register may name us meanwhile. */
    if (st == DMT_LEASE_LOSER && !s->losing && s->conf.has_peer && !s->asking &&
        lease_due(s, s->read_next_ns, now)) {
        lease_ask(s, out, LEASE_READ, now);
        s->read_next_ns = now + UNFIT_READ_MS * DMT_MS;
        (void)lease_due(s, s->read_next_ns, now);
    }
    if (st != DMT_LEASE_FOLLOWER || !s->conf.has_peer)
        return;
    if (s->rec.peer_stopped && !s->operator_word) {
        /* Its silence means nothing; but a PROMOTE of an earlier life of ours may stand there. */
        if (!s->asking && lease_due(s, s->read_next_ns, now)) {
            lease_ask(s, out, LEASE_READ, now);
            s->read_next_ns = now + STOPPED_READ_MS * DMT_MS;
            (void)lease_due(s, s->read_next_ns, now);
        }
        return;
    }
    uint64_t half_ns = s->lease_ms * DMT_MS / 2;
    bool word = s->dead || s->operator_word;
    if (!word && !lease_due(s, s->heard_ns + half_ns, now))
        return;
    bool fresh = s->reg_known && now - s->reg_ns < s->lease_ms * DMT_MS; /* R13 */
    if (fresh && promotable(s) && (word || lease_due(s, s->promise_ns, now)) &&
        lease_due(s, s->not_before_ns, now)) {
        lease_move(s, DMT_LEASE_CANDIDATE);
        lease_say(out, "candidate", "%s is silent for %llu ms%s", s->reg.holder.node,
                  (unsigned long long)((now - s->heard_ns) / DMT_MS),
                  s->dead            ? ", word of its death"
                  : s->operator_word ? ", the operator says so"
                                     : "");
        lease_ask(s, out, LEASE_PROMOTE, now);
        s->told_unfit = false;
        return;
    }
    if (fresh && !promotable(s)) {
        if (!s->told_unfit)
            lease_say(out, "not-promotable", "the register does not name this copy as in sync");
        s->told_unfit = true;
        s->operator_word = false;
    }
    if (!s->asking && lease_due(s, s->read_next_ns, now)) {
        lease_ask(s, out, LEASE_READ, now);
        s->read_next_ns = now + (fresh && !promotable(s) ? UNFIT_READ_MS * DMT_MS : half_ns);
    }
    (void)lease_due(s, s->read_next_ns, now);
}
