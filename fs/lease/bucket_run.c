/* bucket_run.c: the lease-arb thread when the arbiter is a bucket: drives the core of bucket.h.
 *
 * Owns STORE/bucket.state and the bucket core. Happy path: a question of the lease core or a word
 * of the peer comes into the queue, the core is stepped, its actions are carried out in order: the
 * record is made durable, an object is put or got (here, blocking: one at a time is all the core
 * asks for), the lease core gets its answer as an event. Failure modes: a record that cannot be
 * written breaks the lease for good, as node.state does; a bucket that does not answer is a result
 * like any other. Thread: lease-arb.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "fs/base/hash.h"
#include "fs/base/log.h"
#include "fs/lease/internal.h"

#define RECORD_MAX 65536u
#define IDLE_MS    1000

struct word {
    struct dmt_list link;
    struct lease_msg msg;
};

struct runner {
    struct dmt_lease *l;
    struct bucket_state core;
    struct bucket_actions acts;
    char path[DMT_PATH_MAX];
    bool broken, warned;
    /* the object operation of this step, if there was one */
    bool object, put;
    char key[BUCKET_KEY_MAX];
};

/* Any thread: a word of the peer, by the lease thread. */
void lease_bucket_word(struct dmt_lease *l, const struct lease_msg *m)
{
    if (!l->conf.bucket)
        return;
    struct word *w = malloc(sizeof(*w));
    if (!w)
        return; /* it is said again */
    w->msg = *m;
    pthread_mutex_lock(&l->arb.lock);
    dmt_list_add_tail(&l->arb.words, &w->link);
    pthread_mutex_unlock(&l->arb.lock);
    lease_wake(l->arb.wake_fd);
}

/* At the end. */
void lease_bucket_free(struct dmt_lease *l)
{
    DMT_LIST_EACH(n, tmp, &l->arb.words) free(DMT_CONTAINER(n, struct word, link));
    dmt_list_init(&l->arb.words);
}

static int load(struct runner *r, struct bucket_record *rec, struct dmt_err *err)
{
    char *buf = NULL;
    size_t n;
    memset(rec, 0, sizeof(*rec));
    (void)snprintf(rec->self.node, sizeof(rec->self.node), "%s", r->l->conf.node);
    memcpy(rec->self.store, r->l->conf.store_id, 16);
    struct lease_id self = rec->self;
    int rc = dmt_io_read_file(r->l->conf.io, r->path, RECORD_MAX, &buf, &n);
    if (rc == -ENOENT)
        return 0;
    if (rc == 0)
        rc = bucket_record_decode(buf, n, rec, err);
    free(buf);
    if (rc == 0 && !lease_id_eq(&rec->self, &self))
        rc = dmt_err_set(err, DMT_E_CONFIG, "it belongs to another store");
    return rc;
}

static int save(struct runner *r, const struct bucket_record *rec)
{
    struct dmt_buf b;
    dmt_buf_init(&b);
    int rc = bucket_record_encode(rec, &b);
    if (rc == 0)
        rc = dmt_io_write_file(r->l->conf.io, r->path, b.p, b.len, 0600);
    dmt_buf_free(&b);
    return rc;
}

static void give_up(struct runner *r, const char *what, const char *why)
{
    struct lease_event e = {.type = LEASE_EV_BROKEN};
    (void)snprintf(e.text, sizeof(e.text), "bucket.state %s: %.150s", what, why);
    r->broken = true;
    lease_post(r->l, &e);
    r->l->conf.ops->failed(r->l->conf.ctx, e.text);
}

static void tell(struct runner *r, const struct bucket_action *a, enum lease_ev type)
{
    struct lease_event e = {.type = type,
                            .ask_id = a->ask_id,
                            .answer = a->answer,
                            .retry_ms = a->retry_ms,
                            .reg = a->record.reg,
                            .id = a->msg.from,
                            .instance = a->msg.instance};
    memcpy(e.text, a->text, sizeof(e.text));
    lease_post(r->l, &e);
}

static void set_up(struct runner *r, const struct bucket_action *a)
{
    struct dmt_lease *l = r->l;
    if (!a->up && !r->warned)
        dmt_warn("arbiter: %s", a->text);
    if (a->up && r->warned)
        dmt_info("arbiter: the bucket answers again");
    r->warned = !a->up;
    pthread_mutex_lock(&l->arb.lock);
    l->arb.up = a->up;
    pthread_mutex_unlock(&l->arb.lock);
    tell(r, a, a->up ? LEASE_EV_ARB_UP : LEASE_EV_ARB_DOWN);
}

static void carry_out(struct runner *r, const struct bucket_action *a)
{
    int rc;
    switch (a->type) {
    case BUCKET_ACT_WRITE:
        rc = save(r, &a->record);
        if (rc < 0)
            give_up(r, "cannot be written", dmt_strerror(rc));
        return;
    case BUCKET_ACT_PUT:
    case BUCKET_ACT_GET:
        r->object = true;
        r->put = a->type == BUCKET_ACT_PUT;
        memcpy(r->key, a->key, sizeof(r->key));
        return;
    case BUCKET_ACT_SEND:
        lease_post_send(r->l, &a->msg);
        return;
    case BUCKET_ACT_ANSWER:
        tell(r, a, LEASE_EV_ANSWER);
        return;
    case BUCKET_ACT_REGISTER:
        tell(r, a, LEASE_EV_REGISTER);
        return;
    case BUCKET_ACT_UP:
        set_up(r, a);
        return;
    case BUCKET_ACT_DEATH:
        tell(r, a, LEASE_EV_DEATH);
        return;
    }
}

