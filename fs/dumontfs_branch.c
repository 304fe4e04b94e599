/* dumontfs_branch.c: branches for people: the files that one names, and how they differ from now.
 *
 * Happy path of a difference: the branch is written as plain files into a scratch directory of the
 * store (as `restore --branch` does), the tree is walked, each file is compared with the one of the
 * same path in the workspace, byte by byte where the sizes are equal. So what the branch deleted
 * does not show, and neither do its directories. Failure modes: those of the extraction; a path
 * that cannot be read is an error, not a difference. Thread: the connection's; blocks.
 *
 * And the branch NAME.bulk of a machine that has lost its role: made by a pool job when everything
 * that the new holder had said by then is applied, so also its reports of what it lacked. The disk
 * is full: told once, tried again every minute.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/base/log.h"
#include "fs/dumontfs_past.h"
#include "fs/dumontfs_verbs.h"
#include "fs/workspace/branch_copy.h"

#define CHUNK    (256u << 10)
#define AGAIN_NS (60 * DMT_S)

struct compare {
    struct dmt_ws *ws;
    size_t root; /* length of the scratch directory's path */
    json_t *list;
    char *ours, *theirs; /* CHUNK each */
};

static const char *plain_name(struct call *c, const char *key)
{
    const char *name = verb_arg(c, key);
    return strncmp(name, "branch/", 7) == 0 ? name + 7 : name;
}

json_t *verb_branch_extract(struct call *c)
{
    uint64_t left_out = 0;
    if (dmt_ws_branch_extract(c->ws, plain_name(c, "branch"), verb_arg(c, "dir"), &left_out,
                              c->err) != 0)
        return NULL;
    return json_pack("{s:I}", "left_out", (json_int_t)left_out);
}

/* 1 equal, 0 not, < 0. */
static int same_bytes(struct compare *x, const char *path, uint64_t ino, uint64_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), r = fd < 0 ? -errno : 1;
    for (uint64_t off = 0; r == 1 && off < size;) {
        ssize_t a = pread(fd, x->theirs, CHUNK, (off_t)off);
        ssize_t b = a > 0 ? dmt_ws_read(x->ws, ino, x->ours, (size_t)a, off, false) : 0;
        if (a <= 0 || b < 0)
            r = a < 0 ? -errno : b < 0 ? (int)b : 0;
        else if (a != b || memcmp(x->ours, x->theirs, (size_t)a) != 0)
            r = 0;
        off += (uint64_t)(a > 0 ? a : 0);
    }
    if (fd >= 0)
        close(fd);
    return r;
}

static int same_link(struct compare *x, const char *path, uint64_t ino)
{
    char a[4096], b[4096];
    ssize_t n = readlink(path, a, sizeof a);
    int m = dmt_ws_readlink(x->ws, ino, b);
    if (n < 0 || m < 0)
        return n < 0 ? -errno : m;
    return (size_t)n == strnlen(b, sizeof b) && memcmp(a, b, (size_t)n) == 0;
}

/* From the branch to now, in the letters of `snapshot diff`. */
static int compare_one(struct compare *x, const char *path, const struct stat *st)
{
    uint64_t ino;
    struct dmt_attr at;
    char kind = 0;
    int r = dmt_ws_resolve(x->ws, DMT_LIVE, path + x->root, &ino);
    if (r == 0)
        r = dmt_ws_getattr(x->ws, ino, &at);
    if (r == -ENOENT || r == -ENOTDIR) {
        kind = 'D';
        r = 0;
    } else if (r == 0 && (at.st.st_mode & S_IFMT) != (st->st_mode & S_IFMT)) {
        kind = 'T';
    } else if (r == 0) {
        if (S_ISLNK(st->st_mode))
            r = same_link(x, path, ino);
        else if (S_ISREG(st->st_mode) && at.st.st_size != st->st_size)
            r = 0;
        else
            r = S_ISREG(st->st_mode) ? same_bytes(x, path, ino, (uint64_t)st->st_size) : 1;
        if (r >= 0)
            kind = r == 0 ? 'M' : (at.st.st_mode & 07777) != (st->st_mode & 07777) ? 'm' : 0;
    }
    return r < 0 ? r : kind ? verb_change_add(x->list, kind, path + x->root, NULL) : 0;
}

static int compare_tree(struct compare *x, const char *dir)
{
    struct dirent **names = NULL;
    int n = scandir(dir, &names, NULL, alphasort), r = n < 0 ? -errno : 0;
    for (int i = 0; i < n; i++) {
        char path[2 * DMT_PATH_MAX];
        struct stat st;
        int k = snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
        if (r == 0 && strcmp(names[i]->d_name, ".") != 0 && strcmp(names[i]->d_name, "..") != 0) {
            if (k >= (int)sizeof path)
                r = -ENAMETOOLONG;
            else if (lstat(path, &st) != 0)
                r = -errno;
            else
                r = S_ISDIR(st.st_mode) ? compare_tree(x, path) : compare_one(x, path, &st);
        }
        free(names[i]);
    }
    free(names);
    return r;
}

