/* journal.c: life of a journal object, its positions, and the ways to lose records on purpose.
 *
 * Owns open and close, truncate_to, reset, release. Happy path of a truncation (J7): a new segment
 * whose header states the place of the cut is made durable; by the supersede rule everything behind
 * the cut is void from that moment, in one atomic step; the files that hold nothing else are
 * recycled afterwards. A reset is the same with the flag that voids all older segments.
 *
 * Failure modes: a header of a cut that was written but not synced may or may not be on disk, and
 * if it is it voids what is appended later to the old segment; the journal then fails for good
 * rather than go on.
 *
 * Thread: see journal.h.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "fs/base/thread.h"
#include "fs/journal/internal.h"

static int check_conf(struct dmt_journal_conf *c, struct dmt_err *err)
{
    if (c->segment_bytes == 0)
        c->segment_bytes = DMT_SEGMENT_BYTES;
    if (c->segment_bytes % JOURNAL_BLOCK != 0 || c->segment_bytes < JOURNAL_SEGMENT_MIN ||
        c->segment_bytes > JOURNAL_SEGMENT_MAX)
        return dmt_err_set(err, -EINVAL, "a journal segment of %" PRIu64 " bytes is not possible",
                           c->segment_bytes);
    if (strlen(c->dir) >= DMT_PATH_MAX)
        return dmt_err_set(err, -ENAMETOOLONG, "the path of the journal is too long");
    return 0;
}

static int init_locks(struct dmt_journal *j)
{
    pthread_condattr_t attr;
    int r = pthread_condattr_init(&attr);
    if (r == 0)
        r = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (r == 0)
        r = pthread_mutex_init(&j->lock, NULL);
    if (r == 0)
        r = pthread_cond_init(&j->work, &attr);
    if (r == 0)
        r = pthread_cond_init(&j->done, &attr);
    if (r == 0)
        r = pthread_cond_init(&j->prepare, &attr);
    pthread_condattr_destroy(&attr);
    return -r;
}

static struct dmt_journal *journal_new(const struct dmt_journal_conf *conf)
{
    struct dmt_journal *j = calloc(1, sizeof(*j));
    if (!j)
        return NULL;
    j->conf = *conf;
    dmt_list_init(&j->readers);
    dmt_list_init(&j->discards);
    atomic_init(&j->layout, 1);
    j->dir = strdup(conf->dir);
    if (!j->dir || journal_ring_init(&j->ring, JOURNAL_RING_BYTES) < 0 || init_locks(j) < 0) {
        journal_ring_free(&j->ring);
        free(j->dir);
        free(j);
        return NULL;
    }
    return j;
}

void journal_free(struct dmt_journal *j)
{
    DMT_ASSERT(dmt_list_empty(&j->readers));
    for (size_t i = 0; i < j->segs_n; i++) {
        j->segs[i]->live = false;
        journal_segment_unref(j, j->segs[i]);
    }
    if (j->next)
        journal_segment_unref(j, j->next);
    DMT_LIST_EACH(it, tmp, &j->discards)
    {
        dmt_list_del(it);
        journal_segment_unref(j, DMT_CONTAINER(it, struct journal_segment, node));
    }
    pthread_cond_destroy(&j->prepare);
    pthread_cond_destroy(&j->done);
    pthread_cond_destroy(&j->work);
    pthread_mutex_destroy(&j->lock);
    journal_ring_free(&j->ring);
    free(j->segs);
    free(j->dir);
    free(j);
}

static void stop_threads(struct dmt_journal *j)
{
    pthread_mutex_lock(&j->lock);
    j->stop = true;
    pthread_cond_broadcast(&j->work);
    pthread_cond_broadcast(&j->prepare);
    pthread_mutex_unlock(&j->lock);
    if (j->committer_started)
        pthread_join(j->committer, NULL);
    if (j->preparer_started)
        pthread_join(j->preparer, NULL);
}

static int start_threads(struct dmt_journal *j)
{
    int r = dmt_thread_start(&j->committer, "commit", journal_committer, j);
    j->committer_started = r == 0;
    if (r == 0) {
        r = dmt_thread_start(&j->preparer, "jprepare", journal_preparer, j);
        j->preparer_started = r == 0;
    }
    return r;
}

int dmt_journal_open(struct dmt_journal **ret, const struct dmt_journal_conf *conf,
                     struct dmt_err *err)
{
    struct dmt_journal_conf c = *conf;
    int r = check_conf(&c, err);
    if (r < 0)
        return r;
    struct dmt_journal *j = journal_new(&c);
    if (!j)
        return dmt_err_set(err, -ENOMEM, "no memory for a journal");
    r = dmt_io_mkdirs(c.io, j->dir, 0700);
    if (r < 0)
        dmt_err_set(err, r, "cannot make %s: %s", j->dir, dmt_strerror(r));
    if (r == 0)
        r = journal_recover(j, err);
    if (r == 0) {
        j->reported = j->want = j->durable.seq;
        r = start_threads(j);
        if (r < 0) {
            dmt_err_set(err, r, "cannot start a thread: %s", dmt_strerror(r));
            stop_threads(j);
        }
    }
    if (r < 0) {
        journal_free(j);
        return r;
    }
    *ret = j;
    return 0;
}

/* One PAD more, which states that all is durable: the next open then has nothing to write again,
 * and damage of the last group is told from a torn end. Nothing is lost without it. */
