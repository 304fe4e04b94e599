/* tls.h: mutual TLS 1.3 over OpenSSL, for the replica, the lease's pings and dumontd's agents. Two uses:
 *  - a context + memory BIOs, for libuv (fs/replica): dmt_tls_new() with fd = -1, then feed/drain;
 *  - a blocking stream with deadlines on a socket (fs/lease, daemon): dmt_tls_new() with the fd.
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

struct dmt_tls_ctx;
struct dmt_tls;

/* Paths of PEM files: CA certificate, own certificate, own key (refused if readable by others). */
int dmt_tls_ctx_new(struct dmt_tls_ctx **ret, const char *ca, const char *cert, const char *key, struct dmt_err *err);
void dmt_tls_ctx_free(struct dmt_tls_ctx *c);
const char *dmt_tls_ctx_name(const struct dmt_tls_ctx *c); /* own node name (CN) */

/* fd >= 0: blocking stream, owns nothing (caller closes fd). fd = -1: memory mode. server: accepting side. */
int dmt_tls_new(struct dmt_tls **ret, struct dmt_tls_ctx *c, int fd, bool server, struct dmt_err *err);
void dmt_tls_free(struct dmt_tls *t);
/* Peer's node name once the handshake is done, else NULL. */
const char *dmt_tls_peer(const struct dmt_tls *t);

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
int dmt_ca_issue(const char *ca_cert, const char *ca_key, const char *node, int days, const char *cert, const char *key,
                 struct dmt_err *err);

#endif
