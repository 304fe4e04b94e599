/* agent.c: the agent's life, and what others may ask of it.
 *
 * Owns struct agent and its threads (scan, watch, link, a small pool). Happy path: start, serve,
 * stop; workspace processes are not ours to end. Failure modes: each function says what it could
 * not do in one sentence. Threads: any; the table is under the agent's lock, which is never held
 * while a socket is waited for.
 */
#include "daemon/agent/agent.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/agent/internal.h"
#include "daemon/common/jline.h"
#include "fs/base/clock.h"
#include "fs/base/conf.h"
#include "fs/base/io.h"
#include "fs/base/log.h"
#include "fs/base/options.h"

#define COMMANDS      4
#define COMMANDS_WAIT 64
#define NOTICE_MS     2000
#define STOP_LOOK_MS  1000

void agent_wake(struct agent *a)
{
    (void)eventfd_write(a->wake_fd, 1);
}

json_t *agent_workspaces(struct agent *a)
{
    json_t *all = json_object();
    pthread_mutex_lock(&a->lock);
    DMT_LIST_EACH(n, tmp, &a->list)
    {
        const struct agent_ws *w = DMT_CONTAINER(n, struct agent_ws, link);
        if (w->status)
            json_object_set_new(all, w->name, json_deep_copy(w->status));
    }
    pthread_mutex_unlock(&a->lock);
    return all;
}

bool agent_has(struct agent *a, const char *workspace)
{
    bool has = false;
    pthread_mutex_lock(&a->lock);
    DMT_LIST_EACH(n, tmp, &a->list)
    {
        const struct agent_ws *w = DMT_CONTAINER(n, struct agent_ws, link);
        has |= w->status && strcmp(w->name, workspace) == 0;
    }
    pthread_mutex_unlock(&a->lock);
    return has;
}

bool agent_controller_up(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    bool up = a->line != NULL;
    pthread_mutex_unlock(&a->lock);
    return up;
}

static uint64_t now_ms(void)
{
    const struct dmt_clock *c = dmt_clock_real();
    return c->monotonic_ns(c->ctx) / DMT_MS;
}

static int take_result(const json_t *answer, json_t **ret, struct dmt_err *err)
{
    json_t *result = json_object_get(answer, "result");
    const json_t *e = json_object_get(answer, "error");
    if (result) {
        *ret = json_incref(result);
        return 0;
    }
    int code = (int)jline_int(e, "code", -EIO);
    dmt_err_set(err, code < 0 ? code : -EIO, "%s", jline_str(e, "message", "it gave no reason"));
    dmt_err_hint(err, "%s", jline_str(e, "hint", ""));
    return code < 0 ? code : -EIO;
}

int agent_control(struct agent *a, const char *workspace, const json_t *request, int timeout_ms,
                  json_t **ret, struct dmt_err *err)
{
    char path[256];
    struct dmt_buf in;
    uint64_t end = now_ms() + (uint64_t)timeout_ms;
    int r = dmt_workspace_name_check(workspace, err);
    if (r < 0)
        return r;
    (void)snprintf(path, sizeof(path), "%s/%s.sock", dmt_dir_run(), workspace);
    int fd = jline_connect(path, NULL);
    if (fd < 0)
        return dmt_err_set(err, -ENOENT, "workspace %s does not run on this machine", workspace);
    dmt_buf_init(&in);
    r = jline_send(fd, request);
    for (bool done = false; r == 0 && !done;) {
        json_t *v = NULL;
        uint64_t now = now_ms();
        int wait_ms = end - now < STOP_LOOK_MS ? (int)(end - now) : STOP_LOOK_MS;
        r = now < end ? jline_recv(fd, &in, wait_ms, &v) : -ETIMEDOUT;
        if (r == -ETIMEDOUT && now < end && !atomic_load(&a->stop)) {
            r = 0; /* it may take long; but we end when we are told to */
            continue;
        }
        if (r < 0)
            dmt_err_set(err, r, "workspace %s does not answer: %s", workspace, dmt_strerror(r));
        else if (!json_object_get(v, "progress")) {
            r = take_result(v, ret, err);
            done = true;
        }
        json_decref(v);
    }
    dmt_buf_free(&in);
    close(fd);
    return r;
}

