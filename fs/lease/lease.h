/* lease.h: who may write. The node's side of the protocol of docs/protocol.md: durable node record, epochs, the lease that
 * the in-sync peer gives with every PONG, the arbiter's register, failover, solo, handover, return of a loser.
 *
 * All decisions are in the pure core (fs/lease/core.h); this is its driver. L4 (fs/dumontfs.c) connects it:
 *
 *   dmt_lease_new        reads STORE/node.state (or makes it); dmt_lease_state() says how to open the workspace:
 *                        START or HOLDER_*: as holder (recovery applies everything; nothing is appended before
 * ops->open_epoch); anything else: as follower dmt_lease_start      starts the threads; from here ops are called
 *   dmt_lease_peer_*     what the replica learns (connection, epochs, acknowledgements), told by L4
 *   dmt_lease_plain/begin/sync   the answers for fs/workspace/gate.h
 *   dmt_lease_stop, dmt_lease_free
 *
 * Threads: `lease` runs the core, sends and answers pings; it never touches the disk. `lease-io` writes the node record and
 * calls the ops marked [io], strictly in the order in which the core decided (write before act). `lease-arb` owns the
 * connection to the controller, `lease-dial` dials the ping channel. All functions here may be called from any thread, and
 * return at once, unless marked [blocks]. None of the ops may call back into dmt_lease_stop/free; everything else they may
 * call. Without arbiter and standby the core stays HOLDER_ALONE: no pings, no arbiter, plain and sync always answer 0.
 */
#ifndef DMT_LEASE_LEASE_H
#define DMT_LEASE_LEASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/base/clock.h"
#include "fs/base/err.h"
#include "fs/base/io.h"
#include "fs/base/limits.h"
#include "fs/base/lineage.h"
#include "fs/base/tls.h"

#define DMT_LEASE_STATES(X)                                                                                                 \
    X(START, "start")          /* holder that has not opened its epoch yet; appends and acknowledges nothing */             \
    X(HOLDER_PAIRED, "paired") /* syncs need both disks and the peer's lease */                                             \
    X(HOLDER_ALONE, "alone")   /* one copy: this disk is enough */                                                          \
    X(LEAVING, "leaving-solo") /* both disks already needed, PAIR not answered yet */                                       \
    X(GIVEN_UP, "given-up")    /* handed over (or fenced); writes nothing */                                                \
    X(FOLLOWER, "standby")                                                                                                  \
    X(CANDIDATE, "candidate") /* asked to be promoted; sends no PONG until answered */                                      \
    X(PROMOTING, "promoting")                                                                                               \
    X(LOSER, "loser")   /* was holder (or ahead) in an older epoch: saving its tail as a branch */                          \
    X(RESYNC, "resync") /* being made equal from scratch; cannot be promoted */

enum dmt_lease_state {
#define X(name, text) DMT_LEASE_##name,
    DMT_LEASE_STATES(X)
#undef X
};
const char *dmt_lease_state_name(enum dmt_lease_state s);

enum dmt_degrade { DMT_DEGRADE_SOLO, DMT_DEGRADE_BLOCK };
enum dmt_after_promotion { DMT_AFTER_SERVE, DMT_AFTER_READONLY };

/* Rule 25. Zeros mean the default (LAN): h 60 ms, H = 600 ms, f 0.75, rho 1 %, g 130 ms, k 2, q 200 ms, rtt 1 ms. */
struct dmt_lease_timers {
    uint32_t ping_ms;      /* h */
    uint32_t lease_ms;     /* H = s at the start; adapts to max(H, 10 R + 500, 4 x largest ping gap), at most 3 s */
    uint32_t f_permille;   /* part of H that the holder uses */
    uint32_t rho_permille; /* clock rate error */
    uint32_t gate_ms;      /* g: gate to reply */
    uint32_t stall_ms;     /* q: scheduling stall without consequence */
    uint32_t lost_pings;   /* k */
    uint32_t rtt_ms;       /* R, p99 */
};
/* Fills zeros with defaults and checks the inequalities: 0, or DMT_E_CONFIG whose message has the numbers. */
int dmt_lease_timers_check(struct dmt_lease_timers *t, struct dmt_err *err);

/* What L4 does for the core. ctx = conf.ctx. All required.
 * [io]: on the lease-io thread, may block for a disk flush, not longer. [any]: from the lease or lease-io thread, quick, no
 * I/O. */
