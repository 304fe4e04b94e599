/* io.c: the lease-io thread: carries out, in the core's order, what may block.
 *
 * Owns STORE/node.state and the queue of actions. Happy path: one by one, each finished before the
 * next (write the record, then act on it). Failure modes: a record that cannot be written or an
 * epoch that cannot be opened breaks the lease for good: the core is told, the gate is closed,
 * nothing that was queued behind it happens. Thread: lease-io, but for load and the first save
 * (before it starts).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "fs/lease/internal.h"

#define RECORD_MAX 65536u

struct io_item {
    struct dmt_list link;
    struct lease_action a;
};

/* What other threads may know of the record on disk. */
static void known(struct dmt_lease *l, const struct lease_record *r)
{
    atomic_store(&l->alone, r->alone);
    atomic_store(&l->epoch, r->hold);
    atomic_store(&l->seen, r->seen);
    pthread_mutex_lock(&l->lock);
    bool news = memcmp(l->lineage.id, r->lineage.id, 16) != 0;
    l->lineage = r->lineage;
    pthread_mutex_unlock(&l->lock);
    if (news)
        lease_wake(l->arb.wake_fd); /* who we are changes for the arbiter, too */
}

int lease_io_save(struct dmt_lease *l, const struct lease_record *r)
{
    struct dmt_buf b;
    dmt_buf_init(&b);
    int e = lease_record_encode(r, &b);
    if (e == 0)
        e = dmt_io_write_file(l->conf.io, l->path, b.p, b.len, 0600);
    dmt_buf_free(&b);
    if (e == 0)
        known(l, r);
    return e;
}

int lease_io_load(struct dmt_lease *l, struct lease_record *ret, struct dmt_err *err)
{
    char *buf = NULL;
    size_t n;
    int r = dmt_io_read_file(l->conf.io, l->path, RECORD_MAX, &buf, &n);
    if (r == -ENOENT)
        return r;
    if (r < 0)
        return dmt_err_set(err, r, "cannot read %s: %s", l->path, dmt_strerror(r));
    r = lease_record_decode(buf, n, ret, err);
    free(buf);
    if (r < 0) {
        dmt_err_wrap(err, "%s", l->path);
        return err ? dmt_err_hint(err,
                                  "the node's role is not known; restore the file or resynchronise "
                                  "this store from the other machine")
                   : r;
    }
    known(l, ret);
    return 0;
}

void lease_io_queue(struct dmt_lease *l, const struct lease_action *a)
{
    struct io_item *it = malloc(sizeof(*it));
    DMT_ASSERT(it); /* an action must not be lost: the core counts on it */
    it->a = *a;
    pthread_mutex_lock(&l->io.lock);
    dmt_list_add_tail(&l->io.queue, &it->link);
    pthread_cond_signal(&l->io.cond);
    pthread_mutex_unlock(&l->io.lock);
}

static void broken(struct dmt_lease *l, const char *what, int r)
{
    struct lease_event e = {.type = LEASE_EV_BROKEN};
    (void)snprintf(e.text, sizeof(e.text), "%s: %s", what, dmt_strerror(r));
    l->io.broken = true;
    lease_post(l, &e);
    l->conf.ops->failed(l->conf.ctx, e.text);
}

static void ask(struct dmt_lease *l, const struct lease_ask *a)
{
    pthread_mutex_lock(&l->arb.lock);
    l->arb.ask = *a;
    l->arb.pending = true;
    pthread_mutex_unlock(&l->arb.lock);
    lease_wake(l->arb.wake_fd);
}

static void carry_out(struct dmt_lease *l, const struct lease_action *a)
{
    const struct dmt_lease_ops *ops = l->conf.ops;
    void *ctx = l->conf.ctx;
    struct lease_event e = {.type = LEASE_EV_GATE, .gen = a->gen};
    int r;
    switch (a->type) {
    case LEASE_ACT_WRITE:
        r = lease_io_save(l, &a->record);
        if (r < 0)
            broken(l, "node.state cannot be written", r);
        break;
    case LEASE_ACT_OPEN_EPOCH:
        r = ops->open_epoch(ctx, a->epoch, a->alone, a->text);
        if (r < 0)
            broken(l, "the new epoch cannot be opened", r);
        break;
    case LEASE_ACT_GATE:
        lease_gate_apply(l, a);
        lease_post(l, &e); /* with the tail as it is from now on */
        break;
    case LEASE_ACT_ASK:
        ask(l, &a->ask);
        break;
    case LEASE_ACT_PROMOTE:
        ops->promote(ctx, a->epoch, a->alone, a->forced, a->text);
        break;
    case LEASE_ACT_DEMOTE:
        ops->demote(ctx);
        break;
    case LEASE_ACT_FOLLOW:
        ops->follow(ctx, a->epoch);
        break;
    case LEASE_ACT_LOSE:
        ops->lose(ctx, a->epoch, a->switch_seq, a->forced, a->text);
        break;
    case LEASE_ACT_FETCH:
        ops->fetch(ctx);
        break;
    case LEASE_ACT_ORDER_RESYNC:
        ops->order_resync(ctx);
        break;
    case LEASE_ACT_RESYNC:
        ops->resync(ctx, a->gen);
        break;
    case LEASE_ACT_DRAIN:
        ops->drain(ctx);
        break;
    default: /* the others are carried out by the lease thread at once */
        break;
    }
}

void *lease_io_main(void *arg)
{
    struct dmt_lease *l = arg;
    pthread_mutex_lock(&l->io.lock);
    for (;;) {
        while (dmt_list_empty(&l->io.queue) && !atomic_load(&l->stop))
            pthread_cond_wait(&l->io.cond, &l->io.lock);
        if (atomic_load(&l->stop))
            break;
        struct io_item *it = DMT_CONTAINER(l->io.queue.next, struct io_item, link);
        dmt_list_del(&it->link);
        pthread_mutex_unlock(&l->io.lock);
        if (!l->io.broken)
            carry_out(l, &it->a);
        free(it);
        pthread_mutex_lock(&l->io.lock);
    }
    /* What was decided and not done yet is what a crash would have lost: the record on disk is
     * consistent. */
    DMT_LIST_EACH(n, tmp, &l->io.queue)
    {
        dmt_list_del(n);
        free(DMT_CONTAINER(n, struct io_item, link));
    }
    pthread_mutex_unlock(&l->io.lock);
    return NULL;
}
