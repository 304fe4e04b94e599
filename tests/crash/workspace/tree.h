/* tree.h: what a workspace shows, as a list of nodes: the whole tree and, below .snapshots/NAME, every snapshot. And the same of
 * a directory of the native file system, which is the model: what it does with the same operations is what is right.
 *
 * Paths have no slash in front; nodes are sorted by path. Times, node numbers and the report xattr exist only in workspaces. */
#ifndef DMT_TESTS_CRASH_TREE_H
#define DMT_TESTS_CRASH_TREE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "fs/base/hash.h"
#include "fs/workspace/ws.h"

#define TREE_MAX   160
#define XATTR_NAME "user.x"

struct leaf {
    char path[80];
    uint32_t mode;
    uint64_t nlink, size, mtime, ctime, node;
    char xattr[64];  /* value of user.x, "" = none */
    bool incomplete; /* user.dumont.incomplete is there */
    uint8_t *data;   /* content or target */
};
struct tree {
    struct leaf *v;
    int n;
    bool bad; /* it could not be read; why: */
    char why[200];
};

static inline void tree_free(struct tree *t)
{
    for (int i = 0; i < t->n; i++)
        free(t->v[i].data);
    free(t->v);
    memset(t, 0, sizeof(*t));
}

static inline int tree_cmp(const void *a, const void *b)
{
    return strcmp(((const struct leaf *)a)->path, ((const struct leaf *)b)->path);
}

static inline struct leaf *tree_add(struct tree *t, const char *dir, const char *name)
{
    if (!t->v)
        t->v = calloc(TREE_MAX, sizeof(*t->v));
    DMT_ASSERT(t->v && t->n < TREE_MAX);
    struct leaf *x = &t->v[t->n++];
    DMT_ASSERT((size_t)snprintf(x->path, sizeof(x->path), "%s%s%s", dir, *dir ? "/" : "", name) < sizeof(x->path));
    return x;
}

__attribute__((format(printf, 2, 3))) static inline void tree_bad(struct tree *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!t->bad)
        vsnprintf(t->why, sizeof(t->why), fmt, ap);
    va_end(ap);
    t->bad = true;
}

static inline const struct leaf *tree_find(const struct tree *t, const char *path)
{
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->v[i].path, path) == 0)
            return &t->v[i];
    return NULL;
}

static inline void tree_drop(struct tree *t, const char *path)
{
    struct leaf *x = (struct leaf *)tree_find(t, path);
    if (!x)
        return;
    free(x->data);
    memmove(x, x + 1, (size_t)(t->v + t->n - x - 1) * sizeof(*x));
    t->n--;
}

static inline bool in_snapshot(const struct leaf *x)
{
    return strncmp(x->path, ".snapshots/", 11) == 0;
}

/* --- of a workspace --------------------------------------------------------------------------------------------------------- */

struct tree_names {
    char v[TREE_MAX][40];
    uint64_t node[TREE_MAX];
    int n;
};

static inline int tree_name(void *ctx, const char *name, uint64_t node, uint32_t type, uint64_t cookie,
                            const struct dmt_attr *attr)
{
    struct tree_names *l = ctx;
    (void)type, (void)cookie, (void)attr;
    if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
        DMT_ASSERT(l->n < TREE_MAX);
        snprintf(l->v[l->n], sizeof(l->v[0]), "%s", name);
        l->node[l->n++] = node;
    }
    return 0;
}

static inline void tree_fill(struct tree *t, struct dmt_ws *ws, uint64_t node, struct leaf *x)
{
    struct dmt_attr a;
    char buf[4096];
    int r = dmt_ws_getattr(ws, node, &a);
    if (r < 0) {
        tree_bad(t, "getattr of %s: %d", x->path, r);
        return;
    }
    x->node = node;
    x->mode = a.st.st_mode;
    x->nlink = a.st.st_nlink;
    x->size = S_ISDIR(x->mode) ? 0 : (uint64_t)a.st.st_size;
    x->mtime = (uint64_t)a.st.st_mtim.tv_sec * DMT_S + (uint64_t)a.st.st_mtim.tv_nsec;
    x->ctime = (uint64_t)a.st.st_ctim.tv_sec * DMT_S + (uint64_t)a.st.st_ctim.tv_nsec;
    ssize_t n = dmt_ws_getxattr(ws, node, XATTR_NAME, x->xattr, sizeof(x->xattr) - 1);
    if (n < 0 && n != -ENODATA)
        tree_bad(t, "getxattr of %s: %zd", x->path, n);
    x->incomplete = dmt_ws_getxattr(ws, node, WS_INCOMPLETE_ATTR, buf, sizeof(buf)) > 0;
    if (S_ISLNK(x->mode)) {
        r = dmt_ws_readlink(ws, node, buf);
        x->data = (uint8_t *)strdup(r < 0 ? "" : buf);
    } else if (S_ISREG(x->mode)) {
        x->data = malloc(x->size + 1);
        n = dmt_ws_read(ws, node, x->data, x->size + 1, 0, false);
        r = n < 0 ? (int)n : (uint64_t)n == x->size ? 0 : -EIO;
    }
    if (r < 0)
        tree_bad(t, "%s cannot be read: %d", x->path, r);
}

static inline void tree_walk(struct tree *t, struct dmt_ws *ws, uint64_t dir, const char *path, int depth)
{
    struct tree_names *l = calloc(1, sizeof(*l));
    int r = dmt_ws_readdir(ws, dir, 0, false, tree_name, l);
    if (r < 0)
        tree_bad(t, "readdir of %s: %d", path, r);
    for (int i = 0; i < l->n && depth < 6; i++) {
        struct leaf *x = tree_add(t, path, l->v[i]);
        struct dmt_attr a;
        tree_fill(t, ws, l->node[i], x);
        r = dmt_ws_lookup(ws, dir, l->v[i], &a);
        if (r < 0 || a.node != l->node[i])
            tree_bad(t, "lookup of %s: %d", x->path, r);
        if (S_ISDIR(x->mode))
            tree_walk(t, ws, l->node[i], x->path, depth + 1);
    }
    free(l);
}

