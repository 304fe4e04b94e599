/* store.h: the state that the log produces. Namespace in SQLite (STORE/workspace.db), bytes in data files (STORE/data), and in
 * front of both a memory layer: rows and blocks changed since the last checkpoint. The store knows positions, not records.
 *
 * One level of memory: a cache of row objects (inode, dentry, xattr, content map) that is always current. A changed object
 * is dirty and pinned until the checkpoint that contains it has committed; lookups go cache -> SQLite (a reading
 * connection of the store's own). freeze() copies the dirty rows' values into a frozen batch (copy on write for bytes), so
 * handlers go on while the batch is written. State on disk is therefore always that of one position.
 *
 * Lifetimes. Each live row has `born` = seq of the record that made it. When a row is changed or removed at seq q and some
 * pinned position p (snapshot, keep, volatile pin) satisfies born <= p < q, the old value becomes a history row
 * [born, q). A view at position p is: live rows with born <= p, and history rows with born <= p < died.
 *
 * Data. Per inode: `base` files, named by (ino, serial >= 1), written only by reference: foff = off when off >= high-water mark
 * of the serial, else foff = high-water mark (deterministic from the records alone, so crash recovery finds the bytes again;
 * truncation to 0 starts a new serial); and one `side` file (serial 0) for inline bytes, placed by the checkpointer,
 * append-only, node-local. Small files (<= small_max, never by reference) live in table content. Extent rows say
 * (off, len) -> (owner ino, serial, foff); owner may be another inode (content_from), such rows are marked shared.
 *
 * Invariants
 *   D1  bytes of a record that is not durable never reach a live range of a data file: inline bytes stay in memory until a
 *       checkpoint at a position the journal has made durable.
 *   D2  by-reference bytes go only to space that no row, live or history, refers to.
 *   D3  space is punched or unlinked only after the checkpoint that freed it committed, when no history row, keep, pin or
 *       in-flight export needs it. In-place overwrite (inline bytes at checkpoint) only of ranges that are live only and not
 *       shared.
 *   D4  truncate, punch, zero and extend change map and size only; zeros come from the map.
 *   S1  one transaction per checkpoint, synchronous=FULL, with the applied position in it.
 *   S2  missing ranges are rows, in the transaction of the position; bytes are accepted only where a row asks for that position.
 *
 * Threads: every function that takes no other note is called with the workspace lock held (or single-threaded). Functions marked
 * [nolock] must be called without it and may block on disk. Views and exports use connections of their own.
 */
#ifndef DMT_STORE_STORE_H
#define DMT_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "fs/base/bytes.h"
#include "fs/base/clock.h"
#include "fs/base/err.h"
#include "fs/base/io.h"
#include "fs/base/pos.h"

#define DMT_LIVE UINT64_MAX /* the view that is now; any other view is a sequence number */
#define DMT_ROOT 1ull

struct dmt_store;

struct dmt_inode {
    uint64_t ino;
    uint32_t mode, nlink, uid, gid, rdev;
    uint32_t flags;        /* DMT_INO_* */
    uint64_t size;
    uint64_t atime, mtime, ctime, btime; /* ns */
    uint64_t parent;       /* directories: where .. leads; else 0 */
    uint32_t next_cookie;  /* directories: cookie of the next entry, from 3 */
    uint64_t epoch, seq;   /* position of the last change (its version) = born */
};
#define DMT_INO_ORPHAN 1u /* nlink 0, kept for those who have it open; removed by REAP */
#define DMT_INO_XATTR  2u /* has at least one xattr (saves look-ups) */

struct dmt_dentry {
    uint64_t ino;
    uint32_t cookie;
    uint32_t type; /* S_IFMT bits of the inode */
    uint64_t born;
};

struct dmt_store_conf {
    const struct dmt_io *io;
    const struct dmt_clock *clock;
    const char *dir; /* STORE */
    uint32_t small_max; /* files up to this size live in the database; 0 = DMT_SMALL_MAX, which is the most */
    uint64_t ballast_bytes; /* held for a checkpoint on a full disk; 0 = none */
    int lock_fd; /* > 0: the caller holds the store (dmt_store_lock) as long as this is in use; 0: who needs it takes it */
};

