# mounts.sh: workspaces of a test: own /etc, /run, /var/lib of Dumont below $SCRATCH, programs from the build tree. Source after lib.sh.
#
#   ws_create notes [KEY=VALUE...]     ws_mount notes DIR [OPTIONS]     ws_umount DIR
#   ws_pid notes                       pid of its dumontfs (from its status)

export DUMONT_ETC=$SCRATCH/etc DUMONT_RUN=$SCRATCH/run DUMONT_STATE=$SCRATCH/state DUMONT_LOG=$SCRATCH/log DUMONT_LIBDIR=$BUILD
mkdir -p "$DUMONT_ETC/workspaces" "$DUMONT_RUN" "$DUMONT_STATE" "$DUMONT_LOG"
PATH=$BUILD:$PATH

# Pids of this test's workspace processes and holders: those that have a folder below $SCRATCH in their environment.
workspace_pids() {
    local p
    for p in /proc/[0-9]*; do
        case $(cat "$p/comm" 2>/dev/null) in
        dumontfs | dumont-holder) grep -qzF "DUMONT_RUN=$SCRATCH/" "$p/environ" 2>/dev/null && echo "${p#/proc/}" ;;
        esac
    done
    return 0
}
no_workspaces() { [ -z "$(workspace_pids)" ]; }

# Tells all to stop, also what is only just starting; true when there are none.
workspaces_told() {
    local s
    no_workspaces && return 0
    for s in "$SCRATCH"/run/*.sock "$SCRATCH"/*/run/*.sock; do
        [ -S "$s" ] && [ "${s##*/}" != dumontd.sock ] && printf '{"cmd":"stop"}\n' | timeout 10 "$BIN/ctl" "$s" >/dev/null 2>&1
    done
    return 1
}

# Ends everything in order: what sanitizers find at the end of a process is wanted too. What was started by a mount ends with it; a standby is told.
workspaces_end() {
    local s pid
    for s in $(mounts_below "$SCRATCH"); do
        unmount "$s"
    done
    wait_until 60 workspaces_told && return 0
    for pid in $(workspace_pids); do
        echo "not ok $(cat "/proc/$pid/comm") $pid ends by itself"
        kill -KILL "$pid"
    done
    return 1
}

mounts_end() {
    local s
    workspaces_end
    if [ "$FAILURES" != 0 ]; then
        for s in "$DUMONT_LOG"/*.log; do
            [ -f "$s" ] && { echo "# --- $s"; tail -n 30 "$s" | sed 's/^/# /'; }
        done
    fi
    return 0
}
cleanup_fn mounts_end

ws_create() { dumont workspace create "$@" >/dev/null; }

ws_mount() {
    mkdir -p "$2"
    mount.dumont "$1" "$2" -o "${3:-rw}"
}

ws_pid_at() {
    local s
    for s in "$DUMONT_RUN"/*.sock; do
        [ -S "$s" ] && ws_status "$(basename "$s" .sock)" 2>/dev/null | jq -r --arg d "$1" 'select(.mountpoint == $d).pid'
    done
    return 0
}
# When it returns the mount is gone and so is the process: the store is free.
ws_umount() {
    local pid
    pid=$(ws_pid_at "$1")
    umount "$1" && { [ -z "$pid" ] || wait_until 60 not alive "$pid"; }
}

ws_status() { dumont status "$1" --json; }
ws_get() { dumont status "$1" --json | jq -r "$2"; }
ws_pid() { ws_get "$1" .pid; }
# Kills the process that serves NAME, once it has lived for so long that its death counts as the first of a row (the holder gives up after a few lives of a moment).
lived() { [ "$(ps -o etimes= -p "$1")" -ge 2 ]; }
ws_kill() {
    local pid
    pid=$(ws_pid "$1") && wait_until 20 lived "$pid" && kill -KILL "$pid"
}
# ws_die PID: a workspace process and its holder are gone at once, as in a power cut: the holder is stopped first, so that it cannot start another.
stopped() { [ -z "$(sed -n 's/^State:[[:space:]]*\([^TZ[:space:]]\).*/\1/p' "/proc/$1"/task/*/status)" ]; }
ws_die() {
    local holder
    [ "$1" -gt 1 ] 2>/dev/null || return 1 # no process: its parent would be 0, this whole group
    holder=$(ps -o ppid= -p "$1")
    kill -STOP $holder && wait_until 20 stopped $holder
    kill -KILL "$1" $holder && wait_until 30 not alive "$1"
}
# The machine goes down, as far as NAME can tell; then the dead mount is detached.
ws_crash() {
    local pid dir
    pid=$(ws_pid "$1") && dir=$(ws_get "$1" .mountpoint) || return 1
    ws_die "$pid" && umount -l "$dir"
}
is_mounted() { mountpoint -q "$1"; }
not_mounted() { ! grep -q " $1 " /proc/self/mountinfo; }
