/* test_branches.c: a branch goes to the other machine over a real connection: cut in the midst,
 * with a full disk, in both directions, removed on either side, never before the records. */
#include "fs/workspace/branch_copy.h"
#include "tests/unit/replica/pair.h"

#define BRANCH "epoch-1.0-gpu"

/* a, the holder, writes on alone; b is promoted; a comes back as its standby, with a branch of
 * `mib` MiB and more. */
static void part(struct pair *p, unsigned mib)
{
    struct dmt_err err = {0};
    pair_connect(p, true);
    atomic_store(&p->a.stable, 0); /* checkpoints of a stay behind what could be cut */
    write_text(&p->a, "both", "on both machines");
    WAIT_FOR(same_place(&p->a, &p->b));
    atomic_store(&p->a.stable, tail_of(&p->a));
    atomic_store(&p->relay.refuse, true);
    atomic_store(&p->relay.cut_after, 1);
    WAIT_FOR(!p->a.up && !p->b.up);
    write_text(&p->a, "lost", "never shipped");
    write_bulk(&p->a, make_file(&p->a, "big"), 0, (uint64_t)mib << 20, 3);
    check(dmt_ws_promote(p->b.ws, &err), &err);
    node_begin(&p->b, EPOCH(2, 0), true);
    write_text(&p->b, "won", "by the new holder");
    atomic_store(&p->relay.refuse, false);
    WAIT_FOR(p->a.higher == EPOCH(2, 0));
    dmt_ws_demote(p->a.ws);
    node_receive(&p->a, EPOCH(1, 0));
}

static bool there(struct node *n, const char *name)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/branches/%s", n->store, name);
    return access(path, F_OK) == 0;
}

static void same_files(struct pair *p)
{
    shell("diff -r --exclude='spare-*' --exclude=prepare.tmp %s/branches/" BRANCH
          " %s/branches/" BRANCH,
          p->a.store, p->b.store);
}

static void remove_at(struct node *n)
{
    struct dmt_err err = {0};
    check(dmt_ws_branch_remove(n->ws, BRANCH, true, &err), &err);
    dmt_replica_branches_changed(n->r);
}

static void a_branch_goes_to_the_new_holder(void **state)
{
    struct pair *p = *state;
    part(p, 3);
    WAIT_FOR(there(&p->b, BRANCH));
    same_files(p);
    WAIT_FOR(dmt_replica_branch_there(p->a.r, BRANCH) == DMT_REPLICA_THERE);
    assert_int_equal(dmt_replica_branch_there(p->b.r, BRANCH), DMT_REPLICA_THERE);
    assert_int_equal(dmt_replica_branch_there(p->b.r, "epoch-9.9-x"), DMT_REPLICA_NOT_THERE);
    write_text(&p->b, "more", "more");
    WAIT_FOR(same_place(&p->b, &p->a));
    assert_equal_trees(&p->b, &p->a);
    /* the maker has lost its own, and gets it from the copy */
    shell("rm -r %s/branches/" BRANCH, p->a.store);
    dmt_replica_branches_changed(p->a.r);
    WAIT_FOR(there(&p->a, BRANCH));
    same_files(p);
}

static void cut_in_the_midst_it_goes_on(void **state)
{
    struct pair *p = *state;
    part(p, 12);
    for (unsigned i = 0; i < 4; i++) {
        atomic_store(&p->relay.cut_after, 400000l * (i + 1));
        WAIT_FOR(atomic_load(&p->relay.cuts) > i + 1 || there(&p->b, BRANCH));
    }
    assert_true(atomic_load(&p->relay.cuts) > 3); /* it was not there yet */
    WAIT_FOR(there(&p->b, BRANCH));
    same_files(p);
}

/* Its disk has no room for it: said once; the workspace goes on, what had come is gone. */
static atomic_uint refused;

