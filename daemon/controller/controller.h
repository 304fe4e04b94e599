/* controller.h: the controller's side of dumontd: the arbiter's register, who is alive, what happened; commands to agents.
 * All functions from any thread. */
#ifndef DMT_DAEMON_CONTROLLER_CONTROLLER_H
#define DMT_DAEMON_CONTROLLER_CONTROLLER_H

#include <jansson.h>
#include "fs/base/err.h"
#include "fs/base/limits.h"
#include "fs/base/tls.h"

struct ctl;
struct ctl_conf {
    const char *listen; /* "ADDR:7402" */
    const char *db;     /* path of the database */
    struct dmt_tls_ctx *tls;
    const char *ca, *ca_key; /* paths; without the key nobody joins and nothing is renewed */
    int64_t cert_life_s;     /* of the certificates it signs */
};
int ctl_start(struct ctl **ret, const struct ctl_conf *conf, struct dmt_err *err);
/* Ends all connections and threads. */
void ctl_stop(struct ctl *c);

void ctl_event(struct ctl *c, const char *workspace, const char *node, const char *kind, const char *text);
/* The provider says that this machine exists no more: word of death for what ran there (F19). */
void ctl_node_gone(struct ctl *c, const char *node);
int ctl_node_record(struct ctl *c, const char *name, const char *provider, const char *address, struct dmt_err *err);
int ctl_node_forget(struct ctl *c, const char *name, struct dmt_err *err);

/* For the API; the caller owns the result. */
json_t *ctl_nodes(struct ctl *c);
json_t *ctl_workspaces(struct ctl *c);
json_t *ctl_workspace(struct ctl *c, const char *name); /* NULL: unknown */
json_t *ctl_events(struct ctl *c, const char *workspace, int max);
json_t *ctl_event_counts(struct ctl *c);
/* Sends {"cmd":...} to the agent of a node and waits for its answer. Steals request. 0 and *ret ("result" of the answer), or
 * < 0 with its sentence. [blocks] */
int ctl_command(struct ctl *c, const char *node, json_t *request, int timeout_ms, json_t **ret, struct dmt_err *err);
/* Node that holds a workspace by the register or, without one, by what agents report; "" unknown. */
void ctl_holder_of(struct ctl *c, const char *workspace, char ret[DMT_NODE_NAME_MAX + 1]);
/* A node other than `than` that runs a process of the workspace; "" none. */
void ctl_other_of(struct ctl *c, const char *workspace, const char *than, char ret[DMT_NODE_NAME_MAX + 1]);

#endif
