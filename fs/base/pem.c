/* pem.c: reading keys and certificates, for tls.c and ca.c.
 *
 * Owns nothing. A private key is looked at through the descriptor it is then read from, so that
 * what was checked is what is used: a key that its group or others can read is as good as
 * published, and is refused with the command that mends it. An encrypted key is refused too,
 * because nobody is there to type the password. Thread: any.
 */
#include "fs/base/internal.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "fs/base/clock.h"
#include "fs/base/limits.h"
#include "fs/base/tls.h"

const char *base_openssl_reason(char buf[256])
{
    unsigned long e = ERR_peek_last_error();
    const char *reason = e ? ERR_reason_error_string(e) : NULL;
    if (reason)
        (void)snprintf(buf, 256, "%s", reason);
    else if (e)
        ERR_error_string_n(e, buf, 256);
    else
        (void)snprintf(buf, 256, "unknown reason");
    ERR_clear_error();
    return buf;
}

bool base_node_name_ok(const char *s)
{
    size_t n = strlen(s);
    if (n == 0 || n > DMT_NODE_NAME_MAX || !isalnum((unsigned char)*s))
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("._-", *s))
            return false;
    return true;
}

int base_pem_node_name(const X509 *cert, char *ret)
{
    const X509_NAME *subject = X509_get_subject_name(cert);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0)
        return DMT_E_AUTH; /* none, or two to choose from */
    unsigned char *text = NULL;
    int n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    int r = DMT_E_AUTH;
    if (n > 0 && n <= (int)DMT_NODE_NAME_MAX && strlen((char *)text) == (size_t)n &&
        base_node_name_ok((char *)text)) {
        memcpy(ret, text, (size_t)n + 1);
        r = 0;
    }
    OPENSSL_free(text);
    return r;
}

static int64_t unix_time(const ASN1_TIME *t)
{
    struct tm tm;
    return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

int base_pem_life(const X509 *cert, struct dmt_cert_life *ret)
{
    int r = base_pem_node_name(cert, ret->node);
    ret->until_s = unix_time(X509_get0_notAfter(cert));
    ret->life_s = ret->until_s - unix_time(X509_get0_notBefore(cert)) - BASE_BACKDATE_S;
    return r;
}

int dmt_cert_life(const char *path, struct dmt_cert_life *ret, struct dmt_err *err)
{
    X509 *cert = NULL;
    int r = base_pem_read_cert(path, &cert, err);
    if (r == 0 && (r = base_pem_life(cert, ret)) < 0)
        dmt_err_set(err, r, "the certificate %s does not name a node", path);
    X509_free(cert);
    return r;
}

int64_t dmt_cert_left_s(const struct dmt_cert_life *l)
{
    const struct dmt_clock *c = dmt_clock_real();
    return l->until_s - (int64_t)(c->realtime_ns(c->ctx) / DMT_S);
}

bool dmt_cert_due(const struct dmt_cert_life *l)
{
    return dmt_cert_left_s(l) * 3 <= l->life_s;
}

bool dmt_ca_late(const struct dmt_cert_life *l)
{
    return dmt_cert_left_s(l) * 8 <= l->life_s;
}

const char *dmt_cert_time(int64_t s, char buf[DMT_CERT_TIME])
{
    time_t t = (time_t)s;
    struct tm tm;
    gmtime_r(&t, &tm);
    (void)strftime(buf, DMT_CERT_TIME, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return buf;
}

static int check_key_file(int fd, const char *path, struct dmt_err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return dmt_err_set(err, -errno, "cannot look at %s: %s", path, dmt_strerror(errno));
    if (st.st_mode & 077) {
        dmt_err_set(err, DMT_E_AUTH, "the private key %s can be read by others (mode %04o)", path,
                    (unsigned)st.st_mode & 07777);
        dmt_err_hint(err, "if nobody has copied it: chmod 600 %s", path);
        return DMT_E_AUTH;
    }
    if (st.st_uid != 0 && st.st_uid != geteuid()) {
        dmt_err_set(err, DMT_E_AUTH, "the private key %s belongs to another user (uid %u)", path,
                    (unsigned)st.st_uid);
        dmt_err_hint(err, "it must belong to root or to the user of this program");
        return DMT_E_AUTH;
    }
    return 0;
}

/* Answers OpenSSL's question for a password with "none", instead of asking on the terminal. */
static int no_password(char *buf, int size, int rwflag, void *arg)
{
    (void)rwflag;
    *(bool *)arg = true;
    if (size > 0)
        buf[0] = '\0';
    return -1;
}

int base_pem_read_key(const char *path, EVP_PKEY **ret, struct dmt_err *err)
{
    char why[256];
    bool asked = false;
    FILE *f = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return dmt_err_set(err, -errno, "cannot read the private key %s: %s", path,
                           dmt_strerror(errno));
    int r = check_key_file(fd, path, err);
    if (r < 0)
        goto out;
    f = fdopen(fd, "r");
    if (!f) {
        r = dmt_err_set(err, -errno, "cannot read the private key %s: %s", path,
                        dmt_strerror(errno));
        goto out;
    }
    fd = -1;
    ERR_clear_error();
    EVP_PKEY *key = PEM_read_PrivateKey(f, NULL, no_password, &asked);
    if (key) {
        *ret = key;
        goto out;
    }
    base_openssl_reason(why);
    r = dmt_err_set(err, DMT_E_AUTH, "no usable private key in %s: %s", path,
                    asked ? "it is encrypted with a password" : why);
out:
    if (f)
        (void)fclose(f);
    if (fd >= 0)
        close(fd);
    return r;
}

int base_pem_read_cert(const char *path, X509 **ret, struct dmt_err *err)
{
    char why[256];
    FILE *f = fopen(path, "re");
    if (!f)
        return dmt_err_set(err, -errno, "cannot read the certificate %s: %s", path,
                           dmt_strerror(errno));
    ERR_clear_error();
    X509 *cert = PEM_read_X509(f, NULL, NULL, NULL);
    (void)fclose(f);
    if (!cert)
        return dmt_err_set(err, DMT_E_AUTH, "no certificate in %s: %s", path,
                           base_openssl_reason(why));
    *ret = cert;
    return 0;
}
