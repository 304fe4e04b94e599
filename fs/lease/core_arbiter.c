/* core_arbiter.c: what is asked of the register and what its content means.
 *
 * One request is outstanding at a time and is repeated, unchanged, until it is answered: every
 * request names the epoch it is based on, so a repeated, late or reordered one is harmless (R1,
 * F5). Answers are judged by the register they show, not by who asked what: "holder is this store,
 * in a higher epoch than we ever obeyed" is our own request that was recorded, even when its answer
 * was lost (R4: adopted once, F15; by this store id only, F8a); "holder is another, in a higher
 * epoch" ends our holding. Failure modes: no answer leaves everything as it is (a follower stays
 * follower, a candidate stays silent, a leaving holder keeps needing both disks). A register behind
 * what we have obeyed was restored from a backup: nothing is done with it (F17).
 */
#include <stdio.h>
#include <string.h>

#include "fs/lease/core.h"

#define READ_REPEAT_MS    500u
#define ASK_REPEAT_MS     1000u
#define AFTER_FAILURE_MS  100u
#define REFUSED_MS        500u
#define HANDOVER_GIVES_MS 5000u
#define BEAT_IDLE_MS      1000u
#define READ_EVERY_MS     1000u
#define READ_PAIRED_MS    5000u

void lease_ask(struct lease_state *s, struct lease_actions *out, enum lease_op op, uint64_t now)
{
    struct lease_ask *q = &s->ask;
    memset(q, 0, sizeof(*q));
    q->op = op;
    q->id = ++s->ask_last_id;
    q->seen = s->rec.seen;
    q->first = s->rec.lineage.first;
    q->lease_ms = s->lease_ms;
    switch (op) {
    case LEASE_READ:
        break;
    case LEASE_PROMOTE:
        q->base = s->reg.epoch;
        q->word = s->dead || s->operator_word;
        break;
    case LEASE_PAIR:
    case LEASE_HANDOVER:
        q->peer = s->rec.peer;
        q->base = DMT_EPOCH_MAJOR(s->rec.seen);
        break;
    case LEASE_SOLO:
    case LEASE_RETAKE: /* a holder's seen is what it holds, also just after it gave it up */
        q->base = DMT_EPOCH_MAJOR(s->rec.seen);
        break;
    }
    s->asking = true;
    s->ask_first_ns = now;
    s->ask_next_ns = now + (op == LEASE_READ ? READ_REPEAT_MS : ASK_REPEAT_MS) * DMT_MS;
    lease_act(out, LEASE_ACT_ASK)->ask = *q;
}

/* The register says that we hold a higher epoch than we ever obeyed: make it ours. */
static void adopt(struct lease_state *s, const struct lease_register *reg, uint64_t now,
                  struct lease_actions *out)
{
    struct lease_record *r = &s->rec;
    enum dmt_lease_state old = lease_core_state(s);
    const struct lease_id *other = NULL;
    for (int i = 0; i < reg->insync_n; i++)
        if (!lease_id_eq(&reg->insync[i], &r->self))
            other = &reg->insync[i];
    r->hold = r->seen = DMT_EPOCH(reg->epoch, 0);
    r->gave_up = r->fenced = r->dual_ack = r->peer_stopped = false;
    r->alone = other == NULL;
    if (other) {
        r->peer = *other;
        r->ever_paired = true;
    }
    s->asking = s->draining = s->leave_failed = s->fetching = false;
    s->dead = s->operator_word = s->claimed = s->taking = false;
    s->ok_ns = now;
    if (old == DMT_LEASE_FOLLOWER || old == DMT_LEASE_CANDIDATE) {
        /* R7: alone in the same transaction, whatever degrade says. */
        r->readonly = r->alone && s->conf.after_promotion == DMT_AFTER_READONLY;
        lease_move(s, DMT_LEASE_PROMOTING);
        lease_gate(s, out, LEASE_GATE_WAIT);
        lease_write(s, out);
        struct lease_action *a = lease_act(out, LEASE_ACT_PROMOTE);
        a->epoch = r->hold;
        a->alone = r->alone;
        (void)snprintf(a->text, sizeof(a->text), "%s", r->alone ? "promoted" : "handover");
        lease_say(out, r->alone ? "promoting" : "taking-over", "epoch %u", reg->epoch);
        return;
    }
    const char *reason = old == DMT_LEASE_GIVEN_UP ? "retake" : r->alone ? "solo" : "pair";
    lease_open(s, out, reason);
    lease_move(s, r->alone ? DMT_LEASE_HOLDER_ALONE : DMT_LEASE_HOLDER_PAIRED);
    lease_gate(s, out,
               r->readonly ? LEASE_GATE_READONLY
               : r->alone  ? LEASE_GATE_ALONE
                           : LEASE_GATE_PAIR);
    lease_say(out, reason, "epoch %u%s", reg->epoch, r->alone ? ": one copy" : "");
}

