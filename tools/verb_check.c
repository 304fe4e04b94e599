/* verb_check.c: `dumont check NAME`: is what is stored sound? and `dumont verify NAME`: are the
 * copies equal?
 *
 * check works on a workspace that is not running: the journal, the database, the data files, and
 * what each says about the others (fs/workspace/check.c). It changes nothing; with --repair it puts
 * right what can be put right without losing anything, each step told before it is done. verify
 * makes a snapshot, has everything up to it arrive at the standby, and compares the digests of both
 * there; with --archive it restores into a scratch store and compares that one. Exit 4 when
 * something is found, and is still there at the end. One thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/base/clock.h"
#include "fs/base/mountinfo.h"
#include "fs/workspace/workspace.h"
#include "tools/dumont.h"
#include "tools/restore.h"

struct report {
    json_t *found, *repaired, *left; /* left: what is found after a repair */
    bool again;
    char todo[512]; /* of the findings printed last, said behind them */
};

static void say_todo(struct report *r)
{
    if (r->todo[0] && !opt_json)
        printf("  %s\n", r->todo);
    r->todo[0] = '\0';
}

static void found(void *ctx, const struct dmt_finding *f)
{
    struct report *r = ctx;
    json_array_append_new(r->again ? r->left : r->found,
                          json_pack("{s:s, s:o, s:s, s:b}", "kind", f->kind, "text",
                                    json_bytes(f->text), "todo", f->todo, "repairable",
                                    f->repairable));
    if (opt_json)
        return;
    progress_end();
    if (*f->todo && strcmp(f->todo, r->todo) != 0) {
        say_todo(r);
        snprintf(r->todo, sizeof r->todo, "%s", f->todo);
    }
    printf("%s\n", f->text);
}

static void repairing(void *ctx, const char *text)
{
    struct report *r = ctx;
    r->again = true;
    json_array_append_new(r->repaired, json_bytes(text));
    if (opt_json)
        return;
    progress_end();
    say_todo(r);
    printf("repair: %s\n", text);
    fflush(stdout);
}

static void step(void *ctx, const char *what, uint64_t records)
{
    (void)ctx;
    progress(what, records, 0, records ? "records" : "");
}

/* What is to be said at the end, and the exit code. */
static int conclude(const struct dmt_ws_check *k, const char *name)
{
    if (k->findings == 0) {
        if (!opt_json)
            printf("%s is sound: %" PRIu64 " records, last position %" PRIu64 "\n", name,
                   k->records, k->last_seq);
        return EXIT_OK;
    }
    const char *many = k->findings == 1 ? "finding" : "findings";
    if (k->repair && k->repaired)
        return failf(EXIT_DIFFERS,
                     "Keep this store as it is; a standby or the archive has the same workspace.",
                     "%" PRIu64 " %s left after the repair of %s", k->findings, many, name);
    if (k->repair && k->lossy)
        return failf(
            EXIT_DIFFERS,
            "Promote the standby (dumont promote), or restore (dumont workspace create NEW "
            "--from URL); `dumont check` lists what is repairable.",
            "nothing was repaired: something in %s may be lost, and a repair would hide it", name);
    if (k->repair)
        return failf(
            EXIT_DIFFERS,
            "Mount it and unmount it once (a standby: start and stop it), then repair.",
            "nothing was repaired: the journal of %s has records that the database has not", name);
    if (opt_json)
        return EXIT_DIFFERS;
    printf("%" PRIu64 " %s.\n", k->findings, many);
    if (k->lossy)
        printf(
            "Keep this store as it is; a standby or the archive has the same workspace:\n"
            "  dumont promote %s   (on the standby)     dumont workspace create NEW --from URL\n",
            name);
    else
        printf("Nothing is lost. To put it right:\n  dumont check %s --repair\n", name);
    return EXIT_DIFFERS;
}

static void print_report(const struct report *r, bool repair)
{
    json_t *o = repair ? json_pack("{s:O, s:O, s:O}", "found", r->found, "repaired", r->repaired,
                                   "left", r->again ? r->left : r->found)
                       : json_incref(r->found);
    print_json(o);
    json_decref(o);
}

static int in_use(const char *name, struct dmt_err *err)
{
    dmt_err_hint(err,
                 "Unmount it first; `dumont verify %s` compares the copies of a running "
                 "workspace.",
                 name);
    return fail(EXIT_FAILED, err);
}

