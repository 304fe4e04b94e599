/* test_archiver.c: a real workspace, its archiver, and the way back, over a directory. */
#include "tests/unit/archive/fixture.h"
#include "fs/base/hash.h"

struct mark {
    uint64_t seq, time_ns;
    char digest[65];
};

static struct mark mark_now(struct machine *m)
{
    struct mark k = {.seq = fx_sync(m)};
    fx_digest(m->ws, k.digest);
    k.time_ns = dmt_clock_real()->realtime_ns(NULL);
    return k;
}

static char *object_path(struct fx *f, struct machine *m, uint64_t n)
{
    static char path[400];
    char key[SERIES_KEY_MAX];
    series_key(key, dmt_store_ident(dmt_ws_store(m->ws))->lineage, m->node, n);
    snprintf(path, sizeof(path), "%s/%s", f->url + 7, key);
    return path;
}

static uint64_t count_objects(struct fx *f, struct machine *m)
{
    uint64_t n = 0;
    while (!access(object_path(f, m, n), F_OK))
        n++;
    return n;
}

static struct archive_hdr header(struct fx *f, struct machine *m, uint64_t n)
{
    uint8_t p[ARCHIVE_HDR_BYTES];
    struct archive_hdr h;
    int fd = open(object_path(f, m, n), O_RDONLY);
    assert_true(fd >= 0 && read(fd, p, sizeof(p)) == (ssize_t)sizeof(p));
    close(fd);
    assert_int_equal(archive_hdr_decode(p, sizeof(p), &h), 0);
    return h;
}

static void start(struct fx *f, struct machine *m)
{
    fx_create(m);
    fx_serve(m, true);
    fx_archive(f, m);
}

/* --- the way there and back */

static void every_moment_comes_back(void **state)
{
    struct fx *f = *state;
    struct mark k[6];
    start(f, &f->a);
    fx_flush(&f->a);
    for (int i = 0; i < 6; i++) {
        fx_work(&f->a, (uint64_t)i, 20);
        k[i] = mark_now(&f->a);
        if (i == 3) {
            struct dmt_err err = {0};
            fx_ok(dmt_ws_snap_create(f->a.ws, "third", "note", NULL, &err), &err);
            fx_ok(dmt_ws_checkpoint(f->a.ws, &err), &err);
        }
    }
    fx_flush(&f->a);
    assert_true(count_objects(f, &f->a) > 6);
    for (int i = 0; i < 6; i++)
        fx_restore_equal(f, k[i].seq, k[i].digest);
    fx_restore_equal(f, 0, k[5].digest);
    for (int i = 0; i < 6; i++) { /* by time */
        struct dmt_err err = {0};
        struct dmt_restore r;
        char got[65];
        fx_ok(fx_restore(f, 0, k[i].time_ns, &r, got, &err), &err);
        assert_string_equal(got, k[i].digest);
        assert_true(r.reached.seq == k[i].seq && r.reached_time_ns <= k[i].time_ns);
    }
}

static void moments_out_of_reach(void **state)
{
    struct fx *f = *state;
    struct dmt_err err = {0};
    char got[65];
    assert_int_equal(fx_restore(f, 0, 0, NULL, got, &err), -ENOENT);
    start(f, &f->a);
    fx_work(&f->a, 1, 3);
    uint64_t seq = fx_flush(&f->a);
    assert_int_equal(fx_restore(f, 0, 1000, NULL, got, &err), -ENOENT);
    assert_non_null(strstr(err.msg, "begins at"));
    assert_int_equal(fx_restore(f, seq + 1000, 0, NULL, got, &err), -ENOENT);
    assert_non_null(strstr(err.msg, "ends at"));
}

static void only_up_to_the_limit(void **state)
{
    struct fx *f = *state;
    start(f, &f->a);
    fx_work(&f->a, 1, 5);
    fx_flush(&f->a);
    struct mark k = mark_now(&f->a);
    atomic_store(&f->a.hold, k.seq); /* the standby has not acknowledged more */
    fx_work(&f->a, 2, 5);
    fx_sync(&f->a);
    for (int i = 0; i < 20; i++) {
        dmt_archiver_flush(f->a.ar);
        fx_nap();
    }
    assert_int_equal(atomic_load(&f->a.archived), k.seq);
    fx_restore_equal(f, 0, k.digest);
    atomic_store(&f->a.hold, 0);
    fx_flush(&f->a);
}

