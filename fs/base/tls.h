/* tls.h: mutual TLS 1.3 over OpenSSL, for the replica, the lease's pings and dumontd's agents. Two uses:
 *  - a context + memory BIOs, for libuv (fs/replica): dmt_tls_new() with fd = -1, then feed/drain;
 *  - a blocking stream with deadlines on a socket (fs/lease, daemon): dmt_tls_new() with the fd.
 * A context looks at its certificate's file at each new connection, so a renewed one is used without a restart.
 * The peer's identity is the CN of its certificate (a node name); both sides must be signed by the same CA.
 * A context may be shared between threads; a connection belongs to one thread at a time. */
#ifndef DMT_BASE_TLS_H
#define DMT_BASE_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "fs/base/bytes.h"
#include "fs/base/err.h"
#include "fs/base/limits.h"

struct dmt_tls_ctx;
struct dmt_tls;

/* Paths of PEM files: CA certificate, own certificate, own key (refused if readable by others). */
int dmt_tls_ctx_new(struct dmt_tls_ctx **ret, const char *ca, const char *cert, const char *key, struct dmt_err *err);
void dmt_tls_ctx_free(struct dmt_tls_ctx *c);
const char *dmt_tls_ctx_name(const struct dmt_tls_ctx *c); /* own node name (CN) */
/* A client without certificate, for `dumontd join`: the peer must show a certificate of the CA with this SHA-256. */
#define DMT_FINGERPRINT 32
int dmt_tls_ctx_pinned(struct dmt_tls_ctx **ret, const uint8_t fingerprint[DMT_FINGERPRINT], struct dmt_err *err);
/* Lets in who shows no certificate, with "" as name; one that is shown must be good all the same. Before the first
 * connection. */
void dmt_tls_ctx_admit_guests(struct dmt_tls_ctx *c);

/* Whose a certificate is, and how long it is good. life_s: its whole life as it was asked for. */
struct dmt_cert_life {
    char node[DMT_NODE_NAME_MAX + 1];
    int64_t until_s, life_s; /* until_s: Unix time */
};
/* Of the certificate that the next connection uses. */
void dmt_tls_ctx_life(struct dmt_tls_ctx *c, struct dmt_cert_life *ret);
/* How it is renewed: a signing request with its own key and name, and the certificate that came for it, which takes the place
 * of the file if it fits. ca: the CA's certificate as it is now, "" unknown; it takes the place of ours if it succeeds it. */
int dmt_tls_ctx_csr(struct dmt_tls_ctx *c, char **ret, struct dmt_err *err);
int dmt_tls_ctx_renew(struct dmt_tls_ctx *c, const char *cert, const char *ca, struct dmt_err *err);
/* Of a PEM file. */
int dmt_cert_life(const char *path, struct dmt_cert_life *ret, struct dmt_err *err);
/* Seconds until it ends, by the clock; negative: since it has ended. */
int64_t dmt_cert_left_s(const struct dmt_cert_life *l);
/* A third or less of its life is left. */
bool dmt_cert_due(const struct dmt_cert_life *l);
/* Of a CA: an eighth is left. A controller renews it at a third, and every node has it one life of a node's certificate later. */
bool dmt_ca_late(const struct dmt_cert_life *l);
/* True at most once a day: the CA's certificate is late, and ends then. */
bool dmt_tls_ctx_ca_ends(struct dmt_tls_ctx *c, struct dmt_cert_life *ret);
#define DMT_CERT_TIME 32
const char *dmt_cert_time(int64_t s, char buf[DMT_CERT_TIME]); /* "2026-11-28T05:09:39Z" */

/* fd >= 0: blocking stream, owns nothing (caller closes fd). fd = -1: memory mode. server: accepting side. */
int dmt_tls_new(struct dmt_tls **ret, struct dmt_tls_ctx *c, int fd, bool server, struct dmt_err *err);
void dmt_tls_free(struct dmt_tls *t);
/* Peer's node name once the handshake is done ("": a guest), else NULL. */
const char *dmt_tls_peer(const struct dmt_tls *t);
/* Why a connection that has failed has; valid as long as it is. */
const char *dmt_tls_why(const struct dmt_tls *t);

