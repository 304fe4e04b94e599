/* dumontfs_users.c: who uses the mount when a handover takes it from this machine: waited for,
 * stopped if that is asked for (--freeze), told to whoever asked.
 *
 * Happy path: users_grace waits a little for those that let go by themselves; users_freeze stops
 * the others (SIGSTOP, never a signal that ends) before the drain, again until none is found that
 * still runs; the handover happens, and they stay stopped: users_keep. Failure modes: the handover
 * does not happen: users_continue (SIGCONT) for exactly those that were stopped here. A process
 * that waits in the kernel stops when its call returns: waited for STOP_MAX_MS, then passed over,
 * the signal is there. This process dies in between: the list stands in RUN/NAME.frozen, and the
 * successor continues them when it serves the mount. Thread: the connection's.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/base/log.h"
#include "fs/base/options.h"
#include "fs/dumontfs_verbs.h"

#define POLL_MS     50
#define STOP_MAX_MS 5000
#define PASSES_MAX  10 /* each finds what the one before let start */

static void frozen_path(const struct app *a, char path[DMT_PATH_MAX])
{
    snprintf(path, DMT_PATH_MAX, "%s/%s.frozen", dmt_dir_run(), a->name);
}

/* Number of users now, *ret to be freed. Nothing is known of a mount that is not there: 0. */
static int look(struct call *c, char dir[DMT_PATH_MAX], struct dmt_proc **ret)
{
    struct app *a = c->app;
    pthread_rwlock_rdlock(&a->parts_lock);
    uint64_t dev = a->fuse ? a->mounted_dev : 0;
    snprintf(dir, DMT_PATH_MAX, "%s", a->mounted_dir);
    pthread_rwlock_unlock(&a->parts_lock);
    *ret = NULL;
    int n = dev ? dmt_procs_using(dev, control_client(c->control), ret) : 0;
    if (n < 0)
        dmt_warn("cannot see who uses %s: %s", dir, dmt_strerror(n));
    return n < 0 ? 0 : n;
}

static int add(struct users *u, const struct dmt_proc *p, bool frozen)
{
    struct user *more = realloc(u->all, (u->n + 1) * sizeof *more);
    if (!more)
        return -ENOMEM;
    u->all = more;
    u->all[u->n++] = (struct user){.proc = *p, .frozen = frozen};
    return 0;
}

static bool known(const struct users *u, const struct dmt_proc *p)
{
    for (size_t i = 0; i < u->n; i++)
        if (u->all[i].proc.pid == p->pid && u->all[i].proc.born == p->born)
            return true;
    return false;
}

/* Will it let go by itself, perhaps? */
static bool may_leave(const struct dmt_proc *p)
{
    return !p->spared && !p->stopped;
}

void users_grace(struct call *c, unsigned seconds, struct users *u)
{
    char dir[DMT_PATH_MAX], what[400];
    for (unsigned waited_ms = 0;; waited_ms += POLL_MS) {
        struct dmt_proc *p = NULL;
        int n = look(c, dir, &p), busy = 0, first = 0;
        for (int i = n - 1; i >= 0; i--)
            if (may_leave(&p[i]))
                busy++, first = i;
        if (busy == 0 || waited_ms >= seconds * 1000 || c->app->stopping) {
            for (int i = 0; i < n; i++)
                (void)add(u, &p[i], false);
            free(p);
            return;
        }
        snprintf(what, sizeof what, "waiting for %d to let go of %.120s: %d %.128s", busy, dir,
                 p[first].pid, p[first].command);
        control_progress(c->control, what, waited_ms / 1000, seconds, "s");
        free(p);
        usleep(POLL_MS * 1000);
    }
}

/* --- freeze ----------------------------------------------------------------------------------- */
/* Written down first: who is stopped must be known to a successor. */
static int stop_one(struct call *c, const struct dmt_proc *p)
{
    char path[DMT_PATH_MAX];
    frozen_path(c->app, path);
    FILE *f = fopen(path, "ae");
    if (!f)
        return -errno;
    int rc = fprintf(f, "%d %" PRIu64 "\n", p->pid, p->born) < 0 ? -EIO : 0;
    if (fclose(f) != 0)
        rc = -errno;
    return rc == 0 ? dmt_proc_signal(p->pid, p->born, SIGSTOP) : rc;
}

