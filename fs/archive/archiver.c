/* archiver.c: the thread that brings the journal into the archive.
 *
 * Owns: the thread, the remote (network), the status, archive.state. Happy path, for ever:
 *   1. locate: find out what is archived already on our own history (locate.c); if the journal no
 * longer reaches back to it, upload a base (base.c);
 *   2. read records up to limit() into a pack; after 8 MiB, 2 s or a flush upload it (pack.c);
 *   3. an object counts once the store has confirmed size and digest; archive.state is written;
 * archived() is called. Failure modes: whatever the store says, the pack in hand is kept and tried
 * again with growing pauses (the same bytes under the same number, so a PUT whose answer was lost
 * is no trouble); a number that turns out to be taken, a journal that moved on or was cut: start
 * again at 1. Nothing here is waited for by the mount: a full journal is its owner's decision.
 * Errors are shown in the status and logged once, not once an attempt. Threads: "archive" does all
 * of this; status, flush and stop come from others and touch only what `lock` guards. */
#include "fs/archive/archiver.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "fs/base/conf.h"
#include "fs/base/hash.h"
#include "fs/base/log.h"
#include "fs/base/thread.h"

#define STATE_FILE     "archive.state"
#define POLL_MS        100
#define PAUSE_FIRST_MS 250
#define PAUSE_MAX_MS   15000
#define RETRY_MS       3000  /* of one call; longer troubles are ours, and visible */
#define COUNT_MAX      20000 /* records counted ahead in one go */

bool archiver_stopped(struct dmt_archiver *a)
{
    return atomic_load(&a->stop);
}

void archiver_wait(struct dmt_archiver *a, uint64_t ms, bool flush_ends_it)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += (time_t)(ms / 1000);
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&a->lock);
    while (!atomic_load(&a->stop) && !(flush_ends_it && atomic_load(&a->flush)))
        if (pthread_cond_timedwait(&a->cond, &a->lock, &t) == ETIMEDOUT)
            break;
    pthread_mutex_unlock(&a->lock);
}

/* Counts records that wait in the journal behind the pack, for the status. A reader of its own: the
 * journal's pages are in memory. */
static void count_ahead(struct dmt_archiver *a)
{
    struct dmt_rec rec;
    struct pack_ref ref;
    const uint8_t *raw;
    size_t len;
    uint64_t limit = a->conf.limit(a->conf.ctx);
    if (a->ahead && a->ahead_seq < a->read_seq) {
        dmt_jreader_close(a->ahead);
        a->ahead = NULL;
    }
    if (!a->ahead) {
        a->ahead_seq = a->read_seq;
        a->ahead_bytes = 0;
        if (dmt_jreader_open(&a->ahead, a->journal, a->ahead_seq, NULL))
            return;
    }
    for (int i = 0; i < COUNT_MAX && a->ahead_seq < limit; i++) {
        if (dmt_jreader_next(a->ahead, &rec, &raw, &len, NULL) != 1)
            break;
        a->ahead_seq = rec.seq;
        a->ahead_bytes += pack_record_bytes(&rec, len, &ref);
    }
}

static void show_pending(struct dmt_archiver *a)
{
    uint64_t n = pack_measure(&a->pack) + a->ahead_bytes;
    pthread_mutex_lock(&a->lock);
    a->status.pending_bytes = n;
    pthread_mutex_unlock(&a->lock);
}

void archiver_failed(struct dmt_archiver *a, const struct dmt_err *err)
{
    bool first;
    char text[sizeof(a->status.last_error)];
    snprintf(text, sizeof(text), "%.255s", err->msg[0] ? err->msg : dmt_strerror(err->code));
    pthread_mutex_lock(&a->lock);
    first = strcmp(text, a->status.last_error) != 0;
    if (!a->status.error_since_ns)
        a->status.error_since_ns = a->clock->realtime_ns(a->clock->ctx);
    memcpy(a->status.last_error, text, sizeof(text));
    pthread_mutex_unlock(&a->lock);
    if (first)
        dmt_warn("archive %s: %s%s%s", a->url, text, err->hint[0] ? "; " : "", err->hint);
    if (a->reader)
        count_ahead(a);
    show_pending(a);
    a->pause_ms = !a->pause_ms                     ? PAUSE_FIRST_MS
                  : a->pause_ms * 2 > PAUSE_MAX_MS ? PAUSE_MAX_MS
                                                   : a->pause_ms * 2;
    /* A flush means "now", for the pause too, but however often it is asked for, not at once. */
    archiver_wait(a, POLL_MS, false);
    archiver_wait(a, a->pause_ms - POLL_MS, true);
    atomic_store(&a->flush, false);
}

