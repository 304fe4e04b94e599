#!/bin/bash
# time: 600
# The workspace process is killed under the mount, or replaced: programs notice nothing. What is open (unlinked, mapped, locked) goes on, tools wait for the successor, an unmount
# in between ends in order; then twenty rounds of tests/integration/takeover_loop.sh (fewer under a sanitizer, which is slow).
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require jq setfattr
M=$SCRATCH/mnt
killed_during() { # NAME COMMAND...: the command runs while the process is dead
    ws_kill "$1" && shift && "$@"
}
# a tool that was connected when the process died cannot know what became of its command, and says so: this one comes when it is gone
gone_during() {
    local pid
    pid=$(ws_pid "$1") && ws_kill "$1" && wait_until 30 not alive "$pid" && shift && "$@"
}

for syncfs in auto off; do
    ws_create "$syncfs" || die "create"
    ws_mount "$syncfs" "$M" "syncfs=$syncfs" || die "mount"
    exec 8<>"$M/open"
    echo before >&8
    rm "$M/open"
    exec 7<>"$M/locked"
    flock -x 7
    cd "$M" || exit 1
    check "$syncfs: a read" killed_during $syncfs bash -c "test \"\$(cat /proc/self/fd/8)\" = before"
    check "$syncfs: mkdir" killed_during $syncfs mkdir "$M/d"
    check "$syncfs: the working directory" killed_during $syncfs touch here
    check "$syncfs: an open file without a name" killed_during $syncfs bash -c "echo after >&8 && test \"\$(tr '\n' ' ' <  /proc/self/fd/8)\" = 'before after '"
    check "$syncfs: its inode still has no name" bash -c "test \$(stat -L -c %h /proc/self/fd/8) = 0"
    check "$syncfs: the lock" killed_during $syncfs not flock -n -x "$M/locked" true
    check "$syncfs: fsync" killed_during $syncfs sync "$M/here"
    check "$syncfs: syncfs" killed_during $syncfs sync -f "$M"
    check "$syncfs: xattr" killed_during $syncfs setfattr -n user.k -v v "$M/here"
    check "$syncfs: a tool waits for the successor" gone_during $syncfs dumont snapshot create $syncfs s1
    check "$syncfs: a restart on purpose" dumont workspace restart $syncfs
    check "$syncfs: mounting it again finds it mounted" killed_during $syncfs bash -c "mount.dumont $syncfs $M | grep -q 'already mounted'"
    cd / || exit 1
    used=$(ws_get $syncfs .inodes)
    exec 8>&- 7>&-
    check "$syncfs: what is closed is let go" wait_until 20 bash -c "test \$(dumont status $syncfs --json | jq .inodes) -lt $used"
    check "$syncfs: umount" killed_during $syncfs umount "$M"
    check "$syncfs: nothing is left" wait_until 30 no_workspaces
    check "$syncfs: the store is sound" dumont check $syncfs
done

# a rollback, whose news the kernel may not have heard
ws_create r || die "create"
ws_mount r "$M" || die "mount"
mkdir "$M/t"
for i in $(seq 200); do echo "one $i" >"$M/t/f$i"; done
dumont snapshot create r one >/dev/null
for i in $(seq 200); do echo "second $i" >"$M/t/f$i"; done
cat "$M"/t/* >/dev/null
check "roll back" dumont rollback r one
ws_kill r
check "a rollback before the death is what programs see after it" bash -c "for i in \$(seq 200); do test \"\$(cat $M/t/f\$i)\" = \"one \$i\" || exit 1; done"
check "unmount" ws_umount "$M"
check "a process that is not mounted is not restarted" not dumont workspace restart r
[ "$FAILURES" = 0 ] || finish
rounds=$([ -n "${SAN:-}" ] && echo 5 || echo 20)
"$ROOT/tests/integration/takeover_loop.sh" "$rounds" # its checks are said as they are
check_eq "$rounds rounds of SIGKILL under load" $? 0
finish
