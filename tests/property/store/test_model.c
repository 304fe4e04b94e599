/* test_model.c: the store against a model, by random operations. SEED=n repeats a run, STEPS=n
 * makes it longer.
 *
 * The list of operations plays the journal: after a reload or a power cut those behind the applied
 * position are done again. Between operations, at random: freeze, checkpoint (some fail, some die
 * in the middle), reload, power cut, loss of the log's tail, export and import. After each of
 * those, and now and then, everything is compared: the live state, and every snapshot with the copy
 * made at its position. In every other run the store is the holder's, whose syncs pin what they are
 * about before their bytes are durable.
 */
#include <dirent.h>
#include <unistd.h>

#include "fs/store/internal.h"
#include "tests/lib/faultio.h"
#include "tests/property/store/ops.h"

#define LOG_MAX 200000

struct test {
    struct rng r;
    char dir[64], dir2[64];
    struct faultio *fio;
    struct dmt_store_conf conf;
    struct dmt_store *st;
    struct dmt_store_ident id;
    struct world *w;
    struct m_snap snaps[M_SNAPS];
    bool mine;
    struct m_op *log;
    size_t n; /* log[i].seq == i + 1 */
    bool frozen;
    struct world *at_freeze;
    struct m_snap freeze_snaps[M_SNAPS];
    uint64_t freeze_seq;
    uint64_t kinds[M_KINDS], checkpoints, failed, cuts, reloads, exports, lost;
};

static void lock_nothing(void *ctx)
{
    (void)ctx;
}
static const struct dmt_lockfn g_lk = {lock_nothing, lock_nothing, NULL};

static struct m_file *some_file(struct test *t)
{
    for (int i = 0; i < 30; i++) {
        struct m_file *f = t->w->f[2 + rnd(&t->r, M_FILES - 2)];
        if (f)
            return f;
    }
    return NULL;
}

static struct m_dent *some_dent(struct test *t)
{
    for (int i = 0; i < 200; i++) {
        struct m_dent *d = &t->w->d[rnd(&t->r, M_DENTS)];
        if (d->ino && d->type == S_IFREG)
            return d;
    }
    return NULL;
}

static struct m_snap *some_snap(struct test *t)
{
    for (int i = 0; i < 10; i++) {
        struct m_snap *s = &t->snaps[rnd(&t->r, M_SNAPS)];
        if (s->used)
            return s;
    }
    return NULL;
}

static void some_range(struct test *t, struct m_op *op, const struct m_file *f)
{
    static const uint32_t lens[] = {1, 10, 100, 4096, 4096, 5000, 20000, 40000};
    op->len = 1 + rnd(&t->r, lens[rnd(&t->r, 8)]);
    uint32_t how = rnd(&t->r, 4);
    op->off = how == 0   ? f->row.size
              : how == 1 ? rnd(&t->r, (uint32_t)f->row.size + 1)
              : how == 2 ? rnd(&t->r, 16) * 4096
                         : rnd(&t->r, M_SIZE_MAX);
    if (op->off >= M_SIZE_MAX)
        op->off = 0;
    if (op->len > M_SIZE_MAX - op->off)
        op->len = M_SIZE_MAX - op->off;
}

static uint32_t next_cookie(struct test *t, uint64_t dir)
{
    return m_find(t->w, dir)->row.next_cookie;
}

/* The files of this test are small: free ranges of any size are punched, so that one punched
 * wrongly is seen. */
static void opened(struct test *t)
{
    t->st->punch_min = 4096;
    dmt_store_set_mine(t->st, t->mine);
}

