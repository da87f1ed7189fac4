#!/usr/bin/env bash
# The tests of go-kit's service discovery by Consul, with those that ask a Consul.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=0.13.0 least=10 installed=consul.test

install() {
    go_source "$1" "github.com/go-kit/kit@v$version"
    go_tests "$1/source" "$1/consul.test" ./sd/consul -tags=integration
    rm -rf "$1/source"
}

results() {
    (CONSUL_ADDR=$CONSUL_HTTP_ADDR "$1/consul.test" -test.v 2>&1 || true) | go_results
}
