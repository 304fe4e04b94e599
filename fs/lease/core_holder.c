/* core_holder.c: the holder: start of a pair, the lease from the peer's PONGs, solo, leaving solo,
 * handover, becoming loser.
 *
 * Happy path: START waits for the peer (R6: if it is ahead, its tail is fetched first), opens minor
 * + 1, PAIRED. Each PONG moves the lease's end to its PING's send time + f * H (R12). The peer is
 * well while that lease runs and its replica connection is up; not well for solo_after: SOLO is
 * asked, and only its recorded answer opens the gate for one disk (R8). Alone with a peer that is
 * a moment behind: LEAVING (both disks needed, durably, before PAIR is sent: R9, F6), then PAIR
 * once the peer has acknowledged, in this epoch, everything that was ever acknowledged alone (F7,
 * F8b). HANDOVER: drained, then the right to write is given up durably, then asked (R10, F13).
 * Failure modes: any sign of a higher epoch makes a LOSER at once: gate first, record second.
 */
#include <string.h>

#include "fs/lease/core.h"

#define CATCH_UP_PATIENCE_NS (5 * DMT_S)
/* beyond two round trips; a standby syncs twice in it */
#define ROUND_NS           (100 * DMT_MS)
#define LEAVING_RESTART_MS 3000u

bool lease_peer_ok(const struct lease_state *s, uint64_t now)
{
    const uint8_t *want = s->rec.peer.store;
    return s->peer_up && !s->peer_wants_resync && !lease_id_none(&s->rec.peer) &&
           memcmp(s->peer_id.store, want, 16) == 0 && memcmp(s->lease_store, want, 16) == 0 &&
           now < s->lease_end_ns;
}

void lease_become_loser(struct lease_state *s, struct lease_actions *out, uint64_t epoch,
                        const char *how)
{
    struct lease_record *r = &s->rec;
    lease_gate(s, out, LEASE_GATE_CLOSED);
    lease_say(out, "lost", "%s holds epoch %u; ours was %u.%u", how, DMT_EPOCH_MAJOR(epoch),
              DMT_EPOCH_MAJOR(r->hold), DMT_EPOCH_MINOR(r->hold));
    r->hold = 0;
    r->alone = r->dual_ack = r->readonly = false;
    s->asking = s->draining = s->fetching = false;
    s->losing = s->claimed = false;
    lease_write(s, out);
    lease_act(out, LEASE_ACT_DEMOTE);
    lease_move(s, DMT_LEASE_LOSER);
}

/* START: the peer has been looked at (or the register was): the next minor epoch of this holding.
 */
static void open_minor(struct lease_state *s, uint64_t now, struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    r->hold = r->seen = r->seen + 1; /* R2, F1 */
    lease_open(s, out, "start");
    lease_move(s, r->dual_ack ? DMT_LEASE_LEAVING : DMT_LEASE_HOLDER_PAIRED);
    lease_gate(s, out, LEASE_GATE_PAIR);
    s->leave_gen = s->gate_gen;
    s->leave_known = false;
    s->ok_ns = now;
}

/* --- events --- */

static void on_pong(struct lease_state *s, const struct lease_msg *m, uint64_t now,
                    struct lease_actions *out)
{
    if (DMT_EPOCH_MAJOR(m->epoch) > DMT_EPOCH_MAJOR(s->rec.hold)) {
        if (lease_holding(s))
            lease_become_loser(s, out, m->epoch, m->from.node);
        return;
    }
    if (m->type != LEASE_PONG || m->sent_ns > now)
        return;
    uint64_t rtt = (now - m->sent_ns) / 1000;
    s->rtt_us = s->rtt_us ? (s->rtt_us * 7 + rtt) / 8 : rtt;
    /* f < 1 keeps us inside the promise with any clock within rho (R25). */
    uint64_t end = m->sent_ns + (uint64_t)m->promise_ms * s->conf.timers.f_permille * 1000;
    if (memcmp(s->lease_store, m->from.store, 16) != 0) {
        memcpy(s->lease_store, m->from.store, 16);
        s->lease_end_ns = 0;
    }
    if (end <= s->lease_end_ns)
        return;
    s->lease_end_ns = end;
    /* Second line: only the store named in this epoch can lengthen what plain calls rely on (R3).
     */
    if (!lease_id_none(&s->rec.peer) && memcmp(s->rec.peer.store, m->from.store, 16) == 0)
        lease_act(out, LEASE_ACT_LEASE)->deadline_ns = end;
}

