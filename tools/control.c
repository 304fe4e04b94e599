/* control.c: the client side of a workspace's control socket (one JSON value a line,
 * docs/formats.md) and of dumontd's HTTP API.
 * Happy path: connect, send the request, show progress lines, return the result. Failure: no socket
 * or nobody listening is reported as "not running here" with what to do; a cut connection in the
 * middle says that the process ended. One thread.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "fs/base/http.h"
#include "fs/base/limits.h"
#include "tools/dumont.h"

#define LINE_MAX_BYTES (64u << 20)

static int control_connect(const char *name, struct dmt_err *err)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    ws_sock_path(name, sa.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return dmt_err_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0)
        return fd;
    int code = -errno;
    close(fd);
    dmt_err_set(err, code, "workspace %s is not running on this machine", name);
    if (code == -EACCES)
        dmt_err_set(err, code, "no permission to talk to workspace %s (%s)", name, sa.sun_path);
    dmt_err_hint(err,
                 code == -EACCES ? "Run this as root." : "Mount it first: mount -t dumont %s DIR",
                 name);
    return code;
}

static void show_progress(const json_t *p)
{
    progress(json_str(p, "what"), json_u64(p, "done"), json_u64(p, "total"));
}

/* Reads lines until one carries "result" or "error". */
static int control_answer(FILE *f, const char *name, json_t **ret, struct dmt_err *err)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int rc = dmt_err_set(err, -EPIPE, "workspace %s ended before it answered", name);
    while ((n = getline(&line, &cap, f)) > 0 && n < LINE_MAX_BYTES) {
        json_t *v = json_loadb(line, (size_t)n, 0, NULL);
        if (!v) {
            rc = dmt_err_set(err, -EPROTO, "workspace %s gave an answer that is not JSON", name);
            break;
        }
        json_t *p = json_object_get(v, "progress"), *e = json_object_get(v, "error"),
               *r = json_object_get(v, "result");
        if (p)
            show_progress(p);
        if (e) {
            rc = dmt_err_set(err, (int)json_integer_value(json_object_get(e, "code")), "%s",
                             json_str(e, "message"));
            if (rc == 0)
                rc = -EIO;
            dmt_err_hint(err, "%s", json_str(e, "hint"));
        }
        if (r) {
            *ret = json_incref(r);
            rc = 0;
        }
        json_decref(v);
        if (e || r)
            break;
    }
    free(line);
    progress_end();
    return rc;
}

int control_call(const char *name, json_t *request, json_t **ret_result, struct dmt_err *err)
{
    int rc;
    char *text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    int fd = control_connect(name, err);
    if (fd < 0 || !text) {
        free(text);
        return fd < 0 ? fd : -ENOMEM;
    }
    FILE *f = fdopen(fd, "r+");
    if (!f) {
        free(text);
        close(fd);
        return dmt_err_set(err, -ENOMEM, "out of memory");
    }
    if (fprintf(f, "%s\n", text) < 0 || fflush(f) != 0)
        rc = dmt_err_set(err, -EPIPE, "workspace %s closed the connection", name);
    else
        rc = control_answer(f, name, ret_result, err);
    fclose(f);
    free(text);
    return rc;
}

int dumontd_call(const char *method, const char *path, json_t *body, json_t **ret_result,
                 struct dmt_err *err)
{
    char url[1024];
    const char *sock = getenv("DUMONTD_SOCKET");
    const char *const headers[] = {"Content-Type: application/json", NULL};
    struct dmt_http_res res;
    memset(&res, 0, sizeof res);
    if (!sock && access("/run/dumont/dumontd.sock", F_OK) == 0)
        sock = "/run/dumont/dumontd.sock";
    snprintf(url, sizeof url, "http://%s/api/v1%s", sock ? "localhost" : "127.0.0.1:7400", path);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    struct dmt_http *h = dmt_http_new();
    struct dmt_http_req req = {.method = method,
                               .url = url,
                               .unix_socket = sock,
                               .headers = headers,
                               .body = text,
                               .body_len = text ? strlen(text) : 0,
                               .response_max = LINE_MAX_BYTES,
                               .stall_timeout_s = 600};
    int rc = dmt_http_do(h, &req, &res, err);
    if (rc != 0) {
        dmt_err_wrap(err, "cannot reach dumontd");
        dmt_err_hint(err, "Is dumontd running on this machine? Start it with: dumontd");
    } else {
        json_t *v = json_loadb((const char *)res.body.p, res.body.len, 0, NULL);
        if (res.status >= 200 && res.status < 300) {
            *ret_result = v ? json_incref(v) : json_object();
        } else {
            rc = dmt_err_set(err, -EREMOTEIO, "%s",
                             *json_str(v, "error") ? json_str(v, "error") : "dumontd refused");
            dmt_err_hint(err, "%s", json_str(v, "hint"));
        }
        json_decref(v);
    }
    dmt_buf_free(&res.body);
    dmt_http_free(h);
    free(text);
    return rc;
}
