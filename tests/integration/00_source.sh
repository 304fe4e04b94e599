#!/bin/bash
# The checks of the source tree, and that these checks are able to fail.
# time: 120
. "$(dirname "$0")/../lib/sh/lib.sh"
cd "$ROOT" || exit 1
check "include directions: planted violations are caught" tests/lib/check-layers --self-check
check "include directions point down only" tests/lib/check-layers
check "lint: planted findings are found" tests/lib/lint --self-check
command -v mandoc >/dev/null && check "documents name files that exist, man pages are well-formed" tests/lib/lint --docs
finish