static void on_peer_up(struct lease_state *s, const struct lease_event *e, uint64_t now,
                       struct lease_actions *out)
{
    if (lease_holding(s) && DMT_EPOCH_MAJOR(e->epoch) > DMT_EPOCH_MAJOR(s->rec.hold)) {
        lease_become_loser(s, out, e->epoch, e->id.node);
        return;
    }
    s->peer_up = true;
    s->peer_id = e->id;
    s->peer_since_ns = now;
    s->peer_bye = s->peer_wants_resync = s->resync_ordered = false;
    s->ack_epoch = s->ack_durable = s->ack_whole = 0;
    s->close_since_ns = 0;
    if (lease_core_state(s) != DMT_LEASE_START || s->fetching ||
        memcmp(e->id.store, s->rec.peer.store, 16) != 0)
        return;
    if (e->ahead) {
        s->fetching = true;
        lease_act(out, LEASE_ACT_FETCH);
    } else {
        open_minor(s, now, out);
    }
}

static void on_ack(struct lease_state *s, const struct lease_event *e)
{
    if (e->epoch != s->rec.hold || !s->peer_up || memcmp(e->id.store, s->peer_id.store, 16) != 0)
        return; /* R3 */
    s->ack_epoch = e->epoch;
    s->ack_durable = e->durable;
    s->ack_whole = e->whole;
    s->peer_wants_resync = false; /* it has joined this epoch */
}

static void on_promoted(struct lease_state *s, const struct lease_event *e, uint64_t now,
                        struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    if (lease_core_state(s) != DMT_LEASE_PROMOTING)
        return;
    s->forcing = false;
    if (e->err < 0) {
        lease_gate(s, out, LEASE_GATE_CLOSED);
        lease_say(out, "failed", "the promotion failed: %s", dmt_strerror(e->err));
        s->broken = true;
        return;
    }
    s->ok_ns = now;
    s->ack_epoch = 0;
    lease_move(s, r->alone ? DMT_LEASE_HOLDER_ALONE : DMT_LEASE_HOLDER_PAIRED);
    lease_gate(s, out,
               r->readonly ? LEASE_GATE_READONLY
               : r->alone  ? LEASE_GATE_ALONE
                           : LEASE_GATE_PAIR);
    lease_say(out, "holder", "epoch %u%s%s", DMT_EPOCH_MAJOR(r->hold), r->alone ? ": one copy" : "",
              r->readonly ? ", read-only until it is opened" : "");
}

static void on_drained(struct lease_state *s, const struct lease_event *e, uint64_t now,
                       struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    if (!s->draining)
        return;
    s->draining = false;
    if (lease_core_state(s) != DMT_LEASE_HOLDER_PAIRED)
        return;
    if (e->err < 0) {
        lease_gate(s, out, LEASE_GATE_PAIR);
        lease_say(out, "handover-failed", "%s", dmt_strerror(e->err));
        return;
    }
    lease_gate(s, out, LEASE_GATE_CLOSED);
    r->hold = 0;
    r->gave_up = true; /* durable before HANDOVER is sent (R10) */
    lease_write(s, out);
    lease_move(s, DMT_LEASE_GIVEN_UP);
    lease_ask(s, out, LEASE_HANDOVER, now);
}

