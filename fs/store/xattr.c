/* xattr.c: extended attributes. All of an inode are loaded at the first use of one: there are few.
 *
 * Happy path: a value is a shared immutable chunk; a put swaps the pointer, so the frozen batch and
 * history rows hold the old one without a copy. A removed attribute stays in the list without a
 * value until the commit that removes its row. Failure modes: SQLite errors while loading. Thread:
 * workspace lock.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/store/internal.h"

static struct xattr *find(struct node *n, const char *name, size_t len)
{
    struct xattr *x = n->xattrs;
    while (x && (strlen(x->name) != len || memcmp(x->name, name, len) != 0))
        x = x->next;
    return x;
}

static struct xattr *add(struct node *n, const char *name, size_t len)
{
    struct xattr *x = store_zalloc(sizeof(*x) + len + 1);
    memcpy(x->name, name, len);
    x->next = n->xattrs;
    n->xattrs = x;
    return x;
}

int store_xattrs_load(struct dmt_store *st, struct node *n)
{
    if (n->xattrs_loaded)
        return 0;
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_XATTR_OF, &s, "i", n->ino);
    while (r == 0 && (r = store_sql_step(&st->rd, s)) > 0) {
        struct xattr *x = add(n, sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0));
        x->value =
            store_chunk_from(sqlite3_column_blob(s, 1), (uint32_t)sqlite3_column_bytes(s, 1));
        x->born = store_col(s, 2);
        x->disk = true;
        r = 0;
    }
    if (r < 0)
        store_xattrs_free(n);
    n->xattrs_loaded = r == 0;
    return r;
}

static void xhist_free(struct xhist *h)
{
    while (h) {
        struct xhist *next = h->next;
        store_chunk_unref(h->value);
        free(h);
        h = next;
    }
}

void store_xattrs_free(struct node *n)
{
    while (n->xattrs) {
        struct xattr *x = n->xattrs;
        n->xattrs = x->next;
        store_chunk_unref(x->value);
        xhist_free(x->hist[ACTIVE]);
        xhist_free(x->hist[FROZEN]);
        free(x);
    }
    n->xattrs_loaded = false;
}

/* Gives x the value (a reference is taken over; NULL = removed) and keeps the old one if a
 * pinned position shows it. */
static void change(struct dmt_store *st, struct node *n, struct xattr *x, struct chunk *value,
                   uint64_t seq)
{
    if (x->value && store_needed(st, x->born, seq)) {
        struct xhist *h = store_alloc(sizeof(*h));
        *h = (struct xhist){
            .next = x->hist[ACTIVE], .value = x->value, .born = x->born, .died = seq};
        x->hist[ACTIVE] = h;
        store_node_dirty(st, n, NODE_HIST);
    } else {
        store_chunk_unref(x->value);
    }
    x->value = value;
    x->born = seq;
    x->dirty = true;
    store_node_dirty(st, n, NODE_XATTR);
}

int store_xattrs_delete(struct dmt_store *st, struct node *n, uint64_t seq)
{
    int r = (n->row.flags & DMT_INO_XATTR) || n->xattrs ? store_xattrs_load(st, n) : 0;
    for (struct xattr *x = n->xattrs; r == 0 && x; x = x->next)
        if (x->value)
            change(st, n, x, NULL, seq);
    return r;
}

static int lookup(struct dmt_store *st, uint64_t ino, const char *name, struct node **ret_n,
                  struct xattr **ret)
{
    int r = store_node(st, ino, ret_n);
    if (r == 0)
        r = store_xattrs_load(st, *ret_n);
    if (r < 0)
        return r;
    *ret = find(*ret_n, name, strlen(name));
    return 0;
}

static int answer(const void *val, size_t len, void *buf, size_t size, size_t *ret_len)
{
    *ret_len = len;
    if (size == 0)
        return 0;
    if (size < len)
        return -ERANGE;
    if (len)
        memcpy(buf, val, len);
    return 0;
}

struct want { /* one attribute out of a walk */
    const char *name;
    void *buf;
    size_t size, *ret_len;
    int result;
};

static int pick(void *ctx, const char *name, const void *val, size_t len)
{
    struct want *w = ctx;
    if (strcmp(name, w->name) != 0)
        return 0;
    w->result = answer(val, len, w->buf, w->size, w->ret_len);
    return 1;
}

