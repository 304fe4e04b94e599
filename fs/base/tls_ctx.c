/* tls_ctx.c: what connections have in common: certificates, and who is let in.
 *
 * Owns the OpenSSL context. Happy path: load CA, certificate and key once; each new connection
 * looks whether the certificate's file is another one by now (dumontd renews it) and then loads it
 * anew, so that a process uses the new one from its next connection on. Failure modes: files that
 * do not fit together, a key that others can read (pem.c): DMT_E_AUTH, with the reason. A changed
 * file that cannot be used leaves what was loaded before in place. A context made by
 * dmt_tls_ctx_pinned() has no certificate: it trusts the one CA whose fingerprint it was given and
 * that the peer shows, and is let in only where guests are. Thread: any; the lock guards the
 * OpenSSL context, which connections that exist keep.
 */
#include "fs/base/tls.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "fs/base/clock.h"
#include "fs/base/internal.h"
#include "fs/base/io.h"
#include "fs/base/limits.h"

#define CA_LOOK_NS (24 * 3600 * DMT_S)

struct dmt_tls_ctx {
    pthread_mutex_t lock;
    SSL_CTX *ssl;              /* protected by lock */
    struct stat file, ca_file; /* certificate and CA, when they were loaded; protected by lock */
    struct dmt_cert_life life; /* protected by lock */
    char *ca_path, *cert_path, *key; /* NULL: pinned */
    uint8_t pin[DMT_FINGERPRINT];
    bool guests;
    uint64_t ca_look_ns;              /* protected by lock */
    char name[DMT_NODE_NAME_MAX + 1]; /* "": pinned */
};

static int load_files(struct dmt_tls_ctx *c, SSL_CTX *ssl, struct dmt_cert_life *life,
                      struct dmt_err *err)
{
    char why[256];
    X509 *ca = NULL, *own = NULL;
    EVP_PKEY *pkey = NULL;
    int r = base_pem_read_cert(c->ca_path, &ca, err);
    if (r == 0)
        r = base_pem_read_cert(c->cert_path, &own, err);
    if (r == 0)
        r = base_pem_read_key(c->key, &pkey, err);
    if (r < 0)
        goto out;
    r = base_pem_life(own, life);
    if (r < 0) {
        r = dmt_err_set(err, r, "the certificate %s does not name a node", c->cert_path);
        goto out;
    }
    if (X509_check_private_key(own, pkey) != 1) {
        ERR_clear_error();
        r = dmt_err_set(err, DMT_E_AUTH, "%s is not the key of %s", c->key, c->cert_path);
        goto out;
    }
    if (X509_STORE_add_cert(SSL_CTX_get_cert_store(ssl), ca) != 1 ||
        SSL_CTX_use_certificate(ssl, own) != 1 || SSL_CTX_use_PrivateKey(ssl, pkey) != 1 ||
        SSL_CTX_add_client_CA(ssl, ca) != 1)
        r = dmt_err_set(err, DMT_E_AUTH, "cannot use %s: %s", c->cert_path,
                        base_openssl_reason(why));
out:
    X509_free(ca);
    X509_free(own);
    EVP_PKEY_free(pkey);
    return r;
}

/* In place of OpenSSL's own look at the chain: the CA is the one with our fingerprint. */
static int verify_pinned(X509_STORE_CTX *x, void *arg)
{
    const struct dmt_tls_ctx *c = arg;
    STACK_OF(X509) *shown = X509_STORE_CTX_get0_untrusted(x), *trusted = sk_X509_new_null();
    for (int i = 0; trusted && i < sk_X509_num(shown); i++) {
        uint8_t fp[DMT_FINGERPRINT];
        unsigned n = 0;
        X509 *cert = sk_X509_value(shown, i);
        if (X509_digest(cert, EVP_sha256(), fp, &n) == 1 && n == sizeof(fp) &&
            memcmp(fp, c->pin, sizeof(fp)) == 0)
            (void)sk_X509_push(trusted, cert);
    }
    int ok = 0;
    if (sk_X509_num(trusted) > 0) {
        X509_STORE_CTX_set0_trusted_stack(x, trusted);
        ok = X509_verify_cert(x);
    } else {
        X509_STORE_CTX_set_error(x, X509_V_ERR_CERT_UNTRUSTED);
        base_tls_refused(x, "it is of another CA than the fingerprint says");
    }
    sk_X509_free(trusted);
    return ok == 1;
}

