#!/usr/bin/env bash
# Measures writes to replicated shards on three processes.
#
#   benches/replicated.sh
#
# A write of 1,000 records is compared with the same three writes made directly to the storages, single
# writes on the memory storage with plain calls. Fails when a bound does not hold.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

LUA=luajit scripts/install-deps.sh tsdb
module=target/lua/luajit/consul_ffi.so
rockspec/build.sh luajit "$module"
cargo build --quiet --package consul-sim --bin consul-sim
sim=$(realpath "${CARGO_TARGET_DIR:-target}/debug/consul-sim")
LUA_PATH="./lua/?.lua;;" LUA_CPATH="$(dirname "$module")/?.so;;" CONSUL_BIN=$sim \
    scripts/with-consul.sh 1.21 luajit benches/replicated.lua