static int run_check(int argc, char **argv)
{
    struct dmt_err err = {0};
    struct dmt_conf *c = NULL;
    struct dmt_mount m;
    char store[4096];
    bool repair = argc == 3 && strcmp(argv[2], "--repair") == 0;
    if ((argc != 2 && !repair) || argv[1][0] == '-')
        return usage_of(&verb_check);
    int rc = ws_load(argv[1], &c, store, &err);
    if (rc != 0)
        return fail_conf(rc, &err);
    dmt_conf_free(c);
    if (repair && dmt_mountinfo_workspace(argv[1], &m) > 0) {
        dmt_err_set(&err, -EBUSY, "%s is mounted on %s, so its store is in use", argv[1], m.dir);
        return in_use(argv[1], &err);
    }
    struct report r = {.found = json_array(), .repaired = json_array(), .left = json_array()};
    struct dmt_ws_check k = {.io = dmt_io_real(),
                             .clock = dmt_clock_real(),
                             .dir = store,
                             .repair = repair,
                             .found = found,
                             .repairing = repairing,
                             .step = step,
                             .ctx = &r};
    rc = dmt_ws_check(&k, &err);
    progress_end();
    say_todo(&r);
    int code = EXIT_OK;
    if (rc == -EBUSY)
        code = in_use(argv[1], &err);
    else if (rc < 0)
        code = fail(EXIT_FAILED, &err);
    else {
        if (opt_json)
            print_report(&r, repair);
        code = conclude(&k, argv[1]);
    }
    json_decref(r.found);
    json_decref(r.repaired);
    json_decref(r.left);
    return code;
}

const struct verb verb_check = {
    "check", "NAME [--repair]",
    "verify journal, database and data files of a workspace that is not running", run_check};

/* --- verify -----------------------------------------------------------------------------------
 * Copies are compared at a snapshot made for it: a moment that all of them have, whoever writes
 * meanwhile. It is deleted at the end, whatever came out. */
struct moment {
    const char *name;
    char snap[64];
    char here[65], there[65];
    struct dmt_err err;
};

static void name_snapshot(struct moment *m)
{
    const struct dmt_clock *clk = dmt_clock_real();
    uint64_t ms = clk->realtime_ns(clk->ctx) / DMT_MS;
    snprintf(m->snap, sizeof m->snap, "verify-%" PRIu64, ms);
}

static int report(const struct moment *m, const char *other)
{
    bool same = strcmp(m->here, m->there) == 0;
    if (opt_json) {
        json_t *o = json_pack("{s:s, s:s, s:b}", "here", m->here, "there", m->there, "equal", same);
        print_json(o);
        json_decref(o);
    } else {
        printf("holder  %s\n%-7s %s\n%s\n", m->here, other, m->there, same ? "equal" : "DIFFERENT");
        if (!same)
            printf(
                "keep both as they are; `dumont check` on each machine says which one is damaged\n");
    }
    return same ? EXIT_OK : EXIT_DIFFERS;
}

static int digest_at(struct dmt_ws *ws, const char *snap, char hex[65], struct dmt_err *err)
{
    struct dmt_snapshot s;
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    lk.lock(lk.ctx);
    int rc = dmt_store_snap_get(dmt_ws_store(ws), snap, &s);
    lk.unlock(lk.ctx);
    if (rc != 0)
        return dmt_err_set(err, rc, "the restored workspace has no snapshot %s", snap);
    progress("computing the digest of the restored tree", 0, 0, "");
    rc = dmt_ws_digest(ws, s.seq, hex, err);
    progress_end();
    return rc;
}

/* An exit code; m->there. The scratch store is as secret as the workspace: mkdtemp, mode 0700. */
static int digest_of_archive(struct moment *m, const char *url)
{
    struct dmt_ws *ws;
    struct dmt_pool *pool;
    char scratch[] = "/var/tmp/dumont-verify-XXXXXX";
    if (!mkdtemp(scratch))
        return failf(EXIT_FAILED, "A restore needs room there.", "cannot make %s: %s", scratch,
                     strerror(errno));
    int rc = restore_store(url, scratch, m->name, NULL, NULL, false);
    if (rc == EXIT_OK) {
        int e = open_offline(scratch, &ws, &pool, &m->err);
        if (e == 0) {
            e = digest_at(ws, m->snap, m->there, &m->err);
            close_offline(ws, pool);
        }
        rc = e == 0 ? EXIT_OK : fail(EXIT_FAILED, &m->err);
    }
    remove_path(scratch);
    return rc;
}

