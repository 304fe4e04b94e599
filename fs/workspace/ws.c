/* ws.c: opening and closing a workspace, its lock, and what it derives from records but keeps in
 * memory.
 *
 * Happy path of open: the store opens at its last checkpoint; the journal finds its tail (the
 * store's position is its floor); the values in the store's meta table (next inode number, orphans
 * ...) are loaded; a holder-to-be replays the journal from the checkpoint to the tail through the
 * one apply; the checkpointer starts. Recovery is nothing else; one that takes a mount over looks
 * at the last records before the checkpoint too (resend.c). Close makes by-reference data and
 * the journal durable, makes a last checkpoint and lets go.
 * Failure: open gives back everything it took. A workspace that has failed closes without a
 * checkpoint: disk and journal hold a consistent state, memory may not.
 * Thread: open and close from one thread; ws_fail from any, lock held.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/ws.h"

void ws_lock(struct dmt_ws *ws)
{
    pthread_mutex_lock(&ws->lock);
}

void ws_unlock(struct dmt_ws *ws)
{
    bool tell = ws->failed && !ws->failed_told;
    if (tell)
        ws->failed_told = true;
    pthread_mutex_unlock(&ws->lock);
    if (!tell)
        return;
    dmt_error("workspace is read-only: %s", ws->failed_why);
    ws_acks_fail(ws, -EIO);
    if (ws->conf.failed)
        ws->conf.failed(ws->conf.ctx, ws->failed_why);
}

void ws_fail(struct dmt_ws *ws, const char *fmt, ...)
{
    if (ws->failed)
        return;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(ws->failed_why, sizeof(ws->failed_why), fmt, ap);
    va_end(ap);
    ws->failed = true;
    pthread_cond_broadcast(&ws->unheld);
}

static void lockfn_lock(void *ctx)
{
    ws_lock(ctx);
}

static void lockfn_unlock(void *ctx)
{
    ws_unlock(ctx);
}

struct dmt_lockfn dmt_ws_lockfn(struct dmt_ws *ws)
{
    return (struct dmt_lockfn){lockfn_lock, lockfn_unlock, ws};
}

/* --- memory derived from records -------------------------------------------------------------- */

/* Pieces that a shorter value no longer needs are emptied. */
void ws_meta_key(char buf[64], const char *key, unsigned i)
{
    (void)snprintf(buf, 64, i ? "%s.%u" : "%s", key, i);
}

static int save_blob(struct dmt_ws *ws, const char *key, const void *p, size_t len)
{
    char name[64];
    int r = 0;
    for (unsigned i = 0; r == 0; i++) {
        size_t n = len < WS_META_PIECE ? len : WS_META_PIECE, was = 0;
        void *old = NULL;
        ws_meta_key(name, key, i);
        if (i > 0 && n == 0 && dmt_store_meta_get(ws->st, name, &old, &was) == -ENOENT)
            break;
        free(old);
        if (i == 0 || n > 0 || was > 0)
            r = dmt_store_meta_put(ws->st, name, p, n);
        p = (const uint8_t *)p + n;
        len -= n;
    }
    return r;
}

static int load_blob(struct dmt_ws *ws, const char *key, void **ret, size_t *len)
{
    struct dmt_buf b = {0};
    char name[64];
    int r = 0;
    for (unsigned i = 0; r == 0; i++) {
        void *p = NULL;
        size_t n = 0;
        ws_meta_key(name, key, i);
        r = dmt_store_meta_get(ws->st, name, &p, &n);
        if (r == 0)
            dmt_put_raw(&b, p, n);
        free(p);
    }
    if (r == -ENOENT)
        r = b.bad ? -ENOMEM : 0;
    *ret = b.p;
    *len = b.len;
    return r;
}

static int load_orphans(struct dmt_ws *ws)
{
    void *p;
    size_t len;
    int r = load_blob(ws, "ws.orphans", &p, &len);
    if (r == 0 && len % 8 != 0)
        r = DMT_E_CORRUPT;
    for (size_t i = 0; r == 0 && i < len; i += 8)
        r = ws_map_put(&ws->orphans, dmt_le64((uint8_t *)p + i), 1);
    free(p);
    return r;
}

