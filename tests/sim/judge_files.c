/* judge_files.c: what must hold for files (P2, and P1 for their bytes).
 *
 *   - whoever calls a block complete has the bytes of exactly the write that its file shows,
 *     durably enough for a claim: never others, never none;
 *   - after a promotion, or a start after a power cut, names and inodes are those of the journal,
 *     exactly; a file is either as the journal says, every byte of it there, or listed (a record
 *     says so) and then an earlier state of its own, or of a file that it replaced, or its own
 *     beginning up to the first missing byte: every byte of that is there;
 *   - and never older than what a sync acknowledged: an older content is at least as new, a cut
 *     takes nothing that was acknowledged and not overwritten, truncated or replaced since by its
 *     user.
 *   - whoever wrote a file in this boot of its machine, and has every byte of it, gives up none;
 * sync=local binds the disk that acknowledged, not the other one; a force only what its disk had.
 */
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

static bool right(const struct node *n, int seq, int b)
{
    const struct rec *r = rec_at(n, seq);
    return r->op != OP_REF || n->place[r->ref][b].bytes == bytes_of(r->id, b);
}

void judge_known(const struct node *n, int seq, int b)
{
    const struct rec *r = rec_at(n, seq);
    const struct place *p = &n->place[r->ref][b];
    if (p->bytes != bytes_of(r->id, b))
        bad("%s calls block %d of record %d complete, but has %s there", n->name, b, seq,
            p->bytes ? "other bytes" : "nothing");
    else if (!p->durable)
        bad("%s calls block %d of record %d complete, but it is not durable", n->name, b, seq);
}

/* Late in an older lineage with the word of one who has founded another since: it had it, too. */
static uint8_t lines_of(const struct node *n, bool dual)
{
    uint8_t lines = (uint8_t)(1 << line_of(n));
    for (int i = 0; dual && i < w.opened_n; i++)
        if (memcmp(w.opened[i].store, n->gate_peer, 16) == 0)
            lines |= (uint8_t)(1 << w.opened[i].line);
    return lines;
}

/* A force gives up what its own disk did not have when it was acknowledged, and no more. */
void judge_files_forced(const struct node *n, int from)
{
    for (int i = 0; i < w.whole_n; i++)
        if (w.whole[i].lines & 1 << from && w.whole[i].on & 1 << idx(n))
            w.whole[i].lines |= (uint8_t)(1 << line_of(n));
}

/* A pair is recorded: the other one has all that was ever acknowledged in this lineage (R9). */
void judge_files_paired(const struct node *n)
{
    for (int i = 0; i < w.whole_n; i++)
        if (w.whole[i].lines & 1 << line_of(n))
            w.whole[i].on = 3;
}

/* Another state is on its disk, or none: what is missing of it it may never have had. */
void judge_files_replaced(const struct node *n)
{
    for (int i = 0; i < w.whole_n; i++)
        w.whole[i].on &= (uint8_t) ~(1 << idx(n));
}

/* A sync of files is acknowledged. */
void judge_whole(const struct node *n, const struct waiting *q)
{
    bool dual = n->mode == LEASE_GATE_PAIR && w.level != DMT_SYNC_LOCAL;
    bool alone = n->mode == LEASE_GATE_ALONE || n->mode == LEASE_GATE_READONLY;
    bool both =
        dual && !n->s.rec.alone; /* else SOLO is recorded, and only its gate is not there yet */
    say("    %s: sync of file %u at %d is acknowledged", n->name, q->ino, q->called);
    total.bulk_acks += q->ref_seq != 0;
    for (int i = 0; i < NAMES; i++) {
        const struct file *f = &n->f.v[i];
        if (f->ino == 0 || (q->ino && f->ino != q->ino) || w.whole_n == WHOLES_MAX)
            continue;
        w.whole[w.whole_n].ino = f->ino;
        w.whole[w.whole_n].seq = q->called;
        w.whole[w.whole_n].chain = pos_of(n, q->called).chain;
        w.whole[w.whole_n].epoch = n->gate_epoch;
        w.whole[w.whole_n].only = dual || alone ? -1 : idx(n);
        w.whole[w.whole_n].lines = lines_of(n, both);
        w.whole[w.whole_n].on = (uint8_t)(both ? 3 : 1 << idx(n));
        memcpy(w.whole[w.whole_n].store, n->disk.self.store, 16);
        w.whole_n++;
    }
}

/* The newest acknowledged sync of a file that binds this node; 0 none. */
static int acknowledged(const struct node *n, uint32_t ino, int upto)
{
    int q = 0;
    for (int i = 0; i < w.whole_n; i++) {
        if (w.whole[i].ino != ino || w.whole[i].seq > upto || w.whole[i].seq <= q ||
            !(w.whole[i].lines & 1 << line_of(n)) ||
            pos_of(n, w.whole[i].seq).chain != w.whole[i].chain)
            continue;
        if (w.whole[i].only < 0 || memcmp(w.whole[i].store, n->disk.self.store, 16) == 0)
            q = w.whole[i].seq;
    }
    return q;
}