/* --- bulk */

static void bulk_data(void **state)
{
    struct fx *f = *state;
    struct mark k[3];
    start(f, &f->a);
    uint64_t ino = fx_big(&f->a, "checkpoint", (12u << 20) + 777, 1);
    k[0] = mark_now(&f->a);
    fx_flush(&f->a);
    fx_write(&f->a, ino, "tiny change", 11, (5u << 20) + 3);
    k[1] = mark_now(&f->a);
    fx_big(&f->a, "second", 3u << 20, 2);
    struct dmt_op op = {0};
    fx_ok(dmt_ws_rename(f->a.ws, &op, DMT_ROOT, "second", DMT_ROOT, "checkpoint", 0), NULL);
    k[2] = mark_now(&f->a);
    fx_flush(&f->a);
    bool bulk = false;
    for (uint64_t n = 0; n < count_objects(f, &f->a); n++)
        bulk |= header(f, &f->a, n).kind == ARCHIVE_BULK;
    assert_true(bulk);
    for (int i = 0; i < 3; i++)
        fx_restore_equal(f, k[i].seq, k[i].digest);
}

/* Truncated to nothing and written again, as `torch.save` in place does: a new data file each
 * time. */
static void bulk_rewritten_in_place(void **state)
{
    struct fx *f = *state;
    struct mark k[4];
    uint8_t *p = malloc(128u << 10);
    start(f, &f->a);
    uint64_t ino = fx_big(&f->a, "model", 9u << 20, 1);
    k[0] = mark_now(&f->a);
    fx_flush(&f->a);
    for (int i = 1; i < 4; i++) {
        struct dmt_setattr sa = {.mask = DMT_SET_SIZE};
        struct dmt_op op = {0};
        struct dmt_attr at;
        fx_ok(dmt_ws_setattr(f->a.ws, &op, ino, &sa, &at), NULL);
        for (uint64_t off = 0; off < (uint64_t)(10 - i) << 20; off += 128u << 10) {
            fx_fill(p, 128u << 10, (uint64_t)i * 77 + off);
            fx_write(&f->a, ino, p, 128u << 10, off);
        }
        if (i == 2)
            fx_flush(&f->a);
        k[i] = mark_now(&f->a);
    }
    fx_flush(&f->a);
    fx_restore_equal(f, k[0].seq, k[0].digest);
    fx_restore_equal(f, k[2].seq, k[2].digest);
    fx_restore_equal(f, k[3].seq, k[3].digest);
    free(p);
}

/* Overwritten before its turn came: the later moment is exact, the earlier one has what was
 * complete, and says so. */
static void bulk_overwritten_in_time(void **state)
{
    struct fx *f = *state;
    uint8_t *p = malloc(1u << 20);
    struct dmt_restore r;
    struct dmt_err err = {0};
    char got[65];
    start(f, &f->a);
    fx_flush(&f->a);
    atomic_store(&f->a.hold, atomic_load(&f->a.archived));
    uint64_t ino = fx_big(&f->a, "model", 6u << 20, 1);
    struct mark first = mark_now(&f->a);
    fx_fill(p, 1u << 20, 99);
    for (int i = 0; i < 3; i++)
        fx_write(&f->a, ino, p, 1u << 20, (uint64_t)i * (1u << 20));
    fx_write(&f->a, ino, "odd", 3,
             (5u << 20) + 12345); /* byte-exact: the rest of its range must survive */
    struct mark second = mark_now(&f->a);
    atomic_store(&f->a.hold, 0);
    fx_flush(&f->a);
    fx_restore_equal(f, second.seq, second.digest);
    fx_ok(fx_restore(f, first.seq, 0, &r, got, &err), &err);
    assert_int_equal(r.reached.seq, first.seq);
    assert_int_equal(r.incomplete, 1);
    free(p);
}

