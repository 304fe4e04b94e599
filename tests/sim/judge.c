/* judge.c: what must hold at every step, whatever happens.
 *
 *   - what was acknowledged is a prefix of the history of every epoch opened later, and of those
 *     opened before the acknowledgement but higher than its own (R14);
 *   - in one epoch one store acknowledges (P3);
 *   - one record per (epoch, sequence), so journals of equal chain are equal (R2, F1);
 *   - an epoch is opened once, and only above what that store has ever obeyed; no durable epoch
 *     goes back, nor does the register (R4, F15, F17);
 *   - a store that is being resynchronised is never opened and acknowledges nothing (R11);
 *   - with the bucket, one holder for each epoch that is written down (R18);
 *   - nobody becomes a candidate without a fresh word of the register (R13);
 *   - nothing acknowledged is ever cut (R5, R15);
 *   - sync=local: in place of the first, what the standby had acknowledged, and on the disk that
 *     acknowledged everything, as long as no other takes over;
 *   - a plain call returns nowhere once another node has opened a higher epoch, as long as no
 *     operator vouched for a death (R12, R25);
 *   - a person's force (from FORCE_SEEDS on) begins a lineage: the promises above are then kept in
 *     each; it gives up nothing that its own disk had when it was acknowledged, and nothing that
 *     disk acknowledges later counts in the old one; no record of one lineage enters a store of
 *     another but by a resync;
 * and when all faults have been healed: somebody serves, syncs are acknowledged, the pair is in
 * sync again, both journals are equal. Acknowledgements are recorded where the driver would send
 * the reply.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

#define EXPECT_ACK_NS (5 * DMT_S)

static bool of_family(const struct dmt_lineage *l, int line)
{
    for (uint32_t i = 0; i < l->past_n; i++)
        if (l->past[i][0] == line)
            return true;
    return l->id[0] == line || l->id[0] == 0;
}

/* Two machines that were both forced may have the same number for an epoch, each in a lineage that
 * is foreign to the other's. */
static struct opened *find(const struct dmt_lineage *l, uint64_t epoch)
{
    for (int i = w.opened_n - 1; i >= 0; i--)
        if (w.opened[i].epoch == epoch && of_family(l, w.opened[i].line))
            return &w.opened[i];
    return NULL;
}

void judge_record(const struct node *n, int at)
{
    const struct rec *r = &n->j[at - 1];
    struct opened *o = find(&n->lin, r->epoch);
    if (at > 1 && n->j[at - 2].epoch > r->epoch)
        bad("%s: epoch %s after %s in the journal", n->name, epoch_text(r->epoch),
            epoch_text(n->j[at - 2].epoch));
    for (int i = 0; !o && i < w.opened_n; i++)
        if (w.opened[i].epoch == r->epoch && !r->fork)
            bad("%s, whose store is of lineage %d, takes a record of epoch %s of lineage %d",
                n->name, n->lin.id[0], epoch_text(r->epoch), w.opened[i].line);
    if (!o)
        return; /* the record that opens it */
    int k = at - o->fork - 1;
    if (k < 0 || k > o->log_n) {
        bad("%s: record %d of epoch %s, which opened at %d and has %d records", n->name, at,
            epoch_text(r->epoch), o->fork, o->log_n);
    } else if (k == o->log_n) {
        DMT_ASSERT(k < RECS_MAX);
        o->log[o->log_n++] = r->chain;
    } else if (o->log[k] != r->chain) {
        bad("%s: two records under epoch %s, position %d", n->name, epoch_text(r->epoch), at);
    }
}

/* sync=local: the disk that acknowledged has it, as long as nobody else has taken over since; what
 * a failover loses is only counted. */
