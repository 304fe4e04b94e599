/* fault.c: what goes wrong, and when.
 *
 * Each seed has a character of its own: which faults it knows, how often they come, how slow disks
 * and links are, how fast clients write. So the seeds differ more from each other than the faults
 * within one, and rare combinations become common in some. Every fault that lasts is healed by an
 * event of its own; at the end all are.
 */
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

enum heal {
    H_LINK,
    H_DIR0,
    H_DIR1,
    H_ARB0,
    H_ARB1,
    H_ARB,
    H_END0,
    H_END1,
    H_SPOT0,
    H_SPOT1,
    H_OPEN0,
    H_OPEN1,
    H_CUT0, /* it gets worse first */
    H_CUT1,
    H_OPERATOR, /* at the end: nobody holds, and the standby was told that this is on purpose */
};

/* Nothing goes wrong by chance: for scenarios. */
static void calm(void)
{
    w.calm = w.bulk = true;
    w.level = DMT_SYNC_FSYNC;
    w.fault_every = 100 * DMT_S;
    w.think = 20 * MS;
    w.fsync_max = w.delay_max = 2 * MS;
    w.bulk_ns = MS;
}

void fault_character(bool quiet)
{
    if (quiet) {
        calm();
        return;
    }
    for (int k = 0; k < F_KINDS; k++)
        w.weight[k] = rnd(3) ? (uint32_t)rnd(8) : 0;
    w.disks = w.seed % 3 == 0;
    w.bucket = w.seed % 5 == 3;
    if (!w.disks)
        w.weight[F_DISK] = 0;
    w.weight[F_FENCE] = w.weight[F_FENCE] > 5;
    w.weight[F_OPERATOR] = w.weight[F_OPERATOR] > 5;
    if (w.seed % 4 == 2) /* machines that are cut off while their clients work */
        w.weight[F_ISLAND] += 6;
    if (w.seed % 4 == 1) { /* storms of failovers */
        w.weight[F_KILL] += 20;
        w.weight[F_POWER] += 20;
    }
    static const uint64_t every[] = {400, 1200, 3000, 6000};
    w.fault_every = every[rnd(4)] * MS;
    w.think = (one_in(3) ? 30 : 120) * MS;
    w.fsync_max = (one_in(4) ? 60 : 5) * MS;
    w.delay_max = (one_in(4) ? 200 : 40) * MS;
    w.lossy = one_in(3) ? 5 + (uint32_t)rnd(40) : 0;
    w.block = one_in(6);
    w.all_sync = one_in(5);
    w.level = one_in(4) ? one_in(2) ? DMT_SYNC_LOCAL : DMT_SYNC_WRITE : DMT_SYNC_FSYNC;
    w.bulk = w.level != DMT_SYNC_WRITE && rnd(3) != 0; /* with sync=write everything is inline */
    static const uint64_t range[] = {1, 10, 60, 250};
    w.bulk_ns = range[rnd(4)] * MS;
    w.forces = w.seed >= FORCE_SEEDS;
    if (w.forces && w.seed < FORCE_ALL) { /* without files, empty disks and the bucket */
        w.bulk = w.disks = w.bucket = false;
        w.weight[F_DISK] = 0;
    }
}

static uint64_t a_while(void)
{
    static const uint64_t spans[] = {50, 400, 900, 1500, 2500, 8000, 15000};
    return (spans[rnd(rnd(2) ? 7 : 5)] + rnd(300)) * MS;
}

static void heal_later(uint64_t after, enum heal what)
{
    struct item *it = push(w.now + after, W_HEAL, -1);
    it->n = what;
    it->gen = w.healed;
}

static void command(struct node *n, enum dmt_lease_command c)
{
    struct lease_event e = {.type = LEASE_EV_COMMAND, .command = c};
    feed(n, &e);
}

static void kill_node(struct node *n, bool power, uint64_t span)
{
    if (!n->up)
        return;
    uint64_t instance = n->s.conf.instance;
    node_stop(n, power);
    if (one_in(2)) { /* its agent has seen it end; word of that reaches the other node */
        struct node *o = other(n);
        w.heard_dead[idx(n)] = true;
        if (o->up && o->arb_link && w.arb_up) {
            struct lease_event *e = post(o, LEASE_EV_DEATH);
            e->id = n->disk.self;
            e->instance = instance;
        }
    }
    node_restart_soon(n, span);
}