struct dmt_lease_ops {
    /* [any] The answers of plain/begin/sync may have changed: dmt_ws_poke, wake waiters. */
    void (*gate_changed)(void *ctx);
    /* [io] Opens the holder's new epoch: dmt_ws_begin_epoch(epoch, reason), durable on return; the replica ships it as
     * SENDER. alone: the register has only us. After GIVEN_UP (reason "retake") the workspace may have been opened as
     * follower: dmt_ws_promote first. < 0: the node stops serving. */
    int (*open_epoch)(void *ctx, uint64_t epoch, bool alone, const char *reason);
    /* [io] Start of a promotion (only starts it; work elsewhere): dmt_ws_promote, begin_epoch(epoch, reason), settle,
     * replica becomes the sending side, mount. Then dmt_lease_promote_done. Called when the node record already says that we
     * hold `epoch`. alone: false after a handover. forced: it names a new lineage, too (dmt_lease_lineage), to which the store
     * is brought first. */
    void (*promote)(void *ctx, uint64_t epoch, bool alone, bool forced, const char *reason);
    /* [io] We are not the holder (any more): dmt_ws_demote; the replica becomes the receiving side. May be called when we
     * never were. */
    void (*demote)(void *ctx);
    /* [io] `seen` is durable at epoch: the replica may append frames of exactly this epoch from its holder from now on. The
     * answer to dmt_lease_peer_epoch. */
    void (*follow)(void *ctx, uint64_t epoch);
    /* [io] Start: save records after switch_seq as branch (durable), cut the journal there: dmt_ws_branch_and_cut. Then
     * dmt_lease_lose_done. `follow` comes after success. forced: the branch is all; nothing is cut, no `follow` comes. */
    void (*lose)(void *ctx, uint64_t epoch, uint64_t switch_seq, bool forced, const char *branch);
    /* [io] Restarted holder, the standby is ahead: start pulling its tail (rule 6), append it, apply it. Then
     * dmt_lease_fetch_done (any error: we go on without; that tail becomes a branch there). */
    void (*fetch)(void *ctx);
    /* [io] Holder alone: the peer needs a resync: order it (replica sends order + stream). */
    void (*order_resync)(void *ctx);
    /* [io] Follower: the resync flag is durable: take the stream. Then dmt_lease_resync_done with the same number. A process
     * that starts in RESYNC has a whole store (one in pieces starts as a new standby): dmt_lease_resync_done, order 0, once the
     * holder has verified it. */
    void (*resync)(void *ctx, uint64_t order);
    /* [io] Handover asked. Pre-copy, then call dmt_lease_freeze, wait until the peer holds everything (bulk included, or the
     * deadline is reached), then dmt_lease_drained. */
    void (*drain)(void *ctx);
    /* [any] Sequence number of the journal's tail. */
    uint64_t (*tail)(void *ctx);
    /* [any] Age of the oldest sync that waits for its acknowledgement; 0 = none. */
    uint64_t (*oldest_sync_ms)(void *ctx);
    /* [any] One line for the event history and the log. kind: a word ("solo", "promoted", "lost" ...). */
    void (*event)(void *ctx, const char *kind, const char *text);
    /* [any] The node record cannot be written or an epoch not opened: the gate is closed for good. */
    void (*failed)(void *ctx, const char *why);
    /* [any] An orderly stop was asked (dmt_lease_stop_begin) and may happen now. */
    void (*may_stop)(void *ctx);
};

/* An object store as arbiter (arbiter=bucket): small objects under keys that L4 puts below arb/LINEAGE/. [arb]: called on the
 * lease-arb thread only, may block for some seconds. Every call uses a connection of its own: no answer may come from a cache. */
struct dmt_lease_bucket {
    /* 0: stored, and the store confirmed it. The body follows from the key, so a repeat is the same object. */
    int (*put)(void *ctx, const char *key);
    /* 0: there. -ENOENT: a real 404 NoSuchKey and nothing else. Everything else is "unknown". */
    int (*get)(void *ctx, const char *key);
    /* 1: a version or delete marker of this key exists; 0: none; < 0: the store cannot tell. Asked after a 404 only. */
    int (*versions)(void *ctx, const char *key);
};

