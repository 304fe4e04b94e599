/* settle.h: what becomes of a file whose by-reference bytes do not come any more (rules 21, 22; docs/protocol.md, "Two lanes").
 * Pure; settle.c asks it, and tests/sim. */
#ifndef DMT_WORKSPACE_SETTLE_H
#define DMT_WORKSPACE_SETTLE_H

#include <stdbool.h>
#include <stdint.h>

struct settle_case {
    bool has_old;       /* there is an older content that is complete here */
    bool same_file;     /* it is this file's own, not that of one that it replaced */
    uint64_t old_size;
    uint64_t first;     /* first missing byte */
    bool old_unchanged; /* the older content is still there as it was, as the beginning of the file */
};

/* true: the older content comes back. false: the file ends at its first missing byte, which loses less if it only grew. */
static inline bool settle_falls_back(const struct settle_case *c)
{
    bool only_grew = c->same_file && c->first >= c->old_size && c->old_unchanged;
    return c->has_old && !only_grew;
}

#endif