static void strike_link(enum fault_kind k, int i, uint64_t span)
{
    if (k == F_LINK) {
        say("link down for %llu ms", (unsigned long long)(span / MS));
        wire_direction(0, false);
        wire_direction(1, false);
        heal_later(span, H_LINK);
    } else if (k == F_ONEWAY) {
        say("nothing reaches %s for %llu ms", w.n[i].name, (unsigned long long)(span / MS));
        wire_direction(i, false);
        heal_later(span, i ? H_DIR1 : H_DIR0);
    }
    if (k == F_RESET || one_in(3))
        for (enum channel ch = 0; ch < CHANNELS; ch++)
            if (rnd(2) && w.n[i].up)
                wire_close(&w.n[i], ch, true);
}

static void strike_arbiter(enum fault_kind k, struct node *n, uint64_t span)
{
    if (k == F_ARB_LINK)
        n->arb_link = false;
    else
        w.arb_up = false;
    arbiter_links();
    heal_later(span, k == F_ARB_AWAY ? H_ARB : idx(n) ? H_ARB1 : H_ARB0);
}

/* A machine whose network goes: first the arbiter cannot be reached, a little later the other node;
 * they come back one by one, too. */
static void strike_island(struct node *n, uint64_t span)
{
    say("%s is being cut off", n->name);
    n->arb_link = false;
    arbiter_links();
    uint64_t cut = rnd(900 * MS);
    heal_later(cut, idx(n) ? H_CUT1 : H_CUT0);
    heal_later(cut + 400 * MS + rnd(900 * MS), H_LINK);
    heal_later(cut + DMT_S + span, idx(n) ? H_ARB1 : H_ARB0);
}

static void strike_disk(struct node *n, uint64_t span)
{
    node_stop(n, true);
    say("%s gets an empty disk", n->name);
    w.disk_lost = true;
    if (n->lin.id[0] > 1 && other(n)->lin.id[0] != n->lin.id[0])
        w.founder_lost = true;
    new_store(n);
    node_restart_soon(n, span);
}

static void strike_person(enum fault_kind k, struct node *n, uint64_t span)
{
    if (!usable(n) || n->stuck)
        return;
    switch (k) {
    case F_HANDOVER:
        command(n, DMT_LEASE_CMD_HANDOVER);
        return;
    case F_STOP:
        feed_type(n, LEASE_EV_STOP);
        heal_later(200 * MS, idx(n) ? H_END1 : H_END0);
        node_restart_soon(n, 200 * MS + span);
        return;
    case F_SPOT: {
        struct lease_event e = {.type = LEASE_EV_SPOT, .spot = true};
        feed(n, &e);
        heal_later(span, idx(n) ? H_SPOT1 : H_SPOT0);
        return;
    }
    case F_FENCE:
        command(n, DMT_LEASE_CMD_FENCE);
        heal_later(span, idx(n) ? H_OPEN1 : H_OPEN0);
        return;
    default: /* an operator in a hurry: he vouches for the death of a holder that may well live */
        w.plain_off = true;
        command(n, DMT_LEASE_CMD_PROMOTE);
        return;
    }
}

static void strike(enum fault_kind k)
{
    struct node *n = &w.n[rnd(2)];
    uint64_t span = a_while();
    switch (k) {
    case F_LINK:
    case F_ONEWAY:
    case F_RESET:
        strike_link(k, idx(n), span);
        return;
    case F_ISLAND:
        strike_island(n, span);
        return;
    case F_ARB_LINK:
    case F_ARB_AWAY:
        strike_arbiter(k, n, span);
        return;
    case F_KILL:
    case F_POWER:
        kill_node(n, k == F_POWER, span);
        return;
    case F_PAUSE:
        if (usable(n)) {
            say("%s is paused for %llu ms", n->name, (unsigned long long)(span / MS));
            n->thaw_at = w.now + span < RUN_NS ? w.now + span : RUN_NS;
        }
        return;
    case F_DISK:
        strike_disk(n, span);
        return;
    case F_FULL:
        say("the disk of %s is full for %llu ms", n->name, (unsigned long long)(span / MS));
        n->full_until = w.now + span;
        return;
    case F_TRIM: /* a holder that blocks writes little while its standby is away: nothing to trim */
        if (!w.block)
            n->oldest = n->durable;
        return;
    default:
        strike_person(k, n, span);
        return;
    }
}

