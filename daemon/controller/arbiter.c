/* arbiter.c: workspace processes talk to the register.
 *
 * Happy path of a request: read the register, decide (decide.c), write it durably with an event
 * row, then answer, then tell the other processes of the workspace. Failure modes: the database
 * fails: no answer at all, the asker repeats; a request from a node whose name is not that of its
 * certificate ends the connection. "Heard" is kept in memory only: it serves a policy (incumbent
 * first, F23), never safety, so a restart may forget it. Word of death comes from the agent of the
 * same node and is about one instance of the process: a process that has started again is not dead.
 * All under the controller's lock.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/controller/internal.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "fs/lease/arbiter.h"

#define ALARM_EVERY_NS (60ull * 1000000000ull)
#define NO_LINEAGE     "00000000000000000000000000000000"

static struct ctl_heard *heard_of(struct ctl *c, const char *lineage, const struct lease_id *id)
{
    DMT_LIST_EACH(n, tmp, &c->heard)
    {
        struct ctl_heard *h = DMT_CONTAINER(n, struct ctl_heard, link);
        if (strcmp(h->lineage, lineage) == 0 && lease_id_eq(&h->id, id))
            return h;
    }
    return NULL;
}

bool ctl_lineage(struct ctl *c, const struct ctl_conn *k, char ret[33])
{
    ret[0] = '\0';
    if (k->lineage[0])
        (void)snprintf(ret, 33, "%s", k->lineage);
    else if (ctl_db_lineage_of(c->db, k->workspace, ret, NULL) != 1)
        return false;
    return true;
}

static void hear(struct ctl_conn *k)
{
    char lineage[33];
    k->heard_ns = ctl_now();
    if (!ctl_lineage(k->c, k, lineage))
        return;
    struct ctl_heard *h = heard_of(k->c, lineage, &k->id);
    if (!h) {
        h = calloc(1, sizeof(*h));
        if (!h)
            return;
        memcpy(h->lineage, lineage, sizeof(lineage));
        (void)snprintf(h->workspace, sizeof(h->workspace), "%s", k->workspace);
        h->id = k->id;
        dmt_list_add_tail(&k->c->heard, &h->link);
    }
    if (h->instance != k->instance)
        h->dead = false; /* it lives again */
    h->instance = k->instance;
    h->at_ns = k->heard_ns;
}

static bool is_lineage(const char *s)
{
    return s && strlen(s) == 32 && strspn(s, "0123456789abcdef") == 32;
}

/* Its lineage was forced out of these: whoever still lives in one of them gets nothing granted. */
static void end_lineages(struct ctl_conn *k, const json_t *past)
{
    struct dmt_err err = {0};
    const json_t *v;
    size_t i;
    json_array_foreach(past, i, v)
    {
        const char *of = json_string_value(v);
        if (is_lineage(of) && strcmp(of, k->lineage) != 0 &&
            ctl_db_over(k->c->db, of, k->lineage, &err) < 0)
            dmt_error("%s", err.msg);
    }
}

int ctl_workspace_hello(struct ctl_conn *k, const json_t *v)
{
    const char *ws = json_string_value(json_object_get(v, "workspace"));
    const char *lineage = json_string_value(json_object_get(v, "lineage"));
    struct dmt_err err = {0};
    int over;
    if (!ws || strlen(ws) >= sizeof(k->workspace) || !is_lineage(lineage) ||
        !lease_id_parse(json_object_get(v, "id"), &k->id) ||
        !lease_u64_parse(json_object_get(v, "instance"), &k->instance))
        return -EBADMSG;
    if (strcmp(k->id.node, k->node) != 0) {
        dmt_warn("%s calls itself %s: refused", k->node, k->id.node);
        return DMT_E_AUTH;
    }
    (void)snprintf(k->workspace, sizeof(k->workspace), "%s", ws);
    if (strcmp(lineage, NO_LINEAGE) != 0) {
        (void)snprintf(k->lineage, sizeof(k->lineage), "%s", lineage);
        end_lineages(k, json_object_get(v, "past"));
        over = ctl_db_is_over(k->c->db, lineage, &err);
        if (over < 0 || (over == 0 && ctl_db_workspace(k->c->db, ws, lineage, &err) < 0))
            dmt_error("%s", err.msg);
    }
    k->kind = CTL_WORKSPACE;
    hear(k);
    return 0;
}

/* The other processes of the workspace learn of a change at once. */
static void tell_others(struct ctl_conn *from, const char *lineage,
                        const struct lease_register *reg)
{
    DMT_LIST_EACH(n, tmp, &from->c->conns)
    {
        struct ctl_conn *k = DMT_CONTAINER(n, struct ctl_conn, link);
        char l[33];
        if (k != from && k->kind == CTL_WORKSPACE && ctl_lineage(from->c, k, l) &&
            strcmp(l, lineage) == 0)
            tlsline_send(k->line, json_pack("{s:s s:o}", "ev", "register", "register",
                                            lease_register_json(reg)));
    }
}

static void describe(const struct lease_register *r, char text[LEASE_TEXT_MAX])
{
    (void)snprintf(text, LEASE_TEXT_MAX, "epoch %u: %s holds%s%s", r->epoch, r->holder.node,
                   r->insync_n > 1 ? ", in sync: " : ", one copy",
                   r->insync_n > 1 ? r->insync[lease_id_eq(&r->insync[0], &r->holder) ? 1 : 0].node
                                   : "");
}

