#!/bin/bash
# time: 200
# Every verb of `dumont` on one machine: what it prints, that --json parses, its exit code when it works and when it does not, and that each error says what to do.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require jq script

M=$SCRATCH/mnt
ARCHIVE=$SCRATCH/archive
mkdir "$ARCHIVE"
digest() { "$BIN/treedigest" "${1:-$M}" | head -1; }

# prints NAME COMMAND...: the command works and prints one JSON value (and nothing else) with --json.
json_of() {
    local name=$1
    shift
    check_status "$name --json: exit 0" 0 "$@" --json
    check "$name --json: one JSON value" bash -c 'jq -e -s "length == 1" "$1" >/dev/null' - "$SCRATCH/.check.out"
}
# check_status, but with stdout and stderr apart: $SCRATCH/.check.out, .check.err
check_status() {
    local name=$1 want=$2 status=0
    shift 2
    "$@" >"$SCRATCH/.check.out" 2>"$SCRATCH/.check.err" || status=$?
    check_eq "$name" "exit $status" "exit $want" && return 0
    tail -n 20 "$SCRATCH/.check.out" "$SCRATCH/.check.err" | sed 's/^/#   /'
    return 1
}
# fails NAME CODE SENTENCE COMMAND...: that exit code, "dumont: SENTENCE..." and a line that says what to do; the same as JSON.
fails() {
    local name=$1 code=$2 text=$3
    shift 3
    check_status "$name: exit $code" "$code" "$@"
    check "$name: the sentence" grep -q "^dumont: .*$text" "$SCRATCH/.check.err" || sed 's/^/#   /' "$SCRATCH/.check.err"
    check "$name: what to do" grep -q '^  [^ ]' "$SCRATCH/.check.err" || sed 's/^/#   /' "$SCRATCH/.check.err"
    check "$name: nothing on stdout" test ! -s "$SCRATCH/.check.out"
    check_status "$name --json: exit $code" "$code" "$@" --json
    check "$name --json: an object with error and hint" jq -e '(.error | length > 0) and (.hint | length > 0)' "$SCRATCH/.check.err" || sed 's/^/#   /' "$SCRATCH/.check.err"
}

# --- usage
check_status "no verb: exit 1" 1 dumont
check_status "help" 0 dumont --help
check_status "an unknown verb: exit 1" 1 dumont frobnicate
for v in status workspace snapshot rollback restore receipt heal flush handover promote fence check verify log doctor node; do
    check_status "$v --help" 0 dumont "$v" --help
    check "$v is in the man page" grep -q "^\.It Cm $v" "$ROOT/docs/man/dumont.1"
    check_status "$v with a word that is none: exit 1" 1 dumont "$v" --no-such-word
done

# --- nothing is there
fails "status of an unknown workspace" 3 'there is no workspace "nosuch"' dumont status nosuch
fails "show" 3 'there is no workspace "nosuch"' dumont workspace show nosuch
fails "set" 3 'there is no workspace "nosuch"' dumont workspace set nosuch quota=1G
fails "remove" 3 'there is no workspace "nosuch"' dumont workspace remove nosuch --yes
fails "stop" 3 'there is no workspace "nosuch"' dumont workspace stop nosuch
fails "snapshot list" 3 'there is no workspace "nosuch"' dumont snapshot list nosuch
fails "rollback" 3 'there is no workspace "nosuch"' dumont rollback nosuch one
fails "flush" 3 'there is no workspace "nosuch"' dumont flush nosuch
fails "handover" 3 'there is no workspace "nosuch"' dumont handover nosuch
fails "promote" 3 'there is no workspace "nosuch"' dumont promote nosuch
fails "fence" 3 'there is no workspace "nosuch"' dumont fence nosuch
fails "check" 3 'there is no workspace "nosuch"' dumont check nosuch
fails "verify --archive" 3 'there is no workspace "nosuch"' dumont verify nosuch --archive
fails "log" 3 'there is no workspace "nosuch"' dumont log nosuch
fails "restore" 3 'there is no workspace "nosuch"' dumont restore nosuch "$SCRATCH/r"
fails "a name that is none" 1 'is not a name of a workspace' dumont status ../x
fails "receipt of a file elsewhere" 3 'is not in a mounted Dumont workspace' dumont receipt /etc/passwd
fails "node list without dumontd" 3 'cannot reach dumontd' dumont node list
fails "verify without dumontd" 3 'cannot reach dumontd' dumont verify w
json_of "status of nothing" dumont status
json_of "list of nothing" dumont workspace list

