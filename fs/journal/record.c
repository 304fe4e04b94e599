/* record.c: frames, that is records and PADs, as bytes.
 *
 * Owns nothing; pure functions. Happy path: journal_frame_seal() writes the header in front of a
 * body that already stands in its place, computes the chain over the parts that two machines share,
 * and the crc over everything behind itself. The decoder checks in the order length, crc, fields,
 * so that no byte is believed before its checksum was. In a segment file the crc is stored xor the
 * salt of the segment's serial: a frame left over from an earlier life of a recycled file then
 * never passes. Failure: DMT_E_CORRUPT, nothing else. Thread: any.
 */
#include <string.h>

#include "fs/base/bytes.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"
#include "fs/journal/internal.h"

/* Offsets of the frame header (docs/formats-journal.md, 3). */
enum {
    AT_LEN = 0,
    AT_CRC = 4,
    AT_EPOCH = 8,
    AT_SEQ = 16,
    AT_TIME = 24,
    AT_CHAIN = 32,
    AT_UNIQUE = 40,
    AT_INSTANCE = 48,
    AT_TYPE = 52,
    AT_FLAGS = 54
};
_Static_assert(AT_FLAGS + 2 == DMT_REC_HDR, "the header ends with flags");
_Static_assert(DMT_RECORD_MAX % 8 == 0, "the longest record is a multiple of 8");
_Static_assert(JOURNAL_PAD_MAX <= DMT_RECORD_MAX, "a PAD is a frame");

uint32_t journal_salt(uint64_t serial)
{
    return (uint32_t)serial * 0x9E3779B1u;
}

size_t journal_frame_size(size_t body_len)
{
    return DMT_REC_HDR + ((body_len + 7) & ~(size_t)7);
}

uint64_t dmt_rec_chain(uint64_t prev_chain, const void *record, size_t len)
{
    const uint8_t *p = record;
    DMT_ASSERT(len >= DMT_REC_HDR);
    uint64_t fields = dmt_hash64(prev_chain, p + AT_EPOCH, AT_CHAIN - AT_EPOCH);
    return dmt_hash64(fields, p + AT_UNIQUE, len - AT_UNIQUE);
}

static void put_header(uint8_t *p, const struct dmt_rec *r, size_t len)
{
    size_t pad = len - DMT_REC_HDR - r->body_len;
    dmt_st32(p + AT_LEN, (uint32_t)len);
    dmt_st64(p + AT_EPOCH, r->epoch);
    dmt_st64(p + AT_SEQ, r->seq);
    dmt_st64(p + AT_TIME, r->time_ns);
    dmt_st64(p + AT_CHAIN, r->chain);
    dmt_st64(p + AT_UNIQUE, r->unique);
    dmt_st32(p + AT_INSTANCE, r->instance);
    dmt_st16(p + AT_TYPE, r->type);
    dmt_st16(p + AT_FLAGS, (uint16_t)pad);
    memset(p + DMT_REC_HDR + r->body_len, 0, pad);
}

static void put_crc(uint8_t *p, size_t len, uint32_t salt)
{
    dmt_st32(p + AT_CRC, dmt_crc32c(0, p + AT_EPOCH, len - AT_EPOCH) ^ salt);
}

uint64_t journal_frame_seal(uint8_t *p, const struct dmt_rec *r, uint64_t prev_chain, uint32_t salt)
{
    size_t len = journal_frame_size(r->body_len);
    DMT_ASSERT(r->type != DMT_REC_PAD && r->seq != 0 && len <= DMT_RECORD_MAX);
    put_header(p, r, len);
    uint64_t chain = dmt_rec_chain(prev_chain, p, len);
    dmt_st64(p + AT_CHAIN, chain);
    put_crc(p, len, salt);
    return chain;
}

void journal_frame_resalt(uint8_t *p, uint32_t from, uint32_t to)
{
    dmt_st32(p + AT_CRC, dmt_le32(p + AT_CRC) ^ from ^ to);
}