struct tree_snaps {
    char v[16][140];
    int n;
};

static inline int tree_snap(void *ctx, const struct dmt_snapshot *s)
{
    struct tree_snaps *l = ctx;
    DMT_ASSERT(l->n < 16);
    snprintf(l->v[l->n++], sizeof(l->v[0]), "%s", s->name);
    return 0;
}

static inline void tree_of_ws(struct tree *t, struct dmt_ws *ws)
{
    struct tree_snaps s = {0};
    memset(t, 0, sizeof(*t));
    tree_walk(t, ws, DMT_ROOT, "", 0);
    if (dmt_ws_snap_each(ws, tree_snap, &s) < 0)
        tree_bad(t, "snapshots cannot be listed");
    for (int i = 0; i < s.n; i++) {
        char path[64], *c;
        struct dmt_attr a;
        for (c = s.v[i]; *c; c++)
            *c = *c == '/' ? '~' : *c;
        int r = dmt_ws_lookup(ws, DMT_NODE_SNAPSHOTS, s.v[i], &a);
        if (r < 0)
            tree_bad(t, "snapshot %s: %d", s.v[i], r);
        else {
            snprintf(path, sizeof(path), ".snapshots/%.40s", s.v[i]);
            tree_add(t, "", path)->node = a.node;
            tree_walk(t, ws, a.node, path, 1);
        }
    }
    if (t->n > 0)
        qsort(t->v, (size_t)t->n, sizeof(*t->v), tree_cmp);
}

/* --- of a native directory -------------------------------------------------------------------------------------------------- */

static inline void tree_walk_native(struct tree *t, const char *root, const char *path)
{
    char full[256];
    struct dirent *e;
    struct stat st;
    snprintf(full, sizeof(full), "%s/%s", root, path);
    DIR *d = opendir(full);
    DMT_ASSERT(d);
    while ((e = readdir(d)) != NULL) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        struct leaf *x = tree_add(t, path, e->d_name);
        snprintf(full, sizeof(full), "%s/%s", root, x->path);
        DMT_ASSERT(lstat(full, &st) == 0);
        x->mode = st.st_mode;
        x->nlink = st.st_nlink;
        x->size = S_ISDIR(x->mode) ? 0 : (uint64_t)st.st_size;
        (void)!lgetxattr(full, XATTR_NAME, x->xattr, sizeof(x->xattr) - 1);
        if (S_ISLNK(x->mode)) {
            x->data = calloc(1, x->size + 1);
            DMT_ASSERT(readlink(full, (char *)x->data, x->size) == (ssize_t)x->size);
        } else if (S_ISREG(x->mode)) {
            x->data = malloc(x->size + 1);
            int fd = open(full, O_RDONLY | O_CLOEXEC);
            DMT_ASSERT(fd >= 0 && read(fd, x->data, x->size + 1) == (ssize_t)x->size);
            close(fd);
        } else {
            tree_walk_native(t, root, x->path);
        }
    }
    closedir(d);
}

static inline void tree_of_dir(struct tree *t, const char *root)
{
    memset(t, 0, sizeof(*t));
    tree_walk_native(t, root, "");
    qsort(t->v, (size_t)t->n, sizeof(*t->v), tree_cmp);
}

/* --- comparing -------------------------------------------------------------------------------------------------------------- */

static inline const char *node_differs(const struct leaf *a, const struct leaf *b, bool exact)
{
    if (a->mode != b->mode)
        return "mode";
    if (a->size != b->size)
        return "size";
    if (a->data && memcmp(a->data, b->data, a->size) != 0)
        return "content";
    if (strcmp(a->xattr, b->xattr) != 0)
        return "xattr";
    if (!S_ISDIR(a->mode) && a->nlink != b->nlink)
        return "nlink";
    if (!exact)
        return NULL;
    if (a->node != b->node)
        return "node number";
    if (a->incomplete != b->incomplete)
        return "report of incompleteness";
    return a->mtime != b->mtime ? "mtime" : a->ctime != b->ctime ? "ctime" : NULL;
}

/* May this file differ, and like this? Asked for a node that differs. */
typedef bool (*tree_excuse_fn)(void *ctx, const struct leaf *want, const struct leaf *got);

/* Empty why: equal. exact: times and node numbers too. live: snapshots are left out. */
static inline bool tree_equal(const struct tree *want, const struct tree *got, bool exact, bool live, tree_excuse_fn excuse,
                              void *ctx, char why[200])
{
    int i = 0, k = 0;
    *why = '\0';
    while (!*why) {
        while (live && i < want->n && in_snapshot(&want->v[i]))
            i++;
        while (live && k < got->n && in_snapshot(&got->v[k]))
            k++;
        const struct leaf *a = i < want->n ? &want->v[i] : NULL, *b = k < got->n ? &got->v[k] : NULL;
        if (!a && !b)
            return true;
        int c = !a ? 1 : !b ? -1 : strcmp(a->path, b->path);
        const char *what = c ? NULL : node_differs(a, b, exact);
        if (c < 0)
            snprintf(why, 200, "%s is missing", a->path);
        else if (c > 0)
            snprintf(why, 200, "%s is too many", b->path);
        else if (what && !(excuse && excuse(ctx, a, b)))
            snprintf(why, 200, "%s: %s (size %llu, should be %llu)", a->path, what, (unsigned long long)b->size,
                     (unsigned long long)a->size);
        i++;
        k++;
    }
    return false;
}

#endif