static void step(struct runner *r, const struct bucket_event *e)
{
    bucket_step(&r->core, e, lease_now(r->l), &r->acts);
    for (int i = 0; i < r->acts.n && !r->broken; i++)
        carry_out(r, &r->acts.a[i]);
}

/* Marks and register of another lineage say nothing in this one: it begins as never paired. */
static void of_this_lineage(struct dmt_lease *l, struct bucket_record *rec)
{
    static const uint8_t none[16];
    struct dmt_lineage now;
    dmt_lease_lineage(l, &now);
    bool other = memcmp(rec->lineage, now.id, 16) != 0 && memcmp(rec->lineage, none, 16) != 0;
    if (other)
        *rec = (struct bucket_record){.self = rec->self};
    memcpy(rec->lineage, now.id, 16);
}

static void begin(struct runner *r, const struct bucket_record *rec)
{
    struct bucket_event e = {.type = BUCKET_EV_START};
    dmt_random(&e.nonce, sizeof(e.nonce));
    bucket_init(&r->core, rec);
    r->object = false;
    step(r, &e);
}

static enum bucket_result do_object(struct runner *r)
{
    const struct dmt_lease_bucket *b = r->l->conf.bucket;
    int rc = r->put ? b->put(r->l->conf.ctx, r->key) : b->get(r->l->conf.ctx, r->key);
    if (rc == 0)
        return r->put ? BUCKET_STORED : BUCKET_FOUND;
    if (rc != -ENOENT || r->put)
        return BUCKET_UNKNOWN;
    /* A mark that somebody hid or deleted answers 404 as well; its version gives it away (R20). */
    bool decides = strncmp(r->key, "solo/", 5) == 0 || strncmp(r->key, "claim/", 6) == 0;
    if (decides && b->versions(r->l->conf.ctx, r->key) > 0)
        return BUCKET_FOUND;
    return BUCKET_ABSENT;
}

static bool next_input(struct runner *r, struct bucket_event *ret)
{
    struct dmt_lease *l = r->l;
    bool got = true;
    memset(ret, 0, sizeof(*ret));
    pthread_mutex_lock(&l->arb.lock);
    if (l->arb.pending) {
        ret->type = BUCKET_EV_ASK;
        ret->ask = l->arb.ask;
        l->arb.pending = false;
    } else if (!dmt_list_empty(&l->arb.words)) {
        struct word *w = DMT_CONTAINER(l->arb.words.next, struct word, link);
        dmt_list_del(&w->link);
        ret->type = BUCKET_EV_MSG;
        ret->msg = w->msg;
        free(w);
    } else {
        got = false;
    }
    pthread_mutex_unlock(&l->arb.lock);
    return got;
}

static void wait_for_work(struct runner *r)
{
    uint64_t now = lease_now(r->l);
    int ms = IDLE_MS;
    if (r->core.next <= now)
        ms = 0;
    else if (r->core.next - now < IDLE_MS * DMT_MS)
        ms = (int)((r->core.next - now) / DMT_MS) + 1;
    struct pollfd p = {.fd = r->l->arb.wake_fd, .events = POLLIN};
    if (poll(&p, 1, ms) > 0) {
        eventfd_t v;
        (void)eventfd_read(r->l->arb.wake_fd, &v);
    }
}

/* Until there is nothing to do at this time. */
static void work(struct runner *r)
{
    struct dmt_lease *l = r->l;
    struct bucket_event e;
    while (!r->broken && !atomic_load(&l->stop)) {
        struct bucket_record rec = r->core.rec;
        of_this_lineage(l, &rec);
        if (memcmp(rec.lineage, r->core.rec.lineage, 16) != 0)
            begin(r, &rec);
        if (next_input(r, &e)) {
            step(r, &e);
        } else if (r->object) {
            r->object = false;
            e = (struct bucket_event){.type = BUCKET_EV_DONE, .result = do_object(r)};
            step(r, &e);
        } else if (r->core.next <= lease_now(l)) {
            e = (struct bucket_event){.type = BUCKET_EV_TICK};
            step(r, &e);
        } else {
            return;
        }
    }
}

void *lease_bucket_main(void *arg)
{
    struct dmt_lease *l = arg;
    struct runner *r = calloc(1, sizeof(*r));
    struct bucket_record rec;
    struct dmt_err err = {0};
    DMT_ASSERT(r);
    r->l = l;
    (void)snprintf(r->path, sizeof(r->path), "%s/bucket.state", l->conf.dir);
    if (load(r, &rec, &err) < 0) {
        give_up(r, "cannot be used", err.msg[0] ? err.msg : "it cannot be read");
    } else {
        of_this_lineage(l, &rec);
        begin(r, &rec);
    }
    while (!atomic_load(&l->stop)) {
        work(r);
        if (r->broken)
            r->core.next = UINT64_MAX;
        wait_for_work(r);
    }
    free(r);
    return NULL;
}
