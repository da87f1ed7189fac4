#!/usr/bin/env bash
# Tests the tests: cargo-mutants makes small changes to the code, one at a time, and runs the fast tests.
#
#   scripts/mutants.sh
#
# Environment:
#
#   SHARD=K/N   only the part K (from 0) of N
#   SAMPLE=300  only this many, chosen at random by SEED (0)
#   OUTPUT      the folder for the results, by default target/mutants
#
# The tree is copied first, so it may be edited meanwhile. It prints each mutant that no test noticed, and the
# numbers at the end. Exit status: that of cargo-mutants: 0 if all were caught, 2 if not, 3 after a timeout.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

# The code, and the tests that notice changes of it within seconds.
code=(
    'crates/consul-api/src/**' 'crates/consul-client/src/**' 'crates/consul-cluster/src/data_plane/**'
    'crates/consul-cluster/src/shard_map/**'
)
tests=(client cluster connect coordination docs)

# Bytes that look random and depend on the seed alone. (From the repeated bytes of `yes`, shuf takes whole runs of lines.)
random_bytes() {
    openssl enc -aes-256-ctr -pass "pass:$1" -nosalt -pbkdf2 </dev/zero 2>/dev/null
}

command -v cargo-mutants >/dev/null || cargo install cargo-mutants --locked

options=(--package consul-api --package consul-client --package consul-cluster)
for files in "${code[@]}"; do
    options+=(--file "$files")
done
[ -z "${SHARD:-}" ] || options+=(--shard "$SHARD")
if [ -n "${SAMPLE:-}" ]; then
    # A mutant is chosen by a regular expression of its name.
    mapfile -t chosen < <(cargo mutants "${options[@]}" --list |
        shuf --random-source=<(random_bytes "${SEED:-0}") -n "$SAMPLE" |
        sed 's/[][\\.*^$+?(){}|]/\\&/g; s/.*/^&$/')
    for name in "${chosen[@]}"; do
        options+=(--re "$name")
    done
fi

test_options=(--lib --package consul-api --package consul-client --package consul-cluster --package consul-config
    --package consul-guard --package consul_ffi)
for test in "${tests[@]}"; do
    test_options+=(--test "$test")
done
cargo mutants "${options[@]}" --output "${OUTPUT:-target/mutants}" --jobs 1 --minimum-test-timeout 120 \
    --colors never -- "${test_options[@]}"
