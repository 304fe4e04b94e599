/* ws.h: what the files of fs/workspace share: the handle, and the steps check -> log -> apply in between.
 *
 * Who owns what in struct dmt_ws:
 *   lock      everything not marked otherwise; taken with ws_lock/ws_unlock (unlock also delivers a pending `failed` callback)
 *   apply_lock  the follower's reader and the right to apply from it; taken before `lock`
 *   ack_lock  the list of parked acks; a leaf but for the log (order: lock -> journal -> ack_lock)
 *
 * Invariants
 *   W1  holder: applied == journal tail whenever `lock` is free. Follower: applied <= durable.
 *   W2  a record is applied in full or the workspace is failed (read-only): memory never drifts from the log.
 *   W3  a group (BEGIN .. END) is applied at END with `lock` held, so no checkpoint can fall inside one.
 *   W4  record times strictly increase; node and snapshot numbers are never given twice. All three are derived from the records.
 */
#ifndef DMT_WORKSPACE_WS_H
#define DMT_WORKSPACE_WS_H

#include <pthread.h>
#include "fs/base/bytes.h"
#include "fs/base/limits.h"
#include "fs/base/list.h"
#include "fs/base/log.h"
#include "fs/workspace/workspace.h"

#define WS_RUNS            4096u                 /* files whose writing is watched at a time */
#define WS_REGULAR         2u                    /* as many writes between syncs so often in a row: the next is foreseen */
#define WS_HINTS           65536u                /* remembered (inode, directory) pairs */
/* Left free so that unlink, rename and checkpoints always go on: two journal segments being prepared, and a ballast. */
#define WS_RESERVE_BYTES   (3ull * DMT_SEGMENT_BYTES)
#define WS_SPACE_NS        (100 * DMT_MS)        /* how long a statfs of the store's disk is believed */
#define WS_IDLE_NS         (5 * DMT_S)           /* checkpoint this long after the last change */
#define WS_AGE_NS          (20 * DMT_S)          /* and at the latest so long after the first */
#define WS_REPLAY_RECORDS  131072u               /* or when so many would have to be replayed: users may wait for it */
#define WS_ROOM_NS         DMT_S                 /* or this long after it, when room is short */
#define WS_BULK_NS         (5 * DMT_S)           /* by-reference data stays unsynced at most this long (D5) */
#define WS_STABLE_WAIT_MS  200                   /* patience for the peer's ack before a checkpoint */
/* a request that waits for its reply lies in that many records, or bytes, from the tail */
#define WS_RECENT_RECORDS  8192u
#define WS_RECENT_BYTES    (32ull << 20)
#define WS_SWITCHES_MAX    3                     /* automatic snapshots of switch points kept */
#define WS_CAPS            "security.capability"
#define WS_ACL_ACCESS      "system.posix_acl_access"
#define WS_ACL_DEFAULT     "system.posix_acl_default"
#define WS_INCOMPLETE_ATTR DMT_INCOMPLETE_ATTR

enum ws_role {
    WS_IDLE,     /* opened; no epoch of our own yet: reads only */
    WS_FOLLOWER, /* receives and applies */
    WS_PROMOTING, /* receives nothing more; applies what has come; its first epoch is not durable yet */
    WS_HOLDER,   /* operations */
    WS_DEMOTED,  /* was holder */
};

/* u64 -> u64 hash, keys > 0 (map.c). */
struct ws_map {
    uint64_t *keys, *vals;
    size_t cap, n;
};
uint64_t ws_map_get(const struct ws_map *m, uint64_t key); /* 0 when absent */
bool ws_map_has(const struct ws_map *m, uint64_t key);
int ws_map_put(struct ws_map *m, uint64_t key, uint64_t val);
void ws_map_del(struct ws_map *m, uint64_t key);
void ws_map_clear(struct ws_map *m); /* frees its memory */

/* How a file is being written: decides inline or by reference. */
struct ws_run {
    uint64_t ino, end, length, unsynced, sync_gen;
    bool synced; /* what the file holds may have been acknowledged by a sync since it was empty, and no MARK says so */
    uint32_t writes, usual, regular; /* writes since the last sync; between the last two; how often in a row that was the same */
};

