#!/bin/bash
# A workspace and its archiver in one process, a real S3 server, and a network that fails: wrong keys, 503s, cut
# connections, a server that is away or silent. What comes back from the archive equals what was written.
# time: 300
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$ROOT/tests/lib/sh/rgw.sh"
require "$BIN/relay" "$BUILD/tests/unit/archive/test_archiver_server" lz4
why=$(rgw_available) || skip "$why"

cleanup_fn rgw_stop "$SCRATCH/rgw"
check "the gateway starts" rgw_start "$SCRATCH/rgw" || finish
. "$SCRATCH/rgw/env"
start relay "$BIN/relay" 0 "127.0.0.1:$RGW_PORT" "$SCRATCH/relay.ctl" http
wait_until 5 test -S "$SCRATCH/relay.ctl" || die "the relay starts"
RELAY_CTL=$SCRATCH/relay.ctl
RELAY_ENDPOINT=127.0.0.1:$("$BIN/relay" -c "$RELAY_CTL" port)
export RELAY_CTL RELAY_ENDPOINT
check "archiver and restore over Ceph, with faults" "$BUILD/tests/unit/archive/test_archiver_server"
grep -E 'FAILED|ERROR|server was away' "$SCRATCH/.check" | sed 's/^/# /'
finish
