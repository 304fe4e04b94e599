#!/bin/bash
# time: 60
# The pages about formats and the program say the same: the schemas of both databases, and every test vector of a page stands in a test.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require sqlite3
cd "$ROOT" || exit 1

# The text of a page's ```KIND blocks.
blocks() { awk -v k="\`\`\`$2" '/^```/ { if (inside) { if (on) print ""; inside = on = 0 } else { inside = 1; on = $0 == k }; next } on' "$1"; }

# schema DB: as the program made it, one statement a line
schema() { sqlite3 "$1" "SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid"; }

ws_create notes
check_eq "the store's schema is that of formats-store.md" "$(schema "$DUMONT_STATE/notes/workspace.db")" "$(blocks docs/formats-store.md sql)"
check_eq "application_id and user_version" "$(sqlite3 "$DUMONT_STATE/notes/workspace.db" 'PRAGMA application_id; PRAGMA user_version' | tr '\n' ' ')" "$((0x444d5453)) 2 "
pair_machines || die "the controller does not start"
check_eq "the controller's schema is that of formats-lease.md" "$(schema "$SCRATCH/ctl/state/dumontd/controller.db")" "$(blocks docs/formats-lease.md sql)"

# Each vector (a block of hex) of a page stands as a string, quotes and line ends aside, in a test that the page names.
for page in docs/formats-*.md; do
    tests=$(grep -oE 'tests/unit/[a-z/_]*\.c' "$page" | sort -u)
    # shellcheck disable=SC2086
    text=$(cat $tests 2>/dev/null | tr -d '" \n')
    n=0 lost=0
    while read -r vector; do
        n=$((n + 1))
        case $text in *"$vector"*) ;; *) lost=$((lost + 1)); echo "# $page: no test has $vector" ;; esac
    done < <(blocks "$page" "" | awk '/^[0-9a-f]+$/ { v = v $0; next } { if (v) print v; v = "" } END { if (v) print v }' |
        awk 'length >= 16')
    check_eq "$page: its vectors stand in tests ($n)" "$lost" 0
    check "$page has vectors" test "$n" -gt 0
done
finish
