/* recover.c: opening a folder for writing = survey + repair.
 *
 * Owns the steps between "this is the history" (survey.c) and "append here". Happy path: build the
 * table of segments with their indexes; make the tail safe to append to: zero what a crash may have
 * left behind it, write again what nothing proves to be durable, add a PAD, fdatasync; then take
 * away the files that do not count. Every step can be interrupted and repeated.
 *
 * Why write again: if an earlier process met a failed fdatasync and died, the kernel still shows
 * the pages, calls them clean, and the next fdatasync would succeed without writing them. Writing
 * the same bytes makes them dirty again; a torn write of equal bytes changes nothing. It begins at
 * the first record that is not proven durable, which by the PADs starts a block.
 *
 * Failure modes: whatever the survey refuses; I/O errors of the repair fail the open. Thread: the
 * opener's; no other is running.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "fs/journal/internal.h"

/* Segment objects are made when their first record is seen, to collect its index. */
static int object_of(struct journal_found *f)
{
    if (!f->seg)
        f->seg = journal_segment_new(f->serial, -1, f->size, &f->hdr.prev);
    return f->seg ? 0 : -ENOMEM;
}

static int on_record(void *ctx, struct journal_found *f, const struct dmt_rec *r, uint64_t off)
{
    (void)ctx;
    int res = object_of(f);
    if (res == 0)
        journal_segment_note(f->seg, r->seq, off);
    return res;
}

/* Opens the kept segments and puts them into the table. */
static int build_table(struct dmt_journal *j, struct journal_survey *s)
{
    const struct dmt_io *io = j->conf.io;
    for (size_t i = 0; i < s->found_n; i++) {
        struct journal_found *f = &s->found[i];
        char path[JOURNAL_PATH_MAX];
        if (!f->kept)
            continue;
        int r = object_of(f);
        if (r < 0)
            return r;
        journal_path(j, f->serial, path);
        int fd = io->open(io->ctx, path, O_RDWR, 0);
        if (fd < 0)
            return fd;
        f->seg->fd = fd;
        f->seg->end = f->end;
        f->seg->last_seq = f->last_seq;
        f->seg->raw = journal_written_end(fd, f->seg->bytes) < f->seg->bytes;
        r = journal_segment_add(j, f->seg);
        if (r < 0)
            return r;
    }
    return 0;
}

static void free_objects(struct journal_survey *s)
{
    for (size_t i = 0; i < s->found_n; i++) {
        struct journal_segment *seg = s->found[i].seg;
        if (seg && !seg->live) {
            if (seg->fd >= 0)
                (void)s->io->close(s->io->ctx, seg->fd);
            free(seg->index);
            free(seg);
        }
    }
}

static bool has_full_size(struct dmt_journal *j, const char *path)
{
    const struct dmt_io *io = j->conf.io;
    struct stat st;
    int fd = io->open(io->ctx, path, O_RDONLY, 0);
    if (fd < 0)
        return false;
    int r = io->fstat(io->ctx, fd, &st);
    (void)io->close(io->ctx, fd);
    return r == 0 && (uint64_t)st.st_size == j->conf.segment_bytes;
}

