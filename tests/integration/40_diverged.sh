#!/bin/bash
# time: 200
# The link is cut, the old holder goes on writing what nobody else gets, the standby is promoted. When the link is back the old one learns of it at first contact, lets go, keeps its unshared tail as
# branch/epoch-E-node and becomes the standby without a person: by a cut, or, when its last checkpoint lies beyond where the histories part, by a resync. The branch outlives both.
# Bulk bytes that had not come over when they parted are with the old holder alone: after a cut `heal` puts them back, not over what was changed since; a resync takes them
# away, and heal says so.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq

get() { at "$1" dumont status w --json | jq -r "$2"; }
digest_of() { printf '{"cmd":"digest"}\n' | "$BIN/ctl" "$SCRATCH/$1/run/w.sock" | jq -r .result.digest; }
bulk_of() { at a dumont snapshot list w --json | jq -e --arg n "branch/epoch-$1-a.bulk" 'any(.[]; .name == $n)'; }
branches() { at "$1" dumont snapshot list w --json | jq -r '[.[] | select(.branch and (.name | endswith(".bulk") | not)) | .name] | sort | .[]'; }
told() { api /api/v1/events | jq -e --arg k "$1" '.events[] | select(.node == "a" and .kind == $k)' >/dev/null; }

PAIR_LINK=1 pair_up w sync=local solo_after=60s || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT
B=$PAIR_MOUNT.b
echo both >"$M/f"
echo both >"$M/mine"
mkdir "$M/d"
head -c 300000 /dev/urandom >"$M/d/big"
cp "$M/d/big" "$SCRATCH/big"
sync "$M/f"
check "all of it is there" at a dumont flush w --to standby

# Files whose records b has and whose bytes it lacks; the link stays slow, so they do not come.
late_bulk() {
    local n=$1 f
    pair_link w rate 1000000 >/dev/null
    for f in bulk touched grown; do
        head -c 8000000 /dev/urandom >"$SCRATCH/$f$n"
        cp "$SCRATCH/$f$n" "$M/"
    done
    check "$n: every record is there" wait_until 30 records_there
    check "$n: bulk data is not" test "$(get b .missing_bytes)" -gt 4000000
}
records_there() { [ "$(get a .standby.durable)" = "$(get a .tail)" ] && [ "$(get b .tail)" = "$(get a .tail)" ]; }
# healed N cut|resync: a holds it again, with the bytes that b never got
healed() {
    local n=$1
    check "$n: the files are incomplete, and known to be" test "$(get a .incomplete_files)" -ge 3
    if [ "$2" = cut ]; then
        check "$n: heal what nobody touched" at a dumont heal "$M/bulk$n"
        check "$n: it has every byte" cmp "$M/bulk$n" "$SCRATCH/bulk$n"
        check "$n: heal what the branch went on with" at a dumont heal "$M/grown$n"
        check "$n: it is the branch's" cmp "$M/grown$n" "$SCRATCH/grown$n"
    else
        check_status "$n: the bytes went with the resync: nothing to heal from" 2 at a dumont heal "$M/bulk$n"
        check "$n: it says so" bash -c "$(declare -f at); SCRATCH=$SCRATCH; at a dumont heal '$M/bulk$n' 2>&1 | grep -q 'lost them since'"
    fi
    check_status "$n: what was changed since is left alone" 2 at a dumont heal "$M/touched$n"
    check "$n: not a byte of it was touched" cmp "$M/touched$n" "$SCRATCH/touched$n.now"
    check "$n: on the other machine it is the same" at ctl dumont verify w
    rm "$M/bulk$n" "$M/touched$n" "$M/grown$n"
    check_eq "$n: nothing is incomplete any more" "$(get a .incomplete_files)" 0
}

