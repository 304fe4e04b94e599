#!/bin/bash
# The checks of the source tree, and that these checks are able to fail.
# time: 120
. "$(dirname "$0")/../lib/sh/lib.sh"
cd "$ROOT" || exit 1
check "include directions: planted violations are caught" tests/lib/check-layers --self-check
check "include directions point down only" tests/lib/check-layers
check "lint: planted findings are found" tests/lib/lint --self-check
require mandoc
check "the tree is in the house style; documents name files that exist" tests/lib/lint
finish
