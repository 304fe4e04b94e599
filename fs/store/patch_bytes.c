/* patch_bytes.c: the content of the inode whose items come in: data files, ranges, small content.
 *
 * Bytes go to fresh space: those that came in records to the end of the side file, by-reference
 * ones to the base file by the rule of every by-reference write (docs/formats-store.md, 3), from
 * this machine's own marks. The old database refers to nothing there. Ranges that are cut out give
 * their space to the garbage table; what still refers to it is seen at the end. Content of a small
 * file is collected in memory and becomes one row.
 * Failure modes: SQLite and write errors, as returned. Thread: one at a time, any.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/store/patch_int.h"

/* --- data files */

static int marks_load(struct dmt_patch *p)
{
    sqlite3_stmt *s;
    if (p->marks)
        return 0;
    p->side_end = p->hwm = 0;
    p->serial = 1;
    int r = store_sql(&p->db, SQL_DATAFILE_OF, &s, "i", p->ino);
    while (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        if (store_col32(s, 0) == 0) {
            p->side_end = store_col(s, 1);
        } else {
            p->serial = store_col32(s, 0);
            p->hwm = store_col(s, 1);
        }
        r = 0;
    }
    p->marks = r == 0;
    return r;
}

int patch_marks_write(struct dmt_patch *p)
{
    int r = 0;
    if (p->side_moved)
        r = store_exec(&p->db, SQL_DATAFILE_PUT, "iii", p->ino, (uint64_t)0, p->side_end);
    if (r == 0 && p->base_moved)
        r = store_exec(&p->db, SQL_DATAFILE_PUT, "iii", p->ino, (uint64_t)p->serial, p->hwm);
    p->side_moved = p->base_moved = false;
    return r;
}

/* With a test's disk each file is synced through its table; on a real one a single syncfs before
 * the commit does for all. */
int patch_file_leave(struct dmt_patch *p)
{
    const struct dmt_io *io = p->conf.io;
    if (p->fd < 0)
        return 0;
    int r = io == dmt_io_real() ? 0 : io->fdatasync(io->ctx, p->fd);
    int r_close = io->close(io->ctx, p->fd);
    p->fd = -1;
    return r < 0 ? r : r_close;
}

/* Where [off, end) of the inode goes: fills the place in. */
int patch_place(struct dmt_patch *p, struct piece *q)
{
    int r = marks_load(p);
    if (r < 0)
        return r;
    uint64_t n = q->end - q->off;
    q->kind = PIECE_FILE;
    q->owner = p->ino;
    if (q->flags & PIECE_INLINE) {
        q->serial = 0;
        q->foff = p->side_end;
        p->side_end += n;
        p->side_moved = true;
    } else {
        q->serial = p->serial;
        q->foff = q->off >= p->hwm ? q->off : p->hwm;
        p->hwm = q->foff + n;
        p->base_moved = true;
    }
    return q->foff > DMT_FILE_SIZE_MAX ? -EFBIG : 0;
}

int patch_put_bytes(struct dmt_patch *p, const struct piece *q, const uint8_t *data)
{
    const struct dmt_io *io = p->conf.io;
    if (p->fd < 0 || p->fd_ino != p->ino || p->fd_serial != q->serial) {
        int r = patch_file_leave(p);
        if (r < 0)
            return r;
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s/data/%02x/%llu.%u", p->dir, (unsigned)(p->ino & 0xff),
                 (unsigned long long)p->ino, q->serial);
        if ((p->fd = io->open(io->ctx, path, O_RDWR | O_CREAT, 0600)) < 0)
            return p->fd;
        p->fd_ino = p->ino;
        p->fd_serial = q->serial;
        p->dirs[p->ino & 0xff] = true;
    }
    ssize_t w = io->pwrite(io->ctx, p->fd, data, q->end - q->off, q->foff);
    p->bytes += q->end - q->off;
    return w < 0 ? (int)w : 0;
}

/* --- live ranges */

static int put_row(struct dmt_patch *p, const struct piece *q)
{
    return store_exec(&p->db, SQL_EXTENT_PUT, "iiiiiiii", p->ino, q->off, q->end - q->off, q->owner,
                      (uint64_t)q->serial, q->foff, (uint64_t)q->flags, q->born);
}

/* A new range; goes on with the one before where that changes nothing. */
int patch_put_range(struct dmt_patch *p, const struct piece *q)
{
    if (p->last.end && store_piece_adjoins(&p->last, q) && p->last.born == q->born)
        p->last.end = q->end;
    else
        p->last = *q;
    return put_row(p, &p->last);
}

/* The rows that reach into [off, end) of an inode, as a map. */
int patch_load_range(struct dmt_patch *p, uint64_t off, uint64_t end, struct pmap *m)
{
    sqlite3_stmt *s;
    int r = store_sql(&p->db, SQL_EXTENT_BEFORE, &s, "ii", p->ino, off);
    if (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        struct piece q = store_extent_row(s);
        store_sql_done(s);
        if (q.end > off)
            store_pmap_put(m, &q);
        r = 0;
    }
    if (r == 0)
        r = store_sql(&p->db, SQL_EXTENT_FROM, &s, "iii", p->ino, off, end);
    while (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        struct piece q = store_extent_row(s);
        r = 0;
        store_pmap_put(m, &q);
    }
    return r;
}

