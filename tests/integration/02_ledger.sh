#!/bin/bash
# The ledger's judge accepts what a correct filesystem leaves, and catches every planted loss.
# time: 120
. "$(dirname "$0")/../lib/sh/lib.sh"
require "$BIN/ledger"
L=$BIN/ledger

# judged NAME good|bad DIR LEDGER [PATTERN]: the verdict, and for a bad one the reason.
judged() {
    local name=$1 want=$2 status=0
    "$L" judge --dir "$3" --ledger "$4" >"$SCRATCH/verdict" 2>&1 || status=$?
    if [ "$want" = good ] && [ $status != 0 ] || [ "$want" = bad ] && [ $status != 1 ]; then
        not_ok "$name" "exit $status"
        sed 's/^/#   /' "$SCRATCH/verdict"
    elif [ -n "${5:-}" ] && ! grep -qE "$5" "$SCRATCH/verdict"; then
        not_ok "$name" "no '$5' in the verdict"
        sed 's/^/#   /' "$SCRATCH/verdict"
    else
        ok "$name"
    fi
}

# --- a run that is ended, one that is killed

mkdir "$SCRATCH/a"
start writer "$L" write --dir "$SCRATCH/a" --ledger "$SCRATCH/a.ledger" --clients 4 --seed 7 --pause-us 100
big_enough() { [ "$(stat -c %s "$1")" -gt "$2" ]; }
check "the writer writes" wait_until 20 big_enough "$SCRATCH/a.ledger" 200000
stop writer
check_eq "the writer ends when asked" "$STATUS" 0
judged "a tree that lost nothing" good "$SCRATCH/a" "$SCRATCH/a.ledger"

mkdir "$SCRATCH/k"
start killed "$L" write --dir "$SCRATCH/k" --ledger "$SCRATCH/k.ledger" --clients 4 --seed 8 --bulk 1M
check "a second writer writes" wait_until 20 big_enough "$SCRATCH/k.ledger" 100000
stop killed KILL
judged "a killed writer, bulk files too" good "$SCRATCH/k" "$SCRATCH/k.ledger"
check_status "a ledger is never overwritten" 2 "$L" write --dir "$SCRATCH/k" --ledger "$SCRATCH/k.ledger"

# The mount goes away between two operations: paths lead to what is below it, and that is no loss.
mkdir "$SCRATCH/m" "$SCRATCH/held"
mount -t tmpfs none "$SCRATCH/m" && mkdir "$SCRATCH/m/w" && mount --bind "$SCRATCH/m" "$SCRATCH/held" || not_ok "a mount to take away"
start left "$L" write --dir "$SCRATCH/m/w" --ledger "$SCRATCH/m.ledger" --clients 4 --seed 9
check "a third writer writes" wait_until 20 big_enough "$SCRATCH/m.ledger" 100000
umount -l "$SCRATCH/m"
check "it ends with its mount" wait_until 20 not running left
judged "the mount of a writer is gone" good "$SCRATCH/held/w" "$SCRATCH/m.ledger" 'stopped by: No such device'

# --- planted losses in a finished run

mkdir "$SCRATCH/b"
"$L" write --dir "$SCRATCH/b" --ledger "$SCRATCH/b.ledger" --clients 2 --seed 3 --ops 500 >/dev/null
judged "a finished run" good "$SCRATCH/b" "$SCRATCH/b.ledger"

# planted NAME COMMAND...: done to a copy of the tree, it must be seen.
planted() {
    local name=$1
    shift
    rm -rf "$SCRATCH/c"
    cp -a "$SCRATCH/b" "$SCRATCH/c"
    if "$@"; then judged "$name" bad "$SCRATCH/c" "$SCRATCH/b.ledger" 'LOST|BROKEN'; else not_ok "$name" "could not plant"; fi
}
some_file() { find "$SCRATCH/c/c0" -type f -size +0 -links 1 | sort | head -n 1; }
delete_file() { rm "$(some_file)"; }
flip_byte() { invert "$(some_file)" 0; }
cut_file() { truncate -s -1 "$(some_file)"; }
extra_file() { : >"$SCRATCH/c/c0/extra"; }
break_link() { local f && f=$(find "$SCRATCH/c" -type f -links +1 | sort | head -n 1) && cp -a "$f" "$f.new" && mv "$f.new" "$f"; }
change_mode() { chmod 0111 "$(some_file)"; }
rename_it() { mv "$(some_file)" "$SCRATCH/c/c0/other"; }
drop_xattr() { local f && f=$(getfattr -RPh -m user.ledger "$SCRATCH/c" 2>/dev/null | sed -n 's/^# file: //p' | head -n 1) &&
    setfattr -x "$(getfattr -h -m user.ledger "/$f" 2>/dev/null | sed -n 2p)" "/$f"; }
