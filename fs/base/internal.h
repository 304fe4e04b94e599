/* internal.h: what the files of fs/base, and their tests, share beyond the public headers. */
#ifndef DMT_BASE_INTERNAL_H
#define DMT_BASE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/base/err.h"

struct evp_pkey_st;
struct x509_st;
struct x509_store_ctx_st;
struct X509_req_st;
struct ssl_st;
struct dmt_tls_ctx;
struct dmt_cert_life;

#define BASE_BACKDATE_S 86400l /* a certificate begins so long before it is made: clocks differ */

/* The CRC without the machine's instruction; tests hold the two against each other. */
uint32_t base_crc32c_portable(uint32_t crc, const void *p, size_t n);

/* A private key from a PEM file that only its owner can read, and a certificate (caller frees both). Defined in pem.c. */
int base_pem_read_key(const char *path, struct evp_pkey_st **ret, struct dmt_err *err);
int base_pem_read_cert(const char *path, struct x509_st **ret, struct dmt_err *err);
/* The common name of a certificate if it is a possible node name, into ret (DMT_NODE_NAME_MAX + 1 bytes). */
int base_pem_node_name(const struct x509_st *cert, char *ret);
/* Name and times of a node's certificate. DMT_E_AUTH: it names none. */
int base_pem_life(const struct x509_st *cert, struct dmt_cert_life *ret);
/* PEM text of the one of the three that is not NULL: certificate, key, signing request. Caller frees. Defined in csr.c. */
int base_pem_text(const struct x509_st *cert, const struct evp_pkey_st *key, const struct X509_req_st *req, char **ret,
                  struct dmt_err *err);
bool base_node_name_ok(const char *s);
/* What OpenSSL says went wrong last in this thread; empties its queue. Static text or buf. */
const char *base_openssl_reason(char buf[256]);

/* Between tls_ctx.c and tls.c. A new SSL object; whether guests are let in; OpenSSL's call for each certificate it has looked
 * at, and our own word on one. */
struct ssl_st *base_tls_ctx_ssl(struct dmt_tls_ctx *c);
bool base_tls_ctx_guests(const struct dmt_tls_ctx *c);
int base_tls_verify(int ok, struct x509_store_ctx_st *x);
void base_tls_refused(struct x509_store_ctx_st *x, const char *why);

#endif
