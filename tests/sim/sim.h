/* sim.h: the deterministic simulator: one world of two nodes, an arbiter, clients and faults under virtual time, made from one
 * seed.
 *
 * Real code in it: the lease core and the replica core of both nodes (fs/lease/core*.c, fs/replica/core.c), the bulk lane's
 * decisions (fs/replica/lane.h), those of settling (fs/workspace/settle.h) and the register's (daemon/controller/decide.c).
 * Modelled: their drivers (queues, delays), journals (records with chain; durable up to a point), connections, disks, clocks. The
 * files, bottom up:
 *
 *   world.c    time, events, random numbers, trace
 *   journal.c  a node's journal and store: append, sync, cut, positions, epochs
 *   files.c    what a node's journal makes: files, whose bulk bytes come later than their records; checkpoints; settling
 *   judge.c    what must hold at every step
 *   judge_files.c   what must hold for files (P2)
 *   wire.c     connections between the nodes: two channels, each direction can fail by itself
 *   peer.c     the driver of the replica core (what fs/replica/session.c, sender.c, receiver.c, resync.c do)
 *   bulk.c     the driver of the bulk lane, both sides (fs/replica/pull.c, serve.c, part of sender.c)
 *   node.c     the driver of the lease core (fs/lease/lease.c, io.c, gate.c) and the node's program (fs/dumontfs_roles.c), client
 *   arbiter.c  the controller
 *   bucket.c   the other arbiter: an object store, and each node's driver of fs/lease/bucket.h
 *   fault.c    what goes wrong
 *   scenario.c planted runs: what losing the arbiter does (R13)
 *   test_sim.c one run, many runs, the program
 *
 * Everything is single-threaded; the same seed gives the same run on every machine. */
#ifndef DMT_SIM_H
#define DMT_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "daemon/controller/decide.h"
#include "fs/lease/bucket.h"
#include "fs/lease/core.h"
#include "fs/replica/core.h"
#include "fs/replica/lane.h"
#include "fs/workspace/gate.h"

#define MS          DMT_MS
#define RUN_NS      (30 * DMT_S) /* so long there are faults */
#define RECS_MAX    4096
#define EPOCHS_MAX  512
#define NODE_EPOCHS 256
#define QUEUE_MAX   32768
#define IO_MAX      256
#define NAMES       4     /* files of a workspace */
#define BLOCKS      8     /* of a file, of BLOCK bytes */
#define BLOCK       (128u << 10)
#define REFS_MAX    2048  /* by-reference writes of a run */
#define OLDS_MAX    512   /* older contents given back in a run */
#define SYNCS_MAX   6     /* calls of a client that wait at once */
#define DUES_MAX    (2 * SYNCS_MAX)
#define LINES_MAX   8     /* lineages of a run; 0: not known */
#define FORCE_SEEDS 1000000000u /* from here on a person may force, too */
#define FORCE_ALL   2000000000u /* and from here on also with bulk data, empty disks and the bucket */
#define WHOLES_MAX  4096  /* acknowledged syncs of files, of a run */

/* --- the journal -------------------------------------------------------------------------------------------------------- */
enum op { OP_PLAIN, OP_CREATE, OP_REF, OP_WRITE, OP_TRUNC, OP_RENAME, OP_UNLINK, OP_MARK, OP_CONTENT, OP_CUT };
struct rec {
    uint64_t epoch, chain;
    uint32_t id;   /* unique in a run */
    uint32_t fork; /* EPOCH record: its switch point + 1; else 0 */
    enum op op;
    uint8_t name, to;  /* CREATE, RENAME, UNLINK */
    uint8_t off, len;  /* in blocks. REF, WRITE; TRUNC, CUT: off is the new size */
    uint32_t ino;
    uint32_t ref;      /* REF: where its bytes are looked for; CONTENT: which older content; MARK: up to this position */
};

