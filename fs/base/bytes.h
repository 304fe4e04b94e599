/* bytes.h: little-endian encoding with bounds. A writer (struct dmt_buf) grows up to a cap; a reader (struct dmt_cur) never
 * runs past its end: after the first bad read `bad` stays set and every further get returns zeros, so a decoder checks once.
 * Strings and blobs: u32 length, then bytes (no NUL). Any thread; a struct belongs to one caller. */
#ifndef DMT_BASE_BYTES_H
#define DMT_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dmt_buf {
    uint8_t *p;
    size_t len, cap;
    bool bad; /* out of memory */
};
void dmt_buf_init(struct dmt_buf *b);
void dmt_buf_free(struct dmt_buf *b);
void dmt_buf_reset(struct dmt_buf *b); /* len = 0, memory kept */
/* Makes room for n more bytes and returns where they go (len is advanced), or NULL. */
uint8_t *dmt_buf_reserve(struct dmt_buf *b, size_t n);
void dmt_put_u8(struct dmt_buf *b, uint8_t v);
void dmt_put_u16(struct dmt_buf *b, uint16_t v);
void dmt_put_u32(struct dmt_buf *b, uint32_t v);
void dmt_put_u64(struct dmt_buf *b, uint64_t v);
void dmt_put_raw(struct dmt_buf *b, const void *p, size_t n);
void dmt_put_bytes(struct dmt_buf *b, const void *p, size_t n); /* u32 length + bytes */
void dmt_put_str(struct dmt_buf *b, const char *s);             /* as dmt_put_bytes */

struct dmt_cur {
    const uint8_t *p, *end;
    bool bad;
};
struct dmt_cur dmt_cur_of(const void *p, size_t n);
uint8_t dmt_get_u8(struct dmt_cur *c);
uint16_t dmt_get_u16(struct dmt_cur *c);
uint32_t dmt_get_u32(struct dmt_cur *c);
uint64_t dmt_get_u64(struct dmt_cur *c);
const uint8_t *dmt_get_raw(struct dmt_cur *c, size_t n);         /* into the buffer, or NULL */
const uint8_t *dmt_get_bytes(struct dmt_cur *c, uint32_t *ret_n); /* into the buffer; NULL only when bad */
/* Copies a string of at most size-1 bytes, NUL-terminated; longer, or with a NUL inside: bad. */
void dmt_get_str(struct dmt_cur *c, char *dst, size_t size);
/* 0 if all was read exactly, else DMT_E_CORRUPT. */
int dmt_cur_end(const struct dmt_cur *c);

/* Unaligned little-endian access for fixed layouts. */
static inline uint16_t dmt_le16(const void *p) { uint16_t v; __builtin_memcpy(&v, p, 2); return v; }
static inline uint32_t dmt_le32(const void *p) { uint32_t v; __builtin_memcpy(&v, p, 4); return v; }
static inline uint64_t dmt_le64(const void *p) { uint64_t v; __builtin_memcpy(&v, p, 8); return v; }
static inline void dmt_st16(void *p, uint16_t v) { __builtin_memcpy(p, &v, 2); }
static inline void dmt_st32(void *p, uint32_t v) { __builtin_memcpy(p, &v, 4); }
static inline void dmt_st64(void *p, uint64_t v) { __builtin_memcpy(p, &v, 8); }
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "big-endian machines are not supported");

#endif
