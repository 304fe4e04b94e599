/* workspace.h: what a workspace does. check -> log -> apply, one apply for everybody (fs/fuse, crash recovery, standby, restore).
 *
 * Life:  dmt_ws_open (= recovery up to the journal's tail for a holder; a follower applies later)  ->  dmt_ws_begin_epoch (a
 *                                                                                                      holder's
 * new epoch is its first record)  ->  operations  ->  dmt_ws_close (drain + checkpoint).
 *
 * Inode numbers given to and by callers are node ids: live inodes are themselves; `.snapshots` is DMT_NODE_SNAPSHOTS, a node
 * inside a snapshot is bit 63 | snapshot serial << 40 | ino: stateless, never equal to a live number. All of those are read-only
 * (-EROFS), rename/link across is -EXDEV.
 *
 * Threads: all functions take the workspace lock themselves unless a note says otherwise; none waits for a disk flush or the
 * network unless marked [blocks]. Callbacks come from the thread named with them and hold no lock.
 */
#ifndef DMT_WORKSPACE_WORKSPACE_H
#define DMT_WORKSPACE_WORKSPACE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include "fs/base/thread.h"
#include "fs/journal/journal.h"
#include "fs/store/store.h"
#include "fs/workspace/gate.h"
#include "fs/workspace/record.h"

#define DMT_NODE_SNAPSHOTS (1ull << 63 | DMT_ROOT)
#define DMT_SNAPSHOTS_NAME ".snapshots"
/* On a file that lost unsynced bulk data; the last word of its value is the position of its version then. Removing it says that
 * the loss is dealt with. */
#define DMT_INCOMPLETE_ATTR "user.dumont.incomplete"
/* How finely who meets DMT_E_GONE in a snapshot tells the bytes that a failover lost from those around them. */
#define DMT_LOST_STEP 4096u

struct dmt_ws;

struct dmt_ws_conf {
    const struct dmt_io *io;
    const struct dmt_clock *clock;
    const char *dir;          /* STORE */
    const struct dmt_gate *gate; /* copied; may be replaced by dmt_ws_set_gate before serving */
    struct dmt_pool *pool;    /* for cold work; owned by the caller, outlives ws */
    enum dmt_sync_level level;
    uint64_t quota_bytes;     /* 0 = none */
    uint64_t segment_bytes;   /* 0 = default */
    bool keep_recent;         /* a mount's requests come in: the journal keeps the last records, for a successor (resend.c) */
    uint32_t resume;          /* the mount instance of a dead predecessor that goes on; 0 = none. Its open files stay, and what
                                 was done for it is not done twice */
    uint32_t small_max;       /* of the store; 0 = default */
    uint64_t ballast_bytes;   /* of the store; 0 = none */
    int lock_fd;              /* of the store; 0 = taken when it is opened */
    bool follower;            /* apply nothing at open beyond the last checkpoint; operations are -EROFS until dmt_ws_promote */
    /* The kernel's caches must forget these (rollback, promotion): called from the thread that applied, no lock held, AFTER the
     * change. all = true: everything may have changed (epoch bump) and inos lists changed inodes. */
    void (*invalidate)(void *ctx, const uint64_t *inos, size_t n, bool all);
    /* The workspace went read-only because something could not be applied or the journal failed. */
    void (*failed)(void *ctx, const char *why);
    /* Dirty mapped pages of the mount must reach us before a snapshot or rollback (D7): syncfs on the mount from the calling
     * thread; may be NULL. */
    int (*flush_mmap)(void *ctx);
    void *ctx;
};

int dmt_ws_open(struct dmt_ws **ret, const struct dmt_ws_conf *conf, struct dmt_err *err); /* [blocks] */
int dmt_ws_close(struct dmt_ws *ws, struct dmt_err *err); /* [blocks] drain, checkpoint, close */
void dmt_ws_set_gate(struct dmt_ws *ws, const struct dmt_gate *gate);
struct dmt_store *dmt_ws_store(struct dmt_ws *ws);
struct dmt_journal *dmt_ws_journal(struct dmt_ws *ws);
struct dmt_lockfn dmt_ws_lockfn(struct dmt_ws *ws); /* the workspace lock, for store functions marked [nolock] */

/* --- epochs, following, promotion (called by L4 on the lease's word) ------------------------------------------------------- */
/* Appends the EPOCH record (parent, switch position = tail) and makes it durable; operations are allowed from then. A higher
 * epoch only. [blocks] */
int dmt_ws_begin_epoch(struct dmt_ws *ws, uint64_t epoch, const char *node, const char *reason, struct dmt_err *err);
/* Follower: appends records as the holder made them. An EPOCH record among them is remembered. The caller
 * kicks the journal when they have to be durable. DMT_E_STALE: this workspace is being promoted, or is the holder. */
