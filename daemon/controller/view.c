/* view.c: what the controller knows, as JSON for the API, and the few things the API may change.
 *
 * Owns nothing. A node is "up" while its agent is connected and was heard in the last 5 s, "silent"
 * when only connected, else "down". A workspace is the register's content plus what each agent last
 * said about its process. Threads: any; everything under the controller's lock.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/controller/internal.h"
#include "fs/base/clock.h"

static const char *str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static const char *conn_state(const struct ctl_conn *k)
{
    return ctl_now() - k->heard_ns < CTL_AGENT_SILENT_NS ? "up" : "silent";
}

void ctl_event(struct ctl *c, const char *workspace, const char *node, const char *kind,
               const char *text)
{
    pthread_mutex_lock(&c->lock);
    (void)ctl_db_event(c->db, workspace, node, kind, text, NULL);
    pthread_mutex_unlock(&c->lock);
}

void ctl_node_gone(struct ctl *c, const char *node)
{
    pthread_mutex_lock(&c->lock);
    DMT_LIST_EACH(n, tmp, &c->heard)
    {
        struct ctl_heard *h = DMT_CONTAINER(n, struct ctl_heard, link);
        if (strcmp(h->id.node, node) == 0)
            ctl_process_dead(c, h, "its machine is gone");
    }
    pthread_mutex_unlock(&c->lock);
}

int ctl_node_record(struct ctl *c, const char *name, const char *provider, const char *address,
                    struct dmt_err *err)
{
    pthread_mutex_lock(&c->lock);
    int r = ctl_db_node_set(c->db, name, provider, address, "created", err);
    if (r == 0)
        (void)ctl_db_event(c->db, "", name, "node-created", provider, NULL);
    pthread_mutex_unlock(&c->lock);
    return r;
}

int ctl_node_forget(struct ctl *c, const char *name, struct dmt_err *err)
{
    pthread_mutex_lock(&c->lock);
    int r = ctl_db_node_drop(c->db, name, err);
    if (r == 0)
        (void)ctl_db_event(c->db, "", name, "node-destroyed", "", NULL);
    pthread_mutex_unlock(&c->lock);
    return r;
}

json_t *ctl_nodes(struct ctl *c)
{
    pthread_mutex_lock(&c->lock);
    json_t *list = ctl_db_nodes(c->db), *o;
    size_t i;
    json_array_foreach(list, i, o)
    {
        json_object_set_new(o, "state", json_string("down"));
        DMT_LIST_EACH(n, tmp, &c->conns)
        {
            const struct ctl_conn *k = DMT_CONTAINER(n, struct ctl_conn, link);
            if (k->kind != CTL_AGENT || strcmp(k->node, str(o, "name")) != 0)
                continue;
            json_t *names = json_array();
            const char *ws;
            json_t *st;
            json_object_foreach(json_object_get(k->status, "workspaces"), ws, st)
                json_array_append_new(names, json_string(ws));
            json_object_set_new(o, "state", json_string(conn_state(k)));
            json_object_set_new(o, "heard_ms",
                                json_integer((json_int_t)((ctl_now() - k->heard_ns) / DMT_MS)));
            json_object_set_new(o, "workspaces", names);
        }
    }
    pthread_mutex_unlock(&c->lock);
    return list;
}

/* Turns a row of the database into what is shown; adds each node's own report when `full`. */
static void dress(struct ctl *c, json_t *o, bool full)
{
    json_t *reg = json_object_get(o, "register"), *in = json_array(), *nodes = json_object(), *m;
    const char *name = str(o, "name");
    size_t i;
    json_array_foreach(json_object_get(reg, "insync"), i, m)
        json_array_append(in, json_object_get(m, "node"));
    json_object_set_new(o, "epoch",
                        json_integer(json_integer_value(json_object_get(reg, "epoch"))));
    json_object_set_new(o, "holder", json_string(str(json_object_get(reg, "holder"), "node")));
    json_object_set_new(o, "in_sync", in);
    json_object_set_new(o, "one_copy", json_boolean(json_array_size(in) < 2));
    DMT_LIST_EACH(n, tmp, &c->conns)
    {
        const struct ctl_conn *k = DMT_CONTAINER(n, struct ctl_conn, link);
        json_t *st = k->kind == CTL_AGENT
                         ? json_object_get(json_object_get(k->status, "workspaces"), name)
                         : NULL;
        if (st)
            json_object_set(nodes, k->node, full ? st : json_object_get(st, "state"));
        /* Before the first change of the register only the process itself knows that it holds. */
        if (st && !json_is_object(reg) && json_is_true(json_object_get(st, "holder")))
            json_object_set_new(o, "holder", json_string(k->node));
    }
    json_object_set_new(o, "nodes", nodes);
    json_object_del(o, "register");
}

json_t *ctl_workspaces(struct ctl *c)
{
    pthread_mutex_lock(&c->lock);
    json_t *list = ctl_db_workspaces(c->db), *o;
    size_t i;
    json_array_foreach(list, i, o) dress(c, o, false);
    pthread_mutex_unlock(&c->lock);
    return list;
}

json_t *ctl_workspace(struct ctl *c, const char *name)
{
    json_t *found = NULL, *o;
    size_t i;
    pthread_mutex_lock(&c->lock);
    json_t *list = ctl_db_workspaces(c->db);
    json_array_foreach(list, i, o)
    {
        if (strcmp(str(o, "name"), name) == 0)
            found = json_incref(o);
    }
    if (found)
        dress(c, found, true);
    json_decref(list);
    pthread_mutex_unlock(&c->lock);
    return found;
}

json_t *ctl_events(struct ctl *c, const char *workspace, int max)
{
    pthread_mutex_lock(&c->lock);
    json_t *v = ctl_db_events(c->db, workspace, max);
    pthread_mutex_unlock(&c->lock);
    return v;
}

json_t *ctl_event_counts(struct ctl *c)
{
    pthread_mutex_lock(&c->lock);
    json_t *v = ctl_db_event_counts(c->db);
    pthread_mutex_unlock(&c->lock);
    return v;
}

void ctl_holder_of(struct ctl *c, const char *workspace, char ret[DMT_NODE_NAME_MAX + 1])
{
    json_t *w = ctl_workspace(c, workspace);
    (void)snprintf(ret, DMT_NODE_NAME_MAX + 1, "%s", str(w, "holder"));
    json_decref(w);
}

void ctl_other_of(struct ctl *c, const char *workspace, const char *than,
                  char ret[DMT_NODE_NAME_MAX + 1])
{
    json_t *w = ctl_workspace(c, workspace), *st;
    const char *node;
    ret[0] = '\0';
    json_object_foreach(json_object_get(w, "nodes"), node, st)
    {
        if (strcmp(node, than) != 0)
            (void)snprintf(ret, DMT_NODE_NAME_MAX + 1, "%s", node);
    }
    json_decref(w);
}
