/* append.c: from a record in memory to bytes in the current segment.
 *
 * Owns the path of an append. Happy path: reserve room in the ring, copy the body there, seal the
 * frame in its place, one pwrite from the ring to the segment, move the tail. Records that another
 * journal made (append_raw) take the same way, many in one pwrite.
 *
 * Failure modes: the segment is full: roll to the next (ENOSPC comes from there, before anything is
 * written). The ring is full: ask for a sync and wait. pwrite fails: the first bytes are
 * overwritten with zeros, so that what was not appended is not found by a recovery, and the error
 * is returned; if even that fails the journal has failed. Until the tail moves nothing has
 * happened.
 *
 * Thread: the caller's, one at a time (workspace lock); takes the journal's lock.
 */
#include <inttypes.h>
#include <string.h>

#include "fs/base/bytes.h"
#include "fs/base/log.h"
#include "fs/journal/internal.h"

/* Frames in the ring, one behind the other, that are not written yet. */
struct batch {
    struct dmt_journal *j;
    uint8_t *start;
    size_t len;
    uint64_t ring_from; /* ring tail before it: where to go back to */
    uint64_t first_seq;
    struct dmt_pos pos; /* last record of the batch, or the tail */
};

/* Does the current segment take so many bytes? The last block is for a PAD. A raw one in
 * earnest use is left as soon as there is a better one. */
static bool fits(const struct dmt_journal *j, size_t len)
{
    const struct journal_segment *s = journal_current(j);
    bool leave = journal_segment_outgrown(s) && j->next;
    return !s->full && !leave && s->end + len <= s->bytes - JOURNAL_BLOCK;
}

int journal_roll(struct dmt_journal *j, struct dmt_err *err)
{
    struct journal_segment *s;
    int r = journal_segment_make(j, &j->tail, &s, err);
    if (r < 0)
        return r;
    /* From here on the old one takes nothing more, even if the new header fails: it may have
     * reached the disk, and then supersedes everything behind this tail in the old one. */
    journal_current(j)->full = true;
    r = journal_segment_start(j, s, 0);
    if (r == 0)
        r = journal_segment_add(j, s);
    if (r < 0) {
        journal_segment_discard(j, s);
        return dmt_err_set(err, r, "cannot start a journal segment in %s: %s", j->dir,
                           dmt_strerror(r));
    }
    return 0;
}

/* What was not appended must not be found: no frame begins with a length of 0. */
static void undo_write(struct dmt_journal *j, struct journal_segment *s)
{
    static const uint8_t zeros[8];
    ssize_t w = j->conf.io->pwrite(j->conf.io->ctx, s->fd, zeros, sizeof(zeros), s->end);
    if (w < 0)
        journal_fail(j, (int)w);
}

/* After the tail moved: who has to know. */
static void appended(struct dmt_journal *j, bool first, uint64_t end_before)
{
    const struct journal_segment *s = journal_current(j);
    if (first) {
        j->dirty_since_ns = journal_now_ns();
        if (!j->watching)
            pthread_cond_signal(&j->work);
    }
    if (j->ring.tail - j->ring.head > j->ring.cap / 2 && j->want <= j->durable.seq) {
        j->want = j->tail.seq;
        pthread_cond_signal(&j->work);
    }
    if (end_before <= journal_prepare_from(s) && s->end > journal_prepare_from(s))
        pthread_cond_signal(&j->prepare);
}

/* Writes the batch. Of the last block, if it enters that one, the rest too, as zeros: of a block
 * that is written in part and is not cached the kernel reads the other part from disk first (70 us
 * instead of 1 us), and a recycled file may be in no cache. */
static ssize_t write_batch(const struct batch *b, const struct journal_segment *s)
{
    static const uint8_t zeros[JOURNAL_BLOCK];
    const struct dmt_io *io = b->j->conf.io;
    uint64_t end = s->end + b->len, part = end % JOURNAL_BLOCK;
    if (part == 0 || end - part < s->end)
        return io->pwrite(io->ctx, s->fd, b->start, b->len, s->end);
    struct iovec iov[2] = {
        {.iov_base = b->start, .iov_len = b->len},
        {.iov_base = (void *)(uintptr_t)zeros, .iov_len = JOURNAL_BLOCK - part},
    };
    return io->pwritev(io->ctx, s->fd, iov, 2, s->end);
}

static int flush(struct batch *b, struct dmt_err *err)
{
    struct dmt_journal *j = b->j;
    struct journal_segment *s = journal_current(j);
    if (b->len == 0)
        return 0;
    ssize_t w = write_batch(b, s);
    if (w < 0) {
        j->ring.tail = b->ring_from;
        b->len = 0;
        b->pos = j->tail;
        undo_write(j, s);
        return dmt_err_set(err, (int)w, "cannot append to the journal in %s: %s", j->dir,
                           dmt_strerror((int)w));
    }
    bool first = j->tail.seq == j->durable.seq;
    uint64_t end_before = s->end;
    journal_segment_note(s, b->first_seq, s->end);
    s->end += b->len;
    s->last_seq = b->pos.seq;
    s->dirty = true;
    DMT_ASSERT(b->pos.seq > j->tail.seq && b->pos.epoch >= j->tail.epoch); /* J1 */
    j->tail = b->pos;
    b->len = 0;
    appended(j, first, end_before);
    return 0;
}

static int check_open(struct dmt_journal *j, struct dmt_err *err)
{
    if (j->error == 0)
        return 0;
    return dmt_err_set(err, j->error, "the journal in %s has failed: %s", j->dir,
                       dmt_strerror(j->error));
}

