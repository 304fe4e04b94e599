/* series.c: keys, headers and ends of the dense series (rule 16).
 *
 * Owns nothing. Happy path: series_end() finds how many objects a series has with about 2 log2(n)
 * small GETs, for numbers are dense; series_hdr() reads only the first ARCHIVE_HDR_BYTES of an
 * object. Failure modes: a missing object inside a series may end the search early; a few numbers
 * beyond the end are looked at, and the restore adds what LIST shows, so that a hole is told from
 * the end. Thread: any; blocking like its source. */
#include "fs/archive/series.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include "fs/base/hash.h"

#define LOOK_BEYOND 8 /* numbers looked at behind the end, to see a hole */

static int plain_get(void *ctx, const char *key, uint64_t off, uint64_t len, struct dmt_buf *out,
                     struct dmt_err *err)
{
    return dmt_objstore_get(ctx, key, off, len, out, err);
}

struct series_src series_src_of(struct dmt_objstore *os)
{
    return (struct series_src){plain_get, os};
}

void series_key(char key[SERIES_KEY_MAX], const uint8_t lineage[16], const char *node, uint64_t n)
{
    char hex[33];
    dmt_hex(lineage, 16, hex);
    snprintf(key, SERIES_KEY_MAX, "log/%s/%s/%012llu.lz4", hex, node, (unsigned long long)n);
}

void series_node_key(char key[SERIES_KEY_MAX], uint64_t k)
{
    snprintf(key, SERIES_KEY_MAX, "node/%llu", (unsigned long long)k);
}

bool series_name_ok(const char *node)
{
    size_t n = strlen(node);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)node[i]) && !strchr("._-", node[i]))
            return false;
    return n > 0 && n <= DMT_NODE_NAME_MAX && strcmp(node, ".") != 0 && strcmp(node, "..") != 0;
}

/* A2, and one sentence for what is wrong. */
static int judge(int r, const struct archive_hdr *h, const uint8_t lineage[16], const char *node,
                 uint64_t n, const char *key, struct dmt_err *err)
{
    if (r == DMT_E_VERSION)
        return dmt_err_set(err, r, "object %s has a format version that this program does not know",
                           key);
    if (!r && (h->n != n || strcmp(h->node, node) != 0 || memcmp(h->lineage, lineage, 16) != 0))
        r = DMT_E_CORRUPT;
    return r == DMT_E_CORRUPT ? dmt_err_set(err, r, "object %s is damaged", key) : r;
}

int series_hdr(const struct series_src *s, const uint8_t lineage[16], const char *node, uint64_t n,
               struct archive_hdr *ret, struct dmt_err *err)
{
    char key[SERIES_KEY_MAX];
    struct dmt_buf b;
    dmt_buf_init(&b);
    series_key(key, lineage, node, n);
    int r = s->get(s->ctx, key, 0, ARCHIVE_HDR_BYTES, &b, err);
    if (!r)
        r = judge(archive_hdr_decode(b.p, b.len, ret), ret, lineage, node, n, key, err);
    dmt_buf_free(&b);
    return r;
}

int series_object(const struct series_src *s, const uint8_t lineage[16], const char *node,
                  uint64_t n, struct archive_hdr *ret, struct dmt_buf *out, struct dmt_err *err)
{
    char key[SERIES_KEY_MAX];
    struct dmt_buf b;
    dmt_buf_init(&b);
    series_key(key, lineage, node, n);
    int r = s->get(s->ctx, key, 0, 0, &b, err);
    if (!r)
        r = judge(archive_object_decode(b.p, b.len, ret, out), ret, lineage, node, n, key, err);
    dmt_buf_free(&b);
    return r;
}

/* Is there an object under this number? 1, 0, < 0. Its first byte is enough. */
static int exists(const struct series_src *s, const uint8_t lineage[16], const char *node,
                  uint64_t n, struct dmt_err *err)
{
    char key[SERIES_KEY_MAX];
    struct dmt_buf b;
    dmt_buf_init(&b);
    series_key(key, lineage, node, n);
    int r = s->get(s->ctx, key, 0, 1, &b, err);
    dmt_buf_free(&b);
    return r == -ENOENT ? 0 : r ? r : 1;
}

