/* routes.c: the JSON API under /api/v1, and the two pages beside it. docs/man/dumontd.8 lists the
 * routes.
 *
 * A route is a method, a path with at most one NAME and one ITEM in it, and a function. Happy path:
 * find it, run it, answer JSON. Failure modes: unknown path 404, known path with another method
 * 405, everything else by the error's code, as {"error":SENTENCE,"hint":...}. Threads: the
 * connection's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/api/api.h"
#include "daemon/common/jline.h"
#include "daemon/provider/provider.h"
#include "fs/base/io.h"
#include "fs/base/log.h"
#include "fs/base/options.h"

#define EVENTS_MAX 1000
#define NOTICE_MS  10000

struct call {
    struct dumontd *d;
    const char *name, *item, *query;
    const json_t *body;
    struct dmt_err err;
};

void api_reply_json(struct api_reply *ret, int status, json_t *v)
{
    char *s = v ? json_dumps(v, JSON_INDENT(1) | JSON_ENCODE_ANY) : NULL;
    json_decref(v);
    ret->status = s ? status : 500;
    ret->type = "application/json";
    dmt_buf_reset(&ret->body);
    if (s)
        api_printf(&ret->body, "%s\n", s);
    free(s);
}

void api_reply_error(struct api_reply *ret, const struct dmt_err *err)
{
    static const struct {
        int code, status;
    } map[] = {{-ENOENT, 404},        {-EINVAL, 400},    {DMT_E_CONFIG, 400}, {-EEXIST, 409},
               {DMT_E_CONFLICT, 409}, {DMT_E_HELD, 409}, {-EALREADY, 409},    {-EBUSY, 409},
               {-EHOSTDOWN, 503},     {-EAGAIN, 503},    {DMT_E_RETRY, 503},  {-ETIMEDOUT, 504},
               {-ENAMETOOLONG, 400},  {DMT_E_WORD, 428}};
    int status = 500;
    for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
        if (map[i].code == err->code)
            status = map[i].status;
    api_reply_json(ret, status,
                   json_pack("{s:s s:s s:i}", "error",
                             err->msg[0] ? err->msg : dmt_strerror(err->code), "hint", err->hint,
                             "code", err->code));
}

/* --- reading --- */

static json_t *get_status(struct call *k)
{
    struct dumontd *d = k->d;
    json_t *roles = json_array();
    if (d->agent)
        json_array_append_new(roles, json_string("agent"));
    if (d->ctl)
        json_array_append_new(roles, json_string("controller"));
    const char *where = dmt_conf_get(d->conf, "controller");
    return json_pack("{s:s s:s s:o s:s s:b s:o}", "node", d->node, "version", DMT_VERSION, "roles",
                     roles, "controller", where ? where : "", "controller_connected",
                     d->agent && agent_controller_up(d->agent), "workspaces",
                     d->agent ? agent_workspaces(d->agent) : json_object());
}

static json_t *get_nodes(struct call *k)
{
    return json_pack("{s:o}", "nodes", api_nodes(k->d));
}

static json_t *get_workspaces(struct call *k)
{
    return json_pack("{s:o}", "workspaces", api_workspaces(k->d));
}

static json_t *get_workspace(struct call *k)
{
    json_t *w = api_workspace(k->d, k->name);
    if (!w)
        dmt_err_set(&k->err, -ENOENT, "no workspace %s is known here", k->name);
    return w;
}

static json_t *events(struct call *k, const char *workspace)
{
    if (!k->d->ctl) {
        dmt_err_set(&k->err, -ENOENT, "the event history is kept by the controller; ask it there");
        return NULL;
    }
    return json_pack("{s:o}", "events", ctl_events(k->d->ctl, workspace, EVENTS_MAX));
}

static json_t *get_events(struct call *k)
{
    return events(k, NULL);
}

static json_t *get_workspace_events(struct call *k)
{
    return events(k, k->name);
}

/* --- commands to a workspace process --- */

