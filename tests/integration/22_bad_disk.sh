#!/bin/bash
# time: 260
# A full disk, damaged files, a disk that fails: a clear sentence, the right exit code, nothing lost.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require jq mkfs.ext4
M=$SCRATCH/mnt

# --- full disk: the store is on a small filesystem of its own
truncate -s 800M "$SCRATCH/disk.img"
mkfs.ext4 -q "$SCRATCH/disk.img"
mkdir "$SCRATCH/disk"
mount -o loop "$SCRATCH/disk.img" "$SCRATCH/disk" || skip "no loop mounts here"
check "workspace on a small disk" ws_create small "store=$SCRATCH/disk/small"
check "mount" ws_mount small "$M"
bash -c "echo keep > $M/keep && sync $M/keep"
dd if=/dev/urandom of="$M/fill" bs=1M count=1000 2>"$SCRATCH/dd.out"
check "filling it says: no space left" grep -q "No space left on device" "$SCRATCH/dd.out"
check "what was synced is there" test "$(cat "$M/keep")" = keep
check "the tail of the big file can be read" bash -c "tail -c 1000 $M/fill | wc -c | grep -qx 1000"
check "reading goes on, status says nothing failed" bash -c "test \"\$(dumont status small --json | jq -r '.failed // false')\" = false"
check "a file can be deleted on the full disk" rm "$M/fill"
check "and then written again" wait_until 30 bash -c "head -c 30000000 /dev/zero > $M/again && sync $M/again"
sum=$("$BIN/treedigest" "$M" | head -1)
check "unmount" ws_umount "$M"
wait_until 10 not test -S "$DUMONT_RUN/small.sock"
check "mount again" ws_mount small "$M"
check_eq "the same tree" "$("$BIN/treedigest" "$M" | head -1)" "$sum"
ws_umount "$M"
wait_until 10 not test -S "$DUMONT_RUN/small.sock"
check "the store is sound" dumont check small
umount "$SCRATCH/disk"

# --- a damaged journal: refused with its position, not skipped
ws_create dam || die "create"
ws_mount dam "$M" || die "mount"
for i in $(seq 1 30); do
    echo "$i" >"$M/f$i"
    sync "$M/f$i"
