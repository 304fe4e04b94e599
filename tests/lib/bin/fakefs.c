/* fakefs.c: a workspace process that does nothing, for the tests of holder and mount helper.
 * Started as `dumontfs` (a link to it in the folder that DUMONT_LIBDIR names); speaks the holder's
 * protocol, answers status and drain on the control socket, and serves an empty root directory.
 * FAKEFS (environment) says how it misbehaves:
 *
 *   serve (default)   all is well                      hang      never says READY
 *   fail              FAILED 32 with text and hint     held      READY 32, alive, not mounted
 *   die               killed by SIGKILL before READY   nohello   closes its end at once, lives on
 *   crash             SIGKILL to itself at the first LOOKUP of "crash"
 *   once              the same, but a successor (--resume) answers it
 *   again             exits for a new start (DMT_HP_EXIT_RESTART) at that LOOKUP; a successor
 *                     answers it
 *   refuse            killed at that LOOKUP; a successor says FAILED
 *   lazy              killed at that LOOKUP; a successor never asks for the mount
 *   mute              mounts, says READY, answers no request
 *
 * Arguments as given to dumontfs are written to the file FAKEFS_ARGS, if set. One thread.
 */
#include <fcntl.h>
#include <getopt.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>
#include "fs/base/holder_proto.h"
#include "fs/base/io.h"
#include "fs/base/options.h"

static struct {
    const char *name, *mode, *mountpoint;
    bool resumed;
    int holder, fuse, listener;
    char dir[DMT_HP_DIR_MAX], sock_path[108];
    struct dmt_hp_msg msg;
} me;

static void say(enum dmt_hp_type type, uint32_t code, const char *text, const char *hint)
{
    memset(&me.msg, 0, sizeof(me.msg));
    me.msg.type = type;
    me.msg.code = code;
    me.msg.pid = (uint32_t)getpid();
    me.msg.fd = -1;
    (void)snprintf(me.msg.text, sizeof(me.msg.text), "%s", text);
    (void)snprintf(me.msg.hint, sizeof(me.msg.hint), "%s", hint);
    if (dmt_hp_send(me.holder, &me.msg) < 0)
        exit(3);
}

static bool is(const char *mode)
{
    return strcmp(me.mode, mode) == 0;
}

/* --- the kernel --------------------------------------------------------------------------- */

static void reply(const struct fuse_in_header *h, int err, const void *body, size_t len)
{
    struct fuse_out_header o = {.unique = h->unique, .error = err};
    struct iovec iov[2] = {{&o, sizeof(o)}, {(void *)(uintptr_t)body, len}};
    o.len = (uint32_t)(sizeof(o) + (err ? 0 : len));
    ssize_t n = writev(me.fuse, iov, err || !len ? 1 : 2);
    (void)n;
}

static void root_attr(struct fuse_attr *a)
{
    memset(a, 0, sizeof(*a));
    a->ino = 1;
    a->mode = S_IFDIR | 0755;
    a->nlink = 2;
    a->blksize = 4096;
}

static void request(const struct fuse_in_header *h)
{
    struct fuse_attr_out attr;
    struct fuse_statfs_out sfs;
    if (is("mute"))
        return;
    switch (h->opcode) {
    case FUSE_GETATTR:
        memset(&attr, 0, sizeof(attr));
        attr.attr_valid = 1;
        root_attr(&attr.attr);
        reply(h, 0, &attr, sizeof(attr));
        return;
    case FUSE_LOOKUP:
        if (strcmp((const char *)(h + 1), "crash") == 0 && (is("crash") || !me.resumed)) {
            if (is("again"))
                _exit(DMT_HP_EXIT_RESTART);
            if (is("crash") || is("once") || is("refuse") || is("lazy"))
                (void)raise(SIGKILL);
        }
        reply(h, -ENOENT, NULL, 0);
        return;
    case FUSE_STATFS:
        memset(&sfs, 0, sizeof(sfs));
        sfs.st.bsize = 4096;
        reply(h, 0, &sfs, sizeof(sfs));
        return;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_SYNCFS:
    case FUSE_DESTROY:
        reply(h, 0, NULL, 0);
        return;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        return;
    default:
        reply(h, -ENOSYS, NULL, 0);
    }
}

static void end(void)
{
    (void)unlink(me.sock_path);
    exit(0);
}

static void on_fuse(void)
{
    static uint8_t buf[(1 << 20) + 8192] __attribute__((aligned(8)));
    ssize_t n = read(me.fuse, buf, sizeof(buf));
    if (n >= (ssize_t)sizeof(struct fuse_in_header))
        request((const struct fuse_in_header *)buf);
    else if (n < 0 && errno == ENODEV)
        end();
}

/* --- the holder --------------------------------------------------------------------------- */

static void resend(void)
{
    struct fuse_out_header h = {.len = sizeof(h), .error = 7, .unique = 0};
    if (write(me.fuse, &h, sizeof(h)) != sizeof(h))
        exit(8);
}

