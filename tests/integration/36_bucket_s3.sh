#!/bin/bash
# time: 240
# arbiter=bucket with a real S3 server: the crosswise test, a sync and a death while the gateway is stopped, a takeover by marks once it is back, and the way back.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
. "$ROOT/tests/lib/sh/rgw.sh"
require jq lz4
why=$(rgw_available) || skip "$why"

cleanup_fn rgw_stop "$SCRATCH/rgw"
check "the gateway starts" rgw_start "$SCRATCH/rgw" || finish
. "$SCRATCH/rgw/env"

state() { at "$1" dumont status w --json | jq -r .state; }
is_state() { [ "$(state "$1")" = "$2" ]; }
pid_of() { at "$1" dumont status w --json | jq .pid; }

PAIR_ARBITER="arbiter=bucket archive=s3://$RGW_BUCKET/w?endpoint=127.0.0.1:$RGW_PORT&region=$RGW_REGION&tls=off" pair_up w sync=fsync solo_after=3s ||
    die "the pair does not come up" "$(at a dumont status w 2>&1)" "$(tail -n 20 "$SCRATCH"/a/log/*.log)"
M=$PAIR_MOUNT
check "an fsync is durable on both" bash -c "echo x > $M/f && sync $M/f"

# the store is away: a connected pair works on, and a death changes nothing
check "the gateway is stopped" rgw_gw_stop "$SCRATCH/rgw"
check "a sync is still acknowledged" timeout 10 bash -c "echo y > $M/f && sync $M/f"
ws_die "$(pid_of a)"
sleep 3 # what must not happen has no event to wait for
check "no failover without the store" bash -c "! mountpoint -q $M.b"
check "the gateway is started" rgw_gw_start "$SCRATCH/rgw"
check "now the standby takes over" wait_until 60 mountpoint -q "$M.b"
check_eq "with what was acknowledged" "$(cat "$M.b/f")" y
check "it can be written" timeout 20 bash -c "echo z > $M.b/f && sync $M.b/f"
at a mount.dumont w "$M" >/dev/null 2>&1
check "the old holder gets in sync" wait_until 90 pair_in_sync b w
check "hand it back" at b dumont handover w
check "it is mounted on the first machine" wait_until 30 mountpoint -q "$M"
check_eq "with what was written meanwhile" "$(cat "$M/f")" z
finish
