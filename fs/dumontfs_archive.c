/* dumontfs_archive.c: the archiver of this process comes and goes with its role.
 *
 * Owns a->archiver, under parts_lock. Happy path: started when an epoch is open, stopped before the
 * workspace goes. Failure modes: one that cannot be started is tried again every few seconds
 * (roles_tick); until then the status says why, and an event tells it once. Threads: start and stop
 * main; the others any.
 */
#include "fs/dumontfs.h"

#include <stdio.h>
#include <string.h>
#include "fs/base/clock.h"

#define ARCHIVE_RETRY_NS (5 * DMT_S)

static void archived(void *ctx, uint64_t seq)
{
    struct app *a = ctx;
    roles_archived(a, seq);
}

static uint64_t archive_limit(void *ctx)
{
    struct app *a = ctx;
    return roles_commit(a);
}

/* No archiver runs, so nothing is archived: the status says why from now on; why = "": no more. */
static void archive_unusable(struct app *a, const char *why)
{
    const struct dmt_clock *clk = dmt_clock_real();
    pthread_mutex_lock(&a->q_lock);
    bool news = strcmp(a->archive_why, why) != 0;
    if (!*why || !a->archive_why[0])
        a->archive_why_ns = *why ? clk->realtime_ns(clk->ctx) : 0;
    snprintf(a->archive_why, sizeof a->archive_why, "%s", why);
    pthread_mutex_unlock(&a->q_lock);
    a->archive_retry_ns = clk->monotonic_ns(clk->ctx) + ARCHIVE_RETRY_NS;
    if (news && *why)
        events_add(a, "archive-error", why);
}

uint64_t app_archive_error(struct app *a, char text[256])
{
    pthread_mutex_lock(&a->q_lock);
    uint64_t since = a->archive_why_ns;
    snprintf(text, 256, "%s", a->archive_why);
    pthread_mutex_unlock(&a->q_lock);
    return since;
}

void app_start_archiver(struct app *a)
{
    struct dmt_err err = {0};
    struct dmt_archiver *ar = NULL;
    if (!a->archive_url[0] || a->archiver || !a->ws)
        return;
    struct dmt_archiver_conf ac = {.url = a->archive_url,
                                   .store_dir = a->store_dir,
                                   .node = a->node,
                                   .ws = a->ws,
                                   .limit = archive_limit,
                                   .archived = archived,
                                   .ctx = a};
    struct dmt_lineage l;
    app_lineage(a, &l);
    memcpy(ac.lineage, l.id, 16);
    memcpy(ac.forced_from, l.past[0], 16);
    if (dmt_archiver_start(&ar, &ac, &err) != 0) {
        archive_unusable(a, err.msg);
        return;
    }
    archive_unusable(a, "");
    pthread_rwlock_wrlock(&a->parts_lock);
    a->archiver = ar;
    pthread_rwlock_unlock(&a->parts_lock);
}

void app_stop_archiver(struct app *a)
{
    pthread_rwlock_wrlock(&a->parts_lock);
    struct dmt_archiver *ar = a->archiver;
    a->archiver = NULL;
    pthread_rwlock_unlock(&a->parts_lock);
    dmt_archiver_stop(ar);
}

bool app_archive_status(struct app *a, struct dmt_archive_status *ret)
{
    pthread_rwlock_rdlock(&a->parts_lock);
    bool there = a->archiver != NULL;
    if (there)
        dmt_archiver_status(a->archiver, ret);
    pthread_rwlock_unlock(&a->parts_lock);
    return there;
}

bool app_archive_flush(struct app *a)
{
    pthread_rwlock_rdlock(&a->parts_lock);
    bool there = a->archiver != NULL;
    if (there)
        dmt_archiver_flush(a->archiver);
    pthread_rwlock_unlock(&a->parts_lock);
    return there;
}
