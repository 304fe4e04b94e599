/* dentry.c: directory entries: look-up by name, change, and walking a directory in the order of its
 * cookies.
 *
 * A walk merges SQLite's rows (index parent, cookie) with the entries that memory holds for this
 * directory: `kids`, live ones by cookie, and, for a view, `old_kids`, their history. Of a whole
 * directory memory has them all, and no live rows are read. A row whose name has a pinned object in
 * the cache is out of date and skipped; the object speaks for itself at its own cookie, or is gone.
 * Nothing is sorted per call: both sides are
 * ordered already, and rows are fetched in small batches so that the callback may use the store
 * (but not change it). Happy path of a change: the dent is in the cache from the check before it,
 * gets the new value and is marked dirty. Failure modes: SQLite errors on a cold look-up; nothing
 * has changed then. Thread: workspace lock.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

#define BATCH_MIN 64u
#define BATCH_MAX 256u

#define DHIST_OF(tn_) DMT_CONTAINER((tn_), struct dhist, tn)

void store_kid_link(struct node *dir, struct dent *d)
{
    store_kids_add(&dir->kids, d->v.cookie, d);
    d->in_kids = true;
}

void store_kid_unlink(struct node *dir, struct dent *d)
{
    if (d->in_kids)
        store_kids_remove(&dir->kids, d->v.cookie, d);
    d->in_kids = false;
}

static void old_kid_link(struct node *dir, struct dhist *h)
{
    struct tnode **link = &dir->old_kids.root, *up = NULL;
    while (*link) {
        up = *link;
        link = h->v.cookie < DHIST_OF(up)->v.cookie ? &up->left : &up->right;
    }
    store_tree_link(&dir->old_kids, up, link, &h->tn);
}

static int dentry_at(struct dmt_store *st, struct dent *d, uint64_t view, struct dent_value *ret)
{
    if (d->live && d->v.born <= view) {
        *ret = d->v;
        return 0;
    }
    for (int half = 0; half < 2; half++)
        for (struct dhist *h = d->hist[half]; h; h = h->next)
            if (h->v.born <= view && view < h->died) {
                *ret = h->v;
                return 0;
            }
    sqlite3_stmt *s;
    int r =
        store_sql(&st->rd, SQL_DENTRY_H_AT, &s, "ibi", d->parent, d->name, (size_t)d->len, view);
    if (r == 0)
        r = store_sql_step(&st->rd, s);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    *ret = (struct dent_value){.ino = store_col(s, 0),
                               .cookie = store_col32(s, 1),
                               .type = store_col32(s, 2),
                               .born = store_col(s, 3)};
    store_sql_done(s);
    return ret->born <= view ? 0 : -ENOENT;
}

static struct dmt_dentry public_value(const struct dent_value *v)
{
    return (struct dmt_dentry){
        .ino = v->ino, .cookie = v->cookie, .type = v->type, .born = v->born};
}

int dmt_store_dentry_get(struct dmt_store *st, uint64_t view, uint64_t parent, const char *name,
                         size_t len, struct dmt_dentry *ret)
{
    struct dent *d;
    struct dent_value v;
    int r = store_dent(st, parent, name, len, &d);
    if (r < 0)
        return r;
    if (view == DMT_LIVE) {
        if (!d->live)
            return -ENOENT;
        v = d->v;
    } else if ((r = dentry_at(st, d, view, &v)) < 0) {
        return r;
    }
    *ret = public_value(&v);
    return 0;
}

/* Keeps the current value if a pinned position shows it. d is pinned. */
static void keep_old_entry(struct dmt_store *st, struct dent *d, uint64_t died)
{
    if (!d->live || !store_needed(st, d->v.born, died))
        return;
    struct dhist *h = store_alloc(sizeof(*h));
    *h = (struct dhist){.next = d->hist[ACTIVE], .dent = d, .v = d->v, .died = died};
    d->hist[ACTIVE] = h;
    old_kid_link(d->dir, h);
}

int dmt_store_dentry_put(struct dmt_store *st, uint64_t parent, const char *name, size_t len,
                         uint64_t ino, uint32_t type, uint32_t cookie, uint64_t seq)
{
    struct dent *d;
    int r = store_dent(st, parent, name, len, &d);
    if (r == 0)
        r = store_dent_dirty(st, d);
    if (r < 0)
        return r;
    keep_old_entry(st, d, seq);
    store_kid_unlink(d->dir, d);
    d->v = (struct dent_value){.ino = ino, .born = seq, .cookie = cookie, .type = type};
    d->live = true;
    store_kid_link(d->dir, d);
    return 0;
}

