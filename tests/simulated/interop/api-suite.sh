#!/usr/bin/env bash
# Runs the tests of HashiCorp's own Go client against consul-sim.
#
#   tests/simulated/interop/api-suite.sh [CONSUL]
#
# They start a `consul` from PATH for themselves, and get CONSUL there: consul-sim, built first, or
# the given program, such as a real Consul. The tests' source comes from the Go module cache and
# runs in a temporary folder. The last line says how many passed and failed.
# Exit status: 0 when all passed, 3 when Go or the module cannot be had.
set -euo pipefail
cd "$(dirname "$0")/../../.."

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
    # access control
    TestAPI_ACLPolicy_CreateReadByNameDelete TestAPI_ACLPolicy_CreateReadDelete
    TestAPI_ACLPolicy_CreateUpdate TestAPI_ACLPolicy_List TestAPI_ACLToken_Clone
    TestAPI_ACLToken_CreateReadDelete TestAPI_ACLToken_CreateUpdate TestAPI_ACLToken_List
    # the agent
    TestAPI_AgentCheckStartPassing TestAPI_AgentChecks TestAPI_AgentChecksWithFilterOpts
    TestAPI_AgentChecks_serviceBound TestAPI_AgentConnectAuthorize TestAPI_AgentConnectCARoots_empty
    TestAPI_AgentConnectCARoots_list TestAPI_AgentEnableTagOverride TestAPI_AgentForceLeave
    TestAPI_AgentForceLeaveOptions TestAPI_AgentForceLeavePrune TestAPI_AgentHealthServiceOpts
    TestAPI_AgentHost TestAPI_AgentMembers TestAPI_AgentSelf TestAPI_AgentServiceAddress
    TestAPI_AgentServiceAndReplaceChecks TestAPI_AgentServiceSocket TestAPI_AgentServices
    TestAPI_AgentServicesWithFilterOpts TestAPI_AgentServices_CheckBadStatus
    TestAPI_AgentServices_CheckID TestAPI_AgentServices_CheckPassing
    TestAPI_AgentServices_ExternalConnectProxy TestAPI_AgentServices_MultipleChecks
    TestAPI_AgentSetTTLStatus TestAPI_AgentUpdateTTLOpts TestAPI_AgentUpdateToken
    TestAPI_ConnectCARoots_empty TestAPI_NodeMaintenance TestAPI_ServiceMaintenanceOpts
    TestAgentService_ExposeChecks TestAgentService_Register_MeshGateway
    TestAgentService_Register_TerminatingGateway TestAgent_ServiceRegisterOpts_Token
    # the catalog
    TestAPI_CatalogConnect TestAPI_CatalogConnectNative TestAPI_CatalogConnect_Filter
    TestAPI_CatalogDatacenters TestAPI_CatalogEnableTagOverride TestAPI_CatalogNode
    TestAPI_CatalogNodeServiceList TestAPI_CatalogNode_Filter TestAPI_CatalogNodes
    TestAPI_CatalogNodes_Filter TestAPI_CatalogNodes_MetaFilter TestAPI_CatalogRegistration
    TestAPI_CatalogService TestAPI_CatalogServiceCached TestAPI_CatalogServiceUnmanagedProxy
    TestAPI_CatalogService_Filter TestAPI_CatalogService_MultipleTags
    TestAPI_CatalogService_NodeMetaFilter TestAPI_CatalogService_SingleTag TestAPI_CatalogServices
    TestAPI_CatalogServices_FilterExpr_NodeMeta TestAPI_CatalogServices_NodeMetaFilter
    # health
    TestAPI_HealthChecks TestAPI_HealthChecks_Filter TestAPI_HealthChecks_NodeMetaFilter
    TestAPI_HealthConnect TestAPI_HealthConnect_Filter TestAPI_HealthNode TestAPI_HealthNode_Filter
    TestAPI_HealthService TestAPI_HealthService_Filter TestAPI_HealthService_MultipleTags
    TestAPI_HealthService_NodeMetaFilter TestAPI_HealthService_SingleTag TestAPI_HealthState
    TestAPI_HealthState_Filter TestAPI_HealthState_NodeMetaFilter
    # coordinates
    TestAPI_CoordinateDatacenters TestAPI_CoordinateNode TestAPI_CoordinateNodes
    TestAPI_CoordinateUpdate
    # what all requests share
    TestAPI_Deprecated TestAPI_Headers TestAPI_RequestToHTTP TestAPI_SetQueryOptions
    TestAPI_SetWriteOptions
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
