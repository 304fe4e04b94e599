/* dumontfs.c: the workspace process: arguments, opening, the main queue, stopping.
 *
 * Happy path: read the options -> make or open the store -> lease record -> workspace (recovery) ->
 * replica, lease -> the lease opens an epoch -> mount (dumontfs_mount.c) -> the main queue runs
 * until an unmount or TERMINATE -> drain -> close -> exit 0. With --resume a predecessor died under
 * a mount: the same way, as short as it can be, since users wait; and the mount is there already.
 * Failure before serving: FAILED with one sentence to whoever waits, exit code 1. A workspace that
 * fails later stays readable and says so in its status.
 * Thread: main; see dumontfs.h for the others.
 */
#include "fs/dumontfs.h"

#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "fs/base/options.h"

#define POOL_THREADS 4
#define POOL_QUEUE   4096

struct work {
    struct dmt_list node;
    void (*fn)(struct app *a, void *arg);
    void *arg;
};

void app_post(struct app *a, void (*fn)(struct app *a, void *arg), void *arg)
{
    struct work *w = calloc(1, sizeof *w);
    DMT_ASSERT(w);
    w->fn = fn;
    w->arg = arg;
    pthread_mutex_lock(&a->q_lock);
    dmt_list_add_tail(&a->q, &w->node);
    pthread_cond_signal(&a->q_cond);
    pthread_mutex_unlock(&a->q_lock);
}

void app_stop(struct app *a, int exit_code)
{
    pthread_mutex_lock(&a->q_lock);
    if (!atomic_exchange(&a->stopping, true))
        a->exit_code = exit_code;
    pthread_cond_signal(&a->q_cond);
    pthread_mutex_unlock(&a->q_lock);
}

struct dmt_ws *app_ws_get(struct app *a)
{
    pthread_rwlock_rdlock(&a->ws_lock);
    struct dmt_ws *ws = a->ws;
    if (!ws)
        pthread_rwlock_unlock(&a->ws_lock);
    return ws;
}

void app_ws_put(struct app *a)
{
    pthread_rwlock_unlock(&a->ws_lock);
}

static void main_loop(struct app *a)
{
    pthread_mutex_lock(&a->q_lock);
    while (!a->stopping) {
        if (dmt_list_empty(&a->q)) {
            struct timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_sec++;
            if (pthread_cond_timedwait(&a->q_cond, &a->q_lock, &until) == ETIMEDOUT &&
                !a->stopping) {
                pthread_mutex_unlock(&a->q_lock);
                roles_tick(a);
                pthread_mutex_lock(&a->q_lock);
            }
            continue;
        }
        struct work *w = DMT_CONTAINER(a->q.next, struct work, node);
        dmt_list_del(&w->node);
        pthread_mutex_unlock(&a->q_lock);
        w->fn(a, w->arg);
        free(w);
        pthread_mutex_lock(&a->q_lock);
    }
    pthread_mutex_unlock(&a->q_lock);
}

/* --- options ---------------------------------------------------------------------------------- */
static int read_args(struct app *a, int argc, char **argv, struct dmt_err *err)
{
    static const struct option longs[] = {
        {"name", 1, NULL, 'n'}, {"holder-fd", 1, NULL, 'h'},  {"mountpoint", 1, NULL, 'm'},
        {"conf", 1, NULL, 'c'}, {"foreground", 0, NULL, 'f'}, {"resume", 1, NULL, 'r'},
        {NULL, 0, NULL, 0}};
    const char *conf = NULL, *mountpoint = NULL;
    struct dmt_conf *opts = dmt_conf_new();
    int o, rc = 0;
    a->holder_fd = -1;
    while (rc == 0 && (o = getopt_long(argc, argv, "o:", longs, NULL)) != -1) {
        if (o == 'n')
            snprintf(a->name, sizeof a->name, "%s", optarg);
        else if (o == 'h')
            a->holder_fd = atoi(optarg);
        else if (o == 'm')
            mountpoint = optarg;
        else if (o == 'r')
            a->resume = (uint32_t)strtoul(optarg, NULL, 10);
        else if (o == 'c')
            conf = optarg;
        else if (o == 'o')
            rc = dmt_conf_options(opts, optarg, err);
        else if (o != 'f')
            rc = dmt_err_set(err, -EINVAL, "dumontfs is started by dumont-holder, not by hand");
    }
    a->conf = dmt_conf_new();
    if (rc == 0 && conf)
        rc = dmt_conf_load(a->conf, conf, err);
    if (rc == -ENOENT)
        rc = 0;
    if (rc == 0)
        dmt_options_merge(a->conf, opts);
    dmt_conf_free(opts);
    if (rc == 0)
        rc = dmt_workspace_name_check(a->name, err);
    a->user_mount = mountpoint != NULL;
    if (!mountpoint)
        mountpoint = dmt_conf_get(a->conf, "mountpoint");
    snprintf(a->mountpoint, sizeof a->mountpoint, "%s", mountpoint ? mountpoint : "");
    return rc;
}

