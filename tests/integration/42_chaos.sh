#!/bin/bash
# time: 300
# One round of tests/integration/chaos.sh for each kind of fault.
[ -z "${SAN:-}" ] || { echo "skip: an instrumented build is too slow for so many failovers; 31, 37 and 41 run under it"; exit 77; }
exec "$(dirname "$0")/chaos.sh" 18 1
