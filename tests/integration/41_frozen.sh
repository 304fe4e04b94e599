#!/bin/bash
# time: 200
# A machine that is frozen, replaced, and thawed: every sync it acknowledged, before or after, is in the new history; what it wrote after the thaw is in its branch; the
# archive and the new holder are unharmed. Three hosts in namespaces. Judged by content.
. "$(dirname "$0")/../lib/sh/lib.sh"
require jq git ip
WS=w WORK=/home/ana/work
SHARED=$SCRATCH/shared
ROOTFS=$SCRATCH/install
export DUMONT_CLOUD=$SCRATCH/cloud.sock
T_START=$EPOCHREALTIME
. "$ROOT/tests/demo/lib.sh"
logs() { [ "$FAILURES" = 0 ] || for h in gpu cpu ctl; do echo "# --- $h"; on $h sh -c 'tail -n 30 /var/log/dumont/*.log' 2>/dev/null | sed 's/^/# /'; done; }

mkdir -p "$SHARED/archive" "$ROOTFS"
make -s -C "$ROOT" install DESTDIR="$ROOTFS" BUILD="$BUILD" >/dev/null || die "install"
PATH=$ROOTFS/usr/bin:$ROOTFS/usr/sbin:$PATH
certificates gpu cpu ctl
start cloud dumontd local-cloud --socket "$DUMONT_CLOUD" --dir "$SCRATCH/hosts" --install-root "$ROOTFS" --share "$SHARED" --share "$BUILD"
wait_until 10 test -S "$DUMONT_CLOUD" || die "cloud"
cleanup_fn logs
host_create ctl controller
host_create cpu agent
host_create gpu agent
A="arbiter=controller://ctl:7402 archive=file://$SHARED/archive mountpoint=$WORK"
on cpu dumont workspace create $WS role=standby listen=0.0.0.0:7410 $A >/dev/null || die "create on cpu"
on gpu dumont workspace create $WS standby=cpu:7410 $A >/dev/null || die "create on gpu"
on cpu mkdir -p $WORK && on gpu mkdir -p $WORK
on gpu mount -t dumont $WS $WORK || die "mount"
wait_until 60 in_sync gpu || die "pair"
on gpu mkdir $WORK/load
start writer dumontd local-host exec gpu "$BIN/ledger" write --dir $WORK/load --ledger "$SHARED/ledger" --clients 3 --sync-every 4
wait_until 20 bash -c "test \$(grep -c '^s' $SHARED/ledger) -gt 30" || die "writer"
# a program that writes and never syncs, thawed with the machine
start plain dumontd local-host exec gpu bash -c "i=0; while :; do i=\$((i+1)); echo \$i > $WORK/plain.\$((i % 50)) || exit; sleep 0.01; done"
wait_until 10 on gpu test -e $WORK/plain.49 || die "plain writer"
# cut off for a moment before it freezes: calls that came in by then are in its journal and nowhere else
dumontd local-host link gpu down
before=$(on gpu dumont status $WS --json | jq .tail)
wait_until 10 bash -c "test \$(dumontd local-host exec gpu dumont status $WS --json | jq .tail) -gt $before" || die "no record after the cut"
check "freeze gpu" dumontd local-host pause gpu
check "cpu takes over" wait_until 30 on cpu mountpoint -q $WORK
on cpu sh -c "echo new > $WORK/new && sync $WORK/new"
check "thaw gpu" dumontd local-host resume gpu
dumontd local-host link gpu up
check "gpu learns that it was replaced and becomes a standby" wait_until 60 in_sync cpu
stop writer
stop plain
check "every acknowledged sync is in the new history" on cpu "$BIN/ledger" judge --dir $WORK/load --ledger "$SHARED/ledger"
check_eq "the new holder's file" "$(on cpu cat $WORK/new)" new
branch=$(on gpu dumont snapshot list $WS --json | jq -r '.[] | select(.branch) | .name')
check "what gpu alone had is kept as a branch" test -n "$branch"
check "its files can be taken out" on gpu dumont restore $WS /root/branch --branch "$branch"
check "what was written without a sync is there" bash -c "dumontd local-host exec gpu sh -c 'ls /root/branch | grep -q plain'"
on cpu dumont flush $WS >/dev/null
check "the archive is unharmed" dumont restore $WS "$SCRATCH/restored" --from "file://$SHARED/archive"
"$BIN/treedigest" -l "$SCRATCH/restored" >"$SCRATCH/r"
on cpu "$BIN/treedigest" -l $WORK >"$SCRATCH/c"
check "it restores to what the new holder has" cmp "$SCRATCH/r" "$SCRATCH/c"
on cpu umount $WORK
finish
