/* objstore_int.h: what the drivers of fs/archive share: the vtable, the parsed URL, credentials, waiting between attempts. */
#ifndef DMT_ARCHIVE_OBJSTORE_INT_H
#define DMT_ARCHIVE_OBJSTORE_INT_H

#include "fs/archive/objstore.h"

/* All methods but versions are required; contracts as the public functions of the same name (objstore.h). */
struct objstore_ops {
    const char *scheme;
    int (*put)(struct dmt_objstore *os, const char *key, const void *p, size_t len, struct dmt_err *err);
    int (*get)(struct dmt_objstore *os, const char *key, uint64_t off, uint64_t len, struct dmt_buf *out, struct dmt_err *err);
    int (*head)(struct dmt_objstore *os, const char *key, uint64_t *ret_size, struct dmt_err *err);
    int (*list)(struct dmt_objstore *os, const char *prefix, dmt_obj_key_fn fn, void *ctx, struct dmt_err *err);
    int (*del)(struct dmt_objstore *os, const char *key, struct dmt_err *err);
    int (*versions)(struct dmt_objstore *os, const char *key, struct dmt_err *err);
    void (*close)(struct dmt_objstore *os);
};

/* Drivers embed it as their first member. */
struct dmt_objstore {
    const struct objstore_ops *ops;
    struct dmt_objstore_conf conf; /* defaults filled in */
    char credentials[DMT_OBJ_KEY_MAX];
};

struct objstore_url {
    char scheme[16];
    char path[DMT_OBJ_KEY_MAX]; /* file: the absolute directory */
    char bucket[128];
    char prefix[DMT_OBJ_KEY_MAX]; /* "" or "a/b/" */
    char endpoint[256];           /* HOST or HOST:PORT */
    char region[64];
    char ca[DMT_OBJ_KEY_MAX];
    bool tls;
};
int objstore_url_parse(const char *url, struct objstore_url *ret, struct dmt_err *err);

struct objstore_keys {
    char access[256], secret[256], token[2048]; /* token: AWS_SESSION_TOKEN or "" */
};
/* The environment first, then the credentials file's section of this bucket, then its head. */
int objstore_keys_load(const char *path, const char *bucket, struct objstore_keys *ret, struct dmt_err *err);

/* One call's attempts: started by objstore_tries_begin; objstore_tries_again waits (exponential with jitter, at least
 * retry_after_s) and returns true while another attempt is due. */
struct objstore_tries {
    const struct dmt_objstore *os;
    uint64_t deadline_ns, step_ns;
};
void objstore_tries_begin(struct objstore_tries *t, const struct dmt_objstore *os);
bool objstore_tries_again(struct objstore_tries *t, long retry_after_s);

/* The network drivers' single attempts. 0, DMT_E_RETRY (with *retry_after_s, 0 = not said), -ENOENT or a final error. head's
 * -ENOENT is weak: the answer to HEAD has no body that could tell a missing key from a missing bucket. */
struct objstore_once {
    int (*head)(struct dmt_objstore *os, const char *key, uint64_t *ret_size, char etag[128], long *retry_after_s,
                struct dmt_err *err);
    int (*put)(struct dmt_objstore *os, const char *key, const void *p, size_t len, const uint8_t md5[16], long *retry_after_s,
               struct dmt_err *err);
};
/* put() of a network driver: HEAD, PUT when absent, HEAD again until size and digest are confirmed. */
int objstore_put_verified(struct dmt_objstore *os, const struct objstore_once *once, const char *key, const void *p, size_t len,
                          struct dmt_err *err);

int objstore_file_open(struct dmt_objstore **ret, const struct objstore_url *u, struct dmt_err *err);
int objstore_s3_open(struct dmt_objstore **ret, const struct objstore_url *u, const char *credentials, struct dmt_err *err);
int objstore_libs3_open(struct dmt_objstore **ret, const struct objstore_url *u, const char *credentials, struct dmt_err *err);

#endif
