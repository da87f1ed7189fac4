#!/usr/bin/env bash
# Compares what lua-resty-consul and resty.consul return (compare.lua), on Consul 1.21 and on consul-sim.
#
#   tests/programs/resty/compare.sh [1.21] [consul-sim]
#
# CONSUL_BIN is the program consul-sim, by default that of target/debug. Exit status 3, and the reason in one line, if something
# is unavailable.
set -euo pipefail
cd "$(dirname "$0")/../../.."

nginx=$(scripts/nginx.sh)
suite=$(scripts/lua-resty-consul.sh)
compare=(luajit tests/programs/resty/compare.lua "$nginx" "$suite")
simulated=
trap '[ -z "$simulated" ] || kill "$simulated"' EXIT

# free_port: prints a port that nothing listens on.
free_port() {
    luajit -e 'print((select(2, assert(require("socket").bind("127.0.0.1", 0)):getsockname())))'
}

# on_consul_sim
on_consul_sim() {
    local port
    port=$(free_port)
    "${CONSUL_BIN:-${CARGO_TARGET_DIR:-target}/debug/consul-sim}" agent -dev -http-port="$port" -dns-port=-1 >/dev/null 2>&1 &
    simulated=$!
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        kill -0 "$simulated" 2>/dev/null || { echo "consul-sim has ended" >&2; return 1; }
        sleep 0.1
    done
    CONSUL_HTTP_ADDR=127.0.0.1:$port "${compare[@]}" consul-sim
}

[ $# -gt 0 ] || set -- 1.21 consul-sim
worst=0
for agent; do
    status=0
    case $agent in
        1.21) scripts/with-consul.sh 1.21 "${compare[@]}" 1.21 || status=$? ;;
        consul-sim) on_consul_sim || status=$? ;;
        *)
            echo "usage: tests/programs/resty/compare.sh [1.21] [consul-sim]" >&2
            exit 2
            ;;
    esac
    [ "$status" -eq 0 ] || [ "$worst" -eq 1 ] || worst=$status
done
exit "$worst"
