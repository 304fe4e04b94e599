/* metrics.c: GET /metrics, Prometheus text exposition 0.0.4.
 *
 * One family after the other, each with HELP and TYPE once and its samples together; values from
 * the status that the workspace processes gave last (500 ms ago at most). On a controller all
 * nodes' workspaces are shown, else what runs here. Numbers are printed in the C locale, base units
 * (seconds, bytes), counters end in _total and count since the start of the process that counts.
 * Owns nothing. Threads: any.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/api/api.h"
#include "daemon/common/jline.h"

/* A number of the status JSON as a family. key: "a" or "a.b". */
static const struct family {
    const char *name, *key, *type, *help;
    double scale;
} families[] = {
    {"dumont_workspace_holder", "holder", "gauge", "1 on the node that holds the workspace.", 1},
    {"dumont_workspace_one_copy", "one_copy", "gauge", "1 while only one machine has the data.", 1},
    {"dumont_workspace_failed", "failed", "gauge",
     "1 when the workspace was closed for writing by a fault.", 1},
    {"dumont_checkpoint_failing", "checkpoint.failing", "gauge",
     "1 while the database does not take what the journal has.", 1},
    {"dumont_workspace_in_sync", "standby.in_sync", "gauge", "1 while the standby may be promoted.",
     1},
    {"dumont_workspace_files", "inodes", "gauge", "Files, directories and links.", 1},
    {"dumont_workspace_live_bytes", "live_bytes", "gauge", "Bytes of the live tree.", 1},
    {"dumont_workspace_pinned_bytes", "pinned_bytes", "gauge",
     "Bytes kept for snapshots and readers only.", 1},
    {"dumont_workspace_incomplete_files", "incomplete_files", "gauge",
     "Files whose unsynced bulk data was lost in a failover.", 1},
    {"dumont_workspace_snapshots", "snapshots", "gauge", "Snapshots.", 1},
    {"dumont_journal_bytes", "journal_bytes", "gauge", "Size of the journal on disk.", 1},
    {"dumont_journal_records_total", "records", "counter",
     "Records appended since the process started.", 1},
    {"dumont_journal_syncs_total", "syncs", "counter",
     "Flushes of the journal since the process started.", 1},
    {"dumont_parked_calls", "parked", "gauge", "Calls that wait for their acknowledgement.", 1},
    {"dumont_oldest_sync_seconds", "oldest_sync_ms", "gauge", "Age of the oldest sync that waits.",
     1e-3},
    {"dumont_lease_seconds", "lease_ms", "gauge", "Length H of the lease as stated last.", 1e-3},
    {"dumont_peer_rtt_seconds", "rtt_us", "gauge", "Round trip of the pings.", 1e-6},
    {"dumont_arbiter_up", "arbiter_up", "gauge",
     "1 while the workspace process is connected to its arbiter.", 1},
    {"dumont_replica_connected", "standby.connected", "gauge", "1 while the standby is connected.",
     1},
    {"dumont_replica_lag_bytes", "standby.lag_bytes", "gauge",
     "Ordered bytes the standby has not acknowledged.", 1},
    {"dumont_replica_bulk_pending_bytes", "missing_bytes", "gauge", "Bulk bytes this copy lacks.",
     1},
    {"dumont_replica_wire_bytes_total", "standby.wire_bytes", "counter",
     "Ordered bytes sent, compressed.", 1},
    {"dumont_resync_running", "standby.resyncing", "gauge",
     "1 on the holder while it fills its standby.", 1},
    {"dumont_resync_done_bytes", "standby.resync_bytes", "gauge",
     "Bytes of the resync that the standby has.", 1},
    {"dumont_resync_total_bytes", "standby.resync_total_bytes", "gauge",
     "Bytes of the resync altogether.", 1},
    {"dumont_resync_eta_seconds", "standby.resync_eta_ms", "gauge",
     "Time that the rest of the resync will take at its rate; 0 when it is not known.", 1e-3},
    {"dumont_archive_pending_bytes", "archive.pending_bytes", "gauge",
     "Bytes not yet verified in the archive.", 1},
    {"dumont_archive_objects_total", "archive.objects", "counter", "Objects put into the archive.",
     1},
};

static void put_label(struct dmt_buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '\\' || *s == '"')
            api_printf(out, "\\%c", *s);
        else if (*s == '\n')
            api_printf(out, "\\n");
        else
            dmt_put_u8(out, (uint8_t)*s);
    }
}

static const json_t *lookup(const json_t *st, const char *key)
{
    char first[64];
    const char *dot = strchr(key, '.');
    if (!dot)
        return json_object_get(st, key);
    (void)snprintf(first, sizeof(first), "%.*s", (int)(dot - key), key);
    return json_object_get(json_object_get(st, first), dot + 1);
}

