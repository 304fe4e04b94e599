/* dumontfs_mirror.c: makes one workspace's tree equal to another's by ordinary operations (so each
 * change is a journaled, replicated record).
 *
 * Happy path: walk both directories together; what is here only goes, what is there only is made,
 * the rest is compared. An inode with the same number and the same version (epoch, seq) is equal:
 * both come from one history. Content that differs is copied block by block. A file with several
 * names is one file here exactly where it is one there: a name that leads to another inode than its
 * fellows is taken away and linked, or made anew. Failure: the first
 * error ends it; what was changed stays changed, and the snapshot taken before undoes it. Thread:
 * the caller's, no lock held.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/dumontfs_past.h"

#define CHUNK (1u << 20)

struct names {
    char (*v)[256];
    size_t n, cap;
    int err;
};

static int names_add(void *ctx, const char *name, uint64_t node, uint32_t type, uint64_t cookie,
                     const struct dmt_attr *at)
{
    struct names *l = ctx;
    (void)node;
    (void)type;
    (void)cookie;
    (void)at;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return 0;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        void *v = realloc(l->v, cap * sizeof *l->v);
        if (!v)
            return l->err = -ENOMEM;
        l->v = v;
        l->cap = cap;
    }
    snprintf(l->v[l->n++], sizeof *l->v, "%s", name);
    return 0;
}

static void touched(struct mirror *m, uint64_t ino)
{
    if (m->inos_n == m->inos_cap) {
        size_t cap = m->inos_cap ? 2 * m->inos_cap : 256;
        uint64_t *v = realloc(m->inos, cap * sizeof *v);
        if (!v)
            /* the epoch bump makes the kernel look names up again; attributes may be stale until
             * then */
            return;
        m->inos = v;
        m->inos_cap = cap;
    }
    m->inos[m->inos_n++] = ino;
}

static void tell(struct mirror *m, char kind, const char *path)
{
    m->changed++;
    if (m->tick)
        m->tick(m->tick_ctx, m->changed);
    if (m->fn)
        m->fn(m->ctx, kind, path, NULL);
}

/* "/a" + "b"; on the heap: a tree may be deep. NULL: out of memory or too long, *rc says which. */
static char *below(const char *path, const char *name, int *rc)
{
    char *child = malloc(DMT_PATH_MAX);
    int n = child ? snprintf(child, DMT_PATH_MAX, "%s/%s", strcmp(path, "/") == 0 ? "" : path, name)
                  : 0;
    if (child && n < (int)DMT_PATH_MAX)
        return child;
    *rc = child ? -ENAMETOOLONG : -ENOMEM;
    free(child);
    return NULL;
}

static int version(struct dmt_ws *ws, uint64_t ino, struct dmt_inode *ret)
{
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    lk.lock(lk.ctx);
    int rc = dmt_store_inode_get(dmt_ws_store(ws), DMT_LIVE, ino, ret);
    lk.unlock(lk.ctx);
    return rc;
}

/* --- removing --------------------------------------------------------------------------------- */
static int remove_tree(struct mirror *m, uint64_t parent, const char *name, const char *path)
{
    struct dmt_attr at;
    struct dmt_op op = {0};
    int rc = dmt_ws_lookup(m->dst, parent, name, &at);
    if (rc != 0)
        return rc;
    bool dir = S_ISDIR(at.st.st_mode);
    if (dir) {
        struct names l = {0};
        rc = dmt_ws_readdir(m->dst, at.node, 0, false, names_add, &l);
        for (size_t i = 0; rc == 0 && i < l.n; i++) {
            char *child = below(path, l.v[i], &rc);
            if (child)
                rc = remove_tree(m, at.node, l.v[i], child);
            free(child);
        }
        free(l.v);
    }
    tell(m, 'D', path);
    touched(m, at.node);
    return rc == 0 && !m->dry ? dmt_ws_unlink(m->dst, &op, parent, name, dir) : rc;
}

