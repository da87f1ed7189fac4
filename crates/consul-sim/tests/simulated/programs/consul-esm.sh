#!/usr/bin/env bash
# The tests of consul-esm, which checks the nodes of the catalog that have no agent. They start `consul` themselves.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=0.11.0 least=50 installed=esm.test

install() {
    go_source "$1" "github.com/hashicorp/consul-esm@v$version"
    go_tests "$1/source" "$1/esm.test" .
}

results() {
    (env -C "$1/source" "$1/esm.test" -test.v -test.timeout=20m 2>&1 || true) | go_results
}
