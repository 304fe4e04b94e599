#!/bin/bash
# time: 200
# What the old holder had alone goes to the new one, in the background: cut in the midst and killed in the midst it goes on. Then the old machine is gone for good, and from the
# copy alone the branch is listed, compared, written out as files, and files that the failover left incomplete are healed. A branch that a person removes stays removed on both.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq

get() { at "$1" dumont status w --json | jq -r "$2"; }
branch() { at "$1" dumont snapshot list w --json | jq -r --arg n "$2" --arg k "$3" '.[] | select(.name == $n) | .[$k]'; }
listed() { [ "$(branch "$1" "$2" branch)" = true ]; }
copied() { [ "$(branch "$1" "$2" copied)" = true ]; }
there() { [ -e "$SCRATCH/$1/state/w/branches/$2" ]; }
not_there() { ! there "$@"; }
bytes_of() { du -sb "$SCRATCH/$1/state/w/branches/$2" 2>/dev/null | cut -f1; }
some_came() { [ "$(bytes_of b "$1")" -gt "$2" ] 2>/dev/null; }
promoted() {
    check "$1: a person promotes the standby" at b dumont promote w
    check "$1: it is mounted there" wait_until 30 mountpoint -q "$B"
}
# the old holder is cut off while it writes: what it says then nobody hears
part() {
    pair_link w blackhole >/dev/null
    start "late$1" bash -c "$2; touch $M/done$1"
    check "$1: the old holder writes on" wait_until 30 test -e "$M/done$1"
}

PAIR_LINK=1 pair_up w sync=local solo_after=60s || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT
B=$PAIR_MOUNT.b
echo both >"$M/mine"
head -c 3000000 /dev/urandom >"$M/half"
sync "$M/half"
cp "$M/half" "$SCRATCH/half.first"
check "all of it is there" at a dumont flush w --to standby

# --- removed: first a branch that nobody wants
E1=$(get a .epoch)
X=epoch-$E1-a
part 1 "echo first >$M/mine"
promoted 1
pair_link w pass >/dev/null
check "1: the old one lets go" wait_until 30 not_mounted "$M"
check "1: the branch is copied" wait_until 60 copied b "branch/$X"
check "1: and the old holder knows" copied a "branch/$X"
check_eq "1: people are told" "$(at b dumont snapshot list w | grep "branch/$X" | grep -c 'on both machines')" 1
check "1: in sync" wait_until 60 pair_in_sync b w
pair_link w blackhole >/dev/null
check "1: it is removed where the copy is" at b dumont snapshot delete w "branch/$X"
check_status "1: once" 2 at b dumont snapshot delete w "branch/$X"
check "1: the one who is away has it still" there a "$X"
pair_link w pass >/dev/null
check "1: and removes it when it hears" wait_until 60 not_there a "$X"
check "1: in sync again" wait_until 60 pair_in_sync b w
check "1: hand it back" at b dumont handover w
check "1: mounted there" wait_until 30 mountpoint -q "$M"
check "1: in sync the other way" wait_until 60 pair_in_sync a w
check "1: it stays removed" bash -c "[ ! -e '$SCRATCH/a/state/w/branches/$X' ] && [ ! -e '$SCRATCH/b/state/w/branches/$X' ]"
check "1: on both" bash -c "[ -e '$SCRATCH/a/state/w/branches/$X.removed' ] && [ -e '$SCRATCH/b/state/w/branches/$X.removed' ]"

