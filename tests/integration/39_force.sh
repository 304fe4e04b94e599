#!/bin/bash
# time: 280
# promote --force: nobody can be asked any more (the arbiter is lost, of either kind, and the holder is gone or cut off). It asks for the word and says what may be lost; the
# workspace goes on in a new lineage; the old holder, dead or alive meanwhile, learns at first contact that its own is over, keeps what only it had as a branch, and becomes
# the standby by a resync, without a person. A force that is cut off in the midst is finished by the next start.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq sqlite3 curl script

get() { at "$1" dumont status "$W" --json | jq -r "$2"; }
is() { [ "$(get "$1" "$2" 2>/dev/null)" = "$3" ]; }
major() { get "$1" '.epoch | split(".")[0]'; }
digest_of() { printf '{"cmd":"digest"}\n' | "$BIN/ctl" "$SCRATCH/$1/run/$W.sock" | jq -r .result.digest; }
branch_of() { at "$1" dumont snapshot list "$W" --json | jq -r '.[] | select(.branch and (.name | endswith(".bulk") | not)) | .name'; }
controller() { start_at ctl ctl dumontd --config "$SCRATCH/ctl/etc/dumontd.conf" --foreground; }
word_code() { at b dumont promote "$W" --force --json 2>&1 | jq .code; }
# forced: what the standby b says and does when it is told
forced() {
    check_status "$W: without the word nothing happens" 2 at b dumont promote "$W" --force
    at b dumont promote "$W" --force >"$SCRATCH/said" 2>&1
    check "$W: it says where this copy ends and what is lost" grep -Eq 'a never comes back: this copy ends at position [0-9]+ of epoch .* beyond that is lost' "$SCRATCH/said"
    check "$W: when the other was heard last" grep -Eq 'heard last [0-9]+ s ago' "$SCRATCH/said"
    check "$W: and how to do it" grep -q "dumont promote $W --force --yes" "$SCRATCH/said"
    check_eq "$W: a program knows it by its code" "$(word_code)" -4112
    check_eq "$W: and the API by its status" "$(curl -s -o "$SCRATCH/answer" -w '%{http_code}' --max-time 60 --unix-socket "$SCRATCH/b/run/dumontd.sock" -X POST -H 'Content-Type: application/json' \
        -d '{"force":true}' "http://localhost/api/v1/workspaces/$W/promote")" 428
    check_eq "$W: with the same code" "$(jq .code "$SCRATCH/answer")" -4112
    check_status "$W: at a terminal another word does nothing" 1 at b script -qec "dumont promote $W --force" "$SCRATCH/tty" <<<"$W-x"
    check "$W: and is told so" grep -aq 'that is not its name: nothing was done' "$SCRATCH/tty"
    check "$W: still a standby" not mountpoint -q "$PAIR_MOUNT.b"
    if [ "$W" = alive ]; then
        check "$W: with the word, typed" at b script -qec "dumont promote $W --force" "$SCRATCH/tty" <<<"$W"
    else
        check "$W: with it" at b dumont promote "$W" --force --yes
    fi
    wait_until 30 mountpoint -q "$PAIR_MOUNT.b" || die "$W: it is not mounted" "$(tail -n 30 "$SCRATCH/b/log/$W.log")"
    check "$W: epochs begin far above the old ones" test "$(major b)" -ge 1000000
    check "$W: the lineage is a new one" test "$(get b .lineage)" != "$OLD"
    check_eq "$W: one copy" "$(get b .one_copy)" true
    check "$W: it can be written" bash -c "echo new >$PAIR_MOUNT.b/after && sync $PAIR_MOUNT.b/after"
}
# joined: the old holder a has come back as the standby of the new lineage
joined() {
    wait_until 90 pair_in_sync b "$W" || die "$W: a does not become the standby" "$(at a dumont status "$W" 2>&1)" "$(at b dumont status "$W" 2>&1)" \
        "$(tail -n 30 "$SCRATCH/a/log/$W.log")" "$(tail -n 30 "$SCRATCH/b/log/$W.log")"
    ok "$W: a becomes the standby by itself"
    check_eq "$W: by a resync" "$(grep -c 'resynced: this copy is complete' "$SCRATCH/a/log/$W.log")" 1
    check_eq "$W: of the new lineage" "$(get a .lineage)" "$(get b .lineage)"
    check "$W: flushed" at b dumont flush "$W" --to standby
    check_eq "$W: equal" "$(digest_of a)" "$(digest_of b)"
    check "$W: hand it back" at b dumont handover "$W"
    check "$W: it is mounted there" wait_until 30 mountpoint -q "$PAIR_MOUNT"
    check_eq "$W: with what was written after the force" "$(cat "$PAIR_MOUNT/after")" new
    check "$W: in sync" wait_until 60 pair_in_sync a "$W"
    check "$W: a sync" bash -c "echo x >$PAIR_MOUNT/x && sync $PAIR_MOUNT/x"
}

