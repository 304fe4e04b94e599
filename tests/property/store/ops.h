/* ops.h: the operations of the model test as values: made at random, done on the model, and done (again, for a replay) on the
 * store. */
#ifndef DMT_TESTS_STORE_OPS_H
#define DMT_TESTS_STORE_OPS_H

#include "tests/property/store/model.h"

enum m_kind {
    M_CREATE,
    M_UNLINK,
    M_RENAME,
    M_WRITE,
    M_REF,
    M_TRUNCATE,
    M_PUNCH,
    M_ATTR,
    M_XATTR,
    M_MARK,
    M_SNAP,
    M_SNAP_DEL,
    M_FROM,
    M_META,
    M_KINDS,
};

#define M_PIN 0 /* a M_MARK that says nothing of the disk */

struct m_op { /* = a record of the log */
    enum m_kind kind;
    uint64_t seq, ino, dir, dir2, src, view, off, len, val;
    int name, name2;
    uint32_t cookie, cookie2, fill;
};

#define M_SNAPS 6
struct m_snap {
    bool used;
    uint64_t serial, seq;
    struct world *w;
};

struct rng {
    uint64_t s;
};
static inline uint32_t rnd(struct rng *r, uint32_t n)
{
    r->s ^= r->s << 13;
    r->s ^= r->s >> 7;
    r->s ^= r->s << 17;
    return n ? (uint32_t)((r->s * 0x2545f4914f6cdd1dull) >> 33) % n : 0;
}

static inline void fill_bytes(uint32_t fill, uint8_t *p, size_t n)
{
    struct rng r = {fill * 2654435761ull + 1};
    for (size_t i = 0; i < n; i++) {
        if (i % 7 == 0)
            rnd(&r, 0);
        p[i] = (uint8_t)(r.s >> (i % 7 * 8));
    }
}

/* --- on the model --------------------------------------------------------------------------------------------------------- */

static inline void m_set(struct m_file *f, uint64_t off, uint64_t len, const uint8_t *p,
                         uint64_t ver, uint64_t lacks)
{
    for (uint64_t i = 0; i < len; i++) {
        f->data[off + i] = p ? p[i] : 0;
        f->mapped[off + i] = p != NULL;
        f->ver[off + i] = p ? (uint32_t)ver : 0;
        f->lacks[off + i] = (uint32_t)lacks;
    }
}

static inline void m_touch(struct m_file *f, uint64_t seq)
{
    f->row.seq = seq;
    f->row.mtime = seq * 10;
}

static inline void m_drop(struct world *w, uint64_t ino, uint64_t seq)
{
    for (int i = 0; i < M_FILES; i++)
        if (w->f[i] && w->f[i]->row.ino == ino) {
            m_touch(w->f[i], seq);
            if (--w->f[i]->row.nlink == 0) {
                free(w->f[i]);
                w->f[i] = NULL;
            }
            return;
        }
}

static inline void m_enter(struct world *w, uint64_t dir, int name, uint64_t ino, uint32_t cookie,
                           uint64_t seq)
{
    for (int i = 0; i < M_DENTS; i++)
        if (!w->d[i].ino) {
            w->d[i] = (struct m_dent){.parent = dir,
                                      .ino = ino,
                                      .born = seq,
                                      .cookie = cookie,
                                      .type = S_IFREG,
                                      .name = name};
            struct m_file *d = m_find(w, dir);
            d->row.next_cookie = cookie + 1;
            m_touch(d, seq);
            return;
        }
    fail();
}

static inline void m_leave(struct world *w, uint64_t dir, int name, uint64_t seq)
{
    m_lookup(w, dir, name)->ino = 0;
    m_touch(m_find(w, dir), seq);
}

/* What `src` had is taken over where it is other bytes than f's. */
static inline void m_from(struct m_file *f, const struct m_file *src, uint64_t seq)
{
    struct m_file *s = m_file_new();
    memcpy(s, src, sizeof(*s));
    for (uint64_t i = 0; i < M_SIZE_MAX; i++) {
        if (f->mapped[i] == s->mapped[i] && f->ver[i] == s->ver[i])
            continue;
        m_set(f, i, 1, s->mapped[i] ? &s->data[i] : NULL, s->ver[i], s->lacks[i] ? seq : 0);
    }
    f->row.size = s->row.size;
    free(s);
}

/* Byte i of write `ver` is durable, whoever shows it, now or in a snapshot. */
static inline void m_durable(struct world *w, struct m_snap *snaps, uint64_t i, uint32_t ver)
{
    for (int k = -1; k < M_SNAPS; k++) {
        struct world *at = k < 0 ? w : snaps[k].used ? snaps[k].w : NULL;
        for (int n = 0; at && n < M_FILES; n++)
            if (at->f[n] && at->f[n]->ver[i] == ver)
                at->f[n]->lacks[i] = 0;
    }
}

