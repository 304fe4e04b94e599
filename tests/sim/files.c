/* files.c: what a node's journal makes: a few files, whose bulk bytes come later than their
 * records.
 *
 * The counterpart of fs/workspace (apply, MARK, settle) and fs/store (the list of what is missing,
 * keeps, checkpoints), small: a file is up to eight blocks; for each block it says which record
 * wrote it. What a history makes of names and files is the same everywhere (files_logic); a node's
 * own are the bytes of by-reference writes (place), which of them it knows to have, and what an
 * incomplete file falls back to (keep.c's rules, line by line). A checkpoint is the state and that
 * knowledge at a position; a start goes back to it and applies the journal again; so what was
 * filled in and not checkpointed is missing again. Overwritten blocks are never reused, as
 * by-reference writes go into fresh space only (R22). Settling asks fs/workspace/settle.h.
 */
#include <string.h>

#include "fs/base/log.h"
#include "fs/workspace/settle.h"
#include "tests/sim/sim.h"

uint64_t bytes_of(uint32_t id, int b)
{
    return (uint64_t)id * BLOCKS + (uint64_t)b + 1;
}

const struct rec *rec_at(const struct node *n, int seq)
{
    return &n->j[seq - 1];
}

struct file *files_of(struct files *f, uint32_t ino)
{
    for (int i = 0; ino && i < NAMES; i++)
        if (f->v[i].ino == ino)
            return &f->v[i];
    return NULL;
}

void files_say(const struct node *n, const struct rec *r)
{
    static const char *const names[] = {"plain",  "create", "ref",  "write",   "truncate",
                                        "rename", "unlink", "mark", "content", "cut"};
    if (tracing && r->op != OP_PLAIN)
        say("    %s: record %d: %s file %u, name %d to %d, blocks %d + %d, ref %u", n->name,
            n->tail, names[r->op], r->ino, r->name, r->to, r->off, r->len, r->ref);
}

/* --- what a history makes, anywhere --- */

static void shorten(struct content *c, int size)
{
    for (int b = size; b < BLOCKS; b++)
        c->blk[b] = 0;
    c->size = size;
}

static void put(struct content *c, const struct rec *r, int seq)
{
    for (int b = r->off; b < r->off + r->len; b++)
        c->blk[b] = seq;
    if (c->size < r->off + r->len)
        c->size = r->off + r->len;
}

void files_logic(struct files *f, const struct rec *r, int seq)
{
    struct file *x = files_of(f, r->ino);
    f->seq = seq;
    switch (r->op) {
    case OP_CREATE:
        f->v[r->name] = (struct file){.ino = r->ino};
        return;
    case OP_REF:
    case OP_WRITE:
        put(&x->c, r, seq);
        return;
    case OP_TRUNC:
    case OP_CUT:
        shorten(&x->c, r->off);
        return;
    case OP_RENAME:
        f->v[r->to] = f->v[r->name];
        f->v[r->name] = (struct file){0};
        return;
    case OP_UNLINK:
        f->v[r->name] = (struct file){0};
        return;
    case OP_CONTENT:
        x->c = w.old[r->ref].c;
        return;
    default:
        return;
    }
}

/* --- the list of what is missing --- */

static struct place *place_of(struct node *n, int seq, int b)
{
    const struct rec *r = rec_at(n, seq);
    return r->op == OP_REF ? &n->place[r->ref][b] : NULL;
}

static bool unknown(const struct node *n, const struct content *c, int b)
{
    struct place *p =
        b < c->size && c->blk[b] ? place_of((struct node *)(uintptr_t)n, c->blk[b], b) : NULL;
    return p && !p->known;
}

bool files_missing(const struct node *n, const struct file *f, int b)
{
    return unknown(n, &f->c, b);
}

static bool missing_any(const struct node *n, const struct file *f)
{
    for (int b = 0; b < f->c.size; b++)
        if (files_missing(n, f, b))
            return true;
    return false;
}

