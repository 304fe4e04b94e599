/* internal.h: what the files of fs/journal share. docs/formats-journal.md is the format; journal.h
 * the contract.
 *
 *   record.c   frames: encode, decode, chain, salt, PAD            (pure)
 *   image.c    a segment in memory: header, walk, claims           (pure; fuzzed)
 *   ring.c     the records that are not durable yet                (pure)
 *   segment.c  segment objects and files: make, start, discard
 *   prepare.c  helper thread: zeros ahead, recycling
 *   append.c   appending and rolling
 *   commit.c   group commit, J5
 *   survey.c   reading a folder: which records count (J6)
 *   recover.c  open: survey and repair
 *   journal.c  life, positions, truncation, reset, release
 *   reader.c   readers and pos_at
 *   scan.c     dmt_journal_scan
 *
 * One lock (j->lock) guards everything below; the fields of a segment that change are guarded by it
 * too. `syncing` is a token: whoever has set it (a committing thread, truncate, reset) alone may
 * sync and change the table of segments at its end. The lock is given up over fdatasync, never over
 * a record's pwrite. Exception: the rewrite after a failed fdatasync (J5) keeps it, because nothing
 * may be appended meanwhile.
 */
#ifndef DMT_JOURNAL_INTERNAL_H
#define DMT_JOURNAL_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include "fs/base/limits.h"
#include "fs/base/list.h"
#include "fs/journal/journal.h"

#define JOURNAL_BLOCK       4096u
#define JOURNAL_SEG_HDR     4096u
#define JOURNAL_SEG_VERSION 1u
#define JOURNAL_SEG_RESET   1u
#define JOURNAL_PAD_BODY    24u
#define JOURNAL_PAD_MIN     (DMT_REC_HDR + JOURNAL_PAD_BODY)
#define JOURNAL_PAD_MAX     (JOURNAL_BLOCK + JOURNAL_PAD_MIN)
#define JOURNAL_SEGMENT_MIN (4u * JOURNAL_BLOCK)
#define JOURNAL_SEGMENT_MAX (1u << 30)
#define JOURNAL_RING_BYTES  (16u << 20)  /* bytes of records that may be not durable */
#define JOURNAL_BATCH_MAX   (256u << 10) /* bytes of one write of dmt_journal_append_raw */
#define JOURNAL_INDEX_STEP  (128u << 10) /* bytes between entries of a segment's index */
#define JOURNAL_READ_CHUNK  (256u << 10)
#define JOURNAL_SPARES      2u    /* recycled files kept */
#define JOURNAL_SYNC_MS     1000u /* an append is synced after that without being asked */
#define JOURNAL_QUICK_MS    2u    /* where syncs take longer, dmt_journal_sync() leaves them to the committer */
#define JOURNAL_RAW_SYNCS   8u           /* so many syncs of a raw segment, */
#define JOURNAL_RAW_BYTES   (1u << 20)   /* or so many bytes in it, and it is left for a better one */
#define JOURNAL_PATH_MAX    (DMT_PATH_MAX + 64u)
/* What may lie behind a torn tail: all that was not durable, and the pads of the group under way.
 */
#define JOURNAL_TORN_MAX (JOURNAL_RING_BYTES + 2u * DMT_RECORD_MAX + 4u * JOURNAL_BLOCK)

/* --- record.c
 * --------------------------------------------------------------------------------------- */
uint32_t journal_salt(uint64_t serial);
/* Bytes of the frame of a record with this body. */
size_t journal_frame_size(size_t body_len);
/* Header of a record whose body already stands at p + DMT_REC_HDR: fills in everything, returns the
 * chain. */
uint64_t journal_frame_seal(uint8_t *p, const struct dmt_rec *r, uint64_t prev_chain,
                            uint32_t salt);
/* Gives an encoded frame the crc of another life: from a known one, or computed anew. */
void journal_frame_resalt(uint8_t *p, uint32_t from, uint32_t to);
void journal_frame_reseal(uint8_t *p, size_t len, uint32_t salt);
/* len of a frame that begins at p, or 0 if no frame can begin so. n >= 4. */
size_t journal_frame_len(const uint8_t *p, size_t n);
/* As dmt_rec_decode, in a segment with this salt; accepts PADs. */
int journal_frame_decode(const void *p, size_t n, uint32_t salt, struct dmt_rec *ret, size_t *used);

