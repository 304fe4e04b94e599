/* core.c: the heart of the decisions: dispatch, start, states, small helpers.
 *
 * Owns struct lease_state. Happy path of a pair: the holder starts (START), finds its peer, opens
 * its next minor epoch, is PAIRED; every PONG moves the lease on. The other is FOLLOWER and answers
 * pings. What changes states: the register's answers (core_arbiter.c), the holder's own needs
 * (core_holder.c), the follower's (core_follower.c). The table below is the protocol's: anything
 * not listed aborts. Each state has an invariant over the durable record, checked on every move.
 * Failure modes are events like any other; only EV_BROKEN (the record cannot be written, an epoch
 * cannot be opened) ends everything: gate closed, no PONG, no request. Thread: the caller's.
 */
#include "fs/lease/core.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/log.h"

#define BIT(s)          (1u << DMT_LEASE_##s)
#define FORCE_SILENT_MS LEASE_H_MAX_MS /* more than one lost ping, whatever H is */

static const struct dmt_sm_state states[] = {
    [DMT_LEASE_START] = {"start", BIT(HOLDER_PAIRED) | BIT(HOLDER_ALONE) | BIT(LEAVING) |
                                      BIT(LOSER) | BIT(FOLLOWER) | BIT(GIVEN_UP) | BIT(RESYNC) |
                                      BIT(PROMOTING)},
    [DMT_LEASE_HOLDER_PAIRED] = {"paired", BIT(HOLDER_ALONE) | BIT(GIVEN_UP) | BIT(LOSER)},
    [DMT_LEASE_HOLDER_ALONE] = {"alone", BIT(LEAVING) | BIT(GIVEN_UP) | BIT(LOSER)},
    [DMT_LEASE_LEAVING] = {"leaving-solo",
                           BIT(HOLDER_PAIRED) | BIT(HOLDER_ALONE) | BIT(GIVEN_UP) | BIT(LOSER)},
    [DMT_LEASE_GIVEN_UP] = {"given-up", BIT(FOLLOWER) | BIT(HOLDER_PAIRED) | BIT(HOLDER_ALONE) |
                                            BIT(PROMOTING)},
    [DMT_LEASE_FOLLOWER] = {"standby", BIT(CANDIDATE) | BIT(RESYNC) | BIT(LOSER) | BIT(PROMOTING)},
    [DMT_LEASE_CANDIDATE] = {"candidate", BIT(PROMOTING) | BIT(FOLLOWER) | BIT(RESYNC)},
    [DMT_LEASE_PROMOTING] = {"promoting", BIT(HOLDER_ALONE) | BIT(HOLDER_PAIRED)},
    [DMT_LEASE_LOSER] = {"loser", BIT(FOLLOWER) | BIT(RESYNC) | BIT(PROMOTING)},
    [DMT_LEASE_RESYNC] = {"resync", BIT(FOLLOWER)},
};
#define STATES_N ((int)(sizeof(states) / sizeof(states[0])))

/* What the durable record must say in a state, so that a crash in it restarts into something
 * allowed. */
static bool invariant(const void *ctx, int state)
{
    const struct lease_record *r = &((const struct lease_state *)ctx)->rec;
    bool holds = r->hold != 0 && r->hold == r->seen && !r->gave_up && !r->resync;
    switch ((enum dmt_lease_state)state) {
    case DMT_LEASE_START:
        return true;
    case DMT_LEASE_HOLDER_PAIRED:
        return holds && !r->alone && !r->dual_ack && !lease_id_none(&r->peer);
    case DMT_LEASE_HOLDER_ALONE:
        return holds && r->alone && !r->dual_ack;
    case DMT_LEASE_LEAVING: /* R9, F6 */
        return holds && !r->alone && r->dual_ack && !lease_id_none(&r->peer);
    case DMT_LEASE_PROMOTING:
        return holds && !r->dual_ack;
    case DMT_LEASE_GIVEN_UP: /* R10 */
        return r->hold == 0 && r->gave_up;
    case DMT_LEASE_FOLLOWER:
    case DMT_LEASE_CANDIDATE:
    case DMT_LEASE_LOSER:
        return r->hold == 0 && !r->gave_up && !r->alone && !r->resync;
    case DMT_LEASE_RESYNC: /* R11 */
        return r->hold == 0 && r->resync;
    }
    return false;
}

