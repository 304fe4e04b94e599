#!/bin/bash
# time: 60
# A look at a standby (mount -o ro,standby-view): it shows what the standby has, follows the holder, cannot be written, ends with an unmount that the standby survives, and by
# itself at a promotion, which mounts where it should.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq

V=$SCRATCH/view
mkdir "$V" "$SCRATCH/bin"
ln -s "$BUILD/mount.dumont" "$SCRATCH/bin/umount.dumont"
PATH=$SCRATCH/bin:$PATH
digest() { "$BIN/treedigest" "$1" | head -1; }
flush() { at a dumont flush w --to standby >/dev/null; }
said() { cp "$SCRATCH/.check" "$SCRATCH/said"; }

pair_up w sync=fsync || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT
mkdir -p "$M/d/e"
echo one >"$M/f" && ln "$M/f" "$M/d/link" && ln -s ../f "$M/d/sym" && setfattr -n user.k -v v "$M/f"
head -c 5000000 /dev/urandom >"$M/big" && sync "$M/big"
cp /bin/true "$M/program"
at a dumont snapshot create w s1 >/dev/null
flush

check_status "without ro it is refused" 1 at b mount.dumont w "$V" -o standby-view
check_status "a mount without standby-view says what to do" 32 at b mount.dumont w "$V"
check "look at the standby" at b mount.dumont w "$V" -o ro,standby-view
check "it is mounted read-only" bash -c "grep ' $V ' /proc/self/mountinfo | grep -q ' ro,'"
check_eq "it shows the tree of the holder" "$(digest "$V")" "$(digest "$M")"
check "and its snapshots" test "$(cat "$V/.snapshots/s1/f")" = one
check "a program can be run from it" "$V/program"
check "it cannot be written" not touch "$V/x"
check "sync returns" timeout 10 sync "$V/f"
check "asking for it again is no error" at b mount.dumont w "$V" -o ro,standby-view
mkdir "$SCRATCH/view2"
check_status "a second one is refused" 32 at b mount.dumont w "$SCRATCH/view2" -o ro,standby-view
said
check "and says where it is" grep -q "on $V" "$SCRATCH/said"

# it follows: content, size, names that were absent, names that are gone
exec 9<"$V/f"
test ! -e "$V/new" || die "there already"
echo "two, and longer" >"$M/f" && echo new >"$M/new" && rm "$M/d/sym" && mv "$M/d" "$M/dir" && truncate -s 1000000 "$M/big"
at a dumont snapshot create w s2 >/dev/null
flush
check_eq "a changed file" "$(cat "$V/f")" "two, and longer"
check_eq "also through a descriptor that was open" "$(cat <&9)" "two, and longer"
exec 9<&-
check_eq "a new one" "$(cat "$V/new")" new
check "a new snapshot" test "$(cat "$V/.snapshots/s2/f")" = "two, and longer"
check_eq "everything" "$(digest "$V")" "$(digest "$M")"
check "it is still a pair" pair_in_sync a w

# the end of the look is not the end of the standby
pid=$(at b dumont status w --json | jq .pid)
check "unmount" at b umount.dumont "$V"
check "it is gone" not mountpoint -q "$V"
check_eq "the standby is the same process" "$(at b dumont status w --json | jq .pid)" "$pid"
check "still a pair" pair_in_sync a w
check "look again" at b mount.dumont w "$V" -o ro,standby-view
check "umount(8) ends it, too" umount "$V"
nothing() { [ "$(at b dumont status w --json | jq -r .mountpoint)" = "" ]; }
check "the standby knows" wait_until 5 nothing
check "and again, with a file open for the promotion" at b mount.dumont w "$V" -o ro,standby-view
exec 9<"$V/big"

# promotion
check "hand over" at a dumont handover w
check "b serves it at its place" wait_until 20 mountpoint -q "$M.b"
check "the look has ended" not mountpoint -q "$V"
check "and what was open in it gets an error, no old bytes" not cat /proc/self/fd/9
exec 9<&-
check "b can be written" bash -c "echo three > $M.b/f && sync $M.b/f"
check "a follows" wait_until 30 pair_in_sync b w
at b dumont flush w --to standby >/dev/null
check "look at a now" at a mount.dumont w "$V" -o ro,standby-view
check_eq "it has what b wrote" "$(cat "$V/f")" three
check_status "the holder cannot be looked at as a standby" 32 at b mount.dumont w "$SCRATCH/view2" -o ro,standby-view
kill_b() { ws_die "$(at b dumont status w --json | jq .pid)"; }
check "b is gone" kill_b
serves() { mountpoint -q "$M"; }
a_writes() { at a dumont status w --json | jq -e '.holder and .one_copy'; }
check "a takes over with a look open" wait_until 20 a_writes
check "and the look has ended" wait_until 5 not mountpoint -q "$V"
finish