/* Overwritten before its turn came, but a snapshot has it: the snapshot comes back whole. */
static void bulk_of_a_snapshot(void **state)
{
    struct fx *f = *state;
    struct dmt_err err = {0};
    uint8_t *p = malloc(1u << 20);
    char want[65], got[65], dir[160];
    struct dmt_snapshot snap = {0};
    start(f, &f->a);
    fx_flush(&f->a);
    atomic_store(&f->a.hold, atomic_load(&f->a.archived));
    uint64_t ino = fx_big(&f->a, "model", 6u << 20, 1);
    fx_ok(dmt_ws_snap_create(f->a.ws, "epoch-1", "", &snap, &err), &err);
    fx_fill(p, 1u << 20, 99);
    for (uint64_t i = 1; i < 4; i++)
        fx_write(&f->a, ino, p, 1u << 20, i << 20);
    fx_write(&f->a, ino, "odd", 3, (5u << 20) + 12345);
    fx_ok(dmt_ws_digest(f->a.ws, snap.seq, want, &err), &err);
    struct mark now = mark_now(&f->a);
    atomic_store(&f->a.hold, 0);
    fx_flush(&f->a);
    fx_restore_equal(f, 0, now.digest);
    snprintf(dir, sizeof(dir), "%.60s/with-snapshot", f->dir);
    struct dmt_restore r = {.url = f->url, .name = "copy", .dir = dir};
    fx_ok(dmt_archive_restore(&r, &err), &err);
    assert_int_equal(r.incomplete, 0);
    struct machine m;
    fx_machine(f, &m, "x");
    snprintf(m.store, sizeof(m.store), "%s", dir);
    fx_open_ws(&m);
    fx_ok(dmt_ws_digest(m.ws, snap.seq, got, &err), &err);
    assert_string_equal(got, want);
    fx_close_ws(&m);
    dmt_pool_free(m.pool);
    free(p);
}

/* Written, replaced, rolled back, and the snapshot is gone before the archive's turn comes: the
 * content came from nowhere but that snapshot. While that is there nothing is sent twice. */
static void bulk_that_was_rolled_back(void **state)
{
    struct fx *f = *state;
    struct dmt_err err = {0};
    struct dmt_rollback rb = {.snapshot = "good"};
    struct dmt_archive_status s;
    struct dmt_snapshot snap;
    uint8_t *p = malloc(1u << 20);
    start(f, &f->a);
    fx_flush(&f->a);
    atomic_store(&f->a.hold, atomic_load(&f->a.archived));
    uint64_t ino = fx_big(&f->a, "model", 6u << 20, 1);
    fx_ok(dmt_ws_snap_create(f->a.ws, "good", "", &snap, &err), &err);
    fx_fill(p, 1u << 20, 99);
    for (uint64_t i = 1; i < 4; i++)
        fx_write(&f->a, ino, p, 1u << 20, i << 20);
    fx_ok(dmt_ws_rollback(f->a.ws, &rb, &err), &err);
    fx_ok(dmt_ws_snap_delete(f->a.ws, rb.saved_as, &err), &err);
    fx_ok(dmt_ws_snap_delete(f->a.ws, "good", &err), &err);
    struct mark k = mark_now(&f->a);
    atomic_store(&f->a.hold, 0);
    fx_flush(&f->a);
    fx_restore_equal(f, k.seq, k.digest);
    fx_ok(dmt_ws_snap_create(f->a.ws, "good", "", &snap, &err), &err);
    fx_fill(p, 1u << 20, 77);
    for (uint64_t i = 1; i < 4; i++)
        fx_write(&f->a, ino, p, 1u << 20, i << 20);
    fx_flush(&f->a);
    dmt_archiver_status(f->a.ar, &s);
    uint64_t before = s.bytes;
    fx_ok(dmt_ws_rollback(f->a.ws, &rb, &err), &err);
    fx_flush(&f->a);
    dmt_archiver_status(f->a.ar, &s);
    assert_true(s.bytes - before < 1u << 20);
    k = mark_now(&f->a);
    fx_restore_equal(f, k.seq, k.digest);
    free(p);
}

/* Scratch files that are gone again cost nothing. */
static void scratch_files_are_not_sent(void **state)
{
    struct fx *f = *state;
    struct dmt_archive_status s;
    struct dmt_op op = {0};
    start(f, &f->a);
    fx_flush(&f->a);
    atomic_store(&f->a.hold, atomic_load(&f->a.archived));
    dmt_archiver_status(f->a.ar, &s);
    uint64_t before = s.bytes;
    fx_big(&f->a, "scratch", 16u << 20, 1);
    fx_ok(dmt_ws_unlink(f->a.ws, &op, DMT_ROOT, "scratch", false), NULL);
    atomic_store(&f->a.hold, 0);
    fx_flush(&f->a);
    dmt_archiver_status(f->a.ar, &s);
    assert_true(s.bytes - before <
                4u << 20); /* what was written inline before the budget was used up */
    struct mark k = mark_now(&f->a);
    fx_restore_equal(f, k.seq, k.digest);
}