static int freeze_pass(struct call *c, struct users *u)
{
    char dir[DMT_PATH_MAX];
    struct dmt_proc *p = NULL;
    int n = look(c, dir, &p), fresh = 0;
    for (int i = 0; i < n; i++) {
        if (known(u, &p[i]))
            continue;
        int rc = may_leave(&p[i]) ? stop_one(c, &p[i]) : 0;
        if (rc == -ESRCH)
            continue;
        if (rc != 0)
            dmt_warn("cannot stop %s (%d): %s", p[i].command, p[i].pid, dmt_strerror(rc));
        fresh += may_leave(&p[i]);
        (void)add(u, &p[i], may_leave(&p[i]) && rc == 0);
    }
    free(p);
    return fresh;
}

static size_t still_running(const struct users *u)
{
    size_t n = 0;
    for (size_t i = 0; i < u->n; i++)
        n += u->all[i].frozen &&
             dmt_proc_state(u->all[i].proc.pid, u->all[i].proc.born) == DMT_PROC_RUNS;
    return n;
}

void users_freeze(struct call *c, struct users *u)
{
    char what[160];
    users_free(u);
    for (int i = 0; i < PASSES_MAX && freeze_pass(c, u) > 0; i++)
        for (int ms = 0; ms < STOP_MAX_MS && still_running(u) > 0; ms += POLL_MS) {
            snprintf(what, sizeof what, "stopping the %zu that use it here", u->n);
            control_progress(c->control, what, u->n - still_running(u), u->n, "");
            usleep(POLL_MS * 1000);
        }
    for (size_t i = 0; i < u->n; i++) {
        const struct user *w = &u->all[i];
        if (w->frozen)
            dmt_info("stopped for the handover: %d %s: %s%s", w->proc.pid, w->proc.command,
                     w->proc.file,
                     dmt_proc_state(w->proc.pid, w->proc.born) == DMT_PROC_RUNS
                         ? " (when its call returns)"
                         : "");
    }
}

void users_keep(struct call *c)
{
    char path[DMT_PATH_MAX];
    frozen_path(c->app, path);
    unlink(path);
}

void users_continue(struct app *a)
{
    char path[DMT_PATH_MAX];
    uint64_t born;
    pid_t pid;
    frozen_path(a, path);
    FILE *f = fopen(path, "re");
    while (f && fscanf(f, "%d %" SCNu64, &pid, &born) == 2) {
        int rc = dmt_proc_signal(pid, born, SIGCONT);
        if (rc == 0)
            dmt_info("process %d, stopped for the handover, goes on", pid);
        else if (rc != -ESRCH)
            dmt_warn("process %d stays stopped: %s", pid, dmt_strerror(rc));
    }
    if (f) {
        fclose(f);
        unlink(path);
    }
}

/* --- told ------------------------------------------------------------------------------------- */
static json_t *words(const char *s)
{
    char copy[256];
    json_t *v = json_string(s);
    if (v)
        return v;
    snprintf(copy, sizeof copy, "%s", s); /* not UTF-8, or cut within a character */
    for (char *p = copy; *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    return json_string(copy);
}

json_t *users_json(const struct users *u)
{
    json_t *list = json_array();
    for (size_t i = 0; i < u->n; i++) {
        const struct dmt_proc *p = &u->all[i].proc;
        json_array_append_new(list, json_pack("{s:i, s:o, s:o, s:b, s:b}", "pid", p->pid, "command",
                                              words(p->command), "file", words(p->file), "frozen",
                                              u->all[i].frozen, "was_stopped", p->stopped));
    }
    return list;
}

size_t users_frozen(const struct users *u)
{
    size_t n = 0;
    for (size_t i = 0; i < u->n; i++)
        n += u->all[i].frozen;
    return n;
}

void users_free(struct users *u)
{
    free(u->all);
    *u = (struct users){0};
}
