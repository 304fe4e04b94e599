#!/bin/bash
# time: 200
# A workspace that was restored from an archive begins, in a lineage of its own, at the epoch of its last record. It is paired by the ordinary command like any other, with both
# arbiters, and a failover in it loses nothing.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq

get() { at "$1" dumont status "$2" --json | jq -r "$3"; }
major() { get "$1" "$2" '.epoch | split(".")[0]'; }
mkdir "$SCRATCH/archive" "$SCRATCH/bucket"

# a workspace with a few epochs behind it
pair_up w sync=fsync "archive=file://$SCRATCH/archive" || die "the pair does not come up" "$(at a dumont status w 2>&1)"
echo first >"$PAIR_MOUNT/f"
check "handed over" at a dumont handover w
check "it is mounted there" wait_until 30 mountpoint -q "$PAIR_MOUNT.b"
echo second >"$PAIR_MOUNT.b/f2"
sync "$PAIR_MOUNT.b/f2"
check "and back" at b dumont handover w
check "it is mounted on the first machine" wait_until 30 mountpoint -q "$PAIR_MOUNT"
check "everything in the archive" at a dumont flush w --to archive
check "its epoch is above 1" test "$(major a w)" -ge 4

# restored_as NAME WORD...: with a standby from the first moment; then its holder is lost
restored_as() {
    local name=$1 from
    pair_up "$@" --from "file://$SCRATCH/archive" || die "$name: restored, it does not pair" "$(at a dumont status "$name" 2>&1)"
    ok "$name: restored, and in sync with a standby"
    from=$(major a "$name")
    check "$name: its epochs go on from those of the archive ($from)" test "$from" -ge 4
    check_eq "$name: with its content" "$(cat "$PAIR_MOUNT/f" "$PAIR_MOUNT/f2" | tr '\n' ' ')" "first second "
    check "$name: its lineage is its own" test "$(get a "$name" .lineage)" != "$(get a w .lineage)"
    check_eq "$name: which the standby shares" "$(get b "$name" .lineage)" "$(get a "$name" .lineage)"
    check "$name: a sync" bash -c "echo third >$PAIR_MOUNT/f3 && sync $PAIR_MOUNT/f3"
    ws_die "$(get a "$name" .pid)"
    check "$name: the standby takes over" wait_until 30 mountpoint -q "$PAIR_MOUNT.b"
    check_eq "$name: nothing is lost" "$(cat "$PAIR_MOUNT.b/f3")" third
    check "$name: in the next epoch" test "$(major b "$name")" -gt "$from"
    at a mount.dumont "$name" "$PAIR_MOUNT" >/dev/null 2>&1
    check "$name: the old holder comes back as standby" wait_until 60 pair_in_sync b "$name"
}
restored_as byctl sync=fsync
PAIR_ARBITER="arbiter=bucket archive=file://$SCRATCH/bucket" restored_as bybucket sync=fsync
api /api/v1/events >"$SCRATCH/events.json"
check_eq "the controller missed nothing" "$(grep -c register-behind "$SCRATCH/events.json")" 0
finish
