/* dumontfs_past.c: `rollback --to TIME` and `heal`: see dumontfs_past.h.
 *
 * Happy path of --to: archive -> scratch store in STORE/scratch -> open it beside the live one ->
 * automatic snapshot -> mirror -> durable -> tell the kernel. Failure before the snapshot changes
 * nothing; after it, the snapshot brings everything back. Thread: the control connection's.
 */
#include "fs/dumontfs_past.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/base/hash.h"
#include "fs/base/log.h"
#include "fs/workspace/branch_copy.h"

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

static int no_archive(struct past *p, struct dmt_err *err)
{
    struct around x = {.t = p->t};
    dmt_ws_snap_each(p->ws, nearest, &x);
    dmt_err_set(err, DMT_E_CONFIG, "%s has no archive: only snapshots can be rolled back to",
                p->app->name);
    return dmt_err_hint(err, "Nearest before: %s. Nearest after: %s.",
                        x.before.name[0] ? x.before.name : "none",
                        x.after.name[0] ? x.after.name : "none");
}

int past_time(struct past *p, const char *to, struct dmt_err *err)
{
    const struct dmt_clock *clk = dmt_clock_real();
    uint64_t now = clk->realtime_ns(clk->ctx);
    if (dmt_time_parse(to, now, &p->t) != 0) {
        dmt_err_set(err, -EINVAL, "\"%s\" is not a time", to);
        return dmt_err_hint(
            err,
            "Write it as \"2026-11-23 10:00\", 2026-11-23T10:00:00Z, @SECONDS or \"10 minutes ago\".");
    }
    if (p->t > now) {
        dmt_err_set(err, -EINVAL, "\"%s\" has not come yet", to);
        return dmt_err_hint(err, "Give a moment in the past; times are read in the local zone.");
    }
    if (!roles_is_holder(p->app)) {
        dmt_err_set(err, -EROFS, "this machine does not hold %s", p->app->name);
        return dmt_err_hint(err, "Roll back on the holder: `dumont status %s` names it.",
                            p->app->name);
    }
    return p->app->archive_url[0] ? 0 : no_archive(p, err);
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

static void mirrored(void *ctx, uint64_t changed)
{
    struct past *p = ctx;
    p->progress(p->ctx, p->rb->dry_run ? "comparing" : "rolling back", changed, 0, "files");
}

static void restored(void *ctx, uint64_t done, uint64_t total)
{
    struct past *p = ctx;
    p->progress(p->ctx, "restoring that moment from the archive", done, total, "B");
}

static int mirror_all(struct past *p, struct dmt_ws *past, struct dmt_err *err)
{
    struct dmt_rollback *rb = p->rb;
    struct mirror m = {.dst = p->ws,
                       .src = past,
                       .fn = rb->fn,
                       .ctx = rb->ctx,
                       .tick = mirrored,
                       .tick_ctx = p,
                       .dry = rb->dry_run};
    const char *at = "/";
    int rc = rb->paths ? 0 : mirror_path(&m, at);
    for (const char *const *path = rb->paths; rc == 0 && path && *path; path++)
        rc = mirror_path(&m, at = *path);
    rb->changed = m.changed;
    if (rc == 0 && !rb->dry_run)
        rc = dmt_ws_sync_wait(p->ws, 0);
    if (!rb->dry_run)
        mount_invalidate(p->app, m.inos, m.inos_n, true);
    mirror_free(&m);
    if (rc == 0)
        return 0;
    dmt_err_set(err, rc, "the rollback of %s stopped: %s", at, dmt_strerror(rc));
    if (rc == -ENOENT && m.changed == 0)
        dmt_err_hint(err, "Give a path that exists now or existed then, in a directory that does.");
    else if (!rb->dry_run)
        dmt_err_hint(err, "Undo what was done with: dumont rollback %s %s", p->app->name,
                     rb->saved_as);
    return rc;
}

/* As the snapshot's rollback names it. */
static int save_state(struct past *p, struct dmt_err *err)
{
    const struct dmt_clock *clk = dmt_clock_real();
    char when[32];
    struct dmt_snapshot saved;
    mount_flush_mmap(p->app);
    snprintf(p->rb->saved_as, sizeof p->rb->saved_as, "before-rollback-%s",
             dmt_time_format(clk->realtime_ns(clk->ctx), when));
    return dmt_ws_snap_create(p->ws, p->rb->saved_as, "taken by itself before a rollback", &saved,
                              err);
}

int rollback_to_time(struct past *p, struct dmt_err *err)
{
    struct app *a = p->app;
    char dir[DMT_PATH_MAX + 32], lineage[33];
    struct dmt_ws *past = NULL;
    struct dmt_pool *pool = NULL;
    snprintf(dir, sizeof dir, "%s/scratch", a->store_dir);
    remove_path(dir);
    dmt_hex(a->ident.lineage, 16, lineage);
    struct dmt_restore r = {.url = a->archive_url,
                            .name = a->name,
                            .dir = dir,
                            .lineage = lineage,
                            .to_time_ns = p->t,
                            .progress = restored,
                            .ctx = p};
    int rc = dmt_archive_restore(&r, err);
    p->incomplete = r.incomplete;
    if (rc == 0)
        rc = open_scratch(dir, &past, &pool, err);
    if (rc == 0 && !p->rb->dry_run)
        rc = save_state(p, err);
    if (rc == 0)
        rc = mirror_all(p, past, err);
    if (past)
        dmt_ws_close(past, NULL);
    dmt_pool_free(pool);
    remove_path(dir);
    return rc;
}

/* --- heal ------------------------------------------------------------------------------------- */
static int changed_since(const char *path, struct dmt_err *err)
{
    dmt_err_set(err, -EEXIST, "%s has been changed since it was found incomplete: it is left alone",
                path);
    return dmt_err_hint(
        err,
        "What was lost is, on the machine that wrote it, in DIR/.snapshots/switch~...; `setfattr -x " DMT_INCOMPLETE_ATTR
        " FILE` ends the report.");
}

/* The attribute that settling leaves on a file says at which position the file was found
 * incomplete. A file whose last change lies there has not been touched since. */
static int untouched(struct app *a, struct dmt_ws *ws, uint64_t ino, const char *path,
                     uint64_t *ret_at, struct dmt_err *err)
{
    char note[256];
    struct dmt_inode n;
    ssize_t len = dmt_ws_getxattr(ws, ino, DMT_INCOMPLETE_ATTR, note, sizeof note - 1);
    if (len < 0) {
        dmt_err_set(err, -EINVAL, "%s is not incomplete: nothing to heal", path);
        return dmt_err_hint(err,
                            "`dumont log %s --incomplete` lists the files that a failover "
                            "left so.",
                            a->name);
    }
    note[len] = '\0';
    const char *at = strrchr(note, ' ');
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    lk.lock(lk.ctx);
    int rc = dmt_store_inode_get(dmt_ws_store(ws), DMT_LIVE, ino, &n);
    lk.unlock(lk.ctx);
    *ret_at = at ? strtoull(at + 1, NULL, 10) : 0;
    return rc == 0 && *ret_at == n.seq ? 0 : changed_since(path, err);
}

/* The promotion that settled the file: the last epoch that opened before that position. */
struct turn {
    uint64_t at;
    struct dmt_epoch_row row;
    char writer[65]; /* who held the epoch before */
    bool whole;      /* the snapshot has every byte, here */
    struct dmt_snapshot snap;
};

static int find_turn(void *ctx, const struct dmt_epoch_row *e)
{
    struct turn *t = ctx;
    if (e->switch_seq < t->at && e->switch_seq >= t->row.switch_seq)
        t->row = *e;
    return 0;
}

static int find_writer(void *ctx, const struct dmt_epoch_row *e)
{
    struct turn *t = ctx;
    if (e->epoch == t->row.parent)
        snprintf(t->writer, sizeof t->writer, "%s", e->node);
    return 0;
}

/* Is what was lost at that turn whole on this machine, in its store or in a branch? */
static int find_bytes(struct app *a, struct dmt_ws *ws, struct turn *t, const char *path,
                      struct dmt_err *err)
{
    char name[DMT_SWITCH_NAME_MAX];
    struct dmt_store *st = dmt_ws_store(ws);
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    lk.lock(lk.ctx);
    dmt_store_epoch_each(st, find_turn, t);
    dmt_store_epoch_each(st, find_writer, t);
    dmt_switch_name(t->row.epoch, name);
    int rc = dmt_store_snap_get(st, name, &t->snap);
    lk.unlock(lk.ctx);
    t->whole = app_is_whole(a, t->row.switch_seq);
    if (rc == 0 && (t->whole || dmt_ws_branch_has_bulk(ws, t->row.switch_seq)))
        return 0;
    rc = dmt_err_set(err, -ENOENT, "this machine does not have the bytes of %s", path);
    if (strcmp(t->writer, a->node) == 0)
        return dmt_err_hint(err, "It wrote them, but lost them since: to a power cut, or a full "
                                 "synchronisation from the other machine.");
    return dmt_err_hint(err,
                        "%s wrote them: when it is back, they come as branch/....bulk by "
                        "themselves; heal then.",
                        t->writer[0] ? t->writer : "Another machine");
}

struct branch_try {
    struct dmt_ws *ws;
    const char *path, *dir;
    uint64_t first;   /* of its records */
    bool bulk, whole; /* the one that has it as it was at the turn; struct turn */
    char from[DMT_SNAP_NAME_MAX + 1];
    char file[2 * DMT_PATH_MAX];
};

static int try_branch(void *ctx, const char *name, uint64_t first, uint64_t last, uint64_t bytes)
{
    struct branch_try *t = ctx;
    struct stat st;
    (void)last;
    (void)bytes;
    if (first != t->first || dmt_branch_is_bulk(name) != t->bulk)
        return 0;
    remove_path(t->dir);
    uint64_t left_out; /* files that are not whole here: not written */
    if (mkdir(t->dir, 0700) != 0 ||
        dmt_ws_branch_extract(t->ws, name, t->dir, t->whole ? NULL : &left_out, NULL) != 0)
        return 0;
    snprintf(t->file, sizeof t->file, "%s%s", t->dir, t->path);
    if (lstat(t->file, &st) != 0 || !S_ISREG(st.st_mode))
        return 0;
    snprintf(t->from, sizeof t->from, "%s", name);
    return 1;
}

/* Where the bytes come from: a plain file, or a node of a snapshot. */
struct source {
    struct dmt_ws *ws;
    int fd;
    uint64_t node;
};

static ssize_t take(void *ctx, void *buf, size_t n, uint64_t off)
{
    const struct source *s = ctx;
    if (s->fd < 0)
        return dmt_ws_read(s->ws, s->node, buf, n, off, false);
    ssize_t k = pread(s->fd, buf, n, (off_t)off);
    return k < 0 ? -errno : k;
}

static uint64_t ns_of(struct timespec t)
{
    return (uint64_t)t.tv_sec * DMT_S + (uint64_t)t.tv_nsec;
}

/* From the branch, if it has the file; else as it was at the turn. */
static int put_back(struct app *a, struct dmt_ws *ws, uint64_t ino, const char *path,
                    const struct turn *turn, char *text, size_t size)
{
    char dir[DMT_PATH_MAX + 32];
    struct dmt_attr at;
    struct stat st;
    struct source s = {.ws = ws, .fd = -1, .node = dmt_ws_snap_node(&turn->snap, ino)};
    struct branch_try t = {.ws = ws,
                           .path = path,
                           .dir = dir,
                           .first = turn->row.switch_seq + 1,
                           .whole = turn->whole};
    snprintf(dir, sizeof dir, "%s/scratch-heal", a->store_dir);
    dmt_ws_branches(ws, try_branch, &t);
    t.bulk = true; /* what went on from there may have newer content, so it comes first */
    if (!t.from[0])
        dmt_ws_branches(ws, try_branch, &t);
    if (!t.from[0] && !turn->whole)
        return -ENODATA; /* it is not among the files of the branch */
    if (t.from[0])
        s.fd = open(t.file, O_RDONLY | O_CLOEXEC);
    int rc = t.from[0] ? (s.fd >= 0 && fstat(s.fd, &st) == 0 ? 0 : -errno)
                       : dmt_ws_getattr(ws, s.node, &at);
    if (rc == 0) {
        st = t.from[0] ? st : at.st;
        rc = dmt_ws_heal(ws, ino, turn->at, take, &s, (uint64_t)st.st_size, ns_of(st.st_mtim));
    }
    if (s.fd >= 0)
        close(s.fd);
    remove_path(dir);
    snprintf(text, size, "healed: it is as %s had written it%s%s", turn->writer,
             t.from[0] ? "; from branch/" : "", t.from);
    return rc;
}

int heal_file(struct app *a, struct dmt_ws *ws, const char *path, char *text, size_t size,
              struct dmt_err *err)
{
    uint64_t ino;
    struct turn turn = {0};
    int rc = dmt_ws_resolve(ws, DMT_LIVE, path, &ino);
    if (rc != 0)
        return dmt_err_set(err, rc, "%s: %s", path, dmt_strerror(rc));
    if (!roles_is_holder(a)) {
        dmt_err_set(err, -EROFS, "this machine does not hold %s", a->name);
        return dmt_err_hint(err, "Hand the workspace over to it, then heal here.");
    }
    if ((rc = untouched(a, ws, ino, path, &turn.at, err)) != 0 ||
        (rc = find_bytes(a, ws, &turn, path, err)) != 0)
        return rc;
    rc = put_back(a, ws, ino, path, &turn, text, size);
    mount_invalidate(a, &ino, 1, false);
    if (rc == -EEXIST) /* while the bytes were brought in */
        return changed_since(path, err);
    if (rc == -ENODATA) {
        dmt_err_set(err, rc, "the branches on this machine do not have %s whole", path);
        return dmt_err_hint(err,
                            "%s wrote it and may have it: hand the workspace over to it, then "
                            "heal there.",
                            turn.writer[0] ? turn.writer : "Another machine");
    }
    return rc == 0 ? 0 : dmt_err_set(err, rc, "cannot heal %s: %s", path, dmt_strerror(rc));
}
