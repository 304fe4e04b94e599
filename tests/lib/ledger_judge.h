/* ledger_judge.h: the judging half of ledger.c, whose essay states the rules. Happy path: read the
 * ledger (records -> history of each client), read each client's tree, find the k whose model looks
 * like it, choose one k a client by the order between clients, then look at the bulk files with
 * that choice. What is wrong is said at once (bad()) and remembered; judging goes on, so that one
 * run shows all of it. Failure: what cannot be read ends the program with 2 (fatal()). One thread.
 */
#ifndef DMT_TESTS_LEDGER_JUDGE_H
#define DMT_TESTS_LEDGER_JUDGE_H

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/base/err.h"
#include "fs/base/io.h"
#include "tests/lib/ledger_common.h"

#define LEDGER_MAX (1ull << 32)
#define SHOWN_MAX  12 /* differing lines that are printed */

struct history {           /* of one client, from the ledger */
    uint64_t *start, *end; /* of operation k at [k - 1] */
    uint32_t done, cap;    /* operations that ended well */
    uint64_t failed_start; /* of the one that did not, or 0 */
    int failed_errno;      /* of an operation or a sync */
    uint32_t *bulk_syncs;  /* k at which the bulk file was acknowledged, ascending */
    uint32_t bulk_n, bulk_cap;
    uint32_t bound;          /* operations that must be in */
    uint32_t *candidates, n; /* k whose tree looks like this one, ascending */
    uint32_t at;             /* the chosen one is candidates[at] */
    struct found *tree;
};

struct found {
    struct line *lines; /* sorted by hash */
    int n;
    uint64_t sum;
};

static struct history g_hist[CLIENTS_MAX];
static bool g_bad;

static void __attribute__((format(printf, 1, 2))) bad(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    g_bad = true;
}

/* --- reading the ledger --- */

static void push_op(struct history *h, uint64_t start, uint64_t end)
{
    if (h->done == h->cap) {
        h->cap = h->cap ? 2 * h->cap : 1024;
        h->start = reallocarray(h->start, h->cap, sizeof(*h->start));
        h->end = reallocarray(h->end, h->cap, sizeof(*h->end));
        DMT_ASSERT(h->start && h->end);
    }
    h->start[h->done] = start;
    h->end[h->done] = end;
    h->done++;
}

static void push_bulk_sync(struct history *h, uint32_t k)
{
    if (h->bulk_n == h->bulk_cap) {
        h->bulk_cap = h->bulk_cap ? 2 * h->bulk_cap : 64;
        h->bulk_syncs = reallocarray(h->bulk_syncs, h->bulk_cap, sizeof(*h->bulk_syncs));
        DMT_ASSERT(h->bulk_syncs);
    }
    h->bulk_syncs[h->bulk_n++] = k;
}

/* *sync_start: the latest beginning of an acknowledged sync so far. */
static void take_record(const char *line, uint64_t *sync_start)
{
    char type;
    unsigned c, k;
    unsigned long long start, end;
    int error;
    if (sscanf(line, "%c %u %u %llu %llu %d", &type, &c, &k, &start, &end, &error) != 6 ||
        c >= cfg.clients)
        fatal("not a record: '%.63s'", line);
    struct history *h = &g_hist[c];
    switch (type) {
    case 'o':
        if (k != h->done + 1)
            fatal("client %u: operation %u follows %u", c, k, h->done);
        push_op(h, start, end);
        break;
    case 'b':
        push_bulk_sync(h, k);
        /* fall through */
    case 's':
        if (start > *sync_start)
            *sync_start = start;
        break;
    case 'e':
        h->failed_start = start;
        /* fall through */
    case 'f':
        h->failed_errno = error;
        break;
    default:
        fatal("not a record: '%.63s'", line);
    }
}

