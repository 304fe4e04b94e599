/* lineage.c: see lineage.h. Pure functions. */
#include "fs/base/lineage.h"

#include <string.h>

bool dmt_lineage_known(const struct dmt_lineage *l)
{
    static const uint8_t none[16];
    return memcmp(l->id, none, 16) != 0;
}

static bool came_from(const struct dmt_lineage *l, const uint8_t id[16])
{
    for (uint32_t i = 0; i < l->past_n; i++)
        if (memcmp(l->past[i], id, 16) == 0)
            return true;
    return false;
}

enum dmt_lineage_relation dmt_lineage_relate(const struct dmt_lineage *ours, uint32_t our_seen,
                                             const struct dmt_lineage *theirs, uint32_t their_seen)
{
    if (!dmt_lineage_known(ours) || !dmt_lineage_known(theirs))
        return DMT_LINEAGE_UNKNOWN;
    if (memcmp(ours->id, theirs->id, 16) == 0)
        return DMT_LINEAGE_SAME;
    if (came_from(theirs, ours->id))
        return our_seen < theirs->first ? DMT_LINEAGE_NEWER : DMT_LINEAGE_BEYOND;
    if (came_from(ours, theirs->id))
        return their_seen < ours->first ? DMT_LINEAGE_OLDER : DMT_LINEAGE_BEYOND;
    return DMT_LINEAGE_FOREIGN;
}

bool dmt_lineage_force(struct dmt_lineage *l, const uint8_t id[16], uint32_t seen)
{
    if (seen > UINT32_MAX - 2 * DMT_LINEAGE_STEP)
        return false;
    memmove(l->past[1], l->past[0], sizeof(l->past[0]) * (DMT_LINEAGE_PAST_MAX - 1));
    memcpy(l->past[0], l->id, 16);
    l->past_n += l->past_n < DMT_LINEAGE_PAST_MAX;
    memcpy(l->id, id, 16);
    l->first = seen + DMT_LINEAGE_STEP;
    return true;
}