/* An operation that can be done now; false if this kind cannot. */
static bool make_names_op(struct test *t, struct m_op *op)
{
    struct m_dent *d = some_dent(t);
    int live = 0;
    for (int i = 0; i < M_FILES; i++)
        live += t->w->f[i] != NULL;
    op->dir = 1 + rnd(&t->r, 2);
    op->name = (int)rnd(&t->r, M_NAMES);
    if (op->kind == M_CREATE) {
        op->ino = t->w->next_ino;
        op->cookie = next_cookie(t, op->dir);
        return live < M_FILES && !m_lookup(t->w, op->dir, op->name);
    }
    if (!d)
        return false;
    op->dir = d->parent;
    op->name = d->name;
    op->ino = d->ino;
    if (op->kind == M_UNLINK)
        return true;
    op->dir2 = 1 + rnd(&t->r, 2);
    op->name2 = (int)rnd(&t->r, M_NAMES);
    op->cookie = next_cookie(t, op->dir2);
    struct m_dent *over = m_lookup(t->w, op->dir2, op->name2);
    op->src = over ? over->ino : 0;
    return !over || (over->ino != op->ino && over->type == S_IFREG);
}

static bool make_from(struct test *t, struct m_op *op)
{
    struct m_snap *s = some_snap(t);
    bool live = !s || rnd(&t->r, 4) == 0;
    struct world *w = live ? t->w : s->w;
    op->view = live ? DMT_LIVE : s->seq;
    op->src = op->ino;
    if (live || rnd(&t->r, 3) == 0 || !m_find(w, op->ino))
        for (int i = 0; i < 30; i++) {
            struct m_file *f = w->f[2 + rnd(&t->r, M_FILES - 2)];
            if (f)
                op->src = f->row.ino;
        }
    return m_find(w, op->src) != NULL && (!live || op->src != op->ino);
}

static bool make_op(struct test *t, struct m_op *op)
{
    static const uint8_t weights[M_KINDS] = {8, 4, 4, 30, 9, 6, 4, 3, 5, 5, 2, 2, 4, 2};
    uint32_t pick = rnd(&t->r, 88), kind = 0;
    while (pick >= weights[kind])
        pick -= weights[kind++];
    *op = (struct m_op){.kind = (enum m_kind)kind,
                        .seq = t->n + 1,
                        .fill = rnd(&t->r, 1u << 30),
                        .val = rnd(&t->r, 512)};
    if (kind <= M_RENAME)
        return make_names_op(t, op);
    struct m_snap *s = some_snap(t);
    if (kind == M_SNAP) {
        op->val = op->seq;
        for (int i = 0; i < M_SNAPS; i++)
            if (!t->snaps[i].used)
                return true;
        return false;
    }
    if (kind == M_SNAP_DEL)
        op->view = s ? s->seq : 0;
    if (kind == M_SNAP_DEL || kind == M_META)
        return kind == M_META || s;
    struct m_file *f = some_file(t);
    if (!f)
        return false;
    op->ino = f->row.ino;
    some_range(t, op, f);
    if (kind == M_TRUNCATE)
        op->len = rnd(&t->r, 3) ? rnd(&t->r, M_SIZE_MAX) : 0;
    if (kind == M_XATTR) {
        op->val = rnd(&t->r, M_XATTRS);
        op->len = rnd(&t->r, 3) ? 1 + rnd(&t->r, 250) : 0;
    }
    if (kind == M_MARK && t->mine && rnd(&t->r, 2))
        op->val = M_PIN;
    else if (kind == M_MARK)
        op->val = rnd(&t->r, 3) ? t->n : t->n - rnd(&t->r, 50 < t->n ? 50 : (uint32_t)t->n);
    return kind == M_FROM ? make_from(t, op) : true;
}

static void step(struct test *t)
{
    struct m_op op;
    static uint8_t bytes[M_SIZE_MAX];
    if (!make_op(t, &op))
        return;
    if (op.kind == M_REF) { /* the bytes come before the record */
        struct dmt_place pl, again;
        OK(dmt_store_ref_place(t->st, op.ino, op.off, op.len, &pl));
        OK(dmt_store_ref_place(t->st, op.ino, op.off, op.len, &again));
        assert_int_equal(pl.foff, again.foff);
        fill_bytes(op.fill, bytes, op.len);
        OK(dmt_store_ref_put(t->st, &pl, bytes, op.len));
    } else if (op.kind == M_MARK && op.val != M_PIN) {
        int r = dmt_store_ref_sync(t->st, &g_lk, op.ino);
        if (r == -EIO && t->failed)
            /* a sync of that file failed before: its bytes may be lost, and the store remembers */
            return;
        assert_int_equal(r, 0);
    }
    if (getenv("TRACE"))
        print_message("%llu: kind %d ino %llu dir %llu src %llu view %lld off %llu len %llu\n",
                      (unsigned long long)op.seq, (int)op.kind, (unsigned long long)op.ino,
                      (unsigned long long)op.dir, (unsigned long long)op.src, (long long)op.view,
                      (unsigned long long)op.off, (unsigned long long)op.len);
    t->log[t->n++] = op;
    assert_true(t->n < LOG_MAX);
    t->kinds[op.kind]++;
    store_do(t->st, &op);
    model_do(t->w, t->snaps, &op);
}

