/* core.c: the decisions of core.h: pure code, one function per event, called by replica_step. Those
 * of a receiver stand in core_receiver.c.
 *
 * Owns nothing but the struct it is given. Happy path: OPEN, GOT_HELLO and GOT_VERDICT lead to
 * settle(), which looks at the pair of roles and starts one of the conversations drawn in core.h.
 * Failure modes: an event that has no place in the present phase is either late (an epoch was
 * raised while it was under way: ignored) or a broken peer (closed with -EPROTO). A lower epoch
 * than the highest we have obeyed is answered with BYE and that epoch, whatever it carries. Allowed
 * moves stand in the table and are checked by every change of phase.
 * Thread: the caller's.
 */
#include "fs/replica/core_int.h"

#include <string.h>

#include "fs/base/log.h"

#define BIT(name) (1u << REPLICA_##name)
#define ENDS      (BIT(DOWN) | BIT(IDLE))

static const struct dmt_sm_state phases[REPLICA_PHASE_COUNT] = {
    [REPLICA_DOWN] = {"down", BIT(GREETING) | BIT(DOWN)},
    [REPLICA_GREETING] = {"greeting", ENDS | BIT(AWAIT_READY) | BIT(AWAIT_FOLLOW)},
    [REPLICA_IDLE] = {"idle",
                      ENDS | BIT(AWAIT_READY) | BIT(AWAIT_FOLLOW) | BIT(SERVING) | BIT(FETCHING)},
    [REPLICA_AWAIT_READY] = {"await-ready",
                             BIT(DOWN) | BIT(AWAIT_READY) | BIT(STREAMING) | BIT(DIVERGED)},
    [REPLICA_STREAMING] = {"streaming", BIT(DOWN) | BIT(AWAIT_READY) | BIT(DIVERGED)},
    [REPLICA_DIVERGED] = {"diverged", BIT(DOWN) | BIT(AWAIT_READY) | BIT(ORDERED)},
    [REPLICA_ORDERED] = {"ordered", BIT(DOWN) | BIT(AWAIT_READY) | BIT(EXPORTING)},
    [REPLICA_EXPORTING] = {"exporting", BIT(DOWN) | BIT(ORDERED)},
    [REPLICA_AWAIT_FOLLOW] = {"await-follow", BIT(DOWN) | BIT(AWAIT_FOLLOW) | BIT(AWAIT_STREAM) |
                                                  BIT(AWAIT_ORDER) | BIT(SERVING)},
    [REPLICA_AWAIT_STREAM] = {"await-stream",
                              BIT(DOWN) | BIT(AWAIT_FOLLOW) | BIT(RECEIVING) | BIT(AWAIT_ORDER)},
    [REPLICA_RECEIVING] = {"receiving", BIT(DOWN) | BIT(AWAIT_FOLLOW) | BIT(AWAIT_ORDER)},
    [REPLICA_AWAIT_ORDER] = {"await-order",
                             BIT(DOWN) | BIT(AWAIT_FOLLOW) | BIT(AWAIT_ORDER) | BIT(IMPORTING)},
    [REPLICA_IMPORTING] = {"importing", BIT(DOWN) | BIT(AWAIT_ORDER)},
    [REPLICA_SERVING] = {"serving", BIT(DOWN) | BIT(IDLE)},
    [REPLICA_FETCHING] = {"fetching", BIT(DOWN) | BIT(IDLE)},
};

const char *replica_relation_text(enum replica_relation r)
{
    switch (r) {
    case REPLICA_ON:
        return "on our history";
    case REPLICA_BEYOND:
        return "ahead of our journal";
    case REPLICA_OFF:
        return "on another history";
    case REPLICA_OLD:
        return "older than what our journal still holds";
    case REPLICA_EMPTY:
        return "without a journal";
    default:
        return "unknown";
    }
}

/* Phases have invariants of their own: the ones that move data need a settled peer in the fitting
 * role. */
