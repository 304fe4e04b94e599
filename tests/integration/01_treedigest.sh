#!/bin/bash
# treedigest sees every difference that counts, and none that does not.
# time: 60
. "$(dirname "$0")/../lib/sh/lib.sh"
require setfattr setfacl "$BIN/treedigest"

A=$SCRATCH/a B=$SCRATCH/b
digest() { "$BIN/treedigest" "$@"; }

make_tree() {
    mkdir -p "$1/d/e" && echo hello >"$1/d/file" && printf 'x\0y' >"$1/bin" && ln "$1/d/file" "$1/linked" &&
        ln -s d/file "$1/sym" && truncate -s 1M "$1/sparse" && echo end >>"$1/sparse" && mkfifo "$1/fifo" &&
        echo 1 >"$1/two" && echo 1 >"$1/three" && echo n >"$1/$(printf 'new\nline\377')" && mkdir "$1/out" &&
        echo excluded >"$1/out/x" && setfattr -n user.a -v 1 "$1/d/file" && setfattr -n user.b -v 2 "$1/d"
    find "$1" -exec touch -h -d '2020-01-01 10:00:00.123456789' {} +
}
make_tree "$A"
cp -a --sparse=never "$A" "$B"
check "a copy, without its holes, is the same" test "$(digest "$A")" = "$(digest "$B")"
want=$(digest "$B")

# differs NAME COMMAND...: after the command the digest of $B is another, and the listing shows it; then $B is made anew.
differs() {
    local name=$1
    shift
    "$@" || { not_ok "$name" "$* failed"; return; }
    if [ "$(digest "$B")" = "$want" ]; then
        not_ok "$name" "the digest is the same"
    elif diff <(digest -l "$A") <(digest -l "$B") >/dev/null; then
        not_ok "$name" "the listing is the same"
    else
        ok "$name"
    fi
    rm -rf "$B"
    cp -a "$A" "$B"
}
# The time of the change itself must not be what is seen.
keeping_mtime() { # FILE COMMAND...
    local f=$1
    shift
    touch -r "$f" "$SCRATCH/ref" && "$@" && touch -h -r "$SCRATCH/ref" "$f"
}
relink() { ln -f "$B/two" "$B/three" && touch -r "$A/two" "$B/two" && touch -r "$A" "$B"; }
unlink_again() { cp -a --remove-destination "$A/linked" "$B/linked" && touch -r "$A" "$B"; }
resym() { ln -sfn d/fily "$B/sym" && touch -h -r "$A/sym" "$B/sym" && touch -r "$A" "$B"; }
retype() { rm "$B/fifo" && : >"$B/fifo" && touch -r "$A/fifo" "$B/fifo" && touch -r "$A" "$B"; }

differs "one byte" keeping_mtime "$B/bin" invert "$B/bin" 2
differs "size" keeping_mtime "$B/sparse" truncate -s 2M "$B/sparse"
differs "mode" chmod 600 "$B/two"
differs "owner" chown 1234 "$B/two"
differs "owner of a symlink" chown -h 1234 "$B/sym"
differs "mtime, one nanosecond" touch -d '2020-01-01 10:00:00.123456788' "$B/two"
differs "mtime of a directory" touch -d '2020-01-01 10:00:01' "$B/d"
differs "mtime of a symlink" touch -h -d '2020-01-01 10:00:01' "$B/sym"
differs "xattr value" keeping_mtime "$B/d" setfattr -n user.b -v 3 "$B/d"
differs "xattr gone" setfattr -x user.a "$B/d/file"
differs "trusted xattr" setfattr -n trusted.t -v 1 "$B/two"
differs "acl" setfacl -m u:1234:r "$B/two"
differs "two files become links" relink
differs "a link becomes a copy" unlink_again
differs "symlink target" resym
differs "type" retype
differs "name" keeping_mtime "$B" mv "$B/two" "$B/twO"
differs "an empty directory" keeping_mtime "$B/d" rmdir "$B/d/e"

cat "$B/two" >/dev/null
touch -a "$B/two" "$B/d"
chmod 600 "$B/two" && chmod 644 "$B/two"
check_eq "atime and ctime do not count" "$(digest "$B")" "$want"
for i in $(seq 500); do : >"$B/d/e/$i-with-a-long-name-that-makes-the-directory-grow"; done
rm "$B"/d/e/* && touch -r "$A/d/e" "$B/d/e"
check_eq "the size of a directory does not count" "$(digest "$B")" "$want"

echo more >"$B/out/y"
check "prefix is left out" test "$(digest -x out "$A")" = "$(digest -x out "$B")"
check "a prefix is whole names" test "$(digest -x ou "$A")" != "$(digest -x ou "$B")"
check "regex is left out" test "$(digest -X '^out(/|$)' "$A")" = "$(digest -X '^out(/|$)' "$B")"
check_status "no such directory" 2 digest "$SCRATCH/none"
check_status "no directory given" 2 digest
finish
