/* files.c: requests about content and attributes.
 *
 * Nothing here waits for a disk. A read that is in memory or in the page cache is answered by the
 * reader; the rest goes to the pool. fsync and syncfs are handed to the workspace, whose committer
 * completes them. Writes are logged by the reader and acknowledged as the workspace says (reply.c).
 *
 * OPEN, OPENDIR and FLUSH are answered ENOSYS explicitly: from the first answer on the kernel sends
 * none, nor RELEASE (storage A3). (A view of a standby answers them: see do_open.) So there are no
 * handles: a file is its inode number, and an unlinked open file lives until FORGET. The
 * KILL_SUIDGID bits of WRITE and SETATTR are hidden by libfuse 3.14 and read from the raw request
 * (A6), and so is SETXATTR as a whole. copy_file_range is left out: the kernel falls back to
 * reading and writing. Thread: the readers; cold reads: pool.
 */
#include "fs/fuse/internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "fs/base/thread.h"

static struct dmt_fuse *self(void)
{
    return fuse_me->f;
}

static void enosys_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino, (void)fi;
    (void)fuse_reply_err(req, ENOSYS);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    fi->direct_io = 1; /* a view's pages and directory entries are not kept */
    if (self()->conf.view)
        (void)fuse_reply_open(req, fi);
    else
        (void)fuse_reply_err(req, ENOSYS);
}

/* After O_TMPFILE, which brings a handle of its own. */
static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino, (void)fi;
    (void)fuse_reply_err(req, 0);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct dmt_attr a;
    (void)fi;
    int rc = dmt_ws_getattr(self()->ws, ino, &a);
    if (rc < 0) {
        fuse_fail(req, rc);
        return;
    }
    fuse_fresh_list(&a);
    (void)fuse_reply_attr(req, &a.st, fuse_attr_timeout(ino));
}

static void fill_setattr(const struct stat *st, int to_set, struct dmt_setattr *sa)
{
    const struct fuse_setattr_in *in = fuse_body(sizeof(*in));
    memset(sa, 0, sizeof(*sa));
    if (to_set & FUSE_SET_ATTR_MODE)
        sa->mask |= DMT_SET_MODE;
    if (to_set & FUSE_SET_ATTR_UID)
        sa->mask |= DMT_SET_UID;
    if (to_set & FUSE_SET_ATTR_GID)
        sa->mask |= DMT_SET_GID;
    if (to_set & FUSE_SET_ATTR_SIZE)
        sa->mask |= DMT_SET_SIZE;
    if (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW))
        sa->mask |= DMT_SET_ATIME;
    if (to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW))
        sa->mask |= DMT_SET_MTIME;
    sa->mode = st->st_mode;
    sa->uid = st->st_uid;
    sa->gid = st->st_gid;
    sa->size = (uint64_t)st->st_size;
    sa->atime = dmt_file_time_ns(st->st_atim);
    sa->mtime = dmt_file_time_ns(st->st_mtim);
    sa->atime_now = to_set & FUSE_SET_ATTR_ATIME_NOW;
    sa->mtime_now = to_set & FUSE_SET_ATTR_MTIME_NOW;
    sa->kill_suidgid = in && (in->valid & FATTR_KILL_SUIDGID);
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set,
                       struct fuse_file_info *fi)
{
    struct dmt_fuse *f = self();
    struct dmt_setattr sa;
    (void)fi;
    fill_setattr(st, to_set, &sa);
    if ((sa.mask & DMT_SET_SIZE) && sa.size > DMT_FILE_SIZE_MAX) {
        (void)fuse_reply_err(req, EFBIG);
        return;
    }
    struct dmt_op op = fuse_op_of(f);
    struct fuse_pending *p = fuse_pending_new(f, req, FUSE_REPLY_ATTR, 0, NULL);
    int rc = dmt_ws_setattr(f->ws, &op, ino, &sa, &p->attr);
    if (rc < 0) {
        fuse_pending_drop(p);
        fuse_fail(req, rc);
    } else {
        fuse_acknowledge(p, op.seq);
    }
}

/* --- content ------------------------------------------------------------------------------ */

struct cold_read {
    struct dmt_fuse *f;
    fuse_req_t req;
    uint64_t ino, off;
    size_t size;
};