static bool phase_invariant(const void *ctx, int state)
{
    const struct replica_core *c = ctx;
    switch (state) {
    case REPLICA_STREAMING:
    case REPLICA_EXPORTING:
        return c->up && c->role == DMT_REPLICA_SENDER && c->epoch >= c->seen;
    case REPLICA_RECEIVING:
        return c->up && c->role == DMT_REPLICA_RECEIVER && c->peer.epoch >= c->seen && !c->empty;
    case REPLICA_IMPORTING:
        return c->up && c->role == DMT_REPLICA_RECEIVER && c->peer.epoch >= c->seen &&
               c->resync_ready;
    case REPLICA_FETCHING:
        return c->up && c->role == DMT_REPLICA_START;
    default:
        return true;
    }
}

void replica_core_init(struct replica_core *c)
{
    memset(c, 0, sizeof(*c));
    dmt_sm_init(&c->sm, phases, REPLICA_PHASE_COUNT, REPLICA_DOWN, phase_invariant, c);
}

enum replica_phase replica_core_phase(const struct replica_core *c)
{
    return (enum replica_phase)c->sm.state;
}

void replica_core_move(struct replica_core *c, enum replica_phase p)
{
    dmt_sm_move(&c->sm, (int)p);
}

struct replica_action *replica_core_act(struct replica_actions *as, enum replica_action_type type)
{
    DMT_ASSERT(as->n < REPLICA_ACTIONS_MAX);
    struct replica_action *a = &as->v[as->n++];
    memset(a, 0, sizeof(*a));
    a->type = type;
    return a;
}

void replica_core_close(struct replica_actions *as, int err, const char *text)
{
    struct replica_action *a = replica_core_act(as, REPLICA_AC_CLOSE);
    a->err = err;
    a->text = text;
}

void replica_core_higher(const struct replica_core *c, struct replica_actions *as, uint64_t epoch)
{
    if (epoch > c->seen)
        replica_core_act(as, REPLICA_AC_HIGHER)->epoch = epoch;
}

bool replica_core_is_holder(enum dmt_replica_role r)
{
    return r == DMT_REPLICA_SENDER || r == DMT_REPLICA_START;
}

/* --- sender ----------------------------------------------------------------------------------- */

static void announce(struct replica_core *c, struct replica_actions *as)
{
    struct replica_action *a = replica_core_act(as, REPLICA_AC_SEND_EPOCH);
    a->epoch = c->epoch;
    a->flag = c->alone;
    c->announce = false;
    c->pair_told = false;
    if (c->peer.role == DMT_REPLICA_RECEIVER && c->peer.seen <= c->epoch)
        replica_core_move(c, REPLICA_AWAIT_READY);
}

static void acked(struct replica_core *c, struct replica_actions *as, uint64_t durable,
                  uint64_t whole, bool at_tail)
{
    if (durable > c->acked)
        c->acked = durable;
    struct replica_action *a = replica_core_act(as, REPLICA_AC_ACKED);
    a->epoch = c->epoch;
    a->seq = c->acked;
    a->whole = whole;
    if (at_tail && !c->pair_told) {
        c->pair_told = true;
        a = replica_core_act(as, REPLICA_AC_PAIR_READY);
        a->epoch = c->epoch;
        a->seq = durable;
    }
}

static void send_order(struct replica_core *c, struct replica_actions *as)
{
    replica_core_move(c, REPLICA_ORDERED);
    memcpy(c->ordered_store, c->peer.store_id, 16);
    c->ordered_epoch = c->epoch;
    replica_core_act(as, REPLICA_AC_SEND_ORDER)->epoch = c->epoch;
}

