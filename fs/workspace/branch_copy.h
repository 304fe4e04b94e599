/* branch_copy.h: branches as files, for the other machine's copy of them, and their removal (docs/decisions/0024).
 *
 * A complete branch is immutable: (file, offset) names the same bytes for ever; file: its segments in the order of their
 * serials, from 0. A copy grows in STORE/branches/NAME.copy, by one writer, and has its name only when it is durable and
 * checked. A removed one is remembered as STORE/branches/NAME.removed. Threads: any; all block on the disk.
 */
#ifndef DMT_WORKSPACE_BRANCH_COPY_H
#define DMT_WORKSPACE_BRANCH_COPY_H

#include <stdatomic.h>
#include "fs/workspace/workspace.h"

#define DMT_BRANCH_NAME_MAX 200u
#define DMT_BRANCH_FILE_MAX (1ull << 30) /* bytes of a file */
#define DMT_BRANCH_FILES_MAX (1u << 20)

/* n bytes: may a branch be called so? */
bool dmt_branch_name_ok(const char *name, size_t n);
/* Every branch that is here, whole, and every name that was removed (removed; a branch of that name does not count). What a
 * removal that was cut off has left is removed on the way. */
int dmt_ws_branch_names(struct dmt_ws *ws, int (*fn)(void *ctx, const char *name, bool removed), void *ctx);
/* Durable: it does not come back, here or from the other machine. must_be: -ENOENT when there is none. */
int dmt_ws_branch_remove(struct dmt_ws *ws, const char *name, bool must_be, struct dmt_err *err);

struct dmt_branch_piece {
    uint32_t file;
    uint64_t serial, size; /* of the file */
    uint64_t off, len;
};
/* From (file, off) on, or, at the end of that file, the next one's beginning: at most `most` bytes of one file into buf, what
 * they are in *p; p->len 0: there is no more, then p->file is the number of files, and *tail where its records end. -ENOENT: not
 * here. */
int dmt_ws_branch_read(struct dmt_ws *ws, const char *name, struct dmt_branch_piece *p, void *buf, uint64_t most,
                       struct dmt_pos *tail);

/* Where a copy goes on: file and off; serial of the last file, if off > 0. */
int dmt_ws_branch_copy_open(struct dmt_ws *ws, const char *name, struct dmt_branch_piece *ret);
/* Pieces come in order. -ENOSPC also when the disk would have too little left for the workspace. */
int dmt_ws_branch_copy_put(struct dmt_ws *ws, const char *name, const struct dmt_branch_piece *p, const void *buf);
/* All has come: durable, checked, named. DMT_E_CORRUPT, DMT_E_HISTORY: it is not that branch. */
int dmt_ws_branch_copy_end(struct dmt_ws *ws, const char *name, uint32_t files, const struct dmt_pos *tail);
void dmt_ws_branch_copy_drop(struct dmt_ws *ws, const char *name); /* what has come so far goes */

/* --- branch_bulk.c: what the other machine lacked when it took over -------------------------------------------------------- */
/* NAME.bulk: files as they were when the other machine took over, of which it lacked by-reference bytes. */
bool dmt_branch_is_bulk(const char *name);
/* Former holder, following, and whole at that turn (dmt_ws_keep_own): saves the files that the new holder reported as
 * incomplete, once its reports are applied here. node: ours. 1: saved now; 0: nothing to save, or it was before; -ECANCELED:
 * *stop has become true. [blocks] */
int dmt_ws_branch_keep_bulk(struct dmt_ws *ws, const struct dmt_epoch_row *turn, const char *node, const atomic_bool *stop,
                            struct dmt_err *err);
/* Is such a branch of that switch point here? */
bool dmt_ws_branch_has_bulk(struct dmt_ws *ws, uint64_t switch_seq);

#endif
