/* branch_bulk.c: files of which the other machine lacked by-reference bytes when it took over, as a
 * branch NAME.bulk: whole, as they were at the switch point (rule 24).
 *
 * The new holder settles such files when it is promoted, and reports them; the machine that wrote
 * them learns of the reports by following, and still shows them whole in the snapshot of the switch
 * point (dmt_ws_keep_own). Happy path: each file that is still reported, and was settled at that
 * turn, is read from the snapshot into WRITE records and one SETATTR (size and time), in a journal
 * that begins at the switch point. So it can be listed, compared, written out and healed from like
 * any branch, and on any machine that has a copy; extract.c lays it below the branch of the same
 * switch point, whose records may change parts of such a file.
 * Failure: the disk (nothing is left of the branch but NAME.new); a snapshot that is gone: there is
 * nothing to save. Thread: pool; blocks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/workspace/branch_copy.h"
#include "fs/workspace/ws.h"

#define SUFFIX ".bulk"

bool dmt_branch_is_bulk(const char *name)
{
    size_t n = strlen(name), k = strlen(SUFFIX);
    return n > k && strcmp(name + n - k, SUFFIX) == 0;
}

/* --- which files ------------------------------------------------------------------------------ */

struct bulk {
    struct dmt_ws *ws;
    const struct dmt_epoch_row *turn;
    const atomic_bool *stop;
    uint64_t next; /* switch point of the next turn; UINT64_MAX: none */
    uint64_t view;
    uint64_t *inos;
    size_t n;
    uint8_t *data;
};

static int find_next(void *ctx, const struct dmt_epoch_row *e)
{
    struct bulk *b = ctx;
    if (e->epoch > b->turn->epoch && e->switch_seq < b->next)
        b->next = e->switch_seq;
    return 0;
}

/* Lock held. The last word of the attribute is where it was settled; without it nobody can tell. */
static int note_file(void *ctx, const struct dmt_rec_INCOMPLETE *i)
{
    struct bulk *b = ctx;
    char note[256];
    size_t len = 0;
    if (i->path.n == 0)
        return 0; /* only older snapshots show what is missing of it */
    if (dmt_store_xattr_get(b->ws->st, DMT_LIVE, i->ino, WS_INCOMPLETE_ATTR, note, sizeof(note) - 1,
                            &len) == 0) {
        note[len] = '\0';
        const char *at = strrchr(note, ' ');
        uint64_t seq = at ? strtoull(at + 1, NULL, 10) : 0;
        if (seq <= b->turn->switch_seq || seq > b->next)
            return 0;
    }
    uint64_t *v = realloc(b->inos, (b->n + 1) * sizeof(*v));
    if (!v)
        return -ENOMEM;
    b->inos = v;
    v[b->n++] = i->ino;
    return 0;
}

static int find_files(struct bulk *b, bool all)
{
    struct dmt_snapshot s;
    char name[DMT_SWITCH_NAME_MAX];
    dmt_switch_name(b->turn->epoch, name);
    ws_lock(b->ws);
    int r = dmt_store_snap_get(b->ws->st, name, &s);
    b->view = s.seq;
    if (r == 0)
        r = dmt_store_epoch_each(b->ws->st, find_next, b);
    if (r == 0)
        r = ws_incomplete_each(b->ws, all, note_file, b);
    ws_unlock(b->ws);
    return r == -ENOENT ? 0 : r;
}

struct turn_at {
    uint64_t floor;
    struct dmt_epoch_row row;
};

static int find_turn(void *ctx, const struct dmt_epoch_row *e)
{
    struct turn_at *t = ctx;
    if (e->switch_seq == t->floor)
        t->row = *e;
    return 0;
}

int ws_branch_lost(struct dmt_ws *ws, uint64_t floor, uint64_t **ret, size_t *ret_n)
{
    struct turn_at t = {.floor = floor};
    struct bulk b = {.ws = ws, .turn = &t.row, .next = UINT64_MAX};
    ws_lock(ws);
    int r = dmt_store_epoch_each(ws->st, find_turn, &t);
    ws_unlock(ws);
    if (r == 0 && t.row.epoch)
        r = find_files(&b, true);
    *ret = b.inos;
    *ret_n = b.n;
    return r;
}

/* --- their bytes ------------------------------------------------------------------------------ */

struct out {
    struct bulk *b;
    struct dmt_journal *to;
    struct dmt_err *err;
};

