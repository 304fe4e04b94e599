/* core_int.h: what core.c and core_receiver.c share. */
#ifndef DMT_REPLICA_CORE_INT_H
#define DMT_REPLICA_CORE_INT_H

#include "fs/replica/core.h"

/* core.c */
void replica_core_move(struct replica_core *c, enum replica_phase p);
struct replica_action *replica_core_act(struct replica_actions *as, enum replica_action_type type);
void replica_core_close(struct replica_actions *as, int err, const char *text);
/* Tells the lease of an epoch that is higher than all we have obeyed. */
void replica_core_higher(const struct replica_core *c, struct replica_actions *as, uint64_t epoch);
bool replica_core_is_holder(enum dmt_replica_role r);

/* core_receiver.c: one function an event. meet: the peer holds peer.epoch; may we follow? tail: ours. */
void replica_recv_meet(struct replica_core *c, struct replica_actions *as, const struct dmt_pos *tail);
void replica_recv_epoch(struct replica_core *c, const struct replica_event *ev, struct replica_actions *as);
void replica_recv_follow(struct replica_core *c, const struct replica_event *ev, struct replica_actions *as);
void replica_recv_cannot(struct replica_core *c, const struct replica_event *ev, struct replica_actions *as);
void replica_recv_stream(struct replica_core *c, const struct replica_event *ev, struct replica_actions *as);
void replica_recv_order(struct replica_core *c, const struct replica_event *ev, struct replica_actions *as);
void replica_recv_resync_ready(struct replica_core *c, struct replica_actions *as);
void replica_recv_imported(struct replica_core *c);
void replica_recv_fetch(struct replica_core *c, const struct replica_event *ev, struct replica_actions *as);

#endif
