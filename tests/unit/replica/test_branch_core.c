/* test_branch_core.c: which branches are told, asked, removed: the decisions alone, and two
 * machines with them in a small world of random cuts, restarts, full disks and removals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/base/err.h"
#include "fs/replica/branch_core.h"

static const struct branches_one *one;

static enum branches_act next(struct branches *b)
{
    return branches_next(b, 0, &one);
}

static void scan(struct branches *b, const char *here, const char *removed)
{
    assert_int_equal(next(b), BRANCHES_SCAN);
    branches_scanned_begin(b);
    if (here)
        branches_scanned(b, here, false);
    if (removed)
        branches_scanned(b, removed, true);
    branches_scanned_end(b);
}

static void heard(struct branches *b, const char *name, bool removed)
{
    assert_true(branches_heard(b, name, strlen(name), removed));
}

/* A question for "x" is out. */
static void ask(struct branches *b)
{
    struct dmt_branch_piece at = {0};
    branches_start(b);
    scan(b, NULL, NULL);
    heard(b, "x", false);
    assert_int_equal(next(b), BRANCHES_OPEN);
    assert_string_equal(one->name, "x");
    assert_int_equal(next(b), BRANCHES_NOTHING); /* one thing at a time */
    assert_false(branches_opened(b, 0, &at, 0));
    assert_int_equal(next(b), BRANCHES_ASK);
    assert_int_equal(next(b), BRANCHES_NOTHING);
}

static int data(struct branches *b, uint32_t file, uint64_t serial, uint64_t size, uint64_t off,
                uint64_t len)
{
    struct dmt_branch_piece p = {file, serial, size, off, len};
    return branches_data(b, "x", 1, &p);
}

/* All of what was asked for has come, in one piece; it is put away, and the next is asked for. */
static void run_of(struct branches *b, uint32_t file, uint64_t serial, uint64_t size, uint64_t off,
                   uint64_t len)
{
    assert_int_equal(data(b, file, serial, size, off, len), 1);
    assert_int_equal(next(b), BRANCHES_NOTHING);
    branches_put(b, 0, 0);
    assert_int_equal(next(b), BRANCHES_ASK);
    assert_true(b->piece.file == file && b->piece.off == off + len);
}

static void names(void **state)
{
    (void)state;
    char name[DMT_BRANCH_NAME_MAX + 2];
    static const char *const bad[] = {"",       ".",         "..",        ".x",    "a/b",
                                      "../x",   "a b",       "a\nb",      "\x80",  "x.new",
                                      "x.copy", "x.scratch", "x.removed", "x.tmp", "x\x7f"};
    struct branches b = {0};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(branches_heard(&b, bad[i], strlen(bad[i]), false));
    assert_false(branches_heard(&b, "a\0b", 3, false));
    memset(name, 'n', sizeof(name));
    assert_true(branches_heard(&b, name, DMT_BRANCH_NAME_MAX, false));
    assert_false(branches_heard(&b, name, DMT_BRANCH_NAME_MAX + 1, false));
    heard(&b, "epoch-3.1-gpu_7.example", false);
    branches_free(&b);
}

static void more_names_than_there_is_room_for(void **state)
{
    (void)state;
    struct branches b = {0};
    for (unsigned i = 0; i < 3 * BRANCHES_MAX; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "epoch-%u", i);
        heard(&b, name, false);
    }
    assert_int_equal(b.n, BRANCHES_MAX);
    branches_free(&b);
}

