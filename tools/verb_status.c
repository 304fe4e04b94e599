/* verb_status.c: `dumont status`: one screen: role, epoch, lag, what is pending, when a restore was
 * last proved. Asks each workspace's own process; one that does not run is shown as such from its
 * files. --watch says it every second until Ctrl-C (a terminal is redrawn). One thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "fs/base/clock.h"
#include "fs/base/clock.h"
#include "tools/dumont.h"

/* The end of a line: how far a resync is. */
static void resync_progress(const json_t *p, const char *verb)
{
    char a[32], b[32];
    uint64_t total = json_u64(p, "resync_total_bytes"), eta = json_u64(p, "resync_eta_ms");
    if (total == 0) {
        printf("resync: finding out what differs\n");
        return;
    }
    printf("resync: %s of %s %s", human_bytes(json_u64(p, "resync_bytes"), a),
           human_bytes(total, b), verb);
    if (eta)
        printf(", about %" PRIu64 " s left", (eta + 999) / 1000);
    printf("\n");
}

/* On a standby: where it stands with its holder. */
static void line_holder(const json_t *s)
{
    char a[32], b[32];
    const json_t *p = json_object_get(s, "holder_link");
    const char *node = json_str(s, "holder_node");
    printf("  holder      %s", *node ? node : "not known yet");
    if (!json_bool(p, "connected")) {
        printf(", not connected%s%s\n", *json_str(p, "note") ? ": " : "", json_str(p, "note"));
        return;
    }
    if (json_bool(s, "resync") || json_bool(p, "resyncing")) {
        printf(": ");
        resync_progress(p, "received");
        return;
    }
    printf(": received %" PRIu64 ", durable %" PRIu64 ", applied %" PRIu64
           "; bulk %s to come, round trip %s\n",
           json_u64(p, "received"), json_u64(p, "durable"), json_u64(p, "applied"),
           human_bytes(json_u64(p, "bulk_bytes"), a), human_ms(json_u64(p, "rtt_us") / 1000, b));
}

static void line_standby(const json_t *s)
{
    char a[32], b[32], c[32];
    const json_t *p = json_object_get(s, "standby");
    if (!p) {
        printf("  standby     none configured\n");
        return;
    }
    if (json_bool(p, "resyncing")) {
        printf("  standby     %s: ", json_str(p, "node"));
        resync_progress(p, "sent");
        return;
    }
    if (!json_bool(p, "connected")) {
        printf("  standby     %s%snot connected%s%s\n", json_str(p, "node"),
               *json_str(p, "node") ? " " : "", *json_str(p, "note") ? ": " : "",
               json_str(p, "note"));
        return;
    }
    printf("  standby     %s%s: received %" PRIu64 ", durable %" PRIu64 ", applied %" PRIu64
           "; lag %s, bulk %s to go, round trip %s\n",
           json_str(p, "node"), json_bool(p, "in_sync") ? "" : " (catching up)",
           json_u64(p, "received"), json_u64(p, "durable"), json_u64(p, "applied"),
           human_bytes(json_u64(p, "lag_bytes"), a), human_bytes(json_u64(p, "bulk_bytes"), b),
           human_ms(json_u64(p, "rtt_us") / 1000, c));
}

static void line_archive(const json_t *s)
{
    char a[32], t[32];
    const json_t *p = json_object_get(s, "archive");
    if (!p) {
        printf("  archive     none configured\n");
        return;
    }
    printf("  archive     %s", json_str(p, "url"));
    if (!json_bool(s, "holder")) {
        printf(" (written by the holder)\n");
        return;
    }
    printf(": up to %" PRIu64 ", %s pending", json_u64(p, "seq"),
           human_bytes(json_u64(p, "pending_bytes"), a));
    if (*json_str(p, "error"))
        printf("; failing since %s: %s", local_time(json_u64(p, "error_since_ns"), t),
               json_str(p, "error"));
    printf("\n");
    if (json_u64(p, "proved_ns"))
        printf("  restore     last proved %s\n", local_time(json_u64(p, "proved_ns"), t));
    else
        printf("  restore     never proved (dumont verify %s --archive)\n", json_str(s, "name"));
}

/* Only when it has ended: then no other machine lets this one in. */
static void line_certificate(const json_t *s)
{
    char t[64];
    const struct dmt_clock *clk = dmt_clock_real();
    uint64_t until = json_u64(s, "certificate_until_ns");
    if (until && until <= clk->realtime_ns(clk->ctx))
        printf("  certificate of %s has expired on %s: on the controller `dumontd token %s`, here "
               "`dumontd join TOKEN`\n",
               json_str(s, "node"), local_time(until, t), json_str(s, "node"));
}

