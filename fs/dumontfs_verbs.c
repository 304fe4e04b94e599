/* dumontfs_verbs.c: the commands of the control socket. Each is a function from a JSON request to a
 * JSON result, in a table.
 *
 * Failure: err is set with a sentence and a hint, NULL returned; nothing is half done (each
 * command's own promise). Thread: the connection's; commands may block for as long as they need.
 * The workspace is held for reading (app_ws_get) while they use it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/base/log.h"
#include "fs/dumontfs.h"
#include "fs/dumontfs_past.h"
#include "fs/dumontfs_verbs.h"
#include "fs/workspace/branch_copy.h"

#define TAKEOVER_POLL_MS 10

static json_t *snapshot_json(struct dmt_ws *ws, const struct dmt_snapshot *s)
{
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    lk.lock(lk.ctx);
    uint64_t lost = dmt_store_lost_bytes(dmt_ws_store(ws), s->seq);
    lk.unlock(lk.ctx);
    return json_pack("{s:s, s:I, s:I, s:I, s:s, s:I}", "name", s->name, "serial",
                     (json_int_t)s->serial, "seq", (json_int_t)s->seq, "time_ns",
                     (json_int_t)s->time_ns, "note", s->note, "lost_bytes", (json_int_t)lost);
}

static json_t *snap_create(struct call *c)
{
    struct dmt_snapshot s;
    if (dmt_ws_snap_create(c->ws, verb_arg(c, "name"), verb_arg(c, "note"), &s, c->err) != 0)
        return NULL;
    return snapshot_json(c->ws, &s);
}

struct snapshot_list {
    json_t *list;
    struct dmt_ws *ws;
};

static int snap_add(void *ctx, const struct dmt_snapshot *s)
{
    struct snapshot_list *l = ctx;
    return json_array_append_new(l->list, snapshot_json(l->ws, s));
}

struct branch_list {
    struct call *c;
    json_t *list;
};

static int branch_add(void *ctx, const char *name, uint64_t first, uint64_t last, uint64_t bytes)
{
    static const char *const where[] = {[DMT_REPLICA_THERE_UNKNOWN] = "on this machine",
                                        [DMT_REPLICA_NOT_THERE] = "not yet on the other machine",
                                        [DMT_REPLICA_THERE] = "on both machines"};
    struct branch_list *l = ctx;
    struct dmt_replica *r = l->c->app->replica;
    enum dmt_replica_there there =
        r ? dmt_replica_branch_there(r, name) : DMT_REPLICA_THERE_UNKNOWN;
    char note[192], full[DMT_BRANCH_NAME_MAX + 16];
    snprintf(full, sizeof full, "branch/%s", name);
    snprintf(note, sizeof note,
             "branch: records %" PRIu64 " to %" PRIu64 " that only one machine had, %" PRIu64
             " bytes; %s",
             first, last, bytes, where[there]);
    json_t *o = json_pack("{s:s, s:I, s:I, s:s, s:b}", "name", full, "seq", (json_int_t)last,
                          "time_ns", (json_int_t)0, "note", note, "branch", 1);
    if (there != DMT_REPLICA_THERE_UNKNOWN)
        json_object_set_new(o, "copied", json_boolean(there == DMT_REPLICA_THERE));
    return json_array_append_new(l->list, o);
}

static json_t *snap_list(struct call *c)
{
    json_t *list = json_array();
    dmt_ws_snap_each(c->ws, snap_add, &(struct snapshot_list){list, c->ws});
    dmt_ws_branches(c->ws, branch_add, &(struct branch_list){c, list});
    return list;
}

static json_t *snap_delete(struct call *c)
{
    const char *name = verb_arg(c, "name");
    if (strncmp(name, "branch/", 7) != 0)
        return dmt_ws_snap_delete(c->ws, name, c->err) == 0 ? json_object() : NULL;
    if (dmt_ws_branch_remove(c->ws, name + 7, true, c->err) != 0)
        return NULL;
    if (c->app->replica)
        dmt_replica_branches_changed(c->app->replica);
    return json_object();
}

/* Names are bytes; those that are not UTF-8 are shown with their bytes as Latin-1, JSON cannot hold
 * them otherwise. */
