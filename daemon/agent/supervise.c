/* supervise.c: the workspace processes of this machine.
 *
 * Owns the table of them. agent-scan looks every SCAN_MS: each RUN/NAME.sock that answers is a
 * running process (its holder is its parent, watched by pidfd); each ETC/workspaces/NAME.conf with
 * role=standby or auto=yes that has none, and was not stopped by hand, gets a holder. Happy path:
 * found or started once, then only asked for its status and for what happened, which goes into the
 * controller's history. Failure modes: a holder that ends soon after its start is started again
 * after 1, 2, 4 ... 60 s; one that does not answer is left alone (its holder lives, so it is not
 * dead). agent-watch polls the pidfds: the end of a holder is told to the controller at once, as
 * word of death about the instance that its process had. Holders are started in sessions of their
 * own and survive this program (mounts outlive dumontd).
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/agent/internal.h"
#include "daemon/common/jline.h"
#include "fs/base/clock.h"
#include "fs/base/conf.h"
#include "fs/base/log.h"
#include "fs/base/options.h"
#include "fs/lease/arbiter.h"

#define SCAN_MS     500
#define STATUS_MS   1500
#define SETTLED_NS  (10 * DMT_S)
#define BACKOFF_MAX 6u
#define WATCH_MAX   256

static uint64_t now_ns(void)
{
    const struct dmt_clock *c = dmt_clock_real();
    return c->monotonic_ns(c->ctx);
}

static struct agent_ws *find(struct agent *a, const char *name, bool make)
{
    DMT_LIST_EACH(n, tmp, &a->list)
    {
        struct agent_ws *w = DMT_CONTAINER(n, struct agent_ws, link);
        if (strcmp(w->name, name) == 0)
            return w;
    }
    struct agent_ws *w = make ? calloc(1, sizeof(*w)) : NULL;
    if (w) {
        (void)snprintf(w->name, sizeof(w->name), "%s", name);
        w->pidfd = -1;
        dmt_list_add_tail(&a->list, &w->link);
    }
    return w;
}

/* --- what runs --- */

static pid_t parent_of(pid_t pid)
{
    char path[64], line[512];
    int ppid = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    const char *p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
    if (p && sscanf(p + 1, " %*c %d", &ppid) != 1)
        ppid = 0;
    fclose(f);
    return ppid > 1 ? ppid : 0;
}

/* Keeps an answer; watches a holder that is new. Under the lock. */
static void keep_status(struct agent *a, struct agent_ws *w, json_t *status)
{
    pid_t pid = (pid_t)jline_int(status, "pid", 0), holder = parent_of(pid);
    uint64_t instance = (uint64_t)jline_int(status, "instance", 0);
    json_decref(w->status);
    w->status = status;
    w->taken = instance == w->instance ? w->taken : 0;
    w->instance = instance;
    if (holder == 0)
        holder = pid; /* started without a holder (tests): the process itself is watched */
    if (holder == w->holder || holder <= 0)
        return;
    if (w->pidfd >= 0)
        close(w->pidfd);
    w->pidfd = pidfd_open(holder, 0);
    w->holder = w->pidfd >= 0 ? holder : 0;
    if (w->pidfd >= 0)
        dmt_info("workspace %s runs, holder %d", w->name, (int)holder);
    agent_wake(a);
}

/* Steals q. */
static int ask(const char *name, json_t *q, json_t **ret)
{
    char path[256];
    json_t *v = NULL;
    (void)snprintf(path, sizeof(path), "%s/%s.sock", dmt_dir_run(), name);
    int r = jline_ask(path, q, STATUS_MS, &v, NULL);
    json_decref(q);
    json_t *result = json_object_get(v, "result");
    if (r == 0 && result)
        *ret = json_incref(result);
    else if (r == 0)
        r = -EBADMSG;
    json_decref(v);
    return r;
}

/* Sends what happened to the controller, again and again until it says that it has it. */
static void carry_events(struct agent *a, const char *name)
{
    json_t *list = NULL, *e;
    size_t i;
    pthread_mutex_lock(&a->lock);
    const struct agent_ws *w = find(a, name, false);
    bool news = w && a->line && (uint64_t)jline_int(w->status, "events", 0) > w->taken;
    uint64_t taken = w ? w->taken : 0, instance = w ? w->instance : 0;
    pthread_mutex_unlock(&a->lock);
    if (!news ||
        ask(name, json_pack("{s:s s:I}", "cmd", "events", "taken", (json_int_t)taken), &list) < 0)
        return;
    json_array_foreach(list, i, e)
    {
        json_t *v = json_deep_copy(e);
        json_object_set_new(v, "op", json_string("event"));
        json_object_set_new(v, "workspace", json_string(name));
        json_object_set_new(v, "instance", lease_u64_json(instance));
        agent_tell(a, v);
    }
    if (json_array_size(list) == 0) /* all of it was taken in the time of an agent before us */
        agent_events_taken(a, name, instance, UINT64_MAX);
    json_decref(list);
}

