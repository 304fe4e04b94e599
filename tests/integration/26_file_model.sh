#!/bin/bash
# time: 180
# Random operations on files of a real mount, compared with a copy in memory (filemodel.c); between the rounds the workspace is unmounted and mounted again,
# its process killed, a snapshot taken and rolled back to. What was written before a kill is all there: a write that has returned is in the journal.
#   OPS=20000 ROUNDS=10 SEED=7 tests/integration/26_file_model.sh
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require jq
OPS=${OPS:-1500}
ROUNDS=${ROUNDS:-4}
SEED=${SEED:-$RANDOM}
M=$SCRATCH/mnt
S=$SCRATCH/model
echo "# SEED=$SEED"
model() { "$BIN/filemodel" "$M/files" "$@"; }

check "create" ws_create w || finish
ws_mount w "$M" || die "mount"
mkdir "$M/files"
for ((round = 1; round <= ROUNDS; round++)); do
    check "round $round" model "$S" $((SEED + round)) "$OPS" || break
    if [ $((round % 2)) = 1 ]; then
        check "unmount" ws_umount "$M"
    else
        # nothing of mapped stores is left behind in the kernel: closing a file sends them
        pid=$(ws_pid w)
        kill -KILL "$pid"
        check "killed: the process ends" wait_until 20 not alive "$pid"
        # a holder that keeps the mount has started the next process by itself
        wait_until 20 sh -c "! mountpoint -q '$M' || timeout 5 stat '$M/files' >/dev/null 2>&1"
    fi
    is_mounted "$M" || ws_mount w "$M" || die "mount again"
done
check "all is there" model "$S" 0 0
check "snapshot" dumont snapshot create w before
cp "$S" "$S.before"
check "a round after it" model "$S" $((SEED + ROUNDS + 1)) "$OPS"
check "the snapshot shows what was" "$BIN/filemodel" "$M/.snapshots/before/files" "$S.before" 0 0
check "roll back" dumont rollback w before
check "the files are as they were" model "$S.before" 0 0
check "and can be written" model "$S.before" $((SEED + ROUNDS + 2)) "$OPS"
check "unmount" ws_umount "$M"
check "the store is sound" dumont check w
finish
