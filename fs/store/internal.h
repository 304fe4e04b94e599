/* internal.h: what the files of fs/store share: the objects of the memory layer and the functions across files.
 *
 * Objects. A `node` is everything known about one inode number: its row, xattrs, content map, data file marks, and for a
 * directory its changed entries. A `dent` is one directory entry by name. Both live in hash tables; clean ones are also in an LRU
 * list and may be evicted. "Dirty" = changed since the last freeze; "frozen" = in the batch being checkpointed. Dirty or frozen
 * objects are pinned, so that memory always overrides what SQLite shows, before and after a COMMIT of the batch.
 *
 * Index [0] of a pair is the active half, [1] the frozen one. The frozen half is read-only for everybody until the checkpoint
 * ends.
 */
#ifndef DMT_STORE_INTERNAL_H
#define DMT_STORE_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/base/limits.h"
#include "fs/base/list.h"
#include "fs/base/log.h"
#include "fs/store/db.h"
#include "fs/store/kids.h"
#include "fs/store/map.h"
#include "fs/store/store.h"
#include "fs/store/tree.h"

#define STORE_PUNCH_MIN 65536u

#define ACTIVE 0
#define FROZEN 1

/* Small allocations abort when memory is gone: a logged operation must apply. zalloc: zeroed. */
void *store_alloc(size_t n);
void *store_zalloc(size_t n);

/* What of a node is dirty (or frozen). */
#define NODE_ROW     1u
#define NODE_XATTR   2u
#define NODE_CONTENT 4u
#define NODE_FILE    8u  /* serial or high-water mark of the base file */
#define NODE_HIST    16u /* history rows of inode or content waiting */
#define NODE_DEAD    32u /* inode removed: all its rows of every kind go */
#define NODE_SHARE   64u /* became a source of shared pieces: its rows in SQLite do not say so yet */

struct ihist { /* an old value of an inode row, [row.seq, died) */
    struct ihist *next;
    struct dmt_inode row;
    uint64_t alloc, died;
};
struct chist { /* an old piece of content, [p.born, died) */
    struct chist *next;
    struct piece p; /* holds a reference to its chunk */
    uint64_t died;
};
struct xhist {
    struct xhist *next;
    struct chunk *value;
    uint64_t born, died;
};
struct xattr {
    struct xattr *next;
    struct chunk *value; /* NULL: removed */
    uint64_t born;
    bool disk;           /* the last commit has it */
    bool dirty, frozen, frozen_live;
    struct xhist *hist[2];
    char name[];
};

struct keep { /* a content of an incomplete file: its fallback, or what may become it */
    struct keep *next; /* the next newer one that is due */
    struct dmt_list of_src; /* in the source node's list */
    struct dmt_list all;
    struct node *node, *src;
    uint64_t view, size, mtime;
    bool own; /* the file's own content, which a sync has acknowledged, or may have, as far as is known */
    bool disk, dirty;
    uint64_t sure_from; /* it has moved: only when that freeze is committed is it the fallback after a power cut, too */
};

struct node {
    struct node *hash_next;
    struct dmt_list lru, dirty_link;
    uint64_t ino;
    uint32_t dirty, frozen; /* NODE_* */
    uint32_t pins;         /* entries that have it as `dir`, keeps on it */
    bool live;             /* the row exists */
    bool disk, frozen_live;
    struct dmt_inode row;  /* up to here what every look-up reads: in three cache lines */
    uint64_t alloc;
    struct ihist *ihist[2];
    struct chist *chist[2];
    struct xattr *xattrs;
    struct pmap *layer[2]; /* content changes: active, frozen; NULL = none */
    struct pmap base;      /* content at the last commit, when base_loaded */
    uint64_t map_hi;       /* no mapped byte at or after; valid when base_loaded */
    uint64_t hwm;          /* of the base file's current serial */
    struct kids *kids;     /* live entries in memory, by cookie: dirty and frozen ones, and all others while `whole` */
    struct tree old_kids;  /* history of entries in memory, by cookie */
    struct keep *keep;     /* what it falls back to: all of it is here */
    struct keep *due;      /* its contents that syncs were about and that are not all here yet, the oldest first */
    uint64_t due_skipped;  /* a sync of up to here is not among them: it has what the newest has */
    struct dmt_list keeps_here; /* keeps whose source this is */
    uint32_t serial;       /* of the base file; from 1 */
    bool marked;           /* a sync has acknowledged what it held (MARK), perhaps before any checkpoint */
    bool own;              /* what a sync acknowledged of it was all here, since it was empty */
    bool known;            /* in memory since it was made or empty: `own` false means that nothing was acknowledged */
    bool xattrs_loaded, base_loaded, file_loaded;
    bool dir_fresh;        /* SQLite has no entries of this directory */
    bool whole;            /* all live entries of this directory are in memory: those not there do not exist */
};

