/* branches.c: the copies of branches on the other machine: carries out what branch_core.c decides,
 * and answers the other side's questions (docs/decisions/0024).
 *
 * Owns r->branches. Happy path: a stream begins (either end) -> a pool job lists what is here ->
 * BRANCH for each -> BRANCH_GET for what is lacking; each BRANCH_DATA is unpacked, its hash
 * compared; all that was asked for is appended by a pool job; after BRANCH_END a job checks the
 * copy and gives it its name. The giving side: a pool job reads the next frame of what was asked
 * for, packs and encodes it; it waits until no other lane has anything to send.
 * Failure modes: the disk refuses (full, broken), the copy is not what it should be: what had come
 * is removed, one event says so, it is tried again later; the workspace is not concerned. A piece
 * that was not asked for, or does not hold together, breaks the protocol. Memory: one frame to
 * give, BRANCHES_RUN to take, and the names.
 * Threads: loop; a pool job touches only its own struct and the workspace's folder of branches.
 */
#include "fs/replica/int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/hash.h"
#include "fs/base/log.h"

_Static_assert(DMT_BRANCH_NAME_MAX <= REPLICA_TEXT_MAX, "a name fits into its field");

static void go(struct dmt_replica *r);

/* The epoch of the conversation: the streaming side's. */
static uint64_t epoch_of(const struct dmt_replica *r)
{
    return r->core.role == DMT_REPLICA_SENDER ? r->core.epoch : r->core.peer.epoch;
}

/* --- jobs of the side that lacks one ---------------------------------------------------------- */

struct name_found {
    char name[DMT_BRANCH_NAME_MAX + 1];
    bool removed;
};

struct branch_job {
    uv_work_t work;
    struct dmt_replica *r;
    struct dmt_ws *ws;
    enum { JOB_SCAN, JOB_REMOVE, JOB_OPEN, JOB_PUT, JOB_END, JOB_DROP } kind;
    char name[DMT_BRANCH_NAME_MAX + 1];
    struct dmt_branch_piece piece;
    struct dmt_pos tail; /* END */
    uint32_t files;
    struct dmt_buf data;      /* PUT */
    struct name_found *found; /* SCAN */
    size_t found_n;
    struct dmt_err err;
    int rc;
};

static int note_name(void *ctx, const char *name, bool removed)
{
    struct branch_job *job = ctx;
    struct name_found *v = realloc(job->found, (job->found_n + 1) * sizeof(*v));
    if (!v)
        return -ENOMEM;
    job->found = v;
    struct name_found *f = &v[job->found_n++];
    (void)snprintf(f->name, sizeof(f->name), "%s", name);
    f->removed = removed;
    return job->found_n < BRANCHES_MAX ? 0 : 1;
}

static void branch_work(uv_work_t *w)
{
    struct branch_job *job = w->data;
    switch (job->kind) {
    case JOB_SCAN:
        job->rc = dmt_ws_branch_names(job->ws, note_name, job);
        break;
    case JOB_REMOVE:
        job->rc = dmt_ws_branch_remove(job->ws, job->name, false, &job->err);
        break;
    case JOB_OPEN:
        job->rc = dmt_ws_branch_copy_open(job->ws, job->name, &job->piece);
        break;
    case JOB_PUT:
        job->rc = dmt_ws_branch_copy_put(job->ws, job->name, &job->piece, job->data.p);
        break;
    case JOB_END:
        job->rc = dmt_ws_branch_copy_end(job->ws, job->name, job->files, &job->tail);
        break;
    case JOB_DROP:
        break;
    }
    /* Also of a full disk: what has come takes room there. */
    if (job->kind == JOB_DROP || (job->rc < 0 && job->kind >= JOB_OPEN))
        dmt_ws_branch_copy_drop(job->ws, job->name);
}

static void tell(struct dmt_replica *r, const struct branch_job *job)
{
    const char *peer = r->core.peer.node[0] ? r->core.peer.node : "the other machine";
    if (job->kind == JOB_END && job->rc == 0)
        replica_event(r, "branch", "branch/%s: copied from %s, complete", job->name, peer);
    else if (job->kind == JOB_REMOVE && job->rc == 0)
        replica_event(r, "branch", "branch/%s: removed, as on %s", job->name, peer);
    else
        replica_event(r, "branch",
                      "branch/%s cannot be %s here: %s; it is tried again every minute", job->name,
                      job->kind == JOB_REMOVE ? "removed" : "copied", dmt_strerror(job->rc));
}

