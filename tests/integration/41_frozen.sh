#!/bin/bash
# time: 100
# A machine that is frozen, replaced, and thawed: every sync it acknowledged, before or after, is in the new history; what it wrote after the thaw is in its branch; the
# archive and the new holder are unharmed. Three hosts in namespaces. Judged by content.
. "$(dirname "$0")/../lib/sh/lib.sh"
require jq git ip
WS=w WORK=/srv/train
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
start writer dumontd local-host exec gpu "$BIN/ledger" write --dir $WORK/load --ledger "$SHARED/ledger" --clients 10 --sync-every 1
wait_until 20 bash -c "test \$(grep -c '^s' $SHARED/ledger) -gt 30" || die "writer"
# programs that write and never sync: each line, once its write has returned, is noted outside with the time of the return
cat >"$SHARED/write-plain.sh" <<'PLAIN'
mkdir -p "$1/plain"
exec 3>>"$1/plain/$2"
for ((i = 1; ; i++)); do
    echo "$i" >&3 || exit
    echo "${EPOCHREALTIME/[.,]/} $2 $i" >>"$3/plain.$2"
done
PLAIN
PLAIN=$(seq 12)
for w in $PLAIN; do start "plain$w" dumontd local-host exec gpu bash "$SHARED/write-plain.sh" $WORK "$w" "$SHARED"; done
for w in $PLAIN; do wait_until 20 test -s "$SHARED/plain.$w" || die "plain writer $w"; done
# The pids of what runs in gpu under these names, found by what they were started with.
inside() { grep -lzF -e "$1" /proc/[0-9]*/cmdline 2>/dev/null | while IFS=/ read -r _ _ pid _; do [ "$(stat -L -c %i "/proc/$pid/ns/pid" 2>/dev/null)" = "$GPU_NS" ] && echo "$pid"; done; }
GPU_NS=$(on gpu stat -L -c %i /proc/self/ns/pid)
writers=$(inside "$SHARED/ledger")
plains=$(inside "$SHARED/write-plain.sh")
check_eq "the programs to be frozen" "$(wc -w <<<"$writers $plains")" 13

# The order makes sure that calls return after the thaw whose answers were given before: a stopped program that is in a call comes back from it only when it goes on.
# First the program that syncs, while the link is there; then the link; then the plain writers, whose answers come from gpu alone now; then the rest of the machine.
# On a machine that is short of time the lease may have ended before: then nobody was answered, and it is done again.
quiet() { on gpu dumont status $WS --json | jq -e '.parked == 0 and .note == ""' >/dev/null; }
caught=
for _ in 1 2 3 4 5; do
    kill -STOP $writers
    if wait_until 5 quiet; then
        dumontd local-host link gpu down
        kill -STOP $plains
        quiet && caught=1 && break
    fi
    dumontd local-host link gpu up
    kill -CONT $writers $plains
    wait_until 60 in_sync gpu || die "no pair again"
done
check "they are stopped in their calls, the link is down" test -n "$caught"
check "freeze gpu" dumontd local-host pause gpu
check "cpu takes over" wait_until 30 on cpu mountpoint -q $WORK
on cpu sh -c "echo new > $WORK/new && sync $WORK/new"
read -r uptime _ </proc/uptime
thaw=${EPOCHREALTIME/[.,]/}
check "thaw gpu" dumontd local-host resume gpu
dumontd local-host link gpu up
check "gpu learns that it was replaced and becomes a standby" wait_until 60 in_sync cpu
stop writer
for w in $PLAIN; do stop "plain$w"; done
check "every acknowledged sync is in the new history" on cpu "$BIN/ledger" judge --dir $WORK/load --ledger "$SHARED/ledger"

late=$(awk -v t="$uptime" '$1 == "s" && $5 > t * 1e9' "$SHARED/ledger" | wc -l)
check "syncs that returned after the thaw are among them ($late)" test "$late" -ge 1
check_eq "the new holder's file" "$(on cpu cat $WORK/new)" new
branch=$(on gpu dumont snapshot list $WS --json | jq -r '.[] | select(.branch and (.name | endswith(".bulk") | not)) | .name')
check "what gpu alone had is kept as a branch" test -n "$branch"
check "its files can be taken out" on gpu dumont restore $WS /root/branch --branch "$branch"
# Each plain write that returned after the thaw: its line is in the branch; or it had reached cpu before the cut.
awk -v t="$thaw" '$1 > t { print $2, $3 }' "$SHARED"/plain.* >"$SHARED/late"
present() { while read -r w i; do grep -qx "$i" "plain/$w" 2>/dev/null && echo "$w $i"; done <"$SHARED/late"; }
on gpu bash -c "$(declare -f present); SHARED=$SHARED; cd /root/branch && present" >"$SCRATCH/in-branch"
on cpu bash -c "$(declare -f present); SHARED=$SHARED; cd $WORK && present" >"$SCRATCH/in-new"
check_eq "every plain write that returned after the thaw is in the branch, or was in the new history before" \
    "$(sort -u "$SCRATCH/in-branch" "$SCRATCH/in-new")" "$(sort -u "$SHARED/late")"
n=$(wc -l <"$SCRATCH/in-branch")
check "in the branch are $n of $(wc -l <"$SHARED/late")" test "$n" -ge 1
on cpu dumont flush $WS >/dev/null
check "the archive is unharmed" dumont restore $WS "$SCRATCH/restored" --from "file://$SHARED/archive"
"$BIN/treedigest" -l "$SCRATCH/restored" >"$SCRATCH/r"
on cpu "$BIN/treedigest" -l $WORK >"$SCRATCH/c"
check "it restores to what the new holder has" cmp "$SCRATCH/r" "$SCRATCH/c"
on cpu umount $WORK
finish