/* Keeps usable spares, removes the others and what was being prepared. */
static int sort_spares(struct dmt_journal *j, const struct journal_survey *s)
{
    const struct dmt_io *io = j->conf.io;
    char path[JOURNAL_PATH_MAX];
    snprintf(path, sizeof(path), "%s/" JOURNAL_PREPARE_NAME, j->dir);
    int r = io->unlink(io->ctx, path);
    if (r < 0 && r != -ENOENT)
        return r;
    for (size_t i = 0; i < s->spares_n; i++) {
        journal_spare_path(j, s->spares[i], path);
        if (j->spares_n < JOURNAL_SPARES && has_full_size(j, path)) {
            j->spares[j->spares_n++] = s->spares[i];
            continue;
        }
        r = io->unlink(io->ctx, path);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Segments that do not count become spares or go, durably. */
static int drop_others(struct dmt_journal *j, const struct journal_survey *s)
{
    const struct dmt_io *io = j->conf.io;
    char path[JOURNAL_PATH_MAX], spare[JOURNAL_PATH_MAX];
    bool any = false;
    for (size_t i = 0; i < s->found_n; i++) {
        const struct journal_found *f = &s->found[i];
        if (f->kept)
            continue;
        any = true;
        journal_path(j, f->serial, path);
        journal_spare_path(j, f->serial, spare);
        bool keep = f->size == j->conf.segment_bytes && j->spares_n < JOURNAL_SPARES;
        int r = keep ? io->rename(io->ctx, path, spare) : io->unlink(io->ctx, path);
        if (r < 0)
            return r;
        if (keep)
            j->spares[j->spares_n++] = f->serial;
    }
    return any ? io->sync_dir(io->ctx, j->dir) : 0;
}

/* A crash may have left a file that was just made without its full size. Without space for it it
 * takes no more records. */
static void restore_size(struct dmt_journal *j, struct journal_segment *s, uint64_t full)
{
    if (s->bytes >= full)
        return;
    int r = j->conf.io->fallocate(j->conf.io->ctx, s->fd, 0, 0, full);
    s->full = r < 0;
    if (r == 0)
        s->bytes = full;
    s->dirty = true;
}

/* Zeros over whatever stands behind the tail, so that a record that was dropped never comes back.
 */
static int wipe_behind(struct dmt_journal *j, struct journal_segment *s)
{
    const struct dmt_io *io = j->conf.io;
    uint64_t written = journal_written_end(s->fd, s->bytes);
    uint64_t room = written > s->end ? written - s->end : 0;
    size_t n = room < JOURNAL_TORN_MAX ? (size_t)room : JOURNAL_TORN_MAX;
    uint8_t *buf = malloc(n + 1);
    if (!buf)
        return -ENOMEM;
    ssize_t got = io->pread(io->ctx, s->fd, buf, n, s->end);
    bool clean = got == (ssize_t)n;
    for (size_t i = 0; clean && i < n; i++)
        clean = buf[i] == 0;
    if (got >= 0 && !clean) {
        memset(buf, 0, n);
        got = io->pwrite(io->ctx, s->fd, buf, n, s->end);
        s->dirty = true;
    }
    free(buf);
    return got < 0 ? (int)got : 0;
}

struct search {
    uint64_t seq, off;
};

static int stop_at(void *ctx, const struct dmt_rec *r, uint64_t off)
{
    struct search *s = ctx;
    if (r->seq < s->seq)
        return 0;
    s->off = off;
    return 1;
}

/* Writes the same bytes again from the first record after `proven` on, the header too if no record
 * before it is in the file. */
static int write_again(struct dmt_journal *j, struct journal_survey *sv, struct journal_found *f,
                       uint64_t proven)
{
    const struct dmt_io *io = j->conf.io;
    struct journal_segment *s = f->seg;
    const uint8_t *img;
    size_t n;
    int r = journal_image_load(sv, f, &img, &n);
    if (r < 0)
        return r;
    struct search found = {proven + 1, s->end};
    struct journal_walk w = {.pos = s->prev, .off = JOURNAL_SEG_HDR};
    (void)journal_image_walk(img, n, s->serial, s->last_seq, &w, stop_at, &found);
    uint64_t from = s->prev.seq >= proven ? 0 : found.off;
    r = n >= s->end ? 0 : -EIO;
    if (r == 0 && from < s->end) {
        ssize_t done = io->pwrite(io->ctx, s->fd, img + from, (size_t)(s->end - from), from);
        r = done < 0 ? (int)done : 0;
        s->dirty = true;
    }
    return r;
}

/* Everything kept is durable behind this. */
static int make_durable(struct dmt_journal *j, struct journal_survey *sv)
{
    const struct dmt_io *io = j->conf.io;
    int r = 0;
    for (size_t i = 0; r == 0 && i < sv->found_n; i++) {
        struct journal_found *f = &sv->found[i];
        if (f->seg == journal_current(j))
            restore_size(j, f->seg, f->hdr.bytes);
        if (f->kept && (f->last_seq > sv->claim || f->hdr.prev.seq >= sv->claim))
            r = write_again(j, sv, f, sv->claim);
    }
    struct journal_segment *last = journal_current(j);
    if (r == 0)
        r = wipe_behind(j, last);
    if (r == 0 && last->end % JOURNAL_BLOCK != 0 && !last->full)
        r = journal_pad_write(j, last);
    for (size_t i = 0; r == 0 && i < j->segs_n; i++) {
        if (j->segs[i]->dirty)
            r = io->fdatasync(io->ctx, j->segs[i]->fd);
        j->segs[i]->dirty = false;
    }
    /* Names: a segment may have got its name shortly before the crash. */
    return r == 0 ? io->sync_dir(io->ctx, j->dir) : r;
}

/* The first segment of a journal, or of a new beginning. */
static int begin_at(struct dmt_journal *j, const struct dmt_pos *pos, uint32_t flags,
                    struct dmt_err *err)
{
    const struct dmt_io *io = j->conf.io;
    struct journal_segment *s;
    j->tail = j->durable = *pos;
    int r = journal_segment_make(j, pos, &s, err);
    if (r < 0)
        return r;
    r = journal_segment_start(j, s, flags);
    if (r == 0)
        r = io->fdatasync(io->ctx, s->fd);
    if (r == 0)
        r = io->sync_dir(io->ctx, j->dir);
    s->dirty = false;
    j->dir_dirty = false;
    int added = journal_segment_add(j, s);
    if (added < 0) {
        journal_segment_unref(j, s);
        r = added;
    }
    return r < 0
               ? dmt_err_set(err, r, "cannot start the journal in %s: %s", j->dir, dmt_strerror(r))
               : 0;
}

static int repair(struct dmt_journal *j, struct journal_survey *sv)
{
    int r = build_table(j, sv);
    if (r < 0)
        return r;
    /* A PAD states what was proven before this open, no more. */
    j->tail = j->durable = sv->tail;
    j->durable.seq = j->claim = sv->claim;
    r = make_durable(j, sv);
    j->durable = j->tail;
    /* Last: what makes a segment void may have been visible and not durable until now. */
    return r == 0 ? drop_others(j, sv) : r;
}

int journal_recover(struct dmt_journal *j, struct dmt_err *err)
{
    struct journal_survey sv = {
        .io = j->conf.io,
        .dir = j->dir,
        .lineage = j->conf.lineage,
        .floor = &j->conf.floor,
        .list_only = j->conf.start_over,
        .record = on_record,
    };
    int r = journal_survey(&sv, err);
    if (r < 0)
        goto out;
    if (sv.headless > 0) {
        struct dmt_err why = {0};
        journal_survey_headless(&sv, &why);
        dmt_warn("%s", why.msg);
    }
    j->next_serial = sv.number_max + 1;
    r = sort_spares(j, &sv);
    if (r < 0) {
        dmt_err_set(err, r, "cannot clean up the journal in %s: %s", j->dir, dmt_strerror(r));
        goto out;
    }
    if (sv.any) {
        r = repair(j, &sv);
        if (r < 0)
            dmt_err_set(err, r, "cannot repair the journal in %s: %s", j->dir, dmt_strerror(r));
    } else {
        r = begin_at(j, &j->conf.floor, j->conf.start_over ? JOURNAL_SEG_RESET : 0, err);
        if (r == 0)
            r = drop_others(j, &sv);
    }
out:
    free_objects(&sv);
    journal_survey_free(&sv);
    return r;
}