/* --- restarts */

static void state_path(struct machine *m, char path[192], const char *suffix)
{
    snprintf(path, 192, "%s/archive.state%s", m->store, suffix);
}

static void restart_goes_on(void **state)
{
    struct fx *f = *state;
    char path[192];
    start(f, &f->a);
    for (int i = 0; i < 4; i++) {
        fx_work(&f->a, (uint64_t)i, 5);
        fx_flush(&f->a);
        fx_archive_stop(&f->a);
        if (i == 1) /* the state is lost: the archive itself says where it stands */
            assert_int_equal(unlink((state_path(&f->a, path, ""), path)), 0);
        if (i == 2) { /* a whole restart, in a new minor epoch */
            fx_close_ws(&f->a);
            fx_serve(&f->a, false);
        }
        fx_archive(f, &f->a);
    }
    fx_work(&f->a, 9, 5);
    struct mark k = mark_now(&f->a);
    fx_flush(&f->a);
    uint64_t n = count_objects(f, &f->a), bases = 0, next = 0, chain = 0;
    for (uint64_t i = 0; i < n; i++) {
        struct archive_hdr h = header(f, &f->a, i);
        bases += h.kind == ARCHIVE_BASE && (h.flags & ARCHIVE_BASE_LAST);
        if (h.kind == ARCHIVE_JOURNAL) { /* A3: one unbroken run */
            if (next)
                assert_true(h.first_seq == next && h.chain_before == chain && h.run_n == 0);
            next = h.last_seq + 1;
            chain = h.chain_after;
        }
    }
    assert_int_equal(bases, 1);
    fx_restore_equal(f, k.seq, k.digest);
}

/* Died between the upload and the note of it: what is there is found by walking, not sent again. */
static void stored_but_not_recorded(void **state)
{
    struct fx *f = *state;
    char path[192], old[192];
    start(f, &f->a);
    fx_work(&f->a, 1, 5);
    fx_flush(&f->a);
    state_path(&f->a, path, "");
    state_path(&f->a, old, ".old");
    fx_run("cp", path, old, NULL);
    for (int i = 0; i < 3; i++) {
        fx_work(&f->a, 2 + (uint64_t)i, 5);
        fx_flush(&f->a);
    }
    fx_archive_stop(&f->a);
    uint64_t n = count_objects(f, &f->a);
    assert_int_equal(rename(old, path), 0);
    atomic_store(&f->a.archived, 0);
    fx_archive(f, &f->a);
    fx_flush(&f->a);
    assert_int_equal(count_objects(f, &f->a), n);
    struct mark k = mark_now(&f->a);
    fx_restore_equal(f, k.seq, k.digest);
}

/* archive.state cannot be written: nothing is said to be archived, nothing is lost, and it goes on
 * when it can. */
static atomic_bool g_state_fails;
static int state_rename(void *ctx, const char *from, const char *to)
{
    if (atomic_load(&g_state_fails) && strstr(to, "archive.state"))
        return -ENOSPC;
    return dmt_io_real()->rename(ctx, from, to);
}

static void progress_must_be_durable_first(void **state)
{
    struct fx *f = *state;
    struct dmt_io io = *dmt_io_real();
    struct dmt_archive_status s;
    struct dmt_err err = {0};
    io.rename = state_rename;
    fx_create(&f->a);
    fx_serve(&f->a, true);
    struct dmt_archiver_conf c = {.url = f->url,
                                  .store_dir = f->a.store,
                                  .node = "a",
                                  .ws = f->a.ws,
                                  .limit = fx_limit,
                                  .archived = fx_archived,
                                  .ctx = &f->a,
                                  .pack_ms = 20,
                                  .io = &io};
    memcpy(c.lineage, dmt_store_ident(dmt_ws_store(f->a.ws))->lineage, 16);
    fx_ok(dmt_archiver_start(&f->a.ar, &c, &err), &err);
    uint64_t before = fx_flush(&f->a);
    atomic_store(&g_state_fails, true);
    fx_work(&f->a, 1, 3);
    fx_sync(&f->a);
    dmt_archiver_flush(f->a.ar);
    FX_WAIT((dmt_archiver_status(f->a.ar, &s), s.error_since_ns != 0));
    assert_int_equal(atomic_load(&f->a.archived), before);
    assert_non_null(strstr(s.last_error, "archive.state"));
    atomic_store(&g_state_fails, false);
    fx_flush(&f->a);
    struct mark k = mark_now(&f->a);
    fx_restore_equal(f, k.seq, k.digest);
}

