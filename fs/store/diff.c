/* diff.c: what another machine lacks to show the state of the last checkpoint, as a stream of
 * items.
 *
 * The other side has said what it has (basis.c): an older position of the same history, perhaps a
 * different one for different parts, and its inodes. Rows say when they were born, and an inode
 * bears the position of its last change, so nothing is compared: what was born later is sent, the
 * rest is there (equal version is equal content, rule 15; what was pending there stands at
 * position 0).
 *
 * Happy path: pinned like an export; the statement's positions are checked against our epochs (else
 * everything is sent, as if the other side had nothing); one pass counts, the second sends. In the
 * order of inode numbers: history rows that ended later; GONE for what is no more; for a changed
 * inode its row, its attributes, then its entries or bytes in order: KEPT for a run of those that
 * are there, the others themselves. A range of a data file that is missing or lost here goes
 * without bytes.
 * Failure modes: those of an export; a damaged statement is DMT_E_CORRUPT. Thread: any, without the
 * lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/store/stream_int.h"

enum { H_INODE, H_DENTRY, H_XATTR, H_EXTENT, H_N };

struct hist { /* a walk over a history table, in the order of inodes */
    sqlite3_stmt *s;
    bool row;
    uint64_t ino, died;
};
static const struct {
    enum store_sql id;
    enum stream_kind kind;
    int ino, died; /* columns */
    void (*row)(struct export *x, sqlite3_stmt *s, bool old);
} g_hist[H_N] = {
    [H_INODE] = {SQL_INODE_H_DIED, STREAM_INODE, 16, 17, store_row_inode},
    [H_DENTRY] = {SQL_DENTRY_H_DIED, STREAM_DENTRY, 5, 6, store_row_dentry},
    [H_XATTR] = {SQL_XATTR_H_DIED, STREAM_XATTR, 3, 4, store_row_xattr},
    [H_EXTENT] = {SQL_EXTENT_H_DIED, STREAM_PIECE, 9, 7, NULL},
};

struct diff {
    struct export x;
    struct basis basis, hist;
    struct basis_inos inos_begin, inos;
    bool fresh; /* the other side has nothing that we could use */
    struct dmt_pos pos;
    uint64_t ino;              /* being sent */
    bool had;                  /* the other side has it */
    uint64_t run_from, run_to; /* KEPT so far */
    struct gap {               /* missing here, or lost; by place */
        struct space at;
        bool lost;
    } * missing;
    size_t missing_n, missing_cap;
    int fd;
    uint64_t fd_owner;
    uint32_t fd_serial;
    uint64_t inodes, live_bytes, dentries, versions;
    struct dmt_diff_size *size;
};

static int flush_run(struct diff *d)
{
    if (d->run_from == d->run_to)
        return 0;
    store_item_begin(&d->x, STREAM_KEPT);
    dmt_put_u64(&d->x.out, d->ino);
    dmt_put_u64(&d->x.out, d->run_from);
    dmt_put_u64(&d->x.out, d->run_to);
    d->run_from = d->run_to = 0;
    return store_item_end(&d->x);
}

static int keep(struct diff *d, uint64_t from, uint64_t to)
{
    if (d->run_from < d->run_to && d->run_to == from) {
        d->run_to = to;
        return 0;
    }
    int r = flush_run(d);
    d->run_from = from;
    d->run_to = to;
    return r;
}

/* --- bytes */

static int load_missing(struct diff *d)
{
    sqlite3_stmt *s;
    int r = store_sql(&d->x.db, SQL_MISSING_PLACES, &s, "");
    while (r == 0 && (r = store_sql_step(&d->x.db, s)) > 0) {
        if (d->missing_n == d->missing_cap) {
            d->missing_cap = d->missing_cap ? d->missing_cap * 2 : 16;
            d->missing = realloc(d->missing, d->missing_cap * sizeof(*d->missing));
            DMT_ASSERT(d->missing);
        }
        d->missing[d->missing_n++] = (struct gap){{.ino = store_col(s, 0),
                                                   .serial = store_col32(s, 1),
                                                   .foff = store_col(s, 2),
                                                   .len = store_col(s, 3)},
                                                  store_col(s, 4) != 0};
        r = 0;
    }
    return r;
}

