#!/usr/bin/env bash
# Runs the tests of HashiCorp's own Go client (api and api/watch) on Consul 1.21 and on consul-sim.
#
#   crates/consul-sim/tests/simulated/interop/api-suite.sh
#
# They start a `consul` from PATH for themselves. Their source comes from the Go module cache and runs in a temporary folder.
# Each test that passes on Consul 1.21 must pass on consul-sim, unless api-suite.txt has it, with the reason. The last line has
# both numbers.
# Exit status: 0 when this holds, 3 when Go, the module or Consul cannot be had.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../../.."

module=github.com/hashicorp/consul/api@v1.31.2
limit=20m
at_once=4 # a test mostly waits

cannot() {
    echo "SKIPPED: the tests of $module: $*" >&2
    exit 3
}

real=$(scripts/consul.sh 1.21) || cannot "Consul 1.21 cannot be had"
cargo build --package consul-sim --bin consul-sim
simulated=$(realpath "${CARGO_TARGET_DIR:-target}/debug/consul-sim")

folder=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-api.XXXXXX")
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
sed -n 's/^\(Test[A-Za-z0-9_]*\) .*/\1/p' crates/consul-sim/tests/simulated/interop/api-suite.txt | sort >"$folder/listed"

command -v go >/dev/null || cannot "there is no Go"
export GOFLAGS="" GOWORK=off
said=$(cd "$folder" && go mod download -json "$module") || cannot "$said"
source=$(sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$said")
cp -r "$source" "$folder/api"
chmod -R u+w "$folder/api"

cd "$folder/api"
# In Consul's repository the module is next to one that it needs; here that comes from its release.
go mod edit -dropreplace=github.com/hashicorp/consul/sdk
go mod download || cannot "what the tests need cannot be had"
for package in . watch; do
    (cd "$package" && go test -mod=mod -c -o suite .) || cannot "the tests do not build"
done

for name in "${!CONSUL_@}"; do
    unset "$name"
done
export TMPDIR=$folder # what the servers write

# run CONSUL NAME PATTERN EXCEPT: the tests of one pattern and not of the other on this Consul, in NAME.log; those that passed in
# NAME.passed.
run() {
    mkdir -p "$folder/$2"
    ln -sfn "$1" "$folder/$2/consul"
    for package in . watch; do
        (cd "$package" && PATH=$folder/$2:$PATH ./suite -test.v -test.parallel="$at_once" -test.timeout="$limit" \
            -test.run="$3" -test.skip="$4") || true
    done >"$folder/$2.log" 2>&1
    sed -n 's/^--- PASS: \(Test[A-Za-z0-9_]*\) .*/\1/p' "$folder/$2.log" | sort >"$folder/$2.passed"
}

run "$real" real . '^$'
run "$simulated" simulated . "^($(paste -sd '|' "$folder/listed"))\$"
comm -23 "$folder/real.passed" "$folder/simulated.passed" | comm -23 - "$folder/listed" >"$folder/failed"
if [ -s "$folder/failed" ]; then
    echo "again, one at a time: $(paste -sd ' ' "$folder/failed")"
    at_once=1
    run "$simulated" again "^($(paste -sd '|' "$folder/failed"))\$" '^$'
    sort "$folder/simulated.passed" "$folder/again.passed" >"$folder/both"
    mv "$folder/both" "$folder/simulated.passed"
fi

status=0
comm -23 "$folder/real.passed" "$folder/simulated.passed" | comm -23 - "$folder/listed" >"$folder/failed"
if [ -s "$folder/failed" ]; then
    cat "$folder/again.log"
    echo "fail on consul-sim: $(paste -sd ' ' "$folder/failed")"
    status=1
fi
passed=$(wc -l <"$folder/real.passed")
both=$(comm -12 "$folder/real.passed" "$folder/simulated.passed" | wc -l)
if [ "$passed" -lt 200 ]; then
    grep -E '^--- FAIL:|^panic:' "$folder/real.log" || true
    echo "too few tests pass on Consul 1.21"
    status=1
fi
echo "of $passed tests of $module that pass on Consul 1.21, $both pass on consul-sim"
exit "$status"