# --- workspace
fails "create with a bad option" 1 "unknown option 'sinc'" dumont workspace create w sinc=1
json_of "create" dumont workspace create w "archive=file://$ARCHIVE"
check "it says where" jq -e --arg s "$DUMONT_STATE/w" '.name == "w" and .store == $s' "$SCRATCH/.check.out"
fails "create again" 2 'exists already' dumont workspace create w
json_of "list" dumont workspace list
check "it is in the list, not running" jq -e '.[0].name == "w" and .[0].running == false' "$SCRATCH/.check.out"
json_of "show" dumont workspace show w
check_eq "show has the key" "$(jq -r .archive "$SCRATCH/.check.out")" "file://$ARCHIVE"
json_of "set" dumont workspace set w quota=1G
check_eq "set shows the result" "$(jq -r .quota "$SCRATCH/.check.out")" 1G
check_status "an empty value takes the key away" 0 dumont workspace set w quota=
check "it is gone" bash -c '! dumont workspace show w | grep -q quota'
fails "set with a bad value" 1 'option quota' dumont workspace set w quota=much
fails "not running: snapshot" 3 'w is not running on this machine' dumont snapshot create w one
fails "not running: flush" 3 'w is not running on this machine' dumont flush w
json_of "not running: status" dumont status w
check_eq "not running: status says so" "$(jq -r .state "$SCRATCH/.check.out")" "not running here"
# a socket that nobody serves any more
python3 -c 'import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1])' "$DUMONT_RUN/w.sock"
fails "a stale socket: flush" 3 'w is not running on this machine' dumont flush w
check "a stale socket: the list does not call it running" bash -c "dumont workspace list --json | jq -e '.[0].running == false'"
check "mount" ws_mount w "$M"

# --- what runs
bash -c "cd $M && mkdir d && echo one > d/a && echo two > b && ln b c && head -c 3000000 /dev/urandom > big && sync big"
json_of "status" dumont status w
check "status has no error of the archive" jq -e '.holder and .one_copy and .archive.error == "" and .archive.error_since_ns == 0' "$SCRATCH/.check.out"
check_status "status for people" 0 dumont status w
check "it is one screen" test "$(wc -l <"$SCRATCH/.check.out")" -le 24
check "it says that there is one copy" grep -q 'alone (one copy)' "$SCRATCH/.check.out"
json_of "status of all" dumont status
check "set on a running workspace says when it takes effect" bash -c "dumont workspace set w quota=2G | grep -q 'when w is started again' && dumont workspace set w quota="
check_status "status --watch goes on" 124 timeout 3 dumont status w --watch --json
check "and prints one value each time" bash -c "jq -s -e 'length >= 2' '$SCRATCH/.check.out'"
json_of "snapshot create" dumont snapshot create w one "a note"
before=$(digest)
fails "snapshot create again" 2 'there is a snapshot "one" already' dumont snapshot create w one
fails "snapshot create .bad" 2 'cannot be the name of a snapshot' dumont snapshot create w .bad
json_of "snapshot list" dumont snapshot list w
check "it has the note" jq -e '.[0].name == "one" and .[0].note == "a note" and .[0].time_ns > 0' "$SCRATCH/.check.out"
json_of "snapshot show" dumont snapshot show w one
fails "snapshot show nosuch" 2 'no snapshot "nosuch"' dumont snapshot show w nosuch
check_status "diff without changes: exit 0" 0 dumont snapshot diff w one
bash -c "cd $M && rm d/a && echo three > b"
check_status "diff with changes: exit 4" 4 dumont snapshot diff w one --json
check "diff --json" jq -e 'map(.kind + .path) | index("D/d/a") and index("M/b")' "$SCRATCH/.check.out"
fails "diff with an unknown snapshot" 2 'no snapshot "nosuch"' dumont snapshot diff w nosuch
json_of "rollback --dry-run" dumont rollback w one --dry-run
check_eq "it would change three files" "$(jq .changed "$SCRATCH/.check.out")" "$(jq '.changes | length' "$SCRATCH/.check.out")"
check_eq "a dry run names no snapshot" "$(jq -r .saved_as "$SCRATCH/.check.out")" ""
json_of "rollback" dumont rollback w one
check_eq "the tree is back" "$(digest)" "$before"
fails "rollback to nosuch" 2 'no snapshot "nosuch"' dumont rollback w nosuch
fails "rollback of a path that never was" 2 'nosuch' dumont rollback w one /nosuch/file
fails "snapshot delete nosuch" 2 'there is no snapshot "nosuch"' dumont snapshot delete w nosuch
json_of "snapshot delete" dumont snapshot delete w one
json_of "receipt" dumont receipt "$M/b" "$M/big"
check "receipt: two files, journal durable" jq -e 'length == 2 and .[1].journal == "durable"' "$SCRATCH/.check.out"
fails "receipt of a file that is not there" 2 'No such file' dumont receipt "$M/nosuch"
fails "heal of a file that is whole" 2 'is not incomplete' dumont heal "$M/b"
json_of "flush" dumont flush w
json_of "flush --to archive" dumont flush w --to archive
check "receipt: stored in the archive" bash -c "dumont receipt '$M/b' --json | jq -e '.[0].archive == \"stored and verified\"'"
fails "flush to a standby that is not configured" 1 'w has no standby' dumont flush w --to standby
fails "handover without a standby" 2 'needs a holder with an in-sync standby' dumont handover w
fails "promote of a holder" 2 'only a standby can be promoted' dumont promote w
json_of "log" dumont log w
check "log: records in order, the newest last" jq -e 'length > 5 and (map(.seq) | . == sort) and (.[-1].time_ns > 0)' "$SCRATCH/.check.out"
check_eq "log --last" "$(dumont log w --last 3 | wc -l)" 3
check_eq "log --from" "$(dumont log w --from 3 --json | jq '.[0].seq')" 3
check "log: an operation can be read" bash -c "dumont log w --all | grep -i 'unlink' | grep -qw a"
check_eq "log --incomplete: nothing" "$(dumont log w --incomplete --json)" "[]"
check_status "log --last x: exit 1" 1 dumont log w --last x
check "times are shown in the user's zone" bash -c 'a=$(TZ=UTC dumont log w --last 1) b=$(TZ=Asia/Tokyo dumont log w --last 1); test -n "$a" && test "$a" != "$b"'
json_of "verify --archive" dumont verify w --archive
check "it is equal" jq -e '.equal and .here == .there and (.here | length == 64)' "$SCRATCH/.check.out"
check "and leaves no snapshot" bash -c "dumont snapshot list w --json | jq -e 'map(.name) | all(startswith(\"before-rollback\"))'"
check "and nothing in /var/tmp" bash -c "! ls -d /var/tmp/dumont-verify-* 2>/dev/null"
check "status says when a restore was proved" bash -c "dumont status w | grep -q 'last proved'"
fails "check of a workspace that runs" 2 'in use' dumont check w
fails "remove of a workspace that runs" 2 'w is running' dumont workspace remove w --yes
fails "stop of a workspace that is mounted" 2 'w is mounted on' dumont workspace stop w