struct dent_value {
    uint64_t ino, born;
    uint32_t cookie, type;
};
struct dhist {
    struct tnode tn; /* in old_kids of the directory */
    struct dhist *next;
    struct dent *dent;
    struct dent_value v;
    uint64_t died;
};
struct dent {
    struct dent *hash_next;
    struct dmt_list lru, dirty_link;
    struct node *dir;      /* while pinned, or live in a whole directory */
    struct dhist *hist[2];
    uint64_t parent;
    struct dent_value v;
    uint32_t hash;
    bool live, disk, frozen_live;
    bool dirty, frozen;
    bool in_kids;          /* of the directory: while live and `dir` is set */
    uint8_t len;
    char name[];
};

struct hash {
    void **slot;
    size_t n, cap; /* cap: power of two */
};

struct dfile { /* one data file */
    struct dfile *hash_next;
    struct dmt_list lru;
    uint64_t ino;
    uint32_t serial;
    int fd;           /* -1: not open */
    int refs;
    bool tainted;     /* an fdatasync failed: nothing is overwritten in place, earlier bytes are not trusted */
    uint64_t lost_below; /* ... and by-reference bytes before this offset were not durable then */
    bool unsynced;    /* by-reference bytes since the last sync: the descriptor must stay open */
    uint64_t writes;  /* counts puts, to see those that came during a sync */
    uint64_t side_from; /* side file: space below was tried by a failed checkpoint */
};

/* Column "shared" of table missing. */
#define STORE_ROW_SHARED 1u
#define STORE_ROW_LOST   2u

enum fill_state { FILL_NONE, FILL_DONE, FILL_SYNCING };
struct op;
struct mrow { /* one missing range; key (ino, off, seq) */
    struct tnode tn;
    uint64_t ino, off, end, seq;
    uint64_t owner, foff;
    uint32_t serial;
    uint8_t fill;
    bool shared;      /* taken over with shared content: another row may name the same place */
    bool lost;        /* died, and will not come any more: only pinned positions show it, as an error */
    struct dmt_list fill_link; /* in the list of filled rows */
    uint64_t died;    /* 0: of the live file; else kept for pinned positions in [seq, died) */
    struct op *op;    /* its pending put in the active log */
};

/* Small changes that are rows in the checkpoint's transaction, in order. */
enum op_kind {
    OP_NONE, OP_META, OP_SNAP_PUT, OP_SNAP_DEL, OP_EPOCH, OP_KEEP_PUT, OP_KEEP_DEL, OP_MISSING_PUT,
    OP_MISSING_DEL, OP_SHARE, OP_FILE,
};
struct op {
    struct dmt_list link;
    enum op_kind kind;
    struct mrow *mrow;      /* MISSING_PUT: to forget the op when the row goes */
    struct meta *meta;      /* META: newer values replace this one */
    union {
        struct { char *key; struct chunk *val; };
        struct dmt_snapshot *snap;
        struct dmt_epoch_row *epoch;
        struct { uint64_t ino, src, view, size, mtime; } keep; /* DEL: the first three */
        struct { uint64_t ino, off, len, seq, owner, foff, died; uint32_t serial; uint8_t flags; } missing;
        struct { uint64_t ino, view; } share;
        struct { uint64_t ino, hwm; uint32_t serial; } file; /* an older serial that history may still need */
    };
};
struct meta {
    struct meta *next;
    struct chunk *val;
    struct op *op; /* pending in the active log */
    char key[];
};