struct dmt_lease_conf {
    const struct dmt_io *io;
    const struct dmt_clock *clock;
    const char *dir;         /* STORE; the record is STORE/node.state */
    const char *workspace;   /* name */
    const char *node;        /* this node's name (CN of its certificate where there is TLS) */
    uint8_t lineage[16];     /* of the store; all zero on a new standby: learned with the order of its first resync */
    uint8_t store_id[16];    /* of this store */
    bool standby;            /* no record yet and this is a new standby's store: FOLLOWER. else: HOLDER_ALONE at store_epoch */
    uint64_t store_epoch;    /* no record yet: epoch of what the store holds already (restored from an archive), at least 1.0 */
    struct dmt_tls_ctx *tls; /* NULL: no arbiter possible, and no peer unless tls_off */
    bool tls_off;            /* plain ping channel, loopback only (tests) */
    const char *arbiter_host; /* controller, or NULL */
    uint16_t arbiter_port;    /* 7402 */
    const struct dmt_lease_bucket *bucket; /* the arbiter instead; NULL: none */
    const char *peer_host;    /* ping channel is dialled there (the peer's replica port); NULL: the peer dials us */
    uint16_t peer_port;
    enum dmt_degrade degrade;
    uint64_t solo_after_ms; /* 0 = 10 s; refused below 3 H */
    enum dmt_after_promotion after_promotion;
    bool sync_local; /* sync=local: dmt_lease_sync never needs the peer's acknowledgement */
    struct dmt_lease_timers timers;
    const struct dmt_lease_ops *ops;
    void *ctx;
};

struct dmt_lease;
/* Strings of conf are copied. DMT_E_CORRUPT/VERSION for a bad node.state, DMT_E_CONFIG for bad timers, a foreign store_id, a
 * peer without arbiter. [blocks] */
int dmt_lease_new(struct dmt_lease **ret, const struct dmt_lease_conf *conf, struct dmt_err *err);
int dmt_lease_start(struct dmt_lease *l, struct dmt_err *err);
/* Orderly: a standby tells its holder, who asks SOLO; a holder tells its standby that this is no failure. ops->may_stop when
 * done or after 5 s. */
void dmt_lease_stop_begin(struct dmt_lease *l);
void dmt_lease_stop(struct dmt_lease *l); /* [blocks] joins the threads; no op is called after it. Idempotent */
void dmt_lease_free(struct dmt_lease *l);

enum dmt_lease_state dmt_lease_state(const struct dmt_lease *l);
/* As in the node record on disk. The store may be one behind (its id is in past): it is brought there by a promotion by force or
 * a resync that has not ended yet. */
void dmt_lease_lineage(struct dmt_lease *l, struct dmt_lineage *ret);

/* --- the gate (for fs/workspace/gate.h) ---------------------------------------------------------------------------------
 * Lock-free (plain, begin) or under a leaf lock (sync, acks). */
/* May a plain call return? 0, 1 wait (lease ended, start, freeze, promotion: gate_changed will come), -EIO. */
int dmt_lease_plain(struct dmt_lease *l);
/* May a new mutating call begin? 0, 1 wait, -EROFS. */
int dmt_lease_begin(struct dmt_lease *l);
/* May a sync of records up to seq, durable here, be acknowledged? Bulk data is the caller's to check first. 0, 1 wait, -EIO.
 */
int dmt_lease_sync(struct dmt_lease *l, uint64_t seq);
/* Records that can never be truncated any more: acknowledged by the named peer in this epoch, or, alone, everything
 * (UINT64_MAX). Follower: 0 = unknown. */
uint64_t dmt_lease_stable(struct dmt_lease *l);
/* True when syncs need the peer (PAIRED, LEAVING, and START of a paired holder), whatever conf.sync_local says. */
bool dmt_lease_dual(struct dmt_lease *l);
/* The holder's epoch (0 when not holding), for frames. */
/* Highest epoch ever obeyed; the replica refuses frames of a lower one. */
uint64_t dmt_lease_seen(const struct dmt_lease *l);

/* --- told by L4
 * ------------------------------------------------------------------------------------------------------------ */
/* The replica's connection to the other node is up (hello exchanged). epoch: the peer's `seen` as its hello said; seq: its
 * durable tail there; ahead: its history continues ours (we are a restarted holder and it has more). */
void dmt_lease_peer_up(struct dmt_lease *l, const char *node, const uint8_t store_id[16], uint64_t epoch, uint64_t seq,
                       bool ahead);
void dmt_lease_peer_down(struct dmt_lease *l);
/* Holder: the peer acknowledged as durable. durable_seq: journal; whole_seq: position up to which bulk data is complete
 * there too. Only acks of the current epoch from the named store count (rule 3); others are ignored here, so pass all. */
void dmt_lease_peer_acked(struct dmt_lease *l, const uint8_t store_id[16], uint64_t epoch, uint64_t durable_seq,
                          uint64_t whole_seq);
struct dmt_lease_claim {
    const char *node;
    const uint8_t *store_id;
    uint64_t epoch, switch_seq, tail_seq;
    bool alone;
    const struct dmt_lineage *lineage; /* of the claimant */
    bool newer;                        /* it was forced out of that of our store */
};
/* Follower: the connected node claims to hold `epoch` (hello or an EPOCH record ahead of us in its stream). switch_seq:
 * where the FIRST epoch of its history that we do not have opened; tail_seq: our tail. Answered by `follow` (perhaps after
 * `lose`), or not at all when refused (stale: event "refused"). Ask again at each new epoch in the stream. */
