/* ca.c: the small certificate authority of dumontd.
 *
 * Owns nothing between calls; the CA is two PEM files. Happy path: create once on the controller,
 * then issue one certificate a node; renewed, the CA keeps its key and gets a later end. EC P-256
 * keys, SHA-256, random 127-bit serials. The CA may sign leaves only (pathlen 0); a leaf serves
 * both ends of a connection and names its node as CN and DNS name. Validity begins a day ago, so
 * that a node whose clock is behind is not shut out.
 * Failure modes: an existing CA is never overwritten (every node would be cut off); a key is
 * written, and durable, before its certificate, so a certificate never stands without its key.
 * Thread: any.
 */
#include "fs/base/tls.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "fs/base/clock.h"
#include "fs/base/internal.h"
#include "fs/base/io.h"

#define DAYS_MAX 36500
#define DAY_S    86400

static int openssl_fail(struct dmt_err *err, const char *what)
{
    char why[256];
    return dmt_err_set(err, -EIO, "cannot %s: %s", what, base_openssl_reason(why));
}

/* nid with OpenSSL's text form of the value, e.g. "critical,CA:FALSE". */
static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = x && X509_add_ext(cert, x, -1);
    X509_EXTENSION_free(x);
    return ok;
}

/* Serial, validity, subject and public key: what CA and leaf have in common. */
static bool fill_cert(X509 *cert, EVP_PKEY *key, const char *name, int64_t life_s)
{
    uint8_t serial[16];
    dmt_random(serial, sizeof(serial));
    serial[0] = (uint8_t)((serial[0] & 0x7f) | 0x40); /* positive, and always 16 bytes long */
    BIGNUM *bn = BN_bin2bn(serial, sizeof(serial), NULL);
    X509_NAME *subject = X509_get_subject_name(cert);
    bool ok = bn && BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(cert)) &&
              X509_set_version(cert, X509_VERSION_3) &&
              X509_gmtime_adj(X509_getm_notBefore(cert), -BASE_BACKDATE_S) &&
              X509_time_adj_ex(X509_getm_notAfter(cert), (int)(life_s / DAY_S),
                               (long)(life_s % DAY_S), NULL) &&
              X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name,
                                         -1, -1, 0) &&
              X509_set_pubkey(cert, key);
    BN_free(bn);
    return ok;
}

/* The memory of a BIO to a file, durably. */
static int write_bio(BIO *bio, const char *path, mode_t mode, struct dmt_err *err)
{
    char *p;
    long n = BIO_get_mem_data(bio, &p);
    int r = n > 0 ? dmt_io_write_file(dmt_io_real(), path, p, (size_t)n, mode) : -EIO;
    if (r < 0)
        return dmt_err_set(err, r, "cannot write %s: %s", path, dmt_strerror(r));
    return 0;
}

static int write_pair(X509 *cert, EVP_PKEY *pkey, const char *cert_path, const char *key_path,
                      struct dmt_err *err)
{
    int r;
    BIO *c = BIO_new(BIO_s_mem()), *k = BIO_new(BIO_s_secmem());
    if (!c || !k || !PEM_write_bio_X509(c, cert) ||
        !PEM_write_bio_PrivateKey(k, pkey, NULL, NULL, 0, NULL, NULL)) {
        r = openssl_fail(err, "encode a certificate");
        goto out;
    }
    r = write_bio(k, key_path, 0600, err);
    if (r == 0)
        r = write_bio(c, cert_path, 0644, err);
out:
    BIO_free(c);
    BIO_free(k);
    return r;
}

static int check_absent(const char *path, struct dmt_err *err)
{
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return 0;
    dmt_err_set(err, -EEXIST, "%s is already there", path);
    dmt_err_hint(err, "a new CA would cut off every node that has a certificate of the old one; "
                      "move the old files away first");
    return -EEXIST;
}

static bool sign_ca(X509 *cert, EVP_PKEY *key)
{
    return X509_set_issuer_name(cert, X509_get_subject_name(cert)) &&
           add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
           add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") &&
           add_extension(cert, cert, NID_subject_key_identifier, "hash") &&
           X509_sign(cert, key, EVP_sha256());
}

