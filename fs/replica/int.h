/* int.h: what the files of fs/replica share. Everything here belongs to the loop thread unless a field says otherwise.
 *
 *   replica.c  start, stop, the workspace, tick, status    command.c   the other public functions
 *   net.c      listener, dialler, backoff                 conn.c      one connection: TLS, frames in and out
 *   session.c  hello, messages, actions of the core
 *   sender.c   ordered lane out, acks in, wants, drain     receiver.c  ordered lane in, acks out; rep-sync and applier threads
 *   pull.c     bulk lane, the side that lacks bytes        serve.c     bulk lane, the side that has them
 *   pull_core.c, pull_want.c, lane.c   their decisions
 *   resync.c   state stream out (export thread) and in
 *   branches.c copies of branches, both sides; branch_core.c: its decisions
 */
#ifndef DMT_REPLICA_INT_H
#define DMT_REPLICA_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>
#include "fs/base/list.h"
#include "fs/replica/branch_core.h"
#include "fs/replica/core.h"
#include "fs/replica/lane.h"
#include "fs/replica/rate.h"
#include "fs/replica/replica.h"
#include "fs/replica/wire.h"

#define CONN_PENDING_MAX    16u           /* accepted connections that have not said hello */
#define CONN_GREET_MS       10000u        /* time for TLS and hello */
#define CONN_CTL_MAX        (1u << 20)    /* control frames that wait for the socket */
#define CONN_READ_MAX       (64u << 10)
#define CONN_TLS_RECORD_MAX (5u + 16384u + 256u)
#define DIAL_TIMEOUT_MS     5000u
#define DIAL_BACKOFF_MS     50u           /* first */
#define DIAL_BACKOFF_MAX_MS 5000u
#define SILENCE_MS          10000u
#define TICK_MS             50u
#define COMMIT_GAP_MS       5u            /* between two COMMIT frames of an idle stream */
#define SEND_GAP_MS         2u            /* between two frames of records that nobody waits for */
#define UNSYNCED_MAX        (8u << 20)    /* received bytes that are not on the disk yet; TICK_MS is the time limit */
#define FLIGHTS_MAX         4096u         /* frames under way whose bytes are told apart */
#define APPLY_STEP          4096u         /* records applied between two looks at the target */
#define SERVE_READY_MAX     2             /* chunks read ahead */
#define AUDIT_SAMPLES       64u
#define DISTRUSTED_MAX      2u            /* resyncs that begin from nothing before it is an error */
#define STATE_QUEUE_MAX     (1u << 20)    /* bytes of the state stream in memory, each side */

struct replica_conn {
    struct dmt_list node; /* in r->conns */
    struct dmt_replica *r;
    uv_tcp_t tcp;
    uv_connect_t connect_req;
    uv_write_t write_req;
    struct dmt_tls *tls;
    bool dialled, connected, secure, chosen; /* chosen: the preamble is through */
    bool writing, paused, closing, reading;
    bool hello_wait, hello_posed, hello_sent, hello_got, hello_empty, joined;
    char peer_name[DMT_NODE_NAME_MAX + 1]; /* of the certificate; "" with tls=off */
    struct dmt_buf in;   /* decrypted, not yet taken */
    struct dmt_buf ctl;  /* frames that wait for encryption */
    struct dmt_buf out;  /* on its way to the socket */
    size_t out_at;
    uint8_t *record;     /* one TLS record at a time until the preamble is known */
    size_t record_n;
    uint64_t born_ms, heard_ms;
    struct dmt_pos hello_pos; /* what our HELLO says */
    struct dmt_replica_peer peer;
    struct replica_epoch *peer_epochs; /* REPLICA_EPOCHS_MAX, while greeting */
    int peer_epochs_n;
    unsigned frame_bytes; /* rate.c */
};

struct replica_flight {
    uint64_t last_seq, chain, bytes, sent_ns;
};

