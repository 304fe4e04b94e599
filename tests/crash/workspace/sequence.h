/* sequence.h: one sequence of operations: how it must go (a run without faults, beside the model), a run in which every disk
 * operation is a possible moment of the cut, and whether what a recovery finds may be found.
 *
 * What may be found (design P2, J3). Let the trees after each operation be want[0..n]. A recovery shows one of them, exactly,
 * times and node numbers included: after a power cut none before the last operation that a sync acknowledged; after a kill none
 * before the last operation that returned. Files with by-reference bytes that no sync covered may instead show an older complete
 * content of theirs or of the file they replaced, or be cut at the first missing byte, and are then marked incomplete. */
#ifndef DMT_TESTS_CRASH_SEQUENCE_H
#define DMT_TESTS_CRASH_SEQUENCE_H

#include <stdatomic.h>
#include "tests/crash/workspace/bench.h"

#define SEQ_MAX 10

struct seq {
    const struct cop *op[SEQ_MAX];
    int n;
    int rc[SEQ_MAX];
    uint64_t node[SEQ_MAX]; /* that it wrote or synced; 0 */
    struct tree want[SEQ_MAX + 1];
    struct tree between; /* what a rollback shows before it has happened: the automatic snapshot */
    int rollback;        /* index of the operation, -1 none */
};

struct progress {
    atomic_int started, completed, acked; /* operations; acked: all before are durable */
};

/* A moment: the disk, and how far the run was. */
struct point {
    struct faultio_state *disk;
    int started, completed, acked;
    unsigned kind; /* of the disk operation that comes next; 0: the end */
    char path[32];
};
struct points {
    struct point *v;
    size_t n, cap;
    struct faultio *f;
    struct progress *now;
};

static inline void seq_text(const struct seq *q, char *buf, size_t size)
{
    size_t at = 0;
    *buf = '\0';
    for (int i = 0; i < q->n && at < size; i++)
        at += (size_t)snprintf(buf + at, size - at, "%s%s", i ? "; " : "", q->op[i]->text);
}

static inline void seq_free(struct seq *q)
{
    for (int i = 0; i <= q->n; i++)
        tree_free(&q->want[i]);
    tree_free(&q->between);
}

/* --- how it must go --------------------------------------------------------------------------------------------------------- */

static inline struct tree tree_copy(const struct tree *t)
{
    struct tree c = *t;
    c.v = calloc(TREE_MAX, sizeof(*c.v));
    memcpy(c.v, t->v, (size_t)t->n * sizeof(*c.v));
    for (int i = 0; i < c.n; i++)
        if (t->v[i].data) {
            c.v[i].data = malloc(t->v[i].size + 1);
            memcpy(c.v[i].data, t->v[i].data, t->v[i].size);
        }
    return c;
}

static inline struct leaf leaf_copy(const struct leaf *x)
{
    struct leaf c = *x;
    if (x->data) {
        c.data = malloc(x->size + 1);
        memcpy(c.data, x->data, x->size);
    }
    return c;
}

/* The tree of before with the snapshots of after. */
static inline void seq_between(struct seq *q, int i)
{
    struct tree t = {.v = calloc(TREE_MAX, sizeof(*t.v))};
    for (int k = 0; k < q->want[i].n; k++)
        if (!in_snapshot(&q->want[i].v[k]))
            t.v[t.n++] = leaf_copy(&q->want[i].v[k]);
    for (int k = 0; k < q->want[i + 1].n; k++)
        if (in_snapshot(&q->want[i + 1].v[k]))
            t.v[t.n++] = leaf_copy(&q->want[i + 1].v[k]);
    qsort(t.v, (size_t)t.n, sizeof(*t.v), tree_cmp);
    q->between = t;
    q->rollback = i;
}

