/* wire.h: the messages between two replicas. One field list per message gives struct, encoder, decoder and fuzz target (wire.c);
 * the bytes are specified in docs/formats-wire.md; numbers never change.
 *
 * A frame is an 8-byte head (u32 body length, u8 type, u8 0, u16 0) and the body: the fields in order, little-endian. Kinds: U8
 * U32 U64, ID (16 raw bytes), POS (epoch, seq, chain), STR and BYTES (u32 length + bytes; STR without NUL). `most` limits the
 * body, so that a peer cannot choose how much memory we take; before a HELLO was accepted only HELLO and BYE are taken.
 * Thread: any; no state, but for the codec objects, which belong to one caller.
 */
#ifndef DMT_REPLICA_WIRE_H
#define DMT_REPLICA_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include "fs/base/bytes.h"
#include "fs/base/limits.h"
#include "fs/journal/journal.h"

#define REPLICA_VERSION    7u
#define REPLICA_HEAD       8u
#define REPLICA_TEXT_MAX   256u        /* of a sentence for people */
#define REPLICA_EPOCHS_MAX 256u        /* epochs of the history in a HELLO, newest kept */
#define REPLICA_BATCH_MAX  (256u << 10) /* raw bytes of records in a frame, unless one record alone is larger */
#define REPLICA_BULK_MAX   (64u << 10)  /* raw bytes in a BULK frame */
#define REPLICA_STATE_MAX  (256u << 10) /* raw bytes in a STATE frame */
#define REPLICA_LIST_MAX   (128u << 20) /* bytes of what a standby says it has */
#define REPLICA_RAW_MAX    DMT_FRAME_MAX
#define REPLICA_SMALL      1024u

/* MSG(NAME, number, most bytes of the body, fields) */
#define REPLICA_MESSAGES(MSG)                                                                                          \
    MSG(HELLO, 1, 16384, F(U32, version) F(U64, instance) F(ID, store_id) F(ID, lineage) F(STR, workspace)            \
        F(STR, node) F(U8, role) F(U8, flags) F(U64, epoch) F(U64, seen) F(POS, tail) F(BYTES, epochs)                 \
        F(U32, first) F(BYTES, past))                                                                                  \
    MSG(VERDICT, 2, REPLICA_SMALL, F(U8, relation))                                                                    \
    MSG(EPOCH, 3, REPLICA_SMALL, F(U64, epoch) F(U8, alone) F(U64, switch_seq) F(U64, switch_chain))                   \
    MSG(READY, 4, REPLICA_SMALL, F(U64, epoch) F(U8, cannot) F(POS, at) F(STR, why))                                   \
    MSG(STREAM, 5, REPLICA_SMALL, F(U64, epoch) F(POS, after))                                                         \
    MSG(RECORDS, 6, DMT_FRAME_MAX, F(U64, epoch) F(U64, first) F(U64, last) F(U64, chain_before) F(U64, chain_after)  \
        F(U64, durable) F(U32, raw_len) F(BYTES, data))                                                                \
    MSG(COMMIT, 7, REPLICA_SMALL, F(U64, epoch) F(U64, durable))                                                       \
    MSG(ACK, 8, REPLICA_SMALL, F(U64, epoch) F(U64, received) F(U64, durable) F(U64, applied) F(U64, whole)           \
        F(U64, chain_seq) F(U64, chain) F(U64, free_bytes) F(U64, missing_bytes))                                      \
    MSG(WANT, 9, REPLICA_SMALL, F(U64, epoch) F(U64, ino) F(U64, seq))                                                 \
    MSG(HAVE, 10, REPLICA_SMALL, F(U64, epoch) F(U64, ino) F(U64, seq))                                                \
    MSG(PULL, 11, REPLICA_SMALL, F(U64, epoch) F(U64, ino) F(U64, off) F(U64, length) F(U64, seq) F(U8, urgent))       \
    MSG(BULK, 12, 2 * REPLICA_BULK_MAX, F(U64, epoch) F(U64, ino) F(U64, off) F(U64, seq) F(U64, hash)                \
        F(U32, raw_len) F(BYTES, data))                                                                                \
    MSG(GONE, 13, REPLICA_SMALL, F(U64, epoch) F(U64, ino) F(U64, off) F(U64, length) F(U64, seq) F(U64, tail))        \
    MSG(FETCH, 14, REPLICA_SMALL, F(U64, epoch) F(POS, after))                                                         \
    MSG(FETCHED, 15, REPLICA_SMALL, F(U64, epoch) F(POS, tail))                                                        \
    MSG(ORDER, 16, REPLICA_SMALL, F(U64, epoch) F(U8, alone))                                                          \
    MSG(GO, 17, REPLICA_SMALL, F(U64, epoch) F(U64, length))                                                           \
    MSG(STATE, 18, 2 * REPLICA_STATE_MAX, F(U64, epoch) F(U64, off) F(U64, total) F(U32, raw_len) F(BYTES, data))      \
    MSG(STATE_END, 19, REPLICA_SMALL, F(U64, epoch) F(U64, length) F(POS, at))                                         \
    MSG(PING, 20, REPLICA_SMALL, F(U64, stamp))                                                                        \
    MSG(PONG, 21, REPLICA_SMALL, F(U64, stamp))                                                                        \
    MSG(BYE, 22, REPLICA_SMALL, F(U32, code) F(U64, epoch) F(STR, text))                                               \
    MSG(NEED, 23, REPLICA_SMALL, F(U64, epoch) F(U64, seq))                                                            \
    MSG(LIST, 24, 2 * REPLICA_STATE_MAX, F(U64, epoch) F(U64, off) F(U32, raw_len) F(BYTES, data))                     \
    MSG(AUDIT, 25, REPLICA_SMALL, F(U64, epoch) F(U64, ino) F(U64, off) F(U64, length) F(U64, version_epoch)           \
        F(U64, version_seq) F(U64, hash))                                                                              \
    MSG(AUDITED, 26, REPLICA_SMALL, F(U64, epoch) F(U64, ino) F(U8, result))                                           \
    MSG(BRANCH, 27, REPLICA_SMALL, F(U64, epoch) F(STR, name) F(U8, removed))                                          \
    MSG(BRANCH_GET, 28, REPLICA_SMALL, F(U64, epoch) F(STR, name) F(U32, file) F(U64, off) F(U32, length))             \
    MSG(BRANCH_DATA, 29, 2 * REPLICA_BULK_MAX, F(U64, epoch) F(STR, name) F(U32, file) F(U64, serial) F(U64, size)    \
        F(U64, off) F(U64, hash) F(U32, raw_len) F(BYTES, data))                                                       \
    MSG(BRANCH_END, 30, REPLICA_SMALL, F(U64, epoch) F(STR, name) F(U32, files) F(POS, tail))

