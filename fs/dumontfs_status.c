/* dumontfs_status.c: the workspace's status as one JSON object: for `dumont status`, dumontd's
 * heartbeats and /metrics. The fields are listed in docs/formats.md ("Control socket"). Works while
 * the workspace is away (resync). Thread: any; takes no lock for long.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/base/hash.h"
#include "fs/dumontfs.h"

static void put_u64(json_t *o, const char *key, uint64_t v)
{
    json_object_set_new(o, key, json_integer((json_int_t)v));
}

static void put_hex(json_t *o, const char *key, const uint8_t id[16])
{
    char hex[33];
    dmt_hex(id, 16, hex);
    json_object_set_new(o, key, json_string(hex));
}

static void put_epoch(json_t *o, const char *key, uint64_t e)
{
    char text[32];
    snprintf(text, sizeof text, "%u.%u", DMT_EPOCH_MAJOR(e), DMT_EPOCH_MINOR(e));
    json_object_set_new(o, key, json_string(text));
}

static void add_workspace(json_t *o, struct dmt_ws *ws)
{
    struct dmt_ws_status s;
    dmt_ws_status(ws, &s);
    put_u64(o, "tail", s.tail.seq);
    put_u64(o, "durable", s.durable);
    put_u64(o, "applied", s.applied);
    put_u64(o, "checkpointed", s.checkpointed);
    put_u64(o, "inodes", s.inodes);
    put_u64(o, "live_bytes", s.live_bytes);
    put_u64(o, "pinned_bytes", s.pinned_bytes);
    put_u64(o, "missing_bytes", s.missing_bytes);
    put_u64(o, "dirty_bytes", s.dirty_bytes);
    put_u64(o, "snapshots", s.snapshots);
    put_u64(o, "incomplete_files", s.incomplete_files);
    put_u64(o, "parked", s.parked_acks);
    put_u64(o, "oldest_sync_ms", s.oldest_sync_ms);
    put_u64(o, "journal_bytes", s.journal.bytes);
    put_u64(o, "journal_segments", s.journal.segments);
    put_u64(o, "records", s.journal.records);
    put_u64(o, "syncs", s.journal.syncs);
    json_t *p = json_pack("{s:b}", "failing", s.checkpoint_error[0] != '\0');
    if (s.checkpoint_error[0]) {
        json_object_set_new(p, "error", json_string(s.checkpoint_error));
        put_u64(p, "error_since_ns", s.checkpoint_error_since_ns);
    }
    json_object_set_new(o, "checkpoint", p);
    if (s.failed) {
        json_object_set_new(o, "failed", json_true());
        json_object_set_new(o, "failed_why", json_string(s.failed_why));
    }
}

static void add_standby(json_t *o, struct app *a, const struct dmt_lease_status *ls)
{
    struct dmt_replica_status r;
    if (!a->replica)
        return;
    dmt_replica_status(a->replica, &r);
    json_t *p = json_pack("{s:s, s:b, s:b, s:s}", "node", ls->peer_node, "connected", r.connected,
                          "in_sync", ls->state == DMT_LEASE_HOLDER_PAIRED, "note", r.last_error);
    put_u64(p, "received", r.received);
    put_u64(p, "durable", r.durable);
    put_u64(p, "applied", r.applied);
    put_u64(p, "whole", r.whole);
    put_u64(p, "lag_bytes", r.unacked_bytes);
    put_u64(p, "bulk_bytes", r.missing_bytes);
    put_u64(p, "rtt_us", r.rtt_us);
    put_u64(p, "ack_us", r.ack_us);
    put_u64(p, "rate_bytes_s", r.rate_bytes_s);
    put_u64(p, "raw_bytes", r.raw_bytes);
    put_u64(p, "wire_bytes", r.wire_bytes);
    put_u64(p, "bulk_sent_bytes", r.bulk_bytes);
    put_u64(p, "state_bytes", r.state_bytes);
    json_object_set_new(p, "resyncing", json_boolean(r.resyncing));
    put_u64(p, "resync_bytes", r.resync_done);
    put_u64(p, "resync_total_bytes", r.resync_total);
    put_u64(p, "resync_eta_ms", r.resync_eta_ms);
    json_object_set_new(o, ls->holder ? "standby" : "holder_link", p);
}

static void add_archive(json_t *o, struct app *a)
{
    struct dmt_archive_status s;
    if (!a->archive_url[0])
        return;
    char why[256];
    json_t *p = json_pack("{s:s}", "url", a->archive_url);
    uint64_t since = app_archive_error(a, why);
    if (app_archive_status(a, &s)) {
        put_u64(p, "seq", s.archived_seq);
        put_u64(p, "pending_bytes", s.pending_bytes);
        put_u64(p, "objects", s.objects);
        put_u64(p, "error_since_ns", s.error_since_ns);
        json_object_set_new(p, "error", json_string(s.last_error));
    } else {
        put_u64(p, "error_since_ns", since);
        json_object_set_new(p, "error", json_string(why));
    }
    char path[DMT_PATH_MAX + 16], *text = NULL;
    size_t n;
    snprintf(path, sizeof path, "%s/proved", a->store_dir);
    if (dmt_io_read_file(dmt_io_real(), path, 64, &text, &n) == 0)
        put_u64(p, "proved_ns", strtoull(text, NULL, 10));
    free(text);
    json_object_set_new(o, "archive", p);
}

json_t *status_json(struct app *a)
{
    struct dmt_lease_status ls;
    char dir[DMT_PATH_MAX];
    dmt_lease_status(a->lease, &ls);
    pthread_rwlock_rdlock(&a->parts_lock);
    snprintf(dir, sizeof dir, "%s", a->mounted_dir);
    pthread_rwlock_unlock(&a->parts_lock);
    pthread_rwlock_rdlock(&a->ws_lock);
    struct dmt_store_ident ident = a->ident;
    pthread_rwlock_unlock(&a->ws_lock);
    json_t *o = json_pack("{s:s, s:s, s:s, s:b, s:b, s:s, s:i, s:s, s:s, s:s}", "name", a->name,
                          "node", a->node, "state", dmt_lease_state_name(ls.state), "holder",
                          ls.holder, "one_copy", ls.holder && ls.one_copy, "mountpoint",
                          atomic_load(&a->mounted) ? dir : "", "pid", (int)getpid(), "holder_node",
                          ls.holder_node, "peer_node", ls.peer_node, "note", ls.waiting);
    put_epoch(o, "epoch", ls.epoch);
    put_u64(o, "epoch_number", ls.epoch);
    put_u64(o, "seen", ls.seen);
    put_u64(o, "instance", ls.instance);
    put_hex(o, "lineage", ident.lineage);
    put_hex(o, "store_id", ident.store_id);
    put_u64(o, "lease_ms", ls.lease_ms);
    put_u64(o, "rtt_us", ls.rtt_us);
    put_u64(o, "solo_in_ms", ls.solo_in_ms);
    json_object_set_new(o, "arbiter_up", json_boolean(ls.arbiter_up));
    json_object_set_new(o, "ping_up", json_boolean(ls.ping_up));
    json_object_set_new(o, "resync", json_boolean(ls.resync));
    if (a->tls) {
        struct dmt_cert_life life;
        dmt_tls_ctx_life(a->tls, &life);
        put_u64(o, "certificate_until_ns", (uint64_t)life.until_s * DMT_S);
    }
    events_status(a, o);
    pthread_mutex_lock(&a->q_lock);
    if (a->failed_why[0]) {
        json_object_set_new(o, "failed", json_true());
        json_object_set_new(o, "failed_why", json_string(a->failed_why));
    }
    pthread_mutex_unlock(&a->q_lock);
    struct dmt_ws *ws = app_ws_get(a);
    if (ws) {
        add_workspace(o, ws);
        app_ws_put(a);
    }
    add_standby(o, a, &ls);
    add_archive(o, a);
    return o;
}