void agent_events_taken(struct agent *a, const char *workspace, uint64_t instance, uint64_t n)
{
    pthread_mutex_lock(&a->lock);
    struct agent_ws *w = find(a, workspace, false);
    uint64_t last = w ? (uint64_t)jline_int(w->status, "events", 0) : 0;
    if (w && w->instance == instance && n > w->taken)
        w->taken = n < last ? n : last;
    pthread_mutex_unlock(&a->lock);
}

static bool has_suffix(const char *s, const char *suffix, size_t *stem)
{
    size_t n = strlen(s), k = strlen(suffix);
    *stem = n > k ? n - k : 0;
    return n > k && strcmp(s + n - k, suffix) == 0 && *stem <= DMT_WS_NAME_MAX;
}

static void look_at_sockets(struct agent *a)
{
    DIR *d = opendir(dmt_dir_run());
    struct dirent *e;
    while (d && (e = readdir(d))) {
        char name[DMT_WS_NAME_MAX + 1];
        size_t n;
        json_t *status = NULL;
        if (!has_suffix(e->d_name, ".sock", &n) || strcmp(e->d_name, "dumontd.sock") == 0)
            continue;
        (void)snprintf(name, sizeof(name), "%.*s", (int)n, e->d_name);
        if (dmt_workspace_name_check(name, NULL) < 0 ||
            ask(name, json_pack("{s:s}", "cmd", "status"), &status) < 0)
            continue;
        pthread_mutex_lock(&a->lock);
        struct agent_ws *w = find(a, name, true);
        if (w)
            keep_status(a, w, status);
        else
            json_decref(status);
        pthread_mutex_unlock(&a->lock);
        carry_events(a, name);
    }
    if (d)
        closedir(d);
}

/* --- what should run --- */

static bool wanted(const char *path)
{
    struct dmt_conf *c = dmt_conf_new();
    bool yes = false;
    if (c && dmt_conf_load(c, path, NULL) == 0) {
        const char *role = dmt_conf_get(c, "role"), *autos = dmt_conf_get(c, "auto");
        yes = (role && strcmp(role, "standby") == 0) || (autos && strcmp(autos, "no") != 0);
    }
    dmt_conf_free(c);
    return yes;
}

/* RUN/NAME.stopped: a person unmounted it or said `dumont workspace stop`; not ours to start. */
static bool stopped_by_hand(const char *name)
{
    char path[600];
    (void)snprintf(path, sizeof(path), "%s/%s.stopped", dmt_dir_run(), name);
    return access(path, F_OK) == 0;
}

static void find_holder(char *path, size_t size)
{
    const char *dir = getenv("DUMONT_LIBDIR");
    char self[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    (void)snprintf(path, size, "%s/dumont-holder", dir ? dir : DMT_LIBDIR);
    if (dir || access(path, X_OK) == 0 || n <= 0)
        return;
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    (void)snprintf(path, size, "%s/dumont-holder", self);
}

static pid_t spawn_holder(const char *name, const char *conf)
{
    char path[512];
    find_holder(path, sizeof(path));
    if (access(path, X_OK) < 0) {
        dmt_error("workspace %s: %s cannot be run: the installation is incomplete", name, path);
        return -1;
    }
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    /* A session of its own: no terminal, no group of ours. Descriptors are all close-on-exec. */
    (void)setsid();
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, 0);
    execl(path, "dumont-holder", "--name", name, "--conf", conf, (char *)NULL);
    _exit(127);
}

static bool lives(struct agent_ws *w)
{
    if (w->child > 0 && waitpid(w->child, NULL, WNOHANG) != 0)
        w->child = 0;
    if (w->pidfd >= 0) {
        struct pollfd p = {.fd = w->pidfd, .events = POLLIN};
        if (poll(&p, 1, 0) == 0)
            return true;
    }
    return w->child > 0;
}

