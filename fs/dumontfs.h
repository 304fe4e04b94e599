/* dumontfs.h: the workspace process from inside (L4). It assembles journal, store, workspace, FUSE, replica, archive and lease
 * into one program; it holds no rule of its own, it only translates what one part says into what another understands.
 *
 *   dumontfs.c           main: arguments, opening, the main queue, stopping
 *   dumontfs_store.c     its store: found, made, switched to, opened
 *   dumontfs_archive.c   its archiver
 *   dumontfs_mount.c     the holder's channel: mount, serve, unmount
 *   dumontfs_view.c      a look at a standby (mount -o ro,standby-view)
 *   dumontfs_gate.c      fs/workspace/gate.h answered from lease and replica
 *   dumontfs_roles.c     what the lease decides: epochs, promotion, losing, resync, handover
 *   dumontfs_peer.c      what the replica reports, told to the lease
 *   dumontfs_bucket.c    arbiter=bucket: the lease's marks in the archive's store
 *   dumontfs_control.c   the control socket: one thread a connection, JSON lines
 *   dumontfs_verbs.c     its commands; dumontfs_wait.c those that wait for others, dumontfs_past.c those that look back
 *   dumontfs_branch.c    branches for people; the branch of bulk that the new holder lacked
 *   dumontfs_lineage.c   the lineage of the store, and `promote --force`
 *   dumontfs_mirror.c    makes one tree equal to another, for what looks back
 *   dumontfs_users.c     who uses the mount that a handover takes away
 *   dumontfs_status.c    status as JSON
 *   dumontfs_events.c    the last things that happened, for the status and the event history
 *
 * Threads: `main` runs posted work one by one (mounting, promotion, resync, stopping): everything that changes which parts exist
 * happens there. Main reads what it alone changes as it likes; how other threads reach a part:
 *   ws                 may be away while a resync replaces it: app_ws_get/app_ws_put (parts that hold a pointer of their own are
 *                      stopped before it goes)
 *   fuse, archiver     come and go with the role: parts_lock held for reading during the use (it prefers readers: a use may be
 *                      long, and may nest in any lock)
 *   replica            made before anything asks for it, freed when every thread that may ask is gone: no lock
 *   lease, pool, ...   made before any other thread, freed after them
 */
#ifndef DMT_DUMONTFS_H
#define DMT_DUMONTFS_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include "fs/archive/archive.h"
#include "fs/base/conf.h"
#include "fs/base/holder_proto.h"
#include "fs/base/limits.h"
#include "fs/base/list.h"
#include "fs/base/thread.h"
#include "fs/base/tls.h"
#include "fs/fuse/fuse.h"
#include "fs/lease/lease.h"
#include "fs/replica/replica.h"
#include "fs/workspace/workspace.h"

#define EVENTS_MAX 64u
struct app_event {
    uint64_t at_ns;
    char kind[32], text[256];
};
struct app_events {
    pthread_mutex_t lock;
    uint64_t last, taken; /* number of the newest line (0: none); up to which the controller has them */
    struct app_event ring[EVENTS_MAX];
};

struct app {
    /* set once by main before any thread starts */
    char name[DMT_WS_NAME_MAX + 1];
    char store_dir[DMT_PATH_MAX];
    int store_lock; /* held until the end, also while no store is open; 0: not yet */
    char mountpoint[DMT_PATH_MAX]; /* where to mount when we hold the workspace; "" = nowhere */
    char node[DMT_NODE_NAME_MAX + 1];
    char archive_url[DMT_PATH_MAX];
    struct dmt_conf *conf;
    bool readonly, standby_role, has_peer, user_mount; /* user_mount: started by mount.dumont, which waits for READY */
    enum dmt_sync_level level;
    uint64_t lag_max, journal_keep;
    struct dmt_store_ident ident;
    uint64_t store_epoch; /* of the last record that the store holds */
    struct dmt_tls_ctx *tls;
    struct dmt_pool *pool;
    int holder_fd;
    atomic_uint resume; /* instance of the mount that we go on with; 0: none, or not any more (main writes) */
    struct dmt_gate gate;

    /* parts; changed on main only */
    pthread_rwlock_t ws_lock; /* guards ws and ident against being replaced */
    struct dmt_ws *ws;
    struct dmt_lease *lease;
    bool lease_runs; /* main only */
    struct dmt_loop *loop;
    struct dmt_replica *_Atomic replica; /* atomic because the workspace, whose gate looks here, is open before it is made */
    pthread_rwlock_t parts_lock; /* guards archiver, fuse, mounted_dir, mounted_dev */
    struct dmt_archiver *archiver;
    struct dmt_fuse *fuse;

