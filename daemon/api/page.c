/* page.c: GET /: one plain status page: nodes, workspaces, the last events. No script, no form; it
 * reloads itself. Everything shown is escaped. Owns nothing.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon/api/api.h"
#include "daemon/common/jline.h"

#define EVENTS_SHOWN 30

static void put_text(struct dmt_buf *out, const char *s)
{
    for (; *s; s++) {
        switch (*s) {
        case '&':
            api_printf(out, "&amp;");
            break;
        case '<':
            api_printf(out, "&lt;");
            break;
        case '>':
            api_printf(out, "&gt;");
            break;
        case '"':
            api_printf(out, "&quot;");
            break;
        default:
            dmt_put_u8(out, (uint8_t)*s);
        }
    }
}

static void cell(struct dmt_buf *out, const char *s)
{
    api_printf(out, "<td>");
    put_text(out, s);
    api_printf(out, "</td>");
}

static void put_nodes(struct dumontd *d, struct dmt_buf *out)
{
    json_t *nodes = api_nodes(d), *n;
    size_t i;
    api_printf(out, "<h2>Nodes</h2><table><tr><th>name</th><th>state</th><th>provider</"
                    "th><th>address</th></tr>\n");
    json_array_foreach(nodes, i, n)
    {
        api_printf(out, "<tr>");
        cell(out, jline_str(n, "name", ""));
        cell(out, jline_str(n, "state", ""));
        cell(out, jline_str(n, "provider", ""));
        cell(out, jline_str(n, "address", ""));
        api_printf(out, "</tr>\n");
    }
    api_printf(out, "</table>\n");
    json_decref(nodes);
}

static void put_workspaces(struct dumontd *d, struct dmt_buf *out)
{
    json_t *list = api_workspaces(d), *w, *st, *m;
    size_t i, j;
    api_printf(out, "<h2>Workspaces</h2><table><tr><th>name</th><th>held "
                    "by</th><th>epoch</th><th>in sync</th><th>processes</th></tr>\n");
    json_array_foreach(list, i, w)
    {
        const char *node;
        api_printf(out, "<tr>");
        cell(out, jline_str(w, "name", ""));
        cell(out, jline_str(w, "holder", ""));
        api_printf(out, "<td>%lld</td><td>", (long long)jline_int(w, "epoch", 0));
        json_array_foreach(json_object_get(w, "in_sync"), j, m)
        {
            put_text(out, json_string_value(m) ? json_string_value(m) : "");
            api_printf(out, " ");
        }
        if (jline_bool(w, "one_copy", false))
            api_printf(out, "<b>one copy</b>");
        api_printf(out, "</td><td>");
        json_object_foreach(json_object_get(w, "nodes"), node, st)
        {
            put_text(out, node);
            api_printf(out, ": ");
            put_text(out, json_string_value(st) ? json_string_value(st) : "");
            api_printf(out, " ");
        }
        api_printf(out, "</td></tr>\n");
    }
    api_printf(out, "</table>\n");
    json_decref(list);
}

static void put_events(struct dumontd *d, struct dmt_buf *out)
{
    json_t *list = ctl_events(d->ctl, NULL, EVENTS_SHOWN), *e;
    size_t i;
    api_printf(out, "<h2>Events</h2><table><tr><th>time "
                    "(UTC)</th><th>workspace</th><th>node</th><th>what</th><th></th></tr>\n");
    json_array_foreach(list, i, e)
    {
        char when[32];
        time_t t = (time_t)(jline_int(e, "at_ns", 0) / 1000000000);
        struct tm tm;
        (void)strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", gmtime_r(&t, &tm));
        api_printf(out, "<tr>");
        cell(out, when);
        cell(out, jline_str(e, "workspace", ""));
        cell(out, jline_str(e, "node", ""));
        cell(out, jline_str(e, "kind", ""));
        cell(out, jline_str(e, "text", ""));
        api_printf(out, "</tr>\n");
    }
    api_printf(out, "</table>\n");
    json_decref(list);
}

void api_page(struct dumontd *d, struct dmt_buf *out)
{
    api_printf(out, "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta "
                    "http-equiv=\"refresh\" content=\"5\">"
                    "<title>Dumont</title><style>body{font:15px "
                    "sans-serif;margin:2em}table{border-collapse:collapse}"
                    "td,th{text-align:left;padding:.2em 1em .2em 0;border-bottom:1px solid "
                    "#ccc}</style></head><body><h1>Dumont: ");
    put_text(out, d->node);
    api_printf(out, "</h1>\n");
    put_workspaces(d, out);
    put_nodes(d, out);
    if (d->ctl)
        put_events(d, out);
    api_printf(out, "<p>dumontd %s</p></body></html>\n", DMT_VERSION);
}
