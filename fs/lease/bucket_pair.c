/* bucket_pair.c: how the two machines of a pair come together: the bucket is tested crosswise, the
 * pair is opened, and what else they say to each other.
 *
 * Owns nothing but the state it is given. Happy path at the holder: a fresh nonce whose keys are
 * absent, TRY; TRIED: our mark is put and read, SEE; SEEN: the peer's mark is read. So each has
 * seen what the other put: it is one bucket. Then the pair is recorded, OPEN is said until CONF
 * comes, and only then PAIR is granted. At the peer: it looks and puts as it is told (`word`), and
 * has the pair on its disk before it says CONF (R19). Failure modes: a test that fails, or that
 * takes longer than PAIR_NS, is refused: not now. OPEN outlives the question and a restart, for a
 * pair that is recorded here may be recorded there. Thread: the caller's.
 */
#include "fs/lease/bucket_int.h"

#include <string.h>

#define SAY_NS         (500 * DMT_MS)
#define PAIR_NS        (15 * DMT_S)
#define UNFIT_RETRY_MS 10000u

/* --- pairing: the crosswise test, then OPEN --- */

static void pair_refused(struct bucket_state *s, struct bucket_actions *out, const char *why)
{
    bucket_answer(s, out, LEASE_REFUSED, UNFIT_RETRY_MS, why);
}

/* Repeats a word until the next one comes. */
static void pair_says(struct bucket_state *s, struct bucket_actions *out, enum bucket_word word)
{
    if (s->now - s->pair_began > PAIR_NS) {
        pair_refused(s, out, "the standby does not answer the test of the bucket");
        return;
    }
    if (s->now >= s->say_at) {
        bucket_say(out, word, 0, s->pair_nonce);
        s->say_at = s->now + SAY_NS;
    }
    bucket_wake(s, s->say_at);
}

static void open_pair(struct bucket_state *s, struct bucket_actions *out)
{
    struct lease_register *r = &s->rec.reg;
    uint32_t epoch = (r->epoch ? r->epoch : s->ask.base) + 1;
    r->epoch = epoch;
    r->holder = r->insync[0] = s->rec.self;
    r->insync[1] = s->ask.peer;
    r->insync_n = 2;
    s->rec.confirmed = false;
    bucket_write_record(s, out);
    s->pairing = 6;
    s->say_at = s->now;
}

void bucket_pair_asks(struct bucket_state *s, struct bucket_actions *out)
{
    unsigned long long n = s->pair_nonce;
    switch (s->pairing) {
    case 0:
        s->pair_nonce = n = ++s->nonce;
        s->pair_began = s->now;
        s->say_at = 0;
        bucket_request(s, out, BUCKET_OP_PAIR, BUCKET_ACT_GET, "test/%016llx.b", n);
        return;
    case 1:
        pair_says(s, out, BUCKET_TRY);
        return;
    case 2:
        bucket_request(s, out, BUCKET_OP_PAIR, BUCKET_ACT_PUT, "test/%016llx", n);
        return;
    case 3:
        bucket_request(s, out, BUCKET_OP_PAIR, BUCKET_ACT_GET, "test/%016llx", n);
        return;
    case 4:
        pair_says(s, out, BUCKET_SEE);
        return;
    case 5:
        bucket_request(s, out, BUCKET_OP_PAIR, BUCKET_ACT_GET, "test/%016llx.b", n);
        return;
    default: /* OPEN is repeated by advance until CONF comes */
        return;
    }
}

void bucket_pair_done(struct bucket_state *s, enum bucket_result r, struct bucket_actions *out)
{
    static const enum bucket_result good[] = {BUCKET_ABSENT, 0, BUCKET_STORED,
                                              BUCKET_FOUND,  0, BUCKET_FOUND};
    if (!s->asked || s->ask.op != LEASE_PAIR || s->pairing > 5)
        return; /* it is over meanwhile */
    if (r != good[s->pairing])
        pair_refused(s, out, "the bucket does not give back what was put into it");
    else if (s->pairing == 5)
        open_pair(s, out);
    else
        s->pairing++;
    s->say_at = s->now;
}

/* --- the other side of the test --- */

