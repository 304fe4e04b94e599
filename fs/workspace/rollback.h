/* rollback.h: the plan of a rollback, between rollback.c (what has to happen) and rollback_log.c (the records that make it
 * so). */
#ifndef DMT_WORKSPACE_ROLLBACK_H
#define DMT_WORKSPACE_ROLLBACK_H

#include "fs/workspace/ws.h"

/* An inode that gets the attributes, xattrs and content it had. */
struct ws_restore {
    uint64_t then, now; /* inode number in the snapshot, and the one that bears it now */
    bool fresh;         /* made anew */
    bool content;
    struct dmt_inode row; /* then */
    struct ws_xattrs want, have;
    char *target; /* symlinks made anew */
};

/* A name put aside in the staging directory; its name there is its place in the list. */
struct ws_staged {
    uint64_t ino;
    size_t next; /* of the same inode, + 1 */
    bool used, made;
};

struct ws_plan {
    struct dmt_ws *ws;
    const char *const *paths;
    uint64_t view;
    struct ws_delta d;    /* from now (a) to then (b) */
    uint8_t *lose, *gain; /* per name: remove it from now, add it from then */
    size_t cap_flags;
    struct ws_map fresh;   /* inode then -> its new number */
    struct ws_map brought; /* inode then -> file without a name that has its content */
    struct ws_map outside; /* inodes with a new name outside the paths */
    struct ws_restore *restores;
    size_t n_restores, cap_restores;
    struct ws_staged *staged;
    size_t n_staged, cap_staged;
    struct ws_map stage_head; /* inode now -> first staged + 1 */
    struct ws_group group;
    uint64_t next_ino, staging;
};

/* Lock held, writers stopped: appends BEGIN .. END and applies it. */
int ws_plan_log(struct ws_plan *p, const char *snapshot);

#endif
