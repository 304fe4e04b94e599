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

#define FLUSH_POLL_MS 20

struct call {
    struct app *app;
    struct control *control;
    struct dmt_ws *ws;
    const json_t *req;
    struct dmt_err *err;
};

static const char *arg(const struct call *c, const char *key)
{
    const char *s = json_string_value(json_object_get(c->req, key));
    return s ? s : "";
}

static json_t *snapshot_json(const struct dmt_snapshot *s)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:s}", "name", s->name, "serial", (json_int_t)s->serial,
                     "seq", (json_int_t)s->seq, "time_ns", (json_int_t)s->time_ns, "note", s->note);
}

static json_t *snap_create(struct call *c)
{
    struct dmt_snapshot s;
    if (dmt_ws_snap_create(c->ws, arg(c, "name"), arg(c, "note"), &s, c->err) != 0)
        return NULL;
    return snapshot_json(&s);
}

static int snap_add(void *ctx, const struct dmt_snapshot *s)
{
    return json_array_append_new(ctx, snapshot_json(s));
}

static int branch_add(void *ctx, const char *name, uint64_t first, uint64_t last, uint64_t bytes)
{
    char note[160], full[DMT_SNAP_NAME_MAX + 16];
    snprintf(full, sizeof full, "branch/%s", name);
    snprintf(note, sizeof note,
             "branch: records %" PRIu64 " to %" PRIu64 " that the other machine never had, %" PRIu64
             " bytes; on this machine",
             first, last, bytes);
    return json_array_append_new(ctx, json_pack("{s:s, s:I, s:I, s:s, s:b}", "name", full, "seq",
                                                (json_int_t)last, "time_ns", (json_int_t)0, "note",
                                                note, "branch", 1));
}

static json_t *snap_list(struct call *c)
{
    json_t *list = json_array();
    dmt_ws_snap_each(c->ws, snap_add, list);
    dmt_ws_branches(c->ws, branch_add, list);
    return list;
}

static json_t *snap_delete(struct call *c)
{
    return dmt_ws_snap_delete(c->ws, arg(c, "name"), c->err) == 0 ? json_object() : NULL;
}

static int change_add(void *ctx, char kind, const char *path, const char *from)
{
    char k[2] = {kind, '\0'};
    json_t *o = json_object();
    /* names are bytes; those that are not UTF-8 are shown with their bytes as Latin-1, JSON cannot
     * hold them otherwise */
    json_t *p = json_string(path);
    if (!p) {
        char wide[2 * DMT_PATH_MAX + 1], *w = wide;
        for (const unsigned char *s = (const unsigned char *)path; *s && w < wide + sizeof wide - 3;
             s++) {
            if (*s < 0x80) {
                *w++ = (char)*s;
            } else {
                *w++ = (char)(0xc0 | *s >> 6);
                *w++ = (char)(0x80 | (*s & 0x3f));
            }
        }
        *w = '\0';
        p = json_string(wide);
    }
    json_object_set_new(o, "kind", json_string(k));
    json_object_set_new(o, "path", p);
    if (from && *from)
        json_object_set_new(o, "from", json_string(from));
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
    if (view_of(c, arg(c, "from"), &from) != 0 || view_of(c, arg(c, "to"), &to) != 0)
        return NULL;
    json_t *list = json_array();
    if (dmt_ws_diff(c->ws, from, to, change_add, list, c->err) != 0) {
        json_decref(list);
        return NULL;
    }
    return list;
}

/* --- rollback --------------------------------------------------------------------------------- */
static json_t *rollback(struct call *c)
{
    json_t *jpaths = json_object_get(c->req, "paths"), *changes = json_array();
    size_t n = json_array_size(jpaths);
    const char **paths = calloc(n + 1, sizeof *paths);
    for (size_t i = 0; paths && i < n; i++)
        paths[i] = json_string_value(json_array_get(jpaths, i));
    struct dmt_rollback rb = {.snapshot = arg(c, "snapshot"),
                              .paths = n ? paths : NULL,
                              .dry_run = json_is_true(json_object_get(c->req, "dry_run")),
                              .fn = change_add,
                              .ctx = changes};
    int rc = *arg(c, "to") ? rollback_to_time(c->app, c->ws, arg(c, "to"), &rb, c->err)
                           : dmt_ws_rollback(c->ws, &rb, c->err);
    free(paths);
    if (rc != 0) {
        json_decref(changes);
        return NULL;
    }
    return json_pack("{s:I, s:s, s:o}", "changed", (json_int_t)rb.changed, "saved_as", rb.saved_as,
                     "changes", changes);
}

