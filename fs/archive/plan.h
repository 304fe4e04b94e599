/* plan.h: which objects make up the workspace at a moment. Reads headers only; restore.c does the rest. */
#ifndef DMT_ARCHIVE_PLAN_H
#define DMT_ARCHIVE_PLAN_H

#include "fs/archive/series.h"
#include "fs/journal/journal.h"

/* Objects first_n..last_n of a node's series, in order: journal objects that continue each other, bulk objects between them. */
struct plan_seg {
    char node[DMT_NODE_NAME_MAX + 1];
    uint64_t first_n, last_n;
};

struct plan {
    /* what is asked for */
    struct series_src src;
    struct dmt_objstore *os; /* for LIST; may be NULL */
    uint8_t lineage[16];
    uint64_t to_seq, to_time; /* UINT64_MAX = not limited */
    /* the answer */
    struct plan_seg base;        /* the parts of the base */
    struct archive_hdr base_hdr; /* of its last part */
    struct plan_seg *seg;
    size_t n_seg, cap_seg;
};

/* Sets p->lineage from hex, or to the only lineage of the archive. */
int plan_lineage(struct plan *p, const char *hex, struct dmt_err *err);
/* Fills in the answer. A missing or damaged object in the way: DMT_E_CORRUPT, with its key and the position still reachable in
 * the message. Nothing as old as that: -ENOENT. */
int plan_make(struct plan *p, struct dmt_err *err);
void plan_free(struct plan *p);

/* "object KEY is missing; the archive can be restored up to position N (TIME)": sets err, returns DMT_E_CORRUPT. h: the last
 * position object before the damage, or NULL. */
int plan_damaged(const char *key, bool missing, const struct archive_hdr *h, struct dmt_err *err);
/* The same for a damaged base: reachable is what came before it. */
int plan_base_damaged(const struct plan *p, const char *key, bool missing, struct dmt_err *err);

#endif
