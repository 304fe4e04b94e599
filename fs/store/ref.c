/* ref.c: by-reference writes: bulk bytes go to the data file before their record is logged; the
 * record only switches the map.
 *
 * The place is a pure function of the records (D2): at the same offset as in the file while that is
 * at or above everything ever written to this base file, else at its high-water mark. So recovery,
 * which applies the same records, finds the bytes again, and nothing that a row refers to is ever
 * overwritten. A long write does not stay in the page cache, where the mount has it already, unless
 * it is about to be read back for the other machine (docs/decisions/0012, 0020). What was put is
 * not durable; the range stands in the missing list until a MARK. ref_sync makes it durable: it
 * collects the files with missing ranges, syncs them without the lock, and notes what was synced
 * only if no newer bytes came meanwhile. Failure modes: ENOSPC and EIO at the put: nothing has
 * changed, the record is not logged; EIO at the sync: what was in
 * flight counts as lost and stays in the list until it is written again (elsewhere). Thread:
 * workspace lock; dmt_store_ref_sync takes it itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "fs/store/internal.h"

#define DROP_BEHIND (8u << 20)

int dmt_store_ref_place(struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t len,
                        struct dmt_place *ret)
{
    if (len == 0 || len > DMT_FILE_SIZE_MAX || off > DMT_FILE_SIZE_MAX - len)
        return len ? -EFBIG : -EINVAL;
    struct node *n;
    int r = store_node(st, ino, &n);
    if (r == 0)
        r = store_file_marks_load(st, n);
    if (r < 0)
        return r;
    *ret =
        (struct dmt_place){.ino = ino, .serial = n->serial, .foff = off >= n->hwm ? off : n->hwm};
    return ret->foff > DMT_FILE_SIZE_MAX - len ? -EFBIG : 0;
}

/* --- the page cache */

/* The window is what memory can spare: beyond it the reader is so far behind that it reads from the
 * disk, at the rate of its link. */
static bool keeps(struct dmt_store *st, size_t len)
{
    if (!atomic_load_explicit(&st->ref_read_back, memory_order_relaxed))
        return false;
    uint64_t unread = atomic_load_explicit(&st->ref_unread, memory_order_relaxed);
    if (unread + len > st->ref_window)
        return false;
    atomic_fetch_add_explicit(&st->ref_unread, len, memory_order_relaxed);
    return true;
}

void dmt_store_ref_read_back(struct dmt_store *st, bool on)
{
    atomic_store(&st->ref_unread, 0);
    atomic_store(&st->ref_read_back, on);
}

/* A folio goes only as a whole and when it is clean: so what is before the piece is tried again. */
void dmt_store_pieces_drop(struct dmt_store *st, const struct dmt_pieces *ps)
{
    for (int i = 0; i < ps->n; i++) {
        const struct dmt_piece *p = &ps->v[i];
        const struct dfile *f = p->file;
        if (!f)
            continue;
        uint64_t before = p->foff < DROP_BEHIND ? p->foff : DROP_BEHIND;
        if (st->conf.io == dmt_io_real())
            (void)posix_fadvise(f->fd, (off_t)(p->foff - before), (off_t)(p->len + before),
                                POSIX_FADV_DONTNEED);
        uint64_t unread = atomic_load_explicit(&st->ref_unread, memory_order_relaxed);
        while (!atomic_compare_exchange_weak(&st->ref_unread, &unread,
                                             unread > p->len ? unread - p->len : 0))
            ;
    }
}

int dmt_store_ref_put(struct dmt_store *st, const struct dmt_place *pl, const void *p, size_t len)
{
    struct dfile *f = store_file_get(st, pl->ino, pl->serial);
    int r = store_file_open(st, f, true);
    if (r == 0) {
        const struct dmt_io *io = st->conf.io;
        f->unsynced = true;
        f->writes++;
        ssize_t n = len >= DMT_REF_LONG_MIN
                        ? io->pwrite_long(io->ctx, f->fd, p, len, pl->foff, keeps(st, len))
                        : io->pwrite(io->ctx, f->fd, p, len, pl->foff);
        r = n < 0 ? (int)n : 0;
    }
    store_file_put(st, f);
    return r;
}