static void both_kinds_are_told_once_a_stream(void **state)
{
    (void)state;
    struct branches b = {0};
    assert_int_equal(next(&b), BRANCHES_NOTHING); /* no stream */
    for (int i = 0; i < 2; i++) {
        branches_start(&b);
        scan(&b, "here", "gone");
        assert_int_equal(next(&b), BRANCHES_TELL);
        assert_string_equal(one->name, "here");
        assert_false(one->removed);
        assert_int_equal(next(&b), BRANCHES_TELL);
        assert_string_equal(one->name, "gone");
        assert_true(one->removed);
        assert_int_equal(next(&b), BRANCHES_NOTHING);
        branches_changed(&b);
        scan(&b, "here", "gone");
        assert_int_equal(next(&b), BRANCHES_NOTHING);
        branches_stop(&b);
        assert_int_equal(next(&b), BRANCHES_NOTHING);
    }
    /* removed by a person meanwhile */
    branches_start(&b);
    scan(&b, "here", "gone");
    while (next(&b) == BRANCHES_TELL)
        ;
    branches_changed(&b);
    scan(&b, NULL, "here");
    assert_int_equal(next(&b), BRANCHES_TELL);
    assert_true(one->removed);
    branches_free(&b);
}

static void what_is_removed_is_never_asked_for(void **state)
{
    (void)state;
    struct branches b = {0};
    branches_start(&b);
    scan(&b, NULL, "x");
    heard(&b, "x", false); /* offered all the same: it has not heard yet */
    assert_int_equal(next(&b), BRANCHES_TELL);
    assert_int_equal(next(&b), BRANCHES_NOTHING);
    heard(&b, "y", true); /* removed there, and not here: nothing to do */
    assert_int_equal(next(&b), BRANCHES_NOTHING);
    branches_free(&b);
}

static void a_removal_is_heard(void **state)
{
    (void)state;
    struct branches b = {0};
    branches_start(&b);
    scan(&b, "x", NULL);
    assert_int_equal(next(&b), BRANCHES_TELL);
    heard(&b, "x", true);
    assert_int_equal(next(&b), BRANCHES_REMOVE);
    assert_string_equal(one->name, "x");
    assert_true(branches_removed(&b, -EIO, 1000));
    assert_int_equal(next(&b), BRANCHES_NOTHING);
    assert_int_equal(branches_next(&b, 1000 + BRANCHES_AGAIN_MS, &one), BRANCHES_REMOVE);
    assert_true(branches_removed(&b, 0, 0)); /* people hear that it is gone */
    assert_int_equal(next(&b), BRANCHES_TELL);
    assert_true(one->removed);
    assert_int_equal(next(&b), BRANCHES_NOTHING);
    branches_free(&b);
}

static void a_copy_goes_from_file_to_file(void **state)
{
    (void)state;
    struct branches b = {0};
    ask(&b);
    /* a run of one file is put away when it is there, in however many pieces it comes */
    assert_int_equal(data(&b, 0, 1, BRANCHES_RUN + 40, 0, 60), 0);
    assert_int_equal(next(&b), BRANCHES_NOTHING);
    assert_int_equal(data(&b, 0, 1, BRANCHES_RUN + 40, 60, BRANCHES_RUN - 60), 1);
    assert_int_equal(next(&b), BRANCHES_NOTHING);
    assert_true(b.run.off == 0 && b.run.len == BRANCHES_RUN);
    branches_put(&b, 0, 0);
    assert_int_equal(next(&b), BRANCHES_ASK);
    assert_true(b.piece.file == 0 && b.piece.off == BRANCHES_RUN);
    run_of(&b, 0, 1, BRANCHES_RUN + 40, BRANCHES_RUN, 40); /* to its end */
    run_of(&b, 1, 7, 10, 0, 10);                           /* the next one */
    assert_int_equal(branches_end(&b, "x", 1, 2, 0), 1);
    assert_true(branches_ended(&b, 0, 0));
    assert_int_equal(next(&b), BRANCHES_TELL); /* so that the other side knows */
    assert_string_equal(one->name, "x");
    assert_int_equal(next(&b), BRANCHES_NOTHING);
    branches_free(&b);
}

