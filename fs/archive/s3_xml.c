/* s3_xml.c: reads the few elements we need out of S3's XML answers.
 *
 * Not an XML parser: S3's answers are flat, element names occur in one meaning each, and there are
 * no attributes we care for. Owns nothing. Happy path: find <Name>...</Name> inside a span, decode
 * the five entities and numeric references, percent-decode keys (asked for by encoding-type=url).
 * Failure modes: what is not found, too long or not well-formed is "not there"; no byte beyond the
 * input is read. Thread: any. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/archive/s3_xml.h"
#include "fs/base/err.h"

struct span {
    const char *p, *end;
};

/* The content of the first <name>…</name> (or <name …>) in *in; *in moves behind it. */
static bool element(struct span *in, const char *name, struct span *ret)
{
    size_t nn = strlen(name);
    for (const char *p = in->p; (p = memchr(p, '<', (size_t)(in->end - p))); p++) {
        if ((size_t)(in->end - p) < nn + 2 || memcmp(p + 1, name, nn) != 0 ||
            !strchr("> \t\r\n", p[nn + 1]) || !p[nn + 1])
            continue;
        const char *open = memchr(p, '>', (size_t)(in->end - p));
        if (!open || open[-1] == '/')
            return false;
        ret->p = open + 1;
        for (const char *q = ret->p; (q = memchr(q, '<', (size_t)(in->end - q))); q++) {
            if ((size_t)(in->end - q) >= nn + 3 && q[1] == '/' && !memcmp(q + 2, name, nn) &&
                q[nn + 2] == '>') {
                ret->end = q;
                in->p = q + nn + 3;
                return true;
            }
        }
        return false;
    }
    return false;
}

/* Decodes entities into dst, cut to size; false when it did not fit. */
static bool text(struct span s, char *dst, size_t size)
{
    static const struct {
        const char *name;
        char c;
    } ent[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    size_t n = 0;
    while (s.p < s.end && n + 1 < size) {
        char c = *s.p;
        size_t used = 1;
        for (size_t i = 0; c == '&' && i < sizeof(ent) / sizeof(ent[0]); i++) {
            size_t en = strlen(ent[i].name);
            if ((size_t)(s.end - s.p) >= en && !memcmp(s.p, ent[i].name, en)) {
                c = ent[i].c;
                used = en;
                break;
            }
        }
        if (used == 1 && c == '&' && s.end - s.p > 3 && s.p[1] == '#') {
            char num[12] = "";
            size_t d = 0;
            for (const char *q = s.p + 2; q < s.end && *q != ';' && d < sizeof(num) - 1; q++)
                num[d++] = *q;
            if (s.p + 2 + d < s.end && s.p[2 + d] == ';') {
                long v = num[0] == 'x' ? strtol(num + 1, NULL, 16) : strtol(num, NULL, 10);
                c = v > 0 && v < 128 ? (char)v : '?';
                used = d + 3;
            }
        }
        dst[n++] = c;
        s.p += used;
    }
    dst[n] = 0;
    return s.p == s.end;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void percent_decode(char *s)
{
    char *dst = s;
    while (*s) {
        int hi = *s == '%' ? hex_digit(s[1]) : -1, lo = hi >= 0 ? hex_digit(s[2]) : -1;
        if (lo >= 0 && (hi || lo)) {
            *dst++ = (char)(hi * 16 + lo);
            s += 3;
        } else {
            *dst++ = *s == '+' ? ' ' : *s;
            s++;
        }
    }
    *dst = 0;
}

bool s3_xml_error(const void *p, size_t n, char code[64], char message[256])
{
    struct span all = {p, (const char *)p + n}, err, v;
    code[0] = message[0] = 0;
    if (!n || !element(&all, "Error", &err))
        return false;
    struct span in = err;
    if (!element(&in, "Code", &v))
        return false;
    text(v, code, 64);
    in = err;
    if (element(&in, "Message", &v))
        text(v, message, 256);
    return code[0] != 0;
}

int s3_xml_list(const void *p, size_t n, int (*fn)(void *ctx, const char *key, uint64_t size),
                void *ctx, char token[2048])
{
    struct span all = {p, (const char *)p + n}, list, in, item, v;
    char key[4096], num[24];
    token[0] = 0;
    if (!n || !element(&all, "ListBucketResult", &list))
        return DMT_E_CORRUPT;
    in = list;
    if (element(&in, "NextContinuationToken", &v) && !text(v, token, 2048))
        return DMT_E_CORRUPT;
    for (in = list; element(&in, "Contents", &item);) {
        struct span s = item;
        if (!element(&s, "Key", &v) || !text(v, key, sizeof(key)))
            return DMT_E_CORRUPT;
        percent_decode(key);
        s = item;
        if (!element(&s, "Size", &v) || !text(v, num, sizeof(num)))
            return DMT_E_CORRUPT;
        int r = fn(ctx, key, strtoull(num, NULL, 10));
        if (r)
            return r;
    }
    return 0;
}

int s3_xml_versions(const void *p, size_t n, const char *key)
{
    static const char *const kinds[] = {"Version", "DeleteMarker"};
    struct span all = {p, (const char *)p + n}, list, item, v;
    char got[1100];
    if (!n || !element(&all, "ListVersionsResult", &list))
        return DMT_E_CORRUPT;
    for (int i = 0; i < 2; i++)
        for (struct span in = list; element(&in, kinds[i], &item);) {
            struct span s = item;
            if (!element(&s, "Key", &v) || !text(v, got, sizeof(got)))
                return DMT_E_CORRUPT;
            if (strcmp(got, key) == 0)
                return 1;
        }
    return 0;
}
