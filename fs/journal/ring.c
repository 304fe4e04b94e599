/* ring.c: memory for the records that are not durable yet, so that they can be written again (J5).
 *
 * Owns one piece of memory of fixed size; no allocation per record. Frames lie in it whole, one
 * behind the other; one that does not fit before the end starts over at the beginning, and a length
 * of 0 marks the rest. Positions only grow, so "in use" is tail - head. A ring that got empty
 * starts over at the beginning: who syncs every few records has them in the same few pages for
 * ever, warm in every cache. Failure: a full ring returns NULL; the caller makes records durable
 * and tries again. Thread: under the journal's lock.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/base/bytes.h"
#include "fs/base/log.h"
#include "fs/journal/internal.h"

int journal_ring_init(struct journal_ring *r, uint64_t cap)
{
    DMT_ASSERT(cap % 8 == 0);
    *r = (struct journal_ring){.p = malloc(cap), .cap = cap};
    return r->p ? 0 : -ENOMEM;
}

void journal_ring_free(struct journal_ring *r)
{
    free(r->p);
    r->p = NULL;
}

/* Bytes left unused so that a frame of len lies in one piece. */
static uint64_t gap_before(const struct journal_ring *r, size_t len)
{
    uint64_t place = r->tail % r->cap;
    return place + len > r->cap ? r->cap - place : 0;
}

bool journal_ring_flat(const struct journal_ring *r, size_t len)
{
    return r->tail % r->cap != 0 && gap_before(r, len) == 0;
}

uint8_t *journal_ring_reserve(struct journal_ring *r, size_t len)
{
    DMT_ASSERT(len % 8 == 0 && len > 0 && len <= r->cap);
    uint64_t gap = gap_before(r, len);
    if (r->tail - r->head + gap + len > r->cap)
        return NULL;
    if (gap > 0)
        dmt_st32(r->p + r->tail % r->cap, 0);
    r->tail += gap;
    uint8_t *p = r->p + r->tail % r->cap;
    r->tail += len;
    return p;
}

void journal_ring_let_go(struct journal_ring *r, uint64_t mark)
{
    DMT_ASSERT(mark >= r->head && mark <= r->tail);
    r->head = mark;
    if (r->head == r->tail && r->tail % r->cap != 0)
        r->head = r->tail += r->cap - r->tail % r->cap;
}

uint8_t *journal_ring_next(const struct journal_ring *r, uint64_t *at, size_t *ret_len)
{
    while (*at < r->tail) {
        uint8_t *p = r->p + *at % r->cap;
        uint32_t len = dmt_le32(p);
        if (len == 0) {
            *at += r->cap - *at % r->cap;
            continue;
        }
        *at += len;
        *ret_len = len;
        return p;
    }
    return NULL;
}
