/* extract.c: the files of a branch as plain files: state at the switch point + the branch's
 * records.
 *
 * Happy path: a scratch store is made below STORE/branches; each record of the branch goes through
 * the one apply there, after what it refers to was brought in from the snapshot of the switch
 * point: the inodes (rows, xattrs, content) and the entries it names, nothing else. So the cost
 * follows the branch, not the workspace. Then every file that was touched is written out
 * (extract_write.c). Groups without END are skipped as everywhere. A branch NAME.bulk of the same
 * switch point goes first: this machine may lack bytes that the records build upon; without it such
 * files are left out.
 * Failure: no snapshot of the switch point (deleted by hand, or before the branch came to the
 * holder) is said plainly. The scratch store is removed in any case. Thread: pool; blocks.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/workspace/branch_copy.h"
#include "fs/workspace/extract_int.h"

bool ws_extract_is_lost(const struct extract *x, uint64_t ino)
{
    for (size_t i = 0; i < x->n_lost; i++)
        if (x->lost[i] == ino)
            return true;
    return false;
}

/* --- bringing in what the records refer to ---------------------------------------------------- */

/* Content straight into the scratch store's data file: a big file must not pass through memory. */
static int put_bytes(struct extract *x, uint64_t ino, const void *p, size_t n, uint64_t off,
                     uint64_t seq)
{
    struct dmt_place pl;
    int r = dmt_store_ref_place(x->scratch.st, ino, off, n, &pl);
    if (r == 0)
        r = dmt_store_ref_put(x->scratch.st, &pl, p, n);
    return r < 0 ? r : dmt_store_write_ref(x->scratch.st, ino, off, n, seq);
}

static int bring_content(struct extract *x, const struct dmt_inode *n)
{
    for (uint64_t off = 0; off < n->size;) {
        ws_lock(x->ws);
        int64_t data = dmt_store_seek(x->ws->st, x->view, n->ino, off, n->size, true);
        ws_unlock(x->ws);
        if (data < 0)
            return data == -ENXIO ? 0 : (int)data;
        ssize_t got =
            ws_view_read(x->ws, x->view, n->ino, x->chunk, EXTRACT_CHUNK, (uint64_t)data, false);
        if (got <= 0)
            return (int)got;
        int r = put_bytes(x, n->ino, x->chunk, (size_t)got, (uint64_t)data, x->floor);
        if (r < 0)
            return r;
        off = (uint64_t)data + (uint64_t)got;
    }
    return 0;
}

/* A target stays what it is everywhere, small content: a link is not read from a data file. */
static int bring_target(struct extract *x, const struct dmt_inode *n)
{
    char target[4096];
    ws_lock(x->ws);
    int r = ws_view_link_locked(x->ws, x->view, n, target);
    ws_unlock(x->ws);
    return r == 0 ? dmt_store_write(x->scratch.st, n->ino, 0, target, n->size, x->floor) : r;
}

static int bring_inode(struct extract *x, uint64_t ino)
{
    struct dmt_inode n;
    struct ws_xattrs xs = {0};
    if (ino == 0 || ws_map_has(&x->seen, ino))
        return 0;
    ws_lock(x->ws);
    int r = dmt_store_inode_get(x->ws->st, x->view, ino, &n);
    ws_unlock(x->ws);
    if (r < 0)
        return r;
    n.seq = x->floor;
    r = ws_map_put(&x->seen, ino, S_ISDIR(n.mode) ? 2 : 1);
    if (r == 0)
        r = dmt_store_inode_put(x->scratch.st, &n);
    if (r == 0 && n.flags & DMT_INO_XATTR)
        r = ws_xattrs(x->ws, x->view, ino, &xs);
    for (size_t i = 0; r == 0 && i < xs.n; i++)
        r = dmt_store_xattr_put(x->scratch.st, ino, xs.v[i].name, xs.v[i].val, xs.v[i].len,
                                x->floor);
    ws_xattrs_free(&xs);
    if (r == 0 && S_ISLNK(n.mode))
        return bring_target(x, &n);
    return r == 0 && !S_ISDIR(n.mode) && !ws_extract_is_lost(x, ino) ? bring_content(x, &n) : r;
}

