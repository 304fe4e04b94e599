/* datafile.c: STORE/data: names, descriptors, and the marks (serial, high-water) of each inode's
 * base file.
 *
 * Owns the cache of open descriptors. A dfile object exists while somebody refers to it, while its
 * descriptor is cached, or while it remembers something that must not be forgotten: by-reference
 * bytes not yet synced (closing the descriptor would lose the error of their writeback), or a
 * failed fdatasync. Happy path: hash look-up, descriptor there. Only clean unreferenced descriptors
 * are closed, coldest first. A directory is synced together with the first sync of a file in it,
 * and again after a file was made there: also in a new process, since the one before may have died
 * between making a file and syncing its name. Failure modes: open errors are returned; a failed
 * fdatasync taints the file for the life of this process: the kernel has dropped the pages, so
 * nothing is rewritten in place there, and by-reference bytes put before are not called durable any
 * more. Thread: workspace lock, but for the descriptor itself, which whoever holds a reference may
 * use.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/store/internal.h"

#define OPEN_MAX_FILES 256u

static uint64_t mix(uint64_t ino, uint32_t serial)
{
    uint64_t x = (ino * 31 + serial) * 0x9e3779b97f4a7c15ull;
    return x ^ x >> 32;
}

static struct dfile **slot_of(struct dmt_store *st, uint64_t ino, uint32_t serial)
{
    return (struct dfile **)(void *)&st->files.slot[mix(ino, serial) & (st->files.cap - 1)];
}

void store_file_path(const struct dmt_store *st, uint64_t ino, uint32_t serial, char *buf,
                     size_t size)
{
    int n = snprintf(buf, size, "%s/data/%02x/%llu.%u", st->dir, (unsigned)(ino & 0xff),
                     (unsigned long long)ino, serial);
    DMT_ASSERT(n > 0 && (size_t)n < size);
}

static struct dfile *find(struct dmt_store *st, uint64_t ino, uint32_t serial)
{
    struct dfile *f = *slot_of(st, ino, serial);
    while (f && (f->ino != ino || f->serial != serial))
        f = f->hash_next;
    return f;
}

struct dfile *store_file_get(struct dmt_store *st, uint64_t ino, uint32_t serial)
{
    struct dfile *f = find(st, ino, serial);
    if (!f) {
        f = store_zalloc(sizeof(*f));
        f->ino = ino;
        f->serial = serial;
        f->fd = -1;
        dmt_list_init(&f->lru);
        struct dfile **slot = slot_of(st, ino, serial);
        f->hash_next = *slot;
        *slot = f;
        st->files.n++;
    }
    f->refs++;
    if (!dmt_list_empty(&f->lru))
        dmt_list_del(&f->lru);
    return f;
}

static void file_free(struct dmt_store *st, struct dfile *f)
{
    struct dfile **slot = slot_of(st, f->ino, f->serial);
    while (*slot != f)
        slot = &(*slot)->hash_next;
    *slot = f->hash_next;
    st->files.n--;
    dmt_list_del(&f->lru);
    if (f->fd >= 0) {
        st->conf.io->close(st->conf.io->ctx, f->fd);
        st->open_files--;
    }
    free(f);
}

void store_file_put(struct dmt_store *st, struct dfile *f)
{
    DMT_ASSERT(f->refs > 0);
    if (--f->refs)
        return;
    if (f->fd < 0 && !f->tainted && !f->unsynced) {
        file_free(st, f);
        return;
    }
    dmt_list_add_head(&st->file_lru, &f->lru);
    for (struct dmt_list *l = st->file_lru.prev;
         l != &st->file_lru && st->open_files > OPEN_MAX_FILES;) {
        struct dfile *old = DMT_CONTAINER(l, struct dfile, lru);
        l = l->prev;
        if (!old->unsynced && !old->tainted)
            file_free(st, old);
    }
}

int store_file_open(struct dmt_store *st, struct dfile *f, bool create)
{
    if (f->fd >= 0)
        return 0;
    char path[PATH_MAX];
    store_file_path(st, f->ino, f->serial, path, sizeof(path));
    const struct dmt_io *io = st->conf.io;
    int fd = io->open(io->ctx, path, O_RDWR, 0);
    if (fd == -ENOENT && create) {
        fd = io->open(io->ctx, path, O_RDWR | O_CREAT, 0600);
        st->dir_names[f->ino & 0xff]++;
    }
    if (fd < 0)
        return fd;
    f->fd = fd;
    st->open_files++;
    return 0;
}

uint64_t store_file_dir_pending(const struct dmt_store *st, const struct dfile *f)
{
    uint64_t names = st->dir_names[f->ino & 0xff];
    return st->dir_durable[f->ino & 0xff] == names ? 0 : names;
}

void store_file_dir_done(struct dmt_store *st, const struct dfile *f, uint64_t pending)
{
    uint64_t *durable = &st->dir_durable[f->ino & 0xff];
    if (pending > *durable)
        *durable = pending;
}

int store_file_sync_dir(struct dmt_store *st, const struct dfile *f)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/data/%02x", st->dir, (unsigned)(f->ino & 0xff));
    return st->conf.io->sync_dir(st->conf.io->ctx, path);
}

/* The file is being unlinked: the next one of that name, if ever, is another. */
void store_file_forget(struct dmt_store *st, uint64_t ino, uint32_t serial)
{
    struct dfile *f = find(st, ino, serial);
    if (f && f->refs == 0)
        file_free(st, f);
}

void store_files_drop(struct dmt_store *st)
{
    for (size_t i = 0; i < st->files.cap; i++)
        while (st->files.slot[i])
            file_free(st, st->files.slot[i]);
}

int store_file_marks_load(struct dmt_store *st, struct node *n)
{
    if (n->file_loaded)
        return 0;
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_DATAFILE_OF, &s, "i", n->ino);
    while (r == 0 && (r = store_sql_step(&st->rd, s)) > 0) {
        if (store_col32(s, 0)) { /* the last row wins: serials only grow */
            n->serial = store_col32(s, 0);
            n->hwm = store_col(s, 1);
        }
        r = 0;
    }
    n->file_loaded = r == 0;
    return r;
}