static int cut_missing(struct dmt_patch *p, uint64_t off, uint64_t end)
{
    struct mrow {
        uint64_t off, len, seq, owner, serial, foff, shared;
    } *v = NULL;
    size_t n = 0;
    sqlite3_stmt *s;
    int r = store_sql(&p->db, SQL_MISSING_LIVE, &s, "iii", p->ino, off, end);
    while (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        v = realloc(v, (n + 1) * sizeof(*v));
        DMT_ASSERT(v);
        v[n++] = (struct mrow){store_col(s, 0), store_col(s, 1), store_col(s, 2), store_col(s, 3),
                               store_col(s, 4), store_col(s, 5), store_col(s, 6)};
        r = 0;
    }
    for (size_t i = 0; r == 0 && i < n; i++) {
        const struct mrow *m = &v[i];
        r = store_exec(&p->db, SQL_MISSING_DEL, "iii", p->ino, m->off, m->seq);
        if (r == 0 && m->off < off)
            r = store_exec(&p->db, SQL_MISSING_PUT, "iiiiiiiii", p->ino, m->off, m->seq,
                           off - m->off, m->owner, m->serial, m->foff, (uint64_t)0, m->shared);
        if (r == 0 && m->off + m->len > end)
            r = store_exec(&p->db, SQL_MISSING_PUT, "iiiiiiiii", p->ino, end, m->seq,
                           m->off + m->len - end, m->owner, m->serial, m->foff + (end - m->off),
                           (uint64_t)0, m->shared);
    }
    free(v);
    return r;
}

/* What lies in [off, end) goes. Its space is noted; what still refers to it is seen at the end. */
int patch_cut_ranges(struct dmt_patch *p, uint64_t off, uint64_t end)
{
    struct pmap m;
    store_pmap_init(&m);
    int r = patch_load_range(p, off, end, &m);
    for (const struct piece *q = r == 0 ? store_pmap_first(&m) : NULL; r == 0 && q;
         q = store_pmap_next(q)) {
        struct piece head = store_piece_clip(q, 0, off),
                     tail = store_piece_clip(q, end, UINT64_MAX),
                     mid = store_piece_clip(q, off, end);
        r = store_exec(&p->db, SQL_EXTENT_DEL, "ii", p->ino, q->off);
        if (r == 0 && q->off < off)
            r = put_row(p, &head);
        if (r == 0 && q->end > end)
            r = put_row(p, &tail);
        if (r == 0 && q->owner == p->ino && !(q->flags & PIECE_SHARED) &&
            mid.end - mid.off >= STORE_PUNCH_MIN)
            r = store_exec(&p->db, SQL_GARBAGE_PUT, "iiii", p->ino, (uint64_t)mid.serial, mid.foff,
                           mid.end - mid.off);
    }
    store_pmap_clear(&m);
    return r == 0 ? cut_missing(p, off, end) : r;
}

/* --- small content */

int patch_small_load(struct dmt_patch *p, uint64_t ino, struct pmap *m)
{
    sqlite3_stmt *s;
    int r = store_sql(&p->db, SQL_CONTENT_GET, &s, "i", ino);
    if (r == 0 && (r = store_sql_step(&p->db, s)) > 0) {
        r = store_small_read(s, m);
        store_sql_done(s);
    }
    return r;
}

int patch_small_write(struct dmt_patch *p)
{
    const struct pmap *m = &p->small_map;
    const struct piece *first = store_pmap_first(m);
    uint32_t len = (uint32_t)store_pmap_end(m);
    if (!first)
        return store_exec(&p->db, SQL_CONTENT_DEL, "i", p->ino);
    uint8_t *data = store_zalloc(len);
    struct dmt_buf map;
    dmt_buf_init(&map);
    uint64_t born = 0;
    for (const struct piece *q = first; q; q = store_pmap_next(q)) {
        memcpy(data + q->off, q->c->data + q->foff, q->end - q->off);
        born = q->born > born ? q->born : born;
        dmt_put_u32(&map, (uint32_t)q->off);
        dmt_put_u32(&map, (uint32_t)(q->end - q->off));
        dmt_put_u64(&map, q->born);
    }
    bool plain = map.len == 16 && first->off == 0;
    int r = store_exec(&p->db, SQL_CONTENT_PUT, plain ? "ibin" : "ibib", p->ino, data, (size_t)len,
                       born, map.p, map.len);
    dmt_buf_free(&map);
    free(data);
    return r;
}

/* It is no small file any more: the bytes go to the side file. */
int patch_small_spill(struct dmt_patch *p)
{
    int r = store_exec(&p->db, SQL_CONTENT_DEL, "i", p->ino);
    for (const struct piece *m = store_pmap_first(&p->small_map); r == 0 && m;
         m = store_pmap_next(m)) {
        struct piece q = {.off = m->off, .end = m->end, .born = m->born, .flags = PIECE_INLINE};
        r = patch_place(p, &q);
        if (r == 0)
            r = patch_put_bytes(p, &q, m->c->data + m->foff);
        if (r == 0)
            r = put_row(p, &q);
        p->bare = false;
    }
    store_pmap_clear(&p->small_map);
    p->small = false;
    return r;
}
