/* reader.c: reading the journal while it is being written.
 *
 * Owns struct dmt_jreader. Happy path: look up the segment and the offset of the wanted record (the
 * segment's index gives a place at most 128 KiB before it), read 256 KiB at a time with pread, take
 * the frames out of the buffer, skip PADs.
 *
 * What may happen under a reader: records are appended (the end known before the pread is final for
 * what lies before it); the segment is recycled (after the pread `live` is checked under the lock:
 * bytes of another life are thrown away, and if the wanted record is gone the answer is
 * DMT_E_GONE); records are cut (the journal marks readers beyond the cut, DMT_E_STALE); records
 * move to another file after a failed fdatasync (j->layout changes: look up again). Between such a
 * failure and the move the kernel may show old bytes for a record that is not durable yet: the
 * reader then waits for the move; a durable record that cannot be read is DMT_E_CORRUPT.
 *
 * Thread: one per reader; takes the journal's lock for looking up, never over a pread.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "fs/journal/internal.h"

static void forget_place(struct dmt_jreader *r)
{
    r->at = r->len = 0;
    if (r->seg) {
        journal_segment_unref(r->j, r->seg);
        r->seg = NULL;
    }
}

static void add_reader(struct dmt_jreader *r, struct dmt_journal *j, uint64_t next_seq)
{
    r->j = j;
    r->next_seq = next_seq;
    dmt_list_add_tail(&j->readers, &r->node);
}

int dmt_jreader_open(struct dmt_jreader **ret, struct dmt_journal *j, uint64_t after_seq,
                     struct dmt_err *err)
{
    struct dmt_jreader *r = calloc(1, sizeof(*r));
    if (!r)
        return dmt_err_set(err, -ENOMEM, "no memory for a journal reader");
    int res = 0;
    pthread_mutex_lock(&j->lock);
    uint64_t first = j->segs[0]->prev.seq, tail = j->tail.seq;
    if (after_seq < first)
        res = DMT_E_GONE;
    else if (after_seq > tail)
        res = -ENOENT;
    else
        add_reader(r, j, after_seq + 1);
    pthread_mutex_unlock(&j->lock);
    if (res < 0) {
        free(r);
        return dmt_err_set(err, res,
                           "the journal holds records %" PRIu64 " to %" PRIu64
                           ", not the one after %" PRIu64,
                           first + 1, tail, after_seq);
    }
    *ret = r;
    return 0;
}

void dmt_jreader_close(struct dmt_jreader *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->j->lock);
    forget_place(r);
    dmt_list_del(&r->node);
    pthread_mutex_unlock(&r->j->lock);
    free(r->buf);
    free(r);
}

/* Where the next bytes are: *ret_end is behind what may be read. 1, 0 at the tail, < 0. Lock held.
 */
static int look_up(struct dmt_jreader *r, uint64_t *ret_end, struct dmt_err *err)
{
    struct dmt_journal *j = r->j;
    if (r->stale)
        return dmt_err_set(err, DMT_E_STALE, "the journal was cut before record %" PRIu64,
                           r->next_seq);
    if (r->next_seq > j->tail.seq)
        return 0;
    if (r->next_seq <= j->segs[0]->prev.seq)
        return dmt_err_set(err, DMT_E_GONE, "record %" PRIu64 " is no longer in the journal",
                           r->next_seq);
    uint64_t layout = atomic_load(&j->layout);
    if (r->seg && (r->layout != layout || !r->seg->live || r->next_seq > r->seg->last_seq))
        forget_place(r);
    if (!r->seg) {
        r->seg = j->segs[journal_segment_find(j, r->next_seq)];
        r->seg->refs++;
        r->layout = layout;
        r->at = r->len = 0;
        r->off = journal_segment_seek(r->seg, r->next_seq).off;
    }
    r->last_seq = r->seg->last_seq;
    *ret_end = r->seg->end;
    return 1;
}

static int grow(struct dmt_jreader *r, size_t want)
{
    if (want <= r->cap)
        return 0;
    uint8_t *p = realloc(r->buf, want);
    if (!p)
        return -ENOMEM;
    r->buf = p;
    r->cap = want;
    return 0;
}

/* Reads on from buf[at], at least `need` bytes if they are there. 1 when there is something new or
 * the place changed. */
static int fill(struct dmt_jreader *r, size_t need, struct dmt_err *err)
{
    struct dmt_journal *j = r->j;
    uint64_t end = 0;
    pthread_mutex_lock(&j->lock);
    int res = look_up(r, &end, err);
    struct journal_segment *s = r->seg;
    pthread_mutex_unlock(&j->lock);
    if (res <= 0)
        return res;

    uint64_t from = r->off + r->at;
    if (from >= end)
        return DMT_E_CORRUPT; /* the segment ends before the records it is said to hold */
    size_t want = need > JOURNAL_READ_CHUNK ? need : JOURNAL_READ_CHUNK;
    if (want > end - from)
        want = (size_t)(end - from);
    res = grow(r, want);
    if (res < 0)
        return dmt_err_set(err, res, "no memory to read the journal");
    ssize_t got = j->conf.io->pread(j->conf.io->ctx, s->fd, r->buf, want, from);

    pthread_mutex_lock(&j->lock);
    bool valid = s->live && r->layout == atomic_load(&j->layout);
    if (!valid)
        forget_place(r);
    pthread_mutex_unlock(&j->lock);
    if (!valid)
        return 1;
    if (got < 0)
        return dmt_err_set(err, (int)got, "cannot read the journal: %s", dmt_strerror((int)got));
    r->off = from;
    r->at = 0;
    r->len = (size_t)got;
    return 1;
}

