/* sm.h: state machines as data (after dqlite's idea): a table of states with the allowed next states and an invariant run
 * on every move (not by init: the owner is still being built then). The owner locks. */
#ifndef DMT_BASE_SM_H
#define DMT_BASE_SM_H

#include <stdbool.h>
#include <stdint.h>

struct dmt_sm_state {
    const char *name;
    uint32_t allowed; /* bit n: state n may follow */
};
struct dmt_sm {
    const struct dmt_sm_state *table;
    int n, state;
    bool (*invariant)(const void *ctx, int state); /* may be NULL */
    const void *ctx;
};
void dmt_sm_init(struct dmt_sm *sm, const struct dmt_sm_state *table, int n, int initial,
                 bool (*invariant)(const void *ctx, int state), const void *ctx);
/* Aborts on a move the table forbids or a broken invariant. */
void dmt_sm_move(struct dmt_sm *sm, int next);
const char *dmt_sm_name(const struct dmt_sm *sm);

#endif
