/* decide.c: the register's transitions.
 *
 * Each request names the epoch it is based on; only the current one counts, and every change is
 * epoch + 1 (R1), so that whatever arrives late, twice or out of order changes nothing. Who may ask
 * what: SOLO, PAIR, HANDOVER, RETAKE the holder; PROMOTE another member of the in-sync set, which
 * removes the old holder in the same change (R7). Incumbent first (F23) is policy, not safety. The
 * register of a new lineage is made by its founder's first change, based on the epoch that the
 * lineage began with (1; later where it was restored, or begun by force), which needs no arbiter.
 * Nothing is granted any more in a lineage that another was forced out of.
 * Failure mode: a node that has obeyed more than stands here proves that this database was
 * rolled back: everything is refused (F17). Pure functions.
 */
#include "daemon/controller/decide.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void refuse(struct ctl_verdict *r, uint32_t retry_ms, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void refuse(struct ctl_verdict *r, uint32_t retry_ms, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(r->why, sizeof(r->why), fmt, ap);
    va_end(ap);
    r->granted = false;
    r->retry_ms = retry_ms;
}

static void grant(struct ctl_verdict *r, const struct lease_register *now,
                  const struct lease_id *holder, const struct lease_id *other)
{
    struct lease_id h = *holder, o = {0};
    if (other)
        o = *other;
    memset(&r->next, 0, sizeof(r->next));
    r->next.epoch = now->epoch + 1;
    r->next.holder = h;
    r->next.insync[0] = h;
    r->next.insync_n = 1;
    if (other)
        r->next.insync[r->next.insync_n++] = o;
    r->granted = r->changed = true;
}

static const struct lease_id *other_member(const struct lease_register *reg,
                                           const struct lease_id *than)
{
    for (int i = 0; i < reg->insync_n; i++)
        if (!lease_id_eq(&reg->insync[i], than))
            return &reg->insync[i];
    return NULL;
}

static void promote(const struct ctl_view *v, const struct lease_register *reg,
                    const struct lease_id *from, const struct lease_ask *ask, struct ctl_verdict *r)
{
    if (lease_id_eq(&reg->holder, from))
        refuse(r, 0, "%s holds the workspace already", from->node);
    else if (!lease_register_has(reg, from))
        refuse(r, 0, "the copy on %s is not in sync", from->node);
    else if (!ask->word && v->holder_heard_ms < ask->lease_ms)
        refuse(r, (uint32_t)(ask->lease_ms - v->holder_heard_ms) + 1, "%s was heard %llu ms ago",
               reg->holder.node, (unsigned long long)v->holder_heard_ms);
    else
        grant(r, reg, from, NULL);
}

static void change(const struct ctl_view *v, const struct lease_register *reg,
                   const struct lease_id *from, const struct lease_ask *ask, struct ctl_verdict *r)
{
    if (ask->op == LEASE_PROMOTE) {
        promote(v, reg, from, ask, r);
        return;
    }
    if (!lease_id_eq(&reg->holder, from)) {
        refuse(r, 0, "%s holds the workspace, not %s", reg->holder.node, from->node);
        return;
    }
    switch (ask->op) {
    case LEASE_SOLO:
        grant(r, reg, from, NULL);
        return;
    case LEASE_PAIR:
        if (lease_id_none(&ask->peer) || strcmp(ask->peer.node, from->node) == 0 ||
            memcmp(ask->peer.store, from->store, 16) == 0)
            refuse(r, 0, "a pair is two stores on two nodes");
        else if (other_member(reg, from))
            refuse(r, 0, "%s has a standby in sync already", from->node);
        else
            grant(r, reg, from, &ask->peer);
        return;
    case LEASE_HANDOVER:
        if (lease_id_eq(&ask->peer, from) || !lease_register_has(reg, &ask->peer))
            refuse(r, 0, "the copy on %s is not in sync", ask->peer.node);
        else
            grant(r, reg, &ask->peer, from);
        return;
    case LEASE_RETAKE:
        grant(r, reg, from, other_member(reg, from));
        return;
    default:
        refuse(r, 0, "unknown request");
        return;
    }
}

void ctl_decide(const struct ctl_view *v, const struct lease_id *from, const struct lease_ask *ask,
                struct ctl_verdict *ret)
{
    struct lease_register reg = v->reg;
    uint32_t seen = DMT_EPOCH_MAJOR(ask->seen);
    memset(ret, 0, sizeof(*ret));
    ret->next = v->reg;
    if (v->over) {
        refuse(ret, 5000,
               "this history is over: the other machine was promoted by force out of it, and %s "
               "joins it at its first contact",
               from->node);
        return;
    }
    /* A lineage's first epoch is its founder's and is never written here by itself. A standby may
     * not know which it was: that there is no register says nothing to it. */
    bool nothing_yet =
        reg.epoch == 0 && (seen <= ask->first || (ask->first == 0 && ask->op == LEASE_READ));
    if (seen > reg.epoch && seen > 1 && !nothing_yet) {
        ret->behind = true;
        refuse(ret, 5000,
               "the arbiter's register is at epoch %u but %s has obeyed %u: its database was "
               "restored from a backup?",
               reg.epoch, from->node, seen);
        return;
    }
    if (ask->op == LEASE_READ) {
        ret->granted = true;
        return;
    }
    if (reg.epoch == 0 && ask->first > 0 && ask->base == ask->first &&
        (ask->op == LEASE_SOLO || ask->op == LEASE_PAIR || ask->op == LEASE_RETAKE)) {
        reg.epoch = ask->first;
        reg.holder = reg.insync[0] = *from;
        reg.insync_n = 1;
    }
    if (reg.epoch == 0 || ask->base != reg.epoch) {
        refuse(ret, 0, "based on epoch %u, the register is at %u", ask->base, reg.epoch);
        return;
    }
    if (reg.epoch == UINT32_MAX) {
        refuse(ret, 0, "no epochs are left");
        return;
    }
    change(v, &reg, from, ask, ret);
}
