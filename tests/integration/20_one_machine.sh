#!/bin/bash
# time: 240
# A workspace on one machine, with nothing but a name: real programs on a real mount, unmount, mount again, snapshots, rollback; digests compare.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require git gcc sqlite3 jq lz4

M=$SCRATCH/mnt
digest() { "$BIN/treedigest" "${1:-$M}" | head -1; }

check "create" ws_create notes
check "mount" ws_mount notes "$M"
check "mounting it again on the same directory is no error" ws_mount notes "$M"
check "it is mounted" is_mounted "$M"

# files, links, modes, times, attributes
cd "$M" || exit 1
check "small file" bash -c 'echo hello > a && test "$(cat a)" = hello'
check "hard link" bash -c 'ln a b && test "$(stat -c %h a)" = 2 && test a -ef b'
check "symbolic link" bash -c 'ln -s a s && test "$(readlink s)" = a && test "$(cat s)" = hello'
check "rename over" bash -c 'echo new > c && mv c a && test "$(cat a)" = new && test "$(cat b)" = hello'
check "directories" bash -c 'mkdir -p d/e/f && mv d/e g && rmdir g/f g d'
check "sparse file" bash -c 'truncate -s 1G sp && echo x | dd of=sp bs=1 seek=500M conv=notrunc 2>/dev/null && test "$(du -k sp | cut -f1)" -lt 2048'
check "nanosecond times" bash -c 'touch -d "2001-02-03 04:05:06.123456789" a && test "$(stat -c %y a | cut -c1-29)" = "2001-02-03 04:05:06.123456789"'
check "extended attributes" bash -c 'setfattr -n user.k -v val a && test "$(getfattr --only-values -n user.k a)" = val'
check "open but unlinked" bash -c 'exec 9<>u; echo gone >&9; rm u; exec 8</proc/self/fd/9; test "$(cat <&8)" = gone'
check "append from two programs" bash -c '(for i in $(seq 50); do echo $i >> ap; done) & for i in $(seq 50); do echo $i >> ap; done; wait; test "$(wc -l < ap)" = 100'
check "statfs" bash -c 'test "$(stat -f -c %b .)" -gt 0'
check "a name of 255 bytes" bash -c 'n=$(printf "%0255d" 0); echo x > $n && rm $n'
check "a name of 256 bytes is refused" not touch "$(printf '%0256d' 0)"

# programs
check "tar in and out" bash -c "tar -C $ROOT -cf - --exclude=./build --exclude=./.git . | tar -xf - --one-top-level=tree && diff -r --no-dereference -x build -x .git $ROOT tree"
check "git" bash -c 'cd tree && git init -q . && git add -A && git -c user.name=t -c user.email=t@example.org commit -qm one && git fsck --strict && git gc -q && test -z "$(git status --porcelain)"'
check "gcc" bash -c 'printf "int main(void){return 7;}\n" > p.c && gcc -o p p.c && ./p; test $? = 7'
check "SQLite, rollback journal" bash -c 'sqlite3 r.db "create table t(x); begin; insert into t values(1); commit; pragma integrity_check" | grep -qx ok'
check "SQLite, WAL" bash -c 'sqlite3 w.db "pragma journal_mode=wal; create table t(x); insert into t values(1)" >/dev/null && test "$(sqlite3 w.db "select count(*) from t")" = 1'
check "a file of 200 MB" bash -c 'head -c 200000000 /dev/urandom > big && sync big && sha256sum big > sum && sha256sum -c sum'
check "rewriting its middle" bash -c 'dd if=/dev/zero of=big bs=4096 count=100 seek=1000 conv=notrunc,fsync 2>/dev/null && sha256sum big > sum'

cd / || exit 1
before=$(digest)
# the sanitizers bring a malloc of their own
if [ -e /sys/kernel/mm/transparent_hugepage ] && [ -z "${SAN:-}" ]; then
    check "the heap asks for huge pages" awk '/^[0-9a-f]+-/ { heap = /\[heap\]$/ } heap && /^VmFlags:.* hg/ { found = 1 } END { exit !found }' "/proc/$(ws_pid notes)/smaps"
fi
check_eq "the process holds its store, and not only while it is open" "$(find "/proc/$(ws_pid notes)/fd" -lname '*/lock' | wc -l)" 2
check "unmount" ws_umount "$M"
check "nothing is mounted any more" not_mounted "$M"
check "the process ends" wait_until 10 not test -S "$DUMONT_RUN/notes.sock"
check "the store is sound" dumont check notes
check "mount again" ws_mount notes "$M"
check_eq "the tree is the same after a remount" "$(digest)" "$before"
check "the big file is the same" bash -c "cd $M && sha256sum -c sum"

# snapshots
check "snapshot" dumont snapshot create notes one
bash -c "cd $M && rm -rf tree/fs && echo changed > a && truncate -s 5 big && mv r.db moved.db && ln a again && mkdir newdir"
check "diff shows changes" bash -c "dumont snapshot diff notes one | grep -qx 'M /a'"
check "the snapshot shows the old file" bash -c "test \"\$(cat $M/.snapshots/one/a)\" = new"
check_eq "the snapshot's tree is the old one" "$(digest "$M/.snapshots/one")" "$before"
check "a snapshot cannot be written" not touch "$M/.snapshots/one/x"
now=$(digest)
check "dry run" bash -c "dumont rollback notes one --dry-run | grep -q 'would change'"
check_eq "a dry run changes nothing" "$(digest)" "$now"
check "roll back" dumont rollback notes one
check_eq "the tree is the old one" "$(digest)" "$before"
saved=$(dumont snapshot list notes --json | jq -r '.[].name' | grep before-rollback)
check "roll the rollback back" dumont rollback notes "$saved"
check_eq "the tree is as before the rollback" "$(digest)" "$now"
# all but /tree/fs and the directory that it is in
elsewhere() { "$BIN/treedigest" -l "$M" | sed '$d' | awk '$3 != "tree" && $3 != "tree/fs" && index($3, "tree/fs/") != 1' | sha256sum; }
rest=$(elsewhere)
check "roll back one path" dumont rollback notes one /tree/fs
check_eq "that path is the old one" "$(digest "$M/tree/fs")" "$(digest "$M/.snapshots/one/tree/fs")"
check_eq "and nothing else has changed" "$(elsewhere)" "$rest"
# "again" is another name of it: the same file, so the same content.
beside() { "$BIN/treedigest" -l "$M" | sed '$d' | grep -v ' a$\| again$'; }
beside >"$SCRATCH/beside"
check "roll back one path" dumont rollback notes one /a
check_eq "it is back" "$(cat "$M/a")" new
check_eq "by its other name, too" "$(cat "$M/again")" new
beside >"$SCRATCH/beside.now"
check "and nothing beside it changed" cmp "$SCRATCH/beside" "$SCRATCH/beside.now"
check "delete the snapshot" dumont snapshot delete notes one
check "it is gone" not test -e "$M/.snapshots/one/a"

check "receipt" bash -c "dumont receipt $M/a | grep -q 'journal here'"
mkdir "$M/last-one"
check "the log ends with the last operation" bash -c "dumont log notes --last 1 | grep -q last-one"
check_eq "status: state and copies" "$(ws_get notes '.state + ", one copy: " + (.one_copy | tostring)')" "alone, one copy: true"
check "unmount at the end" ws_umount "$M"
check "the store is sound at the end" dumont check notes
finish
