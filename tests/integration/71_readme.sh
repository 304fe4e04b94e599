#!/bin/bash
# time: 200
# The README can be followed: its command blocks, as they stand there, run one after the other on machines of a local cloud. A block ```sh NAME belongs to machine NAME
# ("build" ones are not run here: the tree is built). TOKEN is what the block of ctl has printed for that machine.
. "$(dirname "$0")/../lib/sh/lib.sh"
[ -z "${SAN:-}" ] || skip "namespaces and an installation are for the plain build"
require ip jq

export DUMONT_CLOUD=$SCRATCH/cloud.sock
ROOTFS=$SCRATCH/install
on() { dumontd local-host exec "$@"; }

# The blocks, in the order of the page, as $SCRATCH/NN-MACHINE.
blocks() {
    awk -v dir="$SCRATCH" '/^```/ { if (f) { close(f); f = ""; next } if ($1 == "```sh" && $2 && $2 != "build") { f = sprintf("%s/%02d-%s", dir, ++n, $2); next }
        skip = !skip; next } f { print > f }' "$ROOT/README.md"
}

mkdir -p "$ROOTFS"
make -s -C "$ROOT" install DESTDIR="$ROOTFS" BUILD="$BUILD" >/dev/null || die "make install"
PATH=$ROOTFS/usr/bin:$ROOTFS/usr/sbin:$PATH
check "the man pages are installed" test -s "$ROOTFS/usr/share/man/man8/dumontd.8" -a -s "$ROOTFS/usr/share/man/man8/mount.dumont.8" -a -s "$ROOTFS/usr/share/man/man1/dumont.1"

start cloud dumontd local-cloud --socket "$DUMONT_CLOUD" --dir "$SCRATCH/hosts" --install-root "$ROOTFS" --share "$SCRATCH"
wait_until 10 test -S "$DUMONT_CLOUD" || die "the local cloud did not start" "$(cat "$SCRATCH/cloud.log")"
for h in one ctl cpu gpu; do
    dumontd local-host create "$h" >/dev/null || die "host $h"
done

blocks
check "the README has blocks for all four machines" sh -c "for h in one ctl cpu gpu; do ls $SCRATCH/[0-9]*-\$h >/dev/null || exit 1; done"
paired() { on gpu dumont status train-42 --json | jq -e '.standby.in_sync' >/dev/null; }
on_cpu() { on cpu mountpoint -q /srv/train; }
for b in "$SCRATCH"/[0-9][0-9]-*; do
    host=${b##*-}
    # what the page says between the blocks
    grep -q 'dumont handover' "$b" && { check "the pair is in sync" wait_until 60 paired || on gpu dumont status train-42; }
    grep -q '^cat /srv' "$b" && check "the workspace is mounted on cpu after the handover" wait_until 60 on_cpu
    if grep -q TOKEN "$b"; then
        token=$(grep "^dumont1/$host/" "$SCRATCH/tokens") || not_ok "a token for $host"
        sed -i "s#TOKEN#$token#" "$b"
    fi
    check "on $host: $(grep -c . "$b") lines from '$(head -1 "$b")'" on "$host" bash -euo pipefail "$b"
    cp "$SCRATCH/.check" "$SCRATCH/said"
    sed 's/^/#   /' "$SCRATCH/said"
    [ "$host" = ctl ] && cp "$SCRATCH/said" "$SCRATCH/tokens"
    case $(cat "$b") in
    *'dumont rollback notes'*) check_eq "the snapshot and the rollback showed the first thought" "$(grep -cx 'first thought' "$SCRATCH/said")" 2 ;;
    *'mount -a'*) check "mount -a mounts it" on one sh -c 'grep -qx "first thought" /mnt/idea.txt && umount /mnt' ;;
    *'cat /srv'*) check_eq "what gpu wrote is on cpu" "$(cat "$SCRATCH/said")" "epoch 1" ;;
    esac
done
on cpu umount /srv/train 2>/dev/null
finish
