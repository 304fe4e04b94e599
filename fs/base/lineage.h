/* lineage.h: which line of history a workspace is. It is made with the workspace, anew by a restore, and anew by a person's force
 * (docs/protocol.md, "Force"). A forced one names those it was forced out of, so that a machine which still lives in one of them
 * learns at first contact that it is over. Epochs of a forced lineage begin DMT_LINEAGE_STEP above all that its founder knew:
 * (epoch, sequence) stays unique in the whole family. Pure; any thread.
 */
#ifndef DMT_BASE_LINEAGE_H
#define DMT_BASE_LINEAGE_H

#include <stdbool.h>
#include <stdint.h>

/* Epoch = major.minor in one number. Major changes only through the arbiter, or with the lineage; the holder raises minor at each
 * start (rule 2). */
#define DMT_EPOCH(major, minor) ((uint64_t)(major) << 32 | (uint32_t)(minor))
#define DMT_EPOCH_MAJOR(e)      ((uint32_t)((e) >> 32))
#define DMT_EPOCH_MINOR(e)      ((uint32_t)(e))

#define DMT_LINEAGE_PAST_MAX 8
#define DMT_LINEAGE_STEP     1000000u

struct dmt_lineage {
    uint8_t id[16];  /* all zero: not known yet (a new standby) */
    uint32_t first;  /* major epoch that it began with: its founder's, by no arbiter's word; 0: not known */
    uint32_t past_n; /* lineages it was forced out of, newest first; older ones than these are forgotten */
    uint8_t past[DMT_LINEAGE_PAST_MAX][16];
};

enum dmt_lineage_relation {
    DMT_LINEAGE_SAME,
    DMT_LINEAGE_UNKNOWN, /* one of the two is not known */
    DMT_LINEAGE_NEWER,   /* theirs was forced out of ours */
    DMT_LINEAGE_OLDER,   /* ours was forced out of theirs */
    DMT_LINEAGE_FOREIGN,
    DMT_LINEAGE_BEYOND, /* one was forced out of the other, which has gone on beyond the epoch that this began with */
};

bool dmt_lineage_known(const struct dmt_lineage *l);
/* seen: the highest major epochs obeyed. */
enum dmt_lineage_relation dmt_lineage_relate(const struct dmt_lineage *ours, uint32_t our_seen, const struct dmt_lineage *theirs,
                                             uint32_t their_seen);
/* l becomes the lineage `id`, forced out of what it was; its first epoch lies above `seen`. false: no epochs are left. */
bool dmt_lineage_force(struct dmt_lineage *l, const uint8_t id[16], uint32_t seen);

#endif
