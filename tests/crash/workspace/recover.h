/* recover.h: from the moments of a run to verdicts: every disk that a cut may leave there is opened by normal recovery and
 * judged.
 *
 * Disks: process killed (all that was done is there), power cut with nothing unsynced kept, and power cut with random parts of it
 * (pages, sectors, names in order up to some point), several seeds. Everything that is written goes through the double, so
 * unsynced bytes of journal, data files, database and WAL are all dropped, torn and reordered; each group of runs counts that
 * they were (files_cut), and is a failure if a kind of file was not. Equal disks are looked at once. Each time: the workspace
 * opens and settles; what it shows may be found (sequence.h); the store's check finds nothing, before and after a checkpoint;
 * some are opened once more and must show the same; in some the recovery itself is cut at its disk operations, by the same event
 * or (after a power cut) by a kill, and judged again. */
#ifndef DMT_TESTS_CRASH_RECOVER_H
#define DMT_TESTS_CRASH_RECOVER_H

#include <sys/mman.h>
#include <sys/wait.h>
#include "tests/crash/workspace/sequence.h"

#define REPORTS 25u /* after so many failures a test ends */

enum kind { K_JOURNAL, K_DATA, K_DB, K_WAL, KINDS };

struct tally { /* shared by the processes */
    atomic_ulong kept[KINDS], lost[KINDS], torn[KINDS], late[KINDS], zeroed[KINDS];
    atomic_ulong sequences, moments, disks, recovered, nested, failures;
    atomic_ulong at[16]; /* of each process: the sequence it is at */
};

struct limits {
    unsigned randoms;   /* random disks a moment */
    unsigned disks_max; /* recovered a sequence; the rest is left out, evenly; 0 = all */
    unsigned nest_every, nest_max; /* every such disk: the recovery is cut, at up to so many moments; 0 = none */
};

static struct tally *g_tally;

struct shot { /* one disk to look at */
    size_t point;
    enum faultio_mode mode;
    uint64_t seed;
};

static inline void files_cut(const char *path, const struct faultio_pages *p)
{
    const char *name = strrchr(path, '/') + 1;
    int k = strstr(path, "/journal/") ? K_JOURNAL
            : strstr(path, "/data/")  ? K_DATA
            : strcmp(name, "workspace.db") == 0 ? K_DB
            : strcmp(name, "workspace.db-wal") == 0 ? K_WAL
                                                    : KINDS;
    if (k == KINDS)
        return;
    atomic_fetch_add(&g_tally->kept[k], p->kept);
    atomic_fetch_add(&g_tally->lost[k], p->lost);
    atomic_fetch_add(&g_tally->torn[k], p->torn);
    atomic_fetch_add(&g_tally->late[k], p->late);
    atomic_fetch_add(&g_tally->zeroed[k], p->zeroed);
}

/* Says what became of unsynced pages; false: some kind of file was not cut in every way. */
static inline bool files_were_cut(void)
{
    static const char *const names[] = {"journal", "data files", "database", "WAL"};
    bool all = true;
    for (int k = 0; k < KINDS; k++) {
        const struct tally *t = g_tally;
        printf("    unsynced pages of %s: %lu kept (%lu of them before earlier ones), %lu lost (%lu left zeros), %lu torn\n",
               names[k], (unsigned long)t->kept[k], (unsigned long)t->late[k], (unsigned long)t->lost[k],
               (unsigned long)t->zeroed[k], (unsigned long)t->torn[k]);
        all = all && t->kept[k] && t->lost[k] && t->torn[k] && t->late[k];
    }
    return all;
}

static inline const char *mode_name(enum faultio_mode m)
{
    return m == FAULTIO_KILL ? "killed" : m == FAULTIO_DROP ? "nothing kept" : m == FAULTIO_KEEP ? "all kept" : "parts kept";
}

__attribute__((format(printf, 2, 3))) static inline void report(const struct seq *q, const char *fmt, ...)
{
    char seq[400], text[700];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    seq_text(q, seq, sizeof(seq));
    if (atomic_fetch_add(&g_tally->failures, 1) < REPORTS)
        fprintf(stderr, "[%s]\n    %s\n", seq, text);
}

