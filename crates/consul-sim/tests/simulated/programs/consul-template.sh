#!/usr/bin/env bash
# The tests of consul-template: its manager, and its queries. Vault and Nomad are left out, and so are the tokens of a peering, which
# the tests make before the first one: without peering all of them would fail.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=0.41.1 least=300 installed=dependency.test

install() {
    go_source "$1" "github.com/hashicorp/consul-template@v$version"
    sed -i -e 's/nomadFuture := runTestNomad()/nomadFuture := make(chan error, 1); nomadFuture <- nil/' \
        -e '/^\trunTestVault()$/d' -e '/^\tsetupVaultPKI(clients)$/d' -e '/\ttestVault\.Stop()$/d' \
        -e 's/testClients\.createConsulPeerings(tenancy)/error(nil)/' "$1/source/dependency/dependency_test.go"
    go_tests "$1/source" "$1/dependency.test.new" ./dependency
    go_tests "$1/source" "$1/manager.test" ./manager
    mv "$1/dependency.test.new" "$1/dependency.test"
}

results() {
    local part
    for part in manager dependency; do
        (env -C "$1/source/$part" "$1/$part.test" -test.v -test.timeout=20m -test.skip='Vault|Nomad|^TestNV|^TestNewNV' 2>&1 \
            || true) | go_results | sed "s/^/$part./"
    done
}
