/* journal.c: a node's journal: records with a chain, durable up to a point.
 *
 * Owns j, tail, durable, oldest and the list of epochs of a node. What is behind `durable` is lost
 * by a power cut and by nothing else; a sync takes its time and covers what was there when it
 * began. A disk that is full refuses records. A cut is judged before it is made.
 */
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x7fb5d329728ea185ull;
    x ^= x >> 27;
    x *= 0x81dadef4bc2dd44dull;
    return x ^ x >> 33;
}

struct dmt_pos pos_of(const struct node *n, int seq)
{
    struct dmt_pos p = {0};
    if (seq > 0)
        p = (struct dmt_pos){n->j[seq - 1].epoch, (uint64_t)seq, n->j[seq - 1].chain};
    return p;
}

enum replica_relation relate(const struct node *n, const struct dmt_pos *p, bool empty)
{
    if (!n->has_ws || empty)
        return REPLICA_EMPTY;
    if (p->seq > (uint64_t)n->tail)
        return REPLICA_BEYOND;
    if (p->seq < (uint64_t)n->oldest)
        return REPLICA_OLD;
    return pos_of(n, (int)p->seq).chain == p->chain ? REPLICA_ON : REPLICA_OFF;
}

static void note_epoch(struct node *n, const struct rec *r)
{
    if (r->fork == 0)
        return;
    DMT_ASSERT(n->ep_n < NODE_EPOCHS);
    n->ep[n->ep_n++] =
        (struct replica_epoch){r->epoch, r->fork - 1, pos_of(n, (int)r->fork - 1).chain};
}

static void put(struct node *n, const struct rec *r)
{
    DMT_ASSERT(n->tail < RECS_MAX);
    n->j[n->tail++] = *r;
    note_epoch(n, r);
    judge_record(n, n->tail);
}

bool journal_append(struct node *n, uint64_t epoch, bool opens, const struct rec *what)
{
    if (n->full_until > w.now || n->tail >= RECS_MAX - 1)
        return false;
    struct rec r = what ? *what : (struct rec){0};
    r.epoch = epoch;
    r.id = ++w.next_id;
    if (r.op == OP_CREATE)
        r.ino = r.id;
    if (opens) {
        r.fork = (uint32_t)n->tail + 1;
        r.ino = (uint32_t)n->disk.self.store[0] << 8 | n->disk.self.store[1];
    }
    r.chain = mix(pos_of(n, n->tail).chain ^ mix(epoch ^ (uint64_t)r.id << 40));
    put(n, &r);
    files_say(n, &r);
    if (r.op == OP_REF)
        files_wrote(n, &r);
    files_apply(n, n->tail);
    fsync_soon(n);
    return true;
}

bool journal_receive(struct node *n, const struct rec *r)
{
    if (n->full_until > w.now)
        return false;
    put(n, r);
    fsync_soon(n);
    return true;
}

static void shorten(struct node *n, int keep)
{
    n->tail = keep;
    n->durable = n->durable < keep ? n->durable : keep;
    n->oldest = n->oldest < keep ? n->oldest : keep;
    n->jgen++;
    n->fsyncing = false;
    while (n->ep_n > 0 && n->ep[n->ep_n - 1].switch_seq >= (uint64_t)keep)
        n->ep_n--;
}

void journal_cut(struct node *n, int keep)
{
    judge_cut(n, keep);
    shorten(n, keep);
    files_reload(n, n->tail);
}

/* The whole store makes room for another state; the old one rests, and what is the same in the new
 * one is taken from it. */
void journal_clear(struct node *n)
{
    shorten(n, 0);
    memset(&n->f, 0, sizeof(n->f));
    memset(&n->ckpt, 0, sizeof(n->ckpt));
}

/* Power is gone: what was not synced goes with it. */
void journal_forget(struct node *n)
{
    shorten(n, n->durable);
    files_power(n);
}

void journal_sync(struct node *n)
{
    n->durable = n->tail;
}

void fsync_soon(struct node *n)
{
    if (n->fsyncing || n->durable == n->tail)
        return;
    n->fsyncing = true;
    struct item *it =
        push(w.now + MS / 2 + rnd(one_in(30) ? 80 * MS : w.fsync_max), W_FSYNC, idx(n));
    it->n = (uint64_t)n->tail;
    it->gen = n->jgen;
}

void new_store(struct node *n)
{
    memset(&n->disk, 0, sizeof(n->disk));
    memset(&n->lin, 0, sizeof(n->lin));
    judge_disk(n);
    memcpy(n->disk.self.node, n->name, strlen(n->name) + 1);
    n->disk.self.store[0] = (uint8_t)(1 + idx(n));
    n->disk.self.store[1] = ++w.serial;
    memset(&n->bk_disk, 0, sizeof(n->bk_disk));
    n->bk_disk.self = n->disk.self;
    n->tail = n->durable = n->oldest = n->ep_n = 0;
    n->jgen++;
    files_clear(n);
    n->unsettled = false;
    n->has_ws = n->empty = true;
}