/* What there is of the start of the place. *ret_n: how far that holds, at most n. A place that is
 * both, for different files, is missing: its bytes may come. */
static enum stream_piece what_of(const struct diff *d, const struct piece *p, uint64_t n,
                                 uint64_t *ret_n)
{
    *ret_n = n;
    for (size_t i = 0; p->kind == PIECE_FILE && i < d->missing_n; i++) {
        const struct space *m = &d->missing[i].at;
        if (m->ino != p->owner || m->serial != p->serial || m->foff + m->len <= p->foff)
            continue;
        if (m->foff <= p->foff) {
            *ret_n = m->foff + m->len - p->foff < n ? m->foff + m->len - p->foff : n;
            return d->missing[i].lost ? PIECE_LOST : PIECE_MISSING;
        }
        if (m->foff - p->foff < *ret_n)
            *ret_n = m->foff - p->foff;
    }
    return PIECE_DATA;
}

static int file_open(struct diff *d, uint64_t owner, uint32_t serial)
{
    const struct dmt_io *io = d->x.st->conf.io;
    char path[PATH_MAX];
    if (d->fd >= 0 && d->fd_owner == owner && d->fd_serial == serial)
        return 0;
    if (d->fd >= 0)
        io->close(io->ctx, d->fd);
    store_file_path(d->x.st, owner, serial, path, sizeof(path));
    d->fd = io->open(io->ctx, path, O_RDONLY, 0);
    d->fd_owner = owner;
    d->fd_serial = serial;
    return d->fd < 0 ? dmt_err_set(d->x.err, d->fd, "%s: %s", path, dmt_strerror(d->fd)) : 0;
}

static int read_bytes(struct diff *d, const struct piece *p, uint8_t *to, uint64_t n)
{
    const struct dmt_io *io = d->x.st->conf.io;
    if (p->kind == PIECE_MEM) {
        memcpy(to, p->c->data + p->foff, n);
        return 0;
    }
    int r = file_open(d, p->owner, p->serial);
    if (r < 0)
        return r;
    ssize_t got = io->pread(io->ctx, d->fd, to, n, p->foff);
    if (got >= 0 && (uint64_t)got == n)
        return 0;
    return got < 0 ? (int)got
                   : dmt_err_set(d->x.err, DMT_E_CORRUPT,
                                 "data file %llu.%u ends before the bytes its rows name",
                                 (unsigned long long)p->owner, p->serial);
}

static int put_piece(struct diff *d, const struct piece *p, uint64_t died, enum stream_piece mode)
{
    struct dmt_buf *out = &d->x.out;
    uint64_t n = p->end - p->off;
    store_item_begin(&d->x, STREAM_PIECE);
    dmt_put_u64(out, d->ino);
    dmt_put_u64(out, p->off);
    dmt_put_u64(out, n);
    dmt_put_u64(out, p->born);
    dmt_put_u64(out, died);
    dmt_put_u32(out, p->flags & PIECE_INLINE);
    dmt_put_u8(out, (uint8_t)mode);
    dmt_put_u32(out, mode == PIECE_DATA ? (uint32_t)n : 0);
    if (mode == PIECE_DATA && d->x.dry) {
        d->x.total += n;
        d->size->data += n;
    } else if (mode == PIECE_DATA) {
        uint8_t *to = dmt_buf_reserve(out, n);
        int r = to ? read_bytes(d, p, to, n) : -ENOMEM;
        if (r < 0)
            return r;
    }
    return store_item_end(&d->x);
}

