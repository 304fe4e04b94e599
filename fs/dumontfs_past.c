/* dumontfs_past.c: `rollback --to TIME` and `heal`: see dumontfs_past.h.
 *
 * Happy path of --to: archive -> scratch store in STORE/scratch -> open it beside the live one ->
 * automatic snapshot -> mirror -> tell the kernel. Failure before the snapshot changes nothing;
 * after it, the snapshot brings everything back. Thread: the control connection's.
 */
#include "fs/dumontfs_past.h"

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/base/hash.h"
#include "fs/base/log.h"

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st;
    (void)flag;
    (void)f;
    return remove(path) == 0 ? 0 : -1;
}

void remove_path(const char *path)
{
    if (nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0 && errno != ENOENT)
        dmt_warn("cannot remove %s: %s", path, strerror(errno));
}

/* --- rollback --to ---------------------------------------------------------------------------- */
struct around {
    uint64_t t;
    struct dmt_snapshot before, after;
};

static int nearest(void *ctx, const struct dmt_snapshot *s)
{
    struct around *x = ctx;
    if (s->time_ns <= x->t)
        x->before = *s;
    else if (!x->after.name[0])
        x->after = *s;
    return 0;
}

static int no_archive(struct app *a, struct dmt_ws *ws, uint64_t t, struct dmt_err *err)
{
    struct around x = {.t = t};
    dmt_ws_snap_each(ws, nearest, &x);
    dmt_err_set(err, DMT_E_CONFIG, "%s has no archive: only snapshots can be rolled back to",
                a->name);
    return dmt_err_hint(err, "Nearest before: %s. Nearest after: %s.",
                        x.before.name[0] ? x.before.name : "none",
                        x.after.name[0] ? x.after.name : "none");
}

static int open_scratch(const char *dir, struct dmt_ws **ret, struct dmt_pool **pool,
                        struct dmt_err *err)
{
    int rc = dmt_pool_new(pool, "scratch", 1, 64);
    struct dmt_ws_conf wc = {.io = dmt_io_real(),
                             .clock = dmt_clock_real(),
                             .dir = dir,
                             .gate = dmt_gate_open(),
                             .pool = *pool};
    return rc == 0 ? dmt_ws_open(ret, &wc, err) : rc;
}

static int mirror_all(struct app *a, struct dmt_ws *ws, struct dmt_ws *past,
                      struct dmt_rollback *rb, struct dmt_err *err)
{
    struct mirror m = {.dst = ws, .src = past, .fn = rb->fn, .ctx = rb->ctx, .dry = rb->dry_run};
    int rc = 0;
    if (!rb->paths)
        rc = mirror_path(&m, "/");
    for (const char *const *p = rb->paths; rc == 0 && p && *p; p++)
        rc = mirror_path(&m, *p);
    rb->changed = m.changed;
    if (!rb->dry_run)
        mount_invalidate(a, m.inos, m.inos_n, true);
    mirror_free(&m);
    if (rc != 0) {
        dmt_err_set(err, rc, "the rollback stopped: %s", dmt_strerror(rc));
        dmt_err_hint(err, "Undo what was done with: dumont rollback %s %s", a->name, rb->saved_as);
    }
    return rc;
}

int rollback_to_time(struct app *a, struct dmt_ws *ws, const char *to, struct dmt_rollback *rb,
                     struct dmt_err *err)
{
    const struct dmt_clock *clk = dmt_clock_real();
    uint64_t now = clk->realtime_ns(clk->ctx), t;
    char dir[DMT_PATH_MAX + 32], when[32];
    struct dmt_ws *past = NULL;
    struct dmt_pool *pool = NULL;
    struct dmt_snapshot saved;
    if (dmt_time_parse(to, now, &t) != 0)
        return dmt_err_set(err, -EINVAL, "\"%s\" is not a time", to);
    if (!a->archive_url[0])
        return no_archive(a, ws, t, err);
    app_archive_flush(a); /* what is not there yet cannot be restored */
    snprintf(dir, sizeof dir, "%s/scratch", a->store_dir);
    remove_path(dir);
    struct dmt_restore r = {.url = a->archive_url, .name = a->name, .dir = dir, .to_time_ns = t};
    char lineage[33];
    dmt_hex(a->ident.lineage, 16, lineage);
    r.lineage = lineage;
    int rc = dmt_archive_restore(&r, err);
    if (rc == 0)
        rc = open_scratch(dir, &past, &pool, err);
    if (rc == 0 && !rb->dry_run) {
        mount_flush_mmap(a);
        snprintf(rb->saved_as, sizeof rb->saved_as, "before-rollback-%s",
                 dmt_time_format(now, when));
        rc = dmt_ws_snap_create(ws, rb->saved_as, "taken by itself before a rollback", &saved, err);
    }
    if (rc == 0)
        rc = mirror_all(a, ws, past, rb, err);
    if (past)
        dmt_ws_close(past, NULL);
    dmt_pool_free(pool);
    remove_path(dir);
    return rc;
}

