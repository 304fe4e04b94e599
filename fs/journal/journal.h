/* journal.h: the log. Append-only records in one total order, in segment files; group commit; recovery; a reader.
 *
 * The bytes are specified in docs/formats-journal.md. In short: a record is a 56-byte header and a body; `crc` guards it
 * alone, `chain` (XXH3-64 of the record seeded with the previous record's chain) guards the history. A PAD frame (type 0, no
 * seq) fills up to a 4 KiB boundary after each durable group, so that a durable group's last block is never rewritten; pads
 * are node-local and no part of the history. Segments are recycled (renamed) so the sync path writes no new metadata.
 *
 * Invariants (cited by asserts and tests)
 *   J1  sequence numbers are dense: seq(n+1) = seq(n) + 1; epochs never go back; (epoch, seq) is never reused.
 *   J2  chain(n) = XXH3(seed XXH3(seed chain(n-1), record[8..32)), record[40..len)), all but len, crc and chain: two logs with
 *       equal (seq, chain) hold equal records.
 *   J3  a record leaves process memory (pwritev returned) before append returns.
 *   J4  durable <= tail; durable moves only after fdatasync of everything up to it succeeded.
 *   J5  after a failed fdatasync nothing is retried on the same file (the kernel marks pages clean): all records not yet
 *       durable are rewritten to a new segment from memory and synced there; if that fails the journal is failed for good.
 *   J6  a torn tail is truncated at open; a bad record with proof that it was durable (a later PAD or segment header states
 *       durable_seq >= it, or the caller's floor is past it) is refused with its position, never skipped.
 *   J7  truncate_to() is the only way to lose records; the caller must be at the opening of a higher epoch (rule 5).
 *
 * Threads: append*, truncate, reset from callers that hold the workspace lock (one at a time); the committer (`commit`) and
 * the thread that prepares segment files (`jprepare`) are the journal's own; positions, kick, wait, release and readers from
 * any thread. An append waits only when 16 MiB are not durable yet. dmt_journal_wait() syncs in the calling thread if nobody
 * else does.
 * The files: docs/formats-journal.md.
 */
#ifndef DMT_JOURNAL_JOURNAL_H
#define DMT_JOURNAL_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include "fs/base/clock.h"
#include "fs/base/err.h"
#include "fs/base/io.h"
#include "fs/base/pos.h"

#define DMT_REC_HDR 56u
#define DMT_REC_PAD 0u /* type of a PAD frame */

/* Record header; on disk little-endian in this order after u32 len (whole record, multiple of 8, zero padded body) and
 * u32 crc (CRC-32C of [8, len)). */
struct dmt_rec {
    uint64_t epoch, seq;
    uint64_t time_ns;  /* workspace clock: strictly increasing */
    uint64_t chain;
    uint64_t unique;   /* FUSE request this record is the result of; 0 = none */
    uint32_t instance; /* mount instance that `unique` belongs to */
    uint16_t type;     /* fs/workspace/record.h; 0 = PAD */
    uint16_t flags;    /* 0 */
    uint32_t body_len; /* exact body length; (on disk: len - DMT_REC_HDR minus pad, pad length in the low 3 bits of flags) */
    const uint8_t *body;
};

struct dmt_journal;

struct dmt_journal_conf {
    const struct dmt_io *io;
    const struct dmt_clock *clock;
    const char *dir;         /* STORE/journal, created if missing */
    uint8_t lineage[16];     /* of the workspace; a segment of another lineage is refused */
    struct dmt_pos floor;    /* recovery needs records after this position (the store's applied position). A journal that
                                starts later than floor.seq + 1 is DMT_E_GONE; an empty one starts at floor */
    uint64_t segment_bytes;  /* of new segments: 0 = DMT_SEGMENT_BYTES, else a multiple of 4096 from 16 KiB to 1 GiB */
    bool start_over;         /* forget what is there and start empty at floor, durably (a resync that replaced the store) */
    /* Called on the committer thread or in dmt_journal_sync(), by one at a time, no lock held, after durable moved (err = 0) or
     * the journal failed (err < 0). */
    void (*on_durable)(void *ctx, uint64_t durable_seq, int err);
    void *ctx;
};

/* Opens = recovers: finds the tail, truncates a torn one, makes everything kept durable. */
int dmt_journal_open(struct dmt_journal **ret, const struct dmt_journal_conf *conf, struct dmt_err *err);
/* Syncs what is there, stops the committer, frees. */
void dmt_journal_close(struct dmt_journal *j);

