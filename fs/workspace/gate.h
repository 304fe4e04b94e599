/* gate.h: "may I acknowledge?" The workspace (L2) asks; lease and replica (L3) know; dumontfs.c (L4) connects them.
 * All methods are called from any thread, some under the workspace's ack lock: they must be quick, lock-free or leaf-locked, and
 * must not call back.
 */
#ifndef DMT_WORKSPACE_GATE_H
#define DMT_WORKSPACE_GATE_H

#include <stdint.h>

enum dmt_sync_level { DMT_SYNC_LOCAL, DMT_SYNC_FSYNC, DMT_SYNC_WRITE };

struct dmt_gate {
    void *ctx;
    /* May a plain call return now? 0 yes, 1 wait (parked until dmt_ws_poke), < 0 the errno it fails with (GIVEN-UP, LOSER:
     * -EIO for waiting calls). Called after the record is logged, right before the reply. */
    int (*plain)(void *ctx);
    /* May a new mutating call begin? 0 yes, -EROFS (not holder), 1 wait: it proceeds and waits at plain(). */
    int (*begin)(void *ctx);
    /* May a sync be acknowledged whose records end at seq (already durable here) and whose by-reference data is that of ino (0 =
     * all files) up to ref_seq (0 = none)? Level and peer positions are the gate's business. 0, 1 wait, < 0 errno. */
    int (*sync)(void *ctx, uint64_t seq, uint64_t ino, uint64_t ref_seq);
    /* New records up to tail are in the journal (wakes the sender); unacked ordered bytes decide about slowing plain calls in
     * plain(). */
    void (*appended)(void *ctx, uint64_t tail_seq, uint64_t bytes);
    /* A sync begins to wait for seq: what takes time at the peer may start now. sync() is asked when seq is durable here. */
    void (*wanted)(void *ctx, uint64_t seq);
    /* Records up to here can never be truncated (acknowledged by the peer, or we are alone): checkpoints stay at or below it
     * while they can. */
    uint64_t (*stable)(void *ctx);
    /* Free bytes on the standby's disk, UINT64_MAX when unknown. */
    uint64_t (*peer_free)(void *ctx);
};

/* A gate for a workspace alone on one machine: everything may go. */
const struct dmt_gate *dmt_gate_open(void);

#endif
