/* internal.h: the holder's own parts. holder.c: arguments, supervision, messages. child.c: the workspace process, and its
 * successor when it dies. connection.c: /dev/fuse, mount(2), INIT, umount. loopdev.c: the block device under a fuseblk mount. One
 * thread, except for umount(2), which can wait for the workspace process and so runs on a thread of its own. */
#ifndef DMT_HOLDER_INTERNAL_H
#define DMT_HOLDER_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/base/conf.h"
#include "fs/base/err.h"
#include "fs/base/holder_proto.h"
#include "fs/base/limits.h"

/* --- loopdev.c ---------------------------------------------------------------------------- */
struct holder_loop {
    int fd;          /* the loop device, held open until the mount holds it; -1 */
    char dev[64];    /* /dev/loopN */
    char image[512]; /* RUN/dev/NAME.img */
    char link[512];  /* RUN/dev/NAME -> /dev/loopN: the source that the mount table shows */
};
/* Sets up a 1 MiB loop device that the kernel frees by itself when nobody uses it any more. 0 or < 0 with err. */
int holder_loop_open(struct holder_loop *l, const char *name, struct dmt_err *err);
/* Lets go of it (a mount keeps it alive) and removes files when `gone`. */
void holder_loop_close(struct holder_loop *l, bool gone);

/* --- connection.c ------------------------------------------------------------------------- */
struct holder_conn {
    char name[DMT_WS_NAME_MAX + 1];
    int fd;            /* /dev/fuse while there is a mount; -1 */
    uint32_t instance;
    uint64_t dev;
    bool mounted, ro;
    bool fuseblk;      /* want it (before the mount), have it (after) */
    char dir[DMT_HP_DIR_MAX];
    uint32_t init_len;
    uint8_t init[DMT_HP_INIT_MAX];
    struct holder_loop loop;
};
/* Decides fuseblk or plain (option syncfs=, kernel version) and sets the loop device up ahead, so that a promotion need not. */
void holder_conn_init(struct holder_conn *c, const char *name, const struct dmt_conf *conf);
/* Opens /dev/fuse, mounts on dir and answers INIT. */
int holder_conn_mount(struct holder_conn *c, const char *dir, const struct dmt_conf *conf,
                      struct dmt_err *err);
/* umount2 of what is mounted. May block until the workspace process has drained (fuseblk). 0 or -errno. Any thread. */
int holder_conn_umount(const struct holder_conn *c, bool lazy);
/* After a successful umount, or when the connection ended by itself: forgets it. */
void holder_conn_release(struct holder_conn *c);
/* Ends a mount that nobody serves: users get ENOTCONN instead of hanging. */
void holder_conn_abort(struct holder_conn *c);
/* Fills the FUSE message from c. */
void holder_conn_describe(const struct holder_conn *c, struct dmt_hp_msg *m);

/* --- holder.c, child.c -------------------------------------------------------------------- */
struct holder_args {
    const char *name, *conf_file, *options, *mountpoint;
    int ready_fd;
    bool foreground;
};

struct holder {
    struct holder_args a;
    struct dmt_conf *conf;
    struct holder_conn conn;
    int sock, sig_fd, umount_fd;
    pid_t child;
    bool child_gone, told, closed;
    bool terminating;     /* we were told to stop */
    bool failed;          /* the child said FAILED, or did not serve in time */
    bool resume;          /* the child is a successor and has not asked for the connection yet */
    int child_status, quick;
    uint64_t started_ns;
    uint64_t kill_at_ns;  /* 0: not stopping */
    uint64_t serve_by_ns; /* a successor must be READY by then; 0: it is */
    pthread_t umounter;
    bool umounting, lazy;
    int umount_rc;
    struct dmt_hp_msg msg; /* the loop's: too large for its stack frames */
};
/* Starts dumontfs; resume: it goes on with the mount of a dead one. 0 or < 0 with err. */
int holder_start_workspace(struct holder *h, bool resume, struct dmt_err *err);
/* The child is gone: does a new one go on? */
bool holder_take_over(struct holder *h);

#endif