/* Appends one record made here: fills in seq, chain, header; r->epoch must be >= the tail's. r->time_ns given by the caller.
 * iov: the body. 0 with r->seq and r->chain set, -ENOSPC/-EIO with nothing appended. */
int dmt_journal_append(struct dmt_journal *j, struct dmt_rec *r, const struct iovec *iov, int n, struct dmt_err *err);
/* Appends whole encoded records as another journal made them (standby, restore). Each must extend the tail (seq, chain):
 * DMT_E_HISTORY otherwise, DMT_E_CORRUPT for a bad crc; records before the bad one stay appended. */
int dmt_journal_append_raw(struct dmt_journal *j, const void *records, size_t len, struct dmt_err *err);
/* Asks the committer to make everything up to seq durable; on_durable tells. */
void dmt_journal_kick(struct dmt_journal *j, uint64_t seq);
/* The same, but the calling thread does it and tells on_durable, if nobody is at it and syncs have been quick of late. */
void dmt_journal_sync(struct dmt_journal *j, uint64_t seq);
/* Blocks until durable >= seq. 0 or the journal's error. Not for handler threads. */
int dmt_journal_wait(struct dmt_journal *j, uint64_t seq);
/* The same, but leaves the syncing to others (a kick, the committer's own timer): for whoever only has to tell it on. */
int dmt_journal_watch(struct dmt_journal *j, uint64_t seq);

struct dmt_pos dmt_journal_tail(struct dmt_journal *j);
struct dmt_pos dmt_journal_first(struct dmt_journal *j); /* position BEFORE the oldest record still here */
uint64_t dmt_journal_durable(struct dmt_journal *j);
int dmt_journal_error(struct dmt_journal *j); /* 0, or why it failed for good */

/* Chain at seq if that position is still here: 0, or DMT_E_GONE (older), -ENOENT (beyond the tail). */
int dmt_journal_pos_at(struct dmt_journal *j, uint64_t seq, struct dmt_pos *ret);

/* Cuts every record after pos (J7); readers beyond it get DMT_E_STALE. Durable on return. */
int dmt_journal_truncate_to(struct dmt_journal *j, uint64_t seq, struct dmt_err *err);
/* Forgets everything and starts empty at pos (first synchronisation, restore). Durable on return. */
int dmt_journal_reset(struct dmt_journal *j, const struct dmt_pos *pos, struct dmt_err *err);

/* Segments that end at or before seq may be recycled. Only ever called with min over all who still need records. */
void dmt_journal_release(struct dmt_journal *j, uint64_t seq);

struct dmt_journal_stats {
    uint64_t segments, bytes, records, syncs, sync_ns_total, sync_ns_max;
};
void dmt_journal_stats(struct dmt_journal *j, struct dmt_journal_stats *ret);

/* Reader: sees every appended record, durable or not, in order; pads are skipped. A reader pins nothing: if its next
 * record is recycled it gets DMT_E_GONE. One thread per reader. */
struct dmt_jreader;
int dmt_jreader_open(struct dmt_jreader **ret, struct dmt_journal *j, uint64_t after_seq, struct dmt_err *err);
void dmt_jreader_close(struct dmt_jreader *r);
/* 1 and *ret filled (body, raw valid until the next call), 0 at the tail, < 0 error. raw/raw_len: the encoded record. */
int dmt_jreader_next(struct dmt_jreader *r, struct dmt_rec *ret, const uint8_t **raw, size_t *raw_len,
                     struct dmt_err *err);

/* Decodes one encoded record at p: checks len and crc (not the chain). 0, or DMT_E_CORRUPT. *used = bytes taken. */
int dmt_rec_decode(const void *p, size_t n, struct dmt_rec *ret, size_t *used);
/* The chain value that a record extending prev must have (J2). */
uint64_t dmt_rec_chain(uint64_t prev_chain, const void *record, size_t len);

/* Reads the segments of a directory without opening it for writing (dumont log): calls fn for each record. */
int dmt_journal_scan(const struct dmt_io *io, const char *dir, int (*fn)(void *ctx, const struct dmt_rec *r), void *ctx,
                     struct dmt_err *err);

/* The same, judged as an open would with that lineage and floor (either may be NULL), for dumont check: 1, 0 when there is no
 * segment at all, or the open's error. With a floor also DMT_E_CORRUPT for a segment of applied records without its header,
 * which an open lets go of. */
int dmt_journal_check(const struct dmt_io *io, const char *dir, const uint8_t *lineage, const struct dmt_pos *floor,
                      struct dmt_pos *ret_tail, int (*fn)(void *ctx, const struct dmt_rec *r), void *ctx, struct dmt_err *err);

#endif