# diff_of N BRANCH: how it differs from now, asked where it is
diff_of() {
    local lines
    lines=$(at a dumont snapshot diff w "$2")
    check "$1: diff: what was written on both sides differs" grep -qx 'M /mine' <<<"$lines"
    check "$1: diff: what only the branch has is not here" grep -qx "D /new$1" <<<"$lines"
    check_eq "$1: diff: what it did not touch is not in it" "$(grep -c 'd/big\|/f$' <<<"$lines")" 0
}
# parted N cut|resync: parted and back; resync: a checkpoint of the old holder lies beyond where they part
parted() {
    local n=$1 epoch
    epoch=$(get a .epoch)
    late_bulk "$n"
    pair_link w blackhole >/dev/null
    # calls that return, and calls that wait when the lease has ended: both are logged there
    start "late$n" bash -c "echo grown$n >>$M/grown$n; echo lat$n >$M/mine; echo new$n >$M/new$n; rm -f $M/gone; mv $M/d/big $M/moved; for i in \$(seq 200); do echo \$i >$M/d/\$i || exit; done"
    check "$n: the old holder writes" wait_until 20 test -e "$M/new$n"
    echo "grown$n" >>"$SCRATCH/grown$n"
    [ "$2" = cut ] || printf '{"cmd":"checkpoint"}\n' | "$BIN/ctl" "$SCRATCH/a/run/w.sock" >/dev/null
    check "$n: a person promotes the standby" at b dumont promote w
    check "$n: it is mounted there" wait_until 30 mountpoint -q "$B"
    check_eq "$n: with what both had" "$(cat "$B/mine")" both
    check "$n: and not what never came" not test -e "$B/new$n"
    check "$n: it works on" bash -c "echo after$n >$B/f && sync $B/f"
    printf 'changed since' | dd of="$B/touched$n" conv=notrunc 2>/dev/null
    cp "$B/touched$n" "$SCRATCH/touched$n.now"
    check "$n: the bulk data is not whole there" not cmp "$B/bulk$n" "$SCRATCH/bulk$n"
    pair_link w pass >/dev/null
    check "$n: at first contact the old one lets go" wait_until 30 not mounted "$M"
    check "$n: it is the standby by itself" wait_until 60 pair_in_sync b w
    stop "late$n"
    check "$n: its branch is listed, with the epoch that it held" test -n "$(branches a | grep -Fx "branch/epoch-$epoch-a")"
    [ "$2" != cut ] || check "$n: and what the new holder lacked, beside it" wait_until 30 bulk_of "$epoch"
    check "$n: the event history has it" wait_until 20 told branch
    check "$n: flushed" at b dumont flush w --to standby
    check_eq "$n: both are equal" "$(digest_of a)" "$(digest_of b)"
    check "$n: compared file by file" at ctl dumont verify w
    rm -rf "$SCRATCH/out"
    check "$n: the branch is written as files, on the standby" at a dumont restore w "$SCRATCH/out" --branch "branch/epoch-$epoch-a"
    check_eq "$n: with what only the old holder had" "$(cat "$SCRATCH/out/mine" "$SCRATCH/out/new$n" | tr '\n' ' ')" "lat$n new$n "
    if [ "$2" = cut ]; then
        check "$n: bulk data that it wrote to and nobody else has among it" cmp "$SCRATCH/out/grown$n" "$SCRATCH/grown$n"
    else
        check "$n: a file that is not whole any more is left out" not test -e "$SCRATCH/out/grown$n"
    fi
    diff_of "$n" "branch/epoch-$epoch-a"
    check "$n: and none of it is in the workspace" not test -e "$B/new$n"
    check "$n: hand it back" at b dumont handover w
    check "$n: it is mounted there" wait_until 30 mountpoint -q "$M"
    check "$n: in sync" wait_until 60 pair_in_sync a w
    check_eq "$n: with the other one's work" "$(cat "$M/f")" "after$n"
    check "$n: the branch is still listed" test -n "$(branches a | grep -Fx "branch/epoch-$epoch-a")"
    rm -rf "$SCRATCH/out"
    check "$n: and written as files, on the holder" at a dumont restore w "$SCRATCH/out" --branch "branch/epoch-$epoch-a"
    check_eq "$n: the same" "$(cat "$SCRATCH/out/new$n")" "new$n"
    diff_of "$n" "branch/epoch-$epoch-a"
    cp "$SCRATCH/out/new$n" "$M/"
    check_eq "$n: what was taken from it is no difference any more" "$(at a dumont snapshot diff w "branch/epoch-$epoch-a" | grep -c "/new$n$")" 0
    rm "$M/new$n"
    healed "$n" "$2"
}
parted 1 cut
check_eq "it was a cut" "$(grep -c 'resync: taking what differs' "$SCRATCH/a/log/w.log")" 0
check "and its records are kept" grep -q "are kept as branch epoch" "$SCRATCH/a/log/w.log"
parted 2 resync
check_eq "it was a resync" "$(grep -c 'resync: taking what differs' "$SCRATCH/a/log/w.log")" 1
check_eq "both branches are there" "$(branches a | wc -l)" 2
check_eq "what was moved there is where it was" "$(cmp "$M/d/big" "$SCRATCH/big" && echo same)" same
check_status "nothing here is incomplete: heal says so" 2 at a dumont heal "$M/f"
pid=$(get a .pid)
umount "$M"
check "its process ends" wait_until 30 not alive "$pid"
check "the store is sound" at a dumont check w
finish
