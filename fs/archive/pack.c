/* pack.c: records become a journal object, and the bytes they only refer to become bulk objects
 * before it.
 *
 * Owns: the pack in hand. Happy path: pack_add() takes encoded records as the journal has them
 * until the pack is full or its time is up; pack_upload() then reads the bytes of each by-reference
 * write that are still those of that write, uploads them, and last the records. A record of another
 * epoch closes the pack (A4), so an EPOCH record always opens an object. What has been overwritten,
 * cut or deleted since is left out (protocol section 5: the archive is a reader that pulls; time
 * travel for bulk is to the last complete version), byte-exactly: the content map says for each
 * piece which write it is from. Failure modes: a record that does not continue the chain is
 * DMT_E_HISTORY: locate again. Thread: the archiver's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/archive/archiver.h"
#include "fs/base/log.h"

#define REREAD_MAX 8 /* a piece that changes under our hands so often is left out */

void pack_init(struct pack *p)
{
    memset(p, 0, sizeof(*p));
    dmt_buf_init(&p->raw);
    dmt_buf_init(&p->held);
    dmt_buf_init(&p->bulk);
}

void pack_free(struct pack *p)
{
    dmt_buf_free(&p->raw);
    dmt_buf_free(&p->held);
    dmt_buf_free(&p->bulk);
    free(p->ref);
    p->ref = NULL;
}

static void pack_clear(struct pack *p)
{
    dmt_buf_reset(&p->raw);
    dmt_buf_reset(&p->bulk);
    p->bulk_items = 0;
    p->n_ref = 0;
    p->ref_bytes = 0;
    p->records = 0;
    memset(&p->h, 0, sizeof(p->h));
}

uint64_t pack_record_bytes(const struct dmt_rec *rec, size_t len, struct pack_ref *ref)
{
    struct dmt_body b;
    ref->len = 0;
    if (rec->type == DMT_REC_WRITE_REF && !dmt_body_decode(rec->type, rec->body, rec->body_len, &b))
        *ref = (struct pack_ref){b.WRITE_REF.ino, b.WRITE_REF.off, b.WRITE_REF.length, rec->seq};
    return len + ref->len;
}

uint64_t pack_measure(const struct pack *p)
{
    return p->raw.len + p->ref_bytes + p->held.len;
}

bool pack_full(const struct dmt_archiver *a)
{
    size_t max = a->conf.pack_bytes ? a->conf.pack_bytes : PACK_BYTES;
    return a->pack.held.len || a->pack.raw.len >= max || a->pack.ref_bytes >= BULK_PER_PACK;
}