/* A snapshot taken just now shows the tree as it is. */
static inline bool snap_is_tree(const struct tree *t, const char *name, char why[200])
{
    char path[80];
    for (int i = 0; i < t->n; i++) {
        const struct leaf *a = &t->v[i], *s;
        if (in_snapshot(a))
            continue;
        snprintf(path, sizeof(path), ".snapshots/%.10s/%.40s", name, a->path);
        s = tree_find(t, path);
        const char *what = s ? node_differs(a, s, false) : "missing";
        if (what || s->mtime != a->mtime) {
            snprintf(why, 200, "in the snapshot %s: %s", a->path, what ? what : "mtime");
            return false;
        }
    }
    return true;
}

static inline bool seq_native(struct bench *b, struct seq *q, int i, char why[200])
{
    const struct cop *o = q->op[i];
    struct tree t;
    if (o->kind == C_ROLLBACK && q->rc[i] == 0) { /* as it was at the snapshot: from the start again */
        native_setup(b->native);
        for (int k = 0; q->op[k]->kind != C_SNAP; k++)
            (void)op_native(b->native, q->op[k], k);
    }
    int r = op_native(b->native, o, i);
    if (r != q->rc[i] && o->kind != C_UNSNAP && o->kind != C_ROLLBACK) {
        snprintf(why, 200, "%s gave %d, natively %d", o->text, q->rc[i], r);
        return false;
    }
    tree_of_dir(&t, b->native);
    bool same = tree_equal(&t, &q->want[i + 1], false, true, NULL, NULL, why);
    tree_free(&t);
    return same;
}

/* The run without faults. */
static inline bool seq_reference(struct bench *b, struct seq *q, char why[200])
{
    *why = '\0';
    q->rollback = -1;
    memset(&q->between, 0, sizeof(q->between));
    memset(q->want, 0, sizeof(q->want));
    native_setup(b->native);
    faultio_state_write(b->start, b->ref);
    struct dmt_ws *ws = bench_open(b, dmt_io_real(), b->ref, true);
    if (!ws) {
        snprintf(why, 200, "%.190s", b->err.msg);
        return false;
    }
    tree_of_ws(&q->want[0], ws);
    for (int i = 0; i < q->n && !*why; i++) {
        const struct cop *o = q->op[i];
        q->node[i] = 0;
        if (o->kind == C_BULK || o->kind == C_FSYNC)
            (void)ws_node_of(ws, o->a, &q->node[i]);
        q->rc[i] = op_ws(ws, o, i);
        tree_of_ws(&q->want[i + 1], ws);
        if (q->want[i + 1].bad)
            snprintf(why, 200, "%s", q->want[i + 1].why);
        else if (o->kind == C_SNAP && q->rc[i] == 0)
            (void)snap_is_tree(&q->want[i + 1], o->a, why);
        if (!*why)
            (void)seq_native(b, q, i, why);
        if (o->kind == C_ROLLBACK && q->rc[i] == 0)
            seq_between(q, i);
    }
    (void)dmt_ws_close(ws, &b->err);
    return !*why;
}

/* --- the run on the double -------------------------------------------------------------------------------------------------- */

static inline void points_add(void *ctx, unsigned kind, const char *path)
{
    struct points *p = ctx;
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 256;
        p->v = realloc(p->v, p->cap * sizeof(*p->v));
        DMT_ASSERT(p->v);
    }
    struct point *x = &p->v[p->n++];
    *x = (struct point){.disk = faultio_state(p->f), .kind = kind};
    /* completed and acked before started: what they say is in the disk, and what is in the disk was started */
    x->acked = atomic_load(&p->now->acked);
    x->completed = atomic_load(&p->now->completed);
    x->started = atomic_load(&p->now->started);
    const char *slash = path ? strrchr(path, '/') : NULL;
    snprintf(x->path, sizeof(x->path), "%s", slash ? slash + 1 : "");
}

static inline void points_free(struct points *p)
{
    for (size_t i = 0; i < p->n; i++)
        faultio_state_free(p->v[i].disk);
    free(p->v);
    memset(p, 0, sizeof(*p));
}

