/* verb_check.c: `dumont check NAME`: is what is stored sound? and `dumont verify NAME`: are the
 * copies equal?
 *
 * check works on a workspace that is not running: every record of the journal (checksum, chain,
 * order), the database's own check, invariants of rows and data files. It changes nothing. verify
 * asks the running holder to drain to the standby, then compares tree digests of both; with
 * --archive it restores into a scratch store and compares that digest. Exit 4 when something is
 * found. One thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/journal/journal.h"
#include "fs/store/store.h"
#include "tools/dumont.h"
#include "tools/restore.h"

struct findings {
    json_t *list;
    uint64_t records, last_seq, chain, last_epoch;
};

static void found(void *ctx, const char *text)
{
    struct findings *f = ctx;
    json_array_append_new(f->list, json_string(text));
    if (!opt_json)
        printf("%s\n", text);
}

static int record(void *ctx, const struct dmt_rec *r)
{
    struct findings *f = ctx;
    char text[160];
    if (f->records && r->seq != f->last_seq + 1) {
        snprintf(text, sizeof text, "journal: position %" PRIu64 " is followed by %" PRIu64,
                 f->last_seq, r->seq);
        found(f, text);
    }
    if (r->epoch < f->last_epoch) {
        snprintf(text, sizeof text, "journal: the epoch goes back at position %" PRIu64, r->seq);
        found(f, text);
    }
    f->records++;
    f->last_seq = r->seq;
    f->last_epoch = r->epoch;
    f->chain = r->chain;
    return 0;
}

static int run_check(int argc, char **argv)
{
    struct dmt_err err = {0};
    struct dmt_conf *c = NULL;
    struct dmt_store *st = NULL;
    struct findings f = {0};
    char store[4096], dir[4200];
    if (argc != 2)
        return usage_of(&verb_check);
    if (ws_load(argv[1], &c, store, &err) != 0)
        return fail(EXIT_ABSENT, &err);
    dmt_conf_free(c);
    struct dmt_store_conf sc = {.io = dmt_io_real(), .clock = dmt_clock_real(), .dir = store};
    int rc = dmt_store_open(&st, &sc, &err);
    if (rc == -EBUSY) {
        dmt_err_hint(
            &err,
            "Unmount it first; `dumont verify %s` compares the copies of a running workspace.",
            argv[1]);
        return fail(EXIT_FAILED, &err);
    }
    f.list = json_array();
    if (rc != 0)
        found(&f, err.msg);
    snprintf(dir, sizeof dir, "%s/journal", store);
    if (dmt_journal_scan(dmt_io_real(), dir, record, &f, &err) < 0)
        found(&f, err.msg);
    if (st) {
        struct dmt_pos applied = dmt_store_applied(st);
        if (f.records && f.last_seq < applied.seq)
            found(&f, "journal: it ends before the database's position (records are missing)");
        if (dmt_store_check(st, found, &f, &err) < 0)
            found(&f, err.msg);
        dmt_store_close(st);
    }
    size_t n = json_array_size(f.list);
    if (opt_json)
        print_json(f.list);
    else if (n == 0)
        printf("%s is sound: %" PRIu64 " records, last position %" PRIu64 "\n", argv[1], f.records,
               f.last_seq);
    else
        printf(
            "%zu findings. Keep this store as it is; a standby or the archive has the same workspace:\n"
            "  dumont promote %s   (on the standby)     dumont workspace create NEW --from URL\n",
            n, argv[1]);
    json_decref(f.list);
    return n ? EXIT_DIFFERS : EXIT_OK;
}

const struct verb verb_check = {
    "check", "NAME", "verify journal, database and data files of a workspace that is not running",
    run_check};

/* --- verify ----------------------------------------------------------------------------------- */
static int digest_of_archive(const char *name, const char *url, char hex[65])
{
    struct dmt_err err = {0};
    struct dmt_ws *ws;
    struct dmt_pool *pool;
    char scratch[64];
    snprintf(scratch, sizeof scratch, "/var/tmp/dumont-verify-%d", (int)getpid());
    int rc = restore_store(url, scratch, name, NULL);
    if (rc == EXIT_OK) {
        int e = open_offline(scratch, &ws, &pool, &err);
        if (e == 0) {
            e = dmt_ws_digest(ws, DMT_LIVE, hex, &err);
            close_offline(ws, pool);
        }
        rc = e == 0 ? EXIT_OK : fail(EXIT_FAILED, &err);
    }
    remove_path(scratch);
    return rc;
}