/* --- content, attributes ---------------------------------------------------------------------- */
/* Makes dst's content src's; with m->dry only looks. *ret: was there a difference? */
static int copy_content(struct mirror *m, uint64_t src, uint64_t dst, uint64_t size, uint64_t was,
                        bool *ret)
{
    uint8_t *a = malloc(CHUNK), *b = malloc(CHUNK);
    struct dmt_setattr cut = {.mask = DMT_SET_SIZE, .size = size};
    struct dmt_attr at;
    struct dmt_op op = {0};
    int rc = a && b ? 0 : -ENOMEM;
    *ret = size != was;
    if (rc == 0 && size != was && !m->dry)
        rc = dmt_ws_setattr(m->dst, &op, dst, &cut, &at);
    for (uint64_t off = 0; rc == 0 && off < size && !(m->dry && *ret); off += CHUNK) {
        size_t want = size - off < CHUNK ? (size_t)(size - off) : CHUNK;
        ssize_t n = dmt_ws_read(m->src, src, a, want, off, false),
                k = dmt_ws_read(m->dst, dst, b, want, off, false);
        if (n < 0 || k < 0) {
            rc = (int)(n < 0 ? n : k);
        } else if (n != k || memcmp(a, b, (size_t)n) != 0) {
            *ret = true;
            rc = m->dry ? 0 : dmt_ws_write(m->dst, &op, dst, a, (size_t)n, off, false);
        }
    }
    free(a);
    free(b);
    return rc;
}

