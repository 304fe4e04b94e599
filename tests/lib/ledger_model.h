/* ledger_model.h: what one client of the ledger does, and what its directory looks like after each
 * step.
 *
 * Owns a small in-memory tree. model_next() decides operation k from (seed, client, k) and the tree
 * as it is, and applies it to the tree; nothing else goes in, so writer and judge, years apart, get
 * the same sequence. Every operation is exactly one mutating system call, because a crash may fall
 * between any two; a write may fall apart at a page boundary (torn_k). Bytes say who wrote them:
 * 16-byte cells "CCKKKKKK:OOOOOO\n" of client, operation and cell number in the file.
 *
 * Small files (names f.. l..) stay below FILE_MAX, so that they never travel as bulk data. Bulk
 * files (names B..) are written in chunks by a job that takes turns with the small operations: new,
 * truncate and rewrite, overwrite in place, write aside and rename over, unlink. Of a bulk file the
 * tree knows name, mode and links as of any other, and its contents as a list of events from which
 * each version it ever had can be computed. Included by tests/lib/bin/ledger.c only. A model
 * belongs to one thread. */
#ifndef DMT_TESTS_LEDGER_MODEL_H
#define DMT_TESTS_LEDGER_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/base/log.h"

#define CELL        16u
#define ENTRIES_MAX 64
#define LIVE_MAX    44
#define DIRS_MAX    8
#define WRITE_MAX   12288u
#define FILE_MAX    49152u
#define CHUNK       131072u
#define BULK_MAX    (256u << 20)
#define BULK_LIVE   3
#define XATTRS      3
#define PATH_LEN    512
#define K_MAX       0xffffffu

enum op_kind {
    OP_CREATE,
    OP_WRITE,
    OP_TRUNCATE,
    OP_RENAME,
    OP_EXCHANGE,
    OP_MKDIR,
    OP_RMDIR,
    OP_UNLINK,
    OP_LINK,
    OP_SYMLINK,
    OP_SETXATTR,
    OP_REMOVEXATTR,
    OP_CHMOD,
};

struct op {
    enum op_kind kind;
    uint32_t k;
    char path[PATH_LEN], path2[PATH_LEN]; /* path2: new name, or a symlink's target */
    unsigned mode;
    uint64_t off; /* or the size for OP_TRUNCATE */
    size_t len;
    char name[24], value[32]; /* of an xattr */
    bool bulk;                /* concerns a bulk file */
};

/* The contents of a bulk inode over time. Event: chunk c was written by operation k, or (c = -1)
 * truncated to 0. */
struct bulk {
    struct bulk *next; /* all of a model */
    struct event {
        uint32_t k;
        int chunk;
    } * events;
    int n, cap;
    struct bulk *replaced; /* what stood under the name this one was renamed to, or NULL */
    int replaced_n, own_n; /* events of that one, and of this one, at that time */
    int synced_n; /* judge: events covered by an acknowledged fsync of this file; -1 = none */
};

struct inode {
    char type; /* 'f', 'd', 'l', 'b' (bulk file), 0 = free */
    unsigned mode, nlink;
    uint32_t size;
    uint8_t *data;
    uint64_t data_hash;
    bool hashed; /* data_hash is of data */
    char xattr[XATTRS][32];
    struct bulk *bulk;
};

struct entry {
    bool used;
    int parent; /* entry of the directory; entry 0 is the root */
    int inode;
    char name[24];
};

struct model {
    uint64_t seed;
    unsigned client;
    uint32_t k; /* operations so far */
    uint32_t size_max;
    uint32_t torn_k, torn_len; /* the write of this operation ends after so many bytes; 0: none */
    uint64_t bulk_bytes;
    struct entry e[ENTRIES_MAX];
    struct inode i[ENTRIES_MAX];
    int fresh; /* entry created by the last operation, which the next one writes; or -1 */
    struct bulk *bulks;
    /* The bulk job: entry that is written, next chunk, and the entry it will replace or -1. */
    int job_entry, job_target;
    int job_chunk;
    bool job_renames;
    /* Set by model_next(): the writer may fsync this bulk entry now; -1 otherwise. */
    int bulk_sync;
    uint64_t rng;
};

