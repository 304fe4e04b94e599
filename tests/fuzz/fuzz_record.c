/* fuzz_record.c: feeds bytes to everything in the journal that decodes: records, PADs, segment
 * headers, the walk over a segment's frames and the search for claims. modules: journal base
 *
 * The first byte says how the rest is used. In half of the runs checksums (and chains) are put
 * right first, since otherwise hardly anything passes the first check. What decodes must hold to
 * the rules of docs/formats-journal.md.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/base/bytes.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"
#include "fs/journal/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SERIAL 3u

static void check_record(const struct dmt_rec *r, const uint8_t *p, size_t used)
{
    DMT_ASSERT(used >= DMT_REC_HDR && used <= DMT_RECORD_MAX && used % 8 == 0);
    DMT_ASSERT(r->body == p + DMT_REC_HDR && journal_frame_size(r->body_len) <= used);
    DMT_ASSERT((r->type == DMT_REC_PAD) == (r->seq == 0) && r->flags == 0);
    uint8_t sum = 0;
    for (uint32_t i = 0; i < r->body_len; i++)
        sum = (uint8_t)(sum + r->body[i]); /* readable to its end */
    (void)sum;
}

/* Makes the frames of img pass: sequence numbers, chains, checksums. */
static void put_right(uint8_t *img, size_t n, uint64_t off, struct dmt_pos pos)
{
    while (off + DMT_REC_HDR <= n) {
        uint8_t *p = img + off;
        size_t len = (dmt_le32(p) % 512 + DMT_REC_HDR) & ~(size_t)7;
        if (len > n - off)
            return;
        dmt_st32(p, (uint32_t)len);
        dmt_st16(p + 54, 0);
        if (dmt_le16(p + 52) % 4 == 0 && len >= JOURNAL_PAD_MIN) {
            struct journal_pad pad = {SERIAL, p[60] % (pos.seq + 1), pos.seq};
            journal_pad_put(p, len, &pad, &pos);
        } else {
            dmt_st16(p + 52, (uint16_t)(dmt_le16(p + 52) | 1));
            pos = (struct dmt_pos){pos.epoch + (p[8] & 1), pos.seq + 1, pos.chain};
            dmt_st64(p + 8, pos.epoch);
            dmt_st64(p + 16, pos.seq);
            pos.chain = dmt_rec_chain(pos.chain, p, len);
            dmt_st64(p + 32, pos.chain);
            journal_frame_reseal(p, len, journal_salt(SERIAL));
        }
        off += len;
    }
}

struct seen {
    uint64_t seq, epoch;
};

static int on_record(void *ctx, const struct dmt_rec *r, uint64_t off)
{
    struct seen *s = ctx;
    DMT_ASSERT(r->seq == s->seq + 1 && r->epoch >= s->epoch && off % 8 == 0);
    *s = (struct seen){r->seq, r->epoch};
    return 0;
}

static void walk(uint8_t *img, size_t n, bool right, uint64_t limit)
{
    struct dmt_pos start = {1, 10, 99};
    if (right)
        put_right(img, n, 0, start);
    struct journal_walk w = {.pos = start};
    struct seen seen = {start.seq, start.epoch};
    DMT_ASSERT(journal_image_walk(img, n, SERIAL, limit, &w, on_record, &seen) == 0);
    DMT_ASSERT(w.off <= n && w.pos.seq == seen.seq && w.pos.seq == start.seq + w.records);
    DMT_ASSERT(limit < start.seq || w.pos.seq <= limit);
    DMT_ASSERT(w.claim <= w.pos.seq);
    DMT_ASSERT(journal_image_claim(img, n, SERIAL, 0) >= w.claim);
}

static void header(uint8_t *img, size_t n, bool right)
{
    struct journal_seg_hdr h;
    uint8_t block[JOURNAL_SEG_HDR] = {0}, again[JOURNAL_SEG_HDR];
    memcpy(block, img, n < sizeof(block) ? n : sizeof(block));
    if (right) {
        memcpy(block, "DMTJSEG1", 8);
        dmt_st64(block + 32, SERIAL);
        dmt_st32(block + 4092, dmt_crc32c(0, block, 4092));
    }
    if (journal_hdr_get(block, sizeof(block), SERIAL, &h) != 0)
        return;
    DMT_ASSERT(h.durable_seq <= h.prev.seq && h.bytes <= JOURNAL_SEGMENT_MAX);
    journal_hdr_put(again, &h);
    DMT_ASSERT(journal_hdr_get(again, sizeof(again), SERIAL, &h) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t n = size - 2;
    uint8_t *img = malloc(n + 1);
    DMT_ASSERT(img);
    memcpy(img, data + 2, n);
    bool right = data[0] & 1;
    switch (data[0] >> 1 & 3) {
    case 0: {
        struct dmt_rec r;
        size_t used;
        if (right && n >= DMT_REC_HDR && journal_frame_len(img, n) > 0 &&
            journal_frame_len(img, n) <= n)
            journal_frame_reseal(img, journal_frame_len(img, n), 0);
        if (dmt_rec_decode(img, n, &r, &used) == 0)
            check_record(&r, img, used);
        break;
    }
    case 1:
        header(img, n, right);
        break;
    default:
        walk(img, n, right, data[0] & 8 ? UINT64_MAX : data[1]);
        break;
    }
    free(img);
    return 0;
}
