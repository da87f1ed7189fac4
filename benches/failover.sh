#!/usr/bin/env bash
# Measures how long a lock has no holder after its holder is gone, on real Consuls, also with the
# official Go client.
#
#   benches/failover.sh [ROUNDS [GO_ROUNDS]]
#
# By default 10 rounds, and 3 of the Go client, which take 45 s each. benches/failover/main.rs describes
# the measurement. Fails when a bound does not hold. With 10 rounds or more the table is written into
# docs/benchmarks.md. Without Go or a Consul it skips what needs them, and prints why.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

rounds=${1:-10}
go_rounds=${2:-3}
[[ $rounds$go_rounds =~ ^[0-9]+$ ]] || {
    echo "usage: benches/failover.sh [ROUNDS [GO_ROUNDS]]" >&2
    exit 2
}
limit=30m # for a case that hangs
folder=${CARGO_TARGET_DIR:-target}/failover
mkdir -p "$folder"
folder=$(realpath "$folder")

build_go_client benches/failover/go "$folder/go-holder"
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/guard cargo build --profile guard --locked \
    --package consul-guard --bin consul-guard
guard=$(realpath "${CARGO_TARGET_DIR:-target}/guard/guard/consul-guard")
bench=(cargo bench --quiet --no-default-features --bench failover)
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
    # Replaces the text between the two marks.
    sed -i -e '/^<!-- failover -->$/,/^<!-- end -->$/ {
        /^<!-- failover -->$/ r '"$folder/table.md"'
        /^<!--/ !d
    }' docs/benchmarks.md
fi
exit "$status"
