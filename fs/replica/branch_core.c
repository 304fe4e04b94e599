/* branch_core.c: the decisions of branch_core.h: pure code.
 *
 * Happy path: the stream begins -> a scan says what is here -> each name is told, as being here or
 * as removed -> what the other side has and this one lacks is copied, one at a time, piece by
 * piece; what it has removed is removed here. Failure modes: a disk that refuses, a copy that is
 * not what it should be: told once, tried again later; more names than BRANCHES_MAX: the rest is
 * neither told nor taken. A name is removed for ever: it is never asked for again, whoever offers
 * it. Thread: the caller's.
 */
#include "fs/replica/branch_core.h"

#include <stdlib.h>
#include <string.h>

#include "fs/base/err.h"
#include "fs/base/log.h"

void branches_free(struct branches *b)
{
    free(b->v);
    *b = (struct branches){0};
}

static struct branches_one *find(const struct branches *b, const char *name, size_t n)
{
    for (unsigned i = 0; i < b->n; i++)
        if (strlen(b->v[i].name) == n && memcmp(b->v[i].name, name, n) == 0)
            return &b->v[i];
    return NULL;
}

const struct branches_one *branches_find(const struct branches *b, const char *name)
{
    return find(b, name, strlen(name));
}

/* NULL: no room for more. */
static struct branches_one *found(struct branches *b, const char *name, size_t n)
{
    struct branches_one *one = find(b, name, n);
    if (one || b->n == BRANCHES_MAX)
        return one;
    if (b->n == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 16;
        b->v = realloc(b->v, b->cap * sizeof(*b->v));
        DMT_ASSERT(b->v);
    }
    one = &b->v[b->n++];
    *one = (struct branches_one){0};
    memcpy(one->name, name, n);
    return one;
}

/* --- the stream ------------------------------------------------------------------------------- */

static void forget(struct branches *b)
{
    for (unsigned i = 0; i < b->n; i++) {
        struct branches_one *one = &b->v[i];
        one->there = one->removed_there = one->told_here = one->told_removed = false;
    }
    b->known = false;
    if (b->state == BRANCHES_BUSY)
        b->late = true;
    else
        b->state = BRANCHES_IDLE;
}

void branches_start(struct branches *b)
{
    forget(b);
    b->on = b->scan = true;
}

void branches_stop(struct branches *b)
{
    forget(b);
    b->on = false;
}

void branches_changed(struct branches *b)
{
    b->scan = true;
}

bool branches_heard(struct branches *b, const char *name, size_t n, bool removed)
{
    if (!dmt_branch_name_ok(name, n))
        return false;
    struct branches_one *one = found(b, name, n);
    if (one) {
        one->there = !removed;
        one->removed_there = removed;
    }
    return true;
}

/* --- what to do ------------------------------------------------------------------------------- */

static bool untold(const struct branches_one *one)
{
    return one->removed ? !one->told_removed : one->here && !one->told_here;
}

static bool to_remove(const struct branches_one *one, uint64_t now_ms)
{
    return one->removed_there && one->here && !one->removed && now_ms >= one->again_ms;
}

static bool to_copy(const struct branches_one *one, uint64_t now_ms)
{
    return one->there && !one->here && !one->removed && !one->removed_there &&
           now_ms >= one->again_ms;
}

static enum branches_act begin(struct branches *b, unsigned i, enum branches_act act)
{
    b->at = i;
    b->state = BRANCHES_BUSY;
    b->late = false;
    return act;
}

/* A copy is under way, and nothing is out. */
static enum branches_act go_on(struct branches *b)
{
    const struct branches_one *one = &b->v[b->at];
    if (one->removed || one->removed_there)
        return begin(b, b->at, BRANCHES_DROP);
    b->state = BRANCHES_ASKED;
    b->run.len = 0;
    return BRANCHES_ASK;
}

static enum branches_act next_job(struct branches *b, uint64_t now_ms)
{
    if (b->scan) {
        b->scan = false;
        return begin(b, b->at, BRANCHES_SCAN);
    }
    for (unsigned i = 0; i < b->n; i++)
        if (to_remove(&b->v[i], now_ms))
            return begin(b, i, BRANCHES_REMOVE);
    for (unsigned i = 0; i < b->n; i++)
        if (to_copy(&b->v[i], now_ms))
            return begin(b, i, BRANCHES_OPEN);
    return BRANCHES_NOTHING;
}

enum branches_act branches_next(struct branches *b, uint64_t now_ms,
                                const struct branches_one **one)
{
    *one = NULL;
    if (!b->on)
        return BRANCHES_NOTHING;
    for (unsigned i = 0; b->known && i < b->n; i++) {
        struct branches_one *v = &b->v[i];
        if (!untold(v))
            continue;
        v->told_here = !v->removed;
        v->told_removed = v->removed;
        *one = v;
        return BRANCHES_TELL;
    }
    enum branches_act act = b->state == BRANCHES_READY  ? go_on(b)
                            : b->state == BRANCHES_IDLE ? next_job(b, now_ms)
                                                        : BRANCHES_NOTHING;
    if (act != BRANCHES_NOTHING && act != BRANCHES_SCAN)
        *one = &b->v[b->at];
    return act;
}