static int bring_entry(struct extract *x, uint64_t dir, struct dmt_span name)
{
    struct dmt_dentry d;
    int r = bring_inode(x, dir);
    if (r < 0 || dmt_store_dentry_get(x->scratch.st, DMT_LIVE, dir, name.p, name.n, &d) == 0)
        return r;
    ws_lock(x->ws);
    r = dmt_store_dentry_get(x->ws->st, x->view, dir, name.p, name.n, &d);
    ws_unlock(x->ws);
    if (r == -ENOENT)
        return 0; /* the branch made it, in a directory of its own */
    return r < 0 ? r
                 : dmt_store_dentry_put(x->scratch.st, dir, name.p, name.n, d.ino, d.type, d.cookie,
                                        x->floor);
}

static int bring(struct extract *x, const struct dmt_body *b)
{
    int r = 0;
    switch ((enum dmt_rec_type)b->type) {
    case DMT_REC_MAKE:
        r = bring_inode(x, b->MAKE.parent);
        return r < 0 ? r : ws_map_put(&x->seen, b->MAKE.ino, S_ISDIR(b->MAKE.mode) ? 2 : 1);
    case DMT_REC_LINK:
        r = bring_inode(x, b->LINK.parent);
        return r < 0 ? r : bring_inode(x, b->LINK.ino);
    case DMT_REC_UNLINK:
        r = bring_entry(x, b->UNLINK.parent, b->UNLINK.name);
        return r < 0 ? r : bring_inode(x, b->UNLINK.ino);
    case DMT_REC_RENAME:
        r = bring_entry(x, b->RENAME.parent, b->RENAME.name);
        if (r == 0)
            r = bring_entry(x, b->RENAME.newparent, b->RENAME.newname);
        if (r == 0)
            r = bring_inode(x, b->RENAME.ino);
        return r < 0 ? r : bring_inode(x, b->RENAME.replaced);
    case DMT_REC_SETATTR:
        return bring_inode(x, b->SETATTR.ino);
    case DMT_REC_SETXATTR:
        return bring_inode(x, b->SETXATTR.ino);
    case DMT_REC_DELXATTR:
        return bring_inode(x, b->DELXATTR.ino);
    case DMT_REC_WRITE:
        return bring_inode(x, b->WRITE.ino);
    case DMT_REC_WRITE_REF:
        return bring_inode(x, b->WRITE_REF.ino);
    case DMT_REC_ALLOC:
        return bring_inode(x, b->ALLOC.ino);
    case DMT_REC_CONTENT:
        r = bring_inode(x, b->CONTENT.ino);
        return r < 0 ? r : 1; /* its bytes follow (branch.c) */
    default:
        return 1; /* not about files */
    }
}

/* --- applying --------------------------------------------------------------------------------- */

