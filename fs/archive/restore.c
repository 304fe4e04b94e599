/* restore.c: a store as it was at a moment, built from an archive.
 *
 * Happy path: plan_make() lists the objects; the base's parts are imported; then for each journal
 * object in order the records up to the moment are received and applied by the same code a standby
 * uses, and the bulk objects before it give the bytes that its by-reference writes lack. Files
 * whose bytes of that moment are not in the archive get their older content or are cut (rules 21,
 * 22) by ordinary records under an epoch of the new store. The result is renamed into place at the
 * end.
 *
 * The new store is a workspace of its own: fresh lineage and store id. A copy that went on under
 * the old lineage would write into the same series as the original.
 *
 * Failure modes: every object is checked whole (A1), against its place (A2) and against the chain
 * (A3); what does not fit is DMT_E_CORRUPT with the key and the last position before it. Whatever
 * goes wrong, the half-built store (DIR.part) is removed. Thread: the caller's; minutes long. */
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/archive/archive.h"
#include "fs/archive/plan.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"

#define POOL_THREADS 2
#define POOL_QUEUE   64

struct bulk_list {
    struct dmt_buf *v;
    size_t n, cap;
};

struct restore_run {
    struct dmt_restore *conf;
    struct plan plan;
    char dir[DMT_PATH_MAX - 64]; /* DIR.part */
    struct dmt_pool *pool;
    struct dmt_ws *ws;
    struct dmt_pos pos; /* applied so far */
    uint64_t time_ns;
    struct archive_hdr good; /* last position object that was applied */
    struct bulk_list bulk;   /* payloads that belong to the next journal object */
    uint64_t objects_done, objects_total, bytes_done;
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st;
    (void)flag;
    (void)f;
    return remove(path);
}

static void remove_tree(const char *dir)
{
    if (!access(dir, F_OK) && nftw(dir, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT))
        dmt_warn("restore: %s cannot be removed", dir);
}

static void progress(struct restore_run *rr, size_t bytes)
{
    rr->objects_done++;
    rr->bytes_done += bytes;
    uint64_t total = rr->bytes_done / rr->objects_done * rr->objects_total;
    if (rr->conf->progress)
        rr->conf->progress(rr->conf->ctx, rr->bytes_done,
                           total > rr->bytes_done ? total : rr->bytes_done);
}

static bool is_damage(int r)
{
    return r == -ENOENT || r == DMT_E_CORRUPT;
}

static int fetch(struct restore_run *rr, const char *node, uint64_t n, struct archive_hdr *h,
                 struct dmt_buf *payload, struct dmt_err *err)
{
    size_t before = payload->len;
    int r = series_object(&rr->plan.src, rr->plan.lineage, node, n, h, payload, err);
    if (!r)
        progress(rr, payload->len - before);
    return r;
}

/* --- base */

static int keep_bulk(struct restore_run *rr, struct dmt_buf *payload)
{
    struct bulk_list *l = &rr->bulk;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 16;
        struct dmt_buf *v = realloc(l->v, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n++] = *payload;
    dmt_buf_init(payload);
    return 0;
}

static int import_base(struct restore_run *rr, struct dmt_err *err)
{
    const struct plan_seg *b = &rr->plan.base;
    struct dmt_store_conf sc = {.io = dmt_io_real(), .clock = dmt_clock_real(), .dir = rr->dir};
    struct dmt_store_ident id = {0};
    struct dmt_import *im = NULL;
    struct dmt_buf part;
    char key[SERIES_KEY_MAX];
    dmt_random(id.lineage, sizeof(id.lineage));
    dmt_random(id.store_id, sizeof(id.store_id));
    snprintf(id.name, sizeof(id.name), "%s", rr->conf->name);
    uint32_t parts = 0;
    dmt_buf_init(&part);
    int r = dmt_store_import_begin(&im, &sc, &id, err);
    for (uint64_t n = b->first_n; n <= b->last_n && !r; n++) {
        struct archive_hdr h;
        series_key(key, rr->plan.lineage, b->node, n);
        dmt_buf_reset(&part);
        r = fetch(rr, b->node, n, &h, &part, err);
        bool bulk = !r && h.kind == ARCHIVE_BULK;
        if (!r && !bulk && (h.kind != ARCHIVE_BASE || h.items != parts++))
            r = DMT_E_CORRUPT;
        if (is_damage(r)) {
            r = plan_base_damaged(&rr->plan, key, r == -ENOENT, err);
            break;
        }
        if (bulk)
            r = keep_bulk(rr, &part);
        else if (!r && (r = dmt_store_import_feed(im, part.p, part.len, err)))
            dmt_err_wrap(err, "object %s", key);
    }
    dmt_buf_free(&part);
    if (!r) {
        r = dmt_store_import_finish(im, &rr->pos, err);
        im = NULL;
    }
    if (im)
        dmt_store_import_abort(im);
    const struct archive_hdr *h = &rr->plan.base_hdr;
    if (!r && (rr->pos.seq != h->last_seq || rr->pos.chain != h->chain_after))
        return plan_base_damaged(&rr->plan, key, false, err);
    rr->good = *h;
    rr->time_ns = h->last_time;
    return r;
}