int dmt_store_write_ref(struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t len,
                        uint64_t seq)
{
    struct dmt_place pl;
    struct node *n;
    int r = dmt_store_ref_place(st, ino, off, len, &pl);
    if (r == 0)
        r = store_node(st, ino, &n);
    if (r == 0)
        r = store_base_load(st, n);
    if (r < 0)
        return r;
    /* From complete to incomplete: what the file holds now is what it falls back to, if it is known
     * to somebody by now: to a checkpoint, or to who called for a sync. */
    if ((n->disk || n->frozen || n->marked) && n->map_hi &&
        (r = store_keep_self(st, n, seq - 1, false)) < 0)
        return r;
    if ((r = store_content_change(st, n, off, off + len, seq)) < 0)
        return r;
    struct piece p = {.kind = PIECE_FILE,
                      .off = off,
                      .end = off + len,
                      .born = seq,
                      .owner = ino,
                      .serial = pl.serial,
                      .foff = pl.foff};
    store_content_put(st, n, &p);
    n->hwm = pl.foff + len;
    store_node_dirty(st, n, NODE_FILE);
    store_missing_add(st, ino, off, len, seq, &pl, false);
    return 0;
}

/* --- making them durable */

struct sync_list {
    struct dmt_store *st;
    struct sync_item {
        struct dfile *f;
        uint64_t writes, names;
        int r;
    } * v;
    size_t n, cap;
};

static int collect(void *ctx, struct mrow *m)
{
    struct sync_list *l = ctx;
    for (size_t i = l->n; i-- > 0;)
        if (l->v[i].f->ino == m->owner && l->v[i].f->serial == m->serial) {
            if (m->foff < l->v[i].f->lost_below)
                l->v[i].r = -EIO;
            return 0;
        }
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 16;
        l->v = realloc(l->v, l->cap * sizeof(*l->v));
        DMT_ASSERT(l->v);
    }
    struct dfile *f = store_file_get(l->st, m->owner, m->serial);
    int r = m->foff < f->lost_below ? -EIO : store_file_open(l->st, f, false);
    l->v[l->n++] = (struct sync_item){
        .f = f, .writes = f->writes, .names = store_file_dir_pending(l->st, f), .r = r};
    return 0;
}

static int is_short(void *ctx, struct mrow *m)
{
    struct dmt_store *st = ctx;
    struct stat sb;
    if (m->died || m->fill != FILL_NONE)
        return 0;
    struct dfile *f = store_file_get(st, m->owner, m->serial);
    int r = store_file_open(st, f, false);
    if (r == 0)
        r = st->conf.io->fstat(st->conf.io->ctx, f->fd, &sb);
    bool found = r == 0 && (uint64_t)sb.st_size < m->foff + (m->end - m->off);
    store_file_put(st, f);
    return found;
}

bool dmt_store_ref_short(struct dmt_store *st)
{
    return store_missing_each(st, 0, is_short, st) != 0;
}

int dmt_store_ref_sync(struct dmt_store *st, const struct dmt_lockfn *lk, uint64_t ino)
{
    struct sync_list l = {.st = st};
    const struct dmt_io *io = st->conf.io;
    lk->lock(lk->ctx);
    store_missing_each(st, ino, collect, &l);
    lk->unlock(lk->ctx);
    for (size_t i = 0; i < l.n; i++) {
        struct sync_item *it = &l.v[i];
        if (it->r == 0)
            it->r = io->fdatasync(io->ctx, it->f->fd);
        if (it->r == 0 && it->names)
            it->r = store_file_sync_dir(st, it->f);
    }
    int r = 0;
    lk->lock(lk->ctx);
    for (size_t i = 0; i < l.n; i++) {
        struct sync_item *it = &l.v[i];
        struct dfile *f = it->f;
        if (it->r == 0) {
            store_file_dir_done(st, f, it->names);
            f->unsynced &= f->writes != it->writes;
        } else if (it->r != -ENOENT) {
            f->tainted = true;
            f->lost_below = store_missing_place_end(st, f->ino, f->serial);
        }
        r = r < 0 ? r : it->r;
        store_file_put(st, f);
    }
    lk->unlock(lk->ctx);
    free(l.v);
    return r;
}
