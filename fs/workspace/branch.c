/* branch.c: a loser's tail: kept as a branch, then cut from the journal.
 *
 * A branch is a directory STORE/branches/NAME in the format of the journal, with the records after
 * the switch point; a by-reference write stands in it as a WRITE with the bytes that the file
 * shows, so that it can be read without this store. Where a range was overwritten later in the
 * branch it holds the later bytes: the end state is exact. Files deleted later keep their records
 * without bytes. A file that a rollback gave the content of a snapshot follows whole, after the
 * last record: whoever reads the branch need not have that snapshot.
 * Happy path: unapplied records are applied, the records are copied and made durable under a
 * temporary name, the directory is renamed; then the journal is cut to the switch point (rule 5:
 * the caller stands at the opening of a higher epoch) and the store reloads its last checkpoint.
 * Failure: a checkpoint past the switch point cannot be taken back: DMT_E_HISTORY, with the branch
 * saved all the same, and the caller orders a full resync. A crash in between repeats from the
 * start: a branch that has its name is complete. Thread: one, blocks; the workspace is not serving.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/io.h"
#include "fs/workspace/branch_copy.h"
#include "fs/workspace/ws.h"

#define BRANCH_SEGMENT (8u << 20)

int ws_branch_path(struct dmt_ws *ws, const char *name, const char *suffix, char path[DMT_PATH_MAX])
{
    bool bad = !*name || *name == '.' || strchr(name, '/') || strlen(name) > DMT_NAME_MAX - 8;
    int n = snprintf(path, DMT_PATH_MAX, "%s/branches/%s%s", ws->conf.dir, name, suffix);
    return bad || n >= (int)DMT_PATH_MAX ? -EINVAL : 0;
}

static bool exists(const struct dmt_io *io, const char *path)
{
    int fd = io->open(io->ctx, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd >= 0)
        io->close(io->ctx, fd);
    return fd >= 0;
}

/* Files of a half-written branch. */
static void clear_dir(const struct dmt_io *io, const char *dir)
{
    char path[DMT_PATH_MAX + 256];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.')
            (void)io->unlink(io->ctx, path);
    }
    if (d)
        closedir(d);
}

/* The record as the branch keeps it: with bytes, where there are any. */
static int with_bytes(struct dmt_ws *ws, struct dmt_rec *r, uint8_t *data, struct dmt_buf *out)
{
    struct dmt_body b;
    struct dmt_inode n;
    int e = dmt_body_decode(r->type, r->body, r->body_len, &b);
    dmt_buf_reset(out);
    if (e < 0)
        return e;
    if (b.type == DMT_REC_WRITE_REF && b.WRITE_REF.length <= DMT_WRITE_MAX) {
        struct dmt_rec_WRITE_REF w = b.WRITE_REF;
        ws_lock(ws);
        bool there = dmt_store_inode_get(ws->st, DMT_LIVE, w.ino, &n) == 0;
        ws_unlock(ws);
        if (there) {
            ssize_t got = ws_view_read(ws, DMT_LIVE, w.ino, data, w.length, w.off, false);
            if (got < 0)
                return (int)got;
            memset(data + got, 0, w.length - (size_t)got); /* cut off later in the branch */
            b = (struct dmt_body){
                .type = DMT_REC_WRITE,
                .WRITE = {.ino = w.ino,
                          .off = w.off,
                          .mode = w.mode,
                          .drop_caps = w.drop_caps,
                          .data = {data, (uint32_t)w.length}},
            };
            r->type = DMT_REC_WRITE;
        }
    }
    dmt_body_encode(&b, out);
    return out->bad ? -ENOMEM : 0;
}

