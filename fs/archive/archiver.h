/* archiver.h: inside of the archiver: one struct, and what its files do with it.
 *
 *   archiver.c   the thread: life, status, waiting, uploading one object
 *   locate.c     where to go on: own state, own series, other nodes' series, claim of node/<k>
 *   pack.c       records -> one journal object
 *   gather.c     what by-reference writes refer to -> bulk objects before it
 *   base.c       the whole state as a series of objects
 *
 * Position of the archive (st.pos) moves only after the object that carries it was verified and archive.state is on disk; only
 * then is archived() called (A5). Everything here runs on the archiver's thread unless it says otherwise. */
#ifndef DMT_ARCHIVE_ARCHIVER_H
#define DMT_ARCHIVE_ARCHIVER_H

#include <pthread.h>
#include <stdatomic.h>
#include "fs/archive/archive.h"
#include "fs/archive/remote.h"
#include "fs/archive/series.h"

#define PACK_BYTES    (8u << 20)
#define PACK_MS       2000u
#define BULK_BYTES    (8u << 20)  /* one bulk object, one part of a base */
#define BULK_PER_PACK (64u << 20) /* so that a saved file waits behind at most so much bulk */

/* What archive.state keeps. */
struct archive_state {
    bool claimed;
    uint64_t claim_k;   /* node/<k> is ours */
    uint64_t next;      /* number of the next object */
    bool in_run;        /* pos can be continued by object `next` */
    struct dmt_pos pos; /* everything up to here is archived */
    uint64_t run_n, base_n, prev_n;
    uint32_t base_parts;
    char prev_node[DMT_NODE_NAME_MAX + 1];
};

/* A record whose bytes stand elsewhere: WRITE_REF, or CONTENT, which has them from a view (gather.c). */
struct pack_ref {
    uint64_t ino, off, len, seq;
    uint64_t hash; /* XXH3 of all len bytes; 0 = not known */
    uint64_t view; /* of a CONTENT; 0 = a WRITE_REF */
};

struct pack {
    struct dmt_buf raw;  /* encoded records */
    struct dmt_buf held; /* a record that was read but belongs into the next pack */
    struct dmt_rec held_rec;
    struct pack_ref *ref; /* in the order of their records */
    size_t n_ref, cap_ref;
    uint64_t ref_bytes;
    uint32_t records;
    struct archive_hdr h; /* first/last, times, chains, epoch opened */
    uint64_t began_ns;    /* monotonic: first record taken */
};

struct dmt_archiver {
    struct dmt_archiver_conf conf;
    char url[1024], dir[DMT_PATH_MAX - 64], node[DMT_NODE_NAME_MAX + 1];
    const struct dmt_io *io;
    const struct dmt_clock *clock;
    struct dmt_journal *journal;
    pthread_t thread;
    struct remote *net;
    atomic_bool stop, flush;

    pthread_mutex_t lock; /* leaf: status, cond */
    pthread_cond_t cond;
    struct dmt_archive_status status;

    /* the thread's own */
    struct archive_state st;
    struct dmt_jreader *reader;
    uint64_t read_seq; /* last record taken from reader */
    struct pack pack;
    uint64_t pause_ms;
    /* records beyond read_seq, counted while waiting, so that the status can say what is pending */
    struct dmt_jreader *ahead;
    uint64_t ahead_seq, ahead_bytes;
    void *bulk_buf; /* DMT_WRITE_MAX bytes */
};

/* --- archiver.c */
bool archiver_stopped(struct dmt_archiver *a);
/* Waits ms, or until stop (or, if wanted, flush). */
void archiver_wait(struct dmt_archiver *a, uint64_t ms, bool flush_ends_it);
/* Records an error for the status and waits the next step of the back-off. */
void archiver_failed(struct dmt_archiver *a, const struct dmt_err *err);
void archiver_worked(struct dmt_archiver *a);
/* Fills in n, lineage, node and run; uploads under the next number, for as long as it takes; next moves and the state is saved.
 * pos: the position this object completes, or NULL. 0; -ECANCELED (stop); -EEXIST, DMT_E_CORRUPT: look where we are (locate). */
int archiver_upload(struct dmt_archiver *a, struct archive_hdr *h, const struct dmt_buf *payload, const struct dmt_pos *pos,
                    struct dmt_err *err);
void archiver_state_load(struct dmt_archiver *a); /* what is not there or not ours: nothing archived */
int archiver_state_save(struct dmt_archiver *a, struct dmt_err *err);

/* --- locate.c: st is right afterwards; st.in_run false = a base is needed */
int archiver_locate(struct dmt_archiver *a, struct dmt_err *err);

/* --- gather.c */
/* Uploads bulk objects with what is still there of these writes; h: whose range they carry. */
int archiver_gather(struct dmt_archiver *a, const struct archive_hdr *h, const struct pack_ref *refs, size_t n,
                    struct dmt_err *err);

/* --- base.c */
int archiver_base(struct dmt_archiver *a, struct dmt_err *err);

/* --- pack.c */
void pack_init(struct pack *p);
void pack_free(struct pack *p);
/* Takes a record into the pack. 1 taken, 0 it was put aside: the pack must be uploaded first; < 0 error. */
int pack_add(struct dmt_archiver *a, const struct dmt_rec *rec, const uint8_t *raw, size_t len, struct dmt_err *err);
bool pack_full(const struct dmt_archiver *a);
uint64_t pack_measure(const struct pack *p); /* bytes waiting in it */
/* Bytes that a record stands for: its own and those it refers to. */
uint64_t pack_record_bytes(const struct dmt_rec *rec, size_t len, struct pack_ref *ret_ref);
/* Uploads bulk objects, then the journal object; empties the pack and takes the record that was put aside. */
int pack_upload(struct dmt_archiver *a, struct dmt_err *err);

#endif
