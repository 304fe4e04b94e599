/* umount.c: umount.dumont DIR|NAME [-flnrv]: waits for the drain, unmounts, and returns when the
 * process has closed its store.
 *
 * Happy path: find the mount; ask the workspace to make everything durable (here and, if paired,
 * there); leave a mark that dumontd is not to start it again; umount2; wait until its process is
 * gone, so that a mount right after finds the store free. -l detaches at once and waits for
 * nothing; -f does not insist on the drain.
 *
 * Failure modes: not mounted (32); in use (32, with how to find by whom); no drain within
 * DRAIN_MAX_MS: says what is pending, leaves the mount alone (32). A process that is being replaced
 * is waited for; a mount whose process and holder are dead is detached.
 */
#include "tools/mount/mount.h"

#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "fs/base/mountinfo.h"
#include "fs/base/options.h"

#define DRAIN_MAX_MS 30000
#define CLOSE_MAX_MS 60000
#define DRAIN_TRIES  5

struct umount_args {
    const char *what;
    bool lazy, force, verbose;
};

static int find_mount(const char *what, struct dmt_mount *m)
{
    char real[PATH_MAX];
    int rc = 0;
    if (strchr(what, '/') || access(what, F_OK) == 0)
        rc = realpath(what, real) ? dmt_mountinfo_at(real, m) : 0;
    if (rc == 0)
        rc = dmt_mountinfo_workspace(what, m);
    if (rc == 1 && m->workspace[0])
        return EX_OK;
    if (rc == 1)
        return complain_text(EX_FAIL, "use umount", "%s is not a Dumont mount", m->dir);
    struct ws_state st;
    if (!strchr(what, '/') && control_status(what, &st, NULL) == 0)
        return complain_text(EX_FAIL, "it is stopped with: dumont workspace stop NAME",
                             "%s runs here without a mount", what);
    return complain_text(EX_FAIL, "`dumont status` shows what is mounted, and where",
                         "%s is not mounted", what);
}

/* Asks for the drain; again, if the process was replaced by a new one meanwhile. */
static int ask_drain(const struct dmt_mount *m, struct dmt_err *err)
{
    struct ws_state st;
    int rc = -EPIPE;
    for (int i = 0; i < DRAIN_TRIES; i++) {
        *err = (struct dmt_err){0};
        rc = control_simple(m->workspace, "drain", DRAIN_MAX_MS, err);
        bool cut = rc == -ENOENT || rc == -ECONNREFUSED || rc == -EPIPE || rc == -ECONNRESET;
        if (!cut || control_status_patient(m->workspace, &st, NULL) < 0)
            break;
    }
    return rc;
}

static int drain(const struct dmt_mount *m, const struct umount_args *a)
{
    struct ws_state st;
    struct dmt_err err = {0};
    int rc = ask_drain(m, &err);

    if (rc == 0 || rc == -ENOENT || rc == -ECONNREFUSED || a->force)
        return EX_OK;
    if (rc == -ETIMEDOUT && control_status(m->workspace, &st, NULL) == 0)
        return complain_text(EX_FAIL,
                             "umount.dumont -f unmounts all the same: what is in the journal here "
                             "stays; -l detaches at once",
                             "%s is not drained after %d s: %llu calls wait%s%s", m->workspace,
                             DRAIN_MAX_MS / 1000, (unsigned long long)st.parked,
                             st.note[0] ? "; " : "", st.note);
    return complain(EX_FAIL, &err);
}

/* Until the process has closed its store. */
static void wait_for_end(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    if (pidfd >= 0 && poll(&p, 1, CLOSE_MAX_MS) == 0)
        (void)fprintf(stderr, "%s: unmounted; the workspace process is still closing its store\n",
                      program);
}

void mount_mark_stopped(const char *name, bool stopped)
{
    char path[DMT_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s.stopped", dmt_dir_run(), name);
    if (!stopped) {
        (void)unlink(path);
        return;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0)
        close(fd);
}

/* Another mount shows the same filesystem: this one was a bind mount of it, or of a part. */
static bool shown_elsewhere(const struct dmt_mount *m)
{
    struct dmt_mount *other = malloc(sizeof(*other));
    bool shown = other && dmt_mountinfo_workspace(m->workspace, other) == 1 && other->dev == m->dev;
    free(other);
    return shown;
}

static int do_umount(const struct dmt_mount *m, const struct umount_args *a)
{
    struct ws_state st;
    int flags = UMOUNT_NOFOLLOW | (a->lazy ? MNT_DETACH : 0) | (a->force ? MNT_FORCE : 0);
    int rc = EX_OK, pidfd = -1;
    int alive = a->lazy ? control_status(m->workspace, &st, NULL)
                        : control_status_patient(m->workspace, &st, NULL);

    if (alive == -ENOENT || alive == -ECONNREFUSED)
        flags |= MNT_DETACH; /* nobody serves it: there is nothing to wait for */
    else if (!a->lazy)
        rc = drain(m, a);
    bool view = alive == 0 && !st.holder; /* of a standby, which goes on without it */
    /* Once more: a successor may have taken over. Without an answer it is still the first. */
    struct ws_state now;
    if (rc == EX_OK && !a->lazy && !view && control_status(m->workspace, &now, NULL) == 0) {
        st = now;
        alive = 0;
    }
    if (rc == EX_OK && !a->lazy && !view && alive == 0 && st.pid > 0)
        pidfd = (int)syscall(SYS_pidfd_open, (pid_t)st.pid, 0);
    if (rc == EX_OK && !view)
        mount_mark_stopped(m->workspace, true);
    if (rc == EX_OK && umount2(m->dir, flags) < 0) {
        int e = errno;
        if (!view)
            mount_mark_stopped(m->workspace, false);
        errno = e;
        rc = complain_text(
            EX_FAIL, errno == EBUSY ? "fuser -vm DIR shows by whom; -l detaches it at once" : NULL,
            "%s: %s", m->dir, errno == EBUSY ? "in use" : strerror(errno));
    }
    bool goes_on = rc == EX_OK && shown_elsewhere(m);
    if (goes_on && !view)
        mount_mark_stopped(m->workspace, false);
    if (rc == EX_OK && !a->lazy && !goes_on)
        wait_for_end(pidfd);
    if (rc == EX_OK && a->verbose)
        (void)printf("%s unmounted from %s\n", m->workspace, m->dir);
    if (pidfd >= 0)
        close(pidfd);
    return rc;
}

int umount_main(int argc, char **argv)
{
    struct umount_args a = {0};
    struct dmt_mount *m;
    int c, rc;

    opterr = 0;
    while ((c = getopt(argc, argv, "flnrvN:t:V")) != -1) {
        if (c == 'V') {
            (void)printf("%s %s\n", program, DMT_VERSION);
            return EX_OK;
        }
        if (c == '?') {
            (void)fprintf(stderr, "usage: umount.dumont DIR|NAME [-flv]\n");
            return EX_USAGE;
        }
        a.force |= c == 'f';
        a.lazy |= c == 'l';
        a.verbose |= c == 'v';
    }
    if (argc - optind != 1) {
        (void)fprintf(stderr, "usage: umount.dumont DIR|NAME [-flv]\n");
        return EX_USAGE;
    }
    a.what = argv[optind];
    if (geteuid() != 0)
        return complain_text(EX_USAGE, "run it as root", "only root may unmount");
    m = calloc(1, sizeof(*m));
    if (!m)
        return complain_text(EX_SYSERR, NULL, "out of memory");
    rc = find_mount(a.what, m);
    if (rc == EX_OK)
        rc = do_umount(m, &a);
    free(m);
    return rc;
}
