/* bytes.c: growing buffers and bounded cursors over little-endian bytes.
 *
 * Owns the memory of a dmt_buf between init and free. Happy path: puts append, gets advance.
 * Failure is sticky and silent: a writer that ran out of memory, a reader that ran past its end set
 * `bad`, and every later call does nothing, so that encoders and decoders are straight lines with
 * one check at the end. Lengths from a peer are compared with what is left before any arithmetic,
 * so they cannot overflow. Thread: any; a struct belongs to one caller.
 */
#include "fs/base/bytes.h"

#include <stdlib.h>
#include <string.h>

#include "fs/base/err.h"

#define BUF_FIRST 256u

void dmt_buf_init(struct dmt_buf *b)
{
    *b = (struct dmt_buf){0};
}

void dmt_buf_free(struct dmt_buf *b)
{
    if (!b)
        return;
    free(b->p);
    dmt_buf_init(b);
}

void dmt_buf_reset(struct dmt_buf *b)
{
    b->len = 0;
    b->bad = false;
}

static bool buf_grow(struct dmt_buf *b, size_t need)
{
    size_t cap = b->cap ? b->cap : BUF_FIRST;
    while (cap < need) {
        if (cap > SIZE_MAX / 2)
            return false;
        cap *= 2;
    }
    uint8_t *p = realloc(b->p, cap);
    if (!p)
        return false;
    b->p = p;
    b->cap = cap;
    return true;
}

uint8_t *dmt_buf_reserve(struct dmt_buf *b, size_t n)
{
    if (b->bad)
        return NULL;
    /* No memory yet also means growing, so that reserving 0 bytes does not look like a failure. */
    if (!b->p || n > b->cap - b->len) {
        if (n > SIZE_MAX - b->len || !buf_grow(b, b->len + n)) {
            b->bad = true;
            return NULL;
        }
    }
    uint8_t *at = b->p + b->len;
    b->len += n;
    return at;
}

void dmt_put_u8(struct dmt_buf *b, uint8_t v)
{
    uint8_t *p = dmt_buf_reserve(b, 1);
    if (p)
        *p = v;
}

void dmt_put_u16(struct dmt_buf *b, uint16_t v)
{
    uint8_t *p = dmt_buf_reserve(b, 2);
    if (p)
        dmt_st16(p, v);
}

void dmt_put_u32(struct dmt_buf *b, uint32_t v)
{
    uint8_t *p = dmt_buf_reserve(b, 4);
    if (p)
        dmt_st32(p, v);
}

void dmt_put_u64(struct dmt_buf *b, uint64_t v)
{
    uint8_t *p = dmt_buf_reserve(b, 8);
    if (p)
        dmt_st64(p, v);
}

void dmt_put_raw(struct dmt_buf *b, const void *src, size_t n)
{
    if (n == 0)
        return; /* src may be NULL then */
    uint8_t *p = dmt_buf_reserve(b, n);
    if (p)
        memcpy(p, src, n);
}

void dmt_put_bytes(struct dmt_buf *b, const void *src, size_t n)
{
    if (n > UINT32_MAX) {
        b->bad = true;
        return;
    }
    dmt_put_u32(b, (uint32_t)n);
    dmt_put_raw(b, src, n);
}

void dmt_put_str(struct dmt_buf *b, const char *s)
{
    dmt_put_bytes(b, s, strlen(s));
}

struct dmt_cur dmt_cur_of(const void *p, size_t n)
{
    static const uint8_t nothing[1];
    const uint8_t *at = p ? p : nothing;
    return (struct dmt_cur){.p = at, .end = at + (p ? n : 0), .bad = !p && n > 0};
}

const uint8_t *dmt_get_raw(struct dmt_cur *c, size_t n)
{
    if (c->bad || n > (size_t)(c->end - c->p)) {
        c->bad = true;
        return NULL;
    }
    const uint8_t *at = c->p;
    c->p += n;
    return at;
}

uint8_t dmt_get_u8(struct dmt_cur *c)
{
    const uint8_t *p = dmt_get_raw(c, 1);
    return p ? *p : 0;
}

uint16_t dmt_get_u16(struct dmt_cur *c)
{
    const uint8_t *p = dmt_get_raw(c, 2);
    return p ? dmt_le16(p) : 0;
}

uint32_t dmt_get_u32(struct dmt_cur *c)
{
    const uint8_t *p = dmt_get_raw(c, 4);
    return p ? dmt_le32(p) : 0;
}

uint64_t dmt_get_u64(struct dmt_cur *c)
{
    const uint8_t *p = dmt_get_raw(c, 8);
    return p ? dmt_le64(p) : 0;
}

const uint8_t *dmt_get_bytes(struct dmt_cur *c, uint32_t *ret_n)
{
    uint32_t n = dmt_get_u32(c);
    const uint8_t *p = dmt_get_raw(c, n);
    *ret_n = p ? n : 0;
    return p;
}

void dmt_get_str(struct dmt_cur *c, char *dst, size_t size)
{
    uint32_t n;
    const uint8_t *p = dmt_get_bytes(c, &n);
    if (size > 0)
        dst[0] = '\0';
    if (!p)
        return;
    if (n >= size || memchr(p, 0, n)) {
        c->bad = true;
        return;
    }
    memcpy(dst, p, n);
    dst[n] = '\0';
}

int dmt_cur_end(const struct dmt_cur *c)
{
    return c->bad || c->p != c->end ? DMT_E_CORRUPT : 0;
}