# --- the controller is lost, then the holder: dead
W=dead
PAIR_LINK=1 pair_up "$W" sync=fsync solo_after=60s || die "the pair does not come up" "$(at a dumont status $W 2>&1)"
OLD=$(get a .lineage)
echo kept >"$PAIR_MOUNT/f"
sync "$PAIR_MOUNT/f"
check_status "not while the other one lives" 2 at b dumont promote "$W" --force --yes
check_eq "it says that it lives" "$(at b dumont promote "$W" --force 2>&1 | grep -c 'is not gone')" 1
check_status "nor where it is held" 2 at a dumont promote "$W" --force --yes
stop ctl
pair_link "$W" blackhole >/dev/null
start lost bash -c "echo lost >$PAIR_MOUNT/lost" # logged there, and never here
check "a write that b never gets" wait_until 10 test -e "$PAIR_MOUNT/lost"
stop agent-a
ws_die "$(get a .pid)"
stop lost
umount -l "$PAIR_MOUNT"
silent() { [ "$(word_code)" = -4112 ]; }
check "after a while it counts as silent" wait_until 20 silent
forced
check_eq "what was acknowledged is there" "$(cat "$PAIR_MOUNT.b/f")" kept
check "what never arrived is not" not test -e "$PAIR_MOUNT.b/lost"
controller
wait_until 10 test -S "$SCRATCH/ctl/run/dumontd.sock"
start_at agent-a a dumontd --config "$SCRATCH/a/etc/dumontd.conf" --foreground
told() { api /api/v1/events | jq -e --arg w "$W" '.events[] | select(.workspace == $w and .kind == "forced")' >/dev/null; }
check "the event history has it" wait_until 20 told
# first the controller alone: it grants a nothing
start_at back a mount.dumont "$W" "$PAIR_MOUNT"
over() { [ "$(sqlite3 "$SCRATCH/ctl/state/dumontd/controller.db" "SELECT count(*) FROM over WHERE lineage='$OLD'")" = 1 ]; }
check "the old lineage is over for the controller" wait_until 20 over
pair_link "$W" pass >/dev/null
check "a is told who holds it" wait_until 60 not running back
check "a has learnt it" wait_until 60 grep -q 'lineage-over: b was promoted by force' "$SCRATCH/a/log/$W.log"
joined
b=$(branch_of a)
check_eq "what only a had is a branch" "$(echo "$b" | grep -c '^branch/epoch-.*-a$')" 1
check "which can be taken out" at a dumont restore "$W" "$SCRATCH/out" --branch "$b"
check_eq "with the write that b never got" "$(cat "$SCRATCH/out/lost")" lost

# --- cut off but alive: it went on alone, with what the arbiter said, until the controller was lost
W=alive
PAIR_LINK=1 pair_up "$W" sync=fsync solo_after=2s || die "the pair does not come up" "$(at a dumont status $W 2>&1)"
OLD=$(get a .lineage)
echo kept >"$PAIR_MOUNT/f"
sync "$PAIR_MOUNT/f"
pair_link "$W" blackhole >/dev/null
check "a goes on alone" wait_until 30 is a .state alone
check "and acknowledges" bash -c "echo alone >$PAIR_MOUNT/alone && sync $PAIR_MOUNT/alone"
stop ctl
check "after a while it counts as silent" wait_until 20 silent
forced
check_eq "what both had is there" "$(cat "$PAIR_MOUNT.b/f")" kept
check "a still writes, in its own history" bash -c "echo later >$PAIR_MOUNT/later && sync $PAIR_MOUNT/later"
pair_link "$W" pass >/dev/null
check "at first contact a lets go" wait_until 30 not mounted "$PAIR_MOUNT"
controller
joined
b=$(branch_of a)
check "its branch can be taken out" at a dumont restore "$W" "$SCRATCH/out2" --branch "$b"
check_eq "with all that a acknowledged alone" "$(cat "$SCRATCH/out2/alone" "$SCRATCH/out2/later" | tr '\n' ' ')" "alone later "
check "and none of it is in the workspace" not test -e "$PAIR_MOUNT/alone"

