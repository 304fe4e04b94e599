/* replace.c: the whole content of a file replaced at once, by bytes that the records must carry.
 *
 * A CONTENT record moves no bytes: it names where they are. That serves as long as every copy of
 * the workspace has the same bytes there. Of a snapshot that is not so where a promotion gave bytes
 * up (settle.c): the machine that wrote them shows them still, the others never had them. Such
 * content is brought in first, into a file without a name, by writes like any program's; then one
 * CONTENT record, in a group with what belongs to it, takes it from there. So it happens whole or
 * not at all, whatever is cut.
 * Failure: no room, a bad disk: the file without a name goes, nothing else has changed. A crash
 * leaves it an orphan, which the next start reaps. Thread: pool, control; blocks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/ws.h"

static bool all_zero(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static int copy_bytes(struct dmt_ws *ws, uint64_t ino, dmt_content_fn read, void *ctx)
{
    uint8_t *buf = malloc(DMT_WRITE_MAX);
    struct dmt_op op = {0};
    ssize_t n = buf ? 1 : -ENOMEM;
    for (uint64_t off = 0; n > 0; off += (uint64_t)n) {
        n = read(ctx, buf, DMT_WRITE_MAX, off);
        int r = n <= 0 || all_zero(buf, (size_t)n)
                    ? 0
                    : dmt_ws_write(ws, &op, ino, buf, (size_t)n, off, false);
        n = r < 0 ? r : n;
    }
    free(buf);
    return (int)n;
}

int ws_stage(struct dmt_ws *ws, dmt_content_fn read, void *ctx, uint64_t *ret_ino)
{
    struct dmt_op op = {0};
    struct dmt_attr at;
    int r = dmt_ws_make(ws, &op, DMT_ROOT, NULL, S_IFREG | 0600, 0, NULL, &at);
    if (r < 0)
        return r;
    dmt_ws_ref(ws, at.node);
    r = copy_bytes(ws, at.node, read, ctx);
    if (r == 0)
        r = dmt_ws_sync_wait(ws, at.node);
    if (r < 0)
        ws_stage_drop(ws, at.node);
    *ret_ino = at.node;
    return r;
}

void ws_stage_drop(struct dmt_ws *ws, uint64_t ino)
{
    (void)dmt_ws_forget(ws, ino, 1);
}

/* --- of a view ------------------------------------------------------------------------------ */

struct of_view {
    struct dmt_ws *ws;
    uint64_t view;
    struct dmt_inode n;
    uint64_t lost;
};

/* Bytes that are lost here are zeros; what lies around them is not. */
static ssize_t read_view(void *ctx, void *buf, size_t n, uint64_t off)
{
    struct of_view *v = ctx;
    ssize_t got = ws_view_read(v->ws, v->view, v->n.ino, buf, n, off, false);
    if (got != DMT_E_GONE || off >= v->n.size)
        return got;
    n = n < DMT_LOST_STEP - off % DMT_LOST_STEP ? n : DMT_LOST_STEP - off % DMT_LOST_STEP;
    n = n < v->n.size - off ? n : (size_t)(v->n.size - off);
    ws_lock(v->ws);
    bool lost = dmt_store_lost_at(v->ws->st, v->view, v->n.ino, off, n);
    ws_unlock(v->ws);
    if (!lost)
        return ws_view_read(v->ws, v->view, v->n.ino, buf, n, off, false);
    memset(buf, 0, n);
    v->lost += n;
    return (ssize_t)n;
}

int ws_stage_view(struct dmt_ws *ws, uint64_t view, uint64_t ino, uint64_t *ret_ino,
                  uint64_t *ret_lost)
{
    struct of_view v = {.ws = ws, .view = view};
    ws_lock(ws);
    int r = dmt_store_inode_get(ws->st, view, ino, &v.n);
    ws_unlock(ws);
    if (r == 0)
        r = ws_stage(ws, read_view, &v, ret_ino);
    *ret_lost = v.lost;
    return r;
}

/* --- healing -------------------------------------------------------------------------------- */

/* Lock held. */
static int take_over(struct dmt_ws *ws, uint64_t ino, uint64_t at, const struct dmt_rec_CONTENT *c)
{
    struct dmt_inode n;
    struct ws_group g;
    struct dmt_body content = {.type = DMT_REC_CONTENT, .CONTENT = *c};
    struct dmt_body healed = {
        .type = DMT_REC_DELXATTR,
        .DELXATTR = {.ino = ino, .name = ws_span(WS_INCOMPLETE_ATTR), .mode = DMT_MODE_KEEP}};
    int r = ws_begin(ws, true);
    if (r == 0)
        r = dmt_store_inode_get(ws->st, DMT_LIVE, ino, &n);
    if (r == 0 && n.seq != at)
        r = -EEXIST;
    if (r == 0)
        r = ws_room(ws, DMT_REC_HDR * 8, 0);
    if (r == 0)
        r = ws_group_begin(ws, &g, "heal");
    if (r < 0)
        return r;
    r = ws_group_put(ws, &g, &content);
    if (r == 0)
        r = ws_group_put(ws, &g, &healed);
    return ws_group_end(ws, &g, r);
}

int dmt_ws_heal(struct dmt_ws *ws, uint64_t ino, uint64_t at, dmt_content_fn read, void *ctx,
                uint64_t size, uint64_t mtime)
{
    uint64_t from;
    int r = ws_stage(ws, read, ctx, &from);
    if (r < 0)
        return dmt_err_errno(r);
    struct dmt_rec_CONTENT c = {
        .ino = ino, .src = from, .view = DMT_LIVE, .size = size, .mtime = mtime};
    ws_lock(ws);
    r = take_over(ws, ino, at, &c);
    ws_unlock(ws);
    ws_stage_drop(ws, from);
    return r == 0 ? dmt_ws_sync_wait(ws, ino) : dmt_err_errno(r);
}
