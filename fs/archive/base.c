/* base.c: the whole state at one position as a series of objects.
 *
 * When: the archive has nothing on our history that our journal still reaches back to: a new
 * archive, a workspace that lost too much, a promoted node whose journal was cut to its cap. Happy
 * path: dmt_ws_export() emits the state stream; it is cut into parts; the last part carries the
 * position, and is uploaded only when limit() has reached it, so that no base shows a state that a
 * failover could still undo. From then on the run goes on with journal objects.
 * Failure modes: anything but a temporary error, and a restart, abandons the base: parts without a
 * last part are no base to any reader, a new one begins under the next number. While it runs
 * nothing counts as archived, so the journal keeps what follows it. Thread: the archiver's; the
 * export holds a read transaction of the store's as long as it takes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/archive/archiver.h"
#include "fs/base/log.h"
#include "fs/store/stream.h"

#define POLL_MS 100

/* Follows the stream's items (docs/formats-store.md) for the rows of missing ranges: their bytes
 * are not in the stream, because they were not yet durable at its position. */
struct watch {
    uint8_t head[STREAM_HEADER], row[32];
    size_t n_head, n_row;
    uint64_t left; /* of this item's payload */
    struct pack_ref *ref;
    size_t n_ref, cap_ref;
};

struct base_run {
    struct dmt_archiver *a;
    struct watch watch;
    struct dmt_buf buf;
    struct archive_hdr h;
    struct dmt_pos pos;
    size_t part_bytes;
    uint32_t part;
    struct dmt_err err;
};

static int watch_row(struct watch *w)
{
    if (w->n_ref == w->cap_ref) {
        size_t cap = w->cap_ref ? w->cap_ref * 2 : 64;
        struct pack_ref *v = realloc(w->ref, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        w->ref = v;
        w->cap_ref = cap;
    }
    w->ref[w->n_ref++] = (struct pack_ref){.ino = dmt_le64(w->row),
                                           .off = dmt_le64(w->row + 8),
                                           .seq = dmt_le64(w->row + 16),
                                           .len = dmt_le64(w->row + 24)};
    return 0;
}

static int watch_bytes(struct watch *w, const uint8_t *p, size_t len)
{
    while (len) {
        if (w->n_head < STREAM_HEADER) {
            w->head[w->n_head++] = *p++;
            len--;
            w->left = w->n_head == STREAM_HEADER ? dmt_le32(w->head + 1) : 0;
            w->n_row = 0;
        } else {
            size_t n = len < w->left ? len : (size_t)w->left;
            size_t row = w->head[0] == STREAM_MISSING ? sizeof(w->row) - w->n_row : 0;
            row = row < n ? row : n;
            memcpy(w->row + w->n_row, p, row);
            w->n_row += row;
            if (row && w->n_row == sizeof(w->row) && watch_row(w))
                return -ENOMEM;
            p += n;
            len -= n;
            w->left -= n;
        }
        if (w->n_head == STREAM_HEADER && !w->left)
            w->n_head = 0;
    }
    return 0;
}

static int part_upload(struct base_run *b, struct dmt_buf *payload, bool last)
{
    struct dmt_archiver *a = b->a;
    b->h.kind = ARCHIVE_BASE;
    b->h.flags = last ? ARCHIVE_BASE_LAST : 0;
    b->h.items = b->part;
    if (last) /* bulk objects among the parts count as well */
        a->st.base_parts = (uint32_t)(a->st.next - a->st.base_n + 1);
    int r = archiver_upload(a, &b->h, payload, last ? &b->pos : NULL, &b->err);
    b->part++;
    pthread_mutex_lock(&a->lock);
    a->status.base_done += payload->len;
    pthread_mutex_unlock(&a->lock);
    return r;
}

/* Cuts the stream into parts of exactly part_bytes. Something is always kept back for the last
 * part. */
static int emit(void *ctx, const void *p, size_t len)
{
    struct base_run *b = ctx;
    const uint8_t *s = p;
    if (watch_bytes(&b->watch, p, len))
        return dmt_err_set(&b->err, -ENOMEM, "out of memory");
    while (len) {
        if (b->buf.len == b->part_bytes) {
            int r = part_upload(b, &b->buf, false);
            if (r)
                return r;
            dmt_buf_reset(&b->buf);
        }
        size_t n = b->part_bytes - b->buf.len < len ? b->part_bytes - b->buf.len : len;
        dmt_put_raw(&b->buf, s, n);
        if (b->buf.bad)
            return dmt_err_set(&b->err, -ENOMEM, "out of memory");
        s += n;
        len -= n;
    }
    return archiver_stopped(b->a) ? -ECANCELED : 0;
}

/* When the record at the position was made; now, if it is no longer in the journal. */
static uint64_t position_time(struct dmt_archiver *a, uint64_t seq)
{
    struct dmt_jreader *rd;
    struct dmt_rec rec;
    const uint8_t *raw;
    size_t len;
    uint64_t t = a->clock->realtime_ns(a->clock->ctx);
    if (!seq || dmt_jreader_open(&rd, a->journal, seq - 1, NULL))
        return t;
    if (dmt_jreader_next(rd, &rec, &raw, &len, NULL) == 1)
        t = rec.time_ns;
    dmt_jreader_close(rd);
    return t;
}

static int run(struct base_run *b, struct dmt_err *err)
{
    struct dmt_archiver *a = b->a;
    struct dmt_pos pos = {0};
    int r = dmt_ws_export(a->conf.ws, &pos, emit, b, err);
    if (r) {
        if (b->err.code && err)
            *err = b->err;
        return archiver_stopped(a) ? -ECANCELED : r;
    }
    b->pos = pos;
    b->h.epoch = pos.epoch;
    b->h.first_seq = b->h.last_seq = pos.seq;
    b->h.chain_before = b->h.chain_after = pos.chain;
    b->h.first_time = b->h.last_time = position_time(a, pos.seq);
    r = archiver_gather(a, &b->h, b->watch.ref, b->watch.n_ref, err);
    if (r)
        return r;
    while (a->conf.limit(a->conf.ctx) < pos.seq) {
        if (archiver_stopped(a))
            return -ECANCELED;
        archiver_wait(a, POLL_MS, false);
    }
    r = part_upload(b, &b->buf, true);
    if (r && err)
        *err = b->err;
    return r;
}

int archiver_base(struct dmt_archiver *a, struct dmt_err *err)
{
    struct base_run b = {.a = a,
                         .part_bytes = a->conf.part_bytes ? a->conf.part_bytes : BULK_BYTES};
    struct dmt_ws_status ws;
    dmt_buf_init(&b.buf);
    a->st.run_n = a->st.base_n = a->st.next;
    a->st.base_parts = 0;
    dmt_ws_status(a->conf.ws, &ws);
    pthread_mutex_lock(&a->lock);
    a->status.base_running = true;
    a->status.base_done = 0;
    a->status.base_total = ws.live_bytes + ws.pinned_bytes;
    pthread_mutex_unlock(&a->lock);
    dmt_info("archive %s: uploading the whole workspace as a base", a->url);
    int r = run(&b, err);
    pthread_mutex_lock(&a->lock);
    a->status.base_running = false;
    pthread_mutex_unlock(&a->lock);
    dmt_buf_free(&b.buf);
    free(b.watch.ref);
    if (!r)
        dmt_info("archive %s: base complete at position %llu", a->url,
                 (unsigned long long)a->st.pos.seq);
    return r;
}
