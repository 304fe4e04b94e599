/* ballast.c: STORE/ballast: blocks that are held so that a checkpoint can be written on a full
 * disk.
 *
 * What is deleted in a workspace gives its blocks back with the next checkpoint, and that needs
 * room itself: in the database's WAL, in the database, for bytes that were in memory. On a disk
 * that others have filled nothing would ever be freed. So a file of allocated blocks is kept; a
 * checkpoint that finds no room deletes it and tries once more, and after one that came through it
 * is made again, as soon as the disk has four times its size. Happy path: one fstat at open.
 * Failure modes: none that matter: without ballast the checkpoint fails for want of room and is
 * repeated, as before. Nothing here is synced: a ballast that a power cut took is made again.
 * Thread: whoever opens, then the checkpointer.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include "fs/store/internal.h"

static void ballast_path(const struct dmt_store *st, char buf[PATH_MAX])
{
    snprintf(buf, PATH_MAX, "%s/ballast", st->dir);
}

void store_ballast_find(struct dmt_store *st)
{
    const struct dmt_io *io = st->conf.io;
    char path[PATH_MAX];
    struct stat sb;
    ballast_path(st, path);
    st->ballast = false;
    int fd = st->conf.ballast_bytes ? io->open(io->ctx, path, O_RDWR, 0) : -ENOENT;
    if (fd < 0)
        return;
    st->ballast =
        io->fstat(io->ctx, fd, &sb) == 0 && (uint64_t)sb.st_size == st->conf.ballast_bytes;
    io->close(io->ctx, fd);
}

void dmt_store_ballast_keep(struct dmt_store *st)
{
    const struct dmt_io *io = st->conf.io;
    uint64_t bytes = st->conf.ballast_bytes, total, left;
    char path[PATH_MAX];
    if (!bytes || st->ballast || dmt_store_space(st, &total, &left) < 0 || left < 4 * bytes)
        return;
    ballast_path(st, path);
    int fd = io->open(io->ctx, path, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return;
    st->ballast = io->fallocate(io->ctx, fd, 0, 0, bytes) == 0;
    io->close(io->ctx, fd);
    if (!st->ballast)
        (void)io->unlink(io->ctx, path);
}

bool dmt_store_ballast_drop(struct dmt_store *st)
{
    char path[PATH_MAX];
    if (!st->ballast)
        return false;
    ballast_path(st, path);
    st->ballast = st->conf.io->unlink(st->conf.io->ctx, path) < 0;
    return !st->ballast;
}