/* --- where a file is -------------------------------------------------------------------------- */
static int inode_of(struct call *c, struct dmt_inode *ret)
{
    uint64_t ino;
    int rc = dmt_ws_resolve(c->ws, DMT_LIVE, arg(c, "path"), &ino);
    if (rc == 0) {
        struct dmt_lockfn lk = dmt_ws_lockfn(c->ws);
        lk.lock(lk.ctx);
        rc = dmt_store_inode_get(dmt_ws_store(c->ws), DMT_LIVE, ino, ret);
        lk.unlock(lk.ctx);
    }
    return rc == 0 ? 0 : dmt_err_set(c->err, rc, "%s: %s", arg(c, "path"), dmt_strerror(rc));
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
    if (heal_file(c->app, c->ws, arg(c, "path"), text, sizeof text, c->err) != 0)
        return NULL;
    return json_pack("{s:s}", "text", text);
}

/* --- flush: wait until drained ---------------------------------------------------------------- */
static void nap(void)
{
    usleep(FLUSH_POLL_MS * 1000);
}

static int flush_standby(struct call *c, uint64_t seq)
{
    struct app *a = c->app;
    if (!a->replica)
        return dmt_err_set(c->err, DMT_E_CONFIG, "%s has no standby", a->name);
    while (!app_peer_has(a, seq)) {
        struct dmt_replica_status rs;
        dmt_replica_status(a->replica, &rs);
        control_progress(c->control, "to the standby", rs.durable < seq ? rs.durable : seq, seq);
        if (a->stopping)
            return dmt_err_set(c->err, -ECANCELED, "the workspace is being stopped");
        nap();
    }
    return 0;
}

static int flush_archive(struct call *c, uint64_t seq)
{
    struct app *a = c->app;
    struct dmt_archive_status as;
    if (!app_archive_flush(a))
        return dmt_err_set(c->err, DMT_E_CONFIG, "%s has no archive%s", a->name,
                           a->archive_url[0] ? " on this machine: the holder writes it" : "");
    for (;;) {
        if (!app_archive_status(a, &as))
            return dmt_err_set(c->err, -ECANCELED, "this machine no longer holds %s", a->name);
        if (as.archived_seq >= seq)
            return 0;
        control_progress(c->control, "to the archive", as.archived_seq, seq);
        if (a->stopping)
            return dmt_err_set(c->err, -ECANCELED, "the workspace is being stopped");
        nap();
    }
}

static json_t *flush(struct call *c)
{
    const char *to = arg(c, "to");
    char text[128];
    struct app *a = c->app;
    int rc = dmt_ws_sync_wait(c->ws, 0);
    if (rc != 0) {
        dmt_err_set(c->err, rc, "cannot make the workspace durable here: %s", dmt_strerror(rc));
        return NULL;
    }
    uint64_t seq = dmt_journal_tail(dmt_ws_journal(c->ws)).seq;
    if ((strcmp(to, "standby") == 0 || (!*to && a->replica)) && flush_standby(c, seq) != 0)
        return NULL;
    if ((strcmp(to, "archive") == 0 || (!*to && app_archive_flush(a))) &&
        flush_archive(c, seq) != 0)
        return NULL;
    snprintf(text, sizeof text, "everything up to position %" PRIu64 " has arrived", seq);
    return json_pack("{s:I, s:s}", "seq", (json_int_t)seq, "text", text);
}

/* --- roles ------------------------------------------------------------------------------------ */
static json_t *lease_command(struct call *c, enum dmt_lease_command cmd, const char *text)
{
    if (dmt_lease_command(c->app->lease, cmd, c->err) != 0)
        return NULL;
    return json_pack("{s:s}", "text", text);
}