/* --- random numbers and bytes --- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* [0, n) */
static uint32_t draw(struct model *m, uint32_t n)
{
    m->rng = mix(m->rng);
    return (uint32_t)((m->rng >> 32) % n);
}

static void put_hex(uint8_t *p, uint32_t v, int digits)
{
    for (int i = digits - 1; i >= 0; i--, v >>= 4)
        p[i] = (uint8_t) "0123456789abcdef"[v & 15];
}

/* The bytes that operation k of a client writes at [off, off + len). */
static void fill(unsigned client, uint32_t k, uint64_t off, uint8_t *p, size_t len)
{
    uint8_t cell[CELL];
    put_hex(cell, client, 2);
    put_hex(cell + 2, k, 6);
    cell[8] = ':';
    cell[15] = '\n';
    for (size_t done = 0; done < len;) {
        uint64_t at = off + done;
        size_t skip = (size_t)(at % CELL), n = CELL - skip;
        if (n > len - done)
            n = len - done;
        put_hex(cell + 9, (uint32_t)(at / CELL), 6);
        memcpy(p + done, cell + skip, n);
        done += n;
    }
}

/* --- the tree --- */

static void model_init(struct model *m, uint64_t seed, unsigned client, uint32_t size_max,
                       uint64_t bulk_bytes)
{
    *m = (struct model){
        .seed = seed, .client = client, .size_max = size_max, .bulk_bytes = bulk_bytes};
    m->fresh = m->job_entry = m->job_target = m->bulk_sync = -1;
    m->e[0].used = true;
    m->i[0].type = 'd';
    m->i[0].nlink = 1;
}

static void model_free(struct model *m)
{
    for (int i = 0; i < ENTRIES_MAX; i++)
        free(m->i[i].data);
    for (struct bulk *b = m->bulks, *next; b; b = next) {
        next = b->next;
        free(b->events);
        free(b);
    }
}

static struct inode *inode_of(struct model *m, int e)
{
    return &m->i[m->e[e].inode];
}

static void path_of(const struct model *m, int e, char *ret)
{
    const char *parts[ENTRIES_MAX];
    int n = 0;
    for (; e != 0; e = m->e[e].parent)
        parts[n++] = m->e[e].name;
    size_t used = 0;
    while (n > 0) {
        size_t len = strlen(parts[--n]);
        DMT_ASSERT(used + len + 2 < PATH_LEN);
        memcpy(ret + used, parts[n], len);
        used += len;
        if (n > 0)
            ret[used++] = '/';
    }
    ret[used] = '\0';
}

static int depth_of(const struct model *m, int e)
{
    int d = 0;
    for (; e != 0; e = m->e[e].parent)
        d++;
    return d;
}

static bool is_below(const struct model *m, int e, int dir)
{
    for (;; e = m->e[e].parent) {
        if (e == dir)
            return true;
        if (e == 0)
            return false;
    }
}

static int count_type(const struct model *m, char type)
{
    int n = 0;
    for (int e = 1; e < ENTRIES_MAX; e++)
        n += m->e[e].used && (!type || m->i[m->e[e].inode].type == type);
    return n;
}

/* A random entry of one of the types (a string), or -1. The root is never one. */
static int pick(struct model *m, const char *types)
{
    int found[ENTRIES_MAX], n = 0;
    for (int e = 1; e < ENTRIES_MAX; e++)
        if (m->e[e].used && strchr(types, inode_of(m, e)->type))
            found[n++] = e;
    return n > 0 ? found[draw(m, (uint32_t)n)] : -1;
}

/* A random directory, the root included. */
static int pick_dir(struct model *m)
{
    uint32_t n = (uint32_t)count_type(m, 'd');
    uint32_t at = draw(m, n + 1);
    for (int e = 1; e < ENTRIES_MAX && at > 0; e++)
        if (m->e[e].used && inode_of(m, e)->type == 'd' && --at == 0)
            return e;
    return 0;
}

