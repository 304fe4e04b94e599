/* apply.c: the one apply. Operations, crash recovery, the standby and restore all come through
 * ws_apply.
 *
 * Happy path: the record's effect goes into the store's memory, then `applied` moves to the record.
 * Records between BEGIN and
 * END only move the log: at END they are read back from the journal and applied together, under one
 * hold of the lock, so a reader sees all or nothing and no checkpoint falls between. An EPOCH
 * record inside an open group means that its writer died: the group is dropped. END with count 0
 * drops it too (the writer gave up).
 * Failure: a logged record that cannot be applied means that state and log have parted. The
 * workspace is failed at once (read-only, the reason kept), the record stays in the log, and the
 * next open replays it from the last checkpoint.
 * Thread: whoever applies (fuse reader, recovery, applier), workspace lock held.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/workspace/ws.h"

void ws_touch(struct dmt_inode *n, const struct dmt_rec *r)
{
    n->ctime = r->time_ns;
    n->epoch = r->epoch;
    n->seq = r->seq;
}

static void copy_span(char *dst, size_t size, struct dmt_span s)
{
    size_t n = s.n < size - 1 ? s.n : size - 1;
    if (n > 0)
        memcpy(dst, s.p, n);
    dst[n] = '\0';
}

static int apply_epoch(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_rec_EPOCH *e)
{
    struct dmt_epoch_row row = {
        .epoch = e->epoch,
        .parent = e->parent,
        .switch_seq = e->switch_seq,
        .switch_chain = e->switch_chain,
        .time_ns = r->time_ns,
    };
    copy_span(row.node, sizeof(row.node), e->node);
    copy_span(row.reason, sizeof(row.reason), e->reason);
    bool same = memcmp(ws->epoch_store, e->store_id, sizeof(ws->epoch_store)) == 0;
    if (!same)
        ws->own_after = e->switch_seq;
    ws->epoch = e->epoch;
    ws_epoch_opened_by(ws, e->store_id);
    if (!same && ws->epoch_mine)
        dmt_store_keep_undue(ws->st);
    memcpy(ws->epoch_node, row.node, sizeof(ws->epoch_node));
    return dmt_store_epoch_put(ws->st, &row);
}

static int apply_snap(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_rec_SNAP *s)
{
    struct dmt_snapshot row = {
        .serial = s->serial, .seq = r->seq, .epoch = r->epoch, .time_ns = r->time_ns};
    copy_span(row.name, sizeof(row.name), s->name);
    copy_span(row.note, sizeof(row.note), s->note);
    if (s->serial >= ws->next_snap)
        ws->next_snap = s->serial + 1;
    return dmt_store_snap_put(ws->st, &row);
}

static int apply_snap_del(struct dmt_ws *ws, const struct dmt_rec_SNAP_DEL *s)
{
    char name[DMT_SNAP_NAME_MAX + 1];
    copy_span(name, sizeof(name), s->name);
    ws->snap_serial = 0;
    return dmt_store_snap_del(ws->st, name);
}

static int drop_report(struct dmt_ws *ws, uint64_t ino)
{
    struct dmt_buf list = {0};
    struct dmt_cur c = dmt_cur_of(ws->incomplete.p, ws->incomplete.len);
    struct dmt_body old;
    uint32_t n;
    while (c.p < c.end) {
        const uint8_t *p = dmt_get_bytes(&c, &n);
        int r = p ? dmt_body_decode(DMT_REC_INCOMPLETE, p, n, &old) : DMT_E_CORRUPT;
        if (r < 0) {
            dmt_buf_free(&list);
            return r;
        }
        if (old.INCOMPLETE.ino != ino)
            dmt_put_bytes(&list, p, n);
    }
    dmt_buf_free(&ws->incomplete);
    ws->incomplete = list;
    return list.bad ? -ENOMEM : 0;
}

/* The newest report of a file takes the place of an older one. */
static int apply_incomplete(struct dmt_ws *ws, const struct dmt_body *b)
{
    uint64_t ino = b->INCOMPLETE.ino;
    if (ino == 0)
        return DMT_E_CORRUPT;
    int r = ws_map_has(&ws->reported, ino) ? drop_report(ws, ino) : 0;
    if (r == 0)
        r = ws_map_put(&ws->reported, ino, 1);
    dmt_buf_reset(&ws->scratch);
    dmt_body_encode(b, &ws->scratch);
    dmt_put_bytes(&ws->incomplete, ws->scratch.p, ws->scratch.len);
    return r < 0 ? r : ws->incomplete.bad || ws->scratch.bad ? -ENOMEM : 0;
}

