#!/bin/bash
# time: 600
# takeover_loop.sh [ROUNDS]: SIGKILL of the workspace process under mixed load, again and again, under the mount: a new process takes it over each time, no error reaches any
# program, nothing is done twice, and what is open goes on working (tests/lib/bin/strict.c and ledger.c judge). `make takeover-loop ROUNDS=1000` runs as many as one likes.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require jq
ROUNDS=${1:-20}
M=$SCRATCH/mnt

ws_create w || die "create"
ws_mount w "$M" >"$SCRATCH/mount.out" 2>&1 || die "mount" "$(cat "$SCRATCH/mount.out")"
mkdir "$M/strict" "$M/load"
start strict "$BIN/strict" "$M/strict" 3
start writer "$BIN/ledger" write --dir "$M/load" --ledger "$SCRATCH/ledger" --clients 3 --sync-every 7 --bulk 4M
wait_until 20 test -s "$SCRATCH/ledger" || die "the writer does not get on"

# kill_it: the process that serves now, whichever that is; it may be one that is just ending, or has not begun
kill_one() {
    local pid
    pid=$(ws_pid w) && [ -n "$pid" ] && kill -KILL "$pid" && wait_until 60 not alive "$pid"
}
kill_it() { wait_until 60 kill_one; }
for ((round = 1; round <= ROUNDS; round++)); do
    sleep "1.$((RANDOM % 10))" # a life long enough to count
    case $((round % 5)) in
    1) dumont snapshot create w "s$round" >/dev/null || not_ok "round $round: snapshot" ;;
    2) dumont snapshot create w "s$round" >/dev/null 2>&1 & snap=$! ;; # killed in the middle of it
    3) kill_it && kill_it ;;                                           # and the successor while it takes over, or soon after
    4) dumont workspace restart w >"$SCRATCH/restart.out" 2>&1 || not_ok "round $round: restart" "$(cat "$SCRATCH/restart.out")" ;;
    esac
    [ $((round % 5)) = 4 ] || kill_it || not_ok "round $round: there is a process to kill"
    [ -n "${snap:-}" ] && wait "$snap"
    snap=
    running strict && running writer || break
done
check_eq "rounds" "$((round - 1))" "$ROUNDS"
check "it serves" wait_until 60 ws_pid w
sleep 1
stop strict
check_eq "every call did what it should, once" "$STATUS" 0 || sed 's/^/#   /' "$SCRATCH/strict.log"
STOP_S=60 stop writer
check_eq "the writer met no error" "$STATUS" 0 || tail -n 5 "$SCRATCH/writer.log" | sed 's/^/#   /'
check "none of its clients was stopped by an error" grep -q " 0 clients stopped by errors, 0 stuck" "$SCRATCH/writer.log"
sed 's/^/# /' "$SCRATCH/strict.log"
tail -n 1 "$SCRATCH/writer.log" | sed 's/^/# /'
check "nothing acknowledged is missing, the tree is a prefix" "$BIN/ledger" judge --dir "$M/load" --ledger "$SCRATCH/ledger"
check "there is one mount" test "$(grep -c " $M " /proc/self/mountinfo)" = 1
check "unmount" ws_umount "$M"
check "the store is sound" dumont check w
finish
