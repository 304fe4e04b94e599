#!/bin/bash
# time: 400
# A mount behaves as a good local filesystem does: the cases of tests/lib/bin/posix_*.c; quota and statfs; sync; what is the mount's own (order of sync and umount).
# NATIVE=1 runs the cases on the disk below first, where they must pass, too (it has to be ext4).
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require jq python3
M=$SCRATCH/mnt
PROGRAMS="posix_locks posix_data posix_names posix_attrs"

# Every line of a program is a check of its own.
cases() { # WHERE DIR PROGRAM
    local line
    mkdir -p "$2" && chmod 777 "$2" "$SCRATCH"
    "$BIN/$3" "$2" >"$SCRATCH/cases" 2>"$SCRATCH/cases.err"
    while read -r line; do
        case $line in
        "ok "*) ok "$1: ${line#ok }" ;;
        *) not_ok "$1: ${line#not ok }" "$(cat "$SCRATCH/cases.err")" ;;
        esac
    done <"$SCRATCH/cases"
    check "$1: $3 ends well" test -s "$SCRATCH/cases"
}

if [ -n "${NATIVE:-}" ]; then
    for p in $PROGRAMS; do cases native "$SCRATCH/native" "$p"; done
fi
check "create" ws_create w || finish
ws_mount w "$M" || die "mount"
for p in $PROGRAMS; do cases mount "$M/cases" "$p"; done
check_eq "nothing is left" "$(ls -A "$M/cases")" ""

# --- sync: after it everything is durable, whether the kernel passes it on or not is what the mount says
echo synced >"$M/s"
check "sync FILE" sync "$M/s"
check_eq "makes all that was before durable" "$(ws_get w '.durable == .tail')" true
if [ "$(findmnt -n -o FSTYPE "$M")" = fuseblk.dumont ]; then
    echo again >"$M/s"
    check "sync -f reaches the workspace" sync -f "$M/s"
    check_eq "and makes all durable" "$(ws_get w '.durable == .tail')" true
fi
# --- a bind mount of a part comes and goes, and the workspace goes on
mkdir "$M/part" "$SCRATCH/bind"
ln -s "$BUILD/mount.dumont" "$SCRATCH/umount.dumont"
check "mount --bind" mount --bind "$M/part" "$SCRATCH/bind"
check_eq "umount.dumont of the bind mount says nothing" "$("$SCRATCH/umount.dumont" "$SCRATCH/bind" 2>&1; echo $?)" 0
check "only that is gone" sh -c "! mountpoint -q '$SCRATCH/bind' && mountpoint -q '$M' && test ! -e '$DUMONT_RUN/w.stopped'"

# --- statfs is true to the disk below, less what the workspace keeps for itself
read -r here disk < <(echo "$(stat -f -c '%a*%S' "$M")" "$(stat -f -c '%a*%S' "$SCRATCH")")
check "free space is the disk's, less at most 1 GiB" test $((here)) -le $((disk)) -a $((here)) -ge $((disk - (1 << 30)))

# --- a rollback under open files: what was open shows the old content, what did not exist then lives on without a name
check "rollback under open files" python3 - "$M" <<'END'
import mmap, os, subprocess, sys
os.chdir(sys.argv[1])
old = os.open("old", os.O_CREAT | os.O_RDWR, 0o644)
os.pwrite(old, b"before" * 2000, 0)
subprocess.run(["dumont", "snapshot", "create", "w", "s"], check=True, stdout=subprocess.DEVNULL)
m = mmap.mmap(old, 12000)
m[:5] = b"AFTER"
os.pwrite(old, b"longer" * 3000, 6000)
os.link("old", "link")
new = os.open("new", os.O_CREAT | os.O_RDWR, 0o644)
os.pwrite(new, b"new", 0)
subprocess.run(["dumont", "rollback", "w", "s"], check=True, stdout=subprocess.DEVNULL)
assert os.fstat(old).st_size == 12000 and os.fstat(old).st_nlink == 1, os.fstat(old)
assert os.pread(old, 20000, 0) == b"before" * 2000, "descriptor"
assert m[:6] == b"before", "mapping"
assert not os.path.exists("new") and not os.path.exists("link")
assert os.fstat(new).st_nlink == 0 and os.pread(new, 9, 0) == b"new", "orphan"
os.pwrite(new, b"more", 3)
assert os.pread(new, 9, 0) == b"newmore"
m[:2] = b"ok"
m.flush()
assert os.pread(old, 6, 0) == b"okfore"
END
check "unmount" ws_umount "$M"
check "the store is sound" dumont check w

# --- quota
ws_mount w "$M" quota=16M || die "mount with quota"
check_eq "df shows the quota" "$(stat -f -c '%b %S' "$M" | awk '{ print $1 * $2 }')" 16777216
errno_of() { python3 - "$@" <<'END'
import errno, os, sys
try:
    fd = os.open(sys.argv[2], os.O_CREAT | os.O_RDWR, 0o644)
    if sys.argv[1] == "write":
        for i in range(int(sys.argv[3])):
            os.pwrite(fd, b"q" * 1048576, i << 20 if len(sys.argv) < 5 else 0)
    else:
        os.posix_fallocate(fd, 0, int(sys.argv[3]) << 20)
    print(0)
except OSError as e:
    print(errno.errorcode[e.errno])
END
}
check_eq "writing over the quota" "$(errno_of write "$M/q" 20)" EDQUOT
check "what fitted is there" test "$(stat -c %s "$M/q")" -ge $((14 << 20)) -a "$(stat -c %s "$M/q")" -le $((16 << 20))
check "little is left" test "$(stat -f -c %a "$M")" -lt 512
check_eq "fallocate over the quota" "$(errno_of fallocate "$M/a" 8)" EDQUOT
check "at the quota a file can be renamed and removed" sh -c "mv '$M/q' '$M/r' && rm '$M/r'"
check_eq "and its room is there at once" "$(errno_of write "$M/q" 12)" 0
check_eq "overwriting takes no room" "$(errno_of write "$M/q" 40 same)" 0
check "fill the rest" sh -c "head -c 4100000 /dev/zero >'$M/rest'"
check_eq "not even when nothing is left" "$(errno_of write "$M/q" 4 same)" 0
check "rm" rm "$M/q" "$M/rest"
check_eq "a new file of 12 MiB, again and again" "$(for _ in 1 2 3 4 5; do errno_of write "$M/q" 12 && rm "$M/q"; done | sort -u)" 0
check "unmount" ws_umount "$M"
check "mount with a smaller quota than is used" sh -c "mount.dumont w '$M' -o quota=4M && head -c 3000000 /dev/zero >'$M/x' && umount '$M'"
wait_until 30 not test -S "$DUMONT_RUN/w.sock"
check "the store is sound" dumont check w
finish
