# lib.sh: helpers for the shell integration tests. Source it first:
#
#   #!/bin/bash
#   # time: 120
#   . "$(dirname "$0")/../lib/sh/lib.sh"
#   require fusermount3 git
#   start server some-program --flag
#   wait_until 5 test -S "$SCRATCH/socket"
#   check "the answer is 42" test "$(ask)" = 42
#   finish
#
# Owns: $SCRATCH (on a real filesystem, below /var/tmp or what SCRATCH_IN says), the processes begun with `start`, everything told to cleanup_fn.
# At exit, however the script ends, the cleanups run in reverse order of their registration, what is still mounted below
# $SCRATCH is unmounted (lazily if nothing else helps), and $SCRATCH is removed. A script that ends without `finish` has
# failed. Processes are only ever killed by the pid they were started with.
#
# Set by this file: ROOT (the checkout), BUILD (absolute), BIN (test helper programs), SCRATCH.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
BUILD=${BUILD:-build}
case $BUILD in /*) ;; *) BUILD=$ROOT/$BUILD ;; esac
BIN=$BUILD/tests/lib/bin
SCRATCH=$(mktemp -d "${SCRATCH_IN:-/var/tmp}/dumont-$(basename "$0" .sh).XXXXXX") || exit 1
export ROOT BUILD BIN SCRATCH
# Sanitizers of an instrumented build report into files here, whatever becomes of the program's output; lib_exit looks for them.
for sanitizer in ASAN TSAN UBSAN LSAN; do
    declare -n options=${sanitizer}_OPTIONS
    export "${sanitizer}_OPTIONS=${options:+$options:}log_path=$SCRATCH/sanitizer:log_exe_name=1"
done
unset -n options

CHECKS=0
FAILURES=0
FINISHED=
CLEANUPS=()
declare -A PIDS=()

# --- cleanup

# cleanup_fn COMMAND ARGS...: runs at exit, last registered first.
cleanup_fn() {
    local quoted
    printf -v quoted '%q ' "$@"
    CLEANUPS+=("$quoted")
}

# mounted DIR: asks the mount table and not the filesystem, whose server may be dead or frozen.
mounted() {
    awk -v d="$1" '{ gsub(/\\040/, " ", $5) } $5 == d { found = 1 } END { exit !found }' /proc/self/mountinfo
}

# unmount DIR: nothing if it is not mounted; umount, a few tries while busy, then umount -l.
unmount() {
    local try
    for try in 1 2 3 4 5; do
        mounted "$1" || return 0
        timeout 30 umount "$1" 2>/dev/null && return 0
        sleep 0.2
    done
    echo "# $1 stayed busy: umount -l"
    umount -i -l "$1"
}

# Mount points below a directory, deepest first.
mounts_below() {
    awk -v d="$1/" 'index($5 "/", d) == 1 { print $5 }' /proc/self/mountinfo | sort -r
}

lib_exit() {
    local status=$? i m
    trap '' INT TERM
    trap - EXIT
    for ((i = ${#CLEANUPS[@]} - 1; i >= 0; i--)); do
        eval "${CLEANUPS[i]}" || echo "# cleanup failed: ${CLEANUPS[i]}"
    done
    for m in $(mounts_below "$SCRATCH"); do
        unmount "$(printf '%b' "$m")"
    done
    for m in "$SCRATCH"/sanitizer.*; do
        [ -s "$m" ] || continue
        echo "not ok no sanitizer report: ${m##*/}"
        head -n 80 "$m" | sed 's/^/#   /'
        status=1
    done
    if [ -n "${KEEP:-}" ] && [ $status != 0 ]; then
        echo "# kept: $SCRATCH"
    else
        rm -rf --one-file-system "$SCRATCH"
    fi
    if [ -z "$FINISHED" ] && [ $status = 0 ]; then
        echo "not ok: the script ended before finish"
        status=1
    fi
    exit $status
}
trap lib_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- damage