/* What a file holds: for each block the position of the record that wrote it; 0: a hole. */
struct content {
    int size;
    int blk[BLOCKS];
};
struct keep { /* fs/store/keep.c */
    bool there;
    bool own; /* the file's own content, which a sync has acknowledged, or may have */
    bool moved;
    uint32_t ino;
    int view;
    struct content c;
};
struct file {
    uint32_t ino; /* 0: there is none of this name */
    bool on_disk, marked; /* a checkpoint knows it; a MARK was about it */
    bool own;  /* what a sync acknowledged was all here, since it was empty */
    bool unsure; /* loaded since it was made or empty: whether a sync has acknowledged something is not remembered */
    bool synced; /* holder: a sync may have acknowledged what it holds since it was empty, and no MARK says so */
    struct content c;
    struct keep keep;   /* what it falls back to */
    struct keep due[DUES_MAX]; /* what may become that, the oldest first: acknowledged, and not all here */
    int due_n;
    int due_skipped;    /* what is not among them, but was */
};
struct files {
    struct file v[NAMES];
    int seq; /* applied */
    bool mine; /* the newest epoch in it was opened by this store */
};
struct old_content {
    uint32_t ino;
    struct content c;
};

/* Of one block of a by-reference write, on one node. */
struct place {
    uint64_t bytes;      /* what can be read there; 0 nothing */
    bool durable;        /* and survives a power cut */
    bool known, known_disk; /* not on the list of what is missing; so does the checkpoint say */
    uint8_t fill;        /* 0; 1 filled in, 2 being synced */
};

/* A call that waits for the gate. */
struct waiting {
    int seq;       /* 0: free place */
    int called;    /* position when it was called */
    uint32_t ino;  /* 0: all files */
    int ref_seq;   /* newest by-reference write it is about; 0: none */
    bool preparing; /* its bytes are being made durable here */
    bool plain;    /* sync=write: a call, not a sync */
};

/* --- what is between the nodes -------------------------------------------------------------------------------------------- */
enum channel { CH_PING, CH_DATA, CHANNELS };
enum msg_kind {
    M_PING,
    M_FIN,  /* the other end has closed */
    M_KEEP, /* the replica's own keepalive */
    M_HELLO,
    M_VERDICT,
    M_EPOCH,
    M_READY,
    M_STREAM,
    M_RECORDS,
    M_ACK,
    M_FETCH,
    M_FETCHED,
    M_ORDER,
    M_GO,
    M_STATE,
    M_BYE,
    M_COMMIT,
    M_WANT,
    M_HAVE,
    M_PULL,
    M_BULK,
    M_GONE,
};
struct msg {
    enum msg_kind kind;
    uint64_t epoch, seq, fork;
    struct dmt_pos pos, at;
    bool flag;
    int err;
    enum replica_relation relation;
    struct lease_msg ping;
    struct dmt_replica_peer *peer; /* HELLO */
    struct replica_epoch *epochs;  /* HELLO */
    struct rec *recs;              /* RECORDS, STATE */
    int n;                         /* of epochs or recs */
    uint64_t durable;              /* RECORDS, COMMIT: of the holder */
    uint64_t whole;                /* ACK */
    struct dmt_missing range;      /* WANT, HAVE (ino, seq); PULL, BULK, GONE */
    uint64_t bytes[BLOCKS];        /* BULK */
};

/* A key of the bucket, taken apart. kind: s(olo) c(laim) y(ield) e(poch) t(est) */
struct object_key {
    char kind;
    uint64_t num;
    int node; /* of epoch/N/NODE; 1: the .b of a test */
    int line; /* below arb/LINEAGE/; 0: a store that has none yet */
};
#define TESTS_MAX 256

