#!/bin/bash
# time: 200
# rollback --to TIME: the whole workspace and single paths, dry runs, undo; hard links that were joined and parted since; without an archive; an archive that lags, lacks an
# object or has one cut short: each is said, and nothing is changed.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require jq

M=$SCRATCH/mnt
ARCHIVE=$SCRATCH/archive
mkdir "$ARCHIVE"
digest() { "$BIN/treedigest" "${1:-$M}" | head -1; }
tree() { "$BIN/treedigest" -l "${1:-$M}"; }
# A moment between what was done and what will be: `@SECONDS.fraction`, the tree and its digest are kept as $SCRATCH/tree.NAME, D[NAME], T[NAME].
declare -A T D
moment() {
    tree >"$SCRATCH/tree.$1"
    D[$1]=$(digest)
    T[$1]=@$EPOCHREALTIME
}
same_tree() { # NAME TREE-OF
    if ! tree | diff "$SCRATCH/tree.$2" - >"$SCRATCH/diff"; then
        not_ok "$1" "$(head -n 5 "$SCRATCH/diff")"
    else
        ok "$1"
    fi
}
# As lib.sh's, but what was printed stays for `said`.
check_status() {
    local name=$1 want=$2 status=0
    shift 2
    "$@" >"$SCRATCH/said" 2>&1 || status=$?
    check_eq "$name" "exit $status" "exit $want" || sed 's/^/#   /' "$SCRATCH/said"
}
said() { grep -q "$@" "$SCRATCH/said"; }

check "create" ws_create w "archive=file://$ARCHIVE"
check "mount" ws_mount w "$M"
cd "$M" || exit 1
mkdir -p d/e/f keep
echo one >d/e/f/one
echo two >d/two
ln d/two d/two.link
ln -s two d/sym
mkfifo d/fifo
head -c 5000000 /dev/urandom >d/big
truncate -s 50M d/sparse
echo tail >>d/sparse
setfattr -n user.k -v val d/two
chmod 640 d/e/f/one
chown 1000:1001 d/e
touch -d '2001-02-03 04:05:06.123456789' d/e/f/one keep
echo x >part.a
echo y >part.b
printf 'latin' >"$(printf 'n\xe9')"
check "what is there is in the archive" dumont flush w --to archive
moment early

# everything that can happen to a name
rm d/two.link
echo other >d/two.link
rm part.b
ln part.a part.b
echo joined >part.a
rm -r d/e
echo now a file >d/e
rm d/sym
ln -s elsewhere d/sym
rm d/fifo
mkdir d/fifo
dd if=/dev/zero of=d/big bs=4096 count=3 seek=500 conv=notrunc 2>/dev/null
truncate -s 1000 d/sparse
setfattr -x user.k d/two
setfattr -n user.new -v v d/two
chmod 600 d/two
mv keep kept
mkdir -p new/deep/er
echo n >new/deep/er/file
rm n?
cd / || exit 1
moment late

# --- a dry run
check "dry run" dumont rollback w --to "${T[early]}" --dry-run --json
cp "$SCRATCH/.check" "$SCRATCH/dry"
changes() { jq -r '.changes[] | .kind + .path' "$SCRATCH/dry"; }
check "it names what would be made, with what is below" bash -c "jq -r '.changes[] | .kind + .path' '$SCRATCH/dry' | grep -qx 'A/d/e/f/one'"
check "what would go" bash -c "jq -r '.changes[] | .kind + .path' '$SCRATCH/dry' | grep -qx 'D/kept'"
check "what would change" bash -c "jq -r '.changes[] | .kind + .path' '$SCRATCH/dry' | grep -qx 'M/d/big'"
check "and names no snapshot" jq -e '.saved_as == ""' "$SCRATCH/dry"
same_tree "a dry run changes nothing" late
check "and makes no snapshot" bash -c "dumont snapshot list w --json | jq -e 'length == 0'"
check "for people it says 'would'" bash -c "dumont rollback w --to '${T[early]}' --dry-run | grep -q 'would change'"

# --- the whole workspace
check "roll back to a time" dumont rollback w --to "${T[early]}" --json
saved=$(jq -r .saved_as "$SCRATCH/.check")
check_eq "as many changes as the dry run said" "$(jq .changed "$SCRATCH/.check")" "$(jq .changed "$SCRATCH/dry")"
same_tree "the tree is that of the moment" early
check "hard links are as they were: joined" test "$M/d/two" -ef "$M/d/two.link"
check "and parted" not test "$M/part.a" -ef "$M/part.b"
check_eq "with their content" "$(cat "$M/part.a" "$M/part.b" | tr '\n' ' ')" "x y "
check "undo it" dumont rollback w "$saved"
same_tree "the tree is as before" late
check "once more, and once more the undo" bash -c "dumont rollback w --to '${T[early]}' && dumont rollback w --to '${T[late]}'"
same_tree "a rollback to the moment after undoes it, too" late

