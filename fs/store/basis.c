/* basis.c: what a store has that is being made equal to another one: which part of it shows which
 * position, and which inodes are there.
 *
 * The keys of the store's rows are ordered by (inode, offset or cookie); a basis cuts that line
 * into segments and says for each of which position of the sender's history its rows are. It begins
 * as one segment (the old state's position); what a difference has brought moves the front part to
 * the difference's position; ranges whose bytes never arrived stand at position 0. So a transfer
 * that was cut off any number of times is described exactly, and the next one goes on from there.
 * The statement is that description and the list of inodes, as it goes to the sender: runs of
 * numbers, as variable-length integers, because neighbours mostly live together.
 * Failure modes: more segments than BASIS_SEGS_MAX: the oldest positions are taken for the rest
 * (more is sent, nothing is missed). A damaged statement is DMT_E_CORRUPT. Thread: the caller's.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/store/stream_int.h"

#define BASIS_VERSION 1u
#define INO_MAX       (1ull << DMT_INO_BITS)

static int key_cmp(uint64_t ino, uint64_t off, uint64_t ino2, uint64_t off2)
{
    if (ino != ino2)
        return ino < ino2 ? -1 : 1;
    return off < off2 ? -1 : off > off2;
}

static void push(struct basis *b, const struct basis_seg *s)
{
    if (b->n == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 16;
        b->v = realloc(b->v, b->cap * sizeof(*b->v));
        DMT_ASSERT(b->v);
    }
    b->v[b->n++] = *s;
}

void basis_init(struct basis *b, uint64_t epoch, uint64_t seq)
{
    memset(b, 0, sizeof(*b));
    push(b, &(struct basis_seg){.epoch = epoch, .seq = seq});
}

void basis_free(struct basis *b)
{
    free(b->v);
    memset(b, 0, sizeof(*b));
}

const struct basis_seg *basis_at(const struct basis *b, uint64_t ino, uint64_t off)
{
    size_t lo = 0, hi = b->n;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (key_cmp(b->v[mid].ino, b->v[mid].off, ino, off) <= 0)
            lo = mid;
        else
            hi = mid;
    }
    return &b->v[lo];
}

const struct basis_seg *basis_next(const struct basis *b, const struct basis_seg *s)
{
    return s + 1 < b->v + b->n ? s + 1 : NULL;
}

static bool same(const struct basis_seg *a, const struct basis_seg *b)
{
    return a->epoch == b->epoch && a->seq == b->seq;
}

static void push_joined(struct basis *b, struct basis_seg s, uint64_t ino, uint64_t off)
{
    s.ino = ino;
    s.off = off;
    if (b->n == 0 || !same(&b->v[b->n - 1], &s))
        push(b, &s);
}

/* Too many: from the middle on everything counts as what is oldest there. */
static void shorten(struct basis *b)
{
    size_t half = b->n / 2;
    for (size_t i = half + 1; i < b->n; i++)
        if (b->v[i].seq < b->v[half].seq) {
            b->v[half].seq = b->v[i].seq;
            b->v[half].epoch = b->v[i].epoch;
        }
    b->n = half + 1;
}

void basis_set(struct basis *b, uint64_t ino, uint64_t off, uint64_t ino_end, uint64_t off_end,
               const struct basis_seg *s)
{
    struct basis now = {0};
    struct basis_seg rest = *basis_at(b, ino_end, off_end);
    if (key_cmp(ino, off, ino_end, off_end) >= 0)
        return;
    for (size_t i = 0; i < b->n && key_cmp(b->v[i].ino, b->v[i].off, ino, off) < 0; i++)
        push_joined(&now, b->v[i], b->v[i].ino, b->v[i].off);
    push_joined(&now, *s, ino, off);
    push_joined(&now, rest, ino_end, off_end);
    for (size_t i = 0; i < b->n; i++)
        if (key_cmp(b->v[i].ino, b->v[i].off, ino_end, off_end) > 0)
            push_joined(&now, b->v[i], b->v[i].ino, b->v[i].off);
    if (now.n > BASIS_SEGS_MAX)
        shorten(&now);
    free(b->v);
    *b = now;
}

