/* core.h: the decisions of fs/lease as a pure function: (state, event, now) -> actions. No I/O, no clock, no thread, no
 * allocation. The rules are those of docs/protocol.md, cited as R1..R25 and F1..F24 in core*.c.
 *
 * The driver's contract
 *   - events are fed one at a time; event.tail and event.oldest_sync_ms are filled in for each;
 *   - actions of one step, and of later steps, are carried out in this order, each finished before the next begins. Only the
 * marked ones [now] may (and should) run ahead of waiting ones: they send, or they restrict. Gate actions carry a growing
 * `gen`: one with a lower gen than what is applied already is skipped;
 *   - a crash may fall between any two actions; the next start has the last record written;
 *   - lease_step is called again at state.next at the latest (with a TICK). */
#ifndef DMT_LEASE_CORE_H
#define DMT_LEASE_CORE_H

#include "fs/base/lineage.h"
#include "fs/base/sm.h"
#include "fs/lease/lease.h"

#define LEASE_H_MAX_MS    3000u
#define LEASE_ACTIONS_MAX 24
#define LEASE_TEXT_MAX    200
#define LEASE_PAIR_LAG    20000u /* records: how far behind a peer may be at most when leaving solo begins */
#define LEASE_INSYNC_MAX  2

/* A store on a node. Empty node: nobody. */
struct lease_id {
    char node[DMT_NODE_NAME_MAX + 1];
    uint8_t store[16];
};
bool lease_id_eq(const struct lease_id *a, const struct lease_id *b);
bool lease_id_none(const struct lease_id *a);

/* The arbiter's register. epoch is a major; 0 = no register yet. */
struct lease_register {
    uint32_t epoch;
    struct lease_id holder;
    struct lease_id insync[LEASE_INSYNC_MAX];
    int insync_n;
};
bool lease_register_has(const struct lease_register *r, const struct lease_id *id);

/* What a node must remember over power cuts (STORE/node.state; docs/formats-lease.md). */
struct lease_record {
    struct dmt_lineage lineage;
    struct lease_id self;
    uint64_t seen;     /* highest epoch ever obeyed */
    uint64_t hold;     /* epoch held as writer, 0 = none */
    bool alone;        /* solo is recorded in the register */
    bool dual_ack;     /* LEAVING: PAIR may have been sent */
    bool gave_up;      /* HANDOVER may have been sent (its base: seen), or fenced */
    bool fenced;       /* no RETAKE by itself */
    bool resync;       /* the store is being rewritten */
    bool peer_stopped; /* follower: the holder stopped in an orderly way, so its silence means nothing */
    bool ever_paired;
    bool readonly;        /* promoted with after_promotion=readonly and not opened yet */
    struct lease_id peer; /* holder: the other store named in the held epoch; follower: the holder followed last */
};

/* Messages of the ping channel. */
enum lease_msg_type { LEASE_PING = 1, LEASE_PONG, LEASE_NACK, LEASE_BYE, LEASE_BYE_OK, LEASE_NOTICE, LEASE_BUCKET };
struct lease_msg {
    enum lease_msg_type type;
    struct lease_id from;
    uint64_t instance;       /* of the sending process */
    uint64_t epoch;          /* PING: held; PONG, NACK: seen; NOTICE: base handed over */
    uint64_t sent_ns;        /* PING: sender's clock; PONG, NACK: echoed */
    uint32_t promise_ms;     /* PONG: H */
    uint32_t rtt_us;         /* PING: as the holder measured it */
    uint32_t oldest_sync_ms; /* PING */
    uint32_t flags;          /* LEASE_F_*; BUCKET: enum bucket_word (bucket.h), never given to this core */
};
#define LEASE_F_HOLDER 1u /* BYE: the sender holds */
#define LEASE_F_RESYNC 2u /* PONG */
#define LEASE_F_SPOT   4u /* PING */

