#!/bin/bash
# time: 150
# Load is no death: ten times as many busy programs as cores and a full disk queue for fifteen seconds, and nobody fails over; synced writes go on, and then the pair is as before.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq

epoch_of() { at "$1" dumont status w --json | jq -r '.epoch | split(".")[0]'; }
pair_up w sync=fsync || die "the pair does not come up" "$(at a dumont status w 2>&1)"
major=$(epoch_of a)
mkdir "$PAIR_MOUNT/load"
start writer "$BIN/ledger" write --dir "$PAIR_MOUNT/load" --ledger "$SCRATCH/ledger" --clients 2 --sync-every 5
wait_until 20 bash -c "test \$(grep -c '^s' $SCRATCH/ledger) -gt 20" || die "the writer does not get on"
synced() { grep -c '^s' "$SCRATCH/ledger"; }

for ((i = 0; i < 10 * $(nproc); i++)); do
    start "busy$i" sh -c 'while :; do :; done'
done
for ((i = 0; i < 4; i++)); do
    start "disk$i" sh -c "while dd if=/dev/zero of=$SCRATCH/disk$i bs=1M count=64 oflag=direct conv=notrunc 2>/dev/null; do :; done"
done
before=$(synced)
sleep 15 # the load itself
under=$(($(synced) - before))
for ((i = 0; i < 10 * $(nproc); i++)); do stop "busy$i"; done
for ((i = 0; i < 4; i++)); do stop "disk$i"; done

check "synced writes went on under load ($under in 15 s)" test "$under" -gt 0
check "the pair is in sync" wait_until 60 pair_in_sync a w
check "the writer gets on" wait_until 20 eval "test \$(synced) -gt $((before + under + 10))"
check_eq "nobody failed over: the epoch of a" "$(epoch_of a)" "$major"
check_eq "and of b" "$(epoch_of b)" "$major"
stop writer
check_eq "the writer met no error" "$STATUS" 0
check "nothing acknowledged is missing" "$BIN/ledger" judge --dir "$PAIR_MOUNT/load" --ledger "$SCRATCH/ledger"
finish
