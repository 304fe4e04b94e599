#!/bin/bash
# time: 150
# Machines join by tokens: the key stays, the files appear, a pair works with them; each wrong token is refused with its reason and nothing is written; what guests may cost is bounded;
# certificates of a few seconds are renewed under load and used without a restart; an expired one is refused, and both sides say so.
. "$(dirname "$0")/../lib/sh/lib.sh"
. "$(dirname "$0")/../lib/sh/mounts.sh"
. "$(dirname "$0")/../lib/sh/pair.sh"
require jq openssl

CTL_PORT=$((PAIR_PORT++))
machine() { mkdir -p "$SCRATCH/$1"/{etc/workspaces,run,state,log}; }
# controller NAME PORT: its directories, configuration, and dumontd
controller() {
    machine "$1"
    printf 'node=%s\nrole=controller\nlisten=127.0.0.1:%s\nadvertise=127.0.0.1:%s\nhttp=unix:%s\n' "$1" "$2" "$2" "$SCRATCH/$1/run/dumontd.sock" >"$SCRATCH/$1/etc/dumontd.conf"
    [ -z "${3:-}" ] || echo "cert_life=$3" >>"$SCRATCH/$1/etc/dumontd.conf"
    start_at "$1" "$1" dumontd --foreground
    wait_until 10 test -S "$SCRATCH/$1/run/dumontd.sock"
}
agent() {
    printf 'node=%s\ncontroller=127.0.0.1:%s\nhttp=unix:%s\n' "$1" "$CTL_PORT" "$SCRATCH/$1/run/dumontd.sock" >"$SCRATCH/$1/etc/dumontd.conf"
    start_at "agent-$1" "$1" dumontd --foreground
}
token() { at ctl dumontd token "$@"; }
# refused WHAT PATTERN MACHINE TOKEN: exit 1, the reason, nothing written
refused() {
    check_status "$1: refused" 1 at "$3" dumontd join "$4"
    cp "$SCRATCH/.check" "$SCRATCH/said"
    check "$1: with its reason" grep -q "$2" "$SCRATCH/said" || sed 's/^/#   /' "$SCRATCH/said"
    check "$1: nothing is written" test ! -e "$SCRATCH/$3/etc/tls"
}
until_s() { date -d "$(openssl x509 -in "$SCRATCH/$1/etc/tls/node.pem" -noout -enddate | cut -d= -f2)" +%s; }
ended() { [ "$(date +%s)" -gt "$1" ]; }

# --- the controller is its own CA
machine a
machine b
check "a token without a CA is refused" bash -c "DUMONT_ETC=$SCRATCH/a/etc DUMONT_STATE=$SCRATCH/a/state dumontd token x 2>&1 | grep -q 'dumontd.conf\|no certificate authority'"
controller ctl "$CTL_PORT" 12s || die "the controller does not start" "$(cat "$SCRATCH/ctl.log")"
check "it made a CA and its own certificate" openssl verify -CAfile "$SCRATCH/ctl/etc/tls/ca.pem" "$SCRATCH/ctl/etc/tls/node.pem"

