/* verb_snapshot.c: `dumont snapshot create|list|show|diff|delete` and `dumont rollback`: asked of
 * the workspace's process. One thread. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "tools/dumont.h"

static int call(const char *ws, json_t *req, json_t **ret)
{
    struct dmt_err err = {0};
    int rc = control_call(ws, req, ret, &err);
    return rc == 0 ? EXIT_OK : fail_call(rc, &err);
}

static void print_one(const json_t *s)
{
    char t[32];
    bool branch = json_bool(s, "branch"); /* of records of many times */
    printf("%-32s  %-19s  position %-10" PRIu64 "  %s\n", json_str(s, "name"),
           branch ? "-" : local_time(json_u64(s, "time_ns"), t), json_u64(s, "seq"),
           json_str(s, "note"));
    if (json_u64(s, "lost_bytes"))
        printf("%-32s  incomplete here: %" PRIu64
               " bytes were lost in a failover, reading them is an error; the machine that wrote "
               "them may have them\n",
               "", json_u64(s, "lost_bytes"));
}

static int snap_create(int argc, char **argv)
{
    json_t *r = NULL;
    if (argc < 2 || argc > 3)
        return usage_of(&verb_snapshot);
    int rc = call(argv[0],
                  json_pack("{s:s, s:s, s:s}", "cmd", "snapshot.create", "name", argv[1], "note",
                            argc == 3 ? argv[2] : ""),
                  &r);
    if (rc == EXIT_OK && opt_json)
        print_json(r);
    else if (rc == EXIT_OK)
        printf("snapshot %s at position %" PRIu64 "\n", json_str(r, "name"), json_u64(r, "seq"));
    json_decref(r);
    return rc;
}

static int snap_list(char **argv, const char *only)
{
    json_t *r = NULL, *s;
    size_t i;
    int rc = call(argv[0], json_pack("{s:s}", "cmd", "snapshot.list"), &r);
    if (rc != EXIT_OK)
        return rc;
    if (opt_json && !only)
        print_json(r);
    bool found = false;
    if (!opt_json || only) {
        json_array_foreach(r, i, s)
        {
            if (only && strcmp(only, json_str(s, "name")) != 0)
                continue;
            found = true;
            if (opt_json)
                print_json(s);
            else
                print_one(s);
        }
        if (!only && json_array_size(r) == 0)
            printf("no snapshots\n");
    }
    json_decref(r);
    if (only && !found)
        return failf(EXIT_FAILED, "`dumont snapshot list NAME` shows what there is.",
                     "no snapshot \"%s\" in %s", only, argv[0]);
    return EXIT_OK;
}

static int snap_delete(int argc, char **argv)
{
    json_t *r = NULL;
    if (argc != 2)
        return usage_of(&verb_snapshot);
    int rc = call(argv[0], json_pack("{s:s, s:s}", "cmd", "snapshot.delete", "name", argv[1]), &r);
    json_decref(r);
    if (rc != EXIT_OK)
        return rc;
    if (opt_json) {
        r = json_pack("{s:s}", "deleted", argv[1]);
        print_json(r);
        json_decref(r);
    } else {
        printf("snapshot %s deleted\n", argv[1]);
    }
    return rc;
}

static void print_changes(const json_t *list)
{
    size_t i;
    const json_t *c;
    json_array_foreach(list, i, c)
    {
        if (*json_str(c, "from"))
            printf("%s %s -> %s\n", json_str(c, "kind"), json_str(c, "from"), json_str(c, "path"));
        else
            printf("%s %s\n", json_str(c, "kind"), json_str(c, "path"));
    }
}

static int snap_diff(int argc, char **argv)
{
    json_t *r = NULL;
    if (argc < 2 || argc > 3)
        return usage_of(&verb_snapshot);
    int rc = call(argv[0],
                  json_pack("{s:s, s:s, s:s}", "cmd", "snapshot.diff", "from", argv[1], "to",
                            argc == 3 ? argv[2] : ""),
                  &r);
    if (rc != EXIT_OK)
        return rc;
    if (opt_json)
        print_json(r);
    else
        print_changes(r);
    rc = json_array_size(r) ? EXIT_DIFFERS : EXIT_OK;
    json_decref(r);
    return rc;
}

static int run_snapshot(int argc, char **argv)
{
    if (argc < 3)
        return usage_of(&verb_snapshot);
    const char *what = argv[1];
    argc -= 2;
    argv += 2;
    if (strcmp(what, "create") == 0)
        return snap_create(argc, argv);
    if (strcmp(what, "list") == 0 && argc == 1)
        return snap_list(argv, NULL);
    if (strcmp(what, "show") == 0 && argc == 2)
        return snap_list(argv, argv[1]);
    if (strcmp(what, "delete") == 0)
        return snap_delete(argc, argv);
    if (strcmp(what, "diff") == 0)
        return snap_diff(argc, argv);
    return usage_of(&verb_snapshot);
}

const struct verb verb_snapshot = {
    "snapshot",
    "create NAME SNAPSHOT [NOTE] | list NAME | show NAME SNAPSHOT | diff NAME FROM [TO] | delete NAME SNAPSHOT",
    "make, list, compare and delete snapshots", run_snapshot};

/* --- rollback --------------------------------------------------------------------------------- */
static int run_rollback(int argc, char **argv)
{
    const char *ws = NULL, *snap = NULL, *to = NULL;
    bool dry = false;
    json_t *paths = json_array(), *r = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--dry-run") == 0)
            dry = true;
        else if (strcmp(argv[i], "--to") == 0 && i + 1 < argc)
            to = argv[++i];
        else if (argv[i][0] == '-')
            ws = NULL, i = argc;
        else if (!ws)
            ws = argv[i];
        else if (!snap && !to)
            snap = argv[i];
        else
            json_array_append_new(paths, json_string(argv[i]));
    }
    if (!ws || (!snap && !to)) {
        json_decref(paths);
        return usage_of(&verb_rollback);
    }
    int rc = call(ws,
                  json_pack("{s:s, s:s, s:s, s:o, s:b}", "cmd", "rollback", "snapshot",
                            snap ? snap : "", "to", to ? to : "", "paths", paths, "dry_run", dry),
                  &r);
    if (rc != EXIT_OK)
        return rc;
    if (opt_json) {
        print_json(r);
    } else {
        if (dry)
            print_changes(json_object_get(r, "changes"));
        printf("%" PRIu64 " files %s\n", json_u64(r, "changed"), dry ? "would change" : "changed");
        if (json_u64(r, "incomplete"))
            printf("%" PRIu64 " files %s\n", json_u64(r, "incomplete"),
                   to ? "have older content than that: their bulk data of that moment was not "
                        "archived"
                      : "have zeros where this machine lost their bytes in a failover; the machine "
                        "that wrote them may have them: hand the workspace over to it, then roll "
                        "back there");
        if (!dry)
            printf("the state before is kept as snapshot %s: roll back to it to undo this\n",
                   json_str(r, "saved_as"));
    }
    json_decref(r);
    return EXIT_OK;
}

const struct verb verb_rollback = {"rollback", "NAME (SNAPSHOT | --to TIME) [PATH...] [--dry-run]",
                                   "bring the workspace, or some paths, back to an earlier state",
                                   run_rollback};