/* All of it, in items of at most STREAM_DATA_MAX bytes. */
static int send_piece(struct diff *d, struct piece p, uint64_t died)
{
    int r = died ? 0 : flush_run(d);
    for (uint64_t end = p.end; r == 0 && p.off < end;) {
        uint64_t n;
        enum stream_piece mode = what_of(d, &p, end - p.off, &n);
        if (mode == PIECE_DATA && n > STREAM_DATA_MAX)
            n = STREAM_DATA_MAX;
        if (mode == PIECE_LOST && !died)
            mode = PIECE_MISSING; /* only the past can be lost */
        p.end = p.off + n;
        r = put_piece(d, &p, died, mode);
        p.foff += n;
        p.off += n;
    }
    return r;
}

/* A range of the file, segment by segment of the basis. */
static int do_piece(struct diff *d, const struct piece *p, uint64_t died)
{
    int r = 0;
    for (uint64_t off = p->off; r == 0 && off < p->end;) {
        const struct basis_seg *s = basis_at(&d->basis, d->ino, off),
                               *next = basis_next(&d->basis, s);
        uint64_t end = next && next->ino == d->ino && next->off < p->end ? next->off : p->end;
        struct piece part = store_piece_clip(p, off, end);
        bool there = d->had && p->born <= s->seq && (!died || died > s->seq);
        if (!there)
            r = send_piece(d, part, died);
        else
            r = died ? put_piece(d, &part, died, PIECE_KEPT) : keep(d, off, end);
        off = end;
    }
    return r;
}

/* --- an inode */

static int send_content(struct diff *d)
{
    sqlite3_stmt *s;
    struct pmap m;
    store_pmap_init(&m);
    int r = store_sql(&d->x.db, SQL_CONTENT_GET, &s, "i", d->ino);
    if (r == 0 && (r = store_sql_step(&d->x.db, s)) > 0) {
        r = store_small_read(s, &m);
        store_sql_done(s);
    }
    for (const struct piece *p = r == 0 ? store_pmap_first(&m) : NULL; r == 0 && p;
         p = store_pmap_next(p))
        r = do_piece(d, p, 0);
    store_pmap_clear(&m);
    if (r == 0)
        r = store_sql(&d->x.db, SQL_EXTENT_OF, &s, "i", d->ino);
    while (r == 0 && (r = store_sql_step(&d->x.db, s)) > 0) {
        struct piece p = store_extent_row(s);
        r = do_piece(d, &p, 0);
        if (r < 0)
            store_sql_done(s);
    }
    return r == 0 ? flush_run(d) : r;
}

static int send_entries(struct diff *d)
{
    sqlite3_stmt *s;
    int r = store_sql(&d->x.db, SQL_DENTRY_ROWS, &s, "i", d->ino);
    while (r == 0 && (r = store_sql_step(&d->x.db, s)) > 0) {
        uint64_t cookie = store_col32(s, 2);
        if (d->had && store_col(s, 4) <= basis_at(&d->basis, d->ino, cookie)->seq) {
            r = keep(d, cookie, cookie + 1);
        } else if ((r = flush_run(d)) == 0) {
            store_item_begin(&d->x, STREAM_DENTRY);
            store_row_dentry(&d->x, s, false);
            r = store_item_end(&d->x);
        }
        if (r < 0)
            store_sql_done(s);
    }
    return r == 0 ? flush_run(d) : r;
}

static int send_xattrs(struct diff *d)
{
    sqlite3_stmt *s;
    int r = store_sql(&d->x.db, SQL_XATTR_ROWS, &s, "i", d->ino);
    while (r == 0 && (r = store_sql_step(&d->x.db, s)) > 0) {
        store_item_begin(&d->x, STREAM_XATTR);
        store_row_xattr(&d->x, s, false);
        r = store_item_end(&d->x);
        if (r < 0)
            store_sql_done(s);
    }
    return r;
}

/* The oldest position that any part of the inode shows. */
static uint64_t oldest(const struct diff *d)
{
    const struct basis_seg *s = basis_at(&d->basis, d->ino, 0);
    uint64_t seq = s->seq;
    while ((s = basis_next(&d->basis, s)) && s->ino == d->ino)
        seq = s->seq < seq ? s->seq : seq;
    return seq;
}

