/* remote.h: an object store behind a thread of its own, so that whoever uses it can leave at once. A network call may hang until
 * its timeouts; after remote_stop() the caller gets -ECANCELED within about a second, and the hanging call is left behind with
 * everything it needs (its handle, its bytes): it ends by itself and touches nothing of the caller's.
 * Threads: put/get/close from one thread; stop from any. */
#ifndef DMT_ARCHIVE_REMOTE_H
#define DMT_ARCHIVE_REMOTE_H

#include "fs/archive/objstore.h"
#include "fs/archive/series.h"

struct remote;

/* conf->stop is the remote's own. 0, DMT_E_CONFIG, DMT_E_AUTH: what opening the handle says. */
int remote_open(struct remote **ret, const char *url, const struct dmt_objstore_conf *conf, struct dmt_err *err);
void remote_close(struct remote *r);
void remote_stop(struct remote *r);
/* *body is only read, and left to the remote if the call has to be left behind (then *body is empty). */
int remote_put(struct remote *r, const char *key, struct dmt_buf *body, struct dmt_err *err);
int remote_get(struct remote *r, const char *key, uint64_t off, uint64_t len, struct dmt_buf *out, struct dmt_err *err);
struct series_src remote_src(struct remote *r);

#endif
