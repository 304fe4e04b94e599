/* prepare.c: the helper thread that keeps the sync path free of metadata.
 *
 * Owns j->discards, j->spares and the making of j->next. Happy path: a segment that was released is
 * renamed to a spare and the folder synced, one file after the other, oldest first, so that a crash
 * leaves the newer part of what was released and never a gap. When no next segment is prepared, a
 * spare becomes it; without a spare, and once the current segment is a quarter full (or there are
 * several), a new file is filled with zeros, since fallocate alone leaves unwritten extents whose
 * first sync writes metadata, too. The same as soon as a raw segment is in earnest use
 * (JOURNAL_RAW_SYNCS, JOURNAL_RAW_BYTES); appends leave it when the better one is there.
 *
 * Failure modes: ENOSPC while filling: the file is removed and the try repeated after a second or
 * when a segment is released; an append that needs a segment then finds none and tells ENOSPC
 * itself. A rename or unlink that fails is repeated after a second; those behind it wait, because
 * of the order. A file that got lost between two names is found by the next open.
 *
 * Thread: jprepare (here). Holds the journal's lock only between steps.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "fs/journal/internal.h"

#define FILL_STEP (256u << 10)
#define FILL_SYNC                                                                                  \
    (4u << 20) /* between syncs, so that a commit never waits behind 64 MiB of zeros */
#define PAUSE_NS (10 * DMT_MS)
#define RETRY_NS DMT_S

/* Renames the file of s to a spare or removes it, then syncs the folder. Repeatable. */
static int recycle(struct dmt_journal *j, struct journal_segment *s, bool as_spare)
{
    const struct dmt_io *io = j->conf.io;
    char path[JOURNAL_PATH_MAX], spare[JOURNAL_PATH_MAX];
    journal_path(j, s->serial, path);
    journal_spare_path(j, s->serial, spare);
    int r = 0;
    if (!s->renamed) {
        r = as_spare ? io->rename(io->ctx, path, spare) : io->unlink(io->ctx, path);
        if (r < 0)
            return r;
        s->renamed = true;
    }
    return io->sync_dir(io->ctx, j->dir);
}

static int recycle_oldest(struct dmt_journal *j)
{
    struct journal_segment *s = DMT_CONTAINER(j->discards.next, struct journal_segment, node);
    /* Decided once: a repeated try must not look for the file under its other name. */
    if (!s->renamed)
        s->as_spare = s->bytes == j->conf.segment_bytes && j->spares_n < JOURNAL_SPARES &&
                      (!s->raw || s->end + DMT_RECORD_MAX + JOURNAL_BLOCK > s->bytes);
    bool as_spare = s->as_spare;
    pthread_mutex_unlock(&j->lock);
    int r = recycle(j, s, as_spare);
    pthread_mutex_lock(&j->lock);
    if (r < 0)
        return r;
    if (as_spare)
        j->spares[j->spares_n++] = s->serial;
    dmt_list_del(&s->node);
    journal_segment_unref(j, s);
    return 0;
}

static void wait_until(struct dmt_journal *j, uint64_t after_ns)
{
    uint64_t due_ns = journal_now_ns() + after_ns;
    struct timespec due = {(time_t)(due_ns / DMT_S), (long)(due_ns % DMT_S)};
    (void)pthread_cond_timedwait(&j->prepare, &j->lock, &due);
}

/* Between two steps: lets the syncs of the journal through, unless the next segment is needed soon.
 * False: stop. */
static bool pause_filling(struct dmt_journal *j, bool synced)
{
    pthread_mutex_lock(&j->lock);
    const struct journal_segment *s = journal_current(j);
    if (synced && !j->stop && s->end < s->bytes / 4 * 3)
        wait_until(j, PAUSE_NS);
    bool go_on = !j->stop;
    pthread_mutex_unlock(&j->lock);
    return go_on;
}

