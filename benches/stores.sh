#!/usr/bin/env bash
# Compares the example database (examples/tsdb) with SQLite alone and with Redis: the same points.
#
#   benches/stores.sh [ROUNDS]
#
# The example runs on three processes with consul-sim, N 3, W 2 and R 2; SQLite is the example's storage in the measuring
# process, with one file; Redis has an append-only file that is synchronised before each answer, as SQLite's is. This script
# starts a Redis of its own on a socket in a temporary folder, and ends it. All files are in that folder (TMPDIR). Fails when
# a store does not return the points that were written; speeds have no bounds. Without luasql.sqlite3 nothing is compared,
# without Redis or its client Redis is not. CONSUL_SIM is a consul-sim that is built already, as the LuaJIT module is then.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

rounds=${1:-11}
module=target/lua/luajit/consul_ffi.so
if ! luajit -e 'require("luasql.sqlite3")' 2>/dev/null; then
    echo "SKIPPED: the example database, SQLite and Redis: LuaJIT has no luasql.sqlite3 (package lua-sql-sqlite3)"
    exit 0
fi
if [ -z "${CONSUL_SIM:-}" ]; then
    rockspec/build.sh luajit "$module"
    cargo build --quiet --package consul-sim --bin consul-sim
fi
sim=$(realpath "${CONSUL_SIM:-${CARGO_TARGET_DIR:-target}/debug/consul-sim}")

folder=$(mktemp -d)
redis=
benchmark=
finish() {
    for pid in $benchmark $redis; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" || true
    done
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The check in Debian's redis-tools is the server under another name; the package redis-server adds a service, which starts.
server=$(command -v redis-server || command -v redis-check-rdb || true)
socket=
if [ -z "$server" ]; then
    echo "SKIPPED: Redis: there is no redis-server (package redis-tools or redis-server)"
elif ! luajit -e 'require("redis") require("socket.unix")' 2>/dev/null; then
    echo "SKIPPED: Redis: LuaJIT has no client (package lua-redis)"
else
    ln -s "$server" "$folder/redis-server"
    socket=$folder/socket
    "$folder/redis-server" --port 0 --unixsocket "$socket" --dir "$folder" --save '' \
        --appendonly yes --appendfsync always >"$folder/redis.log" 2>&1 &
    redis=$!
    for _ in {1..100}; do
        [ ! -S "$socket" ] || break
        if ! kill -0 "$redis" 2>/dev/null; then
            cat "$folder/redis.log" >&2
            exit 1
        fi
        sleep 0.1
    done
    "$folder/redis-server" --version
fi

echo "the files are on $(stat -f -c %T "$folder"); $(nproc) processors, load $(cut -d ' ' -f 1 /proc/loadavg)"
LUA_PATH="./lua/?.lua;;" LUA_CPATH="$(dirname "$module")/?.so;;" CONSUL_BIN=$sim \
    scripts/with-consul.sh 1.21 luajit benches/stores.lua "$rounds" "$folder" "$socket" &
benchmark=$!
# In the background, because bash runs a trap only when the command in the foreground has ended.
wait "$benchmark"
