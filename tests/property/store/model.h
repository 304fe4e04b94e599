/* model.h: the smallest possible store: plain arrays. Every operation is done on it and on the real one; then both are
 * compared. */
#ifndef DMT_TESTS_STORE_MODEL_H
#define DMT_TESTS_STORE_MODEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "fs/base/limits.h"
#include "fs/store/store.h"

#define M_SIZE_MAX 65536u
#define M_FILES    12
#define M_DENTS    64
#define M_XATTRS   3
#define M_NAMES    16

struct m_xattr {
    uint32_t len; /* 0 = none */
    uint8_t val[256];
};
struct m_file {
    struct dmt_inode row; /* ino 0: free slot */
    uint8_t data[M_SIZE_MAX];
    uint8_t mapped[M_SIZE_MAX];
    uint32_t lacks[M_SIZE_MAX]; /* seq of a by-reference write that no MARK covers */
    uint32_t ver[M_SIZE_MAX];   /* the write whose bytes these are, also after they were taken from another file or time */
    struct m_xattr x[M_XATTRS];
};
struct m_dent {
    uint64_t parent, ino, born; /* ino 0: free slot */
    uint32_t cookie, type;
    int name;
};
struct world {
    struct m_file *f[M_FILES]; /* f[0]: the root, f[1]: a subdirectory; NULL: free */
    struct m_dent d[M_DENTS];
    uint64_t next_ino, meta;
};

static inline struct m_file *m_file_new(void)
{
    struct m_file *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    return f;
}
static inline void world_free(struct world *w)
{
    if (!w)
        return;
    for (int i = 0; i < M_FILES; i++)
        free(w->f[i]);
    free(w);
}
static inline struct world *world_copy(const struct world *w)
{
    struct world *c = malloc(sizeof(*c));
    assert_non_null(c);
    *c = *w;
    for (int i = 0; i < M_FILES; i++)
        if (w->f[i]) {
            c->f[i] = m_file_new();
            memcpy(c->f[i], w->f[i], sizeof(*c->f[i]));
        }
    return c;
}
static inline struct m_file *m_find(const struct world *w, uint64_t ino)
{
    for (int i = 0; i < M_FILES; i++)
        if (w->f[i] && w->f[i]->row.ino == ino)
            return w->f[i];
    return NULL;
}
static inline struct m_dent *m_lookup(struct world *w, uint64_t parent, int name)
{
    for (int i = 0; i < M_DENTS; i++)
        if (w->d[i].ino && w->d[i].parent == parent && w->d[i].name == name)
            return &w->d[i];
    return NULL;
}
static inline size_t m_name(int name, char *buf, size_t size)
{
    if (name == M_NAMES)
        return (size_t)snprintf(buf, size, "sub"); /* the directory that is always there */
    return (size_t)snprintf(buf, size, name % 3 ? "name-%d" : "a longer name, number %d", name);
}
static inline const char *m_xname(int i)
{
    static const char *const names[M_XATTRS] = {"user.a", "user.second", "security.x"};
    return names[i];
}

/* --- comparing ---------------------------------------------------------------------------------------------------------- */

static inline void same_row(const struct dmt_inode *a, const struct dmt_inode *b)
{
    assert_int_equal(a->ino, b->ino);
    assert_int_equal(a->mode, b->mode);
    assert_int_equal(a->nlink, b->nlink);
    assert_int_equal(a->size, b->size);
    assert_int_equal(a->mtime, b->mtime);
    assert_int_equal(a->next_cookie, b->next_cookie);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->parent, b->parent);
    assert_int_equal(a->seq, b->seq);
}

