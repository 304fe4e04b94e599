/* jline.h: JSON values as lines over a stream socket: one object, one newline. Used on the Unix sockets of the local cloud
 * and of dumontfs (control socket). Any thread; a struct belongs to one caller. */
#ifndef DMT_DAEMON_JLINE_H
#define DMT_DAEMON_JLINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "fs/base/bytes.h"
#include "fs/base/err.h"

#define JLINE_MAX (4u << 20) /* bytes of one line */

/* Connects to a Unix stream socket: fd or -errno. */
int jline_connect(const char *path, struct dmt_err *err);
/* Listens on a Unix socket with the given mode, replacing a dead one; a live one is -EADDRINUSE. fd or -errno. */
int jline_listen(const char *path, unsigned mode, struct dmt_err *err);
/* Sends one value; does not take the reference. 0 or -errno. */
int jline_send(int fd, const json_t *v);
/* Waits for one line and parses it. 0; DMT_E_CLOSED at the end; -ETIMEDOUT; -EBADMSG for bad JSON. `in` keeps what came
 * after it. */
int jline_recv(int fd, struct dmt_buf *in, int timeout_ms, json_t **ret);
/* Takes one line out of `in`: 1 and *ret, 0 when none is complete, -EBADMSG. */
int jline_take(struct dmt_buf *in, json_t **ret);
/* One question, one answer, on a connection of its own. */
int jline_ask(const char *path, const json_t *question, int timeout_ms, json_t **ret, struct dmt_err *err);

/* String member or dflt. */
const char *jline_str(const json_t *o, const char *key, const char *dflt);
/* Integer member or dflt. */
json_int_t jline_int(const json_t *o, const char *key, json_int_t dflt);
bool jline_bool(const json_t *o, const char *key, bool dflt);

#endif