int dmt_store_dentry_del(struct dmt_store *st, uint64_t parent, const char *name, size_t len,
                         uint64_t seq)
{
    struct dent *d;
    int r = store_dent(st, parent, name, len, &d);
    if (r < 0)
        return r;
    if (!d->live)
        return -ENOENT;
    if ((r = store_dent_dirty(st, d)) < 0)
        return r;
    keep_old_entry(st, d, seq);
    store_kid_unlink(d->dir, d);
    d->live = false;
    if (!d->disk && !d->frozen && !d->hist[ACTIVE]) {
        /* Made and removed since the last freeze: nothing to write. */
        d->dirty = false;
        dmt_list_del(&d->dirty_link);
        st->dirty_dent_n--;
        store_dent_settle(st, d);
    }
    return 0;
}

/* --- walking */

struct row { /* one row fetched from SQLite */
    struct dent_value v;
    uint32_t name_at;
    uint8_t len;
};
struct source { /* rows of one table, in batches */
    enum store_sql id;
    struct row rows[BATCH_MAX];
    char names[BATCH_MAX * DMT_NAME_MAX];
    uint32_t n, at, limit, after;
    bool end;
};
struct walk {
    struct dmt_store *st;
    struct node *dir;
    uint64_t view;
    struct source *live, *old; /* old: only for a view */
    struct kids_at kid;
    struct tnode *old_kid;
    uint32_t last; /* cookie given last */
    bool whole;    /* the directory, until now */
};

static int source_fetch(struct walk *w, struct source *src)
{
    sqlite3_stmt *s;
    int r = store_sql(&w->st->rd, src->id, &s, src->id == SQL_DENTRY_DIR ? "iii" : "iiii",
                      w->dir->ino, (uint64_t)src->after, (uint64_t)src->limit, w->view);
    src->n = src->at = 0;
    uint32_t used = 0;
    while (r == 0 && (r = store_sql_step(&w->st->rd, s)) > 0) {
        struct row *row = &src->rows[src->n++];
        size_t len = (size_t)sqlite3_column_bytes(s, 0);
        if (len > DMT_NAME_MAX || src->n > src->limit) {
            store_sql_done(s);
            return DMT_E_CORRUPT;
        }
        memcpy(src->names + used, sqlite3_column_blob(s, 0), len);
        row->name_at = used;
        row->len = (uint8_t)len;
        used += (uint32_t)len;
        row->v = (struct dent_value){.ino = store_col(s, 1),
                                     .cookie = store_col32(s, 2),
                                     .type = store_col32(s, 3),
                                     .born = store_col(s, 4)};
        src->after = row->v.cookie;
        r = 0;
    }
    src->end = src->n < src->limit;
    src->limit = src->limit < BATCH_MAX ? src->limit * 2 : BATCH_MAX;
    return r;
}

/* Memory speaks for this name? */
static bool overridden(const struct walk *w, const struct source *src, const struct row *row)
{
    if (w->dir->pins <= 1) /* the walk itself */
        return false;
    struct dent *d = store_dent_cached(w->st, w->dir->ino, src->names + row->name_at, row->len);
    return d && (d->dirty || d->frozen);
}

/* The next row that counts: 1, 0 at the end. Leaves src->at on it. */
static int source_peek(struct walk *w, struct source *src)
{
    for (;;) {
        for (; src->at < src->n; src->at++) {
            const struct row *row = &src->rows[src->at];
            if (src->id != SQL_DENTRY_DIR || (row->v.born <= w->view && !overridden(w, src, row)))
                return 1;
        }
        if (src->end)
            return 0;
        int r = source_fetch(w, src);
        if (r < 0)
            return r;
    }
}

static struct tnode *old_kid_after(const struct tree *t, uint32_t cookie)
{
    struct tnode *best = NULL;
    for (struct tnode *n = t->root; n;) {
        if (DHIST_OF(n)->v.cookie > cookie) {
            best = n;
            n = n->left;
        } else {
            n = n->right;
        }
    }
    return best;
}

/* The callback's look-ups may have evicted entries: SQLite gives the rest. */
static void turn_to_rows(struct walk *w)
{
    if (!w->whole || w->dir->whole)
        return;
    w->whole = false;
    w->live->after = w->last;
    w->live->end = false;
    w->kid = store_kids_after(w->dir->kids, w->last);
}

