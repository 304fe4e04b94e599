/* bucket.c: the arbiter `bucket`: an object store, and on each node the driver of
 * fs/lease/bucket.h.
 *
 * The store keeps what reached it; for one key a GET that starts after a PUT was confirmed sees it,
 * and nothing else is promised: a PUT may time out and take effect at once, much later or never;
 * any request may be answered late, or not at all (503, network). Marks stand below the lineage of
 * the store that makes them. The counterpart of fs/lease/bucket_run.c: records are durable before
 * what follows, one request at a time; another lineage begins with a record of its own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "tests/sim/sim.h"

static struct object_key key_of(const struct node *n, const char *text)
{
    struct object_key k = {.kind = text[0], .line = n->lin.id[0]};
    const char *num = strchr(text, '/') + 1;
    k.num = strtoull(num, NULL, k.kind == 't' ? 16 : 10);
    if (k.kind == 't')
        k.node = strchr(num, '.') != NULL;
    if (k.kind == 'e')
        k.node = strchr(num, '/')[1] - 'A';
    if (k.kind != 't')
        k.num %= DMT_LINEAGE_STEP; /* a force begins so far above */
    DMT_ASSERT(k.kind == 't' || k.num < EPOCHS_MAX);
    return k;
}

static bool *mark(const struct object_key *k)
{
    switch (k->kind) {
    case 's':
        return &w.marks[k->line].solo[k->num];
    case 'c':
        return &w.marks[k->line].claim[k->num];
    case 'y':
        return &w.marks[k->line].yield[k->num];
    default:
        return &w.marks[k->line].note[k->node][k->num];
    }
}

static bool there(const struct object_key *k)
{
    if (k->kind != 't')
        return *mark(k);
    for (unsigned i = 0; i < TESTS_MAX; i++)
        if (w.tests[i].kind && w.tests[i].num == k->num && w.tests[i].node == k->node &&
            w.tests[i].line == k->line)
            return true;
    return false;
}

void object_land(const struct object_key *k)
{
    if (k->kind == 't')
        w.tests[w.tests_n++ % TESTS_MAX] = *k;
    else
        *mark(k) = true;
}

static uint64_t latency(void)
{
    return 2 * MS + rnd(one_in(10) ? 800 * MS : 30 * MS);
}

static void request(struct node *n, const char *key, bool put)
{
    n->bk_key = key_of(n, key);
    n->bk_put = put;
    uint64_t back = w.now + latency();
    bool away = !n->arb_link || !w.arb_up, fails = away || (!w.healed && one_in(15));
    if (away || fails)
        back = w.now + 50 * MS + rnd(1500 * MS);
    if (put &&
        (!fails || (!away && rnd(3)))) { /* a PUT without an answer lands some time, or not */
        uint64_t at = fails ? w.now + rnd(5 * DMT_S) : w.now + rnd(back - w.now);
        push(at, W_LAND, -1)->key = n->bk_key;
    }
    if (tracing)
        say("    %s: %s %s%s", n->name, put ? "PUT" : "GET", key, fails ? " (no answer)" : "");
    struct item *it = push(back, W_OBJECT, idx(n));
    it->n = fails;
    it->gen = n->bk_gen;
}

void object_done(struct node *n, const struct item *it)
{
    struct bucket_event e = {.type = BUCKET_EV_DONE};
    if (it->gen != n->bk_gen)
        return;
    if (it->n)
        e.result = BUCKET_UNKNOWN;
    else if (n->bk_put)
        e.result = BUCKET_STORED;
    else
        e.result = there(&n->bk_key) ? BUCKET_FOUND : BUCKET_ABSENT;
    object_feed(n, &e);
}

static void tell_core(struct node *n, const struct bucket_action *a, enum lease_ev type)
{
    struct lease_event *e = post(n, type);
    e->ask_id = a->ask_id;
    e->answer = a->answer;
    e->retry_ms = a->retry_ms;
    e->reg = a->record.reg;
    memcpy(e->text, a->text, sizeof(e->text));
}

