#!/bin/bash
# time: 120
# A file that is never still, as a disk image of a machine that runs: two threads write to it in volume, two others sync it, and the link is hardly faster than they are. Syncs return all the
# same, and when the machine is lost, at any moment, each block is at least as new as the last sync says. Standbys that fall back to what has not come are seen in one round of four.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq

for round in 1 2 3 4 5 6 7 8; do
    w=w$round
    PAIR_LINK=1 pair_up $w sync=fsync || die "the pair does not come up" "$(at a dumont status $w 2>&1)"
    M=$PAIR_MOUNT
    pair_link $w rate 60000000 >/dev/null && pair_link $w delay 5 >/dev/null
    mkdir "$M/d"
    L=$SCRATCH/ledger$round
    syncs() { [ -s "$L" ] && [ "$(od -An -td8 -N8 "$L")" -ge "$1" ]; }
    # from inside the mount, so that it meets the dead filesystem and not the directory below it
    start image$round env -C "$M/d" "$BIN/image" write disk.img "$L" 32 25
    check "syncs return while others write" wait_until 60 syncs 8
    check "the pair is one" pair_in_sync a $w
    sleep "0.$((RANDOM % 100))" # the moment of the loss
    ws_die "$(at a dumont status $w --json | jq .pid)"
    check "the standby takes over" wait_until 30 mountpoint -q "$M.b"
    stop image$round
    sed 's/^/# /' "$SCRATCH/image$round.log"
    check "each block is as new as its last sync" "$BIN/image" judge "$M.b/d/disk.img" "$L"
    sed 's/^/# /' "$SCRATCH/.check"
    at b dumont log $w --incomplete | sed 's/^/# /'
done
finish
