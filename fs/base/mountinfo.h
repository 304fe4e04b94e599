/* mountinfo.h: what is mounted where, from /proc/self/mountinfo, without touching the mounts themselves (a stat of a dead FUSE
 * mount hangs). Any thread. */
#ifndef DMT_BASE_MOUNTINFO_H
#define DMT_BASE_MOUNTINFO_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "fs/base/limits.h"

struct dmt_mount {
    uint64_t dev;              /* makedev(major, minor), as statx gives it */
    char dir[DMT_PATH_MAX];
    char type[64];
    char source[DMT_PATH_MAX];
    char options[512];         /* of the mount ("rw,nosuid,noatime") */
    char workspace[DMT_WS_NAME_MAX + 1]; /* name if it is a Dumont mount, else "" */
    bool ro;                   /* mount or filesystem read-only */
};

/* One line of mountinfo (without newline). False if it does not parse. */
bool dmt_mountinfo_parse(const char *line, struct dmt_mount *ret);
/* The mount on top at exactly `dir` (absolute, no symlinks): 1, 0 if nothing is mounted there, < 0 error. */
int dmt_mountinfo_at(const char *dir, struct dmt_mount *ret);
/* The (first) mount of workspace `name`: 1, 0, < 0. */
int dmt_mountinfo_workspace(const char *name, struct dmt_mount *ret);

#endif