/* Rows in the order of (ino, off); neighbours of one record are one row. */
int files_missing_next(void *ctx, uint64_t ino, uint64_t off, struct dmt_missing *ret)
{
    struct node *n = ctx;
    const struct file *best = NULL;
    int from = 0;
    if (n->opened) /* promoted, and the replica does not know yet */
        return DMT_E_STALE;
    for (int i = 0; i < NAMES; i++) {
        const struct file *f = &n->f.v[i];
        if (f->ino == 0 || f->ino < ino || (best && best->ino < f->ino))
            continue;
        int b = f->ino == ino ? (int)((off + BLOCK - 1) / BLOCK) : 0;
        while (b < f->c.size && !(files_missing(n, f, b) && place_of(n, f->c.blk[b], b)->fill == 0))
            b++;
        if (b < f->c.size) {
            best = f;
            from = b;
        }
    }
    if (!best)
        return 0;
    int end = from + 1, seq = best->c.blk[from];
    while (end < best->c.size && best->c.blk[end] == seq && files_missing(n, best, end) &&
           place_of(n, seq, end)->fill == 0)
        end++;
    *ret = (struct dmt_missing){best->ino, (uint64_t)from * BLOCK, (uint64_t)(end - from) * BLOCK,
                                (uint64_t)seq};
    return 1;
}

/* --- what an incomplete file falls back to: fs/store/keep.c --- */

static bool lacks(const struct node *n, const struct content *c)
{
    for (int b = 0; b < c->size; b++)
        if (unknown(n, c, b))
            return true;
    return false;
}

static void keep_self(struct node *n, struct file *f, int view, bool replace)
{
    if (f->c.size == 0 || (f->keep.there && !replace) || missing_any(n, f))
        return;
    f->keep = (struct keep){true, f->own || f->unsure, false, f->ino, view, f->c};
}

static void keep_due(const struct node *n, struct file *f, int upto, int seq)
{
    const struct keep *last = f->due_n ? &f->due[f->due_n - 1] : &f->keep;
    if (f->c.size == 0 || (last->there && last->ino == f->ino && last->view >= upto))
        return;
    if (f->due_n == (n->f.mine ? DUES_MAX : 2))
        f->due_skipped = f->due[--f->due_n].view;
    f->due[f->due_n++] = (struct keep){true, true, false, f->ino, seq, f->c};
}

/* What is due and lacks some of the blocks that the record at seq is about to change moves to
 * behind it, where those came from another machine. */
static void keeps_move(const struct node *n, struct file *f, int from, int end, int seq)
{
    for (int b = from; b < end && b < f->c.size && !n->f.mine; b++)
        for (int i = 0; i < f->due_n; i++)
            if (f->c.blk[b] <= f->due[i].view && files_missing(n, f, b)) {
                f->due[i].view = seq;
                f->due[i].moved = true;
            }
    while (f->due_n > 1 && f->due[f->due_n - 2].view == f->due[f->due_n - 1].view)
        f->due_n--;
}

static void settled(struct file *f)
{
    f->keep.there = false;
    f->due_n = 0;
}

static void keeps_settle(struct node *n, struct file *f)
{
    bool whole = !missing_any(n, f);
    for (int i = f->due_n - 1; i >= 0 && !whole; i--) {
        if (lacks(n, &f->due[i].c))
            continue;
        f->keep = f->due[i];
        f->due_n -= i + 1;
        memmove(f->due, f->due + i + 1, (size_t)f->due_n * sizeof(f->due[0]));
        f->own = true;
        break;
    }
    if (!whole)
        return;
    f->own = f->own || f->due_n > 0;
    settled(f);
}

static void keeps_moved(struct node *n, struct file *f, int seq)
{
    if (f->due_n == 0)
        return;
    for (int i = 0; i < f->due_n; i++)
        if (f->due[i].view == seq)
            f->due[i].c = f->c;
    keeps_settle(n, f);
}

