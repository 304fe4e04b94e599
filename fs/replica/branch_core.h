/* branch_core.h: which branches are told to the other machine, asked of it, removed: pure decisions (docs/decisions/0024). No
 * I/O, no clock, no thread; only its own memory. Driver: branches.c.
 *
 * Both sides of a stream have one of these, and do the same. One thing is done at a time (a job of the driver, or a question to
 * the other side): branches_next says what, and the result comes back by the function named there. A stream that ends takes
 * with it what was said on it; a job that runs then still reports, and changes nothing but what is here.
 *
 *   IDLE -> SCAN, REMOVE, DROP: a job -> IDLE
 *   IDLE -> OPEN: a job -> READY -> ASK: the question is out -> all of a run: PUT, a job -> READY ...;  end: END, a job -> IDLE
 */
#ifndef DMT_REPLICA_BRANCH_CORE_H
#define DMT_REPLICA_BRANCH_CORE_H

#include "fs/workspace/branch_copy.h"

#define BRANCHES_MAX      1024u  /* names, of both sides together */
#define BRANCHES_AGAIN_MS 60000u /* after a failure */
#define BRANCHES_RUN      (1u << 20) /* bytes asked for at once, of one file */

enum branches_act {
    BRANCHES_NOTHING,
    BRANCHES_TELL,   /* send BRANCH: name, removed. Not one at a time: ask again at once */
    BRANCHES_SCAN,   /* look what is here: branches_scanned */
    BRANCHES_REMOVE, /* name, as the other side says: branches_removed */
    BRANCHES_OPEN,   /* a copy of name begins or goes on: branches_opened */
    BRANCHES_ASK,    /* send BRANCH_GET: name, piece.file, piece.off. The answer: branches_data or branches_end */
    BRANCHES_DROP,   /* what has come of name goes: branches_dropped */
};

struct branches_one {
    char name[DMT_BRANCH_NAME_MAX + 1];
    bool here, removed;             /* on this machine */
    bool there, removed_there;      /* on the other one, as it says on this stream */
    bool told_here, told_removed;   /* to it, on this stream */
    bool ailing;                    /* its failure was told to people */
    uint64_t again_ms;              /* not before; 0: at once */
};

struct branches {
    struct branches_one *v; /* grows up to BRANCHES_MAX */
    unsigned n, cap;
    bool on;                /* a stream runs */
    bool scan;              /* what is here may have changed */
    bool known;             /* it was looked at on this stream: before, nothing is told */
    enum branches_state { BRANCHES_IDLE, BRANCHES_BUSY, BRANCHES_READY, BRANCHES_ASKED } state;
    bool late;              /* the job that runs was begun on an earlier stream */
    unsigned at;            /* which one */
    struct dmt_branch_piece piece; /* where its copy goes on */
    struct dmt_branch_piece run;   /* what has come of what was asked for */
};

void branches_free(struct branches *b);
void branches_start(struct branches *b); /* a stream begins */
void branches_stop(struct branches *b);
void branches_changed(struct branches *b); /* here, by somebody else */
/* The other side says. false: no such name can be. */
bool branches_heard(struct branches *b, const char *name, size_t n, bool removed);
/* *one: whom it is about (not for SCAN). */
enum branches_act branches_next(struct branches *b, uint64_t now_ms, const struct branches_one **one);

/* --- results of jobs ------------------------------------------------------------------------------------------------------- */
/* SCAN: begin, one call a name, end. */
void branches_scanned_begin(struct branches *b);
void branches_scanned(struct branches *b, const char *name, bool removed);
void branches_scanned_end(struct branches *b);
/* Each returns whether people should hear of it (a failure, the first time; a success that they should know). */
bool branches_removed(struct branches *b, int rc, uint64_t now_ms);
bool branches_opened(struct branches *b, int rc, const struct dmt_branch_piece *at, uint64_t now_ms);
bool branches_put(struct branches *b, int rc, uint64_t now_ms);
bool branches_ended(struct branches *b, int rc, uint64_t now_ms);
void branches_dropped(struct branches *b);

/* --- answers ---------------------------------------------------------------------------------------------------------------- */
/* The next piece of what was asked for? 1: the last one, the driver puts all of b->run away: branches_put. 0: more is to come;
 * -1: not what was asked. */
int branches_data(struct branches *b, const char *name, size_t n, const struct dmt_branch_piece *p);
/* The same, for the end: 1: the driver ends the copy: branches_ended. 0: the other side does not have it, or has another one: the
 * driver drops it: branches_dropped; -1: not what was asked. */
int branches_end(struct branches *b, const char *name, size_t n, uint32_t files, uint64_t now_ms);

const struct branches_one *branches_find(const struct branches *b, const char *name);

#endif
