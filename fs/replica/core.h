/* core.h: what to do about the peer: pure decisions of one replica connection. replica_step(state, event) -> actions; no I/O, no
 * clock, no memory.
 *
 * The driver (hello.c, session.c) looks up what the core cannot know (is this position on our journal's chain?) and says so in
 * the event, then carries out the actions in order. What a frame may do on the hot path is asked with replica_core_takes().
 *
 *   DOWN -> GREETING (our HELLO is out) -> IDLE (both HELLO and VERDICT known; also "nothing to do for this pair of roles")
 *   sender:    IDLE -> AWAIT_READY -> STREAMING;  READY not on our chain: DIVERGED -> ORDERED -> EXPORTING -> ORDERED
 *   receiver:  IDLE -> AWAIT_FOLLOW -> AWAIT_STREAM -> RECEIVING;  AWAIT_ORDER -> IMPORTING;  IDLE -> SERVING -> IDLE (fetched
 *                                                                                             from)
 *   start:     IDLE -> FETCHING -> IDLE
 *
 * Rules of docs/protocol.md kept here: 4 (lower epochs are refused for ever), 5 (a cut is only proposed for an epoch not yet
 * followed), 6 (fetch), 9 (nothing counts before READY of this epoch on this connection), 11 (only a holder alone orders a
 * resync).
 */
#ifndef DMT_REPLICA_CORE_H
#define DMT_REPLICA_CORE_H

#include "fs/base/sm.h"
#include "fs/replica/replica.h"
#include "fs/replica/wire.h"

/* How a position of the peer lies to our journal. */
enum replica_relation {
    REPLICA_ON,     /* on our chain */
    REPLICA_BEYOND, /* after our tail */
    REPLICA_OFF,    /* same number, other history */
    REPLICA_OLD,    /* before our oldest record */
    REPLICA_EMPTY,  /* one of us has no journal */
    REPLICA_RELATIONS
};
const char *replica_relation_text(enum replica_relation r);

#define REPLICA_PHASES(X)                                                                                              \
    X(DOWN, "down")                                                                                                    \
    X(GREETING, "greeting")                                                                                            \
    X(IDLE, "idle")                                                                                                    \
    X(AWAIT_READY, "await-ready")                                                                                      \
    X(STREAMING, "streaming")                                                                                          \
    X(DIVERGED, "diverged")                                                                                            \
    X(ORDERED, "ordered")                                                                                              \
    X(EXPORTING, "exporting")                                                                                          \
    X(AWAIT_FOLLOW, "await-follow")                                                                                    \
    X(AWAIT_STREAM, "await-stream")                                                                                    \
    X(RECEIVING, "receiving")                                                                                          \
    X(AWAIT_ORDER, "await-order")                                                                                      \
    X(IMPORTING, "importing")                                                                                          \
    X(SERVING, "serving")                                                                                              \
    X(FETCHING, "fetching")
enum replica_phase {
#define X(name, text) REPLICA_##name,
    REPLICA_PHASES(X)
#undef X
    REPLICA_PHASE_COUNT
};

/* EV(NAME): which fields of struct replica_event count */
#define REPLICA_EVENTS(EV)                                                                                             \
    EV(OPEN)         /* our HELLO is on its way. flag: we have no store; pos: the position it states */                \
    EV(CLOSED)       /* the connection is gone. text */                                                                \
    EV(GOT_HELLO)    /* peer; relation: of its tail; fork */                                                           \
    EV(GOT_VERDICT)  /* relation: of ours, as the peer sees it */                                                      \
    EV(GOT_EPOCH)    /* epoch; flag: alone; fork; pos: our tail */                                                     \
    EV(GOT_READY)    /* epoch; flag: cannot; pos; relation; tail; text */                                              \
    EV(GOT_STREAM)   /* epoch; pos: it starts after; tail: ours */                                                     \
    EV(GOT_ACK)      /* epoch; seq: durable; whole; sent; pos: (seq, chain) stated; chain_ok; tail: ours */            \
    EV(GOT_FETCH)    /* epoch; pos; relation */                                                                        \
    EV(GOT_FETCHED)  /* epoch; pos */                                                                                  \
    EV(GOT_ORDER)    /* epoch; flag: alone */                                                                          \
    EV(GOT_GO)       /* epoch */                                                                                       \
    EV(GOT_STALE)    /* epoch: the peer refuses us because it has seen this one */                                     \
    EV(ROLE)         /* role, epoch, flag: alone, seen */                                                              \
    EV(FOLLOW)       /* epoch; tail: ours, durable */                                                                  \
    EV(CANNOT)       /* text; tail */                                                                                  \
    EV(DO_ORDER)                                                                                                       \
    EV(RESYNC_READY) /* the workspace is closed, the directory may be overwritten */                                   \
    EV(IMPORTED)     /* err */                                                                                         \
    EV(EXPORTED)     /* err; text */                                                                                   \
    EV(DO_FETCH)                                                                                                       \
    EV(STORED)       /* what was fetched is durable and applied. err */                                                \
    EV(SERVED)       /* all that was asked for is sent */
enum replica_event_type {
#define EV(name) REPLICA_EV_##name,
    REPLICA_EVENTS(EV)
#undef EV
    REPLICA_EVENT_COUNT
};

