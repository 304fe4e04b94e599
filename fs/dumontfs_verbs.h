/* dumontfs_verbs.h: between the files that serve the commands of the control socket: dumontfs_verbs.c (the table),
 * dumontfs_wait.c (those that wait for the other machine or the archive). A command returns its result, or NULL with err set. */
#ifndef DMT_DUMONTFS_VERBS_H
#define DMT_DUMONTFS_VERBS_H

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

json_t *verb_flush(struct call *c);
json_t *verb_handover(struct call *c);
json_t *verb_promote(struct call *c);
json_t *verb_fence(struct call *c);

#endif
