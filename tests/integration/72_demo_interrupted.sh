#!/bin/bash
# time: 120
# Ctrl-C in the demo, while three hosts run and a writer writes: it ends soon, and nothing of it is left: no mounts, processes, hosts, links, files.
. "$(dirname "$0")/../lib/sh/lib.sh"
[ -z "${SAN:-}" ] || skip "as the demo"
require ip git gcc sqlite3 jq setsid

links() { ip -o link show | awk -F': ' '{ print $2 }' | sort; }
# The demo makes a scratch directory of its own in /var/tmp, and names it in all it starts.
demo_dirs() { ls -d /var/tmp/dumont-run.* 2>/dev/null | sort; }
links >"$SCRATCH/links"
demo_dirs >"$SCRATCH/dirs"

# A terminal sends SIGINT to the whole foreground group: the demo is the leader of one. (A shell starts background programs with SIGINT ignored.)
start demo setsid env --default-signal=INT,QUIT BUILD="$BUILD" "$ROOT/tests/demo/run"
cleanup_fn pkill_group
pkill_group() { [ -z "${GROUP:-}" ] || kill -KILL -- "-$GROUP" 2>/dev/null; return 0; }
check "the demo gets to its real work" wait_until 90 grep -q "^ *[0-9.]* *.*2  real work" "$SCRATCH/demo.log"
pid=$(pid_of demo)
GROUP=$(ps -o pgid= -p "$pid" | tr -d ' ')
check_eq "it leads its group" "$GROUP" "$pid"
DEMO=$(comm -13 "$SCRATCH/dirs" <(demo_dirs) | head -1)
check "its hosts are up" test "$(grep -c 'host .* is up' "$SCRATCH/demo.log")" = 3
sleep "0.$((RANDOM % 10))"
kill -INT -- "-$GROUP"
check "it ends" wait_until 60 not alive "$pid"
wait "$pid" 2>/dev/null
check_eq "as interrupted" "$?" 130 || tail -5 "$SCRATCH/demo.log" | sed 's/^/# /'
unset "PIDS[demo]"

# the brackets keep grep from finding itself
left() { grep -lz -e "${DEMO%?}[${DEMO: -1}]" /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; }
none_left() { [ -z "$(left)" ]; }
check "no process of it is left" wait_until 10 none_left
left | while IFS=/ read -r _ _ p _; do echo "#   $p $(tr '\0' ' ' <"/proc/$p/cmdline")"; done
check "no mount" not grep -qF "$DEMO" /proc/self/mountinfo
check "no loop device" bash -c "! losetup -a | grep -F '$DEMO'"
check_eq "no network link" "$(links)" "$(cat "$SCRATCH/links")"
check "no file" not test -e "$DEMO"
finish