static void judge_local(const struct node *n, uint64_t epoch, int upto)
{
    for (int i = 0; i < 2; i++) {
        int must = w.alone_ack[i].n;
        bool has = must <= upto && (must == 0 || n->j[must - 1].chain == w.alone_ack[i].chain);
        bool own = memcmp(w.alone_ack[i].store, n->disk.self.store, 16) == 0;
        for (int k = 0; k < w.opened_n; k++)
            own = own && (w.opened[k].epoch < w.alone_ack[i].epoch || w.opened[k].node == i);
        if (must == 0 || has)
            continue;
        if (own)
            bad("%s opens epoch %s without what it acknowledged itself (%d records of %d)", n->name,
                epoch_text(epoch), upto, must);
        total.lost_local += (uint64_t)(must > upto ? must - upto : 1);
        w.alone_ack[i].n = 0;
    }
}

void judge_opened(struct node *n, uint64_t epoch)
{
    if (find(&n->disk.lineage, epoch))
        bad("epoch %s is opened twice", epoch_text(epoch));
    if (n->disk.resync || !n->has_ws || n->empty)
        bad("%s opens epoch %s with a store that is not complete", n->name, epoch_text(epoch));
    for (int i = 0; i < w.opened_n; i++)
        if (w.opened[i].epoch > epoch && memcmp(w.opened[i].store, n->disk.self.store, 16) == 0)
            bad("%s opens epoch %s after %s", n->name, epoch_text(epoch),
                epoch_text(w.opened[i].epoch));
    const struct ledger *l = &w.ledger[line_of(n)];
    int upto = n->tail - 1, must = l->n;
    while (must > 0 && l->epoch[must - 1] >= epoch)
        must--; /* one that was granted long ago and is over before it opens */
    if (must > upto || (must && l->chain[must - 1] != n->j[must - 1].chain))
        bad("%s opens epoch %s without what was acknowledged (%d records of %d)", n->name,
            epoch_text(epoch), upto, must);
    judge_local(n, epoch, upto);
    DMT_ASSERT(w.opened_n < EPOCHS_MAX);
    struct opened *o = &w.opened[w.opened_n++];
    memset(o, 0, sizeof(*o));
    o->epoch = epoch;
    o->node = idx(n);
    o->line = line_of(n);
    memcpy(o->store, n->disk.self.store, 16);
    o->fork = upto;
    o->hist_n = n->tail;
    o->acker = -1;
    uint64_t *chain = malloc(sizeof(uint64_t) * (size_t)n->tail);
    o->log = malloc(sizeof(uint64_t) * RECS_MAX);
    DMT_ASSERT(chain && o->log);
    for (int i = 0; i < n->tail; i++)
        chain[i] = n->j[i].chain;
    o->chain = chain;
    o->log[o->log_n++] = n->j[upto].chain;
}