void journal_frame_reseal(uint8_t *p, size_t len, uint32_t salt)
{
    put_crc(p, len, salt);
}

size_t journal_frame_len(const uint8_t *p, size_t n)
{
    if (n < 4)
        return 0;
    size_t len = dmt_le32(p + AT_LEN);
    return len >= DMT_REC_HDR && len <= DMT_RECORD_MAX && len % 8 == 0 ? len : 0;
}

int journal_frame_decode(const void *buf, size_t n, uint32_t salt, struct dmt_rec *ret,
                         size_t *used)
{
    const uint8_t *p = buf;
    size_t len = journal_frame_len(p, n);
    if (len == 0 || len > n)
        return DMT_E_CORRUPT;
    if ((dmt_crc32c(0, p + AT_EPOCH, len - AT_EPOCH) ^ salt) != dmt_le32(p + AT_CRC))
        return DMT_E_CORRUPT;
    uint16_t flags = dmt_le16(p + AT_FLAGS);
    size_t pad = flags & 7u;
    if ((flags & ~7u) != 0 || pad > len - DMT_REC_HDR)
        return DMT_E_CORRUPT;
    for (size_t i = len - pad; i < len; i++)
        if (p[i] != 0)
            return DMT_E_CORRUPT;
    struct dmt_rec r = {
        .epoch = dmt_le64(p + AT_EPOCH),
        .seq = dmt_le64(p + AT_SEQ),
        .time_ns = dmt_le64(p + AT_TIME),
        .chain = dmt_le64(p + AT_CHAIN),
        .unique = dmt_le64(p + AT_UNIQUE),
        .instance = dmt_le32(p + AT_INSTANCE),
        .type = dmt_le16(p + AT_TYPE),
        .flags = 0,
        .body_len = (uint32_t)(len - DMT_REC_HDR - pad),
        .body = p + DMT_REC_HDR,
    };
    if ((r.type == DMT_REC_PAD) != (r.seq == 0))
        return DMT_E_CORRUPT;
    *ret = r;
    *used = len;
    return 0;
}

int dmt_rec_decode(const void *p, size_t n, struct dmt_rec *ret, size_t *used)
{
    return journal_frame_decode(p, n, 0, ret, used);
}

size_t journal_pad_size(uint64_t off)
{
    size_t gap = JOURNAL_BLOCK - (size_t)(off % JOURNAL_BLOCK);
    return gap < JOURNAL_PAD_MIN ? gap + JOURNAL_BLOCK : gap;
}

void journal_pad_put(uint8_t *p, size_t len, const struct journal_pad *pad,
                     const struct dmt_pos *at)
{
    DMT_ASSERT(len >= JOURNAL_PAD_MIN && len <= JOURNAL_PAD_MAX && len % 8 == 0);
    DMT_ASSERT(pad->durable_seq <= pad->last_seq);
    struct dmt_rec r = {
        .epoch = at->epoch, .chain = at->chain, .body_len = (uint32_t)(len - DMT_REC_HDR)};
    memset(p, 0, len);
    put_header(p, &r, len);
    dmt_st64(p + DMT_REC_HDR, pad->serial);
    dmt_st64(p + DMT_REC_HDR + 8, pad->durable_seq);
    dmt_st64(p + DMT_REC_HDR + 16, pad->last_seq);
    put_crc(p, len, journal_salt(pad->serial));
}

bool journal_pad_get(const struct dmt_rec *r, struct journal_pad *ret)
{
    if (r->type != DMT_REC_PAD || r->body_len < JOURNAL_PAD_BODY)
        return false;
    ret->serial = dmt_le64(r->body);
    ret->durable_seq = dmt_le64(r->body + 8);
    ret->last_seq = dmt_le64(r->body + 16);
    return ret->durable_seq <= ret->last_seq;
}
