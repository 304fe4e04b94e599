/* record.c: node.state and bucket.state, what a node must remember, as bytes. The formats are in
 * docs/formats-lease.md: magic, version, length, fields, CRC-32C. A record that fails any check is
 * refused: guessing here could make two writers. Pure functions.
 */
#include <string.h>

#include "fs/base/hash.h"
#include "fs/lease/bucket.h"

#define MAGIC   0x54534e44u /* "DNST" */
#define VERSION 2u

enum {
    F_ALONE = 1,
    F_DUAL_ACK = 2,
    F_GAVE_UP = 4,
    F_FENCED = 8,
    F_RESYNC = 16,
    F_PEER_STOPPED = 32,
    F_EVER_PAIRED = 64,
    F_READONLY = 128,
};

static void put_id(struct dmt_buf *b, const struct lease_id *id)
{
    dmt_put_str(b, id->node);
    dmt_put_raw(b, id->store, 16);
}

static void get_id(struct dmt_cur *c, struct lease_id *id)
{
    dmt_get_str(c, id->node, sizeof(id->node));
    const uint8_t *p = dmt_get_raw(c, 16);
    if (p)
        memcpy(id->store, p, 16);
}

static void put_lineage(struct dmt_buf *b, const struct dmt_lineage *l)
{
    dmt_put_raw(b, l->id, 16);
    dmt_put_u32(b, l->first);
    dmt_put_u32(b, l->past_n);
    for (uint32_t i = 0; i < l->past_n; i++)
        dmt_put_raw(b, l->past[i], 16);
}

/* Version 1 knew neither of the two: see first_of_old. */
static bool get_lineage(struct dmt_cur *c, uint32_t version, struct dmt_lineage *l)
{
    const uint8_t *p = dmt_get_raw(c, 16);
    if (p)
        memcpy(l->id, p, 16);
    l->first = version > 1 ? dmt_get_u32(c) : 0;
    l->past_n = version > 1 ? dmt_get_u32(c) : 0;
    if (l->past_n > DMT_LINEAGE_PAST_MAX)
        return false;
    for (uint32_t i = 0; i < l->past_n; i++)
        if ((p = dmt_get_raw(c, 16)))
            memcpy(l->past[i], p, 16);
    return true;
}

/* A record of version 1: no arbiter knows of a workspace that was never paired, whatever its epoch
 * (it may have been restored); any other began with epoch 1. */
static uint32_t first_of_old(const struct lease_record *r)
{
    return r->alone && !r->ever_paired ? DMT_EPOCH_MAJOR(r->hold) : 1;
}

int lease_record_encode(const struct lease_record *r, struct dmt_buf *out)
{
    size_t start = out->len;
    dmt_put_u32(out, MAGIC);
    dmt_put_u32(out, VERSION);
    put_lineage(out, &r->lineage);
    put_id(out, &r->self);
    dmt_put_u64(out, r->seen);
    dmt_put_u64(out, r->hold);
    dmt_put_u32(out, (r->alone ? F_ALONE : 0u) | (r->dual_ack ? F_DUAL_ACK : 0u) |
                         (r->gave_up ? F_GAVE_UP : 0u) | (r->fenced ? F_FENCED : 0u) |
                         (r->resync ? F_RESYNC : 0u) | (r->peer_stopped ? F_PEER_STOPPED : 0u) |
                         (r->ever_paired ? F_EVER_PAIRED : 0u) | (r->readonly ? F_READONLY : 0u));
    put_id(out, &r->peer);
    if (!out->bad)
        dmt_put_u32(out, dmt_crc32c(0, out->p + start, out->len - start));
    return out->bad ? -ENOMEM : 0;
}

