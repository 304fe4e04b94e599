/* survey.c: which records of a folder count.
 *
 * Owns the reading half of recovery, without writing anything, so that `dumont check` can use it on
 * any folder. Happy path: list the names, read all headers, follow the history through the segments
 * that are in force (docs/formats-journal.md, 4) with one segment in memory at a time, and report
 * each record. The end of the history is then judged (J6): if anything states that the record
 * behind it was durable, that record is damaged and the result is DMT_E_CORRUPT with its place; if
 * not, a crash tore it and the end is where the history ends.
 *
 * Failure modes: another lineage or another history DMT_E_HISTORY, an unknown version
 * DMT_E_VERSION, a start past the floor DMT_E_GONE. Thread: any; touches no journal object.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/journal/internal.h"

#define UNKNOWN_PART (4u << 20) /* bytes read of a segment without a header, see claim_of() */

#define DAMAGE_HINT                                                                               \
    "nothing was changed; promote the standby or restore from the archive, and keep this folder " \
    "for examination"

void journal_survey_path(const struct journal_survey *s, const char *prefix, uint64_t number,
                         const char *suffix, char ret[JOURNAL_PATH_MAX])
{
    snprintf(ret, JOURNAL_PATH_MAX, "%s/%s%016" PRIx64 "%s", s->dir, prefix, number, suffix);
}

void journal_survey_free(struct journal_survey *s)
{
    free(s->found);
    free(s->spares);
    free(s->img);
    s->img = NULL;
    s->found = NULL;
    s->spares = NULL;
}

/* prefix + 16 lower-case hex digits + suffix, nothing else. */
static bool parse_name(const char *name, const char *prefix, const char *suffix, uint64_t *ret)
{
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0)
        return false;
    const char *digits = name + n;
    uint64_t v = 0;
    for (int i = 0; i < 16; i++) {
        char c = digits[i];
        unsigned d;
        if (c >= '0' && c <= '9')
            d = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            d = (unsigned)(c - 'a' + 10);
        else
            return false;
        v = v << 4 | d;
    }
    *ret = v;
    return strcmp(digits + 16, suffix) == 0;
}

static int by_serial(const void *a, const void *b)
{
    const struct journal_found *x = a, *y = b;
    return x->serial < y->serial ? -1 : x->serial > y->serial;
}

/* Adds one name to the lists. 0 or -ENOMEM. */
static int note_name(struct journal_survey *s, const char *name)
{
    uint64_t number;
    if (parse_name(name, "", ".seg", &number)) {
        struct journal_found *grown = realloc(s->found, (s->found_n + 1) * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        s->found = grown;
        s->found[s->found_n++] = (struct journal_found){.serial = number};
    } else if (parse_name(name, "spare-", "", &number)) {
        uint64_t *grown = realloc(s->spares, (s->spares_n + 1) * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        s->spares = grown;
        s->spares[s->spares_n++] = number;
    } else {
        return 0;
    }
    if (number > s->number_max)
        s->number_max = number;
    return 0;
}

/* The disk seam has no listing of folders: names that a crash left are on the real disk by then. */
static int list_names(struct journal_survey *s)
{
    DIR *d = opendir(s->dir);
    if (!d)
        return -errno;
    int r = 0;
    while (r == 0) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e) {
            r = -errno;
            break;
        }
        r = note_name(s, e->d_name);
    }
    closedir(d);
    if (s->found_n > 0)
        qsort(s->found, s->found_n, sizeof(s->found[0]), by_serial);
    return r;
}

uint64_t journal_written_end(int fd, uint64_t size)
{
    uint64_t end = 0;
    off_t at = 0;
    /* The seam has no such call; its twins work on real files. */
    while ((at = lseek(fd, at, SEEK_DATA)) >= 0 && (at = lseek(fd, at, SEEK_HOLE)) >= 0)
        end = (uint64_t)at;
    return errno == ENXIO && end < size ? end : size;
}

