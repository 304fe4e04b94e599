# lib.sh of the demo: narration, hosts, checks. Sourced by tests/demo/run after tests/lib/sh/lib.sh.

since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }
say() { printf '%6s  %s\n' "$(since "$T_START")" "$*"; }
step() { STEP=$1 T_STEP=$EPOCHREALTIME; printf '\n%6s  \033[1m%s\033[0m\n' "$(since "$T_START")" "$1"; }
done_step() { STEPS+=("$STEP|$(since "$T_STEP")|$1"); }
die() {
    echo "demo: $*" >&2
    exit 1
}

# check_that TEXT COMMAND...: one line, and a failed check fails the demo at its end.
check_that() {
    local text=$1
    shift
    CHECKS=$((CHECKS + 1))
    if "$@" >"$SCRATCH/check.out" 2>&1; then
        say "  checked: $text"
    else
        FAILURES=$((FAILURES + 1))
        say "  FAILED:  $text"
        tail -15 "$SCRATCH/check.out" | sed 's/^/          /'
    fi
}

# on HOST COMMAND...
on() { dumontd local-host exec "$@"; }

certificates() {
    local n
    mkdir -p "$SCRATCH/ca"
    [ -e "$SCRATCH/ca/ca.pem" ] || dumontd ca init --dir "$SCRATCH/ca" >/dev/null || die "dumontd ca init"
    for n in "$@"; do
        mkdir -p "$SCRATCH/tls-$n"
        dumontd ca issue "$n" --dir "$SCRATCH/ca" --out "$SCRATCH/tls-$n" >/dev/null || die "dumontd ca issue $n"
    done
}

# host_create NAME agent|controller
host_create() {
    local name=$1 role=$2 conf=$SCRATCH/$1.conf more=()
    # the controller's host is also the CA, and may ask the cloud for machines
    [ "$role" = controller ] && more=(--cloud --file "$SCRATCH/ca/ca.key:/etc/dumont/tls/ca.key")
    {
        echo "node=$name"
        echo "role=$role"
        echo "controller=ctl:7402"
        [ "$role" = controller ] && printf 'listen=0.0.0.0:7402\nadvertise=ctl:7402\nprovider.local=/run/dumont-cloud.sock\n'
        echo "http=unix:/run/dumont/dumontd.sock"
    } >"$conf"
    dumontd local-host create "$name" --file "$conf:/etc/dumont/dumontd.conf" \
        --file "$SCRATCH/tls-$name/ca.pem:/etc/dumont/tls/ca.pem" --file "$SCRATCH/tls-$name/node.pem:/etc/dumont/tls/node.pem" \
        --file "$SCRATCH/tls-$name/node.key:/etc/dumont/tls/node.key" "${more[@]}" >/dev/null ||
        die "cannot make host $name"
    say "  host $name is up"
}

# The GPU machine comes from the provider, as it would from a cloud: the controller asks for it and gives it a token to join by.
gpu_create() {
    on ctl dumont node add gpu local || die "no machine from the provider"
    wait_shown 10 "the machine" sh -c "dumontd local-host exec ctl dumont node list | grep -Eq '^gpu +up'" || die "gpu does not come up: $(on ctl dumont node list)"
    say "  host gpu is up, made by provider local"
}

in_sync() { on "$1" dumont status $WS --json 2>/dev/null | jq -e '.standby.in_sync' >/dev/null; }
tree() { on "$1" "$BIN/treedigest" -l "$2"; }
judge() { on "$1" "$BIN/ledger" judge --dir $WORK/ledger --ledger "$SHARED/ledger"; }

# wait_shown SECONDS WHAT COMMAND...: polls, with a spinner of dots on a terminal
wait_shown() {
    local until=$((SECONDS + $1)) what=$2
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || return 1
        [ -t 2 ] && printf '\r        waiting for %s … %ss ' "$what" "$((until - SECONDS))" >&2
        sleep 0.1
    done
    [ -t 2 ] && printf '\r\033[K' >&2
    return 0
}

# run_shown COMMAND...: its lines indented; its progress bar stays on the terminal
run_shown() { "$@" | sed 's/^/        /'; return "${PIPESTATUS[0]}"; }

table() {
    local s
    printf '\n%-78s %7s  %s\n' "step" "s" "checked"
    for s in "${STEPS[@]}"; do
        IFS='|' read -r a b c <<<"$s"
        printf '%-78s %7s  %s\n' "$a" "$b" "$c"
    done
    printf '\nkill to writable: %s ms.  %d checks, %d failed, %s s in all.\n' "$FAILOVER_MS" "$CHECKS" "$FAILURES" "$(since "$T_START")"
}
