/* api.h: the HTTP API, the metrics and the status page, on loopback or a Unix socket only (there are no accounts yet).
 * http.c: server; routes.c: the API; target.c: which process a request is for; metrics.c: Prometheus text; page.c: GET /. */
#ifndef DMT_DAEMON_API_API_H
#define DMT_DAEMON_API_API_H

#include <stdbool.h>
#include "daemon/dumontd.h"
#include "fs/base/bytes.h"

struct api;
/* where: "127.0.0.1:7400", "[::1]:7400", "localhost:7400" or "unix:/PATH"; anything else is refused with a sentence. */
int api_start(struct api **ret, struct dumontd *d, const char *where, struct dmt_err *err);
void api_stop(struct api *a);
/* Is this address one that only this machine can reach? 0, or DMT_E_CONFIG. */
int api_check_address(const char *where, struct dmt_err *err);

/* One request, answered. status: HTTP status; body is text of type. */
struct api_reply {
    int status;
    const char *type;
    struct dmt_buf body;
};
/* path: decoded, without query; query: after '?', or "". body: parsed JSON object or NULL. */
void api_route(struct dumontd *d, const char *method, const char *path, const char *query, const json_t *body,
               struct api_reply *ret);
void api_reply_json(struct api_reply *ret, int status, json_t *v); /* steals v */
void api_reply_error(struct api_reply *ret, const struct dmt_err *err);

enum api_target { API_HOLDER, API_OTHER };
/* Sends a control request for a workspace to the process meant; body may name a node ("node"). Steals request. */
int api_control(struct dumontd *d, const char *workspace, enum api_target target, const json_t *body, json_t *request,
                json_t **ret, struct dmt_err *err);
/* All that is known of the workspaces, by name: what the controller shows, else what runs here. */
json_t *api_workspaces(struct dumontd *d);
json_t *api_workspace(struct dumontd *d, const char *name);
json_t *api_nodes(struct dumontd *d);

void api_metrics(struct dumontd *d, struct dmt_buf *out);
void api_page(struct dumontd *d, struct dmt_buf *out);
/* printf into a buffer. */
void api_printf(struct dmt_buf *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