static inline void finding(void *ctx, const struct dmt_finding *f)
{
    char *buf = ctx;
    if (!*buf)
        snprintf(buf, 300, "check: %.250s", f->text);
}

static inline bool check_store(struct dmt_ws *ws, char why[300])
{
    struct dmt_err err = {0};
    *why = '\0';
    if (dmt_store_check(dmt_ws_store(ws), finding, why, &err) < 0)
        snprintf(why, 300, "check: %.250s", err.msg);
    return !*why;
}

/* Opens and judges; the workspace stays open in *ret. */
static inline bool judge_open(struct bench *b, const struct seq *q, const struct point *p, const struct dmt_io *io,
                              const char *dir, bool killed, struct dmt_ws **ret, struct tree *shown, char why[300])
{
    memset(shown, 0, sizeof(*shown));
    struct dmt_ws *ws = bench_open(b, io, dir, killed);
    *ret = ws;
    if (!ws) {
        snprintf(why, 300, "does not open: %.250s", b->err.msg);
        return false;
    }
    tree_of_ws(shown, ws);
    return seq_allows(q, p, killed, shown, why) && check_store(ws, why);
}

/* After that it is a workspace like any other. */
static inline bool judge_life(struct bench *b, struct dmt_ws *ws, char why[300])
{
    struct dmt_op op = {.umask = 022};
    struct dmt_attr a;
    struct dmt_err err = {0};
    int r = dmt_ws_make(ws, &op, DMT_ROOT, "later", S_IFREG | 0644, 0, NULL, &a);
    if (r == 0)
        r = dmt_ws_write(ws, &op, a.node, "later", 5, 0, false);
    if (r == 0)
        r = dmt_ws_sync_wait(ws, 0);
    if (r == 0)
        r = dmt_ws_checkpoint(ws, &err);
    if (r < 0)
        snprintf(why, 300, "after recovery: %d %.200s", r, err.msg);
    (void)b;
    return r == 0 && check_store(ws, why);
}

static inline bool judge_twice(struct bench *b, const char *dir, const struct tree *first, char why[300])
{
    struct tree t;
    struct dmt_ws *ws = bench_open(b, dmt_io_real(), dir, true);
    if (!ws) {
        snprintf(why, 300, "does not open again: %.250s", b->err.msg);
        return false;
    }
    tree_of_ws(&t, ws);
    bool same = tree_equal(first, &t, true, false, NULL, NULL, why);
    same = same && check_store(ws, why);
    tree_free(&t);
    (void)dmt_ws_close(ws, &b->err);
    return same;
}

/* One disk, in b->out already. */
static inline bool judge(struct bench *b, const struct seq *q, const struct point *p, bool killed, unsigned n, char why[300])
{
    struct dmt_ws *ws;
    struct tree shown, later = {0};
    bool ok = judge_open(b, q, p, dmt_io_real(), b->out, killed, &ws, &shown, why);
    bool again = n % 4 == 0;
    if (ok && n % 2 == 0)
        ok = judge_life(b, ws, why);
    if (ok && again)
        tree_of_ws(&later, ws);
    if (ws && dmt_ws_close(ws, &b->err) < 0 && ok) {
        snprintf(why, 300, "does not close: %.250s", b->err.msg);
        ok = false;
    }
    if (ok && again)
        ok = judge_twice(b, b->out, &later, why);
    tree_free(&shown);
    tree_free(&later);
    return ok;
}

/* --- which disks ------------------------------------------------------------------------------------------------------------ */

/* The i-th of the moments x kinds of disk. */
static inline struct shot shot_at(size_t i, const struct limits *lim, uint64_t seed)
{
    size_t kinds = 2 + lim->randoms, kind = i % kinds;
    return (struct shot){.point = i / kinds,
                         .mode = kind == 0 ? FAULTIO_DROP : kind == 1 ? FAULTIO_KILL : FAULTIO_RANDOM,
                         .seed = kind > 1 ? seed * 1000003 + i + 1 : 0};
}

