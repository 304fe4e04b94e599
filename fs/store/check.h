/* check.h: what the files of the check share: check.c (the course of it, findings), check_rows.c (what rows must be like now),
 * check_past.c (what snapshots show), check_files.c (data files and what else lies in the directory), repair.c. */
#ifndef DMT_STORE_CHECK_H
#define DMT_STORE_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include "fs/store/db.h"
#include "fs/store/internal.h"

#define CHECK_SAID_MAX 20u /* findings of one kind that are said one by one */

/* What a finding without a repair leaves to do. */
#define CHECK_THEN_COPY "This cannot be put right here: keep this store as it is, and go on with the standby or the archive."
#define CHECK_THEN_INDEX "--repair builds the indexes again from their tables."

struct check {
    struct dmt_store *st; /* conf and directory only, when nobody has the store open */
    struct store_db db;
    dmt_finding_fn fn;
    void *ctx;
    uint64_t findings, lossy; /* lossy: those that have no repair */
    const char *kind;         /* of the last finding */
    uint64_t of_kind;
    bool reindex; /* an index lacks rows that its table has */
    bool whole;   /* nobody has it open: files are looked at from both sides */
    bool settled; /* the journal has nothing that the rows do not have */
};

struct dmt_checker {
    struct check c;
    struct dmt_store st;
    struct dmt_checked state;
    struct store_db wr; /* during a repair */
};

/* A question about rows: it answers with sentences, none when all is well. */
struct question {
    const char *kind;
    const char *ask;
    const char *todo;   /* what to do, or what the repair does */
    const char *repair; /* statements that put it right without a loss, or NULL */
};
extern const struct question g_check_rows[], g_check_past[]; /* the last one has no kind */

void check_found(struct check *c, const char *kind, const char *todo, bool repairable, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* "and N more" for the kind so far. */
void check_kind_end(struct check *c);
/* Asks all; a question that cannot be answered is a finding. */
void check_ask(struct check *c, const struct question *q);

/* check_past.c: prepares what its questions use; what SQL alone cannot say of small content and ranges. */
int check_past_begin(struct check *c);
void check_overlaps(struct check *c);
void check_small(struct check *c);

/* check_files.c */
void check_files(struct check *c);
/* What nothing refers to or nobody knows: calls fn with the path below the store, and why. May be called after a repair of
 * rows. */
typedef int (*stray_fn)(void *ctx, const char *path, const char *why);
int check_strays(struct check *c, stray_fn fn, void *ctx);
/* Folders that must be there and are not. */
int check_folders(struct check *c, int (*fn)(void *ctx, const char *path), void *ctx);

#endif
