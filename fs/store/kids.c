/* kids.c: the entries of a directory in the order of their cookies.
 *
 * Owns a sorted array in leaves of at most LEAF_MAX pairs (cookie, entry), and an array of the
 * leaves. A listing reads pairs one behind the other, and so can have the entries to come fetched
 * while it is busy with this one: in a tree whose nodes lie in the entries it would learn where the
 * next one is only from the one before, and wait for memory at each step. Happy path: cookies only
 * grow, so a new entry comes last; a full last leaf is left full and a new one begun. Elsewhere a
 * leaf that is full is halved. One that gets empty goes; they are not merged, so a directory that
 * was big keeps at most a kilobyte for an entry. A small one has one leaf that doubles from 4.
 * Failure modes: none. Thread: workspace lock.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"
#include "fs/store/kids.h"

#define LEAF_MIN 4u
#define LEAF_MAX 64u
#define AHEAD    4u /* entries fetched before they are wanted */

struct kid {
    struct dent *d;
    uint32_t cookie;
};
struct leaf {
    uint32_t n, cap;
    struct kid v[];
};
struct kids {
    uint32_t n, cap;
    struct leaf **leaf; /* none is empty, but for the first while its first entry is added */
};

static struct leaf *leaf_sized(struct leaf *l, uint32_t cap)
{
    struct leaf *bigger = realloc(l, sizeof(*l) + cap * sizeof(l->v[0]));
    DMT_ASSERT(bigger);
    if (!l)
        bigger->n = 0;
    bigger->cap = cap;
    return bigger;
}

static void put_leaf(struct kids *k, uint32_t at, struct leaf *l)
{
    if (k->n == k->cap) {
        k->cap = k->cap ? k->cap * 2 : 1;
        k->leaf = realloc(k->leaf, k->cap * sizeof(struct leaf *));
        DMT_ASSERT(k->leaf);
    }
    memmove(k->leaf + at + 1, k->leaf + at, (k->n - at) * sizeof(struct leaf *));
    k->leaf[at] = l;
    k->n++;
}

/* The first place whose cookie is greater. In the last leaf it may be behind the end. */
struct kids_at store_kids_after(const struct kids *k, uint32_t cookie)
{
    struct kids_at at = {.kids = k};
    if (!k)
        return at;
    uint32_t lo = 0, hi = k->n - 1; /* the leaf: the first one whose last cookie is greater */
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        const struct leaf *l = k->leaf[mid];
        if (l->v[l->n - 1].cookie > cookie)
            hi = mid;
        else
            lo = mid + 1;
    }
    at.leaf = lo;
    const struct leaf *l = k->leaf[lo];
    uint32_t end = l->n;
    while (at.i < end) {
        uint32_t mid = at.i + (end - at.i) / 2;
        if (l->v[mid].cookie > cookie)
            end = mid;
        else
            at.i = mid + 1;
    }
    return at;
}

void store_kids_add(struct kids **ret, uint32_t cookie, struct dent *d)
{
    struct kids *k = *ret;
    if (!k) {
        k = *ret = store_zalloc(sizeof(*k));
        put_leaf(k, 0, leaf_sized(NULL, LEAF_MIN));
    }
    struct kids_at at = store_kids_after(k, cookie);
    struct leaf *l = k->leaf[at.leaf];
    if (l->n == LEAF_MAX) {
        bool last = at.leaf == k->n - 1 && at.i == l->n;
        uint32_t stay = last ? l->n : l->n / 2;
        struct leaf *r = leaf_sized(NULL, LEAF_MAX);
        r->n = l->n - stay;
        memcpy(r->v, l->v + stay, r->n * sizeof(r->v[0]));
        l->n = stay;
        put_leaf(k, at.leaf + 1, r);
        if (at.i > stay || last) {
            at.i -= stay;
            l = r;
        }
    } else if (l->n == l->cap) {
        l = k->leaf[at.leaf] = leaf_sized(l, l->cap * 2);
    }
    memmove(l->v + at.i + 1, l->v + at.i, (l->n - at.i) * sizeof(l->v[0]));
    l->v[at.i] = (struct kid){.d = d, .cookie = cookie};
    l->n++;
}

void store_kids_free(struct kids *k)
{
    if (!k)
        return;
    for (uint32_t i = 0; i < k->n; i++)
        free(k->leaf[i]);
    free(k->leaf);
    free(k);
}

void store_kids_remove(struct kids **ret, uint32_t cookie, const struct dent *d)
{
    struct kids *k = *ret;
    struct kids_at at = cookie > 0 ? store_kids_after(k, cookie - 1) : (struct kids_at){.kids = k};
    const struct dent *found;
    while ((found = store_kids_peek(&at)) != d) {
        DMT_ASSERT(found); /* a damaged database may have a cookie twice */
        store_kids_step(&at);
    }
    struct leaf *l = k->leaf[at.leaf];
    l->n--;
    memmove(l->v + at.i, l->v + at.i + 1, (l->n - at.i) * sizeof(l->v[0]));
    if (l->n > 0)
        return;
    free(l);
    k->n--;
    memmove(k->leaf + at.leaf, k->leaf + at.leaf + 1, (k->n - at.leaf) * sizeof(struct leaf *));
    if (k->n == 0) {
        store_kids_free(k);
        *ret = NULL;
    }
}

struct dent *store_kids_peek(const struct kids_at *at)
{
    if (!at->kids || at->leaf == at->kids->n)
        return NULL;
    const struct leaf *l = at->kids->leaf[at->leaf];
    return at->i < l->n ? l->v[at->i].d : NULL;
}

void store_kids_step(struct kids_at *at)
{
    const struct leaf *l = at->kids->leaf[at->leaf];
    if (++at->i == l->n && at->leaf + 1 < at->kids->n) {
        at->leaf++;
        at->i = 0;
        l = at->kids->leaf[at->leaf];
    }
    if (at->i + AHEAD < l->n) {
        const struct dent *d = l->v[at->i + AHEAD].d;
        __builtin_prefetch(&d->v);
        __builtin_prefetch(d->name);
    }
}
