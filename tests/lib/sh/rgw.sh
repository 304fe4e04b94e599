#!/bin/sh
# rgw.sh: a real S3 server for the tests: a private Ceph cluster (mon + osd + radosgw), in memory, on loopback.
#
# Owns: one directory per cluster, given by the caller; all daemons run from it and are known by their pid files there.
# Happy path: rgw_start DIR -> DIR/env holds RGW_HOST RGW_PORT RGW_ENDPOINT RGW_BUCKET RGW_REGION and the AWS_* keys.
# Two clusters side by side only need two directories: ports are looked for, not fixed.
# Failure: a step that does not come up in time prints the tail of its log and returns 1; call rgw_stop in a trap.
#
# As a library:  . tests/lib/sh/rgw.sh; rgw_start DIR; . DIR/env; ...; rgw_stop DIR
# As a program:  rgw.sh start|stop|gw-stop|gw-start|gw-pause|gw-resume DIR,  rgw.sh bucket DIR NAME,  rgw.sh available
#
# Why these settings (each one measured): paxos timings make the gateway's pool creation 10 times faster; tcp_nodelay
# takes a small GET from 46 ms to 1 ms; cephx because radosgw 16.2 fails with auth = none; public addr only in [osd]
# because in [global] the monitor ignores its map.

RGW_ACCESS=DUMONTTESTACCESSKEY0
RGW_SECRET=dumont/test+secretKey0123456789abcdefghi

rgw_available() {
    for rgw_p in ceph-mon ceph-osd radosgw radosgw-admin ceph ceph-authtool monmaptool; do
        command -v "$rgw_p" >/dev/null 2>&1 || { echo "no $rgw_p (packages ceph-mon ceph-osd radosgw ceph-common)"; return 1; }
    done
}

# A TCP port nobody listens on now. Taken from a range below the kernel's ephemeral ports.
rgw_free_port() {
    while :; do
        rgw_r=$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')
        rgw_r=$((18000 + rgw_r % 12000))
        [ -n "$(ss -Hltn "sport = :$rgw_r")" ] || { echo "$rgw_r"; return 0; }
    done
}

# rgw_wait SECONDS WHAT COMMAND...: polls a condition.
rgw_wait() {
    rgw_n=$(($1 * 20))
    rgw_what=$2
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        rgw_n=$((rgw_n - 1))
        [ "$rgw_n" -gt 0 ] || { echo "rgw: $rgw_what did not happen in time" >&2; return 1; }
        sleep 0.05
    done
}

rgw_conf() {
    cat >"$1/ceph.conf" <<RGWCONF
[global]
fsid = $2
run dir = $1
admin socket = $1/\$name.asok
pid file = $1/\$name.pid
log file = $1/\$name.log
mon cluster log file = $1/cluster.log
keyring = $1/keyring
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
mon host = [v2:127.0.0.1:$3/0,v1:127.0.0.1:$4/0]
mon initial members = a
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 0
auth allow insecure global id reclaim = true
paxos propose interval = 0.05
paxos min wait = 0.01
[mon.a]
mon data = $1/mon
mon cluster log to file = false
[osd]
osd data = $1/osd
osd objectstore = memstore
memstore device bytes = ${RGW_MEM:-4294967296}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd heartbeat interval = 5
ms bind port min = 30000
ms bind port max = 32700
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$5 tcp_nodelay=1
rgw data = $1/rgw
rgw enable usage log = false
rgw gc obj min wait = 300
RGWCONF
}

rgw_keys() {
    ceph-authtool -C "$1/keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null &&
        ceph-authtool "$1/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' >/dev/null &&
        ceph-authtool "$1/keyring" --gen-key -n client.rgw --cap mon 'allow rwx' --cap osd 'allow rwx' >/dev/null &&
        ceph-authtool "$1/keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' >/dev/null
}

# The daemons detach by themselves; stdin and stdout are closed so that no caller waits on a pipe of theirs.
rgw_run() {
    "$@" </dev/null >>"$rgw_dir/out.log" 2>&1
}

rgw_osd_up() {
    ceph -c "$rgw_dir/ceph.conf" osd stat 2>/dev/null | grep -q '1 up'
}

rgw_gw_answers() {
    curl -s -o /dev/null --max-time 2 "http://127.0.0.1:$rgw_port/"
}

rgw_gw_start() {
    rgw_dir=$1
    rgw_port=$(sed -n 's/.*beast endpoint=127.0.0.1:\([0-9]*\).*/\1/p' "$1/ceph.conf")
    rm -f "$1/client.rgw.pid"
    rgw_run radosgw -c "$1/ceph.conf" -n client.rgw || { tail -5 "$1/client.rgw.log" >&2; return 1; }
    rgw_wait 30 "the gateway's HTTP" rgw_gw_answers || { tail -20 "$1/client.rgw.log" >&2; return 1; }
}

