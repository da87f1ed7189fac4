#!/usr/bin/env bash
# Runs what takes long: the last line is "N passed, N failed, N skipped", in steps.
#
#   scripts/soak.sh [STEP…]
#
# Without a STEP all of them run, each to its end whatever the others did:
#
#   api       the tests of HashiCorp's Go client on consul-sim (some minutes)
#   random    5,000 sequences of random requests, simulated and on a real Consul (SEQUENCES)
#   fuzz      10 minutes of random requests, whole and broken ones, simulated (FUZZ_SECONDS)
#   locks     20,000 histories of locks under faults (SEEDS)
#   clusters  20,000 histories of clusters under faults (SEEDS), and one of 1,000 nodes (NODES)
#   outage    a cluster of nodes through what befalls three real servers, on both versions
#   failover  50,000 sequences of faults of endpoints, on a clock that the test moves (SEQUENCES)
#
# A step whose needs cannot be had is skipped, aloud. Exit status: 0 when nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

all_steps=(api random fuzz locks clusters outage failover)

if [ "${1:-}" = --help ]; then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
fi
steps=("$@")
[ $# -gt 0 ] || steps=("${all_steps[@]}")
for step in "${steps[@]}"; do
    if [[ " ${all_steps[*]} " != *" $step "* ]]; then
        echo "no such step: $step; the steps: ${all_steps[*]}" >&2
        exit 2
    fi
done

passed=0 failed=0 skipped=0
log=$(mktemp "${TMPDIR:-/tmp}/consul_ffi-soak.XXXXXX")
trap 'rm -f "$log"' EXIT

# run COMMAND…: shown, and kept in the log; its status.
run() {
    "$@" 2>&1 | tee "$log"
}

# test_with NAME: a test of cargo; not optimised, so that an overflow is a failure.
test_with() {
    run cargo test --no-default-features --features server --test "$1"
}

step_api() {
    run tests/interop/api-suite.sh
}

step_random() {
    SEQUENCES=${SEQUENCES:-5000} test_with random || return
    ! grep -q '^SKIPPED' "$log" || return 3
}

step_fuzz() {
    FUZZ_SECONDS=${FUZZ_SECONDS:-600} test_with fuzz
}

step_locks() {
    run make --no-print-directory dst SEEDS="${SEEDS:-20000}" ARGS="--skip cluster --skip nodes"
}

step_clusters() {
    run make --no-print-directory dst SEEDS="${SEEDS:-20000}" ARGS=cluster &&
        run make --no-print-directory dst NODES="${NODES:-1000}" ARGS=nodes
}

step_outage() {
    OUTAGES_ON_ALL=1 test_with cluster_outage || return
    ! grep -q '^SKIPPED' "$log" || return 3
}

step_failover() {
    SEQUENCES=${SEQUENCES:-50000} test_with failover
}

for step in "${steps[@]}"; do
    echo
    echo "== $step"
    status=0
    "step_$step" || status=$?
    case $status in
        0) passed=$((passed + 1)) ;;
        3) skipped=$((skipped + 1)) ;;
        *)
            echo "FAILED: $step"
            failed=$((failed + 1))
            ;;
    esac
done

echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
