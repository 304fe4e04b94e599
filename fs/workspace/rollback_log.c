/* rollback_log.c: a rollback plan as forward records.
 *
 * Happy path, all between BEGIN and END: a staging directory is made in the root; every entry that
 * is not as it was is moved there, so all names are free and no move can meet another; inodes that
 * are gone are made anew there; then each entry of the snapshot takes its name, from the staging
 * directory or as a link; what is left there is removed; xattrs, content (by reference to the
 * snapshot: no bytes) and attributes follow, times last. Moves cannot make a cycle: what stays in
 * place is part of both trees, and only edges of the snapshot's tree are added. At END it is
 * applied as one (apply.c).
 * Failure before END: END with count 0 takes the group back; nothing was applied. If not even that
 * can be written the workspace is failed, and the next EPOCH record drops the group. Thread: the
 * caller's, workspace lock held throughout.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/rollback.h"

#define KEY_SIZE 24

static int put(struct ws_plan *p, const struct dmt_body *b)
{
    return ws_group_put(p->ws, &p->group, b);
}

static uint64_t now_of(const struct ws_plan *p, uint64_t then)
{
    uint64_t ino = ws_map_get(&p->fresh, then);
    return ino ? ino : then;
}

static int stage(struct ws_plan *p, uint64_t ino, bool made)
{
    if (p->n_staged == p->cap_staged) {
        size_t cap = p->cap_staged ? p->cap_staged * 2 : 256;
        struct ws_staged *v = realloc(p->staged, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        p->staged = v;
        p->cap_staged = cap;
    }
    p->staged[p->n_staged++] =
        (struct ws_staged){.ino = ino, .next = ws_map_get(&p->stage_head, ino), .made = made};
    return ws_map_put(&p->stage_head, ino, p->n_staged);
}

static char *key_of(size_t i, char key[KEY_SIZE])
{
    (void)snprintf(key, KEY_SIZE, "%zu", i);
    return key;
}

static int put_rename(struct ws_plan *p, uint64_t from, const char *name, uint64_t to,
                      const char *newname, uint64_t ino)
{
    struct dmt_body b = {
        .type = DMT_REC_RENAME,
        .RENAME = {.parent = from,
                   .name = ws_span(name),
                   .newparent = to,
                   .newname = ws_span(newname),
                   .ino = ino},
    };
    return put(p, &b);
}

/* 1: everything that is not as it was goes aside. */
static int put_losses(struct ws_plan *p)
{
    char key[KEY_SIZE];
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->d.n_names; i++) {
        const struct ws_dname *nm = &p->d.names[i];
        if (!p->lose[i])
            continue;
        r = put_rename(p, nm->dir, nm->name, p->staging, key_of(p->n_staged, key), nm->ino_a);
        if (r == 0)
            r = stage(p, nm->ino_a, false);
    }
    return r;
}

/* 2: what is gone is made anew. */
static int put_makes(struct ws_plan *p)
{
    char key[KEY_SIZE];
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->n_restores; i++) {
        const struct ws_restore *t = &p->restores[i];
        if (!t->fresh)
            continue;
        struct dmt_body b = {
            .type = DMT_REC_MAKE,
            .MAKE = {.parent = p->staging,
                     .name = ws_span(key_of(p->n_staged, key)),
                     .ino = t->now,
                     .mode = t->row.mode,
                     .uid = t->row.uid,
                     .gid = t->row.gid,
                     .rdev = t->row.rdev,
                     .target = ws_span(t->target)},
        };
        r = put(p, &b);
        if (r == 0)
            r = stage(p, t->now, true);
    }
    return r;
}

/* 3: the snapshot's names. */
static int put_gain(struct ws_plan *p, const struct ws_dname *nm)
{
    char key[KEY_SIZE];
    uint64_t ino = now_of(p, nm->ino_b), dir = now_of(p, nm->dir);
    size_t at = ws_map_get(&p->stage_head, ino);
    while (at && p->staged[at - 1].used)
        at = p->staged[at - 1].next;
    if (at) {
        p->staged[at - 1].used = true;
        return put_rename(p, p->staging, key_of(at - 1, key), dir, nm->name, ino);
    }
    struct dmt_body b = {.type = DMT_REC_LINK,
                         .LINK = {.ino = ino, .parent = dir, .name = ws_span(nm->name)}};
    return put(p, &b);
}

static int put_gains(struct ws_plan *p)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->d.n_names; i++)
        if (p->gain[i])
            r = put_gain(p, &p->d.names[i]);
    return r;
}

static int put_unlink(struct ws_plan *p, uint64_t dir, const char *name, uint64_t ino)
{
    struct dmt_body b = {
        .type = DMT_REC_UNLINK,
        .UNLINK = {.parent = dir,
                   .name = ws_span(name),
                   .ino = ino,
                   .orphan = ws_map_has(&p->ws->refs, ino)},
    };
    return put(p, &b);
}

