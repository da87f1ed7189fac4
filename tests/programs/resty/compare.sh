#!/usr/bin/env bash
# Compares what lua-resty-consul and resty.consul return (compare.lua), on Consul 1.21 and on consul-sim, each without ACLs and
# with a default policy that denies.
#
#   tests/programs/resty/compare.sh [1.21|1.21-deny|consul-sim|consul-sim-deny]…
#
# CONSUL_SIM is the program consul-sim, by default that of target/debug. Exit status 3, and the reason in one line, if something
# is unavailable.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../../.."

nginx=$(scripts/nginx.sh)
suite=$(scripts/lua-resty-consul.sh)
simulated=$(realpath "${CONSUL_SIM:-${CARGO_TARGET_DIR:-target}/debug/consul-sim}")

[ $# -gt 0 ] || set -- 1.21 1.21-deny consul-sim consul-sim-deny
worst=0
for agent; do
    status=0
    program=() acl=()
    [[ $agent != consul-sim* ]] || program=(CONSUL_BIN="$simulated")
    [[ $agent != *-deny ]] || acl=(--acl deny)
    env -u CONSUL_BIN "${program[@]}" scripts/with-consul.sh "${acl[@]}" 1.21 \
        luajit tests/programs/resty/compare.lua "$nginx" "$suite" "$agent" || status=$?
    [ "$status" -eq 0 ] || [ "$worst" -eq 1 ] || worst=$status
done
exit "$worst"
