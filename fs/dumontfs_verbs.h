/* dumontfs_verbs.h: between the files that serve the commands of the control socket: dumontfs_verbs.c (the table),
 * dumontfs_wait.c (those that wait for the other machine or the archive), dumontfs_users.c (who uses the mount that a handover
 * takes away). A command returns its result, or NULL with err set. */
#ifndef DMT_DUMONTFS_VERBS_H
#define DMT_DUMONTFS_VERBS_H

#include "fs/base/procs.h"
#include "fs/dumontfs.h"

struct call {
    struct app *app;
    struct control *control;
    struct dmt_ws *ws; /* held for reading while the command runs */
    const json_t *req;
    struct dmt_err *err;
};

/* A string of the request, or "". */
static inline const char *verb_arg(const struct call *c, const char *key)
{
    const char *s = json_string_value(json_object_get(c->req, key));
    return s ? s : "";
}

/* Waits, telling the client how far it is, until everything up to seq has arrived there. impatient: an archive that fails is an
 * error. 0, or err's code. [blocks] */
int wait_standby(struct call *c, uint64_t seq);
int wait_archive(struct call *c, uint64_t seq, bool impatient);

struct user {
    struct dmt_proc proc;
    bool frozen; /* by us: it ran before */
};
struct users {
    struct user *all;
    size_t n;
};
/* Waits at most so long for those that use the mount; u: who does then, the caller and its like included. [blocks] */
void users_grace(struct call *c, unsigned seconds, struct users *u);
/* Stops them; u: who uses it, and who was stopped. They go on with users_continue, or stay stopped: users_keep. [blocks] */
void users_freeze(struct call *c, struct users *u);
void users_keep(struct call *c);
json_t *users_json(const struct users *u);
size_t users_frozen(const struct users *u);
void users_free(struct users *u);

json_t *verb_flush(struct call *c);
json_t *verb_handover(struct call *c);
json_t *verb_promote(struct call *c);
json_t *verb_promote_forced(struct call *c); /* dumontfs_lineage.c */
json_t *verb_fence(struct call *c);
/* Adds {kind, path, from} to a JSON array. */
int verb_change_add(void *ctx, char kind, const char *path, const char *from);
/* dumontfs_branch.c */
json_t *verb_branch_extract(struct call *c);
json_t *branch_diff(struct call *c, const char *name); /* from the branch to now */

#endif