int ws_apply_one(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b)
{
    switch ((enum dmt_rec_type)b->type) {
    case DMT_REC_EPOCH:
        return apply_epoch(ws, r, &b->EPOCH);
    case DMT_REC_MAKE:
    case DMT_REC_LINK:
    case DMT_REC_UNLINK:
    case DMT_REC_RENAME:
    case DMT_REC_REAP:
        return ws_apply_names(ws, r, b);
    case DMT_REC_SETATTR:
    case DMT_REC_SETXATTR:
    case DMT_REC_DELXATTR:
        return ws_apply_attrs(ws, r, b);
    case DMT_REC_WRITE:
    case DMT_REC_WRITE_REF:
    case DMT_REC_ALLOC:
    case DMT_REC_MARK:
    case DMT_REC_CONTENT:
        return ws_apply_content(ws, r, b);
    case DMT_REC_SNAP:
        return apply_snap(ws, r, &b->SNAP);
    case DMT_REC_SNAP_DEL:
        return apply_snap_del(ws, &b->SNAP_DEL);
    case DMT_REC_INCOMPLETE:
        return apply_incomplete(ws, b);
    case DMT_REC_BEGIN:
    case DMT_REC_END:
        break;
    }
    return DMT_E_CORRUPT; /* a group inside a group, an END without BEGIN */
}

static int apply_checked(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b)
{
    int e = ws_apply_one(ws, r, b);
    if (e < 0)
        ws_fail(ws, "record %" PRIu64 " (%s) cannot be applied: %s", r->seq, dmt_rec_name(r->type),
                dmt_strerror(e));
    return e;
}

/* END: the group's records, from the journal. */
static int apply_group(struct dmt_ws *ws, const struct dmt_rec *end, const struct dmt_rec_END *g)
{
    struct dmt_jreader *rd = NULL;
    struct dmt_rec r;
    struct dmt_body b;
    struct dmt_err err = {0};
    if (g->begin_seq != ws->group_begin || g->count != end->seq - g->begin_seq - 1) {
        ws_fail(ws, "record %" PRIu64 " ends a group that does not match its begin", end->seq);
        return DMT_E_CORRUPT;
    }
    int e = dmt_jreader_open(&rd, ws->j, g->begin_seq, &err);
    for (uint64_t i = 0; e >= 0 && i < g->count; i++) {
        e = dmt_jreader_next(rd, &r, NULL, NULL, &err);
        if (e == 0)
            e = DMT_E_CORRUPT;
        if (e > 0)
            e = dmt_body_decode(r.type, r.body, r.body_len, &b);
        if (e >= 0)
            e = apply_checked(ws, &r, &b);
    }
    dmt_jreader_close(rd);
    if (e < 0)
        ws_fail(ws, "group at record %" PRIu64 " cannot be read back: %s", g->begin_seq,
                dmt_strerror(e));
    return e < 0 ? e : 0;
}

int ws_apply(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b)
{
    int e = 0;
    if (ws->failed)
        return -EIO;
    if (r->time_ns > ws->last_time)
        ws->last_time = r->time_ns;
    if (b->type == DMT_REC_BEGIN && !ws->group_begin) {
        ws->group_begin = r->seq;
        return 0;
    }
    if (b->type == DMT_REC_EPOCH)
        ws->group_begin = 0;
    if (ws->group_begin && b->type != DMT_REC_END)
        return 0;
    if (!ws->group_begin)
        e = apply_checked(ws, r, b);
    else if (b->END.count > 0)
        e = apply_group(ws, r, &b->END);
    if (e < 0)
        return e;
    ws->group_begin = 0;
    ws->applied = (struct dmt_pos){.epoch = r->epoch, .seq = r->seq, .chain = r->chain};
    ws->last_change_ns = ws_mono(ws);
    return 0;
}

/* Recovery has no checkpointer beside it; a follower waits for its own. Lock held; may release
 * it. */
static int make_room(struct dmt_ws *ws, bool recovery, struct dmt_err *err)
{
    if (recovery && ws_layer_full(ws, 1)) {
        ws_unlock(ws);
        int r = ws_ckpt_now(ws, false, err);
        ws_lock(ws);
        return r;
    }
    while (!recovery && ws_layer_full(ws, 2) && !ws->failed) {
        ws_ckpt_nudge(ws);
        ws_wait_room(ws);
    }
    return 0;
}

int ws_apply_from(struct dmt_ws *ws, struct dmt_jreader *rd, uint64_t *pos, uint64_t upto,
                  bool recovery, struct dmt_err *err)
{
    struct dmt_rec r;
    struct dmt_body b;
    int e = 0;
    while (*pos < upto) {
        e = dmt_jreader_next(rd, &r, NULL, NULL, err);
        if (e <= 0)
            break;
        *pos = r.seq;
        e = dmt_body_decode(r.type, r.body, r.body_len, &b);
        if (e < 0) {
            e = dmt_err_set(err, e, "record %" PRIu64 " (type %u) cannot be decoded", r.seq,
                            r.type);
            (void)dmt_err_hint(err, "a newer version of dumontfs may have written it");
            break;
        }
        ws_lock(ws);
        e = make_room(ws, recovery, err);
        ws_recent_note(ws, r.seq, DMT_REC_HDR + r.body_len);
        if (e == 0 && recovery)
            e = ws_done_note(ws, &r, &b);
        if (e == 0)
            e = ws_apply(ws, &r, &b);
        if (e < 0 && ws->failed)
            e = dmt_err_set(err, e, "%s", ws->failed_why);
        ws_unlock(ws);
        if (e < 0)
            break;
    }
    return e < 0 ? e : 0;
}
