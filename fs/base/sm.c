/* sm.c: state machines as tables. A move that the table does not allow, or that leaves the owner's
 * invariant false, is a bug in this program and never bad input, so both abort with the names of
 * the states. The invariant is not run by dmt_sm_init(): the owner is still being built then. The
 * owner locks.
 */
#include "fs/base/sm.h"

#include <stdlib.h>

#include "fs/base/log.h"

static void check_invariant(const struct dmt_sm *sm, const char *from)
{
    if (!sm->invariant || sm->invariant(sm->ctx, sm->state))
        return;
    dmt_error("invariant of state %s is broken (came from %s)", sm->table[sm->state].name, from);
    abort();
}

void dmt_sm_init(struct dmt_sm *sm, const struct dmt_sm_state *table, int n, int initial,
                 bool (*invariant)(const void *ctx, int state), const void *ctx)
{
    DMT_ASSERT(n > 0 && n <= 32 && initial >= 0 && initial < n);
    *sm = (struct dmt_sm){
        .table = table, .n = n, .state = initial, .invariant = invariant, .ctx = ctx};
}

void dmt_sm_move(struct dmt_sm *sm, int next)
{
    DMT_ASSERT(next >= 0 && next < sm->n);
    const struct dmt_sm_state *from = &sm->table[sm->state];
    if (!(from->allowed & (1u << next))) {
        dmt_error("move from %s to %s is not allowed", from->name, sm->table[next].name);
        abort();
    }
    sm->state = next;
    check_invariant(sm, from->name);
}

const char *dmt_sm_name(const struct dmt_sm *sm)
{
    return sm->table[sm->state].name;
}
