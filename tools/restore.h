/* restore.h: what `dumont restore`, `workspace create --from` and `verify --archive` share. One thread. */
#ifndef DMT_TOOLS_RESTORE_H
#define DMT_TOOLS_RESTORE_H

#include "fs/base/err.h"
#include "fs/workspace/workspace.h"

/* Builds a store in `store` from the archive at url, as of `to` (NULL = now). Prints errors, with say how far it came; returns an
 * exit code. */
int restore_store(const char *url, const char *store, const char *name, const char *to, const char *lineage, bool say);
/* Writes a tree as plain files below dir (existing, empty); view: DMT_LIVE, or the node id of the root of a snapshot: names,
 * types, modes, owners, times, xattrs, hard links, holes. */
int extract_tree(struct dmt_ws *ws, uint64_t view, const char *dir, uint64_t *ret_files, struct dmt_err *err);
/* Opens a closed store for reading: recovery runs, nothing is appended. */
int open_offline(const char *store, struct dmt_ws **ret, struct dmt_pool **ret_pool, struct dmt_err *err);
void close_offline(struct dmt_ws *ws, struct dmt_pool *pool);
/* rm -r below and with path. 0 or -errno. */
int remove_path(const char *path);

#endif