int agent_assign(struct agent *a, const char *workspace, const json_t *conf, struct dmt_err *err)
{
    char dir[256], path[400];
    const char *key;
    json_t *v;
    int r = dmt_workspace_name_check(workspace, err);
    struct dmt_conf *c = dmt_conf_new();
    json_object_foreach((json_t *)conf, key, v)
    {
        if (r == 0 && !json_is_string(v))
            r = dmt_err_set(err, -EINVAL, "the value of %s is not a string", key);
        if (r == 0)
            dmt_conf_set(c, key, json_string_value(v));
    }
    /* Ours, not the workspace's: cleaning drops it. */
    bool autos = dmt_conf_get(c, "auto") != NULL;
    if (r == 0)
        r = dmt_options_clean(c, DMT_OPT_IN_CONF, false, err);
    if (r == 0)
        r = dmt_options_consistent(c, err);
    if (autos)
        dmt_conf_set(c, "auto", "yes");
    (void)snprintf(dir, sizeof(dir), "%s/workspaces", dmt_dir_etc());
    (void)snprintf(path, sizeof(path), "%s/%s.conf", dir, workspace);
    if (r == 0 && (r = dmt_io_mkdirs(dmt_io_real(), dir, 0755)) < 0)
        dmt_err_set(err, r, "cannot make %s: %s", dir, dmt_strerror(r));
    if (r == 0)
        r = dmt_conf_save(c, path, err);
    dmt_conf_free(c);
    if (r == 0) {
        dmt_info("workspace %s: assigned by the controller", workspace);
        pthread_mutex_lock(&a->lock);
        pthread_cond_signal(&a->tick);
        pthread_mutex_unlock(&a->lock);
    }
    return r;
}

int agent_notice(struct agent *a, json_int_t in_s, struct dmt_err *err)
{
    json_t *all = agent_workspaces(a), *st;
    const char *name;
    int r = in_s < 0 ? dmt_err_set(err, -EINVAL, "in_s is a number of seconds, 0 to withdraw") : 0;
    json_object_foreach(all, name, st)
    {
        json_t *q = json_pack("{s:s s:I}", "cmd", "notice", "in_s", in_s), *v = NULL;
        if (r == 0)
            r = agent_control(a, name, q, NOTICE_MS, &v, err);
        json_decref(v);
        json_decref(q);
    }
    json_decref(all);
    return r;
}

int agent_start(struct agent **ret, const struct agent_conf *conf, struct dmt_err *err)
{
    struct agent *a = calloc(1, sizeof(*a));
    if (!a)
        return dmt_err_set(err, -ENOMEM, "out of memory");
    (void)snprintf(a->node, sizeof(a->node), "%s", conf->node);
    (void)snprintf(a->controller, sizeof(a->controller), "%s",
                   conf->controller ? conf->controller : "");
    a->tls = conf->tls;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->tick, NULL);
    dmt_list_init(&a->list);
    a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = dmt_pool_new(&a->pool, "agent-cmd", COMMANDS, COMMANDS_WAIT);
    if (r == 0 && (r = dmt_thread_start(&a->watch, "agent-watch", agent_watch_main, a)) == 0)
        a->has_watch = true;
    if (r == 0 && a->controller[0] &&
        (r = dmt_thread_start(&a->link, "agent-link", agent_link_main, a)) == 0)
        a->has_link = true;
    if (r == 0 && (r = dmt_thread_start(&a->scan, "agent-scan", agent_scan_main, a)) == 0)
        a->has_scan = true;
    if (r < 0) {
        agent_stop(a);
        return dmt_err_set(err, r, "cannot start the agent: %s", dmt_strerror(r));
    }
    *ret = a;
    return 0;
}

void agent_stop(struct agent *a)
{
    if (!a)
        return;
    atomic_store(&a->stop, true);
    agent_wake(a);
    pthread_mutex_lock(&a->lock);
    pthread_cond_broadcast(&a->tick);
    if (a->line)
        tlsline_wake(a->line);
    pthread_mutex_unlock(&a->lock);
    if (a->has_scan)
        pthread_join(a->scan, NULL);
    if (a->has_watch)
        pthread_join(a->watch, NULL);
    if (a->pool)
        dmt_pool_free(a->pool);
    if (a->has_link)
        pthread_join(a->link, NULL);
    DMT_LIST_EACH(n, tmp, &a->list)
    {
        struct agent_ws *w = DMT_CONTAINER(n, struct agent_ws, link);
        if (w->pidfd >= 0)
            close(w->pidfd);
        json_decref(w->status);
        free(w);
    }
    close(a->wake_fd);
    free(a);
}