int lease_record_decode(const void *p, size_t n, struct lease_record *ret, struct dmt_err *err)
{
    memset(ret, 0, sizeof(*ret));
    if (n < 12 || dmt_le32(p) != MAGIC)
        return dmt_err_set(err, DMT_E_CORRUPT, "not a node.state file");
    uint32_t version = dmt_le32((const uint8_t *)p + 4);
    if (version < 1 || version > VERSION)
        return dmt_err_set(err, DMT_E_VERSION,
                           "node.state has version %u, this program knows 1 to %u", version,
                           VERSION);
    if (dmt_le32((const uint8_t *)p + n - 4) != dmt_crc32c(0, p, n - 4))
        return dmt_err_set(err, DMT_E_CORRUPT, "node.state fails its checksum");
    struct dmt_cur c = dmt_cur_of(p, n - 4);
    (void)dmt_get_u64(&c);
    bool good = get_lineage(&c, version, &ret->lineage);
    get_id(&c, &ret->self);
    ret->seen = dmt_get_u64(&c);
    ret->hold = dmt_get_u64(&c);
    uint32_t f = dmt_get_u32(&c);
    get_id(&c, &ret->peer);
    ret->alone = f & F_ALONE;
    ret->dual_ack = f & F_DUAL_ACK;
    ret->gave_up = f & F_GAVE_UP;
    ret->fenced = f & F_FENCED;
    ret->resync = f & F_RESYNC;
    ret->peer_stopped = f & F_PEER_STOPPED;
    ret->ever_paired = f & F_EVER_PAIRED;
    ret->readonly = f & F_READONLY;
    if (version == 1 && dmt_lineage_known(&ret->lineage))
        ret->lineage.first = first_of_old(ret);
    if (dmt_cur_end(&c) < 0 || !good || f > 255 || lease_id_none(&ret->self) ||
        ret->hold > ret->seen)
        return dmt_err_set(err, DMT_E_CORRUPT, "node.state is not well-formed");
    return 0;
}

/* --- bucket.state --- */

#define BUCKET_MAGIC   0x54534244u /* "DBST" */
#define BUCKET_VERSION 2u
enum { B_YIELDED = 1, B_CONFIRMED = 2 };

int bucket_record_encode(const struct bucket_record *r, struct dmt_buf *out)
{
    size_t start = out->len;
    dmt_put_u32(out, BUCKET_MAGIC);
    dmt_put_u32(out, BUCKET_VERSION);
    dmt_put_raw(out, r->lineage, 16);
    put_id(out, &r->self);
    dmt_put_u32(out, r->reg.epoch);
    put_id(out, &r->reg.holder);
    dmt_put_u32(out, (uint32_t)r->reg.insync_n);
    for (int i = 0; i < r->reg.insync_n; i++)
        put_id(out, &r->reg.insync[i]);
    dmt_put_u32(out, r->attempt);
    dmt_put_u32(out, (r->yielded ? B_YIELDED : 0u) | (r->confirmed ? B_CONFIRMED : 0u));
    if (!out->bad)
        dmt_put_u32(out, dmt_crc32c(0, out->p + start, out->len - start));
    return out->bad ? -ENOMEM : 0;
}

int bucket_record_decode(const void *p, size_t n, struct bucket_record *ret, struct dmt_err *err)
{
    memset(ret, 0, sizeof(*ret));
    if (n < 12 || dmt_le32(p) != BUCKET_MAGIC)
        return dmt_err_set(err, DMT_E_CORRUPT, "not a bucket.state file");
    uint32_t version = dmt_le32((const uint8_t *)p + 4);
    if (version < 1 || version > BUCKET_VERSION)
        return dmt_err_set(err, DMT_E_VERSION,
                           "bucket.state has version %u, this program knows 1 to %u", version,
                           BUCKET_VERSION);
    if (dmt_le32((const uint8_t *)p + n - 4) != dmt_crc32c(0, p, n - 4))
        return dmt_err_set(err, DMT_E_CORRUPT, "bucket.state fails its checksum");
    struct dmt_cur c = dmt_cur_of(p, n - 4);
    (void)dmt_get_u64(&c);
    const uint8_t *lineage = version > 1 ? dmt_get_raw(&c, 16) : NULL;
    if (lineage)
        memcpy(ret->lineage, lineage, 16);
    get_id(&c, &ret->self);
    ret->reg.epoch = dmt_get_u32(&c);
    get_id(&c, &ret->reg.holder);
    uint32_t k = dmt_get_u32(&c);
    for (uint32_t i = 0; i < k && i < LEASE_INSYNC_MAX; i++)
        get_id(&c, &ret->reg.insync[i]);
    ret->reg.insync_n = k <= LEASE_INSYNC_MAX ? (int)k : 0;
    uint32_t attempt = dmt_get_u32(&c), f = dmt_get_u32(&c);
    ret->attempt = (enum bucket_attempt)attempt;
    ret->yielded = f & B_YIELDED;
    ret->confirmed = f & B_CONFIRMED;
    bool odd = k > LEASE_INSYNC_MAX || attempt > BUCKET_CLAIM || f > 3 ||
               (attempt != BUCKET_NO_ATTEMPT && k != 2);
    if (dmt_cur_end(&c) < 0 || odd || lease_id_none(&ret->self))
        return dmt_err_set(err, DMT_E_CORRUPT, "bucket.state is not well-formed");
    return 0;
}
