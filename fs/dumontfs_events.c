/* dumontfs_events.c: what happened to this workspace process, in one line each: the last ones, for
 * `dumont status` and for the agent, which carries them into the controller's event history.
 *
 * Owns a ring of EVENTS_MAX lines, each with a number that grows by one. Happy path: a part says
 * something (events_add); the agent sees in the status that there is something new, asks for it,
 * and names what has reached the controller with its next question; only then is a line given up.
 * So a line outlives the agent and an absent controller. Failure modes: nobody asks: the oldest
 * lines are overwritten, and the numbers show the gap. The process dies: what was not fetched is
 * lost with it (its log has it).
 * Threads: any; one lock of its own, never held while anything else is taken.
 */
#include <stdio.h>
#include <string.h>
#include "fs/base/log.h"
#include "fs/dumontfs.h"

/* What is cut in the middle of a character, or was never UTF-8, could not be sent as JSON. */
static void make_sendable(char *text)
{
    json_t *v = json_string(text);
    for (char *p = text; !v && *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    json_decref(v);
}

void events_add(struct app *a, const char *kind, const char *text)
{
    struct app_events *ev = &a->events;
    const struct dmt_clock *clk = dmt_clock_real();
    dmt_info("%s: %s", kind, text);
    pthread_mutex_lock(&ev->lock);
    struct app_event *e = &ev->ring[ev->last++ % EVENTS_MAX];
    e->at_ns = clk->realtime_ns(clk->ctx);
    snprintf(e->kind, sizeof e->kind, "%s", kind);
    snprintf(e->text, sizeof e->text, "%s", text);
    make_sendable(e->text);
    pthread_mutex_unlock(&ev->lock);
}

uint64_t events_since(struct app *a, uint64_t n, const char *kind, char *text, size_t size)
{
    struct app_events *ev = &a->events;
    uint64_t found = n;
    pthread_mutex_lock(&ev->lock);
    uint64_t last = ev->last, first = last > EVENTS_MAX ? last - EVENTS_MAX : 0;
    for (uint64_t k = last; k > first && k > n && found == n; k--) {
        const struct app_event *e = &ev->ring[(k - 1) % EVENTS_MAX];
        if (kind && strcmp(e->kind, kind) != 0)
            continue;
        snprintf(text, size, "%s", e->text);
        found = k;
    }
    pthread_mutex_unlock(&ev->lock);
    return n == UINT64_MAX ? last : found;
}

void events_status(struct app *a, json_t *o)
{
    struct app_events *ev = &a->events;
    char line[sizeof(struct app_event)] = "";
    int64_t at_ns = 0;
    pthread_mutex_lock(&ev->lock);
    uint64_t last = ev->last;
    if (last > 0) {
        const struct app_event *e = &ev->ring[(last - 1) % EVENTS_MAX];
        snprintf(line, sizeof line, "%s: %s", e->kind, e->text);
        at_ns = (int64_t)e->at_ns;
    }
    pthread_mutex_unlock(&ev->lock);
    json_object_set_new(o, "events", json_integer((json_int_t)last));
    json_object_set_new(o, "last_event", json_string(line));
    json_object_set_new(o, "last_event_ns", json_integer(at_ns));
}

json_t *events_take(struct app *a, uint64_t taken)
{
    struct app_events *ev = &a->events;
    json_t *list = json_array();
    pthread_mutex_lock(&ev->lock);
    if (taken > ev->taken && taken <= ev->last)
        ev->taken = taken;
    uint64_t first = ev->last > EVENTS_MAX ? ev->last - EVENTS_MAX : 0;
    for (uint64_t n = first > ev->taken ? first : ev->taken; n < ev->last; n++) {
        const struct app_event *e = &ev->ring[n % EVENTS_MAX];
        json_array_append_new(list,
                              json_pack("{s:I, s:I, s:s, s:s}", "n", (json_int_t)n + 1, "at_ns",
                                        (json_int_t)e->at_ns, "kind", e->kind, "text", e->text));
    }
    pthread_mutex_unlock(&ev->lock);
    return list;
}