void archiver_worked(struct dmt_archiver *a)
{
    a->pause_ms = 0;
    pthread_mutex_lock(&a->lock);
    bool was = a->status.error_since_ns != 0;
    a->status.error_since_ns = 0;
    a->status.last_error[0] = 0;
    pthread_mutex_unlock(&a->lock);
    if (was)
        dmt_info("archive %s: works again", a->url);
}

/* --- archive.state */

static void state_path(const struct dmt_archiver *a, char path[DMT_PATH_MAX])
{
    snprintf(path, DMT_PATH_MAX, "%s/" STATE_FILE, a->dir);
}

static uint64_t conf_u64(const struct dmt_conf *c, const char *key, uint64_t dflt)
{
    const char *v = dmt_conf_get(c, key);
    return v && *v ? strtoull(v, NULL, 0) : dflt;
}

void archiver_state_load(struct dmt_archiver *a)
{
    char path[DMT_PATH_MAX], hex[33];
    struct archive_state *st = &a->st;
    struct dmt_conf *c = dmt_conf_new();
    memset(st, 0, sizeof(*st));
    st->run_n = st->base_n = st->prev_n = ARCHIVE_NONE;
    if (!c)
        return;
    state_path(a, path);
    int r = dmt_conf_load(c, path, NULL);
    const char *url = dmt_conf_get(c, "url"), *lin = dmt_conf_get(c, "lineage"),
               *node = dmt_conf_get(c, "node");
    dmt_hex(a->conf.lineage, 16, hex);
    if (!r && url && lin && node && !strcmp(url, a->url) && !strcmp(lin, hex) &&
        !strcmp(node, a->node)) {
        st->claimed = conf_u64(c, "claim", ARCHIVE_NONE) != ARCHIVE_NONE;
        st->claim_k = conf_u64(c, "claim", 0);
        st->next = conf_u64(c, "next", 0);
        st->in_run = conf_u64(c, "in_run", 0);
        st->pos = (struct dmt_pos){conf_u64(c, "epoch", 0), conf_u64(c, "seq", 0),
                                   conf_u64(c, "chain", 0)};
        st->run_n = conf_u64(c, "run", ARCHIVE_NONE);
        st->base_n = conf_u64(c, "base", ARCHIVE_NONE);
        st->base_parts = (uint32_t)conf_u64(c, "base_parts", 0);
        st->prev_n = conf_u64(c, "prev", ARCHIVE_NONE);
        const char *prev = dmt_conf_get(c, "prev_node");
        snprintf(st->prev_node, sizeof(st->prev_node), "%s", prev ? prev : "");
    }
    dmt_conf_free(c);
    if (r && r != -ENOENT) /* what it says can be found out from the archive itself */
        dmt_warn("archive: %s cannot be read, looking through the archive instead", path);
}

int archiver_state_save(struct dmt_archiver *a, struct dmt_err *err)
{
    char path[DMT_PATH_MAX], text[2600], hex[33];
    const struct archive_state *st = &a->st;
    dmt_hex(a->conf.lineage, 16, hex);
    state_path(a, path);
    int n = snprintf(
        text, sizeof(text),
        "# What is in the archive; written by the archiver after each verified object.\n"
        "url=%s\nlineage=%s\nnode=%s\nnext=%llu\nin_run=%d\nepoch=%llu\nseq=%llu\nchain=0x%016llx\n"
        "run=%llu\nbase=%llu\nbase_parts=%u\nprev=%llu\nprev_node=%s\n",
        a->url, hex, a->node, (unsigned long long)st->next, st->in_run,
        (unsigned long long)st->pos.epoch, (unsigned long long)st->pos.seq,
        (unsigned long long)st->pos.chain, (unsigned long long)st->run_n,
        (unsigned long long)st->base_n, st->base_parts, (unsigned long long)st->prev_n,
        st->prev_node);
    if (st->claimed)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "claim=%llu\n",
                      (unsigned long long)st->claim_k);
    int r = dmt_io_write_file(a->io, path, text, (size_t)n, 0600);
    return r ? dmt_err_set(err, r, "cannot write %s: %s", path, dmt_strerror(r)) : 0;
}