static void on_holder(void)
{
    int rc = dmt_hp_recv(me.holder, &me.msg);
    if (rc < 0)
        exit(4);
    switch (me.msg.type) {
    case DMT_HP_FUSE:
        me.fuse = me.msg.fd;
        if (me.msg.flags & DMT_HP_RESUME)
            resend();
        memcpy(me.dir, me.msg.dir, sizeof(me.dir));
        (void)fprintf(stderr, "fakefs: flags %u dev %llu init %u\n", me.msg.flags,
                      (unsigned long long)me.msg.dev, me.msg.init_len);
        if (!is("hang"))
            say(DMT_HP_READY, 0, "serving", "");
        return;
    case DMT_HP_NOMOUNT:
        say(DMT_HP_FAILED, 32, "no mount", "");
        exit(1);
    case DMT_HP_TERMINATE:
        if (is("hang") || me.fuse < 0)
            end();
        say(DMT_HP_UNMOUNT, 0, "", "");
        return;
    case DMT_HP_UNMOUNTED:
        if (me.msg.code == 0)
            end();
        return;
    default:
        exit(5);
    }
}

/* --- the control socket ------------------------------------------------------------------- */

static void listen_control(void)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    (void)dmt_io_mkdirs(dmt_io_real(), dmt_dir_run(), 0755);
    (void)snprintf(me.sock_path, sizeof(me.sock_path), "%.60s/%.40s.sock", dmt_dir_run(), me.name);
    memcpy(sa.sun_path, me.sock_path, sizeof(sa.sun_path));
    (void)unlink(me.sock_path);
    me.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (me.listener < 0 || bind(me.listener, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
        listen(me.listener, 8) < 0) {
        perror(me.sock_path);
        exit(6);
    }
}

static void on_control(void)
{
    static char line[5000];
    int fd = accept4(me.listener, NULL, NULL, SOCK_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : recv(fd, line, sizeof(line) - 1, 0);
    if (n > 0) {
        line[n] = '\0';
        bool status = strstr(line, "\"status\"") != NULL;
        n = snprintf(line, sizeof(line), "{\"progress\":{}}\n{\"result\":{");
        if (status)
            n += snprintf(line + n, sizeof(line) - (size_t)n,
                          "\"mountpoint\":\"%s\",\"pid\":%d,\"holder\":%s,\"holder_node\":\"gpu\","
                          "\"epoch\":\"7.1\"",
                          me.fuse >= 0 ? me.dir : "", (int)getpid(), is("held") ? "false" : "true");
        n += snprintf(line + n, sizeof(line) - (size_t)n, "}}\n");
        n = send(fd, line, (size_t)n, MSG_NOSIGNAL);
    }
    if (fd >= 0)
        close(fd);
}

/* --- start -------------------------------------------------------------------------------- */

static void parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"name", 1, NULL, 'n'}, {"holder-fd", 1, NULL, 'h'},  {"mountpoint", 1, NULL, 'm'},
        {"conf", 1, NULL, 'c'}, {"foreground", 0, NULL, 'f'}, {"resume", 1, NULL, 'r'},
        {NULL, 0, NULL, 0}};
    const char *args_file = getenv("FAKEFS_ARGS");
    int c;

    me.fuse = me.holder = -1;
    me.mode = getenv("FAKEFS") ? getenv("FAKEFS") : "serve";
    while ((c = getopt_long(argc, argv, "o:", longs, NULL)) != -1) {
        if (c == 'n')
            me.name = optarg;
        else if (c == 'h')
            me.holder = atoi(optarg);
        else if (c == 'm')
            me.mountpoint = optarg;
        else if (c == 'r')
            me.resumed = true;
        else if (c == '?')
            exit(2);
    }
    FILE *f = args_file ? fopen(args_file, "we") : NULL;
    for (int i = 1; f && i < argc; i++)
        (void)fprintf(f, "%s\n", argv[i]);
    if (f)
        (void)fclose(f);
    if (!me.name || me.holder < 0)
        exit(2);
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    if (is("die"))
        (void)raise(SIGKILL);
    if (is("nohello")) {
        close(me.holder);
        for (;;)
            (void)pause();
    }
    say(DMT_HP_HELLO, 0, "", "");
    if (is("fail") || (is("refuse") && me.resumed)) {
        say(DMT_HP_FAILED, 32, "the store is broken at record 17", "dumont check NAME");
        return 1;
    }
    listen_control();
    if (is("held"))
        say(DMT_HP_READY, 32, "held by gpu since epoch 7; standby started here", "wait");
    else if (!me.mountpoint)
        say(DMT_HP_READY, 0, "running", "");
    else if (!is("lazy") || !me.resumed)
        say(DMT_HP_MOUNT, 0, "", "");
    for (;;) {
        struct pollfd p[3] = {
            {me.holder, POLLIN, 0}, {me.listener, POLLIN, 0}, {me.fuse, POLLIN, 0}};
        if (poll(p, 3, -1) < 0 && errno != EINTR)
            return 7;
        if (p[0].revents)
            on_holder();
        if (p[1].revents & POLLIN)
            on_control();
        if (p[2].revents)
            on_fuse();
    }
}
