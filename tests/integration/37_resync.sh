#!/bin/bash
# time: 150
# A standby that was away for longer than the journal waits for it: it gets what differs, not everything; neither a cut, nor SIGKILL of
# either side begins it anew; and while it lasts the standby is not promoted, and keeps what it had.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq python3

PAIR_LINK=1 pair_up w sync=fsync solo_after=2s journal_keep=16M || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT
B=$PAIR_MOUNT.b
get() { at "$1" dumont status w --json | jq -r "$2"; }
is() { [ "$(get a "$1" 2>/dev/null)" = "$2" ]; }
b_state() { at b dumont status w --json 2>/dev/null | jq -r "$1"; }
b_is() { [ "$(b_state "$1")" = "$2" ]; }
digest_of() { printf '{"cmd":"digest"}\n' | "$BIN/ctl" "$SCRATCH/$1/run/w.sock" | jq -r .result.digest; }
carried() { pair_link w stats | tr ' ' '\n' | sed -n 's/^\(up\|down\)=//p' | paste -sd+ | bc; } # both ways, with TLS
told() { api /api/v1/events >"$SCRATCH/events.json" && grep -q "$1" "$SCRATCH/events.json"; }
# the first record that the holder still keeps
oldest() { od -An -t u8 -j 40 -N 8 "$(ls "$SCRATCH"/a/state/w/journal/*.seg | head -1)" | tr -d " "; }

# 200 MiB that do not compress: 1600 files of 64 KiB and one of 100 MiB
python3 - "$M" <<'EOF'
import os, sys
m = sys.argv[1]
for i in range(1600):
    if i % 100 == 0: os.mkdir(f"{m}/d{i // 100}")
    open(f"{m}/d{i // 100}/{i}", "wb").write(os.urandom(65536))
f = open(f"{m}/big", "wb")
for i in range(100): f.write(os.urandom(1 << 20))
f.close()
open(f"{m}/churn", "wb").write(b"x")
EOF
sync "$M"
check "it is all there" at a dumont flush w --to standby
check_eq "and equal" "$(digest_of b)" "$(digest_of a)"

# change_some SEED: about 10 MiB: in the middle of the big file, at its end, small files anew, new ones, one less, modes
change_some() {
    python3 - "$M" "$1" <<'EOF'
import os, random, sys
m, seed = sys.argv[1], int(sys.argv[2])
random.seed(seed)
f = open(f"{m}/big", "r+b")
f.seek((20 + seed) << 20); f.write(os.urandom(3 << 20))
f.seek(0, 2); f.write(os.urandom(2 << 20)); f.close()
for i in random.sample(range(1600), 48): open(f"{m}/d{i // 100}/{i}", "wb").write(os.urandom(65536))
for i in range(32): open(f"{m}/new-{seed}-{i}", "wb").write(os.urandom(65536))
for i in random.sample(range(1600), 200): os.chmod(f"{m}/d{i // 100}/{i}", 0o600)
EOF
    rm -f "$M/d3/$((300 + $1))"
}
CHANGED=$(((3 + 2) * 1048576 + (48 + 32) * 65536))
# the journal goes on for longer than it is kept: one small file written over and over
churn() { python3 - "$M/churn" <<'EOF'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for i in range(12000): os.pwrite(fd, b"c" * 16000, 0)
os.fsync(fd)
EOF
}
away() {
    pair_link w blackhole >/dev/null
    wait_until 20 is .state alone || die "not alone" "$(at a dumont status w)"
    B_TAIL=$(b_state .tail)
    change_some "$1"
    churn
    sync "$M"
    wait_until 20 trimmed || die "the journal is still kept" "$(ls -la "$SCRATCH/a/state/w/journal")"
}
trimmed() { [ "$(oldest)" -gt "$B_TAIL" ]; }

# --- away, back: what differs
away 1
before=$(carried)
pair_link w pass >/dev/null
check "back: a pair again" wait_until 60 pair_in_sync a w
at a dumont flush w --to standby >/dev/null
sent=$(($(carried) - before))
check_eq "equal" "$(digest_of b)" "$(digest_of a)"
check "it was a resync" grep -q 'files and directories differ' "$SCRATCH/a/log/w.log"
check "which the event history tells with its bytes" wait_until 20 told 'bytes of the workspace were there'
check "$sent bytes went over the wire for $CHANGED changed ones: at most 1.2 times as many" test "$sent" -le $((CHANGED * 12 / 10))

# --- again, on a slow link: cut, and each side killed in the middle
away 2
pair_link w pass >/dev/null
pair_link w rate 700000 >/dev/null
partial() { [ -e "$SCRATCH/b/state/w/resync.db" ]; }
comes() { b_is .state resync && [ "$(b_state .holder_link.resync_bytes)" -gt "$1" ]; }
total() { b_state .holder_link.resync_total_bytes; }
gauge() { api /metrics | awk -v s="dumont_resync_$1{workspace=\"w\",node=\"a\"}" '$1 == s { printf "%d", $2; n++ } END { exit n != 1 }'; }
gauge_over() { local n && n=$(gauge "$1") && [ "$n" -gt "$2" ]; }
gauge_is() { [ "$(gauge "$1")" = "$2" ]; }
before=$(carried)
check "it is under way" wait_until 30 comes 3000000
check "with its size and the time that is left" bash -c "[ $(b_state .holder_link.resync_total_bytes) -gt 10000000 ] && [ $(b_state .holder_link.resync_eta_ms) -gt 0 ]"
at a dumont status w >"$SCRATCH/status.txt"
check "as dumont status says" grep -Eq 'resync: .* of .* sent, about [0-9]+ s left' "$SCRATCH/status.txt"
check "the gauges in /metrics have it: running, its size" wait_until 10 eval "gauge_is running 1 && gauge_over total_bytes 10000000"
done_bytes=$(gauge done_bytes)
check "how far it is, which grows ($done_bytes)" wait_until 10 gauge_over done_bytes "$done_bytes"
check "and the time that is left" wait_until 10 gauge_over eta_seconds 0
check "the old state is there as it was" test -e "$SCRATCH/b/state/w/workspace.db" -a -d "$SCRATCH/b/state/w/journal"
check_status "a standby in resync is not promoted" 2 at b dumont promote w
pair_link w cut >/dev/null
# the old connection's numbers may still be shown for a moment
goes_on() { comes 200000 && left=$(total) && [ "$left" -lt 9000000 ]; }
check "cut: it goes on with what is left" wait_until 30 goes_on
check "SIGKILL of the standby" kill -KILL "$(b_state .pid)"
check "the half of it stays" partial
check "it goes on with what is left" wait_until 30 goes_on
check "SIGKILL of the holder" kill -KILL "$(get a .pid)"
check "the mount goes on" bash -c "echo x >$M/after-the-kill && sync $M/after-the-kill"
pair_link w pass >/dev/null
check "in the end a pair again" wait_until 60 pair_in_sync a w
at a dumont flush w --to standby >/dev/null
sent=$(($(carried) - before))
check_eq "equal" "$(digest_of b)" "$(digest_of a)"
check "nothing is left of it" not partial
check "the gauges are at rest" wait_until 10 eval "gauge_is running 0 && gauge_is done_bytes 0 && gauge_is total_bytes 0 && gauge_is eta_seconds 0"
check "$sent bytes went over the wire: what came was not sent again" test "$sent" -le $((CHANGED * 2))
check "dumont verify finds them equal" at ctl dumont verify w
umount "$M"
finish
