#!/usr/bin/env bash
# Builds the module for one Lua interpreter, as target/rock/consul_ffi.so; luarocks calls it.
#
#   rockspec/build.sh LUA
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "consul_ffi: $*" >&2
    exit 1
}

[ -n "${1:-}" ] || fail "no Lua interpreter was named: rockspec/build.sh LUA"
# LuaJIT calls itself Lua 5.1, but a module built for the one breaks in the other.
engine=$("$1" -e 'print(jit and "LuaJIT" or _VERSION)') || fail "the Lua interpreter $1 does not run"
case $engine in
    LuaJIT) feature=luajit ;;
    "Lua 5.1") feature=lua51 ;;
    "Lua 5.4") feature=lua54 ;;
    *) fail "$engine is not supported: use LuaJIT, Lua 5.1 or Lua 5.4" ;;
esac
command -v cargo >/dev/null || fail "building needs Rust's cargo, which is missing: https://rustup.rs"

echo "consul_ffi: building for $engine ($1)"
cargo build --release --locked --lib --no-default-features --features "$feature"
install -D -m 755 "${CARGO_TARGET_DIR:-target}/release/libconsul_ffi.so" target/rock/consul_ffi.so
