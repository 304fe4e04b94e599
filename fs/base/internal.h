/* internal.h: what the files of fs/base, and their tests, share beyond the public headers. */
#ifndef DMT_BASE_INTERNAL_H
#define DMT_BASE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/base/err.h"

struct evp_pkey_st;
struct x509_st;

/* The CRC without the machine's instruction; tests hold the two against each other. */
uint32_t base_crc32c_portable(uint32_t crc, const void *p, size_t n);

/* A private key from a PEM file that only its owner can read, and a certificate (caller frees both). Defined in pem.c. */
int base_pem_read_key(const char *path, struct evp_pkey_st **ret, struct dmt_err *err);
int base_pem_read_cert(const char *path, struct x509_st **ret, struct dmt_err *err);
/* The common name of a certificate if it is a possible node name, into ret (DMT_NODE_NAME_MAX + 1 bytes). */
int base_pem_node_name(const struct x509_st *cert, char *ret);
bool base_node_name_ok(const char *s);
/* What OpenSSL says went wrong last in this thread; empties its queue. Static text or buf. */
const char *base_openssl_reason(char buf[256]);

#endif
