/* patch_int.h: a store being made equal to another one: what patch.c (its life) and patch_rows.c (the items) share. */
#ifndef DMT_STORE_PATCH_INT_H
#define DMT_STORE_PATCH_INT_H

#include "fs/store/stream_int.h"

struct dmt_patch {
    struct dmt_store_conf conf;
    char *dir;
    int lock_fd, sync_fd;
    struct dmt_store_ident ident;
    struct store_db db; /* resync.db */
    struct basis basis, hist; /* of live and history rows, as of the last commit */
    struct dmt_buf pending;
    uint64_t hash;
    struct dmt_pos pos; /* of this difference */
    bool head, end, begun, failed; /* begun: a transaction is open */
    uint64_t inodes, live_bytes, dentries, versions; /* from END */
    uint64_t rows, bytes, commit_ns; /* since the last commit; when that was */
    /* the inode whose items come in */
    uint64_t ino;      /* 0: none yet */
    uint64_t at, hist_at; /* its live, its history rows before this key are new */
    bool live, is_dir; /* its row has come */
    bool absent;       /* it was not here at all */
    bool bare;         /* it had no ranges in data files before */
    bool small;        /* its content is in small_map, to become one row */
    struct pmap small_map;
    struct piece last; /* range put last, to be joined; end 0: none */
    /* its data files */
    bool marks, side_moved, base_moved;
    uint64_t side_end, hwm;
    uint32_t serial;
    int fd;
    uint32_t fd_serial;
    uint64_t fd_ino;
    bool dirs[256]; /* directories with new names (a test's disk) */
};

/* --- patch_rows.c */
int patch_item(void *ctx, const uint8_t *p, size_t len);
int patch_leave(struct dmt_patch *p); /* the inode's items are all here */
int patch_marks_write(struct dmt_patch *p);
int patch_file_leave(struct dmt_patch *p);
/* --- patch.c */
int patch_commit(struct dmt_patch *p);
int patch_commit_when_due(struct dmt_patch *p);
int patch_restart(struct dmt_patch *p); /* nothing of the old state counts any more */

#endif