/* Each of these leaves the question open. */
static void what_was_not_asked_for_is_refused(void **state)
{
    (void)state;
    struct branches b = {0};
    struct dmt_branch_piece p = {0, 1, 100, 0, 60};
    heard(&b, "x", false);
    assert_int_equal(data(&b, 0, 1, 100, 0, 60), -1); /* no stream */
    ask(&b);
    assert_int_equal(branches_data(&b, "y", 1, &p), -1);
    assert_int_equal(branches_end(&b, "y", 1, 1, 0), -1);
    assert_int_equal(data(&b, 0, 1, 100, 1, 60), -1); /* another place */
    assert_int_equal(data(&b, 1, 1, 100, 0, 60),
                     -1); /* the next file, before the end of a first one */
    assert_int_equal(data(&b, 0, 1, 100, 0, 0), -1);   /* nothing */
    assert_int_equal(data(&b, 0, 1, 100, 0, 101), -1); /* beyond its own end */
    assert_int_equal(data(&b, 0, 1, 2 * BRANCHES_RUN, 0, BRANCHES_RUN + 1), -1); /* too much */
    assert_int_equal(data(&b, 0, 1, DMT_BRANCH_FILE_MAX + 1, 0, 10), -1);
    assert_int_equal(data(&b, 0, 5, 100, 0, 60), 0);
    assert_int_equal(data(&b, 0, 5, 100, 0, 60), -1);  /* again */
    assert_int_equal(data(&b, 0, 5, 100, 61, 30), -1); /* not the next one */
    assert_int_equal(data(&b, 0, 6, 100, 60, 40), -1); /* of another file */
    assert_int_equal(data(&b, 0, 5, 101, 60, 41), -1);
    assert_int_equal(data(&b, 0, 5, 100, 60, 41), -1);
    assert_int_equal(data(&b, 0, 5, 100, 60, UINT64_MAX), -1); /* a sum that wraps */
    assert_int_equal(data(&b, 0, 5, 100, 60, 40), 1);
    assert_int_equal(data(&b, 1, 6, 100, 0, 100), -1); /* that was not asked for yet */
    branches_put(&b, 0, 0);
    assert_int_equal(next(&b), BRANCHES_ASK);
    assert_int_equal(data(&b, 1, 5, 100, 0, 40), -1); /* the next one has a higher serial */
    assert_int_equal(data(&b, 2, 6, 100, 0, 40), -1); /* not the one after that */
    assert_int_equal(data(&b, 1, 6, 40, 0, 40), 1);
    branches_free(&b);
}

static void an_end_too_early_drops_what_came(void **state)
{
    (void)state;
    struct branches b = {0};
    ask(&b);
    assert_int_equal(branches_end(&b, "x", 1, 0, 500), 0); /* gone there */
    branches_dropped(&b);
    assert_int_equal(branches_next(&b, 501, &one), BRANCHES_NOTHING);
    assert_int_equal(branches_next(&b, 500 + BRANCHES_AGAIN_MS, &one), BRANCHES_OPEN);
    branches_free(&b);
    ask(&b);
    run_of(&b, 0, 1, 60, 0, 60);
    assert_int_equal(branches_end(&b, "x", 1, 2, 0), 0); /* it has two files, we have one */
    branches_free(&b);
    ask(&b);
    run_of(&b, 0, 1, 60, 0, 60);
    assert_int_equal(data(&b, 1, 2, 100, 0, 10), 0);
    assert_int_equal(branches_end(&b, "x", 1, 1, 0), 0); /* in the midst of an answer */
    branches_free(&b);
}

static void a_full_disk_is_told_once_and_tried_again(void **state)
{
    (void)state;
    struct branches b = {0};
    struct dmt_branch_piece at = {0};
    ask(&b);
    assert_int_equal(data(&b, 0, 1, 60, 0, 60), 1);
    assert_true(branches_put(&b, -ENOSPC, 1000));
    assert_int_equal(branches_next(&b, 1000 + BRANCHES_AGAIN_MS - 1, &one), BRANCHES_NOTHING);
    assert_int_equal(branches_next(&b, 1000 + BRANCHES_AGAIN_MS, &one), BRANCHES_OPEN);
    assert_false(branches_opened(&b, -ENOSPC, &at, 100000)); /* known */
    assert_int_equal(branches_next(&b, 100000 + BRANCHES_AGAIN_MS, &one), BRANCHES_OPEN);
    branches_opened(&b, 0, &at, 0);
    assert_int_equal(next(&b), BRANCHES_ASK);
    run_of(&b, 0, 1, 100, 0, 100);
    assert_int_equal(branches_end(&b, "x", 1, 1, 0), 1);
    assert_true(branches_ended(&b, 0, 0));
    branches_free(&b);
}

