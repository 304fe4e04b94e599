/* names.c: requests about names.
 *
 * Each handler: check what only this layer can (length of a name: the kernel passes up to 1,024
 * bytes), call the workspace, reply. An entry that goes to the kernel counts one reference on its
 * inode before the reply leaves, and is counted back if the reply fails. A name that does not exist
 * is answered as a negative entry with an endless timeout: one writer, so it stays true until this
 * mount creates it.
 *
 * CREATE is not answered here on purpose: with ENOSYS the kernel turns to MKNOD and opens without a
 * request (no_open), which saves the RELEASE that a CREATE would bring. Thread: the readers.
 */
#include "fs/fuse/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/base/log.h"

#define DOTS_MAX 2u /* cookies of "." and ".." */

static bool too_long(fuse_req_t req, const char *name)
{
    if (strlen(name) <= DMT_NAME_MAX)
        return false;
    (void)fuse_reply_err(req, ENAMETOOLONG);
    return true;
}

static struct dmt_fuse *self(void)
{
    return fuse_me->f;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct dmt_fuse *f = self();
    struct fuse_entry_param e;
    struct dmt_attr a;

    if (too_long(req, name))
        return;
    int rc = dmt_ws_lookup(f->ws, parent, name, &a);
    if (rc == -ENOENT) {
        memset(&e, 0, sizeof(e));
        e.entry_timeout = fuse_attr_timeout(parent);
        (void)fuse_reply_entry(req, &e);
        return;
    }
    if (rc < 0) {
        fuse_fail(req, rc);
        return;
    }
    fuse_ref(f, a.node);
    fuse_fresh_list(&a);
    fuse_entry_of(&a, parent, &e);
    if (fuse_reply_entry(req, &e) < 0)
        dmt_ws_forget(f->ws, a.node, 1);
}

/* After a takeover the count alone does not tell: the kernel is asked, by another thread, since it
 * may have to wait for a page that this one is to write. */
static void forget_one(struct dmt_fuse *f, uint64_t ino, uint64_t n)
{
    if (!dmt_ws_forget(f->ws, ino, n))
        return;
    uint64_t *one = malloc(sizeof(*one));
    if (!one)
        return; /* it stays until the unmount */
    *one = ino;
    fuse_ask(f, one, 1);
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
    forget_one(self(), ino, n);
    fuse_reply_none(req);
}

static void do_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        forget_one(self(), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

/* The common end of everything that makes a name: count, acknowledge. */
static void finish_entry(struct fuse_pending *p, int rc, const struct dmt_op *op)
{
    struct dmt_fuse *f = p->f;
    fuse_req_t req = p->req;
    if (rc < 0) {
        fuse_pending_drop(p);
        fuse_fail(req, rc);
        return;
    }
    p->node = p->attr.node;
    dmt_ws_ref(f->ws, p->attr.node);
    fuse_acknowledge(p, op->seq);
}

static void make(fuse_req_t req, uint64_t parent, const char *name, mode_t mode, dev_t rdev,
                 const char *target)
{
    struct dmt_fuse *f = self();
    if (too_long(req, name))
        return;
    struct dmt_op op = fuse_op_of(f);
    struct fuse_pending *p = fuse_pending_new(f, req, FUSE_REPLY_ENTRY, parent, name);
    op.umask = fuse_req_ctx(req)->umask;
    finish_entry(p, dmt_ws_make(f->ws, &op, parent, name, mode, (uint32_t)rdev, target, &p->attr),
                 &op);
}

static void do_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    make(req, parent, name, mode & S_IFMT ? mode : mode | S_IFREG, rdev, NULL);
}

static void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    make(req, parent, name, (mode & ~(mode_t)S_IFMT) | S_IFDIR, 0, NULL);
}

static void do_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    if (strlen(target) > DMT_SYMLINK_MAX)
        (void)fuse_reply_err(req, ENAMETOOLONG);
    else
        make(req, parent, name, S_IFLNK | 0777, 0, target);
}

static void do_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct dmt_fuse *f = self();
    if (too_long(req, name))
        return;
    struct dmt_op op = fuse_op_of(f);
    struct fuse_pending *p = fuse_pending_new(f, req, FUSE_REPLY_ENTRY, parent, name);
    finish_entry(p, dmt_ws_link(f->ws, &op, ino, parent, name, &p->attr), &op);
}

/* The common end of what replies with a code only. */
static void finish_done(fuse_req_t req, int rc, const struct dmt_op *op, uint64_t parent,
                        const char *name)
{
    if (rc < 0)
        fuse_fail(req, rc);
    else if (op->seq == 0)
        (void)fuse_reply_err(req, 0);
    else
        fuse_acknowledge(fuse_pending_new(self(), req, FUSE_REPLY_DONE, parent, name), op->seq);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, bool dir)
{
    if (too_long(req, name))
        return;
    struct dmt_op op = fuse_op_of(self());
    int rc = dmt_ws_unlink(self()->ws, &op, parent, name, dir);
    finish_done(req, rc, &op, parent, name);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, false);
}

static void do_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, true);
}

