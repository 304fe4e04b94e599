/* bucket.h: the arbiter `bucket`: two machines and an object store without conditional PUT. Pure: bucket_step(state, event) ->
 * actions; no I/O, no clock of its own, no thread. Rules 17 to 20 of docs/protocol.md; keys and bodies: docs/formats-lease.md.
 *
 * Each node keeps its own view of the register in STORE/bucket.state and answers the questions of its lease core from it; what
 * excludes the two from each other are marks in the bucket, two for each pair epoch E:
 *
 *   holder, SOLO:      record "attempt" -> PUT solo/E -> GET solo/E -> GET claim/E
 *                        absent -> record "alone, E + 1" -> granted;   seen -> record "yielded", PUT yield/E, wait for the peer's
 *                                                                      note
 *   follower, PROMOTE: record "attempt" -> PUT claim/E -> GET claim/E -> GET solo/E
 *                        absent -> record "mine, E + 1" -> granted;    seen -> wait for yield/E, then the same
 *
 * An attempt is recorded before its mark is made and is never given up, not by a restart either, so every epoch that carries a
 * mark ends in a higher one: no burnt epoch is lived in. A pair epoch is opened by the holder that is alone (PAIR): recorded
 * here, OPEN to the peer, recorded there, CONF; only a recorded one can be claimed. Handing over: the peer is told that the
 * holder gave up, and claims.
 *
 * The driver's contract
 *   - actions are carried out in order, each finished before the next; WRITE is durable on return;
 *   - at most one PUT or GET of a step is outstanding: its outcome comes back as BUCKET_EV_DONE; a PUT is STORED only after the
 *     store confirmed it; a GET is ABSENT only for a real 404 NoSuchKey, asked for on a fresh connection;
 *   - bucket_step is called again at state.next at the latest. */
#ifndef DMT_LEASE_BUCKET_H
#define DMT_LEASE_BUCKET_H

#include "fs/lease/core.h"

#define BUCKET_ACTIONS_MAX 8
#define BUCKET_KEY_MAX     160

enum bucket_attempt { BUCKET_NO_ATTEMPT, BUCKET_SOLO, BUCKET_CLAIM };

/* STORE/bucket.state */
struct bucket_record {
    uint8_t lineage[16]; /* that all this is about; zeros (version 1): the one that the store has */
    struct lease_id self;
    struct lease_register reg;   /* as known here; epoch 0: never paired */
    enum bucket_attempt attempt; /* in reg.epoch, marked or about to be */
    bool yielded;                /* BUCKET_SOLO: the peer's claim was seen: never alone in this epoch */
    bool confirmed;              /* holder of a pair: the peer has recorded it, too */
};

/* What the two say to each other on the ping channel (LEASE_BUCKET; flags: which). */
enum bucket_word {
    BUCKET_TRY = 1, /* sent_ns: nonce. Make sure that test/NONCE is absent */
    BUCKET_TRIED,   /* it is */
    BUCKET_SEE,     /* I have put it: look, and put test/NONCE.b */
    BUCKET_SEEN,    /* it is there, and so is mine */
    BUCKET_OPEN,    /* epoch: of a new pair; sent_ns: first bytes of the store meant */
    BUCKET_CONF,    /* it is recorded here */
    BUCKET_HAND,    /* epoch: I have given up in it: claim it */
};

enum bucket_result { BUCKET_STORED, BUCKET_FOUND, BUCKET_ABSENT, BUCKET_UNKNOWN };

enum bucket_ev {
    BUCKET_EV_TICK,
    BUCKET_EV_ASK,   /* ask */
    BUCKET_EV_DONE,  /* result */
    BUCKET_EV_MSG,   /* msg */
    BUCKET_EV_START, /* nonce: random, for the self-tests of this process */
};
struct bucket_event {
    enum bucket_ev type;
    struct lease_ask ask;
    struct lease_msg msg;
    enum bucket_result result;
    uint64_t nonce;
};

enum bucket_act {
    BUCKET_ACT_WRITE,    /* record */
    BUCKET_ACT_PUT,      /* key; the body is fixed by the key */
    BUCKET_ACT_GET,      /* key */
    BUCKET_ACT_SEND,     /* msg */
    BUCKET_ACT_ANSWER,   /* to the lease core: ask_id, answer, reg, retry_ms, text */
    BUCKET_ACT_REGISTER, /* to the lease core: reg */
    BUCKET_ACT_UP,       /* the bucket works / does not: up, text */
    BUCKET_ACT_DEATH,    /* to the lease core: the holder has given up (msg.from, msg.instance) */
};
struct bucket_action {
    enum bucket_act type;
    struct bucket_record record;
    char key[BUCKET_KEY_MAX];
    struct lease_msg msg;
    uint64_t ask_id;
    enum lease_answer answer;
    uint32_t retry_ms;
    bool up;
    char text[LEASE_TEXT_MAX];
};
struct bucket_actions {
    int n;
    struct bucket_action a[BUCKET_ACTIONS_MAX];
};

/* What the outstanding PUT or GET is for. */
enum bucket_op {
    BUCKET_OP_NONE,
    BUCKET_OP_CHECK, /* self-test at start and after a failure: GET (404), PUT, GET */
    BUCKET_OP_MARK,
    BUCKET_OP_WORD, /* the peer's crosswise test, our part */
    BUCKET_OP_PAIR, /* ours */
    BUCKET_OP_PEEK, /* has the peer gone on without us? */
    BUCKET_OP_NOTE, /* our note that we have: information only */
};
/* How far an attempt is; a test: how far it is. */
enum bucket_stage { BUCKET_MARK, BUCKET_CONFIRM, BUCKET_LOOK, BUCKET_YIELD, BUCKET_WAIT, BUCKET_WAIT_NOTE };

struct bucket_state {
    struct bucket_record rec;
    uint64_t next, now;
    enum bucket_op op; /* != NONE: outstanding */
    uint32_t op_epoch; /* of the register when it was asked */
    uint64_t retry_at; /* nothing is asked of the bucket before */
    enum bucket_stage stage;
    bool started, up, told; /* told: the lease core has heard of `up` */
    int check;              /* 0..2: next step of the self-test, 3: passed */
    uint64_t nonce;         /* of the next test */
    bool asked;             /* a request of the lease core waits for its answer */
    struct lease_ask ask;
    bool noted;
    /* pairing as holder: 0 GET test/N.b (404), 1 TRY, 2 PUT test/N, 3 GET test/N, 4 SEE, 5 GET test/N.b, 6 OPEN */
    int pairing;
    uint64_t pair_nonce, pair_began, say_at;
    struct lease_msg word; /* TRY or SEE of the peer, served when the bucket is free; type 0: none */
    bool word_put;
};

void bucket_init(struct bucket_state *s, const struct bucket_record *rec);
void bucket_step(struct bucket_state *s, const struct bucket_event *e, uint64_t now_ns, struct bucket_actions *out);

int bucket_record_encode(const struct bucket_record *r, struct dmt_buf *out);
int bucket_record_decode(const void *p, size_t n, struct bucket_record *ret, struct dmt_err *err);

#endif