static void a_branch_removed_while_it_is_copied_is_dropped(void **state)
{
    (void)state;
    struct branches b = {0};
    ask(&b);
    heard(&b, "x", true);
    assert_int_equal(next(&b), BRANCHES_NOTHING); /* the answer is under way */
    assert_int_equal(data(&b, 0, 1, 60, 0, 60), 1);
    branches_put(&b, 0, 0);
    assert_int_equal(next(&b), BRANCHES_DROP);
    branches_dropped(&b);
    assert_int_equal(next(&b), BRANCHES_NOTHING);
    branches_free(&b);
}

/* --- two machines ----------------------------------------------------------------------------- */

#define NAMES 4
#define FILES 3
#define QUEUE 64
static const uint64_t file_size[FILES] = {10, 3, 7};
#define PIECE 4

struct msg {
    enum { M_NAME, M_GET, M_DATA, M_END } type;
    int name;
    bool removed;
    struct dmt_branch_piece p;
    uint32_t files;
};

struct machine {
    struct branches b;
    enum { NONE, HERE, REMOVED } disk[NAMES];
    uint32_t copied_files[NAMES]; /* of NAME.copy: whole ones, and bytes of the next */
    uint64_t copied[NAMES];
    bool full;
    struct msg in[QUEUE];
    int in_n;
    /* the job under way */
    enum branches_act act;
    bool put, end;
    int name;
    struct dmt_branch_piece p;
    uint32_t files;
    /* what it will find; a scan is of the moment it was made */
    int scanned[NAMES];
};

struct world {
    struct machine m[2];
    bool linked;
    uint64_t now, rnd;
};

static unsigned dice(struct world *w, unsigned n)
{
    w->rnd ^= w->rnd << 13, w->rnd ^= w->rnd >> 7, w->rnd ^= w->rnd << 17;
    return (unsigned)(w->rnd >> 20) % n;
}

static const char *name_of(int i)
{
    static const char *const v[NAMES] = {"epoch-1.0-a", "epoch-2.0-b", "epoch-3.0-a",
                                         "epoch-3.1-b"};
    return v[i];
}

static int index_of(const char *name)
{
    for (int i = 0; i < NAMES; i++)
        if (strcmp(name, name_of(i)) == 0)
            return i;
    fail();
    return 0;
}

static void send_to(struct machine *to, struct msg m)
{
    assert_true(to->in_n < QUEUE);
    to->in[to->in_n++] = m;
}

static void act(struct world *w, int who)
{
    struct machine *me = &w->m[who], *peer = &w->m[!who];
    const struct branches_one *v;
    for (;;) {
        enum branches_act a = branches_next(&me->b, w->now, &v);
        if (a == BRANCHES_NOTHING)
            return;
        int i = v ? index_of(v->name) : 0;
        if (a == BRANCHES_TELL) {
            send_to(peer, (struct msg){.type = M_NAME, .name = i, .removed = v->removed});
            continue;
        }
        if (a == BRANCHES_ASK) {
            send_to(peer, (struct msg){.type = M_GET, .name = i, .p = me->b.piece});
            continue;
        }
        assert_int_equal(me->act, BRANCHES_NOTHING); /* never two jobs */
        me->act = a;
        me->name = i;
        for (int k = 0; a == BRANCHES_SCAN && k < NAMES; k++)
            me->scanned[k] = me->disk[k];
    }
}

static void drop(struct machine *me)
{
    me->copied_files[me->name] = 0;
    me->copied[me->name] = 0;
}

