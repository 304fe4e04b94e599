/* test_model.c: random operations against an in-memory model, with everything that may happen in
 * between.
 *
 * One run = one seed: a holder and a follower; some hundreds of random operations on a small tree
 * (so that names collide), mixed with checkpoints, crashes of the holder, restarts of the follower,
 * snapshots, their deletion, and rollbacks. After every batch the holder is compared with the model
 * name by name and byte by byte; the follower and every snapshot by tree digest: live == recovered
 * == followed, and a snapshot shows for ever what it showed first. The model knows nothing of logs,
 * maps or lifetimes. DMT_SEED=N runs that seed alone, DMT_SEEDS=N that many, DMT_OPS=N operations
 * in each; a failure prints the seed. */
#include "tests/unit/workspace/pair.h"

#define INODES   64
#define ENTRIES  24
#define SNAPS    6
#define FILE_MAX (3u << 20)
#define NAMES    12
#define XATTRS   3

struct m_entry {
    int ino; /* 0 = free */
    char name[8];
};

struct m_inode {
    bool used;
    uint32_t mode;
    int nlink, opens, parent;
    uint8_t *data;
    uint32_t size;
    uint64_t node;
    int xattr[XATTRS]; /* 0 = none, else a number that makes the value */
    struct m_entry entries[ENTRIES];
};

struct model {
    struct m_inode in[INODES]; /* 1 = root */
};

struct m_snap {
    char name[16];
    struct model m;
    char digest[65];
    uint64_t seq;
};

struct run {
    struct pair *p;
    struct fx *f;
    struct model m;
    struct m_snap snaps[SNAPS];
    uint64_t rng, seed;
    int snap_count, ops;
};

static uint64_t rnd(struct run *r, uint64_t n)
{
    r->rng ^= r->rng << 13;
    r->rng ^= r->rng >> 7;
    r->rng ^= r->rng << 17;
    return r->rng % n;
}

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond))                                                                               \
            fail_msg("seed %llu, operation %d: %s (line %d)", (unsigned long long)r->seed, r->ops, \
                     #cond, __LINE__);                                                             \
    } while (0)

/* --- the model -------------------------------------------------------------------------------- */

static bool is_dir(const struct m_inode *n)
{
    return S_ISDIR(n->mode);
}

static struct m_entry *m_find(struct m_inode *dir, const char *name)
{
    for (int i = 0; i < ENTRIES; i++)
        if (dir->entries[i].ino && strcmp(dir->entries[i].name, name) == 0)
            return &dir->entries[i];
    return NULL;
}

static int m_count(const struct m_inode *dir)
{
    int n = 0;
    for (int i = 0; i < ENTRIES; i++)
        n += dir->entries[i].ino != 0;
    return n;
}

static void m_free(struct m_inode *n)
{
    free(n->data);
    memset(n, 0, sizeof(*n));
}

static void m_drop(struct model *m, int ino)
{
    struct m_inode *n = &m->in[ino];
    n->nlink = is_dir(n) ? 0 : n->nlink - 1;
    if (n->nlink == 0 && n->opens == 0)
        m_free(n);
}

static void m_add(struct m_inode *dir, const char *name, int ino)
{
    for (int i = 0; i < ENTRIES; i++)
        if (!dir->entries[i].ino) {
            dir->entries[i].ino = ino;
            strcpy(dir->entries[i].name, name);
            return;
        }
    fail_msg("model directory full");
}

static void m_resize(struct m_inode *n, uint32_t size)
{
    if (size > n->size) {
        n->data = realloc(n->data, size);
        assert_non_null(n->data);
        memset(n->data + n->size, 0, size - n->size);
    }
    n->size = size;
}

static void m_clone(struct model *to, const struct model *from)
{
    for (int i = 0; i < INODES; i++)
        free(to->in[i].data);
    *to = *from;
    for (int i = 0; i < INODES; i++) {
        if (!from->in[i].data)
            continue;
        to->in[i].data = malloc(from->in[i].size + 1);
        assert_non_null(to->in[i].data);
        memcpy(to->in[i].data, from->in[i].data, from->in[i].size);
    }
}

