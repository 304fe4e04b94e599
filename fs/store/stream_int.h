/* stream_int.h: what export.c (everything) and diff.c (what another machine lacks) share on the way out, import.c and patch.c on
 * the way in. */
#ifndef DMT_STORE_STREAM_INT_H
#define DMT_STORE_STREAM_INT_H

#include "fs/store/internal.h"
#include "fs/store/stream.h"

#define EXPORT_EMIT_BYTES (1u << 20)

struct export {
    struct dmt_store *st;
    struct store_db db;
    int (*emit)(void *ctx, const void *p, size_t len);
    void *ctx;
    struct dmt_buf out;
    size_t item; /* where the item being built starts */
    uint64_t hash;
    bool dry;    /* nothing is emitted, only counted */
    uint64_t total;
    struct dmt_err *err;
};

/* --- export.c */
void store_item_begin(struct export *x, enum stream_kind kind);
int store_item_end(struct export *x);
/* Waits for a moment without a running checkpoint, pins, and opens the read transaction there; the caller takes st->exports back.
 */
int store_export_pin(struct export *x, const struct dmt_lockfn *lk, struct dmt_pos *ret_pos);
void store_row_meta(struct export *x, sqlite3_stmt *s, bool old);
void store_row_epoch(struct export *x, sqlite3_stmt *s, bool old);
void store_row_snap(struct export *x, sqlite3_stmt *s, bool old);
void store_row_inode(struct export *x, sqlite3_stmt *s, bool old);
void store_row_dentry(struct export *x, sqlite3_stmt *s, bool old);
void store_row_xattr(struct export *x, sqlite3_stmt *s, bool old);
void store_row_keep(struct export *x, sqlite3_stmt *s, bool old);

/* --- import.c: payloads into rows */
int store_take_meta(struct store_db *db, struct dmt_cur *c);
int store_take_epoch(struct store_db *db, struct dmt_cur *c);
int store_take_snap(struct store_db *db, struct dmt_cur *c);
int store_take_dentry(struct store_db *db, struct dmt_cur *c);
int store_take_xattr(struct store_db *db, struct dmt_cur *c);
int store_take_keep(struct store_db *db, struct dmt_cur *c);
extern const char store_wipe_sql[]; /* empties all tables, but for meta's "resync" */
/* Hands out whole items; the rest waits in pending. */
typedef int (*store_take_fn)(void *ctx, const uint8_t *p, size_t len);
int store_items_feed(struct dmt_buf *pending, const void *p, size_t len, store_take_fn take, void *ctx);
int store_get_inode(struct dmt_cur *c, struct dmt_inode *n, uint64_t *ret_alloc, uint64_t *ret_died);

/* --- basis.c: of which position is what we have? Keys are (inode, offset or cookie); a segment reaches to the next one. There is
 * one for live rows and one for history rows (those that ended up to the position are there). */
struct basis_seg {
    uint64_t ino, off;
    uint64_t epoch, seq; /* rows from here on are those of this position; seq 0: none */
};
struct basis {
    struct basis_seg *v; /* ascending; the first one is (0, 0) */
    size_t n, cap;
};
#define BASIS_SEGS_MAX 4096u
void basis_init(struct basis *b, uint64_t epoch, uint64_t seq);
void basis_free(struct basis *b);
const struct basis_seg *basis_at(const struct basis *b, uint64_t ino, uint64_t off);
const struct basis_seg *basis_next(const struct basis *b, const struct basis_seg *s); /* NULL at the end */
/* [(ino, off), (ino_end, off_end)) := what s says */
void basis_set(struct basis *b, uint64_t ino, uint64_t off, uint64_t ino_end, uint64_t off_end, const struct basis_seg *s);
void basis_encode(const struct basis *b, struct dmt_buf *out);
int basis_decode(struct basis *b, struct dmt_cur *c);

/* The statement that goes to the sender of a difference: both, and the inodes that are there (docs/formats-store.md, 6). */
int basis_statement(struct store_db *db, const struct basis *live, const struct basis *hist, struct dmt_buf *out);
struct basis_inos { /* reads its list of inodes */
    struct dmt_cur c;
    uint64_t from, to; /* run that is being given out; from == to == UINT64_MAX: the end */
};
int basis_statement_open(const void *p, size_t len, struct basis *ret_live, struct basis *ret_hist, struct basis_inos *ret_inos);
int basis_inos_next(struct basis_inos *it, uint64_t *ret); /* 1, 0 at the end, < 0: damaged */

#endif
