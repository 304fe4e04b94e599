/* dumontfs_bucket.c: arbiter=bucket: the lease's marks as objects of the archive's store.
 *
 * Owns nothing: each call opens a handle of its own, so that no answer comes over an old connection
 * or out of a cache, and gives it up after a short patience, because the lease asks again. Keys lie
 * below arb/LINEAGE/ (docs/formats-lease.md); a body is its key and a newline. Happy path: the
 * object is put and confirmed, or is there with that body, or is not there. Failure modes: all
 * others are "unknown", also an object with another body, and a directory whose arb/LINEAGE is not
 * there (a disk that is not mounted must not look like "no mark"). Thread: lease-arb.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/archive/objstore.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"
#include "fs/dumontfs.h"

#define PATIENCE_MS 1500
#define BODY_MAX    256

/* Where the marks of this workspace are; false: it has no lineage yet. */
static bool marks(struct app *a, char prefix[48])
{
    static const uint8_t none[16];
    char hex[33];
    pthread_rwlock_rdlock(&a->ws_lock);
    bool known = memcmp(a->ident.lineage, none, 16) != 0;
    dmt_hex(a->ident.lineage, 16, hex);
    pthread_rwlock_unlock(&a->ws_lock);
    (void)snprintf(prefix, 48, "arb/%s/", hex);
    return known;
}

static int open_store(struct app *a, const char *key, struct dmt_objstore **ret,
                      char full[BODY_MAX], char body[BODY_MAX])
{
    struct dmt_err err = {0};
    char prefix[48];
    struct dmt_objstore_conf conf = {.retry_ms = PATIENCE_MS,
                                     .connect_timeout_ms = PATIENCE_MS,
                                     .stall_timeout_s = 2,
                                     .stop = &a->stopping};
    if (!marks(a, prefix))
        return -EAGAIN;
    (void)snprintf(full, BODY_MAX, "%s%s", prefix, key);
    (void)snprintf(body, BODY_MAX, "%s\n", key);
    int rc = dmt_objstore_open(ret, a->archive_url, &conf, &err);
    if (rc != 0)
        dmt_warn("arbiter: %s", err.msg);
    return rc;
}

static int put(void *ctx, const char *key)
{
    struct dmt_objstore *os = NULL;
    struct dmt_err err = {0};
    char full[BODY_MAX], body[BODY_MAX];
    int rc = open_store(ctx, key, &os, full, body);
    if (rc != 0)
        return rc;
    rc = dmt_objstore_put(os, full, body, strlen(body), &err);
    if (rc != 0)
        dmt_debug("arbiter: %s: %s", full, err.msg);
    dmt_objstore_close(os);
    return rc;
}

/* file:///DIR: is DIR/arb/LINEAGE there? Then an object that is not there is really not. */
static bool place_is_there(struct app *a)
{
    char prefix[48], path[DMT_PATH_MAX + 64];
    if (strncmp(a->archive_url, "file://", 7) != 0)
        return true;
    (void)marks(a, prefix);
    (void)snprintf(path, sizeof(path), "%s/%s", a->archive_url + 7, prefix);
    return access(path, F_OK) == 0;
}

static int get(void *ctx, const char *key)
{
    struct app *a = ctx;
    struct dmt_objstore *os = NULL;
    struct dmt_err err = {0};
    struct dmt_buf got;
    char full[BODY_MAX], body[BODY_MAX];
    int rc = open_store(a, key, &os, full, body);
    if (rc != 0)
        return rc == -ENOENT ? -EIO : rc;
    dmt_buf_init(&got);
    rc = dmt_objstore_get(os, full, 0, BODY_MAX, &got, &err);
    if (rc == 0 && (got.bad || got.len != strlen(body) || memcmp(got.p, body, got.len) != 0))
        rc = -EIO;
    if (rc == -ENOENT && strncmp(key, "test/", 5) != 0 && !place_is_there(a))
        rc = -EIO;
    if (rc != 0 && rc != -ENOENT)
        dmt_debug("arbiter: %s: %s", full, err.msg);
    dmt_buf_free(&got);
    dmt_objstore_close(os);
    return rc;
}

static int versions(void *ctx, const char *key)
{
    struct dmt_objstore *os = NULL;
    struct dmt_err err = {0};
    char full[BODY_MAX], body[BODY_MAX];
    int rc = open_store(ctx, key, &os, full, body);
    if (rc != 0)
        return rc;
    rc = dmt_objstore_versions(os, full, &err);
    dmt_objstore_close(os);
    return rc;
}

const struct dmt_lease_bucket bucket_ops = {.put = put, .get = get, .versions = versions};
