/* diff.c: differences between two views as people read them: one line a path, sorted.
 *
 * Owns nothing. Each differing entry of the delta becomes a loss in one view or a gain in the
 * other; a gain and a loss of one inode are a rename; a name that both views have with different
 * inodes is a changed file (programs save by renaming over), not a deletion and an addition. Inodes
 * that changed in place are looked at closer: content, or attributes only; a directory whose
 * entries alone changed is not listed. Failure: read errors end it before the first line. Thread:
 * any; never under the lock.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/ws.h"

struct line {
    char kind;
    char *path, *from;
};

struct report {
    struct dmt_ws *ws;
    const struct ws_delta *d;
    struct line *v;
    size_t n, cap;
    /* path of each name's directory in the two views, "" = root, NULL = not there */
    char **dirs_a, **dirs_b;
};

bool ws_path_inside(const char *path, const char *const *inside)
{
    if (!inside)
        return true;
    for (; *inside; inside++) {
        const char *in = *inside;
        while (*in == '/')
            in++;
        size_t n = strlen(in);
        while (n > 0 && in[n - 1] == '/')
            n--;
        const char *p = *path == '/' ? path + 1 : path;
        if (n == 0 || (strncmp(p, in, n) == 0 && (p[n] == '\0' || p[n] == '/')))
            return true;
    }
    return false;
}

/* Takes the strings. */
static int add_line(struct report *rp, char kind, char *path, char *from)
{
    if (path && rp->n == rp->cap) {
        size_t cap = rp->cap ? rp->cap * 2 : 256;
        struct line *v = realloc(rp->v, cap * sizeof(*v));
        if (v) {
            rp->v = v;
            rp->cap = cap;
        }
    }
    if (!path || rp->n == rp->cap) {
        free(path);
        free(from);
        return -ENOMEM;
    }
    rp->v[rp->n++] = (struct line){kind, path, from};
    return 0;
}

static char *name_path(const char *dir, const char *name)
{
    char *p = NULL;
    return dir && asprintf(&p, "%s/%s", dir, name) >= 0 ? p : NULL;
}

int ws_delta_dirs(struct dmt_ws *ws, const struct ws_delta *d, uint64_t view, char ***ret)
{
    uint64_t *inos = calloc(d->n_names + 1, sizeof(*inos));
    int r = inos ? 0 : -ENOMEM;
    /* Names come directory by directory, so climbing again for each would cost; the same pointer is
     * copied instead. */
    size_t n = 0;
    for (size_t i = 0; r == 0 && i < d->n_names; i++)
        if (i == 0 || d->names[i].dir != d->names[i - 1].dir)
            inos[n++] = d->names[i].dir;
    char **per_dir = NULL, **per_name = calloc(d->n_names + 1, sizeof(*per_name));
    if (r == 0 && !per_name)
        r = -ENOMEM;
    if (r == 0)
        r = ws_paths(ws, view, inos, n, &per_dir);
    for (size_t i = 0, k = 0; r == 0 && i < d->n_names; i++) {
        k += i > 0 && d->names[i].dir != d->names[i - 1].dir;
        per_name[i] = per_dir[k] ? strdup(per_dir[k]) : NULL;
    }
    ws_paths_free(per_dir, n);
    free(inos);
    if (r < 0)
        free(per_name);
    else
        *ret = per_name;
    return r;
}

/* Where else view a has (inode) under a name that view b has not: the source of a rename. Each loss
 * is used once. */
static size_t take_loss(const struct ws_delta *d, uint64_t ino, bool *used)
{
    for (size_t i = 0; i < d->n_names; i++)
        if (d->names[i].ino_a == ino && !used[i]) {
            used[i] = true;
            return i;
        }
    return d->n_names;
}

/* A path in both views, with different inodes, the second of which is new: how do they differ? 0 =
 * not at all. */
static int replaced_kind(struct report *rp, const struct ws_dnode *a, const struct ws_dnode *b)
{
    const struct ws_delta *d = rp->d;
    if ((a->a.mode ^ b->b.mode) & S_IFMT)
        return 'T';
    int r = S_ISREG(b->b.mode) ? ws_content_differs(rp->ws, d->va, &a->a, d->vb, &b->b) : 1;
    return r < 0 ? r : r ? 'M' : 'm';
}

static int gain(struct report *rp, size_t i, bool *used)
{
    const struct ws_delta *d = rp->d;
    const struct ws_dname *nm = &d->names[i];
    const struct ws_dnode *b = ws_delta_node(d, nm->ino_b),
                          *a = nm->ino_a ? ws_delta_node(d, nm->ino_a) : NULL;
    if (b && b->in_a) {
        size_t from = take_loss(d, nm->ino_b, used);
        if (from < d->n_names)
            return add_line(rp, 'R', name_path(rp->dirs_b[i], nm->name),
                            name_path(rp->dirs_a[from], d->names[from].name));
    }
    if (!a || !b)
        return add_line(rp, 'A', name_path(rp->dirs_b[i], nm->name), NULL);
    int kind = replaced_kind(rp, a, b);
    return kind < 0 ? kind : add_line(rp, (char)kind, name_path(rp->dirs_b[i], nm->name), NULL);
}

