/* fuzz_s3xml.c: the XML answers of S3. modules: archive
 *
 * Keys are bounded and hold no NUL; the token of the next page is a string; a callback's answer
 * stops the listing and is returned.
 */
#include <stdio.h>
#include <string.h>

#include "fs/archive/s3_xml.h"
#include "fs/base/err.h"
#include "fs/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    size_t keys, stop_at;
};

static int on_key(void *ctx, const char *key, uint64_t size)
{
    struct seen *s = ctx;
    (void)size;
    DMT_ASSERT(strlen(key) < 1u << 16);
    return ++s->keys == s->stop_at ? 7 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char code[64], message[256], token[2048];
    struct seen all = {0}, one = {.stop_at = 1};
    if (s3_xml_error(data, size, code, message)) {
        DMT_ASSERT(code[0] && memchr(code, 0, sizeof(code)));
        DMT_ASSERT(memchr(message, 0, sizeof(message)));
    }
    int r = s3_xml_list(data, size, on_key, &all, token);
    DMT_ASSERT(r == 0 || r == DMT_E_CORRUPT);
    DMT_ASSERT(r < 0 || memchr(token, 0, sizeof(token)));
    r = s3_xml_list(data, size, on_key, &one, token);
    DMT_ASSERT(all.keys > 0 ? r == 7 && one.keys == 1 : r != 7);
    return 0;
}