int dmt_ws_receive(struct dmt_ws *ws, const void *records, size_t len, struct dmt_err *err);
/* Follower: applies records up to min(seq, durable here). [blocks on reading] */
int dmt_ws_apply_upto(struct dmt_ws *ws, uint64_t seq, struct dmt_err *err);
uint64_t dmt_ws_applied(struct dmt_ws *ws); /* last applied seq (memory) */
/* Promotion: takes nothing of another's any more, makes durable and applies everything received; then the caller begins the
 * epoch and settles. [blocks] */
int dmt_ws_promote(struct dmt_ws *ws, struct dmt_err *err);
/* Journals the fallback or cut of every file with missing ranges (rules 21, 22) and INCOMPLETE reports. own_crash_same_boot:
 * ranges are in the page cache: fdatasync + MARK instead. Returns files settled or < 0. [blocks] */
int dmt_ws_settle(struct dmt_ws *ws, bool own_crash_same_boot, struct dmt_err *err);
/* After demote, before following: what this machine wrote as holder is in its data files (the caller knows: same boot), so its
 * missing ranges are none. Makes them durable and asks nobody for them: the new holder may have given them up. *ret_seq: position
 * up to which that holds. [blocks] */
int dmt_ws_keep_own(struct dmt_ws *ws, uint64_t *ret_seq, struct dmt_err *err);
/* Stops being holder: operations fail -EROFS/-EIO, parked acks fail with -EIO; state stays readable. */
void dmt_ws_demote(struct dmt_ws *ws);
/* Loser: saves records after switch_seq, with by-reference bytes inline, as STORE/branches/NAME (journal format; listed by
 * dmt_ws_branches), durable; then cuts the journal to switch_seq and reloads. DMT_E_HISTORY if the last checkpoint is beyond it
 * (caller: full resync). [blocks] */
int dmt_ws_branch_and_cut(struct dmt_ws *ws, uint64_t switch_seq, const char *branch, struct dmt_err *err);
/* The branch alone: nothing is cut. 0 also when there is nothing after switch_seq. [blocks] */
int dmt_ws_branch(struct dmt_ws *ws, uint64_t switch_seq, const char *branch, struct dmt_err *err);

/* --- acknowledging ---------------------------------------------------------------------------------------------------------- */
typedef void (*dmt_ack_fn)(void *arg, int err); /* err 0 or -errno; from commit, loop or pool thread */
/* After a mutating call: may the reply go now? 1 yes (fn not called); 0 parked, fn will be called once; < 0 reply with that
 * error. seq: what the op returned. With sync=write this waits like a sync. */
int dmt_ws_ack(struct dmt_ws *ws, uint64_t seq, dmt_ack_fn fn, void *arg);
/* fsync of ino (0 = sync of everything): by-reference data durable, MARK, journal durable, gate. Always answers through fn.
 * Names-only: datasync of a directory. */
void dmt_ws_sync(struct dmt_ws *ws, uint64_t ino, dmt_ack_fn fn, void *arg);
/* Begins what a sync would: both journals make seq durable. For after the reply to a write with sync_due, so that the disk
 * works while the caller is on its way to its fsync. Nobody waits; with `here` this thread syncs the journal itself, if that is
 * quick. */
void dmt_ws_sync_ahead(struct dmt_ws *ws, uint64_t seq, bool here);
int dmt_ws_sync_wait(struct dmt_ws *ws, uint64_t ino); /* [blocks] */
/* The gate's answer may have changed: looks at parked acks again. Any thread. */
void dmt_ws_poke(struct dmt_ws *ws);

/* --- operations ------------------------------------------------------------------------------------------------------------- */
struct dmt_op {
    uint32_t uid, gid;  /* of the caller, for new inodes */
    uint32_t umask;
    uint64_t unique;    /* FUSE unique; 0 = internal */
    uint32_t instance;
    bool resent;        /* a predecessor may have done it already: then the result comes from its record */
    uint64_t seq;       /* out: record to acknowledge; 0 when nothing was logged (acknowledge at once) */
    bool sync_due;      /* out, of a write: a sync of the file is foreseen; see dmt_ws_sync_ahead */
};
/* Every function returns 0 or -errno; attrs are filled for the node id. */
struct dmt_attr {
    uint64_t node;
    struct stat st;     /* st_ino = node */
};
int dmt_ws_lookup(struct dmt_ws *ws, uint64_t parent, const char *name, struct dmt_attr *ret);
int dmt_ws_getattr(struct dmt_ws *ws, uint64_t node, struct dmt_attr *ret);
struct dmt_setattr {
    uint32_t mask; /* DMT_SET_*; ATIME/MTIME with *_now = true take the record's time */
    uint32_t mode, uid, gid;
    uint64_t size, atime, mtime;
    bool atime_now, mtime_now, kill_suidgid;
};
int dmt_ws_setattr(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const struct dmt_setattr *sa, struct dmt_attr *ret);
/* Any type but links: mode has the S_IFMT bits, umask is applied unless the parent has a default ACL; target: symlinks only; name
 * NULL: O_TMPFILE. setgid directories and owner rules as ext4. The kernel has checked permissions (default_permissions). */
