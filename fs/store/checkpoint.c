/* checkpoint.c: writes the frozen batch: bytes, then one transaction with the position in it (S1),
 * then takes it over.
 *
 * Happy path: 1. BEGIN. 2. Content: bytes to data files, rows for where they are (ckpt_content.c).
 * 3. Rows of inodes, xattrs, entries, their history, small ops, each sorted by key, because random
 * keys write many more WAL pages. 4. History that no position needs goes, in bounded steps, and
 * what is free for good becomes garbage rows (gc.c). 5. fdatasync of every data file written. 6.
 * Position and counters, COMMIT at synchronous=FULL. 7. Under the lock: objects become clean. 8.
 * Garbage is punched or unlinked, the WAL shortened. Failure modes: any error before COMMIT
 * returned rolls back and merges the batch back; the call may be repeated. A failed fdatasync of a
 * data file: the kernel has dropped those pages, so the file is tainted, and the next attempt
 * writes the bytes, which are still in memory, to new space. A COMMIT that reports an error but
 * happened is recognised by the position after the connection was reopened. Thread: the
 * checkpointer's, without the lock; steps 0 and 7 take it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

#define WAL_BYTES_MAX (64u << 20)
#define PAGE_BYTES    4096u

/* --- sorted by key */

static int node_cmp(const void *a, const void *b)
{
    const struct fz_node *x = a, *y = b;
    return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static int dent_cmp(const void *a, const void *b)
{
    const struct dent *x = ((const struct fz_dent *)a)->d, *y = ((const struct fz_dent *)b)->d;
    if (x->parent != y->parent)
        return x->parent < y->parent ? -1 : 1;
    int c = memcmp(x->name, y->name, x->len < y->len ? x->len : y->len);
    return c ? c : (int)x->len - (int)y->len;
}

static int xattr_cmp(const void *a, const void *b)
{
    const struct fz_xattr *x = a, *y = b;
    if (x->n->ino != y->n->ino)
        return x->n->ino < y->n->ino ? -1 : 1;
    return strcmp(x->x->name, y->x->name);
}

static void sort_batch(struct batch *b)
{
    if (b->n_nodes)
        qsort(b->nodes, b->n_nodes, sizeof(*b->nodes), node_cmp);
    if (b->n_dents)
        qsort(b->dents, b->n_dents, sizeof(*b->dents), dent_cmp);
    if (b->n_xattrs)
        qsort(b->xattrs, b->n_xattrs, sizeof(*b->xattrs), xattr_cmp);
}

/* --- rows */

static int write_inodes(struct ckpt *c)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < c->b->n_nodes; i++) {
        const struct fz_node *f = &c->b->nodes[i];
        for (const struct ihist *h = f->ihist; r == 0 && h; h = h->next)
            r = store_inode_bind(c->db, SQL_INODE_H_PUT, &h->row, h->alloc, h->died);
        if (r == 0 && f->live && (f->bits & NODE_ROW))
            r = store_inode_bind(c->db, SQL_INODE_PUT, &f->row, f->alloc, 0);
        else if (r == 0 && !f->live && (f->bits & NODE_DEAD))
            r = store_exec(c->db, SQL_INODE_DEL, "i", f->ino);
        if (r == 0 && (f->bits & NODE_DEAD) && (f->row.flags & DMT_INO_XATTR))
            r = store_exec(c->db, SQL_XATTR_WIPE, "i", f->ino);
    }
    return r;
}

static int write_xattrs(struct ckpt *c)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < c->b->n_xattrs; i++) {
        const struct fz_xattr *f = &c->b->xattrs[i];
        const char *name = f->x->name;
        uint64_t ino = f->n->ino;
        for (const struct xhist *h = f->hist; r == 0 && h; h = h->next)
            r = store_exec(c->db, SQL_XATTR_H_PUT, "ibbii", ino, name, strlen(name), h->value->data,
                           (size_t)h->value->used, h->born, h->died);
        if (r == 0 && f->value)
            r = store_exec(c->db, SQL_XATTR_PUT, "ibbi", ino, name, strlen(name), f->value->data,
                           (size_t)f->value->used, f->born);
        else if (r == 0)
            r = store_exec(c->db, SQL_XATTR_DEL, "ib", ino, name, strlen(name));
    }
    return r;
}

