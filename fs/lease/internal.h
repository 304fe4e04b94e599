/* internal.h: the driver of fs/lease, shared by its files: lease.c (life, the lease thread), gate.c (the gate), io.c (the
 * lease-io thread, node.state), ping.c (channels, lease-dial), arbiter.c (lease-arb).
 *
 * Locks, each a leaf: `lock` (event queue, status, dial target, handed-over channels), `gate.lock`, `io.lock`, `arb.lock`.
 * No op is called under one. */
#ifndef DMT_LEASE_INTERNAL_H
#define DMT_LEASE_INTERNAL_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include "fs/base/list.h"
#include "fs/base/thread.h"
#include "fs/lease/arbiter.h"
#include "fs/lease/bucket.h"
#include "fs/lease/core.h"

#define LEASE_CHANNELS_MAX 4

struct lease_channel {
    int fd;              /* -1: free */
    struct dmt_tls *tls; /* NULL: plain */
    struct dmt_buf in;
    bool known, dialled; /* hello received / we dialled it */
    struct lease_id peer;
    uint8_t lineage[16]; /* as its hello said */
    uint64_t instance;
    uint64_t heard_ns, said_ns;
};

struct lease_gate_box {
    atomic_int mode; /* enum lease_gate_mode */
    atomic_uint_fast64_t deadline_ns;
    atomic_bool waited; /* somebody was told to wait since the last gate_changed */
    pthread_mutex_t lock;
    uint64_t gen, epoch; /* protected by lock, like all below */
    uint8_t peer[16];
    uint64_t acked; /* durable at that store in that epoch */
    uint64_t heard_epoch, heard_durable; /* of the newest acknowledgement, whatever the gate is */
    uint8_t heard[16];
};

struct dmt_lease {
    struct dmt_lease_conf conf; /* strings owned */
    char path[DMT_PATH_MAX];    /* of node.state */
    uint64_t instance;
    struct lease_state *core; /* lease thread only, once started */
    struct lease_actions *acts;
    bool started;
    atomic_bool stop;
    atomic_int state;                 /* enum dmt_lease_state */
    atomic_uint_fast64_t epoch, seen; /* as in the last record written */
    atomic_bool alone;                /* of it */
    struct dmt_lineage lineage;       /* of it, protected by lock */
    struct lease_gate_box gate;

    pthread_mutex_t lock;
    struct dmt_list events; /* struct queued, protected by lock */
    struct dmt_lease_status status;
    uint64_t published_ns; /* when it was */
    char *dial_host;
    uint16_t dial_port;
    bool dialled; /* the dialled channel lives */
    int handed_n;
    struct lease_channel handed[LEASE_CHANNELS_MAX]; /* new channels for the lease thread */
    pthread_cond_t dial_cond;
    int wake_fd;

    struct lease_channel chan[LEASE_CHANNELS_MAX]; /* lease thread only */
    int current;                                   /* channel that we send on, -1 none */

    struct {
        pthread_mutex_t lock;
        pthread_cond_t cond;
        struct dmt_list queue; /* struct io_item */
        bool broken;
    } io;
    struct {
        pthread_mutex_t lock;
        struct lease_ask ask;
        bool pending, beat;
        bool up;
        struct dmt_list words; /* bucket: of the peer, struct word */
        int wake_fd;
    } arb;
    pthread_t thread, io_thread, arb_thread, dial_thread;
    bool set_up; /* lists, locks and threads exist to be ended */
    bool has_io, has_arb, has_dial;
};

/* lease.c */
void lease_post(struct dmt_lease *l, const struct lease_event *e);
void lease_post_send(struct dmt_lease *l, const struct lease_msg *m); /* the lease thread sends it */
uint64_t lease_now(const struct dmt_lease *l);
void lease_wake(int fd);
/* gate.c */
int lease_gate_init(struct lease_gate_box *g);
void lease_gate_apply(struct dmt_lease *l, const struct lease_action *a);
void lease_gate_deadline(struct dmt_lease *l, uint64_t deadline_ns);
/* io.c */
int lease_io_load(struct dmt_lease *l, struct lease_record *ret, struct dmt_err *err);
int lease_io_save(struct dmt_lease *l, const struct lease_record *r);
void lease_io_queue(struct dmt_lease *l, const struct lease_action *a);
void *lease_io_main(void *arg);
/* ping.c */
void lease_ping_send(struct dmt_lease *l, const struct lease_msg *m);
/* Takes new channels, reads what has come, drops what is dead; calls fn for each message. Returns the number of poll entries
 * set. */
int lease_ping_poll(struct dmt_lease *l, struct pollfd *p);
void lease_ping_run(struct dmt_lease *l, void (*fn)(struct dmt_lease *l, const struct lease_event *e));
void lease_ping_close(struct dmt_lease *l);
void *lease_dial_main(void *arg);
/* arbiter.c */
void *lease_arb_main(void *arg);
/* bucket_run.c */
void *lease_bucket_main(void *arg);
void lease_bucket_free(struct dmt_lease *l);
void lease_bucket_word(struct dmt_lease *l, const struct lease_msg *m);
/* A connected stream socket to host:port within timeout_ms, or -errno. */
int lease_connect(const char *host, uint16_t port, int timeout_ms, atomic_bool *stop);

#endif
