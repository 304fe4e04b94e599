/* bucket.c: the decisions of bucket.h.
 *
 * Owns nothing but the state it is given. Whenever the bucket is free, `advance` picks what matters
 * most: the peer's test, our attempt, the question of the lease core, our note, the self-test. What
 * comes back goes to the same job again; how a pair is tested and opened: bucket_pair.c. Happy path
 * of a failover: PROMOTE is asked, the attempt is recorded, claim/E is put and read back, solo/E is
 * a 404, the new epoch is recorded, granted: one PUT and two GETs. Failure modes: anything but a
 * definite answer (UNKNOWN: timeout, 5xx, 403, no such bucket) changes nothing, is asked again
 * after a while, and is told as "the arbiter is away"; a READ then stays unanswered, so a follower
 * stays follower (R13).
 *
 * Why at most one of the two gets out of pair epoch E (R17, R18): each reads the other's mark only
 * after a GET has shown its own. If both read "absent", each read came before the other's PUT was
 * confirmed, hence before the other's read: a circle. If the holder reads a claim it yields for
 * good, durably, and only then writes yield/E; a follower that read solo/E acts on nothing but
 * that. An attempt is durable before its mark and always finished, so nobody lives on in an epoch
 * whose marks may stand in the bucket. Thread: the caller's.
 */
#include "fs/lease/bucket_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/log.h"

#define RETRY_NS (500 * DMT_MS)
#define UNFIT_NS (10 * DMT_S)
#define WAIT_NS  (500 * DMT_MS)

struct bucket_action *bucket_add(struct bucket_actions *out, enum bucket_act type)
{
    DMT_ASSERT(out->n < BUCKET_ACTIONS_MAX);
    struct bucket_action *a = &out->a[out->n++];
    memset(a, 0, sizeof(*a));
    a->type = type;
    return a;
}

void bucket_write_record(struct bucket_state *s, struct bucket_actions *out)
{
    bucket_add(out, BUCKET_ACT_WRITE)->record = s->rec;
}

void bucket_wake(struct bucket_state *s, uint64_t at)
{
    if (at < s->next)
        s->next = at;
}

void bucket_answer(struct bucket_state *s, struct bucket_actions *out, enum lease_answer how,
                   uint32_t retry_ms, const char *text)
{
    struct bucket_action *a = bucket_add(out, BUCKET_ACT_ANSWER);
    a->record = s->rec;
    a->ask_id = s->ask.id;
    a->answer = how;
    a->retry_ms = retry_ms;
    (void)snprintf(a->text, sizeof(a->text), "%s", text);
    s->asked = false;
    s->pairing = 0;
}

static void tell_up(struct bucket_state *s, struct bucket_actions *out, bool up, const char *text)
{
    if (s->told && s->up == up)
        return;
    s->told = true;
    s->up = up;
    struct bucket_action *a = bucket_add(out, BUCKET_ACT_UP);
    a->up = up;
    (void)snprintf(a->text, sizeof(a->text), "%s", text);
}

void bucket_request(struct bucket_state *s, struct bucket_actions *out, enum bucket_op op,
                    enum bucket_act type, const char *fmt, ...)
{
    struct bucket_action *a = bucket_add(out, type);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(a->key, sizeof(a->key), fmt, ap);
    va_end(ap);
    s->op = op;
    s->op_epoch = s->rec.reg.epoch;
}

void bucket_say(struct bucket_actions *out, enum bucket_word word, uint64_t epoch, uint64_t nonce)
{
    struct lease_msg *m = &bucket_add(out, BUCKET_ACT_SEND)->msg;
    m->type = LEASE_BUCKET;
    m->flags = word;
    m->epoch = epoch;
    m->sent_ns = nonce;
}

bool bucket_holds(const struct bucket_state *s)
{
    return s->rec.reg.epoch && lease_id_eq(&s->rec.reg.holder, &s->rec.self);
}

const struct lease_id *bucket_peer(const struct bucket_state *s)
{
    for (int i = 0; i < s->rec.reg.insync_n; i++)
        if (!lease_id_eq(&s->rec.reg.insync[i], &s->rec.self))
            return &s->rec.reg.insync[i];
    return NULL;
}

