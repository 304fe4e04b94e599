/* patch_rows.c: the items of a difference (diff.c) into the rows of the new database and into data
 * files.
 *
 * Per inode, in this order: history rows that came to an end; GONE, or its row; its attributes;
 * entries or ranges in ascending order. Everything between two of those that was not said to be
 * KEPT is cut out of what was there. So before `at` the rows are those of the difference, from
 * there on those of before, at every moment: a commit may fall anywhere, but in small content,
 * which is collected in memory and becomes one row at the end.
 * Where the content of an inode goes is patch_bytes.c's.
 * Failure modes: something KEPT that is not here is DMT_E_HISTORY: what the sender was told does
 * not hold. A field out of its limits is DMT_E_CORRUPT. Thread: one at a time, any.
 */
#include "fs/base/hash.h"
#include "fs/store/patch_int.h"

#define KEY_MAX ((uint64_t)INT64_MAX)

/* --- one inode after the other */

/* What lies in [off, end) of the inode, entries or bytes, goes. */
static int cut(struct dmt_patch *p, uint64_t off, uint64_t end)
{
    if (off >= end)
        return 0;
    if (p->is_dir)
        return store_exec(&p->db, SQL_DENTRY_CUT, "iii", p->ino, off, end);
    if (p->small) {
        store_pmap_cut(&p->small_map, off, end, NULL, NULL);
        return 0;
    }
    return p->bare ? 0 : patch_cut_ranges(p, off, end);
}

int patch_leave(struct dmt_patch *p)
{
    int r = 0;
    if (p->live)
        r = cut(p, p->at, KEY_MAX);
    if (r == 0 && p->small)
        r = patch_small_write(p);
    if (r == 0)
        r = patch_marks_write(p);
    store_pmap_clear(&p->small_map);
    p->live = p->is_dir = p->small = p->marks = p->bare = p->absent = false;
    p->at = p->hist_at = 0;
    p->last = (struct piece){0};
    return r;
}

/* The first item of an inode: what an attempt before may have left of its history goes. */
static int enter(struct dmt_patch *p, uint64_t ino)
{
    static const enum store_sql whole[] = {SQL_INODE_H_FORGET, SQL_DENTRY_H_FORGET,
                                           SQL_XATTR_H_FORGET};
    if (ino == p->ino)
        return 0;
    if (ino < p->ino || ino == 0 || ino >> DMT_INO_BITS)
        return DMT_E_CORRUPT;
    int r = patch_leave(p);
    p->ino = ino;
    const struct basis_seg *s = basis_at(&p->hist, ino, 0);
    for (size_t i = 0; r == 0 && i < sizeof(whole) / sizeof(whole[0]); i++)
        r = store_exec(&p->db, whole[i], "ii", ino, s->seq);
    for (uint64_t from = 0; r == 0 && s; s = basis_next(&p->hist, s), from = s ? s->off : 0) {
        const struct basis_seg *next = basis_next(&p->hist, s);
        if (s->ino > ino)
            break;
        uint64_t to = next && next->ino == ino ? next->off : KEY_MAX;
        r = store_exec(&p->db, SQL_EXTENT_H_FORGET, "iiii", ino, s->seq, from, to);
        if (r == 0)
            r = store_exec(&p->db, SQL_MISSING_H_FORGET, "iiii", ino, s->seq, from, to);
    }
    return r;
}

static int ask_any(struct dmt_patch *p, enum store_sql id, bool *ret)
{
    sqlite3_stmt *s;
    int r = store_sql(&p->db, id, &s, "i", p->ino);
    if (r == 0)
        r = store_sql_step(&p->db, s);
    *ret = r > 0;
    if (r > 0)
        store_sql_done(s);
    return r < 0 ? r : 0;
}

static int take_live(struct dmt_patch *p, const struct dmt_inode *n, uint64_t alloc)
{
    bool ranges = false;
    if (p->live)
        return DMT_E_CORRUPT;
    int r = ask_any(p, SQL_INODE_GET, &p->absent);
    p->absent = !p->absent;
    if (r == 0)
        r = store_inode_bind(&p->db, SQL_INODE_PUT, n, alloc, 0);
    if (r == 0)
        r = store_exec(&p->db, SQL_XATTR_WIPE, "i", p->ino);
    p->live = true;
    p->is_dir = (n->mode & S_IFMT) == S_IFDIR;
    if (r < 0 || p->is_dir)
        return r;
    r = ask_any(p, SQL_EXTENT_ANY, &ranges);
    if (r == 0 && !ranges)
        r = patch_small_load(p, p->ino, &p->small_map);
    p->bare = !ranges;
    p->small = !ranges && n->size <= DMT_SMALL_MAX;
    return r == 0 && !p->small && p->small_map.n ? patch_small_spill(p) : r;
}