const char *dmt_lease_state_name(enum dmt_lease_state s)
{
    return states[s].name;
}

const char *lease_op_name(enum lease_op op)
{
    static const char *const names[] = {"",        "read",     "solo",  "pair",
                                        "promote", "handover", "retake"};
    return names[op];
}

bool lease_id_eq(const struct lease_id *a, const struct lease_id *b)
{
    return strcmp(a->node, b->node) == 0 && memcmp(a->store, b->store, 16) == 0;
}

bool lease_id_none(const struct lease_id *a)
{
    return a->node[0] == '\0';
}

bool lease_register_has(const struct lease_register *r, const struct lease_id *id)
{
    for (int i = 0; i < r->insync_n; i++)
        if (lease_id_eq(&r->insync[i], id))
            return true;
    return false;
}

enum dmt_lease_state lease_core_state(const struct lease_state *s)
{
    return (enum dmt_lease_state)s->sm.state;
}

bool lease_holding(const struct lease_state *s)
{
    enum dmt_lease_state st = lease_core_state(s);
    return st == DMT_LEASE_START || st == DMT_LEASE_HOLDER_PAIRED || st == DMT_LEASE_HOLDER_ALONE ||
           st == DMT_LEASE_LEAVING;
}

void lease_move(struct lease_state *s, enum dmt_lease_state next)
{
    if (lease_core_state(s) != next)
        dmt_sm_move(&s->sm, (int)next);
}

bool lease_due(struct lease_state *s, uint64_t t_ns, uint64_t now_ns)
{
    if (t_ns <= now_ns)
        return true;
    if (t_ns < s->next)
        s->next = t_ns;
    return false;
}

/* --- actions --- */

struct lease_action *lease_act(struct lease_actions *out, enum lease_act type)
{
    DMT_ASSERT(out->n < LEASE_ACTIONS_MAX);
    struct lease_action *a = &out->a[out->n++];
    memset(a, 0, sizeof(*a));
    a->type = type;
    return a;
}

void lease_say(struct lease_actions *out, const char *kind, const char *fmt, ...)
{
    struct lease_action *a = lease_act(out, LEASE_ACT_EVENT);
    a->kind = kind;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(a->text, sizeof(a->text), fmt, ap);
    va_end(ap);
}

void lease_write(struct lease_state *s, struct lease_actions *out)
{
    lease_act(out, LEASE_ACT_WRITE)->record = s->rec;
}

void lease_gate(struct lease_state *s, struct lease_actions *out, enum lease_gate_mode mode)
{
    bool restricts = mode == LEASE_GATE_CLOSED || mode == LEASE_GATE_WAIT;
    struct lease_action *a = lease_act(out, restricts ? LEASE_ACT_CLOSE : LEASE_ACT_GATE);
    a->gen = ++s->gate_gen;
    a->mode = s->gate = mode;
    a->epoch = s->rec.hold;
    a->peer = s->rec.peer;
}

void lease_open(struct lease_state *s, struct lease_actions *out, const char *reason)
{
    lease_write(s, out);
    struct lease_action *a = lease_act(out, LEASE_ACT_OPEN_EPOCH);
    a->epoch = s->rec.hold;
    a->alone = s->rec.alone;
    (void)snprintf(a->text, sizeof(a->text), "%s", reason);
    /* What was acknowledged in the epoch before counts no more (R3). */
    s->ack_epoch = s->ack_durable = s->ack_whole = 0;
    s->close_since_ns = 0;
    /* What the peer needs it says in each epoch anew. */
    s->peer_wants_resync = s->resync_ordered = false;
}

/* --- start --- */

