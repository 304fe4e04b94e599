#!/bin/bash
# time: 600
# kill_loop.sh [ROUNDS]: SIGKILL of holder and workspace process under mixed load, again and again; each time the workspace is mounted again and judged: nothing acknowledged is
# missing, the tree is a prefix. (What the holder does when only the process dies: takeover_loop.sh.) `make kill-loop ROUNDS=1000` runs as many as one likes.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require jq
ROUNDS=${1:-50}
M=$SCRATCH/mnt

ws_create w || die "create"
lost=0 acked=0
for ((round = 1; round <= ROUNDS; round++)); do
    ws_mount w "$M" >"$SCRATCH/mount.out" 2>&1 || die "round $round: mount" "$(cat "$SCRATCH/mount.out")"
    if [ -n "${last:-}" ]; then
        if ! "$BIN/ledger" judge --dir "$M/$last" --ledger "$SCRATCH/$last.ledger" >"$SCRATCH/judge.out" 2>&1; then
            lost=$((lost + 1))
            not_ok "round $((round - 1))"
            sed 's/^/#   /' "$SCRATCH/judge.out"
        fi
        rm -rf "${M:?}/$last" "$SCRATCH/$last.ledger"
    fi
    last=r$round
    mkdir "$M/$last"
    bulk=()
    [ $((round % 3)) = 0 ] && bulk=(--bulk 4M)
    # from inside the mount, so that a writer meets the dead filesystem and not the empty directory below it
    start "writer$round" env -C "$M/$last" "$BIN/ledger" write --dir . --ledger "$SCRATCH/$last.ledger" --clients 4 --sync-every $((3 + round % 20)) --seed "$round" "${bulk[@]}"
    wait_until 10 grep -q '^s' "$SCRATCH/$last.ledger" || die "round $round: no sync was acknowledged"
    sleep "0.$((RANDOM % 6))$((RANDOM % 10))"
    # three of them at a time: what snapshots hold would fill the disk of a long run
    [ $((round % 7)) = 0 ] && dumont snapshot create w "s$round" >/dev/null
    [ $((round % 7)) = 0 ] && [ "$round" -gt 21 ] && dumont snapshot delete w "s$((round - 21))" >/dev/null
    ws_crash w || die "round $round: the dead mount stays"
    stop "writer$round"
    acked=$((acked + $(grep -c '^s' "$SCRATCH/$last.ledger")))
done
ws_mount w "$M" || die "last mount"
"$BIN/ledger" judge --dir "$M/$last" --ledger "$SCRATCH/$last.ledger" >"$SCRATCH/judge.out" 2>&1 || { lost=$((lost + 1)); not_ok "last round" "$(tail -3 "$SCRATCH/judge.out")"; }
check "unmount" ws_umount "$M"
check "the store is sound" dumont check w
check_eq "rounds with a loss or a state that is no prefix, of $ROUNDS ($acked syncs acknowledged)" "$lost" 0
finish
