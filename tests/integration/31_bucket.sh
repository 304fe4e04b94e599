#!/bin/bash
# time: 240
# arbiter=bucket: a pair without a controller, whose arbiter is a directory that both machines reach. They pair after the crosswise test; a standby that dies lets the holder
# go on alone, a holder that dies lets the standby take over, each by marks in the bucket; with the bucket away there is neither, but a connected pair works on.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq

B=$SCRATCH/place/bucket
mkdir -p "$B"
state() { at "$1" dumont status w --json | jq -r .state; }
is_state() { [ "$(state "$1")" = "$2" ]; }
pid_of() { at "$1" dumont status w --json | jq .pid; }
marks() { (cd "$B/arb"/* && find "$@" -type f 2>/dev/null | sort | tr '\n' ' '); }

PAIR_ARBITER="arbiter=bucket archive=file://$B" pair_up w sync=fsync solo_after=3s || die "the pair does not come up" "$(at a dumont status w 2>&1)" "$(tail -n 20 "$SCRATCH"/a/log/*.log)"
M=$PAIR_MOUNT
check "an fsync is durable on both" bash -c "echo x > $M/f && sync $M/f"
check_eq "no marks yet" "$(marks solo claim yield)" ""
check "the test left its objects" test -n "$(marks test)"

# the bucket is away: a connected pair works on
mv "$SCRATCH/place" "$SCRATCH/away"
check "with the bucket away a sync is still acknowledged" timeout 10 bash -c "echo y > $M/f && sync $M/f"
mv "$SCRATCH/away" "$SCRATCH/place"

# the standby dies: alone, by solo/E
stop agent-b # it would start the standby again at once
ws_die "$(pid_of b)"
check "the holder goes on alone" wait_until 30 is_state a alone
check "by its mark" test -n "$(marks solo)"
check "and acknowledges" timeout 10 bash -c "echo alone > $M/f && sync $M/f"
start_at agent-b b dumontd --config "$SCRATCH/b/etc/dumontd.conf" --foreground
check "the standby comes back and is in sync again" wait_until 60 pair_in_sync a w

# the bucket is away and the holder dies: nobody takes over
claims=$(marks claim)
mv "$SCRATCH/place" "$SCRATCH/away"
ws_die "$(pid_of a)"
sleep 3 # what must not happen has no event to wait for
check_eq "no failover without the bucket" "$(state b)" standby
check "nothing is mounted there" bash -c "! mountpoint -q $M.b"
mv "$SCRATCH/away" "$SCRATCH/place"
check "with it, the standby takes over" wait_until 30 mountpoint -q "$M.b"
check "by its mark" test "$(marks claim)" != "$claims"
check_eq "with what was acknowledged" "$(cat "$M.b/f")" alone
check "it can be written" timeout 20 bash -c "echo b > $M.b/f && sync $M.b/f"

# the old holder comes back as standby, and takes it back
at a mount.dumont w "$M" >/dev/null 2>&1
check "the old holder gets in sync" wait_until 60 pair_in_sync b w
check "hand it back" at b dumont handover w
check "it is mounted on the first machine" wait_until 30 mountpoint -q "$M"
check_eq "with what was written meanwhile" "$(cat "$M/f")" b
finish
