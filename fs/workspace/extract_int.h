/* extract_int.h: the files of a branch, what extract.c (reading its records) and extract_write.c (writing the files) share. */
#ifndef DMT_WORKSPACE_EXTRACT_INT_H
#define DMT_WORKSPACE_EXTRACT_INT_H

#include "fs/workspace/ws.h"

#define EXTRACT_CHUNK (1u << 20)

struct extract_name { /* that the branch gave an inode */
    uint64_t ino, parent;
    size_t next; /* of the same inode, + 1 */
    char *name;  /* NULL: taken away again */
};

struct extract {
    struct dmt_ws *ws;
    struct dmt_ws scratch; /* only what apply needs: the store */
    char dir[DMT_PATH_MAX];
    uint64_t view, floor;
    struct ws_map seen;   /* inodes brought in or made: 1 file, 2 directory */
    struct ws_map groups; /* begin_seq of groups with an END */
    bool skipping;
    struct extract_name *names;
    size_t n_names, cap_names;
    struct ws_map named; /* ino -> place of its newest name + 1 */
    uint64_t *lost; /* inodes whose content this machine may lack: not taken from its snapshot */
    size_t n_lost;
    bool have_bulk; /* but from the branch that has it */
    uint64_t left_out;
    uint8_t *chunk;
    char where[320]; /* what was worked on when it failed */
};

bool ws_extract_is_lost(const struct extract *x, uint64_t ino); /* this machine may lack bytes of it */
int ws_extract_write(struct extract *x, const char *dir); /* the touched files below dir */

#endif