# --- the bucket is lost, and the holder
W=bucket
mkdir -p "$SCRATCH/place/bucket"
PAIR_LINK=1 PAIR_ARBITER="arbiter=bucket archive=file://$SCRATCH/place/bucket" pair_up "$W" sync=fsync || die "the pair does not come up" "$(at a dumont status $W 2>&1)"
OLD=$(get a .lineage)
echo kept >"$PAIR_MOUNT/f"
sync "$PAIR_MOUNT/f"
check "all of it in the archive" at a dumont flush "$W" --to archive
mv "$SCRATCH/place" "$SCRATCH/away"
stop agent-a
ws_die "$(get a .pid)"
umount -l "$PAIR_MOUNT"
check "after a while it counts as silent" wait_until 20 silent
forced
mv "$SCRATCH/away" "$SCRATCH/place"
check "the archive goes on, in a series of its own" at b dumont flush "$W" --to archive
check "which restores to what is here" at b dumont verify "$W" --archive
check "and so does what was before the force, when it is asked for" at b dumont restore "$W" "$SCRATCH/past" --from "file://$SCRATCH/place/bucket" --lineage "$OLD"
check_eq "without what came after it" "$(ls "$SCRATCH/past")" f
start_at agent-a a dumontd --config "$SCRATCH/a/etc/dumontd.conf" --foreground
at a mount.dumont "$W" "$PAIR_MOUNT" >/dev/null 2>&1
joined
check "the marks of the new lineage are its own" test -d "$SCRATCH/place/bucket/arb/$(get a .lineage)"

# --- the holder itself goes on: what it had written by reference, and nobody had synced, is on this machine
W=own
PAIR_LINK=1 pair_up "$W" sync=fsync solo_after=60s || die "the pair does not come up" "$(at a dumont status $W 2>&1)"
stop ctl
head -c 20000000 /dev/urandom >"$SCRATCH/own"
cp "$SCRATCH/own" "$PAIR_MOUNT/own"
pid=$(get a .pid)
pair_link "$W" blackhole >/dev/null
kill -KILL "$pid"
restarted() { [ "$(get a .pid)" != "$pid" ]; }
check "its process was killed, and is there again" wait_until 20 restarted
unheard() { [ "$(at a dumont promote "$W" --force --json 2>&1 | jq .code)" = -4112 ]; }
check "after a while the standby counts as silent" wait_until 20 unheard
check "force" at a dumont promote "$W" --force --yes
check "it is mounted" wait_until 30 mountpoint -q "$PAIR_MOUNT"
check "every byte is there" cmp "$PAIR_MOUNT/own" "$SCRATCH/own"
check_eq "and nothing is listed as incomplete" "$(get a .incomplete_files)" 0
umount "$PAIR_MOUNT"
controller

# --- killed between the record and the store: the next start finishes it
W=torn
pair_up "$W" sync=fsync || die "the pair does not come up" "$(at a dumont status $W 2>&1)"
OLD=$(get a .lineage)
echo kept >"$PAIR_MOUNT/f"
sync "$PAIR_MOUNT/f"
stop ctl
umount "$PAIR_MOUNT"
check "the holder has ended" wait_until 30 not test -S "$SCRATCH/a/run/$W.sock"
check "the standby stops" at b dumont workspace stop "$W"
cp -a --sparse=always "$SCRATCH/b/state/$W" "$SCRATCH/before"
check "and starts" at b dumont workspace start "$W"
check "after a while it counts as silent" wait_until 20 silent
check "force" at b dumont promote "$W" --force --yes
check "it is mounted" wait_until 30 mountpoint -q "$PAIR_MOUNT.b"
NEW=$(get b .lineage)
umount "$PAIR_MOUNT.b"
check "it has ended" wait_until 30 not test -S "$SCRATCH/b/run/$W.sock"
cp "$SCRATCH/b/state/$W/node.state" "$SCRATCH/before/node.state"
rm -r "$SCRATCH/b/state/$W"
mv "$SCRATCH/before" "$SCRATCH/b/state/$W"
check "a store one lineage behind its record starts" at b mount.dumont "$W" "$PAIR_MOUNT.b"
check_eq "in the new lineage" "$(get b .lineage)" "$NEW"
check_eq "with what it had" "$(cat "$PAIR_MOUNT.b/f")" kept
check "and takes writes" bash -c "echo y >$PAIR_MOUNT.b/y && sync $PAIR_MOUNT.b/y"
umount "$PAIR_MOUNT.b"
check "it has ended again" wait_until 30 not test -S "$SCRATCH/b/run/$W.sock"
check "and the store is sound" at b dumont check "$W"
finish
