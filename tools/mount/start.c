/* start.c: the checks before a mount, the holder, and waiting until it serves.
 *
 * Happy path: the directory is there, a directory, empty; nobody serves this workspace here yet;
 * there is a store (or -o create); start dumont-holder with a pipe; wait for its word; look at the
 * mount; done. The holder goes on by itself in a session of its own.
 *
 * Failure modes, each with its exit code (mount.dumont(8)): place unusable, workspace unknown, held
 * elsewhere: 32; no /dev/fuse, no holder program, no memory: 2; interrupted: 8, the holder is told
 * to stop. No word in mount_timeout: 32, the same. "Already mounted there" is success, also when
 * somebody else (dumontd, the boot) mounts it there at the same time. A dead mount (holder killed)
 * is detached first. A previous process of the same workspace that is still closing its store is
 * waited for.
 */
#include "tools/mount/mount.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/holder_proto.h"
#include "fs/base/mountinfo.h"
#include "fs/base/options.h"

#define TIMEOUT_DEFAULT_MS 60000
#define CLOSING_MAX_MS     10000 /* for a previous process to close its store */
#define STOP_MAX_MS        10000 /* for a holder that was told to stop */
#define VERIFY_MS          10000
#define DONE               (-1)
#define AGAIN              (-2) /* somebody else was faster: look once more */

static void nap(void)
{
    struct timespec ts = {.tv_nsec = 20 * 1000000};
    (void)nanosleep(&ts, NULL);
}

static time_t monotonic_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec;
}

static int timeout_ms(const struct mount_args *a)
{
    const char *v = dmt_conf_get(a->conf, "mount_timeout");
    uint64_t ms = TIMEOUT_DEFAULT_MS;
    if (v && strspn(v, "0123456789") == strlen(v))
        ms = strtoull(v, NULL, 10) * 1000;
    else if (v)
        (void)dmt_parse_duration_ms(v, &ms);
    return ms > 0 && ms < INT_MAX ? (int)ms : TIMEOUT_DEFAULT_MS;
}

static bool dir_is_empty(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    bool empty = true;
    if (!d)
        return true; /* not readable by root (a dead network mount): mount(2) will say */
    while (empty && (e = readdir(d)))
        empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    closedir(d);
    return empty;
}

static int already(const struct mount_args *a)
{
    (void)printf("%s is already mounted on %s\n", a->name, a->dir);
    return DONE;
}

/* What is at the place: already ours and alive -> *ret_done; ours and dead -> detached. */
static int look_at_mounts(struct mount_args *a, bool *ret_done)
{
    struct dmt_mount *m = calloc(1, sizeof(*m));
    struct ws_state st;
    int rc = EX_OK;

    if (!m)
        return complain_text(EX_SYSERR, NULL, "out of memory");
    while (dmt_mountinfo_at(a->dir, m) == 1 && strcmp(m->workspace, a->name) == 0) {
        int alive = control_status_patient(a->name, &st, NULL);
        if (alive == 0 || alive == -ETIMEDOUT) {
            (void)already(a);
            *ret_done = true;
            break;
        }
        if (a->fake)
            break;
        if (umount2(a->dir, MNT_DETACH | UMOUNT_NOFOLLOW) < 0) {
            rc = complain_text(EX_FAIL, "umount -l DIR does it by hand",
                               "a dead mount of %s on %s cannot be detached: %s", a->name, a->dir,
                               strerror(errno));
            break;
        }
        if (a->verbose)
            (void)printf("detached a dead mount of %s on %s\n", a->name, a->dir);
    }
    free(m);
    return rc;
}

