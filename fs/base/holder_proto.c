/* holder_proto.c: the datagrams between a holder and its workspace process, and the ready line.
 *
 * Owns no state. A message is one datagram: a six-byte head, then the fields its type has,
 * described once in FIELDS below; encode, decode and the fuzzer all follow that table. The
 * descriptor of FUSE rides in the same datagram (SCM_RIGHTS), so it can neither arrive without its
 * message nor be left over.
 *
 * Failure modes: the other end is gone (-EPIPE on send, DMT_E_CLOSED on receive); a peer of another
 * version (DMT_E_VERSION: an upgrade replaced one of the two programs); a datagram that does not
 * decode (DMT_E_CORRUPT). A descriptor that comes with a message that has none, or more than one,
 * is closed. Thread: any; a socket is read by one thread.
 */
#include "fs/base/holder_proto.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/bytes.h"
#include "fs/base/io.h"
#include "fs/base/options.h"

/* One bit per field, in the order they are encoded. */
#define F_PID      1u
#define F_FLAGS    2u
#define F_CODE     4u
#define F_INSTANCE 8u
#define F_DEV      16u
#define F_DIR      32u
#define F_OPTIONS  64u
#define F_TEXT     128u
#define F_HINT     256u
#define F_INIT     512u
#define F_FD       1024u

static unsigned fields_of(unsigned type)
{
    switch (type) {
    case DMT_HP_HELLO:
        return F_PID;
    case DMT_HP_MOUNT:
        return F_DIR | F_OPTIONS;
    case DMT_HP_UNMOUNT:
    case DMT_HP_TERMINATE:
        return F_FLAGS;
    case DMT_HP_READY:
    case DMT_HP_FAILED:
    case DMT_HP_NOMOUNT:
        return F_CODE | F_TEXT | F_HINT;
    case DMT_HP_FUSE:
        return F_FLAGS | F_INSTANCE | F_DEV | F_DIR | F_INIT | F_FD;
    case DMT_HP_UNMOUNTED:
        return F_CODE;
    default:
        return 0;
    }
}

ssize_t dmt_hp_encode(const struct dmt_hp_msg *m, uint8_t *buf, size_t size)
{
    unsigned f = fields_of(m->type);
    struct dmt_buf b;
    ssize_t rc = -EMSGSIZE;

    if (!f || m->init_len > DMT_HP_INIT_MAX)
        return -EINVAL;
    dmt_buf_init(&b);
    dmt_put_u16(&b, DMT_HP_MAGIC);
    dmt_put_u16(&b, DMT_HP_VERSION);
    dmt_put_u16(&b, (uint16_t)m->type);
    if (f & F_PID)
        dmt_put_u32(&b, m->pid);
    if (f & F_FLAGS)
        dmt_put_u32(&b, m->flags);
    if (f & F_CODE)
        dmt_put_u32(&b, m->code);
    if (f & F_INSTANCE)
        dmt_put_u32(&b, m->instance);
    if (f & F_DEV)
        dmt_put_u64(&b, m->dev);
    if (f & F_DIR)
        dmt_put_str(&b, m->dir);
    if (f & F_OPTIONS)
        dmt_put_str(&b, m->options);
    if (f & F_TEXT)
        dmt_put_str(&b, m->text);
    if (f & F_HINT)
        dmt_put_str(&b, m->hint);
    if (f & F_INIT)
        dmt_put_bytes(&b, m->init, m->init_len);
    if (b.bad) {
        rc = -ENOMEM;
    } else if (b.len <= size) {
        memcpy(buf, b.p, b.len);
        rc = (ssize_t)b.len;
    }
    dmt_buf_free(&b);
    return rc;
}

int dmt_hp_decode(const void *buf, size_t len, struct dmt_hp_msg *ret)
{
    struct dmt_cur c = dmt_cur_of(buf, len);
    unsigned f;

    memset(ret, 0, sizeof(*ret));
    ret->fd = -1;
    if (dmt_get_u16(&c) != DMT_HP_MAGIC)
        return DMT_E_CORRUPT;
    if (dmt_get_u16(&c) != DMT_HP_VERSION)
        return DMT_E_VERSION;
    ret->type = (enum dmt_hp_type)dmt_get_u16(&c);
    f = fields_of(ret->type);
    if (!f)
        return DMT_E_CORRUPT;
    if (f & F_PID)
        ret->pid = dmt_get_u32(&c);
    if (f & F_FLAGS)
        ret->flags = dmt_get_u32(&c);
    if (f & F_CODE)
        ret->code = dmt_get_u32(&c);
    if (f & F_INSTANCE)
        ret->instance = dmt_get_u32(&c);
    if (f & F_DEV)
        ret->dev = dmt_get_u64(&c);
    if (f & F_DIR)
        dmt_get_str(&c, ret->dir, sizeof(ret->dir));
    if (f & F_OPTIONS)
        dmt_get_str(&c, ret->options, sizeof(ret->options));
    if (f & F_TEXT)
        dmt_get_str(&c, ret->text, sizeof(ret->text));
    if (f & F_HINT)
        dmt_get_str(&c, ret->hint, sizeof(ret->hint));
    if (f & F_INIT) {
        uint32_t n = 0;
        const uint8_t *p = dmt_get_bytes(&c, &n);
        if (!p || n > sizeof(ret->init))
            return DMT_E_CORRUPT;
        memcpy(ret->init, p, n);
        ret->init_len = n;
    }
    return dmt_cur_end(&c);
}