static int copy_xattrs(struct mirror *m, uint64_t src, uint64_t dst)
{
    char names[65536], value[65536], old[65536];
    struct dmt_op op = {0};
    ssize_t n = dmt_ws_listxattr(m->dst, dst, names, sizeof names, true);
    for (ssize_t i = 0; i < n; i += (ssize_t)strlen(names + i) + 1)
        if (dmt_ws_getxattr(m->src, src, names + i, NULL, 0) == -ENODATA)
            dmt_ws_removexattr(m->dst, &op, dst, names + i);
    n = dmt_ws_listxattr(m->src, src, names, sizeof names, true);
    for (ssize_t i = 0; i < n; i += (ssize_t)strlen(names + i) + 1) {
        ssize_t k = dmt_ws_getxattr(m->src, src, names + i, value, sizeof value);
        ssize_t o = dmt_ws_getxattr(m->dst, dst, names + i, old, sizeof old);
        if (k < 0)
            return (int)k;
        if (k == o && memcmp(value, old, (size_t)k) == 0)
            continue;
        int rc = dmt_ws_setxattr(m->dst, &op, dst, names + i, value, (size_t)k, 0);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int copy_attrs(struct mirror *m, const struct dmt_attr *src, uint64_t dst)
{
    struct dmt_op op = {0};
    struct dmt_attr at;
    struct dmt_setattr sa = {.mask = DMT_SET_MODE | DMT_SET_UID | DMT_SET_GID | DMT_SET_ATIME |
                                     DMT_SET_MTIME,
                             .mode = src->st.st_mode & 07777,
                             .uid = src->st.st_uid,
                             .gid = src->st.st_gid,
                             .atime = dmt_file_time_ns(src->st.st_atim),
                             .mtime = dmt_file_time_ns(src->st.st_mtim)};
    int rc = copy_xattrs(m, src->node, dst);
    return rc == 0 ? dmt_ws_setattr(m->dst, &op, dst, &sa, &at) : rc;
}

static bool same_attrs(const struct stat *a, const struct stat *b)
{
    return a->st_mode == b->st_mode && a->st_uid == b->st_uid && a->st_gid == b->st_gid &&
           dmt_file_time_ns(a->st_mtim) == dmt_file_time_ns(b->st_mtim) &&
           (S_ISDIR(a->st_mode) || a->st_size == b->st_size) && a->st_rdev == b->st_rdev;
}

/* --- making and comparing --------------------------------------------------------------------- */
/* The link of this file there, made if it is new. NULL: out of memory. */
static struct mirror_link *link_of(struct mirror *m, uint64_t src)
{
    for (size_t i = 0; i < m->links_n; i++)
        if (m->links[i].src == src)
            return &m->links[i];
    if (m->links_n == m->links_cap) {
        size_t cap = m->links_cap ? 2 * m->links_cap : 64;
        void *v = realloc(m->links, cap * sizeof *m->links);
        if (!v)
            return NULL;
        m->links = v;
        m->links_cap = cap;
    }
    m->links[m->links_n] = (struct mirror_link){.src = src};
    return &m->links[m->links_n++];
}

/* May the name keep the inode that it has here? Not if its fellows have another one, and not if
 * this one belongs to another file there. */
static int may_keep(struct mirror *m, const struct dmt_attr *s, const struct dmt_attr *d, bool *ret)
{
    *ret = true;
    if (S_ISDIR(s->st.st_mode) || (s->st.st_nlink < 2 && d->st.st_nlink < 2))
        return 0;
    for (size_t i = 0; i < m->links_n; i++)
        if (m->links[i].dst == d->node && m->links[i].src != s->node)
            *ret = false;
    struct mirror_link *l = link_of(m, s->node);
    if (!l)
        return -ENOMEM;
    if (l->dst && l->dst != d->node)
        *ret = false;
    if (*ret)
        l->dst = d->node;
    return 0;
}

static int mirror_dir(struct mirror *m, uint64_t src, uint64_t dst, const char *path);

/* What a dry run says of a directory that would be made. */
static int tell_tree(struct mirror *m, uint64_t src, const char *path)
{
    struct names l = {0};
    struct dmt_attr at;
    int rc = dmt_ws_readdir(m->src, src, 0, false, names_add, &l);
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        char *child = below(path, l.v[i], &rc);
        if (child && (rc = dmt_ws_lookup(m->src, src, l.v[i], &at)) == 0) {
            tell(m, 'A', child);
            rc = S_ISDIR(at.st.st_mode) ? tell_tree(m, at.node, child) : 0;
        }
        free(child);
    }
    free(l.v);
    return rc == 0 ? l.err : rc;
}

static int make(struct mirror *m, const struct dmt_attr *s, uint64_t parent, const char *name,
                const char *path)
{
    struct dmt_op op = {.uid = s->st.st_uid, .gid = s->st.st_gid};
    struct dmt_attr at;
    char target[4096] = "";
    bool several = s->st.st_nlink > 1 && !S_ISDIR(s->st.st_mode), differs;
    tell(m, 'A', path);
    if (m->dry)
        return S_ISDIR(s->st.st_mode) ? tell_tree(m, s->node, path) : 0;
    struct mirror_link *l = several ? link_of(m, s->node) : NULL;
    if (several && !l)
        return -ENOMEM;
    touched(m, parent);
    if (l && l->dst)
        return dmt_ws_link(m->dst, &op, l->dst, parent, name, &at);
    int rc = S_ISLNK(s->st.st_mode) ? dmt_ws_readlink(m->src, s->node, target) : 0;
    if (rc == 0)
        rc = dmt_ws_make(m->dst, &op, parent, name, s->st.st_mode, (uint32_t)s->st.st_rdev,
                         target[0] ? target : NULL, &at);
    if (rc != 0)
        return rc;
    if (l)
        l->dst = at.node;
    if (S_ISREG(s->st.st_mode))
        rc = copy_content(m, s->node, at.node, (uint64_t)s->st.st_size, 0, &differs);
    else if (S_ISDIR(s->st.st_mode))
        rc = mirror_dir(m, s->node, at.node, path);
    return rc == 0 ? copy_attrs(m, s, at.node) : rc;
}

static int compare(struct mirror *m, const struct dmt_attr *s, const struct dmt_attr *d,
                   const char *path)
{
    struct dmt_inode a, b;
    bool differs = false;
    bool same = s->node == d->node && version(m->src, s->node, &a) == 0 &&
                version(m->dst, d->node, &b) == 0 && a.epoch == b.epoch && a.seq == b.seq;
    int rc = 0;
    if (S_ISDIR(s->st.st_mode)) /* an unchanged directory, too, can hold changed files */
        rc = mirror_dir(m, s->node, d->node, path);
    if (rc != 0 || same)
        return rc;
    if (S_ISREG(s->st.st_mode))
        rc = copy_content(m, s->node, d->node, (uint64_t)s->st.st_size, (uint64_t)d->st.st_size,
                          &differs);
    if (differs || !same_attrs(&s->st, &d->st))
        tell(m, differs ? 'M' : 'm', path);
    touched(m, d->node);
    return rc == 0 && !m->dry ? copy_attrs(m, s, d->node) : rc;
}

static int mirror_entry(struct mirror *m, uint64_t src, uint64_t dst, const char *name,
                        const char *path)
{
    struct dmt_attr s, d;
    int has_s = dmt_ws_lookup(m->src, src, name, &s), has_d = dmt_ws_lookup(m->dst, dst, name, &d);
    bool keep = has_s == 0 && has_d == 0;
    int rc = 0;
    if ((has_s != 0 && has_s != -ENOENT) || (has_d != 0 && has_d != -ENOENT))
        return has_s != 0 && has_s != -ENOENT ? has_s : has_d;
    if (keep)
        keep = (s.st.st_mode & S_IFMT) == (d.st.st_mode & S_IFMT) && s.st.st_rdev == d.st.st_rdev &&
               (!S_ISLNK(s.st.st_mode) || s.node == d.node);
    if (keep)
        rc = may_keep(m, &s, &d, &keep);
    if (rc == 0 && has_d == 0 && !keep)
        rc = remove_tree(m, dst, name, path);
    if (rc != 0 || has_s != 0)
        return rc;
    return keep ? compare(m, &s, &d, path) : make(m, &s, dst, name, path);
}

static int mirror_dir(struct mirror *m, uint64_t src, uint64_t dst, const char *path)
{
    struct names l = {0};
    int rc = dmt_ws_readdir(m->dst, dst, 0, false, names_add, &l);
    size_t here = l.n;
    if (rc == 0)
        rc = dmt_ws_readdir(m->src, src, 0, false, names_add, &l);
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        struct dmt_attr at;
        if (i >= here && dmt_ws_lookup(m->dst, dst, l.v[i], &at) == 0)
            continue; /* was there, has been compared */
        char *child = below(path, l.v[i], &rc);
        if (child)
            rc = mirror_entry(m, src, dst, l.v[i], child);
        free(child);
    }
    free(l.v);
    return rc == 0 ? l.err : rc;
}

