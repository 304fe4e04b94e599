#!/bin/bash
# time: 240
# Holder and standby on one machine: what an fsync means, equal digests. (The levels of sync= and the standby away and back: 31_pair_away.sh.) The holder's process killed under load: a new one goes on, no failover.
# The machine lost under load (process and dumont-holder killed): the standby serves, nothing acknowledged is lost, and the old holder comes back as standby.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq git

digest_of() { at "$1" dumont status w --json >/dev/null && at "$1" sh -c "printf '{\"cmd\":\"digest\"}\n' | $BIN/ctl $SCRATCH/$1/run/w.sock" | jq -r .result.digest; }

pair_up w sync=fsync || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT
major=$(at a dumont status w --json | jq -r '.epoch | split(".")[0]')
check "status says who is in sync" bash -c "DUMONT_ETC=$SCRATCH/a/etc DUMONT_RUN=$SCRATCH/a/run DUMONT_STATE=$SCRATCH/a/state dumont status w | grep -q 'paired'"
check_eq "and that there are two copies" "$(at a dumont status w --json | jq .one_copy)" false
check "a tree of real files" bash -c "tar -C $ROOT --exclude=./build --exclude=./.git -cf - . | tar -xf - --one-top-level=$M/tree && sync $M/tree/README.md"
check "an fsync is durable on both" bash -c "echo x > $M/f && sync $M/f"
from_disk() { awk '/^read_bytes/ { print $2 }' "/proc/$(at a dumont status w --json | jq .pid)/io"; }
before=$(from_disk)
check "a big file, synced" bash -c "head -c 50000000 /dev/urandom > $M/big && sync $M/big"
check "flush to the standby" at a dumont flush w --to standby
back=$(($(from_disk) - before))
# not all: where the link or this machine is slow some have left memory before it is their turn
check "most of its bytes went to the standby from memory ($back of 50000000 were read from the disk)" test "$back" -lt 25000000
check_eq "digests of holder and standby are equal" "$(digest_of a)" "$(digest_of b)"
check "snapshot, change, roll back" bash -c "
    export DUMONT_ETC=$SCRATCH/a/etc DUMONT_RUN=$SCRATCH/a/run DUMONT_STATE=$SCRATCH/a/state
    dumont snapshot create w s1 && rm -rf $M/tree/fs && echo y > $M/f && dumont rollback w s1 && test -d $M/tree/fs && test \"\$(cat $M/f)\" = x"
at a dumont flush w --to standby
check_eq "digests are equal after the rollback" "$(digest_of a)" "$(digest_of b)"

# the holder's process is killed under load: its dumont-holder starts a new one, which goes on with mount and epoch, if it is faster than the standby's patience. If not, the
# standby has taken over and the old one has let go: both are right, and nothing acknowledged may be lost; what programs meet then are errors.
mkdir "$M/resume" "$M/load"
start goes-on "$BIN/ledger" write --dir "$M/resume" --ledger "$SCRATCH/resume.ledger" --clients 2 --sync-every 5
wait_until 20 bash -c "test \$(grep -c '^s' $SCRATCH/resume.ledger) -gt 20" || die "the writer does not get on"
pid=$(at a dumont status w --json | jq .pid)
kill -KILL "$pid"
holds_again() { at "$1" dumont status w --json | jq -e '.holder and .mountpoint != "" and .pid != '"$pid" >/dev/null; }
goes_on() { if holds_again a; then who=a; else holds_again b && who=b; fi; }
check "one of the two goes on with it" wait_until 30 goes_on
if [ "$who" = a ]; then
    acked=$(grep -c '^s' "$SCRATCH/resume.ledger")
    check "programs go on" wait_until 30 eval 'test $(grep -c "^s" $SCRATCH/resume.ledger) -gt $((acked + 10))'
    stop goes-on
    check_eq "and met no error" "$STATUS" 0
    check "nothing acknowledged is missing" "$BIN/ledger" judge --dir "$M/resume" --ledger "$SCRATCH/resume.ledger"
    check "the pair is in sync again" wait_until 60 pair_in_sync a w
    check_eq "no failover: the same major epoch" "$(at a dumont status w --json | jq -r '.epoch | split(".")[0]')" "$major"
else
    echo "# the standby was faster"
    stop goes-on
    check "nothing acknowledged is missing" "$BIN/ledger" judge --dir "$M.b/resume" --ledger "$SCRATCH/resume.ledger"
    check "the old one is in sync again, as the standby" wait_until 60 pair_in_sync b w
    check "hand it back" at b dumont handover w
    check "it is mounted on the first machine" wait_until 30 mountpoint -q "$M"
    check "the pair is in sync" wait_until 60 pair_in_sync a w
fi

# the machine is lost under load
# from inside the mount, so that the writer meets the dead filesystem and not the directory below it
start writer env -C "$M/load" "$BIN/ledger" write --dir . --ledger "$SCRATCH/ledger" --clients 4 --sync-every 5
wait_until 20 bash -c "test \$(grep -c '^s' $SCRATCH/ledger) -gt 20" || die "the writer does not get on"
ws_die "$(at a dumont status w --json | jq .pid)"
check "the standby takes over" wait_until 30 mountpoint -q "$M.b"
stop writer
check "nothing acknowledged is missing, the tree is a prefix" "$BIN/ledger" judge --dir "$M.b/load" --ledger "$SCRATCH/ledger"
check_eq "it says one copy" "$(at b dumont status w --json | jq .one_copy)" true
check "it can be written" bash -c "echo after > $M.b/f2 && sync $M.b/f2"

# the old holder comes back, as a standby
at a mount.dumont w "$M" >"$SCRATCH/back.out" 2>&1
check_eq "mounting on the old machine says 32" "$?" 32
check "with a sentence" grep -q "held by" "$SCRATCH/back.out"
check "it becomes the standby and gets in sync" wait_until 60 pair_in_sync b w
at b dumont flush w --to standby
check_eq "digests are equal again" "$(digest_of a)" "$(digest_of b)"
check "hand it back" at b dumont handover w
check "it is mounted on the first machine" wait_until 30 mountpoint -q "$M"
check_eq "with what was written meanwhile" "$(cat "$M/f2")" after

# a disk that stays bad (docs/operations.md): no checkpoint, and the other machine gets everything all the same
check "the pair is in sync" wait_until 60 pair_in_sync a w
D=$SCRATCH/a/state/w/data
mount --bind "$D" "$D" && mount -o remount,bind,ro "$D"
head -c 300000 /dev/urandom >"$SCRATCH/in"
cp "$SCRATCH/in" "$M/in" && sync "$M/in"
at a sh -c "printf '{\"cmd\":\"checkpoint\"}\n' | $BIN/ctl $SCRATCH/a/run/w.sock" >"$SCRATCH/said"
check "checkpoints fail on the holder" grep -q "Read-only file system" "$SCRATCH/said"
check "it can be handed over" at a dumont handover w
check "it is mounted on the other machine" wait_until 30 mountpoint -q "$M.b"
check "with what the database never had" cmp "$M.b/in" "$SCRATCH/in"
umount "$D"
check "the disk is well again: in sync" wait_until 60 pair_in_sync b w
at b dumont flush w --to standby
check_eq "and digests are equal" "$(digest_of a)" "$(digest_of b)"
finish