# Ends one daemon by its pid file and waits until the process is gone.
rgw_end() {
    [ -s "$1" ] || return 0
    rgw_pid=$(cat "$1")
    kill -CONT "$rgw_pid" 2>/dev/null
    kill "${2:--KILL}" "$rgw_pid" 2>/dev/null || { rm -f "$1"; return 0; }
    rgw_wait 10 "the end of process $rgw_pid" rgw_gone "$rgw_pid"
    rm -f "$1"
}
rgw_gone() {
    ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status"
}

rgw_gw_stop() { rgw_end "$1/client.rgw.pid"; }
rgw_gw_pause() { kill -STOP "$(cat "$1/client.rgw.pid")"; }
rgw_gw_resume() { kill -CONT "$(cat "$1/client.rgw.pid")"; }

# rgw_bucket DIR NAME: curl signs V4 by itself, so creating a bucket needs no other tool.
rgw_bucket() {
    rgw_port=$(sed -n 's/.*beast endpoint=127.0.0.1:\([0-9]*\).*/\1/p' "$1/ceph.conf")
    curl -sf -X PUT --aws-sigv4 aws:amz:us-east-1:s3 --user "$RGW_ACCESS:$RGW_SECRET" \
        -H 'x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' \
        "http://127.0.0.1:$rgw_port/$2"
}

rgw_start() {
    rgw_available >&2 || return 1
    mkdir -p "$1/mon" "$1/osd" "$1/rgw" || return 1
    rgw_dir=$(cd "$1" && pwd)
    rgw_fsid=$(cat /proc/sys/kernel/random/uuid)
    rgw_v2=$(rgw_free_port)
    rgw_v1=$(rgw_free_port)
    rgw_http=$(rgw_free_port)
    rgw_conf "$rgw_dir" "$rgw_fsid" "$rgw_v2" "$rgw_v1" "$rgw_http"
    rgw_c="-c $rgw_dir/ceph.conf"
    # shellcheck disable=SC2086
    {
        rgw_keys "$rgw_dir" &&
            rgw_run monmaptool --create --fsid "$rgw_fsid" \
                --addv a "[v2:127.0.0.1:$rgw_v2,v1:127.0.0.1:$rgw_v1]" "$rgw_dir/monmap" &&
            rgw_run ceph-mon $rgw_c --mkfs -i a --monmap "$rgw_dir/monmap" --keyring "$rgw_dir/keyring" &&
            rgw_run ceph-mon $rgw_c -i a &&
            rgw_uuid=$(cat /proc/sys/kernel/random/uuid) &&
            rgw_run ceph $rgw_c osd new "$rgw_uuid" &&
            rgw_run ceph-osd $rgw_c --mkfs -i 0 --osd-uuid "$rgw_uuid" &&
            rgw_run ceph-osd $rgw_c -i 0
    } || { echo "rgw: the cluster did not start:" >&2; tail -5 "$rgw_dir/out.log" >&2; return 1; }
    rgw_wait 30 "osd up" rgw_osd_up || return 1
    rgw_gw_start "$rgw_dir" || return 1
    rgw_run radosgw-admin $rgw_c -n client.rgw user create --uid=dumont --display-name=Dumont \
        --access-key="$RGW_ACCESS" --secret-key="$RGW_SECRET" ||
        { tail -5 "$rgw_dir/out.log" >&2; return 1; }
    rgw_bucket "$rgw_dir" dumont-test || { echo "rgw: no bucket" >&2; return 1; }
    cat >"$rgw_dir/env" <<RGWENV
RGW_HOST=127.0.0.1
RGW_PORT=$rgw_http
RGW_ENDPOINT=127.0.0.1:$rgw_http
RGW_BUCKET=dumont-test
RGW_REGION=us-east-1
AWS_ACCESS_KEY_ID=$RGW_ACCESS
AWS_SECRET_ACCESS_KEY=$RGW_SECRET
export RGW_HOST RGW_PORT RGW_ENDPOINT RGW_BUCKET RGW_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
RGWENV
}

rgw_stop() {
    for rgw_d in client.rgw osd.0 mon.a; do
        rgw_end "$1/$rgw_d.pid"
    done
}

case "$(basename "$0")" in
rgw.sh)
    case "${1:-}" in
    start | stop) "rgw_$1" "$2" ;;
    gw-stop | gw-start | gw-pause | gw-resume) "rgw_$(echo "$1" | tr - _)" "$2" ;;
    bucket) rgw_bucket "$2" "$3" ;;
    available) rgw_available ;;
    *) echo "usage: rgw.sh start|stop|gw-stop|gw-start|gw-pause|gw-resume DIR | bucket DIR NAME | available" >&2; exit 2 ;;
    esac
    ;;
esac