static int last_epoch(void *ctx, const struct dmt_epoch_row *e)
{
    struct dmt_ws *ws = ctx;
    if (e->epoch > ws->epoch) {
        ws->epoch = e->epoch;
        memcpy(ws->epoch_node, e->node, sizeof(ws->epoch_node));
    }
    return 0;
}

static int note_reported(void *ctx, const struct dmt_rec_INCOMPLETE *i)
{
    struct dmt_ws *ws = ctx;
    return i->ino ? ws_map_put(&ws->reported, i->ino, 1) : DMT_E_CORRUPT;
}

static int load_incomplete(struct dmt_ws *ws)
{
    void *p;
    size_t len;
    int r = load_blob(ws, "ws.incomplete", &p, &len);
    if (r == 0 && len > 0)
        dmt_put_raw(&ws->incomplete, p, len);
    free(p);
    return r < 0 ? r : ws_incomplete_each(ws, true, note_reported, ws);
}

void ws_epoch_opened_by(struct dmt_ws *ws, const uint8_t store_id[16])
{
    memcpy(ws->epoch_store, store_id, sizeof(ws->epoch_store));
    ws->epoch_mine = memcmp(store_id, dmt_store_ident(ws->st)->store_id, 16) == 0;
    dmt_store_set_mine(ws->st, ws->epoch_mine);
}

static int load_epoch_store(struct dmt_ws *ws)
{
    void *p;
    size_t len;
    int r = load_blob(ws, "ws.epoch_store", &p, &len);
    if (r == 0 && len == sizeof(ws->epoch_store))
        ws_epoch_opened_by(ws, p);
    free(p);
    return r;
}

int ws_meta_load(struct dmt_ws *ws, struct dmt_err *err)
{
    uint64_t none = 0;
    ws->applied = dmt_store_applied(ws->st);
    ws->checkpointed = ws->applied.seq;
    ws->epoch = 0;
    int r = dmt_store_meta_u64(ws->st, "ws.next_ino", 0, &ws->next_ino);
    if (r == 0 && ws->next_ino == 0 && ws->applied.seq > 0)
        return dmt_err_set(err, DMT_E_CORRUPT, "the store has no value ws.next_ino");
    if (ws->next_ino == 0)
        ws->next_ino = DMT_ROOT + 1;
    if (r == 0)
        r = dmt_store_meta_u64(ws->st, "ws.next_snap", 1, &ws->next_snap);
    if (r == 0)
        r = dmt_store_meta_u64(ws->st, "ws.last_time", none, &ws->last_time);
    if (r == 0)
        r = dmt_store_meta_u64(ws->st, "ws.recent", ws->applied.seq, &ws->recent.floor);
    ws->recent.next = ws->applied.seq;
    ws->recent.bytes = 0;
    if (r == 0)
        r = dmt_store_meta_u64(ws->st, "ws.own_after", none, &ws->own_after);
    if (r == 0)
        r = load_orphans(ws);
    if (r == 0)
        r = load_incomplete(ws);
    if (r == 0)
        r = load_epoch_store(ws);
    if (r == 0)
        r = dmt_store_epoch_each(ws->st, last_epoch, ws);
    if (r < 0)
        return dmt_err_set(err, r, "cannot read the workspace's values from the store: %s",
                           dmt_strerror(r));
    return 0;
}