enum lease_op { LEASE_READ = 1, LEASE_SOLO, LEASE_PAIR, LEASE_PROMOTE, LEASE_HANDOVER, LEASE_RETAKE };
const char *lease_op_name(enum lease_op op);
struct lease_ask {
    enum lease_op op;
    uint64_t id;          /* of this request; answers carry it */
    uint32_t base;        /* epoch the request is based on (R1) */
    uint64_t seen;        /* F17 */
    uint32_t first;       /* epoch that the lineage began with, which no register has to know; 0: not known here */
    struct lease_id peer; /* PAIR: whom; HANDOVER: to whom */
    uint32_t lease_ms;    /* PROMOTE: H, for F23 */
    bool word;            /* PROMOTE: word of death or an operator ended the wait */
};
enum lease_answer { LEASE_GRANTED, LEASE_REFUSED, LEASE_UNANSWERED };

enum lease_ev {
    LEASE_EV_START,
    LEASE_EV_TICK,
    LEASE_EV_MSG,     /* msg */
    LEASE_EV_PING_UP, /* a ping channel is there */
    LEASE_EV_PING_DOWN,
    LEASE_EV_ARB_UP,
    LEASE_EV_ARB_DOWN,
    LEASE_EV_ANSWER,   /* ask_id, answer, reg (valid unless UNANSWERED), retry_ms, text */
    LEASE_EV_REGISTER, /* reg: told without being asked */
    LEASE_EV_DEATH,    /* id, instance */
    LEASE_EV_GATE,     /* the gate of `gen` is applied; event.tail sampled after that */
    LEASE_EV_PEER_UP,  /* id, epoch, ahead */
    LEASE_EV_PEER_DOWN,
    LEASE_EV_PEER_ACK,   /* id, epoch, durable, whole */
    LEASE_EV_PEER_EPOCH, /* id, epoch, alone, switch_seq, (own) durable = our tail; newer, lineage */
    LEASE_EV_HIGHER,     /* epoch */
    LEASE_EV_RESYNC_NEEDED,
    LEASE_EV_RESYNC_ORDERED, /* epoch, alone, lineage */
    LEASE_EV_RESYNC_DONE,    /* gen: of the order, 0: none since the start; err */
    LEASE_EV_PROMOTE_DONE,   /* err */
    LEASE_EV_LOSE_DONE,      /* err */
    LEASE_EV_FETCH_DONE,     /* err */
    LEASE_EV_FREEZE,
    LEASE_EV_DRAINED, /* err */
    LEASE_EV_COMMAND, /* command; FORCE: lineage.id, random */
    LEASE_EV_SPOT,    /* spot */
    LEASE_EV_STOP,
    LEASE_EV_BROKEN, /* the driver could not carry out an action */
};
struct lease_event {
    enum lease_ev type;
    uint64_t tail;           /* every event: the journal's tail */
    uint64_t oldest_sync_ms; /* every event */
    struct lease_msg msg;
    struct lease_id id;
    struct lease_register reg;
    uint64_t ask_id;
    enum lease_answer answer;
    uint32_t retry_ms;
    uint64_t instance, epoch, durable, whole, switch_seq, gen;
    struct dmt_lineage lineage; /* of the peer */
    bool newer; /* which was forced out of that of our store */
    bool alone, ahead, spot;
    int err;
    enum dmt_lease_command command;
    char text[LEASE_TEXT_MAX];
};

/* CLOSED: nothing, EIO/EROFS. WAIT: everything waits. ALONE: everything goes. PAIR: plain until the lease's end, syncs with
 * the peer's ack too. READONLY: reads and syncs of what is there. */
enum lease_gate_mode { LEASE_GATE_CLOSED, LEASE_GATE_WAIT, LEASE_GATE_ALONE, LEASE_GATE_PAIR, LEASE_GATE_READONLY };