/* live: its row, ready to be read. */
static int send_live(struct diff *d, sqlite3_stmt *live)
{
    uint8_t version[24];
    dmt_st64(version, d->ino);
    dmt_st64(version + 8, store_col(live, 13));
    dmt_st64(version + 16, store_col(live, 14));
    d->versions = dmt_hash64(d->versions, version, sizeof(version));
    d->inodes++;
    d->live_bytes += store_col(live, 15);
    if (d->had && store_col(live, 14) <= oldest(d))
        return 0;
    d->size->inodes += d->x.dry;
    store_item_begin(&d->x, STREAM_INODE);
    store_row_inode(&d->x, live, false);
    int r = store_item_end(&d->x);
    if (r == 0 && store_col32(live, 5) & DMT_INO_XATTR)
        r = send_xattrs(d);
    if (r == 0)
        r = (store_col32(live, 0) & S_IFMT) == S_IFDIR ? send_entries(d) : send_content(d);
    return r;
}

static int send_gone(struct diff *d)
{
    store_item_begin(&d->x, STREAM_GONE);
    dmt_put_u64(&d->x.out, d->ino);
    return store_item_end(&d->x);
}

/* --- history */

static int hist_step(struct diff *d, int i, struct hist *h)
{
    int r = store_sql_step(&d->x.db, h->s);
    h->row = r > 0;
    if (r > 0) {
        h->ino = store_col(h->s, g_hist[i].ino);
        h->died = store_col(h->s, g_hist[i].died);
    }
    return r < 0 ? r : 0;
}

static int hist_extent(struct diff *d, struct hist *h)
{
    struct piece p = store_extent_row(h->s);
    if (sqlite3_column_type(h->s, 8) == SQLITE_NULL)
        return do_piece(d, &p, h->died);
    if ((uint64_t)sqlite3_column_bytes(h->s, 8) != p.end - p.off)
        return DMT_E_CORRUPT;
    p.kind = PIECE_MEM;
    p.foff = 0;
    p.c = store_chunk_from(sqlite3_column_blob(h->s, 8), (uint32_t)(p.end - p.off));
    int r = send_piece(d, p, h->died);
    store_chunk_unref(p.c);
    return r;
}

/* The history rows of d->ino that the other side has not. */
static int send_history(struct diff *d, struct hist h[H_N])
{
    int r = 0;
    for (int i = 0; i < H_N; i++)
        while (r == 0 && h[i].row && h[i].ino == d->ino) {
            uint64_t off = i == H_EXTENT ? store_col(h[i].s, 0) : 0;
            bool there = h[i].died <= basis_at(&d->hist, d->ino, off)->seq;
            if (!there && i == H_EXTENT) {
                r = hist_extent(d, &h[i]);
            } else if (!there) {
                store_item_begin(&d->x, g_hist[i].kind);
                g_hist[i].row(&d->x, h[i].s, true);
                r = store_item_end(&d->x);
            }
            if (r == 0)
                r = hist_step(d, i, &h[i]);
        }
    return r;
}

/* --- the whole */

static const struct {
    enum store_sql id;
    enum stream_kind kind;
    void (*row)(struct export *x, sqlite3_stmt *s, bool old);
} g_small[] = {
    {SQL_META_ALL, STREAM_META, store_row_meta},
    {SQL_EPOCH_ALL, STREAM_EPOCH, store_row_epoch},
    {SQL_SNAP_ALL, STREAM_SNAP, store_row_snap},
    {SQL_KEEP_ALL, STREAM_KEEP, store_row_keep},
};