/* --- uploading one object */

int archiver_upload(struct dmt_archiver *a, struct archive_hdr *h, const struct dmt_buf *payload,
                    const struct dmt_pos *pos, struct dmt_err *err)
{
    char key[SERIES_KEY_MAX];
    struct dmt_buf body;
    struct archive_state *st = &a->st;
    memcpy(h->lineage, a->conf.lineage, 16);
    snprintf(h->node, sizeof(h->node), "%s", a->node);
    h->n = st->next;
    h->run_n = st->run_n;
    h->base_n = st->base_n;
    h->base_parts = st->base_parts;
    h->prev_n = st->prev_n;
    snprintf(h->prev_node, sizeof(h->prev_node), "%s", st->prev_node);
    series_key(key, a->conf.lineage, a->node, h->n);
    dmt_buf_init(&body);
    int r =
        archive_object_encode(h, payload->p ? (const void *)payload->p : "", payload->len, &body);
    if (r)
        dmt_err_set(err, r, "cannot make object %s: %s", key, dmt_strerror(r));
    uint64_t bytes = body.len;
    while (!r) {
        struct dmt_err e = {0};
        r = remote_put(a->net, key, &body, &e);
        if (!r)
            break;
        if (err)
            *err = e;
        if (r == -ECANCELED || r == -EEXIST || r == DMT_E_CORRUPT)
            break;
        archiver_failed(a, &e);
        r = archiver_stopped(a) ? -ECANCELED : 0;
    }
    dmt_buf_free(&body);
    if (r)
        return r;
    archiver_worked(a);
    st->next++;
    if (pos) {
        st->pos = *pos;
        st->in_run = true;
    }
    r = archiver_state_save(a, err);
    pthread_mutex_lock(&a->lock);
    a->status.objects++;
    a->status.bytes += bytes;
    if (pos && !r)
        a->status.archived_seq = pos->seq;
    pthread_mutex_unlock(&a->lock);
    if (pos && !r)
        a->conf.archived(a->conf.ctx, pos->seq); /* A5 */
    return r;
}

/* --- the thread */

/* Takes records up to limit into the pack until it must be uploaded. 0, or an error (locate again).
 */
