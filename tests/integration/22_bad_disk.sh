#!/bin/bash
# time: 200
# A full disk and damaged files: a clear sentence, the right exit code, nothing lost.
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
pid=$(ws_pid dam)
for i in $(seq 1 30); do
    echo "$i" >"$M/f$i"
    sync "$M/f$i"
done
kill -KILL "$pid"
wait_until 20 not_mounted "$M"
wait_until 20 not test -e "/proc/$pid"
J=$DUMONT_STATE/dam/journal
cp -a "$J" "$SCRATCH/journal.good"
seg=$(grep -l -a "f10" "$J"/* | head -1)
at=$(grep -a -b -o f10 "$seg" | head -1 | cut -d: -f1)
printf 'X' | dd of="$seg" bs=1 seek="$at" conv=notrunc 2>/dev/null
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
finish
