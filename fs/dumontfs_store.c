/* dumontfs_store.c: the store of this process, and the small files beside its database.
 *
 * Owns STORE until the end (store_lock), STORE/whole and STORE/boot_id. Happy path: take the
 * lock, put a complete resync in its place, make a store where there is none and one may be made,
 * read who it is; later open the workspace in it. Failure modes: a sentence that says what to do;
 * nothing was changed. Thread: main, but for app_store_conf, app_note_whole and app_is_whole (any).
 */
#include "fs/dumontfs_past.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "fs/base/options.h"
#include "fs/base/owner.h"

#define WHOLE_MAX 4096

struct dmt_store_conf app_store_conf(const struct app *a)
{
    return (struct dmt_store_conf){.io = dmt_io_real(),
                                   .clock = dmt_clock_real(),
                                   .dir = a->store_dir,
                                   .lock_fd = a->store_lock};
}

static int make_store(struct app *a, struct dmt_err *err)
{
    struct dmt_store_conf sc;
    struct dmt_store_ident id;
    uint32_t uid = 0, gid = 0;
    const char *owner = dmt_conf_get(a->conf, "owner");
    memset(&id, 0, sizeof id);
    snprintf(id.name, sizeof id.name, "%s", a->name);
    dmt_random(id.store_id, sizeof id.store_id);
    if (!a->standby_role) /* a standby learns the lineage with its first synchronisation */
        dmt_random(id.lineage, sizeof id.lineage);
    int rc = owner ? dmt_owner_parse(owner, &uid, &gid, err) : 0;
    if (rc == 0 && (rc = dmt_io_mkdirs(dmt_io_real(), a->store_dir, 0700)) != 0)
        return dmt_err_set(err, rc, "cannot make %s: %s", a->store_dir, dmt_strerror(rc));
    if (rc == 0 && a->store_lock == 0)
        rc = dmt_store_lock(a->store_dir, &a->store_lock, err);
    sc = app_store_conf(a);
    return rc == 0 ? dmt_store_create(&sc, &id, S_IFDIR | 0755, uid, gid,
                                      sc.clock->realtime_ns(NULL), err)
                   : rc;
}

static char *whole_read(struct app *a, char path[DMT_PATH_MAX + 16], size_t *n)
{
    char *text = NULL;
    snprintf(path, DMT_PATH_MAX + 16, "%s/whole", a->store_dir);
    return dmt_io_read_file(dmt_io_real(), path, WHOLE_MAX, &text, n) == 0 ? text : NULL;
}

void app_note_whole(struct app *a, uint64_t seq)
{
    char path[DMT_PATH_MAX + 16], line[32];
    size_t n = 0;
    char *old = whole_read(a, path, &n), *text = NULL;
    int k = snprintf(line, sizeof line, "%llu\n", (unsigned long long)seq);
    if (n > WHOLE_MAX / 2) /* the oldest: their switch points are long gone */
        n = 0;
    text = malloc(n + (size_t)k);
    if (text) {
        if (n)
            memcpy(text, old, n);
        memcpy(text + n, line, (size_t)k);
    }
    int rc = text ? dmt_io_write_file(dmt_io_real(), path, text, n + (size_t)k, 0600) : -ENOMEM;
    if (rc != 0)
        dmt_warn("%s cannot be written: %s", path, dmt_strerror(rc));
    free(old);
    free(text);
}

bool app_is_whole(struct app *a, uint64_t seq)
{
    char path[DMT_PATH_MAX + 16], *end;
    size_t n;
    char *text = whole_read(a, path, &n);
    bool found = false;
    for (char *p = text; p && p < text + n; p = end + 1) {
        found |= strtoull(p, &end, 10) == seq;
        if (*end != '\n')
            break;
    }
    free(text);
    return found;
}

/* The journal that led to the old state is of no use to the new one, nor is what was noted about
 * it. */
int app_switch_store(struct app *a, struct dmt_err *err)
{
    static const char *const parts[] = {"journal", "whole"};
    char path[DMT_PATH_MAX + 16];
    struct dmt_store_conf sc = app_store_conf(a);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", a->store_dir, parts[i]);
        remove_path(path);
    }
    return dmt_patch_switch(&sc, err);
}

