/* db.h: the controller's database, one SQLite file: registers, event history, nodes, workspaces. Every change is on disk
 * (synchronous=FULL) before the function returns. The schema is described in docs/formats-lease.md. The caller locks: one
 * thread at a time. */
#ifndef DMT_DAEMON_CONTROLLER_DB_H
#define DMT_DAEMON_CONTROLLER_DB_H

#include <jansson.h>
#include "daemon/controller/decide.h"

struct ctl_db;
struct ctl_told {
    int64_t n, at_ns; /* at_ns: by the node's clock */
    const char *kind, *text;
};
int ctl_db_open(struct ctl_db **ret, const char *path, struct dmt_err *err);
void ctl_db_close(struct ctl_db *db);

/* 0 and *ret filled (epoch 0: none), or < 0. lineage: 32 hex digits. */
int ctl_db_register(struct ctl_db *db, const char *lineage, struct lease_register *ret, struct dmt_err *err);
/* Writes the register if it still is at epoch `base` (0: absent), and an event, in one transaction. DMT_E_CONFLICT
 * otherwise. */
int ctl_db_change(struct ctl_db *db, const char *lineage, const char *workspace, uint32_t base,
                  const struct lease_register *next, const char *node, const char *kind, const char *text,
                  struct dmt_err *err);
/* A name and its lineage; the newest lineage of a name wins. */
int ctl_db_workspace(struct ctl_db *db, const char *workspace, const char *lineage, struct dmt_err *err);
/* Lineage of a workspace name: 1 and ret[33] filled, 0 unknown, < 0. */
int ctl_db_lineage_of(struct ctl_db *db, const char *workspace, char ret[33], struct dmt_err *err);
/* A lineage out of which another (by) was forced: its register is never changed again. is_over: 1, 0, < 0. */
int ctl_db_over(struct ctl_db *db, const char *lineage, const char *by, struct dmt_err *err);
int ctl_db_is_over(struct ctl_db *db, const char *lineage, struct dmt_err *err);
int ctl_db_event(struct ctl_db *db, const char *workspace, const char *node, const char *kind, const char *text,
                 struct dmt_err *err);
/* Event n of a workspace process (instance) on a node, told by its agent, perhaps not for the first time: written once. */
int ctl_db_node_event(struct ctl_db *db, const char *workspace, const char *node, uint64_t instance,
                      const struct ctl_told *e, struct dmt_err *err);
/* Join tokens, by the hash of their secret. check: 0, or DMT_E_AUTH with the reason: unknown, another node's, used, expired;
 * use: marks it as used, if all of that still holds. Those that ended a week ago are forgotten by add. */
int ctl_db_token_add(struct ctl_db *db, const char *hash, const char *node, int64_t expires_ns, struct dmt_err *err);
int ctl_db_token_check(struct ctl_db *db, const char *hash, const char *node, struct dmt_err *err);
int ctl_db_token_use(struct ctl_db *db, const char *hash, const char *node, const char *from, struct dmt_err *err);
int ctl_db_node_set(struct ctl_db *db, const char *name, const char *provider, const char *address, const char *state,
                    struct dmt_err *err);
int ctl_db_node_drop(struct ctl_db *db, const char *name, struct dmt_err *err);
/* JSON for the API; NULL on error. */
json_t *ctl_db_nodes(struct ctl_db *db);
json_t *ctl_db_workspaces(struct ctl_db *db);
/* The `max` that came last, in the order of their times (of each machine's own clock); workspace NULL: all. */
json_t *ctl_db_events(struct ctl_db *db, const char *workspace, int max);
/* Count of events by kind. */
json_t *ctl_db_event_counts(struct ctl_db *db);

#endif