/* An OpenSSL context as c says, with the files as they are now. */
static int make(struct dmt_tls_ctx *c, SSL_CTX **ret, struct dmt_cert_life *life,
                struct dmt_err *err)
{
    char why[256];
    ERR_clear_error();
    SSL_CTX *ssl = SSL_CTX_new(TLS_method());
    if (!ssl || SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_num_tickets(ssl, 0) != 1) {
        SSL_CTX_free(ssl);
        return dmt_err_set(err, -EIO, "cannot start TLS: %s", base_openssl_reason(why));
    }
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | (c->guests ? 0 : SSL_VERIFY_FAIL_IF_NO_PEER_CERT),
                       base_tls_verify);
    SSL_CTX_set_verify_depth(ssl, 1);
    SSL_CTX_set_mode(ssl, SSL_MODE_AUTO_RETRY | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_RELEASE_BUFFERS);
    int r = 0;
    if (c->cert_path)
        r = load_files(c, ssl, life, err);
    else
        SSL_CTX_set_cert_verify_callback(ssl, verify_pinned, c);
    if (r < 0)
        SSL_CTX_free(ssl);
    else
        *ret = ssl;
    return r;
}

/* Whether the file is the one that was loaded. A renewal replaces it, so it has another number. */
static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Under the lock. */
static void reload_if_changed(struct dmt_tls_ctx *c)
{
    struct stat now, ca;
    struct dmt_cert_life life;
    SSL_CTX *ssl = NULL;
    if (!c->cert_path || stat(c->cert_path, &now) < 0 || stat(c->ca_path, &ca) < 0 ||
        (same_file(&now, &c->file) && same_file(&ca, &c->ca_file)))
        return;
    if (make(c, &ssl, &life, NULL) < 0)
        return; /* looked at again at the next connection */
    if (strcmp(life.node, c->name) != 0) {
        SSL_CTX_free(ssl); /* another node's: who we are does not change while we run */
        return;
    }
    SSL_CTX_free(c->ssl); /* connections hold a reference of their own */
    c->ssl = ssl;
    c->life = life;
    c->file = now;
    c->ca_file = ca;
}

static struct dmt_tls_ctx *blank(void)
{
    struct dmt_tls_ctx *c = calloc(1, sizeof(*c));
    if (c)
        pthread_mutex_init(&c->lock, NULL);
    return c;
}

int dmt_tls_ctx_new(struct dmt_tls_ctx **ret, const char *ca, const char *cert, const char *key,
                    struct dmt_err *err)
{
    struct dmt_tls_ctx *c = blank();
    if (!c)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    c->ca_path = strdup(ca);
    c->cert_path = strdup(cert);
    c->key = strdup(key);
    int r = 0;
    if (!c->ca_path || !c->cert_path || !c->key)
        r = dmt_err_set(err, -ENOMEM, "out of memory");
    else { /* before they are read: a change in between is seen later */
        if (stat(cert, &c->file) < 0)
            memset(&c->file, 0, sizeof(c->file));
        if (stat(ca, &c->ca_file) < 0)
            memset(&c->ca_file, 0, sizeof(c->ca_file));
    }
    if (r == 0)
        r = make(c, &c->ssl, &c->life, err);
    if (r < 0) {
        dmt_tls_ctx_free(c);
        return r;
    }
    memcpy(c->name, c->life.node, sizeof(c->name));
    *ret = c;
    return 0;
}