static json_t *json_bytes(const char *s, size_t n)
{
    json_t *v = json_stringn(s, n);
    char *wide = v ? NULL : malloc(2 * n + 1), *w = wide;
    if (!wide)
        return v;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x80)
            *w++ = (char)(0xc0 | c >> 6);
        *w++ = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
    }
    v = json_stringn(wide, (size_t)(w - wide));
    free(wide);
    return v;
}

int verb_change_add(void *ctx, char kind, const char *path, const char *from)
{
    char k[2] = {kind, '\0'};
    json_t *o = json_pack("{s:s, s:o}", "kind", k, "path", json_bytes(path, strlen(path)));
    if (from && *from)
        json_object_set_new(o, "from", json_bytes(from, strlen(from)));
    return json_array_append_new(ctx, o);
}

/* A snapshot's name, or "" = now, to a view. */
static int view_of(struct call *c, const char *name, uint64_t *ret)
{
    struct dmt_snapshot s;
    *ret = DMT_LIVE;
    if (!*name)
        return 0;
    struct dmt_lockfn lk = dmt_ws_lockfn(c->ws);
    lk.lock(lk.ctx);
    int rc = dmt_store_snap_get(dmt_ws_store(c->ws), name, &s);
    lk.unlock(lk.ctx);
    if (rc != 0) {
        dmt_err_set(c->err, rc, "no snapshot \"%s\" in %s", name, c->app->name);
        return dmt_err_hint(c->err, "`dumont snapshot list %s` shows what there is.", c->app->name);
    }
    *ret = s.seq;
    return 0;
}

static json_t *snap_diff(struct call *c)
{
    uint64_t from, to;
    if (strncmp(verb_arg(c, "from"), "branch/", 7) == 0 && !*verb_arg(c, "to"))
        return branch_diff(c, verb_arg(c, "from") + 7);
    if (view_of(c, verb_arg(c, "from"), &from) != 0 || view_of(c, verb_arg(c, "to"), &to) != 0)
        return NULL;
    json_t *list = json_array();
    if (dmt_ws_diff(c->ws, from, to, verb_change_add, list, c->err) != 0) {
        json_decref(list);
        return NULL;
    }
    return list;
}

/* --- where a file is -------------------------------------------------------------------------- */
static int inode_of(struct call *c, struct dmt_inode *ret)
{
    uint64_t ino;
    int rc = dmt_ws_resolve(c->ws, DMT_LIVE, verb_arg(c, "path"), &ino);
    if (rc == 0) {
        struct dmt_lockfn lk = dmt_ws_lockfn(c->ws);
        lk.lock(lk.ctx);
        rc = dmt_store_inode_get(dmt_ws_store(c->ws), DMT_LIVE, ino, ret);
        lk.unlock(lk.ctx);
    }
    return rc == 0 ? 0 : dmt_err_set(c->err, rc, "%s: %s", verb_arg(c, "path"), dmt_strerror(rc));
}

static json_t *receipt(struct call *c)
{
    struct dmt_inode n;
    struct app *a = c->app;
    char epoch[48], standby[160] = "", archive[160] = "";
    if (inode_of(c, &n) != 0)
        return NULL;
    bool local = dmt_journal_durable(dmt_ws_journal(c->ws)) >= n.seq &&
                 !dmt_ws_missing_ino(c->ws, n.ino, n.seq);
    if (a->replica) {
        struct dmt_lease_status ls;
        dmt_lease_status(a->lease, &ls);
        snprintf(standby, sizeof standby, "%s%s%s", app_peer_has(a, n.seq) ? "durable" : "not yet",
                 ls.peer_node[0] ? " on " : "", ls.peer_node);
    }
    struct dmt_archive_status as;
    if (app_archive_status(a, &as))
        snprintf(archive, sizeof archive, "%s",
                 as.archived_seq >= n.seq ? "stored and verified" : "not yet");
    snprintf(epoch, sizeof epoch, "%u.%u", DMT_EPOCH_MAJOR(n.epoch), DMT_EPOCH_MINOR(n.epoch));
    return json_pack("{s:I, s:I, s:I, s:s, s:s, s:s, s:s}", "ino", (json_int_t)n.ino, "size",
                     (json_int_t)n.size, "seq", (json_int_t)n.seq, "epoch", epoch, "journal",
                     local ? "durable" : "written, not yet durable", "standby", standby, "archive",
                     archive);
}