/* The register names this follower. After a HANDOVER the other has given up; a PROMOTE of ours
 * whose answer was lost (even one of an earlier life) may meet a holder that lives on our PONGs: no
 * more of them, and the promise we gave runs out first (R12). */
static void take(struct lease_state *s, uint64_t now, struct lease_actions *out)
{
    bool handed = s->reg.insync_n > 1;
    if (handed || s->dead || s->operator_word || lease_due(s, s->promise_ns, now)) {
        adopt(s, &s->reg, now, out);
        return;
    }
    s->taking = true;
    s->asking = false;
    lease_move(s, DMT_LEASE_CANDIDATE);
}

void lease_on_register(struct lease_state *s, const struct lease_register *reg, uint64_t asked_ns,
                       uint64_t now, struct lease_actions *out)
{
    enum dmt_lease_state st = lease_core_state(s);
    uint32_t seen = DMT_EPOCH_MAJOR(s->rec.seen);
    if (s->over || (s->reg_known && reg->epoch < s->reg.epoch))
        return; /* of a lineage that is over, or late */
    s->reg = *reg;
    s->reg_known = true;
    s->reg_ns = asked_ns;
    if (reg->epoch <= seen)
        return;
    if (lease_id_eq(&reg->holder, &s->rec.self)) {
        /* A loser that could not cut has everything it ever acknowledged: what it lost against was
         * older than what the register says now. */
        if (st == DMT_LEASE_LOSER && !s->losing)
            lease_become_follower(s, out, now);
        st = lease_core_state(s);
        if (st == DMT_LEASE_FOLLOWER || st == DMT_LEASE_CANDIDATE)
            take(s, now, out);
        else if (lease_holding(s) || st == DMT_LEASE_GIVEN_UP)
            adopt(s, reg, now, out);
        return;
    }
    if (lease_holding(s)) {
        lease_become_loser(s, out, DMT_EPOCH(reg->epoch, 0), reg->holder.node);
    } else if (st == DMT_LEASE_GIVEN_UP) {
        lease_become_follower(s, out, now);
    } else if (st == DMT_LEASE_CANDIDATE && (s->taking || reg->epoch > s->ask.base)) {
        lease_become_follower(s, out, now); /* our PROMOTE can never be granted now */
    }
}

static void refused(struct lease_state *s, const struct lease_event *e, uint64_t now,
                    struct lease_actions *out)
{
    uint32_t wait_ms = e->retry_ms ? e->retry_ms : REFUSED_MS;
    s->not_before_ns = now + wait_ms * DMT_MS;
    switch (s->ask.op) {
    case LEASE_READ:
        break;
    case LEASE_PAIR: /* CAS lost or refused: back by SOLO, at once, a new epoch (F6) */
        s->leave_failed = true;
        s->not_before_ns = now + REFUSED_MS * DMT_MS;
        s->pair_next_ns = now + wait_ms * DMT_MS;
        break;
    case LEASE_PROMOTE:
        s->operator_word = false;
        if (lease_core_state(s) == DMT_LEASE_CANDIDATE)
            lease_become_follower(s, out, now);
        break;
    case LEASE_HANDOVER:
        lease_ask(s, out, LEASE_RETAKE, now);
        break;
    case LEASE_SOLO:
    case LEASE_RETAKE:
        break;
    }
    if (s->ask.op != LEASE_READ && e->text[0])
        lease_say(out, "refused", "%s: %s", lease_op_name(s->ask.op), e->text);
}

