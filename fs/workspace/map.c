/* map.c: a hash from u64 to u64, open addressing with linear probing and backward-shift deletion.
 *
 * Owns two arrays, at most two thirds full. Used for sets that grow with what the kernel knows
 * (lookup counts: 16 bytes an inode) and for small exact sets (orphans). Keys are > 0. A put that
 * finds no memory says -ENOMEM and changes nothing; callers on the apply path treat that as any
 * failed apply. Thread: the caller locks.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/workspace/ws.h"

#define MAP_FIRST 64u

static size_t slot_of(const struct ws_map *m, uint64_t key)
{
    /* Fibonacci hashing: inode numbers come in runs, which this spreads well. */
    return (size_t)((key * 0x9e3779b97f4a7c15ull) >> 20) & (m->cap - 1);
}

static bool find(const struct ws_map *m, uint64_t key, size_t *ret)
{
    if (m->cap == 0)
        return false;
    size_t i = slot_of(m, key);
    while (m->keys[i] != 0 && m->keys[i] != key)
        i = (i + 1) & (m->cap - 1);
    *ret = i;
    return m->keys[i] == key;
}

uint64_t ws_map_get(const struct ws_map *m, uint64_t key)
{
    size_t i;
    return find(m, key, &i) ? m->vals[i] : 0;
}

bool ws_map_has(const struct ws_map *m, uint64_t key)
{
    size_t i;
    return find(m, key, &i);
}

static int grow(struct ws_map *m)
{
    struct ws_map big = {.cap = m->cap ? m->cap * 2 : MAP_FIRST, .n = m->n};
    big.keys = calloc(big.cap, sizeof(*big.keys));
    big.vals = calloc(big.cap, sizeof(*big.vals));
    if (!big.keys || !big.vals) {
        free(big.keys);
        free(big.vals);
        return -ENOMEM;
    }
    for (size_t i = 0; i < m->cap; i++) {
        size_t at;
        if (m->keys[i] == 0)
            continue;
        (void)find(&big, m->keys[i], &at);
        big.keys[at] = m->keys[i];
        big.vals[at] = m->vals[i];
    }
    free(m->keys);
    free(m->vals);
    *m = big;
    return 0;
}

int ws_map_put(struct ws_map *m, uint64_t key, uint64_t val)
{
    size_t i;
    DMT_ASSERT(key != 0);
    if (find(m, key, &i)) {
        m->vals[i] = val;
        return 0;
    }
    if ((m->n + 1) * 3 > m->cap * 2) {
        int r = grow(m);
        if (r < 0)
            return r;
        (void)find(m, key, &i);
    }
    m->keys[i] = key;
    m->vals[i] = val;
    m->n++;
    return 0;
}

void ws_map_del(struct ws_map *m, uint64_t key)
{
    size_t hole;
    if (!find(m, key, &hole))
        return;
    m->n--;
    /* Close the gap: whoever probed past it moves back, so no tombstones are needed. */
    for (size_t i = (hole + 1) & (m->cap - 1); m->keys[i] != 0; i = (i + 1) & (m->cap - 1)) {
        size_t home = slot_of(m, m->keys[i]);
        if (((i - home) & (m->cap - 1)) >= ((i - hole) & (m->cap - 1))) {
            m->keys[hole] = m->keys[i];
            m->vals[hole] = m->vals[i];
            hole = i;
        }
    }
    m->keys[hole] = 0;
}

void ws_map_clear(struct ws_map *m)
{
    free(m->keys);
    free(m->vals);
    *m = (struct ws_map){0};
}
