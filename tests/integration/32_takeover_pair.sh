#!/bin/bash
# time: 300
# sync=write over a slow link: each call is logged and waits for the standby's word, so whenever the holder's process is killed every program has a call under way that is done
# and not answered. Its successor answers it from the record: nothing is done twice, nothing fails. The controller is away meanwhile, so that no failover comes in between.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq
ROUNDS=${1:-6}

digest_of() { at "$1" sh -c "printf '{\"cmd\":\"digest\"}\n' | $BIN/ctl $SCRATCH/$1/run/w.sock" | jq -r .result.digest; }
get_a() { at a dumont status w --json | jq -r "$1"; }

PAIR_LINK=1 pair_up w sync=write || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT
pair_link w delay 20 >/dev/null
stop ctl
mkdir "$M/strict"
start strict "$BIN/strict" "$M/strict" 4
for ((round = 1; round <= ROUNDS; round++)); do
    busy() { [ "$(get_a .parked)" -ge 2 ]; }
    check "round $round: calls wait for the standby" wait_until 60 busy
    pid=$(get_a .pid)
    wait_until 20 lived "$pid"
    kill -KILL "$pid"
    serves() { at a dumont status w --json | jq -e '.mountpoint != "" and .pid != '"$pid" >/dev/null; }
    check "round $round: a new process goes on" wait_until 60 serves
    running strict || break
done
stop strict
check_eq "every call did what it should, once" "$STATUS" 0
sed 's/^/# /' "$SCRATCH/strict.log"
start_at ctl ctl dumontd --config "$SCRATCH/ctl/etc/dumontd.conf" --foreground
check "it is the holder still, in sync" wait_until 60 pair_in_sync a w
check_eq "of the same epoch but for the minor part" "$(get_a '.epoch | split(".")[0]')" 2
at a dumont flush w --to standby >/dev/null
check_eq "digests of holder and standby are equal" "$(digest_of a)" "$(digest_of b)"
finish
