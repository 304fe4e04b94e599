/* mount.h: the parts of mount.dumont / umount.dumont. One thread, but for the bounded look at a fresh mount (verify.c). */
#ifndef DMT_TOOLS_MOUNT_H
#define DMT_TOOLS_MOUNT_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "fs/base/conf.h"
#include "fs/base/err.h"
#include "fs/base/limits.h"

/* Exit codes of mount(8). */
#define EX_OK      0
#define EX_USAGE   1
#define EX_SYSERR  2
#define EX_USER    8
#define EX_FAIL    32

struct mount_args {
    char name[256];          /* workspace */
    char dir[DMT_PATH_MAX];  /* canonical */
    const char *dir_given;
    char conf_path[DMT_PATH_MAX];
    bool have_conf;          /* conf_path exists */
    bool fake, sloppy, verbose;
    struct dmt_conf *options; /* -o only, cleaned */
    struct dmt_conf *conf;    /* file, then options over it */
};

/* Set by SIGINT, SIGTERM, SIGHUP. */
extern volatile sig_atomic_t mount_stop;

int mount_main(int argc, char **argv);
int umount_main(int argc, char **argv);

/* "mount.dumont: MESSAGE" and, if there is one, "  HINT", on stderr. Returns code. */
int complain(int code, const struct dmt_err *err);
int complain_text(int code, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
extern const char *program; /* for messages */

/* args.c */
int mount_parse(struct mount_args *a, int argc, char **argv); /* EX_OK or the exit code, message printed; -1: help was shown */
void mount_store_dir(const struct mount_args *a, char *path, size_t size);

/* remount.c */
int mount_remount(const struct mount_args *a);

/* verify.c: does the root answer, and is it inode 1? Also opens a directory and a file, so that the kernel learns that there are
 * no opens here before users come. 0, -ETIMEDOUT, -errno. */
int mount_verify(const char *dir, int timeout_ms);

/* RUN/NAME.stopped: a person ended this workspace; dumontd does not start it by itself. Mounting takes the mark away. */
void mount_mark_stopped(const char *name, bool stopped);

/* control.c: the control socket of the workspace process. */
struct ws_state {
    char mountpoint[DMT_PATH_MAX], holder_node[65], epoch[32], note[256];
    bool holder, failed;
    int64_t pid;
    uint64_t parked, dirty_bytes, missing_bytes;
};
/* 0; -ENOENT / -ECONNREFUSED: not running; -ETIMEDOUT; other < 0. */
int control_status(const char *name, struct ws_state *ret, struct dmt_err *err);
/* The same, but a process that is just being replaced by its holder is waited for. */
int control_status_patient(const char *name, struct ws_state *ret, struct dmt_err *err);
int control_simple(const char *name, const char *cmd, int timeout_ms, struct dmt_err *err);
int control_view(const char *name, const char *dir, struct dmt_err *err);

#endif
