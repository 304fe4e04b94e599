/* jline.c: JSON objects as lines over stream sockets.
 *
 * Owns nothing: descriptors and buffers are the callers'. Happy path of a client: connect, send one
 * line, read one line. A line longer than JLINE_MAX or one that is not a JSON object ends the
 * connection (-EBADMSG), because nothing after it can be trusted to start at a line. Thread: any.
 */
#include "daemon/common/jline.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fs/base/clock.h"

static int unix_address(const char *path, struct sockaddr_un *sa, struct dmt_err *err)
{
    memset(sa, 0, sizeof(*sa));
    sa->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof(sa->sun_path))
        return dmt_err_set(err, -ENAMETOOLONG, "the socket path %s is too long (%zu bytes at most)",
                           path, sizeof(sa->sun_path) - 1);
    memcpy(sa->sun_path, path, strlen(path) + 1);
    return 0;
}

int jline_connect(const char *path, struct dmt_err *err)
{
    struct sockaddr_un sa;
    int r = unix_address(path, &sa, err);
    if (r < 0)
        return r;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return dmt_err_set(err, -errno, "socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0) {
        r = -errno;
        close(fd);
        return dmt_err_set(err, r, "cannot connect to %s: %s", path, strerror(-r));
    }
    return fd;
}

int jline_listen(const char *path, unsigned mode, struct dmt_err *err)
{
    struct sockaddr_un sa;
    int r = unix_address(path, &sa, err);
    if (r < 0)
        return r;
    int probe = jline_connect(path, NULL);
    if (probe >= 0) {
        close(probe);
        return dmt_err_set(err, -EADDRINUSE, "%s is in use: another process listens there", path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return dmt_err_set(err, -errno, "socket: %s", strerror(errno));
    (void)unlink(path);
    /* The mode must be right from the first moment on: the socket is made under a umask. */
    mode_t old = umask(~(mode_t)mode & 0777);
    r = bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
    umask(old);
    if (r == 0 && listen(fd, 64) < 0)
        r = -errno;
    if (r < 0) {
        close(fd);
        return dmt_err_set(err, r, "cannot listen on %s: %s", path, strerror(-r));
    }
    return fd;
}

int jline_send(int fd, const json_t *v)
{
    char *s = json_dumps(v, JSON_COMPACT);
    if (!s)
        return -ENOMEM;
    size_t n = strlen(s);
    s[n] = '\n'; /* in place of the NUL: length is known */
    int r = 0;
    for (size_t done = 0; done < n + 1;) {
        ssize_t w = send(fd, s + done, n + 1 - done, MSG_NOSIGNAL);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0) {
            r = -errno;
            break;
        }
        done += (size_t)w;
    }
    free(s);
    return r;
}

int jline_take(struct dmt_buf *in, json_t **ret)
{
    const uint8_t *nl = in->len ? memchr(in->p, '\n', in->len) : NULL;
    if (!nl)
        return in->len > JLINE_MAX ? -EBADMSG : 0;
    size_t n = (size_t)(nl - in->p);
    json_t *v = json_loadb((const char *)in->p, n, JSON_REJECT_DUPLICATES, NULL);
    memmove(in->p, in->p + n + 1, in->len - n - 1);
    in->len -= n + 1;
    if (!json_is_object(v)) {
        json_decref(v);
        return -EBADMSG;
    }
    *ret = v;
    return 1;
}

static uint64_t now_ms(void)
{
    const struct dmt_clock *c = dmt_clock_real();
    return c->monotonic_ns(c->ctx) / DMT_MS;
}

int jline_recv(int fd, struct dmt_buf *in, int timeout_ms, json_t **ret)
{
    uint64_t end = now_ms() + (uint64_t)timeout_ms;
    for (;;) {
        int r = jline_take(in, ret);
        if (r != 0)
            return r < 0 ? r : 0;
        uint64_t now = now_ms();
        if (now >= end)
            return -ETIMEDOUT;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, (int)(end - now)) < 0 && errno != EINTR)
            return -errno;
        if (!p.revents)
            continue;
        uint8_t chunk[16384];
        ssize_t n = recv(fd, chunk, sizeof(chunk), MSG_DONTWAIT);
        if (n == 0)
            return DMT_E_CLOSED;
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n > 0)
            dmt_put_raw(in, chunk, (size_t)n);
        if (in->bad)
            return -ENOMEM;
    }
}

int jline_ask(const char *path, const json_t *question, int timeout_ms, json_t **ret,
              struct dmt_err *err)
{
    int fd = jline_connect(path, err);
    if (fd < 0)
        return fd;
    struct dmt_buf in;
    dmt_buf_init(&in);
    int r = jline_send(fd, question);
    if (r == 0)
        r = jline_recv(fd, &in, timeout_ms, ret);
    if (r < 0)
        dmt_err_set(err, r, "no answer from %s: %s", path, dmt_strerror(r));
    dmt_buf_free(&in);
    close(fd);
    return r;
}

const char *jline_str(const json_t *o, const char *key, const char *dflt)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : dflt;
}

json_int_t jline_int(const json_t *o, const char *key, json_int_t dflt)
{
    const json_t *v = json_object_get(o, key);
    return json_is_integer(v) ? json_integer_value(v) : dflt;
}

bool jline_bool(const json_t *o, const char *key, bool dflt)
{
    const json_t *v = json_object_get(o, key);
    return json_is_boolean(v) ? json_is_true(v) : dflt;
}