void basis_encode(const struct basis *b, struct dmt_buf *out)
{
    dmt_put_u32(out, (uint32_t)b->n);
    for (size_t i = 0; i < b->n; i++) {
        dmt_put_u64(out, b->v[i].ino);
        dmt_put_u64(out, b->v[i].off);
        dmt_put_u64(out, b->v[i].epoch);
        dmt_put_u64(out, b->v[i].seq);
    }
}

int basis_decode(struct basis *b, struct dmt_cur *c)
{
    memset(b, 0, sizeof(*b));
    uint32_t n = dmt_get_u32(c);
    bool bad = n == 0 || n > BASIS_SEGS_MAX;
    for (uint32_t i = 0; !bad && i < n; i++) {
        struct basis_seg s = {.ino = dmt_get_u64(c)};
        s.off = dmt_get_u64(c);
        s.epoch = dmt_get_u64(c);
        s.seq = dmt_get_u64(c);
        const struct basis_seg *last = i ? &b->v[i - 1] : NULL;
        bad = c->bad ||
              (last ? key_cmp(last->ino, last->off, s.ino, s.off) >= 0 : s.ino != 0 || s.off != 0);
        push(b, &s);
    }
    if (bad)
        basis_free(b);
    return bad ? DMT_E_CORRUPT : 0;
}

/* --- the statement */

static void put_var(struct dmt_buf *out, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        dmt_put_u8(out, (uint8_t)(v | 0x80));
    dmt_put_u8(out, (uint8_t)v);
}

static int get_var(struct dmt_cur *c, uint64_t *ret)
{
    *ret = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t b = dmt_get_u8(c);
        *ret |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return c->bad ? DMT_E_CORRUPT : 0;
    }
    return DMT_E_CORRUPT;
}

int basis_statement(struct store_db *db, const struct basis *live, const struct basis *hist,
                    struct dmt_buf *out)
{
    sqlite3_stmt *s;
    dmt_buf_reset(out);
    dmt_put_u64(out, STREAM_BASIS_MAGIC);
    dmt_put_u32(out, BASIS_VERSION);
    basis_encode(live, out);
    basis_encode(hist, out);
    uint64_t at = 0, from = 0,
             to = 0; /* [from, to): the run being collected; at: end of the last */
    int r = store_sql(db, SQL_INODE_VERSIONS, &s, "");
    while (r == 0 && (r = store_sql_step(db, s)) > 0) {
        uint64_t ino = store_col(s, 0);
        r = 0;
        if (to != ino) {
            if (to > from) {
                put_var(out, from - at);
                put_var(out, to - from);
                at = to;
            }
            from = ino;
        }
        to = ino + 1;
    }
    if (to > from) {
        put_var(out, from - at);
        put_var(out, to - from);
    }
    if (r == 0)
        dmt_put_u64(out, dmt_hash64(0, out->p, out->len));
    return r < 0 ? r : out->bad ? -ENOMEM : 0;
}

int basis_statement_open(const void *p, size_t len, struct basis *ret_live, struct basis *ret_hist,
                         struct basis_inos *ret_inos)
{
    if (len < 8 || dmt_le64((const uint8_t *)p + len - 8) != dmt_hash64(0, p, len - 8))
        return DMT_E_CORRUPT;
    struct dmt_cur c = dmt_cur_of(p, len - 8);
    bool mine = dmt_get_u64(&c) == STREAM_BASIS_MAGIC && dmt_get_u32(&c) == BASIS_VERSION;
    int r = mine ? basis_decode(ret_live, &c) : DMT_E_CORRUPT;
    if (r == 0)
        r = basis_decode(ret_hist, &c);
    *ret_inos = (struct basis_inos){.c = c};
    return r;
}

int basis_inos_next(struct basis_inos *it, uint64_t *ret)
{
    if (it->from == it->to) {
        uint64_t gap, n;
        if (it->c.p == it->c.end)
            return 0;
        int r = get_var(&it->c, &gap);
        if (r == 0)
            r = get_var(&it->c, &n);
        if (r < 0 || n == 0 || gap > INO_MAX || n > INO_MAX || it->to + gap + n > INO_MAX)
            return DMT_E_CORRUPT;
        it->from = it->to + gap;
        it->to = it->from + n;
    }
    *ret = it->from++;
    return 1;
}