/* --- events --------------------------------------------------------------------------------------------------------------- */
enum what {
    W_STEP,    /* the lease core's next time */
    W_MSG,     /* n: channel */
    W_CONNECT, /* somebody dials */
    W_TICK,    /* a node's second */
    W_IO,      /* the lease-io thread takes its next action */
    W_EVENT,   /* something posted to the lease thread: ev */
    W_LOOP,    /* something posted to the replica's loop: rev */
    W_APP,     /* something posted to the node's main thread: n = enum app_op */
    W_FSYNC,
    W_CLIENT,
    W_ASK,     /* a request reaches the arbiter */
    W_ANSWER,  /* ev */
    W_BUCKET,  /* the bucket core's next time */
    W_DATA,    /* a sync has made bytes durable: n: its place in waiting */
    W_PLAN,    /* jobs of the bulk lane: gen */
    W_FILL,
    W_BSYNC,   /* n: number of the sync */
    W_SERVE,   /* bytes are read for the peer */
    W_LANE,    /* the lane's tick */
    W_OBJECT,  /* a PUT or GET of its comes back; n: result */
    W_LAND,    /* a PUT takes effect in the bucket: key */
    W_RESTART, /* n: node */
    W_FAULT,
    W_HEAL, /* n: enum heal */
};
struct item {
    uint64_t at, order;
    enum what what;
    int node;      /* 0, 1; -1: nobody's */
    uint32_t life; /* of that node when this was pushed: another one: dropped */
    uint32_t conn; /* W_MSG */
    uint64_t n, gen;
    struct item *next_free;
    struct msg m;
    struct lease_event *ev;
    struct replica_event rev;
    bool follow; /* W_LOOP: dmt_replica_follow */
    struct object_key key;
    struct lease_ask ask;
    struct lease_id from;
    int line; /* ASK: whose register */
    struct replica_chunk *chunks; /* W_FILL */
    struct replica_served served; /* W_SERVE */
    bool urgent;
};

enum app_op { APP_PROMOTE, APP_LOSE, APP_FETCHED, APP_RESYNC, APP_IMPORTED, APP_DRAIN };

struct greeting { /* a connection of the replica before and after its hellos */
    uint32_t id;  /* 0: none */
    bool posed, sent, got, joined, empty;
    struct dmt_pos pos;
    struct dmt_replica_peer peer;
    uint64_t heard;
};

struct node {
    char name[8];
    bool up, arb_link, stuck; /* stuck: the lease is broken, it needs a restart */
    uint64_t arb_lost;        /* when the arbiter could be reached last; UINT64_MAX: now */
    uint64_t thaw_at;         /* > now: paused */
    uint32_t life;
    uint64_t off; /* its clock: off + now * rate */
    double rate;
    uint64_t full_until;
    /* disk */
    struct lease_record disk; /* node.state */
    struct rec j[RECS_MAX];
    int tail, durable, oldest; /* what is before `oldest` is only in the store, not in the journal any more */
    struct replica_epoch ep[NODE_EPOCHS];
    int ep_n;
    struct dmt_lineage lin, import_lin; /* of the store; of what is imported */
    bool has_ws, empty; /* empty: a new standby's store, without lineage */
    uint32_t jgen;      /* changes with each cut: a sync that was under way says nothing then */
    bool fsyncing;
    struct files f, ckpt;
    struct place place[REFS_MAX][BLOCKS];
    bool unsettled; /* what is missing may really be: lost with the power, or another's */
    bool own_bulk, settled; /* this process: its own bytes are here; first epoch opened */
    /* bucket driver */
    struct bucket_record bk_disk;
    struct bucket_state bk;
    struct object_key bk_key; /* of the operation that is outstanding */
    bool bk_put;
    uint64_t bk_next, bk_told; /* bk_told: when its record changed last */
    uint32_t bk_gen;           /* it began anew, in another lineage: answers to what it asked before are nobody's */
    /* lease driver */
    struct lease_state s;
    uint64_t next_step, ev_at, loop_at, app_at;
    struct lease_action *io[IO_MAX];
    int io_n;
    bool io_busy;
    enum lease_gate_mode mode;
    uint64_t gen, gate_epoch, acked, deadline;
    uint8_t gate_peer[16];
    uint64_t heard_epoch, heard_durable; /* newest acknowledgement */
    uint8_t heard_store[16];
    uint32_t ping_conn;
    uint8_t ping_line; /* lineage that the other one's hello named; 0: none yet */
    uint64_t ping_heard;
    /* replica driver */
    struct replica_core rc;
    struct greeting g;
    struct replica_epoch peer_ep[NODE_EPOCHS];
    int peer_ep_n;
    uint64_t follow_pending;
    bool streaming, importing, storing, resync_waits;
    int sent, serve_to, store_to, acked_durable;
    uint64_t stream_epoch;
    struct replica_pull pull;
    struct lane_wants wants;
    struct lane_queue serve;
    bool serving;
    uint64_t serve_gen, holder_durable, commit_sent, acked_whole;
    /* program */
    bool opened;
    uint64_t write_epoch; /* of the records that are written now */
    struct lease_action app; /* what was decided last, for APP_PROMOTE, APP_LOSE */
    struct rec *import;
    int import_n;
    bool frozen_drain;
    uint64_t resync_order, resync_next; /* under way; ordered last */
    struct waiting waiting[SYNCS_MAX];
};

