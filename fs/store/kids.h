/* kids.h: the entries of one directory that memory has, in the order of their cookies: what a listing walks through. Not
 * allocated for a directory without any. Thread: workspace lock. Memory that is gone ends the process (store_alloc). */
#ifndef DMT_STORE_KIDS_H
#define DMT_STORE_KIDS_H

#include <stddef.h>
#include <stdint.h>

struct dent;
struct kids;

/* Adds d, which must not be in it, at this cookie. *k NULL: there were none. */
void store_kids_add(struct kids **k, uint32_t cookie, struct dent *d);
/* Takes d out, which is in it at this cookie. *k becomes NULL with the last one. */
void store_kids_remove(struct kids **k, uint32_t cookie, const struct dent *d);
void store_kids_free(struct kids *k);

/* A place between two entries, {.kids = k} the one before all; good until an entry is added or removed. */
struct kids_at {
    const struct kids *kids;
    uint32_t leaf, i;
};
/* Before the first entry whose cookie is greater. */
struct kids_at store_kids_after(const struct kids *k, uint32_t cookie);
/* The entry behind the place, NULL at the end. */
struct dent *store_kids_peek(const struct kids_at *at);
/* Goes over the entry that peek gave. */
void store_kids_step(struct kids_at *at);

#endif