static int open_ws(struct restore_run *rr, struct dmt_err *err)
{
    struct dmt_ws_conf wc = {.io = dmt_io_real(),
                             .clock = dmt_clock_real(),
                             .dir = rr->dir,
                             .gate = dmt_gate_open(),
                             .level = DMT_SYNC_LOCAL,
                             .follower = true};
    int r = dmt_pool_new(&rr->pool, "restore", POOL_THREADS, POOL_QUEUE);
    if (r)
        return dmt_err_set(err, r, "cannot start threads");
    wc.pool = rr->pool;
    r = dmt_ws_open(&rr->ws, &wc, err);
    if (!r) /* nobody else needs this journal */
        dmt_ws_set_retention(rr->ws, UINT64_MAX, UINT64_MAX);
    return r;
}

/* --- journal and bulk */

/* How many bytes of the records lie within the limits, and the last of them. */
static int cut(const struct restore_run *rr, const struct dmt_buf *raw, size_t *ret_len,
               struct dmt_pos *pos, uint64_t *time)
{
    size_t at = 0;
    while (at < raw->len) {
        struct dmt_rec rec;
        size_t used;
        int r = dmt_rec_decode(raw->p + at, raw->len - at, &rec, &used);
        if (r)
            return r;
        if (rec.seq > rr->plan.to_seq || rec.time_ns > rr->plan.to_time)
            break;
        at += used;
        *pos = (struct dmt_pos){rec.epoch, rec.seq, rec.chain};
        *time = rec.time_ns;
    }
    *ret_len = at;
    return 0;
}

/* The bytes of the bulk objects go where the new store asks for exactly them. */
static int fill(struct restore_run *rr, struct dmt_err *err)
{
    bool any = false;
    int r = 0;
    for (size_t i = 0; i < rr->bulk.n; i++) {
        struct dmt_cur c = dmt_cur_of(rr->bulk.v[i].p, rr->bulk.v[i].len);
        struct archive_bulk b;
        while (!r && (r = archive_bulk_next(&c, &b)) == 1) {
            struct dmt_missing m = {.ino = b.ino, .off = b.off, .len = b.len, .seq = b.seq};
            r = dmt_ws_missing_fill(rr->ws, &m, b.bytes);
            any = true;
        }
        dmt_buf_free(&rr->bulk.v[i]);
    }
    rr->bulk.n = 0;
    if (!r && any)
        r = dmt_ws_missing_sync(rr->ws);
    return r < 0 ? dmt_err_set(err, r, "bulk data cannot be put in place: %s", dmt_strerror(r)) : 0;
}

static int apply_records(struct restore_run *rr, const struct archive_hdr *h,
                         const struct dmt_buf *raw, const char *key, struct dmt_err *err)
{
    struct dmt_pos pos = rr->pos;
    size_t len = 0;
    bool joins = h->first_seq == rr->pos.seq + 1 && h->chain_before == rr->pos.chain &&
                 (!(h->flags & ARCHIVE_OPENS) ||
                  (h->switch_seq == rr->pos.seq && h->switch_chain == rr->pos.chain));
    if (!joins || cut(rr, raw, &len, &pos, &rr->time_ns)) /* A3, A4 */
        return plan_damaged(key, false, &rr->good, err);
    if (!len)
        return 0;
    int r = dmt_ws_receive(rr->ws, raw->p, len, err);
    if (r == DMT_E_HISTORY || r == DMT_E_CORRUPT)
        return plan_damaged(key, false, &rr->good, err);
    if (!r && (r = dmt_journal_wait(dmt_ws_journal(rr->ws), pos.seq)))
        dmt_err_set(err, r, "the journal of the new store cannot be written: %s", dmt_strerror(r));
    if (!r)
        r = dmt_ws_apply_upto(rr->ws, pos.seq, err);
    if (!r)
        r = fill(rr, err);
    if (r)
        return r;
    rr->pos = pos;
    rr->good = *h;
    return 0;
}

static int apply_seg(struct restore_run *rr, const struct plan_seg *s, struct dmt_err *err)
{
    char key[SERIES_KEY_MAX];
    struct dmt_buf b;
    int r = 0;
    dmt_buf_init(&b);
    for (uint64_t n = s->first_n; n <= s->last_n && !r; n++) {
        struct archive_hdr h;
        series_key(key, rr->plan.lineage, s->node, n);
        dmt_buf_reset(&b);
        r = fetch(rr, s->node, n, &h, &b, err);
        if (is_damage(r))
            r = plan_damaged(key, r == -ENOENT, &rr->good, err);
        else if (!r && h.kind == ARCHIVE_BULK)
            r = keep_bulk(rr, &b);
        else if (!r && h.kind == ARCHIVE_JOURNAL)
            r = apply_records(rr, &h, &b, key, err);
    }
    dmt_buf_free(&b);
    return r;
}