/* Waits until the lease has left (or reached) being holder. */
static json_t *wait_role(struct call *c, bool holder, const char *done)
{
    for (int ms = 0; ms < 60000; ms += FLUSH_POLL_MS) {
        struct dmt_lease_status ls;
        dmt_lease_status(c->app->lease, &ls);
        bool settled =
            holder ? ls.holder : ls.state == DMT_LEASE_FOLLOWER || ls.state == DMT_LEASE_GIVEN_UP;
        if (settled)
            return json_pack("{s:s}", "text", done);
        if (c->app->stopping) {
            dmt_err_set(c->err, -ECANCELED, "the workspace is being stopped");
            return NULL;
        }
        nap();
    }
    dmt_err_set(c->err, -ETIMEDOUT, "no answer within 60 s");
    dmt_err_hint(c->err, "`dumont status %s` shows what it waits for.", c->app->name);
    return NULL;
}

static json_t *handover(struct call *c)
{
    json_t *r = lease_command(c, DMT_LEASE_CMD_HANDOVER, "");
    if (!r)
        return NULL;
    json_decref(r);
    return wait_role(c, false, "handed over");
}

static json_t *promote(struct call *c)
{
    json_t *r = lease_command(c, DMT_LEASE_CMD_PROMOTE, "");
    if (!r)
        return NULL;
    json_decref(r);
    return wait_role(c, true, "promoted");
}

static json_t *fence(struct call *c)
{
    return lease_command(c, DMT_LEASE_CMD_FENCE,
                         "fenced: this machine writes no more; `dumont promote` takes it back");
}

/* --- the rest --------------------------------------------------------------------------------- */
static json_t *digest(struct call *c)
{
    uint64_t view;
    char hex[65];
    if (view_of(c, arg(c, "snapshot"), &view) != 0 || dmt_ws_digest(c->ws, view, hex, c->err) != 0)
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
    bool archive = strcmp(arg(c, "with"), "archive") == 0;
    if ((archive ? flush_archive(c, seq) : flush_standby(c, seq)) != 0)
        return NULL;
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
    int rc = dmt_ws_sync_wait(c->ws, 0);
    if (rc != 0) {
        dmt_err_set(c->err, rc, "cannot make the workspace durable: %s", dmt_strerror(rc));
        return NULL;
    }
    return json_object();
}

static json_t *checkpoint(struct call *c)
{
    return dmt_ws_checkpoint(c->ws, c->err) == 0 ? json_object() : NULL;
}

static int incomplete_add(void *ctx, const struct dmt_rec_INCOMPLETE *r)
{
    return json_array_append_new(
        ctx, json_pack("{s:s%, s:b, s:I, s:I}", "path", (const char *)r->path.p, (size_t)r->path.n,
                       "fallback", r->fallback, "missing", (json_int_t)r->missing_bytes, "size",
                       (json_int_t)r->size));
}

static json_t *incomplete(struct call *c)
{
    json_t *list = json_array();
    dmt_ws_incomplete_each(c->ws, incomplete_add, list);
    return list;
}

static json_t *branch_extract(struct call *c)
{
    const char *name = arg(c, "branch");
    if (strncmp(name, "branch/", 7) == 0)
        name += 7;
    return dmt_ws_branch_extract(c->ws, name, arg(c, "dir"), c->err) == 0 ? json_object() : NULL;
}

/* The agent: "up to `taken` the controller has them"; what is left. */
static json_t *events(struct call *c)
{
    json_int_t taken = json_integer_value(json_object_get(c->req, "taken"));
    return events_take(c->app, taken > 0 ? (uint64_t)taken : 0);
}

/* A cloud's word that this machine will be taken away in so many seconds; 0: no more. While one is pending the standby, which
 * stays, keeps its right to take over: no solo (R8). */
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
    {"flush", true, flush},
    {"handover", false, handover},
    {"promote", false, promote},
    {"fence", false, fence},
    {"digest", true, digest},
    {"verify", true, verify},
    {"proved", false, proved},
    {"drain", true, drain},
    {"checkpoint", true, checkpoint},
    {"incomplete", true, incomplete},
    {"branch.extract", true, branch_extract},
    {"events", false, events},
    {"notice", false, notice},
    {"stop", false, stop},
};

json_t *verbs_run(struct app *a, struct control *control, const json_t *req, struct dmt_err *err)
{
    struct call c = {.app = a, .control = control, .req = req, .err = err};
    const char *cmd = arg(&c, "cmd");
    if (strcmp(cmd, "status") == 0)
        return status_json(a);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(table[i].cmd, cmd) != 0)
            continue;
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
