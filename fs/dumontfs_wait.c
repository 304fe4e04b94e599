/* dumontfs_wait.c: the commands that wait for somebody else: flush, handover, promote, fence.
 *
 * Each loop asks the parts how far they are and tells the client, until it is done or cannot be any
 * more. Failure: what is waited for fails for good, or the workspace is stopped: a sentence. What
 * may still come (an archive that is tried for ever, a standby that is away) is waited for.
 * Thread: the connection's.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "fs/dumontfs_verbs.h"

#define FLUSH_POLL_MS  20
#define ARBITER_MAX_MS 60000
#define GRACE_S        3 /* for those that use the mount which a handover takes away */
#define GRACE_MAX_S    3600

/* --- flush: wait until drained ---------------------------------------------------------------- */
static void nap(void)
{
    usleep(FLUSH_POLL_MS * 1000);
}

static bool ended(struct call *c)
{
    if (c->app->stopping)
        dmt_err_set(c->err, -ECANCELED, "the workspace is being stopped");
    return c->app->stopping;
}

/* What a wait for the standby is about, for whoever sees it. */
static void say_standby(struct call *c, const char *verb, uint64_t seq)
{
    char what[400];
    struct dmt_replica_status rs;
    struct dmt_lease_status ls;
    dmt_replica_status(c->app->replica, &rs);
    dmt_lease_status(c->app->lease, &ls);
    const char *node = ls.peer_node[0] ? ls.peer_node : "the standby";
    if (!rs.connected)
        snprintf(what, sizeof what, "%s %s, which is not connected%s%s", verb, node,
                 rs.last_error[0] ? ": " : "", rs.last_error);
    else
        snprintf(what, sizeof what, "%s %s%s", verb, node,
                 rs.durable >= seq && rs.whole < seq ? " (bulk data)" : "");
    uint64_t has = rs.whole < rs.durable ? rs.whole : rs.durable;
    control_progress(c->control, what, has < seq ? has : seq, seq, "records");
}

int wait_standby(struct call *c, uint64_t seq)
{
    struct app *a = c->app;
    if (!a->replica) {
        dmt_err_set(c->err, DMT_E_CONFIG, "%s has no standby", a->name);
        return dmt_err_hint(c->err, "One is configured with standby=HOST:PORT here and "
                                    "role=standby on the other machine: mount.dumont(8).");
    }
    while (!app_peer_has(a, seq)) {
        if (!roles_is_holder(a)) {
            dmt_err_set(c->err, -EROFS, "this machine does not hold %s", a->name);
            return dmt_err_hint(c->err, "Flush on the holder: `dumont status %s` names it.",
                                a->name);
        }
        say_standby(c, "waiting for", seq);
        if (ended(c))
            return c->err->code;
        nap();
    }
    return 0;
}

static int no_archiver(struct call *c)
{
    char why[256];
    struct app *a = c->app;
    if (!a->archive_url[0]) {
        dmt_err_set(c->err, DMT_E_CONFIG, "%s has no archive", a->name);
        return dmt_err_hint(c->err, "Give it one: dumont workspace set %s archive=URL", a->name);
    }
    if (app_archive_error(a, why)) {
        dmt_err_set(c->err, -EIO, "the archive of %s cannot be used: %s", a->name, why);
        return dmt_err_hint(c->err, "It is tried again every second: mend it, then repeat this.");
    }
    dmt_err_set(c->err, -EROFS, "this machine does not hold %s: its holder writes the archive",
                a->name);
    return dmt_err_hint(c->err, "Flush on the holder: `dumont status %s` names it.", a->name);
}

/* Waits until the archive has everything up to seq. An archive that fails is waited for (it is
 * tried for ever), unless impatient. */