static int check_place(struct mount_args *a, bool *ret_done)
{
    char real[PATH_MAX];
    struct stat st;
    int rc;

    *ret_done = false;
    if (!realpath(a->dir_given, real))
        return complain_text(EX_FAIL, errno == ENOENT ? "create it with: mkdir -p DIR" : NULL,
                             "the mount point %s cannot be used: %s", a->dir_given,
                             strerror(errno));
    (void)snprintf(a->dir, sizeof(a->dir), "%s", real);
    rc = look_at_mounts(a, ret_done);
    if (rc || *ret_done)
        return rc;
    if (stat(a->dir, &st) < 0)
        return complain_text(EX_FAIL, "if something dead is mounted there: umount -l DIR",
                             "the mount point %s cannot be used: %s", a->dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return complain_text(EX_FAIL, "a workspace is mounted on a directory",
                             "%s is not a directory", a->dir);
    if (!dmt_conf_get(a->conf, "nonempty") && !dir_is_empty(a->dir))
        return complain_text(EX_FAIL, "mount it elsewhere, or hide what is there with -o nonempty",
                             "%s is not empty", a->dir);
    return EX_OK;
}

/* --- who else is there -------------------------------------------------------------------- */

static bool store_is_locked(const char *store)
{
    char path[DMT_PATH_MAX + 16];
    (void)snprintf(path, sizeof(path), "%s/lock", store);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool locked = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    close(fd);
    return locked;
}

/* Where its process says it is mounted: is it still, as far as can be seen from here? */
static bool is_shown(const struct mount_args *a, const char *dir)
{
    struct dmt_mount *m = calloc(1, sizeof(*m));
    bool shown = m && dmt_mountinfo_at(dir, m) == 1 && strcmp(m->workspace, a->name) == 0;
    free(m);
    return shown;
}

/* A process of this workspace runs here. EX_OK: it has ended meanwhile, or may be about to. */
static int deal_with_running(const struct mount_args *a, const struct ws_state *st, int waited_ms)
{
    if (!st->holder && dmt_conf_get(a->conf, "standby-view")) {
        struct dmt_err err = {0};
        int rc = control_view(a->name, a->dir, &err);
        return rc < 0 ? complain(EX_FAIL, &err) : DONE;
    }
    if (!st->holder)
        return complain_text(EX_FAIL,
                             "it mounts here by itself when it is promoted; `dumont handover` on "
                             "the holder moves it now",
                             "%s is held by %s since epoch %.*s; a standby runs here already",
                             a->name, st->holder_node[0] ? st->holder_node : "another machine",
                             (int)strcspn(st->epoch, "."), st->epoch);
    if (strcmp(st->mountpoint, a->dir) == 0 && is_shown(a, a->dir))
        return already(a);
    /* One that was unmounted this moment may not know of it yet. */
    if (st->mountpoint[0] && (waited_ms >= CLOSING_MAX_MS || is_shown(a, st->mountpoint)))
        return complain_text(EX_FAIL,
                             "unmount it there first; to see it in two places use mount --bind",
                             "%s is already mounted on %s", a->name, st->mountpoint);
    if (waited_ms >= CLOSING_MAX_MS)
        return complain_text(EX_FAIL, "`dumont status` shows what it does",
                             "%s runs here already without a mount (pid %lld)", a->name,
                             (long long)st->pid);
    return EX_OK;
}

/* Nobody else may serve this workspace here; one that is just ending is waited for, and one that is
 * too busy to answer, as on a disk that stands still. DONE: also when it is mounted there. */
static int wait_for_others(const struct mount_args *a, const char *store)
{
    struct ws_state st;
    time_t until = monotonic_s() + timeout_ms(a) / 1000;
    for (int ms = 0;; ms += 20) {
        int rc = control_status(a->name, &st, NULL);
        if (rc == -ETIMEDOUT && monotonic_s() >= until)
            return complain_text(EX_FAIL,
                                 "the log of the workspace says why; if it stays so, end the "
                                 "process: the journal loses nothing",
                                 "the process that serves %s does not answer", a->name);
        if (rc == 0) {
            rc = deal_with_running(a, &st, ms);
            if (rc != EX_OK)
                return rc;
        } else if (rc != -ETIMEDOUT && (!store_is_locked(store) || ms >= CLOSING_MAX_MS)) {
            /* Still locked: somebody else uses the store. The workspace process says who. */
            return EX_OK;
        }
        if (mount_stop)
            return complain_text(EX_USER, NULL, "interrupted");
        nap();
    }
}

static int check_known(const struct mount_args *a, const char *store)
{
    char db[DMT_PATH_MAX + 16];
    char hint[384];
    const char *role = dmt_conf_get(a->conf, "role");

    (void)snprintf(db, sizeof(db), "%s/workspace.db", store);
    if (dmt_conf_get(a->conf, "create") || (role && strcmp(role, "standby") == 0) ||
        access(db, F_OK) == 0)
        return EX_OK;
    if (errno != ENOENT)
        return complain_text(EX_FAIL, "store= in the workspace's configuration says where it is",
                             "the store %s cannot be read: %s", store, strerror(errno));
    (void)snprintf(hint, sizeof(hint),
                   "create it with: dumont workspace create %s   or mount with -o create", a->name);
    return complain_text(EX_FAIL, hint, "there is no workspace \"%s\" (no store in %s)", a->name,
                         store);
}

/* --- the holder --------------------------------------------------------------------------- */

static bool find_holder(char *path, size_t size)
{
    const char *dir = getenv("DUMONT_LIBDIR");
    char self[512];
    ssize_t n;

    if (dir) {
        (void)snprintf(path, size, "%s/dumont-holder", dir);
        return access(path, X_OK) == 0;
    }
    (void)snprintf(path, size, "%s/dumont-holder", DMT_LIBDIR);
    if (access(path, X_OK) == 0)
        return true;
    n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0)
        return false;
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    (void)snprintf(path, size, "%s/dumont-holder", self);
    return access(path, X_OK) == 0;
}

