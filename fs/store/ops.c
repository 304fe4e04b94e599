/* ops.c: small changes as a log: meta values, snapshots, epochs, keeps, missing ranges.
 *
 * These tables are whole in memory and change seldom or in ones and twos, so they need no row
 * objects with states: each change appends an op, freeze moves the list to the batch, the
 * checkpointer runs it in order, and an error puts it back in front. A value that is set often (a
 * counter in meta) replaces its own op while that is still in the active list; a missing range that
 * comes and goes between two freezes cancels its own. Failure modes: SQLite errors at the
 * checkpoint. Thread: workspace lock; store_op_write: the checkpointer.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

#define OP_OF(l) DMT_CONTAINER((l), struct op, link)

struct op *store_op(struct dmt_store *st, enum op_kind kind)
{
    struct op *op = store_zalloc(sizeof(*op));
    op->kind = kind;
    dmt_list_add_tail(&st->ops, &op->link);
    st->op_n++;
    return op;
}

void store_op_free(struct op *op)
{
    dmt_list_del(&op->link);
    if (op->kind == OP_META) {
        free(op->key);
        store_chunk_unref(op->val);
    } else if (op->kind == OP_SNAP_PUT || op->kind == OP_SNAP_DEL) {
        free(op->snap);
    } else if (op->kind == OP_EPOCH) {
        free(op->epoch);
    }
    free(op);
}

void store_op_cancel(struct dmt_store *st, struct op *op)
{
    store_op_free(op);
    st->op_n--;
}

void store_ops_detach(struct dmt_store *st, struct dmt_list *to)
{
    dmt_list_init(to);
    DMT_LIST_EACH(l, tmp, &st->ops)
    {
        struct op *op = OP_OF(l);
        if (op->mrow)
            op->mrow->op = NULL;
        if (op->meta)
            op->meta->op = NULL;
        op->mrow = NULL;
        op->meta = NULL;
        dmt_list_del(l);
        dmt_list_add_tail(to, l);
    }
    st->op_n = 0;
}

/* After an error the frozen ops come before the ones made since. */
void store_ops_merge(struct dmt_store *st, struct dmt_list *from)
{
    while (!dmt_list_empty(from)) {
        struct dmt_list *l = from->prev;
        dmt_list_del(l);
        dmt_list_add_head(&st->ops, l);
        st->op_n++;
    }
}

int store_op_write(struct store_db *db, const struct op *op)
{
    const struct dmt_snapshot *s = op->snap;
    const struct dmt_epoch_row *e = op->epoch;
    switch (op->kind) {
    case OP_NONE:
        return 0;
    case OP_META:
        return store_exec(db, SQL_META_PUT, "tb", op->key, op->val->data, (size_t)op->val->used);
    case OP_SNAP_PUT:
        return store_exec(db, SQL_SNAP_PUT, "iiiitt", s->serial, s->seq, s->epoch, s->time_ns,
                          s->name, s->note);
    case OP_SNAP_DEL:
        return store_exec(db, SQL_SNAP_DEL, "t", s->name);
    case OP_EPOCH:
        return store_exec(db, SQL_EPOCH_PUT, "iiiiitt", e->epoch, e->parent, e->switch_seq,
                          e->switch_chain, e->time_ns, e->node, e->reason);
    case OP_KEEP_PUT:
        return store_exec(db, SQL_KEEP_PUT, "iiiii", op->keep.ino, op->keep.src, op->keep.view,
                          op->keep.size, op->keep.mtime);
    case OP_KEEP_DEL:
        return store_exec(db, SQL_KEEP_DEL, "iii", op->keep.ino, op->keep.src, op->keep.view);
    case OP_MISSING_PUT:
        return store_exec(db, SQL_MISSING_PUT, "iiiiiiiii", op->missing.ino, op->missing.off,
                          op->missing.seq, op->missing.len, op->missing.owner,
                          (uint64_t)op->missing.serial, op->missing.foff, op->missing.died,
                          (uint64_t)op->missing.flags);
    case OP_MISSING_DEL:
        return store_exec(db, SQL_MISSING_DEL, "iii", op->missing.ino, op->missing.off,
                          op->missing.seq);
    case OP_SHARE:
        return store_exec(db, SQL_EXTENT_H_SHARE, "ii", op->share.ino, op->share.view);
    case OP_FILE:
        return store_exec(db, SQL_DATAFILE_PUT, "iii", op->file.ino, (uint64_t)op->file.serial,
                          op->file.hwm);
    }
    return -EINVAL;
}

