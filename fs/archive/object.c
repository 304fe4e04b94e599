/* object.c: encodes and decodes archive objects (docs/formats-archive.md has every byte).
 *
 * Owns nothing. Happy path out: compress the payload, hash both forms, lay out the header, hash it.
 * Happy path in: header first (magic, version, hash), then the frame's hash, the decompression with
 * a known size, the payload's hash. Failure modes: whatever does not fit exactly is DMT_E_CORRUPT,
 * a newer version DMT_E_VERSION; sizes are bounded before anything is allocated, for objects come
 * from a place others can write to. Thread: any. */
#include "fs/archive/object.h"
#include <lz4frame.h>
#include <stdlib.h>
#include <string.h>
#include "fs/base/hash.h"
#include "fs/base/log.h"

#define SKIPPABLE 0x184D2A50u
#define MAGIC     "DMTARCH1"
#define VERSION   1
#define BODY      (ARCHIVE_HDR_BYTES - 8) /* behind the skippable frame's own 8 bytes */
#define HASHED    (BODY - 8)              /* the header's hash is its last field */

static void put_name(struct dmt_buf *b, const char *s)
{
    char name[DMT_NODE_NAME_MAX] = {0};
    memcpy(name, s, strnlen(s, sizeof(name)));
    dmt_put_raw(b, name, sizeof(name));
}

static void get_name(struct dmt_cur *c, char dst[DMT_NODE_NAME_MAX + 1])
{
    const uint8_t *p = dmt_get_raw(c, DMT_NODE_NAME_MAX);
    if (p)
        memcpy(dst, p, DMT_NODE_NAME_MAX);
    dst[p ? DMT_NODE_NAME_MAX : 0] = 0;
}

static void put_hdr(struct dmt_buf *b, const struct archive_hdr *h)
{
    size_t at = b->len;
    dmt_put_u32(b, SKIPPABLE);
    dmt_put_u32(b, BODY);
    dmt_put_raw(b, MAGIC, 8);
    dmt_put_u16(b, VERSION);
    dmt_put_u16(b, h->kind);
    dmt_put_u32(b, h->flags);
    dmt_put_raw(b, h->lineage, 16);
    dmt_put_u64(b, h->n);
    dmt_put_u64(b, h->epoch);
    dmt_put_u64(b, h->first_seq);
    dmt_put_u64(b, h->last_seq);
    dmt_put_u64(b, h->first_time);
    dmt_put_u64(b, h->last_time);
    dmt_put_u64(b, h->chain_before);
    dmt_put_u64(b, h->chain_after);
    dmt_put_u64(b, h->parent);
    dmt_put_u64(b, h->switch_seq);
    dmt_put_u64(b, h->switch_chain);
    dmt_put_u64(b, h->run_n);
    dmt_put_u64(b, h->base_n);
    dmt_put_u64(b, h->prev_n);
    dmt_put_u64(b, h->raw_bytes);
    dmt_put_u64(b, h->lz4_bytes);
    dmt_put_u64(b, h->raw_hash);
    dmt_put_u64(b, h->lz4_hash);
    dmt_put_u32(b, h->items);
    dmt_put_u32(b, h->base_parts);
    put_name(b, h->node);
    put_name(b, h->prev_node);
    if (!b->bad)
        dmt_put_u64(b, dmt_hash64(0, b->p + at + 8, HASHED));
    DMT_ASSERT(b->bad || b->len - at == ARCHIVE_HDR_BYTES);
}

int archive_object_encode(struct archive_hdr *h, const void *payload, size_t len,
                          struct dmt_buf *out)
{
    LZ4F_preferences_t pref = {.frameInfo = {.blockSizeID = LZ4F_max256KB,
                                             .blockMode = LZ4F_blockIndependent,
                                             .contentChecksumFlag = LZ4F_contentChecksumEnabled,
                                             .contentSize = len}};
    if (len > ARCHIVE_RAW_MAX)
        return -EFBIG;
    size_t bound = LZ4F_compressFrameBound(len, &pref);
    uint8_t *lz4 = malloc(bound);
    if (!lz4)
        return -ENOMEM;
    size_t n = LZ4F_compressFrame(lz4, bound, payload, len, &pref);
    if (LZ4F_isError(n)) { /* only memory can fail here */
        free(lz4);
        return -ENOMEM;
    }
    h->raw_bytes = len;
    h->lz4_bytes = n;
    h->raw_hash = dmt_hash64(0, payload, len);
    h->lz4_hash = dmt_hash64(0, lz4, n);
    put_hdr(out, h);
    dmt_put_raw(out, lz4, n);
    free(lz4);
    return out->bad ? -ENOMEM : 0;
}

