/* record.h: the record types of the journal and their bodies. One field list per type expands to the struct, the encoder, the
 * decoder and the fuzz target (record.c). Records carry RESULTS, not requests: inode numbers, final modes, resolved owners. The
 * record's time (header) is the mtime/ctime that the operation gives. All integers little-endian; STR and BYTES: u32 length +
 * bytes.
 * Fields: U8 U32 U64 ID(16 raw bytes) STR BYTES. Bytes are specified in docs/formats.md ("Records"); numbers never change.
 */
#ifndef DMT_WORKSPACE_RECORD_H
#define DMT_WORKSPACE_RECORD_H

#include <stddef.h>
#include <stdint.h>
#include "fs/base/bytes.h"
#include "fs/journal/journal.h"

#define DMT_MODE_KEEP UINT32_MAX /* "mode unchanged" in WRITE, WRITE_REF, SETXATTR, DELXATTR, ALLOC */

/* REC(NAME, number, fields): F(kind, name) each */
#define DMT_RECORDS(REC)                                                                                               \
    REC(EPOCH, 1, F(U64, epoch) F(U64, parent) F(U64, switch_seq) F(U64, switch_chain) F(ID, store_id) F(STR, node)   \
        F(STR, reason))                                                                                                \
    /* file, directory, symlink, device; name "" = O_TMPFILE (nlink 0) */                                              \
    REC(MAKE, 2, F(U64, parent) F(STR, name) F(U64, ino) F(U32, mode) F(U32, uid) F(U32, gid) F(U32, rdev)            \
        F(BYTES, target) F(BYTES, acl_access) F(BYTES, acl_default))                                                   \
    REC(LINK, 3, F(U64, ino) F(U64, parent) F(STR, name))                                                              \
    /* orphan 1: last name gone but still in use, kept until REAP */                                                   \
    REC(UNLINK, 4, F(U64, parent) F(STR, name) F(U64, ino) F(U8, orphan))                                              \
    REC(RENAME, 5, F(U64, parent) F(STR, name) F(U64, newparent) F(STR, newname) F(U32, flags) F(U64, ino)             \
        F(U64, replaced) F(U8, orphan))                                                                                \
    /* mask: DMT_SET_* */                                                                                              \
    REC(SETATTR, 6, F(U64, ino) F(U32, mask) F(U32, mode) F(U32, uid) F(U32, gid) F(U64, size) F(U64, atime)           \
        F(U64, mtime))                                                                                                 \
    REC(SETXATTR, 7, F(U64, ino) F(STR, name) F(BYTES, value) F(U32, mode))                                            \
    REC(DELXATTR, 8, F(U64, ino) F(STR, name) F(U32, mode))                                                            \
    /* drop_caps: security.capability is removed with it */                                                            \
    REC(WRITE, 9, F(U64, ino) F(U64, off) F(U32, mode) F(U8, drop_caps) F(BYTES, data))                                \
    REC(WRITE_REF, 10, F(U64, ino) F(U64, off) F(U64, length) F(U64, hash) F(U32, mode) F(U8, drop_caps))              \
    /* fallocate: flags as fallocate(2); size: the size after it */                                                    \
    REC(ALLOC, 11, F(U64, ino) F(U32, flags) F(U64, off) F(U64, length) F(U64, size) F(U32, mode))                     \
    REC(MARK, 12, F(U64, ino) F(U64, upto))                                                                            \
    REC(REAP, 13, F(U64, ino))                                                                                         \
    REC(SNAP, 14, F(STR, name) F(U64, serial) F(STR, note))                                                            \
    REC(SNAP_DEL, 15, F(STR, name))                                                                                    \
    /* records between BEGIN and END are applied at END, or never */                                                   \
    REC(BEGIN, 16, F(STR, what))                                                                                       \
    REC(END, 17, F(U64, count) F(U64, begin_seq))                                                                      \
    /* content of ino := content of src at view (rollback, fallback, heal): no bytes move */                           \
    REC(CONTENT, 18, F(U64, ino) F(U64, src) F(U64, view) F(U64, size) F(U64, mtime))                                  \
    /* report: after a failover or power cut this file's unsynced bulk data is missing; fallback 1 = older content, 0 = cut */ \
    REC(INCOMPLETE, 19, F(U64, ino) F(U8, fallback) F(U64, missing_bytes) F(U64, size) F(STR, path))

/* RENAME, beside RENAME_NOREPLACE (1) and RENAME_EXCHANGE (2) */
#define DMT_RENAME_PLACE  8u /* the entry takes the cookie of what it replaces, or keeps its own in its directory */
#define DMT_SET_MODE      1u
#define DMT_SET_UID       2u
#define DMT_SET_GID       4u
#define DMT_SET_SIZE      8u
#define DMT_SET_ATIME     16u
#define DMT_SET_MTIME     32u
#define DMT_SET_DROP_CAPS 64u /* security.capability goes */

struct dmt_span {
    const void *p;
    uint32_t n;
};

#define DMT_FT_U8(n)    uint8_t n;
#define DMT_FT_U32(n)   uint32_t n;
#define DMT_FT_U64(n)   uint64_t n;
#define DMT_FT_ID(n)    uint8_t n[16];
#define DMT_FT_STR(n)   struct dmt_span n; /* points into the record; no NUL at the end, none inside */
#define DMT_FT_BYTES(n) struct dmt_span n;
#define F(kind, name) DMT_FT_##kind(name)
#define REC(NAME, num, fields) struct dmt_rec_##NAME { fields };
DMT_RECORDS(REC)
#undef REC
#undef F

enum dmt_rec_type {
#define REC(NAME, num, fields) DMT_REC_##NAME = num,
    DMT_RECORDS(REC)
#undef REC
};

/* A decoded body. */
struct dmt_body {
    uint16_t type;
    union {
#define REC(NAME, num, fields) struct dmt_rec_##NAME NAME;
        DMT_RECORDS(REC)
#undef REC
    };
};

/* Appends the body's bytes to out. */
void dmt_body_encode(const struct dmt_body *b, struct dmt_buf *out);
/* Every field checked for bounds; spans point into p. 0 or DMT_E_CORRUPT (unknown type: DMT_E_VERSION). */
int dmt_body_decode(uint16_t type, const void *p, size_t n, struct dmt_body *ret);
const char *dmt_rec_name(uint16_t type);
/* One line for `dumont log`: type and fields; data shown as a length. Returns buf. */
char *dmt_body_print(const struct dmt_body *b, char *buf, size_t size);

#endif