static int read_part(const struct journal_survey *s, const struct journal_found *f,
                     uint64_t *ret_size, uint8_t *buf, size_t n, size_t *ret_n)
{
    char path[JOURNAL_PATH_MAX];
    journal_survey_path(s, "", f->serial, ".seg", path);
    int fd = s->io->open(s->io->ctx, path, O_RDONLY, 0);
    if (fd < 0)
        return fd;
    struct stat st;
    ssize_t got = s->io->fstat(s->io->ctx, fd, &st);
    if (got == 0 && n > JOURNAL_SEG_HDR) {
        uint64_t end = journal_written_end(fd, (uint64_t)st.st_size);
        n = n < end ? n : (size_t)end;
    }
    if (got == 0)
        got = s->io->pread(s->io->ctx, fd, buf, n, 0);
    (void)s->io->close(s->io->ctx, fd);
    if (got < 0)
        return (int)got;
    *ret_size = (uint64_t)st.st_size;
    *ret_n = (size_t)got;
    return 0;
}

int journal_image_load(struct journal_survey *s, const struct journal_found *f, const uint8_t **ret,
                       size_t *ret_n)
{
    if (f->size > JOURNAL_SEGMENT_MAX)
        return -EFBIG;
    if (!s->img || s->img_serial != f->serial || s->img_size != f->size) {
        if (s->img_cap < f->size + 1) {
            free(s->img);
            s->img_cap = 0;
            s->img = malloc(f->size + 1);
            if (!s->img)
                return -ENOMEM;
            s->img_cap = f->size + 1;
        }
        uint64_t size_now;
        s->img_serial = f->serial;
        s->img_size = f->size;
        int r = read_part(s, f, &size_now, s->img, f->size, &s->img_n);
        if (r < 0) {
            s->img_size = UINT64_MAX; /* holds nothing */
            return r;
        }
    }
    *ret = s->img;
    *ret_n = s->img_n;
    return 0;
}

static int read_header(struct journal_survey *s, struct journal_found *f, struct dmt_err *err)
{
    uint8_t block[JOURNAL_SEG_HDR];
    size_t n;
    int r = read_part(s, f, &f->size, block, sizeof(block), &n);
    if (r < 0)
        return dmt_err_set(err, r, "cannot read journal segment %s/%016" PRIx64 ".seg: %s", s->dir,
                           f->serial, dmt_strerror(r));
    if (s->list_only)
        return 0;
    r = journal_hdr_get(block, n, f->serial, &f->hdr);
    if (r == DMT_E_VERSION) {
        dmt_err_set(err, r,
                    "journal segment %s/%016" PRIx64 ".seg has a format this version does not know",
                    s->dir, f->serial);
        dmt_err_hint(err, "use the version of Dumont that wrote it, or a newer one");
        return r;
    }
    f->valid = r == 0;
    if (!f->valid)
        return 0;
    if (!s->lineage) {
        memcpy(s->lineage_found, f->hdr.lineage, 16);
        s->lineage = s->lineage_found;
    }
    if (memcmp(f->hdr.lineage, s->lineage, 16) != 0)
        return dmt_err_set(err, DMT_E_HISTORY,
                           "journal segment %s/%016" PRIx64 ".seg belongs to another workspace",
                           s->dir, f->serial);
    return 0;
}

/* Last record that found[i] may hold: what a later header supersedes does not count. */
static uint64_t limit_of(const struct journal_survey *s, size_t i)
{
    uint64_t limit = UINT64_MAX;
    for (size_t k = i + 1; k < s->found_n; k++)
        if (s->found[k].valid && s->found[k].hdr.prev.seq < limit)
            limit = s->found[k].hdr.prev.seq;
    return limit;
}

/* RESET: nothing of lower serial counts, not even as evidence. Returns where to begin. */
static size_t first_in_force(const struct journal_survey *s)
{
    size_t first = 0;
    for (size_t i = 0; i < s->found_n; i++)
        if (s->found[i].valid && (s->found[i].hdr.flags & JOURNAL_SEG_RESET))
            first = i;
    return first;
}

struct walker {
    struct journal_survey *s;
    struct journal_found *f;
    bool floor_differs;
};

static int on_record(void *ctx, const struct dmt_rec *r, uint64_t off)
{
    struct walker *w = ctx;
    if (w->s->floor && w->s->floor->seq == r->seq && w->s->floor->chain != r->chain)
        w->floor_differs = true;
    return w->s->record ? w->s->record(w->s->ctx, w->f, r, off) : 0;
}

/* Claim of one segment's PADs behind off. One without a header usually was only prepared; it is
 * read as a whole only if its first frame is of its life, else a part: damage does not fall on
 * header, first frame and all PADs of that part. */
