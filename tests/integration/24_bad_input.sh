#!/bin/bash
# time: 120
# What cannot be used gets one clear sentence and the right exit code, and loses nothing: objects of an archive that are cut short or missing, keys that are missing or
# readable by everybody, certificates that are missing, of another CA, or of another machine, a store whose disk has errors.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq mkfs.ext4

M=$SCRATCH/mnt
digest() { "$BIN/treedigest" "${1:-$M}" | head -1; }
said() { cp "$SCRATCH/.check" "$SCRATCH/said"; }
no_traces() { [ -z "$(ls -A "$1" 2>/dev/null)" ] && ! ls "$SCRATCH"/*.part "$DUMONT_STATE"/*.part 2>/dev/null; }

# --- objects of an archive
A=$SCRATCH/archive
check "a workspace with an archive" ws_create w "archive=file://$A"
check "mount" ws_mount w "$M"
for r in 1 2 3 4; do
    for i in $(seq 20); do echo "$r $i" >"$M/$r-$i"; done
    head -c 3000000 /dev/urandom >"$M/big$r" && sync "$M/big$r"
    dumont flush w --to archive >/dev/null
done
sum=$(digest)
ws_umount "$M"
log=$(echo "$A"/log/*/*)
# damaged NAME HOW TEXT...: one object is damaged; the restore fails with all TEXTs and leaves nothing behind; the object is put back.
damaged() {
    local file=$1 how=$2 n=0
    shift 2
    cp "$file" "$SCRATCH/good"
    case $how in
    "cut short") truncate -s $(($(stat -c %s "$file") / 2)) "$file" ;;
    empty) truncate -s 0 "$file" ;;
    missing) rm "$file" ;;
    changed) invert "$file" $(($(stat -c %s "$file") / 2)) ;;
    esac
    check_status "${file##*/} $how: the restore fails" 2 dumont restore w "$SCRATCH/out" --from "file://$A"
    said
    for text in "$@"; do check "$how: it says: $text" grep -q "$text" "$SCRATCH/said"; done
    check "$how: in one sentence, with what to do" test "$(wc -l <"$SCRATCH/said")" -le 3
    check "$how: nothing is left behind" no_traces "$SCRATCH/out"
    cp "$SCRATCH/good" "$file"
}
damaged "$log/000000000003.lz4" "cut short" 000000000003.lz4
damaged "$log/000000000003.lz4" empty 000000000003.lz4
damaged "$log/000000000003.lz4" missing 000000000003.lz4
damaged "$log/000000000003.lz4" changed 000000000003.lz4
damaged "$A/node/0" empty node/0
damaged "$A/node/0" missing
check "with all of them it is whole" dumont restore w "$SCRATCH/out" --from "file://$A"
check_eq "and equal" "$(digest "$SCRATCH/out")" "$sum"

# --- keys of an object store
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
check "a workspace with an archive in a bucket" ws_create s3 "archive=s3://bucket/p?endpoint=127.0.0.1:9&region=r&tls=off"
check "mount" ws_mount s3 "$M"
echo x >"$M/f"
sync "$M/f"
archive_says() { ws_get s3 .archive.error | grep -q "$1"; }
check "no keys: the status says so" wait_until 20 archive_says "no keys for bucket bucket"
printf 'access_key=a\nsecret_key=b\n' >"$DUMONT_ETC/credentials"
chmod 644 "$DUMONT_ETC/credentials"
check "keys that everybody can read are not taken" wait_until 20 archive_says "credentials"
chmod 600 "$DUMONT_ETC/credentials"
check "with mode 0600 they are: now it is the network" wait_until 20 archive_says "127.0.0.1:9"
check "the mount never cared" bash -c "echo y > $M/g && sync $M/g"
check "unmount" ws_umount "$M"