/* `id` alone has gone on to the next epoch: recorded before anything is done with it. */
static void next_epoch(struct bucket_state *s, struct bucket_actions *out,
                       const struct lease_id *id)
{
    struct lease_id who = *id;
    struct lease_register *r = &s->rec.reg;
    /* The first epoch of a lineage belongs to its founder, who is asking. */
    uint32_t epoch = (r->epoch ? r->epoch : s->ask.base) + 1;
    memset(r, 0, sizeof(*r));
    r->epoch = epoch;
    r->holder = r->insync[0] = who;
    r->insync_n = 1;
    s->rec.attempt = BUCKET_NO_ATTEMPT;
    s->rec.yielded = false;
    s->rec.confirmed = true;
    s->noted = false;
    bucket_write_record(s, out);
}

/* --- the attempt --- */

static void begin(struct bucket_state *s, struct bucket_actions *out, enum bucket_attempt what)
{
    s->rec.attempt = what;
    s->rec.yielded = false;
    s->stage = BUCKET_MARK;
    bucket_write_record(s, out); /* before the mark: a restart goes on with it */
}

static void attempt_asks(struct bucket_state *s, struct bucket_actions *out)
{
    bool solo = s->rec.attempt == BUCKET_SOLO;
    const char *mine = solo ? "solo" : "claim", *other = solo ? "claim" : "solo";
    uint32_t e = s->rec.reg.epoch;
    const struct lease_id *peer = bucket_peer(s);
    if (s->rec.yielded && s->stage < BUCKET_YIELD)
        s->stage = BUCKET_YIELD;
    switch (s->stage) {
    case BUCKET_MARK:
        bucket_request(s, out, BUCKET_OP_MARK, BUCKET_ACT_PUT, "%s/%u", mine, e);
        return;
    case BUCKET_CONFIRM:
        bucket_request(s, out, BUCKET_OP_MARK, BUCKET_ACT_GET, "%s/%u", mine, e);
        return;
    case BUCKET_LOOK:
        bucket_request(s, out, BUCKET_OP_MARK, BUCKET_ACT_GET, "%s/%u", other, e);
        return;
    case BUCKET_YIELD:
        bucket_request(s, out, BUCKET_OP_MARK, BUCKET_ACT_PUT, "yield/%u", e);
        return;
    case BUCKET_WAIT:
        bucket_request(s, out, BUCKET_OP_MARK, BUCKET_ACT_GET, "yield/%u", e);
        return;
    case BUCKET_WAIT_NOTE:
        bucket_request(s, out, BUCKET_OP_MARK, BUCKET_ACT_GET, "epoch/%u/%s", e + 1, peer->node);
        return;
    }
}

/* We are out of the pair: granted, or, after a restart, told. */
static void won(struct bucket_state *s, struct bucket_actions *out)
{
    next_epoch(s, out, &s->rec.self);
    if (s->asked)
        bucket_answer(s, out, LEASE_GRANTED, 0, "");
    else
        bucket_add(out, BUCKET_ACT_REGISTER)->record = s->rec;
}

/* The peer is out of the pair, not we. */
static void lost(struct bucket_state *s, struct bucket_actions *out)
{
    next_epoch(s, out, bucket_peer(s));
    if (s->asked)
        bucket_answer(s, out, LEASE_REFUSED, 0, "the other machine went on without this one");
    else
        bucket_add(out, BUCKET_ACT_REGISTER)->record = s->rec;
}

static void attempt_done(struct bucket_state *s, enum bucket_result r, struct bucket_actions *out)
{
    bool solo = s->rec.attempt == BUCKET_SOLO;
    switch (s->stage) {
    case BUCKET_MARK:
        s->stage = r == BUCKET_STORED ? BUCKET_CONFIRM : BUCKET_MARK;
        return;
    case BUCKET_CONFIRM: /* R17: never act unconfirmed */
        s->stage = r == BUCKET_FOUND ? BUCKET_LOOK : BUCKET_MARK;
        return;
    case BUCKET_LOOK:
        if (r == BUCKET_ABSENT) {
            won(s, out);
        } else if (solo) { /* R18: for good, and only then said */
            s->rec.yielded = true;
            bucket_write_record(s, out);
            s->stage = BUCKET_YIELD;
        } else {
            s->stage = BUCKET_WAIT;
        }
        return;
    case BUCKET_YIELD:
        s->stage = r == BUCKET_STORED ? BUCKET_WAIT_NOTE : BUCKET_YIELD;
        return;
    case BUCKET_WAIT:
        if (r == BUCKET_FOUND)
            won(s, out);
        else
            s->stage = BUCKET_WAIT_NOTE;
        return;
    case BUCKET_WAIT_NOTE:
        if (r == BUCKET_FOUND) {
            lost(s, out);
            return;
        }
        s->stage = solo ? BUCKET_WAIT_NOTE : BUCKET_WAIT;
        s->retry_at = s->now + WAIT_NS;
        return;
    }
}