static bool is_sure(const struct node *n, const struct keep *k)
{
    const struct file *f = files_of((struct files *)(uintptr_t)&n->ckpt, k->ino);
    bool sure = f && f->keep.there && f->keep.ino == k->ino && f->keep.view == k->view;
    for (int b = 0; sure && b < k->c.size; b++) {
        const struct rec *r = k->c.blk[b] ? rec_at(n, k->c.blk[b]) : NULL;
        sure = !r || r->op != OP_REF || n->place[r->ref][b].known_disk;
    }
    return sure;
}

bool files_covers(void *ctx, uint64_t ino, uint64_t seq)
{
    struct node *n = ctx;
    const struct file *f = files_of(&n->f, (uint32_t)ino);
    const struct keep *own = f && f->keep.there && f->keep.ino == f->ino ? &f->keep : NULL;
    if (own && own->moved && !is_sure(n, own))
        return false;
    return !f || f->due_n == 0 || (own && own->view >= (int)seq && own->view >= f->due_skipped);
}

static bool only_grew(const struct file *f)
{
    for (int b = 0; b < f->keep.c.size; b++)
        if (f->c.blk[b] > f->keep.view)
            return false;
    return f->keep.ino == f->ino;
}

static void keep_replace(struct node *n, struct file *f, const struct file *old, int seq)
{
    if (old->ino == 0 || !missing_any(n, f) || (f->keep.there && (f->keep.own || !only_grew(f))))
        return;
    struct keep from = {true, false, false, old->ino, seq - 1, old->c};
    if (missing_any(n, old))
        from = old->keep;
    if (!from.there || from.c.size == 0)
        return;
    f->keep = from;
    f->keep.own = false;
}

/* --- apply --- */

static void is_known(struct node *n, int seq, int b)
{
    place_of(n, seq, b)->known = true;
    judge_known(n, seq, b);
}

static void mark(struct node *n, struct file *f, int upto, int seq)
{
    for (int i = -1; i < f->due_n && n->f.mine; i++) {
        const struct content *c = i < 0 ? &f->c : &f->due[i].c;
        for (int b = 0; b < BLOCKS; b++)
            if (unknown(n, c, b) && c->blk[b] <= upto)
                is_known(n, c->blk[b], b);
    }
    f->marked = true;
    if (missing_any(n, f))
        keep_due(n, f, upto ? upto : seq, seq);
    else
        f->own = true;
    keeps_settle(n, f);
}

static uint32_t store_no(const struct node *n)
{
    return (uint32_t)n->disk.self.store[0] << 8 | n->disk.self.store[1];
}

static void apply(struct node *n, const struct rec *r, int seq)
{
    struct file *f = files_of(&n->f, r->ino);
    if (r->fork && !n->f.mine && r->ino == store_no(n))
        for (int i = 0; i < NAMES; i++)
            n->f.v[i].due_n = 0;
    if (r->fork)
        n->f.mine = r->ino == store_no(n);
    switch (r->op) {
    case OP_REF:
        if (f->on_disk || f->marked)
            keep_self(n, f, seq - 1, false);
        keeps_move(n, f, r->off, r->off + r->len, seq);
        for (int b = r->off; b < r->off + r->len; b++) {
            n->place[r->ref][b].known = false;
            n->place[r->ref][b].fill = 0;
        }
        break;
    case OP_TRUNC:
        if (r->off == 0) {
            keep_self(n, f, seq - 1, true);
            f->own = f->unsure = false;
            f->due_n = 0;
        }
        keeps_move(n, f, r->off, BLOCKS, seq);
        break;
    case OP_CUT:
        keeps_move(n, f, r->off, BLOCKS, seq);
        break;
    case OP_WRITE:
        keeps_move(n, f, r->off, r->off + r->len, seq);
        break;
    case OP_CONTENT:
        keep_self(n, f, seq - 1, true);
        keeps_move(n, f, 0, BLOCKS, seq);
        break;
    case OP_RENAME:
        keep_replace(n, &n->f.v[r->name], &n->f.v[r->to], seq);
        break;
    default:
        break;
    }
    files_logic(&n->f, r, seq);
    if (r->op == OP_MARK && f)
        mark(n, f, (int)r->ref, seq);
    if (f && (r->op == OP_CONTENT || r->op == OP_CUT))
        keeps_settle(n, f);
    if (f && (r->op == OP_REF || r->op == OP_WRITE || r->op == OP_TRUNC || r->op == OP_CONTENT ||
              r->op == OP_CUT))
        keeps_moved(n, f, seq);
}

