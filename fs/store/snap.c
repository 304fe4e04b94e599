/* snap.c: snapshots and epochs. A snapshot is a name for a position; having it pins the position
 * (history.c).
 *
 * Both tables are whole in memory, snapshots ordered by the position they show. Deleting one frees
 * nothing at once: it only asks for a sweep through history by the next checkpoints. Failure modes:
 * none but -EEXIST and -ENOENT. Thread: workspace lock; dmt_store_changed has a connection of its
 * own and takes no lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

static struct dmt_snapshot *by_name(struct dmt_store *st, const char *name)
{
    for (size_t i = 0; i < st->snap_n; i++)
        if (strcmp(st->snaps[i].name, name) == 0)
            return &st->snaps[i];
    return NULL;
}

static void insert(struct dmt_store *st, const struct dmt_snapshot *s)
{
    if (st->snap_n == st->snap_cap) {
        st->snap_cap = st->snap_cap ? st->snap_cap * 2 : 16;
        st->snaps = realloc(st->snaps, st->snap_cap * sizeof(*st->snaps));
        DMT_ASSERT(st->snaps);
    }
    size_t i = st->snap_n;
    while (i && (st->snaps[i - 1].seq > s->seq ||
                 (st->snaps[i - 1].seq == s->seq && st->snaps[i - 1].serial > s->serial)))
        i--;
    memmove(st->snaps + i + 1, st->snaps + i, (st->snap_n - i) * sizeof(*s));
    st->snaps[i] = *s;
    st->snap_n++;
    store_pins_add(&st->pins, s->seq);
}

static struct dmt_snapshot *copy_of(const struct dmt_snapshot *s)
{
    struct dmt_snapshot *c = store_alloc(sizeof(*c));
    *c = *s;
    return c;
}

int dmt_store_snap_put(struct dmt_store *st, const struct dmt_snapshot *s)
{
    if (by_name(st, s->name))
        return -EEXIST;
    insert(st, s);
    store_op(st, OP_SNAP_PUT)->snap = copy_of(s);
    return 0;
}

int dmt_store_snap_del(struct dmt_store *st, const char *name)
{
    struct dmt_snapshot *s = by_name(st, name);
    if (!s)
        return -ENOENT;
    store_op(st, OP_SNAP_DEL)->snap = copy_of(s);
    store_pins_del(&st->pins, s->seq);
    st->snap_n--;
    memmove(s, s + 1, (size_t)(st->snaps + st->snap_n - s) * sizeof(*s));
    store_views_drop(st);
    st->sweep_wanted = true;
    return 0;
}

int dmt_store_snap_get(struct dmt_store *st, const char *name, struct dmt_snapshot *ret)
{
    struct dmt_snapshot *s = by_name(st, name);
    if (!s)
        return -ENOENT;
    *ret = *s;
    return 0;
}

int dmt_store_snap_by_serial(struct dmt_store *st, uint64_t serial, struct dmt_snapshot *ret)
{
    for (size_t i = 0; i < st->snap_n; i++)
        if (st->snaps[i].serial == serial) {
            *ret = st->snaps[i];
            return 0;
        }
    return -ENOENT;
}

int dmt_store_snap_each(struct dmt_store *st, int (*fn)(void *ctx, const struct dmt_snapshot *s),
                        void *ctx)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < st->snap_n; i++)
        r = fn(ctx, &st->snaps[i]);
    return r;
}

static void epoch_insert(struct dmt_store *st, const struct dmt_epoch_row *e)
{
    size_t i = st->epoch_n;
    while (i && st->epochs[i - 1].epoch >= e->epoch)
        i--;
    bool same = i < st->epoch_n && st->epochs[i].epoch == e->epoch;
    if (!same) {
        if (st->epoch_n == st->epoch_cap) {
            st->epoch_cap = st->epoch_cap ? st->epoch_cap * 2 : 16;
            st->epochs = realloc(st->epochs, st->epoch_cap * sizeof(*st->epochs));
            DMT_ASSERT(st->epochs);
        }
        memmove(st->epochs + i + 1, st->epochs + i, (st->epoch_n - i) * sizeof(*e));
        st->epoch_n++;
    }
    st->epochs[i] = *e;
}

int dmt_store_epoch_put(struct dmt_store *st, const struct dmt_epoch_row *e)
{
    epoch_insert(st, e);
    struct op *op = store_op(st, OP_EPOCH);
    op->epoch = store_alloc(sizeof(*e));
    *op->epoch = *e;
    return 0;
}

int dmt_store_epoch_each(struct dmt_store *st, int (*fn)(void *ctx, const struct dmt_epoch_row *e),
                         void *ctx)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < st->epoch_n; i++)
        r = fn(ctx, &st->epochs[i]);
    return r;
}

static void copy_text(char *dst, size_t size, sqlite3_stmt *s, int col)
{
    const char *text = (const char *)sqlite3_column_text(s, col);
    size_t n = text ? strnlen(text, size - 1) : 0;
    if (n)
        memcpy(dst, text, n);
    dst[n] = '\0';
}

int store_snap_load(struct dmt_store *st)
{
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_SNAP_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(&st->rd, s)) > 0) {
        struct dmt_snapshot snap = {.serial = store_col(s, 0),
                                    .seq = store_col(s, 1),
                                    .epoch = store_col(s, 2),
                                    .time_ns = store_col(s, 3)};
        copy_text(snap.name, sizeof(snap.name), s, 4);
        copy_text(snap.note, sizeof(snap.note), s, 5);
        insert(st, &snap);
        r = 0;
    }
    if (r == 0)
        r = store_sql(&st->rd, SQL_EPOCH_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(&st->rd, s)) > 0) {
        struct dmt_epoch_row e = {.epoch = store_col(s, 0),
                                  .parent = store_col(s, 1),
                                  .switch_seq = store_col(s, 2),
                                  .switch_chain = store_col(s, 3),
                                  .time_ns = store_col(s, 4)};
        copy_text(e.node, sizeof(e.node), s, 5);
        copy_text(e.reason, sizeof(e.reason), s, 6);
        epoch_insert(st, &e);
        r = 0;
    }
    return r;
}

int dmt_store_changed(struct dmt_store *st, uint64_t a, uint64_t b,
                      int (*fn)(void *ctx, uint64_t ino), void *ctx)
{
    struct store_db db;
    int r = store_db_open(&db, st->dir, STORE_DB_READ, NULL);
    if (r < 0)
        return r;
    sqlite3_stmt *s;
    r = store_sql(&db, SQL_INODE_CHANGED, &s, "ii", a, b > INT64_MAX ? (uint64_t)INT64_MAX : b);
    while (r == 0 && (r = store_sql_step(&db, s)) > 0)
        r = fn(ctx, store_col(s, 0));
    store_db_close(&db);
    return r;
}
