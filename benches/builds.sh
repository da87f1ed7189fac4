#!/usr/bin/env bash
# Compares kv_get of the module built from another commit with the module as it is, on a stub with prepared responses:
# two processes that take turns, so that what else the machine does falls on both.
#
#   benches/builds.sh COMMIT [BOUND]
#
# ROUNDS (300) rounds of CALLS (200) calls each. Prints the median of the rounds' ratios with the quartiles, and fails if
# it is above BOUND. BEFORE and AFTER are modules that are built already.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

commit=${1:?COMMIT}
bound=${2:-0}
rounds=${ROUNDS:-300}
calls=${CALLS:-200}
folder=$(mktemp -d "${TMPDIR:-/tmp}/consul_ffi-builds.XXXXXX")
trap 'git worktree remove --force "$folder/tree" 2>/dev/null || true; rm -rf "$folder"' EXIT

mkdir "$folder/before" "$folder/after"
if [ -n "${BEFORE:-}" ]; then
    cp "$BEFORE" "$folder/before/consul_ffi.so"
else
    git worktree add --detach --quiet "$folder/tree" "$commit"
    CARGO_TARGET_DIR="$PWD/target/builds" "$folder/tree/rockspec/build.sh" luajit "$folder/before/consul_ffi.so"
fi
if [ -n "${AFTER:-}" ]; then
    cp "$AFTER" "$folder/after/consul_ffi.so"
else
    rockspec/build.sh luajit "$folder/after/consul_ffi.so"
fi

# The answer to kv_get: 100 bytes.
value=$(printf 'v%.0s' {1..100} | base64 -w0)
body='[{"LockIndex":0,"Key":"bench/key","Flags":0,"Value":"'$value'","CreateIndex":17,"ModifyIndex":17}]'
mkdir "$folder/bodies"
for name in kv kv_list health; do
    printf '%s' "$body" >"$folder/bodies/$name"
done
cc -O2 -D_GNU_SOURCE -o "$folder/stub" benches/clients/stub.c

coproc STUB { "$folder/stub" "$folder/bodies"; }
read -r port <&"${STUB[0]}"

# worker NAME IN OUT: starts a process with that module.
worker() {
    mkfifo "$folder/$1/in" "$folder/$1/out"
    LUA_CPATH="$folder/$1/?.so" luajit benches/builds.lua "http://127.0.0.1:$port" \
        <"$folder/$1/in" >"$folder/$1/out" &
}
worker before
worker after
exec 3>"$folder/before/in" 4<"$folder/before/out" 5>"$folder/after/in" 6<"$folder/after/out"

# measure TO FROM: the time of a call in that process.
measure() {
    echo "$calls" >&"$1"
    read -r measured <&"$2"
}
measure 3 4
measure 5 6
for ((round = 0; round < rounds; round++)); do
    if ((round % 2)); then
        measure 3 4 && before=$measured
        measure 5 6 && after=$measured
    else
        measure 5 6 && after=$measured
        measure 3 4 && before=$measured
    fi
    echo "$before $after"
done >"$folder/times"

# quantile PART COMMAND…: of the numbers that the command prints.
quantile() {
    local part=$1
    shift
    "$@" | sort -n | awk -v part="$part" '{ all[NR] = $1 } END { print all[int(part * (NR - 1)) + 1] }'
}
times() { awk -v field="$1" '{ print $field }' "$folder/times"; }
ratios() { awk '{ print $2 / $1 }' "$folder/times"; }

ratio=$(quantile 0.5 ratios)
echo "kv_get before: $(quantile 0.5 times 1) us, after: $(quantile 0.5 times 2) us, after by before: $ratio" \
    "(quartiles $(quantile 0.25 ratios) and $(quantile 0.75 ratios)), $rounds rounds of $calls calls"
awk -v ratio="$ratio" -v bound="$bound" 'BEGIN { exit bound > 0 && ratio > bound }'
