#!/usr/bin/env bash
# How long the hash ring takes to say who owns a key.
#
#   benches/ring.sh
#
# In Rust beside a binary search and the crate hashring, from LuaJIT beside a ring in plain Lua. Fails
# when the ring takes more than half of the binary search's time.
set -euo pipefail
cd "$(dirname "$0")/.."

module=target/lua/luajit/consul_ffi.so
rockspec/build.sh luajit "$module"
status=0
cargo bench --quiet --no-default-features --features server --bench ring || status=1
LUA_CPATH="$(dirname "$module")/?.so" luajit benches/ring.lua
exit "$status"