static inline void m_mark(struct world *w, struct m_snap *snaps, uint64_t ino, uint64_t upto)
{
    for (int k = -1; k < M_SNAPS; k++) {
        struct world *at = k < 0 ? w : snaps[k].used ? snaps[k].w : NULL;
        struct m_file *f = at ? m_find(at, ino) : NULL;
        for (uint64_t i = 0; f && i < M_SIZE_MAX; i++)
            if (f->lacks[i] && f->lacks[i] <= upto)
                m_durable(w, snaps, i, f->ver[i]);
    }
}

static inline struct m_snap *m_snap_of(struct m_snap *snaps, uint64_t seq)
{
    for (int i = 0; i < M_SNAPS; i++)
        if (snaps[i].used && snaps[i].seq == seq)
            return &snaps[i];
    return NULL;
}

static inline void model_do(struct world *w, struct m_snap *snaps, const struct m_op *op)
{
    static uint8_t bytes[M_SIZE_MAX];
    struct m_file *f = m_find(w, op->ino);
    switch (op->kind) {
    case M_CREATE:
        for (int i = 2; i < M_FILES && !f; i++)
            if (!w->f[i])
                f = w->f[i] = m_file_new();
        f->row = (struct dmt_inode){.ino = op->ino, .mode = S_IFREG | 0644, .nlink = 1};
        m_touch(f, op->seq);
        w->next_ino = op->ino + 1;
        m_enter(w, op->dir, op->name, op->ino, op->cookie, op->seq);
        break;
    case M_UNLINK:
        m_leave(w, op->dir, op->name, op->seq);
        m_drop(w, op->ino, op->seq);
        break;
    case M_RENAME:
        if (op->src) {
            m_lookup(w, op->dir2, op->name2)->ino = 0;
            m_drop(w, op->src, op->seq);
        }
        m_leave(w, op->dir, op->name, op->seq);
        m_enter(w, op->dir2, op->name2, op->ino, op->cookie, op->seq);
        break;
    case M_WRITE:
    case M_REF:
        fill_bytes(op->fill, bytes, op->len);
        m_set(f, op->off, op->len, bytes, op->seq, op->kind == M_REF ? op->seq : 0);
        if (op->off + op->len > f->row.size)
            f->row.size = op->off + op->len;
        m_touch(f, op->seq);
        break;
    case M_TRUNCATE:
        m_set(f, op->len, M_SIZE_MAX - op->len, NULL, 0, 0);
        f->row.size = op->len;
        m_touch(f, op->seq);
        break;
    case M_PUNCH:
        m_set(f, op->off, op->len, NULL, 0, 0);
        m_touch(f, op->seq);
        break;
    case M_ATTR:
        f->row.mode = S_IFREG | (uint32_t)op->val;
        m_touch(f, op->seq);
        break;
    case M_XATTR: {
        struct m_xattr *x = &f->x[op->val];
        x->len = (uint32_t)op->len;
        fill_bytes(op->fill, x->val, op->len);
        f->row.flags = 0;
        for (int i = 0; i < M_XATTRS; i++)
            f->row.flags |= f->x[i].len ? DMT_INO_XATTR : 0;
        m_touch(f, op->seq);
        break;
    }
    case M_MARK:
        m_mark(w, snaps, op->ino, op->val);
        break;
    case M_SNAP:
        for (int i = 0; i < M_SNAPS; i++)
            if (!snaps[i].used) {
                snaps[i] = (struct m_snap){
                    .used = true, .serial = op->val, .seq = op->seq, .w = world_copy(w)};
                break;
            }
        break;
    case M_SNAP_DEL: {
        struct m_snap *s = m_snap_of(snaps, op->view);
        world_free(s->w);
        s->used = false;
        break;
    }
    case M_FROM:
        m_from(f, m_find(op->view == DMT_LIVE ? w : m_snap_of(snaps, op->view)->w, op->src),
               op->seq);
        m_touch(f, op->seq);
        break;
    case M_META:
        w->meta = op->val;
        break;
    default:
        fail();
    }
}

/* --- on the store ----------------------------------------------------------------------------------------------------------- */

#define OK(call) assert_int_equal((call), 0)

static inline void put_touched(struct dmt_store *st, uint64_t ino, uint64_t seq,
                               struct dmt_inode *n)
{
    n->seq = seq;
    n->mtime = seq * 10;
    assert_int_equal(n->ino, ino);
    OK(dmt_store_inode_put(st, n));
}

static inline void touch_dir(struct dmt_store *st, uint64_t dir, uint32_t cookie, uint64_t seq)
{
    struct dmt_inode n;
    OK(dmt_store_inode_get(st, DMT_LIVE, dir, &n));
    if (cookie)
        n.next_cookie = cookie + 1;
    put_touched(st, dir, seq, &n);
}

static inline void drop_link(struct dmt_store *st, uint64_t ino, uint64_t seq)
{
    struct dmt_inode n;
    OK(dmt_store_inode_get(st, DMT_LIVE, ino, &n));
    if (--n.nlink)
        put_touched(st, ino, seq, &n);
    else
        OK(dmt_store_inode_del(st, ino, seq));
}

