/* rollback.c: back to a snapshot, whole or for given paths.
 *
 * Happy path: dirty mapped pages are fetched; under the lock new writers are stopped and a snapshot
 * of now is taken (the undo of the undo); a checkpoint lets the store name what changed; the plan
 * is made without the lock (readers go on); the records are logged and applied under it
 * (rollback_log.c); writers go on; the kernel is told to forget, by the caller's callback, with no
 * lock held. Deleted files come back under new inode numbers, hard links as one group; times come
 * back to the nanosecond. Of what a promotion gave up the bytes are brought in before all that
 * (replace.c). With paths only what lies below them, now or then, changes; a file that
 * was moved out of them stays where it is, and a copy of its old state takes the old name.
 * Failure: before the records nothing has changed but the automatic snapshot, which is then removed
 * again; after END it is done.
 * Thread: a pool thread; blocks.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/rollback.h"

/* content up to here is compared, so that a chmod alone does not share extents */
#define SMALL (1u << 20)

static int grow_flags(struct ws_plan *p)
{
    size_t n = p->d.cap_names + 1;
    if (n <= p->cap_flags)
        return 0;
    uint8_t *lose = realloc(p->lose, n);
    p->lose = lose ? lose : p->lose;
    uint8_t *gain = realloc(p->gain, n);
    p->gain = gain ? gain : p->gain;
    if (!lose || !gain)
        return -ENOMEM;
    memset(lose + p->cap_flags, 0, n - p->cap_flags);
    memset(gain + p->cap_flags, 0, n - p->cap_flags);
    p->cap_flags = n;
    return 0;
}

static bool entry_inside(const struct ws_plan *p, const char *dir, const char *name)
{
    char *path = NULL;
    if (!p->paths)
        return true;
    if (!dir || asprintf(&path, "%s/%s", dir, name) < 0)
        return false;
    bool in = ws_path_inside(path, p->paths);
    free(path);
    return in;
}

/* Which entries go and which come. */
static int plan_names(struct ws_plan *p)
{
    char **now = NULL, **then = NULL;
    int r = grow_flags(p);
    if (r == 0 && p->paths)
        r = ws_delta_dirs(p->ws, &p->d, DMT_LIVE, &now);
    if (r == 0 && p->paths)
        r = ws_delta_dirs(p->ws, &p->d, p->view, &then);
    for (size_t i = 0; r == 0 && i < p->d.n_names; i++) {
        const struct ws_dname *nm = &p->d.names[i];
        p->lose[i] = nm->ino_a && entry_inside(p, now ? now[i] : NULL, nm->name);
        p->gain[i] = nm->ino_b && entry_inside(p, then ? then[i] : NULL, nm->name);
        if (nm->ino_a && !p->lose[i])
            r = ws_map_put(&p->outside, nm->ino_a, 1);
    }
    ws_paths_free(now, p->d.n_names);
    ws_paths_free(then, p->d.n_names);
    return r;
}