    /* the main queue */
    pthread_mutex_t q_lock;
    pthread_cond_t q_cond;
    struct dmt_list q;
    atomic_bool stopping; /* main leaves its loop */
    atomic_bool closing;  /* drained as far as it goes: what still waits at the gate fails */
    int exit_code;

    /* state of the mount (main only, but for the atomics) */
    bool mount_asked, ready_said, holder_lost;
    bool view;                 /* mounted, or asked, as a view of a standby */
    struct view_ask *view_ask; /* who waits for it */
    bool unmounting;           /* the holder was asked to unmount and has not answered */
    atomic_bool mounted, epoch_open;
    atomic_bool closed_mount; /* mounted read-only because of after_promotion=readonly: opened when the lease is */
    atomic_bool resends;  /* the kernel can pass the mount on to a successor */
    char mounted_dir[DMT_PATH_MAX]; /* parts_lock */
    uint64_t mounted_dev;           /* parts_lock; as statx gives it */
    atomic_bool same_boot;      /* our predecessor settled in this boot of the machine: what it wrote is in the page cache */
    atomic_bool own_bulk;     /* we are, or were until now, the holder, and our unsynced bulk data is in the data files */
    atomic_bool bulk_look;    /* a former holder: the new one may have lacked bytes that are here */
    atomic_bool bulk_ailing;  /* that they cannot be kept was told */
    uint64_t bulk_again_ns;   /* main only */
    atomic_bool resync_waits; /* imported; ops.following is to prove it */
    atomic_uint_fast64_t resync_order; /* which it is about; 0: of an earlier process */
    bool resync_begun;        /* at the start: one was under way, the workspace is not open */
    atomic_uint_fast64_t resync_common; /* as the order said */
    atomic_uint_fast64_t peer_durable, peer_whole, archived;
    bool may_stop;        /* under q_lock */
    pthread_cond_t stop_cond;
    char failed_why[256]; /* under q_lock */
    struct app_events events;
    char archive_why[256]; /* under q_lock: why no archiver could be started; "" */
    uint64_t archive_why_ns, archive_retry_ns; /* since when, realtime (q_lock); the next try, monotonic (main only) */
    bool archive_failing;  /* main only: the event of the archiver's trouble was written */
    bool checkpoint_failing; /* the same of a checkpoint */

    /* the control socket */
    int control_fd;
    char control_path[108];
};

/* Queues fn(app, arg) for the main thread. Any thread. */
void app_post(struct app *a, void (*fn)(struct app *a, void *arg), void *arg);
/* Ends the main loop after what is queued; first call decides the exit code. */
void app_stop(struct app *a, int exit_code);
/* Takes the workspace for use on this thread, or NULL while it is away; always followed by app_ws_put when not NULL. */
struct dmt_ws *app_ws_get(struct app *a);
void app_ws_put(struct app *a);

/* dumontfs_store.c */
/* Of our store, with our lock on it. */
struct dmt_store_conf app_store_conf(const struct app *a);
/* main: makes sure there is a store, and reads who it is */
int app_find_store(struct app *a, struct dmt_err *err);
/* main: opens the workspace as holder or follower, as the lease says */
int app_open_ws(struct app *a, struct dmt_err *err);
/* main: the new state that a resync has made takes the old one's place */
int app_switch_store(struct app *a, struct dmt_err *err);
/* STORE/boot_id, main: */
void app_read_boot(struct app *a); /* are we in the boot in which a predecessor settled? */
void app_settled(struct app *a);   /* what an earlier boot left behind is settled */
void app_follows(struct app *a);   /* this store follows another from now on */
/* STORE/whole: switch points at which this machine, then the holder, has all bulk data: one position a line. */
void app_note_whole(struct app *a, uint64_t seq);
bool app_is_whole(struct app *a, uint64_t seq);

/* dumontfs_lineage.c. All that is known of the lineage of the store. */
void app_lineage(struct app *a, struct dmt_lineage *ret);
/* The store becomes one of the lineage that the lease's record names, if it is of an older one. main */
int app_new_lineage(struct app *a, struct dmt_err *err);
void app_split_addr(const char *addr, char host[256], uint16_t *port);
extern const struct dmt_lease_bucket bucket_ops;