static void compare(struct test *t, bool unsure)
{
    same_world(t->st, DMT_LIVE, t->w, unsure);
    for (int i = 0; i < M_SNAPS; i++)
        if (t->snaps[i].used)
            same_world(t->st, t->snaps[i].seq, t->snaps[i].w, unsure);
}

/* Bytes of a by-reference write, from whichever world still shows them. */
static void arrive(struct test *t, const struct dmt_missing *m, uint8_t *buf)
{
    struct world *all[M_SNAPS + 1] = {t->w};
    for (int i = 0; i < M_SNAPS; i++)
        all[i + 1] = t->snaps[i].used ? t->snaps[i].w : NULL;
    for (uint64_t i = 0; i < m->len; i++) {
        bool known = false;
        for (int k = 0; k <= M_SNAPS; k++) {
            struct m_file *f = all[k] ? m_find(all[k], m->ino) : NULL;
            if (!f || f->lacks[m->off + i] != m->seq)
                continue;
            buf[i] = f->data[m->off + i];
            known = true;
        }
        assert_true(known); /* nobody asks for what nobody shows */
    }
}

/* After a power cut the bytes nobody has marked durable come from a peer. */
static void pull_missing(struct test *t)
{
    static uint8_t buf[M_SIZE_MAX];
    struct dmt_missing m;
    uint64_t used;
    while (dmt_store_missing_next(t->st, 0, 0, &m) == 1) {
        struct dmt_missing other = m;
        other.seq++;
        OK(dmt_store_missing_fill(t->st, &other, buf,
                                  &used)); /* bytes of another write are not wanted */
        assert_int_equal(used, 0);
        arrive(t, &m, buf);
        OK(dmt_store_missing_fill(t->st, &m, buf, &used));
        assert_int_equal(used, m.len);
    }
    OK(dmt_store_fill_sync(t->st, &g_lk));
    for (int i = -1; i < M_SNAPS; i++)
        for (int k = 0; k < M_FILES; k++) {
            struct world *w = i < 0 ? t->w : t->snaps[i].used ? t->snaps[i].w : NULL;
            if (w && w->f[k])
                memset(w->f[k]->lacks, 0, sizeof(w->f[k]->lacks));
        }
}

static void replay(struct test *t)
{
    for (uint64_t seq = dmt_store_applied(t->st).seq; seq < t->n; seq++)
        store_do(t->st, &t->log[seq]);
}

/* But for what only records keep right: a bare store has none. */
static void complain(void *ctx, const struct dmt_finding *f)
{
    if (strcmp(f->kind, "epoch") == 0 || strcmp(f->kind, "snapshot") == 0 ||
        strncmp(f->kind, "subdirs", 7) == 0)
        return;
    ++*(int *)ctx;
    print_message("check: %s: %s\n", f->kind, f->text);
}

static void check(struct dmt_store *st)
{
    struct dmt_err err = {0};
    int n = 0;
    assert_true(dmt_store_check(st, complain, &n, &err) >= 0);
    assert_int_equal(n, 0);
}

static void snaps_free(struct m_snap *v)
{
    for (int i = 0; i < M_SNAPS; i++)
        if (v[i].used)
            world_free(v[i].w);
    memset(v, 0, sizeof(*v) * M_SNAPS);
}