static int do_put(struct machine *me)
{
    const struct dmt_branch_piece *p = &me->p;
    if (p->file > 0 && p->off == 0) {
        assert_int_equal(me->copied[me->name],
                         file_size[p->file - 1]); /* the one before is whole */
        me->copied_files[me->name] = p->file;
        me->copied[me->name] = 0;
    }
    assert_true(me->copied_files[me->name] == p->file && me->copied[me->name] == p->off);
    if (me->full)
        return -ENOSPC;
    me->copied[me->name] += p->len;
    return 0;
}

static int do_end(struct machine *me)
{
    int i = me->name;
    assert_true(me->files == FILES && me->copied_files[i] == FILES - 1 &&
                me->copied[i] == file_size[FILES - 1]);
    if (me->full)
        return -ENOSPC;
    assert_int_not_equal(me->disk[i], REMOVED);
    me->disk[i] = HERE;
    drop(me);
    return 0;
}

static void job_ends(struct world *w, int who)
{
    struct machine *me = &w->m[who];
    struct dmt_branch_piece at = {0};
    enum branches_act a = me->act;
    int i = me->name, rc = 0;
    me->act = BRANCHES_NOTHING;
    if (a == BRANCHES_SCAN) {
        branches_scanned_begin(&me->b);
        for (int k = 0; k < NAMES; k++)
            if (me->scanned[k] != NONE)
                branches_scanned(&me->b, name_of(k), me->scanned[k] == REMOVED);
        branches_scanned_end(&me->b);
    } else if (a == BRANCHES_REMOVE) {
        me->disk[i] = REMOVED;
        drop(me);
        branches_removed(&me->b, 0, w->now);
    } else if (a == BRANCHES_DROP) {
        drop(me);
        branches_dropped(&me->b);
    } else if (a == BRANCHES_OPEN) {
        at.file = me->copied_files[i];
        at.off = me->copied[i];
        at.serial = at.file + 1;
        branches_opened(&me->b, 0, &at, w->now);
    } else if (me->end) {
        if ((rc = do_end(me)) < 0)
            drop(me);
        branches_ended(&me->b, rc, w->now);
    } else {
        if ((rc = do_put(me)) < 0)
            drop(me);
        branches_put(&me->b, rc, w->now);
    }
    me->put = me->end = false;
}

static void answer(struct machine *me, struct machine *peer, const struct msg *m)
{
    struct msg r = {.type = M_END, .name = m->name, .p = m->p};
    if (me->disk[m->name] == HERE) {
        while (r.p.file < FILES && r.p.off >= file_size[r.p.file]) {
            r.p.file++;
            r.p.off = 0;
        }
        r.files = FILES;
        while (r.p.file < FILES && r.p.off < file_size[r.p.file]) {
            uint64_t left = file_size[r.p.file] - r.p.off;
            r.type = M_DATA;
            r.p.serial = r.p.file + 1;
            r.p.size = file_size[r.p.file];
            r.p.len = left < PIECE ? left : PIECE;
            send_to(peer, r);
            r.p.off += r.p.len;
        }
    }
    if (r.type == M_END)
        send_to(peer, r);
}

static void deliver(struct world *w, int who)
{
    struct machine *me = &w->m[who];
    struct msg m = me->in[0];
    const char *name = name_of(m.name);
    memmove(me->in, me->in + 1, (size_t)--me->in_n * sizeof(me->in[0]));
    if (m.type == M_NAME) {
        heard(&me->b, name, m.removed);
    } else if (m.type == M_GET) {
        answer(me, &w->m[!who], &m);
    } else if (m.type == M_DATA) {
        int rc = branches_data(&me->b, name, strlen(name), &m.p);
        assert_true(rc >= 0);
        assert_int_equal(me->act, BRANCHES_NOTHING);
        if (rc == 0)
            return;
        me->act = BRANCHES_ASK; /* stands for a put */
        me->put = true;
        me->p = me->b.run;
        me->name = m.name;
    } else {
        int rc = branches_end(&me->b, name, strlen(name), m.files, w->now);
        assert_true(rc >= 0);
        me->act = rc ? BRANCHES_ASK : BRANCHES_DROP;
        me->end = rc;
        me->files = m.files;
        me->name = m.name;
    }
}