/* --- meta */

static struct meta *meta_find(struct dmt_store *st, const char *key)
{
    struct meta *m = st->metas;
    while (m && strcmp(m->key, key) != 0)
        m = m->next;
    return m;
}

static struct meta *meta_new(struct dmt_store *st, const char *key)
{
    struct meta *m = store_zalloc(sizeof(*m) + strlen(key) + 1);
    memcpy(m->key, key, strlen(key) + 1);
    m->next = st->metas;
    st->metas = m;
    return m;
}

int dmt_store_meta_put(struct dmt_store *st, const char *key, const void *val, size_t len)
{
    if (len > DMT_XATTR_VALUE_MAX || !*key)
        return -EINVAL;
    struct meta *m = meta_find(st, key);
    if (!m)
        m = meta_new(st, key);
    if (m->op && m->val->used == len &&
        len) { /* the usual counter: the op's value is only ours and changes in place */
        memcpy(m->val->data, val, len);
        return 0;
    }
    store_chunk_unref(m->val);
    m->val = store_chunk_from(val, (uint32_t)len);
    if (!m->op) {
        m->op = store_op(st, OP_META);
        m->op->meta = m;
        m->op->key = store_alloc(strlen(key) + 1);
        memcpy(m->op->key, key, strlen(key) + 1);
    } else {
        store_chunk_unref(m->op->val);
    }
    m->op->val = store_chunk_ref(m->val);
    return 0;
}

int dmt_store_meta_get(struct dmt_store *st, const char *key, void **ret, size_t *ret_len)
{
    struct meta *m = meta_find(st, key);
    if (!m)
        return -ENOENT;
    char *copy = malloc(m->val->used + 1u);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, m->val->data, m->val->used);
    copy[m->val->used] = '\0';
    *ret = copy;
    *ret_len = m->val->used;
    return 0;
}

int dmt_store_meta_u64(struct dmt_store *st, const char *key, uint64_t dflt, uint64_t *ret)
{
    struct meta *m = meta_find(st, key);
    *ret = dflt;
    if (!m)
        return 0;
    if (m->val->used != 8)
        return DMT_E_CORRUPT;
    *ret = dmt_le64(m->val->data);
    return 0;
}

int dmt_store_meta_put_u64(struct dmt_store *st, const char *key, uint64_t v)
{
    return dmt_store_meta_put(st, key, &v, sizeof(v));
}

/* Values of the store itself start with a dot and are integers; the others belong to the
 * callers. */
int store_meta_load(struct dmt_store *st, struct store_db *db)
{
    sqlite3_stmt *s;
    int r = store_sql(db, SQL_META_ALL, &s, "");
    while (r == 0 && (r = store_sql_step(db, s)) > 0) {
        const char *key = (const char *)sqlite3_column_text(s, 0);
        r = 0;
        if (key[0] == '.')
            continue;
        struct meta *m = meta_new(st, key);
        m->val = store_chunk_from(sqlite3_column_blob(s, 1), (uint32_t)sqlite3_column_bytes(s, 1));
    }
    return r;
}

void store_meta_free(struct dmt_store *st)
{
    while (st->metas) {
        struct meta *m = st->metas;
        st->metas = m->next;
        store_chunk_unref(m->val);
        free(m);
    }
}

int store_db_meta_u64(struct store_db *db, const char *key, uint64_t *ret)
{
    sqlite3_stmt *s;
    int r = store_sql(db, SQL_META_GET, &s, "t", key);
    if (r == 0 && (r = store_sql_step(db, s)) > 0) {
        *ret = store_col(s, 0);
        store_sql_done(s);
        return 1;
    }
    return r;
}

int store_db_meta_put_u64(struct store_db *db, const char *key, uint64_t v)
{
    /* as an SQL integer: a person can read it */
    return store_exec(db, SQL_META_PUT, "ti", key, v);
}
