/* internal.h: the agent from inside. agent.c: life, commands; supervise.c: finds and starts workspace processes (thread
 * agent-scan), notices their end (thread agent-watch); link.c: the connection to the controller (thread agent-link). */
#ifndef DMT_DAEMON_AGENT_INTERNAL_H
#define DMT_DAEMON_AGENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include "daemon/agent/agent.h"
#include "daemon/common/tlsline.h"
#include "fs/base/limits.h"
#include "fs/base/list.h"
#include "fs/base/thread.h"

/* A workspace process that was seen on this machine, or whose holder we have started. */
struct agent_ws {
    struct dmt_list link;
    char name[DMT_WS_NAME_MAX + 1];
    json_t *status;      /* last answer of its control socket */
    uint64_t instance;   /* of the process, as it says itself */
    uint64_t taken;      /* its events up to this number are in the controller's history */
    pid_t holder;        /* its parent; 0 unknown */
    int pidfd;           /* of the holder, -1 none */
    pid_t child;         /* holder that we started and have to reap; 0 none */
    uint64_t started_ns; /* last start by us */
    unsigned failures;   /* starts in a row that ended soon */
};

struct agent {
    char node[DMT_NODE_NAME_MAX + 1];
    char controller[300];
    struct dmt_tls_ctx *tls;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t tick;   /* wakes agent-scan */
    struct dmt_list list;  /* struct agent_ws, protected by lock */
    struct tlsline *line;  /* connection to the controller or NULL; protected by lock */
    int wake_fd;           /* wakes agent-watch */
    struct dmt_pool *pool; /* commands */
    pthread_t scan, watch, link;
    bool has_scan, has_watch, has_link;
};

void *agent_scan_main(void *arg);
void *agent_watch_main(void *arg);
void *agent_link_main(void *arg);
/* The controller has the events of a process up to number n. */
void agent_events_taken(struct agent *a, const char *workspace, uint64_t instance, uint64_t n);
/* Sends to the controller if it is connected; steals v. */
void agent_tell(struct agent *a, json_t *v);
void agent_wake(struct agent *a);

#endif