static int claim_of(struct journal_survey *s, const struct journal_found *f, uint64_t off,
                    uint64_t *ret)
{
    struct journal_found part = *f;
    const uint8_t *img;
    size_t n, used;
    struct dmt_rec rec;
    if (!f->valid && f->size > UNKNOWN_PART)
        part.size = UNKNOWN_PART;
    int r = journal_image_load(s, &part, &img, &n);
    if (r == 0 && part.size < f->size && n > JOURNAL_SEG_HDR &&
        journal_frame_decode(img + JOURNAL_SEG_HDR, n - JOURNAL_SEG_HDR, journal_salt(f->serial),
                             &rec, &used) == 0)
        r = journal_image_load(s, f, &img, &n);
    if (r == 0)
        *ret = journal_image_claim(img, n, f->serial, off);
    return r;
}

/* Highest claim of the segments [from, to); of the first only behind off. */
static int claims_of(struct journal_survey *s, size_t from, size_t to, uint64_t off, uint64_t *ret)
{
    uint64_t claim = 0;
    for (size_t i = from; i < to; i++) {
        const struct journal_found *f = &s->found[i];
        uint64_t c = 0;
        int r = claim_of(s, f, i == from ? off : JOURNAL_SEG_HDR, &c);
        if (r < 0)
            return r;
        if (i > from && f->valid && f->hdr.durable_seq > c)
            c = f->hdr.durable_seq;
        if (c > claim)
            claim = c;
    }
    *ret = claim;
    return 0;
}

/* J6: the history ends behind w in found[at]. Torn, or damaged? Witnesses are the segments [at, to)
 * and the floor. */
static int judge_end(struct journal_survey *s, size_t at, size_t to, const struct journal_walk *w,
                     struct dmt_err *err)
{
    uint64_t claim;
    int r = claims_of(s, at, to, w->off, &claim);
    if (r < 0)
        return dmt_err_set(err, r, "cannot read the journal in %s: %s", s->dir, dmt_strerror(r));
    const char *witness = "a later part of the journal";
    if (s->floor && s->floor->seq > claim) {
        claim = s->floor->seq;
        witness = "the store's applied position";
    }
    if (claim <= w->pos.seq)
        return 0;
    dmt_err_set(err, DMT_E_CORRUPT,
                "journal segment %s/%016" PRIx64 ".seg is damaged at offset %" PRIu64
                ": record %" PRIu64 " cannot be read, but %s shows that records up to %" PRIu64
                " were durable",
                s->dir, s->found[at].serial, w->off, w->pos.seq + 1, witness, claim);
    dmt_err_hint(err, DAMAGE_HINT);
    return DMT_E_CORRUPT;
}

/* No segment with a header: empty, unless headers were lost of segments that held something. */
static int judge_empty(struct journal_survey *s, size_t from, struct dmt_err *err)
{
    static const struct dmt_pos zero;
    struct journal_walk w = {.pos = s->floor ? *s->floor : zero, .off = 0};
    s->first = s->tail = w.pos;
    return from < s->found_n ? judge_end(s, from, s->found_n, &w, err) : 0;
}

static int check_start(struct journal_survey *s, size_t first, size_t begin, struct dmt_err *err)
{
    s->first = s->found[first].hdr.prev;
    if (!s->floor || s->floor->seq >= s->first.seq)
        return 0;
    /* The segment before it may be there, but without its header. */
    if (begin < first) {
        struct journal_walk w = {.pos = *s->floor, .off = 0};
        int r = judge_end(s, begin, first, &w, err);
        if (r < 0)
            return r;
    }
    return dmt_err_set(err, DMT_E_GONE,
                       "the journal in %s begins after record %" PRIu64
                       ", but records after %" PRIu64 " are needed",
                       s->dir, s->first.seq, s->floor->seq);
}

/* Segments before the first without a valid header: were they never begun, or have they lost it?
 * The frame behind it tells: it is of this life only if the header was written, and of a record
 * before the first segment's only if no later segment took its records over (J5). */
static int look_before(struct journal_survey *s, size_t begin, size_t first)
{
    for (size_t i = begin; i < first; i++) {
        const struct journal_found *f = &s->found[i];
        const uint8_t *img;
        size_t n, used;
        struct dmt_rec rec;
        if (f->valid)
            continue;
        int r = journal_image_load(s, f, &img, &n);
        if (r < 0)
            return r;
        if (n > JOURNAL_SEG_HDR &&
            journal_frame_decode(img + JOURNAL_SEG_HDR, n - JOURNAL_SEG_HDR,
                                 journal_salt(f->serial), &rec, &used) == 0 &&
            rec.type != DMT_REC_PAD && rec.seq <= s->first.seq)
            s->headless = f->serial;
    }
    return 0;
}

