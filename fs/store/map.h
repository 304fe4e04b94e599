/* map.h: a content map: what each byte range of a file is (hole, bytes in memory, a range of a data file), and operations on
 * ranges. Used for the active and frozen layers, the committed state, views, and the checkpointer's scratch maps. */
#ifndef DMT_STORE_MAP_H
#define DMT_STORE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/store/tree.h"

/* Shared bytes. The count is atomic because the checkpointer's scratch maps hold chunks too; the bytes change only while one
 * piece of an active layer is the only user. */
struct chunk {
    uint32_t refs;
    uint32_t cap;
    uint32_t used; /* bytes filled from the start */
    uint8_t data[];
};
struct chunk *store_chunk_new(uint32_t cap);
struct chunk *store_chunk_from(const void *p, uint32_t len);
struct chunk *store_chunk_ref(struct chunk *c);
void store_chunk_unref(struct chunk *c);
/* Makes room for cap bytes; the only user's pointer is *c. */
void store_chunk_grow(struct chunk **c, uint32_t cap);
bool store_chunk_private(const struct chunk *c);

enum piece_kind { PIECE_HOLE, PIECE_MEM, PIECE_FILE };
#define PIECE_SHARED 1u /* another row may refer to the same range: never overwritten in place, never punched */
#define PIECE_INLINE 2u /* the bytes came in records, so no reader ever asks for them by position: births may be merged */

struct piece {
    struct tnode tn;
    uint64_t off, end; /* in the file */
    uint64_t born;
    uint8_t kind, flags;
    uint32_t serial;   /* FILE: 0 = side */
    uint64_t owner;    /* FILE: inode whose data file it is */
    uint64_t foff;     /* FILE: offset there; MEM: offset in the chunk */
    struct chunk *c;   /* MEM */
};

struct pmap {
    struct tree t;
    size_t n;
    size_t cost; /* memory: bytes in MEM pieces + PIECE_COST for each piece */
};
#define PIECE_COST 128u

#define PIECE_OF(tn_) DMT_CONTAINER((tn_), struct piece, tn)

void store_pmap_init(struct pmap *m);
void store_pmap_clear(struct pmap *m);
struct pmap *store_pmap_new(void);
void store_pmap_free(struct pmap *m); /* NULL is fine */
/* First piece that ends after off, or NULL. */
struct piece *store_pmap_at(const struct pmap *m, uint64_t off);
struct piece *store_pmap_first(const struct pmap *m);
struct piece *store_pmap_next(const struct piece *p);
struct piece *store_pmap_prev(const struct piece *p);
uint64_t store_pmap_end(const struct pmap *m); /* end of the last piece, 0 when empty */
/* Removes what lies in [off, end), splitting pieces; fn (may be NULL) sees each removed part first. */
typedef void (*piece_fn)(void *ctx, const struct piece *p);
void store_pmap_cut(struct pmap *m, uint64_t off, uint64_t end, piece_fn fn, void *ctx);
/* Inserts a copy of *p where nothing is; takes a reference of its own to the chunk. */
struct piece *store_pmap_put(struct pmap *m, const struct piece *p);
/* cut + put. */
struct piece *store_pmap_set(struct pmap *m, const struct piece *p);
/* The part of *p inside [off, end) as a value (no reference taken). */
struct piece store_piece_clip(const struct piece *p, uint64_t off, uint64_t end);
/* True when b goes on where a ends, both in the map and in the storage. */
bool store_piece_adjoins(const struct piece *a, const struct piece *b);
/* True when both name the same bytes (kind and place), whatever their birth. */
bool store_piece_same_place(const struct piece *a, const struct piece *b);

/* Walks layers[0], through its gaps layers[1], ... over [off, end); what no layer covers is a HOLE of birth 0. Every byte is seen
 * exactly once, in order. fn returns non-zero to stop, which is then returned. NULL layers are skipped. */
typedef int (*compose_fn)(void *ctx, const struct piece *p);
int store_pmap_compose(const struct pmap *const *layers, int n, uint64_t off, uint64_t end, compose_fn fn, void *ctx);

#endif
