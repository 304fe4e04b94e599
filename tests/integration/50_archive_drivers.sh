#!/bin/bash
# The object store drivers against a real server that checks signatures (Ceph's gateway), through a relay that cuts, delays, lies.
# time: 180
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$ROOT/tests/lib/sh/rgw.sh"
require "$BIN/relay" "$BUILD/tests/unit/archive/test_s3_server" lz4
why=$(rgw_available) || skip "$why"

cleanup_fn rgw_stop "$SCRATCH/rgw"
check "the gateway starts" rgw_start "$SCRATCH/rgw" || finish
. "$SCRATCH/rgw/env"
start relay "$BIN/relay" 0 "127.0.0.1:$RGW_PORT" "$SCRATCH/relay.ctl" http
wait_until 5 test -S "$SCRATCH/relay.ctl" || die "the relay starts"
RELAY_CTL=$SCRATCH/relay.ctl
RELAY_ENDPOINT=127.0.0.1:$("$BIN/relay" -c "$RELAY_CTL" port)
export RELAY_CTL RELAY_ENDPOINT
check "drivers s3 and libs3 against Ceph, with faults" "$BUILD/tests/unit/archive/test_s3_server"
tail -n 200 "$SCRATCH/.check" | grep -E 'FAILED|ERROR|skipped:' | sed 's/^/# /'
finish