void lease_core_init(struct lease_state *s, const struct lease_core_conf *conf,
                     const struct lease_record *rec)
{
    memset(s, 0, sizeof(*s));
    s->conf = *conf;
    s->rec = *rec;
    s->lease_ms = conf->timers.lease_ms;
    s->gate = LEASE_GATE_CLOSED;
    dmt_sm_init(&s->sm, states, STATES_N, DMT_LEASE_START, invariant, s);
}

static void on_start(struct lease_state *s, uint64_t now, struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    s->start_ns = s->ok_ns = s->heard_ns = now;
    /* A promise that we gave before this start may still run (R12): at most so long. */
    s->promise_ns = now + LEASE_H_MAX_MS * DMT_MS;
    if (r->resync) {
        /* A store in pieces got a new identity. This one is whole, the old state or the new one:
         * the holder looks where it stands, and orders again if need be. Nothing is thrown away
         * here: it may have been paired just before the flag was cleared. */
        lease_move(s, DMT_LEASE_RESYNC);
        lease_act(out, LEASE_ACT_DEMOTE);
    } else if (r->gave_up) {
        lease_move(s, DMT_LEASE_GIVEN_UP);
    } else if (r->hold != 0 && DMT_EPOCH_MAJOR(r->hold) == DMT_EPOCH_MAJOR(r->seen)) {
        if (!r->alone) {
            /* R6: look at the peer before the first append. */
            lease_gate(s, out, LEASE_GATE_WAIT);
            return;
        }
        r->hold = r->seen = r->seen + 1; /* R2: minor + 1, durable before the first append */
        lease_open(s, out, "start");
        lease_move(s, DMT_LEASE_HOLDER_ALONE);
        lease_gate(s, out, r->readonly ? LEASE_GATE_READONLY : LEASE_GATE_ALONE);
    } else {
        r->hold = 0;
        r->alone = r->dual_ack = false;
        lease_move(s, DMT_LEASE_FOLLOWER);
        lease_act(out, LEASE_ACT_DEMOTE);
    }
}

/* --- events of any role --- */

static void on_bye(struct lease_state *s, const struct lease_msg *m, struct lease_actions *out)
{
    if (!(m->flags & LEASE_F_HOLDER)) {
        s->peer_bye = true; /* served by the holder's timers: SOLO, then BYE_OK */
        return;
    }
    if (lease_holding(s) || lease_core_state(s) == DMT_LEASE_PROMOTING)
        return;
    /* An orderly stop is no failure, also for a standby that restarts meanwhile. */
    if (!s->rec.peer_stopped) {
        s->rec.peer_stopped = true;
        lease_write(s, out);
        lease_say(out, "holder-stopped",
                  "%s stopped the workspace in an orderly way; promote to take over", m->from.node);
    }
    struct lease_msg *b = &lease_act(out, LEASE_ACT_SEND)->msg;
    b->type = LEASE_BYE_OK;
}

static void on_msg(struct lease_state *s, const struct lease_event *e, uint64_t now,
                   struct lease_actions *out)
{
    const struct lease_msg *m = &e->msg;
    bool promoting = lease_core_state(s) == DMT_LEASE_PROMOTING;
    switch (m->type) {
    case LEASE_PING:
        if (lease_holding(s) && DMT_EPOCH_MAJOR(m->epoch) > DMT_EPOCH_MAJOR(s->rec.hold))
            lease_become_loser(s, out, m->epoch, m->from.node);
        if (s->forcing)
            return;
        if (lease_holding(s) || promoting) {
            /* A holder of an older epoch that has woken up: it must learn of ours. */
            struct lease_msg *n = &lease_act(out, LEASE_ACT_SEND)->msg;
            n->type = LEASE_NACK;
            n->epoch = s->rec.seen;
            n->sent_ns = m->sent_ns;
            return;
        }
        lease_answer_ping(s, m, now, out);
        return;
    case LEASE_PONG:
    case LEASE_NACK:
        if (lease_holding(s) || promoting)
            lease_holder_event(s, e, now, out);
        return;
    case LEASE_BYE:
        on_bye(s, m, out);
        return;
    case LEASE_BYE_OK:
        if (s->stopping && !s->stop_told) {
            s->stop_told = true;
            lease_act(out, LEASE_ACT_MAY_STOP);
        }
        return;
    case LEASE_NOTICE:
        s->read_next_ns = now;
        s->heard_ns = 0; /* the holder has given up: look at the register now */
        return;
    case LEASE_BUCKET:
        return;
    }
}

