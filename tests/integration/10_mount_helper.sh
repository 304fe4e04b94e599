#!/bin/bash
# mount.dumont, umount.dumont and dumont-holder through the real mount(8) and umount(8), with a workspace process that does nothing
# (tests/lib/bin/fakefs.c) and misbehaves on demand: every refusal has its sentence and its exit code, and nothing is left behind.
# Runs in a mount namespace of its own, where /usr/sbin is covered by an overlay that has the helper in it.
# time: 180
if [ -z "${DUMONT_TEST_NS:-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "skip: needs root"; exit 77; }
    [ -c /dev/fuse ] || { echo "skip: no /dev/fuse"; exit 77; }
    exec unshare -m --propagation private env DUMONT_TEST_NS=1 "$0" "$@"
fi
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mountns.sh"
require unshare findmnt losetup
[ -x "$BIN/fakefs" ] || skip "no $BIN/fakefs: make test-programs"
helper_install "$BIN/fakefs"

workspace() { # NAME: a store, as far as the helper looks
    mkdir -p "$DUMONT_STATE/$1"
    touch "$DUMONT_STATE/$1/workspace.db"
}
M=$SCRATCH/mnt
mkdir "$M" "$SCRATCH/other"
workspace w1
workspace w2

status_of() { # as check_status, and keeps the output for says
    check_status "$@"
    cp "$SCRATCH/.check" "$SCRATCH/out"
}
says() { # TEXT: the last status_of printed it
    grep -qF -- "$1" "$SCRATCH/out"
}
refused() { # NAME CODE SENTENCE COMMAND...
    local name=$1 code=$2 text=$3
    shift 3
    status_of "$name: exit $code" "$code" "$@"
    check "$name: says so" says "$text" || sed 's/^/#   /' "$SCRATCH/out"
    check "$name: one sentence, at most one hint" test "$(wc -l <"$SCRATCH/out")" -le 2
}
mounted() { findmnt -n "$1" >/dev/null; }
loops() { losetup -n -O BACK-FILE | grep -c "$SCRATCH" || true; }
quiet() { # nothing of w1 is left: no process, no socket, no loop device
    not mounted "$M" && [ "$(holder_pids | wc -w)" = 0 ] && [ "$(loops)" = 0 ]
}

# --- the good case, through mount(8)
check_status "mount -t dumont" 0 mount -t dumont w1 "$M"
check_eq "the root is inode 1" "$(stat -c %i "$M")" 1
check_eq "fuseblk or plain, subtype dumont" "$(findmnt -n -o FSTYPE "$M" | sed 's/^fuse\(blk\)\?//')" .dumont
check "noatime is set" sh -c "findmnt -n -o OPTIONS '$M' | grep -q noatime"
status_of "a second time: success" 0 mount.dumont w1 "$M"
check "a second time: says already mounted" says "w1 is already mounted on $M"
refused "the same workspace elsewhere" 32 "w1 is already mounted on $M" mount -t dumont w1 "$SCRATCH/other"
check_status "remount,ro" 0 mount -o remount,ro "$M"
check "is read-only" sh -c "findmnt -n -o OPTIONS '$M' | grep -q '^ro'"
check_status "remount,rw with the helper" 0 mount.dumont w1 "$M" -o remount,rw
check "is writable" sh -c "findmnt -n -o OPTIONS '$M' | grep -q '^rw'"
refused "remount of what is not mounted" 32 "is not mounted" mount.dumont w1 "$SCRATCH/other" -o remount,ro
check_status "sync -f of the mount" 0 sync -f "$M"
check_status "umount(8)" 0 umount "$M"
check "umount(8) leaves nothing" wait_until 10 quiet

status_of "mount again, verbose" 0 mount.dumont w1 "$M" -v -n
check "verbose says so" says "w1 mounted on $M"
check_status "umount.dumont by name" 0 umount.dumont w1
check "umount.dumont returns when the process is gone" quiet
refused "umount.dumont of what is not mounted" 32 "w1 is not mounted" umount.dumont w1
refused "umount.dumont of another filesystem" 32 "not a Dumont mount" umount.dumont /proc

check_status "mount for the busy test" 0 mount.dumont w1 "$M"
exec 9<"$M"
refused "umount.dumont of a busy mount" 32 "in use" umount.dumont "$M"
check "it is still mounted" mounted "$M"
check_status "umount.dumont -l" 0 umount.dumont -l "$M"
check "it is detached" not mounted "$M"
exec 9<&-
check "and then ends" wait_until 10 quiet

# --- fstab
cat >"$SCRATCH/fstab" <<END
w1 $M dumont rw,nofail,_netdev,noauto,x-systemd.mount-timeout=60s,lag_max=32M 0 0
w2 $SCRATCH/other dumont nofail,defaults,comment=hello,syncfs=off 0 0
END
fstab_use "$SCRATCH/fstab"
export FAKEFS_ARGS=$SCRATCH/args
check_status "mount DIR, from fstab" 0 mount "$M"
check "the options reach the workspace process, fstab's own do not" sh -c \
    "grep -q 'lag_max=32M' '$FAKEFS_ARGS' && ! grep -qE 'nofail|_netdev|x-systemd' '$FAKEFS_ARGS'"
check_status "mount -a -t dumont" 0 mount -a -t dumont
check_eq "syncfs=off mounts plainly" "$(findmnt -n -o FSTYPE "$SCRATCH/other")" fuse.dumont
check_eq "with the name as source" "$(findmnt -n -o SOURCE "$SCRATCH/other")" w2
check_status "mount -a again" 0 mount -a -t dumont
check_eq "mounted once" "$(grep -c " $SCRATCH/other " /proc/self/mountinfo)" 1
check_status "umount both" 0 umount "$M" "$SCRATCH/other"
check "both are gone" wait_until 10 quiet
unset FAKEFS_ARGS

# --- places
refused "a directory that is missing" 32 "cannot be used: No such file or directory" mount.dumont w1 "$SCRATCH/nowhere"
touch "$SCRATCH/file"
refused "a mount point that is a file" 32 "is not a directory" mount.dumont w1 "$SCRATCH/file"
mkdir "$SCRATCH/full"
touch "$SCRATCH/full/x"
refused "a directory that is not empty" 32 "is not empty" mount -t dumont w1 "$SCRATCH/full"
check "it is left alone" test -f "$SCRATCH/full/x"
check_status "nonempty allows it" 0 mount -t dumont w1 "$SCRATCH/full" -o nonempty
check_status "and is unmounted" 0 umount.dumont "$SCRATCH/full"

# --- workspaces and options
refused "an unknown workspace" 32 'there is no workspace "nosuch"' mount -t dumont nosuch "$M"
check "it says how to create it" says "dumont workspace create nosuch"
check_status "-o create allows it" 0 mount -t dumont nosuch "$M" -o create
check_status "and is unmounted" 0 umount.dumont nosuch
refused "a name that is none" 1 "is not a name of a workspace" mount.dumont ../w1 "$M"
refused "an unknown option" 1 "unknown option 'sinc'" mount -t dumont w1 "$M" -o sinc=fsync
check "it guesses" says "did you mean 'sync'"
check_status "sloppy: the unknown option is ignored" 0 mount -s -t dumont w1 "$M" -o sinc=fsync
umount.dumont w1
refused "a value that is none of the choices" 1 "option sync: 'maybe' is not local|fsync|write" mount.dumont w1 "$M" -o sync=maybe
refused "a bad size" 1 "option lag_max" mount.dumont w1 "$M" -o lag_max=big
refused "a relative store" 1 "option store: 'x' is not an absolute path" mount.dumont w1 "$M" -o store=x
refused "a standby without an arbiter" 1 "a standby needs an arbiter" mount.dumont w1 "$M" -o standby=cpu:7410
refused "sync=fsync without a standby" 1 "sync=fsync needs a standby" mount.dumont w1 "$M" -o sync=fsync
refused "standby-view without ro" 1 "standby-view needs ro" mount.dumont w1 "$M" -o standby-view
refused "standby-view without a standby" 32 "no standby of w1 runs" mount.dumont w1 "$M" -o ro,standby-view
refused "a quote that is not closed" 1 "quote" mount.dumont w1 "$M" -o 'store="/a'
mkdir -p "$DUMONT_ETC/workspaces"
echo "sinc = fsync" >"$DUMONT_ETC/workspaces/w1.conf"
refused "an unknown key in NAME.conf" 1 "w1.conf: unknown option 'sinc'" mount.dumont w1 "$M"
printf '# ours\nlag_max = 1M\nquota = 10G\n' >"$DUMONT_ETC/workspaces/w1.conf"
export FAKEFS_ARGS=$SCRATCH/args
check_status "-o over NAME.conf" 0 mount.dumont w1 "$M" -o 'lag_max=2M' -o 'archive="s3://b/p,q?endpoint=h"'
check "both are handed on" sh -c "grep -qF w1.conf '$FAKEFS_ARGS' && grep -qF 'lag_max=2M,archive=\"s3://b/p,q?endpoint=h\"' '$FAKEFS_ARGS'"
umount.dumont w1
unset FAKEFS_ARGS
rm "$DUMONT_ETC/workspaces/w1.conf"
check_status "-f mounts nothing" 0 mount -f -t dumont w1 "$M"
check "nothing is mounted" quiet
check_status "wrong usage" 1 mount.dumont w1

# --- this machine
refused "no /dev/fuse" 2 "there is no /dev/fuse" without_dev fuse mount.dumont w1 "$M"
check_status "no loop device: mounted plainly" 0 without_dev 'loop*' sh -c "mount.dumont w1 '$M' && findmnt -n -o FSTYPE '$M' | grep -x fuse.dumont && umount.dumont w1"
check "and the log says what that means" grep -q "sync(2) and syncfs(2) will not reach" "$DUMONT_LOG/w1.log"
refused "no workspace program" 32 "dumontfs cannot be run" env DUMONT_LIBDIR="$SCRATCH/half" mount.dumont w1 "$M"

# --- the workspace process
FAKEFS=fail refused "it refuses" 32 "the store is broken at record 17" mount -t dumont w1 "$M"
FAKEFS=die refused "it dies" 32 "killed by signal 9" mount -t dumont w1 "$M"
FAKEFS=nohello refused "it closes its channel and lives on" 32 "killed by signal 9" mount -t dumont w1 "$M"
FAKEFS=hang refused "it never serves" 32 "w1 did not serve within 1 s" mount -t dumont w1 "$M" -o mount_timeout=1s
check "none of them left anything" wait_until 10 quiet
FAKEFS=mute refused "it serves nothing" 32 "does not answer" mount.dumont w1 "$M" -o mount_timeout=1s
check "nothing is left" wait_until 10 quiet

FAKEFS=hang start interrupted mount.dumont w1 "$M"
wait_until 10 mounted "$M"
stop interrupted INT
check_eq "interrupted: exit 8" "$STATUS" 8
check "interrupted: nothing is left" wait_until 10 quiet

FAKEFS=held refused "held elsewhere" 32 "held by gpu since epoch 7; standby started here" mount.dumont w1 "$M"
refused "held elsewhere, standby runs" 32 "w1 is held by gpu since epoch 7; a standby runs here already" mount.dumont w1 "$M"
kill -STOP "$(dumontfs_pids)"
began=$SECONDS
refused "it does not answer" 32 "the process that serves w1 does not answer" mount.dumont w1 "$M" -o mount_timeout=2s
start busy mount.dumont w1 "$M"
sleep $((SECONDS - began + 1)) # longer than a question waits
check "but may take as long as a mount may" alive "$(pid_of busy)"
kill -CONT "$(dumontfs_pids)"
check "and is heard then" wait_until 10 grep -q "w1 is held by gpu since epoch 7; a standby runs here already" "$SCRATCH/busy.log"
refused "unmounting a standby" 32 "w1 runs here without a mount" umount.dumont w1
check "it says how it is stopped" says "dumont workspace stop"
kill "$(holder_pids)"
check "a standby's holder ends on SIGTERM" wait_until 10 quiet

# --- and its successors
lookup() { stat -c %i "$M/$1" 2>&1; } # what a program sees
FAKEFS=once check_status "mount for a crash" 0 mount.dumont w1 "$M"
first=$(dumontfs_pids)
check "the process dies of a call, and its successor answers it" grep -q "No such file" <(lookup crash)
check "it is another process" test "$(dumontfs_pids)" != "$first"
check "the log says how the first one died" grep -q "killed by signal 9 (Killed): starting a new one" "$DUMONT_LOG/w1.log"
check "the mount answers" test -d "$M/."
check_status "umount.dumont" 0 umount.dumont w1
check "nothing is left" wait_until 10 quiet

FAKEFS=again check_status "mount for a restart" 0 mount.dumont w1 "$M"
first=$(dumontfs_pids)
check "a process that asks for it is replaced" grep -q "No such file" <(lookup crash)
check "by another" test "$(dumontfs_pids)" != "$first"
check_status "umount(8)" 0 umount "$M"
check "nothing is left" wait_until 10 quiet

FAKEFS=crash check_status "mount for a call that kills whoever serves it" 0 mount.dumont w1 "$M"
check "in the end the call fails" not grep -q "No such file" <(lookup crash)
check "the mount is detached, all is freed" wait_until 10 quiet
check "the log says why" grep -q "again and again" "$DUMONT_LOG/w1.log"

FAKEFS=refuse check_status "mount for a successor that fails" 0 mount.dumont w1 "$M"
check "the call fails" not grep -q "No such file" <(lookup crash)
check "the mount is detached, all is freed" wait_until 10 quiet

FAKEFS=lazy check_status "mount for a successor that does not serve" 0 mount.dumont w1 "$M" -o mount_timeout=1s
check "the call fails when the time is over" not grep -q "No such file" <(lookup crash)
check "the mount is detached, all is freed" wait_until 10 quiet
check "the log says why" grep -q "did not serve in time" "$DUMONT_LOG/w1.log"

FAKEFS=lazy check_status "mount for an end in between" 0 mount.dumont w1 "$M"
first=$(dumontfs_pids)
start waiting stat "$M/crash"
check "there is a successor" wait_until 10 bash -c "p=\$(cat /proc/$(holder_pids)/task/$(holder_pids)/children) && test -n \"\$p\" && test \$p != $first"
check "mount.dumont does not take the mount for dead" grep -q "already mounted" <(mount.dumont w1 "$M")
kill "$(holder_pids)"
check "SIGTERM ends it all" wait_until 60 quiet
stop waiting

check_status "mount for the holder's death" 0 mount.dumont w1 "$M"
kill -KILL "$(holder_pids)"
check "without holder the workspace process ends" wait_until 10 no_dumontfs
check "a dead mount is left" mounted "$M"
check_status "the next mount detaches it" 0 mount -t dumont w1 "$M"
check_eq "and mounts once" "$(grep -c " $M " /proc/self/mountinfo)" 1
umount.dumont w1

start fg mount.dumont w1 "$M" -o foreground
check "foreground: it serves" wait_until 10 mounted "$M"
check "foreground: it stays" running fg
stop fg TERM
check_eq "foreground: SIGTERM unmounts, exit 0" "$STATUS" 0
check "foreground: nothing is left" wait_until 10 quiet
check "no sanitizer has anything to say" not grep -rq "Sanitizer\|runtime error:" "$DUMONT_LOG"
finish