void bucket_word_asks(struct bucket_state *s, struct bucket_actions *out)
{
    unsigned long long n = s->word.sent_ns;
    if (s->word_put)
        bucket_request(s, out, BUCKET_OP_WORD, BUCKET_ACT_PUT, "test/%016llx.b", n);
    else
        bucket_request(s, out, BUCKET_OP_WORD, BUCKET_ACT_GET, "test/%016llx", n);
}

void bucket_word_done(struct bucket_state *s, enum bucket_result r, struct bucket_actions *out)
{
    bool see = s->word.flags == BUCKET_SEE;
    if (see && !s->word_put && r == BUCKET_FOUND) {
        s->word_put = true;
        return;
    }
    bool good = r == (see ? BUCKET_STORED : BUCKET_ABSENT);
    bucket_say(out, see ? BUCKET_SEEN : BUCKET_TRIED, good ? 0 : 1, s->word.sent_ns);
    s->word.type = 0;
}

/* --- the peer's words --- */

static uint64_t store_word(const struct lease_id *id)
{
    return dmt_le64(id->store);
}

static void on_open(struct bucket_state *s, const struct lease_msg *m, struct bucket_actions *out)
{
    struct lease_register *r = &s->rec.reg;
    if (m->sent_ns != store_word(&s->rec.self)) /* R4: the store that is meant */
        return;
    bool known = m->epoch == r->epoch && lease_id_eq(&r->holder, &m->from) && r->insync_n > 1;
    if (!known && (m->epoch <= r->epoch || m->epoch > UINT32_MAX))
        return;
    if (!known) {
        memset(r, 0, sizeof(*r));
        r->epoch = (uint32_t)m->epoch;
        r->holder = r->insync[0] = m->from;
        r->insync[1] = s->rec.self;
        r->insync_n = 2;
        s->rec.attempt = BUCKET_NO_ATTEMPT; /* in an epoch that is over */
        s->rec.yielded = false;
        s->rec.confirmed = true;
        bucket_write_record(s, out);
        bucket_add(out, BUCKET_ACT_REGISTER)->record = s->rec;
        if (s->asked)
            bucket_answer(s, out, LEASE_REFUSED, 0, "a new pair was opened");
    }
    bucket_say(out, BUCKET_CONF, m->epoch, 0);
}

void bucket_on_msg(struct bucket_state *s, const struct lease_msg *m, struct bucket_actions *out)
{
    bool pairing = s->asked && s->ask.op == LEASE_PAIR && m->sent_ns == s->pair_nonce;
    switch ((enum bucket_word)m->flags) {
    case BUCKET_TRY:
    case BUCKET_SEE:
        if (s->op != BUCKET_OP_WORD) {
            s->word = *m;
            s->word_put = false;
        }
        return;
    case BUCKET_TRIED:
    case BUCKET_SEEN:
        if (!pairing || s->pairing != (m->flags == BUCKET_TRIED ? 1 : 4))
            return;
        if (m->epoch != 0)
            pair_refused(s, out, "the two machines do not see the same bucket");
        else
            s->pairing++;
        return;
    case BUCKET_OPEN:
        on_open(s, m, out);
        return;
    case BUCKET_CONF:
        if (!bucket_holds(s) || m->epoch != s->rec.reg.epoch || s->rec.confirmed)
            return;
        s->rec.confirmed = true;
        bucket_write_record(s, out);
        if (s->asked && s->ask.op == LEASE_PAIR)
            bucket_answer(s, out, LEASE_GRANTED, 0, "");
        return;
    case BUCKET_HAND:
        if (m->epoch == s->rec.reg.epoch && lease_id_eq(&s->rec.reg.holder, &m->from))
            bucket_add(out, BUCKET_ACT_DEATH)->msg = *m;
        return;
    }
}

/* The pair is opened here; is it there? Said again until it is, by whichever process of ours. */
void bucket_repeat_open(struct bucket_state *s, struct bucket_actions *out)
{
    if (!bucket_holds(s) || s->rec.confirmed || s->rec.reg.insync_n < 2)
        return;
    if (s->now >= s->say_at) {
        bucket_say(out, BUCKET_OPEN, s->rec.reg.epoch, store_word(bucket_peer(s)));
        s->say_at = s->now + SAY_NS;
    }
    bucket_wake(s, s->say_at);
}
