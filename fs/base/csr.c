/* csr.c: a node's side of getting a certificate: key, signing request, and a look at what comes.
 *
 * Owns nothing; everything is text, so that nothing is on disk before it is known to be good. Happy
 * path: the node's own key or a new one, a request signed with it that names the node, sent to the
 * CA (ca.c signs it), and the certificate that comes back is held against key, CA and name before
 * it is used. Failure modes: DMT_E_AUTH with the reason. Thread: any.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "fs/base/internal.h"
#include "fs/base/tls.h"

#define PEM_MAX 65536

int base_pem_text(const X509 *cert, const EVP_PKEY *key, const X509_REQ *req, char **ret,
                  struct dmt_err *err)
{
    char why[256], *p = NULL;
    BIO *b = BIO_new(key ? BIO_s_secmem() : BIO_s_mem());
    ERR_clear_error();
    bool ok = b && (cert  ? PEM_write_bio_X509(b, cert)
                    : req ? PEM_write_bio_X509_REQ(b, req)
                          : PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL));
    long n = ok ? BIO_get_mem_data(b, &p) : 0;
    char *text = n > 0 && n < PEM_MAX ? strndup(p, (size_t)n) : NULL;
    BIO_free(b);
    if (!text)
        return dmt_err_set(err, -EIO, "cannot write PEM: %s", base_openssl_reason(why));
    *ret = text;
    return 0;
}

static EVP_PKEY *key_of(const char *pem)
{
    BIO *b = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = b ? PEM_read_bio_PrivateKey(b, NULL, NULL, NULL) : NULL;
    BIO_free(b);
    return key;
}

static X509 *cert_of(const char *pem)
{
    BIO *b = BIO_new_mem_buf(pem, -1);
    X509 *cert = b ? PEM_read_bio_X509(b, NULL, NULL, NULL) : NULL;
    BIO_free(b);
    ERR_clear_error();
    return cert;
}

int dmt_key_pem(const char *path, char **ret, struct dmt_err *err)
{
    EVP_PKEY *key = NULL;
    int r = 0;
    if (access(path, F_OK) == 0)
        r = base_pem_read_key(path, &key, err);
    else if (!(key = EVP_EC_gen("P-256")))
        r = dmt_err_set(err, -EIO, "cannot make a key");
    if (r == 0)
        r = base_pem_text(NULL, key, NULL, ret, err);
    EVP_PKEY_free(key);
    return r;
}

int dmt_csr_pem(const char *key, const char *node, char **ret, struct dmt_err *err)
{
    char why[256];
    EVP_PKEY *k = key_of(key);
    X509_REQ *req = X509_REQ_new();
    ERR_clear_error();
    int r = 0;
    if (!k || !req || !X509_REQ_set_version(req, X509_REQ_VERSION_1) ||
        !X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(req), "CN", MBSTRING_UTF8,
                                    (const unsigned char *)node, -1, -1, 0) ||
        !X509_REQ_set_pubkey(req, k) || !X509_REQ_sign(req, k, EVP_sha256()))
        r = dmt_err_set(err, -EIO, "cannot make a signing request: %s", base_openssl_reason(why));
    else
        r = base_pem_text(NULL, NULL, req, ret, err);
    X509_REQ_free(req);
    EVP_PKEY_free(k);
    return r;
}

int dmt_cert_fits(const char *cert, const char *ca, const char *key, const char *node,
                  struct dmt_err *err)
{
    struct dmt_cert_life life = {0};
    X509 *c = cert_of(cert), *a = cert_of(ca);
    EVP_PKEY *k = key_of(key);
    const char *why = NULL;
    if (!c || !a || !k)
        why = "it is damaged";
    else if (X509_check_private_key(c, k) != 1)
        why = "it is for another key";
    else if (X509_verify(c, X509_get0_pubkey(a)) != 1)
        why = "it is not of our CA";
    else if (base_pem_life(c, &life) < 0 || strcmp(life.node, node) != 0)
        why = "it names another node";
    else if (dmt_cert_left_s(&life) <= 0)
        why = "it has expired already (is the clock right?)";
    ERR_clear_error();
    X509_free(c);
    X509_free(a);
    EVP_PKEY_free(k);
    return why ? dmt_err_set(err, DMT_E_AUTH, "the certificate that came is of no use: %s", why)
               : 0;
}

bool dmt_ca_succeeds(const char *ca, const char *old)
{
    X509 *n = cert_of(ca), *o = cert_of(old);
    bool yes = n && o && X509_check_ca(n) == 1 &&
               EVP_PKEY_eq(X509_get0_pubkey(n), X509_get0_pubkey(o)) == 1 &&
               X509_NAME_cmp(X509_get_subject_name(n), X509_get_subject_name(o)) == 0 &&
               X509_verify(n, X509_get0_pubkey(o)) == 1 &&
               ASN1_TIME_compare(X509_get0_notAfter(n), X509_get0_notAfter(o)) >= 0;
    ERR_clear_error();
    X509_free(n);
    X509_free(o);
    return yes;
}

int dmt_cert_fingerprint(const char *pem, uint8_t ret[DMT_FINGERPRINT], struct dmt_err *err)
{
    unsigned n = 0;
    X509 *c = cert_of(pem);
    int ok = c ? X509_digest(c, EVP_sha256(), ret, &n) : 0;
    X509_free(c);
    return ok == 1 && n == DMT_FINGERPRINT ? 0
                                           : dmt_err_set(err, DMT_E_AUTH, "no certificate there");
}