static void node_name(struct app *a)
{
    const char *node = dmt_conf_get(a->conf, "node");
    if (a->tls)
        node = dmt_tls_ctx_name(a->tls);
    if (node)
        snprintf(a->node, sizeof a->node, "%s", node);
    else if (gethostname(a->node, sizeof a->node - 1) != 0)
        snprintf(a->node, sizeof a->node, "localhost");
}

/* Certificates: tls_ca/tls_cert/tls_key, else ETC/tls; needed only with a peer or an arbiter. */
static int load_tls(struct app *a, struct dmt_err *err)
{
    char ca[4200], cert[4200], key[4200];
    const char *c1 = dmt_conf_get(a->conf, "tls_ca"), *c2 = dmt_conf_get(a->conf, "tls_cert"),
               *c3 = dmt_conf_get(a->conf, "tls_key");
    snprintf(ca, sizeof ca, "%s%s", c1 ? c1 : dmt_dir_etc(), c1 ? "" : "/tls/ca.pem");
    snprintf(cert, sizeof cert, "%s%s", c2 ? c2 : dmt_dir_etc(), c2 ? "" : "/tls/node.pem");
    snprintf(key, sizeof key, "%s%s", c3 ? c3 : dmt_dir_etc(), c3 ? "" : "/tls/node.key");
    int rc = dmt_tls_ctx_new(&a->tls, ca, cert, key, err);
    if (rc != 0 && (!err->hint[0]))
        dmt_err_hint(
            err,
            "A standby needs a certificate in %s/tls: on the controller `dumontd token NODE`, here `dumontd join TOKEN`.",
            dmt_dir_etc());
    return rc;
}

static int read_options(struct app *a, struct dmt_err *err)
{
    static const char *const levels[] = {"local", "fsync", "write"};
    const char *s = dmt_conf_get(a->conf, "store"), *v;
    int rc = dmt_options_consistent(a->conf, err);
    if (rc != 0)
        return rc;
    snprintf(a->store_dir, sizeof a->store_dir, "%s", s ? s : "");
    if (!s && snprintf(a->store_dir, sizeof a->store_dir, "%s/%s", dmt_dir_state(), a->name) >=
                  (int)sizeof a->store_dir)
        return dmt_err_set(err, -ENAMETOOLONG, "the path of the store is too long");
    v = dmt_conf_get(a->conf, "role");
    a->standby_role = v && strcmp(v, "standby") == 0;
    a->has_peer =
        a->standby_role || dmt_conf_get(a->conf, "standby") || dmt_conf_get(a->conf, "listen");
    a->level = a->has_peer ? DMT_SYNC_FSYNC : DMT_SYNC_LOCAL;
    v = dmt_conf_get(a->conf, "sync");
    for (int i = 0; v && i < 3; i++)
        if (strcmp(v, levels[i]) == 0)
            a->level = (enum dmt_sync_level)i;
    a->readonly = dmt_conf_get(a->conf, "ro") != NULL;
    a->lag_max = DMT_LAG_MAX;
    if ((v = dmt_conf_get(a->conf, "lag_max")))
        dmt_parse_size(v, &a->lag_max);
    a->journal_keep = DMT_JOURNAL_KEEP;
    if ((v = dmt_conf_get(a->conf, "journal_keep")))
        dmt_parse_size(v, &a->journal_keep);
    if ((v = dmt_conf_get(a->conf, "archive")))
        snprintf(a->archive_url, sizeof a->archive_url, "%s", v);
    if ((v = dmt_conf_get(a->conf, "log")) && dmt_log_level_parse(v) >= 0)
        dmt_log_set_level((enum dmt_log_level)dmt_log_level_parse(v));
    if (a->has_peer || dmt_conf_get(a->conf, "arbiter"))
        rc = load_tls(a, err);
    node_name(a);
    return rc;
}