static bool m_below(struct model *m, int dir, int top)
{
    for (; dir != top; dir = m->in[dir].parent)
        if (dir == 1)
            return false;
    return true;
}

/* --- choosing --------------------------------------------------------------------------------- */

static const char *some_name(struct run *r)
{
    static const char *const names[NAMES] = {"a", "b", "c", "d", "e", "f",
                                             "g", "h", "i", "j", "k", "l"};
    return names[rnd(r, NAMES)];
}

/* A random inode in use for which want() holds; 0 = none. */
static int some(struct run *r, bool (*want)(const struct m_inode *n))
{
    int start = (int)rnd(r, INODES);
    for (int i = 0; i < INODES; i++) {
        int at = (start + i) % INODES;
        if (at && r->m.in[at].used && want(&r->m.in[at]))
            return at;
    }
    return 0;
}

static bool live_dir(const struct m_inode *n)
{
    return is_dir(n) && n->nlink > 0;
}

static bool file(const struct m_inode *n)
{
    return S_ISREG(n->mode);
}

static bool named(const struct m_inode *n)
{
    return n->nlink > 0 && !is_dir(n);
}

static bool opened(const struct m_inode *n)
{
    return n->opens > 0;
}

static bool anything(const struct m_inode *n)
{
    return n->nlink > 0;
}

/* --- operations on both ----------------------------------------------------------------------- */

static void do_make(struct run *r)
{
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    static const uint32_t types[] = {S_IFREG, S_IFREG, S_IFREG, S_IFDIR, S_IFDIR, S_IFLNK};
    int dir = some(r, live_dir), ino = 1;
    uint32_t mode = types[rnd(r, 6)] | 0755;
    const char *name = some_name(r);
    while (ino < INODES && r->m.in[ino].used)
        ino++;
    if (ino == INODES || m_count(&r->m.in[dir]) == ENTRIES)
        return;
    int want = m_find(&r->m.in[dir], name) ? -EEXIST : 0;
    CHECK(dmt_ws_make(r->f->ws, &op, r->m.in[dir].node, name, mode, 0, S_ISLNK(mode) ? "to" : NULL,
                      &a) == want);
    if (want < 0)
        return;
    r->m.in[ino] = (struct m_inode){.used = true,
                                    .mode = S_ISLNK(mode) ? S_IFLNK | 0777 : mode,
                                    .nlink = 1,
                                    .parent = dir,
                                    .node = a.node};
    m_add(&r->m.in[dir], name, ino);
}

static void do_link(struct run *r)
{
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    int dir = some(r, live_dir), ino = some(r, named);
    const char *name = some_name(r);
    if (!ino || m_count(&r->m.in[dir]) == ENTRIES)
        return;
    int want = m_find(&r->m.in[dir], name) ? -EEXIST : 0;
    CHECK(dmt_ws_link(r->f->ws, &op, r->m.in[ino].node, r->m.in[dir].node, name, &a) == want);
    if (want == 0) {
        m_add(&r->m.in[dir], name, ino);
        r->m.in[ino].nlink++;
    }
}

static void do_remove(struct run *r)
{
    struct dmt_op op = FX_OP(0);
    int dir = some(r, live_dir), want = 0;
    const char *name = some_name(r);
    bool rmdir = rnd(r, 3) == 0;
    struct m_entry *e = m_find(&r->m.in[dir], name);
    struct m_inode *n = e ? &r->m.in[e->ino] : NULL;
    if (!n)
        want = -ENOENT;
    else if (rmdir && !is_dir(n))
        want = -ENOTDIR;
    else if (!rmdir && is_dir(n))
        want = -EISDIR;
    else if (rmdir && m_count(n) > 0)
        want = -ENOTEMPTY;
    CHECK(dmt_ws_unlink(r->f->ws, &op, r->m.in[dir].node, name, rmdir) == want);
    if (want == 0) {
        m_drop(&r->m, e->ino);
        e->ino = 0;
    }
}