static int add_entry(struct model *m, int parent, int inode, char letter, uint32_t k)
{
    for (int e = 1; e < ENTRIES_MAX; e++) {
        if (m->e[e].used)
            continue;
        m->e[e] = (struct entry){.used = true, .parent = parent, .inode = inode};
        (void)snprintf(m->e[e].name, sizeof(m->e[e].name), "%c%u", letter, k);
        m->i[inode].nlink++;
        return e;
    }
    DMT_ASSERT(!"too many entries");
    return -1;
}

static int new_inode(struct model *m, char type, unsigned mode)
{
    for (int i = 1; i < ENTRIES_MAX; i++) {
        if (m->i[i].type)
            continue;
        free(m->i[i].data);
        m->i[i] = (struct inode){.type = type, .mode = mode};
        return i;
    }
    DMT_ASSERT(!"too many inodes");
    return -1;
}

static void drop_entry(struct model *m, int e)
{
    struct inode *in = inode_of(m, e);
    m->e[e].used = false;
    if (--in->nlink == 0) {
        free(in->data);
        *in = (struct inode){0};
    }
}

static void resize(struct inode *in, uint32_t size)
{
    in->hashed = false;
    uint8_t *p = realloc(in->data, size ? size : 1);
    DMT_ASSERT(p);
    if (size > in->size)
        memset(p + in->size, 0, size - in->size);
    in->data = p;
    in->size = size;
}

/* --- small operations: each fills op and changes the tree, or returns false when there is nothing
 * to do it to --- */

static bool do_create(struct model *m, struct op *op)
{
    static const unsigned modes[] = {0644, 0644, 0600, 0755};
    op->kind = OP_CREATE;
    op->mode = modes[draw(m, 4)];
    int e = add_entry(m, pick_dir(m), new_inode(m, 'f', op->mode), 'f', op->k);
    path_of(m, e, op->path);
    if (draw(m, 4) > 0)
        m->fresh = e;
    return true;
}

static bool write_to(struct model *m, struct op *op, int e)
{
    struct inode *in = inode_of(m, e);
    op->kind = OP_WRITE;
    op->len = 1 + draw(m, m->size_max);
    op->off = draw(m, 10) < 6 ? in->size : draw(m, in->size + 1);
    if (op->off + op->len > FILE_MAX)
        op->off = draw(m, FILE_MAX - (uint32_t)op->len);
    if (op->off > in->size)
        op->off = in->size;
    if (op->k == m->torn_k)
        op->len = m->torn_len;
    if (op->off + op->len > in->size)
        resize(in, (uint32_t)(op->off + op->len));
    in->hashed = false;
    fill(m->client, op->k, op->off, in->data + op->off, op->len);
    path_of(m, e, op->path);
    return true;
}

static bool do_write(struct model *m, struct op *op)
{
    int e = pick(m, "f");
    return e >= 0 && write_to(m, op, e);
}

static bool do_truncate(struct model *m, struct op *op)
{
    int e = pick(m, "f");
    if (e < 0)
        return false;
    struct inode *in = inode_of(m, e);
    op->kind = OP_TRUNCATE;
    op->off = draw(m, 4) == 0 ? 0 : draw(m, in->size + m->size_max);
    if (op->off > FILE_MAX)
        op->off = FILE_MAX;
    resize(in, (uint32_t)op->off);
    path_of(m, e, op->path);
    return true;
}

static bool do_exchange(struct model *m, struct op *op, int a, int b)
{
    op->kind = OP_EXCHANGE;
    path_of(m, a, op->path);
    path_of(m, b, op->path2);
    int i = m->e[a].inode;
    m->e[a].inode = m->e[b].inode;
    m->e[b].inode = i;
    return true;
}