static int put(void *ctx, const struct dmt_body *body)
{
    struct out *o = ctx;
    struct dmt_ws *ws = o->b->ws;
    struct dmt_buf buf;
    dmt_buf_init(&buf);
    dmt_body_encode(body, &buf);
    struct dmt_rec r = {.epoch = o->b->turn->parent,
                        .time_ns = ws->conf.clock->realtime_ns(ws->conf.clock->ctx),
                        .type = (uint16_t)body->type};
    struct iovec iov = {buf.p, buf.len};
    int e = buf.bad ? -ENOMEM : atomic_load(o->b->stop) ? -ECANCELED : ws_branch_room(ws, buf.len);
    if (e == 0)
        e = dmt_journal_append(o->to, &r, &iov, 1, o->err);
    dmt_buf_free(&buf);
    return e;
}

static int put_files(void *ctx, struct dmt_journal *to, struct dmt_err *err)
{
    struct bulk *b = ctx;
    struct out o = {b, to, err};
    int r = 0;
    for (size_t i = 0; r == 0 && i < b->n; i++) {
        r = ws_branch_content(b->ws, b->view, b->inos[i], b->data, put, &o);
        if (r == -ENOENT)
            r = 0; /* it was settled because of a later one of that number: nothing of ours */
    }
    return r;
}

int dmt_ws_branch_keep_bulk(struct dmt_ws *ws, const struct dmt_epoch_row *turn, const char *node,
                            const atomic_bool *stop, struct dmt_err *err)
{
    struct bulk b = {
        .ws = ws, .turn = turn, .stop = stop, .next = UINT64_MAX, .data = malloc(DMT_WRITE_MAX)};
    char name[DMT_NAME_MAX + 1], path[DMT_PATH_MAX];
    struct dmt_pos floor = {turn->parent, turn->switch_seq, turn->switch_chain};
    (void)snprintf(name, sizeof(name), "epoch-%" PRIu64 ".%" PRIu64 "-%.100s" SUFFIX,
                   turn->parent >> 32, turn->parent & UINT32_MAX, node);
    if (err)
        *err = (struct dmt_err){0};
    int r = b.data ? ws_branch_path(ws, name, ".removed", path) : -ENOMEM;
    bool had = r == 0 && access(path, F_OK) == 0;
    if (r == 0 && ws_branch_path(ws, name, "", path) == 0)
        had |= access(path, F_OK) == 0;
    if (r == 0 && !had)
        r = find_files(&b, false);
    if (r == 0 && b.n > 0)
        r = ws_branch_save(ws, name, &floor, put_files, &b, err);
    if (r == 0 && b.n > 0)
        dmt_info("%zu files that the other machine lacked bytes of are kept as branch %s", b.n,
                 name);
    free(b.inos);
    free(b.data);
    if (r < 0)
        return err && err->code ? r
                                : dmt_err_set(err, r, "the branch %s cannot be saved: %s", name,
                                              dmt_strerror(r));
    return b.n > 0;
}

/* --- finding it ------------------------------------------------------------------------------- */

struct bulk_at {
    struct dmt_ws *ws;
    uint64_t floor, first;
    char *name;
};

static int first_record(void *ctx, const struct dmt_rec *r)
{
    *(uint64_t *)ctx = r->seq;
    return 1;
}

static int try_name(void *ctx, const char *name, bool removed)
{
    struct bulk_at *x = ctx;
    char path[DMT_PATH_MAX];
    uint64_t first = 0;
    if (removed || !dmt_branch_is_bulk(name) || ws_branch_path(x->ws, name, "", path) < 0 ||
        dmt_journal_scan(x->ws->conf.io, path, first_record, &first, NULL) < 0 ||
        first != x->floor + 1)
        return 0;
    (void)snprintf(x->name, DMT_NAME_MAX + 1, "%s", name);
    return 1;
}

int ws_branch_bulk_at(struct dmt_ws *ws, uint64_t floor, char name[DMT_NAME_MAX + 1])
{
    struct bulk_at x = {.ws = ws, .floor = floor, .name = name};
    return dmt_ws_branch_names(ws, try_name, &x);
}

bool dmt_ws_branch_has_bulk(struct dmt_ws *ws, uint64_t switch_seq)
{
    char name[DMT_NAME_MAX + 1];
    return ws_branch_bulk_at(ws, switch_seq, name) == 1;
}
