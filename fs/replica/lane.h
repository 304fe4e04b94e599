/* lane.h: the decisions of the bulk lane, both sides, as pure code: no I/O, no clock, no thread; only their own memory.
 *
 *   pull_core.c  the side that lacks bytes: what to ask for, in which order, what an answer is worth, when to make it durable
 *   pull_want.c  and when it may be called had
 *   lane.c       the side that has them: what syncs wait for, and in which order ranges are served
 *
 * Drivers: pull.c, serve.c, sender.c; and tests/sim, where they run against each other with everything else. */
#ifndef DMT_REPLICA_LANE_H
#define DMT_REPLICA_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/base/list.h"
#include "fs/store/store.h"

#define WANTS_MAX           256u          /* files that syncs wait for, told apart */
#define PULLS_MAX           512u          /* ranges asked for and not answered */
#define PULL_LEN_MAX        (256u << 10)
#define PULL_WINDOW_BYTES   (4u << 20)
#define FILLED_SYNC_BYTES   (16u << 20)   /* filled bytes before they are made durable */
#define ASKS_MAX            8192u
#define PLAN_ROWS_MAX       8192u         /* missing rows looked at for one plan */
#define PLAN_INOS_MAX       1024u
#define HULLS_MAX           4096u         /* files that one WANT of everything waits for, told apart */
#define HULL_ROWS_MAX       2048u         /* rows looked at to find the end of a hull */
#define WAITING_MAX         512u
#define GONE_HOLD_MS        1000u

/* --- pull_core.c, pull_want.c: the side that lacks bytes ------------------------------------------------------------------ */

/* What the core asks of its driver. plan, sync and fill answer later, with the gen they were given: pull_planned, pull_synced,
 * pull_filled. pull and have send; the connection may end in them (connected). */
struct replica_chunk;
struct pull_ops {
    bool (*connected)(void *ctx);
    int (*missing_next)(void *ctx, uint64_t ino, uint64_t off, struct dmt_missing *ret); /* as dmt_store_missing_next */
    bool (*covers)(void *ctx, uint64_t ino, uint64_t seq);                               /* as dmt_store_keep_covers */
    void (*pull)(void *ctx, const struct dmt_missing *m, bool urgent);
    void (*have)(void *ctx, uint64_t ino, uint64_t seq);
    void (*plan)(void *ctx, uint64_t gen); /* of pull_plan, made anywhere */
    void (*sync)(void *ctx, uint64_t gen, uint64_t no);
    void (*fill)(void *ctx, uint64_t gen, struct replica_chunk *list);
};

enum replica_ask_state { ASK_OUT, ASK_ARRIVED, ASK_FILLED, ASK_GONE };
struct replica_ask { /* a range asked for, until its row is gone from the list of what is missing */
    struct dmt_list bucket, all;
    uint64_t ino, off, len, seq;
    uint64_t got, filled;     /* bytes arrived, from off, and filled in */
    uint64_t until, until_ms; /* ASK_GONE: asked again when applied and clock are past these */
    uint64_t sync_no;         /* ASK_FILLED: the first sync started after that covers it */
    bool urgent;
    enum replica_ask_state state;
};
struct replica_hull { /* all that is missing of ino (0: of anything) before hi must come */
    uint64_t ino, hi;
};
struct replica_waiting { /* a WANT of the peer; or our own, that moves `whole` */
    struct dmt_list node;
    uint64_t ino, seq;
    bool started, own;
    struct replica_hull *hulls;
    size_t n;     /* done from the end */
    uint64_t off; /* asked for, of the last hull */
};
struct replica_chunk {
    struct replica_chunk *next;
    struct dmt_missing m;
    struct replica_ask *ask; /* valid while the stream is the same */
    uint8_t data[];
};
struct replica_plan_ino {
    uint64_t ino, bytes;
};
struct replica_pull {
    const struct pull_ops *ops;
    void *ctx;
    uint64_t now_ms, applied; /* as told last */
    bool on;
    uint64_t gen; /* of the stream: results of jobs of an older one are dropped */
    struct dmt_list buckets[256];
    struct dmt_list asks;
    size_t asks_n, outstanding_n, urgent_n; /* urgent_n: urgent ones that are not filled */
    uint64_t outstanding_bytes, filled_bytes;
    struct dmt_list waiting;
    size_t waiting_n, wanted_n; /* wanted_n: of the peer */
    struct replica_plan_ino *plan;
    size_t plan_n, plan_at;
    uint64_t plan_off, plan_ms;
    bool planning, plan_stale;
    struct replica_chunk *arrived, **arrived_tail;
    bool filling;
    uint64_t sync_no, synced_no; /* syncs started, of all streams; the newest that succeeded */
    uint64_t dirty_no;           /* what an earlier stream filled in is durable when this one has */
    unsigned fill_jobs;          /* running, of all streams */
    bool sync_job;               /* one is running, of whatever stream: two at a time are not allowed */
    uint64_t whole;
};