static void exec_holder(const struct mount_args *a, const char *path, const char *options,
                        int ready_fd)
{
    const char *argv[16];
    char fd_text[16];
    int n = 0;

    (void)snprintf(fd_text, sizeof(fd_text), "%d", ready_fd);
    argv[n++] = "dumont-holder";
    argv[n++] = "--name";
    argv[n++] = a->name;
    argv[n++] = "--mountpoint";
    argv[n++] = a->dir;
    argv[n++] = "--ready-fd";
    argv[n++] = fd_text;
    if (a->have_conf) {
        argv[n++] = "--conf";
        argv[n++] = a->conf_path;
    }
    if (options[0]) {
        argv[n++] = "-o";
        argv[n++] = options;
    }
    if (dmt_conf_get(a->conf, "foreground"))
        argv[n++] = "--foreground";
    argv[n] = NULL;
    (void)fcntl(ready_fd, F_SETFD, 0);
    execv(path, (char *const *)argv);
    _exit(127);
}

/* Waits for a child at most so long; < 0: still there. */
static int wait_child(pid_t pid, int timeout_ms)
{
    int status;
    for (int ms = 0; ms <= timeout_ms; ms += 20) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
        if (got < 0)
            return 128;
        nap();
    }
    return -ETIMEDOUT;
}

static void stop_holder(pid_t pid)
{
    (void)kill(pid, SIGTERM);
    if (wait_child(pid, STOP_MAX_MS) >= 0)
        return;
    (void)kill(pid, SIGKILL);
    (void)wait_child(pid, STOP_MAX_MS);
}

/* In the foreground: passes signals on, returns when the holder has ended. */
static int stay(pid_t pid)
{
    int status;
    bool told = false;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return EX_SYSERR;
        if (mount_stop && !told)
            (void)kill(pid, SIGTERM);
        told |= mount_stop;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? EX_OK : EX_FAIL;
}