struct replica_sender {
    struct dmt_jreader *reader;
    uint64_t serve_upto;         /* > 0: a fetch is served up to this seq */
    uint64_t epoch;              /* of the frames */
    const uint8_t *held;         /* record read but not sent (valid until the next read) */
    size_t held_len;
    struct dmt_rec held_rec;
    bool at_tail;                /* the last look found nothing more */
    bool gap;                    /* pace_timer runs: what nobody waits for is collected */
    uint64_t need_sent;          /* last NEED on this stream */
    uint64_t sent_seq, sent_chain;
    uint64_t verified_seq, verified_chain; /* last position whose chain the peer has stated rightly */
    struct replica_flight *flights;        /* ring */
    unsigned flight_at, flight_n;
    uint64_t flight_bytes;
    uint64_t taken_bytes; /* of the counter of appended bytes; exact from the first time at the tail on */
    bool caught_up;       /* was at the tail once on this stream */
    uint64_t commit_sent, commit_ms;
    struct replica_msg_ACK last_ack;
    uint64_t records;
    struct dmt_buf batch, packed;
    /* drain */
    uint64_t drain_seq, drain_deadline_ms;
    void (*drain_fn)(void *arg, int err);
    void *drain_arg;
};

struct replica_receiver {
    uint64_t holder_durable;
    uint64_t acked_durable, acked_applied, acked_whole; /* as last sent */
    struct { uint64_t seq, chain; } ends[1024];         /* ring: ends of frames that are not durable yet */
    unsigned end_at, end_n;
    uint64_t chain_seq, chain;                          /* newest end that is durable */
    struct dmt_pos tail;                                /* what we have appended on this stream */
    uint64_t unsynced_bytes;                            /* appended since the journal was last asked to sync */
    struct dmt_pos store_upto;                          /* FETCHED: durable and applied up to here, then tell */
    bool storing, ack_due;
    uint64_t free_bytes;
    struct replica_unpack *unpack;
    struct dmt_buf raw;
};

struct replica_serve {
    struct lane_queue queue;
    struct dmt_buf ready[SERVE_READY_MAX]; /* encoded frames, oldest first */
    unsigned ready_n;
    bool reading;
    uint64_t gen;
    double tokens;
    uint64_t tokens_ms;
};

struct replica_resync {
    /* out */
    pthread_t thread;
    bool exporting, joinable;
    pthread_mutex_t lock; /* the rest of this block */
    pthread_cond_t room;
    struct dmt_buf queue;
    size_t queue_at;
    bool finished, abort;
    int err;
    char why[192];
    struct dmt_pos pos;
    struct dmt_diff_size size; /* valid when sized */
    bool sized;
    /* out, loop thread */
    struct dmt_buf list; /* what the standby says it has; the export thread's while it runs */
    uint64_t list_len;
    bool listing;        /* not all of it has come */
    uint64_t sent_off, sent_wire, epoch;
    bool end_sent;
    uint64_t floor, floor_ms; /* dmt_replica_retain from the order until the standby streams; floor_ms 0 = none */
    /* in, loop thread */
    struct dmt_store_conf conf;
    char *dir;
    struct dmt_store_ident ident;
    struct dmt_patch *patch;
    bool importing, opened, feeding, ending;
    struct dmt_buf said;  /* what we have, on its way */
    size_t said_at;
    struct dmt_buf fed;   /* arrived, waiting for the job */
    uint64_t got_off;
    struct dmt_pos end_pos;
    unsigned distrusted;  /* attempts that began from nothing, because the result was wrong */
    /* both, loop thread: bytes of the stream in this attempt, when it began */
    uint64_t total, start_ms;
};

struct replica_audit { /* of the holder */
    uint64_t from; /* when the standby has applied this */
    unsigned left, equal, moved;
    bool busy, asked; /* a job picks one; AUDITED is awaited */
};

