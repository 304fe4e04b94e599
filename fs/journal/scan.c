/* scan.c: the records of a folder, for programs that only look (dumont check, dumont log).
 *
 * Owns nothing: a survey, each record handed on; with what the store knows (whose journal it is, up
 * to where it was applied) for a check, without it for a scan. A torn end is silently the end;
 * damage is DMT_E_CORRUPT with its place, after the records before it were reported. Of a journal
 * that is open, a segment may go or get another number between the listing and the reading; before
 * the first record was handed on, the look begins again. Thread: any.
 */
#include <errno.h>

#include "fs/journal/internal.h"

#define LOOKS_MAX 10 /* the owner does such a thing once in a segment's life */

struct scan {
    int (*fn)(void *ctx, const struct dmt_rec *r);
    void *ctx;
    bool begun, stopped;
};

static int on_record(void *ctx, struct journal_found *f, const struct dmt_rec *r, uint64_t off)
{
    struct scan *s = ctx;
    (void)f;
    (void)off;
    s->begun = true;
    int res = s->fn(s->ctx, r);
    s->stopped = res != 0;
    return res;
}

int dmt_journal_check(const struct dmt_io *io, const char *dir, const uint8_t *lineage,
                      const struct dmt_pos *floor, struct dmt_pos *ret_tail,
                      int (*fn)(void *ctx, const struct dmt_rec *r), void *ctx, struct dmt_err *err)
{
    struct scan scan = {.fn = fn, .ctx = ctx};
    struct journal_survey sv = {.io = io,
                                .dir = dir,
                                .lineage = lineage,
                                .floor = floor,
                                .record = on_record,
                                .ctx = &scan};
    int r = journal_survey(&sv, err);
    if (r == 0 && floor && sv.headless > 0)
        r = journal_survey_headless(&sv, err);
    bool any = sv.any;
    *ret_tail = sv.tail;
    journal_survey_free(&sv);
    return r < 0 ? r : any;
}

int dmt_journal_scan(const struct dmt_io *io, const char *dir,
                     int (*fn)(void *ctx, const struct dmt_rec *r), void *ctx, struct dmt_err *err)
{
    struct scan scan = {.fn = fn, .ctx = ctx};
    int r = -ENOENT;
    for (int i = 0; r == -ENOENT && !scan.begun && i < LOOKS_MAX; i++) {
        struct journal_survey sv = {.io = io, .dir = dir, .record = on_record, .ctx = &scan};
        r = journal_survey(&sv, err);
        journal_survey_free(&sv);
    }
    return r;
}