void dmt_lease_peer_epoch(struct dmt_lease *l, const struct dmt_lease_claim *claim);
/* Anybody answered a frame of ours with a higher epoch. */
void dmt_lease_higher_epoch(struct dmt_lease *l, uint64_t epoch);
/* Holder: the peer cannot catch up from the journal (or has another history). */
void dmt_lease_resync_needed(struct dmt_lease *l);
/* Follower: the holder orders a resync, stating its epoch and that it is alone. Answered by ops->resync. */
void dmt_lease_resync_ordered(struct dmt_lease *l, uint64_t epoch, bool alone, const struct dmt_lineage *lineage);
void dmt_lease_resync_done(struct dmt_lease *l, uint64_t order, int err); /* 0: position and chain verified */
void dmt_lease_promote_done(struct dmt_lease *l, int err);
void dmt_lease_lose_done(struct dmt_lease *l, int err);
void dmt_lease_fetch_done(struct dmt_lease *l, int err);
void dmt_lease_freeze(struct dmt_lease *l);           /* during drain: plain and sync answer "wait" from now */
void dmt_lease_drained(struct dmt_lease *l, int err); /* 0: hand over now; else: unfreeze, handover failed */
/* A notice that this machine will be taken away is pending, or withdrawn. Solo is not asked while one is (rule 8). */
void dmt_lease_spot_notice(struct dmt_lease *l, bool pending);

enum dmt_lease_command {
    DMT_LEASE_CMD_HANDOVER, /* holder: give the workspace to the standby */
    DMT_LEASE_CMD_PROMOTE, /* standby: ask for promotion now (the operator vouches that the holder is gone); holder read-only
                              after promotion: open; fenced node: take back */
    DMT_LEASE_CMD_FENCE,   /* holder: stop writing now, for good */
    DMT_LEASE_CMD_FORCE,   /* not serving: hold it, in a new lineage, whatever arbiter and peer may say */
};
/* 0 accepted (watch the state), or < 0 with a sentence why not. */
int dmt_lease_command(struct dmt_lease *l, enum dmt_lease_command cmd, struct dmt_err *err);
int dmt_lease_command_check(struct dmt_lease *l, enum dmt_lease_command cmd, struct dmt_err *err); /* would it be taken now? */

/* --- ping channel
 * ----------------------------------------------------------------------------------------------------------- */
/* A dialled connection on the replica's port starts, right after the TLS handshake, with these 8 bytes when it is a ping
 * channel. The listener reads them, turns the connection into a stream (dmt_tls_attach) and hands both over here; they
 * belong to the lease from then, also on error. */
#define DMT_LEASE_PREAMBLE     "DMTPING1"
#define DMT_LEASE_PREAMBLE_LEN 8
void dmt_lease_accept_ping(struct dmt_lease *l, struct dmt_tls *tls, int fd);
/* Changes where to dial (dumontd hands out replica ports); host NULL: stop dialling. */
void dmt_lease_dial(struct dmt_lease *l, const char *host, uint16_t port);

struct dmt_lease_status {
    enum dmt_lease_state state;
    uint64_t epoch; /* held, or followed */
    uint64_t seen;
    uint64_t instance; /* random, of this process */
    bool holder;       /* PAIRED, ALONE, LEAVING, or START of one */
    bool one_copy;     /* alone: status shows "one copy" */
    bool resync, spot, readonly;
    bool arbiter_up, ping_up, peer_up;
    char holder_node[DMT_NODE_NAME_MAX + 1]; /* as known; "" unknown */
    char peer_node[DMT_NODE_NAME_MAX + 1];
    int64_t lease_left_ms; /* PAIRED: until plain calls wait; < 0: ended so long ago */
    uint64_t lease_ms;     /* H as last stated */
    uint64_t rtt_us;
    uint64_t solo_in_ms;          /* > 0: the peer is missing and SOLO will be asked then */
    uint64_t peer_oldest_sync_ms; /* as the holder's pings say */
    uint64_t peer_silent_ms;      /* 0: connected; UINT64_MAX: never heard by this process */
    uint32_t reg_epoch;           /* register as last read, 0 unknown */
    bool reg_named;               /* it names this copy as in sync */
    char waiting[160];            /* "" or e.g. "waiting for cpu, solo in 7 s" */
};
void dmt_lease_status(struct dmt_lease *l, struct dmt_lease_status *ret);

#endif
