/* internal.h: the controller from inside. server.c: life, connections, lines; arbiter.c: requests to the register,
 * heartbeats, death; join.c: certificates; view.c: what the API shows. One lock guards everything here, the database
 * included; nothing waits for the network under it (lines are queued). */
#ifndef DMT_DAEMON_CONTROLLER_INTERNAL_H
#define DMT_DAEMON_CONTROLLER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include "daemon/common/tlsline.h"
#include "daemon/controller/controller.h"
#include "daemon/controller/db.h"
#include "fs/base/list.h"

#define CTL_AGENT_SILENT_NS (5ull * 1000000000ull)

enum ctl_kind { CTL_NEW, CTL_WORKSPACE, CTL_AGENT };

/* So many at once, and one more a second. */
struct ctl_rate {
    int left;
    uint64_t at_ns;
};

struct ctl_conn {
    struct dmt_list link;
    struct ctl *c;
    int fd; /* until the handshake is done */
    struct tlsline *line;
    enum ctl_kind kind;
    char node[DMT_NODE_NAME_MAX + 1]; /* "": a guest, who has shown no certificate */
    char from[64];                    /* address of the other side */
    bool answered;                    /* a guest's one line */
    uint64_t heard_ns;
    /* workspace processes */
    char workspace[DMT_WS_NAME_MAX + 1];
    char lineage[33]; /* "" : not known yet (a new standby) */
    struct lease_id id;
    uint64_t instance;
    /* agents */
    json_t *status; /* {"workspaces":{NAME:{...}}} */
};

/* What was heard of a workspace process, also after its connection ended. */
struct ctl_heard {
    struct dmt_list link;
    char lineage[33], workspace[DMT_WS_NAME_MAX + 1];
    struct lease_id id;
    uint64_t instance, at_ns;
    bool dead;
};

struct ctl_waiter {
    struct dmt_list link;
    uint64_t id;
    struct ctl_conn *conn; /* of the agent asked; NULL: it is gone */
    json_t *answer;
};

struct ctl {
    pthread_mutex_t lock;
    pthread_cond_t answered, idle;
    struct ctl_db *db;
    struct dmt_tls_ctx *tls;
    int listen_fd;
    pthread_t accept_thread;
    atomic_bool stop;
    struct dmt_list conns, heard, waiters; /* protected by lock */
    int conns_n;
    uint64_t next_id, alarm_ns;
    struct ctl_rate attempts, logged; /* to join; lines about who was refused */
    char ca[DMT_PATH_MAX], ca_key[DMT_PATH_MAX];
    int64_t cert_life_s;
    uint64_t own_ns; /* next look at our own certificate; ctl-accept only */
};

uint64_t ctl_now(void);
/* arbiter.c, all under the lock */
int ctl_workspace_hello(struct ctl_conn *k, const json_t *v);
int ctl_workspace_line(struct ctl_conn *k, const json_t *v);
void ctl_on_death(struct ctl_conn *k, const json_t *v);
void ctl_process_dead(struct ctl *c, struct ctl_heard *h, const char *how);
/* join.c. A line of who has shown no certificate; a node asks for a new one; the controller's own (thread ctl-accept, without
 * the lock); whether one more is allowed. */
int ctl_guest_line(struct ctl_conn *k, const json_t *v);
void ctl_renew(struct ctl_conn *k, const json_t *v);
void ctl_own_certificate(struct ctl *c);
bool ctl_take(struct ctl_rate *r, int burst);
/* Register's lineage of a connection: its own, or by name for one that has none yet. */
bool ctl_lineage(struct ctl *c, const struct ctl_conn *k, char ret[33]);

#endif