/* --- the lease core's questions --- */

static bool take_change(struct bucket_state *s, struct bucket_actions *out)
{
    const struct lease_register *r = &s->rec.reg;
    const struct lease_ask *q = &s->ask;
    bool first = r->epoch == 0 && q->base == q->first && q->first > 0 && q->op != LEASE_PROMOTE &&
                 q->op != LEASE_HANDOVER;
    char why[LEASE_TEXT_MAX];
    if (!first && (r->epoch == 0 || q->base != r->epoch || DMT_EPOCH_MAJOR(q->seen) > r->epoch)) {
        (void)snprintf(why, sizeof(why), "based on epoch %u, %u is known here", q->base, r->epoch);
        bucket_answer(s, out, LEASE_REFUSED, 0, why);
        return false;
    }
    bool paired = r->insync_n > 1, mine = first || bucket_holds(s);
    if (q->op == LEASE_PROMOTE) {
        if (mine || !paired || !lease_register_has(r, &s->rec.self))
            bucket_answer(s, out, LEASE_REFUSED, 0, "this copy is not in sync");
        else
            begin(s, out, BUCKET_CLAIM);
    } else if (!mine) {
        bucket_answer(s, out, LEASE_REFUSED, 0, "the other machine holds the workspace");
    } else if (q->op == LEASE_SOLO || q->op == LEASE_RETAKE) {
        if (paired)
            begin(s, out, BUCKET_SOLO);
        else
            won(s, out); /* alone already: only a new epoch */
    } else if (q->op == LEASE_PAIR && paired) {
        bucket_answer(s, out, LEASE_REFUSED, 0, "there is a standby in sync already");
    } else if (q->op == LEASE_PAIR) {
        return true;
    } else if (paired) { /* HANDOVER */
        bucket_say(out, BUCKET_HAND, r->epoch, 0);
        return true;
    } else {
        bucket_answer(s, out, LEASE_REFUSED, 0, "the other copy is not in sync");
    }
    return false;
}

/* Has the peer gone on without us? Answers READ and HANDOVER, and proves that the bucket is
 * there. */
static void peek(struct bucket_state *s, struct bucket_actions *out)
{
    const struct lease_id *peer = bucket_peer(s);
    if (!peer || (bucket_holds(s) && s->rec.reg.epoch > DMT_EPOCH_MAJOR(s->ask.seen))) {
        bucket_answer(s, out, LEASE_GRANTED, 0, "");
        return;
    }
    bucket_request(s, out, BUCKET_OP_PEEK, BUCKET_ACT_GET, "epoch/%u/%s", s->rec.reg.epoch + 1,
                   peer->node);
}

static void peek_done(struct bucket_state *s, enum bucket_result r, struct bucket_actions *out)
{
    if (r == BUCKET_FOUND && bucket_peer(s) && s->rec.attempt == BUCKET_NO_ATTEMPT) {
        lost(s, out);
        return;
    }
    if (s->asked)
        bucket_answer(s, out, s->ask.op == LEASE_READ ? LEASE_GRANTED : LEASE_UNANSWERED, 0, "");
}

static void question_asks(struct bucket_state *s, struct bucket_actions *out)
{
    switch (s->ask.op) {
    case LEASE_PAIR:
        bucket_pair_asks(s, out);
        return;
    case LEASE_READ:
    case LEASE_HANDOVER:
        peek(s, out);
        return;
    default:
        return;
    }
}

static void on_ask(struct bucket_state *s, const struct lease_ask *q, struct bucket_actions *out)
{
    bool again = s->asked && s->ask.id == q->id;
    if (again && q->op != LEASE_HANDOVER)
        return; /* it is being worked on */
    s->ask = *q;
    s->asked = true;
    s->pairing = 0;
    if (s->rec.attempt != BUCKET_NO_ATTEMPT && q->op != LEASE_READ)
        return; /* answered when that is over */
    if (q->op != LEASE_READ)
        (void)take_change(s, out);
}

/* --- the bucket's answers --- */

