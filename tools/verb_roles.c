/* verb_roles.c: `dumont handover|promote|fence|flush`: requests to the workspace's process about
 * who holds it and how far it has drained. One thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tools/dumont.h"

/* Asks, and prints what is answered; *ret is the caller's. */
static int call(const char *ws, json_t *req, json_t **ret)
{
    struct dmt_err err = {0};
    int rc = control_call(ws, req, ret, &err);
    if (rc != 0)
        return fail_call(rc, &err);
    if (opt_json)
        print_json(*ret);
    else if (*json_str(*ret, "text"))
        printf("%s\n", json_str(*ret, "text"));
    return EXIT_OK;
}

static int ask(const char *ws, json_t *req)
{
    json_t *r = NULL;
    int rc = call(ws, req, &r);
    json_decref(r);
    return rc;
}

/* Who used the mount on this machine: what becomes of each. */
static void print_users(const json_t *users)
{
    size_t i;
    json_t *u;
    bool frozen = false;
    json_array_foreach(users, i, u)
    {
        bool by_us = json_bool(u, "frozen");
        if (i == 0)
            printf("still in use on this machine by:\n");
        frozen |= by_us;
        printf("  %7d  %-8s  %s: %s\n", (int)json_u64(u, "pid"),
               by_us                         ? "stopped"
               : json_bool(u, "was_stopped") ? "(stopped)"
                                             : "runs",
               json_str(u, "command"), json_str(u, "file"));
    }
    if (json_array_size(users) > 0)
        printf("What they have open here fails from now on (ENOTCONN, \"Transport endpoint is not "
               "connected\").\n");
    if (frozen)
        printf("Start the stopped ones again where the workspace is now, and end them here: kill "
               "-KILL PID; or let them go on into the error: kill -CONT PID.\n");
}

/* A number of seconds that the workspace will judge; -1: it is none. */
static int seconds_of(const char *s)
{
    char *end;
    long n = strtol(s, &end, 10);
    return *s && !*end && n >= 0 && n <= INT32_MAX ? (int)n : -1;
}

static int run_handover(int argc, char **argv)
{
    const char *ws = NULL;
    json_t *r = NULL, *q = json_pack("{s:s}", "cmd", "handover");
    bool bad = false;
    for (int i = 1; i < argc; i++) {
        int s;
        if (strcmp(argv[i], "--freeze") == 0)
            json_object_set_new(q, "freeze", json_true());
        else if (strcmp(argv[i], "--grace") == 0 && i + 1 < argc &&
                 (s = seconds_of(argv[i + 1])) >= 0)
            json_object_set_new(q, "grace_s", json_integer(s)), i++;
        else if (argv[i][0] == '-' || ws)
            bad = true;
        else
            ws = argv[i];
    }
    if (!ws || bad) {
        json_decref(q);
        return usage_of(&verb_handover);
    }
    int rc = call(ws, q, &r);
    if (rc == EXIT_OK && !opt_json)
        print_users(json_object_get(r, "users"));
    json_decref(r);
    return rc;
}
const struct verb verb_handover = {
    "handover", "NAME [--grace SECONDS] [--freeze]",
    "move the workspace to its standby: drain, pass the epoch, mount there", run_handover};

/* Without the word the process says what would be lost; a person at a terminal may then say it. */
static int promote_forced(const char *ws, bool yes)
{
    char line[128] = "";
    if (!yes) {
        struct dmt_err err = {0};
        json_t *r = NULL;
        int rc = control_call(ws, json_pack("{s:s, s:b}", "cmd", "promote", "force", 1), &r, &err);
        json_decref(r);
        if (rc != DMT_E_WORD || opt_json || !isatty(STDIN_FILENO))
            return fail_call(rc, &err);
        fprintf(stderr,
                "%s.\nThis cannot be taken back. Type the workspace's name to do it: ", err.msg);
        if (!fgets(line, sizeof line, stdin))
            return EXIT_USAGE;
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, ws) != 0)
            return failf(EXIT_USAGE, NULL, "that is not its name: nothing was done");
    }
    return ask(ws, json_pack("{s:s, s:b, s:s}", "cmd", "promote", "force", 1, "word", ws));
}

static int run_promote(int argc, char **argv)
{
    const char *ws = NULL;
    bool force = false, yes = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--force") == 0)
            force = true;
        else if (strcmp(argv[i], "--yes") == 0)
            yes = true;
        else if (argv[i][0] == '-' || ws)
            return usage_of(&verb_promote);
        else
            ws = argv[i];
    }
    if (!ws || (yes && !force))
        return usage_of(&verb_promote);
    return force ? promote_forced(ws, yes) : ask(ws, json_pack("{s:s}", "cmd", "promote"));
}
const struct verb verb_promote = {"promote", "NAME [--force [--yes]]",
                                  "make this standby the holder now; --force: though nobody else "
                                  "can be asked, with what is here",
                                  run_promote};

static int run_fence(int argc, char **argv)
{
    if (argc != 2)
        return usage_of(&verb_fence);
    return ask(argv[1], json_pack("{s:s}", "cmd", "fence"));
}
const struct verb verb_fence = {
    "fence", "NAME", "stop this machine from writing to the workspace, at once", run_fence};

static int run_flush(int argc, char **argv)
{
    const char *to = "", *ws = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--to") == 0 && i + 1 < argc)
            to = argv[++i];
        else if (argv[i][0] == '-' || ws)
            return usage_of(&verb_flush);
        else
            ws = argv[i];
    }
    if (!ws || (*to && strcmp(to, "standby") != 0 && strcmp(to, "archive") != 0))
        return usage_of(&verb_flush);
    return ask(ws, json_pack("{s:s, s:s}", "cmd", "flush", "to", to));
}
const struct verb verb_flush = {"flush", "NAME [--to standby|archive]",
                                "wait until everything written so far has arrived there",
                                run_flush};
