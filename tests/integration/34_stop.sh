#!/bin/bash
# time: 160
# A standby that is stopped in an orderly way holds nobody up, stays stopped, and comes back when it is told; the same for a machine that was promoted and unmounted.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq

ln -s "$BUILD/mount.dumont" "$SCRATCH/umount.dumont"
pair_up w sync=fsync solo_after=60s || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT
B=$PAIR_MOUNT.b
get() { at "$1" dumont status w --json | jq -r "$2"; }
runs() { at "$1" dumont workspace list --json | jq -e '.[] | select(.name == "w") | .running' >/dev/null; }
started() { grep -c 'workspace w: started its holder' "$SCRATCH/agent-b.log"; }
# Returns when dumontd on b has looked at all it may start: it has started two new standbys, one after the other.
PROBES=0
agent_round() {
    local i name
    for i in 1 2; do
        name=probe$((PROBES++))
        at b dumont workspace create $name role=standby "listen=127.0.0.1:$((PAIR_PORT++))" "arbiter=controller://127.0.0.1:$CTL_PORT" >/dev/null
        wait_until 20 grep -q "workspace $name: started its holder" "$SCRATCH/agent-b.log" || return 1
    done
}
now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# --- what each says of itself, before
check "the standby's status: role" bash -c "[ '$(get b .state)' = standby ] && [ '$(get b .holder)' = false ]"
at b dumont status w >"$SCRATCH/status"
check "it names its holder" grep -q '^  holder      a: received' "$SCRATCH/status"
check "it does not speak of one copy, or of no standby" not grep -q 'one copy\|standby     ' "$SCRATCH/status"
check_status "snapshot on a standby: exit 2" 2 at b dumont snapshot create w x
check_status "rollback on a standby: exit 2" 2 at b dumont rollback w --to now
check_status "flush on a standby: exit 2" 2 at b dumont flush w --to standby
check_status "fence on a standby: exit 2" 2 at b dumont fence w
check_eq "it says how a standby is stopped" "$(at b dumont fence w 2>&1 | grep -c 'dumont workspace stop')" 1
check_status "a holder that is mounted cannot be stopped: exit 2" 2 at a dumont workspace stop w
check_status "removing a standby that runs: exit 2" 2 at b dumont workspace remove w --yes

# --- stop: the holder goes on at once, though solo_after is a minute
check "stop the standby" at b dumont workspace stop w
t0=$(now_ms)
echo one >"$M/f"
sync "$M/f"
ms=$(($(now_ms) - t0))
check "a sync right after it does not wait for solo_after ($ms ms)" test "$ms" -lt 20000
check_eq "the holder is alone, by the arbiter" "$(get a .one_copy)" true
check "it says that it has one copy" bash -c "DUMONT_ETC=$SCRATCH/a/etc DUMONT_RUN=$SCRATCH/a/run DUMONT_STATE=$SCRATCH/a/state dumont status w | grep -q 'alone (one copy)'"
before=$(started)
check_eq "the standby is stopped" "$(at b dumont status w --json | jq -r '.state, .stopped' | tr '\n' ' ')" "not running here true "
check "dumontd looks at what it may start" agent_round
check_eq "dumontd does not start it again" "$(started)" "$before"
check_status "stopping it again is no error" 0 at b dumont workspace stop w
check_status "handover to nobody: exit 2" 2 at a dumont handover w
check_eq "it says when to try again" "$(at a dumont handover w 2>&1 | grep -c 'then try again')" 1

# --- start
check "start it" at b dumont workspace start w
check "the pair is in sync again" wait_until 30 pair_in_sync a w
check "it gets what was written meanwhile" at a dumont flush w --to standby
check_eq "to the last record" "$(get b .applied)" "$(get a .applied)"
check_status "starting what runs is no error" 0 at b dumont workspace start w
check_status "starting what dumontd does not start: exit 0 while it is mounted" 0 at a dumont workspace start w

# --- handover: returns when the other one holds it
check_eq "hand it over" "$(at a dumont handover w --json | jq -r .text)" "handed over to b"
check_eq "when it returns, this one is a standby" "$(get a .state)" standby
check "the other one mounts it" wait_until 20 mountpoint -q "$B"
check_eq "with everything" "$(cat "$B/f")" one
check "in sync the other way round" wait_until 30 pair_in_sync b w

# --- unmounted by hand where dumontd would start it: it stays unmounted until it is mounted
check "unmount it" at b "$SCRATCH/umount.dumont" "$B"
check "its process ends" wait_until 30 not runs b
before=$(started)
check "dumontd looks again" agent_round
check_eq "dumontd leaves it alone" "$(started)" "$before"
check "it is not mounted again" not mountpoint -q "$B"
check "status says why" bash -c "DUMONT_ETC=$SCRATCH/b/etc DUMONT_RUN=$SCRATCH/b/run DUMONT_STATE=$SCRATCH/b/state dumont status w | grep -q 'by hand'"
check "mount it" at b mount.dumont w "$B"
check "the mark is gone" not test -e "$SCRATCH/b/run/w.stopped"
check_eq "it is served" "$(cat "$B/f")" one
check "in sync again" wait_until 30 pair_in_sync b w

# --- promote: the holder has ended in an orderly way, so nobody takes over until a person says so
deaths() { api /api/v1/events | jq '[.events[] | select(.kind == "process-gone" and .node == "b")] | length'; }
check_status "promote a holder: exit 2" 2 at b dumont promote w
agent_knows() { api /api/v1/workspaces/w | jq -e '.nodes.b.holder == true' >/dev/null; }
check "its agent knows that it holds it" wait_until 20 agent_knows
before=$(deaths)
seen=$(wc -l <"$SCRATCH/agent-b.log")
check "unmount the holder" at b "$SCRATCH/umount.dumont" "$B"
check "it ends" wait_until 30 not runs b
agent_saw() { tail -n +$((seen + 1)) "$SCRATCH/agent-b.log" | grep -q 'workspace w: its holder'; }
check "its agent sees it" wait_until 20 agent_saw
check_eq "the standby does not take over by itself" "$(get a .state)" standby
check_eq "promote it" "$(at a dumont promote w --json | jq -r .text)" promoted
check_eq "it holds the workspace, alone" "$(get a .state)" alone
check "and mounts it" wait_until 20 mountpoint -q "$M"
check_eq "with everything" "$(cat "$M/f")" one
check "start the other one" at b dumont workspace start w
check "it joins as standby" wait_until 60 pair_in_sync a w
check_eq "its end by umount was no death to anybody: word of one could overtake what it says itself" "$(deaths)" "$before"

# --- verify: by way of the controller, also while somebody writes
start writer bash -c "i=0; while :; do i=\$((i + 1)); echo \$i > $M/w.\$((i % 20)); done"
for i in 1 2 3; do check_eq "the copies are equal, $i" "$(at ctl dumont verify w --json | jq '.equal and .here == .there')" true; done
stop writer
check_eq "and leaves no snapshot" "$(at a dumont snapshot list w --json | jq -c '[.[].name | select(startswith("verify"))]')" "[]"
check_eq "node list" "$(at ctl dumont node list --json | jq -c '[.[].name] | sort')" '["a","b"]'

# --- the end
check "stop the standby" at b dumont workspace stop w
check "unmount" at a "$SCRATCH/umount.dumont" "$M"
check "remove the stopped one" at b dumont workspace remove w --yes
check "no mark is left" not test -e "$SCRATCH/b/run/w.stopped"
finish
