# hosts.sh: three hosts in namespaces on this machine, gpu, cpu and ctl, each with a dumontd of its own; a pair of workspace $WS on gpu and cpu, mounted on gpu at $WORK,
# with sync=fsync, ctl as its arbiter, and an archive. For tests that take such hosts apart. Source after lib.sh.
#
#   hosts_up [KEY=VALUE of the workspace...]    makes them and the pair; waits until it is in sync
#   on HOST COMMAND...                           runs a command in a host (tests/demo/lib.sh)
#   status_of HOST FILTER                        jq -r FILTER of its status; fails if it does not answer
#   host_boots HOST                              a host that was killed starts again, as after a power cut; host_mounts HOST is its fstab
#   packets HOST RULE...                         nftables rules for packets in and out of a host; none: all pass
#   HOSTS_DISK_MB=N hosts_up ...                 the stores of gpu and cpu on filesystems of their own of that size: /mnt in the host, $DISKS/HOST/mnt here
#
# Shared by all hosts at the same path: $SHARED (with the archive in $SHARED/place/archive), $BUILD. The way from gpu to cpu leads through a relay in cpu: `hosts_link WORD...`.

WS=w WORK=/srv/train
SHARED=$SCRATCH/shared
DISKS=$SCRATCH/hosts/hosts
ARCHIVE=file://$SHARED/place/archive
export DUMONT_CLOUD=$SCRATCH/cloud.sock
T_START=$EPOCHREALTIME
. "$ROOT/tests/demo/lib.sh"
die() {
    not_ok "$1" "${2:-cannot go on}"
    FINISHED=1
    exit 1
}

# For what hangs: where each thread of each workspace process stands, and the ends of all logs.
hosts_state() {
    local h pid t
    for pid in $(pidof dumontfs); do
        for t in /proc/"$pid"/task/*; do
            echo "# $(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c1-60) $(tr '\0' ' ' <"$t/comm"): $(cat "$t/wchan"), $(sed 1q "$t/stack")"
        done
    done 2>/dev/null
    for h in gpu cpu ctl; do
        tail -qn "${LOG_LINES:-40}" "$DISKS/$h"/var/log/dumont/*.log 2>/dev/null | sed "s/^/# $h: /"
    done
}
hosts_logs() { [ "$FAILURES" = 0 ] || hosts_state; }

host_disk() {
    mkdir -p "$DISKS/$1/mnt"
    truncate -s "${HOSTS_DISK_MB}M" "$SCRATCH/$1.img" && mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$SCRATCH/$1.img" || return 1
    mount -o loop "$SCRATCH/$1.img" "$DISKS/$1/mnt"
}

relay_up() {
    stop relay KILL
    rm -f "$SHARED/relay"
    start relay dumontd local-host exec cpu "$BIN/relay" 0.0.0.0:7410 127.0.0.1:7409 "$SHARED/relay"
    wait_until 10 test -S "$SHARED/relay"
}
hosts_link() { "$BIN/relay" -c "$SHARED/relay" "$@" >/dev/null; }

status_of() { timeout 5 dumontd local-host exec "$1" dumont status $WS --json 2>/dev/null | jq -er "$2" 2>/dev/null; }

packets() {
    local host=$1
    shift
    on "$host" nft flush ruleset || return 1
    [ $# -gt 0 ] || return 0
    {
        echo 'table inet faults {'
        echo 'chain in { type filter hook input priority 0; }'
        echo 'chain out { type filter hook output priority 0; }'
        echo '}'
        printf 'add rule inet faults %s\n' "$@"
    } >"$SHARED/rules"
    on "$host" nft -f "$SHARED/rules"
}

# The mount fails when the other one holds the workspace, which is right, and the standby runs then; or when the agent was quicker.
host_mounts() {
    on "$1" timeout 60 mount -t dumont $WS $WORK >"$SCRATCH/mount-$1.out" 2>&1 || grep -q 'held by\|already mounted\|in use by' "$SCRATCH/mount-$1.out"
}
host_boots() {
    dumontd local-host create "$1" >/dev/null || return 1
    [ "$1" != cpu ] || relay_up
}

hosts_up() {
    local h store=()
    mkdir -p "$SHARED/place/archive" "$SCRATCH/install"
    make -s -C "$ROOT" install DESTDIR="$SCRATCH/install" BUILD="$BUILD" >/dev/null || die "install"
    PATH=$SCRATCH/install/usr/bin:$SCRATCH/install/usr/sbin:$PATH
    if [ -n "${HOSTS_DISK_MB:-}" ]; then
        store=(store=/mnt/$WS)
        for h in gpu cpu; do host_disk $h || die "no small filesystem for $h"; done
    fi
    certificates gpu cpu ctl
    start cloud dumontd local-cloud --socket "$DUMONT_CLOUD" --dir "$SCRATCH/hosts" --install-root "$SCRATCH/install" --share "$SHARED" --share "$BUILD"
    wait_until 10 test -S "$DUMONT_CLOUD" || die "the local cloud does not start"
    cleanup_fn hosts_logs
    host_create ctl controller
    host_create cpu agent
    host_create gpu agent
    relay_up || die "no relay"
    on cpu dumont workspace create $WS role=standby listen=127.0.0.1:7409 arbiter=controller://ctl:7402 "archive=$ARCHIVE" mountpoint=$WORK "${store[@]}" "$@" >/dev/null ||
        die "create on cpu"
    on gpu dumont workspace create $WS standby=cpu:7410 arbiter=controller://ctl:7402 "archive=$ARCHIVE" mountpoint=$WORK sync=fsync "${store[@]}" "$@" >/dev/null ||
        die "create on gpu"
    on cpu mkdir -p $WORK && on gpu mkdir -p $WORK
    host_mounts gpu && wait_until 60 in_sync gpu || die "the pair does not come up" "$(cat "$SCRATCH/mount-gpu.out"; on gpu dumont status $WS 2>&1)"
}
