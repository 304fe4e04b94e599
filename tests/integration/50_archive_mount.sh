#!/bin/bash
# A mounted workspace with an archive in a real S3 server: refused keys, a server that is busy, gone and silent while people work,
# unmount that waits for nobody; and the way back as files and as a workspace, to now and to an earlier moment.
# time: 300
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$ROOT/tests/lib/sh/rgw.sh"
require jq lz4 "$BIN/relay" "$BIN/treedigest"
why=$(rgw_available) || skip "$why"

M=$SCRATCH/mnt
digest() { "$BIN/treedigest" "${1:-$M}" | head -1; }
relay() { "$BIN/relay" -c "$SCRATCH/relay.ctl" "$@" >/dev/null; }
archive() { ws_get w ".archive.$1"; }
has_error() { [ "$(archive error_since_ns)" != 0 ]; }
no_error() { [ "$(archive error_since_ns)" = 0 ]; }
now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

cleanup_fn rgw_stop "$SCRATCH/rgw"
check "the gateway starts" rgw_start "$SCRATCH/rgw" || finish
. "$SCRATCH/rgw/env"
start relay "$BIN/relay" 0 "127.0.0.1:$RGW_PORT" "$SCRATCH/relay.ctl" http
wait_until 5 test -S "$SCRATCH/relay.ctl" || die "the relay starts"
URL="s3://dumont-test/w?endpoint=127.0.0.1:$("$BIN/relay" -c "$SCRATCH/relay.ctl" port)&region=us-east-1&tls=off"

# keys: from the credentials file alone, and only if nobody else can read it
GOOD=$AWS_SECRET_ACCESS_KEY
ACCESS=$AWS_ACCESS_KEY_ID
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
CRED=$DUMONT_ETC/credentials
keys() { (umask 077 && printf 'access_key=%s\nsecret_key=%s\n' "$ACCESS" "$1" >"$CRED"); }
keys wrong
check "create" ws_create w "archive=$URL"
check "mount" ws_mount w "$M"
echo first >"$M/first"
sync "$M/first"
check "wrong keys are said in the status" wait_until 20 has_error
check "in words" bash -c "dumont status w --json | jq -r .archive.error | grep -q 'HTTP 403'"
keys "$GOOD"
check "mended keys are taken without a remount" dumont flush w --to archive
check "and the error is gone" no_error

# ordinary work
mkdir "$M/d"
for i in $(seq 50); do echo "$i" >"$M/d/$i"; done
head -c 30000000 /dev/urandom >"$M/big"
check "flush" dumont flush w --to archive
early=$(digest)
sleep 1.1 # the moment below is given in whole seconds
moment=@$(date +%s)
sleep 1.1

# a server that misbehaves
relay answer 503 5 ServiceUnavailable
rm -r "$M/d"
head -c 10000000 /dev/urandom >"$M/big"
relay cut-up 2000000
check "503s and a cut connection are ordinary life" dumont flush w --to archive
relay refuse
t0=$(now_ms)
for i in $(seq 200); do echo "$i" >"$M/away-$i"; done
sync "$M/away-200"
ms=$(($(now_ms) - t0))
check "the mount does not feel that the server is away (200 files, a sync: $ms ms)" test "$ms" -lt 5000
check "the status says so" wait_until 30 has_error
check "and how much waits" bash -c '[ "$(dumont status w --json | jq .archive.pending_bytes)" -gt 0 ]'
relay pass
check "when it is back, all of it arrives" dumont flush w --to archive
check "without an error left" wait_until 10 no_error
relay blackhole
echo last >"$M/last"
sync "$M/last"
late=$(digest)
t0=$(now_ms)
check "unmount while the server is silent" ws_umount "$M"
check "the process ends" wait_until 20 not test -S "$DUMONT_RUN/w.sock"
ms=$(($(now_ms) - t0))
check "and waits for no answer ($ms ms)" test "$ms" -lt 10000
relay pass
check "mount again" ws_mount w "$M"
check "what was not archived is archived now" dumont flush w --to archive
check_eq "the tree is the same" "$(digest)" "$late"

# the way back
check "restore as files" dumont restore w "$SCRATCH/now" --from "$URL"
check_eq "equals the workspace" "$(digest "$SCRATCH/now")" "$late"
check "restore to a moment" dumont restore w "$SCRATCH/then" --to "$moment" --from "$URL"
check_eq "equals the workspace of that moment" "$(digest "$SCRATCH/then")" "$early"
check "a workspace from the archive" dumont workspace create copy --from "$URL"
check "mount it" ws_mount copy "$SCRATCH/copy"
check_eq "the same again" "$(digest "$SCRATCH/copy")" "$late"
check "it is written to on its own" bash -c "mountpoint -q '$SCRATCH/copy' && echo x >'$SCRATCH/copy/own'"
check "unmount it" ws_umount "$SCRATCH/copy"

# anybody can read it: one object through curl and lz4
cat >"$SCRATCH/get" <<GET
curl -sf --aws-sigv4 aws:amz:us-east-1:s3 --user "$ACCESS:$GOOD" \
    -H 'x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' \
    "http://127.0.0.1:$RGW_PORT/dumont-test/\$1"
GET
check "an object is an LZ4 file" bash -c "sh '$SCRATCH/get' w/node/0 | lz4 -dc | jq -e .lineage"

# a missing object: named, and nothing half-made
lineage=$(ws_get w .lineage)
node=$(sh "$SCRATCH/get" w/node/0 | lz4 -dc | jq -r .node)
check "an object vanishes" curl -sf -X DELETE --aws-sigv4 aws:amz:us-east-1:s3 --user "$ACCESS:$GOOD" \
    -H 'x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' \
    "http://127.0.0.1:$RGW_PORT/dumont-test/w/log/$lineage/$node/000000000003.lz4"
check "the restore fails" bash -c "! dumont restore w '$SCRATCH/broken' --from '$URL' >'$SCRATCH/said' 2>&1"
check "and names the object" grep -q '000000000003.lz4 is missing' "$SCRATCH/said"
check "and the moment that can still be reached" grep -q 'up to position' "$SCRATCH/said"
check "nothing is left behind" bash -c "[ -z \"\$(ls -A '$SCRATCH/broken' 2>/dev/null)\" ] && ! ls '$SCRATCH'/*.part '$DUMONT_STATE'/*.part 2>/dev/null"
check "unmount at the end" ws_umount "$M"
finish