/* --- heal ------------------------------------------------------------------------------------- */
struct report {
    uint64_t ino;
    bool found;
    uint64_t size;
};

static int is_reported(void *ctx, const struct dmt_rec_INCOMPLETE *r)
{
    struct report *x = ctx;
    if (r->ino == x->ino) {
        x->found = true;
        x->size = r->size;
    }
    return 0;
}

struct branch_try {
    struct dmt_ws *ws;
    const char *path, *dir;
    char from[DMT_SNAP_NAME_MAX + 1];
    char file[2 * DMT_PATH_MAX];
};

static int try_branch(void *ctx, const char *name, uint64_t first, uint64_t last, uint64_t bytes)
{
    struct branch_try *t = ctx;
    struct stat st;
    (void)first;
    (void)last;
    (void)bytes;
    remove_path(t->dir);
    if (mkdir(t->dir, 0700) != 0 || dmt_ws_branch_extract(t->ws, name, t->dir, NULL) != 0)
        return 0;
    snprintf(t->file, sizeof t->file, "%s%s", t->dir, t->path);
    if (lstat(t->file, &st) != 0 || !S_ISREG(st.st_mode))
        return 0;
    snprintf(t->from, sizeof t->from, "%s", name);
    return 1;
}

static int copy_in(struct dmt_ws *ws, uint64_t ino, const char *file)
{
    uint8_t *buf = malloc(1u << 20);
    struct dmt_op op = {0};
    struct dmt_attr at;
    struct stat st;
    int fd = open(file, O_RDONLY | O_CLOEXEC),
        rc = buf && fd >= 0 && fstat(fd, &st) == 0 ? 0 : -EIO;
    struct dmt_setattr cut = {.mask = DMT_SET_SIZE};
    if (rc == 0)
        rc = dmt_ws_setattr(ws, &op, ino, &cut, &at);
    for (uint64_t off = 0; rc == 0;) {
        ssize_t n = pread(fd, buf, 1u << 20, (off_t)off);
        if (n <= 0) {
            rc = n < 0 ? -errno : 0;
            break;
        }
        rc = dmt_ws_write(ws, &op, ino, buf, (size_t)n, off, false);
        off += (uint64_t)n;
    }
    if (rc == 0) {
        struct dmt_setattr times = {.mask = DMT_SET_MTIME, .mtime = dmt_file_time_ns(st.st_mtim)};
        rc = dmt_ws_setattr(ws, &op, ino, &times, &at);
    }
    if (fd >= 0)
        close(fd);
    free(buf);
    return rc;
}

int heal_file(struct app *a, struct dmt_ws *ws, const char *path, char *text, size_t size,
              struct dmt_err *err)
{
    struct report rep = {0};
    struct dmt_attr at;
    char dir[DMT_PATH_MAX + 32];
    int rc = dmt_ws_resolve(ws, DMT_LIVE, path, &rep.ino);
    if (rc == 0)
        rc = dmt_ws_getattr(ws, rep.ino, &at);
    if (rc != 0)
        return dmt_err_set(err, rc, "%s: %s", path, dmt_strerror(rc));
    dmt_ws_incomplete_each(ws, is_reported, &rep);
    if (!rep.found) {
        dmt_err_set(err, -EINVAL, "%s is not incomplete: nothing to heal", path);
        return dmt_err_hint(err, "`dumont log %s --incomplete` lists the files that are.", a->name);
    }
    if ((uint64_t)at.st.st_size != rep.size) {
        dmt_err_set(err, -EEXIST,
                    "%s has been changed since it was found incomplete: it is left alone", path);
        return dmt_err_hint(err, "The bytes are in the branch: dumont snapshot list %s", a->name);
    }
    snprintf(dir, sizeof dir, "%s/scratch-heal", a->store_dir);
    struct branch_try t = {.ws = ws, .path = path, .dir = dir};
    dmt_ws_branches(ws, try_branch, &t);
    if (!t.from[0]) {
        remove_path(dir);
        dmt_err_set(err, -ENOENT, "no branch on this machine has the bytes of %s", path);
        return dmt_err_hint(
            err,
            "The machine that wrote them keeps them: when it is back, hand the workspace over to it and heal there.");
    }
    rc = copy_in(ws, rep.ino, t.file);
    remove_path(dir);
    if (rc != 0)
        return dmt_err_set(err, rc, "cannot heal %s: %s", path, dmt_strerror(rc));
    mount_invalidate(a, &rep.ino, 1, false);
    snprintf(text, size, "healed from %s", t.from);
    return 0;
}
