/* record.c: bodies of records, from the one field list in record.h.
 *
 * Owns nothing. Each type's encoder, decoder and printer is the field list expanded with another
 * meaning of F, so a field cannot be written without being read. The decoder trusts no byte:
 * lengths are checked against what is left, names hold no NUL, a body must end exactly where its
 * last field ends; an unknown type is told apart from damage (a newer program may have written it).
 * Thread: any.
 */
#include "fs/workspace/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/err.h"
#include "fs/base/hash.h"
#include "fs/base/lineage.h"
#include "fs/base/log.h"

/* --- encode ---------------------------------------------------------------------------------- */

#define PUT_U8(f)     dmt_put_u8(out, r->f);
#define PUT_U32(f)    dmt_put_u32(out, r->f);
#define PUT_U64(f)    dmt_put_u64(out, r->f);
#define PUT_ID(f)     dmt_put_raw(out, r->f, 16);
#define PUT_STR(f)    dmt_put_bytes(out, r->f.p, r->f.n);
#define PUT_BYTES(f)  dmt_put_bytes(out, r->f.p, r->f.n);
#define F(kind, name) PUT_##kind(name)
#define REC(NAME, num, fields)                                                     \
    static void encode_##NAME(const struct dmt_rec_##NAME *r, struct dmt_buf *out) \
    {                                                                              \
        fields                                                                     \
    }
DMT_RECORDS(REC)
#undef REC
#undef F

void dmt_body_encode(const struct dmt_body *b, struct dmt_buf *out)
{
    switch ((enum dmt_rec_type)b->type) {
#define REC(NAME, num, fields)        \
    case DMT_REC_##NAME:              \
        encode_##NAME(&b->NAME, out); \
        return;
        DMT_RECORDS(REC)
#undef REC
    }
    DMT_ASSERT(!"a body with a type of the list");
}

/* --- decode ---------------------------------------------------------------------------------- */

static void get_span(struct dmt_cur *c, struct dmt_span *s)
{
    s->p = dmt_get_bytes(c, &s->n);
}

static void get_name(struct dmt_cur *c, struct dmt_span *s)
{
    get_span(c, s);
    if (!c->bad && s->n > 0 && memchr(s->p, 0, s->n))
        c->bad = true;
}

static void get_id(struct dmt_cur *c, uint8_t id[16])
{
    const uint8_t *p = dmt_get_raw(c, 16);
    if (p)
        memcpy(id, p, 16);
}

#define GET_U8(f)     r->f = dmt_get_u8(c);
#define GET_U32(f)    r->f = dmt_get_u32(c);
#define GET_U64(f)    r->f = dmt_get_u64(c);
#define GET_ID(f)     get_id(c, r->f);
#define GET_STR(f)    get_name(c, &r->f);
#define GET_BYTES(f)  get_span(c, &r->f);
#define F(kind, name) GET_##kind(name)
#define REC(NAME, num, fields)                                             \
    static void decode_##NAME(struct dmt_cur *c, struct dmt_rec_##NAME *r) \
    {                                                                      \
        fields                                                             \
    }
DMT_RECORDS(REC)
#undef REC
#undef F

int dmt_body_decode(uint16_t type, const void *p, size_t n, struct dmt_body *ret)
{
    struct dmt_cur c = dmt_cur_of(p, n);
    memset(ret, 0, sizeof(*ret));
    ret->type = type;
    switch ((enum dmt_rec_type)type) {
#define REC(NAME, num, fields)         \
    case DMT_REC_##NAME:               \
        decode_##NAME(&c, &ret->NAME); \
        return dmt_cur_end(&c);
        DMT_RECORDS(REC)
#undef REC
    }
    return DMT_E_VERSION;
}

/* --- print ----------------------------------------------------------------------------------- */

const char *dmt_rec_name(uint16_t type)
{
    switch ((enum dmt_rec_type)type) {
#define REC(NAME, num, fields) \
    case DMT_REC_##NAME:       \
        return #NAME;
        DMT_RECORDS(REC)
#undef REC
    }
    return type == DMT_REC_PAD ? "PAD" : "?";
}

struct text {
    char *p;
    size_t size, len;
    bool of_epoch; /* "parent" is an epoch, too, and not a directory */
};

static void say(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct text *t, const char *fmt, ...)
{
    if (t->len >= t->size)
        return;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->p + t->len, t->size - t->len, fmt, ap);
    va_end(ap);
    t->len += n > 0 ? (size_t)n : 0;
}

/* Names may hold any byte but / and NUL; a line of the log holds none that a terminal obeys. */
static void say_name(struct text *t, const char *label, struct dmt_span s)
{
    const unsigned char *p = s.p;
    say(t, " %s=\"", label);
    for (uint32_t i = 0; i < s.n; i++)
        if (p[i] < 0x20 || p[i] == 0x7f || p[i] == '"' || p[i] == '\\')
            say(t, "\\x%02x", p[i]);
        else
            say(t, "%c", p[i]);
    say(t, "\"");
}

static void say_id(struct text *t, const char *label, const uint8_t id[16])
{
    char hex[33];
    dmt_hex(id, 16, hex);
    say(t, " %s=%s", label, hex);
}

static void say_u32(struct text *t, const char *label, uint32_t v)
{
    if (strcmp(label, "mode") == 0)
        say(t, " %s=%#" PRIo32, label, v);
    else if (strcmp(label, "mask") == 0 || strcmp(label, "flags") == 0)
        say(t, " %s=%#" PRIx32, label, v);
    else
        say(t, " %s=%" PRIu32, label, v);
}

static void say_u64(struct text *t, const char *label, uint64_t v)
{
    bool epoch = strcmp(label, "epoch") == 0 || (t->of_epoch && strcmp(label, "parent") == 0);
    if (epoch)
        say(t, " %s=%u.%u", label, DMT_EPOCH_MAJOR(v), DMT_EPOCH_MINOR(v));
    else
        say(t, " %s=%" PRIu64, label, v);
}

#define SAY_U8(f)     say(t, " " #f "=%u", r->f);
#define SAY_U32(f)    say_u32(t, #f, r->f);
#define SAY_U64(f)    say_u64(t, #f, r->f);
#define SAY_ID(f)     say_id(t, #f, r->f);
#define SAY_STR(f)    say_name(t, #f, r->f);
#define SAY_BYTES(f)  say(t, " " #f "=[%" PRIu32 "]", r->f.n);
#define F(kind, name) SAY_##kind(name)
#define REC(NAME, num, fields)                                               \
    static void print_##NAME(struct text *t, const struct dmt_rec_##NAME *r) \
    {                                                                        \
        fields                                                               \
    }
DMT_RECORDS(REC)
#undef REC
#undef F

char *dmt_body_print(const struct dmt_body *b, char *buf, size_t size)
{
    struct text t = {.p = buf, .size = size, .of_epoch = b->type == DMT_REC_EPOCH};
    if (size > 0)
        buf[0] = '\0';
    say(&t, "%s", dmt_rec_name(b->type));
    switch ((enum dmt_rec_type)b->type) {
#define REC(NAME, num, fields)      \
    case DMT_REC_##NAME:            \
        print_##NAME(&t, &b->NAME); \
        break;
        DMT_RECORDS(REC)
#undef REC
    }
    return buf;
}