int journal_survey_headless(const struct journal_survey *s, struct dmt_err *err)
{
    dmt_err_set(err, DMT_E_CORRUPT,
                "the header of journal segment %s/%016" PRIx64
                ".seg is damaged: its records, up to %" PRIu64
                ", cannot be read; the store has applied them",
                s->dir, s->headless, s->first.seq);
    dmt_err_hint(err, "Mount it: the journal then begins behind that segment. A standby or an "
                      "archive that lacks its records takes a new copy of the store.");
    return DMT_E_CORRUPT;
}

static int walk_segment(struct journal_survey *s, size_t i, uint64_t limit, struct journal_walk *w,
                        struct walker *walker)
{
    struct journal_found *f = &s->found[i];
    const uint8_t *img;
    size_t n;
    int r = journal_image_load(s, f, &img, &n);
    if (r < 0)
        return r;
    f->kept = true;
    walker->f = f;
    w->off = JOURNAL_SEG_HDR;
    if (f->hdr.durable_seq > w->claim)
        w->claim = f->hdr.durable_seq;
    r = journal_image_walk(img, n, f->serial, limit, w, on_record, walker);
    f->end = w->off;
    f->last_seq = w->pos.seq;
    return r;
}

/* Follows the history from found[i] on; *ret_at is where it ends. */
static int follow(struct journal_survey *s, size_t i, struct journal_walk *w, size_t *ret_at,
                  struct dmt_err *err)
{
    struct walker walker = {.s = s};
    w->pos = s->first;
    bool differs = s->floor && s->floor->seq == s->first.seq && s->floor->chain != s->first.chain;
    for (; i < s->found_n; i++) {
        const struct journal_found *f = &s->found[i];
        uint64_t limit = limit_of(s, i);
        /* Superseded as a whole; the last one in force never is, so there always is one that was
         * walked. */
        if (!f->valid || limit <= f->hdr.prev.seq)
            continue;
        if (f->hdr.prev.seq != w->pos.seq)
            break;
        if (f->hdr.prev.chain != w->pos.chain || f->hdr.prev.epoch != w->pos.epoch) {
            dmt_err_set(err, DMT_E_CORRUPT,
                        "journal segment %s/%016" PRIx64 ".seg does not fit to record %" PRIu64
                        " before it",
                        s->dir, f->serial, w->pos.seq);
            dmt_err_hint(err, DAMAGE_HINT);
            return DMT_E_CORRUPT;
        }
        *ret_at = i;
        int r = walk_segment(s, i, limit, w, &walker);
        if (r != 0)
            return r < 0 ? dmt_err_set(err, r, "cannot read the journal in %s: %s", s->dir,
                                       dmt_strerror(r))
                         : r;
        if (w->pos.seq != limit)
            break;
    }
    if (differs || walker.floor_differs)
        return dmt_err_set(err, DMT_E_HISTORY,
                           "record %" PRIu64
                           " of the journal in %s is not the one the store has applied",
                           s->floor->seq, s->dir);
    return 0;
}

int journal_survey(struct journal_survey *s, struct dmt_err *err)
{
    int r = list_names(s);
    if (r < 0)
        return dmt_err_set(err, r, "cannot list %s: %s", s->dir, dmt_strerror(r));
    for (size_t i = 0; r == 0 && i < s->found_n; i++)
        r = read_header(s, &s->found[i], err);
    if (r < 0 || s->list_only)
        return r;

    size_t begin = first_in_force(s), first = begin;
    while (first < s->found_n &&
           (!s->found[first].valid || limit_of(s, first) <= s->found[first].hdr.prev.seq))
        first++;
    if (first == s->found_n)
        return judge_empty(s, begin, err);
    r = check_start(s, first, begin, err);
    if (r < 0)
        return r;
    r = look_before(s, begin, first);
    if (r < 0)
        return dmt_err_set(err, r, "cannot read the journal in %s: %s", s->dir, dmt_strerror(r));
    struct journal_walk w = {.claim = 0};
    size_t at = first;
    r = follow(s, first, &w, &at, err);
    if (r == 0)
        r = judge_end(s, at, s->found_n, &w, err);
    if (r != 0)
        return r;
    s->tail = w.pos;
    s->claim = w.claim;
    s->any = true;
    return 0;
}