static void close_in_order(struct dmt_journal *j)
{
    struct journal_segment *s = journal_current(j);
    if (j->error != 0 || j->claim >= j->tail.seq || s->end + JOURNAL_PAD_MAX > s->bytes)
        return;
    if (journal_pad_write(j, s) == 0)
        (void)j->conf.io->fdatasync(j->conf.io->ctx, s->fd);
}

void dmt_journal_close(struct dmt_journal *j)
{
    if (!j)
        return;
    stop_threads(j);
    close_in_order(j);
    journal_free(j);
}

struct dmt_pos dmt_journal_tail(struct dmt_journal *j)
{
    pthread_mutex_lock(&j->lock);
    struct dmt_pos p = j->tail;
    pthread_mutex_unlock(&j->lock);
    return p;
}

struct dmt_pos dmt_journal_first(struct dmt_journal *j)
{
    pthread_mutex_lock(&j->lock);
    struct dmt_pos p = j->segs[0]->prev;
    pthread_mutex_unlock(&j->lock);
    return p;
}

uint64_t dmt_journal_durable(struct dmt_journal *j)
{
    pthread_mutex_lock(&j->lock);
    uint64_t seq = j->durable.seq;
    pthread_mutex_unlock(&j->lock);
    return seq;
}

int dmt_journal_error(struct dmt_journal *j)
{
    pthread_mutex_lock(&j->lock);
    int r = j->error;
    pthread_mutex_unlock(&j->lock);
    return r;
}

void journal_token_take(struct dmt_journal *j)
{
    while (j->syncing)
        pthread_cond_wait(&j->done, &j->lock);
    j->syncing = true;
}

void journal_token_give(struct dmt_journal *j)
{
    j->syncing = false;
    pthread_cond_broadcast(&j->done);
    pthread_cond_broadcast(&j->work);
}

/* The tail is pos and lies at the start of s; segments from index keep on are gone. */
static void cut_at(struct dmt_journal *j, const struct dmt_pos *pos, size_t keep)
{
    journal_segments_drop(j, keep, j->segs_n - 1);
    if (keep > 0) {
        j->segs[keep - 1]->last_seq = pos->seq;
        j->segs[keep - 1]->dirty = false;
    }
    j->tail = j->durable = *pos;
    j->ring.head = j->ring.tail;
    j->want = j->reported = j->claim = pos->seq;
    j->rewritten = false;
    j->cuts++;
    atomic_fetch_add(&j->layout, 1);
}

/* Starts a segment at pos that supersedes everything behind it (or all, with RESET), and makes that
 * durable. Token held. */
