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

#define LAST_MAX 1000000

struct want {
    uint64_t from;
    uint64_t last; /* keep only the last so many; 0 = all */
    bool incomplete;
    json_t **ring; /* of the last ones */
    json_t *all;   /* --json */
    uint64_t n;
};

static void emit(struct want *w, json_t *line)
{
    char when[32];
    if (opt_json)
        json_array_append(w->all, line);
    else
        printf("%10" PRIu64 "  %-6s  %s  %s\n", json_u64(line, "seq"), json_str(line, "epoch"),
               local_time(json_u64(line, "time_ns"), when), json_str(line, "text"));
    json_decref(line);
}

static int one(void *ctx, const struct dmt_rec *r)
{
    struct want *w = ctx;
    struct dmt_body b;
    char text[400], epoch[48];
    if (r->seq < w->from || (w->incomplete && r->type != DMT_REC_INCOMPLETE))
        return 0;
    if (dmt_body_decode(r->type, r->body, r->body_len, &b) == 0)
        dmt_body_print(&b, text, sizeof text);
    else
        snprintf(text, sizeof text, "type %u, %u bytes", r->type, r->body_len);
    snprintf(epoch, sizeof epoch, "%" PRIu64 ".%" PRIu64, r->epoch >> 32, r->epoch & UINT32_MAX);
    json_t *line =
        json_pack("{s:I, s:s, s:I, s:i, s:o}", "seq", (json_int_t)r->seq, "epoch", epoch, "time_ns",
                  (json_int_t)r->time_ns, "type", (int)r->type, "text", json_bytes(text));
    if (!w->last) {
        emit(w, line);
        return 0;
    }
    json_t **slot = &w->ring[w->n++ % w->last];
    json_decref(*slot);
    *slot = line;
    return 0;
}

static bool read_words(struct want *w, const char **name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *end = "";
        if (strcmp(argv[i], "--all") == 0)
            w->last = 0;
        else if (strcmp(argv[i], "--incomplete") == 0)
            w->incomplete = true;
        else if (strcmp(argv[i], "--from") == 0 && i + 1 < argc)
            w->from = strtoull(argv[++i], &end, 10), w->last = 0;
        else if (strcmp(argv[i], "--last") == 0 && i + 1 < argc)
            w->last = strtoull(argv[++i], &end, 10);
        else if (argv[i][0] == '-' || *name)
            return false;
        else
            *name = argv[i];
        if (*end)
            return false;
    }
    return *name && w->last <= LAST_MAX;
}

static int run(int argc, char **argv)
{
    struct dmt_err err = {0};
    struct dmt_conf *c = NULL;
    struct want w = {.last = 100};
    const char *name = NULL;
    char store[4096], dir[4200];
    if (!read_words(&w, &name, argc, argv))
        return usage_of(&verb_log);
    int rc = ws_load(name, &c, store, &err);
    if (rc != 0)
        return fail_conf(rc, &err);
    dmt_conf_free(c);
    if (w.last && !(w.ring = calloc(w.last, sizeof(json_t *))))
        return failf(EXIT_FAILED, NULL, "out of memory");
    w.all = json_array();
    snprintf(dir, sizeof dir, "%s/journal", store);
    rc = dmt_journal_scan(dmt_io_real(), dir, one, &w, &err);
    for (uint64_t i = w.last && w.n > w.last ? w.n - w.last : 0; w.last && i < w.n; i++)
        emit(&w, w.ring[i % w.last]);
    free(w.ring);
    if (opt_json && rc >= 0)
        print_json(w.all);
    json_decref(w.all);
    return rc < 0 ? fail(EXIT_FAILED, &err) : EXIT_OK;
}

const struct verb verb_log = {"log", "NAME [--last N | --all | --from POSITION] [--incomplete]",
                              "what happened: the journal's records, one line each", run};