/* --- the end */

/* Files that lack bytes: counted, then settled by records of an epoch of this store's own. */
static int settle(struct restore_run *rr, struct dmt_err *err)
{
    struct dmt_missing m = {0};
    uint64_t ino = 0, off = 0, files = 0, last = 0;
    int r;
    while ((r = dmt_ws_missing_next(rr->ws, ino, off, &m)) == 1) {
        files += !files || m.ino != last;
        last = ino = m.ino;
        off = m.off + m.len;
    }
    if (r < 0)
        return dmt_err_set(err, r, "missing ranges cannot be read: %s", dmt_strerror(r));
    rr->conf->incomplete = files;
    if (!files)
        return 0;
    r = dmt_ws_promote(rr->ws, err);
    if (!r)
        r = dmt_ws_begin_epoch(rr->ws, rr->pos.epoch + 1, "restore", "restored from an archive",
                               err);
    if (!r)
        r = dmt_ws_settle(rr->ws, false, err);
    return r < 0 ? r : 0;
}

static int build(struct restore_run *rr, struct dmt_err *err)
{
    struct plan *p = &rr->plan;
    rr->objects_total = p->base.last_n - p->base.first_n + 1;
    for (size_t i = 0; i < p->n_seg; i++)
        rr->objects_total += p->seg[i].last_n + 1 - p->seg[i].first_n;
    int r = dmt_io_mkdirs(dmt_io_real(), rr->dir, 0700);
    if (r)
        return dmt_err_set(err, r, "cannot create %s: %s", rr->dir, dmt_strerror(r));
    r = import_base(rr, err);
    if (!r)
        r = open_ws(rr, err);
    if (!r)
        r = fill(rr, err);
    for (size_t i = p->n_seg; i-- > 0 && !r;)
        r = apply_seg(rr, &p->seg[i], err);
    if (!r)
        r = settle(rr, err);
    if (rr->ws) {
        int rc = dmt_ws_close(rr->ws, r ? NULL : err);
        r = r ? r : rc;
    }
    if (rr->pool)
        dmt_pool_free(rr->pool);
    for (size_t i = 0; i < rr->bulk.n; i++)
        dmt_buf_free(&rr->bulk.v[i]);
    free(rr->bulk.v);
    return r;
}

/* DIR.part becomes DIR, durably. */
static int publish(const struct restore_run *rr, struct dmt_err *err)
{
    const struct dmt_io *io = dmt_io_real();
    char parent[DMT_PATH_MAX];
    snprintf(parent, sizeof(parent), "%s", rr->conf->dir);
    char *slash = strrchr(parent, '/');
    slash[slash == parent ? 1 : 0] = 0;
    int r = io->rename(io->ctx, rr->dir, rr->conf->dir); /* replaces an empty directory */
    if (!r)
        r = io->sync_dir(io->ctx, parent);
    return r ? dmt_err_set(err, r, "cannot move the restored store to %s: %s", rr->conf->dir,
                           dmt_strerror(r))
             : 0;
}

static int check_target(struct restore_run *rr, struct dmt_err *err)
{
    const char *dir = rr->conf->dir;
    if (!dir || dir[0] != '/' || strlen(dir) > sizeof(rr->dir) - 8 || dir[strlen(dir) - 1] == '/')
        return dmt_err_set(err, -EINVAL, "%s is not an absolute directory name", dir);
    snprintf(rr->dir, sizeof(rr->dir), "%s.part", dir);
    if (!access(dir, F_OK) && rmdir(dir)) {
        int e = -errno;
        dmt_err_set(err, e, "%s exists and is not empty", dir);
        dmt_err_hint(err, "restore into a new directory");
        return e;
    }
    return 0;
}

int dmt_archive_restore(struct dmt_restore *conf, struct dmt_err *err)
{
    struct dmt_objstore_conf oc = {.credentials = conf->credentials};
    struct restore_run *rr = calloc(1, sizeof(*rr));
    if (!rr)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    rr->conf = conf;
    rr->plan.to_seq = conf->to_seq ? conf->to_seq : UINT64_MAX;
    rr->plan.to_time = conf->to_time_ns ? conf->to_time_ns : UINT64_MAX;
    conf->incomplete = 0;
    int r = check_target(rr, err);
    if (!r)
        r = dmt_objstore_open(&rr->plan.os, conf->url, &oc, err);
    if (r)
        goto out;
    rr->plan.src = series_src_of(rr->plan.os);
    r = plan_lineage(&rr->plan, conf->lineage, err);
    if (!r)
        r = plan_make(&rr->plan, err);
    if (r)
        goto out;
    remove_tree(rr->dir); /* of a restore that was killed */
    r = build(rr, err);
    if (!r)
        r = publish(rr, err);
    if (r) {
        remove_tree(rr->dir);
        goto out;
    }
    conf->reached = rr->pos;
    conf->reached_time_ns = rr->time_ns;
out:
    plan_free(&rr->plan);
    dmt_objstore_close(rr->plan.os);
    free(rr);
    return r;
}
