/* segment.c: segment files and the table of them.
 *
 * Owns the names in the folder and struct journal_segment. Happy path of a file: prepare.c gives a
 * spare the next serial, durably, and opens it (j->next); it is taken (make), gets a header
 * (start), is put at the end of the table (add), is appended to until it is full, and when nobody
 * needs it is taken out of the table (drop), waits its turn in j->discards, and becomes a spare
 * again. The number in a file's name is never less than the serial of any life it has had, and a
 * new serial is greater than all numbers in the folder: the salt that makes old content
 * recognisable rests on that.
 *
 * Failure modes: nothing prepared: a file is made here with fallocate, which is quick and tells
 * ENOSPC before anything is written. It is `raw`: each sync turns unwritten extents into written
 * ones, which costs a second write and its wait. So is the first segment of every journal; where
 * syncs are many a segment of zeros takes its place (prepare.c). A segment whose
 * header cannot be written is discarded; without a header it counts for nothing.
 *
 * Reference counts: the table, each reader and a sync under way hold one; the descriptor is closed
 * with the last. Once a segment is not `live` its file may get another life at any moment: whoever
 * read from it checks `live` afterwards, under the lock.
 *
 * Thread: any, under the journal's lock.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "fs/journal/internal.h"

void journal_path(const struct dmt_journal *j, uint64_t serial, char ret[JOURNAL_PATH_MAX])
{
    snprintf(ret, JOURNAL_PATH_MAX, "%s/%016" PRIx64 ".seg", j->dir, serial);
}

void journal_spare_path(const struct dmt_journal *j, uint64_t number, char ret[JOURNAL_PATH_MAX])
{
    snprintf(ret, JOURNAL_PATH_MAX, "%s/spare-%016" PRIx64, j->dir, number);
}

struct journal_segment *journal_segment_new(uint64_t serial, int fd, uint64_t bytes,
                                            const struct dmt_pos *prev)
{
    struct journal_segment *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->serial = serial;
    s->fd = fd;
    s->refs = 1;
    s->prev = *prev;
    s->last_seq = prev->seq;
    s->end = JOURNAL_SEG_HDR;
    s->indexed = JOURNAL_SEG_HDR;
    s->bytes = bytes;
    return s;
}

void journal_segment_unref(struct dmt_journal *j, struct journal_segment *s)
{
    DMT_ASSERT(s->refs > 0);
    if (--s->refs > 0)
        return;
    DMT_ASSERT(!s->live);
    (void)j->conf.io->close(j->conf.io->ctx, s->fd);
    free(s->index);
    free(s);
}

void journal_segment_note(struct journal_segment *s, uint64_t seq, uint64_t off)
{
    if (off < s->indexed + JOURNAL_INDEX_STEP)
        return;
    if (s->index_n == s->index_cap) {
        size_t cap = s->index_cap ? 2 * s->index_cap : 64;
        struct journal_index *grown = realloc(s->index, cap * sizeof(*grown));
        if (!grown)
            return; /* a coarser index only makes looking up slower */
        s->index = grown;
        s->index_cap = cap;
    }
    s->index[s->index_n++] = (struct journal_index){seq, off};
    s->indexed = off;
}

struct journal_index journal_segment_seek(const struct journal_segment *s, uint64_t seq)
{
    struct journal_index best = {s->prev.seq + 1, JOURNAL_SEG_HDR};
    size_t lo = 0, hi = s->index_n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->index[mid].seq <= seq) {
            best = s->index[mid];
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return best;
}