int dmt_ca_create(const char *ca_cert, const char *ca_key, const char *name, int days,
                  struct dmt_err *err)
{
    if (!*name || strlen(name) > 64 || days < 1 || days > DAYS_MAX)
        return dmt_err_set(err, -EINVAL, "a CA needs a name of 1 to 64 bytes and 1 to %d days",
                           DAYS_MAX);
    int r = check_absent(ca_cert, err);
    if (r == 0)
        r = check_absent(ca_key, err);
    if (r < 0)
        return r;
    ERR_clear_error();
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    if (!key || !cert || !fill_cert(cert, key, name, (int64_t)days * DAY_S) || !sign_ca(cert, key))
        r = openssl_fail(err, "make the CA certificate");
    else
        r = write_pair(cert, key, ca_cert, ca_key, err);
    X509_free(cert);
    EVP_PKEY_free(key);
    return r;
}

static int sign_leaf(X509 *ca, EVP_PKEY *ca_key, const char *node, int64_t life_s, X509 *cert,
                     EVP_PKEY *key, struct dmt_err *err)
{
    char san[128];
    (void)snprintf(san, sizeof(san), "DNS:%s", node);
    if (!fill_cert(cert, key, node, life_s) ||
        !X509_set_issuer_name(cert, X509_get_subject_name(ca)) ||
        !add_extension(cert, ca, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(cert, ca, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(cert, ca, NID_ext_key_usage, "serverAuth,clientAuth") ||
        !add_extension(cert, ca, NID_subject_alt_name, san) ||
        !add_extension(cert, ca, NID_subject_key_identifier, "hash") ||
        !add_extension(cert, ca, NID_authority_key_identifier, "keyid:always") ||
        !X509_sign(cert, ca_key, EVP_sha256()))
        return openssl_fail(err, "make a node certificate");
    return 0;
}

/* Certificate and key of the CA, which must be one. Caller frees both, also after a failure. */
static int read_ca(const char *ca_cert, const char *ca_key, X509 **ca, EVP_PKEY **key,
                   struct dmt_err *err)
{
    int r = base_pem_read_cert(ca_cert, ca, err);
    if (r == 0)
        r = base_pem_read_key(ca_key, key, err);
    if (r < 0)
        return r;
    if (X509_check_private_key(*ca, *key) != 1) {
        ERR_clear_error();
        return dmt_err_set(err, DMT_E_AUTH, "%s is not the key of %s", ca_key, ca_cert);
    }
    if (X509_check_ca(*ca) != 1)
        return dmt_err_set(err, DMT_E_AUTH, "%s is not the certificate of a CA", ca_cert);
    return 0;
}

/* The key and the name stay: what the old one has signed is as good under the new one, and what
 * the new one signs under the old, as long as that lasts. */
int dmt_ca_renew(const char *ca_cert, const char *ca_key, int days, struct dmt_err *err)
{
    X509 *old = NULL, *cert = X509_new();
    EVP_PKEY *key = NULL;
    char *pem = NULL;
    ERR_clear_error();
    int r = read_ca(ca_cert, ca_key, &old, &key, err);
    if (r == 0 && (!cert || !fill_cert(cert, key, "CA", (int64_t)days * DAY_S) ||
                   !X509_set_subject_name(cert, X509_get_subject_name(old)) || !sign_ca(cert, key)))
        r = openssl_fail(err, "make the CA certificate");
    if (r == 0)
        r = base_pem_text(cert, NULL, NULL, &pem, err);
    if (r == 0 && (r = dmt_io_write_file(dmt_io_real(), ca_cert, pem, strlen(pem), 0644)) < 0)
        dmt_err_set(err, r, "cannot write %s: %s", ca_cert, dmt_strerror(r));
    free(pem);
    X509_free(old);
    X509_free(cert);
    EVP_PKEY_free(key);
    return r;
}

static int check_node(const char *node, struct dmt_err *err)
{
    return base_node_name_ok(node)
               ? 0
               : dmt_err_set(err, -EINVAL,
                             "'%s' is not a node name (letters, digits, '.', '_', '-')", node);
}

int dmt_ca_issue(const char *ca_cert, const char *ca_key, const char *node, int days,
                 const char *cert, const char *key, struct dmt_err *err)
{
    X509 *ca = NULL, *leaf = NULL;
    EVP_PKEY *ca_pkey = NULL, *pkey = NULL;
    int r = check_node(node, err);
    if (r == 0 && (days < 1 || days > DAYS_MAX))
        r = dmt_err_set(err, -EINVAL, "a certificate is valid for 1 to %d days, not %d", DAYS_MAX,
                        days);
    if (r == 0)
        r = read_ca(ca_cert, ca_key, &ca, &ca_pkey, err);
    if (r < 0)
        goto out;
    leaf = X509_new();
    pkey = EVP_EC_gen("P-256");
    if (!leaf || !pkey) {
        r = openssl_fail(err, "make a key");
        goto out;
    }
    r = sign_leaf(ca, ca_pkey, node, (int64_t)days * DAY_S, leaf, pkey, err);
    if (r == 0)
        r = write_pair(leaf, pkey, cert, key, err);
out:
    X509_free(leaf);
    EVP_PKEY_free(pkey);
    X509_free(ca);
    EVP_PKEY_free(ca_pkey);
    return r;
}

/* The key of a request, if it is signed with it, names this node only and is strong enough. */
static int check_request(const char *pem, const char *node, EVP_PKEY **ret, struct dmt_err *err)
{
    char name[DMT_NODE_NAME_MAX + 1] = "";
    BIO *b = BIO_new_mem_buf(pem, -1);
    X509_REQ *req = b ? PEM_read_bio_X509_REQ(b, NULL, NULL, NULL) : NULL;
    EVP_PKEY *key = req ? X509_REQ_get0_pubkey(req) : NULL;
    int r = 0;
    if (!key || X509_REQ_verify(req, key) != 1)
        r = dmt_err_set(err, DMT_E_AUTH, "the signing request is damaged");
    else if (EVP_PKEY_get_security_bits(key) < 128)
        r = dmt_err_set(err, DMT_E_AUTH, "the key of the signing request is too weak");
    else if (X509_NAME_entry_count(X509_REQ_get_subject_name(req)) != 1 ||
             X509_NAME_get_text_by_NID(X509_REQ_get_subject_name(req), NID_commonName, name,
                                       sizeof(name)) < 1 ||
             strcmp(name, node) != 0)
        r = dmt_err_set(err, DMT_E_AUTH, "the signing request is for '%s', not for %s", name, node);
    if (r == 0) {
        EVP_PKEY_up_ref(key);
        *ret = key;
    }
    ERR_clear_error();
    X509_REQ_free(req);
    BIO_free(b);
    return r;
}

int dmt_ca_sign(const char *ca_cert, const char *ca_key, const char *csr, const char *node,
                int64_t life_s, char **ret, struct dmt_err *err)
{
    X509 *ca = NULL, *leaf = NULL;
    EVP_PKEY *ca_pkey = NULL, *pkey = NULL;
    int r = check_node(node, err);
    if (r == 0 && (life_s < 1 || life_s > (int64_t)DAYS_MAX * DAY_S))
        r = dmt_err_set(err, -EINVAL, "a certificate is valid for 1 s to %d days", DAYS_MAX);
    if (r == 0)
        r = check_request(csr, node, &pkey, err);
    if (r == 0)
        r = read_ca(ca_cert, ca_key, &ca, &ca_pkey, err);
    if (r == 0)
        r = (leaf = X509_new()) ? sign_leaf(ca, ca_pkey, node, life_s, leaf, pkey, err) : -ENOMEM;
    if (r == 0)
        r = base_pem_text(leaf, NULL, NULL, ret, err);
    X509_free(leaf);
    EVP_PKEY_free(pkey);
    X509_free(ca);
    EVP_PKEY_free(ca_pkey);
    return r;
}
