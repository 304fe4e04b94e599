# pair.sh: two "machines" a and b and a controller on this one, each with directories of its own below $SCRATCH, talking over loopback with real TLS. No namespaces: for tests
# and benchmarks that need no network faults. Source after lib.sh and mounts.sh.
#
#   pair_up NAME [KEY=VALUE of the holder...]   makes and mounts workspace NAME on a ($PAIR_MOUNT), standby on b; waits until in sync
#   at a|b COMMAND...                           runs a command as that machine
#   PAIR_ARBITER="WORD..." pair_up NAME ...      with these words for both machines instead of arbiter=controller://...
#   PAIR_LINK=1 pair_up NAME ...                their connection goes through a relay; then: pair_link NAME cut|refuse|blackhole|pass ...
#   PAIR_B=KEY=VALUE pair_up NAME ...           the standby's file says this too
#   api [CURL OPTION...] /PATH                  the controller's HTTP API

# below the range of ephemeral ports, so that no outgoing connection has it
PAIR_PORT=$((20000 + $$ % 12000))
PAIR_MOUNT=

at() {
    local m=$1
    shift
    DUMONT_ETC=$SCRATCH/$m/etc DUMONT_RUN=$SCRATCH/$m/run DUMONT_STATE=$SCRATCH/$m/state DUMONT_LOG=$SCRATCH/$m/log "$@"
}

# start_at NAME MACHINE COMMAND...: by env and not by `at`, which would make a shell of its own the process that `stop` ends.
start_at() {
    local name=$1 d=$SCRATCH/$2
    shift 2
    start "$name" env DUMONT_ETC="$d/etc" DUMONT_RUN="$d/run" DUMONT_STATE="$d/state" DUMONT_LOG="$d/log" "$@"
}

pair_machines() {
    local m
    [ -n "${CTL_PORT:-}" ] && return 0
    command -v dumontd >/dev/null || return 1
    mkdir -p "$SCRATCH/ca"
    dumontd ca init --dir "$SCRATCH/ca" >/dev/null || return 1
    for m in a b ctl; do
        mkdir -p "$SCRATCH/$m"/{etc/tls,etc/workspaces,run,state,log}
        dumontd ca issue "$m" --dir "$SCRATCH/ca" --out "$SCRATCH/$m/etc/tls" >/dev/null || return 1
    done
    CTL_PORT=$((PAIR_PORT++))
    printf 'node=ctl\nrole=controller\nlisten=127.0.0.1:%s\nhttp=unix:%s\n' "$CTL_PORT" "$SCRATCH/ctl/run/dumontd.sock" >"$SCRATCH/ctl/etc/dumontd.conf"
    for m in a b; do
        printf 'node=%s\nrole=agent\ncontroller=127.0.0.1:%s\nhttp=unix:%s\n' "$m" "$CTL_PORT" "$SCRATCH/$m/run/dumontd.sock" >"$SCRATCH/$m/etc/dumontd.conf"
    done
    start_at ctl ctl dumontd --config "$SCRATCH/ctl/etc/dumontd.conf" --foreground
    wait_until 10 test -S "$SCRATCH/ctl/run/dumontd.sock" || return 1
    for m in a b; do
        start_at "agent-$m" $m dumontd --config "$SCRATCH/$m/etc/dumontd.conf" --foreground
    done
}

pair_in_sync() { at "$1" dumont status "$2" --json | jq -e '.standby.in_sync' >/dev/null; }

pair_link() {
    local name=$1
    shift
    "$BIN/relay" -c "$SCRATCH/link-$name" "$@" | sed 's/^ok *//'
    return "${PIPESTATUS[0]}"
}

# Exit status by curl alone: 22 for an answer that is an error.
api() { curl -sf --max-time 60 --unix-socket "$SCRATCH/ctl/run/dumontd.sock" "${@:1:$#-1}" "http://localhost${*: -1}"; }

pair_up() {
    local name=$1 port arbiter
    shift
    pair_machines || return 1
    read -ra arbiter <<<"${PAIR_ARBITER:-arbiter=controller://127.0.0.1:$CTL_PORT}"
    port=$((PAIR_PORT++))
    PAIR_MOUNT=$SCRATCH/m-$name
    mkdir -p "$PAIR_MOUNT" "$PAIR_MOUNT.b"
    at b dumont workspace create "$name" role=standby "listen=127.0.0.1:$port" "${arbiter[@]}" "mountpoint=$PAIR_MOUNT.b" ${PAIR_B:+"$PAIR_B"} >/dev/null || return 1
    if [ -n "${PAIR_LINK:-}" ]; then
        start "link-$name" "$BIN/relay" 0 "127.0.0.1:$port" "$SCRATCH/link-$name"
        wait_until 5 test -S "$SCRATCH/link-$name" || return 1
        port=$(pair_link "$name" port)
    fi
    # while the link and the controller are still there, so that nobody has to be waited for
    cleanup_fn unmount "$PAIR_MOUNT"
    cleanup_fn unmount "$PAIR_MOUNT.b"
    at a dumont workspace create "$name" "standby=127.0.0.1:$port" "${arbiter[@]}" "$@" >/dev/null || return 1
    at a mount.dumont "$name" "$PAIR_MOUNT" || return 1
    wait_until 60 pair_in_sync a "$name"
}

pair_end() {
    local m
    workspaces_end
    for m in a b; do
        [ "$FAILURES" = 0 ] || tail -n 25 "$SCRATCH/$m"/log/*.log 2>/dev/null | sed "s/^/# $m: /"
    done
}
cleanup_fn pair_end
