#!/usr/bin/env bash
# Compares the reads per second of consul-sim and of `consul agent -dev` under the same load.
#
#   benches/reads.sh [SECONDS]
#
# Measures each three times, alternately, and prints the medians and their ratio. Fails when consul-sim
# is slower.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-5}
rounds=3
if ! command -v wrk >/dev/null; then
    echo "SKIPPED: reads per second: wrk is missing (Debian package wrk)"
    exit 0
fi
cargo build --quiet --release --no-default-features --features server --bin consul-sim
sim=${CARGO_TARGET_DIR:-target}/release/consul-sim

# rate: writes a key to the Consul at CONSUL_HTTP_ADDR, reads it with 64 connections and prints the rate.
# shellcheck disable=SC2016 # the inner shell expands these variables
rate='exec 3<>"/dev/tcp/${CONSUL_HTTP_ADDR%:*}/${CONSUL_HTTP_ADDR##*:}"
printf "PUT /v1/kv/bench HTTP/1.0\r\nContent-Length: 5\r\n\r\nvalue" >&3
cat <&3 >/dev/null
wrk -t2 -c64 -d"$0"s "http://$CONSUL_HTTP_ADDR/v1/kv/bench" | awk "/Requests\/sec/ { print int(\$2) }"'

simulated=() real=()
for _ in $(seq "$rounds"); do
    simulated+=("$(CONSUL_BIN=$sim scripts/with-consul.sh 1.21 bash -c "$rate" "$seconds")")
    real+=("$(scripts/with-consul.sh 1.21 bash -c "$rate" "$seconds")")
done
median() { printf '%s\n' "$@" | sort -n | sed -n "$(((rounds + 1) / 2))p"; }
a=$(median "${simulated[@]}") b=$(median "${real[@]}")
echo "reads per second, 64 connections, median of $rounds runs of $seconds s:"
echo "  consul-sim         $a  (${simulated[*]})"
echo "  consul agent -dev  $b  (${real[*]})"
awk -v a="$a" -v b="$b" 'BEGIN { printf "  ratio              %.2f (at least 1)\n", a / b; exit a < b }'
