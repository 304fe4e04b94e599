/* log.c: the middle of check -> log -> apply: may it start, is there room, append, apply, tell the
 * gate.
 *
 * Owns the workspace clock. Happy path: an operation calls ws_begin, checks all it must, calls
 * ws_room if it adds bytes, fills a body with results and calls ws_log; the record is in the kernel
 * when ws_log returns (J3) and its effect is in memory.
 * Failure: no space in the journal is -ENOSPC with nothing changed. Any other append error, or an
 * apply that fails, makes the workspace read-only: this call gets -EIO, later ones -EROFS, reads go
 * on. A write's payload is passed to the journal as its own iovec: it is copied once more only,
 * into the store's memory.
 * Thread: any, workspace lock held.
 */
#include <errno.h>
#include <string.h>

#include "fs/workspace/ws.h"

/* records between looks at the size of the dirty layer; writers are stopped only at twice its
 * limit */
#define LOOK_EVERY 64

uint64_t ws_mono(struct dmt_ws *ws)
{
    return ws->conf.clock->monotonic_ns(ws->conf.clock->ctx);
}

uint64_t ws_time(struct dmt_ws *ws)
{
    uint64_t now = ws->conf.clock->realtime_ns(ws->conf.clock->ctx);
    return now > ws->last_time ? now : ws->last_time + 1;
}

void ws_wait_room(struct dmt_ws *ws)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_nsec += 100 * (long)DMT_MS;
    if (ts.tv_nsec >= (long)DMT_S) {
        ts.tv_sec++;
        ts.tv_nsec -= (long)DMT_S;
    }
    pthread_cond_timedwait(&ws->unheld, &ws->lock, &ts);
}

static int may_write(struct dmt_ws *ws)
{
    if (ws->failed || ws->role != WS_HOLDER)
        return -EROFS;
    int r = ws->gate.begin(ws->gate.ctx);
    return r < 0 ? r : 0;
}

int ws_begin(struct dmt_ws *ws, bool grows)
{
    int r = may_write(ws);
    while (r == 0 && (ws->held || (grows && ws_layer_full(ws, 2)))) {
        if (!ws->held) {
            /* nothing makes room; what frees space (grows = false) still goes on */
            if (ws->ckpt_err < 0)
                return dmt_err_errno(ws->ckpt_err);
            ws_ckpt_nudge(ws);
        }
        ws_wait_room(ws);
        r = may_write(ws);
    }
    return r;
}

int ws_room(struct dmt_ws *ws, uint64_t bytes, uint64_t adds)
{
    uint64_t now = ws_mono(ws), total;
    if (ws->space_at_ns == 0 || now - ws->space_at_ns > WS_SPACE_NS) {
        int r = dmt_store_space(ws->st, &total, &ws->space_free);
        if (r < 0)
            return dmt_err_errno(r);
        ws->space_at_ns = now;
        ws->space_used = 0;
    }
    uint64_t peer = ws->gate.peer_free(ws->gate.ctx);
    /* Inline bytes are written twice: journal and data file. */
    uint64_t need = ws->space_used + 2 * bytes + WS_RESERVE_BYTES;
    if (need > ws->space_free || need > peer) {
        ws->room_short = true;
        return -ENOSPC;
    }
    if (ws->conf.quota_bytes && adds > 0) {
        /* What is live is counted in memory at each apply: exact at this moment, unlike the
         * disk. */
        struct dmt_store_load load;
        dmt_store_load(ws->st, &load);
        if (load.live_bytes + adds > ws->conf.quota_bytes)
            return -EDQUOT;
    }
    ws->space_used += bytes;
    return 0;
}

/* Everything but a write's payload, which the caller sends from where it lies. */
static void encode(struct dmt_ws *ws, const struct dmt_body *b)
{
    dmt_buf_reset(&ws->enc);
    if (b->type != DMT_REC_WRITE) {
        dmt_body_encode(b, &ws->enc);
        return;
    }
    struct dmt_body head = *b;
    head.WRITE.data.n = 0;
    dmt_body_encode(&head, &ws->enc);
    if (!ws->enc.bad)
        dmt_st32(ws->enc.p + ws->enc.len - 4, b->WRITE.data.n);
}

int ws_append(struct dmt_ws *ws, struct dmt_op *op, const struct dmt_body *b, uint64_t time_ns,
              struct dmt_rec *ret)
{
    struct dmt_err err = {0};
    struct iovec iov[2];
    int n = 1;
    encode(ws, b);
    if (ws->enc.bad)
        return -ENOMEM;
    iov[0] = (struct iovec){ws->enc.p, ws->enc.len};
    if (b->type == DMT_REC_WRITE)
        iov[n++] = (struct iovec){(void *)(uintptr_t)b->WRITE.data.p, b->WRITE.data.n};
    *ret = (struct dmt_rec){
        .epoch = b->type == DMT_REC_EPOCH ? b->EPOCH.epoch : ws->epoch,
        .time_ns = time_ns ? time_ns : ws_time(ws),
        .unique = op ? op->unique : 0,
        .instance = op ? op->instance : 0,
        .type = b->type,
    };
    int r = dmt_journal_append(ws->j, ret, iov, n, &err);
    if (r == -ENOSPC) {
        ws->room_short = true; /* a checkpoint lets segments go */
        return r;
    }
    if (r < 0) {
        ws_fail(ws, "journal: %s", err.msg[0] ? err.msg : dmt_strerror(r));
        return -EIO;
    }
    ws->last_time = ret->time_ns;
    if (op)
        op->seq = ret->seq;
    size_t bytes = DMT_REC_HDR + iov[0].iov_len + (n > 1 ? iov[1].iov_len : 0);
    ws_recent_note(ws, ret->seq, bytes);
    ws->gate.appended(ws->gate.ctx, ret->seq, bytes);
    return 0;
}

int ws_log(struct dmt_ws *ws, struct dmt_op *op, const struct dmt_body *b, uint64_t time_ns)
{
    struct dmt_rec r;
    int e = ws_append(ws, op, b, time_ns, &r);
    if (e < 0)
        return e;
    e = ws_apply(ws, &r, b);
    if (r.seq % LOOK_EVERY == 0 && ws_layer_worth(ws))
        ws_ckpt_nudge(ws);
    return e < 0 ? -EIO : 0;
}

/* --- groups ----------------------------------------------------------------------------------- */

int ws_group_begin(struct dmt_ws *ws, struct ws_group *g, const char *what)
{
    struct dmt_op op = {0};
    struct dmt_body begin = {.type = DMT_REC_BEGIN, .BEGIN.what = ws_span(what)};
    int r = ws_log(ws, &op, &begin, 0);
    *g = (struct ws_group){.begin_seq = op.seq};
    return r;
}

int ws_group_put(struct dmt_ws *ws, struct ws_group *g, const struct dmt_body *b)
{
    struct dmt_rec r;
    int e = ws_append(ws, NULL, b, 0, &r);
    g->count += e == 0;
    return e;
}

int ws_group_end(struct dmt_ws *ws, const struct ws_group *g, int r)
{
    struct dmt_body end = {
        .type = DMT_REC_END,
        .END = {.count = r == 0 ? g->count : 0, .begin_seq = g->begin_seq},
    };
    int e = ws_log(ws, NULL, &end, 0);
    if (e < 0)
        ws_fail(ws, "the last record of a group cannot be written: %s", dmt_strerror(e));
    return r < 0 ? r : e;
}
