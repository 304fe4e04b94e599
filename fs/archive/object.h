/* object.h: the bytes of one archive object: our header in an LZ4 skippable frame, then the payload as a standard LZ4 frame, so
 * that `lz4 -d` gives the payload. Specified in docs/formats-archive.md; a test vector there is checked by tests/unit/archive.
 *
 * Invariants (cited by checks and tests)
 *   A1  an object is whole or refused: header, LZ4 frame and payload each have their own XXH3, and nothing may follow the frame.
 *   A2  an object says where it belongs (lineage, node, n); found under another key it is refused.
 *   A3  a run is a stretch run_n..n of one series without gaps: each journal object continues the one before (seq, chain).
 *   A4  all records of a journal object have one epoch; an EPOCH record is its first, and its switch point is `before`.
 * Any thread; no state. */
#ifndef DMT_ARCHIVE_OBJECT_H
#define DMT_ARCHIVE_OBJECT_H

#include <stdint.h>
#include "fs/base/bytes.h"
#include "fs/base/err.h"
#include "fs/base/limits.h"

#define ARCHIVE_HDR_BYTES 328u /* skippable frame included: what a reader of headers asks for */
#define ARCHIVE_RAW_MAX   (48u << 20)
#define ARCHIVE_NONE      UINT64_MAX /* no such object number */

enum archive_kind { ARCHIVE_BASE = 1, ARCHIVE_JOURNAL = 2, ARCHIVE_BULK = 3, ARCHIVE_NODE = 4 };

/* flags */
#define ARCHIVE_BASE_LAST 1u /* the last part of a base: its position counts from here on */
#define ARCHIVE_OPENS     2u /* first record is an EPOCH record: parent and switch point are set */

struct archive_hdr {
    uint16_t kind;
    uint32_t flags;
    uint8_t lineage[16];
    char node[DMT_NODE_NAME_MAX + 1];
    uint64_t n;                     /* number in the node's series; NODE: k */
    uint64_t epoch;                 /* of the last record (base: of the position) */
    uint64_t first_seq, last_seq;   /* records (bulk: of the journal object it belongs to; base: position in both) */
    uint64_t first_time, last_time; /* ns, of those records */
    uint64_t chain_before, chain_after;
    uint64_t parent, switch_seq, switch_chain; /* ARCHIVE_OPENS */
    uint64_t run_n;                            /* first object of this run */
    uint64_t base_n;                           /* first part of the base the run starts with, or ARCHIVE_NONE */
    uint32_t base_parts;                       /* parts of that base; 0 while it is being written */
    uint64_t prev_n; /* the object of prev_node's series that the run continues (a run that starts with a base:
                        the newest older object known), or ARCHIVE_NONE */
    char prev_node[DMT_NODE_NAME_MAX + 1];
    uint32_t items;                /* records, bulk ranges; base: number of the part from 0 */
    uint64_t raw_bytes, lz4_bytes; /* payload, LZ4 frame: filled in by encode */
    uint64_t raw_hash, lz4_hash;   /* XXH3-64 of each, seed 0: the same */
};

/* Appends the object to out. h gets its sizes and hashes. 0 or -ENOMEM, -EFBIG. */
int archive_object_encode(struct archive_hdr *h, const void *payload, size_t len, struct dmt_buf *out);
/* Reads the header alone from the first ARCHIVE_HDR_BYTES of an object. 0, DMT_E_CORRUPT, DMT_E_VERSION. */
int archive_hdr_decode(const void *p, size_t n, struct archive_hdr *ret);
/* The whole object, all hashes checked (A1); payload is appended to out. 0, DMT_E_CORRUPT, DMT_E_VERSION, -ENOMEM. */
int archive_object_decode(const void *p, size_t n, struct archive_hdr *ret, struct dmt_buf *out);

/* Payload of a bulk object: items one after the other. */
struct archive_bulk {
    uint64_t ino, off, seq;
    uint32_t len;
    const uint8_t *bytes;
};
#define ARCHIVE_BULK_HDR 28u
void archive_bulk_put(struct dmt_buf *out, uint64_t ino, uint64_t off, uint64_t seq, const void *bytes, uint32_t len);
/* 1 and the next item, 0 at the end, DMT_E_CORRUPT. */
int archive_bulk_next(struct dmt_cur *c, struct archive_bulk *ret);

#endif