/* Runs the operations; every result must be that of the reference. */
static inline bool seq_run(struct dmt_ws *ws, const struct seq *q, struct progress *now, char why[200])
{
    for (int i = 0; i < q->n; i++) {
        atomic_store(&now->started, i + 1);
        int r = op_ws(ws, q->op[i], i);
        if (r != q->rc[i]) {
            snprintf(why, 200, "%s gave %d, without faults %d", q->op[i]->text, r, q->rc[i]);
            return false;
        }
        atomic_store(&now->completed, i + 1);
        if (r == 0 && (q->op[i]->kind == C_SYNC || q->op[i]->kind == C_FSYNC))
            atomic_store(&now->acked, i + 1);
    }
    return true;
}

/* All moments of the run, opening and closing included. */
static inline bool seq_record(struct bench *b, const struct seq *q, struct points *p, char why[200])
{
    struct progress now = {0};
    bool ok = false;
    faultio_state_write(b->start, b->work);
    struct faultio *f = faultio_new(b->work, 1);
    *p = (struct points){.f = f, .now = &now};
    faultio_watch(f, points_add, p);
    struct dmt_ws *ws = bench_open(b, faultio_io(f), b->work, true);
    if (ws) {
        ok = seq_run(ws, q, &now, why);
        (void)dmt_ws_close(ws, &b->err);
    } else {
        snprintf(why, 200, "%.190s", b->err.msg);
    }
    points_add(p, 0, NULL);
    faultio_free(f);
    return ok;
}

/* --- what may be found ------------------------------------------------------------------------------------------------------ */

struct excuse {
    const struct seq *q;
    const struct point *p;
    int i; /* prefix */
};

/* Has the inode by-reference bytes at this prefix that no completed sync covered? */
static inline bool bulk_unsynced(const struct excuse *x, uint64_t node)
{
    for (int j = 0; j < x->i; j++) {
        bool covered = false;
        if (x->q->op[j]->kind != C_BULK || x->q->node[j] != node || x->q->rc[j] != 0)
            continue;
        for (int s = j + 1; s < x->p->completed && !covered; s++)
            covered = x->q->rc[s] == 0 &&
                      (x->q->op[s]->kind == C_SYNC || (x->q->op[s]->kind == C_FSYNC && x->q->node[s] == node));
        if (!covered)
            return true;
    }
    return false;
}

static inline bool same_content(const struct leaf *a, const struct leaf *b)
{
    return S_ISREG(a->mode) && a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

static inline bool seq_excuse(void *ctx, const struct leaf *want, const struct leaf *got)
{
    const struct excuse *x = ctx;
    struct leaf same = *got;
    if (!S_ISREG(want->mode) || in_snapshot(want) || !bulk_unsynced(x, want->node) || !got->incomplete)
        return false;
    same.size = want->size;
    same.data = want->data;
    same.incomplete = want->incomplete;
    same.mtime = want->mtime;
    same.ctime = want->ctime;
    if (node_differs(want, &same, true))
        return false;
    if (got->size < want->size && memcmp(got->data, want->data, got->size) == 0)
        return true;
    for (int j = 0; j < x->i; j++)
        for (int k = 0; k < x->q->want[j].n; k++) {
            const struct leaf *old = &x->q->want[j].v[k];
            if ((old->node == want->node || strcmp(old->path, want->path) == 0) && same_content(old, got) &&
                got->mtime == old->mtime)
                return true;
        }
    return false;
}

/* 0 when the tree may be found after a cut at p; else why not, by the best that fits. */
static inline bool seq_allows(const struct seq *q, const struct point *p, bool killed, const struct tree *got, char why[200])
{
    int lo = killed ? p->completed : p->acked;
    char one[200];
    snprintf(why, 200, "%s", got->why);
    if (got->bad)
        return false;
    for (int i = p->started; i >= lo; i--) {
        struct excuse x = {q, p, i};
        if (tree_equal(&q->want[i], got, true, false, seq_excuse, &x, one))
            return true;
        if (getenv("DMT_VERBOSE"))
            fprintf(stderr, "  prefix %d: %s\n", i, one);
        if (i == p->started)
            snprintf(why, 200, "nothing from %d to %d fits; %d: %.150s", lo, i, i, one);
        if (i == q->rollback && p->started > i && tree_equal(&q->between, got, true, false, seq_excuse, &x, one))
            return true;
    }
    return false;
}

#endif