/* --- life ------------------------------------------------------------------------------------------------------------ */
/* Makes an empty store: identity, root directory (mode, uid, gid, time_ns), applied position zero. Fails with -EEXIST if there is
 * one. */
struct dmt_store_ident {
    uint8_t lineage[16];  /* of the workspace: same on all its machines */
    uint8_t store_id[16]; /* of this store: random, made with it */
    char name[65];        /* workspace name */
};
int dmt_store_create(const struct dmt_store_conf *conf, const struct dmt_store_ident *id, uint32_t root_mode, uint32_t uid,
                     uint32_t gid, uint64_t time_ns, struct dmt_err *err);
/* Takes STORE/lock (flock), for who opens a store more than once and must not let go in between. -EBUSY with the holder's pid in
 * the message when in use; -ENOENT, -ENOTDIR without such a directory. Closing the descriptor lets go, once all that were given
 * it in dmt_store_conf are closed, too. */
int dmt_store_lock(const char *dir, int *ret_fd, struct dmt_err *err);
/* Opens and takes the store's lock. */
int dmt_store_open(struct dmt_store **ret, const struct dmt_store_conf *conf, struct dmt_err *err);
void dmt_store_close(struct dmt_store *st); /* dirty rows are dropped: the journal has them */
const struct dmt_store_ident *dmt_store_ident(const struct dmt_store *st);
/* The store is of this lineage from now on: durable on return. Only for a store that nobody else has open. */
int dmt_store_set_lineage(struct dmt_store *st, const uint8_t lineage[16], struct dmt_err *err);
struct dmt_pos dmt_store_applied(const struct dmt_store *st); /* of the last committed checkpoint */
/* Where the log must at least be replayed to before the state is exact: applied, or later when a checkpoint died after it had
 * begun to overwrite live ranges in place. A log cut before this position needs a full resync. */
struct dmt_pos dmt_store_floor(const struct dmt_store *st);
/* The other machine has everything up to seq. Ranges written before and after that stay apart, so that a difference (below) is
 * small if it stays away from now on. Kept over restarts. */
void dmt_store_set_peer(struct dmt_store *st, uint64_t seq);
/* Drops all memory and reopens at the last checkpoint (a loser that truncates its journal; an I/O error). [nolock: exclusive] */
int dmt_store_reload(struct dmt_store *st, struct dmt_err *err);

/* --- rows ------------------------------------------------------------------------------------------------------------- */
/* Small named values in the checkpoint's transaction (next_ino, flags ...). get: caller frees *ret; -ENOENT. */
int dmt_store_meta_get(struct dmt_store *st, const char *key, void **ret, size_t *ret_len);
int dmt_store_meta_put(struct dmt_store *st, const char *key, const void *val, size_t len);
int dmt_store_meta_u64(struct dmt_store *st, const char *key, uint64_t dflt, uint64_t *ret);
int dmt_store_meta_put_u64(struct dmt_store *st, const char *key, uint64_t v);

int dmt_store_inode_get(struct dmt_store *st, uint64_t view, uint64_t ino, struct dmt_inode *ret); /* -ENOENT */
/* These will be asked for next: has the processor fetch what memory knows of them, all at once instead of one wait each. */
void dmt_store_inodes_soon(struct dmt_store *st, const uint64_t *ino, size_t n);
/* The first inode at or after ino that the last checkpoint has, as it is now. -ENOENT */
int dmt_store_inode_near(struct dmt_store *st, uint64_t ino, struct dmt_inode *ret);
/* Inserts or replaces; n->seq is the record's seq (= q of the rule above). */
int dmt_store_inode_put(struct dmt_store *st, const struct dmt_inode *n);
/* Removes inode, its xattrs, content map and missing ranges at seq. */
int dmt_store_inode_del(struct dmt_store *st, uint64_t ino, uint64_t seq);

