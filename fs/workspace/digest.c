/* digest.c: one number for a whole tree, to prove that two of them are equal.
 *
 * SHA-256 over all entries, depth first, names in byte order: path, type, mode, owner, mtime in
 * nanoseconds, then content hash and size, symlink target or device number, then xattrs; a further
 * name of an inode already seen says only which name that was (docs/formats-records.md, "Tree
 * digest"). Holes are zeros. Not in it: inode numbers, ctime, atime, link counts, sizes of
 * directories. tests/lib/bin/treedigest computes the same through POSIX calls on a mount or any
 * directory.
 * Failure: any read error ends it. The live view is read entry by entry, so writers make it
 * meaningless; callers stop them or ask for a snapshot. Thread: any, never under the workspace
 * lock.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/workspace/ws.h"

#define CHUNK (1u << 20)

struct digest {
    struct dmt_ws *ws;
    uint64_t view;
    EVP_MD_CTX *all, *one;
    uint8_t *chunk;
    struct dmt_buf entry;
    struct ws_map seen; /* ino -> place in first + 1 */
    char **first;       /* first path of an inode with several names */
    size_t n_first, cap_first;
};

static uint8_t type_letter(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return 'd';
    case S_IFREG:
        return 'f';
    case S_IFLNK:
        return 'l';
    case S_IFCHR:
        return 'c';
    case S_IFBLK:
        return 'b';
    case S_IFIFO:
        return 'p';
    default:
        return 's';
    }
}

static int add_content(struct digest *g, const struct dmt_inode *n)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    bool ok = EVP_DigestInit_ex(g->one, EVP_sha256(), NULL) == 1;
    for (uint64_t off = 0; ok && off < n->size;) {
        ssize_t r = ws_view_read(g->ws, g->view, n->ino, g->chunk, CHUNK, off, false);
        if (r <= 0)
            return r < 0 ? (int)r : -EIO;
        ok = EVP_DigestUpdate(g->one, g->chunk, (size_t)r) == 1;
        off += (uint64_t)r;
    }
    ok = ok && EVP_DigestFinal_ex(g->one, sum, &len) == 1;
    dmt_put_u64(&g->entry, n->size);
    dmt_put_raw(&g->entry, sum, 32);
    return ok && len == 32 ? 0 : -EIO;
}

static int add_target(struct digest *g, const struct dmt_inode *n)
{
    char target[4096];
    ws_lock(g->ws);
    int r = ws_view_link_locked(g->ws, g->view, n, target);
    ws_unlock(g->ws);
    if (r == 0)
        dmt_put_bytes(&g->entry, target, n->size);
    return r;
}

static bool counts(const char *name)
{
    return strncmp(name, "user.", 5) == 0 || strncmp(name, "trusted.", 8) == 0 ||
           strcmp(name, WS_CAPS) == 0 || strcmp(name, WS_ACL_ACCESS) == 0 ||
           strcmp(name, WS_ACL_DEFAULT) == 0;
}

static int add_xattrs(struct digest *g, const struct dmt_inode *n)
{
    struct ws_xattrs x = {0};
    uint32_t count = 0;
    int r = n->flags & DMT_INO_XATTR ? ws_xattrs(g->ws, g->view, n->ino, &x) : 0;
    for (size_t i = 0; i < x.n; i++)
        count += counts(x.v[i].name);
    dmt_put_u32(&g->entry, count);
    for (size_t i = 0; i < x.n; i++) {
        if (!counts(x.v[i].name))
            continue;
        dmt_put_str(&g->entry, x.v[i].name);
        dmt_put_bytes(&g->entry, x.v[i].val, x.v[i].len);
    }
    ws_xattrs_free(&x);
    return r;
}