static void on_ready(struct replica_core *c, const struct replica_event *ev,
                     struct replica_actions *as)
{
    if (ev->epoch > c->seen) {
        replica_core_higher(c, as, ev->epoch);
        replica_core_close(as, DMT_E_STALE, "a higher epoch exists");
        return;
    }
    enum replica_phase p = replica_core_phase(c);
    bool again =
        ev->flag && p == REPLICA_STREAMING; /* the receiver gave up in the midst of the stream */
    if (c->role != DMT_REPLICA_SENDER || ev->epoch != c->epoch ||
        (p != REPLICA_AWAIT_READY && !again))
        return; /* the answer to an epoch that we have left meanwhile */
    if (!ev->flag && ev->relation == REPLICA_ON) {
        replica_core_move(c, REPLICA_STREAMING);
        c->acked = ev->pos.seq;
        c->ordered_epoch = 0;
        struct replica_action *a = replica_core_act(as, REPLICA_AC_START_STREAM);
        a->epoch = c->epoch;
        a->pos = ev->pos;
        acked(c, as, ev->pos.seq, 0,
              ev->pos.seq == ev->tail.seq && ev->pos.chain == ev->tail.chain);
        return;
    }
    if (again)
        replica_core_act(as, REPLICA_AC_STOP_STREAM);
    replica_core_move(c, REPLICA_DIVERGED);
    if (c->alone && c->ordered_epoch == c->epoch &&
        memcmp(c->ordered_store, c->peer.store_id, 16) == 0) {
        send_order(c, as); /* the same store came back for what was ordered before */
        return;
    }
    replica_core_act(as, REPLICA_AC_RESYNC_NEEDED)->text =
        ev->flag ? ev->text : replica_relation_text(ev->relation);
}

static void on_ack(struct replica_core *c, const struct replica_event *ev,
                   struct replica_actions *as)
{
    if (ev->epoch > c->seen) {
        replica_core_higher(c, as, ev->epoch);
        replica_core_close(as, DMT_E_STALE, "a higher epoch exists");
        return;
    }
    if (replica_core_phase(c) != REPLICA_STREAMING || ev->epoch != c->epoch)
        return; /* R1: of an epoch that is over */
    if (ev->seq > ev->sent || ev->seq < c->acked) {
        replica_core_close(as, -EPROTO, "an acknowledgement of what was never sent");
        return;
    }
    if (!ev->chain_ok) {
        replica_core_close(as, DMT_E_HISTORY, "the acknowledged history is not ours");
        return;
    }
    acked(c, as, ev->seq, ev->whole,
          ev->seq == ev->tail.seq && ev->pos.seq == ev->tail.seq &&
              ev->pos.chain == ev->tail.chain);
}

static void on_go(struct replica_core *c, const struct replica_event *ev,
                  struct replica_actions *as)
{
    if (replica_core_phase(c) != REPLICA_ORDERED || ev->epoch != c->epoch || !c->alone) {
        replica_core_close(as, -EPROTO, "a resync was asked for that is not ordered");
        return;
    }
    replica_core_move(c, REPLICA_EXPORTING);
    replica_core_act(as, REPLICA_AC_EXPORT)->epoch = c->epoch;
}

static void on_exported(struct replica_core *c, const struct replica_event *ev,
                        struct replica_actions *as)
{
    if (replica_core_phase(c) != REPLICA_EXPORTING)
        return;
    replica_core_move(
        c, REPLICA_ORDERED); /* the standby imports, opens its store and comes back with a hello */
    if (ev->err < 0)
        replica_core_close(as, ev->err, ev->text ? ev->text : "the state could not be read");
}

/* --- start: fetching -------------------------------------------------------------------------- */

static void fetch_ended(struct replica_actions *as, int err)
{
    replica_core_act(as, REPLICA_AC_FETCH_ENDED)->err = err;
}

static void on_do_fetch(struct replica_core *c, struct replica_actions *as)
{
    if (c->role != DMT_REPLICA_START || replica_core_phase(c) != REPLICA_IDLE || !c->up) {
        fetch_ended(as, DMT_E_CLOSED);
    } else if (!c->peer.ahead) {
        fetch_ended(as, 0);
    } else {
        replica_core_move(c, REPLICA_FETCHING);
        replica_core_act(as, REPLICA_AC_SEND_FETCH)->epoch = c->epoch;
    }
}

static void on_stored(struct replica_core *c, const struct replica_event *ev,
                      struct replica_actions *as)
{
    if (replica_core_phase(c) != REPLICA_FETCHING)
        return;
    replica_core_move(c, REPLICA_IDLE);
    c->peer.ahead = false;
    fetch_ended(as, ev->err);
}

/* --- hello, roles, end ------------------------------------------------------------------------ */