int dmt_store_xattr_get(struct dmt_store *st, uint64_t view, uint64_t ino, const char *name,
                        void *buf, size_t size, size_t *ret_len)
{
    if (view != DMT_LIVE) {
        struct want w = {
            .name = name, .buf = buf, .size = size, .ret_len = ret_len, .result = -ENODATA};
        int r = dmt_store_xattr_each(st, view, ino, pick, &w);
        return r < 0 ? r : w.result;
    }
    struct node *n;
    struct xattr *x;
    int r = lookup(st, ino, name, &n, &x);
    if (r < 0)
        return r;
    return x && x->value ? answer(x->value->data, x->value->used, buf, size, ret_len) : -ENODATA;
}

int dmt_store_xattr_put(struct dmt_store *st, uint64_t ino, const char *name, const void *val,
                        size_t len, uint64_t seq)
{
    if (len > DMT_XATTR_VALUE_MAX || strlen(name) > DMT_XATTR_NAME_MAX)
        return -ERANGE;
    struct node *n;
    struct xattr *x;
    int r = lookup(st, ino, name, &n, &x);
    if (r < 0)
        return r;
    if (!x)
        x = add(n, name, strlen(name));
    change(st, n, x, store_chunk_from(val, (uint32_t)len), seq);
    return 0;
}

int dmt_store_xattr_del(struct dmt_store *st, uint64_t ino, const char *name, uint64_t seq)
{
    struct node *n;
    struct xattr *x;
    int r = lookup(st, ino, name, &n, &x);
    if (r < 0)
        return r;
    if (!x || !x->value)
        return -ENODATA;
    change(st, n, x, NULL, seq);
    return 0;
}

/* History rows in SQLite that a view shows; names that memory has answered already are skipped. */
static int each_from_history(struct dmt_store *st, uint64_t view, struct node *n, dmt_xattr_fn fn,
                             void *ctx)
{
    sqlite3_stmt *s;
    int r = store_sql(&st->rd, SQL_XATTR_H_AT, &s, "ii", n->ino, view);
    struct dmt_buf names, values;
    dmt_buf_init(&names);
    dmt_buf_init(&values);
    /* Copied out first: fn may use the same statement. */
    while (r == 0 && (r = store_sql_step(&st->rd, s)) > 0) {
        dmt_put_bytes(&names, sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0));
        dmt_put_bytes(&values, sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1));
        r = 0;
    }
    struct dmt_cur cn = dmt_cur_of(names.p, names.len), cv = dmt_cur_of(values.p, values.len);
    while (r == 0 && cn.p < cn.end) {
        char name[DMT_XATTR_NAME_MAX + 1];
        uint32_t len;
        dmt_get_str(&cn, name, sizeof(name));
        const uint8_t *val = dmt_get_bytes(&cv, &len);
        struct xattr *x = find(n, name, strlen(name));
        bool seen = x && x->value && x->born <= view;
        for (int half = 0; x && half < 2; half++)
            for (struct xhist *h = x->hist[half]; h; h = h->next)
                seen |= h->born <= view && view < h->died;
        if (!seen)
            r = fn(ctx, name, val, len);
    }
    dmt_buf_free(&names);
    dmt_buf_free(&values);
    return r;
}

int dmt_store_xattr_each(struct dmt_store *st, uint64_t view, uint64_t ino, dmt_xattr_fn fn,
                         void *ctx)
{
    struct node *n = NULL;
    int r = store_node(st, ino, &n);
    if (r == 0)
        r = store_xattrs_load(st, n);
    for (struct xattr *x = r == 0 ? n->xattrs : NULL; r == 0 && x; x = x->next) {
        if (x->value && (view == DMT_LIVE || x->born <= view)) {
            r = fn(ctx, x->name, x->value->data, x->value->used);
            continue;
        }
        for (int half = 0; view != DMT_LIVE && r == 0 && half < 2; half++)
            for (struct xhist *h = x->hist[half]; r == 0 && h; h = h->next)
                if (h->born <= view && view < h->died)
                    r = fn(ctx, x->name, h->value->data, h->value->used);
    }
    if (r == 0 && view != DMT_LIVE)
        r = each_from_history(st, view, n, fn, ctx);
    return r;
}
