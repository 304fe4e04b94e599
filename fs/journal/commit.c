/* commit.c: making records durable.
 *
 * Owns the token `syncing`, durable, and the committer thread. Happy path of a group: remember the
 * tail; write a PAD up to the block boundary (so that no later append touches a block of this
 * group); give up the lock; fdatasync the segments written to, the folder too if a segment got its
 * name since; take the lock; durable = the tail remembered; wake everybody. Appends go on meanwhile
 * and form the next group. Who syncs: the committer for those who only kick; a thread in
 * dmt_journal_wait() or dmt_journal_sync() itself when nobody syncs, which saves two switches of
 * thread for a lone waiter.
 *
 * Failure (J5): after a failed fdatasync the kernel calls the pages clean, so a second one on that
 * file would succeed without having written them. All records that are not durable are therefore
 * written again from the ring into a new segment, whose header supersedes what the old files hold
 * of them, and synced there. If that fails too the journal has failed for good: appends and waits
 * return its error, on_durable tells it once.
 *
 * Threads: commit (here); callers of dmt_journal_wait.
 */
#include <inttypes.h>
#include <time.h>

#include "fs/base/log.h"
#include "fs/journal/internal.h"

uint64_t journal_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * DMT_S + (uint64_t)ts.tv_nsec;
}

void journal_fail(struct dmt_journal *j, int code)
{
    if (j->error == 0) {
        j->error = code;
        dmt_error("journal %s failed for good: %s", j->dir, dmt_strerror(code));
    }
    pthread_cond_broadcast(&j->done);
    pthread_cond_broadcast(&j->work);
}

int journal_pad_write(struct dmt_journal *j, struct journal_segment *s)
{
    uint8_t block[JOURNAL_PAD_MAX];
    size_t len = journal_pad_size(s->end);
    struct journal_pad pad = {s->serial, j->durable.seq, j->tail.seq};
    DMT_ASSERT(s->end + len <= s->bytes);
    journal_pad_put(block, len, &pad, &j->tail);
    ssize_t w = j->conf.io->pwrite(j->conf.io->ctx, s->fd, block, len, s->end);
    if (w < 0)
        return (int)w;
    s->end += len;
    s->dirty = true;
    if (pad.durable_seq > j->claim)
        j->claim = pad.durable_seq;
    return 0;
}

static struct journal_segment *next_dirty(struct dmt_journal *j, uint64_t after, uint64_t last)
{
    for (size_t i = 0; i < j->segs_n; i++)
        if (j->segs[i]->dirty && j->segs[i]->serial > after && j->segs[i]->serial <= last)
            return j->segs[i];
    return NULL;
}

/* fdatasync of every segment that has something new, oldest first, then of the folder. Gives up the
 * lock, so that the table may move and segments get dirty again; `after` sees to it that each is
 * synced once. */
static int sync_files(struct dmt_journal *j)
{
    const struct dmt_io *io = j->conf.io;
    uint64_t last = journal_current(j)->serial;
    struct journal_segment *s = next_dirty(j, 0, last);
    int r = 0;
    while (r == 0 && s) {
        uint64_t after = s->serial;
        s->dirty = false;
        s->refs++;
        if (++s->syncs == JOURNAL_RAW_SYNCS && s->raw)
            pthread_cond_signal(&j->prepare);
        pthread_mutex_unlock(&j->lock);
        r = io->fdatasync(io->ctx, s->fd);
        pthread_mutex_lock(&j->lock);
        journal_segment_unref(j, s);
        s = next_dirty(j, after, last);
    }
    if (r == 0 && j->dir_dirty) {
        j->dir_dirty = false;
        pthread_mutex_unlock(&j->lock);
        r = io->sync_dir(io->ctx, j->dir);
        pthread_mutex_lock(&j->lock);
        if (r < 0)
            j->dir_dirty = true;
    }
    return r;
}

