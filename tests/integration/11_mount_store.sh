#!/bin/bash
# Mounting real workspaces through mount(8): new ones, those in use, broken ones, and what is there after an end of any kind.
# time: 120
if [ -z "${DUMONT_TEST_NS:-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "skip: needs root"; exit 77; }
    [ -c /dev/fuse ] || { echo "skip: no /dev/fuse"; exit 77; }
    exec unshare -m --propagation private env DUMONT_TEST_NS=1 "$0" "$@"
fi
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mountns.sh"
require unshare findmnt
[ -x "$BUILD/dumontfs" ] || skip "no $BUILD/dumontfs"
helper_install "$BUILD/dumontfs"
M=$SCRATCH/mnt
mkdir "$M" "$SCRATCH/other"

refused() { # NAME CODE SENTENCE COMMAND...
    local name=$1 code=$2 text=$3
    shift 3
    check_status "$name: exit $code" "$code" "$@"
    cp "$SCRATCH/.check" "$SCRATCH/out"
    check "$name: says so" grep -qF -- "$text" "$SCRATCH/out" || sed 's/^/#   /' "$SCRATCH/out"
    check "$name: one sentence, at most one hint" test "$(wc -l <"$SCRATCH/out")" -le 2
}
mounted() { findmnt -n "$1" >/dev/null; }
ended() { not mounted "$M" && no_holders; }

# --- a new workspace
chmod 0710 "$M"
chown 65534:65534 "$M"
check_status "mount -o create" 0 mount -t dumont w1 "$M" -o create
check_eq "the root has owner and mode of the mountpoint" "$(stat -c '%a %u:%g' "$M")" "710 65534:65534"
check_eq "the root is inode 1" "$(stat -c %i "$M")" 1
echo hello >"$M/file"
check_status "umount(8)" 0 umount "$M"
check "everything ends" wait_until 20 ended
check_status "mount without create" 0 mount -t dumont w1 "$M"
check_eq "the content is there" "$(cat "$M/file")" hello
check_eq "and the owner" "$(stat -c '%a %u:%g' "$M")" "710 65534:65534"
check_status "umount" 0 umount "$M"
check "everything ends" wait_until 20 ended

# as at a boot: fstab and dumontd
at_once() {
    local a b
    for _ in 1 2 3 4 5; do
        mount -t dumont w1 "$M" & a=$!
        mount -t dumont w1 "$M" & b=$!
        wait $a && wait $b && umount "$M" && wait_until 20 ended || return 1
    done
}
check "two mounts at the same moment: both are told that it is there" at_once
check_status "mount again" 0 mount -t dumont w1 "$M"

# --- in use
refused "another name for a store in use" 32 "in use" mount -t dumont w2 "$SCRATCH/other" -o "store=$DUMONT_STATE/w1"
check "it says by whom" grep -qw "$(dumontfs_pids)" "$SCRATCH/out"
check_eq "the first one goes on" "$(cat "$M/file")" hello
refused "the same workspace elsewhere" 32 "w1 is already mounted on $M" mount -t dumont w1 "$SCRATCH/other"

# --- unmounting, and mounting right after: the store is still being closed
round_trips() {
    local i
    for i in 1 2 3 4 5; do
        head -c 3000000 /dev/urandom >"$M/big$i" || return 1
        umount "$M" || return 1
        mount -t dumont w1 "$M" || return 1
        [ "$(stat -c %s "$M/big$i")" = 3000000 ] || return 1
    done
}
check "umount, mount at once, five times" round_trips
check_status "umount.dumont" 0 umount.dumont "$M"
check_eq "returns when the process is gone" "$(dumontfs_pids)" ""
check "and its holder ends" wait_until 20 ended

# --- flags
check_status "ro,nosuid,nodev,noexec" 0 mount -t dumont w1 "$M" -o ro,nosuid,nodev,noexec
check "is read-only" not touch "$M/x"
check "the kernel has the flags" sh -c "findmnt -n -o OPTIONS '$M' | grep -q '^ro,nosuid,nodev,noexec,noatime'"
check_status "remount,rw" 0 mount.dumont w1 "$M" -o remount,rw
check "is writable" touch "$M/x"
check "the other flags stay" sh -c "findmnt -n -o OPTIONS '$M' | grep -q '^rw,nosuid,nodev,noexec,noatime'"
check_status "remount,ro through mount(8)" 0 mount -o remount,ro "$M"
check "is read-only again" not touch "$M/y"
umount.dumont w1

# --- ends without warning
mount -t dumont w1 "$M"
sh -c "echo synced >'$M/synced'; sync '$M/synced'"
kill -KILL "$(dumontfs_pids)"
check_eq "the workspace process is killed: nobody notices" "$(cat "$M/synced")" synced
check_status "umount.dumont in the middle of a restart" 0 sh -c "kill -KILL $(dumontfs_pids); umount.dumont '$M'"
check "everything ends" wait_until 20 ended
check_status "mount" 0 mount -t dumont w1 "$M"
check_eq "what was synced is there" "$(cat "$M/synced")" synced
check_status "umount(8) in the middle of a restart" 0 sh -c "kill -KILL $(dumontfs_pids); umount '$M'"
check "everything ends, again" wait_until 20 ended
check_status "mount after that" 0 mount -t dumont w1 "$M"
check_eq "what was synced is still there" "$(cat "$M/synced")" synced
echo more >"$M/more"
sync "$M/more"
kill -KILL "$(holder_pids)"
check "the holder is killed: the workspace process ends" wait_until 45 no_dumontfs
check_status "mount after that" 0 mount -t dumont w1 "$M"
check_eq "mounted once" "$(grep -c " $M " /proc/self/mountinfo)" 1
check_eq "what was synced is there too" "$(cat "$M/more")" more

# --- what only this kernel interface can get wrong
check "O_TRUNC truncates" sh -c "echo longer >'$M/t'; echo s >'$M/t'; [ \"\$(cat '$M/t')\" = s ]"
check "sync(1) of the mount" sync -f "$M"
check "umask, and set-user-id lost at a write by another" bash -c "
    cd '$M' && umask 077 && echo x >su && [ \$(stat -c %a su) = 600 ] && chmod 4777 su && chmod 777 . &&
    setpriv --reuid 65534 --clear-groups sh -c 'echo y >>su' && [ \$(stat -c %a su) = 777 ]"
if command -v setfacl >/dev/null; then
    check "a default ACL takes the place of the umask" bash -c "
        mkdir '$M/acl' && setfacl -d -m u:65534:rwx,g::rwx,o::rx '$M/acl' && umask 077 && touch '$M/acl/f' &&
        getfacl -cpn '$M/acl/f' | grep -q '^user:65534:rwx'"
fi
umount.dumont w1

# --- stores that are none
echo text >"$SCRATCH/a-file"
refused "a store that is a file" 32 "$SCRATCH/a-file" mount -t dumont w3 "$M" -o "store=$SCRATCH/a-file"
cp -a "$DUMONT_STATE/w1" "$DUMONT_STATE/broken"
head -c 4096 /dev/urandom | dd of="$DUMONT_STATE/broken/workspace.db" conv=notrunc 2>/dev/null
refused "a database that is none" 32 "not a database" mount -t dumont broken "$M"
cp -a "$DUMONT_STATE/w1" "$DUMONT_STATE/nodb"
rm "$DUMONT_STATE/nodb/workspace.db"
refused "a store without workspace.db" 32 'there is no workspace "nodb"' mount -t dumont nodb "$M"
check "none of them is mounted or left behind" ended
check_status "the good one still mounts" 0 mount -t dumont w1 "$M"
check_eq "and is whole" "$(cat "$M/file" "$M/synced" "$M/more" | tr '\n' ' ')" "hello synced more "
umount.dumont w1
check "no sanitizer has anything to say" not grep -rq "Sanitizer\|runtime error:" "$DUMONT_LOG"
finish