/* dumontfs_archive.c */
void app_start_archiver(struct app *a);
void app_stop_archiver(struct app *a);
/* Any thread. False: no archiver runs here. */
bool app_archive_status(struct app *a, struct dmt_archive_status *ret);
bool app_archive_flush(struct app *a);
/* Why there is none, "" if nothing is wrong; since when (realtime). Any thread. */
uint64_t app_archive_error(struct app *a, char text[256]);

/* dumontfs_mount.c */
int mount_start(struct app *a, struct dmt_err *err); /* reader thread of the holder's channel */
/* main: asks the holder to mount if we hold the workspace and it is not mounted */
void mount_try(struct app *a, void *unused);
void mount_undo(struct app *a);                      /* main: stop serving, ask the holder to unmount */
void mount_send(struct app *a, enum dmt_hp_type type, uint32_t flags, const char *dir, const char *options);
void mount_drain(struct app *a);                     /* waits until everything so far may be acknowledged, at most 30 s */
void mount_say(struct app *a, enum dmt_hp_type type, int code, const char *text, const char *hint);
void mount_invalidate(void *ctx, const uint64_t *inos, size_t n, bool all); /* dmt_ws_conf.invalidate */
int mount_flush_mmap(void *ctx);                                              /* dmt_ws_conf.flush_mmap */

/* dumontfs_view.c */
int view_mount(struct app *a, const char *dir, struct dmt_err *err); /* control thread: waits */
/* main: the holder has answered (code 0: it is mounted) */
void view_answer(struct app *a, int code, const char *text, const char *hint);
void view_undo(struct app *a); /* main: before this machine becomes the holder, or its copy goes */

/* dumontfs_gate.c */
void gate_init(struct app *a);

/* dumontfs_roles.c */
extern const struct dmt_lease_ops roles_ops;
bool roles_is_holder(struct app *a);
void roles_say_standby(struct app *a);       /* start as a standby: READY says so */
void roles_tick(struct app *a);              /* main, every second: what the journal must keep */
uint64_t roles_commit(struct app *a);        /* up to here nothing can be truncated: what the archive may upload */
void roles_archived(struct app *a, uint64_t seq);
void roles_stop_begin(struct app *a);        /* main, at the end: tells the other machine, waits */
void roles_fetched(struct app *a, int err);  /* replica -> lease, by way of main */
void roles_imported(struct app *a, int err, const char *why);
void roles_following(struct app *a);

/* dumontfs_branch.c */
void branch_look(struct app *a); /* main: we have lost the role, or start */
/* main, every second: what the new holder lacked is kept as a branch, once its reports are here */
void branch_tick(struct app *a);

/* dumontfs_peer.c */
int peer_start(struct app *a, struct dmt_err *err);
void peer_resync(struct app *a); /* the workspace is closed: take what differs */
void peer_quiet(struct app *a); /* the connection is dropped, the workspace used no more; the gate may still ask */
void peer_stop(struct app *a);  /* nobody asks any more */
bool app_peer_has(struct app *a, uint64_t seq); /* is everything up to seq, bulk included, durable at the standby? */

/* dumontfs_control.c */
int control_start(struct app *a, struct dmt_err *err);
void control_stop(struct app *a);   /* takes no more commands */
void control_join(void);            /* waits for those that run */
void control_remove(struct app *a); /* the very last thing: the socket's absence says that the store is closed */
/* A connection, for commands that report progress. */
struct control;
/* unit: "B" = bytes, or a word; total 0 = unknown. At most ten lines a second are sent. */
void control_progress(struct control *c, const char *what, uint64_t done, uint64_t total, const char *unit);

pid_t control_client(const struct control *c); /* who asks; 0: out of our sight */

/* dumontfs_users.c: those that a handover stopped which did not happen go on. Any thread. */
void users_continue(struct app *a);

/* dumontfs_verbs.c: runs one command; result owned by the caller, or NULL with err set. A thread of its own per connection. */
json_t *verbs_run(struct app *a, struct control *c, const json_t *req, struct dmt_err *err);

/* dumontfs_status.c */
json_t *status_json(struct app *a);

/* dumontfs_events.c: any thread, quick. kind: a word, text: a sentence. */
void events_add(struct app *a, const char *kind, const char *text);
/* The newest line after number n of that kind (NULL: any): its text and number; none: n. n = UINT64_MAX: only the number of the
 * newest line. */
uint64_t events_since(struct app *a, uint64_t n, const char *kind, char *text, size_t size);
void events_status(struct app *a, json_t *o); /* adds events, last_event, last_event_ns */
/* Lines up to number `taken` are in the controller's history: forgets them. The others, oldest first. */
json_t *events_take(struct app *a, uint64_t taken);

#endif