static int take_inode(struct dmt_patch *p, struct dmt_cur *c)
{
    struct dmt_inode n;
    uint64_t alloc, died;
    int r = store_get_inode(c, &n, &alloc, &died);
    if (r == 0)
        r = enter(p, n.ino);
    if (r < 0)
        return r;
    return died ? store_inode_bind(&p->db, SQL_INODE_H_PUT, &n, alloc, died)
                : take_live(p, &n, alloc);
}

static int take_gone(struct dmt_patch *p, struct dmt_cur *c)
{
    uint64_t ino = dmt_get_u64(c);
    int r = dmt_cur_end(c) ? DMT_E_CORRUPT : enter(p, ino);
    if (r == 0)
        r = store_exec(&p->db, SQL_INODE_DEL, "i", ino);
    if (r == 0)
        r = store_exec(&p->db, SQL_XATTR_WIPE, "i", ino);
    if (r == 0)
        r = store_exec(&p->db, SQL_CONTENT_DEL, "i", ino);
    if (r == 0)
        r = store_exec(&p->db, SQL_DENTRY_WIPE, "i", ino);
    return r == 0 ? patch_cut_ranges(p, 0, KEY_MAX) : r;
}

/* The keys up to `from` are settled; from there on to `to` comes now. */
static int advance(struct dmt_patch *p, uint64_t from, uint64_t to)
{
    if (!p->live || from < p->at || to <= from || to > KEY_MAX)
        return DMT_E_CORRUPT;
    int r = cut(p, p->at, from);
    p->at = to;
    return r;
}

static uint64_t covered(const struct pmap *m, uint64_t from, uint64_t to)
{
    uint64_t n = 0;
    for (const struct piece *q = store_pmap_at(m, from); q && q->off < to; q = store_pmap_next(q))
        n += (q->end < to ? q->end : to) - (q->off > from ? q->off : from);
    return n;
}

static int entries_in(struct dmt_patch *p, uint64_t from, uint64_t to, uint64_t *ret)
{
    sqlite3_stmt *s;
    int r = store_sql(&p->db, SQL_DENTRY_RANGE, &s, "iii", p->ino, from, to);
    if (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        *ret = store_col(s, 0);
        store_sql_done(s);
    }
    return r < 0 ? r : 0;
}

/* Said to be here already. Is it? */
static int take_kept(struct dmt_patch *p, struct dmt_cur *c)
{
    uint64_t ino = dmt_get_u64(c), from = dmt_get_u64(c), to = dmt_get_u64(c), n = 0;
    int r = dmt_cur_end(c) || ino != p->ino ? DMT_E_CORRUPT : advance(p, from, to);
    if (r < 0)
        return r;
    struct pmap m;
    store_pmap_init(&m);
    if (p->is_dir) {
        r = entries_in(p, from, to, &n);
    } else if (p->small) {
        n = covered(&p->small_map, from, to);
    } else {
        r = patch_load_range(p, from, to, &m);
        n = covered(&m, from, to);
    }
    store_pmap_clear(&m);
    p->last = (struct piece){0};
    return r == 0 && n != to - from ? DMT_E_HISTORY : r;
}

static int take_dentry(struct dmt_patch *p, struct dmt_cur *c)
{
    struct dmt_cur look = *c;
    uint32_t n;
    uint64_t died = dmt_get_u64(&look), parent = dmt_get_u64(&look);
    const void *name = dmt_get_bytes(&look, &n);
    (void)dmt_get_u64(&look);
    uint64_t cookie = dmt_get_u32(&look);
    int r = look.bad ? DMT_E_CORRUPT : enter(p, parent);
    if (r == 0 && !died)
        r = !p->is_dir ? DMT_E_CORRUPT : advance(p, cookie, cookie + 1);
    /* What has this place here goes, and so does the name where it was: a rename may have passed on
     * either. */
    if (r == 0 && !died)
        r = cut(p, cookie, cookie + 1);
    if (r == 0 && !died)
        r = store_exec(&p->db, SQL_DENTRY_DEL, "ib", parent, name, (size_t)n);
    return r == 0 ? store_take_dentry(&p->db, c) : r;
}

static int take_xattr(struct dmt_patch *p, struct dmt_cur *c)
{
    struct dmt_cur look = *c;
    uint64_t died = dmt_get_u64(&look), ino = dmt_get_u64(&look);
    int r = look.bad ? DMT_E_CORRUPT : enter(p, ino);
    if (r == 0 && !died && !p->live)
        r = DMT_E_CORRUPT;
    return r == 0 ? store_take_xattr(&p->db, c) : r;
}

