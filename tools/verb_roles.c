/* verb_roles.c: `dumont handover|promote|fence|flush`: requests to the workspace's process about
 * who holds it and how far it has drained. One thread. */
#include <stdio.h>
#include <string.h>
#include "tools/dumont.h"

static int ask(const char *ws, json_t *req)
{
    struct dmt_err err = {0};
    json_t *r = NULL;
    int rc = control_call(ws, req, &r, &err);
    if (rc != 0)
        return fail_call(rc, &err);
    if (opt_json)
        print_json(r);
    else if (*json_str(r, "text"))
        printf("%s\n", json_str(r, "text"));
    json_decref(r);
    return EXIT_OK;
}

static int run_handover(int argc, char **argv)
{
    if (argc != 2)
        return usage_of(&verb_handover);
    return ask(argv[1], json_pack("{s:s}", "cmd", "handover"));
}
const struct verb verb_handover = {
    "handover", "NAME", "move the workspace to its standby: drain, pass the epoch, mount there",
    run_handover};

static int run_promote(int argc, char **argv)
{
    if (argc != 2)
        return usage_of(&verb_promote);
    return ask(argv[1], json_pack("{s:s}", "cmd", "promote"));
}
const struct verb verb_promote = {"promote", "NAME",
                                  "make this standby the holder now, without waiting for silence",
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