/* 4: what nobody wanted goes. Directories among it are empty: their entries went aside too. */
static int put_leftovers(struct ws_plan *p)
{
    char key[KEY_SIZE];
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->n_staged; i++)
        if (!p->staged[i].used)
            r = put_unlink(p, p->staging, key_of(i, key), p->staged[i].ino);
    return r;
}

static const struct ws_xattr *find_xattr(const struct ws_xattrs *x, const char *name)
{
    for (size_t i = 0; i < x->n; i++)
        if (strcmp(x->v[i].name, name) == 0)
            return &x->v[i];
    return NULL;
}

static int put_xattrs(struct ws_plan *p, const struct ws_restore *t)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < t->have.n; i++) {
        struct dmt_body b = {
            .type = DMT_REC_DELXATTR,
            .DELXATTR = {.ino = t->now, .name = ws_span(t->have.v[i].name), .mode = DMT_MODE_KEEP},
        };
        if (!find_xattr(&t->want, t->have.v[i].name))
            r = put(p, &b);
    }
    for (size_t i = 0; r == 0 && i < t->want.n; i++) {
        const struct ws_xattr *w = &t->want.v[i], *h = find_xattr(&t->have, w->name);
        struct dmt_body b = {
            .type = DMT_REC_SETXATTR,
            .SETXATTR = {.ino = t->now,
                         .name = ws_span(w->name),
                         .value = {w->val, (uint32_t)w->len},
                         .mode = DMT_MODE_KEEP},
        };
        if (!h || h->len != w->len || memcmp(h->val, w->val, w->len) != 0)
            r = put(p, &b);
    }
    return r;
}

/* 5: xattrs and content. */
static int put_contents(struct ws_plan *p)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->n_restores; i++) {
        const struct ws_restore *t = &p->restores[i];
        uint64_t brought = ws_map_get(&p->brought, t->then);
        struct dmt_body b = {
            .type = DMT_REC_CONTENT,
            .CONTENT = {.ino = t->now,
                        .src = brought ? brought : t->then,
                        .view = brought ? DMT_LIVE : p->view,
                        .size = t->row.size,
                        .mtime = t->row.mtime},
        };
        r = put_xattrs(p, t);
        if (r == 0 && t->content)
            r = put(p, &b);
    }
    return r;
}

static int put_attr(struct ws_plan *p, uint64_t ino, const struct dmt_inode *row)
{
    struct dmt_body b = {
        .type = DMT_REC_SETATTR,
        .SETATTR = {.ino = ino,
                    .mask =
                        DMT_SET_MODE | DMT_SET_UID | DMT_SET_GID | DMT_SET_ATIME | DMT_SET_MTIME,
                    .mode = row->mode & 07777,
                    .uid = row->uid,
                    .gid = row->gid,
                    .atime = row->atime,
                    .mtime = row->mtime},
    };
    return put(p, &b);
}

/* 6: owners, modes and times, after everything that would change them. The staging directory
 * touched the root. */
static int put_attrs(struct ws_plan *p, const struct dmt_inode *root)
{
    bool root_done = false;
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->n_restores; i++) {
        const struct ws_restore *t = &p->restores[i];
        root_done |= t->now == DMT_ROOT;
        r = put_attr(p, t->now, &t->row);
    }
    return r == 0 && !root_done ? put_attr(p, DMT_ROOT, root) : r;
}

static int put_all(struct ws_plan *p)
{
    struct dmt_inode root;
    char name[48];
    int r = dmt_store_inode_get(p->ws->st, DMT_LIVE, DMT_ROOT, &root);
    p->staging = p->next_ino++;
    (void)snprintf(name, sizeof(name), ".dumont-rollback-%" PRIu64, p->staging);
    struct dmt_body make = {
        .type = DMT_REC_MAKE,
        .MAKE = {.parent = DMT_ROOT,
                 .name = ws_span(name),
                 .ino = p->staging,
                 .mode = S_IFDIR | 0700},
    };
    if (r == 0)
        r = put(p, &make);
    if (r == 0)
        r = put_losses(p);
    if (r == 0)
        r = put_makes(p);
    if (r == 0)
        r = put_gains(p);
    if (r == 0)
        r = put_leftovers(p);
    if (r == 0)
        r = put_unlink(p, DMT_ROOT, name, p->staging);
    if (r == 0)
        r = put_contents(p);
    return r == 0 ? put_attrs(p, &root) : r;
}

int ws_plan_log(struct ws_plan *p, const char *snapshot)
{
    char what[160];
    (void)snprintf(what, sizeof(what), "rollback to %s", snapshot);
    int r = ws_group_begin(p->ws, &p->group, what);
    return r < 0 ? r : ws_group_end(p->ws, &p->group, put_all(p));
}