struct journal_pad {
    uint64_t serial, durable_seq, last_seq;
};
/* Bytes of a PAD that starts at off and ends at a block boundary; a whole block if off is one. */
size_t journal_pad_size(uint64_t off);
void journal_pad_put(uint8_t *p, size_t len, const struct journal_pad *pad,
                     const struct dmt_pos *at);
bool journal_pad_get(const struct dmt_rec *r, struct journal_pad *ret);

/* --- image.c
 * ---------------------------------------------------------------------------------------- */
struct journal_seg_hdr {
    uint32_t flags;
    uint8_t lineage[16];
    uint64_t serial;
    struct dmt_pos prev; /* position before the segment; first_seq = prev.seq + 1 */
    uint64_t durable_seq;
    uint64_t created_ns;
    uint64_t bytes;
};
void journal_hdr_put(uint8_t p[JOURNAL_SEG_HDR], const struct journal_seg_hdr *h);
/* 0, DMT_E_CORRUPT (not valid), or DMT_E_VERSION. */
int journal_hdr_get(const uint8_t *p, size_t n, uint64_t serial, struct journal_seg_hdr *ret);

struct journal_walk {
    struct dmt_pos pos; /* in: position before off; out: last record read */
    uint64_t off;       /* in: where to begin; out: behind the last frame that counts */
    uint64_t claim;     /* raised by the PADs met */
    uint64_t records;
};
/* Called for each record; not 0 stops the walk, which then returns it. */
typedef int (*journal_image_fn)(void *ctx, const struct dmt_rec *r, uint64_t off);
/* Reads the frames of a segment image until nothing continues or record limit_seq (and PADs behind
 * it) was read. */
int journal_image_walk(const uint8_t *img, size_t n, uint64_t serial, uint64_t limit_seq,
                       struct journal_walk *w, journal_image_fn fn, void *ctx);
/* Highest durable_seq that a PAD of this life states at or behind off; 0 if none. */
uint64_t journal_image_claim(const uint8_t *img, size_t n, uint64_t serial, uint64_t off);

/* --- ring.c
 * ----------------------------------------------------------------------------------------- */
struct journal_ring {
    uint8_t *p;
    uint64_t cap;
    uint64_t head,
        tail; /* positions that only grow; [head, tail) is in use; place = position mod cap */
};
int journal_ring_init(struct journal_ring *r, uint64_t cap);
void journal_ring_free(struct journal_ring *r);
/* Room for a frame in one piece, or NULL when too full. The next frame starts behind it. */
uint8_t *journal_ring_reserve(struct journal_ring *r, size_t len);
/* True if a frame reserved now would follow the last one in memory. */
bool journal_ring_flat(const struct journal_ring *r, size_t len);
/* What lies before `mark`, an earlier tail, is not needed any more. Positions of an empty ring move to its beginning. */
void journal_ring_let_go(struct journal_ring *r, uint64_t mark);
/* The frame at *at (start with head) and its length; NULL at the end. Advances *at. */
uint8_t *journal_ring_next(const struct journal_ring *r, uint64_t *at, size_t *ret_len);

/* --- segment.c
 * -------------------------------------------------------------------------------------- */
struct journal_index {
    uint64_t seq, off; /* record seq starts at off */
};
struct journal_segment {
    struct dmt_list node; /* in j->discards, once it is not live */
    uint64_t serial;
    int fd;
    int refs;            /* the table or j->discards, readers, a sync under way */
    bool live;           /* in the table: the file's bytes are of this life */
    bool dirty;          /* written since its last fdatasync began */
    bool full;           /* takes no more records */
    bool raw;            /* much of the file is room only: its syncs write metadata, too */
    uint32_t syncs;      /* how often it was synced */
    bool as_spare;       /* what becomes of its file: a spare, or nothing */
    bool renamed;        /* that has been done, the folder is still to be synced */
    struct dmt_pos prev; /* before its first record */
    uint64_t last_seq;   /* last record that counts here; prev.seq if none */
    uint64_t end;        /* behind the last frame */
    uint64_t bytes;      /* size of the file */
    uint64_t indexed;    /* offset of the last index entry */
    struct journal_index *index;
    size_t index_n, index_cap;
};

