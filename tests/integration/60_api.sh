#!/bin/bash
# time: 120
# The HTTP API and the metrics of a controller with a real pair behind it, asked with curl over the Unix socket; the event history, with what the nodes tell; what the API
# refuses. The last promotion goes by word of death.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq curl

json='Content-Type: application/json'
post() { api -X POST -H "$json" -d "${2:-{\}}" "$1"; }
# code CURL OPTION... PATH: only the HTTP status
code() { curl -s -o "$SCRATCH/answer" -w '%{http_code}' --max-time 60 --unix-socket "$SCRATCH/ctl/run/dumontd.sock" "${@:1:$#-1}" "http://localhost${*: -1}"; }
metric() { api /metrics | awk -v s="$1" 'index($0, s " ") == 1 { print $NF }'; }
has_event() { api "/api/v1/workspaces/w/events" | jq -e --arg k "$1" --arg n "${2:-}" --arg t "${3:-}" \
    '[.events[] | select(.kind == $k and ($n == "" or .node == $n) and (.text | test($t)))] | length > 0'; }

PAIR_LINK=1 pair_up w sync=fsync "archive=file://$SCRATCH/archive" || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT
W=/api/v1/workspaces/w

# --- reading
check_eq "mode of the socket" "$(stat -c %a "$SCRATCH/ctl/run/dumontd.sock")" 600
check "status: who is asked" bash -c "$(declare -f api); SCRATCH=$SCRATCH; api /api/v1/status | jq -e '.node == \"ctl\" and .roles == [\"controller\"]'"
check_eq "nodes: both agents are up" "$(api /api/v1/nodes | jq -r '[.nodes[] | select(.state == "up") | .name] | sort | join(" ")')" "a b"
in_sync_everywhere() { api $W | jq -e '.holder == "a" and (.in_sync | sort) == ["a", "b"] and .one_copy == false and (.nodes | keys) == ["a", "b"]'; }
check "workspace: holder, in-sync set, both nodes' reports" wait_until 5 in_sync_everywhere
check_eq "the list of workspaces" "$(api /api/v1/workspaces | jq -r '.workspaces[].name')" w
check "the page" bash -c "curl -sf --unix-socket $SCRATCH/ctl/run/dumontd.sock http://localhost/ | grep -q '<html'"
check "events: the register's changes" has_event pair a
check "events: what a node tells" wait_until 5 has_event pairing a "b has caught up"

# --- changing
echo one >"$M/f"
check_eq "make a snapshot" "$(post $W/snapshots '{"name":"s1"}' | jq -r .name)" s1
check_eq "it is listed" "$(api $W/snapshots | jq -r '.snapshots[] | select(.branch | not).name')" s1
check_eq "the same name again is a conflict" "$(code -X POST -H "$json" -d '{"name":"s1"}' $W/snapshots)" 409
sleep 0.01
at a dumont flush w --to archive >/dev/null
moment=@$(date +%s.%N)
sleep 0.01
echo two >"$M/f"
check_eq "a dry run tells what would change" "$(post $W/rollback '{"snapshot":"s1","dry_run":true}' | jq -r '.changes[].path')" /f
check_eq "and changes nothing" "$(cat "$M/f")" two
check "roll back to the snapshot" post $W/rollback '{"snapshot":"s1"}'
check_eq "the file is the old one" "$(cat "$M/f")" one
echo three >"$M/f"
at a dumont flush w --to archive >/dev/null
check "roll back to a moment" post $W/rollback "{\"to\":\"$moment\"}"
check_eq "the file is as it was then" "$(cat "$M/f")" one
check "delete the snapshot" api -X DELETE $W/snapshots/s1
check_eq "a snapshot that is not there" "$(code -X DELETE $W/snapshots/s1)" 404
check "flush" post $W/flush '{"to":"standby"}'
check_eq "the digests of both nodes are equal" "$(post $W/digest '{"node":"a"}' | jq -r .digest)" "$(post $W/digest '{"node":"b"}' | jq -r .digest)"

