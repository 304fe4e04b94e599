/* replica.h: the connection to the other machine. Ships the journal (ordered lane) and by-reference bytes (bulk lane) from the
 * holder to its standby, acknowledges, catches up, fetches, resynchronises. The bytes on the wire are docs/formats-wire.md.
 *
 * It decides nothing about epochs: it reports what the peer says (ops, connected to fs/lease by fs/dumontfs.c) and does what it
 * is told (role, follow, order, resync, fetch). The pure decisions about one connection are in core.h.
 *
 * One connection serves one pair of roles; both sides start with a HELLO (who, epoch, position, epochs of the history) and a
 * VERDICT (is your position on my chain?):
 *
 *   holder (SENDER, epoch E)                          standby (RECEIVER)
 *     HELLO E / EPOCH E (new epoch, same connection) ->  ops.peer_epoch(E, switch point) ... dmt_replica_follow(E)
 *     verifies position and chain                    <-  READY E, position              (rule 9: an ack of this epoch)
 *     STREAM E, RECORDS E ..., COMMIT                ->  ops.following(E); dmt_ws_receive; applier up to min(COMMIT, durable
 *                                                        here)
 *     ops.peer_acked(E, durable, whole)              <-  ACK E {received, durable, applied, whole}
 *     WANT ino (a sync waits for its bulk bytes)     ->  PULL ...; BULK, GONE; then HAVE ino
 *     position is not on our journal: ops.resync_needed; dmt_replica_order_resync -> ops.resync_ordered ... dmt_replica_resync
 *
 * Invariants
 *   R1  an ack counts only for the epoch it carries, on the connection whose READY of that epoch was verified; of a lower epoch:
 *       refused.
 *   R2  the receiver appends frames of exactly the epoch it was told to follow, and only what extends its tail (seq and chain).
 *   R3  "durable" in an ack is what the receiver's journal reported durable; never what was only received.
 *   R4  the receiver applies at most min(the holder's durable position, its own durable position).
 *   R5  bulk bytes are taken only for a range this connection has asked for, in this epoch, with the right checksum.
 *   R6  an ordered frame never waits behind more than one bulk chunk of ours and 64 KiB of unsent bytes in the socket.
 *   R7  memory: nothing is queued that can be read again (journal, data files); the rest is bounded by constants in conn.h.
 *
 * Threads: everything runs on the loop thread, but for `applier` (dmt_ws_apply_upto), `rep-sync` (waits for the journal), libuv's
 * pool (bulk reads and fills, imports) and `export`. Functions are for any thread and return at once unless marked; ops are
 * called on the loop thread with no lock held: they must be quick and may call every function here that is not marked [blocks].
 */
#ifndef DMT_REPLICA_REPLICA_H
#define DMT_REPLICA_REPLICA_H

#include <stdbool.h>
#include <stdint.h>
#include "fs/base/clock.h"
#include "fs/base/err.h"
#include "fs/base/limits.h"
#include "fs/base/lineage.h"
#include "fs/base/tls.h"
#include "fs/replica/loop.h"
#include "fs/store/store.h"
#include "fs/workspace/workspace.h"

/* The first 8 bytes a dialling side sends (inside TLS). The lease's ping channel comes in on the same port. */
#define DMT_REPLICA_PREAMBLE      "DMTREPL1"
#define DMT_REPLICA_PING_PREAMBLE "DMTPING1" /* = DMT_LEASE_PREAMBLE */
#define DMT_REPLICA_PREAMBLE_LEN  8

enum dmt_replica_role {
    DMT_REPLICA_NONE,     /* not decided yet: connections wait without a hello */
    DMT_REPLICA_START,    /* holder that has not opened its epoch: may fetch from a standby that is ahead */
    DMT_REPLICA_SENDER,   /* holder of an epoch */
    DMT_REPLICA_RECEIVER, /* not the holder */
};

struct dmt_replica_peer {
    char node[DMT_NODE_NAME_MAX + 1];
    uint8_t store_id[16];
    struct dmt_lineage lineage;
    bool newer;          /* its lineage was forced out of ours: ours is over */
    enum dmt_replica_role role;
    bool alone;          /* it holds, alone */
    bool empty;          /* it has no usable store (new, or resync under way): position 0 */
    uint64_t epoch;      /* held or followed */
    uint64_t seen;       /* highest it ever obeyed */
    struct dmt_pos tail; /* all of it durable there */
    bool ahead;          /* its history continues ours: our tail lies on its chain and it has more */
};