static bool same(const struct content *a, const struct content *b)
{
    return a->size == b->size && memcmp(a->blk, b->blk, sizeof(a->blk)) == 0;
}

/* Was c what the file `ino` held at some position in [from, upto]? */
static bool was_content(const struct node *n, uint32_t ino, const struct content *c, int from,
                        int upto)
{
    struct files f = {0};
    for (int s = 1; s <= upto; s++) {
        files_logic(&f, rec_at(n, s), s);
        const struct file *x = s >= from ? files_of(&f, ino) : NULL;
        if (x && same(&x->c, c))
            return true;
    }
    return false;
}

/* Did `ino` take the place of `old`, or of one that took it? */
static bool replaced(const struct node *n, uint32_t ino, uint32_t old, int upto)
{
    struct files f = {0};
    for (int s = 1; s <= upto; s++) {
        const struct rec *r = rec_at(n, s);
        if (r->op == OP_RENAME && f.v[r->to].ino == old && f.v[r->name].ino != old)
            old = f.v[r->name].ino;
        files_logic(&f, r, s);
    }
    return ino == old;
}

/* Blocks that a sync at `q` acknowledged and nobody took away since: how far they reach. */
static int must_reach(const struct node *n, uint32_t ino, int q, int upto)
{
    struct files f = {0};
    int reach = 0;
    for (int s = 1; s <= upto; s++) {
        files_logic(&f, rec_at(n, s), s);
        const struct file *x = files_of(&f, ino);
        if (s == q)
            reach = x ? x->c.size : 0;
        else if (s > q && x && x->c.size < reach)
            reach = x->c.size;
    }
    return reach;
}

static void judge_one(const struct node *n, const struct file *f, const struct file *was, int upto)
{
    int q = acknowledged(n, f->ino, upto);
    for (int b = 0; b < f->c.size; b++)
        if (f->c.blk[b] && !right(n, f->c.blk[b], b))
            bad("%s serves file %u with wrong bytes in block %d", n->name, f->ino, b);
    if (w.bad[0] || same(&f->c, &was->c))
        return;
    bool here = n->own_bulk;
    for (int b = 0; b < was->c.size; b++)
        here = here && (was->c.blk[b] == 0 || right(n, was->c.blk[b], b));
    if (here)
        bad("%s gives up file %u, which it wrote, and every byte of it is here", n->name, f->ino);
    bool listed = false;
    const struct rec *change = NULL;
    for (int s = upto + 1; s <= n->tail; s++)
        if ((rec_at(n, s)->op == OP_CONTENT || rec_at(n, s)->op == OP_CUT) &&
            rec_at(n, s)->ino == f->ino) {
            listed = true;
            change = rec_at(n, s);
        }
    if (!listed) {
        bad("%s: file %u has changed and is not listed", n->name, f->ino);
    } else if (change->op == OP_CUT) {
        struct content c = was->c;
        for (int b = f->c.size; b < BLOCKS; b++)
            c.blk[b] = 0;
        c.size = f->c.size;
        if (f->c.size >= was->c.size || !same(&c, &f->c))
            bad("%s: file %u is not the beginning of what it was", n->name, f->ino);
        else if (q && f->c.size < must_reach(n, f->ino, q, upto))
            bad("%s: file %u ends at block %d; a sync at %d acknowledged more", n->name, f->ino,
                f->c.size, q);
    } else if (was_content(n, f->ino, &f->c, q ? q : 1, upto)) {
        return;
    } else if (q && must_reach(n, f->ino, q, upto)) {
        bad("%s: file %u falls back behind what a sync at %d acknowledged", n->name, f->ino, q);
    } else if (!replaced(n, f->ino, w.old[change->ref].ino, upto) ||
               !was_content(n, w.old[change->ref].ino, &f->c, 1, upto)) {
        bad("%s: file %u has a content that neither it nor what it replaced ever had", n->name,
            f->ino);
    }
}

void judge_settled(const struct node *n, const struct files *before, const struct files *was,
                   int upto)
{
    (void)was;
    for (int i = 0; i < NAMES; i++) {
        if (n->f.v[i].ino != before->v[i].ino)
            bad("%s: name %d is another file after settling", n->name, i);
        else if (n->f.v[i].ino && !w.bad[0])
            judge_one(n, &n->f.v[i], &before->v[i], upto);
    }
}

/* All is quiet: what each node calls complete is. */
void judge_files_end(void)
{
    for (int k = 0; k < 2; k++) {
        const struct node *n = &w.n[k];
        for (int i = 0; n->has_ws && i < NAMES; i++)
            for (int b = 0; b < n->f.v[i].c.size; b++) {
                int s = n->f.v[i].c.blk[b];
                if (s && rec_at(n, s)->op == OP_REF && !files_missing(n, &n->f.v[i], b))
                    judge_known(n, s, b);
            }
    }
}