int series_end(const struct series_src *s, const uint8_t lineage[16], const char *node,
               uint64_t from, uint64_t *ret_end, bool *ret_hole, struct dmt_err *err)
{
    uint64_t there = from; /* all below exist (as far as density holds) */
    uint64_t gone, step = 1;
    int r;
    for (;; step *= 2) {
        gone = from + step - 1;
        r = exists(s, lineage, node, gone, err);
        if (r < 0)
            return r;
        if (!r)
            break;
        there = gone + 1;
    }
    while (there < gone) {
        uint64_t mid = there + (gone - there) / 2;
        r = exists(s, lineage, node, mid, err);
        if (r < 0)
            return r;
        if (r)
            there = mid + 1;
        else
            gone = mid;
    }
    *ret_end = there;
    *ret_hole = false;
    for (uint64_t i = 1; i <= LOOK_BEYOND && !*ret_hole; i++) {
        r = exists(s, lineage, node, there + i, err);
        if (r < 0)
            return r;
        *ret_hole = r;
    }
    return 0;
}

#define FORCED_FROM "\"forced_from\": \""

/* Zeros, if the text does not say it. */
static void claim_from(const struct dmt_buf *text, uint8_t ret[16])
{
    char hex[33] = "";
    size_t k = strlen(FORCED_FROM);
    const char *at = text->len > 0 ? memmem(text->p, text->len, FORCED_FROM, k) : NULL;
    memset(ret, 0, 16);
    if (!at || (size_t)((const char *)text->p + text->len - at) < k + 32)
        return;
    memcpy(hex, at + k, 32);
    if (dmt_unhex(hex, ret, 16) != 0)
        memset(ret, 0, 16);
}

int series_claim_get(const struct series_src *s, uint64_t k, struct series_claim *ret,
                     struct dmt_err *err)
{
    char key[SERIES_KEY_MAX];
    struct archive_hdr h;
    struct dmt_buf b, payload;
    dmt_buf_init(&b);
    dmt_buf_init(&payload);
    series_node_key(key, k);
    int r = s->get(s->ctx, key, 0, 0, &b, err);
    if (!r) {
        r = archive_object_decode(b.p, b.len, &h, &payload);
        if (!r && (h.kind != ARCHIVE_NODE || h.n != k || !series_name_ok(h.node)))
            r = DMT_E_CORRUPT;
        if (r)
            dmt_err_set(err, r, "object %s is damaged", key);
    }
    if (!r) {
        ret->k = k;
        memcpy(ret->lineage, h.lineage, 16);
        claim_from(&payload, ret->from);
        snprintf(ret->node, sizeof(ret->node), "%s", h.node);
    }
    dmt_buf_free(&payload);
    dmt_buf_free(&b);
    return r;
}

int series_claim_encode(const struct series_claim *c, struct dmt_buf *out)
{
    struct archive_hdr h = {.kind = ARCHIVE_NODE,
                            .n = c->k,
                            .run_n = ARCHIVE_NONE,
                            .base_n = ARCHIVE_NONE,
                            .prev_n = ARCHIVE_NONE};
    static const uint8_t none[16];
    char text[320], hex[33], from[80] = "";
    memcpy(h.lineage, c->lineage, 16);
    snprintf(h.node, sizeof(h.node), "%s", c->node);
    dmt_hex(c->from, 16, hex);
    if (memcmp(c->from, none, 16) != 0)
        snprintf(from, sizeof(from), ", " FORCED_FROM "%s\"", hex);
    dmt_hex(c->lineage, 16, hex);
    int n =
        snprintf(text, sizeof(text),
                 "{\"format\": \"dumont archive 1\", \"lineage\": \"%s\", \"node\": \"%s\"%s}\n",
                 hex, c->node, from);
    return archive_object_encode(&h, text, (size_t)n, out);
}
