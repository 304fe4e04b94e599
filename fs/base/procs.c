/* procs.c: looks through /proc for the users of a mount.
 *
 * Happy path: for each process: who it is (stat), then its directories, descriptors and mappings
 * until one lies on the device. Files are looked at by statx with AT_STATX_DONT_SYNC through
 * the links of /proc: a FUSE server that asks about its own mount is not asked itself. Failure
 * modes: a process that ends meanwhile, or whose files may not be seen, is no user; a number that
 * was given to another process is told by its start time, and a signal goes through a pidfd taken
 * before that was compared. Thread: any.
 */
#include "fs/base/procs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define KERNEL_THREAD  0x00200000u /* PF_KTHREAD */
#define ANCESTORS_MAX  64
#define PROC_PATH_SIZE 64

struct stat_line {
    char state;
    pid_t parent, group;
    unsigned flags;
    uint64_t born;
    char comm[64];
};

/* "PID (COMM) STATE PPID ..."; COMM may hold anything, so from its last parenthesis. */
static bool read_stat(const char *path, struct stat_line *s)
{
    char buf[1024];
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(buf, 1, sizeof buf - 1, f) : 0;
    if (f)
        fclose(f);
    buf[n] = '\0';
    char *open = strchr(buf, '('), *close = strrchr(buf, ')');
    if (!open || !close)
        return false;
    *close = '\0';
    snprintf(s->comm, sizeof s->comm, "%s", open + 1);
    return sscanf(close + 1,
                  " %c %d %d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d "
                  "%" SCNu64,
                  &s->state, &s->parent, &s->group, &s->flags, &s->born) == 5;
}

static bool stat_of(pid_t pid, struct stat_line *s)
{
    char path[PROC_PATH_SIZE];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    return read_stat(path, s);
}

static pid_t number(const char *name)
{
    char *end;
    long n = strtol(name, &end, 10);
    return *end == '\0' && n > 0 && n < INT32_MAX ? (pid_t)n : 0;
}

/* --- one process ------------------------------------------------------------------------------ */
static bool cut_gone(char *path)
{
    static const char gone[] = " (deleted)"; /* says /proc */
    size_t n = strlen(path), g = sizeof gone - 1;
    bool cut = n > g && strcmp(path + n - g, gone) == 0;
    if (cut)
        path[n - g] = '\0';
    return cut;
}

/* Held while it is looked at: the process may put something else behind the link meanwhile (a shell
 * does with every redirection), and the name would be that one's. */
static bool link_uses(const char *link, uint64_t dev, struct dmt_proc *p)
{
    struct statx st;
    char own[PROC_PATH_SIZE];
    int fd = open(link, O_PATH | O_CLOEXEC);
    bool uses = fd >= 0 &&
                statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_NLINK, &st) == 0 &&
                makedev(st.stx_dev_major, st.stx_dev_minor) == dev;
    if (uses) {
        snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(own, p->file, sizeof p->file - 1);
        p->file[n > 0 ? n : 0] = '\0';
        if (st.stx_nlink > 0) /* the kernel has forgotten the name, not more */
            cut_gone(p->file);
    }
    if (fd >= 0)
        close(fd);
    return uses;
}

static bool fds_use(uint64_t dev, struct dmt_proc *p)
{
    char path[PROC_PATH_SIZE + 300];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/fd", p->pid);
    DIR *d = opendir(path);
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        snprintf(path, sizeof path, "/proc/%d/fd/%s", p->pid, e->d_name);
        found = e->d_name[0] != '.' && link_uses(path, dev, p);
    }
    if (d)
        closedir(d);
    return found;
}

/* "FROM-TO PERM OFFSET MAJ:MIN INODE   PATH" */
static bool maps_use(uint64_t dev, struct dmt_proc *p)
{
    char path[PROC_PATH_SIZE], *line = NULL;
    size_t cap = 0;
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/maps", p->pid);
    FILE *f = fopen(path, "re");
    while (f && !found && getline(&line, &cap, f) > 0) {
        unsigned major, minor;
        int at = 0;
        if (sscanf(line, "%*s %*s %*s %x:%x %*s %n", &major, &minor, &at) != 2 ||
            makedev(major, minor) != dev)
            continue;
        found = true;
        line[strcspn(line, "\n")] = '\0';
        snprintf(p->file, sizeof p->file, "%s", line + at);
    }
    if (f)
        fclose(f);
    free(line);
    return found;
}

static bool uses(uint64_t dev, struct dmt_proc *p)
{
    static const char *const links[] = {"exe", "cwd", "root"};
    char path[PROC_PATH_SIZE];
    if (fds_use(dev, p)) /* first: the most telling */
        return true;
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", p->pid, links[i]);
        if (link_uses(path, dev, p))
            return true;
    }
    return maps_use(dev, p);
}