int wait_archive(struct call *c, uint64_t seq, bool impatient)
{
    struct app *a = c->app;
    struct dmt_archive_status as;
    char what[320];
    if (!app_archive_flush(a))
        return no_archiver(c);
    for (;;) {
        if (!app_archive_status(a, &as))
            return no_archiver(c);
        if (as.archived_seq >= seq)
            return 0;
        if (as.error_since_ns && impatient) {
            dmt_err_set(c->err, -EIO, "the archive has records up to %" PRIu64 " only: %s",
                        as.archived_seq, as.last_error);
            return dmt_err_hint(c->err, "`dumont status %s` shows when it is well again.", a->name);
        }
        snprintf(what, sizeof what, "waiting for the archive%s%s", as.error_since_ns ? ": " : "",
                 as.error_since_ns ? as.last_error : "");
        control_progress(c->control, what, as.archived_seq, seq, "records");
        if (ended(c))
            return c->err->code;
        nap();
    }
}

json_t *verb_flush(struct call *c)
{
    const char *to = verb_arg(c, "to");
    char text[128];
    struct app *a = c->app;
    control_progress(c->control, "making everything durable here", 0, 0, "");
    int rc = dmt_ws_sync_wait(c->ws, 0);
    if (rc != 0) {
        dmt_err_set(c->err, rc, "cannot make the workspace durable here: %s", dmt_strerror(rc));
        return NULL;
    }
    uint64_t seq = dmt_journal_tail(dmt_ws_journal(c->ws)).seq;
    if ((strcmp(to, "standby") == 0 || (!*to && a->replica)) && wait_standby(c, seq) != 0)
        return NULL;
    if ((strcmp(to, "archive") == 0 || (!*to && a->archive_url[0])) &&
        wait_archive(c, seq, false) != 0)
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

static bool no_handover(struct call *c, const char *why)
{
    dmt_err_set(c->err, -ECANCELED, "the handover did not happen: %s", why);
    dmt_err_hint(c->err, "This machine goes on as holder; `dumont status %s` shows the standby.",
                 c->app->name);
    return false;
}

/* Until the other one holds it (true), or it is known that it will not (err). The drain ends by
 * itself (pre-copy and freeze have their limits), GIVEN_UP by the arbiter's answer: handed over, or
 * taken back. Who has stopped processes waits for that as long as it takes: they must go on. */
static bool handed_over(struct call *c, uint32_t major, uint64_t since, bool frozen)
{
    struct app *a = c->app;
    struct dmt_lease_status ls;
    char why[256];
    bool gave_up = false;
    for (int waited_ms = 0; c->err->code == 0;) {
        dmt_lease_status(a->lease, &ls);
        if (events_since(a, since, "handover-failed", why, sizeof why) > since)
            return no_handover(c, why);
        if (!ls.holder && ls.state != DMT_LEASE_GIVEN_UP)
            return true;
        if (ls.holder && DMT_EPOCH_MAJOR(ls.epoch) != major)
            return no_handover(c, gave_up ? "the arbiter refused it, and it was taken back"
                                          : "the standby was lost meanwhile");
        gave_up = ls.state == DMT_LEASE_GIVEN_UP;
        if (gave_up)
            control_progress(c->control, "waiting for the arbiter", 0, 0, "");
        else
            say_standby(c, "handing over to", dmt_journal_tail(dmt_ws_journal(c->ws)).seq);
        waited_ms = gave_up && !frozen ? waited_ms + FLUSH_POLL_MS : 0;
        if (waited_ms > ARBITER_MAX_MS) {
            dmt_err_set(c->err, -ETIMEDOUT, "the arbiter has not answered within %d s",
                        ARBITER_MAX_MS / 1000);
            dmt_err_hint(c->err, "Nobody writes until it does: look after the controller.");
        } else if (!ended(c)) {
            nap();
        }
    }
    return false;
}

/* What the request says, and whether there is anything to be done before anybody is waited for. */
static int handover_request(struct call *c, int *ret_grace_s, bool *ret_freeze)
{
    json_t *grace = json_object_get(c->req, "grace_s"), *freeze = json_object_get(c->req, "freeze");
    *ret_grace_s = grace ? (int)json_integer_value(grace) : GRACE_S;
    *ret_freeze = json_is_true(freeze);
    if ((grace && (!json_is_integer(grace) || json_integer_value(grace) < 0 ||
                   json_integer_value(grace) > GRACE_MAX_S)) ||
        (freeze && !json_is_boolean(freeze))) {
        dmt_err_set(c->err, -EINVAL,
                    "grace_s is a number of seconds from 0 to %d, freeze a boolean", GRACE_MAX_S);
        return dmt_err_hint(c->err, "Both may be left out: %d s, and nobody is stopped.", GRACE_S);
    }
    return dmt_lease_command_check(c->app->lease, DMT_LEASE_CMD_HANDOVER, c->err);
}

json_t *verb_handover(struct call *c)
{
    struct app *a = c->app;
    struct users users = {0};
    struct dmt_lease_status ls;
    char text[128], hint[sizeof c->err->hint];
    int grace_s;
    bool freeze, done = false;
    if (handover_request(c, &grace_s, &freeze) < 0)
        return NULL;
    users_grace(c, (unsigned)grace_s, &users);
    if (freeze)
        users_freeze(c, &users);
    dmt_lease_status(a->lease, &ls);
    uint64_t since = events_since(a, UINT64_MAX, NULL, NULL, 0);
    if (!ended(c) && dmt_lease_command(a->lease, DMT_LEASE_CMD_HANDOVER, c->err) == 0)
        done = handed_over(c, DMT_EPOCH_MAJOR(ls.epoch), since, users_frozen(&users) > 0);
    json_t *list = done ? users_json(&users) : NULL;
    if (done) {
        users_keep(c);
        dmt_lease_status(a->lease, &ls);
        snprintf(text, sizeof text, "handed over to %s", ls.peer_node);
    } else if (users_frozen(&users) > 0) {
        users_continue(a);
        snprintf(hint, sizeof hint, "%s", c->err->hint);
        dmt_err_hint(c->err, "%s%sThe processes that were stopped for it go on.", hint,
                     *hint ? " " : "");
    }
    users_free(&users);
    return done ? json_pack("{s:s, s:o}", "text", text, "users", list) : NULL;
}

json_t *verb_promote(struct call *c)
{
    struct app *a = c->app;
    struct dmt_lease_status ls;
    char why[256] = "";
    if (json_is_true(json_object_get(c->req, "force")))
        return verb_promote_forced(c);
    uint64_t since = events_since(a, UINT64_MAX, NULL, NULL, 0);
    json_t *r = lease_command(c, DMT_LEASE_CMD_PROMOTE, "");
    if (!r)
        return NULL;
    json_decref(r);
    for (int ms = 0; ms < ARBITER_MAX_MS && !ended(c); ms += FLUSH_POLL_MS) {
        dmt_lease_status(a->lease, &ls);
        if (ls.holder && !ls.readonly)
            return json_pack("{s:s}", "text", "promoted");
        control_progress(c->control, ls.waiting[0] ? ls.waiting : "waiting for the promotion", 0, 0,
                         "");
        nap();
    }
    if (c->err->code)
        return NULL;
    dmt_err_set(c->err, -ETIMEDOUT, "not promoted within %d s%s%.200s", ARBITER_MAX_MS / 1000,
                events_since(a, since, NULL, why, sizeof why) > since ? ": " : "", why);
    dmt_err_hint(c->err,
                 "The arbiter promotes only a copy that is in sync, and must be reachable: "
                 "`dumont status %s`. If both are gone for ever: dumont promote %s --force",
                 a->name, a->name);
    return NULL;
}

json_t *verb_fence(struct call *c)
{
    return lease_command(c, DMT_LEASE_CMD_FENCE,
                         "fenced: this machine writes no more; `dumont promote` takes it back");
}