static int rename_expected(struct run *r, int d1, struct m_entry *a, int d2, struct m_entry *b,
                           uint32_t flags)
{
    struct model *m = &r->m;
    if (!a)
        return -ENOENT;
    if (b && flags & RENAME_NOREPLACE)
        return -EEXIST;
    if (!b && flags & RENAME_EXCHANGE)
        return -ENOENT;
    if (b && a->ino == b->ino)
        return 1; /* nothing happens */
    if (d1 != d2 && is_dir(&m->in[a->ino]) && m_below(m, d2, a->ino))
        return -EINVAL;
    if (flags & RENAME_EXCHANGE)
        return d1 != d2 && is_dir(&m->in[b->ino]) && m_below(m, d1, b->ino) ? -EINVAL : 0;
    if (!b)
        return m_count(&m->in[d2]) == ENTRIES && d1 != d2 ? 2 : 0;
    if (is_dir(&m->in[a->ino]))
        return !is_dir(&m->in[b->ino]) ? -ENOTDIR : m_count(&m->in[b->ino]) > 0 ? -ENOTEMPTY : 0;
    return is_dir(&m->in[b->ino]) ? -EISDIR : 0;
}

static void do_rename(struct run *r)
{
    static const uint32_t kinds[] = {0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
    struct dmt_op op = FX_OP(0);
    int d1 = some(r, live_dir), d2 = some(r, live_dir);
    const char *n1 = some_name(r), *n2 = some_name(r);
    uint32_t flags = kinds[rnd(r, 5)];
    struct m_entry *a = m_find(&r->m.in[d1], n1), *b = m_find(&r->m.in[d2], n2);
    int want = rename_expected(r, d1, a, d2, b, flags);
    if (want == 2)
        return; /* no room in the model */
    int got = dmt_ws_rename(r->f->ws, &op, r->m.in[d1].node, n1, r->m.in[d2].node, n2, flags);
    CHECK(got == (want == 1 ? 0 : want));
    if (want != 0)
        return;
    int x = a->ino, y = b ? b->ino : 0;
    if (is_dir(&r->m.in[x]))
        r->m.in[x].parent = d2;
    if (flags & RENAME_EXCHANGE) {
        a->ino = y;
        b->ino = x;
        if (is_dir(&r->m.in[y]))
            r->m.in[y].parent = d1;
        return;
    }
    if (b) {
        b->ino = 0;
        m_drop(&r->m, y);
    }
    a->ino = 0;
    m_add(&r->m.in[d2], n2, x);
}

static void put(struct run *r, int ino, uint32_t off, uint32_t len)
{
    struct dmt_op op = FX_OP(0);
    struct m_inode *n = &r->m.in[ino];
    uint32_t salt = (uint32_t)rnd(r, 1000);
    if (off + len > n->size)
        m_resize(n, off + len);
    fx_pattern(n->data + off, len, off, salt);
    CHECK(dmt_ws_write(r->f->ws, &op, n->node, n->data + off, len, off, false) == 0);
}

static void do_write(struct run *r)
{
    int ino = some(r, file);
    if (!ino)
        return;
    uint32_t big = rnd(r, 8) == 0, off, len;
    if (big) { /* a run that goes by reference */
        off = rnd(r, 2) ? 0 : (uint32_t)rnd(r, 1u << 20);
        len = (64u << 10) + (uint32_t)rnd(r, 64u << 10);
        while (off + len <= FILE_MAX) {
            put(r, ino, off, len);
            off += len;
        }
        return;
    }
    off = (uint32_t)rnd(r, rnd(r, 4) ? 20000 : FILE_MAX - 70000);
    put(r, ino, off, 1 + (uint32_t)rnd(r, rnd(r, 3) ? 300 : 60000));
}

static void do_truncate(struct run *r)
{
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    int ino = some(r, file);
    if (!ino)
        return;
    struct m_inode *n = &r->m.in[ino];
    struct dmt_setattr sa = {.mask = DMT_SET_SIZE, .size = rnd(r, 3) ? rnd(r, n->size + 1000) : 0};
    CHECK(dmt_ws_setattr(r->f->ws, &op, n->node, &sa, &a) == 0);
    m_resize(n, (uint32_t)sa.size);
    CHECK(a.st.st_size == (off_t)sa.size);
}

static void do_punch(struct run *r)
{
    struct dmt_op op = FX_OP(0);
    int ino = some(r, file);
    if (!ino)
        return;
    struct m_inode *n = &r->m.in[ino];
    bool zero = rnd(r, 2);
    uint32_t off = (uint32_t)rnd(r, n->size + 10), len = 1 + (uint32_t)rnd(r, 50000);
    int flags = zero ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    CHECK(dmt_ws_fallocate(r->f->ws, &op, n->node, flags, off, len, false) == 0);
    if (zero && off + len > n->size)
        m_resize(n, off + len);
    if (off < n->size)
        memset(n->data + off, 0, off + len < n->size ? len : n->size - off);
}

static void do_attr(struct run *r)
{
    struct dmt_op op = FX_OP(0);
    struct dmt_attr a;
    int ino = some(r, anything);
    struct m_inode *n = &r->m.in[ino];
    if (S_ISLNK(n->mode))
        return;
    n->mode = (n->mode & S_IFMT) | (0700u + (uint32_t)rnd(r, 64));
    struct dmt_setattr sa = {
        .mask = DMT_SET_MODE | DMT_SET_MTIME, .mode = n->mode, .mtime = 1 + rnd(r, 1000000000)};
    CHECK(dmt_ws_setattr(r->f->ws, &op, n->node, &sa, &a) == 0);
}

static const char *xattr_value(int v, char buf[300])
{
    int n = snprintf(buf, 300, "value %d ", v);
    memset(buf + n, 'v', (size_t)(v % 200));
    buf[n + v % 200] = '\0';
    return buf;
}

static void do_xattr(struct run *r)
{
    struct dmt_op op = FX_OP(0);
    char name[16], val[300];
    int ino = some(r, anything), which = (int)rnd(r, XATTRS);
    struct m_inode *n = &r->m.in[ino];
    (void)snprintf(name, sizeof(name), "user.%d", which);
    if (rnd(r, 3) == 0) {
        int want = n->xattr[which] ? 0 : -ENODATA;
        CHECK(dmt_ws_removexattr(r->f->ws, &op, n->node, name) == want);
        n->xattr[which] = 0;
        return;
    }
    n->xattr[which] = 1 + (int)rnd(r, 1000);
    xattr_value(n->xattr[which], val);
    CHECK(dmt_ws_setxattr(r->f->ws, &op, n->node, name, val, strlen(val), 0) == 0);
}

static void do_open(struct run *r)
{
    int ino = some(r, named);
    if (ino) {
        r->m.in[ino].opens++;
        dmt_ws_ref(r->f->ws, r->m.in[ino].node);
    }
}

static void close_one(struct run *r, int ino)
{
    struct m_inode *n = &r->m.in[ino];
    dmt_ws_forget(r->f->ws, n->node, 1);
    if (--n->opens == 0 && n->nlink == 0)
        m_free(n);
}

static void do_close(struct run *r)
{
    int ino = some(r, opened);
    if (ino)
        close_one(r, ino);
}

/* --- comparing -------------------------------------------------------------------------------- */

struct names {
    int n;
    char text[ENTRIES + 2][8];
};

static int list_name(void *ctx, const char *name, uint64_t node, uint32_t type, uint64_t cookie,
                     const struct dmt_attr *attr)
{
    struct names *l = ctx;
    (void)node, (void)type, (void)cookie, (void)attr;
    if (name[0] != '.' && l->n < ENTRIES + 1)
        (void)snprintf(l->text[l->n++], 8, "%.7s", name);
    return 0;
}

static void compare_file(struct run *r, const struct m_inode *n)
{
    uint8_t *got = malloc(n->size + 1);
    assert_non_null(got);
    CHECK(dmt_ws_read(r->f->ws, n->node, got, n->size + 1, 0, false) == (ssize_t)n->size);
    for (uint32_t i = 0; i < n->size; i++)
        if (got[i] != n->data[i])
            fail_msg("seed %llu, operation %d: byte %u of %u differs in node %llu",
                     (unsigned long long)r->seed, r->ops, i, n->size, (unsigned long long)n->node);
    free(got);
}

static void compare_inode(struct run *r, int ino)
{
    struct m_inode *n = &r->m.in[ino];
    struct dmt_attr a;
    char name[16], want[300], got[300];
    CHECK(dmt_ws_getattr(r->f->ws, n->node, &a) == 0);
    CHECK(a.st.st_mode == n->mode);
    if (!is_dir(n))
        CHECK((int)a.st.st_nlink == n->nlink);
    if (file(n)) {
        CHECK(a.st.st_size == (off_t)n->size);
        compare_file(r, n);
    }
    for (int i = 0; i < XATTRS; i++) {
        (void)snprintf(name, sizeof(name), "user.%d", i);
        ssize_t len = dmt_ws_getxattr(r->f->ws, n->node, name, got, sizeof(got));
        if (n->xattr[i]) {
            xattr_value(n->xattr[i], want);
            CHECK(len == (ssize_t)strlen(want) && memcmp(got, want, (size_t)len) == 0);
        } else {
            CHECK(len == -ENODATA);
        }
    }
    if (!is_dir(n))
        return;
    struct names l = {0};
    CHECK(dmt_ws_readdir(r->f->ws, n->node, 0, rnd(r, 2), list_name, &l) == 0);
    CHECK(n->nlink == 0 || l.n == m_count(n));
    for (int i = 0; i < l.n; i++)
        CHECK(m_find(n, l.text[i]) != NULL);
    for (int i = 0; i < ENTRIES; i++)
        if (n->entries[i].ino)
            CHECK(fx_lookup(r->f, n->node, n->entries[i].name) == r->m.in[n->entries[i].ino].node);
}

static void compare_all(struct run *r)
{
    for (int i = 1; i < INODES; i++)
        if (r->m.in[i].used)
            compare_inode(r, i);
}

/* Node numbers of the tree as it is now (after a rollback some are new). */
static void learn_nodes(struct run *r, int dir)
{
    struct m_inode *n = &r->m.in[dir];
    for (int i = 0; i < ENTRIES; i++) {
        if (!n->entries[i].ino)
            continue;
        struct m_inode *c = &r->m.in[n->entries[i].ino];
        c->node = fx_lookup(r->f, n->node, n->entries[i].name);
        CHECK(c->node != 0);
        if (is_dir(c))
            learn_nodes(r, n->entries[i].ino);
    }
}

static void digest_of(struct run *r, struct fx *f, uint64_t view, char ret[65])
{
    struct dmt_err err = {0};
    if (dmt_ws_digest(f->ws, view, ret, &err) < 0)
        fail_msg("seed %llu, operation %d: %s", (unsigned long long)r->seed, r->ops, err.msg);
}

static void expect_digest(struct run *r, struct fx *f, uint64_t view, const char *want)
{
    char got[65];
    digest_of(r, f, view, got);
    CHECK(strcmp(got, want) == 0);
}

/* --- what happens in between ------------------------------------------------------------------ */

static void close_all(struct run *r)
{
    for (int i = 1; i < INODES; i++)
        while (r->m.in[i].used && r->m.in[i].opens > 0)
            close_one(r, i);
}

static void do_crash(struct run *r)
{
    char before[65];
    struct dmt_err err = {0};
    digest_of(r, r->f, DMT_LIVE, before);
    fx_crash(r->f);
    if (dmt_ws_settle(r->f->ws, true, &err) < 0)
        fail_msg("seed %llu, operation %d: %s", (unsigned long long)r->seed, r->ops, err.msg);
    /* Orphans were reaped at the start; nobody has anything open in a new process. */
    for (int i = 1; i < INODES; i++) {
        struct m_inode *n = &r->m.in[i];
        n->opens = 0;
        if (n->used && n->nlink == 0)
            m_free(n);
    }
    expect_digest(r, r->f, DMT_LIVE, before);
}

static void do_snapshot(struct run *r)
{
    struct m_snap *s = &r->snaps[rnd(r, SNAPS)];
    struct dmt_snapshot snap;
    struct dmt_err err = {0};
    if (s->name[0]) {
        CHECK(dmt_ws_snap_delete(r->f->ws, s->name, &err) == 0);
        s->name[0] = '\0';
        return;
    }
    (void)snprintf(s->name, sizeof(s->name), "s%d", r->snap_count++);
    CHECK(dmt_ws_snap_create(r->f->ws, s->name, "", &snap, &err) == 0);
    s->seq = snap.seq;
    m_clone(&s->m, &r->m);
    for (int i = 1; i < INODES; i++) { /* a snapshot shows names; what is only open is not in it */
        s->m.in[i].opens = 0;
        if (s->m.in[i].used && s->m.in[i].nlink == 0)
            m_free(&s->m.in[i]);
    }
    digest_of(r, r->f, s->seq, s->digest);
}

static void check_snapshots(struct run *r, struct fx *f)
{
    for (int i = 0; i < SNAPS; i++)
        if (r->snaps[i].name[0])
            expect_digest(r, f, r->snaps[i].seq, r->snaps[i].digest);
}

static void do_rollback(struct run *r)
{
    struct m_snap *s = &r->snaps[rnd(r, SNAPS)];
    struct dmt_err err = {0};
    struct dmt_rollback rb = {.snapshot = s->name};
    if (!s->name[0])
        return;
    close_all(r);
    if (dmt_ws_rollback(r->f->ws, &rb, &err) < 0)
        fail_msg("seed %llu, operation %d: %s", (unsigned long long)r->seed, r->ops, err.msg);
    m_clone(&r->m, &s->m);
    learn_nodes(r, 1);
    expect_digest(r, r->f, DMT_LIVE, s->digest);
    CHECK(dmt_ws_snap_delete(r->f->ws, rb.saved_as, &err) == 0);
}

/* Digests say that trees differ; this says where. */
static void explain(struct run *r, struct fx *b)
{
    uint8_t *x = malloc(FILE_MAX + 1), *y = malloc(FILE_MAX + 1);
    for (int i = 1; i < INODES; i++) {
        struct m_inode *n = &r->m.in[i];
        struct dmt_attr aa, ab;
        struct dmt_missing m;
        if (!n->used || n->nlink == 0)
            continue;
        uint64_t node = n->node;
        int ra = dmt_ws_getattr(r->f->ws, node, &aa), rb = dmt_ws_getattr(b->ws, node, &ab);
        if (ra || rb || aa.st.st_size != ab.st.st_size || aa.st.st_mode != ab.st.st_mode)
            print_message("node %llu: %d %d, sizes %lld %lld\n", (unsigned long long)node, ra, rb,
                          (long long)aa.st.st_size, (long long)ab.st.st_size);
        if (!file(n))
            continue;
        ssize_t na = dmt_ws_read(r->f->ws, node, x, FILE_MAX, 0, false),
                nb = dmt_ws_read(b->ws, node, y, FILE_MAX, 0, false);
        ssize_t from = 0, to = na < nb ? na : nb;
        while (from < to && x[from] == y[from])
            from++;
        while (to > from && x[to - 1] == y[to - 1])
            to--;
        if (from < to)
            print_message("node %llu: bytes %zd to %zd of %zd differ (%02x, %02x)\n",
                          (unsigned long long)node, from, to, na, x[from], y[from]);
        for (uint64_t off = 0; dmt_ws_missing_next(b->ws, node, off, &m) == 1 && m.ino == node;
             off = m.off + m.len)
            print_message("  missing %llu + %llu at %llu\n", (unsigned long long)m.off,
                          (unsigned long long)m.len, (unsigned long long)m.seq);
    }
    free(x);
    free(y);
}

static void do_follow(struct run *r)
{
    char followed[65];
    char live[65];
    struct fx *b = &r->p->b;
    pair_send(r->f, b, UINT64_MAX);
    pair_apply(b);
    if (rnd(r, 3) == 0)
        fx_checkpoint(b);
    if (rnd(r, 3) == 0) {
        fx_close(b);
        fx_open(b, true);
        pair_apply(b);
    }
    pair_pull(r->f, b, 1 << 20);
    digest_of(r, r->f, DMT_LIVE, live);
    digest_of(r, b, DMT_LIVE, followed);
    if (strcmp(live, followed) != 0)
        explain(r, b);
    CHECK(strcmp(live, followed) == 0);
    check_snapshots(r, b);
}

static void step(struct run *r)
{
    static void (*const common[])(struct run *) = {
        do_make,   do_make,  do_make,  do_link,  do_remove, do_rename,
        do_rename, do_write, do_write, do_write, do_write,  do_truncate,
        do_punch,  do_attr,  do_xattr, do_open,  do_close};
    static void (*const rare[])(struct run *) = {do_crash,    do_snapshot, do_snapshot,
                                                 do_snapshot, do_rollback, do_follow};
    uint64_t x = rnd(r, 100);
    if (x < 4)
        rare[rnd(r, 6)](r);
    else if (x < 6)
        fx_checkpoint(r->f);
    else if (x < 7)
        CHECK(dmt_ws_sync_wait(r->f->ws, rnd(r, 2) ? 0 : r->m.in[some(r, anything)].node) == 0);
    else
        common[rnd(r, sizeof(common) / sizeof(common[0]))](r);
}

static void run_seed(struct pair *p, uint64_t seed, int ops)
{
    struct run *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    r->p = p;
    r->f = &p->a;
    r->seed = seed;
    r->rng = seed * 0x9e3779b97f4a7c15ull + 1;
    r->m.in[1] = (struct m_inode){
        .used = true, .mode = S_IFDIR | 0755, .nlink = 1, .parent = 1, .node = DMT_ROOT};
    for (r->ops = 0; r->ops < ops; r->ops++) {
        step(r);
        if (r->ops % 40 == 39) {
            compare_all(r);
            check_snapshots(r, r->f);
        }
    }
    do_crash(r);
    compare_all(r);
    do_follow(r);
    CHECK(!p->a.failed && !p->b.failed);
    for (int i = 0; i < SNAPS; i++)
        for (int k = 0; k < INODES; k++)
            free(r->snaps[i].m.in[k].data);
    for (int k = 0; k < INODES; k++)
        free(r->m.in[k].data);
    free(r);
}

static uint64_t from_env(const char *name, uint64_t dflt)
{
    const char *s = getenv(name);
    return s ? strtoull(s, NULL, 10) : dflt;
}

static void random_operations_equal_the_model(void **state)
{
    (void)state;
    uint64_t one = from_env("DMT_SEED", 0), n = from_env("DMT_SEEDS", 12);
    int ops = (int)from_env("DMT_OPS", 400);
    for (uint64_t seed = one ? one : 1; seed <= (one ? one : n); seed++) {
        void *p;
        assert_int_equal(pair_setup(&p), 0);
        run_seed(p, seed, ops);
        assert_int_equal(pair_teardown(&p), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_operations_equal_the_model)};
    return cmocka_run_group_tests_name("workspace against its model", tests, NULL, NULL);
}