change_symlink() { local f && f=$(find "$SCRATCH/c" -type l | head -n 1) && ln -sfn elsewhere "$f"; }
drop_client() { rm -rf "$SCRATCH/c/c1"; }

planted "a file is gone" delete_file
planted "a byte is other" flip_byte
planted "a file is shorter" cut_file
planted "a file too many" extra_file
planted "a hard link is a copy" break_link
planted "a mode is other" change_mode
planted "a name is other" rename_it
command -v getfattr >/dev/null && planted "an xattr is gone" drop_xattr
planted "a symlink points elsewhere" change_symlink
planted "all of a client is gone" drop_client

# --- order and acknowledgement, with made-up times: trees after exactly k operations, ledgers written by hand

size=1024
tree() { # DIR K0 K1: client 0 after K0 operations, client 1 after K1 (seed 3)
    local i=0 k
    rm -rf "$1"
    mkdir "$1"
    shift
    for k in "$@"; do
        rm -rf "$SCRATCH/run" "$SCRATCH/run.ledger"
        mkdir "$SCRATCH/run"
        [ "$k" = 0 ] || "$L" write --dir "$SCRATCH/run" --ledger "$SCRATCH/run.ledger" --clients 2 --seed 3 --ops "$k" \
            --size "$size" --sync-every 0 >/dev/null
        [ "$k" = 0 ] || cp -a "$SCRATCH/run/c$i" "$SCRATCH/t/"
        i=$((i + 1))
    done
}
ledger() { # lines from stdin: records without padding
    printf '%-127s\n' "ledger 1 seed=3 clients=2 size=$size bulk=0" >"$SCRATCH/t.ledger"
    while read -r line; do printf '%-63s\n' "$line"; done >>"$SCRATCH/t.ledger"
}
ops() { # CLIENT COUNT FIRST_START STEP LENGTH: operation k runs [first + k*step, + length]
    local k
    for ((k = 1; k <= $2; k++)); do
        echo "o $1 $k $(($3 + k * $4)) $(($3 + k * $4 + $5)) 0"
    done
}

tree "$SCRATCH/t" 10 5
{ ops 0 10 100 0 900; ops 1 10 100 0 900; } | ledger
judged "overlapping operations have no order" good "$SCRATCH/t" "$SCRATCH/t.ledger" 'client 1: k=5 of 10'
{ ops 1 10 100 10 5; ops 0 10 1000 10 5; } | ledger
judged "later operations without earlier ones" bad "$SCRATCH/t" "$SCRATCH/t.ledger" 'ORDER'
{ ops 0 10 100 10 5; ops 1 10 1000 10 5; } | ledger
judged "earlier operations without later ones" good "$SCRATCH/t" "$SCRATCH/t.ledger"
{ ops 0 10 100 10 5; ops 1 10 1000 10 5; echo "s 0 10 1056 2000 0"; } | ledger
judged "a sync covers what ended before it began" good "$SCRATCH/t" "$SCRATCH/t.ledger" 'client 1: k=5 of 10 done, 5 ack'
{ ops 0 10 100 10 5; ops 1 10 1000 10 5; echo "s 0 10 1066 2000 0"; } | ledger
judged "a sync of one client covers the other's" bad "$SCRATCH/t" "$SCRATCH/t.ledger" 'client 1: LOST.*after 5 op.*6 were'
{ ops 0 10 100 10 5; ops 1 10 1000 10 5; echo "f 0 10 1066 2000 5"; } | ledger
judged "a failed sync promises nothing" good "$SCRATCH/t" "$SCRATCH/t.ledger"
{ ops 0 9 100 10 5; ops 1 10 1000 10 5; } | ledger
judged "the operation under way may be in" good "$SCRATCH/t" "$SCRATCH/t.ledger" 'client 0: k=10 of 9'
{ ops 0 8 100 10 5; ops 1 10 1000 10 5; } | ledger
judged "one more may not" bad "$SCRATCH/t" "$SCRATCH/t.ledger" 'client 0: BROKEN'
{ ops 0 9 100 10 5; ops 1 5 1000 10 5; echo "e 0 10 300 400 5"; } | ledger
judged "an operation that failed may be in" good "$SCRATCH/t" "$SCRATCH/t.ledger"
{ ops 0 9 100 10 5; ops 1 5 1000 10 5; echo "e 0 10 300 400 2"; } | ledger
judged "ENOENT is no failure of a machine" bad "$SCRATCH/t" "$SCRATCH/t.ledger" 'which no failure explains'
# A write that crosses a page boundary reaches a FUSE filesystem in two requests if the page is not cached: while it is under way, the first may be there alone.
# Looked for: the first operation that does nothing but append to one file, across a boundary.
grown() { find "$SCRATCH/t/c0" -type f -printf '%P %s\n' | sort | join -a 1 "$SCRATCH/sizes" - | awk 'NF == 3 && $3 > $2 && int($3 / 4096) > int($2 / 4096) && $3 % 4096 { print $1, int($3 / 4096) * 4096 }'; }
: >"$SCRATCH/sizes"
size=12288
for ((k = 10; k < 100; k++)); do
    tree "$SCRATCH/t" "$k" 0
    read -r file boundary < <(grown) && grep -aq "$(printf '%06x:' "$k")" "$SCRATCH/t/c0/$file" && break
    find "$SCRATCH/t/c0" -type f -printf '%P %s\n' | sort >"$SCRATCH/sizes"