/* Both were forced: a person removes one. */
static bool remove_one_of_two(void)
{
    enum dmt_lineage_relation rel =
        dmt_lineage_relate(&w.n[0].lin, DMT_EPOCH_MAJOR(w.n[0].disk.seen), &w.n[1].lin,
                           DMT_EPOCH_MAJOR(w.n[1].disk.seen));
    if (rel != DMT_LINEAGE_FOREIGN && rel != DMT_LINEAGE_BEYOND)
        return false;
    node_stop(&w.n[1], true);
    new_store(&w.n[1]);
    w.disks = true;
    return true;
}

/* Somebody believes that the other machine is gone for ever; the core refuses it if it hears it. */
static void strike_force(struct node *n)
{
    struct lease_event e = {.type = LEASE_EV_COMMAND, .command = DMT_LEASE_CMD_FORCE};
    if (!usable(n) || n->stuck || w.lines + 1 >= LINES_MAX)
        return;
    uint8_t was = n->s.rec.lineage.id[0];
    e.lineage.id[0] = (uint8_t)(w.lines + 1);
    feed(n, &e);
    if (n->s.rec.lineage.id[0] != was)
        w.lines++;
}

void fault_strike(void)
{
    uint32_t sum = 0;
    if (w.healed)
        return;
    for (int k = 0; k < F_KINDS; k++)
        sum += w.weight[k];
    uint32_t at = (uint32_t)rnd(sum);
    for (int k = 0; sum && k < F_KINDS; k++) {
        if (at < w.weight[k]) {
            total.faults++;
            strike((enum fault_kind)k);
            break;
        }
        at -= w.weight[k];
    }
    if (w.forces && one_in(6))
        strike_force(&w.n[rnd(2)]);
    push(w.now + 20 * MS + rnd(w.fault_every), W_FAULT, -1);
}

/* An operator takes back what was fenced. */
void fault_unfence(struct node *n)
{
    if (usable(n) && n->s.rec.fenced)
        command(n, DMT_LEASE_CMD_PROMOTE);
}

void fault_heal(uint64_t what)
{
    struct lease_event spot = {.type = LEASE_EV_SPOT};
    struct node *n =
        &w.n[what % 2 == 0]; /* of the pairs below: the first is A's, at an odd number */
    switch ((enum heal)what) {
    case H_LINK:
        wire_direction(0, true);
        wire_direction(1, true);
        return;
    case H_DIR0:
    case H_DIR1:
        wire_direction(idx(n), true);
        return;
    case H_ARB0:
    case H_ARB1:
        n->arb_link = true;
        arbiter_links();
        return;
    case H_ARB:
        w.arb_up = true;
        w.heard[0] = w.heard[1] = 0; /* it has restarted */
        arbiter_links();
        return;
    case H_END0:
    case H_END1:
        n = &w.n[what - H_END0];
        node_stop(n, false);
        return;
    case H_SPOT0:
    case H_SPOT1:
        n = &w.n[what - H_SPOT0];
        if (usable(n))
            feed(n, &spot);
        return;
    case H_CUT0:
    case H_CUT1:
        wire_direction(1 - (int)(what - H_CUT0), false);
        if (rnd(2))
            wire_direction((int)(what - H_CUT0), false);
        return;
    case H_OPERATOR:
        if (remove_one_of_two()) /* a force was under way when everything was healed */
            node_start(&w.n[1]);
        for (int i = 0; i < 2; i++)
            if (lease_core_state(&w.n[i].s) == DMT_LEASE_FOLLOWER && w.n[i].s.rec.peer_stopped)
                command(&w.n[i], DMT_LEASE_CMD_PROMOTE);
        return;
    case H_OPEN0:
    case H_OPEN1:
        fault_unfence(&w.n[what - H_OPEN0]);
        return;
    }
}

void fault_heal_all(void)
{
    struct lease_event spot = {.type = LEASE_EV_SPOT};
    say("--- everything is healed ---");
    (void)remove_one_of_two(); /* started below */
    w.healed = true;
    w.bulk_ns = MS; /* a link that is slower than its writers overwrite never has all */
    wire_direction(0, true);
    wire_direction(1, true);
    w.arb_up = true;
    w.heard[0] = w.heard[1] = 0;
    for (int i = 0; i < 2; i++) {
        struct node *n = &w.n[i];
        n->arb_link = true;
        n->full_until = 0;
        if (n->s.stopping)
            node_stop(n, false);
        if (!n->up)
            node_start(n);
        feed(n, &spot);
        fault_unfence(n);
    }
    arbiter_links();
    heal_later(10 * DMT_S, H_OPERATOR);
}