static inline void store_content_do(struct dmt_store *st, const struct m_op *op)
{
    static uint8_t bytes[M_SIZE_MAX];
    struct dmt_inode n, src;
    OK(dmt_store_inode_get(st, DMT_LIVE, op->ino, &n));
    switch (op->kind) {
    case M_WRITE:
        fill_bytes(op->fill, bytes, op->len);
        OK(dmt_store_write(st, op->ino, op->off, bytes, op->len, op->seq));
        break;
    case M_REF:
        OK(dmt_store_write_ref(st, op->ino, op->off, op->len, op->seq));
        break;
    case M_TRUNCATE:
        OK(dmt_store_truncate(st, op->ino, op->len, op->seq));
        n.size = op->len;
        break;
    case M_PUNCH:
        OK(dmt_store_unmap(st, op->ino, op->off, op->len, op->seq));
        break;
    case M_FROM:
        OK(dmt_store_inode_get(st, op->view, op->src, &src));
        OK(dmt_store_content_from(st, op->ino, op->src, op->view, op->seq));
        n.size = src.size;
        break;
    default:
        fail();
    }
    if ((op->kind == M_WRITE || op->kind == M_REF) && op->off + op->len > n.size)
        n.size = op->off + op->len;
    put_touched(st, op->ino, op->seq, &n);
}

static inline void store_xattr_do(struct dmt_store *st, const struct m_op *op)
{
    uint8_t val[256];
    struct dmt_inode n;
    size_t len;
    OK(dmt_store_inode_get(st, DMT_LIVE, op->ino, &n));
    fill_bytes(op->fill, val, op->len);
    if (op->len)
        OK(dmt_store_xattr_put(st, op->ino, m_xname((int)op->val), val, op->len, op->seq));
    else
        dmt_store_xattr_del(st, op->ino, m_xname((int)op->val), op->seq);
    n.flags = 0;
    for (int i = 0; i < M_XATTRS; i++)
        n.flags |= dmt_store_xattr_get(st, DMT_LIVE, op->ino, m_xname(i), NULL, 0, &len) == 0
                       ? DMT_INO_XATTR
                       : 0;
    put_touched(st, op->ino, op->seq, &n);
}

static inline void store_snap_do(struct dmt_store *st, const struct m_op *op)
{
    struct dmt_snapshot s = {.serial = op->val, .seq = op->seq, .epoch = 1, .time_ns = op->seq};
    if (op->kind == M_SNAP) {
        snprintf(s.name, sizeof(s.name), "s%llu", (unsigned long long)op->seq);
        OK(dmt_store_snap_put(st, &s));
        assert_int_equal(dmt_store_snap_put(st, &s), -EEXIST);
    } else {
        snprintf(s.name, sizeof(s.name), "s%llu", (unsigned long long)op->view);
        OK(dmt_store_snap_del(st, s.name));
    }
}

static inline void store_names_do(struct dmt_store *st, const struct m_op *op)
{
    char a[64], b[64];
    size_t na = m_name(op->name, a, sizeof(a)), nb = m_name(op->name2, b, sizeof(b));
    struct dmt_inode n = {.ino = op->ino, .mode = S_IFREG | 0644, .nlink = 1};
    switch (op->kind) {
    case M_CREATE:
        put_touched(st, op->ino, op->seq, &n);
        OK(dmt_store_dentry_put(st, op->dir, a, na, op->ino, S_IFREG, op->cookie, op->seq));
        touch_dir(st, op->dir, op->cookie, op->seq);
        break;
    case M_UNLINK:
        OK(dmt_store_dentry_del(st, op->dir, a, na, op->seq));
        touch_dir(st, op->dir, 0, op->seq);
        drop_link(st, op->ino, op->seq);
        break;
    case M_RENAME:
        if (op->src) {
            OK(dmt_store_keep_replace(st, op->ino, op->src, op->seq));
            drop_link(st, op->src, op->seq);
        }
        OK(dmt_store_dentry_del(st, op->dir, a, na, op->seq));
        touch_dir(st, op->dir, 0, op->seq);
        OK(dmt_store_dentry_put(st, op->dir2, b, nb, op->ino, S_IFREG, op->cookie, op->seq));
        touch_dir(st, op->dir2, op->cookie, op->seq);
        break;
    default:
        fail();
    }
}

static inline void store_do(struct dmt_store *st, const struct m_op *op)
{
    struct dmt_inode n;
    switch (op->kind) {
    case M_CREATE:
    case M_UNLINK:
    case M_RENAME:
        store_names_do(st, op);
        break;
    case M_ATTR:
        OK(dmt_store_inode_get(st, DMT_LIVE, op->ino, &n));
        n.mode = S_IFREG | (uint32_t)op->val;
        put_touched(st, op->ino, op->seq, &n);
        break;
    case M_XATTR:
        store_xattr_do(st, op);
        break;
    case M_MARK:
        OK(dmt_store_mark(st, op->ino, op->val == M_PIN ? op->seq : op->val, op->val != M_PIN, 0,
                          op->seq));
        break;
    case M_SNAP:
    case M_SNAP_DEL:
        store_snap_do(st, op);
        break;
    case M_META:
        OK(dmt_store_meta_put_u64(st, "test", op->val));
        break;
    default:
        store_content_do(st, op);
    }
}

#endif