# invert FILE OFFSET: one byte becomes one that it was not. (A fixed letter is, now and then, what stands there already.)
invert() {
    local was
    was=$(od -An -tu1 -j "$2" -N 1 "$1") && [ -n "$was" ] || return 1
    # shellcheck disable=SC2059
    printf "\\x$(printf %02x $((was ^ 255)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# --- processes

# start NAME COMMAND ARGS...: in the background, output to $SCRATCH/NAME.log. pid_of NAME tells its pid; it is ended at exit.
start() {
    local name=$1
    shift
    "$@" >"$SCRATCH/$name.log" 2>&1 </dev/null &
    PIDS[$name]=$!
    cleanup_fn stop "$name"
}

pid_of() {
    echo "${PIDS[$1]:-}"
}

# alive PID: is it there, and not merely a zombie?
alive() {
    local state
    state=$(awk '$1 == "State:" { print $2 }' "/proc/$1/status" 2>/dev/null)
    [ -n "$state" ] && [ "$state" != Z ] && [ "$state" != X ]
}

# running NAME
running() {
    [ -n "${PIDS[$1]:-}" ] && alive "${PIDS[$1]}"
}

# stop NAME [SIGNAL]: sends SIGNAL (TERM), waits up to STOP_S (10) seconds, then KILL. STATUS is then its exit status.
stop() {
    local name=$1 sig=${2:-TERM} pid=${PIDS[$1]:-} n=$((${STOP_S:-10} * 20))
    [ -n "$pid" ] || return 0
    unset "PIDS[$name]"
    # bash reports a killed job on stderr
    {
        kill "-$sig" "$pid"
        kill -CONT "$pid"
        while alive "$pid" && [ $n -gt 0 ]; do
            sleep 0.05
            n=$((n - 1))
        done
        alive "$pid" && kill -KILL "$pid"
        wait "$pid"
        STATUS=$?
    } 2>/dev/null
    return 0
}

# --- conditions and checks

# wait_until SECONDS COMMAND ARGS...: polls; 1 when the time is over.
wait_until() {
    local end=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "${EPOCHREALTIME/[.,]/}" -lt $end ] || return 1
        sleep 0.02
    done
}

ok() {
    CHECKS=$((CHECKS + 1))
    echo "ok $1"
}

# not_ok NAME [WHY]
not_ok() {
    CHECKS=$((CHECKS + 1))
    FAILURES=$((FAILURES + 1))
    echo "not ok $1${2:+: $2}"
}

# check NAME COMMAND ARGS...: the command runs in this shell and must succeed; its output is shown only if it does not.
check() {
    local name=$1 status=0
    shift
    "$@" >"$SCRATCH/.check" 2>&1 || status=$?
    if [ $status = 0 ]; then
        ok "$name"
        return 0
    fi
    not_ok "$name" "exit $status of: $*"
    tail -n 20 "$SCRATCH/.check" | sed 's/^/#   /'
    return 1
}

# check_eq NAME GOT WANTED
check_eq() {
    if [ "$2" = "$3" ]; then
        ok "$1"
    else
        not_ok "$1" "got '$2', wanted '$3'"
        return 1
    fi
}

# check_status NAME WANTED COMMAND...: the command must end with exactly this exit status. Its output: $SCRATCH/.check
check_status() {
    local name=$1 want=$2 status=0
    shift 2
    "$@" >"$SCRATCH/.check" 2>&1 || status=$?
    check_eq "$name" "exit $status" "exit $want" && return 0
    tail -n 20 "$SCRATCH/.check" | sed 's/^/#   /'
    return 1
}

# not COMMAND...: succeeds if the command fails.
not() {
    ! "$@"
}

skip() {
    FINISHED=1
    echo "skip: $*"
    exit 77
}

# require TOOL...: skips the script when one is missing.
require() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || [ -x "$tool" ] || skip "no $tool"
    done
}

die() {
    not_ok "$1" "${2:-cannot go on}"
    FINISHED=1
    exit 1
}

# The last line of a script: exit status by the checks.
finish() {
    FINISHED=1
    echo "# $CHECKS checks, $FAILURES failed"
    [ "$CHECKS" -gt 0 ] && [ "$FAILURES" = 0 ]
    exit $?
}
