/* history.c: this machine's history: its tail, its epochs, and how a position relates to them.
 *
 * Owns r->epochs (the newest REPLICA_EPOCHS_MAX, oldest first). Happy path: read once from rows and
 * journal when a workspace is handed over, then kept up by the records that come. Failure modes:
 * rows or records that cannot be read are an error of the load; a position that is no longer in the
 * journal is REPLICA_OLD. Threads: loop; the load the caller's, before the loop has the workspace.
 */
#include "fs/replica/int.h"

#include <string.h>

struct dmt_pos replica_tail(struct dmt_replica *r)
{
    return r->ws ? dmt_journal_tail(dmt_ws_journal(r->ws)) : (struct dmt_pos){0};
}

enum replica_relation replica_relate(struct dmt_replica *r, const struct dmt_pos *pos, bool empty)
{
    if (!r->ws || empty)
        return REPLICA_EMPTY;
    struct dmt_journal *j = dmt_ws_journal(r->ws);
    struct dmt_pos ours;
    int rc = dmt_journal_pos_at(j, pos->seq, &ours);
    if (rc == DMT_E_GONE)
        return REPLICA_OLD;
    if (rc == -ENOENT)
        return REPLICA_BEYOND;
    if (rc < 0)
        return REPLICA_OFF;
    return ours.chain == pos->chain ? REPLICA_ON : REPLICA_OFF;
}

void replica_epochs_add(struct dmt_replica *r, const struct replica_epoch *e)
{
    if (r->epochs_n > 0 && r->epochs[r->epochs_n - 1].epoch >= e->epoch)
        return; /* heard before */
    if (r->epochs_n == REPLICA_EPOCHS_MAX) {
        memmove(r->epochs, r->epochs + 1, (REPLICA_EPOCHS_MAX - 1) * sizeof(r->epochs[0]));
        r->epochs_n--;
    }
    r->epochs[r->epochs_n++] = *e;
}

/* An epoch's own record stands right after its switch point: cut away with it. */
void replica_epochs_trim(struct dmt_replica *r, uint64_t tail_seq)
{
    while (r->epochs_n > 0 && r->epochs[r->epochs_n - 1].switch_seq >= tail_seq)
        r->epochs_n--;
}

struct epoch_list {
    struct replica_epoch *v;
    size_t n;
};

static int list_add(void *ctx, const struct dmt_epoch_row *e)
{
    struct epoch_list *l = ctx;
    if (l->n > 0 && l->v[l->n - 1].epoch >= e->epoch)
        return 0;
    if (l->n == REPLICA_EPOCHS_MAX) {
        memmove(l->v, l->v + 1, (REPLICA_EPOCHS_MAX - 1) * sizeof(l->v[0]));
        l->n--;
    }
    l->v[l->n++] = (struct replica_epoch){e->epoch, e->switch_seq, e->switch_chain};
    return 0;
}

/* The rows of the store know what is applied; the rest is read from the journal. [blocks] */
int replica_epochs_load(struct dmt_ws *ws, struct replica_epoch *v, size_t *ret_n,
                        struct dmt_err *err)
{
    struct epoch_list l = {.v = v};
    uint64_t applied = dmt_ws_applied(ws);
    struct dmt_lockfn lk = dmt_ws_lockfn(ws);
    lk.lock(lk.ctx);
    int rc = dmt_store_epoch_each(dmt_ws_store(ws), list_add, &l);
    lk.unlock(lk.ctx);
    if (rc < 0)
        return dmt_err_set(err, rc, "cannot read the epochs of this workspace: %s",
                           dmt_strerror(rc));
    struct dmt_jreader *rd;
    rc = dmt_jreader_open(&rd, dmt_ws_journal(ws), applied, err);
    while (rc >= 0) {
        struct dmt_rec rec;
        struct dmt_body body;
        const uint8_t *raw;
        size_t raw_len;
        rc = dmt_jreader_next(rd, &rec, &raw, &raw_len, err);
        if (rc <= 0) {
            dmt_jreader_close(rd);
            break;
        }
        if (rec.type == DMT_REC_EPOCH &&
            dmt_body_decode(rec.type, rec.body, rec.body_len, &body) == 0) {
            struct dmt_epoch_row row = {.epoch = body.EPOCH.epoch,
                                        .switch_seq = body.EPOCH.switch_seq,
                                        .switch_chain = body.EPOCH.switch_chain};
            list_add(&l, &row);
        }
    }
    *ret_n = l.n;
    return rc < 0 ? rc : 0;
}