/* Taking back what was fenced: a new epoch from the register, or, where there is none, of our own.
 */
static void unfence(struct lease_state *s, uint64_t now, struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    r->fenced = false;
    if (s->conf.has_peer || r->ever_paired) {
        lease_write(s, out);
        lease_ask(s, out, LEASE_RETAKE, now);
        return;
    }
    r->gave_up = false;
    r->alone = true;
    r->hold = r->seen = r->seen + 1;
    lease_open(s, out, "retake");
    lease_move(s, DMT_LEASE_HOLDER_ALONE);
    lease_gate(s, out, LEASE_GATE_ALONE);
}

uint64_t lease_core_silent_ms(const struct lease_state *s, uint64_t now)
{
    if (s->peer_up)
        return 0;
    uint64_t heard = lease_holding(s) ? s->lease_end_ns : s->heard_instance ? s->heard_ns : 0;
    return heard == 0 ? UINT64_MAX : now > heard ? (now - heard) / DMT_MS : 0;
}

/* A person declares that the other machine is gone for ever, or that no arbiter will ever answer:
 * this copy goes on alone, in a lineage of its own. Whatever the old one's machines, arbiter and
 * archive still do is another history from here on, which ends when they meet this one. */
static void force(struct lease_state *s, const uint8_t id[16], struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    uint32_t seen = DMT_EPOCH_MAJOR(r->seen);
    if (!dmt_lineage_known(&r->lineage)) {
        lease_say(out, "refused", "force: there is nothing of the workspace here yet");
        return;
    }
    if (s->reg_known && s->reg.epoch > seen)
        seen = s->reg.epoch;
    if (!dmt_lineage_force(&r->lineage, id, seen)) {
        lease_say(out, "refused", "force: no epochs are left");
        return;
    }
    enum dmt_lease_state old = lease_core_state(s);
    if (old == DMT_LEASE_START || old == DMT_LEASE_GIVEN_UP) /* what is still mounted goes first */
        lease_act(out, LEASE_ACT_DEMOTE);
    r->hold = r->seen = DMT_EPOCH(r->lineage.first, 0);
    r->alone = true;
    r->dual_ack = r->gave_up = r->fenced = r->peer_stopped = false;
    r->readonly = s->conf.after_promotion == DMT_AFTER_READONLY;
    s->asking = s->taking = s->fetching = s->draining = s->claimed = s->over = false;
    s->dead = s->operator_word = s->reg_known = false;
    s->forcing = true;
    lease_move(s, DMT_LEASE_PROMOTING);
    lease_gate(s, out, LEASE_GATE_WAIT);
    lease_write(s, out);
    struct lease_action *a = lease_act(out, LEASE_ACT_PROMOTE);
    a->epoch = r->hold;
    a->alone = a->forced = true;
    (void)snprintf(a->text, sizeof(a->text), "forced");
    lease_say(out, "forced",
              "by a person's word: a new lineage from epoch %u on; whatever %s has "
              "that is not here is not in it",
              r->lineage.first, lease_id_none(&r->peer) ? "another machine" : r->peer.node);
}

