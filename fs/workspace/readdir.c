/* readdir.c: listing directories: for the kernel in batches by cookie, for tools as a whole.
 *
 * Owns nothing. A batch of entries (with attributes for readdirplus) is copied under the lock and
 * handed out without it, so that the caller's function may call back, for instance to count a
 * reference. Cookies come from the directory's counter (3 and up; 1 and 2 are the dots), so a
 * listing goes on correctly whatever happened in between. `.snapshots` is not listed. Thread: any.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/ws.h"

#define BATCH 64

struct item {
    struct dmt_dentry d;
    char name[DMT_NAME_MAX + 1];
    struct dmt_attr attr;
};

struct batch {
    int n;
    struct item v[BATCH];
};

static int take(void *ctx, const char *name, size_t len, const struct dmt_dentry *d)
{
    struct batch *b = ctx;
    struct item *it = &b->v[b->n++];
    it->d = *d;
    memcpy(it->name, name, len);
    it->name[len] = '\0';
    return b->n == BATCH;
}

static int fill_batch(struct dmt_ws *ws, const struct ws_at *at, uint64_t after, bool plus,
                      struct batch *b)
{
    struct dmt_inode n;
    uint64_t ino[BATCH];
    b->n = 0;
    int r = dmt_store_readdir(ws->st, at->view, at->ino, (uint32_t)after, take, b);
    for (int i = 0; plus && i < b->n; i++)
        ino[i] = b->v[i].d.ino;
    if (plus)
        dmt_store_inodes_soon(ws->st, ino, (size_t)b->n);
    for (int i = 0; r >= 0 && plus && i < b->n; i++) {
        r = dmt_store_inode_get(ws->st, at->view, b->v[i].d.ino, &n);
        if (r == 0)
            ws_fill(ws, at, &n, &b->v[i].attr);
    }
    return r < 0 ? r : 0;
}

struct snap_batch {
    struct dmt_ws *ws;
    struct batch *b;
    uint64_t after;
};

/* In .snapshots the serial + 2 is the cookie: dense, never reused. */
static int take_snapshot(void *ctx, const struct dmt_snapshot *s)
{
    struct snap_batch *sb = ctx;
    if (s->serial + 2 <= sb->after || sb->b->n == BATCH)
        return 0;
    struct item *it = &sb->b->v[sb->b->n++];
    *it = (struct item){.d = {.ino = 1ull << 63 | s->serial << DMT_INO_BITS | DMT_ROOT,
                              .cookie = (uint32_t)s->serial + 2,
                              .type = S_IFDIR}};
    memcpy(it->name, s->name, sizeof(s->name));
    for (char *p = it->name; *p; p++)
        *p = *p == '/' ? '~' : *p;
    return 0;
}

static int fill_snapshots(struct dmt_ws *ws, uint64_t after, bool plus, struct batch *b)
{
    struct snap_batch sb = {ws, b, after};
    struct dmt_inode n;
    struct ws_at at;
    b->n = 0;
    int r = dmt_store_snap_each(ws->st, take_snapshot, &sb);
    for (int i = 0; r >= 0 && plus && i < b->n; i++) {
        r = ws_inode(ws, b->v[i].d.ino, &at, &n);
        if (r == 0)
            ws_fill(ws, &at, &n, &b->v[i].attr);
    }
    return r < 0 ? r : 0;
}

static int emit_dots(const struct ws_at *at, uint64_t up, uint64_t *after, dmt_readdir_fn fn,
                     void *ctx)
{
    if (*after < 1) {
        if (fn(ctx, ".", at->node, S_IFDIR, 1, NULL))
            return 1;
        *after = 1;
    }
    if (*after < 2) {
        if (fn(ctx, "..", up, S_IFDIR, 2, NULL))
            return 1;
        *after = 2;
    }
    return 0;
}

static int find_dir(struct dmt_ws *ws, uint64_t node, struct ws_at *at, uint64_t *up)
{
    struct dmt_inode n;
    int r = ws_at(ws, node, at);
    *up = DMT_ROOT;
    if (r < 0 || at->snapdir)
        return r;
    r = dmt_store_inode_get(ws->st, at->view, at->ino, &n);
    if (r < 0)
        return r;
    if (at->ino != DMT_ROOT)
        *up = ws_node(at, n.parent);
    else if (at->view != DMT_LIVE)
        *up = DMT_NODE_SNAPSHOTS;
    return S_ISDIR(n.mode) ? 0 : -ENOTDIR;
}

int dmt_ws_readdir(struct dmt_ws *ws, uint64_t node, uint64_t after, bool plus, dmt_readdir_fn fn,
                   void *ctx)
{
    struct ws_at at;
    uint64_t up;
    ws_lock(ws);
    int r = find_dir(ws, node, &at, &up);
    ws_unlock(ws);
    if (r < 0)
        return dmt_err_errno(r);
    if (emit_dots(&at, up, &after, fn, ctx) || after >= UINT32_MAX)
        return 0;
    struct batch *b = malloc(sizeof(*b));
    if (!b)
        return -ENOMEM;
    do {
        ws_lock(ws);
        r = at.snapdir ? fill_snapshots(ws, after, plus, b) : fill_batch(ws, &at, after, plus, b);
        ws_unlock(ws);
        for (int i = 0; r == 0 && i < b->n; i++) {
            const struct item *it = &b->v[i];
            uint64_t id = at.snapdir ? it->d.ino : ws_node(&at, it->d.ino);
            if (fn(ctx, it->name, id, it->d.type, it->d.cookie, plus ? &it->attr : NULL))
                goto out;
            after = it->d.cookie;
        }
    } while (r == 0 && b->n == BATCH);
out:
    free(b);
    return dmt_err_errno(r);
}

/* --- whole directories, for tools ------------------------------------------------------------- */

static int collect(void *ctx, const char *name, size_t len, const struct dmt_dentry *d)
{
    struct ws_entries *e = ctx;
    if (e->n == e->cap) {
        size_t cap = e->cap ? e->cap * 2 : 64;
        struct ws_entry *v = realloc(e->v, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        e->v = v;
        e->cap = cap;
    }
    struct ws_entry *it = &e->v[e->n];
    *it = (struct ws_entry){
        .ino = d->ino, .cookie = d->cookie, .type = d->type, .name = strndup(name, len)};
    if (!it->name)
        return -ENOMEM;
    e->n++;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct ws_entry *)a)->name, ((const struct ws_entry *)b)->name);
}

int ws_list(struct dmt_ws *ws, uint64_t view, uint64_t dir, struct ws_entries *ret)
{
    *ret = (struct ws_entries){0};
    ws_lock(ws);
    int r = dmt_store_readdir(ws->st, view, dir, 0, collect, ret);
    ws_unlock(ws);
    if (r < 0) {
        ws_entries_free(ret);
        return r;
    }
    if (ret->n > 0)
        qsort(ret->v, ret->n, sizeof(*ret->v), by_name);
    return 0;
}

void ws_entries_free(struct ws_entries *e)
{
    for (size_t i = 0; i < e->n; i++)
        free(e->v[i].name);
    free(e->v);
    *e = (struct ws_entries){0};
}