static json_t *heal(struct call *c)
{
    char text[512];
    control_progress(c->control, "looking for the bytes", 0, 0, "");
    if (heal_file(c->app, c->ws, verb_arg(c, "path"), text, sizeof text, c->err) != 0)
        return NULL;
    return json_pack("{s:s}", "text", text);
}

/* --- rollback --------------------------------------------------------------------------------- */
static void going_back(void *ctx, const char *what, uint64_t done, uint64_t total, const char *unit)
{
    struct call *c = ctx;
    control_progress(c->control, what, done, total, unit);
}

/* What has not reached the archive cannot be restored from it: first it gets there. */
static int rollback_to(struct call *c, struct dmt_rollback *rb)
{
    struct past p = {.app = c->app, .ws = c->ws, .rb = rb, .progress = going_back, .ctx = c};
    int rc = past_time(&p, verb_arg(c, "to"), c->err);
    if (rc == 0 && (rc = dmt_ws_sync_wait(c->ws, 0)) != 0)
        return dmt_err_set(c->err, rc, "cannot make the workspace durable here: %s",
                           dmt_strerror(rc));
    if (rc == 0)
        rc = wait_archive(c, dmt_journal_tail(dmt_ws_journal(c->ws)).seq, true);
    if (rc == 0)
        rc = rollback_to_time(&p, c->err);
    rb->incomplete = p.incomplete;
    return rc;
}

/* A path that exists in neither state is a slip of the pen, not a rollback of nothing. */
static int paths_exist(struct call *c, const char *const *paths, const char *snapshot)
{
    uint64_t view, ino;
    int rc = view_of(c, snapshot, &view);
    for (; rc == 0 && *paths; paths++) {
        if (dmt_ws_resolve(c->ws, view, *paths, &ino) == 0 ||
            dmt_ws_resolve(c->ws, DMT_LIVE, *paths, &ino) == 0)
            continue;
        rc = dmt_err_set(c->err, -ENOENT, "%s is neither in %s nor in its snapshot %s", *paths,
                         c->app->name, snapshot);
        dmt_err_hint(c->err, "Paths are given from the root of the workspace: /directory/file.");
    }
    return rc;
}

static json_t *rollback(struct call *c)
{
    json_t *jpaths = json_object_get(c->req, "paths"), *changes = json_array();
    size_t n = json_array_size(jpaths);
    const char **paths = calloc(n + 1, sizeof *paths);
    for (size_t i = 0; paths && i < n; i++)
        paths[i] = json_string_value(json_array_get(jpaths, i));
    struct dmt_rollback rb = {.snapshot = verb_arg(c, "snapshot"),
                              .paths = n ? paths : NULL,
                              .dry_run = json_is_true(json_object_get(c->req, "dry_run")),
                              .fn = verb_change_add,
                              .ctx = changes};
    int rc = *verb_arg(c, "to") ? 0 : paths_exist(c, paths, rb.snapshot);
    if (rc == 0)
        rc = *verb_arg(c, "to") ? rollback_to(c, &rb) : dmt_ws_rollback(c->ws, &rb, c->err);
    free(paths);
    if (rc != 0) {
        json_decref(changes);
        return NULL;
    }
    return json_pack("{s:I, s:s, s:I, s:o}", "changed", (json_int_t)rb.changed, "saved_as",
                     rb.saved_as, "incomplete", (json_int_t)rb.incomplete, "changes", changes);
}