int dmt_store_dentry_get(struct dmt_store *st, uint64_t view, uint64_t parent, const char *name, size_t len,
                         struct dmt_dentry *ret); /* -ENOENT */
int dmt_store_dentry_put(struct dmt_store *st, uint64_t parent, const char *name, size_t len, uint64_t ino, uint32_t type,
                         uint32_t cookie, uint64_t seq);
int dmt_store_dentry_del(struct dmt_store *st, uint64_t parent, const char *name, size_t len, uint64_t seq);
/* In cookie order, those with cookie > after. fn returns non-zero to stop; it must not change the store. */
typedef int (*dmt_dirent_fn)(void *ctx, const char *name, size_t len, const struct dmt_dentry *d);
int dmt_store_readdir(struct dmt_store *st, uint64_t view, uint64_t parent, uint32_t after, dmt_dirent_fn fn, void *ctx);
int dmt_store_dir_empty(struct dmt_store *st, uint64_t parent); /* 1, 0, < 0 */

int dmt_store_xattr_get(struct dmt_store *st, uint64_t view, uint64_t ino, const char *name, void *buf, size_t size,
                        size_t *ret_len); /* -ENODATA; -ERANGE when size is too small and not 0 */
int dmt_store_xattr_put(struct dmt_store *st, uint64_t ino, const char *name, const void *val, size_t len, uint64_t seq);
int dmt_store_xattr_del(struct dmt_store *st, uint64_t ino, const char *name, uint64_t seq);
typedef int (*dmt_xattr_fn)(void *ctx, const char *name, const void *val, size_t len);
int dmt_store_xattr_each(struct dmt_store *st, uint64_t view, uint64_t ino, dmt_xattr_fn fn, void *ctx);

/* --- content ---------------------------------------------------------------------------------------------------------- */
/* The caller keeps inode.size and times; these change the map. Within one record they come before dmt_store_inode_put of the same
 * inode (what a file falls back to takes size and mtime from the row before the record). */
int dmt_store_write(struct dmt_store *st, uint64_t ino, uint64_t off, const void *p, size_t len, uint64_t seq);
/* Where a by-reference write will go (pure), and putting its bytes there BEFORE its record is logged (D2). */
struct dmt_place {
    uint64_t ino;    /* owner of the data file */
    uint32_t serial; /* 0 = side */
    uint64_t foff;
};
int dmt_store_ref_place(struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t len, struct dmt_place *ret);
int dmt_store_ref_put(struct dmt_store *st, const struct dmt_place *pl, const void *p, size_t len);
/* The apply of a by-reference write: computes the same place, switches the map, adds the range to the missing list at seq
 * (on the holder "missing" means: not yet durable here; cleared by mark). Bytes that are not in the file read as what is in the
 * file. */
int dmt_store_write_ref(struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t len, uint64_t seq);
/* Unmaps [off, off+len) (punch, zero); len UINT64_MAX = to the end. */
int dmt_store_unmap(struct dmt_store *st, uint64_t ino, uint64_t off, uint64_t len, uint64_t seq);
/* Unmaps [size, end); size 0 also starts a new base serial and keeps the old content as fallback until complete once. */
int dmt_store_truncate(struct dmt_store *st, uint64_t ino, uint64_t size, uint64_t seq);
/* Content of ino := content of src at view src_view (rollback, fallback), by shared extents; no bytes move. */
int dmt_store_content_from(struct dmt_store *st, uint64_t ino, uint64_t src, uint64_t src_view, uint64_t seq);
/* Allocated bytes (for st_blocks), live view. */
int dmt_store_allocated(struct dmt_store *st, uint64_t ino, uint64_t *ret_bytes);

/* Reading in two steps: map under the lock (memory bytes are copied into buf at once, holes zeroed), then the file pieces
 * without it. Beyond n->size nothing is returned; the caller clips len to the size. */
