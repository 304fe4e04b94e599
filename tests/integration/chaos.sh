#!/bin/bash
# time: 3000
# chaos.sh [ROUNDS [SEED]]: a pair in three hosts in namespaces with real mounts, under mixed load, and one fault a round (tests/lib/sh/faults.sh), kind and moment drawn by the
# seed. After each: one host serves and is writable, a pair comes about again without a person, both sides have equal digests, and what was acknowledged is there: a ledger outside
# is judged, whose writers run through fault, takeover and healing. A client on each host (tests/lib/bin/client.c) writes and syncs whenever its host serves; its log says how long
# nobody could, and that never two could. In the end a restore from the archive is the workspace. `make chaos ROUNDS=N SEED=S` runs as many as one likes; every kind comes once
# before any comes twice. CHAOS_KINDS="cut freeze": only these. The table of all rounds goes to $REPORT too (build/chaos.txt).
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/hosts.sh"
. "$(dirname "$0")/../lib/sh/faults.sh"
require jq ip nft mkfs.ext4 losetup
ROUNDS=${1:-18}
SEED=${2:-1}
REPORT=${REPORT:-$BUILD/chaos.txt}
read -ra DECK_ALL <<<"${CHAOS_KINDS:-$KINDS}"
DECK=()
LIMIT_S=60
HOLDER=gpu STANDBY=cpu

probe() { start "probe-$1" dumontd local-host exec "$1" "$BIN/client" $WORK "$SHARED/answers" "$1" --pause-us 3000; }
# dumontd of a host, where it was killed
agent() { start "agent-$1" dumontd local-host exec "$1" dumontd --foreground; }

# writer N HOST: begins as soon as there is room, which may take a moment where a disk was full.
writer() {
    local bulk=()
    [ $(($1 % ${BULK_EVERY:-3})) != 0 ] || bulk=(--bulk 4M)
    wait_until 20 on "$2" mkdir -p "$WORK/l$1" &&
        start "writer$1" dumontd local-host exec "$2" "$BIN/ledger" write --dir "$WORK/l$1" --ledger "$SHARED/ledger$1" --clients 4 --sync-every $((1 + $1 * 7 % 20)) \
            --seed $((SEED * 10000 + $1)) "${bulk[@]}"
}
acked() { awk '$1 == "s" || $1 == "b"' "$SHARED/ledger$1" 2>/dev/null | wc -l; }
gets_on() { [ "$(acked "$1")" -ge 5 ]; }

