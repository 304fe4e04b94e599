/* view.c: paths and attributes of any view, for tools: resolve, path, the paths of many inodes, all
 * xattrs of one.
 *
 * Owns nothing. A directory's path is found by climbing its parents; a file's through the
 * remembered directory or, for those not found so, by one walk over the whole tree for all of them
 * together. Each directory is read under the lock, the walk between them is not: in the live view
 * names may move meanwhile, and then a path may be missed; callers show paths, they do not act on
 * them. Thread: any; never under the workspace lock.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/ws.h"

int dmt_ws_resolve(struct dmt_ws *ws, uint64_t view, const char *path, uint64_t *ret_ino)
{
    struct dmt_dentry d;
    uint64_t ino = DMT_ROOT;
    int r = 0;
    ws_lock(ws);
    while (r == 0 && *path) {
        size_t n = strcspn(path, "/");
        if (n > DMT_NAME_MAX)
            r = -ENAMETOOLONG;
        else if (n > 0)
            r = dmt_store_dentry_get(ws->st, view, ino, path, n, &d);
        if (r == 0 && n > 0)
            ino = d.ino;
        path += n + (path[n] == '/');
    }
    ws_unlock(ws);
    if (r == 0)
        *ret_ino = ino;
    return dmt_err_errno(r);
}

/* --- paths ------------------------------------------------------------------------------------ */

struct name_of {
    uint64_t ino;
    char *name;
};

static int match_ino(void *ctx, const char *name, size_t len, const struct dmt_dentry *d)
{
    struct name_of *want = ctx;
    if (d->ino != want->ino)
        return 0;
    want->name = strndup(name, len);
    return 1;
}

/* The name of ino in directory dir, or NULL. */
static char *name_in(struct dmt_ws *ws, uint64_t view, uint64_t dir, uint64_t ino)
{
    struct name_of want = {.ino = ino};
    ws_lock(ws);
    (void)dmt_store_readdir(ws->st, view, dir, 0, match_ino, &want);
    ws_unlock(ws);
    return want.name;
}

static char *join(char *dir, char *name)
{
    char *path = NULL;
    if (dir && name && asprintf(&path, "%s/%s", dir, name) < 0)
        path = NULL;
    free(dir);
    free(name);
    return path;
}

/* Path of a directory ("" for the root), or of a file whose directory is known. NULL when not
 * found. */
static char *path_up(struct dmt_ws *ws, uint64_t view, uint64_t ino, unsigned depth)
{
    struct dmt_inode n;
    uint64_t up = 0;
    if (ino == DMT_ROOT)
        return strdup("");
    if (depth > DMT_PATH_MAX)
        return NULL; /* moved about while we climbed */
    ws_lock(ws);
    if (dmt_store_inode_get(ws->st, view, ino, &n) == 0) {
        if (S_ISDIR(n.mode))
            up = n.parent;
        else if (ws->hints && ws->hints[ino % WS_HINTS].ino == ino)
            up = ws->hints[ino % WS_HINTS].parent;
    }
    ws_unlock(ws);
    char *name = up ? name_in(ws, view, up, ino) : NULL;
    return name ? join(path_up(ws, view, up, depth + 1), name) : NULL;
}

struct walk {
    struct {
        uint64_t ino;
        char *path;
    } * dirs;
    size_t n, cap, next;
    struct ws_map want; /* ino -> place in paths + 1 */
    char **paths;
    char *here;
    bool oom;
};

static int walk_push(struct walk *w, uint64_t ino, char *path)
{
    if (path && w->n == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 256;
        void *v = realloc(w->dirs, cap * sizeof(*w->dirs));
        if (v) {
            w->dirs = v;
            w->cap = cap;
        }
    }
    if (!path || w->n == w->cap) {
        free(path);
        w->oom = true;
        return -ENOMEM;
    }
    w->dirs[w->n].ino = ino;
    w->dirs[w->n++].path = path;
    return 0;
}

static int walk_entry(void *ctx, const char *name, size_t len, const struct dmt_dentry *d)
{
    struct walk *w = ctx;
    char *path = NULL;
    uint64_t at = ws_map_get(&w->want, d->ino);
    if (at || S_ISDIR(d->type))
        if (asprintf(&path, "%s/%.*s", w->here, (int)len, name) < 0)
            path = NULL;
    if (at) {
        w->paths[at - 1] = path ? strdup(path) : NULL;
        ws_map_del(&w->want, d->ino);
    }
    if (S_ISDIR(d->type))
        return walk_push(w, d->ino, path);
    free(path);
    return 0;
}

/* One pass over the tree for everything still wanted. */
static int walk_tree(struct dmt_ws *ws, uint64_t view, struct walk *w)
{
    int r = walk_push(w, DMT_ROOT, strdup(""));
    while (r == 0 && w->next < w->n && w->want.n > 0) {
        w->here = w->dirs[w->next].path;
        ws_lock(ws);
        r = dmt_store_readdir(ws->st, view, w->dirs[w->next].ino, 0, walk_entry, w);
        ws_unlock(ws);
        w->next++;
        r = r < 0 ? r : w->oom ? -ENOMEM : 0;
    }
    return r;
}

int ws_paths(struct dmt_ws *ws, uint64_t view, const uint64_t *inos, size_t n, char ***ret)
{
    struct walk w = {.paths = calloc(n + 1, sizeof(char *))};
    int r = w.paths ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < n; i++) {
        w.paths[i] = path_up(ws, view, inos[i], 0);
        if (!w.paths[i])
            r = ws_map_put(&w.want, inos[i], i + 1);
    }
    if (r == 0 && w.want.n > 0)
        r = walk_tree(ws, view, &w);
    for (size_t i = 0; i < w.n; i++)
        free(w.dirs[i].path);
    free(w.dirs);
    ws_map_clear(&w.want);
    if (r < 0)
        ws_paths_free(w.paths, n);
    else
        *ret = w.paths;
    return r;
}

void ws_paths_free(char **paths, size_t n)
{
    for (size_t i = 0; paths && i < n; i++)
        free(paths[i]);
    free(paths);
}

/* --- xattrs ----------------------------------------------------------------------------------- */

static int take_xattr(void *ctx, const char *name, const void *val, size_t len)
{
    struct ws_xattrs *x = ctx;
    if (x->n == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 8;
        struct ws_xattr *v = realloc(x->v, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        x->v = v;
        x->cap = cap;
    }
    struct ws_xattr it = {.name = strdup(name), .val = malloc(len + 1), .len = len};
    if (!it.name || !it.val) {
        free(it.name);
        free(it.val);
        return -ENOMEM;
    }
    memcpy(it.val, val, len);
    x->v[x->n++] = it;
    return 0;
}

static int xattr_by_name(const void *a, const void *b)
{
    return strcmp(((const struct ws_xattr *)a)->name, ((const struct ws_xattr *)b)->name);
}

int ws_xattrs(struct dmt_ws *ws, uint64_t view, uint64_t ino, struct ws_xattrs *ret)
{
    *ret = (struct ws_xattrs){0};
    ws_lock(ws);
    int r = dmt_store_xattr_each(ws->st, view, ino, take_xattr, ret);
    ws_unlock(ws);
    if (r < 0)
        ws_xattrs_free(ret);
    else if (ret->n > 0)
        qsort(ret->v, ret->n, sizeof(*ret->v), xattr_by_name);
    return r < 0 ? r : 0;
}

void ws_xattrs_free(struct ws_xattrs *x)
{
    for (size_t i = 0; i < x->n; i++) {
        free(x->v[i].name);
        free(x->v[i].val);
    }
    free(x->v);
    *x = (struct ws_xattrs){0};
}