/* Behind this offset the next segment is wanted. */
static inline uint64_t journal_prepare_from(const struct journal_segment *s)
{
    return s->raw && s->bytes / 4 > JOURNAL_RAW_BYTES ? JOURNAL_RAW_BYTES : s->bytes / 4;
}

/* Raw and in earnest use. */
static inline bool journal_segment_outgrown(const struct journal_segment *s)
{
    return s->raw && (s->syncs >= JOURNAL_RAW_SYNCS || s->end > JOURNAL_RAW_BYTES);
}

struct dmt_journal {
    struct dmt_journal_conf conf;
    char *dir;
    pthread_mutex_t lock;
    pthread_cond_t work;    /* to the committer: kick, first record that is not durable, stop */
    pthread_cond_t done;    /* durable moved, syncing ended, error, layout changed */
    pthread_cond_t prepare; /* to the preparer */
    pthread_t committer, preparer;
    bool committer_started, preparer_started;
    bool stop;
    bool syncing;   /* token, see above */
    bool rewritten; /* J5 has moved records and no sync has succeeded since */
    bool dir_dirty; /* a segment got its name and the folder was not synced since */
    int error;      /* 0, or why the journal failed for good */

    struct dmt_pos tail, durable;
    uint64_t want;           /* highest seq that somebody wants durable */
    uint64_t claim;          /* highest durable_seq stated on disk */
    uint64_t dirty_since_ns; /* CLOCK_MONOTONIC of the first append that is not durable */
    bool watching;           /* the committer looks by itself when an append now would be due */
    bool telling;            /* on_durable is being told */
    uint64_t reported;       /* what it was told */
    int reported_error;
    uint64_t cuts; /* how many times records were taken away */
    struct journal_ring ring;

    struct journal_segment **segs; /* oldest first; the last one is appended to */
    size_t segs_n, segs_cap;
    atomic_uint_fast64_t
        layout; /* changes when records moved or went: readers look up their place again */
    struct dmt_list readers;

    uint64_t next_serial;
    struct dmt_list discards;        /* segments whose files wait to be recycled, in this order */
    uint64_t spares[JOURNAL_SPARES]; /* the preparer's */
    size_t spares_n;
    struct journal_segment *next; /* prepared: has a durable name, the highest serial, no header */
    int prepare_error;            /* of the last try to prepare a spare */

    uint64_t syncs, sync_ns_total, sync_ns_max;
    uint64_t sync_ns_recent; /* moving average of the last eight or so */
};

struct dmt_jreader {
    struct dmt_list node; /* in j->readers */
    struct dmt_journal *j;
    uint64_t next_seq;
    bool stale;                  /* set by truncation; guarded by the lock */
    uint64_t layout;             /* j->layout when seg was looked up */
    struct journal_segment *seg; /* holds a reference; NULL: look up next_seq */
    uint64_t last_seq;           /* last record that counted in seg then */
    uint64_t off;                /* of buf[0] in seg */
    uint8_t *buf;
    size_t at, len, cap; /* buf[at, len) is still to be read */
};

static inline struct journal_segment *journal_current(const struct dmt_journal *j)
{
    return j->segs[j->segs_n - 1];
}
void journal_path(const struct dmt_journal *j, uint64_t serial, char ret[JOURNAL_PATH_MAX]);
void journal_spare_path(const struct dmt_journal *j, uint64_t number, char ret[JOURNAL_PATH_MAX]);
/* A new segment behind prev: the prepared one, else made here. Has a name, no header, is in no
 * table. */
int journal_segment_make(struct dmt_journal *j, const struct dmt_pos *prev,
                         struct journal_segment **ret, struct dmt_err *err);
/* Writes the header: from now on the segment counts. */
int journal_segment_start(struct dmt_journal *j, struct journal_segment *s, uint32_t flags);
/* Puts it at the end of the table. */
int journal_segment_add(struct dmt_journal *j, struct journal_segment *s);
/* Takes [from, to) out of the table and hands the files to the preparer. */
void journal_segments_drop(struct dmt_journal *j, size_t from, size_t to);
/* Hands the file of a segment that is in no table to the preparer, and the reference with it. */
void journal_segment_discard(struct dmt_journal *j, struct journal_segment *s);
struct journal_segment *journal_segment_new(uint64_t serial, int fd, uint64_t bytes,
                                            const struct dmt_pos *prev);