void judge_ack(struct node *n, const struct waiting *q)
{
    int upto = q->seq;
    total.acks++;
    if (w.last_ack && w.now - w.last_ack > w.ack_gap)
        w.ack_gap = w.now - w.last_ack;
    w.last_ack = w.now;
    struct opened *o = find(&n->disk.lineage, n->gate_epoch);
    if (!o) {
        bad("%s acknowledges in epoch %s, which nobody has opened", n->name,
            epoch_text(n->gate_epoch));
        return;
    }
    if (o->acker >= 0 && o->acker != idx(n))
        bad("epoch %s is acknowledged by both nodes", epoch_text(o->epoch));
    o->acker = idx(n);
    if (n->disk.resync || !n->has_ws)
        bad("%s acknowledges while it is being resynchronised", n->name);
    /* sync=local: on this disk; beyond what the standby has it may be lost with this machine. */
    bool local_only = w.level == DMT_SYNC_LOCAL && n->mode == LEASE_GATE_PAIR;
    if (w.level == DMT_SYNC_LOCAL) {
        w.alone_ack[idx(n)].n = upto;
        w.alone_ack[idx(n)].chain = n->j[upto - 1].chain;
        w.alone_ack[idx(n)].epoch = o->epoch;
        memcpy(w.alone_ack[idx(n)].store, n->disk.self.store, 16);
    }
    if (local_only && n->acked < (uint64_t)upto)
        upto = (int)n->acked;
    struct ledger *l = &w.ledger[o->line];
    bool pair = n->mode == LEASE_GATE_PAIR;
    int same = upto < l->n ? upto : l->n;
    if (same && n->j[same - 1].chain != l->chain[same - 1])
        bad("%s acknowledges another history than what was acknowledged before", n->name);
    for (int i = 0; i < w.opened_n; i++) {
        const struct opened *h = &w.opened[i];
        /* Of another lineage only if its founder is who acknowledged to us. */
        bool counts = h->line == o->line || (pair && memcmp(h->store, n->gate_peer, 16) == 0);
        if (upto && counts && h->epoch > o->epoch &&
            (h->hist_n < upto || h->chain[upto - 1] != n->j[upto - 1].chain))
            bad("%s acknowledges record %d in epoch %s, but epoch %s was opened without it",
                n->name, upto, epoch_text(o->epoch), epoch_text(h->epoch));
    }
    for (; l->n < upto; l->n++) {
        l->chain[l->n] = n->j[l->n].chain;
        l->epoch[l->n] = o->epoch;
        l->on[l->n] = 0;
    }
    for (int i = upto; i > 0 && l->epoch[i - 1] > o->epoch; i--)
        l->epoch[i - 1] = o->epoch;
    bool both = pair && !(w.level == DMT_SYNC_LOCAL && n->acked < (uint64_t)upto);
    uint8_t bits = (uint8_t)(both ? 3 : 1 << idx(n));
    for (int i = upto; i > 0 && (l->on[i - 1] & bits) != bits; i--)
        l->on[i - 1] |= bits;
    judge_whole(n, q);
}

/* A new lineage begins with what its founder has of the old one's. What is not in it was never on
 * that disk when it was acknowledged: that, and no more, is what the person's word gives up. */
void judge_forced(struct node *n, int from)
{
    struct ledger *l = &w.ledger[line_of(n)];
    *l = w.ledger[from];
    while (l->n > 0 && (l->n > n->tail || l->chain[l->n - 1] != n->j[l->n - 1].chain)) {
        l->n--;
        if (l->on[l->n] & (1 << idx(n)))
            bad("%s is promoted by force without record %d, which was acknowledged with it",
                n->name, l->n + 1);
    }
    judge_files_forced(n, from);
    w.plain_off = true;
    total.forced++;
}

/* Its disk is another one now. */
void judge_disk(const struct node *n)
{
    for (int k = 0; k < LINES_MAX; k++)
        for (int i = 0; i < w.ledger[k].n; i++)
            w.ledger[k].on[i] &= (uint8_t) ~(1 << idx(n));
    judge_files_replaced(n);
}

void judge_plain(struct node *n)
{
    total.plains++;
    if (w.plain_off)
        return;
    for (int i = 0; i < w.opened_n; i++)
        if (w.opened[i].epoch > n->gate_epoch && w.opened[i].node != idx(n))
            bad("a plain call returns on %s in epoch %s after epoch %s was opened", n->name,
                epoch_text(n->gate_epoch), epoch_text(w.opened[i].epoch));
}

void judge_cut(const struct node *n, int keep)
{
    const struct ledger *l = &w.ledger[line_of(n)];
    int had = n->tail < l->n ? n->tail : l->n;
    if (had > keep && n->j[had - 1].chain == l->chain[had - 1])
        bad("%s cuts record %d, which was acknowledged", n->name, had);
    if (keep < n->tail)
        total.branches++;
}

void judge_resync(const struct node *n)
{
    if (!n->disk.resync)
        bad("%s begins a resync that its record does not know of", n->name);
    if (lease_register_has(&w.regs[line_of(n)], &n->disk.self))
        bad("%s begins a resync although the register names it", n->name);
}