/* Writes the frames from *at on that fit into s. */
static int rewrite_into(struct dmt_journal *j, struct journal_segment *s, uint64_t *at,
                        struct dmt_pos *pos)
{
    const struct dmt_io *io = j->conf.io;
    uint8_t *start = NULL;
    size_t run = 0;
    for (;;) {
        uint64_t next = *at;
        size_t len = 0;
        uint8_t *p = journal_ring_next(&j->ring, &next, &len);
        bool fits = p && s->end + run + len <= s->bytes - JOURNAL_BLOCK;
        if (run > 0 && (!fits || p != start + run)) {
            ssize_t w = io->pwrite(io->ctx, s->fd, start, run, s->end);
            if (w < 0)
                return (int)w;
            s->end += run;
            run = 0;
        }
        if (!fits)
            return 0;
        struct dmt_rec r;
        journal_frame_reseal(p, len, journal_salt(s->serial));
        int ok = journal_frame_decode(p, len, journal_salt(s->serial), &r, &len);
        DMT_ASSERT(ok == 0 && r.seq == pos->seq + 1);
        if (run == 0)
            start = p;
        journal_segment_note(s, r.seq, s->end + run);
        run += len;
        *pos = (struct dmt_pos){r.epoch, r.seq, r.chain};
        s->last_seq = r.seq;
        *at = next;
    }
}

/* The first old_n segments keep what is durable; those without anything durable go. */
static void forget_not_durable(struct dmt_journal *j, size_t old_n)
{
    size_t keep = 0;
    while (keep < old_n && j->segs[keep]->prev.seq < j->durable.seq)
        keep++;
    journal_segments_drop(j, keep, old_n);
    if (keep > 0) {
        struct journal_segment *s = j->segs[keep - 1];
        s->last_seq = j->durable.seq;
        s->dirty = false;
    }
}

/* J5. The records stand in the new file before its header does, so that a kill in between leaves
 * the old file in force. */
static int rewrite(struct dmt_journal *j)
{
    struct dmt_pos pos = j->durable;
    uint64_t at = j->ring.head;
    bool first = true;
    dmt_warn("journal %s: fdatasync failed; writing records %" PRIu64 " to %" PRIu64
             " to a new segment",
             j->dir, j->durable.seq + 1, j->tail.seq);
    while (first || pos.seq < j->tail.seq) {
        struct journal_segment *s;
        int r = journal_segment_make(j, &pos, &s, NULL);
        if (r < 0)
            return r;
        r = rewrite_into(j, s, &at, &pos);
        if (r == 0)
            r = journal_segment_start(j, s, 0);
        size_t old_n = j->segs_n;
        if (r == 0)
            r = journal_segment_add(j, s);
        if (r < 0) {
            journal_segment_discard(j, s);
            return r;
        }
        if (first)
            forget_not_durable(j, old_n);
        first = false;
    }
    atomic_fetch_add(&j->layout, 1);
    return 0;
}

static void count_sync(struct dmt_journal *j, uint64_t began_ns)
{
    uint64_t took = j->conf.clock->monotonic_ns(j->conf.clock->ctx) - began_ns;
    j->syncs++;
    j->sync_ns_total += took;
    j->sync_ns_recent = (j->sync_ns_recent * 7 + took) / 8;
    if (took > j->sync_ns_max)
        j->sync_ns_max = took;
}

int journal_commit(struct dmt_journal *j)
{
    DMT_ASSERT(!j->syncing && j->error == 0);
    uint64_t began_ns = j->conf.clock->monotonic_ns(j->conf.clock->ctx);
    struct dmt_pos target;
    uint64_t mark, since;
    int r;
    j->syncing = true;
    for (;;) {
        struct journal_segment *s = journal_current(j);
        target = j->tail;
        mark = j->ring.tail;
        since = journal_now_ns();
        r = s->end % JOURNAL_BLOCK != 0 ? journal_pad_write(j, s) : 0;
        if (r == 0)
            r = sync_files(j);
        if (r == 0 || j->rewritten || j->error != 0)
            break;
        j->rewritten = true;
        r = rewrite(j);
        if (r < 0)
            break;
    }
    if (r == 0) {
        DMT_ASSERT(target.seq >= j->durable.seq && target.seq <= j->tail.seq); /* J4 */
        j->durable = target;
        journal_ring_let_go(&j->ring, mark);
        j->dirty_since_ns = since;
        j->rewritten = false;
        count_sync(j, began_ns);
    } else {
        journal_fail(j, r);
    }
    j->syncing = false;
    pthread_cond_broadcast(&j->done);
    return r;
}

/* Tells on_durable if there is news; gives up the lock for that. One thread tells at a time, until
 * there is no more news, so the other one may go on. */