void files_apply(struct node *n, int upto)
{
    for (; n->f.seq < upto;)
        apply(n, rec_at(n, n->f.seq + 1), n->f.seq + 1);
}

/* The writer's own: its bytes are in the page cache before the record is written. */
void files_wrote(struct node *n, const struct rec *r)
{
    total.refs++;
    for (int b = r->off; b < r->off + r->len; b++)
        n->place[r->ref][b] = (struct place){.bytes = bytes_of(r->id, b)};
}

/* --- checkpoints and starts --- */

void files_checkpoint(struct node *n)
{
    bool holds = n->opened && n->mode != LEASE_GATE_CLOSED;
    if (!n->has_ws || n->f.seq > n->durable)
        return;
    /* What can still be cut stays out of it (gate.stable). */
    if (holds && n->mode != LEASE_GATE_ALONE && n->acked < (uint64_t)n->f.seq)
        return;
    for (int i = 0; i < NAMES; i++) {
        n->f.v[i].on_disk = n->f.v[i].ino != 0;
        if (!missing_any(n, &n->f.v[i]))
            settled(&n->f.v[i]);
    }
    n->ckpt = n->f;
    for (uint32_t r = 0; r <= w.next_ref; r++)
        for (int b = 0; b < BLOCKS; b++)
            n->place[r][b].known_disk = n->place[r][b].known;
}

/* The state of the checkpoint, and the journal applied to it again: a follower's only as far as its
 * holder says. */
void files_reload(struct node *n, int upto)
{
    n->f = n->ckpt;
    for (int i = 0; i < NAMES; i++) {
        n->f.v[i].own = false; /* known in memory only */
        n->f.v[i].keep.own = n->f.v[i].keep.ino == n->f.v[i].ino;
        if (n->f.v[i].due_n)
            n->f.v[i].due_skipped = n->f.v[i].due[n->f.v[i].due_n - 1].view;
        n->f.v[i].unsure = true;
    }
    for (uint32_t r = 0; r <= w.next_ref; r++)
        for (int b = 0; b < BLOCKS; b++) {
            n->place[r][b].known = n->place[r][b].known_disk;
            n->place[r][b].fill = 0;
        }
    files_apply(n, upto);
}

/* Who becomes the holder does not know which files the holder before has synced. */
void files_forget_syncs(struct node *n)
{
    for (int i = 0; i < NAMES; i++)
        n->f.v[i].synced = n->f.v[i].c.size > 0;
}

bool files_can_cut(const struct node *n, int keep)
{
    return n->ckpt.seq <= keep;
}

void files_clear(struct node *n)
{
    memset(&n->f, 0, sizeof(n->f));
    memset(&n->ckpt, 0, sizeof(n->ckpt));
    memset(n->place, 0, sizeof(n->place));
}

/* Another state was shipped: equal version and nothing pending is equal content; the rest is on the
 * list of what is missing. */
