#!/bin/bash
# time: 100
# What people get wrong around a mount: keys of an archive that are missing or readable by others, certificates that are missing or of another CA. Each gets its sentence and
# exit code, work goes on where it can, and nothing is lost.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq
M=$SCRATCH/mnt
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
URL="s3://bucket/w?endpoint=127.0.0.1:9&region=us-east-1&tls=off"
CRED=$DUMONT_ETC/credentials
archive_says() { dumont status w --json | jq -e --arg t "$1" '.archive.error | contains($t)'; }
# refused NAME CODE SENTENCE HINT COMMAND...
refused() {
    local name=$1 code=$2 text=$3 hint=$4
    shift 4
    check_status "$name: exit $code" "$code" "$@"
    cp "$SCRATCH/.check" "$SCRATCH/said"
    check "$name: says so" grep -qF -- "$text" "$SCRATCH/said" || sed 's/^/#   /' "$SCRATCH/said"
    check "$name: and what to do" grep -qF -- "$hint" "$SCRATCH/said" || sed 's/^/#   /' "$SCRATCH/said"
}

# --- keys
check "create" ws_create w "archive=$URL"
check "no keys: it mounts all the same" ws_mount w "$M"
check "no keys: the status says so" wait_until 10 archive_says 'no keys for bucket bucket'
echo kept >"$M/f"
check "no keys: work goes on" sync "$M/f"
refused "no keys: flush" 2 "no keys for bucket" "mend it" dumont flush w --to archive
refused "no keys: restore" 2 "no keys for bucket" "credentials" dumont restore w "$SCRATCH/r" --from "$URL"
check "and leaves nothing behind" bash -c "[ -z \"\$(ls -A '$SCRATCH/r' 2>/dev/null)\" ] && ! ls -d '$SCRATCH'/r.* 2>/dev/null"
printf 'access_key=a\nsecret_key=b\n' >"$CRED"
chmod 644 "$CRED"
check "keys that others can read: the status says so" wait_until 15 archive_says "$CRED"
refused "keys that others can read: restore" 1 "$CRED" "chmod 600" dumont restore w "$SCRATCH/r" --from "$URL"
chmod 600 "$CRED"
check "mended: it is tried without a remount (nobody listens at that endpoint)" wait_until 20 archive_says 'onnect'
check "unmount, without waiting for it" ws_umount "$M"
check "the store is sound" dumont check w
refused "a URL that is none" 1 "option archive" "archive" dumont workspace set w archive=s4://x

# --- certificates
ADDR="arbiter=controller://127.0.0.1:1 standby=127.0.0.1:1"
check "create with a standby" ws_create p $ADDR
refused "no certificate" 32 "$DUMONT_ETC/tls" "dumontd join" ws_mount p "$M"
check "it is not mounted" not_mounted "$M"
pair_up q sync=fsync || die "the pair does not come up" "$(at a dumont status q 2>&1)"
echo before >"$PAIR_MOUNT/f"
sync "$PAIR_MOUNT/f"
check "stop the standby" at b dumont workspace stop q
mkdir "$SCRATCH/ca2" "$SCRATCH/good"
cp "$SCRATCH"/b/etc/tls/* "$SCRATCH/good/"
dumontd ca init --dir "$SCRATCH/ca2" >/dev/null
dumontd ca issue b --dir "$SCRATCH/ca2" --out "$SCRATCH/b/etc/tls" >/dev/null
check "a certificate of another CA: the standby starts" at b dumont workspace start q
refuses() { at a dumont status q --json | jq -e '.standby.connected == false and (.standby.note | test("certificate|TLS|tls|verify"))'; }
check "the holder does not speak with it, and says why" wait_until 20 refuses
echo alone >"$PAIR_MOUNT/g"
check "work goes on with one copy" timeout 20 sync "$PAIR_MOUNT/g"
check "the standby says that it is not connected" bash -c "DUMONT_ETC=$SCRATCH/b/etc DUMONT_RUN=$SCRATCH/b/run DUMONT_STATE=$SCRATCH/b/state dumont status q | grep -q 'holder .*not connected'"
check "stop it" at b dumont workspace stop q
cp "$SCRATCH"/good/* "$SCRATCH/b/etc/tls/"
check "with its own certificate it starts" at b dumont workspace start q
check "and is in sync" wait_until 60 pair_in_sync a q
at a dumont flush q --to standby >/dev/null
check "the copies are equal" at ctl dumont verify q
finish