static json_t *control(struct call *k, enum api_target target, json_t *request)
{
    json_t *ret = NULL;
    if (dmt_workspace_name_check(k->name, &k->err) < 0) {
        json_decref(request);
        return NULL;
    }
    return api_control(k->d, k->name, target, k->body, request, &ret, &k->err) == 0 ? ret : NULL;
}

/* {"cmd":cmd} and what the body says, but for what is ours. */
static json_t *with_body(const struct call *k, const char *cmd)
{
    json_t *q = k->body ? json_deep_copy(k->body) : json_object();
    json_object_del(q, "node");
    json_object_set_new(q, "cmd", json_string(cmd));
    return q;
}

static json_t *get_snapshots(struct call *k)
{
    json_t *v = control(k, API_HOLDER, json_pack("{s:s}", "cmd", "snapshot.list"));
    return v ? json_pack("{s:o}", "snapshots", v) : NULL;
}

static json_t *post_snapshot(struct call *k)
{
    if (!*jline_str(k->body, "name", "")) {
        dmt_err_set(&k->err, -EINVAL, "a snapshot needs a name: {\"name\":\"before-the-change\"}");
        return NULL;
    }
    return control(k, API_HOLDER, with_body(k, "snapshot.create"));
}

static json_t *delete_snapshot(struct call *k)
{
    return control(k, API_HOLDER,
                   json_pack("{s:s s:s}", "cmd", "snapshot.delete", "name", k->item));
}

static json_t *post_rollback(struct call *k)
{
    if (!*jline_str(k->body, "snapshot", "") && !*jline_str(k->body, "to", "")) {
        dmt_err_set(&k->err, -EINVAL, "a rollback needs {\"snapshot\":NAME} or {\"to\":TIME}");
        return NULL;
    }
    return control(k, API_HOLDER, with_body(k, "rollback"));
}

static json_t *post_promote(struct call *k)
{
    return control(k, API_OTHER, with_body(k, "promote"));
}

static json_t *post_handover(struct call *k)
{
    return control(k, API_HOLDER, with_body(k, "handover"));
}

static json_t *post_fence(struct call *k)
{
    return control(k, API_HOLDER, with_body(k, "fence"));
}

static json_t *post_flush(struct call *k)
{
    return control(k, API_HOLDER, with_body(k, "flush"));
}

/* Of the node that the body names, else of the holder's copy. */
static json_t *post_digest(struct call *k)
{
    return control(k, API_HOLDER, with_body(k, "digest"));
}

static json_t *post_assign(struct call *k)
{
    const char *node = jline_str(k->body, "node", k->d->node);
    json_t *conf = json_object_get(k->body, "conf"), *ret = NULL;
    if (!json_is_object(conf)) {
        dmt_err_set(&k->err, -EINVAL, "assign needs {\"node\":NODE,\"conf\":{\"key\":\"value\"}}");
        return NULL;
    }
    if (k->d->agent && strcmp(node, k->d->node) == 0)
        return agent_assign(k->d->agent, k->name, conf, &k->err) == 0 ? json_object() : NULL;
    if (!k->d->ctl) {
        dmt_err_set(&k->err, -ENOENT, "only the controller can reach %s; ask it there", node);
        return NULL;
    }
    json_t *q = json_pack("{s:s s:s s:O}", "cmd", "assign", "name", k->name, "conf", conf);
    return ctl_command(k->d->ctl, node, q, 10000, &ret, &k->err) == 0 ? ret : NULL;
}

/* --- machines --- */

/* Configuration and join token that make the new machine one of ours when it starts: its key is
 * made there and stays there. */
static int node_files(struct dumontd *d, const char *node, const char *token, json_t *files)
{
    char conf[600], line[TOKEN_MAX + 1];
    const char *adv = dmt_conf_get(d->conf, "advertise");
    (void)snprintf(conf, sizeof(conf),
                   "node=%s\nrole=agent\ncontroller=%s%s\nhttp=unix:/run/dumont/dumontd.sock\n",
                   node, adv ? adv : d->node, adv ? "" : ":7402");
    (void)snprintf(line, sizeof(line), "%s\n", token);
    json_object_set_new(files, "/etc/dumont/dumontd.conf", json_string(conf));
    return json_object_set_new(files, "/etc/dumont/" DUMONTD_TOKEN_FILE, json_string(line)) == 0
               ? 0
               : -ENOMEM;
}