/* --- ranges */

struct range { /* a PIECE */
    struct piece q;
    uint64_t died;
    uint8_t mode;
    const uint8_t *data;
};

static int take_range(struct dmt_patch *p, const struct range *g)
{
    struct piece q = g->q;
    int r = advance(p, q.off, q.end);
    if (r == 0 && p->is_dir)
        r = DMT_E_CORRUPT;
    if (r == 0 && p->small &&
        (g->mode != PIECE_DATA || !(q.flags & PIECE_INLINE) || q.end > DMT_SMALL_MAX))
        r = patch_small_spill(p);
    if (r < 0)
        return r;
    if (p->small) {
        q.kind = PIECE_MEM;
        q.c = store_chunk_from(g->data, (uint32_t)(q.end - q.off));
        store_pmap_set(&p->small_map, &q);
        store_chunk_unref(q.c);
        return 0;
    }
    r = cut(p, q.off, q.end);
    if (r == 0)
        r = patch_place(p, &q);
    if (r == 0)
        r = patch_put_range(p, &q);
    if (r == 0 && g->mode == PIECE_DATA)
        return patch_put_bytes(p, &q, g->data);
    return r < 0 ? r
                 : store_exec(&p->db, SQL_MISSING_PUT, "iiiiiiiii", p->ino, q.off, q.born,
                              q.end - q.off, q.owner, (uint64_t)q.serial, q.foff, (uint64_t)0,
                              (uint64_t)0);
}

static int put_old(struct dmt_patch *p, const struct piece *q, uint64_t died, const uint8_t *data)
{
    return store_exec(&p->db, SQL_EXTENT_H_PUT, data ? "iiiiiiiiib" : "iiiiiiiiin", p->ino, q->off,
                      q->end - q->off, data ? (uint64_t)0 : q->owner,
                      data ? (uint64_t)0 : (uint64_t)q->serial, data ? (uint64_t)0 : q->foff,
                      (uint64_t)q->flags, q->born, died, data, (size_t)(q->end - q->off));
}

/* An old range whose bytes are those that the live file has here. */
static int keep_old(struct dmt_patch *p, const struct range *g)
{
    struct pmap m;
    store_pmap_init(&m);
    int r = patch_small_load(p, p->ino, &m);
    if (r == 0 && m.n == 0)
        r = patch_load_range(p, g->q.off, g->q.end, &m);
    if (r == 0 && covered(&m, g->q.off, g->q.end) != g->q.end - g->q.off)
        r = DMT_E_HISTORY;
    for (const struct piece *m1 = r == 0 ? store_pmap_at(&m, g->q.off) : NULL;
         r == 0 && m1 && m1->off < g->q.end; m1 = store_pmap_next(m1)) {
        struct piece part = store_piece_clip(m1, g->q.off, g->q.end);
        part.born = g->q.born;
        r = put_old(p, &part, g->died, part.kind == PIECE_MEM ? part.c->data + part.foff : NULL);
    }
    store_pmap_clear(&m);
    return r;
}

static int take_old_range(struct dmt_patch *p, const struct range *g)
{
    struct piece q = g->q;
    if (q.off < p->hist_at)
        return DMT_E_CORRUPT;
    p->hist_at = q.off;
    if (p->live) /* history comes first: the rows it may refer to are still those of before */
        return DMT_E_CORRUPT;
    if (g->mode == PIECE_KEPT)
        return keep_old(p, g);
    if (g->mode == PIECE_DATA && q.end - q.off <= DMT_SMALL_MAX)
        return put_old(p, &q, g->died, g->data);
    int r = patch_place(p, &q);
    if (r == 0)
        r = put_old(p, &q, g->died, NULL);
    if (r == 0 && g->mode == PIECE_DATA)
        return patch_put_bytes(p, &q, g->data);
    return r < 0 ? r
                 : store_exec(&p->db, SQL_MISSING_PUT, "iiiiiiiii", p->ino, q.off, q.born,
                              q.end - q.off, q.owner, (uint64_t)q.serial, q.foff, g->died,
                              (uint64_t)(g->mode == PIECE_LOST ? STORE_ROW_LOST : 0));
}