struct seen {
    uint64_t *v;
    size_t n;
};

/* Equal disks, of which the same is asked, need one look. */
static inline bool seen_before(struct seen *s, uint64_t hash)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->v[i] == hash)
            return true;
    s->v = realloc(s->v, (s->n + 1) * sizeof(*s->v));
    DMT_ASSERT(s->v);
    s->v[s->n++] = hash;
    return false;
}

/* --- the recovery is cut ---------------------------------------------------------------------------------------------------- */

static inline void nested(struct bench *b, const struct seq *q, const struct point *p, const struct shot *x,
                          const struct limits *lim)
{
    struct progress now = {p->started, p->completed, p->acked};
    struct points inner = {.now = &now};
    char why[300] = "";
    uint64_t hash;
    struct faultio_state *d = faultio_state_settle(p->disk, x->mode, x->seed, &hash);
    faultio_state_write(d, b->again);
    faultio_state_free(d);
    inner.f = faultio_new(b->again, x->seed + 1);
    faultio_watch(inner.f, points_add, &inner);
    struct dmt_ws *ws = bench_open(b, faultio_io(inner.f), b->again, x->mode == FAULTIO_KILL);
    if (ws)
        (void)dmt_ws_close(ws, &b->err);
    faultio_free(inner.f);
    unsigned step = (unsigned)inner.n / lim->nest_max + 1;
    for (size_t i = x->seed % step; i < inner.n; i += step) {
        static const enum faultio_mode modes[] = {FAULTIO_DROP, FAULTIO_RANDOM, FAULTIO_KEEP};
        enum faultio_mode mode = x->mode == FAULTIO_KILL ? FAULTIO_KILL : modes[i % 3];
        d = faultio_state_settle(inner.v[i].disk, mode, i + 1, &hash);
        faultio_state_write(d, b->out);
        faultio_state_free(d);
        if (!judge(b, q, p, x->mode == FAULTIO_KILL, 1, why))
            report(q, "cut before operation %zu, %s, seed %llu, then in recovery before %zu (%s, %u), %s: %s", x->point,
                   mode_name(x->mode), (unsigned long long)x->seed, i, inner.v[i].path, inner.v[i].kind, mode_name(mode), why);
        atomic_fetch_add(&g_tally->nested, 1);
    }
    points_free(&inner);
}

/* --- one sequence ----------------------------------------------------------------------------------------------------------- */

static inline void cut_at(struct bench *b, const struct seq *q, const struct points *pts, const struct shot *x, unsigned n,
                          struct faultio_state *disk)
{
    char why[300] = "";
    const struct point *p = &pts->v[x->point];
    faultio_state_write(disk, b->out);
    if (!judge(b, q, p, x->mode == FAULTIO_KILL, n, why))
        report(q, "cut before operation %zu of %zu (%s, %u), %s, seed %llu, %d started, %d acknowledged: %s", x->point, pts->n,
               p->path, p->kind, mode_name(x->mode), (unsigned long long)x->seed, p->started, p->acked, why);
    atomic_fetch_add(&g_tally->recovered, 1);
}

static inline size_t gcd(size_t a, size_t b)
{
    return b ? gcd(b, a % b) : a;
}

/* A step that visits all of n places, the first ones far apart. */
static inline size_t spread(size_t n)
{
    size_t step = n * 5 / 13 + 1;
    while (gcd(n, step) != 1)
        step++;
    return step;
}