void lease_holder_event(struct lease_state *s, const struct lease_event *e, uint64_t now,
                        struct lease_actions *out)
{
    switch (e->type) {
    case LEASE_EV_MSG:
        on_pong(s, &e->msg, now, out);
        return;
    case LEASE_EV_PEER_UP:
        on_peer_up(s, e, now, out);
        return;
    case LEASE_EV_PEER_DOWN:
        s->peer_up = s->resync_ordered = s->peer_wants_resync = false;
        s->ack_epoch = s->close_since_ns = 0;
        return;
    case LEASE_EV_PEER_ACK:
        on_ack(s, e);
        return;
    case LEASE_EV_GATE: /* what was acknowledged alone lies before this tail */
        if (lease_core_state(s) == DMT_LEASE_LEAVING && e->gen == s->leave_gen) {
            s->leave_at = e->tail;
            s->leave_known = true;
        }
        return;
    case LEASE_EV_RESYNC_NEEDED:
        /* An order given before did not reach anybody. */
        s->peer_wants_resync = true;
        s->resync_ordered = false;
        return;
    case LEASE_EV_FETCH_DONE:
        if (lease_core_state(s) == DMT_LEASE_START && s->fetching) {
            s->fetching = false;
            if (e->err < 0)
                lease_say(out, "fetch-failed", "%s; its tail becomes a branch there",
                          dmt_strerror(e->err));
            open_minor(s, now, out);
        }
        return;
    case LEASE_EV_FREEZE:
        if (s->draining && lease_core_state(s) == DMT_LEASE_HOLDER_PAIRED)
            lease_gate(s, out, LEASE_GATE_WAIT);
        return;
    case LEASE_EV_DRAINED:
        on_drained(s, e, now, out);
        return;
    case LEASE_EV_PROMOTE_DONE:
        on_promoted(s, e, now, out);
        return;
    case LEASE_EV_HIGHER:
        if (lease_holding(s) && DMT_EPOCH_MAJOR(e->epoch) > DMT_EPOCH_MAJOR(s->rec.hold))
            lease_become_loser(s, out, e->epoch, "the peer");
        return;
    case LEASE_EV_PEER_EPOCH:
        if (lease_holding(s) && DMT_EPOCH_MAJOR(e->epoch) > DMT_EPOCH_MAJOR(s->rec.hold)) {
            lease_become_loser(s, out, e->epoch, e->id.node);
            lease_follower_event(s, e, now, out);
        }
        return;
    default:
        return;
    }
}

/* --- timers --- */

static void ping(struct lease_state *s, const struct lease_event *e, uint64_t now,
                 struct lease_actions *out)
{
    if (!s->ping_up || s->forcing)
        return;
    if (lease_due(s, s->ping_next_ns, now)) {
        struct lease_msg *m = &lease_act(out, LEASE_ACT_SEND)->msg;
        m->type = LEASE_PING;
        m->epoch = s->rec.hold;
        m->sent_ns = now;
        m->rtt_us = (uint32_t)(s->rtt_us < UINT32_MAX ? s->rtt_us : UINT32_MAX);
        m->oldest_sync_ms =
            (uint32_t)(e->oldest_sync_ms < UINT32_MAX ? e->oldest_sync_ms : UINT32_MAX);
        m->flags = s->spot ? LEASE_F_SPOT : 0;
        s->ping_next_ns = now + s->conf.timers.ping_ms * DMT_MS;
        (void)lease_due(s, s->ping_next_ns, now);
    }
}

/* How long the peer may be away before SOLO is asked; UINT64_MAX: never by itself. */
static uint64_t patience_ms(const struct lease_state *s)
{
    enum dmt_lease_state st = lease_core_state(s);
    if (s->spot) /* R8: the machine that stays is the other one */
        return UINT64_MAX;
    /* It was alone by the register a moment ago, so degrade= has nothing to say here. */
    if (st == DMT_LEASE_LEAVING)
        return s->leave_failed ? 0 : s->lease_ms;
    if (st == DMT_LEASE_START && s->rec.dual_ack)
        return LEAVING_RESTART_MS;
    if (s->conf.degrade == DMT_DEGRADE_BLOCK)
        return UINT64_MAX;
    return s->peer_bye ? 0 : s->conf.solo_after_ms;
}

static void seek_solo(struct lease_state *s, uint64_t now, struct lease_actions *out)
{
    if (lease_peer_ok(s, now) && !s->peer_bye && !s->leave_failed) {
        s->ok_ns = now;
        (void)lease_due(s, s->lease_end_ns, now);
        return;
    }
    uint64_t wait_ms = patience_ms(s);
    bool asking_solo = s->asking && s->ask.op == LEASE_SOLO;
    if (wait_ms == UINT64_MAX || asking_solo || s->fetching)
        return;
    if (lease_due(s, s->ok_ns + wait_ms * DMT_MS, now) && lease_due(s, s->not_before_ns, now))
        lease_ask(s, out, LEASE_SOLO, now);
}

/* ALONE with a peer that has (nearly) everything: from now on both disks are needed. */
static void start_leaving(struct lease_state *s, uint64_t now, struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    r->alone = false;
    r->dual_ack = true;
    r->peer = s->peer_id;
    s->leave_known = s->leave_failed = false;
    s->ok_ns = now;
    lease_write(s, out);
    lease_act(out, LEASE_ACT_LEASE)->deadline_ns = s->lease_end_ns;
    lease_move(s, DMT_LEASE_LEAVING);
    lease_gate(s, out, LEASE_GATE_PAIR);
    s->leave_gen = s->gate_gen;
    lease_say(out, "pairing", "%s has caught up", r->peer.node);
}

