# mountns.sh: the mount helper for tests, without touching this machine. Source it after lib.sh, in a mount namespace of its own
# (unshare -m --propagation private). Covers /usr/sbin with an overlay in which mount.dumont stands, and gives everything of
# Dumont its own folders below $SCRATCH.
#
#   helper_install PROGRAM   PROGRAM plays dumontfs
#   fstab_use FILE           FILE is /etc/fstab
#   without_dev GLOB CMD...  CMD in a namespace whose /dev lacks what GLOB names
#   holder_pids, dumontfs_pids   of this test

export DUMONT_ETC=$SCRATCH/etc DUMONT_RUN=$SCRATCH/run DUMONT_STATE=$SCRATCH/state DUMONT_LOG=$SCRATCH/log
export DUMONT_LIBDIR=$SCRATCH/lib

helper_install() {
    local link
    mkdir -p "$SCRATCH/lib" "$SCRATCH/sbin" "$SCRATCH/half" "$DUMONT_STATE"
    cp "$BUILD/mount.dumont" "$SCRATCH/sbin/mount.dumont"
    for link in umount.dumont mount.fuse.dumont umount.fuse.dumont; do
        ln -s mount.dumont "$SCRATCH/sbin/$link"
    done
    cp "$BUILD/dumont-holder" "$SCRATCH/lib/dumont-holder"
    cp "$BUILD/dumont-holder" "$SCRATCH/half/dumont-holder"
    cp "$1" "$SCRATCH/lib/dumontfs"
    mount -t overlay overlay -o "lowerdir=$SCRATCH/sbin:/usr/sbin" /usr/sbin 2>/dev/null || skip "no overlay filesystem"
    export PATH=/usr/sbin:/sbin:$PATH
    cleanup_fn umount /usr/sbin
    cleanup_fn end_holders
}

# Pids whose program is the copy below $SCRATCH.
pids_of() {
    local p
    for p in /proc/[0-9]*; do
        [ "$(readlink "$p/exe" 2>/dev/null)" = "$SCRATCH/lib/$1" ] && alive "${p#/proc/}" && echo "${p#/proc/}"
    done
    return 0
}
holder_pids() { pids_of dumont-holder; }
dumontfs_pids() { pids_of dumontfs; }

end_holders() {
    local p
    for p in $(holder_pids); do kill "$p"; done
    wait_until 10 no_holders && return 0
    for p in $(holder_pids) $(dumontfs_pids); do kill -KILL "$p"; done
    wait_until 5 no_holders
}
no_holders() { [ -z "$(holder_pids)$(dumontfs_pids)" ]; }
no_dumontfs() { [ -z "$(dumontfs_pids)" ]; }

fstab_use() {
    mount --bind "$1" /etc/fstab
    cleanup_fn umount /etc/fstab
}

without_dev() {
    local glob=$1
    shift
    GLOB=$glob unshare -m --propagation private bash -c '
        mkdir -p "$SCRATCH/dev"
        mount -t tmpfs tmpfs "$SCRATCH/dev" || exit 99
        for f in null zero full random urandom tty fuse loop-control loop0 loop1 loop2 loop3; do
            case $f in $GLOB) continue ;; esac
            [ -e /dev/$f ] && cp -a /dev/$f "$SCRATCH/dev/$f"
        done
        mount --move "$SCRATCH/dev" /dev || exit 99
        "$@"' without_dev "$@"
}
