#!/bin/bash
# time: 400
# The demo is a test: every check of it must hold.
. "$(dirname "$0")/../lib/sh/lib.sh"
[ -z "${SAN:-}" ] || skip "the demo is timed; instrumented programs are run by the other tests"
require ip git gcc sqlite3 jq
BUILD=$BUILD "$ROOT/tests/demo/run" >"$SCRATCH/out" 2>&1
status=$?
sed 's/^/# /' "$SCRATCH/out"
check_eq "make demo" "$status" 0
finish