int ws_meta_save(struct dmt_ws *ws)
{
    struct dmt_buf *b = &ws->scratch;
    int r = dmt_store_meta_put_u64(ws->st, "ws.next_ino", ws->next_ino);
    if (r == 0)
        r = dmt_store_meta_put_u64(ws->st, "ws.next_snap", ws->next_snap);
    if (r == 0)
        r = dmt_store_meta_put_u64(ws->st, "ws.last_time", ws->last_time);
    if (r == 0)
        r = dmt_store_meta_put_u64(ws->st, "ws.recent", ws->recent.floor);
    if (r == 0)
        r = dmt_store_meta_put_u64(ws->st, "ws.own_after", ws->own_after);
    if (r == 0)
        r = dmt_store_meta_put(ws->st, "ws.epoch_store", ws->epoch_store, sizeof(ws->epoch_store));
    if (r == 0)
        r = save_blob(ws, "ws.incomplete", ws->incomplete.p, ws->incomplete.len);
    dmt_buf_reset(b);
    for (size_t i = 0; i < ws->orphans.cap; i++)
        if (ws->orphans.keys[i])
            dmt_put_u64(b, ws->orphans.keys[i]);
    if (r == 0)
        r = b->bad ? -ENOMEM : save_blob(ws, "ws.orphans", b->p, b->len);
    return r;
}

void ws_memory_clear(struct dmt_ws *ws)
{
    ws_map_clear(&ws->orphans);
    ws_map_clear(&ws->ref_seqs);
    dmt_buf_reset(&ws->incomplete);
    ws_map_clear(&ws->reported);
    ws_runs_forget(ws);
    memset(ws->hints, 0, WS_HINTS * sizeof(*ws->hints));
    ws->group_begin = 0;
    ws->snap_serial = 0;
    ws->ref_last = 0;
    ws->bulk_since_ns = 0;
    ws->space_at_ns = 0;
}

/* --- open, close ------------------------------------------------------------------------------ */

static int alloc_ws(struct dmt_ws **ret, const struct dmt_ws_conf *conf)
{
    pthread_condattr_t mono;
    struct dmt_ws *ws = calloc(1, sizeof(*ws));
    if (!ws)
        return -ENOMEM;
    ws->conf = *conf;
    ws->conf.dir = strdup(conf->dir);
    ws->runs = calloc(WS_RUNS, sizeof(*ws->runs));
    ws->hints = calloc(WS_HINTS, sizeof(*ws->hints));
    ws->gate = conf->gate ? *conf->gate : *dmt_gate_open();
    ws->role = conf->follower ? WS_FOLLOWER : WS_IDLE;
    /* everything is kept until someone who knows the readers says otherwise */
    ws->keep_standby = ws->keep_archive = 0;
    ws->sync_gen = 1;
    dmt_list_init(&ws->acks);
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_mutex_init(&ws->lock, NULL);
    pthread_mutex_init(&ws->apply_lock, NULL);
    pthread_mutex_init(&ws->ack_lock, NULL);
    pthread_mutex_init(&ws->ckpt_lock, NULL);
    pthread_mutex_init(&ws->ckpt_run, NULL);
    pthread_cond_init(&ws->unheld, &mono);
    pthread_cond_init(&ws->ckpt_cond, &mono);
    pthread_cond_init(&ws->ckpt_done_cond, &mono);
    pthread_condattr_destroy(&mono);
    *ret = ws;
    return ws->conf.dir && ws->runs && ws->hints ? 0 : -ENOMEM;
}

static void free_ws(struct dmt_ws *ws)
{
    dmt_jreader_close(ws->reader);
    if (ws->j)
        dmt_journal_close(ws->j);
    if (ws->st)
        dmt_store_close(ws->st);
    ws_map_clear(&ws->refs);
    ws_map_clear(&ws->orphans);
    ws_map_clear(&ws->ref_seqs);
    ws_map_clear(&ws->done);
    ws_map_clear(&ws->made);
    ws_map_clear(&ws->tmpfiles);
    ws_map_clear(&ws->stale);
    dmt_buf_free(&ws->incomplete);
    ws_map_clear(&ws->reported);
    dmt_buf_free(&ws->enc);
    dmt_buf_free(&ws->scratch);
    pthread_mutex_destroy(&ws->lock);
    pthread_mutex_destroy(&ws->apply_lock);
    pthread_mutex_destroy(&ws->ack_lock);
    pthread_mutex_destroy(&ws->ckpt_lock);
    pthread_mutex_destroy(&ws->ckpt_run);
    pthread_cond_destroy(&ws->unheld);
    pthread_cond_destroy(&ws->ckpt_cond);
    pthread_cond_destroy(&ws->ckpt_done_cond);
    free(ws->runs);
    free(ws->hints);
    free((char *)(uintptr_t)ws->conf.dir);
    free(ws);
}