static void snaps_copy(struct m_snap *to, const struct m_snap *from)
{
    snaps_free(to);
    for (int i = 0; i < M_SNAPS; i++)
        if (from[i].used) {
            to[i] = from[i];
            to[i].w = world_copy(from[i].w);
        }
}

static void freeze(struct test *t)
{
    struct dmt_pos pos = {.epoch = 1, .seq = t->n, .chain = t->n * 3};
    int r = dmt_store_freeze(t->st, &pos);
    assert_int_equal(r, t->frozen ? -EBUSY : 0);
    if (t->frozen)
        return;
    t->frozen = true;
    world_free(t->at_freeze);
    t->at_freeze = world_copy(t->w);
    snaps_copy(t->freeze_snaps, t->snaps);
    t->freeze_seq = t->n;
}

static void reopen(struct test *t)
{
    struct dmt_err err = {0};
    dmt_store_close(t->st);
    assert_int_equal(dmt_store_open(&t->st, &t->conf, &err), 0);
    opened(t);
    t->frozen = false;
}

static void copy_file(const char *from, const char *to)
{
    static char buf[1 << 16];
    FILE *in = fopen(from, "r"), *out = in ? fopen(to, "w") : NULL;
    if (!in) {
        unlink(to);
        return;
    }
    assert_non_null(out);
    for (size_t n; (n = fread(buf, 1, sizeof(buf), in)) > 0;)
        assert_int_equal(fwrite(buf, 1, n, out), n);
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

/* The database as a crash would leave it goes past the faulty disk, which knows nothing of it. */
static void carry_database(struct test *t, bool back)
{
    static const char *const names[] = {"workspace.db", "workspace.db-wal"};
    for (int i = 0; i < 2; i++) {
        char in[96], out[96];
        snprintf(in, sizeof(in), "%s/%s", t->dir, names[i]);
        snprintf(out, sizeof(out), "%s.%d", t->dir, i);
        copy_file(back ? out : in, back ? in : out);
        if (back)
            unlink(out);
    }
    char shm[96];
    snprintf(shm, sizeof(shm), "%s/workspace.db-shm", t->dir);
    if (back)
        unlink(shm);
}

static void checkpoint(struct test *t)
{
    struct dmt_err err = {0};
    bool may_fail = rnd(&t->r, 4) == 0;
    if (may_fail) {
        static const unsigned masks[] = {FAULTIO_SYNC, FAULTIO_WRITE, FAULTIO_CREATE,
                                         FAULTIO_SYNC_DIR, FAULTIO_ALL};
        faultio_fail(t->fio, masks[rnd(&t->r, 5)], 1 + rnd(&t->r, 8), 1 + rnd(&t->r, 2),
                     rnd(&t->r, 2) ? EIO : ENOSPC);
    }
    int r = dmt_store_checkpoint(t->st, &g_lk, &err);
    faultio_fail(t->fio, 0, 0, 0, 0);
    if (r < 0) {
        assert_true(may_fail);
        assert_string_not_equal(err.msg, "");
        t->failed++;
    } else {
        t->checkpoints++;
        assert_int_equal(dmt_store_applied(t->st).seq,
                         t->frozen ? t->freeze_seq : dmt_store_applied(t->st).seq);
        check(t->st);
    }
    t->frozen = false;
}

/* The power goes in some operation of the checkpoint, or just now. */
static void power_cut(struct test *t)
{
    static const enum faultio_mode modes[] = {FAULTIO_KEEP, FAULTIO_DROP, FAULTIO_RANDOM,
                                              FAULTIO_RANDOM};
    struct dmt_err err = {0};
    uint64_t frozen_seq = t->freeze_seq;
    bool was_frozen = t->frozen;
    if (was_frozen)
        faultio_cut_at(t->fio, 1 + rnd(&t->r, 40));
    if (was_frozen && dmt_store_checkpoint(t->st, &g_lk, &err) == 0)
        was_frozen = false;
    faultio_cut(t->fio);
    carry_database(t, false);
    dmt_store_close(t->st);
    faultio_restore(t->fio, modes[rnd(&t->r, 4)]);
    carry_database(t, true);
    assert_int_equal(dmt_store_open(&t->st, &t->conf, &err), 0);
    opened(t);
    t->frozen = false;
    t->cuts++;
    struct dmt_pos floor = dmt_store_floor(t->st), applied = dmt_store_applied(t->st);
    assert_true(floor.seq >= applied.seq);
    /* D1: a log that lost its tail, down to the floor, gives exactly that position. */
    if (t->at_freeze && frozen_seq >= floor.seq && rnd(&t->r, 2)) {
        t->n = frozen_seq;
        t->lost++;
        world_free(t->w);
        t->w = world_copy(t->at_freeze);
        snaps_copy(t->snaps, t->freeze_snaps);
    }
    replay(t);
    compare(t, true);
    dmt_store_set_mine(t->st, false);
    pull_missing(t);
    dmt_store_set_mine(t->st, t->mine);
    freeze(t); /* what came is no operation of the log: a replay would ask for it again */
    assert_int_equal(dmt_store_checkpoint(t->st, &g_lk, &err), 0);
    t->frozen = false;
    compare(t, false);
    world_free(t->at_freeze);
    t->at_freeze = NULL;
}

static int feed(void *ctx, const void *p, size_t len)
{
    struct test *t = ((void **)ctx)[0];
    struct dmt_import *im = ((void **)ctx)[1];
    struct dmt_err err = {0};
    const uint8_t *at = p;
    while (len) { /* other chunks than they came in */
        size_t n = 1 + rnd(&t->r, rnd(&t->r, 2) ? 50 : 100000);
        n = n < len ? n : len;
        assert_int_equal(dmt_store_import_feed(im, at, n, &err), 0);
        at += n;
        len -= n;
    }
    return 0;
}

/* The last checkpoint goes to another directory; the test goes on there. */
static void move_by_stream(struct test *t)
{
    struct dmt_err err = {0};
    struct dmt_import *im;
    struct dmt_pos from, to;
    struct dmt_store_conf conf = t->conf;
    struct dmt_store *other;
    conf.dir = t->dir2;
    if (dmt_store_floor(t->st).seq > dmt_store_applied(t->st).seq || t->at_freeze == NULL ||
        t->frozen || dmt_store_applied(t->st).seq != t->freeze_seq)
        return;
    assert_int_equal(dmt_store_import_begin(&im, &conf, &t->id, &err), 0);
    void *ctx[2] = {t, im};
    assert_int_equal(dmt_store_export(t->st, &g_lk, &from, feed, ctx, &err), 0);
    assert_int_equal(dmt_store_import_finish(im, &to, &err), 0);
    assert_memory_equal(&from, &to, sizeof(to));
    assert_int_equal(dmt_store_open(&other, &conf, &err), 0);
    for (int i = 0; i < M_SNAPS; i++)
        if (t->freeze_snaps[i].used)
            same_world(other, t->freeze_snaps[i].seq, t->freeze_snaps[i].w, true);
    same_world(other, DMT_LIVE, t->at_freeze, true);
    check(other);
    dmt_store_close(other);
    t->exports++;
}

static void event(struct test *t)
{
    uint32_t what = rnd(&t->r, 400);
    if (getenv("TRACE") && what < 37)
        print_message("-- event %u at %zu\n", what, t->n);
    if (what < 12) {
        freeze(t);
    } else if (what < 24) {
        if (t->frozen || rnd(&t->r, 2)) {
            if (!t->frozen)
                freeze(t);
            checkpoint(t);
        }
    } else if (what < 27) {
        if (rnd(&t->r, 2)) {
            struct dmt_err err = {0};
            assert_int_equal(dmt_store_reload(t->st, &err), 0);
            opened(t);
            t->frozen = false;
        } else {
            reopen(t);
        }
        t->reloads++;
        replay(t);
        compare(t, false);
    } else if (what < 30) {
        power_cut(t);
    } else if (what < 31) {
        move_by_stream(t);
    } else if (what < 37) {
        compare(t, false);
    }
}

static void test_begin(struct test *t, uint64_t seed)
{
    memset(t, 0, sizeof(*t));
    t->r.s = seed * 0x9e3779b97f4a7c15ull + 1;
    t->mine = seed % 2;
    strcpy(t->dir, "/var/tmp/dmt-store-model-XXXXXX");
    strcpy(t->dir2, "/var/tmp/dmt-store-model-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    assert_non_null(mkdtemp(t->dir2));
    t->conf = (struct dmt_store_conf){
        .io = dmt_io_real(), .clock = dmt_clock_real(), .dir = t->dir, .small_max = 16384};
    memset(t->id.lineage, 7, sizeof(t->id.lineage));
    strcpy(t->id.name, "model");
    struct dmt_err err = {0};
    assert_int_equal(dmt_store_create(&t->conf, &t->id, S_IFDIR | 0755, 0, 0, 5, &err), 0);
    /* From here on: the database writes past this disk, its durability is SQLite's. */
    t->fio = faultio_new(t->dir, seed);
    t->conf.io = faultio_io(t->fio);
    assert_int_equal(dmt_store_open(&t->st, &t->conf, &err), 0);
    opened(t);
    t->log = calloc(LOG_MAX, sizeof(*t->log));
    t->w = calloc(1, sizeof(*t->w));
    assert_true(t->log && t->w);
    t->w->next_ino = 3;
    /* Root and one directory below it; the first checkpoint has both. */
    struct dmt_inode root,
        sub = {.ino = 2, .mode = S_IFDIR | 0755, .nlink = 2, .next_cookie = 3, .parent = 1};
    OK(dmt_store_inode_get(t->st, DMT_LIVE, 1, &root));
    root.next_cookie = 4;
    OK(dmt_store_inode_put(t->st, &root));
    OK(dmt_store_inode_put(t->st, &sub));
    OK(dmt_store_dentry_put(t->st, 1, "sub", 3, 2, S_IFDIR, 3, 0));
    struct dmt_pos pos = {.epoch = 1};
    OK(dmt_store_freeze(t->st, &pos));
    assert_int_equal(dmt_store_checkpoint(t->st, &g_lk, &err), 0);
    t->w->f[0] = m_file_new();
    t->w->f[1] = m_file_new();
    t->w->f[0]->row = root;
    t->w->f[1]->row = sub;
    t->w->d[0] =
        (struct m_dent){.parent = 1, .ino = 2, .cookie = 3, .type = S_IFDIR, .name = M_NAMES};
}

static void remove_tree(const char *dir)
{
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    assert_int_equal(system(cmd), 0);
}

static void test_end(struct test *t)
{
    dmt_store_close(t->st);
    faultio_free(t->fio);
    remove_tree(t->dir);
    remove_tree(t->dir2);
    world_free(t->w);
    world_free(t->at_freeze);
    snaps_free(t->snaps);
    snaps_free(t->freeze_snaps);
    free(t->log);
}

static void run(uint64_t seed, int steps)
{
    static struct test t;
    print_message("SEED=%llu STEPS=%d\n", (unsigned long long)seed, steps);
    test_begin(&t, seed);
    for (int i = 0; i < steps; i++) {
        step(&t);
        event(&t);
    }
    compare(&t, false);
    print_message(
        "  %zu operations, %llu checkpoints, %llu failed, %llu reloads, %llu power cuts (%llu lost a tail), %llu streams\n",
        t.n, (unsigned long long)t.checkpoints, (unsigned long long)t.failed,
        (unsigned long long)t.reloads, (unsigned long long)t.cuts, (unsigned long long)t.lost,
        (unsigned long long)t.exports);
    test_end(&t);
}

static void random_operations(void **state)
{
    (void)state;
    const char *seed = getenv("SEED"), *steps = getenv("STEPS");
    int n = steps ? atoi(steps) : 1500;
    if (seed) {
        run(strtoull(seed, NULL, 10), n);
        return;
    }
    for (uint64_t s = 1; s <= 6; s++)
        run(s, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_operations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