# --- single paths
check "roll back two paths" dumont rollback w --to "${T[early]}" /d/big /d/e
check_eq "the file is the old one" "$("$BIN/treedigest" -l "$M" | grep ' \./d/big\| d/big\|/d/big$')" "$(grep ' \./d/big\| d/big\|/d/big$' "$SCRATCH/tree.early")"
check_eq "the directory is back" "$(cat "$M/d/e/f/one")" one
check_eq "and the rest is untouched" "$(cat "$M/d/two.link" "$M/new/deep/er/file")" "other
n"
check_eq "nothing was done to names beside it" "$(readlink "$M/d/sym")" elsewhere
check "a path that is gone then goes now" dumont rollback w --to "${T[early]}" /new
check "it is gone" not test -e "$M/new"
check_status "a path that never was: exit 2" 2 dumont rollback w --to "${T[early]}" /never/was
check "with the path" said '/never/was'
check "roll all of it back" dumont rollback w --to "${T[late]}"
same_tree "nothing is left of it" late

# --- times
check_status "a time that is none: exit 2" 2 dumont rollback w --to 'last tuesdayish'
check "says how to write it" said '10 minutes ago'
check_status "a time to come: exit 2" 2 dumont rollback w --to '2090-01-01 00:00'
check "says so" said 'has not come yet'
check_status "before there was anything: exit 2" 2 dumont rollback w --to '2001-01-01 00:00'
same_tree "nothing was changed" late
check "and no scratch store is left" not test -e "$DUMONT_STATE/w/scratch"

# --- an archive that lags, or is damaged
mv "$ARCHIVE" "$ARCHIVE.away" && echo file >"$ARCHIVE"
echo unarchived >"$M/unarchived"
wait_until 10 bash -c "dumont status w --json | jq -e '.archive.error_since_ns != 0'"
check_status "the archive is away: exit 2" 2 dumont rollback w --to "${T[late]}"
check "it says up to where the archive is" said 'has records up to'
rm "$ARCHIVE" && mv "$ARCHIVE.away" "$ARCHIVE"
check "it is back" dumont flush w --to archive
now=$(digest)
object=$(find "$ARCHIVE/log" -name '*.lz4' | sort | tail -n 1)
cp "$object" "$SCRATCH/object"
truncate -s -7 "$object"
check_status "an object is cut short: restore fails" 2 dumont restore w "$SCRATCH/cut" --from "file://$ARCHIVE"
check "and names it" said "$(basename "$object")"
check "nothing half-made is left" bash -c "[ -z \"\$(ls -A '$SCRATCH/cut' 2>/dev/null)\" ] && ! ls -d '$SCRATCH'/cut.* 2>/dev/null"
check_status "rollback --to fails, too" 2 dumont rollback w --to now
check "and names it" said "$(basename "$object")"
check_eq "nothing was changed" "$(digest)" "$now"
cp "$SCRATCH/object" "$object"
first=$(find "$ARCHIVE/log" -name '*.lz4' | sort | sed -n 2p)
mv "$first" "$SCRATCH/first"
check_status "an object in the middle is missing: restore fails" 2 dumont restore w "$SCRATCH/gap" --from "file://$ARCHIVE"
check "and names it" said "$(basename "$first")"
mv "$SCRATCH/first" "$first"
check "with both back it restores" dumont restore w "$SCRATCH/whole" --from "file://$ARCHIVE"
check_eq "to what there is" "$(digest "$SCRATCH/whole")" "$now"
check "unmount" ws_umount "$M"
check "the store is sound" dumont check w

# --- archive= on a workspace that has lived without one: a base goes first
check "create without an archive" ws_create solo
check "mount it" ws_mount solo "$M"
bash -c "cd $M && mkdir a && echo 1 > a/1 && head -c 2000000 /dev/urandom > a/2 && sync a/2"
check "a snapshot" dumont snapshot create solo before
check_status "no archive: exit 1" 1 dumont rollback solo --to '1 minute ago'
check "it names the snapshot that is nearest" said 'Nearest after: before'
check_status "and the one before" 1 dumont rollback solo --to now
check "by name" said 'Nearest before: before'
check "unmount it" ws_umount "$M"
check "give it an archive" dumont workspace set solo "archive=file://$SCRATCH/second"
mkdir "$SCRATCH/second"
check "mount it again" ws_mount solo "$M"
echo 3 >"$M/a/3"
check "flush" dumont flush solo --to archive
now=$(digest)
check "restore from the archive alone" dumont restore solo "$SCRATCH/solo" --from "file://$SCRATCH/second"
check_eq "equal" "$(digest "$SCRATCH/solo")" "$now"
check "verify proves it" dumont verify solo --archive
check "unmount at the end" ws_umount "$M"
finish