static bool do_rename(struct model *m, struct op *op)
{
    int from = pick(m, "fl"), onto = pick(m, "fl");
    if (from < 0)
        return false;
    op->kind = OP_RENAME;
    /* Two names of one inode: rename would do nothing. */
    bool can_replace = m->e[from].inode != m->e[onto].inode;
    if (can_replace && draw(m, 8) == 0)
        return do_exchange(m, op, from, onto);
    path_of(m, from, op->path);
    if (can_replace && draw(m, 2) == 0) {
        path_of(m, onto, op->path2);
        m->e[from].parent = m->e[onto].parent;
        memcpy(m->e[from].name, m->e[onto].name, sizeof(m->e[from].name));
        drop_entry(m, onto);
        return true;
    }
    m->e[from].parent = pick_dir(m);
    (void)snprintf(m->e[from].name, sizeof(m->e[from].name), "r%u", op->k);
    path_of(m, from, op->path2);
    return true;
}

static bool do_rename_dir(struct model *m, struct op *op)
{
    int dir = pick(m, "d"), to = pick_dir(m);
    if (dir < 0 || is_below(m, to, dir))
        return false;
    op->kind = OP_RENAME;
    path_of(m, dir, op->path);
    m->e[dir].parent = to;
    (void)snprintf(m->e[dir].name, sizeof(m->e[dir].name), "d%u", op->k);
    path_of(m, dir, op->path2);
    return true;
}

static bool do_mkdir(struct model *m, struct op *op)
{
    int to = pick_dir(m);
    if (count_type(m, 'd') >= DIRS_MAX || depth_of(m, to) > 4)
        return false;
    op->kind = OP_MKDIR;
    op->mode = draw(m, 2) ? 0755 : 0700;
    path_of(m, add_entry(m, to, new_inode(m, 'd', op->mode), 'd', op->k), op->path);
    return true;
}

static bool do_rmdir(struct model *m, struct op *op)
{
    int dir = pick(m, "d");
    for (int e = 1; dir >= 0 && e < ENTRIES_MAX; e++)
        if (m->e[e].used && m->e[e].parent == dir)
            return false;
    if (dir < 0)
        return false;
    op->kind = OP_RMDIR;
    path_of(m, dir, op->path);
    drop_entry(m, dir);
    return true;
}

static bool do_unlink(struct model *m, struct op *op)
{
    int e = pick(m, "fl");
    if (e < 0)
        return false;
    op->kind = OP_UNLINK;
    path_of(m, e, op->path);
    drop_entry(m, e);
    return true;
}

static bool do_link(struct model *m, struct op *op)
{
    int e = pick(m, "f");
    if (e < 0)
        return false;
    op->kind = OP_LINK;
    path_of(m, e, op->path);
    path_of(m, add_entry(m, pick_dir(m), m->e[e].inode, 'l', op->k), op->path2);
    return true;
}

static bool do_symlink(struct model *m, struct op *op)
{
    op->kind = OP_SYMLINK;
    int i = new_inode(m, 'l', 0777);
    int n = snprintf(op->path2, sizeof(op->path2), "target/of/client%u/op%u", m->client, op->k);
    resize(&m->i[i], (uint32_t)n);
    memcpy(m->i[i].data, op->path2, (size_t)n);
    path_of(m, add_entry(m, pick_dir(m), i, 's', op->k), op->path);
    return true;
}

static bool do_xattr(struct model *m, struct op *op)
{
    int e = pick(m, "fd"), x = (int)draw(m, XATTRS);
    if (e < 0)
        return false;
    char *value = inode_of(m, e)->xattr[x];
    bool remove = value[0] && draw(m, 3) == 0;
    op->kind = remove ? OP_REMOVEXATTR : OP_SETXATTR;
    (void)snprintf(op->name, sizeof(op->name), "user.ledger%d", x);
    (void)snprintf(op->value, sizeof(op->value), "client %u op %u", m->client, op->k);
    if (remove)
        value[0] = '\0';
    else
        memcpy(value, op->value, sizeof(op->value));
    path_of(m, e, op->path);
    return true;
}

static bool do_chmod(struct model *m, struct op *op)
{
    int e = pick(m, "fd");
    if (e < 0)
        return false;
    op->kind = OP_CHMOD;
    op->mode = 0700 | draw(m, 0100);
    inode_of(m, e)->mode = op->mode;
    path_of(m, e, op->path);
    return true;
}

