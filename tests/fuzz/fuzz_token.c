/* fuzz_token.c: join tokens. modules: daemon
 *
 * A line that is accepted has a node's name that is one, fits into its fields, and is written out
 * as it was; one that is refused says why.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "daemon/common/token.h"
#include "fs/base/log.h"
#include "fs/base/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct token t, again;
    struct dmt_err err = {0};
    char text[TOKEN_MAX], *s = malloc(size + 1);
    DMT_ASSERT(s);
    if (size > 0)
        memcpy(s, data, size);
    s[size] = '\0';
    int r = token_parse(s, &t, &err);
    if (r == 0) {
        DMT_ASSERT(dmt_workspace_name_check(t.node, NULL) == 0);
        DMT_ASSERT(strlen(t.secret) == 2 * TOKEN_SECRET && t.controller[0] && t.address[0]);
        DMT_ASSERT(token_text(&t, text, &err) == 0);
        DMT_ASSERT(strcasecmp(text, s) == 0); /* hex digits may be capitals */
        DMT_ASSERT(token_parse(text, &again, &err) == 0);
        DMT_ASSERT(strcmp(t.address, again.address) == 0 && strcmp(t.secret, again.secret) == 0);
    } else {
        DMT_ASSERT(r == -EINVAL && err.msg[0] && err.hint[0]);
    }
    free(s);
    return 0;
}