static void head(struct dmt_buf *out, const char *name, const char *type, const char *help)
{
    api_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void sample(struct dmt_buf *out, const char *name, const char *l1, const char *v1,
                   const char *l2, const char *v2, double value)
{
    api_printf(out, "%s{%s=\"", name, l1);
    put_label(out, v1);
    if (l2) {
        api_printf(out, "\",%s=\"", l2);
        put_label(out, v2);
    }
    api_printf(out, "\"} %.17g\n", value);
}

/* Calls nothing when no process has the number: a family without samples is left out. */
static void put_family(struct dmt_buf *out, const struct family *f, const json_t *all)
{
    const char *ws, *node;
    json_t *nodes, *st;
    bool headed = false;
    json_object_foreach((json_t *)(uintptr_t)all, ws, nodes)
    {
        json_object_foreach(nodes, node, st)
        {
            const json_t *v = lookup(st, f->key);
            double value = json_is_number(v) ? json_number_value(v) : json_is_true(v);
            if (!json_is_number(v) && !json_is_boolean(v))
                continue;
            if (!headed)
                head(out, f->name, f->type, f->help);
            headed = true;
            sample(out, f->name, "workspace", ws, "node", node, value * f->scale);
        }
    }
}

/* {workspace: {node: status}} of everything known here. */
static json_t *collect(struct dumontd *d)
{
    json_t *all = json_object(), *list = api_workspaces(d), *o;
    size_t i;
    json_array_foreach(list, i, o)
    {
        const char *name = jline_str(o, "name", "");
        json_t *w = api_workspace(d, name);
        json_t *nodes = json_object_get(w, "nodes");
        json_object_set(all, name, nodes ? nodes : json_object_get(o, "nodes"));
        json_decref(w);
    }
    json_decref(list);
    return all;
}

static void put_states(struct dmt_buf *out, const json_t *all)
{
    const char *ws, *node;
    json_t *nodes, *st;
    bool headed = false;
    json_object_foreach((json_t *)(uintptr_t)all, ws, nodes)
    {
        json_object_foreach(nodes, node, st)
        {
            if (!headed)
                head(out, "dumont_workspace_info", "gauge",
                     "State of a workspace process, as a label.");
            headed = true;
            api_printf(out, "dumont_workspace_info{workspace=\"");
            put_label(out, ws);
            api_printf(out, "\",node=\"");
            put_label(out, node);
            api_printf(out, "\",state=\"");
            put_label(out, jline_str(st, "state", ""));
            api_printf(out, "\"} 1\n");
        }
    }
}

static void put_controller(struct dumontd *d, struct dmt_buf *out)
{
    json_t *nodes = ctl_nodes(d->ctl), *list = ctl_workspaces(d->ctl),
           *counts = ctl_event_counts(d->ctl), *o;
    size_t i;
    if (json_array_size(nodes))
        head(out, "dumont_node_up", "gauge",
             "1 while the agent of the node is connected and heard.");
    json_array_foreach(nodes, i, o)
        sample(out, "dumont_node_up", "node", jline_str(o, "name", ""), NULL, NULL,
               strcmp(jline_str(o, "state", ""), "up") == 0);
    if (json_array_size(list))
        head(out, "dumont_register_epoch", "gauge", "Epoch in the arbiter's register.");
    json_array_foreach(list, i, o)
        sample(out, "dumont_register_epoch", "workspace", jline_str(o, "name", ""), NULL, NULL,
               (double)jline_int(o, "epoch", 0));
    if (json_array_size(counts))
        head(out, "dumont_events", "gauge", "Events in the history, by kind.");
    json_array_foreach(counts, i, o) sample(out, "dumont_events", "kind", jline_str(o, "kind", ""),
                                            NULL, NULL, (double)jline_int(o, "n", 0));
    json_decref(nodes);
    json_decref(list);
    json_decref(counts);
}

void api_metrics(struct dumontd *d, struct dmt_buf *out)
{
    head(out, "dumont_build_info", "gauge", "Version of dumontd.");
    sample(out, "dumont_build_info", "version", DMT_VERSION, "node", d->node, 1);
    if (d->agent) {
        head(out, "dumont_controller_connected", "gauge",
             "1 while the agent is connected to the controller.");
        sample(out, "dumont_controller_connected", "node", d->node, NULL, NULL,
               agent_controller_up(d->agent));
    }
    json_t *all = collect(d);
    put_states(out, all);
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        put_family(out, &families[i], all);
    json_decref(all);
    if (d->ctl)
        put_controller(d, out);
}
