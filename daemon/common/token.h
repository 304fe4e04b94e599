/* token.h: the line by which a machine joins: dumont1/NODE/CONTROLLER@HOST:PORT/FINGERPRINT/SECRET. What is in it:
 * docs/formats-lease.md, "A machine that joins". Any thread. */
#ifndef DMT_DAEMON_TOKEN_H
#define DMT_DAEMON_TOKEN_H

#include <stddef.h>
#include <stdint.h>
#include "fs/base/err.h"
#include "fs/base/limits.h"
#include "fs/base/tls.h"

#define TOKEN_SECRET 16 /* bytes */
#define TOKEN_MAX    700

struct token {
    char node[DMT_NODE_NAME_MAX + 1];       /* who may join with it */
    char controller[DMT_NODE_NAME_MAX + 1]; /* whom its certificate must name */
    char address[300];                      /* "HOST:PORT" */
    uint8_t fingerprint[DMT_FINGERPRINT];   /* of the CA */
    char secret[2 * TOKEN_SECRET + 1];
};

int token_text(const struct token *t, char ret[TOKEN_MAX], struct dmt_err *err);
int token_parse(const char *text, struct token *ret, struct dmt_err *err);
/* What the controller keeps in place of a secret. */
void token_hash(const char *secret, char ret[2 * DMT_FINGERPRINT + 1]);

#endif