/* From a provider: the machine, which has its token already. */
static json_t *provide(struct call *k, const char *name, const char *prov, const char *token)
{
    struct provider_spec spec = {.name = name, .label = jline_str(k->body, "label", name)};
    struct provider_node n = {0};
    json_t *files = json_object();
    struct provider *p = provider_open(prov, k->d->conf, &k->err);
    int r = p ? node_files(k->d, name, token, files) : k->err.code;
    spec.files = files;
    if (r == 0)
        r = p->create(p, &spec, &n, &k->err);
    if (r == 0)
        r = ctl_node_record(k->d->ctl, name, prov, n.address, &k->err);
    if (p)
        p->free(p);
    json_decref(files);
    return r == 0 ? json_pack("{s:s s:s s:s}", "name", name, "provider", prov, "address", n.address)
                  : NULL;
}

static json_t *post_node(struct call *k)
{
    char token[TOKEN_MAX];
    const char *name = jline_str(k->body, "name", ""), *prov = jline_str(k->body, "provider", "");
    if (!k->d->ctl)
        dmt_err_set(&k->err, -ENOENT, "machines join by the controller; ask it there");
    else if (dmt_workspace_name_check(name, NULL) < 0)
        dmt_err_set(&k->err, -EINVAL, "'%s' is not a name for a node", name);
    else if (dumontd_token(k->d->conf, name, DUMONTD_TOKEN_MS, token, &k->err) == 0)
        return *prov ? provide(k, name, prov, token)
                     : json_pack("{s:s s:s s:i}", "name", name, "token", token, "expires_s",
                                 (int)(DUMONTD_TOKEN_MS / 1000));
    return NULL;
}

static json_t *delete_node(struct call *k)
{
    struct dumontd *d = k->d;
    char prov[64] = "?", state[16] = "";
    json_t *nodes = d->ctl ? ctl_nodes(d->ctl) : NULL, *n;
    size_t i;
    json_array_foreach(nodes, i, n)
    {
        if (strcmp(jline_str(n, "name", ""), k->name) == 0) {
            (void)snprintf(prov, sizeof(prov), "%s", jline_str(n, "provider", ""));
            (void)snprintf(state, sizeof(state), "%s", jline_str(n, "state", ""));
        }
    }
    json_decref(nodes);
    int r = 0;
    if (!d->ctl || prov[0] == '?')
        r = dmt_err_set(&k->err, -ENOENT, "no node %s is known here", k->name);
    else if (!prov[0] && strcmp(state, "down") != 0)
        r = dmt_err_set(
            &k->err, -EBUSY,
            "%s was not made by a provider and is %s: stop it first, then it can be forgotten",
            k->name, state);
    struct provider *p = NULL;
    if (r == 0 && prov[0] && !(p = provider_open(prov, d->conf, &k->err)))
        r = k->err.code;
    if (p) {
        r = p->destroy(p, k->name, &k->err);
        p->free(p);
    }
    if (r == 0 && prov[0])
        ctl_node_gone(d->ctl, k->name);
    if (r == 0)
        r = ctl_node_forget(d->ctl, k->name, &k->err);
    return r == 0 ? json_object() : NULL;
}

/* A cloud's notice that it will take the machine: {"in_s":120}; {"in_s":0} withdraws it. */
static json_t *post_notice(struct call *k)
{
    const json_t *in_s = json_object_get(k->body, "in_s");
    json_t *ret = NULL;
    if (!json_is_integer(in_s)) {
        dmt_err_set(&k->err, -EINVAL, "a notice needs {\"in_s\":SECONDS}, 0 to withdraw it");
        return NULL;
    }
    if (k->d->agent && strcmp(k->name, k->d->node) == 0)
        return agent_notice(k->d->agent, json_integer_value(in_s), &k->err) == 0 ? json_object()
                                                                                 : NULL;
    if (!k->d->ctl) {
        dmt_err_set(&k->err, -ENOENT, "only the controller can reach %s; ask it there", k->name);
        return NULL;
    }
    json_t *q = json_pack("{s:s s:I}", "cmd", "notice", "in_s", json_integer_value(in_s));
    return ctl_command(k->d->ctl, k->name, q, NOTICE_MS, &ret, &k->err) == 0 ? ret : NULL;
}