static void check_asks(struct bucket_state *s, struct bucket_actions *out)
{
    unsigned long long n = s->nonce;
    bucket_request(s, out, BUCKET_OP_CHECK, s->check == 1 ? BUCKET_ACT_PUT : BUCKET_ACT_GET,
                   "test/%016llx", n);
}

static void check_done(struct bucket_state *s, enum bucket_result r, struct bucket_actions *out)
{
    static const enum bucket_result good[] = {BUCKET_ABSENT, BUCKET_STORED, BUCKET_FOUND};
    if (r != good[s->check]) {
        s->check = 0;
        s->nonce++;
        s->retry_at = s->now + UNFIT_NS;
        tell_up(s, out, false, "the bucket does not give back what was put into it");
        return;
    }
    if (++s->check == 3) {
        s->nonce++;
        tell_up(s, out, true, "");
    }
}

static void on_done(struct bucket_state *s, enum bucket_result r, struct bucket_actions *out)
{
    enum bucket_op op = s->op;
    s->op = BUCKET_OP_NONE;
    if (r == BUCKET_UNKNOWN) { /* R20: says nothing */
        s->retry_at = s->now + RETRY_NS;
        if (s->check == 3 || op == BUCKET_OP_CHECK)
            tell_up(s, out, false, "the bucket does not answer");
        s->check = 0;
        if (s->asked && (s->ask.op == LEASE_READ || s->ask.op == LEASE_HANDOVER))
            bucket_answer(s, out, LEASE_UNANSWERED, 0, "");
        return;
    }
    bool of_epoch = op == BUCKET_OP_MARK || op == BUCKET_OP_PEEK || op == BUCKET_OP_NOTE;
    if (of_epoch && s->op_epoch != s->rec.reg.epoch)
        return; /* the answer to a question about an epoch that is over meanwhile */
    switch (op) {
    case BUCKET_OP_CHECK:
        check_done(s, r, out);
        return;
    case BUCKET_OP_MARK:
        if (s->rec.attempt != BUCKET_NO_ATTEMPT)
            attempt_done(s, r, out);
        return;
    case BUCKET_OP_WORD:
        if (s->word.type)
            bucket_word_done(s, r, out);
        return;
    case BUCKET_OP_PAIR:
        bucket_pair_done(s, r, out);
        return;
    case BUCKET_OP_PEEK:
        peek_done(s, r, out);
        return;
    case BUCKET_OP_NOTE:
        s->noted = s->noted || r == BUCKET_STORED;
        return;
    case BUCKET_OP_NONE:
        return;
    }
}

static void advance(struct bucket_state *s, struct bucket_actions *out)
{
    bucket_repeat_open(s, out);
    if (s->op != BUCKET_OP_NONE)
        return;
    if (s->now < s->retry_at) {
        bucket_wake(s, s->retry_at);
        return;
    }
    if (s->word.type) {
        bucket_word_asks(s, out);
        return;
    }
    if (s->rec.attempt != BUCKET_NO_ATTEMPT) {
        attempt_asks(s, out);
        return;
    }
    if (s->asked)
        question_asks(s, out);
    if (s->op != BUCKET_OP_NONE || s->asked)
        return;
    bool alone = bucket_holds(s) && s->rec.reg.insync_n == 1;
    if (alone && !s->noted)
        bucket_request(s, out, BUCKET_OP_NOTE, BUCKET_ACT_PUT, "epoch/%u/%s", s->rec.reg.epoch,
                       s->rec.self.node);
    else if (s->check < 3)
        check_asks(s, out);
}

void bucket_init(struct bucket_state *s, const struct bucket_record *rec)
{
    memset(s, 0, sizeof(*s));
    s->rec = *rec;
}

void bucket_step(struct bucket_state *s, const struct bucket_event *e, uint64_t now,
                 struct bucket_actions *out)
{
    out->n = 0;
    s->next = UINT64_MAX;
    s->now = now;
    switch (e->type) {
    case BUCKET_EV_TICK:
        break;
    case BUCKET_EV_START:
        s->nonce = e->nonce;
        s->started = true;
        break;
    case BUCKET_EV_ASK:
        on_ask(s, &e->ask, out);
        break;
    case BUCKET_EV_DONE:
        on_done(s, e->result, out);
        break;
    case BUCKET_EV_MSG:
        bucket_on_msg(s, &e->msg, out);
        break;
    }
    if (s->started)
        advance(s, out);
}