/* --- a store that is away */

static void archive_away(void **state)
{
    struct fx *f = *state;
    struct dmt_archive_status s;
    char moved[192];
    snprintf(f->url, sizeof(f->url), "file://%s/disk/archive", f->dir);
    snprintf(moved, sizeof(moved), "%.60s/disk", f->dir);
    assert_int_equal(mkdir(moved, 0700), 0);
    start(f, &f->a);
    fx_work(&f->a, 1, 5);
    uint64_t before = fx_flush(&f->a);
    char from[192];
    memcpy(from, moved, sizeof(from));
    snprintf(moved, sizeof(moved), "%.60s/unplugged", f->dir);
    assert_int_equal(rename(from, moved), 0);
    fx_work(&f->a, 2, 20); /* the workspace does not notice */
    fx_sync(&f->a);
    dmt_archiver_flush(f->a.ar);
    FX_WAIT((dmt_archiver_status(f->a.ar, &s), s.error_since_ns && s.pending_bytes > 20 * 9000));
    assert_int_equal(s.archived_seq, before);
    assert_true(strlen(s.last_error) > 10);
    struct mark k = mark_now(&f->a);
    assert_int_equal(rename(moved, from), 0);
    fx_flush(&f->a);
    dmt_archiver_status(f->a.ar, &s);
    assert_int_equal(s.error_since_ns, 0);
    assert_string_equal(s.last_error, "");
    fx_restore_equal(f, k.seq, k.digest);
}

/* Another directory is mounted in its place: that is not a new archive but an error that says so.
 */
static void emptied_archive(void **state)
{
    struct fx *f = *state;
    struct dmt_archive_status s;
    start(f, &f->a);
    fx_work(&f->a, 1, 3);
    fx_flush(&f->a);
    fx_archive_stop(&f->a);
    fx_rm(f->url + 7);
    fx_archive(f, &f->a);
    FX_WAIT((dmt_archiver_status(f->a.ar, &s), s.error_since_ns != 0));
    assert_non_null(strstr(s.last_error, "node/0"));
    assert_int_equal(access(f->url + 7, F_OK), -1);
}

/* --- several machines */

static void copy_store(struct fx *f, struct machine *from, struct machine *to)
{
    char state[192];
    (void)f;
    fx_run("cp", "-a", from->store, to->store);
    state_path(to, state, "");
    unlink(state);
}

static void takeover_continues(void **state)
{
    struct fx *f = *state;
    start(f, &f->a);
    fx_work(&f->a, 1, 10);
    fx_flush(&f->a);
    fx_work(&f->a, 2, 10); /* not archived by a, but b has it */
    atomic_store(&f->a.hold, atomic_load(&f->a.archived));
    fx_archive_stop(&f->a);
    fx_close_ws(&f->a);
    copy_store(f, &f->a, &f->b);
    fx_serve(&f->b, true);
    fx_archive(f, &f->b);
    fx_work(&f->b, 3, 10);
    struct mark k = mark_now(&f->b);
    fx_flush(&f->b);
    struct archive_hdr h = header(f, &f->b, 0);
    assert_int_equal(h.kind, ARCHIVE_JOURNAL); /* no base: it continues a's series */
    assert_string_equal(h.prev_node, "a");
    fx_restore_equal(f, k.seq, k.digest);
    /* And back: a takes over from b. */
    fx_archive_stop(&f->b);
    fx_close_ws(&f->b);
    fx_rm(f->a.store);
    copy_store(f, &f->b, &f->a);
    atomic_store(&f->a.hold, 0);
    fx_serve(&f->a, true);
    fx_archive(f, &f->a);
    fx_work(&f->a, 4, 10);
    struct mark k2 = mark_now(&f->a);
    fx_flush(&f->a);
    fx_restore_equal(f, k2.seq, k2.digest);
    fx_restore_equal(f, k.seq, k.digest);
}