/* All removals come before all additions: a cookie may pass from one name to another. */
static int write_dents(struct ckpt *c)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < c->b->n_dents; i++) {
        const struct fz_dent *f = &c->b->dents[i];
        const struct dent *d = f->d;
        if (f->disk)
            r = store_exec(c->db, SQL_DENTRY_DEL, "ib", d->parent, d->name, (size_t)d->len);
        for (const struct dhist *h = f->hist; r == 0 && h; h = h->next)
            r = store_exec(c->db, SQL_DENTRY_H_PUT, "ibiiiii", d->parent, d->name, (size_t)d->len,
                           h->v.ino, (uint64_t)h->v.cookie, (uint64_t)h->v.type, h->v.born,
                           h->died);
    }
    for (size_t i = 0; r == 0 && i < c->b->n_dents; i++) {
        const struct fz_dent *f = &c->b->dents[i];
        if (f->live)
            r = store_exec(c->db, SQL_DENTRY_PUT, "ibiiii", f->d->parent, f->d->name,
                           (size_t)f->d->len, f->v.ino, (uint64_t)f->v.cookie, (uint64_t)f->v.type,
                           f->v.born);
    }
    return r;
}

static int write_ops(struct ckpt *c)
{
    int r = 0;
    DMT_LIST_EACH(l, tmp, &c->b->ops)
    {
        const struct op *op = DMT_CONTAINER(l, struct op, link);
        if ((r = store_op_write(c->db, op)) < 0)
            return r;
        if (op->kind == OP_KEEP_DEL)
            store_spaces_add(&c->gone, op->keep.src, 0, 0, 0);
    }
    for (size_t i = 0; r == 0 && i < c->gone.n; i++)
        r = store_gc_ino(c, c->gone.v[i].ino);
    return r;
}

static int write_meta(struct ckpt *c)
{
    const struct batch *b = c->b;
    const struct {
        const char *key;
        uint64_t v;
    } values[] = {
        {".epoch", b->pos.epoch},
        {".seq", b->pos.seq},
        {".chain", b->pos.chain},
        {".inodes", b->count.inodes},
        {".live_bytes", b->count.live_bytes},
        {".pinned_bytes", c->st->pinned_bytes + (uint64_t)c->pinned_delta},
        {".commits", c->st->commits + 1},
        {".sweep", c->sweep.kind != 0 || c->sweep.again},
        {".peer", c->b->peer},
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof(values) / sizeof(values[0]); i++)
        r = store_db_meta_put_u64(c->db, values[i].key, values[i].v);
    return r;
}

/* --- data files */

int store_ckpt_file(struct ckpt *c, uint64_t ino, uint32_t serial, struct ckpt_file **ret)
{
    for (size_t i = c->file_n; i-- > 0 && i + 4 >= c->file_n;) /* one inode's files come together */
        if (c->files[i]->f->ino == ino && c->files[i]->f->serial == serial) {
            *ret = c->files[i];
            return 0;
        }
    struct ckpt_file *cf = store_zalloc(sizeof(*cf));
    c->lk->lock(c->lk->ctx);
    cf->f = store_file_get(c->st, ino, serial);
    int r = store_file_open(c->st, cf->f, true);
    cf->names = r == 0 ? store_file_dir_pending(c->st, cf->f) : 0;
    cf->tainted = cf->f->tainted;
    cf->side_from = cf->f->side_from;
    if (r < 0)
        store_file_put(c->st, cf->f);
    c->lk->unlock(c->lk->ctx);
    if (r < 0) {
        free(cf);
        return r;
    }
    if (c->file_n == c->file_cap) {
        c->file_cap = c->file_cap ? c->file_cap * 2 : 64;
        c->files = realloc(c->files, c->file_cap * sizeof(*c->files));
        DMT_ASSERT(c->files);
    }
    c->files[c->file_n++] = *ret = cf;
    return 0;
}