# --- copied: a failover with a tail, while bulk data is under way
check "2: the link is slow from now on" pair_link w rate 1000000
for f in new half; do head -c 20000000 /dev/urandom >"$SCRATCH/$f"; done
cp "$SCRATCH/new" "$M/new"
cp "$SCRATCH/half" "$M/half"
records_there() { [ "$(get a .standby.durable)" = "$(get a .tail)" ] && [ "$(get b .tail)" = "$(get a .tail)" ]; }
check "2: every record is there" wait_until 30 records_there
check "2: bulk data is not" test "$(get b .missing_bytes)" -gt 0
E2=$(get a .epoch)
X=epoch-$E2-a
head -c 8000000 /dev/urandom >"$SCRATCH/tail"
part 2 "echo lost >$M/mine; echo lost >$M/lost; cp $SCRATCH/tail $M/tail; printf 'a later word' | dd of=$M/half bs=1 seek=1000000 conv=notrunc"
printf 'a later word' | dd of="$SCRATCH/half" bs=1 seek=1000000 conv=notrunc 2>/dev/null
promoted 2
check "2: files are incomplete" test "$(get b .incomplete_files)" -ge 2
check_status "2: healing is not possible yet" 2 at b dumont heal "$B/new"
check_eq "2: and says what is to come" "$(at b dumont heal "$B/new" 2>&1 | grep -c 'a wrote them: when it is back')" 1
check "2: the link is back, and not fast" pair_link w pass
pair_link w rate 3000000 >/dev/null
check "2: the old one lets go" wait_until 60 not_mounted "$M"
begun() { some_came "$X.copy" "$1" || there b "$X"; }
check "2: the branch begins to come" wait_until 60 begun 1000000
pair_link w cut >/dev/null
check "2: cut, it goes on" wait_until 60 begun 3000000
pid=$(get b .pid)
kill -KILL "$pid"
serves() { at b dumont status w --json | jq -e '.mountpoint != "" and .pid != '"$pid" >/dev/null; }
check "2: the new holder's process is killed, another goes on" wait_until 60 serves
check "2: syncs do not wait for it" bash -c "echo x >$B/x && sync $B/x"
pair_link w pass >/dev/null
check "2: the branch is copied" wait_until 90 copied b "branch/$X"
check "2: what the new holder lacked as well" wait_until 90 copied b "branch/$X.bulk"
check_eq "2: byte by byte" "$(cd "$SCRATCH/a/state/w/branches" && for f in "$X" "$X.bulk"; do for s in "$f"/*.seg; do cmp "$s" "$SCRATCH/b/state/w/branches/$s" || echo no; done; done)" ""
check "2: nothing is half there" not_there b "$X.copy"
check "2: in sync" wait_until 60 pair_in_sync b w

# --- the old machine is gone for good
stop agent-a
ws_die "$(get a .pid)"
rm -rf "$SCRATCH/a/state/w"
check "3: the branch is listed" listed b "branch/$X"
check_eq "3: and nobody says that the other machine has it" "$(at b dumont snapshot list w | grep "branch/$X " | grep -c 'both machines')" 0
at b dumont snapshot diff w "branch/$X" >"$SCRATCH/diff"
check "3: compared: what only it has" grep -qx 'D /lost' "$SCRATCH/diff"
check "3: compared: what differs" grep -qx 'M /mine' "$SCRATCH/diff"
check "3: written out as files" at b dumont restore w "$SCRATCH/out" --branch "branch/$X"
check_eq "3: small ones" "$(cat "$SCRATCH/out/mine" "$SCRATCH/out/lost" | tr '\n' ' ')" "lost lost "
check "3: a big one" cmp "$SCRATCH/out/tail" "$SCRATCH/tail"
check "3: one that it changed in the midst, of which this machine never had all" cmp "$SCRATCH/out/half" "$SCRATCH/half"
check "3: a file that the failover left incomplete is healed" at b dumont heal "$B/new"
check "3: it is whole" cmp "$B/new" "$SCRATCH/new"
check "3: and says nothing any more" not getfattr -n user.dumont.incomplete "$B/new"
check "3: one that the branch changed since is healed to that" at b dumont heal "$B/half"
check "3: with the later word" cmp "$B/half" "$SCRATCH/half"
check_eq "3: nothing is incomplete any more" "$(get b .incomplete_files)" 0
check "3: it goes on without its maker" bash -c "echo y >$B/y && sync $B/y"
check "3: and is removed when nobody wants it" at b dumont snapshot delete w "branch/$X"
check "3: gone from the list" not listed b "branch/$X"
finish
