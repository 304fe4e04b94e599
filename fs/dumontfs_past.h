/* dumontfs_past.h: bringing back what is no longer in the workspace's own history rows: a moment from the archive, bytes from a
 * branch. */
#ifndef DMT_DUMONTFS_PAST_H
#define DMT_DUMONTFS_PAST_H

#include "fs/dumontfs.h"

/* `rollback --to TIME`: restores that moment from the archive into a scratch store, then changes the workspace (or rb->paths)
 * until it is equal, by ordinary records, after an automatic snapshot. Without an archive: an error that names the snapshots
 * around that time. [blocks] */
int rollback_to_time(struct app *a, struct dmt_ws *ws, const char *to, struct dmt_rollback *rb, struct dmt_err *err);
/* `heal FILE`: path inside the workspace. From a branch kept on this machine, and only if the file has not been changed since it
 * was found incomplete. [blocks] */
int heal_file(struct app *a, struct dmt_ws *ws, const char *path, char *text, size_t size, struct dmt_err *err);

/* rm -r, logged when it fails. */
void remove_path(const char *path);

/* dumontfs_mirror.c: makes the tree below dst_path equal to src's (both "/a/b"; "/" = all), by ordinary operations. fn gets each
 * difference; dry: only that. The numbers of changed inodes are collected in *inos (caller frees). */
struct mirror {
    struct dmt_ws *dst, *src;
    dmt_diff_fn fn;
    void *ctx;
    bool dry;
    uint64_t changed;
    uint64_t *inos;
    size_t inos_n, inos_cap;
    struct { uint64_t src, dst; } *links; /* files with several names: node there -> node here */
    size_t links_n, links_cap;
};
int mirror_path(struct mirror *m, const char *path);
void mirror_free(struct mirror *m);

#endif