static int report(const char *here, const char *other, const char *there)
{
    bool same = strcmp(here, there) == 0;
    if (opt_json) {
        json_t *o = json_pack("{s:s, s:s, s:b}", "here", here, "there", there, "equal", same);
        print_json(o);
        json_decref(o);
    } else {
        printf("holder  %s\n%-7s %s\n%s\n", here, other, there, same ? "equal" : "DIFFERENT");
    }
    return same ? EXIT_OK : EXIT_DIFFERS;
}

static int verify_archive(const char *name)
{
    struct dmt_err err = {0};
    json_t *r = NULL, *proved = NULL;
    char here[65], there[65] = "";
    if (control_call(name, json_pack("{s:s, s:s}", "cmd", "verify", "with", "archive"), &r, &err) !=
        0)
        return fail(strstr(err.msg, "not running") ? EXIT_ABSENT : EXIT_FAILED, &err);
    snprintf(here, sizeof here, "%s", json_str(r, "digest"));
    int rc = digest_of_archive(name, json_str(r, "url"), there);
    json_decref(r);
    if (rc != EXIT_OK)
        return rc;
    if (strcmp(here, there) == 0 &&
        control_call(name, json_pack("{s:s}", "cmd", "proved"), &proved, &err) == 0)
        json_decref(proved);
    return report(here, "archive", there);
}

static int api_digest(const char *name, const char *node, char hex[65], uint64_t *applied,
                      struct dmt_err *err)
{
    char path[256];
    json_t *r = NULL;
    snprintf(path, sizeof path, "/workspaces/%s/digest", name);
    int rc = dumontd_call("POST", path, json_pack("{s:s}", "node", node), &r, err);
    if (rc != 0)
        return rc;
    snprintf(hex, 65, "%s", json_str(r, "digest"));
    *applied = json_u64(r, "applied");
    json_decref(r);
    return 0;
}

/* Asks both machines by way of the controller. Somebody may be writing: what differs at different
 * positions is asked again. */
static int verify_standby(const char *name)
{
    struct dmt_err err = {0};
    char path[256], here[65] = "", there[65] = "", holder[65] = "", other[65] = "";
    json_t *ws = NULL, *r = NULL, *n;
    uint64_t at = 0, there_at = 1;
    size_t i;
    snprintf(path, sizeof path, "/workspaces/%s", name);
    int rc = dumontd_call("GET", path, NULL, &ws, &err);
    if (rc == 0) {
        snprintf(holder, sizeof holder, "%s", json_str(ws, "holder"));
        json_array_foreach(json_object_get(ws, "in_sync"), i, n)
        {
            if (strcmp(json_string_value(n), holder) != 0)
                snprintf(other, sizeof other, "%s", json_string_value(n));
        }
        json_decref(ws);
    }
    if (rc == 0 && !other[0])
        return failf(
            EXIT_FAILED,
            "Run this on the controller; `dumont verify NAME --archive` compares with a restore instead.",
            "%s has no standby in sync that can be reached from here", name);
    for (int round = 0; rc == 0 && round < 5 && at != there_at; round++) {
        snprintf(path, sizeof path, "/workspaces/%s/flush", name);
        rc = dumontd_call("POST", path, json_pack("{s:s}", "to", "standby"), &r, &err);
        if (rc == 0)
            rc = api_digest(name, holder, here, &at, &err);
        if (rc == 0)
            rc = api_digest(name, other, there, &there_at, &err);
        json_decref(r);
        r = NULL;
        if (strcmp(here, there) == 0)
            break;
    }
    return rc == 0 ? report(here, "standby", there) : fail(EXIT_FAILED, &err);
}

static int run_verify(int argc, char **argv)
{
    bool archive = argc == 3 && strcmp(argv[2], "--archive") == 0;
    if (argc != 2 && !archive)
        return usage_of(&verb_verify);
    return archive ? verify_archive(argv[1]) : verify_standby(argv[1]);
}

const struct verb verb_verify = {
    "verify", "NAME [--archive]",
    "compare this copy with the standby's, or with a restore from the archive", run_verify};