struct replica_branches {
    struct branches core;
    struct dmt_buf run;   /* what has come of what we asked for */
    /* what the other side has asked for */
    bool asked;           /* and not all of it is answered */
    char name[DMT_BRANCH_NAME_MAX + 1];
    struct dmt_branch_piece at; /* goes on there; len: so much */
    bool is_ready;        /* the next frame of the answer waits for its turn */
    struct dmt_buf ready;
    uint64_t gen;         /* of the stream */
};

struct dmt_replica {
    struct dmt_replica_conf conf;
    char *workspace, *node, *peer_node;
    struct dmt_loop *loop;
    uv_loop_t *uv;
    uv_async_t poke; /* something below marked "any thread" changed */
    struct dmt_timer *tick, *commit_timer, *pace_timer, *dial_timer;
    unsigned handles; /* uv handles that must be closed before the end */
    bool stopping, failed;
    uint64_t instance;

    struct replica_core core;
    struct dmt_list conns;
    struct replica_conn *conn; /* the session */
    unsigned pending_n;
    struct replica_epoch epochs[REPLICA_EPOCHS_MAX];
    size_t epochs_n;
    struct replica_epoch peer_epochs[REPLICA_EPOCHS_MAX];
    size_t peer_epochs_n;
    uint64_t follow_pending; /* told to follow, waiting for our tail to be durable */

    /* net */
    uv_tcp_t listener;
    bool listening;
    uint16_t port;
    char *dial_host;
    uint16_t dial_port;
    struct replica_conn *dialling;
    uv_getaddrinfo_t resolve_req;
    bool resolving, dial_set;
    uint32_t backoff_ms;
    unsigned dial_turn; /* which of several addresses */
    uint64_t up_ms;

    struct replica_sender sender;
    struct replica_receiver receiver;
    struct replica_pull pull;
    struct replica_serve serve;
    struct replica_resync resync;
    struct replica_audit audit;
    struct replica_branches branches;
    uint8_t *read_buf; /* CONN_READ_MAX */

    struct dmt_ws *ws; /* loop thread's view */
    uint64_t durable, applied; /* as last reported by the threads */

    /* threads; protected by lock */
    pthread_mutex_t lock;
    pthread_cond_t sync_work, apply_work, idle;
    struct dmt_ws *shared_ws;
    bool stop_threads, sync_busy, apply_busy;
    uint64_t sync_target, sync_done, apply_target, apply_done;
    int sync_err, apply_err;
    char apply_why[192];
    unsigned ws_jobs, other_jobs;
    unsigned open_handles; /* copy of handles for dmt_replica_stop */
    pthread_t sync_thread, apply_thread;

    /* any thread */
    atomic_uint_fast64_t appended_seq, appended_bytes, need_seq;
    atomic_uint_fast64_t pub_unacked, pub_taken, pub_peer_free, pub_retain; /* pub_taken: see dmt_replica_unacked_bytes */
    atomic_bool idle_sender; /* the loop wants to be woken by appended() */

    pthread_mutex_t pub_lock; /* leaf: the rest */
    uint8_t pub_store[16];
    struct lane_wants wants;
    struct dmt_replica_status status;

    /* statistics, loop thread */
    uint64_t raw_bytes, wire_bytes, bulk_bytes, state_bytes, branch_bytes, connects, refused;
    uint64_t rate_mark_ms, rate_mark_bytes, rate_bytes_s, rtt_us, ack_us, ping_ms;
    char last_error[192];
};

static inline uint64_t replica_now_ns(const struct dmt_replica *r)
{
    return r->conf.clock->monotonic_ns(r->conf.clock->ctx);
}
static inline uint64_t replica_now_ms(const struct dmt_replica *r)
{
    return replica_now_ns(r) / DMT_MS;
}