int dmt_ws_make(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, const char *name, uint32_t mode, uint32_t rdev,
                const char *target, struct dmt_attr *ret);
int dmt_ws_link(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, uint64_t parent, const char *name, struct dmt_attr *ret);
int dmt_ws_unlink(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, const char *name, bool dir);
int dmt_ws_rename(struct dmt_ws *ws, struct dmt_op *op, uint64_t parent, const char *name, uint64_t newparent,
                  const char *newname, uint32_t flags);
int dmt_ws_readlink(struct dmt_ws *ws, uint64_t node, char buf[4096]);
/* Kernel reference counts: an orphan is reaped (journaled) when its count falls to 0. lookup/make/link/readdirplus entries count
 * 1 each, by the caller's call. forget: true = nobody holds this orphan by the count, but part of the count died with a
 * predecessor: ask the kernel, and if it does not know the inode call dmt_ws_forgotten. */
void dmt_ws_ref(struct dmt_ws *ws, uint64_t node);
bool dmt_ws_forget(struct dmt_ws *ws, uint64_t node, uint64_t n);
void dmt_ws_forgotten(struct dmt_ws *ws, uint64_t node);
/* After resume, once: the orphans to ask the kernel about, and the inodes that changed without a request of the kernel's, which
 * it may still show as they were. *ret: an array of the caller's. 0 or -ENOMEM. */
int dmt_ws_doubtful(struct dmt_ws *ws, uint64_t **ret, size_t *ret_n);
int dmt_ws_stale(struct dmt_ws *ws, uint64_t **ret, size_t *ret_n);
/* p: may be used without copying until return. kill_suidgid: WRITE_KILL_SUIDGID. Decides itself inline or by reference (design
 * 6). */
int dmt_ws_write(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const void *p, size_t len, uint64_t off, bool kill_suidgid);
/* nowait: -EAGAIN when it would have to wait for the disk (caller hands it to the pool). Returns bytes. */
ssize_t dmt_ws_read(struct dmt_ws *ws, uint64_t node, void *buf, size_t len, uint64_t off, bool nowait);
int dmt_ws_fallocate(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, int flags, uint64_t off, uint64_t len,
                     bool kill_suidgid);
int64_t dmt_ws_seek(struct dmt_ws *ws, uint64_t node, uint64_t off, int whence); /* SEEK_DATA / SEEK_HOLE */
/* Entries with cookie > after, "." and ".." (cookies 1, 2) included. fn returns non-zero when its buffer is full. attr is NULL
 * unless plus. */
typedef int (*dmt_readdir_fn)(void *ctx, const char *name, uint64_t node, uint32_t type, uint64_t cookie,
                              const struct dmt_attr *attr);
int dmt_ws_readdir(struct dmt_ws *ws, uint64_t node, uint64_t after, bool plus, dmt_readdir_fn fn, void *ctx);
ssize_t dmt_ws_getxattr(struct dmt_ws *ws, uint64_t node, const char *name, void *buf, size_t size);
/* trusted: with the names of that namespace, which the kernel hides from getxattr but not from lists. */
ssize_t dmt_ws_listxattr(struct dmt_ws *ws, uint64_t node, char *buf, size_t size, bool trusted);
/* flags: XATTR_CREATE, XATTR_REPLACE, DMT_XATTR_KILL_SGID: an access ACL clears the setgid bit (who sets it is not of the file's
 * group). */
#define DMT_XATTR_KILL_SGID (1 << 16)
int dmt_ws_setxattr(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const char *name, const void *val, size_t len,
                    int flags);
int dmt_ws_removexattr(struct dmt_ws *ws, struct dmt_op *op, uint64_t node, const char *name);
int dmt_ws_statfs(struct dmt_ws *ws, struct statvfs *ret);
/* "/a/b" -> node id, and node -> path (first name found); for tools. */
int dmt_ws_resolve(struct dmt_ws *ws, uint64_t view, const char *path, uint64_t *ret_ino);