# --- what is refused
good=$(token a)
check_eq "a token is one line" "$(wc -l <<<"$good")" 1
secret=${good##*/}
check "the secret is stored nowhere" not grep -rq "$secret" "$SCRATCH/ctl"
other=$(tr 0-9a-f 1-9a-f0 <<<"$secret")
refused "a wrong secret" "not known here" a "${good/$secret/$other}"
refused "another node's name" "for the node a, not for b" b "${good/dumont1\/a/dumont1\/b}"
refused "a line that was cut" "not a whole join token" a "${good%?}"
refused "the address of nobody" "cannot connect" a "${good/:$CTL_PORT/:1}"
printf 'node=c\n' >"$SCRATCH/b/etc/dumontd.conf"
refused "a token for another machine than this" "says node=c" b "$(token b)"
rm "$SCRATCH/b/etc/dumontd.conf"
fp=$(cut -d/ -f4 <<<"$good")
refused "a wrong fingerprint" "of another CA" a "${good/$fp/$(tr 0-9a-f 1-9a-f0 <<<"$fp")}"
# somebody between, who has a CA of his own of the same name, and the port
mitm_port=$((PAIR_PORT++))
controller mitm "$mitm_port" || die "the second controller does not start"
refused "a man in the middle" "of another CA" a "${good/:$CTL_PORT/:$mitm_port}"
check "he has learnt nothing" not grep -q "join from" "$SCRATCH/mitm.log"
# a node of our CA is no controller
mkdir -p "$SCRATCH/x"
at ctl dumontd ca issue x --dir "$SCRATCH/ctl/etc/tls" --out "$SCRATCH/x" >/dev/null
x_port=$((PAIR_PORT++))
start x openssl s_server -accept "127.0.0.1:$x_port" -cert "$SCRATCH/x/node.pem" -key "$SCRATCH/x/node.key" -chainCAfile "$SCRATCH/x/ca.pem" -build_chain -tls1_3 -rev
wait_until 10 bash -c "exec 3<>/dev/tcp/127.0.0.1/$x_port"
refused "another node in the controller's place" "answers as x, not as the controller ctl" a "${good/:$CTL_PORT/:$x_port}"
stop x
check "the secret did not reach it" not grep -q "$secret" "$SCRATCH/x.log"
short=$(token a --expires 1s)
expired() { at a dumontd join "$short" 2>&1 | grep -q "it has expired on"; }
sleep 1
check "an expired token is refused" wait_until 10 expired
check "and nothing is written" test ! -e "$SCRATCH/a/etc/tls"

# --- limits on who has shown no certificate
guest() { timeout 20 openssl s_client -connect "127.0.0.1:$CTL_PORT" -tls1_3 -quiet -ign_eof -no_ign_eof 2>/dev/null; }
check "a guest that asks for the register gets no answer" test -z "$(printf '{"op":"hello","v":1,"kind":"agent","node":"a"}\n' | guest)"
check "a line without end is cut off" test -z "$(head -c 3000000 /dev/zero | tr '\0' ' ' | guest)"
idle=()
for _ in $(seq 40); do
    exec {fd}<>"/dev/tcp/127.0.0.1/$CTL_PORT" && idle+=("$fd")
done
open_n() { ss -Htn state established "( sport = :$CTL_PORT )" | wc -l; }
check "of 40 that say nothing 32 are kept" wait_until 4 eval 'test $(open_n) -le 32'
check "and none for long" wait_until 15 eval 'test $(open_n) -le 0'
for fd in "${idle[@]}"; do exec {fd}>&-; done
for _ in $(seq 15); do at a dumontd join "${good/$secret/$other}"; done >"$SCRATCH/said" 2>&1
check "attempts are rationed" grep -q "too many attempts" "$SCRATCH/said"

# --- the happy path
joins() { at a dumontd join "$good" >"$SCRATCH/joined" 2>&1; }
check "the token is still good: a joins" wait_until 10 joins
check "it says what is next" grep -q "^next: .*dumontd.conf" "$SCRATCH/joined"
check_eq "the files" "$(cd "$SCRATCH/a/etc/tls" && stat -c '%n %a' ./*)" "$(printf './ca.pem 600\n./node.key 600\n./node.pem 600')"
check "the key has not left" not grep -rqF "$(sed -n 2p "$SCRATCH/a/etc/tls/node.key")" "$SCRATCH/ctl"
sum=$(md5sum "$SCRATCH"/a/etc/tls/*)
used() { at a dumontd join "$good" 2>&1 | grep -q "it was used on .*, from 127.0.0.1"; }
check "the same token again was used, it says, and from where" wait_until 10 used
check_eq "nothing is changed" "$(md5sum "$SCRATCH"/a/etc/tls/*)" "$sum"
check_status "a token of another CA: exit 1" 1 at a dumontd join "$(at mitm dumontd token a)"
check_eq "nothing is changed" "$(md5sum "$SCRATCH"/a/etc/tls/*)" "$sum"
stop mitm
# b as a provider makes it: with a token in a file, from the API, and nothing else; its dumontd joins when it starts
add() { api -X POST -H 'Content-Type: application/json' -d "$1" /api/v1/nodes; }
check_eq "POST /nodes without a name" "$(curl -s -o /dev/null -w '%{http_code}' --unix-socket "$SCRATCH/ctl/run/dumontd.sock" -X POST -d '{}' http://localhost/api/v1/nodes)" 400
mkdir -m 700 "$SCRATCH/b/etc/tls"
echo "dumont1/b/ctl@127.0.0.1:$CTL_PORT/$fp/$other" >"$SCRATCH/b/etc/tls/join-token"
agent b
check "a wrong token in the file: dumontd ends" wait_until 20 not running agent-b
check "and says so" grep -q "cannot join by .*join-token: the controller refuses the token: .*not known here" "$SCRATCH/agent-b.log"
add '{"name":"b"}' >"$SCRATCH/added"
check_eq "POST /nodes gives a token" "$(jq -r '.name + " " + (.token | split("/")[0:2] | join("/")) + " " + (.expires_s | tostring)' "$SCRATCH/added")" "b dumont1/b 3600"
check_eq "and no key" "$(jq -c 'keys' "$SCRATCH/added")" '["expires_s","name","token"]'
jq -r .token "$SCRATCH/added" >"$SCRATCH/b/etc/tls/join-token"
stop ctl
agent b
check "the controller is away: it is asked again" wait_until 10 grep -q "cannot join yet: " "$SCRATCH/agent-b.log"
start_at ctl ctl dumontd --foreground
check "b joins when it is there" wait_until 30 grep -q "b has joined" "$SCRATCH/agent-b.log"
check "by the certificate of the CA" openssl verify -CAfile "$SCRATCH/ctl/etc/tls/ca.pem" "$SCRATCH/b/etc/tls/node.pem"
check "with a key of its own, which has not left" not grep -rqF "$(sed -n 2p "$SCRATCH/b/etc/tls/node.key")" "$SCRATCH/ctl"
check "the token is gone" test ! -e "$SCRATCH/b/etc/tls/join-token"
check "it serves" wait_until 10 test -S "$SCRATCH/b/run/dumontd.sock"
agent a
key=$(md5sum <"$SCRATCH/a/etc/tls/node.key") first=$(until_s a)
PAIR_LINK=1 pair_up w sync=fsync solo_after=60s || die "the pair does not come up" "$(at a dumont status w 2>&1)"
M=$PAIR_MOUNT

# --- renewal: two lives of the certificates long, under load, with connections that are made anew
start writer "$BIN/ledger" write --dir "$M" --ledger "$SCRATCH/ledger" --clients 2 --sync-every 5
pid=$(at a dumont status w --json | jq .pid)
for _ in 1 2; do
    was=$(until_s a) was_ctl=$(until_s ctl)
    check "certificates end" wait_until 30 eval "ended $was && ended $was_ctl"
    pair_link w cut >/dev/null
    check "cut and connected again, with the new ones" wait_until 20 pair_in_sync a w
done
acked=$(grep -c '^s' "$SCRATCH/ledger")
check "the writer goes on" wait_until 20 eval 'test $(grep -c "^s" $SCRATCH/ledger) -gt $((acked + 10))'
check "the certificate is a later one" test "$(until_s a)" -gt $((first + 12))
check_eq "of the same key" "$(md5sum <"$SCRATCH/a/etc/tls/node.key")" "$key"
check_eq "no process was started for it" "$(at a dumont status w --json | jq .pid)" "$pid"
check_eq "it was a pair all the time" "$(api /api/v1/workspaces/w/events | jq '[.events[] | select(.kind == "solo" or .kind == "promote")] | length')" 0
stop writer
check "nothing acknowledged is missing" "$BIN/ledger" judge --dir "$M" --ledger "$SCRATCH/ledger"
check "doctor is content" bash -c "DUMONT_ETC=$SCRATCH/a/etc DUMONT_RUN=$SCRATCH/a/run DUMONT_STATE=$SCRATCH/a/state dumont doctor | grep -q '^ok    tls  .*certificate of a is good until'"

# --- expired: nobody renews b's; then it is refused wherever it comes
stop agent-b
was=$(until_s b)
check "b's certificate ends" wait_until 30 ended "$was"
from=$(wc -l <"$SCRATCH/ctl.log")
b_expired="that of b has expired on"
agent b
check "the controller says whose, and that it has expired" wait_until 10 eval "tail -n +$from $SCRATCH/ctl.log | grep -q \"connection from 127.0.0.1 refused: .*$b_expired\""
check "b says so" wait_until 10 grep -q "the peer refuses our certificate: $b_expired" "$SCRATCH/agent-b.log"
check "and not twice a second" test "$(grep -c "$b_expired" "$SCRATCH/agent-b.log")" -le 2
pair_link w cut >/dev/null
check "its pair says so on the other side" wait_until 20 eval "at a dumont status w --json | jq -r .standby.note | grep -q \"$b_expired\""
at b dumont status w >"$SCRATCH/said"
check "its own status says what to do" grep -q "certificate of b has expired on .*dumontd token b" "$SCRATCH/said"
at b dumont doctor >"$SCRATCH/said"
check "its doctor too" grep -q "^FAIL  tls  .*certificate of b has expired on .*dumontd join" "$SCRATCH/said"
check "it joins again" at b dumontd join "$(token b)"
check "the pair is connected again, with nothing restarted" wait_until 20 pair_in_sync a w
check "its agent too" wait_until 20 eval "api /api/v1/nodes | jq -e '.nodes[] | select(.name == \"b\" and .state == \"up\")'"

# --- the CA's own certificate comes near its end (made ten years ago, a year is left): the controller renews it with the same key, the nodes get it with their next certificates
ca_dir=$SCRATCH/ctl/etc/tls
ca_until_s() { date -d "$(openssl x509 -in "$SCRATCH/$1/etc/tls/ca.pem" -noout -enddate | cut -d= -f2)" +%s; }
long() { [ "$(ca_until_s "$1")" -gt $(($(date +%s) + 9 * 365 * 86400)) ]; }
mkdir "$SCRATCH/old"
printf '%s\n' '[ca]' default_ca=d '[d]' "database=$SCRATCH/old/index" "serial=$SCRATCH/old/serial" "new_certs_dir=$SCRATCH/old" default_md=sha256 policy=p x509_extensions=x '[p]' commonName=supplied \
    '[x]' basicConstraints=critical,CA:TRUE,pathlen:0 keyUsage=critical,keyCertSign,cRLSign subjectKeyIdentifier=hash >"$SCRATCH/old/conf"
: >"$SCRATCH/old/index"
echo 01 >"$SCRATCH/old/serial"
openssl req -new -key "$ca_dir/ca.key" -subj /CN=dumont -out "$SCRATCH/old/csr" &&
    openssl ca -batch -notext -config "$SCRATCH/old/conf" -selfsign -keyfile "$ca_dir/ca.key" -in "$SCRATCH/old/csr" -startdate "$(date -u -d '9 years ago' +%Y%m%d%H%M%SZ)" \
        -enddate "$(date -u -d '1 year' +%Y%m%d%H%M%SZ)" -out "$SCRATCH/old/ca.pem" 2>"$SCRATCH/said" || die "an old CA certificate" "$(cat "$SCRATCH/said")"
stop agent-a
for m in a b; do cp "$SCRATCH/old/ca.pem" "$SCRATCH/$m/etc/tls/ca.pem"; done
at a dumont doctor >"$SCRATCH/said"
check "doctor tells a year ahead" grep -q "^warn  tls  .*certificate of the CA ends on .*dumontd ca renew" "$SCRATCH/said"
agent a
check "dumontd tells, too" wait_until 10 grep -q "certificate of the CA ends on " "$SCRATCH/agent-a.log"
cp "$SCRATCH/old/ca.pem" "$ca_dir/ca.pem"
check "the controller renews it" wait_until 20 long ctl
check "and says so" grep -q "the certificate of the CA is renewed" "$SCRATCH/ctl.log"
check "a gets it with its next certificate" wait_until 30 long a
check "b too" wait_until 30 long b
check "of the same key" cmp <(openssl x509 -in "$SCRATCH/old/ca.pem" -noout -pubkey) <(openssl x509 -in "$SCRATCH/b/etc/tls/ca.pem" -noout -pubkey)
pair_link w cut >/dev/null
check "the pair is connected again by it" wait_until 20 pair_in_sync a w
cp "$SCRATCH/old/ca.pem" "$SCRATCH/b/etc/tls/ca.pem"
check "a machine with the old one joins by a new token" at b dumontd join "$(token b)"
check "and has the new one" long b
mkdir "$SCRATCH/hand" && cp "$SCRATCH/old/ca.pem" "$ca_dir/ca.key" "$SCRATCH/hand"
check "by hand: dumontd ca renew" dumontd ca renew --dir "$SCRATCH/hand"
check "its end is later" eval 'test "$(openssl x509 -in $SCRATCH/hand/ca.pem -noout -enddate)" != "$(openssl x509 -in $SCRATCH/old/ca.pem -noout -enddate)"'
finish