struct dmt_piece {
    uint64_t off, len; /* in the file */
    void *file;        /* referenced data file; NULL = already in buf */
    uint64_t foff;
    uint64_t born;     /* position of the last write of this piece */
};
struct dmt_pieces {
    struct dmt_piece *v;
    int n, cap;
};
int dmt_store_map(struct dmt_store *st, uint64_t view, uint64_t ino, uint64_t off, void *buf, uint64_t len,
                  struct dmt_pieces *ret);
/* [nolock] Reads the file pieces into buf (buf[0] = offset off). nowait: preadv2(RWF_NOWAIT); -EAGAIN when it would block. */
int dmt_store_pieces_read(struct dmt_store *st, struct dmt_pieces *ps, uint64_t off, void *buf, bool nowait);
void dmt_store_pieces_free(struct dmt_store *st, struct dmt_pieces *ps);
/* SEEK_DATA / SEEK_HOLE on the map: offset, or -ENXIO. size: the inode's. */
int64_t dmt_store_seek(struct dmt_store *st, uint64_t view, uint64_t ino, uint64_t off, uint64_t size, bool data);

/* Who sends long writes by reference to the other machine reads them back soon: while on, they stay in the page cache until it
 * has read them (pieces_drop), as far as memory can spare it. On again: it has read them all. [any thread] */
void dmt_store_ref_read_back(struct dmt_store *st, bool on);
/* [nolock] The pieces were read for the last time: their pages may go. */
void dmt_store_pieces_drop(struct dmt_store *st, const struct dmt_pieces *ps);

/* --- missing ranges and fallback (protocol rules 21-24) ------------------------------------------------------------------ */
struct dmt_missing {
    uint64_t ino, off, len, seq; /* seq: position of the write whose bytes are missing */
};
/* Next row at or after (ino, off) in that order: 1, 0 at the end. */
int dmt_store_missing_next(struct dmt_store *st, uint64_t ino, uint64_t off, struct dmt_missing *ret);
uint64_t dmt_store_missing_bytes(struct dmt_store *st); /* sum; O(1) */
bool dmt_store_missing_ino(struct dmt_store *st, uint64_t ino, uint64_t upto_seq); /* any with seq <= upto? */
/* Is one of the bytes [off, off + len) that `view` shows of ino missing and not filled yet? Says nothing on the holder. */
bool dmt_store_missing_at(struct dmt_store *st, uint64_t view, uint64_t ino, uint64_t off, uint64_t len);
/* Puts arrived bytes in place where the list asks for exactly seq; *ret_used = bytes wanted. Rows stay until fill_sync. */
int dmt_store_missing_fill(struct dmt_store *st, const struct dmt_missing *m, const void *p, uint64_t *ret_used);
/* fdatasync of what was filled since the last call [nolock inside: takes a lock callback], then drops those rows. */
struct dmt_lockfn { void (*lock)(void *ctx); void (*unlock)(void *ctx); void *ctx; };
int dmt_store_fill_sync(struct dmt_store *st, const struct dmt_lockfn *lk);
/* [nolock] Holder: makes the data files of ino (0 = all) with missing rows durable; the caller then logs MARK(ino, seq). */
int dmt_store_ref_sync(struct dmt_store *st, const struct dmt_lockfn *lk, uint64_t ino);
/* After an own crash: does a data file end before bytes that were written by reference into it? Then what was not synced did not
 * survive, same boot or not (the disk failed and came back). Lock held; looks at the disk. */
bool dmt_store_ref_short(struct dmt_store *st);
/* The records that are applied from now on are this machine's own, or not: then what they write by reference comes from another
 * one, which keeps no bytes that were overwritten since. At first: not. */
void dmt_store_set_mine(struct dmt_store *st, bool mine);
/* Promotion: what has not come from the holder before will not come any more, so what was due of it is not. */
void dmt_store_keep_undue(struct dmt_store *st);
/* A sync has acknowledged what ino held at upto_seq, as the record at seq says. complete_here (the holder's own MARK of a
 * position): rows with seq <= upto_seq are dropped; else they stay. Up to own_after the bytes are another holder's: what is
 * missing of those is not dropped but lost, as below. */
