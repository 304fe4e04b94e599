/* tlsline.h: JSON lines over mutual TLS 1.3, for the agents' port 7402. One thread owns a connection and runs it; any thread
 * may send. */
#ifndef DMT_DAEMON_TLSLINE_H
#define DMT_DAEMON_TLSLINE_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdint.h>
#include "fs/base/err.h"
#include "fs/base/tls.h"

struct tlsline;
/* Takes the connected socket fd (closed on failure too) and does the handshake. */
int tlsline_open(struct tlsline **ret, struct dmt_tls_ctx *ctx, int fd, bool server, int timeout_ms, struct dmt_err *err);
void tlsline_free(struct tlsline *t);
/* Lines of more than `bytes` (and what one read brings) end the connection; else JLINE_MAX is the limit. */
void tlsline_limit(struct tlsline *t, size_t bytes);
/* Words for what tlsline_run has returned. */
const char *tlsline_why(const struct tlsline *t, int r);
const char *tlsline_peer(const struct tlsline *t); /* node name */
/* Queues v (steals the reference) and wakes the owner. Any thread. A queue over its limit ends the connection. */
void tlsline_send(struct tlsline *t, json_t *v);
/* Wakes the owner out of tlsline_run. Any thread. */
void tlsline_wake(struct tlsline *t);
/* One round: sends what is queued, waits up to timeout_ms for more to do, calls fn for each line received. 0, or why the
 * connection is over
 * (< 0; a negative result of fn too). */
int tlsline_run(struct tlsline *t, int timeout_ms, int (*fn)(void *ctx, const json_t *v), void *ctx);
/* Connects to "HOST:PORT" (or HOST: dflt_port): fd or -errno. */
int tlsline_connect(const char *addr, uint16_t dflt_port, int timeout_ms, struct dmt_err *err);
/* Listens on "ADDR:PORT": fd or -errno. */
int tlsline_listen(const char *addr, struct dmt_err *err);

#endif
