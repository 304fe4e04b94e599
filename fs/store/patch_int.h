/* patch_int.h: a store being made equal to another one, what these share:
 *
 *   patch.c        its life: begun, interrupted, gone on with, closed; commits
 *   patch_begin.c  the database that it begins with
 *   patch_rows.c   the items, one after the other
 *   patch_bytes.c  the content of the inode whose items come in
 *   patch_end.c    compared, complete, in the old store's place
 */
#ifndef DMT_STORE_PATCH_INT_H
#define DMT_STORE_PATCH_INT_H

#include <limits.h>

#include "fs/store/stream_int.h"

#define PATCH_DB       "resync.db"
#define PATCH_DB_FRESH "resync.db.new"
#define PATCH_DB_NEXT  "workspace.db.next"

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
/* --- patch_bytes.c */
int patch_marks_write(struct dmt_patch *p);
int patch_file_leave(struct dmt_patch *p);
/* Where [off, end) of the inode goes: fills the place in. */
int patch_place(struct dmt_patch *p, struct piece *q);
int patch_put_bytes(struct dmt_patch *p, const struct piece *q, const uint8_t *data);
/* A new row; goes on with the one before where that changes nothing. */
int patch_put_range(struct dmt_patch *p, const struct piece *q);
/* The rows that reach into [off, end), as a map. */
int patch_load_range(struct dmt_patch *p, uint64_t off, uint64_t end, struct pmap *m);
/* What lies in [off, end) goes; of an inode whose content is ranges. */
int patch_cut_ranges(struct dmt_patch *p, uint64_t off, uint64_t end);
/* The content of a small file, as a map; to a row again; to the side file, since it is none any more. */
int patch_small_load(struct dmt_patch *p, uint64_t ino, struct pmap *m);
int patch_small_write(struct dmt_patch *p);
int patch_small_spill(struct dmt_patch *p);
/* --- patch.c */
int patch_commit(struct dmt_patch *p);
int patch_commit_when_due(struct dmt_patch *p);
int patch_restart(struct dmt_patch *p); /* nothing of the old state counts any more */
int patch_basis_write(struct dmt_patch *p);
int patch_failed(struct dmt_patch *p, int r); /* returns r */
int patch_run(struct store_db *db, const char *text);
void patch_path(const char *dir, const char *name, const char *suffix, char buf[PATH_MAX]);
void patch_remove_db(const struct dmt_io *io, const char *dir, const char *name);
/* --- patch_begin.c */
int patch_make(struct dmt_patch *p, uint64_t common, struct dmt_err *err);

#endif
