#!/bin/bash
# time: 280
# Every fuzz entry (tests/fuzz) for two seconds under libFuzzer with ASan and UBSan, from the kept corpora. Longer: make fuzz-smoke SECONDS=600.
. "$(dirname "$0")/../lib/sh/lib.sh"
[ -z "${SAN:-}" ] || skip "the entries are built with sanitizers of their own"
require clang-14
unset ASAN_OPTIONS UBSAN_OPTIONS CC # what a program prints is the report
entries=$(find "$ROOT/tests/fuzz" -name 'fuzz_*.c' | wc -l)
check "each of $entries entries" "$ROOT/tests/fuzz/run" 2
tail -n 12 "$SCRATCH/.check" | sed 's/^/# /'
check_eq "all ran" "$(tail -n 1 "$SCRATCH/.check")" "$entries passed, 0 failed"
finish