int app_find_store(struct app *a, struct dmt_err *err)
{
    char db[DMT_PATH_MAX + 32];
    struct dmt_store *st;
    struct dmt_store_conf sc;
    int rc = 0;
    snprintf(db, sizeof db, "%s/workspace.db", a->store_dir);
    /* Before the first look: another process of this workspace may be starting, too. */
    if (access(db, F_OK) == 0 || dmt_patch_state(a->store_dir) != DMT_PATCH_NONE)
        rc = dmt_store_lock(a->store_dir, &a->store_lock, err);
    if (rc == 0 && dmt_patch_state(a->store_dir) == DMT_PATCH_COMPLETE)
        rc = app_switch_store(a, err);
    if (rc != 0)
        return rc;
    if (access(db, F_OK) != 0) {
        if (errno != ENOENT && errno != ENOTDIR)
            return dmt_err_set(err, -errno, "cannot read the store %s: %s", a->store_dir,
                               strerror(errno));
        if (!a->standby_role && !dmt_conf_get(a->conf, "create")) {
            dmt_err_set(err, -ENOENT, "there is no workspace \"%s\" (no store in %s)", a->name,
                        a->store_dir);
            return dmt_err_hint(
                err, "Create it with: dumont workspace create %s   or mount with -o create",
                a->name);
        }
        rc = make_store(a, err);
    }
    sc = app_store_conf(a);
    if (rc == 0)
        rc = dmt_store_open(&st, &sc, err);
    if (rc != 0)
        return rc;
    a->ident = *dmt_store_ident(st);
    a->store_epoch = dmt_store_applied(st).epoch;
    dmt_store_close(st);
    return 0;
}

static void ws_failed(void *ctx, const char *why)
{
    struct app *a = ctx;
    events_add(a, "failed", why);
    pthread_mutex_lock(&a->q_lock);
    snprintf(a->failed_why, sizeof a->failed_why, "%s", why);
    pthread_mutex_unlock(&a->q_lock);
}

int app_open_ws(struct app *a, struct dmt_err *err)
{
    struct dmt_ws *ws = NULL;
    const char *q = dmt_conf_get(a->conf, "quota");
    struct dmt_ws_conf wc = {.io = dmt_io_real(),
                             .clock = dmt_clock_real(),
                             .dir = a->store_dir,
                             .lock_fd = a->store_lock,
                             .gate = &a->gate,
                             .pool = a->pool,
                             .level = a->level,
                             .keep_recent = true,
                             .resume = a->resume,
                             .ballast_bytes = DMT_BALLAST_BYTES,
                             .follower = !roles_is_holder(a),
                             .invalidate = mount_invalidate,
                             .failed = ws_failed,
                             .flush_mmap = mount_flush_mmap,
                             .ctx = a};
    if (q)
        dmt_parse_size(q, &wc.quota_bytes);
    int rc = dmt_ws_open(&ws, &wc, err);
    if (rc != 0)
        return rc;
    pthread_rwlock_wrlock(&a->ws_lock);
    a->ident = *dmt_store_ident(dmt_ws_store(ws));
    a->ws = ws;
    pthread_rwlock_unlock(&a->ws_lock);
    return 0;
}

/* STORE/boot_id tells a restart in the same boot (nothing in the page cache was lost) from one
 * after a power cut. It is written when what the boot before left behind has been settled, no
 * earlier: a process that dies in between must not take what the power cut lost for cached. */
static char *boot_now(struct app *a, char path[DMT_PATH_MAX + 16], size_t *n)
{
    char *now = NULL;
    snprintf(path, DMT_PATH_MAX + 16, "%s/boot_id", a->store_dir);
    if (dmt_io_read_file(dmt_io_real(), "/proc/sys/kernel/random/boot_id", 64, &now, n) != 0)
        return NULL;
    return now;
}

void app_read_boot(struct app *a)
{
    char path[DMT_PATH_MAX + 16], *then = NULL;
    size_t n = 0, m = 0;
    char *now = boot_now(a, path, &n);
    if (now && dmt_io_read_file(dmt_io_real(), path, 64, &then, &m) == 0)
        a->same_boot = n == m && memcmp(now, then, n) == 0;
    free(now);
    free(then);
}

void app_settled(struct app *a)
{
    char path[DMT_PATH_MAX + 16];
    size_t n = 0;
    char *now = a->same_boot ? NULL : boot_now(a, path, &n);
    if (now && dmt_io_write_file(dmt_io_real(), path, now, n, 0600) != 0)
        dmt_warn("cannot write %s", path);
    free(now);
}

/* This store follows another from now on: what it will lack never was in this machine's page
 * cache. */
void app_follows(struct app *a)
{
    char path[DMT_PATH_MAX + 16];
    snprintf(path, sizeof(path), "%s/boot_id", a->store_dir);
    if (unlink(path) != 0 && errno != ENOENT)
        dmt_warn("cannot remove %s: %s", path, strerror(errno));
    a->same_boot = false;
}