# The first answer after the fault: sets WHO and AT. Of a host that answered before it or was its victim, one to a request made after it.
writable() {
    read -r WHO AT < <(awk -v t0="$T0" -v t1="$T1" -v dead="$DEAD" '{ first = !($4 in seen) && $4 != dead; seen[$4] = 1 }
        $1 > t0 && (first || $2 > t1) { print $4, $1; exit }' "$SHARED/answers") && [ -n "$WHO" ]
}
# Answers of the old holder to requests made after the fault, once the other had taken over.
two_writers() {
    awk -v t1="$T1" -v h="$OLD" '$4 != h { taken = 1 } taken && $4 == h && $2 > t1' "$SHARED/answers"
}

# healed: a pair in sync, of which one serves; sets HOLDER and STANDBY.
healed() {
    local x y
    for x in gpu cpu; do
        [ $x = gpu ] && y=cpu || y=gpu
        status_of $x '.holder and .mountpoint != "" and .standby.in_sync' && status_of $y '.holder | not' && ! on $y mountpoint -q $WORK || continue
        HOLDER=$x STANDBY=$y
        return 0
    done
    return 1
}

next_kind() {
    local i t
    if [ ${#DECK[@]} = 0 ]; then
        RANDOM=$(((SEED + round) % 32768))
        DECK=("${DECK_ALL[@]}")
        for ((i = ${#DECK[@]} - 1; i > 0; i--)); do
            draw 0 "$i"
            t=${DECK[i]} DECK[i]=${DECK[DRAWN]} DECK[DRAWN]=$t
        done
    fi
    KIND=${DECK[0]}
    DECK=("${DECK[@]:1}")
}

wrong() { not_ok "round $round ($KIND, SEED=$SEED): $1" "$2"; }

# Until the fault is over and somebody can write; the next writer begins as soon as one can.
weather() {
    local undone='' end=$((SECONDS + LIMIT_S))
    while [ -z "$undone" ] || [ -z "$WHO" ]; do
        if [ -z "$WHO" ] && writable && [ "$WHO" != "$OLD" ]; then
            writer "$((round + 1))" "$WHO"
        fi
        if [ -z "$undone" ] && { [ -z "$HOLD_MS" ] && [ -n "$WHO" ] || [ -n "$HOLD_MS" ] && [ ${EPOCHREALTIME/[.,]/} -ge $((T0 + HOLD_MS * 1000)) ]; }; then
            "undo_$KIND" || { wrong "the fault can be undone" "$(cat "$SCRATCH"/mount-*.out)"; return 1; }
            undone=1
        fi
        [ $SECONDS -lt $end ] || { wrong "somebody is writable within $LIMIT_S s" "$(tail -n 2 "$SHARED/answers")"; return 1; }
        sleep 0.05
    done
}

# 0 equal, 4 they differ; anything else: no answer, as while an agent finds its way back to the controller.
verified() {
    VERIFY=0
    on ctl dumont verify $WS >"$SCRATCH/verify.out" 2>&1 || VERIFY=$?
    [ $VERIFY = 0 ] || [ $VERIFY = 4 ]
}

# judge_round OUTCOME: what both sides have, and the old writer's tree. Sets ACKED and LOST.
judge_round() {
    LOST=0
    wait_until 30 verified
    [ $VERIFY = 0 ] || { wrong "both sides are equal" "$(tail -n 5 "$SCRATCH/verify.out")"; LOST=1; }
    stop "writer$round"
    case $1:$KIND:$DEAD in
    stays:full*) ;;     # "no space" is what they should meet
    stays:handover:*) ;; # the right to write was given up, and taken back
    stays:*:"$OLD") ;;  # they ended with their host, which was back soon enough
    stays:*) grep -q ' 0 clients stopped by errors, 0 stuck' "$SCRATCH/writer$round.log" || wrong "the holder stayed, so programs met no error" "$(cat "$SCRATCH/writer$round.log")" ;;
    failover:*)
        two_writers >"$SCRATCH/two"
        [ ! -s "$SCRATCH/two" ] || wrong "one writer" "$(head -n 3 "$SCRATCH/two")"
        ;;
    esac
    ACKED=$(acked "$round")
    on "$HOLDER" "$BIN/ledger" judge --dir "$WORK/l$round" --ledger "$SHARED/ledger$round" >"$SCRATCH/judge.out" 2>&1 || {
        LOST=1
        wrong "nothing acknowledged is missing, the tree is a prefix" "$(tail -n 15 "$SCRATCH/judge.out")"
    }
    on "$HOLDER" rm -rf "${WORK:?}/l$round"
    rm -f "$SHARED/ledger$round" "$SCRATCH/writer$round.log"
}

# A pair comes about within seconds; what keeps one that takes long stands in the log.
heals() {
    local h
    wait_until 15 healed && return 0
    echo "# round $round ($KIND, SEED=$SEED): no pair after 15 s"
    hosts_state
    for h in gpu cpu; do on $h dumont status $WS 2>&1 | sed "s/^/# $h: /"; done
    wait_until 105 healed
}

play() {
    local outcome=stays
    OLD=$HOLDER
    RANDOM=$(((SEED * 7919 + round) % 32768))
    [ -n "$(pid_of "writer$round")" ] || writer "$round" "$HOLDER" || { wrong "a writer begins" "$(on "$HOLDER" mkdir -p "$WORK/l$round" 2>&1; on "$HOLDER" dumont status $WS)"; return 1; }
    wait_until 30 gets_on "$round" || { wrong "the writer gets on" "$(cat "$SCRATCH/writer$round.log")"; return 1; }
    WHO='' AT=0 DEAD='' LEASE=0 HOLD_MS= T0=0 T1=0
    : >"$SHARED/answers"
    "fault_$KIND" || { wrong "the fault can be made" "$(dumontd local-host list)"; return 1; }
    weather || return 1
    heals || { wrong "a pair comes about again" "$(cat "$SCRATCH"/mount-*.out; for h in gpu cpu; do on $h dumont status $WS; on $h ps ax; done 2>&1)"; return 1; }
    case $WHO:$HOLDER in
    "$OLD:$OLD") ;;
    "$HOLDER:$HOLDER") outcome=failover ;;
    *) outcome=twice ;; # another one took over after the first answer
    esac
    [ "$KIND" != both ] || outcome=both
    [ -n "$(pid_of "writer$((round + 1))")" ] || writer "$((round + 1))" "$HOLDER"
    judge_round $outcome
    echo "$KIND $outcome $(((AT - T0) / 1000)) $LEASE $ACKED $LOST" >>"$SCRATCH/results"
    printf '# round %d %s: %s, writable on %s after %d ms (lease %s ms), %d syncs acknowledged\n' "$round" "$KIND" $outcome "$WHO" $(((AT - T0) / 1000)) "$LEASE" "$ACKED"
}

