/* gather.c: the bytes of by-reference writes become bulk objects.
 *
 * Owns nothing between calls. Happy path: for each write the content map says which pieces of the
 * file are still from it; those are read (checked before and after by dmt_ws_bulk_read) and packed.
 * What has been overwritten, cut or deleted since is left out, byte-exactly, unless a snapshot
 * shows it (protocol section 5: the archive is a reader that pulls; time travel for bulk is to the
 * last complete version). A CONTENT record (rollback) needs nothing: the bytes were uploaded with
 * the writes that the snapshot shows, or that snapshot still had them when their turn came. Unless
 * it is gone by now: then what of the content is still there goes with the CONTENT.
 * Failure modes: bytes that change under our hands are looked up again;
 * bytes that are not what the record's hash says are not uploaded, and that is logged. Thread: the
 * archiver's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/archive/archiver.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"

#define REREAD_MAX 8 /* a piece that changes under our hands so often is left out */

struct gather {
    const struct archive_hdr *h; /* of what the bulk objects belong to */
    struct dmt_buf bulk;         /* items of the object being filled */
    uint32_t items;
    /* the write whose bytes are being fetched */
    const struct pack_ref *ref;
    uint64_t view;
    struct stretch {
        uint64_t off, end;
    } * got; /* of it uploaded already */
    size_t n_got;
    uint64_t bytes;
};

static int bulk_flush(struct dmt_archiver *a, struct gather *g, struct dmt_err *err)
{
    if (!g->items)
        return 0;
    struct archive_hdr h = *g->h; /* the range of what it belongs to */
    h.kind = ARCHIVE_BULK;
    h.flags = 0;
    h.parent = h.switch_seq = h.switch_chain = 0;
    h.items = g->items;
    int r = archiver_upload(a, &h, &g->bulk, NULL, err);
    dmt_buf_reset(&g->bulk);
    g->items = 0;
    return r;
}

static int bulk_item(struct dmt_archiver *a, struct gather *g, uint64_t off, uint64_t n,
                     struct dmt_err *err)
{
    const struct pack_ref *ref = g->ref;
    if (ref->hash && off == ref->off && n == ref->len &&
        dmt_hash64(0, a->bulk_buf, n) != ref->hash) {
        dmt_error("archive: the data file of inode %llu does not hold what was written at %llu; "
                  "not archived",
                  (unsigned long long)ref->ino, (unsigned long long)ref->seq);
        return 0;
    }
    archive_bulk_put(&g->bulk, ref->ino, off, ref->seq, a->bulk_buf, (uint32_t)n);
    g->items++;
    if (g->bulk.bad)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    return g->bulk.len >= (a->conf.part_bytes ? a->conf.part_bytes : BULK_BYTES)
               ? bulk_flush(a, g, err)
               : 0;
}

/* The first stretch of [off, end) that in g's view is from the write: 1, 0 when there is none.
 * DMT_E_GONE: something of it is lost here. */
static int next_stretch(struct dmt_archiver *a, const struct gather *g, uint64_t off, uint64_t end,
                        struct stretch *ret)
{
    struct dmt_store *st = dmt_ws_store(a->conf.ws);
    struct dmt_lockfn lk = dmt_ws_lockfn(a->conf.ws);
    struct dmt_pieces ps = {0};
    uint64_t n = end - off < DMT_WRITE_MAX ? end - off : DMT_WRITE_MAX;
    ret->end = 0;
    lk.lock(lk.ctx);
    int r = dmt_store_map(st, g->view, g->ref->ino, off, a->bulk_buf, n, &ps);
    for (int i = 0; !r && i < ps.n; i++) {
        const struct dmt_piece *pc = &ps.v[i];
        if (pc->born == g->ref->seq && pc->file && (!ret->end || pc->off < ret->off))
            *ret = (struct stretch){pc->off, pc->off + pc->len};
    }
    lk.unlock(lk.ctx);
    dmt_store_pieces_free(st, &ps);
    return r == -ENOENT ? 0 : r < 0 ? r : ret->end > 0;
}