/* Room for the next frame of the batch in ring and segment. May write what the batch has so far,
 * roll, and wait. */
static int place(struct batch *b, size_t len, uint8_t **ret, struct dmt_err *err)
{
    struct dmt_journal *j = b->j;
    uint64_t ring_before;
    uint8_t *p;
    if (len > j->conf.segment_bytes - JOURNAL_SEG_HDR - JOURNAL_BLOCK)
        return dmt_err_set(err, -EMSGSIZE, "a record of %zu bytes does not fit into a segment",
                           len);
    for (;;) {
        int r = check_open(j, err);
        if (r == 0 && b->len > 0 &&
            (b->len + len > JOURNAL_BATCH_MAX || !journal_ring_flat(&j->ring, len) ||
             !fits(j, b->len + len)))
            r = flush(b, err);
        if (r == 0 && !fits(j, b->len + len))
            r = journal_roll(j, err);
        if (r < 0)
            return r;
        ring_before = j->ring.tail;
        p = journal_ring_reserve(&j->ring, len);
        if (p)
            break;
        r = flush(b, err);
        if (r < 0)
            return r;
        /* Another segment may be current after this wait. */
        j->want = j->tail.seq;
        pthread_cond_signal(&j->work);
        pthread_cond_wait(&j->done, &j->lock);
    }
    if (b->len == 0) {
        b->start = p;
        b->ring_from = ring_before;
        b->first_seq = b->pos.seq + 1;
    }
    *ret = p;
    return 0;
}

int dmt_journal_append(struct dmt_journal *j, struct dmt_rec *r, const struct iovec *iov, int n,
                       struct dmt_err *err)
{
    size_t body_len = 0;
    for (int i = 0; i < n; i++)
        body_len += iov[i].iov_len;
    size_t len = journal_frame_size(body_len);
    if (r->type == DMT_REC_PAD || r->flags != 0)
        return dmt_err_set(err, -EINVAL, "a record needs a type and no flags");
    if (len > DMT_RECORD_MAX)
        return dmt_err_set(err, -EMSGSIZE, "a record of %zu bytes is too long", len);

    pthread_mutex_lock(&j->lock);
    struct batch b = {.j = j, .pos = j->tail};
    uint8_t *p;
    int res = 0;
    if (r->epoch < j->tail.epoch)
        res = dmt_err_set(err, DMT_E_STALE, "a record of epoch %#" PRIx64 " after epoch %#" PRIx64,
                          r->epoch, j->tail.epoch);
    if (res == 0)
        res = place(&b, len, &p, err);
    if (res < 0)
        goto out;
    uint8_t *body = p + DMT_REC_HDR;
    for (int i = 0; i < n; i++) {
        memcpy(body, iov[i].iov_base, iov[i].iov_len);
        body += iov[i].iov_len;
    }
    struct dmt_rec rec = *r;
    rec.seq = j->tail.seq + 1;
    rec.body_len = (uint32_t)body_len;
    rec.chain =
        journal_frame_seal(p, &rec, j->tail.chain, journal_salt(journal_current(j)->serial));
    b.len = len;
    b.pos = (struct dmt_pos){rec.epoch, rec.seq, rec.chain};
    res = flush(&b, err);
    if (res == 0) {
        r->seq = rec.seq;
        r->chain = rec.chain;
        r->body_len = rec.body_len;
    }
out:
    pthread_mutex_unlock(&j->lock);
    return res;
}

/* A record as the wire brought it must extend the batch. */
static int check_raw(const struct batch *b, const uint8_t *p, size_t n, struct dmt_rec *r,
                     size_t *len, struct dmt_err *err)
{
    if (dmt_rec_decode(p, n, r, len) < 0 || r->type == DMT_REC_PAD)
        return dmt_err_set(err, DMT_E_CORRUPT, "the record after %" PRIu64 " fails its checksum",
                           b->pos.seq);
    if (r->seq != b->pos.seq + 1 || r->epoch < b->pos.epoch ||
        r->chain != dmt_rec_chain(b->pos.chain, p, *len))
        return dmt_err_set(err, DMT_E_HISTORY,
                           "record %" PRIu64 " of epoch %#" PRIx64
                           " does not follow record %" PRIu64 " of epoch %#" PRIx64,
                           r->seq, r->epoch, b->pos.seq, b->pos.epoch);
    return 0;
}

int dmt_journal_append_raw(struct dmt_journal *j, const void *records, size_t len,
                           struct dmt_err *err)
{
    const uint8_t *p = records, *end = p + len;
    pthread_mutex_lock(&j->lock);
    struct batch b = {.j = j, .pos = j->tail};
    int res = check_open(j, err);
    while (res == 0 && p < end) {
        struct dmt_rec r;
        size_t n;
        uint8_t *to;
        res = check_raw(&b, p, (size_t)(end - p), &r, &n, err);
        if (res == 0)
            res = place(&b, n, &to, err);
        if (res < 0)
            break;
        memcpy(to, p, n);
        journal_frame_resalt(to, 0, journal_salt(journal_current(j)->serial));
        b.len += n;
        b.pos = (struct dmt_pos){r.epoch, r.seq, r.chain};
        p += n;
    }
    /* Records before the bad one stay; their own failure to be written is told only if nothing else
     * went wrong. */
    int flushed = flush(&b, res == 0 ? err : NULL);
    if (res == 0)
        res = flushed;
    pthread_mutex_unlock(&j->lock);
    return res;
}