/* --- the lease -------------------------------------------------------------------------------- */
void app_split_addr(const char *addr, char host[256], uint16_t *port)
{
    const char *colon = strrchr(addr, ':');
    snprintf(host, 256, "%.*s", (int)(colon ? (size_t)(colon - addr) : strlen(addr)), addr);
    *port = colon ? (uint16_t)atoi(colon + 1) : 0;
}

static int make_lease(struct app *a, struct dmt_err *err)
{
    char host[256] = "", peer[256] = "";
    uint16_t port = 0, peer_port = 0;
    const char *arb = dmt_conf_get(a->conf, "arbiter"), *standby = dmt_conf_get(a->conf, "standby"),
               *v;
    if (arb && strncmp(arb, "controller://", 13) == 0)
        app_split_addr(arb + 13, host, &port);
    bool bucket = arb && strcmp(arb, "bucket") == 0; /* options.c knows no third */
    if (standby && *standby)
        app_split_addr(standby, peer, &peer_port);
    struct dmt_lease_conf lc = {.io = dmt_io_real(),
                                .clock = dmt_clock_real(),
                                .dir = a->store_dir,
                                .workspace = a->name,
                                .node = a->node,
                                .standby = a->standby_role,
                                .store_epoch = a->store_epoch,
                                .tls = a->tls,
                                .arbiter_host = *host ? host : NULL,
                                .arbiter_port = port ? port : 7402,
                                .bucket = bucket ? &bucket_ops : NULL,
                                .peer_host = *peer ? peer : NULL,
                                .peer_port = peer_port,
                                .sync_local = a->level == DMT_SYNC_LOCAL,
                                .ops = &roles_ops,
                                .ctx = a};
    memcpy(lc.lineage, a->ident.lineage, 16);
    memcpy(lc.store_id, a->ident.store_id, 16);
    if ((v = dmt_conf_get(a->conf, "degrade")) && strcmp(v, "block") == 0)
        lc.degrade = DMT_DEGRADE_BLOCK;
    if ((v = dmt_conf_get(a->conf, "solo_after")))
        dmt_parse_duration_ms(v, &lc.solo_after_ms);
    if ((v = dmt_conf_get(a->conf, "after_promotion")) && strcmp(v, "readonly") == 0)
        lc.after_promotion = DMT_AFTER_READONLY;
    return dmt_lease_new(&a->lease, &lc, err);
}

/* --- life ------------------------------------------------------------------------------------- */
/* A resync was under way: the old state rests until the new one is complete. */
static bool resync_goes_on(struct app *a)
{
    struct dmt_store_conf sc = app_store_conf(a);
    if (dmt_patch_state(a->store_dir) != DMT_PATCH_PARTIAL)
        return false;
    if (a->has_peer && dmt_lease_state(a->lease) == DMT_LEASE_RESYNC)
        return true;
    dmt_patch_drop(&sc); /* the machine went on with what it had */
    return false;
}

static int start_all(struct app *a, struct dmt_err *err)
{
    int rc = dmt_pool_new(&a->pool, "pool", POOL_THREADS, POOL_QUEUE);
    if (rc == 0)
        rc = app_find_store(a, err);
    if (rc == 0)
        rc = make_lease(a, err);
    if (rc == 0 && dmt_lease_state(a->lease) == DMT_LEASE_RESYNC)
        atomic_store(&a->resync_waits,
                     true); /* imported, or not begun: the holder's first look at it decides */
    if (rc == 0)
        app_read_boot(a);
    if (rc == 0)
        a->resync_begun = resync_goes_on(a);
    if (rc == 0 && roles_is_holder(a))
        rc = app_new_lineage(a, err); /* a force was begun and not ended */
    if (rc == 0 && !a->resync_begun && !a->ws)
        rc = app_open_ws(a, err);
    a->own_bulk = rc == 0 && a->same_boot && roles_is_holder(a);
    branch_look(a);
    if (rc == 0)
        rc = control_start(a, err);
    if (rc == 0 && a->has_peer)
        rc = peer_start(a, err);
    if (rc == 0 && a->resync_begun)
        peer_resync(a);
    if (rc == 0)
        rc = dmt_lease_start(a->lease, err);
    a->lease_runs = rc == 0 && a->lease;
    if (rc == 0)
        rc = mount_start(a, err);
    if (rc == 0 && !roles_is_holder(a)) {
        mount_undo(a); /* of a predecessor that died: somebody else holds it by now */
        roles_say_standby(a);
    }
    return rc;
}

/* Nothing waits any more for what may never come: calls that are parked fail, and with them the
 * commands and syncs that they belong to. */