void journal_segment_unref(struct dmt_journal *j, struct journal_segment *s);
void journal_segment_note(struct journal_segment *s, uint64_t seq,
                          uint64_t off); /* index entry, if due */
/* The last index entry at or before seq. */
struct journal_index journal_segment_seek(const struct journal_segment *s, uint64_t seq);
/* Index of the segment that holds record seq (first < seq <= tail). */
size_t journal_segment_find(const struct dmt_journal *j, uint64_t seq);

/* --- prepare.c
 * -------------------------------------------------------------------------------------- */
void *journal_preparer(void *arg);
/* Name of the file that the preparer is filling. */
#define JOURNAL_PREPARE_NAME "prepare.tmp"

/* --- append.c / commit.c
 * ---------------------------------------------------------------------------- */
int journal_roll(struct dmt_journal *j, struct dmt_err *err);
/* Makes everything appended so far durable. Called and returns with the lock held and no token
 * taken. */
int journal_commit(struct dmt_journal *j);
void *journal_committer(void *arg);
/* Fails the journal for good. */
void journal_fail(struct dmt_journal *j, int code);
int journal_pad_write(struct dmt_journal *j, struct journal_segment *s);
uint64_t journal_now_ns(void); /* CLOCK_MONOTONIC, for the condition variables */

/* --- survey.c
 * --------------------------------------------------------------------------------------- */
struct journal_found {
    uint64_t serial, size;
    bool valid; /* has a valid header */
    bool kept;  /* part of the history */
    struct journal_seg_hdr hdr;
    uint64_t end, last_seq;      /* kept ones */
    struct journal_segment *seg; /* recover.c's */
};
struct journal_survey {
    const struct dmt_io *io;
    const char *dir;
    const uint8_t *lineage;      /* NULL: that of the first segment */
    const struct dmt_pos *floor; /* NULL: none */
    bool list_only;              /* read names and sizes only */
    /* Not 0 stops with that result. May be NULL. */
    int (*record)(void *ctx, struct journal_found *f, const struct dmt_rec *r, uint64_t off);
    void *ctx;
    /* results */
    uint8_t lineage_found[16];
    struct journal_found *found; /* by serial */
    size_t found_n;
    uint64_t *spares; /* numbers in names of spares */
    size_t spares_n;
    uint64_t number_max;
    struct dmt_pos first, tail;
    uint64_t claim; /* everything up to here is proven durable */
    /* Serial of a segment before the first whose header is damaged and which holds records of the history, 0 none. */
    uint64_t headless;
    bool any;       /* a segment was kept */
    uint8_t *img;   /* of the segment read last */
    size_t img_n, img_cap;
    uint64_t img_serial, img_size;
};
int journal_survey(struct journal_survey *s, struct dmt_err *err);
void journal_survey_free(struct journal_survey *s);
/* Says what s->headless means; returns DMT_E_CORRUPT. */
int journal_survey_headless(const struct journal_survey *s, struct dmt_err *err);
void journal_survey_path(const struct journal_survey *s, const char *prefix, uint64_t number,
                         const char *suffix, char ret[JOURNAL_PATH_MAX]);
/* Where the last byte may lie that was ever written: behind it the file has only room, which reads as zeros. Saves reading 64 MiB
 * of nothing. `size` where the file system cannot tell. */
uint64_t journal_written_end(int fd, uint64_t size);
/* The file of a segment as far as it was written, at most JOURNAL_SEGMENT_MAX bytes; valid until the next call. */
int journal_image_load(struct journal_survey *s, const struct journal_found *f, const uint8_t **ret,
                       size_t *ret_n);

/* --- recover.c
 * -------------------------------------------------------------------------------------- */
int journal_recover(struct dmt_journal *j, struct dmt_err *err);

/* --- journal.c
 * -------------------------------------------------------------------------------------- */
void journal_free(struct dmt_journal *j);
/* Takes the token; waits for those who have it. Lock held. */
void journal_token_take(struct dmt_journal *j);
void journal_token_give(struct dmt_journal *j);

#endif