/* --- the rest --------------------------------------------------------------------------------- */
static json_t *digest(struct call *c)
{
    uint64_t view;
    char hex[65];
    if (view_of(c, verb_arg(c, "snapshot"), &view) != 0 ||
        dmt_ws_digest(c->ws, view, hex, c->err) != 0)
        return NULL;
    struct dmt_pos tail = dmt_journal_tail(dmt_ws_journal(c->ws));
    return json_pack("{s:s, s:I, s:I}", "digest", hex, "applied", (json_int_t)dmt_ws_applied(c->ws),
                     "tail", (json_int_t)tail.seq);
}

/* First half of `dumont verify`: what is to be compared has arrived there; then the digest of this
 * copy. */
static json_t *verify(struct call *c)
{
    int rc = dmt_ws_sync_wait(c->ws, 0);
    if (rc != 0) {
        dmt_err_set(c->err, rc, "cannot make the workspace durable here: %s", dmt_strerror(rc));
        return NULL;
    }
    uint64_t seq = dmt_journal_tail(dmt_ws_journal(c->ws)).seq;
    bool archive = strcmp(verb_arg(c, "with"), "archive") == 0;
    if ((archive ? wait_archive(c, seq, true) : wait_standby(c, seq)) != 0)
        return NULL;
    control_progress(c->control, "computing the digest", 0, 0, "");
    json_t *r = digest(c);
    if (r)
        json_object_set_new(r, "url", json_string(c->app->archive_url));
    return r;
}

/* A restore from the archive was compared and found equal: STORE/proved keeps when, for the
 * status. */
static json_t *proved(struct call *c)
{
    char path[DMT_PATH_MAX + 16], text[32];
    const struct dmt_clock *clk = dmt_clock_real();
    snprintf(path, sizeof path, "%s/proved", c->app->store_dir);
    int n = snprintf(text, sizeof text, "%" PRIu64 "\n", clk->realtime_ns(clk->ctx));
    int rc = dmt_io_write_file(dmt_io_real(), path, text, (size_t)n, 0600);
    if (rc != 0) {
        dmt_err_set(c->err, rc, "cannot write %s: %s", path, dmt_strerror(rc));
        return NULL;
    }
    return json_object();
}

static json_t *drain(struct call *c)
{
    if (!roles_is_holder(c->app)) /* an unmount of a view: nothing was written through it */
        return json_object();
    int rc = dmt_ws_sync_wait(c->ws, 0);
    if (rc != 0) {
        dmt_err_set(c->err, rc, "cannot make the workspace durable: %s", dmt_strerror(rc));
        return NULL;
    }
    return json_object();
}

static json_t *standby_view(struct call *c)
{
    return view_mount(c->app, verb_arg(c, "dir"), c->err) == 0 ? json_object() : NULL;
}

static json_t *checkpoint(struct call *c)
{
    return dmt_ws_checkpoint(c->ws, c->err) == 0 ? json_object() : NULL;
}

static int incomplete_add(void *ctx, const struct dmt_rec_INCOMPLETE *r)
{
    return json_array_append_new(
        ctx,
        json_pack("{s:o, s:b, s:I, s:I}", "path",
                  json_bytes((const char *)r->path.p, (size_t)r->path.n), "fallback", r->fallback,
                  "missing", (json_int_t)r->missing_bytes, "size", (json_int_t)r->size));
}

static json_t *incomplete(struct call *c)
{
    json_t *list = json_array();
    dmt_ws_incomplete_each(c->ws, incomplete_add, list);
    return list;
}

/* The agent: "up to `taken` the controller has them"; what is left. */
static json_t *events(struct call *c)
{
    json_int_t taken = json_integer_value(json_object_get(c->req, "taken"));
    return events_take(c->app, taken > 0 ? (uint64_t)taken : 0);
}

/* A cloud's word that this machine will be taken away in so many seconds; 0: no more. While one is
 * pending the standby, which stays, keeps its right to take over: no solo (R8). */
