/* dumontfs_view.c: a look at a standby: mount -o ro,standby-view.
 *
 * A read-only mount of what this copy holds at the moment of each call: the kernel keeps nothing of
 * it (fs/fuse: conf.view), because it changes without any request that passes here. Happy path: the
 * control command (its own thread) posts and waits -> main asks the holder to mount -> FUSE ->
 * serving -> the command is answered. It ends with an unmount; and by itself, lazily, when this
 * machine becomes the holder (the real mount follows as soon as the holder has let go) or when its
 * copy is replaced by a resync. Failure: one sentence to whoever asked; the standby goes on as
 * before. Threads: main, but for view_mount.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "fs/dumontfs.h"

#define VIEW_MAX_S 8

struct view_ask {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done, left; /* left: nobody waits any more, the answer frees */
    char dir[DMT_HP_DIR_MAX];
    struct dmt_err err; /* code 0: mounted */
};

static void ask_free(struct view_ask *k)
{
    pthread_mutex_destroy(&k->lock);
    pthread_cond_destroy(&k->cond);
    free(k);
}

static void answer(struct view_ask *k, const struct dmt_err *err)
{
    pthread_mutex_lock(&k->lock);
    if (err)
        k->err = *err;
    k->done = true;
    bool left = k->left;
    pthread_cond_signal(&k->cond);
    pthread_mutex_unlock(&k->lock);
    if (left)
        ask_free(k);
}

void view_answer(struct app *a, int code, const char *text, const char *hint)
{
    struct dmt_err err = {0};
    struct view_ask *k = a->view_ask;
    a->view_ask = NULL;
    if (!k)
        return;
    if (code != 0) {
        dmt_err_set(&err, code, "%s", text);
        dmt_err_hint(&err, "%s", hint);
    }
    answer(k, code != 0 ? &err : NULL);
}

static void try_view(struct app *a, void *arg)
{
    struct view_ask *k = arg;
    struct dmt_lease_status s;
    struct dmt_err err = {0};
    dmt_lease_status(a->lease, &s);
    if (a->view)
        dmt_err_set(&err, -EBUSY, "the standby of %s is looked at already, on %s", a->name,
                    a->mounted_dir[0] ? a->mounted_dir : "another directory");
    else if (s.holder || a->fuse || a->mount_asked)
        dmt_err_set(&err, -EBUSY, "%s is no standby here: this machine holds it", a->name);
    else if (s.state != DMT_LEASE_FOLLOWER || !a->ws || a->unmounting || a->stopping)
        dmt_err_set(&err, -EAGAIN, "the standby of %s cannot be looked at now; it is: %s", a->name,
                    dmt_lease_state_name(s.state));
    if (err.code != 0) {
        dmt_err_hint(&err, "`dumont status %s` shows what it does", a->name);
        answer(k, &err);
        return;
    }
    a->view = a->mount_asked = true;
    a->view_ask = k;
    mount_send(a, DMT_HP_MOUNT, 0, k->dir, "ro");
}

int view_mount(struct app *a, const char *dir, struct dmt_err *err)
{
    struct timespec until;
    struct view_ask *k = calloc(1, sizeof *k);
    int rc = 0;
    if (!k || dir[0] != '/' || strlen(dir) >= sizeof k->dir || a->holder_fd < 0) {
        free(k);
        return dmt_err_set(err, -EINVAL,
                           "standby.view needs the path of a directory, and a holder");
    }
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->cond, NULL);
    memcpy(k->dir, dir, strlen(dir) + 1);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += VIEW_MAX_S;
    app_post(a, try_view, k);
    pthread_mutex_lock(&k->lock);
    while (!k->done && rc == 0)
        rc = pthread_cond_timedwait(&k->cond, &k->lock, &until);
    bool done = k->done;
    k->left = !done;
    if (done)
        *err = k->err;
    pthread_mutex_unlock(&k->lock);
    if (!done)
        return dmt_err_set(err, -ETIMEDOUT, "%s was not mounted within %d s", dir, VIEW_MAX_S);
    ask_free(k);
    return err->code;
}

void view_undo(struct app *a)
{
    if (a->view)
        mount_undo(a);
}