static ssize_t no_room(void *ctx, int fd, const void *buf, size_t len, uint64_t off, bool keep)
{
    char link[64], path[256] = "";
    const struct dmt_io *real = dmt_io_real();
    (void)ctx;
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof(path) - 1) > 0 && strstr(path, ".copy/") && off > 300000) {
        atomic_fetch_add(&refused, 1);
        return -ENOSPC;
    }
    return real->pwrite_long(real->ctx, fd, buf, len, off, keep);
}

static void a_full_disk_is_told_and_harms_nothing(void **state)
{
    struct pair *p = *state;

    atomic_store(&refused, 0);
    p->b.io.pwrite_long = no_room;
    part(p, 3);
    WAIT_FOR(atomic_load(&refused) > 0);
    WAIT_FOR(
        said(&p->b, p->b.last_event, "branch/" BRANCH " cannot be copied here: No space left"));
    WAIT_FOR(!there(&p->b, BRANCH ".copy"));
    write_bulk(&p->b, make_file(&p->b, "bulk"), 0, 3u << 20, 1);
    assert_int_equal(dmt_ws_sync_wait(p->b.ws, 0), 0);
    WAIT_FOR(same_place(&p->b, &p->a));
    assert_equal_trees(&p->b, &p->a);
    assert_false(there(&p->b, BRANCH));
    assert_int_equal(atomic_load(&refused), 1); /* not again at once */
    assert_true(said(&p->a, p->a.failed, "") && said(&p->b, p->b.failed, ""));
}

static void a_removal_is_for_both(void **state)
{
    struct pair *p = *state;
    part(p, 1);
    WAIT_FOR(there(&p->b, BRANCH));
    remove_at(&p->b); /* the copy, on the holder */
    WAIT_FOR(there(&p->a, BRANCH ".removed") && !there(&p->a, BRANCH));
    assert_false(there(&p->b, BRANCH));
}

/* Removed while the other machine is away: it hears of it when it is back, and gives nothing. */
static void a_removal_is_not_undone_by_who_was_away(void **state)
{
    struct pair *p = *state;
    part(p, 1);
    WAIT_FOR(there(&p->b, BRANCH));
    atomic_store(&p->relay.refuse, true);
    atomic_store(&p->relay.cut_after, 1);
    WAIT_FOR(!p->a.up && !p->b.up);
    remove_at(&p->a);
    atomic_store(&p->relay.refuse, false);
    WAIT_FOR(there(&p->b, BRANCH ".removed") && !there(&p->b, BRANCH));
    write_text(&p->b, "more", "more");
    WAIT_FOR(same_place(&p->b, &p->a));
    assert_false(there(&p->a, BRANCH) || there(&p->b, BRANCH));
}

/* A link so slow that the branch takes minutes: a sync does not wait for it. */
static void records_come_first(void **state)
{
    struct pair *p = *state;
    part(p, 6);
    WAIT_FOR(there(&p->b, BRANCH));
    shell("rm -r %s/branches/" BRANCH, p->b.store);
    atomic_store(&p->relay.rate, 100000);
    atomic_store(&p->relay.cut_after, 1); /* the next connection is slow; b asks anew */
    WAIT_FOR(there(&p->b, BRANCH ".copy"));
    WAIT_FOR(p->a.up && p->b.up);
    atomic_store(&p->b.dual, true);
    for (int i = 0; i < 10; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "f%d", i);
        write_text(&p->b, name, name);
        assert_int_equal(dmt_ws_sync_wait(p->b.ws, 0), 0);
    }
    assert_false(there(&p->b, BRANCH)); /* 6 MiB at 100 kB/s: all of them came before its end */
    atomic_store(&p->b.dual, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, pair_setup, pair_teardown)
        T(a_branch_goes_to_the_new_holder),         T(cut_in_the_midst_it_goes_on),
        T(a_full_disk_is_told_and_harms_nothing),   T(a_removal_is_for_both),
        T(a_removal_is_not_undone_by_who_was_away), T(records_come_first),
    };
    cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
