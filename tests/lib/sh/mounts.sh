# mounts.sh: workspaces of a test: own /etc, /run, /var/lib of Dumont below $SCRATCH, programs from the build tree. Source after lib.sh.
#
#   ws_create notes [KEY=VALUE...]     ws_mount notes DIR [OPTIONS]     ws_umount DIR
#   ws_pid notes                       pid of its dumontfs (from its status)

export DUMONT_ETC=$SCRATCH/etc DUMONT_RUN=$SCRATCH/run DUMONT_STATE=$SCRATCH/state DUMONT_LOG=$SCRATCH/log DUMONT_LIBDIR=$BUILD
mkdir -p "$DUMONT_ETC/workspaces" "$DUMONT_RUN" "$DUMONT_STATE" "$DUMONT_LOG"
PATH=$BUILD:$PATH

mounts_end() {
    local s pid
    for s in $(mounts_below "$SCRATCH"); do
        unmount "$s"
    done
    # what was started by a mount ends with it; whoever is left is named by its control socket, and killed by its pid
    for s in "$DUMONT_RUN"/*.sock; do
        [ -S "$s" ] || continue
        pid=$(dumont status "$(basename "$s" .sock)" --json 2>/dev/null | jq -r '.pid // empty')
        [ -n "$pid" ] && kill -KILL "$pid"
    done
    if [ "$FAILURES" != 0 ]; then
        for s in "$DUMONT_LOG"/*.log; do
            [ -f "$s" ] && { echo "# --- $s"; tail -n 30 "$s" | sed 's/^/# /'; }
        done
    fi
}
cleanup_fn mounts_end

ws_create() { dumont workspace create "$@" >/dev/null; }

ws_mount() {
    mkdir -p "$2"
    mount.dumont "$1" "$2" -o "${3:-rw}"
}

ws_umount() { umount "$1"; }

ws_status() { dumont status "$1" --json; }
ws_get() { dumont status "$1" --json | jq -r "$2"; }
ws_pid() { ws_get "$1" .pid; }
is_mounted() { mountpoint -q "$1"; }
not_mounted() { ! grep -q " $1 " /proc/self/mountinfo; }
