#!/bin/bash
# Suites can fail: planted bugs in fs/base are caught, and the runner of mutants (tests/mutants/run) tells the truth about those
# that are not. All mutants: make mutants.
# time: 240
. "$(dirname "$0")/../lib/sh/lib.sh"
require patch make gcc

run_mutants() {
    RC=0
    LIMIT_S=60 "$ROOT/tests/mutants/run" "$@" >"$SCRATCH/out" 2>&1 || RC=$?
}
# Verdict of one mutant.
verdict() { sed -n "s/^\(pass\|skip\|FAIL\) .* s  $1: \(.*\)/\1 \2/p" "$SCRATCH/out"; }

# One tree and one test for all, so that it is built once: a bug that is there, and bugs that are none.
mkdir "$SCRATCH/m"
cp "$ROOT/tests/mutants/base-bytes-bound.patch" "$SCRATCH/m/"
good=$SCRATCH/m/base-bytes-bound.patch
# planted NAME [TEST]: another mutant, its diff from stdin
planted() {
    { echo "# must fail: ${2:-tests/unit/base/test_bytes}"; cat; } >"$SCRATCH/m/$1.patch"
}
added() {
    printf -- '--- a/fs/base/bytes.c\n+++ b/fs/base/bytes.c\n@@ -1,1 +1,2 @@\n+%s\n %s\n' "$1" "$(head -n 1 "$ROOT/fs/base/bytes.c")"
}
added '/* no bug */' | planted harmless
added 'not C' | planted unbuildable
sed 1d "$good" | sed 's/^-.*/-no such line/' | planted stale
sed 1d "$good" | planted nameless tests/unit/base/test_nothing
cp "$good" "$SCRATCH/m/z-last.patch"

MUTANTS=$SCRATCH/m run_mutants
check_eq "the planted bug is caught" "$(verdict base-bytes-bound)" "pass caught"
check_eq "a patch that changes nothing is not" "$(verdict harmless)" "FAIL NOT CAUGHT by tests/unit/base/test_bytes"
check_eq "what does not build proves nothing" "$(verdict unbuildable)" "FAIL does not build"
check_eq "nor what does not apply" "$(verdict stale)" "FAIL does not apply"
check "nor what names no test" grep -q 'nameless: names no test that exists' "$SCRATCH/out"
check_eq "each patch is taken back: the bug is caught again" "$(verdict z-last)" "pass caught"
check_eq "counts" "$RC $(tail -n 1 "$SCRATCH/out")" "1 2 passed, 4 failed, 0 skipped"
[ "$FAILURES" = 0 ] || sed 's/^/#   /' "$SCRATCH/out"

MUTANTS=$SCRATCH/m run_mutants no-such-mutant
check_eq "no mutants is a failure" "$RC" 1
finish
