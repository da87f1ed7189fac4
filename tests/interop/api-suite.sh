#!/usr/bin/env bash
# Runs the tests of HashiCorp's own Go client against consul-sim.
#
#   tests/interop/api-suite.sh [CONSUL]
#
# They start a `consul` from PATH for themselves, and get CONSUL there: consul-sim, built first, or
# the given program, such as a real Consul. The tests' source comes from the Go module cache and
# runs in a temporary folder. The last line says how many passed and failed.
# Exit status: 0 when all passed, 3 when Go or the module cannot be had.
set -euo pipefail
cd "$(dirname "$0")/../.."

module=github.com/hashicorp/consul/api@v1.31.2
limit=10m
at_once=4 # a test mostly waits

tests=(
    # keys and values
    TestAPI_ClientPutGetDelete TestAPI_ClientList_DeleteRecurse TestAPI_ClientDeleteCAS
    TestAPI_ClientCAS TestAPI_ClientWatchGet TestAPI_ClientWatchList
    TestAPI_ClientKeys_DeleteRecurse TestAPI_ClientAcquireRelease TestAPI_KVClientTxn
    # sessions
    TestAPI_SessionCreateDestroy TestAPI_SessionCreateRenewDestroy
    TestAPI_SessionCreateRenewDestroyRenew TestAPI_SessionCreateDestroyRenewPeriodic
    TestAPI_SessionRenewPeriodic_Cancel TestAPI_SessionInfo TestAPI_SessionInfo_NoChecks
    TestAPI_SessionNode TestAPI_SessionList TestAPI_SessionNodeChecks TestAPI_SessionServiceChecks
    # locks
    TestAPI_LockLockUnlock TestAPI_LockForceInvalidate TestAPI_LockDeleteKey TestAPI_LockContend
    TestAPI_LockDestroy TestAPI_LockConflict TestAPI_LockReclaimLock TestAPI_LockMonitorRetry
    TestAPI_LockOneShot
    # semaphores
    TestAPI_SemaphoreAcquireRelease TestAPI_SemaphoreForceInvalidate TestAPI_SemaphoreDeleteKey
    TestAPI_SemaphoreContend TestAPI_SemaphoreBadLimit TestAPI_SemaphoreDestroy
    TestAPI_SemaphoreConflict TestAPI_SemaphoreMonitorRetry TestAPI_SemaphoreOneShot
    # transactions
    TestAPI_ClientTxn
    # events
    TestAPI_EventFireList
    # status
    TestAPI_StatusLeader TestAPI_StatusLeaderWithQueryOptions TestAPI_StatusPeers
    TestAPI_StatusPeersWithQueryOptions TestAPI_StatusLeader_WrongDC TestAPI_StatusPeers_WrongDC
)

cannot() {
    echo "SKIPPED: the tests of $module: $*" >&2
    exit 3
}

consul=${1:-}
if [ -z "$consul" ]; then
    cargo build --no-default-features --features server --bin consul-sim
    consul=${CARGO_TARGET_DIR:-target}/debug/consul-sim
fi
consul=$(realpath "$consul")

folder=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-api.XXXXXX")
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

command -v go >/dev/null || cannot "there is no Go"
export GOFLAGS="" GOWORK=off
said=$(cd "$folder" && go mod download -json "$module") || cannot "$said"
source=$(sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$said")
cp -r "$source" "$folder/api"
chmod -R u+w "$folder/api"
mkdir "$folder/bin"
ln -s "$consul" "$folder/bin/consul"

cd "$folder/api"
# In Consul's repository the module is next to one that it needs; here that comes from its release.
go mod edit -dropreplace=github.com/hashicorp/consul/sdk
go mod download || cannot "what the tests need cannot be had"
go test -mod=mod -c -o "$folder/suite" . || cannot "the tests do not build"

for name in "${!CONSUL_@}"; do
    unset "$name"
done
pattern=$(IFS='|' && echo "${tests[*]}")
export TMPDIR=$folder # what the servers write
status=0
PATH=$folder/bin:$PATH "$folder/suite" -test.v -test.parallel="$at_once" -test.timeout="$limit" \
    -test.run="^($pattern)\$" >"$folder/log" 2>&1 || status=$?

# count RESULT: how many tests had it; parts of a test are indented.
count() {
    grep -c "^--- $1:" "$folder/log" || true
}

passed=$(count PASS)
missing=$((${#tests[@]} - passed))
if [ "$status" -ne 0 ] || [ "$missing" -ne 0 ]; then
    cat "$folder/log"
    grep -E '^--- (FAIL|SKIP):|^panic:' "$folder/log" || true
    status=1
fi
echo "$passed passed, $missing failed or did not run, of the tests of $module"
exit "$status"