/* How many operations of a client ended before t. */
static uint32_t ended_before(const struct history *h, uint64_t t)
{
    uint32_t lo = 0, hi = h->done;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (h->end[mid] < t)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void read_ledger(void)
{
    char *text;
    size_t len;
    unsigned long long seed, bulk;
    int r = dmt_io_read_file(dmt_io_real(), cfg.ledger, LEDGER_MAX, &text, &len);
    if (r < 0)
        fatal("cannot read %s: %s", cfg.ledger, dmt_strerror(r));
    if (len < HEADER ||
        sscanf(text, "ledger 1 seed=%llu clients=%u size=%u bulk=%llu", &seed, &cfg.clients,
               &cfg.size, &bulk) != 4 ||
        cfg.clients > CLIENTS_MAX || cfg.size > WRITE_MAX || bulk > BULK_MAX)
        fatal("%s is not a ledger", cfg.ledger);
    cfg.seed = seed;
    cfg.bulk = bulk;
    uint64_t sync_start = 0;
    for (size_t at = HEADER; at + RECORD <= len; at += RECORD) {
        text[at + RECORD - 1] = '\0';
        take_record(text + at, &sync_start);
    }
    free(text);
    for (unsigned c = 0; c < cfg.clients; c++)
        g_hist[c].bound = ended_before(&g_hist[c], sync_start);
}

/* An operation that fails because of the failure is expected; one that fails because the tree is
 * not as it was left is not. */
static void check_errors(void)
{
    static const int expected[] = {EIO,          ENOTCONN, EROFS,    ETIMEDOUT, ESTALE,
                                   ECONNABORTED, ENOSPC,   EDQUOT,   EHOSTDOWN, ENODEV,
                                   EINTR,        EAGAIN,   ESHUTDOWN};
    for (unsigned c = 0; c < cfg.clients; c++) {
        int e = g_hist[c].failed_errno;
        bool ok = e == 0;
        for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
            ok = ok || e == expected[i];
        if (!ok)
            bad("client %u: operation %u failed with '%s', which no failure explains", c,
                g_hist[c].done + 1, strerror(e));
    }
}

/* --- reading the tree --- */

struct seen { /* one entry of the real tree */
    char path[PATH_LEN];
    struct stat st;
    uint64_t data, xattrs;
};
struct scan {
    struct seen *e;
    int n, cap;
};

static uint64_t scan_xattrs(const char *full)
{
    char names[4096], value[4096];
    uint64_t sum = 0;
    ssize_t n = llistxattr(full, names, sizeof(names));
    for (const char *p = names; n > 0 && p < names + n; p += strlen(p) + 1) {
        /* What Dumont itself says about a file is not part of what the client did. */
        if (strncmp(p, "user.", 5) != 0 || strncmp(p, "user.dumont.", 12) == 0)
            continue;
        ssize_t v = lgetxattr(full, p, value, sizeof(value));
        if (v < 0)
            fatal("xattr %s of %s: %s", p, full, strerror(errno));
        sum += xattr_hash(p, value, (size_t)v);
    }
    return sum;
}

static bool is_bulk(const char *path)
{
    const char *slash = strrchr(path, '/');
    return (slash ? slash + 1 : path)[0] == 'B';
}

static void scan_data(struct seen *s, const char *full)
{
    if (S_ISLNK(s->st.st_mode)) {
        char target[PATH_LEN];
        ssize_t n = readlink(full, target, sizeof(target));
        if (n < 0)
            fatal("readlink %s: %s", full, strerror(errno));
        s->data = dmt_hash64(0, target, (size_t)n);
    } else if (S_ISREG(s->st.st_mode) && !is_bulk(s->path)) {
        char *p;
        size_t n;
        int r = dmt_io_read_file(dmt_io_real(), full, 64u << 20, &p, &n);
        if (r < 0)
            fatal("read %s: %s", full, dmt_strerror(r));
        if (n != (size_t)s->st.st_size)
            bad("%s: %zu bytes can be read, its size is %lld", full, n, (long long)s->st.st_size);
        s->data = dmt_hash64(0, p, n);
        free(p);
    }
}

static void scan_dir(struct scan *sc, const char *base, const char *rel)
{
    char full[3 * PATH_LEN];
    (void)snprintf(full, sizeof(full), "%s/%s", base, rel);
    DIR *d = opendir(full);
    if (!d && errno == ENOENT && !*rel)
        return; /* no directory yet: nothing done yet */
    if (!d)
        fatal("list %s: %s", full, strerror(errno));
    struct dirent *de;
    while ((de = readdir(d))) {
        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
            continue;
        if (sc->n == sc->cap) {
            sc->cap = sc->cap ? 2 * sc->cap : 64;
            sc->e = reallocarray(sc->e, (size_t)sc->cap, sizeof(*sc->e));
            DMT_ASSERT(sc->e);
        }
        struct seen *s = &sc->e[sc->n++];
        memset(s, 0, sizeof(*s));
        int n = snprintf(s->path, sizeof(s->path), "%s%s%s", rel, *rel ? "/" : "", de->d_name);
        if (n < 0 || (size_t)n >= sizeof(s->path))
            fatal("path too long below %s", full);
        (void)snprintf(full, sizeof(full), "%s/%s", base, s->path);
        if (lstat(full, &s->st) < 0)
            fatal("stat %s: %s", full, strerror(errno));
        scan_data(s, full);
        s->xattrs = scan_xattrs(full);
        char sub[PATH_LEN];
        memcpy(sub, s->path, sizeof(sub));
        if (S_ISDIR(s->st.st_mode))
            scan_dir(sc, base, sub); /* s may move */
    }
    closedir(d);
}

static int by_hash(const void *a, const void *b)
{
    uint64_t x = ((const struct line *)a)->hash, y = ((const struct line *)b)->hash;
    return x < y ? -1 : x > y;
}

static struct found *read_tree(unsigned c)
{
    char base[PATH_LEN], text[PATH_LEN + 256];
    struct scan sc = {0};
    (void)snprintf(base, sizeof(base), "%s/c%u", cfg.dir, c);
    scan_dir(&sc, base, "");
    struct found *f = calloc(1, sizeof(*f));
    DMT_ASSERT(f);
    f->lines = calloc((size_t)sc.n + 1, sizeof(*f->lines));
    DMT_ASSERT(f->lines);
    for (int i = 0; i < sc.n; i++) {
        const struct seen *s = &sc.e[i];
        mode_t fmt = s->st.st_mode & S_IFMT;
        bool bulk = fmt == S_IFREG && is_bulk(s->path), dir = fmt == S_IFDIR;
        uint64_t group = 0;
        for (int j = 0; j < sc.n; j++)
            if (sc.e[j].st.st_ino == s->st.st_ino)
                group += line_hash(sc.e[j].path);
        char type = bulk ? 'b' : fmt == S_IFREG ? 'f' : dir ? 'd' : fmt == S_IFLNK ? 'l' : '?';
        format_line(text, sizeof(text), s->path, type, s->st.st_mode & 07777u,
                    dir ? 1 : (unsigned)s->st.st_nlink, dir || bulk ? 0 : (uint64_t)s->st.st_size,
                    s->data, s->xattrs, group);
        f->lines[i] = (struct line){line_hash(text), strdup(text)};
        f->sum += mix(f->lines[i].hash);
    }
    f->n = sc.n;
    qsort(f->lines, (size_t)f->n, sizeof(*f->lines), by_hash);
    free(sc.e);
    return f;
}

/* --- which k look like the tree --- */

static bool has_line(const struct found *f, uint64_t hash)
{
    struct line key = {.hash = hash};
    return bsearch(&key, f->lines, (size_t)f->n, sizeof(key), by_hash) != NULL;
}

static void replay_to(struct model *m, unsigned c, uint32_t k)
{
    struct op op;
    model_init(m, cfg.seed, c, cfg.size, cfg.bulk);
    while (m->k < k)
        model_next(m, &op);
}

static bool looks_alike(struct model *m, const struct found *tree)
{
    struct line lines[ENTRIES_MAX];
    uint64_t sum;
    int n = model_lines(m, lines, false, &sum);
    return n == tree->n && sum == tree->sum;
}

/* The write that was under way may be there up to a page boundary: Linux hands a write(2) into
 * pages that are not cached to FUSE in several requests (fuse_fill_write_pages), and the caller,
 * who got no answer or a short one, knows no more. */
static bool torn_alike(unsigned c, const struct op *op, const struct found *tree)
{
    bool alike = false;
    if (op->kind != OP_WRITE || op->bulk)
        return false;
    for (uint64_t end = (op->off / PAGE + 1) * PAGE; !alike && end < op->off + op->len;
         end += PAGE) {
        struct model m;
        struct op same;
        replay_to(&m, c, op->k - 1);
        m.torn_k = op->k;
        m.torn_len = (uint32_t)(end - op->off);
        model_next(&m, &same);
        alike = looks_alike(&m, tree);
        model_free(&m);
    }
    return alike;
}

static void find_candidates(unsigned c, uint32_t from)
{
    struct history *h = &g_hist[c];
    struct model m;
    struct op op = {0};
    uint32_t last = h->done + 1; /* one more may have been under way */
    h->n = 0;
    h->candidates = reallocarray(h->candidates, last + 1, sizeof(*h->candidates));
    DMT_ASSERT(h->candidates);
    replay_to(&m, c, from);
    for (;;) {
        if (looks_alike(&m, h->tree))
            h->candidates[h->n++] = m.k;
        if (m.k >= last)
            break;
        model_next(&m, &op);
    }
    if ((h->n == 0 || h->candidates[h->n - 1] < last) && op.k == last &&
        torn_alike(c, &op, h->tree))
        h->candidates[h->n++] = last;
    model_free(&m);
}

/* No k fits: shows how the tree differs from the k that comes nearest. */
static void show_nearest(unsigned c)
{
    struct history *h = &g_hist[c];
    struct model m;
    struct line lines[ENTRIES_MAX];
    struct op op;
    uint32_t best = 0;
    int best_diff = INT32_MAX, shown = 0;
    uint64_t sum;
    replay_to(&m, c, 0);
    for (;; model_next(&m, &op)) {
        int n = model_lines(&m, lines, false, &sum), same = 0;
        for (int i = 0; i < n; i++)
            same += has_line(h->tree, lines[i].hash);
        if (n + h->tree->n - 2 * same <= best_diff) {
            best_diff = n + h->tree->n - 2 * same;
            best = m.k;
        }
        if (m.k > h->done)
            break;
    }
    model_free(&m);
    replay_to(&m, c, best);
    struct found model = {.lines = lines, .n = model_lines(&m, lines, true, &sum)};
    qsort(lines, (size_t)model.n, sizeof(lines[0]), by_hash);
    printf("client %u: nearest is k=%u of %u; %d lines differ\n", c, best, h->done, best_diff);
    for (int i = 0; i < model.n && shown < SHOWN_MAX; i++)
        if (!has_line(h->tree, lines[i].hash) && ++shown)
            printf("  wanted: %s\n", lines[i].text);
    for (int i = 0; i < h->tree->n && shown < 2 * SHOWN_MAX; i++)
        if (!has_line(&model, h->tree->lines[i].hash) && ++shown)
            printf("  found:  %s\n", h->tree->lines[i].text);
    for (int i = 0; i < model.n; i++)
        free(lines[i].text);
    model_free(&m);
}

static void match_client(unsigned c)
{
    struct history *h = &g_hist[c];
    h->tree = read_tree(c);
    find_candidates(c, h->bound);
    if (h->n > 0) {
        h->at = h->n - 1;
        return;
    }
    find_candidates(c, 0);
    if (h->n > 0)
        bad("client %u: LOST: the tree is that after %u operations; %u were acknowledged", c,
            h->candidates[h->n - 1], h->bound);
    else
        bad("client %u: BROKEN: the tree is not that after any number of operations", c);
    if (h->n == 0)
        show_nearest(c);
    h->n = 0;
}

/* --- order between clients --- */

/* When operation k began; for one that is not in the ledger, the earliest it can have. */
static uint64_t began(const struct history *h, uint32_t k)
{
    if (k <= h->done)
        return h->start[k - 1];
    if (h->failed_start)
        return h->failed_start;
    return h->done > 0 ? h->end[h->done - 1] : 0;
}

/* The greatest choice in which nothing is in without what came before it. */
static void choose(void)
{
    for (bool moved = true; moved;) {
        moved = false;
        for (unsigned b = 0; b < cfg.clients; b++) {
            struct history *hb = &g_hist[b];
            uint32_t k = hb->candidates[hb->at];
            for (unsigned a = 0; k > 0 && a < cfg.clients; a++) {
                struct history *ha = &g_hist[a];
                uint32_t need = ended_before(ha, began(hb, k));
                if (a == b || ha->candidates[ha->at] >= need)
                    continue;
                if (hb->at == 0) {
                    bad("ORDER: operation %u of client %u is in; %u of client %u ended before it "
                        "began and is not",
                        k, b, need, a);
                    return;
                }
                hb->at--;
                moved = true;
                break;
            }
        }
    }
}

/* --- bulk files --- */

struct content { /* of a real bulk file */
    uint64_t len;
    uint32_t *by; /* operation that wrote each chunk; 0 = too short to say */
};

/* Reads a bulk file and finds out who wrote each chunk. False (and said) if some bytes are
 * nobody's. */
static bool read_bulk(unsigned c, const char *path, struct content *ret)
{
    char full[2 * PATH_LEN];
    char *p;
    size_t len;
    (void)snprintf(full, sizeof(full), "%s/c%u/%s", cfg.dir, c, path);
    int r = dmt_io_read_file(dmt_io_real(), full, BULK_MAX, &p, &len);
    if (r < 0) {
        bad("bulk c%u/%s: %s", c, path, dmt_strerror(r));
        return false;
    }
    ret->len = len;
    ret->by = calloc(len / CHUNK + 1, sizeof(*ret->by));
    uint8_t *want = malloc(CHUNK);
    DMT_ASSERT(ret->by && want);
    bool ok = true;
    for (size_t at = 0; at < len && ok; at += CHUNK) {
        size_t n = len - at < CHUNK ? len - at : CHUNK;
        char digits[7] = "";
        if (n >= 8)
            memcpy(digits, p + at + 2, 6);
        uint32_t k = (uint32_t)strtoul(digits, NULL, 16);
        ret->by[at / CHUNK] = k;
        fill(c, k, at, want, n);
        if (n >= 8 && memcmp(want, p + at, n) != 0) {
            size_t i = 0;
            while (want[i] == (uint8_t)p[at + i])
                i++;
            bad("bulk c%u/%s: BROKEN: byte %zu is not what operation %u wrote there (found 0x%02x)",
                c, path, at + i, k, (unsigned)(uint8_t)p[at + i]);
            ok = false;
        }
    }
    free(want);
    free(p);
    if (!ok)
        free(ret->by);
    return ok;
}

/* Is `got` a version of b with from..n events, whole, or (cut) ending early? A write that made the
 * file longer may also have come up to a page boundary: it may be several requests. *ret_newest:
 * whether it is the newest, whole. */
static bool is_version(const struct model *m, const struct bulk *b, int from, int n, bool cut,
                       const struct content *got, bool *ret_newest)
{
    uint32_t *by = calloc((size_t)bulk_chunks(m) + 1, sizeof(*by));
    DMT_ASSERT(by);
    uint64_t size = 0;
    bool found = false;
    for (int j = 0; j <= n; j++) {
        uint64_t before = size;
        if (j > 0 && b->events[j - 1].chunk < 0) {
            size = 0;
        } else if (j > 0) {
            int chunk = b->events[j - 1].chunk;
            uint64_t end = (uint64_t)chunk * CHUNK + chunk_len(m, chunk);
            by[chunk] = b->events[j - 1].k;
            if (end > size)
                size = end;
        }
        bool half = j > from && got->len > before && got->len % PAGE == 0;
        if (j < from || got->len > size || (got->len < size && !cut && !half))
            continue;
        bool same = true;
        for (uint64_t at = 0; at < got->len && same; at += CHUNK)
            same = got->by[at / CHUNK] == 0 || got->by[at / CHUNK] == by[at / CHUNK];
        found = found || same;
        if (same && j == n && got->len == size)
            *ret_newest = true;
    }
    free(by);
    return found;
}

/* May it be that a reader never had this file, or what it replaced, whole? */
static bool never_whole(const struct bulk *b)
{
    return b->synced_n < 0 && (!b->replaced || never_whole(b->replaced));
}

static bool is_allowed(const struct model *m, const struct bulk *b, int n,
                       const struct content *got, bool *ret_newest)
{
    if (b->synced_n >= 0)
        return is_version(m, b, b->synced_n, n, false, got, ret_newest);
    if (!b->replaced)
        return is_version(m, b, 0, n, true, got, ret_newest);
    if (is_version(m, b, b->own_n, n, never_whole(b->replaced), got, ret_newest))
        return true;
    bool ignored;
    return is_allowed(m, b->replaced, b->replaced_n, got, &ignored);
}

static void judge_bulk(unsigned c)
{
    struct history *h = &g_hist[c];
    struct model m;
    struct op op;
    char path[PATH_LEN];
    uint32_t next = 0;
    replay_to(&m, c, 0);
    while (m.k < h->candidates[h->at]) {
        model_next(&m, &op);
        if (next < h->bulk_n && h->bulk_syncs[next] == m.k) {
            DMT_ASSERT(m.bulk_sync >= 0);
            struct bulk *b = inode_of(&m, m.bulk_sync)->bulk;
            b->synced_n = b->n;
            next++;
        }
    }
    for (int e = 1; e < ENTRIES_MAX; e++) {
        if (!m.e[e].used || inode_of(&m, e)->type != 'b')
            continue;
        const struct bulk *b = inode_of(&m, e)->bulk;
        struct content got;
        bool newest = false;
        path_of(&m, e, path);
        if (!read_bulk(c, path, &got))
            continue;
        if (!is_allowed(&m, b, b->n, &got, &newest))
            bad("bulk c%u/%s: LOST: %llu bytes, written by operation %u at the beginning; %s", c,
                path, (unsigned long long)got.len, got.len ? got.by[0] : 0,
                b->synced_n >= 0 ? "a newer version was acknowledged"
                                 : "not a version it ever had");
        else if (!newest)
            printf("bulk c%u/%s: not the newest content: %llu bytes\n", c, path,
                   (unsigned long long)got.len);
        free(got.by);
    }
    model_free(&m);
}

static void print_clients(void)
{
    for (unsigned c = 0; c < cfg.clients; c++) {
        const struct history *h = &g_hist[c];
        if (h->n > 0 && !cfg.quiet)
            printf("client %u: k=%u of %u done, %u acknowledged%s%s\n", c, h->candidates[h->at],
                   h->done, h->bound, h->failed_errno ? ", stopped by: " : "",
                   h->failed_errno ? strerror(h->failed_errno) : "");
    }
}

static int ledger_judge(void)
{
    bool all_match = true;
    uint64_t acknowledged = 0, in = 0, done = 0;
    read_ledger();
    check_errors();
    for (unsigned c = 0; c < cfg.clients; c++) {
        match_client(c);
        all_match = all_match && g_hist[c].n > 0;
    }
    if (all_match)
        choose();
    for (unsigned c = 0; all_match && cfg.bulk && c < cfg.clients; c++)
        judge_bulk(c);
    print_clients();
    for (unsigned c = 0; c < cfg.clients; c++) {
        struct history *h = &g_hist[c];
        acknowledged += h->bound;
        done += h->done;
        in += h->n > 0 ? h->candidates[h->at] : 0;
        for (int i = 0; i < h->tree->n; i++)
            free(h->tree->lines[i].text);
        free(h->tree->lines);
        free(h->tree);
        free(h->start);
        free(h->end);
        free(h->bulk_syncs);
        free(h->candidates);
    }
    printf("verdict: %s: %llu operations done, %llu acknowledged, %llu in\n",
           g_bad ? "BAD" : "good", (unsigned long long)done, (unsigned long long)acknowledged,
           (unsigned long long)in);
    return g_bad ? 1 : 0;
}

#endif