int dmt_store_mark(struct dmt_store *st, uint64_t ino, uint64_t upto_seq, bool complete_here, uint64_t own_after, uint64_t seq);
/* Promotion: what is missing of pinned positions alone, written up to upto_seq, is lost from now on: not missing, and DMT_E_GONE
 * for who maps it there. */
void dmt_store_give_up_pinned(struct dmt_store *st, uint64_t upto_seq);
/* Bytes that position `view` shows and that are lost here. */
uint64_t dmt_store_lost_bytes(struct dmt_store *st, uint64_t view);
/* Is one of the bytes [off, off + len) that it shows of ino lost? */
bool dmt_store_lost_at(struct dmt_store *st, uint64_t view, uint64_t ino, uint64_t off, uint64_t len);
/* To be called before the record removes or changes `replaced`. Rename of `ino` over `replaced` at seq: an incomplete `ino`
 * inherits the replaced file's content (or its fallback) as fallback. */
int dmt_store_keep_replace(struct dmt_store *st, uint64_t ino, uint64_t replaced, uint64_t seq);
/* If ino is incomplete, would it fall back, also after a power cut, to what a sync has acknowledged up to seq, or to newer
 * content of its own? What it lacks of that up to seq is known not to be missing any more. */
bool dmt_store_keep_covers(struct dmt_store *st, uint64_t ino, uint64_t seq);
/* Files (ino 0: any) that have a fallback although nothing of them is missing: a MARK lets it go. fn: not 0 ends it. */
int dmt_store_kept_each(struct dmt_store *st, uint64_t ino, int (*fn)(void *ctx, uint64_t ino), void *ctx);
/* Fallback of an incomplete file: source inode and view of its content, that content's size and mtime; -ENOENT = none: cut at the
 * first missing byte. */
int dmt_store_fallback(struct dmt_store *st, uint64_t ino, uint64_t *ret_src, uint64_t *ret_view, uint64_t *ret_size,
                       uint64_t *ret_mtime);

/* --- snapshots and epochs (rows of the checkpoint's transaction) ------------------------------------------------------------ */
struct dmt_snapshot {
    uint64_t serial;  /* dense, never reused: part of the node ids of .snapshots */
    uint64_t seq;     /* position it shows */
    uint64_t epoch;
    uint64_t time_ns;
    char name[129];
    char note[257];   /* why (automatic ones) */
};
int dmt_store_snap_put(struct dmt_store *st, const struct dmt_snapshot *s); /* -EEXIST by name */
/* history rows nothing needs are freed by later checkpoints */
int dmt_store_snap_del(struct dmt_store *st, const char *name);
int dmt_store_snap_get(struct dmt_store *st, const char *name, struct dmt_snapshot *ret);
int dmt_store_snap_by_serial(struct dmt_store *st, uint64_t serial, struct dmt_snapshot *ret);
int dmt_store_snap_each(struct dmt_store *st, int (*fn)(void *ctx, const struct dmt_snapshot *s), void *ctx); /* oldest first */

struct dmt_epoch_row {
    uint64_t epoch, parent, switch_seq, switch_chain, time_ns;
    char node[65], reason[257];
};
int dmt_store_epoch_put(struct dmt_store *st, const struct dmt_epoch_row *e);
int dmt_store_epoch_each(struct dmt_store *st, int (*fn)(void *ctx, const struct dmt_epoch_row *e), void *ctx);

/* --- checkpoint ---------------------------------------------------------------------------------------------------------- */
struct dmt_store_load { uint64_t dirty_rows, dirty_bytes, pinned_bytes, live_bytes, inodes; };
void dmt_store_load(struct dmt_store *st, struct dmt_store_load *ret);
/* Freezes the active layer at pos (the caller's applied position). -EBUSY while a frozen one exists. Lock held, no disk. */
int dmt_store_freeze(struct dmt_store *st, const struct dmt_pos *pos);
/* [nolock] The journal is durable past the frozen position: blocks -> fdatasync(data) -> one transaction (FULL). On error the
 * frozen layer is merged back (dirty again) and the call may be repeated. */