static void cut(struct world *w)
{
    w->linked = false;
    for (int i = 0; i < 2; i++) {
        branches_stop(&w->m[i].b);
        w->m[i].in_n = 0;
    }
}

/* Killed: what is in memory goes, the job with it, done or not. */
static void restart(struct world *w, int who)
{
    struct machine *me = &w->m[who];
    cut(w);
    if (me->act != BRANCHES_NOTHING && dice(w, 2))
        job_ends(w, who);
    branches_free(&me->b);
    me->act = BRANCHES_NOTHING;
    me->put = me->end = false;
}

static void one_step(struct world *w, bool faults)
{
    int who = (int)dice(w, 2);
    struct machine *me = &w->m[who];
    unsigned what = dice(w, 100);
    w->now += dice(w, 1000);
    if (!w->linked && (what < 20 || !faults)) {
        w->linked = true;
        branches_start(&w->m[0].b);
        branches_start(&w->m[1].b);
    } else if (faults && what < 2) {
        cut(w);
    } else if (faults && what < 4) {
        restart(w, who);
    } else if (faults && what < 5) {
        me->full = !me->full;
    } else if (faults && what == 5 && dice(w, 20) == 0) {
        int i = (int)dice(w, NAMES);
        if (me->disk[i] == HERE) {
            me->disk[i] = REMOVED; /* by a person */
            branches_changed(&me->b);
        }
    } else if (what < 50 && me->act != BRANCHES_NOTHING) {
        job_ends(w, who);
    } else if (me->in_n > 0) {
        deliver(w, who);
    }
    act(w, 0);
    act(w, 1);
}

static void run(uint64_t seed)
{
    static struct world w;
    w = (struct world){.rnd = seed * 0x9e3779b97f4a7c15ull + 1};
    int had[2][NAMES];
    for (int i = 0; i < NAMES; i++)
        w.m[dice(&w, 2)].disk[i] = HERE;
    bool removed[NAMES] = {0};
    for (int k = 0; k < 2000; k++) {
        for (int i = 0; i < NAMES; i++)
            for (int m = 0; m < 2; m++)
                had[m][i] = w.m[m].disk[i];
        one_step(&w, true);
        for (int i = 0; i < NAMES; i++)
            for (int m = 0; m < 2; m++) {
                int now = w.m[m].disk[i];
                removed[i] |= now == REMOVED;
                if (had[m][i] == REMOVED) /* for ever */
                    assert_int_equal(now, REMOVED);
                if (had[m][i] == HERE && now != HERE) /* only if somebody removed it */
                    assert_true(now == REMOVED);
            }
    }
    w.m[0].full = w.m[1].full = false;
    for (int k = 0; k < 6000; k++)
        one_step(&w, false);
    for (int i = 0; i < NAMES; i++)
        for (int m = 0; m < 2; m++) {
            if (removed[i])
                assert_int_not_equal(w.m[m].disk[i], HERE);
            else
                assert_int_equal(w.m[m].disk[i], HERE);
        }
    branches_free(&w.m[0].b);
    branches_free(&w.m[1].b);
}

static void two_machines_agree(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3000; seed++)
        run(seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(more_names_than_there_is_room_for),
        cmocka_unit_test(both_kinds_are_told_once_a_stream),
        cmocka_unit_test(what_is_removed_is_never_asked_for),
        cmocka_unit_test(a_removal_is_heard),
        cmocka_unit_test(a_copy_goes_from_file_to_file),
        cmocka_unit_test(what_was_not_asked_for_is_refused),
        cmocka_unit_test(an_end_too_early_drops_what_came),
        cmocka_unit_test(a_full_disk_is_told_once_and_tried_again),
        cmocka_unit_test(a_branch_removed_while_it_is_copied_is_dropped),
        cmocka_unit_test(two_machines_agree),
    };
    cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