static void on_command(struct lease_state *s, const struct lease_event *e, uint64_t now,
                       struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    enum dmt_lease_command cmd = e->command;
    if (lease_command_check(lease_core_state(s), r->readonly, lease_core_silent_ms(s, now), cmd,
                            NULL) < 0)
        return; /* the state has moved on since it was accepted */
    switch (cmd) {
    case DMT_LEASE_CMD_HANDOVER:
        if (s->draining)
            return;
        s->draining = true;
        lease_say(out, "handover", "to %s: draining", r->peer.node);
        lease_act(out, LEASE_ACT_DRAIN);
        return;
    case DMT_LEASE_CMD_FENCE:
        lease_gate(s, out, LEASE_GATE_CLOSED);
        r->hold = 0;
        r->alone = r->dual_ack = false;
        r->gave_up = r->fenced = true;
        s->draining = s->asking = false;
        lease_write(s, out);
        lease_move(s, DMT_LEASE_GIVEN_UP);
        lease_say(out, "fenced", "writes have stopped on this node");
        return;
    case DMT_LEASE_CMD_PROMOTE:
        if (r->readonly && lease_core_state(s) == DMT_LEASE_HOLDER_ALONE) {
            r->readonly = false;
            lease_write(s, out);
            lease_gate(s, out, LEASE_GATE_ALONE);
        } else if (lease_core_state(s) == DMT_LEASE_GIVEN_UP) {
            unfence(s, now, out);
        } else {
            s->operator_word = true;
            s->read_next_ns = s->not_before_ns = now;
        }
        return;
    case DMT_LEASE_CMD_FORCE:
        if (!s->losing)
            force(s, e->lineage.id, out);
        return;
    }
}

static int force_check(enum dmt_lease_state st, uint64_t silent_ms, struct dmt_err *err)
{
    if (st == DMT_LEASE_RESYNC) {
        dmt_err_set(err, -EINVAL,
                    "this copy is being made equal to the other machine's: what it "
                    "has so far is no state of the workspace");
        (void)dmt_err_hint(err, "Restore from the archive: dumont workspace create NEW --from URL");
        return -EINVAL;
    }
    bool serves = st == DMT_LEASE_HOLDER_PAIRED || st == DMT_LEASE_HOLDER_ALONE ||
                  st == DMT_LEASE_LEAVING || st == DMT_LEASE_PROMOTING;
    if (serves) {
        dmt_err_set(err, -EINVAL, "this machine holds the workspace: it is %s",
                    dmt_lease_state_name(st));
        (void)dmt_err_hint(err, st == DMT_LEASE_HOLDER_ALONE || st == DMT_LEASE_PROMOTING
                                    ? "It needs nobody's word to go on."
                                    : "To go on without the other one and without an arbiter: "
                                      "`dumont fence` first, which ends the mount's writing.");
        return -EINVAL;
    }
    if (silent_ms >= FORCE_SILENT_MS)
        return 0;
    dmt_err_set(err, -EINVAL, "the other machine is not gone: it was heard %llu ms ago",
                (unsigned long long)silent_ms);
    (void)dmt_err_hint(err,
                       "`dumont handover` there moves the workspace without loss; or stop it.");
    return -EINVAL;
}

int lease_command_check(enum dmt_lease_state st, bool readonly, uint64_t peer_silent_ms,
                        enum dmt_lease_command cmd, struct dmt_err *err)
{
    switch (cmd) {
    case DMT_LEASE_CMD_FORCE:
        return force_check(st, peer_silent_ms, err);
    case DMT_LEASE_CMD_HANDOVER:
        if (st == DMT_LEASE_HOLDER_PAIRED)
            return 0;
        dmt_err_set(err, -EINVAL,
                    "a handover needs a holder with an in-sync standby; this node is: %s",
                    dmt_lease_state_name(st));
        (void)dmt_err_hint(err, st == DMT_LEASE_HOLDER_ALONE || st == DMT_LEASE_LEAVING
                                    ? "Wait until `dumont status` says \"paired\", then try again."
                                    : "Run it on the holder: `dumont status` names it.");
        return -EINVAL;
    case DMT_LEASE_CMD_FENCE:
        if (st == DMT_LEASE_HOLDER_PAIRED || st == DMT_LEASE_HOLDER_ALONE ||
            st == DMT_LEASE_LEAVING)
            return 0;
        dmt_err_set(err, -EINVAL, "only a holder can be fenced; this node is: %s",
                    dmt_lease_state_name(st));
        (void)dmt_err_hint(err, "A standby writes nothing; `dumont workspace stop` ends it.");
        return -EINVAL;
    case DMT_LEASE_CMD_PROMOTE:
        if (st == DMT_LEASE_FOLLOWER || st == DMT_LEASE_GIVEN_UP ||
            (st == DMT_LEASE_HOLDER_ALONE && readonly))
            return 0;
        dmt_err_set(err, -EINVAL, "only a standby can be promoted; this node is: %s",
                    dmt_lease_state_name(st));
        (void)dmt_err_hint(err, st == DMT_LEASE_HOLDER_PAIRED || st == DMT_LEASE_HOLDER_ALONE ||
                                        st == DMT_LEASE_LEAVING
                                    ? "It holds the workspace already."
                                    : "`dumont status` shows what it is doing; try again then.");
        return -EINVAL;
    }
    return -EINVAL;
}