/* HELLO and VERDICT of the peer are known: what do these two roles do with each other? */
static void settle(struct replica_core *c, struct replica_actions *as)
{
    c->up = true;
    c->peer.ahead = c->about_us == REPLICA_ON && c->peer.tail.seq > c->hello.seq;
    replica_core_move(c, REPLICA_IDLE);
    replica_core_act(as, REPLICA_AC_UP);
    uint64_t top = c->peer.seen > c->peer.epoch ? c->peer.seen : c->peer.epoch;
    bool meets = c->role == DMT_REPLICA_RECEIVER && c->peer.role == DMT_REPLICA_SENDER;
    if (!meets)
        replica_core_higher(c, as,
                            top); /* a receiver hears of it by PEER_EPOCH, with the switch point */
    if (meets)
        replica_recv_meet(c, as, &c->hello);
    else if (replica_core_is_holder(c->role) && replica_core_is_holder(c->peer.role) &&
             c->epoch == c->peer.epoch)
        replica_core_close(as, DMT_E_CONFLICT, "both machines hold the same epoch");
    else if (c->role == DMT_REPLICA_SENDER && c->announce)
        announce(c, as);
    else if (c->role == DMT_REPLICA_SENDER && c->peer.role == DMT_REPLICA_RECEIVER &&
             top <= c->epoch)
        replica_core_move(c, REPLICA_AWAIT_READY);
}

static void on_open(struct replica_core *c, const struct replica_event *ev)
{
    replica_core_move(c, REPLICA_GREETING);
    memset(&c->peer, 0, sizeof(c->peer));
    c->have_hello = c->have_verdict = c->up = c->ordered = c->import_over = c->announce =
        c->pair_told = c->on_chain = false;
    c->acked = 0;
    c->empty = ev->flag;
    c->hello = ev->pos;
}

static void on_hello(struct replica_core *c, const struct replica_event *ev,
                     struct replica_actions *as)
{
    if (replica_core_phase(c) != REPLICA_GREETING || c->have_hello) {
        replica_core_close(as, -EPROTO, "a second hello");
        return;
    }
    c->peer = *ev->peer;
    c->about_peer = ev->relation;
    c->fork = ev->fork;
    c->have_hello = true;
    replica_core_act(as, REPLICA_AC_VERDICT)->relation = ev->relation;
    if (c->have_verdict)
        settle(c, as);
}

static void on_verdict(struct replica_core *c, const struct replica_event *ev,
                       struct replica_actions *as)
{
    if (replica_core_phase(c) != REPLICA_GREETING || c->have_verdict) {
        replica_core_close(as, -EPROTO, "a second verdict");
        return;
    }
    c->about_us = ev->relation;
    c->have_verdict = true;
    if (c->have_hello)
        settle(c, as);
}

static void on_closed(struct replica_core *c, const struct replica_event *ev,
                      struct replica_actions *as)
{
    enum replica_phase p = replica_core_phase(c);
    bool was_up = c->up;
    c->up = false;
    replica_core_move(c, REPLICA_DOWN);
    if (p == REPLICA_STREAMING)
        replica_core_act(as, REPLICA_AC_STOP_STREAM);
    if (p == REPLICA_RECEIVING)
        replica_core_act(as, REPLICA_AC_STOP_RECEIVING);
    if (p == REPLICA_FETCHING)
        fetch_ended(as, DMT_E_CLOSED);
    if (was_up)
        replica_core_act(as, REPLICA_AC_PEER_GONE)->text = ev->text;
}