static int open_journal(struct dmt_ws *ws, struct dmt_err *err)
{
    char path[DMT_PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/journal", ws->conf.dir) >= (int)sizeof(path))
        return dmt_err_set(err, -ENAMETOOLONG, "store path too long");
    struct dmt_journal_conf jc = {
        .io = ws->conf.io,
        .clock = ws->conf.clock,
        .dir = path,
        .floor = ws->applied,
        .segment_bytes = ws->conf.segment_bytes,
        .on_durable = ws_on_durable,
        .ctx = ws,
    };
    memcpy(jc.lineage, dmt_store_ident(ws->st)->lineage, sizeof(jc.lineage));
    return dmt_journal_open(&ws->j, &jc, err);
}

/* Replays what the journal has beyond the checkpoint. */
static int recover(struct dmt_ws *ws, struct dmt_err *err)
{
    struct dmt_jreader *rd = NULL;
    uint64_t pos = ws->applied.seq, tail = dmt_journal_tail(ws->j).seq, t0 = ws_mono(ws);
    int r = ws_done_read(ws, err);
    if (r == 0 && pos < tail)
        r = dmt_jreader_open(&rd, ws->j, pos, err);
    if (r == 0 && rd)
        r = ws_apply_from(ws, rd, &pos, tail, true, err);
    dmt_jreader_close(rd);
    if (ws->conf.resume)
        ws->lost_before = ws->next_ino;
    if (r == 0 && rd)
        dmt_info("recovered: %" PRIu64 " records replayed in %" PRIu64 " ms",
                 tail - ws->checkpointed, (uint64_t)((ws_mono(ws) - t0) / DMT_MS));
    return r;
}

int dmt_ws_open(struct dmt_ws **ret, const struct dmt_ws_conf *conf, struct dmt_err *err)
{
    struct dmt_ws *ws = NULL;
    struct dmt_store_conf sc = {.io = conf->io,
                                .clock = conf->clock,
                                .dir = conf->dir,
                                .small_max = conf->small_max,
                                .ballast_bytes = conf->ballast_bytes,
                                .lock_fd = conf->lock_fd};
    int r = alloc_ws(&ws, conf);
    if (r < 0)
        dmt_err_set(err, r, "out of memory");
    if (r == 0)
        r = dmt_store_open(&ws->st, &sc, err);
    if (r == 0)
        r = ws_meta_load(ws, err);
    if (r == 0)
        r = open_journal(ws, err);
    if (r == 0 && !conf->follower)
        r = recover(ws, err);
    if (r == 0)
        r = ws_ckpt_start(ws);
    if (r < 0) {
        if (ws)
            free_ws(ws);
        return r;
    }
    *ret = ws;
    return 0;
}

int dmt_ws_close(struct dmt_ws *ws, struct dmt_err *err)
{
    int r = 0;
    uint64_t seq;
    if (!ws)
        return 0;
    ws_lock(ws);
    bool drain = ws->role == WS_HOLDER && ws->bulk_ok && !ws->failed;
    ws_unlock(ws);
    if (drain)
        r = ws_bulk_sync(ws, 0, false, &seq);
    ws_lock(ws);
    if (ws->role == WS_HOLDER)
        ws->role = WS_DEMOTED;
    bool failed = ws->failed;
    ws_unlock(ws);
    ws_ckpt_stop(ws);
    if (!failed) {
        int c = ws_ckpt_now(ws, false, err);
        r = r < 0 ? r : c;
    }
    ws_acks_fail(ws, -EIO);
    free_ws(ws);
    return r;
}

void dmt_ws_set_gate(struct dmt_ws *ws, const struct dmt_gate *gate)
{
    ws_lock(ws);
    ws->gate = *gate;
    ws_unlock(ws);
}

struct dmt_store *dmt_ws_store(struct dmt_ws *ws)
{
    return ws->st;
}

struct dmt_journal *dmt_ws_journal(struct dmt_ws *ws)
{
    return ws->j;
}
