/* verify.c: looks at a fresh mount as a user would, from a thread that may hang.
 *
 * A stat on a FUSE mount that nobody serves blocks for good, and a blocked helper blocks a boot; so
 * the look is taken by a thread, and the caller waits for it with a limit and goes on without it.
 * What is looked at: the root is inode 1. Opening a directory and a file, if there is one, makes
 * the kernel learn that this server wants no OPEN and OPENDIR (storage A3) before the first user
 * comes.
 */
#include "tools/mount/mount.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/thread.h"

#define ENTRIES_MAX 64

struct look {
    char dir[DMT_PATH_MAX];
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int done, rc;
};

static void open_one_file(DIR *d)
{
    struct dirent *e;
    for (int i = 0; i < ENTRIES_MAX && (e = readdir(d)); i++) {
        if (e->d_type != DT_REG)
            continue;
        int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0)
            close(fd);
        return;
    }
}

static void *look_thread(void *arg)
{
    struct look *l = arg;
    struct statx sx;
    int rc = 0;

    if (statx(AT_FDCWD, l->dir, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_TYPE, &sx) < 0) {
        rc = -errno;
    } else if (sx.stx_ino != 1 || !S_ISDIR(sx.stx_mode)) {
        rc = -ESTALE;
    } else {
        DIR *d = opendir(l->dir);
        if (d) {
            open_one_file(d);
            closedir(d);
        }
    }
    pthread_mutex_lock(&l->lock);
    l->rc = rc;
    l->done = 1;
    pthread_cond_signal(&l->cond);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

int mount_verify(const char *dir, int timeout_ms)
{
    /* Static: a thread that hangs goes on using it. */
    static struct look the_look;
    struct look *l = &the_look;
    struct timespec until;
    pthread_t t;
    int rc;

    (void)snprintf(l->dir, sizeof(l->dir), "%s", dir);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->cond, NULL);
    rc = dmt_thread_start(&t, "verify", look_thread, l);
    if (rc < 0)
        return rc;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000 + 1;
    pthread_mutex_lock(&l->lock);
    while (!l->done && rc == 0)
        rc = -pthread_cond_timedwait(&l->cond, &l->lock, &until);
    rc = l->done ? l->rc : -ETIMEDOUT;
    bool done = l->done;
    pthread_mutex_unlock(&l->lock);
    if (!done) {
        (void)pthread_detach(t);
        return rc;
    }
    (void)pthread_join(t, NULL);
    return rc;
}