enum lease_act {
    LEASE_ACT_WRITE,      /* record: durable */
    LEASE_ACT_CLOSE,      /* [now] gate: CLOSED or WAIT */
    LEASE_ACT_GATE,       /* gate: the others; answer with EV_GATE */
    LEASE_ACT_LEASE,      /* [now] deadline_ns: plain calls may return until then */
    LEASE_ACT_SEND,       /* [now] msg */
    LEASE_ACT_ASK,        /* ask */
    LEASE_ACT_BEAT,       /* [now] heartbeat to the controller */
    LEASE_ACT_OPEN_EPOCH, /* epoch, alone, text = reason */
    LEASE_ACT_PROMOTE,    /* epoch, alone, text = reason; forced: the store becomes one of the record's lineage first */
    LEASE_ACT_DEMOTE,
    LEASE_ACT_FOLLOW, /* epoch */
    LEASE_ACT_LOSE,   /* epoch, switch_seq, text = branch; forced: nothing is cut, a resync follows */
    LEASE_ACT_FETCH,
    LEASE_ACT_ORDER_RESYNC,
    LEASE_ACT_RESYNC, /* gen: number of the order */
    LEASE_ACT_DRAIN,
    LEASE_ACT_EVENT,    /* [now] kind, text */
    LEASE_ACT_MAY_STOP, /* [now] */
};
struct lease_action {
    enum lease_act type;
    struct lease_record record;
    struct lease_msg msg;
    struct lease_ask ask;
    enum lease_gate_mode mode;
    struct lease_id peer; /* GATE PAIR: whose acknowledgements count */
    uint64_t gen, epoch, switch_seq, deadline_ns;
    bool alone;       /* OPEN_EPOCH, PROMOTE */
    bool forced;      /* PROMOTE, LOSE */
    const char *kind; /* static */
    char text[LEASE_TEXT_MAX];
};
struct lease_actions {
    int n;
    struct lease_action a[LEASE_ACTIONS_MAX];
};

struct lease_core_conf {
    struct dmt_lease_timers timers; /* checked */
    uint64_t solo_after_ms;
    enum dmt_degrade degrade;
    enum dmt_after_promotion after_promotion;
    bool has_peer; /* a standby is or was configured: pings and arbiter matter */
    uint64_t instance;
};

/* Largest gap between pings in the last ten minutes, in ten buckets of a minute. */
struct lease_gaps {
    uint64_t minute[10];
    uint32_t max_ms[10];
};

struct lease_state {
    struct lease_core_conf conf;
    struct lease_record rec;
    struct dmt_sm sm;
    uint64_t next; /* wake up at this time */
    uint64_t start_ns;
    uint64_t gate_gen;
    enum lease_gate_mode gate;
    bool broken, spot, stopping, stop_told;
    bool forcing; /* PROMOTING by force: the epoch may not be on any disk yet, so nobody is told of it */
    uint64_t stop_ns;

    /* peer, as holder */
    bool peer_up;            /* replica connected */
    struct lease_id peer_id; /* of that connection */
    uint64_t peer_since_ns;
    bool peer_bye, peer_wants_resync, resync_ordered;
    uint64_t ack_epoch, ack_durable, ack_whole;
    uint64_t close_since_ns; /* alone: since when the peer has been close; 0 = it is not */
    uint64_t round_ns, round_to; /* then: what was the tail, and when */
    bool ping_up;
    uint64_t ping_next_ns;
    uint64_t lease_end_ns;   /* f * H after the send time of the best PONG */
    uint8_t lease_store[16]; /* whose promise that is */
    uint64_t ok_ns;          /* last time the peer was well: lease valid and connected */
    uint64_t rtt_us;
    uint64_t leave_gen; /* LEAVING: gate generation to wait for */
    uint64_t leave_at;  /* records acknowledged alone end here at the latest */
    bool leave_known;
    bool fetching, draining, leave_failed;
    uint64_t pair_next_ns; /* PAIR was refused: not again before */

    /* peer, as follower */
    uint64_t promise_ns; /* our word: no PROMOTE before */
    uint64_t heard_ns;   /* last PING */
    uint64_t heard_instance, dead_instance; /* dead_instance: of whom there was word of death */
    struct lease_gaps gaps;
    uint32_t lease_ms;                    /* H as stated last */
    uint64_t peer_sync_ms;                /* oldest waiting sync of the holder */
    bool dead, operator_word, told_unfit; /* the holder is gone for certain / the operator says so */
    bool taking;               /* CANDIDATE: the register names us already; our own promise still runs */
    uint64_t not_before_ns;               /* refused: next attempt */
    bool losing;                          /* LOSER: the branch is being saved */
    bool over;                            /* our lineage is: the other machine was forced out of it */
    bool claimed;                         /* CANDIDATE or losing: somebody claimed an epoch meanwhile; answered afterwards */
    struct lease_event claim;             /* the claim (PEER_EPOCH) being served, or waiting */
    uint64_t resync_retry_ns;             /* 0 = none */
    uint64_t resync_order;                /* number of the last one */

