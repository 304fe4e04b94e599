/* test_sim.c: runs of the simulator: one seed, or many.
 *
 *   test_sim                     the seeds of `make test`, the regression seeds first
 *   test_sim FIRST [COUNT [STRIDE]]   COUNT (1) seeds from FIRST, each so far from the last; the
 *                                     totals
 *   test_sim NAME                a planted run (scenario.c)
 *   TRACE=1 test_sim SEED        one, telling every step
 *
 * A run: two nodes with a new pair, faults for half a minute, then everything is healed and there
 * is half a minute to come back. Exit 1 with the sentence of the first promise that was broken; the
 * same seed shows it again. `make sim SEED=… [COUNT=…]` calls this.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

#define HEAL_NS     (30 * DMT_S)
#define TEST_SEEDS  3000
#define TEST_FORCED 300 /* of each kind */

/* Seeds that have found something: in the code (docs/protocol.md says what), or what is planted in
 * tests/mutants. */
static const uint64_t regression[] = {
    13,        78,         142,        583,        918,        981,        1819,       1913,
    5288,      9451,       15985,      22007,      39369,      63299,      80998,      135671,
    1001615,   1017874,    3107839,    20001418,   22443781,   22808505,   30002894,   60038595,
    95003245,  310000060,  310000188,  310033721,  320055218,  400002476,  500003051,  500012675,
    800009749, 1000001179, 2000000013, 2000000123, 2000010704, 2000067932, 2000101700, 2003108665};

void run_set_up(uint64_t seed, bool calm)
{
    memset(&w, 0, sizeof(w));
    w.seed = seed;
    w.rnd = seed * 0x9e3779b97f4a7c15ull + 1;
    for (int i = 0; i < 8; i++)
        (void)rnd(1);
    w.dir[0] = w.dir[1] = w.arb_up = true;
    fault_character(calm);
    for (int i = 0; i < 2; i++) {
        struct node *n = &w.n[i];
        n->name[0] = (char)('A' + i);
        n->off = (uint64_t)(i + 1) * 1000 * DMT_S;
        n->rate = 1.0 + ((double)rnd(2000) - 1000.0) / 1e5; /* rho: 1 % */
        n->arb_link = true;
        n->arb_lost = UINT64_MAX;
        new_store(n);
    }
    w.n[0].disk.hold = w.n[0].disk.seen = DMT_EPOCH(1, 0);
    w.n[0].disk.alone = true;
    w.n[0].disk.lineage = (struct dmt_lineage){.id = {1}, .first = 1};
    w.n[0].lin = w.n[0].disk.lineage;
    w.lines = w.named = 1;
    w.n[0].empty = false;
    push(0, W_CONNECT, -1);
    push(2 * DMT_S + rnd(DMT_S), W_FAULT, -1);
    node_start(&w.n[0]);
    node_start(&w.n[1]);
}

static void second(struct node *n)
{
    push(w.now + DMT_S, W_TICK, idx(n));
    if (w.bulk)
        files_checkpoint(n);
    if (n->g.id && w.now - n->g.heard > 10 * DMT_S)
        wire_close(n, CH_DATA, true);
    if (n->ping_conn && w.now - n->ping_heard > 10 * DMT_S)
        wire_close(n, CH_PING, true);
    if (n->g.joined)
        wire_send(n, CH_DATA, &(struct msg){.kind = M_KEEP});
}

static void synced(struct node *n, const struct item *it)
{
    if (it->gen != n->jgen)
        return;
    n->fsyncing = false;
    if ((int)it->n > n->durable)
        n->durable = (int)it->n;
    peer_durable(n);
    node_synced(n);
    fsync_soon(n);
}