void files_import(struct node *n)
{
    memset(&n->f, 0, sizeof(n->f));
    for (int s = 1; s <= n->tail; s++) {
        if (rec_at(n, s)->fork)
            n->f.mine = rec_at(n, s)->ino == store_no(n);
        files_logic(&n->f, rec_at(n, s), s);
    }
    for (uint32_t r = 0; r <= w.next_ref; r++)
        for (int b = 0; b < BLOCKS; b++) {
            struct place *p = &n->place[r][b];
            p->known = p->known && p->durable;
            p->fill = 0;
        }
    n->own_bulk = false;
    files_checkpoint(n);
}

void files_power(struct node *n)
{
    for (uint32_t r = 0; r <= w.next_ref; r++)
        for (int b = 0; b < BLOCKS; b++)
            if (!n->place[r][b].durable)
                n->place[r][b].bytes = 0;
    n->unsettled = true;
}

/* --- filling in --- */

void files_fill(struct node *n, const struct dmt_missing *m, const uint64_t *bytes)
{
    struct file *f = files_of(&n->f, (uint32_t)m->ino);
    int from = (int)(m->off / BLOCK), end = from + (int)(m->len / BLOCK);
    for (int b = from; f && b < end && b < f->c.size; b++) {
        if (f->c.blk[b] != (int)m->seq || !files_missing(n, f, b))
            continue;
        struct place *p = place_of(n, f->c.blk[b], b);
        if (p->fill)
            continue;
        p->durable = p->durable && p->bytes == bytes[b - from]; /* the same over the same */
        p->bytes = bytes[b - from];
        p->fill = 1;
        total.pulled++;
    }
}

void files_fill_begin(struct node *n)
{
    for (uint32_t r = 0; r <= w.next_ref; r++)
        for (int b = 0; b < BLOCKS; b++)
            if (n->place[r][b].fill == 1)
                n->place[r][b].fill = 2;
}

/* Durable, off the list, and the checkpoint says so. */
void files_fill_end(struct node *n)
{
    for (uint32_t r = 0; r <= w.next_ref; r++)
        for (int b = 0; b < BLOCKS; b++) {
            struct place *p = &n->place[r][b];
            if (p->fill != 2)
                continue;
            p->fill = 0;
            p->known = p->durable = true;
        }
    for (int i = 0; i < NAMES; i++) {
        struct file *f = &n->f.v[i];
        for (int b = 0; b < f->c.size; b++)
            if (f->c.blk[b] && rec_at(n, f->c.blk[b])->op == OP_REF && !files_missing(n, f, b))
                judge_known(n, f->c.blk[b], b);
        keeps_settle(n, f);
    }
    files_checkpoint(n);
}

/* --- the writer's syncs --- */

bool files_unmarked(const struct node *n, uint32_t ino)
{
    for (int i = 0; i < NAMES; i++)
        if (n->f.v[i].ino && (ino == 0 || n->f.v[i].ino == ino) &&
            (n->f.v[i].keep.there || missing_any(n, &n->f.v[i])))
            return true;
    return false;
}

void files_data_durable(struct node *n, uint32_t ino)
{
    for (int i = 0; i < NAMES; i++) {
        struct file *f = &n->f.v[i];
        for (int k = -1; f->ino && (ino == 0 || f->ino == ino) && k < f->due_n; k++) {
            const struct content *c = k < 0 ? &f->c : &f->due[k].c;
            for (int b = 0; b < BLOCKS; b++)
                if (unknown(n, c, b))
                    place_of(n, c->blk[b], b)->durable = true;
        }
    }
}

/* Position of the newest by-reference write, or CONTENT, that a sync is about; 0 none. */
int files_ref_seq(const struct node *n, uint32_t ino)
{
    int newest = 0;
    for (int s = n->tail; s > 0 && newest == 0; s--)
        if ((rec_at(n, s)->op == OP_REF || rec_at(n, s)->op == OP_CONTENT) &&
            (ino == 0 || rec_at(n, s)->ino == ino))
            newest = s;
    return newest;
}