/* Skips entries in memory that the view does not show. */
static void skip_unseen(struct walk *w)
{
    if (w->view == DMT_LIVE)
        return;
    for (const struct dent *d; (d = store_kids_peek(&w->kid)) && d->v.born > w->view;)
        store_kids_step(&w->kid);
    while (w->old_kid &&
           (DHIST_OF(w->old_kid)->v.born > w->view || DHIST_OF(w->old_kid)->died <= w->view))
        w->old_kid = store_tree_next(w->old_kid);
}

/* The entry with the smallest cookie of all sources: 1 and where it is, 0 at the end. Moves that
 * source on. */
static int walk_next(struct walk *w, struct dent_value *v, const char **name, size_t *len)
{
    turn_to_rows(w);
    skip_unseen(w);
    int r = source_peek(w, w->live);
    int r_old = r >= 0 && w->old ? source_peek(w, w->old) : 0;
    if (r < 0 || r_old < 0)
        return r < 0 ? r : r_old;
    uint32_t best = UINT32_MAX;
    int who = -1;
    const struct dent *kid = store_kids_peek(&w->kid);
    const uint32_t cookie[4] = {
        r ? w->live->rows[w->live->at].v.cookie : UINT32_MAX,
        kid ? kid->v.cookie : UINT32_MAX,
        r_old ? w->old->rows[w->old->at].v.cookie : UINT32_MAX,
        w->old_kid ? DHIST_OF(w->old_kid)->v.cookie : UINT32_MAX,
    };
    const bool there[4] = {r > 0, kid != NULL, r_old > 0, w->old_kid != NULL};
    for (int i = 0; i < 4; i++)
        if (there[i] && (who < 0 || cookie[i] < best)) {
            best = cookie[i];
            who = i;
        }
    if (who < 0)
        return 0;
    if (who == 0 || who == 2) {
        struct source *src = who == 0 ? w->live : w->old;
        const struct row *row = &src->rows[src->at++];
        *v = row->v;
        *name = src->names + row->name_at;
        *len = row->len;
        return 1;
    }
    const struct dent *d = who == 1 ? kid : DHIST_OF(w->old_kid)->dent;
    *v = who == 1 ? d->v : DHIST_OF(w->old_kid)->v;
    *name = d->name;
    *len = d->len;
    if (who == 1)
        store_kids_step(&w->kid);
    else
        w->old_kid = store_tree_next(w->old_kid);
    return 1;
}

static struct source *source_new(struct walk *w, enum store_sql id, uint32_t after)
{
    struct source *src = store_alloc(sizeof(*src));
    src->id = id;
    src->n = src->at = 0;
    src->limit = BATCH_MIN;
    src->after = after;
    src->end = id == SQL_DENTRY_DIR ? w->whole : w->dir->dir_fresh;
    return src;
}

int dmt_store_readdir(struct dmt_store *st, uint64_t view, uint64_t parent, uint32_t after,
                      dmt_dirent_fn fn, void *ctx)
{
    struct walk w = {.st = st, .view = view, .last = after};
    int r = store_node(st, parent, &w.dir);
    if (r < 0)
        return r;
    store_node_pin(st, w.dir);
    w.whole = w.dir->whole;
    w.live = source_new(&w, SQL_DENTRY_DIR, after);
    if (view != DMT_LIVE)
        w.old = source_new(&w, SQL_DENTRY_H_DIR, after);
    w.kid = store_kids_after(w.dir->kids, after);
    w.old_kid = view != DMT_LIVE ? old_kid_after(&w.dir->old_kids, after) : NULL;
    struct dent_value v;
    const char *name;
    size_t len;
    while ((r = walk_next(&w, &v, &name, &len)) > 0) {
        if (v.cookie == w.last)
            /* a history row that is in memory and in SQLite while a commit is being taken over */
            continue;
        w.last = v.cookie;
        struct dmt_dentry pub = public_value(&v);
        if ((r = fn(ctx, name, len, &pub)) != 0)
            break;
    }
    free(w.live);
    free(w.old);
    store_node_unpin(st, w.dir);
    return r;
}

static int found_one(void *ctx, const char *name, size_t len, const struct dmt_dentry *d)
{
    (void)ctx;
    (void)name;
    (void)len;
    (void)d;
    return 1;
}

int dmt_store_dir_empty(struct dmt_store *st, uint64_t parent)
{
    int r = dmt_store_readdir(st, DMT_LIVE, parent, 0, found_one, NULL);
    return r < 0 ? r : r == 0;
}