/* a goes on after b has left: what only a had uploaded is on no path. */
static void losers_records_are_not_restored(void **state)
{
    struct fx *f = *state;
    start(f, &f->a);
    fx_work(&f->a, 1, 10);
    uint64_t common = fx_flush(&f->a);
    fx_archive_stop(&f->a);
    fx_close_ws(&f->a);
    copy_store(f, &f->a, &f->b);
    fx_serve(&f->a, false);
    fx_archive(f, &f->a);
    fx_work(&f->a, 66, 10);
    fx_flush(&f->a);
    fx_serve(&f->b, true);
    fx_archive(f, &f->b);
    fx_work(&f->b, 3, 3);
    struct mark k = mark_now(&f->b);
    fx_flush(&f->b);
    assert_true(atomic_load(&f->a.archived) > common);
    fx_restore_equal(f, 0, k.digest);
}

static void base_when_the_journal_is_cut(void **state)
{
    struct fx *f = *state;
    struct dmt_err err = {0};
    char got[65];
    start(f, &f->a);
    fx_work(&f->a, 1, 10);
    struct mark old = mark_now(&f->a);
    fx_flush(&f->a);
    fx_archive_stop(&f->a);
    dmt_ws_set_retention(f->a.ws, UINT64_MAX, UINT64_MAX);
    fx_big(&f->a, "big", 5u << 20, 3);
    uint64_t gap = 0;
    for (int i = 0; i < 300; i++) { /* past the first segments */
        fx_work(&f->a, 100 + (uint64_t)i, 5);
        gap = fx_sync(&f->a);
        fx_ok(dmt_ws_checkpoint(f->a.ws, &err), &err);
        if (dmt_journal_first(dmt_ws_journal(f->a.ws)).seq > old.seq)
            break;
    }
    assert_true(dmt_journal_first(dmt_ws_journal(f->a.ws)).seq > old.seq);
    dmt_ws_set_retention(f->a.ws, UINT64_MAX, 0);
    fx_archive(f, &f->a);
    fx_flush(&f->a);
    fx_work(&f->a, 2, 10);
    struct mark k = mark_now(&f->a);
    fx_flush(&f->a);
    fx_restore_equal(f, 0, k.digest);
    fx_restore_equal(f, old.seq, old.digest);
    assert_int_equal(fx_restore(f, gap - 1, 0, NULL, got, &err), DMT_E_GONE);
    assert_non_null(strstr(err.msg, "no records between"));
}

static void base_in_parts(void **state)
{
    struct fx *f = *state;
    fx_create(&f->a);
    fx_serve(&f->a, true);
    fx_big(&f->a, "big", 7u << 20, 3);
    fx_work(&f->a, 1, 10);
    struct dmt_err err = {0};
    fx_ok(dmt_ws_snap_create(f->a.ws, "before", "", NULL, &err), &err);
    fx_work(&f->a, 2, 10);
    fx_archive(f, &f->a);
    fx_flush(&f->a);
    assert_true(header(f, &f->a, count_objects(f, &f->a) - 1).base_parts > 1);
    struct mark k = mark_now(&f->a);
    fx_restore_equal(f, 0, k.digest);
}

/* --- damage */

static void flip(const char *path, off_t at)
{
    uint8_t c;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && pread(fd, &c, 1, at) == 1);
    c ^= 0x10;
    assert_int_equal(pwrite(fd, &c, 1, at), 1);
    close(fd);
}

/* Position that an error message says can still be reached. */
static uint64_t said(const struct dmt_err *err)
{
    const char *p = strstr(err->msg, "position ");
    assert_non_null(p);
    return strtoull(p + 9, NULL, 10);
}