static int take_piece(struct dmt_patch *p, struct dmt_cur *c)
{
    uint64_t ino = dmt_get_u64(c);
    struct range g = {.q = {.off = dmt_get_u64(c)}};
    uint64_t len = dmt_get_u64(c);
    uint32_t n;
    g.q.born = dmt_get_u64(c);
    g.died = dmt_get_u64(c);
    g.q.flags = (uint8_t)dmt_get_u32(c);
    g.mode = dmt_get_u8(c);
    g.data = dmt_get_bytes(c, &n);
    if (dmt_cur_end(c) || len == 0 || g.q.off > DMT_FILE_SIZE_MAX || len > DMT_FILE_SIZE_MAX ||
        g.q.flags & (uint8_t)~PIECE_INLINE || g.mode >= PIECE_MODES ||
        ((g.mode == PIECE_KEPT || g.mode == PIECE_LOST) && !g.died) ||
        ((g.mode == PIECE_MISSING || g.mode == PIECE_LOST) && g.q.flags) ||
        n != (g.mode == PIECE_DATA ? len : 0))
        return DMT_E_CORRUPT;
    g.q.end = g.q.off + len;
    int r = enter(p, ino);
    return r < 0 ? r : g.died ? take_old_range(p, &g) : take_range(p, &g);
}

/* --- head and end */

static int take_head(struct dmt_patch *p, struct dmt_cur *c)
{
    static const char wipe[] =
        "DELETE FROM meta WHERE key NOT LIKE '.%' AND key NOT LIKE 'resync%';"
        "DELETE FROM epoch; DELETE FROM snapshot; DELETE FROM keep;";
    char name[DMT_WS_NAME_MAX + 1];
    uint64_t magic = dmt_get_u64(c);
    uint32_t version = dmt_get_u32(c);
    if (c->bad || magic != STREAM_DIFF_MAGIC)
        return DMT_E_CORRUPT;
    if (version != STREAM_VERSION)
        return DMT_E_VERSION;
    bool fresh = dmt_get_u8(c) != 0;
    dmt_get_raw(c,
                sizeof(p->ident.lineage)); /* of the source; this store's is the caller's choice */
    dmt_get_str(c, name, sizeof(name));
    p->pos = (struct dmt_pos){.epoch = dmt_get_u64(c)};
    p->pos.seq = dmt_get_u64(c);
    p->pos.chain = dmt_get_u64(c);
    if (dmt_cur_end(c))
        return DMT_E_CORRUPT;
    p->head = true;
    if (fresh) {
        int r = patch_restart(p);
        if (r < 0)
            return r;
    }
    return sqlite3_exec(p->db.h, wipe, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_db_code(&p->db);
}

static int take_end(struct dmt_patch *p, struct dmt_cur *c)
{
    p->inodes = dmt_get_u64(c);
    p->live_bytes = dmt_get_u64(c);
    p->dentries = dmt_get_u64(c);
    p->versions = dmt_get_u64(c);
    uint64_t sum = dmt_get_u64(c);
    if (dmt_cur_end(c) || sum != p->hash)
        return DMT_E_CORRUPT;
    p->end = true;
    return 0;
}

static int take(struct dmt_patch *p, uint8_t kind, struct dmt_cur *c)
{
    switch (kind) {
    case STREAM_HEAD:
        return take_head(p, c);
    case STREAM_META:
        return store_take_meta(&p->db, c);
    case STREAM_EPOCH:
        return store_take_epoch(&p->db, c);
    case STREAM_SNAP:
        return store_take_snap(&p->db, c);
    case STREAM_KEEP:
        return store_take_keep(&p->db, c);
    case STREAM_INODE:
        return take_inode(p, c);
    case STREAM_DENTRY:
        return take_dentry(p, c);
    case STREAM_XATTR:
        return take_xattr(p, c);
    case STREAM_GONE:
        return take_gone(p, c);
    case STREAM_KEPT:
        return take_kept(p, c);
    case STREAM_PIECE:
        return take_piece(p, c);
    case STREAM_END:
        return take_end(p, c);
    default:
        return DMT_E_CORRUPT;
    }
}

int patch_item(void *ctx, const uint8_t *item, size_t len)
{
    struct dmt_patch *p = ctx;
    uint8_t kind = item[0];
    if (p->end || (kind == STREAM_HEAD) == p->head)
        return DMT_E_CORRUPT;
    int r = p->begun ? 0 : store_exec(&p->db, SQL_BEGIN_WRITE, "");
    struct dmt_cur c = dmt_cur_of(item + STREAM_HEADER, len - STREAM_HEADER);
    if (r == 0) {
        p->begun = true;
        r = take(p, kind, &c);
    }
    if (r < 0)
        return r;
    p->hash = dmt_hash64(p->hash, item, len);
    p->rows++;
    return patch_commit_when_due(p);
}
