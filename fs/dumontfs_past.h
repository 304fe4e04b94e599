/* dumontfs_past.h: bringing back what is no longer in the workspace's own history rows: a moment from the archive, bytes from a
 * branch. */
#ifndef DMT_DUMONTFS_PAST_H
#define DMT_DUMONTFS_PAST_H

#include "fs/dumontfs.h"

/* `rollback --to TIME`: restores that moment from the archive into a scratch store, then changes the workspace (or rb->paths)
 * until it is equal, by ordinary records, after an automatic snapshot. */
struct past {
    struct app *app;
    struct dmt_ws *ws;
    struct dmt_rollback *rb;
    void (*progress)(void *ctx, const char *what, uint64_t done, uint64_t total, const char *unit);
    void *ctx;
    uint64_t t;          /* the moment; past_time */
    uint64_t incomplete; /* out: files whose bulk data of that moment the archive does not have: they have older content */
};
/* Reads the time, and looks whether this machine can go back to it at all: not without being the holder, and not without an
 * archive (an error that names the snapshots around that time). */
int past_time(struct past *p, const char *to, struct dmt_err *err);
/* The archive has everything of interest. [blocks] */
int rollback_to_time(struct past *p, struct dmt_err *err);
/* `heal FILE`: path inside the workspace. Only where the bytes are: on the machine that wrote them and still has them
 * (STORE/whole), or where their branch is (NAME.bulk, its own or a copy), and only if the file has not been changed since it was
 * found incomplete (user.dumont.incomplete says at which position that was). They come from the branch that went on from there,
 * if it has the file, else from NAME.bulk, else from the snapshot of the switch point. [blocks] */
int heal_file(struct app *a, struct dmt_ws *ws, const char *path, char *text, size_t size, struct dmt_err *err);

/* rm -r, logged when it fails. */
void remove_path(const char *path);

/* dumontfs_mirror.c: makes the tree below dst_path equal to src's (both "/a/b"; "/" = all), by ordinary operations. fn gets each
 * difference; dry: only that. tick is told the number of differences so far. The numbers of changed inodes are collected in *inos
 * (mirror_free). */
struct mirror {
    struct dmt_ws *dst, *src;
    dmt_diff_fn fn;
    void *ctx;
    void (*tick)(void *ctx, uint64_t changed);
    void *tick_ctx;
    bool dry;
    uint64_t changed;
    uint64_t *inos;
    size_t inos_n, inos_cap;
    struct mirror_link { uint64_t src, dst; } *links; /* files with several names: node there -> node here */
    size_t links_n, links_cap;
};
int mirror_path(struct mirror *m, const char *path);
void mirror_free(struct mirror *m);

#endif