static void print_status(const json_t *s)
{
    char a[32], b[32], c[32], t[32];
    printf("%s  %s%s, epoch %s\n", json_str(s, "name"), json_str(s, "state"),
           json_bool(s, "one_copy") ? " (one copy)" : "", json_str(s, "epoch"));
    if (*json_str(s, "note"))
        printf("  note        %s\n", json_str(s, "note"));
    line_certificate(s);
    if (json_bool(s, "failed"))
        printf("  FAILED      %s\n", json_str(s, "failed_why"));
    if (*json_str(s, "last_event"))
        printf("  last event  %s  %s\n", local_time(json_u64(s, "last_event_ns"), a),
               json_str(s, "last_event"));
    printf("  mounted     %s\n", *json_str(s, "mountpoint") ? json_str(s, "mountpoint") : "no");
    printf("  journal     at %" PRIu64 ", durable %" PRIu64 ", applied %" PRIu64
           ", checkpointed %" PRIu64 "; %s in segments\n",
           json_u64(s, "tail"), json_u64(s, "durable"), json_u64(s, "applied"),
           json_u64(s, "checkpointed"), human_bytes(json_u64(s, "journal_bytes"), a));
    const json_t *p = json_object_get(s, "checkpoint");
    if (json_bool(p, "failing"))
        printf("  checkpoint  failing since %s: %s\n"
               "              nothing is lost, and it is tried again every second: make room on "
               "that disk, or hand over\n",
               local_time(json_u64(p, "error_since_ns"), t), json_str(p, "error"));
    printf("  data        %" PRIu64 " files, %s; %s held by %" PRIu64
           " snapshots; %s not yet in the database\n",
           json_u64(s, "inodes"), human_bytes(json_u64(s, "live_bytes"), a),
           human_bytes(json_u64(s, "pinned_bytes"), b), json_u64(s, "snapshots"),
           human_bytes(json_u64(s, "dirty_bytes"), c));
    if (json_bool(s, "holder"))
        line_standby(s);
    else
        line_holder(s);
    line_archive(s);
    if (json_u64(s, "oldest_sync_ms") > 1000)
        printf("  waiting     oldest sync waits for %s\n",
               human_ms(json_u64(s, "oldest_sync_ms"), a));
    if (json_u64(s, "incomplete_files"))
        printf("  incomplete  %" PRIu64
               " files lost unsynced bulk data in a failover (dumont log %s --incomplete)\n",
               json_u64(s, "incomplete_files"), json_str(s, "name"));
}

static int status_one(const char *name, json_t *into)
{
    struct dmt_err err = {0};
    json_t *s = NULL;
    int rc = control_call(name, json_pack("{s:s}", "cmd", "status"), &s, &err);
    if (rc == CALL_ABSENT) {
        struct dmt_conf *c = NULL;
        char store[4096], path[4096];
        rc = ws_load(name, &c, store, &err);
        if (rc != 0)
            return fail_conf(rc, &err);
        dmt_conf_free(c);
        ws_stopped_path(name, path);
        bool stopped = access(path, F_OK) == 0;
        s = json_pack("{s:s, s:s, s:s, s:b}", "name", name, "state", "not running here", "store",
                      store, "stopped", stopped);
        if (!opt_json)
            printf("%s  not running here%s; store %s\n", name,
                   stopped ? " (unmounted or stopped by hand)" : "", store);
    } else if (rc != 0) {
        return fail_call(rc, &err);
    } else if (!opt_json) {
        print_status(s);
    }
    json_array_append_new(into, s);
    return EXIT_OK;
}

struct every {
    json_t *into;
    int rc;
};

static int each(void *ctx, const char *name)
{
    struct every *e = ctx;
    int rc = status_one(name, e->into);
    if (rc != EXIT_OK)
        e->rc = rc;
    return 0;
}

static int once(const char *name)
{
    struct every e = {.into = json_array(), .rc = EXIT_OK};
    if (name)
        e.rc = status_one(name, e.into);
    else
        ws_each(each, &e);
    if (!opt_json && !name && json_array_size(e.into) == 0 && e.rc == EXIT_OK)
        printf("no workspaces on this machine; make one with: dumont workspace create NAME\n");
    if (opt_json && e.rc == EXIT_OK)
        print_json(name ? json_array_get(e.into, 0) : e.into);
    json_decref(e.into);
    return e.rc;
}

static int run(int argc, char **argv)
{
    const char *name = NULL;
    bool watch = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--watch") == 0)
            watch = true;
        else if (argv[i][0] == '-' || name)
            return usage_of(&verb_status);
        else
            name = argv[i];
    }
    while (watch) {
        if (!opt_json && isatty(STDOUT_FILENO))
            printf("\033[H\033[2J");
        int rc = once(name);
        fflush(stdout);
        if (rc != EXIT_OK)
            return rc;
        sleep(1);
    }
    return once(name);
}

const struct verb verb_status = {"status", "[NAME] [--watch] [--json]",
                                 "where the workspaces stand: role, epoch, lag, what is pending",
                                 run};
