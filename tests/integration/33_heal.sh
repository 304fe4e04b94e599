#!/bin/bash
# time: 200
# A failover while bulk data is still under way: the files are named, their bytes are on the machine that died, and `dumont heal` puts them back once it is back and holds
# the workspace, but never over what has been changed since.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq

mkdir "$SCRATCH/archive"
PAIR_LINK=1 pair_up w sync=fsync "archive=file://$SCRATCH/archive" || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT
B=$PAIR_MOUNT.b
get() { at "$1" dumont status w --json | jq -r "$2"; }

head -c 3000000 /dev/urandom >"$M/old"
sync "$M/old"
cp "$M/old" "$SCRATCH/old.first"
check "the link is slow from now on" pair_link w rate 1000000
# new files, one rewritten and longer: none of it synced
for f in new touched; do head -c 30000000 /dev/urandom >"$SCRATCH/$f"; done
head -c 35000000 /dev/urandom >"$SCRATCH/old"
cp "$SCRATCH/new" "$SCRATCH/touched" "$M/"
cp "$SCRATCH/old" "$M/old"
echo small >"$M/small"
records_there() { [ "$(get a .standby.durable)" = "$(get a .tail)" ] && [ "$(get b .tail)" = "$(get a .tail)" ]; }
check "every record is there" wait_until 30 records_there
# By now the holder may have synced all that by itself: it does so within five seconds. It is to die before, so that it comes back with ranges of its own on the list of what is
# not durable: the new file is written once more, on a slow machine more than once.
written() { cp "$SCRATCH/new" "$M/new" && wait_until 30 records_there && [ "$(get a .missing_bytes)" -gt 0 ]; }
check "and those of the new file, whose bytes are not even on the holder's disk" wait_until 60 written
check "bulk data is not" test "$(get b .missing_bytes)" -gt 0
ws_die "$(get a .pid)"
check "the standby takes over" wait_until 30 mountpoint -q "$B"
check_eq "names and small files are the exact prefix" "$(cat "$B/small")" small
E=$(get b .epoch)
check "status counts the files that lost bulk data" bash -c "[ $(get b .incomplete_files) -ge 2 ]"
at b dumont log w --incomplete --json >"$SCRATCH/incomplete"
check "the log names them" bash -c "jq -r '.[].text' '$SCRATCH/incomplete' | grep -q /new"
check_eq "the rewritten file has its last complete content" "$(cmp "$B/old" "$SCRATCH/old.first" && echo same)" same
check "the new one is cut, and says so" getfattr -n user.dumont.incomplete "$B/new"
size=$(stat -c %s "$B/new")
check "what it has is right" cmp -n "$size" "$B/new" "$SCRATCH/new"
check_status "healing here is not possible" 2 at b dumont heal "$B/new"
check_eq "and says where they are" "$(at b dumont heal "$B/new" 2>&1 | grep -c 'a wrote them: when it is back, they come as branch')" 1
check "what is lost of a snapshot is an error, not zeros" not cat "$B/.snapshots/switch~epoch-${E%.*}.0/new" >/dev/null
check "the rest of it can be read" cmp -n "$size" "$B/.snapshots/switch~epoch-${E%.*}.0/new" "$SCRATCH/new"
lost() { at "$1" dumont snapshot list w --json | jq '[.[].lost_bytes // 0] | add'; }
check "the list of snapshots says so" test "$(lost b)" -gt 0
check "for people, too" test "$(at b dumont snapshot list w | grep -c 'incomplete here: [1-9][0-9]* bytes')" -gt 0
# somebody works on with one of them, with the same length
printf 'changed since' | dd of="$B/touched" conv=notrunc 2>/dev/null
cp "$B/touched" "$SCRATCH/touched.now"

# the machine is back
check "the link is fast again" pair_link w pass
at a mount.dumont w "$M" >/dev/null 2>&1
check "the old holder comes back as standby" wait_until 60 pair_in_sync b w
check "hand the workspace over to it" at b dumont handover w
check "it is mounted there" wait_until 30 mountpoint -q "$M"
check "the report is still there" test "$(get a .incomplete_files)" -ge 2
# the new holder has given these bytes up: what it would answer for them are zeros
for f in new touched old; do
    check "the old holder asked nobody for what it had of $f itself" cmp "$M/.snapshots/switch~epoch-${E%.*}.0/$f" "$SCRATCH/$f"
done
check_eq "and this machine has lost none of it" "$(lost a)" 0
check "heal the new file" at a dumont heal "$M/new"
check "it is whole" cmp "$M/new" "$SCRATCH/new"
check "and says nothing any more" not getfattr -n user.dumont.incomplete "$M/new"
check "heal the rewritten one" at a dumont heal "$M/old"
check "it has what was written last" cmp "$M/old" "$SCRATCH/old"
check_status "a file that was changed since is left alone" 2 at a dumont heal "$M/touched"
check_eq "and it is said" "$(at a dumont heal "$M/touched" 2>&1 | grep -c 'has been changed since')" 1
check "not a byte of it was touched" cmp "$M/touched" "$SCRATCH/touched.now"
check_eq "status counts only that one" "$(get a .incomplete_files)" 1
setfattr -x user.dumont.incomplete "$M/touched"
check_eq "taking the attribute away settles it" "$(get a .incomplete_files)" 0
check_status "a file that is whole: nothing to heal" 2 at a dumont heal "$M/new"
check "rolled back to what only this machine has" at a dumont rollback w "switch/epoch-${E%.*}.0" /touched
check "it is whole" cmp "$M/touched" "$SCRATCH/touched"
check "in sync again" wait_until 60 pair_in_sync a w
check "on the other machine it is the same" at ctl dumont verify w
check "the archive of the new history is well" bash -c "[ $(get a .archive.error_since_ns) = 0 ]"
check "and restores to the same" at a dumont verify w --archive
check "unmount at the end" at a umount "$M"
finish