struct dmt_replica_ops {
    /* Hello and verdict exchanged / connection gone (only after peer_up; why: one sentence). */
    void (*peer_up)(void *ctx, const struct dmt_replica_peer *peer);
    void (*peer_down)(void *ctx, const char *why);
    /* Sender: durable on that store up to durable, bulk data complete there up to whole; position verified, in `epoch`, on this
     * connection (R1). */
    void (*peer_acked)(void *ctx, const uint8_t store_id[16], uint64_t epoch, uint64_t durable, uint64_t whole);
    /* Sender: the peer's durable position equals our tail, chain compared, in this epoch on this connection (rule 9). Once an
     * epoch and connection. */
    void (*pair_ready)(void *ctx, const uint8_t store_id[16], uint64_t epoch, uint64_t seq);
    /* dmt_replica_have / unacked_bytes / peer_free may answer otherwise now: dmt_ws_poke. */
    void (*changed)(void *ctx);
    /* Receiver: the peer holds `epoch`. switch_seq: where our history and its part (>= tail_seq: nothing to cut). The answer is
     * dmt_replica_follow, after cutting to switch_seq when that is below tail_seq; or dmt_replica_ask_resync; or nothing. */
    void (*peer_epoch)(void *ctx, const struct dmt_replica_peer *peer, uint64_t epoch, bool alone, uint64_t switch_seq,
                       uint64_t tail_seq);
    /* Receiver: the holder has verified our position and streams from it: we are a true prefix of it. */
    void (*following)(void *ctx, uint64_t epoch, uint64_t seq);
    /* Somebody showed or answered with an epoch above all we knew. */
    void (*higher_epoch)(void *ctx, uint64_t epoch);
    /* Sender: the peer's position is not on our journal (too old, another history, no store). Answer: dmt_replica_order_resync,
     * or nothing. */
    void (*resync_needed)(void *ctx, const char *why);
    /* Receiver: ordered by the holder of epoch; its history is ours up to common (UINT64_MAX: not known to part). Answer: close
     * the workspace (dmt_replica_set_ws NULL first), dmt_replica_resync; or nothing. */
    void (*resync_ordered)(void *ctx, const struct dmt_replica_peer *peer, uint64_t epoch, bool alone, uint64_t common);
    /* Receiver: the new state is complete at *pos (err 0) or it failed. Then: remove the old journal, dmt_patch_switch, open the
     * workspace, dmt_replica_set_ws; ops.following proves it. */
    void (*resync_imported)(void *ctx, int err, const struct dmt_pos *pos, const uint8_t lineage[16], const char *why);
    /* START: the end of dmt_replica_fetch. err 0: all that the peer had is appended and durable here. */
    void (*fetched)(void *ctx, int err);
    /* A ping channel came in: the TLS connection (stream mode on fd; NULL when tls=off) and fd belong to the callee. */
    void (*ping_accepted)(void *ctx, struct dmt_tls *tls, int fd);
    /* The workspace refused what must not be refused (append, apply, journal failed). The connection is closed and stays
     * closed. */
    void (*failed)(void *ctx, const char *why);
    /* For the event history and the log: kind is a word ("connected", "refused", "resync" ...). */
    void (*event)(void *ctx, const char *kind, const char *text);
};

struct dmt_replica_conf {
    const struct dmt_clock *clock;
    const struct dmt_io *io;
    struct dmt_loop *loop;
    const char *workspace;      /* name; both sides must serve the same */
    const char *node;           /* own node name; with TLS = the certificate's CN */
    uint8_t store_id[16];
    struct dmt_lineage lineage; /* of the store; not known: new standby */
    const char *listen_host;    /* NULL: do not listen */
    uint16_t listen_port;       /* 0: any free one, see dmt_replica_port */
    const char *dial_host;      /* NULL: the peer dials */
    uint16_t dial_port;
    const char *peer_node;      /* only this node may be the peer; NULL: any node of our CA */
    struct dmt_tls_ctx *tls;    /* NULL is refused unless tls_off */
    bool tls_off;               /* plain TCP: loopback addresses only, on both ends */
    uint64_t bandwidth_bytes_s; /* of the bulk lane and the state stream; 0 = as fast as it goes */
    uint32_t backoff_max_ms;    /* between attempts to dial; 0 = 5000 */
    uint32_t silence_ms;        /* a connection that says nothing for so long is dead; 0 = 10000 */
    const struct dmt_replica_ops *ops; /* all required */
    void *ctx;
};

struct dmt_replica;
/* Strings are copied; clock, io, loop, tls, ops outlive it. Starts listening and dialling with role NONE. Not on the loop.
 * [blocks] DMT_E_CONFIG: no TLS and not tls_off, tls_off with an address that is not loopback; -EADDRINUSE ... */
int dmt_replica_start(struct dmt_replica **ret, const struct dmt_replica_conf *conf, struct dmt_err *err);
/* No op is called any more after it. Not on the loop. [blocks] */
void dmt_replica_stop(struct dmt_replica *r);
uint16_t dmt_replica_port(const struct dmt_replica *r); /* bound port; 0 = not listening */
/* Changes where to dial; host NULL: stop dialling. */
void dmt_replica_dial(struct dmt_replica *r, const char *host, uint16_t port);

/* --- told by L4 ------------------------------------------------------------------------------------------------------------- */
/* The workspace, or NULL before it is closed: on return nothing here touches the old one. Drops the connection; the next HELLO
 * has the new position. Not on the loop, not from an op. [blocks] */
void dmt_replica_set_ws(struct dmt_replica *r, struct dmt_ws *ws);
/* All about the lineage of the workspace that is set next. */
void dmt_replica_set_lineage(struct dmt_replica *r, const struct dmt_lineage *lineage);
/* START: epoch may be 0 (= seen). SENDER: we hold epoch (its EPOCH record is in the journal); alone: the register has only us. A
 * higher epoch on the same connection is announced there; the stream goes on after the peer's READY. Other changes of role drop
 * the connection. seen: frames below it are refused from now on. */