static int fill_with_zeros(struct dmt_journal *j, int fd)
{
    static const uint8_t zeros[FILL_STEP];
    const struct dmt_io *io = j->conf.io;
    uint64_t bytes = j->conf.segment_bytes;
    int r = io->fallocate(io->ctx, fd, 0, 0, bytes);
    if (r < 0 && r != -EOPNOTSUPP)
        return r;
    for (uint64_t off = 0; off < bytes; off += FILL_STEP) {
        if (!pause_filling(j, off > 0 && off % FILL_SYNC == 0))
            return -EINTR;
        size_t n = bytes - off < FILL_STEP ? (size_t)(bytes - off) : FILL_STEP;
        ssize_t w = io->pwrite(io->ctx, fd, zeros, n, off);
        r = w < 0 ? (int)w : 0;
        if (r == 0 && (off + n) % FILL_SYNC == 0)
            r = io->fdatasync(io->ctx, fd);
        if (r < 0)
            return r;
    }
    return io->fsync(io->ctx, fd);
}

/* A file full of zeros at `path`. Lock held before and after, not in between. */
static int make_zeros(struct dmt_journal *j, const char *path)
{
    const struct dmt_io *io = j->conf.io;
    pthread_mutex_unlock(&j->lock);
    int fd = io->open(io->ctx, path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    int r = fd;
    if (fd >= 0) {
        r = fill_with_zeros(j, fd);
        (void)io->close(io->ctx, fd);
        if (r < 0)
            (void)io->unlink(io->ctx, path);
    }
    pthread_mutex_lock(&j->lock);
    return r;
}

/* Gives the file at `path` the next serial, durably, before anything is written to it: a crash must
 * not leave content of a life under a lower number. An append that found nothing prepared may have
 * taken a serial meanwhile: then once more. */
static int name_next(struct dmt_journal *j, char path[JOURNAL_PATH_MAX])
{
    const struct dmt_io *io = j->conf.io;
    static const struct dmt_pos unknown;
    uint64_t serial;
    int fd = -1, r;
    do {
        char to[JOURNAL_PATH_MAX];
        serial = j->next_serial++;
        journal_path(j, serial, to);
        pthread_mutex_unlock(&j->lock);
        r = io->rename(io->ctx, path, to);
        if (r == 0)
            r = io->sync_dir(io->ctx, j->dir);
        memcpy(path, to, sizeof(to));
        pthread_mutex_lock(&j->lock);
    } while (r == 0 && j->next_serial != serial + 1);
    if (r == 0)
        r = fd = io->open(io->ctx, path, O_RDWR, 0);
    if (r < 0)
        return r;
    j->next = journal_segment_new(serial, fd, j->conf.segment_bytes, &unknown);
    if (!j->next)
        (void)io->close(io->ctx, fd);
    return j->next ? 0 : -ENOMEM;
}

static int prepare_next(struct dmt_journal *j)
{
    char path[JOURNAL_PATH_MAX];
    int r = 0;
    if (j->spares_n > 0) {
        journal_spare_path(j, j->spares[--j->spares_n], path);
    } else {
        snprintf(path, sizeof(path), "%s/" JOURNAL_PREPARE_NAME, j->dir);
        r = make_zeros(j, path);
    }
    if (r == 0)
        r = name_next(j, path);
    return r;
}

static bool wants_next(const struct dmt_journal *j)
{
    const struct journal_segment *s = journal_current(j);
    return !j->next && (j->spares_n > 0 || j->segs_n > 1 || s->end > journal_prepare_from(s) ||
                        journal_segment_outgrown(s));
}

void *journal_preparer(void *arg)
{
    struct dmt_journal *j = arg;
    pthread_mutex_lock(&j->lock);
    while (!j->stop) {
        int r = 0;
        if (!dmt_list_empty(&j->discards))
            r = recycle_oldest(j);
        else if (wants_next(j))
            r = prepare_next(j);
        else
            pthread_cond_wait(&j->prepare, &j->lock);
        if (r < 0 && r != j->prepare_error && !j->stop)
            dmt_warn("journal %s: cannot prepare a segment: %s", j->dir, dmt_strerror(r));
        j->prepare_error = r;
        if (r < 0 && !j->stop)
            wait_until(j, RETRY_NS);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}