static int name_given(struct extract *x, uint64_t ino, uint64_t parent, struct dmt_span name)
{
    if (x->n_names == x->cap_names) {
        size_t cap = x->cap_names ? x->cap_names * 2 : 64;
        struct extract_name *v = realloc(x->names, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        x->names = v;
        x->cap_names = cap;
    }
    char *copy = strndup(name.p, name.n);
    if (!copy)
        return -ENOMEM;
    x->names[x->n_names++] = (struct extract_name){ino, parent, ws_map_get(&x->named, ino), copy};
    return ws_map_put(&x->named, ino, x->n_names);
}

static void name_taken(struct extract *x, uint64_t ino, uint64_t parent, struct dmt_span name)
{
    for (size_t at = ws_map_get(&x->named, ino); at; at = x->names[at - 1].next) {
        struct extract_name *n = &x->names[at - 1];
        if (n->name && n->parent == parent && strlen(n->name) == name.n &&
            memcmp(n->name, name.p, name.n) == 0) {
            free(n->name);
            n->name = NULL;
        }
    }
}

static int note_rename(struct extract *x, const struct dmt_rec_RENAME *m)
{
    bool swap = m->flags & RENAME_EXCHANGE;
    name_taken(x, m->ino, m->parent, m->name);
    if (m->replaced)
        name_taken(x, m->replaced, m->newparent, m->newname);
    int r = name_given(x, m->ino, m->newparent, m->newname);
    return r == 0 && swap ? name_given(x, m->replaced, m->parent, m->name) : r;
}

static int note_names(struct extract *x, const struct dmt_body *b)
{
    if (b->type == DMT_REC_MAKE && b->MAKE.name.n > 0)
        return name_given(x, b->MAKE.ino, b->MAKE.parent, b->MAKE.name);
    if (b->type == DMT_REC_LINK)
        return name_given(x, b->LINK.ino, b->LINK.parent, b->LINK.name);
    if (b->type == DMT_REC_UNLINK)
        name_taken(x, b->UNLINK.ino, b->UNLINK.parent, b->UNLINK.name);
    return b->type == DMT_REC_RENAME ? note_rename(x, &b->RENAME) : 0;
}

/* Cut to nothing: what it had at the switch point does not count any more. */
static void note_cut(struct extract *x, const struct dmt_body *b)
{
    if (!x->have_bulk && b->type == DMT_REC_SETATTR && b->SETATTR.mask & DMT_SET_SIZE &&
        b->SETATTR.size == 0)
        for (size_t i = 0; i < x->n_lost; i++)
            x->lost[i] = x->lost[i] == b->SETATTR.ino ? 0 : x->lost[i];
}

static int apply_record(struct extract *x, const struct dmt_rec *r, const struct dmt_body *b)
{
    note_cut(x, b);
    int e = bring(x, b);
    if (e != 0)
        return e < 0 ? e : 0;
    if (b->type == DMT_REC_WRITE && b->WRITE.data.n > DMT_SMALL_MAX) {
        struct dmt_place pl;
        struct dmt_body ref = {
            .type = DMT_REC_WRITE_REF,
            .WRITE_REF = {.ino = b->WRITE.ino,
                          .off = b->WRITE.off,
                          .length = b->WRITE.data.n,
                          .mode = b->WRITE.mode},
        };
        e = dmt_store_ref_place(x->scratch.st, b->WRITE.ino, b->WRITE.off, b->WRITE.data.n, &pl);
        if (e == 0)
            e = dmt_store_ref_put(x->scratch.st, &pl, b->WRITE.data.p, b->WRITE.data.n);
        if (e == 0)
            e = ws_apply_one(&x->scratch, r, &ref);
    } else {
        e = ws_apply_one(&x->scratch, r, b);
    }
    return e < 0 ? e : note_names(x, b);
}

static int find_groups(void *ctx, const struct dmt_rec *r)
{
    struct extract *x = ctx;
    struct dmt_body b;
    x->floor = x->floor ? x->floor : r->seq - 1;
    if (r->type != DMT_REC_END)
        return 0;
    int e = dmt_body_decode(r->type, r->body, r->body_len, &b);
    return e < 0 || b.END.count == 0 ? e : ws_map_put(&x->groups, b.END.begin_seq, 1);
}

static int each_record(void *ctx, const struct dmt_rec *r)
{
    struct extract *x = ctx;
    struct dmt_body b;
    int e = dmt_body_decode(r->type, r->body, r->body_len, &b);
    if (e < 0)
        return e;
    if (b.type == DMT_REC_BEGIN)
        x->skipping = !ws_map_has(&x->groups, r->seq);
    else if (b.type == DMT_REC_END || b.type == DMT_REC_EPOCH)
        x->skipping = false;
    else if (!x->skipping)
        e = apply_record(x, r, &b);
    if (e < 0)
        (void)snprintf(x->where, sizeof(x->where), "record %" PRIu64 " of type %u", r->seq,
                       r->type);
    return e < 0 ? e : 0;
}

/* --- the whole -------------------------------------------------------------------------------- */

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static int open_scratch(struct extract *x, const char *branch, struct dmt_err *err)
{
    struct dmt_store_ident id = *dmt_store_ident(x->ws->st);
    struct dmt_ws *s = &x->scratch;
    struct dmt_store_conf sc = {.io = x->ws->conf.io, .clock = x->ws->conf.clock, .dir = x->dir};
    int r = ws_branch_path(x->ws, branch, ".scratch", x->dir);
    if (r < 0)
        return dmt_err_set(err, r, "\"%s\" cannot be the name of a branch", branch);
    (void)nftw(x->dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
    if (mkdir(x->dir, 0700) < 0)
        return dmt_err_set(err, -errno, "%s: %s", x->dir, strerror(errno));
    s->conf = x->ws->conf;
    r = dmt_store_create(&sc, &id, S_IFDIR | 0755, 0, 0, 1, err);
    return r < 0 ? r : dmt_store_open(&s->st, &sc, err);
}

static void close_scratch(struct extract *x)
{
    if (x->scratch.st)
        dmt_store_close(x->scratch.st);
    pthread_mutex_destroy(&x->scratch.lock);
    dmt_buf_free(&x->scratch.incomplete);
    ws_map_clear(&x->scratch.reported);
    dmt_buf_free(&x->scratch.scratch);
    ws_map_clear(&x->scratch.orphans);
    if (x->dir[0])
        (void)nftw(x->dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int find_switch(void *ctx, const struct dmt_epoch_row *e)
{
    struct extract *x = ctx;
    struct dmt_snapshot s;
    char name[DMT_SWITCH_NAME_MAX];
    if (e->switch_seq != x->floor || x->view)
        return 0;
    dmt_switch_name(e->epoch, name);
    if (dmt_store_snap_get(x->ws->st, name, &s) == 0)
        x->view = s.seq;
    return 0;
}

static int note_lost(void *ctx, const struct dmt_rec *r)
{
    struct extract *x = ctx;
    struct dmt_body b;
    int e = dmt_body_decode(r->type, r->body, r->body_len, &b);
    if (e < 0 || b.type != DMT_REC_SETATTR) /* the last one of each file */
        return e;
    uint64_t *v = realloc(x->lost, (x->n_lost + 1) * sizeof(*v));
    if (!v)
        return -ENOMEM;
    x->lost = v;
    v[x->n_lost++] = b.SETATTR.ino;
    return 0;
}

/* Content of the switch point: it is not later than anything of the branch. */
static int each_bulk(void *ctx, const struct dmt_rec *r)
{
    struct extract *x = ctx;
    struct dmt_rec at = *r;
    struct dmt_body b;
    int e = dmt_body_decode(r->type, r->body, r->body_len, &b);
    at.seq = x->floor;
    return e < 0 ? e : apply_record(x, &at, &b);
}

/* What this machine may lack of the switch point comes from its branch, if that is here; else those
 * files are left out, if the caller wants to know. */
static int lay_bulk(struct extract *x, const char *branch, bool whole, struct dmt_err *err)
{
    const struct dmt_io *io = x->ws->conf.io;
    char name[DMT_NAME_MAX + 1], path[DMT_PATH_MAX];
    int r = ws_branch_bulk_at(x->ws, x->floor, name);
    if (r == 0 && !whole)
        r = ws_branch_lost(x->ws, x->floor, &x->lost, &x->n_lost);
    x->have_bulk = r == 1;
    if (r != 1)
        return r;
    r = ws_branch_path(x->ws, name, "", path);
    if (r == 0)
        r = dmt_journal_scan(io, path, note_lost, x, err);
    if (r == 0 && !dmt_branch_is_bulk(branch))
        r = dmt_journal_scan(io, path, each_bulk, x, err);
    return r;
}

static int run(struct extract *x, const char *branch, const char *dir, bool whole,
               struct dmt_err *err)
{
    const struct dmt_io *io = x->ws->conf.io;
    char path[DMT_PATH_MAX];
    int r = ws_branch_path(x->ws, branch, "", path);
    if (r < 0)
        return dmt_err_set(err, r, "\"%s\" cannot be the name of a branch", branch);
    r = dmt_journal_scan(io, path, find_groups, x, err);
    if (r < 0)
        return r;
    ws_lock(x->ws);
    r = dmt_store_epoch_each(x->ws->st, find_switch, x);
    ws_unlock(x->ws);
    if (r == 0 && !x->view)
        return dmt_err_set(err, -ENOENT, "the snapshot of the switch point of branch %s is gone",
                           branch);
    r = open_scratch(x, branch, err);
    if (r == 0)
        r = lay_bulk(x, branch, whole, err);
    if (r == 0)
        r = dmt_journal_scan(io, path, each_record, x, err);
    return r < 0 ? r : ws_extract_write(x, dir);
}

int dmt_ws_branch_extract(struct dmt_ws *ws, const char *branch, const char *dir,
                          uint64_t *left_out, struct dmt_err *err)
{
    struct extract *x = calloc(1, sizeof(*x));
    int r = -ENOMEM;
    if (err)
        *err = (struct dmt_err){0};
    if (x && (x->chunk = malloc(EXTRACT_CHUNK))) {
        x->ws = ws;
        pthread_mutex_init(&x->scratch.lock, NULL);
        r = run(x, branch, dir, !left_out, err);
        close_scratch(x);
        if (left_out)
            *left_out = x->left_out;
    }
    if (r < 0 && err && err->code == 0)
        dmt_err_set(err, r, "the files of branch %s cannot be written: %s%s%s", branch,
                    x ? x->where : "", x && x->where[0] ? ": " : "", dmt_strerror(r));
    for (size_t i = 0; x && i < x->n_names; i++)
        free(x->names[i].name);
    if (x) {
        free(x->names);
        free(x->lost);
        ws_map_clear(&x->seen);
        ws_map_clear(&x->groups);
        ws_map_clear(&x->named);
        free(x->chunk);
    }
    free(x);
    return r;
}