int dmt_hp_send(int sock, const struct dmt_hp_msg *m)
{
    uint8_t *data = malloc(DMT_HP_MSG_MAX);
    ssize_t n = data ? dmt_hp_encode(m, data, DMT_HP_MSG_MAX) : -ENOMEM;
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = data};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n < 0)
        goto out;
    iov.iov_len = (size_t)n;
    if ((fields_of(m->type) & F_FD) && m->fd >= 0) {
        memset(&control, 0, sizeof(control));
        mh.msg_control = control.space;
        mh.msg_controllen = sizeof(control.space);
        struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
        cm->cmsg_level = SOL_SOCKET;
        cm->cmsg_type = SCM_RIGHTS;
        cm->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cm), &m->fd, sizeof(int));
    }
    do {
        n = sendmsg(sock, &mh, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    n = n < 0 ? -errno : 0;
out:
    free(data);
    return (int)n;
}

/* Takes the first descriptor of a received message, closes any other. */
static int take_fd(struct msghdr *mh)
{
    int fd = -1;
    for (struct cmsghdr *cm = CMSG_FIRSTHDR(mh); cm; cm = CMSG_NXTHDR(mh, cm)) {
        if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int one;
            memcpy(&one, CMSG_DATA(cm) + i * sizeof(int), sizeof(int));
            if (fd < 0)
                fd = one;
            else
                close(one);
        }
    }
    return fd;
}

int dmt_hp_recv(int sock, struct dmt_hp_msg *ret)
{
    uint8_t *data = malloc(DMT_HP_MSG_MAX);
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = data, .iov_len = DMT_HP_MSG_MAX};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = control.space,
                        .msg_controllen = sizeof(control.space)};
    ssize_t n;
    int rc, fd;

    if (!data)
        return -ENOMEM;
    do {
        n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        rc = n == 0 || errno == ECONNRESET ? DMT_E_CLOSED : -errno;
        goto out;
    }
    fd = take_fd(&mh);
    rc = mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? DMT_E_CORRUPT
                                                 : dmt_hp_decode(data, (size_t)n, ret);
    if (rc == 0 && ret->type == DMT_HP_FUSE) {
        ret->fd = fd;
        if (fd < 0)
            rc = DMT_E_CORRUPT;
    } else if (fd >= 0) {
        close(fd);
    }
out:
    free(data);
    return rc;
}

static int holder_file(const char *name)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s.holder", dmt_dir_run(), name);
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

int dmt_holder_mark(const char *name)
{
    (void)dmt_io_mkdirs(dmt_io_real(), dmt_dir_run(), 0755);
    int fd = holder_file(name);
    if (fd < 0)
        return -errno;
    while (flock(fd, LOCK_SH) < 0)
        if (errno != EINTR) {
            int rc = -errno;
            close(fd);
            return rc;
        }
    return fd;
}

bool dmt_holder_lives(const char *name)
{
    int fd = holder_file(name);
    bool lives = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    return lives;
}

void dmt_ready_write(int fd, int code, const char *text, const char *hint)
{
    char line[2 * DMT_HP_TEXT_MAX + 32];
    int n = snprintf(line, sizeof(line), "%d\n%.*s\n%.*s\n", code, (int)DMT_HP_TEXT_MAX - 1,
                     text ? text : "", (int)DMT_HP_TEXT_MAX - 1, hint ? hint : "");
    /* The starter may have given up and gone: nobody is left to tell. One write: shorter than
     * PIPE_BUF, so it is whole. */
    ssize_t w = write(fd, line, (size_t)n);
    (void)w;
    close(fd);
}

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* "CODE\nTEXT\nHINT\n" -> its parts; 0 or DMT_E_CORRUPT. */
static int ready_parse(char *line, int *ret_code, struct dmt_err *err)
{
    char *save = NULL, *end;
    char *text = strchr(line, '\n');
    if (!text)
        return DMT_E_CORRUPT;
    *text++ = '\0';
    char *hint = strchr(text, '\n');
    if (!hint)
        return DMT_E_CORRUPT;
    *hint++ = '\0';
    (void)strtok_r(hint, "\n", &save);
    long code = strtol(line, &end, 10);
    if (end == line || *end || code < 0 || code > 255)
        return DMT_E_CORRUPT;
    *ret_code = (int)code;
    dmt_err_set(err, 0, "%s", text);
    dmt_err_hint(err, "%s", hint[0] == '\n' ? "" : hint);
    return 0;
}

int dmt_ready_read(int fd, int timeout_ms, const volatile int *stop, int *ret_code,
                   struct dmt_err *err)
{
    char line[2 * DMT_HP_TEXT_MAX + 64];
    size_t used = 0;
    int64_t until = now_ms() + timeout_ms;

    for (;;) {
        int64_t left = until - now_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (stop && *stop)
            return -EINTR;
        if (left <= 0)
            return -ETIMEDOUT;
        /* Short waits: a signal that sets *stop between the test above and poll() must not be slept
         * over. */
        int rc = poll(&p, 1, left > 100 ? 100 : (int)left);
        if (rc < 0 && errno != EINTR)
            return -errno;
        if (rc <= 0)
            continue;
        ssize_t n = read(fd, line + used, sizeof(line) - 1 - used);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            used += (size_t)n;
            continue;
        }
        if (n == 0) {
            line[used] = '\0';
            return used == 0 ? DMT_E_CLOSED : ready_parse(line, ret_code, err);
        }
    }
}