/* The end of the journal that a successor must be able to read (resend.c). */
struct ws_recent {
    uint64_t floor; /* everything behind it is kept */
    uint64_t next;  /* the next floor */
    uint64_t bytes; /* of records behind `next` */
};

struct ws_ack {
    struct dmt_list link;
    bool sync;
    uint64_t seq, ino, ref_seq, since_ns;
    dmt_ack_fn fn;
    void *arg;
    int err;
};

struct dmt_ws {
    struct dmt_ws_conf conf; /* conf.dir owned */
    struct dmt_gate gate;
    struct dmt_store *st;
    struct dmt_journal *j;
    pthread_mutex_t lock;
    pthread_cond_t unheld; /* `held` or the dirty layer went down */
    enum ws_role role;
    int held;              /* a rollback computes: mutating calls wait */
    bool failed, failed_told;
    char failed_why[256];

    struct dmt_pos applied; /* last record in the state */
    uint64_t group_begin;   /* seq of an open BEGIN; 0 = none */
    uint64_t epoch;
    char epoch_node[DMT_NODE_NAME_MAX + 1];
    uint8_t epoch_store[16]; /* the store that opened the epoch applied last */
    bool epoch_mine;        /* it is this one */
    uint64_t epoch_seq;     /* seq of our own EPOCH record: bulk before it may be unknown to the peer */
    bool bulk_ok;           /* missing ranges are ours and may be marked (settled) */
    bool filled;            /* missing ranges arrived since the last dmt_ws_missing_sync */
    uint64_t last_time, next_ino, next_snap;
    uint64_t last_change_ns, bulk_since_ns; /* monotonic; 0 = nothing */
    uint64_t behind_since_ns;               /* the last checkpoint lacks something since then */
    uint64_t worth_after_ns;                /* the peer lagged: no checkpoint for the bytes alone before that */
    bool room_short;                        /* a call was refused for lack of room: what was deleted is freed by a checkpoint */
    uint64_t ref_last;      /* seq of the last by-reference write, or CONTENT, of this process */
    struct ws_map refs;     /* kernel lookup counts */
    struct ws_map orphans;
    struct ws_recent recent;
    /* resume: unique -> seq of its record, unique -> inode made, inodes made without a name, inodes the kernel may show as they
     * were */
    struct ws_map done, made, tmpfiles, stale;
    uint64_t lost_before;   /* resume: lookup counts of inodes below it are not known */
    struct ws_map ref_seqs; /* ino -> seq of its last by-reference write, or CONTENT, since epoch_seq */
    struct dmt_buf incomplete; /* encoded INCOMPLETE bodies, one per file: u32 length, body */
    struct ws_map reported;    /* inodes in it */
    uint64_t own_after;        /* where the last holder's epochs began: up to there bytes are another's */
    struct ws_run *runs;
    uint64_t sync_gen;
    struct ws_hint { uint64_t ino, parent; } *hints;
    struct dmt_buf enc;     /* body being logged */
    struct dmt_buf scratch; /* xattr and name work inside apply */
    uint64_t space_at_ns, space_free, space_used; /* cached statfs; bytes logged since */
    uint64_t snap_serial, snap_seq; /* last resolved snapshot node */

    pthread_mutex_t apply_lock;
    struct dmt_jreader *reader; /* follower */
    uint64_t read_seq;          /* last record it gave */

    pthread_mutex_t ack_lock;
    struct dmt_list acks;
    uint64_t parked;

    pthread_t ckpt;
    bool ckpt_running;
    pthread_mutex_t ckpt_run;  /* held by whoever makes a checkpoint or replaces the state; taken before `lock` */
    pthread_mutex_t ckpt_lock; /* leaf: the fields below */
    pthread_cond_t ckpt_cond, ckpt_done_cond;
    bool ckpt_stop, ckpt_nudged;
    uint64_t ckpt_wanted, ckpt_done;
    int ckpt_err;
    struct dmt_err ckpt_errmsg;
    char ckpt_trouble[256]; /* why the last one failed; "" = it did not */
    uint64_t ckpt_trouble_ns;
    uint64_t checkpointed, keep_standby, keep_archive;
};

