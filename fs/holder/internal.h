/* internal.h: the holder's own parts. holder.c: arguments, supervision, messages. connection.c: /dev/fuse, mount(2), INIT,
 * umount. loopdev.c: the block device under a fuseblk mount. One thread, except for umount(2), which can wait for the
 * workspace process and so runs on a thread of its own. */
#ifndef DMT_HOLDER_INTERNAL_H
#define DMT_HOLDER_INTERNAL_H

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

#endif