static void on_role(struct replica_core *c, const struct replica_event *ev,
                    struct replica_actions *as)
{
    enum dmt_replica_role was = c->role;
    enum replica_phase p = replica_core_phase(c);
    uint64_t was_epoch = c->epoch;
    DMT_ASSERT(ev->role != DMT_REPLICA_SENDER ||
               ev->epoch >= c->seen); /* rule 4: nobody opens a lower epoch */
    c->role = ev->role;
    c->alone = ev->flag;
    if (ev->seen > c->seen)
        c->seen = ev->seen;
    if (ev->role == DMT_REPLICA_SENDER && ev->epoch > c->seen)
        c->seen = ev->epoch;
    if (ev->role == DMT_REPLICA_START && ev->epoch == 0)
        c->epoch =
            /* a holder that has not opened its next epoch speaks for the last one it obeyed */
            c->seen;
    else if (ev->role != DMT_REPLICA_RECEIVER || was != ev->role || ev->epoch > c->epoch)
        c->epoch = ev->epoch;
    if (p == REPLICA_DOWN || (was == c->role && was_epoch == c->epoch))
        return;
    bool raised = c->role == DMT_REPLICA_SENDER && was != DMT_REPLICA_RECEIVER &&
                  p != REPLICA_EXPORTING && p != REPLICA_FETCHING && p != REPLICA_SERVING;
    if (!raised) {
        /* A follower that is only told its epoch again keeps its connection. */
        if (was != c->role || p == REPLICA_EXPORTING)
            replica_core_close(as, DMT_E_RETRY, "the role of this machine changed");
        return;
    }
    if (p == REPLICA_GREETING) {
        c->announce = true;
        return;
    }
    if (p == REPLICA_STREAMING)
        replica_core_act(as, REPLICA_AC_STOP_STREAM);
    announce(c, as);
}

static void on_stale(struct replica_core *c, const struct replica_event *ev,
                     struct replica_actions *as)
{
    replica_core_higher(c, as, ev->epoch);
    replica_core_close(as, DMT_E_STALE, "the peer knows a higher epoch");
}

void replica_step(struct replica_core *c, const struct replica_event *ev,
                  struct replica_actions *ret)
{
    ret->n = 0;
    switch (ev->type) {
    case REPLICA_EV_OPEN:
        on_open(c, ev);
        break;
    case REPLICA_EV_CLOSED:
        on_closed(c, ev, ret);
        break;
    case REPLICA_EV_GOT_HELLO:
        on_hello(c, ev, ret);
        break;
    case REPLICA_EV_GOT_VERDICT:
        on_verdict(c, ev, ret);
        break;
    case REPLICA_EV_GOT_EPOCH:
        replica_recv_epoch(c, ev, ret);
        break;
    case REPLICA_EV_GOT_READY:
        on_ready(c, ev, ret);
        break;
    case REPLICA_EV_GOT_STREAM:
        replica_recv_stream(c, ev, ret);
        break;
    case REPLICA_EV_GOT_ACK:
        on_ack(c, ev, ret);
        break;
    case REPLICA_EV_GOT_FETCH:
        replica_recv_fetch(c, ev, ret);
        break;
    case REPLICA_EV_GOT_FETCHED:
        if (replica_core_phase(c) != REPLICA_FETCHING || ev->epoch != c->epoch)
            replica_core_close(ret, -EPROTO, "a fetch ended that was not asked for");
        else
            replica_core_act(ret, REPLICA_AC_STORE)->pos = ev->pos;
        break;
    case REPLICA_EV_GOT_ORDER:
        replica_recv_order(c, ev, ret);
        break;
    case REPLICA_EV_GOT_GO:
        on_go(c, ev, ret);
        break;
    case REPLICA_EV_GOT_STALE:
        on_stale(c, ev, ret);
        break;
    case REPLICA_EV_ROLE:
        on_role(c, ev, ret);
        break;
    case REPLICA_EV_FOLLOW:
        replica_recv_follow(c, ev, ret);
        break;
    case REPLICA_EV_CANNOT:
        replica_recv_cannot(c, ev, ret);
        break;
    case REPLICA_EV_DO_ORDER:
        if (replica_core_phase(c) == REPLICA_DIVERGED && c->alone)
            send_order(c, ret);
        break;
    case REPLICA_EV_RESYNC_READY:
        replica_recv_resync_ready(c, ret);
        break;
    case REPLICA_EV_IMPORTED:
        replica_recv_imported(c);
        break;
    case REPLICA_EV_EXPORTED:
        on_exported(c, ev, ret);
        break;
    case REPLICA_EV_DO_FETCH:
        on_do_fetch(c, ret);
        break;
    case REPLICA_EV_STORED:
        on_stored(c, ev, ret);
        break;
    case REPLICA_EV_SERVED:
        if (replica_core_phase(c) == REPLICA_SERVING)
            replica_core_move(c, REPLICA_IDLE);
        break;
    case REPLICA_EVENT_COUNT:
        break;
    }
}