/* The holder has been started: what does it say? */
static int wait_ready(const struct mount_args *a, const char *store, bool last, pid_t pid, int fd)
{
    struct dmt_err err = {0};
    struct ws_state st;
    int code = 0, rc = dmt_ready_read(fd, timeout_ms(a), &mount_stop, &code, &err);

    /* From here on dumontd may keep it going; not before, or it might be faster than we. */
    if (rc == 0 && control_status(a->name, &st, NULL) == 0)
        mount_mark_stopped(a->name, false);
    if (rc == -EINTR || rc == -ETIMEDOUT) {
        stop_holder(pid);
        if (rc == -EINTR)
            return complain_text(EX_USER, NULL, "interrupted: %s is not mounted", a->name);
        return complain_text(
            EX_FAIL, "the log of the workspace says why; a longer wait: -o mount_timeout=300s",
            "%s did not serve within %d s", a->name, timeout_ms(a) / 1000);
    }
    if (rc < 0) {
        (void)wait_child(pid, STOP_MAX_MS);
        return complain_text(EX_FAIL, "the log of the workspace says why",
                             "the holder of %s ended before it served", a->name);
    }
    if (code != EX_OK && !last && wait_child(pid, STOP_MAX_MS) >= 0 && store_is_locked(store))
        return AGAIN;
    if (code != EX_OK)
        return complain(code, &err);
    rc = mount_verify(a->dir, timeout_ms(a) < VERIFY_MS ? timeout_ms(a) : VERIFY_MS);
    if (rc < 0) {
        /* The look may still hang in there and keep the mount busy: break the connection. */
        (void)umount2(a->dir, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW);
        stop_holder(pid);
        return complain_text(EX_FAIL, "it was unmounted again; the log of the workspace says more",
                             "%s was mounted on %s but does not answer: %s", a->name, a->dir,
                             strerror(-rc));
    }
    if (a->verbose)
        (void)printf("%s mounted on %s\n", a->name, a->dir);
    return dmt_conf_get(a->conf, "foreground") ? stay(pid) : EX_OK;
}

static int run_holder(const struct mount_args *a, const char *store, bool last)
{
    char path[600];
    int pair[2], rc;
    char *options;

    if (!find_holder(path, sizeof(path)))
        return complain_text(EX_SYSERR, "the installation is incomplete: install Dumont again",
                             "no program %s", path);
    options = dmt_options_join(a->options);
    if (!options || pipe2(pair, O_CLOEXEC) < 0) {
        free(options);
        return complain_text(EX_SYSERR, NULL, "out of memory or descriptors");
    }
    pid_t pid = fork();
    if (pid == 0)
        exec_holder(a, path, options, pair[1]);
    close(pair[1]);
    free(options);
    if (pid < 0)
        rc = complain_text(EX_SYSERR, NULL, "cannot start a process: %s", strerror(errno));
    else
        rc = wait_ready(a, store, last, pid, pair[0]);
    close(pair[0]);
    return rc;
}

static int start(const struct mount_args *a, bool last)
{
    char store[DMT_PATH_MAX];
    int rc;

    mount_store_dir(a, store, sizeof(store));
    rc = check_known(a, store);
    if (rc == EX_OK && access("/dev/fuse", F_OK) < 0)
        rc = complain_text(EX_SYSERR,
                           "load the kernel module (modprobe fuse), or start the container with "
                           "--device /dev/fuse",
                           "there is no /dev/fuse: %s", strerror(errno));
    if (rc != EX_OK || a->fake)
        return rc;
    rc = wait_for_others(a, store);
    if (rc == EX_OK && dmt_conf_get(a->conf, "standby-view"))
        return complain_text(EX_FAIL,
                             "standby-view looks at a standby that runs; start it with: dumontd, "
                             "or mount without standby-view",
                             "no standby of %s runs on this machine", a->name);
    /* Locked now: by somebody who stays, so that is what the holder will say. */
    return rc == EX_OK ? run_holder(a, store, last || store_is_locked(store)) : rc;
}

int mount_main(int argc, char **argv)
{
    struct mount_args *a = calloc(1, sizeof(*a));
    bool done = false;
    int rc;

    if (!a)
        return EX_SYSERR;
    rc = mount_parse(a, argc, argv);
    if (rc == EX_OK && geteuid() != 0)
        rc = complain_text(EX_USAGE, "run it as root", "only root may mount");
    if (rc == EX_OK && dmt_conf_get(a->options, "remount")) {
        rc = mount_remount(a);
        done = true;
    }
    for (bool last = false; rc == EX_OK && !done; last = true) {
        rc = check_place(a, &done);
        if (rc == EX_OK && !done)
            rc = start(a, last);
        done = done || rc != AGAIN;
        rc = rc == AGAIN ? EX_OK : rc;
    }
    dmt_conf_free(a->options);
    dmt_conf_free(a->conf);
    free(a);
    return rc < 0 ? EX_OK : rc;
}
