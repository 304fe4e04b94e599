/* snapshot.c: making, deleting and listing snapshots.
 *
 * A snapshot is one record: a name for a position. Happy path: dirty mapped pages are fetched from
 * the kernel without the lock (D7), by-reference bytes are made durable, then the record is logged;
 * everything the log holds before it is in the snapshot. Names of people are one path component;
 * names with a '/' belong to the program (switch/..., shown as switch~... in .snapshots). Failure:
 * taken names, bad names; a deleted snapshot's space comes back with later checkpoints. Thread:
 * any, not a handler thread (flush_mmap).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/ws.h"

static int check_name(const char *name, struct dmt_err *err)
{
    size_t n = strlen(name);
    bool bad = n == 0 || n > DMT_SNAP_NAME_MAX || name[0] == '.';
    for (size_t i = 0; i < n && !bad; i++)
        bad = (unsigned char)name[i] < 0x20 || name[i] == '/' || name[i] == '~' || name[i] == 0x7f;
    if (!bad)
        return 0;
    dmt_err_set(err, -EINVAL, "\"%.130s\" cannot be the name of a snapshot", name);
    (void)dmt_err_hint(err, "use 1 to %u characters, not starting with a dot, without / and ~",
                       DMT_SNAP_NAME_MAX);
    return -EINVAL;
}

int ws_snap_log(struct dmt_ws *ws, const char *name, const char *note, struct dmt_snapshot *ret)
{
    struct dmt_body b = {
        .type = DMT_REC_SNAP,
        .SNAP = {.name = ws_span(name), .serial = ws->next_snap, .note = ws_span(note)},
    };
    int r = dmt_store_snap_get(ws->st, name, ret);
    if (r == 0)
        return -EEXIST;
    if (r != -ENOENT)
        return r;
    if (ws->next_snap >> DMT_SNAP_SERIAL_BITS)
        return -ENOSPC;
    if (b.SNAP.note.n > 256)
        b.SNAP.note.n = 256;
    r = ws_log(ws, NULL, &b, 0);
    return r < 0 ? r : dmt_store_snap_get(ws->st, name, ret);
}

int ws_flush_mmap(struct dmt_ws *ws, struct dmt_err *err)
{
    int r = ws->conf.flush_mmap ? ws->conf.flush_mmap(ws->conf.ctx) : 0;
    return r < 0 ? dmt_err_set(err, r, "changes made through mapped memory cannot be fetched: %s",
                               dmt_strerror(r))
                 : 0;
}

/* Bytes by reference that a snapshot shows are durable before its record can be: after a power cut
 * it would show something else, for ever. Writers go on during the first pass; what they wrote
 * meanwhile is little, and they wait for it. */
int ws_snap_hold(struct dmt_ws *ws)
{
    uint64_t seq;
    ws_lock(ws);
    int r = ws_begin(ws, true);
    ws_unlock(ws);
    if (r == 0)
        r = ws_bulk_sync(ws, 0, false, &seq);
    if (r < 0)
        return r;
    ws_lock(ws);
    r = ws_begin(ws, true);
    ws->held += r == 0;
    ws_unlock(ws);
    if (r < 0)
        return r;
    r = ws_bulk_sync(ws, 0, false, &seq);
    if (r < 0)
        ws_snap_let_go(ws);
    return r;
}

void ws_snap_let_go(struct dmt_ws *ws)
{
    ws_lock(ws);
    ws->held--;
    pthread_cond_broadcast(&ws->unheld);
    ws_unlock(ws);
}

int dmt_ws_snap_create(struct dmt_ws *ws, const char *name, const char *note,
                       struct dmt_snapshot *ret, struct dmt_err *err)
{
    struct dmt_snapshot s;
    int r = check_name(name, err);
    if (r == 0)
        r = ws_flush_mmap(ws, err);
    if (r < 0)
        return r;
    r = ws_snap_hold(ws);
    if (r == 0) {
        ws_lock(ws);
        r = ws->failed || ws->role != WS_HOLDER ? -EROFS : ws_snap_log(ws, name, note, &s);
        ws_unlock(ws);
        ws_snap_let_go(ws);
    }
    if (r == -EEXIST)
        return dmt_err_set(err, r, "there is a snapshot \"%s\" already", name),
               dmt_err_hint(err, "take another name, or delete that one first"), r;
    if (r == -EROFS)
        return dmt_err_set(err, r, "the workspace cannot be written here"),
               dmt_err_hint(err, "`dumont status` says why, and which machine holds it"), r;
    if (r < 0)
        return dmt_err_set(err, r, "snapshot \"%s\" cannot be made: %s", name, dmt_strerror(r));
    dmt_journal_kick(ws->j, s.seq);
    if (ret)
        *ret = s;
    return 0;
}

int dmt_ws_snap_delete(struct dmt_ws *ws, const char *name, struct dmt_err *err)
{
    struct dmt_snapshot s;
    struct dmt_op op = {0};
    struct dmt_body b = {.type = DMT_REC_SNAP_DEL, .SNAP_DEL.name = ws_span(name)};
    ws_lock(ws);
    int r = ws_begin(ws, false);
    if (r == 0)
        r = dmt_store_snap_get(ws->st, name, &s);
    if (r == 0)
        r = ws_log(ws, &op, &b, 0);
    ws_unlock(ws);
    if (r == -ENOENT) {
        dmt_err_set(err, r, "there is no snapshot \"%s\"", name);
        return dmt_err_hint(err, "`dumont snapshot list` shows them"), r;
    }
    if (r < 0)
        return dmt_err_set(err, r, "snapshot \"%s\" cannot be deleted: %s", name, dmt_strerror(r));
    dmt_journal_kick(ws->j, op.seq);
    return 0;
}

struct snaps {
    struct dmt_snapshot *v;
    size_t n, cap;
};

static int collect(void *ctx, const struct dmt_snapshot *s)
{
    struct snaps *a = ctx;
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 32;
        struct dmt_snapshot *v = realloc(a->v, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        a->v = v;
        a->cap = cap;
    }
    a->v[a->n++] = *s;
    return 0;
}

/* fn runs without the lock: it may take its time, or call back. */
int dmt_ws_snap_each(struct dmt_ws *ws, int (*fn)(void *ctx, const struct dmt_snapshot *s),
                     void *ctx)
{
    struct snaps a = {0};
    ws_lock(ws);
    int r = dmt_store_snap_each(ws->st, collect, &a);
    ws_unlock(ws);
    for (size_t i = 0; r == 0 && i < a.n; i++)
        r = fn(ctx, &a.v[i]);
    free(a.v);
    return r;
}