enum fault_kind {
    F_LINK,
    F_ONEWAY,
    F_RESET,
    F_ISLAND,
    F_ARB_LINK,
    F_ARB_AWAY,
    F_KILL,
    F_POWER,
    F_PAUSE,
    F_HANDOVER,
    F_DISK,
    F_FULL,
    F_STOP,
    F_OPERATOR,
    F_TRIM,
    F_SPOT,
    F_FENCE,
    F_KINDS
};

struct opened {
    uint64_t epoch;
    int node, fork, line;
    uint8_t store[16];
    int hist_n;            /* history at the opening, its own record included */
    const uint64_t *chain; /* of each of these positions */
    int log_n;             /* records of this epoch: chains by number */
    uint64_t *log;
    int acker; /* -1 none */
};

/* What was ever acknowledged in a lineage: a prefix of everything later in it. */
struct ledger {
    uint64_t chain[RECS_MAX];
    uint64_t epoch[RECS_MAX]; /* the lowest in which it was */
    uint8_t on[RECS_MAX];     /* bit i: node i had it on its disk then */
    int n;
};

struct world {
    uint64_t now, order, seed, rnd;
    struct node n[2];
    struct item *heap[QUEUE_MAX];
    int heap_n;
    struct item *held[2][QUEUE_MAX / 8]; /* to node i, on a direction that is down */
    int held_n[2];
    bool dir[2]; /* messages to node i get through */
    uint32_t conn_next;
    uint64_t fifo[2][CHANNELS];
    /* this run's character */
    uint32_t weight[F_KINDS];
    uint64_t fault_every, think, fsync_max, delay_max, bulk_ns;
    uint32_t lossy; /* pings: 1 in so many lost, doubled or late; 0 none */
    bool block, disks, all_sync, bulk;
    enum dmt_sync_level level;
    bool calm; /* a scenario: nothing is lost or late by chance */
    /* arbiter */
    struct lease_register regs[LINES_MAX]; /* one for each lineage */
    bool over[LINES_MAX];                  /* the controller knows that another was forced out of it */
    int lines, named;                      /* newest; the one that its name means */
    bool forces;
    uint64_t heard[2];
    bool heard_dead[2], arb_up;
    bool bucket; /* the arbiter of this run */
    struct {
        bool solo[EPOCHS_MAX], claim[EPOCHS_MAX], yield[EPOCHS_MAX], note[2][EPOCHS_MAX];
    } marks[LINES_MAX];
    struct object_key tests[TESTS_MAX];
    unsigned tests_n;
    /* judge */
    bool healed, plain_off, disk_lost;
    bool founder_lost; /* the disk of who began a lineage, before the other one was of it */
    uint32_t next_id, next_ref, next_old;
    struct old_content old[OLDS_MAX];
    struct { /* syncs of files that were acknowledged */
        uint32_t ino;
        int seq;
        uint64_t chain, epoch;
        int only; /* node that it binds (sync=local), -1: both */
        uint8_t lines; /* bit i: it binds who opens an epoch in lineage i */
        uint8_t on;    /* bit i: node i had its bytes, too, and has not been given another state since */
        uint8_t store[16]; /* of that node */
    } whole[WHOLES_MAX];
    int whole_n;
    struct { /* sync=local: what a node has acknowledged on its own disk */
        int n;
        uint64_t chain, epoch;
        uint8_t store[16];
    } alone_ack[2];
    struct ledger ledger[LINES_MAX];
    struct opened opened[EPOCHS_MAX];
    int opened_n;
    uint64_t last_ack, ack_gap; /* longest between two acknowledgements */
    uint64_t candidate_at, decided_at; /* first time that a PROMOTE was asked, and that its answer was known */
    uint8_t serial;
    char bad[400];
};
extern struct world w;