static json_t *notice(struct call *c)
{
    json_int_t s = json_integer_value(json_object_get(c->req, "in_s"));
    char text[96];
    dmt_lease_spot_notice(c->app->lease, s > 0);
    snprintf(text, sizeof text, "this machine will be taken away in %lld s", (long long)s);
    events_add(c->app, "notice", s > 0 ? text : "withdrawn: this machine stays");
    return json_object();
}

static void do_stop(struct app *a, void *unused)
{
    (void)unused;
    app_stop(a, 0);
}

static json_t *stop(struct call *c)
{
    app_post(c->app, do_stop, NULL);
    return json_object();
}

/* Everything durable and checkpointed, so that the successor has nothing to replay; then the end of
 * a process that its holder replaces. Whoever asked reads the end of the connection. What is under
 * way is sent to the successor again. */
static json_t *restart(struct call *c)
{
    struct app *a = c->app;
    if (!atomic_load(&a->mounted) || a->view) {
        dmt_err_set(c->err, -EINVAL, "%s is not mounted on this machine", a->name);
        dmt_err_hint(c->err, "Stop it; dumontd starts a standby again by itself.");
        return NULL;
    }
    if (!atomic_load(&a->resends)) {
        dmt_err_set(c->err, -EOPNOTSUPP, "this kernel cannot pass a mount on to another process");
        dmt_err_hint(c->err, "Unmount and mount again, or use Linux 6.9 or later.");
        return NULL;
    }
    int rc = dmt_ws_sync_wait(c->ws, 0);
    if (rc != 0) {
        dmt_err_set(c->err, rc, "cannot make the workspace durable: %s", dmt_strerror(rc));
        return NULL;
    }
    if (dmt_ws_checkpoint(c->ws, c->err) != 0)
        return NULL;
    dmt_info("restarting, as asked");
    _exit(DMT_HP_EXIT_RESTART);
}

static const struct {
    const char *cmd;
    bool needs_ws;
    json_t *(*fn)(struct call *c);
} table[] = {
    {"snapshot.create", true, snap_create},
    {"snapshot.list", true, snap_list},
    {"snapshot.delete", true, snap_delete},
    {"snapshot.diff", true, snap_diff},
    {"rollback", true, rollback},
    {"receipt", true, receipt},
    {"heal", true, heal},
    {"flush", true, verb_flush},
    {"handover", true, verb_handover},
    {"promote", false, verb_promote},
    {"fence", false, verb_fence},
    {"digest", true, digest},
    {"verify", true, verify},
    {"proved", false, proved},
    {"drain", true, drain},
    {"standby.view", false, standby_view},
    {"checkpoint", true, checkpoint},
    {"incomplete", true, incomplete},
    {"branch.extract", true, verb_branch_extract},
    {"events", false, events},
    {"notice", false, notice},
    {"stop", false, stop},
    {"restart", true, restart},
};

json_t *verbs_run(struct app *a, struct control *control, const json_t *req, struct dmt_err *err)
{
    struct call c = {.app = a, .control = control, .req = req, .err = err};
    const char *cmd = verb_arg(&c, "cmd");
    if (strcmp(cmd, "status") == 0)
        return status_json(a);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(table[i].cmd, cmd) != 0)
            continue;
        /* A process that takes a mount over is not there yet for those who had to do with its
         * predecessor. */
        while (table[i].needs_ws && atomic_load(&a->resume) && !atomic_load(&a->stopping))
            usleep(TAKEOVER_POLL_MS * 1000);
        if (table[i].needs_ws && !(c.ws = app_ws_get(a))) {
            dmt_err_set(err, -EAGAIN, "%s is being synchronised from the other machine", a->name);
            dmt_err_hint(err, "`dumont status %s --watch` shows how far it is; try again then.",
                         a->name);
            return NULL;
        }
        json_t *r = table[i].fn(&c);
        if (c.ws)
            app_ws_put(a);
        return r;
    }
    dmt_err_set(err, -EINVAL, "unknown command \"%s\"", cmd);
    return NULL;
}
