#!/bin/bash
# time: 300
# Programs that people live in, on a real mount: git, SQLite with its writer killed and with the workspace process killed, make -j, rsync, tar, editors' ways
# of saving, a recursive watch. `make programs` has the slow ones (npm, venv, PostgreSQL, LMDB).
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
require git gcc make sqlite3 jq rsync tar setfattr getfattr stdbuf python3
M=$SCRATCH/mnt
digest() { "$BIN/treedigest" "$1" | head -1; }
export GIT_CONFIG_GLOBAL=$SCRATCH/gitconfig GIT_CONFIG_SYSTEM=/dev/null
printf '[user]\nname = t\nemail = t@example.org\n[safe]\ndirectory = *\n' >"$GIT_CONFIG_GLOBAL"

check "create" ws_create w || finish
ws_mount w "$M" || die "mount"

# --- a tree: rsync and tar there and back
mkdir "$SCRATCH/native"
(cd "$ROOT" && tar -cf - --exclude=./build --exclude=./.git .) | tar -xf - -C "$SCRATCH/native"
(
    cd "$SCRATCH/native" || exit
    ln README.md hard-1 2>/dev/null || ln Makefile hard-1
    ln hard-1 fs/hard-2
    ln -s nowhere dangling
    setfattr -n user.note -v "kept" Makefile
    setfattr -n user.dir -v "too" fs
    truncate -s 50M sparse && printf x | dd of=sparse bs=1 seek=20M conv=notrunc 2>/dev/null
    mkfifo fifo
    touch -d '1965-04-03 02:01:00.123456789' old
    chown 1234:4321 old && chmod 4711 old
)
want=$(digest "$SCRATCH/native")
# rsync gives directories, links and pipes nanoseconds of its own, even between two directories of one disk: no digest here
check "rsync -aHAXS to the mount" rsync -aHAXS "$SCRATCH/native/" "$M/rsynced/"
check_eq "a second run finds nothing to do" "$(rsync -aHAXSi --checksum "$SCRATCH/native/" "$M/rsynced/")" ""
check "rsync back" rsync -aHAXS "$M/rsynced/" "$SCRATCH/back/"
check_eq "the tree is the same again" "$(rsync -aHAXSin --checksum --delete "$SCRATCH/native/" "$SCRATCH/back/")" ""
check "tar with xattrs, holes and hard links" sh -c "tar -C '$SCRATCH/native' --xattrs --xattrs-include='*' --acls -Scf '$M/t.tar' . && mkdir '$M/untarred' && tar -C '$M/untarred' --xattrs --xattrs-include='*' --acls -xpf '$M/t.tar'"
check_eq "the tree is the same" "$(digest "$M/untarred")" "$want"
check "hard links are hard links" test "$M/untarred/hard-1" -ef "$M/untarred/fs/hard-2"
check "the hole is one" test "$(stat -c %b "$M/untarred/sparse")" -lt 1000
check "cp -a" cp -a "$M/untarred" "$M/copied"
check_eq "the tree is the same" "$(digest "$M/copied")" "$want"

# --- git
check "git: init, commits" bash -c "cd '$M/copied' && rm -f fifo && git init -q . && git add -A && git commit -qm one && for i in 1 2 3 4 5; do echo \$i >>Makefile; git commit -qam \$i; done"
check "git clone" git clone -q "$M/copied" "$M/clone"
check "git clone without links" git clone -q --no-hardlinks "$M/copied" "$M/clone2"
check "git gc" git -C "$M/clone2" gc -q --aggressive --prune=now
check "git repack, checkout of each commit" bash -c "cd '$M/clone' && for c in \$(git rev-list HEAD); do git checkout -q \$c || exit 1; done; git checkout -q - && git repack -adq"
for d in copied clone clone2; do
    check "git fsck: $d" git -C "$M/$d" fsck --strict --full
    check_eq "git status: $d" "$(git -C "$M/$d" status --porcelain)" ""
done
check "git worktree, stash, rebase" bash -c "cd '$M/clone2' && git worktree add -q ../wt -b other HEAD~2 && cd ../wt && echo x >new && git add new && git commit -qm new && git rebase -q origin/HEAD && echo y >>new && git stash -q && git stash pop -q && git diff --stat | grep -q new"

# --- make -j of a real project
check "make -j2" make -s -C "$M/rsynced" -j2 OPT=-O0 BUILD="$M/build" "$M/build/libbase.a"
check "a second make has nothing to do" make -s -q -C "$M/rsynced" OPT=-O0 BUILD="$M/build" "$M/build/libbase.a"