/* Entry lines: gains first, since they use up losses; what is lost and not replaced under its name
 * is deleted. */
static int report_names(struct report *rp)
{
    const struct ws_delta *d = rp->d;
    bool *used = calloc(d->n_names + 1, sizeof(*used));
    int r = used ? ws_delta_dirs(rp->ws, d, d->va, &rp->dirs_a) : -ENOMEM;
    if (r == 0)
        r = ws_delta_dirs(rp->ws, d, d->vb, &rp->dirs_b);
    for (size_t i = 0; r == 0 && i < d->n_names; i++)
        if (d->names[i].ino_b)
            r = gain(rp, i, used);
    for (size_t i = 0; r == 0 && i < d->n_names; i++) {
        const struct ws_dname *nm = &d->names[i];
        bool same_path = nm->ino_b && rp->dirs_a[i] && rp->dirs_b[i] &&
                         strcmp(rp->dirs_a[i], rp->dirs_b[i]) == 0;
        if (nm->ino_a && !used[i] && !same_path && rp->dirs_a[i])
            r = add_line(rp, 'D', name_path(rp->dirs_a[i], nm->name), NULL);
    }
    free(used);
    return r;
}

/* 'M', 'm' or 0 for an inode that both views have. */
static int in_place_kind(struct report *rp, const struct ws_dnode *n)
{
    const struct ws_delta *d = rp->d;
    const struct dmt_inode *a = &n->a, *b = &n->b;
    int r = 0;
    if (S_ISREG(a->mode))
        r = ws_content_differs(rp->ws, d->va, a, d->vb, b);
    if (r != 0)
        return r < 0 ? r : 'M';
    if (a->mode != b->mode || a->uid != b->uid || a->gid != b->gid ||
        (!S_ISDIR(a->mode) && a->mtime != b->mtime))
        return 'm';
    r = ws_xattrs_differ(rp->ws, d->va, n->ino, d->vb, n->ino);
    return r < 0 ? r : r ? 'm' : 0;
}

static int report_in_place(struct report *rp)
{
    const struct ws_delta *d = rp->d;
    uint64_t *inos = calloc(d->n_nodes + 1, sizeof(*inos));
    char *kinds = calloc(d->n_nodes + 1, 1), **paths = NULL;
    size_t n = 0;
    int r = inos && kinds ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < d->n_nodes; i++) {
        const struct ws_dnode *node = &d->nodes[i];
        int kind = node->in_a && node->in_b ? in_place_kind(rp, node) : 0;
        if (kind > 0) {
            inos[n] = node->ino;
            kinds[n++] = (char)kind;
        }
        r = kind < 0 ? kind : 0;
    }
    if (r == 0)
        r = ws_paths(rp->ws, d->vb, inos, n, &paths);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (paths[i])
            r = add_line(rp, kinds[i], strdup(*paths[i] ? paths[i] : "/"), NULL);
    ws_paths_free(paths, r == 0 || paths ? n : 0);
    free(inos);
    free(kinds);
    return r;
}

static int by_path(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    int r = strcmp(x->path, y->path);
    return r ? r : x->kind - y->kind;
}

int ws_delta_report(struct dmt_ws *ws, const struct ws_delta *d, const char *const *inside,
                    dmt_diff_fn fn, void *ctx, uint64_t *ret_n)
{
    struct report rp = {.ws = ws, .d = d};
    *ret_n = 0;
    int r = report_names(&rp);
    if (r == 0)
        r = report_in_place(&rp);
    if (rp.n > 0)
        qsort(rp.v, rp.n, sizeof(*rp.v), by_path);
    for (size_t i = 0; i < rp.n; i++) {
        struct line *l = &rp.v[i];
        bool wanted =
            ws_path_inside(l->path, inside) || (l->from && ws_path_inside(l->from, inside));
        if (r == 0 && wanted) {
            ++*ret_n;
            r = fn ? fn(ctx, l->kind, l->path, l->from) : 0;
        }
        free(l->path);
        free(l->from);
    }
    ws_paths_free(rp.dirs_a, d->n_names);
    ws_paths_free(rp.dirs_b, d->n_names);
    free(rp.v);
    return r;
}

int dmt_ws_diff(struct dmt_ws *ws, uint64_t a, uint64_t b, dmt_diff_fn fn, void *ctx,
                struct dmt_err *err)
{
    struct ws_delta d;
    uint64_t n;
    int r = dmt_ws_checkpoint(ws, err);
    if (r < 0)
        return r;
    r = ws_delta_make(ws, a, b, &d);
    if (r == 0) {
        r = ws_delta_report(ws, &d, NULL, fn, ctx, &n);
        ws_delta_free(&d);
    }
    return r < 0 ? dmt_err_set(err, r, "the two states cannot be compared: %s", dmt_strerror(r))
                 : r;
}
