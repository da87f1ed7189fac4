#!/usr/bin/env bash
# The tests of OpenTofu's backend that keeps its state in Consul: locks, workspaces, large states in parts, lost connections.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=1.12.6 least=10 installed=backend.test

install() {
    go_source "$1" "github.com/opentofu/opentofu@v$version"
    go_tests "$1/source" "$1/backend.test" ./internal/backend/remote-state/consul
    rm -rf "$1/source"
}

results() {
    (TF_CONSUL_TEST=1 env -C "$TMPDIR" "$1/backend.test" -test.v -test.timeout=20m 2>&1 || true) | go_results | sed "s#/tf-unit/[^\t]*#/tf-unit#"
}