/* The bytes at buf[at] are no frame that can stand there. 1: try again. */
static int unreadable(struct dmt_jreader *r, struct dmt_err *err)
{
    struct dmt_journal *j = r->j;
    int res = 1;
    pthread_mutex_lock(&j->lock);
    uint64_t layout = r->layout;
    if (r->seg && r->seg->live && layout == atomic_load(&j->layout) &&
        r->next_seq <= j->durable.seq)
        res = dmt_err_set(err, DMT_E_CORRUPT,
                          "journal segment %s/%016" PRIx64 ".seg is damaged near offset %" PRIu64
                          ", record %" PRIu64,
                          j->dir, r->seg->serial, r->off + r->at, r->next_seq);
    while (res == 1 && layout == atomic_load(&j->layout) && r->next_seq > j->durable.seq) {
        if (j->error != 0) {
            res = dmt_err_set(err, j->error, "the journal has failed: %s", dmt_strerror(j->error));
            break;
        }
        if (j->want < r->next_seq)
            j->want = r->next_seq;
        pthread_cond_signal(&j->work);
        pthread_cond_wait(&j->done, &j->lock);
    }
    forget_place(r);
    pthread_mutex_unlock(&j->lock);
    return res;
}

/* Takes frames out of the buffer. 1 = the record asked for, 0 = more bytes are needed (*need of
 * them), < 0 = unreadable. */
static int take(struct dmt_jreader *r, struct dmt_rec *ret, const uint8_t **raw, size_t *raw_len,
                size_t *need)
{
    uint32_t salt = r->seg ? journal_salt(r->seg->serial) : 0;
    *need = 0;
    while (r->at < r->len && r->next_seq <= r->last_seq) {
        uint8_t *p = r->buf + r->at;
        size_t left = r->len - r->at;
        size_t len = journal_frame_len(p, left);
        if (len > left || left < 4) {
            *need = len > left ? len : DMT_REC_HDR;
            return 0;
        }
        if (len == 0 || journal_frame_decode(p, left, salt, ret, &len) < 0 ||
            ret->seq > r->next_seq)
            return DMT_E_CORRUPT;
        r->at += len;
        if (ret->type == DMT_REC_PAD || ret->seq < r->next_seq)
            continue;
        journal_frame_resalt(p, salt, 0);
        r->next_seq++;
        if (raw) {
            *raw = p;
            *raw_len = len;
        }
        return 1;
    }
    return 0;
}

int dmt_jreader_next(struct dmt_jreader *r, struct dmt_rec *ret, const uint8_t **raw,
                     size_t *raw_len, struct dmt_err *err)
{
    for (;;) {
        size_t need = 0, before = r->len - r->at;
        int res = r->seg && r->layout == atomic_load(&r->j->layout)
                      ? take(r, ret, raw, raw_len, &need)
                      : 0;
        if (res == 1)
            return 1;
        if (res == 0) {
            const struct journal_segment *s = r->seg;
            res = fill(r, need, err);
            /* A frame that is known to be whole in the file and does not get longer is damaged. */
            if (res == 1 && need > 0 && s == r->seg && r->len - r->at <= before && r->len < need)
                res = DMT_E_CORRUPT;
        }
        if (res == DMT_E_CORRUPT)
            res = unreadable(r, err);
        if (res <= 0)
            return res;
    }
}

int dmt_journal_pos_at(struct dmt_journal *j, uint64_t seq, struct dmt_pos *ret)
{
    pthread_mutex_lock(&j->lock);
    const struct dmt_pos *known = seq == j->tail.seq            ? &j->tail
                                  : seq == j->durable.seq       ? &j->durable
                                  : seq == j->segs[0]->prev.seq ? &j->segs[0]->prev
                                                                : NULL;
    if (known)
        *ret = *known;
    int r = known ? 0 : seq < j->segs[0]->prev.seq ? DMT_E_GONE : seq > j->tail.seq ? -ENOENT : 1;
    pthread_mutex_unlock(&j->lock);
    if (r <= 0)
        return r;
    struct dmt_jreader *reader;
    struct dmt_rec rec;
    r = dmt_jreader_open(&reader, j, seq - 1, NULL);
    if (r < 0)
        return r;
    r = dmt_jreader_next(reader, &rec, NULL, NULL, NULL);
    dmt_jreader_close(reader);
    if (r == 0)
        return -ENOENT;
    if (r < 0)
        return r;
    *ret = (struct dmt_pos){rec.epoch, rec.seq, rec.chain};
    return 0;
}