static int verify_archive(const char *name)
{
    struct moment m = {.name = name};
    json_t *r = NULL, *x = NULL;
    name_snapshot(&m);
    int rc = control_call(name,
                          json_pack("{s:s, s:s, s:s}", "cmd", "snapshot.create", "name", m.snap,
                                    "note", "made by dumont verify"),
                          &x, &m.err);
    if (rc != 0)
        return fail_call(rc, &m.err);
    json_decref(x);
    rc = control_call(
        name, json_pack("{s:s, s:s, s:s}", "cmd", "verify", "with", "archive", "snapshot", m.snap),
        &r, &m.err);
    int code = rc == 0 ? EXIT_OK : fail_call(rc, &m.err);
    if (code == EXIT_OK) {
        snprintf(m.here, sizeof m.here, "%s", json_str(r, "digest"));
        code = digest_of_archive(&m, json_str(r, "url"));
        json_decref(r);
    }
    if (control_call(name, json_pack("{s:s, s:s}", "cmd", "snapshot.delete", "name", m.snap), &x,
                     NULL) == 0)
        json_decref(x);
    if (code != EXIT_OK)
        return code;
    if (strcmp(m.here, m.there) == 0 &&
        control_call(name, json_pack("{s:s}", "cmd", "proved"), &x, NULL) == 0)
        json_decref(x);
    return report(&m, "archive");
}

/* --- by way of the controller, who reaches both machines */
static int api(struct moment *m, const char *method, const char *rest, json_t *body, json_t **ret)
{
    char path[512];
    json_t *r = NULL;
    snprintf(path, sizeof path, "/workspaces/%s%s", m->name, rest);
    int rc = dumontd_call(method, path, body, &r, &m->err);
    if (rc == 0 && ret)
        *ret = r;
    else if (rc == 0)
        json_decref(r);
    return rc;
}

static int api_digest(struct moment *m, const char *node, char hex[65])
{
    json_t *r = NULL;
    int rc =
        api(m, "POST", "/digest", json_pack("{s:s, s:s}", "node", node, "snapshot", m->snap), &r);
    if (rc != 0)
        return rc;
    snprintf(hex, 65, "%s", json_str(r, "digest"));
    json_decref(r);
    return 0;
}

static int find_pair(struct moment *m, char holder[65], char other[65])
{
    json_t *ws = NULL, *n;
    size_t i;
    int rc = api(m, "GET", "", NULL, &ws);
    if (rc != 0)
        return rc;
    snprintf(holder, 65, "%s", json_str(ws, "holder"));
    json_array_foreach(json_object_get(ws, "in_sync"), i, n)
    {
        if (strcmp(json_string_value(n), holder) != 0)
            snprintf(other, 65, "%s", json_string_value(n));
    }
    json_decref(ws);
    if (*other)
        return 0;
    dmt_err_set(&m->err, -ENOENT, "%s has no standby in sync that can be reached from here",
                m->name);
    return dmt_err_hint(
        &m->err,
        "Run this on the controller; `dumont verify NAME --archive` compares with a restore instead.");
}

static int verify_standby(const char *name)
{
    struct moment m = {.name = name};
    char holder[65] = "", other[65] = "", item[128];
    name_snapshot(&m);
    int rc = find_pair(&m, holder, other);
    if (rc != 0)
        return fail_call(rc, &m.err);
    rc = api(&m, "POST", "/snapshots",
             json_pack("{s:s, s:s}", "name", m.snap, "note", "made by dumont verify"), NULL);
    if (rc != 0)
        return fail_call(rc, &m.err);
    rc = api(&m, "POST", "/flush", json_pack("{s:s}", "to", "standby"), NULL);
    if (rc == 0)
        rc = api_digest(&m, holder, m.here);
    if (rc == 0)
        rc = api_digest(&m, other, m.there);
    int code = rc == 0 ? EXIT_OK : fail_call(rc, &m.err);
    snprintf(item, sizeof item, "/snapshots/%s", m.snap);
    if (api(&m, "DELETE", item, NULL, NULL) != 0 && code == EXIT_OK)
        code = fail_call(-EIO, &m.err);
    return code == EXIT_OK ? report(&m, "standby") : code;
}

static int run_verify(int argc, char **argv)
{
    bool archive = argc == 3 && strcmp(argv[2], "--archive") == 0;
    if ((argc != 2 && !archive) || argv[1][0] == '-')
        return usage_of(&verb_verify);
    return archive ? verify_archive(argv[1]) : verify_standby(argv[1]);
}

const struct verb verb_verify = {
    "verify", "NAME [--archive]",
    "compare this copy with the standby's, or with a restore from the archive", run_verify};
