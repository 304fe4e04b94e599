/* wire.c: encoding and decoding of the messages in wire.h, and their LZ4 payload.
 *
 * Owns nothing but decompression contexts. Happy path: encode appends head and fields to a buffer;
 * decode checks every length against what is left and hands back spans into the frame. Failure
 * modes: a frame that does not parse to its last byte is DMT_E_CORRUPT, and the caller closes the
 * connection; nothing is skipped or guessed. A payload must give exactly the raw length that its
 * message states: the limit on that length was checked before, so a small frame cannot grow without
 * bound.
 * Thread: any; an unpacker belongs to one thread.
 */
#include "fs/replica/wire.h"

#include <stdlib.h>
#include <string.h>

#include <lz4frame.h>

#include "fs/base/err.h"

/* --- fields ----------------------------------------------------------------------------------- */

static void put_pos(struct dmt_buf *b, const struct dmt_pos *p)
{
    dmt_put_u64(b, p->epoch);
    dmt_put_u64(b, p->seq);
    dmt_put_u64(b, p->chain);
}

static struct dmt_pos get_pos(struct dmt_cur *c)
{
    struct dmt_pos p;
    p.epoch = dmt_get_u64(c);
    p.seq = dmt_get_u64(c);
    p.chain = dmt_get_u64(c);
    return p;
}

static void get_id(struct dmt_cur *c, uint8_t dst[16])
{
    const uint8_t *p = dmt_get_raw(c, 16);
    if (p)
        memcpy(dst, p, 16);
}

static struct replica_span get_span(struct dmt_cur *c)
{
    struct replica_span s;
    s.p = dmt_get_bytes(c, &s.n);
    return s;
}

static struct replica_span get_text(struct dmt_cur *c)
{
    struct replica_span s = get_span(c);
    if (s.n > REPLICA_TEXT_MAX || (s.n > 0 && memchr(s.p, 0, s.n)))
        c->bad = true;
    return s;
}

#define PUT_U8(f)     dmt_put_u8(out, v->f);
#define PUT_U32(f)    dmt_put_u32(out, v->f);
#define PUT_U64(f)    dmt_put_u64(out, v->f);
#define PUT_ID(f)     dmt_put_raw(out, v->f, 16);
#define PUT_POS(f)    put_pos(out, &v->f);
#define PUT_STR(f)    dmt_put_bytes(out, v->f.p, v->f.n);
#define PUT_BYTES(f)  dmt_put_bytes(out, v->f.p, v->f.n);
#define F(kind, name) PUT_##kind(name)
#define MSG(NAME, num, most, fields)                                                \
    static void put_##NAME(const struct replica_msg_##NAME *v, struct dmt_buf *out) \
    {                                                                               \
        fields                                                                      \
    }
REPLICA_MESSAGES(MSG)
#undef MSG
#undef F

#define GET_U8(f)     v->f = dmt_get_u8(c);
#define GET_U32(f)    v->f = dmt_get_u32(c);
#define GET_U64(f)    v->f = dmt_get_u64(c);
#define GET_ID(f)     get_id(c, v->f);
#define GET_POS(f)    v->f = get_pos(c);
#define GET_STR(f)    v->f = get_text(c);
#define GET_BYTES(f)  v->f = get_span(c);
#define F(kind, name) GET_##kind(name)
#define MSG(NAME, num, most, fields)                                        \
    static void get_##NAME(struct replica_msg_##NAME *v, struct dmt_cur *c) \
    {                                                                       \
        fields                                                              \
    }
REPLICA_MESSAGES(MSG)
#undef MSG
#undef F

/* --- frames ----------------------------------------------------------------------------------- */

static uint32_t most_of(uint8_t type)
{
    switch (type) {
#define MSG(NAME, num, most, fields) \
    case num:                        \
        return most;
        REPLICA_MESSAGES(MSG)
#undef MSG
    default:
        return 0;
    }
}

const char *replica_type_name(uint8_t type)
{
    switch (type) {
#define MSG(NAME, num, most, fields) \
    case num:                        \
        return #NAME;
        REPLICA_MESSAGES(MSG)
#undef MSG
    default:
        return "?";
    }
}

void replica_encode(const struct replica_msg *m, struct dmt_buf *out)
{
    size_t head = out->len;
    if (!dmt_buf_reserve(out, REPLICA_HEAD))
        return;
    switch (m->type) {
#define MSG(NAME, num, most, fields) \
    case num:                        \
        put_##NAME(&m->NAME, out);   \
        break;
        REPLICA_MESSAGES(MSG)
#undef MSG
    default:
        out->bad = true;
    }
    if (out->bad)
        return;
    uint8_t *p = out->p + head;
    memset(p, 0, REPLICA_HEAD);
    dmt_st32(p, (uint32_t)(out->len - head - REPLICA_HEAD));
    p[4] = m->type;
}