/* unsure: bytes not yet marked durable may be anything (after a power cut). */
static inline void same_content(struct dmt_store *st, uint64_t view, const struct m_file *f, bool unsure)
{
    uint64_t size = f->row.size;
    static uint8_t buf[M_SIZE_MAX];
    memset(buf, 0xee, sizeof(buf));
    struct dmt_pieces ps;
    assert_int_equal(dmt_store_map(st, view, f->row.ino, 0, buf, size, &ps), 0);
    assert_int_equal(dmt_store_pieces_read(st, &ps, 0, buf, false), 0);
    uint64_t at = 0;
    for (int i = 0; i < ps.n; i++) { /* the pieces tile the range */
        assert_int_equal(ps.v[i].off, at);
        at += ps.v[i].len;
    }
    assert_int_equal(at, size);
    dmt_store_pieces_free(st, &ps);
    for (uint64_t i = 0; i < size; i++) {
        uint8_t want = f->mapped[i] ? f->data[i] : 0;
        if (buf[i] != want && !(unsure && f->lacks[i]))
            fail_msg("inode %llu view %lld byte %llu of %llu: %02x, should be %02x (mapped %d)", (unsigned long long)f->row.ino,
                     (long long)view, (unsigned long long)i, (unsigned long long)size, buf[i], want, f->mapped[i]);
    }
    for (uint64_t off = 0; off < size; off += 1 + size / 7) {
        for (int data = 0; data < 2; data++) {
            uint64_t want = off;
            while (want < size && (f->mapped[want] != 0) != (data != 0))
                want++;
            int64_t got = dmt_store_seek(st, view, f->row.ino, off, size, data);
            if (want == size && data)
                assert_int_equal(got, -ENXIO);
            else
                assert_int_equal(got, want);
        }
    }
}

static inline int count_xattr(void *ctx, const char *name, const void *val, size_t len)
{
    const struct m_file *f = ((void **)ctx)[0];
    int *n = ((void **)ctx)[1];
    for (int i = 0; i < M_XATTRS; i++)
        if (strcmp(name, m_xname(i)) == 0) {
            assert_int_equal(len, f->x[i].len);
            assert_memory_equal(val, f->x[i].val, len);
            ++*n;
            return 0;
        }
    fail();
    return 0;
}

static inline void same_xattrs(struct dmt_store *st, uint64_t view, struct m_file *f)
{
    int have = 0, want = 0;
    void *ctx[2] = {f, &have};
    for (int i = 0; i < M_XATTRS; i++) {
        uint8_t buf[256];
        size_t len;
        int r = dmt_store_xattr_get(st, view, f->row.ino, m_xname(i), buf, sizeof(buf), &len);
        assert_int_equal(r, f->x[i].len ? 0 : -ENODATA);
        if (r == 0) {
            assert_int_equal(len, f->x[i].len);
            assert_memory_equal(buf, f->x[i].val, len);
            want++;
        }
    }
    assert_int_equal(dmt_store_xattr_each(st, view, f->row.ino, count_xattr, ctx), 0);
    assert_int_equal(have, want);
}

struct listing {
    struct world *w;
    uint64_t parent;
    uint32_t last;
    int n, stop_at;
};
static inline int check_entry(void *ctx, const char *name, size_t len, const struct dmt_dentry *d)
{
    struct listing *l = ctx;
    assert_true(d->cookie > l->last);
    l->last = d->cookie;
    for (int i = 0; i < M_DENTS; i++) {
        const struct m_dent *m = &l->w->d[i];
        char text[64];
        if (!m->ino || m->parent != l->parent || m->cookie != d->cookie)
            continue;
        assert_int_equal(len, m_name(m->name, text, sizeof(text)));
        assert_memory_equal(name, text, len);
        assert_int_equal(d->ino, m->ino);
        assert_int_equal(d->type, m->type);
        assert_int_equal(d->born, m->born);
        l->n++;
        return l->n == l->stop_at;
    }
    fail_msg("directory %llu lists '%.*s', cookie %u", (unsigned long long)l->parent, (int)len, name, d->cookie);
    return 0;
}

