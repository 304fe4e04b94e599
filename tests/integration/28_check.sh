#!/bin/bash
# time: 200
# `dumont check`: one damage after another is planted in a real store; each is found, by a sentence of its kind, with exit 4 and not one byte changed. A repair does what
# docs/operations.md says, told before; where something may be lost it is refused and changes nothing. A sound store, however it came about, gives no finding.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq sqlite3 setfattr

M=$SCRATCH/mnt
S=$DUMONT_STATE/w
REF=$SCRATCH/ref

# sound NAME WORKSPACE
sound() { check_eq "sound: $1" "$(dumont check "$2" --json 2>&1; echo "exit $?")" "[]
exit 0"; }
sql() { sqlite3 "$S/workspace.db" "$@"; }
ino() { sqlite3 "$REF/workspace.db" "SELECT ino FROM dentry WHERE name=CAST('$1' AS BLOB)"; }
# said NAME WANTED COMMAND...: its exit status; stdout and stderr are then in $OUT and $ERR (.check is written anew by each check).
OUT=$SCRATCH/out ERR=$SCRATCH/err
said() {
    local name=$1 want=$2 status=0
    shift 2
    "$@" >"$OUT" 2>"$ERR" || status=$?
    check_eq "$name" "exit $status" "exit $want" && return 0
    tail -n 20 "$OUT" "$ERR" | sed 's/^/#   /'
}
# All bytes of a store but those that are nobody's (the lock's pid, SQLite's index of an empty log), and but for a journal that is shared with the original.
bytes() { (cd "${1:-$S}" && find . -type f ! -name lock ! -name '*-shm' ! -name '*-wal' \( ! -path './journal/*' -o -links 1 \) -print0 | sort -z | xargs -0 sha256sum && find . ! -type f | sort) | sha256sum; }
# The journal is shared with the original until a plant asks for a copy: nothing but a mount writes to it.
restore() { rm -rf "$S" && mkdir -m 700 "$S" && (cd "$REF" && cp -al journal "$S/" && find . -mindepth 1 -maxdepth 1 ! -name journal -exec cp -a {} "$S/" \;); }
own_journal() { rm -r "$S/journal" && cp -a --sparse=always "$REF/journal" "$S/"; }

# planted repair|refuse KIND 'TEXT (extended regex)' COMMAND...: plants by the command in a fresh copy of the store.
planted() {
    local can=$1 kind=$2 text=$3 before what
    shift 3
    what="$kind: $(printf '%s' "$*" | cut -c1-70)"
    restore
    "$@" >"$SCRATCH/plant.out" 2>&1 || { not_ok "$what" "cannot plant it: $(tail -n 1 "$SCRATCH/plant.out")" && return; }
    before=$(bytes)
    said "$what: exit 4" 4 dumont check w --json
    check "$what: found" jq -e --arg k "$kind" --arg t "$text" 'any(.[]; .kind == $k and (.text | test($t)) and (.todo | length > 0))' "$OUT" || cat "$OUT"
    check_eq "$what: nothing is changed by looking" "$(bytes)" "$before"
    if [ "$can" = refuse ]; then
        said "$what: a repair is refused" 4 dumont check w --repair
        check "$what: it says why and what to do" grep -q '^dumont: nothing was repaired: something in w may be lost' "$ERR" || cat "$ERR"
        check_eq "$what: and nothing is changed" "$(bytes)" "$before"
    else
        said "$what: it is repaired" 0 dumont check w --repair
        check "$what: told before" grep -q '^repair: ' "$OUT" || cat "$OUT"
        sound "$what, after the repair" w
    fi
}
# by SQL, in one transaction
db() { local can=$1 kind=$2 text=$3; shift 3; planted "$can" "$kind" "$text" sql "BEGIN; $*; COMMIT"; }

# --- stores that are sound
ws_create fresh
sound "made, never mounted" fresh
ws_create w "archive=file://$SCRATCH/archive" && mkdir "$SCRATCH/archive"
ws_mount w "$M" || die "mount"
(
    cd "$M" || exit 1
    mkdir -p d/e/f c and/more
    echo hello >d/f1 && ln d/f1 d/g1 && ln -s d/f1 s && setfattr -n user.k -v one d/f1
    head -c 3000000 /dev/urandom >big && cp big lost && sync big lost
    head -c 100000 /dev/urandom >mid && truncate -s 1G sp && printf x | dd of=sp bs=1 seek=500M conv=notrunc 2>/dev/null
    echo two >two && ln two too && mkfifo pipe && echo empty >keep
)
dumont snapshot create w one >/dev/null
(
    cd "$M" || exit 1
    echo other >d/f1 && setfattr -n user.k -v two d/f1 && rm lost two && mv d/e c/e2 && mkdir c/e2/new
    head -c 50000 /dev/urandom | dd of=mid bs=50000 conv=notrunc 2>/dev/null && head -c 1500000 /dev/urandom | dd of=big bs=1500000 conv=notrunc 2>/dev/null && sync big
)
check "a rollback of one path: ranges are shared" dumont rollback w one /lost
dumont snapshot create w two >/dev/null
ws_crash w
sound "after kill -9" w
said "after kill -9 there is nothing to repair" 0 dumont check w --repair
ws_mount w "$M" || die "mount"
said "a store in use is not repaired" 2 dumont check w --repair
check "it says what to do" grep -q 'Unmount it first' "$ERR"
check "everything in the archive" dumont flush w --to archive
ws_umount "$M"
sound "after snapshots and a rollback" w
dumont workspace create restored --from "file://$SCRATCH/archive" >/dev/null
sound "restored from the archive" restored
tree() { "$BIN/treedigest" "$M" | head -1; }

# the original of all copies; what nobody needs for a check is left out, so that copies are quick
rm -f "$S/ballast" "$S"/journal/spare-*
cp -a --sparse=always "$S" "$REF"
sqlite3 "$REF/workspace.db" 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null && rm -f "$REF"/workspace.db-*
whole_ref() { (cd "$REF" && find . -type f ! -name lock -print0 | sort -z | xargs -0 sha256sum) | sha256sum; }
before_all=$(whole_ref)
F=$(ino f1) D=$(ino d) BIG=$(ino big) LOST=$(ino lost) MID=$(ino mid) SYM=$(ino s) C=$(ino c) E=$(ino e2) K=$(ino keep) NEW=999
check "the store has what is to be damaged" test "$(sqlite3 "$REF/workspace.db" "SELECT (SELECT count(*) FROM inode_h)>5 AND (SELECT count(*) FROM dentry_h)>2 AND (SELECT count(*) FROM xattr_h)>0
 AND (SELECT count(*) FROM extent_h WHERE data IS NULL)>2 AND (SELECT count(*) FROM extent WHERE ino<>owner)>0 AND (SELECT count(*) FROM extent WHERE serial=0)>0 AND (SELECT count(*) FROM epoch)>1")" = 1

# --- the database as such
planted refuse database 'not a database' dd if=/dev/urandom of="$S/workspace.db" bs=4096 count=1 conv=notrunc
planted refuse database 'No such file' rm "$S/workspace.db"
page() { dd if=/dev/urandom of="$S/workspace.db" bs=4096 count=1 seek="$(sql "SELECT rootpage-1 FROM sqlite_schema WHERE name='$1'")" conv=notrunc; }
planted refuse database '^database: ' page dentry
planted refuse database '^database: ' page extent_h
db refuse schema 'extent_shared is missing' 'DROP INDEX extent_shared'
planted refuse database 'has format 7' sql 'PRAGMA user_version=7'
db refuse database 'whose it is' "DELETE FROM meta WHERE key='.chain'"
db refuse database 'not complete' "INSERT INTO meta VALUES('resync',1)"
planted refuse database 'not complete' cp "$S/workspace.db" "$S/resync.db"
# without INDEX STATEMENT: while SQLite does not know of the index
without() {
    local row
    row=$(sql "SELECT quote(name)||','||quote(tbl_name)||','||rootpage||','||quote(sql) FROM sqlite_schema WHERE name='$1'")
    sql "PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE name='$1'" && sql "$2" &&
        sql "PRAGMA writable_schema=ON; INSERT INTO sqlite_schema VALUES('index',$row)"
}
planted repair index 'missing from index dentry_cookie' without dentry_cookie "INSERT INTO dentry SELECT parent,x'7a7a',ino,next_cookie,type,born FROM dentry JOIN (SELECT next_cookie FROM inode WHERE ino=1) WHERE ino=$K; UPDATE inode SET next_cookie=next_cookie+1 WHERE ino=1; UPDATE inode SET nlink=2 WHERE ino=$K"
planted refuse database 'wrong # of entries in index extent_shared' without extent_shared "UPDATE extent SET flags=0"

# --- names and links
db refuse root 'root directory is missing' 'DELETE FROM inode WHERE ino=1'
db refuse dangling "entry \"f1\".* names inode $F, which does not exist" "DELETE FROM inode WHERE ino=$F"
db refuse type "entry \"big\".* another type" "UPDATE dentry SET type=0x4000 WHERE ino=$BIG"
db refuse parent "lies in $F, which is no directory" "UPDATE dentry SET parent=$F WHERE name=x'6d6964'"
db refuse name 'has a name that cannot be' "UPDATE dentry SET name=x'612f62' WHERE ino=$BIG"
db repair cookie 'not below 3' 'UPDATE inode SET next_cookie=3 WHERE ino=1'
db refuse cookie-low 'which is none' "UPDATE dentry SET cookie=1 WHERE ino=$BIG"
db refuse links-high "inode $BIG has 1 names and says 5: a name may be lost" "UPDATE inode SET nlink=5 WHERE ino=$BIG"
db refuse links-high "inode $F has 1 names and says 2" "DELETE FROM dentry WHERE name=x'6731'"
db repair links "inode $F has 2 names and says 1" "UPDATE inode SET nlink=1 WHERE ino=$F"
db repair orphan "inode $F is marked as unlinked and has a name" "UPDATE inode SET flags=flags|1 WHERE ino=$F"
copy_of="mode,%s,uid,gid,rdev,%s,0,atime,mtime,ctime,btime,0,0,epoch,seq,0 FROM inode WHERE ino=$K"
more_inodes="UPDATE meta SET val=val+1 WHERE key='.inodes'; UPDATE meta SET val=x'ff0f000000000000' WHERE key='ws.next_ino'"
# shellcheck disable=SC2059
inode_like_keep() { printf "INSERT INTO inode SELECT $NEW,$copy_of; $more_inodes" "$1" "$2"; }
db repair nameless "inode $NEW has no name and is no orphan" "$(inode_like_keep 0 0)"
db repair orphans '1 inodes are marked .* names 0' "$(inode_like_keep 0 1)"
db refuse dirnames "directory $D has 2 names" "INSERT INTO dentry SELECT parent,x'7a',ino,next_cookie,type,born FROM dentry JOIN (SELECT next_cookie FROM inode WHERE ino=1) WHERE ino=$D; UPDATE inode SET next_cookie=next_cookie+1,nlink=nlink+1 WHERE ino=1"
db repair dirparent "directory $D lies in 1 and says 77" "UPDATE inode SET parent=77 WHERE ino=$D"
db repair subdirs 'directory 1 has . directories in it and says' 'UPDATE inode SET nlink=nlink-1 WHERE ino=1'
db refuse subdirs-high 'one may be lost' 'UPDATE inode SET nlink=nlink+1 WHERE ino=1'
db refuse unreachable "directory $C cannot be reached" "UPDATE dentry SET parent=$E, cookie=(SELECT next_cookie FROM inode WHERE ino=$E) WHERE ino=$C; UPDATE inode SET parent=$E WHERE ino=$C; UPDATE inode SET nlink=nlink+1, next_cookie=next_cookie+1 WHERE ino=$E; UPDATE inode SET nlink=nlink-1 WHERE ino=1"

# --- inodes, attributes, content
db refuse inode "inode $BIG has no possible" "UPDATE inode SET size=-5 WHERE ino=$BIG"
db refuse symlink "symbolic link $SYM has lost its target" "DELETE FROM content WHERE ino=$SYM"
db refuse xattr "attributes of inode $NEW have no inode" "UPDATE xattr SET ino=$NEW"
db refuse xattr 'that cannot be' "UPDATE xattr SET name=x'6100'"
db refuse xattr-lost "inode $F says that it has attributes and has none" 'DELETE FROM xattr'
db repair xattr-mark "inode $F has attributes and does not say so" "UPDATE inode SET flags=0 WHERE ino=$F"
db refuse content 'both in a row and in data files' "INSERT INTO content VALUES($BIG,x'61',1,NULL)"
db refuse content "content of inode $NEW has no inode" "UPDATE content SET ino=$NEW WHERE ino=$K"
db refuse content "inode $D is no file and has content" "UPDATE content SET ino=$D WHERE ino=$K"
db refuse range 'overlap at' "UPDATE extent SET len=len+1 WHERE ino=$BIG AND off=0"
db refuse range 'is empty' "UPDATE extent SET len=0 WHERE ino=$BIG AND off=0"
db refuse range 'behind the end of the file' "UPDATE inode SET size=7 WHERE ino=$BIG"
db refuse small "small content of inode $K .* damaged" "UPDATE content SET data=zeroblob(70000) WHERE ino=$K"
db refuse small "small content of inode $K .* damaged" "UPDATE content SET map=x'0102' WHERE ino=$K"
db refuse small "inode $K says 3 bytes" "UPDATE inode SET size=3 WHERE ino=$K"
db refuse small "allocated bytes and its small content has" "UPDATE inode SET alloc=3 WHERE ino=$K; UPDATE meta SET val=val-3 WHERE key='.live_bytes'"
db refuse alloc-high "inode $BIG says .* a range may be lost" "DELETE FROM extent WHERE ino=$BIG AND off=0"
db repair alloc "inode $BIG says 5 allocated bytes" "UPDATE inode SET alloc=5 WHERE ino=$BIG"

# --- data files in rows
db repair mark "behind the mark of data file $BIG.1" "UPDATE datafile SET hwm=1 WHERE ino=$BIG AND serial=1"
db repair mark "behind the mark of data file $BIG.1" "DELETE FROM datafile WHERE ino=$BIG AND serial=1"
db refuse shared 'without the mark shared' "UPDATE extent SET flags=flags & ~1 WHERE ino=$LOST"
db refuse twice 'belong to two rows' "UPDATE extent SET foff=(SELECT foff FROM extent WHERE ino=$BIG AND off=0), owner=$BIG, serial=(SELECT serial FROM extent WHERE ino=$BIG AND off=0) WHERE ino=$BIG AND off=(SELECT max(off) FROM extent WHERE ino=$BIG)"
db repair unused "data file $NEW.1 is noted and nothing refers" "INSERT INTO datafile VALUES($NEW,1,5)"
db repair garbage "data file $BIG.1 is noted as garbage and in use" "INSERT INTO garbage VALUES($BIG,1,0,0)"
db repair garbage "data file $MID.0 is noted as garbage and in use" "INSERT INTO garbage VALUES($MID,0,0,4096)"
db refuse missing 'is empty or before' "INSERT INTO missing VALUES($BIG,0,1,0,$BIG,1,0,0,0)"
db refuse missing 'behind the mark' "INSERT INTO missing VALUES($BIG,0,1,9,$BIG,8,0,0,0)"
db repair missing-gone "of inode $NEW, which does not exist" "INSERT INTO missing VALUES($NEW,0,1,9,$BIG,1,0,0,0)"
db repair keep "fallback of inode $NEW is of no inode" "INSERT INTO keep VALUES($NEW,$BIG,1,1,1)"

# --- the whole
for c in inodes live_bytes pinned_bytes; do
    db repair counter 'is noted as' "UPDATE meta SET val=val-1 WHERE key='.$c'"
    db refuse counter-high 'rows may be lost' "UPDATE meta SET val=val+1 WHERE key='.$c'"
done
db refuse newer 'row of table inode' "UPDATE inode SET seq=1000000000 WHERE ino=$F"
db refuse newer 'row of table snapshot' "UPDATE snapshot SET seq=1000000000 WHERE name='two'"
db refuse epoch 'does not follow' 'UPDATE epoch SET parent=99 WHERE epoch=(SELECT max(epoch) FROM epoch)'
db refuse epoch 'of which it knows nothing' 'DELETE FROM epoch WHERE epoch=(SELECT max(epoch) FROM epoch)'
db repair value 'ws.next_ino is 3' "UPDATE meta SET val=x'0300000000000000' WHERE key='ws.next_ino'"
db repair value 'ws.next_snap is missing' "DELETE FROM meta WHERE key='ws.next_snap'"
db repair orphans 'names 1' "UPDATE meta SET val=x'0300000000000000' WHERE key='ws.orphans'"
db refuse value 'list of incomplete files' "UPDATE meta SET val=x'ffff00000000' WHERE key='ws.incomplete'"

# --- what snapshots show
db refuse history 'inode .* ends before it begins' 'UPDATE inode_h SET died=seq'
db refuse history 'entry .* ends before it begins' 'UPDATE dentry_h SET born=died'
db refuse history 'content .* ends before it begins' 'UPDATE extent_h SET len=len+1 WHERE data IS NOT NULL'
db refuse snapshot 'epoch that is not known' "UPDATE snapshot SET epoch=5 WHERE name='one'"
db refuse snapshot-name "snapshot 'one': entry .* did not exist then" "DELETE FROM inode_h WHERE ino=$F"
db refuse snapshot-name 'entries lie in directory' "DELETE FROM inode_h WHERE ino=$D"
db refuse snapshot-content "snapshot 'one': content is of inode $F" "DELETE FROM inode_h WHERE ino=$F"
db refuse snapshot-content "snapshot 'one': attributes are of inode $F" "DELETE FROM inode_h WHERE ino=$F"
db refuse snapshot-links "snapshot 'one': inode .* says 1 names and has 0" "DELETE FROM dentry_h WHERE name=CAST('lost' AS BLOB)"
db refuse snapshot-links "snapshot 'one': directory $E is not once in" "DELETE FROM dentry_h WHERE ino=$E"
db refuse snapshot-tree "snapshot 'one': directory $E cannot be reached" "UPDATE inode_h SET parent=$E WHERE ino=$E"
db refuse snapshot-range 'overlap in a snapshot' "INSERT INTO extent_h SELECT ino,off+1,died,len,owner,serial,foff,flags,born,data FROM extent_h WHERE ino=$F"
db refuse counter-high 'pinned bytes' "DELETE FROM extent_h WHERE ino=$F"

# --- files
data_of() { printf '%s/data/%02x/%s.%s' "$S" $(($1 & 255)) "$1" "$2"; }
planted refuse file "data file $BIG.1.* cannot be read" rm "$(data_of "$BIG" 1)"
planted refuse short "data file $BIG.1 has 1000 bytes" truncate -s 1000 "$(data_of "$BIG" 1)"
planted refuse short "data file $MID.0 has" truncate -s -1 "$(data_of "$MID" 0)"
no_file() { rm "$(data_of "$MID" 0)" && mkdir "$(data_of "$MID" 0)"; }
planted refuse file "data file $MID.0 is no file" no_file
put() { mkdir -p "$(dirname "$S/$1")" && echo bytes >"$S/$1"; }
planted repair stray 'data/90/400.0 is of an inode that is gone' put data/90/400.0
planted repair stray 'data/00/stranger is no data file' put data/00/stranger
planted repair stray "data/01/$BIG.1 is no data file" put "data/01/$BIG.1"
planted repair stray 'data/stranger is no folder' put data/stranger
planted repair stray 'stranger is no part of a store' put stranger
planted repair stray 'scratch is left of something' put scratch/workspace.db
planted repair stray 'workspace.db.new is left' put workspace.db.new
planted repair stray 'journal/stranger is no part' put journal/stranger
planted repair stray 'branches/epoch-1.1-a.new is left' put branches/epoch-1.1-a.new/x
restore && put branches/epoch-1.1-a.copy/0000000000000001.seg && put branches/epoch-1.0-b.removed
sound "a copy of a branch under way, and a branch that was removed" w
planted repair folder 'data/fe is missing' rmdir "$S/data/fe"
restore && put stranger && dumont check w --repair >/dev/null && put stranger
said "a second stray of the same name finds room" 0 dumont check w --repair
check_eq "no byte of a stray is lost" "$(cat "$S/lost+found/stranger" "$S/lost+found/stranger.1" | sort | uniq -c | tr -s ' ')" " 2 bytes"

# --- journal. It has one segment here; its parts are in tests/unit/journal, several segments below.
planted refuse journal 'journal is empty' rm -r "$S/journal"
damage() { own_journal && invert "$(ls "$S"/journal/*.seg | head -1)" "$1"; }
planted refuse journal 'damaged at offset|begins after|journal' damage 5000
planted refuse journal 'damaged|begins after|journal' damage 100
other_lineage() { rm -r "$S/journal" && cp -a --sparse=always "$DUMONT_STATE/other/journal" "$S/"; }
ws_create other && ws_mount other "$M" && echo x >"$M/x" && ws_umount "$M"
planted refuse journal 'belongs to another workspace' other_lineage
intent() {
    python3 - "$S/intent" <<'PY'
import struct, sys
r = b"DMTINT1\0" + struct.pack("<QQQ", 1 << 32 | 1, 10**6, 7)
c = 0xffffffff
for b in r:
    c ^= b
    for _ in range(8):
        c = c >> 1 ^ (0x82f63b78 if c & 1 else 0)
open(sys.argv[1], "wb").write(r + struct.pack("<Q", c ^ 0xffffffff))
PY
}
command -v python3 >/dev/null && planted refuse journal 'hold bytes of records up to 1000000' intent
check_eq "the original was not touched by all that" "$(whole_ref)" "$before_all"

# --- many of one kind are counted; one that is refused keeps all others from being repaired
restore
sql "UPDATE dentry SET cookie=cookie+1000; $(for i in $(seq 60); do printf "INSERT INTO keep VALUES(%d,1,1,1,1);" $((5000 + i)); done)"
said "60 of a kind" 4 dumont check w
check "20 are said, the others counted" bash -c "[ \$(grep -c 'fallback of inode' '$OUT') = 20 ] && grep -q 'and 40 more' '$OUT'"
check "it says how to go on" grep -q 'dumont check w --repair' "$OUT"
sql "UPDATE inode SET nlink=9 WHERE ino=$BIG"
before=$(bytes)
said "one more, which has no repair" 4 dumont check w --repair --json
check_eq "nothing was repaired" "$(jq -c .repaired "$OUT")" "[]"
check_eq "and nothing changed" "$(bytes)" "$before"

# --- everything that can be repaired, at once; then it is a workspace again
restore && own_journal
sql "UPDATE inode SET next_cookie=3 WHERE ino=1; UPDATE inode SET nlink=1, flags=0 WHERE ino=$F; UPDATE inode SET parent=77, nlink=1 WHERE ino=$D; $(inode_like_keep 0 0); INSERT INTO garbage VALUES($BIG,1,0,0);
 UPDATE datafile SET hwm=1; UPDATE inode SET alloc=5 WHERE ino=$BIG; UPDATE meta SET val=0 WHERE key IN ('.inodes','.live_bytes','.pinned_bytes')"
put data/90/400.0 && put stranger
said "all at once: repaired" 0 dumont check w --repair --json
check "each was told" jq -e '(.repaired | length) >= 11 and .left == [] and (.found | length) >= 11' "$OUT" || cat "$OUT"
sound "after all repairs" w
check "it mounts" ws_mount w "$M"
repaired=$(tree)
check "what was in use is there" bash -c "cmp <(dd if='$M/big' bs=1 skip=2999000 2>/dev/null) <(tail -c 1000 '$M/.snapshots/one/big') && [ \$(cat '$M/d/g1') = other ] && [ \$(getfattr --only-values -n user.k '$M/d/f1') = two ]"
check "it takes writes, in every directory" bash -c "cd '$M' && for d in . d c c/e2; do echo new >\$d/new1 && mkdir \$d/sub || exit 1; done && head -c 2000000 /dev/urandom >>big && sync big"
check "and a name goes" bash -c "cd '$M' && rm d/g1 && test \"\$(cat d/f1)\" = other"
ws_umount "$M"
sound "and is sound after that" w
check_eq "the unlinked inode was reaped" "$(sql "SELECT count(*) FROM inode WHERE ino=$NEW")" 0
rm -rf "$S" && cp -a --sparse=always "$REF" "$S"
ws_mount w "$M"
check_eq "the tree is that of the store before the damage" "$repaired" "$(tree)"
ws_umount "$M"

# --- records that the rows do not have yet: files of theirs are no strays, and a repair waits
ws_mount w "$M"
bash -c "cd '$M' && head -c 3000000 /dev/urandom >fresh && sync fresh"
ws_crash w
sound "by-reference bytes that only the journal knows of" w
sqlite3 "$S/workspace.db" "INSERT INTO keep VALUES(5000,1,1,1,1)"
before=$(bytes)
said "a repair before they are in the rows" 4 dumont check w --repair
check "is put off, with a sentence" grep -q 'the journal of w has records that the database has not' "$ERR"
check_eq "it changes nothing" "$(bytes)" "$before"
ws_mount w "$M" && ws_umount "$M"
sound "the mount has dropped it, too" w

# --- several segments: the journal waits for an archive that is away
ws_create j "archive=file://$SCRATCH/none/archive"
ws_mount j "$M"
text=$(head -c 45000 /dev/urandom | base64 -w 0)
for i in $(seq 1 3600); do printf %s "$text" >"$M/f$((i % 50))" || break; done # too small to go by reference
sync "$M/f1"
ws_umount "$M"
J=$DUMONT_STATE/j/journal
segs=("$J"/*.seg)
check "the journal has three segments" test "${#segs[@]}" -ge 3
sound "a journal of ${#segs[@]} segments" j
# segment_lost NAME TEXT FILE
segment_lost() {
    mv "$3" "$SCRATCH/away"
    said "$1: exit 4" 4 dumont check j
    check "$1: said" grep -Eq "$2" "$OUT" || cat "$OUT"
    mv "$SCRATCH/away" "$3"
}
segment_lost "a gap" 'damaged at offset [0-9]+: record [0-9]+ cannot be read' "${segs[1]}"
# the last that is in use: a header stands in it
for s in "${segs[@]}"; do [ -n "$(head -c 8 "$s" | tr -d '\0')" ] && last=$s; done
segment_lost "the last segment" 'journal' "$last"
# another byte in the middle of the second, then half of it gone
cp --sparse=always "${segs[1]}" "$SCRATCH/good"
invert "${segs[1]}" 30000000
said "a record in the middle: exit 4" 4 dumont check j
check "a record in the middle: its segment and number are said" grep -Eq "$(basename "${segs[1]}") is damaged at offset [0-9]+: record [0-9]+" "$OUT"
cp --sparse=always "$SCRATCH/good" "${segs[1]}" && truncate -s 30000000 "${segs[1]}"
said "half a segment: exit 4" 4 dumont check j
cp --sparse=always "$SCRATCH/good" "${segs[1]}"
sound "all as it was" j

# --- a standby's store
pair_up p || die "pair"
bash -c "cd '$PAIR_MOUNT' && mkdir d && echo x >d/x && ln d/x y && head -c 3000000 /dev/urandom >big && sync big y"
at a dumont snapshot create p one >/dev/null
check "flush" at a dumont flush p --to standby
said "a standby that runs is in use" 2 at b dumont check p --repair
at b dumont workspace stop p >/dev/null
check_eq "sound: a standby's store" "$(at b dumont check p --json; echo "exit $?")" "[]
exit 0"
finish