struct space { /* a range (or, len 0, a whole file) that may be free */
    uint64_t ino, foff, len;
    uint32_t serial;
};
struct spaces {
    struct space *v;
    size_t n, cap;
};

struct fz_node { /* a dirty node as it was at the freeze */
    struct node *n;
    uint64_t ino;
    uint32_t bits;
    bool live;
    uint32_t serial;
    uint64_t hwm, alloc;
    struct dmt_inode row;
    struct pmap *layer;
    struct pmap *placed; /* made by the checkpointer: what the layer became, all FILE and HOLE; NULL = reload */
    struct ihist *ihist;
    struct chist *chist;
};
struct fz_dent {
    struct dent *d;
    struct dent_value v;
    bool live, disk;
    struct dhist *hist;
};
struct fz_xattr {
    struct xattr *x;
    struct node *n;
    struct chunk *value;
    uint64_t born;
    struct xhist *hist;
};
struct counters {
    uint64_t live_bytes, inodes;
};
struct pin_set {
    uint64_t *v; /* sorted */
    size_t n, cap;
};
struct keep_pin {
    uint64_t src, view;
};
struct batch {
    struct dmt_pos pos;
    struct fz_node *nodes;
    struct fz_dent *dents;
    struct fz_xattr *xattrs;
    size_t n_nodes, n_dents, n_xattrs, cap_xattrs;
    struct dmt_list ops;
    struct spaces freed;
    struct pin_set pins;      /* snapshots at the freeze */
    struct keep_pin *keeps;   /* sorted */
    size_t n_keeps;
    uint64_t peer;            /* position of the other machine: births before and after it stay apart */
    bool sweep;               /* a snapshot or keep went: look through history */
    uint64_t suspect_high;    /* of the store at the freeze */
    uint64_t number;          /* of the freeze */
    struct counters count;
};

struct viewmap { /* content of an inode at a pinned position */
    struct dmt_list link;
    uint64_t ino, view;
    struct pmap map;
};

struct sweep { /* where the look through history stands; kind 0 = not running */
    int kind;
    uint64_t a, died, off;
    struct chunk *name;
    bool again;
};

struct dmt_store {
    struct dmt_store_conf conf;
    char *dir;
    int lock_fd;
    struct dmt_store_ident ident; /* from here on: what a reload makes anew */
    struct dmt_pos applied, floor; /* floor > applied: bytes up to it may be in live ranges already */
    unsigned intent_slot;
    struct store_db rd;   /* under the lock */
    struct store_db wr;   /* the checkpointer's */
    bool wr_broken;       /* reopen before the next use */

    struct hash nodes, dents, files;
    struct dmt_list node_lru, dent_lru, file_lru;
    size_t node_lru_n, dent_lru_n, open_files;
    uint64_t dir_names[256], dir_durable[256]; /* per data directory: names made since the start, + 1; how many are durable */
    size_t base_cost;     /* memory of loaded content maps */
    struct dmt_list dirty_nodes, dirty_dents;
    uint64_t dirty_node_n, dirty_dent_n, dirty_piece_n, dirty_cost;
    uint64_t suspect_high; /* inodes up to this one may have data files that no row knows: a process was killed, or a
                              checkpoint failed */
    uint64_t ino_high;    /* no row of a greater inode number exists */

    struct meta *metas;
    struct dmt_list ops;
    uint64_t op_n;
    struct spaces freed;
    struct counters count;
    uint64_t pinned_bytes;
    bool mine;            /* dmt_store_set_mine */
    uint64_t peer;        /* what the other machine had, as last told (dmt_store_set_peer) */
    atomic_bool ref_read_back;         /* dmt_store_ref_read_back */
    atomic_uint_fast64_t ref_unread;   /* bytes kept in the page cache for it */
    uint64_t ref_window;
    uint64_t commits;     /* counted in the database, to recognise a COMMIT whose answer was an error */
    uint64_t commits_found; /* when it was opened */
    uint64_t freezes, committed; /* since then: how many, and which was committed last */