/* All disks of all moments, in an order that spreads what is looked at first. */
static inline void cut_moments(struct bench *b, const struct seq *q, const struct points *pts, const struct limits *lim,
                               uint64_t seed)
{
    struct seen seen = {0};
    size_t all = pts->n * (2 + lim->randoms), step = spread(all), done = 0;
    for (size_t i = 0; i < all && (!lim->disks_max || done < lim->disks_max); i++) {
        struct shot x = shot_at((i * step + seed) % all, lim, seed);
        const struct point *p = &pts->v[x.point];
        uint64_t hash;
        struct faultio_state *disk = faultio_state_settle(p->disk, x.mode, x.seed, &hash);
        atomic_fetch_add(&g_tally->disks, 1);
        if (!seen_before(&seen, hash * 31 + (uint64_t)(x.mode == FAULTIO_KILL ? 64 + p->completed : p->acked))) {
            cut_at(b, q, pts, &x, (unsigned)(done + seed), disk);
            if (lim->nest_every && (done + seed) % lim->nest_every == 0)
                nested(b, q, p, &x, lim);
            done++;
        }
        faultio_state_free(disk);
    }
    free(seen.v);
}

static inline void cut_sequence(struct bench *b, struct seq *q, const struct limits *lim, uint64_t seed)
{
    char why[300] = "";
    struct points pts = {0};
    if (!seq_reference(b, q, why))
        report(q, "without faults: %s", why);
    else if (!seq_record(b, q, &pts, why))
        report(q, "recorded: %s", why);
    else
        cut_moments(b, q, &pts, lim, seed);
    atomic_fetch_add(&g_tally->sequences, 1);
    atomic_fetch_add(&g_tally->moments, pts.n);
    points_free(&pts);
    seq_free(q);
}

/* --- several processes ------------------------------------------------------------------------------------------------------ */

static inline uint64_t from_env(const char *name, uint64_t dflt)
{
    const char *s = getenv(name);
    return s ? strtoull(s, NULL, 10) : dflt;
}

/* Runs fn(bench, i) for i in [0, n), each i in one of several processes. Returns failures and says what was done. all_kinds: of
 * every kind of file unsynced pages must have been kept, lost, torn and reordered, or nothing is proved. */
static inline unsigned long each_in_processes(const char *what, size_t n, void (*fn)(struct bench *b, size_t i), bool all_kinds)
{
    enum { JOBS_MAX = 16 };
    uint64_t jobs = from_env("DMT_JOBS", 2);
    pid_t pid[JOBS_MAX];
    int status;
    jobs = jobs < 1 ? 1 : jobs > JOBS_MAX ? JOBS_MAX : jobs;
    g_tally = mmap(NULL, sizeof(*g_tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    DMT_ASSERT(g_tally != MAP_FAILED);
    faultio_watch_pages(files_cut);
    fflush(stdout);
    for (uint64_t k = 0; k < jobs; k++) {
        pid[k] = fork();
        DMT_ASSERT(pid[k] >= 0);
        if (pid[k] > 0)
            continue;
        struct bench b;
        bench_init(&b, 64u << 10);
        for (size_t i = k; i < n && atomic_load(&g_tally->failures) < REPORTS; i += jobs) {
            atomic_store(&g_tally->at[k], i);
            b.segment_bytes = i / jobs % 3 == 2 ? 16u << 10 : 64u << 10; /* some with many segments */
            fn(&b, i);
        }
        bench_free(&b);
        _exit(0);
    }
    for (uint64_t k = 0; k < jobs; k++)
        if (waitpid(pid[k], &status, 0) != pid[k] || status != 0) {
            fprintf(stderr, "a process ended with status %#x at number %lu\n", (unsigned)status, (unsigned long)g_tally->at[k]);
            atomic_fetch_add(&g_tally->failures, 1);
        }
    if (all_kinds && !files_were_cut()) {
        fprintf(stderr, "some kind of file was not torn, dropped and reordered\n");
        atomic_fetch_add(&g_tally->failures, 1);
    }
    unsigned long failures = g_tally->failures;
    printf("%s: %lu sequences, %lu moments, %lu disks, %lu recovered, %lu of a cut recovery, %lu failures\n", what,
           (unsigned long)g_tally->sequences, (unsigned long)g_tally->moments, (unsigned long)g_tally->disks,
           (unsigned long)g_tally->recovered, (unsigned long)g_tally->nested, failures);
    munmap(g_tally, sizeof(*g_tally));
    return failures;
}

#endif
