/* dumontfs_control.c: the control socket RUN/NAME.sock: one JSON value a line in, progress lines
 * and one result or error line out (docs/formats.md "Control socket"). Only root may connect (file
 * mode 0600).
 *
 * Happy path: accept thread -> a thread per connection (at most CONNECTIONS_MAX) -> verbs_run ->
 * answer -> next line. Failure: a line that is not a JSON object with "cmd" gets an error answer; a
 * client that goes away ends its connection, not the command's effect.
 * Threads: `control` accepts; each connection has its own thread, because commands wait (flush,
 * rollback, handover).
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "fs/base/log.h"
#include "fs/base/options.h"
#include "fs/dumontfs.h"

#define CONNECTIONS_MAX 64
#define REQUEST_MAX     (1u << 20)

#define PROGRESS_EVERY (100 * DMT_MS)

struct control {
    struct app *app;
    int fd;
    uint64_t progress_ns; /* when the last line went */
    struct dmt_list node;
};

static pthread_t accept_thread;
static int stop_pipe[2] = {-1, -1};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* the connections */
static pthread_cond_t gone = PTHREAD_COND_INITIALIZER;
static struct dmt_list connections = {&connections, &connections};
static int connections_n;

static int send_line(int fd, const json_t *v)
{
    char *text = json_dumps(v, JSON_COMPACT);
    int rc = 0;
    if (!text)
        return -ENOMEM;
    size_t n = strlen(text), at = 0;
    text[n] = '\n';
    while (rc == 0 && at <= n) {
        ssize_t k = send(fd, text + at, n + 1 - at, MSG_NOSIGNAL);
        if (k < 0 && errno != EINTR)
            rc = -errno;
        else if (k > 0)
            at += (size_t)k;
    }
    free(text);
    return rc;
}

void control_progress(struct control *c, const char *what, uint64_t done, uint64_t total,
                      const char *unit)
{
    uint64_t now = dmt_clock_real()->monotonic_ns(NULL);
    if (c->progress_ns && now - c->progress_ns < PROGRESS_EVERY)
        return;
    c->progress_ns = now;
    json_t *v = json_pack("{s:{s:s, s:I, s:I, s:s}}", "progress", "what", what, "done",
                          (json_int_t)done, "total", (json_int_t)total, "unit", unit);
    send_line(c->fd, v);
    json_decref(v);
}

pid_t control_client(const struct control *c)
{
    struct ucred peer = {.pid = 0};
    socklen_t n = sizeof peer;
    return getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0 ? peer.pid : 0;
}

static void answer(struct control *c, const char *line, size_t len)
{
    struct dmt_err err;
    json_error_t je;
    json_t *out, *res = NULL, *req = json_loadb(line, len, 0, &je);
    memset(&err, 0, sizeof err);
    c->progress_ns = 0;
    if (!json_is_object(req) || !json_is_string(json_object_get(req, "cmd")))
        dmt_err_set(&err, -EINVAL, "a request is one JSON object on one line, with \"cmd\"");
    else
        res = verbs_run(c->app, c, req, &err);
    if (res)
        out = json_pack("{s:o}", "result", res);
    else
        out = json_pack("{s:{s:i, s:s, s:s}}", "error", "code", err.code ? err.code : -EIO,
                        "message", err.msg[0] ? err.msg : dmt_strerror(err.code), "hint", err.hint);
    send_line(c->fd, out);
    json_decref(out);
    json_decref(req);
}

static void forget(struct control *c)
{
    pthread_mutex_lock(&lock);
    dmt_list_del(&c->node);
    connections_n--;
    pthread_cond_signal(&gone);
    pthread_mutex_unlock(&lock);
    free(c);
}

static void *connection(void *arg)
{
    struct control *c = arg;
    FILE *f = fdopen(c->fd, "r");
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while (f && (n = getline(&line, &cap, f)) > 0 && n <= (ssize_t)REQUEST_MAX)
        answer(c, line, (size_t)n);
    free(line);
    int fd = c->fd;
    forget(c); /* before the number can be another file's */
    if (f)
        fclose(f);
    else
        close(fd);
    return NULL;
}