    struct dmt_snapshot *snaps; /* sorted by seq */
    size_t snap_n, snap_cap;
    struct dmt_epoch_row *epochs;
    size_t epoch_n, epoch_cap;
    struct pin_set pins;
    struct dmt_list keeps;
    struct dmt_list views;
    size_t view_n;
    bool sweep_wanted;
    bool unpinned; /* a keep went: missing ranges that only it showed are still there */
    struct sweep sweep;   /* the checkpointer's */

    struct tree missing, lost;
    uint64_t missing_bytes, missing_shared_n;
    uint64_t missing_len_max; /* of any row so far: how far before a range a row can start that reaches into it */
    struct dmt_list filled; /* rows whose bytes are there but not durable */

    struct batch *batch;  /* frozen */
    bool running;         /* a checkpoint is writing */
    int exports;          /* positions pinned by exports: nothing in place, nothing freed */
    struct spaces later;  /* the checkpointer's: freed by a commit, still to be punched or unlinked */
    uint64_t punch_min;   /* shorter free ranges stay allocated */
    bool garbage_rows;    /* table garbage is not empty */
    bool ballast;         /* STORE/ballast is there; the checkpointer's */
};

/* --- store.c */
int store_lock(const struct dmt_store_conf *conf, int *ret_fd, struct dmt_err *err); /* the caller's, or taken */
int store_make_dirs(const struct dmt_io *io, const char *dir, struct dmt_err *err);
int store_ident_write(struct store_db *db, const struct dmt_store_ident *id, const struct dmt_pos *pos);
int store_ident_load(struct store_db *db, struct dmt_store_ident *id, struct dmt_pos *pos);
int store_db_pos(struct store_db *db, struct dmt_pos *ret);
int store_intent_write(struct dmt_store *st, const struct dmt_pos *pos);
/* *floor: where the state is exact at the least; in: the applied position. */
void store_intent_read(const struct dmt_io *io, const char *dir, struct dmt_pos *floor, unsigned *ret_slot);

/* --- ballast.c */
void store_ballast_find(struct dmt_store *st);

/* --- cache.c */
void store_hash_init(struct hash *h);
void store_hash_free(struct hash *h);
int store_node(struct dmt_store *st, uint64_t ino, struct node **ret); /* always gives one, with its row known */
struct node *store_node_cached(struct dmt_store *st, uint64_t ino);
void store_node_touch(struct dmt_store *st, struct node *n);
void store_node_dirty(struct dmt_store *st, struct node *n, uint32_t bits);
void store_node_pin(struct dmt_store *st, struct node *n);
void store_node_unpin(struct dmt_store *st, struct node *n);
void store_node_settle(struct dmt_store *st, struct node *n); /* after pins, dirty or frozen changed */
int store_dent(struct dmt_store *st, uint64_t parent, const char *name, size_t len, struct dent **ret);
struct dent *store_dent_cached(struct dmt_store *st, uint64_t parent, const char *name, size_t len);
int store_dent_dirty(struct dmt_store *st, struct dent *d);
void store_dent_settle(struct dmt_store *st, struct dent *d);
void store_cache_drop(struct dmt_store *st);
void store_base_unload(struct dmt_store *st, struct node *n);

/* --- inode.c, xattr.c, dentry.c */
void store_inode_from_row(sqlite3_stmt *s, struct dmt_inode *n, uint64_t *alloc); /* columns SQL_INODE_COLS, ino */
int store_inode_bind(struct store_db *db, enum store_sql id, const struct dmt_inode *n, uint64_t alloc, uint64_t died);
int store_xattrs_load(struct dmt_store *st, struct node *n);
int store_xattrs_delete(struct dmt_store *st, struct node *n, uint64_t seq);
void store_xattrs_free(struct node *n);
void store_kid_link(struct node *dir, struct dent *d);
void store_kid_unlink(struct node *dir, struct dent *d);

