/* control.c: the client side of a workspace's control socket (one JSON value a line,
 * docs/formats.md) and of dumontd's HTTP API.
 * Happy path: connect, send the request, show progress lines, return the result. Failure: nobody
 * listens: CALL_ABSENT, and the sentence tells an unknown workspace from one that does not run
 * here; a cut connection in the middle says that the process ended. One thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "fs/base/holder_proto.h"
#include "fs/base/http.h"
#include "fs/base/limits.h"
#include "fs/base/options.h"
#include "tools/dumont.h"

#define LINE_MAX_BYTES  (64u << 20)
#define API_STALL_S     600
#define RESTART_POLL_MS 20
#define RESTART_MAX_MS  10000

static int try_connect(const struct sockaddr_un *sa)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)sa, sizeof *sa) == 0)
        return fd < 0 ? -errno : fd;
    int code = -errno;
    close(fd);
    return code;
}

/* Why nobody listens: there is no such workspace, a bad name, or it does not run here. */
static int absent(const char *name, struct dmt_err *err)
{
    struct dmt_conf *c = NULL;
    char store[4096];
    int rc = ws_load(name, &c, store, err);
    if (rc != 0)
        return rc == -ENOENT ? CALL_ABSENT : DMT_E_CONFIG;
    const char *role = dmt_conf_get(c, "role");
    bool standby = role && strcmp(role, "standby") == 0;
    dmt_conf_free(c);
    dmt_err_set(err, -ECONNREFUSED, "workspace %s is not running on this machine", name);
    if (standby)
        dmt_err_hint(err,
                     "It is a standby: dumontd starts it; `dumont workspace start %s`, if it "
                     "was stopped.",
                     name);
    else
        dmt_err_hint(err, "Mount it first: mount -t dumont %s DIR", name);
    return CALL_ABSENT;
}

static int dial(const char *name)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (!ws_name_valid(name))
        return -ENOENT;
    ws_sock_path(name, sa.sun_path);
    for (int ms = 0;; ms += RESTART_POLL_MS) {
        bool holder = dmt_holder_lives(name);
        int code = try_connect(&sa);
        /* A holder without its process is starting one, or on its way out. */
        if (!holder || (code != -ENOENT && code != -ECONNREFUSED) || ms >= RESTART_MAX_MS)
            return code;
        usleep(RESTART_POLL_MS * 1000);
    }
}

bool ws_runs(const char *name)
{
    int fd = dial(name);
    if (fd >= 0)
        close(fd);
    return fd >= 0 || fd == -EACCES;
}

static int control_connect(const char *name, int *ret, struct dmt_err *err)
{
    int fd = *ret = dial(name);
    if (fd >= 0)
        return 0;
    if (fd == -ENOENT || fd == -ECONNREFUSED || fd == -ENOTDIR)
        return absent(name, err);
    dmt_err_set(err, fd, "cannot talk to workspace %s: %s", name, dmt_strerror(fd));
    dmt_err_hint(err,
                 fd == -EACCES ? "Run this as root." : "`dumont doctor` looks at this machine.");
    return fd;
}

static int take_error(const json_t *e, struct dmt_err *err)
{
    int code = (int)json_integer_value(json_object_get(e, "code"));
    int rc = dmt_err_set(err, code < 0 ? code : -EIO, "%s", json_str(e, "message"));
    dmt_err_hint(err, "%s", json_str(e, "hint"));
    return rc;
}

/* Reads lines until one carries "result" or "error". */
static int control_answer(FILE *f, const char *name, json_t **ret, struct dmt_err *err)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int rc = dmt_err_set(err, -EPIPE, "workspace %s ended before it answered", name);
    dmt_err_hint(err, "Its log says why: %s/%s.log", dmt_dir_log(), name);
    while ((n = getline(&line, &cap, f)) > 0 && n < LINE_MAX_BYTES) {
        json_t *v = json_loadb(line, (size_t)n, 0, NULL);
        json_t *p = json_object_get(v, "progress"), *e = json_object_get(v, "error"),
               *r = json_object_get(v, "result");
        if (p)
            progress(json_str(p, "what"), json_u64(p, "done"), json_u64(p, "total"),
                     json_str(p, "unit"));
        else if (e)
            rc = take_error(e, err);
        else if (r)
            *ret = json_incref(r), rc = 0;
        else
            rc = dmt_err_set(err, -EPROTO, "workspace %s gave an answer that makes no sense", name);
        json_decref(v);
        if (!p)
            break;
    }
    free(line);
    return rc;
}

