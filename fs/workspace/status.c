/* status.c: what `dumont status` shows of a workspace. Copies numbers under the locks that guard
 * them; no disk. Thread: any. */
#include <string.h>

#include "fs/workspace/ws.h"

struct counts {
    uint64_t snapshots;
};

static int count_snapshot(void *ctx, const struct dmt_snapshot *s)
{
    (void)s;
    ((struct counts *)ctx)->snapshots++;
    return 0;
}

static void acks_status(struct dmt_ws *ws, struct dmt_ws_status *ret)
{
    uint64_t now = ws_mono(ws), oldest = now;
    pthread_mutex_lock(&ws->ack_lock);
    ret->parked_acks = ws->parked;
    DMT_LIST_EACH(it, tmp, &ws->acks)
    {
        const struct ws_ack *a = DMT_CONTAINER(it, struct ws_ack, link);
        if (a->sync && a->since_ns < oldest)
            oldest = a->since_ns;
    }
    pthread_mutex_unlock(&ws->ack_lock);
    ret->oldest_sync_ms = (now - oldest) / DMT_MS;
}

static int count_incomplete(void *ctx, const struct dmt_rec_INCOMPLETE *r)
{
    (void)r;
    ++*(uint64_t *)ctx;
    return 0;
}

/* Healed, deleted, or dealt with by a person otherwise? Lock held. */
static bool still_incomplete(struct dmt_ws *ws, uint64_t ino)
{
    size_t n;
    return dmt_store_xattr_get(ws->st, DMT_LIVE, ino, WS_INCOMPLETE_ATTR, NULL, 0, &n) == 0;
}

int ws_incomplete_each(struct dmt_ws *ws, bool all,
                       int (*fn)(void *ctx, const struct dmt_rec_INCOMPLETE *r), void *ctx)
{
    struct dmt_cur c = dmt_cur_of(ws->incomplete.p, ws->incomplete.len);
    struct dmt_body b;
    uint32_t n;
    int r = 0;
    while (r == 0 && c.p < c.end) {
        const uint8_t *p = dmt_get_bytes(&c, &n);
        if (!p)
            return DMT_E_CORRUPT;
        r = dmt_body_decode(DMT_REC_INCOMPLETE, p, n, &b);
        if (r == 0 && (all || still_incomplete(ws, b.INCOMPLETE.ino)))
            r = fn(ctx, &b.INCOMPLETE);
    }
    return r;
}

int dmt_ws_incomplete_each(struct dmt_ws *ws,
                           int (*fn)(void *ctx, const struct dmt_rec_INCOMPLETE *r), void *ctx)
{
    ws_lock(ws);
    int r = ws_incomplete_each(ws, false, fn, ctx);
    ws_unlock(ws);
    return r;
}

void dmt_ws_status(struct dmt_ws *ws, struct dmt_ws_status *ret)
{
    struct dmt_store_load load;
    struct counts counts = {0};
    memset(ret, 0, sizeof(*ret));
    ret->tail = dmt_journal_tail(ws->j);
    ret->durable = dmt_journal_durable(ws->j);
    dmt_journal_stats(ws->j, &ret->journal);
    /* First, so that where there is no trouble any more, what it held up is written below. */
    pthread_mutex_lock(&ws->ckpt_lock);
    memcpy(ret->checkpoint_error, ws->ckpt_trouble, sizeof(ret->checkpoint_error));
    ret->checkpoint_error_since_ns = ws->ckpt_trouble_ns;
    pthread_mutex_unlock(&ws->ckpt_lock);
    ws_lock(ws);
    dmt_store_load(ws->st, &load);
    ret->applied = ws->applied.seq;
    ret->checkpointed = ws->checkpointed;
    ret->epoch = ws->epoch > ret->tail.epoch ? ws->epoch : ret->tail.epoch;
    ret->holder = ws->role == WS_HOLDER;
    ret->failed = ws->failed;
    memcpy(ret->failed_why, ws->failed_why, sizeof(ret->failed_why));
    ret->missing_bytes = dmt_store_missing_bytes(ws->st);
    (void)dmt_store_snap_each(ws->st, count_snapshot, &counts);
    (void)ws_incomplete_each(ws, false, count_incomplete, &ret->incomplete_files);
    ws_unlock(ws);
    ret->inodes = load.inodes;
    ret->live_bytes = load.live_bytes;
    ret->pinned_bytes = load.pinned_bytes;
    ret->dirty_bytes = load.dirty_bytes;
    ret->snapshots = counts.snapshots;
    acks_status(ws, ret);
}