/* --- history.c: which old values somebody needs */
void store_pins_add(struct pin_set *ps, uint64_t pos);
void store_pins_del(struct pin_set *ps, uint64_t pos);
bool store_pins_hit(const struct pin_set *ps, uint64_t born, uint64_t died); /* some p: born <= p < died */
bool store_needed(const struct dmt_store *st, uint64_t born, uint64_t died);
bool store_content_needed(const struct dmt_store *st, const struct node *n, uint64_t born, uint64_t died);
bool store_batch_needed(const struct batch *b, uint64_t src, uint64_t born, uint64_t died); /* src 0: rows but content */
bool store_viewable(struct dmt_store *st, const struct node *n, uint64_t view);
int store_view(struct dmt_store *st, struct node *n, uint64_t view, const struct pmap **ret);
void store_views_drop(struct dmt_store *st);
void store_chist_add(struct dmt_store *st, struct node *n, const struct piece *p, uint64_t died);
void store_chist_free(struct chist *h);
void store_ihist_free(struct ihist *h);

/* --- content.c */
int store_base_load(struct dmt_store *st, struct node *n);
/* Content rows of ino as a connection sees them: small content as MEM, extents as FILE. */
int store_base_read(struct store_db *db, uint64_t ino, struct pmap *m);
int store_small_read(sqlite3_stmt *s, struct pmap *m);
struct piece store_extent_row(sqlite3_stmt *s);
int store_compose(struct node *n, uint64_t off, uint64_t end, compose_fn fn, void *ctx);
int store_content_change(struct dmt_store *st, struct node *n, uint64_t off, uint64_t end, uint64_t seq);
void store_content_put(struct dmt_store *st, struct node *n, const struct piece *p);
void store_content_overlay(struct dmt_store *st, struct node *n, const struct piece *p); /* same bytes, other marks */
int store_content_gone(struct dmt_store *st, struct node *n, uint64_t seq);
int store_content_unmap(struct dmt_store *st, struct node *n, uint64_t off, uint64_t end, uint64_t seq);

/* --- datafile.c */
struct dfile *store_file_get(struct dmt_store *st, uint64_t ino, uint32_t serial); /* takes a reference */
void store_file_put(struct dmt_store *st, struct dfile *f);
int store_file_open(struct dmt_store *st, struct dfile *f, bool create);
/* pending: not 0 when names in the file's directory may not be durable yet; to be handed to _done after sync_dir. Lock held, but
 * for sync_dir. */
uint64_t store_file_dir_pending(const struct dmt_store *st, const struct dfile *f);
int store_file_sync_dir(struct dmt_store *st, const struct dfile *f);
void store_file_dir_done(struct dmt_store *st, const struct dfile *f, uint64_t pending);
void store_file_path(const struct dmt_store *st, uint64_t ino, uint32_t serial, char *buf, size_t size);
void store_file_forget(struct dmt_store *st, uint64_t ino, uint32_t serial);
void store_files_drop(struct dmt_store *st);
int store_file_marks_load(struct dmt_store *st, struct node *n);
void store_spaces_add(struct spaces *v, uint64_t ino, uint32_t serial, uint64_t foff, uint64_t len);

/* --- missing.c, keep.c */
void store_missing_add(struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t len, uint64_t seq, const struct dmt_place *pl,
                       bool shared);
void store_missing_cut(struct dmt_store *st, struct node *n, uint64_t off, uint64_t end, uint64_t seq);
uint64_t store_missing_place_end(struct dmt_store *st, uint64_t owner, uint32_t serial);
/* Is a part of p, which position `view` shows of ino, lost? */
bool store_missing_lost(struct dmt_store *st, uint64_t view, uint64_t ino, const struct piece *p);
bool store_missing_any(struct dmt_store *st, uint64_t ino); /* of the live file */
bool store_missing_in(struct dmt_store *st, uint64_t ino, uint64_t view); /* of what that position shows of it */
void store_missing_filter(struct dmt_store *st);           /* drops ranges kept for positions that are gone */
int store_missing_load(struct dmt_store *st);
void store_missing_drop(struct dmt_store *st);
int store_missing_each(struct dmt_store *st, uint64_t ino, int (*fn)(void *ctx, struct mrow *m), void *ctx);
/* Those that may overlap [off, end) of ino. */
int store_missing_each_in(struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t end, int (*fn)(void *ctx, struct mrow *m),
                          void *ctx);