static void fail_waiters(struct app *a)
{
    struct dmt_ws *ws = app_ws_get(a);
    atomic_store(&a->closing, true);
    if (ws) {
        dmt_ws_poke(ws);
        app_ws_put(a);
    }
}

/* The order: first whoever gives work (commands, kernel), then whoever decides (lease), then the
 * workspace, whose gate still asks lease and replica while it closes; these two last. */
static void stop_all(struct app *a)
{
    struct dmt_err err = {0};
    atomic_store(&a->stopping, true);
    control_stop(a);
    if (atomic_load(&a->mounted)) { /* TERMINATE: what is dirty in mapped pages comes first */
        mount_flush_mmap(a);
        mount_drain(a);
    }
    if (!a->holder_lost) /* else nobody wanted this end: the standby is to take over (rule 13) */
        roles_stop_begin(a);
    fail_waiters(a);
    mount_undo(a);
    app_stop_archiver(a);
    if (a->lease_runs)
        dmt_lease_stop(a->lease);
    peer_quiet(a);
    control_join();
    pthread_rwlock_wrlock(&a->ws_lock);
    struct dmt_ws *ws = a->ws;
    a->ws = NULL;
    pthread_rwlock_unlock(&a->ws_lock);
    if (ws && dmt_ws_close(ws, &err) != 0)
        dmt_error("closing %s: %s", a->name, err.msg);
    dmt_pool_free(a->pool);
    peer_stop(a);
    dmt_lease_free(a->lease);
    dmt_tls_ctx_free(a->tls);
    dmt_conf_free(a->conf);
    if (a->store_lock > 0)
        close(a->store_lock);
    control_remove(a);
}

/* Huge pages for the heap, where the kernel has them for those who ask. Every operation walks
 * through it, and what was not touched for a while comes back at once and not in small pieces,
 * which on a virtual machine costs up to 0.1 ms each. malloc takes this wish from the environment
 * alone and before main: so once more from the start. Whoever set the variable is left alone, and
 * what is run from here does not inherit ours. */
static void want_huge_pages(char **argv)
{
    static const char name[] = "GLIBC_TUNABLES", wish[] = "glibc.malloc.hugetlb=1";
    char self[DMT_PATH_MAX];
    const char *set = getenv(name);
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (!set && n > 0) {
        self[n] = '\0';
        if (setenv(name, wish, 1) == 0)
            (void)execv(self, argv); /* comes back only if it failed: then without */
    }
    if (!set || strcmp(set, wish) == 0)
        (void)unsetenv(name);
}

/* Small blocks come and go with every request, and are freed by other threads than those that took
 * them (the checkpointer). In an arena of a thread's own the heap would grow by one mprotect(2) a
 * page, and a buffer of a megabyte would be mapped and unmapped at each use. */
static void tune_malloc(void)
{
    (void)mallopt(M_ARENA_MAX, 1);
    (void)mallopt(M_TOP_PAD, 4 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 64 << 20);
    (void)mallopt(M_MMAP_THRESHOLD, 8 << 20);
}

int main(int argc, char **argv)
{
    static struct app app;
    struct app *a = &app;
    struct dmt_err err = {0};
    want_huge_pages(argv);
    tune_malloc();
    signal(SIGPIPE, SIG_IGN);
    /* The holder hears these and says TERMINATE, so that the drain always runs. */
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    dmt_log_init("dumontfs", NULL, DMT_LOG_INFO);
    pthread_mutex_init(&a->q_lock, NULL);
    pthread_cond_init(&a->q_cond, NULL);
    pthread_cond_init(&a->stop_cond, NULL);
    pthread_rwlock_init(&a->ws_lock, NULL);
    pthread_rwlock_init(&a->parts_lock, NULL);
    pthread_mutex_init(&a->events.lock, NULL);
    dmt_list_init(&a->q);
    gate_init(a);
    int rc = read_args(a, argc, argv, &err);
    if (rc == 0)
        rc = read_options(a, &err);
    if (rc == 0)
        rc = start_all(a, &err);
    if (rc != 0) {
        dmt_error("cannot start %s: %s", a->name, err.msg);
        a->exit_code = 1;
    } else {
        main_loop(a);
    }
    stop_all(a);
    /* Whoever waits for the answer may use the store, or take its disk away, at once. */
    if (rc != 0 && a->holder_fd >= 0)
        mount_say(a, DMT_HP_FAILED, rc == DMT_E_CONFIG || rc == -EINVAL ? 1 : 32,
                  err.msg[0] ? err.msg : dmt_strerror(rc), err.hint);
    return a->exit_code;
}