static inline void same_directory(struct dmt_store *st, uint64_t view, struct world *w, uint64_t dir)
{
    int want = 0;
    for (int i = 0; i < M_DENTS; i++)
        want += w->d[i].ino && w->d[i].parent == dir;
    struct listing l = {.w = w, .parent = dir, .stop_at = want / 2};
    int r = dmt_store_readdir(st, view, dir, 0, check_entry, &l);
    assert_int_equal(r, want >= 2 ? 1 : 0);
    if (r) { /* goes on behind the cookie it stopped at */
        l.stop_at = -1;
        assert_int_equal(dmt_store_readdir(st, view, dir, l.last, check_entry, &l), 0);
    }
    assert_int_equal(l.n, want);
    if (view == DMT_LIVE)
        assert_int_equal(dmt_store_dir_empty(st, dir), want == 0);
    for (int name = 0; name < M_NAMES; name++) {
        struct m_dent *m = m_lookup(w, dir, name);
        struct dmt_dentry d;
        char text[64];
        size_t len = m_name(name, text, sizeof(text));
        assert_int_equal(dmt_store_dentry_get(st, view, dir, text, len, &d), m ? 0 : -ENOENT);
        if (m) {
            assert_int_equal(d.ino, m->ino);
            assert_int_equal(d.cookie, m->cookie);
        }
    }
}

static inline void same_missing(struct dmt_store *st, struct world *w)
{
    struct dmt_missing m;
    static uint32_t lacks[M_SIZE_MAX];
    for (int i = 0; i < M_FILES; i++) {
        struct m_file *f = w->f[i];
        if (!f)
            continue;
        memset(lacks, 0, sizeof(lacks));
        bool any = false, model_any = false;
        for (uint64_t off = 0; dmt_store_missing_next(st, f->row.ino, off, &m) == 1 && m.ino == f->row.ino; off = m.off + m.len) {
            if (!dmt_store_missing_ino(st, m.ino, UINT64_MAX))
                break; /* only ranges that snapshots show */
            any = true;
            for (uint64_t b = m.off; b < m.off + m.len; b++)
                lacks[b] = (uint32_t)m.seq;
        }
        for (uint64_t b = 0; b < M_SIZE_MAX; b++)
            model_any |= f->lacks[b] != 0;
        assert_int_equal(any, model_any);
        for (uint64_t b = 0; b < M_SIZE_MAX; b++)
            if (lacks[b] != f->lacks[b])
                fail_msg("inode %llu byte %llu lacks write %u, should lack %u", (unsigned long long)f->row.ino,
                         (unsigned long long)b, lacks[b], f->lacks[b]);
        assert_int_equal(dmt_store_missing_ino(st, f->row.ino, UINT64_MAX), model_any);
    }
}

/* The whole world against a view. */
static inline void same_world(struct dmt_store *st, uint64_t view, struct world *w, bool unsure)
{
    uint64_t inodes = 0, bytes = 0;
    for (uint64_t ino = 1; ino < w->next_ino; ino++) {
        struct m_file *f = m_find(w, ino);
        struct dmt_inode row;
        int r = dmt_store_inode_get(st, view, ino, &row);
        assert_int_equal(r, f ? 0 : -ENOENT);
        if (!f)
            continue;
        same_row(&row, &f->row);
        same_xattrs(st, view, f);
        if (S_ISDIR(f->row.mode))
            same_directory(st, view, w, ino);
        else
            same_content(st, view, f, unsure);
        inodes++;
        if (view == DMT_LIVE) {
            uint64_t alloc, want = 0;
            for (uint64_t b = 0; b < M_SIZE_MAX; b++)
                want += f->mapped[b];
            assert_int_equal(dmt_store_allocated(st, ino, &alloc), 0);
            assert_int_equal(alloc, want);
            bytes += want;
        }
    }
    if (view != DMT_LIVE)
        return;
    struct dmt_store_load load;
    dmt_store_load(st, &load);
    assert_int_equal(load.inodes, inodes);
    assert_int_equal(load.live_bytes, bytes);
    same_missing(st, w);
    uint64_t meta;
    assert_int_equal(dmt_store_meta_u64(st, "test", 0, &meta), 0);
    assert_int_equal(meta, w->meta);
}

#endif
