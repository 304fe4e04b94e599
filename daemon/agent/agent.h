/* agent.h: the node's side of dumontd: runs workspace processes, reports them, carries out the controller's commands. Any
 * thread. */
#ifndef DMT_DAEMON_AGENT_AGENT_H
#define DMT_DAEMON_AGENT_AGENT_H

#include <jansson.h>
#include "fs/base/err.h"
#include "fs/base/tls.h"

struct agent;
struct agent_conf {
    const char *node;
    const char *controller;  /* "HOST:7402", or NULL: works on its own */
    struct dmt_tls_ctx *tls; /* NULL without controller */
};
int agent_start(struct agent **ret, const struct agent_conf *conf, struct dmt_err *err);
/* Workspace processes and mounts go on. */
void agent_stop(struct agent *a);

/* {NAME: status} of what runs here. */
json_t *agent_workspaces(struct agent *a);
bool agent_has(struct agent *a, const char *workspace);
/* One command to the control socket of a workspace here; does not take the reference. 0 and *ret, or < 0 with its sentence.
 * [blocks] */
int agent_control(struct agent *a, const char *workspace, const json_t *request, int timeout_ms, json_t **ret,
                  struct dmt_err *err);
/* Writes /etc/dumont/workspaces/NAME.conf and lets the workspace be started. conf: {"key":"value"}. [blocks] */
int agent_assign(struct agent *a, const char *workspace, const json_t *conf, struct dmt_err *err);
/* The machine will be taken away in in_s seconds (0: it will not): every workspace here is told. [blocks] */
int agent_notice(struct agent *a, json_int_t in_s, struct dmt_err *err);
bool agent_controller_up(struct agent *a);

#endif
