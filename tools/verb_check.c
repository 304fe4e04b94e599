/* verb_check.c: `dumont check NAME`: is what is stored sound? and `dumont verify NAME`: are the copies equal?
 *
 * check works on a workspace that is not running: every record of the journal (checksum, chain, order), the database's own check, invariants of rows and
 * data files. It changes nothing. verify asks the running holder to drain to the standby, then compares tree digests of both; with --archive it restores into a
 * scratch store and compares that digest. Exit 4 when something is found. One thread.
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
        snprintf(text, sizeof text, "journal: position %" PRIu64 " is followed by %" PRIu64, f->last_seq, r->seq);
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
    struct findings f = {.list = json_array()};
    char store[4096], dir[4200];
    if (argc != 2)
        return usage_of(&verb_check);
    if (ws_load(argv[1], &c, store, &err) != 0)
        return fail(EXIT_ABSENT, &err);
    dmt_conf_free(c);
    struct dmt_store_conf sc = {.io = dmt_io_real(), .clock = dmt_clock_real(), .dir = store};
    int rc = dmt_store_open(&st, &sc, &err);
    if (rc == -EBUSY) {
        dmt_err_hint(&err, "Unmount it first; `dumont verify %s` compares the copies of a running workspace.", argv[1]);
        return fail(EXIT_FAILED, &err);
    }
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
        printf("%s is sound: %" PRIu64 " records, last position %" PRIu64 "\n", argv[1], f.records, f.last_seq);
    else
        printf("%zu findings. Keep this store as it is; a standby or the archive has the same workspace:\n"
               "  dumont promote %s   (on the standby)     dumont workspace create NEW --from URL\n", n, argv[1]);
    json_decref(f.list);
    return n ? EXIT_DIFFERS : EXIT_OK;
}

const struct verb verb_check = {"check", "NAME", "verify journal, database and data files of a workspace that is not running", run_check};

/* --- verify ------------------------------------------------------------------------------------------------------------------ */
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

static int run_verify(int argc, char **argv)
{
    struct dmt_err err = {0};
    bool archive = argc == 3 && strcmp(argv[2], "--archive") == 0;
    json_t *r = NULL;
    char here[65] = "", there[65] = "";
    if (argc != 2 && !archive)
        return usage_of(&verb_verify);
    const char *name = argv[1];
    if (control_call(name, json_pack("{s:s, s:s}", "cmd", "verify", "with", archive ? "archive" : "standby"), &r, &err) != 0)
        return fail(strstr(err.msg, "not running") ? EXIT_ABSENT : EXIT_FAILED, &err);
    snprintf(here, sizeof here, "%s", json_str(r, "digest"));
    snprintf(there, sizeof there, "%s", json_str(r, "other"));
    int rc = EXIT_OK;
    if (archive) {
        rc = digest_of_archive(name, json_str(r, "url"), there);
        json_t *proved = NULL;
        if (rc == EXIT_OK && strcmp(here, there) == 0 && control_call(name, json_pack("{s:s}", "cmd", "proved"), &proved, &err) == 0)
            json_decref(proved);
    }
    json_decref(r);
    if (rc != EXIT_OK)
        return rc;
    bool same = strcmp(here, there) == 0;
    if (opt_json) {
        json_t *o = json_pack("{s:s, s:s, s:b}", "here", here, "there", there, "equal", same);
        print_json(o);
        json_decref(o);
    } else {
        printf("here    %s\n%s %s\n%s\n", here, archive ? "archive" : "standby", there, same ? "equal" : "DIFFERENT");
    }
    return same ? EXIT_OK : EXIT_DIFFERS;
}

const struct verb verb_verify = {"verify", "NAME [--archive]", "compare this copy with the standby's, or with a restore from the archive", run_verify};
