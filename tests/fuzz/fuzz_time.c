/* fuzz_time.c: times as people write them. modules: base
 *
 * A time that is accepted and written out again is the same time to the millisecond; relative forms
 * never lie in the future.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/clock.h"
#include "fs/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW_NS (1795428000 * DMT_S + 123456789)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t ns = 42, again = 0;
    char text[32], *s = malloc(size + 1);
    DMT_ASSERT(s);
    if (size > 0)
        memcpy(s, data, size);
    s[size] = '\0';
    int r = dmt_time_parse(s, NOW_NS, &ns);
    if (r == 0) {
        dmt_time_format(ns, text);
        DMT_ASSERT(dmt_time_parse(text, NOW_NS, &again) == 0);
        DMT_ASSERT(again == ns / DMT_MS * DMT_MS);
        DMT_ASSERT(!strstr(s, "ago") || ns <= NOW_NS);
        /* a year that is written is the year that is meant, give or take a zone */
        if (strlen(s) > 10 && s[4] == '-')
            DMT_ASSERT(labs(strtol(s, NULL, 10) - strtol(text, NULL, 10)) <= 1);
    } else {
        DMT_ASSERT(r == -EINVAL && ns == 42);
    }
    free(s);
    return 0;
}