struct replica_event {
    enum replica_event_type type;
    enum dmt_replica_role role;
    enum replica_relation relation;
    uint64_t epoch, seen, seq, whole, sent, fork;
    struct dmt_pos pos, tail;
    bool flag, chain_ok;
    int err;
    const struct dmt_replica_peer *peer;
    const char *text;
};
#define REPLICA_NO_FORK UINT64_MAX /* histories do not part as far as known */

/* AC(NAME): what its fields mean */
#define REPLICA_ACTIONS(AC)                                                                                            \
    AC(VERDICT)        /* send; relation */                                                                            \
    AC(UP)             /* ops.peer_up */                                                                               \
    AC(PEER_GONE)      /* ops.peer_down; text */                                                                       \
    AC(SEND_EPOCH)     /* epoch, flag: alone */                                                                        \
    AC(PEER_EPOCH)     /* ops.peer_epoch: epoch, flag: alone, seq: switch point */                                     \
    AC(SEND_READY)     /* epoch, flag: cannot, pos, text */                                                            \
    AC(START_STREAM)   /* send STREAM, read the journal after pos; epoch */                                            \
    AC(STOP_STREAM)                                                                                                    \
    AC(RECEIVE)        /* ops.following: epoch, seq */                                                                 \
    AC(STOP_RECEIVING) /* frames stop until the next RECEIVE */                                                        \
    AC(ACKED)          /* ops.peer_acked: epoch, seq, whole */                                                         \
    AC(PAIR_READY)     /* ops.pair_ready: epoch, seq */                                                                \
    AC(HIGHER)         /* ops.higher_epoch: epoch */                                                                   \
    AC(RESYNC_NEEDED)  /* ops.resync_needed: text */                                                                   \
    AC(SEND_ORDER)     /* epoch */                                                                                     \
    AC(RESYNC_ORDERED) /* ops.resync_ordered: epoch, flag, seq: up to there our history is the holder's */            \
    AC(IMPORT)         /* begin the import, send GO; epoch */                                                          \
    AC(EXPORT)         /* start the state stream; epoch */                                                             \
    AC(SEND_FETCH)     /* epoch, after our tail */                                                                     \
    AC(SERVE)          /* read the journal after pos up to the tail; epoch */                                          \
    AC(STORE)          /* make durable and apply what was fetched up to pos, then STORED */                            \
    AC(FETCH_ENDED)    /* ops.fetched: err */                                                                          \
    AC(CLOSE)          /* say BYE (err, text, our seen) and close */
enum replica_action_type {
#define AC(name) REPLICA_AC_##name,
    REPLICA_ACTIONS(AC)
#undef AC
};
struct replica_action {
    enum replica_action_type type;
    enum replica_relation relation;
    uint64_t epoch, seq, whole;
    struct dmt_pos pos;
    bool flag;
    int err;
    const char *text; /* static, or the event's */
};
#define REPLICA_ACTIONS_MAX 8
struct replica_actions {
    struct replica_action v[REPLICA_ACTIONS_MAX];
    int n;
};

struct replica_core {
    struct dmt_sm sm;
    /* we */
    enum dmt_replica_role role;
    uint64_t epoch; /* held (START, SENDER) or followed (RECEIVER; 0 = none yet) */
    uint64_t seen;
    bool alone, empty;
    bool resync_ready;      /* told RESYNC_READY, import not finished */
    struct dmt_pos hello;   /* position in our HELLO */
    bool announce;          /* became SENDER after our HELLO went out */
    /* the peer, this connection */
    struct dmt_replica_peer peer;
    bool have_hello, have_verdict, up, ordered, import_over;
    bool on_chain; /* receiver: the peer has streamed to us on this connection */
    enum replica_relation about_peer, about_us;
    uint64_t fork;
    uint64_t acked;         /* sender: durable there, verified; valid in STREAMING */
    bool pair_told;
    /* outlives a connection: an order stands until the ordered store streams or the epoch changes */
    uint8_t ordered_store[16];
    uint64_t ordered_epoch;
    uint64_t common; /* of the last order to us: up to there our history is the holder's; 0 = nothing known */
};

void replica_core_init(struct replica_core *c);
void replica_step(struct replica_core *c, const struct replica_event *ev, struct replica_actions *ret);
enum replica_phase replica_core_phase(const struct replica_core *c);

/* May a frame of this epoch be taken now? 0; 1: it is late, ignore it; DMT_E_STALE: its epoch is over; -EPROTO: it has no place
 * here. */
int replica_core_takes(const struct replica_core *c, uint8_t type, uint64_t epoch);
/* Where two histories part at the latest, from their lists of epochs (ascending, the newest REPLICA_EPOCHS_MAX each): the first
 * switch point that only one of them has. REPLICA_NO_FORK: the lists are equal. 0: nothing common is known. */
uint64_t replica_fork(const struct replica_epoch *a, size_t an, const struct replica_epoch *b, size_t bn);
/* Two connections with the same peer: keep the second? Both sides come to the same answer. dialled_*: by us. */
bool replica_prefer_second(const uint8_t our_store[16], const uint8_t peer_store[16], bool dialled_first,
                           bool dialled_second);

#endif
