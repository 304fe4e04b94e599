# faults.sh: what tests/integration/chaos.sh does to a pair. Source after hosts.sh.
#
# fault_KIND does it to $HOLDER, $STANDBY or both, and undo_KIND ends it. In between lies the time until T0 + HOLD_MS, or, if that is empty, until somebody can write. A fault sets T0 (just before) and T1 (when it has
# happened), in microseconds as $EPOCHREALTIME has them, LEASE, as the standby had it at T0, and DEAD: the host that is gone then, if any. draw LO HI sets DRAWN, by the seed.

draw() { DRAWN=$(($1 + (RANDOM * 32768 + RANDOM) % ($2 - $1 + 1))); }
sleep_ms() {
    local s
    printf -v s '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
    sleep "$s"
}
hold_ms() { draw "$1" "$2" && HOLD_MS=$DRAWN; }
# A machine that was lost comes back when the other one serves; one time in four so soon that it may go on itself.
hold_lost() {
    draw 0 3
    HOLD_MS=
    [ "$DRAWN" != 0 ] || hold_ms 100 1500
}
# moment LO HI COMMAND...: the command is the fault itself; a drawn time passes before it.
moment() {
    draw "$1" "$2"
    shift 2
    sleep_ms "$DRAWN"
    LEASE=$(status_of "$STANDBY" .lease_ms)
    T0=${EPOCHREALTIME/[.,]/}
    "$@" || return 1
    T1=${EPOCHREALTIME/[.,]/}
}

KINDS="power kill died process freeze cut cut-out cut-in peers delay loss full-holder full-standby archive ctl handover standby both"

power_off() {
    dumontd local-host link "$1" down && dumontd local-host kill "$1" && DEAD=$1
}
boot() { host_boots "$1" && probe "$1" && host_mounts "$1"; }

# The machine is gone: no FIN, no word. It boots again.
fault_power() { hold_lost && moment 0 1500 power_off "$HOLDER"; }
undo_power() { boot "$HOLDER"; }

# Its processes die, with or without the agent that could say so; the kernel closes their connections.
kill_all() {
    local pid
    pid=$(status_of "$HOLDER" .pid) || return 1
    DEAD=$HOLDER
    on "$HOLDER" sh -c "kill -KILL \$(ps -o ppid= -p $pid) $pid $1"
}
fault_kill() { hold_lost && moment 0 1500 kill_all '$(pidof dumontd)'; }
undo_kill() {
    agent "$HOLDER"
    undo_died
}
fault_died() { hold_lost && moment 0 1500 kill_all; }
undo_died() {
    on "$HOLDER" umount -l $WORK
    host_mounts "$HOLDER"
}
kill_process() { on "$HOLDER" kill -KILL "$(status_of "$HOLDER" .pid)"; }
fault_process() { hold_ms 0 0 && moment 0 1500 kill_process; }
undo_process() { :; }

# All of it stops, around the lease or for much longer.
fault_freeze() { hold_ms 300 5000 && moment 0 1500 dumontd local-host pause "$HOLDER"; }
undo_freeze() { dumontd local-host resume "$HOLDER"; }

# The network: all of the holder's link, one way of it, or only what lies between the two.
fault_cut() { hold_ms 300 5000 && moment 0 1500 dumontd local-host link "$HOLDER" down; }
undo_cut() { dumontd local-host link "$HOLDER" up; }
fault_cut-out() { hold_ms 300 5000 && moment 0 1500 packets "$HOLDER" "out oifname eth0 drop"; }
undo_cut-out() { packets "$HOLDER"; }
fault_cut-in() { hold_ms 300 5000 && moment 0 1500 packets "$HOLDER" "in iifname eth0 drop"; }
undo_cut-in() { packets "$HOLDER"; }
fault_peers() {
    local a
    a=$(on "$HOLDER" getent hosts "$STANDBY" | cut -d' ' -f1)
    hold_ms 300 5000 && moment 0 1500 packets "$HOLDER" "in ip saddr $a drop" "out ip daddr $a drop"
}
undo_peers() { packets "$HOLDER"; }

# A bad link, and the holder is lost meanwhile.
fault_delay() {
    draw 5 150 && hosts_link delay "$DRAWN" && hold_lost && moment 200 2500 power_off "$HOLDER"
}
undo_delay() {
    # the relay is one of those that end with the host
    [ "$HOLDER" = cpu ] || hosts_link pass
    boot "$HOLDER"
}
fault_loss() {
    draw 1 15
    packets "$HOLDER" "in iifname eth0 numgen random mod 100 < $DRAWN drop" "out oifname eth0 numgen random mod 100 < $DRAWN drop" &&
        hold_lost && moment 200 2500 power_off "$HOLDER"
}
undo_loss() { boot "$HOLDER"; }

# A disk fills up, and the holder is lost.
ballast() { on "$1" sh -c 'fallocate -l $(df --output=avail -k /mnt | tail -1)K /mnt/ballast'; }
fault_full-holder() { ballast "$HOLDER" && hold_lost && moment 100 1500 power_off "$HOLDER"; }
undo_full-holder() {
    rm -f "$DISKS/$HOLDER/mnt/ballast"
    boot "$HOLDER"
}
fault_full-standby() { ballast "$STANDBY" && hold_ms 200 3000 && moment 100 1500 power_off "$HOLDER"; }
undo_full-standby() {
    rm -f "$DISKS/$STANDBY/mnt/ballast"
    boot "$HOLDER"
}

# What is neither of them is away, and the holder is lost.
fault_archive() { mv "$SHARED/place" "$SHARED/away" && hold_lost && moment 0 2000 power_off "$HOLDER"; }
undo_archive() {
    boot "$HOLDER" || return 1
    mv "$SHARED/away" "$SHARED/place"
}
fault_ctl() {
    on ctl sh -c 'kill -KILL $(pidof dumontd)' && hold_ms 200 3000 && moment 0 1000 power_off "$HOLDER"
}
undo_ctl() {
    agent ctl
    boot "$HOLDER"
}

# One of the two is lost while the workspace is on its way from one to the other.
fault_handover() {
    draw 0 1
    local who=$HOLDER
    [ "$DRAWN" = 0 ] || who=$STANDBY
    start handover dumontd local-host exec "$HOLDER" dumont handover $WS --grace 0
    hold_lost && moment 0 400 power_off "$who"
}
undo_handover() {
    stop handover KILL
    boot "$DEAD"
}

fault_standby() { hold_ms 200 4000 && moment 0 1500 power_off "$STANDBY"; }
undo_standby() { boot "$STANDBY"; }

# The second one is lost too, before or after it has taken over.
both_off() {
    power_off "$HOLDER" || return 1
    draw 100 2500 && sleep_ms "$DRAWN"
    power_off "$STANDBY"
}
fault_both() { hold_ms 0 0 && moment 0 1500 both_off; }
undo_both() {
    draw 0 1
    local first=$HOLDER last=$STANDBY
    [ "$DRAWN" = 0 ] || first=$STANDBY last=$HOLDER
    host_boots "$first" && probe "$first" || return 1
    host_mounts "$first" & # may have to wait for the other
    local mounts=$!
    draw 0 1500 && sleep_ms "$DRAWN"
    boot "$last"
    wait "$mounts"
}