static void take_names(struct branches *b, const struct branch_job *job)
{
    branches_scanned_begin(b);
    for (size_t i = 0; i < job->found_n; i++)
        branches_scanned(b, job->found[i].name, job->found[i].removed);
    branches_scanned_end(b);
}

static void branch_done(uv_work_t *w, int status)
{
    struct branch_job *job = w->data;
    struct dmt_replica *r = job->r;
    struct branches *b = &r->branches.core;
    uint64_t now = replica_now_ms(r);
    bool say = false;
    (void)status;
    switch (job->kind) {
    case JOB_SCAN:
        take_names(b, job);
        break;
    case JOB_REMOVE:
        say = branches_removed(b, job->rc, now);
        break;
    case JOB_OPEN:
        say = branches_opened(b, job->rc, &job->piece, now);
        break;
    case JOB_PUT:
        say = branches_put(b, job->rc, now);
        break;
    case JOB_END:
        say = branches_ended(b, job->rc, now);
        break;
    case JOB_DROP:
        branches_dropped(b);
        break;
    }
    if (say)
        tell(r, job);
    dmt_buf_free(&job->data);
    free(job->found);
    free(job);
    replica_job_end(r, true);
    go(r);
}

static struct branch_job *job_new(struct dmt_replica *r, int kind, const char *name)
{
    struct branch_job *job = calloc(1, sizeof(*job));
    DMT_ASSERT(job);
    job->work.data = job;
    job->r = r;
    job->ws = r->ws;
    job->kind = kind;
    (void)snprintf(job->name, sizeof(job->name), "%s", name);
    return job;
}

static void job_start(struct branch_job *job)
{
    replica_job_start(job->r, true);
    DMT_ASSERT(uv_queue_work(job->r->uv, &job->work, branch_work, branch_done) == 0);
}

/* --- what is to be done ----------------------------------------------------------------------- */

static void send_name(struct dmt_replica *r, const struct branches_one *one)
{
    struct replica_msg m = {.type = REPLICA_BRANCH};
    m.BRANCH.epoch = epoch_of(r);
    m.BRANCH.name = replica_span_of(one->name);
    m.BRANCH.removed = one->removed;
    replica_post_send(r, &m);
}

static void send_question(struct dmt_replica *r, const struct branches_one *one)
{
    struct replica_msg m = {.type = REPLICA_BRANCH_GET};
    m.BRANCH_GET.epoch = epoch_of(r);
    m.BRANCH_GET.name = replica_span_of(one->name);
    m.BRANCH_GET.file = r->branches.core.piece.file;
    m.BRANCH_GET.off = r->branches.core.piece.off;
    m.BRANCH_GET.length = BRANCHES_RUN;
    replica_post_send(r, &m);
}

static void go(struct dmt_replica *r)
{
    const struct branches_one *one;
    for (;;) {
        /* Without a workspace there is no stream; the job of the one before may just have ended. */
        enum branches_act act = r->ws && r->conn
                                    ? branches_next(&r->branches.core, replica_now_ms(r), &one)
                                    : BRANCHES_NOTHING;
        switch (act) {
        case BRANCHES_NOTHING:
            return;
        case BRANCHES_TELL:
            send_name(r, one);
            break;
        case BRANCHES_ASK:
            send_question(r, one);
            break;
        case BRANCHES_SCAN:
            job_start(job_new(r, JOB_SCAN, ""));
            break;
        case BRANCHES_REMOVE:
            job_start(job_new(r, JOB_REMOVE, one->name));
            break;
        case BRANCHES_OPEN:
            job_start(job_new(r, JOB_OPEN, one->name));
            break;
        case BRANCHES_DROP:
            job_start(job_new(r, JOB_DROP, one->name));
            break;
        }
    }
}

void replica_branches_start(struct dmt_replica *r)
{
    if (!r->conn)
        return; /* lost in what was sent just now */
    branches_start(&r->branches.core);
    go(r);
}

void replica_branches_stop(struct dmt_replica *r)
{
    struct replica_branches *x = &r->branches;
    branches_stop(&x->core);
    x->gen++;
    x->asked = x->is_ready = false;
    dmt_buf_reset(&x->ready);
    dmt_buf_reset(&x->run);
}

void replica_branches_free(struct dmt_replica *r)
{
    branches_free(&r->branches.core);
    dmt_buf_free(&r->branches.ready);
    dmt_buf_free(&r->branches.run);
}

void replica_branches_tick(struct dmt_replica *r)
{
    go(r);
}

/* --- messages of the side that has one -------------------------------------------------------- */