/* --- snapshots -------------------------------------------------------------------------------------------------------------- */
int dmt_ws_snap_create(struct dmt_ws *ws, const char *name, const char *note, struct dmt_snapshot *ret, struct dmt_err *err);
/* The node id that inode `ino` has below .snapshots/NAME. */
uint64_t dmt_ws_snap_node(const struct dmt_snapshot *s, uint64_t ino);
int dmt_ws_snap_delete(struct dmt_ws *ws, const char *name, struct dmt_err *err);
int dmt_ws_snap_each(struct dmt_ws *ws, int (*fn)(void *ctx, const struct dmt_snapshot *s), void *ctx);
/* Differences between two views (seq or DMT_LIVE), sorted by path. kind: 'A' added, 'D' deleted, 'M' content, 'm' attributes
 * only, 'T' type, 'R' renamed (from). [blocks] */
typedef int (*dmt_diff_fn)(void *ctx, char kind, const char *path, const char *from);
int dmt_ws_diff(struct dmt_ws *ws, uint64_t a, uint64_t b, dmt_diff_fn fn, void *ctx, struct dmt_err *err);
struct dmt_rollback {
    const char *snapshot;       /* name */
    const char *const *paths;   /* NULL-terminated, or NULL for the whole workspace */
    bool dry_run;
    dmt_diff_fn fn;             /* what changes (or would); may be NULL */
    void *ctx;
    uint64_t changed;           /* out */
    uint64_t incomplete;        /* out: files of which this machine has lost bytes; they have zeros there */
    char saved_as[129];         /* out: name of the automatic snapshot taken before */
};
int dmt_ws_rollback(struct dmt_ws *ws, struct dmt_rollback *rb, struct dmt_err *err); /* [blocks] */
/* Name of the snapshot that is taken first thing when an epoch comes from another machine's: what its branch starts from. */
#define DMT_SWITCH_NAME_MAX 48u
void dmt_switch_name(uint64_t epoch, char name[DMT_SWITCH_NAME_MAX]);
/* Branches kept by a loser: fn(name, first seq, last seq, records, bytes). */
int dmt_ws_branches(struct dmt_ws *ws, int (*fn)(void *ctx, const char *name, uint64_t first, uint64_t last, uint64_t bytes),
                    void *ctx);
/* Writes the files that a branch's records name (state at the switch point + the branch) below dir as plain files. *left_out: so
 * many are not written, because this machine lacks bytes of them (and NAME.bulk, which would have them); NULL: it has all that
 * the switch point shows. [blocks] */
int dmt_ws_branch_extract(struct dmt_ws *ws, const char *branch, const char *dir, uint64_t *left_out, struct dmt_err *err);

/* --- bulk lane (used by replica and archive) -------------------------------------------------------------------------------- */
/* Bytes of [off, off+len) of ino as last written at exactly seq: *ret_n bytes from off are right (checked before and after
 * reading); DMT_E_GONE when the start of the range has been overwritten, cut or deleted since. [blocks on disk] */
int dmt_ws_bulk_read(struct dmt_ws *ws, uint64_t ino, uint64_t off, uint64_t len, uint64_t seq, void *buf, uint64_t *ret_n);
/* The same for who sends them to the other machine; after it the pages may leave the page cache. While there is such a reader
 * (sending: from now on, it has read all so far) new bytes stay there for it (dmt_store_ref_read_back). */
int dmt_ws_bulk_send(struct dmt_ws *ws, uint64_t ino, uint64_t off, uint64_t len, uint64_t seq, void *buf, uint64_t *ret_n);
void dmt_ws_bulk_sending(struct dmt_ws *ws, bool on);
/* Follower: next range still lacking after (ino, off): 1/0; fill; then sync makes what was filled durable and drops the rows.
 * DMT_E_STALE: being promoted, or the holder; what is missing then is settled here, and says nothing about what has come. */
int dmt_ws_missing_next(struct dmt_ws *ws, uint64_t ino, uint64_t off, struct dmt_missing *ret);
int dmt_ws_missing_fill(struct dmt_ws *ws, const struct dmt_missing *m, const void *p);
int dmt_ws_missing_sync(struct dmt_ws *ws); /* [blocks] */
bool dmt_ws_missing_ino(struct dmt_ws *ws, uint64_t ino, uint64_t upto_seq); /* ino 0 = any */
bool dmt_ws_keep_covers(struct dmt_ws *ws, uint64_t ino, uint64_t seq);      /* as dmt_store_keep_covers */

