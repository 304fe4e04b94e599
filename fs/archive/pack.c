/* pack.c: records become a journal object.
 *
 * Owns: the pack in hand. Happy path: pack_add() takes encoded records as the journal has them
 * until the pack is full or its time is up; pack_upload() first has the bytes uploaded that
 * by-reference writes only refer to (gather.c), then the records. A record of another epoch closes
 * the pack (A4), so an EPOCH record always opens an object. Failure modes: a record that does not
 * continue the chain is DMT_E_HISTORY: locate again. Thread: the archiver's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/archive/archiver.h"
#include "fs/base/log.h"

void pack_init(struct pack *p)
{
    memset(p, 0, sizeof(*p));
    dmt_buf_init(&p->raw);
    dmt_buf_init(&p->held);
}

void pack_free(struct pack *p)
{
    dmt_buf_free(&p->raw);
    dmt_buf_free(&p->held);
    free(p->ref);
    p->ref = NULL;
}

static void pack_clear(struct pack *p)
{
    dmt_buf_reset(&p->raw);
    p->n_ref = 0;
    p->ref_bytes = 0;
    p->records = 0;
    memset(&p->h, 0, sizeof(p->h));
}

uint64_t pack_record_bytes(const struct dmt_rec *rec, size_t len, struct pack_ref *ref)
{
    struct dmt_body b;
    *ref = (struct pack_ref){.seq = rec->seq};
    if ((rec->type != DMT_REC_WRITE_REF && rec->type != DMT_REC_CONTENT) ||
        dmt_body_decode(rec->type, rec->body, rec->body_len, &b))
        return len;
    if (rec->type == DMT_REC_CONTENT) {
        ref->ino = b.CONTENT.ino;
        ref->len = b.CONTENT.size;
        ref->view = b.CONTENT.view;
        return len; /* as a rule nothing of it is sent */
    }
    ref->ino = b.WRITE_REF.ino;
    ref->off = b.WRITE_REF.off;
    ref->len = b.WRITE_REF.length;
    ref->hash = b.WRITE_REF.hash;
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
    p->ref_bytes += ref->view ? 0 : ref->len;
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

int pack_upload(struct dmt_archiver *a, struct dmt_err *err)
{
    struct pack *p = &a->pack;
    int r = archiver_gather(a, &p->h, p->ref, p->n_ref, err);
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