/* Starts what is not there, not too often. */
static void start_if_needed(struct agent *a, const char *name, const char *conf)
{
    pthread_mutex_lock(&a->lock);
    struct agent_ws *w = find(a, name, true);
    bool alive = w && lives(w);
    uint64_t now = now_ns();
    if (w && alive && now - w->started_ns > SETTLED_NS)
        w->failures = 0;
    bool due = w && !alive &&
               (w->started_ns == 0 || now - w->started_ns > (DMT_S << w->failures) - DMT_S / 2);
    if (due) {
        bool soon = w->started_ns && now - w->started_ns < SETTLED_NS << 1;
        w->failures = soon && w->failures < BACKOFF_MAX ? w->failures + 1 : w->failures;
        w->started_ns = now;
        w->child = spawn_holder(name, conf);
        if (w->child > 0)
            dmt_info("workspace %s: started its holder, %d", name, (int)w->child);
    }
    pthread_mutex_unlock(&a->lock);
}

static void look_at_confs(struct agent *a)
{
    char dir[256], path[600];
    (void)snprintf(dir, sizeof(dir), "%s/workspaces", dmt_dir_etc());
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        char name[DMT_WS_NAME_MAX + 1];
        size_t n;
        if (!has_suffix(e->d_name, ".conf", &n))
            continue;
        (void)snprintf(name, sizeof(name), "%.*s", (int)n, e->d_name);
        (void)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (dmt_workspace_name_check(name, NULL) == 0 && wanted(path) && !stopped_by_hand(name))
            start_if_needed(a, name, path);
    }
    if (d)
        closedir(d);
}

static void report(struct agent *a)
{
    json_t *all = agent_workspaces(a);
    agent_tell(a, json_pack("{s:s s:o}", "op", "status", "workspaces", all));
}

void *agent_scan_main(void *arg)
{
    struct agent *a = arg;
    while (!atomic_load(&a->stop)) {
        look_at_sockets(a);
        look_at_confs(a);
        report(a);
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += SCAN_MS * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_mutex_lock(&a->lock);
        if (!atomic_load(&a->stop))
            pthread_cond_timedwait(&a->tick, &a->lock, &until);
        pthread_mutex_unlock(&a->lock);
    }
    return NULL;
}

/* --- word of death --- */

/* Under the lock: the holder of w is gone. The word of death; NULL: a person unmounted or stopped
 * it, and the workspace process has told the other machine so itself. Word of a death could
 * overtake that and be taken for a loss. If its own word does not arrive, silence speaks. */
static json_t *bury(struct agent_ws *w)
{
    bool orderly = stopped_by_hand(w->name);
    dmt_info("workspace %s: its holder %d is gone", w->name, (int)w->holder);
    close(w->pidfd);
    w->pidfd = -1;
    w->holder = 0;
    json_t *v = orderly ? NULL
                        : json_pack("{s:s s:s s:o}", "op", "death", "workspace", w->name,
                                    "instance", lease_u64_json(w->instance));
    json_decref(w->status);
    w->status = NULL;
    return v;
}

void *agent_watch_main(void *arg)
{
    struct agent *a = arg;
    while (!atomic_load(&a->stop)) {
        struct pollfd p[WATCH_MAX + 1] = {{.fd = a->wake_fd, .events = POLLIN}};
        nfds_t n = 1;
        pthread_mutex_lock(&a->lock);
        DMT_LIST_EACH(l, tmp, &a->list)
        {
            const struct agent_ws *w = DMT_CONTAINER(l, struct agent_ws, link);
            if (w->pidfd >= 0 && n <= WATCH_MAX)
                p[n++] = (struct pollfd){.fd = w->pidfd, .events = POLLIN};
        }
        pthread_mutex_unlock(&a->lock);
        if (poll(p, n, -1) < 0)
            continue;
        eventfd_t v;
        if (p[0].revents)
            (void)eventfd_read(a->wake_fd, &v);
        for (nfds_t i = 1; i < n; i++) {
            json_t *death = NULL;
            if (!p[i].revents)
                continue;
            pthread_mutex_lock(&a->lock);
            DMT_LIST_EACH(l, tmp, &a->list)
            {
                struct agent_ws *w = DMT_CONTAINER(l, struct agent_ws, link);
                /* The number may have been given to another holder since; then that one is still
                 * there. */
                struct pollfd again = {.fd = w->pidfd, .events = POLLIN};
                if (w->pidfd == p[i].fd && poll(&again, 1, 0) > 0)
                    death = bury(w);
            }
            pthread_mutex_unlock(&a->lock);
            if (death)
                agent_tell(a, death);
        }
    }
    return NULL;
}