int ws_branch_content(struct dmt_ws *ws, uint64_t view, uint64_t ino, uint8_t *data,
                      int (*put)(void *ctx, const struct dmt_body *b), void *ctx)
{
    struct dmt_inode n;
    ws_lock(ws);
    int r = dmt_store_inode_get(ws->st, view, ino, &n);
    ws_unlock(ws);
    for (uint64_t off = 0; r == 0 && off < n.size;) {
        ws_lock(ws);
        int64_t at = dmt_store_seek(ws->st, view, ino, off, n.size, true);
        ws_unlock(ws);
        if (at == -ENXIO)
            break;
        ssize_t got = (ssize_t)at;
        if (at >= 0)
            got = ws_view_read(ws, view, ino, data, DMT_WRITE_MAX, (uint64_t)at, false);
        if (got <= 0)
            return got < 0 ? (int)got : -EIO;
        struct dmt_body w = {.type = DMT_REC_WRITE,
                             .WRITE = {.ino = ino,
                                       .off = (uint64_t)at,
                                       .mode = DMT_MODE_KEEP,
                                       .data = {(const char *)data, (uint32_t)got}}};
        r = put(ctx, &w);
        off = (uint64_t)at + (uint64_t)got;
    }
    struct dmt_body end = {.type = DMT_REC_SETATTR,
                           .SETATTR = {.ino = ino,
                                       .mask = DMT_SET_SIZE | DMT_SET_MTIME,
                                       .size = r == 0 ? n.size : 0,
                                       .mtime = r == 0 ? n.mtime : 0}};
    return r < 0 ? r : put(ctx, &end);
}

struct tail {
    struct dmt_ws *ws;
    uint64_t after;
    struct dmt_journal *to;
    struct dmt_err *err;
    struct dmt_rec last;    /* whose epoch and time the rest takes */
    struct ws_map contents; /* inodes that got content from a snapshot */
    struct dmt_buf body;
    uint8_t *data;
};

static int append(struct tail *t, struct dmt_rec *r)
{
    struct iovec iov = {t->body.p, t->body.len};
    return dmt_journal_append(t->to, r, &iov, 1, t->err);
}

static int put_rest(void *ctx, const struct dmt_body *b)
{
    struct tail *t = ctx;
    struct dmt_rec r = {
        .epoch = t->last.epoch, .time_ns = t->last.time_ns, .type = (uint16_t)b->type};
    dmt_buf_reset(&t->body);
    dmt_body_encode(b, &t->body);
    return t->body.bad ? -ENOMEM : append(t, &r);
}

/* What came from snapshots, as it is now. */
static int put_contents(struct tail *t)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < t->contents.cap; i++) {
        struct dmt_body cut = {
            .type = DMT_REC_SETATTR,
            .SETATTR = {.ino = t->contents.keys[i], .mask = DMT_SET_SIZE},
        };
        struct dmt_inode n;
        ws_lock(t->ws);
        bool there =
            cut.SETATTR.ino && dmt_store_inode_get(t->ws->st, DMT_LIVE, cut.SETATTR.ino, &n) == 0;
        ws_unlock(t->ws);
        if (there)
            r = put_rest(t, &cut);
        if (there && r == 0)
            r = ws_branch_content(t->ws, DMT_LIVE, n.ino, t->data, put_rest, t);
    }
    return r;
}

static int copy_records(struct tail *t, struct dmt_jreader *rd)
{
    struct dmt_rec r;
    struct dmt_body b;
    int e;
    while ((e = dmt_jreader_next(rd, &r, NULL, NULL, t->err)) == 1) {
        if (r.type == DMT_REC_CONTENT) {
            e = dmt_body_decode(r.type, r.body, r.body_len, &b);
            e = e < 0 ? e : ws_map_put(&t->contents, b.CONTENT.ino, 1);
        }
        e = e < 0 ? e : with_bytes(t->ws, &r, t->data, &t->body);
        if (e < 0)
            return e;
        struct dmt_rec copy = {
            .epoch = r.epoch,
            .time_ns = r.time_ns,
            .unique = r.unique,
            .instance = r.instance,
            .type = r.type,
        };
        e = append(t, &copy);
        if (e < 0)
            return e;
        t->last = copy;
    }
    return e < 0 ? e : put_contents(t);
}

