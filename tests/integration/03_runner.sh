#!/bin/bash
# The runner and the shell helpers tell the truth: what fails is failed, what hangs is ended, and everything is cleaned up.
# time: 120
. "$(dirname "$0")/../lib/sh/lib.sh"

# A checkout of its own with made-up tests, so that the runner does not meet itself.
R=$SCRATCH/root
mkdir -p "$R/tests/integration" "$R/tests/lib/sh" "$R/tests/unit/m" "$R/build/tests/unit/m"
cp "$ROOT/tests/run" "$R/tests/run"
cp "$ROOT/tests/lib/sh/lib.sh" "$R/tests/lib/sh/lib.sh"

# script NAME: an integration test from stdin, with the helpers
script() {
    { printf '#!/bin/bash\n'; cat; } >"$R/tests/integration/$1.sh"
    chmod +x "$R/tests/integration/$1.sh"
}
# program NAME: a "unit test" from stdin
program() {
    { printf '#!/bin/bash\n'; cat; } >"$R/build/tests/unit/m/$1"
    chmod +x "$R/build/tests/unit/m/$1"
    : >"$R/tests/unit/m/$1.c"
}
# run_tests: output in $SCRATCH/out, exit status in RC
run_tests() {
    RC=0
    env -u SAN BUILD=build FILTER="${1:-}" "$R/tests/run" >"$SCRATCH/out" 2>&1 || RC=$?
}
clear_tests() { rm -f "$R"/tests/integration/* "$R"/tests/unit/m/* "$R"/build/tests/unit/m/*; }
LIB='. "$(dirname "$0")/../lib/sh/lib.sh"'

run_tests
check_eq "no tests is a failure" "$RC $(tail -n 1 "$SCRATCH/out")" "1 0 passed, 0 failed, 0 skipped"

program test_good <<<'echo fine'
program test_bad <<<'for i in $(seq 100); do echo "line $i"; done; exit 3'
program test_gone <<<'exit 1'
rm "$R/tests/unit/m/test_gone.c"
script 10_pass <<<"$LIB; check yes true; finish"
script 20_skip <<<"$LIB; require no-such-tool; finish"
script 30_fail <<<"$LIB; check no false; check yes true; finish"
run_tests
check_eq "counts" "$RC $(tail -n 1 "$SCRATCH/out")" "1 2 passed, 2 failed, 1 skipped"
check "a failure is named, with its status" grep -qE '^FAIL .*unit/m/test_bad  \(exit 3\)' "$SCRATCH/out"
check "the end of its output is shown" grep -qx '    line 100' "$SCRATCH/out"
check "but not all of it" not grep -qx '    line 40' "$SCRATCH/out"
check_eq "all of it is kept" "$(wc -l <"$R/build/test-logs/unit_m_test_bad.log")" 100
check "a skip says why" grep -qE '^skip .*20_skip.sh  \(skip: no no-such-tool\)' "$SCRATCH/out"
check "a failed check is shown" grep -q 'not ok no: exit 1 of: false' "$SCRATCH/out"
check "all failures stand together in the end" cmp <(sed -n '/^what failed:/,$p' "$SCRATCH/out") - <<'EOF2'
what failed:
unit/m/test_bad
    line 95
    line 96
    line 97
    line 98
    line 99
    line 100
integration/30_fail.sh
    not ok no: exit 1 of: false
    ok yes
    # 2 checks, 1 failed
2 passed, 2 failed, 1 skipped
EOF2
check "a program without a source is not run" not grep -q test_gone "$SCRATCH/out"
run_tests test_good
check_eq "FILTER" "$RC $(tail -n 1 "$SCRATCH/out")" "0 1 passed, 0 failed, 0 skipped"
run_tests 20_skip
check_eq "only skipped is not passed" "$RC" 1

# Programs and scripts run side by side: each of the two waits for the other.
clear_tests
meet='touch "$2"; for i in $(seq 200); do [ -e "$3" ] && exit 0; sleep 0.1; done; exit 1'
program test_one <<<"set -- _ '$SCRATCH/one' '$SCRATCH/two'; $meet"
script 10_two <<<"set -- _ '$SCRATCH/two' '$SCRATCH/one'; $meet"
run_tests
check_eq "a program and a script at the same time" "$RC $(tail -n 1 "$SCRATCH/out")" "0 2 passed, 0 failed, 0 skipped"

# A hanging test: it and its child end, its cleanup runs.
clear_tests
script 10_hang <<EOF2
# time: 1
$LIB
cleanup_fn touch "$SCRATCH/cleaned"
echo "\$SCRATCH" >"$SCRATCH/inner"
start child sleep 1000
pid_of child >"$SCRATCH/child"
sleep 1001 &
echo \$! >"$SCRATCH/grandchild"
wait
EOF2
run_tests
check_eq "a hanging test fails" "$RC $(tail -n 1 "$SCRATCH/out")" "1 0 passed, 1 failed, 0 skipped"
check "and is said to hang" grep -q 'over its limit of 1 s' "$SCRATCH/out"
check "its cleanup ran" test -e "$SCRATCH/cleaned"
check "its scratch directory is gone" not test -e "$(cat "$SCRATCH/inner")"
check "its processes are gone" not alive "$(cat "$SCRATCH/child")"
check "those it did not register too" not alive "$(cat "$SCRATCH/grandchild")"

# A test that does not even die of TERM.
clear_tests
script 10_deaf <<EOF2
# time: 1
trap '' TERM
echo \$\$ >"$SCRATCH/deaf"
while :; do sleep 0.1; done
EOF2
sed 's/timeout -k 30/timeout -k 1/' "$ROOT/tests/run" >"$R/tests/run"
run_tests
check_eq "a deaf test is killed" "$(tail -n 1 "$SCRATCH/out")" "0 passed, 1 failed, 0 skipped"
check "and is gone" not alive "$(cat "$SCRATCH/deaf")"
cp "$ROOT/tests/run" "$R/tests/run"

# Ending the runner ends the tests that are running.
clear_tests
program test_long <<<"echo \$\$ >'$SCRATCH/program'; sleep 1000 & wait"
script 10_long <<EOF2
$LIB
cleanup_fn touch "$SCRATCH/cleaned2"
sleep 1000 & # behind it a signal has nothing to wait for, and no fork to get lost in
touch "$SCRATCH/begun"
wait
EOF2
start runner env -u SAN -u FILTER BUILD=build "$R/tests/run"
check "the test began" wait_until 10 test -e "$SCRATCH/begun"
check "and the program" wait_until 10 test -s "$SCRATCH/program"
stop runner TERM
check_eq "the runner says it was interrupted" "$STATUS $(tail -n 1 "$SCRATCH/runner.log")" "130 interrupted"
check "the test cleaned up" test -e "$SCRATCH/cleaned2"
check "the program is gone" not alive "$(cat "$SCRATCH/program")"

# The helpers.
clear_tests
script 10_early <<<"$LIB; check yes true; exit 0"
script 20_nothing <<<"$LIB; finish"
script 30_order <<EOF2
$LIB
cleanup_fn eval 'echo first >>$SCRATCH/order'
cleanup_fn false
cleanup_fn eval 'echo second >>$SCRATCH/order'
check_eq "differs" a b
finish
EOF2
script 40_good <<EOF2
$LIB
start bg sleep 1000
check "runs" running bg
check "polls" not wait_until 0 false
check_status "status" 7 bash -c 'exit 7'
stop bg
check "stopped" not running bg
check_eq "killed by TERM" "\$STATUS" 143
finish
EOF2
run_tests
check_eq "helpers" "$(tail -n 1 "$SCRATCH/out")" "1 passed, 3 failed, 0 skipped"
check "a script that ends early has failed" grep -q 'the script ended before finish' "$SCRATCH/out"
check_eq "cleanups run in reverse, past a failing one" "$(tr '\n' ' ' <"$SCRATCH/order")" "second first "
check "what passes passes" grep -q '^pass .*40_good' "$SCRATCH/out"

if [ "$(id -u)" = 0 ] && mkdir "$SCRATCH/try" && mount -t tmpfs none "$SCRATCH/try" 2>/dev/null; then
    umount "$SCRATCH/try"
    clear_tests
    script 10_mount <<EOF2
$LIB
mkdir "\$SCRATCH/m n"
mount -t tmpfs none "\$SCRATCH/m n"
mount -t tmpfs none "\$SCRATCH/m n"
mkdir "\$SCRATCH/m n/inner"
mount -t tmpfs none "\$SCRATCH/m n/inner"
exec 9>"\$SCRATCH/m n/inner/busy"
echo "\$SCRATCH" >"$SCRATCH/inner"
check yes true
finish
EOF2
    run_tests
    inner=$(cat "$SCRATCH/inner")
    check_eq "a test with mounts" "$(tail -n 1 "$SCRATCH/out")" "1 passed, 0 failed, 0 skipped"
    check "nothing stays mounted" not grep -qF "$inner" /proc/self/mountinfo
    check "and its scratch directory is gone" not test -e "$inner"
fi
finish