/* Is the peer so close that syncs may need it? In records (LEASE_PAIR_LAG), and in time: a round is
 * how long it takes to get what was the tail when the round began. As long as about the last round
 * syncs will wait for it at the change, so one that is short is waited for: alone, they wait for
 * nobody. One that never gets there (a slow link or disk, bulk data that is never all there under a
 * steady writer) is taken as it is after a while; what is acknowledged alone is then waited for in
 * LEAVING. */
static bool peer_close(struct lease_state *s, const struct lease_event *e, uint64_t now)
{
    uint64_t has = s->ack_whole < s->ack_durable ? s->ack_whole : s->ack_durable;
    bool brief = false;
    if (!s->peer_up || s->ack_epoch != s->rec.hold || s->peer_wants_resync ||
        s->ack_durable + LEASE_PAIR_LAG < e->tail) {
        s->close_since_ns = 0;
        return false;
    }
    if (s->close_since_ns == 0) {
        s->close_since_ns = s->round_ns = now;
        s->round_to = e->tail;
    }
    if (has >= s->round_to) {
        brief = now - s->round_ns <= ROUND_NS + 2 * s->rtt_us * 1000;
        s->round_ns = now;
        s->round_to = e->tail;
    }
    return brief || lease_due(s, s->close_since_ns + CATCH_UP_PATIENCE_NS, now);
}

static void alone_timers(struct lease_state *s, const struct lease_event *e, uint64_t now,
                         struct lease_actions *out)
{
    if (s->peer_bye) {
        s->peer_bye = false;
        lease_act(out, LEASE_ACT_SEND)->msg.type = LEASE_BYE_OK;
        s->close_since_ns = 0;
        s->not_before_ns = now + DMT_S; /* it is going: do not pair again meanwhile */
        return;
    }
    if (s->peer_up && s->peer_wants_resync && !s->resync_ordered) {
        s->resync_ordered =
            true; /* R11: alone by the register, so no promotion of it is under way */
        lease_act(out, LEASE_ACT_ORDER_RESYNC);
    }
    bool lease = memcmp(s->lease_store, s->peer_id.store, 16) == 0 && now < s->lease_end_ns;
    if (s->conf.has_peer && peer_close(s, e, now) && lease && s->arb_up && !s->stopping &&
        !s->rec.readonly && lease_due(s, s->not_before_ns, now) &&
        lease_due(s, s->pair_next_ns, now))
        start_leaving(s, now, out);
}

void lease_holder_timers(struct lease_state *s, const struct lease_event *e, uint64_t now,
                         struct lease_actions *out)
{
    switch (lease_core_state(s)) {
    case DMT_LEASE_START:
    case DMT_LEASE_HOLDER_PAIRED:
        ping(s, e, now, out);
        if (s->peer_bye && s->conf.degrade == DMT_DEGRADE_BLOCK) {
            s->peer_bye = false;
            lease_act(out, LEASE_ACT_SEND)->msg.type = LEASE_BYE_OK;
        }
        seek_solo(s, now, out);
        return;
    case DMT_LEASE_LEAVING:
        ping(s, e, now, out);
        seek_solo(s, now, out);
        if (s->leave_known && s->ack_epoch == s->rec.hold && s->ack_durable >= s->leave_at &&
            s->ack_whole >= s->leave_at && !s->asking && lease_peer_ok(s, now) && !s->leave_failed)
            lease_ask(s, out, LEASE_PAIR, now);
        return;
    case DMT_LEASE_HOLDER_ALONE:
        ping(s, e, now, out);
        alone_timers(s, e, now, out);
        return;
    case DMT_LEASE_PROMOTING:
        ping(s, e, now, out);
        return;
    default:
        return;
    }
}

uint64_t lease_core_solo_in_ms(const struct lease_state *s, uint64_t now)
{
    enum dmt_lease_state st = lease_core_state(s);
    if ((st != DMT_LEASE_HOLDER_PAIRED && st != DMT_LEASE_START) || lease_peer_ok(s, now))
        return 0;
    uint64_t wait_ms = patience_ms(s);
    if (wait_ms == UINT64_MAX)
        return 0;
    uint64_t at = s->ok_ns + wait_ms * DMT_MS;
    return at > now ? (at - now) / DMT_MS + 1 : 1;
}