static bool is_ours(pid_t pid)
{
    static const char *const programs[] = {"dumontfs", "dumont-holder", "dumontd",
                                           "dumont",   "mount.dumont",  "umount.dumont"};
    char link[PROC_PATH_SIZE], exe[4096];
    snprintf(link, sizeof link, "/proc/%d/exe", pid);
    ssize_t n = readlink(link, exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = '\0';
    cut_gone(exe); /* an older version, replaced while it ran */
    const char *slash = strrchr(exe, '/');
    for (size_t i = 0; slash && i < sizeof programs / sizeof programs[0]; i++)
        if (strcmp(slash + 1, programs[i]) == 0)
            return true;
    return false;
}

static void command_of(struct dmt_proc *p, const struct stat_line *s)
{
    char path[PROC_PATH_SIZE];
    snprintf(path, sizeof path, "/proc/%d/cmdline", p->pid);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(p->command, 1, sizeof p->command - 1, f) : 0;
    if (f)
        fclose(f);
    while (n > 0 && p->command[n - 1] == '\0')
        n--;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)p->command[i] < ' ')
            p->command[i] = ' ';
    p->command[n] = '\0';
    if (n == 0)
        snprintf(p->command, sizeof p->command, "%s", s->comm);
}

/* --- all of them ------------------------------------------------------------------------------ */
struct line { /* the caller, its parent, and so on */
    pid_t pid[ANCESTORS_MAX];
    int n;
    pid_t group; /* of the caller and the rest of its pipeline, 0: it is also that of an ancestor */
};

static bool in_line(const struct line *l, pid_t pid)
{
    for (int i = 0; i < l->n; i++)
        if (l->pid[i] == pid)
            return true;
    return false;
}

static void ancestors(pid_t caller, struct line *l)
{
    struct stat_line s = {.group = 0};
    l->n = 0;
    l->group = 0;
    for (pid_t p = caller; p > 0 && l->n < ANCESTORS_MAX; p = s.parent) {
        if (!stat_of(p, &s))
            break;
        l->pid[l->n++] = p;
        if (p == caller)
            l->group = s.group;
    }
    /* A script without job control has one group for all that it ever started. */
    if (l->group != caller && in_line(l, l->group))
        l->group = 0;
}

static bool look(pid_t pid, uint64_t dev, const struct line *spared, struct dmt_proc *p)
{
    struct stat_line s;
    memset(p, 0, sizeof *p);
    p->pid = pid;
    if (pid == 1 || pid == getpid() || !stat_of(pid, &s) || (s.flags & KERNEL_THREAD) ||
        is_ours(pid) || !uses(dev, p))
        return false;
    p->born = s.born;
    enum dmt_proc_state state = dmt_proc_state(pid, s.born);
    if (state == DMT_PROC_GONE)
        return false;
    p->stopped = state == DMT_PROC_STOPPED;
    p->spared = in_line(spared, pid) || (spared->group != 0 && s.group == spared->group);
    command_of(p, &s);
    return true;
}

int dmt_procs_using(uint64_t dev, pid_t caller, struct dmt_proc **ret)
{
    struct dmt_proc *all = NULL;
    struct line spared;
    size_t n = 0, cap = 0;
    DIR *d = opendir("/proc");
    if (!d)
        return -errno;
    ancestors(caller, &spared);
    for (struct dirent *e; (e = readdir(d));) {
        pid_t pid = number(e->d_name);
        if (pid == 0)
            continue;
        if (n == cap) {
            cap = cap ? 2 * cap : 16;
            struct dmt_proc *more = realloc(all, cap * sizeof *all);
            if (!more) {
                closedir(d);
                free(all);
                return -ENOMEM;
            }
            all = more;
        }
        n += look(pid, dev, &spared, &all[n]);
    }
    closedir(d);
    *ret = all;
    return (int)n;
}

/* --- signals ---------------------------------------------------------------------------------- */
enum dmt_proc_state dmt_proc_state(pid_t pid, uint64_t born)
{
    char path[PROC_PATH_SIZE + 300];
    struct stat_line s;
    enum dmt_proc_state state = DMT_PROC_STOPPED;
    if (!stat_of(pid, &s) || s.born != born || s.state == 'X' || s.state == 'Z')
        return DMT_PROC_GONE;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *d = opendir(path);
    if (!d)
        return DMT_PROC_GONE;
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof path, "/proc/%d/task/%s/stat", pid, e->d_name);
        if (e->d_name[0] != '.' && read_stat(path, &s) && !strchr("TtXZ", s.state))
            state = DMT_PROC_RUNS;
    }
    closedir(d);
    return state;
}

int dmt_proc_signal(pid_t pid, uint64_t born, int sig)
{
    struct stat_line s;
    int fd = pidfd_open(pid, 0);
    if (fd < 0)
        return -errno;
    int rc = stat_of(pid, &s) && s.born == born ? 0 : -ESRCH;
    if (rc == 0 && pidfd_send_signal(fd, sig, NULL, 0) != 0)
        rc = -errno;
    close(fd);
    return rc;
}
