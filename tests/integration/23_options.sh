#!/bin/bash
# time: 120
# Options that change what a workspace is: owner, quota; an archive that is set when the journal's beginning is gone already, and one that cannot be used.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require jq

M=$SCRATCH/mnt
digest() { "$BIN/treedigest" "${1:-$M}" | head -1; }

# --- owner= and the mode of the mountpoint
check "create with an owner" ws_create own owner=1234:5678
check "mount" ws_mount own "$M"
check_eq "the root belongs to it" "$(stat -c %u:%g "$M")" 1234:5678
check "unmount" ws_umount "$M"
chown 4321:8765 "$M" && chmod 2770 "$M"
check "create without" ws_create plain
check "mount" ws_mount plain "$M"
check_eq "the root is what the mountpoint was" "$(stat -c %u:%g:%a "$M")" 4321:8765:2770
check "unmount" ws_umount "$M"
chown 0:0 "$M" && chmod 755 "$M"

# --- quota=
check "create with a quota of 20 MB" ws_create quota quota=20M
check "mount" ws_mount quota "$M"
check "df shows it" test "$(df --output=size -B1M "$M" | tail -1)" -le 21
check "10 MB fit" bash -c "head -c 10000000 /dev/urandom > $M/a && sync $M/a"
dd if=/dev/urandom of="$M/b" bs=1M count=20 2>"$SCRATCH/dd"
check "the write that goes over it says so" grep -Eq "No space left|quota exceeded" "$SCRATCH/dd"
check "an fsync never does" sync "$M/b"
check "what was there before is whole" test "$(stat -c %s "$M/a")" = 10000000
check "removing makes room" bash -c "rm $M/b && head -c 5000000 /dev/urandom > $M/c && sync $M/c"
check "unmount" ws_umount "$M"
check "the quota is raised" dumont workspace set quota quota=60M
check "mount" ws_mount quota "$M"
check "now it fits" bash -c "head -c 20000000 /dev/urandom > $M/b && sync $M/b"
check "unmount" ws_umount "$M"

# --- archive= on a workspace whose first records are gone: base and journal give all of it
check "create without archive" ws_create late
check "mount" ws_mount late "$M"
for i in $(seq 300); do echo "$i" >"$M/f$i"; done
ln "$M/f1" "$M/link" && setfattr -n user.k -v v "$M/f2" && rm "$M/f3"
head -c 30000000 /dev/urandom >"$M/big" && sync "$M/big"
dumont snapshot create late old >/dev/null
# inline bytes fill the journal until its first segment is full, checkpointed, and older than what a successor of the process may want (32 MiB, at most twice that)
for i in $(seq 180); do head -c 900000 /dev/zero >"$M/z" && sync "$M/z"; done
printf '{"cmd":"checkpoint"}\n' | "$BIN/ctl" "$DUMONT_RUN/late.sock" >/dev/null
check "the journal's beginning is gone" wait_until 10 not test -e "$DUMONT_STATE/late/journal/0000000000000001.seg"
echo more >"$M/more"
before=$(digest)
check "unmount" ws_umount "$M"
check "set archive=" dumont workspace set late "archive=file://$SCRATCH/archive"
check "mount" ws_mount late "$M"
echo after >"$M/after"
check "flush to the archive" dumont flush late --to archive
now=$(digest)
check "restore from the archive alone" dumont restore late "$SCRATCH/restored" --from "file://$SCRATCH/archive"
check_eq "it is the workspace" "$(digest "$SCRATCH/restored")" "$now"
check "not the one of before" test "$now" != "$before"
check "unmount" ws_umount "$M"

# --- an archive that cannot be used: the workspace works, and its status says why nothing is archived
check "a node name that cannot stand in a key" ws_create bad "archive=file://$SCRATCH/bad" "node=a/b"
check "mount" ws_mount bad "$M"
check "work goes on" bash -c "echo x > $M/f && sync $M/f"
check_eq "the status says why" "$(ws_get bad .archive.error)" "node name a/b cannot stand in an archive key: use letters, digits and . _ -"
check "and since when" test "$(ws_get bad .archive.error_since_ns)" -gt 0
check "in words too" bash -c "dumont status bad | grep -q 'failing since .*cannot stand in an archive key'"
check "and as the last event" bash -c "dumont status bad --json | jq -r .last_event | grep -q '^archive-error: '"
check_status "a flush does not wait for it" 2 timeout 20 dumont flush bad --to archive
check "unmount" ws_umount "$M"
finish