int dmt_store_checkpoint(struct dmt_store *st, const struct dmt_lockfn *lk, struct dmt_err *err);

/* Blocks held for a checkpoint on a full disk: makes them if they are not there and the disk has room; gives them up (true: there
 * were some, the checkpoint is worth another try). Called by whoever makes checkpoints. [nolock] */
void dmt_store_ballast_keep(struct dmt_store *st);
bool dmt_store_ballast_drop(struct dmt_store *st);

/* Inodes changed between two positions a < b (b may be DMT_LIVE; call after a checkpoint): fn gets each ino once, any order.
 * [nolock] */
int dmt_store_changed(struct dmt_store *st, uint64_t a, uint64_t b, int (*fn)(void *ctx, uint64_t ino), void *ctx);

/* --- state stream: everything at a position (first synchronisation, archive base, restore) ---------------------------------- */
/* Pins the last checkpoint's position (volatile; a freeze+checkpoint is the caller's), then walks rows and data ranges in a read
 * transaction of its own. Stream = items, each u8 kind + payload (docs/formats-store.md, 5). emit returns < 0 to stop.
 * [nolock; lk used briefly] */
int dmt_store_export(struct dmt_store *st, const struct dmt_lockfn *lk, struct dmt_pos *ret_pos,
                     int (*emit)(void *ctx, const void *p, size_t len), void *ctx, struct dmt_err *err);
/* Fills an empty or abandoned store directory: sets flag meta "resync" durably first, wipes, takes chunks as export emitted them
 * (any re-chunking of the byte stream), finishes only on the END item with the matching hash. The store must not be open. */
struct dmt_import;
int dmt_store_import_begin(struct dmt_import **ret, const struct dmt_store_conf *conf, const struct dmt_store_ident *id,
                           struct dmt_err *err);
int dmt_store_import_feed(struct dmt_import *im, const void *p, size_t len, struct dmt_err *err);
/* Commits; *ret_pos = the position. On error or abort the directory stays marked "resync" (dmt_store_open says DMT_E_CORRUPT +
 * hint). */
int dmt_store_import_finish(struct dmt_import *im, struct dmt_pos *ret_pos, struct dmt_err *err);
void dmt_store_import_abort(struct dmt_import *im);

/* --- difference: what a store that has an older state of the same history lacks (a resync) --------------------------------- */
struct dmt_diff_size {
    uint64_t bytes;      /* of the stream */
    uint64_t data;       /* of files, among them */
    uint64_t inodes;     /* changed ones */
    uint64_t live_bytes; /* of the whole workspace */
    bool fresh;          /* nothing of what the other side has is of use */
};
/* statement: what the other side has (dmt_patch_statement). Like dmt_store_export; sized (may be NULL) is told before the first
 * emit. [nolock; lk used briefly] */
int dmt_store_diff(struct dmt_store *st, const struct dmt_lockfn *lk, const void *statement, size_t len, struct dmt_pos *ret_pos,
                   void (*sized)(void *ctx, const struct dmt_diff_size *size),
                   int (*emit)(void *ctx, const void *p, size_t len), void *ctx, struct dmt_err *err);

/* The other end. A new database is made beside the old one (STORE/resync.db); bytes go where the old one refers to nothing: the
 * old state stays what it is until dmt_patch_switch. The store must not be open. */
enum dmt_patch_state {
    DMT_PATCH_NONE,     /* no resync is under way */
    DMT_PATCH_PARTIAL,  /* one was begun: dmt_patch_open goes on with it */
    DMT_PATCH_COMPLETE, /* dmt_patch_switch is to be called, after the old journal has been removed */
};
enum dmt_patch_state dmt_patch_state(const char *dir);
struct dmt_patch;
/* common: position up to which the old state's history is the sender's, as far as known (UINT64_MAX: all of it; 0: nothing).
 * Counts only when a resync begins. */