static int add_restore(struct ws_plan *p, uint64_t then, uint64_t now, bool fresh,
                       const struct dmt_inode *row)
{
    if (p->n_restores == p->cap_restores) {
        size_t cap = p->cap_restores ? p->cap_restores * 2 : 256;
        struct ws_restore *v = realloc(p->restores, cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        p->restores = v;
        p->cap_restores = cap;
    }
    p->restores[p->n_restores++] =
        (struct ws_restore){.then = then, .now = now, .fresh = fresh, .row = *row};
    return 0;
}

static bool has_gain(const struct ws_plan *p, uint64_t dir, const char *name)
{
    for (size_t i = 0; i < p->d.n_names; i++)
        if (p->d.names[i].dir == dir && p->d.names[i].ino_b &&
            strcmp(p->d.names[i].name, name) == 0)
            return true;
    return false;
}

/* A directory that lives on outside the paths: its copy needs all its old entries, not only those
 * that differ. */
static int gain_all_entries(struct ws_plan *p, uint64_t dir)
{
    struct ws_entries list = {0};
    int r = ws_list(p->ws, p->view, dir, &list);
    for (size_t i = 0; r == 0 && i < list.n; i++) {
        if (has_gain(p, dir, list.v[i].name))
            continue;
        r = ws_delta_name(&p->d, dir, list.v[i].name, 0, list.v[i].ino);
        if (r == 0)
            r = grow_flags(p);
        if (r == 0)
            p->gain[p->d.n_names - 1] = 1;
    }
    ws_entries_free(&list);
    return r;
}

static int make_fresh(struct ws_plan *p, uint64_t then, bool lives_on)
{
    struct dmt_inode row;
    if (ws_map_has(&p->fresh, then))
        return 0;
    ws_lock(p->ws);
    int r = dmt_store_inode_get(p->ws->st, p->view, then, &row);
    ws_unlock(p->ws);
    if (r == 0)
        r = add_restore(p, then, p->next_ino, true, &row);
    if (r == 0)
        r = ws_map_put(&p->fresh, then, p->next_ino++);
    return r == 0 && lives_on && S_ISDIR(row.mode) ? gain_all_entries(p, then) : r;
}

/* Inodes that have to be made anew. The list of names grows while it is walked. */
static int plan_fresh(struct ws_plan *p)
{
    size_t original = p->d.n_names;
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->d.n_names; i++) {
        if (!p->gain[i])
            continue;
        uint64_t ino = p->d.names[i].ino_b;
        const struct ws_dnode *n = ws_delta_node(&p->d, ino);
        bool lives_on = i >= original || (n && n->in_a && ws_map_has(&p->outside, ino));
        if (!n || !n->in_a || lives_on)
            r = make_fresh(p, ino, lives_on);
    }
    return r;
}

/* A directory that an entry comes back into must be there. */
static int check_parents(const struct ws_plan *p, struct dmt_err *err)
{
    for (size_t i = 0; i < p->d.n_names; i++) {
        const struct ws_dnode *n = ws_delta_node(&p->d, p->d.names[i].dir);
        if (!p->gain[i] || ws_map_has(&p->fresh, p->d.names[i].dir) || !n || n->in_a)
            continue;
        dmt_err_set(err, -ENOENT, "the directory that \"%s\" was in is no longer there",
                    p->d.names[i].name);
        (void)dmt_err_hint(err, "roll back that directory instead");
        return -ENOENT;
    }
    return 0;
}

/* Inodes that are still there and changed. */
static int plan_in_place(struct ws_plan *p)
{
    uint64_t *inos = calloc(p->d.n_nodes + 1, sizeof(*inos));
    char **paths = NULL;
    size_t n = 0;
    int r = inos ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < p->d.n_nodes; i++)
        if (p->d.nodes[i].in_a && p->d.nodes[i].in_b && !ws_map_has(&p->fresh, p->d.nodes[i].ino))
            inos[n++] = p->d.nodes[i].ino;
    if (r == 0 && p->paths)
        r = ws_paths(p->ws, p->view, inos, n, &paths);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (!p->paths || (paths[i] && ws_path_inside(paths[i], p->paths)))
            r = add_restore(p, inos[i], inos[i], false, &ws_delta_node(&p->d, inos[i])->b);
    ws_paths_free(paths, paths ? n : 0);
    free(inos);
    return r;
}

static int load_target(struct ws_plan *p, struct ws_restore *t)
{
    char buf[4096];
    ws_lock(p->ws);
    int r = ws_view_link_locked(p->ws, p->view, &t->row, buf);
    ws_unlock(p->ws);
    t->target = r == 0 ? strdup(buf) : NULL;
    return r == 0 && !t->target ? -ENOMEM : r;
}

static int content_wanted(struct ws_plan *p, struct ws_restore *t)
{
    if (!S_ISREG(t->row.mode))
        return 0;
    if (t->fresh || ws_map_has(&p->brought, t->then))
        return t->row.size > 0;
    const struct dmt_inode *now = &ws_delta_node(&p->d, t->now)->a;
    if (t->row.size > SMALL || now->size != t->row.size)
        return 1;
    return ws_content_differs(p->ws, DMT_LIVE, now, p->view, &t->row);
}