void ws_lock(struct dmt_ws *ws);
void ws_unlock(struct dmt_ws *ws);
/* Marks the workspace read-only (W2); the callback is delivered at the next unlock. */
void ws_fail(struct dmt_ws *ws, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Row state that is derived from records but lives in memory, to and from the checkpoint's meta values. */
/* A longer value of the store's meta table goes on in KEY.1, KEY.2 ...; the i-th key. */
#define WS_META_PIECE DMT_XATTR_VALUE_MAX
void ws_meta_key(char ret[64], const char *key, unsigned i);
int ws_meta_load(struct dmt_ws *ws, struct dmt_err *err);
void ws_epoch_opened_by(struct dmt_ws *ws, const uint8_t store_id[16]);
int ws_meta_save(struct dmt_ws *ws);
void ws_memory_clear(struct dmt_ws *ws);
uint64_t ws_mono(struct dmt_ws *ws);

/* Does anything that comes from another machine still count? Lock held. */
static inline bool ws_may_follow(const struct dmt_ws *ws)
{
    return ws->role != WS_HOLDER && ws->role != WS_PROMOTING;
}

static inline struct dmt_span ws_span(const char *s)
{
    return (struct dmt_span){s, s ? (uint32_t)__builtin_strlen(s) : 0};
}

/* --- log.c ------------------------------------------------------------------------------------------------------------ */
/* May a mutating operation start (role, failure, gate, rollback under way, room in memory when it grows the state)? Lock held;
 * may wait, with the lock released meanwhile: call it first. 0 or -errno. */
int ws_begin(struct dmt_ws *ws, bool grows);
/* Room for `bytes` more on this disk and the peer's, and for `adds` more of live content in the quota? 0, -ENOSPC, -EDQUOT. */
int ws_room(struct dmt_ws *ws, uint64_t bytes, uint64_t adds);
/* The workspace clock (W4): the time the next record gets. */
uint64_t ws_time(struct dmt_ws *ws);
/* Appends the record and applies it. op may be NULL. time_ns 0 = now. Sets op->seq. */
int ws_log(struct dmt_ws *ws, struct dmt_op *op, const struct dmt_body *b, uint64_t time_ns);
/* The same without apply. */
int ws_append(struct dmt_ws *ws, struct dmt_op *op, const struct dmt_body *b, uint64_t time_ns, struct dmt_rec *ret);
/* Records that are applied as one, when the group ends. The lock is held from begin to end; whoever has begun must end it. r < 0:
 * nothing of it happens; returned. */
struct ws_group {
    uint64_t begin_seq, count;
};
int ws_group_begin(struct dmt_ws *ws, struct ws_group *g, const char *what);
int ws_group_put(struct dmt_ws *ws, struct ws_group *g, const struct dmt_body *b);
int ws_group_end(struct dmt_ws *ws, const struct ws_group *g, int r);

/* --- replace.c ---------------------------------------------------------------------------------------------------------- */
/* A file without a name with that content, durable, to take content from: *ret_ino, until ws_stage_drop. Lock NOT held. */
int ws_stage(struct dmt_ws *ws, dmt_content_fn read, void *ctx, uint64_t *ret_ino);
/* *ret_lost: bytes that are lost here, in their place zeros. */
int ws_stage_view(struct dmt_ws *ws, uint64_t view, uint64_t ino, uint64_t *ret_ino, uint64_t *ret_lost);
void ws_stage_drop(struct dmt_ws *ws, uint64_t ino);

/* --- resend.c ----------------------------------------------------------------------------------------------------------- */
/* A record of so many bytes has become the tail: moves the floor along. */
void ws_recent_note(struct dmt_ws *ws, uint64_t seq, uint64_t bytes);
/* Was this request done by a predecessor? Then op->seq is its record (and *ret_ino the inode it made). Lock held. */
bool ws_done(struct dmt_ws *ws, struct dmt_op *op, uint64_t *ret_ino);
int ws_done_note(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b); /* recovery: a record that is there */
int ws_done_read(struct dmt_ws *ws, struct dmt_err *err); /* notes those before the checkpoint */
bool ws_in_use(struct dmt_ws *ws, uint64_t ino); /* may the kernel hold it? */
void ws_reap(struct dmt_ws *ws, uint64_t ino);   /* ops_lookup.c */

/* --- apply.c ------------------------------------------------------------------------------------------------------------ */
/* Applies one record of the log: group handling, then the one apply. Lock held. On failure the workspace is failed. */
int ws_apply(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b);
/* The one apply: what a record does to the store. Also used on scratch stores. */
int ws_apply_one(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b);
/* Decodes and applies what the reader has up to seq `upto`; *pos = the last record read. recovery: no checkpointer runs yet, so
 * checkpoints are made here. Lock NOT held. */
int ws_apply_from(struct dmt_ws *ws, struct dmt_jreader *rd, uint64_t *pos, uint64_t upto, bool recovery, struct dmt_err *err);
/* follow.c: applies up to seq, whatever the other side's position. apply_lock held. */
int ws_apply_tail(struct dmt_ws *ws, uint64_t seq, struct dmt_err *err);
/* branch.c: STORE/branches/NAME + suffix; -EINVAL for a name that is none. */
int ws_branch_path(struct dmt_ws *ws, const char *name, const char *suffix, char path[DMT_PATH_MAX]);
/* A branch of the records that fill appends, after floor; 0 also if there is one of that name. */
int ws_branch_save(struct dmt_ws *ws, const char *name, const struct dmt_pos *floor,
                   int (*fill)(void *ctx, struct dmt_journal *to, struct dmt_err *err), void *ctx, struct dmt_err *err);
/* The content of ino in a view as WRITE records (holes left out) and a SETATTR with size and mtime. data: DMT_WRITE_MAX bytes to
 * work in. -ENOENT: no such inode there. Lock NOT held. */
int ws_branch_content(struct dmt_ws *ws, uint64_t view, uint64_t ino, uint8_t *data,
                      int (*put)(void *ctx, const struct dmt_body *b), void *ctx);
/* branch_copy.c: may a branch that can wait take so many bytes more? -ENOSPC: the workspace would have too little left. */
int ws_branch_room(struct dmt_ws *ws, uint64_t bytes);
/* branch_bulk.c: of the files that the new holder of switch point floor lacked bytes of: 1 and the branch's name, or 0. */
int ws_branch_bulk_at(struct dmt_ws *ws, uint64_t floor, char name[DMT_NAME_MAX + 1]);
/* status.c: the reports of files that are still incomplete; all: of all that ever were. Lock held. */
int ws_incomplete_each(struct dmt_ws *ws, bool all, int (*fn)(void *ctx, const struct dmt_rec_INCOMPLETE *r), void *ctx);
/* Those inodes, and of those that somebody has dealt with since each that it may be; caller frees *ret. */
int ws_branch_lost(struct dmt_ws *ws, uint64_t floor, uint64_t **ret, size_t *ret_n);
int ws_apply_names(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b);   /* apply_names.c */
int ws_apply_content(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b); /* apply_content.c */
int ws_apply_attrs(struct dmt_ws *ws, const struct dmt_rec *r, const struct dmt_body *b);   /* apply_attrs.c */
void ws_touch(struct dmt_inode *n, const struct dmt_rec *r); /* ctime and version */
int ws_drop_caps(struct dmt_ws *ws, const struct dmt_rec *r, struct dmt_inode *n);
int ws_put_xattr(struct dmt_ws *ws, const struct dmt_rec *r, struct dmt_inode *n, struct dmt_span name, struct dmt_span val);
int ws_del_xattr(struct dmt_ws *ws, const struct dmt_rec *r, struct dmt_inode *n, struct dmt_span name);

/* --- acl.c: POSIX ACLs in their xattr form (version 2) -------------------------------------------------------------------- */
#define WS_ACL_BYTES_MAX 4096u
/* The mode an access ACL stands for: *ret_minimal when the mode alone says it all. 0 or -EINVAL. */
int ws_acl_mode(struct dmt_span acl, uint32_t *mode, bool *ret_minimal);
int ws_acl_check(struct dmt_span acl);
/* chmod: writes the mode's bits into the access ACL in buf. */
int ws_acl_chmod(uint8_t *buf, size_t len, uint32_t mode);
/* A new inode below a directory with default ACL: its access ACL in buf (len 0 = none needed) and its mode. */
int ws_acl_inherit(struct dmt_span dflt, uint8_t buf[WS_ACL_BYTES_MAX], size_t *ret_len, uint32_t *mode);

/* --- node.c: node ids, attributes ------------------------------------------------------------------------------------------- */
struct ws_at {
    uint64_t node, view, ino, serial;
    bool snapdir; /* the .snapshots directory itself */
};
int ws_at(struct dmt_ws *ws, uint64_t node, struct ws_at *ret);
int ws_inode(struct dmt_ws *ws, uint64_t node, struct ws_at *at, struct dmt_inode *ret); /* not for snapdir */
uint64_t ws_node(const struct ws_at *at, uint64_t ino); /* node id of another inode in the same view */
void ws_fill(struct dmt_ws *ws, const struct ws_at *at, const struct dmt_inode *n, struct dmt_attr *ret);
void ws_fill_snapdir(struct dmt_ws *ws, struct dmt_attr *ret);
/* Live inode for a mutating call: -EROFS for snapshot nodes, -ENOENT. */
int ws_live(struct dmt_ws *ws, uint64_t node, struct dmt_inode *ret);
int ws_live_dir(struct dmt_ws *ws, uint64_t node, struct dmt_inode *ret); /* also -ENOTDIR; -ENOENT when it was removed */
int ws_name_check(const char *name);
void ws_hint(struct dmt_ws *ws, uint64_t ino, uint64_t parent);

/* --- ops -------------------------------------------------------------------------------------------------------------------- */
/* mode after a write, truncate or chown kills suid/sgid; DMT_MODE_KEEP when nothing changes. */
uint32_t ws_kill_mode(const struct dmt_inode *n, bool kill);
/* 1 if security.capability is there to be dropped. */
int ws_has_caps(struct dmt_ws *ws, const struct dmt_inode *n);
/* Which seq of by-reference data a sync of ino has to cover. */
uint64_t ws_ref_seq(struct dmt_ws *ws, uint64_t ino);
void ws_runs_synced(struct dmt_ws *ws, uint64_t ino);
/* A sync is about what ino holds now: its next write by reference comes after a MARK. */
void ws_run_under_sync(struct dmt_ws *ws, uint64_t ino);
/* Another machine may have synced any file meanwhile. */
void ws_runs_forget(struct dmt_ws *ws);
/* Reads [off, off+len) of a view. Lock NOT held. Bytes (clipped to the size) or an error; DMT_E_GONE: given up here. */
ssize_t ws_view_read(struct dmt_ws *ws, uint64_t view, uint64_t ino, void *buf, size_t len, uint64_t off, bool nowait);
int ws_view_link_locked(struct dmt_ws *ws, uint64_t view, const struct dmt_inode *n, char buf[4096]); /* target of a symlink */
bool ws_reserved(uint64_t parent, const char *name); /* .snapshots in the root */
/* All entries of a directory of a view, in cookie order, in memory. Lock NOT held. */
struct ws_entry {
    uint64_t ino;
    uint32_t cookie, type;
    char *name;
};
struct ws_entries {
    struct ws_entry *v;
    size_t n, cap;
};
int ws_list(struct dmt_ws *ws, uint64_t view, uint64_t dir, struct ws_entries *ret); /* sorted by name */
void ws_entries_free(struct ws_entries *e);

/* Paths of many inodes of a view at once ("" = root; NULL = no name); caller frees each and the array. Lock NOT held. */
int ws_paths(struct dmt_ws *ws, uint64_t view, const uint64_t *inos, size_t n, char ***ret);
void ws_paths_free(char **paths, size_t n);

/* --- diff.c: what differs between two views --------------------------------------------------------------------------------- */
struct ws_dnode { /* an inode that changed in between */
    uint64_t ino;
    bool in_a, in_b; /* exists there with a name */
    struct dmt_inode a, b;
};
struct ws_dname { /* a directory entry that is not the same in both */
    uint64_t dir, ino_a, ino_b; /* 0 = not there */
    char *name;
};
struct ws_delta {
    uint64_t va, vb;
    struct ws_dnode *nodes;
    size_t n_nodes, cap_nodes;
    struct ws_map index; /* ino -> place in nodes + 1 */
    struct ws_dname *names;
    size_t n_names, cap_names;
};
/* A checkpoint must have covered both views. Lock NOT held; blocks. */
int ws_delta_make(struct dmt_ws *ws, uint64_t a, uint64_t b, struct ws_delta *ret);
void ws_delta_free(struct ws_delta *d);
struct ws_dnode *ws_delta_node(const struct ws_delta *d, uint64_t ino);
int ws_delta_name(struct ws_delta *d, uint64_t dir, const char *name, uint64_t ino_a, uint64_t ino_b);
/* Do a file's bytes differ between (a, ino_a) and (b, ino_b)? 1, 0, < 0. */
int ws_content_differs(struct dmt_ws *ws, uint64_t a, const struct dmt_inode *na, uint64_t b, const struct dmt_inode *nb);
int ws_xattrs_differ(struct dmt_ws *ws, uint64_t a, uint64_t ino_a, uint64_t b, uint64_t ino_b);
/* Reports the delta sorted by path; inside: NULL-terminated paths that limit it, or NULL. Returns how many or < 0. */
int ws_delta_report(struct dmt_ws *ws, const struct ws_delta *d, const char *const *inside, dmt_diff_fn fn, void *ctx,
                    uint64_t *ret_n);
/* Path of each name's directory in one of the views, as ws_paths gives them; d->n_names of them. */
int ws_delta_dirs(struct dmt_ws *ws, const struct ws_delta *d, uint64_t view, char ***ret);
bool ws_path_inside(const char *path, const char *const *inside);
/* All xattrs of an inode of a view, sorted by name. Lock NOT held. */
struct ws_xattr {
    char *name;
    uint8_t *val;
    size_t len;
};
struct ws_xattrs {
    struct ws_xattr *v;
    size_t n, cap;
};
int ws_xattrs(struct dmt_ws *ws, uint64_t view, uint64_t ino, struct ws_xattrs *ret);
void ws_xattrs_free(struct ws_xattrs *x);

/* snapshot.c. Lock held: logs SNAP; -EEXIST. */
int ws_snap_log(struct dmt_ws *ws, const char *name, const char *note, struct dmt_snapshot *ret);
/* Makes bulk bytes durable and stops writers until let_go. Lock NOT held; blocks. */
int ws_snap_hold(struct dmt_ws *ws);
void ws_snap_let_go(struct dmt_ws *ws);
int ws_flush_mmap(struct dmt_ws *ws, struct dmt_err *err); /* lock NOT held */

/* --- ack.c, checkpoint.c ---------------------------------------------------------------------------------------------------- */
void ws_acks_evaluate(struct dmt_ws *ws);
void ws_acks_fail(struct dmt_ws *ws, int err);
void ws_on_durable(void *ctx, uint64_t durable_seq, int err);
/* By-reference data of ino (0 = all) durable, MARKs logged. Lock NOT held; blocks. *ret_seq = last MARK or the tail. after_crash:
 * files that were given up at an earlier settling may be absent. */
int ws_bulk_sync(struct dmt_ws *ws, uint64_t ino, bool after_crash, uint64_t *ret_seq);
int ws_ckpt_start(struct dmt_ws *ws);
void ws_ckpt_stop(struct dmt_ws *ws);
void ws_ckpt_nudge(struct dmt_ws *ws);
/* One checkpoint from the calling thread. */
int ws_ckpt_now(struct dmt_ws *ws, bool patient, struct dmt_err *err);
bool ws_layer_worth(struct dmt_ws *ws); /* enough in the dirty layer for a checkpoint that is in no hurry? Lock held */
bool ws_layer_full(struct dmt_ws *ws, uint64_t times); /* dirty layer over `times` its limit? Lock held */
void ws_wait_room(struct dmt_ws *ws); /* waits for `unheld`, at most 100 ms; lock released meanwhile */

#endif