static void read_cold(void *arg)
{
    struct cold_read *c = arg;
    struct dmt_fuse *f = c->f;
    char *buf = malloc(c->size);
    ssize_t n = buf ? dmt_ws_read(f->ws, c->ino, buf, c->size, c->off, false) : -ENOMEM;
    if (n < 0) {
        fuse_fail(c->req, (int)n);
    } else {
        atomic_fetch_add_explicit(&f->n.read_bytes, (uint64_t)n, memory_order_relaxed);
        (void)fuse_reply_buf(c->req, buf, (size_t)n);
    }
    free(buf);
    free(c);
    fuse_live_dec(f);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    struct dmt_fuse *f = self();
    (void)fi;
    if (size > DMT_WRITE_MAX)
        size = DMT_WRITE_MAX;
    atomic_fetch_add_explicit(&f->n.reads, 1, memory_order_relaxed);
    ssize_t n = dmt_ws_read(f->ws, ino, fuse_me->out, size, (uint64_t)off, true);
    if (n >= 0) {
        atomic_fetch_add_explicit(&f->n.read_bytes, (uint64_t)n, memory_order_relaxed);
        (void)fuse_reply_buf(req, (char *)fuse_me->out, (size_t)n);
        return;
    }
    if (n != -EAGAIN) {
        fuse_fail(req, (int)n);
        return;
    }
    struct cold_read *c = malloc(sizeof(*c));
    if (!c) {
        (void)fuse_reply_err(req, ENOMEM);
        return;
    }
    *c = (struct cold_read){.f = f, .req = req, .ino = ino, .off = (uint64_t)off, .size = size};
    fuse_live_inc(f);
    /* A full pool: the reader reads itself, which also slows those down who fill it. */
    if (dmt_pool_submit(f->conf.pool, read_cold, c) < 0)
        read_cold(c);
}

/* A write by somebody without CAP_FSETID asks to clear the set-id bits; the kernel does not look
 * whether there are any, nor whether we cleared them, and would go by the cached mode for ever
 * (coreutils' stat, and exec). */
static bool loses_set_id(struct dmt_fuse *f, uint64_t ino)
{
    struct dmt_attr a;
    return dmt_ws_getattr(f->ws, ino, &a) == 0 && (a.st.st_mode & (S_ISUID | S_ISGID));
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    struct dmt_fuse *f = self();
    const struct fuse_write_in *in = fuse_body(sizeof(*in));
    (void)fi;
    if (off < 0 || (uint64_t)off > DMT_FILE_SIZE_MAX || (uint64_t)off + size > DMT_FILE_SIZE_MAX) {
        (void)fuse_reply_err(req, EFBIG);
        return;
    }
    struct dmt_op op = fuse_op_of(f);
    bool kill = in && (in->write_flags & FUSE_WRITE_KILL_SUIDGID);
    bool mode_changes = kill && loses_set_id(f, ino);
    int rc = dmt_ws_write(f->ws, &op, ino, buf, size, (uint64_t)off, kill);
    if (rc < 0) {
        fuse_fail(req, rc);
        return;
    }
    if (mode_changes)
        fuse_forget_attr(f, ino);
    atomic_fetch_add_explicit(&f->n.writes, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&f->n.write_bytes, size, memory_order_relaxed);
    struct fuse_pending *p = fuse_pending_new(f, req, FUSE_REPLY_WRITE, 0, NULL);
    p->written = size;
    fuse_acknowledge(p, op.seq);
    if (op.sync_due) /* the disk works while the reply and the fsync are under way */
        dmt_ws_sync_ahead(f->ws, op.seq, fuse_me->alone >= FUSE_ALONE);
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)datasync,
        (void)fi; /* times and names are in the same journal: there is nothing to leave out */
    if (ino >> 63 || self()->conf.view)
        (void)fuse_reply_err(req, 0); /* nothing was written through it */
    else
        fuse_sync_reply(fuse_pending_new(self(), req, FUSE_REPLY_DONE, 0, NULL), ino);
}

void fuse_do_syncfs(struct dmt_fuse *f)
{
    atomic_store(&f->syncfs_seen, true);
    /* Our own: the WRITEs of dirty pages came before it, and that is all it was for (D7). */
    if (f->conf.view || fuse_is_syncer(f, fuse_me->h->pid))
        (void)fuse_raw_reply(f, fuse_me->h->unique, 0, NULL, 0);
    else
        fuse_sync_reply(fuse_pending_new(f, NULL, FUSE_REPLY_RAW, 0, NULL), 0);
}

/* The common end of what replies with a code only. */
static void finish(fuse_req_t req, int rc, const struct dmt_op *op)
{
    if (rc < 0)
        fuse_fail(req, rc);
    else if (op->seq == 0)
        (void)fuse_reply_err(req, 0);
    else
        fuse_acknowledge(fuse_pending_new(self(), req, FUSE_REPLY_DONE, 0, NULL), op->seq);
}

