#!/usr/bin/env bash
# Measures lookups in the hash ring.
#
#   benches/ring.sh
#
# In Rust it is compared with a binary search and the crate hashring, from LuaJIT with a ring in plain
# Lua. Fails when the ring takes more than half of the binary search's time.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

module=target/lua/luajit/consul_ffi.so
rockspec/build.sh luajit "$module"
status=0
cargo bench --quiet --no-default-features --bench ring || status=1
LUA_CPATH="$(dirname "$module")/?.so" luajit benches/ring.lua
exit "$status"
