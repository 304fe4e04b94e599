/* target.c: which process a request is for, and what is known of nodes and workspaces.
 *
 * A controller sends a command to the node that holds the workspace (or to the other one, for a
 * promotion, or to the node the request names), by that node's agent; a node that is agent only
 * serves what runs on it. Owns nothing. Threads: any.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/api/api.h"
#include "daemon/common/jline.h"

#define COMMAND_MS 690000 /* longer than the agent waits */

json_t *api_nodes(struct dumontd *d)
{
    if (d->ctl)
        return ctl_nodes(d->ctl);
    return json_pack("[{s:s s:s s:s s:s}]", "name", d->node, "state", "up", "provider", "",
                     "address", "");
}

/* What runs here, in the shape the controller gives it. */
static json_t *local_workspace(const struct dumontd *d, const char *name, const json_t *st,
                               bool full)
{
    bool holder = json_is_true(json_object_get(st, "holder"));
    json_t *in = json_array(), *nodes = json_object();
    json_object_set(nodes, d->node, full ? (json_t *)(uintptr_t)st : json_object_get(st, "state"));
    const char *held_by = holder ? d->node : jline_str(st, "holder_node", "");
    json_array_append_new(in, json_string(held_by));
    if (jline_bool(json_object_get(st, "standby"), "in_sync", false))
        json_array_append_new(in, json_string(jline_str(st, "peer_node", "")));
    return json_pack("{s:s s:s s:I s:s s:o s:b s:o}", "name", name, "lineage",
                     jline_str(st, "lineage", ""), "epoch", jline_int(st, "epoch_number", 0) >> 32,
                     "holder", held_by, "in_sync", in, "one_copy",
                     jline_bool(st, "one_copy", false), "nodes", nodes);
}

json_t *api_workspaces(struct dumontd *d)
{
    json_t *list = d->ctl ? ctl_workspaces(d->ctl) : json_array(), *here, *st, *o;
    const char *name;
    size_t i;
    if (!d->agent)
        return list;
    here = agent_workspaces(d->agent);
    json_object_foreach(here, name, st)
    {
        bool known = false;
        json_array_foreach(list, i, o) known |= strcmp(jline_str(o, "name", ""), name) == 0;
        if (!known)
            json_array_append_new(list, local_workspace(d, name, st, false));
    }
    json_decref(here);
    return list;
}

json_t *api_workspace(struct dumontd *d, const char *name)
{
    json_t *w = d->ctl ? ctl_workspace(d->ctl, name) : NULL;
    if (w || !d->agent)
        return w;
    json_t *here = agent_workspaces(d->agent), *st = json_object_get(here, name);
    w = st ? local_workspace(d, name, st, true) : NULL;
    json_decref(here);
    return w;
}

int api_control(struct dumontd *d, const char *workspace, enum api_target target,
                const json_t *body, json_t *request, json_t **ret, struct dmt_err *err)
{
    char node[DMT_NODE_NAME_MAX + 1] = "", holder[DMT_NODE_NAME_MAX + 1] = "";
    const char *named = jline_str(body, "node", "");
    if (d->ctl && !named[0]) {
        ctl_holder_of(d->ctl, workspace, holder);
        if (target == API_HOLDER)
            memcpy(node, holder, sizeof(node));
        else
            ctl_other_of(d->ctl, workspace, holder, node);
    } else {
        (void)snprintf(node, sizeof(node), "%s", named);
    }
    bool here = d->agent && (node[0] ? strcmp(node, d->node) == 0 : agent_has(d->agent, workspace));
    int r;
    if (here || !d->ctl) {
        if (!d->agent || (node[0] && strcmp(node, d->node) != 0))
            r = dmt_err_set(err, -ENOENT, "only the controller can reach %s; ask it there", node);
        else
            r = agent_control(d->agent, workspace, request, COMMAND_MS, ret, err);
        json_decref(request);
        return r;
    }
    if (!node[0]) {
        json_decref(request);
        return dmt_err_set(err, -ENOENT, "no node runs workspace %s", workspace);
    }
    return ctl_command(
        d->ctl, node,
        json_pack("{s:s s:s s:o}", "cmd", "control", "name", workspace, "request", request),
        COMMAND_MS, ret, err);
}
