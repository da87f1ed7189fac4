#!/usr/bin/env bash
# Runs APISIX's discovery/consul and discovery/consul_kv on lua-resty-consul and on the rock in resty/, and compares what
# they say of services at each step (compare.lua). The last line is "N passed, N failed, N skipped".
#
#   tests/programs/nginx/apisix/compare.sh [CONSUL…]
#
# Each CONSUL is a consul-sim or a consul. Prints SKIPPED, and the reason, when APISIX or nginx is unavailable.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../../../.."

run=tests/programs/nginx/apisix/run.sh
source=$(scripts/apisix.sh 2>/dev/null) || { echo "SKIPPED: APISIX's discovery: $(scripts/apisix.sh 2>&1 | tail -n 1)" && exit; }
scripts/nginx.sh >/dev/null || { echo "SKIPPED: APISIX's discovery: there is no nginx" && exit; }
folder=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-apisix-compare.XXXXXX")
trap '[ -z "${APISIX_SOURCE:-}" ] || rm -rf "$source"; rm -rf "$folder"' EXIT

token=$(cat /proc/sys/kernel/random/uuid)
path="$source/apisix/?.lua;$source/apisix/?/init.lua;$source/http/?.lua"
options='"skip_services": ["hidden"], "default_service": {"host": "10.0.0.99", "port": 9999}, "weight": 5,
    "sort_type": "combine_sort", "keepalive": false, "fetch_interval": 1, "dump": {"path": "FOLDER/dump.json"}'
# A program of compare.lua, and what its module's options have besides the address.
cases=(
    "consul"
    "consul_many"
    "consul_options, $options"
    "consul_token, \"token\": \"$token\""
    "consul_wrong_token, \"token\": \"$(cat /proc/sys/kernel/random/uuid)\""
    "consul_kv"
    "consul_kv_many"
    "consul_kv_token, \"token\": \"$token\""
)

# both CASE: runs it on both clients at once; its results are in the files `original` and `ours`.
both() {
    local program=${1%%,*} more=${1#"${1%%,*}"} kind=consul pids=() status=0 pid
    [[ $program != consul_kv* ]] || kind=consul_kv
    local config="{\"discovery\": {\"$kind\": {\"servers\": [\"http://CONSUL\"]$more}}}"
    local -x PROGRAM=$program TOKEN=
    [[ $program != *_token ]] || TOKEN=$token
    FOLDER=$folder/on-original "$run" compare 1 "$config" "$path;$source/consul/?.lua" >"$folder/original" &
    pids+=($!)
    FOLDER=$folder/on-ours "$run" compare 1 "$config" "$path" >"$folder/ours" &
    pids+=($!)
    for pid in "${pids[@]}"; do wait "$pid" || status=1; done
    for name in original ours; do
        sed -n 's/.*took: \([^,]*\).*/\1/p' "$folder/on-$name/error.log" | sed "s/^/    on $name: /"
    done
    rm -rf "$folder/on-original" "$folder/on-ours"
    return "$status"
}

passed=0 failed=0
for CONSUL_PROGRAM; do
    export CONSUL_PROGRAM
    "$CONSUL_PROGRAM" version | sed -n 1p
    for case in "${cases[@]}"; do
        if both "$case" && diff "$folder/original" "$folder/ours"; then
            echo "ok: ${case%%,*}: $(wc -l <"$folder/ours") equal results"
            passed=$((passed + 1))
        else
            echo "FAILED: ${case%%,*}"
            failed=$((failed + 1))
        fi
    done
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