/* replica.c */
void replica_event(struct dmt_replica *r, const char *kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void replica_fail(struct dmt_replica *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void replica_handle_closed(struct dmt_replica *r);
void replica_poll(struct dmt_replica *r); /* looks at what threads have left */
void replica_job_start(struct dmt_replica *r, bool uses_ws);
void replica_job_end(struct dmt_replica *r, bool uses_ws);

/* net.c */
int replica_net_start(struct dmt_replica *r, struct dmt_err *err);
void replica_net_stop(struct dmt_replica *r);
void replica_net_dial(struct dmt_replica *r, bool soon); /* makes sure that we dial when there is nobody */
void replica_net_failed(struct dmt_replica *r, const char *why); /* the dialled connection did not become a session */
bool replica_is_loopback(const struct sockaddr *sa);

/* conn.c */
struct replica_conn *replica_conn_new(struct dmt_replica *r, bool dialled);
void replica_conn_connected(struct replica_conn *c);
void replica_conn_send(struct replica_conn *c, const struct replica_msg *m);
void replica_conn_raw(struct replica_conn *c, const void *p, size_t n); /* an encoded frame, or the preamble */
void replica_conn_tick(struct replica_conn *c);
void replica_conn_pump(struct replica_conn *c);
void replica_conn_pause(struct replica_conn *c, bool pause);
/* err 0: nothing is said. Otherwise BYE carries it. */
void replica_conn_close(struct replica_conn *c, int err, const char *text);

/* history.c */
struct dmt_pos replica_tail(struct dmt_replica *r);
enum replica_relation replica_relate(struct dmt_replica *r, const struct dmt_pos *pos, bool empty);
void replica_epochs_add(struct dmt_replica *r, const struct replica_epoch *e);
void replica_epochs_trim(struct dmt_replica *r, uint64_t tail_seq);
int replica_epochs_load(struct dmt_ws *ws, struct replica_epoch *v, size_t *ret_n, struct dmt_err *err);

/* hello.c */
void replica_hello_secure(struct replica_conn *c);
void replica_hello_send(struct replica_conn *c); /* when our tail is durable */
void replica_hello_take(struct replica_conn *c, const struct replica_msg_HELLO *h);
void replica_session_closed(struct replica_conn *c, const char *why);

/* session.c */
void replica_do(struct dmt_replica *r, const struct replica_event *ev);
void replica_session_message(struct replica_conn *c, const struct replica_msg *m);
bool replica_session_fill(struct dmt_replica *r, struct dmt_buf *out); /* next frame of the lanes, by rank */
void replica_session_durable(struct dmt_replica *r); /* what waited for our own disk may go on */
void replica_post_send(struct dmt_replica *r, const struct replica_msg *m); /* on the session, if there is one */

/* sender.c */
void replica_sender_start(struct dmt_replica *r, uint64_t epoch, const struct dmt_pos *after, uint64_t serve_upto);
void replica_sender_stop(struct dmt_replica *r);
bool replica_sender_fill(struct dmt_replica *r, struct dmt_buf *out);
void replica_sender_ack(struct dmt_replica *r, const struct replica_msg_ACK *a);
void replica_sender_have(struct dmt_replica *r, const struct replica_msg_HAVE *h);
void replica_sender_acked(struct dmt_replica *r, uint64_t durable, uint64_t whole);
void replica_sender_commit(struct dmt_replica *r, bool now);
void replica_sender_wants(struct dmt_replica *r);
void replica_sender_drain_check(struct dmt_replica *r, int err);
void replica_sender_tick(struct dmt_replica *r);
void replica_sender_need(struct dmt_replica *r); /* NEED for records that are out already */
void replica_sender_publish(struct dmt_replica *r);
void replica_sender_free(struct dmt_replica *r);

/* receiver.c */
int replica_receiver_init(struct dmt_replica *r);
void replica_receiver_free(struct dmt_replica *r);
void replica_receiver_start(struct dmt_replica *r);
void replica_receiver_stop(struct dmt_replica *r);
void replica_receiver_records(struct dmt_replica *r, const struct replica_msg_RECORDS *m);
void replica_receiver_commit(struct dmt_replica *r, uint64_t durable);
void replica_receiver_need(struct dmt_replica *r, uint64_t seq); /* the holder waits: sync up to seq now */
void replica_receiver_tick(struct dmt_replica *r);
void replica_receiver_moved(struct dmt_replica *r); /* durable or applied */
void replica_receiver_ack(struct dmt_replica *r, bool now);
void replica_receiver_store(struct dmt_replica *r, const struct dmt_pos *upto);
void replica_threads_rebase(struct dmt_replica *r);
void replica_sync_want(struct dmt_replica *r, uint64_t seq);
void replica_apply_want(struct dmt_replica *r, uint64_t seq);
int replica_threads_start(struct dmt_replica *r);
void replica_threads_stop(struct dmt_replica *r);

/* pull.c */
void replica_pull_init(struct dmt_replica *r);
void replica_pull_start(struct dmt_replica *r);
void replica_pull_stop(struct dmt_replica *r);
void replica_pull_free(struct dmt_replica *r);
void replica_pull_tick(struct dmt_replica *r);
void replica_pull_applied(struct dmt_replica *r);
void replica_pull_want(struct dmt_replica *r, uint64_t ino, uint64_t seq);
void replica_pull_bulk(struct dmt_replica *r, const struct replica_msg_BULK *m);
void replica_pull_gone(struct dmt_replica *r, const struct replica_msg_GONE *m);

/* serve.c */
void replica_serve_reset(struct dmt_replica *r);
void replica_serve_read(struct dmt_replica *r);
void replica_serve_pull(struct dmt_replica *r, const struct replica_msg_PULL *m);
bool replica_serve_fill(struct dmt_replica *r, struct dmt_buf *out);
bool replica_serve_tokens(struct dmt_replica *r, size_t bytes); /* may so many bytes go now? (bandwidth) */

/* audit.c */
void replica_audit_begin(struct dmt_replica *r, uint64_t seq);
void replica_audit_tick(struct dmt_replica *r);
void replica_audit_check(struct dmt_replica *r, const struct replica_msg_AUDIT *m);
void replica_audit_result(struct dmt_replica *r, const struct replica_msg_AUDITED *m);

/* branches.c */
void replica_branches_start(struct dmt_replica *r); /* a stream, in either direction */
void replica_branches_stop(struct dmt_replica *r);
void replica_branches_free(struct dmt_replica *r);
void replica_branches_tick(struct dmt_replica *r);
void replica_branches_heard(struct dmt_replica *r, const struct replica_msg_BRANCH *m);
void replica_branches_get(struct dmt_replica *r, const struct replica_msg_BRANCH_GET *m);
void replica_branches_data(struct dmt_replica *r, const struct replica_msg_BRANCH_DATA *m);
void replica_branches_end(struct dmt_replica *r, const struct replica_msg_BRANCH_END *m);
bool replica_branches_fill(struct dmt_replica *r, struct dmt_buf *out);

/* resync.c */
void replica_resync_init(struct dmt_replica *r);
void replica_resync_free(struct dmt_replica *r);
void replica_export_await(struct dmt_replica *r, uint64_t epoch); /* GO: the list follows */
void replica_export_list(struct dmt_replica *r, const struct replica_msg_LIST *m);
void replica_export_stop(struct dmt_replica *r);
bool replica_export_fill(struct dmt_replica *r, struct dmt_buf *out);
void replica_import_prepare(struct dmt_replica *r, const struct dmt_store_conf *conf, const struct dmt_store_ident *ident);
void replica_import_start(struct dmt_replica *r);
bool replica_import_fill(struct dmt_replica *r, struct dmt_buf *out); /* the list of what we have */
void replica_import_stop(struct dmt_replica *r);
void replica_import_data(struct dmt_replica *r, const struct replica_msg_STATE *m);
void replica_import_end(struct dmt_replica *r, const struct replica_msg_STATE_END *m);

#endif