static int sync_files(struct ckpt *c)
{
    const struct dmt_io *io = c->st->conf.io;
    uint64_t dirs[4] = {0}; /* directories synced already: one bit each */
    for (size_t i = 0; i < c->file_n; i++) {
        struct ckpt_file *cf = c->files[i];
        int r = io->fdatasync(io->ctx, cf->f->fd);
        if (r < 0) {
            c->lk->lock(c->lk->ctx);
            cf->f->tainted = true;
            cf->f->lost_below = store_missing_place_end(c->st, cf->f->ino, cf->f->serial);
            cf->f->side_from = (cf->side_end + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
            c->lk->unlock(c->lk->ctx);
            return r;
        }
        unsigned dir = (unsigned)(cf->f->ino & 0xff);
        if (!cf->names || (dirs[dir / 64] >> (dir % 64) & 1))
            continue;
        if ((r = store_file_sync_dir(c->st, cf->f)) < 0)
            return r;
        dirs[dir / 64] |= 1ull << (dir % 64);
    }
    return 0;
}

static void release_files(struct ckpt *c, bool synced)
{
    for (size_t i = 0; i < c->file_n; i++) {
        if (synced)
            store_file_dir_done(c->st, c->files[i]->f, c->files[i]->names);
        store_file_put(c->st, c->files[i]->f);
        free(c->files[i]);
    }
    free(c->files);
}

/* --- the transaction */

static int write_batch(struct ckpt *c)
{
    int r = store_exec(c->db, SQL_BEGIN_WRITE, "");
    if (r == 0)
        r = store_ckpt_content(c);
    if (r == 0)
        r = write_inodes(c);
    if (r == 0)
        r = write_xattrs(c);
    if (r == 0)
        r = write_dents(c);
    if (r == 0)
        r = write_ops(c);
    if (r == 0)
        r = store_gc_sweep(c);
    if (r == 0)
        r = store_gc_rows(c);
    if (r == 0)
        r = write_meta(c);
    if (r == 0)
        r = sync_files(c);
    if (r == 0)
        r = store_exec(c->db, SQL_COMMIT, "");
    return r;
}

/* After an error the connection is not trusted: reopened, it tells whether the COMMIT happened
 * after all. */
static bool committed_anyway(struct ckpt *c)
{
    struct dmt_store *st = c->st;
    if (st->wr.h)
        sqlite3_exec(st->wr.h, "ROLLBACK", NULL, NULL, NULL);
    store_db_close(&st->wr);
    uint64_t commits = 0;
    st->wr_broken = store_db_open(&st->wr, st->dir, STORE_DB_WRITE, NULL) < 0;
    return !st->wr_broken && store_db_meta_u64(&st->wr, ".commits", &commits) > 0 &&
           commits == st->commits + 1;
}

/* The reading connection sees the commit from here on. It cannot fail: no statement of it is
 * running, and to leave a read transaction and to begin one touches no disk. */
static void renew_reader(struct dmt_store *st)
{
    int r = store_db_renew(&st->rd);
    DMT_ASSERT(r == 0);
}

/* All of the WAL goes to the database, so that the next transaction starts at its beginning again:
 * SQLite does so only while no reader is in it, so the reader has to leave it afterwards. */
static void shorten_wal(struct dmt_store *st, const struct dmt_lockfn *lk)
{
    sqlite3 *h = st->wr.h;
    int frames = 0, done = 0;
    sqlite3_wal_checkpoint_v2(h, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &done);
    lk->lock(lk->ctx);
    renew_reader(st);
    lk->unlock(lk->ctx);
    if (frames > 0 && (uint64_t)frames * PAGE_BYTES > WAL_BYTES_MAX)
        sqlite3_wal_checkpoint_v2(h, NULL, SQLITE_CHECKPOINT_TRUNCATE, &frames, &done);
}

static void take_over(struct ckpt *c)
{
    struct dmt_store *st = c->st;
    renew_reader(st);
    store_batch_commit(st, c->b);
    for (size_t i = 0; i < c->garbage.n; i++)
        store_spaces_add(&st->later, c->garbage.v[i].ino, c->garbage.v[i].serial,
                         c->garbage.v[i].foff, c->garbage.v[i].len);
    st->pinned_bytes += (uint64_t)c->pinned_delta;
    st->commits++;
    st->garbage_rows = st->later.n > 0;
    struct chunk *old = st->sweep.name;
    st->sweep = c->sweep;
    c->sweep.name = NULL;
    store_chunk_unref(old);
}

int dmt_store_checkpoint(struct dmt_store *st, const struct dmt_lockfn *lk, struct dmt_err *err)
{
    struct ckpt c = {.st = st, .lk = lk, .db = &st->wr};
    lk->lock(lk->ctx);
    c.b = st->batch;
    c.in_place_ok = st->exports == 0;
    bool busy = st->running;
    if (c.b && !busy)
        st->running = true;
    lk->unlock(lk->ctx);
    if (busy)
        return dmt_err_set(err, -EBUSY, "a checkpoint is being written already");
    if (!c.b)
        return 0;
    c.sweep = st->sweep;
    if (c.sweep.name)
        store_chunk_ref(c.sweep.name);
    int r = 0;
    if (st->wr_broken)
        r = store_db_open(&st->wr, st->dir, STORE_DB_WRITE, err);
    if (r == 0) {
        st->wr_broken = false;
        sort_batch(c.b);
        r = write_batch(&c);
        if (r < 0) {
            bool db = st->wr.h && sqlite3_errcode(st->wr.h) != SQLITE_OK;
            dmt_err_set(err, r, "%s %s/%s: %s", db ? "cannot write" : "cannot write data files in",
                        st->dir, db ? "workspace.db" : "data",
                        db ? sqlite3_errmsg(st->wr.h) : dmt_strerror(r));
            if (committed_anyway(&c))
                r = 0;
        }
    }
    lk->lock(lk->ctx);
    release_files(&c, r == 0);
    if (r == 0)
        take_over(&c);
    else
        store_batch_merge(st, c.b);
    st->running = false;
    lk->unlock(lk->ctx);
    if (r == 0) {
        store_gc_files(st, lk);
        shorten_wal(st, lk);
    }
    store_chunk_unref(c.sweep.name);
    free(c.freed.v);
    free(c.garbage.v);
    free(c.gone.v);
    return r;
}