static int copy_tail(void *ctx, struct dmt_journal *to, struct dmt_err *err)
{
    struct tail *t = ctx;
    struct dmt_jreader *rd = NULL;
    t->to = to;
    t->err = err;
    t->data = malloc(DMT_WRITE_MAX);
    dmt_buf_init(&t->body);
    int e = t->data ? dmt_jreader_open(&rd, t->ws->j, t->after, err) : -ENOMEM;
    if (e >= 0)
        e = copy_records(t, rd);
    dmt_jreader_close(rd);
    ws_map_clear(&t->contents);
    dmt_buf_free(&t->body);
    free(t->data);
    return e;
}

int ws_branch_save(struct dmt_ws *ws, const char *name, const struct dmt_pos *floor,
                   int (*fill)(void *ctx, struct dmt_journal *to, struct dmt_err *err), void *ctx,
                   struct dmt_err *err)
{
    const struct dmt_io *io = ws->conf.io;
    char dir[DMT_PATH_MAX], tmp[DMT_PATH_MAX], parent[DMT_PATH_MAX];
    struct dmt_journal *to = NULL;
    struct dmt_journal_conf jc = {.io = io,
                                  .clock = ws->conf.clock,
                                  .dir = tmp,
                                  .floor = *floor,
                                  .segment_bytes = BRANCH_SEGMENT};
    if (ws_branch_path(ws, name, "", dir) < 0 || ws_branch_path(ws, name, ".new", tmp) < 0)
        return dmt_err_set(err, -EINVAL, "\"%s\" cannot be the name of a branch", name);
    if (exists(io, dir))
        return 0;
    (void)snprintf(parent, sizeof(parent), "%s", dir);
    *strrchr(parent, '/') = '\0';
    memcpy(jc.lineage, dmt_store_ident(ws->st)->lineage, sizeof(jc.lineage));
    int r = dmt_io_mkdirs(io, parent, 0700);
    if (r < 0)
        return dmt_err_set(err, r, "the branch %s cannot be saved: %s", name, dmt_strerror(r));
    clear_dir(io, tmp);
    r = dmt_journal_open(&to, &jc, err);
    if (r == 0) {
        r = fill(ctx, to, err);
        if (r == 0) {
            uint64_t tail = dmt_journal_tail(to).seq;
            dmt_journal_kick(to, tail);
            r = dmt_journal_wait(to, tail);
        }
        dmt_journal_close(to);
    }
    if (r < 0)
        clear_dir(io, tmp); /* the disk may be full of it */
    if (r == 0)
        r = io->rename(io->ctx, tmp, dir);
    if (r == 0)
        r = io->sync_dir(io->ctx, parent);
    return r < 0 && err && err->code == 0
               ? dmt_err_set(err, r, "the branch %s cannot be saved: %s", name, dmt_strerror(r))
               : r;
}

static int save_branch(struct dmt_ws *ws, uint64_t after, const char *name, struct dmt_err *err)
{
    struct tail t = {.ws = ws, .after = after};
    struct dmt_pos floor;
    int r = dmt_journal_pos_at(ws->j, after, &floor);
    return r < 0 ? dmt_err_set(err, r, "the branch %s cannot be saved: %s", name, dmt_strerror(r))
                 : ws_branch_save(ws, name, &floor, copy_tail, &t, err);
}

/* Cuts and starts over at the last checkpoint. apply_lock and ckpt_run held. */
static int cut(struct dmt_ws *ws, uint64_t switch_seq, struct dmt_err *err)
{
    dmt_jreader_close(ws->reader);
    ws->reader = NULL;
    ws_lock(ws); /* nobody may append or read meanwhile; the disk is waited for, once in a life */
    int r = dmt_journal_truncate_to(ws->j, switch_seq, err);
    if (r < 0) {
        ws_unlock(ws);
        return r;
    }
    r = dmt_store_reload(ws->st, err);
    ws_memory_clear(ws);
    ws_map_clear(&ws->refs);
    if (r == 0)
        r = ws_meta_load(ws, err);
    if (r < 0)
        ws_fail(ws, "the state cannot be loaded after cutting the journal: %s", dmt_strerror(r));
    ws->role = WS_FOLLOWER;
    ws_unlock(ws);
    return r;
}