static int fill(struct dmt_archiver *a, uint64_t limit, struct dmt_err *err)
{
    struct dmt_rec rec;
    const uint8_t *raw;
    size_t len;
    while (a->read_seq < limit && !pack_full(a)) {
        int r = dmt_jreader_next(a->reader, &rec, &raw, &len, err);
        if (r <= 0)
            return r;
        a->read_seq = rec.seq;
        struct pack_ref ref;
        if (a->ahead && rec.seq <= a->ahead_seq) {
            uint64_t n = pack_record_bytes(&rec, len, &ref);
            a->ahead_bytes -= n < a->ahead_bytes ? n : a->ahead_bytes;
        }
        r = pack_add(a, &rec, raw, len, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Streams until stop or an error. */
static int stream(struct dmt_archiver *a, struct dmt_err *err)
{
    uint64_t pack_ns = (a->conf.pack_ms ? a->conf.pack_ms : PACK_MS) * DMT_MS;
    int r = dmt_jreader_open(&a->reader, a->journal, a->st.pos.seq, err);
    a->read_seq = a->st.pos.seq;
    while (!r && !archiver_stopped(a)) {
        uint64_t limit = a->conf.limit(a->conf.ctx);
        r = fill(a, limit, err);
        if (r)
            break;
        show_pending(a);
        uint64_t age = a->clock->monotonic_ns(a->clock->ctx) - a->pack.began_ns;
        bool flush = a->read_seq >= limit && atomic_exchange(&a->flush, false);
        if (a->pack.records && (pack_full(a) || flush || age >= pack_ns)) {
            r = pack_upload(a, err);
            show_pending(a);
        } else if (a->read_seq >= limit) {
            if (!a->pack.records) /* all there is has been uploaded */
                archiver_worked(a);
            archiver_wait(a, POLL_MS, true);
        }
    }
    return archiver_stopped(a) ? -ECANCELED : r;
}

static void readers_close(struct dmt_archiver *a)
{
    if (a->reader)
        dmt_jreader_close(a->reader);
    if (a->ahead)
        dmt_jreader_close(a->ahead);
    a->reader = a->ahead = NULL;
    a->ahead_bytes = 0;
    pack_free(&a->pack);
    pack_init(&a->pack);
}

static void *archiver_main(void *arg)
{
    struct dmt_archiver *a = arg;
    while (!archiver_stopped(a)) {
        struct dmt_err err = {0};
        int r = archiver_locate(a, &err);
        if (!r && !a->st.in_run)
            r = archiver_base(a, &err);
        if (!r)
            r = stream(a, &err);
        readers_close(a);
        if (r && r != -ECANCELED)
            archiver_failed(a, &err);
    }
    return NULL;
}

int dmt_archiver_start(struct dmt_archiver **ret, const struct dmt_archiver_conf *conf,
                       struct dmt_err *err)
{
    pthread_condattr_t ca;
    *ret = NULL;
    if (!series_name_ok(conf->node))
        return dmt_err_set(
            err, DMT_E_CONFIG,
            "node name %s cannot stand in an archive key: use letters, digits and . _ -",
            conf->node);
    struct dmt_archiver *a = calloc(1, sizeof(*a));
    if (!a || !(a->bulk_buf = malloc(DMT_WRITE_MAX))) {
        free(a);
        return dmt_err_set(err, -ENOMEM, "out of memory");
    }
    a->conf = *conf;
    a->io = conf->io ? conf->io : dmt_io_real();
    a->clock = conf->clock ? conf->clock : dmt_clock_real();
    a->journal = dmt_ws_journal(conf->ws);
    snprintf(a->url, sizeof(a->url), "%s", conf->url);
    snprintf(a->dir, sizeof(a->dir), "%s", conf->store_dir);
    snprintf(a->node, sizeof(a->node), "%s", conf->node);
    pack_init(&a->pack);
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&a->cond, &ca);
    pthread_condattr_destroy(&ca);
    struct dmt_objstore_conf oc = {
        .io = a->io, .clock = a->clock, .credentials = conf->credentials, .retry_ms = RETRY_MS};
    int r = remote_open(&a->net, a->url, &oc, err);
    if (!r) {
        archiver_state_load(a);
        a->status.archived_seq = a->st.in_run ? a->st.pos.seq : 0;
        r = dmt_thread_start(&a->thread, "archive", archiver_main, a);
        if (r)
            dmt_err_set(err, r, "cannot start the archiver's thread");
    }
    if (r) {
        remote_close(a->net);
        free(a->bulk_buf);
        free(a);
        return r;
    }
    *ret = a;
    return 0;
}

void dmt_archiver_stop(struct dmt_archiver *a)
{
    if (!a)
        return;
    atomic_store(&a->stop, true);
    pthread_mutex_lock(&a->lock);
    pthread_cond_broadcast(&a->cond);
    pthread_mutex_unlock(&a->lock);
    remote_stop(a->net);
    pthread_join(a->thread, NULL);
    remote_close(a->net);
    pthread_cond_destroy(&a->cond);
    pthread_mutex_destroy(&a->lock);
    pack_free(&a->pack);
    free(a->bulk_buf);
    free(a);
}

void dmt_archiver_flush(struct dmt_archiver *a)
{
    atomic_store(&a->flush, true);
    pthread_mutex_lock(&a->lock);
    pthread_cond_broadcast(&a->cond);
    pthread_mutex_unlock(&a->lock);
}

void dmt_archiver_status(struct dmt_archiver *a, struct dmt_archive_status *ret)
{
    pthread_mutex_lock(&a->lock);
    *ret = a->status;
    pthread_mutex_unlock(&a->lock);
}
