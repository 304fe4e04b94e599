/* arbiter.c: the controller: the register, and its links to the nodes.
 *
 * The decisions are the controller's own (daemon/controller/decide.c); here are its database (one
 * register, changed before the answer leaves), what it hears, and a network that delays, doubles
 * and loses requests and answers, in any order. A request that is under way outlives who sent it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

static struct item *event(struct node *n, enum what what, enum lease_ev type, uint64_t at)
{
    struct item *it = push(at, what, idx(n));
    it->ev = calloc(1, sizeof(*it->ev));
    DMT_ASSERT(it->ev);
    it->ev->type = type;
    return it;
}

/* Its hello: what its lineage was forced out of is over. */
static void hello(const struct node *n)
{
    const struct dmt_lineage *l = &n->disk.lineage;
    for (uint32_t i = 0; i < l->past_n; i++)
        w.over[l->past[i][0]] = true;
    if (l->id[0] && !w.over[l->id[0]])
        w.named = l->id[0];
}

void arbiter_ask(struct node *n, const struct lease_ask *q)
{
    if (w.bucket) {
        object_ask(n, q);
        return;
    }
    if (!n->arb_link || !w.arb_up) {
        struct item *it = event(n, W_EVENT, LEASE_EV_ANSWER, w.now + 5 * MS);
        it->ev->ask_id = q->id;
        it->ev->answer = LEASE_UNANSWERED;
        return;
    }
    hello(n);
    for (int copies = one_in(w.calm ? 0 : 12) ? 2 : 1; copies > 0; copies--) {
        struct item *it =
            push(w.now + MS + rnd(one_in(w.calm ? 0 : 10) ? 3000 * MS : 10 * MS), W_ASK, idx(n));
        it->ask = *q;
        it->from = n->disk.self;
        it->line = line_of(n);
    }
}

static void tell_other(struct node *n, int line)
{
    if (one_in(3))
        return;
    struct node *o = other(n);
    if (line_of(o) == line)
        event(o, W_ANSWER, LEASE_EV_REGISTER, w.now + rnd(20 * MS))->ev->reg = w.regs[line];
}

void arbiter_take(const struct item *asked)
{
    struct node *n = &w.n[asked->node];
    const struct lease_ask *q = &asked->ask;
    struct lease_register *reg = &w.regs[asked->line];
    struct ctl_view v = {.reg = *reg, .holder_heard_ms = UINT64_MAX, .over = w.over[asked->line]};
    struct ctl_verdict r;
    if (!w.arb_up)
        return;
    for (int i = 0; i < 2; i++)
        if (lease_id_eq(&w.n[i].disk.self, &reg->holder) && !w.heard_dead[i] && w.heard[i])
            v.holder_heard_ms = (w.now - w.heard[i]) / MS;
    ctl_decide(&v, &asked->from, q, &r);
    if (r.behind && n->disk.lineage.id[0]) /* else its name may mean another one, by now */
        bad("the register is behind what %s has obeyed", n->name);
    if (r.changed) {
        judge_register(reg, &r.next);
        *reg = r.next;
        say("register: %s by %s: epoch %u, %s holds, %d in sync", lease_op_name(q->op), n->name,
            reg->epoch, reg->holder.node, reg->insync_n);
        tell_other(n, asked->line);
    }
    if (asked->life != n->life || (!w.calm && one_in(15) && !w.healed))
        return; /* the answer is lost, as it is when its connection ended with the process */
    struct item *it = event(n, W_ANSWER, LEASE_EV_ANSWER,
                            w.now + MS + rnd(one_in(w.calm ? 0 : 10) ? 2000 * MS : 5 * MS));
    it->ev->ask_id = q->id;
    it->ev->answer = r.granted ? LEASE_GRANTED : LEASE_REFUSED;
    it->ev->reg = r.next;
    it->ev->retry_ms = r.retry_ms;
    (void)snprintf(it->ev->text, sizeof(it->ev->text), "%s", r.why);
}

void arbiter_beat(struct node *n)
{
    if (!n->arb_link || !w.arb_up)
        return;
    hello(n);
    w.heard[idx(n)] = w.now;
    w.heard_dead[idx(n)] = false;
}

void arbiter_links(void)
{
    for (int i = 0; i < 2; i++) {
        struct node *n = &w.n[i];
        bool there = n->arb_link && w.arb_up;
        if (there != (n->arb_lost == UINT64_MAX))
            n->arb_lost = there ? UINT64_MAX : w.now;
        if (n->up && !w.bucket)
            (void)post(n, there ? LEASE_EV_ARB_UP : LEASE_EV_ARB_DOWN);
    }
}
