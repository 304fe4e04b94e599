/* read.c: reading content: what a range is made of, the bytes that are in memory, and then the
 * pieces in data files.
 *
 * Happy path: dmt_store_map, under the lock, copies memory bytes and zeros into the caller's buffer
 * and returns the rest as pieces with a reference to their data file (the descriptor is opened
 * here, so that the second step needs no lock). dmt_store_pieces_read then reads them with no lock.
 * A place that a piece names is neither punched nor reused while the reference is held (gc.c).
 * Bytes behind the end of a data file are zeros: a missing range reads as what is there. Failure
 * modes: SQLite errors, open errors (EMFILE), EIO. Thread: map and seek under the workspace lock,
 * pieces_read any.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

/* Views and now, alike. */
static int compose_view(struct dmt_store *st, uint64_t view, uint64_t ino, uint64_t off,
                        uint64_t end, compose_fn fn, void *ctx)
{
    struct node *n;
    int r = store_node(st, ino, &n);
    if (r < 0)
        return r;
    if (view == DMT_LIVE) {
        r = store_base_load(st, n);
        return r < 0 ? r : store_compose(n, off, end, fn, ctx);
    }
    const struct pmap *m;
    r = store_view(st, n, view, &m);
    return r < 0 ? r : store_pmap_compose(&m, 1, off, end, fn, ctx);
}

struct mapping {
    struct dmt_store *st;
    struct dmt_pieces *ps;
    uint8_t *buf;
    uint64_t off, view, ino;
};

static int add_piece(struct dmt_pieces *ps, const struct dmt_piece *p)
{
    struct dmt_piece *last = ps->n ? &ps->v[ps->n - 1] : NULL;
    if (last && last->born == p->born && last->file == p->file && last->off + last->len == p->off &&
        (!p->file || last->foff + last->len == p->foff)) {
        last->len += p->len;
        return 0;
    }
    if (ps->n == ps->cap) {
        int cap = ps->cap ? ps->cap * 2 : 8;
        struct dmt_piece *v = realloc(ps->v, (size_t)cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        ps->v = v;
        ps->cap = cap;
    }
    ps->v[ps->n++] = *p;
    return 1;
}

static int map_piece(void *ctx, const struct piece *p)
{
    struct mapping *m = ctx;
    uint8_t *to = m->buf + (p->off - m->off);
    struct dmt_piece out = {.off = p->off, .len = p->end - p->off, .born = p->born};
    struct dfile *f = NULL;
    if (p->kind == PIECE_FILE) {
        if (store_missing_lost(m->st, m->view, m->ino, p))
            return DMT_E_GONE;
        f = store_file_get(m->st, p->owner, p->serial);
        int r = store_file_open(m->st, f, false);
        if (r < 0) {
            store_file_put(m->st, f);
            f = NULL;
            memset(to, 0, out.len);
            /* Of a file that is awaited no byte may have arrived yet. */
            if (r != -ENOENT || store_missing_place_end(m->st, p->owner, p->serial) < p->foff)
                return r == -ENOENT ? -EIO : r;
        }
        out.file = f;
        out.foff = p->foff;
    } else if (p->kind == PIECE_MEM) {
        memcpy(to, p->c->data + p->foff, out.len);
    } else {
        memset(to, 0, out.len);
    }
    int r = add_piece(m->ps, &out);
    if (f && r <= 0)
        store_file_put(m->st, f); /* joined to the piece before, which has a reference */
    return r < 0 ? r : 0;
}

int dmt_store_map(struct dmt_store *st, uint64_t view, uint64_t ino, uint64_t off, void *buf,
                  uint64_t len, struct dmt_pieces *ret)
{
    memset(ret, 0, sizeof(*ret));
    struct mapping m = {.st = st, .ps = ret, .buf = buf, .off = off, .view = view, .ino = ino};
    int r = compose_view(st, view, ino, off, off + len, map_piece, &m);
    if (r < 0)
        dmt_store_pieces_free(st, ret);
    return r;
}

int dmt_store_pieces_read(struct dmt_store *st, struct dmt_pieces *ps, uint64_t off, void *buf,
                          bool nowait)
{
    for (int i = 0; i < ps->n; i++) {
        const struct dmt_piece *p = &ps->v[i];
        const struct dfile *f = p->file;
        uint8_t *to = (uint8_t *)buf + (p->off - off);
        if (!f)
            continue;
        if (nowait &&
            st->conf.io == dmt_io_real()) { /* a test's disk is asked through its table only */
            struct iovec iov = {.iov_base = to, .iov_len = p->len};
            ssize_t n = preadv2(f->fd, &iov, 1, (off_t)p->foff, RWF_NOWAIT);
            if (n < 0 && errno != EAGAIN && errno != EOPNOTSUPP)
                return -errno;
            if (n != (ssize_t)p->len)
                return -EAGAIN;
            continue;
        }
        ssize_t n = st->conf.io->pread(st->conf.io->ctx, f->fd, to, p->len, p->foff);
        if (n < 0)
            return (int)n;
        memset(to + n, 0, p->len - (uint64_t)n);
    }
    return 0;
}

void dmt_store_pieces_free(struct dmt_store *st, struct dmt_pieces *ps)
{
    for (int i = 0; i < ps->n; i++)
        if (ps->v[i].file)
            store_file_put(st, ps->v[i].file);
    free(ps->v);
    memset(ps, 0, sizeof(*ps));
}

struct seeking {
    uint64_t found;
    bool data, hit;
};

static int seek_piece(void *ctx, const struct piece *p)
{
    struct seeking *s = ctx;
    if ((p->kind != PIECE_HOLE) != s->data)
        return 0;
    s->found = p->off;
    s->hit = true;
    return 1;
}

int64_t dmt_store_seek(struct dmt_store *st, uint64_t view, uint64_t ino, uint64_t off,
                       uint64_t size, bool data)
{
    if (off >= size)
        return -ENXIO;
    struct seeking s = {.data = data};
    int r = compose_view(st, view, ino, off, size, seek_piece, &s);
    if (r < 0)
        return r;
    if (s.hit)
        return (int64_t)s.found;
    return data ? -ENXIO : (int64_t)size; /* the end of a file counts as a hole */
}