done
check "there is an operation that appends across a page boundary" test -n "$file"
{ ops 0 "$((k - 1))" 100 10 5; echo "e 0 $k 9000 9400 28"; } | ledger
truncate -s "$boundary" "$SCRATCH/t/c0/$file"
judged "the write under way may be in up to a page boundary" good "$SCRATCH/t" "$SCRATCH/t.ledger" "client 0: k=$k of $((k - 1))"
truncate -s $((boundary - 1)) "$SCRATCH/t/c0/$file"
judged "but not up to anywhere" bad "$SCRATCH/t" "$SCRATCH/t.ledger" 'client 0: BROKEN'
truncate -s "$boundary" "$SCRATCH/t/c0/$file"
ops 0 "$k" 100 10 5 | ledger
judged "and not if it was answered" bad "$SCRATCH/t" "$SCRATCH/t.ledger" 'client 0: BROKEN'

size=1024
tree "$SCRATCH/t" 0 0
{ ops 0 10 100 10 5; ops 1 10 1000 10 5; } | ledger
judged "nothing acknowledged, nothing there" good "$SCRATCH/t" "$SCRATCH/t.ledger"

# --- bulk files

mkdir "$SCRATCH/d"
"$L" write --dir "$SCRATCH/d" --ledger "$SCRATCH/d.ledger" --clients 2 --seed 5 --ops 400 --bulk 600000 >/dev/null
judged "bulk files, finished" good "$SCRATCH/d" "$SCRATCH/d.ledger"
bulk=$(find "$SCRATCH/d" -name 'B*' -size +500k | sort | head -n 1)
cp -a "$bulk" "$SCRATCH/bulk"
dd if=/dev/zero of="$bulk" bs=4096 seek=70 count=1 conv=notrunc status=none
judged "zeros in a bulk file" bad "$SCRATCH/d" "$SCRATCH/d.ledger" 'BROKEN: byte 286720 .*found 0x00'
cp -a "$SCRATCH/bulk" "$bulk"
judged "put back" good "$SCRATCH/d" "$SCRATCH/d.ledger"

# Without any acknowledgement a new file may be cut; an acknowledged one may not. Seed and count leave exactly one bulk file.
for every in 0 25; do
    mkdir "$SCRATCH/e$every"
    "$L" write --dir "$SCRATCH/e$every" --ledger "$SCRATCH/e$every.ledger" --clients 1 --seed 7 --ops 13 --bulk 600000 \
        --sync-every $every >/dev/null
done
check_eq "one bulk file" "$(find "$SCRATCH/e0" "$SCRATCH/e25" -name 'B*' | wc -l)" 2
grep -q '^b' "$SCRATCH/e25.ledger" || not_ok "the fsync of the bulk file is in the ledger"
find "$SCRATCH/e0" "$SCRATCH/e25" -name 'B*' -exec truncate -s 300000 {} +
judged "a new bulk file, never acknowledged, is cut" good "$SCRATCH/e0" "$SCRATCH/e0.ledger" 'not the newest content: 300000'
judged "an acknowledged bulk file is cut" bad "$SCRATCH/e25" "$SCRATCH/e25.ledger" 'LOST: 300000 bytes'
finish