void lease_on_answer(struct lease_state *s, const struct lease_event *e, uint64_t now,
                     struct lease_actions *out)
{
    bool current = s->asking && e->ask_id == s->ask.id;
    if (e->answer == LEASE_UNANSWERED) {
        if (current)
            s->ask_next_ns = now + AFTER_FAILURE_MS * DMT_MS;
        return;
    }
    uint64_t hold = s->rec.hold;
    enum dmt_lease_state st = lease_core_state(s);
    uint64_t asked_ns = current ? s->ask_first_ns : 0;
    if (current)
        s->asking = false;
    lease_on_register(s, &e->reg, asked_ns, now, out);
    if (!current || st != lease_core_state(s) || hold != s->rec.hold || s->taking)
        return; /* the register decided */
    if (e->answer == LEASE_REFUSED)
        refused(s, e, now, out);
    else if (s->ask.op == LEASE_READ && st == DMT_LEASE_GIVEN_UP && !s->rec.fenced &&
             (s->reg.epoch == 0 || lease_id_eq(&s->reg.holder, &s->rec.self)))
        /* The HANDOVER never arrived; RETAKE kills it (F13). No register yet: nobody else can have
         * the right, and one that was fenced and opened again would wait for ever. */
        lease_ask(s, out, LEASE_RETAKE, now);
}

static uint32_t beat_every_ms(const struct lease_state *s)
{
    return lease_holding(s) || lease_core_state(s) == DMT_LEASE_PROMOTING ? s->lease_ms / 4
                                                                          : BEAT_IDLE_MS;
}

void lease_arbiter_timers(struct lease_state *s, uint64_t now, struct lease_actions *out)
{
    enum dmt_lease_state st = lease_core_state(s);
    if (!s->conf.has_peer)
        return;
    if (s->arb_up && lease_due(s, s->beat_next_ns, now)) {
        lease_act(out, LEASE_ACT_BEAT);
        s->beat_next_ns = now + beat_every_ms(s) * DMT_MS;
        (void)lease_due(s, s->beat_next_ns, now);
    }
    /* A working pair looks too, rarely: a request of an earlier life may have been recorded without
     * anybody here knowing. */
    bool looks = st == DMT_LEASE_START || st == DMT_LEASE_GIVEN_UP || st == DMT_LEASE_HOLDER_PAIRED;
    if (looks && !s->asking && s->arb_up && lease_due(s, s->read_next_ns, now)) {
        lease_ask(s, out, LEASE_READ, now);
        s->read_next_ns =
            now + (st == DMT_LEASE_HOLDER_PAIRED ? READ_PAIRED_MS : READ_EVERY_MS) * DMT_MS;
    }
    if (st == DMT_LEASE_CANDIDATE && s->taking)
        take(s, now, out);
    if (s->asking && lease_due(s, s->ask_next_ns, now)) {
        if (s->ask.op == LEASE_HANDOVER && now - s->ask_first_ns > HANDOVER_GIVES_MS * DMT_MS) {
            lease_ask(s, out, LEASE_RETAKE, now);
        } else {
            s->ask_next_ns =
                now + (s->ask.op == LEASE_READ ? READ_REPEAT_MS : ASK_REPEAT_MS) * DMT_MS;
            lease_act(out, LEASE_ACT_ASK)->ask = s->ask;
        }
    }
    if (s->asking)
        (void)lease_due(s, s->ask_next_ns, now);
}