static void refuse(struct dmt_replica *r, int err, const char *why)
{
    r->refused++;
    replica_event(r, "refused", "%s", why);
    replica_conn_close(r->conn, err, why);
}

void replica_branches_heard(struct dmt_replica *r, const struct replica_msg_BRANCH *m)
{
    if (branches_heard(&r->branches.core, (const char *)m->name.p, m->name.n, m->removed != 0))
        go(r);
    else
        refuse(r, -EPROTO, "a branch with a name that is none");
}

void replica_branches_data(struct dmt_replica *r, const struct replica_msg_BRANCH_DATA *m)
{
    struct replica_branches *x = &r->branches;
    struct dmt_branch_piece p = {
        .file = m->file, .serial = m->serial, .size = m->size, .off = m->off, .len = m->raw_len};
    uint8_t *data = m->raw_len <= REPLICA_BULK_MAX ? dmt_buf_reserve(&x->run, m->raw_len) : NULL;
    bool right = data && replica_unpack(r->receiver.unpack, m->data, data, m->raw_len) == 0 &&
                 dmt_hash64(m->off, data, m->raw_len) == m->hash;
    int rc = right ? branches_data(&x->core, (const char *)m->name.p, m->name.n, &p) : -1;
    if (rc < 0) {
        refuse(r, right ? -EPROTO : DMT_E_CORRUPT,
               right ? "a piece of a branch that was not asked for"
                     : "a piece of a branch with a wrong checksum");
        return;
    }
    r->branch_bytes += m->data.n;
    if (rc == 0)
        return;
    struct branch_job *job = job_new(r, JOB_PUT, x->core.v[x->core.at].name);
    job->piece = x->core.run;
    job->data = x->run;
    dmt_buf_init(&x->run);
    job_start(job);
}

void replica_branches_end(struct dmt_replica *r, const struct replica_msg_BRANCH_END *m)
{
    struct branches *b = &r->branches.core;
    int rc = branches_end(b, (const char *)m->name.p, m->name.n, m->files, replica_now_ms(r));
    if (rc < 0) {
        refuse(r, -EPROTO, "the end of a branch that was not asked for");
        return;
    }
    dmt_buf_reset(&r->branches.run); /* it ended in the midst */
    struct branch_job *job = job_new(r, rc ? JOB_END : JOB_DROP, b->v[b->at].name);
    job->files = m->files;
    job->tail = m->tail;
    job_start(job);
}

/* --- giving ----------------------------------------------------------------------------------- */

struct give_job {
    uv_work_t work;
    struct dmt_replica *r;
    struct dmt_ws *ws;
    uint64_t gen, epoch, most;
    char name[DMT_BRANCH_NAME_MAX + 1];
    struct dmt_branch_piece piece;
    struct dmt_pos tail;
    struct dmt_buf frame;
    int rc; /* of reading */
};

static void encode_piece(struct give_job *job, const uint8_t *raw)
{
    struct dmt_buf packed;
    struct replica_msg m = {.type = REPLICA_BRANCH_DATA};
    dmt_buf_init(&packed);
    if (replica_pack(raw, (size_t)job->piece.len, &packed) < 0)
        job->frame.bad = true;
    m.BRANCH_DATA.epoch = job->epoch;
    m.BRANCH_DATA.name = replica_span_of(job->name);
    m.BRANCH_DATA.file = job->piece.file;
    m.BRANCH_DATA.serial = job->piece.serial;
    m.BRANCH_DATA.size = job->piece.size;
    m.BRANCH_DATA.off = job->piece.off;
    m.BRANCH_DATA.hash = dmt_hash64(job->piece.off, raw, (size_t)job->piece.len);
    m.BRANCH_DATA.raw_len = (uint32_t)job->piece.len;
    m.BRANCH_DATA.data = (struct replica_span){packed.p, (uint32_t)packed.len};
    if (!job->frame.bad)
        replica_encode(&m, &job->frame);
    dmt_buf_free(&packed);
}

static void give_work(uv_work_t *w)
{
    struct give_job *job = w->data;
    uint8_t *raw = malloc(REPLICA_BULK_MAX);
    job->rc = raw ? dmt_ws_branch_read(job->ws, job->name, &job->piece, raw, job->most, &job->tail)
                  : -ENOMEM;
    if (job->rc == 0 && job->piece.len > 0) {
        encode_piece(job, raw);
    } else {
        struct replica_msg m = {.type = REPLICA_BRANCH_END};
        m.BRANCH_END.epoch = job->epoch;
        m.BRANCH_END.name = replica_span_of(job->name);
        m.BRANCH_END.files = job->rc == 0 ? job->piece.file : 0;
        m.BRANCH_END.tail = job->tail;
        replica_encode(&m, &job->frame);
    }
    free(raw);
}