/* Cuts s down to its first part that has not been uploaded; false when all of it has. */
static bool not_yet(const struct gather *g, struct stretch *s)
{
    for (size_t i = 0; i < g->n_got && s->off < s->end; i++) {
        const struct stretch *h = &g->got[i];
        if (h->off <= s->off && h->end > s->off) {
            s->off = h->end < s->end ? h->end : s->end;
            i = (size_t)-1; /* from the start: stretches are in no order */
        }
    }
    for (size_t i = 0; i < g->n_got; i++)
        if (g->got[i].off > s->off && g->got[i].off < s->end)
            s->end = g->got[i].off;
    return s->off < s->end;
}

static int note_got(struct gather *g, uint64_t off, uint64_t n)
{
    struct stretch *v = realloc(g->got, (g->n_got + 1) * sizeof(*v));
    if (!v)
        return -ENOMEM;
    g->got = v;
    v[g->n_got++] = (struct stretch){off, off + n};
    g->bytes += n;
    return 0;
}

static int gather_view(struct dmt_archiver *a, struct gather *g, struct dmt_err *err)
{
    const struct pack_ref *ref = g->ref;
    uint64_t off = ref->off, end = ref->off + ref->len, step = DMT_WRITE_MAX, n;
    int again = 0;
    while (off < end && !archiver_stopped(a)) {
        struct stretch s;
        uint64_t to = end - off > step ? off + step : end;
        int r = next_stretch(a, g, off, to, &s);
        if (r == DMT_E_GONE && step > DMT_LOST_STEP) { /* look closer */
            step = DMT_LOST_STEP;
            continue;
        }
        if (r == DMT_E_GONE)
            r = 0;
        if (r < 0)
            return dmt_err_set(err, r, "cannot look up inode %llu: %s",
                               (unsigned long long)ref->ino, dmt_strerror(r));
        if (!r) { /* nothing of this write in the next stretch */
            off = to;
            continue;
        }
        uint64_t piece_end = s.end;
        if (!not_yet(g, &s)) {
            off = piece_end;
            continue;
        }
        r = dmt_ws_bulk_read(a->conf.ws, ref->ino, s.off, s.end - s.off, ref->seq, a->bulk_buf, &n);
        if (r == DMT_E_GONE || (!r && !n)) { /* changed between the look and the read */
            off = ++again > REREAD_MAX ? s.end : s.off;
            continue;
        }
        if (r)
            return dmt_err_set(err, r, "cannot read inode %llu: %s", (unsigned long long)ref->ino,
                               dmt_strerror(r));
        r = bulk_item(a, g, s.off, n, err);
        if (!r && note_got(g, s.off, n))
            r = dmt_err_set(err, -ENOMEM, "out of memory");
        if (r)
            return r;
        off = s.off + n;
    }
    return archiver_stopped(a) ? -ECANCELED : 0;
}

struct oldest {
    uint64_t from, seq;
};

static int oldest_from(void *ctx, const struct dmt_snapshot *s)
{
    struct oldest *o = ctx;
    if (s->seq >= o->from && (!o->seq || s->seq < o->seq))
        o->seq = s->seq;
    return 0;
}

static int is_view(void *ctx, const struct dmt_snapshot *s)
{
    return s->seq == *(const uint64_t *)ctx;
}

/* What the file shows now, and, where it was overwritten since, what the first snapshot after the
 * write still shows. */
static int gather_one(struct dmt_archiver *a, struct gather *g, struct dmt_err *err)
{
    struct oldest o = {.from = g->ref->seq};
    g->view = DMT_LIVE;
    g->n_got = 0;
    g->bytes = 0;
    /* Now, after the writes before it: it was there when theirs were looked for. */
    uint64_t view = g->ref->view;
    if (view && dmt_ws_snap_each(a->conf.ws, is_view, &view) == 1)
        return 0;
    int r = gather_view(a, g, err);
    if (!r && g->bytes < g->ref->len)
        r = dmt_ws_snap_each(a->conf.ws, oldest_from, &o);
    if (!r && o.seq) {
        g->view = o.seq;
        r = gather_view(a, g, err);
    }
    return r;
}

int archiver_gather(struct dmt_archiver *a, const struct archive_hdr *h,
                    const struct pack_ref *refs, size_t n, struct dmt_err *err)
{
    struct gather g = {.h = h};
    int r = 0;
    dmt_buf_init(&g.bulk);
    for (size_t i = 0; i < n && !r; i++) {
        g.ref = &refs[i];
        r = gather_one(a, &g, err);
    }
    if (!r)
        r = bulk_flush(a, &g, err);
    dmt_buf_free(&g.bulk);
    free(g.got);
    return r;
}