/* --- results of jobs -------------------------------------------------------------------------- */

void branches_scanned_begin(struct branches *b)
{
    for (unsigned i = 0; i < b->n; i++)
        b->v[i].here = b->v[i].removed = false;
}

void branches_scanned(struct branches *b, const char *name, bool removed)
{
    struct branches_one *one = found(b, name, strlen(name));
    if (one) {
        one->removed |= removed;
        one->here |= !removed;
    }
}

void branches_scanned_end(struct branches *b)
{
    DMT_ASSERT(b->state == BRANCHES_BUSY);
    b->state = BRANCHES_IDLE;
    b->known |= !b->late;
}

/* A job about b->at has ended. Its failure: later again; true: not told yet. */
static bool failed(struct branches *b, int rc, uint64_t now_ms)
{
    struct branches_one *one = &b->v[b->at];
    DMT_ASSERT(b->state == BRANCHES_BUSY);
    b->state = BRANCHES_IDLE;
    if (rc >= 0) {
        one->ailing = false;
        one->again_ms = 0;
        return false;
    }
    bool first = !one->ailing;
    one->ailing = true;
    one->again_ms = now_ms + BRANCHES_AGAIN_MS;
    return first;
}

bool branches_removed(struct branches *b, int rc, uint64_t now_ms)
{
    bool tell = failed(b, rc, now_ms);
    if (rc >= 0) {
        b->v[b->at].here = false;
        b->v[b->at].removed = true;
    }
    return tell || rc >= 0;
}

/* A step of a copy is done: the next one, if the stream is still the one it was begun on. */
static bool stepped(struct branches *b, int rc, uint64_t now_ms)
{
    DMT_ASSERT(b->state == BRANCHES_BUSY);
    if (rc < 0)
        return failed(b, rc, now_ms);
    b->state = b->late ? BRANCHES_IDLE : BRANCHES_READY;
    return false;
}

bool branches_opened(struct branches *b, int rc, const struct dmt_branch_piece *at, uint64_t now_ms)
{
    b->piece = *at;
    return stepped(b, rc, now_ms);
}

bool branches_put(struct branches *b, int rc, uint64_t now_ms)
{
    b->piece = b->run;
    b->piece.off += b->run.len;
    return stepped(b, rc, now_ms);
}

bool branches_ended(struct branches *b, int rc, uint64_t now_ms)
{
    bool tell = failed(b, rc, now_ms);
    if (rc >= 0)
        b->v[b->at].here = true;
    return tell || rc >= 0;
}

void branches_dropped(struct branches *b)
{
    DMT_ASSERT(b->state == BRANCHES_BUSY);
    b->state = BRANCHES_IDLE;
}

/* --- answers ---------------------------------------------------------------------------------- */

static bool asked(const struct branches *b, const char *name, size_t n)
{
    return b->on && b->state == BRANCHES_ASKED && find(b, name, n) == &b->v[b->at];
}

/* The first piece of a run: where we are, or the beginning of the next file. */
static bool begins(const struct branches *b, const struct dmt_branch_piece *p)
{
    const struct dmt_branch_piece *at = &b->piece;
    bool same = p->file == at->file && p->off == at->off && (!at->off || p->serial == at->serial);
    bool next = at->off > 0 && p->file == at->file + 1 && p->off == 0 && p->serial > at->serial;
    return (same || next) && p->size <= DMT_BRANCH_FILE_MAX && p->file < DMT_BRANCH_FILES_MAX;
}

static bool continues(const struct branches *b, const struct dmt_branch_piece *p)
{
    const struct dmt_branch_piece *run = &b->run;
    return p->file == run->file && p->serial == run->serial && p->size == run->size &&
           p->off == run->off + run->len;
}

static uint64_t run_length(const struct dmt_branch_piece *run)
{
    uint64_t left = run->size - run->off;
    return left < BRANCHES_RUN ? left : BRANCHES_RUN;
}

int branches_data(struct branches *b, const char *name, size_t n, const struct dmt_branch_piece *p)
{
    bool first = b->run.len == 0;
    if (!asked(b, name, n) || !(first ? begins(b, p) : continues(b, p)) || p->len == 0 ||
        p->off > p->size || p->len > p->size - p->off ||
        p->len > run_length(first ? p : &b->run) - b->run.len)
        return -1;
    if (first)
        b->run = *p;
    else
        b->run.len += p->len;
    if (b->run.len < run_length(&b->run))
        return 0;
    b->state = BRANCHES_BUSY;
    b->late = false;
    return 1;
}

int branches_end(struct branches *b, const char *name, size_t n, uint32_t files, uint64_t now_ms)
{
    if (!asked(b, name, n))
        return -1;
    bool whole = b->run.len == 0 && b->piece.off > 0 && files == b->piece.file + 1;
    b->state = BRANCHES_BUSY;
    b->late = false;
    if (!whole) /* gone there, or what came before was not of this one */
        b->v[b->at].again_ms = now_ms + BRANCHES_AGAIN_MS;
    return whole;
}