/* --- checkpoint, stream, status --------------------------------------------------------------------------------------------- */
int dmt_ws_checkpoint(struct dmt_ws *ws, struct dmt_err *err); /* [blocks] */
/* Journal segments may go once all of these allow it: the checkpoint (known here) and the two named here (UINT64_MAX = no such
 * reader). Until the first call nothing goes. */
void dmt_ws_set_retention(struct dmt_ws *ws, uint64_t standby_durable, uint64_t archived);
/* Everything up to seq is durable on the standby (dmt_store_set_peer). */
void dmt_ws_set_peer(struct dmt_ws *ws, uint64_t seq);
/* checkpoint + dmt_store_export. [blocks] */
int dmt_ws_export(struct dmt_ws *ws, struct dmt_pos *ret_pos, int (*emit)(void *ctx, const void *p, size_t len), void *ctx,
                  struct dmt_err *err);
/* One inode and its version, hashed (sample.c). sample: picked by `random`; 0, -EAGAIN (it moves), -ENOENT. check: 0 equal; 1
 * not comparable (another version, bytes pending); DMT_E_HISTORY: different. suspect: the next resync takes this inode anew.
 * [blocks] */
#define DMT_SAMPLE_MAX (1u << 20)
struct dmt_sample {
    uint64_t ino, off, length; /* of a file: these bytes */
    uint64_t epoch, seq, hash;
};
int dmt_ws_sample(struct dmt_ws *ws, uint64_t random, struct dmt_sample *ret);
int dmt_ws_sample_check(struct dmt_ws *ws, const struct dmt_sample *s);
int dmt_ws_suspect(struct dmt_ws *ws, uint64_t ino);
/* checkpoint + dmt_store_diff. [blocks] */
int dmt_ws_export_diff(struct dmt_ws *ws, const void *statement, size_t len, struct dmt_pos *ret_pos,
                       void (*sized)(void *ctx, const struct dmt_diff_size *size),
                       int (*emit)(void *ctx, const void *p, size_t len), void *ctx, struct dmt_err *err);
/* Digest of a view's tree, the same that tests/lib/bin/treedigest computes by POSIX calls; hex into ret. path NULL = root.
 * [blocks] */
int dmt_ws_digest(struct dmt_ws *ws, uint64_t view, char ret[65], struct dmt_err *err);

struct dmt_ws_status {
    struct dmt_pos tail;
    uint64_t durable, applied, checkpointed;
    uint64_t epoch;
    bool holder, failed;
    char failed_why[256];
    uint64_t inodes, live_bytes, pinned_bytes, missing_bytes, dirty_bytes;
    uint64_t snapshots, incomplete_files;
    uint64_t parked_acks, oldest_sync_ms;
    char checkpoint_error[256];        /* why the last one failed; "" = it did not */
    uint64_t checkpoint_error_since_ns; /* realtime; of the first in a row */
    struct dmt_journal_stats journal;
};
void dmt_ws_status(struct dmt_ws *ws, struct dmt_ws_status *ret);
/* Puts back the content of a file that settling left incomplete, at once, and takes the attribute away; read gives its bytes from
 * off on (0 = the end, < 0 = -errno). -EEXIST: it is not as position `at` left it. [blocks] */
typedef ssize_t (*dmt_content_fn)(void *ctx, void *buf, size_t n, uint64_t off);
int dmt_ws_heal(struct dmt_ws *ws, uint64_t ino, uint64_t at, dmt_content_fn read, void *ctx, uint64_t size, uint64_t mtime);
/* INCOMPLETE reports, of files that still bear the attribute. */
int dmt_ws_incomplete_each(struct dmt_ws *ws, int (*fn)(void *ctx, const struct dmt_rec_INCOMPLETE *r), void *ctx);

/* --- check (dumont check) --------------------------------------------------------------------------------------------------- */
struct dmt_ws_check {
    const struct dmt_io *io;
    const struct dmt_clock *clock;
    const char *dir;             /* STORE, which nobody may have open */
    bool repair;
    dmt_finding_fn found;        /* in order; those of one kind follow each other */
    dmt_tell_fn repairing;       /* before each repair; then findings start over with what is left */
    void (*step)(void *ctx, const char *what, uint64_t records);
    void *ctx;
    /* out */
    uint64_t records, last_seq;  /* of the journal */
    uint64_t findings;           /* of the last look: after a repair, what is left */
    bool lossy, settled;         /* some cannot be repaired; the journal has nothing that the rows do not have */
    bool repaired;
};
/* Journal, rows, data files, and what each says about the others. 0, or < 0 when it could not be done (-EBUSY: in use). A repair
 * that would lose something, or that would come between rows and journal, is not begun. [blocks] */
int dmt_ws_check(struct dmt_ws_check *k, struct dmt_err *err);

#endif