/* Everything that has to be read for the records. */
static int plan_details(struct ws_plan *p)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->n_restores; i++) {
        struct ws_restore *t = &p->restores[i];
        if (t->row.flags & DMT_INO_XATTR)
            r = ws_xattrs(p->ws, p->view, t->then, &t->want);
        if (r == 0 && !t->fresh && ws_delta_node(&p->d, t->now)->a.flags & DMT_INO_XATTR)
            r = ws_xattrs(p->ws, DMT_LIVE, t->now, &t->have);
        if (r == 0 && t->fresh && S_ISLNK(t->row.mode))
            r = load_target(p, t);
        int c = r == 0 ? content_wanted(p, t) : 0;
        t->content = c > 0;
        r = c < 0 ? c : r;
    }
    return r;
}

static int make_plan(struct ws_plan *p, struct dmt_err *err)
{
    int r = plan_names(p);
    if (r == 0)
        r = plan_fresh(p);
    if (r == 0)
        r = check_parents(p, err);
    if (r == 0)
        r = plan_in_place(p);
    return r == 0 ? plan_details(p) : r;
}

static void free_plan(struct ws_plan *p)
{
    for (size_t i = 0; i < p->n_restores; i++) {
        ws_xattrs_free(&p->restores[i].want);
        ws_xattrs_free(&p->restores[i].have);
        free(p->restores[i].target);
    }
    free(p->restores);
    free(p->staged);
    free(p->lose);
    free(p->gain);
    ws_map_clear(&p->fresh);
    ws_map_clear(&p->outside);
    ws_map_clear(&p->stage_head);
    ws_delta_free(&p->d);
}

/* Stops writers and keeps the state of now. */
static int hold(struct dmt_ws *ws, struct dmt_rollback *rb, struct dmt_snapshot *saved)
{
    char when[32], note[192];
    int r = ws_snap_hold(ws);
    if (r < 0)
        return r;
    ws_lock(ws);
    (void)snprintf(rb->saved_as, sizeof(rb->saved_as), "before-rollback-%s",
                   dmt_time_format(ws_time(ws), when));
    (void)snprintf(note, sizeof(note), "automatic, before the rollback to %s", rb->snapshot);
    r = ws->failed || ws->role != WS_HOLDER ? -EROFS : ws_snap_log(ws, rb->saved_as, note, saved);
    ws_unlock(ws);
    if (r < 0)
        ws_snap_let_go(ws);
    return r;
}

static void tell_kernel(struct ws_plan *p)
{
    struct dmt_ws *ws = p->ws;
    uint64_t *inos = calloc(p->d.n_nodes + 1, sizeof(*inos));
    if (!ws->conf.invalidate || !inos) {
        free(inos);
        return;
    }
    for (size_t i = 0; i < p->d.n_nodes; i++)
        inos[i] = p->d.nodes[i].ino;
    ws->conf.invalidate(ws->conf.ctx, inos, p->d.n_nodes, true);
    free(inos);
}

static int log_plan(struct ws_plan *p, const char *snapshot)
{
    ws_lock(p->ws);
    int r = p->ws->role != WS_HOLDER || p->ws->failed ? -EROFS : 0;
    if (r == 0)
        r = ws_room(p->ws, (p->d.n_names + p->n_restores) * 256, 0);
    if (r == 0)
        r = ws_plan_log(p, snapshot);
    ws_unlock(p->ws);
    return r;
}

static int run(struct ws_plan *p, struct dmt_rollback *rb, struct dmt_err *err)
{
    int r = dmt_ws_checkpoint(p->ws, err);
    if (r < 0)
        return r;
    ws_lock(p->ws);
    p->next_ino = p->ws->next_ino;
    ws_unlock(p->ws);
    r = ws_delta_make(p->ws, DMT_LIVE, p->view, &p->d);
    if (r == 0)
        r = ws_delta_report(p->ws, &p->d, p->paths, rb->fn, rb->ctx, &rb->changed);
    if (r != 0 || rb->dry_run || p->d.n_nodes == 0)
        return r;
    r = make_plan(p, err);
    return r == 0 ? log_plan(p, rb->snapshot) : r;
}

/* --- content that is not the same everywhere -------------------------------------------------- */

struct given_up {
    struct ws_plan *p;
    uint64_t *inos;
    size_t n;
};

