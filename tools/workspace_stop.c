/* workspace_stop.c: `dumont workspace stop|start NAME`: for a workspace that dumontd runs without a
 * mount, a standby above all; `restart NAME`: for a mounted one.
 *
 * stop: RUN/NAME.stopped tells dumontd to leave it alone, then the process is asked for an orderly
 * end (a standby tells its holder, who goes on alone at once), and waited for. Failure: it is
 * mounted, or does not end in time: said, and the mark is taken back only in the first case. start
 * takes the mark away; dumontd does the rest. The mark lies in /run: a boot forgets it.
 *
 * restart: the process makes everything durable and ends; its holder starts the program that is
 * installed now, which takes the mount over. Failure: it is not mounted, the kernel cannot. One
 * thread.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>
#include "fs/base/options.h"
#include "tools/dumont.h"

#define END_MAX_MS   60000
#define START_MAX_MS 10000
#define POLL_MS      50
#define RESTART_MS   60000

static int mark(const char *name)
{
    char path[4096];
    ws_stopped_path(name, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return failf(EXIT_FAILED, "Run this as root.", "cannot write %s: %s", path,
                     strerror(errno));
    close(fd);
    return EXIT_OK;
}

static int done(const char *name, const char *what, const char *text)
{
    if (opt_json) {
        json_t *o = json_pack("{s:s, s:s}", "name", name, "state", what);
        print_json(o);
        json_decref(o);
    } else {
        printf("%s %s\n", name, text);
    }
    return EXIT_OK;
}

static int known(const char *name, struct dmt_conf **c)
{
    struct dmt_err err = {0};
    char store[4096];
    int rc = ws_load(name, c, store, &err);
    return rc == 0 ? EXIT_OK : fail_conf(rc, &err);
}

/* Until the process is gone: then its store is free. */
static int wait_end(const char *name, int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    progress("waiting for its end", 0, 0, "");
    int n = poll(&p, 1, END_MAX_MS);
    progress_end();
    if (n != 0)
        return EXIT_OK;
    return failf(EXIT_FAILED, "`dumont status` and its log show what it waits for.",
                 "%s was asked to end and has not after %d s", name, END_MAX_MS / 1000);
}

int ws_stop(const char *name)
{
    struct dmt_err err = {0};
    struct dmt_conf *c = NULL;
    json_t *s = NULL;
    int code = known(name, &c);
    dmt_conf_free(c);
    if (code != EXIT_OK)
        return code;
    int rc = control_call(name, json_pack("{s:s}", "cmd", "status"), &s, &err);
    if (rc < 0)
        return fail_call(rc, &err);
    const char *dir = json_str(s, "mountpoint");
    int pid = (int)json_u64(s, "pid");
    if (rc == 0 && *dir) {
        code =
            failf(EXIT_FAILED, "Unmount it: that ends it, too.", "%s is mounted on %s", name, dir);
        json_decref(s);
        return code;
    }
    json_decref(s);
    if ((code = mark(name)) != EXIT_OK)
        return code;
    int pidfd = rc == 0 ? pidfd_open(pid, 0) : -1;
    if (pidfd >= 0) {
        rc = control_call(name, json_pack("{s:s}", "cmd", "stop"), &s, &err);
        code = rc < 0 ? fail_call(rc, &err) : wait_end(name, pidfd);
        json_decref(rc == 0 ? s : NULL);
        close(pidfd);
    }
    return code == EXIT_OK ? done(name, "stopped",
                                  "is stopped; start it again with: dumont workspace start NAME")
                           : code;
}

int ws_start(const char *name)
{
    struct dmt_conf *c = NULL;
    char path[4096];
    int code = known(name, &c);
    if (code != EXIT_OK)
        return code;
    const char *role = dmt_conf_get(c, "role"), *autos = dmt_conf_get(c, "auto");
    bool by_dumontd = (role && strcmp(role, "standby") == 0) || (autos && strcmp(autos, "no") != 0);
    dmt_conf_free(c);
    ws_stopped_path(name, path);
    if (unlink(path) != 0 && errno != ENOENT)
        return failf(EXIT_FAILED, "Run this as root.", "cannot remove %s: %s", path,
                     strerror(errno));
    if (ws_runs(name))
        return done(name, "running", "is running");
    if (!by_dumontd)
        return failf(EXIT_FAILED, "It is started by mounting it: mount -t dumont NAME DIR",
                     "%s is not a standby that dumontd starts", name);
    progress("waiting for dumontd to start it", 0, 0, "");
    for (int ms = 0; ms < START_MAX_MS && !ws_runs(name); ms += POLL_MS)
        usleep(POLL_MS * 1000);
    progress_end();
    if (ws_runs(name))
        return done(name, "running", "is running");
    return failf(EXIT_FAILED,
                 "dumontd starts it: is it running on this machine? Its log says more.",
                 "%s has not started within %d s", name, START_MAX_MS / 1000);
}

/* Who serves it? 0 with *ret_pid (0: nobody, just now), CALL_ABSENT or < 0. */
static int server_of(const char *name, uint64_t *ret_pid, struct dmt_err *err)
{
    json_t *s = NULL;
    *ret_pid = 0;
    int rc = control_call(name, json_pack("{s:s}", "cmd", "status"), &s, err);
    if (rc == 0 && *json_str(s, "mountpoint"))
        *ret_pid = json_u64(s, "pid");
    json_decref(rc == 0 ? s : NULL);
    return rc == -EPIPE ? 0 : rc; /* it was asked while it ended */
}

int ws_restart(const char *name)
{
    struct dmt_err err = {0};
    json_t *r = NULL;
    uint64_t old, now;
    char text[96];
    int rc = server_of(name, &old, &err);
    if (rc == 0)
        rc = control_call(name, json_pack("{s:s}", "cmd", "restart"), &r, &err);
    if (rc != -EPIPE) /* its end is the answer */
        return fail_call(rc, &err);
    for (int ms = 0; ms < RESTART_MS; ms += POLL_MS) {
        rc = server_of(name, &now, &err);
        if (rc != 0)
            return fail_call(rc, &err);
        if (now != 0 && now != old) {
            snprintf(text, sizeof text, "is served by process %" PRIu64 " now", now);
            return done(name, "restarted", text);
        }
        usleep(POLL_MS * 1000);
    }
    return failf(EXIT_FAILED, "`dumont status` and its log show what it waits for.",
                 "the new process of %s does not serve yet", name);
}