size_t journal_segment_find(const struct dmt_journal *j, uint64_t seq)
{
    size_t lo = 0, hi = j->segs_n - 1;
    while (lo < hi) {
        size_t mid = lo + (hi - lo + 1) / 2;
        if (j->segs[mid]->prev.seq < seq)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* Writes zeros where fallocate is not known. */
static int fill(struct dmt_journal *j, int fd, uint64_t bytes)
{
    const struct dmt_io *io = j->conf.io;
    static const uint8_t zeros[64u << 10];
    for (uint64_t off = 0; off < bytes;) {
        size_t n = bytes - off < sizeof(zeros) ? (size_t)(bytes - off) : sizeof(zeros);
        ssize_t w = io->pwrite(io->ctx, fd, zeros, n, off);
        if (w < 0)
            return (int)w;
        off += n;
    }
    return 0;
}

static int create(struct dmt_journal *j, uint64_t serial, int *ret_fd)
{
    const struct dmt_io *io = j->conf.io;
    char path[JOURNAL_PATH_MAX];
    journal_path(j, serial, path);
    int fd = io->open(io->ctx, path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return fd;
    int r = io->fallocate(io->ctx, fd, 0, 0, j->conf.segment_bytes);
    if (r == -EOPNOTSUPP)
        r = fill(j, fd, j->conf.segment_bytes);
    if (r < 0) {
        (void)io->close(io->ctx, fd);
        (void)io->unlink(io->ctx, path);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

int journal_segment_make(struct dmt_journal *j, const struct dmt_pos *prev,
                         struct journal_segment **ret, struct dmt_err *err)
{
    pthread_cond_signal(&j->prepare);
    if (j->next) {
        struct journal_segment *s = j->next;
        j->next = NULL;
        s->prev = *prev;
        s->last_seq = prev->seq;
        *ret = s;
        return 0;
    }
    uint64_t serial = j->next_serial++;
    int fd, r = create(j, serial, &fd);
    if (r < 0) {
        dmt_err_set(err, r, "cannot make a new journal segment in %s: %s", j->dir, dmt_strerror(r));
        dmt_err_hint(err, "free space on that file system: a segment takes %" PRIu64 " bytes",
                     j->conf.segment_bytes);
        return r;
    }
    j->dir_dirty = true;
    struct journal_segment *s = journal_segment_new(serial, fd, j->conf.segment_bytes, prev);
    if (!s) {
        (void)j->conf.io->close(j->conf.io->ctx, fd);
        return dmt_err_set(err, -ENOMEM, "no memory for a journal segment");
    }
    s->raw = true;
    *ret = s;
    return 0;
}

int journal_segment_start(struct dmt_journal *j, struct journal_segment *s, uint32_t flags)
{
    const struct dmt_io *io = j->conf.io;
    uint8_t block[JOURNAL_SEG_HDR];
    struct journal_seg_hdr h = {
        .flags = flags,
        .serial = s->serial,
        .prev = s->prev,
        .durable_seq = j->durable.seq < s->prev.seq ? j->durable.seq : s->prev.seq,
        .created_ns = j->conf.clock->realtime_ns(j->conf.clock->ctx),
        .bytes = s->bytes,
    };
    memcpy(h.lineage, j->conf.lineage, sizeof(h.lineage));
    journal_hdr_put(block, &h);
    ssize_t w = io->pwrite(io->ctx, s->fd, block, sizeof(block), 0);
    if (w < 0)
        return (int)w;
    s->dirty = true;
    if (h.durable_seq > j->claim)
        j->claim = h.durable_seq;
    return 0;
}

int journal_segment_add(struct dmt_journal *j, struct journal_segment *s)
{
    if (j->segs_n == j->segs_cap) {
        size_t cap = j->segs_cap ? 2 * j->segs_cap : 16;
        struct journal_segment **grown = realloc(j->segs, cap * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        j->segs = grown;
        j->segs_cap = cap;
    }
    DMT_ASSERT(j->segs_n == 0 || journal_current(j)->serial < s->serial);
    s->live = true;
    j->segs[j->segs_n++] = s;
    return 0;
}

void journal_segment_discard(struct dmt_journal *j, struct journal_segment *s)
{
    s->live = false;
    dmt_list_add_tail(&j->discards, &s->node);
    pthread_cond_signal(&j->prepare);
}

void journal_segments_drop(struct dmt_journal *j, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        journal_segment_discard(j, j->segs[i]);
    memmove(&j->segs[from], &j->segs[to], (j->segs_n - to) * sizeof(j->segs[0]));
    j->segs_n -= to - from;
}