done
ws_crash dam
J=$DUMONT_STATE/dam/journal
cp -a "$J" "$SCRATCH/journal.good"
seg=$(grep -l -a "f10" "$J"/* | head -1)
at=$(grep -a -b -o f10 "$seg" | head -1 | cut -d: -f1)
invert "$seg" "$at"
check_status "a damaged segment is refused" 32 ws_mount dam "$M"
cp "$SCRATCH/.check" "$SCRATCH/said"
check "the sentence names the segment, the offset and the record" grep -Eq "segment .* damaged at offset [0-9]+: record [0-9]+" "$SCRATCH/said"
check_status "dumont check finds it" 4 dumont check dam
rm -r "$J" && cp -a "$SCRATCH/journal.good" "$J"
check "with the good segment it mounts" ws_mount dam "$M"
check_eq "and nothing is lost" "$(cat "$M/f30")" 30
ws_umount "$M"
wait_until 10 not test -S "$DUMONT_RUN/dam.sock"

# --- a damaged database
ws_create db || die "create"
dd if=/dev/urandom of="$DUMONT_STATE/db/workspace.db" bs=4096 count=4 conv=notrunc 2>/dev/null
check_status "a damaged database is refused" 32 ws_mount db "$M"
cp "$SCRATCH/.check" "$SCRATCH/said"
check "with a sentence about the database" grep -q "workspace.db.*not a database" "$SCRATCH/said"

# --- data files cannot be written for a while: everything goes on from the journal, the status says it, and it comes back by itself
ws_create part || die "create"
ws_mount part "$M" || die "mount"
D=$DUMONT_STATE/part/data
failing() { dumont status part --json | jq -e .checkpoint.failing >/dev/null; }
mount --bind "$D" "$D" && mount -o remount,bind,ro "$D"
head -c 300000 /dev/urandom >"$SCRATCH/in"
cp "$SCRATCH/in" "$M/in" && sync "$M/in"
printf '{"cmd":"checkpoint"}\n' | "$BIN/ctl" "$DUMONT_RUN/part.sock" >"$SCRATCH/said"
check "a checkpoint fails, and says why" grep -q "Read-only file system" "$SCRATCH/said"
check "the status says it" failing
check "for people, too, with the reason" bash -c "dumont status part | grep -q '^  checkpoint  failing since .*Read-only file system'"
check "as an event" wait_until 10 bash -c "dumont status part --json | jq -r .last_event | grep -q '^checkpoint-error: '"
check "writing and syncing go on" bash -c "echo on >'$M/on' && sync '$M/on' && cmp '$M/in' '$SCRATCH/in'"
umount "$D"
check "when the disk is well again so is the checkpoint, by itself" wait_until 20 bash -c "dumont status part --json | jq -e '.checkpoint.failing == false and .dirty_bytes == 0'"
check "and that is an event" wait_until 10 bash -c "dumont status part --json | jq -r .last_event | grep -q '^checkpoint-well: '"
ws_umount "$M"
wait_until 10 not test -S "$DUMONT_RUN/part.sock"
check "the store is sound" dumont check part

# --- a disk that fails under it: a loop device whose backing file finds no room
mkdir "$SCRATCH/tm" "$SCRATCH/flaky"
mount -t tmpfs -o size=150M tmpfs "$SCRATCH/tm"
truncate -s 900M "$SCRATCH/tm/disk.img"
mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1 "$SCRATCH/tm/disk.img"
flaky_up() { mount -o loop "$SCRATCH/tm/disk.img" "$SCRATCH/flaky"; }
check "a disk that will fail" flaky_up
check "workspace on it" ws_create io "store=$SCRATCH/flaky/io"
check "mount" ws_mount io "$M"
for i in $(seq 1 20); do
    echo "$i" >"$M/acked$i" && sync "$M/acked$i" && echo "$i" >>"$SCRATCH/acked"
done
check "20 files are acknowledged" test "$(wc -l <"$SCRATCH/acked")" = 20
head -c 400000000 /dev/urandom >"$SCRATCH/big"
cat "$SCRATCH/big" 2>"$SCRATCH/io.out" >"$M/big"
sync "$M/big" 2>>"$SCRATCH/io.out"
for i in $(seq 21 30); do
    { echo "$i" >"$M/acked$i" && sync "$M/acked$i"; } 2>>"$SCRATCH/io.out" && echo "$i" >>"$SCRATCH/acked"
done
# what the journal has of written blocks goes on; when that is full, too, it is over
failed() { dumont status io --json | jq -e .failed >/dev/null; }
for i in $(seq 1 400); do
    failed && break
    { head -c 500000 "$SCRATCH/big" >"$M/more$i" && sync "$M/more$i"; } 2>>"$SCRATCH/io.out"
done
check "the writer hears of it" grep -Eq 'Input/output error|Read-only file system' "$SCRATCH/io.out"
check "the status says that it failed, and why" bash -c "dumont status io --json | jq -e '.failed and (.failed_why | length > 0)'"
check "for people, too" bash -c "dumont status io | grep -q '^  FAILED'"
check_eq "what is there can still be read" "$(cat "$M/acked20")" 20
timeout 60 umount "$M" 2>/dev/null
wait_until 60 not test -S "$DUMONT_RUN/io.sock"
check "it is unmounted" not_mounted "$M"
check "and nobody uses its disk" umount "$SCRATCH/flaky"
mount -o remount,size=1200M "$SCRATCH/tm"
e2fsck -fy "$SCRATCH/tm/disk.img" >/dev/null 2>&1
check "the disk is mended" flaky_up
check "mount again" ws_mount io "$M"
check "nothing acknowledged is missing" bash -c "while read -r i; do [ \"\$(cat '$M'/acked\$i)\" = \$i ] || { echo \$i; exit 1; }; done <'$SCRATCH/acked'"
# its very name may be among what was not synced
[ -e "$M/big" ] && check "of the file that was not synced there is what is right, and no more" cmp -n "$(stat -c %s "$M/big")" "$M/big" "$SCRATCH/big"
check "it can be written" bash -c "echo x >'$M/after' && sync '$M/after'"
ws_umount "$M"
wait_until 10 not test -S "$DUMONT_RUN/io.sock"
check "the store is sound" dumont check io
check "its disk can be taken away" umount "$SCRATCH/flaky"
umount "$SCRATCH/tm"
finish