/* apply_lock and ckpt_run held. */
static int keep_tail(struct dmt_ws *ws, uint64_t switch_seq, const char *branch,
                     struct dmt_err *err)
{
    uint64_t tail = dmt_journal_tail(ws->j).seq;
    int r = tail > switch_seq ? ws_apply_tail(ws, tail, err) : 0;
    if (r == 0 && tail > switch_seq)
        r = save_branch(ws, switch_seq, branch, err);
    if (r == 0 && tail > switch_seq)
        dmt_info("records %llu to %llu are kept as branch %s", (unsigned long long)switch_seq + 1,
                 (unsigned long long)tail, branch);
    return r;
}

/* The same. */
static int keep_and_cut(struct dmt_ws *ws, uint64_t switch_seq, const char *branch,
                        struct dmt_err *err)
{
    if (dmt_journal_tail(ws->j).seq <= switch_seq) {
        ws_lock(ws);
        ws->role = WS_FOLLOWER;
        ws_unlock(ws);
        return 0;
    }
    int r = keep_tail(ws, switch_seq, branch, err);
    if (r < 0)
        return r;
    if (dmt_store_applied(ws->st).seq > switch_seq) {
        dmt_err_set(err, DMT_E_HISTORY, "the last checkpoint is beyond the switch point");
        (void)dmt_err_hint(
            err, "this store has to be synchronised anew; its changes are kept in branch %s",
            branch);
        return DMT_E_HISTORY;
    }
    return cut(ws, switch_seq, err);
}

static int as_loser(struct dmt_ws *ws, uint64_t switch_seq, const char *branch,
                    int (*fn)(struct dmt_ws *, uint64_t, const char *, struct dmt_err *),
                    struct dmt_err *err)
{
    ws_lock(ws);
    bool serving = ws->role == WS_HOLDER;
    ws_unlock(ws);
    if (err)
        *err = (struct dmt_err){0};
    if (serving)
        return dmt_err_set(err, -EBUSY, "the workspace is still the holder");
    ws_acks_fail(ws, -EIO);
    pthread_mutex_lock(&ws->apply_lock);
    pthread_mutex_lock(&ws->ckpt_run);
    int r = fn(ws, switch_seq, branch, err);
    pthread_mutex_unlock(&ws->ckpt_run);
    pthread_mutex_unlock(&ws->apply_lock);
    return r;
}

int dmt_ws_branch_and_cut(struct dmt_ws *ws, uint64_t switch_seq, const char *branch,
                          struct dmt_err *err)
{
    return as_loser(ws, switch_seq, branch, keep_and_cut, err);
}

int dmt_ws_branch(struct dmt_ws *ws, uint64_t switch_seq, const char *branch, struct dmt_err *err)
{
    return as_loser(ws, switch_seq, branch, keep_tail, err);
}

/* --- listing ---------------------------------------------------------------------------------- */

struct extent_of {
    uint64_t first, last, bytes;
};

static int measure(void *ctx, const struct dmt_rec *r)
{
    struct extent_of *x = ctx;
    x->first = x->first ? x->first : r->seq;
    x->last = r->seq;
    x->bytes += r->body_len;
    return 0;
}

struct listing {
    struct dmt_ws *ws;
    int (*fn)(void *ctx, const char *name, uint64_t first, uint64_t last, uint64_t bytes);
    void *ctx;
};

static int list_one(void *ctx, const char *name, bool removed)
{
    struct listing *l = ctx;
    struct extent_of x = {0};
    char path[DMT_PATH_MAX];
    if (removed)
        return 0;
    int r = ws_branch_path(l->ws, name, "", path);
    if (r == 0)
        r = dmt_journal_scan(l->ws->conf.io, path, measure, &x, NULL);
    if (r == -ENOENT) /* removed a moment ago */
        return 0;
    return r < 0 ? r : l->fn(l->ctx, name, x.first, x.last, x.bytes);
}

int dmt_ws_branches(struct dmt_ws *ws,
                    int (*fn)(void *ctx, const char *name, uint64_t first, uint64_t last,
                              uint64_t bytes),
                    void *ctx)
{
    return dmt_ws_branch_names(ws, list_one, &(struct listing){ws, fn, ctx});
}
