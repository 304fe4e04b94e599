/* scenario.c: planted runs: what losing the arbiter does, and what not (rules 12, 13).
 *
 *   away     the arbiter is lost for 20 s: syncs of the connected pair go on, nobody fails over; a
 *            holder that dies meanwhile is taken over when the arbiter is back, not before.
 *   blip     the arbiter was lost already when the link fails for a moment, longer than the lease:
 *            the follower has no fresh word, stays follower, and work goes on as soon as the link
 *            is back. (Without rule 13 it would be a candidate and answer no ping until the
 *            arbiter is back.)
 *   window   link and arbiter fail so that the arbiter is lost x ms after the link, and the link
 *            is back in that moment, for every x: work stops exactly when x falls between the
 *            follower's decision to ask and the answer (here a refusal: the controller hears the
 *            holder), one round trip, and goes on when the arbiter is back.
 *
 * A world without other faults (calm); each prints one line with its numbers. `test_sim NAME` runs
 * one.
 */
#include <stdio.h>
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

#define BEGIN (6 * DMT_S)

static uint64_t ms(uint64_t ns)
{
    return ns / MS;
}

static void start(uint64_t seed)
{
    run_set_up(seed, true);
    run_advance(BEGIN);
    if (w.regs[1].insync_n != 2 || lease_core_state(&w.n[0].s) != DMT_LEASE_HOLDER_PAIRED)
        bad("the pair is not there yet");
    w.ack_gap = 0;
}

static void link(bool up)
{
    wire_direction(0, up);
    wire_direction(1, up);
}

static void arbiter(bool up)
{
    w.arb_up = up;
    if (up)
        w.heard[0] = w.heard[1] = 0;
    arbiter_links();
}

static bool away(void)
{
    start(1);
    uint64_t promotions = total.promotions, solos = total.solos;
    arbiter(false);
    run_advance(w.now + 10 * DMT_S);
    uint64_t gap = w.ack_gap;
    if (gap > 300 * MS)
        bad("a sync has waited for %llu ms without the arbiter", (unsigned long long)ms(gap));
    node_stop(&w.n[0], true);
    run_advance(w.now + 10 * DMT_S);
    if (total.promotions != promotions || total.solos != solos)
        bad("a failover without the arbiter");
    uint64_t back = w.now, last = w.last_ack;
    arbiter(true);
    while (!w.bad[0] && w.last_ack == last && w.now < back + 10 * DMT_S)
        run_advance(w.now + MS);
    if (total.promotions != promotions + 1 || w.last_ack == last)
        bad("no failover although the arbiter is back");
    uint64_t took = w.now - back;
    bool good = run_end();
    if (good)
        printf("without the arbiter for 20 s: no sync of the pair waited longer than %llu ms; no "
               "failover before it was back, then after %llu ms\n",
               (unsigned long long)ms(gap), (unsigned long long)ms(took));
    return good;
}

static bool blip(void)
{
    static const uint64_t before[] = {10, 100, 300, 600, 1000, 3000};
    uint64_t worst = 0;
    for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++) {
        start(2);
        arbiter(false);
        run_advance(w.now + before[i] * MS);
        link(false);
        run_advance(w.now + 1500 * MS);
        link(true);
        uint64_t back = w.now, last = w.last_ack;
        while (!w.bad[0] && w.last_ack == last && w.now < back + 5 * DMT_S)
            run_advance(w.now + MS);
        if (w.last_ack == last)
            bad("the link is back, but work has not gone on for 5 s: the arbiter was lost %llu ms "
                "before the link",
                (unsigned long long)before[i]);
        worst = w.now - back > worst ? w.now - back : worst;
        if (!run_end())
            return false;
    }
    printf("arbiter lost before the link failed for 1.5 s: work goes on %llu ms after the link is "
           "back, at most\n",
           (unsigned long long)ms(worst));
    return true;
}

/* Does work stop if the arbiter is lost `x` after the link, and the link is back then? */
static bool stops(uint64_t x)
{
    start(3);
    link(false);
    run_advance(w.now + x);
    arbiter(false);
    link(true);
    run_advance(w.now + 6 * DMT_S);
    bool stopped = w.last_ack + 2 * DMT_S < w.now;
    arbiter(true);
    run_advance(w.now + 3 * DMT_S);
    if (w.last_ack + DMT_S < w.now)
        bad("the arbiter is back, but work has not gone on (lost %llu ms after the link)",
            (unsigned long long)ms(x));
    (void)run_end();
    return stopped;
}

static bool window(void)
{
    start(3);
    w.candidate_at = w.decided_at = 0;
    link(false);
    run_advance(w.now + 3 * DMT_S);
    uint64_t asks = w.candidate_at - BEGIN, knows = w.decided_at - BEGIN;
    if (w.candidate_at == 0 || w.decided_at <= w.candidate_at)
        bad("nobody has asked");
    if (!run_end())
        return false;
    uint64_t most = ms(knows) + 50; /* then it may ask again */
    unsigned stopped = 0, moments = 0;
    for (uint64_t x = 0; x<most; x += ms(asks)> x + 10 ? 10 : 1) {
        bool want = x * MS >= asks && x * MS < knows, got = stops(x * MS);
        if (w.bad[0])
            return false;
        if (want != got) {
            printf(
                "the arbiter lost %llu ms after the link: work %s (asks at %llu us, knows at %llu "
                "us)\n",
                (unsigned long long)x, got ? "stops" : "goes on", (unsigned long long)(asks / 1000),
                (unsigned long long)(knows / 1000));
            return false;
        }
        stopped += got;
        moments++;
    }
    printf("rule 13's round trip: asked %llu ms after the link, known %llu ms later; of %u moments "
           "for losing the arbiter %u stop work, all of them between\n",
           (unsigned long long)ms(asks), (unsigned long long)(ms(knows) - ms(asks)), moments,
           stopped);
    return stopped > 0;
}

bool scenarios(const char *only)
{
    static const struct {
        const char *name;
        bool (*run)(void);
    } all[] = {{"away", away}, {"blip", blip}, {"window", window}};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if ((!only || strcmp(only, all[i].name) == 0) && !all[i].run()) {
            printf("scenario %s: test_sim %s\n", all[i].name, all[i].name);
            return false;
        }
    return true;
}
