/* fuzz_hp.c: the datagrams between holder and workspace process. modules: base
 *
 * There is one encoding of every message: what decodes must encode to the very same bytes.
 */
#include <string.h>

#include "fs/base/err.h"
#include "fs/base/holder_proto.h"
#include "fs/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct dmt_hp_msg m;
    static uint8_t again[DMT_HP_MSG_MAX];
    int r = dmt_hp_decode(data, size, &m);
    DMT_ASSERT(r == 0 || r == DMT_E_CORRUPT || r == DMT_E_VERSION);
    DMT_ASSERT(m.fd == -1 && m.init_len <= sizeof(m.init));
    if (r == 0) {
        ssize_t n = dmt_hp_encode(&m, again, sizeof(again));
        DMT_ASSERT(n == (ssize_t)size && memcmp(again, data, size) == 0);
    }
    return 0;
}