int archive_hdr_decode(const void *p, size_t n, struct archive_hdr *h)
{
    struct dmt_cur c = dmt_cur_of(p, n < ARCHIVE_HDR_BYTES ? n : ARCHIVE_HDR_BYTES);
    memset(h, 0, sizeof(*h));
    uint32_t frame = dmt_get_u32(&c), body = dmt_get_u32(&c);
    const uint8_t *magic = dmt_get_raw(&c, 8);
    uint16_t version = dmt_get_u16(&c);
    if (c.bad || frame != SKIPPABLE || memcmp(magic, MAGIC, 8) != 0)
        return DMT_E_CORRUPT;
    if (version != VERSION)
        return DMT_E_VERSION;
    if (n < ARCHIVE_HDR_BYTES || body != BODY)
        return DMT_E_CORRUPT;
    if (dmt_hash64(0, (const uint8_t *)p + 8, HASHED) != dmt_le64((const uint8_t *)p + 8 + HASHED))
        return DMT_E_CORRUPT;
    h->kind = dmt_get_u16(&c);
    h->flags = dmt_get_u32(&c);
    memcpy(h->lineage, dmt_get_raw(&c, 16), 16);
    h->n = dmt_get_u64(&c);
    h->epoch = dmt_get_u64(&c);
    h->first_seq = dmt_get_u64(&c);
    h->last_seq = dmt_get_u64(&c);
    h->first_time = dmt_get_u64(&c);
    h->last_time = dmt_get_u64(&c);
    h->chain_before = dmt_get_u64(&c);
    h->chain_after = dmt_get_u64(&c);
    h->parent = dmt_get_u64(&c);
    h->switch_seq = dmt_get_u64(&c);
    h->switch_chain = dmt_get_u64(&c);
    h->run_n = dmt_get_u64(&c);
    h->base_n = dmt_get_u64(&c);
    h->prev_n = dmt_get_u64(&c);
    h->raw_bytes = dmt_get_u64(&c);
    h->lz4_bytes = dmt_get_u64(&c);
    h->raw_hash = dmt_get_u64(&c);
    h->lz4_hash = dmt_get_u64(&c);
    h->items = dmt_get_u32(&c);
    h->base_parts = dmt_get_u32(&c);
    get_name(&c, h->node);
    get_name(&c, h->prev_node);
    bool sane = h->kind >= ARCHIVE_BASE && h->kind <= ARCHIVE_NODE &&
                h->raw_bytes <= ARCHIVE_RAW_MAX && h->first_seq <= h->last_seq &&
                (h->kind == ARCHIVE_NODE || h->run_n <= h->n);
    return c.bad || !sane ? DMT_E_CORRUPT : 0;
}

/* Decompresses exactly one frame of n bytes into exactly raw bytes at dst. */
static int unpack(const uint8_t *p, size_t n, uint8_t *dst, size_t raw)
{
    LZ4F_dctx *d;
    size_t in = 0, out = 0, more = 1;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&d, LZ4F_VERSION)))
        return -ENOMEM;
    while (more && in < n) {
        size_t dn = raw - out, sn = n - in;
        more = LZ4F_decompress(d, dst + out, &dn, p + in, &sn, NULL);
        if (LZ4F_isError(more) || (!dn && !sn))
            break;
        out += dn;
        in += sn;
    }
    LZ4F_freeDecompressionContext(d);
    return more == 0 && in == n && out == raw ? 0 : DMT_E_CORRUPT;
}

int archive_object_decode(const void *p, size_t n, struct archive_hdr *ret, struct dmt_buf *out)
{
    int r = archive_hdr_decode(p, n, ret);
    if (r)
        return r;
    const uint8_t *lz4 = (const uint8_t *)p + ARCHIVE_HDR_BYTES;
    size_t left = n - ARCHIVE_HDR_BYTES, start = out->len;
    if (left != ret->lz4_bytes || dmt_hash64(0, lz4, left) != ret->lz4_hash)
        return DMT_E_CORRUPT;
    /* One byte to spare: LZ4F wants a destination even for an empty payload. */
    uint8_t *dst = dmt_buf_reserve(out, (size_t)ret->raw_bytes + 1);
    if (!dst)
        return -ENOMEM;
    r = unpack(lz4, left, dst, (size_t)ret->raw_bytes);
    if (!r && dmt_hash64(0, dst, (size_t)ret->raw_bytes) != ret->raw_hash)
        r = DMT_E_CORRUPT;
    out->len = r ? start : start + (size_t)ret->raw_bytes;
    return r;
}

void archive_bulk_put(struct dmt_buf *out, uint64_t ino, uint64_t off, uint64_t seq,
                      const void *bytes, uint32_t len)
{
    dmt_put_u64(out, ino);
    dmt_put_u64(out, off);
    dmt_put_u64(out, seq);
    dmt_put_bytes(out, bytes, len);
}

int archive_bulk_next(struct dmt_cur *c, struct archive_bulk *ret)
{
    if (c->p == c->end && !c->bad)
        return 0;
    ret->ino = dmt_get_u64(c);
    ret->off = dmt_get_u64(c);
    ret->seq = dmt_get_u64(c);
    ret->bytes = dmt_get_bytes(c, &ret->len);
    if (c->bad || !ret->len || ret->off > DMT_FILE_SIZE_MAX)
        return DMT_E_CORRUPT;
    return 1;
}
