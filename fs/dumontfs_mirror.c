/* dumontfs_mirror.c: makes one workspace's tree equal to another's by ordinary operations (so each
 * change is a journaled, replicated record).
 *
 * Happy path: walk both directories together; what is here only goes, what is there only is made,
 * the rest is compared. An inode with the same number and the same version (epoch, seq) is equal:
 * both come from one history. Content that differs is copied block by block. Failure: the first
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
    if (m->fn)
        m->fn(m->ctx, kind, path, NULL);
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
        char child[DMT_PATH_MAX];
        rc = dmt_ws_readdir(m->dst, at.node, 0, false, names_add, &l);
        for (size_t i = 0; rc == 0 && i < l.n; i++) {
            snprintf(child, sizeof child, "%s/%s", strcmp(path, "/") == 0 ? "" : path, l.v[i]);
            rc = remove_tree(m, at.node, l.v[i], child);
        }
        free(l.v);
    }
    tell(m, 'D', path);
    touched(m, at.node);
    return rc == 0 && !m->dry ? dmt_ws_unlink(m->dst, &op, parent, name, dir) : rc;
}

/* --- content, attributes ---------------------------------------------------------------------- */
static int copy_content(struct mirror *m, uint64_t src, uint64_t dst, uint64_t size)
{
    uint8_t *a = malloc(CHUNK), *b = malloc(CHUNK);
    struct dmt_setattr cut = {.mask = DMT_SET_SIZE, .size = size};
    struct dmt_attr at;
    struct dmt_op op = {0};
    int rc = a && b ? dmt_ws_setattr(m->dst, &op, dst, &cut, &at) : -ENOMEM;
    for (uint64_t off = 0; rc == 0 && off < size; off += CHUNK) {
        size_t want = size - off < CHUNK ? (size_t)(size - off) : CHUNK;
        ssize_t n = dmt_ws_read(m->src, src, a, want, off, false),
                k = dmt_ws_read(m->dst, dst, b, want, off, false);
        if (n < 0 || k < 0)
            rc = (int)(n < 0 ? n : k);
        else if (n != k || memcmp(a, b, (size_t)n) != 0)
            rc = dmt_ws_write(m->dst, &op, dst, a, (size_t)n, off, false);
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
static uint64_t *link_of(struct mirror *m, uint64_t src)
{
    for (size_t i = 0; i < m->links_n; i++)
        if (m->links[i].src == src)
            return &m->links[i].dst;
    if (m->links_n == m->links_cap) {
        size_t cap = m->links_cap ? 2 * m->links_cap : 64;
        void *v = realloc(m->links, cap * sizeof *m->links);
        if (!v)
            return NULL;
        m->links = v;
        m->links_cap = cap;
    }
    m->links[m->links_n].src = src;
    m->links[m->links_n].dst = 0;
    return &m->links[m->links_n++].dst;
}

static int mirror_dir(struct mirror *m, uint64_t src, uint64_t dst, const char *path);

static int make(struct mirror *m, const struct dmt_attr *s, uint64_t parent, const char *name,
                const char *path)
{
    struct dmt_op op = {.uid = s->st.st_uid, .gid = s->st.st_gid};
    struct dmt_attr at;
    char target[4096] = "";
    uint64_t *first = s->st.st_nlink > 1 && !S_ISDIR(s->st.st_mode) ? link_of(m, s->node) : NULL;
    tell(m, 'A', path);
    if (m->dry)
        return 0;
    if (first && *first)
        return dmt_ws_link(m->dst, &op, *first, parent, name, &at);
    int rc = S_ISLNK(s->st.st_mode) ? dmt_ws_readlink(m->src, s->node, target) : 0;
    if (rc == 0)
        rc = dmt_ws_make(m->dst, &op, parent, name, s->st.st_mode, (uint32_t)s->st.st_rdev,
                         target[0] ? target : NULL, &at);
    if (rc != 0)
        return rc;
    if (first)
        *first = at.node;
    touched(m, parent);
    if (S_ISREG(s->st.st_mode))
        rc = copy_content(m, s->node, at.node, (uint64_t)s->st.st_size);
    else if (S_ISDIR(s->st.st_mode))
        rc = mirror_dir(m, s->node, at.node, path);
    return rc == 0 ? copy_attrs(m, s, at.node) : rc;
}

static int compare(struct mirror *m, const struct dmt_attr *s, const struct dmt_attr *d,
                   const char *path)
{
    struct dmt_inode a, b;
    uint64_t *first = s->st.st_nlink > 1 && !S_ISDIR(s->st.st_mode) ? link_of(m, s->node) : NULL;
    if (first)
        *first = d->node;
    bool same = s->node == d->node && version(m->src, s->node, &a) == 0 &&
                version(m->dst, d->node, &b) == 0 && a.epoch == b.epoch && a.seq == b.seq;
    int rc = 0;
    if (S_ISDIR(s->st.st_mode) && !same)
        rc = mirror_dir(m, s->node, d->node, path);
    else if (S_ISDIR(s->st.st_mode)) /* an unchanged directory can hold changed files */
        return mirror_dir(m, s->node, d->node, path);
    if (rc != 0 || same)
        return rc;
    if (S_ISREG(s->st.st_mode)) {
        tell(m, 'M', path);
        rc = m->dry ? 0 : copy_content(m, s->node, d->node, (uint64_t)s->st.st_size);
    } else if (!same_attrs(&s->st, &d->st)) {
        tell(m, 'm', path);
    }
    touched(m, d->node);
    return rc == 0 && !m->dry ? copy_attrs(m, s, d->node) : rc;
}

static int mirror_entry(struct mirror *m, uint64_t src, uint64_t dst, const char *name,
                        const char *path)
{
    struct dmt_attr s, d;
    int has_s = dmt_ws_lookup(m->src, src, name, &s), has_d = dmt_ws_lookup(m->dst, dst, name, &d);
    int rc = 0;
    if (has_s != 0 && has_s != -ENOENT)
        return has_s;
    if (has_d == 0 && (has_s != 0 || (s.st.st_mode & S_IFMT) != (d.st.st_mode & S_IFMT) ||
                       (S_ISLNK(s.st.st_mode) && s.node != d.node))) {
        rc = remove_tree(m, dst, name, path);
        has_d = -ENOENT;
    }
    if (rc != 0 || has_s != 0)
        return rc;
    return has_d == 0 ? compare(m, &s, &d, path) : make(m, &s, dst, name, path);
}

static int mirror_dir(struct mirror *m, uint64_t src, uint64_t dst, const char *path)
{
    struct names l = {0};
    char child[DMT_PATH_MAX];
    int rc = dmt_ws_readdir(m->dst, dst, 0, false, names_add, &l);
    size_t here = l.n;
    if (rc == 0)
        rc = dmt_ws_readdir(m->src, src, 0, false, names_add, &l);
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        struct dmt_attr at;
        if (i >= here && dmt_ws_lookup(m->dst, dst, l.v[i], &at) == 0)
            continue; /* was there, has been compared */
        snprintf(child, sizeof child, "%s/%s", strcmp(path, "/") == 0 ? "" : path, l.v[i]);
        rc = mirror_entry(m, src, dst, l.v[i], child);
    }
    free(l.v);
    return rc == 0 ? l.err : rc;
}

int mirror_path(struct mirror *m, const char *path)
{
    struct dmt_attr s, d;
    char parent[DMT_PATH_MAX];
    uint64_t ps, pd;
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (!slash || !slash[1]) {
        int rc = dmt_ws_getattr(m->src, DMT_ROOT, &s);
        if (rc == 0)
            rc = dmt_ws_getattr(m->dst, DMT_ROOT, &d);
        return rc == 0 ? compare(m, &s, &d, "/") : rc;
    }
    *slash = '\0';
    int rc = dmt_ws_resolve(m->src, DMT_LIVE, parent[0] ? parent : "/", &ps);
    if (rc == 0)
        rc = dmt_ws_resolve(m->dst, DMT_LIVE, parent[0] ? parent : "/", &pd);
    return rc == 0 ? mirror_entry(m, ps, pd, slash + 1, path) : rc;
}

void mirror_free(struct mirror *m)
{
    free(m->inos);
    free(m->links);
}