# --- while somebody writes, equal copies are found equal
start writer bash -c "i=0; while :; do i=\$((i + 1)); echo \$i > $M/w.\$((i % 20)); done"
check "verify --archive while somebody writes" dumont verify w --archive
stop writer

# --- fence: nothing is written any more, and promote takes it back
json_of "fence" dumont fence w
check "writes are refused" not bash -c "echo x > $M/fenced"
check "reads go on" test -s "$M/big"
fails "fence again" 2 'only a holder can be fenced' dumont fence w
json_of "promote takes it back" dumont promote w
check "writes go on" wait_until 5 bash -c "echo x > $M/after"

# --- progress: a terminal sees it after a second, a log learns what is waited for
dumont flush w --to archive >/dev/null # idle: or it makes the directory again, in between
mv "$ARCHIVE" "$ARCHIVE.away" && echo file >"$ARCHIVE"
echo waits >"$M/waits"
check_status "a flush to an archive that is away waits" 124 timeout 5 dumont flush w --to archive
check "and says once what for" bash -c "test \"\$(grep -c 'waiting for the archive' '$SCRATCH/.check.err')\" = 1"
timeout 5 script -qec "timeout 3 dumont flush w --to archive" "$SCRATCH/tty" >/dev/null 2>&1
check "on a terminal it is drawn, with the time" grep -aq 'waiting for the archive.*s)' "$SCRATCH/tty"
check "status says since when and why" bash -c "dumont status w | grep -q 'failing since'"
rm "$ARCHIVE" && mv "$ARCHIVE.away" "$ARCHIVE"
check "when it is back, all arrives" dumont flush w --to archive
timeout 30 script -qec "dumont verify w --archive" "$SCRATCH/tty" >/dev/null 2>&1
check "quick commands draw nothing" bash -c "! timeout 10 script -qec 'dumont snapshot list w' /dev/stdout | grep -aq '\[K'"

# --- an archive that cannot be used is no healthy one
ln -s "$BUILD/mount.dumont" "$SCRATCH/umount.dumont"
check "unmount" "$SCRATCH/umount.dumont" "$M"
check "unmounted by hand: says so" bash -c "dumont status w | grep -q 'unmounted or stopped by hand'"
json_of "check" dumont check w
check_eq "check found nothing" "$(cat "$SCRATCH/.check.out")" "[]"
dumont workspace create bad "archive=file://$SCRATCH/bad-archive" node=has/slash >/dev/null
check "a node name that cannot stand in a key: it mounts all the same" ws_mount bad "$SCRATCH/bad"
check "status says what is wrong" wait_until 5 bash -c "dumont status bad --json | jq -e '.archive.error | contains(\"node name\")'"
fails "flush says it, too" 2 'the archive of bad cannot be used' dumont flush bad --to archive
check "unmount it" ws_umount "$SCRATCH/bad"

# --- doctor, remove
json_of "doctor" dumont doctor
check "doctor looked at the disk" jq -e 'map(.check) | index("disk") and index("fuse")' "$SCRATCH/.check.out"
fails "remove without --yes" 1 'this deletes workspace w' dumont workspace remove w
json_of "remove" dumont workspace remove w --yes
check "its store is gone" test ! -e "$DUMONT_STATE/w"
check "the archive is not" test -d "$ARCHIVE/node"
json_of "a workspace from the archive" dumont workspace create w --from "file://$ARCHIVE"
check "mount it" ws_mount w "$M"
check_eq "with its content" "$(cat "$M/waits")" waits
check "unmount at the end" ws_umount "$M"
finish