static int send_small_tables(struct diff *d)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof(g_small) / sizeof(g_small[0]); i++) {
        sqlite3_stmt *s;
        r = store_sql(&d->x.db, g_small[i].id, &s, "");
        while (r == 0 && (r = store_sql_step(&d->x.db, s)) > 0) {
            r = 0;
            if (g_small[i].kind == STREAM_META && *(const char *)sqlite3_column_text(s, 0) == '.')
                continue;
            store_item_begin(&d->x, g_small[i].kind);
            g_small[i].row(&d->x, s, false);
            r = store_item_end(&d->x);
        }
        store_sql_done(s);
    }
    return r;
}

static int send_inodes(struct diff *d)
{
    struct store_db *db = &d->x.db;
    struct hist h[H_N] = {0};
    sqlite3_stmt *live;
    uint64_t least = UINT64_MAX, theirs = 0;
    d->inos = d->inos_begin;
    for (size_t i = 0; i < d->hist.n; i++)
        least = d->hist.v[i].seq < least ? d->hist.v[i].seq : least;
    int r = 0;
    for (int i = 0; r == 0 && i < H_N; i++)
        if ((r = store_sql(db, g_hist[i].id, &h[i].s, "i", least)) == 0)
            r = hist_step(d, i, &h[i]);
    if (r == 0)
        r = store_sql(db, SQL_INODE_ALL, &live, "");
    int row = r == 0 ? store_sql_step(db, live) : r;
    int more = row < 0 ? row : basis_inos_next(&d->inos, &theirs);
    r = more < 0 ? more : 0;
    while (r == 0) {
        uint64_t ino = UINT64_MAX;
        for (int i = 0; i < H_N; i++)
            ino = h[i].row && h[i].ino < ino ? h[i].ino : ino;
        if (row > 0 && store_col(live, 16) < ino)
            ino = store_col(live, 16);
        if (more > 0 && theirs < ino)
            ino = theirs;
        if (ino == UINT64_MAX)
            break;
        d->ino = ino;
        d->had = more > 0 && theirs == ino;
        bool is_live = row > 0 && store_col(live, 16) == ino;
        r = send_history(d, h);
        if (r == 0)
            r = is_live ? send_live(d, live) : d->had ? send_gone(d) : 0;
        if (r == 0 && is_live && (row = store_sql_step(db, live)) < 0)
            r = row;
        if (r == 0 && d->had && (more = basis_inos_next(&d->inos, &theirs)) < 0)
            r = more;
    }
    for (int i = 0; i < H_N; i++)
        if (h[i].s)
            store_sql_done(h[i].s);
    return r;
}

static int send_head(struct diff *d)
{
    struct export *x = &d->x;
    store_item_begin(x, STREAM_HEAD);
    dmt_put_u64(&x->out, STREAM_DIFF_MAGIC);
    dmt_put_u32(&x->out, STREAM_VERSION);
    dmt_put_u8(&x->out, d->fresh);
    dmt_put_raw(&x->out, x->st->ident.lineage, sizeof(x->st->ident.lineage));
    dmt_put_str(&x->out, x->st->ident.name);
    dmt_put_u64(&x->out, d->pos.epoch);
    dmt_put_u64(&x->out, d->pos.seq);
    dmt_put_u64(&x->out, d->pos.chain);
    return store_item_end(x);
}

static int send_end(struct diff *d)
{
    struct export *x = &d->x;
    uint64_t sum = x->hash;
    store_item_begin(x, STREAM_END);
    dmt_put_u64(&x->out, d->inodes);
    dmt_put_u64(&x->out, d->live_bytes);
    dmt_put_u64(&x->out, d->dentries);
    dmt_put_u64(&x->out, d->versions);
    dmt_put_u64(&x->out, sum);
    int r = store_item_end(x);
    if (r == 0 && x->out.len)
        r = x->emit(x->ctx, x->out.p, x->out.len);
    return r;
}

static int pass(struct diff *d, bool dry)
{
    d->x.dry = dry;
    d->inodes = d->live_bytes = d->versions = 0;
    int r = send_head(d);
    if (r == 0)
        r = send_small_tables(d);
    if (r == 0)
        r = send_inodes(d);
    return r == 0 ? send_end(d) : r;
}