static bool small_op(struct model *m, struct op *op)
{
    if (m->fresh >= 0) {
        int e = m->fresh;
        m->fresh = -1;
        return write_to(m, op, e);
    }
    if (count_type(m, 0) >= LIVE_MAX)
        return do_unlink(m, op) || do_rmdir(m, op);
    static const struct {
        uint32_t below;
        bool (*fn)(struct model *m, struct op *op);
    } mixture[] = {
        {22, do_create},     {50, do_write},   {56, do_truncate}, {70, do_rename},
        {74, do_rename_dir}, {80, do_mkdir},   {83, do_rmdir},    {89, do_unlink},
        {92, do_link},       {94, do_symlink}, {97, do_xattr},    {100, do_chmod},
    };
    for (int tries = 0; tries < 4; tries++) {
        uint32_t r = draw(m, 100);
        size_t at = 0;
        while (r >= mixture[at].below)
            at++;
        if (mixture[at].fn(m, op))
            return true;
    }
    return do_create(m, op);
}

/* --- bulk job --- */

static int bulk_chunks(const struct model *m)
{
    return (int)((m->bulk_bytes + CHUNK - 1) / CHUNK);
}

static size_t chunk_len(const struct model *m, int chunk)
{
    uint64_t left = m->bulk_bytes - (uint64_t)chunk * CHUNK;
    return left < CHUNK ? (size_t)left : CHUNK;
}

static void bulk_event(struct model *m, int e, uint32_t k, int chunk)
{
    struct bulk *b = inode_of(m, e)->bulk;
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->events = reallocarray(b->events, (size_t)b->cap, sizeof(*b->events));
        DMT_ASSERT(b->events);
    }
    b->events[b->n++] = (struct event){k, chunk};
}

static void bulk_create(struct model *m, struct op *op)
{
    op->kind = OP_CREATE;
    op->mode = 0644;
    int i = new_inode(m, 'b', op->mode);
    struct bulk *b = calloc(1, sizeof(*b));
    DMT_ASSERT(b);
    b->synced_n = -1;
    b->next = m->bulks;
    m->bulks = m->i[i].bulk = b;
    m->job_entry = add_entry(m, pick_dir(m), i, 'B', op->k);
    m->job_chunk = 0;
    path_of(m, m->job_entry, op->path);
}

static void bulk_write(struct model *m, struct op *op)
{
    op->kind = OP_WRITE;
    op->off = (uint64_t)m->job_chunk * CHUNK;
    op->len = chunk_len(m, m->job_chunk);
    bulk_event(m, m->job_entry, op->k, m->job_chunk);
    path_of(m, m->job_entry, op->path);
    m->job_chunk++;
    if (m->job_chunk < bulk_chunks(m))
        return;
    if (draw(m, 2))
        m->bulk_sync = m->job_entry;
    if (!m->job_renames)
        m->job_entry = -1;
}

/* The file written aside takes the place of its target, and remembers what stood there. */
static void bulk_replace(struct model *m, struct op *op)
{
    int from = m->job_entry, onto = m->job_target;
    op->kind = OP_RENAME;
    path_of(m, from, op->path);
    path_of(m, onto, op->path2);
    struct bulk *b = inode_of(m, from)->bulk;
    b->replaced = inode_of(m, onto)->bulk;
    b->replaced_n = b->replaced->n;
    b->own_n = b->n;
    m->e[from].parent = m->e[onto].parent;
    memcpy(m->e[from].name, m->e[onto].name, sizeof(m->e[from].name));
    drop_entry(m, onto);
    if (draw(m, 2))
        m->bulk_sync = from;
    m->job_entry = m->job_target = -1;
    m->job_renames = false;
}

