#!/bin/bash
# time: 120
# What calls wait for in a pair: the levels of sync= on a link with a long way; the standby away, then solo, then a pair again; no solo with a notice pending or degrade=block;
# after_promotion=readonly; lag_max; agents and controller away. The link is a relay that misbehaves on order.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq

PAIR_LINK=1
get() { at "$1" dumont status "$2" --json | jq -r "$3"; }
# b has on its disk what a had when the call returned
tail_of() { TAIL=$(get a "$1" .tail); }
b_has() { [ "$(get b "$1" .durable)" -ge "$TAIL" ]; }
is() { [ "$(get a "$1" "$2")" = "$3" ]; }
digest_of() { printf '{"cmd":"digest"}\n' | "$BIN/ctl" "$SCRATCH/$1/run/$2.sock" | jq -r .result.digest; }
ends() { start "$1" "${@:2}"; }
done_() { ! alive "$(pid_of "$1")"; }

# --- levels: half a second each way, so what b has is what the call waited for
for level in local fsync write; do
    pair_up $level sync=$level || die "the pair $level does not come up" "$(at a dumont status $level 2>&1)"
    pair_link $level delay 500 >/dev/null
done
M=$SCRATCH/m
sync "$M-local"
tail_of local && wait_until 10 b_has local
# returns_before LEVEL COMMAND...: what it did is not on the standby yet when it returns. Said only if this machine was quick enough to look: five tries.
returns_before() {
    for _ in 1 2 3 4 5; do
        "${@:2}" || return 1
        tail_of "$1"
        b_has "$1" || return 0
    done
    return 1
}
check "sync=local: a sync returns before it is on the standby" returns_before local bash -c "echo x > $M-local/f && sync $M-local/f"
check "sync=local: and gets there" wait_until 10 b_has local
check "sync=fsync: a plain write returns before it is on the standby" returns_before fsync bash -c "echo x > $M-fsync/f"
check "sync=fsync: a sync" sync "$M-fsync/f"
check "sync=fsync: is on the standby when it returns" b_has fsync
check "sync=write: a mkdir" mkdir "$M-write/d"
tail_of write
check "sync=write: is on the standby when it returns" b_has write
for level in local write; do
    pair_link $level pass >/dev/null
    umount "$M-$level"
done
pair_link fsync pass >/dev/null

# --- the standby is away: a sync waits, then solo, then a pair again
pair_up away sync=fsync solo_after=2s || die "the pair does not come up" "$(at a dumont status away 2>&1)"
M=$PAIR_MOUNT
echo before >"$M/before" && sync "$M/before"
at a sh -c "printf '{\"cmd\":\"notice\",\"in_s\":120}\n' | $BIN/ctl $SCRATCH/a/run/away.sock" >/dev/null
pair_link away blackhole >/dev/null
ends waits bash -c "echo solo > $M/solo && sync $M/solo"
check "standby away, notice pending: it waits" wait_until 5 is away '.note | startswith("waiting for b")' true
sleep 3 # longer than solo_after
check "and is not solo after solo_after" is away '.state + " " + (.solo_in_ms | tostring)' "paired 0"
check "the call has not returned" not done_ waits
at a sh -c "printf '{\"cmd\":\"notice\",\"in_s\":0}\n' | $BIN/ctl $SCRATCH/a/run/away.sock" >/dev/null
check "the notice is withdrawn: solo" wait_until 5 is away .state alone
check "the call returns" wait_until 5 done_ waits
check "one copy" is away .one_copy true
check "work goes on" bash -c "echo more > $M/more && sync $M/more"
pair_link away pass >/dev/null
check "the standby is back: a pair again" wait_until 20 pair_in_sync a away
check "two copies" is away .one_copy false
at a dumont flush away --to standby >/dev/null
check_eq "which are equal" "$(digest_of b away)" "$(digest_of a away)"
pair_link away blackhole >/dev/null
check "away again: status counts down" wait_until 5 is away '.note | test("waiting for b, solo in [0-9]+ s")' true
check "and then it is solo by itself" wait_until 10 is away .state alone
pair_link away pass >/dev/null
wait_until 20 pair_in_sync a away || die "no pair again"

# --- degrade=block: for as long as it takes
pair_up block sync=fsync degrade=block solo_after=2s || die "the pair does not come up"
B=$PAIR_MOUNT
pair_link block blackhole >/dev/null
ends blocks bash -c "echo x > $B/f && sync $B/f"
check "degrade=block: it waits" wait_until 5 is block '.note | startswith("waiting for b")' true
sleep 3
check "and goes on waiting after solo_after" is block '.state + " " + (.solo_in_ms | tostring)' "paired 0"
check "the call has not returned" not done_ blocks
pair_link block pass >/dev/null
check "the standby is back: the call returns" wait_until 20 done_ blocks
check "it never was alone" is block .state paired
umount "$B"

# --- lag_max: on a slow link writers wait, so that a loss is bounded
pair_up lag sync=fsync lag_max=1M || die "the pair does not come up"
L=$PAIR_MOUNT
pair_link lag rate 1000000 >/dev/null
head -c 4000000 /dev/urandom >"$SCRATCH/random"
ends lags bash -c "for i in \$(seq 0 61); do tail -c +\$((i * 64000 + 1)) $SCRATCH/random | head -c 64000 > $L/f\$i || exit 1; done"
most=0
while ! done_ lags; do
    n=$(get a lag .standby.lag_bytes)
    [ "$n" -gt "$most" ] && most=$n
done
check "lag_max=1M: at no time more was unacknowledged ($most bytes)" test "$most" -le 1300000
check "though there was enough to be so" test "$most" -ge 500000
check "all was written" test "$(ls "$L" | wc -l)" = 62
pair_link lag pass >/dev/null
umount "$L"

# --- agents and controller are gone: mounts and pair go on
for p in agent-a agent-b ctl; do stop $p KILL; done
check "without agents and controller the mount is there" mountpoint -q "$M"
check "syncs go on" bash -c "for i in \$(seq 50); do echo \$i > $M/c\$i && sync $M/c\$i || exit 1; done"
check "the workspace knows that its arbiter is away" wait_until 5 is away .arbiter_up false
sleep 2 # three leases
check "and it still is a pair" is away '.state + " " + (.standby.in_sync | tostring)' "paired true"
check "with syncs on both" bash -c "echo x > $M/pair && sync $M/pair"
tail_of away
check "on the standby's disk" b_has away
start_at ctl ctl dumontd --config "$SCRATCH/ctl/etc/dumontd.conf" --foreground
for m in a b; do start_at agent-$m $m dumontd --config "$SCRATCH/$m/etc/dumontd.conf" --foreground; done
check "the controller is back" wait_until 10 is away .arbiter_up true
umount "$M"

# --- after_promotion=readonly: look first
PAIR_B=after_promotion=readonly pair_up look sync=fsync || die "the pair does not come up"
R=$PAIR_MOUNT
echo x >"$R/f" && sync "$R/f"
ws_die "$(get a look .pid)"
check "after_promotion=readonly: it is mounted on the standby" wait_until 20 mountpoint -q "$R.b"
check "it can be read" test "$(cat "$R.b/f")" = x
check "and not be written" not bash -c "echo y > $R.b/f"
check "promote opens it" at b dumont promote look
check "it can be written" wait_until 5 bash -c "echo y > $R.b/f && sync $R.b/f"
check "and was read-only by the kernel's word too, which has changed" bash -c "grep ' $R.b ' /proc/self/mountinfo | grep -q ' rw,'"
finish