/* --- the hot path ----------------------------------------------------------------------------- */

/* Of a branch: from both sides of a stream. The other one may not know yet that it is over, and
 * nothing depends on these: then they are late. */
static int takes_branch(const struct replica_core *c, uint64_t epoch)
{
    enum replica_phase p = replica_core_phase(c);
    if (c->role == DMT_REPLICA_SENDER && epoch < c->epoch)
        return 1;
    if (epoch < c->seen)
        return DMT_E_STALE; /* rule 4 */
    bool ok = (p == REPLICA_STREAMING && epoch == c->epoch) ||
              (p == REPLICA_RECEIVING && epoch == c->peer.epoch);
    return ok ? 0 : 1;
}

int replica_core_takes(const struct replica_core *c, uint8_t type, uint64_t epoch)
{
    enum replica_phase p = replica_core_phase(c);
    if (type >= REPLICA_BRANCH && type <= REPLICA_BRANCH_END)
        return takes_branch(c, epoch);
    /* What a standby sent before it heard of our new epoch on this connection is late, not
     * wrong. */
    if ((type == REPLICA_HAVE || type == REPLICA_PULL || type == REPLICA_AUDITED) &&
        c->role == DMT_REPLICA_SENDER && epoch < c->epoch)
        return 1;
    if (epoch < c->seen)
        return DMT_E_STALE; /* rule 4 */
    bool ok = false;
    switch (type) {
    case REPLICA_RECORDS:
        ok = (p == REPLICA_RECEIVING && epoch == c->peer.epoch) ||
             (p == REPLICA_FETCHING && epoch == c->epoch);
        break;
    case REPLICA_COMMIT:
    case REPLICA_NEED:
    case REPLICA_WANT:
    case REPLICA_BULK:
    case REPLICA_GONE:
    case REPLICA_AUDIT:
        ok = p == REPLICA_RECEIVING && epoch == c->peer.epoch;
        break;
    case REPLICA_HAVE:
    case REPLICA_PULL:
    case REPLICA_AUDITED:
        ok = p == REPLICA_STREAMING && epoch == c->epoch;
        break;
    case REPLICA_LIST:
        ok = p == REPLICA_EXPORTING && epoch == c->epoch;
        break;
    case REPLICA_STATE:
    case REPLICA_STATE_END:
        ok = p == REPLICA_IMPORTING && epoch == c->peer.epoch;
        break;
    default:
        break;
    }
    return ok ? 0 : -EPROTO;
}

uint64_t replica_fork(const struct replica_epoch *a, size_t an, const struct replica_epoch *b,
                      size_t bn)
{
    size_t i = 0, j = 0;
    /* Each list may have lost its oldest entries: begin where the younger of the two beginnings
     * stands in the other. */
    if (an > 0 && bn > 0 && a[0].epoch < b[0].epoch && bn == REPLICA_EPOCHS_MAX)
        while (i < an && a[i].epoch < b[0].epoch)
            i++;
    if (an > 0 && bn > 0 && b[0].epoch < a[0].epoch && an == REPLICA_EPOCHS_MAX)
        while (j < bn && b[j].epoch < a[0].epoch)
            j++;
    bool common =
        i == 0 && j == 0; /* both complete: they share at least the beginning of the workspace */
    while (i < an && j < bn && memcmp(&a[i], &b[j], sizeof(a[i])) == 0) {
        common = true;
        i++;
        j++;
    }
    if (!common)
        return 0;
    uint64_t x = i < an ? a[i].switch_seq : REPLICA_NO_FORK;
    uint64_t y = j < bn ? b[j].switch_seq : REPLICA_NO_FORK;
    return x < y ? x : y;
}

bool replica_prefer_second(const uint8_t our_store[16], const uint8_t peer_store[16],
                           bool dialled_first, bool dialled_second)
{
    if (dialled_first == dialled_second)
        return true; /* its dialler has given the first one up */
    bool lower_is_us = memcmp(our_store, peer_store, 16) < 0;
    return dialled_second == lower_is_us;
}