    /* arbiter */
    bool arb_up, asking;
    struct lease_ask ask;
    uint64_t ask_next_ns; /* repeat then */
    uint64_t ask_first_ns;
    uint64_t ask_last_id;
    struct lease_register reg; /* last known */
    bool reg_known;
    uint64_t reg_ns; /* when the answer that told it was ASKED for */
    uint64_t read_next_ns, beat_next_ns;
};

void lease_core_init(struct lease_state *s, const struct lease_core_conf *conf, const struct lease_record *rec);
void lease_step(struct lease_state *s, const struct lease_event *e, uint64_t now_ns, struct lease_actions *out);
enum dmt_lease_state lease_core_state(const struct lease_state *s);
/* Is a command possible now? 0, or why not. peer_silent_ms: since when the other machine is; UINT64_MAX: never heard. */
int lease_command_check(enum dmt_lease_state st, bool readonly, uint64_t peer_silent_ms, enum dmt_lease_command cmd,
                        struct dmt_err *err);
uint64_t lease_core_silent_ms(const struct lease_state *s, uint64_t now_ns);
/* Milliseconds until SOLO is asked; 0 = not waiting for that. */
uint64_t lease_core_solo_in_ms(const struct lease_state *s, uint64_t now_ns);

/* --- between the files of the core --- */
struct lease_action *lease_act(struct lease_actions *out, enum lease_act type);
void lease_say(struct lease_actions *out, const char *kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void lease_write(struct lease_state *s, struct lease_actions *out);
void lease_gate(struct lease_state *s, struct lease_actions *out, enum lease_gate_mode mode);
void lease_move(struct lease_state *s, enum dmt_lease_state next);
void lease_open(struct lease_state *s, struct lease_actions *out, const char *reason);
bool lease_holding(const struct lease_state *s); /* PAIRED, ALONE, LEAVING, or START */
/* true when t has come; else the next wake-up is at t at the latest */
bool lease_due(struct lease_state *s, uint64_t t_ns, uint64_t now_ns);
/* core_arbiter.c */
void lease_ask(struct lease_state *s, struct lease_actions *out, enum lease_op op, uint64_t now_ns);
void lease_on_answer(struct lease_state *s, const struct lease_event *e, uint64_t now_ns, struct lease_actions *out);
void lease_on_register(struct lease_state *s, const struct lease_register *reg, uint64_t asked_ns, uint64_t now_ns,
                       struct lease_actions *out);
void lease_arbiter_timers(struct lease_state *s, uint64_t now_ns, struct lease_actions *out);
/* core_holder.c */
void lease_holder_event(struct lease_state *s, const struct lease_event *e, uint64_t now_ns, struct lease_actions *out);
void lease_holder_timers(struct lease_state *s, const struct lease_event *e, uint64_t now_ns, struct lease_actions *out);
void lease_become_loser(struct lease_state *s, struct lease_actions *out, uint64_t epoch, const char *how);
bool lease_peer_ok(const struct lease_state *s, uint64_t now_ns);
/* core_follower.c */
void lease_follower_event(struct lease_state *s, const struct lease_event *e, uint64_t now_ns, struct lease_actions *out);
void lease_follower_timers(struct lease_state *s, const struct lease_event *e, uint64_t now_ns, struct lease_actions *out);
void lease_become_follower(struct lease_state *s, struct lease_actions *out, uint64_t now_ns);
void lease_answer_ping(struct lease_state *s, const struct lease_msg *m, uint64_t now_ns, struct lease_actions *out);

/* record.c: node.state */
int lease_record_encode(const struct lease_record *r, struct dmt_buf *out);
int lease_record_decode(const void *p, size_t n, struct lease_record *ret, struct dmt_err *err);
/* wire.c: the ping channel */
void lease_msg_encode(const struct lease_msg *m, struct dmt_buf *out);
int lease_msg_decode(const void *p, size_t n, struct lease_msg *ret);

#endif