int store_keep_load(struct dmt_store *st);
/* Before a change: the complete content at `view` becomes n's fallback. replace: also in place of an older one. */
int store_keep_self(struct dmt_store *st, struct node *n, uint64_t view, bool replace);
/* Before a change of [off, end) by the record at seq: what is due and lacks some of it may only be had as it is after that. */
void store_keeps_move(struct dmt_store *st, struct node *n, uint64_t off, uint64_t end, uint64_t seq);
/* After it: the row is what it is then. */
void store_keeps_moved(struct dmt_store *st, struct node *n);
void store_keeps_undue(struct dmt_store *st, struct node *n); /* it is empty now */
void store_keeps_drop(struct dmt_store *st, struct node *n);
void store_keeps_settle(struct dmt_store *st, struct node *n); /* ranges have come: a due content may be whole, or the file */
/* A sync acknowledged what n held at upto_seq; n is not whole. The record that says so stands at seq. */
void store_keep_due(struct dmt_store *st, struct node *n, uint64_t upto_seq, uint64_t seq);
void store_keeps_freeze(struct dmt_store *st);
void store_keeps_free(struct dmt_store *st);

/* --- ops.c */
struct op *store_op(struct dmt_store *st, enum op_kind kind);
void store_op_cancel(struct dmt_store *st, struct op *op);
void store_op_free(struct op *op);
int store_op_write(struct store_db *db, const struct op *op);
void store_ops_detach(struct dmt_store *st, struct dmt_list *to); /* active log -> batch */
void store_ops_merge(struct dmt_store *st, struct dmt_list *from);
int store_meta_load(struct dmt_store *st, struct store_db *db);
void store_meta_free(struct dmt_store *st);
int store_db_meta_u64(struct store_db *db, const char *key, uint64_t *ret); /* 1 found, 0 not */
int store_db_meta_put_u64(struct store_db *db, const char *key, uint64_t v);

/* --- snap.c */
int store_snap_load(struct dmt_store *st);

/* --- freeze.c, checkpoint.c, ckpt_content.c, gc.c */
void store_batch_free(struct batch *b);
void store_batch_commit(struct dmt_store *st, struct batch *b);
void store_batch_merge(struct dmt_store *st, struct batch *b);

struct ckpt_file {
    struct dfile *f;
    uint64_t side_from; /* space below may have been tried by a failed attempt */
    uint64_t side_end;  /* allocated now up to here; 0 = not loaded */
    bool side_used, tainted;
    uint64_t names; /* not 0: its directory is to be synced */
};
struct ckpt { /* one running checkpoint */
    struct dmt_store *st;
    const struct dmt_lockfn *lk;
    struct batch *b;
    struct store_db *db;
    bool in_place_ok, in_place_said;
    struct ckpt_file **files; /* written, to be synced */
    size_t file_n, file_cap;
    struct spaces freed;  /* ranges that a row gave up; len 0: look at the file as a whole */
    struct spaces garbage; /* what this commit frees for good */
    struct spaces gone;   /* sources of dropped keeps, whose history is to be looked through (ino only) */
    int64_t pinned_delta;
    struct sweep sweep;   /* as it will be after the commit */
};
int store_ckpt_content(struct ckpt *c);
int store_ckpt_file(struct ckpt *c, uint64_t ino, uint32_t serial, struct ckpt_file **ret);
int store_gc_sweep(struct ckpt *c);
int store_gc_ino(struct ckpt *c, uint64_t ino);
int store_gc_rows(struct ckpt *c);
void store_gc_files(struct dmt_store *st, const struct dmt_lockfn *lk);

#endif