/* Without SIGPIPE: a process that is being replaced may end just now. */
static bool send_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k < 0 && errno != EINTR)
            return false;
        p += k > 0 ? k : 0;
        n -= k > 0 ? (size_t)k : 0;
    }
    return true;
}

int control_call(const char *name, json_t *request, json_t **ret_result, struct dmt_err *err)
{
    struct dmt_err unheard;
    char *text = json_dumps(request, JSON_COMPACT), what[160];
    json_decref(request);
    memset(err = err ? err : &unheard, 0, sizeof *err);
    if (!text) {
        dmt_err_set(err, -EILSEQ, "a name in this request is not UTF-8");
        return dmt_err_hint(err, "Only commands on the whole workspace can reach such files.");
    }
    int fd, rc = control_connect(name, &fd, err);
    FILE *f = rc == 0 ? fdopen(fd, "r") : NULL;
    if (rc == 0 && !f) {
        rc = dmt_err_set(err, -errno, "out of memory");
        close(fd);
    }
    if (f) {
        snprintf(what, sizeof what, "waiting for workspace %s", name);
        progress(what, 0, 0, "");
        if (!send_all(fd, text, strlen(text)) || !send_all(fd, "\n", 1))
            rc = dmt_err_set(err, -EPIPE, "workspace %s closed the connection", name);
        else
            rc = control_answer(f, name, ret_result, err);
        progress_end();
        fclose(f);
    }
    free(text);
    return rc;
}

/* --- dumontd ---------------------------------------------------------------------------------- */
static int api_answer(const struct dmt_http_res *res, json_t **ret, struct dmt_err *err)
{
    json_t *v = json_loadb((const char *)res->body.p, res->body.len, 0, NULL);
    int rc = 0;
    if (res->status >= 200 && res->status < 300) {
        *ret = v ? json_incref(v) : json_object();
    } else {
        const char *text = json_str(v, "error");
        rc = dmt_err_set(err, -EREMOTEIO, "%s", *text ? text : "dumontd refused");
        dmt_err_hint(err, "%s", json_str(v, "hint"));
    }
    json_decref(v);
    return rc;
}

int dumontd_call(const char *method, const char *path, json_t *body, json_t **ret_result,
                 struct dmt_err *err)
{
    char url[1024], sock[256];
    const char *given = getenv("DUMONTD_SOCKET");
    const char *const headers[] = {"Content-Type: application/json", NULL};
    struct dmt_http_res res;
    memset(&res, 0, sizeof res);
    snprintf(sock, sizeof sock, "%s/dumontd.sock", dmt_dir_run());
    if (given)
        snprintf(sock, sizeof sock, "%s", given);
    bool local = given || access(sock, F_OK) == 0;
    snprintf(url, sizeof url, "http://%s/api/v1%s", local ? "localhost" : "127.0.0.1:7400", path);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    struct dmt_http *h = dmt_http_new();
    struct dmt_http_req req = {.method = method,
                               .url = url,
                               .unix_socket = local ? sock : NULL,
                               .headers = headers,
                               .body = text,
                               .body_len = text ? strlen(text) : 0,
                               .response_max = LINE_MAX_BYTES,
                               .stall_timeout_s = API_STALL_S};
    progress("waiting for dumontd", 0, 0, "");
    int rc = dmt_http_do(h, &req, &res, err);
    progress_end();
    if (rc != 0) {
        dmt_err_wrap(err, "cannot reach dumontd at %s", local ? sock : "127.0.0.1:7400");
        dmt_err_hint(err, "Is it running on this machine? Start it with: dumontd");
        rc = CALL_ABSENT;
    } else {
        rc = api_answer(&res, ret_result, err);
    }
    dmt_buf_free(&res.body);
    dmt_http_free(h);
    free(text);
    return rc;
}