static void give_done(uv_work_t *w, int status)
{
    struct give_job *job = w->data;
    struct dmt_replica *r = job->r;
    struct replica_branches *x = &r->branches;
    bool current = job->gen == x->gen && r->conn, bad = job->frame.bad;
    (void)status;
    if (job->rc < 0 && job->rc != -ENOENT)
        dmt_warn("branch/%s cannot be read for the other machine: %s", job->name,
                 dmt_strerror(job->rc));
    if (current && !bad) {
        const struct dmt_branch_piece *p = &job->piece;
        uint64_t left = job->rc == 0 && p->len > 0 ? p->size - p->off : 0;
        if (left > x->at.len)
            left = x->at.len; /* as much as was asked for */
        x->at = *p;
        x->at.off += p->len;
        x->at.len = left - (left > 0 ? p->len : 0);
        dmt_buf_free(&x->ready);
        x->ready = job->frame;
        x->is_ready = true;
    } else {
        dmt_buf_free(&job->frame);
    }
    free(job);
    replica_job_end(r, true);
    if (current && bad)
        replica_conn_close(r->conn, -ENOMEM, "no memory");
    else if (current)
        replica_conn_pump(r->conn);
}

/* The next frame of what was asked for. */
static void give(struct dmt_replica *r)
{
    struct replica_branches *x = &r->branches;
    struct give_job *job = calloc(1, sizeof(*job));
    DMT_ASSERT(job);
    job->work.data = job;
    job->r = r;
    job->ws = r->ws;
    job->gen = x->gen;
    job->epoch = epoch_of(r);
    job->most = x->at.len < FRAME_BYTES_MIN ? x->at.len : FRAME_BYTES_MIN;
    memcpy(job->name, x->name, sizeof(job->name));
    job->piece.file = x->at.file;
    job->piece.off = x->at.off;
    replica_job_start(r, true);
    DMT_ASSERT(uv_queue_work(r->uv, &job->work, give_work, give_done) == 0);
}

void replica_branches_get(struct dmt_replica *r, const struct replica_msg_BRANCH_GET *m)
{
    struct replica_branches *x = &r->branches;
    if (x->asked || !dmt_branch_name_ok((const char *)m->name.p, m->name.n) ||
        m->file >= DMT_BRANCH_FILES_MAX || m->off > DMT_BRANCH_FILE_MAX || m->length == 0 ||
        m->length > BRANCHES_RUN) {
        refuse(r, -EPROTO, "more of branches was asked for than agreed");
        return;
    }
    x->asked = true;
    memcpy(x->name, m->name.p, m->name.n);
    x->name[m->name.n] = '\0';
    x->at = (struct dmt_branch_piece){.file = m->file, .off = m->off, .len = m->length};
    give(r);
}

bool replica_branches_fill(struct dmt_replica *r, struct dmt_buf *out)
{
    struct replica_branches *x = &r->branches;
    if (!x->is_ready || !replica_serve_tokens(r, x->ready.len))
        return false;
    dmt_put_raw(out, x->ready.p, x->ready.len);
    r->branch_bytes += x->ready.len;
    x->is_ready = false;
    x->asked = x->at.len > 0;
    if (x->asked)
        give(r);
    return true;
}

/* --- told and asked by L4 --------------------------------------------------------------------- */

static void on_changed(void *arg)
{
    struct dmt_replica *r = arg;
    branches_changed(&r->branches.core);
    go(r);
}

void dmt_replica_branches_changed(struct dmt_replica *r)
{
    dmt_loop_call(r->loop, on_changed, r);
}

struct question {
    struct dmt_replica *r;
    const char *name;
    enum dmt_replica_there there;
};

static void on_question(void *arg)
{
    struct question *q = arg;
    const struct branches *b = &q->r->branches.core;
    const struct branches_one *one = branches_find(b, q->name);
    q->there = !b->on              ? DMT_REPLICA_THERE_UNKNOWN
               : one && one->there ? DMT_REPLICA_THERE
                                   : DMT_REPLICA_NOT_THERE;
}

enum dmt_replica_there dmt_replica_branch_there(struct dmt_replica *r, const char *name)
{
    struct question q = {.r = r, .name = name};
    dmt_loop_call(r->loop, on_question, &q);
    return q.there;
}
