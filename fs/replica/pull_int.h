/* pull_int.h: what pull_core.c and pull_want.c share. */
#ifndef DMT_REPLICA_PULL_INT_H
#define DMT_REPLICA_PULL_INT_H

#include "fs/replica/lane.h"

/* What is asked for of this file, and of others: the list that they share. */
static inline struct dmt_list *pull_asks_of(struct replica_pull *p, uint64_t ino)
{
    return &p->buckets[(ino * 0x9e3779b97f4a7c15ull) >> 56];
}

/* pull_want.c */
void pull_waiting_check(struct replica_pull *p); /* what has become had is said; the connection may end in it */
void pull_waiting_free(struct replica_pull *p, struct replica_waiting *w);

#endif