/* --- dispatch --- */

static const struct {
    const char *method, *path; /* "*" stands for one part of the path */
    json_t *(*fn)(struct call *k);
    int ok;
} routes[] = {
    {"GET", "/api/v1/status", get_status, 200},
    {"GET", "/api/v1/nodes", get_nodes, 200},
    {"POST", "/api/v1/nodes", post_node, 201},
    {"DELETE", "/api/v1/nodes/*", delete_node, 200},
    {"POST", "/api/v1/nodes/*/notice", post_notice, 200},
    {"GET", "/api/v1/events", get_events, 200},
    {"GET", "/api/v1/workspaces", get_workspaces, 200},
    {"GET", "/api/v1/workspaces/*", get_workspace, 200},
    {"GET", "/api/v1/workspaces/*/events", get_workspace_events, 200},
    {"GET", "/api/v1/workspaces/*/snapshots", get_snapshots, 200},
    {"POST", "/api/v1/workspaces/*/snapshots", post_snapshot, 201},
    {"DELETE", "/api/v1/workspaces/*/snapshots/*", delete_snapshot, 200},
    {"POST", "/api/v1/workspaces/*/rollback", post_rollback, 200},
    {"POST", "/api/v1/workspaces/*/promote", post_promote, 200},
    {"POST", "/api/v1/workspaces/*/handover", post_handover, 200},
    {"POST", "/api/v1/workspaces/*/fence", post_fence, 200},
    {"POST", "/api/v1/workspaces/*/flush", post_flush, 200},
    {"POST", "/api/v1/workspaces/*/digest", post_digest, 200},
    {"POST", "/api/v1/workspaces/*/assign", post_assign, 200},
};

/* Does path match the pattern? The parts at '*' go into parts. */
static bool matches(const char *pattern, const char *path, char parts[2][DMT_SNAP_NAME_MAX + 1])
{
    int n = 0;
    while (*pattern) {
        if (*pattern == '*') {
            size_t len = strcspn(path, "/");
            if (len == 0 || len > DMT_SNAP_NAME_MAX || n == 2)
                return false;
            memcpy(parts[n], path, len);
            parts[n++][len] = '\0';
            path += len;
            pattern++;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *path == '\0';
}

static bool other_method(const char *path)
{
    char parts[2][DMT_SNAP_NAME_MAX + 1];
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++)
        if (matches(routes[i].path, path, parts))
            return true;
    return false;
}

void api_route(struct dumontd *d, const char *method, const char *path, const char *query,
               const json_t *body, struct api_reply *ret)
{
    char parts[2][DMT_SNAP_NAME_MAX + 1] = {"", ""};
    struct call k = {.d = d, .name = parts[0], .item = parts[1], .query = query, .body = body};
    if (strcmp(method, "GET") == 0 && strcmp(path, "/metrics") == 0) {
        ret->status = 200;
        ret->type = "text/plain; version=0.0.4; charset=utf-8";
        api_metrics(d, &ret->body);
        return;
    }
    if (strcmp(method, "GET") == 0 && strcmp(path, "/") == 0) {
        ret->status = 200;
        ret->type = "text/html; charset=utf-8";
        api_page(d, &ret->body);
        return;
    }
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
        if (strcmp(routes[i].method, method) != 0 || !matches(routes[i].path, path, parts))
            continue;
        json_t *v = routes[i].fn(&k);
        if (v)
            api_reply_json(ret, routes[i].ok, v);
        else
            api_reply_error(ret, &k.err);
        return;
    }
    bool known = other_method(path);
    api_reply_json(
        ret, known ? 405 : 404,
        json_pack("{s:s s:s}", "error",
                  known ? "this path does not take that method" : "there is no such path", "hint",
                  "dumontd(8) lists the paths"));
}
