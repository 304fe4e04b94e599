/* archive.h: the journal in an object store, and the way back. Contract towards L4 and tools; drivers are in objstore.h, the
 * bytes in docs/formats-archive.md.
 *
 * Archiver (holder only): a thread packs records up to limit() into immutable objects of one dense series
 * log/<lineage>/<node>/<n> (rule 16), bulk objects before the journal object that refers to them, verifies each upload, records
 * its progress in STORE/archive.state, then says archived(seq). A workspace whose journal no longer reaches back to the archived
 * position uploads a base first. Failure: temporary errors are retried with back-off for ever, shown in the status; wrong
 * credentials too (they may be repaired). The mount never waits for it.
 *
 * Threads: start/stop from one thread; status and flush from any. archived() and limit() are called on the archiver's thread, no
 * lock held.
 */
#ifndef DMT_ARCHIVE_ARCHIVE_H
#define DMT_ARCHIVE_ARCHIVE_H

#include <stdbool.h>
#include <stdint.h>
#include "fs/base/err.h"
#include "fs/workspace/workspace.h"

struct dmt_archiver;

struct dmt_archiver_conf {
    const char *url;       /* file:///DIR, s3://..., libs3://... */
    const char *store_dir; /* STORE: archive.state is kept there */
    const char *node;      /* this node's name: its series */
    uint8_t lineage[16], forced_from[16]; /* forced_from: zeros, none */
    struct dmt_ws *ws;                         /* outlives the archiver */
    uint64_t (*limit)(void *ctx);              /* last seq that may be uploaded (never truncated any more) */
    void (*archived)(void *ctx, uint64_t seq); /* everything up to seq is stored and verified */
    void *ctx;
    /* The rest may stay 0 or NULL. */
    const struct dmt_io *io; /* of archive.state and of a file:// archive */
    const struct dmt_clock *clock;
    const char *credentials;      /* instead of dmt_dir_etc()/credentials */
    uint32_t pack_bytes, pack_ms; /* a journal object is closed at so many bytes or so long after its first record: 8 MiB, 2 s */
    uint32_t part_bytes;          /* size of bulk objects and parts of a base: 8 MiB */
};
/* Returns at once: the store is contacted by the thread. DMT_E_CONFIG for a bad URL; DMT_E_AUTH for unreadable or missing
 * credentials. */
int dmt_archiver_start(struct dmt_archiver **ret, const struct dmt_archiver_conf *conf, struct dmt_err *err);
/* Ends after the object under way, or aborts it; never waits for the network longer than a second or two. NULL is fine. [blocks]
 */
void dmt_archiver_stop(struct dmt_archiver *a);
/* Upload what there is now, do not wait for a full object. */
void dmt_archiver_flush(struct dmt_archiver *a);

struct dmt_archive_status {
    uint64_t archived_seq;   /* stored and verified up to here */
    uint64_t pending_bytes;  /* journal bytes (and bulk known) not yet there */
    uint64_t objects, bytes; /* uploaded since start, after compression */
    uint64_t error_since_ns; /* realtime; 0 = no error now */
    char last_error[256];    /* one sentence; "" */
    bool base_running;
    uint64_t base_done, base_total; /* bytes of a base under way; total 0 = unknown */
};
void dmt_archiver_status(struct dmt_archiver *a, struct dmt_archive_status *ret);

/* --- restore -------------------------------------------------------------------------------------------------------------- */
struct dmt_restore {
    const char *url;
    const char *lineage; /* hex, or NULL: the only one that no other was forced out of (several: DMT_E_CONFIG naming them) */
    const char *name;    /* workspace name given to the new store */
    const char *dir;     /* STORE to make; must not exist or be empty */
    uint64_t to_seq;     /* 0 = not limited by position */
    uint64_t to_time_ns; /* 0 = not limited by time; else the last record with time <= this */
    void (*progress)(void *ctx, uint64_t done, uint64_t total); /* bytes, total is an estimate; may be NULL */
    void *ctx;
    const char *credentials;  /* instead of dmt_dir_etc()/credentials; may be NULL */
    struct dmt_pos reached;   /* out */
    uint64_t reached_time_ns; /* out: time of the last record applied */
    uint64_t incomplete;      /* out: files whose bulk bytes of that moment were not archived (older content or cut) */
};
/* Builds a store at that moment: closed, ready for dmt_ws_open. A missing or damaged object: DMT_E_CORRUPT with its key and the
 * position that can still be reached; dir is then removed again. Nothing in the archive by that time: -ENOENT. [blocks] */
int dmt_archive_restore(struct dmt_restore *r, struct dmt_err *err);

#endif