/* Stream mode; all within timeout_ms (-ETIMEDOUT; negative = no limit). read returns 0 at a clean end, -ECONNRESET at one
 * without goodbye. write sends all. Any error but a timeout of dmt_tls_read, or of dmt_tls_read_full before its first byte,
 * is final: every later call fails too. DMT_E_AUTH: a certificate was refused, theirs or ours; a client may hear of it only
 * at its first read. */
int dmt_tls_handshake(struct dmt_tls *t, int timeout_ms, struct dmt_err *err);
ssize_t dmt_tls_read(struct dmt_tls *t, void *buf, size_t len, int timeout_ms);
int dmt_tls_read_full(struct dmt_tls *t, void *buf, size_t len, int timeout_ms); /* 0, DMT_E_CLOSED, -errno */
int dmt_tls_write(struct dmt_tls *t, const void *buf, size_t len, int timeout_ms);

/* Memory mode. feed: ciphertext from the wire. step: continues the handshake; 1 when done, 0 when more is needed, < 0 error
 * (drain once more then: the alert). recv: decrypted bytes (0 = none now, DMT_E_CLOSED at the end). send: encrypts. drain:
 * ciphertext for the wire is appended to out. */
int dmt_tls_feed(struct dmt_tls *t, const void *p, size_t n);
int dmt_tls_step(struct dmt_tls *t, struct dmt_err *err);
ssize_t dmt_tls_recv(struct dmt_tls *t, void *buf, size_t len);
int dmt_tls_send(struct dmt_tls *t, const void *p, size_t n);
int dmt_tls_drain(struct dmt_tls *t, struct dmt_buf *out);

/* Turns a finished memory-mode connection into a stream on fd (no ciphertext may be pending). Used to hand an accepted ping
 * channel from the replica's listener to the lease thread. */
int dmt_tls_attach(struct dmt_tls *t, int fd);

/* The small CA of dumontd: EC P-256 keys, X.509 v3. Writes PEM files, keys 0600. days: validity. */
int dmt_ca_create(const char *ca_cert, const char *ca_key, const char *name, int days, struct dmt_err *err);
/* A new certificate of the same CA, key and name; and whether one (PEM) is that to another, so that who trusts the other may
 * trust it. */
int dmt_ca_renew(const char *ca_cert, const char *ca_key, int days, struct dmt_err *err);
bool dmt_ca_succeeds(const char *ca, const char *old);
#define DMT_CA_DAYS 3650
int dmt_ca_issue(const char *ca_cert, const char *ca_key, const char *node, int days, const char *cert, const char *key,
                 struct dmt_err *err);

/* A node's key stays on the node: it asks for its certificate by a signing request (PKCS #10). All as PEM text, which the caller
 * frees. dmt_key_pem: the key of a file, or a new one if the file is not there (nothing is written). dmt_ca_sign: the
 * certificate for a request that names this node and no other. dmt_cert_fits: whether a certificate is for that node, key and
 * CA, and good now. */
int dmt_key_pem(const char *path, char **ret, struct dmt_err *err);
int dmt_csr_pem(const char *key, const char *node, char **ret, struct dmt_err *err);
int dmt_ca_sign(const char *ca_cert, const char *ca_key, const char *csr, const char *node, int64_t life_s, char **ret,
                struct dmt_err *err);
int dmt_cert_fits(const char *cert, const char *ca, const char *key, const char *node, struct dmt_err *err);
/* SHA-256 of the certificate (of its DER form, as `openssl x509 -fingerprint -sha256` prints it). */
int dmt_cert_fingerprint(const char *pem, uint8_t ret[DMT_FINGERPRINT], struct dmt_err *err);

#endif