static void bulk_begin(struct model *m, struct op *op)
{
    int old = pick(m, "b");
    uint32_t r = draw(m, 10);
    if (old < 0 || (count_type(m, 'b') < BULK_LIVE && r < 4)) {
        bulk_create(m, op);
    } else if (r < 6) { /* as many programs save: write aside, rename over */
        bulk_create(m, op);
        m->job_target = old;
        m->job_renames = true;
    } else if (r < 8) { /* truncate and write again */
        op->kind = OP_TRUNCATE;
        op->off = 0;
        bulk_event(m, old, op->k, -1);
        path_of(m, old, op->path);
        m->job_entry = old;
        m->job_chunk = 0;
    } else if (r < 9) { /* overwrite in place */
        m->job_entry = old;
        m->job_chunk = 0;
        bulk_write(m, op);
    } else {
        op->kind = OP_UNLINK;
        path_of(m, old, op->path);
        drop_entry(m, old);
    }
}

static void bulk_op(struct model *m, struct op *op)
{
    op->bulk = true;
    if (m->job_entry < 0)
        bulk_begin(m, op);
    else if (m->job_chunk < bulk_chunks(m))
        bulk_write(m, op);
    else
        bulk_replace(m, op);
}

/* Operation k + 1: decided, described in *op, and applied to the tree. */
static void model_next(struct model *m, struct op *op)
{
    m->k++;
    m->rng = mix(m->seed ^ mix(((uint64_t)m->client << 32) | m->k));
    m->bulk_sync = -1;
    memset(op, 0, sizeof(*op));
    op->k = m->k;
    if (m->bulk_bytes > 0 && m->fresh < 0 && draw(m, 2))
        bulk_op(m, op);
    else if (!small_op(m, op))
        DMT_ASSERT(!"an operation is always possible");
}

/* --- the tree as lines, for comparing --- */

struct line {
    uint64_t hash;
    char *text;
};

static uint64_t line_hash(const char *s)
{
    return dmt_hash64(0, s, strlen(s));
}

/* One line an entry; the same text is made from the real tree by ledger.c. group: hashes of all
 * names of the inode, added. */
static void format_line(char *ret, size_t size, const char *path, char type, unsigned mode,
                        unsigned nlink, uint64_t length, uint64_t data, uint64_t xattrs,
                        uint64_t group)
{
    int n = snprintf(ret, size, "%s %c %o nlink=%u size=%llu data=%llx xattrs=%llx names=%llx",
                     path, type, mode, nlink, (unsigned long long)length, (unsigned long long)data,
                     (unsigned long long)xattrs, (unsigned long long)group);
    DMT_ASSERT(n > 0 && (size_t)n < size);
}

static uint64_t xattr_hash(const char *name, const void *value, size_t n)
{
    return dmt_hash64(line_hash(name), value, n);
}

/* Fills lines[ENTRIES_MAX] (text only if with_text); returns how many. *ret_sum: the same for equal
 * trees, whatever the order. */
static int model_lines(struct model *m, struct line *lines, bool with_text, uint64_t *ret_sum)
{
    char path[PATH_LEN], text[PATH_LEN + 256];
    uint64_t group[ENTRIES_MAX] = {0};
    int n = 0;
    *ret_sum = 0;
    for (int e = 1; e < ENTRIES_MAX; e++) {
        if (!m->e[e].used)
            continue;
        path_of(m, e, path);
        group[m->e[e].inode] += line_hash(path);
    }
    for (int e = 1; e < ENTRIES_MAX; e++) {
        if (!m->e[e].used)
            continue;
        struct inode *in = inode_of(m, e);
        if (!in->hashed) {
            in->data_hash =
                in->type == 'd' || in->type == 'b' ? 0 : dmt_hash64(0, in->data, in->size);
            in->hashed = true;
        }
        uint64_t xattrs = 0;
        for (int x = 0; x < XATTRS; x++) {
            char name[24];
            (void)snprintf(name, sizeof(name), "user.ledger%d", x);
            if (in->xattr[x][0])
                xattrs += xattr_hash(name, in->xattr[x], strlen(in->xattr[x]));
        }
        path_of(m, e, path);
        format_line(text, sizeof(text), path, in->type, in->mode, in->type == 'd' ? 1 : in->nlink,
                    in->size, in->data_hash, xattrs, group[m->e[e].inode]);
        lines[n].hash = line_hash(text);
        lines[n].text = with_text ? strdup(text) : NULL;
        *ret_sum += mix(lines[n].hash);
        n++;
    }
    return n;
}

#endif