cleanup_fn stop sqlite
# --- SQLite: what was acknowledged is there after a kill of the writer, and of the workspace process
feed() { # MODE: one transaction a line, and a word when it is done
    echo "pragma journal_mode=$1; pragma synchronous=full; create table if not exists t(i integer primary key, x text);"
    local i
    for ((i = $(($2)); i < $2 + 100000; i++)); do
        echo "insert into t values($i, hex(randomblob(200))); select 'ack $i';"
    done
}
acked() { sed -n 's/^ack \([0-9]*\)$/\1/p' "$1" | tail -1; }
for mode in wal delete; do
    from=0
    for victim in writer writer workspace; do
        is_mounted "$M" || ws_mount w "$M" || die "mount again"
        feed $mode $from >"$SCRATCH/feed"
        : >"$SCRATCH/acks" # not what the round before has left there
        stdbuf -oL sqlite3 -batch "$M/$mode.db" <"$SCRATCH/feed" >"$SCRATCH/acks" 2>/dev/null &
        pid=$!
        PIDS[sqlite]=$pid
        check "SQLite, $mode: it commits" wait_until 30 sh -c "[ \$(grep -c '^ack' '$SCRATCH/acks') -ge 30 ]"
        if [ $victim = workspace ]; then
            ws=$(ws_pid w)
            kill -KILL "$ws"
            wait_until 20 not alive "$ws"
        fi
        stop sqlite KILL
        if [ $victim = workspace ]; then
            wait_until 20 sh -c "! mountpoint -q '$M' || timeout 5 stat '$M/.' >/dev/null 2>&1"
        fi
        is_mounted "$M" || ws_mount w "$M" || die "mount again"
        last=$(acked "$SCRATCH/acks")
        check_eq "SQLite, $mode, $victim killed: sound" "$(sqlite3 "$M/$mode.db" 'pragma integrity_check')" ok
        check_eq "SQLite, $mode, $victim killed: all that was acknowledged ($last)" "$(sqlite3 "$M/$mode.db" "select count(*) from t where i between $from and $last")" $((last - from + 1))
        from=$(($(sqlite3 "$M/$mode.db" 'select max(i) from t') + 1))
    done
done

# --- editors: a new file renamed over; backup by rename, then a new one; in place
check "editors" bash -c "mkdir '$M/ed' && cd '$M/ed' && echo 0 >f && exec 9<f
for i in \$(seq 30); do echo \$i >.f.swp && mv .f.swp f && test \"\$(cat f)\" = \$i || exit 1
mv f f~ && echo v\$i >f && sync f && rm f~ && test \"\$(cat f)\" = v\$i || exit 1
echo w\$i >f && test \"\$(cat f)\" = w\$i || exit 1; done; test \"\$(cat <&9)\" = 0"

# --- watching, as an IDE does: each directory of a tree; every file that git switches is told
check "a recursive watch sees all that a checkout changes" python3 - "$M/clone2" <<'END'
import ctypes, os, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
root = sys.argv[1]
fd = libc.inotify_init1(os.O_NONBLOCK)
dirs = {}
for d, sub, _ in os.walk(root):
    if ".git" in sub: sub.remove(".git")
    w = libc.inotify_add_watch(fd, d.encode(), 0x100 | 0x200 | 0x2 | 0x8 | 0x40 | 0x80)
    assert w >= 0
    dirs[w] = d
os.makedirs(root + "/x/y")
for i in range(300):
    open(f"{root}/fs/w{i}", "w").write("x")
for i in range(300):
    os.rename(f"{root}/fs/w{i}", f"{root}/w{i}")
seen, moved, buf = set(), set(), b""
while True:
    try: buf = os.read(fd, 65536)
    except BlockingIOError: break
    at = 0
    while at < len(buf):
        w, mask, cookie, n = struct.unpack_from("iIII", buf, at)
        name = buf[at + 16:at + 16 + n].rstrip(b"\0").decode()
        if mask & 0x100: seen.add(dirs[w] + "/" + name)
        if mask & 0x80: moved.add(name)
        at += 16 + n
assert root + "/x" in seen and all(f"{root}/fs/w{i}" in seen for i in range(300)), "created"
assert all(f"w{i}" in moved for i in range(300)), "moved"
END

before=$(digest "$M")
check "unmount" ws_umount "$M"
check "the store is sound" dumont check w
ws_mount w "$M"
check_eq "all is the same after a remount" "$(digest "$M")" "$before"
check "unmount" ws_umount "$M"
finish