static bool carry_out(struct node *n, const struct bucket_action *a)
{
    struct msg m = {.kind = M_PING, .ping = a->msg};
    struct lease_event *e;
    switch (a->type) {
    case BUCKET_ACT_WRITE:
        if (n->full_until > w.now) {
            node_break_down(n, "bucket.state cannot be written");
            return false;
        }
        judge_bucket_record(&a->record);
        n->bk_disk = a->record;
        n->bk_told = w.now;
        return true;
    case BUCKET_ACT_PUT:
    case BUCKET_ACT_GET:
        request(n, a->key, a->type == BUCKET_ACT_PUT);
        return true;
    case BUCKET_ACT_SEND:
        m.ping.from = n->disk.self;
        m.ping.instance = n->s.conf.instance;
        wire_send(n, CH_PING, &m);
        return true;
    case BUCKET_ACT_ANSWER:
        say("    %s: answer %d, epoch %u %s", n->name, a->answer, a->record.reg.epoch, a->text);
        tell_core(n, a, LEASE_EV_ANSWER);
        return true;
    case BUCKET_ACT_REGISTER:
        tell_core(n, a, LEASE_EV_REGISTER);
        return true;
    case BUCKET_ACT_UP:
        (void)post(n, a->up ? LEASE_EV_ARB_UP : LEASE_EV_ARB_DOWN);
        return true;
    case BUCKET_ACT_DEATH:
        e = post(n, LEASE_EV_DEATH);
        e->id = a->msg.from;
        e->instance = a->msg.instance;
        return true;
    }
    return false;
}

static void begin(struct node *n, const struct bucket_record *rec)
{
    struct bucket_event e = {.type = BUCKET_EV_START};
    e.nonce = rnd(0);
    e.nonce = w.rnd;
    n->bk_next = 0;
    n->bk_gen++;
    bucket_init(&n->bk, rec);
    object_feed(n, &e);
}

/* Marks and register of another lineage say nothing in this one: it begins as never paired. */
static bool of_this_lineage(const struct node *n, struct bucket_record *rec)
{
    const uint8_t *now = n->disk.lineage.id;
    bool same = memcmp(rec->lineage, now, 16) == 0;
    if (!same && rec->lineage[0])
        *rec = (struct bucket_record){.self = rec->self};
    memcpy(rec->lineage, now, 16);
    return same;
}

/* Who has another lineage now begins anew before anything else. (Without a force there is one.) */
void object_lineage(struct node *n)
{
    struct bucket_record rec = n->bk.rec;
    if (w.bucket && w.forces && n->up && !n->stuck && !of_this_lineage(n, &rec))
        begin(n, &rec);
}

void object_feed(struct node *n, struct bucket_event *e)
{
    static struct bucket_actions out;
    if (n->stuck)
        return;
    if (e->type != BUCKET_EV_DONE && e->type != BUCKET_EV_START)
        object_lineage(n);
    bucket_step(&n->bk, e, local(n), &out);
    for (int i = 0; i < out.n; i++)
        if (!carry_out(n, &out.a[i]))
            return;
    if (n->bk.next == UINT64_MAX)
        return;
    uint64_t at = (uint64_t)((double)(n->bk.next - n->off) / n->rate) + 1;
    at = at <= w.now ? w.now + MS : at;
    if (n->bk_next <= w.now || at < n->bk_next) {
        n->bk_next = at;
        push(at, W_BUCKET, idx(n));
    }
}

void object_ask(struct node *n, const struct lease_ask *q)
{
    struct bucket_event e = {.type = BUCKET_EV_ASK, .ask = *q};
    object_feed(n, &e);
}

void object_start(struct node *n)
{
    struct bucket_record rec = n->bk_disk;
    if (w.forces)
        (void)of_this_lineage(n, &rec);
    begin(n, &rec);
}