int dmt_tls_ctx_pinned(struct dmt_tls_ctx **ret, const uint8_t fingerprint[DMT_FINGERPRINT],
                       struct dmt_err *err)
{
    struct dmt_tls_ctx *c = blank();
    if (!c)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    memcpy(c->pin, fingerprint, DMT_FINGERPRINT);
    int r = make(c, &c->ssl, &c->life, err);
    if (r < 0)
        dmt_tls_ctx_free(c);
    else
        *ret = c;
    return r;
}

void dmt_tls_ctx_admit_guests(struct dmt_tls_ctx *c)
{
    pthread_mutex_lock(&c->lock);
    c->guests = true;
    SSL_CTX_set_verify(c->ssl, SSL_VERIFY_PEER, base_tls_verify);
    pthread_mutex_unlock(&c->lock);
}

bool base_tls_ctx_guests(const struct dmt_tls_ctx *c)
{
    return c->guests;
}

void dmt_tls_ctx_free(struct dmt_tls_ctx *c)
{
    if (!c)
        return;
    SSL_CTX_free(c->ssl);
    free(c->ca_path);
    free(c->cert_path);
    free(c->key);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

const char *dmt_tls_ctx_name(const struct dmt_tls_ctx *c)
{
    return c->name;
}

void dmt_tls_ctx_life(struct dmt_tls_ctx *c, struct dmt_cert_life *ret)
{
    pthread_mutex_lock(&c->lock);
    reload_if_changed(c);
    *ret = c->life;
    pthread_mutex_unlock(&c->lock);
}

bool dmt_tls_ctx_ca_ends(struct dmt_tls_ctx *c, struct dmt_cert_life *ret)
{
    const struct dmt_clock *clk = dmt_clock_real();
    uint64_t now = clk->monotonic_ns(clk->ctx);
    pthread_mutex_lock(&c->lock);
    bool look = now >= c->ca_look_ns;
    if (look)
        c->ca_look_ns = now + CA_LOOK_NS;
    pthread_mutex_unlock(&c->lock);
    return look && dmt_cert_life(c->ca_path, ret, NULL) == 0 && dmt_ca_late(ret);
}

int dmt_tls_ctx_csr(struct dmt_tls_ctx *c, char **ret, struct dmt_err *err)
{
    char *key = NULL;
    int r = dmt_key_pem(c->key, &key, err);
    if (r == 0)
        r = dmt_csr_pem(key, c->name, ret, err);
    free(key);
    return r;
}

static int replace(const char *path, const char *text, struct dmt_err *err)
{
    int r = dmt_io_write_file(dmt_io_real(), path, text, strlen(text), 0600);
    return r < 0 ? dmt_err_set(err, r, "cannot write %s: %s", path, dmt_strerror(r)) : 0;
}

/* The CA first: that of the certificate's file is what makes a context look. */
int dmt_tls_ctx_renew(struct dmt_tls_ctx *c, const char *cert, const char *ca, struct dmt_err *err)
{
    char *key = NULL, *old = NULL;
    size_t n = 0;
    int r = dmt_key_pem(c->key, &key, err);
    if (r == 0 && (r = dmt_io_read_file(dmt_io_real(), c->ca_path, 1 << 16, &old, &n)) < 0)
        dmt_err_set(err, r, "cannot read %s: %s", c->ca_path, dmt_strerror(r));
    if (r == 0)
        r = dmt_cert_fits(cert, old, key, c->name, err);
    if (r == 0 && *ca && strcmp(ca, old) != 0 && dmt_ca_succeeds(ca, old))
        r = replace(c->ca_path, ca, err);
    if (r == 0)
        r = replace(c->cert_path, cert, err);
    free(key);
    free(old);
    return r;
}

struct ssl_st *base_tls_ctx_ssl(struct dmt_tls_ctx *c)
{
    pthread_mutex_lock(&c->lock);
    reload_if_changed(c);
    SSL *ssl = SSL_new(c->ssl);
    pthread_mutex_unlock(&c->lock);
    return ssl;
}