static void damage_is_named(void **state)
{
    struct fx *f = *state;
    struct dmt_err err;
    char got[65], keep[512], number[32];
    start(f, &f->a);
    fx_flush(&f->a);
    for (int i = 0; i < 8; i++) {
        fx_work(&f->a, (uint64_t)i, 3);
        if (i == 4)
            fx_big(&f->a, "big", 3u << 20, 1);
        fx_flush(&f->a);
    }
    uint64_t n = count_objects(f, &f->a), base_parts = header(f, &f->a, n - 1).base_parts;
    for (uint64_t i = 0; i < n; i++) {
        static const char *const how[] = {"missing", "cut", "flipped"};
        for (int d = 0; d < 3; d++) {
            char *path = object_path(f, &f->a, i);
            if (i == n - 1 && d == 0)
                continue; /* the last one missing is an archive that ends earlier */
            snprintf(keep, sizeof(keep), "%s.keep", path);
            fx_run("cp", path, keep, NULL);
            if (d == 0)
                assert_int_equal(unlink(path), 0);
            else if (d == 1)
                assert_int_equal(truncate(path, ARCHIVE_HDR_BYTES + 10), 0);
            else
                flip(path, ARCHIVE_HDR_BYTES + 30);
            memset(&err, 0, sizeof(err));
            int r = fx_restore(f, 0, 0, NULL, got, &err);
            snprintf(number, sizeof(number), "%012llu.lz4", (unsigned long long)i);
            if (r != DMT_E_CORRUPT || !strstr(err.msg, number))
                fail_msg("object %llu %s: %d %s", (unsigned long long)i, how[d], r, err.msg);
            if (i >= base_parts && strstr(err.msg, "up to position")) {
                uint64_t seq = said(&err);
                memset(&err, 0, sizeof(err));
                fx_ok(fx_restore(f, seq, 0, NULL, got, &err), &err); /* what it promises holds */
            }
            assert_int_equal(rename(keep, path), 0);
        }
    }
    struct mark k = mark_now(&f->a);
    fx_restore_equal(f, 0, k.digest);
}

static void target_is_protected(void **state)
{
    struct fx *f = *state;
    struct dmt_err err = {0};
    char dir[128], file[160];
    start(f, &f->a);
    fx_flush(&f->a);
    snprintf(dir, sizeof(dir), "%.60s/target", f->dir);
    snprintf(file, sizeof(file), "%s/precious", dir);
    struct dmt_restore r = {.url = f->url, .name = "copy", .dir = dir};
    assert_int_equal(mkdir(dir, 0700), 0);
    close(open(file, O_CREAT | O_WRONLY, 0600));
    assert_true(dmt_archive_restore(&r, &err) < 0);
    assert_int_equal(access(file, F_OK), 0);
    assert_int_equal(unlink(file), 0);
    fx_ok(dmt_archive_restore(&r, &err), &err); /* empty is fine */
    struct machine m;
    fx_machine(f, &m, "x");
    snprintf(m.store, sizeof(m.store), "%s", dir);
    fx_open_ws(&m);
    const struct dmt_store_ident *id = dmt_store_ident(dmt_ws_store(m.ws));
    assert_string_equal(id->name, "copy");
    assert_memory_not_equal(id->lineage, dmt_store_ident(dmt_ws_store(f->a.ws))->lineage, 16);
    fx_close_ws(&m);
    dmt_pool_free(m.pool);
}

static void bad_configuration(void **state)
{
    struct fx *f = *state;
    struct dmt_err err = {0};
    fx_create(&f->a);
    fx_serve(&f->a, true);
    snprintf(f->url, sizeof(f->url), "ftp://x");
    assert_int_equal(fx_try_archive(f, &f->a, &err), DMT_E_CONFIG);
    snprintf(f->url, sizeof(f->url), "file://%s/archive", f->dir);
    snprintf(f->a.node, sizeof(f->a.node), "a/b");
    assert_int_equal(fx_try_archive(f, &f->a, &err), DMT_E_CONFIG);
    assert_null(f->a.ar);
    dmt_archiver_stop(NULL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
    const struct CMUnitTest tests[] = {
        T(every_moment_comes_back),
        T(moments_out_of_reach),
        T(only_up_to_the_limit),
        T(bulk_data),
        T(bulk_rewritten_in_place),
        T(bulk_overwritten_in_time),
        T(bulk_of_a_snapshot),
        T(bulk_that_was_rolled_back),
        T(scratch_files_are_not_sent),
        T(restart_goes_on),
        T(stored_but_not_recorded),
        T(progress_must_be_durable_first),
        T(archive_away),
        T(emptied_archive),
        T(takeover_continues),
        T(losers_records_are_not_restored),
        T(base_when_the_journal_is_cut),
        T(base_in_parts),
        T(damage_is_named),
        T(target_is_protected),
        T(bad_configuration),
    };
    if (getenv("ONLY"))
        cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests_name("archive: archiver and restore", tests, NULL, NULL);
}