static void run_item(struct item *it)
{
    struct node *n = it->node >= 0 ? &w.n[it->node] : NULL;
    switch (it->what) {
    case W_STEP:
        n->next_step = 0;
        feed_type(n, LEASE_EV_TICK);
        return;
    case W_MSG:
        wire_deliver(n, it);
        return;
    case W_CONNECT:
        wire_try();
        return;
    case W_TICK:
        second(n);
        return;
    case W_IO:
        node_io(n);
        return;
    case W_EVENT:
        feed(n, it->ev);
        return;
    case W_LOOP:
        peer_loop(n, it);
        return;
    case W_APP:
        node_app(n, (enum app_op)it->n);
        return;
    case W_FSYNC:
        synced(n, it);
        return;
    case W_CLIENT:
        node_client(n);
        return;
    case W_ASK:
        arbiter_take(it);
        return;
    case W_ANSWER:
        if (n->arb_link && w.arb_up)
            feed(n, it->ev);
        return;
    case W_DATA:
        node_data(n, (int)it->n);
        return;
    case W_PLAN:
    case W_FILL:
    case W_BSYNC:
    case W_SERVE:
    case W_LANE:
        bulk_item(n, it);
        return;
    case W_BUCKET: {
        struct bucket_event e = {.type = BUCKET_EV_TICK};
        n->bk_next = 0;
        object_feed(n, &e);
        return;
    }
    case W_OBJECT:
        object_done(n, it);
        return;
    case W_LAND:
        object_land(&it->key);
        return;
    case W_RESTART:
        n = &w.n[it->n];
        if (n->up && n->stuck)
            node_stop(n, false);
        if (!n->up)
            node_start(n);
        if (w.healed)
            fault_unfence(n);
        return;
    case W_FAULT:
        fault_strike();
        return;
    case W_HEAL:
        if (it->gen == w.healed) /* what was still to come when everything was healed is void */
            fault_heal(it->n);
        return;
    }
}

/* What happens to an item whose time has come: run, dropped, held back or later. */
static void serve(struct item *it)
{
    struct node *n = it->node >= 0 ? &w.n[it->node] : NULL;
    bool asked = it->what == W_ASK; /* on its way: the sender may be gone by now */
    if (n && !asked && (it->life != n->life || !n->up)) {
        item_free(it);
    } else if (n && it->what == W_MSG && !w.dir[idx(n)]) {
        int to = idx(n);
        DMT_ASSERT(w.held_n[to] < QUEUE_MAX / 8);
        w.held[to][w.held_n[to]++] = it;
    } else if (n && !asked && n->thaw_at > w.now) {
        it->at = n->thaw_at;
        put_back(it);
    } else {
        total.steps++;
        run_item(it);
        item_free(it);
    }
}

void run_advance(uint64_t until)
{
    struct item *it;
    while (!w.bad[0] && (it = next_item())) {
        if (it->at > until) {
            put_back(it);
            break;
        }
        w.now = it->at;
        serve(it);
    }
    if (!w.bad[0])
        w.now = until;
}

static void describe(const struct node *n)
{
    const struct lease_state *s = &n->s;
    say("%s: %s, replica %s, gate %d, journal %d durable %d from %d; peer %d ping %d arbiter %d "
        "asking %s; lease %lld ms, wants resync %d",
        n->name, dmt_lease_state_name(lease_core_state(s)), dmt_sm_name(&n->rc.sm), n->mode,
        n->tail, n->durable, n->oldest, s->peer_up, s->ping_up, s->arb_up,
        s->asking ? lease_op_name(s->ask.op) : "nothing",
        (long long)(s->lease_end_ns - local(n)) / (long long)MS, s->peer_wants_resync);
    if (w.bucket)
        say("    bucket: epoch %u of %s, attempt %d stage %d, outstanding %d, test %d, up %d",
            n->bk.rec.reg.epoch, n->bk.rec.reg.holder.node, n->bk.rec.attempt, n->bk.stage,
            n->bk.op, n->bk.check, n->bk.up);
}