int replica_head(const void *p, size_t n, uint8_t *ret_type, uint32_t *ret_len)
{
    if (n < REPLICA_HEAD)
        return 0;
    const uint8_t *h = p;
    uint32_t len = dmt_le32(h);
    uint32_t most = most_of(h[4]);
    if (most == 0 || len > most || h[5] != 0 || dmt_le16(h + 6) != 0)
        return DMT_E_CORRUPT;
    *ret_type = h[4];
    *ret_len = len;
    return 1;
}

int replica_decode(uint8_t type, const void *p, size_t n, struct replica_msg *ret)
{
    struct dmt_cur cur = dmt_cur_of(p, n);
    memset(ret, 0, sizeof(*ret));
    ret->type = type;
    switch (type) {
#define MSG(NAME, num, most, fields)  \
    case num:                         \
        get_##NAME(&ret->NAME, &cur); \
        break;
        REPLICA_MESSAGES(MSG)
#undef MSG
    default:
        return DMT_E_CORRUPT;
    }
    return dmt_cur_end(&cur);
}

struct replica_span replica_span_of(const char *s)
{
    size_t n = strlen(s);
    return (struct replica_span){(const uint8_t *)s,
                                 n > REPLICA_TEXT_MAX ? REPLICA_TEXT_MAX : (uint32_t)n};
}

void replica_span_text(struct replica_span s, char *dst, size_t size)
{
    size_t n = s.n < size ? s.n : size - 1;
    for (size_t i = 0; i < n; i++)
        dst[i] = s.p[i] >= 0x20 && s.p[i] != 0x7f ? (char)s.p[i] : '?';
    dst[n] = '\0';
}

void replica_epochs_encode(const struct replica_epoch *v, size_t n, struct dmt_buf *out)
{
    size_t from = n > REPLICA_EPOCHS_MAX ? n - REPLICA_EPOCHS_MAX : 0;
    for (size_t i = from; i < n; i++) {
        dmt_put_u64(out, v[i].epoch);
        dmt_put_u64(out, v[i].switch_seq);
        dmt_put_u64(out, v[i].switch_chain);
    }
}

int replica_epochs_decode(struct replica_span s, struct replica_epoch v[REPLICA_EPOCHS_MAX])
{
    if (s.n % 24 != 0 || s.n / 24 > REPLICA_EPOCHS_MAX)
        return DMT_E_CORRUPT;
    int n = (int)(s.n / 24);
    for (int i = 0; i < n; i++) {
        const uint8_t *p = s.p + (size_t)i * 24;
        v[i] = (struct replica_epoch){dmt_le64(p), dmt_le64(p + 8), dmt_le64(p + 16)};
        if (i > 0 && (v[i].epoch <= v[i - 1].epoch || v[i].switch_seq < v[i - 1].switch_seq))
            return DMT_E_CORRUPT;
    }
    return n;
}

/* --- payload ---------------------------------------------------------------------------------- */

int replica_pack(const void *p, size_t n, struct dmt_buf *out)
{
    LZ4F_preferences_t prefs = {0};
    prefs.frameInfo.blockMode = LZ4F_blockIndependent;
    prefs.frameInfo.blockSizeID = n > (64u << 10) ? LZ4F_max256KB : LZ4F_max64KB;
    prefs.frameInfo.contentChecksumFlag = LZ4F_contentChecksumEnabled;
    prefs.frameInfo.contentSize = n;
    size_t bound = LZ4F_compressFrameBound(n, &prefs);
    size_t before = out->len;
    uint8_t *dst = dmt_buf_reserve(out, bound);
    if (!dst)
        return -ENOMEM;
    size_t got = LZ4F_compressFrame(dst, bound, p, n, &prefs);
    if (LZ4F_isError(got)) {
        out->len = before;
        return -ENOMEM; /* the bound is right by contract, so only memory can be short */
    }
    out->len = before + got;
    return 0;
}

struct replica_unpack {
    LZ4F_dctx *ctx;
};

int replica_unpack_new(struct replica_unpack **ret)
{
    struct replica_unpack *u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&u->ctx, LZ4F_VERSION))) {
        free(u);
        return -ENOMEM;
    }
    *ret = u;
    return 0;
}

void replica_unpack_free(struct replica_unpack *u)
{
    if (!u)
        return;
    LZ4F_freeDecompressionContext(u->ctx);
    free(u);
}

int replica_unpack(struct replica_unpack *u, struct replica_span s, void *dst, size_t raw_len)
{
    LZ4F_resetDecompressionContext(u->ctx);
    size_t in = 0, out = 0;
    uint8_t end; /* so that there is always somewhere to point to */
    for (;;) {
        size_t src_n = s.n - in, dst_n = raw_len - out;
        size_t hint = LZ4F_decompress(u->ctx, dst_n ? (uint8_t *)dst + out : &end, &dst_n,
                                      s.n ? s.p + in : &end, &src_n, NULL);
        if (LZ4F_isError(hint))
            return DMT_E_CORRUPT;
        in += src_n;
        out += dst_n;
        if (hint == 0)
            return in == s.n && out == raw_len ? 0 : DMT_E_CORRUPT;
        if (src_n == 0 && dst_n == 0)
            return DMT_E_CORRUPT; /* wants more than there is */
    }
}