static bool report(struct dmt_journal *j)
{
    uint64_t seq = j->durable.seq;
    int error = j->error;
    if (!j->conf.on_durable || j->telling || (seq == j->reported && error == j->reported_error))
        return false;
    j->telling = true;
    j->reported = seq;
    j->reported_error = error;
    pthread_mutex_unlock(&j->lock);
    j->conf.on_durable(j->conf.ctx, seq, error);
    pthread_mutex_lock(&j->lock);
    j->telling = false;
    return true;
}

/* Waits for a signal, or until due_ns (0: without end). */
static void rest(struct dmt_journal *j, uint64_t due_ns)
{
    struct timespec due = {(time_t)(due_ns / DMT_S), (long)(due_ns % DMT_S)};
    j->watching = due_ns != 0;
    if (j->watching)
        (void)pthread_cond_timedwait(&j->work, &j->lock, &due);
    else
        (void)pthread_cond_wait(&j->work, &j->lock);
}

/* When there is nothing to do the committer still looks once more a period later. An append that
 * comes until then needs not wake it, which would cost more than the append: its own period ends
 * later than that. */
void *journal_committer(void *arg)
{
    struct dmt_journal *j = arg;
    uint64_t idle_since_ns = 0;
    pthread_mutex_lock(&j->lock);
    for (;;) {
        if (report(j))
            continue;
        uint64_t now_ns = journal_now_ns();
        bool work = j->error == 0 && j->tail.seq > j->durable.seq;
        if (j->stop && !work)
            break;
        if (work)
            idle_since_ns = 0;
        else if (idle_since_ns == 0)
            idle_since_ns = now_ns;
        uint64_t due_ns = (work ? j->dirty_since_ns : idle_since_ns) + JOURNAL_SYNC_MS * DMT_MS;
        if (j->syncing)
            rest(j, 0);
        else if (!work)
            rest(j, now_ns < due_ns ? due_ns : 0);
        else if (j->stop || j->want > j->durable.seq || now_ns >= due_ns)
            (void)journal_commit(j);
        else
            rest(j, due_ns);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

void dmt_journal_kick(struct dmt_journal *j, uint64_t seq)
{
    pthread_mutex_lock(&j->lock);
    if (seq > j->tail.seq)
        seq = j->tail.seq;
    if (seq > j->want)
        j->want = seq;
    bool wake = j->want > j->durable.seq && !j->syncing;
    pthread_mutex_unlock(&j->lock);
    /* Outside, so that the committer does not wake only to wait for the lock. Who syncs just now
     * wakes it, too, and looks at `want` when it is done. */
    if (wake)
        pthread_cond_signal(&j->work);
}

void dmt_journal_sync(struct dmt_journal *j, uint64_t seq)
{
    pthread_mutex_lock(&j->lock);
    bool here = !j->syncing && j->error == 0 && j->durable.seq < seq &&
                j->sync_ns_recent < JOURNAL_QUICK_MS * DMT_MS;
    if (here) {
        (void)journal_commit(j);
        while (report(j))
            continue;
        /* The committer has nothing to tell. But if it looked meanwhile, it waits without end. */
        if (!j->watching || j->want > j->durable.seq)
            pthread_cond_signal(&j->work);
    }
    pthread_mutex_unlock(&j->lock);
    if (!here)
        dmt_journal_kick(j, seq);
}

/* own: the caller syncs if nobody does. */
static int wait_durable(struct dmt_journal *j, uint64_t seq, bool own)
{
    pthread_mutex_lock(&j->lock);
    uint64_t cuts = j->cuts;
    int r = seq > j->tail.seq ? -EINVAL : 0;
    while (r == 0 && j->durable.seq < seq) {
        if (j->error != 0)
            r = j->error;
        else if (j->cuts != cuts && seq > j->tail.seq)
            r = DMT_E_STALE;
        else if (j->syncing || !own)
            pthread_cond_wait(&j->done, &j->lock);
        else {
            (void)journal_commit(j);
            pthread_cond_signal(&j->work); /* to tell it */
        }
    }
    pthread_mutex_unlock(&j->lock);
    return r;
}

int dmt_journal_wait(struct dmt_journal *j, uint64_t seq)
{
    return wait_durable(j, seq, true);
}

int dmt_journal_watch(struct dmt_journal *j, uint64_t seq)
{
    return wait_durable(j, seq, false);
}