static int supersede(struct dmt_journal *j, const struct dmt_pos *pos, uint32_t flags,
                     struct dmt_err *err)
{
    const struct dmt_io *io = j->conf.io;
    struct journal_segment *s;
    int r = journal_segment_make(j, pos, &s, err);
    if (r < 0)
        return r;
    r = journal_segment_start(j, s, flags);
    s->dirty = false;
    pthread_mutex_unlock(&j->lock);
    if (r == 0)
        r = io->fdatasync(io->ctx, s->fd);
    if (r == 0)
        r = io->sync_dir(io->ctx, j->dir);
    pthread_mutex_lock(&j->lock);
    /* journal_segment_add asserts the order of serials, which the token keeps. */
    int added = r == 0 ? journal_segment_add(j, s) : r;
    if (added < 0) {
        journal_segment_discard(j, s);
        journal_fail(j, added);
        return dmt_err_set(err, added, "cannot cut the journal in %s: %s", j->dir,
                           dmt_strerror(added));
    }
    j->dir_dirty = false;
    return 0;
}

int dmt_journal_truncate_to(struct dmt_journal *j, uint64_t seq, struct dmt_err *err)
{
    struct dmt_pos pos;
    int r = dmt_journal_pos_at(j, seq, &pos);
    if (r < 0)
        return dmt_err_set(err, r, "cannot cut the journal in %s after record %" PRIu64 ": %s",
                           j->dir, seq, dmt_strerror(r));
    r = dmt_journal_wait(j, seq);
    if (r < 0)
        return dmt_err_set(err, r, "the journal in %s has failed: %s", j->dir, dmt_strerror(r));
    pthread_mutex_lock(&j->lock);
    journal_token_take(j);
    if (seq == j->tail.seq)
        goto out;
    r = j->error ? j->error : supersede(j, &pos, 0, err);
    if (r < 0)
        goto out;
    size_t keep = 0;
    while (keep < j->segs_n - 1 && j->segs[keep]->prev.seq < seq)
        keep++;
    cut_at(j, &pos, keep);
    DMT_LIST_EACH(it, tmp, &j->readers)
    {
        struct dmt_jreader *reader = DMT_CONTAINER(it, struct dmt_jreader, node);
        if (reader->next_seq > seq + 1)
            reader->stale = true;
    }
out:
    journal_token_give(j);
    pthread_mutex_unlock(&j->lock);
    return r;
}

int dmt_journal_reset(struct dmt_journal *j, const struct dmt_pos *pos, struct dmt_err *err)
{
    pthread_mutex_lock(&j->lock);
    journal_token_take(j);
    int r = j->error ? j->error : supersede(j, pos, JOURNAL_SEG_RESET, err);
    if (r == 0) {
        cut_at(j, pos, 0);
        DMT_LIST_EACH(it, tmp, &j->readers)
        DMT_CONTAINER(it, struct dmt_jreader, node)->stale = true;
    }
    journal_token_give(j);
    pthread_mutex_unlock(&j->lock);
    return r;
}

void dmt_journal_release(struct dmt_journal *j, uint64_t seq)
{
    pthread_mutex_lock(&j->lock);
    if (seq > j->durable.seq)
        seq = j->durable.seq;
    size_t n = 0;
    while (n + 1 < j->segs_n && j->segs[n]->last_seq <= seq && !j->segs[n]->dirty)
        n++;
    journal_segments_drop(j, 0, n);
    pthread_mutex_unlock(&j->lock);
}

void dmt_journal_stats(struct dmt_journal *j, struct dmt_journal_stats *ret)
{
    pthread_mutex_lock(&j->lock);
    *ret = (struct dmt_journal_stats){
        .segments = j->segs_n,
        .records = j->tail.seq - j->segs[0]->prev.seq,
        .syncs = j->syncs,
        .sync_ns_total = j->sync_ns_total,
        .sync_ns_max = j->sync_ns_max,
    };
    for (size_t i = 0; i < j->segs_n; i++)
        ret->bytes += j->segs[i]->end;
    pthread_mutex_unlock(&j->lock);
}
