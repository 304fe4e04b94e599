/* check.c: is a stored workspace sound? The journal, the rows, the data files, and what each says
 * about the others.
 *
 * Happy path: the store's lock is taken; the database says whose it is and where it stands; the
 * journal is read as an open would, with that position as its floor, every body decoded; the store
 * looks at its rows and files (fs/store/check.c); the values that this layer keeps in the meta
 * table must fit to the rows. A repair is begun only when nothing was found that has none, and when
 * the journal ends where the rows stand: records still to be replayed rely on counters and places
 * as they are. Afterwards everything is looked at again. Failure modes: damage is findings, not
 * errors; an error means that the check itself could not be made. Thread: one; blocks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/workspace/ws.h"

#define KIND_VALUE "value"
#define THEN_RAISE "--repair raises it above every number in use."
#define THEN_COPY                                                                                 \
    "This cannot be put right here: keep this store as it is, and go on with the standby or the " \
    "archive."

struct look {
    struct dmt_ws_check *k;
    struct dmt_checker *ck;
    bool mend; /* within a repair */
};

__attribute__((format(printf, 5, 6))) static void
found(struct look *l, const char *kind, const char *todo, bool repairable, const char *fmt, ...)
{
    char text[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    const struct dmt_finding f = {
        .kind = kind, .text = text, .todo = todo, .repairable = repairable};
    l->k->findings++;
    l->k->lossy |= !repairable;
    l->k->found(l->k->ctx, &f);
}

static void from_store(void *ctx, const struct dmt_finding *f)
{
    struct look *l = ctx;
    l->k->lossy |= !f->repairable;
    l->k->found(l->k->ctx, f);
}

/* --- the journal */

static int on_record(void *ctx, const struct dmt_rec *r)
{
    struct look *l = ctx;
    struct dmt_body b;
    if (dmt_body_decode(r->type, r->body, r->body_len, &b) < 0)
        found(l, "record", THEN_COPY, false,
              "record %" PRIu64 " of the journal is whole, but of a kind or form that is not known",
              r->seq);
    if (++l->k->records % 1024 == 0)
        l->k->step(l->k->ctx, "reading the journal", l->k->records);
    l->k->last_seq = r->seq;
    return 0;
}

static void look_at_journal(struct look *l)
{
    const struct dmt_checked *db = dmt_checker_state(l->ck);
    struct dmt_ws_check *k = l->k;
    struct dmt_err err = {0};
    struct dmt_pos tail = {0};
    char path[DMT_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/journal", k->dir);
    k->records = k->last_seq = 0;
    k->settled = false;
    k->step(k->ctx, "reading the journal", 0);
    int r = dmt_journal_check(k->io, path, db->open ? db->ident.lineage : NULL,
                              db->open ? &db->applied : NULL, &tail, on_record, l, &err);
    if (r == -ENOENT)
        r = 0;
    if (r < 0) {
        found(l, "journal", err.hint[0] ? err.hint : THEN_COPY, false, "%s", err.msg);
        return;
    }
    if (r == 0 && db->applied.seq > 0) {
        found(l, "journal", THEN_COPY, false,
              "the journal is empty, and the database stands at record %" PRIu64
              ": what was written after that, if anything, is lost",
              db->applied.seq);
        return;
    }
    if (!db->open)
        return;
    if (tail.seq < db->floor.seq)
        found(l, "journal", THEN_COPY, false,
              "the journal ends at record %" PRIu64
              ", and data files hold bytes of records up to %" PRIu64,
              tail.seq, db->floor.seq);
    k->settled = tail.seq == db->applied.seq && db->floor.seq <= tail.seq;
    if (r > 0 && k->records == 0)
        k->last_seq = tail.seq;
}

/* --- values in the store's meta table */

static int piece(struct look *l, const char *key, unsigned i, void **ret, size_t *len)
{
    char name[64];
    ws_meta_key(name, key, i);
    return dmt_checker_meta(l->ck, name, ret, len);
}

/* A value of any length; -ENOENT when there is none. */
static int value(struct look *l, const char *key, struct dmt_buf *b)
{
    int r = 0;
    dmt_buf_reset(b);
    for (unsigned i = 0; r == 0; i++) {
        void *p = NULL;
        size_t n = 0;
        r = piece(l, key, i, &p, &n);
        if (r == 0)
            dmt_put_raw(b, p, n);
        free(p);
        if (r == -ENOENT && i > 0)
            return b->bad ? -ENOMEM : 0;
    }
    return r;
}

/* A number that must be above what rows have; one that is not is raised. */
static int look_at_number(struct look *l, const char *key, uint64_t greatest, struct dmt_buf *b)
{
    uint64_t v = 0, want = greatest + 1;
    int r = value(l, key, b);
    if (r < 0 && r != -ENOENT)
        return r;
    bool there = r == 0 && b->len == 8;
    if (there)
        v = dmt_le64(b->p);
    if (there && v > greatest)
        return 0;
    if (!l->mend && there)
        found(l, KIND_VALUE, THEN_RAISE, true, "%s is %" PRIu64 ", and %" PRIu64 " is in use", key,
              v, greatest);
    else if (!l->mend)
        found(l, KIND_VALUE, THEN_RAISE, true, "the value %s is missing", key);
    if (!l->mend)
        return 0;
    char text[128];
    (void)snprintf(text, sizeof(text), "%s is not above %" PRIu64 ", which is in use: raises it",
                   key, greatest);
    l->k->repairing(l->k->ctx, text);
    return dmt_checker_meta_put(l->ck, key, &want, sizeof(want));
}

static int note_orphan(void *ctx, uint64_t ino)
{
    dmt_put_u64(ctx, ino);
    return 0;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = dmt_le64(a), y = dmt_le64(b);
    return x < y ? -1 : x > y;
}

static int write_orphans(struct look *l, const struct dmt_buf *rows)
{
    size_t at = 0;
    int r = 0;
    l->k->repairing(l->k->ctx, "the list of unlinked files that were still open differs from their "
                               "inodes: writes it anew");
    for (unsigned i = 0; r == 0; i++) {
        char key[64];
        void *old = NULL;
        size_t n = rows->len - at < WS_META_PIECE ? rows->len - at : WS_META_PIECE, was;
        int there = i > 0 && n == 0 ? piece(l, "ws.orphans", i, &old, &was) : 0;
        free(old);
        if (there < 0)
            return there == -ENOENT ? 0 : there;
        ws_meta_key(key, "ws.orphans", i);
        r = dmt_checker_meta_put(l->ck, key, n ? rows->p + at : (const uint8_t *)"", n);
        at += n;
    }
    return r;
}

/* Those that are on the list are removed by the next holder; so both must name the same. */
static int look_at_orphans(struct look *l, struct dmt_buf *list)
{
    struct dmt_buf rows = {0};
    int r = value(l, "ws.orphans", list);
    if (r == -ENOENT)
        r = 0;
    if (r == 0)
        r = dmt_checker_orphans(l->ck, note_orphan, &rows);
    if (r == 0 && (rows.bad || list->bad))
        r = -ENOMEM;
    if (r == 0 && list->len > 8)
        qsort(list->p, list->len / 8, 8, by_number);
    bool same = r == 0 && list->len == rows.len &&
                (rows.len == 0 || memcmp(list->p, rows.p, rows.len) == 0);
    if (r == 0 && !same && l->mend)
        r = write_orphans(l, &rows);
    else if (r == 0 && !same)
        found(l, "orphans", "--repair writes the list anew, from the inodes.", true,
              "%zu inodes are marked as unlinked and still open, the list of them names %zu%s",
              rows.len / 8, list->len / 8, rows.len == list->len ? " others" : "");
    dmt_buf_free(&rows);
    return r;
}

static int look_at_reports(struct look *l, struct dmt_buf *b)
{
    int r = value(l, "ws.incomplete", b);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    struct dmt_cur c = dmt_cur_of(b->p, b->len);
    struct dmt_body old;
    for (bool good = true; good && c.p < c.end;) {
        uint32_t n = 0;
        const uint8_t *p = dmt_get_bytes(&c, &n);
        good = p && !c.bad && dmt_body_decode(DMT_REC_INCOMPLETE, p, n, &old) == 0;
        if (!good)
            found(l, KIND_VALUE, THEN_COPY, false, "the list of incomplete files is damaged");
    }
    return 0;
}

static int look_at_values(struct look *l)
{
    struct dmt_buf b = {0};
    uint64_t ino = 0, snap = 0;
    int r = 0;
    if (dmt_checker_state(l->ck)->applied.seq == 0)
        return 0; /* a new store has none */
    r = dmt_checker_greatest(l->ck, &ino, &snap);
    if (r == 0)
        r = look_at_number(l, "ws.next_ino", ino, &b);
    if (r == 0)
        r = look_at_number(l, "ws.next_snap", snap, &b);
    if (r == 0)
        r = look_at_orphans(l, &b);
    if (r == 0 && !l->mend)
        r = look_at_reports(l, &b);
    dmt_buf_free(&b);
    return r;
}

/* --- the whole */

static void look_at_all(struct look *l)
{
    struct dmt_ws_check *k = l->k;
    struct dmt_err err = {0};
    k->findings = 0;
    k->lossy = false;
    if (dmt_checker_look(l->ck, &err) < 0)
        found(l, "database", err.hint[0] ? err.hint : THEN_COPY, false, "%s", err.msg);
    look_at_journal(l);
    if (!dmt_checker_state(l->ck)->open)
        return;
    k->step(k->ctx, "checking the database and the data files", 0);
    k->findings += dmt_checker_run(l->ck, k->settled, from_store, l);
    int r = look_at_values(l);
    if (r < 0)
        found(l, "database", THEN_COPY, false, "the workspace's values cannot be read: %s",
              dmt_strerror(r));
}

static int mend_values(void *ctx)
{
    struct look *l = ctx;
    l->mend = true;
    int r = look_at_values(l);
    l->mend = false;
    return r;
}

static void tell(void *ctx, const char *text)
{
    struct look *l = ctx;
    l->k->repairing(l->k->ctx, text);
}

int dmt_ws_check(struct dmt_ws_check *k, struct dmt_err *err)
{
    struct dmt_store_conf sc = {.io = k->io, .clock = k->clock, .dir = k->dir};
    struct look l = {.k = k};
    int r = dmt_checker_open(&l.ck, &sc, err);
    if (r < 0)
        return r;
    look_at_all(&l);
    k->repaired = k->repair && k->findings > 0 && !k->lossy && k->settled;
    if (k->repaired) {
        r = dmt_checker_repair(l.ck, mend_values, tell, &l, err);
        if (r == 0)
            look_at_all(&l);
    }
    dmt_checker_close(l.ck);
    return r;
}
