/* decide.h: the arbiter's decisions as pure functions: (register, request, what is heard) -> verdict. No I/O, no clock.
 * Rules: docs/protocol.md, table of requests in "The protocol, made precise", R1, R7, F17, F23. */
#ifndef DMT_DAEMON_CONTROLLER_DECIDE_H
#define DMT_DAEMON_CONTROLLER_DECIDE_H

#include "fs/lease/core.h"

struct ctl_view {
    struct lease_register reg; /* epoch 0: there is none for this lineage */
    /* Age of the last heartbeat of the holder's workspace process; UINT64_MAX: never heard, or word of its death. */
    uint64_t holder_heard_ms;
    bool over; /* another lineage was forced out of this one */
};

struct ctl_verdict {
    bool granted, changed; /* changed: `next` must be durable before the answer leaves */
    bool behind;           /* F17: a node has obeyed more than is written here: alarm */
    struct lease_register next;
    uint32_t retry_ms;
    char why[LEASE_TEXT_MAX]; /* set when refused */
};

void ctl_decide(const struct ctl_view *v, const struct lease_id *from, const struct lease_ask *ask, struct ctl_verdict *ret);

#endif
