/* sample.c: one inode, picked at random, as a number that another machine can compute as well: the
 * audit after a resync.
 *
 * Happy path: the holder picks (dmt_ws_sample): the next inode at or after a random number, of a
 * file at most DMT_SAMPLE_MAX bytes from a random offset; row and bytes make the hash. The standby
 * computes the same for the same inode (dmt_ws_sample_check) and compares, if it stands at the same
 * version and nothing is pending: equal version is equal content (rule 15). Failure modes: the
 * inode moves on while it is read, on either side: that sample says nothing. Thread: pool; blocks
 * on the disk.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/base/hash.h"
#include "fs/workspace/ws.h"

/* The hash of the inode as it is now. 0, -EAGAIN (it changed, or bytes are pending), -ENOENT. */
static int compute(struct dmt_ws *ws, struct dmt_sample *s)
{
    struct dmt_inode n, again;
    uint8_t row[40], *buf = malloc(DMT_SAMPLE_MAX);
    ws_lock(ws);
    int r = buf ? dmt_store_inode_get(ws->st, DMT_LIVE, s->ino, &n) : -ENOMEM;
    if (r == 0 && dmt_store_missing_ino(ws->st, s->ino, UINT64_MAX))
        r = -EAGAIN;
    ws_unlock(ws);
    ssize_t got = 0;
    bool file = r == 0 && S_ISREG(n.mode);
    if (file && s->length > 0)
        got = ws_view_read(ws, DMT_LIVE, s->ino, buf, s->length, s->off, false);
    ws_lock(ws);
    if (r == 0 && (got < 0 || dmt_store_inode_get(ws->st, DMT_LIVE, s->ino, &again) < 0 ||
                   again.epoch != n.epoch || again.seq != n.seq))
        r = -EAGAIN;
    ws_unlock(ws);
    if (r == 0) {
        s->epoch = n.epoch;
        s->seq = n.seq;
        dmt_st64(row, n.ino);
        dmt_st64(row + 8, n.mode);
        dmt_st64(row + 16, (uint64_t)n.uid << 32 | n.gid);
        dmt_st64(row + 24, n.mtime);
        dmt_st64(row + 32, file ? n.size : 0);
        s->hash = dmt_hash64(dmt_hash64(0, row, sizeof(row)), buf, (size_t)got);
    }
    free(buf);
    return r;
}

int dmt_ws_sample(struct dmt_ws *ws, uint64_t random, struct dmt_sample *ret)
{
    struct dmt_inode n;
    *ret = (struct dmt_sample){0};
    ws_lock(ws);
    int r = dmt_store_inode_near(ws->st, 1 + random % ws->next_ino, &n);
    ws_unlock(ws);
    if (r < 0)
        return r;
    ret->ino = n.ino;
    if (S_ISREG(n.mode) && n.size > 0) {
        ret->off = random / 7 % n.size;
        ret->length = n.size - ret->off < DMT_SAMPLE_MAX ? n.size - ret->off : DMT_SAMPLE_MAX;
    }
    return compute(ws, ret);
}

int dmt_ws_sample_check(struct dmt_ws *ws, const struct dmt_sample *s)
{
    struct dmt_sample mine = {.ino = s->ino, .off = s->off, .length = s->length};
    if (s->length > DMT_SAMPLE_MAX)
        return -EINVAL;
    int r = compute(ws, &mine);
    if (r == -ENOENT || r == -EAGAIN)
        return 1;
    if (r < 0 || mine.epoch != s->epoch || mine.seq != s->seq)
        return r < 0 ? r : 1;
    return mine.hash == s->hash ? 0 : DMT_E_HISTORY;
}

int dmt_ws_suspect(struct dmt_ws *ws, uint64_t ino)
{
    return dmt_patch_suspect(ws->conf.io, ws->conf.dir, ino);
}
