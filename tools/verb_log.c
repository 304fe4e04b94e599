/* verb_log.c: `dumont log NAME`: the workspace's records as they stand in its journal segments, one
 * line each, oldest first; --incomplete lists the files that lost unsynced bulk data. Reads the
 * segment files only, so it works on a running workspace and on a dead one. One thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/base/clock.h"
#include "fs/journal/journal.h"
#include "fs/workspace/record.h"
#include "tools/dumont.h"

struct want {
    uint64_t from;
    uint64_t last; /* keep only the last so many; 0 = all */
    bool incomplete;
    char (*ring)[512];
    uint64_t n;
};

static int one(void *ctx, const struct dmt_rec *r)
{
    struct want *w = ctx;
    struct dmt_body b;
    char text[400], when[32], line[512];
    if (r->seq < w->from || (w->incomplete && r->type != DMT_REC_INCOMPLETE))
        return 0;
    if (dmt_body_decode(r->type, r->body, r->body_len, &b) == 0)
        dmt_body_print(&b, text, sizeof text);
    else
        snprintf(text, sizeof text, "type %u, %u bytes", r->type, r->body_len);
    snprintf(line, sizeof line, "%10" PRIu64 "  %" PRIu64 ".%" PRIu64 "  %s  %s", r->seq,
             r->epoch >> 32, r->epoch & UINT32_MAX, local_time(r->time_ns, when), text);
    if (w->last)
        snprintf(w->ring[w->n++ % w->last], sizeof line, "%s", line);
    else
        puts(line);
    return 0;
}

static int run(int argc, char **argv)
{
    struct dmt_err err = {0};
    struct dmt_conf *c = NULL;
    struct want w = {.last = 100};
    const char *name = NULL;
    char store[4096], dir[4200];
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--all") == 0)
            w.last = 0;
        else if (strcmp(argv[i], "--incomplete") == 0)
            w.incomplete = true;
        else if (strcmp(argv[i], "--from") == 0 && i + 1 < argc)
            w.from = strtoull(argv[++i], NULL, 10), w.last = 0;
        else if (strcmp(argv[i], "--last") == 0 && i + 1 < argc)
            w.last = strtoull(argv[++i], NULL, 10);
        else if (argv[i][0] == '-' || name)
            return usage_of(&verb_log);
        else
            name = argv[i];
    }
    if (!name || w.last > 1000000)
        return usage_of(&verb_log);
    if (ws_load(name, &c, store, &err) != 0)
        return fail(EXIT_ABSENT, &err);
    dmt_conf_free(c);
    if (w.last && !(w.ring = calloc(w.last, sizeof *w.ring)))
        return failf(EXIT_FAILED, NULL, "out of memory");
    snprintf(dir, sizeof dir, "%s/journal", store);
    int rc = dmt_journal_scan(dmt_io_real(), dir, one, &w, &err);
    for (uint64_t i = w.last && w.n > w.last ? w.n - w.last : 0; w.last && i < w.n; i++)
        puts(w.ring[i % w.last]);
    free(w.ring);
    return rc < 0 ? fail(EXIT_FAILED, &err) : EXIT_OK;
}

const struct verb verb_log = {"log", "NAME [--last N | --all | --from POSITION] [--incomplete]",
                              "what happened: the journal's records, one line each", run};
