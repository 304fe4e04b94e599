#!/bin/bash
# probe.sh DIR FILE: runs on the standby: says in FILE.ready that it looks, then waits until the workspace is mounted on DIR and can be written, and writes the time into FILE.
set -u
touch "$2.ready"
while :; do
    while read -r line; do
        case $line in *" $1 "*) mounted=1 ;; esac
    done </proc/self/mountinfo
    if [ -n "${mounted:-}" ] && : 2>/dev/null >"$1/.probe"; then
        now=$EPOCHREALTIME
        echo "$now" >"$2.tmp" && mv "$2.tmp" "$2"
        rm -f "$1/.probe"
        exit 0
    fi
    sleep 0.01
done
