/* delta.c: what differs between two views of a workspace: inodes that changed, and directory
 * entries that are not the same.
 *
 * Owns struct ws_delta. Happy path: the store names every inode that changed between the two
 * positions (from lifetimes, not by comparing trees), their rows are read in both views, and the
 * directories among them are merged entry by entry. Cost follows what changed, not the size of the
 * workspace. An inode without a name (an open orphan) counts as absent. Used by diff.c (what people
 * see) and rollback.c (forward records). Failure: read errors end it with nothing half made.
 * Thread: any, never under the workspace lock; for the live view the caller stops writers or
 * accepts a blurred picture.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/ws.h"

#define COMPARE_MAX (64ull << 20) /* larger files of equal size are told apart by their mtime */
#define CHUNK       (256u << 10)

struct ws_dnode *ws_delta_node(const struct ws_delta *d, uint64_t ino)
{
    uint64_t at = ws_map_get(&d->index, ino);
    return at ? &d->nodes[at - 1] : NULL;
}

static int add_ino(void *ctx, uint64_t ino)
{
    struct ws_delta *d = ctx;
    if (ws_map_has(&d->index, ino))
        return 0;
    if (d->n_nodes == d->cap_nodes) {
        size_t cap = d->cap_nodes ? d->cap_nodes * 2 : 256;
        struct ws_dnode *v = realloc(d->nodes, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        d->nodes = v;
        d->cap_nodes = cap;
    }
    d->nodes[d->n_nodes++] = (struct ws_dnode){.ino = ino};
    return ws_map_put(&d->index, ino, d->n_nodes);
}

int ws_delta_name(struct ws_delta *d, uint64_t dir, const char *name, uint64_t ino_a,
                  uint64_t ino_b)
{
    if (d->n_names == d->cap_names) {
        size_t cap = d->cap_names ? d->cap_names * 2 : 256;
        struct ws_dname *v = realloc(d->names, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        d->names = v;
        d->cap_names = cap;
    }
    struct ws_dname it = {.dir = dir, .ino_a = ino_a, .ino_b = ino_b, .name = strdup(name)};
    if (!it.name)
        return -ENOMEM;
    d->names[d->n_names++] = it;
    return 0;
}

static int load_row(struct dmt_ws *ws, uint64_t view, uint64_t ino, struct dmt_inode *n,
                    bool *there)
{
    ws_lock(ws);
    int r = dmt_store_inode_get(ws->st, view, ino, n);
    ws_unlock(ws);
    *there = r == 0 && !(n->flags & DMT_INO_ORPHAN);
    return r == -ENOENT ? 0 : r;
}

static int merge_dir(struct dmt_ws *ws, struct ws_delta *d, const struct ws_dnode *dir)
{
    struct ws_entries ea = {0}, eb = {0};
    uint64_t ino = dir->ino;
    int r = dir->in_a && S_ISDIR(dir->a.mode) ? ws_list(ws, d->va, ino, &ea) : 0;
    if (r == 0 && dir->in_b && S_ISDIR(dir->b.mode))
        r = ws_list(ws, d->vb, ino, &eb);
    size_t i = 0, j = 0;
    while (r == 0 && (i < ea.n || j < eb.n)) {
        int c = i == ea.n ? 1 : j == eb.n ? -1 : strcmp(ea.v[i].name, eb.v[j].name);
        uint64_t a = c <= 0 ? ea.v[i].ino : 0, b = c >= 0 ? eb.v[j].ino : 0;
        if (a != b)
            r = ws_delta_name(d, ino, c <= 0 ? ea.v[i].name : eb.v[j].name, a, b);
        i += c <= 0;
        j += c >= 0;
    }
    ws_entries_free(&ea);
    ws_entries_free(&eb);
    return r;
}

int ws_delta_make(struct dmt_ws *ws, uint64_t a, uint64_t b, struct ws_delta *ret)
{
    *ret = (struct ws_delta){.va = a, .vb = b};
    int r = a == b ? 0 : dmt_store_changed(ws->st, a < b ? a : b, a < b ? b : a, add_ino, ret);
    for (size_t i = 0; r >= 0 && i < ret->n_nodes; i++) {
        struct ws_dnode *n = &ret->nodes[i];
        r = load_row(ws, a, n->ino, &n->a, &n->in_a);
        if (r == 0)
            r = load_row(ws, b, n->ino, &n->b, &n->in_b);
    }
    for (size_t i = 0; r >= 0 && i < ret->n_nodes; i++)
        r = merge_dir(ws, ret, &ret->nodes[i]);
    if (r < 0)
        ws_delta_free(ret);
    return r < 0 ? r : 0;
}

void ws_delta_free(struct ws_delta *d)
{
    for (size_t i = 0; i < d->n_names; i++)
        free(d->names[i].name);
    free(d->names);
    free(d->nodes);
    ws_map_clear(&d->index);
    *d = (struct ws_delta){0};
}

/* --- comparing -------------------------------------------------------------------------------- */

int ws_content_differs(struct dmt_ws *ws, uint64_t a, const struct dmt_inode *na, uint64_t b,
                       const struct dmt_inode *nb)
{
    if (na->size != nb->size)
        return 1;
    if (na->size > COMPARE_MAX)
        return na->mtime != nb->mtime;
    uint8_t *p = malloc(2 * (size_t)CHUNK);
    int r = p ? 0 : -ENOMEM;
    for (uint64_t off = 0; r == 0 && off < na->size; off += CHUNK) {
        ssize_t x = ws_view_read(ws, a, na->ino, p, CHUNK, off, false);
        ssize_t y = x < 0 ? x : ws_view_read(ws, b, nb->ino, p + CHUNK, CHUNK, off, false);
        if (y == DMT_E_GONE)
            r = 1; /* lost here: nobody can say that it is the same */
        else
            r = y < 0 ? (int)y : x != y || memcmp(p, p + CHUNK, (size_t)x) != 0;
    }
    free(p);
    return r;
}

int ws_xattrs_differ(struct dmt_ws *ws, uint64_t a, uint64_t ino_a, uint64_t b, uint64_t ino_b)
{
    struct ws_xattrs xa = {0}, xb = {0};
    int r = ws_xattrs(ws, a, ino_a, &xa);
    if (r == 0)
        r = ws_xattrs(ws, b, ino_b, &xb);
    if (r == 0)
        r = xa.n != xb.n;
    for (size_t i = 0; r == 0 && i < xa.n; i++)
        r = strcmp(xa.v[i].name, xb.v[i].name) != 0 || xa.v[i].len != xb.v[i].len ||
            memcmp(xa.v[i].val, xb.v[i].val, xa.v[i].len) != 0;
    ws_xattrs_free(&xa);
    ws_xattrs_free(&xb);
    return r;
}