struct replica_span {
    const uint8_t *p;
    uint32_t n;
};

#define REPLICA_FT_U8(n)    uint8_t n;
#define REPLICA_FT_U32(n)   uint32_t n;
#define REPLICA_FT_U64(n)   uint64_t n;
#define REPLICA_FT_ID(n)    uint8_t n[16];
#define REPLICA_FT_POS(n)   struct dmt_pos n;
#define REPLICA_FT_STR(n)   struct replica_span n; /* into the frame; no NUL */
#define REPLICA_FT_BYTES(n) struct replica_span n;
#define F(kind, name)       REPLICA_FT_##kind(name)
#define MSG(NAME, num, most, fields) struct replica_msg_##NAME { fields };
REPLICA_MESSAGES(MSG)
#undef MSG
#undef F

enum replica_type {
#define MSG(NAME, num, most, fields) REPLICA_##NAME = num,
    REPLICA_MESSAGES(MSG)
#undef MSG
};

struct replica_msg {
    uint8_t type;
    union {
#define MSG(NAME, num, most, fields) struct replica_msg_##NAME NAME;
        REPLICA_MESSAGES(MSG)
#undef MSG
    };
};

#define REPLICA_HELLO_ALONE 1u
#define REPLICA_HELLO_EMPTY 2u

/* One epoch of a history, as a HELLO lists them (24 bytes each, ascending). */
struct replica_epoch {
    uint64_t epoch, switch_seq, switch_chain;
};

/* Appends a whole frame. */
void replica_encode(const struct replica_msg *m, struct dmt_buf *out);
/* Head of a frame: 1 and type, body length; 0 when fewer than 8 bytes are there; DMT_E_CORRUPT (unknown type, too long, reserved
 * bits). */
int replica_head(const void *p, size_t n, uint8_t *ret_type, uint32_t *ret_len);
/* Body of a frame: 0 or DMT_E_CORRUPT. Spans point into p. */
int replica_decode(uint8_t type, const void *p, size_t n, struct replica_msg *ret);
const char *replica_type_name(uint8_t type);

struct replica_span replica_span_of(const char *s);
void replica_span_text(struct replica_span s, char *dst, size_t size); /* cut to fit, unprintable bytes shown as ? */
void replica_epochs_encode(const struct replica_epoch *v, size_t n, struct dmt_buf *out);
/* Number of entries, or DMT_E_CORRUPT (not ascending, odd length, too many). */
int replica_epochs_decode(struct replica_span s, struct replica_epoch v[REPLICA_EPOCHS_MAX]);

/* --- payload: one standard LZ4 frame (independent blocks, content size and checksum) ---------------------------------------- */
/* Appends the LZ4 frame of p to out; incompressible bytes are stored. 0 or -ENOMEM. */
int replica_pack(const void *p, size_t n, struct dmt_buf *out);
struct replica_unpack;
int replica_unpack_new(struct replica_unpack **ret);
void replica_unpack_free(struct replica_unpack *u);
/* Exactly raw_len bytes into dst, the whole frame used up, else DMT_E_CORRUPT. */
int replica_unpack(struct replica_unpack *u, struct replica_span s, void *dst, size_t raw_len);

#endif