# --- certificates
pair_machines || die "no machines"
P=$((PAIR_PORT++))
peer="standby=127.0.0.1:$P arbiter=controller://127.0.0.1:$CTL_PORT"
rm -r "$DUMONT_ETC/tls" 2>/dev/null
check "a workspace with a standby" ws_create tls $peer
check_status "without certificates it does not mount" 32 ws_mount tls "$M"
said
check "it names the file and the command that makes it" bash -c "grep -q ca.pem $SCRATCH/said && grep -q 'dumontd join' $SCRATCH/said"
cp -r "$SCRATCH/a/etc/tls" "$DUMONT_ETC/tls"
cp "$SCRATCH/b/etc/tls/node.key" "$DUMONT_ETC/tls/node.key"
check_status "with another machine's key it does not mount" 32 ws_mount tls "$M"
said
check "it says that key and certificate do not belong together" grep -q "node.key" "$SCRATCH/said"
# of another CA: it works alone; the standby and the controller do not talk to it, and it says so
mkdir -p "$SCRATCH/ca2"
dumontd ca init --dir "$SCRATCH/ca2" >/dev/null && dumontd ca issue a --dir "$SCRATCH/ca2" --out "$DUMONT_ETC/tls" >/dev/null || die "second CA"
at b dumont workspace create tls role=standby "listen=127.0.0.1:$P" "arbiter=controller://127.0.0.1:$CTL_PORT" "mountpoint=$SCRATCH/mb" >/dev/null
check "with a certificate of another CA it mounts, alone" ws_mount tls "$M"
check "and writes" bash -c "echo x > $M/f && sync $M/f"
note_says() { ws_get tls .standby.note | grep -qi "certificate"; }
check "the status says why there is no standby" wait_until 20 note_says
check_eq "it is not paired" "$(ws_get tls '.state + " " + (.standby.in_sync | tostring) + " " + (.arbiter_up | tostring)')" "alone false false"
check "unmount" ws_umount "$M"

# --- a disk with errors below the store: a sparse image on a file system that is too small for it
mkdir -p "$SCRATCH/small" "$SCRATCH/disk"
mount -t tmpfs -o size=80M none "$SCRATCH/small" || { echo "# no tmpfs here"; finish; }
truncate -s 600M "$SCRATCH/small/img"
mkfs.ext4 -q -E lazy_itable_init=1,nodiscard "$SCRATCH/small/img" && mount -o loop,nodiscard "$SCRATCH/small/img" "$SCRATCH/disk" || { echo "# no loop mounts here"; finish; }
check "a workspace on it" ws_create io "store=$SCRATCH/disk/io"
check "mount" ws_mount io "$M"
check "work while it is well" bash -c "echo keep > $M/keep && sync $M/keep"
synced=0
for i in $(seq 400); do
    { head -c 300000 /dev/urandom >"$M/f$i" && sync "$M/f$i"; } 2>"$SCRATCH/err" || break
    synced=$i
done
check "an error reaches the program ($synced files were synced before)" grep -q "Input/output error\|Read-only file system" "$SCRATCH/err"
check "what is in memory and on the disk can still be read" test "$(cat "$M/keep")" = keep
check "the status says what failed" bash -c "dumont status io | grep FAILED"
check_status "a sync is never acknowledged any more" 1 sync "$M/f1"
umount "$M"
wait_until 60 not test -S "$DUMONT_RUN/io.sock"
umount "$SCRATCH/disk"
cp --sparse=always "$SCRATCH/small/img" "$SCRATCH/img" # the disk is replaced by a good one with the same content
mount -o loop "$SCRATCH/img" "$SCRATCH/disk"
check "on a good disk it mounts again" ws_mount io "$M"
check "and nothing acknowledged is missing" bash -c "for i in \$(seq $synced); do [ \$(stat -c %s $M/f\$i) = 300000 ] || exit 1; done; test \"\$(cat $M/keep)\" = keep"
ws_umount "$M"
umount "$SCRATCH/disk"
finish
