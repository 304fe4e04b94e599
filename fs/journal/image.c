/* image.c: a segment as a piece of memory: its header, and what its frames say.
 *
 * Owns nothing; pure functions, which the fuzzer feeds with anything. Happy path:
 * journal_image_walk() follows the chain from a position and stops where nothing continues; that
 * this may be a torn end or damage is decided by the caller, with journal_image_claim(), which
 * looks for PADs behind that place that state more to be durable. Failure modes: a header that is
 * not valid is DMT_E_CORRUPT, of another version DMT_E_VERSION. Thread: any.
 */
#include <string.h>

#include "fs/base/bytes.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"
#include "fs/journal/internal.h"

static const char magic[8] = {'D', 'M', 'T', 'J', 'S', 'E', 'G', '1'};

enum {
    HDR_VERSION = 8,
    HDR_FLAGS = 12,
    HDR_LINEAGE = 16,
    HDR_SERIAL = 32,
    HDR_FIRST_SEQ = 40,
    HDR_PREV_EPOCH = 48,
    HDR_PREV_CHAIN = 56,
    HDR_DURABLE_SEQ = 64,
    HDR_CREATED = 72,
    HDR_BYTES = 80,
    HDR_CRC = JOURNAL_SEG_HDR - 4
};

void journal_hdr_put(uint8_t p[JOURNAL_SEG_HDR], const struct journal_seg_hdr *h)
{
    DMT_ASSERT(h->durable_seq <= h->prev.seq && h->prev.seq < UINT64_MAX);
    memset(p, 0, JOURNAL_SEG_HDR);
    memcpy(p, magic, sizeof(magic));
    dmt_st32(p + HDR_VERSION, JOURNAL_SEG_VERSION);
    dmt_st32(p + HDR_FLAGS, h->flags);
    memcpy(p + HDR_LINEAGE, h->lineage, sizeof(h->lineage));
    dmt_st64(p + HDR_SERIAL, h->serial);
    dmt_st64(p + HDR_FIRST_SEQ, h->prev.seq + 1);
    dmt_st64(p + HDR_PREV_EPOCH, h->prev.epoch);
    dmt_st64(p + HDR_PREV_CHAIN, h->prev.chain);
    dmt_st64(p + HDR_DURABLE_SEQ, h->durable_seq);
    dmt_st64(p + HDR_CREATED, h->created_ns);
    dmt_st64(p + HDR_BYTES, h->bytes);
    dmt_st32(p + HDR_CRC, dmt_crc32c(0, p, HDR_CRC));
}

int journal_hdr_get(const uint8_t *p, size_t n, uint64_t serial, struct journal_seg_hdr *ret)
{
    if (n < JOURNAL_SEG_HDR || memcmp(p, magic, sizeof(magic)) != 0)
        return DMT_E_CORRUPT;
    if (dmt_crc32c(0, p, HDR_CRC) != dmt_le32(p + HDR_CRC) || dmt_le64(p + HDR_SERIAL) != serial)
        return DMT_E_CORRUPT;
    if (dmt_le32(p + HDR_VERSION) != JOURNAL_SEG_VERSION)
        return DMT_E_VERSION;
    struct journal_seg_hdr h = {
        .flags = dmt_le32(p + HDR_FLAGS),
        .serial = serial,
        .durable_seq = dmt_le64(p + HDR_DURABLE_SEQ),
        .created_ns = dmt_le64(p + HDR_CREATED),
        .bytes = dmt_le64(p + HDR_BYTES),
    };
    uint64_t first_seq = dmt_le64(p + HDR_FIRST_SEQ);
    if ((h.flags & ~JOURNAL_SEG_RESET) != 0 || first_seq == 0 || h.durable_seq >= first_seq ||
        h.bytes % JOURNAL_BLOCK != 0 || h.bytes < JOURNAL_SEGMENT_MIN ||
        h.bytes > JOURNAL_SEGMENT_MAX)
        return DMT_E_CORRUPT;
    h.prev.seq = first_seq - 1;
    h.prev.epoch = dmt_le64(p + HDR_PREV_EPOCH);
    h.prev.chain = dmt_le64(p + HDR_PREV_CHAIN);
    memcpy(h.lineage, p + HDR_LINEAGE, sizeof(h.lineage));
    *ret = h;
    return 0;
}

/* A record that continues pos, or a PAD at it (docs/formats-journal.md, 3). */
static bool continues(const struct dmt_rec *r, const uint8_t *frame, size_t len, uint64_t serial,
                      const struct dmt_pos *pos, struct journal_pad *pad)
{
    if (r->type == DMT_REC_PAD)
        return journal_pad_get(r, pad) && pad->serial == serial && pad->last_seq == pos->seq &&
               r->epoch == pos->epoch && r->chain == pos->chain;
    return r->seq == pos->seq + 1 && r->epoch >= pos->epoch &&
           r->chain == dmt_rec_chain(pos->chain, frame, len);
}

int journal_image_walk(const uint8_t *img, size_t n, uint64_t serial, uint64_t limit_seq,
                       struct journal_walk *w, journal_image_fn fn, void *ctx)
{
    uint32_t salt = journal_salt(serial);
    while (w->off < n) {
        struct dmt_rec r;
        struct journal_pad pad;
        size_t len;
        if (journal_frame_decode(img + w->off, n - w->off, salt, &r, &len) < 0 ||
            !continues(&r, img + w->off, len, serial, &w->pos, &pad))
            break;
        if (r.type == DMT_REC_PAD) {
            if (pad.durable_seq > w->claim)
                w->claim = pad.durable_seq;
        } else {
            if (r.seq > limit_seq)
                break;
            int stop = fn ? fn(ctx, &r, w->off) : 0;
            if (stop != 0)
                return stop;
            w->pos = (struct dmt_pos){r.epoch, r.seq, r.chain};
            w->records++;
        }
        w->off += len;
    }
    return 0;
}

uint64_t journal_image_claim(const uint8_t *img, size_t n, uint64_t serial, uint64_t off)
{
    uint32_t salt = journal_salt(serial);
    uint64_t claim = 0;
    off = (off + 7) & ~(uint64_t)7;
    for (; off + JOURNAL_PAD_MIN <= n; off += 8) {
        /* Type 0 and the serial in its place first: a checksum for each multiple of 8 would take
         * minutes. */
        const uint8_t *p = img + off;
        struct dmt_rec r;
        struct journal_pad pad;
        size_t len;
        if (dmt_le64(p + DMT_REC_HDR) != serial || journal_frame_len(p, n - off) > JOURNAL_PAD_MAX)
            continue;
        if (journal_frame_decode(p, n - off, salt, &r, &len) == 0 && journal_pad_get(&r, &pad) &&
            pad.serial == serial && pad.durable_seq > claim)
            claim = pad.durable_seq;
    }
    return claim;
}