void pull_init(struct replica_pull *p, const struct pull_ops *ops, void *ctx);
void pull_start(struct replica_pull *p, uint64_t applied, uint64_t now_ms); /* the stream begins */
void pull_stop(struct replica_pull *p);
void pull_tick(struct replica_pull *p, uint64_t now_ms);
void pull_applied(struct replica_pull *p, uint64_t applied, uint64_t now_ms); /* that, or the list, has changed */
int pull_want(struct replica_pull *p, uint64_t ino, uint64_t seq, uint64_t now_ms); /* WANT came. -EPROTO: too many */
/* BULK came: the ask that these bytes answer, or NULL: nobody asked for them. Then pull_arrived takes the chunk. */
struct replica_ask *pull_asked(struct replica_pull *p, uint64_t ino, uint64_t off, uint64_t len, uint64_t seq);
void pull_arrived(struct replica_pull *p, struct replica_ask *a, struct replica_chunk *c, uint64_t len);
/* GONE came: m is what is left of the range; tail: the record that replaced it lies before. -EPROTO: not asked for. */
int pull_gone(struct replica_pull *p, const struct dmt_missing *m, uint64_t tail, uint64_t now_ms);
/* Which files first: fills v (PLAN_INOS_MAX), returns how many. Only ops->missing_next is called. */
size_t pull_plan(const struct pull_ops *ops, void *ctx, struct replica_plan_ino *v);
/* The answers; each takes what it is given. true: it was of the stream that runs now. After pull_synced of the present stream
 * the driver calls pull_applied. */
void pull_planned(struct replica_pull *p, uint64_t gen, struct replica_plan_ino *v, size_t n, uint64_t now_ms);
bool pull_filled(struct replica_pull *p, uint64_t gen, struct replica_chunk *list, int rc);
bool pull_synced(struct replica_pull *p, uint64_t gen, uint64_t no, int rc);

/* --- lane.c: the side that has them --------------------------------------------------------------------------------------- */

struct replica_served { /* a range the peer asked for */
    uint64_t ino, off, len, seq;
};
struct lane_queue { /* two rings; [1]: urgent */
    struct replica_served v[2][PULLS_MAX];
    unsigned at[2], n[2];
};
void lane_clear(struct lane_queue *q);
/* false: more than agreed */
bool lane_push(struct lane_queue *q, const struct replica_served *want, bool urgent);
bool lane_next(struct lane_queue *q, struct replica_served *ret, bool *urgent);
void lane_rest(struct lane_queue *q, const struct replica_served *rest, bool urgent); /* of what lane_next gave */

struct replica_want {
    uint64_t ino, want, have, sent;
    uint64_t asked_ms;
    bool used;
};
struct lane_wants { /* what syncs wait for, and what the peer has said of it on this stream */
    struct replica_want v[WANTS_MAX];
    uint64_t durable, whole;
    bool streaming, ask; /* ask: a want is new */
};
void lane_stream(struct lane_wants *t, bool streaming); /* a stream begins or ends: what was said on it counts no more */
/* Has the peer the by-reference bytes of ino (0: all files) up to ref_seq, durably? If not, that is wanted from now on; *wake:
 * lane_collect has something to say. */
bool lane_have(struct lane_wants *t, uint64_t ino, uint64_t ref_seq, uint64_t now_ms, bool *wake);
/* What is to be asked of the peer now (its records are out up to sent_seq); ret: WANTS_MAX */
unsigned lane_collect(struct lane_wants *t, uint64_t sent_seq, struct replica_want *ret);
void lane_got(struct lane_wants *t, uint64_t ino, uint64_t seq); /* HAVE came */
uint64_t lane_acked(struct lane_wants *t, uint64_t durable, uint64_t whole); /* ACK came; returns whole */

#endif
