/* world.c: virtual time and everything that happens in it.
 *
 * Owns the one world, its queue of events (a heap ordered by time, then by order of birth) and its
 * random numbers, all of which follow from the seed: nothing here or elsewhere in the simulator
 * asks a clock, an address or the environment. The first broken promise is kept as a sentence and
 * ends the run. Items are recycled, because a run makes tens of thousands of them.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

struct world w;
struct totals total;
bool tracing;

static struct item *free_items;

uint64_t rnd(uint64_t n)
{
    w.rnd ^= w.rnd << 13;
    w.rnd ^= w.rnd >> 7;
    w.rnd ^= w.rnd << 17;
    return n ? (w.rnd >> 11) % n : 0;
}

bool one_in(uint32_t n)
{
    return n && rnd(n) == 0;
}

void bad(const char *fmt, ...)
{
    if (w.bad[0])
        return;
    int n = snprintf(w.bad, sizeof(w.bad), "seed %llu at %.3f s: ", (unsigned long long)w.seed,
                     (double)w.now / 1e9);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(w.bad + n, sizeof(w.bad) - (size_t)n, fmt, ap);
    va_end(ap);
}

void say(const char *fmt, ...)
{
    if (!tracing)
        return;
    printf("%9.3f ", (double)w.now / 1e9);
    va_list ap;
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

static bool before(const struct item *a, const struct item *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void put_back(struct item *it)
{
    DMT_ASSERT(w.heap_n < QUEUE_MAX);
    int i = w.heap_n++;
    while (i > 0 && before(it, w.heap[(i - 1) / 2])) {
        w.heap[i] = w.heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w.heap[i] = it;
}

struct item *next_item(void)
{
    if (w.heap_n == 0)
        return NULL;
    struct item *top = w.heap[0], *last = w.heap[--w.heap_n];
    int i = 0;
    for (;;) {
        int c = 2 * i + 1;
        if (c >= w.heap_n)
            break;
        if (c + 1 < w.heap_n && before(w.heap[c + 1], w.heap[c]))
            c++;
        if (!before(w.heap[c], last))
            break;
        w.heap[i] = w.heap[c];
        i = c;
    }
    if (w.heap_n)
        w.heap[i] = last;
    return top;
}

struct item *push(uint64_t at, enum what what, int node)
{
    struct item *it = free_items;
    if (it)
        free_items = it->next_free;
    else
        it = malloc(sizeof(*it));
    DMT_ASSERT(it);
    memset(it, 0, sizeof(*it));
    it->at = at;
    it->order = ++w.order;
    it->what = what;
    it->node = node;
    it->life = node >= 0 ? w.n[node].life : 0;
    put_back(it);
    return it;
}

void item_free(struct item *it)
{
    free(it->m.peer);
    free(it->m.epochs);
    free(it->m.recs);
    free(it->ev);
    for (struct replica_chunk *c = it->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    it->next_free = free_items;
    free_items = it;
}

uint64_t local(const struct node *n)
{
    return n->off + (uint64_t)((double)w.now * n->rate);
}

struct node *other(struct node *n)
{
    return n == &w.n[0] ? &w.n[1] : &w.n[0];
}

int idx(const struct node *n)
{
    return (int)(n - w.n);
}

bool usable(const struct node *n)
{
    return n->up && n->thaw_at <= w.now;
}

int line_of(const struct node *n)
{
    return n->disk.lineage.id[0] ? n->disk.lineage.id[0] : w.named;
}

const char *epoch_text(uint64_t epoch)
{
    static char text[4][32];
    static unsigned at;
    char *t = text[at++ % 4];
    (void)snprintf(t, sizeof(text[0]), "%u.%u", DMT_EPOCH_MAJOR(epoch), DMT_EPOCH_MINOR(epoch));
    return t;
}
