/* control.c: asks a workspace process through its control socket RUN/NAME.sock: one JSON object a
 * line out, progress lines and one result or error line in (docs/formats.md).
 *
 * Every call has a time limit, because a helper that hangs hangs a boot. A process that is not
 * there while its holder is comes back in a moment. Failure: nobody listens
 * (-ENOENT, -ECONNREFUSED: not running), no answer in time (-ETIMEDOUT), an error answer (its code,
 * message and hint).
 */
#include "tools/mount/mount.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/holder_proto.h"
#include "fs/base/options.h"

#define STATUS_TIMEOUT_MS 5000
#define LINE_BYTES_MAX    (1u << 20)
#define RESTART_MAX_MS    60000

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int connect_to(const char *name, int timeout_ms)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct timeval tv = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
    int n = snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/%s.sock", dmt_dir_run(), name);
    if (n < 0 || (size_t)n >= sizeof(sa.sun_path))
        return -ENAMETOOLONG;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

/* The "result" of one answer line, or an error; *more for progress. */
static int take_line(const char *line, json_t **ret, bool *more, struct dmt_err *err)
{
    json_t *v = json_loads(line, 0, NULL), *e, *r;
    int rc = 0;

    *more = false;
    e = json_object_get(v, "error");
    r = json_object_get(v, "result");
    if (e) {
        int code = (int)json_integer_value(json_object_get(e, "code"));
        const char *text = json_string_value(json_object_get(e, "message"));
        const char *hint = json_string_value(json_object_get(e, "hint"));
        rc = dmt_err_set(err, code < 0 ? code : -EIO, "%s", text ? text : "the workspace refused");
        dmt_err_hint(err, "%s", hint ? hint : "");
    } else if (r) {
        *ret = json_incref(r);
    } else if (json_object_get(v, "progress")) {
        *more = true;
    } else {
        rc = dmt_err_set(err, -EPROTO, "the workspace process gave an answer that makes no sense");
    }
    json_decref(v);
    return rc;
}

static int read_answer(int fd, int64_t until, json_t **ret, struct dmt_err *err)
{
    char *buf = malloc(LINE_BYTES_MAX + 1);
    size_t used = 0;
    int rc = -ENOMEM;
    bool more = buf != NULL;

    while (more) {
        ssize_t n = recv(fd, buf + used, LINE_BYTES_MAX - used, 0);
        rc = -ETIMEDOUT;
        if (n < 0 && errno == EINTR && !mount_stop)
            continue;
        if (n < 0 && errno != EAGAIN)
            rc = -errno;
        if (n == 0)
            rc = dmt_err_set(err, -EPIPE, "the workspace process ended before it answered");
        if (n <= 0)
            break;
        used += (size_t)n;
        buf[used] = '\0';
        char *end;
        while (more && (end = strchr(buf, '\n'))) {
            *end++ = '\0';
            rc = take_line(buf, ret, &more, err);
            used = strlen(end);
            memmove(buf, end, used + 1);
        }
        if (more && (used == LINE_BYTES_MAX || now_ms() > until)) {
            rc = used == LINE_BYTES_MAX ? -EFBIG : -ETIMEDOUT;
            break;
        }
    }
    free(buf);
    return rc;
}

/* Sends req (stolen); *ret is the caller's. */
static int call(const char *name, json_t *req, int timeout_ms, json_t **ret, struct dmt_err *err)
{
    int64_t until = now_ms() + timeout_ms;
    char *text = json_dumps(req, JSON_COMPACT);
    int fd = -1, rc = -ENOMEM;

    json_decref(req);
    *ret = NULL;
    if (!text)
        goto out;
    fd = connect_to(name, timeout_ms);
    rc = fd < 0 ? fd : 0;
    if (rc == 0) {
        size_t n = strlen(text);
        text[n] = '\n'; /* in place of the NUL: the length says where it ends */
        if (send(fd, text, n + 1, MSG_NOSIGNAL) != (ssize_t)(n + 1))
            rc = -EPIPE;
        else
            rc = read_answer(fd, until, ret, err);
    }
out:
    if (rc < 0 && err && !err->msg[0])
        dmt_err_set(err, rc, "workspace %s: %s", name, dmt_strerror(rc));
    if (fd >= 0)
        close(fd);
    free(text);
    return rc;
}

static void copy_string(const json_t *o, const char *key, char *dst, size_t size)
{
    const char *s = json_string_value(json_object_get(o, key));
    (void)snprintf(dst, size, "%s", s ? s : "");
}

int control_status(const char *name, struct ws_state *ret, struct dmt_err *err)
{
    json_t *r;
    int rc = call(name, json_pack("{s:s}", "cmd", "status"), STATUS_TIMEOUT_MS, &r, err);
    memset(ret, 0, sizeof(*ret));
    if (rc < 0)
        return rc;
    copy_string(r, "mountpoint", ret->mountpoint, sizeof(ret->mountpoint));
    copy_string(r, "holder_node", ret->holder_node, sizeof(ret->holder_node));
    copy_string(r, "epoch", ret->epoch, sizeof(ret->epoch));
    copy_string(r, "note", ret->note, sizeof(ret->note));
    ret->holder = json_is_true(json_object_get(r, "holder"));
    ret->failed = json_is_true(json_object_get(r, "failed"));
    ret->pid = json_integer_value(json_object_get(r, "pid"));
    ret->parked = (uint64_t)json_integer_value(json_object_get(r, "parked"));
    ret->dirty_bytes = (uint64_t)json_integer_value(json_object_get(r, "dirty_bytes"));
    ret->missing_bytes = (uint64_t)json_integer_value(json_object_get(r, "missing_bytes"));
    json_decref(r);
    return 0;
}

int control_status_patient(const char *name, struct ws_state *ret, struct dmt_err *err)
{
    int64_t until = now_ms() + RESTART_MAX_MS;
    struct timespec nap = {.tv_nsec = 20 * 1000000};
    for (;;) {
        /* The holder first: it lives on when the process has just gone, and not the other way
         * round. */
        bool holder = dmt_holder_lives(name);
        int rc = control_status(name, ret, err);
        bool cut = rc == -ENOENT || rc == -ECONNREFUSED || rc == -EPIPE || rc == -ECONNRESET;
        if (!cut || !holder || mount_stop || now_ms() > until)
            return cut ? -ECONNREFUSED : rc;
        (void)nanosleep(&nap, NULL);
    }
}

int control_simple(const char *name, const char *cmd, int timeout_ms, struct dmt_err *err)
{
    json_t *r;
    int rc = call(name, json_pack("{s:s}", "cmd", cmd), timeout_ms, &r, err);
    json_decref(r);
    return rc;
}

int control_view(const char *name, const char *dir, struct dmt_err *err)
{
    json_t *r;
    int rc = call(name, json_pack("{s:s, s:s}", "cmd", "standby.view", "dir", dir),
                  STATUS_TIMEOUT_MS * 2, &r, err);
    json_decref(r);
    return rc;
}