int dmt_patch_open(struct dmt_patch **ret, const struct dmt_store_conf *conf, const struct dmt_store_ident *id, uint64_t common,
                   struct dmt_err *err);
int dmt_patch_statement(struct dmt_patch *p, struct dmt_buf *ret, struct dmt_err *err);
int dmt_patch_feed(struct dmt_patch *p, const void *data, size_t len, struct dmt_err *err);
/* After the last byte: checks that the result is what the sender has. DMT_E_HISTORY: it is not, and the next attempt starts from
 * nothing. Closes in any case. */
int dmt_patch_finish(struct dmt_patch *p, struct dmt_pos *ret_pos, struct dmt_err *err);
void dmt_patch_close(struct dmt_patch *p); /* what came is kept */
/* This inode is not what it should be, whatever its version: a resync that begins after it takes it anew. */
int dmt_patch_suspect(const struct dmt_io *io, const char *dir, uint64_t ino);
int dmt_patch_switch(const struct dmt_store_conf *conf, struct dmt_err *err);
void dmt_patch_drop(const struct dmt_store_conf *conf); /* the old store is good after all */

/* --- check -------------------------------------------------------------------------------------------------------------- */
/* What is looked at, and what a repair does: docs/operations.md, "What dumont check looks at". */
struct dmt_finding {
    const char *kind; /* one word */
    const char *text; /* one sentence */
    const char *todo; /* what to do now */
    bool repairable;  /* without losing anything that was acknowledged */
};
typedef void (*dmt_finding_fn)(void *ctx, const struct dmt_finding *f);
/* Told before it is done. */
typedef void (*dmt_tell_fn)(void *ctx, const char *text);
/* Verifies rows and data files of an open store's last checkpoint. Returns the number of findings, or < 0. [nolock] */
int dmt_store_check(struct dmt_store *st, dmt_finding_fn fn, void *ctx, struct dmt_err *err);

/* A store that nobody has open, to be checked and repaired: holds STORE/lock (-EBUSY when in use), changes nothing until
 * dmt_checker_repair. One thread. */
struct dmt_checker;
struct dmt_checked {
    bool open; /* the database can be read and says who it is */
    struct dmt_store_ident ident;
    struct dmt_pos applied, floor;
};
int dmt_checker_open(struct dmt_checker **ret, const struct dmt_store_conf *conf, struct dmt_err *err);
void dmt_checker_close(struct dmt_checker *k);
/* Reads the database's identity and position, for the first time or after a repair. An error is a finding: the rows cannot be
 * looked at then. */
int dmt_checker_look(struct dmt_checker *k, struct dmt_err *err);
const struct dmt_checked *dmt_checker_state(const struct dmt_checker *k);
/* settled: the journal has nothing beyond the applied position. Returns the number of findings. */
uint64_t dmt_checker_run(struct dmt_checker *k, bool settled, dmt_finding_fn fn, void *ctx);
/* Values of the workspace: -ENOENT; the caller frees *ret. */
int dmt_checker_meta(struct dmt_checker *k, const char *key, void **ret, size_t *ret_len);
int dmt_checker_meta_put(struct dmt_checker *k, const char *key, const void *val, size_t len); /* within a repair only */
/* Inodes marked orphan, ascending; not 0 stops. */
int dmt_checker_orphans(struct dmt_checker *k, int (*fn)(void *ctx, uint64_t ino), void *ctx);
/* Greatest numbers that any row has. */
int dmt_checker_greatest(struct dmt_checker *k, uint64_t *ret_ino, uint64_t *ret_snap);
/* Puts right everything repairable: rows, in one transaction in which `more` (may be NULL) adds its own; then strays move to
 * STORE/lost+found. To be called after a run, with the journal settled and no finding that is not repairable. */
int dmt_checker_repair(struct dmt_checker *k, int (*more)(void *ctx), dmt_tell_fn tell, void *ctx, struct dmt_err *err);
/* statfs of the data directory's filesystem: bytes. */
int dmt_store_space(struct dmt_store *st, uint64_t *ret_total, uint64_t *ret_free);

#endif