# kind and outcome, count, percentiles of the time from the fault to the first answer, what was acknowledged and lost
table() {
    sort -k1,2 -k3n "$SCRATCH/results" | awk '
    function row(name, a, n,   i, j, t) {
        for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j - 1] > a[j]; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
        printf "%-26s %5d %8d %8d %8d %8d %10d %7d\n", name, n, a[int((n + 1) / 2)], a[int(n * 0.9 + 0.999)], a[int(n * 0.99 + 0.999)], a[n], acked[name], lost[name]
    }
    function add(name) { n[name]++; v[name, n[name]] = $3; acked[name] += $5; lost[name] += $6; if (n[name] == 1) order[++rows] = name }
    {
        add($1 " " $2)
        if ($2 == "failover") { all[++f] = $3; acked["failovers"] += $5; lost["failovers"] += $6; beyond[f] = $3 - $4 }
        if ($2 == "failover" && $1 ~ /^(power|kill|freeze|cut|loss|delay|archive)$/) { lone[++g] = $3; acked["machine or link lost"] += $5; lost["machine or link lost"] += $6 }
    }
    END {
        printf "%-26s %5s %8s %8s %8s %8s %10s %7s\n", "fault, outcome", "count", "p50 ms", "p90", "p99", "max", "syncs", "losses"
        for (r = 1; r <= rows; r++) { split("", a); for (i = 1; i <= n[order[r]]; i++) a[i] = v[order[r], i]; row(order[r], a, n[order[r]]) }
        if (g) row("machine or link lost", lone, g)
        if (f) { row("failovers", all, f); row("... less the lease", beyond, f) }
    }'
}

archive_is_right() {
    on "$HOLDER" dumont flush $WS >/dev/null && dumont restore $WS "$SCRATCH/restored" --from "$ARCHIVE" >/dev/null || return 1
    "$BIN/treedigest" -l "$SCRATCH/restored" >"$SCRATCH/r" && on "$HOLDER" "$BIN/treedigest" -l $WORK >"$SCRATCH/h" && cmp "$SCRATCH/r" "$SCRATCH/h"
}

HOSTS_DISK_MB=6000 hosts_up solo_after=2s
probe gpu
probe cpu
echo "# $ROUNDS rounds, SEED=$SEED, $(nproc) cores"
for ((round = 1; round <= ROUNDS; round++)); do
    next_kind
    play || break
done
check_eq "rounds played" $((round - 1)) "$ROUNDS"
if [ -s "$SCRATCH/results" ]; then
    table | tee "$REPORT"
    check_eq "rounds with a loss, or sides that differ" "$(awk '{ n += $6 } END { print n + 0 }' "$SCRATCH/results")" 0
fi
for ((i = 1; i <= round; i++)); do stop "writer$i"; done
stop probe-gpu
stop probe-cpu
[ "$FAILURES" = 0 ] && check "the archive restores to the workspace" archive_is_right
[ "$FAILURES" = 0 ] && on "$HOLDER" umount $WORK
finish