void dmt_replica_set_role(struct dmt_replica *r, enum dmt_replica_role role, uint64_t epoch, bool alone, uint64_t seen);
/* Receiver: the answer to peer_epoch: frames of exactly this epoch may be appended (seen is durable, the tail is cut where
 * needed). */
void dmt_replica_follow(struct dmt_replica *r, uint64_t epoch);
/* Receiver: we cannot join that history by cutting: asks the holder for a resync (its ops.resync_needed). */
void dmt_replica_ask_resync(struct dmt_replica *r, const char *why);
void dmt_replica_order_resync(struct dmt_replica *r); /* sender, alone */
/* Receiver: take what differs into conf.dir (dmt_patch_*); the workspace is closed. May come before the order (restart in the
 * midst of a resync). ident: name and store_id used, lineage taken from the holder. */
void dmt_replica_resync(struct dmt_replica *r, const struct dmt_store_conf *conf, const struct dmt_store_ident *ident);
void dmt_replica_fetch(struct dmt_replica *r);        /* START: pull what the peer has beyond our tail */
/* Calls fn (loop thread) once: 0 when the peer holds everything up to seq durably, bulk data included; DMT_E_RETRY when the time
 * is over and only bulk data is missing; -ETIMEDOUT; DMT_E_CLOSED when the connection is lost or the role changes. One at a time
 * (-EBUSY). */
void dmt_replica_drain(struct dmt_replica *r, uint64_t seq, uint64_t timeout_ms, void (*fn)(void *arg, int err), void *arg);

/* A branch was saved or removed here. [blocks] for a turn of the loop, as the next one. */
void dmt_replica_branches_changed(struct dmt_replica *r);
enum dmt_replica_there { DMT_REPLICA_THERE_UNKNOWN, DMT_REPLICA_NOT_THERE, DMT_REPLICA_THERE };
/* Has the other machine this branch, as it says now? Not connected: nobody knows. */
enum dmt_replica_there dmt_replica_branch_there(struct dmt_replica *r, const char *name);

/* From dmt_gate.appended: new records are in the journal. */
void dmt_replica_appended(struct dmt_replica *r, uint64_t tail_seq, uint64_t bytes);
/* From dmt_gate.wanted: somebody waits until the peer has everything up to seq durably (UINT64_MAX: all there is). Records that
 * nobody waits for are sent in batches, and made durable there within 50 ms. */
void dmt_replica_need(struct dmt_replica *r, uint64_t seq);

/* --- for the gate: lock-free, or (peer_durable, have) under a leaf lock ----------------------------------------------------- */
/* Durable at this store in our current epoch, verified, connection up; 0 otherwise. */
uint64_t dmt_replica_peer_durable(struct dmt_replica *r, const uint8_t store_id[16]);
/* Has the peer all by-reference bytes of ino (0: of all files) that were written up to ref_seq, durably? When not, they are asked
 * for first. */
bool dmt_replica_have(struct dmt_replica *r, uint64_t ino, uint64_t ref_seq);
/* Ordered bytes that the peer has not acknowledged (0 when no peer is being streamed to). */
uint64_t dmt_replica_unacked_bytes(struct dmt_replica *r);
uint64_t dmt_replica_peer_free(struct dmt_replica *r); /* bytes; UINT64_MAX unknown */
/* Records after this seq are still needed for the connected peer (or for a resync under way, also between its connections);
 * UINT64_MAX: nobody. */
uint64_t dmt_replica_retain(struct dmt_replica *r);

struct dmt_replica_status {
    enum dmt_replica_role role;
    uint64_t epoch;
    bool connected, streaming, resyncing, fetching;
    struct dmt_replica_peer peer;                /* valid when connected */
    uint64_t received, durable, applied, whole;  /* the peer's (sender) or ours (receiver) */
    uint64_t holder_durable;                     /* receiver: the sender's own, as it said last; 0 unknown */
    uint64_t sent;                               /* last seq handed to the socket */
    uint64_t unacked_bytes, missing_bytes;       /* missing: by the receiver, as the sender heard last */
    uint64_t raw_bytes, wire_bytes;              /* of the ordered lane, before and after LZ4, since start */
    uint64_t bulk_bytes, state_bytes;            /* sent or received since start */
    uint64_t resync_done, resync_total;          /* bytes of the difference, this attempt; total 0: not known yet */
    uint64_t resync_eta_ms;                      /* at the rate so far; 0: not known */
    uint64_t rate_bytes_s;                       /* all lanes, last seconds */
    uint64_t rtt_us;                             /* smoothed, of pings; 0 unknown */
    uint64_t ack_us;                             /* smoothed: sent to durable at the peer */
    uint64_t connects, refused;                  /* since start */
    char last_error[192];                        /* of the last connection or attempt; "" none */
};
void dmt_replica_status(struct dmt_replica *r, struct dmt_replica_status *ret);

#endif