json_t *branch_diff(struct call *c, const char *name)
{
    char dir[DMT_PATH_MAX + 32];
    uint64_t left_out; /* they can be compared when they are whole here */
    struct compare x = {.ws = c->ws, .ours = malloc(CHUNK), .theirs = malloc(CHUNK)};
    snprintf(dir, sizeof dir, "%s/scratch-diff", c->app->store_dir);
    x.root = strlen(dir);
    x.list = json_array();
    remove_path(dir);
    int r = x.ours && x.theirs ? 0 : -ENOMEM;
    if (r == 0 && mkdir(dir, 0700) != 0)
        r = -errno;
    if (r == 0)
        r = dmt_ws_branch_extract(c->ws, name, dir, &left_out, c->err);
    if (r == 0 && (r = compare_tree(&x, dir)) < 0)
        dmt_err_set(c->err, r, "branch/%s cannot be compared: %s", name, dmt_strerror(r));
    else if (r < 0 && c->err->code == 0)
        dmt_err_set(c->err, r, "%s: %s", dir, dmt_strerror(r));
    remove_path(dir);
    free(x.ours);
    free(x.theirs);
    if (r == 0)
        return x.list;
    json_decref(x.list);
    return NULL;
}

/* --- what the new holder lacked --------------------------------------------------------------- */

struct turns {
    struct dmt_epoch_row *v;
    size_t n;
};

static int note_turn(void *ctx, const struct dmt_epoch_row *e)
{
    struct turns *t = ctx;
    struct dmt_epoch_row *v = realloc(t->v, (t->n + 1) * sizeof *v);
    if (!v)
        return -ENOMEM;
    t->v = v;
    v[t->n++] = *e;
    return 0;
}

/* Was it taken from us? */
static bool was_ours(const struct turns *t, const struct dmt_epoch_row *turn, const char *node)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->v[i].epoch == turn->parent)
            return strcmp(t->v[i].node, node) == 0 && strcmp(turn->node, node) != 0;
    return false;
}

static int keep_bulk(struct app *a, struct dmt_ws *ws, struct dmt_err *err)
{
    struct turns t = {0};
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    bool made = false;
    lk.lock(lk.ctx);
    int rc = dmt_store_epoch_each(dmt_ws_store(ws), note_turn, &t);
    lk.unlock(lk.ctx);
    for (size_t i = 0; rc >= 0 && i < t.n; i++) {
        if (!was_ours(&t, &t.v[i], a->node) || !app_is_whole(a, t.v[i].switch_seq))
            continue;
        rc = dmt_ws_branch_keep_bulk(ws, &t.v[i], a->node, &a->stopping, err);
        made |= rc > 0;
    }
    free(t.v);
    if (made && a->replica)
        dmt_replica_branches_changed(a->replica);
    return rc < 0 ? rc : 0;
}

static void do_keep_bulk(void *arg)
{
    struct app *a = arg;
    struct dmt_err err = {0};
    struct dmt_ws *ws = app_ws_get(a);
    int rc = ws ? keep_bulk(a, ws, &err) : 0;
    if (ws)
        app_ws_put(a);
    if (rc < 0 && !atomic_exchange(&a->bulk_ailing, true))
        events_add(a, "branch", err.msg[0] ? err.msg : dmt_strerror(rc));
    if (rc < 0)
        atomic_store(&a->bulk_look, true);
    else
        atomic_store(&a->bulk_ailing, false);
}

void branch_tick(struct app *a)
{
    struct dmt_replica_status s;
    uint64_t now = dmt_clock_real()->monotonic_ns(NULL);
    if (!a->replica || !atomic_load(&a->bulk_look) || now < a->bulk_again_ns)
        return;
    dmt_replica_status(a->replica, &s);
    /* Or it holds the workspace again already. */
    bool followed = s.role == DMT_REPLICA_RECEIVER && s.streaming && s.holder_durable > 0 &&
                    s.applied >= s.holder_durable;
    if (!followed && s.role != DMT_REPLICA_SENDER)
        return;
    a->bulk_again_ns = now + AGAIN_NS;
    atomic_store(&a->bulk_look, false);
    if (dmt_pool_submit(a->pool, do_keep_bulk, a) != 0)
        atomic_store(&a->bulk_look, true);
}

void branch_look(struct app *a)
{
    atomic_store(&a->bulk_look, true);
    a->bulk_again_ns = 0;
}
