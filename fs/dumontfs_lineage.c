/* dumontfs_lineage.c: the lineage of the store, and `promote --force`.
 *
 * Happy path of a force: a person has said the word -> the lease writes its record (new lineage,
 * first epoch, alone) and orders the promotion -> here the store is brought there: everything that
 * has come is applied and checkpointed, the journal of the old lineage goes, the database says the
 * new one, an empty journal begins where the old one ended. Failure modes: killed anywhere in
 * between, the next start finds a record that is one lineage ahead of the store and does the same
 * again (start_all). Threads: main; the command on its connection's.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "fs/base/log.h"
#include "fs/dumontfs_past.h"
#include "fs/dumontfs_verbs.h"

#define POLL_MS       20
#define FORCED_MAX_MS 120000

void app_lineage(struct app *a, struct dmt_lineage *ret)
{
    dmt_lease_lineage(a->lease, ret);
    if (memcmp(ret->id, a->ident.lineage, 16) != 0) {
        memset(ret, 0, sizeof *ret);
        memcpy(ret->id, a->ident.lineage, 16);
    }
}

/* Closed, with everything up to the tail in the database: the journal has said all it can. */
static int rename_store(struct app *a, const struct dmt_pos *tail, const struct dmt_lineage *l,
                        struct dmt_err *err)
{
    struct dmt_store_conf sc = app_store_conf(a);
    char path[DMT_PATH_MAX + 16];
    struct dmt_store *st;
    int rc = dmt_store_open(&st, &sc, err);
    if (rc != 0)
        return rc;
    struct dmt_pos at = dmt_store_applied(st);
    if (at.seq != tail->seq || at.chain != tail->chain) {
        rc = dmt_err_set(err, DMT_E_HISTORY,
                         "the store is at position %" PRIu64 ", its journal at %" PRIu64, at.seq,
                         tail->seq);
    } else {
        snprintf(path, sizeof path, "%s/journal", a->store_dir);
        remove_path(path);
        rc = dmt_store_set_lineage(st, l->id, err);
    }
    dmt_store_close(st);
    return rc;
}

int app_new_lineage(struct app *a, struct dmt_err *err)
{
    struct dmt_lineage l;
    dmt_lease_lineage(a->lease, &l);
    if (memcmp(l.id, a->ident.lineage, 16) == 0)
        return 0;
    int rc = a->ws ? 0 : app_open_ws(a, err);
    if (rc == 0 && !roles_is_holder(a))
        rc = dmt_ws_promote(a->ws, err); /* all that is durable here counts (R6) */
    if (rc != 0)
        return rc;
    struct dmt_pos tail = dmt_journal_tail(dmt_ws_journal(a->ws));
    if (a->replica)
        dmt_replica_set_ws(a->replica, NULL);
    pthread_rwlock_wrlock(&a->ws_lock);
    struct dmt_ws *ws = a->ws;
    a->ws = NULL;
    pthread_rwlock_unlock(&a->ws_lock);
    rc = dmt_ws_close(ws, err);
    if (rc == 0)
        rc = rename_store(a, &tail, &l, err);
    int opened = app_open_ws(a, rc == 0 ? err : NULL); /* else as it was: readable at least */
    rc = rc != 0 ? rc : opened;
    if (rc == 0)
        dmt_info("the store is of a new lineage from position %" PRIu64 " on", tail.seq);
    if (opened == 0 && a->replica) {
        app_lineage(a, &l);
        dmt_replica_set_lineage(a->replica, &l);
        dmt_replica_set_ws(a->replica, a->ws);
    }
    return rc;
}

/* --- the word --------------------------------------------------------------------------------- */
/* What of the other machine is known here, as far as it bears on what would be lost. */
static void other_side(struct app *a, const struct dmt_lease_status *ls, uint64_t tail,
                       char text[256])
{
    struct dmt_replica_status rs = {.holder_durable = 0};
    int n = 0;
    text[0] = '\0';
    if (a->replica)
        dmt_replica_status(a->replica, &rs);
    if (ls->peer_silent_ms != UINT64_MAX)
        n = snprintf(text, 256, "; it was heard last %" PRIu64 " s ago", ls->peer_silent_ms / 1000);
    if (rs.holder_durable > tail)
        n += snprintf(text + n, 256 - (size_t)n,
                      ", with %" PRIu64 " records on its disk that are not here",
                      rs.holder_durable - tail);
    if (ls->reg_epoch == 0)
        snprintf(text + n, 256 - (size_t)n,
                 "; whether it had gone on alone meanwhile is not known here");
    else if (ls->reg_named)
        snprintf(text + n, 256 - (size_t)n,
                 "; this copy was in sync when the arbiter was asked last (epoch %u)",
                 ls->reg_epoch);
    else
        snprintf(text + n, 256 - (size_t)n,
                 "; it had gone on alone (epoch %u): what it has acknowledged since is lost",
                 ls->reg_epoch);
}

/* Refuses, and says what would be lost, unless the word is there: the workspace's name. */
static int ask_for_the_word(struct call *c)
{
    struct app *a = c->app;
    struct dmt_lease_status ls;
    char other[256];
    dmt_lease_status(a->lease, &ls);
    struct dmt_ws *ws = app_ws_get(a);
    struct dmt_pos tail = {0};
    if (ws) {
        tail = dmt_journal_tail(dmt_ws_journal(ws));
        app_ws_put(a);
    }
    other_side(a, &ls, tail.seq, other);
    if (strcmp(verb_arg(c, "word"), a->name) == 0) {
        dmt_warn("promote --force: this copy ends at position %" PRIu64 " of epoch %u.%u%s",
                 tail.seq, DMT_EPOCH_MAJOR(tail.epoch), DMT_EPOCH_MINOR(tail.epoch), other);
        return 0;
    }
    const char *peer = ls.peer_node[0] ? ls.peer_node : "the other machine";
    dmt_err_set(c->err, DMT_E_WORD,
                "--force says that %s never comes back: this copy ends at position %" PRIu64
                " of epoch %u.%u, and what %s has beyond that is lost%s",
                peer, tail.seq, DMT_EPOCH_MAJOR(tail.epoch), DMT_EPOCH_MINOR(tail.epoch), peer,
                other);
    return dmt_err_hint(c->err,
                        "If it does come back, that is kept there as a branch. To do it: "
                        "dumont promote %s --force --yes",
                        a->name);
}

/* Until it holds the workspace: that needs nobody but this machine. */
json_t *verb_promote_forced(struct call *c)
{
    struct app *a = c->app;
    struct dmt_lease_status ls;
    char text[256];
    if (dmt_lease_command_check(a->lease, DMT_LEASE_CMD_FORCE, c->err) != 0 ||
        ask_for_the_word(c) != 0 || dmt_lease_command(a->lease, DMT_LEASE_CMD_FORCE, c->err) != 0)
        return NULL;
    for (int ms = 0; ms < FORCED_MAX_MS && !a->stopping; ms += POLL_MS) {
        dmt_lease_status(a->lease, &ls);
        if (ls.holder) {
            snprintf(text, sizeof text, "promoted by force: a new lineage, epoch %u, one copy",
                     DMT_EPOCH_MAJOR(ls.epoch));
            return json_pack("{s:s}", "text", text);
        }
        control_progress(c->control, "applying what has come", 0, 0, "");
        usleep(POLL_MS * 1000);
    }
    dmt_err_set(c->err, -ETIMEDOUT, "%s is not promoted yet", a->name);
    dmt_err_hint(c->err, "`dumont status %s` and its log show what it is doing.", a->name);
    return NULL;
}
