/* verb_node.c: `dumont node list|add|remove`: machines, by way of dumontd's API on this machine.
 * One thread. */
#include <stdio.h>
#include <string.h>
#include "tools/dumont.h"

static int list(void)
{
    struct dmt_err err = {0};
    json_t *r = NULL, *n;
    size_t i;
    int rc = dumontd_call("GET", "/nodes", NULL, &r, &err);
    if (rc != 0)
        return fail_call(rc, &err);
    const json_t *nodes = json_is_array(r) ? r : json_object_get(r, "nodes");
    if (opt_json)
        print_json(nodes);
    else
        json_array_foreach(nodes, i, n)
        {
            printf("%-16s %-10s %s\n", json_str(n, "name"), json_str(n, "state"),
                   json_str(n, "provider"));
        }
    json_decref(r);
    return EXIT_OK;
}

static int run(int argc, char **argv)
{
    struct dmt_err err = {0};
    json_t *r = NULL;
    char path[256];
    int rc;
    if (argc == 2 && strcmp(argv[1], "list") == 0)
        return list();
    if ((argc == 3 || argc == 4) && strcmp(argv[1], "add") == 0) {
        rc = dumontd_call(
            "POST", "/nodes",
            json_pack("{s:s, s:s}", "name", argv[2], "provider", argc == 4 ? argv[3] : ""), &r,
            &err);
    } else if (argc == 3 && strcmp(argv[1], "remove") == 0 && ws_name_valid(argv[2])) {
        snprintf(path, sizeof path, "/nodes/%s", argv[2]);
        rc = dumontd_call("DELETE", path, NULL, &r, &err);
    } else {
        return usage_of(&verb_node);
    }
    if (rc != 0)
        return fail_call(rc, &err);
    if (opt_json)
        print_json(r);
    else if (*json_str(r, "token"))
        printf("on %s, within an hour: dumontd join %s\n", argv[2], json_str(r, "token"));
    json_decref(r);
    return EXIT_OK;
}

const struct verb verb_node = {
    "node", "list | add NAME [PROVIDER] | remove NAME",
    "machines: list them, get one from a provider or let one join, give it back", run};