static void start_connection(struct app *a, int fd)
{
    pthread_t t;
    struct control *c = calloc(1, sizeof *c);
    pthread_mutex_lock(&lock);
    bool room = c && connections_n < CONNECTIONS_MAX;
    if (room) {
        c->app = a;
        c->fd = fd;
        dmt_list_add_tail(&connections, &c->node);
        connections_n++;
    }
    pthread_mutex_unlock(&lock);
    if (!room) {
        json_t *v = json_pack("{s:{s:i, s:s, s:s}}", "error", "code", -EBUSY, "message",
                              "too many commands are under way in this workspace", "hint",
                              "Wait for one of them to end, then try again.");
        send_line(fd, v); /* fits into the empty socket buffer: does not wait */
        json_decref(v);
        free(c);
        close(fd);
        return;
    }
    if (dmt_thread_start(&t, "control-conn", connection, c) != 0) {
        forget(c);
        close(fd);
        return;
    }
    pthread_detach(t);
}

static void *accepting(void *arg)
{
    struct app *a = arg;
    for (;;) {
        struct pollfd p[2] = {{.fd = a->control_fd, .events = POLLIN},
                              {.fd = stop_pipe[0], .events = POLLIN}};
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            break;
        if (p[1].revents)
            break;
        if (!(p[0].revents & POLLIN))
            continue;
        int fd = accept4(a->control_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            start_connection(a, fd);
    }
    return NULL;
}

int control_start(struct app *a, struct dmt_err *err)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int rc = dmt_io_mkdirs(dmt_io_real(), dmt_dir_run(), 0755);
    if (rc != 0)
        return dmt_err_set(err, rc, "cannot make %s: %s", dmt_dir_run(), dmt_strerror(rc));
    if (snprintf(a->control_path, sizeof a->control_path, "%s/%s.sock", dmt_dir_run(), a->name) >=
        (int)sizeof sa.sun_path)
        return dmt_err_set(err, -ENAMETOOLONG,
                           "the path of the control socket is too long: %s/%s.sock", dmt_dir_run(),
                           a->name);
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", a->control_path);
    unlink(a->control_path); /* the store's lock says that no other process serves this workspace */
    a->control_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    mode_t old = umask(0177);
    rc = a->control_fd >= 0 && bind(a->control_fd, (struct sockaddr *)&sa, sizeof sa) == 0 &&
                 listen(a->control_fd, 64) == 0 && pipe2(stop_pipe, O_CLOEXEC) == 0
             ? 0
             : -errno;
    umask(old);
    if (rc == 0)
        rc = dmt_thread_start(&accept_thread, "control", accepting, a);
    if (rc != 0)
        return dmt_err_set(err, rc, "cannot serve the control socket %s: %s", a->control_path,
                           dmt_strerror(rc));
    return 0;
}

void control_stop(struct app *a)
{
    if (stop_pipe[1] < 0)
        return;
    close(stop_pipe[1]);
    stop_pipe[1] = -1;
    pthread_join(accept_thread, NULL);
    close(stop_pipe[0]);
    close(a->control_fd);
    /* Whoever waits for a line reads the end; what runs can still be answered. */
    pthread_mutex_lock(&lock);
    DMT_LIST_EACH(n, tmp, &connections)
    shutdown(DMT_CONTAINER(n, struct control, node)->fd, SHUT_RD);
    pthread_mutex_unlock(&lock);
}

void control_join(void)
{
    pthread_mutex_lock(&lock);
    while (connections_n > 0)
        pthread_cond_wait(&gone, &lock);
    pthread_mutex_unlock(&lock);
}

void control_remove(struct app *a)
{
    if (a->control_path[0])
        unlink(a->control_path);
}