static int add_ref(struct pack *p, const struct pack_ref *ref)
{
    if (p->n_ref == p->cap_ref) {
        size_t cap = p->cap_ref ? p->cap_ref * 2 : 64;
        struct pack_ref *v = realloc(p->ref, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        p->ref = v;
        p->cap_ref = cap;
    }
    p->ref[p->n_ref++] = *ref;
    p->ref_bytes += ref->len;
    return 0;
}

/* The first record of a pack: where it hangs, and which epoch it opens. */
static int begin(struct dmt_archiver *a, const struct dmt_rec *rec, const uint8_t *raw, size_t len,
                 struct dmt_err *err)
{
    struct pack *p = &a->pack;
    struct dmt_body b;
    if (rec->seq != a->st.pos.seq + 1 || dmt_rec_chain(a->st.pos.chain, raw, len) != rec->chain)
        return dmt_err_set(err, DMT_E_HISTORY,
                           "the journal does not continue what is archived (at %llu)",
                           (unsigned long long)a->st.pos.seq);
    p->h.kind = ARCHIVE_JOURNAL;
    p->h.epoch = rec->epoch;
    p->h.first_seq = rec->seq;
    p->h.first_time = rec->time_ns;
    p->h.chain_before = a->st.pos.chain;
    p->began_ns = a->clock->monotonic_ns(a->clock->ctx);
    if (rec->type != DMT_REC_EPOCH)
        return 0;
    int r = dmt_body_decode(rec->type, rec->body, rec->body_len, &b);
    if (r)
        return dmt_err_set(err, r, "EPOCH record %llu is not understood",
                           (unsigned long long)rec->seq);
    p->h.flags |= ARCHIVE_OPENS;
    p->h.parent = b.EPOCH.parent;
    p->h.switch_seq = b.EPOCH.switch_seq;
    p->h.switch_chain = b.EPOCH.switch_chain;
    return 0;
}

int pack_add(struct dmt_archiver *a, const struct dmt_rec *rec, const uint8_t *raw, size_t len,
             struct dmt_err *err)
{
    struct pack *p = &a->pack;
    struct pack_ref ref;
    int r = 0;
    if (p->records && (rec->epoch != p->h.epoch || rec->type == DMT_REC_EPOCH)) {
        p->held_rec = *rec;
        dmt_put_raw(&p->held, raw, len);
        return p->held.bad ? dmt_err_set(err, -ENOMEM, "out of memory") : 0;
    }
    if (!p->records)
        r = begin(a, rec, raw, len, err);
    if (r)
        return r;
    dmt_put_raw(&p->raw, raw, len);
    pack_record_bytes(rec, len, &ref);
    if (p->raw.bad || (ref.len && add_ref(p, &ref)))
        return dmt_err_set(err, -ENOMEM, "out of memory");
    p->h.last_seq = rec->seq;
    p->h.last_time = rec->time_ns;
    p->h.chain_after = rec->chain;
    p->records++;
    return 1;
}

/* --- bulk */

static int bulk_flush(struct dmt_archiver *a, struct dmt_err *err)
{
    struct pack *p = &a->pack;
    if (!p->bulk_items)
        return 0;
    struct archive_hdr h = p->h; /* the range of the journal object it belongs to */
    h.kind = ARCHIVE_BULK;
    h.flags = 0;
    h.parent = h.switch_seq = h.switch_chain = 0;
    h.items = p->bulk_items;
    int r = archiver_upload(a, &h, &p->bulk, NULL, err);
    dmt_buf_reset(&p->bulk);
    p->bulk_items = 0;
    return r;
}

static int bulk_item(struct dmt_archiver *a, const struct pack_ref *ref, uint64_t off,
                     const void *bytes, uint64_t n, struct dmt_err *err)
{
    struct pack *p = &a->pack;
    archive_bulk_put(&p->bulk, ref->ino, off, ref->seq, bytes, (uint32_t)n);
    p->bulk_items++;
    if (p->bulk.bad)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    return p->bulk.len >= (a->conf.part_bytes ? a->conf.part_bytes : BULK_BYTES)
               ? bulk_flush(a, err)
               : 0;
}

/* One by-reference write whose bytes are being fetched. */
struct gather {
    const struct pack_ref *ref;
    uint64_t view;
    struct stretch {
        uint64_t off, end;
    } * got; /* uploaded already */
    size_t n_got;
    uint64_t bytes;
};

/* The first stretch of [off, end) that in g's view is from the write: 1, 0 when there is none. */
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
    uint64_t off = ref->off, end = ref->off + ref->len, n;
    int again = 0;
    while (off < end && !archiver_stopped(a)) {
        struct stretch s;
        int r = next_stretch(a, g, off, end, &s);
        if (r < 0)
            return dmt_err_set(err, r, "cannot look up inode %llu: %s",
                               (unsigned long long)ref->ino, dmt_strerror(r));
        if (!r) { /* nothing of this write in the next stretch */
            off = end - off > DMT_WRITE_MAX ? off + DMT_WRITE_MAX : end;
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
        r = bulk_item(a, ref, s.off, a->bulk_buf, n, err);
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

/* What the file shows now, and, where it was overwritten since, what the first snapshot after the
 * write still shows. */
static int gather(struct dmt_archiver *a, const struct pack_ref *ref, struct dmt_err *err)
{
    struct gather g = {.ref = ref, .view = DMT_LIVE};
    struct oldest o = {.from = ref->seq};
    int r = gather_view(a, &g, err);
    if (!r && g.bytes < ref->len)
        r = dmt_ws_snap_each(a->conf.ws, oldest_from, &o);
    if (!r && o.seq) {
        g.view = o.seq;
        r = gather_view(a, &g, err);
    }
    free(g.got);
    return r;
}

int pack_upload(struct dmt_archiver *a, struct dmt_err *err)
{
    struct pack *p = &a->pack;
    int r = 0;
    for (size_t i = 0; i < p->n_ref && !r; i++)
        r = gather(a, &p->ref[i], err);
    if (!r)
        r = bulk_flush(a, err);
    if (r)
        return r;
    struct dmt_pos pos = {p->h.epoch, p->h.last_seq, p->h.chain_after};
    p->h.items = p->records;
    r = archiver_upload(a, &p->h, &p->raw, &pos, err);
    if (r)
        return r;
    pack_clear(p);
    if (p->held.len) {
        struct dmt_rec rec = p->held_rec;
        size_t used;
        r = dmt_rec_decode(p->held.p, p->held.len, &rec, &used);
        if (r)
            return dmt_err_set(err, r, "record %llu does not decode",
                               (unsigned long long)p->held_rec.seq);
        r = pack_add(a, &rec, p->held.p, p->held.len, err);
        dmt_buf_reset(&p->held);
    }
    return r < 0 ? r : 0;
}