void judge_record_written(const struct node *n, const struct lease_record *next)
{
    if (next->seen < n->disk.seen)
        bad("%s forgets epoch %s", n->name, epoch_text(n->disk.seen));
}

/* R13: whoever stops its PONGs to ask has heard from the register within the last lease. */
void judge_candidate(const struct node *n)
{
    /* With the bucket the peer's OPEN is the register's word, too. */
    uint64_t heard = w.bucket && n->bk_told > n->arb_lost ? n->bk_told : n->arb_lost;
    if (!n->s.taking && n->arb_lost != UINT64_MAX &&
        w.now - heard > (n->s.lease_ms + n->s.lease_ms / 20) * MS)
        bad("%s becomes a candidate, but it has not reached the arbiter for %llu ms", n->name,
            (unsigned long long)((w.now - n->arb_lost) / MS));
}

/* Whoever writes the higher epoch down first has it. */
void judge_bucket_record(const struct bucket_record *next)
{
    const struct lease_register *r = &next->reg;
    struct lease_register *known = &w.regs[w.forces ? next->lineage[0] : 1];
    if (r->epoch == known->epoch && r->epoch && !lease_id_eq(&r->holder, &known->holder))
        bad("both machines took epoch %u from the bucket", r->epoch);
    if (r->epoch > known->epoch)
        *known = *r;
}

void judge_register(const struct lease_register *was, const struct lease_register *next)
{
    if (next->epoch <= was->epoch)
        bad("the register goes from epoch %u to %u", was->epoch, next->epoch);
}

/* F24: the register names nobody who lives, or could be promoted; or one who does not, and
 * degrade=block waits for that one: all of it is an operator's to solve. */
static bool hopeless(void)
{
    const struct lease_register *reg = &w.regs[w.named];
    int alive = 0;
    for (int i = 0; i < 2; i++)
        alive += lease_register_has(reg, &w.n[i].disk.self) && !w.n[i].disk.resync &&
                 lease_core_state(&w.n[i].s) != DMT_LEASE_LOSER;
    return alive == 0 || (w.block && alive < reg->insync_n);
}

/* A pair that blocks, and a standby that the register names but that needs a resync: a person's,
 * too (docs/protocol.md, "Weakest arguments left"). */
static bool needs_solo(void)
{
    bool yes = false;
    for (int i = 0; i < 2; i++)
        yes = yes ||
              (w.n[i].s.peer_wants_resync && lease_core_state(&w.n[i].s) != DMT_LEASE_HOLDER_ALONE);
    return w.block && yes;
}

void judge_end(void)
{
    /* With a bucket, a disk lost in the midst of an attempt blocks for ever (R18). And who has let
     * go for a lineage whose only disk is lost since waits for a person's force. */
    if (w.bad[0] || (w.disks && hopeless()) || (w.bucket && w.disk_lost) || w.founder_lost ||
        needs_solo())
        return;
    const char *a = dmt_lease_state_name(lease_core_state(&w.n[0].s));
    const char *b = dmt_lease_state_name(lease_core_state(&w.n[1].s));
    if (w.last_ack + EXPECT_ACK_NS < w.now)
        bad("nobody acknowledges: A is %s, B is %s", a, b);
    else if (line_of(&w.n[0]) != line_of(&w.n[1]))
        bad("the two live in different lineages: A is %s, B is %s", a, b);
    else if (w.regs[line_of(&w.n[0])].insync_n != 2)
        bad("the pair is not in sync again: A is %s, B is %s", a, b);
    else if (w.bucket && w.n[0].bk_disk.reg.epoch != w.n[1].bk_disk.reg.epoch)
        bad("one of them could not be promoted: it knows of epoch %u, the other of %u",
            w.n[0].bk_disk.reg.epoch, w.n[1].bk_disk.reg.epoch);
}

void judge_free(void)
{
    for (int i = 0; i < w.opened_n; i++) {
        free((void *)(uintptr_t)w.opened[i].chain);
        free(w.opened[i].log);
    }
}
