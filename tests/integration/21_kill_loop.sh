#!/bin/bash
# time: 600
# Fifty rounds of tests/integration/kill_loop.sh (fewer under a sanitizer, which is slow).
exec "$(dirname "$0")/kill_loop.sh" "$([ -n "${SAN:-}" ] && echo 10 || echo 50)"
