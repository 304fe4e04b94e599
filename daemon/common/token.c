/* token.c: join tokens as text. Owns nothing. Failure mode: a line that is no token, or one that
 * was cut when it was copied, is refused whole. Thread: any. */
#include "daemon/common/token.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/base/options.h"

#define VERSION "dumont1"

int token_text(const struct token *t, char ret[TOKEN_MAX], struct dmt_err *err)
{
    char fp[2 * DMT_FINGERPRINT + 1];
    dmt_hex(t->fingerprint, sizeof(t->fingerprint), fp);
    if (strchr(t->address, '/'))
        return dmt_err_set(err, -EINVAL, "'%s' is not an address (HOST:PORT)", t->address);
    int n = snprintf(ret, TOKEN_MAX, VERSION "/%s/%s@%s/%s/%s", t->node, t->controller, t->address,
                     fp, t->secret);
    return n > 0 && n < TOKEN_MAX ? 0 : dmt_err_set(err, -EINVAL, "the address is too long");
}

/* The part of *at before the next `stop`, into ret. */
static bool part(const char **at, char stop, char *ret, size_t size)
{
    const char *end = stop ? strchr(*at, stop) : *at + strlen(*at);
    if (!end || end == *at || (size_t)(end - *at) >= size)
        return false;
    memcpy(ret, *at, (size_t)(end - *at));
    ret[end - *at] = '\0';
    *at = stop ? end + 1 : end;
    return true;
}

int token_parse(const char *text, struct token *ret, struct dmt_err *err)
{
    char version[16], fp[2 * DMT_FINGERPRINT + 1];
    uint8_t secret[TOKEN_SECRET];
    if (!part(&text, '/', version, sizeof(version)) || strcmp(version, VERSION) != 0 ||
        !part(&text, '/', ret->node, sizeof(ret->node)) ||
        dmt_workspace_name_check(ret->node, NULL) < 0 ||
        !part(&text, '@', ret->controller, sizeof(ret->controller)) ||
        !part(&text, '/', ret->address, sizeof(ret->address)) ||
        !part(&text, '/', fp, sizeof(fp)) ||
        dmt_unhex(fp, ret->fingerprint, sizeof(ret->fingerprint)) < 0 ||
        !part(&text, '\0', ret->secret, sizeof(ret->secret)) ||
        dmt_unhex(ret->secret, secret, sizeof(secret)) < 0) {
        dmt_err_set(err, -EINVAL, "this is not a whole join token");
        dmt_err_hint(err, "it is the one line that dumontd token NODE prints on the controller");
        return -EINVAL;
    }
    return 0;
}

void token_hash(const char *secret, char ret[2 * DMT_FINGERPRINT + 1])
{
    uint8_t sum[DMT_FINGERPRINT] = {0};
    (void)EVP_Digest(secret, strlen(secret), sum, NULL, EVP_sha256(), NULL);
    dmt_hex(sum, sizeof(sum), ret);
}
