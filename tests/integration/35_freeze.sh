#!/bin/bash
# time: 200
# Who uses the mount when a handover takes it away: waited for, told; stopped with --freeze, never ended, and let go on when the handover fails or the process that does it dies.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq setsid

state() { awk '$1 == "State:" { print $2 }' "/proc/$(pid_of "$1")/status"; }
stopped() { [ "$(state "$1")" = T ]; }
goes_on() { alive "$(pid_of "$1")" && not stopped "$1"; }
all() { local p=$1 w && shift && for w; do $p "$w" || return 1; done; }
grows() { local n && n=$(wc -c <"$1") && wait_until 20 eval "[ \$(wc -c <'$1') -gt $n ]"; }
users() { jq -r --argjson pid "$(pid_of "$2")" ".users[] | select(.pid == \$pid) | .$3" "$1"; }

PAIR_LINK=1 pair_up w sync=fsync solo_after=3s || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT
cp "$(command -v sleep)" "$M/program"

# in a session of its own each, as started elsewhere
start writer setsid bash -c "exec 5>>$M/open; i=0; while echo \$((i++)) >&5; do sync $M/open; done 2>&1; echo \"bash: \$?\"; exec sleep 1000"
start cwd setsid env -C "$M" sleep 1000
start exe setsid "$M/program" 1000
start before setsid sleep 1000 9>"$M/before"
start other setsid sleep 1000
check "the writer writes" wait_until 10 test -s "$M/open"
kill -STOP "$(pid_of before)"
check "one was stopped before" wait_until 5 stopped before

# --- no handover: nobody is waited for, or stopped
check_status "no such request: exit 1" 1 dumont handover w --grace soon
check_status "nothing to hand over: exit 2" 2 at b dumont handover w --freeze
check "all that ran run" all goes_on writer cwd exe other

# --- the link is lost while it is under way: they are stopped, and go on. A sync that waits for the standby is one in the kernel, which cannot stop before it returns.
check "cut the link" pair_link w blackhole
start fails env DUMONT_ETC="$SCRATCH/a/etc" DUMONT_RUN="$SCRATCH/a/run" dumont handover w --freeze --grace 0
check "they are stopped meanwhile" wait_until 20 all stopped cwd exe
check "the handover fails" wait_until 60 not running fails
stop fails
check_eq "with exit 2" "$STATUS" 2
check "it says that they go on" grep -q 'were stopped for it go on' "$SCRATCH/fails.log"
check "all that ran run" wait_until 10 all goes_on writer cwd exe other
check "the one stopped before stays stopped" stopped before
check "the writer goes on without the standby" grows "$M/open"
check "no list is left" not test -e "$SCRATCH/a/run/w.frozen"

# --- the workspace's process dies in the middle: its successor lets them go on
check "the link is back" pair_link w pass
check "in sync again" wait_until 60 pair_in_sync a w
check "cut the link" pair_link w blackhole
start dies env DUMONT_ETC="$SCRATCH/a/etc" DUMONT_RUN="$SCRATCH/a/run" dumont handover w --freeze --grace 0
check "they are stopped" wait_until 20 all stopped cwd exe
for p in $(workspace_pids); do
    [ "$(cat "/proc/$p/comm")" = dumontfs ] && grep -qzF "DUMONT_RUN=$SCRATCH/a/" "/proc/$p/environ" && kill -KILL "$p"
done
check "they go on" wait_until 60 all goes_on writer cwd exe other
check "the one stopped before stays stopped" stopped before
stop dies
check "the link is back" pair_link w pass
check "in sync again" wait_until 60 pair_in_sync a w
check "the writer writes" grows "$M/open"

# --- it happens, by way of the HTTP API
check "hand over" eval "api -X POST -H 'Content-Type: application/json' -d '{\"freeze\":true,\"grace_s\":0}' /api/v1/workspaces/w/handover >$SCRATCH/answer"
check "those who use the mount are stopped" all stopped writer cwd exe before
check "and only those" goes_on other
check_eq "told with what they use: a file" "$(users "$SCRATCH/answer" writer '| .frozen, .file' | tr '\n' ' ')" "true $M/open "
check_eq "a working directory" "$(users "$SCRATCH/answer" cwd file)" "$M"
check_eq "a program" "$(users "$SCRATCH/answer" exe command)" "$M/program 1000"
check_eq "the one that was stopped is told so" "$(users "$SCRATCH/answer" before '| .frozen, .was_stopped' | tr '\n' ' ')" "false true "
check "no list is left" not test -e "$SCRATCH/a/run/w.frozen"
check "the other one serves" wait_until 20 mountpoint -q "$M.b"

# --- continued, they meet a clear error, also when the workspace is back at the same place
kill -CONT -- "-$(pid_of writer)"
check "what is open gives an error" wait_until 10 grep -q 'Transport endpoint is not connected' "$SCRATCH/writer.log"
check "in sync the other way" wait_until 60 pair_in_sync b w
# from a shell that has its working directory there, and one between the two
check "hand it back" at b bash -c "cd $M.b && echo \$\$ >$SCRATCH/pid && (dumont handover w --freeze >$SCRATCH/back; exit \$?); exit \$?"
check "who asks, and what it was started by, is not stopped" grep -q "^ *$(cat "$SCRATCH/pid")  runs .*$M.b\$" "$SCRATCH/back"
check "it is mounted here again" wait_until 20 mountpoint -q "$M"
check "who was stopped stays stopped" all stopped cwd exe before
check "a directory from before is an error" not test -e "/proc/$(pid_of cwd)/cwd/open"
check "the same by its name is not" test -s "$M/open"
for w in writer cwd exe before; do stop $w KILL; done

# --- the grace time: one that lets go by itself is waited for and meets nothing
check "in sync" wait_until 60 pair_in_sync a w
start short setsid bash -c "exec 5>$M/short; sleep 2; echo done >&5 || echo failed"
check "it has it open" wait_until 5 test -e "$M/short"
check_eq "nobody uses it any more when it goes" "$(at a dumont handover w --json --grace 60 | jq -c .users)" "[]"
check "the file is whole" wait_until 20 grep -qx "done" "$M.b/short"
check_eq "without an error" "$(cat "$SCRATCH/short.log")" ""
finish