static int root(struct mirror *m)
{
    struct dmt_attr s, d;
    int rc = dmt_ws_getattr(m->src, DMT_ROOT, &s);
    if (rc == 0)
        rc = dmt_ws_getattr(m->dst, DMT_ROOT, &d);
    return rc == 0 ? compare(m, &s, &d, "/") : rc;
}

/* "a/b/" and "/a/b" are the same place. */
int mirror_path(struct mirror *m, const char *path)
{
    char *parent = malloc(DMT_PATH_MAX + 1), *slash;
    uint64_t ps, pd;
    size_t n;
    if (!parent)
        return -ENOMEM;
    n = (size_t)snprintf(parent, DMT_PATH_MAX, "%s%s", *path == '/' ? "" : "/", path);
    int rc = n >= DMT_PATH_MAX ? -ENAMETOOLONG : 0;
    while (rc == 0 && n > 1 && parent[n - 1] == '/')
        parent[--n] = '\0';
    if (rc == 0 && n <= 1) {
        rc = root(m);
    } else if (rc == 0) {
        char *whole = strdup(parent);
        struct dmt_attr at;
        slash = strrchr(parent, '/');
        *slash = '\0';
        rc = whole ? dmt_ws_resolve(m->src, DMT_LIVE, *parent ? parent : "/", &ps) : -ENOMEM;
        if (rc == 0)
            rc = dmt_ws_resolve(m->dst, DMT_LIVE, *parent ? parent : "/", &pd);
        if (rc == 0 && dmt_ws_lookup(m->src, ps, slash + 1, &at) == -ENOENT)
            rc = dmt_ws_lookup(m->dst, pd, slash + 1, &at); /* in neither: a slip of the pen */
        if (rc == 0)
            rc = mirror_entry(m, ps, pd, slash + 1, whole);
        free(whole);
    }
    free(parent);
    return rc;
}

void mirror_free(struct mirror *m)
{
    free(m->inos);
    free(m->links);
}
