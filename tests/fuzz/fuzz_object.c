/* fuzz_object.c: objects of the archive: header, payload, the items of a bulk object.
 * modules: archive
 *
 * The first byte says how the rest is used. Hashes are mended in half of the inputs, since hardly
 * anything would pass them otherwise. A payload that comes out is of the length and hash its header
 * says, and packing it again gives an object that decodes to the same.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/archive/object.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend(uint8_t *p, size_t n)
{
    if (n < ARCHIVE_HDR_BYTES)
        return;
    dmt_st64(p + 160, n - ARCHIVE_HDR_BYTES);
    dmt_st64(p + 176, dmt_hash64(0, p + ARCHIVE_HDR_BYTES, n - ARCHIVE_HDR_BYTES));
    dmt_st64(p + ARCHIVE_HDR_BYTES - 8, dmt_hash64(0, p + 8, ARCHIVE_HDR_BYTES - 16));
}

static void check_object(const uint8_t *p, size_t n)
{
    struct archive_hdr h, g;
    struct dmt_buf out, again, second;
    dmt_buf_init(&out);
    dmt_buf_init(&again);
    dmt_buf_init(&second);
    int r = archive_hdr_decode(p, n, &h);
    DMT_ASSERT(r == 0 || r == DMT_E_CORRUPT || r == DMT_E_VERSION);
    DMT_ASSERT(r < 0 || strlen(h.node) <= DMT_NODE_NAME_MAX);
    r = archive_object_decode(p, n, &h, &out);
    DMT_ASSERT(r <= 0 && (r == 0 || out.len == 0));
    if (r == 0) {
        DMT_ASSERT(out.len == h.raw_bytes);
        DMT_ASSERT(h.raw_hash == dmt_hash64(0, out.p ? out.p : p, out.len));
        DMT_ASSERT(archive_object_encode(&h, out.p ? out.p : p, out.len, &again) == 0);
        DMT_ASSERT(archive_object_decode(again.p, again.len, &g, &second) == 0);
        DMT_ASSERT(second.len == out.len);
        DMT_ASSERT(out.len == 0 || memcmp(second.p, out.p, out.len) == 0);
    }
    dmt_buf_free(&second);
    dmt_buf_free(&again);
    dmt_buf_free(&out);
}

static void check_bulk(const uint8_t *p, size_t n)
{
    struct dmt_cur c = dmt_cur_of(p, n);
    struct archive_bulk item;
    size_t used = 0;
    int r;
    while ((r = archive_bulk_next(&c, &item)) == 1) {
        DMT_ASSERT(item.bytes >= p && item.bytes + item.len <= p + n);
        used += ARCHIVE_BULK_HDR + item.len;
    }
    DMT_ASSERT(r == DMT_E_CORRUPT || (r == 0 && used == n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t n = size - 1;
    uint8_t *p = malloc(n);
    DMT_ASSERT(p);
    memcpy(p, data + 1, n);
    if (data[0] % 3 == 0) {
        check_bulk(p, n);
    } else {
        if (data[0] % 3 == 1)
            mend(p, n);
        check_object(p, n);
    }
    free(p);
    return 0;
}