# --- metrics
api /metrics >"$SCRATCH/metrics"
check "metrics: every family has HELP and TYPE once, before its samples" awk '
    $1 == "#" && $2 == "HELP" { if (help[$3]++) bad = $3; if (NF < 4) bad = $3 }
    $1 == "#" && $2 == "TYPE" { if (type[$3]++ || !help[$3]) bad = $3; if ($4 != "gauge" && $4 != "counter") bad = $3; kind[$3] = $4 }
    $1 != "#" { f = $1; sub(/\{.*/, "", f); if (!type[f]) bad = f; if (f != last && seen[f]++) bad = f " is in two places"; last = f
                if (f ~ /_total$/ && kind[f] != "counter") bad = f; if ($NF + 0 != $NF) bad = $0; n++ }
    END { if (bad != "") print bad; exit bad != "" || n < 20 }' "$SCRATCH/metrics"
for f in running done_bytes total_bytes eta_seconds; do
    check "metrics: dumont_resync_$f has a help text, a type and a value" awk -v f="dumont_resync_$f" '$3 == f && $4 != "" { n++ } index($0, f "{workspace=\"w\",node=\"a\"} ") == 1 { n++ } END { exit n != 3 }' "$SCRATCH/metrics"
done
check_eq "metrics: no resync is under way" "$(metric 'dumont_resync_running{workspace="w",node="a"}')" 0
check_eq "metrics: a is the holder" "$(metric 'dumont_workspace_holder{workspace="w",node="a"}')" 1
check_eq "metrics: nodes are up" "$(metric 'dumont_node_up{node="b"}')" 1
records='dumont_journal_records_total{workspace="w",node="a"}'
before=$(metric "$records")
for i in $(seq 20); do echo "$i" >"$M/m$i"; done
counted() { [ "$(metric "$records")" -ge $((before + 20)) ]; }
check "metrics: records are counted" wait_until 5 counted

# --- what is refused
check_eq "an unknown path" "$(code /api/v1/nothing)" 404
check_eq "an unknown workspace" "$(code /api/v1/workspaces/nothing)" 404
check_eq "a wrong method" "$(code -X DELETE $W)" 405
check_eq "a body that is no JSON" "$(code -X POST -H "$json" -d '{' $W/snapshots)" 400
check_eq "a body that is no object" "$(code -X POST -H "$json" -d '[1]' $W/snapshots)" 400
check_eq "a body of another type, as a form of a web page sends it" "$(code -X POST -H 'Content-Type: text/plain' -d '{"name":"x"}' $W/snapshots)" 400
check_eq "a snapshot without a name" "$(code -X POST -H "$json" -d '{}' $W/snapshots)" 400
check_eq "a rollback to nothing" "$(code -X POST -H "$json" -d '{}' $W/rollback)" 400
head -c 1100000 /dev/zero | tr '\0' ' ' >"$SCRATCH/large"
check_eq "a body that is too large" "$(code -X POST -H "$json" -H 'Expect:' --data-binary @"$SCRATCH/large" $W/snapshots)" 413
check_eq "a foreign Host (DNS rebinding)" "$(code -H 'Host: evil.example' /api/v1/status)" 403
check_eq "a foreign Origin" "$(code -H 'Origin: http://evil.example' /api/v1/status)" 403
check_eq "the own Origin" "$(code -H 'Origin: http://localhost' /api/v1/status)" 200
check "each refusal is a sentence" bash -c "jq -e . '$SCRATCH/answer'"
mkdir -p "$SCRATCH/open/etc"
printf 'node=x\nhttp=0.0.0.0:7400\n' >"$SCRATCH/open/etc/dumontd.conf"
check_status "an address that others can reach is refused at the start" 1 env DUMONT_ETC="$SCRATCH/open/etc" DUMONT_RUN="$SCRATCH/open/run" timeout 10 dumontd --foreground
cp "$SCRATCH/.check" "$SCRATCH/said"
check "with its sentence" grep -q "http=0.0.0.0:7400 is not a loopback address" "$SCRATCH/said"

# --- roles
check "a notice for a machine reaches its workspaces" post /api/v1/nodes/a/notice '{"in_s":120}'
check "and the history" wait_until 5 has_event notice a "taken away in 120 s"
check "it is withdrawn" post /api/v1/nodes/a/notice '{"in_s":0}'
check_eq "a notice without seconds" "$(code -X POST -H "$json" -d '{}' /api/v1/nodes/a/notice)" 400
check "hand over" post $W/handover
check "b serves it" wait_until 10 mountpoint -q "$M.b"
holder_is() { [ "$(api $W | jq -r .holder)" = "$1" ]; }
check "and the API says so" wait_until 5 holder_is b
paired() { api $W | jq -e '(.in_sync | length) == 2' && pair_in_sync b w; }
check "paired again" wait_until 20 paired
at b dumont fence w >/dev/null || die "fence"
check "a fenced holder's standby is promoted by order" post $W/promote
check "a serves it" wait_until 10 mountpoint -q "$M"
check "with what was in it" test "$(cat "$M/f")" = one
check "b follows again" wait_until 30 pair_in_sync a w

# --- an agent that starts again tells nothing twice; a history survives the controller; word of death
n=$(api $W/events | jq '.events | length')
stop agent-a
stop ctl
check "the mount does not notice" bash -c "echo more > $M/more && sync $M/more"
start_at ctl ctl dumontd --config "$SCRATCH/ctl/etc/dumontd.conf" --foreground
start_at agent-a a dumontd --config "$SCRATCH/a/etc/dumontd.conf" --foreground
both_up() { api /api/v1/nodes | jq -e '[.nodes[] | select(.state == "up")] | length == 2'; }
check "both agents are back" wait_until 10 both_up
wait_until 10 in_sync_everywhere
check_eq "the history has each event once" "$(api $W/events | jq -c '[.events[] | [.node, .kind, .text, .at_ns]] | length - (unique | length)')" 0
check "and what it had" test "$(api $W/events | jq '.events | length')" -ge "$n"
pid=$(at a dumont status w --json | jq .pid)
# on a slow link the standby promises more patience than any machine needs to notice a death
pair_link w delay 120 >/dev/null
patient() { [ "$(at b dumont status w --json | jq .lease_ms)" -gt 2000 ]; }
check "a slow link makes a long lease" wait_until 20 patient
wait_until 10 bash -c "DUMONT_ETC=$SCRATCH/b/etc DUMONT_RUN=$SCRATCH/b/run dumont status w --json | jq -e .arbiter_up"
ws_die "$pid"
check "the standby takes over" wait_until 20 mountpoint -q "$M.b"
check "the death is in the history" has_event process-gone a "its agent says so"
# (instrumented programs tell it later than even this patience: then silence ended the wait)
check "it ended the standby's wait" wait_until 5 has_event candidate b "word of its death${SAN:+|is silent}"
last=$(at b dumont status w --json | jq -r .last_event)
at b dumont status w >"$SCRATCH/said"
check "dumont status shows the last event ($last)" grep -q "last event .*: " "$SCRATCH/said"
finish