static void alarm_behind(struct ctl_conn *k, const char *why)
{
    struct ctl *c = k->c;
    if (c->alarm_ns && ctl_now() - c->alarm_ns < ALARM_EVERY_NS)
        return;
    c->alarm_ns = ctl_now();
    dmt_error("workspace %s: %s", k->workspace, why);
    (void)ctl_db_event(c->db, k->workspace, k->node, "register-behind", why, NULL);
}

static void on_ask(struct ctl_conn *k, const struct lease_ask *ask)
{
    struct ctl *c = k->c;
    struct ctl_view view = {.holder_heard_ms = UINT64_MAX};
    struct ctl_verdict verdict;
    struct dmt_err err = {0};
    char lineage[33], text[LEASE_TEXT_MAX];
    bool known = ctl_lineage(c, k, lineage);
    if (known && ctl_db_register(c->db, lineage, &view.reg, &err) < 0) {
        dmt_error("%s", err.msg);
        return; /* unanswered is safe */
    }
    int over = known ? ctl_db_is_over(c->db, lineage, &err) : 0;
    if (over < 0) {
        dmt_error("%s", err.msg);
        return;
    }
    view.over = over == 1;
    const struct ctl_heard *h = view.reg.epoch ? heard_of(c, lineage, &view.reg.holder) : NULL;
    if (h && !h->dead)
        view.holder_heard_ms = (ctl_now() - h->at_ns) / DMT_MS;
    ctl_decide(&view, &k->id, ask, &verdict);
    if (verdict.changed && !known) {
        dmt_error("a change by a process without lineage: %s", k->node);
        return;
    }
    if (verdict.changed) {
        describe(&verdict.next, text);
        if (ctl_db_change(c->db, lineage, k->workspace, view.reg.epoch, &verdict.next, k->node,
                          lease_op_name(ask->op), text, &err) < 0) {
            dmt_error("%s", err.msg);
            return;
        }
        dmt_info("workspace %s: %s by %s: %s", k->workspace, lease_op_name(ask->op), k->node, text);
    } else if (!verdict.granted) {
        dmt_info("workspace %s: %s by %s refused: %s", k->workspace, lease_op_name(ask->op),
                 k->node, verdict.why);
    }
    /* A standby that has no lineage yet may have heard of a new one's epoch before its holder has
     * told us of that lineage: then the name still means the old one. */
    if (verdict.behind && k->lineage[0])
        alarm_behind(k, verdict.why);
    json_t *a =
        json_pack("{s:I s:b s:o s:I}", "re", (json_int_t)ask->id, "ok", verdict.granted, "register",
                  lease_register_json(&verdict.next), "retry_ms", (json_int_t)verdict.retry_ms);
    if (!verdict.granted)
        json_object_set_new(a, "why", json_string(verdict.why));
    tlsline_send(k->line, a);
    if (verdict.changed)
        tell_others(k, lineage, &verdict.next);
}

int ctl_workspace_line(struct ctl_conn *k, const json_t *v)
{
    const char *op = json_string_value(json_object_get(v, "op"));
    struct lease_ask ask;
    if (!op)
        return -EBADMSG;
    if (strcmp(op, "beat") == 0) {
        hear(k);
        return 0;
    }
    if (!lease_ask_parse(v, &ask))
        return -EBADMSG;
    on_ask(k, &ask);
    return 0;
}

void ctl_process_dead(struct ctl *c, struct ctl_heard *h, const char *how)
{
    if (h->dead)
        return;
    h->dead = true;
    dmt_info("workspace %s: the process on %s is gone (%s)", h->workspace, h->id.node, how);
    (void)ctl_db_event(c->db, h->workspace, h->id.node, "process-gone", how, NULL);
    DMT_LIST_EACH(n, tmp, &c->conns)
    {
        struct ctl_conn *k = DMT_CONTAINER(n, struct ctl_conn, link);
        char l[33];
        if (k->kind == CTL_WORKSPACE && strcmp(k->node, h->id.node) != 0 && ctl_lineage(c, k, l) &&
            strcmp(l, h->lineage) == 0)
            tlsline_send(k->line,
                         json_pack("{s:s s:o s:o}", "ev", "death", "id", lease_id_json(&h->id),
                                   "instance", lease_u64_json(h->instance)));
    }
}

/* An agent's word: "the process of this workspace, this instance, is gone from my machine". */
void ctl_on_death(struct ctl_conn *k, const json_t *v)
{
    const char *ws = json_string_value(json_object_get(v, "workspace"));
    uint64_t instance = 0;
    if (!ws || !lease_u64_parse(json_object_get(v, "instance"), &instance))
        return;
    DMT_LIST_EACH(n, tmp, &k->c->heard)
    {
        struct ctl_heard *h = DMT_CONTAINER(n, struct ctl_heard, link);
        if (strcmp(h->workspace, ws) == 0 && strcmp(h->id.node, k->node) == 0 &&
            h->instance == instance)
            ctl_process_dead(k->c, h, "its agent says so");
    }
}