static void do_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                         struct fuse_file_info *fi)
{
    (void)fi;
    if (off < 0 || len <= 0 || (uint64_t)off + (uint64_t)len > DMT_FILE_SIZE_MAX) {
        (void)fuse_reply_err(req, EFBIG);
        return;
    }
    struct dmt_fuse *f = self();
    struct dmt_op op = fuse_op_of(f);
    /* With HANDLE_KILLPRIV_V2 the kernel leaves it to us, and this request has no flag to say so:
     * who is not root is taken to be without CAP_FSETID. */
    bool kill = op.uid != 0, mode_changes = kill && loses_set_id(f, ino);
    int rc = dmt_ws_fallocate(f->ws, &op, ino, mode, (uint64_t)off, (uint64_t)len, kill);
    if (rc == 0 && mode_changes)
        fuse_forget_attr(f, ino);
    finish(req, rc, &op);
}

static void do_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
                     struct fuse_file_info *fi)
{
    (void)fi;
    if (off < 0) {
        (void)fuse_reply_err(req, ENXIO);
        return;
    }
    int64_t at = dmt_ws_seek(self()->ws, ino, (uint64_t)off, whence);
    if (at < 0)
        fuse_fail(req, (int)at);
    else
        (void)fuse_reply_lseek(req, at);
}

static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct statvfs sv;
    (void)ino;
    memset(&sv, 0, sizeof(sv));
    int rc = dmt_ws_statfs(self()->ws, &sv);
    if (rc < 0)
        fuse_fail(req, rc);
    else
        (void)fuse_reply_statfs(req, &sv);
}

/* --- extended attributes ------------------------------------------------------------------ */

/* size 0 asks for the length. */
static void reply_xattr(fuse_req_t req, ssize_t n, size_t size)
{
    if (n < 0)
        fuse_fail(req, (int)n);
    else if (size == 0)
        (void)fuse_reply_xattr(req, (size_t)n);
    else
        (void)fuse_reply_buf(req, (char *)fuse_me->out, (size_t)n);
}

static void do_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    if (size > DMT_WRITE_MAX)
        size = DMT_WRITE_MAX;
    reply_xattr(req, dmt_ws_getxattr(self()->ws, ino, name, fuse_me->out, size), size);
}

static void do_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    if (size > DMT_WRITE_MAX)
        size = DMT_WRITE_MAX;
    /* Of other callers only a process with CAP_SYS_ADMIN but another uid is told less than it might
     * see. */
    bool trusted = fuse_me->h->uid == 0;
    reply_xattr(req, dmt_ws_listxattr(self()->ws, ino, (char *)fuse_me->out, size, trusted), size);
}

/* By hand: the flag that an access ACL must clear the setgid bit, because who sets it is not of the
 * file's group, is hidden by libfuse 3.14. */
void fuse_do_setxattr(struct dmt_fuse *f)
{
    const struct fuse_in_header *h = fuse_me->h;
    const struct fuse_setxattr_in *in = fuse_body(FUSE_COMPAT_SETXATTR_IN_SIZE);
    size_t head = f->setxattr_ext ? sizeof(*in) : FUSE_COMPAT_SETXATTR_IN_SIZE;
    const char *name = fuse_body(head);
    size_t left = name ? h->len - sizeof(*h) - head : 0;
    if (name)
        name += head;
    size_t len = name ? strnlen(name, left) : left;
    struct dmt_op op = fuse_op_of(f);
    int rc = -EINVAL;
    if (len < left && in->size <= left - len - 1) {
        int flags = (int)in->flags & (XATTR_CREATE | XATTR_REPLACE);
        if (f->setxattr_ext && (in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID))
            flags |= DMT_XATTR_KILL_SGID;
        rc = in->size > DMT_XATTR_VALUE_MAX
                 ? -E2BIG
                 : dmt_ws_setxattr(f->ws, &op, h->nodeid, name, name + len + 1, in->size, flags);
    }
    if (rc < 0 || op.seq == 0)
        (void)fuse_raw_reply(f, h->unique, dmt_err_errno(rc), NULL, 0);
    else
        fuse_acknowledge(fuse_pending_new(f, NULL, FUSE_REPLY_RAW, 0, NULL), op.seq);
}

static void do_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    struct dmt_op op = fuse_op_of(self());
    finish(req, dmt_ws_removexattr(self()->ws, &op, ino, name), &op);
}

static void do_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    do_fsync(req, ino, datasync, fi);
}

void fuse_files_ops(struct fuse_lowlevel_ops *ops)
{
    ops->open = do_open;
    ops->opendir = do_open;
    ops->flush = enosys_flush;
    ops->release = do_release;
    ops->getattr = do_getattr;
    ops->setattr = do_setattr;
    ops->read = do_read;
    ops->write = do_write;
    ops->fsync = do_fsync;
    ops->fsyncdir = do_fsyncdir;
    ops->fallocate = do_fallocate;
    ops->lseek = do_lseek;
    ops->statfs = do_statfs;
    ops->getxattr = do_getxattr;
    ops->listxattr = do_listxattr;
    ops->removexattr = do_removexattr;
}