struct totals {
    uint64_t bulk_runs, refs, bulk_acks, pulled, gone, fell_back, cut, lost_local;
    uint64_t runs, steps, acks, plains, promotions, pairs, solos, handovers, resyncs, branches, faults, restarts;
    uint64_t forced, lines_left; /* a store has changed lineage by a resync */
};
extern struct totals total;
extern bool tracing;

/* world.c */
uint64_t rnd(uint64_t n);
bool one_in(uint32_t n);
void bad(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
struct item *push(uint64_t at, enum what what, int node);
struct item *next_item(void);
void put_back(struct item *it);
void item_free(struct item *it);
uint64_t local(const struct node *n);
struct node *other(struct node *n);
int idx(const struct node *n);
bool usable(const struct node *n);
int line_of(const struct node *n); /* lineage that its record names; a new standby: the one of its name */
const char *epoch_text(uint64_t epoch);

/* journal.c */
struct dmt_pos pos_of(const struct node *n, int seq);
enum replica_relation relate(const struct node *n, const struct dmt_pos *p, bool empty);
bool journal_append(struct node *n, uint64_t epoch, bool opens, const struct rec *what);
bool journal_receive(struct node *n, const struct rec *r);
void journal_cut(struct node *n, int keep);
void journal_clear(struct node *n);
void journal_forget(struct node *n);
void journal_sync(struct node *n);
void fsync_soon(struct node *n);
void new_store(struct node *n);

/* files.c */
const struct rec *rec_at(const struct node *n, int seq);
void files_apply(struct node *n, int upto);
void files_say(const struct node *n, const struct rec *r);
void files_wrote(struct node *n, const struct rec *r);
void files_checkpoint(struct node *n);
void files_reload(struct node *n, int upto);
void files_forget_syncs(struct node *n);
bool files_can_cut(const struct node *n, int keep);
void files_import(struct node *n);
void files_clear(struct node *n);
void files_power(struct node *n);
bool files_missing(const struct node *n, const struct file *f, int b);
int files_missing_next(void *ctx, uint64_t ino, uint64_t off, struct dmt_missing *ret);
bool files_covers(void *ctx, uint64_t ino, uint64_t seq);
void files_fill(struct node *n, const struct dmt_missing *m, const uint64_t *bytes);
void files_fill_begin(struct node *n);
void files_fill_end(struct node *n);
bool files_unmarked(const struct node *n, uint32_t ino);
void files_data_durable(struct node *n, uint32_t ino);
int files_ref_seq(const struct node *n, uint32_t ino);
bool files_mark(struct node *n, uint32_t ino, int upto);
bool files_end_generation(struct node *n, uint32_t ino);
bool files_settle(struct node *n, uint64_t epoch);
bool files_take_up(struct node *n, uint64_t epoch);
void files_keep_own(struct node *n);
struct file *files_of(struct files *f, uint32_t ino);
void files_logic(struct files *f, const struct rec *r, int seq);
uint64_t bytes_of(uint32_t id, int b);

/* judge_files.c */
void judge_known(const struct node *n, int seq, int b);
void judge_files_forced(const struct node *n, int from);
void judge_files_paired(const struct node *n);
void judge_files_replaced(const struct node *n);
void judge_whole(const struct node *n, const struct waiting *q);
void judge_settled(const struct node *n, const struct files *before, const struct files *was, int upto);
void judge_files_end(void);

/* bulk.c */
void bulk_init(struct node *n);
void bulk_receive(struct node *n);
void bulk_stop(struct node *n);
void bulk_stream(struct node *n, bool on);
void bulk_applied(struct node *n);
void bulk_commit(struct node *n);
void bulk_wants(struct node *n);
bool bulk_have(struct node *n, uint32_t ino, int ref_seq);
bool bulk_message(struct node *n, struct msg *m);
void bulk_item(struct node *n, struct item *it);
void bulk_end(struct node *n);

/* judge.c */
void judge_opened(struct node *n, uint64_t epoch);
void judge_forced(struct node *n, int from);
void judge_disk(const struct node *n);
void judge_record(const struct node *n, int at);
void judge_ack(struct node *n, const struct waiting *q);
void judge_plain(struct node *n);
void judge_cut(const struct node *n, int keep);
void judge_resync(const struct node *n);
void judge_record_written(const struct node *n, const struct lease_record *next);
void judge_candidate(const struct node *n);
void judge_bucket_record(const struct bucket_record *next);
void judge_register(const struct lease_register *was, const struct lease_register *next);
void judge_end(void);
void judge_free(void);

/* wire.c */
void wire_send(struct node *from, enum channel ch, const struct msg *m);
void wire_try(void);
void wire_deliver(struct node *n, struct item *it);
void wire_close(struct node *n, enum channel ch, bool tell);
void wire_direction(int to, bool up);
void wire_drop_held(void);
uint32_t *wire_conn(struct node *n, enum channel ch);

/* peer.c */
void peer_do(struct node *n, const struct replica_event *ev);
void peer_connected(struct node *n, uint32_t conn);
void peer_closed(struct node *n);
void peer_message(struct node *n, struct msg *m);
void peer_loop(struct node *n, const struct item *it);
void peer_appended(struct node *n);
void peer_durable(struct node *n);
void peer_ack(struct node *n, bool always);
void peer_ws(struct node *n, bool has);
void peer_start(struct node *n, bool holder);
struct replica_event *peer_post(struct node *n, enum replica_event_type type);
void peer_post_follow(struct node *n, uint64_t epoch);

/* node.c */
void feed(struct node *n, struct lease_event *e);
void feed_type(struct node *n, enum lease_ev type);
struct lease_event *post(struct node *n, enum lease_ev type);
void app_post(struct node *n, enum app_op op, uint64_t most);
void node_acked(struct node *n, const uint8_t store[16], uint64_t epoch, uint64_t durable, uint64_t whole);
void node_io(struct node *n);
void node_app(struct node *n, enum app_op op);
void node_client(struct node *n);
void node_synced(struct node *n);
void node_data(struct node *n, int i);
void node_start(struct node *n);
void node_stop(struct node *n, bool power);
void node_break_down(struct node *n, const char *why);
void node_restart_soon(struct node *n, uint64_t after);

/* arbiter.c */
void arbiter_ask(struct node *n, const struct lease_ask *q);
void arbiter_take(const struct item *it);
void arbiter_beat(struct node *n);
void arbiter_links(void);

/* bucket.c */
void object_ask(struct node *n, const struct lease_ask *q);
void object_start(struct node *n);
void object_lineage(struct node *n);
void object_feed(struct node *n, struct bucket_event *e);
void object_done(struct node *n, const struct item *it);
void object_land(const struct object_key *k);

/* scenario.c */
bool scenarios(const char *only);

/* test_sim.c */
void run_set_up(uint64_t seed, bool calm);
void run_advance(uint64_t until);
bool run_end(void);

/* fault.c */
void fault_character(bool quiet);
void fault_strike(void);
void fault_unfence(struct node *n);
void fault_heal(uint64_t what);
void fault_heal_all(void);

#endif