bool run_end(void)
{
    struct item *it;
    describe(&w.n[0]);
    describe(&w.n[1]);
    total.runs++;
    total.bulk_runs += w.bulk;
    while ((it = next_item()))
        item_free(it);
    wire_drop_held();
    node_stop(&w.n[0], false);
    node_stop(&w.n[1], false);
    while ((it = next_item()))
        item_free(it);
    judge_free();
    if (w.bad[0])
        printf("%s\n    TRACE=1 build/tests/sim/test_sim %llu\n", w.bad,
               (unsigned long long)w.seed);
    return w.bad[0] == '\0';
}

static bool one_run(uint64_t seed)
{
    run_set_up(seed, false);
    run_advance(RUN_NS);
    if (!w.bad[0])
        fault_heal_all();
    run_advance(RUN_NS + HEAL_NS);
    judge_end();
    judge_files_end();
    return run_end();
}

static void report(void)
{
    const struct totals *t = &total;
    printf("%llu runs with bulk data: %llu writes by reference, %llu blocks pulled, %llu ranges "
           "overwritten meanwhile, %llu files fell back, %llu were cut; "
           "%llu acknowledged syncs of "
           "bulk data; sync=local: %llu records lost with their machine\n",
           (unsigned long long)t->bulk_runs, (unsigned long long)t->refs,
           (unsigned long long)t->pulled, (unsigned long long)t->gone,
           (unsigned long long)t->fell_back, (unsigned long long)t->cut,
           (unsigned long long)t->bulk_acks, (unsigned long long)t->lost_local);
    printf("%llu promotions by force, %llu times a store left its lineage by a resync\n",
           (unsigned long long)t->forced, (unsigned long long)t->lines_left);
    printf(
        "%llu runs, %llu steps: %llu promotions, %llu handovers, %llu times solo, %llu times "
        "paired, %llu resyncs, %llu branches; %llu faults, %llu starts; %llu acknowledged syncs, "
        "%llu plain calls\n",
        (unsigned long long)t->runs, (unsigned long long)t->steps,
        (unsigned long long)t->promotions, (unsigned long long)t->handovers,
        (unsigned long long)t->solos, (unsigned long long)t->pairs, (unsigned long long)t->resyncs,
        (unsigned long long)t->branches, (unsigned long long)t->faults,
        (unsigned long long)t->restarts, (unsigned long long)t->acks,
        (unsigned long long)t->plains);
}

/* A simulation in which nothing happens proves nothing. */
static bool much_happened(void)
{
    const struct totals *t = &total;
    bool enough = t->promotions > t->runs / 2 && t->handovers > 0 && t->solos > t->runs / 8 &&
                  t->pairs > t->runs && t->resyncs > 0 && t->branches > 0 &&
                  t->bulk_runs > t->runs / 4 && t->pulled > t->refs && t->gone > t->runs &&
                  t->fell_back > t->runs / 20 && t->cut > t->runs / 8 && t->bulk_acks > t->runs &&
                  t->lost_local > 0 && t->forced > TEST_FORCED / 2 &&
                  t->lines_left > TEST_FORCED / 4;
    if (!enough)
        printf("too little has happened for this to prove anything\n");
    return enough;
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : argc > 1 ? 1 : TEST_SEEDS;
    uint64_t stride = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    bool good = true;
    tracing = getenv("TRACE") != NULL;
    setvbuf(stdout, NULL, tracing ? _IOFBF : _IOLBF, 1 << 16);
    if (argc == 2 && first == 0)
        return scenarios(argv[1]) ? 0 : 1;
    if (argc == 1)
        good = scenarios(NULL);
    for (size_t i = 0; argc == 1 && good && i < sizeof(regression) / sizeof(regression[0]); i++)
        good = one_run(regression[i]);
    for (uint64_t i = 0; good && i < count; i++)
        good = one_run(first + i * stride);
    for (uint64_t i = 0; argc == 1 && good && i < 2 * TEST_FORCED; i++)
        good = one_run(i < TEST_FORCED ? FORCE_SEEDS + i : FORCE_ALL + i - TEST_FORCED);
    report();
    if (good && argc == 1)
        good = much_happened();
    return good ? 0 : 1;
}
