#!/usr/bin/env bash
# How long nobody holds a lock when its holder goes, on real Consuls, beside the official Go client.
#
#   benches/failover.sh [ROUNDS [GO_ROUNDS]]
#
# 10 rounds, and 3 of the Go client, which take 45 s each, when none are named. What is measured, and
# how: benches/failover/main.rs. Fails when a bound does not hold. With 10 rounds or more the table
# goes into docs/benchmarks.md. What cannot be had (Go, a Consul) is skipped, aloud.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-10}
go_rounds=${2:-3}
[[ $rounds$go_rounds =~ ^[0-9]+$ ]] || {
    echo "usage: benches/failover.sh [ROUNDS [GO_ROUNDS]]" >&2
    exit 2
}
limit=30m # what hangs must not hang the run
folder=${CARGO_TARGET_DIR:-target}/failover
mkdir -p "$folder"
folder=$(realpath "$folder")

rm -f "$folder/go-holder"
if ! command -v go >/dev/null; then
    echo "SKIPPED: the official Go client: there is no Go"
elif ! (cd benches/failover/go && GOFLAGS='' GOWORK=off go build -o "$folder/go-holder" .); then
    echo "SKIPPED: the official Go client: it cannot be built"
fi
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/guard cargo build --profile guard --locked \
    --no-default-features --features guard --bin consul-guard
guard=$(realpath "${CARGO_TARGET_DIR:-target}/guard/guard/consul-guard")
bench=(cargo bench --quiet --no-default-features --features server --bench failover)
"${bench[@]}" --no-run

{
    echo "$(date +%F), $(uname -s) $(uname -r | cut -d . -f 1,2), $(nproc) processors," \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
        "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)," \
        "load $(cut -d ' ' -f 1 /proc/loadavg) at the start:"
} | tee "$folder/table.md"
status=0
timeout "$limit" "${bench[@]}" -- "$guard" "$folder/go-holder" "$rounds" "$go_rounds" \
    | tee -a "$folder/table.md" || status=$?

if [ "$rounds" -ge 10 ]; then
    # Between the two marks.
    sed -i -e '/^<!-- failover -->$/,/^<!-- end -->$/ {
        /^<!-- failover -->$/ r '"$folder/table.md"'
        /^<!--/ !d
    }' docs/benchmarks.md
fi
exit "$status"