static void do_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
                      const char *newname, unsigned int flags)
{
    if (too_long(req, name) || too_long(req, newname))
        return;
    struct dmt_op op = fuse_op_of(self());
    int rc = dmt_ws_rename(self()->ws, &op, parent, name, newparent, newname, flags);
    /* A killed rename: the kernel drops both names itself on EINTR. */
    finish_done(req, rc, &op, newparent, newname);
}

static void do_readlink(fuse_req_t req, fuse_ino_t ino)
{
    char buf[4096];
    int rc = dmt_ws_readlink(self()->ws, ino, buf);
    if (rc < 0)
        fuse_fail(req, rc);
    else
        (void)fuse_reply_readlink(req, buf);
}

/* --- reading directories ------------------------------------------------------------------ */

struct filler {
    fuse_req_t req;
    uint64_t dir;
    char *buf;
    size_t size, used;
    bool plus;
    uint64_t *nodes; /* counted after the workspace has let go of its lock */
    size_t n_nodes, cap;
};

static int fill(void *ctx, const char *name, uint64_t node, uint32_t type, uint64_t cookie,
                const struct dmt_attr *attr)
{
    struct filler *fl = ctx;
    char *at = fl->buf + fl->used;
    size_t left = fl->size - fl->used, need;

    if (!fl->plus) {
        struct stat st = {.st_ino = node, .st_mode = type};
        need = fuse_add_direntry(fl->req, at, left, name, &st, (off_t)cookie);
    } else {
        struct fuse_entry_param e;
        if (cookie <= DOTS_MAX || !attr) {
            /* Not a lookup: node id 0 tells the kernel so. */
            memset(&e, 0, sizeof(e));
            e.attr.st_ino = node;
            e.attr.st_mode = type;
        } else {
            fuse_entry_of(attr, fl->dir, &e);
        }
        need = fuse_add_direntry_plus(fl->req, at, left, name, &e, (off_t)cookie);
        if (need <= left && e.ino && fl->n_nodes < fl->cap)
            fl->nodes[fl->n_nodes++] = node;
    }
    if (need > left)
        return 1;
    fl->used += need;
    return 0;
}

static void read_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
    struct dmt_fuse *f = self();
    struct filler fl = {.req = req, .dir = ino, .buf = (char *)fuse_me->out, .plus = plus};
    fl.size = size < DMT_WRITE_MAX ? size : DMT_WRITE_MAX;
    if (plus) {
        /* An entry takes at least FUSE_NAME_OFFSET_DIRENTPLUS + 8 bytes. */
        fl.cap = fl.size / (FUSE_NAME_OFFSET_DIRENTPLUS + 8) + 1;
        fl.nodes = calloc(fl.cap, sizeof(*fl.nodes));
        if (!fl.nodes) {
            (void)fuse_reply_err(req, ENOMEM);
            return;
        }
    }
    int rc = dmt_ws_readdir(f->ws, ino, (uint64_t)off, plus, fill, &fl);
    if (rc < 0) {
        fuse_fail(req, rc);
    } else {
        for (size_t i = 0; i < fl.n_nodes; i++)
            fuse_ref(f, fl.nodes[i]);
        if (fuse_reply_buf(req, fl.buf, fl.used) < 0)
            for (size_t i = 0; i < fl.n_nodes; i++)
                dmt_ws_forget(f->ws, fl.nodes[i], 1);
    }
    free(fl.nodes);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    (void)fi;
    read_dir(req, ino, size, off, false);
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                           struct fuse_file_info *fi)
{
    (void)fi;
    read_dir(req, ino, size, off, true);
}

/* --- O_TMPFILE: by hand ------------------------------------------------------------------- */

void fuse_do_tmpfile(struct dmt_fuse *f)
{
    const struct fuse_create_in *in = fuse_body(sizeof(*in));
    uint64_t parent = fuse_me->h->nodeid;
    if (!in) {
        (void)fuse_raw_reply(f, fuse_me->h->unique, -EINVAL, NULL, 0);
        return;
    }
    struct dmt_op op = fuse_op_of(f);
    struct fuse_pending *p = fuse_pending_new(f, NULL, FUSE_REPLY_RAW_TMPFILE, parent, NULL);
    op.umask = in->umask;
    int rc = dmt_ws_make(f->ws, &op, parent, NULL, (in->mode & 07777) | S_IFREG, 0, NULL, &p->attr);
    if (rc < 0) {
        (void)fuse_raw_reply(f, p->unique, dmt_err_errno(rc), NULL, 0);
        fuse_pending_drop(p);
        return;
    }
    p->node = p->attr.node;
    dmt_ws_ref(f->ws, p->attr.node);
    fuse_acknowledge(p, op.seq);
}

void fuse_names_ops(struct fuse_lowlevel_ops *ops)
{
    ops->lookup = do_lookup;
    ops->forget = do_forget;
    ops->forget_multi = do_forget_multi;
    ops->mknod = do_mknod;
    ops->mkdir = do_mkdir;
    ops->symlink = do_symlink;
    ops->link = do_link;
    ops->unlink = do_unlink;
    ops->rmdir = do_rmdir;
    ops->rename = do_rename;
    ops->readlink = do_readlink;
    ops->readdir = do_readdir;
    ops->readdirplus = do_readdirplus;
}