/* The first name of an inode with several: NULL the first time. */
static int first_name(struct digest *g, const struct dmt_inode *n, const char *path,
                      const char **ret)
{
    *ret = NULL;
    if (S_ISDIR(n->mode) || n->nlink < 2)
        return 0;
    uint64_t at = ws_map_get(&g->seen, n->ino);
    if (at) {
        *ret = g->first[at - 1];
        return 0;
    }
    if (g->n_first == g->cap_first) {
        size_t cap = g->cap_first ? g->cap_first * 2 : 64;
        char **v = realloc(g->first, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        g->first = v;
        g->cap_first = cap;
    }
    g->first[g->n_first] = strdup(path);
    if (!g->first[g->n_first])
        return -ENOMEM;
    g->n_first++;
    return ws_map_put(&g->seen, n->ino, g->n_first);
}

static int add_entry(struct digest *g, const struct dmt_inode *n, const char *path)
{
    const char *first;
    int r = first_name(g, n, path, &first);
    if (r < 0)
        return r;
    dmt_buf_reset(&g->entry);
    dmt_put_str(&g->entry, path);
    dmt_put_u8(&g->entry, type_letter(n->mode));
    dmt_put_u32(&g->entry, S_ISLNK(n->mode) ? 0777 : n->mode & 07777);
    dmt_put_u32(&g->entry, n->uid);
    dmt_put_u32(&g->entry, n->gid);
    dmt_put_u64(&g->entry, n->mtime);
    dmt_put_u8(&g->entry, first ? 'H' : '-');
    if (first) {
        dmt_put_str(&g->entry, first);
    } else {
        if (S_ISREG(n->mode))
            r = add_content(g, n);
        else if (S_ISLNK(n->mode))
            r = add_target(g, n);
        else if (S_ISCHR(n->mode) || S_ISBLK(n->mode))
            dmt_put_u64(&g->entry, n->rdev);
        if (r == 0)
            r = add_xattrs(g, n);
    }
    if (r == 0 && (g->entry.bad || EVP_DigestUpdate(g->all, g->entry.p, g->entry.len) != 1))
        r = -ENOMEM;
    return r;
}

static int add_tree(struct digest *g, uint64_t ino, const char *path)
{
    struct dmt_inode n;
    struct ws_entries list = {0};
    ws_lock(g->ws);
    int r = dmt_store_inode_get(g->ws->st, g->view, ino, &n);
    ws_unlock(g->ws);
    if (r == 0)
        r = add_entry(g, &n, path);
    if (r == 0 && S_ISDIR(n.mode))
        r = ws_list(g->ws, g->view, ino, &list);
    for (size_t i = 0; r == 0 && i < list.n; i++) {
        char *child = NULL;
        if (asprintf(&child, "%s%s%s", path, *path ? "/" : "", list.v[i].name) < 0)
            r = -ENOMEM;
        if (r == 0)
            r = add_tree(g, list.v[i].ino, child);
        free(child);
    }
    ws_entries_free(&list);
    return r;
}

int dmt_ws_digest(struct dmt_ws *ws, uint64_t view, char ret[65], struct dmt_err *err)
{
    struct digest g = {.ws = ws, .view = view};
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    int r = -ENOMEM;
    dmt_buf_init(&g.entry);
    g.all = EVP_MD_CTX_new();
    g.one = EVP_MD_CTX_new();
    g.chunk = malloc(CHUNK);
    if (g.all && g.one && g.chunk && EVP_DigestInit_ex(g.all, EVP_sha256(), NULL) == 1)
        r = add_tree(&g, DMT_ROOT, "");
    if (r == 0 && (EVP_DigestFinal_ex(g.all, sum, &len) != 1 || len != 32))
        r = -EIO;
    if (r == 0)
        dmt_hex(sum, 32, ret);
    else
        dmt_err_set(err, r, "the tree cannot be read: %s", dmt_strerror(r));
    for (size_t i = 0; i < g.n_first; i++)
        free(g.first[i]);
    free(g.first);
    ws_map_clear(&g.seen);
    dmt_buf_free(&g.entry);
    free(g.chunk);
    EVP_MD_CTX_free(g.all);
    EVP_MD_CTX_free(g.one);
    return r;
}