static void stop_timers(struct lease_state *s, uint64_t now, struct lease_actions *out)
{
    if (!s->stopping || s->stop_told)
        return;
    if (!s->ping_up || lease_due(s, s->stop_ns, now)) {
        s->stop_told = true;
        lease_act(out, LEASE_ACT_MAY_STOP);
    }
}

static void on_stop(struct lease_state *s, uint64_t now, struct lease_actions *out)
{
    if (s->stopping)
        return;
    bool holder = lease_holding(s);
    s->stopping = true;
    s->stop_ns = now + (holder ? 1 : 5) * DMT_S;
    if (s->ping_up) {
        struct lease_msg *m = &lease_act(out, LEASE_ACT_SEND)->msg;
        m->type = LEASE_BYE;
        m->flags = holder ? LEASE_F_HOLDER : 0;
    }
}

static void on_broken(struct lease_state *s, const char *why, struct lease_actions *out)
{
    lease_gate(s, out, LEASE_GATE_CLOSED);
    lease_say(out, "failed", "%s", why);
    s->broken = true;
    s->asking = false;
}

static void dispatch(struct lease_state *s, const struct lease_event *e, uint64_t now,
                     struct lease_actions *out)
{
    switch (e->type) {
    case LEASE_EV_START:
        on_start(s, now, out);
        return;
    case LEASE_EV_TICK:
        return;
    case LEASE_EV_MSG:
        on_msg(s, e, now, out);
        return;
    case LEASE_EV_PING_UP:
        s->ping_up = true;
        s->ping_next_ns = now;
        return;
    case LEASE_EV_PING_DOWN: /* F19: a reset proves nothing; silence decides */
        s->ping_up = false;
        return;
    case LEASE_EV_ARB_UP:
        s->arb_up = true;
        s->ask_next_ns = s->read_next_ns = s->beat_next_ns = now;
        return;
    case LEASE_EV_ARB_DOWN:
        s->arb_up = false;
        return;
    case LEASE_EV_ANSWER:
        lease_on_answer(s, e, now, out);
        return;
    case LEASE_EV_REGISTER:
        /* Not an answer to a question of ours, so no proof that the arbiter can be reached (R13).
         */
        lease_on_register(s, &e->reg, 0, now, out);
        return;
    case LEASE_EV_COMMAND:
        on_command(s, e, now, out);
        return;
    case LEASE_EV_SPOT:
        s->spot = e->spot;
        return;
    case LEASE_EV_STOP:
        on_stop(s, now, out);
        return;
    case LEASE_EV_BROKEN:
        on_broken(s, e->text, out);
        return;
    default:
        if (lease_holding(s) || lease_core_state(s) == DMT_LEASE_PROMOTING)
            lease_holder_event(s, e, now, out);
        else
            lease_follower_event(s, e, now, out);
        return;
    }
}

void lease_step(struct lease_state *s, const struct lease_event *e, uint64_t now,
                struct lease_actions *out)
{
    out->n = 0;
    s->next = UINT64_MAX;
    if (s->broken)
        return;
    dispatch(s, e, now, out);
    if (s->broken)
        return;
    lease_holder_timers(s, e, now, out);
    lease_follower_timers(s, e, now, out);
    lease_arbiter_timers(s, now, out);
    stop_timers(s, now, out);
}