/* Lock held. Unchanged since the snapshot: there is nothing to roll back. */
static int note_given_up(void *ctx, const struct dmt_rec_INCOMPLETE *i)
{
    struct given_up *g = ctx;
    struct dmt_store *st = g->p->ws->st;
    struct dmt_inode then, now;
    if (dmt_store_inode_get(st, g->p->view, i->ino, &then) < 0 || !S_ISREG(then.mode) ||
        then.size == 0 ||
        (dmt_store_inode_get(st, DMT_LIVE, i->ino, &now) == 0 && now.seq <= g->p->view))
        return 0;
    uint64_t *v = realloc(g->inos, (g->n + 1) * sizeof(*v));
    if (!v)
        return -ENOMEM;
    g->inos = v;
    v[g->n++] = i->ino;
    return 0;
}

/* Before writers are stopped: what a promotion gave up of a file, on whichever machine, a CONTENT
 * record cannot name (replace.c). */
static int stage_given_up(struct ws_plan *p, uint64_t *ret_incomplete)
{
    struct given_up g = {.p = p};
    char **paths = NULL;
    uint64_t from, lost;
    ws_lock(p->ws);
    int r = ws_incomplete_each(p->ws, true, note_given_up, &g);
    ws_unlock(p->ws);
    if (r == 0 && p->paths && g.n > 0)
        r = ws_paths(p->ws, p->view, g.inos, g.n, &paths);
    for (size_t i = 0; r == 0 && i < g.n; i++) {
        if (p->paths && !(paths[i] && ws_path_inside(paths[i], p->paths)))
            continue;
        r = ws_stage_view(p->ws, p->view, g.inos[i], &from, &lost);
        *ret_incomplete += r == 0 && lost > 0;
        if (r == 0)
            r = ws_map_put(&p->brought, g.inos[i], from);
    }
    ws_paths_free(paths, paths ? g.n : 0);
    free(g.inos);
    return r;
}

static void drop_brought(struct ws_plan *p)
{
    for (size_t i = 0; i < p->brought.cap; i++)
        if (p->brought.keys[i])
            ws_stage_drop(p->ws, p->brought.vals[i]);
    ws_map_clear(&p->brought);
}

static int find_snapshot(struct dmt_ws *ws, const char *name, uint64_t *ret_seq,
                         struct dmt_err *err)
{
    struct dmt_snapshot s;
    ws_lock(ws);
    int r = dmt_store_snap_get(ws->st, name, &s);
    ws_unlock(ws);
    if (r == 0) {
        *ret_seq = s.seq;
        return 0;
    }
    dmt_err_set(err, r, "there is no snapshot \"%s\"", name);
    return dmt_err_hint(err, "`dumont snapshot list` shows them"), r;
}

int dmt_ws_rollback(struct dmt_ws *ws, struct dmt_rollback *rb, struct dmt_err *err)
{
    struct ws_plan p = {.ws = ws, .paths = rb->paths && rb->paths[0] ? rb->paths : NULL};
    struct dmt_snapshot saved;
    bool holding = false;
    if (err)
        *err = (struct dmt_err){0};
    rb->changed = rb->incomplete = 0;
    rb->saved_as[0] = '\0';
    int r = find_snapshot(ws, rb->snapshot, &p.view, err);
    if (r == 0)
        r = ws_flush_mmap(ws, err);
    if (r < 0)
        return r;
    if (!rb->dry_run) {
        r = stage_given_up(&p, &rb->incomplete);
        if (r == 0)
            r = hold(ws, rb, &saved);
        holding = r == 0;
    }
    if (r == 0)
        r = run(&p, rb, err);
    if (holding)
        ws_snap_let_go(ws);
    if (r == 0 && !rb->dry_run)
        tell_kernel(&p);
    if (r != 0 && holding) {
        (void)dmt_ws_snap_delete(ws, rb->saved_as, NULL);
        rb->saved_as[0] = '\0';
    }
    drop_brought(&p);
    free_plan(&p);
    if (r < 0 && (!err || err->code == 0))
        dmt_err_set(err, r, "rollback to \"%s\" failed: %s", rb->snapshot, dmt_strerror(r));
    if (r == 0 && !rb->dry_run)
        dmt_journal_kick(ws->j, dmt_journal_tail(ws->j).seq);
    return r;
}