bool files_mark(struct node *n, uint32_t ino, int upto)
{
    for (int i = 0; i < NAMES; i++) {
        uint32_t one = n->f.v[i].ino;
        if (one == 0 || (ino && one != ino) ||
            (!n->f.v[i].keep.there && !missing_any(n, &n->f.v[i])))
            continue;
        struct rec r = {.op = OP_MARK, .ino = one, .ref = (uint32_t)upto};
        if (!journal_append(n, n->write_epoch, false, &r))
            return false;
    }
    return true;
}

/* fs/workspace/ops_write.c: what a sync is about, or was, is about to become incomplete. */
bool files_end_generation(struct node *n, uint32_t ino)
{
    struct file *f = files_of(&n->f, ino);
    if (!f->synced)
        return true;
    f->synced = false;
    return journal_append(n, n->write_epoch, false, &(struct rec){.op = OP_MARK, .ino = ino});
}

/* --- settling --- */

static bool old_unchanged(const struct file *f)
{
    for (int b = 0; b < f->keep.c.size; b++)
        if (f->c.blk[b] > f->keep.view)
            return false;
    return true;
}

static bool settle_file(struct node *n, const struct file *f, uint64_t epoch)
{
    int first = 0;
    while (!files_missing(n, f, first))
        first++;
    say("    %s: file %u lacks block %d of record %d; older content of %u at %d, due at %d",
        n->name, f->ino, first, f->c.blk[first], f->keep.there ? f->keep.ino : 0, f->keep.view,
        f->due_n ? f->due[0].view : 0);
    struct settle_case c = {.has_old = f->keep.there,
                            .same_file = f->keep.ino == f->ino,
                            .old_size = (uint64_t)f->keep.c.size * BLOCK,
                            .first = (uint64_t)first * BLOCK,
                            .old_unchanged = f->keep.there && old_unchanged(f)};
    struct rec r = {.op = OP_CUT, .ino = f->ino, .off = (uint8_t)first};
    if (settle_falls_back(&c)) {
        if (w.next_old >= OLDS_MAX - 1)
            return false;
        r = (struct rec){.op = OP_CONTENT, .ino = f->ino, .ref = ++w.next_old};
        w.old[r.ref] = (struct old_content){f->keep.ino, f->keep.c};
        total.fell_back++;
    } else {
        total.cut++;
    }
    return journal_append(n, epoch, false, &r);
}

/* After a promotion or a power cut, in the epoch that has just been opened. */
bool files_settle(struct node *n, uint64_t epoch)
{
    struct files before = n->f;
    int upto = n->tail;
    files_fill_begin(n);
    files_fill_end(n);
    struct files had = n->f; /* with what each falls back to */
    for (int i = 0; i < NAMES; i++)
        if (n->f.v[i].ino && missing_any(n, &n->f.v[i]) && !settle_file(n, &had.v[i], epoch))
            return false;
    journal_sync(n);
    judge_settled(n, &before, &had, upto);
    n->unsettled = false;
    n->own_bulk = true;
    return true;
}

/* The same machine goes on: what its process had written is in the page cache. */
bool files_take_up(struct node *n, uint64_t epoch)
{
    struct files before = n->f;
    int upto = n->tail;
    (void)epoch;
    files_data_durable(n, 0);
    if (!files_mark(n, 0, n->tail))
        return false;
    journal_sync(n);
    judge_settled(n, &before, &before, upto);
    n->own_bulk = true;
    return true;
}

/* A former holder: what the other machine may have given up is here. */
void files_keep_own(struct node *n)
{
    if (!n->own_bulk || !n->has_ws)
        return;
    n->own_bulk = false;
    files_data_durable(n, 0);
    for (int i = 0; i < NAMES; i++) {
        struct file *f = &n->f.v[i];
        for (int b = 0; f->ino && b < f->c.size; b++)
            if (files_missing(n, f, b) && place_of(n, f->c.blk[b], b)->bytes)
                is_known(n, f->c.blk[b], b);
        keeps_settle(n, f);
    }
    files_checkpoint(n);
}
