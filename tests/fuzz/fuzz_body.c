/* fuzz_body.c: bodies of records, of every type. modules: workspace
 *
 * The first byte is the type, the rest the body. What decodes must encode to the very same bytes;
 * printing it must end within its buffer, on one line, whatever names hold.
 */
#include <string.h>

#include "fs/base/err.h"
#include "fs/base/log.h"
#include "fs/workspace/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_print(const struct dmt_body *b)
{
    char line[96];
    for (size_t size = 1; size <= sizeof(line); size += 19) {
        memset(line, '#', sizeof(line));
        DMT_ASSERT(dmt_body_print(b, line, size) == line);
        DMT_ASSERT(memchr(line, 0, size) && (size == sizeof(line) || line[size] == '#'));
        DMT_ASSERT(!strpbrk(line, "\n\r\033"));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    /* in half of the inputs the type is one that there is */
    uint16_t type = data[0] & 0x80 ? data[0] : (uint16_t)(data[0] % DMT_REC_INCOMPLETE + 1);
    struct dmt_body b;
    int r = dmt_body_decode(type, data + 1, size - 1, &b);
    DMT_ASSERT(r == 0 || r == DMT_E_CORRUPT || r == DMT_E_VERSION);
    DMT_ASSERT((r == DMT_E_VERSION) == (strcmp(dmt_rec_name(type), "?") == 0));
    if (r == 0) {
        struct dmt_buf again;
        dmt_buf_init(&again);
        dmt_body_encode(&b, &again);
        DMT_ASSERT(!again.bad && again.len == size - 1);
        DMT_ASSERT(size == 1 || memcmp(again.p, data + 1, size - 1) == 0);
        dmt_buf_free(&again);
        check_print(&b);
    }
    return 0;
}