/* Does every position of it belong to our history? 1, 0 or < 0. */
static int is_ours(struct diff *d, const struct basis *b)
{
    for (size_t i = 0; i < b->n; i++) {
        const struct basis_seg *g = &b->v[i];
        sqlite3_stmt *s;
        uint64_t epoch = 0;
        if (g->seq == 0)
            continue;
        int r = store_sql(&d->x.db, SQL_EPOCH_OF_SEQ, &s, "i", g->seq);
        if (r == 0 && (r = store_sql_step(&d->x.db, s)) > 0) {
            epoch = store_col(s, 0);
            store_sql_done(s);
        }
        if (r < 0 || epoch != g->epoch || g->seq > d->pos.seq)
            return r < 0 ? r : 0;
    }
    return 1;
}

/* If not, the other side's state is of no use. */
static int check_basis(struct diff *d)
{
    int r = is_ours(d, &d->basis);
    if (r > 0)
        r = is_ours(d, &d->hist);
    if (r < 0)
        return r;
    d->fresh = r == 0 || (d->basis.n == 1 && d->basis.v[0].seq == 0);
    if (d->fresh) {
        basis_free(&d->basis);
        basis_free(&d->hist);
        basis_init(&d->basis, 0, 0);
        basis_init(&d->hist, 0, 0);
        d->inos_begin = (struct basis_inos){0};
    }
    return 0;
}

static int count_dentries(struct diff *d)
{
    sqlite3_stmt *s;
    int r = store_sql(&d->x.db, SQL_DENTRY_COUNT, &s, "");
    if (r == 0 && (r = store_sql_step(&d->x.db, s)) > 0) {
        d->dentries = store_col(s, 0);
        store_sql_done(s);
    }
    return r < 0 ? r : 0;
}

static int both_passes(struct diff *d, void (*sized)(void *ctx, const struct dmt_diff_size *size))
{
    int r = check_basis(d);
    if (r == 0)
        r = load_missing(d);
    if (r == 0)
        r = count_dentries(d);
    if (r == 0)
        r = pass(d, true);
    if (r < 0)
        return r;
    d->size->bytes = d->x.total;
    d->size->live_bytes = d->live_bytes;
    d->size->fresh = d->fresh;
    if (sized)
        sized(d->x.ctx, d->size);
    return pass(d, false);
}

int dmt_store_diff(struct dmt_store *st, const struct dmt_lockfn *lk, const void *statement,
                   size_t len, struct dmt_pos *ret_pos,
                   void (*sized)(void *ctx, const struct dmt_diff_size *size),
                   int (*emit)(void *ctx, const void *p, size_t len), void *ctx,
                   struct dmt_err *err)
{
    struct dmt_err detail = {0};
    struct dmt_diff_size size = {0};
    struct diff d = {
        .x = {.st = st, .emit = emit, .ctx = ctx, .err = &detail}, .fd = -1, .size = &size};
    int r = basis_statement_open(statement, len, &d.basis, &d.hist, &d.inos_begin);
    dmt_buf_init(&d.x.out);
    if (r < 0) {
        dmt_err_set(&detail, r, "what the other machine says it has is damaged");
        goto out;
    }
    r = store_db_open(&d.x.db, st->dir, STORE_DB_READ, err);
    if (r == 0 && (r = store_export_pin(&d.x, lk, &d.pos)) == 0) {
        *ret_pos = d.pos;
        r = both_passes(&d, sized);
        lk->lock(lk->ctx);
        st->exports--;
        lk->unlock(lk->ctx);
    }
out:
    if (d.fd >= 0)
        st->conf.io->close(st->conf.io->ctx, d.fd);
    store_db_close(&d.x.db);
    dmt_buf_free(&d.x.out);
    basis_free(&d.basis);
    basis_free(&d.hist);
    free(d.missing);
    if (r < 0)
        dmt_err_set(err, r, "difference: %s", detail.code ? detail.msg : dmt_strerror(r));
    return r < 0 ? r : 0;
}
